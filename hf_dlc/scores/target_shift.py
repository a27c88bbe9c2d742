"""Target shift: by how much a short training on the wanted rows lowers the loss of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .base import Pass
from .dlc import LOSS


class TargetShift:
    """
    Loss of the model as it is, less its loss after a short training on the wanted rows, in nats.

    High where training on the wanted rows taught the model something of this row as well, and so, by symmetry, where
    training on this row should teach something of them. The adapters are trained by [`DLCScorer.adapt`]. It is made
    for a half and half choice: half of the budget by this score, half at random.
    """

    name = "target_shift"
    easy = "high"
    low, high = float("-inf"), float("inf")
    unit = "nats"
    text = "loss that a short training on the wanted rows takes off the response"
    measures = (LOSS,)

    def passes(self, schedule: Sequence[float]) -> tuple[Pass, ...]:
        """Two over whole rows: with the weights as they are, and with adapters."""
        return (Pass(), Pass(weights="adapted"))

    def reduce(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """The difference of the two losses."""
        before, after = values["loss"].astype(np.float64)
        return (before - after).astype(np.float32)
