from __future__ import annotations

import doctest
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_dlc.selection import CutSelector, FlexRandSelector, RandomSelector, TopKSelector, flexrand, top_k
from hf_dlc.selection.base import Selector


SELECTORS = [FlexRandSelector, RandomSelector, TopKSelector]
every_selector = pytest.mark.parametrize("selector_class", SELECTORS)

# Few distinct values, so that ties are frequent.
a_score = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
a_score_or_none = st.one_of(a_score, a_score, st.just(float("nan")))
a_split = st.integers(1, 99).map(lambda percent: percent / 100)


def scored_rows(scores: list[float]) -> list[int]:
    return [i for i, score in enumerate(scores) if score == score]


def ranked(scores: list[float]) -> list[int]:
    """Scored rows, easiest (highest confidence) first, ties by row number."""
    return sorted(scored_rows(scores), key=lambda i: (-scores[i], i))


def intervals(scores: list[float], split: float) -> tuple[set[int], set[int]]:
    order = ranked(scores)
    n_easy = round(len(order) * split)
    if len(order) >= 2:
        n_easy = min(max(n_easy, 1), len(order) - 1)
    return set(order[:n_easy]), set(order[n_easy:])


def ccs(budget: int, bins: list[int]) -> list[int]:
    """Coverage-centric coreset selection: bins from small to large, each gets what is left over the bins left."""
    counts, left = [0] * len(bins), budget
    for visited, b in enumerate(sorted(range(len(bins)), key=lambda b: bins[b])):
        counts[b] = min(bins[b], left // (len(bins) - visited))
        left -= counts[b]
    return counts


# ---- what every selector promises


@every_selector
@given(data=st.data())
def test_exact_sorted_distinct_and_scored(selector_class: Callable[..., Selector], data: st.DataObject) -> None:
    scores = data.draw(st.lists(a_score_or_none, min_size=1, max_size=40).filter(scored_rows))
    groups = data.draw(st.none() | st.lists(st.sampled_from(["a", "b", None]), min_size=len(scores), max_size=40))
    groups = groups and groups[: len(scores)]
    keep = data.draw(st.integers(1, len(scored_rows(scores))))
    indices = selector_class(keep=keep).get_indices(scores, groups)
    assert indices.dtype == np.int64
    assert len(indices) == keep
    assert indices.tolist() == sorted(set(indices.tolist()))
    assert set(indices.tolist()) <= set(scored_rows(scores))


@every_selector
@given(data=st.data())
def test_a_share_counts_skipped_rows_too(selector_class: Callable[..., Selector], data: st.DataObject) -> None:
    scores = data.draw(st.lists(a_score_or_none, min_size=1, max_size=40).filter(scored_rows))
    keep = data.draw(st.integers(1, 100)) / 100
    n_keep, n_scored = round(len(scores) * keep), len(scored_rows(scores))
    selector = selector_class(keep=keep)
    if n_keep == 0:
        with pytest.raises(ValueError, match="rounds to 0 rows"):
            selector.get_indices(scores)
    elif n_keep > n_scored:
        with pytest.raises(ValueError, match=f"asks for {n_keep} rows, but the {n_scored} rows that have a score"):
            selector.get_indices(scores)
    else:
        assert len(selector.get_indices(scores)) == n_keep


@every_selector
def test_one_row_and_all_rows(selector_class: Callable[..., Selector]) -> None:
    scores = np.linspace(0, 1, 7)
    assert len(selector_class(keep=1).get_indices(scores)) == 1
    assert selector_class(keep=1.0).get_indices(scores).tolist() == list(range(7))
    assert selector_class(keep=1).get_indices([0.3]).tolist() == [0]
    assert selector_class(keep=1.0).get_indices([0.3]).tolist() == [0]


@every_selector
def test_parameters_are_stored_unchanged_and_shown(selector_class: Callable[..., Selector]) -> None:
    selector = selector_class(keep="nonsense", missing="nonsense")  # refused at use, not here
    assert selector.keep == "nonsense"
    assert repr(selector).startswith(f"{selector_class.__name__}(keep='nonsense', keep_tokens=None, column=")
    assert "missing='nonsense'" in repr(selector)
    with pytest.raises(TypeError):
        selector_class(0.5, 100)  # only keep may be positional


@every_selector
@pytest.mark.parametrize("parameters", [{}, {"keep": 0.5, "keep_tokens": 10}])
def test_exactly_one_budget(selector_class: Callable[..., Selector], parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Pass one of keep and keep_tokens, got "):
        selector_class(**parameters).get_indices([0.1, 0.2])


@every_selector
@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([], "There are no scores"),
        ([float("nan")] * 3, "None of the 3 rows has a score"),
        ([[0.1, 0.2]], r"one number for each row, got an array of shape \(1, 2\)"),
        (["a", "b"], "scores must be one number for each row"),
        ([0.1, None], "Use NaN for a row without a score"),
    ],
)
def test_unusable_scores(selector_class: Callable[..., Selector], scores: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        selector_class(keep=1).get_indices(scores)


@every_selector
def test_missing_scores(selector_class: Callable[..., Selector], caplog: pytest.LogCaptureFixture) -> None:
    scores = [0.1, 0.2, float("nan"), 0.4, float("nan")]
    with caplog.at_level(logging.INFO, logger="hf_dlc.selection"):
        assert selector_class(keep=3).get_indices(scores).tolist() == [0, 1, 3]
    assert "2 of 5 rows have no score" in caplog.text
    with pytest.raises(ValueError, match=r"2 of 5 rows have no score \(NaN\), the first is row 2"):
        selector_class(keep=3, missing="error").get_indices(scores)
    with pytest.raises(ValueError, match="missing must be 'drop' or 'error', got 'keep'"):
        selector_class(keep=3, missing="keep").get_indices(scores)


@every_selector
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.uint8])
def test_scores_of_any_number_type(selector_class: Callable[..., Selector], dtype: type) -> None:
    scores = np.array([3, 1, 2, 0, 5, 4], dtype=dtype)
    expected = selector_class(keep=3).get_indices(scores.tolist())
    assert selector_class(keep=3).get_indices(scores).tolist() == expected.tolist()


