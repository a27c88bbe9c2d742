"""
Numbers that a run measures: for each measure one of every row at every level.

In this room a level is a pass of the scorer, by its number: `execution` knows nothing else of a pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_dlc.scores.base import Measure


Values = dict[str, np.ndarray]  # by the name of the measure float32 of shape (levels, rows)


def no_values(measures: Sequence[Sequence[Measure]], rows: int) -> Values:
    """
    Zeros, to be filled in: what stays zero was not measured.

    Args:
        measures (`Sequence[Sequence[Measure]]`):
            For each level what is measured.
        rows (`int`):
            Number of rows.

    Returns:
        `dict[str, np.ndarray]`: By the name of the measure float32 of shape `(levels, rows)`.
    """
    names = dict.fromkeys(measure.name for at_level in measures for measure in at_level)
    return {name: np.zeros((len(measures), rows), dtype=np.float32) for name in names}


def joined(first: Values, second: Values) -> Values:
    """What was measured at some levels and at those behind them; rows that only one of them knows are zero."""
    names = dict.fromkeys([*first, *second])
    sizes = [next(iter(values.values())).shape for values in (first, second)]
    found = {name: np.zeros((sizes[0][0] + sizes[1][0], max(sizes[0][1], sizes[1][1])), np.float32) for name in names}
    for start, values in ((0, first), (sizes[0][0], second)):
        for name, known in values.items():
            found[name][start : start + len(known), : known.shape[1]] = known
    return found
