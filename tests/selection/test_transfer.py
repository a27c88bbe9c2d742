"""Whole groups by votes: a slow oracle, cases by hand, and what may be wrong with the wanted rows."""

from __future__ import annotations

import doctest
import logging
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict
from datasets.fingerprint import Hasher
from hypothesis import given
from hypothesis import strategies as st

from hf_dlc.selection import FlexRandSelector, transfer
from hf_dlc.selection.clusters import Clusters
from hf_dlc.selection.transfer import TransferSelector


NAN = float("nan")

# Few directions, so that ties are frequent; rows of zeros have none.
a_vector = st.sampled_from([(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (-1.0, 0.0), (2.0, 0.0), (1.0, -2.0), (0.0, 0.0)])
a_vector_or_none = st.one_of(a_vector, a_vector, st.just((NAN, 0.0)))
a_score = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])


@pytest.fixture(autouse=True)
def no_warnings_of_few_distinct_rows() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Number of distinct clusters")
        yield


def pool_of(vectors: Sequence[Sequence[float]], labels: Sequence | None = None, **columns: Sequence) -> Dataset:
    pool = Dataset.from_dict({"dlc_features": np.array(vectors, dtype=np.float32), **columns})
    return pool if labels is None else pool.add_column("label", list(labels))


def unit(vector: Sequence[float]) -> list[float]:
    length = math.hypot(*vector) or 1
    return [number / length for number in vector]


def mean(vectors: list[list[float]]) -> list[float]:
    return [sum(numbers) / len(vectors) for numbers in zip(*vectors, strict=True)]


def ranked_groups(
    pool: Sequence, keys: Sequence, wanted: Sequence, labels: Sequence | None = None
) -> list[tuple[int, list[int]]]:
    """Votes and rows of every group, in the order in which they are taken."""
    rows = [row for row, vector in enumerate(pool) if not math.isnan(sum(vector))]
    groups = {
        key: [row for row in rows if keys[row] == key] for key in sorted({keys[row] for row in rows}, key=sort_key)
    }
    vectors = [unit(vector) for vector in wanted if not math.isnan(sum(vector))]
    means = {key: mean([unit(pool[row]) for row in members]) for key, members in groups.items()}
    if labels is None:
        labels = [min(groups, key=lambda key: round(math.dist(vector, means[key]), 6)) for vector in vectors]

    def rank(key: Any) -> tuple[float, float]:
        tie = round(math.dist(means[key], mean(vectors)), 6) if vectors else -len(groups[key])
        return -labels.count(key), tie

    return [(labels.count(key), groups[key]) for key in sorted(groups, key=rank)]


def sort_key(key: str | int | None) -> tuple[str, Any]:
    return type(key).__name__, 0 if key is None else key


def easy_of(members: list[int], scores: Sequence[float], split: float) -> set[int]:
    order = sorted(members, key=lambda row: (-scores[row], row))
    n_easy = min(max(round(len(order) * split), 1), max(len(order) - 1, 0))
    return set(order[:n_easy])


# ---- against the oracle


@given(data=st.data())
def test_whole_groups_by_votes(data: st.DataObject) -> None:
    vectors = data.draw(st.lists(a_vector_or_none, min_size=1, max_size=25).filter(has_a_vector))
    wanted = data.draw(st.lists(a_vector_or_none, min_size=1, max_size=8).filter(has_a_vector))
    keys = data.draw(st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=len(vectors), max_size=25))
    scores = data.draw(st.none() | st.lists(a_score, min_size=len(vectors), max_size=25))
    keys = keys[: len(vectors)]
    groups = ranked_groups(vectors, keys, wanted)
    keep = data.draw(st.integers(1, sum(len(members) for _, members in groups)))
    split = data.draw(st.sampled_from([0.2, 0.5, 0.8]))
    columns = {} if scores is None else {"dlc_confidence": scores[: len(vectors)]}
    selector = TransferSelector(keep=keep, target=np.array(wanted), groups_from="label", split=split)
    found = selector.select(pool_of(vectors, keys, **columns))
    taken, left = set(found.indices.tolist()), keep
    for votes, members in groups:
        part = taken & set(members)
        assert len(part) == min(left, len(members))
        assert {int(found.notes["votes"][found.indices.tolist().index(row)]) for row in part} <= {votes}
        if 0 < left < len(members) and scores is not None:
            easy = easy_of(members, scores, split)
            n_hard = len(members) - len(easy)
            assert len(part & easy) == min(max(round(left / 2), left - n_hard), len(easy), left)
        left -= len(part)
    assert found.notes["votes"].dtype == np.int64


def has_a_vector(vectors: list) -> bool:
    return any(not math.isnan(sum(vector)) for vector in vectors)


