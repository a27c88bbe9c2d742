"""Semantic duplicates: rows of vectors in nearly the same direction."""

from __future__ import annotations

import numpy as np


_ROUNDING = 1e-6  # of a cosine in float32

# Vectors that are compared at once: this many rows with this many of those that are kept.
_BLOCK, _KEPT_AT_ONCE = 1024, 4096


class Semantic:
    """Rows of vectors in nearly the same direction, compared with all kept rows, a block of rows at a time."""

    def __init__(self, vectors: np.ndarray, least: float) -> None:
        self.comparable = np.zeros(len(vectors), dtype=bool)  # as far as blocks have been looked at
        self._vectors, self._least = vectors, least - _ROUNDING
        self._kept: list[int] = []
        self._block = -1

    def find(self, row: int) -> int:
        block, place = divmod(row, _BLOCK)
        if block != self._block:
            self._begin(block)
        if not self.comparable[row]:
            return -1
        if self._earlier[place] >= 0:
            return int(self._earlier[place])
        alike = self._is_kept & self._alike[place]
        return block * _BLOCK + int(alike.argmax()) if alike.any() else -1

    def keep(self, row: int) -> None:
        if self.comparable[row]:
            self._kept.append(row)
            self._is_kept[row % _BLOCK] = True

    def _begin(self, block: int) -> None:
        """Compare the rows of a block with each other, and with all that are kept before them."""
        rows = slice(block * _BLOCK, (block + 1) * _BLOCK)
        unit, self.comparable[rows] = _directions(self._vectors[rows])
        self._block, self._is_kept = block, np.zeros(len(unit), dtype=bool)
        self._alike = unit @ unit.T >= self._least
        self._earlier = np.full(len(unit), -1, dtype=np.int64)
        for start in range(0, len(self._kept), _KEPT_AT_ONCE):
            kept = np.array(self._kept[start : start + _KEPT_AT_ONCE])
            left = np.flatnonzero(self._earlier < 0)
            alike = unit[left] @ _directions(self._vectors[kept])[0].T >= self._least
            found = alike.any(axis=1)
            self._earlier[left[found]] = kept[alike[found].argmax(axis=1)]


def _directions(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The vectors at length 1 in float32, and a mask of those that have a direction; the others are 0."""
    largest = np.abs(vectors).max(axis=1, keepdims=True)  # taken out first, so that no square is too large
    has_direction = (np.isfinite(largest) & (largest > 0))[:, 0]
    unit = np.zeros(vectors.shape, dtype=np.float32)
    unit[has_direction] = vectors[has_direction] / largest[has_direction]
    unit[has_direction] /= np.linalg.norm(unit[has_direction], axis=1, keepdims=True)
    return unit, has_direction
