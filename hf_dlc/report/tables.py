"""Sections of a report: tables, lists and examples of scored rows and of what was kept of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from datasets import ClassLabel, Dataset, Image, Value

from hf_dlc.scores.base import Score
from hf_dlc.scores.columns import (
    PREDICTED,
    SCORED_STATUSES,
    TRUNCATED,
    present_scores,
    score_features,
    vector_features,
)
from hf_dlc.scores.table import SCORES
from hf_dlc.utils.ranks import spearman

from .render import Example, Examples, Field, Line, Lines, Name, RowCells, RowTable, Section, Table, Words, one_line
from .statistics import auroc, within_groups


_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_INTERVALS = 10
_MOST_GROUPS = 20
_MOST_ROWS = 300  # of the table that can be searched
_WANTED_HEADER = ["wanted row", "kept rows", "mean similarity", "nearest kept row"]
_FLAGS = {"True": True, "true": True, "1": True, "False": False, "false": False, "0": False}
_NO_SCORE = "no_score"  # as selectors call rows that have none
_PLAIN_LOSS = "plain_loss"  # also of rows that were scored without it, from the loss of level 0


class HeldOutAgreement(Protocol):
    """How well the predictions of a score agree with the truth, on scored rows that the predictor had not seen."""

    @property
    def spearman(self) -> float | None:
        """Rank correlation in [-1, 1]; `None` or NaN if not known."""

    @property
    def low(self) -> float | None:
        """Lower end of its 95% interval."""

    @property
    def high(self) -> float | None:
        """Upper end of it."""


@dataclass(frozen=True)
class Scores:
    """
    A number of each row, and what it means.

    Args:
        meaning ([`Score`]):
            Its line of the table of scores.
        values (`np.ndarray` of shape `(rows,)`):
            The numbers, NaN for a row without a score.
        text (`str`):
            What it is, in words.
    """

    meaning: Score
    values: np.ndarray
    text: str

    @property
    def hardness(self) -> np.ndarray:
        """The numbers, turned so that harder is higher."""
        return -self.values if self.meaning.easy == "high" else self.values

    @property
    def ranks(self) -> pd.Series:
        """Share of the scored rows that are easier, or as easy."""
        return pd.Series(self.hardness).rank(pct=True)

    def hardest(self, number: int) -> np.ndarray:
        """Indices of the hardest rows that have the score, ties in the order of the rows."""
        known = int((~np.isnan(self.values)).sum())
        return np.argsort(-self.hardness, kind="stable")[: min(number, known)]  # NaN comes last


@dataclass(frozen=True)
class Facts:
    """
    What else is known of a run.

    Args:
        run (`Mapping[str, str]`, *optional*):
            What was run, by what it is called: model, data, command and the like.
        rule (`Line`, *optional*):
            How rows were chosen, in words.
        shared_with_random (`int`, *optional*):
            Number of the kept rows that as many random rows of the same seed hold as well.
        price (`str`, *optional*):
            What scoring has cost beside training, in words.
        price_unknown (`str`, *optional*):
            Why the price is not known, where it was asked for.
        left_out (`Mapping[str, int]`, *optional*):
            Number of the rows that were left out before rows were chosen, by the reason.
        predicted (`Mapping[str, HeldOutAgreement]`, *optional*):
            By the name of each score that was predicted how well held-out rows agree.
    """

    run: Mapping[str, str] | None = None
    rule: Line = ()
    shared_with_random: int | None = None
    price: str | None = None
    price_unknown: str | None = None
    left_out: Mapping[str, int] | None = None
    predicted: Mapping[str, HeldOutAgreement] | None = None

    @property
    def cost(self) -> list[Line]:
        """The line of the price, or of why it is not known: that may be the message of an error, with any text."""
        if self.price:
            return [[f"cost: {self.price}"]]
        return [["cost beside training: not known, ", Name(self.price_unknown)]] if self.price_unknown else []


@dataclass(frozen=True)
class Rows:
    """
    Scored rows, and which of them were kept: all that sections are made of.

    Args:
        scored ([`~datasets.Dataset`]):
            The rows with their scores.
        is_kept (`np.ndarray` of shape `(rows,)`):
            Which of them were kept.
        column (`str`):
            Column by which rows were selected.
        column_prefix (`str`):
            What the names of the score columns begin with.
        group_by (`str`, *optional*):
            Column within whose groups rows were selected.
        scores (`dict[str, Scores]`):
            The scores that are present, by their names, and plain loss (level 0) where the levels are known.
        is_scored (`np.ndarray` of shape `(rows,)`):
            Which of the rows have a score.
        tokens (`np.ndarray` of shape `(rows,)`):
            Target tokens of each row.
        notes (`tuple[str, ...]`, *optional*):
            Columns of what a selector has said of the rows that it kept.
    """

    scored: Dataset
    is_kept: np.ndarray
    column: str
    column_prefix: str
    group_by: str | None
    scores: dict[str, Scores]
    is_scored: np.ndarray
    tokens: np.ndarray
    notes: tuple[str, ...] = ()

    @classmethod
    def read(
        cls,
        scored: Dataset,
        kept: np.ndarray,
        column: str,
        column_prefix: str,
        group_by: str | None = None,
        notes: tuple[str, ...] = (),
    ) -> Rows:
        """Read the score columns; `kept` holds the indices of the kept rows, `notes` what a selector says of them."""
        is_kept = np.zeros(len(scored), dtype=bool)
        is_kept[kept] = True
        scores = {
            name: Scores(SCORES[name], read_column(scored, f"{column_prefix}_{name}"), SCORES[name].text)
            for name in present_scores(scored.column_names, column_prefix)
        }
        if _PLAIN_LOSS not in scores and f"{column_prefix}_level_loss" in scored.column_names:
            levels = scored[f"{column_prefix}_level_loss"]
            plain = np.array([losses[0] for losses in levels], dtype=np.float64)
            scores[_PLAIN_LOSS] = Scores(SCORES[_PLAIN_LOSS], plain, SCORES[_PLAIN_LOSS].text)
        is_scored = np.isin(scored[f"{column_prefix}_status"][:], list(SCORED_STATUSES))
        tokens = read_column(scored, f"{column_prefix}_tokens")
        return cls(scored, is_kept, column, column_prefix, group_by, scores, is_scored, tokens, notes)

    @property
    def main(self) -> Scores:
        """The score by which rows are shown in order: confidence, or else the first that there is."""
        return self.scores.get("confidence") or next(iter(self.scores.values()))

    @property
    def have_lengths(self) -> bool:
        """Whether the number of target tokens says something of a row: more than one target at least once."""
        return not len(self.tokens) or self.tokens.max() != 1


def all_sections(rows: Rows, flag_column: str | None, examples: int, facts: Facts | None = None) -> Iterator[Section]:
    """
    Make the sections of a report, in order. The first is the whole in a few lines.

    Args:
        rows ([`Rows`]):
            What they are about.
        flag_column (`str`, *optional*):
            Boolean column whose rows should stand out.
        examples (`int`):
            Rows that are shown of each kind.
        facts ([`Facts`], *optional*):
            What else is known of the run.

    Returns:
        `Iterator[Section]`: Those for which there is something to say.
    """
    facts = facts or Facts()
    yield _overview(rows, flag_column, facts)
    if facts.run:
        yield Lines(["Run"], [[f"{name}: ", Words(value)] for name, value in facts.run.items()])
    if facts.predicted:
        yield _predicted_table(facts.predicted)
    yield Lines(["Scores"], [[_meaning(name, score)] for name, score in rows.scores.items()])
    yield _quantile_table(rows)
    yield _interval_table(rows)
    yield _correlation_table(rows)
    if rows.is_kept.any():
        yield _overlap_table(rows)
    if rows.group_by is not None:
        yield _group_table(rows)
    if flag_column:
        yield _flag_table(rows, flag_column)
    if f"{rows.column_prefix}_wanted" in rows.notes:
        yield _wanted_table(rows)
    if f"{rows.column_prefix}_votes" in rows.notes:
        yield _votes_table(rows)
    show, order = _Shower(rows), _easiest_first(rows)
    yield show("Easiest rows", order[:examples])
    yield show("Hardest rows", order[::-1][:examples])
    others = {
        "Rows that plain loss ranks otherwise": _disagreements(rows),
        "Rows without a score": np.flatnonzero(~rows.is_scored),
    }
    yield from (show(title, places[:examples]) for title, places in others.items() if len(places))


def row_table(rows: Rows) -> RowTable:
    """Make the table of rows that a page can sort and search: all, or 300 drawn at random."""
    return _Shower(rows).table(_MOST_ROWS)


def read_column(dataset: Dataset, name: str) -> np.ndarray:
    """Return a column of numbers as float64."""
    return np.asarray(dataset.with_format("numpy")[name][:], dtype=np.float64)


def read_flags(dataset: Dataset, name: str) -> np.ndarray:
    """Return a column of true and false; all that a CSV file holds is text, of which "False" would be true."""
    kind, values = dataset.features[name], dataset[name][:]
    if getattr(kind, "dtype", None) in ("bool", "int64"):
        return np.asarray(values, dtype=bool)
    wrong = [value for value in values if value not in _FLAGS] if kind == Value("string") else [kind]
    if wrong:
        raise ValueError(f"flag_column must hold true and false, but {name!r} holds {wrong[0]}.")
    return np.array([_FLAGS[value] for value in values], dtype=bool)


def _easiest_first(rows: Rows) -> np.ndarray:
    """Scored rows by the main score, or by their rank in their group."""
    hardness = rows.main.hardness
    if rows.group_by is not None:
        groups = pd.Series(rows.scored.with_format(None)[rows.group_by][:])
        # As the rank of ease, the easiest row of each group has 100%, however many rows the group has.
        hardness = -pd.Series(-hardness).groupby(groups, dropna=False).rank(pct=True).to_numpy()
    order = np.argsort(hardness, kind="stable")
    return order[~np.isnan(hardness[order])]


def _disagreements(rows: Rows) -> np.ndarray:
    """Rows by how differently the main score and plain loss rank them, most differently first."""
    if _PLAIN_LOSS not in rows.scores:
        return np.empty(0, dtype=np.int64)
    distance = (rows.main.ranks - rows.scores[_PLAIN_LOSS].ranks).abs().to_numpy()
    order = np.argsort(-distance, kind="stable")
    return order[distance[order] > 0]


def _predicted_table(predicted: Mapping[str, HeldOutAgreement]) -> Table:
    """How far predicted scores can be trusted; a record that holds it may have been written by anybody."""
    lines = []
    for name, found in predicted.items():
        numbers = [np.nan if value is None else value for value in (found.spearman, found.low, found.high)]
        spearman, low, high = (None if np.isnan(value) else f"{value:.3f}" for value in numbers)
        lines.append([Name(name), spearman or "not known", f"{low} to {high}" if low and high else "not known"])
    title = "Predicted scores against true ones, on scored rows that were held out"
    return Table([title], ["score", "Spearman", "95% interval"], lines)


def _overview(rows: Rows, flag_column: str | None, facts: Facts) -> Lines:
    count, kept, tokens = len(rows.scored), rows.is_kept, rows.tokens
    counts = dict(Counter(rows.scored[f"{rows.column_prefix}_status"]).most_common())
    skipped = {status: number for status, number in counts.items() if status not in SCORED_STATUSES}
    share = f"{kept.sum() / count:.1%}" if count else "-"
    targets = f", {tokens[kept].sum():,.0f} of {tokens.sum():,.0f} target tokens" if rows.have_lengths else ""
    left_out = dict(facts.left_out or {})
    if left_out.get(_NO_SCORE) == sum(skipped.values()):
        del left_out[_NO_SCORE]  # they stand below
    predicted = f", {counts[PREDICTED]:,} predicted" if counts.get(PREDICTED) else ""
    truncated = f", {counts[TRUNCATED]:,} truncated" if counts.get(TRUNCATED) else ""
    lines = [
        [f"kept: {kept.sum():,} of {count:,} rows ({share}){targets}"],
        *([["chosen: ", *facts.rule]] if facts.rule else []),
        *([["left out before rows were chosen: ", *_named(left_out)]] if left_out else []),
        *([_flagged(rows, flag_column)] if flag_column else []),
        *_shared(int(kept.sum()), facts.shared_with_random),
        [f"scored: {count - sum(skipped.values()):,} of {count:,} rows{predicted}{truncated}"],
        *([["skipped: ", *_named(skipped)]] if skipped else []),
        *facts.cost,
    ]
    return Lines(["Rows"], lines)


class Flagged(NamedTuple):
    """Number of rows of which a column says true."""

    rows: int
    kept: int
    expected: float  # in as many random rows of those that have a score


def flagged_rows(scored: Dataset, kept: np.ndarray, flag_column: str, column_prefix: str = "dlc") -> Flagged:
    """Count the flagged rows, in all and among the kept ones, whose indices are given."""
    flags = read_flags(scored, flag_column)
    is_scored = np.isin(scored[f"{column_prefix}_status"][:], list(SCORED_STATUSES))
    expected = flags[is_scored].sum() * len(kept) / max(1, is_scored.sum())
    return Flagged(int(flags.sum()), int(flags[kept].sum()), float(expected))


def _flagged(rows: Rows, flag_column: str) -> Line:
    found = flagged_rows(rows.scored, np.flatnonzero(rows.is_kept), flag_column, rows.column_prefix)
    kept = f"{found.kept:,} of {found.rows:,}; random rows: {found.expected:,.1f} expected"
    return ["rows with ", Name(flag_column), f" kept: {kept}"]


def _shared(kept: int, shared: int | None) -> list[Line]:
    if shared is None or not kept:
        return []
    return [[f"shared with random rows of the same budget: {shared:,} ({shared / kept:.0%})"]]


def _named(counts: Mapping[str, int]) -> list[Any]:
    """Counts with their names, with commas between them."""
    return [part for name, number in counts.items() for part in (", ", f"{number:,} ", Name(name))][1:]


def _meaning(name: str, score: Scores) -> str:
    """What a score is, in which range, and which of its values are easy rows."""
    low, high, unit = score.meaning.low, score.meaning.high, score.meaning.unit
    bounds = f"{low:g} to {high:g}" if math.isfinite(high) else f"{low:g} or more" if math.isfinite(low) else "any"
    told = f"{bounds} {unit}" if unit else "any number" if bounds == "any" else bounds
    return f"{name}: {score.text} ({told}, {score.meaning.easy} values are easy rows)"


def _shown(values: np.ndarray) -> Callable[[float], str]:
    """Numbers with as many digits as tell the values apart, and at least three."""
    known = values[~np.isnan(values)]
    spread = float(known.max() - known.min()) if known.size else 0.0
    digits = 3 if spread <= 0 or not math.isfinite(spread) else min(9, max(3, 2 - math.floor(math.log10(spread))))
    return partial(_or_dash, form=f".{digits}f")


def _quantile_table(rows: Rows) -> Table:
    lines = [
        [name, *map(_shown(score.values), np.nanquantile(score.values, _QUANTILES))]
        for name, score in rows.scores.items()
        if not np.isnan(score.values).all()
    ]
    return Table(["Score quantiles"], ["score", *(f"{quantile:.0%}" for quantile in _QUANTILES)], lines)


def _tenths(values: np.ndarray) -> list[np.ndarray]:
    """Places of the tenths of the rows by rank, highest score first; rows without a score are in none."""
    order = np.argsort(-values, kind="stable")
    order = order[~np.isnan(values[order])]
    return np.array_split(order, min(_INTERVALS, len(order))) if len(order) else []


def _interval_table(rows: Rows) -> Table:
    """What was kept of each tenth of the rows."""
    values = read_column(rows.scored, rows.column)
    lines, shown = [], _shown(values)
    for part in _tenths(values):
        bounds = f"{shown(values[part[0]])} to {shown(values[part[-1]])}"
        lines.append([bounds, *_kept_and_dropped(len(part), rows.is_kept[part].sum())])
    header = ["interval", "rows", "kept", "dropped", "kept share"]
    return Table(["Kept and dropped by ", Name(rows.column)], header, lines)


def _kept_and_dropped(size: int, kept: int) -> list[str]:
    return [f"{size:,}", f"{kept:,}", f"{size - kept:,}", f"{kept / size:.0%}"]


def _correlation_table(rows: Rows) -> Table:
    """Within groups where there are any: scores of different classes of images do not compare."""
    others = {"response length": rows.tokens} if rows.have_lengths else {}
    if _PLAIN_LOSS in rows.scores:
        others[_PLAIN_LOSS] = rows.scores[_PLAIN_LOSS].values
    group_by = rows.group_by
    groups = np.zeros(len(rows.scored)) if group_by is None else rows.scored.with_format(None)[group_by][:]
    lines = [
        [name, *(_or_dash(within_groups(spearman, score.values, other, groups), "+.3f") for other in others.values())]
        for name, score in rows.scores.items()
    ]
    title = ["Spearman correlation"] if group_by is None else ["Spearman correlation within ", Name(group_by)]
    return Table(title, ["score", *others], lines)


def _overlap_table(rows: Rows) -> Table:
    """How many of the kept rows simpler rules would have kept, if they had kept as many."""
    is_scored, count = rows.is_scored, int(rows.is_kept.sum())
    rivals = {}
    if rows.have_lengths:
        rivals["longest responses"] = -rows.tokens
    if _PLAIN_LOSS in rows.scores:
        plain = rows.scores[_PLAIN_LOSS].values
        rivals |= {"lowest plain loss": plain, "highest plain loss": -plain}
    lines = [["random rows (expected)", f"{count / max(1, is_scored.sum()):.0%}"]]
    for name, values in rivals.items():
        order = np.argsort(np.where(is_scored, values, np.inf), kind="stable")[:count]
        lines.append([name, f"{rows.is_kept[order].mean():.0%}"])
    return Table(["Kept rows that other rules would keep"], ["rule", "overlap"], lines)


def group_counts(scored: Dataset, is_kept: np.ndarray, group_by: str) -> pd.DataFrame:
    """Rows (`size`) and kept rows (`sum`) of each group, by its name, largest first."""
    feature = scored.features[group_by]
    groups = pd.Series([_readable(value, feature) for value in scored.with_format(None)[group_by][:]], dtype=object)
    counts = pd.DataFrame({"group": groups.map(lambda value: value if isinstance(value, str) else one_line(value))})
    counts = counts.assign(kept=is_kept).groupby("group")["kept"].agg(["size", "sum"])
    return counts.sort_values("size", ascending=False, kind="stable")


def _group_table(rows: Rows) -> Table:
    counts = group_counts(rows.scored, rows.is_kept, rows.group_by)
    shown, rest = counts.iloc[:_MOST_GROUPS], counts.iloc[_MOST_GROUPS:]
    lines = [[Name(group), *_kept_and_dropped(size, kept)] for group, size, kept in shown.itertuples()]
    if len(rest):
        lines.append([f"{len(rest):,} others", *_kept_and_dropped(*rest.sum())])
    title = ["Kept and dropped by ", Name(rows.group_by)]
    return Table(title, ["group", "rows", "kept", "dropped", "kept share"], lines)


def _wanted_table(rows: Rows) -> Table:
    """Counts of the kept rows by the wanted row that took them; -1 stands for those that were drawn at random."""
    columns = {"wanted": f"{rows.column_prefix}_wanted", "similarity": f"{rows.column_prefix}_wanted_similarity"}
    kept = np.flatnonzero(rows.is_kept)
    found = pd.DataFrame({name: read_column(rows.scored, column)[kept] for name, column in columns.items()})
    found["row"] = kept
    groups = found.sort_values("similarity", ascending=False, kind="stable").groupby("wanted")
    counts = groups.agg(rows=("row", "size"), similarity=("similarity", "mean"), nearest=("row", "first"))
    counts = counts.sort_values("rows", ascending=False, kind="stable")
    lines = [
        [f"{wanted:.0f}", f"{of.rows:,.0f}", f"{of.similarity:.3f}", f"row {of.nearest:.0f}"]
        if wanted >= 0
        else ["drawn at random", f"{of.rows:,.0f}", "-", "-"]
        for wanted, of in counts.iloc[:_MOST_GROUPS].iterrows()
    ]
    if len(counts) > _MOST_GROUPS:
        lines.append(
            [f"{len(counts) - _MOST_GROUPS:,} others", f"{counts.rows.iloc[_MOST_GROUPS:].sum():,}", "-", "-"]
        )
    return Table(["Kept rows by the wanted row that took them"], _WANTED_HEADER, lines)


def _votes_table(rows: Rows) -> Table:
    """Counts of the kept rows by the votes that their group has got."""
    votes = pd.Series(read_column(rows.scored, f"{rows.column_prefix}_votes")[rows.is_kept])
    counts = votes.value_counts().sort_index(ascending=False)
    lines = [[f"{votes:.0f}", f"{count:,}"] for votes, count in counts.iloc[:_MOST_GROUPS].items()]
    if len(counts) > _MOST_GROUPS:
        lines.append([f"{len(counts) - _MOST_GROUPS:,} others", f"{counts.iloc[_MOST_GROUPS:].sum():,}"])
    return Table(["Kept rows by the votes of the wanted rows for their group"], ["votes", "kept rows"], lines)


def _flag_table(rows: Rows, flag_column: str) -> Table:
    """How well each score, turned so that harder is higher, tells the flagged rows from the others."""
    flags = read_flags(rows.scored, flag_column)
    lines = [
        [
            name,
            _or_dash(auroc(score.hardness, flags), ".3f"),
            _or_dash(score.ranks[flags].dropna().median(), ".0%"),
            f"{flags[score.hardest(int(flags.sum()))].sum():,}",
        ]
        for name, score in rows.scores.items()
    ]
    title = ["Rows with ", Name(flag_column), f" ({flags.sum():,} of {len(flags):,})"]
    header = ["score", "AUROC (harder than the others)", "median percentile, 100% = hardest"]
    return Table(title, [*header, f"among the {flags.sum():,} hardest"], lines)


def _or_dash(value: float, form: str) -> str:
    """A number, or a dash where there are no rows to tell it of."""
    return "-" if np.isnan(value) else f"{value:{form}}"


class _Shower:
    """Shows rows with their scores, their rank, whether they were kept, and what became of others with such scores."""

    def __init__(self, rows: Rows) -> None:
        scored, column_prefix = rows.scored, rows.column_prefix
        self.scores, self.is_kept, self.is_scored = rows.scores, rows.is_kept, rows.is_scored
        self.kept_shares = np.full(len(scored), np.nan)
        for part in _tenths(read_column(scored, rows.column)):
            self.kept_shares[part] = rows.is_kept[part].mean()
        self.statuses = scored[f"{column_prefix}_status"][:]
        self.easier_than = pd.Series(-rows.main.hardness).rank(pct=True).to_numpy()
        self.shown = {name: _shown(score.values) for name, score in rows.scores.items()}
        written = {*score_features(column_prefix, True, SCORES), *vector_features(column_prefix)}
        hidden = written.intersection(scored.column_names)
        self.rows = _undecoded(scored.remove_columns(sorted(hidden)))
        self.notes = rows.notes

    def __call__(self, title: str, indices: np.ndarray) -> Examples:
        return Examples([title], [self._example(index) for index in indices.tolist()])

    def table(self, most: int) -> RowTable:
        """Rows that can be sorted and searched: all, or as many drawn at random."""
        count = len(self.is_kept)
        drawn = np.sort(np.random.default_rng(0).permutation(count)[:most])
        which = f"all {count:,}" if count <= most else f"{most:,} of {count:,}, drawn at random"
        rows = [RowCells(self._cells(index), self._texts(index)) for index in drawn.tolist()]
        return RowTable([f"Rows to look through ({which})"], ["row", "kept", *self.scores], rows)

    def _cells(self, index: int) -> list[str]:
        values = [self.shown[name](score.values[index]) for name, score in self.scores.items()]
        return [str(index), "kept" if self.is_kept[index] else "dropped", *values]

    def _example(self, index: int) -> Example:
        return Example(self._heading(index), self._texts(index))

    def _texts(self, index: int) -> list[Field]:
        features = self.rows.features
        return [
            Field.of(name, _readable(value, features[name]))
            for name, value in (self.rows[index] if features else {}).items()
            if self.is_kept[index] or name not in self.notes  # there is nothing to say of others
        ]

    def _heading(self, index: int) -> Line:
        if not self.is_scored[index]:
            return [f"row {index}: ", Name(self.statuses[index])]
        values = ", ".join(f"{name} {self.shown[name](score.values[index])}" for name, score in self.scores.items())
        share = self.kept_shares[index]
        state, share = ("kept", share) if self.is_kept[index] else ("dropped", 1 - share)
        reason = "" if np.isnan(share) else f", like {share:.0%} of its tenth"
        return [f"row {index}: {values}; easier than {self.easier_than[index]:.0%}; {state}{reason}"]


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
