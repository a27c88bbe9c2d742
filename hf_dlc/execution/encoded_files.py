"""
Encoded rows in the folder of a journal, written once and mapped into memory by every process.

```
rows/rows-00000012-<digest>.arrow       the rows of a block
rows/reading-<digest>.json              what was read of the dataset, as far as one process saw it
```

Processes do not wait for each other: each takes the blocks that are not there yet, beginning at a place of its own.
So a run that was killed goes on after the last block, and a process that is gone leaves its blocks to the others.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from hf_dlc.tasks.facts import rows_digest
from hf_dlc.tasks.reading import DatasetReading
from hf_dlc.utils.content import media_columns

from .journal_files import (
    MALFORMED,
    DamageError,
    JournalFolder,
    check_digest,
    digest_of,
    dump_json,
    parse_json,
)


if TYPE_CHECKING:
    from datasets import Dataset

    from hf_dlc.tasks.base import EncodedRow, Storable

logger = logging.getLogger(__name__)

T = TypeVar("T")

ENCODED_FOLDER = "rows"
BLOCK = re.compile(r"rows-([0-9]{8,})-([0-9a-f]{16})\.arrow")
READING = re.compile(r"reading-([0-9a-f]{16})\.json")

_KEY, _SOURCE = b"hf_dlc_rows", b"hf_dlc_source"
_ROWS_PER_BLOCK = 10_000
_READING_BYTES = 2**24
_SHOWN_ROWS = 8


class EncodedFiles:
    """
    The encoded rows of one dataset in a folder.

    Args:
        folder (`Path`):
            Folder of the journal.
        key (`str`):
            Digest of all that the rows follow from beside what stands in them; files of another key are left alone.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._files, self._key = JournalFolder(folder, (ENCODED_FOLDER,)), key

    def encode(self, storable: Storable, dataset: Dataset, index: int = 0, count: int = 1) -> Sequence[EncodedRow]:
        """
        The rows of a dataset, encoded here where the folder has them not yet.

        Args:
            storable ([`Storable`]):
                What encodes.
            dataset ([`~datasets.Dataset`]):
                All rows.
            index (`int`, *optional*, defaults to 0):
                Number of this process.
            count (`int`, *optional*, defaults to 1):
                Number of processes.

        Returns:
            `Sequence[EncodedRow]`: All rows, in order, of which the tokens stay on disk.

        Raises:
            JournalError: If the folder cannot be read or written.
        """
        from datasets.utils import tqdm  # here: the journal, which knows these files, comes without it

        self._files.make()
        self._files.make_parts()
        storable.begin_dataset()
        numbers = range(-(-len(dataset) // _ROWS_PER_BLOCK))
        first, blocks, made = index * len(numbers) // count, {}, 0
        with tqdm(total=len(dataset), unit="row", desc="Encoding", disable=len(numbers) < 2 or index > 0) as bar:
            for number in [*numbers[first:], *numbers[:first]]:
                start = number * _ROWS_PER_BLOCK
                part = dataset.select(range(start, min(start + _ROWS_PER_BLOCK, len(dataset))))
                source = _source_digest(part)
                blocks[number] = self._read(number, storable, self._key, source, len(part))
                if blocks[number] is None:
                    blocks[number], made = self._write(number, part, storable, source), made + 1
                bar.update(len(part))
        storable.take_readings(self._readings())
        if not made and storable.reading:  # who encodes says so row by row
            logger.info("%s", storable.reading)
        return reduce(add, (blocks[number] for number in numbers), storable.from_table(storable.to_table([])))

    def remove_others(self) -> None:
        """Remove the rows of other datasets, or of this one as it was read before. For who holds the journal."""
        for path, key in [*self._keys(BLOCK), *self._keys(READING)]:
            if key != self._key:
                self._files.unlink(path)

    def changed_rows(self, storable: Storable, known: Any, rows: Sequence[EncodedRow]) -> str:
        """
        Say which rows are not those of the run that the folder belongs to.

        Args:
            storable ([`Storable`]):
                What encoded them.
            known (`Any`):
                Number and digest of the rows of that run, as its journal has them.
            rows (`Sequence[EncodedRow]`):
                The rows of this dataset.

        Returns:
            `str`: A sentence; empty where that cannot be told any more, or no row differs.
        """
        for key in sorted({key for _, key in self._keys(BLOCK)} - {self._key}):
            others, number = storable.from_table(storable.to_table([])), 0
            while (block := self._read(number, storable, key)) is not None:
                others, number = others + block, number + 1
            if known != {"number": len(others), "digest": rows_digest(others)}:
                continue
            pairs = enumerate(zip(others, rows, strict=False))
            changed = [place for place, both in pairs if rows_digest(both[:1]) != rows_digest(both[1:])]
            if changed:
                more = ", ..." if len(changed) > _SHOWN_ROWS else ""
                shown = ", ".join(map(str, changed[:_SHOWN_ROWS])) + more
                return f"{len(changed)} of the {len(others)} rows are others than there: {shown}."
            if len(rows) != len(others):
                return f"The first {min(len(rows), len(others))} rows are the same."
        return ""

    def _keys(self, pattern: re.Pattern[str]) -> Iterator[tuple[Path, str]]:
        """Files with the keys of their rows; of those that are damaged, whoever reads them says so."""
        for path, _ in self._files.find(ENCODED_FOLDER, pattern):
            with suppress(DamageError):
                yield path, self._key_of(path)

    def _key_of(self, path: Path) -> str:
        if path.suffix == ".json":
            return str(_reading_in(self._files.read(path, _READING_BYTES))[0])
        return _decode(self._files.map(path), lambda file: (file.schema.metadata or {}).get(_KEY, b"")).decode()

    def _read(
        self, number: int, storable: Storable, key: str, source: str | None = None, rows: int | None = None
    ) -> Sequence[EncodedRow] | None:
        """The rows of a block from its file; `None` where there is none that can be believed, or of other text."""
        for path, match in self._files.find(ENCODED_FOLDER, BLOCK):
            if int(match[1]) != number:
                continue
            try:
                data = self._files.map(path)
                check_digest(data, match[2])
                table = _decode(data, pa.RecordBatchFileReader.read_all)
                known = table.schema.metadata or {}
                if known.get(_KEY) != key.encode() or source not in (None, known.get(_SOURCE, b"").decode()):
                    continue
                found = _decode_rows(table, storable)
                if rows not in (None, len(found)):
                    raise DamageError(f"it has {len(found)} rows in the place of {rows}")
                return found
            except DamageError as damage:
                if key != self._key:  # rows of another scorer, which this one may not know
                    return None
                self._files.set_aside(path, f"{damage}. Its rows are encoded again")
        return None

    def _write(self, number: int, part: Dataset, storable: Storable, source: str) -> Sequence[EncodedRow]:
        """Encode a block, and map it back from its file, so that it takes no memory."""
        table = storable.to_table(storable.encode_part(part))
        table = table.replace_schema_metadata({_KEY: self._key.encode(), _SOURCE: source.encode()})
        if storable.reading:  # ahead of the rows: where these are, nobody reads the dataset again
            text = dump_json({"key": self._key, "reading": storable.reading.to_json()})
            self._files.write(ENCODED_FOLDER, f"reading-{digest_of(text)}.json", text)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as file:
            file.write_table(table)
        data = sink.getvalue()
        name = f"rows-{number:08d}-{digest_of(data)}.arrow"
        self._files.write(ENCODED_FOLDER, name, data)
        mapped = self._files.map(self._files.path / ENCODED_FOLDER / name)
        return _decode_rows(_decode(mapped, pa.RecordBatchFileReader.read_all), storable)

    def _readings(self) -> list[DatasetReading]:
        found = []
        for path, match in self._files.find(ENCODED_FOLDER, READING):
            try:
                data = self._files.read(path, _READING_BYTES)
                check_digest(data, match[1])
                key, reading = _reading_in(data)
            except DamageError as damage:
                self._files.set_aside(path, f"{damage}. What it says of the columns is not told again")
                continue
            if key == self._key:
                found.append(reading)
        return found


def _source_digest(part: Dataset) -> str:
    """
    Digest of what stands in rows of a dataset, pictures and sound left out.

    `datasets` hashes a function of an imported module by its name, so that rows which another version of it has made
    may have the same fingerprint.
    """
    table = part.remove_columns(media_columns(part)).with_format("arrow")[:].replace_schema_metadata()
    try:
        table = table.take(pa.array(range(len(table)), pa.int64()))  # the same bytes, wherever the rows stood
    except pa.ArrowNotImplementedError as error:  # pyarrow takes nothing from views of text
        logger.debug("where the same rows stand otherwise in memory, they are encoded again: %s", error)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    return digest_of(sink.getvalue())


def _decode(data: pa.Buffer, take: Callable[[pa.RecordBatchFileReader], T]) -> T:
    try:
        return take(pa.ipc.open_file(data))
    except MALFORMED as error:
        raise DamageError("it is not an Arrow file, or only a part of it") from error


def _decode_rows(table: pa.Table, storable: Storable) -> Sequence[EncodedRow]:
    try:
        return storable.from_table(table.replace_schema_metadata())
    except MALFORMED as error:
        raise DamageError(f"it does not hold encoded rows: {error}") from error


def _reading_in(data: bytes) -> tuple[Any, DatasetReading]:
    value = parse_json(data)
    try:
        return value["key"], DatasetReading.from_json(value["reading"])
    except (KeyError, TypeError, ValueError) as error:
        raise DamageError("it does not say how rows were read") from error
