"""A run over all processes of a job: what is left to do, who does it, and how the parts come together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
from accelerate import PartialState

from .journal import Cut, Journal, JournaledWork
from .loop import Reporter
from .peers import Peers
from .plan import MicroBatch, cut_again, deal
from .processes import on_main_process, sum_over_processes
from .progress import progress_bar


logger = logging.getLogger(__name__)

Score = Callable[[Sequence[Sequence[MicroBatch]], Reporter], np.ndarray]


def run_sharded(
    score: Score,
    batches: Sequence[MicroBatch],
    levels: int,
    rows: int,
    journal: Journal | None,
    state: PartialState,
    peers: Peers | None = None,
) -> np.ndarray:
    """
    Score what the journal does not hold yet, each process its share.

    Args:
        score (`Callable`):
            Scores the micro-batches of each level and returns confidence and loss, `(2, levels, rows)`.
        batches (`Sequence[MicroBatch]`):
            The plan.
        levels (`int`):
            Number of levels.
        rows (`int`):
            Number of rows.
        journal ([`Journal`], *optional*):
            What keeps finished chunks; held and begun by the main process.
        state ([`~accelerate.PartialState`]):
            State of this process.
        peers ([`Peers`], *optional*):
            The other processes, if there are any.

    Returns:
        `np.ndarray`: Confidence and loss of all rows, float32 of shape `(2, levels, rows)`, zero for rows that are in
        no micro-batch.

    Raises:
        PeerError: If another process has failed or is gone.
        JournalError: If the journal cannot be read or written.
    """
    kept = _read(journal, levels, rows, state, peers)
    left = [_left_to_do(batches, kept.present[level], kept.cuts, level) for level in range(levels)]
    work = [deal(at_level, state.num_processes)[state.process_index] for at_level in left]
    with progress_bar(work, show=state.is_main_process) as advance:
        scores = score(work, _reporter(journal, peers, advance))
    if peers is not None:
        peers.meet()
    if state.is_main_process:
        scores += _without(kept.scores, left)
    return sum_over_processes(scores, state)


def _read(journal: Journal | None, levels: int, rows: int, state: PartialState, peers: Peers | None) -> JournaledWork:
    """What the journal holds: everywhere which rows, and on the main process their scores."""
    if journal is None:
        return JournaledWork(np.zeros((2, levels, rows), dtype=np.float32), np.zeros((levels, rows), dtype=bool), [])
    kept = on_main_process(
        lambda: journal.read(levels, rows), state, peers, share=lambda kept: kept._replace(scores=None)
    )
    if state.is_main_process and (done := int(kept.present.sum())):
        logger.info("going on after %d of %d row scores that are in the journal", done, kept.present.size)
    return kept


def _left_to_do(
    batches: Sequence[MicroBatch], present: np.ndarray, cuts: Sequence[Cut], level: int
) -> list[MicroBatch]:
    """
    The micro-batches of a level, or the parts that they were cut into, of which a row is missing.

    Cuts are replayed one by one, each on the parts that were left when it was made: the parts then are those of the
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
    """What a journal calls a micro-batch or a part of one: its first row, which no other one of the level has."""
    return int(batch.rows[0])


def _without(scores: np.ndarray, left: Sequence[Sequence[MicroBatch]]) -> np.ndarray:
    """The scores, but for those that are computed again, since a part of their micro-batch was lost."""
    for level, batches in enumerate(left):
        for batch in batches:
            scores[:, level, batch.rows] = 0
    return scores


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
