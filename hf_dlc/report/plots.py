"""The plots of a report, as panels of one figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from typing import NamedTuple

import numpy as np
import pandas as pd
from datasets import Dataset
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from hf_dlc.scores.table import SCORES

from .tables import group_counts


_KEPT, _DROPPED, _LINE = "#2f6db5", "#a9b4c2", "#c2410c"
_WIDE, _NARROW = "#cfdff1", "#94b7de"
_MOST_BINS = 30
_LEAST_IN_A_SHARE = 10  # rows over which the kept share is taken
_FEW_POINTS, _MOST_POINTS = 1_000, 4_000
_MOST_GROUPS = 12
_PANEL = (5.4, 3.9)  # inches
# Of a panel on a page, whose background may be light or dark.
_ON_ANY = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), "#7a828e")


class _Drawn(NamedTuple):
    """Values that the panels show, of the rows that have a score."""

    score: np.ndarray
    name: str
    is_kept: np.ndarray
    tokens: np.ndarray
    levels: dict[str, np.ndarray]  # of each measure that is known, (rows, levels)
    fractions: np.ndarray | None
    groups: pd.DataFrame | None  # of all rows, with a score or not
    bounds: Mapping[str, float]  # values of the score at which the rule changes


class Panel(NamedTuple):
    """A part of a figure, and what it shows in one sentence."""

    caption: str
    draw: Callable[[Axes], None]


def panels(
    scored: Dataset,
    kept: np.ndarray,
    column: str,
    column_prefix: str,
    schedule: Sequence[float] | None = None,
    group_by: str | None = None,
    bounds: Mapping[str, float] | None = None,
) -> list[Panel]:
    """
    Make a panel for each thing that scored rows have columns for.

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
        bounds (`Mapping[str, float]`, *optional*):
            Values of the score at which the rule changes, by the names of its parameters.

    Returns:
        `list[Panel]`
    """
    rows = _read(scored, kept, column, column_prefix, schedule, group_by, bounds or {})
    where = f"; {' and '.join(rows.bounds)}: where the rule changes" if rows.bounds else ""
    share = f"the line is the share of them that was kept, of {_LEAST_IN_A_SHARE} rows or more at each point"
    found = [Panel(f"How many rows have which score; {share}{where}.", partial(_histogram, rows=rows))]
    for measure, values in rows.levels.items():
        if _are_measured(values).sum() > 1:
            caption = f"How {measure} changes as more weights are masked: the mean, and where most rows are."
            found.append(Panel(caption, partial(_path, rows=rows, measure=measure)))
    if rows.tokens.size and rows.tokens.max() > 1:
        found.append(
            Panel("Whether the score follows the length of the response.", partial(_against_length, rows=rows))
        )
    if "loss" in rows.levels and column != f"{column_prefix}_plain_loss":
        caption = "Whether the score tells more than the loss of the unmasked model, which training starts from."
        found.append(Panel(caption, partial(_against_plain_loss, rows=rows)))
    if rows.groups is not None:
        found.append(Panel("How many rows of each group were kept.", partial(_groups, rows=rows)))
    return found


def plot_report(found: Sequence[Panel]) -> Figure:
    """
    Draw panels as one figure; the last one is wide where it would stand alone.

    Args:
        found (`Sequence[Panel]`):
            The panels.

    Returns:
        `matplotlib.figure.Figure`: No window is opened, and no state of pyplot is touched.
    """
    columns = min(2, len(found))
    places = [list(range(start, start + columns)) for start in range(0, len(found), columns)]
    places[-1] = [min(place, len(found) - 1) for place in places[-1]]
    figure = Figure(figsize=(_PANEL[0] * columns, _PANEL[1] * len(places)), layout="constrained")
    for place, axes in figure.subplot_mosaic(places).items():
        _draw(found[place], axes)
    return figure


def panel_png(panel: Panel) -> bytes:
    """A panel as a PNG file without a background, in colours that can be read on a light and on a dark one."""
    with rc_context(_ON_ANY):
        figure = Figure(figsize=_PANEL, layout="constrained")
        _draw(panel, figure.subplots())
        file = BytesIO()
        figure.savefig(file, dpi=150, transparent=True)
    return file.getvalue()


def _draw(panel: Panel, axes: Axes) -> None:
    panel.draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.set_title(axes.get_title(), pad=22)  # above the legend, which hides no data
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), borderaxespad=0.1, ncols=4)


def _read(
    scored: Dataset,
    kept: np.ndarray,
    column: str,
    column_prefix: str,
    schedule: Sequence[float] | None,
    group_by: str | None,
    bounds: Mapping[str, float],
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
    return _Drawn(score[known], column, is_kept[known], tokens, levels, fractions, groups, bounds)


def _are_measured(levels: np.ndarray) -> np.ndarray:
    """Which of the levels some score asks for: at the others, no row has a value."""
    return ~np.isnan(levels).all(axis=0)


def _histogram(axes: Axes, rows: _Drawn) -> None:
    """Rows by their score, and the share of them that was kept."""
    # With fewer rows fewer bars, or the kept share would be that of single rows.
    edges = np.histogram_bin_edges(rows.score, min(_MOST_BINS, 1 + math.isqrt(len(rows.score))))
    total, kept = (np.histogram(values, edges)[0] for values in (rows.score, rows.score[rows.is_kept]))
    middle, width = (edges[:-1] + edges[1:]) / 2, np.diff(edges)
    axes.bar(middle, kept, width, color=_KEPT, label="kept")
    axes.bar(middle, total - kept, width, bottom=kept, color=_DROPPED, label="dropped")
    for name, value in rows.bounds.items():
        axes.axvline(value, color=_LINE, linestyle="--", linewidth=1)
        axes.annotate(name, (value, 0.97), xycoords=("data", "axes fraction"), ha="right", va="top", rotation=90)
    share = axes.twinx()
    share.plot(*_kept_share(rows.score, rows.is_kept), color=_LINE, marker=".")
    share.set_ylim(0, 1.05)
    share.yaxis.set_major_formatter("{x:.0%}")
    share.spines["top"].set_visible(False)
    share.set_ylabel("kept share", color=_LINE)
    axes.set(xlabel=_plain(rows.name), ylabel="rows", title="Scores, and what was kept")


def _kept_share(score: np.ndarray, is_kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean score and kept share of parts of the rows by rank, of ten rows at least where there are as many."""
    order = np.argsort(score, kind="stable")
    parts = np.array_split(order, max(1, min(_MOST_BINS, len(order) // _LEAST_IN_A_SHARE))) if len(order) else []
    return np.array([score[part].mean() for part in parts]), np.array([is_kept[part].mean() for part in parts])


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


def _against_length(axes: Axes, rows: _Drawn) -> None:
    """The score of rows against their target tokens."""
    _against(axes, rows, rows.tokens, "target tokens", "Score against response length")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(LogFormatter())  # 60 in the place of 6 × 10¹
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.0, 0.4)))


