"""Distorting-based Learning Complexity: confidence, loss and gain over the levels (Jiang et al., ICLR 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .base import Measure, OverLevels, Pass, mean_over_levels


CONFIDENCE = Measure("confidence", of_token=lambda log_probs: log_probs.exp())
LOSS = Measure("loss", of_token=lambda log_probs: -log_probs)

# Nats. Of a row that the model knows by heart, under every mask or without a prompt, the ratio of two losses is noise.
LEAST_LOSS = 0.01


class Confidence(OverLevels):
    """
    Mean over the levels of the confidence: the mean p(token) of the target tokens.

        confidence = 1/K sum_k 1/T sum_t p_k(y_t | x, y_<t)

    Here p_k is the model at level k, with level 0 among the K levels, and y_t are the T target tokens. With
    `token_mean="geometric"` a level counts exp(-loss). Of an image, p_k is the probability of its label.

    The source is Jiang et al., "Exploring Learning Complexity for Efficient Downstream Dataset Pruning". Its version
    of ICLR 2025 has the mean over levels, of the loss; its first version of 2024 has a confidence, which is 1 / PPL.

    Range [0, 1]; high values are easy rows; costs one pass for each level.
    """

    name = "confidence"
    easy = "high"
    low, high = 0.0, 1.0
    unit = ""
    text = "mean over all levels of masked weights of the mean probability of the target tokens"
    measures = (CONFIDENCE,)

    def reduce(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """The mean over the levels."""
        return mean_over_levels(values["confidence"])


class Loss(OverLevels):
    """
    Mean over the levels of the loss: the mean -log p(token) of the target tokens.

        loss = 1/K sum_k L_k,    L_k = -1/T sum_t log p_k(y_t | x, y_<t)

    The letters mean what they mean for [`Confidence`]. L_0 is the loss that training starts from.

    The source is Jiang et al., "Exploring Learning Complexity for Efficient Downstream Dataset Pruning", ICLR 2025,
    where it is the distorting-based learning complexity.

    Range [0, inf) nats; low values are easy rows; costs one pass for each level.
    """

    name = "loss"
    easy = "low"
    low, high = 0.0, float("inf")
    unit = "nats"
    text = "mean over all levels of masked weights of the mean negative log-probability of the target tokens"
    measures = (LOSS,)

    def reduce(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """The mean over the levels."""
        return mean_over_levels(values["loss"])


class Gain(OverLevels):
    """
    The share of the loss that the masked weights take away when they come back ([`relative_gain`]).

        gain = 1/(K-1) sum_{k>0} (L_k - L_0) / max(L_k, L_0, 0.01)

    Here L_k is the loss at level k, and level 0 is unmasked. A row with a low gain is one that capacity does not help
    with: noise, or an answer to something else. With `levels="single"` no row has a gain.

    The source is this package; levels and losses are those of [`Loss`].

    Range [-1, 1]; high values are easy rows; costs one pass for each level.
    """

    name = "gain"
    easy = "high"
    low, high = -1.0, 1.0
    unit = ""
    text = "mean over the masked levels of the share of the loss that the weights take away when they come back"
    measures = (LOSS,)

    def passes(self, schedule: Sequence[float]) -> tuple[Pass, ...]:
        """One for each level; none where no level is masked, of which there is no gain."""
        return super().passes(schedule) if len(schedule) > 1 else ()

    def reduce(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """The mean over the masked levels; NaN where none is masked."""
        return relative_gain(values["loss"])


def relative_gain(loss: np.ndarray) -> np.ndarray:
    """
    The share of a row's loss that the masked weights take away when they come back, a mean over the masked levels.

    A masked model reads the same row with less capacity. A row whose loss hardly falls from there to the unmasked
    model is one that capacity does not help with: noise, or an answer to something else.

    With L0 the unmasked loss and Lk that of a masked level, a level gives (Lk - L0) / max(Lk, L0). That is 1 - L0 / Lk
    where masking raises the loss, as it mostly does, and the same with the sign turned where it lowers it.

    Args:
        loss (`np.ndarray` of shape `(levels, rows)`):
            Loss in nats, level 0 first.

    Returns:
        `np.ndarray` of shape `(rows,)`: float32 in [-1, 1], **higher = easier**; a share of 0.01 nats where the losses
        are below that, NaN where a loss is NaN or no level is masked.

    Example:
    ```python
    >>> relative_gain(np.array([[1.0, 2.0], [4.0, 1.0]])).tolist()
    [0.75, -0.5]
    ```
    """
    plain, masked = loss[:1].astype(np.float64), loss[1:].astype(np.float64)
    if not len(masked):
        return np.full(loss.shape[1], np.nan, dtype=np.float32)
    larger = np.maximum(np.maximum(plain, masked), LEAST_LOSS)
    return ((masked - plain) / larger).mean(axis=0).astype(np.float32)
