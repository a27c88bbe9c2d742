from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hf_dlc.execution.loop import LevelLoop, Reporter, TokenLimit
from hf_dlc.execution.plan import MicroBatch, cut_batches
from hf_dlc.scores.dlc import CONFIDENCE, LOSS
from hf_dlc.tasks.base import RowMeasures


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
    """
    Confidence of a row is its number over level + 1; the states follow the weight, unless they are frozen.

    At most `fits` rows fit into memory.
    """

    def __init__(
        self, weight: Weight, frozen: bool = False, fits: int = 99, error: str = "CUDA out of memory."
    ) -> None:
        self.weight, self.frozen, self.fits, self.error = weight, frozen, fits, error

    def feed(self, rows: Sequence[float]) -> Iterator[float]:
        return iter(rows)

    def run_shared_head(self, shared_head: int) -> tuple[int, int]:
        self.weight.calls.append(f"shared head {shared_head}")
        return shared_head, self.weight.level

    def forward(
        self, rows: Sequence[float], measures: Any = (), shared_head: tuple[int, int] | None = None
    ) -> RowMeasures:
        assert shared_head is None or shared_head[1] == self.weight.level, "keys and values of other weights"
        self.weight.calls.append(list(rows) if shared_head is None else [shared_head[0], *rows])
        if len(rows) > self.fits:
            raise torch.OutOfMemoryError(self.error)
        numbers = torch.tensor(rows, dtype=torch.float32)
        confidence = numbers / (self.weight.level + 1)
        values = {"confidence": confidence, "loss": confidence + 100}
        return RowMeasures(values, numbers if self.frozen else confidence)


FIRST, SECOND = MicroBatch(np.array([2, 0]), np.array([4, 4])), MicroBatch(np.array([3]), np.array([2]))
BATCHES = [FIRST, SECOND]
ROWS = [1.0, -1.0, 3.0, 4.0]
MEASURES = (CONFIDENCE, LOSS)


def run_loop(
    task: Task, work: Sequence[Sequence[MicroBatch]], rows: Sequence[float] = ROWS, **options: Any
) -> np.ndarray:
    """Confidence and loss, `(2, levels, rows)`."""
    measures = [MEASURES] * len(work)
    values = LevelLoop(task, task.weight, [rows] * len(work), work, measures, **options).run()
    assert list(values) == ["confidence", "loss"]
    return np.stack(list(values.values()))


def run(weight: Weight, levels: int = 3, task: Task | None = None, **options: Any) -> np.ndarray:
    return run_loop(task or Task(weight), [BATCHES] * levels, **options)


def measured(values: torch.Tensor) -> RowMeasures:
    return RowMeasures({"confidence": values, "loss": values}, values)


