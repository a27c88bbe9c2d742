"""Rows that are made wrong on purpose, so that one knows which ones a score should find."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset


_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")

# From the values of the wrong rows to others, as many.
Change = Callable[[Sequence[Any], np.random.Generator], list[Any]]


def corrupt(dataset: Dataset, column: str, share: float, change: Change, seed: int = 0) -> tuple[Dataset, np.ndarray]:
    """
    Change the values of a random share of the rows.

    Args:
        dataset ([`~datasets.Dataset`]):
            The rows.
        column (`str`):
            Column whose values are changed.
        share (`float`):
            Share of the rows, in (0, 1); at least two rows are changed.
        change (`Callable`):
            Returns other values for those of the chosen rows.
        seed (`int`, *optional*, defaults to 0):
            Seed of the choice.

    Returns:
        `tuple[Dataset, np.ndarray]`: The rows, and which of them were changed, a bool for each.

    Raises:
        ValueError: If there are too few rows, or no such column.
    """
    rng, count = np.random.default_rng(seed), len(dataset)
    number = max(2, round(share * count))
    if column not in dataset.column_names or number >= count:
        raise ValueError(
            f"{number} of the rows must be changed in the column {column!r}, got {count} rows with the columns "
            f"{', '.join(dataset.column_names)}."
        )
    places = np.sort(rng.choice(count, number, replace=False))
    plain = dataset.with_format(None)
    values = list(plain[column][:])
    for place, value in zip(places, change([values[place] for place in places], rng), strict=True):
        values[place] = value
    new = f"new_{column}"  # beside the old one first: without any column a dataset has no rows
    changed = plain.add_column(new, values, feature=dataset.features[column])
    changed = changed.remove_columns(column).rename_column(new, column)
    is_wrong = np.zeros(count, dtype=bool)
    is_wrong[places] = True
    return changed, is_wrong


def swapped(values: Sequence[Any], _: np.random.Generator) -> list[Any]:
    """Each value goes to the row before: all rows get a response that answers something else."""
    return [*values[1:], values[0]]


def other_number(values: Sequence[str], rng: np.random.Generator) -> list[str]:
    """
    The last number of each text, and nothing else, becomes another one: up to a tenth away, and at least 1.

    Raises:
        ValueError: If a text has no number.
    """
    return [_with_other_number(value, rng) for value in values]


def _with_other_number(text: str, rng: np.random.Generator) -> str:
    found = list(_NUMBER.finditer(text))
    if not found:
        raise ValueError(f"a number must be changed, but the text has none: {text[:80]!r}. Leave such rows out.")
    digits = found[-1].group()
    value = float(digits.replace(",", ""))
    step = int(rng.integers(1, max(2, round(abs(value) / 10) + 1))) * int(rng.choice([-1, 1]))
    changed = value + (step if value + step >= 0 else -step)
    shown = f"{changed:,.0f}" if "," in digits else f"{changed:g}" if "." in digits else f"{changed:.0f}"
    return text[: found[-1].start()] + shown + text[found[-1].end() :]


def flipped(feature: ClassLabel) -> Change:
    """A change of each label into one of the other classes of `feature`."""

    def change(values: Sequence[int], rng: np.random.Generator) -> list[int]:
        steps = rng.integers(1, feature.num_classes, len(values))
        return [int((value + step) % feature.num_classes) for value, step in zip(values, steps, strict=True)]

    return change
