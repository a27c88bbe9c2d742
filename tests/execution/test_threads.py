from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from hf_dlc import DLCScorer
from hf_dlc.execution import threads as threads_module
from hf_dlc.execution.journal import JournalError
from hf_dlc.execution.processes import using_threads
from hf_dlc.scorer.engine import Engine
from tests.insides import task_of
from tests.rows import many_rows


DATASET = Dataset.from_list(many_rows(12))


@pytest.fixture
def make_timed(make_scorer: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DLCScorer]:
    """Makes a scorer whose micro-batches take so many seconds with one thread and with two, on any machine."""

    def make(of_one: float, of_two: float, most_share: float = 1e9) -> DLCScorer:
        monkeypatch.setattr(threads_module, "_MOST_SHARE", most_share)
        seconds = {1: of_one, 2: of_two}
        monkeypatch.setattr(threads_module, "time_batch", lambda *_: seconds[torch.get_num_threads()])
        monkeypatch.setattr("hf_dlc.scorer.job.cpu_threads", lambda num_threads=None: num_threads or 2)
        monkeypatch.setattr("hf_dlc.scorer.engine.cpu_threads", lambda: 2)
        return make_scorer(tokens_per_batch=100)

    return make


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Numbers of threads with which the engine has run."""
    counts: set[int] = set()
    run = Engine.run

    def noting(self: Engine, *args: Any) -> Any:
        counts.add(torch.get_num_threads())
        return run(self, *args)

    monkeypatch.setattr(Engine, "run", noting)
    return counts


@pytest.mark.parametrize(("of_one", "of_two", "threads"), [(1.0, 4.0, 1), (1.0, 0.6, 2), (1.0, 1.05, 2)])
def test_one_thread_computes_where_it_is_clearly_faster(
    make_timed: Callable, used: set[int], caplog: pytest.LogCaptureFixture, of_one: float, of_two: float, threads: int
) -> None:
    caplog.set_level(logging.INFO, "hf_dlc")
    before = torch.get_num_threads()
    make_timed(of_one, of_two).score(DATASET)
    assert used == {threads}
    assert torch.get_num_threads() == before
    assert ("computing with one thread, which was 4.0 times as fast as 2" in caplog.text) == (threads == 1)


def test_who_names_the_threads_gets_them(make_timed: Callable, used: set[int]) -> None:
    make_timed(1.0, 4.0).score(DATASET, num_threads=2)
    assert used == {2}


def test_a_short_run_is_not_made_longer(make_timed: Callable, used: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = make_timed(1.0, 4.0, most_share=0.02)
    scorer.score(DATASET)
    assert used == {2}
    monkeypatch.setattr(threads_module, "_MOST_SHARE", 1e9)  # as if the next run were a long one
    used.clear()
    scorer.score(DATASET)
    assert used == {1}


def test_threads_are_counted_once_for_the_estimate_and_the_run(
    make_timed: Callable, used: set[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hf_dlc")
    scorer = make_timed(1.0, 4.0)
    scorer.estimate(DATASET)
    scorer.score(DATASET)
    assert used == {1}
    assert caplog.text.count("computing with one thread") == 1


def test_an_estimate_has_the_threads_of_the_run(make_timed: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also under a launcher, which leaves one thread to each process."""
    scorer, counts = make_timed(1.0, 0.6), []

    def timed(*_: Any) -> float:
        counts.append(torch.get_num_threads())
        return 1.0

    monkeypatch.setattr("hf_dlc.execution.estimate.time_batch", timed)
    with using_threads(1):
        scorer.estimate(DATASET)
    assert set(counts) == {2}


def test_a_run_goes_on_with_the_threads_that_it_began_with(
    make_timed: Callable, used: set[int], tmp_path: Path
) -> None:
    """On a day when all threads would be faster: the bits of its scores depend on their number."""
    make_timed(1.0, 4.0).score(DATASET, run_dir=tmp_path)
    scorer = make_timed(1.0, 0.6)
    scorer.score(DATASET, run_dir=tmp_path)
    assert used == {1}
    assert [scorer.parts.engine.known_threads(asked) for asked in (None, 2)] == [1, 2]  # for the record


def test_what_a_journal_says_of_threads_is_checked(make_timed: Callable, tmp_path: Path) -> None:
    make_timed(1.0, 4.0).score(DATASET, run_dir=tmp_path)
    file = tmp_path / "journal.json"
    file.write_text(
        file.read_text(encoding="utf-8").replace('"one_thread": true', '"one_thread": 7'), encoding="utf-8"
    )
    with pytest.raises(JournalError, match="one_thread"):
        make_timed(1.0, 4.0).score(DATASET, run_dir=tmp_path)


def test_the_real_timing_leaves_scores_and_model_alone(make_scorer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_dlc.scorer.job.cpu_threads", lambda num_threads=None: num_threads or 2)
    plain = make_scorer().score(DATASET)
    monkeypatch.setattr(threads_module, "_MOST_SHARE", 1e9)
    scorer = make_scorer()
    assert scorer.score(DATASET)["dlc_loss"][:] == pytest.approx(plain["dlc_loss"][:], abs=1e-5)
    assert not task_of(scorer).model.training
