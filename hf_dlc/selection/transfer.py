"""Whole groups of rows by the votes of wanted rows: pruning for transfer learning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from .candidates import Candidates
from .clusters import find_clusters, require_scikit_learn
from .columns import read_column
from .flexrand import FlexRandSelector
from .ordering import difficulty, drawn_order, split_groups
from .targeted import TargetedSelector


if TYPE_CHECKING:
    from datasets import Dataset

    from .wanted import Wanted

_FEWEST_CLUSTERS, _MOST_CLUSTERS = 2, 1000  # that are made without being asked for
_NUMBERS_AT_ONCE = 2**24  # of vectors, or of distances, that are held in float64
_DECIMALS = 6  # of a distance: two that differ by less are equal, on every machine


@dataclass
class TransferSelector(TargetedSelector):
    """
    Take the groups of rows that get the most votes of the wanted rows, whole, until the budget is spent.

    The pool is split into groups: its classes (`groups_from`), or clusters of its features. Each wanted row votes for
    one group. Groups are taken in the order of their votes, and the last one is trimmed to what is left:

    - with scores by FlexRand, as [`FlexRandSelector`] does with `split`, `column` and `easy`;
    - without scores at random.

    A wanted row with the vector `z` votes for the group `c` that minimises `||z / ||z|| - m_c||`. Here `m_c` is the
    mean of the group's vectors, each of them scaled to length 1. Distances are rounded to 6 decimals, and of equal
    ones the group that sorts first gets the vote: classes by their keys, clusters by the numbers of their first rows.
    With `mapping="labels"` a classifier of your own may vote instead, by the labels that it predicts.

    Of groups with equally many votes, also with none, the one comes first whose mean is nearest to the mean of the
    wanted rows, and then the one that sorts first. Where only labels are known of the wanted rows, the larger group
    comes first instead of the nearer one.

    The source is "Selectivity Drives Productivity: Efficient Dataset Pruning for Enhanced Transfer Learning", Zhang et
    al., NeurIPS 2023, which names these mappings DP4TL. The paper prunes whole classes down to a number of classes;
    here the budget counts rows or target tokens, and so the last group is trimmed.

    Without `group_by`, a larger `keep` with the same seed contains the smaller one.

    Args:
        keep (`float` or `int`, *optional*):
            Budget in rows. A float in (0, 1] is a share of all rows handed in, skipped ones included, rounded half to
            even; an int is a number of rows (`1` is one row, `1.0` all rows). Pass either `keep` or `keep_tokens`.
        keep_tokens (`int`, *optional*):
            Budget in target tokens, never exceeded. What is too little for a row of the trimmed group goes to rows of
            the groups that follow, so that in the end no row that was left out would fit.
        target (`Dataset`, `np.ndarray` of shape `(wanted, size)`, or labels):
            The wanted rows, of which none is selected unless it stands in the pool too: a dataset with the column
            `features_column`, or its vectors. They must be made as those of the pool are. Rows without a vector (NaN)
            are left out and logged.
            With `mapping="labels"` it may hold labels instead; see there.
        mapping (`"features"` or `"labels"`, *optional*, defaults to `"features"`):
            Who votes. `"features"` is the nearest mean, as above. `"labels"` needs `groups_from`, and counts the
            labels that a classifier of the pool's classes predicts for the wanted rows. `target` is then a dataset
            with a column `groups_from`, or a sequence of strings or integers, as they stand in the pool. Such a
            column must hold predictions, never the labels of another task. If `target` has vectors only, the
            classifier is the nearest class mean, which makes both mappings the same.
        groups_from (`str`, *optional*):
            Column of strings, integers or `None`s whose values are the groups, such as a class. It is read from a
            dataset, so that `get_indices` cannot serve it. By default the groups are clusters.
        clusters (`int`, *optional*):
            Number of clusters, made by k-means on the features scaled to length 1; this needs scikit-learn. By
            default the square root of the number of rows, at least 2 and at most 1000.
        split (`float`, *optional*, defaults to `0.5`):
            Share of the trimmed group that makes up its easy interval, strictly between 0 and 1.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the clusters and of the draw, at least 0.
        column (`str`, *optional*):
            Column of the scores. By default `dlc_confidence` if the dataset has it; if not, there are no scores. A
            row whose score is NaN is never selected.
        easy (`"auto"`, `"high"` or `"low"`, *optional*, defaults to `"auto"`):
            Which scores mean easy rows, as in [`FlexRandSelector`].
        features_column (`str`, *optional*, defaults to `"dlc_features"`):
            Column of the vectors, in the pool and in `target`. A row without a vector (NaN) is never selected.
        group_by (`str`, *optional*):
            Column of strings, integers or `None`s. Groups get parts of the budget as in [`FlexRandSelector`]. Each is
            split into classes or clusters of its own, for which all wanted rows vote. One with fewer rows than
            `clusters` has a cluster for each row.
        tokens_column (`str`, *optional*, defaults to `"dlc_tokens"`):
            Column of the number of target tokens, read for `keep_tokens` only.
        missing (`"drop"` or `"error"`, *optional*, defaults to `"drop"`):
            Leave skipped rows (NaN scores or vectors) out and log their number, or refuse them.
        min_per_group (`int`, *optional*, defaults to 0):
            Rows that are kept of every group of `group_by`, however small; of one with fewer scored rows, all.
        group_shares (`str` or `dict`, *optional*, defaults to `"proportional"`):
            Parts of the groups, as in [`FlexRandSelector`].
        drop_duplicates (`bool`, *optional*, defaults to `False`):
            Leave out duplicates, as in [`FlexRandSelector`].

    Example:
    ```python
    >>> import numpy as np
    >>> from datasets import Dataset
    >>> from hf_dlc.selection.transfer import TransferSelector
    >>> features = [[1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [1.0, 0.1], [-1.0, 0.0]]
    >>> pool = Dataset.from_dict({"label": ["cat", "car", "car", "cat", "sky"], "dlc_features": features})
    >>> wanted = np.array([[0.2, 1.0], [0.9, 0.0], [0.0, 2.0]])  # two votes for "car", one for "cat"
    >>> TransferSelector(keep=2, target=wanted, groups_from="label")(pool)["label"][:]
    ['car', 'car']
    >>> TransferSelector(keep=4, target=["cat", "cat"], mapping="labels", groups_from="label").read_indices(pool)
    array([0, 1, 2, 3])

    ```
    """

    name: ClassVar[str] = "transfer"
    varied: ClassVar[str | None] = "mapping"
    needs: ClassVar[tuple[str, ...]] = ("features",)

    _: KW_ONLY
    mapping: Literal["features", "labels"] = "features"
    groups_from: str | None = None
    clusters: int | None = None
    split: float = 0.5
    seed: int = 0
    easy: Literal["auto", "high", "low"] = "auto"

    def own_columns(self) -> Mapping[str, Sequence[str]]:
        """Return the column of the classes, as in [`Selector`]."""
        return {} if self.groups_from is None else {"groups_from": [self.groups_from]}

    def check(self) -> None:
        """Raise a `ValueError` for a parameter out of its range; the wanted rows are looked at later."""
        super().check()
        self._trimming().check()
        drawn_order(0, self.seed, None)  # refuses a wrong seed, also where nothing is drawn in the end
        if self.mapping not in ("features", "labels"):
            raise ValueError(f"mapping must be 'features' or 'labels', got {self.mapping!r}.")
        if self.mapping == "labels" and self.groups_from is None:
            raise ValueError("mapping='labels' needs the classes of the pool. Pass groups_from= the name of a column.")
        self._check_clusters()

    def _check_clusters(self) -> None:
        if self.clusters is None:
            return
        if not isinstance(self.clusters, Integral) or isinstance(self.clusters, bool) or self.clusters < 1:
            raise ValueError(f"clusters must be an int, at least 1, or None, got {self.clusters!r}.")
        if self.groups_from is not None:
            raise ValueError(
                f"the groups are either clusters or classes, got clusters={self.clusters} and "
                f"groups_from={self.groups_from!r}. Leave one of them out."
            )

    def _trimming(self, **budget: int) -> FlexRandSelector:
        """The selector that trims a group by its scores."""
        options = {} if self.column is None else {"column": self.column}
        return FlexRandSelector(**budget, **options, split=self.split, seed=self.seed, easy=self.easy)

    def _read(self, dataset: Dataset) -> Candidates:
        wanted = self.wanted_rows()
        wanted.require_made_as(dataset)
        candidates = replace(super()._read(dataset), wanted=wanted)
        if self.groups_from is None:
            return candidates
        # Plain Python values, as for group_by.
        classes = read_column(dataset.with_format(None), self.groups_from, "Pass groups_from= one of these.")[:]
        if self.mapping == "labels" and wanted.dataset is not None:
            self._check_class_names(dataset)
        return replace(candidates, classes=classes)

    def _check_class_names(self, dataset: Dataset) -> None:
        """Make sure that the same number means the same class in the pool and in the target."""
        names = [getattr(rows.features.get(self.groups_from), "names", None) for rows in (dataset, self.target)]
        if None not in names and names[0] != names[1]:
            raise ValueError(
                f"the classes in {self.groups_from!r} must be those of the pool, {_some(names[0])}; target has "
                f"{_some(names[1])}. Predict the pool's classes for the wanted rows, or remove the column."
            )

    def _prepared(self, candidates: Candidates) -> Candidates:
        if self.groups_from is not None and candidates.classes is None:
            raise ValueError(
                f"groups_from={self.groups_from!r} is the name of a column, which get_indices does not see. Call the "
                "selector on a dataset, or its read_indices."
            )
        candidates = super()._prepared(candidates)
        labels = self._labels(candidates.wanted)
        if labels is not None:
            _check_labels(labels, candidates.classes)
        if candidates.features is not None:
            self._vectors(candidates)  # refuses those of another size
        return candidates

    def _labels(self, wanted: Wanted) -> Sequence | np.ndarray | None:
        """Predicted labels of the wanted rows; `None` where their vectors vote."""
        if self.mapping == "features":
            return None
        labels = wanted.labels(self.groups_from)
        if labels is None and not wanted.has_vectors:
            raise ValueError(
                f"target must have the column {self.features_column!r} of features, or {self.groups_from!r} of "
                f"predicted labels, got {wanted.column_names}."
            )
        return labels

    def _vectors(self, candidates: Candidates) -> np.ndarray | None:
        """Vectors of the wanted rows; `None` where only labels are known."""
        wanted = candidates.wanted
        if self._labels(wanted) is not None and not wanted.has_vectors:
            return None
        return wanted.features(candidates.features.shape[1])

    def check_installed(self) -> None:
        """Raise an `ImportError` if clusters cannot be found."""
        if self.groups_from is None:
            require_scikit_learn()

    def _pools(self, candidates: Candidates, group: str | None, quota: int) -> list[np.ndarray]:
        rows = np.flatnonzero(candidates.scored)
        if not len(rows):
            return [rows]
        if candidates.scores is not None:  # refuse a wrong orientation also where nothing is trimmed
            difficulty(candidates.scores[:1], self.easy, self._trimming().column)
        names, members = self._groups(candidates, rows, group)
        votes, order = _ranking(candidates, self._labels(candidates.wanted), self._vectors(candidates), names, members)
        costs, pool = candidates.costs, []
        for place in order:
            part = members[place]
            candidates.note("votes", part, np.full(len(part), votes[place], dtype=np.int64))
            cost = int(costs[part].sum())
            pool.append(part if cost <= quota else self._trimmed(candidates, part, quota, f"{group}/{names[place]}"))
            quota = max(quota - cost, 0)
        return [np.concatenate(pool)]

    def _groups(
        self, candidates: Candidates, rows: np.ndarray, group: str | None
    ) -> tuple[list[str | None], list[np.ndarray]]:
        """Names and rows of the groups that are voted for, in the order in which they sort."""
        if candidates.classes is not None:
            keys = [candidates.classes[row] for row in rows]
        else:
            count = self.clusters or min(max(round(len(rows) ** 0.5), _FEWEST_CLUSTERS), _MOST_CLUSTERS)
            if self.clusters is not None and group is None and count > len(rows):
                raise ValueError(
                    f"clusters must be at most the number of rows that may be taken, got {count} for {len(rows)} rows."
                )
            keys = find_clusters(candidates.features[rows], min(count, len(rows)), self.seed).labels
        names, members = split_groups(keys, len(rows))
        return names, [rows[places] for places in members]

    def _trimmed(self, candidates: Candidates, rows: np.ndarray, left: int, label: str) -> np.ndarray:
        """The rows of a group in another order: first those that fit into what is left of the budget."""
        order = drawn_order(len(rows), self.seed, label)
        scores, tokens = candidates.scores, candidates.tokens
        if scores is None or left < (1 if tokens is None else tokens[rows].min()):
            return rows[order]
        trimming = self._trimming(**{"keep" if tokens is None else "keep_tokens": left})
        # One group, whose label gives equally large groups orders of their own.
        taken = trimming.get_indices(scores[rows], [label] * len(rows), None if tokens is None else tokens[rows])
        is_left = np.ones(len(rows), dtype=bool)
        is_left[taken] = False
        return rows[np.concatenate([taken, order[is_left[order]]])]

    def _rule(self, column: str) -> str:
        groups = "clusters" if self.groups_from is None else "classes"
        return f"The {groups} of rows with the most votes of the wanted rows were taken whole, the last one in part"


def _check_labels(labels: Sequence | np.ndarray, classes: Sequence) -> None:
    """Make sure that the labels of the wanted rows are classes of the pool."""
    known, _ = split_groups(classes, len(classes))
    found, _ = split_groups(labels, len(labels))
    if unknown := sorted(set(found) - set(known)):
        raise ValueError(
            f"the labels in target must be classes of the pool, got {_some(unknown)}; there are {_some(known)} "
            "(type:label)."
        )


def _ranking(
    candidates: Candidates,
    labels: Sequence | np.ndarray | None,
    vectors: np.ndarray | None,
    names: Sequence[str | None],
    members: Sequence[np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Votes for each group, and the order in which the groups are taken."""
    ties = [-len(rows) for rows in members]
    if vectors is not None:
        means = np.stack([_mean(candidates.features, rows) for rows in members])
        middle = _mean(vectors, np.arange(len(vectors)))
        ties = _distances(middle[None], means)[0]
    if labels is None:
        votes = _nearest(vectors, means)
    else:
        found, places = split_groups(labels, len(labels))
        counts = dict(zip(found, map(len, places), strict=True))
        votes = np.array([counts.get(name, 0) for name in names], dtype=np.int64)
    return votes, np.lexsort((ties, -votes))  # stable: what is equal stays as it sorts


