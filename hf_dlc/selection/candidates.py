"""The rows that a selector chooses from: what it may see of them, and what it says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .columns import are_numbers


if TYPE_CHECKING:
    from .wanted import Wanted


@dataclass(frozen=True)
class Candidates:
    """
    All that a selector may see of the rows.

    Args:
        rows (`int`):
            How many there are.
        scores (`np.ndarray` of shape `(rows,)`, *optional*):
            Score of each row, NaN for a skipped one. Without scores no row is skipped.
        groups (`Sequence` of length `rows`, *optional*):
            Group key of each row: strings, integers or `None`.
        tokens (`np.ndarray` of shape `(rows,)`, *optional*):
            Target tokens of each row.
        features (`np.ndarray` of shape `(rows, size)`, *optional*):
            A vector for each row, NaN for a skipped one.
        texts (`Sequence[str]` of length `rows`, *optional*):
            Text of each row.
        duplicates (`np.ndarray` of shape `(rows,)`, *optional*):
            Mask of the rows of which another one is kept in their place.
        available (`np.ndarray` of shape `(rows,)`, *optional*):
            Mask of the rows that may be taken, once a selector has found out; by default those that are not skipped.
        costs (`np.ndarray` of shape `(rows,)`, *optional*):
            What each row takes of the budget, once this is known: 1, or its target tokens.
        classes (`Sequence` of length `rows`, *optional*):
            Class of each row, for a selector that takes whole classes.
        wanted ([`Wanted`], *optional*):
            Examples of the task, for a selector that goes by them.
        numbers (`np.ndarray` of shape `(rows,)`, *optional*):
            Of the rows of a group, their places among all rows.
        notes ([`Notes`], *optional*):
            What is said of all rows as they are ordered.
    """

    rows: int
    scores: np.ndarray | None = None
    groups: Sequence | np.ndarray | None = None
    tokens: np.ndarray | None = None
    features: np.ndarray | None = None
    texts: Sequence[str] | None = None
    duplicates: np.ndarray | None = None
    available: np.ndarray | None = None
    costs: np.ndarray | None = None
    classes: Sequence | None = None
    wanted: Wanted | None = None
    numbers: np.ndarray | None = None
    notes: Notes | None = None

    @property
    def scored(self) -> np.ndarray:
        """Mask of the rows that may be taken: those that are not skipped."""
        if self.available is not None:
            return self.available
        scored = np.ones(self.rows, dtype=bool) if self.scores is None else ~np.isnan(self.scores)
        return scored if self.features is None else scored & are_numbers(self.features)

    def of_group(self, rows: np.ndarray) -> Candidates:
        """The rows of one group, without their key, which is the same for all."""
        given = {name: getattr(self, name) for name in _ARRAYS}
        parts = {name: None if values is None else values[rows] for name, values in given.items()}
        lists = {"texts": self.texts, "classes": self.classes}
        parts |= {name: None if values is None else [values[row] for row in rows] for name, values in lists.items()}
        numbers = rows if self.numbers is None else self.numbers[rows]
        return Candidates(len(rows), wanted=self.wanted, numbers=numbers, notes=self.notes, **parts)

    def note(self, name: str, rows: np.ndarray, values: np.ndarray) -> None:
        """
        Say something of some rows, which `Selection.notes` tells of those that are kept.

        Args:
            name (`str`):
                What is said.
            rows (`np.ndarray`):
                Positions of the rows.
            values (`np.ndarray`):
                A number for each of them. Of rows of which nothing is said it is -1, or NaN where it is no integer.
        """
        if self.notes is not None:
            self.notes.write(name, rows if self.numbers is None else self.numbers[rows], values)


_ARRAYS = ("scores", "tokens", "features", "duplicates", "available", "costs")


class Notes:
    """
    What a selector says of rows while it orders them.

    Args:
        rows (`int`):
            How many rows there are in all.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._found: dict[str, np.ndarray] = {}

    def write(self, name: str, rows: np.ndarray, values: np.ndarray) -> None:
        """Take down `values`, of what is called `name`, for the rows of these numbers."""
        if name not in self._found:
            self._found[name] = np.full(self._rows, -1 if values.dtype.kind in "iu" else np.nan, values.dtype)
        self._found[name][rows] = values

    def of(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return by its name what is said of the rows of these numbers."""
        return {name: values[rows] for name, values in self._found.items()}
