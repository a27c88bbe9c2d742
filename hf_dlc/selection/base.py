"""What all selectors share: reading the columns, checking them, and filling the budget."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from .budget import rows_to_keep, share_out_at_least, tokens_to_keep, walk, water_fill
from .ordering import split_groups


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    DatasetOrDict = TypeVar("DatasetOrDict", Dataset, DatasetDict)

logger = logging.getLogger(__name__)


@dataclass
class Selector(ABC):
    """Parameters and machinery common to all selectors; a subclass says in which order the rows of a group come."""

    keep: float | int | None = None
    _: KW_ONLY
    keep_tokens: int | None = None
    column: str | None = "dlc_confidence"
    group_by: str | None = None
    tokens_column: str = "dlc_tokens"
    missing: Literal["drop", "error"] = "drop"
    min_per_group: int = 0

    @abstractmethod
    def _pools(self, scores: np.ndarray, group: str | None) -> list[np.ndarray]:
        """Return the one or two pools of a group: positions of its scored rows, in the order they are taken."""

    def __call__(self, dataset: DatasetOrDict) -> DatasetOrDict:
        """
        Return the selected rows of `dataset`, in the order in which they stand in it.

        Args:
            dataset (`Dataset` or `DatasetDict`):
                Scored dataset. The splits of a `DatasetDict` are selected from one by one, each with the full `keep`.

        Returns:
            `Dataset` or `DatasetDict`: subset with the columns, the features and the format of `dataset`.

        Raises:
            TypeError: If `dataset` is streamed (`IterableDataset`).
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
            TypeError: If `dataset` is streamed (`IterableDataset`).
            ValueError: If a column is missing, or for the reasons given at `get_indices`.
        """
        if not hasattr(dataset, "select"):
            raise TypeError(
                f"{type(self).__name__} needs a map-style Dataset, got {type(dataset).__name__}: ranking compares "
                "all rows with each other. Load the data without streaming=True, or store the stream first: "
                "Dataset.from_generator(lambda: iter(stream), features=stream.features)."
            )
        if dataset.num_rows == 0:
            raise ValueError("The dataset has no rows, so there is nothing to select from.")
        scores = self._read_scores(dataset)
        groups = tokens = None
        if self.group_by is not None:
            # Plain Python values: NumPy would turn integers with a None among them into floats.
            groups = _column(dataset.with_format(None), self.group_by, "Pass group_by= one of these.")[:]
        if self.keep_tokens is not None:
            tokens = read_numbers(dataset, self.tokens_column, "tokens_column=")
        return self.get_indices(scores, groups, tokens)

    def get_indices(
        self,
        scores: Sequence[float] | np.ndarray,
        groups: Sequence | np.ndarray | None = None,
        tokens: Sequence[int] | np.ndarray | None = None,
    ) -> np.ndarray:
        """
        Return the numbers of the selected rows.

        Args:
            scores (`Sequence[float]` or `np.ndarray`):
                Score of every row handed in, of shape `(n_rows,)`; NaN marks a skipped row, infinities are ordered
                like any other number.
            groups (`Sequence` or `np.ndarray`, *optional*):
                Group key of every row: strings, integers or `None`.
            tokens (`Sequence[int]` or `np.ndarray`, *optional*):
                Number of target tokens of every row, at least 1 where there is a score. Needed for `keep_tokens`.

        Returns:
            `np.ndarray`: distinct row numbers in ascending order, int64, of shape `(n_selected,)`.

        Raises:
            TypeError: If `keep`, `keep_tokens` or a group key has a wrong type.
            ValueError: If a parameter is out of its range, if there is no scored row, if there are fewer scored rows
                (or tokens) than asked for, if nothing would be selected, or if rows are skipped and
                `missing="error"`.
        """
        scores = _as_scores(scores)
        if self.group_by is not None and groups is None:
            raise ValueError(f"group_by={self.group_by!r} is set, so get_indices needs groups=.")
        scored = self._scored(scores)
        budget, costs = self._budget(scored, tokens)
        return self._fill(budget, costs, scores, scored, groups)

    def _read_scores(self, dataset: Dataset) -> np.ndarray:
        return read_numbers(dataset, self.column, "column=")

    def _select_split(self, name: str, split: Dataset) -> Dataset:
        try:
            return self(split)
        except ValueError as error:
            raise ValueError(f"Split {name!r}: {error}") from error

    def _scored(self, scores: np.ndarray) -> np.ndarray:
        """Mask of the rows that have a score."""
        if self.missing not in ("drop", "error"):
            raise ValueError(f"missing must be 'drop' or 'error', got {self.missing!r}.")
        scored = ~np.isnan(scores)
        n_skipped = len(scores) - int(np.count_nonzero(scored))
        if n_skipped == len(scores):
            raise ValueError(f"None of the {n_skipped} rows has a score: there is nothing to select from.")
        if n_skipped and self.missing == "error":
            raise ValueError(
                f"{n_skipped} of {len(scores)} rows have no score (NaN), the first is row {int(np.argmin(scored))}. "
                "Remove them, or pass missing='drop' to leave them out."
            )
        if n_skipped:
            logger.info("%d of %d rows have no score and are left out of the selection.", n_skipped, len(scores))
        return scored

    def _budget(self, scored: np.ndarray, tokens: Sequence[int] | np.ndarray | None) -> tuple[int, np.ndarray]:
        """Return the budget, and what every row costs: 1 row, or its number of tokens."""
        if (self.keep is None) == (self.keep_tokens is None):
            raise ValueError(f"Pass one of keep and keep_tokens, got {self.keep!r} and {self.keep_tokens!r}.")
        if self.keep_tokens is None:
            budget, costs, unit = rows_to_keep(self.keep, len(scored)), np.ones(len(scored), dtype=np.int64), "rows"
            asked = f"keep={self.keep}"
        else:
            budget, costs, unit = tokens_to_keep(self.keep_tokens), _as_costs(tokens, scored), "target tokens"
            asked = f"keep_tokens={self.keep_tokens}"
        available, least = int(costs[scored].sum()), int(costs[scored].min())
        if budget > available:
            raise ValueError(
                f"{asked} asks for {budget} {unit}, but the {np.count_nonzero(scored)} rows that have a score "
                f"(of {len(scored)} handed in) hold {available}. Ask for at most {available}."
            )
        if budget < least:
            raise ValueError(f"{asked} would select no row: the shortest scored row has {least} target tokens.")
        return budget, costs

    def _fill(
        self, budget: int, costs: np.ndarray, scores: np.ndarray, scored: np.ndarray, groups: Sequence | None
    ) -> np.ndarray:
        """Return the numbers of the selected rows: each group's part of the budget, spent along its pools."""
        names, members = split_groups(groups, len(scores))
        weights = [int(costs[rows].sum()) for rows in members]
        caps = [int(costs[rows][scored[rows]].sum()) for rows in members]
        self._check_groups(budget, names, caps)
        quotas = share_out_at_least(budget, weights, caps, self.min_per_group)
        taken = np.zeros(len(scores), dtype=bool)
        pools: list[np.ndarray] = []
        for name, rows, quota in zip(names, members, quotas, strict=True):
            parts = [rows[positions] for positions in self._pools(scores[rows], name)]
            sizes = [int(costs[pool].sum()) for pool in parts]
            for pool, part in zip(parts, water_fill(quota, sizes), strict=True):
                taken[pool[walk(costs[pool], part)]] = True
            pools += parts
        if self.keep_tokens is not None:
            _top_up(taken, pools, costs, budget - int(costs[taken].sum()))
        return np.flatnonzero(taken)

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
            logger.warning("no row is kept of groups without a scored row: %s", ", ".join(map(str, empty[:10])))


