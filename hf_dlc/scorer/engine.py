"""The engine that `map` and `score` share: a task, the masks of its model, and what was found out about both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_dlc.execution.estimate import PlannedPass
from hf_dlc.execution.loop import CHUNK_SECONDS, LevelLoop, Reporter, TokenLimit
from hf_dlc.execution.plan import MicroBatch, cost, cut_batches
from hf_dlc.execution.processes import cpu_threads
from hf_dlc.execution.threads import faster_threads
from hf_dlc.execution.values import Values, no_values
from hf_dlc.masking import LevelReport, Masker
from hf_dlc.masking.session import MaskingSession
from hf_dlc.scores.base import Asked, Features, Pass, Score, masks_weights, measures_by_pass
from hf_dlc.tasks.base import BatchRules, EncodedRow, RowsInView, Task
from hf_dlc.tasks.facts import RowFacts, facts_of, joined_facts

from .adapters import Adapters


# Tokens of a micro-batch, padding included, where `tokens_per_batch` is "auto"; in float32, where each takes twice the
# memory, half as many.
_AUTO_TOKENS = {"cpu": 2048, "accelerator": 16384}

# What a micro-batch costs on top of its tokens, as a part of the budget. Measured on a CPU: as much time as about 100
# tokens in bfloat16 and, at half the budget, as about 30 in float32, where a token takes three times as long.
_OVERHEAD_PARTS = {"half": 16, "full": 32}

# Rows repay running their shared head on its own if they are at least as many as this, and if the plan then costs at
# most this share of what it costs otherwise: attention to keys from elsewhere has a cost of its own, and there is more
# padding where rows of different shared heads are kept apart.
_ROWS_PER_SHARED_HEAD = 8
_WORTH_A_SHARED_HEAD = 0.95


class ScoringMasker(Masker):
    """
    A masker that keeps the model in eval mode for as long as nobody else may use it.

    Two scorers may share a model that is being trained: the mode changes only while the model is locked.
    """

    @contextmanager
    def session(self, fractions: Sequence[float] = ()) -> Iterator[MaskingSession]:
        """The session of [`Masker`], in eval mode."""
        with super().session(fractions) as session, _eval_mode(self.model):
            yield session

    @contextmanager
    def unmasked(self) -> Iterator[None]:
        """As that of [`Masker`], in eval mode."""
        with super().unmasked(), _eval_mode(self.model):
            yield

    @contextmanager
    def side_by_side(self) -> Iterator[Any]:
        """As that of [`Masker`], in eval mode."""
        with super().side_by_side() as levels, _eval_mode(self.model):
            yield levels


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode, and afterwards the mode of every module as it was."""
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class _PassSession:
    """An open session whose levels are passes: each has a masked fraction, and the base weights or adapters."""

    def __init__(
        self, session: MaskingSession, passes: Iterable[Pass], model: nn.Module, adapters: Adapters | None
    ) -> None:
        self._session, self._passes = session, list(passes)
        self._model, self._adapters = model, adapters
        self._applied = ExitStack()

    def set_level(self, level: int) -> LevelReport:
        self.close()
        one = self._passes[level]
        report = self._session.set_level(self._session.fractions.index(one.masked_fraction))
        if one.weights == "adapted":
            self._applied.enter_context(self._adapters.applied(self._model))
        return report

    def close(self) -> None:
        """Take the adapters off."""
        self._applied.close()


