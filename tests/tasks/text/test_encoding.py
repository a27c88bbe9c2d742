from __future__ import annotations

import gzip
import json
import logging
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hf_dlc.scores.columns import EMPTY_RESPONSE, INVALID_ROW, NO_TARGET, OK, TRUNCATED, TRUNCATED_AWAY
from hf_dlc.tasks.text.chat import warn_once
from hf_dlc.tasks.text.encoding import Encoding, RowEncoder
from hf_dlc.tasks.text.rows import Instruction
from hf_dlc.tasks.text.training_templates import FAMILIES, TEMPLATES_FOLDER
from tests.conftest import SHARED


TEXT_SETS = SHARED / "data" / "text"

ASK = {"role": "user", "content": "What is it?"}
SAY = {"role": "assistant", "content": "The fox."}
SYSTEM = {"role": "system", "content": "Be brief."}
MULTI = [ASK, SAY, ASK, {"role": "assistant", "content": "The dog."}]
CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "f", "arguments": {"a": 1}}}
RESULT = {"role": "tool", "content": "2", "tool_call_id": "abcdefghi"}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]

# Rewrites every earlier answer, as templates of reasoning models do, and has no markers.
REWRITING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{{ m.content if loop.last else m.content.split('</think>')[-1] }}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Without markers and like none of ours: each turn is found by rendering up to it.
PLAIN = (
    "{% for m in messages %}{{ '[' + m.role + ']\n' + m.content + ' [end]\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]\n' }}{% endif %}"
)


@pytest.fixture(autouse=True)
def _warnings_are_new() -> None:
    warn_once.cache_clear()


def text_of(tokenizer: PreTrainedTokenizerBase, row: Encoding) -> str:
    return tokenizer.decode(row.input_ids)


