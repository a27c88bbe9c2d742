"""Rows of every cluster: the budget is shared out over clusters of the features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import ClassVar, Literal

import numpy as np

from .base import Selector
from .budget import share_out, walk
from .candidates import Candidates
from .clusters import Clusters, as_distances, find_clusters, require_scikit_learn
from .ordering import difficulty, drawn_order


_NEIGHBOURS = 20  # nearest centroids that say how far a cluster is from the others
_LEAST = 0.5  # of an equal part: the least that a cluster gets by density
_UNIT = 10**6  # in which a part is counted before it is rounded

_CHOICES = {
    "easiest": "the easiest rows by {}",
    "random": "random rows",
    "farthest": "the rows farthest from the centroid",
    "nearest": "the rows nearest to the centroid",
}
_SHARES = {
    "proportional": "in proportion to its size",
    "density": "more of clusters that are wide and far from others",
}


@dataclass
class ClusterSelector(Selector):
    """
    Take a part of the budget from each cluster of the features, such as the easiest rows of each.

    The easiest rows alone resemble each other; clusters keep them diverse. k-means of scikit-learn finds the clusters
    on features scaled to length 1. A distance is 1 - cosine, rounded to 6 decimals, and a row belongs to the nearest
    centroid. Ties go to the smaller row number, and between clusters to the one whose first row comes first.

    The sources are, for the easiest rows of each cluster, the first version of the learning-complexity paper: Jiang et
    al., "Exploring Learning Complexity for Downstream Data Pruning", 2024. For `shares="density"`: Abbas et al.,
    "Effective pruning of web-scale datasets based on complexity of concept clusters", ICLR 2024, which takes the
    farthest rows of each cluster.

    With `shares="density"`, cluster j gets the share p_j = softmax(d_inter * d_intra / temperature) of the N that are
    kept. Here d_inter is the mean distance of its centroid to the 20 nearest other centroids, and d_intra is the mean
    distance of its rows to the centroid. A part is at least min(N / (2 * clusters), n_j - 1) and at most the size n_j
    of the cluster. The parts are those within these bounds that are nearest to p_j * N by the sum of squares.

    The parts are worked out anew for each budget, so a larger `keep` need not contain the smaller one.

    Args:
        keep (`float` or `int`, *optional*):
            Budget in rows. A float in (0, 1] is a share of all rows handed in, skipped ones included, rounded half to
            even; an int is a number of rows (`1` is one row, `1.0` all rows). Pass either `keep` or `keep_tokens`.
        keep_tokens (`int`, *optional*):
            Budget in target tokens, never exceeded. The sizes and the parts of clusters count tokens then. The rows of
            each cluster are gone through in their order, and each that still fits into the cluster's part is taken.
            What the clusters leave over goes to further rows, one from each in turn.
        clusters (`int`, *optional*, defaults to `20`):
            Number of clusters in each group. Fewer distinct rows make fewer clusters, which is logged.
        choose (`"easiest"`, `"random"`, `"farthest"` or `"nearest"`, *optional*, defaults to `"easiest"`):
            Which rows of a cluster are taken: the easiest by `column`, random ones, or those farthest from or nearest
            to the centroid.
        shares (`"proportional"` or `"density"`, *optional*, defaults to `"proportional"`):
            Part of the budget that each cluster gets: in proportion to its rows (or target tokens), exact by largest
            remainder, or more for a cluster that is wide and far from others.
        temperature (`float`, *optional*, defaults to `0.5`):
            Temperature of the density, above 0: a smaller one makes the parts more unequal.
        seed (`int`, *optional*, defaults to `0`):
            Seed of k-means and of random rows, at least 0. The result does not depend on the number of threads.
        features_column (`str`, *optional*, defaults to `"dlc_features"`):
            Column of the vectors. A row without a vector is never selected.
        column (`str`, *optional*, defaults to `"dlc_confidence"`):
            Column of the scores. A row whose score is NaN is never selected. For rows without scores pass `None`,
            with another choice than `"easiest"`.
        easy (`"auto"`, `"high"` or `"low"`, *optional*, defaults to `"auto"`):
            Which scores mean easy rows, as in [`FlexRandSelector`].
        group_by (`str`, *optional*):
            Column of strings, integers or `None`s. Groups get parts of the budget as in [`FlexRandSelector`], and
            each group has clusters of its own.
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

    Raises:
        ImportError: At use, if scikit-learn is not installed.

    Example:
    ```python
    >>> import numpy as np
    >>> from hf_dlc.selection import ClusterSelector
    >>> directions = np.array([[1, 0], [0.9, 0.1], [0.8, 0.1], [0.9, 0.2], [0, 1], [0.1, 0.9]])
    >>> confidence = [0.9, 0.8, 0.7, 0.6, 0.1, 0.2]
    >>> ClusterSelector(keep=3, clusters=2).get_indices(confidence, features=directions)  # two of four, one of two
    array([0, 1, 5])

    ```
    """

    name: ClassVar[str] = "cluster"
    varied: ClassVar[str | None] = "choose"

    _: KW_ONLY
    clusters: int = 20
    choose: Literal["easiest", "random", "farthest", "nearest"] = "easiest"
    shares: Literal["proportional", "density"] = "proportional"
    temperature: float = 0.5
    seed: int = 0
    easy: Literal["auto", "high", "low"] = "auto"

    @property
    def needs(self) -> tuple[str, ...]:
        """Features, and scores if the easiest rows are chosen."""
        return ("scores", "features") if self.choose == "easiest" else ("features",)

    def idle(self) -> list[str]:
        """Return the parameters that change nothing, as in [`Selector`]."""
        return [] if self.shares == "density" else ["temperature"]

    def check(self) -> None:
        """Raise a `ValueError` for a parameter out of its range, such as a choice that is not there."""
        super().check()
        if not isinstance(self.clusters, Integral) or isinstance(self.clusters, bool) or self.clusters < 1:
            raise ValueError(f"clusters must be an int of at least 1, got {self.clusters!r}.")
        for name, value, known in (("choose", self.choose, _CHOICES), ("shares", self.shares, _SHARES)):
            if value not in list(known):
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
        if not isinstance(self.temperature, Real) or not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be a finite number above 0, got {self.temperature!r}.")
        if self.choose == "easiest" and self.column is None:
            raise ValueError("choose='easiest' needs scores: pass column=, or another choice such as 'random'.")
        drawn_order(0, self.seed, None)  # refuses what is no seed

    def check_installed(self) -> None:
        """Raise an `ImportError` if clusters cannot be found."""
        require_scikit_learn()

    def _pools(self, candidates: Candidates, group: str | None, quota: int) -> list[np.ndarray]:
        rows = np.flatnonzero(candidates.scored)
        if not rows.size or (quota == 0 and self.keep_tokens is None):
            return [rows]
        costs = candidates.costs[rows]
        clusters = find_clusters(candidates.features[rows], self.clusters, self.seed)
        order = np.argsort(self._ranks(candidates, group, clusters, rows), kind="stable")
        by_cluster = order[np.argsort(clusters.labels[order], kind="stable")]
        members = np.split(by_cluster, np.cumsum(np.bincount(clusters.labels))[:-1])
        sizes = [int(costs[places].sum()) for places in members]
        if self.shares == "proportional":
            parts = share_out(quota, sizes, sizes)
        else:
            parts = density_parts(clusters, sizes, quota, self.temperature)
        return [rows[_in_parts(members, costs, parts)]]

    def _ranks(self, candidates: Candidates, group: str | None, clusters: Clusters, rows: np.ndarray) -> np.ndarray:
        """Numbers by which rows are taken from their clusters, the smallest first."""
        if self.choose == "easiest":
            return difficulty(candidates.scores[rows], self.easy, self.column)
        if self.choose == "random":
            return np.argsort(drawn_order(candidates.rows, self.seed, group))[rows]
        return clusters.distances if self.choose == "nearest" else -clusters.distances

    def _rule(self, column: str) -> str:
        choice = _CHOICES[self.choose].format(column)
        return f"Of each of {self.clusters} clusters of the features, {choice} were taken, {_SHARES[self.shares]}"


def density_parts(clusters: Clusters, sizes: Sequence[int], budget: int, temperature: float) -> list[int]:
    """
    Share a budget out over clusters by their density: wide clusters that are far from the others get more.

    The source is Abbas et al., "Effective pruning of web-scale datasets based on complexity of concept clusters", ICLR
    2024: its quadratic programme, rounded to whole numbers by largest remainder.

    Args:
        clusters ([`Clusters`]):
            Clusters.
        sizes (`Sequence[int]`):
            Size of each cluster, which is the most that it can give.
        budget (`int`):
            What is shared out, at most the sum of the sizes.
        temperature (`float`):
            Temperature of the softmax, above 0.

    Returns:
        `list[int]`: part of each cluster, which add up to the budget.
    """
    if budget == 0:
        return [0] * len(sizes)
    high = np.array(sizes, dtype=np.float64)
    logits = _distance_of_neighbours(clusters.centroids) * _width(clusters) / temperature
    density = np.exp(logits - logits.max())
    low = np.minimum(_LEAST * budget / len(sizes), high - 1)
    parts = nearest_within(density / density.sum() * budget, low, high, budget)
    return share_out(budget, np.rint(parts * _UNIT).astype(np.int64).tolist(), sizes)


def _width(clusters: Clusters) -> np.ndarray:
    """Mean distance of the rows of each cluster to its centroid."""
    return np.bincount(clusters.labels, clusters.distances) / np.bincount(clusters.labels)


def _distance_of_neighbours(centroids: np.ndarray) -> np.ndarray:
    """Mean distance of each centroid to the nearest others; 0 if there is no other."""
    count = len(centroids)
    if count == 1:
        return np.zeros(1)
    distances = as_distances(centroids @ centroids.T)
    np.fill_diagonal(distances, np.inf)
    return np.sort(distances, axis=1)[:, : min(_NEIGHBOURS, count - 1)].mean(axis=1)


def nearest_within(wanted: np.ndarray, low: np.ndarray, high: np.ndarray, total: float) -> np.ndarray:
    """
    Return the numbers x nearest to `wanted` by the sum of squares, with `low <= x <= high`, that add up to `total`.

    The solution is clip(wanted + shift, low, high) with the same shift for all, which is found by bisection.

    Args:
        wanted (`np.ndarray` of shape `(n,)`):
            Numbers to come near to.
        low (`np.ndarray` of shape `(n,)`):
            Least that each may be; together at most `total`.
        high (`np.ndarray` of shape `(n,)`):
            Most that each may be; together at least `total`.
        total (`float`):
            What they add up to.

    Returns:
        `np.ndarray` of shape `(n,)`
    """
    below, above = float((low - wanted).min()), float((high - wanted).max())
    while below < (shift := (below + above) / 2) < above:  # until no number lies between the two
        if np.clip(wanted + shift, low, high).sum() < total:
            below = shift
        else:
            above = shift
    return np.clip(wanted + above, low, high)


def _in_parts(members: Sequence[np.ndarray], costs: np.ndarray, parts: Sequence[int]) -> np.ndarray:
    """Rows of each cluster that its part pays for, in the order of `members`; then the others, one of each in turn."""
    chosen = [rows[walk(costs[rows], part)] for rows, part in zip(members, parts, strict=True)]
    others = [rows[~np.isin(rows, taken)] for rows, taken in zip(members, chosen, strict=True)]
    turn = np.concatenate([np.arange(len(rows)) for rows in others])
    return np.concatenate([*chosen, np.concatenate(others)[np.argsort(turn, kind="stable")]])
