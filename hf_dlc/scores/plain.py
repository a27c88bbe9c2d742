"""Loss and confidence of the unmasked model alone, for one pass."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .base import Unmasked
from .dlc import CONFIDENCE, LOSS


class PlainLoss(Unmasked):
    """
    Loss of the unmasked model: the mean -log p(token) of the target tokens, the loss that training starts from.

        plain_loss = -1/T sum_t log p(y_t | x, y_<t)

    The source is level 0 of [`Loss`]. Its exponential is the perplexity, by which texts are ranked in Marion et al.,
    "When Less is More: Investigating Data Pruning for Pretraining LLMs at Scale", 2023.

    Range [0, inf) nats; low values are easy rows; costs one pass.
    """

    name = "plain_loss"
    easy = "low"
    low, high = 0.0, float("inf")
    unit = "nats"
    text = "mean negative log-probability of the target tokens, by the unmasked model"
    measures = (LOSS,)

    def reduce(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """The loss of the one pass."""
        return values["loss"][0].astype(np.float32)


class PlainConfidence(Unmasked):
    """
    Confidence of the unmasked model: the mean p(token) of the target tokens.

        plain_confidence = 1/T sum_t p(y_t | x, y_<t)

    With `token_mean="geometric"` it is exp(-plain_loss), which is 1 / PPL.

    The source is level 0 of [`Confidence`].

    Range [0, 1]; high values are easy rows; costs one pass.
    """

    name = "plain_confidence"
    easy = "high"
    low, high = 0.0, 1.0
    unit = ""
    text = "mean probability of the target tokens, by the unmasked model"
    measures = (CONFIDENCE,)

    def reduce(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """The confidence of the one pass."""
        return values["confidence"][0].astype(np.float32)
