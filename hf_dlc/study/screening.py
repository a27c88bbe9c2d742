"""The screening of a study: which arms go on, and how many seeds will tell them from random rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arms import METRICS, ORACLE, Cell
from .statistics import seeds_for


_NEARLY_RANDOM = 0.9  # share of the rows of an arm that random rows of the same seed have, too


def best_arms(screening: dict[Cell, dict[str, Any]], count: int) -> list[str]:
    """
    Name the arms with the lowest test loss, a mean over matchings and seeds.

    Random rows are left out, and so is any arm that has chosen nearly the same rows: it is random with another name.
    The oracle, which knows what nobody knows, goes on beside them.

    Args:
        screening (`dict[Cell, dict[str, Any]]`):
            What was measured of each cell, with the share of its rows that random rows have as well (`"shared"`).
        count (`int`):
            How many arms to name, the oracle not counted.

    Returns:
        `list[str]`: The best first, the oracle last.

    Raises:
        ValueError: If there is no arm that chooses other rows than random.
    """
    outcomes = _by_arm(screening)
    losses = {
        arm: np.mean([one[METRICS[0]] for one in found.values()])
        for arm, found in outcomes.items()
        if not _is_nearly_random(found) and arm != ORACLE
    }
    if not losses:
        raise ValueError("arms must choose others than random rows, got none that does. Name --finalists.")
    best = sorted(losses, key=lambda arm: (losses[arm], arm))[:count]
    return [*best, *([ORACLE] if ORACLE in outcomes else [])]


def _by_arm(screening: dict[Cell, dict[str, Any]]) -> dict[str, dict[Cell, dict[str, Any]]]:
    """The cells of each arm."""
    found: dict[str, dict[Cell, dict[str, Any]]] = {}
    for cell, measured in screening.items():
        found.setdefault(cell.arm, {})[cell] = measured
    return found


def _is_nearly_random(cells: dict[Cell, dict[str, Any]]) -> bool:
    """Whether an arm is random rows with another name."""
    return float(np.mean([one["shared"] for one in cells.values()])) >= _NEARLY_RANDOM


def seeds_needed(screening: dict[Cell, dict[str, Any]], comparisons: int) -> int:
    """
    Say with how many seeds a difference that matters would be seen, by the spread of the screening.

    The difference is 1% of the loss of random rows, at one budget. The spread is that of the differences from random
    rows of the same seed, about the mean of each arm, pooled over all arms but those that are nearly random rows.

    Args:
        screening (`dict[Cell, dict[str, Any]]`):
            What was measured of each cell.
        comparisons (`int`):
            How many differences will be tested, for the correction of Holm.

    Returns:
        `int`: From 2 to 100, where 100 may be too few; 0 where nothing is known of the spread.
    """
    random = {cell[1:]: found[METRICS[0]] for cell, found in screening.items() if cell.arm == "random"}
    differences: dict[tuple[str, str], list[float]] = {}
    for arm, found in _by_arm(screening).items():
        if not _is_nearly_random(found):
            for cell, measured in found.items():
                percent = 100 * (measured[METRICS[0]] / random[cell[1:]] - 1)
                differences.setdefault((arm, cell.matching), []).append(percent)
    spreads = [np.var(values, ddof=1) for values in differences.values() if len(values) > 1]
    return seeds_for(float(np.sqrt(np.mean(spreads))), comparisons) if spreads else 0
