"""Rank correlation and bootstrap, against what SciPy and theory say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hf_dlc.report.statistics import auroc, auroc_along
from hf_dlc.utils.ranks import bootstrap_interval, spearman, spearman_along


def test_spearman_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        left, right = rng.integers(0, 9, 40).astype(float), rng.normal(size=40)  # with ties
        assert spearman(left, right) == pytest.approx(stats.spearmanr(left, right).statistic, abs=1e-12)


def test_order_alone_counts() -> None:
    numbers = np.array([0.1, 0.5, 0.3, 0.9])
    assert spearman(numbers, np.exp(numbers)) == 1.0
    assert spearman(numbers, -numbers) == -1.0


def test_rows_without_both_are_left_out() -> None:
    assert spearman(np.array([1.0, 2.0, np.nan, 3.0]), np.array([1.0, 2.0, 0.0, 3.0])) == 1.0


@pytest.mark.parametrize("left", [[], [np.nan, np.nan], [1.0, 1.0], [1.0, np.nan]])
def test_what_cannot_be_known(left: list[float]) -> None:
    assert np.isnan(spearman(np.array(left), np.arange(float(len(left)))))


def test_the_interval_is_drawn_with_a_seed() -> None:
    rng = np.random.default_rng(0)
    left = rng.normal(size=60)
    right = left + rng.normal(size=60)
    low, high = bootstrap_interval(spearman_along, left, right)
    assert low < spearman(left, right) < high
    assert (low, high) == bootstrap_interval(spearman_along, left, right)
    assert (low, high) != bootstrap_interval(spearman_along, left, right, seed=1)


def test_the_interval_of_a_mean_is_that_of_theory() -> None:
    numbers = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap_interval(np.mean, numbers, resamples=4000)
    error = numbers.std() / 20
    assert (low, high) == pytest.approx(
        (numbers.mean() - 1.96 * error, numbers.mean() + 1.96 * error), abs=0.12 * error
    )


def test_an_interval_of_nothing() -> None:
    assert np.isnan(bootstrap_interval(spearman_along, np.array([]), np.array([]))).all()
    assert np.isnan(bootstrap_interval(spearman_along, np.ones(5), np.ones(5), resamples=20)).all()


def test_kinds_of_rows_are_drawn_apart() -> None:
    """As when their rows are drawn by hand, one kind after the other."""
    rng = np.random.default_rng(0)
    flagged, others = rng.normal(1, size=30), rng.normal(size=90)
    found = bootstrap_interval(auroc_along, flagged, others, paired=False, resamples=4000)
    flags = np.repeat([True, False], [30, 90])
    by_hand = [auroc(np.concatenate([rng.choice(flagged, 30), rng.choice(others, 90)]), flags) for _ in range(2000)]
    assert found == pytest.approx(tuple(np.quantile(by_hand, [0.025, 0.975])), abs=0.01)
    assert np.isnan(bootstrap_interval(auroc_along, flagged[:1], others, paired=False)).all()
