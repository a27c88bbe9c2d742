"""Rows go through a model end to end, without padding, where that changes no score; else side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.execution.plan import cut_again, cut_batches
from hf_dlc.scores.base import Features
from hf_dlc.scores.dlc import CONFIDENCE
from hf_dlc.scores.plain import LOSS
from hf_dlc.tasks.base import LENGTH_STEP
from hf_dlc.tasks.facts import facts_of
from hf_dlc.tasks.text import padding_free
from hf_dlc.tasks.text.task import CausalLMTask
from tests.conftest import VOCAB_SIZE, weights
from tests.laws.matrix.families import build_causal
from tests.laws.matrix.measure import own_loss


WINDOW = 64
# Convolutions, recurrences and linear attention.
MIXERS = ["jamba", "lfm2_moe", "qwen3_next", "minimax", "falcon_h1", "granitemoehybrid", "zamba"]
LENGTHS = (90, 70, 61, 61, 40, 30, 30, 30, 12, 3)


def row(length: int, seed: int = 0) -> dict[str, Any]:
    ids = np.random.default_rng([seed, length]).integers(5, VOCAB_SIZE - 5, length).tolist()
    return {"input_ids": ids, "labels": [-100, *ids[1:]]}


ROWS = Dataset.from_list([row(length, seed) for seed, length in enumerate(LENGTHS)])


@pytest.fixture
def scorer_of(tokenizer: PreTrainedTokenizerBase) -> Callable[..., DLCScorer]:
    def make(model: PreTrainedModel, **options: Any) -> DLCScorer:
        return DLCScorer(model, tokenizer, DLCConfig(**{"schedule": "0, 0.1", "keep_levels": True, **options}))

    return make


def task_of(scorer: DLCScorer) -> CausalLMTask:
    return scorer.parts.task


def checked(scorer: DLCScorer, longest: int = max(LENGTHS)) -> CausalLMTask:
    """The task, once the engine has found its rules."""
    scorer.parts.engine.check(longest)
    return task_of(scorer)


def own_losses(model: PreTrainedModel) -> list[float]:
    return [own_loss(model, one["input_ids"], one["labels"]) for one in ROWS]


def windowed() -> PreTrainedModel:
    return build_causal("mistral", sliding_window=WINDOW, max_position_embeddings=256)


@pytest.mark.parametrize(
    "family", ["llama", "qwen2", "qwen3", "gpt2", "gpt_neox", "phi3", "opt", "mixtral", "smollm3"]
)
def test_rows_end_to_end_have_the_loss_of_each_alone(scorer_of: Callable, family: str) -> None:
    model = build_causal(family)
    before, scorer = weights(model), scorer_of(model)
    found = scorer.score(ROWS)
    assert task_of(scorer).rules.padding_free_up_to >= max(LENGTHS)
    np.testing.assert_allclose([losses[0] for losses in found["dlc_level_loss"]], own_losses(model), atol=1e-4)
    assert model.config._attn_implementation == "sdpa"
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(model).items())


def test_rows_beyond_a_window_go_side_by_side(scorer_of: Callable) -> None:
    model = windowed()
    scorer = scorer_of(model)
    found = scorer.score(ROWS)
    assert task_of(scorer).rules.padding_free_up_to == WINDOW
    np.testing.assert_allclose([losses[0] for losses in found["dlc_level_loss"]], own_losses(model), atol=1e-4)
    batches = scorer.parts.engine.cut(facts_of(task_of(scorer).encode_dataset(ROWS)), 4096, [])
    assert {batch.is_padding_free: len(batch.rows) for batch in batches} == {True: 8, False: 2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["falcon", "stablelm", "bart", "mamba", "gpt_oss", "gemma2", "bloom", *MIXERS])
def test_models_that_do_it_otherwise_get_padded_rows(scorer_of: Callable, family: str, dtype: torch.dtype) -> None:
    assert checked(scorer_of(build_causal(family).to(dtype))).rules.padding_free_up_to == 0


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "mixtral"])
def test_half_precision(scorer_of: Callable, family: str) -> None:
    assert checked(scorer_of(build_causal(family).to(torch.bfloat16))).rules.padding_free_up_to >= max(LENGTHS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["mistral", "gemma3_text", "qwen2"])
@pytest.mark.parametrize("window", [16, 32, 64, 256])
def test_no_row_beyond_a_window(scorer_of: Callable, family: str, window: int, dtype: torch.dtype) -> None:
    options = {"sliding_window": window, "max_position_embeddings": 1024}
    if family == "qwen2":
        options |= {"use_sliding_window": True, "max_window_layers": 0}
    task = checked(scorer_of(build_causal(family, **options).to(dtype)), 700)
    assert task.rules.padding_free_up_to in ([0] if window < 23 else [0, window])
    if window == 256:
        assert task.rules.padding_free_up_to == window


@pytest.mark.parametrize(("window", "start"), [(9, 0), (20, 11)])
def test_attention_refuses_a_window_that_no_config_told_of(window: int, start: int) -> None:
    stretches = padding_free._Stretches([padding_free._Stretch(0, 2, 10, None)], None, start)
    states = [torch.ones(1, 2, 24, 4)] * 3
    with pytest.raises(ValueError, match=f"rows of 10 tokens are longer than a window of {window}"):
        padding_free._attend(torch.nn.Identity(), *states, None, hf_dlc_stretches=stretches, sliding_window=window)


def test_attention_that_is_chosen_later_counts(scorer_of: Callable) -> None:
    model = build_causal("llama")
    scorer = scorer_of(model)
    expected = scorer.score(ROWS)["dlc_loss"][:]
    model.set_attn_implementation("eager")
    seen = []
    model.model.layers[0].mlp.register_forward_pre_hook(lambda _, states: seen.append(len(states[0])))
    np.testing.assert_allclose(scorer.score(ROWS)["dlc_loss"][:], expected, atol=1e-4)
    assert max(seen) > 1  # rows side by side


def test_a_model_that_cannot_read_keys_from_elsewhere(scorer_of: Callable) -> None:
    """It repeats its keys behind the cache, and rows are as long as the head and a little more."""
    scorer = scorer_of(build_causal("jetmoe"), template="alpaca")
    rows = Dataset.from_list([{"instruction": f"Say {word}.", "output": word} for word in ["a", "b", "c", "d"] * 4])
    assert len(set(scorer.score(rows)["dlc_status"][:]) & {"ok"}) == 1


def test_attention_that_the_user_has_chosen_stays(scorer_of: Callable) -> None:
    model = build_causal("llama", attn_implementation="eager")
    assert checked(scorer_of(model)).rules.padding_free_up_to == 0


def test_rows_that_see_each_other_are_noticed(scorer_of: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def as_one(lengths: list[int], _shared_head: object) -> list[padding_free._Stretch]:
        return [padding_free._Stretch(0, 1, sum(lengths), None)]

    monkeypatch.setattr(padding_free, "_stretches_of", as_one)
    assert checked(scorer_of(build_causal("llama"))).rules.padding_free_up_to == 0


def test_positions_that_run_on_are_noticed(scorer_of: Callable) -> None:
    model = build_causal("gpt2")
    forward = model.transformer.forward
    model.transformer.forward = lambda *args, position_ids=None, **options: forward(*args, **options)
    assert checked(scorer_of(model)).rules.padding_free_up_to == 0


def test_a_pass_that_fails_leaves_the_attention_as_it_was(
    scorer_of: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_causal("llama")
    task = checked(scorer_of(model))
    model.model.norm.register_forward_pre_hook(lambda *_: torch.zeros(1).view(2))
    with pytest.raises(RuntimeError, match="invalid for input of size 1"):
        task.forward(task.encode_dataset(ROWS)[:3], (LOSS,))
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("pooling", ["position", "mean", "response", "gradient"])
def test_all_measures_are_those_of_padded_rows(make_scorer: Callable, shares: bool, pooling: str) -> None:
    task = checked(make_scorer(template="alpaca"), 200)
    texts = [{"instruction": "Say it." * n, "output": "Yes, gladly. " * (5 - n)} for n in (1, 2, 3, 4)]
    rows = sorted(task.encode(texts), key=lambda one: -one.length)
    assert len({one.shared_head for one in rows}) == 1
    assert rows[0].shared_head
    assert task.rules.padding_free_up_to >= rows[0].length
    asked = (CONFIDENCE, LOSS, Features(pooling, 16, task.features_size(pooling)))
    head = task.run_shared_head(rows[0].shared_head) if shares else None
    found = task.forward(rows, asked, head)
    task.rules = task.rules._replace(padding_free_up_to=0)
    expected = task.forward(rows, asked, head)
    torch.testing.assert_close(found.states, expected.states, atol=1e-5, rtol=1e-5)
    for name, values in expected.values.items():
        torch.testing.assert_close(found.values[name], values, atol=1e-4, rtol=1e-4)


def test_attention_is_called_once_for_rows_of_a_length(scorer_of: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    task, called = checked(scorer_of(build_causal("llama"))), []
    attend = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def counting(module: torch.nn.Module, query: torch.Tensor, *rest: Any, **options: Any) -> Any:
        called.append(tuple(query.shape[::2]))
        return attend(module, query, *rest, **options)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", counting)
    task.forward(list(task.encode_dataset(ROWS)), (LOSS,))
    assert called[: len(set(LENGTHS))] == [(LENGTHS.count(length), length) for length in dict.fromkeys(LENGTHS)]


def test_no_token_is_computed_in_vain(scorer_of: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = build_causal("llama"), []
    task = checked(scorer_of(model))
    model.model.layers[0].mlp.register_forward_pre_hook(lambda _, states: seen.append(states[0].shape[:2].numel()))
    task.forward(list(task.encode_dataset(ROWS)), (LOSS,))
    [tokens] = seen
    assert sum(LENGTHS) <= tokens < sum(LENGTHS) + LENGTH_STEP


@pytest.mark.parametrize("budget", [1, 40, 96, 100, 4096])
def test_micro_batches_end_to_end(budget: int) -> None:
    lengths = np.array([*LENGTHS, 0])
    batches = cut_batches(lengths, budget, padding_free=lengths <= WINDOW, groups=(lengths <= WINDOW).astype(int))
    assert cut_batches(np.array([1000] + [8] * 128), 2048, padding_free=np.full(129, True))[0].rows.tolist() == [
        *range(8)
    ]
    assert sorted(place for batch in batches for place in batch.rows) == list(range(len(LENGTHS)))
    for batch in batches:
        assert batch.is_padding_free == (batch.lengths[0] <= WINDOW)
        assert batch.padded_tokens <= budget or len(batch.rows) == 1
        if batch.is_padding_free:
            assert batch.padded_tokens < batch.lengths.sum() + LENGTH_STEP
    again = [part for batch in batches for part in cut_again(batch, 64)]
    assert all(part.padded_tokens <= 64 or len(part.rows) == 1 for part in again)
    assert sorted(place for part in again for place in part.rows) == list(range(len(LENGTHS)))
