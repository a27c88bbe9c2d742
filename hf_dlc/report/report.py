"""What a finished run says of itself: versions for machines, a report for people."""

from __future__ import annotations

import base64
import math
import reprlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from datasets import ClassLabel, Dataset, Image, Value

from hf_dlc.scores.columns import SCORED_STATUSES, score_features
from hf_dlc.utils.content import content_digests

from .render import Example, Examples, Lines, Name, Section, Table, one_line, to_html, to_markdown
from .statistics import auroc, spearman, within_groups


if TYPE_CHECKING:
    from matplotlib.figure import Figure


_SCORE_SUFFIXES = ("confidence", "loss", "gain", "tokens", "status", "level_confidence", "level_loss")
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_INTERVALS = 10
_MOST_GROUPS = 20
_FLAGS = {"True": True, "true": True, "1": True, "False": False, "false": False, "0": False}


def status_counts(scored: Dataset, prefix: str = "dlc") -> dict[str, int]:
    """Rows by status, most frequent first."""
    return dict(Counter(scored[f"{prefix}_status"]).most_common())


@dataclass(frozen=True)
class PruneReport:
    """
    What a scored dataset is like, and what was kept of it.

    Args:
        sections (`tuple[Section, ...]`):
            What it says, in order.
        scored ([`~datasets.Dataset`]):
            The rows with their scores.
        kept (`np.ndarray`):
            Indices of the kept rows.
        column (`str`):
            Column by which rows were selected.
        prefix (`str`):
            What the names of the score columns begin with.
        schedule (`tuple[float, ...]`, *optional*):
            Masked fraction of each level.
        group_by (`str`, *optional*):
            Column within whose groups rows were selected.

    Example:
    ```python
    >>> from pathlib import Path
    >>> from hf_dlc import PruneReport

    >>> report = PruneReport.from_datasets(scored, pruned, schedule=scorer.schedule_)
    >>> size = Path("report.html").write_text(report.to_html(), encoding="utf-8")
    >>> report.plot().savefig("report.png")
    ```
    """

    sections: tuple[Section, ...]
    scored: Dataset
    kept: np.ndarray
    column: str
    prefix: str
    schedule: tuple[float, ...] | None
    group_by: str | None

    @classmethod
    def from_datasets(
        cls,
        scored: Dataset,
        pruned: Dataset | Sequence[int],
        column: str = "dlc_confidence",
        prefix: str = "dlc",
        schedule: Sequence[float] | None = None,
        group_by: str | None = None,
        flag_column: str | None = None,
        examples: int = 5,
    ) -> PruneReport:
        """
        Look at a scored dataset and at what was kept of it.

        Args:
            scored ([`~datasets.Dataset`]):
                Dataset with score columns. Where it has the per-level columns, plain loss (level 0) is compared too.
            pruned ([`~datasets.Dataset`] or `Sequence[int]`):
                Some of its rows, in its order, as a selector returns them; or their indices, each once; or a boolean
                for each row of `scored`.
            column (`str`, *optional*, defaults to `"dlc_confidence"`):
                Column by which rows were selected.
            prefix (`str`, *optional*, defaults to `"dlc"`):
                What the names of the score columns begin with.
            schedule (`Sequence[float]`, *optional*):
                Masked fraction of each level, for the plot.
            group_by (`str`, *optional*):
                Column within whose groups rows were selected: the easiest and hardest are those of their groups.
            flag_column (`str`, *optional*):
                Boolean column, not known to the scorer, whose rows should stand out, such as responses known to be
                wrong.
            examples (`int`, *optional*, defaults to 5):
                Rows that are shown of each kind.

        Returns:
            [`PruneReport`]

        Raises:
            TypeError: If `scored` is not a [`~datasets.Dataset`], such as a dictionary of splits.
            ValueError: If `pruned` has rows that `scored` has not, or has them twice or in another order, or if a
                column is missing or of a type that cannot be used.
        """
        if not isinstance(scored, Dataset):
            raise TypeError(f"scored must be a Dataset, got {type(scored).__name__}. Pass one of its splits.")
        if missing := [name for name in (column, *score_features(prefix)) if name not in scored.column_names]:
            got = ", ".join(scored.column_names)
            raise ValueError(f"scored must have the columns {', '.join(missing)}, got {got}.")
        check_group_and_flag_columns(scored, group_by, flag_column)
        kept = _places(scored, pruned) if isinstance(pruned, Dataset) else _indices(pruned, len(scored))
        is_kept = np.zeros(len(scored), dtype=bool)
        is_kept[kept] = True
        scores, tokens = _scores(scored, prefix), _column(scored, f"{prefix}_tokens")
        sections: list[Section] = [
            _overview(scored, kept, prefix),
            _quantile_table(scores),
            _interval_table(_column(scored, column), is_kept, column),
            _correlation_table(scored, scores, prefix, group_by),
        ]
        if len(kept):
            sections.append(_overlap_table(scores, tokens, is_kept))
        if group_by is not None:
            sections.append(_group_table(scored, is_kept, group_by))
        if flag_column:
            sections.append(_flag_table(scores, _read_flags(scored, flag_column), flag_column))
        show = _Shower(scored, scores, is_kept, column, prefix)
        order = _easiest_first(scored, scores["confidence"], group_by)
        sections += [show("Easiest rows", order[:examples]), show("Hardest rows", order[::-1][:examples])]
        others = {
            "Rows that plain loss ranks otherwise": _disagreements(scores),
            "Rows without a score": np.flatnonzero(np.isnan(scores["confidence"])),
        }
        sections += [show(title, rows[:examples]) for title, rows in others.items() if len(rows)]
        levels = None if schedule is None else tuple(map(float, schedule))
        return cls(tuple(sections), scored, kept, column, prefix, levels, group_by)

    def to_markdown(self) -> str:
        """The report as Markdown. Dataset text stands in code blocks, as JSON, and cannot act as markup."""
        return to_markdown(self.sections)

    def to_html(self, title: str = "What was kept") -> str:
        """
        The report with its plots as one file that loads nothing from elsewhere.

        Dataset text is escaped, and the page forbids scripts. Needs matplotlib.
        """
        import io

        buffer = io.BytesIO()
        self.plot().savefig(buffer, dpi=120)
        image = base64.b64encode(buffer.getvalue()).decode("ascii")
        return to_html(title, self.sections, [("Scores, levels, lengths and groups of the rows", image)])

    def plot(self) -> Figure:
        """
        The report as one figure: the score and the share that was kept of it, loss and confidence along the levels,
        the score against response length and plain loss, and groups.

        Returns:
            `matplotlib.figure.Figure`: Save it with `savefig`; no window is opened.
        """
        from .plots import plot_report

        return plot_report(self)


