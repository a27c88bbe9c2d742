"""The processes of a run: who we are, how many threads we use, and how results come together."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env, reduce


logger = logging.getLogger(__name__)


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
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if state.num_processes != launched:
        raise RuntimeError(
            f"the launcher started {launched} processes but this one sees {state.num_processes}: each would score "
            "all rows. On CPU set ACCELERATE_USE_CPU=1, and build no PartialState() before the first score()."
        )
    return state


def sum_over_processes(values: np.ndarray, state: PartialState) -> np.ndarray:
    """Sum float32 arrays of the same shape over all processes; exact where all but one process hold zeros."""
    if state.num_processes == 1:
        return values
    return reduce(torch.from_numpy(values).to(state.device), reduction="sum").cpu().numpy()


def from_main_process(value: Any, state: PartialState) -> Any:
    """The main process's `value`, on every process."""
    return broadcast_object_list([value])[0] if state.num_processes > 1 else value


@contextmanager
def cpu_threads(device: torch.device, num_threads: int | None, state: PartialState) -> Iterator[None]:
    """
    Let CPU work use this process's share of the cores, or `num_threads`.

    Launchers set `OMP_NUM_THREADS=1` for each process, also for a single one, which would leave cores idle.
    """
    before = torch.get_num_threads()
    if device.type == "cpu":
        share = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes))
        torch.set_num_threads(num_threads or max(1, share // local_processes))
        logger.info("using %d CPU threads", torch.get_num_threads())
    try:
        yield
    finally:
        torch.set_num_threads(before)
