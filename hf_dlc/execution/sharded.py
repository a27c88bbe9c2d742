"""A run over all processes of a job: what is left to do, who does it, and how the parts come together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
from accelerate import PartialState

from hf_dlc.scores.base import Asked

from .journal import Cut, Journal, JournaledWork
from .loop import Reporter
from .peers import Peers
from .plan import MicroBatch, cut_again, deal
from .processes import on_main_process, sum_over_processes
from .progress import progress_bar
from .values import Values, no_values


logger = logging.getLogger(__name__)

Compute = Callable[[Sequence[Sequence[MicroBatch]], Reporter], Values]


def run_sharded(
    compute: Compute,
    batches: Sequence[Sequence[MicroBatch]],
    measures: Sequence[Sequence[Asked]],
    rows: int,
    journal: Journal | None,
    state: PartialState,
    peers: Peers | None = None,
) -> Values:
    """
    Measure what the journal does not hold yet, each process its share.

    Args:
        compute (`Callable`):
            Measures the micro-batches of each level; returns zeros for all other rows.
        batches (`Sequence[Sequence[MicroBatch]]`):
            For each level its plan.
        measures (`Sequence[Sequence[Asked]]`):
            For each level what is measured.
        rows (`int`):
            Number of rows.
        journal ([`Journal`], *optional*):
            What keeps finished chunks; held and begun by the main process.
        state ([`~accelerate.PartialState`]):
            State of this process.
        peers ([`Peers`], *optional*):
            The other processes, if there are any.

    Returns:
        `dict[str, np.ndarray]`: By the name of the measure float32 of shape `(levels, rows)`, zero for rows that are
        in no micro-batch.

    Raises:
        PeerError: If another process has failed or is gone.
        JournalError: If the journal cannot be read or written.
    """
    kept = _read(journal, measures, rows, state, peers)
    left = [_left_to_do(plan, kept.present[level], kept.cuts, level) for level, plan in enumerate(batches)]
    work = [deal(at_level, state.num_processes)[state.process_index] for at_level in left]
    with progress_bar(work, show=state.is_main_process) as advance:
        values = compute(work, _reporter(journal, peers, advance))
    if peers is not None:
        peers.meet()
    if state.is_main_process:
        for name, known in kept.values.items():
            values[name] += _without(known, left)
    return {name: sum_over_processes(values[name], state) for name in values}


def _read(
    journal: Journal | None,
    measures: Sequence[Sequence[Asked]],
    rows: int,
    state: PartialState,
    peers: Peers | None,
) -> JournaledWork:
    """Content of the journal: everywhere which rows it has, and on the main process what was measured of them."""
    if journal is None:
        return JournaledWork(no_values(measures, rows), np.zeros((len(measures), rows), dtype=bool), [])
    kept = on_main_process(
        lambda: journal.read(measures, rows), state, peers, share=lambda kept: kept._replace(values={})
    )
    if state.is_main_process and (done := int(kept.present.sum())):
        logger.info("going on after %d of %d row scores that are in the journal", done, kept.present.size)
    return kept


def _left_to_do(
    batches: Sequence[MicroBatch], present: np.ndarray, cuts: Sequence[Cut], level: int
) -> list[MicroBatch]:
    """
    The micro-batches of a level, or the parts that they were cut into, of which a row is missing.

    Cuts are replayed one by one, each on the parts that were left when it was made. The parts then are those of the
    run that made them, and so are the scores, bit for bit.
    """
    parts = list(batches)
    for cut in cuts:
        were_left = set(cut.batches.get(level, ()))
        parts = [
            piece for part in parts for piece in (cut_again(part, cut.tokens) if _name(part) in were_left else [part])
        ]
    return [part for part in parts if not present[part.rows].all()]


def _name(batch: MicroBatch) -> int:
    """Name of a micro-batch or a part of one in a journal: its first row, which no other one of the level has."""
    return int(batch.rows[0])


def _without(values: np.ndarray, left: Sequence[Sequence[MicroBatch]]) -> np.ndarray:
    """The values, `(levels, rows)`, but for those that are computed again, since their micro-batch lost a part."""
    for level, batches in enumerate(left):
        for batch in batches:
            if level < len(values):  # features are those of the first level
                values[level, batch.rows] = 0
    return values


def _reporter(journal: Journal | None, peers: Peers | None, advance: Callable[[MicroBatch], None]) -> Reporter:
    def batch_done(batch: MicroBatch) -> None:
        advance(batch)
        if peers is not None:
            peers.check()

    def cut(tokens: int, left: Sequence[Sequence[MicroBatch]]) -> None:
        names = {level: sorted(map(_name, batches)) for level, batches in enumerate(left) if batches}
        journal.write_cut(Cut(tokens, names))

    if journal is None:
        return Reporter(batch=batch_done)
    return Reporter(batch=batch_done, chunk=journal.write_chunk, cut=cut)
