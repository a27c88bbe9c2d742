"""Farthest-first traversal, held against a plain one that looks at all pairs."""

from __future__ import annotations

import doctest
import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value
from hypothesis import given
from hypothesis import strategies as st

from hf_dlc.selection import clusters, k_center
from hf_dlc.selection.k_center import KCenterSelector, farthest_first
from hf_dlc.selection.ordering import drawn_order, split_groups


NAN = float("nan")

# The cosines of these are 0, +-0.5 and +-1, exact in any arithmetic, so that ties are frequent. One vector is zero.
AXES = [tuple(sign * float(i == axis) for i in range(4)) for axis in range(4) for sign in (1, -1)]
CORNERS = list(itertools.product([1.0, -1.0], repeat=4))
a_vector = st.sampled_from([*AXES, *CORNERS, (0.0,) * 4])
some_vectors = st.lists(a_vector, min_size=1, max_size=24)
small_sizes = st.tuples(st.integers(1, 4), st.integers(1, 5))  # of the shortlist, and of a block


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    length = math.hypot(*one) * math.hypot(*other)
    return round(1 - sum(a * b for a, b in zip(one, other, strict=True)) / length, 6) if length else 1.0


def traversal(vectors: Sequence[Sequence[float]], costs: Sequence[int], budget: int, first: int) -> list[int]:
    """Rows in the order in which they are taken."""
    taken, left = [first], budget - costs[first]
    while rows := [i for i in range(len(vectors)) if i not in taken and costs[i] <= left]:
        taken.append(max(rows, key=lambda i: (min(distance(vectors[i], vectors[j]) for j in taken), -i)))
        left -= costs[taken[-1]]
    return taken


def with_sizes(sizes: tuple[int, int]) -> pytest.MonkeyPatch:
    patch = pytest.MonkeyPatch()
    patch.setattr(k_center, "_SHORTLIST", sizes[0])
    patch.setattr(clusters, "_ROWS_AT_ONCE", sizes[1])
    return patch


def order_of(vectors: Sequence, sizes: tuple[int, int], *rest: int, **options: bool) -> list[int]:
    costs, budget, first = rest
    patch = with_sizes(sizes)
    try:
        return farthest_first(np.array(vectors), np.array(costs), budget, first, **options).tolist()
    finally:
        patch.undo()


# ---- the order


@given(some_vectors, small_sizes, st.data())
def test_rows_come_in_the_order_of_the_plain_traversal(
    vectors: list, sizes: tuple[int, int], data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, len(vectors) - 1))
    budget = data.draw(st.integers(1, len(vectors)))
    ones = [1] * len(vectors)
    assert order_of(vectors, sizes, ones, budget, first) == traversal(vectors, ones, budget, first)


@given(some_vectors, small_sizes, st.data())
def test_rows_that_do_not_fit_come_behind(vectors: list, sizes: tuple[int, int], data: st.DataObject) -> None:
    costs = [data.draw(st.integers(1, 9)) for _ in vectors]
    first = data.draw(st.integers(0, len(vectors) - 1))
    budget = data.draw(st.integers(costs[first], sum(costs)))
    taken = traversal(vectors, costs, budget, first)
    nearest = {i: min(distance(vectors[i], vectors[j]) for j in taken) for i in range(len(vectors)) if i not in taken}
    behind = sorted(nearest, key=lambda i: (-nearest[i], i))
    assert order_of(vectors, sizes, costs, budget, first, all_rows=True) == taken + behind


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("spread", [0.05, 1.0])  # of the rows about a few centres: near and far neighbours
def test_each_row_is_the_farthest_of_vectors_of_any_kind(dtype: type, spread: float) -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(5, 8))[rng.integers(0, 5, 300)] + spread * rng.normal(size=(300, 8))).astype(dtype)
    taken = order_of(vectors, (16, 64), np.ones(300, int), 300, 7)
    assert sorted(taken) == list(range(300))
    unit = vectors.astype(float) / np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)
    distances = 1 - unit @ unit.T
    for count in range(1, 300):
        nearest = distances[taken[count:]][:, taken[:count]].min(axis=1)
        assert nearest[0] > nearest.max() - 2e-6  # which is how far distances are rounded


