"""The confidence of nearest neighbours, layer by layer: the first version of learning complexity (Jiang et al.)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .base import Measure, Unmasked


KNN_CONFIDENCE = Measure("knn_confidence", of_neighbours=lambda shares: shares.mean(-1))


class KnnConfidence(Unmasked):
    """
    Mean over layers of the share of an image's nearest neighbours that have its label, the near ones counting more.

    The source is the first version of Jiang et al., "Exploring Learning Complexity for Efficient Downstream Dataset
    Pruning", 2024, where a network cut off behind a layer is a learner of less capacity. With z_i the features of the
    image x at layer i, and kNN(z) its k nearest neighbours among the other fitted images, labels y' beside them:

        S(x) = 1/L sum_i p(y | z_i),    p(y | z) = sum_{kNN(z)} 1[y' = y] / |z - z'|  /  sum_{kNN(z)} 1 / |z - z'|

    The layers are those of the unmasked model, so it costs one pass. It knows no head and no prototypes, and needs
    [`DLCScorer.fit`] on the labelled images.
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