@given(data=st.data())
def test_votes_of_a_classifier(data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.sampled_from([3, 1, None, 7]), min_size=1, max_size=25))
    vectors = [(1.0, 0.0)] * len(keys)
    labels = data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=10))
    keep = data.draw(st.integers(1, len(keys)))
    selector = TransferSelector(keep=keep, target=labels, mapping="labels", groups_from="label")
    found = selector.select(pool_of(vectors, keys))
    expected: list[int] = []
    for votes, members in ranked_groups(vectors, keys, [], labels):
        expected += [votes] * len(members)
    assert sorted(found.notes["votes"].tolist(), reverse=True) == expected[:keep]


@given(data=st.data())
def test_clusters_are_groups_of_their_own(data: st.DataObject) -> None:
    """Where the clusters are plain, they serve as classes with the same rows do."""
    centres = [(5.0, 0.0), (0.0, 5.0), (-5.0, 0.0)]
    codes = data.draw(st.lists(st.integers(0, 2), min_size=3, max_size=20).filter(lambda codes: len(set(codes)) == 3))
    vectors = [(x + 0.01 * (row % 3), y + 0.01 * (row % 2)) for row, (x, y) in enumerate(centres[c] for c in codes)]
    wanted = data.draw(st.lists(a_vector.filter(any), min_size=1, max_size=6))
    keep = data.draw(st.integers(1, len(codes)))
    found = TransferSelector(keep=keep, target=np.array(wanted), clusters=3).select(pool_of(vectors))
    seen = list(dict.fromkeys(codes))  # clusters sort by their first rows
    left = keep
    for votes, members in ranked_groups(np.float32(vectors).tolist(), [seen.index(code) for code in codes], wanted):
        part = set(members) & set(found.indices.tolist())
        assert len(part) == min(left, len(members))
        assert {found.notes["votes"][found.indices.tolist().index(row)] for row in part} <= {votes}
        left -= len(part)


@given(data=st.data())
def test_tokens_are_never_exceeded_and_leave_no_room(data: st.DataObject) -> None:
    vectors = data.draw(st.lists(a_vector, min_size=1, max_size=20))
    keys = [["a", "b", "c"][row % 3] for row in range(len(vectors))]
    tokens = [data.draw(st.integers(1, 30)) for _ in vectors]
    scores = data.draw(st.none() | st.lists(a_score, min_size=len(vectors), max_size=20))
    wanted = data.draw(st.lists(a_vector, min_size=1, max_size=5))
    budget = data.draw(st.integers(min(tokens), sum(tokens)))
    columns: dict[str, Any] = {"dlc_tokens": tokens}
    if scores is not None:
        columns["dlc_confidence"] = scores[: len(vectors)]
    selector = TransferSelector(keep_tokens=budget, target=np.array(wanted), groups_from="label")
    taken = set(selector.read_indices(pool_of(vectors, keys, **columns)).tolist())
    left = budget - sum(tokens[row] for row in taken)
    assert left >= 0
    assert all(tokens[row] > left for row in range(len(vectors)) if row not in taken)
    spent = 0
    for _, members in ranked_groups(vectors, keys, wanted):
        cost = sum(tokens[row] for row in members)
        if spent + cost > budget:  # trimmed: none of it fits any more before a later group gets its turn
            rest = budget - spent - sum(tokens[row] for row in members if row in taken)
            assert all(tokens[row] > rest for row in members if row not in taken)
            break
        assert set(members) <= taken
        spent += cost


@given(data=st.data())
def test_a_larger_budget_contains_the_smaller(data: st.DataObject) -> None:
    vectors = data.draw(st.lists(a_vector, min_size=2, max_size=16))
    scores = data.draw(st.none() | st.lists(a_score, min_size=len(vectors), max_size=16))
    scores = scores and scores[: len(vectors)]
    wanted = np.array(data.draw(st.lists(a_vector, min_size=1, max_size=4)))
    smaller: set[int] = set()
    for keep in range(1, len(vectors) + 1):
        found = TransferSelector(keep=keep, target=wanted, seed=3).get_indices(scores, features=np.array(vectors))
        assert smaller < set(found.tolist())
        smaller = set(found.tolist())


# ---- by hand

HAND = [[1, 0], [3, 4], [0, 1], [0, 2], [-1, 0], [-1, 0], [-2, 0]]
HAND_LABELS = ["east", "east", "north", "north", "west", "west", "west"]
# The means: east (.8, .4), north (0, 1), west (-1, 0).


def hand_pool(**columns: Sequence) -> Dataset:
    return pool_of(HAND, HAND_LABELS, **columns)


