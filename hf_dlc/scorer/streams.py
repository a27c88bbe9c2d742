"""Streams of unknown length: their rows are written into the folder of a run, and then scored as any others."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset, IterableDataset, concatenate_datasets, load_from_disk

from hf_dlc.execution.journal import Journal, JournalError
from hf_dlc.execution.peers import watch_peers
from hf_dlc.execution.processes import on_main_process, process_state
from hf_dlc.utils.files import read_json, write_json


logger = logging.getLogger(__name__)

STREAM_FOLDER = "stream"

_ROWS_PER_PART = 10_000
_COMPARED_ROWS = 100


def dataset_of_stream(stream: IterableDataset, run_dir: str | Path) -> Dataset:
    """
    The rows of a stream as a dataset, in the folder of a run.

    The main process writes them, part by part. A run that was stopped goes on after the last part; that the stream is
    still the same is told by its first rows.

    Args:
        stream ([`~datasets.IterableDataset`]):
            The rows.
        run_dir (`str` or `Path`):
            Folder of the journal.

    Returns:
        [`~datasets.Dataset`]: Mapped into memory, the same in every process.

    Raises:
        JournalError: If the folder holds the rows of another stream, or is in use.
    """
    folder, state = Path(run_dir, STREAM_FOLDER), process_state()
    with watch_peers(state) as peers:
        on_main_process(partial(_write, stream, Journal(run_dir), folder), state, peers)
    parts = [load_from_disk(str(part)) for part in _parts(folder)]
    if not parts:
        return Dataset.from_dict({name: [] for name in stream.features or ()}, features=stream.features)
    return concatenate_datasets(parts)


def _write(stream: IterableDataset, journal: Journal, folder: Path) -> None:
    """Write the rows that are not there yet."""
    with journal.hold():
        folder.mkdir(exist_ok=True)
        for draft in folder.glob(".draft-*"):  # of a run that was killed
            shutil.rmtree(draft)
        parts = _parts(folder)
        if parts:
            _require_same(stream, load_from_disk(str(parts[0])), folder)
        if (known := read_json(folder / "stream.json")) is not None:
            logger.info("the stream was read before: %s rows are in %s", known.get("rows"), folder)
            return
        known = [load_from_disk(str(part)) for part in parts]
        features, count = known[0].features if known else stream.features, sum(map(len, known))
        for number, rows in enumerate(_in_parts(stream.skip(count)), start=len(parts)):
            part = Dataset.from_list(rows, features=features)
            features, count = part.features, count + len(part)
            _save(part, folder / f"part-{number:06d}")
        write_json(folder / "stream.json", {"rows": count})
        logger.info("read %d rows of the stream into %s", count, folder)


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*"))


def _in_parts(stream: IterableDataset) -> Iterator[list[dict[str, Any]]]:
    rows = iter(stream)
    return iter(lambda: list(islice(rows, _ROWS_PER_PART)), [])


def _save(part: Dataset, path: Path) -> None:
    """Write a part whole, or not at all."""
    draft = path.with_name(f".draft-{path.name}")
    part.save_to_disk(str(draft))
    os.replace(draft, path)


def _require_same(stream: IterableDataset, there: Dataset, folder: Path) -> None:
    rows = list(stream.take(_COMPARED_ROWS))
    here = Dataset.from_list(rows, features=there.features) if rows else there.select([])
    both = [part.with_format("arrow")[:_COMPARED_ROWS] for part in (there, here)]
    if not both[0].equals(both[1]):
        raise JournalError(
            f"{folder} holds the rows of another stream: its first {_COMPARED_ROWS} rows are others. Use another "
            "folder, or delete that folder to start anew."
        )
