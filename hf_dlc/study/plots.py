"""Plots of studies, for which matplotlib must be installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .arms import METRICS


if TYPE_CHECKING:
    from .results import StudyResults
    from .statistics import Comparison


def draw_differences(results: StudyResults, comparisons: Sequence[Comparison], path: Path) -> None:
    """Draw the differences from random rows with their confidence intervals, a panel for each matching."""
    from matplotlib.figure import Figure  # no window is opened, and no global state is touched

    figure = Figure(figsize=(5 * len(results.matchings), 4), layout="constrained")
    panels = figure.subplots(1, len(results.matchings), sharey=True, squeeze=False)[0]
    budgets = results.options.budgets
    for axes, matching in zip(panels, results.matchings, strict=True):
        axes.axhline(0, color="grey", linestyle="--")
        for number, arm in enumerate(results.finalists):
            found = [one for one in comparisons if (one.arm, one.matching) == (arm, matching)]
            places = np.arange(len(found)) + 0.15 * (number - (len(results.finalists) - 1) / 2)
            middle = np.array([one.difference for one in found])
            spread = np.array([(one.difference - one.low, one.high - one.difference) for one in found]).T
            spread = np.where(np.isfinite(spread), spread, np.nan)
            axes.errorbar(places, middle, yerr=spread, fmt="o", capsize=3, label=arm)
        axes.set_xticks(range(len(budgets)), [f"keep {budget:g}" for budget in budgets])
        axes.set_title(f"equally many {matching}")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"held-out {METRICS[0]}, less that of random rows")
    names = panels[0].get_legend_handles_labels()
    figure.legend(*names, loc="outside lower center", ncols=len(results.finalists), frameon=False)
    figure.savefig(path, dpi=150)


def draw_accuracies(found: dict[tuple[str, float], tuple[float, float, int]], path: Path) -> None:
    """Draw accuracy against the keep fraction, a line for each arm, the full data as a level."""
    from matplotlib.figure import Figure  # no window is opened, and no global state is touched

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for arm in dict.fromkeys(arm for arm, _ in found):
        points = sorted((keep, *found[arm, keep][:2]) for other, keep in found if other == arm)
        keeps, means, errors = zip(*points, strict=True)
        if arm == "full":
            axes.axhline(means[0], color="grey", linestyle="--", label="full data")
        else:
            axes.errorbar(keeps, means, yerr=np.nan_to_num(errors), marker="o", capsize=3, label=arm)
    axes.set_xlabel("keep fraction")
    axes.set_ylabel("accuracy on held-out images")
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
