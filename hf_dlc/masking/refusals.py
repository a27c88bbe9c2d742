"""Weights that cannot be masked: what each looks like, and what to do about it."""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
import torch
from torch import nn


# Parameters and modules of adapters, by whatever library.
_ADAPTER = re.compile(r"lora_(A|B|embedding_A|embedding_B)")

# In names of tensors, and of classes, that are no weights: they say where something is, or what it may see.
_PLACES = re.compile(r"ids|index|indices|pos|rot|rope|freq|cos|sin|cache|mask|bias|alibi|embed")

# What a weight is computed from, and how to make it a parameter again.
_COMPUTED = {
    "weight_mask": ("pruning", "torch.nn.utils.prune.remove(module, 'weight')"),
    "weight_g": ("weight norm", "torch.nn.utils.remove_weight_norm(module)"),
    "weight_u": ("spectral norm", "torch.nn.utils.remove_spectral_norm(module)"),
    "parametrizations": (
        "a parametrization",
        "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')",
    ),
}


class UnmaskableModelError(ValueError):
    """The weights are not plain tensors in memory: zeros written into them would not be computed with."""


def refuse_adapter(name: str, module: nn.Module) -> None:
    """Refuse adapters, in which the masked weights would be a part of a sum."""
    if sys.modules.get("peft"):  # without peft imported there is none of it, and importing it takes seconds
        from peft.tuners.tuners_utils import BaseTunerLayer

        if isinstance(module, BaseTunerLayer):
            raise UnmaskableModelError(
                f"The model must be free of adapters, got a PEFT `{type(module).__name__}` at `{name}`. Call "
                "`model.merge_and_unload()` first, or pass the base model."
            )
    for part in (*module._parameters, *module._modules):
        if _ADAPTER.fullmatch(part):
            raise UnmaskableModelError(
                f"The model must be free of adapters, got `{part}` in `{name}`. Merge it into the weights first, or "
                "pass the base model."
            )


def refuse_tensor(name: str, tensor: torch.Tensor) -> None:
    """Refuse a parameter that is not a plain tensor of floats, whole and in memory."""
    inner = type(tensor.data)
    if inner.__name__ == "DTensor":
        raise UnmaskableModelError(
            f"`{name}` must be whole on one device, got a sharded `DTensor`. Load the model without FSDP or tensor "
            'parallelism: score in data-parallel processes, or spread the layers with `device_map="auto"`.'
        )
    if tensor.is_meta:
        raise UnmaskableModelError(
            f"`{name}` must be in memory, got a `meta` tensor: the weight is offloaded or was never loaded. Load the "
            "model without offloading, on devices that hold all of it."
        )
    if inner is not torch.Tensor:
        _refuse_quantised(name, f"a `{inner.__name__}`")
    if not tensor.dtype.is_floating_point or tensor.dtype.itemsize < 2:  # one byte and less: float8, float4
        _refuse_quantised(name, f"{tensor.dtype}")


def refuse_buffer(name: str, buffer: torch.Tensor) -> None:
    """Refuse packed weights, which are often buffers (`qweight`, `weight_packed`, `W_q`), but not position ids."""
    last = name.rpartition(".")[2]
    if "weight" in last:
        refuse_tensor(name, buffer)
    elif _is_packed(last, buffer):
        _refuse_quantised(name, f"{buffer.dtype}")


def _is_packed(name: str, tensor: torch.Tensor) -> bool:
    """Whether a tensor is a matrix of small integers or of floats of one byte that says nothing of places."""
    if tensor.dim() < 2 or min(tensor.shape) < 2 or tensor.is_meta or tensor.dtype in (torch.bool, torch.int64):
        return False
    if tensor.dtype.is_floating_point:
        return tensor.dtype.itemsize < 2
    return not tensor.is_complex() and not _PLACES.search(name)


def refuse_hidden_weights(name: str, module: nn.Module) -> None:
    """Refuse weights that are no parameters: in objects of C++, arrays, buffers, or unregistered tensors."""
    kind = type(module)
    if kind.__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")):
        _refuse_quantised(name, f"a `{kind.__name__}` of {kind.__module__}")
    for key, value in vars(module).items():
        if isinstance(value, torch.ScriptObject) or (isinstance(value, torch.Tensor) and _is_packed(key, value)):
            _refuse_quantised(f"{name}.{key}", f"a `{type(value).__name__}` that is no parameter")
    if module._modules or module._parameters or _PLACES.search(kind.__name__.lower()):
        return
    for key, value in {**vars(module), **module._buffers}.items():
        if _is_matrix(value) and not _PLACES.search(key.lower()):
            raise UnmaskableModelError(
                f"`{name}.{key}` must be a parameter, got a `{type(value).__name__}` that is none: it looks like the "
                f"weight of `{kind.__name__}`, and would never be masked. Load the model with plain linear layers."
            )


def _is_matrix(value: Any) -> bool:
    """Whether something is a matrix of floats, and no row or column."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind == "f" and value.ndim == 2 and min(value.shape) > 1
    is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
    return is_float and value.dim() == 2 and min(value.shape) > 1


def refuse_computed(name: str, module: nn.Module) -> None:
    """Refuse a weight that is computed anew from others before each use: what was written into it would be lost."""
    if isinstance(module._parameters.get("weight"), nn.Parameter):
        return
    parts = {**module._parameters, **module._buffers, **module._modules}
    how, undo = next((found for key, found in _COMPUTED.items() if key in parts), ("other tensors", None))
    raise UnmaskableModelError(
        f"`{name}` must be a parameter, got a tensor that is computed from others by {how}. "
        + (f"Make it one: {undo}." if undo else "Make it one, of the values that it has now.")
    )


def refuse_packed(name: str, module: nn.Linear) -> None:
    """Refuse a weight of another shape than the layer has."""
    weight, shape = module.weight, (module.out_features, module.in_features)
    if tuple(weight.shape) != shape:
        _refuse_quantised(name, f"a packed weight of shape {tuple(weight.shape)} in place of {shape}")


def refuse_hidden_experts(name: str, module: nn.Module) -> None:
    """Refuse experts that a kernel has taken out of the parameters (MXFP4): masking would pass over them."""
    if not any(parameter.dim() >= 2 and "bias" not in key for key, parameter in module.named_parameters()):
        _refuse_quantised(name, "experts without weights among their parameters")


def _refuse_quantised(name: str, got: str) -> None:
    raise UnmaskableModelError(
        f"`{name}` must be a plain float64, float32, float16 or bfloat16 tensor, got {got}: the weights are "
        "quantised. Load the model with `dtype=torch.bfloat16` and without a quantization config, or dequantise it on "
        "loading."
    )
