"""Streams that are scored with a journal: their rows are written into its folder, once, and are those of a dataset."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from datasets import (
    ClassLabel,
    Dataset,
    Features,
    Image,
    IterableDataset,
    IterableDatasetDict,
    Value,
    load_dataset,
)
from datasets.distributed import split_dataset_by_node
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.execution.journal_files import JournalError
from hf_dlc.scorer import streams
from hf_dlc.scorer.streams import dataset_of_stream
from tests.rows import many_rows, write_rows


ROWS = many_rows(11, skipped=[3])


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_ROWS_PER_PART", 4)
    monkeypatch.setattr(streams, "_COMPARED_ROWS", 2)
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture
def scorer(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> DLCScorer:
    return DLCScorer(llama, tokenizer, DLCConfig(schedule="0, 0.1"))


class Source:
    """Rows that are counted as they are read; reading fails at one of them."""

    def __init__(self, rows: list[dict[str, Any]], fails_at: int | None = None) -> None:
        self.rows, self.fails_at, self.read = rows, fails_at, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for place, row in enumerate(self.rows):
            if place == self.fails_at:
                raise KeyboardInterrupt
            self.read += 1
            yield row


def stream_of(source: Source, features: Features | None = None) -> IterableDataset:
    return IterableDataset.from_generator(lambda: iter(source), features=features)


def test_is_scored_as_a_dataset(scorer: DLCScorer, tmp_path: Path) -> None:
    scored = scorer.score(stream_of(source := Source(ROWS)), run_dir=tmp_path)
    expected = scorer.score(Dataset.from_list(ROWS))
    assert str(scored.to_dict()) == str(expected.to_dict())
    read = source.read
    again = scorer.score(stream_of(source), run_dir=tmp_path)
    assert str(again.to_dict()) == str(expected.to_dict())
    assert source.read <= read + 3  # its first rows, to know it again


def test_of_files(scorer: DLCScorer, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", ROWS)
    stream = load_dataset("json", data_files=str(path), split="train", streaming=True)
    scored = scorer.score(stream, run_dir=tmp_path / "run")
    assert scored["output"][:] == [row["output"] for row in ROWS]


def test_goes_on_after_the_last_part(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        dataset_of_stream(stream_of(Source(ROWS, fails_at=9)), tmp_path)
    parts = sorted(path.name for path in (tmp_path / "stream").iterdir())
    assert parts == ["part-000000", "part-000001"]
    (tmp_path / "stream" / ".draft-part-000002").mkdir()  # as a kill leaves it
    found = dataset_of_stream(stream_of(Source(ROWS)), tmp_path)
    assert found.to_list() == ROWS
    assert dataset_of_stream(stream_of(Source(ROWS)), tmp_path)._fingerprint == found._fingerprint


@pytest.mark.parametrize("rows", [ROWS[::-1], ROWS[1:], ROWS[:1], []], ids=["reversed", "shifted", "short", "empty"])
def test_another_stream_is_refused(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    dataset_of_stream(stream_of(Source(ROWS)), tmp_path)
    with pytest.raises(JournalError, match="the rows of another stream"):
        dataset_of_stream(stream_of(Source(rows)), tmp_path)


def test_types_are_those_of_the_stream(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])})
    rows = [{"text": str(place), "label": place % 2} for place in range(6)]
    found = dataset_of_stream(stream_of(Source(rows), features), tmp_path)
    assert found.features == features
    assert found.to_list() == rows


def test_without_rows(tmp_path: Path) -> None:
    features = Features({"text": Value("string")})
    assert dataset_of_stream(stream_of(Source([]), features), tmp_path).features == features


def test_rows_without_types_are_kept_as_they_are(tmp_path: Path) -> None:
    """A column that is empty at first, a key that comes later."""
    message = {"role": "user", "content": "a"}
    rows = [{"note": None, "turns": [message]} for _ in range(5)]
    rows += [{"note": "text", "turns": [message], "input": "b"} for _ in range(5)]
    found = dataset_of_stream(stream_of(Source(rows)), tmp_path)
    assert found.to_list() == [{**row, "input": row.get("input")} for row in rows]


def test_a_column_that_changes_its_type_is_refused(tmp_path: Path) -> None:
    """An answer of 4.5 must not become 4, nor an answer of 4 become 4.0."""
    rows = [{"answer": place if place < 5 else place + 0.5} for place in range(9)]
    with pytest.raises(ValueError, match=r"change their types on the way: .*answer.* stream\.cast\(features\)"):
        dataset_of_stream(stream_of(Source(rows)), tmp_path)


def test_not_a_number_is_the_same_again(tmp_path: Path) -> None:
    rows = [{"text": "a", "score": float("nan")} for _ in range(5)]
    dataset_of_stream(stream_of(Source(rows)), tmp_path)
    dataset_of_stream(stream_of(Source(rows)), tmp_path)
    with pytest.raises(JournalError, match="the rows of another stream"):
        dataset_of_stream(stream_of(Source([{**row, "more": 1} for row in rows])), tmp_path)


@pytest.mark.parametrize("kind", ["pandas", "arrow", "numpy"])
def test_a_format_changes_nothing(kind: str, tmp_path: Path) -> None:
    stream = Dataset.from_list(ROWS).to_iterable_dataset().with_format(kind)
    assert dataset_of_stream(stream, tmp_path).to_list() == ROWS


def test_pictures_stay_as_they_are_stored(tmp_path: Path) -> None:
    picture = io.BytesIO()
    PIL.Image.effect_noise((24, 24), 90).save(picture, "JPEG", quality=95)
    rows = {"image": [{"bytes": picture.getvalue(), "path": None}] * 5, "label": [0] * 5}
    stream = Dataset.from_dict(rows, features=Features({"image": Image(), "label": Value("int64")}))
    for _ in range(2):
        found = dataset_of_stream(stream.to_iterable_dataset(), tmp_path)
    assert isinstance(found.features["image"], Image)
    assert found.cast_column("image", Image(decode=False))[0]["image"]["bytes"] == picture.getvalue()


def test_a_part_of_a_stream_is_refused(tmp_path: Path) -> None:
    stream = split_dataset_by_node(Dataset.from_list(ROWS).to_iterable_dataset(), 0, 2)
    with pytest.raises(ValueError, match="Hand the whole stream to score"):
        dataset_of_stream(stream, tmp_path)


def test_the_run_of_a_dataset_is_left_alone(scorer: DLCScorer, tmp_path: Path) -> None:
    scorer.score(Dataset.from_list(ROWS), run_dir=tmp_path)
    with pytest.raises(JournalError, match="holds the run of a dataset"):
        scorer.score(stream_of(Source(ROWS)), run_dir=tmp_path)
    assert not (tmp_path / "stream").exists()


def test_a_part_that_cannot_be_read_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset_of_stream(stream_of(Source(ROWS)), tmp_path)
    [path] = (tmp_path / "stream" / "part-000001").glob("*.arrow")
    path.write_bytes(b"")
    assert dataset_of_stream(stream_of(Source(ROWS)), tmp_path).to_list() == ROWS
    assert "the stream is read again from there" in caplog.text


def test_that_it_is_not_read_again_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset_of_stream(stream_of(Source(ROWS)), tmp_path)
    assert caplog.text == ""
    dataset_of_stream(stream_of(Source(ROWS)), tmp_path)
    assert "its 11 rows are in" in caplog.text


def test_a_disk_that_takes_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("hf_dlc.scorer.streams.os.fsync", full)
    with pytest.raises(JournalError, match="Make room and run the same command again"):
        dataset_of_stream(stream_of(Source(ROWS)), tmp_path)


def test_a_stream_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    """And not that the folder cannot be written."""

    def rows() -> Iterator[dict[str, Any]]:
        yield from ROWS[:5]
        raise ConnectionError("the server is gone")

    with pytest.raises(ConnectionError, match=r"^the server is gone$"):
        dataset_of_stream(IterableDataset.from_generator(rows), tmp_path)


def test_several_streams_are_scored_one_by_one(scorer: DLCScorer, tmp_path: Path) -> None:
    streams = IterableDatasetDict({"train": stream_of(Source(ROWS))})
    with pytest.raises(TypeError, match=r"one split at a time\.$"):
        scorer.score(streams, run_dir=tmp_path)


def test_needs_a_folder(scorer: DLCScorer) -> None:
    with pytest.raises(TypeError, match="or pass run_dir, into which its rows are written"):
        scorer.score(stream_of(Source(ROWS)))
