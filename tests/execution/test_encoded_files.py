"""Encoded rows in the folder of a journal: the same rows as in memory, encoded once, and never believed unchecked."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.execution import encoded_files
from hf_dlc.execution.encoded_files import EncodedFiles
from hf_dlc.execution.journal import Journal
from hf_dlc.execution.journal_files import JournalError, digest_of
from hf_dlc.tasks.facts import facts_of, rows_digest
from hf_dlc.tasks.text.encoding import RowEncoder
from hf_dlc.tasks.text.task import CausalLMTask
from tests.rows import ALPACA_ROWS, SKIPPED_ROWS


ROWS = [*ALPACA_ROWS, *SKIPPED_ROWS.values(), *ALPACA_ROWS[:2]]
MakeTask = Callable[..., CausalLMTask]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded_files, "_ROWS_PER_BLOCK", 3)
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture
def dataset() -> Dataset:
    return Dataset.from_list(ROWS)


@pytest.fixture
def make_task(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> MakeTask:
    """With the Alpaca prompt, whose beginning rows share."""
    return lambda: CausalLMTask(llama, RowEncoder(tokenizer, template="alpaca"))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Sizes of the parts that are encoded from now on."""
    sizes, encode_part = [], CausalLMTask.encode_part

    def counting(self: CausalLMTask, part: Dataset) -> Any:
        sizes.append(len(part))
        return encode_part(self, part)

    monkeypatch.setattr(CausalLMTask, "encode_part", counting)
    return sizes


def blocks(folder: Path) -> list[Path]:
    return sorted((folder / "rows").glob("rows-*.arrow"))


