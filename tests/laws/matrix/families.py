"""Tiny random models of every decoder-only and image family of transformers, built offline from shrunk configs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_IMAGE_MAPPING_NAMES,
    MODEL_MAPPING,
    MODEL_MAPPING_NAMES,
)
from transformers.pytorch_utils import Conv1D

from tests.conftest import VOCAB_SIZE


POSITIONS = 96  # of every family that has a limit
PADDING = 2  # the token that ends a turn: many pad with it, and it is in every row
IMAGE_SIZE = 32
CLASSES = 3
EXPERTS = 6  # no other size is the same, so that a router is known by its outputs
GATES = (5, 7)  # outputs of further routers: of streams (Gemma 3n), and of experts and one that does nothing (LongCat)

# What a field of this name becomes, in any config that has it.
SIZES: dict[str, Any] = {
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
    "num_experts": EXPERTS,
    "num_local_experts": EXPERTS,
    "n_routed_experts": EXPERTS,
    "moe_num_experts": EXPERTS,
    "zero_expert_num": 1,
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

_LATENT = {
    "head_dim": 4,
    "num_key_value_heads": 4,
}  # multi-head latent attention: `head_dim` is that of the rotary part
_SLIDING_LATENT = {
    **_LATENT,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 4,
    "swa_q_lora_rank": 16,
    "swa_kv_lora_rank": 16,
    "swa_head_dim": 12,
    "swa_qk_nope_head_dim": 8,
    "swa_v_head_dim": 8,
}
_MIXED = ["linear_attention", "full_attention"] * 2
_INDEXED = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
}

# What a family needs besides; nested dicts are for nested configs.
_EXTRA: dict[str, dict[str, Any]] = {
    **dict.fromkeys(["axk1", "deepseek_v3", "glm4_moe_lite", "longcat_flash", "youtu"], _LATENT),
    **dict.fromkeys(["axk2", "deepseek_v32", "glm_moe_dsa", "minicpm3"], _LATENT),
    "bailing_hybrid": {"num_hidden_layers": 4, "layer_types": _MIXED, "head_dim": 4, "num_key_value_heads": 4},
    "bamba": {"attn_layer_indices": [1]},
    "blt": {
        **{key: {"hidden_size_global": 64, "num_key_value_heads": 4} for key in ("encoder_config", "decoder_config")},
        "global_config": {"hidden_size": 64, "head_dim": 16, "num_key_value_heads": 4},
        "patcher_config": {"num_key_value_heads": 4},
        "encoder_hash_byte_group_vocab": 64,
    },
    "cohere": {"logit_scale": 1.0},
    "cohere2": {"logit_scale": 1.0},
    "cohere2_moe": {"logit_scale": 1.0},
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
        },
        "logit_scale": 1.0,
    },
    "dbrx": {"ffn_config": {"moe_top_k": 2}, "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_v2": {**_LATENT, "num_experts_per_tok": 2, "topk_method": "greedy"},
    "dots1": {"n_routed_experts": EXPERTS, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "dots3_note_text": _SLIDING_LATENT,
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {"num_hidden_layers": 5, "num_kv_shared_layers": 0, "laurel_rank": 8, "altup_num_inputs": 5},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "lfm2_moe": {
        "num_hidden_layers": 4,
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
        "num_dense_layers": 1,
    },
    "granitemoehybrid": {"num_hidden_layers": 4, "layer_types": _MIXED},
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"num_hidden_layers": 4, "layer_types": _MIXED, **_LATENT},
    "inkling_text": {"logits_mup_width_multiplier": 1.0},
    "mamba2": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp_text": _INDEXED,
    "qwen4_exp": {"text_config": _INDEXED},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "axial_pos_shape": [8, 12],
        "axial_pos_embds_dim": [8, 24],
        "attn_layers": ["local", "lsh"],
        "local_attn_chunk_length": 12,
        "lsh_attn_chunk_length": 12,
    },
    "roc_bert": {
        "pronunciation_embed_dim": 8,
        "pronunciation_vocab_size": VOCAB_SIZE,
        "shape_embed_dim": 8,
        "shape_vocab_size": VOCAB_SIZE,
    },
    "rwkv": {"rescale_every": 1},  # as in a deep model
    "xlstm": {"chunk_size": 64, "hidden_size": 64, "embedding_dim": 64},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_key_value_heads": 4,
    },
    "zamba2": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "mamba_headdim": 16,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_key_value_heads": 4,
        "n_mamba_heads": 4,
    },
    "zaya": {"num_experts_per_tok": 1},
}

_VISION_SIZES: dict[str, Any] = {
    **{name: SIZES[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")},
    "image_size": IMAGE_SIZE,
    "patch_size": 8,
    "d_model": 32,
    "projection_dim": 32,
    "num_labels": CLASSES,
}

_PYRAMID = {
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 16, 32, 32],
    "num_attention_heads": [1, 2, 4, 4],
    "patch_size": 4,
}
_WINDOWS = {"embed_dim": 16, "depths": [2, 1], "num_heads": [2, 4], "window_size": 4, "patch_size": 4}
_STAGES = {"depths": [1, 2, 1, 1], "hidden_sizes": [16, 16, 32, 32], "embedding_size": 16}

_VISION_EXTRA: dict[str, dict[str, Any]] = {
    "bit": {**_STAGES, "num_groups": 4},
    "convnext": {"depths": [1, 1], "hidden_sizes": [16, 32], "num_stages": 2, "patch_size": 4},
    "convnextv2": {"depths": [1, 1], "hidden_sizes": [16, 32], "num_stages": 2, "patch_size": 4},
    "dinov3_convnext": {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 16, 32]},
    "cvt": {"embed_dim": [8, 16, 32], "num_heads": [1, 2, 4], "depth": [1, 2, 3]},
    "donut-swin": _WINDOWS,
    "efficientnet": {
        "width_coefficient": 0.25,
        "depth_coefficient": 1.0,
        "in_channels": [32, 64],
        "out_channels": [64, 64],
        "kernel_sizes": [3, 3],
        "strides": [1, 2],
        "num_block_repeats": [1, 1],
        "expand_ratios": [1, 2],
        "hidden_dim": 320,
    },
    "focalnet": {
        "embed_dim": 16,
        "depths": [1, 1],
        "hidden_sizes": [16, 32],
        "focal_levels": [2, 2],
        "focal_windows": [3, 3],
        "patch_size": 4,
    },
    "hgnet_v2": {
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [16, 16, 32, 32],
        "embedding_size": 16,
        "stem_channels": [3, 8, 16],
        "stage_in_channels": [16, 16, 16, 32],
        "stage_mid_channels": [8, 8, 8, 8],
        "stage_out_channels": [16, 16, 32, 32],
        "stage_num_blocks": [1, 1, 1, 1],
        "stage_numb_of_layers": [2, 2, 2, 2],
    },
    "hiera": {
        "embed_dim": 16,
        "image_size": [IMAGE_SIZE, IMAGE_SIZE],
        "patch_size": [3, 3],
        "patch_stride": [2, 2],
        "patch_padding": [1, 1],
        "depths": [1, 1, 1],
        "num_heads": [1, 2, 4],
        "num_query_pool": 2,
        "masked_unit_size": [4, 4],
        "masked_unit_attention": [True, True, False],
    },
    "levit": {
        "hidden_sizes": [16, 24, 32],
        "num_attention_heads": [2, 2, 2],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
        "patch_size": 16,
    },
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.25},
    "mobilevit": {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32], "patch_size": 2},
    "mobilevitv2": {
        "base_attn_unit_dims": [16, 24, 32],
        "n_attn_blocks": [1, 1, 1],
        "width_multiplier": 0.25,
        "patch_size": 1,
    },
    "perceiver": {
        "num_latents": 8,
        "d_latents": 32,
        "d_model": 32,
        "num_self_attends_per_block": 2,
        "num_self_attention_heads": 4,
        "num_cross_attention_heads": 1,
        "image_size": IMAGE_SIZE,
    },
    "poolformer": {**_PYRAMID, "patch_size": 16, "num_attention_heads": None, "layer_scale_init_value": 0.5},
    "pp_lcnet": {"scale": 0.25, "class_expand": 32},
    "pvt": {**_PYRAMID, "mlp_ratios": [2, 2, 2, 2]},
    "pvt_v2": {**_PYRAMID, "mlp_ratios": [2, 2, 2, 2]},
    "regnet": {**_STAGES, "groups_width": 8},
    "resnet": _STAGES,
    "segformer": {**_PYRAMID, "mlp_ratios": [2, 2, 2, 2], "decoder_hidden_size": 16},
    "siglip2": {"vision_config": {"num_patches": 16}},
    "swiftformer": {"depths": [1, 1, 1, 1], "embed_dims": [8, 16, 16, 32]},
    "swin": _WINDOWS,
    "swinv2": {**_WINDOWS, "pretrained_window_sizes": [0, 0]},
    "textnet": {
        "stem_out_channels": 16,
        "hidden_sizes": [16, 16, 32],
        "conv_layer_kernel_sizes": [[[3, 3]], [[3, 1]]],
        "conv_layer_strides": [[1], [2]],
    },
}

# Vision parts of models of images and text that the mapping of image models does not list.
_TOWERS = dict.fromkeys(["clip_vision_model", "siglip2_vision_model"], "")

# Families that transformers cannot build here, or not small enough to be tested, and why.
UNBUILDABLE: dict[str, str] = {
    "dinat": "needs the library natten",
    "depth_pro": "its three parts need sizes of their own",
    "dots3_note": "its picture and sound parts need sizes of their own; the text part is dots3_note_text",
    **dict.fromkeys(
        [
            "conditional_detr",
            "dab-detr",
            "deformable_detr",
            "detr",
            "gemma3n",
            "table-transformer",
            "timm_backbone",
            "timm_wrapper",
        ],
        "needs the library timm",
    ),
    "gemma4_assistant": "a draft model: its layers read the keys and values of another model",
    "gemma4_unified_assistant": "a draft model: its layers read the keys and values of another model",
    "musicgen": "AutoModelForCausalLM cannot make it from its config, which is that of three models",
    "musicgen_melody": "AutoModelForCausalLM cannot make it from its config, which is that of three models",
}

# Families that `DLCScorer` refuses, with words of its message.
REFUSED: dict[str, str] = {
    "cpmant": "looks ahead",
    "gemma3_text, bidirectional": "looks ahead",
    "xlm": "looks ahead",
    "reformer": "gives other hidden states when it reads the same tokens again",
    "xlnet": "predicts tokens in permuted order",
    "prophetnet": "does not compute its logits from the last hidden states of its body alone",
    **dict.fromkeys(["emu3", "mllama"], "has no causal language model in transformers"),
    **dict.fromkeys(
        ["gemma3", "git", "got_ocr2", "moss_transcribe_diarize", "phi4_multimodal", "shieldgemma2"],
        "is a vision-language or audio model",
    ),
    **dict.fromkeys(
        [
            f"{name} (body)"
            for name in ("clip", "cohere2_vision", "llama4", "metaclip_2", "mllama", "siglip", "siglip2")
        ],
        "is a vision-language or audio model",
    ),
    **dict.fromkeys(
        [
            "imagegpt", "imagegpt (body)", "perceiver", "perceiver (body)", "siglip2", "siglip2_vision_model (body)",
            "videoprism_vision_model (body)",
        ],
        "must take an image as one array of pixels",
    ),
    "hgnet_v2 (body)": "is a backbone",
    "xlm, causal": "takes the token",
    "vit_mae (body)": "hides random patches of every image",
    **dict.fromkeys(
        [
            f"{name} (body)"
            for name in (
                "aimv2_vision_model", "dpt", "glpn", "mlcd", "mlcd_vision_model", "pixio", "swin2sr", "timesformer",
                "tipsv2_vision_model", "videomae", "vitdet", "vivit", "yolos",
            )
        ],
        "is no image classifier, nor the body of one",
    ),
}  # fmt: skip

# `labels=` are the tokens that follow, not those of the row: encoder-decoders' decoders, and XLM.
UNSHIFTED = {
    "bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart", "mvp", "pegasus", "plbart",
    "prophetnet", "trocr", "whisper", "xlm",
}  # fmt: skip

# Scored in every run of the tests.
MOST_USED = [
    "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma3_text", "phi3", "gpt2", "gpt_neox", "gpt_oss",
    "opt", "falcon", "deepseek_v3", "smollm3", "mamba", "vit", "dinov2", "swin", "resnet",
]  # fmt: skip


def shrink(config_class: type[PreTrainedConfig], sizes: Mapping[str, Any], **extra: Any) -> PreTrainedConfig:
    """A config of a tiny model; nested configs are shrunk as well, and what a family needs besides is in `extra`."""
    nested = {name: value for name, value in extra.items() if name in config_class.sub_configs}
    own = {name: value for name, value in extra.items() if name not in nested and value is not None}
    default = config_class()
    fields = default.to_dict()
    known = {name: value for name, value in sizes.items() if type(fields.get(name)) is int}
    if "head_dim" in fields and "head_dim" in sizes:
        known["head_dim"] = sizes["head_dim"]  # often left open
    if isinstance(fields.get("image_size"), tuple | list):
        known["image_size"] = [IMAGE_SIZE, IMAGE_SIZE]
    for name, value in fields.items():
        if name.endswith(("token_id", "token_index")) and type(value) is int and value >= VOCAB_SIZE:
            known[name] = 1
    if "pad_token_id" in fields and sizes is SIZES:
        known["pad_token_id"] = PADDING
    for name in config_class.sub_configs:
        inner = getattr(default, name, None)
        if isinstance(inner, PreTrainedConfig):
            known[name] = shrink(type(inner), _VISION_SIZES if "vision" in name else sizes, **nested.get(name, {}))
    if "num_hidden_layers" in known and "layer_types" in fields:
        known["num_hidden_layers"] = 4  # one of each kind
    return config_class(**{**known, **own})


def _randomise(model: PreTrainedModel) -> None:
    """
    Weights wide enough for rows to differ, and no bias or norm without effect.

    What a family initialises in a way of its own (decay rates, relative positions, sinks) stays as it is.
    """
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.Linear | Conv1D | nn.Conv2d):
            fan_in = module.weight[0].numel() if not isinstance(module, Conv1D) else module.weight.shape[0]
            nn.init.normal_(module.weight, std=1.0 if isinstance(module, nn.Embedding) else 1.2 * fan_in**-0.5)
        for key, parameter in module.named_parameters(recurse=False):
            if any(word in key for word in ("layer_scale", "lambda", "gamma")):
                nn.init.normal_(parameter, mean=0.5, std=0.1)  # by default next to nothing
            elif "Expert" in type(module).__name__ and parameter.dim() >= 2 and "bias" not in key:
                nn.init.normal_(parameter, std=0.2)
            elif key.endswith("bias") or "sinks" in key:
                nn.init.normal_(parameter, std=0.05)
            elif key == "weight" and parameter.dim() == 1:  # a norm, whatever its class
                parameter.add_(torch.randn_like(parameter), alpha=0.1)


def _build(
    config: PreTrainedConfig, make: Callable[[PreTrainedConfig], PreTrainedModel], seed: int = 0
) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = make(config)
        _randomise(model)
        _settle_norms(model)
    return model.eval()


def build_causal(name: str, **options: Any) -> PreTrainedModel:
    """A tiny random language model of a family of `MODEL_FOR_CAUSAL_LM_MAPPING`."""
    config = shrink(CONFIG_MAPPING[name], SIZES, **{**_EXTRA.get(name, {}), **options})
    if hasattr(config, "is_decoder"):
        config.is_decoder = True  # BERT and its like; others do not look at it
    return _build(config, AutoModelForCausalLM.from_config)


def _settle_norms(model: PreTrainedModel) -> None:
    """Let batch norms see a batch: with statistics that do not fit, images come out all alike or without bounds."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    if not norms or model.main_input_name != "pixel_values":
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the mean of what it sees
    with torch.no_grad():
        model.train()(pixel_values=torch.randn(16, 3, IMAGE_SIZE, IMAGE_SIZE))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def build_image(name: str) -> PreTrainedModel:
    """A tiny random image classifier of a family of `MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING`."""
    config = shrink(CONFIG_MAPPING[name], _VISION_SIZES, **_VISION_EXTRA.get(name, {}))
    config.id2label = {index: f"LABEL_{index}" for index in range(CLASSES)}
    config.label2id = {label: index for index, label in config.id2label.items()}
    model_class = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)]
    return _build(config, model_class[0] if isinstance(model_class, tuple) else model_class)