def _column(dataset: Dataset, name: str) -> np.ndarray:
    return np.asarray(dataset.with_format("numpy")[name][:], dtype=np.float64)


def check_group_and_flag_columns(dataset: Dataset, group_by: str | None, flag_column: str | None) -> None:
    """Raise a `ValueError` unless the two name columns of groups and of flags, as far as they are given."""
    for option, name in (("group_by", group_by), ("flag_column", flag_column)):
        if name is not None and name not in dataset.column_names:
            raise ValueError(f"{option} must be a column, got {name!r}; there are {', '.join(dataset.column_names)}.")
    if group_by is not None and not isinstance(dataset.features[group_by], (Value, ClassLabel)):
        raise ValueError(f"group_by must hold single values, but {group_by!r} holds {dataset.features[group_by]}.")
    if flag_column is not None:
        _read_flags(dataset, flag_column)


def _read_flags(dataset: Dataset, name: str) -> np.ndarray:
    """A column of true and false; all that a CSV file holds is text, of which "False" would be true."""
    kind, values = dataset.features[name], dataset[name][:]
    if getattr(kind, "dtype", None) in ("bool", "int64"):
        return np.asarray(values, dtype=bool)
    wrong = [value for value in values if value not in _FLAGS] if kind == Value("string") else [kind]
    if wrong:
        raise ValueError(f"flag_column must hold true and false, but {name!r} holds {wrong[0]}.")
    return np.array([_FLAGS[value] for value in values], dtype=bool)


