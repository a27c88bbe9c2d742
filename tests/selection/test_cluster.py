"""Clusters, the parts of the budget that they get, and the rows that are taken of each."""

from __future__ import annotations

import doctest
import logging
import math
import sys
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_dlc.selection import cluster, clusters
from hf_dlc.selection.budget import share_out
from hf_dlc.selection.cluster import ClusterSelector, density_parts, nearest_within
from hf_dlc.selection.clusters import Clusters, find_clusters
from hf_dlc.selection.ordering import drawn_order, split_groups


NAN = float("nan")
CHOICES = ["easiest", "random", "farthest", "nearest"]
SHARES = ["proportional", "density"]

a_part = st.floats(0, 20, allow_subnormal=False)


def blobs(directions: list[int], spread: float = 0.01) -> np.ndarray:
    """Vectors near to the axes of these numbers."""
    return np.eye(8)[directions] + spread * np.random.default_rng(0).random((len(directions), 8))


def selection_by_hand(
    selector: ClusterSelector,
    features: np.ndarray,
    scores: list[float],
    costs: list[int],
    budget: int,
    group: str | None,
) -> list[int]:
    """Rows that are taken of one group without skipped rows, cluster by cluster, by plain loops."""
    found = find_clusters(features, selector.clusters, selector.seed)
    drawn = drawn_order(len(features), selector.seed, group).tolist()
    rank = {
        "easiest": lambda i: -scores[i],
        "random": drawn.index,
        "nearest": lambda i: found.distances[i],
        "farthest": lambda i: -found.distances[i],
    }[selector.choose]
    members = [
        sorted((i for i in range(len(features)) if found.labels[i] == label), key=lambda i: (rank(i), i))
        for label in range(len(found.centroids))
    ]
    sizes = [sum(costs[i] for i in rows) for rows in members]
    if selector.shares == "proportional":
        parts = share_out(budget, sizes, sizes)
    else:
        parts = density_parts(found, sizes, budget, selector.temperature)
    taken, left = [], budget
    for rows, part in zip(members, parts, strict=True):
        for i in rows:
            if costs[i] <= part:
                part -= costs[i]
                taken.append(i)
    left -= sum(costs[i] for i in taken)
    others = [[i for i in rows if i not in taken] for rows in members]
    for turn in range(len(features)):
        for rows in others:
            if turn < len(rows) and costs[rows[turn]] <= left:
                taken.append(rows[turn])
                left -= costs[rows[turn]]
    return sorted(taken)


# ---- clusters


def test_clusters_are_found_and_numbered_by_their_first_rows() -> None:
    directions = [3, 3, 0, 5, 0, 3, 5, 5]
    for seed in range(20):
        found = find_clusters(blobs(directions), 3, seed)
        assert found.labels.tolist() == [0, 0, 1, 2, 1, 0, 2, 2]
        np.testing.assert_allclose(found.centroids @ np.eye(8)[[3, 0, 5]].T, np.eye(3), atol=0.03)
        np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1, rtol=1e-6)


@given(st.integers(1, 12), st.integers(0, 3), st.integers(1, 5), st.data())
@settings(max_examples=40)
def test_each_row_belongs_to_the_nearest_centroid(count: int, seed: int, block: int, data: st.DataObject) -> None:
    a_vector = st.lists(st.integers(-2, 2), min_size=3, max_size=3)
    vectors = data.draw(st.lists(a_vector, min_size=1, max_size=20))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters, "_ROWS_AT_ONCE", block)
        found = find_clusters(np.array(vectors, dtype=np.float16), count, seed)
    assert 1 <= len(found.centroids) <= min(count, len(set(map(tuple, vectors))))
    firsts = [found.labels.tolist().index(label) for label in range(len(found.centroids))]
    assert firsts == sorted(firsts)
    assert found.labels.max() == len(found.centroids) - 1
    for vector, label, distance in zip(vectors, found.labels, found.distances, strict=True):
        distances = [1 - np.dot(vector, centroid) / (math.hypot(*vector) or 1) for centroid in found.centroids]
        assert distance == pytest.approx(min(distances), abs=2e-6)
        assert distances[label] == pytest.approx(min(distances), abs=2e-6)


