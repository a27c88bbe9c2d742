"""Rows near wanted rows: against a slow oracle, and what is no pool or no target."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value
from hypothesis import given
from hypothesis import strategies as st

from hf_dlc.selection import nearest
from hf_dlc.selection.base import Selector
from hf_dlc.selection.contamination import equals_wanted
from hf_dlc.selection.nearest import VectorSimilarity, nearest_rows, take_turns
from hf_dlc.selection.table import selector_from_record
from hf_dlc.selection.target import TargetSelector


a_number = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0])  # few, so that ties are frequent


def vectors(rows: int, size: int = 3) -> st.SearchStrategy[np.ndarray]:
    return st.lists(st.lists(a_number, min_size=size, max_size=size), min_size=rows, max_size=rows).map(np.array)


def cosines_of(pool: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    lengths = np.maximum(np.linalg.norm(pool, axis=1), 1e-30)
    directions = wanted / np.maximum(np.linalg.norm(wanted, axis=1), 1e-30)[:, None]
    return directions @ (pool / lengths[:, None]).T


def turns(pool: np.ndarray, wanted: np.ndarray, usable: np.ndarray, count: int) -> list[int]:
    """Each wanted row in turn takes its nearest row by cosine, ties by row number."""
    cosines = np.round(cosines_of(pool, wanted) * 2**20)
    left, order = [row for row in range(len(pool)) if usable[row]], []
    while left and len(order) < count:
        by = cosines[len(order) % len(wanted)]
        order.append(min(left, key=lambda row: (-by[row], row)))
        left.remove(order[-1])
    return order


@given(data=st.data())
def test_each_takes_its_nearest_row(data: st.DataObject) -> None:
    """As far as float32 tells rows apart; of equal rows the first."""
    rows, wanted = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 5).flatmap(vectors))
    pool = data.draw(vectors(rows))
    usable = np.array(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
    count = data.draw(st.integers(0, int(usable.sum())))
    found = take_turns(VectorSimilarity(pool, wanted), count, usable).tolist()
    assert len(found) == count
    cosines, left = cosines_of(pool, wanted), np.flatnonzero(usable).tolist()
    for turn, row in enumerate(found):
        by = cosines[turn % len(wanted)]
        assert by[row] >= max(by[left]) - 3 / 2**20
        assert not any(other < row and (pool[other] == pool[row]).all() for other in left)
        left.remove(row)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_blocks_and_depth_change_nothing(monkeypatch: pytest.MonkeyPatch, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    pool = rng.standard_normal((700, 5)).astype(dtype)
    pool[::7] = pool[3]  # equal rows in many blocks
    wanted, usable = rng.standard_normal((6, 5)), rng.random(700) < 0.9
    expected = turns(pool.astype(np.float64), wanted, usable, 500)
    for at_once, first in ((1, 1), (2**11, 2), (2**22, 64)):
        monkeypatch.setattr(nearest, "_AT_ONCE", at_once)
        monkeypatch.setattr(nearest, "_FIRST_SEARCH", first)
        assert take_turns(VectorSimilarity(pool, wanted), 500, usable).tolist() == expected
    deep = nearest_rows(VectorSimilarity(pool, wanted), int(usable.sum()), usable)
    assert [sorted(row) for row in deep.tolist()] == [np.flatnonzero(usable).tolist()] * 6


def test_inner_products_know_lengths() -> None:
    pool = np.array([[1.0, 0.0], [5.0, 5.0], [0.0, 9.0]])
    wanted = np.array([[3.0, 0.0]])
    order = [
        take_turns(VectorSimilarity(pool, wanted, is_cosine), 3, np.ones(3, bool)).tolist()
        for is_cosine in (True, False)
    ]
    assert order == [[0, 1, 2], [1, 0, 2]]
    gradient = TargetSelector(keep=1, target=wanted, metric="gradient", contamination="keep")
    assert gradient.get_indices(features=pool).tolist() == [1]


@given(data=st.data())
def test_budgets_are_exact(data: st.DataObject) -> None:
    rows = data.draw(st.integers(2, 30))
    pool, wanted = data.draw(vectors(rows)), data.draw(st.integers(1, 4).flatmap(vectors))
    groups = data.draw(st.none() | st.lists(st.sampled_from(["a", "b"]), min_size=rows, max_size=rows))
    mix = data.draw(st.sampled_from([0.0, 0.25, 0.5]))
    keep = data.draw(st.integers(1, rows))
    selector = TargetSelector(keep=keep, target=wanted, mix=mix, group_by=groups and "g")
    found = selector.get_indices(groups=groups, features=pool).tolist()
    assert len(found) == keep
    assert found == sorted(set(found))
    assert found == selector.get_indices(groups=groups, features=pool).tolist()


@given(data=st.data())
def test_tokens_are_not_exceeded_and_nothing_else_fits(data: st.DataObject) -> None:
    rows = data.draw(st.integers(2, 30))
    pool, wanted = data.draw(vectors(rows)), data.draw(st.integers(1, 4).flatmap(vectors))
    tokens = np.array(data.draw(st.lists(st.integers(1, 9), min_size=rows, max_size=rows)))
    budget = data.draw(st.integers(int(tokens.min()), int(tokens.sum())))
    mix = data.draw(st.sampled_from([0.0, 0.5]))
    found = TargetSelector(keep_tokens=budget, target=wanted, mix=mix).get_indices(features=pool, tokens=tokens)
    left = budget - tokens[found].sum()
    assert left >= 0
    assert not (np.delete(tokens, found) <= left).any()


def test_a_larger_budget_contains_the_smaller() -> None:
    rng = np.random.default_rng(1)
    pool, wanted = rng.standard_normal((300, 4)), rng.standard_normal((3, 4))
    kept = [
        set(TargetSelector(keep=keep, target=wanted).get_indices(features=pool).tolist())
        for keep in (10, 50, 299, 300)
    ]
    assert kept[0] < kept[1] < kept[2] < kept[3]


def test_a_part_is_drawn_at_random() -> None:
    rng = np.random.default_rng(2)
    pool, wanted = rng.standard_normal((200, 4)), rng.standard_normal((3, 4))
    near = set(TargetSelector(keep=50, target=wanted).get_indices(features=pool).tolist())
    mixed = [
        set(TargetSelector(keep=100, target=wanted, mix=0.5, seed=seed).get_indices(features=pool).tolist())
        for seed in (0, 1)
    ]
    assert near < mixed[0]
    assert near < mixed[1]
    assert mixed[0] != mixed[1]


def dataset_of(pool: np.ndarray, made_by: str = "position 2 abc", **columns: list) -> Dataset:
    features = Features({"dlc_features": List(Value("float16"), length=pool.shape[1])})
    found = Dataset.from_dict({"dlc_features": pool.tolist()}, features=features)
    for name, values in {**columns, "dlc_features_by": [made_by] * len(pool)}.items():
        found = found.add_column(name, values)
    return found


QUESTIONS = [
    f"How many of the {n} apples that Tom bought are left on the table? None of the {n} are left." for n in range(9)
]


def test_rows_that_equal_a_wanted_one_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(3)
    directions = rng.standard_normal((9, 2))
    texts = [*QUESTIONS[:4], QUESTIONS[5].upper().replace("?", " ?!"), "Name a colour.", "Red.", "Blue.", "Green."]
    pool, wanted = dataset_of(directions, text=texts), dataset_of(directions[:2], text=[QUESTIONS[0], QUESTIONS[5]])
    with caplog.at_level(logging.INFO, "hf_dlc"):
        found = TargetSelector(keep=3, target=wanted).select(pool)
    assert np.flatnonzero(found.reasons == "equals_wanted").tolist() == [0, 4]
    assert "2 of 9 rows are left out: equals_wanted" in caplog.text
    kept = TargetSelector(keep=3, target=wanted, contamination="keep").select(pool)
    assert 0 in kept.indices
    assert found.notes["wanted"].shape == found.notes["wanted_similarity"].shape == (3,)
    with pytest.raises(
        ValueError, match=r"the 7 rows that may be taken \(left out: 2 equals_wanted\) .*Ask for at most 7"
    ):
        TargetSelector(keep=8, target=wanted).select(pool)


def test_what_equals_a_wanted_text() -> None:
    wanted = ["one two three four five six seven eight nine ten", "Yes."]
    texts = {
        "One, two; three four five six seven eight nine TEN!": True,
        "source: web one two three four five six seven eight nine ten": True,
        "one two three four five six seven eight nine eleven": True,
        "one two three four five": False,
        " ".join(map(str, range(40))) + " one two three four five six seven eight nine ten": False,
        "yes": True,
        "yes it is": False,
        "": False,
    }
    assert equals_wanted(list(texts), wanted).tolist() == list(texts.values())
    assert equals_wanted(["a"], [""]).tolist() == [False]


def test_words_need_no_model() -> None:
    pytest.importorskip("bm25s", reason="an extra")
    texts = ["a red apple pie", "a blue car", "the car is red", "bread"]
    selector = TargetSelector(keep=2, target=["apple pie", "car"], metric="bm25", contamination="keep")
    assert selector.get_indices(texts=texts).tolist() == [0, 1]
    rows, wanted = Dataset.from_dict({"text": texts}), Dataset.from_dict({"text": ["bread", "zebra"]})
    assert TargetSelector(keep=1, target=wanted, metric="bm25", contamination="keep")(rows)["text"][:] == ["bread"]
    assert len(TargetSelector(keep=4, target=["zebra"], metric="bm25").get_indices(texts=texts)) == 4


POOL = np.eye(3)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "target must be the wanted rows, got none"),
        ({"target": np.zeros((0, 3))}, "target must hold at least one wanted row"),
        ({"target": np.eye(2)}, "must be of the size of those of the pool, 3, got 2"),
        ({"target": np.full((2, 3), np.nan)}, "none of the 2 wanted rows has features"),
        ({"target": np.eye(3), "metric": "best"}, "metric must be one of cosine, gradient, bm25, got 'best'"),
        ({"target": np.eye(3), "mix": 1.0}, r"mix must be a share of the budget, at least 0 and below 1, got 1\.0"),
        ({"target": np.eye(3), "contamination": "no"}, "contamination must be 'drop' or 'keep', got 'no'"),
        ({"target": [3, 4], "metric": "bm25"}, "target must be a Dataset with text, or a list of texts"),
    ],
)
def test_no_target(parameters: dict[str, Any], message: str) -> None:
    texts = ["a", "b", "c"] if parameters.get("metric") == "bm25" else None
    with pytest.raises(ValueError, match=message):
        TargetSelector(keep=1, **parameters).get_indices(features=POOL, texts=texts)


def test_features_of_another_model() -> None:
    pool, wanted = dataset_of(np.eye(2)), dataset_of(np.eye(2), "position 2 xyz")
    with pytest.raises(
        ValueError, match=r"of the pool \(position 2 abc\) and of the wanted rows \(position 2 xyz\) do not"
    ):
        TargetSelector(keep=1, target=wanted)(pool)
    mixed = Dataset.from_dict({**pool[:], "dlc_features_by": ["position 2 abc", "mean 2 abc"]})
    with pytest.raises(ValueError, match="must be made in one way, got mean 2 abc, position 2 abc"):
        TargetSelector(keep=1, target=wanted)(mixed)
    with pytest.raises(ValueError, match=r"Column 'dlc_features' not found.*Score the rows with features=True"):
        TargetSelector(keep=1, target=wanted)(Dataset.from_dict({"a": [1]}))


def test_rows_without_features(caplog: pytest.LogCaptureFixture) -> None:
    pool = np.array([[1.0, 0.0], [np.nan, 1.0], [0.0, 1.0]])
    target = np.array([[np.nan, 0.0], [0.0, 1.0]])
    with caplog.at_level(logging.INFO, "hf_dlc"):
        assert TargetSelector(keep=2, target=target).get_indices(features=pool).tolist() == [0, 2]
    assert "1 of 3 rows have no score" in caplog.text
    assert "1 of 2 wanted rows have no features" in caplog.text
    with pytest.raises(ValueError, match="1 of 3 rows have no score"):
        TargetSelector(keep=2, target=target, missing="error").get_indices(features=pool)


def test_more_wanted_rows_than_the_budget_and_the_pool_itself() -> None:
    assert TargetSelector(keep=1, target=np.eye(3)).get_indices(features=POOL).tolist() == [0]
    assert TargetSelector(keep=3, target=POOL).get_indices(features=POOL).tolist() == [0, 1, 2]


def test_record_and_sentence() -> None:
    selector: Selector = TargetSelector(keep=2, target=np.eye(3), mix=0.25)
    assert "eye" not in repr(selector)
    record = {"selector": "TargetSelector", **selector.parameters()}
    assert record["target"] == "3 wanted rows"
    again = selector_from_record(record)
    assert again == selector
    assert again.sentence() == (
        "The rows nearest to 3 wanted rows by the cosine of their features were taken, each wanted row in turn; 25% "
        "of the budget was drawn at random from the others."
    )
    with pytest.raises(ValueError, match=r"got none\. Pass target="):
        again.get_indices(features=POOL)
    assert "the wanted rows" in TargetSelector().sentence()


def test_a_skipped_row_does_not_disturb_inner_products() -> None:
    rng = np.random.default_rng(5)
    pool, wanted = rng.standard_normal((50, 4)), rng.standard_normal((3, 4))
    selector = TargetSelector(keep=6, target=wanted, metric="gradient")
    expected = selector.get_indices(features=pool)
    with_nan = np.concatenate([np.full((1, 4), np.nan), pool])
    assert (selector.get_indices(features=with_nan) - 1).tolist() == expected.tolist()


def test_wanted_rows_keep_their_numbers() -> None:
    """Also where one of them has no features."""
    wanted = dataset_of(np.array([[np.nan, np.nan], [1.0, 0.0], [0.0, 1.0]]), text=["a", "b", "c"])
    pool = dataset_of(np.array([[0.0, 1.0], [1.0, 0.1]]), text=["d", "e"])
    found = TargetSelector(keep=2, target=wanted).select(pool)
    assert found.notes["wanted"].tolist() == [2, 1]


def test_tokens_are_ordered_no_deeper_than_they_must(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    monkeypatch.setattr(
        "hf_dlc.selection.target.take_turns",
        lambda similarity, count, available: counts.append(count) or take_turns(similarity, count, available),
    )
    rng = np.random.default_rng(6)
    pool, tokens = rng.standard_normal((5000, 3)), np.full(5000, 100)
    found = TargetSelector(keep_tokens=1010, target=pool[:2]).get_indices(features=pool, tokens=tokens)
    assert len(found) == 10
    assert counts == [64]


def test_large_numbers_have_a_direction_too() -> None:
    pool = np.array([[1e25, 0.0], [0.0, 1.0]], dtype=np.float32)
    assert TargetSelector(keep=1, target=np.array([[1.0, 0.0]])).get_indices(features=pool).tolist() == [0]


def test_other_columns_do_not_hide_a_wanted_row() -> None:
    text = "How many of the nine apples that Tom bought are left on the table?"
    wanted = dataset_of(
        np.eye(2), question=[text, "x"], rationale=["Nine are bought and none is eaten.", "y"], source=["q", "q"]
    )
    pool = dataset_of(np.eye(2), messages=[text, "other words altogether"], source=["q", "p"])
    found = TargetSelector(keep=1, target=wanted).select(pool)
    assert found.reasons.tolist() == ["equals_wanted", "kept"]