def learned(tokenizer: PreTrainedTokenizerBase, row: Encoding) -> list[str]:
    """The texts of the runs of target tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.targets.astype(int), [0]])))
    return [tokenizer.decode(row.input_ids[start:end]) for start, end in edges.reshape(-1, 2)]


def encode(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], **settings: Any) -> Encoding:
    [encoding] = RowEncoder(tokenizer, **settings).encode([row])
    return encoding


class TestLayouts:
    @pytest.mark.parametrize(
        ("row", "text", "targets"),
        [
            ({"prompt": "The quick", "completion": " fox"}, "The quick fox<|im_end|>", [" fox<|im_end|>"]),
            ({"prompt": "A ", "completion": "B<|im_end|>"}, "A B<|im_end|>", ["B<|im_end|>"]),
            ({"text": "The fox"}, "The fox<|im_end|>", [" fox<|im_end|>"]),
            (
                {"messages": [ASK, SAY]},
                "<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\nThe fox.<|im_end|>\n",
                ["The fox.<|im_end|>\n"],
            ),
            (
                {"question": "What is it?", "answer": "The fox."},
                "<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\nThe fox.<|im_end|>\n",
                ["The fox.<|im_end|>\n"],
            ),
            (
                {"instruction": "Name it.", "input": "A fox", "output": "Fox"},
                "<|im_start|>user\nName it.\n\nA fox<|im_end|>\n<|im_start|>assistant\nFox<|im_end|>\n",
                ["Fox<|im_end|>\n"],
            ),
            (
                {"prompt": [SYSTEM, ASK], "completion": [SAY]},
                "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is it?<|im_end|>\n"
                "<|im_start|>assistant\nThe fox.<|im_end|>\n",
                ["The fox.<|im_end|>\n"],
            ),
            (
                {"conversations": [{"from": "human", "value": "A"}, {"from": "gpt", "value": "B"}] * 2},
                "<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n" * 2,
                ["B<|im_end|>\n", "B<|im_end|>\n"],
            ),
        ],
    )
    def test_text_and_targets(
        self, tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], text: str, targets: list[str]
    ) -> None:
        encoding = encode(tokenizer, row)
        assert encoding.status == OK
        assert text_of(tokenizer, encoding) == text
        if "text" in row:  # everything but the first token, which nothing predicts
            assert encoding.targets.tolist() == [False] + [True] * (len(encoding.targets) - 1)
        else:
            assert learned(tokenizer, encoding) == targets

    def test_types(self, tokenizer: PreTrainedTokenizerBase) -> None:
        rows = [{"messages": [ASK, SAY]}, {"messages": []}]
        for row in RowEncoder(tokenizer).encode(rows):
            assert row.input_ids.dtype == np.int32
            assert row.targets.dtype == bool
            assert row.input_ids.shape == row.targets.shape

    def test_token_rows(self, tokenizer: PreTrainedTokenizerBase) -> None:
        encoding = encode(tokenizer, {"input_ids": [5, 6, 7], "labels": [5, -100, 7]})
        assert encoding.input_ids.tolist() == [5, 6, 7]
        assert encoding.targets.tolist() == [False, False, True]  # the label of the first token is never in the loss

    @pytest.mark.parametrize("token", [-1, 384])
    def test_token_ids_of_another_tokenizer(self, tokenizer: PreTrainedTokenizerBase, token: int) -> None:
        assert len(tokenizer) == 384
        assert encode(tokenizer, {"input_ids": [5, token], "labels": [5, token]}).status == INVALID_ROW

    def test_order_and_skipped_rows(self, tokenizer: PreTrainedTokenizerBase) -> None:
        responses = ["one", "", None, [3], "two"]
        rows = [{"instruction": "Count.", "output": response} for response in responses]
        encodings = RowEncoder(tokenizer).encode(rows)
        assert [row.status for row in encodings] == [OK, EMPTY_RESPONSE, EMPTY_RESPONSE, INVALID_ROW, OK]
        assert [len(row.input_ids) > 0 for row in encodings] == [True, False, False, False, True]
        assert learned(tokenizer, encodings[4]) == ["two<|im_end|>\n"]

    def test_a_row_does_not_depend_on_its_neighbours(self, tokenizer: PreTrainedTokenizerBase) -> None:
        rows = [{"messages": MULTI}, {"messages": [ASK, SAY], "tools": "[]"}, {"messages": None}]
        encoder = RowEncoder(tokenizer)
        for row, together in zip(rows, encoder.encode(rows), strict=True):
            [alone] = encoder.encode([row])
            assert alone.status == together.status
            assert np.array_equal(alone.input_ids, together.input_ids)
            assert np.array_equal(alone.targets, together.targets)

    def test_no_rows(self, tokenizer: PreTrainedTokenizerBase) -> None:
        assert RowEncoder(tokenizer).encode([]) == []

    def test_unknown_layout(self, tokenizer: PreTrainedTokenizerBase) -> None:
        with pytest.raises(ValueError, match=r"No known layout fits the columns \['input', 'target'\]"):
            encode(tokenizer, {"input": "A", "target": "B"})

    def test_columns(self, tokenizer: PreTrainedTokenizerBase) -> None:
        encoding = encode(tokenizer, {"src": "A", "pos": "B"}, columns={"src": "instruction", "pos": "output"})
        assert learned(tokenizer, encoding) == ["B<|im_end|>\n"]

    def test_rows_of(self, tokenizer: PreTrainedTokenizerBase) -> None:
        assert RowEncoder(tokenizer).rows_of({"messages": [ASK, SAY]}) == ([{"messages": [ASK, SAY]}], False)
        to_text = RowEncoder(tokenizer, template=lambda row: {"text": row["body"]})
        assert to_text.rows_of({"body": "A", "tags": ["x"]}) == ([{"body": "A", "tags": ["x"]}], False)
        assert to_text.rows_of({"body": ["A"], "tags": [["x"]]}) == ([{"body": "A", "tags": ["x"]}], True)


class TestBoundary:
    @pytest.mark.slow
    def test_tokens_merge_across_the_end_of_the_prompt(self, smollm2_tokenizer: PreTrainedTokenizerBase) -> None:
        for prompt, completion in [("Answer: ", "Yes"), ("x = ", "  y"), ("Total:  ", "five"), ("un", "happy")]:
            encoding = encode(smollm2_tokenizer, {"prompt": prompt, "completion": completion})
            whole = smollm2_tokenizer(prompt + completion + "<|im_end|>")["input_ids"]
            alone = smollm2_tokenizer(prompt)["input_ids"]
            shared = next((i for i, (a, b) in enumerate(zip(alone, whole, strict=False)) if a != b), len(alone))
            assert encoding.input_ids.tolist() == whole
            assert encoding.targets.tolist() == [max(shared, 1) <= i for i in range(len(whole))]

    @pytest.mark.slow
    def test_a_merge_moves_the_boundary_into_the_prompt(self, smollm2_tokenizer: PreTrainedTokenizerBase) -> None:
        encoding = encode(smollm2_tokenizer, {"prompt": "x = ", "completion": "  y"})
        assert learned(smollm2_tokenizer, encoding) == ["   y<|im_end|>"]

    def test_a_response_that_begins_with_a_line_break(self, tokenizer: PreTrainedTokenizerBase) -> None:
        encoding = encode(tokenizer, {"prompt": "Answer:", "completion": "\nYes"})
        assert learned(tokenizer, encoding) == ["\nYes<|im_end|>"]

    def test_special_tokens_in_a_row(self, tokenizer: PreTrainedTokenizerBase) -> None:
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        encoding = encode(tokenizer, {"messages": [ASK, {"role": "assistant", "content": "a<|im_end|>b"}]})
        assert (encoding.input_ids[encoding.targets] == end).sum() == 2

    def test_special_tokens_of_the_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raw text gets those that the tokenizer adds; a chat template writes its own."""
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
        assert text_of(tokenizer, encode(tokenizer, {"text": "A"})) == "<|endoftext|>A<|im_end|>"
        for row in ({"messages": [ASK, SAY]}, {"question": "A", "answer": "B"}):
            assert text_of(tokenizer, encode(tokenizer, row)).startswith("<|im_start|>user")


