"""The masks as a run sees them: protocols, so that it need not know how weights are masked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch


class Masked(Protocol):
    """What the masks did at a level."""

    masked: int  # weights set to zero


class Session(Protocol):
    """Time in which the model can be put into the state of one level after another."""

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
        """Time in which one level after another can be set."""

    def side_by_side(self) -> AbstractContextManager[Sequence[Masked]]:
        """Time in which each part of a batch meets a level of its own."""

    def watch_reads(self) -> AbstractContextManager[set[str]]:
        """Time in which it is seen which masked weights the model reads round their layers."""
