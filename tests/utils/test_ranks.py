"""Rank correlation against that of SciPy, and its interval against the formula for many rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from hf_dlc.utils.ranks import average_ranks, spearman, spearman_interval


@pytest.mark.parametrize("distinct", [1, 4, 1000])
def test_ranks_are_those_of_scipy(distinct: int) -> None:
    values = np.random.default_rng(distinct).integers(0, distinct, 50).astype(np.float64)
    assert average_ranks(values).tolist() == stats.rankdata(values).tolist()


@pytest.mark.parametrize("distinct", [3, 1000])
def test_spearman_is_that_of_scipy(distinct: int) -> None:
    rng = np.random.default_rng(distinct)
    left = rng.integers(0, distinct, 80).astype(np.float64)
    right = left + rng.integers(0, distinct, 80)
    assert spearman(left, right) == pytest.approx(stats.spearmanr(left, right).statistic, abs=1e-12)
    left[:5], right[3:9] = np.nan, np.nan
    expected = stats.spearmanr(left, right, nan_policy="omit").statistic
    assert spearman(left, right) == pytest.approx(expected, abs=1e-12)


def test_spearman_sees_ranks_only() -> None:
    values = np.array([0.1, 5.0, 3.0, 4.0])
    assert spearman(values, np.exp(values)) == pytest.approx(1.0)
    assert spearman(values, -values) == pytest.approx(-1.0)


@pytest.mark.parametrize("left", [[1.0, 1.0, 1.0], [np.nan, np.nan, 1.0], [np.nan] * 3])
def test_spearman_of_what_never_varies(left: list[float]) -> None:
    assert math.isnan(spearman(np.array(left), np.array([1.0, 2.0, 3.0])))


def test_interval_is_as_wide_as_the_formula_says() -> None:
    """Of normal columns with r = 0.8, the standard error of atanh(rho) is about 1.06 / sqrt(rows - 3)."""
    rng = np.random.default_rng(0)
    left = rng.normal(size=400)
    right = 0.8 * left + 0.6 * rng.normal(size=400)
    low, high = spearman_interval(left, right)
    rho = spearman(left, right)
    assert low < rho < high
    expected = np.tanh(np.arctanh(rho) + np.array([-1, 1]) * 1.96 * 1.06 / math.sqrt(397))
    assert [low, high] == pytest.approx(expected.tolist(), abs=0.015)


def test_interval_is_that_of_its_seed() -> None:
    left, right = np.random.default_rng(1).normal(size=(2, 30))
    assert spearman_interval(left, right, seed=3) == spearman_interval(left, right, seed=3)
    assert spearman_interval(left, right, seed=3) != spearman_interval(left, right, seed=4)


def test_interval_of_rows_without_both_values() -> None:
    left, right = np.random.default_rng(1).normal(size=(2, 30))
    broken = np.append(left, np.nan), np.append(right, 1.0)
    assert spearman_interval(*broken) == spearman_interval(left, right)


@pytest.mark.parametrize("left", [[], [1.0], [2.0, 2.0, 2.0]])
def test_interval_of_what_never_varies(left: list[float]) -> None:
    assert all(map(math.isnan, spearman_interval(np.array(left), np.arange(len(left)))))
