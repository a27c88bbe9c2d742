from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict

from hf_dlc import RunEstimate
from hf_dlc.execution import estimate as estimate_module
from hf_dlc.execution.estimate import _KERNEL_BYTES, _kernels
from hf_dlc.execution.journal import Journal, JournalError
from hf_dlc.execution.plan import cut_batches
from tests.conftest import same_weights, weights
from tests.rows import ALPACA_ROWS, SKIPPED_ROWS


ROWS = [*ALPACA_ROWS, *SKIPPED_ROWS.values()]


def test_counts_are_those_of_the_run(make_scorer: Callable, passes: list[int]) -> None:
    scorer = make_scorer(max_length=60, tokens_per_batch=100)
    dataset = Dataset.from_list(ROWS)
    estimate = scorer.estimate(dataset)
    passes.clear()
    scored = scorer.score(dataset)
    assert estimate.rows == 10
    assert estimate.skipped == {"empty_response": 3, "truncated_away": 1}
    assert estimate.truncated == scored["dlc_status"][:].count("truncated") == 1
    assert estimate.target_tokens == sum(scored["dlc_tokens"])
    assert estimate.forward_passes == len(passes) > 3
    assert estimate.tokens > estimate.target_tokens
    assert 0 < estimate.seconds < 60


def test_rows_that_will_lack_a_score_are_counted(make_scorer: Callable) -> None:
    """As they are when they are scored."""
    without_prompt = {"prompt": "", "completion": "Red, yellow and blue."}
    pairs = [{"prompt": row["instruction"], "completion": row["output"]} for row in ROWS]
    dataset = Dataset.from_list([*pairs, without_prompt])
    scorer = make_scorer(scores=("confidence", "gain", "ifd"), levels="single")
    estimate, scored = scorer.estimate(dataset), scorer.score(dataset)
    assert estimate.partly == {"no_prompt": 1}
    assert estimate.scored == {
        name: int(np.isfinite(scored[f"dlc_{name}"][:]).sum()) for name in ("confidence", "gain", "ifd")
    }
    assert (estimate.scored["gain"], estimate.scored["ifd"]) == (0, estimate.scored["confidence"] - 1)
    assert "some scores lacking: no_prompt 1)" in str(estimate)


