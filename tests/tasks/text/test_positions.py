"""Positions: the longest row a model can read, and rotary positions that depend on how long a row is."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.tasks.text.positions import learned_positions
from tests.conftest import VOCAB_SIZE, weights
from tests.laws.matrix.families import PADDING, POSITIONS, build_causal


_SMALL = {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_WIDE = {**_SMALL, "intermediate_size": 48, "initializer_range": 0.2}

# RoBERTa begins to count behind its padding index; MPT and Reformer-like limits are in no table at all.
LIMITS = {
    **dict.fromkeys(["openai-gpt", "ctrl", "gptj", "codegen", "biogpt", "opt", "mpt", "gpt2", "gpt_neo"], POSITIONS),
    **dict.fromkeys(["bert", "bart", "electra", "gpt_bigcode", "megatron-bert", "rembert", "roformer"], POSITIONS),
    **dict.fromkeys(["roberta", "xlm-roberta", "camembert", "data2vec-text"], POSITIONS - PADDING - 1),
}


def row(length: int, seed: int = 0) -> dict[str, Any]:
    ids = np.random.default_rng([seed, length]).integers(5, VOCAB_SIZE - 5, length).tolist()
    return {"input_ids": ids, "labels": [-100, -100, *ids[2:]]}


@pytest.fixture
def scorer_of(tokenizer: PreTrainedTokenizerBase) -> Callable[..., DLCScorer]:
    def make(model: PreTrainedModel) -> DLCScorer:
        return DLCScorer(model, tokenizer, DLCConfig(schedule="0, 0.1", keep_levels=True))

    return make


def own_losses(model: PreTrainedModel, rows: Sequence[dict[str, Any]]) -> list[float]:
    """What the model, new each time, says itself of each row alone."""
    losses = []
    for one in rows:
        ids, labels = (torch.tensor(one[name]) for name in ("input_ids", "labels"))
        with torch.no_grad():
            logits = copy.deepcopy(model)(input_ids=ids[None], use_cache=False).logits[0]
        losses.append(float(torch.nn.functional.cross_entropy(logits[:-1], labels[1:])))
    return losses


@pytest.mark.parametrize("name", LIMITS)
def test_the_longest_row(scorer_of: Callable, name: str) -> None:
    model, limit = build_causal(name), LIMITS[name]
    scorer, rows = scorer_of(model), [row(limit), row(limit - 1), row(7)]
    found = scorer.score(Dataset.from_list(rows))
    np.testing.assert_allclose([values[0] for values in found["dlc_level_loss"]], own_losses(model, rows), atol=1e-4)
    for way in (scorer, lambda one: scorer.score(Dataset.from_list([one]))):
        with pytest.raises(ValueError, match=rf"a row of {limit + 1} tokens is longer .* Pass max_length={limit}\."):
            way(row(limit + 1))


def test_positions_that_are_computed(scorer_of: Callable) -> None:
    assert scorer_of(build_causal("llama"))(row(3 * POSITIONS))["dlc_status"] == "ok"


@pytest.mark.parametrize(
    ("name", "tensor", "limit"),
    [
        ("pos_encoding", torch.zeros(1, 2048, 32), 2048),
        ("pos_encoding", torch.zeros(96, 32), 96),
        ("position_ids", torch.arange(80)[None], 80),
        ("pos_freqs", torch.zeros(16), math.inf),
        ("bias", torch.zeros(4, 4), math.inf),
        ("bias", torch.eye(4), math.inf),
        ("bias", torch.ones(1, 1, 64, 64).tril(), 64),
        ("causal_mask", torch.full((64, 64), -torch.inf).triu(1), 64),
        ("bias", torch.ones(1, 1, 64, 64, dtype=torch.bool), 64),
    ],
)
def test_limits_of_buffers(name: str, tensor: torch.Tensor, limit: float) -> None:
    model = torch.nn.Module()
    model.register_buffer(name, tensor)
    assert learned_positions(model) == limit


@pytest.mark.parametrize(
    ("name", "limit"),
    [("wpe", 50), ("pos_embed", 50), ("embed_positions", 50), ("positions_embed", 50), ("position_embeddings", 50)]
    + [(name, math.inf) for name in ("pos_scale", "decomposer", "postags", "purpose", "rel_pos")],
)
def test_limits_of_tables(name: str, limit: float) -> None:
    model = torch.nn.Module()
    model.add_module(name, torch.nn.Embedding(50, 4))
    assert learned_positions(model) == limit


def longrope(name: str) -> PreTrainedModel:
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 45}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 4.0, 5.0], "short_mscale": 1.0, "long_mscale": 1.2}
    sizes = {**_WIDE, "max_position_embeddings": 256, "original_max_position_embeddings": 45, "rope_parameters": rope}
    if name == "phimoe":
        config = transformers.PhimoeConfig(**sizes, num_local_experts=4, num_key_value_heads=2)
    else:
        config = transformers.Phi3Config(**sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    return transformers.AutoModelForCausalLM.from_config(config)


def dynamic(name: str) -> PreTrainedModel:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    if name == "gemma3_text":
        ropes = {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0}}
        layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16, "head_dim": 8}
        config = transformers.Gemma3TextConfig(**_WIDE, **layers, max_position_embeddings=45, rope_parameters=ropes)
    else:
        config = transformers.LlamaConfig(**_WIDE, max_position_embeddings=45, rope_parameters=rope)
    return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(
    ("make", "name"), [(longrope, "phi3"), (longrope, "phimoe"), (dynamic, "llama"), (dynamic, "gemma3_text")]
)
def test_rows_on_both_sides_of_a_limit(scorer_of: Callable, make: Callable, name: str) -> None:
    torch.manual_seed(0)
    model = make(name).eval()
    before = weights(model)
    rows = [row(length) for length in (44, 70, 45, 3, 46, 41, 70, 48)]
    expected = own_losses(model, rows)
    scorer = scorer_of(model)
    at_once = scorer.score(Dataset.from_list(rows))["dlc_level_loss"]
    one_by_one = [scorer(one)["dlc_level_loss"] for one in rows]  # after longer ones, too
    np.testing.assert_allclose([values[0] for values in at_once], expected, atol=1e-4)
    np.testing.assert_allclose(np.array(one_by_one), np.array(list(at_once)), atol=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(model).items())


@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3"])
def test_positions_that_are_the_same_in_any_row(scorer_of: Callable, kind: str) -> None:
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 45}
    rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if kind == "llama3" else {}
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**_WIDE, max_position_embeddings=90, rope_parameters=rope)
    ).eval()
    rows = [row(length) for length in (44, 70, 3, 46)]
    scorer = scorer_of(model)
    found = scorer.score(Dataset.from_list(rows))["dlc_level_loss"]
    np.testing.assert_allclose([values[0] for values in found], own_losses(model, rows), atol=1e-4)
    assert scorer.parts.task.rules.plain_up_to == np.inf  # nothing is slower than it must be
