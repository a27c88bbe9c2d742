"""All levels in one forward pass: each part of a batch meets the weights of a level of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from transformers.pytorch_utils import Conv1D

from hf_dlc.errors import UnevenPartsError

from .targets import Target


def plain_layers(model: nn.Module, targets: Sequence[Target]) -> list[nn.Linear | Conv1D] | None:
    """
    The layers that compute with the targets, if all of them are plain linear layers.

    The arithmetic of a plain layer is known well enough to be done for all levels at once. The experts of a mixture,
    convolutions, subclasses, weights that several layers share, and layers whose `forward` something has replaced
    keep to one level at a time.

    Args:
        model (`torch.nn.Module`):
            Model, wrapped or not.
        targets (`Sequence[Target]`):
            Masked parameters.

    Returns:
        `list[nn.Module]` or `None`: A layer for each target; `None` if any of them is more than a plain one.
    """
    users: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            users.setdefault(id(parameter), []).append(module)
    found = [users[id(target.parameter)] for target in targets]
    if any(target.aliases for target in targets) or not all(len(layers) == 1 for layers in found):
        return None
    return [layers[0] for layers in found] if all(_is_plain(layers[0]) for layers in found) else None


def _is_plain(layer: nn.Module) -> bool:
    return type(layer) in (nn.Linear, Conv1D) and "forward" not in layer.__dict__


@contextmanager
def stacked_forward(layers: Sequence[nn.Linear | Conv1D], stacks: Sequence[torch.Tensor]) -> Iterator[None]:
    """
    Let each layer compute with a stack of weights in place of its own.

    Args:
        layers (`Sequence[nn.Module]`):
            Layers from [`plain_layers`].
        stacks (`Sequence[torch.Tensor]`):
            For each layer its weights at all levels, of shape `(levels, *weight.shape)`. A batch of
            `levels * rows` rows is then computed as `levels` parts, in order, each with the weights of its level.
    """
    for layer, stack in zip(layers, stacks, strict=True):
        layer.forward = _forward(layer, stack)
    try:
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _forward(layer: nn.Linear | Conv1D, stack: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    weights = stack if isinstance(layer, Conv1D) else stack.transpose(1, 2)  # (levels, in, out)

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) % len(weights):  # no rows of the batch: a table of positions, say
            raise UnevenPartsError(f"a layer got {len(inputs)} rows for {len(weights)} levels")
        outputs = torch.bmm(inputs.reshape(len(weights), -1, inputs.shape[-1]), weights)
        if layer.bias is not None:
            outputs = outputs + layer.bias
        return outputs.view(*inputs.shape[:-1], outputs.shape[-1])

    return forward


class WatchedReads(TorchFunctionMode):
    """
    Watch which targets the model computes with by itself, and not by calling the layer that they belong to.

    Mamba does so with some of its weights. Such a weight cannot stand side by side with its other levels: all parts of
    the batch would meet that of level 0.

    Args:
        targets (`Sequence[Target]`):
            Masked parameters.

    Attributes:
        names (`set[str]`):
            Names of those that were read.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        super().__init__()
        self.names: set[str] = set()
        self._watched = {id(target.parameter): target.name for target in targets}

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func`; what it makes of a target counts if that is a tensor, and not its dtype or shape."""
        result = func(*args, **(kwargs or {}))
        if any(isinstance(value, torch.Tensor) for value in tree_leaves(result)):
            used = map(id, tree_leaves((args, kwargs)))
            self.names.update(self._watched[key] for key in used if key in self._watched)
        return result
