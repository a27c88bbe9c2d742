"""What one process can see of itself; several processes are run elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import PartialState

from hf_dlc.execution import processes as distributed
from hf_dlc.execution.processes import (
    PeerError,
    check_same,
    cpu_threads,
    from_main_process,
    on_main_process,
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
        "from hf_dlc.execution.processes import process_state\nprint(process_state().device)\n"
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


class TestOnMainProcess:
    @pytest.fixture
    def told(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """What the main process tells the others, which here come after it."""
        told: list[Any] = []

        def broadcast(value: Any, state: SimpleNamespace) -> Any:
            told.extend([value] if state.is_main_process else [])
            return told[-1]

        monkeypatch.setattr(distributed, "from_main_process", broadcast)
        return told

    def call(self, function: Callable[[], Any], is_main: bool, **options: Any) -> Any:
        return on_main_process(function, SimpleNamespace(num_processes=2, is_main_process=is_main), **options)

    def test_one_process_just_calls_it(self) -> None:
        state = SimpleNamespace(num_processes=1, is_main_process=True)
        assert on_main_process(lambda: 5, state, share=lambda _: 1 / 0) == 5
        with pytest.raises(KeyError):
            on_main_process(lambda: {}["x"], state)

    def test_it_is_called_on_the_main_process_alone(self, told: list[Any]) -> None:
        assert self.call(lambda: 5, is_main=True) == 5
        assert self.call(lambda: 1 / 0, is_main=False) == 5

    def test_the_others_get_what_is_shared(self, told: list[Any]) -> None:
        assert self.call(lambda: [1, 2], is_main=True, share=len) == [1, 2]
        assert self.call(lambda: None, is_main=False, share=len) == 2

    @pytest.mark.parametrize("result", [None, 0, "", []])
    def test_a_result_that_is_nothing(self, told: list[Any], result: Any) -> None:
        assert self.call(lambda: result, is_main=True) == result
        assert self.call(lambda: None, is_main=False) == result

    def test_an_error_is_raised_everywhere(self, told: list[Any]) -> None:
        error = ValueError("no room")

        def fail() -> None:
            raise error

        with pytest.raises(ValueError, match="no room") as raised:
            self.call(fail, is_main=True)
        assert raised.value is error
        with pytest.raises(PeerError, match=r"^process 0 failed: ValueError: no room$"):
            self.call(fail, is_main=False)

    def test_an_error_without_a_message_too(self, told: list[Any]) -> None:
        with pytest.raises(AssertionError):
            self.call(lambda: (_ for _ in ()).throw(AssertionError()), is_main=True)
        with pytest.raises(PeerError, match="AssertionError"):
            self.call(lambda: None, is_main=False)
