"""The one loop over levels and micro-batches that `map` and `score` share."""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from hf_dlc.errors import DLCError
from hf_dlc.scores.base import Asked
from hf_dlc.tasks.base import EncodedRow, RowMeasures, Task
from hf_dlc.tasks.facts import ChosenRows

from .masks import Masked, Session
from .plan import MicroBatch, cut_again
from .values import Values, no_values


logger = logging.getLogger(__name__)

T = TypeVar("T")

CHUNK_SECONDS = 60.0


@dataclass
class TokenLimit:
    """Tokens of a micro-batch, padding included, that memory was found to hold; `None` while all have fitted."""

    tokens: int | None = None

    def parts(self, batch: MicroBatch) -> list[MicroBatch]:
        """The micro-batch in parts under the limit."""
        return [batch] if self.tokens is None else cut_again(batch, self.tokens)

    def halve(self, batch: MicroBatch) -> None:
        """
        Take half of a micro-batch that did not fit for the limit.

        Raises:
            MemoryError: If the micro-batch is a single row.
        """
        if len(batch.rows) == 1:
            raise MemoryError(
                f"a row of {batch.padded_tokens} tokens does not fit into memory even on its own. Use a device with "
                "more memory, or pass a smaller max_length (of images, another size in their processor)."
            )
        log = logger.warning if self.tokens is None else logger.info
        self.tokens = batch.padded_tokens // 2
        log("a micro-batch of %d tokens does not fit into memory: going on with %d", batch.padded_tokens, self.tokens)


@dataclass
class Reporter:
    """
    Who is told how a run goes on.

    Args:
        batch (`Callable[[MicroBatch], None]`):
            Told of each micro-batch that is done.
        chunk (`Callable[[int, np.ndarray, dict[str, np.ndarray]], None]`):
            Given each chunk as level, rows and, by the name of the measure, a number of each row.
        cut (`Callable[[int, list[list[MicroBatch]]], None]`):
            Told before micro-batches are cut to fewer tokens: how many, and, by level, which are left to do.
    """

    batch: Callable[[MicroBatch], None] = lambda batch: None
    chunk: Callable[[int, np.ndarray, dict[str, np.ndarray]], None] = lambda *chunk: None
    cut: Callable[[int, list[list[MicroBatch]]], None] = lambda tokens, left: None


