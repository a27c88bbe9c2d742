from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers  # before datasets, which else prints two import notes
from datasets import Dataset, IterableDataset

from hf_dlc.columns import EMPTY_RESPONSE, INVALID_ROW, NO_TARGET
from hf_dlc.formats import (
    Conversation,
    Instruction,
    PlainText,
    Skipped,
    TokenRow,
    Turn,
    detect_layout,
    is_batch,
    parse_row,
    rows_of,
    split_batch,
)


assert transformers.__version__

ASK = {"role": "user", "content": "Hi"}
SAY = {"role": "assistant", "content": "Hello"}
ASKED = Turn("user", "Hi")
SAID = Turn("assistant", "Hello", learned=True)


class TestDetectLayout:
    @pytest.mark.parametrize(
        ("columns", "expected"),
        [
            (["instruction", "input", "output"], "alpaca"),
            (["instruction", "context", "response", "category"], "alpaca"),
            (["instruction", "answer"], "alpaca"),
            (["instruction", "input", "output", "answer"], "alpaca"),
            (["instruction", "input", "output", "text"], "alpaca"),
            (["prompt", "completion", "template"], "prompt_completion"),
            (["prompt", "response"], "prompt_completion"),
            (["question", "answer"], "question_answer"),
            (["system", "question", "response"], "question_answer"),
            (["id", "services", "messages"], "messages"),
            (["prompt", "prompt_id", "messages"], "messages"),
            (["conversations", "tools"], "sharegpt"),
            (["text", "label"], "text"),
            (["input_ids", "labels", "text"], "tokenized"),
        ],
    )
    def test_columns_decide(self, columns: list[str], expected: str) -> None:
        assert detect_layout(columns) == expected
        assert detect_layout(columns, layout=expected) == expected

    def test_a_mapping_is_applied_first(self) -> None:
        assert detect_layout(["src", "pos", "neg"], columns={"src": "instruction", "pos": "output"}) == "alpaca"

    def test_a_layout_overrides_precedence(self) -> None:
        assert detect_layout(["instruction", "output", "text"], layout="text") == "text"

    def test_unknown_columns(self) -> None:
        with pytest.raises(ValueError, match=r"fits the columns \['neg', 'pos', 'src'\].*`columns=`.*`template=`"):
            detect_layout(["src", "pos", "neg"])

    def test_unknown_layout(self) -> None:
        with pytest.raises(ValueError, match=r"`layout` must be 'auto' or one of .*'alpaca'.*, got 'vicuna'"):
            detect_layout(["text"], layout="vicuna")

    def test_missing_column(self) -> None:
        with pytest.raises(ValueError, match=r"'alpaca' needs the column 'output' or .*columns are \['instruction'\]"):
            detect_layout(["instruction"], layout="alpaca")

    def test_missing_mapped_column(self) -> None:
        with pytest.raises(ValueError, match=r"`columns` names \['src'\], but the columns are \['text'\]"):
            detect_layout(["text"], columns={"src": "instruction"})


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
            ("text", {"text": "Once upon"}, PlainText("", "Once upon")),
            ("prompt_completion", {"prompt": "2 + 3 =", "completion": " 5"}, PlainText("2 + 3 =", " 5")),
            ("prompt_completion", {"prompt": "", "response": "5"}, PlainText("", "5")),
            ("prompt_completion", {"prompt": [ASK], "completion": [SAY]}, Conversation((ASKED, SAID), 1)),
            ("prompt_completion", {"prompt": "Hi", "completion": [SAY]}, Conversation((ASKED, SAID), 1)),
            ("prompt_completion", {"prompt": [ASK], "completion": "Hello"}, Conversation((ASKED, SAID), 1)),
            ("messages", {"messages": [ASK, SAY]}, Conversation((ASKED, SAID))),
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
        assert parse_row(row, layout) == expected

    @pytest.mark.parametrize("marker", ["<noinput>", "<noinput>.", "No input", "<no input>", r"\<noinput\>"])
    def test_spelled_out_absence_of_an_input(self, marker: str) -> None:
        row = parse_row({"instruction": "A", "input": marker, "output": "B"}, "alpaca")
        assert row == Instruction("A", "", "B")

    def test_an_input_that_only_mentions_it_is_kept(self) -> None:
        row = parse_row({"instruction": "A", "input": "no input device", "output": "B"}, "alpaca")
        assert row.input == "no input device"

    @pytest.mark.parametrize(
        ("layout", "row", "reason"),
        [
            ("alpaca", {"instruction": "A", "output": None}, EMPTY_RESPONSE),
            ("alpaca", {"instruction": "A", "output": ""}, EMPTY_RESPONSE),
            ("alpaca", {"instruction": "A", "output": " \n\t"}, EMPTY_RESPONSE),
            ("alpaca", {"instruction": "A", "output": float("nan")}, EMPTY_RESPONSE),
            ("alpaca", {"instruction": "A", "output": None, "answer": "B"}, EMPTY_RESPONSE),
            ("alpaca", {"instruction": "A", "output": 5}, INVALID_ROW),
            ("alpaca", {"instruction": "A", "output": ["B"]}, INVALID_ROW),
            ("alpaca", {"instruction": None, "output": "B"}, INVALID_ROW),
            ("alpaca", {"instruction": b"A", "output": "B"}, INVALID_ROW),
            ("alpaca", {"instruction": "A", "input": 3, "output": "B"}, INVALID_ROW),
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
            ("messages", {"messages": None}, INVALID_ROW),
            ("messages", {"messages": "Hi"}, INVALID_ROW),
            ("messages", {"messages": []}, NO_TARGET),
            ("messages", {"messages": [ASK]}, NO_TARGET),
            ("messages", {"messages": ["Hi"]}, INVALID_ROW),
            ("messages", {"messages": [ASK, None]}, INVALID_ROW),
            ("messages", {"messages": [ASK, {"role": None, "content": "x"}]}, INVALID_ROW),
            ("messages", {"messages": [ASK, {"role": "assistant", "content": 3}]}, INVALID_ROW),
            ("messages", {"messages": [ASK, {"role": "assistant", "content": None}]}, EMPTY_RESPONSE),
            ("messages", {"messages": [ASK, {**SAY, "weight": 0}]}, NO_TARGET),
            ("messages", {"messages": [ASK, {**SAY, "weight": "0"}]}, INVALID_ROW),
            ("messages", {"messages": [ASK, {**SAY, "content": [{"type": "image"}]}]}, INVALID_ROW),
            ("messages", {"messages": [ASK, SAY], "tools": "[{"}, INVALID_ROW),
            ("messages", {"messages": [ASK, SAY], "tools": {"name": "f"}}, INVALID_ROW),
            ("messages", {"messages": [ASK, SAY], "chat_template_kwargs": "x"}, INVALID_ROW),
            ("messages", {"messages": [ASK, {**SAY, "tool_calls": "x"}]}, INVALID_ROW),
            ("tokenized", {"input_ids": [1, 2], "labels": [2]}, INVALID_ROW),
            ("tokenized", {"input_ids": [1, 2], "labels": None}, INVALID_ROW),
            ("tokenized", {"input_ids": [1, 2], "labels": [1, 3]}, INVALID_ROW),
            ("tokenized", {"input_ids": [1, 2], "assistant_masks": [1]}, INVALID_ROW),
            ("tokenized", {"input_ids": [1.5], "labels": [1]}, INVALID_ROW),
            ("tokenized", {"input_ids": "12", "labels": [1]}, INVALID_ROW),
        ],
    )
    def test_rows_that_cannot_be_used(self, layout: str, row: dict[str, Any], reason: str) -> None:
        assert parse_row(row, layout) == Skipped(reason)

    def test_half_a_surrogate_pair_is_replaced_and_nul_is_kept(self) -> None:
        row = parse_row({"prompt": "a\ud800b", "completion": "c\0d\U0001f600"}, "prompt_completion")
        assert row == PlainText("a\ufffdb", "c\0d\U0001f600")

    def test_half_a_surrogate_pair_in_tools_is_replaced(self) -> None:
        row = parse_row({"messages": [ASK, SAY], "tools": [{"name": "f\udfff"}]}, "messages")
        assert row.tools == [{"name": "f\ufffd"}]

    def test_a_mapping_of_columns(self) -> None:
        row = {"src": "A", "pos": "B", "output": "not this"}
        assert parse_row(row, "alpaca", {"src": "instruction", "pos": "output"}) == Instruction("A", "", "B")


