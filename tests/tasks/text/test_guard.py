"""Models are measured before they score: which are refused, which score every row alone, and which need nothing."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.tasks.facts import facts_of
from hf_dlc.tasks.text.guard import made_up, special_tokens, turns_of
from tests.laws.matrix.families import CAUSAL, SIZES, build_causal, shrink
from tests.rows import ALPACA_ROWS
from tests.tasks.text.test_positions import own_losses, row


ROWS = [row(length) for length in (30, 7, 21, 48, 3, 16)]


@pytest.fixture
def scorer_of(tokenizer: PreTrainedTokenizerBase) -> Callable[..., DLCScorer]:
    def make(model: PreTrainedModel, **options: Any) -> DLCScorer:
        return DLCScorer(model, tokenizer, DLCConfig(schedule="0, 0.2", keep_levels=True, max_length=94, **options))

    return make


def level_losses(columns: Any) -> np.ndarray:
    return np.array([list(values) for values in columns["dlc_level_loss"]])


def changed_states(model: PreTrainedModel, change: Callable[[torch.Tensor], torch.Tensor]) -> PreTrainedModel:
    """The model, with `change` made of what its first layer puts out."""
    model.base_model.layers[0].register_forward_hook(lambda _module, _inputs, output: change(output))
    return model


def with_next(states: torch.Tensor) -> torch.Tensor:
    """Each state with a little of the one behind it."""
    return states + 0.01 * torch.cat([states[:, 1:], states[:, -1:]], dim=1)


class TestLookingAhead:
    @pytest.mark.parametrize("name", ["xlm", "cpmant"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_families(self, scorer_of: Callable, name: str, dtype: torch.dtype) -> None:
        scorer = scorer_of(build_causal(name).to(dtype))
        for way in (scorer.score, scorer.estimate, lambda rows: scorer(rows[:]), lambda rows: scorer(rows[0])):
            with pytest.raises(ValueError, match=r"looks ahead: earlier hidden states changed by 0\.\d+ "):
                way(Dataset.from_list(ROWS))

    def test_a_model_that_counts_padding(self, scorer_of: Callable) -> None:
        """XLM, made causal, hides as many last states as there are tokens of padding, wherever they stand."""
        with pytest.raises(ValueError, match="takes the token 2 for padding wherever it stands"):
            scorer_of(CAUSAL["xlm, causal"]()).score(Dataset.from_list(ROWS))

    def test_an_option_of_a_family(self, scorer_of: Callable) -> None:
        from transformers import Gemma3ForCausalLM, Gemma3TextConfig

        config = shrink(Gemma3TextConfig, SIZES, use_bidirectional_attention=True)
        with pytest.raises(ValueError, match="Gemma3ForCausalLM looks ahead"):
            scorer_of(Gemma3ForCausalLM(config).eval())(ROWS[0])

    @pytest.mark.parametrize(
        "change",
        [
            with_next,
            lambda states: states + 0.01 * states.mean(dim=1, keepdim=True),
            lambda states: states + 0.01 * states.unflatten(1, (-1, 1)).cumsum(dim=1).flip(1).flatten(1, 2),
        ],
        ids=["one token", "all tokens", "sums from behind"],
    )
    def test_a_little(self, make_model: Callable, scorer_of: Callable, change: Callable) -> None:
        with pytest.raises(ValueError, match="LlamaForCausalLM looks ahead"):
            scorer_of(changed_states(make_model("llama"), change))(ROWS[0])

    def test_beyond_a_length_only(self, scorer_of: Callable) -> None:
        """As by keys that are chosen among all of a row, where a later token may take the place of an earlier one."""
        model = build_causal("llama")
        model.config.keep_window_size = 40
        scorer = scorer_of(changed_states(model, lambda states: with_next(states) if states.shape[1] > 40 else states))
        rows = [row(length) for length in (40, 39, 7)]
        expected = own_losses(model, rows)
        np.testing.assert_allclose(level_losses(scorer.score(Dataset.from_list(rows)))[:, 0], expected, atol=1e-4)
        with pytest.raises(ValueError, match=r"looks ahead in rows of more than 40 tokens: .* Pass max_length=40\."):
            scorer(row(41))
        np.testing.assert_allclose(scorer(rows[0])["dlc_level_loss"][0], expected[0], atol=1e-4)

    def test_weights_that_are_exchanged(self, make_model: Callable, scorer_of: Callable) -> None:
        model = make_model("llama")
        scorer = scorer_of(model)
        scorer(ROWS[0])
        changed_states(model, with_next)
        with torch.no_grad():
            model.lm_head.weight.mul_(2)
        with pytest.raises(ValueError, match="looks ahead"):
            scorer(ROWS[0])


class TestOtherInABatch:
    @pytest.mark.parametrize(
        "change",
        [
            lambda states: states + states.roll(1, dims=0) if len(states) > 1 else states,
            lambda states: states * (1 + 0.001 * states.shape[1]),
        ],
        ids=["mixes rows", "sees the padding"],
    )
    def test_every_row_goes_alone(
        self, make_model: Callable, scorer_of: Callable, change: Callable, caplog: pytest.LogCaptureFixture
    ) -> None:
        model = changed_states(make_model("llama"), change)
        scorer = scorer_of(model)
        with caplog.at_level(logging.WARNING, "hf_dlc"):
            at_once = level_losses(scorer.score(Dataset.from_list(ROWS), num_threads=1))
            again = level_losses(scorer(ROWS))  # perhaps with more threads
        one_by_one = np.array([scorer(one)["dlc_level_loss"] for one in ROWS])
        np.testing.assert_allclose(at_once[:, 0], own_losses(model, ROWS), atol=1e-4)
        np.testing.assert_allclose(one_by_one, at_once, atol=1e-4)
        np.testing.assert_allclose(again, at_once, atol=1e-5)
        assert [record.getMessage() for record in caplog.records if "alone and without padding" in record.message] == [
            record.getMessage() for record in caplog.records[:1]
        ]

    @pytest.mark.parametrize("name", ["doge", "deepseek_v32"])
    def test_families(self, scorer_of: Callable, name: str) -> None:
        """They choose among the keys of all tokens."""
        model = build_causal(name)
        found = level_losses(scorer_of(model).score(Dataset.from_list(ROWS)))
        np.testing.assert_allclose(found[:, 0], own_losses(model, ROWS), atol=1e-4)

    def test_beyond_a_length_only(self, scorer_of: Callable) -> None:
        model = build_causal("deepseek_v4")
        rows = [row(length) for length in (90, 81, 60, 12)]
        scorer = scorer_of(model)
        found = level_losses(scorer.score(Dataset.from_list(rows)))
        np.testing.assert_allclose(found[:, 0], own_losses(model, rows), atol=1e-4)
        assert scorer.parts.task.rules.alone_beyond == 64


class TestWhatDoesNotRepeat:
    def test_a_family(self, scorer_of: Callable) -> None:
        with pytest.raises(ValueError, match="other hidden states when it reads the same tokens again"):
            scorer_of(build_causal("reformer"))(ROWS[0])

    def test_noise(self, make_model: Callable, scorer_of: Callable) -> None:
        model = changed_states(make_model("llama"), lambda states: states + 1e-3 * torch.randn_like(states))
        with pytest.raises(ValueError, match="other hidden states when it reads the same tokens again"):
            scorer_of(model)(ROWS[0])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("library", ["torch", "numpy"])
    def test_noise_of_a_generator_of_its_own(
        self, make_model: Callable, scorer_of: Callable, library: str, dtype: torch.dtype
    ) -> None:
        own, numpy = torch.Generator().manual_seed(0), np.random.default_rng(0)

        def noisy(states: torch.Tensor) -> torch.Tensor:
            noise = torch.randn(states.shape, generator=own)
            noise = noise if library == "torch" else torch.from_numpy(numpy.standard_normal(states.shape))
            return states * (1 + 1e-2 * noise.to(states.dtype))

        with pytest.raises(ValueError, match="other hidden states when it reads the same tokens again"):
            scorer_of(changed_states(make_model("llama").to(dtype), noisy))(ROWS[0])

    def test_random_numbers_that_change_nothing(self, make_model: Callable, scorer_of: Callable) -> None:
        model = changed_states(make_model("llama"), lambda states: states + 0 * torch.randn_like(states))
        assert scorer_of(model)(ROWS[0])["dlc_status"] == "ok"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "qwen3_moe", "gpt_oss"])
def test_models_that_need_nothing(
    make_model: Callable, scorer_of: Callable, name: str, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = scorer_of(make_model(name).to(dtype))
    with caplog.at_level(logging.WARNING, "hf_dlc"):
        scorer.score(Dataset.from_list(ROWS))
    assert scorer.parts.task.rules.plain_up_to == np.inf
    assert caplog.records == []


def test_logits_of_something_else(make_model: Callable, scorer_of: Callable) -> None:
    model = make_model("llama")
    forward = model.forward
    model.forward = lambda input_ids, **options: (
        result := forward(input_ids=input_ids, **options),
        setattr(result, "logits", result.logits + input_ids[..., None] % 7),
    )[0]
    with pytest.raises(ValueError, match="does not compute its logits from the last hidden states"):
        scorer_of(model)(ROWS[0])


def test_a_body_under_another_name(scorer_of: Callable) -> None:
    """The base of Llama 4 is what it has beside images."""
    model = build_causal("llama4_text")
    found = level_losses(scorer_of(model).score(Dataset.from_list(ROWS)))
    np.testing.assert_allclose(found[:, 0], own_losses(model, ROWS), atol=1e-4)


@pytest.mark.parametrize("forbidden", [-torch.inf, torch.finfo(torch.float32).min, -1e9])
@pytest.mark.parametrize("is_right", [True, False])
def test_logits_of_forbidden_words(
    make_model: Callable, scorer_of: Callable, forbidden: float, is_right: bool
) -> None:
    model = make_model("llama")
    forward = model.forward

    def forbidding(input_ids: torch.Tensor, **options: Any) -> Any:
        result = forward(input_ids=input_ids, **options)
        result.logits = result.logits + (0 if is_right else input_ids[..., None] % 7)
        result.logits[..., -1] = forbidden
        return result

    model.forward = forbidding
    if is_right:
        assert scorer_of(model)(ROWS[0])["dlc_status"] == "ok"
    else:
        with pytest.raises(ValueError, match="does not compute its logits from the last hidden states"):
            scorer_of(model)(ROWS[0])


def limited(model: PreTrainedModel, allows: Callable[[torch.Tensor], bool], error: Exception) -> PreTrainedModel:
    """The model, which raises `error` for a batch of tokens that it does not allow."""

    def check(_module: Any, _inputs: Any, options: dict[str, Any]) -> None:
        if not allows(options["input_ids"]):
            raise error

    model.base_model.register_forward_pre_hook(check, with_kwargs=True)
    return model


class TestLimitsThatNothingTells:
    @pytest.mark.parametrize("limit", [5, 30, 46, 62])
    def test_the_longest_row(self, make_model: Callable, scorer_of: Callable, limit: int) -> None:
        model = limited(make_model("llama"), lambda ids: ids.shape[1] <= limit, IndexError("no such position"))
        scorer = scorer_of(model)
        with pytest.raises(ValueError, match=rf"longer than the {limit} positions .* Pass max_length={limit}\."):
            scorer(row(70))
        if limit > 7:
            rows = [row(limit), row(limit - 1), row(7)]
            found = level_losses(scorer.score(Dataset.from_list(rows)))
            np.testing.assert_allclose(found[:, 0], own_losses(model, rows), atol=1e-4)

    def test_a_run_that_goes_on(self, make_model: Callable, scorer_of: Callable, tmp_path: Path) -> None:
        """The process that goes on does not measure the model, and yet it pads no row across the limit."""
        error = IndexError("no such position")
        scorer = scorer_of(limited(make_model("llama"), lambda ids: ids.shape[1] <= 62, error), tokens_per_batch=64)
        rows = Dataset.from_list([row(length) for length in (61, 60, 40, 20)])
        expected = scorer.score(rows, run_dir=tmp_path, num_threads=1)["dlc_loss"][:]
        shutil.rmtree(tmp_path / "chunks", ignore_errors=True)
        for path in tmp_path.rglob("*.safetensors"):
            path.unlink()
        again = scorer_of(scorer.model, tokens_per_batch=64)
        assert again.score(rows, run_dir=tmp_path, num_threads=1)["dlc_loss"][:] == expected
        assert again.parts.task.rules.positions == 62

    def test_an_error_of_another_kind_is_seen(self, make_model: Callable, scorer_of: Callable) -> None:
        model = limited(make_model("llama"), lambda _: False, RuntimeError("not about length"))
        with pytest.raises(RuntimeError, match="not about length"):
            scorer_of(model)(ROWS[0])

    def test_one_error_is_no_limit(self, make_model: Callable, scorer_of: Callable) -> None:
        """As of a device that was busy once."""
        errors = [False]
        model = limited(make_model("llama"), lambda _: errors.pop() if errors else True, RuntimeError("busy"))
        scorer = scorer_of(model)
        assert scorer(ROWS[0])["dlc_status"] == "ok"
        assert scorer.parts.task.rules.positions is None


@pytest.mark.parametrize(("tokens", "alone_beyond"), [(200, None), (115, None), (75, 60)])
def test_what_does_not_fit_into_memory(
    make_model: Callable, scorer_of: Callable, tokens: int, alone_beyond: int | None
) -> None:
    """A batch is measured of fewer rows, or not at all, if there is no room for more."""
    error = torch.OutOfMemoryError("CUDA out of memory.")
    model = limited(make_model("llama"), lambda ids: ids.numel() <= tokens, error)
    model.config.sliding_window = 60
    rows = [row(length) for length in (72, 61, 60, 7)]
    scorer = scorer_of(model)
    found = level_losses(scorer.score(Dataset.from_list(rows)))
    np.testing.assert_allclose(found[:, 0], own_losses(model, rows), atol=1e-4)
    assert scorer.parts.task.rules.alone_beyond == alone_beyond


@pytest.mark.parametrize("capacity", [300, 100])
def test_a_capacity_of_many_rows(make_model: Callable, scorer_of: Callable, capacity: int) -> None:
    """Nor may the levels of one row stand side by side, which would be too many tokens as well."""

    def drop(states: torch.Tensor) -> torch.Tensor:
        states = states.clone()
        states.flatten(0, 1)[capacity:] *= 1.3
        return states

    model = changed_states(make_model("llama"), drop)
    rows = [row(60, seed) for seed in range(16)]
    scorer = scorer_of(model)
    found = level_losses(scorer.score(Dataset.from_list(rows)))
    np.testing.assert_allclose(found[:, 0], own_losses(model, rows), atol=1e-4)
    np.testing.assert_allclose(scorer(rows[0])["dlc_level_loss"], found[0], atol=1e-4)


def test_embeddings_that_no_hook_sees(make_model: Callable, scorer_of: Callable) -> None:
    """The rounding of a batch is told apart from another computation all the same."""
    model = make_model("llama")
    embeddings = model.get_input_embeddings()
    forward = model.model.forward

    def by_the_weight(input_ids: torch.Tensor, **options: Any) -> Any:
        inputs = torch.nn.functional.embedding(input_ids, embeddings.weight)
        return forward(**{**options, "inputs_embeds": inputs * (1 + 1e-6 * (len(inputs) > 1))})

    model.model.forward = by_the_weight
    scorer = scorer_of(model)
    assert scorer(ROWS[0])["dlc_status"] == "ok"
    assert scorer.parts.task.rules.alone_beyond is None


def test_numbers_that_are_none_of_tokens() -> None:
    assert turns_of({"topk_group": 40, "moe_topk": 50, "num_experts_topk": 60, "hidden_size": 64}) == []
    assert turns_of({"sliding_window": 40, "text_config": {"index_topk": 100}})[:3] == [40, 100, 200]


@pytest.mark.parametrize("name", ["codegen", "rwkv"])
def test_configs_without_a_token_of_padding(scorer_of: Callable, name: str) -> None:
    model = CAUSAL[name]()
    vars(model.config).pop("pad_token_id", None)
    found = level_losses(scorer_of(model).score(Dataset.from_list(ROWS)))
    np.testing.assert_allclose(found[:, 0], own_losses(model, ROWS), atol=1e-4)


def test_the_model_is_measured_once(make_scorer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, sizes = make_scorer(), []
    scorer.model.base_model.register_forward_pre_hook(
        lambda _module, _inputs, options: sizes.append(tuple(options["input_ids"].shape)), with_kwargs=True
    )
    scorer.parts.engine.check(facts_of(scorer.parts.task.encode(ALPACA_ROWS)).longest)
    assert sum(rows * tokens for rows, tokens in sizes) < 1900
    assert {(1, 23), (16, 40)} <= set(sizes)
    sizes.clear()
    scorer(ALPACA_ROWS)
    scorer.score(Dataset.from_list(ALPACA_ROWS))
    assert {(1, 23), (16, 40)}.isdisjoint(sizes)


def test_made_up_tokens() -> None:
    ids = made_up(50, 20, frozenset({0, 3, 4, 19}))
    assert set(ids.tolist()) <= set(range(20)) - {0, 3, 4, 19}
    assert len(set(ids.tolist())) > 8
    assert not np.array_equal(ids, made_up(50, 20, frozenset({0, 3, 4, 19}), seed=5))
    assert special_tokens({"eos_token_id": [1, 2], "pad_token_id": None, "text_config": {"bos_token_id": 5}}) == {
        1,
        2,
        5,
    }