def _indices(kept: Sequence[int], count: int) -> np.ndarray:
    """Row numbers, also where a boolean for each row was given."""
    places = np.asarray(kept) if len(kept) else np.empty(0, dtype=np.int64)
    if places.dtype == bool and places.shape == (count,):
        return np.flatnonzero(places)
    is_valid = np.issubdtype(places.dtype, np.integer) and places.ndim == 1
    if not is_valid or len(np.unique(places)) < len(places) or (places < 0).any() or (places >= count).any():
        raise ValueError(
            f"pruned must be rows of scored, as a Dataset, indices from 0 to {count - 1}, each once, or a boolean for "
            f"each of the {count} rows, got {reprlib.repr(kept)}."
        )
    return places


def _places(scored: Dataset, pruned: Dataset) -> np.ndarray:
    """Which rows of `scored` those of `pruned` are; rows that are the same are told by their order."""
    names = [name for name in pruned.column_names if name in scored.column_names]
    wanted, there = (_row_digests(rows, names) for rows in (pruned, scored))
    places, start = np.empty(len(wanted), dtype=np.int64), 0
    for number, digest in enumerate(wanted):
        while start < len(there) and there[start] != digest:
            start += 1
        if start == len(there):
            raise ValueError(
                f"pruned must hold rows of scored, in their order, but its row {number} is not there. Pass the "
                "dataset that the selector was called with, or the indices of the kept rows."
            )
        places[number], start = start, start + 1
    return places


def _row_digests(dataset: Dataset, names: list[str]) -> Sequence[Any]:
    """By the columns of single values, which is fast; where there are none, as with messages alone, by all."""
    single = [name for name in names if isinstance(dataset.features[name], (Value, ClassLabel))]
    if not single:
        return content_digests(dataset, names)
    table = dataset.with_format(None).select_columns(single).to_pandas()
    return pd.util.hash_pandas_object(table, index=False).to_numpy()


def _scores(scored: Dataset, prefix: str) -> dict[str, np.ndarray]:
    scores = {name: _column(scored, f"{prefix}_{name}") for name in ("confidence", "loss", "gain")}
    if f"{prefix}_level_loss" in scored.column_names:
        scores["plain loss"] = np.array([levels[0] for levels in scored[f"{prefix}_level_loss"]], dtype=np.float64)
    return scores


def _hardness(name: str, values: np.ndarray) -> np.ndarray:
    """A score, turned so that harder is higher."""
    return values if "loss" in name else -values


def _easiest_first(scored: Dataset, confidence: np.ndarray, group_by: str | None) -> np.ndarray:
    if group_by is not None:
        groups = pd.Series(scored.with_format(None)[group_by][:])
        confidence = pd.Series(confidence).groupby(groups, dropna=False).rank(pct=True).to_numpy()
    order = np.argsort(-confidence, kind="stable")
    return order[~np.isnan(confidence[order])]


def _disagreements(scores: dict[str, np.ndarray]) -> np.ndarray:
    """Rows by how differently confidence and plain loss rank them, most differently first."""
    if "plain loss" not in scores:
        return np.empty(0, dtype=np.int64)
    ranks = [pd.Series(_hardness(name, scores[name])).rank(pct=True) for name in ("confidence", "plain loss")]
    distance = (ranks[0] - ranks[1]).abs().to_numpy()
    order = np.argsort(-distance, kind="stable")
    return order[distance[order] > 0]


def _overview(scored: Dataset, kept: np.ndarray, prefix: str) -> Lines:
    counts = status_counts(scored, prefix)
    skipped = {status: count for status, count in counts.items() if status not in SCORED_STATUSES}
    tokens = _column(scored, f"{prefix}_tokens")
    share = f"{len(kept) / len(scored):.1%}" if len(scored) else "-"
    targets = f", {tokens[kept].sum():,.0f} of {tokens.sum():,.0f} target tokens"
    named = [part for status, count in skipped.items() for part in (", ", f"{count:,} ", Name(status))][1:]
    lines = [
        [f"{len(scored):,} rows, {sum(counts.values()) - sum(skipped.values()):,} scored"],
        ["skipped: ", *(named or ["none"])],
        [f"truncated: {counts.get('truncated', 0):,}"],
        [f"kept: {len(kept):,} rows ({share}){targets if _are_responses(tokens) else ''}"],
    ]
    return Lines(["Rows"], lines)


