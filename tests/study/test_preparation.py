"""What arms need is made once and timed by itself, and is what a scorer makes that is called by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from hf_dlc import DLCScorer
from hf_dlc.pipeline.duplicates.find import find_duplicates
from hf_dlc.scores.base import Pass
from hf_dlc.scores.dlc import Loss
from hf_dlc.scores.table import SCORES
from hf_dlc.study import preparation as preparation_module
from hf_dlc.study.preparation import Preparation, Step, read_steps, run_step
from tests.rows import many_rows
from tests.study.conftest import ROWS


POOL = Dataset.from_list([*ROWS[:14], *ROWS[2:4]])  # two rows stand twice
WANTED = Dataset.from_list(many_rows(40)[36:])


@pytest.fixture
def scorer(llama_folder: Path) -> DLCScorer:
    return DLCScorer.from_pretrained(llama_folder, device="cpu", dtype="float32", schedule="0, 0.3")


@pytest.fixture
def prepare(scorer: DLCScorer, tmp_path: Path) -> Callable[..., Any]:
    """`prepare(arms)` makes all that they need; returns pool, wanted rows and seconds."""

    def make(*arms: str, wanted: Dataset | None = WANTED, identity: str = "one") -> Any:
        steps = Preparation(scorer, POOL, wanted, tmp_path, 1).steps_for(arms)
        for step in steps:
            run_step(step, tmp_path, identity)
        return read_steps(steps, tmp_path, identity, POOL, wanted)

    return make


def names_of(arms: Sequence[str]) -> list[str]:
    return [step.name for step in Preparation(None, POOL, None, Path(), 1).steps_for(arms)]


def test_scores_that_share_passes_are_made_together_and_others_by_themselves() -> None:
    assert names_of(["random", "longest", "full"]) == []
    assert names_of(["loss easiest", "gain hardest", "confidence flexrand 0.5"]) == ["confidence-gain-loss"]
    assert names_of(["plain_loss easiest", "loss easiest"]) == ["loss", "plain_loss"]  # one level, or all
    assert names_of(["plain_loss easiest", "plain_confidence easiest"]) == ["plain_confidence-plain_loss"]
    assert names_of(["ifd cut 0.1", "prompt_gain easiest"]) == ["ifd", "prompt_gain"]  # whole rows, or beginnings
    assert names_of(["ifd cut 0.1", "similarity cut 0.1"]) == ["ifd", "similarity"]
    assert names_of(["ifd cut 0.1", "ifd cut 0.3", "ifd easiest"]) == ["ifd"]
    assert names_of(["target gradient", "k_center", "cluster random"]) == ["features_auto", "features_gradient"]
    assert names_of(["unique random", "unique loss easiest"]) == ["loss", "duplicates"]


def test_a_score_with_passes_of_its_own_is_made_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ends(Loss):
        name = "ends"

        def passes(self, schedule: Sequence[float]) -> tuple[Pass, ...]:
            return Pass(schedule[0]), Pass(schedule[-1])

    monkeypatch.setitem(SCORES, "ends", Ends())
    assert names_of(["ends easiest", "loss easiest"]) == ["ends", "loss"]


def test_columns_are_those_of_a_scorer_that_is_called_by_hand(scorer: DLCScorer, prepare: Callable[..., Any]) -> None:
    arms = ["loss easiest", "gain easiest", "plain_loss easiest", "ifd cut 0.1", "prompt_gain easiest"]
    pool, wanted, seconds = prepare(*arms)
    assert set(pool.column_names) == {*POOL.column_names, *(f"dlc_{name.split()[0]}" for name in arms)}
    expected = scorer.with_options(scores=("loss", "gain", "plain_loss", "ifd", "prompt_gain")).score(POOL)
    for name in ("loss", "gain", "plain_loss", "ifd", "prompt_gain"):
        assert pool[f"dlc_{name}"][:] == pytest.approx(expected[f"dlc_{name}"][:], abs=1e-5), name
    assert pool.select_columns(POOL.column_names)[:] == POOL[:]
    assert wanted[:] == WANTED[:]
    assert set(seconds) == {f"score {name}" for name in ("loss", "gain", "plain_loss", "ifd", "prompt_gain")}


def test_features_of_the_pool_and_of_the_wanted_rows(scorer: DLCScorer, prepare: Callable[..., Any]) -> None:
    pool, wanted, _ = prepare("target cosine", "target gradient")
    for pooling in ("auto", "gradient"):
        by_hand = scorer.with_options(levels="single", scores=("plain_loss",), features=pooling)
        for found, rows in ((pool, POOL), (wanted, WANTED)):
            expected = np.array(by_hand.score(rows)["dlc_features"][:])
            assert np.array(found[f"{pooling}_features"][:]) == pytest.approx(expected, abs=1e-5)
    pool, wanted, _ = prepare("k_center", wanted=None, identity="two")
    assert "auto_features" in pool.column_names
    assert wanted is None


def test_shift_by_a_training_on_the_wanted_rows(scorer: DLCScorer, prepare: Callable[..., Any]) -> None:
    pool, _, seconds = prepare("target_shift easiest")
    adapted = scorer.with_options(scores=("plain_loss",), levels="single").adapt(WANTED, num_threads=1)
    expected = adapted.score(POOL)["dlc_target_shift"][:]
    assert pool["dlc_target_shift"][:] == pytest.approx(expected, abs=1e-4)
    assert np.ptp(expected) > 0
    assert list(seconds) == ["score target_shift"]


def test_rows_that_repeat_others(scorer: DLCScorer, prepare: Callable[..., Any]) -> None:
    pool, _, seconds = prepare("unique random")
    assert pool["dup_of"][:] == find_duplicates(POOL, features=None)["dup_of"][:]
    assert sum(value >= 0 for value in pool["dup_of"][:]) == 2
    assert list(seconds) == ["duplicates"]


def made(columns: dict[str, list[int]], log: list[str], name: str) -> Any:
    def make() -> tuple[Dataset, None]:
        log.append(name)
        return Dataset.from_dict(columns), None

    return make


def test_each_need_has_the_seconds_of_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 2.0, 10.0, 15.0])
    monkeypatch.setattr(preparation_module, "core_seconds", lambda: next(ticks))
    rows, log = Dataset.from_dict({"text": ["a", "b"]}), []
    steps = [
        Step(("score loss", "score gain"), made({"dlc_loss": [1, 2], "dlc_gain": [3, 4]}, log, "scores")),
        Step(("duplicates",), made({"dup_of": [0, 1]}, log, "duplicates")),
    ]
    for step in steps * 2:  # what is there is not made again
        run_step(step, tmp_path, "one")
    assert log == ["scores", "duplicates"]
    pool, wanted, seconds = read_steps(steps, tmp_path, "one", rows, None)
    assert seconds == {"score loss": 2.0, "score gain": 2.0, "duplicates": 5.0}
    assert pool.column_names == ["text", "dlc_loss", "dlc_gain", "dup_of"]
    assert wanted is None


def test_what_was_made_of_other_rows_is_refused_or_made_again(tmp_path: Path) -> None:
    rows, log = Dataset.from_dict({"text": ["a", "b"]}), []
    step = Step(("duplicates",), made({"dup_of": [0, 1]}, log, "duplicates"))
    run_step(step, tmp_path, "one")
    with pytest.raises(ValueError, match=r"duplicates is of other rows, masking or model\. Pass another --output-dir"):
        read_steps([step], tmp_path, "two", rows, None)
    run_step(step, tmp_path, "two")
    assert read_steps([step], tmp_path, "two", rows, None)[0]["dup_of"][:] == [0, 1]
    assert len(log) == 2


def test_what_a_stopped_step_costs_is_not_known(
    scorer: DLCScorer, prepare: Callable[..., Any], tmp_path: Path, passes: list[int]
) -> None:
    """Of a scoring that was stopped, the seconds would be those of the rest."""
    pool, _, seconds = prepare("loss easiest", "ifd easiest")
    assert all(value > 0 for value in seconds.values())
    (tmp_path / "loss" / "facts.json").unlink()
    passes.clear()
    again, _, seconds = prepare("loss easiest", "ifd easiest")
    assert not passes  # what is in the journal is not computed again
    assert again["dlc_loss"][:] == pool["dlc_loss"][:]
    assert np.isnan(seconds["score loss"])
    assert seconds["score ifd"] > 0
    assert json.loads((tmp_path / "loss" / "facts.json").read_text(encoding="utf-8"))["seconds"] is None
