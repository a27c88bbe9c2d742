"""The one loop over levels and micro-batches that `map` and `score` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from ..tasks import EncodedRow, Task
from .plan import MicroBatch


class Masked(Protocol):
    """What the masks did at a level."""

    masked: int  # weights set to zero


class Levels(Protocol):
    """The door to the masks: puts the model into the state of a level."""

    def set_level(self, level: int) -> Masked:
        """Mask the weights of `level`; levels are asked for in ascending order."""


def run_levels(
    task: Task,
    levels: Levels,
    schedule: Sequence[float],
    rows: Sequence[EncodedRow],
    batches: Sequence[MicroBatch],
    on_batch: Callable[[MicroBatch], None] = lambda _: None,
) -> tuple[np.ndarray, np.ndarray]:
    """
    Score rows at every level: level outside, micro-batch inside.

    Args:
        task ([`Task`]):
            What encodes and scores rows.
        levels (`Levels`):
            An open session of a masker.
        schedule (`Sequence[float]`):
            Masked fraction of each level.
        rows (`Sequence[EncodedRow]`):
            All rows of the run.
        batches (`Sequence[MicroBatch]`):
            What this process scores.
        on_batch (`Callable`, *optional*):
            Told of each micro-batch that is done.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Confidence and loss, float32 of shape `(levels, rows)`, zero for the rows that
        are in no micro-batch.

    Raises:
        RuntimeError: If masking weights leaves the model's hidden states as they were.
    """
    confidence = np.zeros((len(schedule), len(rows)), dtype=np.float32)
    loss = np.zeros_like(confidence)
    if not batches:
        return confidence, loss
    order = np.concatenate([batch.rows for batch in batches])
    unmasked: torch.Tensor | None = None
    for level in range(len(schedule)):
        masked = levels.set_level(level).masked
        confidences, losses = [], []
        for batch in batches:
            scores = task.forward([rows[index] for index in batch.rows])
            confidences.append(scores.confidence)
            losses.append(scores.loss)
            if batch is batches[0]:
                unmasked = _check_changed(unmasked, scores.states, masked, level)
            on_batch(batch)
        # One transfer a level: a transfer a micro-batch would make an accelerator wait for the host each time.
        confidence[level, order] = torch.cat(confidences).cpu().numpy()
        loss[level, order] = torch.cat(losses).cpu().numpy()
    return confidence, loss


def run_row(task: Task, masked: Sequence[Masked], row: EncodedRow) -> tuple[np.ndarray, np.ndarray]:
    """
    Score one row at all levels in a single forward pass, with a model whose levels stand side by side.

    Args:
        task ([`Task`]):
            What scores rows.
        masked (`Sequence[Masked]`):
            What the masks did at each level.
        row (`EncodedRow`):
            The row.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Confidence and loss, float32 of shape `(levels, 1)`.

    Raises:
        RuntimeError: If masking weights leaves the model's hidden states as they were.
    """
    scores = task.forward([row] * len(masked))
    unmasked, *others = scores.states.unflatten(0, (len(masked), -1))
    for level, states in enumerate(others, start=1):
        _check_changed(unmasked, states, masked[level].masked, level)
    return scores.confidence[:, None].cpu().numpy(), scores.loss[:, None].cpu().numpy()


def _check_changed(unmasked: torch.Tensor | None, states: torch.Tensor, masked: int, level: int) -> torch.Tensor:
    """
    Compare the hidden states of the first micro-batch with those of level 0, and return the latter.

    Published code scored quantised models whose masks never reached the arithmetic; this is what tells.
    """
    if unmasked is None:
        return states
    if masked and torch.equal(unmasked, states):
        raise RuntimeError(
            f"level {level} has {masked} masked weights, but the hidden states of its first micro-batch are the same "
            "as without masks: the model does not compute with the weights that were masked. Load it unquantised, "
            "without kernels or wrappers that keep their own copy of the weights."
        )
    return unmasked
