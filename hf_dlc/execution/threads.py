"""How many threads of the CPU to compute with: all, or one where other programs keep the cores busy."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from statistics import median

import torch

from hf_dlc.tasks.base import Task

from .estimate import PlannedPass, time_batch
from .plan import MicroBatch, cut_again
from .processes import using_threads


logger = logging.getLogger(__name__)

_PROBE_TOKENS = 128  # of the micro-batch that is timed; a single row may have more
_TIMES = 3  # that it is timed with each number of threads, after it has warmed up
_MOST_SHARE = 0.02  # of the work that the timing may come to
_CLEARLY = 0.9  # share of the time of all threads that one thread may take at most, to be chosen


def faster_threads(task: Task, passes: Sequence[PlannedPass]) -> int | None:
    """
    Find out whether one thread of the CPU computes faster than all that this process may use.

    Threads wait for each other after every matrix product. Where another program takes one of their cores, all wait
    for that one, and a single thread may be several times as fast.

    Args:
        task ([`Task`]):
            What runs the model, which is on the CPU and unmasked.
        passes (`Sequence[PlannedPass]`):
            What is to be run.

    Returns:
        `int` or `None`: 1, or as many threads as now. `None` if it was not tried: with one thread, or with so little
        to do that to find out would cost more than it could save.
    """
    threads = torch.get_num_threads()
    planned = next((one for one in passes if one.batches), None)
    if threads == 1 or planned is None:
        return None
    batch = _small_part(planned.batches)
    work = sum(batch.padded_tokens for one in passes for batch in one.batches)
    if 2 * (1 + _TIMES) * batch.padded_tokens > _MOST_SHARE * work:
        return None
    seconds: dict[int, list[float]] = {threads: [], 1: []}
    for _ in range(1 + _TIMES):
        for count, taken in seconds.items():  # in turns, for what else is going on changes
            with using_threads(count):
                taken.append(time_batch(task, planned.measures, planned.rows, batch))
    of_all, of_one = (median(taken[1:]) for taken in seconds.values())
    if of_one > _CLEARLY * of_all:
        return threads
    logger.info(
        "computing with one thread, which was %.1f times as fast as %d, as where other programs use the machine; "
        "num_threads settles it",
        of_all / of_one,
        threads,
    )
    return 1


def _small_part(batches: Sequence[MicroBatch]) -> MicroBatch:
    """Rows of middling length, as few of them as tell the speed."""
    return cut_again(batches[len(batches) // 2], _PROBE_TOKENS)[-1]
