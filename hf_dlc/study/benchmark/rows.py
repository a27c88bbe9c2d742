"""Rows of the benchmark: encoded, repeated, drawn, and how much of them they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from hf_dlc.tasks.text.encoding import Encoding, RowEncoder


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

_ENCODED_AT_ONCE = 1000


def encode(tokenizer: PreTrainedTokenizerBase, dataset: Dataset, template: str) -> Iterator[Encoding]:
    """Encode rows as hf_dlc does."""
    encoder = RowEncoder(tokenizer, template=template)
    for start in range(0, len(dataset), _ENCODED_AT_ONCE):
        part = dataset.select(range(start, min(start + _ENCODED_AT_ONCE, len(dataset))))
        yield from encoder.encode(part.to_list())


def span_of(row: Encoding) -> slice | None:
    """Where the target tokens stand, if they stand together."""
    places = np.flatnonzero(row.targets)
    return slice(int(places[0]), int(places[-1]) + 1) if places[-1] - places[0] + 1 == len(places) else None


def shared_head(rows: Sequence[Sequence[int]]) -> float:
    """Share of the tokens that stand in a beginning which another row has too. Sorted, such rows are neighbours."""
    rows = sorted(map(list, rows))
    heads = [common_head(*pair) for pair in pairwise(rows)]
    shared = [max(neighbours) for neighbours in zip([0, *heads], [*heads, 0], strict=True)]
    return sum(shared) / sum(map(len, rows))


def common_head(left: Sequence[int], right: Sequence[int]) -> int:
    """Number of first tokens that are the same."""
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def repeated(dataset: Dataset, count: int) -> Dataset:
    """The first rows, from the beginning again if there are too few."""
    return dataset.select([i % len(dataset) for i in range(count)])


def one_of_each(size: int, lengths: Sequence[int]) -> list[int]:
    """
    One row, at random, of each `size` rows that are next to each other in length.

    A plain random choice would have rows that are longer or shorter by a few percent on average, which is as much as
    the difference that is looked for.
    """
    order = np.argsort(lengths, kind="stable")[: len(lengths) // size * size].reshape(-1, size)
    drawn = np.random.default_rng(0).integers(size, size=len(order))
    return sorted(order[np.arange(len(order)), drawn].tolist())
