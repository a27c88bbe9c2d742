"""The benchmark on a tiny saved model: everybody scores the same, and the tables say what the samples say."""

from __future__ import annotations

import json
import platform
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_dlc.selection.table import SELECTORS
from hf_dlc.study.benchmark import bench, trials, worker
from hf_dlc.study.benchmark.report import report as report_of
from hf_dlc.study.benchmark.verdicts import contender_verdicts, verdicts
from recipes import benchmark_scoring
from tests.conftest import ROOT
from tests.rows import many_rows, write_rows


pytestmark = pytest.mark.slow  # starts a process for each contender

ROWS = many_rows(16, skipped=[2])
SCHEDULE = "0, 0.1, 0.3"


@pytest.fixture(scope="module", autouse=True)
def _surroundings(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Workers find the package; files go to folders of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
        patch.setenv("PYTHONPATH", str(ROOT))
        yield


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", ROWS)


@pytest.fixture(scope="module")
def output(llama_folder: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run without the harness leaves."""
    folder = tmp_path_factory.mktemp("results") / "run"
    options = {"model": llama_folder, "dataset": rows_file, "output_dir": folder, "schedule": SCHEDULE}
    options |= {"rows": 12, "rounds": 2, "selection_rows": 5000, "num_threads": 1, "dtype": "float32"}
    options |= {"parts": "selection, contenders, selectors", "selector_rows": 300, "vector_size": 8}
    with pytest.MonkeyPatch.context() as patch:
        for module in (bench, trials):
            patch.setattr(module, "has_harness", lambda: False)
        benchmark_scoring.main([text for name, value in options.items() for text in (f"--{name}", str(value))])
    return folder


@pytest.fixture(scope="module")
def results(output: Path) -> dict[str, Any]:
    return json.loads((output / "benchmark.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report(output: Path) -> str:
    return (output / "benchmark.md").read_text(encoding="utf-8")


def cells(report: str, begins: str) -> list[str]:
    """The only table row that begins so."""
    [line] = [line for line in report.splitlines() if line.startswith(f"| {begins}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


# ---- a run -----------------------------------------------------------------------------------------------------


def test_files(output: Path) -> None:
    drawn = {"benchmark.png"} if find_spec("matplotlib") else set()
    assert {path.name for path in output.iterdir()} == {"benchmark.json", "benchmark.md"} | drawn
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


def test_tables_come_from_the_samples(results: dict[str, Any], report: str) -> None:
    assert report == report_of(results)
    part = results["contenders"]
    naive, ours = (part["entries"][f"{name}-float32"] for name in ("naive", "hf_dlc"))
    seconds = [[sample["seconds"] for sample in entry["samples"]] for entry in (naive, ours)]
    row = cells(report, "hf_dlc | float32")
    assert row[2].split()[0] == f"{np.median([part['tokens'] * 3 / value for value in seconds[1]]):,.0f}"
    ratios = [theirs / mine for theirs, mine in zip(*seconds, strict=True)]
    assert row[3].split()[0] == f"{np.median(ratios):.2f}x"
    low, high = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
    assert low == high or row[3].endswith(f" ({low}–{high})")
    peak = max(sample["peak_bytes"] for sample in ours["samples"])
    assert row[6] == f"{peak / ours['weights_bytes']:.2f}x"
    for column, kind in ((10, "confidence"), (11, "loss")):
        difference = np.abs(np.array(ours[kind]) - part["same_masks"][kind]).max()
        assert row[column] == f"{difference:.1e}"
        assert difference <= 1e-4
    assert cells(report, "FlexRand on 5,000 scores |")[2].startswith(
        f"{np.median(results['selection']['seconds']):.2f} s"
    )


def test_every_selector_is_timed(results: dict[str, Any], report: str) -> None:
    found = results["selectors"]["selectors"]
    assert list(found) == list(SELECTORS)
    for name, one in found.items():
        assert one["kept"] == 30
        assert cells(report, f"selector {name} |")[1].startswith(
            f"30 of 300 rows with vectors of 8: {one['seconds']:.1f}"
        )


def test_rows_are_the_first_ones_with_a_target(results: dict[str, Any]) -> None:
    part = results["contenders"]
    assert (part["rows"], part["levels"]) == (12, 3)
    assert np.array(part["entries"]["naive-float32"]["loss"]).shape == (3, 12)
    assert 0 < part["target_tokens"] < part["tokens"]
    assert 0.1 < part["shared_head"] < 1
    assert len(part["entries"]["limit-float32"]["samples"]) == 2


def test_what_is_missing_is_said(report: str) -> None:
    assert "lm_eval is not installed" in cells(report, "lm-evaluation-harness")[2]
    assert cells(report, "hf_dlc in float32 against lm-evaluation-harness, float32")[2:] == ["not measured", "-"]
    assert "| scale | not measured: not chosen |" in report
    assert "| many | not measured: not chosen |" in report


def test_neither_hosts_nor_paths_are_told(output: Path, llama_folder: Path) -> None:
    for name in ("benchmark.json", "benchmark.md"):
        text = (output / name).read_text(encoding="utf-8")
        assert str(llama_folder.parent) not in text
        assert tempfile.gettempdir() not in text
        assert platform.node() not in text


def test_results_are_not_overwritten_unasked(output: Path) -> None:
    with pytest.raises(SystemExit, match="--overwrite"):
        benchmark_scoring.main(["--output_dir", str(output)])


def test_a_worker_that_dies_says_why(rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "worker.py"
    script.write_text("import sys; sys.exit('no room')", encoding="utf-8")
    monkeypatch.setattr(worker, "PROGRAM", (str(script),))
    options = ["--parts", "selection", "--dataset", str(rows_file)]
    with pytest.raises(SystemExit) as caught:
        benchmark_scoring.main([*options, "--output_dir", str(tmp_path / "run")])
    assert caught.value.code == "the worker selection ended with 1: no room"
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


def test_scale_needs_enough_rows(rows_file: Path, tmp_path: Path) -> None:
    options = ["--scale_dataset", str(rows_file), "--dataset", str(rows_file), "--output_dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match="has 16 rows"):
        benchmark_scoring.main(options)


# ---- verdicts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "holds"), [(1.0, True), (2.0, False)])
def test_verdicts_follow_the_samples(results: dict[str, Any], factor: float, holds: bool) -> None:
    changed = json.loads(json.dumps(results))
    entries = changed["contenders"]["entries"]
    for name, seconds in (("naive", 3.5), ("hf_dlc", 1.0), ("limit", 1.1)):
        for sample in entries[f"{name}-float32"]["samples"]:
            sample["seconds"] = seconds * (factor if name == "hf_dlc" else 1)
            sample["peak_bytes"] = 2 * factor * entries["hf_dlc-float32"]["weights_bytes"]
    found = contender_verdicts(changed)
    assert [verdict.holds for verdict in found] == [holds, True, True, True, None, holds]


def test_samples_that_are_far_off_do_not_hold(results: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(results))
    changed["contenders"]["entries"]["hf_dlc-float32"]["loss"][2][0] += 1e-3
    [off] = [verdict for verdict in verdicts(changed) if "largest difference" in verdict.what]
    assert off.measured == "1.0e-03"
    assert off.holds is False


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--parts", "contenders,speed"], "speed"),
        (["--rows", "0"], "rows must be at least 1"),
        (["--schedule", "0, 2"], "2"),
        (["--dtype", "int8"], "int8"),
    ],
)
def test_wrong_options(options: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark_scoring.main(options)
    assert says in capsys.readouterr().err