def _are_responses(tokens: np.ndarray) -> bool:
    """Whether rows have more than the one target that an image has."""
    return not len(tokens) or tokens.max() != 1


def _shown(values: np.ndarray) -> Callable[[float], str]:
    """Numbers with as many digits as tell the values apart, and at least three."""
    known = values[~np.isnan(values)]
    spread = float(known.max() - known.min()) if known.size else 0.0
    digits = 3 if spread <= 0 or not math.isfinite(spread) else min(9, max(3, 2 - math.floor(math.log10(spread))))
    return f"{{:.{digits}f}}".format


def _quantile_table(scores: dict[str, np.ndarray]) -> Table:
    rows = [
        [name, *map(_shown(values), np.nanquantile(values, _QUANTILES))]
        for name, values in scores.items()
        if not np.isnan(values).all()
    ]
    return Table(["Score quantiles"], ["score", *(f"{quantile:.0%}" for quantile in _QUANTILES)], rows)


def _tenths(values: np.ndarray) -> list[np.ndarray]:
    """Places of the tenths of the rows by rank, highest score first; rows without a score are in none."""
    order = np.argsort(-values, kind="stable")
    order = order[~np.isnan(values[order])]
    return np.array_split(order, min(_INTERVALS, len(order))) if len(order) else []


def _interval_table(values: np.ndarray, is_kept: np.ndarray, column: str) -> Table:
    """What was kept of each tenth of the rows."""
    rows, shown = [], _shown(values)
    for part in _tenths(values):
        count = is_kept[part].sum()
        bounds = f"{shown(values[part[0]])} to {shown(values[part[-1]])}"
        rows.append([bounds, str(len(part)), str(count), str(len(part) - count), f"{count / len(part):.0%}"])
    header = ["interval", "rows", "kept", "dropped", "kept share"]
    return Table(["Kept and dropped by ", Name(column)], header, rows)


def _correlation_table(scored: Dataset, scores: dict[str, np.ndarray], prefix: str, group_by: str | None) -> Table:
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
    title = ["Spearman correlation"] if group_by is None else ["Spearman correlation within ", Name(group_by)]
    return Table(title, ["score", *others], rows)


def _overlap_table(scores: dict[str, np.ndarray], tokens: np.ndarray, is_kept: np.ndarray) -> Table:
    """How many of the kept rows simpler rules would have kept, if they had kept as many."""
    is_scored = ~np.isnan(scores["confidence"])
    count, rivals = int(is_kept.sum()), {}
    if _are_responses(tokens):
        rivals["longest responses"] = -tokens
    if "plain loss" in scores:
        rivals |= {"lowest plain loss": scores["plain loss"], "highest plain loss": -scores["plain loss"]}
    rows = [["random rows (expected)", f"{count / max(1, is_scored.sum()):.0%}"]]
    for name, values in rivals.items():
        order = np.argsort(np.where(is_scored, values, np.inf), kind="stable")[:count]
        rows.append([name, f"{is_kept[order].mean():.0%}"])
    return Table(["Kept rows that other rules would keep"], ["rule", "overlap"], rows)


def group_counts(scored: Dataset, is_kept: np.ndarray, group_by: str) -> pd.DataFrame:
    """Rows (`size`) and kept rows (`sum`) of each group, by its name, largest first."""
    feature = scored.features[group_by]
    groups = pd.Series([_readable(value, feature) for value in scored.with_format(None)[group_by][:]], dtype=object)
    counts = pd.DataFrame({"group": groups.map(lambda value: value if isinstance(value, str) else one_line(value))})
    counts = counts.assign(kept=is_kept).groupby("group")["kept"].agg(["size", "sum"])
    return counts.sort_values("size", ascending=False, kind="stable")


