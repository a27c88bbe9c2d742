"""Cost of a run, foretold from the plan and a short probe."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import psutil
import torch

from hf_dlc.scores.base import Asked
from hf_dlc.scores.columns import TRUNCATED
from hf_dlc.tasks.base import EncodedRow, Task
from hf_dlc.tasks.facts import facts_of
from hf_dlc.utils.durations import duration, price, scoring_training_ratio

from .loop import TokenLimit, in_parts_that_fit
from .masks import Masks
from .plan import MicroBatch
from .skipped import count_skipped, first_skipped, in_words


if TYPE_CHECKING:
    from hf_dlc.tasks.reading import DatasetReading


logger = logging.getLogger(__name__)

# A forward pass keeps about this many tensors of (tokens, widest layer) alive at once.
_LIVE_ACTIVATIONS = 8

# On a CPU, matrix products in half precision are done by kernels that are compiled for each shape and kept: so many
# bytes a shape, as measured, and so many shapes at most (oneDNN).
_KERNEL_BYTES = 2 * 2**20
_KERNELS = 1024

_MOST_SECONDS = 10.0  # of the probe, after it has warmed up; a micro-batch of each kind of pass is timed in any case
_SAMPLES = (1 / 2, 1 / 6, 5 / 6)  # places in the work at which micro-batches are timed, the middle first


class PlannedPass(NamedTuple):
    """A pass that is to be run: all rows as it sees them, its micro-batches, and what is measured."""

    rows: Sequence[EncodedRow]
    batches: list[MicroBatch]
    measures: tuple[Asked, ...]
    left: float = 1.0  # share of its tokens that a journal does not hold yet


@dataclass(frozen=True)
class RunEstimate:
    """
    Cost of scoring a dataset.

    Args:
        rows (`int`):
            Rows handed in.
        skipped (`dict[str, int]`):
            Rows that will have no score, by reason.
        truncated (`int`):
            Rows that will be scored on their first `max_length` tokens.
        tokens (`int`):
            Tokens of the scored rows, without padding.
        target_tokens (`int`):
            Tokens among them that are scored.
        forward_passes (`int`):
            Micro-batches times levels that are to be run, over all processes.
        seconds (`float`):
            Time of the run in all processes together going at this one's speed; calibration is not counted.
        memory_bytes (`int`):
            Weights, the copy of the maskable ones, and activations, in each process; on the CPU all that is resident,
            the libraries included.
        first_skipped (`dict[str, str]`, *optional*):
            Of the rows of each reason the first, with what is wrong with it.
        reading ([`DatasetReading`], *optional*):
            Which columns are read as what, and what is left out.
        training_seconds (`float`, *optional*):
            Time of one epoch of LoRA training on all rows that can be scored, of this model on this device, in as many
            processes. It is measured by real steps; `None` if it was not asked for or could not be measured.
        training_unknown (`str`, *optional*):
            Why it could not be measured.
        partly (`dict[str, int]`, *optional*):
            Rows that will lack some of the scores, by reason, such as those without a prompt.
        scored (`dict[str, int]`, *optional*):
            By the name of each score the rows that will have it, unless the model gives NaN.
        done (`float`, *optional*, defaults to 0):
            Share of the work, in tokens, that a journal holds; `forward_passes` and `seconds` are without it.
        device (`str`, *optional*, defaults to `""`):
            Kind of the device that was timed.
        passes (`int`, *optional*, defaults to 0):
            Times that rows go through the model: the levels, and views of other scores.
    """

    rows: int
    skipped: dict[str, int]
    truncated: int
    tokens: int
    target_tokens: int
    forward_passes: int
    seconds: float
    memory_bytes: int
    first_skipped: dict[str, str] = field(default_factory=dict)
    reading: DatasetReading | None = None
    training_seconds: float | None = None
    training_unknown: str | None = None
    partly: dict[str, int] = field(default_factory=dict)
    scored: dict[str, int] = field(default_factory=dict)
    done: float = 0.0
    device: str = ""
    passes: int = 0

    @property
    def scoring_training_ratio(self) -> float | None:
        """STR: what scoring costs, divided by what one epoch of training on all rows costs; `None` if not known."""
        return scoring_training_ratio(self.seconds, self.training_seconds)

    def require_rows(self) -> None:
        """
        Refuse to go on without a row that can be scored.

        Raises:
            ValueError: If there is none, with the first row of each reason.
        """
        if self.rows == 0:
            raise ValueError("the dataset has no rows. Pass another one.")
        if sum(self.skipped.values()) == self.rows:
            raise ValueError(
                f"none of the {self.rows} rows can be scored: {in_words(self.skipped, self.first_skipped)}."
            )

    def __str__(self) -> str:
        skipped, partly = in_words(self.skipped, {}) or "none", in_words(self.partly, {})
        partly = partly and f", some scores lacking: {partly}"
        done = f" left ({self.done:.0%} are done)" if self.done else ""
        where = f" on {self.device} for {self.passes} pass{'' if self.passes == 1 else 'es'}" if self.device else ""
        return (
            f"{self.rows:,} rows ({skipped} skipped, {self.truncated:,} truncated{partly}), {self.tokens:,} tokens "
            f"({self.target_tokens:,} targets), {self.forward_passes:,} forward passes{done}, about "
            f"{duration(self.seconds)}{where} and {self.memory_bytes / 2**30:.1f} GiB a process{self._price()}"
        )

    def _price(self) -> str:
        if self.training_unknown:
            return f"; what an epoch of LoRA training costs is not known: {self.training_unknown}"
        found = price(self.seconds, self.training_seconds)
        return f"; {found}" if found else ""


def estimate_run(
    task: Task,
    masks: Masks,
    rows: Sequence[EncodedRow],
    passes: Sequence[PlannedPass],
    num_processes: int,
    limit: TokenLimit,
) -> RunEstimate:
    """
    Count, time a few micro-batches, and multiply.

    Args:
        task ([`Task`]):
            What runs the model.
        masks (`Masks`):
            What masks it.
        rows (`Sequence[EncodedRow]`):
            All rows.
        passes (`Sequence[PlannedPass]`):
            What is run.
        num_processes (`int`):
            Processes of the run.
        limit ([`TokenLimit`]):
            What memory was found to hold so far; lowered where it turns out to hold less.

    Returns:
        [`RunEstimate`]
    """
    # Mostly one kind: the same rows are measured alike at all levels.
    to_do = [one for one in passes if one.batches and one.left]
    kinds = {(id(one.batches), one.measures): one for one in to_do}
    if kinds:
        logger.info("measuring the speed of this machine")
    for one in list(kinds.values())[:1]:
        _seconds_of(one.batches[0], task, one, limit)  # the longest warms up
    # Before the memory is looked at: the probe has a part in it.
    timed = {kind: _seconds(task, one, limit, _MOST_SECONDS / len(kinds)) for kind, one in kinds.items()}
    batches = [part for one in passes for batch in one.batches for part in limit.parts(batch)]
    tokens = [sum(batch.padded_tokens for batch in one.batches) for one in passes]
    left = sum(one.left * of_pass for one, of_pass in zip(passes, tokens, strict=True)) / max(1, sum(tokens))
    facts = facts_of(rows)
    return RunEstimate(
        rows=len(rows),
        skipped=count_skipped(facts.statuses),
        truncated=int((facts.statuses == TRUNCATED).sum()),
        tokens=int(facts.lengths.sum()),
        target_tokens=int(facts.target_tokens.sum()),
        forward_passes=round(left * len(batches)),
        seconds=sum(one.left * timed[id(one.batches), one.measures] for one in to_do) / num_processes,
        memory_bytes=_memory(masks, batches),
        first_skipped=first_skipped(rows),
        reading=task.reading,
        done=1 - left if sum(tokens) else 0.0,
        device=masks.model.device.type,
        passes=len(passes),
    )


def _seconds(task: Task, planned: PlannedPass, limit: TokenLimit, most_seconds: float) -> float:
    """Time of a pass, from the middles of three equal parts of the work, or of as many as there is time for."""
    ends = np.cumsum([batch.padded_tokens for batch in planned.batches])
    begun, rates = time.perf_counter(), []
    for part in _SAMPLES:
        batch = planned.batches[np.searchsorted(ends, ends[-1] * part)]
        found = [_seconds_of(batch, task, planned, limit)]
        if 2 * found[0] < most_seconds / len(_SAMPLES):  # of a short one, the better of two
            found.append(_seconds_of(batch, task, planned, limit))
        rates.append(min(found) / batch.padded_tokens)
        if time.perf_counter() - begun + found[0] > most_seconds:
            break
    return float(np.mean(rates) * ends[-1])


def _seconds_of(batch: MicroBatch, task: Task, planned: PlannedPass, limit: TokenLimit) -> float:
    """Time of a micro-batch, or of all its parts if it does not fit into memory."""
    return sum(in_parts_that_fit([batch], limit, partial(time_batch, task, planned.measures, planned.rows)))


def time_batch(task: Task, measures: Sequence[Asked], rows: Sequence[EncodedRow], batch: MicroBatch) -> float:
    """
    Seconds of the forward pass of a micro-batch, without what all rows begin with.

    Args:
        task ([`Task`]):
            What runs the model.
        measures (`Sequence[Asked]`):
            What is measured.
        rows (`Sequence[EncodedRow]`):
            All rows.
        batch ([`MicroBatch`]):
            Those that are run.

    Returns:
        `float`
    """
    shared_head = task.run_shared_head(batch.shared_head) if batch.shared_head else None
    fed = list(task.feed([rows[row] for row in batch.rows]))
    start = time.perf_counter()
    for values in task.forward(fed, measures, shared_head).values.values():
        values.cpu()  # waits for an accelerator
    return time.perf_counter() - start


def _memory(masks: Masks, batches: Sequence[MicroBatch]) -> int:
    """Bytes in use now, and those that come on top: the copy of the maskable weights, and activations."""
    maskable = [target.parameter for target in masks.targets]
    widest = max(max(_channels(parameter)) for parameter in maskable)
    largest = max((batch.padded_tokens for batch in batches), default=0)
    activations = largest * widest * maskable[0].element_size() * _LIVE_ACTIVATIONS
    copies = sum(parameter.nbytes for parameter in maskable)
    return _in_use(masks.model) + copies + activations + _kernels(maskable, batches)


def _channels(weight: torch.Tensor) -> Sequence[int]:
    """Widths on both sides of a weight: the first two dimensions of a convolution, the last two of all others."""
    return weight.shape[:2] if weight.dim() == 4 else weight.shape[-2:]


def _kernels(maskable: Sequence[torch.Tensor], batches: Sequence[MicroBatch]) -> int:
    """Bytes of compiled kernels: for each shape of weights and each size of a micro-batch there is one."""
    if maskable[0].device.type != "cpu" or maskable[0].element_size() > 2:
        return 0
    shapes, sizes = {parameter.shape for parameter in maskable}, {batch.padded_tokens for batch in batches}
    return _KERNEL_BYTES * min(_KERNELS, len(shapes) * len(sizes))


def _in_use(model: torch.nn.Module) -> int:
    """Bytes in use now: on accelerators those of tensors, on the CPU all that is resident."""
    tensors = [*model.parameters(), *model.buffers()]
    if tensors[0].device.type == "cpu":
        return psutil.Process().memory_info().rss
    return sum(tensor.nbytes for tensor in tensors)
