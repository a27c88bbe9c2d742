"""Whether one forward pass for all levels gives what one pass a level gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch

from ..rounding import is_rounding
from ..tasks import EncodedRow, Task
from .loop import Levels, Masked


class _Expected(NamedTuple):
    """States of a row at a level, as they are, as they are when the input is rounded, and the size of a rounding."""

    states: torch.Tensor
    rounded: torch.Tensor
    epsilon: float


def agree_side_by_side(
    task: Task,
    one_by_one: Callable[[], AbstractContextManager[Levels]],
    side_by_side: Callable[[], AbstractContextManager[Sequence[Masked]]],
    levels: int,
) -> bool:
    """
    Compare the hidden states of the task's sample rows at all levels.

    Args:
        task ([`Task`]):
            What runs the model.
        one_by_one (`Callable`):
            Opens a session in which levels are set.
        side_by_side (`Callable`):
            Makes the model compute with all levels at once.
        levels (`int`):
            Number of levels.

    Returns:
        `bool`: Whether they differ by rounding only, at every level.
    """
    for row in task.feed(task.samples()):
        with one_by_one() as session:
            expected = [_at_level(task, session, level, row) for level in range(levels)]
        with side_by_side():
            found = task.forward([row] * levels, None, levels).states.unflatten(0, (levels, -1))
        if not all(is_rounding(states, *known) for states, known in zip(found, expected, strict=True)):
            return False
    return True


def _at_level(task: Task, session: Levels, level: int, row: EncodedRow) -> _Expected:
    session.set_level(level)
    states = task.forward([row]).states
    with task.rounded() as epsilon:
        return _Expected(states, task.forward([row]).states, epsilon)