@pytest.mark.parametrize(
    ("wanted", "votes"),
    [
        # (.6, .8): .447 from east, .632 from north. (0, 7): at north. Two votes for east, one for north.
        ([[3, 4], [3, 4], [0, 7]], {"east": 2, "north": 1, "west": 0}),
        # All votes for west. The mean of the wanted rows, (-1, 0): 1.414 from north, 1.844 from east.
        ([[-5, 0]], {"west": 1, "north": 0, "east": 0}),
        # (0, -1): 1.414 from west, 1.612 from east, 2 from north; the rest goes by the distance too.
        ([[0, -1]], {"west": 1, "east": 0, "north": 0}),
        # One vote each for north and west; their mean (-.5, .5) is .707 from both: the key that sorts first.
        ([[0, 1], [-1, 0]], {"north": 1, "west": 1, "east": 0}),
    ],
)
def test_votes_by_hand(wanted: list[list[float]], votes: dict[str, int]) -> None:
    selector = TransferSelector(target=np.array(wanted, dtype=float), groups_from="label")
    order, seen = list(votes), set()
    for keep in range(1, 8):
        found = replace(selector, keep=keep).select(hand_pool())
        kept = [HAND_LABELS[row] for row in found.indices]
        assert found.notes["votes"].tolist() == [votes[label] for label in kept]
        whole = 0
        for label in order:
            assert (
                kept.count(label) == min(keep - whole, HAND_LABELS.count(label)) if keep > whole else label not in kept
            )
            whole += HAND_LABELS.count(label)
        seen.add(tuple(dict.fromkeys(kept)))
    assert len(seen) == 3


def test_the_mean_is_not_scaled_again() -> None:
    # "far" is spread: its mean is (0, .1), which scaled again would be the direction of the wanted row.
    vectors = [[1, 0.1], [-1, 0.1], [1, 2]]
    found = TransferSelector(keep=1, target=np.array([[0.0, 1.0]]), groups_from="label").select(
        pool_of(vectors, ["far", "far", "near"])
    )
    assert found.indices.tolist() == [2]
    assert found.notes["votes"].tolist() == [1]


def test_distances_go_by_directions_not_lengths() -> None:
    vectors = [[100, 0], [0, 1]]
    found = TransferSelector(keep=1, target=np.array([[1.0, 0.9]]), groups_from="label")
    assert found.read_indices(pool_of(vectors, ["long", "short"])).tolist() == [0]


def test_ties_of_votes_go_to_the_group_that_sorts_first() -> None:
    vectors, wanted = [[0, 1], [1, 0]], np.array([[1.0, 1.0]])  # .765 from both
    assert TransferSelector(keep=1, target=wanted, groups_from="label").read_indices(
        pool_of(vectors, ["b", "a"])
    ).tolist() == [1]
    # Clusters sort by their first rows.
    assert TransferSelector(keep=1, target=wanted, clusters=2).get_indices(features=np.float32(vectors)).tolist() == [
        0
    ]
    nearly = np.array([[1.0 + 1e-9, 1.0]])  # a machine may compute so
    assert TransferSelector(keep=1, target=nearly, clusters=2).get_indices(features=np.float32(vectors)).tolist() == [
        0
    ]


def test_the_last_group_is_trimmed_by_flexrand() -> None:
    labels, confidence = ["a"] * 10 + ["b"] * 5, np.arange(15) / 15
    vectors = [[1, 0]] * 10 + [[0, 1]] * 5
    pool = pool_of(vectors, labels, dlc_confidence=confidence, dlc_loss=-confidence, length=confidence)
    for easy_rows, options in (
        ([8, 9], {}),
        ([8, 9], {"column": "dlc_loss", "easy": "auto"}),
        ([0, 1], {"column": "dlc_loss", "easy": "high"}),
        ([0, 1], {"column": "length", "easy": "low"}),
    ):
        selector = TransferSelector(keep=4, target=np.array([[1.0, 0.0]]), groups_from="label", split=0.2, **options)
        taken = selector.read_indices(pool)
        assert set(easy_rows) <= set(taken.tolist())  # the two rows of the easy interval, and two of the eight others
        assert taken.max() < 10
    with pytest.raises(ValueError, match=r"got column='length'. Pass easy='high' if a high score"):
        TransferSelector(keep=10, target=np.array([[1.0, 0.0]]), column="length", clusters=2)(pool)


def test_votes_of_labels_by_hand() -> None:
    taken = TransferSelector(keep=5, target=["west"], mapping="labels", groups_from="label").select(hand_pool())
    # One vote for west. East and north have as many rows: the key that sorts first.
    assert taken.indices.tolist() == [0, 1, 4, 5, 6]
    assert taken.notes["votes"].tolist() == [0, 0, 1, 1, 1]
    assert taken.reasons.tolist() == ["kept", "kept", "not_chosen", "not_chosen", "kept", "kept", "kept"]


