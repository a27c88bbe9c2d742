"""Prompt gain: what the prompt tells the model of how the response begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .base import Pass
from .contrast import START_ALONE, START_WITH_PROMPT
from .dlc import LOSS


class PromptGain:
    """
    Mean over the first target tokens of log p(y_t | x, y_<t) - log p(y_t | y_<t), in nats.

    The first `DLCConfig.first_tokens` (16) of each turn are compared: there the prompt tells most, since what follows
    can be told from what came before. Rows are cut behind them, so that both passes together mostly cost less than one
    over whole rows. Higher: the response fits its prompt; about 0 or below: it might answer something else.

    It is an estimate of the pointwise mutual information of prompt and response, a token; Li et al. (NAACL 2024)
    compare the same two losses over whole responses, as a ratio.
    """

    name = "prompt_gain"
    easy = "high"
    low, high = float("-inf"), float("inf")
    unit = "nats"
    text = "mean over the first target tokens of the log-probability that the prompt adds to them"
    measures = (LOSS,)

    def passes(self, schedule: Sequence[float]) -> tuple[Pass, ...]:
        """Two over the beginnings of the responses: with the prompt, and without it."""
        return (START_WITH_PROMPT, START_ALONE)

    def reduce(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """The difference of the two losses."""
        behind, alone = values["loss"].astype(np.float64)
        return (alone - behind).astype(np.float32)
