"""
The files of a journal: written whole or not at all, and checked before they are believed.

A name stands for a whole file, and the digest in it for its bytes. What is read may have been truncated, edited or
mixed up, by accident or by somebody who wants it to be believed.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from hf_dlc.errors import DLCError


logger = logging.getLogger(__name__)

# Readers of whole folders, such as `pandas.read_parquet("chunks")`, pass over names that begin with `_` or `.`.
DRAFT = re.compile(r"\.draft-[0-9a-f]{16}\.tmp")
_ASIDE = re.compile(r"_(.+)\.damaged(?:-[0-9]+)?")

_RUN_KEY = b"hf_dlc_run"
# What pyarrow raises for bytes that are no file of its own, or that only look like one.
MALFORMED = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError)

_GOES_ON = "run the same command again: it goes on after the last chunk that was written."
_ADVICE = {
    **dict.fromkeys([errno.ENOSPC, errno.EDQUOT, errno.EFBIG], f"Make room and {_GOES_ON}"),
    **dict.fromkeys([errno.EROFS, errno.EACCES, errno.EPERM], "Make the folder writable, or use another folder."),
    **dict.fromkeys([errno.ENOENT], "Put the folder back if it was moved, or run the same command to start anew."),
    **dict.fromkeys([errno.ENOTDIR, errno.EEXIST], "Pass a run_dir that is a folder, or a name not yet taken."),
}


class JournalError(DLCError):
    """A journal that cannot be used, and what to do about it, in one line."""

    def __init__(self, message: str) -> None:
        # Names and values in it may come from a file that somebody else wrote.
        super().__init__("".join(char if char.isprintable() else repr(char)[1:-1] for char in message))


class DamageError(Exception):
    """A file of the journal that cannot be believed, and why."""


class JournalFolder:
    """
    A folder and some folders in it, in which files appear whole.

    Args:
        path (`Path`):
            The folder.
        parts (`Sequence[str]`):
            Names of the folders in it.
    """

    def __init__(self, path: Path, parts: Sequence[str]) -> None:
        self.path, self.parts = path, parts

    def make(self) -> None:
        """Create the folder, where it is missing."""
        with self.writing():
            _make_folder(self.path)

    def make_parts(self) -> None:
        """Create the folders in it; one that is a link is refused: it would lead those who write elsewhere."""
        for part in self.parts:
            self._names(part)
            with self.writing():
                _make_folder(self.path / part)

    def find(self, part: str, pattern: re.Pattern[str]) -> list[tuple[Path, re.Match[str]]]:
        """
        Files of names like `pattern` in one of the folders.

        Args:
            part (`str`):
                The folder.
            pattern (`re.Pattern`):
                A pattern whose groups are numbers, and a digest at the end.

        Returns:
            `list[tuple[Path, re.Match]]`: The files by number and then by name.
        """
        found = [match for name in self._names(part) if (match := pattern.fullmatch(name))]
        found.sort(key=lambda match: [int(number) for number in match.groups()[:-1]])
        return [(self.path / part / match[0], match) for match in found]

    def largest_number(self, part: str, pattern: re.Pattern[str]) -> int:
        """The largest first number of such files, those that were set aside included; 0 where there are none."""
        with self.writing():
            names = os.listdir(self.path / part)
        return max((int(match[1]) for name in names if (match := pattern.fullmatch(_plain(name)))), default=0)

    def write(self, part: str, name: str, data: bytes | pa.Buffer) -> None:
        """
        Write whole or not at all, also if the power fails: data, then name, then folder reach the disk.

        Args:
            part (`str`):
                Folder in the journal; `""` is the journal itself.
            name (`str`):
                Name of the file in it.
            data (`bytes` or `pyarrow.Buffer`):
                All that it holds.

        Raises:
            JournalError: If it cannot be written.
        """
        folder = self.path / part
        draft = folder / f".draft-{secrets.token_hex(8)}.tmp"
        with self.writing():
            try:
                with open(draft, "xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(draft, folder / name)
            except BaseException:
                with suppress(OSError):
                    draft.unlink()
                raise
            _sync_folder(folder)

    def read(self, path: Path, most: int) -> bytes:
        """
        The bytes of a file of at most `most` bytes.

        Raises:
            DamageError: If it is no such file.
            JournalError: If the disk does not answer: that is no damage, and what is on it may be whole.
        """
        try:
            return _read_plain(path, most)
        except FileNotFoundError as error:
            raise DamageError("it is gone") from error
        except OSError as error:
            raise self._unreadable(error) from error

    def map(self, path: Path) -> pa.Buffer:
        """
        The bytes of a file, mapped into memory.

        Raises:
            DamageError: If it is no such file.
            JournalError: If the disk does not answer.
        """
        try:
            if not _require_plain(path).st_size:
                raise DamageError("it is empty")
            return pa.memory_map(str(path)).read_buffer()
        except FileNotFoundError as error:
            raise DamageError("it is gone") from error
        except OSError as error:
            raise self._unreadable(error) from error

    def set_aside(self, path: Path, why: str) -> None:
        """Rename what is damaged, so that it can be looked at and is not read, nor complained about, again."""
        targets = (path.with_name(f"_{path.name}.damaged{f'-{n}' if n else ''}") for n in count())
        with self.writing():
            try:
                os.rename(path, next(target for target in targets if not os.path.lexists(target)))
            except FileNotFoundError:  # another process was faster, and says so
                return
        logger.warning("%s was set aside as damaged: %s.", path, why)

    def remove(self, *patterns: re.Pattern[str]) -> None:
        """Remove the files of such names, set aside or not; folders, which are never named so here, stay."""
        for part in ("", *self.parts):
            for name in self._names(part):
                path = self.path / part / name
                with self.writing():
                    if any(pattern.fullmatch(_plain(name)) for pattern in patterns) and not _is_folder(path):
                        path.unlink()

    def unlink(self, path: Path) -> None:
        """Remove one file for good, whatever happens to the power."""
        with self.writing():
            path.unlink()
            _sync_folder(path.parent)

    def _names(self, part: str) -> list[str]:
        folder = self.path / part
        if not os.path.lexists(folder):
            return []
        if (part and folder.is_symlink()) or not folder.is_dir():  # the whole journal may be behind a link
            raise JournalError(
                f"{folder} must be a folder of the journal, but is a link or a file. Remove it, or pass another "
                "run_dir."
            )
        try:
            return sorted(os.listdir(folder))
        except OSError as error:
            raise self._unreadable(error) from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        """
        Time in which an error of the system becomes advice.

        Raises:
            JournalError: If something cannot be written.
        """
        try:
            yield
        except OSError as error:
            advice = _ADVICE.get(error.errno or 0, f"When that is solved, {_GOES_ON}")
            reason = error.strerror or error
            raise JournalError(f"the journal {self.path} cannot be written: {reason}. {advice}") from error

    def _unreadable(self, error: OSError) -> JournalError:
        return JournalError(
            f"the journal {self.path} cannot be read: {error.strerror or error} ({error.filename}). Make that "
            "file readable, or delete it if it is a chunk: its rows are then computed again."
        )


# -- bytes ------------------------------------------------------------------------------------------------------------


def digest_of(data: bytes | pa.Buffer) -> str:
    """The digest of a file that stands in its name."""
    return xxhash.xxh3_64_hexdigest(data)


def check_digest(data: bytes | pa.Buffer, digest: str) -> None:
    """
    Compare what was read with the digest in its name.

    Raises:
        DamageError: If they differ.
    """
    if digest_of(data) != digest:
        raise DamageError("its bytes are not those that were written")


def dump_json(value: Any, indent: int | None = 2) -> bytes:
    """A JSON file, the same for the same value."""
    return (json.dumps(value, indent=indent, sort_keys=True) + "\n").encode()


def as_json(value: dict[str, Any]) -> dict[str, Any]:
    """The value as it will be read back, so that a run and its continuation get the same."""
    if not isinstance(value, dict):
        raise TypeError(f"the journal keeps dicts of JSON values, got {type(value).__name__}.")
    return json.loads(json.dumps(value))


def parse_json(data: bytes) -> Any:
    """
    The value of a JSON file.

    Raises:
        DamageError: If it is none.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamageError("it is not JSON, or only a part of it") from error