class Told:
    """A reporter's ear."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.chunks: list[tuple[int, list[int], list[float], list[float]]] = []
        self.cuts: list[tuple[int, list[list[int]]]] = []

    @property
    def reporter(self) -> Reporter:
        return Reporter(
            batch=lambda batch: self.batches.append(batch.rows.tolist()),
            chunk=lambda level, rows, values: self.chunks.append(
                (level, rows.tolist(), *[values[measure.name].tolist() for measure in MEASURES])
            ),
            cut=lambda tokens, left: self.cuts.append((tokens, [[int(batch.rows[0]) for batch in at] for at in left])),
        )


def test_scores_stand_at_their_rows() -> None:
    scores = run(Weight(), levels=2)
    assert scores[0].tolist() == [[1, 0, 3, 4], [0.5, 0, 1.5, 2]]
    assert scores[1].tolist() == [[101, 0, 103, 104], [100.5, 0, 101.5, 102]]
    assert scores.dtype == np.float32


def test_levels_are_outside_and_micro_batches_inside() -> None:
    weight = Weight()
    run(weight)
    assert weight.calls == [0, [3.0, 1.0], [4.0], 1, [3.0, 1.0], [4.0], 2, [3.0, 1.0], [4.0]]


def test_each_micro_batch_is_told() -> None:
    told = Told()
    run(Weight(), reporter=told.reporter)
    assert told.batches == [[2, 0], [3]] * 3


def test_a_level_is_a_chunk_at_least() -> None:
    told = Told()
    run(Weight(), levels=2, reporter=told.reporter)
    assert told.chunks == [
        (0, [2, 0, 3], [3, 1, 4], [103, 101, 104]),
        (1, [2, 0, 3], [1.5, 0.5, 2], [101.5, 100.5, 102]),
    ]


def test_a_chunk_ends_when_its_time_is_over() -> None:
    told = Told()
    run(Weight(), levels=1, reporter=told.reporter, chunk_seconds=0)
    assert [rows for _, rows, *_ in told.chunks] == [[2, 0], [3]]


def test_minus_zero_becomes_zero() -> None:
    # Sums over processes and with what a journal holds would make it so, and all ways of running are to agree.
    weight = Weight()
    task = Task(weight)
    task.forward = lambda rows, *_: measured(torch.full((len(rows),), -0.0))
    assert not np.signbit(run_loop(task, [BATCHES])).any()


def test_without_micro_batches_the_weights_are_left_alone() -> None:
    weight = Weight()
    scores = run_loop(Task(weight), [[], []])
    assert scores.tolist() == [[[0] * 4] * 2] * 2
    assert weight.calls == []


def test_a_level_without_work_is_passed_over() -> None:
    weight = Weight()
    run_loop(Task(weight), [BATCHES, [], [SECOND]])
    assert weight.calls == [0, [3.0, 1.0], [4.0], 2, [4.0], 0, [4.0], 2, [4.0]]  # back to level 0 for comparison


class TestSharedHeads:
    WORK = (FIRST._replace(shared_head=1), SECOND._replace(shared_head=2))

    def test_each_is_run_once_a_level(self) -> None:
        weight = Weight()
        batches = [*self.WORK, FIRST._replace(shared_head=1), SECOND]
        run_loop(Task(weight), [batches] * 2)
        at_level = ["shared head 1", [1, 3.0, 1.0], "shared head 2", [2, 4.0], [1, 3.0, 1.0], [4.0]]
        assert weight.calls == [0, *at_level, 1, *at_level]

    def test_going_back_to_level_0_forgets_them(self) -> None:
        weight = Weight()
        run_loop(Task(weight), [[], self.WORK])  # the task refuses those of other weights
        assert [call for call in weight.calls if isinstance(call, int)] == [1, 0, 1]


class TestMasksThatReachTheStates:
    def test_states_that_stay_stop_the_run(self) -> None:
        weight = Weight()
        with pytest.raises(RuntimeError, match=r"level 1 has 5 masked weights, but the hidden states.*are the same"):
            run(weight, task=Task(weight, frozen=True))
        assert weight.calls == [0, [3.0, 1.0], [4.0], 1, [3.0, 1.0]]  # at once, not after the level

    def test_a_later_level_is_compared_with_the_unmasked_one(self) -> None:
        weight = Weight()
        task = Task(weight)
        forward = task.forward

        def at_level_1_only(rows: Sequence[float], *_: Any) -> RowMeasures:
            return forward(rows)._replace(states=torch.tensor([1.0 if weight.level == 1 else 0.0]))

        task.forward = at_level_1_only
        with pytest.raises(RuntimeError, match="level 2 has 9 masked weights"):
            run(weight, task=task)

    @pytest.mark.parametrize("work", [[[], BATCHES], [[SECOND], BATCHES], [BATCHES, [SECOND]]])
    def test_also_in_a_run_that_was_resumed(self, work: list[list[MicroBatch]]) -> None:
        weight = Weight()
        with pytest.raises(RuntimeError, match="level 1 has 5 masked weights"):
            run_loop(Task(weight, frozen=True), work)
        weight = Weight()
        run_loop(Task(weight), work)
        assert weight.level == 1

    @pytest.mark.parametrize("frozen", [False, True])
    def test_also_where_memory_ran_out_in_between(self, frozen: bool) -> None:
        weight = Weight()
        task = Task(weight, frozen, fits=2)
        set_level = weight.set_level

        def mask(level: int) -> SimpleNamespace:
            task.fits = 1 if level else task.fits  # the copy of the weights, taken with the first mask, stays
            return set_level(level)

        weight.set_level = mask
        if frozen:
            with pytest.raises(RuntimeError, match="level 1 has 5 masked weights"):
                run(weight, task=task)
        else:
            assert np.array_equal(run(weight, task=task), run(Weight()))

    def test_a_level_that_masks_nothing_need_not_change_anything(self) -> None:
        weight = Weight(masked=(0, 0, 0))
        scores = run(weight, task=Task(weight, frozen=True))
        assert scores[0, 2].tolist() == [pytest.approx(1 / 3), 0, 1, pytest.approx(4 / 3)]

    def test_states_that_are_not_numbers_are_no_sign_of_missing_masks(self) -> None:
        weight = Weight()
        task = Task(weight)
        task.forward = lambda rows, *_: measured(torch.full((len(rows),), float("nan")))
        assert np.isnan(run(weight, task=task)[0][:, [0, 2, 3]]).all()


class TestOutOfMemory:
    LENGTHS = np.full(8, 5)
    NUMBERS = tuple(float(10 + row) for row in range(8))

    def run(self, fits: int, told: Told | None = None, limit: TokenLimit | None = None, **options: Any) -> np.ndarray:
        batches = cut_batches(self.LENGTHS, 20)  # of 4 rows each
        weight = Weight()
        self.calls = weight.calls
        reporter = told.reporter if told else None
        task = Task(weight, fits=fits, **options)
        return run_loop(task, [batches] * 2, self.NUMBERS, limit=limit, reporter=reporter)

    @pytest.mark.parametrize("fits", [1, 2, 3])
    def test_the_run_goes_on_with_the_same_scores(self, fits: int) -> None:
        assert np.array_equal(self.run(fits), self.run(99))

    def test_what_is_left_is_cut_to_half_the_tokens(self) -> None:
        told = Told()
        self.run(2, told)
        assert told.cuts == [(10, [[0, 4], [0, 4]])]  # told before anything is computed under the smaller budget
        assert told.batches == [[0, 1], [2, 3], [4, 5], [6, 7]] * 2

    def test_it_is_halved_as_often_as_it_takes(self) -> None:
        told = Told()
        self.run(1, told)
        assert told.cuts == [(10, [[0, 4], [0, 4]]), (5, [[0, 2, 4, 6], [0, 2, 4, 6]])]
        assert told.batches == [[row] for row in range(8)] * 2

    def test_what_was_found_out_holds_for_the_next_run(self) -> None:
        limit = TokenLimit()
        self.run(1, limit=limit)
        told = Told()
        self.run(99, told, limit)
        assert told.cuts == [(5, [[0, 4], [0, 4]])]  # told at its start, for a journal of its own
        assert told.batches == [[row] for row in range(8)] * 2

    def test_it_is_said_once(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            self.run(1)
        assert [record.message for record in caplog.records] == [
            "a micro-batch of 20 tokens does not fit into memory: going on with 10"
        ]

    def test_a_row_that_does_not_fit_is_an_error(self) -> None:
        with pytest.raises(
            MemoryError, match=r"a row of 5 tokens does not fit .* on its own\. .* pass a smaller max_len"
        ):
            self.run(0)

    @pytest.mark.parametrize(
        "error",
        ["DefaultCPUAllocator: can't allocate memory: you tried", "MPS backend out of memory (", "HIP out of memory."],
    )
    def test_of_every_device(self, error: str) -> None:
        assert np.array_equal(self.run(2, error=error), self.run(99))

    def test_another_error_is_none_of_it(self) -> None:
        with pytest.raises(RuntimeError, match="device-side assert"):
            self.run(2, error="device-side assert triggered")
