"""Agreement of two scorers on a sample of rows: whether the cheap one may stand for the one that costs more."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset

from hf_dlc.execution.skipped import count_skipped, in_words
from hf_dlc.scores.columns import SCORED_STATUSES
from hf_dlc.scores.table import SCORES
from hf_dlc.selection import TopKSelector
from hf_dlc.selection.ordering import drawn_order
from hf_dlc.utils.ranks import bootstrap_interval, spearman, spearman_along


_FEWEST_ROWS = 2


class Rater(NamedTuple):
    """A scorer, as far as a comparison needs to know it."""

    name: str  # for people
    kind: str  # of its task
    score: Callable[[Dataset], Dataset]
    prefix: str = "dlc"  # of its columns


@dataclass(frozen=True)
class AgreementOnOneScore:
    """
    Agreement on one score.

    Args:
        score (`str`):
            Name in the table of scores.
        rows (`int`):
            Rows of which both have a number.
        spearman (`float`):
            Rank correlation in [-1, 1]; 1 is the same order, NaN if a scorer gives all rows the same number.
        low (`float`):
            Lower end of its 95% bootstrap interval.
        high (`float`):
            Upper end of it.
        easiest (`float`):
            Share of the kept rows that both keep where the easiest are kept, in [0, 1].
        hardest (`float`):
            The same where the hardest are kept.
    """

    score: str
    rows: int
    spearman: float
    low: float
    high: float
    easiest: float
    hardest: float


@dataclass(frozen=True)
class Agreement:
    """
    Agreement of two scorers on a sample of rows, as [`DLCScorer.agreement`] returns it.

    Args:
        scorer (`str`):
            The scorer that was asked.
        other (`str`):
            The one that it is compared with.
        sampled (`int`):
            Rows that both were given.
        rows (`int`):
            Rows that both have scored.
        only_scorer (`dict[str, int]`):
            Rows that only the first has scored, by the reason of the other.
        only_other (`dict[str, int]`):
            Rows that only the other has scored, by the reason of the first.
        neither (`dict[str, int]`):
            Rows that none has scored, by the reason of the first.
        keep (`float`):
            Share of the rows of which the overlaps are; unrelated scores are expected to have as much of an overlap.
        threshold (`float`):
            Rank correlation that is asked for.
        scores (`tuple[AgreementOnOneScore, ...]`):
            Agreement on each score that both have.
        missing (`dict[str, str]`):
            Of each score that is not compared, which scorer has no number for it.
    """

    scorer: str
    other: str
    sampled: int
    rows: int
    only_scorer: dict[str, int]
    only_other: dict[str, int]
    neither: dict[str, int]
    keep: float
    threshold: float
    scores: tuple[AgreementOnOneScore, ...]
    missing: dict[str, str]

    @property
    def below(self) -> tuple[AgreementOnOneScore, ...]:
        """Scores whose rank correlation is below the threshold, or not known."""
        return tuple(one for one in self.scores if not one.spearman >= self.threshold)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; a number that is not known is null."""
        found = asdict(self)
        found["scores"] = [
            {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in one.items()}
            for one in found["scores"]
        ]
        return found

    def __str__(self) -> str:
        """A verdict in the first line, the table, and what was not compared."""
        lines = [self._verdict(), f"{self.scorer}, compared with {self.other} on {self.rows} of {self.sampled} rows"]
        header = f"{'score':<14}{'Spearman':>9}  {'95% interval':<16}{'easiest':>8}{'hardest':>9}{'rows':>7}"
        lines += [header, *map(_line, self.scores)]
        lines.append(f"easiest, hardest: share of the {self.keep:g} that both keep; {self.keep:g} is chance")
        for who, counts in (
            (f"scored by {self.scorer} only", self.only_scorer),
            (f"scored by {self.other} only", self.only_other),
            ("scored by neither", self.neither),
        ):
            if counts:
                lines.append(f"{sum(counts.values())} row(s) {who}: {in_words(counts, {})}")
        return "\n".join([*lines, *(f"not compared: {name}, {why}" for name, why in self.missing.items())])

    def _verdict(self) -> str:
        if not self.below:
            lowest = min(self.scores, key=lambda one: one.spearman)
            return f"All scores agree with {self.threshold:g} or more, the lowest is {_number(lowest)}."
        return f"Below {self.threshold:g}: {', '.join(map(_number, self.below))}."


def _number(one: AgreementOnOneScore) -> str:
    return f"{one.score} {one.spearman:.3f}"


def _line(one: AgreementOnOneScore) -> str:
    interval = f"{one.low:.3f} to {one.high:.3f}"
    numbers = f"{one.score:<14}{one.spearman:>9.3f}  {interval:<16}{one.easiest:>8.2f}{one.hardest:>9.2f}"
    return f"{numbers}{one.rows:>7}"


