"""The most suspicious rows left out: how many, which, and what is drawn from the others."""

from __future__ import annotations

import doctest
import json
import logging
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dlc.scores.table import SCORES
from hf_dlc.selection import FlexRandSelector, RandomSelector, cut
from hf_dlc.selection.base import Selection, Selector
from hf_dlc.selection.candidates import Candidates
from hf_dlc.selection.cut import CutSelector


RULES = ["random", "flexrand", "stratified"]
every_rule = pytest.mark.parametrize("then", RULES)

NAN = float("nan")
# Few distinct values, so that ties are frequent; a low score means an easy row.
a_score = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
a_score_or_none = st.one_of(a_score, a_score, st.just(NAN))
a_cut = st.integers(0, 99).map(lambda percent: percent / 100)
a_rule = st.sampled_from(RULES)


def scored_rows(scores: list[float]) -> list[int]:
    return [i for i, score in enumerate(scores) if score == score]


def cut_rows(scores: list[float], share: float) -> set[int]:
    """The hardest rows; of equal ones the last."""
    rows = sorted(scored_rows(scores), key=lambda i: (-scores[i], -i))
    return set(rows[: round(len(rows) * share)])


def ccs(budget: int, bins: list[int]) -> list[int]:
    """Coverage-centric coreset selection: bins from small to large, each gets what is left over the bins left."""
    counts, left = [0] * len(bins), budget
    for visited, b in enumerate(sorted(range(len(bins)), key=lambda b: bins[b])):
        counts[b] = min(bins[b], left // (len(bins) - visited))
        left -= counts[b]
    return counts


def strata_of(scores: list[float], rows: list[int], strata: int) -> list[list[int]]:
    """Rows in intervals of equal width over the range of their scores."""
    low, high = min(scores[i] for i in rows), max(scores[i] for i in rows)
    bins: list[list[int]] = [[] for _ in range(strata)]
    for i in rows:
        part = (scores[i] - low) / (high - low) if high > low else 0
        bins[min(int(part * strata), strata - 1)].append(i)
    return bins


def chosen(selector: Selector, **given: Any) -> Selection:
    """What is kept, and why the others are not: of arrays, as `select` tells it of a dataset."""
    scores = np.array(given.pop("scores"), dtype=float)
    return selector._select(Candidates(len(scores), scores, **{k: v and np.array(v) for k, v in given.items()}))


# ---- what is left out


@given(data=st.data())
def test_the_hardest_rows_are_left_out_and_the_budget_is_exact(data: st.DataObject) -> None:
    scores = data.draw(st.lists(a_score_or_none, min_size=1, max_size=40).filter(scored_rows))
    share, then = data.draw(a_cut), data.draw(a_rule)
    out = cut_rows(scores, share)
    left = sorted(set(scored_rows(scores)) - out)
    if not left:
        return
    keep = data.draw(st.integers(1, len(left)))
    found = chosen(CutSelector(keep=keep, cut=share, then=then), scores=scores)
    assert found.indices.dtype == np.int64
    assert found.indices.tolist() == sorted(set(found.indices.tolist()))
    assert len(found.indices) == keep
    assert set(found.indices.tolist()) <= set(left)
    assert set(np.flatnonzero(found.reasons == "suspicious").tolist()) == out
    assert np.flatnonzero(found.reasons == "no_score").tolist() == [
        i for i in range(len(scores)) if i not in [*left, *out]
    ]
    assert np.flatnonzero(found.reasons == "not_chosen").tolist() == [i for i in left if i not in found.indices]
    everything = CutSelector(keep=len(left), cut=share, then=then).get_indices(scores)
    assert everything.tolist() == left


def test_counts_by_hand() -> None:
    scores = [0.5, 0.9, NAN, 0.4, 1.3, 0.9, NAN, 0.3, 0.9, 0.2]
    for share, out in [
        (0, []),
        (0.06, []),  # 0.48 of the eight scored rows
        (0.0625, []),  # half to even: 0.5 is 0
        (0.1875, [4, 8]),  # 1.5 is 2; of three equal rows the last
        (0.3125, [4, 8]),  # 2.5 is 2
        (0.4, [4, 5, 8]),
        (0.5, [1, 4, 5, 8]),
        (0.93, [0, 1, 3, 4, 5, 7, 8]),
    ]:
        found = chosen(CutSelector(keep=1, cut=share), scores=scores)
        assert np.flatnonzero(found.reasons == "suspicious").tolist() == out, share


def test_a_cut_is_of_all_groups_together() -> None:
    scores = [0.1, 0.2, 0.3, 0.4, 0.9, 0.8, 0.7, 0.6]
    found = chosen(CutSelector(keep=4, cut=0.25), scores=scores, groups=list("aaaabbbb"))
    assert np.flatnonzero(found.reasons == "suspicious").tolist() == [4, 5]
    assert found.indices.tolist()[2:] == [6, 7]  # half of the budget is for half of the rows
    with pytest.raises(
        ValueError, match=r"asks for 7 rows, but the 6 rows that may be taken \(left out: 2 suspicious"
    ):
        CutSelector(keep=7, cut=0.25).get_indices(scores, list("aaaabbbb"))
    # A group that lost all rows gives none, and a quarter of the rows gives what it has left.
    assert CutSelector(keep=4, cut=0.5).get_indices(scores, list("aaaabbbb")).tolist() == [0, 1, 2, 3]
    for then in RULES:
        kept = CutSelector(keep=4, cut=0.5, then=then, min_per_group=2).get_indices(scores, list("aaaabbbb"))
        assert kept.tolist() == [0, 1, 2, 3]


@every_rule
def test_fewer_rows_than_asked_for(then: str) -> None:
    scores = np.linspace(0, 1, 10)
    selector = CutSelector(keep=9, cut=0.2, then=then)
    with pytest.raises(
        ValueError,
        match=re.escape(
            "keep=9 asks for 9 rows, but the 8 rows that may be taken (left out: 2 suspicious) (of 10 handed in) hold "
            "8. Ask for at most 8."
        ),
    ):
        selector.get_indices(scores)
    with pytest.raises(ValueError, match=r"keep=0.9 asks for 9 rows, but the 8 rows that may be taken"):
        replace(selector, keep=0.9).get_indices(scores)
    with pytest.raises(ValueError, match=r"asks for 81 target tokens, but the 8 rows .* hold 80"):
        replace(selector, keep=None, keep_tokens=81).get_indices(scores, tokens=[10] * 10)
    with pytest.raises(ValueError, match=r"None of the 10 rows may be taken: 10 suspicious\."):
        replace(selector, keep=1, cut=0.96).get_indices(scores)


def test_duplicates_do_not_count() -> None:
    scores = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.9, 0.9, 0.9, 0.8]
    duplicates = [False] * 7 + [True, True, False]
    found = chosen(CutSelector(keep=1, cut=0.25, drop_duplicates=True), scores=scores, duplicates=duplicates)
    assert np.flatnonzero(found.reasons == "suspicious").tolist() == [6, 9]  # a quarter of eight rows
    assert np.flatnonzero(found.reasons == "duplicate").tolist() == [7, 8]
    found = chosen(CutSelector(keep=1, cut=0.25), scores=scores, duplicates=duplicates)
    assert np.flatnonzero(found.reasons == "suspicious").tolist() == [7, 8]
    with pytest.raises(ValueError, match="None of the 2 rows may be taken: 2 duplicate"):
        CutSelector(keep=1, drop_duplicates=True).get_indices([0.1, 0.2], duplicates=[True, True])


