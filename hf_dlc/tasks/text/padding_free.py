"""Rows end to end in one sequence, without padding: attention is within each row, all else is token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_dlc.tasks.batch_rules import in_steps

from .shared_head_cache import mask_behind


# Name of the attention among those of transformers, and of the argument that tells it where rows begin.
_ATTENTION = "hf_dlc_padding_free"
_STRETCHES = "hf_dlc_stretches"


class _Stretch(NamedTuple):
    """Rows of the same length that stand one behind the other."""

    start: int
    rows: int
    length: int
    mask: torch.Tensor | None  # behind a shared head


class _Stretches(NamedTuple):
    """All that attention within rows needs to know."""

    parts: Sequence[_Stretch]
    shared_head: DynamicCache | None
    start: int  # tokens of the shared head


def run_padding_free(
    run: Callable[..., BaseModelOutputWithPast],
    body: PreTrainedModel,
    input_ids: torch.Tensor,
    lengths: Sequence[int],
    shared_head: DynamicCache | None = None,
) -> BaseModelOutputWithPast:
    """
    Run rows through a body whose attention is one of the functions that transformers lets models choose among.

    Linear layers and norms meet one sequence of all tokens. Attention is that of `sdpa`, once for rows of one length.

    Args:
        run (`Callable`):
            Runs the body.
        body ([`~transformers.PreTrainedModel`]):
            The body.
        input_ids (`torch.Tensor` of shape `(rows, tokens)`):
            Token ids, padded on the right.
        lengths (`Sequence[int]`):
            Tokens of each row; rows of the same length should be neighbours.
        shared_head ([`~transformers.DynamicCache`], *optional*):
            Keys and values that stand before all rows.

    Returns:
        [`~transformers.modeling_outputs.BaseModelOutputWithPast`]: Its `last_hidden_state` is padded with zeros, of
        shape `(rows, tokens, hidden size)`.

    Raises:
        ValueError: If the body masks tokens in its own way, hands its attention no arguments, or has a window that
            a row does not fit in. Bodies that take no `position_ids`, or whose layers have no index, raise others.
    """
    device, start = input_ids.device, 0 if shared_head is None else shared_head.get_seq_length()
    places = torch.arange(input_ids.shape[1], device=device)
    is_token = places < torch.tensor(lengths, device=device)[:, None]
    positions = (start + places).expand_as(input_ids)[is_token]
    filling = (0, in_steps(len(positions)) - len(positions))  # tokens that no row sees
    ids, positions = F.pad(input_ids[is_token], filling), F.pad(positions, filling)
    stretches = _Stretches(list(_stretches_of(lengths, shared_head)), shared_head, start)
    with _attention_within_rows(body):
        options = {_STRETCHES: stretches, "position_ids": positions[None]}
        outputs = run(ids[None], use_cache=False, **options)
    states = outputs.last_hidden_state[0]
    padded = states.new_zeros((*input_ids.shape, states.shape[-1]))
    padded[is_token.to(states.device)] = states[: int(is_token.sum())]
    outputs.last_hidden_state = padded
    return outputs


def _stretches_of(lengths: Sequence[int], shared_head: DynamicCache | None) -> Iterator[_Stretch]:
    start = 0
    for length, same in groupby(lengths):
        rows = len(list(same))
        mask = None if shared_head is None else mask_behind(shared_head, length)
        yield _Stretch(start, rows, length, mask)
        start += rows * length


@contextmanager
def _attention_within_rows(body: PreTrainedModel) -> Iterator[None]:
    # Not `set_attn_implementation`: it walks through all parts of the model and checks them, for each micro-batch.
    config = body.config
    before = config._attn_implementation_internal
    config._attn_implementation_internal = _ATTENTION
    try:
        yield
    finally:
        config._attn_implementation_internal = before


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """
    Attention within rows, as transformers calls it.

    The shape of `query`, `key` and `value` is `(1, heads, tokens, head size)`, that of the result has the heads third.
    """
    if attention_mask is not None:  # its rows would not be these
        raise ValueError(f"{type(module).__name__} masks tokens in a way of its own")
    stretches: _Stretches | None = options.pop(_STRETCHES, None)
    if stretches is None:
        raise ValueError(f"{type(module).__name__} is not told where rows begin")
    window, longest = options.get("sliding_window"), max(part.length for part in stretches.parts)
    if window is not None and longest + stretches.start > window:  # sdpa knows of windows by masks alone
        raise ValueError(f"rows of {longest} tokens are longer than a window of {window}")
    attend, found = ALL_ATTENTION_FUNCTIONS["sdpa"], []
    for part in stretches.parts:
        stop = part.start + part.rows * part.length
        # (1, heads, rows * length, size) -> (rows, heads, length, size)
        own = [
            states[0, :, part.start : stop].unflatten(1, (part.rows, part.length)).transpose(0, 1)
            for states in (query, key, value)
        ]
        if stretches.shared_head is not None:
            own[1:] = stretches.shared_head.layers[module.layer_idx].update(*own[1:])
        attended, _ = attend(module, *own, part.mask, **options)
        found.append(attended.flatten(0, 1))
    states = torch.cat(found)
    return F.pad(states, (0, 0, 0, 0, 0, query.shape[2] - len(states)))[None], None


AttentionInterface.register(_ATTENTION, _attend)
