"""Low-rank adapters of a model, trained on a few rows: a second set of weights that a pass may run with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import xxhash
from torch import nn


if TYPE_CHECKING:
    from peft import PeftModel


class Change(NamedTuple):
    """What is added to the output of a module: `scale * (x @ down.T) @ up.T`."""

    module: str
    down: np.ndarray  # (rank, inputs)
    up: np.ndarray  # (outputs, rank)
    scale: float


@dataclass(frozen=True)
class Adapters:
    """
    Changes of the linear layers of a model.

    Args:
        changes (`tuple[Change, ...]`):
            Those of each layer.
        described (`str`):
            How they came about, for people.
    """

    changes: tuple[Change, ...]
    described: str

    @cached_property
    def digest(self) -> str:
        """Digest of all numbers in them."""
        found = xxhash.xxh3_128()
        for one in self.changes:
            found.update(f"{one.module} {one.down.shape} {one.scale!r} ".encode())
            for numbers in (one.down, one.up):
                found.update(np.ascontiguousarray(numbers))
        return found.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return {"changes": self.changes, "described": self.described}  # the same before and after the digest is known

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """
        Let a model compute with the adapters. No weight is changed: layers get what is added to their outputs.

        Args:
            model (`torch.nn.Module`):
                The model that they were trained for.
        """
        with ExitStack() as stack:
            for change in self.changes:
                hook = model.get_submodule(change.module).register_forward_hook(_adder(change))
                stack.callback(hook.remove)
            yield


def adapters_of(model: PeftModel, described: str) -> Adapters:
    """
    What peft has trained, apart from its model.

    Args:
        model ([`~peft.PeftModel`]):
            Model with adapters of low rank.
        described (`str`):
            How they came about.

    Returns:
        [`Adapters`]
    """
    base, changes = model.get_base_model(), []
    for name, module in base.named_modules():
        if hasattr(module, "lora_A"):
            [key] = module.lora_A.keys()
            down, up = (part[key].weight.detach().float().cpu().numpy() for part in (module.lora_A, module.lora_B))
            changes.append(Change(name, down, up, float(module.scaling[key])))
    return Adapters(tuple(changes), described)


def _adder(change: Change) -> Any:
    down, up = torch.from_numpy(change.down), torch.from_numpy(change.up)

    def add(_module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        # The product of both is small; in the type of the inputs it is as exact as the layer itself.
        small = inputs[0] @ down.to(inputs[0]).T
        return output + change.scale * (small @ up.to(small).T).to(output)

    return add
