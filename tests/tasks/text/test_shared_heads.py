"""The constant head of a template is computed once a level, and no score can tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.execution.loop import LevelLoop
from hf_dlc.tasks.base import LENGTH_STEP
from hf_dlc.tasks.facts import facts_of
from hf_dlc.tasks.text.encoding import Encoding, RowEncoder
from hf_dlc.tasks.text.task import CausalLMTask
from tests.conftest import CHATML, VOCAB_SIZE
from tests.laws.matrix.families import build_causal
from tests.rows import many_rows
from tests.ways import WAYS


SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
WITH_SYSTEM = f"{{% if messages[0]['role'] != 'system' %}}{{{{ '{SYSTEM}' }}}}{{% endif %}}{CHATML}".replace(
    "\n", "\\n"
)
REFUSING = "{% if messages | length < 4 %}{{ raise_exception('too short') }}{% endif %}" + CHATML
ALPACA_HEAD = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n"
)
ALPACA_HEAD_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n### Instruction:\n"
)

MODELS = ["llama", "llama_tied", "gpt2", "mixtral", "qwen3_moe"]
_SMALL = {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_WIDE = {"initializer_range": 0.2}
OTHERS = {
    "opt": transformers.OPTConfig(**_SMALL, ffn_dim=64, word_embed_proj_dim=32, init_std=0.2),
    "bloom": transformers.BloomConfig(vocab_size=VOCAB_SIZE, hidden_size=32, n_layer=2, n_head=4, **_WIDE),
    "falcon": transformers.FalconConfig(**_SMALL, **_WIDE, alibi=True, new_decoder_architecture=False),
    "mpt": transformers.MptConfig(vocab_size=VOCAB_SIZE, d_model=32, n_layers=2, n_heads=4, max_seq_len=512),
    "gpt_neox": transformers.GPTNeoXConfig(**_SMALL, **_WIDE, intermediate_size=64),
    "gemma2": transformers.Gemma2Config(
        **_SMALL, **_WIDE, intermediate_size=64, num_key_value_heads=2, head_dim=8, sliding_window=16
    ),
    "mamba": transformers.MambaConfig(vocab_size=VOCAB_SIZE, hidden_size=32, num_hidden_layers=2, state_size=4),
}
ROWS = many_rows(10)


@pytest.fixture
def with_system(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    tokenizer.chat_template = WITH_SYSTEM
    return tokenizer


@pytest.fixture
def scorer_of(make_model: Callable, with_system: PreTrainedTokenizerBase) -> Callable[..., DLCScorer]:
    """`scorer_of("gpt2")`: a scorer whose template has a default system prompt."""

    def make(model: str | PreTrainedModel = "llama", **options: Any) -> DLCScorer:
        model = make_model(model) if isinstance(model, str) else model
        return DLCScorer(model, with_system, DLCConfig(**{"schedule": "0, 0.1, 0.3", "keep_levels": True, **options}))

    return make


def heads(tokenizer: PreTrainedTokenizerBase, **options: Any) -> list[str]:
    return [tokenizer.decode(shared_head) for shared_head in RowEncoder(tokenizer, **options).shared_heads]


class TestOfATemplate:
    def test_a_default_system_prompt(self, with_system: PreTrainedTokenizerBase) -> None:
        assert heads(with_system) == ["", f"{SYSTEM}<|im_start|>user\n"]

    def test_a_head_that_is_too_short(self, tokenizer: PreTrainedTokenizerBase) -> None:
        assert heads(tokenizer) == [""]

    @pytest.mark.parametrize("options", [{}, {"template": "alpaca"}])
    def test_the_alpaca_prompt_with_and_without_input(
        self, tokenizer: PreTrainedTokenizerBase, options: dict[str, Any]
    ) -> None:
        if not options:
            tokenizer.chat_template = None
        assert heads(tokenizer, **options) == ["", ALPACA_HEAD_WITH_INPUT, ALPACA_HEAD]

    def test_no_eos(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tokenizer.chat_template = tokenizer.eos_token = None
        encoder = RowEncoder(tokenizer)
        assert heads(tokenizer) == [""]
        [row] = encoder.encode([{"input_ids": [3, 4, 5], "labels": [-100, 4, 5]}])
        assert (row.status, row.shared_head, row.shared_head_length) == ("ok", 0, 0)

    def test_a_template_that_refuses_the_samples(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tokenizer.chat_template = REFUSING
        assert heads(tokenizer) == [""]

    def test_rows_do_not_change_it(self, with_system: PreTrainedTokenizerBase) -> None:
        encoder = RowEncoder(with_system)
        rows = [{"instruction": "The same words in all rows.", "output": "The same."}] * 20
        assert {row.shared_head_length for row in encoder.encode(rows)} == {len(encoder.shared_heads[1])}
        assert heads(with_system) == [with_system.decode(shared_head) for shared_head in encoder.shared_heads]


def is_sound(encoder: RowEncoder, row: Encoding) -> bool:
    """Whether a row begins with its shared head, and the model computes what predicts its first target."""
    shared_head = encoder.shared_heads[row.shared_head]
    return (
        row.shared_head_length == len(shared_head)
        and np.array_equal(row.input_ids[: len(shared_head)], shared_head)
        and (row.shared_head == 0 or int(row.targets.argmax()) > len(shared_head))
    )


def conversation(text: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": text}],
        "completion": [{"role": "assistant", "content": "Yes."}],
    }


class TestOfARow:
    @pytest.mark.parametrize("text", ["", " ", "\n", "\n\n\n", "x", " x", "you", "ε", "🙏", "<|im_start|>", "###"])
    @pytest.mark.parametrize("template", ["chat", "alpaca"])
    @pytest.mark.parametrize("more", [{}, {"input": "\n\n"}, {"input": "with it"}])
    def test_any_instruction(
        self, with_system: PreTrainedTokenizerBase, text: str, template: str, more: dict[str, str]
    ) -> None:
        encoder = RowEncoder(with_system, template=template)
        [row] = encoder.encode([{"instruction": text, "output": "Yes.", **more}])
        assert is_sound(encoder, row)

    def test_an_empty_instruction_has_it_too(self, with_system: PreTrainedTokenizerBase) -> None:
        encoder = RowEncoder(with_system)
        [row] = encoder.encode([{"instruction": "", "output": "Yes."}])
        assert row.shared_head == 1

    def test_a_user_that_merges_with_the_head(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Where the template ends within what becomes one token with the user's text, the head is not the row's."""
        tokenizer.chat_template = (
            "{{ 'Below is an instruction. ' * 4 }}{% for m in messages %}{{ m.content + ' | ' }}{% endfor %}"
        )
        encoder = RowEncoder(tokenizer)
        whole = tokenizer("Below is an instruction. " * 4, add_special_tokens=False)["input_ids"]
        texts = ["Name", "quick", "the quick", "7", " a", "\n"]
        ids = [
            tokenizer("Below is an instruction. " * 4 + text, add_special_tokens=False)["input_ids"] for text in texts
        ]
        assert any(row[: len(whole)] != whole for row in ids)  # some do merge
        rows = [conversation(text) for text in texts]
        encoded = encoder.encode(rows)
        assert all(is_sound(encoder, row) for row in encoded)
        assert {row.shared_head for row in encoded} >= {1}

    def test_another_system_prompt_has_none(self, with_system: PreTrainedTokenizerBase) -> None:
        encoder = RowEncoder(with_system)
        [row] = encoder.encode([{"system": "You are rude.", "instruction": "Say it.", "output": "No."}])
        assert row.shared_head == 0
        assert is_sound(encoder, row)

    @pytest.mark.parametrize("left", [-2, -1, 0, 1, 2, 30])
    def test_truncated_rows(self, with_system: PreTrainedTokenizerBase, left: int) -> None:
        size = len(RowEncoder(with_system).shared_heads[1])
        encoder = RowEncoder(with_system, max_length=size + left)
        rows = encoder.encode(
            [{"instruction": "", "output": "Yes, " * 40}, {"instruction": "So " * 90, "output": "x"}]
        )
        assert all(is_sound(encoder, row) for row in rows)
        assert [row.shared_head for row in rows if row.status == "truncated"] == [1] * (left == 30)
        assert len(encoder.shared_heads[1]) == size  # of the template, whatever rows are cut to

    def test_targets_within_the_head(self, with_system: PreTrainedTokenizerBase) -> None:
        """Rows of token ids may begin like the template and learn from any of it."""
        encoder = RowEncoder(with_system)
        head = encoder.shared_heads[1].tolist()
        ids = [*head, 5, 6, 7]
        first_targets = [1, len(head) - 1, len(head), len(head) + 1, len(head) + 2]
        rows = [{"input_ids": ids, "labels": [-100] * first + ids[first:]} for first in first_targets]
        encoded = encoder.encode(rows)
        assert [row.shared_head for row in encoded] == [0, 0, 0, 1, 1]
        assert all(is_sound(encoder, row) for row in encoded)
        [other] = encoder.encode([{"input_ids": [9, *ids], "labels": [-100] * 40 + ids[39:]}])
        assert other.shared_head == 0

    def test_text_learns_from_its_first_token_on(self, with_system: PreTrainedTokenizerBase) -> None:
        [row] = RowEncoder(with_system).encode([{"text": f"{SYSTEM}<|im_start|>user\nHello there."}])
        assert row.shared_head == 0

    def test_skipped_rows(self, with_system: PreTrainedTokenizerBase) -> None:
        [row] = RowEncoder(with_system).encode([{"instruction": "x", "output": ""}])
        assert (row.length, row.shared_head, row.shared_head_length) == (0, 0, 0)


