"""
How much may be kept, and how that is shared out over groups and intervals.

Budgets are whole numbers of a unit: rows (each row costs 1) or target tokens (each row costs its own number).
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np

from hf_dlc.errors import UserTypeError


def tokens_to_keep(keep_tokens: int) -> int:
    """Return `keep_tokens` as an int after checking it."""
    if not isinstance(keep_tokens, Integral) or isinstance(keep_tokens, bool):
        raise UserTypeError(f"keep_tokens must be an int (number of target tokens), got {keep_tokens!r}.")
    if keep_tokens < 1:
        raise ValueError(f"keep_tokens must be at least 1, got {keep_tokens}.")
    return int(keep_tokens)


def share_out(budget: int, weights: Sequence[int], caps: Sequence[int]) -> list[int]:
    """
    Share `budget` out in proportion to `weights`, none above its cap, adding up exactly (largest remainder).

    What a capped group cannot take is shared out over the others in the same proportions. Groups of weight 0 get what
    is left once all others are at their caps, in proportion to their own. Of equal remainders the earlier group gets
    the unit. The caps must add up to at least `budget`. Python integers are used because the
    product of two token counts can exceed 64 bits.

    Args:
        budget (`int`):
            Units to share out.
        weights (`Sequence[int]`):
            Size of each group, by which its part is measured.
        caps (`Sequence[int]`):
            Most that each group can take.

    Returns:
        `list[int]`: Part of each group.
    """
    quotas = list(caps)
    open_groups = list(range(len(caps)))
    while True:
        weights = weights if any(weights[g] for g in open_groups) else caps
        total = sum(weights[g] for g in open_groups)
        still_open = [g for g in open_groups if budget * weights[g] < caps[g] * total]
        if len(still_open) == len(open_groups):
            break
        budget -= sum(caps[g] for g in set(open_groups) - set(still_open))
        open_groups = still_open
    for g in open_groups:
        quotas[g] = budget * weights[g] // total
    missing = budget - sum(quotas[g] for g in open_groups)
    for g in sorted(open_groups, key=lambda g: -(budget * weights[g] % total))[:missing]:
        quotas[g] += 1
    return quotas


def share_out_at_least(budget: int, weights: Sequence[int], caps: Sequence[int], least: int) -> list[int]:
    """
    Share `budget` out as [`share_out`] does, but give no group less than `least`, or its cap if that is smaller.

    The budget must be enough for that. Groups that are raised leave less for the others, in the same proportions.

    Args:
        budget (`int`):
            Units to share out.
        weights (`Sequence[int]`):
            Size of each group, by which its part is measured.
        caps (`Sequence[int]`):
            Most that each group can take.
        least (`int`):
            Least that each group gets.

    Returns:
        `list[int]`: Part of each group.
    """
    floors = [min(least, cap) for cap in caps]
    quotas, raised = list(floors), set()
    while True:
        others = [g for g in range(len(caps)) if g not in raised]
        left = budget - sum(floors[g] for g in raised)
        shares = share_out(left, [weights[g] for g in others], [caps[g] for g in others])
        low = {g for g, share in zip(others, shares, strict=True) if share < floors[g]}
        if not low:
            for g, share in zip(others, shares, strict=True):
                quotas[g] = share
            return quotas
        raised |= low


def water_fill(budget: int, sizes: Sequence[int]) -> list[int]:
    """Split `budget` over one or two pools: half each, and what a small pool cannot take goes to the other."""
    if len(sizes) == 1:
        return [budget]
    first, second = sizes
    part = min(max(round(budget / 2), budget - second), min(first, budget))
    return [part, budget - part]


def walk(costs: np.ndarray, budget: int) -> np.ndarray:
    """Positions of the rows taken by going once through `costs` and taking every row that still fits."""
    candidates, taken = np.arange(len(costs)), []
    while candidates.size:
        spent = np.cumsum(costs[candidates])
        n_fit = int(np.searchsorted(spent, budget, side="right"))
        taken.append(candidates[:n_fit])
        budget -= int(spent[n_fit - 1]) if n_fit else 0
        # The budget only shrinks, so a row that does not fit now never will: one pass serves for a whole stretch.
        candidates = candidates[n_fit:]
        candidates = candidates[costs[candidates] <= budget]
    return np.concatenate(taken) if taken else candidates