class TestTurns:
    @pytest.mark.parametrize("mark", [{"loss_weight": 0.0}, {"weight": 0}, {"train": False}])
    def test_a_mark_takes_a_turn_away(self, mark: dict[str, Any]) -> None:
        row = parse_row({"messages": [ASK, {**SAY, **mark}, ASK, SAY]}, "messages")
        assert [turn.learned for turn in row.turns] == [False, False, False, True]

    @pytest.mark.parametrize("mark", [{"loss_weight": 0.5}, {"weight": None}, {"train": True}])
    def test_other_marks_change_nothing(self, mark: dict[str, Any]) -> None:
        row = parse_row({"messages": [{**ASK, **mark}, {**SAY, **mark}]}, "messages")
        assert row == Conversation((ASKED, SAID))

    @pytest.mark.parametrize("key", ["text", "value", "content"])
    def test_typed_parts(self, key: str) -> None:
        parts = [{"type": "text", key: "Hel"}, {"type": "text", key: "lo"}]
        row = parse_row({"messages": [ASK, {"role": "assistant", "content": parts}]}, "messages")
        assert row.turns[1].content == "Hello"

    def test_missing_keys_as_arrow_writes_them(self) -> None:
        rows = [
            {"messages": [{"role": "user", "from": None, "content": None, "value": "Hi"}, {**SAY, "from": None}]},
            {"messages": [{"role": None, "from": "human", "content": "Hi", "value": None}, SAY]},
        ]
        for row in rows:
            first, _ = parse_row(row, "messages").turns
            assert (first.role, first.content) == ("user", "Hi")

    def test_roles_of_other_sets(self) -> None:
        names = ["system", "human", "chatgpt", "observation", "bot", "user", "model", "ipython"]
        row = parse_row({"conversations": [{"from": name, "value": "x"} for name in names]}, "sharegpt")
        expected = ["system", "user", "assistant", "tool", "assistant", "user", "assistant", "ipython"]
        assert [turn.role for turn in row.turns] == expected

    def test_a_call_as_text(self) -> None:
        value = '{"name": "f", "arguments": {"a": 1}}'
        row = parse_row({"conversations": [ASK, {"from": "function_call", "value": value}]}, "sharegpt")
        turn = row.turns[1]
        calls = [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]
        assert turn.message() == {"role": "assistant", "content": "", "tool_calls": calls}
        assert turn.message(renders_calls=False) == {"role": "assistant", "content": value}
        assert turn.learned

    def test_a_call_that_is_no_json_is_text(self) -> None:
        row = parse_row({"conversations": [ASK, {"from": "function_call", "value": "f(1)"}]}, "sharegpt")
        assert row.turns[1] == Turn("assistant", "f(1)", learned=True)

    def test_tools_and_template_arguments(self) -> None:
        row = parse_row(
            {"messages": [ASK, SAY], "tools": '[{"name": "f"}]', "chat_template_kwargs": {"a": 1}}, "messages"
        )
        assert (row.tools, row.template_kwargs) == ([{"name": "f"}], {"a": 1})

    def test_other_keys_reach_the_template(self) -> None:
        row = parse_row({"messages": [ASK, {**SAY, "reasoning_content": "Hm", "name": None}]}, "messages")
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

    def test_conversation(self) -> None:
        turns = (Turn("system", "S"), Turn("user", "Add.\n\n2, 3"), Turn("assistant", "5", learned=True))
        assert Instruction("Add.", "2, 3", "5", "S").conversation() == Conversation(turns, 2)


