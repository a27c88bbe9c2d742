"""
Writes what is measured of each family as a table in Markdown.

    python -m tests.laws.matrix.table matrix.md [family ...]
"""

from __future__ import annotations

import logging
import math
import signal
import sys
from pathlib import Path
from types import FrameType

import datasets

from tests.laws.matrix.families import BODIES, CAUSAL, IMAGES, UNBUILDABLE
from tests.laws.matrix.measure import Result, measure


SECONDS = 300  # of a family
COLUMNS = ("family", "pass", "level 0", "alone", "score", "row by row", "shared head", "at the limit", "notes")


class TooSlowError(BaseException):
    """Not an `Exception`, so that nothing takes it for an error of the model."""


def main(path: Path, families: list[str]) -> None:
    """Measure one family after the other, and write each row at once."""
    datasets.disable_progress_bars()
    logging.disable(logging.WARNING)
    signal.signal(signal.SIGALRM, _too_slow)
    with path.open("w", encoding="utf-8") as table:
        table.write(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n")
        for family in families:
            table.write(_line(_measure(family)))
            table.flush()
        for family, reason in UNBUILDABLE.items():
            table.write(f"| {family} | not built: {reason} |{' |' * (len(COLUMNS) - 2)}\n")


def _too_slow(_signal: int, _frame: FrameType | None) -> None:
    raise TooSlowError


def _measure(family: str) -> Result:
    signal.alarm(SECONDS)
    try:
        return measure(family)
    except (Exception, TooSlowError) as error:  # the next family is measured all the same
        return Result(family, wrong=[f"{type(error).__name__}: {error}"])
    finally:
        signal.alarm(0)


def _line(result: Result) -> str:
    passes = "FAILS" if result.faults else "yes" if result.verdict == "ok" else "refused"
    numbers = ["" if math.isnan(value) else f"{value:.0e}" for value in result.numbers.values()]
    words = [*result.notes, *result.faults] if result.verdict == "ok" else [result.verdict, *result.faults]
    cells = [result.family, passes, *numbers, "; ".join(words)]
    return f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in cells)} |\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or [*CAUSAL, *IMAGES, *BODIES])