@contextmanager
def unshared() -> Iterator[None]:
    """Every row with all of its tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CausalLMTask, "shares", lambda self, shared_head: False)
        yield


@contextmanager
def body_calls(scorer: DLCScorer) -> Iterator[list[tuple[int, int]]]:
    """Shapes of the token ids that go through the model's layers."""
    calls: list[tuple[int, int]] = []
    run_body = CausalLMTask._run_body

    def counting(self: CausalLMTask, input_ids: torch.Tensor, **options: Any) -> Any:
        if self is scorer.parts.task:
            calls.append(tuple(input_ids.shape))
        return run_body(self, input_ids, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CausalLMTask, "_run_body", counting)
        yield calls


def found(scored: Dataset, name: str) -> np.ndarray:
    return np.array(scored.with_format(None)[f"dlc_{name}"][:], dtype=np.float64)


def assert_same(scored: Dataset, expected: Dataset) -> None:
    for name, most in [("confidence", 1e-5), ("loss", 1e-4)]:
        for part in (name, f"level_{name}"):
            np.testing.assert_allclose(found(scored, part), found(expected, part), atol=most, rtol=0)


class TestScores:
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("model", MODELS)
    def test_are_those_without(self, scorer_of: Callable, model: str, way: str) -> None:
        scorer, dataset = scorer_of(model, tokens_per_batch=150), Dataset.from_list(ROWS)
        with body_calls(scorer) as calls:
            scored = WAYS[way](scorer, dataset)
        if way != "map row by row":
            assert (1, 35) in calls
        elif scorer.parts.masker.fits_side_by_side:  # else a row has each level to itself, and nobody to share with
            assert (3, 35) in calls
        with unshared():
            expected = WAYS[way](scorer_of(model, tokens_per_batch=150), dataset)
        assert_same(scored, expected)
        assert np.ptp(found(scored, "loss")) > 0.1  # rows that are all alike would prove little
        levels = found(scored, "level_loss")
        assert np.abs(levels[:, 0] - levels[:, 2]).min() > 1e-3  # as would levels

    @pytest.mark.parametrize("implementation", ["sdpa", "eager"])
    @pytest.mark.parametrize("model", ["llama", "gpt2"])
    def test_with_either_attention(
        self, make_model: Callable, scorer_of: Callable, model: str, implementation: str
    ) -> None:
        network = make_model(model)
        network.set_attn_implementation(implementation)
        scorer, dataset = scorer_of(network), Dataset.from_list(ROWS)
        with body_calls(scorer) as calls:
            scored = scorer.score(dataset)
        assert (1, 35) in calls
        with unshared():
            assert_same(scored, scorer_of(model).score(dataset))

    @pytest.mark.parametrize("model", ["llama", "mixtral"])
    def test_in_any_order_and_company(self, scorer_of: Callable, model: str) -> None:
        order = np.random.default_rng(0).permutation(len(ROWS))
        mixed = [*ROWS, {"instruction": "", "output": "Yes."}, {"instruction": "No", "output": ""}]
        scorer = scorer_of(model)
        expected = scorer.score(Dataset.from_list(ROWS))
        shuffled = scorer.score(Dataset.from_list(ROWS).select(order))
        assert_same(shuffled.select(np.argsort(order)), expected)
        assert_same(scorer.score(Dataset.from_list(mixed)).select(range(len(ROWS))), expected)
        few = scorer.score(Dataset.from_list(ROWS[:3]))  # too few to share
        assert_same(few, expected.select(range(3)))

    def test_two_shared_heads_and_none(self, make_model: Callable, tokenizer: PreTrainedTokenizerBase) -> None:
        tokenizer.chat_template = None
        rows = [{**row, "input": "with it" if i % 2 else ""} for i, row in enumerate([*ROWS, *ROWS])]

        def make() -> DLCScorer:
            return DLCScorer(make_model("llama"), tokenizer, DLCConfig(schedule="0, 0.1, 0.3", keep_levels=True))

        scorer = make()
        with body_calls(scorer) as calls:
            scored = scorer.score(Dataset.from_list(rows))
        assert {(1, 39), (1, 76)} <= set(calls)
        with unshared():
            assert_same(scored, make().score(Dataset.from_list(rows)))

    def test_truncated_and_tokenised_rows(self, scorer_of: Callable) -> None:
        head = scorer_of().parts.task.encoder.shared_heads[1].tolist()
        rows = [
            {"input_ids": [*head, *range(5, 9 + i)], "labels": [-100] * 37 + list(range(7, 9 + i))} for i in range(9)
        ]
        rows.append({"input_ids": [*head, 5, 6], "labels": [*head, 5, 6]})
        with body_calls(scorer := scorer_of(max_length=44)) as calls:
            scored = scorer.score(Dataset.from_list(rows))
        assert (1, 35) in calls
        with unshared():
            assert_same(scored, scorer_of(max_length=44).score(Dataset.from_list(rows)))