@pytest.mark.parametrize("full", [True, False])
def test_equal_rows_make_fewer_clusters(
    full: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    if not full:
        monkeypatch.setattr(clusters, "_FULL_UP_TO", 1)
    with caplog.at_level(logging.INFO, logger="hf_dlc.selection"):
        assert find_clusters(np.ones((7, 3)), 5, 0).labels.tolist() == [0] * 7
        assert find_clusters(np.eye(3)[[2, 1, 2, 1]], 9, 0).labels.tolist() == [0, 1, 0, 1]
        assert find_clusters(np.eye(3)[[2, 1, 2, 1]], 2, 0).labels.tolist() == [0, 1, 0, 1]
    assert [record.getMessage() for record in caplog.records] == [
        "k-means found 1 of 5 clusters among 7 rows.",
        "k-means found 2 of 9 clusters among 4 rows.",
    ]
    assert not recwarn.list


def test_many_rows_are_clustered_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    directions = [i % 3 for i in range(900)]
    directions.sort()  # the order of the rows must not decide what the first batch sees
    features = blobs(directions)
    whole = find_clusters(features, 3, 0)
    monkeypatch.setattr(clusters, "_FULL_UP_TO", 899)
    monkeypatch.setattr(clusters, "_BATCH", 64)
    in_batches = find_clusters(features, 3, 0)
    assert in_batches.labels.tolist() == whole.labels.tolist() == directions
    np.testing.assert_allclose(in_batches.centroids, whole.centroids, atol=1e-3)
    assert find_clusters(features, 3, 0).centroids.tobytes() == in_batches.centroids.tobytes()
    assert find_clusters(features, 400, 0).labels.max() < 400  # more clusters than rows in a batch


@pytest.mark.parametrize("full_up_to", [10, 10_000])
def test_the_number_of_threads_does_not_matter(full_up_to: int, monkeypatch: pytest.MonkeyPatch) -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    monkeypatch.setattr(clusters, "_FULL_UP_TO", full_up_to)
    features = np.random.default_rng(0).normal(size=(4000, 12))
    found = []
    for threads in (1, 2, 3):
        with threadpoolctl.threadpool_limits(threads):
            found.append(find_clusters(features, 12, 0))
    assert len({one.centroids.tobytes() for one in found}) == 1
    assert len({one.labels.tobytes() for one in found}) == 1


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ImportError, match="pip install 'hf-dlc"):
        ClusterSelector(keep=1, choose="random").get_indices(features=np.eye(3))


# ---- parts by density


@given(st.lists(st.tuples(a_part, a_part, a_part), min_size=1, max_size=6), st.floats(0, 1))
def test_no_exchange_comes_nearer_to_what_is_wanted(numbers: list[tuple[float, ...]], at: float) -> None:
    wanted, low, more = map(np.array, zip(*numbers, strict=True))
    high = low + more
    total = low.sum() + at * more.sum()
    found = nearest_within(wanted, low, high, total)
    assert found.sum() == pytest.approx(total, abs=1e-9)
    assert (low <= found).all()
    assert (found <= high).all()
    # The programme is convex: it is solved when no part that may fall stands farther above what is wanted than one
    # that may rise.
    above = found - wanted
    may_fall, may_rise = above[found > low + 1e-9], above[found < high - 1e-9]
    assert max(may_fall, default=-math.inf) <= min(may_rise, default=math.inf) + 1e-9


@given(st.lists(st.tuples(a_part, a_part, a_part), min_size=2, max_size=4), st.floats(0, 1))
@settings(max_examples=20)
def test_the_quadratic_programme_is_solved_as_by_scipy(numbers: list[tuple[float, ...]], at: float) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    wanted, low, more = map(np.array, zip(*numbers, strict=True))
    high = low + more
    total = low.sum() + at * more.sum()
    expected = optimize.minimize(
        lambda x: ((x - wanted) ** 2).sum() / 2,
        low + at * more,
        jac=lambda x: x - wanted,
        bounds=list(zip(low, high, strict=True)),
        constraints={"type": "eq", "fun": lambda x: x.sum() - total, "jac": lambda x: np.ones(len(x))},
        options={"ftol": 1e-12},
    )
    value = ((nearest_within(wanted, low, high, total) - wanted) ** 2).sum() / 2
    assert value <= expected.fun + 1e-5 * (1 + expected.fun)


