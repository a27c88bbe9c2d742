"""The output head in parts of the vocabulary gives what it gives as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPoolingAndCrossAttentions

from hf_dlc.masking import Masker
from hf_dlc.scores.base import Measure
from hf_dlc.tasks.text import head as head_module
from hf_dlc.tasks.text.head import OutputHead


WORDS = 50
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8}


@pytest.fixture
def make_head(monkeypatch: pytest.MonkeyPatch) -> Callable[..., OutputHead]:
    """Of a tiny model, in parts of seven words and chunks of three tokens."""
    monkeypatch.setattr(head_module, "_WORDS_AT_ONCE", 7)
    monkeypatch.setitem(head_module._TOKENS_AT_ONCE, "full", 3)
    monkeypatch.setitem(head_module._LOGITS_AT_ONCE, "full", 3 * WORDS)

    def make(kind: str = "llama", **options: object) -> OutputHead:
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, vocab_size=WORDS, num_key_value_heads=2, **SIZES, **options)
        model = AutoModelForCausalLM.from_config(config).eval()
        return OutputHead(model, model.base_model)

    return make


LOG_PROB = Measure("log p", of_token=lambda log_probs: log_probs)


def log_probs(head: OutputHead, *arguments: Any, parts: int = 1) -> torch.Tensor:
    return head.measure(*arguments, [LOG_PROB], parts)[LOG_PROB.name]


def ask(head: OutputHead) -> tuple[torch.Tensor, torch.Tensor]:
    """What the head says of eight tokens, and what the model's own logits say."""
    states, labels = 9 * torch.randn(8, 16), torch.tensor([0, 6, 7, 13, 20, 48, 49, 49])
    with torch.inference_mode():
        output_type = type(head.body(input_ids=torch.zeros((1, 2), dtype=torch.int64)))
        logits = head.logits(states[None], output_type)[0].float()
        expected = logits.log_softmax(dim=1).gather(1, labels[:, None])[:, 0]
        return log_probs(head, states, labels, output_type), expected


def count_calls(model: PreTrainedModel) -> list[int]:
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_parts_are_the_whole(make_head: Callable[..., OutputHead]) -> None:
    head = make_head()
    calls = count_calls(head.model)
    found, expected = ask(head)
    torch.testing.assert_close(found, expected)
    assert len(calls) == 2  # that of `ask`, and the one that finds out that the head is all there is
    ask(head)
    assert len(calls) == 3


def test_bias(make_head: Callable[..., OutputHead]) -> None:
    head = make_head()
    head.model.lm_head.bias = torch.nn.Parameter(torch.randn(WORDS))
    calls = count_calls(head.model)
    found, expected = ask(head)
    torch.testing.assert_close(found, expected)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("kind", "options"), [("gemma2", {"final_logit_softcapping": 2.0}), ("granite", {"logits_scaling": 3.0})]
)
def test_a_model_that_does_more_is_asked_itself(
    make_head: Callable[..., OutputHead], kind: str, options: dict[str, float]
) -> None:
    head = make_head(kind, **options)
    calls = count_calls(head.model)
    found, expected = ask(head)
    torch.testing.assert_close(found, expected)
    assert len(calls) > 2


def test_hooks_are_not_passed_by(make_head: Callable[..., OutputHead]) -> None:
    head = make_head()
    ask(head)
    head.model.lm_head.register_forward_hook(lambda _module, _inputs, logits: 2 * logits)
    found, expected = ask(head)
    torch.testing.assert_close(found, expected)


def test_words_that_cannot_be(make_head: Callable[..., OutputHead]) -> None:
    """Padding of the vocabulary may have a bias of minus infinity; a part of nothing else must not give NaN."""
    head = make_head()
    head.model.lm_head.bias = torch.nn.Parameter(torch.zeros(WORDS))
    with torch.no_grad():
        head.model.lm_head.bias[21:35] = -torch.inf
    found, expected = ask(head)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, expected)


def test_states_in_another_dtype_than_the_head(make_head: Callable[..., OutputHead]) -> None:
    """Mamba keeps its states in float32 and casts them, in its own forward pass, for a head in bfloat16."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("mamba", vocab_size=WORDS, hidden_size=16, num_hidden_layers=1, state_size=4)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    found, expected = ask(OutputHead(model, model.base_model))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_states_of_another_width_than_the_head() -> None:
    """ELECTRA has layers between body and head."""
    sizes = {"embedding_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model("electra", vocab_size=WORDS, intermediate_size=16, is_decoder=True, **sizes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    found, expected = ask(OutputHead(model, model.base_model))
    torch.testing.assert_close(found, expected)


def test_large_logits(make_head: Callable[..., OutputHead]) -> None:
    head = make_head()
    with torch.no_grad():
        head.model.lm_head.weight.mul_(1e4)
    found, expected = ask(head)
    assert float(expected.min()) < -1e3
    torch.testing.assert_close(found, expected)


def test_in_half_precision_sums_are_not(make_head: Callable[..., OutputHead]) -> None:
    head = make_head()
    head.model.to(torch.bfloat16)
    states, labels = torch.randn(8, 16).bfloat16(), torch.arange(8)
    with torch.inference_mode():
        found = log_probs(head, states, labels, BaseModelOutputWithPast)
        logits = F.linear(states, head.model.lm_head.weight).float()
    expected = logits.log_softmax(dim=1).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("is_cut", [False, True])
def test_parts_that_meet_other_weights(is_cut: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer before the output embeddings is masked, too: each part of the states must go through its own weights."""
    if is_cut:
        monkeypatch.setitem(head_module._LOGITS_AT_ONCE, "full", 6 * WORDS)
    config = AutoConfig.for_model("bert", vocab_size=WORDS, is_decoder=True, **SIZES)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    head, masker = OutputHead(model, model.base_model), Masker(model)
    masker.hold_levels((0.0, 0.5))
    states, labels = 30 * torch.randn(7, 16), torch.arange(7)
    output_type = BaseModelOutputWithPoolingAndCrossAttentions
    with torch.no_grad(), masker.session((0.0, 0.5)) as session:
        expected = [log_probs(head, states, labels, output_type) for level in range(2) if session.set_level(level)]
    with torch.no_grad(), masker.side_by_side():
        found = log_probs(head, states.repeat(2, 1), labels.repeat(2), output_type, parts=2)
    torch.testing.assert_close(found, torch.cat(expected))
    assert not torch.allclose(*expected, atol=1e-3)