@pytest.mark.parametrize("share", [0.2, "auto"])
@pytest.mark.parametrize("name", ["ifd", "prompt_gain", "similarity", "plain_loss", "plain_confidence"])
def test_the_hard_end_of_a_score(name: str, share: float | str) -> None:
    rng = np.random.default_rng(0)
    hardness = np.concatenate([rng.normal(0, 0.1, 400), rng.normal(2, 0.1, 100)])
    scores = hardness if SCORES[name].easy == "low" else -hardness
    selector = CutSelector(keep=400, cut=share, column=f"dlc_{name}")
    assert selector.get_indices(scores).tolist() == list(range(400))
    turned = replace(selector, column="quality", easy="high" if SCORES[name].easy == "low" else "low")
    assert turned.get_indices(-scores).tolist() == list(range(400))


@every_rule
@pytest.mark.parametrize("share", [0, 0.1, "auto"])
def test_unknown_orientation(then: str, share: float | str) -> None:
    selector = CutSelector(keep=1, cut=share, then=then, column="length")
    with pytest.raises(ValueError, match=r"easy='auto' knows columns that end in .*, got column='length'"):
        selector.get_indices([0.1, 0.2])
    with pytest.raises(ValueError, match="easy must be 'auto', 'high' or 'low', got 'yes'"):
        replace(selector, easy="yes").get_indices([0.1, 0.2])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        *(
            ({"cut": value}, r"cut must be a share in \[0, 1\) or 'auto', got ")
            for value in (1, 1.0, -0.1, NAN, float("inf"), True, False, None, "half", "0.1", np.array([0.1, 0.2]))
        ),
        *(
            ({"then": value}, "then must be 'random', 'flexrand' or 'stratified', got ")
            for value in ("easiest", None, 3, True)
        ),
        *(
            ({"strata": value}, "strata must be a whole number, at least 1, got ")
            for value in (0, -1, 2.0, True, None, "ten")
        ),
        *(({"split": value}, "split must lie strictly between 0 and 1, got ") for value in (0, 1, NAN)),
        *(({"seed": value}, "seed must be a non-negative int, got ") for value in (-1, 0.5, True, None)),
        ({"missing": "keep"}, "missing must be 'drop' or 'error', got 'keep'"),
    ],
    ids=str,
)
def test_parameters_out_of_range(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CutSelector(keep=1, **parameters).get_indices([0.1, 0.2])


@pytest.mark.parametrize("value", [np.float32(0.25), np.float64(0.25), 0.25])
def test_shares_of_any_number_type(value: float) -> None:
    assert CutSelector(keep=3, cut=value).get_indices([0.4, 0.1, 0.2, 0.3]).tolist() == [1, 2, 3]
    assert CutSelector(keep=2, strata=np.int64(2), then="stratified", cut=0).get_indices([0.1, 0.2]).tolist() == [0, 1]


# ---- what is drawn from the others


@given(data=st.data())
def test_without_a_cut_it_is_the_other_selectors(data: st.DataObject) -> None:
    scores = data.draw(st.lists(a_score_or_none, min_size=1, max_size=40).filter(scored_rows))
    groups = data.draw(st.sampled_from([None, ["a", "b", None]]))
    groups = groups and [groups[i % 3] for i in range(len(scores))]
    options = {"keep": data.draw(st.integers(1, len(scored_rows(scores)))), "seed": data.draw(st.integers(0, 5))}
    tokens = None
    if data.draw(st.booleans()):
        tokens = [data.draw(st.integers(1, 20)) for _ in scores]
        options = {"keep_tokens": sum(tokens[i] for i in scored_rows(scores)), "seed": 1}
        options["keep_tokens"] = data.draw(
            st.integers(min(tokens[i] for i in scored_rows(scores)), options["keep_tokens"])
        )
    split = data.draw(st.integers(1, 99)) / 100
    for other, then in [
        (RandomSelector(**options), "random"),
        (FlexRandSelector(**options, split=split, column="dlc_ifd"), "flexrand"),
    ]:
        selector = CutSelector(**options, split=split, cut=0, then=then)
        assert (
            selector.get_indices(scores, groups, tokens).tolist() == other.get_indices(scores, groups, tokens).tolist()
        )


@given(data=st.data())
def test_with_a_cut_it_is_the_other_selectors_on_the_other_rows(data: st.DataObject) -> None:
    scores = data.draw(st.lists(a_score_or_none, min_size=1, max_size=40).filter(scored_rows))
    share, split = data.draw(a_cut), data.draw(st.integers(1, 99)) / 100
    out = cut_rows(scores, share)
    others = [NAN if i in out else score for i, score in enumerate(scores)]
    if not scored_rows(others):
        return
    options = {"keep": data.draw(st.integers(1, len(scored_rows(others)))), "seed": data.draw(st.integers(0, 5))}
    for other, then in [
        (RandomSelector(**options), "random"),
        (FlexRandSelector(**options, split=split, column="dlc_ifd"), "flexrand"),
        (CutSelector(**options, cut=0, then="stratified"), "stratified"),
    ]:
        selector = CutSelector(**options, split=split, cut=share, then=then)
        assert selector.get_indices(scores).tolist() == other.get_indices(others).tolist()


@given(data=st.data())
def test_strata_give_what_coverage_centric_selection_asks_for(data: st.DataObject) -> None:
    scores = data.draw(st.lists(st.one_of(a_score, st.floats(0, 1), st.just(NAN)), min_size=1, max_size=60))
    if not scored_rows(scores):
        return
    share, strata = data.draw(a_cut), data.draw(st.integers(1, 12))
    left = sorted(set(scored_rows(scores)) - cut_rows(scores, share))
    if not left:
        return
    keep = data.draw(st.integers(1, len(left)))
    selector = CutSelector(keep=keep, cut=share, then="stratified", strata=strata, seed=data.draw(st.integers(0, 3)))
    taken = set(selector.get_indices(scores).tolist())
    bins = strata_of(scores, left, strata)
    assert [len(taken.intersection(rows)) for rows in bins] == ccs(keep, list(map(len, bins)))


@given(data=st.data())
def test_strata_count_tokens(data: st.DataObject) -> None:
    scores = data.draw(st.lists(a_score, min_size=1, max_size=60))
    tokens = [data.draw(st.integers(1, 20)) for _ in scores]
    strata = data.draw(st.integers(1, 6))
    budget = data.draw(st.integers(min(tokens), sum(tokens)))
    selector = CutSelector(keep_tokens=budget, cut=0, then="stratified", strata=strata)
    taken = set(selector.get_indices(scores, tokens=tokens).tolist())
    bins = strata_of(scores, list(range(len(scores))), strata)
    parts = ccs(budget, [sum(tokens[i] for i in rows) for rows in bins])
    for rows, part in zip(bins, parts, strict=True):
        # Each gives its part but for less than a row, and may give what others left over.
        assert sum(tokens[i] for i in taken.intersection(rows)) > part - max(tokens)


def test_strata_by_hand() -> None:
    # Of a width of 0.25: [0, 0.25) has two rows, [0.25, 0.5) one, [0.5, 0.75) none, [0.75, 1] ten, one at its bound.
    scores = [0.0, 0.2, 0.25, *[0.75] * 9, 1.0]
    for keep, expected in [(1, [0, 0, 1]), (4, [1, 1, 2]), (5, [2, 1, 2]), (7, [2, 1, 4]), (13, [2, 1, 10])]:
        taken = CutSelector(keep=keep, cut=0, then="stratified", strata=4).get_indices(scores)
        assert [np.count_nonzero(np.isin(taken, rows)) for rows in ([0, 1], [2], range(3, 13))] == expected
    # 8 tokens, none of them for the empty stratum: 8 // 3 = 2 pay for row 2, (8 - 2) // 2 = 3 for one of the first two
    # rows, and 3 are left for one of the last ten.
    tokens = [3, 3, 2, *[3] * 10]
    taken = CutSelector(keep_tokens=8, cut=0, then="stratified", strata=4).get_indices(scores, tokens=tokens)
    assert [np.count_nonzero(np.isin(taken, rows)) for rows in ([0, 1], [2], range(3, 13))] == [1, 1, 1]


def test_what_a_stratum_does_not_spend_goes_to_the_next() -> None:
    # 9 tokens: 4 for the first stratum, whose row of 5 is too long, and 9 for the other.
    assert CutSelector(keep_tokens=9, cut=0, then="stratified", strata=2).get_indices(
        [0.0, 1.0, 1.0, 1.0], tokens=[5, 3, 3, 3]
    ).tolist() == [1, 2, 3]
    # 9 tokens: 4 for the first stratum, which gives row 2, and 5 for the other, where no row is so short: row 0 is.
    assert CutSelector(keep_tokens=9, cut=0, then="stratified", strata=2).get_indices(
        [0.0, 1.0, 0.0], tokens=[5, 10, 4]
    ).tolist() == [0, 2]


def test_equal_scores_are_one_stratum() -> None:
    same = CutSelector(keep=4, cut=0, then="stratified").get_indices([0.5] * 10)
    assert same.tolist() == RandomSelector(keep=4).get_indices([0.5] * 10).tolist()
    # One stratum is no strata.
    scores = np.random.default_rng(0).random(50)
    one = CutSelector(keep=20, then="stratified", strata=1).get_indices(scores)
    assert one.tolist() == CutSelector(keep=20).get_indices(scores).tolist()


def test_strata_draw_uniformly_and_are_cut_anew_for_each_group() -> None:
    scores = np.concatenate([np.linspace(0, 0.3, 9), np.linspace(0.6, 1, 3)])
    selector = CutSelector(keep=4, cut=0, then="stratified", strata=2)
    draws = [replace(selector, seed=seed).get_indices(scores) for seed in range(2000)]
    shares = np.bincount(np.concatenate(draws), minlength=12) / 2000
    np.testing.assert_allclose(shares[:9], 2 / 9, atol=0.05)
    np.testing.assert_allclose(shares[9:], 2 / 3, atol=0.05)
    both = np.concatenate([scores, 10 + scores])
    taken = replace(selector, keep=8).get_indices(both, ["a"] * 12 + ["b"] * 12)
    assert [
        np.count_nonzero((taken >= low) & (taken < high)) for low, high in [(0, 9), (9, 12), (12, 21), (21, 24)]
    ] == [2] * 4


@every_rule
def test_infinite_scores(then: str) -> None:
    scores = [0.5, float("inf"), float("-inf"), 0.7, NAN, 0.6]
    found = chosen(CutSelector(keep=4, cut=0.2, then=then), scores=scores)
    assert found.indices.tolist() == [0, 2, 3, 5]
    assert found.reasons[1] == "suspicious"
    # Infinite scores belong to the outermost strata: two rows in each of two.
    scores = [0.0, float("inf"), float("-inf"), 1.0]
    for seed in range(5):
        taken = CutSelector(keep=2, cut=0, then="stratified", strata=2, seed=seed).get_indices(scores)
        assert len({0, 2}.intersection(taken.tolist())) == 1
    for only in ([float("inf")] * 3, [float("inf"), float("-inf"), float("inf")]):
        assert len(CutSelector(keep=2, cut=0, then=then).get_indices(only)) == 2


# ---- what every selector promises


@every_rule
@given(data=st.data())
def test_a_larger_budget_contains_the_smaller(then: str, data: st.DataObject) -> None:
    scores = data.draw(st.lists(a_score_or_none, min_size=2, max_size=30).filter(scored_rows))
    share, strata = data.draw(a_cut), data.draw(st.integers(1, 8))
    left = len(scored_rows(scores)) - len(cut_rows(scores, share))
    smaller: set[int] = set()
    for keep in range(1, left + 1):
        larger = set(CutSelector(keep=keep, cut=share, then=then, strata=strata).get_indices(scores).tolist())
        assert smaller < larger
        smaller = larger


@every_rule
@given(data=st.data())
def test_keep_tokens_is_never_exceeded_and_leaves_no_room(then: str, data: st.DataObject) -> None:
    scores = data.draw(st.lists(a_score_or_none, min_size=1, max_size=40).filter(scored_rows))
    share = data.draw(a_cut)
    rows = sorted(set(scored_rows(scores)) - cut_rows(scores, share))
    if not rows:
        return
    tokens = [data.draw(st.integers(1, 50)) if scores[i] == scores[i] else 0 for i in range(len(scores))]
    groups = data.draw(st.sampled_from([None, ["a", "b", "c"]]))
    groups = groups and [groups[i % 3] for i in range(len(scores))]
    budget = data.draw(st.integers(min(tokens[i] for i in rows), sum(tokens[i] for i in rows)))
    taken = CutSelector(keep_tokens=budget, cut=share, then=then).get_indices(scores, groups, tokens).tolist()
    assert taken == sorted(set(taken))
    assert set(taken) <= set(rows)
    left = budget - sum(tokens[i] for i in taken)
    assert left >= 0
    assert all(tokens[i] > left for i in rows if i not in taken)


@every_rule
def test_rows_of_one_token_are_counted_like_rows(then: str) -> None:
    scores = np.random.default_rng(0).random(100)
    by_row = CutSelector(keep=37, then=then).get_indices(scores)
    by_token = CutSelector(keep_tokens=37, then=then).get_indices(scores, tokens=np.ones(100, dtype=int))
    assert by_row.tolist() == by_token.tolist()


@every_rule
def test_seeds_and_groups(then: str) -> None:
    scores = np.random.default_rng(0).random(200)
    selector = CutSelector(keep=0.25, then=then, seed=1)
    first = selector.get_indices(scores).tolist()
    assert replace(selector).get_indices(scores).tolist() == first
    assert replace(selector, seed=np.int64(1)).get_indices(scores).tolist() == first
    assert replace(selector, seed=2).get_indices(scores).tolist() != first
    # The draw of a group depends neither on its place nor on the rows of the others.
    selector = CutSelector(keep=20, then=then, seed=4, cut=0.5)
    scores = np.concatenate([scores[:40] / 2, 10 + scores[40:80]])  # the second half is cut
    both = selector.get_indices(scores, ["b"] * 40 + ["a"] * 40)
    swapped = selector.get_indices(np.roll(scores, 40), ["a"] * 40 + ["b"] * 40)
    assert sorted((i + 40) % 80 for i in swapped) == both.tolist()
    assert both.tolist() == replace(selector, cut=0).get_indices(scores[:40], ["b"] * 40).tolist()


@every_rule
@given(data=st.data())
def test_group_totals_are_proportional(then: str, data: st.DataObject) -> None:
    groups = data.draw(st.lists(st.sampled_from(["a", "b", 1, None]), min_size=1, max_size=40))
    keep = data.draw(st.integers(1, len(groups)))
    taken = CutSelector(keep=keep, cut=0, then=then).get_indices(np.linspace(0, 1, len(groups)), groups)
    assert len(taken) == keep
    for key in set(groups):
        assert abs(sum(groups[i] == key for i in taken) - keep * groups.count(key) / len(groups)) < 1


@every_rule
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.uint8])
def test_scores_of_any_number_type_are_not_written_to(then: str, dtype: type) -> None:
    scores = np.array([3, 1, 2, 0, 5, 4, 7, 6, 8, 9], dtype=dtype)
    scores.setflags(write=False)
    expected = CutSelector(keep=3, then=then, cut=0.3).get_indices(scores.tolist())
    assert CutSelector(keep=3, then=then, cut=0.3).get_indices(scores).tolist() == expected.tolist()


