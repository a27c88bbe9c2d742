"""The masks as a run sees them: protocols, so that it need not know how weights are masked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch


class Masked(Protocol):
    """Outcome of masking a level."""

    masked: int  # weights set to zero


class Session(Protocol):
    """Open masks, under which the model takes the weights of one level after another."""

    def set_level(self, level: int) -> Masked:
        """Mask the weights of `level`; levels are asked for in ascending order."""


class Target(Protocol):
    """Weights that can be masked."""

    parameter: torch.Tensor


class Masks(Protocol):
    """All that can be done with the masks of a model."""

    model: torch.nn.Module
    targets: Sequence[Target]

    def session(self, fractions: Sequence[float]) -> AbstractContextManager[Session]:
        """Context in which one level after another can be set."""

    def side_by_side(self) -> AbstractContextManager[Sequence[Masked]]:
        """Context in which each part of a batch is computed with the weights of a level of its own."""

    def watch_reads(self) -> AbstractContextManager[set[str]]:
        """Context that records which masked weights the model reads itself, not by way of their layers."""