def two_clusters(first_width: float, second_width: float) -> Clusters:
    """At right angles to each other, so that their distance is 1."""
    widths = np.array([first_width, second_width] * 2, dtype=np.float32)
    return Clusters(np.array([0, 1, 0, 1]), widths, np.eye(2, dtype=np.float32))


def test_density_by_hand() -> None:
    # softmax(0.1 / 0.5, 0.3 / 0.5) is 0.401, 0.599.
    assert density_parts(two_clusters(0.1, 0.3), [100, 100], 10, 0.5) == [4, 6]
    assert density_parts(two_clusters(0.1, 0.3), [100, 5], 10, 0.5) == [5, 5]  # no more than there is
    # The first has a share near 0 and gets half of an equal part, 2.5; of equal remainders the first gets the unit.
    assert density_parts(two_clusters(0.1, 0.3), [100, 100], 10, 0.001) == [3, 7]
    assert density_parts(two_clusters(0.1, 0.3), [2, 100], 10, 0.001) == [1, 9]  # its size less 1
    assert density_parts(two_clusters(0.1, 0.3), [100, 100], 200, 0.5) == [100, 100]
    assert density_parts(two_clusters(0.1, 0.3), [100, 100], 0, 0.5) == [0, 0]
    assert density_parts(two_clusters(0.2, 0.2), [100, 100], 7, 0.5) == [4, 3]
    # Many tokens: 0.401312 and 0.598688 of 10^9.
    parts = density_parts(two_clusters(0.1, 0.3), [10**9, 10**9], 10**9, 0.5)
    assert parts == [pytest.approx(401_312_340, abs=20), pytest.approx(598_687_660, abs=20)]
    assert sum(parts) == 10**9


def test_clusters_far_from_the_others_get_more() -> None:
    # Two clusters 0.2 from each other and 1 from the third: the mean distances to the others are 0.6, 0.6 and 1.
    centroids = np.array([[1, 0, 0], [0.8, 0.6, 0], [0, 0, 1]], dtype=np.float32)
    found = Clusters(np.arange(3), np.full(3, 0.5, dtype=np.float32), centroids)
    # softmax(0.6, 0.6, 1) is 0.286, 0.286, 0.427.
    assert density_parts(found, [99, 99, 99], 100, 0.5) == [29, 28, 43]
    alone = Clusters(np.zeros(3, dtype=int), np.full(3, 0.5, dtype=np.float32), centroids[:1])
    assert density_parts(alone, [99], 42, 0.5) == [42]


def test_only_the_nearest_centroids_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_NEIGHBOURS", 1)
    centroids = np.array([[1, 0, 0], [0.8, 0.6, 0], [0, 0, 1]], dtype=np.float32)
    found = Clusters(np.arange(3), np.full(3, 0.5, dtype=np.float32), centroids)
    # softmax(0.2, 0.2, 1) is 0.23666, 0.23666, 0.52669; of the two units left the third gets one, and the first.
    assert density_parts(found, [999] * 3, 1000, 0.5) == [237, 236, 527]


@given(st.lists(st.tuples(st.integers(1, 30), st.floats(0, 1)), min_size=1, max_size=6), st.data())
def test_parts_by_density_are_whole_and_exact(sizes_and_widths: list[tuple[int, float]], data: st.DataObject) -> None:
    sizes, widths = zip(*sizes_and_widths, strict=True)
    budget = data.draw(st.integers(0, sum(sizes)))
    temperature = data.draw(st.sampled_from([1e-6, 0.1, 0.5, 10.0]))
    count = len(sizes)
    found = Clusters(np.arange(count), np.array(widths, dtype=np.float32), np.eye(count, dtype=np.float32))
    parts = density_parts(found, sizes, budget, temperature)
    assert sum(parts) == budget
    logits = (count > 1) * np.array(widths, dtype=np.float32).astype(float) / temperature
    density = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    low = [min(budget / count / 2, size - 1) for size in sizes]
    exact = nearest_within(density * budget, np.array(low), np.array(sizes, dtype=float), budget)
    for part, size, real in zip(parts, sizes, exact, strict=True):
        assert 0 <= part <= size
        assert abs(part - real) < 1 + 1e-4