@every_rule
def test_missing_scores(then: str, caplog: pytest.LogCaptureFixture) -> None:
    scores = [0.1, 0.2, NAN, 0.4, NAN]
    with caplog.at_level(logging.INFO, logger="hf_dlc.selection"):
        assert CutSelector(keep=2, cut=0.4, then=then).get_indices(scores).tolist() == [0, 1]
    assert "2 of 5 rows have no score" in caplog.text
    assert "1 of 5 rows are left out: suspicious." in caplog.text
    with pytest.raises(ValueError, match=r"2 of 5 rows have no score \(NaN\), the first is row 2"):
        CutSelector(keep=2, then=then, missing="error").get_indices(scores)


@every_rule
def test_one_row(then: str) -> None:
    assert CutSelector(keep=1, then=then).get_indices([0.3]).tolist() == [0]
    assert CutSelector(keep=1.0, cut=0, then=then).get_indices(np.linspace(0, 1, 7)).tolist() == list(range(7))


def test_parameters_are_stored_unchanged_and_shown() -> None:
    selector = CutSelector(keep="nonsense", cut="nonsense", then="nonsense")  # refused at use, not here
    assert repr(selector).startswith("CutSelector(keep='nonsense', keep_tokens=None, column='dlc_ifd'")
    assert "cut='nonsense', then='nonsense', strata=10" in repr(selector)
    with pytest.raises(TypeError):
        CutSelector(0.5, 100)  # only keep may be positional
    assert CutSelector().name == "cut"
    assert CutSelector().keep is None
    assert list(CutSelector(keep=3).variants().values()) == [CutSelector(keep=3)]
    selector = CutSelector(keep=0.5, cut="auto", then="stratified")
    assert CutSelector(**json.loads(json.dumps(asdict(selector)))) == selector


