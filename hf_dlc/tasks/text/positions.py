"""Positions of a language model: how many it has, and rotary ones that depend on the length of a row."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_dlc.tasks.batch_rules import BatchRules


_ABSOLUTE = re.compile("(^|_)(wpe|wpos|pe|pos|posemb|posenc|position|positions|positional)(_|$)")
_NO_TABLE = re.compile("rel|bias|bucket|dist|scale|freq|type|mask|gate|decay|slope")
_OF_IMAGES = re.compile("vision|visual|image|audio")


def learned_positions(model: PreTrainedModel) -> float:
    """
    Tokens that a model has positions for, by its tables and buffers; infinite if it computes positions.

    Tables of positions are known by their names. Some keep rows for padding: OPT and BART the first ones (`offset`),
    RoBERTa those up to the index of padding.
    """
    limits = [math.inf]
    for name, module in model.named_modules():
        if _OF_IMAGES.search(name):
            continue
        leaf = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and _is_of_positions(leaf):
            padding = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - (getattr(module, "offset", 0) or padding))
        limits += [_of_buffer(key, buffer) for key, buffer in module.named_buffers(recurse=False)]
    return min(limits)


def _is_of_positions(name: str) -> bool:
    return bool(_ABSOLUTE.search(name)) and not _NO_TABLE.search(name)


def _of_buffer(name: str, buffer: torch.Tensor) -> float:
    """Tokens for which a buffer has positions, their numbers or a causal mask; infinite if it has none of them."""
    if name in ("bias", "causal_mask"):
        return buffer.shape[-1] if _is_causal_mask(buffer) else math.inf
    if not _is_of_positions(name) or buffer.dim() == 0:
        return math.inf
    if not buffer.is_floating_point():
        return buffer.shape[-1]
    return buffer.shape[-2] if buffer.dim() > 1 else math.inf  # a vector of floats is one of frequencies


def _is_causal_mask(buffer: torch.Tensor) -> bool:
    """Whether a buffer is square and of truth values, or of one value for what is seen and another for the rest."""
    if buffer.dim() < 2 or buffer.shape[-1] != buffer.shape[-2] or buffer.shape[-1] < 2:
        return False
    if buffer.dtype == torch.bool:
        return True
    mask = buffer.flatten(0, -3)[0] if buffer.dim() > 2 else buffer
    is_seen = torch.ones_like(mask, dtype=torch.bool).tril()
    seen, hidden = mask[is_seen], mask[~is_seen]
    return bool((seen == seen[0]).all() and (hidden == hidden[0]).all() and seen[0] != hidden[0])


def rotary_rules(model: PreTrainedModel) -> BatchRules:
    """
    Rules for the micro-batches of models whose rotary positions depend on the number of tokens of a forward pass.

    `longrope` has other frequencies for all tokens once there are more than a number of them. `dynamic` ones have
    others for each number of tokens beyond the one that the model was trained with.
    """
    boundaries = set()
    for parameters in _rope_parameters(model.config.to_dict().get("rope_parameters")):
        kind, original = str(parameters.get("rope_type")), parameters.get("original_max_position_embeddings")
        if kind == "longrope" and original:
            boundaries.add(int(original))
    beyond = [int(module.original_max_seq_len) for module in _dynamic_ropes(model)]
    return BatchRules(tuple(sorted(boundaries)), min(beyond, default=None))


def _rope_parameters(value: Any) -> Iterator[dict[str, Any]]:
    """The parameters, or those of each type of layers."""
    if isinstance(value, dict):
        yield value
        for nested in value.values():
            yield from _rope_parameters(nested)


def _dynamic_ropes(model: nn.Module) -> list[nn.Module]:
    return [rope for rope in _ropes(model, "dynamic") if hasattr(rope, "original_max_seq_len")]


def _ropes(model: nn.Module, kind: str) -> list[nn.Module]:
    return [module for module in model.modules() if kind in str(getattr(module, "rope_type", ""))]


class ChangingRopes:
    """
    The rotary positions of a model that change with the rows that it reads.

    Args:
        model (`torch.nn.Module`):
            The model. Modules that it gets later are not known.
    """

    def __init__(self, model: nn.Module) -> None:
        self._dynamic = _dynamic_ropes(model)
        self._all = [*self._dynamic, *_ropes(model, "longrope")]

    @contextmanager
    def fresh(self) -> Iterator[None]:
        """
        Context in which the positions are those of a model that has not read any row; they are put back at its end.

        Positions of the kind `dynamic` keep the frequencies of the longest row so far. Without this, scores would
        depend on earlier rows.
        """
        attributes = [dict(vars(rope)) for rope in self._all]
        buffers = [{name: (buffer, buffer.clone()) for name, buffer in rope._buffers.items()} for rope in self._all]
        for rope in self._dynamic:
            _reset(rope)
        try:
            yield
        finally:
            for rope, own, kept in zip(self._all, attributes, buffers, strict=True):
                vars(rope).clear()
                vars(rope).update(
                    own, _buffers={name: buffer.copy_(values) for name, (buffer, values) in kept.items()}
                )


def _reset(rope: nn.Module) -> None:
    for name in [name for name in rope._buffers if name.endswith("inv_freq") and "original" not in name]:
        original = getattr(rope, f"{name.removesuffix('inv_freq')}original_inv_freq")
        rope.register_buffer(name, original.clone().to(getattr(rope, name).device), persistent=False)
    for name in [name for name in vars(rope) if name.endswith("max_seq_len_cached")]:
        setattr(rope, name, rope.original_max_seq_len)
