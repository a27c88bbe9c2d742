"""Rows without the most suspicious ones: the hardest are left out, and the budget is drawn from the others."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import ClassVar, Literal

import numpy as np

from .base import Selector
from .budget import walk
from .candidates import Candidates
from .flexrand import FlexRandSelector
from .ordering import bound, difficulty, drawn_order
from .two_peaks import threshold_between_peaks


logger = logging.getLogger(__name__)

# Why a row is left out.
SUSPICIOUS = "suspicious"


@dataclass
class CutSelector(FlexRandSelector):
    """
    Leave out the most suspicious rows, the hardest by a score, and draw the budget from the others.

    It is meant for rows of which some may be wrong, such as responses to other prompts. Scores that compare a response
    with its prompt find these: `dlc_ifd`, `dlc_prompt_gain` and `dlc_similarity`. A loss such as `dlc_plain_loss` can
    be used as well. Of 45 swapped responses among 300 rows of Alpaca, 41, 42, 43 and 23 were among the 45 hardest by
    these four scores (`recipes/studies/README.md`, "Wrong responses"). No score found wrong numbers in otherwise right
    responses.

    The hardest `cut` of the scored rows are left out, over all groups together, with the reason `"suspicious"`. From
    the others, `then` chooses:

    - `"random"`: rows drawn uniformly at random, as by [`RandomSelector`].
    - `"flexrand"`: half of the budget from the easiest `split` of the others and half from the rest, as by
      [`FlexRandSelector`].
    - `"stratified"`: rows drawn evenly over the range of the score. The range of the others is split into `strata`
      intervals of equal width, which are visited from the one with the fewest rows on. Each gives its part of what is
      left of the budget, or all its rows if these are fewer.

    The stratified rule with a cut is coverage-centric coreset selection: Zheng et al., "Coverage-centric Coreset
    Selection for High Pruning Rates", ICLR 2023, algorithm 1.

    With `cut="auto"` the share is estimated, from a score with two peaks. A mixture of two normal distributions is
    fitted by expectation maximisation (Dempster et al., 1977), to all rows but the easiest and the hardest 0.5%. Rows
    that more likely belong to the harder one are left out, and their number is logged. A score without two clear peaks
    is an error, never a guess; a peak of a few dozen rows is clear only if it is far away. There are two peaks if:

    - The Bayesian information criterion (Schwarz, "Estimating the Dimension of a Model", Annals of Statistics 1978)
      prefers two normal distributions to one by more than 10.
    - They are apart: Ashman's D, `sqrt(2) * |m1 - m2| / sqrt(s1**2 + s2**2)` of the means and the standard deviations,
      is above 2. The source is Ashman et al., "Detecting Bimodality in Astronomical Datasets", Astronomical Journal
      1994.
    - There are fewer rows between the means than at either, by more than three standard errors, in intervals of the
      same width. A distribution with one peak has no such three intervals, whatever its tails are.
    - The harder one has no more than half of the rows.

    Without `group_by`, a larger `keep` with the same seed contains the smaller one. Ties are ordered by row number: of
    equally hard rows, the last ones are left out.

    Args:
        keep (`float` or `int`, *optional*):
            Budget in rows. A float in (0, 1] is a share of all rows handed in, skipped and suspicious ones included,
            rounded half to even. An int is a number of rows (`1` is one row, `1.0` all rows). Pass either `keep` or
            `keep_tokens`.
        keep_tokens (`int`, *optional*):
            Budget in target tokens, never exceeded. The rows are gone through in their random order, and each that
            still fits is taken, so that in the end no row that was left over would fit. With `then="flexrand"` the
            halves count tokens, and with `then="stratified"` the intervals do. An interval takes the rows that fit
            into its part, and passes on what is left to the intervals after it. What the last one leaves over goes
            to further rows of any interval.
        cut (`float` or `"auto"`, *optional*, defaults to `0.1`):
            Share of the scored rows to leave out, in [0, 1), rounded half to even, or `"auto"`. Duplicates that
            `drop_duplicates` leaves out do not count.
        then (`"random"`, `"flexrand"` or `"stratified"`, *optional*, defaults to `"random"`):
            How rows are chosen from the others.
        strata (`int`, *optional*, defaults to `10`):
            Number of intervals, at least 1, for `then="stratified"`. With `group_by`, each group has its own. A score
            on an inner bound belongs to the harder interval; infinite scores belong to the outermost ones.
        split (`float`, *optional*, defaults to `0.5`):
            Share of the others that make up the easy interval, strictly between 0 and 1, for `then="flexrand"`.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the draw, at least 0.
        column (`str`, *optional*, defaults to `"dlc_ifd"`):
            Column of the scores. A row whose score is NaN is never selected.
        easy (`"auto"`, `"high"` or `"low"`, *optional*, defaults to `"auto"`):
            Which scores mean easy rows, as in [`FlexRandSelector`].
        group_by (`str`, *optional*):
            Column of strings, integers or `None`s. Groups get parts of the budget as in [`FlexRandSelector`].
        tokens_column (`str`, *optional*, defaults to `"dlc_tokens"`):
            Column of the number of target tokens, read for `keep_tokens` only.
        missing (`"drop"` or `"error"`, *optional*, defaults to `"drop"`):
            Leave skipped rows (NaN scores) out and log their number, or refuse them.
        min_per_group (`int`, *optional*, defaults to 0):
            Rows that are kept of every group, however small; of a group with fewer rows that may be taken, all of
            them.
        group_shares (`str` or `dict`, *optional*, defaults to `"proportional"`):
            Parts of the groups, as in [`FlexRandSelector`].
        drop_duplicates (`bool`, *optional*, defaults to `False`):
            Leave out duplicates, as in [`FlexRandSelector`].

    Example:
    ```python
    >>> from hf_dlc.selection.cut import CutSelector
    >>> ifd = [0.5, 0.9, 0.4, 1.3, 0.6, 0.7, 0.8, 0.3, 0.2, 1.2]
    >>> selector = CutSelector(keep=8, cut=0.2)
    >>> selector.get_indices(ifd)  # rows 3 and 9 are the hardest fifth
    array([0, 1, 2, 4, 5, 6, 7, 8])
    >>> CutSelector(keep=4, cut=0.2, then="stratified", strata=4).get_indices(ifd)
    array([2, 4, 6, 7])

    >>> from datasets import Dataset
    >>> dataset = Dataset.from_dict({"text": list("abcdefghij"), "dlc_ifd": ifd})
    >>> selector(dataset)["text"][:]
    ['a', 'b', 'c', 'e', 'f', 'g', 'h', 'i']
    >>> selector.select(dataset).reasons[3]
    'suspicious'

    ```
    """

    name: ClassVar[str] = "cut"
    varied: ClassVar[str | None] = "cut"
    advice: ClassVar[Mapping[str, str]] = {SUSPICIOUS: "Or pass a smaller cut, or another selector."}

    _: KW_ONLY
    column: str | None = "dlc_ifd"
    cut: float | Literal["auto"] = 0.1
    then: Literal["random", "flexrand", "stratified"] = "random"
    strata: int = 10

    def idle(self) -> list[str]:
        """Return the parameters that change nothing, as in [`Selector`]."""
        return [] if self.then == "stratified" else ["strata"]

    @property
    def is_told_by_the_budget(self) -> bool:
        """Whether scores that are all alike will do: they have no two peaks."""
        return super().is_told_by_the_budget and self.cut != "auto"

    def check(self) -> None:
        """Raise a `ValueError` for a parameter out of its range, such as a cut that is no share."""
        super().check()
        is_share = isinstance(self.cut, Real) and not isinstance(self.cut, bool) and 0 <= self.cut < 1
        if not is_share and not (isinstance(self.cut, str) and self.cut == "auto"):
            raise ValueError(f"cut must be a share in [0, 1) or 'auto', got {self.cut!r}.")
        if self.then not in ("random", "flexrand", "stratified"):
            raise ValueError(f"then must be 'random', 'flexrand' or 'stratified', got {self.then!r}.")
        if not isinstance(self.strata, Integral) or isinstance(self.strata, bool) or self.strata < 1:
            raise ValueError(f"strata must be a whole number, at least 1, got {self.strata!r}.")

    def bounds(self, scores: np.ndarray) -> dict[str, float]:
        """Return where the rows that are left out begin, as in [`Selector`]."""
        known = scores[np.isfinite(scores)]
        if self.cut == "auto":
            sign = float(difficulty(np.ones(1), self.easy, self.column)[0])
            return {"cut": sign * threshold_between_peaks(difficulty(known, self.easy, self.column), self.column)}
        hardest = round(len(known) * float(self.cut))
        is_inside = 0 < hardest < len(known)
        return {"cut": bound(scores, len(known) - hardest, self.easy, self.column)} if is_inside else {}

    def variants(self) -> dict[str, Selector]:
        """Return this selector alone: a comparison of splits is FlexRand's."""
        return {self.name: self}

    def _left_out(self, candidates: Candidates) -> Mapping[str, np.ndarray]:
        counted = candidates.scored
        if self.drop_duplicates:  # they are left out anyway
            counted = counted & ~candidates.duplicates
        rows = np.flatnonzero(counted)
        hardness = difficulty(candidates.scores[rows].astype(np.float64), self.easy, self.column)
        suspicious = np.zeros(candidates.rows, dtype=bool)
        if self.cut == "auto":
            suspicious[rows] = self._in_harder_peak(hardness)
        else:
            suspicious[rows] = _hardest(hardness, round(len(rows) * float(self.cut)))
        return {SUSPICIOUS: suspicious}

    def _in_harder_peak(self, hardness: np.ndarray) -> np.ndarray:
        """Mask of the rows that an estimated share leaves out, which is said."""
        threshold = threshold_between_peaks(hardness, self.column)
        is_harder = hardness > threshold
        sign = float(difficulty(np.ones(1), self.easy, self.column)[0])
        logger.info(
            "cut='auto' leaves out %d of %d rows (%.1f%%): those whose %s is %s %.4g.",
            np.count_nonzero(is_harder),
            len(hardness),
            100 * np.mean(is_harder),
            self.column,
            "above" if sign > 0 else "below",
            sign * threshold,
        )
        return is_harder

    def _pools(self, candidates: Candidates, group: str | None, quota: int) -> list[np.ndarray]:
        if self.then == "flexrand":
            return super()._pools(candidates, group, quota)
        order = drawn_order(candidates.rows, self.seed, group)
        if self.then == "random":
            return [order]
        order = order[candidates.scored[order]]
        strata = _strata(difficulty(candidates.scores[order].astype(np.float64), self.easy, self.column), self.strata)
        costs = np.ones(len(order), dtype=np.int64) if self.keep_tokens is None else candidates.tokens[order]
        taken = _evenly(strata, costs, quota)
        # One pool that begins with what the strata give for just this quota: the base takes all of it.
        return [np.concatenate([order[taken], order[~taken]])]

    def _rule(self, column: str) -> str:
        evenly = f"evenly over {self.strata} intervals of"
        if self.cut == 0:
            return {
                "random": "Rows were drawn at random",
                "flexrand": super()._rule(column),
                "stratified": f"Rows were drawn at random, {evenly} {column}",
            }[self.then]
        if self.cut == "auto":
            left_out = f"The rows in the harder of the two peaks of {column} were left out"
        else:
            left_out = f"The hardest {100 * self.cut:g}% of the rows by {column} were left out"
        chosen = {
            "random": "rows were drawn at random from the others",
            "flexrand": f"half of the budget was drawn from the easiest {self.split:.0%} of the others, half from the "
            "rest",
            "stratified": f"rows were drawn at random from the others, {evenly} the score",
        }[self.then]
        return f"{left_out}, and {chosen}"


