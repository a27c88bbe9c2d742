from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import transformers
from tokenizers import normalizers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_dlc.tasks.facts import rows_digest
from hf_dlc.tasks.text.encoding import RowEncoder
from hf_dlc.utils.digests import json_digest, model_digest, tokenizer_digest
from tests.conftest import build_model, build_tokenizer


def test_json_digest() -> None:
    assert json_digest({"a": 1, "b": [2]}) == json_digest({"b": [2], "a": 1})
    assert json_digest({"a": 1}) != json_digest({"a": "1"})
    assert len(json_digest(None)) == 32


class TestModel:
    def test_equal_models(self) -> None:
        assert model_digest(build_model("llama")) == model_digest(build_model("llama"))

    @pytest.mark.parametrize("name", ["llama", "llama_tied", "gpt2", "mixtral"])
    def test_one_bit(self, make_model: Callable[[str], PreTrainedModel], name: str) -> None:
        model = make_model(name)
        before = model_digest(model)
        for parameter in model.parameters():
            with torch.no_grad():
                bits = parameter.view(torch.int32).view(-1)
                bits[-1] ^= 1
                assert model_digest(model) != before
                bits[-1] ^= 1
        assert model_digest(model) == before

    def test_the_sign_of_zero(self, llama: PreTrainedModel) -> None:
        digests = set()
        for zero in (0.0, -0.0):
            llama.lm_head.weight.data[0, 0] = zero
            digests.add(model_digest(llama))
        assert len(digests) == 2

    def test_buffers_that_are_not_saved(self, llama: PreTrainedModel) -> None:
        before = model_digest(llama)
        llama.model.rotary_emb.inv_freq[-1] *= 2
        assert model_digest(llama) != before

    def test_dtype(self, llama: PreTrainedModel) -> None:
        zeros = copy.deepcopy(llama)
        for parameter in zeros.parameters():
            parameter.data.zero_()
        assert model_digest(zeros) != model_digest(copy.deepcopy(zeros).bfloat16())

    def test_swapped_weights(self, llama: PreTrainedModel) -> None:
        before = model_digest(llama)
        attention = llama.model.layers[0].self_attn
        attention.k_proj.weight.data, attention.v_proj.weight.data = (
            attention.v_proj.weight.data,
            attention.k_proj.weight.data,
        )
        assert model_digest(llama) != before

    def test_options_that_change_the_arithmetic(self, llama: PreTrainedModel) -> None:
        before = model_digest(llama)
        llama.config.rms_norm_eps = 0.1
        changed = model_digest(llama)
        llama.set_attn_implementation("eager")
        assert len({before, changed, model_digest(llama)}) == 3

    def test_where_it_came_from_does_not_count(self, llama: PreTrainedModel) -> None:
        before = model_digest(llama)
        llama.config._name_or_path = "somewhere/else"
        llama.config.transformers_version = "1.0.0"
        assert model_digest(llama) == before

    def test_what_does_not_change_a_score(self, llama: PreTrainedModel) -> None:
        before = model_digest(llama)
        llama.train()
        llama.requires_grad_(False)
        llama(input_ids=torch.tensor([[1, 2, 3]]))
        assert model_digest(llama) == before

    def test_weights_that_are_not_contiguous(self, llama: PreTrainedModel) -> None:
        before = model_digest(llama)
        weight = llama.model.layers[0].mlp.up_proj.weight
        weight.data = weight.data.t().contiguous().t()
        assert not weight.is_contiguous()
        assert model_digest(llama) == before


class TestTokenizer:
    def test_equal_tokenizers(self, tokenizer: PreTrainedTokenizerBase) -> None:
        assert tokenizer_digest(tokenizer) == tokenizer_digest(build_tokenizer())

    def test_use_does_not_change_it(self, tokenizer: PreTrainedTokenizerBase) -> None:
        before = tokenizer_digest(tokenizer)
        tokenizer(["a", "b c d"], padding=True, truncation=True, max_length=2)
        tokenizer.name_or_path = "somewhere/else"
        assert tokenizer_digest(tokenizer) == before

    @pytest.mark.parametrize(
        "change",
        [
            lambda tokenizer: tokenizer.add_tokens(["primary"]),
            lambda tokenizer: setattr(tokenizer, "chat_template", "{{ messages }}"),
            lambda tokenizer: setattr(tokenizer, "eos_token", "<|im_start|>"),
            lambda tokenizer: setattr(tokenizer.backend_tokenizer, "normalizer", normalizers.Lowercase()),
        ],
        ids=["token", "template", "eos", "normalizer"],
    )
    def test_changes(self, tokenizer: PreTrainedTokenizerBase, change: Callable) -> None:
        before = tokenizer_digest(tokenizer)
        change(tokenizer)
        assert tokenizer_digest(tokenizer) != before

    def test_slow_tokenizer(self) -> None:
        slow = [transformers.ByT5Tokenizer(extra_ids=extra) for extra in (0, 0, 5)]
        digests = [tokenizer_digest(tokenizer) for tokenizer in slow]
        assert not slow[0].is_fast
        assert digests[0] == digests[1] != digests[2]


def test_rows(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = RowEncoder(tokenizer)
    first, second = {"text": "The fox."}, {"text": "The dog."}
    digests = [rows_digest(encoder.encode(rows)) for rows in ([first, second], [second, first], [first], [second])]
    assert len(set(digests)) == 4
    assert rows_digest(encoder.encode([first, second])) == digests[0]
    [row] = encoder.encode([first])
    assert rows_digest([row]) != rows_digest([row._replace(targets=~row.targets)])