def test_a_higher_temperature_evens_the_parts_out() -> None:
    first = [density_parts(two_clusters(0.1, 0.3), [1000, 1000], 1000, t)[0] for t in (0.05, 0.1, 0.5, 1, 10, 1e6)]
    assert first == sorted(first)
    assert first[0] == 250  # half of an equal part
    assert first[-1] == 500


# ---- as a selector


@given(st.sampled_from(CHOICES), st.sampled_from(SHARES), st.booleans(), st.data())
@settings(max_examples=60)
def test_rows_of_each_cluster(choose: str, shares: str, in_tokens: bool, data: st.DataObject) -> None:
    directions = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=20))
    spread = data.draw(st.sampled_from([0.0, 0.1, 1.0]))
    features = blobs(directions, spread)
    scores = [data.draw(st.sampled_from([0.1, 0.5, 0.9])) for _ in directions]
    costs = [data.draw(st.integers(1, 9)) if in_tokens else 1 for _ in directions]
    budget = data.draw(st.integers(min(costs), sum(costs)))
    options: dict[str, Any] = {"choose": choose, "shares": shares, "seed": data.draw(st.integers(0, 2))}
    options["clusters"] = data.draw(st.integers(1, 6))
    selector = ClusterSelector(**{"keep_tokens" if in_tokens else "keep": budget}, **options)
    kept = selector.get_indices(scores, tokens=costs if in_tokens else None, features=features).tolist()
    assert kept == selection_by_hand(selector, features, scores, costs, budget, None)
    left = budget - sum(costs[i] for i in kept)
    assert left >= 0 if in_tokens else left == 0
    assert all(costs[i] > left for i in range(len(costs)) if i not in kept)


@given(st.sampled_from(CHOICES), st.sampled_from(SHARES), st.data())
@settings(max_examples=40)
def test_groups_and_skipped_rows(choose: str, shares: str, data: st.DataObject) -> None:
    directions = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=20))
    groups = [data.draw(st.sampled_from("ab")) for _ in directions]
    scores = [data.draw(st.sampled_from([0.1, 0.5, 0.9, NAN])) for _ in directions]
    features = blobs(directions, 0.1).astype(np.float32)
    features[[data.draw(st.integers(0, 4)) == 0 for _ in directions], 0] = NAN
    may_be_taken = ~np.isnan(scores) & ~np.isnan(features).any(axis=1)
    if not may_be_taken.any():
        return
    keep = data.draw(st.integers(1, int(may_be_taken.sum())))
    selector = ClusterSelector(keep=keep, clusters=3, choose=choose, shares=shares)
    kept = selector.get_indices(scores, groups, features=features).tolist()
    assert len(kept) == keep
    assert may_be_taken[kept].all()
    if choose == "random":  # the draw depends on the skipped rows too
        return
    for name, rows in zip(*split_groups(groups, len(groups)), strict=True):
        rows = rows[may_be_taken[rows]]
        kept_of_group = sorted(set(rows) & set(kept))
        if kept_of_group:
            scores_of_group, ones = np.array(scores)[rows].tolist(), [1] * len(rows)
            expected = selection_by_hand(selector, features[rows], scores_of_group, ones, len(kept_of_group), name)
            assert kept_of_group == [rows[i] for i in expected]


