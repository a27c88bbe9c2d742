"""Statistics of a study: paired differences from random rows, corrected for their number, and what they could see."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from .results import StudyResults


ALPHA = 0.05
DIFFERENCE, POWER = 0.01, 0.8  # what a study should be able to see, and how surely


class Comparison(NamedTuple):
    """An arm against random rows, seed by seed."""

    arm: str
    matching: str | None  # None: a mean over all
    budget: float | None  # None: a mean over all
    metric: str
    difference: float  # from random
    low: float  # of the 95% confidence interval
    high: float
    p: float  # of a paired t-test, corrected for the number of comparisons by the same metric
    seeds: int

    def verdict(self) -> str:
        """One sentence in plain words."""
        numbers = f"Δ = {self.difference:+.4f}, 95% CI {self.low:+.4f} to {self.high:+.4f}, n = {self.seeds}"
        word = "not distinguishable from"
        if self.p < ALPHA:
            word = "better than" if (self.difference < 0) == self.metric.startswith("loss") else "worse than"
        where = "over all budgets" if self.budget is None else f"at keep {self.budget:g} of the {self.matching}"
        return f"{self.arm} is {word} random {where} ({numbers}, p = {self.p:.3f})."

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; the infinite bounds of an interval of one seed are null."""
        return {
            name: None if isinstance(value, float) and not np.isfinite(value) else value
            for name, value in self._asdict().items()
        }


def compare(results: StudyResults, metric: str) -> list[Comparison]:
    """Compare all finalists with random rows at each budget."""
    return _corrected(
        Comparison(arm, matching, budget, metric, *paired(found), len(found))
        for matching in results.matchings
        for budget in results.options.budgets
        for arm in results.finalists
        for found in [_differences(results, arm, matching, budget, metric)]
    )


def compare_overall(results: StudyResults, metric: str) -> list[Comparison]:
    """Compare by the mean over budgets and matchings of each seed: fewer and surer answers."""
    subsets = [(matching, budget) for matching in results.matchings for budget in results.options.budgets]
    return _corrected(
        Comparison(arm, None, None, metric, *paired(found), len(found))
        for arm in results.finalists
        for found in [np.mean([_differences(results, arm, *subset, metric) for subset in subsets], axis=0)]
    )


def _differences(results: StudyResults, arm: str, matching: str, budget: float, metric: str) -> np.ndarray:
    """An arm less random rows, seed by seed."""
    return results.values(arm, matching, budget, metric) - results.values("random", matching, budget, metric)


def _corrected(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """The comparisons with p-values that are corrected for their number."""
    found = list(comparisons)
    values = holm([comparison.p for comparison in found])
    return [comparison._replace(p=p) for comparison, p in zip(found, values, strict=True)]


def paired(differences: np.ndarray) -> tuple[float, float, float, float]:
    """Mean of paired differences, its 95% confidence interval, and the p-value of a t-test that it is 0."""
    mean = float(differences.mean())
    if np.ptp(differences) == 0:  # a single seed, or subsets that are the same: nothing can be said of the spread
        return mean, -np.inf, np.inf, 1.0
    test = stats.ttest_1samp(differences, 0.0)
    low, high = test.confidence_interval(0.95)
    return mean, float(low), float(high), float(test.pvalue)


def holm(values: Sequence[float]) -> list[float]:
    """Correct p-values for their number: Holm, "A simple sequentially rejective multiple test procedure", 1979."""
    order, corrected, largest = np.argsort(values), [0.0] * len(values), 0.0
    for rank, place in enumerate(order.tolist()):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = largest
    return corrected


def power(comparison: Comparison, count: int) -> float:
    """Probability that the t-test sees a true difference of `DIFFERENCE`, as the first of `count` in Holm's order."""
    freedom = comparison.seeds - 1
    error = (comparison.high - comparison.low) / 2 / stats.t.ppf(1 - ALPHA / 2, freedom)
    return float(stats.nct.sf(stats.t.ppf(1 - ALPHA / 2 / count, freedom), freedom, DIFFERENCE / error))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error, which is NaN of a single value."""
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return float(np.mean(values)), float(error)
