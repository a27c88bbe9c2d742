"""Statistics of a study: percent and points, corrections, and what a study of this spread would have seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from hf_dlc.study.arms import METRICS, Cell
from hf_dlc.study.results import StudyResults
from hf_dlc.study.statistics import (
    Comparison,
    as_good_as_full,
    candidates,
    compare,
    compare_overall,
    differences,
    from_full,
    holm,
    mean_and_error,
    overall,
    paired,
    power,
    power_of,
    seeds_for,
)
from tests.study.findings import results_of


ARMS = {"loss easiest": 3.0, "ifd cut 0.3": -2.0, "longest": 0.0, "oracle": -5.0}


def with_losses(results: StudyResults, losses: dict[tuple[str, float], list[float]]) -> StudyResults:
    """Findings with other losses a row of some arms and budgets, seed by seed, for all matchings."""
    confirming = {
        cell: {**found, "loss per row": losses[cell.arm, cell.budget][results.seeds.index(cell.seed)]}
        if (cell.arm, cell.budget) in losses
        else found
        for cell, found in results.confirming.items()
    }
    return replace(results, confirming=confirming)


def test_losses_are_compared_in_percent_and_accuracies_in_points() -> None:
    results = results_of({"longest": 0.0}, seeds=3)
    losses = {("random", 0.2): [2.0, 4.0, 3.0], ("longest", 0.2): [1.7, 4.3, 3.3]}
    results = with_losses(results, losses)
    found = differences(results, "longest", "rows", 0.2, "loss per row")
    assert found == pytest.approx([-10.0, 10.0, 10.0])  # of their mean, 3
    accuracies = [results.values(arm, "rows", 0.2, "choices") for arm in ("longest", "random")]
    found = differences(results, "longest", "rows", 0.2, "choices")
    assert found == pytest.approx(100 * (accuracies[0] - accuracies[1]))
    one = compare(results, "loss per row")[0]
    assert (one.arm, one.matching, one.budget, one.unit, one.seeds) == ("longest", "rows", 0.2, "%", 3)
    assert one.difference == pytest.approx(10 / 3)
    assert compare(results, "choices")[0].unit == " points"


def test_each_budget_and_all_together() -> None:
    results = results_of(ARMS)
    assert candidates(results) == ["loss easiest", "ifd cut 0.3", "longest"]  # nobody could take the oracle
    found = compare(results, METRICS[0])
    subsets = [("rows", 0.2), ("rows", 0.4), ("tokens", 0.2), ("tokens", 0.4)]
    assert [(one.arm, one.matching, one.budget) for one in found] == [
        (arm, *subset) for subset in subsets for arm in candidates(results)
    ]
    raw = [
        stats.ttest_rel(*(results.values(arm, *subset, METRICS[0]) for arm in (name, "random"))).pvalue
        for subset in subsets
        for name in candidates(results)
    ]
    assert [one.p for one in found] == pytest.approx(holm(raw))
    by_arm = {one.arm: one for one in compare_overall(results, METRICS[0])}
    assert list(by_arm) == candidates(results)
    for arm, one in by_arm.items():
        assert one.difference == pytest.approx(np.mean([each.difference for each in found if each.arm == arm]))
        assert (one.matching, one.budget) == (None, None)
    assert {arm: one.is_better for arm, one in by_arm.items()} == {
        "loss easiest": False,
        "ifd cut 0.3": True,
        "longest": False,
    }
    assert overall(results, "oracle", METRICS[0]).difference == pytest.approx(-5, abs=0.3)


@pytest.mark.parametrize("metric", ["loss per row", "loss per token", "choices"])
def test_verdicts_of_comparisons(metric: str) -> None:
    """Of a loss less is better, of an accuracy more."""
    results = results_of(ARMS)
    texts = {one.arm: one.verdict() for one in compare_overall(results, metric)}
    unit = " points" if metric == "choices" else "%"
    assert "loss easiest is worse than random over all budgets (Δ = " in texts["loss easiest"]
    assert "ifd cut 0.3 is better than random over all budgets (Δ = " in texts["ifd cut 0.3"]
    assert "longest is not distinguishable from random" in texts["longest"]
    assert f"{unit}, 95% CI " in texts["longest"]
    one = next(one for one in compare(results, metric) if one.arm == "ifd cut 0.3" and one.matching == "tokens")
    assert "ifd cut 0.3 is better than random at keep 0.2 with equal tokens" in one.verdict()
    assert ", n = 6, p < 0.001)." in one.verdict() or ", n = 6, p = 0.0" in one.verdict()


def test_one_seed_tells_nothing() -> None:
    found = compare_overall(results_of({"loss easiest": -50.0}, seeds=1), METRICS[0])[0]
    assert (found.p, found.low, found.high, found.seeds) == (1.0, -np.inf, np.inf, 1)
    assert not found.is_better
    assert found.difference == pytest.approx(-50, abs=3)
    record = found.to_json()
    assert record["low"] is record["high"] is record["budget"] is None
    assert record["unit"] == "%"
    for text in (found.interval(), found.short(), found.verdict()):
        assert f"{found.difference:+.2f}%" in text
        assert "inf" not in text


def test_paired_comparison_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(0, 1, 6), rng.normal(0.2, 1, 6)
    mean, low, high, p = paired(left - right)
    expected = stats.ttest_rel(left, right)
    assert mean == pytest.approx((left - right).mean())
    assert p == pytest.approx(expected.pvalue)
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval()))
    assert paired(np.full(4, 0.1))[3] == 1.0  # nothing is known of the spread


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def simulated_power(seeds: int, spread: float, count: int) -> float:
    """The share of studies that see a difference of 1, of many whose differences have this spread."""
    drawn = np.random.default_rng(0).normal(1.0, spread, (20_000, seeds))
    return float(np.mean(stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05 / count))


@pytest.mark.parametrize(("seeds", "spread", "count"), [(5, 0.6, 3), (5, 0.3, 1), (10, 1.0, 6), (2, 0.1, 1)])
def test_power_is_the_share_of_studies_that_see_a_difference(seeds: int, spread: float, count: int) -> None:
    assert power_of(seeds, spread, count) == pytest.approx(simulated_power(seeds, spread, count), abs=0.02)
    half = stats.t.ppf(0.975, seeds - 1) * spread / seeds**0.5
    one = Comparison("a", "rows", 0.3, "loss per row", 0.0, -half, half, 1.0, seeds)
    assert power(one, count) == pytest.approx(power_of(seeds, spread, count))
    assert power(one._replace(low=-np.inf, high=np.inf), count) == pytest.approx(0.025 / count)


@pytest.mark.parametrize(("spread", "count"), [(0.5, 1), (0.5, 5), (1.5, 3)])
def test_so_many_seeds_are_enough_and_one_less_is_not(spread: float, count: int) -> None:
    seeds = seeds_for(spread, count)
    assert simulated_power(seeds, spread, count) > 0.78
    assert simulated_power(seeds - 1, spread, count) < 0.82
    assert power_of(seeds, spread, count) >= 0.8 > power_of(seeds - 1, spread, count)


def test_fewest_and_most_seeds() -> None:
    assert seeds_for(0.0, 3) == 2
    assert seeds_for(1000.0, 3) == 100


def test_mean_and_its_error() -> None:
    assert mean_and_error([1.0, 2.0, 3.0]) == pytest.approx((2.0, 1 / 3**0.5))
    assert np.isnan(mean_and_error([1.0])[1])


def test_arms_beside_all_rows() -> None:
    results = results_of(ARMS, full=-4.0)
    found = from_full(results, "ifd cut 0.3", "rows", 0.4, METRICS[0])
    full = results.full(METRICS[0])
    expected = 100 * (results.values("ifd cut 0.3", "rows", 0.4, METRICS[0]) - full) / full.mean()
    assert (found.difference, found.low, found.high, found.p) == pytest.approx(paired(expected))
    assert found.difference == pytest.approx(100 * (98 / 96 - 1), abs=0.5)


@pytest.mark.parametrize(
    ("at_small", "at_large", "expected"),
    [
        ([0.0, 0.1, -0.1], [0.0, 0.1, -0.1], ("rows", 0.2)),
        ([-3.0, -3.1, -2.9], [5.0, 5.1, 4.9], ("rows", 0.2)),  # better
        ([2.0, 2.1, 1.9], [0.0, 0.1, -0.1], ("rows", 0.4)),
        ([0.5, 0.51, 0.49], [5.0, 5.1, 4.9], None),  # a little worse, and that is told from chance
        ([-4.0, 0.0, 4.0], [-5.0, 1.0, 4.0], None),  # a wide interval is no evidence
    ],
)
def test_smallest_budget_that_is_as_good_as_all_rows(
    at_small: list[float], at_large: list[float], expected: tuple[str, float] | None
) -> None:
    results = results_of({"longest": 0.0}, seeds=3, matchings="tokens,updates,rows")
    losses = {("full", 1.0): [2.0] * 3}
    losses |= {("longest", 0.2): [2 * (1 + one / 100) for one in at_small]}
    losses |= {("longest", 0.4): [2 * (1 + one / 100) for one in at_large]}
    found = as_good_as_full(with_losses(results, losses), "longest")
    assert found == expected  # equal rows before equal updates, in whatever order they are named
    results = replace(results, options=replace(results.options, matchings="updates,tokens"))
    assert as_good_as_full(with_losses(results, losses), "longest") == (expected and ("updates", expected[1]))
    results = replace(results, options=replace(results.options, matchings="rows,tokens"))
    assert as_good_as_full(with_losses(results, losses), "longest") == expected


def test_tokens_do_not_count_against_all_rows() -> None:
    """Of equally many tokens there may be any number of rows."""
    results = results_of({"longest": 0.0}, seeds=3, matchings="tokens", full=0.0)
    assert as_good_as_full(results, "longest") is None
    assert Cell("longest", "tokens", 0.2, 2) in results.confirming
