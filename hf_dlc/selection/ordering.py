"""Orders of rows (by score, or drawn at random) and the groups within which they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np

from hf_dlc.errors import UserTypeError
from hf_dlc.scores.table import SCORES, score_of

from .budget import walk
from .candidates import Candidates


def difficulty(scores: np.ndarray, easy: str, column: str) -> np.ndarray:
    """
    Scores turned so that smaller means easier.

    Args:
        scores (`np.ndarray`):
            Score of each row.
        easy (`str`):
            Which scores mean easy rows: `"high"`, `"low"`, or `"auto"`, by the score that the column holds.
        column (`str`):
            Name of the column.

    Returns:
        `np.ndarray`: The scores, or the scores with their signs turned.

    Raises:
        ValueError: If `easy` is something else, or if `"auto"` does not know the column.
    """
    if easy == "auto":
        score = score_of(column)
        if score is None:
            ends = ", ".join(f"_{name}" for name in SCORES)
            raise ValueError(
                f"easy='auto' knows columns that end in {ends}, got column={column!r}. "
                "Pass easy='high' if a high score means an easy row, easy='low' if it means a hard one."
            )
        easy = score.easy
    if easy not in ("high", "low"):
        raise ValueError(f"easy must be 'auto', 'high' or 'low', got {easy!r}.")
    return -scores if easy == "high" else scores


def drawn_order(n_rows: int, seed: int, group: str | None) -> np.ndarray:
    """
    Return a random order of the rows of one group that depends on nothing but the arguments.

    Args:
        n_rows (`int`):
            Number of rows of the group.
        seed (`int`):
            Seed of the draw, at least 0.
        group (`str`, *optional*):
            Name of the group, from [`split_groups`]: another one gives another order.

    Returns:
        `np.ndarray`: The numbers from 0 to `n_rows - 1` in random order.

    Raises:
        ValueError: If `seed` is no such number.
    """
    if not isinstance(seed, Integral) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed must be a non-negative int, got {seed!r}.")
    entropy = [int(seed)]
    if group is not None:
        # Python's own hash of a string differs between processes.
        entropy.append(int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8).digest(), "little"))
    return np.random.default_rng(np.random.SeedSequence(entropy)).permutation(n_rows)


def check_mix(mix: float) -> None:
    """Raise a `ValueError` unless `mix` is a share of the budget that leaves something to choose."""
    if not isinstance(mix, Real) or isinstance(mix, bool) or not 0 <= mix < 1:
        raise ValueError(f"mix must be a share of the budget, at least 0 and below 1, got {mix!r}.")


def mixed(order: np.ndarray, candidates: Candidates, quota: int, mix: float, others: np.ndarray) -> np.ndarray:
    """
    Return an order whose beginning fills a part of a budget by rank, and which goes on at random.

    Args:
        order (`np.ndarray`):
            Rows by rank, best first.
        candidates ([`Candidates`]):
            All rows, and what each takes of the budget.
        quota (`int`):
            Budget.
        mix (`float`):
            Share of the budget that is filled at random.
        others (`np.ndarray` of shape `(rows,)`):
            All rows in random order.

    Returns:
        `np.ndarray`: row numbers, int64.
    """
    part = quota - round(quota * float(mix))
    first = order[walk(candidates.costs[order], part)]
    is_taken = np.zeros(candidates.rows, dtype=bool)
    is_taken[first] = True
    return np.concatenate([first, others[~is_taken[others]]])


def split_groups(groups: Sequence | np.ndarray | None, n_rows: int) -> tuple[list[str | None], list[np.ndarray]]:
    """Name and rows (ascending) of every group, in the sorted order of the keys; without groups, one unnamed group."""
    if groups is None:
        return [None], [np.arange(n_rows)]
    if len(groups) != n_rows:
        raise ValueError(f"groups must have one key for each of the {n_rows} scores, got {len(groups)}.")
    keys, codes = _factorise(groups)
    # The smallest integer type that fits, because NumPy sorts 16-bit integers by radix, in a fraction of the time.
    by_group = np.argsort(codes.astype(np.min_scalar_type(len(keys))), kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(keys)))[:-1]
    # The type is part of the name: 1 and "1" are different groups.
    return [f"{type(key).__name__}:{key}" for key in keys], np.split(by_group, ends)


def _factorise(groups: Sequence | np.ndarray) -> tuple[list[str | int | None], np.ndarray]:
    """Return the sorted distinct keys, `None` first, and the position among them of every row's key."""
    if isinstance(groups, np.ndarray) and groups.ndim == 1 and groups.dtype.kind in "biu":
        keys, codes = np.unique(groups, return_inverse=True)
        return keys.tolist(), codes
    seen: dict[str | int | None, int] = {}
    try:
        codes = np.fromiter((seen.setdefault(key, len(seen)) for key in groups), dtype=np.int64, count=len(groups))
    except TypeError as error:
        raise UserTypeError(f"group keys must be strings, integers or None: {error}.") from error
    keys = [key.item() if isinstance(key, np.generic) else key for key in seen]
    strange = next((key for key in keys if not isinstance(key, str | int | None)), None)
    if strange is not None:
        raise UserTypeError(f"group keys must be strings, integers or None, got {strange!r}. Cast the column first.")
    # Keys of different types cannot be compared, so types are sorted first; "NoneType" sorts before the others.
    ranking = sorted(range(len(keys)), key=lambda i: (type(keys[i]).__name__, 0 if keys[i] is None else keys[i]))
    new_codes = np.empty(len(keys), dtype=np.int64)
    new_codes[ranking] = np.arange(len(keys))
    return [keys[i] for i in ranking], new_codes[codes]


def bound(scores: np.ndarray, count: int, easy: str, column: str) -> float:
    """
    Value of the score that parts the easiest rows from the others: the middle between the two that are next to it.

    Args:
        scores (`np.ndarray` of shape `(rows,)`):
            The scores, NaN for rows without one.
        count (`int`):
            Number of the easiest rows; there is a row on either side.
        easy (`"auto"`, `"high"` or `"low"`):
            Which scores mean easy rows.
        column (`str`):
            Column of the scores.

    Returns:
        `float`

    Example:
    ```python
    >>> bound(np.array([0.1, 0.9, 0.5, np.nan]), 1, "high", "mine")
    0.7

    ```
    """
    known = np.asarray(scores, dtype=np.float64)
    known = known[np.isfinite(known)]
    order = np.argsort(difficulty(known, easy, column), kind="stable")
    return float(known[order[count - 1 : count + 1]].mean())
