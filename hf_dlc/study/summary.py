"""Summary of several studies: one line a situation, which way of choosing paid there and which did not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .arms import METRICS, ORACLE
from .markdown import table
from .results import StudyResults
from .situations import SITUATIONS
from .statistics import compare_overall, in_words, is_loss, opposites
from .verdict import verdict


_MOST_NAMES = 4  # of ways that were not better


def pays_table(studies: Mapping[str, Mapping[str, StudyResults]]) -> str:
    """
    Write what paid in each situation.

    Args:
        studies (`Mapping[str, Mapping[str, StudyResults]]`):
            By the name of each situation its studies, by what they are called there.

    Returns:
        `str`: Markdown.
    """
    header = [
        "where",
        "take",
        "loss against that of random rows (95% interval)",
        "accuracy",
        "cost (STR)",
        "not better than random rows",
    ]
    rows = []
    for name, found in studies.items():
        columns = zip(*map(_cells, found.values()), strict=True)
        rows.append([SITUATIONS[name].title, *(_joined(list(found), column) for column in columns)])
    return table(header, rows)


def _joined(labels: Sequence[str], texts: Sequence[str]) -> str:
    """What the studies of a situation say in one column; a study that stands alone needs no name."""
    said = [f"{label}: {text}" if len(labels) > 1 else text for label, text in zip(labels, texts, strict=True) if text]
    return "; ".join(said) or "-"


def _cells(results: StudyResults) -> list[str]:
    """What one study says in each column but the first."""
    found = verdict(results)
    ratio = results.ratio(found.best.arm) if found.arm != "random" else 0.0
    accuracies = [
        next(one for one in compare_overall(results, metric) if one.arm == found.best.arm).short(digits=1)
        for metric in results.metrics
        if not is_loss(metric)
    ]
    worse = [
        f", whose {in_words(one.metric)} is {one.difference:+.1f}{one.unit}"
        for one in opposites(results, found.best.arm)
    ]
    of_best = "" if found.arm != "random" else f" (best of the others, `{found.best.arm}`{''.join(worse)})"
    return [
        f"`{found.arm}`" if found.arm != "random" else "random rows",
        f"{found.best.short(digits=1)}{of_best}",
        ", ".join(accuracies),
        "not known" if ratio is None else f"{ratio:.2f}",
        _not_better(results, found.best.arm),
    ]


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
    return shown if len(names) <= _MOST_NAMES else f"{shown} and {len(names) - _MOST_NAMES} more"
