"""Summary of several studies: one line each, which way of choosing paid there and which did not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .arms import METRICS, ORACLE
from .markdown import table
from .results import StudyResults
from .situations import SITUATIONS
from .statistics import Comparison, compare_overall, in_words, is_loss, opposites
from .verdict import verdict


_MOST_NAMES = 4  # of ways that were not better


def pays_table(studies: Mapping[str, Mapping[str, StudyResults]], titles: Mapping[str, str] | None = None) -> str:
    """
    Write what paid in each study.

    Args:
        studies (`Mapping[str, Mapping[str, StudyResults]]`):
            By the name of each situation its studies, by what they measured on.
        titles (`Mapping[str, str]`, *optional*):
            By what a study measured on, what it is a case of; by default that of its situation.

    Returns:
        `str`: Markdown, with a line for each study.
    """
    header = [
        "where",
        "measured on",
        "take",
        "loss against random rows (95% interval)",
        "accuracy",
        "STR",
        "not better than random",
    ]
    rows = [
        [(titles or {}).get(label, SITUATIONS[name].title), label, *_cells(results)]
        for name, found in studies.items()
        for label, results in found.items()
    ]
    return table(header, rows)


def _cells(results: StudyResults) -> list[str]:
    """What one study says in each column but the first two."""
    found = verdict(results)
    ratio = results.ratio(found.best.arm) if found.arm != "random" else 0.0
    accuracies = [
        next(one for one in compare_overall(results, metric) if one.arm == found.best.arm).short(digits=1)
        for metric in results.metrics
        if not is_loss(metric)
    ]
    return [
        f"`{found.arm}`" if found.arm != "random" else "random rows",
        found.best.short(digits=1) if found.arm != "random" else _best_other(results, found.best),
        ", ".join(accuracies) or "-",
        "not known" if ratio is None else f"{ratio:.2f}",
        _not_better(results, found.best.arm),
    ]


def _best_other(results: StudyResults, best: Comparison) -> str:
    """The best of the ways that are not to be taken, and what speaks against it."""
    worse = [f", but {in_words(one.metric)} {one.difference:+.1f}{one.unit}" for one in opposites(results, best.arm)]
    return f"best other: `{best.arm}` {best.short(digits=1)}{''.join(worse)}"


def _not_better(results: StudyResults, best: str) -> str:
    """Ways that were screened or confirmed, and were not better: the worst first. The best one is named elsewhere."""
    confirmed = {one.arm: one for one in compare_overall(results, METRICS[0])}
    losses: dict[str, list[float]] = {}
    for cell, found in results.screening.items():
        losses.setdefault(cell.arm, []).append(found[METRICS[0]])
    means = {arm: float(np.mean(values)) for arm, values in losses.items()}
    worse = [arm for arm in means if means[arm] >= means["random"] and arm not in ("random", ORACLE, *confirmed)]
    doubtful = [arm for arm, one in confirmed.items() if not one.is_better or opposites(results, arm)]
    names = [*sorted(worse, key=lambda arm: -means[arm]), *(arm for arm in doubtful if arm != best)]
    shown = ", ".join(f"`{name}`" for name in names[:_MOST_NAMES])
    return (shown or "-") if len(names) <= _MOST_NAMES else f"{shown} and {len(names) - _MOST_NAMES} more"
