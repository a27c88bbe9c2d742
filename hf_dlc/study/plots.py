"""Plots of studies, for which matplotlib must be installed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .arms import METRICS, parse_arm
from .statistics import differences, paired


if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .results import StudyResults


# One colour a kind of arm: by what it goes.
_COLOURS = {
    "wanted rows": "tab:blue",
    "a score": "tab:orange",
    "features, groups or duplicates": "tab:green",
    "other": "grey",
}


def draw_differences(results: StudyResults, path: Path) -> None:
    """
    Draw the differences from random rows as a forest: a line an arm and budget, a panel for each matching.

    A full dot is told from random rows by its own interval; of an open one, the interval holds 0.
    """
    from matplotlib.figure import Figure  # no window is opened, and no global state is touched

    arms, budgets = results.finalists, results.options.budgets
    height = 1.6 + 0.28 * len(arms) * len(budgets)
    figure = Figure(figsize=(2.2 + 3.2 * len(results.matchings), height), layout="constrained")
    panels = figure.subplots(1, len(results.matchings), sharex=True, sharey=True, squeeze=False)[0]
    for axes, matching in zip(panels, results.matchings, strict=True):
        _draw_forest(axes, results, matching)
        axes.set_title(f"equal {matching}", fontsize=10)
    labels = [f"{arm}, keep {budget:g}" for arm in arms for budget in budgets]
    panels[0].set_yticks(range(len(labels)), labels, fontsize=8)
    panels[0].invert_yaxis()
    kinds = dict.fromkeys(map(kind_of_arm, arms))
    handles = [panels[0].plot([], [], "o", color=_COLOURS[kind], label=kind)[0] for kind in kinds]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(kinds), frameon=False, fontsize=9)
    figure.supxlabel(f"{METRICS[0]}, difference from random rows in %: left is better", fontsize=9)
    figure.savefig(path, dpi=150)


def _draw_forest(axes: Axes, results: StudyResults, matching: str) -> None:
    """Differences with their intervals, hollow where an interval holds 0."""
    axes.axvline(0, color="grey", linestyle="--", linewidth=1)
    place = 0
    for arm in results.finalists:
        for budget in results.options.budgets:
            mean, low, high, _ = paired(differences(results, arm, matching, budget, METRICS[0]))
            is_told = np.isfinite(low) and not low <= 0 <= high
            error = [[mean - low], [high - mean]] if np.isfinite(low) else None
            axes.errorbar(
                mean,
                place,
                xerr=error,
                fmt="o",
                markersize=5,
                capsize=2,
                color=_COLOURS[kind_of_arm(arm)],
                markerfacecolor=None if is_told else "white",
            )
            place += 1
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)


def kind_of_arm(name: str) -> str:
    """Kind of an arm, by what it goes: each kind has a colour of its own."""
    needs = parse_arm(name).needs
    if "target" in needs:
        return "wanted rows"
    if any(need.startswith("score") for need in needs):
        return "a score"
    return "features, groups or duplicates" if needs and needs != {"flags"} else "other"


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
