"""Checks before a model is loaded, and runs that have ended, which answer without one."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, List, Value

from hf_dlc import DLCConfig
from hf_dlc.cli import commands as cli
from hf_dlc.execution.journal import Journal, JournalError
from hf_dlc.execution.processes import PeerError
from hf_dlc.pipeline import options as pipeline_options
from hf_dlc.pipeline import prune as pipeline
from hf_dlc.pipeline.checks import check_columns
from hf_dlc.utils.files import require_writable
from tests.conftest import SCORING
from tests.rows import SCORED_ROWS, write_rows


pytestmark = pytest.mark.usefixtures("empty_plots")


class Loaded(Exception):
    """A model was asked for."""


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever loads a model fails with `Loaded`."""

    def load(*_: Any, **__: Any) -> None:
        raise Loaded

    monkeypatch.setattr(pipeline, "load_scorer", load)
    monkeypatch.setattr(pipeline_options, "load_scorer", load)


@pytest.fixture
def refusal(no_model: None, tmp_path: Path) -> Callable[..., str]:
    """`refusal(rows, "--option", "value")` returns the message of a scoring that never loads a model."""

    def run(rows: list[dict[str, Any]], *more: str, folder: str = "run") -> str:
        rows_file = write_rows(tmp_path / "rows.jsonl", rows)
        files = ["--dataset", str(rows_file), "--model", "no/model", "--output_dir", str(tmp_path / folder)]
        with pytest.raises(SystemExit) as caught:
            cli.main(["score", *files, *SCORING, *more])
        assert isinstance(caught.value.code, str)
        return caught.value.code

    return run


@pytest.mark.parametrize(
    ("row", "more", "says"),
    [
        ({"frage": "a", "antwort": "b"}, [], "No known layout fits the columns ['antwort', 'frage']"),
        ({"question": "a", "answer": "b"}, ["--layout", "alpaca"], "The layout 'alpaca' needs the column"),
        ({"question": "a", "answer": "b"}, ["--columns", "quest=instruction"], "`columns` names ['quest']"),
        ({"question": "a", "answer": "b", "reasoning": "c"}, [], "['reasoning'] look like reasoning"),
    ],
)
def test_columns_are_refused_before_a_model_is_loaded(
    refusal: Callable[..., str], tmp_path: Path, row: dict[str, str], more: list[str], says: str
) -> None:
    assert says in refusal([row], *more)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["estimate", "agree"])
def test_commands_that_write_nothing_look_at_the_columns_first(no_model: None, tmp_path: Path, command: str) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"frage": "a", "antwort": "b"}])
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--dataset", str(rows), "--model", "no/model"])
    assert "No known layout fits" in str(caught.value.code)


def test_rows_that_may_be_read_are_not_refused(no_model: None) -> None:
    template = DLCConfig(template=lambda row: {"prompt": row["frage"], "completion": row["antwort"]})
    check_columns(Dataset.from_list([{"frage": "a", "antwort": "b"}]), template)
    check_columns(Dataset.from_list([{"img": "a.png", "kind": 1}]), DLCConfig(columns={"kind": "label"}))
    pictures = Dataset.from_dict({"x": [None], "y": [0]}, features=Features({"x": Image(), "y": Value("int64")}))
    check_columns(pictures, DLCConfig())
    broken = {"question": ["a"], "answer": ["b"], "shown": [[{"bytes": b"no picture", "path": None}]]}
    types = {"question": Value("string"), "answer": Value("string"), "shown": List(Image())}
    check_columns(Dataset.from_dict(broken, features=Features(types)), DLCConfig())
    check_columns(Dataset.from_list([{"question": "a", "answer": "b", "reasoning": ""}]), DLCConfig())
    with pytest.raises(ValueError, match="the dataset has no rows"):
        check_columns(Dataset.from_dict({"text": []}), DLCConfig())


def test_another_run_in_the_folder_is_refused_before_a_model_is_loaded(
    refusal: Callable[..., str], copy_of_run: Path
) -> None:
    folder = copy_of_run.name
    assert "config.seed is 0 there and 7 here" in refusal(SCORED_ROWS, "--seed", "7", folder=folder)
    assert "rows.number is 22 there and 3 here" in refusal(SCORED_ROWS[:3], folder=folder)
    assert "config.scores" in refusal(SCORED_ROWS, "--scores", "ifd", folder=folder)
    with Journal(copy_of_run / "journal").hold():
        assert "is in use by another run" in refusal(SCORED_ROWS, "--seed", "7", folder=folder)


