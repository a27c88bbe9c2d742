"""Statistics of a study: paired differences from random rows, corrected for their number, and what they could see."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from .arms import ORACLE
from .results import StudyResults


ALPHA = 0.05
DIFFERENCE, POWER = 1.0, 0.8  # percent or points that a study should be able to see, and how surely
MOST_SEEDS = 100


class Comparison(NamedTuple):
    """
    An arm against random rows, seed by seed.

    A loss is compared in percent of the mean loss of random rows, an accuracy in points.
    """

    arm: str
    matching: str | None  # None: a mean over all
    budget: float | None  # None: a mean over all
    metric: str
    difference: float  # from random
    low: float  # of the 95% confidence interval
    high: float
    p: float  # of a paired t-test, corrected for the number of comparisons by the same metric
    seeds: int

    @property
    def unit(self) -> str:
        """Unit of the difference."""
        return "%" if is_loss(self.metric) else " points"

    @property
    def is_better(self) -> bool:
        """Whether the arm is better than random rows, told from chance."""
        return self.p < ALPHA and (self.difference < 0) == is_loss(self.metric)

    def numbers(self) -> str:
        """Difference, interval, seeds and p-value."""
        chance = f"= {self.p:.3f}" if self.p >= 0.0005 else "< 0.001"
        return f"Δ = {self.interval()}, n = {self.seeds}, p {chance}"

    def interval(self) -> str:
        """Difference with its interval, if there is one: that of one seed has no bounds."""
        shown = f"{self.difference:+.2f}{self.unit}"
        return f"{shown}, 95% CI {self.low:+.2f} to {self.high:+.2f}" if np.isfinite(self.low) else shown

    def short(self, digits: int = 2) -> str:
        """The same for a table, where the head of the column says what stands in brackets."""
        shown = f"{self.difference:+.{digits}f}{self.unit}"
        return f"{shown} ({self.low:+.{digits}f} to {self.high:+.{digits}f})" if np.isfinite(self.low) else shown

    def verdict(self) -> str:
        """One sentence in plain words."""
        word = "better than" if self.is_better else "worse than" if self.p < ALPHA else "not distinguishable from"
        where = "over all budgets" if self.budget is None else f"at keep {self.budget:g} with equal {self.matching}"
        return f"{self.arm} is {word} random {where} ({self.numbers()})."

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; the infinite bounds of an interval of one seed are null."""
        found = {
            name: None if isinstance(value, float) and not np.isfinite(value) else value
            for name, value in self._asdict().items()
        }
        return {**found, "unit": self.unit.strip()}


def is_loss(metric: str) -> bool:
    """Whether less is better; all that is no loss is an accuracy."""
    return metric.startswith("loss")


def in_words(metric: str) -> str:
    """Name of a metric within a sentence: `"loss per token"`, or `"accuracy of choices"`."""
    return metric if is_loss(metric) else f"accuracy of {metric}"


def candidates(results: StudyResults) -> list[str]:
    """Finalists that a user could take: all but the oracle, which knows what nobody knows."""
    return [arm for arm in results.finalists if arm != ORACLE]


def compare(results: StudyResults, metric: str) -> list[Comparison]:
    """Compare the finalists with random rows at each budget."""
    return _corrected(
        Comparison(arm, *subset, metric, *paired(found), len(found))
        for subset in subsets(results)
        for arm in candidates(results)
        for found in [differences(results, arm, *subset, metric)]
    )


def compare_overall(results: StudyResults, metric: str) -> list[Comparison]:
    """Compare by the mean over budgets and matchings of each seed: fewer and surer answers."""
    return _corrected(overall(results, arm, metric) for arm in candidates(results))


def overall(results: StudyResults, arm: str, metric: str) -> Comparison:
    """One arm against random rows over all budgets and matchings, not corrected for any other comparison."""
    found = np.mean([differences(results, arm, *subset, metric) for subset in subsets(results)], axis=0)
    return Comparison(arm, None, None, metric, *paired(found), len(found))


def opposites(results: StudyResults, arm: str) -> list[Comparison]:
    """Where other metrics than the first call an arm worse: short rows may gain at the cost of long ones."""
    found = [one for metric in results.metrics[1:] for one in compare_overall(results, metric) if one.arm == arm]
    return [one for one in found if one.p < ALPHA and not one.is_better]


def subsets(results: StudyResults) -> list[tuple[str, float]]:
    """Matchings and budgets of the study."""
    return [(matching, budget) for matching in results.matchings for budget in results.options.budgets]


def differences(results: StudyResults, arm: str, matching: str, budget: float, metric: str) -> np.ndarray:
    """An arm less random rows, seed by seed, in percent of the loss of these or in points of accuracy."""
    random = results.values("random", matching, budget, metric)
    return _in_units(results.values(arm, matching, budget, metric) - random, random, metric)


def from_full(results: StudyResults, arm: str, matching: str, budget: float, metric: str) -> Comparison:
    """An arm against all rows, trained on once; not corrected for any other comparison."""
    full = results.full(metric)
    found = _in_units(results.values(arm, matching, budget, metric) - full, full, metric)
    return Comparison(arm, matching, budget, metric, *paired(found), len(found))


def _in_units(found: np.ndarray, base: np.ndarray, metric: str) -> np.ndarray:
    return 100 * found / base.mean() if is_loss(metric) else 100 * found


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
    seeds = comparison.seeds
    error = (comparison.high - comparison.low) / 2 / stats.t.ppf(1 - ALPHA / 2, seeds - 1)
    return power_of(seeds, error * seeds**0.5, count)


def power_of(seeds: int, spread: float, count: int) -> float:
    """The same from the standard deviation of the differences of single seeds."""
    freedom = seeds - 1
    needed = stats.t.ppf(1 - ALPHA / 2 / count, freedom)
    return float(stats.nct.sf(needed, freedom, DIFFERENCE / max(spread, 1e-9) * seeds**0.5))


def seeds_for(spread: float, count: int) -> int:
    """Seeds with which a true difference of `DIFFERENCE` is seen surely enough; at least 2, and at most 100."""
    enough = (seeds for seeds in range(2, MOST_SEEDS) if power_of(seeds, spread, count) >= POWER)
    return next(enough, MOST_SEEDS)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error, which is NaN of a single value."""
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return float(np.mean(values)), float(error)


def as_good_as_full(results: StudyResults, arm: str) -> tuple[str, float] | None:
    """
    The smallest budget at which an arm is not worse than all rows, as far as its seeds tell.

    It is not worse where the interval of the difference does not lie above 0 and ends within `DIFFERENCE` of it: an
    interval that is wide is no evidence.

    Returns:
        `tuple[str, float]`: Matching and budget; of equal budgets, equal rows come first. `None` if there is none, or
        if subsets have equally many tokens alone.
    """
    by_rows = [subset for subset in subsets(results) if subset[0] != "tokens"]
    for matching, budget in sorted(by_rows, key=lambda subset: (subset[1], subset[0])):
        found = from_full(results, arm, matching, budget, "loss per row")
        if found.low <= 0 and found.high < DIFFERENCE:
            return matching, budget
    return None