def _nearest(vectors: np.ndarray, means: np.ndarray) -> np.ndarray:
    """How many vectors are nearest to each mean; of equally near ones the first counts."""
    votes = np.zeros(len(means), dtype=np.int64)
    for rows in _blocks(np.arange(len(vectors)), max(means.shape)):
        nearest = _distances(_scaled(vectors[rows]), means).argmin(axis=1)
        votes += np.bincount(nearest, minlength=len(means))
    return votes


def _distances(vectors: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Distance of each vector to each mean, rounded."""
    squares = (vectors**2).sum(axis=1)[:, None] + (means**2).sum(axis=1) - 2 * vectors @ means.T
    return np.sqrt(np.maximum(squares, 0)).round(_DECIMALS)


def _mean(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Mean of vectors that are scaled to length 1."""
    return sum(_scaled(vectors[block]).sum(axis=0) for block in _blocks(rows, vectors.shape[1])) / len(rows)


def _scaled(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1 in float64; zeros stay zeros."""
    vectors = vectors.astype(np.float64)
    # By the largest number first: the square of a very large one is infinite, that of a very small one is 0.
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    vectors /= np.where(largest > 0, largest, 1)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def _blocks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Row numbers in blocks, so that no more vectors than these are held in float64."""
    step = max(_NUMBERS_AT_ONCE // size, 1)
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:5])) + (", ..." if len(names) > 5 else "")