def test_by_hand() -> None:
    degrees = [0, 10, 90, 100, 180, 350]
    vectors = [(math.cos(math.radians(a)), math.sin(math.radians(a))) for a in degrees]
    # From 0 the farthest is 180; then 90 and 100 are 90 and 80 away from the nearest; then 100, 10 and 350 are 10
    # away, and the smallest row number comes first.
    assert order_of(vectors, (1024, 1024), [1] * 6, 6, 0) == [0, 4, 2, 1, 3, 5]
    # Six tokens: 180 with five does not fit behind 0 with two, 100 does, and nothing is left. Of the others 180 is 80
    # away from the nearest row taken, and all others are 10 away.
    assert order_of(vectors, (1024, 1024), [2, 1, 5, 4, 5, 1], 6, 0) == [0, 3]
    assert order_of(vectors, (1024, 1024), [2, 1, 5, 4, 5, 1], 6, 0, all_rows=True) == [0, 3, 4, 1, 2, 5]


def test_rows_with_equal_vectors_come_last_by_row_number() -> None:
    vectors = [AXES[0], AXES[2], AXES[0], AXES[2], AXES[4], AXES[0]]
    assert order_of(vectors, (2, 2), [1] * 6, 6, 2) == [2, 1, 4, 0, 3, 5]
    assert order_of([AXES[0]] * 5, (2, 2), [1] * 5, 5, 3) == [3, 0, 1, 2, 4]


def test_ties_do_not_depend_on_the_order_of_sums() -> None:
    # All rows are as far from the first, which has equal numbers, but the sums of floats differ in the last digits.
    rng = np.random.default_rng(0)
    numbers = rng.random(64)
    vectors = np.array([np.ones(64), *(rng.permutation(numbers) for _ in range(200))])
    cosines = clusters.unit_vectors(vectors[1:]) @ clusters.unit_vectors(vectors[:1])[0]
    assert len(set(cosines.tolist())) > 1
    assert order_of(vectors, (16, 32), np.ones(201, int), 2, 0) == [0, 1]


def test_lengths_of_vectors_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    vectors, lengths = rng.normal(size=(40, 4)), 2.0 ** rng.integers(-40, 40, size=(40, 1))
    expected = KCenterSelector(keep=10).get_indices(features=vectors).tolist()
    assert KCenterSelector(keep=10).get_indices(features=vectors * lengths).tolist() == expected
    for huge in (1e300 * vectors, 1e-300 * vectors, (1e37 * vectors).astype(np.float32)):
        assert KCenterSelector(keep=10).get_indices(features=huge).tolist() == expected


# ---- as a selector


@given(some_vectors, small_sizes, st.integers(0, 3), st.data())
def test_each_group_is_traversed_by_itself(
    vectors: list, sizes: tuple[int, int], seed: int, data: st.DataObject
) -> None:
    n_rows = len(vectors)
    groups = data.draw(st.none() | st.lists(st.sampled_from("ab"), min_size=n_rows, max_size=n_rows))
    scores = [data.draw(st.sampled_from([0.5, 0.5, NAN])) for _ in vectors]
    features = np.array(vectors, dtype=data.draw(st.sampled_from([np.float16, np.float32])))
    features[[data.draw(st.integers(0, 4)) == 0 for _ in vectors], 0] = NAN
    may_be_taken = ~np.isnan(scores) & ~np.isnan(features).any(axis=1)
    if not may_be_taken.any():
        return
    keep = data.draw(st.integers(1, int(may_be_taken.sum())))
    patch = with_sizes(sizes)
    kept = KCenterSelector(keep=keep, seed=seed).get_indices(scores, groups, features=features)
    patch.undo()
    assert len(kept) == keep
    for name, rows in zip(*split_groups(groups, n_rows), strict=True):
        rows_kept = sorted(set(rows) & set(kept))
        drawn = [row for row in drawn_order(len(rows), seed, name) if may_be_taken[rows[row]]]
        if not rows_kept:
            continue
        rest = [row for row in range(len(rows)) if may_be_taken[rows[row]]]
        order = traversal([vectors[rows[row]] for row in rest], [1] * len(rest), len(rows_kept), rest.index(drawn[0]))
        assert rows_kept == sorted(rows[rest[i]] for i in order)