def test_on_a_dataset(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(1)
    similarity = np.concatenate([rng.normal(0.6, 0.05, 90), rng.normal(0.1, 0.05, 20), [NAN] * 10])
    dataset = Dataset.from_dict({"text": [str(i) for i in range(120)], "dlc_similarity": similarity})
    dataset = dataset.add_column("source", ["a", "b"] * 60)
    with caplog.at_level(logging.INFO, logger="hf_dlc.selection"):
        selector = CutSelector(keep=0.5, cut="auto", column="dlc_similarity", group_by="source", then="stratified")
        found = selector.select(dataset)
    assert np.flatnonzero(found.reasons == "suspicious").tolist() == list(range(90, 110))
    assert [np.count_nonzero(found.indices % 2 == odd) for odd in (0, 1)] == [30, 30]
    assert selector(dataset)["text"][:] == [str(i) for i in found.indices]
    [told] = [record.getMessage() for record in caplog.records if "cut='auto'" in record.getMessage()]
    assert re.fullmatch(
        r"cut='auto' leaves out 20 of 110 rows \(18\.2%\): those whose dlc_similarity is below 0\.[2-5]\d*\.", told
    )
    with pytest.raises(ValueError, match="Column 'dlc_ifd' not found"):
        CutSelector(keep=3).select(dataset)


def test_no_tokens_are_looked_at_without_need() -> None:
    for then in RULES:
        selector = CutSelector(keep=2, then=then)
        assert (
            selector.get_indices([0.9, 0.1, 0.8, 0.2], tokens=[2]).tolist()
            == selector.get_indices([0.9, 0.1, 0.8, 0.2]).tolist()
        )
        with pytest.raises(ValueError, match="pass tokens="):
            CutSelector(keep_tokens=2, then=then).get_indices([0.1, 0.2])


# ---- an estimated share


def two_peaks(share: float, apart: float, seed: int, rows: int = 2000, ratio: float = 1.0) -> np.ndarray:
    """Normal rows and a share that is `apart` standard deviations harder, in random order."""
    rng = np.random.default_rng(seed)
    n_hard = round(rows * share)
    return rng.permutation(
        np.concatenate([rng.normal(0, 1, rows - n_hard), rng.normal(apart, ratio, n_hard)]),
    )


def estimated(scores: np.ndarray, **options: Any) -> float:
    """Share that is left out."""
    return float(np.mean(chosen(CutSelector(keep=1, cut="auto", **options), scores=scores).reasons == "suspicious"))


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.45])
@pytest.mark.parametrize(("apart", "ratio"), [(6, 1), (8, 1), (7, 1.5), (4, 0.4)])
def test_the_share_of_a_second_peak(share: float, apart: float, ratio: float) -> None:
    for seed in range(3):
        assert estimated(two_peaks(share, apart, seed, rows=10_000, ratio=ratio)) == pytest.approx(share, abs=0.03)


