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
    Mean over the target tokens of p(token) - max p(v) over all other tokens v.

    Negative where the model prefers another token. Of probabilities at one point of training, where the area under the
    margin averages logits over epochs (Pleiss et al., "Identifying Mislabeled Data using the Area Under the Margin
    Ranking", NeurIPS 2020, equation 1).
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