def _hardest(hardness: np.ndarray, count: int) -> np.ndarray:
    """Mask of the `count` rows that come last in a stable sort, found by a partition in a fraction of its time."""
    hardest = np.zeros(len(hardness), dtype=bool)
    if count:
        bound = np.partition(hardness, -count)[-count]
        hardest = hardness > bound
        ties = np.flatnonzero(hardness == bound)
        hardest[ties[len(ties) - (count - np.count_nonzero(hardest)) :]] = True
    return hardest


def _strata(hardness: np.ndarray, strata: int) -> list[np.ndarray]:
    """Places of the rows in each of some intervals of equal width over the range of their scores, easiest first."""
    numbers = np.zeros(len(hardness), dtype=np.int64)
    finite = hardness[np.isfinite(hardness)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    if low < high:
        parts = (np.clip(hardness, low, high) - low) / (high - low)
        numbers = np.minimum((parts * strata).astype(np.int64), strata - 1)  # the last interval holds its upper bound
    # The smallest integer type that fits, because NumPy sorts 16-bit integers by radix, in a fraction of the time.
    by_stratum = np.argsort(numbers.astype(np.min_scalar_type(strata)), kind="stable")
    return np.split(by_stratum, np.cumsum(np.bincount(numbers, minlength=strata))[:-1])


def _evenly(strata: list[np.ndarray], costs: np.ndarray, budget: int) -> np.ndarray:
    """Mask of the rows that strata give, from the smallest to the largest, each an equal part of what is left."""
    taken = np.zeros(len(costs), dtype=bool)
    by_size = sorted(strata, key=lambda places: int(costs[places].sum()))  # of equal ones the easier first
    for number, places in enumerate(by_size):
        found = places[walk(costs[places], budget // (len(by_size) - number))]
        taken[found] = True
        budget -= int(costs[found].sum())
    return taken
