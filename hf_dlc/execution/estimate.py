"""What a run will cost, foretold from the plan and a short probe."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..columns import SCORED_STATUSES
from ..masking import Masker
from ..tasks import EncodedRow, Task
from .plan import MicroBatch


# A forward pass keeps about this many tensors of (tokens, widest layer) alive at once.
_LIVE_ACTIVATIONS = 8


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
            Micro-batches times levels, over all processes.
        seconds (`float`):
            Time of the run in all processes together going at this one's speed; calibration is not counted.
        memory_bytes (`int`):
            Weights, the copy of the maskable ones, and activations, in each process.
    """

    rows: int
    skipped: dict[str, int]
    truncated: int
    tokens: int
    target_tokens: int
    forward_passes: int
    seconds: float
    memory_bytes: int

    def __str__(self) -> str:
        skipped = ", ".join(f"{reason} {count}" for reason, count in self.skipped.items()) or "none"
        return (
            f"{self.rows:,} rows ({skipped} skipped, {self.truncated:,} truncated), {self.tokens:,} tokens "
            f"({self.target_tokens:,} targets), {self.forward_passes:,} forward passes, about "
            f"{self.seconds:,.0f} s and {self.memory_bytes / 2**30:.1f} GiB a process"
        )


def estimate_run(
    task: Task,
    masker: Masker,
    rows: Sequence[EncodedRow],
    batches: Sequence[MicroBatch],
    levels: int,
    num_processes: int,
) -> RunEstimate:
    """Count, time a few micro-batches, and multiply."""
    statuses = Counter(row.status for row in rows)
    padded_tokens = sum(batch.padded_tokens for batch in batches)
    return RunEstimate(
        rows=len(rows),
        skipped={status: count for status, count in sorted(statuses.items()) if status not in SCORED_STATUSES},
        truncated=statuses["truncated"],
        tokens=sum(row.length for row in rows),
        target_tokens=sum(row.target_tokens for row in rows),
        forward_passes=len(batches) * levels,
        seconds=levels * padded_tokens * _seconds_per_token(task, rows, batches) / num_processes,
        memory_bytes=_memory(masker, batches),
    )


def _seconds_per_token(task: Task, rows: Sequence[EncodedRow], batches: Sequence[MicroBatch]) -> float:
    """Mean over a long, a middling and a short micro-batch; the faster of two passes each, the first warms up."""
    if not batches:
        return 0.0
    sample = [batches[index] for index in sorted({0, len(batches) // 2, len(batches) - 1})]
    seconds = [min(_timed(task, [rows[index] for index in batch.rows]) for _ in range(2)) for batch in sample]
    return sum(seconds) / sum(batch.padded_tokens for batch in sample)


def _timed(task: Task, members: Sequence[EncodedRow]) -> float:
    start = time.perf_counter()
    task.forward(members).loss.cpu()  # waits for an accelerator
    return time.perf_counter() - start


def _memory(masker: Masker, batches: Sequence[MicroBatch]) -> int:
    tensors = list(masker.model.parameters()) + list(masker.model.buffers())
    weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    widest = max(max(target.parameter.shape[-2:]) for target in masker.targets)
    dtype_size = torch.finfo(masker.model.dtype).bits // 8
    largest = max((batch.padded_tokens for batch in batches), default=0)
    maskable = sum(target.parameter.nbytes for target in masker.targets)
    return weights + maskable + largest * widest * dtype_size * _LIVE_ACTIVATIONS
