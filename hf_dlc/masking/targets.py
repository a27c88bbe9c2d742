"""The weights of a model that are masked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_dlc.utils.models import classifier_body

from .refusals import (
    refuse_adapter,
    refuse_buffer,
    refuse_computed,
    refuse_hidden_experts,
    refuse_hidden_weights,
    refuse_packed,
    refuse_tensor,
)


_WRAPPER_PIECES = {"module", "_orig_mod"}  # of `DataParallel` and its like, and of `torch.compile`
_ROUTERS = {"gate", "shared_expert_gate", "wg"}  # last names of routers that are an `nn.Linear`
_ROUTER = re.compile(r"(^|_)routers?(_|$)")  # a word in a name of theirs, or of what they are a part of
_PATCH_EMBEDDING = re.compile(r"(patch|convolution|vision)_embed")  # how a name of theirs begins
_CHANNELS = (1, 3, 4)  # that pixels have
_HEAD = re.compile(r"score$|.*classifier$")  # names of classifier heads
_NAMES_SHOWN = 8  # names at hand in an error message

_Memory = tuple[torch.device, int]  # device and address of the first weight


@dataclass(frozen=True)
class Target:
    """
    One parameter whose weights are masked.

    Args:
        name (`str`):
            Canonical name of the parameter: its name in the model without the pieces that wrappers add.
        parameter (`torch.nn.Parameter`):
            Parameter itself, of shape `(out, in)`, `(in, out)` for `Conv1D`, `(out, in, height, width)` for `Conv2d`,
            or `(experts, rows, columns)` for the experts of a mixture.
        matrices (`int`, *optional*, defaults to 1):
            Number of weight matrices in it: the number of experts, else 1.
        aliases (`tuple[torch.nn.Parameter, ...]`, *optional*, defaults to `()`):
            Other `Parameter` objects over the same memory, of the same shape.
    """

    name: str
    parameter: nn.Parameter
    matrices: int = 1
    aliases: tuple[nn.Parameter, ...] = ()

    def split(self, tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """
        Views of the weight matrices in `tensor`, which has the shape of `parameter`.

        Args:
            tensor (`torch.Tensor`):
                Parameter itself or a copy of it.

        Returns:
            `tuple[torch.Tensor, ...]`: `matrices` views, in order.
        """
        return tensor.unbind(0) if self.matrices > 1 else (tensor,)


@dataclass(frozen=True)
class _Candidate:
    """A weight that could be masked: what a pattern is matched with, and why `"all-linear"` would pass it over."""

    module: str
    parameter_name: str
    parameter: nn.Parameter
    is_expert: bool
    passed_over: bool


def canonical_name(name: str) -> str:
    """
    `name` of a module or parameter without the pieces that wrappers add.

    Args:
        name (`str`):
            Dotted name, as from `model.named_parameters()`.

    Returns:
        `str`: Dotted name in the bare model.

    Example:
    ```python
    >>> canonical_name("module._orig_mod.model.layers.0.mlp.up_proj.weight")
    'model.layers.0.mlp.up_proj.weight'
    ```
    """
    return ".".join(piece for piece in name.split(".") if piece not in _WRAPPER_PIECES)


def unwrap(model: nn.Module) -> nn.Module:
    """
    Bare model inside `torch.compile`, `DataParallel` and similar wrappers.

    Args:
        model (`torch.nn.Module`):
            Model, wrapped or not.

    Returns:
        `torch.nn.Module`: Innermost model.
    """
    while True:
        children = dict(model.named_children())
        if len(children) != 1 or not (inner := _WRAPPER_PIECES & children.keys()):
            return model
        model = children[inner.pop()]


def check_maskable(model: nn.Module) -> None:
    """
    Refuse a model in which zeros written into the weights would not be computed with.

    What counts is the tensors: their type, shape and device, and the classes of the modules. An entry in the config
    does not, because a model that was dequantised on loading (from a GGUF file, say) may still carry one.

    Args:
        model (`torch.nn.Module`):
            Model to be masked.

    Raises:
        UnmaskableModelError: If the model holds adapters, or any of its weights is quantised, offloaded, sharded, or
            computed from others (pruning, parametrisation).

    Example:
    ```python
    >>> import torch
    >>> check_maskable(torch.nn.Linear(2, 2))
    >>> check_maskable(torch.nn.Linear(2, 2, device="meta"))
    Traceback (most recent call last):
        ...
    hf_dlc.masking.refusals.UnmaskableModelError: `weight` must be in memory, got a `meta` tensor: ...
    ```
    """
    for raw_name, module in model.named_modules():
        name = canonical_name(raw_name)
        refuse_adapter(name, module)
        refuse_hidden_weights(name, module)
        for tensor_name, tensor in module.named_parameters(recurse=False):
            refuse_tensor(_join(name, tensor_name), tensor)
        for tensor_name, tensor in module.named_buffers(recurse=False):
            refuse_buffer(_join(name, tensor_name), tensor)
        if isinstance(module, (nn.Linear, Conv1D, nn.Conv2d)):
            refuse_computed(_join(name, "weight"), module)
        if isinstance(module, nn.Linear):
            refuse_packed(_join(name, "weight"), module)
        if _is_experts(module):
            refuse_hidden_experts(name, module)


def find_targets(model: nn.Module, target_modules: str | Sequence[str] = "all-linear") -> list[Target]:
    """
    Find the weights to mask.

    `"all-linear"` follows PEFT: the weights of `nn.Linear` and `Conv1D`, and besides them those of `nn.Conv2d` and of
    the experts of a mixture (3-D parameters of `*Experts*` modules). Never masked are norms with all their parts,
    biases and other parameters (of 1-D convolutions, recurrences and attention in one piece, say), and of the above:

    - the output head: what `get_output_embeddings` returns, what an image classifier has outside its body or as its
      last linear layer, and what is called `score` or ends in `classifier`;
    - embeddings: the weights of `nn.Embedding`, also where they are tied;
    - embeddings of patches of pixels: parts of something whose name begins with `patch_embed`, `convolution_embed` or
      `vision_embed`, and an `nn.Conv2d` of pixels whose stride is its size. (The stem of a CNN, whose windows
      overlap, is no embedding);
    - routers: linear layers that are, or are a part of, something with the word `router` in its name or at the end of
      its class, or that are called `gate`, `wg` or `shared_expert_gate`. (The `gate_proj` of an MLP is no router.)

    A weight that is used under several names is one target.

    Args:
        model (`torch.nn.Module`):
            Model to be masked, wrapped or not.
        target_modules (`str` or `Sequence[str]`, *optional*, defaults to `"all-linear"`):
            `"all-linear"`; a regular expression that must match a whole canonical module name (or, for experts, a
            whole parameter name); or a list of names, each a whole name or its end after a dot. Weights that are named
            are masked even if `"all-linear"` would pass them over.

    Returns:
        `list[Target]`: Targets in the order of `model.named_modules()`.

    Raises:
        ValueError: If nothing in the model is asked for, or if a weight is asked for that an embedding shares.

    Example:
    ```python
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 2))
    >>> [target.name for target in find_targets(model)]
    ['0.weight', '2.weight']
    >>> [target.name for target in find_targets(model, target_modules=["2"])]
    ['2.weight']
    ```
    """
    candidates = list(_candidates(model))
    if target_modules == "all-linear":
        chosen = [candidate for candidate in candidates if not candidate.passed_over]
    else:
        chosen = [candidate for candidate in candidates if _matches(candidate, target_modules)]
        _refuse_heads(model, chosen)
    if not chosen:
        raise ValueError(_nothing_found(target_modules, candidates))
    return _without_repeats(model, chosen)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _candidates(model: nn.Module) -> Iterator[_Candidate]:
    """Every weight that can be masked, in module order; a module that appears twice counts once."""
    heads, in_others = _head_memory(model), _parts_of_others(model)
    for raw_name, module in model.named_modules():
        name = canonical_name(raw_name)
        if isinstance(module, (nn.Linear, Conv1D, nn.Conv2d)):
            passed_over = module in in_others or _memory(module.weight) in heads or _is_passed_over(name, module)
            yield _Candidate(name, _join(name, "weight"), module.weight, False, passed_over)
        elif _is_experts(module):
            for key, parameter in module.named_parameters(recurse=False):
                if parameter.dim() == _expert_dims(module) and "bias" not in key:
                    yield _Candidate(name, _join(name, key), parameter, True, False)


def _is_experts(module: nn.Module) -> bool:
    return "Experts" in type(module).__name__ or _expert_dims(module) == 2


def _expert_dims(module: nn.Module) -> int:
    return 2 if type(module).__name__.endswith("ExpertGLU") else 3  # DBRX stacks the rows of its experts


def _head_memory(model: nn.Module) -> set[_Memory]:
    """Memory of output heads and of all embeddings, so that a tied head is known by either."""
    found = _embedding_memory(model) | _classifier_memory(unwrap(model))
    for module in model.modules():
        get_head = getattr(module, "get_output_embeddings", None)
        head = get_head() if callable(get_head) else None
        if head is not None:
            found.update(_memory(parameter) for parameter in head.parameters())
    return found


def _classifier_memory(model: nn.Module) -> set[_Memory]:
    """Memory of the head of a model with classes: what stands outside its body, and what gives its logits."""
    get_embeddings = getattr(model, "get_output_embeddings", None)
    # Every configuration has a number of classes; the head of a language model is its output embeddings.
    if not hasattr(getattr(model, "config", None), "num_labels") or get_embeddings() is not None:
        return set()
    body = classifier_body(model)
    below = model.parameters() if body is None else body.parameters()
    found = {_memory(parameter) for parameter in model.parameters()} - set(map(_memory, below))
    last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1:]
    if last and last[0].out_features == model.config.num_labels:  # of HGNetV2 without a body, in Perceiver's decoder
        found.update(map(_memory, last[0].parameters()))
    return found


def _embedding_memory(model: nn.Module) -> set[_Memory]:
    return {_memory(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}


def _is_passed_over(name: str, module: nn.Module) -> bool:
    """Whether a layer is, by its name or what it reads, a classifier head, a patch embedding or a router."""
    pieces = name.split(".")
    if any(_HEAD.match(piece) or _PATCH_EMBEDDING.match(piece) for piece in pieces) or _reads_patches(module):
        return True
    return isinstance(module, nn.Linear) and (pieces[-1] in _ROUTERS or any(map(_ROUTER.search, pieces)))


def _parts_of_others(model: nn.Module) -> set[nn.Module]:
    """Linear layers in modules whose class says that they are routers or norms, which may be made of several."""
    kinds = ("Router", "RMSNorm", "LayerNorm")  # `DbrxNormAttentionNorm` holds the attention between its norms
    others = [module for module in model.modules() if type(module).__name__.endswith(kinds)]
    return {part for other in others for part in other.modules() if isinstance(part, nn.Linear)}


def _reads_patches(module: nn.Module) -> bool:
    """Whether a layer makes one vector of each patch of the pixels, next to each other: an embedding by any name."""
    if not isinstance(module, nn.Conv2d) or module.in_channels not in _CHANNELS:
        return False
    return module.kernel_size == module.stride != (1, 1)


def _matches(candidate: _Candidate, target_modules: str | Sequence[str]) -> bool:
    names = [candidate.module]
    if candidate.is_expert:
        names.append(candidate.parameter_name)
    if isinstance(target_modules, str):
        return any(re.fullmatch(target_modules, name) for name in names)
    return any(name == end or name.endswith(f".{end}") for name in names for end in target_modules)


def _refuse_heads(model: nn.Module, chosen: Sequence[_Candidate]) -> None:
    """A head reads the states that DLC distorts; tied, it is the embedding as well."""
    heads = _head_memory(model)
    for candidate in chosen:
        if _memory(candidate.parameter) in heads:
            raise ValueError(
                f"`target_modules` must not name the output head or an embedding, got `{candidate.module}`: masking "
                "is meant for the layers below the head. Leave it out."
            )


def _nothing_found(target_modules: str | Sequence[str], candidates: Sequence[_Candidate]) -> str:
    at_hand = [candidate.parameter_name if candidate.is_expert else candidate.module for candidate in candidates]
    shown = ", ".join(f"`{name}`" for name in at_hand[:_NAMES_SHOWN])
    more = f" and {len(at_hand) - _NAMES_SHOWN} more" if len(at_hand) > _NAMES_SHOWN else ""
    known = f"The model has {shown}{more}" if at_hand else "The model has no linear, convolution or expert weight"
    return f"`target_modules` must match weights of the model, got {target_modules!r}, which matches none. {known}."


def _without_repeats(model: nn.Module, chosen: Sequence[_Candidate]) -> list[Target]:
    """One target for each piece of memory; tied weights keep the name that comes first."""
    owners: dict[_Memory, list[nn.Parameter]] = {}
    for parameter in model.parameters():  # each `Parameter` object once, however many names it has
        owners.setdefault(_memory(parameter), []).append(parameter)
    targets: dict[_Memory, Target] = {}
    for candidate in chosen:
        parameter = candidate.parameter
        if _memory(parameter) in targets:
            continue
        aliases = tuple(
            other
            for other in owners[_memory(parameter)]
            if other is not parameter and other.shape == parameter.shape and other.stride() == parameter.stride()
        )
        matrices = len(parameter) if candidate.is_expert and parameter.dim() == 3 else 1
        targets[_memory(parameter)] = Target(candidate.parameter_name, parameter, matrices, aliases)
    return list(targets.values())


def _memory(parameter: nn.Parameter) -> _Memory:
    return parameter.device, parameter.data_ptr()
