"""Encoded rows of text as a few long arrays: a million rows take the memory of their tokens, and no more."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import NamedTuple, overload

import numpy as np

from hf_dlc.tasks.facts import RowFacts, facts_of, joined_facts

from .encoding import Encoding


ROWS_PER_BLOCK = 10_000


class Block(NamedTuple):
    """Rows that stand in the same arrays, which may be those of a mapped file."""

    input_ids: np.ndarray  # (tokens,) int32, of all rows
    targets: np.ndarray  # (tokens,) bool
    ends: np.ndarray  # (rows,) int64: where the tokens of each row end
    facts: RowFacts
    whys: Mapping[int, str]  # of skipped rows, by their place in the block

    def row(self, place: int) -> Encoding:
        """A row, whose arrays are parts of these."""
        end = int(self.ends[place])
        tokens = slice(end - int(self.facts.lengths[place]), end)
        return Encoding(
            self.input_ids[tokens],
            self.targets[tokens],
            self.facts.statuses[place],
            int(self.facts.shared_heads[place]),
            int(self.facts.shared_head_lengths[place]),
            self.whys.get(place, ""),
        )


def block_of(rows: Sequence[Encoding]) -> Block:
    """The same rows in arrays of their own."""
    facts = facts_of(rows)
    empty = np.empty(0, np.int32), np.empty(0, bool)
    ids, targets = (
        np.concatenate([none, *(getattr(row, name) for row in rows)])
        for name, none in zip(("input_ids", "targets"), empty, strict=True)
    )
    whys = {place: row.why for place, row in enumerate(rows) if row.why}
    return Block(ids, targets, np.cumsum(facts.lengths), facts, whys)


class PackedRows(Sequence):
    """
    Encoded rows in blocks. A row is made when it is asked for; what is asked of all rows at once stands in `facts`.

    Args:
        blocks (`Iterable[Block]`):
            The rows, in order; those without a row are left out of the attribute of that name.

    Example:
    ```python
    >>> rows = packed([Encoding(np.arange(3, dtype=np.int32), np.array([False, True, True]), "ok")])
    >>> len(rows), rows[0].length, rows.facts.target_tokens
    (1, 3, array([2]))
    ```
    """

    def __init__(self, blocks: Iterable[Block]) -> None:
        self.blocks = [block for block in blocks if len(block.ends)]
        self._starts = [0, *np.cumsum([len(block.ends) for block in self.blocks]).tolist()]

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, place: int) -> Encoding: ...
    @overload
    def __getitem__(self, place: slice) -> list[Encoding]: ...
    def __getitem__(self, place: int | slice) -> Encoding | list[Encoding]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        place = range(len(self))[place]  # which counts from the end too, and raises where there is no such row
        block = bisect_right(self._starts, place) - 1
        return self.blocks[block].row(place - self._starts[block])

    def __iter__(self) -> Iterator[Encoding]:
        return (block.row(place) for block in self.blocks for place in range(len(block.ends)))

    def __add__(self, others: PackedRows) -> PackedRows:
        return PackedRows([*self.blocks, *others.blocks])

    @cached_property
    def facts(self) -> RowFacts:
        """The facts of all rows."""
        return joined_facts([block.facts for block in self.blocks])


def packed(rows: Iterable[Encoding]) -> PackedRows:
    """Rows in blocks; of rows that are made one by one, no more than those of a block are there at once."""
    left = iter(rows)
    return PackedRows(block_of(some) for some in iter(lambda: list(islice(left, ROWS_PER_BLOCK)), []))
