"""One progress bar a run, silenced by the usual Hugging Face switches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from datasets.utils import tqdm

from .plan import MicroBatch


@contextmanager
def progress_bar(batches: Sequence[MicroBatch], levels: int, show: bool) -> Iterator[Callable[[MicroBatch], None]]:
    """
    A bar over all tokens of all levels, with level, rows, tokens/s and time left.

    It counts tokens, not rows: rows come longest first, and a bar over rows would foretell far too long a run.

    Yields:
        `Callable[[MicroBatch], None]`: To be told of each micro-batch that is done.
    """
    tokens = sum(batch.padded_tokens for batch in batches)
    rows = sum(len(batch.rows) for batch in batches)
    done = 0
    with tqdm(total=tokens * levels, unit="tok", unit_scale=True, desc="Scoring", disable=not show) as bar:

        def advance(batch: MicroBatch) -> None:
            nonlocal done
            done += len(batch.rows)
            level, row = divmod(done - 1, rows)
            bar.set_postfix_str(f"level {level + 1}/{levels}, row {row + 1}/{rows}", refresh=False)
            bar.update(batch.padded_tokens)

        yield advance
