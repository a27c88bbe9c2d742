"""Prompt gain: what the prompt tells the model of how the response begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .base import Pass
from .contrast import START_ALONE, START_WITH_PROMPT, Contrast
from .dlc import LOSS


class PromptGain(Contrast):
    """
    Mean over the first target tokens of what the prompt adds to their log-probability.

        prompt_gain = 1/N sum_t (log p(y_t | x, y_<t) - log p(y_t | y_<t))

    The first `DLCConfig.first_tokens` (16) of each learned turn are compared, N in all; there the prompt tells most.
    Later tokens can be told from earlier ones. About 0 or below, the response might answer something else. What the
    response alone stands behind is said by `DLCConfig.alone`; where it is nothing, the second token is the first that
    counts.

    The source is this package. The two losses are equations 3 and 4 of the paper of [`IFD`], which takes their ratio
    over whole responses. Their difference estimates the pointwise mutual information of prompt and response.

    Range (-inf, inf) nats; high values are easy rows; costs two passes over rows that are cut behind these tokens,
    which together mostly take less than one over whole rows.
    """

    name = "prompt_gain"
    easy = "high"
    low, high = float("-inf"), float("inf")
    unit = "nats"
    text = "mean over the first target tokens of the log-probability that the prompt adds to them"
    measures = (LOSS,)
    found_wrong = 42

    def passes(self, schedule: Sequence[float]) -> tuple[Pass, ...]:
        """Two over the beginnings of the responses: with the prompt, and without it."""
        return (START_WITH_PROMPT, START_ALONE)

    def reduce(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """The difference of the two losses."""
        behind, alone = values["loss"].astype(np.float64)
        return (alone - behind).astype(np.float32)