@every_selector
def test_scores_are_not_written_to(selector_class: Callable[..., Selector]) -> None:
    scores = np.array([0.3, np.nan, 0.1])
    scores.setflags(write=False)
    selector_class(keep=1).get_indices(scores)


# ---- FlexRand


@given(st.data())
def test_flexrand_is_two_bin_ccs_on_ranks(data: st.DataObject) -> None:
    scores = data.draw(st.lists(a_score_or_none, min_size=1, max_size=60).filter(scored_rows))
    split, seed = data.draw(a_split), data.draw(st.integers(0, 5))
    n_keep = data.draw(st.integers(1, len(scored_rows(scores))))
    easy, hard = intervals(scores, split)
    taken = set(FlexRandSelector(keep=n_keep, split=split, seed=seed).get_indices(scores).tolist())
    expected_easy, expected_hard = ccs(n_keep, [len(easy), len(hard)])
    # Of an odd budget the two rules may hand the odd row to different halves.
    assert abs(len(taken & easy) - expected_easy) <= n_keep % 2
    assert abs(len(taken & hard) - expected_hard) <= n_keep % 2
    assert len(taken) == n_keep


@given(st.integers(2, 200), a_split, st.data())
def test_flexrand_follows_the_published_shares(n_rows: int, split: float, data: st.DataObject) -> None:
    n_keep = data.draw(st.integers(1, n_rows))
    gamma, eta = Fraction(split), Fraction(n_keep, n_rows)
    easy_share = min(gamma, eta / 2) if gamma <= Fraction(1, 2) else eta - min(1 - gamma, eta / 2)
    scores = np.linspace(1, 0, n_rows)
    n_easy = min(max(round(n_rows * split), 1), n_rows - 1)
    taken = FlexRandSelector(keep=n_keep, split=split).get_indices(scores)
    assert abs(np.count_nonzero(taken < n_easy) - n_rows * easy_share) <= 1


