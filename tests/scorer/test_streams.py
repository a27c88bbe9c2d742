"""Streams that are scored with a journal: their rows are written into its folder, once, and are those of a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value, load_dataset
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


def test_needs_a_folder(scorer: DLCScorer) -> None:
    with pytest.raises(TypeError, match="or pass run_dir, into which its rows are written"):
        scorer.score(stream_of(Source(ROWS)))