def _builders(
    names: Mapping[str, Any], build: Callable[[str], PreTrainedModel]
) -> dict[str, Callable[[], PreTrainedModel]]:
    return {name: (lambda name=name: build(name)) for name in names if name not in UNBUILDABLE}


def build_body(name: str) -> PreTrainedModel:
    """A tiny random image model without a head."""
    config = shrink(CONFIG_MAPPING[name], _VISION_SIZES, **_VISION_EXTRA.get(name, {}))
    return _build(config, MODEL_MAPPING[type(config)])


def _rope(kind: str, **options: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **options}}


# Beyond this many tokens two kinds of rotary positions compute otherwise: some rows are shorter, some longer.
_TURN = 64
_EAGER = {"attn_implementation": "eager"}

# What a family can be besides its default.
_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bart, scaled embeddings": ("bart", {"scale_embedding": True}),
    "electra, projected embeddings": ("electra", {"embedding_size": 16}),
    "falcon, ALiBi": ("falcon", {"alibi": True, "new_decoder_architecture": False}),
    "falcon, new decoder": ("falcon", {"new_decoder_architecture": True}),
    "gemma2, eager": ("gemma2", _EAGER),
    "gemma3_text, bidirectional": ("gemma3_text", {"use_bidirectional_attention": True}),
    "gpt_oss, eager": ("gpt_oss", _EAGER),
    "gpt_neox, in sequence": ("gpt_neox", {"use_parallel_residual": False}),
    "llama, dynamic": (
        "llama",
        {**_rope("dynamic", factor=2.0, original_max_position_embeddings=_TURN), "max_position_embeddings": _TURN},
    ),
    "llama, eager": ("llama", _EAGER),
    "llama, hidden states": ("llama", {"output_hidden_states": True}),
    "llama, linear": ("llama", _rope("linear", factor=2.0)),
    "llama, llama3": (
        "llama",
        _rope(
            "llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=_TURN,
        ),
    ),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, yarn": ("llama", _rope("yarn", factor=2.0, original_max_position_embeddings=_TURN)),
    "mixtral, eager experts": ("mixtral", {"experts_implementation": "eager"}),
    "opt, as 350m": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 16}),
    "phi3, longrope": (
        "phi3",
        {
            **_rope(
                "longrope",
                short_factor=[1.0] * 4,
                long_factor=[1.0, 2.0, 4.0, 8.0],
                original_max_position_embeddings=_TURN,
            ),
            "original_max_position_embeddings": _TURN,
        },
    ),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2, windows": ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}),
    "qwen2_moe, some dense": ("qwen2_moe", {"mlp_only_layers": [0], "tie_word_embeddings": True}),
    "xglm, eager": ("xglm", _EAGER),
    "xlm, causal": ("xlm", {"causal": True}),
}


CAUSAL = _builders(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, build_causal)
CAUSAL |= {
    name: (lambda family=family, options=options: build_causal(family, **options))
    for name, (family, options) in _VARIANTS.items()
}
IMAGES = _builders(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, build_image)
BODIES = {
    f"{name} (body)": build
    for name, build in _builders(
        {**MODEL_FOR_IMAGE_MAPPING_NAMES, **MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, **_TOWERS}, build_body
    ).items()
    if name in MODEL_MAPPING_NAMES
}