def test_a_file_in_the_place_of_the_folder(refusal: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "must be a folder, but" in refusal(SCORED_ROWS, folder="file")
    assert "must be a folder, but" in refusal(SCORED_ROWS, folder="file/run")


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_writable(tmp_path / "new" / "run")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    with pytest.raises(PermissionError, match="cannot be written: Permission denied"):
        require_writable(tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()


# ---- a run that has ended ---------------------------------------------------------------------------------------


@pytest.fixture
def again(scored_run: Path, copy_of_run: Path, llama_folder: Path) -> Callable[..., None]:
    """`again("--option", "value")` gives the command of the finished run once more."""

    def run(*more: str, rows: Path = scored_run.parent / "rows.jsonl", model: Path = llama_folder) -> None:
        files = ["--dataset", str(rows), "--model", str(model), "--output_dir", str(copy_of_run)]
        cli.main(["score", *files, *SCORING, *more])

    return run


def test_a_finished_run_answers_without_a_model(
    again: Callable[..., None],
    no_model: None,
    copy_of_run: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy_of_run.rglob("*") if path.is_file()}
    with caplog.at_level(logging.INFO):
        again("--num_threads", "1", "--chunk_seconds", "5", "--measure_training", "false")
    assert f"{copy_of_run} holds the scores of these rows by" in caplog.text
    assert capsys.readouterr().out.startswith("22 rows, scored in ")
    assert before == {path: path.stat().st_mtime_ns for path in copy_of_run.rglob("*") if path.is_file()}


def test_what_may_differ_from_a_finished_run_is_looked_at(
    again: Callable[..., None], no_model: None, copy_of_run: Path, llama_folder: Path, tmp_path: Path
) -> None:
    changed = write_rows(tmp_path / "rows.jsonl", [*SCORED_ROWS[:-1], {**SCORED_ROWS[-1], "output": "Another."}])
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages }}", encoding="utf-8")
    for more in (["--keep_levels"], ["--max_rows", "22"], ["--template", str(template)]):
        with pytest.raises(Loaded):
            again(*more)
    with pytest.raises(Loaded):
        again(rows=changed)
    scoring = copy_of_run / "scoring.json"
    record = json.loads(scoring.read_text(encoding="utf-8"))
    scoring.write_text(json.dumps({**record, "scorer": {**record["scorer"], "score_version": 1}}), encoding="utf-8")
    with pytest.raises(Loaded):
        again()
    scoring.write_text("{", encoding="utf-8")
    with pytest.raises(Loaded):
        again()
    with pytest.raises(Loaded):
        again("--overwrite")
    assert not scoring.exists()


def test_a_model_whose_files_differ_is_looked_at(llama_folder: Path, tmp_path: Path, patch_loads: list[str]) -> None:
    """Also where nothing is newer than the scores: a link that leads to an older model, or a file that is gone."""
    models = [shutil.copytree(llama_folder, tmp_path / name) for name in ("older", "newer")]
    latest = tmp_path / "latest"
    latest.symlink_to(models[1])
    rows = write_rows(tmp_path / "rows.jsonl", SCORED_ROWS)
    files = ["--dataset", str(rows), "--model", str(latest), "--output_dir", str(tmp_path / "run")]

    def loads() -> int:
        patch_loads.clear()
        cli.main(["score", *files, *SCORING])
        return len(patch_loads)

    assert loads() == 1
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert loads() == 0
    files[-1] = str(tmp_path / "copy")
    assert loads() == 0
    latest.unlink()
    latest.symlink_to(models[0])
    assert loads() == 1


@pytest.fixture
def patch_loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that are loaded."""
    loaded: list[str] = []
    load = pipeline.load_scorer

    def noted(options: Any, config: DLCConfig) -> Any:
        loaded.append(options.model)
        return load(options, config)

    monkeypatch.setattr(pipeline, "load_scorer", noted)
    return loaded


def test_a_run_that_failed_or_is_broken_has_not_ended(
    again: Callable[..., None], no_model: None, copy_of_run: Path
) -> None:
    path = copy_of_run / "scores.parquet"
    table = pq.read_table(path)
    place = table.column_names.index("dlc_status")
    without = table.set_column(place, "dlc_status", pa.array(["nan_score"] * len(table)))
    pq.write_table(without, path)  # as of a model that gives NaN for all rows
    with pytest.raises(Loaded):
        again()
    pq.write_table(table.slice(1), path)
    with pytest.raises(Loaded):
        again()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(Loaded):
        again()


@pytest.mark.parametrize(
    ("error", "stays"),
    [
        (ValueError("refused"), False),
        (TypeError("refused"), False),
        (JournalError("no room"), True),
        (PeerError("process 1 is gone"), True),
        (KeyboardInterrupt(), True),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, BaseException) else None,
)
def test_what_was_encoded_stays_unless_the_run_is_refused(error: BaseException, stays: bool, tmp_path: Path) -> None:
    """A run that ended for another reason goes on with it."""
    options = pipeline_options.PruneArguments(dataset="rows.jsonl", output_dir=str(tmp_path / "run"))
    block = tmp_path / "run" / "journal" / "rows" / f"rows-00000000-{'0' * 16}.arrow"

    def end() -> None:
        with pipeline.open_run(options, DLCConfig(), ("hf-dlc", "score")):
            block.parent.mkdir(parents=True)
            block.write_bytes(b"")
            raise error

    with pytest.raises(type(error)):
        end()
    assert block.exists() == stays
    assert (tmp_path / "run").exists() == stays
