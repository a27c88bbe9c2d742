"""Which part of the budget each group gets: in proportion to its size, equally, or by shares that the user gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from numbers import Real
from typing import Any, Literal


GroupShares = Literal["proportional", "equal"] | Mapping[Any, float]

_TOLERANCE = 1e-6  # of the sum of shares, which may be rounded


def check_group_shares(group_shares: GroupShares, group_by: str | None) -> None:
    """
    Make sure that shares of groups are of a known kind, and that there are groups.

    Args:
        group_shares (`str` or `Mapping`):
            `"proportional"`, `"equal"`, or the share of each group by its key.
        group_by (`str`, *optional*):
            Column of the group keys.

    Raises:
        ValueError: If it is something else, if shares do not add up to 1, or if there is no `group_by`.
    """
    if isinstance(group_shares, str) and group_shares == "proportional":
        return
    if not isinstance(group_shares, Mapping) and group_shares != "equal":
        raise ValueError(
            f"group_shares must be 'proportional', 'equal' or a dict from group keys to shares, got {group_shares!r}."
        )
    if group_by is None:
        raise ValueError(f"group_shares={group_shares!r} needs groups. Pass group_by= the name of a column.")
    if isinstance(group_shares, Mapping):
        _check_sum(group_shares)


def _check_sum(group_shares: Mapping[Any, float]) -> None:
    for key, share in group_shares.items():
        if not isinstance(share, Real) or isinstance(share, bool) or not 0 <= share <= 1:
            raise ValueError(f"the share of a group must be a number from 0 to 1, got {share!r} for {key!r}.")
    total = math.fsum(group_shares.values())
    if abs(total - 1) > _TOLERANCE:
        raise ValueError(f"group_shares must add up to 1, got {total:g} from {dict(group_shares)!r}.")


def group_weights(
    group_shares: GroupShares, names: Sequence[str | None], sizes: Sequence[int], caps: Sequence[int], budget: int
) -> list[int]:
    """
    Whole numbers in proportion to which the groups share the budget.

    Args:
        group_shares (`str` or `Mapping`):
            As [`check_group_shares`] takes it.
        names (`Sequence[str]`):
            Names of the groups, as [`~ordering.split_groups`] returns them: the type of the key, a colon, the key.
        sizes (`Sequence[int]`):
            Size of each group.
        caps (`Sequence[int]`):
            Most that each group can give.
        budget (`int`):
            What is shared out.

    Returns:
        `list[int]`

    Raises:
        ValueError: If shares are given for groups that are not there, or if those with a share cannot fill the budget.
    """
    if group_shares == "proportional":
        return list(sizes)
    if group_shares == "equal":
        return [1] * len(names)
    labels = [name.partition(":")[2] for name in names if name is not None]
    shares = {str(key): Fraction(str(share)) for key, share in group_shares.items()}
    if unknown := [key for key in shares if key not in labels]:
        shown = ", ".join(labels[:20])
        raise ValueError(f"group_shares must name groups that are there, got {', '.join(unknown)}; there are {shown}.")
    if len(set(labels)) < len(labels):
        raise ValueError(
            "group_shares cannot tell groups apart whose keys differ in their type only, such as 1 and '1'."
        )
    open_caps = sum(cap for label, cap in zip(labels, caps, strict=True) if shares.get(label))
    if open_caps < budget:
        raise ValueError(
            f"the groups to which group_shares gives a share can give {open_caps} of the {budget} that are asked for. "
            "Ask for less, or give shares to other groups."
        )
    scale = math.lcm(*(share.denominator for share in shares.values()))
    return [int(shares.get(label, Fraction(0)) * scale) for label in labels]
