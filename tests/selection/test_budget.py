from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_dlc.selection.budget import share_out, share_out_at_least, tokens_to_keep, walk, water_fill


@pytest.mark.parametrize("keep_tokens", [0.5, 100.0, True, "7"])
def test_keep_tokens_of_wrong_type_is_refused(keep_tokens: object) -> None:
    with pytest.raises(TypeError, match="keep_tokens must be an int"):
        tokens_to_keep(keep_tokens)


def test_keep_tokens_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="keep_tokens must be at least 1, got 0"):
        tokens_to_keep(0)


def test_share_out_by_hand() -> None:
    assert share_out(10, [1, 1, 1], [10, 10, 10]) == [4, 3, 3]  # equal remainders: the earlier group
    assert share_out(7, [50, 30, 20], [50, 30, 20]) == [4, 2, 1]  # 3.5, 2.1, 1.4
    assert share_out(10, [5, 5], [2, 100]) == [2, 8]  # what the first cannot take goes on
    assert share_out(2, [1, 1, 1, 1], [1, 1, 1, 1]) == [1, 1, 0, 0]  # fewer units than groups
    assert share_out(3, [4, 4], [0, 3]) == [0, 3]
    assert share_out(10**18, [10**18, 10**18], [10**18, 10**18]) == [5 * 10**17] * 2  # no 64-bit overflow
    assert share_out(1, [0, 5], [1, 1]) == [0, 1]
    assert share_out(4, [0, 5, 0], [6, 1, 3]) == [2, 1, 1]  # what no group with a weight can take
    assert share_out(0, [0, 0], [1, 0]) == [0, 0]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=1, max_size=6), st.data())
def test_groups_without_a_weight_come_last(weights_and_caps: list[tuple[int, int]], data: st.DataObject) -> None:
    weights, caps = zip(*weights_and_caps, strict=True)
    budget = data.draw(st.integers(0, sum(caps)))
    quotas = share_out(budget, weights, caps)
    assert sum(quotas) == budget
    assert all(0 <= quota <= cap for quota, cap in zip(quotas, caps, strict=True))
    weighed = sum(cap for weight, cap in weights_and_caps if weight)
    assert sum(quota for quota, weight in zip(quotas, weights, strict=True) if not weight) == max(0, budget - weighed)


def water_level(budget: int, weights: list[int], caps: list[int]) -> Fraction:
    """The rate at which `min(cap, rate * weight)` adds up to the budget, found at its break points."""
    points = sorted({Fraction(cap, weight) for cap, weight in zip(caps, weights, strict=True)})
    low = Fraction(0)
    for high in points:
        if sum(min(Fraction(cap), high * weight) for cap, weight in zip(caps, weights, strict=True)) >= budget:
            break
        low = high
    full = sum(cap for cap, weight in zip(caps, weights, strict=True) if Fraction(cap, weight) <= low)
    rising = sum(weight for cap, weight in zip(caps, weights, strict=True) if Fraction(cap, weight) > low)
    return (budget - full) / Fraction(rising) if rising else low


@given(st.data())
def test_share_out_is_largest_remainder(data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=8))
    caps = [data.draw(st.integers(0, weight)) for weight in weights]
    budget = data.draw(st.integers(0, sum(caps)))
    quotas = share_out(budget, weights, caps)
    assert sum(quotas) == budget
    rate = water_level(budget, weights, caps)
    ideal = [min(Fraction(cap), rate * weight) for cap, weight in zip(caps, weights, strict=True)]
    rounded_up, rounded_down = [], []
    for quota, share, cap in zip(quotas, ideal, caps, strict=True):
        assert quota <= cap
        assert abs(quota - share) < 1
        if share.denominator > 1:
            (rounded_up if quota > share else rounded_down).append(share - share.numerator // share.denominator)
    assert min(rounded_up, default=1) >= max(rounded_down, default=0)


def test_share_out_at_least_by_hand() -> None:
    assert share_out_at_least(10, [98, 1, 1], [98, 1, 1], 1) == [8, 1, 1]
    assert share_out_at_least(10, [90, 6, 4], [90, 6, 4], 2) == [6, 2, 2]
    assert share_out_at_least(5, [90, 6, 4], [90, 6, 0], 2) == [3, 2, 0]
    assert share_out_at_least(4, [5, 5], [5, 1], 2) == [3, 1]


@given(st.data())
def test_share_out_at_least_raises_no_more_than_it_must(data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=8))
    caps, least = [data.draw(st.integers(0, weight)) for weight in weights], data.draw(st.integers(0, 5))
    floors = [min(least, cap) for cap in caps]
    budget = data.draw(st.integers(sum(floors), sum(caps)))
    quotas = share_out_at_least(budget, weights, caps, least)
    assert sum(quotas) == budget
    assert all(floor <= quota <= cap for floor, quota, cap in zip(floors, quotas, caps, strict=True))
    plain = share_out(budget, weights, caps)
    if all(quota >= floor for quota, floor in zip(plain, floors, strict=True)):
        assert quotas == plain
    for quota, floor, share in zip(quotas, floors, plain, strict=True):
        assert quota <= max(floor, share + 1)  # who is raised takes from the others


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(0, 400))
def test_walk_takes_each_row_that_still_fits(costs: list[int], budget: int) -> None:
    expected = []
    for position, cost in enumerate(costs):
        if cost <= budget:
            expected.append(position)
            budget -= cost
    assert walk(np.array(costs, dtype=np.int64), sum(costs[i] for i in expected) + budget).tolist() == expected


def test_water_fill_by_hand() -> None:
    assert water_fill(10, [30]) == [10]
    assert water_fill(10, [50, 50]) == [5, 5]
    assert water_fill(10, [2, 50]) == [2, 8]
    assert water_fill(10, [50, 2]) == [8, 2]
    assert water_fill(10, [5, 5]) == [5, 5]
    assert [water_fill(n, [9, 9]) for n in (1, 3, 5)] == [[0, 1], [2, 1], [2, 3]]  # 0.5, 1.5, 2.5 to even
