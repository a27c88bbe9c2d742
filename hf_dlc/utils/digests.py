"""Fingerprints of weights, processors and settings: equal in every Python process, different if a score may differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
import xxhash
from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase


# Facts about where a model came from and which release wrote it; none of them changes a score.
_VOLATILE_CONFIG_KEYS = {"_name_or_path", "_commit_hash", "transformers_version"}


def json_digest(value: Any) -> str:
    """Hex digest of a JSON value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def model_digest(model: PreTrainedModel) -> str:
    """
    Hex digest of a model's class, configuration and weights, bit for bit.

    Weights are read in place and hashed as raw bytes, which costs about as much as reading them once; nothing is
    cached, so that training the model in between is always seen.
    """
    config = {key: value for key, value in model.config.to_dict().items() if key not in _VOLATILE_CONFIG_KEYS}
    architecture = [type(model).__name__, config, model.config._attn_implementation]
    return tensors_digest({**dict(model.named_parameters()), **dict(model.named_buffers())}, architecture)


def tensors_digest(tensors: Mapping[str, torch.Tensor], beside: Any = None) -> str:
    """Hex digest of named tensors, bit for bit and in any order, and of a JSON value beside them."""
    hasher = xxhash.xxh3_128(json_digest(beside).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        # A view as bytes needs at least one dimension, and `contiguous` copies only where it must.
        hasher.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()


def processor_digest(processor: PreTrainedTokenizerBase | BaseImageProcessor) -> str:
    """Hex digest of what a tokenizer does with text, or an image processor with images."""
    if isinstance(processor, BaseImageProcessor):  # the class tells PIL from torchvision, whose pixels differ a little
        return json_digest([type(processor).__name__, processor.to_dict()])
    return tokenizer_digest(processor)


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hex digest of what a tokenizer does with text; padding and truncation set for a moment do not count."""
    if tokenizer.is_fast:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        backend = {key: value for key, value in backend.items() if key not in ("padding", "truncation")}
    else:
        backend = {"vocabulary": tokenizer.get_vocab(), "options": tokenizer.init_kwargs}
    special_tokens = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return json_digest([type(tokenizer).__name__, backend, special_tokens, tokenizer.chat_template])
