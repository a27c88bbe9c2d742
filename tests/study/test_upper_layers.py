"""Upper layers behind cached states: they compute what they do in the model, or the whole model is run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.study.options import TrainingOptions
from hf_dlc.study.states import States
from hf_dlc.study.upper_layers import UpperLayers, layers_of, split
from tests.conftest import VOCAB_SIZE, build_model
from tests.rows import many_rows


_WINDOW = 8  # tokens that a layer with a sliding window sees; all rows are longer
_SMALL = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": _WINDOW,
    "initializer_range": 0.2,
    "max_position_embeddings": 2048,
}


def _seeded(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    torch.manual_seed(0)
    return make().eval()


def build_qwen3() -> PreTrainedModel:
    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    config = transformers.Qwen3Config(
        **_SMALL, use_sliding_window=True, layer_types=kinds, pad_token_id=0, bos_token_id=None, eos_token_id=2
    )
    return _seeded(lambda: transformers.Qwen3ForCausalLM(config))


def build_gemma3() -> PreTrainedModel:
    kinds = ["sliding_attention", "full_attention"] * 2
    config = transformers.Gemma3TextConfig(**_SMALL, layer_types=kinds, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    return _seeded(lambda: transformers.Gemma3ForCausalLM(config))


FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    **{name: lambda name=name: build_model(name) for name in ("llama", "llama_tied", "qwen3_moe", "gpt_oss")},
    "qwen3": build_qwen3,  # layers of several kinds
    "gemma3": build_gemma3,  # and its own scale of embeddings, with a tied head
}


def tokens_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    return DLCScorer(model, tokenizer, DLCConfig(schedule="0")).tokenize(Dataset.from_list(many_rows(10)))


@torch.no_grad()
def own_losses(model: PreTrainedModel, rows: Dataset) -> np.ndarray:
    """The loss of each row as the model itself computes it, alone and without padding."""
    return np.array(
        [
            model(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss.item()
            for row in rows
        ]
    )


def split_of(model: PreTrainedModel, rows: Dataset, count: int | None) -> UpperLayers:
    batch = States.of(rows).batch(range(3), model.device)
    return split(model, count, {**batch, "input_ids": batch["states"]})


@torch.no_grad()
def losses_behind_states(upper: UpperLayers, model: PreTrainedModel, rows: Dataset) -> np.ndarray:
    """The loss of each row, of all rows in one padded batch."""
    states = States.of(rows).below(upper, model)
    batch = states.batch(range(len(rows)), model.device)
    losses = upper.eval()(**batch)["losses"]
    return np.array([part.mean().item() for part in losses.split(states.targets.tolist())])


@pytest.mark.parametrize("name", FAMILIES)
def test_they_compute_the_losses_of_the_whole_model(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    model = FAMILIES[name]()
    rows = tokens_of(model, tokenizer)
    assert min(map(len, rows["input_ids"])) > _WINDOW
    expected = own_losses(model, rows)
    assert np.ptp(expected) > 0.1
    for count in range(1, model.config.num_hidden_layers):
        upper = split_of(model, rows, count)
        assert upper.reads == "inputs_embeds"
        assert len(layers_of(upper.model)) == count
        assert losses_behind_states(upper, model, rows) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("count", [None, 2, 9])
def test_all_layers_read_token_ids(count: int | None, tokenizer: PreTrainedTokenizerBase) -> None:
    model = build_model("llama")
    rows = tokens_of(model, tokenizer)
    upper = split_of(model, rows, count)
    assert upper.reads == "input_ids"
    assert States.of(rows).below(upper, model).inputs.dtype == torch.int64
    assert losses_behind_states(upper, model, rows) == pytest.approx(own_losses(model, rows), abs=1e-5)


def test_layers_that_cannot_stand_alone_are_trained_with_the_whole_model(
    tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
) -> None:
    """GPT-2 would add the embeddings of positions once more; its adapters are in the last layers all the same."""
    model = build_model("gpt2")
    rows = tokens_of(model, tokenizer)
    upper = split_of(model, rows, 1)
    assert "the last 1 layers of GPT2LMHeadModel do not compute alone what they do in the model" in caplog.text
    assert upper.reads == "input_ids"
    assert losses_behind_states(upper, model, rows) == pytest.approx(own_losses(model, rows), abs=1e-5)
    assert adapted_layers(upper, TrainingOptions(lora_layers=1)) == {"h.1"}


def adapted_layers(upper: UpperLayers, options: TrainingOptions) -> set[str]:
    """Names of the layers that have adapters, and of whatever else has."""
    model = upper.with_adapters(options)
    found = {name.partition("lora_")[0] for name, one in model.named_parameters() if one.requires_grad}
    assert all("lora_" in name for name, one in model.named_parameters() if one.requires_grad)
    model.unload()
    return {".".join(name.split(".self_attn")[0].split(".attn")[0].split(".mlp")[0].split(".")[-2:]) for name in found}


@pytest.mark.parametrize(("layers", "expected"), [(1, [3]), (3, [1, 2, 3]), (None, [0, 1, 2, 3])])
def test_adapters_are_in_the_last_layers(
    layers: int | None, expected: list[int], tokenizer: PreTrainedTokenizerBase
) -> None:
    model = build_qwen3()
    upper = split_of(model, tokens_of(model, tokenizer), layers)
    adapted = adapted_layers(upper, TrainingOptions(lora_layers=layers))
    kept = list(layers_of(upper.model))
    places = {f"layers.{place}": layer for place, layer in enumerate(kept)}
    weights = [places[name].self_attn.q_proj.weight.data_ptr() for name in sorted(adapted)]
    own = [layer.self_attn.q_proj.weight.data_ptr() for layer in model.model.layers]
    assert sorted(map(own.index, weights)) == expected  # the very memory of these layers


def test_a_head_is_run_at_target_tokens_only(tokenizer: PreTrainedTokenizerBase) -> None:
    model = build_model("llama")
    rows = tokens_of(model, tokenizer)
    upper, seen = split_of(model, rows, 1).eval(), []
    upper.head.head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    states = States.of(rows).below(upper, model)
    with torch.no_grad():
        found = upper(**states.batch(range(4), model.device))
    assert seen == [(states.targets[:4].sum(), 32)]
    assert found["loss"].item() == pytest.approx(found["losses"].mean().item())


def test_a_copy_of_the_whole_model_ends_in_these_layers(tokenizer: PreTrainedTokenizerBase) -> None:
    model = build_qwen3()
    rows = tokens_of(model, tokenizer)
    upper = split_of(model, rows, 2)
    with torch.no_grad():
        layers_of(upper.model)[0].mlp.up_proj.weight = torch.nn.Parameter(torch.zeros(48, 32), requires_grad=False)
    whole = upper.whole(model)
    assert own_losses(whole, rows) == pytest.approx(losses_behind_states(upper, model, rows), abs=1e-5)
    assert np.abs(own_losses(whole, rows) - own_losses(model, rows)).max() > 0.01


@pytest.mark.parametrize("count", [0, 2])
def test_a_model_without_one_list_of_layers(count: int) -> None:
    model = build_model("llama")
    lists: list[Any] = [torch.nn.ModuleList([torch.nn.Identity()] * 2) for _ in range(count)]
    model.model.layers = torch.nn.Sequential(*lists)
    with pytest.raises(ValueError, match=f"LlamaForCausalLM must have one list of 2 layers, got {count}"):
        layers_of(model)


def test_adapters_in_all_layers_need_no_list_of_them(tokenizer: PreTrainedTokenizerBase) -> None:
    """The head gets none, nor does the model need one list of layers, of which an error would ask just this."""
    model = build_model("llama")
    model.model.other = torch.nn.ModuleList([torch.nn.Identity()] * model.config.num_hidden_layers)
    upper = UpperLayers(model)
    adapted = upper.with_adapters(TrainingOptions(lora_layers=None))
    names = [name for name, _ in adapted.named_parameters() if "lora_A" in name]
    assert len(names) == 7 * model.config.num_hidden_layers
    assert not any("head" in name for name in names)
    with pytest.raises(ValueError, match=r"Pass lora_layers=None"):
        UpperLayers(model).with_adapters(TrainingOptions(lora_layers=1))
