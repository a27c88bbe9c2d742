"""Contenders and parts of the benchmark on a tiny saved model: everybody scores the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_dlc.study.benchmark import many
from hf_dlc.study.benchmark.contenders import load_contender, mask_smallest, rectangles
from hf_dlc.study.benchmark.counting import share_of_bare_pass
from hf_dlc.study.benchmark.errands import run_errand, scale_errand
from hf_dlc.study.benchmark.meters import Stopwatch, masking_timed
from hf_dlc.study.benchmark.options import Job
from hf_dlc.study.benchmark.padding import padding_errand
from hf_dlc.study.benchmark.rows import one_of_each, shared_head
from hf_dlc.study.benchmark.statistics import Spread, growth
from hf_dlc.study.benchmark.verdicts import judge_many, judge_padding, judge_run, judge_scale
from hf_dlc.study.benchmark.worker import Worker
from tests.conftest import ROOT, build_model, same_weights, weights
from tests.rows import many_rows


ROWS = many_rows(16, skipped=[2])
SCHEDULE = "0, 0.1, 0.3"


@pytest.fixture
def job(llama_folder: Path, tmp_path: Path) -> Job:
    Dataset.from_list([row for row in ROWS if row["output"]]).save_to_disk(tmp_path / "rows")
    return Job(model=str(llama_folder), rows=str(tmp_path / "rows"), schedule=SCHEDULE)


# ---- contenders ------------------------------------------------------------------------------------------------


def test_everybody_scores_the_same(job: Job) -> None:
    """With the same masks: a level that was masked otherwise would be far off."""
    confidence, loss = load_contender("naive", job).score(15)
    assert confidence.shape == loss.shape == (3, 15)
    assert np.abs(loss[1] - loss[0]).max() > 1e-2
    assert np.abs(loss[2] - loss[1]).max() > 1e-2
    ours = load_contender("hf_dlc", job).score(15)
    np.testing.assert_allclose(ours[0], confidence, rtol=0, atol=1e-5)
    np.testing.assert_allclose(ours[1], loss, rtol=0, atol=1e-4)


@pytest.mark.slow  # needs lm-eval
def test_harness_scores_the_same(job: Job) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    harness = load_contender("harness", job)
    assert harness.get_ready()["batch_size"] in (1, 8, 16)
    expected = load_contender("naive", job).score(15)[1]
    np.testing.assert_allclose(harness.score(15)[1], expected, rtol=0, atol=1e-4)


def test_naive_code_under_the_masks_of_hf_dlc(job: Job) -> None:
    naive = load_contender("naive", job)
    confidence, loss = naive.score(15)
    found = naive.check()  # random weights have no ties
    np.testing.assert_allclose(found["confidence"], confidence, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found["loss"], loss, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["naive", "hf_dlc", "limit"])
def test_a_turn(job: Job, name: str) -> None:
    contender = load_contender(name, job)
    before = weights(contender.model)
    assert contender.get_ready()["weights_bytes"] == sum(p.nbytes for p in build_model("llama").parameters())
    sample = contender.have_turn()
    assert 0 <= sample["masking_seconds"] < sample["seconds"]
    assert (sample["masking_seconds"] > 0) == (name != "limit")
    assert (sample["loss"] is None) == (name == "limit")
    assert sample["peak_bytes"] > 0 or name == "limit"  # which may find all that it needs in memory of imports
    now = weights(contender.model)
    assert all(torch.equal(now[key], before[key]) for key in before)


def test_smallest_weights_are_masked_and_the_head_is_not() -> None:
    model = build_model("llama")
    before = weights(model)
    mask_smallest(model, 0.0)
    assert same_weights(model, before)
    mask_smallest(model, 0.25)
    assert torch.equal(model.lm_head.weight, before["lm_head.weight"])
    projection = model.model.layers[0].mlp.up_proj.weight
    assert int((projection == 0).sum()) == projection.numel() // 4
    original = before["model.layers.0.mlp.up_proj.weight"].abs()
    assert original[projection == 0].max() < original[projection != 0].min()


@pytest.mark.parametrize(("tokens", "length", "budget"), [(100, 7, 30), (12, 4, 8), (5, 9, 2), (20, 6, 3)])
def test_rectangles_have_every_token_once_and_no_padding(tokens: int, length: int, budget: int) -> None:
    batches = list(rectangles(torch.arange(tokens), length, budget))
    assert torch.cat([batch.flatten() for batch in batches]).tolist() == list(range(tokens))
    assert all(batch.numel() <= max(budget, length) for batch in batches)


def test_masking_that_cannot_be_timed_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no mask was set"), masking_timed(Stopwatch()):
        pass


# ---- the other parts ---------------------------------------------------------------------------------------------


def test_scale_and_run(job: Job, tmp_path: Path) -> None:
    Dataset.from_list([row for row in ROWS if row["output"]] * 2).save_to_disk(tmp_path / "many")
    job.rows = str(tmp_path / "many")
    scale = scale_errand(job)
    assert (scale["rows"], scale["few_rows"], len(scale["few_seconds"])) == (30, 3, 2)
    assert scale["estimated_seconds"] > 0 < scale["estimated_bytes"]
    assert growth({**scale, "seconds": 6.0, "few_seconds": [0.2, 0.6], "rows": 30}) == pytest.approx(1.5)
    run = run_errand(job)
    assert 0 < run["masking_seconds"] < run["seconds"]
    assert len(run["limit_seconds"]) == run["levels"]
    sample = {**run, "masking_seconds": 0.004, "seconds": 1.0, "levels": 2, "limit_seconds": [0.5, 0.7, 0.3]}
    limit, masking, less, _ = judge_run({"template": {**sample, "bound": 0.8}, "no template": {**sample, "bound": 2}})
    assert (masking.measured, masking.holds) == ("0.40%", True)
    assert (limit.measured, limit.asked, limit.holds) == ("1.25x (0.75–1.75)", "≥ 0.85x", True)
    assert (less.measured, less.holds) == ("0.50x (0.30–0.70)", False)
    assert "no template: against 2.00 of a bare forward pass" in less.what
    _, seconds, _ = judge_scale({**scale, "estimated_seconds": 2.0, "seconds": 1.5})
    assert (seconds.measured, seconds.holds) == ("1.33x", False)


def test_padding(job: Job) -> None:
    job.rounds = 3
    found = padding_errand(job)
    assert (found["rows"], found["rows_a_turn"], len(found["seconds"])) == (15, 15, 3)
    assert found["goes_end_to_end"]
    assert found["computed"]["end to end"] < found["computed"]["padded"]
    assert {*found["seconds"][0]} == {"end to end", "padded", "bare"}
    turns = [{"end to end": 1.0, "padded": 1.2, "bare": 0.6}] * 3 + [{"end to end": 1.0, "padded": 9.0, "bare": 9.0}]
    [verdict] = judge_padding({**found, "seconds": turns, "bound": 0.8})
    assert (verdict.measured, verdict.holds) == ("0.75x (0.75–3.38)", False)


def test_what_a_run_multiplies(make_scorer: Callable) -> None:
    """Counted in the layers themselves: everything that is no padding, and nothing else."""
    scorer, counted = make_scorer(template="alpaca", schedule="0"), Counter()
    model, dataset = scorer.model, Dataset.from_list([{"instruction": "Go " * n, "output": "Yes"} for n in [9, 2] * 8])
    rows = scorer.parts.task.encode_dataset(dataset)
    bound = share_of_bare_pass(scorer, rows)
    for module in [*model.model.modules(), model.lm_head]:
        if isinstance(module, torch.nn.Linear):
            part = "head" if module is model.lm_head else "layers"
            module.register_forward_hook(
                lambda module, states, _, part=part: counted.update(
                    {part: states[0].shape[:-1].numel() * module.weight.numel()}
                )
            )
    scorer.score(dataset)
    layers, tokens = counted["layers"], sum(row.length for row in rows)
    bare = tokens * sum(target.parameter.numel() for target in scorer.parts.masker.targets)
    head = sum(row.target_tokens for row in rows) * model.lm_head.weight.numel()
    assert layers < 0.7 * bare  # what the rows share is computed once
    assert bound == pytest.approx(bare / (layers + head), rel=0.02)


def test_very_many_rows(tmp_path: Path) -> None:
    """A run of a tiny model with a journal, and the same run after it has lost a chunk."""
    many.many_rows(40).save_to_disk(tmp_path / "rows")
    job = Job(rows=str(tmp_path / "rows"), run_dir=str(tmp_path / "journal"))
    found, again = many.many_errand(job), many.many_again_errand(job)
    assert 0 < found["pass_seconds"] < found["seconds"]
    settings = json.loads((tmp_path / "journal" / "journal.json").read_text(encoding="utf-8"))["settings"]
    assert settings["shared_heads"] != []  # as without a stopwatch
    assert found["rows"] == again["rows"] == 40
    assert 150 < found["tokens_a_row"] < 250
    assert 0 < again["first_pass_seconds"] < 60
    few = {**found, "rows": 10, "seconds": 2.0, "pass_seconds": 1.0, "peak_bytes": 1}
    part = {"few": few, "many": {**few, "rows": 20, "seconds": 3.2}, "again": {**again, "first_pass_seconds": 61.0}}
    growing, memory, soon = judge_many(part)
    assert (growing.measured, growing.holds) == ("1.100x", False)
    assert memory.holds
    assert (soon.measured, soon.holds) == ("61 s", False)


@pytest.mark.distributed
def test_two_processes(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with Worker("processes", job, tmp_path, processes=2) as worker:
        assert worker.answer()["seconds"] > 0


# ---- numbers -----------------------------------------------------------------------------------------------------


def test_one_of_each_eight_neighbours() -> None:
    lengths = np.random.default_rng(1).permutation(np.repeat(np.arange(10), 8))
    chosen = one_of_each(8, lengths.tolist())
    assert sorted(lengths[chosen].tolist()) == list(range(10))
    assert chosen == one_of_each(8, lengths.tolist())


def test_shared_head() -> None:
    rows = [[1, 2, 3, 4], [7, 8], [1, 2, 9], [5]]
    assert shared_head(rows) == 4 / 10
    assert shared_head([[1, 2]]) == 0


def test_spread() -> None:
    assert Spread.of([2.0, 1.0, 4.0]).show("{:.1f}", "x") == "2.0x (1.0–4.0)"
    assert Spread.of([2.0]).show("{:.1f}", " s") == "2.0 s"
