"""A pool from which any arm can choose: with all columns that arms go by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset

from .arms import FULL, ORACLE, Arm, Cell, parameters_of, parse_arm
from .training import core_seconds


@dataclass
class PreparedPool:
    """
    A pool from which any arm can choose.

    Args:
        rows ([`~datasets.Dataset`]):
            The pool with all columns that arms need, and `dlc_tokens`.
        wanted ([`~datasets.Dataset`], *optional*):
            The wanted rows, with features.
        seconds (`dict[str, float]`):
            By each need what it cost, in seconds of a core or an accelerator; NaN where that is not known.
        group_by (`str`, *optional*):
            Column of the source of a row.
        flag_column (`str`, *optional*):
            Column that is true of the rows that are suspect.
        text_columns (`Sequence[str]`):
            Columns of text that are scored.
    """

    rows: Dataset
    wanted: Dataset | None
    seconds: dict[str, float]
    group_by: str | None
    flag_column: str | None
    text_columns: Sequence[str]
    _chosen: dict[Cell, tuple[np.ndarray, float]] = field(default_factory=dict)

    @property
    def tokens(self) -> np.ndarray:
        """Target tokens of each row, of shape `(rows,)`."""
        return np.array(self.rows["dlc_tokens"][:])

    def choose(self, cell: Cell) -> np.ndarray:
        """Numbers of the rows that a cell trains on."""
        return self._chosen_in_time(cell)[0]

    def selecting_seconds(self, cell: Cell) -> float:
        """Seconds of a core or an accelerator that it took to choose the rows of a cell."""
        return self._chosen_in_time(cell)[1]

    def _chosen_in_time(self, cell: Cell) -> tuple[np.ndarray, float]:
        cell = cell._replace(matching="rows") if cell.matching == "updates" else cell
        if cell not in self._chosen:
            start = core_seconds()
            self._chosen[cell] = self._choose(cell), core_seconds() - start
        return self._chosen[cell]

    def _choose(self, cell: Cell) -> np.ndarray:
        arm = parse_arm(cell.arm)
        if cell.arm == FULL:
            return np.arange(len(self.rows))
        places = self._places(arm)
        rows = self.rows if places is None else self.rows.select(places)
        try:
            found = self._selector(arm, cell, rows).read_indices(rows)
        except ValueError as error:
            raise ValueError(f"{cell.arm} cannot choose at keep {cell.budget:g}: {error}") from error
        return found if places is None else places[found]

    def _places(self, arm: Arm) -> np.ndarray | None:
        """Places of the rows that the arm may choose from; `None` if these are all."""
        if arm.name != ORACLE:
            return None
        return np.flatnonzero(~np.array(self.rows[self.flag_column][:], dtype=bool))

    def _selector(self, arm: Arm, cell: Cell, rows: Dataset) -> Any:
        """The selector of an arm with the budget of a cell; the oracle takes all it may where these are too few."""
        count = min(round(cell.budget * len(self.rows)), len(rows))
        known: dict[str, Any] = {"keep": count, "seed": cell.seed, "drop_duplicates": arm.unique}
        if cell.matching == "tokens":
            tokens = np.array(rows["dlc_tokens"][:])
            known |= {"keep": None, "keep_tokens": int(min(round(cell.budget * self.tokens.sum()), tokens.sum()))}
        if arm.balanced:
            known |= {"group_by": self.group_by, "group_shares": "equal"}
        if "target" in arm.needs:
            known |= {"target": self.wanted, "text_columns": list(self.text_columns)}
        for need in arm.needs:
            if need.startswith("features"):
                known["features_column"] = f"{need.split()[1]}_features"
        return parameters_of(arm, known)

    def shared_with_random(self, cell: Cell) -> float:
        """Share of the rows of a cell that random rows of the same seed and budget have, too."""
        return float(np.isin(self.choose(cell), self.choose(cell._replace(arm="random"))).mean())

    def suspect_share(self, cell: Cell) -> float | None:
        """Share of the rows of a cell that are suspect, where this is known."""
        if self.flag_column is None:
            return None
        return float(np.mean(np.array(self.rows[self.flag_column][:], dtype=bool)[self.choose(cell)]))
