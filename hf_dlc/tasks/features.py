"""Features as a pass returns them: vectors that were pooled are projected, normalised and halved in precision."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from hf_dlc.scores.base import Asked, Features, Measure


def split_asked(asked: Sequence[Asked]) -> tuple[list[Measure], Features | None]:
    """
    What of a pass are numbers, and the features, if they are asked for.

    Args:
        asked (`Sequence[Asked]`):
            What is asked for.

    Returns:
        `tuple[list[Measure], Features]`
    """
    features = [one for one in asked if isinstance(one, Features)]
    return [one for one in asked if isinstance(one, Measure)], features[0] if features else None


def finished(pooled: torch.Tensor, features: Features) -> torch.Tensor:
    """
    Vectors as they are kept: projected to the size that is asked for, and of length 1, unless they are gradients.

    The projection is Gaussian: inner products of vectors of length 1 change by about 1 / sqrt(size) (Johnson and
    Lindenstrauss, 1984).

    Args:
        pooled (`torch.Tensor` of shape `(rows, pooled_size)`):
            Pooled hidden states, float32.
        features ([`Features`]):
            What is asked for.

    Returns:
        `torch.Tensor` of shape `(rows, size)`: float16; a vector of zeros stays one.
    """
    if features.size != features.pooled_size:
        pooled = pooled @ _projection(features).to(pooled.device)
    if features.pooling != "gradient":  # whose lengths count
        pooled = torch.nn.functional.normalize(pooled, dim=1)
    return pooled.half()


@lru_cache(maxsize=2)
def _projection(features: Features) -> torch.Tensor:
    """The same matrix on every device and with every NumPy, whose older generator never changes."""
    rng = np.random.RandomState([features.seed, features.pooled_size, features.size])
    matrix = rng.standard_normal((features.pooled_size, features.size)) / np.sqrt(features.size)
    return torch.from_numpy(matrix.astype(np.float32))


def position_weights(first: torch.Tensor, count: torch.Tensor, length: int) -> torch.Tensor:
    """
    Weights of the tokens of each row in a mean by position: i for the i-th token, divided by their sum.

    Args:
        first (`torch.Tensor` of shape `(rows,)`):
            Place of the first token that counts.
        count (`torch.Tensor` of shape `(rows,)`):
            Number of tokens that count.
        length (`int`):
            Length of the padded rows.

    Returns:
        `torch.Tensor` of shape `(rows, length)`: float32.
    """
    position = torch.arange(1, length + 1, device=first.device) - first[:, None]
    position = position.where((position >= 1) & (position <= count[:, None]), 0).float()
    return position / position.sum(dim=1, keepdim=True)