class TestWhatIsComputed:
    @pytest.mark.parametrize("way", ["map batched", "score"])
    def test_once_a_level(self, scorer_of: Callable, way: str) -> None:
        scorer, dataset = scorer_of(tokens_per_batch=60), Dataset.from_list(ROWS)
        encoded = scorer.parts.task.encode(ROWS)
        scorer.parts.engine.check(facts_of(encoded).longest)  # asked now, as both compute samples
        assert scorer.parts.task.shares(1)
        with body_calls(scorer) as calls:
            WAYS[way](scorer, dataset)
        assert calls.count((1, 35)) == 3
        behind = [rows * tokens for rows, tokens in calls if (rows, tokens) != (1, 35)]
        own = sum(row.length - 35 for row in encoded)
        assert len(behind) > 3 * 3
        assert 3 * own <= sum(behind) <= 3 * 1.5 * own

    def test_once_for_all_rows_and_levels_row_by_row(self, scorer_of: Callable) -> None:
        scorer = scorer_of()
        scorer.parts.engine.check(facts_of(scorer.parts.task.encode(ROWS)).longest)
        scorer(ROWS[0])  # finds out whether levels can stand side by side
        with body_calls(scorer) as calls:
            for row in ROWS[1:]:
                scorer(row)
        assert [shape for shape in calls if shape[1] == 35] == []
        assert [rows for rows, _ in calls] == [3] * (len(ROWS) - 1)
        own = [row.length - 35 for row in scorer.parts.task.encode(ROWS[1:])]
        assert [tokens for _, tokens in calls] == [-(-tokens // LENGTH_STEP) * LENGTH_STEP for tokens in own]

    def test_not_for_few_rows_nor_for_long_ones(self, scorer_of: Callable) -> None:
        scorer = scorer_of()
        short, long = (
            scorer.parts.task.encode(ROWS),
            scorer.parts.task.encode([{**ROWS[0], "output": "And " * 300}] * 10),
        )
        assert scorer.parts.engine.shared_heads(facts_of(short[:8])) == [1]
        assert scorer.parts.engine.shared_heads(facts_of(short[:7])) == []
        assert scorer.parts.engine.shared_heads(facts_of(long)) == []
        assert scorer.parts.engine.shared_heads(facts_of([])) == []

    def test_keys_of_one_level_are_not_used_at_another(
        self, scorer_of: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The test of scores sees it: with those of level 0 throughout, the other levels are wrong."""
        dataset = Dataset.from_list(ROWS)
        expected = scorer_of().score(dataset)

        def set_level(self: LevelLoop, level: int) -> None:
            self._level, self._masked = level, self.session.set_level(level).masked

        monkeypatch.setattr(LevelLoop, "_set_level", set_level)
        stale = scorer_of().score(dataset)
        assert np.array_equal(found(stale, "level_loss")[:, 0], found(expected, "level_loss")[:, 0])
        with pytest.raises(AssertionError):
            assert_same(stale, expected)

    @pytest.mark.parametrize("change", ["training step", "embeddings only"])
    def test_changed_weights_make_new_keys_row_by_row(self, scorer_of: Callable, change: str) -> None:
        scorer = scorer_of()
        before = [scorer(row) for row in ROWS]
        with torch.no_grad():
            for name, parameter in scorer.model.named_parameters():
                if change == "training step" or "embed" in name:
                    parameter += 0.01 * torch.ones_like(parameter)
        after = [scorer(row) for row in ROWS]
        with unshared():
            expected = [scorer_of(scorer.model)(row) for row in ROWS]
        assert_same(Dataset.from_list(after), Dataset.from_list(expected))
        with pytest.raises(AssertionError):
            assert_same(Dataset.from_list(before), Dataset.from_list(expected))

    def test_changed_weights_make_new_keys_in_batches(self, scorer_of: Callable) -> None:
        scorer, dataset = scorer_of(), Dataset.from_list(ROWS)
        scorer.score(dataset)
        with torch.no_grad():
            scorer.model.get_input_embeddings().weight.mul_(1.1)
        with unshared():
            expected = scorer_of(scorer.model).score(dataset)
        assert_same(scorer.score(dataset), expected)


class TestModelsThatCannot:
    @pytest.mark.parametrize("way", WAYS)
    def test_a_sliding_window(self, scorer_of: Callable, way: str) -> None:
        scorer, dataset = scorer_of("gpt_oss"), Dataset.from_list(ROWS)
        assert not scorer.parts.task.shares(1)
        with unshared():
            expected = scorer_of("gpt_oss").score(dataset)
        assert_same(WAYS[way](scorer, dataset), expected)

    @pytest.mark.parametrize("name", OTHERS)
    def test_one_that_finds_positions_in_its_mask_or_keeps_other_states(self, scorer_of: Callable, name: str) -> None:
        """Whether or not it can: it is scored, and as without a shared head."""
        config = OTHERS[name]
        model_class = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = model_class(config).eval()
        dataset = Dataset.from_list(ROWS)
        with unshared():
            expected = scorer_of(model).score(dataset)
        assert_same(scorer_of(model).score(dataset), expected)

    @pytest.mark.parametrize("name", ["xglm", "openai-gpt", "biogpt", "bloom", "roberta", "whisper"])
    def test_one_that_makes_its_own_masks_or_positions(self, with_system: PreTrainedTokenizerBase, name: str) -> None:
        rows = [{"instruction": f"Say {i}", "output": "yes " * (i % 3 + 1)} for i in range(8)]
        scorer = DLCScorer(build_causal(name), with_system, DLCConfig(schedule="0, 0.3", max_length=94))
        expected = [scorer([row])["dlc_loss"][0] for row in rows]
        np.testing.assert_allclose(scorer.score(Dataset.from_list(rows))["dlc_loss"][:], expected, atol=1e-4)
        np.testing.assert_allclose([scorer(row)["dlc_loss"] for row in rows], expected, atol=1e-4)

    def test_positions_that_depend_on_the_length_of_the_row(self, scorer_of: Callable) -> None:
        rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**_SMALL, rope_parameters=rope)).eval()
        assert not scorer_of(model).parts.task.shares(1)

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("fault", ["ignores the cache", "ignores the mask", "counts positions from 0"])
    def test_a_body_that_goes_wrong_with_a_cache(
        self, make_model: Callable, scorer_of: Callable, fault: str, way: str
    ) -> None:
        def break_arguments(_: Any, arguments: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            if options.get("past_key_values") is not None:
                if fault == "ignores the cache":
                    options = {**options, "past_key_values": None, "attention_mask": None}
                elif fault == "ignores the mask":
                    options = {**options, "attention_mask": torch.zeros_like(options["attention_mask"])}
                else:
                    size = options["input_ids"].shape[1]
                    options = {**options, "position_ids": torch.arange(size)[None]}
            return arguments, options

        model = make_model("llama")
        model.base_model.register_forward_pre_hook(break_arguments, with_kwargs=True)
        scorer, dataset = scorer_of(model), Dataset.from_list(ROWS)
        assert not scorer.parts.task.shares(1)
        with unshared():
            expected = scorer_of("llama").score(dataset)
        assert_same(WAYS[way](scorer, dataset), expected)

    def test_no_shared_head_is_no_question(self, scorer_of: Callable) -> None:
        scorer = scorer_of()
        with body_calls(scorer) as calls:
            assert not scorer.parts.task.shares(0)
        assert calls == []

    def test_it_is_asked_once(self, scorer_of: Callable) -> None:
        scorer = scorer_of()
        scorer.parts.task.shares(1)
        with body_calls(scorer) as calls:
            assert scorer.parts.task.shares(1)
        assert calls == []
