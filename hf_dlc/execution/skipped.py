"""Rows that have no score: how many for which reason, and the first of each, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from hf_dlc.scores.columns import PARTLY, PARTLY_SCORED, SCORED_STATUSES
from hf_dlc.tasks.base import EncodedRow
from hf_dlc.tasks.facts import facts_of


def count_skipped(statuses: Sequence[str]) -> dict[str, int]:
    """Number of rows without a score, by reason."""
    counts = Counter(statuses)
    return {status: count for status, count in sorted(counts.items()) if status not in SCORED_STATUSES}


def count_partly(statuses: Sequence[str]) -> dict[str, int]:
    """Number of rows that lack some of their scores, by reason."""
    counts = Counter(statuses)
    return {status.removeprefix(PARTLY): count for status, count in sorted(counts.items()) if status in PARTLY_SCORED}


def first_skipped(rows: Sequence[EncodedRow], count: int | None = None) -> dict[str, str]:
    """
    The first row of each reason, in words.

    Args:
        rows (`Sequence[EncodedRow]`):
            All rows, in the order of the dataset.
        count (`int`, *optional*):
            How many of them count; further ones are parts of these.

    Returns:
        `dict[str, str]`: From the reason to `"row <index>: <what is wrong with it>"`.
    """
    statuses = facts_of(rows).statuses[:count]
    skipped = np.flatnonzero(~np.isin(statuses, list(SCORED_STATUSES)))
    found: dict[str, str] = {}
    for place in skipped.tolist():
        if statuses[place] not in found:
            why = rows[place].why
            found[statuses[place]] = f"row {place}: {why}" if why else f"row {place}"
    return found


def in_words(counts: dict[str, int], first: dict[str, str]) -> str:
    """
    Reasons with their counts and first rows.

    Example:
    ```python
    >>> in_words({"invalid_row": 2}, {"invalid_row": "row 0: column 'output': must be text or a number, got list []"})
    "invalid_row 2 (row 0: column 'output': must be text or a number, got list [])"
    ```
    """
    return ", ".join(
        f"{status} {count} ({first[status]})" if status in first else f"{status} {count}"
        for status, count in counts.items()
    )
