"""Tiny random models of every decoder-only and image family of transformers, built offline from shrunk configs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_MAPPING,
)
from transformers.pytorch_utils import Conv1D

from tests.conftest import VOCAB_SIZE


POSITIONS = 96  # of every family that has a limit
IMAGE_SIZE = 32
CLASSES = 3

# What a field of this name becomes, in any config that has it.
_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "vocab_size_per_layer_input": VOCAB_SIZE,
    "decoder_vocab_size": VOCAB_SIZE,
    "unpadded_vocab_size": VOCAB_SIZE,
    "max_position_embeddings": POSITIONS,
    "n_positions": POSITIONS,
    "n_ctx": POSITIONS,
    "max_seq_len": POSITIONS,
    "max_target_positions": POSITIONS,
    "context_length": POSITIONS,
    "model_max_length": POSITIONS,
    "hidden_size": 32,
    "n_embd": 32,
    "d_model": 32,
    "emb_dim": 32,
    "embedding_dim": 32,
    "embedding_size": 32,
    "word_embed_proj_dim": 32,
    "hidden_size_per_layer_input": 16,
    "attention_hidden_size": 32,
    "lru_width": 32,
    "num_hidden_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "num_layers": 2,
    "num_blocks": 2,
    "decoder_layers": 2,
    "encoder_layers": 2,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_heads": 4,
    "attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_attention_heads": 4,
    "num_encoder_attention_heads": 4,
    "num_decoder_attention_heads": 4,
    "swa_num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_kv_heads": 2,
    "swa_num_key_value_heads": 2,
    "head_dim": 8,
    "swa_head_dim": 8,
    "dim_head": 8,
    "kv_channels": 8,
    "attention_head_size": 8,
    "linear_head_dim": 8,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_heads": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "intermediate_size": 48,
    "dense_intermediate_size": 48,
    "intermediate_size_mlp": 48,
    "ffn_dim": 48,
    "ffn_hidden_size": 48,
    "expert_ffn_hidden_size": 24,
    "decoder_ffn_dim": 48,
    "encoder_ffn_dim": 48,
    "dff": 48,
    "dim_ff": 48,
    "feed_forward_size": 48,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "shared_experts_intermediate_size": 24,
    "moe_shared_expert_intermediate_size": 24,
    "shared_intermediate_size": 24,
    "router_hidden_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "zero_expert_num": 2,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "n_group": 1,
    "num_expert_group": 1,
    "topk_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "o_lora_rank": 16,
    "o_groups": 2,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "qk_head_dim": 12,
    "v_head_dim": 8,
    "index_n_heads": 2,
    "index_head_dim": 8,
    "index_topk": 16,
    "sliding_window": 16,
    "sliding_window_size": 16,
    "window_size": 16,
    "attention_window_size": 16,
    "attention_chunk_size": 16,
    "local_attention": 16,
    "keep_window_size": 16,
    "first_k_dense_replace": 1,
    "state_size": 4,
    "ssm_state_size": 4,
    "mamba_d_state": 4,
    "mamba_num_heads": 4,
    "mamba_n_heads": 4,
    "mamba_head_dim": 16,
    "mamba_d_head": 16,
    "mamba_dt_rank": 4,
    "mamba_chunk_size": 16,
    "chunk_size": 16,
    "time_step_rank": 4,
    "n_groups": 2,
    "rotary_dim": 4,
    "projection_dim": 32,
}

_EXTRA: dict[str, dict[str, Any]] = {}

_VISION_SIZES: dict[str, Any] = {
    **{name: _SIZES[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")},
    "image_size": IMAGE_SIZE,
    "patch_size": 8,
    "d_model": 32,
    "projection_dim": 32,
    "num_labels": CLASSES,
}

_VISION_EXTRA: dict[str, dict[str, Any]] = {}

# Families that transformers cannot build without the network, or not small enough to be tested.
UNBUILDABLE: dict[str, str] = {}

# Families that `DLCScorer` refuses, with words of its message.
REFUSED: dict[str, str] = {}

MOST_USED: list[str] = []


def shrink(config_class: type[PreTrainedConfig], sizes: Mapping[str, Any], **extra: Any) -> PreTrainedConfig:
    """A config of a tiny model; nested configs are shrunk as well, and what a family needs besides is in `extra`."""
    default = config_class(**{name: value for name, value in extra.items() if not isinstance(value, dict)})
    fields = default.to_dict()
    known = {name: value for name, value in sizes.items() if isinstance(fields.get(name), (int, list, tuple))}
    for name, value in fields.items():
        if name.endswith(("token_id", "token_index")) and isinstance(value, int) and value >= VOCAB_SIZE:
            known[name] = 1
    for name, nested in type(default).sub_configs.items():
        inner = getattr(default, name, None)
        if isinstance(inner, PreTrainedConfig):
            sizes_here = _VISION_SIZES if "vision" in name else sizes
            known[name] = shrink(type(inner), sizes_here, **extra.get(name, {}))
    if "num_hidden_layers" in known and "layer_types" in fields:
        known["num_hidden_layers"] = 4  # one of each kind
    return config_class(**{**known, **extra})


def _randomise(model: PreTrainedModel) -> None:
    """
    Weights wide enough for rows to differ, and no bias or norm without effect.

    What a family initialises in a way of its own (decay rates, relative positions, sinks) stays as it is.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.Linear | Conv1D | nn.Conv2d):
            fan_in = module.weight[0].numel() if not isinstance(module, Conv1D) else module.weight.shape[0]
            nn.init.normal_(module.weight, std=1.0 if isinstance(module, nn.Embedding) else 1.2 * fan_in**-0.5)
        for key, parameter in module.named_parameters(recurse=False):
            if "Expert" in type(module).__name__ and parameter.dim() >= 2 and "bias" not in key:
                nn.init.normal_(parameter, std=0.2)
            elif key.endswith("bias") or "sinks" in key:
                nn.init.normal_(parameter, std=0.05)
            elif key == "weight" and parameter.dim() == 1:  # a norm, whatever its class
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


def _build(config: PreTrainedConfig, model_class: type[PreTrainedModel], seed: int = 0) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = model_class(config)
        _randomise(model)
    return model.float().eval()


def build_causal(name: str) -> PreTrainedModel:
    """A tiny random language model of a family of `MODEL_FOR_CAUSAL_LM_MAPPING`."""
    config = shrink(CONFIG_MAPPING[name], _SIZES, **_EXTRA.get(name, {}))
    if hasattr(config, "is_decoder"):
        config.is_decoder = True  # BERT and its like; others do not look at it
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return _build(config, model_class[0] if isinstance(model_class, tuple) else model_class)


def build_image(name: str) -> PreTrainedModel:
    """A tiny random image classifier of a family of `MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING`."""
    config = shrink(CONFIG_MAPPING[name], _VISION_SIZES, **_VISION_EXTRA.get(name, {}))
    config.num_labels = CLASSES
    model_class = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)]
    return _build(config, model_class[0] if isinstance(model_class, tuple) else model_class)


def _builders(names: Mapping[str, Any], build: Callable[[str], PreTrainedModel]) -> dict[str, Callable[[], PreTrainedModel]]:
    return {name: (lambda name=name: build(name)) for name in names if name not in UNBUILDABLE}


CAUSAL = _builders(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, build_causal)
IMAGES = _builders(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, build_image)
