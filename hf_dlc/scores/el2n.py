"""Norm of the error of the predicted distributions (EL2N)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .base import Measure, Unmasked


def _el2n(distribution: Any, log_probs: Any) -> Any:
    squared = distribution.exp().square().sum(1) - 2 * log_probs.exp() + 1
    return squared.clip(min=0).sqrt()  # rounding may take it below 0


EL2N_ERROR = Measure("el2n", of_distribution=_el2n)


class EL2N(Unmasked):
    """
    Mean over the target tokens of the norm of the error of the predicted distribution.

        el2n = 1/T sum_t ‖p( . | x, y_<t) - onehot(y_t)‖₂

    The norm is over the vocabulary, or over the classes of an image, where it means most with a trained head.

    The source is Paul et al., "Deep Learning on a Data Diet: Finding Important Examples Early in Training", NeurIPS
    2021, section 2.2. There it is a mean over networks from several short trainings, here it is of one model.

    Range [0, √2]; low values are easy rows; costs one pass.
    """

    name = "el2n"
    easy = "low"
    low, high = 0.0, 2**0.5
    unit = ""
    text = "mean over the target tokens of the norm of the error of the distribution that the unmasked model predicts"
    measures = (EL2N_ERROR,)

    def reduce(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """The norm of the one pass."""
        return values["el2n"][0].astype(np.float32)
