"""The benchmark on a tiny saved model: everybody scores the same, and the tables say what the samples say."""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset

from tests.conftest import ROOT, build_model, same_weights, weights


sys.path.insert(0, str(ROOT / "recipes"))  # as for a recipe that is run as a script

import benchmark_scoring as benchmark


ROWS = [
    {"instruction": f"Say fox {i % 4 + 1} times.", "input": "", "output": "fox dog red " * (i % 5 + 1) * (i != 2)}
    for i in range(16)
]
SCHEDULE = "0, 0.1, 0.3"


@pytest.fixture(scope="module", autouse=True)
def _surroundings(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Workers find the package; files go to folders of these tests; threads are put back."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
        patch.setenv("PYTHONPATH", str(ROOT))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def output(llama_folder: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run without the harness leaves."""
    folder = tmp_path_factory.mktemp("results") / "run"
    options = {"model": llama_folder, "dataset": rows_file, "output_dir": folder, "schedule": SCHEDULE}
    options |= {"rows": 12, "rounds": 2, "selection_rows": 5000, "num_threads": 1, "dtype": "float32"}
    options["parts"] = "selection, contenders"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "has_harness", lambda: False)
        benchmark.main([text for name, value in options.items() for text in (f"--{name}", str(value))])
    return folder


@pytest.fixture(scope="module")
def results(output: Path) -> dict[str, Any]:
    return json.loads((output / "benchmark.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report(output: Path) -> str:
    return (output / "benchmark.md").read_text(encoding="utf-8")


@pytest.fixture
def job(llama_folder: Path, tmp_path: Path) -> benchmark.Job:
    Dataset.from_list([row for row in ROWS if row["output"]]).save_to_disk(tmp_path / "rows")
    return benchmark.Job(model=str(llama_folder), rows=str(tmp_path / "rows"), schedule=SCHEDULE)


def cells(report: str, begins: str) -> list[str]:
    """The only table row that begins so."""
    [line] = [line for line in report.splitlines() if line.startswith(f"| {begins}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


# ---- contenders ------------------------------------------------------------------------------------------------


def test_everybody_scores_the_same(job: benchmark.Job) -> None:
    """With the same masks: a level that was masked otherwise would be far off."""
    confidence, loss = benchmark.load_contender("naive", job).score(15)
    assert confidence.shape == loss.shape == (3, 15)
    assert np.abs(loss[1] - loss[0]).max() > 1e-2
    assert np.abs(loss[2] - loss[1]).max() > 1e-2
    ours = benchmark.load_contender("hf_dlc", job).score(15)
    np.testing.assert_allclose(ours[0], confidence, rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours[1], loss, rtol=0, atol=1e-4)


def test_harness_scores_the_same(job: benchmark.Job) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    harness = benchmark.load_contender("harness", job)
    assert harness.get_ready()["batch_size"] in (1, 8, 16)
    expected = benchmark.load_contender("naive", job).score(15)[1]
    np.testing.assert_allclose(harness.score(15)[1], expected, rtol=0, atol=1e-4)


def test_naive_code_under_the_masks_of_hf_dlc(job: benchmark.Job) -> None:
    naive = benchmark.load_contender("naive", job)
    confidence, loss = naive.score(15)
    found = naive.check()  # random weights have no ties
    np.testing.assert_allclose(found["confidence"], confidence, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found["loss"], loss, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["naive", "hf_dlc", "limit"])
def test_a_turn(job: benchmark.Job, name: str) -> None:
    contender = benchmark.load_contender(name, job)
    before = weights(contender.model)
    assert contender.get_ready()["weights_bytes"] == sum(p.nbytes for p in build_model("llama").parameters())
    sample = contender.have_turn()
    assert 0 <= sample["masking_seconds"] < sample["seconds"]
    assert (sample["masking_seconds"] > 0) == (name != "limit")
    assert (sample["loss"] is None) == (name == "limit")
    assert sample["peak_bytes"] > 0
    now = weights(contender.model)
    assert all(torch.equal(now[key], before[key]) for key in before)


def test_smallest_weights_are_masked_and_the_head_is_not() -> None:
    model = build_model("llama")
    before = weights(model)
    benchmark.mask_smallest(model, 0.0)
    assert same_weights(model, before)
    benchmark.mask_smallest(model, 0.25)
    assert torch.equal(model.lm_head.weight, before["lm_head.weight"])
    projection = model.model.layers[0].mlp.up_proj.weight
    assert int((projection == 0).sum()) == projection.numel() // 4
    original = before["model.layers.0.mlp.up_proj.weight"].abs()
    assert original[projection == 0].max() < original[projection != 0].min()


@pytest.mark.parametrize(("tokens", "length", "budget"), [(100, 7, 30), (12, 4, 8), (5, 9, 2), (20, 6, 3)])
def test_rectangles_have_every_token_once_and_no_padding(tokens: int, length: int, budget: int) -> None:
    batches = list(benchmark.rectangles(torch.arange(tokens), length, budget))
    assert torch.cat([batch.flatten() for batch in batches]).tolist() == list(range(tokens))
    assert all(batch.numel() <= max(budget, length) for batch in batches)


def test_masking_that_cannot_be_timed_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no mask was set"), benchmark.masking_timed(benchmark.Stopwatch()):
        pass


# ---- a run -----------------------------------------------------------------------------------------------------


def test_files(output: Path) -> None:
    drawn = {"benchmark.png"} if find_spec("matplotlib") else set()
    assert {path.name for path in output.iterdir()} == {"benchmark.json", "benchmark.md"} | drawn
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


def test_tables_come_from_the_samples(results: dict[str, Any], report: str) -> None:
    assert report == benchmark.report(results)
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


def test_neither_hosts_nor_paths_are_told(output: Path, llama_folder: Path) -> None:
    for name in ("benchmark.json", "benchmark.md"):
        text = (output / name).read_text(encoding="utf-8")
        assert str(llama_folder.parent) not in text
        assert tempfile.gettempdir() not in text
        assert platform.node() not in text


def test_results_are_not_overwritten_unasked(output: Path) -> None:
    with pytest.raises(SystemExit, match="--overwrite"):
        benchmark.main(["--output_dir", str(output)])


def test_a_worker_that_dies_says_why(rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "worker.py"
    script.write_text("import sys; sys.exit('no room')", encoding="utf-8")
    monkeypatch.setattr(benchmark, "__file__", str(script))
    options = ["--parts", "selection", "--dataset", str(rows_file)]
    with pytest.raises(SystemExit) as caught:
        benchmark.main([*options, "--output_dir", str(tmp_path / "run")])
    assert caught.value.code == "the worker selection ended with 1: no room"
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


# ---- the other parts ---------------------------------------------------------------------------------------------


def test_scale_and_run(job: benchmark.Job, tmp_path: Path) -> None:
    Dataset.from_list([row for row in ROWS if row["output"]] * 2).save_to_disk(tmp_path / "many")
    job.rows = str(tmp_path / "many")
    scale = benchmark.scale_errand(job)
    assert (scale["rows"], scale["few_rows"], len(scale["few_seconds"])) == (30, 3, 2)
    assert scale["estimated_seconds"] > 0 < scale["estimated_bytes"]
    assert benchmark.growth({**scale, "seconds": 6.0, "few_seconds": [0.2, 0.6], "rows": 30}) == pytest.approx(1.5)
    run = benchmark.run_errand_of_four_levels(job)
    assert 0 < run["masking_seconds"] < run["seconds"]
    assert len(run["limit_seconds"]) == run["levels"]
    sample = {**run, "masking_seconds": 0.004, "seconds": 1.0, "levels": 2, "limit_seconds": [0.5, 0.7, 0.3]}
    alone = {**sample, "shared_head": 0.01}
    limit, masking, limit_alone, _ = benchmark.judge_run({"template": sample, "no template": alone})
    assert (masking.measured, masking.holds) == ("0.40%", True)
    assert limit.measured == limit_alone.measured == "1.00x (0.60–1.40)"
    assert (limit.asked, limit_alone.asked) == ("≥ 1x", "≥ 0.85x")
    assert "no template" in limit_alone.what
    _, seconds, _ = benchmark.judge_scale({**scale, "estimated_seconds": 2.0, "seconds": 1.5})
    assert (seconds.measured, seconds.holds) == ("1.33x", False)


@pytest.mark.distributed
def test_two_processes(job: benchmark.Job, tmp_path: Path) -> None:
    with benchmark.Worker("processes", job, tmp_path, processes=2) as worker:
        assert worker.answer()["seconds"] > 0


def test_scale_needs_enough_rows(rows_file: Path, tmp_path: Path) -> None:
    options = ["--scale_dataset", str(rows_file), "--dataset", str(rows_file), "--output_dir", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match="has 16 rows"):
        benchmark.main(options)


# ---- numbers -----------------------------------------------------------------------------------------------------


def test_one_of_each_eight_neighbours() -> None:
    lengths = np.random.default_rng(1).permutation(np.repeat(np.arange(10), 8))
    chosen = benchmark.one_of_each(8, lengths.tolist())
    assert sorted(lengths[chosen].tolist()) == list(range(10))
    assert chosen == benchmark.one_of_each(8, lengths.tolist())


def test_shared_head() -> None:
    rows = [[1, 2, 3, 4], [7, 8], [1, 2, 9], [5]]
    assert benchmark.shared_head(rows) == 4 / 10
    assert benchmark.shared_head([[1, 2]]) == 0


def test_spread() -> None:
    assert benchmark.Spread.of([2.0, 1.0, 4.0]).show("{:.1f}", "x") == "2.0x (1.0–4.0)"
    assert benchmark.Spread.of([2.0]).show("{:.1f}", " s") == "2.0 s"


@pytest.mark.parametrize(("factor", "holds"), [(1.0, True), (2.0, False)])
def test_verdicts_follow_the_samples(results: dict[str, Any], factor: float, holds: bool) -> None:
    changed = json.loads(json.dumps(results))
    entries = changed["contenders"]["entries"]
    for name, seconds in (("naive", 3.5), ("hf_dlc", 1.0), ("limit", 1.1)):
        for sample in entries[f"{name}-float32"]["samples"]:
            sample["seconds"] = seconds * (factor if name == "hf_dlc" else 1)
            sample["peak_bytes"] = 2 * factor * entries["hf_dlc-float32"]["weights_bytes"]
    found = benchmark.contender_verdicts(changed)
    assert [verdict.holds for verdict in found] == [holds, True, True, True, None, holds]


def test_samples_that_are_far_off_do_not_hold(results: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(results))
    changed["contenders"]["entries"]["hf_dlc-float32"]["loss"][2][0] += 1e-3
    [off] = [verdict for verdict in benchmark.verdicts(changed) if "largest difference" in verdict.what]
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
        benchmark.main(options)
    assert says in capsys.readouterr().err
