"""What is asked of many encoded rows at once, as arrays, and rows that are looked up when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xxhash


if TYPE_CHECKING:
    from .base import EncodedRow


class RowFacts(NamedTuple):
    """Properties of [`EncodedRow`], each as an array of shape `(rows,)`."""

    lengths: np.ndarray  # int64, as are the next three
    target_tokens: np.ndarray
    shared_heads: np.ndarray
    shared_head_lengths: np.ndarray
    statuses: np.ndarray  # objects

    @property
    def longest(self) -> int:
        """Tokens of the longest row; 0 where there is none."""
        return int(self.lengths.max(initial=0))


def facts_of(rows: Sequence[EncodedRow]) -> RowFacts:
    """
    The facts of rows; of a sequence that has them as `facts` nothing else is read.

    Example:
    ```python
    >>> from hf_dlc.tasks.text.encoding import Encoding
    >>> import numpy as np
    >>> facts_of([Encoding(np.arange(3, dtype=np.int32), np.array([False, True, True]), "ok")]).target_tokens
    array([2])
    ```
    """
    known = getattr(rows, "facts", None)
    if known is not None:
        return known
    numbers = [(row.length, row.target_tokens, row.shared_head, row.shared_head_length) for row in rows]
    statuses = np.array([row.status for row in rows], dtype=object)
    return RowFacts(*np.array(numbers, dtype=np.int64).reshape(-1, 4).T, statuses)


def joined_facts(parts: Sequence[RowFacts]) -> RowFacts:
    """The facts of several sequences of rows, one behind the other."""
    return RowFacts(*map(np.concatenate, zip(*parts, strict=True))) if parts else facts_of([])


def rows_digest(rows: Sequence[EncodedRow]) -> str:
    """Hex digest of encoded rows, in order: what is scored, and which of its tokens count."""
    hasher = xxhash.xxh3_128()
    for row in rows:
        hasher.update(f"{row.status} {row.length} ".encode())
        for values in row.arrays:
            hasher.update(np.ascontiguousarray(values))
    return hasher.hexdigest()


class ChosenRows(Sequence):
    """
    Some of many rows, looked up when they are asked for: to list a million of them would take much memory.

    Args:
        rows (`Sequence[EncodedRow]`):
            All rows.
        places (`np.ndarray` of shape `(chosen,)`):
            Which of them, in which order.
    """

    def __init__(self, rows: Sequence[EncodedRow], places: np.ndarray) -> None:
        self._rows, self._places = rows, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: int) -> EncodedRow:
        return self._rows[int(self._places[place])]