def test_of_labels_alone_the_larger_group_comes_first() -> None:
    selector = TransferSelector(keep=5, target=["north"], mapping="labels", groups_from="label")
    assert selector.read_indices(hand_pool()).tolist() == [2, 3, 4, 5, 6]


def test_labels_beside_vectors_vote_and_vectors_break_ties() -> None:
    wanted = pool_of([[0, 1]], ["west"])
    selector = TransferSelector(keep=5, target=wanted, mapping="labels", groups_from="label")
    assert selector.read_indices(hand_pool()).tolist() == [2, 3, 4, 5, 6]
    assert replace(selector, mapping="features", keep=2).read_indices(hand_pool()).tolist() == [2, 3]


def test_without_a_classifier_both_mappings_are_the_same() -> None:
    rng = np.random.default_rng(0)
    pool = pool_of(rng.normal(size=(60, 4)), rng.integers(0, 6, 60).tolist())
    for target in (rng.normal(size=(9, 4)), pool_of(rng.normal(size=(9, 4)))):
        found = [
            TransferSelector(keep=30, target=target, mapping=mapping, groups_from="label").select(pool)
            for mapping in ("features", "labels")
        ]
        assert found[0].indices.tolist() == found[1].indices.tolist()
        assert found[0].notes["votes"].tolist() == found[1].notes["votes"].tolist()


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda labels: Dataset.from_dict({"label": labels})])
def test_labels_in_any_shape(kind: Any) -> None:
    numbers = [["east", "north", "west"].index(label) for label in HAND_LABELS]
    for labels, names in (([0, 2, 0, 2, 2], numbers), (["east", "west", "east", "west", "west"], HAND_LABELS)):
        pool = pool_of(HAND, names)
        selector = TransferSelector(keep=4, target=kind(labels), mapping="labels", groups_from="label")
        found = selector.select(pool)
        assert [HAND_LABELS[row] for row in found.indices].count("west") == 3
        assert found.notes["votes"].tolist().count(2) == 1
        with pytest.raises(ValueError, match="the labels in target must be classes of the pool, got"):
            replace(selector, target=kind(list(map(str, labels)) if names is numbers else [1, 2])).select(pool)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_vectors_of_any_type_and_shape(dtype: type) -> None:
    features = np.array(HAND, dtype=dtype)
    expected = TransferSelector(keep=4, target=np.array([[3.0, 4.0]]), clusters=3).get_indices(features=features)
    for target in ([[3, 4]], [[3.0, 4.0]], np.array([[3, 4]]), np.array([[3, 4]], dtype=dtype), pool_of([[3, 4]])):
        found = TransferSelector(keep=4, target=target, clusters=3).get_indices(features=features)
        assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("factor", [1e-200, 1e-5, 1e200])
def test_vectors_of_any_length(factor: float) -> None:
    selector = TransferSelector(keep=3, target=np.array([[0.0, 1.0]]) * factor, clusters=3)
    assert selector.get_indices(features=np.array(HAND) * factor).tolist() == [1, 2, 3]


def test_inputs_are_not_written_to() -> None:
    features, wanted, scores = np.array(HAND, dtype=float), np.array([[3.0, 4.0]]), np.arange(7.0)
    for values in (features, wanted, scores):
        values.setflags(write=False)
    TransferSelector(keep=3, target=wanted).get_indices(scores, features=features)


# ---- rows that are left out


def test_rows_without_a_vector_or_a_score_are_never_taken(caplog: pytest.LogCaptureFixture) -> None:
    vectors = [[1, 0], [NAN, 0], [1, 0], [0, 1], [float("inf"), 1]]
    pool = pool_of(vectors, list("aaabb"), dlc_confidence=[0.1, 0.2, NAN, 0.4, 0.5])
    selector = TransferSelector(keep=2, target=np.array([[1.0, 0.0]]), groups_from="label")
    found = selector.select(pool)
    assert found.indices.tolist() == [0, 3]
    assert found.reasons.tolist() == ["kept", "no_score", "no_score", "kept", "no_score"]
    with pytest.raises(ValueError, match="asks for 3 rows, but the 2 rows that have a score"):
        replace(selector, keep=3).select(pool)
    with pytest.raises(ValueError, match=r"3 of 5 rows have no score \(NaN\), the first is row 1"):
        replace(selector, missing="error").select(pool)


