"""A run in processes that are killed, run out of memory and start again: nothing twice, nothing lost, no other bit."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hf_dlc.execution import loop, sharded
from hf_dlc.execution.journal import Journal, JournalError
from hf_dlc.execution.loop import LevelLoop, Reporter, TokenLimit
from hf_dlc.execution.plan import MicroBatch, cut_batches
from hf_dlc.execution.processes import PeerError
from hf_dlc.execution.sharded import run_sharded
from hf_dlc.execution.values import Values, no_values
from hf_dlc.scores.dlc import CONFIDENCE, LOSS
from hf_dlc.tasks.base import RowMeasures
from hf_dlc.tasks.text.task import CausalLMTask


ALONE = SimpleNamespace(num_processes=1, process_index=0, is_main_process=True)
LENGTHS = np.array([9, 9, 7, 5, 4, 4, 3, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1])


class KilledError(BaseException):
    """Ends a run as a signal would: nothing that is not on disk survives."""


@pytest.fixture(autouse=True, scope="module")
def _quick_disk() -> Iterator[None]:
    """Nothing here takes the power away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


def journal_in(folder: Path) -> Journal:
    return Journal(folder / "run")


MEASURES = (CONFIDENCE, LOSS)


def run_alone(
    score: Any, batches: Sequence[MicroBatch], levels: int, rows: int, journal: Journal | None, *peers: Any
) -> np.ndarray:
    """Confidence and loss, `(2, levels, rows)`."""
    values = run_sharded(score, [batches] * levels, [MEASURES] * levels, rows, journal, ALONE, *peers)
    assert list(values) == ["confidence", "loss"]
    return np.stack(list(values.values()))


def run(score: Any, batches: Sequence[MicroBatch], journal: Journal | None, levels: int, rows: int) -> np.ndarray:
    """As `score(run_dir=...)` does it."""
    if journal is None:
        return run_alone(score, batches, levels, rows, None)
    with journal.hold():
        journal.begin({"rows": rows}, dict)
        return run_alone(score, batches, levels, rows, journal)


def measured(confidence: torch.Tensor, loss: torch.Tensor) -> RowMeasures:
    return RowMeasures({"confidence": confidence, "loss": loss}, confidence)


