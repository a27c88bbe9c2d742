"""The recipe that compares selectors, from its command line to its files, on a tiny model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.study import study as study_module
from hf_dlc.study.options import StudyArguments
from recipes import compare_selectors
from tests.conftest import ROOT
from tests.recipes.conftest import FAST
from tests.rows import write_rows


pytestmark = pytest.mark.slow  # trains models

ARMS = ["longest", "plain hardest", "confidence flexrand 0.25", "gain easiest"]


@pytest.fixture
def study(llama_folder: Path, rows_file: Path, tmp_path: Path) -> Callable[..., Path]:
    def run(*more: str) -> Path:
        options = {"dataset": rows_file, "model": llama_folder, "output_dir": tmp_path / "study", "eval_rows": 12}
        options |= {"seeds": 2, "epochs": 1, "num_finalists": 2, "screening_budget": 0.4}
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        compare_selectors.main([*arguments, "--budgets", "0.2", "0.4", "--arms", *ARMS, *FAST, *more])
        return tmp_path / "study"

    return run


def test_a_study_from_screening_to_verdicts(
    study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = study()
    text = (output / "study.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    found = json.loads((output / "study.json").read_text(encoding="utf-8"))
    finalists = {row["arm"] for row in found["comparisons"]}
    assert len(finalists) == 2
    assert finalists < set(ARMS)
    assert len(found["comparisons"]) == 2 * 2 * 2 * 2  # metrics, matchings, budgets, finalists
    assert text.count(" than random ") + text.count(" from random ") == 16 + 2 * 2  # each, and over all budgets
    assert "in float32; LoRA of rank 16 in all layers, 1 epochs" in text
    assert (output / "study.png").is_file()
    cells = sorted((output / "cells").iterdir())
    trained: list[Any] = []
    monkeypatch.setattr(study_module, "train_lora", lambda *arguments: trained.append(arguments))
    study()  # nothing is left to do
    assert not trained
    cells[0].unlink()
    with pytest.raises(AttributeError):  # of None, which our train_lora returned
        study()
    assert len(trained) == 1


SMALL = ["--finalists", "longest", "--seeds", "1", "--budgets", "0.4", "--matchings", "rows"]


def test_a_finished_study_is_reported_again_without_scoring(
    study: Callable[..., Path], taught_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--model", str(taught_folder), "--schedule", "calibrated", "--arms", "longest", "--num_finalists", "1"]
    first = json.loads((study(*options) / "study.json").read_text(encoding="utf-8"))
    shutil.rmtree(cache)  # as on another machine: the schedule is known from the scores alone
    monkeypatch.setattr(DLCScorer, "calibrate", None)
    assert json.loads((study(*options) / "study.json").read_text(encoding="utf-8")) == first


def test_cells_of_another_training_are_refused(study: Callable[..., Path]) -> None:
    output = study(*SMALL)
    (output / "cells" / "longest_rows_0.4_1.json").unlink()
    with pytest.raises(SystemExit, match="is of other rows, model, training"):
        study(*SMALL, "--epochs", "2")
    assert len(list((output / "cells").iterdir())) == 2  # before anything is trained
    with pytest.raises(SystemExit, match="is of other rows, masking or model"):
        study(*SMALL, "--schedule", "0, 0.3")
    (output / "scored.json").unlink()
    with pytest.raises(SystemExit, match="journal"):
        study(*SMALL, "--schedule", "0, 0.3")


def test_cells_of_other_scores_are_refused(study: Callable[..., Path]) -> None:
    """An arm that chooses by scores of another masking has chosen other rows; random rows are the same."""
    by_score = ["--finalists", "gain hardest", *SMALL[2:]]
    output = study(*by_score)
    (output / "scored.json").unlink()
    shutil.rmtree(output / "journal")
    with pytest.raises(SystemExit, match=r"gain_hardest_rows_0\.4_1\.json is of other rows"):
        study(*by_score, "--masking", "random", "--schedule", "0, 0.5, 0.9")


def test_cells_of_other_questions_are_refused(study: Callable[..., Path], tmp_path: Path) -> None:
    question = {"question": "2 + 2 =", "choices": ["4", "5"], "answer": 0}
    questions = write_rows(tmp_path / "questions.jsonl", [question])
    study(*SMALL)
    with pytest.raises(SystemExit, match="questions"):
        study(*SMALL, "--choices", str(questions))


def test_parts_make_the_whole(
    study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second part waits for the scores and then for the models of the first; the first reports."""
    output = study(*SMALL)
    expected = {path.name: path.read_bytes() for path in (output / "cells").iterdir()}
    scored = (output / "scored.json").rename(output / "scored.away")
    for path in (output / "cells").iterdir():
        path.unlink()
    waited = []

    def sleep(_: float) -> None:
        waited.append(len(list((output / "cells").iterdir())))
        if scored.is_file():
            scored.rename(output / "scored.json")
        else:
            (output / "study.md").unlink()
            study(*SMALL, "--part", "1/1")  # trains the rest
            capsys.readouterr()

    monkeypatch.setattr(study_module.time, "sleep", sleep)
    study(*SMALL, "--part", "2/2")
    assert waited == [0, 1]
    assert "Verdicts" not in capsys.readouterr().out  # of the first part
    found = {path.name: path.read_bytes() for path in (output / "cells").iterdir()}
    assert found.keys() == expected.keys()
    losses = [{name: json.loads(cell)["loss per row"] for name, cell in cells.items()} for cells in (found, expected)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "configs").glob("compare_*.yaml")), ids=lambda p: p.stem)
def test_configs_parse(path: Path) -> None:
    options, _ = parse_config_and_args([StudyArguments, DLCConfig], ["--config", str(path)])
    assert options.output_dir.startswith("runs/")
    assert options.seeds >= 5
    assert options.budgets == [0.1, 0.3, 0.5]