def _top_up(taken: np.ndarray, pools: list[np.ndarray], costs: np.ndarray, left: int) -> None:
    """Spend the tokens that the pools left over on further rows, one row of each pool in turn, while one fits."""
    fitting = [pool[~taken[pool] & (costs[pool] <= left)] for pool in pools]
    turn = np.concatenate([np.arange(len(pool)) for pool in fitting])
    queue = np.concatenate(fitting)[np.argsort(turn, kind="stable")]
    taken[queue[walk(costs[queue], left)]] = True


def _column(dataset: Dataset, name: str, advice: str) -> Sequence:
    if name not in dataset.column_names:
        raise ValueError(f"Column {name!r} not found; the dataset has {dataset.column_names}. {advice}")
    return dataset[name]


def read_numbers(dataset: Dataset, name: str, parameter: str) -> np.ndarray:
    """Return a column as float64; `parameter` is what the user can pass to name another one."""
    # The dtype is given because the NumPy format alone rounds to float32; nulls become NaN.
    advice = f"Run dataset.map(scorer) first or pass {parameter} one of these."
    values = _column(dataset.with_format("numpy", dtype=np.float64), name, advice)[:]
    if getattr(dataset.features[name], "dtype", None) == "string":  # as all columns of a CSV file are
        return np.array([_as_number(text, name, row) for row, text in enumerate(values)], dtype=np.float64)
    return np.asarray(values)


def _as_number(text: str | None, name: str, row: int) -> float:
    try:
        return math.nan if text is None else float(text)
    except ValueError as error:
        found = f"got {str(text)!r} in row {row} of the column {name!r}"
        raise ValueError(f"scores must be one number for each row, {found}.") from error


def _as_scores(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    scores = np.asarray(scores)
    if scores.ndim != 1 or (scores.size and scores.dtype.kind not in "fiu"):
        raise ValueError(
            f"scores must be one number for each row, got an array of shape {scores.shape} and dtype {scores.dtype}. "
            "Use NaN for a row without a score."
        )
    if scores.size == 0:
        raise ValueError("There are no scores, so there is nothing to select from.")
    return scores if scores.dtype.kind == "f" else scores.astype(np.float64)


def _as_costs(tokens: Sequence[int] | np.ndarray | None, scored: np.ndarray) -> np.ndarray:
    """Target tokens of every row as int64, 0 for skipped rows."""
    if tokens is None:
        raise ValueError("keep_tokens needs the number of target tokens of every row: pass tokens=.")
    tokens = np.asarray(tokens)
    if tokens.shape != scored.shape or tokens.dtype.kind not in "fiu":
        raise ValueError(
            f"tokens must be one whole number for each of the {len(scored)} scores, got an array of shape "
            f"{tokens.shape} and dtype {tokens.dtype}."
        )
    tokens = np.where(scored, tokens, 0)
    wrong = scored & ~((tokens >= 1) & (tokens == np.floor(tokens)) & np.isfinite(tokens))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"A row with a score must have 1 or more whole tokens, got {tokens[row]} in row {row}.")
    return tokens.astype(np.int64)
