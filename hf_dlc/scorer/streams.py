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

import pyarrow as pa
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset, Features, IterableDataset, concatenate_datasets, load_from_disk

from hf_dlc.execution.journal import Journal, JournalError
from hf_dlc.execution.journal_files import JournalFolder
from hf_dlc.execution.peers import watch_peers
from hf_dlc.execution.processes import on_main_process, process_state
from hf_dlc.utils.content import media_columns
from hf_dlc.utils.files import read_json, write_json


logger = logging.getLogger(__name__)

STREAM_FOLDER = "stream"

_ROWS_PER_PART = 10_000
_COMPARED_ROWS = 100


def dataset_of_stream(stream: IterableDataset, run_dir: str | Path) -> Dataset:
    """
    The rows of a stream as a dataset, in the folder of a run.

    The main process writes them, part by part, and a run that was stopped goes on after the last part. A stream that
    has ended is not read again: only its first 100 rows are compared, and a warning tells how many rows there were.

    Args:
        stream ([`~datasets.IterableDataset`]):
            The rows, all of them in the main process.
        run_dir (`str` or `Path`):
            Folder of the journal.

    Returns:
        [`~datasets.Dataset`]: Mapped into memory, the same in every process.

    Raises:
        ValueError: If the stream is split among nodes, or if a column changes its type on the way.
        JournalError: If the folder holds another run or the rows of another stream, is in use, or cannot be written.
    """
    if getattr(stream, "_distributed", None) is not None:
        raise ValueError(
            "the stream is split among nodes. Hand the whole stream to score(), which deals out its rows."
        )
    stream = stream.with_format(None)
    if stream.features is not None:
        stream = stream.decode(False)  # pictures stay as they are stored
    folder, state = Path(run_dir, STREAM_FOLDER), process_state()
    with watch_peers(state) as peers:
        on_main_process(partial(_write, stream, Journal(run_dir), folder), state, peers)
    parts = [load_from_disk(str(part)) for part in _parts(folder)]
    if not parts:
        return Dataset.from_dict({name: [] for name in stream.features or ()}, features=stream.features)
    return _together(parts)


def _write(stream: IterableDataset, journal: Journal, folder: Path) -> None:
    """Write the rows that are not there yet."""
    if journal.exists() and not folder.exists():
        raise JournalError(f"{journal.folder} holds the run of a dataset, not of a stream. Use another folder.")
    files = JournalFolder(journal.folder, (STREAM_FOLDER,))
    with journal.hold():
        files.make_parts()
        parts = _readable(folder)
        if parts:
            _require_same(stream, parts[0], folder)
        if (known := read_json(folder / "stream.json")) is not None:
            logger.warning(
                "the stream was read to its end before and is not read again: its %s rows are in %s. Delete that "
                "folder if the stream has other rows now",
                known.get("rows"),
                folder,
            )
            return
        count = sum(map(len, parts))
        for number, rows in enumerate(_in_parts(stream.skip(count)), start=len(parts)):
            part = _part_of(rows, stream.features)
            parts.append(part)
            _together(parts)  # refuses now what cannot be put together later
            with files.writing():  # not around all of it: a stream that cannot be read is something else
                _save(part, folder / f"part-{number:06d}")
            count += len(part)
        with files.writing():
            write_json(folder / "stream.json", {"rows": count})
        logger.info("read %d rows of the stream into %s", count, folder)


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*"))


def _readable(folder: Path) -> list[Dataset]:
    """The parts that are there; one that cannot be read is removed with all behind it, which are read again."""
    for draft in folder.glob(".draft-*"):  # of a run that was killed
        shutil.rmtree(draft)
    found: list[Dataset] = []
    for place, path in enumerate(paths := _parts(folder)):
        try:
            found.append(load_from_disk(str(path)))
        except (OSError, ValueError, pa.ArrowException) as error:
            logger.warning("%s cannot be read (%s): the stream is read again from there", path, error)
            (folder / "stream.json").unlink(missing_ok=True)
            for damaged in paths[place:]:
                shutil.rmtree(damaged)
            break
    return found


def _in_parts(stream: IterableDataset) -> Iterator[list[dict[str, Any]]]:
    rows = iter(stream)
    return iter(lambda: list(islice(rows, _ROWS_PER_PART)), [])


def _part_of(rows: list[dict[str, Any]], features: Features | None) -> Dataset:
    """Some rows as a dataset; those of a stream without types need not all have the same keys."""
    if features is not None:
        return Dataset.from_list(rows, features=features)
    names = dict.fromkeys(name for row in rows for name in row)
    return Dataset.from_dict({name: [row.get(name) for row in rows] for name in names})


def _together(parts: list[Dataset]) -> Dataset:
    """All rows as they are; a column that is missing, or empty, in some parts has its type from the others."""
    try:
        return concatenate_datasets(parts)
    except ValueError as error:
        raise ValueError(
            f"the rows of the stream change their types on the way: {error} Give the stream types first, by "
            "stream.cast(features)."
        ) from error


def _save(part: Dataset, path: Path) -> None:
    """Write a part whole, or not at all."""
    draft = path.with_name(f".draft-{path.name}")
    part.save_to_disk(str(draft))
    for file in draft.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())
    os.replace(draft, path)


def _require_same(stream: IterableDataset, there: Dataset, folder: Path) -> None:
    """Refuse a stream that begins with other rows; pictures and sound are not looked at."""
    rows = list(stream.take(_COMPARED_ROWS))
    media = media_columns(there)
    here = repr([{name: row.get(name) for name in there.column_names if name not in media} for row in rows])
    known = there.remove_columns(media).select(range(min(_COMPARED_ROWS, len(there)))).to_list()
    if here != repr(known) or {name for row in rows for name in row} - set(there.column_names):
        raise JournalError(
            f"{folder} holds the rows of another stream: its first {_COMPARED_ROWS} rows are others. Use another "
            "folder, or delete that folder to start anew."
        )