@settings(deadline=None, max_examples=25)
@given(st.floats(0.05, 0.45), st.floats(6, 20), st.integers(0, 10**6), st.floats(-100, 100), st.floats(1e-3, 1e3))
def test_an_estimated_share_is_of_any_scale(
    share: float, apart: float, seed: int, middle: float, scale: float
) -> None:
    scores = two_peaks(share, apart, seed)
    found = estimated(middle + scale * scores)
    assert found == pytest.approx(share, abs=0.03)
    assert estimated(-scores, column="dlc_similarity") == pytest.approx(found, abs=0.002)


def test_the_rows_of_the_second_peak_are_those_left_out() -> None:
    scores = np.concatenate([np.linspace(0.2, 0.8, 90), np.linspace(1.9, 2.1, 12), [7.0]])
    found = chosen(CutSelector(keep=1, cut="auto"), scores=scores)
    assert np.flatnonzero(found.reasons == "suspicious").tolist() == list(range(90, 103))
    # So are infinite ones, which are harder still; those that are easier than all numbers stay.
    found = chosen(CutSelector(keep=1, cut="auto"), scores=[*scores, float("inf"), float("-inf"), NAN])
    assert np.flatnonzero(found.reasons == "suspicious").tolist() == list(range(90, 104))


def test_quantiles_stand_for_many_rows() -> None:
    scores = two_peaks(0.1, 6, 0, rows=200_000)
    assert estimated(scores) == pytest.approx(0.1, abs=0.003)
    assert estimated(scores) == estimated(scores[::-1])


