"""Directions of feature vectors, the distances between them, and the clusters that k-means finds among them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .vectors import unit_vectors


logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 2**14  # in float32, with their distances to up to 1,000 other vectors: about 100 MB
_DECIMALS = 6  # of distances; float32 has hardly more, and what is beyond depends on the size of a block
_FULL_UP_TO = 100_000  # rows that k-means sees all at once
_BATCH = 4096  # rows of a step of mini-batch k-means


@dataclass(frozen=True)
class Clusters:
    """
    Clusters of vectors, in the order of their first rows; none is empty.

    Args:
        labels (`np.ndarray` of shape `(rows,)`):
            Number of the cluster of each row.
        distances (`np.ndarray` of shape `(rows,)`):
            Distance of each row to the centroid of its cluster.
        centroids (`np.ndarray` of shape `(clusters, size)`):
            Centroids, of length 1.
    """

    labels: np.ndarray
    distances: np.ndarray
    centroids: np.ndarray


def unit_blocks(features: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the vectors block by block, scaled to length 1, with the place of each block among the rows."""
    for start in range(0, len(features), _ROWS_AT_ONCE):
        place = slice(start, start + _ROWS_AT_ONCE)
        yield place, unit_vectors(features[place])


def as_distances(cosines: np.ndarray) -> np.ndarray:
    """Return 1 - cosine, from 0 to 2, rounded so that rows with equal vectors have equal distances."""
    return np.maximum(np.round(1 - cosines, _DECIMALS), 0)


def find_clusters(features: np.ndarray, count: int, seed: int) -> Clusters:
    """
    Find clusters by k-means on the directions of vectors.

    k-means starts from the centroids that k-means++ draws. Up to 100,000 rows it sees all of them in each step; of
    more rows, mini-batch k-means sees each row once, in random order. It runs in a single thread, since the order in
    which threads add numbers up would change the result. In the end each row belongs to the centroid with the greatest
    cosine. Fewer distinct rows than `count` make fewer clusters.

    Args:
        features (`np.ndarray` of shape `(rows, size)`):
            Finite vectors, at least one.
        count (`int`):
            Number of clusters.
        seed (`int`):
            Seed of the start and of the order of the rows, at least 0.

    Returns:
        [`Clusters`]

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    centroids = unit_vectors(_centroids(features, min(count, len(features)), seed))
    labels, distances = np.empty(len(features), np.int64), np.empty(len(features), np.float32)
    for place, vectors in unit_blocks(features):
        found = as_distances(vectors @ centroids.T)
        labels[place] = found.argmin(axis=1)
        distances[place] = found.min(axis=1)
    used, first_rows, labels = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(first_rows)
    if len(used) < count:
        logger.info("k-means found %d of %d clusters among %d rows.", len(used), count, len(features))
    return Clusters(np.argsort(order)[labels], distances, centroids[used[order]])


def require_scikit_learn() -> None:
    """Raise an `ImportError` that says what to install where scikit-learn is not."""
    try:
        import sklearn.cluster  # noqa: F401
        import threadpoolctl  # noqa: F401
    except ImportError as error:
        raise ImportError("Clusters are found by scikit-learn: pip install 'hf-dlc[clusters]'.") from error


def _centroids(features: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Centroids by k-means, `(count, size)`; some are equal where there are fewer distinct rows."""
    require_scikit_learn()
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    options = {"n_clusters": count, "n_init": 1, "random_state": seed % 2**32}
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # that rows are fewer than clusters, which we log
        if len(features) <= _FULL_UP_TO:
            return KMeans(copy_x=False, **options).fit(unit_vectors(features)).cluster_centers_
        model = MiniBatchKMeans(**options)
        order = np.random.default_rng(seed).permutation(len(features))
        # The first batch draws the start, so it needs more rows than there are clusters.
        for rows in np.array_split(order, max(len(order) // max(_BATCH, 3 * count), 1)):
            model.partial_fit(unit_vectors(features[np.sort(rows)]))
        return model.cluster_centers_
