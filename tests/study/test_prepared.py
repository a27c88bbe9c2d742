"""Pools from which any arm can choose: as many rows or tokens as a cell has, and of the right kind."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from hf_dlc.selection import ClusterSelector, KCenterSelector, TargetSelector
from hf_dlc.selection.table import SELECTORS
from hf_dlc.study.arms import Cell, score_arms
from hf_dlc.study.prepared import PreparedPool
from tests.study.test_arms import MiddleSelector


COUNT = 60
LOSSES = np.linspace(1, 2, COUNT).astype(np.float32)  # the first rows are easy
TOKENS = (np.arange(COUNT) % 7 + 1).astype(np.int32)
FLAGS = np.arange(COUNT) % 3 == 0
GROUPS = ["large"] * 40 + ["small"] * 20
COPIES = [4, 9, 17]  # of the row before each
WORDS = ["fox", "dog", "red", "Paris", "capital", "yellow"]
WANTED = [3, 31]


@cache
def rows_and_wanted() -> tuple[Dataset, Dataset]:
    vectors = np.random.default_rng(0).normal(size=(COUNT, 5)).astype(np.float32)
    vectors[[20, 21, 22]] = vectors[3] * [[1.1], [1.2], [1.3]]
    texts = [f"{WORDS[i % 6]} {i * 37 % 101}" for i in range(COUNT)]
    texts[50] = texts[3] + " a b"
    columns = {
        "text": texts,
        "source": GROUPS,
        "suspect": FLAGS.tolist(),
        "dlc_tokens": TOKENS,
        "dup_of": [place - 1 if place in COPIES else -1 for place in range(COUNT)],
        "dup_kind": ["exact" if place in COPIES else "" for place in range(COUNT)],
        "auto_features": vectors,
        "gradient_features": vectors[::-1].copy(),
        **{f"dlc_{name}": values for name, values in scores().items()},
    }
    rows = Dataset.from_dict(columns)
    wanted = Dataset.from_list([{**rows[place], "text": texts[place] + "?"} for place in WANTED])  # no equal rows
    return rows, wanted


def pool(**changes: Any) -> PreparedPool:
    given = {"group_by": "source", "flag_column": "suspect", "text_columns": ["text"], **changes}
    return PreparedPool(*rows_and_wanted(), {}, **given)


def scores() -> dict[str, np.ndarray]:
    easy_first = {"confidence": np.exp(-LOSSES), "loss": LOSSES, "gain": -LOSSES, "plain_loss": LOSSES, "ifd": LOSSES}
    return {name: values.astype(np.float32) for name, values in easy_first.items()}


def choose(arm: str, matching: str = "rows", budget: float = 0.2, seed: int = 0, **changes: Any) -> list[int]:
    return pool(**changes).choose(Cell(arm, matching, budget, seed)).tolist()


ARMS = [
    "random",
    "longest",
    "oracle",
    *score_arms(),
    "ifd cut 0.3",
    "target cosine",
    "target gradient",
    "target bm25",
    "k_center",
    "cluster random",
    "cluster nearest",
    "unique random",
    "balanced random",
    "unique balanced random",
    "unique k_center",
    "balanced loss easiest",
]


@pytest.mark.parametrize("arm", ARMS)
def test_each_cell_has_its_budget(arm: str) -> None:
    prepared = pool()
    rows = prepared.choose(Cell(arm, "rows", 0.2, 1))
    assert len(set(rows.tolist())) == len(rows) == 12
    tokens = TOKENS[prepared.choose(Cell(arm, "tokens", 0.2, 1))].sum()
    assert 0 <= round(0.2 * TOKENS.sum()) - tokens < 7  # the most tokens of a row
    assert np.array_equal(prepared.choose(Cell(arm, "updates", 0.2, 1)), rows)


def test_all_rows() -> None:
    assert choose("full", budget=1.0) == list(range(COUNT))


@pytest.mark.parametrize("matching", ["rows", "tokens"])
def test_cells_choose_what_their_arm_says(matching: str) -> None:
    for arm in ("confidence easiest", "loss easiest", "gain easiest", "plain_loss easiest"):
        assert max(choose(arm, matching)) < 24, arm
        assert min(choose(arm.replace("easiest", "hardest"), matching)) > 36, arm
    assert choose("random", matching) != choose("random", matching, seed=1)
    assert np.mean(choose("loss flexrand 0.25", matching)) < np.mean(choose("loss flexrand 0.75", matching)) - 5
    assert max(choose("ifd cut 0.3", matching, budget=0.5)) <= 42
    assert max(choose("random", matching, budget=0.5)) > 42
    assert np.mean(TOKENS[choose("longest", matching)]) > 6


def test_copies_are_left_out() -> None:
    for arm in ("unique random", "unique k_center", "unique balanced random", "unique loss easiest"):
        assert not set(COPIES) & set(choose(arm, budget=0.9)), arm
    assert set(COPIES) & set(choose("random", budget=0.9))
    assert choose("unique loss easiest")[:6] == [0, 1, 2, 3, 5, 6]


def test_groups_get_equal_parts() -> None:
    def shares(arm: str) -> Sequence[int]:
        rows = np.array(choose(arm, budget=0.3))
        return (rows < 40).sum(), (rows >= 40).sum()

    assert shares("balanced random") == (9, 9)
    assert shares("balanced loss easiest") == (9, 9)
    assert shares("loss easiest") == (18, 0)


def test_the_oracle_takes_no_suspect_row() -> None:
    clean = set(np.flatnonzero(~FLAGS).tolist())
    found = choose("oracle", budget=0.5)
    assert len(found) == 30
    assert set(found) < clean
    assert found != choose("oracle", budget=0.5, seed=1)
    for matching in ("rows", "tokens"):
        assert set(choose("oracle", matching, budget=0.9)) == clean  # all of them, where they are too few


def test_wanted_rows_say_what_is_near() -> None:
    """As the selector does by itself, with the columns of its own features."""
    prepared = pool()
    rows, wanted = prepared.rows, prepared.wanted
    by_hand = {
        "target cosine": TargetSelector(keep=12, target=wanted, features_column="auto_features"),
        "target gradient": TargetSelector(
            keep=12, target=wanted, metric="gradient", features_column="gradient_features"
        ),
        "target bm25": TargetSelector(keep=12, target=wanted, metric="bm25", text_columns=["text"]),
        "k_center": KCenterSelector(keep=12, seed=4, features_column="auto_features"),
        "cluster random": ClusterSelector(
            keep=12, seed=4, choose="random", features_column="auto_features", column=None
        ),
    }
    found = {arm: prepared.choose(Cell(arm, "rows", 0.2, 4)).tolist() for arm in by_hand}
    assert {20, 21, 22} < set(found["target cosine"])
    assert 50 in found["target bm25"]
    assert len(set(map(tuple, found.values()))) == 5
    for arm, selector in by_hand.items():
        assert found[arm] == selector.read_indices(rows).tolist(), arm


def test_scores_are_not_there_for_arms_that_need_none() -> None:
    prepared = pool()
    prepared.rows = prepared.rows.remove_columns([f"dlc_{name}" for name in scores()])
    for arm in ("random", "oracle", "k_center", "cluster random", "cluster nearest", "target cosine", "target bm25"):
        assert len(prepared.choose(Cell(arm, "rows", 0.2, 0))) == 12, arm


def test_a_new_selector_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SELECTORS, "middle", MiddleSelector())
    assert choose("loss middle 1.5") == list(range(24, 36))
    assert choose("loss middle 1.5", matching="updates") == list(range(24, 36))


def test_too_few_rows_are_said() -> None:
    with pytest.raises(ValueError, match=r"^unique random cannot choose at keep 0\.99: .*Ask for at most 57"):
        choose("unique random", budget=0.99)


def test_rows_that_random_rows_have_too() -> None:
    prepared = pool()
    shared = {
        arm: prepared.shared_with_random(Cell(arm, "rows", 0.5, 1))
        for arm in ("random", "loss flexrand 0.5", "loss easiest")
    }
    assert shared["random"] == 1.0
    chosen, random = (set(choose(arm, budget=0.5, seed=1)) for arm in ("loss easiest", "random"))
    assert shared["loss easiest"] == len(chosen & random) / 30
    assert shared["loss flexrand 0.5"] > 0.9  # it is random rows with another name
    assert shared["loss easiest"] < 0.7
    assert prepared.shared_with_random(Cell("full", "rows", 1.0, 1)) == 1.0


def test_share_of_suspect_rows() -> None:
    cells = [Cell(arm, "rows", 0.5, 0) for arm in ("oracle", "random")]
    assert pool().suspect_share(cells[0]) == 0
    assert pool().suspect_share(cells[1]) == FLAGS[choose("random", budget=0.5)].mean() > 0
    assert pool(flag_column=None).suspect_share(cells[1]) is None


def test_rows_are_chosen_once_and_timed_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where somebody has asked for them before: what choosing costs must not be lost."""
    ticks = iter([10.0, 13.5])
    monkeypatch.setattr("hf_dlc.study.prepared.core_seconds", lambda: next(ticks))
    prepared, cell = pool(), Cell("k_center", "rows", 0.2, 0)
    first = prepared.choose(cell._replace(matching="updates"))
    assert prepared.choose(cell) is first
    assert prepared.selecting_seconds(cell) == prepared.selecting_seconds(cell._replace(matching="updates")) == 3.5
