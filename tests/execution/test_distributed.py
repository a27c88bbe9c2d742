"""What one process can see of itself; several processes are run elsewhere."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import PartialState

from hf_dlc.execution import distributed
from hf_dlc.execution.distributed import (
    check_same,
    cpu_threads,
    from_main_process,
    process_state,
    sum_over_processes,
    using_threads,
)
from tests.conftest import run_python


def test_one_process() -> None:
    state = process_state()
    assert (state.num_processes, state.process_index, state.is_main_process) == (1, 0, True)
    assert process_state().__dict__ is state.__dict__


def test_one_process_has_all_values() -> None:
    state = SimpleNamespace(num_processes=1)
    values = np.ones((2, 3), dtype=np.float32)
    assert sum_over_processes(values, state) is values
    assert from_main_process((0.0, 0.1), state) == (0.0, 0.1)


def test_processes_that_do_not_see_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    process_state()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(RuntimeError, match=r"started 2 processes but this one sees 1.*ACCELERATE_USE_CPU=1"):
        process_state()


def test_a_number_that_a_scheduler_left_is_no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert process_state().num_processes == 1


@pytest.mark.skipif(torch.accelerator.is_available(), reason="the state of a process without an accelerator")
def test_the_first_state_is_on_the_cpu() -> None:
    code = (
        "from hf_dlc.execution.distributed import process_state\nprint(process_state().device)\n"
        "from accelerate import Accelerator\nprint(Accelerator().device)"
    )
    assert run_python(code).stdout.split() == ["cpu", "cpu"]


def test_the_state_that_is_there_is_used() -> None:
    before = PartialState()
    assert process_state().device == before.device


@pytest.mark.parametrize(("local", "expected"), [(None, 8), ("1", 8), ("2", 4), ("3", 2), ("16", 1)])
def test_threads_by_default(monkeypatch: pytest.MonkeyPatch, local: str | None, expected: int) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    if local is None:
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    else:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    assert cpu_threads() == expected
    assert cpu_threads(3) == 3


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with using_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_threads_are_put_back_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="no number"), using_threads(before + 1):
        raise ValueError("no number")
    assert torch.get_num_threads() == before


def test_processes_with_other_rows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    state = SimpleNamespace(num_processes=2)
    other = {"rows": "a", "weights": "b"}
    monkeypatch.setattr(distributed, "gather_object", lambda mine: [*mine, other])
    check_same({"rows": "a", "weights": "b"}, state)
    with pytest.raises(RuntimeError, match=r"differ in: rows\. Hand the whole dataset to score\(\) on every process"):
        check_same({"rows": "x", "weights": "b"}, state)
