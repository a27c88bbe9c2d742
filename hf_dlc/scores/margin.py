"""Margin of the target tokens over all others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .base import Measure, Unmasked


def _margin(distribution: Any, log_probs: Any) -> Any:
    top = distribution.topk(2, dim=1).values.exp()
    p = log_probs.exp()
    return p - top[:, 0].where(p < top[:, 0], top[:, 1])


MARGIN = Measure("margin", of_distribution=_margin)


class Margin(Unmasked):
    """
    Mean over the target tokens of p(token) less the p of the likeliest other token.

        margin = 1/T sum_t (p(y_t | x, y_<t) - max_{v != y_t} p(v | x, y_<t))

    It is negative where the model prefers another token. Of an image, the tokens are the classes.

    The source is Pleiss et al., "Identifying Mislabeled Data using the Area Under the Margin Ranking", NeurIPS 2020,
    equation 1. There the margin is of logits and a mean over epochs, here it is of probabilities and of one model.

    Range [-1, 1]; high values are easy rows; costs one pass.
    """

    name = "margin"
    easy = "high"
    low, high = -1.0, 1.0
    unit = ""
    text = "mean over the target tokens of their probability less that of the likeliest other token"
    measures = (MARGIN,)

    def reduce(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """The margin of the one pass."""
        return values["margin"][0].astype(np.float32)