def test_flexrand_by_hand() -> None:
    scores = np.arange(20) / 20  # row 19 is the easiest
    taken = FlexRandSelector(keep=10, split=0.2).get_indices(scores)
    assert taken[-4:].tolist() == [16, 17, 18, 19]  # the four easy rows are fewer than half of ten
    taken = FlexRandSelector(keep=10, split=0.9).get_indices(scores)
    assert taken[:2].tolist() == [0, 1]
    taken = FlexRandSelector(keep=10, split=0.9, column="dlc_loss").get_indices(scores)
    assert taken[-2:].tolist() == [18, 19]


def test_flexrand_draws_uniformly_inside_each_interval() -> None:
    scores = np.arange(12) / 12
    draws = [FlexRandSelector(keep=4, split=0.25, seed=seed).get_indices(scores) for seed in range(3000)]
    shares = np.bincount(np.concatenate(draws), minlength=12) / 3000
    np.testing.assert_allclose(shares[9:], 2 / 3, atol=0.04)  # 2 of the 3 easy rows
    np.testing.assert_allclose(shares[:9], 2 / 9, atol=0.04)  # 2 of the 9 hard ones


def test_flexrand_draws_rows_independently_of_their_neighbours() -> None:
    scores = np.arange(12) / 12
    draws = np.zeros((3000, 12))
    for seed in range(3000):
        draws[seed, FlexRandSelector(keep=6, split=0.5, seed=seed).get_indices(scores)] = 1
    correlation = np.corrcoef(draws.T)
    np.testing.assert_allclose(correlation[:6, 6:], 0, atol=0.08)  # rows of different halves
    np.testing.assert_allclose(correlation[np.triu_indices(6, 1)], -1 / 5, atol=0.08)  # three out of six


@pytest.mark.parametrize("split", [0, 1, 0.0, 1.0, -0.1, float("nan"), "half", None])
def test_split_must_lie_between_0_and_1(split: object) -> None:
    with pytest.raises(ValueError, match="split must lie strictly between 0 and 1, got"):
        FlexRandSelector(keep=1, split=split).get_indices([0.1, 0.2])


@pytest.mark.parametrize("split", [1e-9, 1 - 1e-9])
def test_neither_interval_is_empty(split: float) -> None:
    taken = FlexRandSelector(keep=2, split=split).get_indices(np.linspace(0, 1, 100))
    assert len(taken) == 2
    assert (99 if split < 0.5 else 0) in taken  # the one row of the small interval


def test_all_scores_equal_are_ordered_by_row_number() -> None:
    assert TopKSelector(keep=3).get_indices([0.5] * 10).tolist() == [0, 1, 2]
    taken = FlexRandSelector(keep=6, split=0.3).get_indices([0.5] * 10)
    assert taken[:3].tolist() == [0, 1, 2]
    assert len(taken) == 6


@pytest.mark.parametrize("selector_class", [FlexRandSelector, TopKSelector])
def test_orientation(selector_class: Callable[..., Selector]) -> None:
    scores = np.random.default_rng(0).random(50)
    high = selector_class(keep=10, column="length", easy="high").get_indices(scores)
    assert selector_class(keep=10, column="my_confidence").get_indices(scores).tolist() == high.tolist()
    assert selector_class(keep=10, column="my_loss").get_indices(-scores).tolist() == high.tolist()
    assert selector_class(keep=10, column="my_loss", easy="high").get_indices(scores).tolist() == high.tolist()
    with pytest.raises(ValueError, match=r"got column='length'. Pass easy='high' if a high score means an easy row"):
        selector_class(keep=10, column="length").get_indices(scores)
    with pytest.raises(ValueError, match="easy must be 'auto', 'high' or 'low', got 'yes'"):
        selector_class(keep=10, easy="yes").get_indices(scores)


def test_infinite_scores_are_ordered_like_numbers() -> None:
    scores = [0.5, float("inf"), float("-inf"), 0.7, float("nan")]
    assert TopKSelector(keep=2).get_indices(scores).tolist() == [1, 3]
    assert TopKSelector(keep=2, which="hardest").get_indices(scores).tolist() == [0, 2]
    assert 1 in FlexRandSelector(keep=2, split=0.25).get_indices(scores)  # the easy interval is row 1 alone