def test_each_choice_by_hand() -> None:
    # Two clusters: rows 0 to 3 about one axis, rows 4 and 5 about another. Half of each is taken.
    tilts = [0.0, 0.1, -0.1, 0.3, 0.0, 0.2]
    features = np.array([[1, 0, tilt] if row < 4 else [0, 1, tilt] for row, tilt in enumerate(tilts)])
    scores = [0.1, 0.9, 0.9, 0.9, 0.2, 0.3]

    def kept(**options: Any) -> list[int]:
        return ClusterSelector(keep=3, clusters=2, **options).get_indices(scores, features=features).tolist()

    assert kept() == [1, 2, 5]  # ties by row number
    assert kept(easy="low") == [0, 1, 4]
    assert kept(column="my_loss") == [0, 1, 4]
    # The first centroid is tilted by 0.075: rows 1, 0, 2, 3 come by their distances. Both rows of the other cluster
    # are as far from their centroid, or nearly so.
    assert set(kept(choose="nearest")) & {0, 1, 2, 3} == {0, 1}
    assert set(kept(choose="farthest")) & {0, 1, 2, 3} == {2, 3}
    assert len({tuple(kept(choose="random", seed=seed)) for seed in range(60)}) == 12  # 6 pairs by 2 rows
    assert all(len(set(kept(choose="random", seed=seed)) & {4, 5}) == 1 for seed in range(10))


def test_density_spends_more_on_the_wide_cluster() -> None:
    noise = np.random.default_rng(0).normal(size=(400, 4)) * np.repeat([[0.01], [0.4]], 200, axis=0)
    features = np.repeat(np.eye(4)[:2], 200, axis=0) + noise
    counts = [
        np.count_nonzero(selector.get_indices(features=features) < 200)
        for selector in (
            ClusterSelector(keep=100, clusters=2, choose="nearest"),
            ClusterSelector(keep=100, clusters=2, choose="nearest", shares="density"),
            ClusterSelector(keep=100, clusters=2, choose="nearest", shares="density", temperature=1e-3),
        )
    ]
    assert counts[0] > counts[1] > counts[2]
    assert counts[2] == 25  # half of an equal part


def test_one_row_all_rows_and_more_clusters_than_rows(caplog: pytest.LogCaptureFixture) -> None:
    features, scores = blobs([0, 0, 1, 2]), [0.1, 0.2, 0.3, 0.4]
    for shares in SHARES:
        with caplog.at_level(logging.INFO, logger="hf_dlc.selection"):
            assert ClusterSelector(keep=1.0, shares=shares).get_indices(scores, features=features).size == 4
        assert caplog.messages == ["k-means found 4 of 20 clusters among 4 rows."]
        caplog.clear()
        assert ClusterSelector(keep=1, shares=shares).get_indices(scores, features=features).size == 1
        assert ClusterSelector(keep=1, shares=shares).get_indices([0.1], features=features[:1]).tolist() == [0]


def test_rows_of_one_token_are_counted_like_rows() -> None:
    rng = np.random.default_rng(0)
    features, scores, ones = rng.normal(size=(100, 4)), rng.random(100), np.ones(100, dtype=int)
    for shares in SHARES:
        by_row = ClusterSelector(keep=37, shares=shares).get_indices(scores, features=features)
        by_token = ClusterSelector(keep_tokens=37, shares=shares).get_indices(scores, None, ones, features)
        assert by_row.tolist() == by_token.tolist()


def test_groups_do_not_depend_on_their_order() -> None:
    rng = np.random.default_rng(0)
    features, scores = rng.normal(size=(40, 4)), rng.random(40)
    for choose in CHOICES:
        selector = ClusterSelector(keep=10, clusters=3, choose=choose)
        both = selector.get_indices(scores, ["b"] * 20 + ["a"] * 20, features=features)
        swapped = selector.get_indices(
            np.roll(scores, 20), ["a"] * 20 + ["b"] * 20, features=np.roll(features, 20, axis=0)
        )
        assert sorted((row + 20) % 40 for row in swapped) == both.tolist()


def test_a_group_without_features_or_without_a_part() -> None:
    features = blobs([0, 0, 1, 2, 3])
    features[:2] = NAN
    selector = ClusterSelector(keep=2, clusters=2, choose="random")
    assert set(selector.get_indices(None, list("aabbb"), features=features)) <= {2, 3, 4}
    assert ClusterSelector(keep=1, choose="random").get_indices(None, list("abbbb"), features=features).size == 1
    # Nothing of "a" fits into its part of 2 tokens, which goes to "b".
    kept = ClusterSelector(keep_tokens=4, choose="random").get_indices(
        None, list("abbbb"), [4, 1, 1, 1, 1], blobs([0, 1, 1, 2, 3])
    )
    assert kept.tolist() == [1, 2, 3, 4]


