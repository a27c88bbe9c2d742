"""One progress bar a run, silenced by the usual Hugging Face switches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from datasets.utils import tqdm

from .plan import MicroBatch


@contextmanager
def progress_bar(
    work: Sequence[Sequence[MicroBatch]], show: bool, title: str = "Scoring"
) -> Iterator[Callable[[MicroBatch], None]]:
    """
    A bar over all tokens of all levels, with level, rows, tokens/s and time left.

    It counts tokens, not rows: rows come longest first, and a bar over rows would foretell far too long a run.

    Args:
        work (`Sequence[Sequence[MicroBatch]]`):
            For each level what is to be done.
        show (`bool`):
            Whether there is a bar at all.
        title (`str`, *optional*, defaults to `"Scoring"`):
            What is done.

    Yields:
        `Callable[[MicroBatch], None]`: To be told of each micro-batch that is done.
    """
    rows = [sum(len(batch.rows) for batch in batches) for batches in work]
    ends = np.cumsum(rows)  # of the levels, in rows
    done = 0
    tokens = sum(batch.padded_tokens for batches in work for batch in batches)
    with tqdm(total=tokens, unit="tok", unit_scale=True, desc=title, disable=not show) as bar:

        def advance(batch: MicroBatch) -> None:
            nonlocal done
            done += len(batch.rows)
            level = int(np.searchsorted(ends, done))
            row = done - ends[level] + rows[level]
            bar.set_postfix_str(f"level {level + 1}/{len(work)}, row {row}/{rows[level]}", refresh=False)
            bar.update(batch.padded_tokens)

        yield advance