def assert_same(found: Any, expected: Any) -> None:
    assert len(found) == len(expected)
    assert rows_digest(found) == rows_digest(expected)
    assert [(row.why, row.shared_head, row.shared_head_length) for row in found] == [
        (row.why, row.shared_head, row.shared_head_length) for row in expected
    ]
    for one, other in zip(facts_of(found), facts_of(list(expected)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_are_the_rows_that_memory_would_hold(dataset: Dataset, make_task: MakeTask, tmp_path: Path) -> None:
    found = EncodedFiles(tmp_path, "a").encode(make_task(), dataset)
    expected = make_task().encode_dataset(dataset)
    assert_same(found, expected)
    assert {row.status for row in expected} == {"ok", "empty_response"}
    assert any(row.shared_head for row in expected)
    assert len(blocks(tmp_path)) == -(-len(ROWS) // 3)


def test_are_encoded_once(
    dataset: Dataset, make_task: MakeTask, tmp_path: Path, encoded: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    EncodedFiles(tmp_path, "a").encode(first := make_task(), dataset)
    assert sum(encoded) == len(ROWS)
    with caplog.at_level(logging.INFO):
        caplog.clear()
        found = EncodedFiles(tmp_path, "a").encode(task := make_task(), dataset)
    assert sum(encoded) == len(ROWS)
    assert_same(found, make_task().encode_dataset(dataset))
    assert task.reading == first.reading
    assert str(first.reading) in caplog.messages  # what is read is said again, by who reads no row


def test_of_no_row(make_task: MakeTask, dataset: Dataset, tmp_path: Path) -> None:
    assert len(EncodedFiles(tmp_path, "a").encode(make_task(), dataset.select([]))) == 0


def test_a_killed_process_leaves_its_blocks(
    dataset: Dataset, make_task: MakeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[int]
) -> None:
    task, encode = make_task(), CausalLMTask.encode

    def failing(self: CausalLMTask, rows: Any) -> Any:
        if len(encoded) == 3:
            raise KeyboardInterrupt
        return encode(self, rows)

    monkeypatch.setattr(CausalLMTask, "encode", failing)
    with pytest.raises(KeyboardInterrupt):
        EncodedFiles(tmp_path, "a").encode(task, dataset)
    assert len(blocks(tmp_path)) == 2
    monkeypatch.setattr(CausalLMTask, "encode", encode)
    found = EncodedFiles(tmp_path, "a").encode(make_task(), dataset)
    assert sum(encoded) == len(ROWS) + 3  # the block in which it was killed comes twice
    assert_same(found, make_task().encode_dataset(dataset))


def test_processes_take_blocks_that_are_not_there_yet(
    dataset: Dataset, make_task: MakeTask, tmp_path: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of three begins with the second third; what it has made, the first one takes from the folder."""
    starts, select = [], Dataset.select
    monkeypatch.setattr(
        Dataset, "select", lambda self, places: (starts.append(next(iter(places))), select(self, places))[1]
    )
    EncodedFiles(tmp_path, "a").encode(make_task(), dataset, index=1, count=3)
    numbers = range(-(-len(ROWS) // 3))
    assert starts[0] == 3 * (len(numbers) // 3)
    assert sorted(starts) == [3 * number for number in numbers]
    found = EncodedFiles(tmp_path, "a").encode(make_task(), dataset, index=0, count=3)
    assert sum(encoded) == len(ROWS)
    assert_same(found, make_task().encode_dataset(dataset))


def test_a_reading_is_that_of_all_processes(make_task: MakeTask, tmp_path: Path) -> None:
    """Each saw other rows: what was not read in any of them is named."""
    rows = [{"prompt": "a b", "completion": " c d", "note": None} for _ in range(6)]
    rows[5] = {**rows[5], "note": "some text that is not read"}
    dataset = Dataset.from_list(rows)
    for index in (0, 1):
        EncodedFiles(tmp_path, "a").encode(task := make_task(), dataset, index, 2)
    assert task.reading.unread_text == ("note",)
    task = make_task()
    task.encode_dataset(dataset)
    EncodedFiles(tmp_path, "a").encode(again := make_task(), dataset)
    assert again.reading == task.reading


def rewritten(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """A block that somebody has changed, and that has the right digest again."""
    with pa.OSFile(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    table = change(table)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    data = sink.getvalue()
    path.unlink()
    number = path.name.split("-")[1]
    path.with_name(f"rows-{number}-{digest_of(data)}.arrow").write_bytes(data)


def with_column(name: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[pa.Table], pa.Table]:
    def changed(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        values = pa.array(change(table.column(name).to_pylist()), table.schema.field(name).type)
        return table.set_column(place, table.schema.field(name), values)

    return changed


FORGED = {
    "an id that the model does not know": with_column("input_ids", lambda rows: [[10**6] * len(row) for row in rows]),
    "a negative id": with_column("input_ids", lambda rows: [[-1] * len(row) for row in rows]),
    "a mark of 7": with_column("targets", lambda rows: [[7] * len(row) for row in rows]),
    "more tokens than marks": with_column("input_ids", lambda rows: [[*row, 1] for row in rows]),
    "no target": with_column("targets", lambda rows: [[0] * len(row) for row in rows]),
    "an unknown head": with_column("shared_head", lambda rows: [99 for _ in rows]),
    "a negative head": with_column("shared_head", lambda rows: [-1 for _ in rows]),
    "a head longer than the row": lambda table: with_column("shared_head", lambda rows: [1 for _ in rows])(
        with_column("targets", lambda rows: [[1] * 2 for _ in rows])(
            with_column("input_ids", lambda rows: [[1] * 2 for _ in rows])(table)
        )
    ),
    "a status of rows without tokens": with_column("status", lambda rows: ["invalid_row" for _ in rows]),
    "a row too few": lambda table: table.slice(1),
    "a column less": lambda table: table.drop_columns(["why"]),
    "another type": lambda table: table.set_column(2, "shared_head", pa.array([0.0] * len(table))),
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED)
def test_a_forged_block_is_set_aside(
    change: Callable[[pa.Table], pa.Table],
    dataset: Dataset,
    make_task: MakeTask,
    tmp_path: Path,
    encoded: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    EncodedFiles(tmp_path, "a").encode(make_task(), dataset)
    rewritten(blocks(tmp_path)[0], change)
    found = EncodedFiles(tmp_path, "a").encode(make_task(), dataset)
    assert "was set aside as damaged" in caplog.text
    assert sum(encoded) == len(ROWS) + 3
    assert_same(found, make_task().encode_dataset(dataset))


BROKEN = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "a flipped bit": lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
    "no Arrow": lambda data: b"rows",
}


@pytest.mark.parametrize("has_right_digest", [False, True])
@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_a_broken_block_is_set_aside(
    change: Callable[[bytes], bytes],
    has_right_digest: bool,
    dataset: Dataset,
    make_task: MakeTask,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    EncodedFiles(tmp_path, "a").encode(make_task(), dataset)
    path = blocks(tmp_path)[1]
    data = change(path.read_bytes())
    path.unlink()
    name = f"rows-00000001-{digest_of(data)}.arrow" if has_right_digest else path.name
    path.with_name(name).write_bytes(data)
    found = EncodedFiles(tmp_path, "a").encode(make_task(), dataset)
    assert_same(found, make_task().encode_dataset(dataset))
    assert "was set aside as damaged" in caplog.text or has_right_digest  # a flipped bit may be one of padding


@pytest.mark.parametrize(
    "text", [b"", b"{}", b'{"key": "a", "reading": {"layout": 1}}', b"[]", b'{"key": "a", "reading": 3}']
)
def test_a_broken_reading_is_set_aside(
    text: bytes, dataset: Dataset, make_task: MakeTask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    EncodedFiles(tmp_path, "a").encode(make_task(), dataset)
    [path] = (tmp_path / "rows").glob("reading-*.json")
    path.unlink()
    path.with_name(f"reading-{digest_of(text)}.json").write_bytes(text)
    EncodedFiles(tmp_path, "a").encode(make_task(), dataset)
    assert "was set aside as damaged" in caplog.text


def test_a_link_is_not_followed(dataset: Dataset, make_task: MakeTask, tmp_path: Path, encoded: list[int]) -> None:
    EncodedFiles(tmp_path / "a", "a").encode(make_task(), dataset)
    [first, *_] = blocks(tmp_path / "a")
    first.rename(tmp_path / "elsewhere")
    first.symlink_to(tmp_path / "elsewhere")
    EncodedFiles(tmp_path / "a", "a").encode(make_task(), dataset)
    assert sum(encoded) == len(ROWS) + 3


def test_a_folder_that_is_a_file_is_refused(dataset: Dataset, make_task: MakeTask, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(JournalError, match="run_dir that is a folder"):
        EncodedFiles(tmp_path / "a", "a").encode(make_task(), dataset)


def test_rows_of_another_dataset_are_left_alone_and_removed_by_who_holds(
    dataset: Dataset, make_task: MakeTask, tmp_path: Path, encoded: list[int]
) -> None:
    EncodedFiles(tmp_path, "a").encode(make_task(), dataset)
    found = EncodedFiles(tmp_path, "b").encode(make_task(), other := dataset.select(range(4)))
    assert_same(found, make_task().encode_dataset(other))
    assert sum(encoded) == len(ROWS) + 4
    EncodedFiles(tmp_path, "b").remove_others()
    assert len(blocks(tmp_path)) == 2
    assert [json.loads(path.read_bytes())["key"] for path in (tmp_path / "rows").glob("reading-*.json")] == ["b"]
    EncodedFiles(tmp_path, "b").encode(make_task(), other)
    assert sum(encoded) == len(ROWS) + 4


def test_rows_that_changed_under_the_same_key_are_encoded_again(
    dataset: Dataset, make_task: MakeTask, tmp_path: Path, encoded: list[int]
) -> None:
    """A fingerprint does not see all changes."""
    EncodedFiles(tmp_path, "a").encode(make_task(), dataset)
    changed = Dataset.from_list([{**row, "output": "other"} if place == 4 else row for place, row in enumerate(ROWS)])
    for _ in range(2):
        assert_same(EncodedFiles(tmp_path, "a").encode(make_task(), changed), make_task().encode_dataset(changed))
    assert sum(encoded) == len(ROWS) + 3
    shuffled = concatenate_datasets([dataset.select([*range(6, 12), *range(6)]).select([*range(6, 12), *range(6)])])
    EncodedFiles(tmp_path, "a").encode(make_task(), shuffled)  # the same rows, otherwise in memory
    assert sum(encoded) == len(ROWS) + 3


def test_views_of_text_are_kept_as_well(make_task: MakeTask, tmp_path: Path, encoded: list[int]) -> None:
    """pyarrow cannot take rows from them."""
    texts = {name: pa.array([row[name] for row in ALPACA_ROWS], pa.string_view()) for name in ALPACA_ROWS[0]}
    viewed = Dataset(pa.table(texts))
    for _ in range(2):
        found = EncodedFiles(tmp_path, "a").encode(make_task(), viewed)
    assert_same(found, make_task().encode_dataset(Dataset.from_list(ALPACA_ROWS)))
    assert sum(encoded) == len(ALPACA_ROWS)


def test_what_another_process_has_set_aside_is_no_error(
    dataset: Dataset, make_task: MakeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    EncodedFiles(tmp_path, "a").encode(make_task(), dataset)
    blocks(tmp_path)[0].write_bytes(b"no Arrow")
    rename = os.rename

    def faster(source: Path, target: Path) -> None:
        rename(source, target)
        raise FileNotFoundError

    monkeypatch.setattr("os.rename", faster)
    found = EncodedFiles(tmp_path, "a").encode(make_task(), dataset)
    assert_same(found, make_task().encode_dataset(dataset))


@pytest.mark.parametrize("beside", ["run.lock", "journal.json", "notes.txt", None])
def test_nothing_is_left_of_a_run_that_was_refused(
    beside: str | None, dataset: Dataset, make_task: MakeTask, tmp_path: Path
) -> None:
    """But for what somebody else has in the folder, or a run that has begun there."""
    folder = tmp_path / "journal"
    EncodedFiles(folder, "a").encode(make_task(), dataset)
    if beside is not None:
        (folder / beside).write_text("", encoding="utf-8")
    Journal(folder).leave_nothing()
    assert folder.exists() == (beside is not None)
    assert bool(blocks(folder)) == (beside in ("run.lock", "journal.json"))


class TestRun:
    """What a scorer does with them."""

    @pytest.fixture
    def scorer(self, llama: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> DLCScorer:
        return DLCScorer(llama, tokenizer, DLCConfig(schedule="0, 0.1", scores=("confidence", "loss", "ifd")))

    def test_gives_the_scores_of_a_run_in_memory(
        self, scorer: DLCScorer, dataset: Dataset, tmp_path: Path, encoded: list[int]
    ) -> None:
        estimate = scorer.estimate(dataset, run_dir=tmp_path)
        scored = scorer.score(dataset, run_dir=tmp_path)
        assert sum(encoded) == len(ROWS)  # once for both
        expected = scorer.score(dataset)
        assert str(scored.to_dict()) == str(expected.to_dict())
        assert estimate.tokens == scorer.estimate(dataset).tokens
        scorer.score(dataset, run_dir=tmp_path)
        assert sum(encoded) == len(ROWS)

    def test_an_estimate_begins_where_its_process_does(
        self, scorer: DLCScorer, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each process makes an estimate by itself; all of them would else encode the same blocks."""
        begun, encode = [], EncodedFiles.encode
        state = SimpleNamespace(process_index=1, num_processes=2, is_main_process=False)
        monkeypatch.setattr(
            EncodedFiles, "encode", lambda *arguments: (begun.append(arguments[3:]), encode(*arguments))[1]
        )
        monkeypatch.setattr("hf_dlc.scorer.rows.process_state", lambda: state)
        scorer.estimate(dataset, run_dir=tmp_path)
        assert begun == [(1, 2)]

    def test_of_other_rows_is_refused(self, scorer: DLCScorer, tmp_path: Path, encoded: list[int]) -> None:
        """With the rows that differ, whatever was tried in between; those of the run stay."""
        dataset = Dataset.from_list(ROWS)
        scorer.score(dataset, run_dir=tmp_path)
        changed = [{**row, "output": "another"} if place in (2, 7) else row for place, row in enumerate(ROWS)]
        for _ in range(2):
            with pytest.raises(JournalError, match=r"rows\.digest differs.* 2 of the 12 rows are others .*: 2, 7\."):
                scorer.score(Dataset.from_list(changed), run_dir=tmp_path)
        with pytest.raises(JournalError, match="template"):  # its rows are none of this scorer's
            DLCScorer(scorer.model, scorer.processor, DLCConfig(schedule="0, 0.1", template="alpaca")).score(
                dataset, run_dir=tmp_path
            )
        assert not list((tmp_path / "rows").glob("_*"))
        with pytest.raises(JournalError, match=r"12 of the 12 .*: 0, 1, 2, 3, 4, 5, 6, 7, \.\.\."):
            scorer.score(Dataset.from_list([{**row, "output": "another"} for row in ROWS]), run_dir=tmp_path)
        with pytest.raises(JournalError, match=r"rows\.number is 12 there.* The first 5 rows are the same\."):
            scorer.score(Dataset.from_list(ROWS[:5]), run_dir=tmp_path)
        del encoded[:]
        scorer.score(dataset, run_dir=tmp_path)
        assert encoded == []
        assert len(blocks(tmp_path)) == 4  # those of the others are gone now

    def test_a_callable_template_is_encoded_anew(
        self, llama: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, tmp_path: Path
    ) -> None:
        """Its code may have changed under the same name."""

        def template(row: dict[str, Any]) -> dict[str, Any]:
            return {"prompt": str(row["instruction"]), "completion": f" {row['output']}"}

        config = DLCConfig(schedule="0, 0.1", template=template)
        DLCScorer(llama, tokenizer, config).score(dataset, run_dir=tmp_path)
        assert blocks(tmp_path) == []

    def test_other_options_of_the_encoding_make_other_rows(
        self, llama: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, tmp_path: Path
    ) -> None:
        keys = set()
        for options in ({}, {"max_length": 30}, {"template": "alpaca"}, {"columns": {"input": "ignore"}}):
            source = DLCScorer(llama, tokenizer, DLCConfig(schedule="0, 0.1", **options)).parts.rows
            keys |= {source.files(rows, tmp_path)._key for rows in (dataset, dataset.select(range(5)))}
        assert len(keys) == 8
