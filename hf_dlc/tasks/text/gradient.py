"""Gradients of rows at the output weights, in sketches of a bounded size: features by which rows teach alike."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch


# Sizes of the sketches of hidden states and of errors, the product of which is that of a gradient.
_OF_STATES, _OF_ERRORS = 32, 32
GRADIENT_SIZE = _OF_STATES * _OF_ERRORS


class _Sketches(NamedTuple):
    states: torch.Tensor  # (hidden size, _OF_STATES)
    bins: torch.Tensor  # (vocabulary,) int64
    signs: torch.Tensor  # (vocabulary,)


class GradientSketch:
    """
    The gradient of a row's loss with respect to the output weights, as a vector of 1,024 numbers.

    With the hidden state h_t that predicts token t, and its error e_t = p_t - onehot(y_t), this gradient is the mean
    of the outer products e_t h_t over the target tokens. The inner product of the gradients of two rows is the mean of
    (h_t, h'_s)(e_t, e'_s) over all pairs of their tokens. It tells by how much a step on one row lowers the loss of
    the other, as far as the output weights go. This is the value of For-Value (forward-only data valuation, 2025),
    there as a sum.

    States are projected at random (Johnson and Lindenstrauss, 1984), and errors by a count sketch (Charikar et al.,
    2002): inner products of the sketches have those of the gradients as their expectation.

    Args:
        hidden_size (`int`):
            Size of the hidden states.
        rows (`int`):
            Number of rows.
        device (`torch.device`):
            Where they are computed.
    """

    def __init__(self, hidden_size: int, rows: int, device: torch.device) -> None:
        self._hidden_size = hidden_size
        self._sums = torch.zeros((rows, GRADIENT_SIZE), device=device)
        self._counts = torch.zeros(rows, device=device)

    def add(self, rows: torch.Tensor, states: torch.Tensor, errors: torch.Tensor) -> None:
        """
        Add some tokens.

        Args:
            rows (`torch.Tensor` of shape `(tokens,)`):
                Which row each is of.
            states (`torch.Tensor` of shape `(tokens, hidden size)`):
                Hidden states that predict them.
            errors (`torch.Tensor` of shape `(tokens, vocabulary)`):
                Predicted probabilities, less 1 for the token itself.
        """
        projection, bins, signs = (one.to(errors.device) for one in _sketches(self._hidden_size, errors.shape[1]))
        small_errors = torch.zeros((len(errors), _OF_ERRORS), device=errors.device)
        small_errors.index_add_(1, bins, errors * signs)
        products = (states.float() @ projection)[:, :, None] * small_errors[:, None]
        self._sums.index_add_(0, rows, products.flatten(1))
        self._counts.index_add_(0, rows, torch.ones_like(rows, dtype=torch.float32))

    def means(self) -> torch.Tensor:
        """The gradients, float32 of shape `(rows, 1024)`."""
        return self._sums / self._counts.clamp(min=1)[:, None]


@lru_cache(maxsize=1)
def _sketches(hidden_size: int, vocabulary: int) -> _Sketches:
    """The same on every device and with every NumPy, whose older generator never changes."""
    rng = np.random.RandomState([hidden_size, vocabulary])
    projection = rng.standard_normal((hidden_size, _OF_STATES)) / np.sqrt(_OF_STATES)
    bins, signs = rng.randint(_OF_ERRORS, size=vocabulary), rng.randint(2, size=vocabulary) * 2 - 1
    return _Sketches(
        torch.from_numpy(projection.astype(np.float32)),
        torch.from_numpy(bins.astype(np.int64)),
        torch.from_numpy(signs.astype(np.float32)),
    )