def encode_chunk(run: str, level: int, rows: np.ndarray, values: Mapping[str, np.ndarray]) -> bytes:
    """
    A Parquet file of what was measured of some rows at one level.

    Args:
        run (`str`):
            Digest of the run that it belongs to.
        level (`int`):
            The level.
        rows (`np.ndarray` of shape `(chunk,)`):
            Positions of the rows in the dataset.
        values (`Mapping[str, np.ndarray]`):
            By the name of the measure a number of each row; of features a vector, `(chunk, size)`.

    Returns:
        `bytes`: What [`decode_chunk`] reads.
    """
    schema = _schema({name: found.shape[1] if found.ndim > 1 else 0 for name, found in values.items()})
    columns = [np.full(len(rows), level), rows, *values.values()]
    arrays = [_arrow(column, field.type) for column, field in zip(columns, schema, strict=True)]
    table = pa.Table.from_arrays(arrays, schema=schema.with_metadata({_RUN_KEY: run.encode()}))
    sink = pa.BufferOutputStream()
    # Without compression the size of a file says how much there is to read; scores hardly compress anyway.
    pq.write_table(table, sink, compression="none", use_dictionary=["level"], write_statistics=False)
    return sink.getvalue().to_pybytes()


def decode_chunk(
    data: bytes, run: str, level: int, sizes: Mapping[str, int], num_rows: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """
    Read and check what [`encode_chunk`] wrote.

    Args:
        data (`bytes`):
            The file.
        run (`str`):
            Digest of the run that it must belong to.
        level (`int`):
            The level that it must be of.
        sizes (`Mapping[str, int]`):
            By the names of what it must have the size of a vector, 0 for a number.
        num_rows (`int`):
            Rows of the run.

    Returns:
        `tuple[np.ndarray, dict[str, np.ndarray]]`: The rows, and by the name of the measure a number, or vector, of
        each.

    Raises:
        DamageError: If it is no such file.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        _check_header(file, run, sizes, num_rows)
        table = file.read(use_threads=False)
        table.validate(full=True)
    except MALFORMED as error:
        raise DamageError("it is not a Parquet file, or only a part of it") from error
    if len(table) != file.metadata.num_rows:
        raise DamageError("it has fewer rows than it says")
    levels, rows, *values = (_numpy(column) for column in table.columns)
    if (levels != level).any():
        raise DamageError("its level is not that of its name")
    if rows.min() < 0 or rows.max() >= num_rows:
        raise DamageError(f"it has rows that are not among the {num_rows} of the run")
    if len(np.unique(rows)) < len(rows):
        raise DamageError("it has a row twice")
    return rows, dict(zip(sizes, values, strict=True))


def chunk_bytes(sizes: Mapping[str, int], num_rows: int) -> int:
    """The most that a chunk can need: a header, and a few times what all rows take."""
    return 2**20 + 16 * (len(sizes) + 3 + sum(sizes.values())) * num_rows


def _arrow(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(np.asarray(values, kind.to_pandas_dtype()))
    numbers = np.ascontiguousarray(values, dtype=np.float16).ravel()
    return pa.FixedSizeListArray.from_arrays(pa.array(numbers), type=kind)


def _numpy(column: pa.ChunkedArray) -> np.ndarray:
    if not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy()
    numbers = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return numbers.reshape(len(column), column.type.list_size)


def _schema(sizes: Mapping[str, int]) -> pa.Schema:
    vectors = {name: pa.list_(pa.field("item", pa.float16(), nullable=False), size) for name, size in sizes.items()}
    measures = [
        pa.field(name, vectors[name] if size else pa.float32(), nullable=False) for name, size in sizes.items()
    ]
    return pa.schema(
        [pa.field("level", pa.int32(), nullable=False), pa.field("row", pa.int64(), nullable=False), *measures]
    )


def _check_header(file: pq.ParquetFile, run: str, sizes: Mapping[str, int], num_rows: int) -> None:
    """Before the columns are read, for which memory is allocated as the header says."""
    schema, metadata = file.schema_arrow, file.metadata
    if not schema.equals(_schema(sizes)):
        raise DamageError("it has the wrong columns or types")
    if (schema.metadata or {}).get(_RUN_KEY) != run.encode():
        raise DamageError("it belongs to another run")
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    numbers = [1, 1, *(max(1, size) for size in sizes.values())]  # in a row, of each column
    columns = [(group.num_rows * of, group.column(place)) for group in groups for place, of in enumerate(numbers)]
    # By sizes: asked for a codec that it does not know, pyarrow aborts the whole process.
    if any(column.total_compressed_size != column.total_uncompressed_size for _, column in columns):
        raise DamageError("it is compressed")
    if any(column.num_values != expected for expected, column in columns):
        raise DamageError("its columns are of different lengths")
    if not 1 <= metadata.num_rows == sum(group.num_rows for group in groups) <= num_rows:
        raise DamageError(f"it says that it has {metadata.num_rows} rows, of the {num_rows} of the run")


# -- the file system --------------------------------------------------------------------------------------------------


def _plain(name: str) -> str:
    """The name that a file had before it was set aside."""
    match = _ASIDE.fullmatch(name)
    return match[1] if match else name


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder itself, and no link to one."""
    return stat.S_ISDIR(path.lstat().st_mode)


def _require_plain(path: Path) -> os.stat_result:
    """Refuse what is no regular file: a link would lead out of the journal, a pipe would wait for ever."""
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise DamageError("it is not a regular file")
    return found


def _read_plain(path: Path, most: int) -> bytes:
    """The bytes of a regular file."""
    found = _require_plain(path)
    if found.st_size > most:
        raise DamageError(f"it has {found.st_size} bytes, more than it can need")
    return path.read_bytes()


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Make names last; Windows and some network file systems cannot sync a folder."""
    if os.name == "nt":
        return
    try:
        opened = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(opened)