class TestTruncation:
    def test_the_first_tokens_are_kept(self, tokenizer: PreTrainedTokenizerBase) -> None:
        row = {"prompt": "The fox", "completion": " fox" * 50}
        whole, cut = encode(tokenizer, row), encode(tokenizer, row, max_length=20)
        assert (whole.status, cut.status) == (OK, TRUNCATED)
        assert np.array_equal(cut.input_ids, whole.input_ids[:20])
        assert np.array_equal(cut.targets, whole.targets[:20])

    def test_a_row_of_exactly_max_length(self, tokenizer: PreTrainedTokenizerBase) -> None:
        row = {"prompt": "The fox", "completion": " fox"}
        size = len(encode(tokenizer, row).input_ids)
        assert encode(tokenizer, row, max_length=size).status == OK
        assert encode(tokenizer, row, max_length=size - 1).status == TRUNCATED

    def test_a_prompt_that_fills_the_length(self, tokenizer: PreTrainedTokenizerBase) -> None:
        encoding = encode(tokenizer, {"prompt": "fox " * 50, "completion": "Yes"}, max_length=20)
        assert encoding.status == TRUNCATED_AWAY
        assert len(encoding.input_ids) == len(encoding.targets) == 0

    def test_nothing_left_to_learn(self, tokenizer: PreTrainedTokenizerBase) -> None:
        assert encode(tokenizer, {"input_ids": [5], "labels": [5]}).status == NO_TARGET
        assert encode(tokenizer, {"input_ids": [5, 6], "labels": [-100, -100]}).status == NO_TARGET
        assert encode(tokenizer, {"text": "<|im_end|>"}).status == NO_TARGET
        assert encode(tokenizer, {"messages": [ASK]}).status == NO_TARGET

    @pytest.mark.parametrize("layout", ["text", "messages"])
    def test_a_long_row_takes_bounded_time(self, tokenizer: PreTrainedTokenizerBase, layout: str) -> None:
        words = "the fox jumps over " * 25_000
        turns = [ASK, {"role": "assistant", "content": words}]
        start = time.perf_counter()
        encoding = encode(tokenizer, {"text": words} if layout == "text" else {"messages": turns})
        assert time.perf_counter() - start < 20
        assert encoding.status == TRUNCATED
        assert len(encoding.input_ids) == 1024

    def test_too_small_a_length(self, tokenizer: PreTrainedTokenizerBase) -> None:
        with pytest.raises(ValueError, match=r"`max_length` must be at least 2.*got 1"):
            RowEncoder(tokenizer, max_length=1)


