"""Entropy of the distributions that the unmasked model predicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .base import Measure, Unmasked


# Below any log p that counts: exp(-10,000) is 0, and 0 times it is 0, where 0 times minus infinity would be NaN.
_LEAST_LOG_P = -1e4


def _entropy(distribution: Any, _: Any) -> Any:
    return -(distribution.exp() * distribution.clip(min=_LEAST_LOG_P)).sum(1)


ENTROPY = Measure("entropy", of_distribution=_entropy)


class Entropy(Unmasked):
    """
    Mean over the target tokens of the entropy of the predicted distribution.

        entropy = -1/T sum_t sum_v p(v | x, y_<t) log p(v | x, y_<t)

    It tells how undecided the model is, whichever token stands there. The sum over v is over the vocabulary, or over
    the classes of an image; the logarithm of their number is the largest value.

    The source is Shannon, "A Mathematical Theory of Communication", 1948. Rows are ranked by it in uncertainty
    sampling: Settles, "Active Learning Literature Survey", 2009, section 3.1.

    Range [0, inf) nats; low values are easy rows; costs one pass.
    """

    name = "entropy"
    easy = "low"
    low, high = 0.0, float("inf")
    unit = "nats"
    text = "mean over the target tokens of the entropy of the distribution that the unmasked model predicts"
    measures = (ENTROPY,)

    def reduce(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """The entropy of the one pass."""
        return values["entropy"][0].astype(np.float32)