def test_the_probe_of_a_slow_model_is_short(
    make_scorer: Callable, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One micro-batch of each kind of pass is timed, in the place of three, twice."""
    counts = []
    for most_seconds in (0.0, 1e9):
        monkeypatch.setattr(estimate_module, "_MOST_SECONDS", most_seconds)
        scorer = make_scorer(scores=("confidence", "ifd"), tokens_per_batch=100)
        passes.clear()
        assert scorer.estimate(Dataset.from_list(ROWS)).seconds > 0
        counts.append(len(passes))
    kinds = 3  # level 0 with two measures, masked levels with one, and the responses alone
    assert counts[1] - counts[0] == kinds * (3 * 2 - 1)


def test_memory_grows_with_what_is_in_flight(make_scorer: Callable) -> None:
    dataset = Dataset.from_list(ROWS)
    small, large = (make_scorer(tokens_per_batch=budget).estimate(dataset).memory_bytes for budget in (1, 4096))
    model = make_scorer().model
    assert sum(parameter.nbytes for parameter in model.parameters()) < small < large


def test_kernels_are_counted_where_there_are_any(make_scorer: Callable) -> None:
    batches = cut_batches(np.array([40, 40, 24, 16, 16]), tokens_per_batch=40)  # of 40 tokens, of 24 and of 32
    half = [torch.ones(shape, dtype=torch.bfloat16) for shape in [(8, 8), (8, 8), (8, 16)]]
    assert _kernels(half, batches) == 2 * 3 * _KERNEL_BYTES
    assert _kernels([tensor.float() for tensor in half], batches) == 0


def test_splits_are_added_up(make_scorer: Callable) -> None:
    scorer = make_scorer()
    split = DatasetDict({"a": Dataset.from_list(ROWS[:4]), "b": Dataset.from_list(ROWS[4:])})
    whole, parts = scorer.estimate(Dataset.from_list(ROWS)), scorer.estimate(split)
    assert (parts.rows, parts.tokens, parts.skipped) == (whole.rows, whole.tokens, whole.skipped)


def test_nothing_to_score(make_scorer: Callable) -> None:
    estimate = make_scorer().estimate(Dataset.from_list([SKIPPED_ROWS["empty"]]))
    assert (estimate.rows, estimate.tokens, estimate.forward_passes, estimate.seconds) == (1, 0, 0, 0)


def test_a_calibrated_schedule_is_not_calibrated_for_it(make_scorer: Callable) -> None:
    scorer = make_scorer(schedule=None, tokens_per_batch=10**5)
    assert scorer.estimate(Dataset.from_list(ROWS)).forward_passes == 4  # levels of one micro-batch
    with pytest.raises(AttributeError, match=r"call scorer\.calibrate"):
        _ = scorer.schedule_


def test_the_model_is_left_as_it_was(make_scorer: Callable) -> None:
    scorer = make_scorer()
    scorer.model.train()
    before, threads = weights(scorer.model), torch.get_num_threads()
    scorer.estimate(Dataset.from_list(ROWS))
    assert same_weights(scorer.model, before)
    assert all(module.training for module in scorer.model.modules())
    assert torch.get_num_threads() == threads


def test_a_stream_is_refused(make_scorer: Callable) -> None:
    with pytest.raises(TypeError, match=r"score needs a datasets\.Dataset or DatasetDict, got IterableDataset"):
        make_scorer().estimate(Dataset.from_list(ROWS).to_iterable_dataset())


def test_text() -> None:
    estimate = RunEstimate(1200, {"empty_response": 2, "no_target": 1}, 3, 45000, 6000, 88, 61.4, 3 * 2**30)
    assert str(estimate) == (
        "1,200 rows (empty_response 2, no_target 1 skipped, 3 truncated), 45,000 tokens (6,000 targets), "
        "88 forward passes, about 61 s and 3.0 GiB a process"
    )
    assert ", about 61 s on cpu for 4 passes and 3.0 GiB" in str(replace(estimate, device="cpu", passes=4))
    assert "(none skipped, 0 truncated)" in str(RunEstimate(1, {}, 0, 1, 1, 1, 1.0, 1))


def test_what_a_journal_holds_is_left_out(make_scorer: Callable, tmp_path: Path) -> None:
    dataset, options = Dataset.from_list(ROWS), {"tokens_per_batch": 100, "schedule": [0.1, 0.3]}
    whole = make_scorer(**options).estimate(dataset, run_dir=tmp_path)
    assert whole.done == 0.0
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]  # encoded for the run to come, and nothing else

    with pytest.MonkeyPatch.context() as patch:
        written = Journal.write_chunk

        def write(self: Journal, level: int, *chunk: Any) -> None:
            written(self, level, *chunk)
            if level == 1:
                raise KeyboardInterrupt

        patch.setattr(Journal, "write_chunk", write)
        with pytest.raises(KeyboardInterrupt):
            make_scorer(**options).score(dataset, tmp_path, chunk_seconds=1e9)

    found = make_scorer(**options).estimate(dataset, run_dir=tmp_path)
    assert found.done == pytest.approx(2 / 3)
    assert found.forward_passes == whole.forward_passes // 3
    assert "forward passes left (67% are done), about" in str(found)


def test_nothing_is_probed_where_a_journal_holds_all(make_scorer: Callable, passes: list[int], tmp_path: Path) -> None:
    dataset = Dataset.from_list(ROWS)
    make_scorer().score(dataset, tmp_path)
    passes.clear()
    found = make_scorer().estimate(dataset, run_dir=tmp_path)
    assert (found.done, found.seconds, found.forward_passes, passes) == (1.0, 0, 0, [])
    assert (found.rows, found.target_tokens > 0) == (10, True)


def test_the_journal_of_another_run_is_left_as_it_is(make_scorer: Callable, tmp_path: Path) -> None:
    dataset = Dataset.from_list(ROWS)
    make_scorer().score(dataset, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(JournalError, match="holds the scores of another run"):
        make_scorer(scores=("ifd",)).estimate(dataset, run_dir=tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_the_journal_of_another_model_is_left_as_it_is(make_scorer: Callable, tmp_path: Path) -> None:
    """It is known to be one only when the weights are compared; its features have another size."""
    dataset = Dataset.from_list(ROWS)
    make_scorer(features=True, features_size=8).score(dataset, tmp_path)
    manifest = json.loads((tmp_path / "journal.json").read_text(encoding="utf-8"))
    manifest["identity"]["config"]["features_size"] = 4  # as if it were the size of a model
    (tmp_path / "journal.json").write_text(json.dumps(manifest), encoding="utf-8")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    found = make_scorer(features=True, features_size=4).estimate(dataset, run_dir=tmp_path)
    assert found.done < 1
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_journal_is_of_one_dataset(make_scorer: Callable, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"estimate with run_dir needs a datasets\.Dataset, got DatasetDict"):
        make_scorer().estimate(DatasetDict({"a": Dataset.from_list(ROWS)}), run_dir=tmp_path)


def test_the_probe_is_announced(make_scorer: Callable, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        make_scorer().estimate(Dataset.from_list(ROWS))
    assert "measuring the speed of this machine" in caplog.messages
