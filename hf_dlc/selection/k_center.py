"""Rows that cover the pool: each the farthest from those taken before it."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np

from .base import Selector
from .candidates import Candidates
from .clusters import as_distances, unit_blocks, unit_vectors
from .ordering import drawn_order


_SHORTLIST = 1024  # rows whose distances are kept up to date while rows are taken


@dataclass
class KCenterSelector(Selector):
    """
    Take the row that is farthest from all rows taken so far, again and again.

    The rows taken cover the pool: none of the others is far from all of them. Scores serve only to leave skipped rows
    out. The first row is drawn by `seed`. A distance is 1 - cosine of the features, rounded to 6 decimals; equal
    distances are ordered by row number, and a zero vector has distance 1 to every row.

    The source is the greedy farthest-first traversal of Gonzalez, "Clustering to minimize the maximum intercluster
    distance", Theoretical Computer Science 1985. Sener & Savarese, "Active learning for convolutional neural networks:
    A core-set approach", ICLR 2018, select data by it (Algorithm 1). The traversal favours outliers, so rows that are
    wrong or garbled should be removed first.

    Time grows with (rows of a group) x (rows taken of it) x (size of a vector). Besides the features, memory holds a
    few blocks of them and a few numbers a row.

    Without `group_by`, a larger `keep` with the same seed contains the smaller one.

    Args:
        keep (`float` or `int`, *optional*):
            Budget in rows. A float in (0, 1] is a share of all rows handed in, skipped ones included, rounded half to
            even; an int is a number of rows (`1` is one row, `1.0` all rows). Pass either `keep` or `keep_tokens`.
        keep_tokens (`int`, *optional*):
            Budget in target tokens, never exceeded. Of the rows that still fit, the farthest one is taken, until no
            row fits. What the groups leave over goes to further rows, one from each group in turn, those farthest
            from the group's rows first.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the draw of the first row, at least 0.
        features_column (`str`, *optional*, defaults to `"dlc_features"`):
            Column of the vectors. A row without a vector is never selected.
        column (`str`, *optional*):
            Column in which NaN marks a skipped row. By default `dlc_confidence` if the dataset has it; if not, all
            rows with features may be taken.
        group_by (`str`, *optional*):
            Column of strings, integers or `None`s. Groups get parts of the budget as in [`FlexRandSelector`], and the
            rows of a group are compared with each other only.
        tokens_column (`str`, *optional*, defaults to `"dlc_tokens"`):
            Column of the number of target tokens, read for `keep_tokens` only.
        missing (`"drop"` or `"error"`, *optional*, defaults to `"drop"`):
            Leave skipped rows (NaN scores or features) out and log their number, or refuse them.
        min_per_group (`int`, *optional*, defaults to 0):
            Rows that are kept of every group, however small; of a group with fewer scored rows, all of them.
        group_shares (`str` or `dict`, *optional*, defaults to `"proportional"`):
            Parts of the groups, as in [`FlexRandSelector`].
        drop_duplicates (`bool`, *optional*, defaults to `False`):
            Leave out duplicates, as in [`FlexRandSelector`].

    Example:
    ```python
    >>> import numpy as np
    >>> from hf_dlc.selection import KCenterSelector
    >>> directions = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [-1, 0]])
    >>> KCenterSelector(keep=3).get_indices(features=directions)  # row 0 or 1, row 2 or 3, and row 4
    array([0, 2, 4])

    ```
    """

    name: ClassVar[str] = "k_center"
    needs: ClassVar[tuple[str, ...]] = ("features",)
    most_compared: ClassVar[int | None] = 50_000

    _: KW_ONLY
    column: str | None = None
    seed: int = 0

    def _pools(self, candidates: Candidates, group: str | None, quota: int) -> list[np.ndarray]:
        in_tokens, costs = self.keep_tokens is not None, candidates.costs
        # The draw does not look at which rows may be taken, so that one more skipped row rarely changes the first.
        drawn = drawn_order(candidates.rows, self.seed, group)
        drawn = drawn[candidates.scored[drawn]]
        fitting = drawn[costs[drawn] <= quota]
        if not fitting.size:
            return [drawn]
        rows = np.flatnonzero(candidates.scored)
        first = int(np.searchsorted(rows, fitting[0]))
        return [rows[farthest_first(candidates.features[rows], costs[rows], quota, first, all_rows=in_tokens)]]

    def _rule(self, column: str) -> str:
        return "Rows were taken one by one, each the farthest from all rows taken before it by the cosine of features"


def farthest_first(
    features: np.ndarray, costs: np.ndarray, budget: int, first: int, all_rows: bool = False
) -> np.ndarray:
    """
    Order rows so that each is the farthest from all before it, among those whose costs still fit into the budget.

    Args:
        features (`np.ndarray` of shape `(rows, size)`):
            Finite vectors.
        costs (`np.ndarray` of shape `(rows,)`):
            What each row costs, at least 1.
        budget (`int`):
            What the rows may cost together, at least the cost of the first.
        first (`int`):
            First row.
        all_rows (`bool`, *optional*, defaults to `False`):
            Whether the rows that do not fit come behind, those farthest from the rows taken first.

    Returns:
        `np.ndarray`: row numbers in this order, int64.
    """
    taken, fresh, left = [first], [first], budget - int(costs[first])
    nearest = np.full(len(features), np.inf, dtype=np.float32)  # distance to the nearest row taken, but for the fresh
    is_open = np.ones(len(features), dtype=bool)
    while True:
        is_open[fresh] = False
        is_open &= costs <= left
        if not is_open.any():
            break
        _come_nearer(nearest, features, fresh)
        fresh = _next_rows(features, np.where(is_open, nearest, -1), costs, left)
        taken += fresh
        left -= int(costs[fresh].sum())
    if not all_rows:
        return np.array(taken)
    _come_nearer(nearest, features, fresh)
    behind = np.argsort(-nearest, kind="stable")
    return np.concatenate([taken, behind[~np.isin(behind, taken)]])


def _come_nearer(nearest: np.ndarray, features: np.ndarray, rows: list[int]) -> None:
    """Bring the distance of each row to the nearest row taken up to date with rows just taken."""
    centres = unit_vectors(features[rows]).T
    for place, vectors in unit_blocks(features):
        nearest[place] = np.minimum(nearest[place], as_distances((vectors @ centres).max(axis=1)))


def _next_rows(features: np.ndarray, nearest: np.ndarray, costs: np.ndarray, left: int) -> list[int]:
    """
    Rows to take next, at least one; `nearest` is -1 for rows that cannot be taken.

    Only the distances of a shortlist, the farthest rows, follow the rows as they are taken. Those of other rows can
    only fall. So the farthest row of the shortlist is the farthest of all, as long as it is farther than all others
    were at the beginning. The vectors of all rows are thus read once for many rows that are taken.
    """
    ranking = np.argsort(-nearest, kind="stable")
    rows, others = np.sort(ranking[:_SHORTLIST]), ranking[_SHORTLIST:]
    limit = (nearest[others[0]], -others[0]) if others.size else (-1, 0)
    vectors, distances, found = unit_vectors(features[rows]), nearest[rows], []
    while True:
        distances[costs[rows] > left] = -1
        best = int(distances.argmax())  # the first of several, which is the smallest row number
        if distances[best] < 0 or (distances[best], -rows[best]) < limit:
            return found
        found.append(int(rows[best]))
        left -= int(costs[rows[best]])
        distances = np.minimum(distances, as_distances(vectors @ vectors[best]))
        distances[best] = -1
