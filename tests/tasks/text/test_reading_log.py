from __future__ import annotations

import logging
from typing import Any

import pytest
import transformers  # before datasets, which else prints two import notes
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from transformers import PreTrainedTokenizerBase

from hf_dlc.scores.columns import OK
from hf_dlc.tasks.text.encoding import RowEncoder


assert transformers.__version__

ROW = {"question": "How many?", "context": "A table.", "answer": "Two.", "hint": "Count.", "id": "a7", "score": 1}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="hf_dlc.tasks.text.reading_log")
    return caplog


def levels(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.levelname for record in log.records]


def test_what_is_read_is_said_once(tokenizer: PreTrainedTokenizerBase, log: pytest.LogCaptureFixture) -> None:
    encoder = RowEncoder(tokenizer)
    for _ in range(3):
        encoder.encode([ROW, ROW])
    assert levels(log) == ["INFO", "WARNING"]
    assert log.messages[0] == (
        "rows are read as question_answer: 'question' as instruction, 'answer' as response, 'context' as input; as "
        "turns of the tokenizer's chat template; learned: the response, end of turn or sequence included; not read: "
        "'hint', 'id', 'score'"
    )
    assert log.messages[1].startswith(
        "the layout 'question_answer' does not read these columns, which hold text, pictures or sound: 'hint'. Map"
    )


def test_another_dataset_is_another_matter(tokenizer: PreTrainedTokenizerBase, log: pytest.LogCaptureFixture) -> None:
    encoder = RowEncoder(tokenizer)
    encoder.encode([ROW])
    encoder.begin_dataset()
    encoder.encode([ROW])
    assert levels(log) == ["INFO", "WARNING"] * 2


def test_text_that_comes_late_is_named_too(tokenizer: PreTrainedTokenizerBase, log: pytest.LogCaptureFixture) -> None:
    encoder = RowEncoder(tokenizer)
    encoder.encode([{"text": "a", "note": None}])
    encoder.encode([{"text": "a", "note": "b"}])
    assert levels(log) == ["INFO", "WARNING"]
    assert encoder.reading.unread_text == ("note",)


def test_the_record(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = RowEncoder(tokenizer)
    assert encoder.reading is None
    encoder.encode([ROW])
    assert encoder.reading.layout == "question_answer"
    assert encoder.reading.columns == {"instruction": "question", "response": "answer", "input": "context"}
    assert encoder.reading.unread == ("hint", "id", "score")
    assert encoder.reading.unread_text == ("hint",)


@pytest.mark.parametrize(
    ("row", "settings", "template"),
    [
        ({"prompt": "a", "completion": "b"}, {}, "as raw text"),
        ({"instruction": "a", "output": "b"}, {"template": "alpaca"}, "as the Alpaca prompt"),
        ({"input_ids": [5, 6], "labels": [5, 6]}, {}, "as token ids"),
        ({"instruction": "a", "output": None}, {}, "as nothing that can be scored"),
        ({"a": 1}, {"template": lambda row: {"prompt": "a", "completion": "b"}}, "as raw text"),
    ],
)
def test_what_rows_go_through(
    tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], settings: dict[str, Any], template: str
) -> None:
    encoder = RowEncoder(tokenizer, **settings)
    encoder.encode([row])
    assert encoder.reading.template == template


def test_a_template_file_is_named(tokenizer: PreTrainedTokenizerBase, tmp_path: Any) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(tokenizer.chat_template, encoding="utf-8")
    encoder = RowEncoder(tokenizer, template=path)
    encoder.encode([ROW])
    assert encoder.reading.template == "as turns of the chat template mine.jinja"


@pytest.mark.parametrize("name", ["choices", "Option A", "reasoning", "solution"])
def test_rows_with_another_response_are_refused(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    row = {"question": "a", "answer": "b", name: "text"}
    with pytest.raises(ValueError, match=rf"the columns \['{name}'\] look like"):
        RowEncoder(tokenizer).encode([row])
    [encoding] = RowEncoder(tokenizer, columns={name: "ignore"}).encode([row])
    assert encoding.status == OK
    RowEncoder(tokenizer).encode([{**row, name: 3}])  # a number is no option and no reasoning


@pytest.mark.parametrize(
    ("row", "settings"),
    [
        ({"prompt": "a", "completion": "b", "persona": "c"}, {"columns": {"persona": "system"}}),
        ({"prompt": "a", "completion": "b", "functions": "[]"}, {"columns": {"functions": "tools"}}),
        (
            {"instruction": "a", "output": "b", "functions": "[]"},
            {"columns": {"functions": "tools"}, "template": "alpaca"},
        ),
    ],
)
def test_a_mapped_column_without_a_place(
    tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], settings: dict[str, Any]
) -> None:
    [mapped] = settings["columns"]
    with pytest.raises(ValueError, match=rf"`columns` maps \['{mapped}'\], and nothing would read them"):
        RowEncoder(tokenizer, **settings).encode([row])


