"""Two peaks of a score: whether there are two at all, and where the harder one begins."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


_STARTS = (0.5, 0.25, 0.1, 0.05, 0.02)  # shares that the harder component begins with
_MOST_VALUES = 10_000  # that are looked at: quantiles stand for more
_OUTLIERS = 0.005  # share of the values at each end to which no component is fitted
_MOST_STEPS = 500
_LEAST_VARIANCE = 1e-6  # of a component, where that of all values is 1: scores may repeat
_LEAST_PART = 1e-9  # of a value that a component gets, so that none dies out
_LEAST_BIC_GAIN = 10.0  # "very strong" evidence: Kass and Raftery, "Bayes Factors", JASA 1995
_LEAST_SEPARATION = 2.0  # Ashman et al. 1994
_STANDARD_ERRORS = 3.0  # by which the dip between two peaks must be real


@dataclass(frozen=True)
class _Mixture:
    """Two normal distributions, that of the smaller mean first."""

    weights: np.ndarray
    means: np.ndarray
    deviations: np.ndarray

    def log_densities(self, values: np.ndarray) -> np.ndarray:
        """Return the logarithms of weight times density, of shape `(2, n_values)`."""
        distances = (values - self.means[:, None]) / self.deviations[:, None]
        return np.log(self.weights / self.deviations)[:, None] - (distances**2 + math.log(2 * math.pi)) / 2

    def likelihood(self, values: np.ndarray) -> float:
        """Return the logarithm of the likelihood."""
        return float(np.logaddexp(*self.log_densities(values)).sum())

    def bounds(self) -> tuple[float, float] | None:
        """Return where it is least dense between its means and where the second begins to prevail, if it does."""
        grid = np.linspace(*self.means, 1001)
        easier, harder = self.log_densities(grid)
        prevails = harder > easier
        if prevails[0] or not prevails[-1]:
            return None
        return grid[np.argmin(np.logaddexp(easier, harder))], grid[np.argmax(prevails)]


def threshold_between_peaks(hardness: np.ndarray, column: str | None) -> float:
    """
    Find where the harder of two peaks begins, by a mixture of two normal distributions.

    Args:
        hardness (`np.ndarray` of shape `(rows,)`):
            Scores, turned so that harder is higher.
        column (`str`, *optional*):
            Name of their column, for the message.

    Returns:
        `float`: Hardness above which rows belong to the harder peak.

    Raises:
        ValueError: If there are not two clear peaks, or if the harder one holds more than half of the rows.
    """
    values = _quantiles(hardness)
    if not len(values) or values[0] == values[-1]:
        raise _no_two_peaks(column, "it has too few different values")
    middle, scale = values.mean(), values.std()
    values = (values - middle) / scale
    fits = sorted((_fit(values, start) for start in _STARTS), key=lambda fit: -fit.likelihood(values))
    faults = [_fault(fit, values) for fit in fits]
    if None not in faults:
        raise _no_two_peaks(column, faults[0])
    _, threshold = fits[faults.index(None)].bounds()
    return float(middle + scale * threshold)


def _no_two_peaks(column: str | None, fault: str) -> ValueError:
    return ValueError(
        f"cut='auto' needs a score with two clear peaks, but {column} has not: {fault}. "
        "Pass a share of the rows, such as cut=0.1."
    )


def _quantiles(values: np.ndarray) -> np.ndarray:
    """Sorted values without the outliers at both ends, of many values as many quantiles as are looked at."""
    values = np.sort(values[np.isfinite(values)])
    n_outliers = math.ceil(len(values) * _OUTLIERS)  # one of few values can draw a component to itself, too
    values = values[n_outliers : len(values) - n_outliers]
    if len(values) <= _MOST_VALUES:
        return values
    return values[np.linspace(0, len(values) - 1, _MOST_VALUES).round().astype(np.int64)]


def _fit(values: np.ndarray, start: float) -> _Mixture:
    """Mixture of two normal distributions by expectation maximisation; at first a share `start` is the harder one."""
    harder = (np.arange(len(values)) >= len(values) * (1 - start)).astype(np.float64)
    likelihood = -math.inf
    for _ in range(_MOST_STEPS):
        harder = np.clip(harder, _LEAST_PART, 1 - _LEAST_PART)
        parts = np.stack([1 - harder, harder])
        totals = parts.sum(axis=1)
        means = parts @ values / totals
        variances = (parts * (values - means[:, None]) ** 2).sum(axis=1) / totals
        fit = _Mixture(totals / len(values), means, np.sqrt(np.maximum(variances, _LEAST_VARIANCE)))
        logs = fit.log_densities(values)
        both = np.logaddexp(*logs)
        if both.sum() - likelihood < 1e-8 * len(values):
            break
        harder, likelihood = np.exp(logs[1] - both), both.sum()
    by_mean = np.argsort(fit.means)
    return _Mixture(fit.weights[by_mean], fit.means[by_mean], fit.deviations[by_mean])


def _fault(fit: _Mixture, values: np.ndarray) -> str | None:
    """Why a mixture is no proof of two peaks in standardised values; `None` if it is."""
    # Five parameters against the two of a single normal distribution, which is the standard one.
    single = -len(values) * (math.log(2 * math.pi) + 1) / 2
    gain = 2 * (fit.likelihood(values) - single) - 3 * math.log(len(values))
    if gain <= _LEAST_BIC_GAIN:
        return f"one normal distribution fits as well (BIC differs by {gain:.1f}, needed is {_LEAST_BIC_GAIN:g})"
    separation = math.sqrt(2) * (fit.means[1] - fit.means[0]) / math.hypot(*fit.deviations)
    if separation <= _LEAST_SEPARATION:
        return f"its two parts overlap (Ashman's D is {separation:.2f}, needed is {_LEAST_SEPARATION:g})"
    if not _has_dip(fit, values):
        return "there are not clearly fewer rows between its two parts than in each"
    if fit.weights[1] > 0.5:
        return f"the harder peak holds {fit.weights[1]:.0%} of the rows, which are no exceptions"
    return None


def _has_dip(fit: _Mixture, values: np.ndarray) -> bool:
    """Whether fewer values lie between the means than at either, in intervals of the same width, not by chance."""
    bounds = fit.bounds()
    if bounds is None:
        return False
    easier, between, harder = fit.means[0], bounds[0], fit.means[1]
    half = min(between - easier, harder - between) / 3  # apart, but wide enough to hold rows
    at_easier, n_between, at_harder = (
        np.count_nonzero(np.abs(values - at) < half) for at in (easier, between, harder)
    )
    n_at = min(at_easier, at_harder)
    # The difference of two counts has the variance of their sum.
    return n_at - n_between > _STANDARD_ERRORS * math.sqrt(n_at + n_between)