def test_rows_that_may_not_be_taken_move_no_mean() -> None:
    # With row 1, the mean of "a" would be (.5, .5), and the wanted row nearer to "b".
    pool = pool_of([[1, 0], [0, 1], [0.5, -0.9]], list("aab"), dup_of=[-1, 0, -1])
    selector = TransferSelector(keep=1, target=np.array([[0.9, -0.3]]), groups_from="label")
    assert selector.read_indices(pool).tolist() == [2]
    assert replace(selector, drop_duplicates=True).read_indices(pool).tolist() == [0]


def test_wanted_rows_without_a_vector_do_not_vote(caplog: pytest.LogCaptureFixture) -> None:
    wanted = np.array([[0.0, 1.0], [NAN, 1.0], [1.0, float("inf")]])
    with caplog.at_level(logging.INFO, logger="hf_dlc.selection"):
        found = TransferSelector(keep=2, target=wanted, groups_from="label").select(hand_pool())
    assert found.notes["votes"].tolist() == [1, 1]
    assert found.indices.tolist() == [2, 3]
    assert caplog.text.count("wanted rows have no features") == 1
    assert "2 of 3 wanted rows have no features and are left out" in caplog.text
    for target in (wanted[1:], pool_of(wanted[1:])):
        with pytest.raises(ValueError, match="none of the 2 wanted rows in target has features"):
            TransferSelector(keep=2, target=target, groups_from="label").select(hand_pool())


# ---- groups of group_by


def test_votes_are_counted_within_each_group() -> None:
    topics = ["x", "y", "x", "y", "x", "y", "y"]
    pool = hand_pool(topic=topics)
    # In x the wanted row is .894 from (1, 0), .632 from (0, 1); in y .0 from (.6, .8).
    found = TransferSelector(keep=2, target=np.array([[3.0, 4.0]]), groups_from="label", group_by="topic").select(pool)
    assert found.indices.tolist() == [1, 2]
    assert found.notes["votes"].tolist() == [1, 1]
    every = TransferSelector(keep=7, target=np.array([[3.0, 4.0]]), groups_from="label", group_by="topic").select(pool)
    assert every.notes["votes"].tolist() == [0, 1, 1, 0, 0, 0, 0]


def test_labels_of_one_group_are_no_mistake_in_another() -> None:
    pool = hand_pool(topic=["x", "x", "x", "x", "y", "y", "y"])
    selector = TransferSelector(keep=2, target=["north"], mapping="labels", groups_from="label", group_by="topic")
    found = selector.select(pool)
    assert [HAND_LABELS[row] for row in found.indices] == ["north", "west"]
    assert found.notes["votes"].tolist() == [1, 0]


@given(data=st.data())
def test_group_totals_are_exact_and_independent_of_order(data: st.DataObject) -> None:
    n_rows = data.draw(st.integers(2, 24))
    groups = data.draw(st.lists(st.sampled_from(["a", "b", None]), min_size=n_rows, max_size=n_rows))
    features = np.random.default_rng(n_rows).normal(size=(n_rows, 3))
    scores = data.draw(st.none() | st.lists(a_score, min_size=n_rows, max_size=n_rows))
    keep = data.draw(st.integers(1, n_rows))
    selector = TransferSelector(keep=keep, target=features[:2])
    taken = selector.get_indices(scores, groups, features=features).tolist()
    assert len(set(taken)) == keep
    plain = FlexRandSelector(keep=keep).get_indices(np.zeros(n_rows), groups).tolist()
    for key in set(groups):
        assert sum(groups[row] == key for row in taken) == sum(groups[row] == key for row in plain)


def test_a_groups_draw_does_not_depend_on_the_others() -> None:
    rng = np.random.default_rng(0)
    features, scores = rng.normal(size=(40, 3)), rng.random(40)
    for given_scores in (None, scores):
        selector = TransferSelector(keep=0.5, target=features[:3], seed=4)

        def taken(
            rows: np.ndarray,
            groups: list[str],
            selector: TransferSelector = selector,
            given_scores: np.ndarray | None = given_scores,
        ) -> list[int]:
            part = None if given_scores is None else given_scores[rows]
            return rows[selector.get_indices(part, groups, features=features[rows])].tolist()

        rows = np.arange(40)
        both = taken(rows, ["b"] * 20 + ["a"] * 20)
        assert sorted(taken(np.roll(rows, 20), ["a"] * 20 + ["b"] * 20)) == both
        assert [row for row in both if row < 20] == taken(rows[:20], ["b"] * 20)


def test_equal_groups_draw_differently() -> None:
    features = np.tile([[1.0, 0.0]], (40, 1))
    for scores in (None, np.tile(np.arange(20.0), 2)):
        taken = TransferSelector(keep=0.5, target=features[:1], clusters=1).get_indices(
            scores, ["a"] * 20 + ["b"] * 20, features=features
        )
        assert [row for row in taken if row < 20] != [row - 20 for row in taken if row >= 20]


