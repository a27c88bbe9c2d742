"""The plots of a report, as panels of one figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from datasets import Dataset
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from hf_dlc.scores.table import SCORES

from .tables import group_counts


_KEPT, _DROPPED, _LINE = "#2f6db5", "#b4bcc8", "#c2410c"
_WIDE, _NARROW = "#dbe6f3", "#a5c1e1"
_MOST_BINS = 30
_FEW_POINTS, _MOST_POINTS = 1_000, 4_000
_MOST_GROUPS = 12
_PANEL = (5.4, 3.7)  # inches


class _Drawn(NamedTuple):
    """Values that the panels show, of the rows that have a score."""

    score: np.ndarray
    name: str
    is_kept: np.ndarray
    tokens: np.ndarray
    levels: dict[str, np.ndarray]  # of each measure that is known, (rows, levels)
    fractions: np.ndarray | None
    groups: pd.DataFrame | None  # of all rows, with a score or not


def plot_report(
    scored: Dataset,
    kept: np.ndarray,
    column: str,
    column_prefix: str,
    schedule: Sequence[float] | None = None,
    group_by: str | None = None,
) -> Figure:
    """
    Draw scored rows and what was kept of them.

    Args:
        scored ([`~datasets.Dataset`]):
            The rows with their scores.
        kept (`np.ndarray`):
            Indices of the kept rows.
        column (`str`):
            Column by which rows were selected.
        column_prefix (`str`):
            What the names of the score columns begin with.
        schedule (`Sequence[float]`, *optional*):
            Masked fraction of each level.
        group_by (`str`, *optional*):
            Column within whose groups rows were selected.

    Returns:
        `matplotlib.figure.Figure`: A panel for each thing that the dataset has columns for.
    """
    rows = _read(scored, kept, column, column_prefix, schedule, group_by)
    panels: list[Callable[[Axes, _Drawn], None]] = [_histogram]
    paths = [measure for measure, values in rows.levels.items() if _are_measured(values).sum() > 1]
    panels += [partial(_path, measure=measure) for measure in paths]
    if rows.tokens.size and rows.tokens.max() > 1:
        panels.append(_against_length)
    if "loss" in rows.levels:
        plain = {"x": rows.levels["loss"][:, 0], "label": "plain loss in nats", "title": "Score against plain loss"}
        panels.append(partial(_against, **plain))
    if rows.groups is not None:
        panels.append(_groups)
    columns = min(2, len(panels))
    height = -(-len(panels) // columns)
    # No window is opened, and no state of pyplot is touched.
    figure = Figure(figsize=(_PANEL[0] * columns, _PANEL[1] * height), layout="constrained")
    axes = figure.subplots(height, columns, squeeze=False).ravel()
    for panel, place in zip(panels, axes, strict=False):
        panel(place, rows)
        place.spines[["top", "right"]].set_visible(False)
    for place in axes[len(panels) :]:
        place.set_visible(False)
    return figure


def _read(
    scored: Dataset,
    kept: np.ndarray,
    column: str,
    column_prefix: str,
    schedule: Sequence[float] | None,
    group_by: str | None,
) -> _Drawn:
    numbers = scored.with_format("numpy")
    score = np.asarray(numbers[column][:], dtype=np.float64)
    known = np.isfinite(score)
    is_kept = np.zeros(len(score), dtype=bool)
    is_kept[kept] = True
    measures = dict.fromkeys(measure.name for score in SCORES.values() for measure in score.measures)
    names = {measure: f"{column_prefix}_level_{measure}" for measure in measures}
    levels = {
        measure: np.array(scored.with_format(None)[name][:], dtype=np.float64)[known]
        for measure, name in names.items()
        if name in scored.column_names and known.any()
    }
    fractions = None if schedule is None else np.array(schedule)
    tokens = np.asarray(numbers[f"{column_prefix}_tokens"][:])[known]
    groups = group_by and group_counts(scored, is_kept, group_by)
    return _Drawn(score[known], column, is_kept[known], tokens, levels, fractions, groups)


def _are_measured(levels: np.ndarray) -> np.ndarray:
    """Which of the levels some score asks for: at the others, no row has a value."""
    return ~np.isnan(levels).all(axis=0)


def _histogram(axes: Axes, rows: _Drawn) -> None:
    """How many rows have which score, and the share of each bar that was kept."""
    # With fewer rows fewer bars, or the kept share would be that of single rows.
    edges = np.histogram_bin_edges(rows.score, min(_MOST_BINS, 1 + math.isqrt(len(rows.score))))
    total, kept = (np.histogram(values, edges)[0] for values in (rows.score, rows.score[rows.is_kept]))
    middle, width = (edges[:-1] + edges[1:]) / 2, np.diff(edges)
    axes.bar(middle, kept, width, color=_KEPT, label="kept")
    axes.bar(middle, total - kept, width, bottom=kept, color=_DROPPED, label="dropped")
    share = axes.twinx()
    share.plot(middle[total > 0], (kept / np.maximum(total, 1))[total > 0], color=_LINE, label="kept share")
    share.set_ylim(0, 1.05)
    share.yaxis.set_major_formatter("{x:.0%}")
    share.spines["top"].set_visible(False)
    share.set_ylabel("kept share", color=_LINE)
    axes.set(xlabel=_plain(rows.name), ylabel="rows", title="Scores, and what was kept")
    axes.set_ylim(0, 1.25 * max(1, total.max()))  # room for the legend
    axes.legend(frameon=False, loc="upper right", ncols=2)


def _path(axes: Axes, rows: _Drawn, measure: str) -> None:
    """Mean of a measure over the rows at each level, with bands in which half and nine tenths of the rows are."""
    levels, fractions, score = rows.levels[measure], rows.fractions, SCORES.get(measure)
    if score is not None and measure not in {of.name for of in score.measures}:
        score = None  # it has the name by chance, and its range and its unit are not those of the measure
    known = fractions is not None and len(fractions) == levels.shape[1]
    measured = _are_measured(levels)
    x, levels = (fractions if known else np.arange(levels.shape[1]))[measured], levels[:, measured]
    for low, high, name, color in ((5, 95, "90% of the rows", _WIDE), (25, 75, "50% of the rows", _NARROW)):
        bounds = np.nanpercentile(levels, [low, high], axis=0)
        axes.fill_between(x, *bounds, color=color, linewidth=0, label=name)
    axes.plot(x, np.nanmean(levels, axis=0), color=_KEPT, marker="o", label="mean")
    axes.set_xlabel("masked fraction of the weights" if known else "level")
    axes.set_title(f"{measure.capitalize()} along the levels")
    axes.set_ylabel(f"{measure} in {score.unit}" if score is not None and score.unit else measure)
    if score is not None:  # a score with the name of its measure is a mean of it, in the same range
        axes.set_ylim(*(bound if math.isfinite(bound) else None for bound in (score.low, score.high)))
    axes.legend(frameon=False)


def _against_length(axes: Axes, rows: _Drawn) -> None:
    _against(axes, rows, rows.tokens, "target tokens", "Score against response length")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(LogFormatter())  # 60 in the place of 6 × 10¹
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.0, 0.4)))


def _against(axes: Axes, rows: _Drawn, x: np.ndarray, label: str, title: str) -> None:
    """The score of rows against another number of them."""
    shown = np.random.default_rng(0).permutation(len(x))[:_MOST_POINTS]
    size = 7 if len(shown) > _FEW_POINTS else 18
    for is_kept, color, name in ((False, _DROPPED, "dropped"), (True, _KEPT, "kept")):
        part = shown[rows.is_kept[shown] == is_kept]
        axes.scatter(x[part], rows.score[part], s=size, color=color, alpha=0.6, linewidths=0, label=name)
    axes.legend(frameon=False, markerscale=2)
    axes.set(xlabel=label, ylabel=_plain(rows.name), title=title)


def _groups(axes: Axes, rows: _Drawn) -> None:
    """The largest groups, largest at the top."""
    counts = rows.groups[:_MOST_GROUPS][::-1]
    names = [_plain(name) for name in counts.index]
    axes.barh(range(len(counts)), counts["sum"], color=_KEPT, label="kept")
    axes.barh(range(len(counts)), counts["size"] - counts["sum"], left=counts["sum"], color=_DROPPED, label="dropped")
    axes.set_yticks(range(len(counts)), names)
    axes.set(xlabel="rows", title="Groups")
    axes.set_ylim(-0.6, len(counts) + 0.6)
    axes.legend(frameon=False, loc="upper right", ncols=2)


def _plain(name: str) -> str:
    """A name from a dataset as a label: no mathematics of matplotlib, nothing unprintable, not too long."""
    text = "".join(c if c.isprintable() else " " for c in str(name))
    return (text if len(text) <= 24 else text[:23] + "…").replace("$", r"\$")
