"""Keys and values of a shared head, which rows see before their own."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class _SharedHeadLayer(DynamicLayer):
    """Shows each row the keys and values of a shared head before its own, and keeps nothing of the row."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the shared head and of the rows behind it."""
        rows = len(key_states)
        keys, values = (kept.expand(rows, *kept.shape[1:]) for kept in (self.keys, self.values))
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


def holds_all_tokens(cache: Any) -> bool:
    """Whether a cache has the keys and values of all tokens, and nothing else: no windows, no recurrent states."""
    return isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers)


def as_shared_head(cache: DynamicCache) -> DynamicCache:
    """The cache, whose layers from now on keep nothing of the rows behind it."""
    cache.layers = [_behind_layer(layer) for layer in cache.layers]
    return cache


def _behind_layer(layer: DynamicLayer) -> _SharedHeadLayer:
    kept = _SharedHeadLayer()
    kept.lazy_initialization(layer.keys, layer.values)
    kept.keys, kept.values = layer.keys, layer.values
    return kept


def mask_behind(shared_head: DynamicCache, length: int) -> torch.Tensor:
    """Mask to be added to the scores of rows of `length` tokens, of shape `(1, 1, length, length with the head)`."""
    keys, start = shared_head.layers[0].keys, shared_head.get_seq_length()
    hidden = torch.full((length, start + length), -torch.inf, dtype=keys.dtype, device=keys.device)
    return hidden.triu(start + 1)[None, None]