@given(some_vectors, st.integers(0, 3), st.data())
def test_tokens_are_spent_on_the_farthest_rows_that_fit(vectors: list, seed: int, data: st.DataObject) -> None:
    tokens = [data.draw(st.integers(1, 9)) for _ in vectors]
    budget = data.draw(st.integers(min(tokens), sum(tokens)))
    kept = KCenterSelector(keep_tokens=budget, seed=seed).get_indices(features=np.array(vectors), tokens=tokens)
    first = next(int(row) for row in drawn_order(len(vectors), seed, None) if tokens[row] <= budget)
    assert kept.tolist() == sorted(traversal(vectors, tokens, budget, first))


@given(some_vectors, st.data())
def test_tokens_are_never_exceeded_and_leave_no_room(vectors: list, data: st.DataObject) -> None:
    tokens = [data.draw(st.integers(1, 9)) for _ in vectors]
    groups = [data.draw(st.sampled_from("abc")) for _ in vectors]
    budget = data.draw(st.integers(min(tokens), sum(tokens)))
    kept = KCenterSelector(keep_tokens=budget).get_indices(None, groups, tokens, np.array(vectors)).tolist()
    left = budget - sum(tokens[row] for row in kept)
    assert left >= 0
    assert all(tokens[row] > left for row in range(len(vectors)) if row not in kept)


def test_what_a_group_leaves_over_goes_to_the_farthest_rows_of_another() -> None:
    # Of 5 tokens "a" gets 3 and "b" 2. The row of "a" has 6, so "b" takes 3 more rows, and one stays behind.
    groups, tokens = list("abbbbbb"), [6, 1, 1, 1, 1, 1, 1]
    for seed in range(10):
        features = np.random.default_rng(seed).normal(size=(7, 3))
        taken = KCenterSelector(keep_tokens=5, seed=seed).get_indices(None, groups, tokens, features)
        two = traversal(features[1:], [1] * 6, 2, drawn_order(6, seed, "str:b")[0])
        nearest = [min(distance(features[1 + i], features[1 + j]) for j in two) for i in range(6)]
        assert set(range(1, 7)) - set(taken) == {1 + i for i in range(6) if nearest[i] == min(set(nearest) - {0})}


@given(some_vectors, st.integers(0, 3))
def test_a_larger_budget_contains_the_smaller(vectors: list, seed: int) -> None:
    smaller: set[int] = set()
    for keep in range(1, len(vectors) + 1):
        larger = set(KCenterSelector(keep=keep, seed=seed).get_indices(features=np.array(vectors)).tolist())
        assert smaller < larger
        smaller = larger


def test_a_larger_budget_contains_the_smaller_among_many_rows() -> None:
    features = np.random.default_rng(0).normal(size=(3000, 16)).astype(np.float16)
    small, large = (KCenterSelector(keep=keep).get_indices(features=features) for keep in (400, 1500))
    assert set(small) < set(large)


def test_seeds_draw_the_first_row() -> None:
    features = np.array(CORNERS)
    first = [KCenterSelector(keep=1, seed=seed).get_indices(features=features).item() for seed in range(400)]
    assert np.bincount(first, minlength=16).min() > 8  # 25 of each are expected
    assert KCenterSelector(keep=1, seed=7).get_indices(features=features).item() == first[7]
    for seed in (-1, 0.5, None, True):
        with pytest.raises(ValueError, match="seed must be a non-negative int, got"):
            KCenterSelector(keep=1, seed=seed).get_indices(features=features)