# ---- TopK


@given(st.lists(a_score_or_none, min_size=1, max_size=40).filter(scored_rows), st.data())
def test_topk_takes_the_ends_of_the_order(scores: list[float], data: st.DataObject) -> None:
    order = ranked(scores)
    keep = data.draw(st.integers(1, len(order)))
    assert TopKSelector(keep=keep).get_indices(scores).tolist() == sorted(order[:keep])
    assert TopKSelector(keep=keep, which="hardest").get_indices(scores).tolist() == sorted(order[-keep:])


def test_topk_which() -> None:
    with pytest.raises(ValueError, match="which must be 'easiest' or 'hardest', got 'best'"):
        TopKSelector(keep=1, which="best").get_indices([0.1, 0.2])


# ---- seeds


@pytest.mark.parametrize("selector_class", [FlexRandSelector, RandomSelector])
def test_seeds(selector_class: Callable[..., Selector]) -> None:
    scores = np.random.default_rng(0).random(200)
    first = selector_class(keep=0.5, seed=1).get_indices(scores).tolist()
    assert selector_class(keep=0.5, seed=1).get_indices(scores).tolist() == first
    assert selector_class(keep=0.5, seed=np.int64(1)).get_indices(scores).tolist() == first
    assert selector_class(keep=0.5, seed=2).get_indices(scores).tolist() != first
    for seed in (-1, None, 0.5, True):
        with pytest.raises(ValueError, match="seed must be a non-negative int, got"):
            selector_class(keep=0.5, seed=seed).get_indices(scores)


def test_draws_leave_the_global_generator_alone() -> None:
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    FlexRandSelector(keep=2).get_indices([0.1, 0.2, 0.3])
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


@given(st.lists(a_score_or_none, min_size=2, max_size=40).filter(scored_rows), a_split, st.integers(0, 3))
def test_a_larger_budget_contains_the_smaller(scores: list[float], split: float, seed: int) -> None:
    for selector in (FlexRandSelector(split=split, seed=seed), RandomSelector(seed=seed)):
        smaller: set[int] = set()
        for keep in range(1, len(scored_rows(scores)) + 1):
            selector.keep = keep
            larger = set(selector.get_indices(scores).tolist())
            assert smaller < larger
            smaller = larger


RECORDED = """
import sys
from hf_dlc.selection import FlexRandSelector, RandomSelector
scores = [i * 7919 % 101 / 101 for i in range(30)]
groups = [["law", "code", None][i % 3] for i in range(30)]
print(FlexRandSelector(keep=8, split=0.3, seed=5).get_indices(scores).tolist())
print(FlexRandSelector(keep=8, split=0.3, seed=5).get_indices(scores, groups).tolist())
print(RandomSelector(keep=6, seed=5).get_indices(scores).tolist())
print(sorted(m for m in ("torch", "transformers", "datasets") if m in sys.modules))
"""


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_draws_are_the_same_in_every_process(hash_seed: str) -> None:
    env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", RECORDED], env=env, capture_output=True, text=True, check=True)
    # Recorded with NumPy 2.4: a NumPy that draws otherwise changes everybody's subsets, which should be noticed.
    assert done.stdout.splitlines() == [
        "[2, 6, 7, 9, 11, 19, 23, 24]",
        "[7, 12, 13, 17, 18, 22, 23, 29]",
        "[2, 7, 9, 19, 23, 24]",
        "[]",
    ]


# ---- groups


