"""Rank correlation, and how sure a number is that was measured on a sample of rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata


def spearman(left: np.ndarray, right: np.ndarray) -> float:
    """
    Rank correlation of two columns of the same rows (Spearman's rho, ties by their mean rank).

    Args:
        left (`np.ndarray` of shape `(rows,)`):
            Numbers; rows with a NaN in either column are left out.
        right (`np.ndarray` of shape `(rows,)`):
            Numbers.

    Returns:
        `float`: In [-1, 1]; 1 is the same order, 0 no relation. NaN if one of the columns never varies.

    Example:
    ```python
    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 30.0, 90.0]))
    1.0
    ```
    """
    known = ~(np.isnan(left) | np.isnan(right))
    if not known.any():
        return float("nan")
    ranks = [rankdata(column[known]) for column in (left, right)]
    first, second = (column - column.mean() for column in ranks)
    spread = np.sqrt((first @ first) * (second @ second))
    return float(first @ second / spread) if spread > 0 else float("nan")


def bootstrap_interval(
    measure: Callable[..., float],
    *columns: np.ndarray,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """
    Percentile bootstrap interval of a measure of rows.

    The source is Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.

    Args:
        measure (`Callable`):
            From columns of the same rows to a number, such as [`spearman`].
        columns (`np.ndarray` of shape `(rows,)`):
            What it takes. Rows are drawn with replacement, as many as there are.
        resamples (`int`, *optional*, defaults to 1000):
            How often they are drawn.
        level (`float`, *optional*, defaults to 0.95):
            Probability that the interval is to hold.
        seed (`int`, *optional*, defaults to 0):
            Seed of the draws.

    Returns:
        `tuple[float, float]`: Both ends. Draws of which the measure is NaN count for nothing; both ends are NaN where
        there are no others.

    Example:
    ```python
    >>> rows = np.arange(50.0)
    >>> bootstrap_interval(spearman, rows, rows)
    (1.0, 1.0)
    ```
    """
    rows, rng = len(columns[0]), np.random.default_rng(seed)
    if not rows:
        return float("nan"), float("nan")
    draws = (rng.integers(0, rows, rows) for _ in range(resamples))
    found = np.array([measure(*(column[draw] for column in columns)) for draw in draws])
    found = found[~np.isnan(found)]
    if not len(found):
        return float("nan"), float("nan")
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