def test_scores_are_needed_for_the_easiest_rows_only() -> None:
    features = blobs([0, 1, 2])
    assert ClusterSelector().needs == ("scores", "features")
    with pytest.raises(ValueError, match="ClusterSelector needs the scores of every row: pass scores="):
        ClusterSelector(keep=1).get_indices(features=features)
    with pytest.raises(ValueError, match="ClusterSelector needs the features of every row: pass features="):
        ClusterSelector(keep=1).get_indices([0.1, 0.2, 0.3])
    for choose in CHOICES[1:]:
        assert ClusterSelector(choose=choose).needs == ("features",)
        assert ClusterSelector(keep=1, choose=choose).get_indices(features=features).size == 1


def test_on_a_dataset() -> None:
    rows = {"text": list("abcdef"), "dlc_features": blobs([0, 0, 0, 0, 1, 1]).tolist()}
    dataset = Dataset.from_dict(rows)
    scored = dataset.add_column("dlc_confidence", [0.1, 0.9, NAN, 0.2, 0.3, 0.4])
    assert ClusterSelector(keep=2, clusters=2)(scored)["text"][:] == ["b", "f"]
    assert len(ClusterSelector(keep=2, clusters=2, choose="random", column=None)(dataset)) == 2
    kept = [
        ClusterSelector(keep=5, clusters=2, choose="random", column=column, seed=seed)(scored)["text"][:]
        for column in (None, "dlc_confidence")
        for seed in range(3)
    ]
    assert kept == [list("abdef")] * 6
    with pytest.raises(ValueError, match="Column 'dlc_confidence' not found"):
        ClusterSelector(keep=2)(dataset)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": 0}, "clusters must be an int of at least 1, got 0"),
        ({"clusters": 2.0}, r"clusters must be an int of at least 1, got 2\.0"),
        ({"clusters": True}, "clusters must be an int of at least 1, got True"),
        ({"choose": "hardest"}, "choose must be one of easiest, random, farthest, nearest, got 'hardest'"),
        ({"choose": ["easiest"]}, r"choose must be one of easiest, random, farthest, nearest, got \['easiest'\]"),
        ({"shares": "equal"}, "shares must be one of proportional, density, got 'equal'"),
        ({"temperature": 0}, "temperature must be a finite number above 0, got 0"),
        ({"temperature": NAN}, "temperature must be a finite number above 0, got nan"),
        ({"temperature": math.inf}, "temperature must be a finite number above 0, got inf"),
        ({"temperature": "warm"}, "temperature must be a finite number above 0, got 'warm'"),
        ({"seed": -1}, "seed must be a non-negative int, got -1"),
        ({"seed": None}, "seed must be a non-negative int, got None"),
        ({"column": None}, "choose='easiest' needs scores: pass column=, or another choice such as 'random'"),
        ({"column": "length"}, "Pass easy='high' if a high score means an easy row"),
        ({"missing": "keep"}, "missing must be 'drop' or 'error', got 'keep'"),
    ],
)
def test_unusable_parameters(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClusterSelector(keep=1, **options).get_indices([0.1, 0.2], features=np.eye(2))


def test_large_seeds() -> None:
    assert ClusterSelector(keep=1, seed=2**40).get_indices([0.1, 0.2], features=np.eye(2)).size == 1


def test_words() -> None:
    assert ClusterSelector().name == "cluster"
    assert ClusterSelector(keep=2, group_by="topic").sentence("<{}>".format) == (
        "Of each of 20 clusters of the features, the easiest rows by <dlc_confidence> were taken, in proportion to "
        "its size, within the groups of <topic>."
    )
    assert ClusterSelector(keep=2, clusters=500, choose="farthest", shares="density").sentence() == (
        "Of each of 500 clusters of the features, the rows farthest from the centroid were taken, more of clusters "
        "that are wide and far from others."
    )


def test_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_dlc.selection.ClusterSelector", ClusterSelector, raising=False)
    result = doctest.testmod(cluster)
    assert result.attempted > 0
    assert result.failed == 0
