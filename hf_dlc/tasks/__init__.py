"""What a row means to a model: how it is encoded, and what a forward pass says of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch


class EncodedRow(Protocol):
    """A row as a task feeds it to its model."""

    status: str

    @property
    def length(self) -> int:
        """What the row costs in a forward pass, in tokens; 0 for a skipped row."""

    @property
    def target_tokens(self) -> int:
        """Number of tokens that are scored; 0 for a skipped row."""

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All that the model gets of the row, for digests."""


class BatchScores(NamedTuple):
    """Scores of the rows of one micro-batch at one level, on the model's device."""

    confidence: torch.Tensor  # (rows,) float32, in [0, 1], higher = easier
    loss: torch.Tensor  # (rows,) float32, nats, higher = harder
    states: torch.Tensor  # what a masked level must change: hidden states of the scored positions


class Task(Protocol):
    """All that the run knows of rows and models."""

    def encode(self, rows: Sequence[dict[str, Any]]) -> list[EncodedRow]:
        """Encode rows, in order; a row that cannot be scored comes back with its reason as status."""

    def forward(self, rows: Sequence[EncodedRow]) -> BatchScores:
        """Score a micro-batch with the weights as they are now."""

    def describe(self) -> dict[str, Any]:
        """Everything besides weights, processor and config that changes a score, as JSON types."""