@every_selector
@given(data=st.data())
def test_group_totals_are_proportional(selector_class: Callable[..., Selector], data: st.DataObject) -> None:
    groups = data.draw(st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=60))
    keep = data.draw(st.integers(1, len(groups)))
    indices = selector_class(keep=keep).get_indices(np.linspace(0, 1, len(groups)), groups)
    totals = {name: sum(groups[i] == name for i in indices) for name in set(groups)}
    assert sum(totals.values()) == keep
    remainders = {}
    for name, total in totals.items():
        share = Fraction(keep * groups.count(name), len(groups))
        assert abs(total - share) < 1
        remainders[name] = (share - share.numerator // share.denominator, total > share)
    ups = [remainder for remainder, up in remainders.values() if up]
    downs = [remainder for remainder, up in remainders.values() if not up]
    assert min(ups, default=1) >= max(downs, default=0)


@every_selector
def test_a_group_without_enough_scores_gives_what_it_has(selector_class: Callable[..., Selector]) -> None:
    groups = ["a"] * 10 + ["b"] * 10
    scores = [0.5] + [float("nan")] * 9 + [0.1 * i for i in range(10)]
    indices = selector_class(keep=0.4).get_indices(scores, groups)
    assert len(indices) == 8
    assert indices[0] == 0
    assert all(i >= 10 for i in indices[1:])


@every_selector
def test_what_a_group_cannot_give_is_shared_out_in_proportion(selector_class: Callable[..., Selector]) -> None:
    groups = ["a"] * 10 + ["b"] * 60 + ["c"] * 30
    scores = [0.5] + [float("nan")] * 9 + [0.01 * i for i in range(90)]
    indices = selector_class(keep=0.5).get_indices(scores, groups)
    # "a" gives 1 row instead of 5; of the other 49, two thirds come from "b".
    assert [sum(groups[i] == name for i in indices) for name in "abc"] == [1, 33, 16]


@every_selector
def test_groups_of_one_row(selector_class: Callable[..., Selector]) -> None:
    scores, groups = [0.1, 0.2, 0.3, 0.4], ["d", "c", "b", "a"]
    assert selector_class(keep=4).get_indices(scores, groups).tolist() == [0, 1, 2, 3]
    assert selector_class(keep=2).get_indices(scores, groups).tolist() == [2, 3]  # ties: the keys that sort first


@every_selector
@pytest.mark.parametrize(
    "groups",
    [
        np.array([0, 1, 0, 1, 0, 1]),
        np.array([False, True] * 3),
        np.array(["x", "y"] * 3),
        ["x", None, "x", None, "x", None],
        [1, None, 1, None, 1, None],
        [1, "1", 1, "1", 1, "1"],
        np.array([1, "1", None, None, 1, "1"], dtype=object),
    ],
)
def test_keys_of_any_kind(selector_class: Callable[..., Selector], groups: Any) -> None:
    indices = selector_class(keep=4).get_indices([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], groups)
    assert len(indices) == 4
    kept = [list(groups)[i] for i in indices]
    assert {kept.count(key) for key in set(kept)} <= {1, 2}


def test_none_sorts_before_all_other_keys() -> None:
    scores = [0.1, 0.2, 0.3, 0.4]
    assert TopKSelector(keep=1).get_indices(scores, ["a", 1, 0, None]).tolist() == [3]


def test_equal_keys_draw_equally_whatever_holds_them() -> None:
    scores = np.random.default_rng(0).random(60)
    keys = [3, 5, 8] * 20
    expected = FlexRandSelector(keep=20).get_indices(scores, keys).tolist()
    assert FlexRandSelector(keep=20).get_indices(scores, np.array(keys, dtype=np.int8)).tolist() == expected
    assert FlexRandSelector(keep=20).get_indices(scores, np.array(keys, dtype=object)).tolist() == expected
    assert FlexRandSelector(keep=20).get_indices(scores, [np.int32(key) for key in keys]).tolist() == expected


@pytest.mark.parametrize("selector_class", [FlexRandSelector, RandomSelector])
def test_a_groups_draw_does_not_depend_on_the_others(selector_class: Callable[..., Selector]) -> None:
    scores = np.random.default_rng(0).random(40)
    selector = selector_class(keep=0.5, seed=4)
    both = selector.get_indices(scores, ["b"] * 20 + ["a"] * 20)
    swapped = selector.get_indices(np.roll(scores, 20), ["a"] * 20 + ["b"] * 20)
    assert sorted((i + 20) % 40 for i in swapped) == both.tolist()
    alone = selector.get_indices(scores[:20], ["b"] * 20)
    assert [i for i in both if i < 20] == alone.tolist()
    twins = selector.get_indices(np.tile(scores[:20], 2), ["a"] * 20 + ["b"] * 20)
    assert [i for i in twins if i < 20] != [i - 20 for i in twins if i >= 20]


def test_unusable_groups() -> None:
    selector = FlexRandSelector(keep=1)
    with pytest.raises(ValueError, match="groups must have one key for each of the 2 scores, got 3"):
        selector.get_indices([0.1, 0.2], ["a", "b", "c"])
    with pytest.raises(TypeError, match=r"strings, integers or None, got 0.5. Cast the column first"):
        selector.get_indices([0.1, 0.2], [0.5, 0.5])
    with pytest.raises(TypeError, match="strings, integers or None: unhashable"):
        selector.get_indices([0.1, 0.2], [["a"], ["b"]])
    with pytest.raises(ValueError, match="group_by='topic' is set, so get_indices needs groups="):
        FlexRandSelector(keep=1, group_by="topic").get_indices([0.1, 0.2])


# ---- keep_tokens


@every_selector
@given(data=st.data())
def test_keep_tokens_is_never_exceeded_and_leaves_no_room(
    selector_class: Callable[..., Selector], data: st.DataObject
) -> None:
    scores = data.draw(st.lists(a_score_or_none, min_size=1, max_size=40).filter(scored_rows))
    rows = scored_rows(scores)
    tokens = [data.draw(st.integers(1, 50)) if i in rows else 0 for i in range(len(scores))]
    groups = data.draw(st.sampled_from([None, ["a", "b", "c"]]))
    groups = groups and [groups[i % 3] for i in range(len(scores))]
    budget = data.draw(st.integers(min(tokens[i] for i in rows), sum(tokens)))
    taken = selector_class(keep_tokens=budget).get_indices(scores, groups, tokens).tolist()
    assert taken
    assert taken == sorted(set(taken))
    assert set(taken) <= set(rows)
    left = budget - sum(tokens[i] for i in taken)
    assert left >= 0
    assert all(tokens[i] > left for i in rows if i not in taken)


@given(st.data())
def test_the_halves_of_flexrand_count_tokens(data: st.DataObject) -> None:
    scores = data.draw(st.lists(a_score, min_size=2, max_size=60))
    tokens = [data.draw(st.integers(1, 20)) for _ in scores]
    split = data.draw(a_split)
    budget = data.draw(st.integers(min(tokens), sum(tokens)))
    easy, hard = intervals(scores, split)
    taken = FlexRandSelector(keep_tokens=budget, split=split).get_indices(scores, tokens=tokens)
    parts = ccs(budget, [sum(tokens[i] for i in easy), sum(tokens[i] for i in hard)])
    for interval, part in zip((easy, hard), parts, strict=True):
        # Each interval misses its part by less than a row and can get what the other one missed.
        assert abs(sum(tokens[i] for i in taken if i in interval) - part) <= max(tokens)


def test_rows_of_one_token_are_counted_like_rows() -> None:
    scores = np.random.default_rng(0).random(100)
    for selector_class in SELECTORS:
        by_row = selector_class(keep=37).get_indices(scores)
        by_token = selector_class(keep_tokens=37).get_indices(scores, tokens=np.ones(100, dtype=int))
        assert by_row.tolist() == by_token.tolist()


def test_groups_get_tokens_in_proportion_to_their_tokens() -> None:
    scores = np.random.default_rng(0).random(300)
    groups, tokens = ["long"] * 100 + ["short"] * 200, [30] * 100 + [5] * 200
    taken = FlexRandSelector(keep_tokens=1000).get_indices(scores, groups, tokens)
    assert sum(tokens[i] for i in taken if i < 100) == 750  # three quarters of all tokens are in long rows
    assert sum(tokens[i] for i in taken) == 1000


def test_topk_goes_on_to_shorter_rows() -> None:
    # 40 fits, 90 does not fit into the 60 left, 50 does, 20 does not fit into the 10 left, 10 does.
    scores, tokens = [0.9, 0.8, 0.7, 0.6, 0.5], [40, 90, 50, 20, 10]
    assert TopKSelector(keep_tokens=100).get_indices(scores, tokens=tokens).tolist() == [0, 2, 4]


@every_selector
def test_unusable_tokens(selector_class: Callable[..., Selector]) -> None:
    selector, scores = selector_class(keep_tokens=10), [0.1, 0.2, float("nan")]
    with pytest.raises(ValueError, match="pass tokens="):
        selector.get_indices(scores)
    with pytest.raises(ValueError, match="one whole number for each of the 3 scores"):
        selector.get_indices(scores, tokens=[1, 2])
    with pytest.raises(ValueError, match="1 or more whole tokens, got 0 in row 1"):
        selector.get_indices(scores, tokens=[5, 0, 0])
    with pytest.raises(ValueError, match=r"1 or more whole tokens, got 2.5 in row 0"):
        selector.get_indices(scores, tokens=[2.5, 3, 0])
    with pytest.raises(ValueError, match="1 or more whole tokens, got nan in row 0"):
        selector.get_indices(scores, tokens=[float("nan"), 3, float("nan")])
    with pytest.raises(ValueError, match=r"asks for 10 target tokens, .* hold 9. Ask for at most 9"):
        selector.get_indices(scores, tokens=[4, 5, 100])
    with pytest.raises(ValueError, match="keep_tokens=10 would select no row: the shortest scored row has 11"):
        selector.get_indices(scores, tokens=[11, 12, 0])


# ---- documentation


@pytest.mark.parametrize("module", [flexrand, top_k])
def test_examples(module: Any) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("selector", [FlexRandSelector(keep=2), RandomSelector(keep=2), TopKSelector(keep=2)])
@pytest.mark.parametrize("tokens", [[2, 2, 2, 2], [2], None])
def test_tokens_that_nobody_asks_for_are_not_looked_at(selector: Selector, tokens: list[int] | None) -> None:
    scores = [0.9, 0.1, 0.8, 0.2]
    assert selector.get_indices(scores, tokens=tokens).tolist() == selector.get_indices(scores).tolist()


@given(data=st.data())
def test_top_k_may_draw_a_part_at_random(data: st.DataObject) -> None:
    scores = data.draw(
        st.lists(a_score_or_none, min_size=2, max_size=40).filter(lambda found: len(scored_rows(found)) > 1)
    )
    keep = data.draw(st.integers(1, len(scored_rows(scores))))
    which = data.draw(st.sampled_from(["easiest", "hardest"]))
    part = keep - round(keep * 0.5)
    order = ranked(scores) if which == "easiest" else ranked(scores)[::-1]
    found = TopKSelector(keep=keep, which=which, mix=0.5, seed=1).get_indices(scores)
    assert set(order[:part]) <= set(found.tolist())
    assert len(found) == keep
    with pytest.raises(ValueError, match="mix must be a share of the budget"):
        TopKSelector(keep=keep, mix=1.5).get_indices(scores)


@pytest.mark.parametrize("easy", ["high", "low"])
def test_where_a_rule_changes(easy: str) -> None:
    """The value is between the rows that it parts, whichever scores mean easy rows."""
    rng = np.random.default_rng(0)
    scores = rng.random(50)
    scores[[3, 7]] = np.nan
    hardness = -scores if easy == "high" else scores
    for selector, name, share in (
        (FlexRandSelector(keep=4, split=0.25, column="mine", easy=easy), "split", 0.25),
        (CutSelector(keep=4, cut=0.25, column="mine", easy=easy), "cut", 0.75),
    ):
        [(found, value)] = selector.bounds(scores).items()
        bound = -value if easy == "high" else value
        assert found == name
        assert np.count_nonzero(hardness < bound) == 48 * share
        assert value not in scores
    assert RandomSelector(keep=4).bounds(scores) == {}
    assert CutSelector(keep=4, cut=0.0).bounds(scores) == {}
    assert FlexRandSelector(keep=4, group_by="topic").bounds(scores) == {}
    assert FlexRandSelector(keep=4).bounds(np.array([0.5, np.nan])) == {}
