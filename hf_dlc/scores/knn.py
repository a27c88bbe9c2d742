"""The confidence of nearest neighbours, layer by layer: the first version of learning complexity (Jiang et al.)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .base import Measure, Unmasked


KNN_CONFIDENCE = Measure("knn_confidence", of_neighbours=lambda shares: shares.mean(-1))


class KnnConfidence(Unmasked):
    """
    Mean over at most four layers of the share of an image's nearest neighbours that have its label, weighted.

        S(x) = 1/L sum_i p(y | z_i),    p(y | z) = sum_{kNN(z)} 1[y' = y] w(z')  /  sum_{kNN(z)} w(z')
        w(z') = 1 / max(‖z - z'‖, ‖z‖ / 1000)

    Here z_i are the features of the image x at layer i of the unmasked model. kNN(z) are its k nearest neighbours,
    with their labels y', among the other fitted images. The bound on the distance makes all copies of an image weigh
    the same. It knows no head and no prototypes, and needs [`DLCScorer.fit`] on the labelled images.

    `DLCConfig.knn_neighbours` sets k, 10 by default. Of a model with more than four blocks, four blocks at even
    distances are the layers, the last one included.

    The source is the first version of Jiang et al., "Exploring Learning Complexity for Efficient Downstream Dataset
    Pruning", 2024, where a network cut off behind a layer is a learner of less capacity. There k is the number that
    classifies a held-out quarter best, which layers count is not said, and no distance has a bound.

    Range [0, 1]; high values are easy rows; costs one pass, and one of `fit` over the labelled images.
    """

    name = "knn_confidence"
    easy = "high"
    low, high = 0.0, 1.0
    unit = ""
    text = (
        "mean over layers of the unmasked model of the share of the nearest images that have the label, each weighted "
        "by 1 / its distance"
    )
    measures = (KNN_CONFIDENCE,)

    def reduce(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """The one value that was measured."""
        return values["knn_confidence"][0]
