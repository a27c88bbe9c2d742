"""
Numbers that a run measures: for each measure one of every row at every level, and vectors at the first level.

In this room a level is a pass of the scorer, by its number: `execution` knows nothing else of a pass. Where features
are asked for, the first level gives them: the unmasked pass over the whole rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_dlc.scores.base import Asked, Features


# By the name of the measure float32 of shape (levels, rows); of features float16 of shape (1, rows, size).
Values = dict[str, np.ndarray]


def no_values(measures: Sequence[Sequence[Asked]], rows: int) -> Values:
    """
    Zeros, to be filled in: what stays zero was not measured.

    Args:
        measures (`Sequence[Sequence[Asked]]`):
            For each level what is measured.
        rows (`int`):
            Number of rows.

    Returns:
        `dict[str, np.ndarray]`: By the name of the measure float32 of shape `(levels, rows)`, of features float16 of
        shape `(1, rows, size)`.
    """
    asked = {measure.name: measure for at_level in measures for measure in at_level}
    return {
        name: np.zeros((1, rows, one.size), np.float16)
        if isinstance(one, Features)
        else np.zeros((len(measures), rows), np.float32)
        for name, one in asked.items()
    }


def joined(first: Values, second: Values) -> Values:
    """What was measured at some levels and at those behind them; rows that only one of them knows are zero."""
    vectors = {name: values for name, values in first.items() if values.ndim > 2}
    numbers = [{name: found for name, found in values.items() if found.ndim == 2} for values in (first, second)]
    names = dict.fromkeys([*numbers[0], *numbers[1]])
    sizes = [next(iter(values.values())).shape for values in numbers]
    found = {name: np.zeros((sizes[0][0] + sizes[1][0], max(sizes[0][1], sizes[1][1])), np.float32) for name in names}
    for start, values in ((0, numbers[0]), (sizes[0][0], numbers[1])):
        for name, known in values.items():
            found[name][start : start + len(known), : known.shape[1]] = known
    return {**found, **vectors}
