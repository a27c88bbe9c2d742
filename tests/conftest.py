"""Tiny models and tokenizers, built in code: no test of the default run needs the network or a download."""

from __future__ import annotations

import os


# Before any Hugging Face import: these are read once, at import.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast


SHARED = Path(__file__).resolve().parents[2] / "shared"

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_CORPUS = [
    "The quick brown fox jumps over the lazy dog.",
    "Name three primary colours. Red, yellow and blue are the three primary colours.",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "What is the capital of France? The capital of France is Paris.",
]

VOCAB_SIZE = 384

# The wide initialisation makes rows differ: at the usual 0.02 a tiny random model is equally unsure of everything.
_WIDE = {"vocab_size": VOCAB_SIZE, "initializer_range": 0.2}
_TINY = {**_WIDE, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_SMALL_MOE = {**_TINY, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}


def build_tokenizer(chat_template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on four sentences; knows every byte, so it encodes any text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=2048
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def _llama(**extra: object) -> PreTrainedModel:
    config = transformers.LlamaConfig(
        **_TINY, intermediate_size=64, num_key_value_heads=2, max_position_embeddings=2048, **extra
    )
    return transformers.LlamaForCausalLM(config)


def _gpt2() -> PreTrainedModel:
    config = transformers.GPT2Config(**_WIDE, n_embd=32, n_layer=2, n_head=4, n_positions=2048)
    return transformers.GPT2LMHeadModel(config)


def _mixtral() -> PreTrainedModel:
    config = transformers.MixtralConfig(**_SMALL_MOE, num_local_experts=4, num_experts_per_tok=2)
    return transformers.MixtralForCausalLM(config)


def _qwen3_moe() -> PreTrainedModel:
    config = transformers.Qwen3MoeConfig(
        **_SMALL_MOE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, tie_word_embeddings=False
    )
    return transformers.Qwen3MoeForCausalLM(config)


def _gpt_oss() -> PreTrainedModel:
    config = transformers.GptOssConfig(**_SMALL_MOE, num_local_experts=4, num_experts_per_tok=2, sliding_window=16)
    return transformers.GptOssForCausalLM(config)


MODEL_BUILDERS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": _llama,
    "llama_tied": lambda: _llama(tie_word_embeddings=True),
    "gpt2": _gpt2,
    "mixtral": _mixtral,
    "qwen3_moe": _qwen3_moe,
    "gpt_oss": _gpt_oss,
}
DENSE_MODELS = ["llama", "llama_tied", "gpt2"]


def build_model(name: str, seed: int = 0) -> PreTrainedModel:
    """A randomly initialised tiny model in eval mode, the same weights for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODEL_BUILDERS[name]()
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "sinks" in name:  # zero or empty by default: make them matter
                torch.nn.init.normal_(parameter, std=0.02)
    return model.eval()


@pytest.fixture(scope="session")
def _models() -> dict[str, PreTrainedModel]:
    return {}


@pytest.fixture
def make_model(_models: dict[str, PreTrainedModel]) -> Callable[[str], PreTrainedModel]:
    """`make_model("llama")` returns a private copy of a tiny model."""

    def make(name: str) -> PreTrainedModel:
        if name not in _models:
            _models[name] = build_model(name)
        return copy.deepcopy(_models[name])

    return make


@pytest.fixture
def llama(make_model: Callable[[str], PreTrainedModel]) -> PreTrainedModel:
    return make_model("llama")


@pytest.fixture(scope="session")
def _tokenizer() -> PreTrainedTokenizerBase:
    return build_tokenizer()


@pytest.fixture
def tokenizer(_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A private copy of the tiny ChatML tokenizer."""
    return copy.deepcopy(_tokenizer)