CONVERSATION = [ASK, SAY]


class TestIsBatch:
    @pytest.mark.parametrize(
        ("layout", "row"),
        [
            ("alpaca", {"instruction": "A", "output": "B"}),
            ("alpaca", {"instruction": None, "output": None}),
            ("prompt_completion", {"prompt": "A", "completion": "B"}),
            ("prompt_completion", {"prompt": [ASK], "completion": [SAY]}),
            ("messages", {"messages": CONVERSATION}),
            ("messages", {"messages": None}),
            ("messages", {"messages": [None, ASK]}),
            ("messages", {"messages": [], "id": "a"}),
            ("messages", {"messages": []}),
            ("messages", {"messages": [], "tags": ["a"]}),
            ("messages", {"messages": CONVERSATION, "tools": [{"name": "f"}]}),
            ("sharegpt", {"conversations": CONVERSATION, "tags": ["a", "b"]}),
            ("tokenized", {"input_ids": [1, 2], "labels": [1, 2]}),
            ("tokenized", {"input_ids": np.array([1, 2]), "labels": np.array([1, 2])}),
            ("tokenized", {"input_ids": torch.tensor([1, 2]), "labels": torch.tensor([1, 2])}),
            ("tokenized", {"input_ids": [], "labels": []}),
            (None, {"a": "x", "b": ["y"]}),
            (None, {}),
        ],
    )
    def test_rows(self, layout: str | None, row: dict[str, Any]) -> None:
        assert not is_batch(row, layout)

    @pytest.mark.parametrize(
        ("layout", "batch"),
        [
            ("alpaca", {"instruction": ["A"], "output": ["B"]}),
            ("alpaca", {"instruction": [None, "x"], "output": [None, None]}),
            ("alpaca", {"instruction": np.array(["A"], dtype=object), "output": np.array(["B"])}),
            ("alpaca", {"instruction": [], "output": []}),
            ("prompt_completion", {"prompt": ["A"], "completion": ["B"]}),
            ("prompt_completion", {"prompt": [[ASK]], "completion": [[SAY]]}),
            ("messages", {"messages": [CONVERSATION]}),
            ("messages", {"messages": [None, CONVERSATION]}),
            ("messages", {"messages": [None, None]}),
            ("messages", {"messages": [[]]}),
            ("tokenized", {"input_ids": [[1, 2]], "labels": [[1, 2]]}),
            ("tokenized", {"input_ids": np.array([[1, 2]]), "labels": np.array([[1, 2]])}),
            ("tokenized", {"input_ids": [torch.tensor([1, 2])], "labels": [torch.tensor([1, 2])]}),
            (None, {"a": ["x"], "b": [["y"]]}),
        ],
    )
    def test_batches(self, layout: str | None, batch: dict[str, Any]) -> None:
        assert is_batch(batch, layout)

    def test_split(self) -> None:
        assert split_batch({"a": [1, None], "b": np.array(["x", "y"])}) == [{"a": 1, "b": "x"}, {"a": None, "b": "y"}]

    def test_columns_of_two_lengths(self) -> None:
        with pytest.raises(ValueError, match=r"must have one length, got \{'a': 1, 'b': 2\}"):
            split_batch({"a": [1], "b": [1, 2]})

    def test_neither_row_nor_batch(self) -> None:
        with pytest.raises(TypeError, match=r"must be a row, a batch .* got str"):
            rows_of("text")

    def test_mapped_columns_keep_their_names(self) -> None:
        columns = {"chat": "messages"}
        assert rows_of({"chat": CONVERSATION}, columns=columns) == ([{"chat": CONVERSATION}], False)
        assert rows_of({"chat": [CONVERSATION]}, columns=columns) == ([{"chat": CONVERSATION}], True)