class TestStrangeText:
    @pytest.mark.parametrize("layout", ["alpaca", "prompt_completion", "messages"])
    def test_half_a_surrogate_pair_and_nul(self, tokenizer: PreTrainedTokenizerBase, layout: str) -> None:
        said = "a\ud800b\0c"
        row = {
            "alpaca": {"instruction": said, "output": said},
            "prompt_completion": {"prompt": said, "completion": said},
            "messages": {"messages": [ASK, {"role": "assistant", "content": said}]},
        }[layout]
        encoding = encode(tokenizer, row)
        assert encoding.status == OK
        assert "a\ufffdb\0c" in learned(tokenizer, encoding)[0]


class TestTemplates:
    def test_alpaca_is_forced(self, tokenizer: PreTrainedTokenizerBase) -> None:
        encoding = encode(tokenizer, {"instruction": "A", "output": "B"}, template="alpaca")
        assert text_of(tokenizer, encoding) == Instruction("A", "", "B").plain_text().prompt + "B<|im_end|>"
        assert learned(tokenizer, encoding) == ["B<|im_end|>"]

    def test_alpaca_without_a_chat_template(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tokenizer.chat_template = None
        encoding = encode(tokenizer, {"question": "A", "answer": "B"})
        assert text_of(tokenizer, encoding) == Instruction("A", "", "B").plain_text().prompt + "B<|im_end|>"

    @pytest.mark.parametrize("row", [{"messages": [ASK, SAY]}, {"prompt": [ASK], "completion": [SAY]}])
    def test_messages_without_a_chat_template(self, tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]) -> None:
        tokenizer.chat_template = None
        tokenizer.name_or_path = "some/base-model"
        with pytest.raises(
            ValueError, match=r"the tokenizer some/base-model .* has no chat template. Pass `template="
        ):
            encode(tokenizer, row)

    def test_chat_without_a_chat_template(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tokenizer.chat_template = None
        with pytest.raises(ValueError, match="has no chat template"):
            RowEncoder(tokenizer, template="chat")

    def test_messages_in_the_alpaca_prompt(self, tokenizer: PreTrainedTokenizerBase) -> None:
        with pytest.raises(ValueError, match="template='alpaca', which has no turns"):
            encode(tokenizer, {"messages": [ASK, SAY]}, template="alpaca")

    def test_neither_a_word_nor_a_file(self, tokenizer: PreTrainedTokenizerBase) -> None:
        with pytest.raises(ValueError, match=r"must be 'auto', 'chat', .* no file 'vicuna'"):
            RowEncoder(tokenizer, template="vicuna")

    def test_named_templates(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tokenizer.chat_template = {"default": tokenizer.chat_template, "tool_use": PLAIN}
        assert learned(tokenizer, encode(tokenizer, {"messages": MULTI})) == [
            "The fox.<|im_end|>\n",
            "The dog.<|im_end|>\n",
        ]

    def test_a_callable(self, tokenizer: PreTrainedTokenizerBase) -> None:
        def template(row: dict[str, Any]) -> dict[str, Any]:
            return {"prompt": f"Q: {row['q']}\nA:", "completion": row["a"] and f" {row['a']}"}

        rows = [{"q": "What?", "a": "Fox"}, {"q": "What?", "a": None}]
        first, second = RowEncoder(tokenizer, template=template).encode(rows)
        assert text_of(tokenizer, first) == "Q: What?\nA: Fox<|im_end|>"
        assert learned(tokenizer, first) == [" Fox<|im_end|>"]
        assert second.status == EMPTY_RESPONSE

    def test_a_callable_that_returns_text(self, tokenizer: PreTrainedTokenizerBase) -> None:
        with pytest.raises(TypeError, match="must return a dict, got str"):
            encode(tokenizer, {"a": 1}, template=str)

    def test_a_callable_and_columns(self, tokenizer: PreTrainedTokenizerBase) -> None:
        with pytest.raises(ValueError, match="`columns` and a callable `template` exclude each other"):
            RowEncoder(tokenizer, template=dict, columns={"a": "text"})

    def test_a_file(self, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
        path = tmp_path / "training.jinja"
        marked = "{% generation %}{{ m.content }}{% endgeneration %}"
        path.write_text("{% for m in messages %}{{ m.role + ':\n' }}" + marked + "{% endfor %}", encoding="utf-8")
        tokenizer.chat_template = None
        encoder = RowEncoder(tokenizer, template=path)
        path.unlink()  # read once
        [encoding] = encoder.encode([{"messages": [ASK, SAY]}])
        assert learned(tokenizer, encoding) == ["What is it?", "The fox."]

    def test_no_eos(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tokenizer.eos_token = None
        with pytest.raises(ValueError, match=r"the tokenizer .* has none. Set `tokenizer.eos_token`"):
            encode(tokenizer, {"text": "A"})
        assert encode(tokenizer, {"messages": [ASK, SAY]}).status == OK
        assert encode(tokenizer, {"input_ids": [5, 6], "labels": [5, 6]}).status == OK

    def test_rows_that_the_template_refuses(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tokenizer.bos_token = "<|endoftext|>"
        tokenizer.chat_template = (TEMPLATES_FOLDER / "gemma.jinja").read_text(encoding="utf-8")
        rows = [{"messages": [SYSTEM, ASK, SAY]}, {"messages": [ASK, SAY]}, {"messages": [SYSTEM, ASK, SAY]}]
        encodings = RowEncoder(tokenizer).encode(rows)
        assert [row.status for row in encodings] == [INVALID_ROW, OK, INVALID_ROW]
        assert encodings[2].why == "the chat template does not accept it: TemplateError: Gemma has no system role."

    def test_todays_date_in_the_template(
        self, tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
    ) -> None:
        tokenizer.chat_template = (TEMPLATES_FOLDER / "llama3_2.jinja").read_text(encoding="utf-8")
        with caplog.at_level(logging.WARNING, logger="hf_dlc"):
            RowEncoder(tokenizer)
        assert "writes today's date into every row" in caplog.text


class TestTurns:
    def test_all_assistant_turns(self, tokenizer: PreTrainedTokenizerBase) -> None:
        encoding = encode(tokenizer, {"messages": [SYSTEM, *MULTI, ASK]})
        assert learned(tokenizer, encoding) == ["The fox.<|im_end|>\n", "The dog.<|im_end|>\n"]

    @pytest.mark.parametrize("template", [None, PLAIN])
    def test_a_turn_that_is_not_learned_from(self, tokenizer: PreTrainedTokenizerBase, template: str | None) -> None:
        tokenizer.chat_template = template or tokenizer.chat_template
        encoding = encode(tokenizer, {"messages": [ASK, {**SAY, "loss_weight": 0.0}, *MULTI[2:]]})
        [said] = learned(tokenizer, encoding)
        assert said.startswith("The dog.")

    def test_turn_by_turn(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tokenizer.chat_template = PLAIN
        encoding = encode(tokenizer, {"messages": [SYSTEM, *MULTI]})
        assert learned(tokenizer, encoding) == ["The fox. [end]\n", "The dog. [end]\n"]

    def test_turn_by_turn_with_the_assistant_first(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tokenizer.chat_template = PLAIN
        encoding = encode(tokenizer, {"messages": [SAY, *MULTI]})
        assert learned(tokenizer, encoding) == ["The fox. [end]\n", "The fox. [end]\n", "The dog. [end]\n"]

    def test_eos_after_every_rendering(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tokenizer.chat_template = PLAIN + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
        encoding = encode(tokenizer, {"messages": MULTI})
        assert learned(tokenizer, encoding) == ["The fox. [end]\n", "The dog. [end]\n<|im_end|>"]

    @pytest.mark.parametrize(
        "template",
        [
            REWRITING + "{# not what any of ours renders #}{{ '!' }}",
            "{% for m in messages %}{{ '[' + m.role + '] ' + m.content }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}",  # no end of turn
            PLAIN.replace("m.content +", "'<note>' + m.content +"),  # more than a header before the content
        ],
    )
    def test_turns_that_cannot_be_found(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        tokenizer.chat_template = template
        match = r"has no \{% generation %\} markers.*Pass `template='path/to/training_template.jinja'`"
        with pytest.raises(ValueError, match=match):
            encode(tokenizer, {"messages": MULTI})

    def test_a_turn_that_is_rewritten(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tokenizer.chat_template = PLAIN.replace("m.content", "(m.content if loop.last else m.content.split('#')[-1])")
        encoder = RowEncoder(tokenizer)
        assert [row.status for row in encoder.encode([{"messages": MULTI}])] == [OK]
        with pytest.raises(ValueError, match="renders a turn differently once others follow"):
            encoder.encode([{"messages": [ASK, {"role": "assistant", "content": "hm#Fox"}, *MULTI]}])

    def test_a_prompt_and_a_completion_need_no_markers(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tokenizer.chat_template = REWRITING
        encoding = encode(tokenizer, {"prompt": [ASK], "completion": [SAY]})
        assert learned(tokenizer, encoding) == ["The fox.<|im_end|>\n"]

    def test_calls_as_text_where_the_template_renders_none(self, tokenizer: PreTrainedTokenizerBase) -> None:
        value = '{"name": "f", "arguments": {"a": 1}}'
        row = {"conversations": [ASK, {"from": "function_call", "value": value}], "tools": '[{"name": "f"}]'}
        assert learned(tokenizer, encode(tokenizer, row)) == [value + "<|im_end|>\n"]
        tokenizer.chat_template = (TEMPLATES_FOLDER / "qwen2_5.jinja").read_text(encoding="utf-8")
        encoding = encode(tokenizer, row)
        assert learned(tokenizer, encoding) == ["\n<tool_call>\n" + value + "\n</tool_call><|im_end|>\n"]
        assert '<tools>\n{"name": "f"}\n</tools>' in text_of(tokenizer, encoding)

    def test_template_arguments_of_a_row(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tokenizer.chat_template = "{{ mood }}: " + tokenizer.chat_template
        encoding = encode(tokenizer, {"messages": MULTI, "chat_template_kwargs": {"mood": "calm"}})
        assert text_of(tokenizer, encoding).startswith("calm: <|im_start|>user")

    def test_a_row_cannot_bring_a_template(self, tokenizer: PreTrainedTokenizerBase) -> None:
        row = {"messages": MULTI, "chat_template_kwargs": {"chat_template": "{% generation %}all{% endgeneration %}"}}
        assert text_of(tokenizer, encode(tokenizer, row)) == text_of(tokenizer, encode(tokenizer, {"messages": MULTI}))


class TestTrainingTemplates:
    """Those whose originals are not at hand elsewhere: what they render, literally, and what they mark."""

    @pytest.mark.parametrize(
        ("name", "messages", "text", "targets"),
        [
            (
                "smollm2",
                [ASK, SAY],
                "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
                "<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\nThe fox.<|im_end|>\n",
                ["The fox.<|im_end|>\n"],
            ),
            (
                "smollm2",
                [SYSTEM, ASK, SAY],
                "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is it?<|im_end|>\n"
                "<|im_start|>assistant\nThe fox.<|im_end|>\n",
                ["The fox.<|im_end|>\n"],
            ),
            (
                "mistral",
                [SYSTEM, *MULTI],
                "<s>[INST] What is it?[/INST] The fox.<|im_end|>[INST] What is it?[/INST] The dog.<|im_end|>",
                [" The fox.<|im_end|>", " The dog.<|im_end|>"],
            ),
            (
                "mistral",
                [SYSTEM, *MULTI, ASK],
                "<s>[INST] What is it?[/INST] The fox.<|im_end|>[INST] What is it?[/INST] The dog.<|im_end|>"
                "[INST] Be brief.\n\nWhat is it?[/INST]",
                [" The fox.<|im_end|>", " The dog.<|im_end|>"],
            ),
            (
                "mistral",
                [ASK, {"role": "assistant", "tool_calls": [CALL]}, RESULT, SAY],
                '<s>[AVAILABLE_TOOLS] [{"type": "function", "function": {"name": "f", "parameters": {}}}]'
                "[/AVAILABLE_TOOLS][INST] What is it?[/INST]"
                '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "abcdefghi"}]<|im_end|>'
                '[TOOL_RESULTS] {"content": 2, "call_id": "abcdefghi"}[/TOOL_RESULTS] The fox.<|im_end|>',
                [
                    '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "abcdefghi"}]<|im_end|>',
                    " The fox.<|im_end|>",
                ],
            ),
            (
                "llama3_1",
                [SYSTEM, ASK, SAY],
                "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
                "Today Date: 26 Jul 2024\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
                "What is it?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nThe fox.<|eot_id|>",
                ["The fox.<|eot_id|>"],
            ),
        ],
    )
    def test_literal(
        self,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        messages: list[dict[str, Any]],
        text: str,
        targets: list[str],
    ) -> None:
        tokenizer.add_special_tokens(
            {"bos_token": "<s>", "extra_special_tokens": ["[/INST]", "[/TOOL_RESULTS]", "<|eot_id|>"]}
        )
        row = {"messages": messages, "tools": TOOLS if RESULT in messages else None}
        encoding = encode(tokenizer, row, template=TEMPLATES_FOLDER / f"{name}.jinja")
        assert text_of(tokenizer, encoding) == text
        assert learned(tokenizer, encoding) == targets

    @pytest.mark.slow
    def test_smollm2_is_recognised(self, smollm2_tokenizer: PreTrainedTokenizerBase) -> None:
        encoder = RowEncoder(smollm2_tokenizer)
        own = (TEMPLATES_FOLDER / "smollm2.jinja").read_text(encoding="utf-8")
        assert encoder.describe()["training_template"] == own
        for messages in (MULTI, [SYSTEM, *MULTI], MULTI[:1]):
            texts = [
                smollm2_tokenizer.apply_chat_template(messages, chat_template=t, tokenize=False) for t in (None, own)
            ]
            assert texts[0] == texts[1]

    def test_chatml_is_recognised(self, tokenizer: PreTrainedTokenizerBase) -> None:
        own = (TEMPLATES_FOLDER / "chatml.jinja").read_text(encoding="utf-8")
        assert RowEncoder(tokenizer).describe()["training_template"] == own

    def test_markers_are_kept(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tokenizer.chat_template = (
            "{% for m in messages %}{%- generation -%}{{ m.content }}{% endgeneration %}{% endfor %}"
        )
        assert RowEncoder(tokenizer).describe()["training_template"] == tokenizer.chat_template

    def test_other_templates_have_none(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tokenizer.chat_template = PLAIN
        assert RowEncoder(tokenizer).describe()["training_template"] is None


class TestDescribe:
    def test_json_and_stable(self, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
        path = tmp_path / "a.jinja"
        path.write_text(PLAIN, encoding="utf-8")
        described = RowEncoder(tokenizer, template=str(path), max_length=7).describe()
        assert json.loads(json.dumps(described)) == described
        assert (described["template"], described["chat_template"]) == ("file", PLAIN)
        assert (described["max_length"], described["eos_token"]) == (7, "<|im_end|>")
        moved = path.rename(tmp_path / "b.jinja")
        assert RowEncoder(tokenizer, template=moved, max_length=7).describe() == described

    def test_what_changes_an_encoding_changes_it(self, tokenizer: PreTrainedTokenizerBase) -> None:
        settings = [
            {},
            {"template": "alpaca"},
            {"max_length": 9},
            {"layout": "text"},
            {"columns": {"a": "text"}},
            {"template": lambda row: {"text": row["a"]}},
            {"template": lambda row: {"text": row["b"]}},
        ]
        described = [json.dumps(RowEncoder(tokenizer, **setting).describe()) for setting in settings]
        tokenizer.chat_template = PLAIN
        described.append(json.dumps(RowEncoder(tokenizer).describe()))
        assert len(set(described)) == len(settings) + 1

    def test_the_same_in_another_process(self) -> None:
        code = (
            "from tests.conftest import build_tokenizer\nfrom hf_dlc.tasks.text.encoding import RowEncoder\n"
            "def template(row):\n    return {'text': row['a']}\n"
            "print(RowEncoder(build_tokenizer(), template=template).describe()['template'])"
        )
        root = Path(__file__).resolve().parents[3]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        command = [sys.executable, "-c", code]
        both = [subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE) for _ in range(2)]
        first, second = (process.communicate(timeout=60)[0] for process in both)
        assert first == second
        assert first.startswith(b"callable ")

    def test_pickle(self, tokenizer: PreTrainedTokenizerBase) -> None:
        encoder = RowEncoder(tokenizer)
        [expected] = encoder.encode([{"messages": MULTI}])
        [encoding] = pickle.loads(pickle.dumps(encoder)).encode([{"messages": MULTI}])
        assert np.array_equal(encoding.input_ids, expected.input_ids)


def test_every_template_is_a_family() -> None:
    assert sorted(path.stem for path in TEMPLATES_FOLDER.glob("*.jinja")) == sorted(FAMILIES)


def read_rows(path: Path, count: int) -> list[dict[str, Any]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]


REAL_SETS = {
    "alpaca_2k.jsonl": {},
    "alpaca_gpt4_demo.jsonl": {},
    "arc_easy_train.jsonl": {},
    "expert_revised_train.jsonl": {"columns": {"src": "instruction", "pos": "output"}},
    "glaive_toolcall_sharegpt.jsonl": {},
    "gsm8k_train.jsonl": {},
    "mtbench101_messages.jsonl": {},
    "sgd_messages.jsonl": {},
    "t0_55k.jsonl.gz": {},
    "typed_content_messages.jsonl": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL_SETS)
def test_real_sets(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    if not (TEXT_SETS / name).is_file():
        pytest.skip(f"no {name} in {TEXT_SETS}")
    rows = read_rows(TEXT_SETS / name, 200)
    encodings = RowEncoder(tokenizer, max_length=4096, **REAL_SETS[name]).encode(rows)
    assert len(encodings) == len(rows)
    assert {row.status for row in encodings} <= {OK, TRUNCATED, EMPTY_RESPONSE}
    for row in encodings:
        assert row.targets.any() == (row.status in (OK, TRUNCATED))


@pytest.mark.slow
def test_real_tokenizer_without_a_chat_template() -> None:
    folder = SHARED / "models" / "aidreams_260k"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoding = encode(tokenizer, {"prompt": "Once upon a", "completion": " time"})
    assert encoding.input_ids[0] == tokenizer.bos_token_id
    assert encoding.input_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(encoding.input_ids[encoding.targets]).strip() == "time</s>"
