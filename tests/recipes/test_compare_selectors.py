"""The recipe that compares selectors, from its command line to its files, on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_dlc import DLCConfig
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.study.options import StudyArguments
from hf_dlc.study.trainee import Trainee
from recipes import compare_selectors
from tests.conftest import ROOT
from tests.recipes.conftest import SCORING_FAST
from tests.rows import write_rows
from tests.study.conftest import ROWS


ARMS = ["longest", "oracle", "unique balanced random", "loss flexrand 0.25", "ifd cut 0.3"]
SMALL = ["--finalists", "longest", "--seeds", "1", "--budgets", "0.4", "--matchings", "rows"]
CONFIGS = [
    path for kind in ("compare", "study") for path in sorted((ROOT / "recipes" / "configs").glob(f"{kind}_*.yaml"))
]


@pytest.fixture
def study(llama_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """`study("--part", "1/2")` runs the recipe; returns its folder."""
    marked = [{**row, "source": "ab"[i % 5 == 0], "suspect": i % 4 == 0} for i, row in enumerate(ROWS)]
    rows = write_rows(tmp_path / "rows.jsonl", marked)

    def run(*more: str) -> Path:
        options = {"dataset": rows, "model": llama_folder, "output_dir": tmp_path / "study", "eval_rows": 12}
        options |= {"seeds": 2, "max_seeds": 2, "epochs": 1, "num_finalists": 2, "screening_budget": 0.4}
        options |= {"screening_seeds": 1, "lora_layers": 1, "group_by": "source", "flag_column": "suspect"}
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        compare_selectors.main([*arguments, "--budgets", "0.2", "0.4", *SCORING_FAST, *more])
        return tmp_path / "study"

    return run


@pytest.mark.slow  # trains models
def test_a_study_from_screening_to_verdict(
    study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = study("--arms", *ARMS)
    text = (output / "study.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    assert text.startswith("# Does choosing pay where some responses are wrong?")
    folders, files = {"cells", "prepared", "states"}, {"costs.json", "study.json", "study.md", "study.png"}
    assert {path.name for path in output.iterdir()} == folders | files
    found = json.loads((output / "study.json").read_text(encoding="utf-8"))
    assert {row["arm"] for row in found["screening"]} == {"random", *ARMS}
    compared = {row["arm"] for row in found["comparisons"]}
    assert len(compared) == 2
    assert compared < set(ARMS)
    assert found["finalists"] == [*found["finalists"][:2], "oracle"]
    assert len(found["comparisons"]) == 2 * 3 * 2 * 2  # metrics, matchings, budgets, finalists
    assert len(found["overall"]) == 2 * 2
    assert found["verdict"]["text"] in text
    assert "which nobody knows beforehand" in found["verdict"]["text"]  # what the oracle does
    monkeypatch.setattr(Trainee, "train", None)
    study("--arms", *ARMS)  # nothing is left to do
    assert (output / "study.md").read_text(encoding="utf-8") == text


def test_named_finalists_are_confirmed(study: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    output = study(*SMALL)
    found = json.loads((output / "study.json").read_text(encoding="utf-8"))
    assert found["screening"] == []
    assert {row["arm"] for row in found["confirming"]} == {"full", "random", "longest"}
    assert (output / "study.md").read_text(encoding="utf-8") in capsys.readouterr().out
    study(*SMALL, "--part", "2/2")
    assert capsys.readouterr().out == ""  # the first part reports


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (["--finalists", "target cosine"], r"must have what it needs, got target cosine \(target\)"),
        (["--pool_rows", "61"], "at least 61 rows to choose from and 1 to measure by are needed"),
        (["--flag_column", "wrong"], "flag_column must be one of instruction, input, output, source, suspect"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(study: Callable[..., Path], more: list[str], error: str) -> None:
    with pytest.raises(SystemExit, match=error):
        study(*SMALL, *more)


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_configs_parse(path: Path) -> None:
    options, config = parse_config_and_args([StudyArguments, DLCConfig], ["--config", str(path)])
    assert options.output_dir.startswith("runs/")
    assert options.seeds >= 5
    assert options.budgets == [0.1, 0.3, 0.5]
    assert config.prefix == "dlc"
