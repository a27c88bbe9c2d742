from __future__ import annotations

import sys

import numpy as np
import pytest
from datasets.utils import disable_progress_bars, enable_progress_bars, tqdm

from hf_dlc.execution.plan import MicroBatch
from hf_dlc.execution.progress import progress_bar


BATCHES = [MicroBatch(np.array([2, 0]), np.array([4, 3])), MicroBatch(np.array([3]), np.array([2]))]


@pytest.fixture
def shown_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without the environment variable that silences the bars in all other tests."""
    module = sys.modules[tqdm.__module__]
    monkeypatch.setattr(module, "HF_DATASETS_DISABLE_PROGRESS_BARS", None)
    monkeypatch.setattr(module, "_hf_datasets_progress_bars_disabled", False)


def run(show: bool = True, levels: int = 2) -> None:
    with progress_bar([BATCHES] * levels, show) as advance:
        for _ in range(levels):
            for batch in BATCHES:
                advance(batch)


@pytest.mark.usefixtures("shown_bars")
def test_a_bar_on_stderr(capsys: pytest.CaptureFixture) -> None:
    run()
    captured = capsys.readouterr()
    assert captured.out == ""
    last = captured.err.split("\r")[-1]
    assert "Scoring: 100%" in last
    assert "20.0/20.0" in last  # tokens of all levels, padding included
    assert "tok/s" in last
    assert "level 2/2, row 3/3" in last


@pytest.mark.usefixtures("shown_bars")
def test_the_level_that_is_running_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(tqdm, "set_postfix_str", lambda self, text, refresh: told.append(text))
    run(levels=2)
    assert told == ["level 1/2, row 2/3", "level 1/2, row 3/3", "level 2/2, row 2/3", "level 2/2, row 3/3"]


@pytest.mark.usefixtures("shown_bars")
def test_other_processes_show_none(capsys: pytest.CaptureFixture) -> None:
    run(show=False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("shown_bars")
def test_the_switch_of_datasets(capsys: pytest.CaptureFixture) -> None:
    disable_progress_bars()
    run()
    assert capsys.readouterr() == ("", "")
    enable_progress_bars()
    run()
    assert "Scoring" in capsys.readouterr().err


def test_the_environment_variable(capsys: pytest.CaptureFixture) -> None:
    run()  # it is set for all tests
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("shown_bars")
def test_a_level_of_which_little_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(tqdm, "set_postfix_str", lambda self, text, refresh: told.append(text))
    work = [[], BATCHES[1:], BATCHES]
    with progress_bar(work, show=True) as advance:
        for batch in [batch for batches in work for batch in batches]:
            advance(batch)
    assert told == ["level 2/3, row 1/1", "level 3/3, row 2/3", "level 3/3, row 3/3"]


@pytest.mark.usefixtures("shown_bars")
def test_nothing_to_do(capsys: pytest.CaptureFixture) -> None:
    with progress_bar([[], []], show=True):
        pass
    assert capsys.readouterr().out == ""
