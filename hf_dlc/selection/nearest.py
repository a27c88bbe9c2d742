"""Rows that are nearest to wanted rows: an exact search in bounded memory, and wanted rows that take turns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from .vectors import unit_vectors


# Similarities at once; a block of rows for all wanted ones has at most so many.
_AT_ONCE = 2**22
_MOST_ROWS = 2**16
_MOST_PAIRS = 2**14

# Similarities are compared in steps of 2**-20: what is finer depends on the block that a row stands in.
_STEPS = 2**20

_FIRST_SEARCH = 64  # rows more than each wanted row needs if no other takes one of them


class Block(NamedTuple):
    """Similarities of some wanted rows with some rows of the pool."""

    wanted: slice
    rows: slice
    similarities: np.ndarray  # float32 in [-1, 1], of shape (wanted, rows)


class Similarity(Protocol):
    """What compares the rows of a pool with wanted rows."""

    rows: int  # of the pool
    wanted: int

    def blocks(self) -> Iterator[Block]:
        """All similarities, some at a time."""

    def of_pairs(self, wanted: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Similarity of each of some wanted rows with a row of the pool, float32 of shape `(pairs,)`."""


class VectorSimilarity:
    """
    Cosine of vectors, or their inner product.

    Args:
        pool (`np.ndarray` of shape `(rows, size)`):
            Vectors of the pool, in memory or in a mapped file.
        wanted (`np.ndarray` of shape `(wanted, size)`):
            Vectors of the wanted rows.
        is_cosine (`bool`, *optional*, defaults to `True`):
            Whether vectors are divided by their lengths; inner products are divided by the greatest that there could
            be, so that they lie in [-1, 1] as well.
    """

    def __init__(self, pool: np.ndarray, wanted: np.ndarray, is_cosine: bool = True) -> None:
        self.rows, self.wanted = len(pool), len(wanted)
        self._pool, self._is_cosine = pool, is_cosine
        self._wanted = unit_vectors(np.asarray(wanted))
        self._longest = 1.0 if is_cosine else self._greatest_length()

    def blocks(self) -> Iterator[Block]:
        """All similarities, some rows of the pool at a time."""
        for rows in self._slices():
            yield Block(slice(0, self.wanted), rows, self._compare(self._pool[rows]))

    def of_pairs(self, wanted: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Similarity of each of some wanted rows with a row of the pool."""
        parts = [slice(start, start + _MOST_PAIRS) for start in range(0, len(rows), _MOST_PAIRS)]
        found = [
            np.einsum("ij,ij->i", self._wanted[wanted[part]], self._scaled(self._pool[rows[part]])) for part in parts
        ]
        return np.concatenate([np.empty(0, dtype=np.float32), *found])

    def _slices(self) -> Iterator[slice]:
        step = min(_MOST_ROWS, max(256, _AT_ONCE // self.wanted))
        return (slice(start, min(start + step, self.rows)) for start in range(0, self.rows, step))

    def _compare(self, vectors: np.ndarray) -> np.ndarray:
        return self._wanted @ self._scaled(vectors).T

    def _scaled(self, vectors: np.ndarray) -> np.ndarray:
        return unit_vectors(vectors) if self._is_cosine else vectors.astype(np.float32) / np.float32(self._longest)

    def _greatest_length(self) -> float:
        greatest = 0.0
        for rows in self._slices():
            wide = self._pool[rows].astype(np.float64)
            lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))
            greatest = max(greatest, np.nanmax(lengths, initial=0.0))  # NaN, of skipped rows, is no length
        return greatest or 1.0


def take_turns(similarity: Similarity, count: int, available: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Rows in the order in which wanted rows take them: each in turn its nearest row that is not taken yet.

    It holds a number for each wanted row and each row that this one may come to. That is about as many numbers as rows
    are taken, and up to `wanted` times as many where the wanted rows are near to the same rows.

    Ties go to the smaller row number. A longer order begins with a shorter one.

    Args:
        similarity ([`Similarity`]):
            What compares rows.
        count (`int`):
            How many rows are taken.
        available (`np.ndarray` of shape `(rows,)`):
            Mask of the rows that may be taken.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Row numbers, and the number of the wanted row that took each, int64.
    """
    most = int(np.count_nonzero(available))
    count = min(count, most)
    depth = min(most, -(-count // similarity.wanted) + _FIRST_SEARCH)
    while True:
        order = _take_turns(nearest_rows(similarity, depth, available), count, similarity.rows)
        if len(order) == count:
            return order, np.arange(count) % similarity.wanted
        depth = min(most, 2 * depth)  # a wanted row has found all of its nearest ones taken


def nearest_rows(similarity: Similarity, depth: int, available: np.ndarray) -> np.ndarray:
    """
    Find the nearest rows of each wanted row, nearest first, ties by row number.

    Args:
        similarity ([`Similarity`]):
            What compares rows.
        depth (`int`):
            How many rows are found, at most as many as are available.
        available (`np.ndarray` of shape `(rows,)`):
            Mask of the rows that may be found.

    Returns:
        `np.ndarray` of shape `(wanted, depth)`: row numbers, int32.
    """
    found = np.full((similarity.wanted, depth), np.iinfo(np.int64).max)
    for block in similarity.blocks():
        rows = np.flatnonzero(available[block.rows]) + block.rows.start
        keys = _keys(block.similarities[:, rows - block.rows.start], rows)
        best = np.concatenate([found[block.wanted], keys], axis=1)
        found[block.wanted] = np.partition(best, depth - 1, axis=1)[:, :depth]
    found.sort(axis=1)
    return (found & 0xFFFFFFFF).astype(np.int32)


def _keys(similarities: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Whole numbers that sort nearest first, ties by row: the similarity in the upper half, the row in the lower."""
    steps = np.rint(similarities * _STEPS).astype(np.int64)
    return (-steps << 32) | rows


def _take_turns(nearest: np.ndarray, count: int, rows: int) -> np.ndarray:
    """The order, shorter than `count` where a wanted row comes to the end of what was found for it."""
    taken, order = np.zeros(rows, dtype=bool), []
    places = [iter(found) for found in nearest]  # no lists: they would take ten times the memory
    while len(order) < count:
        for queue in places[: count - len(order)]:
            row = next((row for row in queue if not taken[row]), None)
            if row is None:
                return np.array(order, dtype=np.int64)
            taken[row] = True
            order.append(row)
    return np.array(order, dtype=np.int64)