def measure_agreement(
    scorer: Rater, other: Rater, dataset: Dataset, rows: int, keep: float, seed: int, threshold: float
) -> Agreement:
    """
    Let both score the same rows, and compare.

    Args:
        scorer ([`Rater`]):
            The scorer that is asked.
        other ([`Rater`]):
            The one that it is compared with.
        dataset ([`~datasets.Dataset`]):
            The rows of which a sample is drawn.
        rows (`int`):
            Size of the sample.
        keep (`float`):
            Share of the rows of which the overlaps are.
        seed (`int`):
            Seed of the sample and of the intervals.
        threshold (`float`):
            Rank correlation that is asked for.

    Returns:
        [`Agreement`]

    Raises:
        ValueError: If an argument is out of its range, if the scorers are of different kinds, or if fewer than two
            rows or no score can be compared.
    """
    _check(scorer, other, rows, keep, threshold)
    sample = dataset.select(sorted(drawn_order(len(dataset), seed, None)[:rows].tolist()))
    mine, theirs = _score(scorer, sample), _score(other, sample)
    both = mine.is_scored & theirs.is_scored
    skipped = {
        "only_scorer": theirs.reasons(mine.is_scored & ~theirs.is_scored),
        "only_other": mine.reasons(theirs.is_scored & ~mine.is_scored),
        "neither": mine.reasons(~mine.is_scored & ~theirs.is_scored),
    }
    if both.sum() < _FEWEST_ROWS:
        raise ValueError(
            f"at least {_FEWEST_ROWS} rows must be scored by both, got {both.sum()} of {len(sample)}. Without a score "
            f"are {skipped}. Pass other rows, or more."
        )
    scores, missing = _compare_all(mine, theirs, both, keep, seed)
    facts = {"keep": keep, "threshold": threshold, "scores": scores, "missing": missing}
    return Agreement(scorer.name, other.name, len(sample), int(both.sum()), **skipped, **facts)


def _check(scorer: Rater, other: Rater, rows: int, keep: float, threshold: float) -> None:
    if scorer.kind != other.kind:
        raise ValueError(
            f"both scorers must be for the same kind of rows, got {scorer.name} for {scorer.kind} and {other.name} "
            f"for {other.kind}. Pass a model of the same kind as other=."
        )
    if type(rows) is not int or rows < _FEWEST_ROWS:
        raise ValueError(f"rows must be a whole number of at least {_FEWEST_ROWS}, got {rows!r}.")
    if not (isinstance(keep, float) and 0 < keep < 1):
        raise ValueError(f"keep must be a share of the rows between 0 and 1, got {keep!r}.")
    if not -1 <= threshold <= 1:
        raise ValueError(f"threshold must be a rank correlation in [-1, 1], got {threshold!r}.")


class _Scored(NamedTuple):
    """What a scorer says of the sample."""

    name: str
    statuses: np.ndarray
    scores: dict[str, np.ndarray]

    @property
    def is_scored(self) -> np.ndarray:
        return np.isin(self.statuses, list(SCORED_STATUSES))

    def reasons(self, rows: np.ndarray) -> dict[str, int]:
        """Number of some rows by the reason why they have no score."""
        return count_skipped(self.statuses[rows].tolist())


def _score(rater: Rater, sample: Dataset) -> _Scored:
    columns = {f"{rater.prefix}_{name}": name for name in SCORES}
    sample = sample.remove_columns([name for name in columns if name in sample.column_names])  # of an earlier scoring
    scored = rater.score(sample)
    statuses = np.array(scored[f"{rater.prefix}_status"][:], dtype=object)
    found = {name: np.array(scored[column][:]) for column, name in columns.items() if column in scored.column_names}
    return _Scored(rater.name, statuses, found)


def _compare_all(
    mine: _Scored, theirs: _Scored, rows: np.ndarray, keep: float, seed: int
) -> tuple[tuple[AgreementOnOneScore, ...], dict[str, str]]:
    """Each score that both have, and of the others who has no number for it."""
    scores, missing = [], {}
    nothing = np.full(len(rows), np.nan)
    for name in SCORES:
        pair = [one.scores.get(name, nothing)[rows] for one in (mine, theirs)]
        without = [one.name for one, values in zip((mine, theirs), pair, strict=True) if np.isnan(values).all()]
        if not without and np.isfinite(pair).all(axis=0).sum() < _FEWEST_ROWS:
            missing[name] = f"fewer than {_FEWEST_ROWS} rows have it from both"
        elif not without:
            scores.append(_compare(name, *pair, keep, seed))
        elif len(without) == 1:
            missing[name] = f"no number by {without[0]}"
    if not scores:
        raise ValueError(f"the scorers must have a score in common, got {missing or 'none at all'}.")
    return tuple(scores), missing


def _compare(name: str, mine: np.ndarray, theirs: np.ndarray, keep: float, seed: int) -> AgreementOnOneScore:
    known = ~(np.isnan(mine) | np.isnan(theirs))
    mine, theirs = mine[known], theirs[known]
    low, high = bootstrap_interval(spearman_along, mine, theirs, seed=seed)
    overlaps = []
    for end in ("easiest", "hardest"):
        selector = TopKSelector(keep=keep, which=end, easy=SCORES[name].easy)
        kept, others = (selector.get_indices(values) for values in (mine, theirs))
        overlaps.append(len(np.intersect1d(kept, others)) / len(kept))
    return AgreementOnOneScore(name, len(mine), spearman(mine, theirs), low, high, *overlaps)