def test_groups_do_not_depend_on_their_order() -> None:
    features = np.random.default_rng(0).normal(size=(40, 4))
    both = KCenterSelector(keep=10).get_indices(None, ["b"] * 20 + ["a"] * 20, features=features)
    swapped = KCenterSelector(keep=10).get_indices(
        None, ["a"] * 20 + ["b"] * 20, features=np.roll(features, 20, axis=0)
    )
    assert sorted((row + 20) % 40 for row in swapped) == both.tolist()


def test_one_row_and_all_rows() -> None:
    features = np.array(CORNERS)
    assert KCenterSelector(keep=1.0).get_indices(features=features).tolist() == list(range(16))
    assert KCenterSelector(keep=1).get_indices(features=features[:1]).tolist() == [0]
    assert KCenterSelector(keep_tokens=5).get_indices(features=features[:1], tokens=[5]).tolist() == [0]


def test_a_group_without_features_gives_nothing() -> None:
    features = np.array([AXES[0], AXES[2], AXES[4], AXES[6]])
    features[:2] = NAN
    assert KCenterSelector(keep=2).get_indices(None, list("aabb"), features=features).tolist() == [2, 3]
    with pytest.raises(ValueError, match=r"2 of 4 rows have no score \(NaN\), the first is row 0"):
        KCenterSelector(keep=2, missing="error").get_indices(features=features)


def test_duplicates_are_left_out() -> None:
    features, duplicates = np.array([AXES[0], AXES[0], AXES[2], AXES[2]]), [False, True, False, True]
    selector = KCenterSelector(keep=2, drop_duplicates=True)
    assert selector.get_indices(features=features, duplicates=duplicates).tolist() == [0, 2]


def test_unusable_features() -> None:
    selector = KCenterSelector(keep=1)
    with pytest.raises(ValueError, match=r"KCenterSelector needs the features of every row: pass features="):
        selector.get_indices([0.1, 0.2])
    with pytest.raises(ValueError, match=r"one vector of floats for each row, got an array of shape \(2,\)"):
        selector.get_indices(features=np.array([0.1, 0.2]))
    with pytest.raises(ValueError, match="None of the 2 rows has a score"):
        selector.get_indices(features=np.full((2, 3), NAN))


@pytest.mark.parametrize("with_scores", [True, False])
def test_on_a_dataset(with_scores: bool) -> None:
    columns = {"text": list("abcde"), "dlc_features": [AXES[0], AXES[0], AXES[2], AXES[1], AXES[1]]}
    dataset = Dataset.from_dict(
        columns, features=Features({"text": Value("string"), "dlc_features": List(Value("float16"), length=4)})
    )
    if with_scores:
        dataset = dataset.add_column("dlc_confidence", [0.5, 0.5, 0.5, 0.5, NAN])
    kept = KCenterSelector(keep=3)(dataset)["text"][:]
    assert kept[:-1] in (["a", "c"], ["b", "c"])
    assert kept[-1] == "d" if with_scores else kept[-1] in "de"
    with pytest.raises(ValueError, match="Column 'dlc_features' not found"):
        KCenterSelector(keep=3)(dataset.remove_columns("dlc_features"))


def test_words() -> None:
    assert KCenterSelector().name == "k_center"
    assert KCenterSelector(keep=2, group_by="topic").sentence() == (
        "Rows were taken one by one, each the farthest from all rows taken before it by the cosine of features, "
        "within the groups of `topic`."
    )


def test_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_dlc.selection.KCenterSelector", KCenterSelector, raising=False)
    result = doctest.testmod(k_center)
    assert result.attempted > 0
    assert result.failed == 0
