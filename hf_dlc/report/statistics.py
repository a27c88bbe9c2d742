"""How two columns of the same rows go together: flags, groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata


def auroc(scores: np.ndarray, flags: np.ndarray) -> float:
    """
    Probability that a flagged row has a higher score than an unflagged one, ties counted half.

    Args:
        scores (`np.ndarray` of shape `(rows,)`):
            Scores; rows with NaN are left out.
        flags (`np.ndarray` of shape `(rows,)`):
            Which rows are flagged.

    Returns:
        `float`: In [0, 1]; 0.5 means that the score does not tell them apart, NaN that one of both kinds is missing.

    Example:
    ```python
    >>> auroc(np.array([3.0, 1.0, 2.0]), np.array([True, False, False]))
    1.0
    ```
    """
    known = ~np.isnan(scores)
    flags = np.asarray(flags, dtype=bool)[known]
    if flags.all() or not flags.any():
        return float("nan")
    return float(auroc_along(scores[known][flags], scores[known][~flags]))


def auroc_along(flagged: np.ndarray, others: np.ndarray, axis: int = -1) -> np.ndarray:
    """[`auroc`] of many pairs of columns at once: scores of flagged rows and of others along `axis`, without NaN."""
    positives, negatives = flagged.shape[axis], others.shape[axis]
    ranks = rankdata(np.concatenate([flagged, others], axis=axis), axis=axis)
    sums = np.take(ranks, range(positives), axis=axis).sum(axis=axis)
    return (sums - positives * (positives + 1) / 2) / (positives * negatives)


def within_groups(
    measure: Callable[[np.ndarray, np.ndarray], float], left: np.ndarray, right: np.ndarray, groups: Sequence[Any]
) -> float:
    """
    Mean of a measure of two columns over the groups of rows, weighted by their rows.

    Args:
        measure (`Callable`):
            [`~hf_dlc.utils.ranks.spearman`] or [`auroc`].
        left (`np.ndarray` of shape `(rows,)`):
            First argument of the measure; rows with a NaN are left out.
        right (`np.ndarray` of shape `(rows,)`):
            Second argument of the measure; rows with a NaN are left out.
        groups (`Sequence` of length `rows`):
            The group of each row. Groups for which the measure is NaN, such as those of one row, count for nothing.

    Returns:
        `float`: In the range of the measure; NaN if it is known of no group.
    """
    known = ~(np.isnan(left) | np.isnan(right))
    members = pd.Series(np.arange(len(left))).groupby(pd.Series(groups), dropna=False).indices.values()
    parts = [rows[known[rows]] for rows in members]
    found = [(measure(left[rows], right[rows]), len(rows)) for rows in parts if len(rows) > 1]
    found = [(value, count) for value, count in found if not np.isnan(value)]
    values, weights = zip(*found, strict=True) if found else ([np.nan], [1])
    return float(np.average(values, weights=weights))
