"""
Which weights are zero at a masked fraction: pure functions on tensors, in place and chunk by chunk.

Random masking zeroes the weights whose hash, read as a number in [0, 1), lies below the masked fraction. Magnitude
masking zeroes the smallest weights, and the hash decides between weights of the same size. Both are nested: what is
zero at a masked fraction is zero at every larger one.

The masking idea is that of Jiang et al., "Exploring Learning Complexity for Efficient Downstream Dataset Pruning",
ICLR 2025.
"""

from __future__ import annotations

import math

import torch

from .hashes import WORD, WeightMatrix, chunks, counter, hashes_of
from .thresholds import SortKeys, Threshold


_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes an element


def random_mask_(matrix: WeightMatrix, masked_fraction: float, seed: int = 0) -> None:
    """
    Zero, in place, each weight whose hash lies below `masked_fraction`.

    Args:
        matrix (`WeightMatrix`):
            Weights to mask.
        masked_fraction (`float`):
            Share of the weights to set to zero, in [0, 1). The number of zeros is binomial, not exact.
        seed (`int`, *optional*, defaults to 0):
            Seed of the hash.

    Example:
    ```python
    >>> import torch
    >>> weights = torch.ones(4, 1000)
    >>> random_mask_(WeightMatrix(weights, "layer.weight"), 0.25)
    >>> 0.2 < (weights == 0).float().mean() < 0.3
    tensor(True)
    ```
    """
    if masked_fraction == 0:
        return
    # u = (hash + 2^31) / 2^32 is in [0, 1), and u < fraction means hash + 2^31 < ceil(fraction * 2^32).
    last = math.ceil(masked_fraction * WORD) - 1 - 2**31
    for start, piece in chunks(matrix.weights):
        keep = hashes_of(matrix, seed, start, piece.numel(), counter(piece))
        _zero_(piece, keep.gt_(last))


def magnitude_mask_(matrix: WeightMatrix, threshold: Threshold, seed: int = 0) -> None:
    """
    Zero, in place, each weight whose sort key is not above `threshold`.

    Weights that are zero already stay so, therefore a mask may be put over the smaller masks of the same weights.

    Args:
        matrix (`WeightMatrix`):
            Weights to mask.
        threshold (`Threshold`):
            Threshold from [`magnitude_thresholds`].
        seed (`int`, *optional*, defaults to 0):
            Seed that the threshold was found with.
    """
    if threshold.magnitude < 0:
        return
    for start, piece in chunks(matrix.weights):
        keys = SortKeys.of(matrix, seed, start, piece)
        ties = None if threshold.takes_every_tie else (keys.magnitude == threshold.magnitude).nonzero().view(-1)
        keep = keys.magnitude > threshold.magnitude
        if ties is not None:
            keep[ties] = keys.at(ties).tie_is_above(threshold)
        _zero_(piece, keep)


def count_zeros(weights: torch.Tensor) -> int:
    """
    Number of weights that are zero, of either sign.

    Args:
        weights (`torch.Tensor`):
            Floating-point tensor of any shape.

    Returns:
        `int`: Number of zeros.

    Example:
    ```python
    >>> import torch
    >>> count_zeros(torch.tensor([0.0, -0.0, 1.0, float("nan")]))
    2
    ```
    """
    counts = []
    for _, piece in chunks(weights):
        bits = _bits(piece)  # integers are counted several times faster than floats
        counts.append(torch.count_nonzero(bits & torch.iinfo(bits.dtype).max))
    return weights.numel() - int(torch.stack(counts).sum()) if counts else 0


def _bits(piece: torch.Tensor) -> torch.Tensor:
    return piece.view(_INTEGERS[piece.dtype.itemsize])


def _zero_(piece: torch.Tensor, keep: torch.Tensor) -> None:
    """Zero the weights of `piece` where the flat `keep` is 0 or False; where it is 1 or True they stay as they are."""
    bits = _bits(piece)
    # Minus one is all ones, so AND keeps every bit, NaN payloads included; far faster than `masked_fill_` on a CPU.
    bits.bitwise_and_(keep.to(bits.dtype).neg_().view(bits.shape))
