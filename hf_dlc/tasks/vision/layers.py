"""Layers of an image model: those whose features neighbours are found by, and what modules put out on the way."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


# Each costs memory for the features of all fitted images, and time to search them. The paper does not say how many.
MOST_LAYERS = 4


def choose_layers(body: PreTrainedModel) -> tuple[str, ...]:
    """
    Names of the modules whose outputs are the features of an image at a depth.

    They are the blocks of a transformer or the stages of a CNN: the members of the list of modules with the most
    parameters, which holds all others. Of more than four, four are taken at even distances, the last one included. Of
    the twelve blocks of a ViT they are the third, sixth, ninth and twelfth. The first version of the learning
    complexity paper takes a mean over layers and does not say which; four bound memory and time.

    Args:
        body ([`~transformers.PreTrainedModel`]):
            Image model without its head.

    Returns:
        `tuple[str, ...]`: Names in the order of their depth.

    Raises:
        ValueError: If the model has no such list.
    """
    lists = [(name, module) for name, module in body.named_modules() if isinstance(module, nn.ModuleList) and module]
    if not lists:
        raise ValueError(
            f"{type(body).__name__} must have its blocks in a list of modules, so that neighbours can be found at "
            "several layers, got no such list. Leave knn_confidence out of the scores."
        )
    name, blocks = max(lists, key=lambda found: sum(parameter.numel() for parameter in found[1].parameters()))
    taken = min(MOST_LAYERS, len(blocks))
    places = [-(-len(blocks) * number // taken) - 1 for number in range(1, taken + 1)]
    return tuple(_last_called(f"{name}.{place}", blocks[place]) for place in places)


def _last_called(name: str, block: nn.Module) -> str:
    """A list of lists is a list of stages, of which only the blocks are ever called."""
    while isinstance(block, nn.ModuleList):
        name, block = f"{name}.{len(block) - 1}", block[-1]
    return name


@contextmanager
def captured(model: nn.Module, names: Collection[str]) -> Iterator[dict[str, torch.Tensor]]:
    """
    Collect what modules put out while the model runs.

    Args:
        model (`torch.nn.Module`):
            What runs.
        names (`Collection[str]`):
            Names of modules of it.

    Yields:
        `dict[str, torch.Tensor]`: By the name the hidden states; filled while the model runs.
    """
    outputs: dict[str, torch.Tensor] = {}

    def taker(name: str) -> Any:
        def take(_module: nn.Module, _inputs: Any, output: Any) -> None:
            outputs[name] = _hidden_states(output)

        return take

    hooks = [model.get_submodule(name).register_forward_hook(taker(name)) for name in dict.fromkeys(names)]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _hidden_states(output: Any) -> torch.Tensor:
    """The first tensor of what a module puts out: what else is there are weights of attention and the like."""
    while not isinstance(output, torch.Tensor):
        output = output[0]
    return output
