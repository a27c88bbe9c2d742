"""Whether one forward pass for all levels gives what one pass a level gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from hf_dlc.errors import UnevenPartsError
from hf_dlc.scores.dlc import LOSS
from hf_dlc.tasks.base import EncodedRow, Task
from hf_dlc.utils.rounding import is_rounding

from .masks import Masks, Session


class _Expected(NamedTuple):
    """States of a row at a level, as they are, as they are when the input is rounded, and the size of a rounding."""

    states: torch.Tensor
    rounded: torch.Tensor
    epsilon: float


def why_not_side_by_side(task: Task, masks: Masks, fractions: Sequence[float]) -> str | None:
    """
    Compare the hidden states of the task's sample rows at all levels.

    Args:
        task ([`Task`]):
            What runs the model.
        masks (`Masks`):
            A masker that holds these levels.
        fractions (`Sequence[float]`):
            Masked fractions of the levels.

    Returns:
        `str`: Why a row must meet one level at a time; `None` if it may meet all at once, since the states then differ
        by rounding only.
    """
    levels = len(fractions)
    for row in task.feed(task.samples()):
        with masks.session(fractions) as session:
            expected = [_at_level(task, session, level, row) for level in range(levels)]
        try:
            with masks.side_by_side(), masks.watch_reads() as read:
                # The loss is asked for since the layers of the head must fit, too.
                found = task.forward([row] * levels, (LOSS,), None, levels).states.unflatten(0, (levels, -1))
        except UnevenPartsError as error:
            return str(error)
        if read:
            return f"the model reads {min(read)} itself, round its layer"
        if not all(is_rounding(states, *known) for states, known in zip(found, expected, strict=True)):
            return "the model computes something else of a row in a batch"
    return None


def _at_level(task: Task, session: Session, level: int, row: EncodedRow) -> _Expected:
    session.set_level(level)
    states = task.forward([row]).states
    with task.rounded() as epsilon:
        return _Expected(states, task.forward([row]).states, epsilon)