def test_a_system_prompt_beside_raw_text_is_named(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = RowEncoder(tokenizer)
    encoder.encode([{"prompt": "a", "completion": "b", "system_prompt": "Be brief."}])
    assert encoder.reading.unread_text == ("system_prompt",)
    assert "system" not in encoder.reading.columns


def test_what_the_template_makes_of_rows_is_in_the_record(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = (
        "{% for m in messages if m.role != 'system' %}"
        "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    roles = ["system", "user", "narrator", "assistant"]
    encoder = RowEncoder(tokenizer)
    encoder.encode([{"messages": [{"role": role, "content": f"said by {role}"} for role in roles]}])
    assert encoder.reading.dropped == ("content of system turns",)
    assert encoder.reading.unknown_roles == ("narrator",)
    assert str(encoder.reading).endswith(
        "; not shown by the template: content of system turns; unknown to the template: the roles 'narrator'"
    )


def test_a_system_prompt_that_gives_way_is_named(
    tokenizer: PreTrainedTokenizerBase, log: pytest.LogCaptureFixture
) -> None:
    messages = [{"role": role, "content": f"said by {role}"} for role in ("system", "user", "assistant")]
    encoder = RowEncoder(tokenizer)
    encoder.encode(
        [{"messages": messages, "system": "said by system"}, {"messages": messages[1:], "system": "Other."}]
    )
    assert "different system prompts" not in log.text
    encoder.encode([{"messages": messages, "system": "Other."}])
    assert "the column 'system' and the first message of a row hold different system prompts" in log.text


def test_the_latest_columns_are_those_that_were_read(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = RowEncoder(tokenizer)
    encoder.encode([ROW])
    encoder.encode([{"text": "a"}])
    assert (encoder.reading.layout, encoder.reading.unread_text) == ("text", ())


def test_raw_text_among_messages_leaves_the_system_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    ask, say = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    encoder = RowEncoder(tokenizer)
    encoder.encode(
        [{"prompt": "a", "completion": "b", "system": "S"}, {"prompt": [ask], "completion": [say], "system": "S"}]
    )
    assert encoder.reading.unread_text == ("system",)


def test_numbers_without_their_type_are_named(
    tokenizer: PreTrainedTokenizerBase, log: pytest.LogCaptureFixture
) -> None:
    features = Features({"prompt": Value("string"), "completion": ClassLabel(names=["no", "yes"])})
    dataset = Dataset.from_dict({"prompt": ["a", "b"], "completion": [1, 0]}, features=features)
    encoder = RowEncoder(tokenizer)
    dataset.map(lambda rows: {"n": [row.length for row in encoder.encode(encoder.rows_of(rows)[0])]}, batched=True)
    assert "whole numbers" not in log.text
    for row in dataset.to_iterable_dataset().map(lambda row: {"n": encoder.encode(encoder.rows_of(row)[0])[0].length}):
        assert row["n"] > 0
    assert log.text.count("the column 'completion' holds whole numbers, which are read as text") == 1


def test_classes_are_read_by_name(tokenizer: PreTrainedTokenizerBase) -> None:
    features = Features({"prompt": Value("string"), "completion": ClassLabel(names=["no", "yes"])})
    dataset = Dataset.from_dict({"prompt": ["a", "b", "c"], "completion": [1, 0, -1]}, features=features)
    encoder = RowEncoder(tokenizer)
    [rows] = encoder.batches_of(dataset, 10)
    assert [row["completion"] for row in rows] == ["yes", "no", None]
    seen: list[Any] = []
    dataset.map(lambda rows: seen.extend(encoder.rows_of(rows)[0]), batched=True)
    dataset.map(lambda row: seen.extend(encoder.rows_of(row)[0]))
    assert [row["completion"] for row in seen] == ["yes", "no", None] * 2


def test_a_picture_is_no_text(tokenizer: PreTrainedTokenizerBase) -> None:
    dataset = Dataset.from_dict({"text": [None]}, features=Features({"text": Image()}))
    with pytest.raises(ValueError, match="'text' must hold text to be read as text, got pictures or sound"):
        list(RowEncoder(tokenizer).batches_of(dataset, 10))


def test_pictures_are_not_decoded(tokenizer: PreTrainedTokenizerBase) -> None:
    broken = {"bytes": b"broken", "path": None}
    features = Features({"text": Value("string"), "image": Image(), "tags": List(Value("string"))})
    columns = {"text": ["a", "b"], "image": [broken, broken], "tags": [[], []]}
    dataset = Dataset.from_dict(columns, features=features)
    encoder = RowEncoder(tokenizer)
    [rows] = encoder.batches_of(dataset, 10)
    assert [row.status for row in encoder.encode(rows)] == [OK, OK]
    assert encoder.reading.unread_text == ("image",)
    seen: list[Any] = []
    dataset.map(lambda rows: seen.extend(encoder.rows_of(rows)[0]), batched=True)
    dataset.map(lambda row: seen.extend(encoder.rows_of(row)[0]))
    assert [row["text"] for row in seen] == ["a", "b"] * 2