class Engine:
    """
    Plans micro-batches and runs them through the model at every level.

    Args:
        task ([`Task`]):
            What encodes and scores rows.
        masker ([`ScoringMasker`]):
            What masks the weights of the task's model.
        scores (`Sequence[Score]`):
            The scores that are asked for.
        tokens_per_batch (`int` or `str`, *optional*, defaults to `"auto"`):
            Tokens of a micro-batch, padding included.
        pooling (`str`, *optional*):
            How features are pooled, if they are asked for: `"auto"`, or a name that the task knows.
        features_size (`int`, *optional*):
            Numbers that they are projected to; by default as many as there are.
        adapters ([`Adapters`], *optional*):
            Adapters of the model, for scores that compare it with and without them.

    Attributes:
        limit ([`TokenLimit`]):
            What memory was found to hold so far.
    """

    def __init__(
        self,
        task: Task,
        masker: ScoringMasker,
        scores: Sequence[Score],
        tokens_per_batch: int | str = "auto",
        pooling: str | None = None,
        features_size: int | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        self.task, self.masker, self.scores, self.adapters = task, masker, scores, adapters
        if pooling not in (None, "auto", *task.poolings):
            raise ValueError(
                f"features must be 'auto' or one of {', '.join(task.poolings)} for a model of {task.kind}, got "
                f"{pooling!r}."
            )
        self._pooling, self._features_size = task.poolings[0] if pooling == "auto" else pooling, features_size
        self._score_passes((0.0, 0.5))  # a score that the task cannot have is refused now, not at the first row
        self.limit = TokenLimit()
        self._tokens_per_batch = tokens_per_batch
        self._threads: dict[int, int] = {}  # of the CPU: by how many there are, how many are faster
        self._checked: tuple[Any, int] = None, 0  # weights that were measured, and tokens of the longest row then

    @property
    def tokens_per_batch(self) -> int:
        """Tokens of a micro-batch, as the user sets them, or as suits the device and dtype of the model."""
        if self._tokens_per_batch != "auto":
            return self._tokens_per_batch
        tokens = _AUTO_TOKENS["cpu" if self.masker.model.device.type == "cpu" else "accelerator"]
        return tokens if self._is_half else tokens // 2

    @property
    def _is_half(self) -> bool:
        return self.masker.model.dtype.itemsize < 4

    @cached_property
    def features(self) -> Features | None:
        """The features that are asked for, if any."""
        if self._pooling is None:
            return None
        with self.masker.unmasked():
            pooled_size = self.task.features_size(self._pooling)
        return Features(self._pooling, self._features_size or pooled_size, pooled_size)

    @property
    def masks_weights(self) -> bool:
        """Whether a score asks for a masked level."""
        return masks_weights(self.scores)

    def views(self, encoded: Sequence[EncodedRow]) -> dict[str, RowsInView]:
        """Rows in all views that the scores ask for."""
        asked = dict.fromkeys(one.view for one in self.passes((0.0, 0.5)))
        return {view: self.task.view(encoded, view) for view in asked}

    def check(self, longest: int) -> None:
        """
        Measure the model before it scores rows: it may look ahead, or take a row in a batch for another one.

        Args:
            longest (`int`):
                Tokens of the longest row; 0 leaves the model alone.

        Raises:
            ValueError: If the model cannot be scored with.
        """
        if not longest:
            return
        with self.masker.unmasked():
            weights = self.masker.weights_state()
            if self._checked[0] != weights or self._checked[1] < longest:
                self.task.check(longest, weights)
                self._checked = weights, longest

    def use_rules(self, rules: BatchRules) -> None:
        """Take the rules that another process has found, which may differ from what this one finds later."""
        self.task.rules = rules
        self._checked = None, 0

    def plan(self, views: Mapping[str, RowsInView]) -> dict[str, list[MicroBatch]]:
        """Plan the rows of each view, which the model was checked with, as micro-batches."""
        return self.cut_views(views, self.tokens_per_batch, self.shared_heads(all_facts(views)))

    def cut_views(
        self, views: Mapping[str, RowsInView], tokens_per_batch: int, shared_heads: Sequence[int]
    ) -> dict[str, list[MicroBatch]]:
        """Cut the rows of each view into micro-batches, as [`Engine.cut`] does."""
        return {view: self.cut(facts_of(seen.rows), tokens_per_batch, shared_heads) for view, seen in views.items()}

    def cut(self, facts: RowFacts, tokens_per_batch: int, shared_heads: Sequence[int]) -> list[MicroBatch]:
        """
        Micro-batches under a budget that is settled, with shared heads that are settled.

        Args:
            facts ([`RowFacts`]):
                Facts of all rows.
            tokens_per_batch (`int`):
                Tokens of a micro-batch, padding included.
            shared_heads (`Sequence[int]`):
                The shared heads that are computed apart from their rows.

        Returns:
            `list[MicroBatch]`: Every row that can be scored exactly once.
        """
        rules, lengths = self.task.rules, facts.lengths
        is_shared = np.isin(facts.shared_heads, shared_heads) & (lengths <= rules.plain_up_to)
        padded = rules.padded(lengths, np.where(is_shared, facts.shared_head_lengths, 0))
        heads = np.where(is_shared, facts.shared_heads, 0)
        return cut_batches(
            padded,
            tokens_per_batch,
            heads,
            self._overhead(tokens_per_batch),
            rules.groups(lengths),
            rules.are_padding_free(lengths),
        )

    def _overhead(self, tokens_per_batch: int) -> int:
        """What a micro-batch costs on top of its tokens, in tokens."""
        return tokens_per_batch // _OVERHEAD_PARTS["half" if self._is_half else "full"]

    def shared_heads(self, facts: RowFacts) -> list[int]:
        """The shared heads that are worth to be computed apart from their rows, where the model can do so."""
        numbers, counts = np.unique(facts.shared_heads, return_counts=True)
        frequent = [number for number in numbers[counts >= _ROWS_PER_SHARED_HEAD].tolist() if number]
        if not frequent:
            return []
        with self.masker.unmasked():
            usable = [number for number in frequent if self.task.shares(number)]
        plans = [self.cut(facts, self.tokens_per_batch, heads) for heads in ([], usable)]
        whole, apart = (cost(plan, self._overhead(self.tokens_per_batch)) for plan in plans)
        return usable if apart <= _WORTH_A_SHARED_HEAD * whole else []

    def faster_threads(self, planned: Sequence[PlannedPass]) -> int:
        """The number of CPU threads to compute with, found out once: all that there are now, or one."""
        threads = torch.get_num_threads()
        if threads not in self._threads and self.masker.model.device.type == "cpu":
            with self.masker.unmasked():
                found = faster_threads(self.task, planned)
            if found is None:  # a longer run may be worth it
                return threads
            self._threads[threads] = found
        return self._threads.get(threads, threads)

    def settle_threads(self, count: int) -> None:
        """Compute with so many of the threads that there are now, as a run began with."""
        self._threads[torch.get_num_threads()] = count

    def known_threads(self, num_threads: int | None = None) -> int:
        """The number of CPU threads that a run computes with: as asked for, or as was found out, or all."""
        return num_threads or self._threads.get(cpu_threads(), cpu_threads())

    def passes(self, fractions: Sequence[float]) -> dict[Pass, tuple[Asked, ...]]:
        """All passes that the scores ask for at these levels, and what is measured in each; features in the first."""
        passes = self._score_passes(fractions)
        if self.features is None:
            return passes
        unmasked = Pass()
        others = {one: measures for one, measures in passes.items() if one != unmasked}
        return {unmasked: (*passes.get(unmasked, ()), self.features), **others}

    def _score_passes(self, fractions: Sequence[float]) -> dict[Pass, tuple[Asked, ...]]:
        weights = ("base",) if self.adapters is None else ("base", "adapted")
        return measures_by_pass(self.scores, fractions, self.task.views, weights, self.task.measurable)

    def run(
        self,
        views: Mapping[str, RowsInView],
        work: Sequence[Sequence[MicroBatch]],
        passes: Mapping[Pass, Sequence[Asked]],
        reporter: Reporter | None = None,
        chunk_seconds: float = CHUNK_SECONDS,
    ) -> Values:
        """
        Score micro-batches: `map` hands over those of its batch, `score` its share of those of the dataset.

        Args:
            views (`Mapping[str, RowsInView]`):
                All rows, as [`Engine.views`] returns them.
            work (`Sequence[Sequence[MicroBatch]]`):
                For each pass the micro-batches to score.
            passes (`Mapping[Pass, Sequence[Asked]]`):
                What [`Engine.passes`] returns.
            reporter ([`Reporter`], *optional*):
                Told of micro-batches and chunks that are done.
            chunk_seconds (`float`, *optional*, defaults to 60):
                Work between two chunks.

        Returns:
            `dict[str, np.ndarray]`: By the name of each measure float32 of shape `(levels, parts)`, a level for each
            pass and a column for each row, or part of one, of the view that has most.
        """
        measures, rows = list(passes.values()), [views[one.view].rows for one in passes]
        if not any(work):  # nothing but skipped rows: leave the model alone
            return no_values(measures, most_parts(views))
        fractions = sorted({one.masked_fraction for one in passes})
        with (
            self.masker.session(fractions) as session,
            closing(_PassSession(session, passes, self.masker.model, self.adapters)) as levels,
        ):
            return LevelLoop(self.task, levels, rows, work, measures, self.limit, reporter, chunk_seconds).run()


def all_facts(views: Mapping[str, RowsInView]) -> RowFacts:
    """Facts of all rows and parts of rows of all views."""
    return joined_facts([facts_of(seen.rows) for seen in views.values()])


def most_parts(views: Mapping[str, RowsInView]) -> int:
    """Number of rows, or parts of them, in the view that has most."""
    return max((len(seen.rows) for seen in views.values()), default=0)
