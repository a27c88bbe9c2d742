from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers  # before datasets, which else prints two import notes
from datasets import Dataset, IterableDataset

from hf_dlc.tasks.text.layouts import is_batch, read_columns, refuse_other_responses, rows_of, split_batch, text_in
from hf_dlc.tasks.text.parsing import parse_row


assert transformers.__version__

ASK = {"role": "user", "content": "Hi"}
SAY = {"role": "assistant", "content": "Hello"}


class TestReadColumns:
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
            (["query", "response", "history"], "question_answer"),
            (["conversation", "tools"], "sharegpt"),
            (["id", "services", "messages"], "messages"),
            (["prompt", "prompt_id", "messages"], "messages"),
            (["conversations", "tools"], "sharegpt"),
            (["text", "label"], "text"),
            (["input_ids", "labels", "text"], "tokenized"),
        ],
    )
    def test_columns_decide(self, columns: list[str], expected: str) -> None:
        assert read_columns(columns).layout == expected
        assert read_columns(columns, layout=expected).layout == expected

    def test_a_mapping_is_applied_first(self) -> None:
        assert read_columns(["src", "pos", "neg"], columns={"src": "instruction", "pos": "output"}).layout == "alpaca"

    def test_a_layout_overrides_precedence(self) -> None:
        assert read_columns(["instruction", "output", "text"], layout="text").layout == "text"

    @pytest.mark.parametrize(
        ("columns", "read", "unread"),
        [
            (
                ["question", "context", "answer", "id"],
                {"instruction": "question", "response": "answer", "input": "context"},
                ("id",),
            ),
            (
                ["system_prompt", "question", "response"],
                {"instruction": "question", "response": "response", "system": "system_prompt"},
                (),
            ),
            (
                ["instruction", "input", "context", "output", "answer"],
                {"instruction": "instruction", "response": "output", "input": "input"},
                ("context", "answer"),
            ),
            (
                ["messages", "system_message", "prompt"],
                {"messages": "messages", "system": "system_message"},
                ("prompt",),
            ),
        ],
    )
    def test_what_is_read_and_what_is_not(
        self, columns: list[str], read: dict[str, str], unread: tuple[str, ...]
    ) -> None:
        reading = read_columns(columns)
        assert (reading.columns, reading.unread) == (read, unread)

    @pytest.mark.parametrize(
        ("names", "columns", "match"),
        [
            (
                ["instruction", "output", "hint"],
                {"hint": "context_of_it"},
                "maps 'hint' to 'context_of_it', which the",
            ),
            (
                ["instruction", "output", "mine"],
                {"mine": "answer"},
                "maps 'mine' to 'answer'.* of each group the first",
            ),
            (
                ["text", "persona"],
                {"persona": "system"},
                "maps 'persona' to 'system', which the layout 'text' would not",
            ),
            (["a", "b", "output"], {"a": "instruction", "b": "instruction"}, "got several for .'instruction'."),
        ],
    )
    def test_a_mapped_column_that_nothing_reads(self, names: list[str], columns: dict[str, str], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            read_columns(names, columns=columns)

    def test_a_mapping_wins_over_a_name(self) -> None:
        reading = read_columns(["src", "instruction", "output"], columns={"src": "instruction"})
        assert reading.columns["instruction"] == "src"
        assert reading.unread == ("instruction",)

    def test_columns_left_out_on_purpose(self) -> None:
        reading = read_columns(["question", "answer", "cot"], columns={"cot": "ignore"})
        assert reading.unread == ()
        with pytest.raises(ValueError, match="No known layout"):
            read_columns(["question", "answer"], columns={"answer": "ignore"})

    def test_preferences_are_told_how_to_be_read(self) -> None:
        with pytest.raises(ValueError, match="map 'chosen' to 'output'"):
            read_columns(["instruction", "input", "chosen", "rejected"])
        columns = {"conversations": "prompt", "chosen": "completion"}
        assert read_columns(["conversations", "chosen", "rejected"], columns=columns).layout == "prompt_completion"

    def test_unknown_columns(self) -> None:
        with pytest.raises(ValueError, match=r"fits the columns \['neg', 'pos', 'src'\].*`columns=`.*`template=`"):
            read_columns(["src", "pos", "neg"])

    def test_unknown_layout(self) -> None:
        with pytest.raises(ValueError, match=r"`layout` must be 'auto' or one of .*'alpaca'.*, got 'vicuna'"):
            read_columns(["text"], layout="vicuna")

    def test_missing_column(self) -> None:
        with pytest.raises(ValueError, match=r"'alpaca' needs the column 'output' or .*columns are \['instruction'\]"):
            read_columns(["instruction"], layout="alpaca")

    def test_missing_mapped_column(self) -> None:
        with pytest.raises(ValueError, match=r"`columns` names \['src'\], but the columns are \['text'\]"):
            read_columns(["text"], columns={"src": "instruction"})


class TestUnreadColumns:
    @pytest.mark.parametrize(
        "name",
        [
            "choices",
            "options",
            "choice_1",
            "option2",
            "opa",
            "sol1",
            "endings",
            "distractor3",
            "Option A",
            "option-b",
            "answerOptions",
            "mcq_options",
            "incorrect_answers",
            "ans0",
        ],
    )
    def test_answer_options_are_refused(self, name: str) -> None:
        reading = read_columns(["question", "answer", name])
        with pytest.raises(ValueError, match=rf"\['{name}'\] look like answer options.*\{{'{name}': 'ignore'\}}"):
            refuse_other_responses(reading, [name])

    @pytest.mark.parametrize(
        "name",
        [
            "reasoning",
            "Complex_CoT",
            "cot",
            "thinking",
            "thought",
            "rationale",
            "solution",
            "cot_content",
            "Chain of Thought",
            "thinkingProcess",
        ],
    )
    def test_reasoning_beside_the_answer_is_refused(self, name: str) -> None:
        reading = read_columns(["question", "answer", name])
        with pytest.raises(ValueError, match=rf"\['{name}'\] look like reasoning"):
            refuse_other_responses(reading, [name])

    @pytest.mark.parametrize("name", ["history", "chat_history", "previous_messages", "dialogue"])
    def test_earlier_turns_are_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match=rf"\['{name}'\] look like earlier turns"):
            refuse_other_responses(read_columns(["prompt", "response", name]), [name])

    def test_letters_of_options_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"\['A', 'B'\] look like answer options"):
            refuse_other_responses(read_columns(["question", "answer", "A", "B"]), ["A", "B"])

    def test_other_columns_and_conversations_are_not(self) -> None:
        names = ["hint", "description", "scotland", "a", "edit_history", "reasoning_effort", "solution_format"]
        refuse_other_responses(read_columns(["question", "answer", *names]), names)
        refuse_other_responses(read_columns(["messages", "reasoning"]), ["reasoning"])

    @pytest.mark.parametrize(
        ("name", "value", "expected"),
        [
            ("hint", "Use it.", True),
            ("hint", " ", False),
            ("hint", None, False),
            ("score", 0.5, False),
            ("is_good", True, False),
            ("history", [["q", "a"]], True),
            ("choices", {"label": ["A"], "text": ["x"]}, True),
            ("embedding", [0.1, 0.2], False),
            ("image", "a.png", True),
            ("images", {"bytes": b"", "path": None}, True),
            ("row_id", "a7", False),
            ("source", "web", False),
            ("metadata", {"source": "web"}, False),
            ("task", "You are given a sentence. Translate it into French, in capital letters.", True),
            ("payload", b"abc", True),
            ("dlc_status", "ok", False),
        ],
    )
    def test_text_in(self, name: str, value: object, expected: bool) -> None:
        assert text_in(name, [None, value]) == expected


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
            ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}),
            ("messages", {"messages": {"role": ["user"], "content": ["Hi"]}}),
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
        assert not is_batch(row, layout and read_columns(row, layout))

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
            ("messages", {"messages": [{"role": ["user"], "content": ["Hi"]}, {"role": ["user"], "content": ["Hi"]}]}),
            ("tokenized", {"input_ids": [[1, 2]], "labels": [[1, 2]]}),
            ("tokenized", {"input_ids": np.array([[1, 2]]), "labels": np.array([[1, 2]])}),
            ("tokenized", {"input_ids": [torch.tensor([1, 2])], "labels": [torch.tensor([1, 2])]}),
            (None, {"a": ["x"], "b": [["y"]]}),
        ],
    )
    def test_batches(self, layout: str | None, batch: dict[str, Any]) -> None:
        assert is_batch(batch, layout and read_columns(batch, layout))

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
    reading = read_columns(dataset.column_names)
    expected = [parse_row(row, reading) for row in dataset]
    seen = []

    def look(rows: Any) -> dict[str, Any]:
        found, was_batch = rows_of(rows)
        assert was_batch == batched
        seen.extend(parse_row(row, reading) for row in found)
        return {"n": [0] * len(found)} if batched else {"n": 0}

    if kind == "iterable":
        iterable: IterableDataset = dataset.to_iterable_dataset()
        list(iterable.map(look, batched=batched))
    else:
        (dataset.with_format(kind) if kind else dataset).map(look, batched=batched, load_from_cache_file=False)
    # `map` may look at the first rows twice
    assert seen[-len(expected) :] == expected
