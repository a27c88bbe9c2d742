"""Rows in the shapes of public files: scored on the right text in every way, or refused with the column's name."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import transformers  # before datasets, which else prints two import notes
from datasets import Dataset, Features, List, Sequence, Value

from hf_dlc import DLCScorer
from hf_dlc.cli.commands import main
from tests.rows import write_rows
from tests.ways import ALL_WAYS, WAYS


assert transformers.__version__

ASK = {"role": "user", "content": "What is it?"}
SAY = {"role": "assistant", "content": "The fox."}
HEARD = {"from": "human", "value": "What is it?"}
TOLD = {"from": "gpt", "value": "The fox."}
CHAT = {"messages": [ASK, SAY]}
SEVERAL = {**WAYS, "map in threes": ALL_WAYS["map in threes"]}


@pytest.mark.parametrize(
    ("row", "same_as", "options"),
    [
        (
            {"question": "How many?", "context": "CREATE TABLE t (a)", "answer": "SELECT 1"},
            {"instruction": "How many?", "input": "CREATE TABLE t (a)", "output": "SELECT 1"},
            {},
        ),
        (
            {"system_prompt": "Pirate.", "question": "Who?", "response": "Arr."},
            {"system": "Pirate.", "instruction": "Who?", "output": "Arr."},
            {},
        ),
        (
            {"persona": "Pirate.", **CHAT},
            {"messages": [{"role": "system", "content": "Pirate."}, ASK, SAY]},
            {"columns": {"persona": "system"}},
        ),
        ({"conversations": [{**HEARD, "from": "prompter"}, {**TOLD, "from": "assistant"}]}, CHAT, {}),
        ({"conversations": [{**HEARD, "from": "Human"}, {**TOLD, "from": "Assistant"}]}, CHAT, {}),
        ({"conversations": [HEARD, {**TOLD, "from": "bing"}]}, CHAT, {}),
        (
            {"conversations": [HEARD], "chosen": TOLD, "rejected": {**TOLD, "value": "No."}},
            {"prompt": [ASK], "completion": [SAY]},
            {"columns": {"conversations": "prompt", "chosen": "completion"}},
        ),
        (
            {"instruction": "And now?", "input": "", "output": "The dog.", "history": [["What is it?", "The fox."]]},
            {"prompt": [ASK, SAY, {**ASK, "content": "And now?"}], "completion": [{**SAY, "content": "The dog."}]},
            {},
        ),
        ({"messages": json.dumps(CHAT["messages"])}, CHAT, {}),
        ({"messages": {"role": ["user", "assistant"], "content": ["What is it?", "The fox."]}}, CHAT, {}),
        ({"prompt": ASK, "completion": SAY}, {"prompt": [ASK], "completion": [SAY]}, {}),
        ({"instruction": "Add.", "output": 42}, {"instruction": "Add.", "output": "42"}, {}),
        ({"instruction": "Add.", "output": b"abc"}, {"instruction": "Add.", "output": "abc"}, {}),
        ({"query": "What is it?", "response": "The fox."}, {"question": "What is it?", "answer": "The fox."}, {}),
        (
            {"question": "What is it?", "answer": "The fox.", "reasoning": "It barks."},
            {"question": "What is it?", "answer": "The fox."},
            {"columns": {"reasoning": "ignore"}},
        ),
    ],
)
def test_rows_that_are_read(
    make_scorer: Callable[..., DLCScorer], row: dict[str, Any], same_as: dict[str, Any], options: dict[str, Any]
) -> None:
    [expected] = make_scorer().score(Dataset.from_list([same_as]))["dlc_loss"]
    for name, way in SEVERAL.items():
        found = way(make_scorer(**options), Dataset.from_list([row] * 5))
        assert found["dlc_status"][:] == ["ok"] * 5, name
        np.testing.assert_allclose(found["dlc_loss"][:], expected, atol=1e-4, err_msg=name)


def test_a_feature_that_is_a_dict_of_lists(make_scorer: Callable[..., DLCScorer]) -> None:
    features = Features({"messages": Sequence({"role": Value("string"), "content": Value("string")})})
    rows = {"messages": [{"role": ["user", "assistant"], "content": ["What is it?", "The fox."]}] * 5}
    dataset = Dataset.from_dict(rows, features=features)
    [expected] = make_scorer().score(Dataset.from_list([CHAT]))["dlc_loss"]
    for way in SEVERAL.values():
        np.testing.assert_allclose(way(make_scorer(), dataset)["dlc_loss"][:], expected, atol=1e-4)
    assert make_scorer().estimate(dataset).rows == 5
    assert len(make_scorer().tokenize(dataset)) == 5


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"conversations": [HEARD], "chosen": TOLD, "rejected": TOLD}, r"the answer seems to stand in \['chosen'\]"),
        (
            {"conversations": [HEARD, TOLD, HEARD], "chosen": TOLD, "rejected": TOLD},
            r"the answer seems to stand in \['chosen'\]",
        ),
        ({"messages": [ASK, {**SAY, "role": "Narrator"}]}, r"column 'messages': no turn is .* \['Narrator', 'user'\]"),
        ({"instruction": "a", "output": True}, "column 'output': must be text or a number, got bool True"),
        ({"instruction": "a", "output": {"text": "b"}}, "column 'output': must be text or a number, got dict"),
        ({"instruction": {"0": "a", "1": "b"}, "output": {"0": "c", "1": "d"}}, "column 'output': must be text"),
        (
            {"messages": [ASK, {"role": "assistant", "content": [{"type": "reasoning", "text": "x"}]}]},
            "column 'messages': message 1: must be a part of the type 'text'",
        ),
        ({"conversations": [{"human": "a", "assistant": "b"}]}, "message 0: must be a dict with the name of a role"),
    ],
)
def test_rows_that_are_not_read_say_why(
    make_scorer: Callable[..., DLCScorer], row: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = Dataset.from_list([row] * 2, on_mixed_types="use_json")
    scorer = make_scorer()
    with caplog.at_level(logging.WARNING, "hf_dlc"):
        scored = scorer.score(dataset)
    assert set(scored["dlc_status"]) <= {"invalid_row", "no_target"}
    [told] = [message for message in caplog.messages if message.startswith("2 of 2 rows have no score")]
    assert re.search(why, told), told
    caplog.clear()
    dataset.map(scorer, batched=True, load_from_cache_file=False)
    assert sum("a row has no score" in message for message in caplog.messages) == 1
    assert list(scorer.estimate(dataset).first_skipped) == sorted(set(scored["dlc_status"]))


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"question": "a", "choices": ["x", "y"], "answer": 1}, r"\['choices'\] look like answer options"),
        ({"question": "a", "A": "x", "B": "y", "answer": "A"}, r"\['A', 'B'\] look like answer options"),
        ({"prompt": "a", "response": "b", "history": [["q", "r"]]}, r"\['history'\] look like earlier turns"),
        ({"question": "a", "Complex_CoT": "so", "answer": "b"}, r"\['Complex_CoT'\] look like reasoning"),
        ({"instruction": "a", "chosen": "b", "rejected": "c"}, "No known layout fits .* map 'chosen' to 'output'"),
        ({"prompt": "a", "chosen": [ASK, SAY], "rejected": [ASK, SAY]}, "No known layout fits"),
    ],
)
def test_rows_of_another_task_are_refused_by_column(
    make_scorer: Callable[..., DLCScorer], row: dict[str, Any], match: str
) -> None:
    dataset = Dataset.from_list([row] * 2)
    scorer = make_scorer()
    for act in (scorer.score, scorer.estimate, scorer.tokenize, lambda rows: rows.map(scorer, batched=True)):
        with pytest.raises(ValueError, match=match):
            act(dataset)


def test_an_unused_mapping_is_an_error_everywhere(make_scorer: Callable[..., DLCScorer]) -> None:
    dataset = Dataset.from_list([{"system_prompt": "Pirate.", "prompt": "Who?", "completion": "Arr."}])
    scorer = make_scorer(columns={"system_prompt": "system"})
    for act in (scorer.score, scorer.estimate, lambda rows: rows.map(scorer)):
        with pytest.raises(ValueError, match=r"maps \['system_prompt'\], and nothing would read them"):
            act(dataset)


class TestWhatWasRead:
    def test_estimate_and_scorer_know(self, make_scorer: Callable[..., DLCScorer]) -> None:
        scorer = make_scorer()
        assert scorer.reading_ is None
        estimate = scorer.estimate(Dataset.from_list([{"question": "a", "answer": "b", "hint": "c"}]))
        assert estimate.reading == scorer.reading_
        assert (estimate.reading.layout, estimate.reading.unread_text) == ("question_answer", ("hint",))

    def test_a_second_dataset_is_told_apart(self, make_scorer: Callable[..., DLCScorer]) -> None:
        scorer = make_scorer()
        scorer.score(Dataset.from_list([{"question": "a", "answer": "b", "hint": "c"}]))
        scorer.score(Dataset.from_list([CHAT]))
        assert (scorer.reading_.layout, scorer.reading_.unread_text) == ("messages", ())

    def test_what_is_said_changes_no_fingerprint(self, make_scorer: Callable[..., DLCScorer]) -> None:
        from datasets.fingerprint import Hasher

        scorer = make_scorer()
        before = Hasher.hash(scorer)
        scorer.score(Dataset.from_list([{"question": "a", "answer": "b", "hint": "c"}]))
        assert Hasher.hash(scorer) == before

    def test_preview(self, make_scorer: Callable[..., DLCScorer]) -> None:
        dataset = Dataset.from_list([CHAT] * 5)
        shown = make_scorer().preview(dataset, rows=2)
        assert shown.count("--- row") == 2
        assert "⟦The fox.<|im_end|>\n⟧" in shown
        assert make_scorer().preview(dataset.select([]), rows=2).count("--- row") == 0


class TestCommandLine:
    @pytest.fixture
    def command(self, taught_folder: Any, tmp_path: Any) -> Callable[..., list[str]]:
        def build(name: str, rows: list[dict[str, Any]], *options: str) -> list[str]:
            path = write_rows(tmp_path / "rows.jsonl", rows)
            fixed = (
                "--dataset",
                str(path),
                "--model",
                str(taught_folder),
                "--schedule",
                "0, 0.1",
                "--num_threads",
                "1",
            )
            return [name, *fixed, *options]

        return build

    def test_estimate_shows_rows(self, command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
        main(command("estimate", [{"question": "a", "answer": "b", "hint": "c"}] * 3, "--show", "2"))
        shown = capsys.readouterr().out
        assert shown.startswith("rows are read as question_answer: 'question' as instruction")
        assert shown.count("--- row") == 2
        assert "⟦b<|im_end|>" in shown
        assert "3 rows (none skipped" in shown

    def test_estimate_as_json(self, command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
        main(command("estimate", [{"question": "a", "answer": "b"}], "--show", "1", "--json"))
        found = json.loads(capsys.readouterr().out)
        assert found["reading"]["columns"] == {"instruction": "question", "response": "answer"}
        assert "⟦b<|im_end|>" in found["preview"]

    def test_negative_show(self, command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(command("estimate", [CHAT], "--show", "-1"))
        assert "show must be at least 0 (a whole number), got -1" in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["estimate", "score"])
    def test_no_row_that_can_be_scored(self, command: Callable[..., list[str]], name: str, tmp_path: Any) -> None:
        options = ("--output_dir", str(tmp_path / "run")) if name == "score" else ()
        with pytest.raises(SystemExit) as stop:
            main(command(name, [{"instruction": "a", "output": ["b"]}] * 2, *options))
        assert "none of the 2 rows can be scored: invalid_row 2 (row 0: column 'output': must be" in str(stop.value)

    def test_the_record_of_a_run(self, command: Callable[..., list[str]], tmp_path: Any) -> None:
        main(
            command(
                "score", [{"question": "a", "answer": "b", "hint": "c"}] * 3, "--output_dir", str(tmp_path / "run")
            )
        )
        record = json.loads((tmp_path / "run" / "scoring.json").read_text(encoding="utf-8"))
        assert record["reading"]["layout"] == "question_answer"
        assert record["reading"]["unread_text"] == ["hint"]


def test_lists_of_text_columns(make_scorer: Callable[..., DLCScorer]) -> None:
    """A column of lists beside the rows leaves the batch a batch."""
    features = Features({"instruction": Value("string"), "output": Value("string"), "tags": List(Value("string"))})
    dataset = Dataset.from_dict({"instruction": ["a"], "output": ["b"], "tags": [["x"]]}, features=features)
    assert WAYS["map batched"](make_scorer(), dataset)["dlc_status"][:] == ["ok"]
