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
    outcomes: dict[str, list[dict[str, Any]]] = {}
    for cell, found in screening.items():
        outcomes.setdefault(cell.arm, []).append(found)
    losses = {
        arm: np.mean([one[METRICS[0]] for one in found])
        for arm, found in outcomes.items()
        if np.mean([one["shared"] for one in found]) < _NEARLY_RANDOM and arm != ORACLE
    }
    if not losses:
        raise ValueError("arms must choose others than random rows, got none that does. Name --finalists.")
    best = sorted(losses, key=lambda arm: (losses[arm], arm))[:count]
    return [*best, *([ORACLE] if ORACLE in outcomes else [])]


def seeds_needed(screening: dict[Cell, dict[str, Any]], comparisons: int) -> int:
    """
    Say with how many seeds a difference that matters would be seen, by the spread of the screening.

    The difference is 1% of the loss of random rows, at one budget. The spread is that of the differences from random
    rows of the same seed, about the mean of each arm, pooled over all arms.

    Args:
        screening (`dict[Cell, dict[str, Any]]`):
            What was measured of each cell.
        comparisons (`int`):
            How many arms will be compared, for the correction of Holm.

    Returns:
        `int`: At least 2; 0 if one seed was screened, which has no spread.
    """
    by_arm: dict[tuple[str, str], dict[int, float]] = {}
    for cell, found in screening.items():
        by_arm.setdefault((cell.arm, cell.matching), {})[cell.seed] = found[METRICS[0]]
    random = {matching: losses for (arm, matching), losses in by_arm.items() if arm == "random"}
    spreads = [
        np.var([_percent(loss, random[matching][seed]) for seed, loss in losses.items()], ddof=1)
        for (arm, matching), losses in by_arm.items()
        if arm != "random" and len(losses) > 1
    ]
    return seeds_for(float(np.sqrt(np.mean(spreads))), comparisons) if spreads else 0


def _percent(loss: float, random: float) -> float:
    return 100 * (loss / random - 1)
