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
    Mean over the target tokens of ‖p - onehot(token)‖₂, the norm of the error of the predicted distribution.

    Of an image, the norm over its classes; it means most with a trained head (Paul et al., "Deep Learning on a Data
    Diet", NeurIPS 2021, definition 2.2, there a mean over several short trainings).
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
