"""Ranks of two columns of the same rows: how well they agree, and how sure that is."""

from __future__ import annotations

import numpy as np


def average_ranks(values: np.ndarray) -> np.ndarray:
    """
    Ranks from 1, where equal values share the mean of their ranks.

    Args:
        values (`np.ndarray` of shape `(rows,)`):
            Numbers without NaN.

    Returns:
        `np.ndarray` of shape `(rows,)`: float64.

    Example:
    ```python
    >>> average_ranks(np.array([0.5, 0.1, 0.5])).tolist()
    [2.5, 1.0, 2.5]
    ```
    """
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[places]


def spearman(left: np.ndarray, right: np.ndarray) -> float:
    """Rank correlation in [-1, 1] over the rows that have both values; NaN if one of them never varies."""
    left, right = known_pairs(left, right)
    return _correlation(left, right)


def spearman_interval(
    left: np.ndarray, right: np.ndarray, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """
    Bootstrap interval of the rank correlation: rows are drawn again, and ranked again, many times.

    Args:
        left (`np.ndarray` of shape `(rows,)`):
            One column; rows with a NaN are left out.
        right (`np.ndarray` of shape `(rows,)`):
            The other one.
        seed (`int`, *optional*, defaults to 0):
            Seed of the draws.
        resamples (`int`, *optional*, defaults to 1000):
            Number of draws.
        level (`float`, *optional*, defaults to 0.95):
            Share of the draws that lie within the interval, as many on each side beyond it.

    Returns:
        `tuple[float, float]`: Lower and upper end, in [-1, 1]; NaN if the correlation is.
    """
    left, right = known_pairs(left, right)
    rng = np.random.default_rng(seed)
    draws = (rng.integers(0, len(left), len(left)) for _ in range(resamples if len(left) else 0))
    found = np.array([_correlation(left[rows], right[rows]) for rows in draws])
    found = found[~np.isnan(found)]  # draws of a single value, as of two rows
    if not len(found):
        return float("nan"), float("nan")
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def known_pairs(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both columns, of the rows that have both values."""
    known = ~(np.isnan(left) | np.isnan(right))
    return left[known], right[known]


def _correlation(left: np.ndarray, right: np.ndarray) -> float:
    left, right = average_ranks(left), average_ranks(right)
    left, right = left - left.mean() if len(left) else left, right - right.mean() if len(right) else right
    size = float(np.sqrt((left @ left) * (right @ right)))
    return float(left @ right) / size if size else float("nan")
