"""The rows that a selector chooses from: what it may see of them, read from columns and checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np


if TYPE_CHECKING:
    from datasets import Dataset


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
            A vector for each row.
    """

    rows: int
    scores: np.ndarray | None = None
    groups: Sequence | np.ndarray | None = None
    tokens: np.ndarray | None = None
    features: np.ndarray | None = None

    @property
    def scored(self) -> np.ndarray:
        """Mask of the rows that may be taken, those that are not skipped."""
        return np.ones(self.rows, dtype=bool) if self.scores is None else ~np.isnan(self.scores)

    def of_group(self, rows: np.ndarray) -> Candidates:
        """The rows of one group, without their key, which is the same for all."""
        scores, tokens, features = (
            None if values is None else values[rows] for values in (self.scores, self.tokens, self.features)
        )
        return Candidates(len(rows), scores, None, tokens, features)


def read_column(dataset: Dataset, name: str, advice: str) -> Sequence:
    """
    Return a column of a dataset.

    Args:
        dataset (`Dataset`):
            Dataset in the format in which the column is wanted.
        name (`str`):
            Name of the column.
        advice (`str`):
            What to do if there is no such column, as a sentence that goes behind the names of all columns.

    Returns:
        `Sequence`: The column.

    Raises:
        ValueError: If there is no such column.
    """
    if name not in dataset.column_names:
        raise ValueError(f"Column {name!r} not found; the dataset has {dataset.column_names}. {advice}")
    return dataset[name]


def read_numbers(dataset: Dataset, name: str, parameter: str) -> np.ndarray:
    """
    Return a column of numbers, also one of text that holds numbers.

    Args:
        dataset (`Dataset`):
            Dataset in any format.
        name (`str`):
            Name of the column.
        parameter (`str`):
            Parameter by which the user names another column, with `=` at its end.

    Returns:
        `np.ndarray`: float64, NaN where there is no value.

    Raises:
        ValueError: If there is no such column, or if a text is no number.
    """
    # The dtype is given because the NumPy format alone rounds to float32; nulls become NaN.
    advice = f"Run dataset.map(scorer) first or pass {parameter} one of these."
    values = read_column(dataset.with_format("numpy", dtype=np.float64), name, advice)[:]
    if getattr(dataset.features[name], "dtype", None) == "string":  # as all columns of a CSV file are
        return np.array([_as_number(text, name, row) for row, text in enumerate(values)], dtype=np.float64)
    return np.asarray(values)


def _as_number(text: str | None, name: str, row: int) -> float:
    try:
        return math.nan if text is None else float(text)
    except ValueError as error:
        found = f"got {str(text)!r} in row {row} of the column {name!r}"
        raise ValueError(f"scores must be one number for each row, {found}.") from error


def as_scores(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return scores as an array of floats, or say why they cannot be used."""
    scores = np.asarray(scores)
    if scores.ndim != 1 or (scores.size and scores.dtype.kind not in "fiu"):
        raise ValueError(
            f"scores must be one number for each row, got an array of shape {scores.shape} and dtype {scores.dtype}. "
            "Use NaN for a row without a score."
        )
    if scores.size == 0:
        raise ValueError("There are no scores, so there is nothing to select from.")
    return scores if scores.dtype.kind == "f" else scores.astype(np.float64)


def as_tokens(tokens: Sequence[int] | np.ndarray, scored: np.ndarray) -> np.ndarray:
    """Return the target tokens of every row as int64, 0 for skipped rows, or say why they cannot be used."""
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
