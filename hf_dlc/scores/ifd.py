"""Instruction-following difficulty: how much of the loss of a response is left once its prompt is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .base import Pass
from .contrast import ALONE, WITH_PROMPT, Contrast
from .dlc import LEAST_LOSS, LOSS


class IFD(Contrast):
    """
    Instruction-following difficulty: the loss of the response behind its prompt, divided by its loss without it.

        ifd = L(y | x) / L(y)

    Below 1 the prompt helps; at 1 and above the response might as well answer something else.

    Both losses are means over the target tokens of all turns of a row. Every token counts once, so that L(y | x) is
    the loss that training starts from. Where nothing stands before a response alone, nothing predicts its first token,
    which then counts in L(y | x) only. A row whose L(y) is below 0.01 nats has no such score.

    The source is Li et al., "From Quantity to Quality: Boosting LLM Performance with Self-Guided Data Selection for
    Instruction Tuning", NAACL 2024, equation 5. There the response alone stands behind nothing. Here, by default, it
    stands behind the template's header of the assistant's turn, which tells the model that a response begins
    (`DLCConfig.alone`). There the model is first trained on a few rows, here it is taken as it is.

    Range [0, inf); low values are easy rows; costs two passes, the second without the prompts.
    """

    name = "ifd"
    easy = "low"
    low, high = 0.0, float("inf")
    unit = ""
    text = "loss of the response behind its prompt, divided by its loss without the prompt"
    measures = (LOSS,)
    found_wrong = 41

    def passes(self, schedule: Sequence[float]) -> tuple[Pass, ...]:
        """Two: with the prompt, and without it."""
        return (WITH_PROMPT, ALONE)

    def reduce(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """The ratio of the two losses; NaN where the second is next to nothing."""
        behind, alone = values["loss"].astype(np.float64)
        ratio = np.full(len(alone), np.nan)
        np.divide(behind, alone, out=ratio, where=alone >= LEAST_LOSS)
        return ratio.astype(np.float32)
