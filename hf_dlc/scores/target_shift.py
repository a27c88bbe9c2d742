"""Target shift: by how much a short training on the wanted rows lowers the loss of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .base import Pass
from .dlc import LOSS


class TargetShift:
    """
    Loss of the model as it is, less its loss after a short training on the wanted rows.

        target_shift = L(y | x; base weights) - L(y | x; with adapters)

    It is high where training on the wanted rows teaches the model something of this row as well. By symmetry, training
    on this row should then teach something of them. The adapters are trained by [`DLCScorer.adapt`]. It is made for a
    half and half choice: half of the budget by this score, half at random.

    The source is Jain, Montanari and Sasoglu, "Train on Validation (ToV): Fast data selection with applications to
    fine-tuning", 2025. There the rows are taken whose predictions change most; here the change is the drop in loss.

    Range (-inf, inf) nats; high values are easy rows; costs two passes, and the training of the adapters.
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
