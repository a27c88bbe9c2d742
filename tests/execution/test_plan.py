from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_dlc.execution.plan import MicroBatch, cut_again, cut_batches, deal


LENGTHS = st.lists(st.integers(0, 60), max_size=50)


def cut(lengths: list[int], budget: int) -> list[tuple[list[int], int]]:
    batches = cut_batches(np.array(lengths, dtype=np.int64), budget)
    return [(batch.rows.tolist(), batch.padded_tokens) for batch in batches]


@pytest.mark.parametrize(
    ("lengths", "budget", "expected"),
    [
        ([], 10, []),
        ([0, 0], 10, []),
        ([5], 10, [([0], 5)]),
        ([30, 90, 0, 31], 100, [([1], 90), ([3, 0], 62)]),
        ([5, 5, 4, 4, 4], 32, [([0, 1, 2, 3], 20), ([4], 4)]),  # padding of a 16th of the budget, and no more
        ([5, 5, 5], 10, [([0, 1], 10), ([2], 5)]),  # equal lengths in the order of the rows
        ([5, 5, 5], 9, [([0], 5), ([1], 5), ([2], 5)]),
        ([2, 40, 2], 10, [([1], 40), ([0, 2], 4)]),  # a row over the budget goes alone
        ([1, 2, 3], 1, [([2], 3), ([1], 2), ([0], 1)]),
    ],
)
def test_cut(lengths: list[int], budget: int, expected: list[tuple[list[int], int]]) -> None:
    assert cut(lengths, budget) == expected


@pytest.mark.parametrize(
    ("overhead", "sizes"), [(0, [1, 2, 2]), (3, [1, 4]), (4, [2, 3]), (None, [1, 4]), (8, [3, 2]), (18, [5])]
)
def test_no_more_padding_than_another_micro_batch_would_cost(overhead: int | None, sizes: list[int]) -> None:
    batches = cut_batches(np.array([9, 5, 5, 4, 4]), 45, overhead=overhead)
    assert [len(batch.rows) for batch in batches] == sizes


@given(lengths=LENGTHS, budget=st.integers(1, 200))
def test_every_row_once_within_the_budget_longest_first(lengths: list[int], budget: int) -> None:
    batches = cut(lengths, budget)
    order = [row for rows, _ in batches for row in rows]
    assert sorted(order) == [row for row, length in enumerate(lengths) if length > 0]
    assert [lengths[row] for row in order] == sorted(filter(None, lengths), reverse=True)
    for rows, padded in batches:
        assert padded == len(rows) * max(lengths[row] for row in rows)
        assert padded <= budget or len(rows) == 1


@pytest.mark.parametrize(
    ("costs", "processes", "expected"),
    [
        ([], 2, [[], []]),
        ([4, 3, 2, 1], 1, [[0, 1, 2, 3]]),
        ([4, 3, 2, 1], 2, [[0, 3], [1, 2]]),
        ([1, 2, 3, 4], 2, [[0, 3], [1, 2]]),
        ([5, 5, 5, 5], 2, [[0, 2], [1, 3]]),
        ([9, 1, 1, 1], 2, [[0], [1, 2, 3]]),
        ([7], 3, [[0], [], []]),
    ],
)
def test_deal(costs: list[int], processes: int, expected: list[list[int]]) -> None:
    batches = [MicroBatch(np.array([row]), np.array([cost])) for row, cost in enumerate(costs)]
    assert [[int(batch.rows[0]) for batch in share] for share in deal(batches, processes)] == expected


@given(lengths=LENGTHS, processes=st.integers(1, 9))
def test_shares_hold_everything_once_and_are_even(lengths: list[int], processes: int) -> None:
    batches = cut_batches(np.array(lengths, dtype=np.int64), 64)
    shares = deal(batches, processes)
    assert len(shares) == processes
    places = [[next(i for i, batch in enumerate(batches) if batch is mine) for mine in share] for share in shares]
    assert sorted(place for share in places for place in share) == list(range(len(batches)))
    assert all(share == sorted(share) for share in places)
    loads = [sum(batch.padded_tokens for batch in share) for share in shares]
    # Dealt to whoever has least, no two differ by more than the dearest piece.
    assert max(loads) - min(loads) <= max((batch.padded_tokens for batch in batches), default=0)


@given(lengths=LENGTHS, budget=st.integers(1, 200), heads=st.lists(st.integers(0, 2), min_size=50, max_size=50))
def test_only_rows_with_the_same_shared_head_go_together(lengths: list[int], budget: int, heads: list[int]) -> None:
    given_lengths, of_row = np.array(lengths, dtype=np.int64), np.array(heads[: len(lengths)], np.int64)
    batches = cut_batches(given_lengths, budget, of_row)
    assert all((of_row[batch.rows] == batch.shared_head).all() for batch in batches)
    rows = np.concatenate([np.empty(0, np.int64), *[batch.rows for batch in batches]])
    assert sorted(rows.tolist()) == np.flatnonzero(given_lengths).tolist()
    longest = [int(batch.lengths[0]) for batch in batches]
    assert longest == sorted(longest, reverse=True)  # whatever their shared head


@given(lengths=LENGTHS, budget=st.integers(1, 200), smaller=st.integers(1, 200))
def test_cutting_again_keeps_every_row_in_order_under_the_smaller_budget(
    lengths: list[int], budget: int, smaller: int
) -> None:
    for batch in cut_batches(np.array(lengths, dtype=np.int64), budget):
        parts = cut_again(batch, smaller)
        assert np.concatenate([part.rows for part in parts]).tolist() == batch.rows.tolist()
        assert np.concatenate([part.lengths for part in parts]).tolist() == batch.lengths.tolist()
        assert all(part.padded_tokens <= smaller or len(part.rows) == 1 for part in parts)
        assert len(parts) == 1 or batch.padded_tokens > smaller


def test_rows_of_different_groups_never_go_together() -> None:
    lengths, groups = np.array([8, 8, 0, 16, 8, 16, 8]), np.array([0, 1, 0, 0, -1, 1, 0])
    batches = cut_batches(lengths, 1000, groups=groups, overhead=1000)
    assert [batch.rows.tolist() for batch in batches] == [[3, 0, 6], [5, 1], [4]]
    heads = np.array([1, 0, 0, 1, 0, 0, 0])
    batches = cut_batches(lengths, 1000, heads, overhead=1000, groups=groups)
    cut = [(batch.rows.tolist(), batch.shared_head) for batch in batches]
    assert cut == [([5, 1], 0), ([3, 0], 1), ([4], 0), ([6], 0)]


def test_no_rows() -> None:
    assert cut_batches(np.zeros(3, dtype=np.int64), 100) == cut_batches(np.zeros(0, dtype=np.int64), 100) == []
