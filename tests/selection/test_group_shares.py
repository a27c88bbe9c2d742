"""Parts of groups, duplicates, and why a row is left out: what all selectors have in common."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, Features, LargeList, List, Sequence, Value
from hypothesis import given
from hypothesis import strategies as st

from hf_dlc.selection import FlexRandSelector, RandomSelector, TopKSelector
from hf_dlc.selection.vectors import made_by, read_vectors


GROUPS = ["a"] * 10 + ["b"] * 3 + ["c"] * 1
SCORES = np.linspace(0, 1, 14)


def counts(selector: Any, groups: list = GROUPS, **more: Any) -> dict:
    found = selector.get_indices(np.linspace(0, 1, len(groups)), groups, **more)
    return dict(sorted(Counter(np.array(groups, dtype=object)[found]).items()))


@pytest.mark.parametrize("make", [FlexRandSelector, RandomSelector, TopKSelector])
def test_parts_by_hand(make: Any) -> None:
    def parts(keep: int, shares: Any) -> dict:
        return counts(make(keep=keep, group_by="g", group_shares=shares))

    assert parts(7, "proportional") == {"a": 5, "b": 2}  # 5, 1.5 and 0.5: of equal remainders the first gets the row
    assert parts(3, "equal") == {"a": 1, "b": 1, "c": 1}
    assert parts(6, "equal") == {"a": 3, "b": 2, "c": 1}  # c gives what it has, the others share the rest
    assert parts(12, "equal") == {"a": 8, "b": 3, "c": 1}
    assert parts(4, {"a": 0.25, "b": 0.75}) == {"a": 1, "b": 3}
    assert parts(8, {"a": 0.25, "b": 0.75}) == {"a": 5, "b": 3}
    assert parts(10, {"a": 0.9, "c": 0.1}) == {"a": 9, "c": 1}


def fair_parts(budget: int, weights: list[int], caps: list[int]) -> list[float]:
    """Parts in proportion to the weights, none above its cap, that add up to the budget; by bisection."""
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        total = sum(min(cap, middle * weight) for cap, weight in zip(caps, weights, strict=True))
        low, high = (middle, high) if total < budget else (low, middle)
    return [min(cap, high * weight) for cap, weight in zip(caps, weights, strict=True)]


@given(data=st.data())
def test_parts_are_within_one_row_of_fair_ones(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
    groups = [f"g{g}" for g, size in enumerate(sizes) for _ in range(size)]
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(sizes), max_size=len(sizes)))
    keep = data.draw(st.integers(1, len(groups)))
    shares = {f"g{g}": weight / sum(weights) for g, weight in enumerate(weights)}
    found = counts(RandomSelector(keep=keep, group_by="g", group_shares=shares), groups)
    given = [found.get(f"g{g}", 0) for g in range(len(sizes))]
    fair = fair_parts(keep, weights, sizes)
    assert sum(given) == keep
    assert all(abs(one - other) < 1 + 1e-6 for one, other in zip(given, fair, strict=True))


def test_parts_in_tokens() -> None:
    tokens = [1] * 10 + [10] * 3 + [4]
    found = FlexRandSelector(keep_tokens=20, group_by="g", group_shares="equal").get_indices(SCORES, GROUPS, tokens)
    spent = Counter()
    for row in found:
        spent[GROUPS[row]] += tokens[row]
    # 6.7 each; c gives its 4, the others get 8 each, into which no row of b fits: the rest goes to what is left of a.
    assert spent == {"a": 10, "c": 4}


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ("fair", "group_shares must be 'proportional', 'equal' or a dict from group keys to shares, got 'fair'"),
        ({"a": 0.5}, r"group_shares must add up to 1, got 0\.5"),
        ({"a": 1.5, "b": -0.5}, r"the share of a group must be a number from 0 to 1, got 1\.5 for 'a'"),
        ({"a": 0.5, "z": 0.5}, "must name groups that are there, got z; there are a, b, c"),
        ({"b": 0.5, "c": 0.5}, "gives a share can give 4 of the 9 that are asked for"),
        ({}, "must add up to 1, got 0"),
    ],
)
def test_shares_that_cannot_be(shares: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomSelector(keep=9, group_by="g", group_shares=shares).get_indices(SCORES, GROUPS)


def test_shares_need_groups_that_can_be_told_apart() -> None:
    with pytest.raises(ValueError, match="group_shares='equal' needs groups"):
        RandomSelector(keep=2, group_shares="equal").get_indices(SCORES)
    with pytest.raises(ValueError, match="cannot tell groups apart"):
        RandomSelector(keep=1, group_by="g", group_shares={"1": 1.0}).get_indices([0.1, 0.2], [1, "1"])
    assert counts(RandomSelector(keep=1, group_by="g", group_shares={2: 1.0}), [1, 1, 2]) == {2: 1}


def test_duplicates_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    rows = Dataset.from_dict({"dlc_confidence": SCORES, "dup_of": [-1, 0, None, *[-1] * 11]})
    with caplog.at_level(logging.INFO, "hf_dlc"):
        found = TopKSelector(keep=13, which="hardest", drop_duplicates=True).select(rows)
    assert found.indices.tolist() == [0, *range(2, 14)]
    assert found.reasons[1] == "duplicate"
    assert "1 of 14 rows are left out: duplicate" in caplog.text
    with pytest.raises(ValueError, match=r"the 13 rows that may be taken \(left out: 1 duplicate\)"):
        RandomSelector(keep=14, drop_duplicates=True)(rows)
    with pytest.raises(ValueError, match=r"needs the column 'dup_of'.*Run find_duplicates"):
        RandomSelector(keep=1, drop_duplicates=True)(rows.remove_columns("dup_of"))
    with pytest.raises(ValueError, match="pass duplicates="):
        RandomSelector(keep=1, drop_duplicates=True).get_indices(SCORES)
    every = RandomSelector(keep=1, drop_duplicates=True)
    with pytest.raises(ValueError, match="None of the 2 rows may be taken: 2 duplicate"):
        every.get_indices([0.1, 0.2], duplicates=[True, True])


def test_duplicates_are_no_part_of_the_easy_interval() -> None:
    scores, duplicates = np.linspace(1, 0, 12), np.arange(12) < 4
    kept = {
        seed: FlexRandSelector(keep=4, split=0.25, seed=seed, drop_duplicates=True).get_indices(
            scores, duplicates=duplicates
        )
        for seed in range(5)
    }
    assert all(
        len(set(rows.tolist()) & {4, 5}) == 2 for rows in kept.values()
    )  # the easiest quarter of the other eight


def test_reasons() -> None:
    scores = np.array([0.1, np.nan, 0.3, 0.4])
    rows = Dataset.from_dict({"dlc_confidence": scores, "dup_of": [-1, -1, 0, -1]})
    found = TopKSelector(keep=1, drop_duplicates=True).select(rows)
    assert found.reasons.tolist() == ["not_chosen", "no_score", "duplicate", "kept"]
    assert found.notes == {}
    assert TopKSelector(keep=1, drop_duplicates=True).read_indices(rows).tolist() == [3]


# ---- columns of vectors ---------------------------------------------------------------------------------------------

VECTORS = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


@pytest.mark.parametrize(
    "kind",
    [
        List(Value("float16"), length=2),
        List(Value("float16")),
        List(Value("float64")),
        LargeList(Value("float32")),
        Sequence(Value("float32")),
    ],
    ids=str,
)
def test_vectors_are_read_whatever_list_holds_them(kind: Any) -> None:
    rows = Dataset.from_dict(
        {"v": [*VECTORS, None], "n": range(4)}, features=Features({"v": kind, "n": Value("int64")})
    )
    found = read_vectors(rows, "v")
    np.testing.assert_array_equal(found[:3], VECTORS)
    assert np.isnan(found[3]).all()
    np.testing.assert_array_equal(read_vectors(rows.select([2, 0]), "v"), [VECTORS[2], VECTORS[0]])
    np.testing.assert_array_equal(read_vectors(rows.with_format("torch").select(range(1, 3)), "v"), VECTORS[1:])
    parts = [rows.select([0]), rows.select([1]), rows.select([2])]
    from datasets import concatenate_datasets

    np.testing.assert_array_equal(read_vectors(concatenate_datasets(parts), "v"), VECTORS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1.0], [1.0, 2.0]], "must have one length"),
        (["a", "b"], "must hold lists of numbers, got string"),
        ([["a"], ["b"]], "must hold lists of floating-point numbers"),
        ([[], []], "must hold lists of floating-point numbers, got list<item: null>"),
    ],
)
def test_what_is_no_column_of_vectors(values: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_vectors(Dataset.from_dict({"v": values}), "v")


def test_how_vectors_were_made() -> None:
    rows = Dataset.from_dict({"v": VECTORS, "v_by": ["one", None, "one"]})
    assert made_by(rows, "v") == "one"
    assert made_by(rows.remove_columns("v_by"), "v") is None
    assert pa.types.is_list(rows.data.schema.field("v").type)


def test_groups_without_a_share_get_nothing_of_what_is_left_over() -> None:
    tokens = [1] * 10 + [10] * 3 + [4]
    selector = RandomSelector(keep_tokens=19, group_by="g", group_shares={"b": 1.0})
    found = selector.get_indices(SCORES, GROUPS, tokens)
    assert {GROUPS[row] for row in found} == {"b"}


def test_arguments_are_of_the_same_rows() -> None:
    with pytest.raises(
        ValueError, match=r"all arguments must be of the same rows, got {'scores': 14, 'duplicates': 1}"
    ):
        RandomSelector(keep=1, drop_duplicates=True).get_indices(SCORES, duplicates=[True])