class LevelLoop:
    """
    Measures rows at every level: level outside, micro-batch inside.

    Where a micro-batch does not fit into memory, it and what is left are cut to half its tokens.

    Args:
        task ([`Task`]):
            What feeds rows to the model.
        session (`Session`):
            The open masks. Level 0 is the unmasked one, with which the others are compared.
        rows (`Sequence[Sequence[EncodedRow]]`):
            For each level all rows of the run as that level sees them.
        work (`Sequence[Sequence[MicroBatch]]`):
            For each level what this process does.
        measures (`Sequence[Sequence[Asked]]`):
            For each level what is measured.
        limit ([`TokenLimit`], *optional*):
            What memory was found to hold so far; lowered where it turns out to hold less.
        reporter ([`Reporter`], *optional*):
            Told of micro-batches and chunks that are done.
        chunk_seconds (`float`, *optional*, defaults to 60):
            Work between two chunks.
    """

    def __init__(
        self,
        task: Task,
        session: Session,
        rows: Sequence[Sequence[EncodedRow]],
        work: Sequence[Sequence[MicroBatch]],
        measures: Sequence[Sequence[Asked]],
        limit: TokenLimit | None = None,
        reporter: Reporter | None = None,
        chunk_seconds: float = CHUNK_SECONDS,
    ) -> None:
        self.task, self.session, self.rows, self.work, self.measures = task, session, rows, list(work), measures
        self.limit, self.reporter, self.chunk_seconds = limit or TokenLimit(), reporter or Reporter(), chunk_seconds
        self.values = no_values(measures, max(map(len, rows)))
        self._level = 0  # the present one
        self._masked = 0  # weights set to zero at it
        self._shared_heads: dict[int, Any] = {}  # what the model made of each shared head at the present level
        self._unmasked: tuple[MicroBatch, torch.Tensor] | None = None  # a micro-batch and its states at level 0

    def run(self) -> Values:
        """
        Do all that is to be done.

        Returns:
            `dict[str, np.ndarray]`: By the name of the measure float32 of shape `(levels, rows)`, zero where there was
            nothing to do.

        Raises:
            RuntimeError: If masking weights leaves the model's hidden states as they were.
            MemoryError: If a single row does not fit into memory.
        """
        if self.limit.tokens is not None:  # found out in an earlier run, and not to be found in this one's journal
            self._cut_what_is_left(0, self.work[0])
        for level in range(len(self.work)):
            if self.work[level]:
                self._set_level(level)
                self._run_level(level)
        return self.values

    def _set_level(self, level: int) -> None:
        self._level, self._masked = level, self.session.set_level(level).masked
        self._shared_heads.clear()

    def _run_level(self, level: int) -> None:
        queue, done = deque(self.work[level]), []
        is_checked, deadline = False, time.monotonic() + self.chunk_seconds
        feed = self._feed(level, queue)
        while queue:
            batch = queue.popleft()
            rows = list(itertools.islice(feed, len(batch.rows)))
            found = self._try_forward(batch, rows)
            if found is None:
                self.limit.halve(batch)
                queue = deque(self._cut_what_is_left(level, [batch, *queue]))
                feed = itertools.chain(rows, feed)  # cut or not, the rows keep their order
                continue
            if not is_checked:
                self._check_masks(level, batch, found.states)
                is_checked = True
            done.append((batch, found.values))
            self.reporter.batch(batch)
            if not queue or time.monotonic() >= deadline:
                self._finish_chunk(level, done)
                done, deadline = [], time.monotonic() + self.chunk_seconds

    def _cut_what_is_left(self, level: int, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """
        Cut all that is left, at all levels, to the limit, and return what is left of this level.

        All is cut at once because a resumed run does so too. Two cuts do not always give what one cut gives, so the
        order of cuts must be the same.
        """
        left = [*[[]] * level, list(batches), *self.work[level + 1 :]]
        self.reporter.cut(self.limit.tokens, left)
        self.work = [[part for batch in at_level for part in self.limit.parts(batch)] for at_level in left]
        return self.work[level]

    def _feed(self, level: int, batches: Iterable[MicroBatch]) -> Iterator[EncodedRow]:
        places = [batch.rows for batch in batches]
        return self.task.feed(ChosenRows(self.rows[level], np.concatenate(places)) if places else [])

    def _try_forward(self, batch: MicroBatch, rows: Sequence[EncodedRow]) -> RowMeasures | None:
        """Measures of a micro-batch, or `None` if it does not fit into memory."""
        return _or_none(partial(self._forward, batch, rows))

    def _forward(self, batch: MicroBatch, rows: Sequence[EncodedRow]) -> RowMeasures:
        if batch.shared_head and batch.shared_head not in self._shared_heads:
            self._shared_heads[batch.shared_head] = self.task.run_shared_head(batch.shared_head)
        return self.task.forward(rows, self.measures[self._level], self._shared_heads.get(batch.shared_head))

    def _finish_chunk(self, level: int, done: list[tuple[MicroBatch, dict[str, torch.Tensor]]]) -> None:
        """Take the numbers from the device: once a chunk, for each time an accelerator waits for the host."""
        rows = np.concatenate([batch.rows for batch, _ in done])
        chunk = {}
        for name in (measure.name for measure in self.measures[level]):
            chunk[name] = _to_numpy(torch.cat([values[name] for _, values in done]))
            self.values[name][level, rows] = chunk[name]
        self.reporter.chunk(level, rows, chunk)

    def _check_masks(self, level: int, batch: MicroBatch, states: torch.Tensor) -> None:
        """
        Compare the hidden states of a micro-batch with those at level 0.

        Published code scored quantised models whose masks never reached the arithmetic; this is what tells.
        """
        if not self._masked:
            self._unmasked = self._unmasked or (batch, states)
            return
        if self._unmasked is None or not np.array_equal(self._unmasked[0].rows, batch.rows):
            # A resumed run, or one that was cut for want of memory: one row is enough, and there is room for it.
            probe = batch._replace(rows=batch.rows[:1], lengths=batch.lengths[:1])
            rows = list(self._feed(level, [probe]))
            self._set_level(0)
            self._unmasked = probe, self._forward(probe, rows).states
            self._set_level(level)
            states = self._forward(probe, rows).states
        _require_change(self._unmasked[1], states, self._masked, level)


def in_parts_that_fit(
    batches: Iterable[MicroBatch], limit: TokenLimit, compute: Callable[[MicroBatch], T]
) -> Iterator[T]:
    """
    What `compute` makes of micro-batches; of those that do not fit into memory, part by part.

    Args:
        batches (`Iterable[MicroBatch]`):
            Micro-batches.
        limit ([`TokenLimit`]):
            What memory was found to hold so far; lowered where it turns out to hold less.
        compute (`Callable[[MicroBatch], T]`):
            Called with a micro-batch or a part of one.

    Yields:
        `T`: What `compute` returned.

    Raises:
        MemoryError: If a single row does not fit.
    """
    queue = deque(batches)
    while queue:
        batch, *rest = limit.parts(queue.popleft())
        queue.extendleft(reversed(rest))
        found = _or_none(partial(compute, batch))
        if found is None:
            limit.halve(batch)
            queue.appendleft(batch)
        else:
            yield found


def _or_none(compute: Callable[[], T]) -> T | None:
    """The result of `compute`, or `None` if it does not fit into memory."""
    try:
        return compute()
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
    clear_device_cache(garbage_collection=True)  # not above: the exception holds on to what did not fit
    return None


def run_row(
    task: Task,
    masked: Sequence[Masked],
    measures: Sequence[Sequence[Asked]],
    row: EncodedRow,
    shared_head: Any = None,
) -> Values:
    """
    Measure one row at all levels in a single forward pass, with a model whose levels stand side by side.

    Args:
        task ([`Task`]):
            What runs the model.
        masked (`Sequence[Masked]`):
            What the masks did at each level.
        measures (`Sequence[Sequence[Asked]]`):
            For each level what is measured.
        row (`EncodedRow`):
            The row.
        shared_head (`Any`, *optional*):
            What the model made of the row's shared head, at all levels.

    Returns:
        `dict[str, np.ndarray]`: By the name of the measure float32 of shape `(levels, 1)`.

    Raises:
        RuntimeError: If masking weights leaves the model's hidden states as they were.
    """
    asked = {measure.name: measure for at_level in measures for measure in at_level}
    found = task.forward([row] * len(masked), tuple(asked.values()), shared_head, len(masked))
    unmasked, *others = found.states.unflatten(0, (len(masked), -1))
    for level, states in enumerate(others, start=1):
        _require_change(unmasked, states, masked[level].masked, level)
    values, of_levels = no_values(measures, 1), {name: _to_numpy(found.values[name]) for name in asked}
    for level, at_level in enumerate(measures):
        for measure in at_level:
            values[measure.name][level] = of_levels[measure.name][level]
    return values


def _to_numpy(values: torch.Tensor) -> np.ndarray:
    # Plus 0, which turns -0 into 0: adding up what other processes and the journal have would do so too.
    numbers = values.cpu().numpy()
    return numbers + numbers.dtype.type(0)


def _require_change(unmasked: torch.Tensor, states: torch.Tensor, masked: int, level: int) -> None:
    if masked and torch.equal(unmasked, states):
        raise DLCError(
            f"level {level} has {masked} masked weights, but the hidden states of its first micro-batch are the same "
            "as without masks: the model does not compute with the weights that were masked. Load it unquantised, "
            "without kernels or wrappers that keep their own copy of the weights."
        )