def _against_plain_loss(axes: Axes, rows: _Drawn) -> None:
    """The score of rows against the loss of level 0."""
    _against(axes, rows, rows.levels["loss"][:, 0], "plain loss in nats", "Score against plain loss")


def _against(axes: Axes, rows: _Drawn, x: np.ndarray, label: str, title: str) -> None:
    shown = np.random.default_rng(0).permutation(len(x))[:_MOST_POINTS]
    size = 7 if len(shown) > _FEW_POINTS else 18
    for is_kept, color, name in ((False, _DROPPED, "dropped"), (True, _KEPT, "kept")):
        part = shown[rows.is_kept[shown] == is_kept]
        axes.scatter(x[part], rows.score[part], s=size, color=color, alpha=0.6, linewidths=0, label=name)
    axes.set(xlabel=label, ylabel=_plain(rows.name), title=title)


def _groups(axes: Axes, rows: _Drawn) -> None:
    """Rows of the largest groups."""
    counts = rows.groups.iloc[:_MOST_GROUPS][::-1]  # largest at the top
    names = [_plain(name) for name in counts.index]
    axes.barh(range(len(counts)), counts["sum"], color=_KEPT, label="kept")
    axes.barh(range(len(counts)), counts["size"] - counts["sum"], left=counts["sum"], color=_DROPPED, label="dropped")
    axes.set_yticks(range(len(counts)), names)
    axes.set(xlabel="rows", title="Groups")


def _plain(name: str) -> str:
    """A name from a dataset as a label: no mathematics of matplotlib, nothing unprintable, not too long."""
    text = "".join(c if c.isprintable() else " " for c in str(name))
    return (text if len(text) <= 24 else text[:23] + "…").replace("$", r"\$")