class Parts:
    """
    Scores a row by what it was computed with: confidence is the first row of the micro-batch, loss its size.

    Two runs with the same scores thus computed the same parts.

    Args:
        lengths: Tokens of each row.
        fits: Tokens that memory holds at each level.
        killed_before: The forward pass that does not happen.
        chunks_end: Whether a chunk ends after a forward pass, over and over.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        fits: Sequence[int],
        killed_before: int | None = None,
        chunks_end: Sequence[bool] = (False,),
    ) -> None:
        self.lengths, self.fits, self.killed_before = lengths, fits, killed_before
        self.now, self.ends = 0.0, itertools.cycle(chunks_end)
        self.parts: list[tuple[int, list[int]]] = []  # that were computed: level and rows
        self.passes, self.level = 0, 0

    limit: TokenLimit | None = None  # what is known of memory before the run

    def set_level(self, level: int) -> SimpleNamespace:
        self.level = level
        return SimpleNamespace(masked=0)

    def feed(self, rows: Sequence[int]) -> Iterator[int]:
        return iter(rows)

    def forward(self, rows: Sequence[int], *rest: Any) -> RowMeasures:
        if self.passes == self.killed_before:
            raise KilledError
        self.passes += 1
        if len(rows) > 1 and len(rows) * self.lengths[rows[0]] > self.fits[self.level]:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.parts.append((self.level, list(rows)))
        self.now += 1.0 if next(self.ends) else 0.0
        first, size = torch.full((len(rows),), float(rows[0])), torch.full((len(rows),), float(len(rows)))
        return measured(first, size)

    def __call__(self, work: Sequence[Sequence[MicroBatch]], reporter: Reporter) -> Values:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: self.now))
            rows, measures = [range(len(self.lengths))] * len(work), [MEASURES] * len(work)
            return LevelLoop(self, self, rows, work, measures, self.limit, reporter, chunk_seconds=0.5).run()


@pytest.fixture
def batches() -> list[MicroBatch]:
    return cut_batches(LENGTHS, 18)


LEVELS = 2
FITS = [99] * LEVELS


class TestResume:
    def test_without_a_journal_all_is_done(self, batches: list[MicroBatch]) -> None:
        score = Parts(LENGTHS, FITS)
        scores = run(score, batches, None, LEVELS, len(LENGTHS))
        assert score.parts == [(level, batch.rows.tolist()) for level in range(LEVELS) for batch in batches]
        assert (scores[1] > 0).all()

    def test_without_a_journal_memory_may_run_out(self, batches: list[MicroBatch]) -> None:
        score = Parts(LENGTHS, [9, 9])
        scores = run(score, batches, None, LEVELS, len(LENGTHS))
        assert max(len(rows) * LENGTHS[rows[0]] for _, rows in score.parts) <= 9
        assert (scores[1] > 0).all()

    def test_only_what_is_missing_is_done(self, tmp_path: Path, batches: list[MicroBatch]) -> None:
        journal = journal_in(tmp_path)
        first = Parts(LENGTHS, FITS, killed_before=len(batches) + 2, chunks_end=[True])
        with pytest.raises(KilledError):
            run(first, batches, journal, LEVELS, len(LENGTHS))
        second = Parts(LENGTHS, FITS)
        scores = run(second, batches, journal_in(tmp_path), LEVELS, len(LENGTHS))
        assert second.parts == [(1, batch.rows.tolist()) for batch in batches[2:]]
        assert np.array_equal(scores, run(Parts(LENGTHS, FITS), batches, None, LEVELS, len(LENGTHS)))

    def test_a_finished_run_does_nothing(self, tmp_path: Path, batches: list[MicroBatch]) -> None:
        scores = run(Parts(LENGTHS, FITS), batches, journal_in(tmp_path), LEVELS, len(LENGTHS))
        again = Parts(LENGTHS, FITS, killed_before=0)
        assert np.array_equal(run(again, batches, journal_in(tmp_path), LEVELS, len(LENGTHS)), scores)

    def test_how_much_is_there_is_told(
        self, tmp_path: Path, batches: list[MicroBatch], caplog: pytest.LogCaptureFixture
    ) -> None:
        journal = journal_in(tmp_path)
        with caplog.at_level("INFO"):
            run(Parts(LENGTHS, FITS), batches, journal, LEVELS, len(LENGTHS))
            assert "going on" not in caplog.text
            run(Parts(LENGTHS, FITS), batches, journal, LEVELS, len(LENGTHS))
        assert f"going on after {2 * len(LENGTHS)} of {2 * len(LENGTHS)} row scores" in caplog.text

    def test_rows_of_no_micro_batch_stay_zero(self, tmp_path: Path) -> None:
        lengths = np.array([3, 0, 2])
        scores = run(Parts(lengths, [99]), cut_batches(lengths, 9), journal_in(tmp_path), 1, 3)
        assert scores[:, 0, 1].tolist() == [0, 0]

    def test_no_rows(self, tmp_path: Path) -> None:
        assert run(Parts(LENGTHS[:0], FITS), [], journal_in(tmp_path), LEVELS, 0).shape == (2, LEVELS, 0)

    @pytest.mark.parametrize("keep", ["confidence", "loss"])
    def test_values_that_are_not_numbers(self, tmp_path: Path, keep: str) -> None:
        """They come back bit for bit, NaN and infinity included, and NaN + 0 is no number that was there before."""
        odd = np.array([np.nan, np.inf, -np.inf, 0.0, 1e-45], dtype=np.float32)
        batches = cut_batches(np.ones(5, dtype=np.int64), 1)

        def score(work: Any, reporter: Reporter) -> Values:
            values = no_values([MEASURES], 5)
            if work[0]:
                values[keep][0] = odd
            for batch in work[0]:
                reporter.chunk(0, batch.rows, {name: of[0, batch.rows] for name, of in values.items()})
            return values

        once = run(score, batches, journal_in(tmp_path), 1, 5)
        again = run(score, batches, journal_in(tmp_path), 1, 5)
        assert once.tobytes() == again.tobytes()
        assert again[0 if keep == "confidence" else 1, 0].tobytes() == odd.tobytes()

    def test_minus_zero_is_the_same_from_the_loop_and_from_the_journal(self, tmp_path: Path) -> None:
        class Zeros(Parts):
            def forward(self, rows: Sequence[int], *rest: Any) -> RowMeasures:
                super().forward(rows)
                return measured(*[torch.full((len(rows),), -0.0)] * 2)

        batches = cut_batches(LENGTHS, 18)
        ways = [None, journal_in(tmp_path), journal_in(tmp_path)]
        scores = [run(Zeros(LENGTHS, FITS), batches, journal, LEVELS, len(LENGTHS)) for journal in ways]
        assert not any(np.signbit(each).any() for each in scores)


class TestLostChunks:
    def test_a_micro_batch_that_lost_a_row_is_computed_again_and_not_added(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        lengths = np.ones(6, dtype=np.int64)
        batches = cut_batches(lengths, 6)
        journal = journal_in(tmp_path)
        with journal.hold():
            journal.begin({"rows": 6}, dict)
            three = np.arange(3)
            values = {"confidence": np.zeros(3, np.float32), "loss": np.full(3, 6, np.float32)}
            journal.write_chunk(0, three, values)
        score = Parts(lengths, [99])
        scores = run(score, batches, journal_in(tmp_path), 1, 6)
        assert score.parts == [(0, [0, 1, 2, 3, 4, 5])]
        assert scores[1, 0].tolist() == [6] * 6

    def test_a_lost_chunk_is_computed_again(self, tmp_path: Path, batches: list[MicroBatch]) -> None:
        expected = run(Parts(LENGTHS, FITS, chunks_end=[True]), batches, journal_in(tmp_path), LEVELS, len(LENGTHS))
        chunks = sorted((tmp_path / "run" / "chunks").glob("*.parquet"))
        chunks[1].unlink()
        chunks[-1].write_bytes(chunks[-1].read_bytes()[:-9])
        score = Parts(LENGTHS, FITS)
        scores = run(score, batches, journal_in(tmp_path), LEVELS, len(LENGTHS))
        assert [level for level, _ in score.parts] == [0, 1]
        assert np.array_equal(scores, expected)


class TestCuts:
    """The parts of a run that goes on are those that the run would have had if nothing had ended it."""

    def uninterrupted(self, folder: Path, batches: Sequence[MicroBatch], fits: Sequence[int]) -> np.ndarray:
        return run(Parts(LENGTHS, fits), batches, journal_in(folder), len(fits), len(LENGTHS))

    def resumed(
        self, folder: Path, lengths: np.ndarray, batches: Sequence[MicroBatch], killed: Sequence[Parts], last: Parts
    ) -> np.ndarray:
        for score in killed:
            with suppress(KilledError):
                run(score, batches, journal_in(folder), len(score.fits), len(lengths))
        return run(last, batches, journal_in(folder), len(last.fits), len(lengths))

    def test_memory_that_is_there_again_does_not_undo_a_cut(self, tmp_path: Path, batches: list[MicroBatch]) -> None:
        expected = self.uninterrupted(tmp_path / "a", batches, [9, 9])
        killed, last = Parts(LENGTHS, [9, 9], killed_before=3), Parts(LENGTHS, [99, 99])
        assert np.array_equal(self.resumed(tmp_path / "b", LENGTHS, batches, [killed], last), expected)

    def test_twice_cut(self, tmp_path: Path, batches: list[MicroBatch]) -> None:
        fits = [9, 4, 4]
        expected = self.uninterrupted(tmp_path / "a", batches, fits)
        assert len(list((tmp_path / "a" / "run" / "cuts").glob("cut-*.json"))) >= 2
        for killed_before in range(1, 20, 3):
            killed, last = Parts(LENGTHS, fits, killed_before), Parts(LENGTHS, fits)
            scores = self.resumed(tmp_path / f"b{killed_before}", LENGTHS, batches, [killed], last)
            assert np.array_equal(scores, expected), killed_before

    def test_what_was_done_before_a_cut_is_not_cut(self, tmp_path: Path) -> None:
        """Rows that were computed, but not yet in a chunk, when memory ran out: all the same in the next run."""
        lengths, fits = np.full(8, 2), [10]
        batches = cut_batches(lengths, 8)  # of 4 rows each

        class Shrinking(Parts):
            """Memory for 8 tokens once, then for 4."""

            def forward(self, rows: Sequence[int], *rest: Any) -> RowMeasures:
                self.fits = [8 if 0 in rows else 4]
                return super().forward(rows)

        expected = run(Shrinking(lengths, fits), batches, journal_in(tmp_path / "a"), 1, 8)
        assert expected[1, 0].tolist() == [4] * 4 + [2] * 4
        with pytest.raises(KilledError):
            run(Shrinking(lengths, fits, killed_before=2), batches, journal_in(tmp_path / "b"), 1, 8)
        scores = run(Shrinking(lengths, fits), batches, journal_in(tmp_path / "b"), 1, 8)
        assert np.array_equal(scores, expected)

    @pytest.mark.parametrize("killed_before", range(8))
    def test_a_part_that_was_done_before_a_further_cut_is_not_cut(self, tmp_path: Path, killed_before: int) -> None:
        """Nor where it was not in a chunk yet, and is computed again."""
        lengths = np.ones(16, dtype=np.int64)
        batches = cut_batches(lengths, 16)

        class Shrinking(Parts):
            """Memory for 8 tokens, for 4 where the second half is in it."""

            def forward(self, rows: Sequence[int], *rest: Any) -> RowMeasures:
                self.fits = [8 if max(rows) < 8 else 4]
                return super().forward(rows)

        expected = run(Shrinking(lengths, [8]), batches, None, 1, 16)
        assert expected[1, 0].tolist() == [8] * 8 + [4] * 8
        killed, last = Shrinking(lengths, [8], killed_before), Parts(lengths, [99])
        if killed_before < 3:  # before memory ran out for the second time
            last = Shrinking(lengths, [8])
        assert np.array_equal(self.resumed(tmp_path, lengths, batches, [killed], last), expected)

    def test_a_limit_that_an_earlier_run_found_is_a_cut(self, tmp_path: Path, batches: list[MicroBatch]) -> None:
        """It makes the parts, and nothing else would tell a run that goes on in another process."""

        class Knowing(Parts):
            limit = TokenLimit(7)

        first = Knowing(LENGTHS, [9, 9])
        expected = run(first, batches, None, 2, len(LENGTHS))
        assert all(len(rows) == 1 or len(rows) * LENGTHS[rows[0]] <= 7 for _, rows in first.parts)
        killed, last = Knowing(LENGTHS, [9, 9], killed_before=3, chunks_end=[True]), Parts(LENGTHS, [99, 99])
        assert np.array_equal(self.resumed(tmp_path / "b", LENGTHS, batches, [killed], last), expected)

    @settings(max_examples=40, deadline=None)
    @given(
        lengths=st.lists(st.integers(1, 9), min_size=1, max_size=24),
        budget=st.integers(1, 60),
        fits=st.lists(st.integers(1, 60), min_size=1, max_size=3),
        kills=st.lists(st.integers(0, 30), max_size=3),
        ends=st.lists(st.booleans(), min_size=1, max_size=6),
    )
    @example(lengths=[1] * 10, budget=10, fits=[9, 9], kills=[1], ends=[False])
    @example(lengths=[1] * 30, budget=15, fits=[8, 4], kills=[7], ends=[True, False])
    def test_any_chunks_cuts_and_kills(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        lengths: list[int],
        budget: int,
        fits: list[int],
        kills: list[int],
        ends: list[bool],
    ) -> None:
        tokens = np.array(lengths)
        batches = cut_batches(tokens, budget)
        expected = run(Parts(tokens, fits), batches, None, len(fits), len(tokens))
        folder = tmp_path_factory.mktemp("any")
        killed = [Parts(tokens, fits, killed_before, chunks_end=ends) for killed_before in kills]
        last = Parts(tokens, fits, chunks_end=ends)
        assert np.array_equal(self.resumed(folder, tokens, batches, killed, last), expected)


class TestProcesses:
    """Two processes, played one after the other: each does its share, and what was there is added once."""

    def play(
        self, monkeypatch: pytest.MonkeyPatch, journal: Journal, scores: Sequence[Any], batches: Sequence[MicroBatch]
    ) -> np.ndarray:
        measures = [MEASURES] * LEVELS
        contributions: list[np.ndarray] = []  # of each process confidence and then loss
        with journal.hold(), monkeypatch.context() as patch:
            journal.begin({"rows": len(LENGTHS)}, dict)
            kept = journal.read(measures, len(LENGTHS))
            patch.setattr(sharded, "sum_over_processes", lambda values, state: contributions.append(values))
            patch.setattr(
                sharded,
                "on_main_process",
                lambda _, state, peers, share: kept if state.is_main_process else share(kept),
            )
            for index in (1, 0):
                state = SimpleNamespace(num_processes=len(scores), process_index=index, is_main_process=index == 0)
                run_sharded(scores[index], [batches] * LEVELS, measures, len(LENGTHS), journal, state)
        return np.sum(np.reshape(contributions, (len(scores), 2, LEVELS, -1)), axis=0)

    @pytest.mark.parametrize("killed_before", [1, 3, 5, 7])  # after memory ran out
    def test_the_parts_come_together(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: list[MicroBatch], killed_before: int
    ) -> None:
        expected = run(Parts(LENGTHS, [9, 9]), batches, None, LEVELS, len(LENGTHS))
        killed = Parts(LENGTHS, [9, 9], killed_before, chunks_end=[True])
        with pytest.raises(KilledError):
            run(killed, batches, journal_in(tmp_path), LEVELS, len(LENGTHS))
        both = [Parts(LENGTHS, [9, 9]), Parts(LENGTHS, [9, 9])]
        assert np.array_equal(self.play(monkeypatch, journal_in(tmp_path), both, batches), expected)
        assert all(score.parts for score in both)
        computed = [(level, row) for score in (killed, *both) for level, rows in score.parts for row in rows]
        assert sorted(computed) == [(level, row) for level in range(LEVELS) for row in range(len(LENGTHS))]

    def test_a_cut_of_one_process_does_not_cut_what_another_one_has(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The parts of one micro-batch may be dealt to several processes, of which one has less memory."""
        lengths = np.ones(len(LENGTHS), dtype=np.int64)
        batches = cut_batches(lengths, len(lengths))
        with pytest.raises(KilledError):
            run(Parts(lengths, [9, 9], killed_before=1), batches, journal_in(tmp_path), LEVELS, len(lengths))
        both = [Parts(lengths, [9, 9]), Parts(lengths, [4, 4], killed_before=1)]
        with pytest.raises(KilledError):  # told of a cut, and no more
            self.play(monkeypatch, journal_in(tmp_path), both, batches)
        last = Parts(lengths, [99, 99])
        scores = run(last, batches, journal_in(tmp_path), LEVELS, len(lengths))
        assert sorted(map(len, (rows for level, rows in last.parts if level == 0))) == [1, 4, 4, 9]
        assert (scores[1, 0] == [9] * 9 + [4] * 8 + [1]).all()

    def test_an_error_of_another_process_ends_this_one(
        self, monkeypatch: pytest.MonkeyPatch, batches: list[MicroBatch]
    ) -> None:
        """It is asked for after each micro-batch, and again before all come together."""
        asked: list[str] = []

        class Ill:
            def check(self) -> None:
                asked.append("check")
                if len(asked) == 3:
                    raise PeerError("process 1 failed: KeyError: 'x'")

        score = Parts(LENGTHS, FITS)
        with pytest.raises(PeerError, match="process 1 failed"):
            run_alone(score, batches, LEVELS, len(LENGTHS), None, Ill())
        assert len(score.parts) == 3

    def test_nothing_is_added_up_before_all_are_there(
        self, monkeypatch: pytest.MonkeyPatch, batches: list[MicroBatch]
    ) -> None:
        calls: list[str] = []
        peers = SimpleNamespace(check=lambda: None, meet=lambda: calls.append("wait"))
        monkeypatch.setattr(sharded, "sum_over_processes", lambda *_: calls.append("sum"))
        run_sharded(Parts(LENGTHS, FITS), [batches] * LEVELS, [MEASURES] * LEVELS, len(LENGTHS), None, ALONE, peers)
        assert calls == ["wait", "sum", "sum"]