NO_PEAKS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, rows: rng.normal(size=rows),
    "uniform": lambda rng, rows: rng.random(rows),
    "exponential": lambda rng, rows: rng.exponential(size=rows),
    "little log-normal": lambda rng, rows: rng.lognormal(0, 0.3, rows),
    "log-normal": lambda rng, rows: rng.lognormal(0, 1, rows),
    "very log-normal": lambda rng, rows: rng.lognormal(0, 2, rows),
    "turned log-normal": lambda rng, rows: -rng.lognormal(0, 1, rows),
    "Pareto": lambda rng, rows: rng.pareto(1.5, rows),
    "Cauchy": lambda rng, rows: rng.standard_cauchy(rows),
    "Laplace": lambda rng, rows: rng.laplace(size=rows),
    "triangular": lambda rng, rows: rng.triangular(0, 1, 1, rows),
    "two that overlap": lambda rng, rows: np.concatenate(
        [rng.normal(0, 1, rows - rows // 2), rng.normal(1.8, 1, rows // 2)]
    ),
    "a wide one and a narrow one": lambda rng, rows: np.concatenate(
        [rng.normal(0, 1, rows - rows // 5), rng.normal(2, 1, rows // 5)]
    ),
}


@pytest.mark.parametrize("kind", NO_PEAKS)
def test_one_peak_is_no_reason_to_cut(kind: str) -> None:
    for rows, seeds in [(1, 1), (2, 1), (5, 5), (30, 5), (300, 5), (3000, 3), (20_000, 1)]:
        for seed in range(seeds):
            with pytest.raises(
                ValueError, match=r"needs a score with two clear peaks, but dlc_ifd has not: .*cut=0\.1"
            ):
                estimated(NO_PEAKS[kind](np.random.default_rng(seed), rows))


@pytest.mark.parametrize(
    ("scores", "fault"),
    [
        ([0.5] * 50, "it has too few different values"),
        ([0.5], "it has too few different values"),
        ([float("inf")] * 5 + [0.5], "it has too few different values"),
        (
            np.random.default_rng(0).normal(size=500),
            r"one normal distribution fits as well \(BIC differs by -?\d+\.\d",
        ),
        (
            np.random.default_rng(0).lognormal(size=500),
            r"its two parts overlap \(Ashman's D is 1\.\d\d, needed is 2\)",
        ),
        (np.random.default_rng(0).random(500), "there are not clearly fewer rows between its two parts than in each"),
        (two_peaks(0.9, 8, 0), "the harder peak holds 90% of the rows, which are no exceptions"),
        ([0.1] * 6 + [0.9] * 4, "there are not clearly fewer rows|one normal distribution fits as well"),
    ],
    ids=["equal", "one row", "infinite", "normal", "log-normal", "uniform", "mostly hard", "few rows"],
)
def test_why_there_are_no_two_peaks(scores: Any, fault: str) -> None:
    with pytest.raises(
        ValueError,
        match=rf"^cut='auto' needs a score with two clear peaks, but dlc_ifd has not: ({fault}).*\. "
        r"Pass a share of the rows, such as cut=0\.1\.$",
    ):
        estimated(scores)


def test_two_values_are_two_peaks() -> None:
    assert estimated([0.1] * 60 + [0.9] * 20) == 0.25


def test_a_few_outliers_hide_no_peak() -> None:
    scores = np.concatenate([two_peaks(0.1, 6, 0, rows=1000), [500.0, 900.0, 2000.0, -3000.0]])
    assert estimated(scores) == pytest.approx(0.1, abs=0.01)


# ---- words


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        (
            {},
            "The hardest 10% of the rows by <dlc_ifd> were left out, and rows were drawn at random from the others.",
        ),
        (
            {"cut": 0.125, "then": "flexrand", "split": 0.25, "column": "x_loss", "group_by": "topic"},
            "The hardest 12.5% of the rows by <x_loss> were left out, and half of the budget was drawn from the "
            "easiest 25% of the others, half from the rest, within the groups of <topic>.",
        ),
        (
            {"cut": 0.07, "then": "stratified", "strata": 20},
            "The hardest 7% of the rows by <dlc_ifd> were left out, and rows were drawn at random from the others, "
            "evenly over 20 intervals of the score.",
        ),
        (
            {"cut": "auto", "column": "dlc_similarity"},
            "The rows in the harder of the two peaks of <dlc_similarity> were left out, and rows were drawn at random "
            "from the others.",
        ),
        ({"cut": 0}, "Rows were drawn at random."),
        (
            {"cut": 0, "then": "flexrand"},
            "Half of the budget was drawn at random from the easiest 50% of the rows by <dlc_ifd>, half from the "
            "others, which is nearly random selection.",
        ),
        ({"cut": 0.0, "then": "stratified"}, "Rows were drawn at random, evenly over 10 intervals of <dlc_ifd>."),
    ],
    ids=str,
)
def test_sentences(parameters: dict[str, Any], sentence: str) -> None:
    selector = CutSelector(keep=3, **parameters)
    assert selector.sentence("<{}>".format) == sentence
    assert selector.sentence() == sentence.replace("<", "`").replace(">", "`")
    assert len(sentence.split()) <= 35


def test_examples() -> None:
    result = doctest.testmod(cut)
    assert result.attempted > 0
    assert result.failed == 0
