"""Weights of the targets of a model at the levels of a schedule: masked in place, counted, and held."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from .hashes import WeightMatrix
from .masks import count_zeros, magnitude_mask_, random_mask_
from .targets import Target
from .thresholds import Threshold, magnitude_thresholds


Masking = Literal["random", "magnitude"]
Scope = Literal["module", "global"]


@dataclass(frozen=True)
class LevelReport:
    """
    Counts of a level, taken from the tensors.

    Args:
        level (`int`):
            Index of the level in the schedule.
        masked_fraction (`float`):
            Share of the maskable weights that the level was asked to set to zero.
        maskable (`int`):
            Number of weights that could be masked.
        masked (`int`):
            Number of weights that are zero at this level and were not before.
        zeros_before (`int`):
            Number of maskable weights that are zero without masking.
    """

    level: int
    masked_fraction: float
    maskable: int
    masked: int
    zeros_before: int


class TargetMasks:
    """
    Masks of the targets of a model, for any masked fraction, as long as their weights are the same.

    Args:
        targets (`list[Target]`):
            Parameters that are masked.
        masking (`str`):
            `"random"` or `"magnitude"`.
        seed (`int`):
            Seed of the hash.
        scope (`str`):
            What has one threshold of magnitude: `"module"` or `"global"`.
    """

    def __init__(self, targets: list[Target], masking: Masking, seed: int, scope: Scope) -> None:
        self.targets = targets
        self.masking = masking
        self.seed = seed
        self.scope = scope
        self._thresholds: dict[float, list[Threshold]] = {}  # by masked fraction, one for each matrix
        self._zeros_before: int | None = None

    @property
    def maskable(self) -> int:
        """Number of weights that can be masked."""
        return sum(target.parameter.numel() for target in self.targets)

    @property
    def present(self) -> list[torch.Tensor]:
        """Tensors that the targets hold now, masked or not."""
        return [target.parameter.data for target in self.targets]

    def mask(self, tensors: Sequence[torch.Tensor], fraction: float) -> None:
        """Mask `tensors`, the weights of the targets or what a smaller mask left of them, in place."""
        matrices = self._matrices(tensors)
        if self.masking == "random":
            for matrix in matrices:
                random_mask_(matrix, fraction, self.seed)
        else:
            for matrix, threshold in zip(matrices, self._thresholds[fraction], strict=True):
                magnitude_mask_(matrix, threshold, self.seed)

    def _matrices(self, tensors: Sequence[torch.Tensor]) -> list[WeightMatrix]:
        matrices, position = [], 0
        for target, tensor in zip(self.targets, tensors, strict=True):
            first_index = 0
            for weights in target.split(tensor):
                matrices.append(WeightMatrix(weights, target.name, first_index, position))
                first_index += weights.numel()
                if self.scope == "global":
                    position += weights.numel()
        return matrices

    def find_thresholds(self, fractions: Sequence[float], originals: Sequence[torch.Tensor]) -> None:
        """Find the thresholds of the unmasked weights at `fractions`, unless they are known."""
        missing = [fraction for fraction in fractions if fraction not in self._thresholds]
        if self.masking == "random" or not missing:
            return
        matrices = self._matrices(originals)
        if self.scope == "global":
            found = [magnitude_thresholds(matrices, missing, self.seed)] * len(matrices)
        else:
            found = [magnitude_thresholds([matrix], missing, self.seed) for matrix in matrices]
        self._thresholds.update(zip(missing, map(list, zip(*found, strict=True)), strict=True))

    def report(self, level: int, fraction: float, zeros: int, originals: Sequence[torch.Tensor]) -> LevelReport:
        """
        Report of a level.

        Args:
            level (`int`):
                Index of the level in the schedule.
            fraction (`float`):
                Masked fraction of the level.
            zeros (`int`):
                Number of weights that are zero at this level.
            originals (`Sequence[torch.Tensor]`):
                Unmasked weights of the targets; their zeros are counted once.

        Returns:
            [`LevelReport`]
        """
        if self._zeros_before is None:
            self._zeros_before = sum(map(count_zeros, originals))
        return LevelReport(level, fraction, self.maskable, zeros - self._zeros_before, self._zeros_before)

    def expected(self, report: LevelReport) -> float:
        """Number of weights that a level should set to zero, at least."""
        if self.masking == "random":
            return report.masked_fraction * (report.maskable - report.zeros_before)
        # Zeros are the smallest weights, and masked first.
        return report.masked_fraction * report.maskable - report.zeros_before


@dataclass(frozen=True)
class HeldLevels:
    """Weights of all targets at each level of a schedule, and the number of their zeros at each level."""

    fractions: tuple[float, ...]
    stacks: list[torch.Tensor]  # for each target, of shape (levels, *shape of the target)
    zeros: list[int]

    @classmethod
    def of(cls, masks: TargetMasks, fractions: tuple[float, ...]) -> HeldLevels:
        """Compute the masked weights of all levels; those of the model stay as they are."""
        with plain_writes():
            latest = masks.present
            masks.find_thresholds(fractions, latest)
            stacks, zeros = [weights.new_empty(len(fractions), *weights.shape) for weights in latest], []
            for level, fraction in enumerate(fractions):
                latest = [stack[level].copy_(weights) for stack, weights in zip(stacks, latest, strict=True)]
                if fraction > 0:
                    masks.mask(latest, fraction)
                zeros.append(sum(map(count_zeros, latest)))
        return cls(fractions, stacks, zeros)


@contextmanager
def plain_writes() -> Iterator[None]:
    """Write into weights without a trace in autograd, also when the caller is in inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def checked_fractions(fractions: Sequence[float]) -> tuple[float, ...]:
    """
    Masked fractions as a tuple of floats.

    Raises:
        ValueError: If a fraction is out of range or smaller than the one before it.
    """
    fractions = tuple(map(float, fractions))
    if not all(0 <= fraction < 1 for fraction in fractions):
        raise ValueError(f"Masked fractions must be in [0, 1), got {fractions}.")
    if any(after < before for before, after in itertools.pairwise(fractions)):
        raise ValueError(f"Masked fractions must be ascending, got {fractions}.")
    return fractions
