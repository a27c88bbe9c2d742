"""Numerics of models: rounding told from another computation, by how far results drift with a rounded input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


# Two ways to the same states may differ by so many times what one rounding of the input makes of them. Measured over
# 150 tiny random families of transformers and SmolLM2-135M, which answers with 1.6e-6 in float32 and 2e-2 in bfloat16:
# a row in a batch and the same row alone differ by at most 1.4 times as much in float32, and by 0.8 times in half
# precision. What was another computation differed by 40,000 times in float32, and by 5 to 90 times in bfloat16.
_ROUNDINGS = 4

# Where the input could not be rounded, a bound in its place. It is wider, since models round more than once; in half
# precision it stays below what another computation was measured to make.
_ROUNDINGS_UNSEEN = 64
_MOST_UNSEEN = 0.125

# Logits of words that a model forbids are constants such as -inf or -1e9, which nothing else comes near.
_FORBIDDEN = -1e4

_TF32 = 2.0**-10  # what a GPU may make of float32


def relative_change(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """
    Distance of vectors over the length of the expected ones, of shape `found.shape[:-1]`; in float32.

    Forbidden words are left out: beside their logits, all others would be of no length.
    """
    is_forbidden = (found == expected) & (expected < _FORBIDDEN)
    found, expected = (torch.nan_to_num(states.float()).masked_fill(is_forbidden, 0) for states in (found, expected))
    return (found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)


def is_rounding(found: torch.Tensor, expected: torch.Tensor, rounded: torch.Tensor, epsilon: float) -> bool:
    """
    Whether two results differ by no more than rounding.

    Args:
        found (`torch.Tensor`):
            States of some tokens; the last dimension is that of the state.
        expected (`torch.Tensor`):
            States of the same tokens, computed in another way.
        rounded (`torch.Tensor`):
            The expected states, computed again within [`rounded_input`].
        epsilon (`float`):
            From [`epsilon_of`].

    Returns:
        `bool`
    """
    return change_of(found, expected, epsilon) <= bound_of(rounded, expected, epsilon)


def change_of(found: torch.Tensor, expected: torch.Tensor, epsilon: float) -> float:
    """
    The relative change that counts at this precision.

    In float32 it is the largest of all positions. In half precision it is their mean, since there a single rounding
    may be enough for the router of a mixture to send a token to another expert.

    Args:
        found (`torch.Tensor`):
            States of some tokens; the last dimension is that of the state.
        expected (`torch.Tensor`):
            States of the same tokens, computed in another way.
        epsilon (`float`):
            From [`epsilon_of`].

    Returns:
        `float`
    """
    change = relative_change(found, expected)
    return float(change.mean() if is_half(epsilon) else change.max())


def is_half(epsilon: float) -> bool:
    """Whether this is the rounding of half precision, or of what a GPU may make of float32."""
    return epsilon > _TF32 / 2


def bound_ahead(bound: float, epsilon: float) -> float:
    """
    The largest change that still is rounding, of states before other tokens in a row of the same length.

    Half precision allows for less of it: nothing of their computation differs, and the states of all families that
    read from left to right were measured to be the same, bit for bit.
    """
    return bound / 8 if is_half(epsilon) else bound


def bound_of(rounded: torch.Tensor, expected: torch.Tensor, epsilon: float) -> float:
    """
    The largest change that still is rounding.

    Args:
        rounded (`torch.Tensor`):
            The expected states, computed again within [`rounded_input`].
        expected (`torch.Tensor`):
            States of some tokens.
        epsilon (`float`):
            From [`epsilon_of`].

    Returns:
        `float`
    """
    if torch.equal(rounded, expected):  # the model takes its embeddings round the module that was to round them
        return max(_ROUNDINGS * epsilon, min(_ROUNDINGS_UNSEEN * epsilon, _MOST_UNSEEN))
    return _ROUNDINGS * max(change_of(rounded, expected, epsilon), epsilon)


def epsilon_of(model: nn.Module) -> float:
    """The coarsest rounding in a model's arithmetic."""
    floats = {(weight.dtype, weight.device.type) for weight in model.parameters() if weight.is_floating_point()}
    coarsest = max(torch.finfo(dtype).eps for dtype, _ in floats)
    if not any(device == "cuda" for _, device in floats):
        return coarsest
    convolves = any(isinstance(module, nn.Conv1d | nn.Conv2d) for module in model.modules())
    takes_tf32 = torch.backends.cuda.matmul.allow_tf32 or (convolves and torch.backends.cudnn.allow_tf32)
    return max(coarsest, _TF32) if takes_tf32 else coarsest


@contextmanager
def rounded_input(embeddings: nn.Module, epsilon: float) -> Iterator[None]:
    """Change what `embeddings` puts out by one rounding, up or down in a fixed order, until the end of the block."""

    def off_by_one(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        places = torch.arange(output.shape[-1] * output.shape[-2], device=output.device)
        signs = ((places * 2654435761) >> 16) % 2 * 2 - 1  # any fixed order without a pattern will do
        return output * (1 + epsilon * signs.view(output.shape[-2:]).to(output.dtype))

    hook = embeddings.register_forward_hook(off_by_one)
    try:
        yield
    finally:
        hook.remove()