DATASETS = {
    "alpaca": {"instruction": ["A", "C"], "output": ["B", None]},
    "messages": {"messages": [[ASK, SAY], [ASK, SAY, ASK, SAY]]},
    "prompt_completion": {"prompt": [[ASK], [ASK]], "completion": [[SAY], [SAY]]},
    "tokenized": {"input_ids": [[1, 2], [3]], "labels": [[1, -100], [3]]},
}


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("kind", [None, "numpy", "torch", "iterable"])
@pytest.mark.parametrize("layout", DATASETS)
def test_what_map_hands_over(layout: str, kind: str | None, batched: bool) -> None:
    """Rows and batches of `map` are told apart and read alike, in every format."""
    dataset = Dataset.from_dict(DATASETS[layout])
    expected = [parse_row(row, layout) for row in dataset]
    seen = []

    def look(rows: Any) -> dict[str, Any]:
        found, was_batch = rows_of(rows)
        assert was_batch == batched
        seen.extend(parse_row(row, layout) for row in found)
        return {"n": [0] * len(found)} if batched else {"n": 0}

    if kind == "iterable":
        iterable: IterableDataset = dataset.to_iterable_dataset()
        list(iterable.map(look, batched=batched))
    else:
        (dataset.with_format(kind) if kind else dataset).map(look, batched=batched, load_from_cache_file=False)
    # `map` may look at the first rows twice
    assert seen[-len(expected) :] == expected