def test_small_groups_and_empty_ones() -> None:
    features = np.array([[1.0, 0.0], [0.0, 1.0], [NAN, 1.0], [-1.0, 0.0]])
    selector = TransferSelector(keep=3, target=np.array([[1.0, 0.0]]), clusters=3)
    assert selector.get_indices(None, ["a", "a", "b", "c"], features=features).tolist() == [0, 1, 3]


# ---- clusters


@pytest.mark.parametrize(("n_rows", "expected"), [(1, 1), (2, 2), (5, 2), (9, 3), (30, 5), (31, 6)])
def test_number_of_clusters(n_rows: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    clusters = transfer.find_clusters

    def watch(features: np.ndarray, count: int, seed: int) -> Clusters:
        counts.append(count)
        return clusters(features, count, seed)

    monkeypatch.setattr(transfer, "find_clusters", watch)
    features = np.random.default_rng(0).normal(size=(n_rows, 3))
    TransferSelector(keep=1, target=features).get_indices(features=features)
    assert counts == [expected]


def test_at_most_1000_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []

    def every_row_alike(features: np.ndarray, count: int, seed: int) -> Clusters:
        counts.append(count)
        return Clusters(np.zeros(len(features), dtype=int), np.zeros(len(features)), features[:1])

    monkeypatch.setattr(transfer, "find_clusters", every_row_alike)
    features = np.ones((1_100_000, 1), dtype=np.float16)
    TransferSelector(keep=1, target=features[:1]).get_indices(features=features)
    assert counts == [1000]


def test_clusters_that_lie_apart_are_taken_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_NUMBERS_AT_ONCE", 64)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, 500)
    features = np.eye(3)[codes] + rng.normal(size=(500, 3)) / 50
    found = TransferSelector(keep=int(np.count_nonzero(codes == 1)), target=np.array([[0.0, 1.0, 0.0]]), clusters=3)
    assert found.get_indices(features=features).tolist() == np.flatnonzero(codes == 1).tolist()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pool, wanted = pool_of(rng.normal(size=(90, 5)), rng.integers(0, 7, 90).tolist()), rng.normal(size=(40, 5))
    selector = TransferSelector(keep=40, target=wanted, groups_from="label")
    expected = selector.select(pool)
    monkeypatch.setattr(transfer, "_NUMBERS_AT_ONCE", 10)
    found = selector.select(pool)
    assert found.indices.tolist() == expected.indices.tolist()
    assert found.notes["votes"].tolist() == expected.notes["votes"].tolist()


def test_scikit_learn_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ImportError, match=r"pip install 'hf-dlc\[clusters\]'"):
        TransferSelector(keep=1, target=np.ones((1, 2))).get_indices(features=np.ones((4, 2)))
    TransferSelector(keep=1, target=np.ones((1, 2)), groups_from="label")(hand_pool())


# ---- seeds


def test_seeds() -> None:
    rng = np.random.default_rng(0)
    features, scores = rng.normal(size=(200, 4)), rng.random(200)
    for given_scores in (None, scores):

        def taken(seed: Any, given_scores: np.ndarray | None = given_scores) -> list[int]:
            selector = TransferSelector(keep=0.3, target=features[:5], seed=seed)
            return selector.get_indices(given_scores, features=features).tolist()

        first = taken(1)
        assert taken(1) == first
        assert taken(np.int64(1)) == first
        assert taken(2) != first
        assert len(taken(2**80)) == 60
    for seed in (-1, None, 0.5, True):
        with pytest.raises(ValueError, match="seed must be a non-negative int, got"):
            TransferSelector(keep=7, target=np.ones((1, 2)), groups_from="label", seed=seed)(hand_pool())


def test_the_global_generator_is_left_alone() -> None:
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    features = np.random.default_rng(0).normal(size=(30, 4))
    TransferSelector(keep=5, target=features[:2]).get_indices(features=features)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


RECORDED = """
import sys
import numpy as np
from hf_dlc.selection.transfer import TransferSelector
numbers = np.arange(90) * 7919 % 101 / 101 - 0.5
features, scores = numbers.reshape(30, 3), numbers[:30]
groups = [["law", "code", None][i % 3] for i in range(30)]
print(sorted(m for m in ("torch", "transformers", "datasets", "sklearn") if m in sys.modules))
selector = TransferSelector(keep=8, target=features[:4] + 0.1, seed=5)
print(selector.get_indices(scores, features=features).tolist())
print(selector.get_indices(scores, groups, features=features).tolist())
print(selector.get_indices(features=features).tolist())
"""


