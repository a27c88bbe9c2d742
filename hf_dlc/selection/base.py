"""Parameters and machinery of all selectors: reading the columns, checking them, and filling the budget."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np

from hf_dlc.utils.share import rows_to_keep

from .budget import share_out_at_least, tokens_to_keep, walk, water_fill
from .candidates import Candidates, Notes
from .columns import (
    as_features,
    as_scores,
    as_tokens,
    read_column,
    read_duplicates,
    read_numbers,
    read_texts,
    require_map_style,
)
from .group_shares import GroupShares, check_group_shares, group_weights
from .ordering import split_groups
from .vectors import made_by, read_vectors


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    DatasetOrDict = TypeVar("DatasetOrDict", Dataset, DatasetDict)

logger = logging.getLogger(__name__)

DEFAULT_COLUMN = "dlc_confidence"

# Why a row is kept or left out; a selector may have further reasons.
KEPT = "kept"
NO_SCORE = "no_score"  # or no features
DUPLICATE = "duplicate"
NOT_CHOSEN = "not_chosen"


@dataclass(frozen=True)
class Selection:
    """
    What a selector keeps, and why it leaves the other rows out.

    Args:
        indices (`np.ndarray` of shape `(kept,)`):
            Numbers of the kept rows in ascending order, int64.
        left_out (`Mapping[str, np.ndarray]`):
            Masks of the rows that were not chosen from, by the reason.
        notes (`Mapping[str, np.ndarray]`):
            By its name what the selector says of each kept row.
    """

    indices: np.ndarray
    left_out: Mapping[str, np.ndarray]
    notes: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def reasons(self) -> np.ndarray:
        """
        Return of each row `"kept"`, or why it was left out: `"no_score"`, `"duplicate"`, `"not_chosen"` or a reason of
        the selector's own, as an array of shape `(rows,)`.
        """
        reasons = np.full(len(self.left_out[NO_SCORE]), NOT_CHOSEN, dtype=object)
        for reason, rows in {**self.left_out, KEPT: self.indices}.items():
            reasons[rows] = reason
        return reasons


@dataclass
class Selector(ABC):
    """
    Parameters and machinery common to all selectors.

    A subclass has a name, says in which order the rows of a group come, and says it in words for people. It stands in
    a file of its own and on one line of the table `SELECTORS`.
    """

    name: ClassVar[str]  # on the command line, and in the name of a subset on the Hub
    needs: ClassVar[tuple[str, ...]] = ("scores",)  # what of `Candidates` it cannot do without
    advice: ClassVar[Mapping[str, str]] = {}  # what to do where too many rows are left out, by the reason
    pooling: ClassVar[str] = "auto"  # of the features that it goes by, as `DLCConfig.features` has it
    varied: ClassVar[str | None] = None  # the parameter whose value tells apart the ways in which it is compared
    most_compared: ClassVar[int | None] = None  # rows above which a comparison of selectors leaves it out, as too slow

    keep: float | int | None = None
    _: KW_ONLY
    keep_tokens: int | None = None
    column: str | None = DEFAULT_COLUMN
    group_by: str | None = None
    tokens_column: str = "dlc_tokens"
    missing: Literal["drop", "error"] = "drop"
    min_per_group: int = 0
    group_shares: GroupShares = "proportional"
    drop_duplicates: bool = False
    features_column: str = "dlc_features"

    @abstractmethod
    def _pools(self, candidates: Candidates, group: str | None, quota: int) -> list[np.ndarray]:
        """
        Return one or two pools of the rows of a group, between which the budget is split.

        A pool holds positions in `candidates`, in the order in which the rows are taken. Skipped rows may be among
        them: they are left out afterwards. `quota` is the part of the budget that the group gets, in rows or in target
        tokens: a selector that orders no more rows than it must can tell by it how many these are. What it has to say
        of rows as it orders them goes to `candidates.note`.
        """

    def _prepared(self, candidates: Candidates) -> Candidates:
        """Return the candidates with what the selector needs beside them, before they are split into groups."""
        return candidates

    def _left_out(self, candidates: Candidates) -> Mapping[str, np.ndarray]:
        """Return masks of rows that must not be taken, by the reason."""
        return {}

    @abstractmethod
    def _rule(self, column: str) -> str:
        """Return how rows are chosen, as the beginning of a sentence; `column` is the score column as it is shown."""

    def check(self) -> None:
        """Raise a `ValueError` for a parameter out of its range; the budget is held against the rows later."""
        if self.missing not in ("drop", "error"):
            raise ValueError(f"missing must be 'drop' or 'error', got {self.missing!r}.")
        check_group_shares(self.group_shares, self.group_by)

    def sentence(self, show: Callable[[str], str] = "`{}`".format) -> str:
        """
        Return how rows are chosen, in a sentence for cards and reports.

        Args:
            show (`Callable`, *optional*):
                From the name of a column to what is shown of it; by default the name in backticks.

        Returns:
            `str`: the sentence.
        """
        groups = f", within the groups of {show(self.group_by)}" if self.group_by else ""
        if self.group_by and self.group_shares != "proportional":
            groups += " in equal parts" if self.group_shares == "equal" else " in the parts that were asked for"
        duplicates = "; of rows that say the same one was kept at most" if self.drop_duplicates else ""
        return f"{self._rule(show(self.column or DEFAULT_COLUMN))}{groups}{duplicates}."

    def parameters(self) -> dict[str, Any]:
        """Return the parameters by their names as JSON types, for a record."""
        values = {option.name: getattr(self, option.name) for option in fields(self)}
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}

    def check_installed(self) -> None:  # noqa: B027  (most selectors need nothing)
        """Raise an `ImportError` if the selector needs a package that is not there."""

    def own_columns(self) -> Mapping[str, Sequence[str]]:
        """Return by its parameter the columns of the rows, beside scores and groups, that the selector reads."""
        return {}

    def bounds(self, scores: np.ndarray) -> dict[str, float]:
        """Return by the parameter that sets it each value of the score at which the rule changes, for a plot."""
        return {}

    def idle(self) -> list[str]:
        """Return the parameters that change nothing, as the others are."""
        return []

    @property
    def is_told_by_the_budget(self) -> bool:
        """Whether scores that are all alike show if a selection will be refused: they are all that it goes by."""
        return set(self.needs) <= {"scores"}

    def lacks(self, columns: Collection[str]) -> str | None:
        """
        Return what the selector cannot do without and has not, or `None`; for comparisons, which leave it out.

        Args:
            columns (`Collection[str]`):
                Columns of the rows.

        Returns:
            `str`: What is missing, in words.
        """
        if "scores" in self.needs and self.column not in columns:
            return f"the column {self.column!r}"
        if "features" in self.needs and self.features_column not in columns:
            return f"the column {self.features_column!r}"
        if self.drop_duplicates and "dup_of" not in columns:
            return "the column 'dup_of'"
        return None

    def variants(self) -> dict[str, Selector]:
        """Return the selectors that a comparison shows of this one, by the names that it gives them."""
        return {self.name: self}

    def __call__(self, dataset: DatasetOrDict) -> DatasetOrDict:
        """
        Return the selected rows of `dataset`, in the order in which they stand in it.

        Args:
            dataset (`Dataset` or `DatasetDict`):
                Scored dataset. The splits of a `DatasetDict` are selected from one by one, each with the full `keep`.

        Returns:
            `Dataset` or `DatasetDict`: subset with the columns, the features and the format of `dataset`.

        Raises:
            TypeError: If `dataset` is streamed (`IterableDataset`), or no dataset.
            ValueError: If a column is missing, or for the reasons given at `get_indices`.
        """
        if isinstance(dataset, dict):
            return type(dataset)({name: self._select_split(name, split) for name, split in dataset.items()})
        # A list of Python ints, because an array of the same numbers would give the result another fingerprint.
        indices = self.read_indices(dataset).tolist()
        return dataset.select(indices)

    def read_indices(self, dataset: Dataset) -> np.ndarray:
        """
        Return the numbers of the rows that calling the selector on `dataset` would return.

        Args:
            dataset (`Dataset`):
                Scored dataset.

        Returns:
            `np.ndarray`: distinct row numbers in ascending order, int64, of shape `(n_selected,)`.

        Raises:
            TypeError: If `dataset` is streamed (`IterableDataset`), or no dataset.
            ValueError: If a column is missing, or for the reasons given at `get_indices`.
        """
        return self.select(dataset).indices

    def select(self, dataset: Dataset) -> Selection:
        """
        Return which rows calling the selector on `dataset` would return, and why it would leave out the others.

        Args:
            dataset (`Dataset`):
                Scored dataset.

        Returns:
            [`Selection`]

        Raises:
            TypeError: If `dataset` is streamed (`IterableDataset`), or no dataset.
            ValueError: If a column is missing, or for the reasons given at `get_indices`.
        """
        require_map_style(dataset, type(self).__name__, "ranking compares all rows with each other")
        if dataset.num_rows == 0:
            raise ValueError("The dataset has no rows, so there is nothing to select from.")
        return self._select(self._read(dataset))

    def _read(self, dataset: Dataset) -> Candidates:
        """Read what the selector may see of the rows, and no other columns."""
        groups = None
        if "features" in self.needs:
            made_by(dataset, self.features_column)  # refuses vectors that were made in several ways
        if self.group_by is not None:
            # Plain Python values: NumPy would turn integers with a None among them into floats.
            groups = read_column(dataset.with_format(None), self.group_by, "Pass group_by= one of these.")[:]
        return Candidates(
            dataset.num_rows,
            self._read_scores(dataset),
            groups,
            tokens=read_numbers(dataset, self.tokens_column, "tokens_column=") if self._uses_tokens else None,
            features=read_vectors(dataset, self.features_column) if "features" in self.needs else None,
            texts=self._read_texts(dataset) if "texts" in self.needs else None,
            duplicates=read_duplicates(dataset) if self.drop_duplicates else None,
        )

    def _read_texts(self, dataset: Dataset) -> list[str]:
        """Read what a selector that needs texts compares."""
        return read_texts(dataset)

    def get_indices(
        self,
        scores: Sequence[float] | np.ndarray | None = None,
        groups: Sequence | np.ndarray | None = None,
        tokens: Sequence[int] | np.ndarray | None = None,
        features: np.ndarray | None = None,
        texts: Sequence[str] | None = None,
        duplicates: Sequence[bool] | np.ndarray | None = None,
    ) -> np.ndarray:
        """
        Return the numbers of the selected rows.

        Args:
            scores (`Sequence[float]` or `np.ndarray`, *optional*):
                Score of every row handed in, of shape `(n_rows,)`; NaN marks a skipped row, infinities are ordered
                like any other number. Needed by all selectors that go by scores.
            groups (`Sequence` or `np.ndarray`, *optional*):
                Group key of every row: strings, integers or `None`.
            tokens (`Sequence[int]` or `np.ndarray`, *optional*):
                Number of target tokens of every row, at least 1 where there is a score. Needed for `keep_tokens`, and
                by selectors that go by the number of tokens.
            features (`np.ndarray` of shape `(n_rows, size)`, *optional*):
                Vector of every row; NaN marks a skipped row. Needed by selectors that go by distances.
            texts (`Sequence[str]`, *optional*):
                Text of every row. Needed by selectors that go by words.
            duplicates (`Sequence[bool]` or `np.ndarray`, *optional*):
                Whether another row is kept in the place of a row. Needed for `drop_duplicates`.

        Returns:
            `np.ndarray`: distinct row numbers in ascending order, int64, of shape `(n_selected,)`.

        Raises:
            TypeError: If `keep`, `keep_tokens` or a group key has a wrong type.
            ValueError: If a parameter is out of its range, if there is no scored row, if there are fewer scored rows
                (or tokens) than asked for, if nothing would be selected, or if rows are skipped and
                `missing="error"`.
        """
        scores = None if scores is None else as_scores(scores)
        features = None if features is None else as_features(features)
        given = {"scores": scores, "features": features, "texts": texts}
        sizes = {name: len(values) for name, values in given.items() if values is not None}
        if not sizes:
            raise ValueError(f"{type(self).__name__} must be told of the rows: pass {' or '.join(given)}.")
        if duplicates is not None:
            duplicates = np.asarray(duplicates, dtype=bool)
            sizes["duplicates"] = len(duplicates)
        if len(set(sizes.values())) > 1:
            raise ValueError(f"all arguments must be of the same rows, got {sizes}.")
        rows = next(iter(sizes.values()))
        return self._select(Candidates(rows, scores, groups, tokens, features, texts, duplicates)).indices

    @property
    def _uses_tokens(self) -> bool:
        return self.keep_tokens is not None or "tokens" in self.needs

    def _read_scores(self, dataset: Dataset) -> np.ndarray | None:
        """Scores, or `None` where the selector needs none and no column marks skipped rows."""
        column = self.column
        if column is None and "scores" not in self.needs:
            column = DEFAULT_COLUMN
            if column not in dataset.column_names:
                logger.info("There is no column %r that would mark skipped rows: all rows may be drawn.", column)
                return None
        return as_scores(read_numbers(dataset, column, "column="))

    def _select_split(self, name: str, split: Dataset) -> Dataset:
        try:
            return self(split)
        except ValueError as error:
            raise ValueError(f"Split {name!r}: {error}") from error

    def _select(self, candidates: Candidates) -> Selection:
        """Spend each group's part of the budget along its pools."""
        if self.group_by is not None and candidates.groups is None:
            raise ValueError(f"group_by={self.group_by!r} is set, so get_indices needs groups=.")
        self.check()
        notes = Notes(candidates.rows)
        candidates = self._prepared(replace(candidates, notes=notes))
        self._require_inputs(candidates)
        candidates, reasons = self._available(candidates)
        available = candidates.scored
        budget, costs = self._budget(candidates, reasons)
        candidates = replace(candidates, costs=costs)
        names, members = split_groups(candidates.groups, candidates.rows)
        caps = [int(costs[rows][available[rows]].sum()) for rows in members]
        weights = group_weights(self.group_shares, names, [int(costs[rows].sum()) for rows in members], caps, budget)
        caps = [cap if weight else 0 for cap, weight in zip(caps, weights, strict=True)]  # no share, no row
        self._check_groups(budget, names, caps)
        quotas = share_out_at_least(budget, weights, caps, self.min_per_group)
        taken = np.zeros(candidates.rows, dtype=bool)
        pools: list[np.ndarray] = []
        for name, rows, quota, cap in zip(names, members, quotas, caps, strict=True):
            # Without groups no copy is made of what may be the features of millions of rows.
            group = replace(candidates, groups=None) if name is None else candidates.of_group(rows)
            found = self._pools(group, name, quota)
            parts = [_available_only(rows[places], available) for places in found]
            sizes = [int(costs[pool].sum()) for pool in parts]
            for pool, part in zip(parts, water_fill(quota, sizes), strict=True):
                taken[pool[walk(costs[pool], part)]] = True
            if cap:  # a group without a share gets nothing of what others leave over
                pools += parts
        if self.keep_tokens is not None:
            _top_up(taken, pools, costs, budget - int(costs[taken].sum()))
        indices = np.flatnonzero(taken)
        return Selection(indices, reasons, notes.of(indices))

    def _available(self, candidates: Candidates) -> tuple[Candidates, dict[str, np.ndarray]]:
        """The candidates, of which some may not be taken, and masks of these by the reason; a row has one reason."""
        scored = self._scored(candidates)
        # Otherwise nobody looks at them, whatever they are.
        tokens = as_tokens(candidates.tokens, scored) if self._uses_tokens else None
        candidates = replace(candidates, tokens=tokens, available=scored)
        found, available = {NO_SCORE: ~scored}, scored
        duplicates = {DUPLICATE: candidates.duplicates} if self.drop_duplicates else {}
        for reason, rows in {**duplicates, **self._left_out(candidates)}.items():
            found[reason] = available & rows
            available = available & ~rows
        for reason, rows in found.items():
            if reason != NO_SCORE and rows.any():
                logger.info("%d of %d rows are left out: %s.", rows.sum(), len(rows), reason)
        scores = candidates.scores
        if available is not scored and scores is not None:
            scores = np.where(available, scores, np.nan)  # no share of the rows counts what may not be taken
        return replace(candidates, scores=scores, available=available), found

    def _scored(self, candidates: Candidates) -> np.ndarray:
        """Mask of the rows that have a score, or that may be taken without one."""
        scored = candidates.scored
        n_skipped = len(scored) - int(np.count_nonzero(scored))
        if n_skipped == len(scored):
            raise ValueError(f"None of the {n_skipped} rows has a score: there is nothing to select from.")
        if n_skipped and self.missing == "error":
            raise ValueError(
                f"{n_skipped} of {len(scored)} rows have no score (NaN), the first is row {int(np.argmin(scored))}. "
                "Remove them, or pass missing='drop' to leave them out."
            )
        if n_skipped:
            logger.info("%d of %d rows have no score and are left out of the selection.", n_skipped, len(scored))
        return scored

    def _require_inputs(self, candidates: Candidates) -> None:
        """Make sure that there is one budget, and all that the selector needs."""
        if (self.keep is None) == (self.keep_tokens is None):
            raise ValueError(f"Pass one of keep and keep_tokens, got {self.keep!r} and {self.keep_tokens!r}.")
        if self.keep_tokens is not None and candidates.tokens is None:
            raise ValueError("keep_tokens needs the number of target tokens of every row: pass tokens=.")
        for name in self.needs:
            if getattr(candidates, name) is None:
                raise ValueError(f"{type(self).__name__} needs the {name} of every row: pass {name}=.")
        if self.drop_duplicates and candidates.duplicates is None:
            raise ValueError("drop_duplicates needs to know which rows are duplicates: pass duplicates=.")

    def _budget(self, candidates: Candidates, reasons: Mapping[str, np.ndarray]) -> tuple[int, np.ndarray]:
        """Return the budget, and what every row costs: 1 row, or its number of tokens."""
        scored = candidates.scored
        if not scored.any():
            advice = self._advice(reasons)
            raise ValueError(f"None of the {len(scored)} rows may be taken: {_counts(reasons)}.{advice}")
        if self.keep_tokens is None:
            budget, costs = rows_to_keep(self.keep, len(scored)), np.ones(len(scored), dtype=np.int64)
            asked, unit = f"keep={self.keep}", "rows"
        else:
            budget, costs = tokens_to_keep(self.keep_tokens), candidates.tokens
            asked, unit = f"keep_tokens={self.keep_tokens}", "target tokens"
        available, least = int(costs[scored].sum()), int(costs[scored].min())
        if budget > available:
            others = {reason: rows for reason, rows in reasons.items() if reason != NO_SCORE and rows.any()}
            which = f"may be taken (left out: {_counts(others)})" if others else "have a score"
            raise ValueError(
                f"{asked} asks for {budget} {unit}, but the {np.count_nonzero(scored)} rows that {which} "
                f"(of {len(scored)} handed in) hold {available}. Ask for at most {available}.{self._advice(reasons)}"
            )
        if budget < least:
            raise ValueError(f"{asked} would select no row: the shortest scored row has {least} target tokens.")
        return budget, costs

    def _advice(self, reasons: Mapping[str, np.ndarray]) -> str:
        return "".join(
            f" {text}" for reason, text in self.advice.items() if reason in reasons and reasons[reason].any()
        )

    def _check_groups(self, budget: int, names: Sequence[str | None], caps: Sequence[int]) -> None:
        """Make sure that `min_per_group` can be kept to."""
        if not self.min_per_group:
            return
        if not isinstance(self.min_per_group, Integral) or self.min_per_group < 0 or self.keep_tokens is not None:
            raise ValueError(
                f"min_per_group must be a number of rows, at least 0, and goes with keep, got {self.min_per_group!r} "
                f"with keep_tokens={self.keep_tokens}."
            )
        needed = sum(min(self.min_per_group, cap) for cap in caps)
        if budget < needed:
            raise ValueError(
                f"keep={self.keep} asks for {budget} rows, but {self.min_per_group} of each of {len(caps)} groups are "
                f"{needed}. Ask for more rows, or pass min_per_group=0 to lose groups."
            )
        if empty := [name for name, cap in zip(names, caps, strict=True) if cap == 0]:
            why = "without a share, or without a scored row"
            logger.warning("no row is kept of groups %s: %s", why, ", ".join(map(str, empty[:10])))


def _counts(reasons: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{int(rows.sum())} {reason}" for reason, rows in reasons.items() if rows.any())


def _available_only(rows: np.ndarray, available: np.ndarray) -> np.ndarray:
    """Rows without those that may not be taken; no copy of millions of rows where none is."""
    wanted = available[rows]
    return rows if wanted.all() else rows[wanted]


def _top_up(taken: np.ndarray, pools: list[np.ndarray], costs: np.ndarray, left: int) -> None:
    """Spend the tokens that the pools left over on further rows, one row of each pool in turn, while one fits."""
    fitting = [pool[~taken[pool] & (costs[pool] <= left)] for pool in pools]
    turn = np.concatenate([np.arange(len(pool)) for pool in fitting])
    queue = np.concatenate(fitting)[np.argsort(turn, kind="stable")]
    taken[queue[walk(costs[queue], left)]] = True
