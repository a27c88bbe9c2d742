"""The processes of a run: who we are, how many threads we use, and how results come together."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, broadcast_object_list, gather_object, parse_flag_from_env, reduce

from hf_dlc.errors import DLCError


T = TypeVar("T")


class Meeting(Protocol):
    """A place to wait for all processes, without a time limit."""

    def meet(self) -> None:
        """Wait until all processes are here."""


class PeerError(DLCError):
    """Another process of the job has failed or is gone."""


def process_state() -> PartialState:
    """
    The `accelerate` state of this process.

    A bare `PartialState()` does not read `ACCELERATE_USE_CPU` and, being the first, would fix the wrong answer for
    every later `Accelerator()`; without an accelerator, CPU processes are the only ones there can be.

    Raises:
        RuntimeError: If a launcher started several processes that do not see each other.
    """
    if PartialState._shared_state == {}:
        cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
        state = PartialState(cpu=cpu)
    else:
        state = PartialState()
    # Without LOCAL_RANK the number was left by a scheduler, and no launcher started anything.
    launched = int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1
    if state.num_processes < launched:
        raise DLCError(
            f"the launcher started {launched} processes but this one sees {state.num_processes}: each would score "
            "all rows. On CPU set ACCELERATE_USE_CPU=1, and build no PartialState() before the first score()."
        )
    if state.distributed_type == DistributedType.MULTI_CPU:
        _leave_group_at_exit()
    return state


@cache
def _leave_group_at_exit() -> None:
    """
    A process that ends while gloo's threads run is aborted now and then, with all its work done, and its launcher
    takes the job for failed (pytorch/pytorch#190489). Other backends may wait for other processes when they are left.
    """

    @atexit.register
    def leave() -> None:
        if torch.distributed.is_initialized():  # who began it may have ended it
            torch.distributed.destroy_process_group()


def sum_over_processes(values: np.ndarray, state: PartialState) -> np.ndarray:
    """Sum float32 arrays of the same shape over all processes; exact where all but one process hold zeros."""
    if state.num_processes == 1:
        return values
    return reduce(torch.from_numpy(values).to(state.device), reduction="sum").cpu().numpy()


def from_main_process(value: Any, state: PartialState) -> Any:
    """The main process's `value`, on every process."""
    return broadcast_object_list([value])[0] if state.num_processes > 1 else value


def on_main_process(
    function: Callable[[], T],
    state: PartialState,
    peers: Meeting | None = None,
    share: Callable[[T], Any] = lambda result: result,
) -> T:
    """
    Call a function on the main process alone and give every process its result, or raise its error on all.

    Args:
        function (`Callable`):
            What is called.
        state ([`~accelerate.PartialState`]):
            State of this process.
        peers (`Meeting`, *optional*):
            Where the others wait meanwhile: a collective operation would lose patience.
        share (`Callable`, *optional*):
            What of the result the other processes get.

    Raises:
        PeerError: On the other processes, if the function raised on the main one.
    """
    if state.num_processes == 1:
        return function()
    result, error = None, None
    try:
        result = function() if state.is_main_process else None
    except Exception as problem:  # whatever it is, the others must not wait for a result that will never come
        error = problem
    if peers is not None:
        peers.meet()
    message = error and f"process 0 failed: {type(error).__name__}: {error}"
    shared, message = from_main_process((share(result) if result is not None else None, message), state)
    if error is not None:
        raise error
    if message is not None:
        raise PeerError(message)
    return result if state.is_main_process else shared


def cpu_threads(num_threads: int | None = None) -> int:
    """
    CPU threads of this process: `num_threads`, by default the cores divided by the processes of this machine.

    Launchers set `OMP_NUM_THREADS=1` for each process, also for a single one, which would leave cores idle.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return num_threads or max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def check_same(facts: dict[str, str], state: PartialState) -> None:
    """
    Make sure that all processes are about to do the same run: their results are put together by position.

    Raises:
        RuntimeError: On every process, naming the facts that differ.
    """
    everywhere = gather_object([facts]) if state.num_processes > 1 else [facts]
    if different := [name for name in facts if len({other[name] for other in everywhere}) > 1]:
        raise DLCError(
            "the processes must score the same dataset with the same model, but they differ in: "
            f"{', '.join(different)}. Hand the whole dataset to score() on every process, which deals out its rows."
        )


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Compute on the CPU with `count` threads, and afterwards with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