def test_draws_are_the_same_in_every_process() -> None:
    found = []
    for hash_seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([sys.executable, "-c", RECORDED], env=env, capture_output=True, text=True, check=True)
        found.append(done.stdout.splitlines())
    assert found[0] == found[1]
    assert found[0][0] == "[]"
    assert len(found[0]) == 4


# ---- unusable targets and parameters


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": None}, "target must be the wanted rows, got none. Pass target="),
        ({"target": []}, "target must hold at least one wanted row, got none"),
        ({"target": np.empty((0, 2))}, "target must hold at least one wanted row, got none"),
        ({"target": pool_of([[1, 0]]).select([])}, "target must hold at least one wanted row, got none"),
        (
            {"target": [1.0, 0.0]},
            r"array of numbers of shape \(wanted, size\), got list of shape \(2,\) and dtype flo",
        ),
        ({"target": ["a", "b"]}, r"must be a Dataset or an array of numbers of shape \(wanted, size\), got list"),
        ({"target": [["a", "b"]]}, "must be a Dataset or an array of numbers"),
        ({"target": [[1.0], [1.0, 2.0]]}, "must be a Dataset or an array of numbers"),
        ({"target": np.empty((3, 0))}, r"got ndarray of shape \(3, 0\)"),
        ({"target": DatasetDict(train=pool_of([[1, 0]]))}, "target must be one Dataset, got DatasetDict"),
        ({"target": np.ones((2, 3))}, "must be of the size of those of the pool, 2, got 3. Score both"),
        ({"target": pool_of(np.ones((2, 5)))}, "must be of the size of those of the pool, 2, got 5"),
        ({"target": Dataset.from_dict({"a": [1]})}, r"must have the column 'dlc_features' of features, got \['a'\]"),
        (
            {"target": Dataset.from_dict({"a": [1]}), "mapping": "labels", "groups_from": "label"},
            r"must have the column 'dlc_features' of features, or 'label' of predicted labels, got \['a'\]",
        ),
        ({"target": ["a"], "mapping": "labels"}, "mapping='labels' needs the classes of the pool. Pass groups_from="),
        (
            {"target": [["a"], ["b"]], "mapping": "labels", "groups_from": "label"},
            r"of shape \(wanted, size\), got list of shape \(2, 1\)",
        ),
        (
            {"target": ["h", "c", "west", "d", "e", "f", "g", 1], "mapping": "labels", "groups_from": "label"},
            r"got int:1, str:c, str:d, str:e, str:f, ...; there are str:east, str:north, str:west \(type:label\)",
        ),
        ({"mapping": "votes"}, "mapping must be 'features' or 'labels', got 'votes'"),
        ({"groups_from": "class"}, r"Column 'class' not found; the dataset has .* Pass groups_from= one of these"),
        ({"clusters": 8}, "clusters must be at most the number of rows that may be taken, got 8 for 7 rows"),
        ({"clusters": 0}, "clusters must be an int, at least 1, or None, got 0"),
        ({"clusters": 2.5}, "clusters must be an int, at least 1, or None, got 2.5"),
        ({"clusters": True}, "clusters must be an int, at least 1, or None, got True"),
        (
            {"clusters": 2, "groups_from": "label"},
            "either clusters or classes, got clusters=2 and groups_from='label'",
        ),
        ({"split": 1.0}, "split must lie strictly between 0 and 1, got 1.0"),
        ({"features_column": "v"}, r"Column 'v' not found; the dataset has \['dlc_features', 'label'\]"),
        ({"keep": None}, "Pass one of keep and keep_tokens, got None and None"),
        ({"missing": "keep"}, "missing must be 'drop' or 'error', got 'keep'"),
    ],
)
def test_what_cannot_be_used(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransferSelector(**{"keep": 2, "target": np.ones((1, 2)), **options}).select(hand_pool())


def test_labels_that_are_no_keys() -> None:
    with pytest.raises(TypeError, match=r"group keys must be strings, integers or None, got 0.5"):
        TransferSelector(keep=1, target=[0.5], mapping="labels", groups_from="label").select(hand_pool())


def test_classes_are_read_from_a_dataset_only() -> None:
    with pytest.raises(
        ValueError, match="groups_from='label' is the name of a column, which get_indices does not see"
    ):
        TransferSelector(keep=1, target=np.ones((1, 2)), groups_from="label").get_indices(features=np.ones((4, 2)))


def test_wrong_orientation_is_refused_also_where_nothing_is_trimmed() -> None:
    with pytest.raises(ValueError, match="easy must be 'auto', 'high' or 'low', got 'yes'"):
        TransferSelector(keep=7, target=np.ones((1, 2)), easy="yes").get_indices(
            np.arange(7), features=np.float32(HAND)
        )


def test_features_are_needed() -> None:
    with pytest.raises(ValueError, match="TransferSelector needs the features of every row: pass features="):
        TransferSelector(keep=1, target=np.ones((1, 2))).get_indices([0.1, 0.2])


def test_vectors_of_different_models(caplog: pytest.LogCaptureFixture) -> None:
    pool, wanted = hand_pool(dlc_features_by=["model a"] * 7), pool_of([[1, 0]], dlc_features_by=["model b"])
    selector = TransferSelector(keep=2, groups_from="label")
    with pytest.raises(
        ValueError, match=r"of the pool \(model a\) and of the wanted rows \(model b\) do not compare. Score both"
    ):
        replace(selector, target=wanted).select(pool)
    replace(selector, target=pool_of([[1, 0]], dlc_features_by=["model a"])).select(pool)
    assert not caplog.text
    replace(selector, target=pool_of([[1, 0]])).select(pool)
    assert "Only one dataset says how the features in 'dlc_features' were made" in caplog.text
    # Labels come without vectors that would have to compare.
    labels = Dataset.from_dict({"label": ["west"], "dlc_features_by": ["model b"]})
    assert replace(selector, target=labels, mapping="labels").read_indices(pool).max() == 6


def test_labels_of_another_task() -> None:
    names = ["east", "north", "west"]
    pool = pool_of(HAND).add_column("label", [names.index(n) for n in HAND_LABELS], feature=ClassLabel(names=names))
    wanted = Dataset.from_dict({"row": [0, 1]})
    predicted = wanted.add_column("label", [2, 2], feature=ClassLabel(names=names))
    selector = TransferSelector(keep=3, mapping="labels", groups_from="label")
    assert replace(selector, target=predicted).read_indices(pool).tolist() == [4, 5, 6]
    own = wanted.add_column("label", [2, 2], feature=ClassLabel(names=["cat", "dog", "owl"]))
    with pytest.raises(
        ValueError, match=r"must be those of the pool, east, north, west; target has cat, dog, owl. Predict"
    ):
        replace(selector, target=own).select(pool)


def test_the_pool_may_be_its_own_target() -> None:
    pool = hand_pool()
    found = TransferSelector(keep=3, target=pool, groups_from="label").select(pool)
    assert found.indices.tolist() == [4, 5, 6]
    assert found.notes["votes"].tolist() == [3, 3, 3]
    assert len(TransferSelector(keep=3, target=pool)(pool)) == 3


# ---- the selector as an object


@pytest.mark.parametrize("target", [np.ones((3, 2)), pool_of(np.ones((3, 2))), ["west"]])
def test_a_target_can_be_held(target: Any) -> None:
    selector = TransferSelector(keep=2, target=target, seed=1)
    assert selector == TransferSelector(keep=2, target=deepcopy(target), seed=1)
    assert selector != replace(selector, seed=2)
    assert "target" not in repr(selector)
    assert set(asdict(selector)) >= {"keep", "target", "mapping", "groups_from", "clusters", "split", "seed"}
    assert selector.target is target
    assert replace(selector, keep=1).target is target
    before = Hasher.hash(selector)
    if not isinstance(target, list):
        selector.get_indices(features=np.float32(HAND))
    assert Hasher.hash(selector) == before
    assert Hasher.hash(replace(selector, target=[["other"]])) != before


def test_the_default_can_be_made_and_described() -> None:
    assert TransferSelector().name == "transfer"
    TransferSelector().check()
    assert TransferSelector().sentence() == (
        "The clusters of rows with the most votes of the wanted rows were taken whole, the last one in part."
    )
    assert TransferSelector(groups_from="label", group_by="topic").sentence("<{}>".format) == (
        "The classes of rows with the most votes of the wanted rows were taken whole, the last one in part, within "
        "the groups of <topic>."
    )


def test_a_dataset_in_any_format_and_split_by_split() -> None:
    pool = hand_pool().select(range(6, -1, -1))
    selector = TransferSelector(keep=3, target=hand_pool().select([4]).with_format("numpy"), groups_from="label")
    assert selector(pool)["label"][:] == ["west"] * 3
    for formatted in (pool.with_format("numpy"), pool.with_format("pandas"), pool.flatten_indices()):
        assert selector(formatted).with_format(None)["label"][:] == ["west"] * 3
    subset = selector(DatasetDict(train=pool, test=pool.select([0, 3, 5])))
    assert {name: len(split) for name, split in subset.items()} == {"train": 3, "test": 3}


def test_examples() -> None:
    result = doctest.testmod(transfer)
    assert result.attempted > 0
    assert result.failed == 0
