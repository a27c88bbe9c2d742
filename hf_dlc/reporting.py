"""What a finished run says of itself: a manifest for machines, a summary for people."""

from __future__ import annotations

import json
import math
import platform
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from datasets import ClassLabel, Dataset, Image

from . import __version__
from .columns import SCORED_STATUSES


_VERSIONED = ("torch", "transformers", "datasets", "accelerate", "peft", "evaluate", "numpy")
_SCORE_SUFFIXES = ("confidence", "loss", "tokens", "status", "level_confidence", "level_loss")
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_INTERVALS = 10
_TEXT_WIDTH = 160


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of those it computes with."""
    return {
        "python": platform.python_version(),
        "hf_dlc": __version__,
        **{package: version(package) for package in _VERSIONED},
    }


def status_counts(scored: Dataset, prefix: str = "dlc") -> dict[str, int]:
    """Rows by status, most frequent first."""
    return dict(Counter(scored[f"{prefix}_status"]).most_common())


def auroc(scores: np.ndarray, flags: np.ndarray) -> float:
    """
    Probability that a flagged row has a higher score than an unflagged one, ties counted half.

    Args:
        scores (`np.ndarray` of shape `(rows,)`):
            Scores; rows with NaN are left out.
        flags (`np.ndarray` of shape `(rows,)`):
            Which rows are flagged.

    Returns:
        `float`: In [0, 1]; 0.5 means that the score does not tell them apart, NaN that one of both kinds is missing.

    Example:
    ```python
    >>> auroc(np.array([3.0, 1.0, 2.0]), np.array([True, False, False]))
    1.0
    ```
    """
    known = ~np.isnan(scores)
    ranks, flags = pd.Series(scores[known]).rank().to_numpy(), np.asarray(flags, dtype=bool)[known]
    positives, negatives = flags.sum(), (~flags).sum()
    if not positives or not negatives:
        return float("nan")
    return float((ranks[flags].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def spearman(left: np.ndarray, right: np.ndarray) -> float:
    """Rank correlation in [-1, 1] over the rows that have both values; NaN if one of them never varies."""
    known = ~(np.isnan(left) | np.isnan(right))
    left, right = pd.Series(left[known]).rank(), pd.Series(right[known]).rank()
    if left.nunique() < 2 or right.nunique() < 2:
        return float("nan")
    return float(left.corr(right))


def within_groups(
    measure: Callable[[np.ndarray, np.ndarray], float], left: np.ndarray, right: np.ndarray, groups: Sequence[Any]
) -> float:
    """
    Mean of a measure of two columns over the groups of rows, weighted by their rows.

    Args:
        measure (`Callable`):
            [`spearman`] or [`auroc`].
        left (`np.ndarray` of shape `(rows,)`):
            First argument of the measure; rows with a NaN are left out.
        right (`np.ndarray` of shape `(rows,)`):
            Second argument of the measure; rows with a NaN are left out.
        groups (`Sequence` of length `rows`):
            The group of each row. Groups for which the measure is NaN, such as those of one row, count for nothing.

    Returns:
        `float`: In the range of the measure; NaN if it is known of no group.
    """
    known = ~(np.isnan(left) | np.isnan(right))
    members = pd.Series(np.arange(len(left))).groupby(pd.Series(groups), dropna=False).indices.values()
    parts = [rows[known[rows]] for rows in members]
    found = [(measure(left[rows], right[rows]), len(rows)) for rows in parts if len(rows) > 1]
    found = [(value, count) for value, count in found if not np.isnan(value)]
    values, weights = zip(*found, strict=True) if found else ([np.nan], [1])
    return float(np.average(values, weights=weights))


def summarize(
    scored: Dataset,
    kept: Sequence[int],
    column: str = "dlc_confidence",
    prefix: str = "dlc",
    flag_column: str | None = None,
    examples: int = 5,
    group_by: str | None = None,
) -> str:
    """
    Describe a scored dataset and the subset that was kept, as Markdown.

    Args:
        scored ([`~datasets.Dataset`]):
            Dataset with score columns. Where it has the per-level columns, plain loss (level 0) is compared as well.
        kept (`Sequence[int]`):
            Indices of the kept rows.
        column (`str`, *optional*, defaults to `"dlc_confidence"`):
            Column by which rows were selected.
        prefix (`str`, *optional*, defaults to `"dlc"`):
            What the names of the score columns begin with.
        flag_column (`str`, *optional*):
            Boolean column, not known to the scorer, whose rows should stand out, such as responses known to be wrong.
        examples (`int`, *optional*, defaults to 5):
            Easiest and hardest rows to show.
        group_by (`str`, *optional*):
            Column within whose groups rows were selected: the easiest and hardest are those of their groups.

    Returns:
        `str`: Markdown. Dataset text appears in it as JSON within code blocks and cannot act as markup.
    """
    scores = _scores(scored, prefix)
    sections = [
        _overview(scored, kept, prefix),
        _quantile_table(scores),
        _interval_table(_column(scored, column), kept, column),
        _correlation_table(scored, scores, prefix, group_by),
    ]
    if flag_column:
        sections.append(_flag_table(scores, np.asarray(scored[flag_column][:], dtype=bool), flag_column))
    order = _easiest_first(scored, scores["confidence"], group_by)
    sections.append(_rows("Easiest rows", scored, order[:examples], scores, prefix))
    sections.append(_rows("Hardest rows", scored, order[::-1][:examples], scores, prefix))
    return "\n\n".join(sections) + "\n"


def _column(dataset: Dataset, name: str) -> np.ndarray:
    return np.asarray(dataset.with_format("numpy")[name][:], dtype=np.float64)


def _scores(scored: Dataset, prefix: str) -> dict[str, np.ndarray]:
    scores = {name: _column(scored, f"{prefix}_{name}") for name in ("confidence", "loss")}
    if f"{prefix}_level_loss" in scored.column_names:
        scores["plain loss"] = np.array([levels[0] for levels in scored[f"{prefix}_level_loss"]], dtype=np.float64)
    return scores


def _easiest_first(scored: Dataset, confidence: np.ndarray, group_by: str | None) -> np.ndarray:
    if group_by is not None:
        groups = pd.Series(scored.with_format(None)[group_by][:])
        confidence = pd.Series(confidence).groupby(groups, dropna=False).rank(pct=True).to_numpy()
    order = np.argsort(-confidence, kind="stable")
    return order[~np.isnan(confidence[order])]


def _overview(scored: Dataset, kept: Sequence[int], prefix: str) -> str:
    counts = status_counts(scored, prefix)
    skipped = {status: count for status, count in counts.items() if status not in SCORED_STATUSES}
    tokens = _column(scored, f"{prefix}_tokens")
    share = f"{len(kept) / len(scored):.1%}" if len(scored) else "-"
    targets = f", {tokens[list(kept)].sum():,.0f} of {tokens.sum():,.0f} target tokens"
    lines = [
        "## Rows",
        "",
        f"- {len(scored):,} rows, {sum(counts.values()) - sum(skipped.values()):,} scored",
        f"- skipped: {', '.join(f'{count:,} {_name(status)}' for status, count in skipped.items()) or 'none'}",
        f"- truncated: {counts.get('truncated', 0):,}",
        f"- kept: {len(kept):,} rows ({share}){targets if _are_responses(tokens) else ''}",
    ]
    return "\n".join(lines)


def _are_responses(tokens: np.ndarray) -> bool:
    """Whether rows have more than the one target that an image has."""
    return not len(tokens) or tokens.max() != 1


def _shown(values: np.ndarray) -> Callable[[float], str]:
    """Numbers with as many digits as tell the values apart, and at least three."""
    known = values[~np.isnan(values)]
    spread = float(known.max() - known.min()) if known.size else 0.0
    digits = 3 if spread <= 0 or not math.isfinite(spread) else min(9, max(3, 2 - math.floor(math.log10(spread))))
    return f"{{:.{digits}f}}".format


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"## {title}", "", f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def _quantile_table(scores: dict[str, np.ndarray]) -> str:
    rows = [
        [name, *map(_shown(values), np.nanquantile(values, _QUANTILES))]
        for name, values in scores.items()
        if not np.isnan(values).all()
    ]
    return _table("Score quantiles", ["score", *(f"{quantile:.0%}" for quantile in _QUANTILES)], rows)


def _interval_table(values: np.ndarray, kept: Sequence[int], column: str) -> str:
    """Tenths of the rows by rank, highest score first, with what was kept of each."""
    order = np.argsort(-values, kind="stable")
    order = order[~np.isnan(values[order])]
    is_kept = np.zeros(len(values), dtype=bool)
    is_kept[list(kept)] = True
    rows, shown = [], _shown(values)
    for part in np.array_split(order, min(_INTERVALS, max(1, len(order)))):
        if len(part):
            count = is_kept[part].sum()
            bounds = f"{shown(values[part[0]])} to {shown(values[part[-1]])}"
            rows.append([bounds, str(len(part)), str(count), str(len(part) - count), f"{count / len(part):.0%}"])
    return _table(f"Kept and dropped by {_name(column)}", ["interval", "rows", "kept", "dropped", "kept share"], rows)


def _correlation_table(scored: Dataset, scores: dict[str, np.ndarray], prefix: str, group_by: str | None) -> str:
    """Within groups where there are any: scores of different classes of images do not compare."""
    tokens = _column(scored, f"{prefix}_tokens")
    others = {"response length": tokens} if _are_responses(tokens) else {}
    if "plain loss" in scores:
        others["plain loss"] = scores["plain loss"]
    groups = np.zeros(len(scored)) if group_by is None else scored.with_format(None)[group_by][:]
    rows = [
        [name, *(f"{within_groups(spearman, values, other, groups):+.3f}" for other in others.values())]
        for name, values in scores.items()
    ]
    title = "Spearman correlation" if group_by is None else f"Spearman correlation within {_name(group_by)}"
    return _table(title, ["score", *others], rows)


def _flag_table(scores: dict[str, np.ndarray], flags: np.ndarray, flag_column: str) -> str:
    """How well each score, turned so that harder is higher, tells the flagged rows from the others."""
    rows = [
        [name, f"{auroc(-values if name == 'confidence' else values, flags):.3f}", _median_rank(name, values, flags)]
        for name, values in scores.items()
    ]
    title = f"Rows with {_name(flag_column)} ({flags.sum():,} of {len(flags):,})"
    return _table(title, ["score", "AUROC (harder than the others)", "median percentile, 100% = hardest"], rows)


def _median_rank(name: str, values: np.ndarray, flags: np.ndarray) -> str:
    hardness = pd.Series(-values if name == "confidence" else values).rank(pct=True)
    return f"{hardness[flags].median():.0%}"


def _rows(title: str, scored: Dataset, indices: np.ndarray, scores: dict[str, np.ndarray], prefix: str) -> str:
    hidden = {f"{prefix}_{suffix}" for suffix in _SCORE_SUFFIXES}
    blocks = [f"## {title}"]
    readable = _undecoded(scored)
    for index in indices.tolist():
        row = {name: value for name, value in readable[index].items() if name not in hidden}
        values = ", ".join(f"{name} {_shown(values)(values[index])}" for name, values in scores.items())
        fields = [
            f"    {_one_line(name)}: {_one_line(_readable(value, readable.features[name]))}"
            for name, value in row.items()
        ]
        blocks.append("\n".join([f"row {index}: {values}", "", *fields]))
    return "\n\n".join(blocks)


def _undecoded(dataset: Dataset) -> Dataset:
    """Images as they are stored: not all can be decoded."""
    for name, feature in dataset.features.items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(name, Image(decode=False))
    return dataset


def _readable(value: Any, feature: Any) -> Any:
    """Where an image is, and the name of a class."""
    if isinstance(feature, Image) and value is not None:
        return value["path"] or f"image of {len(value['bytes'] or b''):,} bytes"
    if isinstance(feature, ClassLabel) and value in range(feature.num_classes):
        return feature.int2str(value)
    return value


def _name(name: str) -> str:
    """A name that may be untrusted as inline code, which no character of it can end."""
    return "`" + _one_line(name).replace("`", "\\u0060").replace("|", "\\u007c") + "`"


def _one_line(value: Any) -> str:
    """
    Untrusted text on one line, indented by the caller as a code block: JSON has no line breaks that could end the
    block, and characters that would act on a terminal are shown by their code.
    """
    text = (
        value
        if isinstance(value, str) and value.isidentifier()
        else json.dumps(value, ensure_ascii=False, default=str)
    )
    text = "".join(
        c if unicodedata.category(c)[0] != "C" and c not in "\u2028\u2029" else f"\\u{ord(c):04x}" for c in text
    )
    return text if len(text) <= _TEXT_WIDTH else text[: _TEXT_WIDTH - 1] + "…"
