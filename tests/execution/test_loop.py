from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hf_dlc.execution.loop import run_levels
from hf_dlc.execution.plan import MicroBatch
from hf_dlc.tasks import BatchScores


class Weight:
    """A model of one weight: level k divides it by k + 1."""

    def __init__(self, masked: Sequence[int] = (0, 5, 9)) -> None:
        self.level: int | None = None
        self.masked = masked
        self.calls: list[Any] = []

    def set_level(self, level: int) -> SimpleNamespace:
        self.level = level
        self.calls.append(level)
        return SimpleNamespace(masked=self.masked[level])


class Task:
    """Confidence of a row is its number over level + 1; the states follow the weight, unless they are frozen."""

    def __init__(self, weight: Weight, frozen: bool = False) -> None:
        self.weight = weight
        self.frozen = frozen

    def forward(self, rows: Sequence[float]) -> BatchScores:
        self.weight.calls.append(list(rows))
        numbers = torch.tensor(rows, dtype=torch.float32)
        confidence = numbers / (self.weight.level + 1)
        return BatchScores(confidence, confidence + 100, numbers if self.frozen else confidence)


BATCHES = [MicroBatch(np.array([2, 0]), 8), MicroBatch(np.array([3]), 2)]
ROWS = [1.0, -1.0, 3.0, 4.0]


def run(weight: Weight, frozen: bool = False, levels: int = 3, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    return run_levels(Task(weight, frozen), weight, [0.0, 0.1, 0.2][:levels], ROWS, BATCHES, **options)


def test_scores_stand_at_their_rows() -> None:
    confidence, loss = run(Weight(), levels=2)
    assert confidence.tolist() == [[1, 0, 3, 4], [0.5, 0, 1.5, 2]]
    assert loss.tolist() == [[101, 0, 103, 104], [100.5, 0, 101.5, 102]]
    assert confidence.dtype == loss.dtype == np.float32


def test_levels_are_outside_and_micro_batches_inside() -> None:
    weight = Weight()
    run(weight)
    assert weight.calls == [0, [3.0, 1.0], [4.0], 1, [3.0, 1.0], [4.0], 2, [3.0, 1.0], [4.0]]


def test_each_micro_batch_is_told() -> None:
    told: list[MicroBatch] = []
    run(Weight(), on_batch=told.append)
    assert [batch.rows.tolist() for batch in told] == [[2, 0], [3]] * 3


def test_without_micro_batches_the_weights_are_left_alone() -> None:
    weight = Weight()
    confidence, loss = run_levels(Task(weight), weight, [0.0, 0.1], ROWS, [])
    assert confidence.tolist() == loss.tolist() == [[0] * 4] * 2
    assert weight.calls == []


def test_masks_that_do_not_reach_the_states_stop_the_run() -> None:
    weight = Weight()
    with pytest.raises(RuntimeError, match=r"level 1 has 5 masked weights, but the hidden states.*are the same"):
        run(weight, frozen=True)
    assert weight.calls == [0, [3.0, 1.0], [4.0], 1, [3.0, 1.0]]  # at once, not after the level


def test_a_later_level_is_compared_with_the_unmasked_one() -> None:
    weight = Weight()
    task = Task(weight)
    forward = task.forward
    task.forward = lambda rows: forward(rows)._replace(states=torch.tensor([1.0 if weight.level == 1 else 0.0]))
    with pytest.raises(RuntimeError, match="level 2 has 9 masked weights"):
        run_levels(task, weight, [0.0, 0.1, 0.2], ROWS, BATCHES)


def test_a_level_that_masks_nothing_need_not_change_anything() -> None:
    confidence, _ = run(Weight(masked=(0, 0, 0)), frozen=True)
    assert confidence[2].tolist() == [pytest.approx(1 / 3), 0, 1, pytest.approx(4 / 3)]


def test_states_that_are_not_numbers_are_no_sign_of_missing_masks() -> None:
    weight = Weight()
    task = Task(weight)
    task.forward = lambda rows: BatchScores(*[torch.full((len(rows),), float("nan"))] * 3)
    confidence, _ = run_levels(task, weight, [0.0, 0.1], ROWS, BATCHES)
    assert np.isnan(confidence[:, [0, 2, 3]]).all()
