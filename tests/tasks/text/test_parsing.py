from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
import torch

from hf_dlc.scores.columns import EMPTY_RESPONSE, INVALID_ROW, NO_TARGET
from hf_dlc.tasks.text.layouts import read_columns
from hf_dlc.tasks.text.parsing import parse_row
from hf_dlc.tasks.text.rows import Conversation, Instruction, PlainText, Row, Skipped, TokenRow, Turn


ASK = {"role": "user", "content": "Hi"}
SAY = {"role": "assistant", "content": "Hello"}
ASKED = Turn("user", "Hi")
SAID = Turn("assistant", "Hello", learned=True)


def parse(row: dict[str, Any], layout: str, columns: dict[str, str] | None = None) -> Row:
    return parse_row(row, read_columns(row, layout, columns))


class TestParseRow:
    @pytest.mark.parametrize(
        ("layout", "row", "expected"),
        [
            ("alpaca", {"instruction": "Add.", "input": "2, 3", "output": "5"}, Instruction("Add.", "2, 3", "5")),
            ("alpaca", {"instruction": "Add.", "context": "2, 3", "response": "5"}, Instruction("Add.", "2, 3", "5")),
            ("alpaca", {"instruction": "Add.", "input": None, "output": "5"}, Instruction("Add.", "", "5")),
            ("alpaca", {"instruction": "Add.", "input": float("nan"), "output": "5"}, Instruction("Add.", "", "5")),
            ("alpaca", {"instruction": "Add.", "input": " \n", "output": "5"}, Instruction("Add.", "", "5")),
            ("alpaca", {"instruction": "A", "output": "B", "answer": "C"}, Instruction("A", "", "B")),
            ("alpaca", {"instruction": "A", "output": "B", "system": "S"}, Instruction("A", "", "B", "S")),
            ("question_answer", {"question": "2 + 3?", "answer": " 5 "}, Instruction("2 + 3?", "", " 5 ")),
            (
                "question_answer",
                {"question": "How many?", "context": "T", "answer": "5"},
                Instruction("How many?", "T", "5"),
            ),
            ("question_answer", {"question": "Q", "passage": "T", "answer": "5"}, Instruction("Q", "T", "5")),
            ("question_answer", {"query": "Q", "response": "5"}, Instruction("Q", "", "5")),
            (
                "question_answer",
                {"system_prompt": "Pirate.", "question": "Who?", "response": "Arr."},
                Instruction("Who?", "", "Arr.", "Pirate."),
            ),
            (
                "alpaca",
                {"instruction": "A", "output": "B", "history": [["q", "a"], ["r", "b"]]},
                Instruction("A", "", "B", history=(("q", "a"), ("r", "b"))),
            ),
            ("alpaca", {"instruction": "A", "output": "B", "history": None}, Instruction("A", "", "B")),
            (
                "alpaca",
                {"instruction": "A", "output": "B", "history": '[["q", "a"]]'},
                Instruction("A", "", "B", history=(("q", "a"),)),
            ),
            ("alpaca", {"instruction": "A", "output": 42}, Instruction("A", "", "42")),
            ("alpaca", {"instruction": 7, "input": 0.5, "output": np.int64(42)}, Instruction("7", "0.5", "42")),
            ("alpaca", {"instruction": b"A", "output": "é".encode()}, Instruction("A", "", "é")),
            ("text", {"text": "Once upon"}, PlainText("", "Once upon")),
            ("prompt_completion", {"prompt": "2 + 3 =", "completion": " 5"}, PlainText("2 + 3 =", " 5")),
            ("prompt_completion", {"prompt": "", "response": "5"}, PlainText("", "5")),
            ("prompt_completion", {"prompt": [ASK], "completion": [SAY]}, Conversation((ASKED, SAID), 1)),
            ("prompt_completion", {"prompt": "Hi", "completion": [SAY]}, Conversation((ASKED, SAID), 1)),
            ("prompt_completion", {"prompt": [ASK], "completion": "Hello"}, Conversation((ASKED, SAID), 1)),
            ("prompt_completion", {"prompt": ASK, "completion": SAY}, Conversation((ASKED, SAID), 1)),
            (
                "prompt_completion",
                {"prompt": [ASK], "completion": [SAY], "system_prompt": "S"},
                Conversation((Turn("system", "S"), ASKED, SAID), 2),
            ),
            ("prompt_completion", {"prompt": '["x"]', "completion": '{"a": 1}'}, PlainText('["x"]', '{"a": 1}')),
            ("prompt_completion", {"prompt": "[", "completion": "[]"}, PlainText("[", "[]")),
            (
                "prompt_completion",
                {"prompt": json.dumps([ASK]), "completion": json.dumps([SAY])},
                Conversation((ASKED, SAID), 1),
            ),
            ("alpaca", {"instruction": "A", "output": 4.0}, Instruction("A", "", "4")),
            ("alpaca", {"instruction": "A", "output": "B", "history": float("nan")}, Instruction("A", "", "B")),
            ("alpaca", {"instruction": "A", "output": "B", "tools": float("nan")}, Instruction("A", "", "B")),
            ("messages", {"messages": [ASK, SAY]}, Conversation((ASKED, SAID))),
            ("messages", {"messages": json.dumps([ASK, SAY])}, Conversation((ASKED, SAID))),
            (
                "messages",
                {"messages": {"role": ["user", "assistant"], "content": ["Hi", "Hello"]}},
                Conversation((ASKED, SAID)),
            ),
            (
                "messages",
                {"messages": {"from": ["human", "gpt"], "value": ["Hi", "Hello"]}},
                Conversation((ASKED, SAID)),
            ),
            ("messages", {"messages": [ASK, SAY], "chosen": SAY}, Conversation((ASKED, SAID))),
            (
                "messages",
                {"messages": [ASK, SAY], "system_prompt": "S"},
                Conversation((Turn("system", "S"), ASKED, SAID)),
            ),
            (
                "sharegpt",
                {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
                Conversation((ASKED, SAID)),
            ),
            ("sharegpt", {"conversations": [ASK, SAY]}, Conversation((ASKED, SAID))),
            (
                "sharegpt",
                {"conversations": [ASK, SAY], "system": "S"},
                Conversation((Turn("system", "S"), ASKED, SAID)),
            ),
            ("tokenized", {"input_ids": [5, 6], "labels": [-100, 6]}, TokenRow([5, 6], [-100, 6])),
            ("tokenized", {"input_ids": [5, 6]}, TokenRow([5, 6], [5, 6])),
            ("tokenized", {"input_ids": [5, 6], "completion_mask": [0, 1]}, TokenRow([5, 6], [-100, 6])),
            (
                "tokenized",
                {"input_ids": [0, 5, 6], "labels": [-100, -100, 6], "attention_mask": [0, 1, 1]},
                TokenRow([5, 6], [-100, 6]),
            ),
            ("tokenized", {"input_ids": np.array([5, 6]), "labels": torch.tensor([5, 6])}, TokenRow([5, 6], [5, 6])),
        ],
    )
    def test_literal_rows(self, layout: str, row: dict[str, Any], expected: object) -> None:
        assert parse(row, layout) == expected

    @pytest.mark.parametrize("marker", ["<noinput>", "<noinput>.", "No input", "<no input>", r"\<noinput\>"])
    def test_spelled_out_absence_of_an_input(self, marker: str) -> None:
        row = parse({"instruction": "A", "input": marker, "output": "B"}, "alpaca")
        assert row == Instruction("A", "", "B")

    def test_an_input_that_only_mentions_it_is_kept(self) -> None:
        row = parse({"instruction": "A", "input": "no input device", "output": "B"}, "alpaca")
        assert row.input == "no input device"

    @pytest.mark.parametrize(
        ("layout", "row", "reason"),
        [
            ("alpaca", {"instruction": "A", "output": None}, EMPTY_RESPONSE),
            ("alpaca", {"instruction": "A", "output": ""}, EMPTY_RESPONSE),
            ("alpaca", {"instruction": "A", "output": " \n\t"}, EMPTY_RESPONSE),
            ("alpaca", {"instruction": "A", "output": float("nan")}, EMPTY_RESPONSE),
            ("alpaca", {"instruction": "A", "output": None, "answer": "B"}, EMPTY_RESPONSE),
            ("alpaca", {"instruction": "A", "output": True}, INVALID_ROW),
            ("alpaca", {"instruction": "A", "output": {"text": "B"}}, INVALID_ROW),
            ("alpaca", {"instruction": "A", "output": "B", "history": "q"}, INVALID_ROW),
            ("alpaca", {"instruction": "A", "output": "B", "history": [["q"]]}, INVALID_ROW),
            (
                "alpaca",
                {"instruction": "A", "output": "B", "history": [{"human": "q"}]},
                INVALID_ROW,
            ),
            ("alpaca", {"instruction": "A", "output": ["B"]}, INVALID_ROW),
            ("alpaca", {"instruction": None, "output": "B"}, INVALID_ROW),
            ("alpaca", {"instruction": b"\xff", "output": "B"}, INVALID_ROW),
            ("alpaca", {"instruction": "A", "input": [3], "output": "B"}, INVALID_ROW),
            ("question_answer", {"question": "A", "answer": ""}, EMPTY_RESPONSE),
            ("text", {"text": None}, EMPTY_RESPONSE),
            ("text", {"text": {"a": 1}}, INVALID_ROW),
            ("prompt_completion", {"prompt": None, "completion": "B"}, INVALID_ROW),
            ("prompt_completion", {"prompt": "A", "completion": ""}, EMPTY_RESPONSE),
            ("prompt_completion", {"prompt": [ASK], "completion": []}, EMPTY_RESPONSE),
            ("prompt_completion", {"prompt": [ASK], "completion": None}, EMPTY_RESPONSE),
            ("prompt_completion", {"prompt": [], "completion": [SAY]}, INVALID_ROW),
            ("prompt_completion", {"prompt": [ASK], "completion": [ASK]}, NO_TARGET),
            ("prompt_completion", {"prompt": [ASK], "completion": [SAY, {**SAY, "weight": 0}]}, INVALID_ROW),
            ("prompt_completion", {"prompt": "P", "completion": [ASK, SAY]}, INVALID_ROW),
            (
                "messages",
                {"messages": [ASK, {**SAY, "train_detail": [{"begin_offset": 0, "train": False}]}]},
                INVALID_ROW,
            ),
            ("messages", {"messages": None}, INVALID_ROW),
            ("messages", {"messages": "Hi"}, INVALID_ROW),
            ("messages", {"messages": []}, NO_TARGET),
            ("messages", {"messages": [ASK]}, NO_TARGET),
            ("messages", {"messages": ["Hi"]}, INVALID_ROW),
            ("messages", {"messages": [ASK, None]}, INVALID_ROW),
            ("messages", {"messages": [ASK, {"role": None, "content": "x"}]}, INVALID_ROW),
            ("messages", {"messages": [ASK, {"role": "assistant", "content": False}]}, INVALID_ROW),
            ("messages", {"messages": [ASK, {"role": "assistant", "text": "x"}]}, INVALID_ROW),
            ("messages", {"messages": [{"human": "Hi", "assistant": "Hello"}]}, INVALID_ROW),
            ("messages", {"messages": "[{"}, INVALID_ROW),
            ("messages", {"messages": {"role": ["user"], "content": ["Hi", "Hello"]}}, INVALID_ROW),
            ("messages", {"messages": [ASK], "chosen": "Hello"}, INVALID_ROW),
            ("messages", {"messages": [ASK, SAY, ASK], "chosen": SAY, "rejected": SAY}, INVALID_ROW),
            ("sharegpt", {"conversations": [ASK, SAY, ASK], "response": "Hello"}, INVALID_ROW),
            ("messages", {"messages": [ASK, {"role": "assistant", "content": None}]}, EMPTY_RESPONSE),
            ("messages", {"messages": [ASK, {**SAY, "weight": 0}]}, NO_TARGET),
            ("messages", {"messages": [ASK, {**SAY, "weight": "0"}]}, INVALID_ROW),
            ("messages", {"messages": [ASK, {**SAY, "content": [{"type": "image"}]}]}, INVALID_ROW),
            ("messages", {"messages": [ASK, {**SAY, "content": [{"type": "reasoning", "text": "x"}]}]}, INVALID_ROW),
            ("messages", {"messages": [ASK, SAY], "tools": "[{"}, INVALID_ROW),
            ("messages", {"messages": [ASK, SAY], "tools": {"name": "f"}}, INVALID_ROW),
            ("messages", {"messages": [ASK, SAY], "chat_template_kwargs": "x"}, INVALID_ROW),
            ("messages", {"messages": [ASK, {**SAY, "tool_calls": "x"}]}, INVALID_ROW),
            ("tokenized", {"input_ids": [1, 2], "labels": [2]}, INVALID_ROW),
            ("tokenized", {"input_ids": [1, 2], "attention_mask": []}, INVALID_ROW),
            ("messages", {"messages": "[" * 100_000}, INVALID_ROW),
            ("messages", {"messages": [ASK, SAY], "tools": "[" * 100_000}, INVALID_ROW),
            ("tokenized", {"input_ids": [1, 2], "labels": None}, INVALID_ROW),
            ("tokenized", {"input_ids": [1, 2], "labels": [1, 3]}, INVALID_ROW),
            ("tokenized", {"input_ids": [1, 2], "assistant_masks": [1]}, INVALID_ROW),
            ("tokenized", {"input_ids": [1.5], "labels": [1]}, INVALID_ROW),
            ("tokenized", {"input_ids": "12", "labels": [1]}, INVALID_ROW),
        ],
    )
    def test_rows_that_cannot_be_used(self, layout: str, row: dict[str, Any], reason: str) -> None:
        found = parse(row, layout)
        assert found == Skipped(reason)
        assert found.why

    @pytest.mark.parametrize(
        ("row", "why"),
        [
            ({"instruction": "A", "output": True}, "column 'output': must be text or a number, got bool True"),
            ({"instruction": "A", "output": {"x": 1}}, "column 'output': must be text or a number, got dict {'x': 1}"),
            (
                {"instruction": None, "answer": "B"},
                "column 'instruction': must be text or a number, got NoneType None",
            ),
            ({"instruction": ["y" * 99], "output": "z"}, r"got list \['y{78}\.\.\.$"),
            ({"messages": "Hi"}, "column 'messages': must be a list of messages, .* got str 'Hi'"),
            (
                {"messages": [ASK, {"role": "user", "txt": "x"}]},
                "message 1: must be a dict with the text under 'content'",
            ),
            (
                {"messages": [ASK, {"role": "assistant", "content": [{"type": "reasoning", "text": "x"}]}]},
                "column 'messages': message 1: must be a part of the type 'text', got dict {'type': 'reasoning'",
            ),
            ({"messages": [{"role": "A", "content": "x"}]}, r"the roles are \['A'\], of which 'assistant' is learned"),
            (
                {"messages": [ASK], "chosen": SAY},
                r"the answer seems to stand in \['chosen'\]: map the messages to 'prompt'",
            ),
            ({"conversations": [ASK, SAY], "tools": "[{"}, "column 'tools': must be valid JSON, got str"),
        ],
    )
    def test_the_reason_names_the_column_and_what_it_holds(self, row: dict[str, Any], why: str) -> None:
        layout = read_columns(row).layout
        assert re.search(why, parse(row, layout).why), parse(row, layout).why

    def test_half_a_surrogate_pair_is_replaced_and_nul_is_kept(self) -> None:
        row = parse({"prompt": "a\ud800b", "completion": "c\0d\U0001f600"}, "prompt_completion")
        assert row == PlainText("a\ufffdb", "c\0d\U0001f600")

    def test_half_a_surrogate_pair_in_tools_is_replaced(self) -> None:
        row = parse({"messages": [ASK, SAY], "tools": [{"name": "f\udfff"}]}, "messages")
        assert row.tools == [{"name": "f\ufffd"}]

    def test_a_mapping_of_columns(self) -> None:
        row = {"src": "A", "pos": "B", "output": "not this"}
        assert parse(row, "alpaca", {"src": "instruction", "pos": "output"}) == Instruction("A", "", "B")


class TestTurns:
    @pytest.mark.parametrize(
        "mark", [{"loss_weight": 0.0}, {"weight": 0}, {"train": False}, {"training": False}, {"loss": False}]
    )
    def test_a_mark_takes_a_turn_away(self, mark: dict[str, Any]) -> None:
        row = parse({"messages": [ASK, {**SAY, **mark}, ASK, SAY]}, "messages")
        assert [turn.learned for turn in row.turns] == [False, False, False, True]

    @pytest.mark.parametrize("mark", [{"loss_weight": 0.5}, {"weight": None}, {"train": True}])
    def test_other_marks_change_nothing(self, mark: dict[str, Any]) -> None:
        row = parse({"messages": [{**ASK, **mark}, {**SAY, **mark}]}, "messages")
        assert row == Conversation((ASKED, SAID))

    @pytest.mark.parametrize("key", ["text", "value", "content"])
    def test_typed_parts(self, key: str) -> None:
        parts = [{"type": "text", key: "Hel"}, {"type": "text", key: "lo"}]
        row = parse({"messages": [ASK, {"role": "assistant", "content": parts}]}, "messages")
        assert row.turns[1].content == "Hello"

    def test_missing_keys_as_arrow_writes_them(self) -> None:
        rows = [
            {"messages": [{"role": "user", "from": None, "content": None, "value": "Hi"}, {**SAY, "from": None}]},
            {"messages": [{"role": None, "from": "human", "content": "Hi", "value": None}, SAY]},
        ]
        for row in rows:
            first, _ = parse(row, "messages").turns
            assert (first.role, first.content) == ("user", "Hi")

    def test_roles_of_other_sets(self) -> None:
        names = ["system", "human", "chatgpt", "observation", "bot", "user", "model", "ipython"]
        row = parse({"conversations": [{"from": name, "value": "x"} for name in names]}, "sharegpt")
        expected = ["system", "user", "assistant", "tool", "assistant", "user", "assistant", "ipython"]
        assert [turn.role for turn in row.turns] == expected

    @pytest.mark.parametrize(
        ("name", "role"),
        [
            ("prompter", "user"),
            ("Human", "user"),
            ("USER:", "user"),
            ("Assistant", "assistant"),
            ("bing", "assistant"),
            ("AI", "assistant"),
            ("System", "system"),
            ("tool_result", "tool"),
            ("Narrator", "Narrator"),
            ("developer", "developer"),
        ],
    )
    def test_spellings_of_roles(self, name: str, role: str) -> None:
        row = parse({"conversations": [{"from": name, "value": "x"}, SAY]}, "sharegpt")
        assert row.turns[0] == Turn(role, "x", learned=role == "assistant")

    @pytest.mark.parametrize("role", ["function_call", "tool_call", "tool_caller", "Tool_Call"])
    def test_roles_of_calls(self, role: str) -> None:
        row = parse({"conversations": [ASK, {"from": role, "value": '{"name": "f", "arguments": {}}'}]}, "sharegpt")
        assert row.turns[1].tool_calls == [{"type": "function", "function": {"name": "f", "arguments": {}}}]
        assert row.turns[1].learned

    def test_calls_under_other_keys(self) -> None:
        call = {"name": "f", "arguments": '{"a": 1}'}
        calls = [{"type": "function", "function": call}]
        for message in ({"function_call": call}, {"tool_calls": calls}, {"tool_calls": json.dumps(calls)}):
            row = parse({"messages": [ASK, {"role": "assistant", "content": None, **message}]}, "messages")
            assert row.turns[1].tool_calls == calls
            assert row.turns[1].extra == {}
        row = parse({"messages": [ASK, {**SAY, "function_call": None, "tool_calls": "null"}]}, "messages")
        assert row == Conversation((ASKED, SAID))

    def test_a_call_as_text(self) -> None:
        value = '{"name": "f", "arguments": {"a": 1}}'
        row = parse({"conversations": [ASK, {"from": "function_call", "value": value}]}, "sharegpt")
        turn = row.turns[1]
        calls = [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]
        assert turn.message() == {"role": "assistant", "content": "", "tool_calls": calls}
        assert turn.message(renders_calls=False) == {"role": "assistant", "content": value}
        assert turn.learned

    def test_a_call_of_too_many_brackets_is_text(self) -> None:
        text = "[" * 100_000
        row = parse({"conversations": [ASK, {"from": "function_call", "value": text}]}, "sharegpt")
        assert row.turns[1] == Turn("assistant", text, learned=True)

    def test_a_call_that_is_no_json_is_text(self) -> None:
        row = parse({"conversations": [ASK, {"from": "function_call", "value": "f(1)"}]}, "sharegpt")
        assert row.turns[1] == Turn("assistant", "f(1)", learned=True)

    def test_tools_and_template_arguments(self) -> None:
        row = parse({"messages": [ASK, SAY], "tools": '[{"name": "f"}]', "chat_template_kwargs": {"a": 1}}, "messages")
        assert (row.tools, row.template_kwargs) == ([{"name": "f"}], {"a": 1})

    def test_other_keys_reach_the_template(self) -> None:
        row = parse({"messages": [ASK, {**SAY, "reasoning_content": "Hm", "name": None}]}, "messages")
        assert row.turns[1].message() == {**SAY, "reasoning_content": "Hm"}


class TestInstruction:
    def test_prompt_without_input(self) -> None:
        assert Instruction("Add.", "", "5").plain_text() == PlainText(
            "Below is an instruction that describes a task. Write a response that appropriately completes the "
            "request.\n\n### Instruction:\nAdd.\n\n### Response:\n",
            "5",
        )

    def test_prompt_with_input(self) -> None:
        assert Instruction("Add.", "2, 3", "5").plain_text() == PlainText(
            "Below is an instruction that describes a task, paired with an input that provides further context. Write "
            "a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n2, 3\n\n"
            "### Response:\n",
            "5",
        )

    def test_braces_are_text(self) -> None:
        assert "{x} {0}" in Instruction("{x} {0}", "{y}", "5").plain_text().prompt

    def test_history(self) -> None:
        row = Instruction("A", "", "B", history=(("q", "a"),))
        turns = (Turn("user", "q"), Turn("assistant", "a"), Turn("user", "A"), Turn("assistant", "B", learned=True))
        assert row.conversation() == Conversation(turns, 3)
        with pytest.raises(ValueError, match=r"history of earlier turns needs a chat template.*'history': 'ignore'"):
            row.plain_text()

    def test_conversation(self) -> None:
        turns = (Turn("system", "S"), Turn("user", "Add.\n\n2, 3"), Turn("assistant", "5", learned=True))
        assert Instruction("Add.", "2, 3", "5", "S").conversation() == Conversation(turns, 2)