class TestOfAScorer:
    """The whole way, with a model that runs out of memory."""

    ROWS = tuple({"instruction": f"Count to {i}.", "output": f"{i}, " * (1 + i * 7 % 11)} for i in range(24))
    DATASET = Dataset.from_list([*ROWS, {"instruction": "Say nothing.", "output": ""}])
    OPTIONS: ClassVar = {"tokens_per_batch": 400, "keep_levels": True}

    @pytest.fixture
    def memory(self, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
        """`memory.tokens` fit in, and from forward pass `memory.killed_before` on nothing happens any more."""
        memory = SimpleNamespace(tokens=10**6, killed_before=10**6, passes=0)
        forward = CausalLMTask.forward

        def forward_if_it_fits(self: CausalLMTask, rows: Sequence[Any], *rest: Any) -> RowMeasures:
            if memory.passes == memory.killed_before:
                raise KilledError
            memory.passes += bool(rest)  # others look at the model
            if len(rows) * max(row.length for row in rows) > memory.tokens:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return forward(self, rows, *rest)

        monkeypatch.setattr(CausalLMTask, "forward", forward_if_it_fits)
        return memory

    @staticmethod
    def values(scored: Dataset) -> np.ndarray:
        names = ("confidence", "loss", "level_confidence", "level_loss")
        columns = [np.array(scored[f"dlc_{name}"][:], dtype=np.float32).reshape(len(scored), -1) for name in names]
        return np.concatenate(columns, axis=1)

    @staticmethod
    def check_close(found: np.ndarray, expected: np.ndarray) -> None:
        for columns, most in [([0, 2, 3, 4], 1e-5), ([1, 5, 6, 7], 1e-4)]:
            np.testing.assert_allclose(found[:, columns], expected[:, columns], atol=most, rtol=0)

    @pytest.mark.parametrize("tokens", [250, 199, 120, 80])
    def test_scores_are_those_with_enough_memory(
        self, make_scorer: Callable, memory: SimpleNamespace, tmp_path: Path, tokens: int
    ) -> None:
        expected = self.values(make_scorer(**self.OPTIONS).score(self.DATASET))
        memory.tokens = tokens
        found = self.values(make_scorer(**self.OPTIONS).score(self.DATASET, run_dir=tmp_path / "run"))
        self.check_close(found, expected)
        cuts = [json.loads(path.read_text()) for path in sorted((tmp_path / "run" / "cuts").iterdir())]
        assert cuts
        assert cuts[-1]["tokens"] <= tokens
        self.check_close(self.values(make_scorer(**self.OPTIONS).score(self.DATASET)), expected)  # without a journal

    @pytest.mark.parametrize("killed_before", [4, 9, 15, 22])
    @pytest.mark.parametrize("tokens", [250, 120])
    def test_resumed_with_more_memory_every_bit_is_the_same(
        self, make_scorer: Callable, memory: SimpleNamespace, tmp_path: Path, tokens: int, killed_before: int
    ) -> None:
        memory.tokens = tokens
        expected = self.values(make_scorer(**self.OPTIONS).score(self.DATASET, run_dir=tmp_path / "a"))
        memory.passes, memory.killed_before = 0, killed_before
        with pytest.raises(KilledError):
            make_scorer(**self.OPTIONS).score(self.DATASET, run_dir=tmp_path / "b", chunk_seconds=0)
        assert list((tmp_path / "b" / "cuts").iterdir())
        assert list((tmp_path / "b" / "chunks").iterdir())
        memory.tokens, memory.killed_before = 10**6, -1
        found = self.values(make_scorer(**self.OPTIONS).score(self.DATASET, run_dir=tmp_path / "b"))
        assert found.tobytes() == expected.tobytes()

    def test_a_limit_that_another_dataset_showed(
        self, make_scorer: Callable, memory: SimpleNamespace, tmp_path: Path
    ) -> None:
        """A scorer knows how much memory holds; who goes on with its run in a new process does not."""
        memory.tokens, scorer = 120, make_scorer(**self.OPTIONS)
        scorer.score(self.DATASET)
        expected = self.values(scorer.score(self.DATASET))
        memory.passes, memory.killed_before = 0, 5
        with pytest.raises(KilledError):
            scorer.score(self.DATASET, run_dir=tmp_path / "run", chunk_seconds=0)
        memory.tokens, memory.killed_before = 10**6, -1
        found = self.values(make_scorer(**self.OPTIONS).score(self.DATASET, run_dir=tmp_path / "run"))
        assert found.tobytes() == expected.tobytes()

    def test_each_split_has_a_folder(self, make_scorer: Callable, tmp_path: Path) -> None:
        splits = DatasetDict({"train": self.DATASET, "test": self.DATASET.select(range(5))})
        scorer = make_scorer(**self.OPTIONS)
        scored = scorer.score(splits, run_dir=tmp_path / "run")
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["test", "train"]
        for split, folder in [(split, tmp_path / "run" / split) for split in splits]:
            assert json.loads((folder / "journal.json").read_text())["identity"]["rows"]["number"] == len(
                splits[split]
            )
            again = scorer.score(splits[split], run_dir=folder)
            assert self.values(again).tobytes() == self.values(scored[split]).tobytes()

    @pytest.mark.parametrize(
        "changes",
        [
            {"tokens_per_batch": "400"},
            {"tokens_per_batch": ...},
            {"tokens_per_batch": -1},
            {"tokens_per_batch": 0},
            {"tokens_per_batch": True},
            {"tokens_per_batch": 1.5},
            {"tokens_per_batch": None},
            {"schedule": [0.0, 0.1]},
            {"schedule": [0.0, 0.1, 0.3, 0.4]},
            {"schedule": [0.0, "x", 0.3]},
            {"schedule": [0.0, None, 0.3]},
            {"schedule": [0.0, 0.3, 0.1]},
            {"schedule": [0.0, 0.1, 1.5]},
            {"schedule": [0.0, 0.1, float("nan")]},
            {"schedule": [0.1, 0.2, 0.3]},
            {"schedule": 0.1},
            {"schedule": ...},
            {"schedule": {"0": 0, "1": 1, "2": 2}},
            {"passes": []},
            {"passes": None},
            {"passes": ...},
            {"passes": [{"masked_fraction": 0.0, "view": "full", "weights": "base", "measures": ["confidence"]}]},
            {"shared_heads": [1]},
            {"shared_heads": [-1]},
            {"shared_heads": [0.5]},
            {"shared_heads": "1"},
            {"shared_heads": None},
            {"shared_heads": ...},
            {"batch_rules": ...},
            {"batch_rules": {"boundaries": [4.5], "alone_beyond": None, "positions": None}},
            {"batch_rules": {"boundaries": [], "alone_beyond": -1, "positions": None}},
            {"batch_rules": {"boundaries": [], "alone_beyond": None, "positions": 2.5}},
            {"batch_rules": {"boundaries": [], "alone_beyond": None}},
        ],
        ids=str,
    )
    def test_settings_that_somebody_changed(
        self, make_scorer: Callable, tmp_path: Path, changes: dict[str, Any]
    ) -> None:
        scorer, path = make_scorer(), tmp_path / "run" / "journal.json"
        scorer.score(self.DATASET.select(range(3)), run_dir=tmp_path / "run")
        manifest = json.loads(path.read_text())
        settings = {**manifest["settings"], **changes}
        manifest["settings"] = {name: value for name, value in settings.items() if value is not ...}
        path.write_text(json.dumps(manifest))
        with pytest.raises(JournalError, match=r"settings in the journal\.json") as raised:
            scorer.score(self.DATASET.select(range(3)), run_dir=tmp_path / "run")
        assert "\n" not in str(raised.value)
