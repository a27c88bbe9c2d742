"""Rank correlation, and how sure a number is that was measured on a sample of rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from scipy.stats import DegenerateDataWarning, bootstrap, rankdata


_NUMBERS_AT_ONCE = 1_000_000  # of a column, in all draws that are measured together


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
    return float(spearman_along(left[known], right[known])) if known.any() else float("nan")


def spearman_along(left: np.ndarray, right: np.ndarray, axis: int = -1) -> np.ndarray:
    """[`spearman`] of many pairs of columns at once, which lie along `axis` and have no NaN."""
    first, second = (
        ranks - ranks.mean(axis=axis, keepdims=True)
        for ranks in (rankdata(columns, axis=axis) for columns in (left, right))
    )
    spread = np.sqrt((first**2).sum(axis=axis) * (second**2).sum(axis=axis))
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of a column that never varies
        return (first * second).sum(axis=axis) / spread


def bootstrap_interval(
    measure: Callable[..., np.ndarray],
    *columns: np.ndarray,
    paired: bool = True,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """
    Percentile bootstrap interval of a measure of rows, drawn by [`scipy.stats.bootstrap`].

    The source is Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.

    Args:
        measure (`Callable`):
            From columns without NaN to a number, along the `axis` that it is given: [`spearman_along`], `numpy.mean`.
        columns (`np.ndarray` of shape `(rows,)`):
            What it takes. Rows are drawn with replacement, as many as there are.
        paired (`bool`, *optional*, defaults to `True`):
            Whether the columns are those of the same rows, which are drawn together.
        resamples (`int`, *optional*, defaults to 1000):
            How often they are drawn.
        level (`float`, *optional*, defaults to 0.95):
            Probability that the interval is to hold.
        seed (`int`, *optional*, defaults to 0):
            Seed of the draws.

    Returns:
        `tuple[float, float]`: Both ends. Draws of which the measure is NaN count for nothing; both ends are NaN where
        there are no others, or where a column has fewer than two rows.

    Example:
    ```python
    >>> rows = np.arange(50.0)
    >>> bootstrap_interval(spearman_along, rows, rows)
    (1.0, 1.0)
    ```
    """
    if min(map(len, columns)) < 2:
        return float("nan"), float("nan")
    options = {"paired": paired, "n_resamples": resamples, "method": "percentile", "rng": seed}
    at_once = max(1, _NUMBERS_AT_ONCE // max(map(len, columns)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # of draws that are NaN, which are left out below
        draws = bootstrap(columns, measure, vectorized=True, batch=at_once, **options).bootstrap_distribution
    known = draws[~np.isnan(draws)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