def _group_table(scored: Dataset, is_kept: np.ndarray, group_by: str) -> Table:
    counts = group_counts(scored, is_kept, group_by)
    rows = [
        [Name(group), f"{size:,}", f"{kept:,}", f"{size - kept:,}", f"{kept / size:.0%}"]
        for group, size, kept in counts[:_MOST_GROUPS].itertuples()
    ]
    if rest := len(counts) - _MOST_GROUPS if len(counts) > _MOST_GROUPS else 0:
        size, kept = counts[_MOST_GROUPS:].sum()
        rows.append([f"{rest:,} others", f"{size:,}", f"{kept:,}", f"{size - kept:,}", f"{kept / size:.0%}"])
    return Table(["Kept and dropped by ", Name(group_by)], ["group", "rows", "kept", "dropped", "kept share"], rows)


def _flag_table(scores: dict[str, np.ndarray], flags: np.ndarray, flag_column: str) -> Table:
    """How well each score, turned so that harder is higher, tells the flagged rows from the others."""
    rows = [
        [name, f"{auroc(_hardness(name, values), flags):.3f}", _median_rank(_hardness(name, values), flags)]
        for name, values in scores.items()
    ]
    title = ["Rows with ", Name(flag_column), f" ({flags.sum():,} of {len(flags):,})"]
    return Table(title, ["score", "AUROC (harder than the others)", "median percentile, 100% = hardest"], rows)


def _median_rank(hardness: np.ndarray, flags: np.ndarray) -> str:
    return f"{pd.Series(hardness).rank(pct=True)[flags].median():.0%}"


class _Shower:
    """Shows rows with their scores, their rank, whether they were kept, and what became of others with such scores."""

    def __init__(
        self, scored: Dataset, scores: dict[str, np.ndarray], is_kept: np.ndarray, column: str, prefix: str
    ) -> None:
        self.scores, self.is_kept = scores, is_kept
        self.kept_shares = np.full(len(scored), np.nan)
        for part in _tenths(_column(scored, column)):
            self.kept_shares[part] = is_kept[part].mean()
        self.statuses = scored[f"{prefix}_status"][:]
        self.ranks = pd.Series(scores["confidence"]).rank(pct=True).to_numpy()
        self.shown = {name: _shown(values) for name, values in scores.items()}
        hidden = [f"{prefix}_{suffix}" for suffix in _SCORE_SUFFIXES]
        self.rows = _undecoded(scored.remove_columns([name for name in hidden if name in scored.column_names]))

    def __call__(self, title: str, indices: np.ndarray) -> Examples:
        return Examples([title], [self._example(index) for index in indices.tolist()])

    def _example(self, index: int) -> Example:
        fields = [
            (one_line(name), one_line(_readable(value, self.rows.features[name])))
            for name, value in (self.rows[index] if self.rows.column_names else {}).items()
        ]
        if np.isnan(self.ranks[index]):
            return Example([f"row {index}: ", Name(self.statuses[index])], fields)
        values = ", ".join(f"{name} {self.shown[name](found[index])}" for name, found in self.scores.items())
        share = self.kept_shares[index]
        state, share = ("kept", share) if self.is_kept[index] else ("dropped", 1 - share)
        reason = "" if np.isnan(share) else f", like {share:.0%} of its tenth"
        return Example([f"row {index}: {values}; easier than {self.ranks[index]:.0%}; {state}{reason}"], fields)


def _undecoded(dataset: Dataset) -> Dataset:
    """Images as they are stored: not all can be decoded."""
    for name, feature in dataset.features.items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(name, Image(decode=False))
    return dataset


def _readable(value: Any, feature: Any) -> Any:
    """The name of an image and of its folder, which is no path of this machine, and the name of a class."""
    if isinstance(feature, Image) and value is not None:
        return "/".join(Path(value["path"] or "").parts[-2:]) or f"image of {len(value['bytes'] or b''):,} bytes"
    if isinstance(feature, ClassLabel) and value in range(feature.num_classes):
        return feature.int2str(value)
    return value
