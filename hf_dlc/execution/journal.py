"""
The journal of a run: a folder that holds its finished work, so that a run that was killed goes on where it stopped.

```
run.lock, run.owner.json                                who writes here now
manifest.json                                           what the run is, and what it settled on
chunks/level-01-row-00000042-<digest>.parquet           scores of some rows at one level
cuts/cut-0001-<digest>.json                             micro-batches that were cut after a lack of memory
```

Every file is written beside, synced and renamed, so that a name stands for a whole file, and the digest in it for its
bytes. What is read back is checked before it is believed: a journal may have been truncated, edited or mixed up.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import secrets
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from filelock import FileLock, Timeout

from hf_dlc.errors import DLCError


logger = logging.getLogger(__name__)

_FORMAT = 1
_MANIFEST_BYTES = 2**26
_OWNER_BYTES = 2**12
_SHOWN_DIFFERENCES = 6
_SHOWN_WIDTH = 60

_CHUNK = re.compile(r"level-([0-9]{2,})-row-([0-9]{8,})-([0-9a-f]{16})\.parquet")
_CUT = re.compile(r"cut-([0-9]{4,})-([0-9a-f]{16})\.json")
_DRAFT = re.compile(r"\.draft-[0-9a-f]{16}\.tmp")
# Readers of whole folders, such as `pandas.read_parquet("chunks")`, pass over names that begin with `_` or `.`.
_ASIDE = re.compile(r"_(.+)\.damaged(?:-[0-9]+)?")
_LONG_HEX = re.compile(r"[0-9a-f]{16,}")

_SCHEMA = pa.schema(
    [
        pa.field("level", pa.int32(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("loss", pa.float32(), nullable=False),
    ]
)
_RUN_KEY = b"hf_dlc_run"
# What pyarrow raises for bytes that are no Parquet file, or that only look like one.
_MALFORMED = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError)

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


class Cut(NamedTuple):
    """Micro-batches that did not fit into memory and are cut to a smaller budget from now on."""

    tokens: int  # the smaller budget, padding included
    batches: dict[int, list[int]]  # for each level the first row of each micro-batch, or part of one, that was left


class JournaledWork(NamedTuple):
    """What earlier runs of the same command finished."""

    scores: np.ndarray  # float32 of shape (2, levels, rows): confidence and loss, zero where there are none
    present: np.ndarray  # bool of shape (levels, rows)
    cuts: list[Cut]  # in the order in which they were made


class _DamageError(Exception):
    """A file of the journal that cannot be believed."""


class Journal:
    """
    The finished work of one run in a folder.

    The main process holds the journal, begins and reads it; every process of the job writes to it, through a journal
    of its own on the same folder.

    Args:
        folder (`str` or `os.PathLike`):
            Where the journal is, or will be. Nothing is touched before [`Journal.hold`].

    Example:
    ```python
    >>> from tempfile import TemporaryDirectory
    >>> folder = TemporaryDirectory()
    >>> journal = Journal(folder.name)
    >>> with journal.hold():
    ...     settings = journal.begin({"weights": "a digest"}, settle=lambda: {"tokens_per_batch": 4096})
    ...     journal.write_chunk(0, np.array([7]), np.array([0.5], np.float32), np.array([1.0], np.float32))
    ...     journal.read(num_levels=2, num_rows=8).present.sum()
    np.int64(1)
    ```
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._held = False
        self._run: str | None = None

    @contextmanager
    def hold(self) -> Iterator[None]:
        """
        Keep every other run out of the folder, which is created where it is missing.

        The operating system lets go of the lock when the process ends, however it ends.

        Raises:
            JournalError: If another run, or another journal of this process, holds the folder, or it cannot be
                written.
        """
        with self._writing():
            self._make_folder(self.folder)
            lock = self._acquire()
        self._held = True
        try:
            self._sign()
            yield
        finally:
            self._held = False
            with suppress(OSError):
                self._owner.unlink()
            lock.release()

    def begin(
        self, identity: dict[str, Any], settle: Callable[[], dict[str, Any]], info: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """
        Begin a run, or go on with it.

        Args:
            identity (`dict`):
                JSON values that make a run what it is: the scores of runs of the same identity can be mixed.
            settle (`Callable`):
                Called for a new run only; returns a JSON dict of what the run settles on, such as a token budget.
            info (`dict`, *optional*):
                JSON values for people. They are written with a new run and never compared.

        Returns:
            `dict`: What the run settled on, now or when it began, as JSON gives it back.

        Raises:
            JournalError: If the folder holds another run, a manifest that cannot be read or was written by a later
                release, or chunks without a manifest.
        """
        self._require_hold()
        identity, manifest = _as_json(identity), self._manifest()
        if manifest is None:
            self._refuse_orphans()
            self._make_folders()  # a folder that cannot be written shows before settling, which may take long
            manifest = {"format": _FORMAT, "identity": identity, "settings": _as_json(settle())}
            self._write(self.folder, self._manifest_path.name, _dump({**manifest, "info": _as_json(info or {})}))
        elif different := _differences(manifest["identity"], identity):
            raise JournalError(
                f"{self.folder} holds the scores of another run: {_listed(different)}. Use another folder, or "
                "delete that folder to start anew."
            )
        self._make_folders()
        self._run = _run_digest(manifest)
        return manifest["settings"]

    @property
    def run(self) -> str:
        """Digest of the run that was begun, which ties chunks and cuts to it."""
        return self._run_digest()

    def join(self, run: str) -> None:
        """
        Write to the run that the main process has begun. For the other processes, which may see its manifest late on
        a network file system, or still see an older one.

        Args:
            run (`str`):
                `run` of the main process's journal.
        """
        self._run = run

    def read(self, num_levels: int, num_rows: int) -> JournaledWork:
        """
        Read and check all finished work, chunk by chunk.

        What is damaged is logged, moved aside and left out: its rows count as not yet scored. Drafts that a killed
        process left are removed.

        Args:
            num_levels (`int`):
                Levels of the run.
            num_rows (`int`):
                Rows of the run.

        Returns:
            [`JournaledWork`]: Scores, where there are any, and cuts.
        """
        self._require_hold()
        self._remove(_DRAFT)
        shape = (num_levels, num_rows)
        work = JournaledWork(np.zeros((2, *shape), dtype=np.float32), np.zeros(shape, dtype=bool), self._cuts(shape))
        for path, match in self._files("chunks", _CHUNK):
            try:
                self._take_chunk(path, match, work)
            except _DamageError as damage:
                self._set_aside(path, f"{damage}. Its rows are computed again")
        return work

    def write_chunk(self, level: int, rows: np.ndarray, confidence: np.ndarray, loss: np.ndarray) -> None:
        """
        Write the scores of some rows at one level; when this returns, they are on disk. For any process.

        Args:
            level (`int`):
                The level.
            rows (`np.ndarray` of shape `(chunk,)`):
                Positions of the rows in the dataset, each once.
            confidence (`np.ndarray` of shape `(chunk,)`):
                Their confidence; any float32 value, NaN included, is kept bit for bit.
            loss (`np.ndarray` of shape `(chunk,)`):
                Their loss.

        Raises:
            JournalError: If it cannot be written; no part of it is left under a name that counts.
        """
        if len(rows) == 0:
            return
        data = _encode_chunk(self._run_digest(), level, rows, confidence, loss)
        name = f"level-{level:02d}-row-{int(np.min(rows)):08d}-{_digest(data)}.parquet"
        self._write(self.folder / "chunks", name, data)

    def write_cut(self, cut: Cut) -> None:
        """
        Write down that micro-batches are cut to a smaller budget from now on. For any process.

        Args:
            cut ([`Cut`]):
                Budget and micro-batches, each by its first row. Cuts of different processes never name the same one,
                so that only the order of those of one process matters.

        Raises:
            JournalError: If it cannot be written.
        """
        batches = {int(level): [int(row) for row in first_rows] for level, first_rows in cut.batches.items()}
        data = _dump({"run": self._run_digest(), "tokens": int(cut.tokens), "batches": batches}, indent=None)
        self._write(self.folder / "cuts", f"cut-{self._next_cut():04d}-{_digest(data)}.json", data)

    def discard(self) -> None:
        """
        Remove the manifest, chunks and cuts, so that a new run can begin; files of other names stay.

        A `manifest.json` that is not a journal's is moved aside, not removed: it may belong to something else.

        Raises:
            JournalError: If a later release wrote the journal, whose files this one does not know.
        """
        self._require_hold()
        try:
            there, damage = self._load_manifest() is not None, None
        except _DamageError as error:
            there, damage = True, error
        self._run = None
        # The manifest last: chunks that outlived it would belong to nothing.
        self._remove(_CHUNK, _CUT, _DRAFT)
        if damage is not None:
            self._set_aside(self._manifest_path, str(damage))
        elif there:
            with self._writing():
                self._manifest_path.unlink()
                _sync_folder(self.folder)

    # -- who writes here ----------------------------------------------------------------------------------------------

    @property
    def _owner(self) -> Path:
        return self.folder / "run.owner.json"

    def _acquire(self) -> FileLock:
        lock = FileLock(self.folder / "run.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise JournalError(
                f"{self.folder} is in use by another run{self._holder()}. Wait for it to end, or use another folder."
            ) from None
        return lock

    def _sign(self) -> None:
        """For the message of whoever comes second; what a killed run left must not name the wrong one."""
        with suppress(OSError):
            self._owner.unlink()
        with suppress(JournalError):
            self._write(self.folder, self._owner.name, _dump({"pid": os.getpid(), "host": socket.gethostname()}))

    def _holder(self) -> str:
        try:
            owner = _load_json(self._owner, _OWNER_BYTES)
            pid, host = owner["pid"], owner["host"]
        except (_DamageError, OSError, TypeError, KeyError):
            return ""
        if type(pid) is not int or type(host) is not str or (host == socket.gethostname() and not _is_alive(pid)):
            return ""
        return f" (process {pid} on host {host[:_SHOWN_WIDTH]})"

    def _require_hold(self) -> None:
        if not self._held:
            raise JournalError(
                f"only the holder of the journal {self.folder} may do this. Do it inside `with journal.hold():`."
            )

    # -- the manifest -------------------------------------------------------------------------------------------------

    @property
    def _manifest_path(self) -> Path:
        return self.folder / "manifest.json"

    def _manifest(self) -> dict[str, Any] | None:
        """The manifest, checked, or `None` where there is none."""
        try:
            return self._load_manifest()
        except _DamageError as damage:
            raise JournalError(
                f"{self._manifest_path} should be the manifest of a run, but {damage}. Restore that file, or delete "
                f"{self.folder} to start anew, or use another folder."
            ) from damage

    def _load_manifest(self) -> dict[str, Any] | None:
        if not os.path.lexists(self._manifest_path):
            return None
        with self._reading():
            manifest = _load_json(self._manifest_path, _MANIFEST_BYTES)
        return self._checked(manifest)

    def _checked(self, manifest: Any) -> dict[str, Any]:
        if not isinstance(manifest, dict) or type(manifest.get("format")) is not int or manifest["format"] < 1:
            raise _DamageError("it has no format number")
        if manifest["format"] > _FORMAT:
            raise JournalError(
                f"{self.folder} was written by a later release: its format is {manifest['format']}, and this release "
                f"of hf_dlc reads {_FORMAT}. Update hf_dlc, or use another folder."
            )
        for key in ("identity", "settings"):
            if not isinstance(manifest.get(key), dict):
                raise _DamageError(f"its {key!r} are missing or of the wrong type")
        return manifest

    def _refuse_orphans(self) -> None:
        """Chunks of which nothing says whose they are must not end up in another run's scores."""
        for name, pattern in (("chunks", _CHUNK), ("cuts", _CUT)):
            if files := self._files(name, pattern):
                raise JournalError(
                    f"{self.folder} should have a manifest.json that says whose scores it holds, but has only {name}, "
                    f"such as {files[0][0].name}. Restore the manifest, or delete {self.folder} to start anew."
                )

    def _run_digest(self) -> str:
        """
        What ties chunks and cuts to this run.

        A process of an earlier run may outlive its main process and go on writing after somebody discarded that run.
        """
        if self._run is None:
            if (manifest := self._manifest()) is None:
                raise JournalError(
                    f"{self.folder} has no manifest.json yet, which is written before anything else. Let the main "
                    "process begin the run first; if the folder was moved, put it back."
                )
            self._run = _run_digest(manifest)
        return self._run

    # -- chunks and cuts ----------------------------------------------------------------------------------------------

    def _take_chunk(self, path: Path, match: re.Match[str], work: JournaledWork) -> None:
        """Enter a chunk into `work`, whole or not at all."""
        level, first, digest = int(match[1]), int(match[2]), match[3]
        num_levels, num_rows = work.present.shape
        if level >= num_levels:
            raise _DamageError(f"the run has no level {level}")
        with self._reading():
            data = _read_plain(path, 2**20 + 64 * num_rows)  # a header, and a few times what all rows take
        _check_digest(data, digest)
        rows, values = _decode_chunk(data, self._run_digest(), level, num_rows)
        if rows.min() != first:
            raise _DamageError("its rows are not those of its name")
        known = work.present[level, rows]
        if work.scores[:, level, rows[known]].tobytes() != values[:, known].tobytes():
            raise _DamageError("it contradicts the scores of another chunk")
        work.scores[:, level, rows] = values
        work.present[level, rows] = True

    def _cuts(self, shape: tuple[int, int]) -> list[Cut]:
        cuts = []
        for path, match in self._files("cuts", _CUT):
            try:
                with self._reading():
                    data = _read_plain(path, 2**20 + 32 * shape[0] * shape[1])
                _check_digest(data, match[2])
                cuts.append(_decode_cut(data, self._run_digest(), shape[0]))
            except _DamageError as damage:
                self._set_aside(path, f"{damage}. Scores that are computed again may differ in the last digits")
        return cuts

    def _next_cut(self) -> int:
        """One more than any cut before, those that were damaged included."""
        with self._writing():
            names = os.listdir(self.folder / "cuts")
        return 1 + max((int(match[1]) for name in names if (match := _CUT.fullmatch(_plain(name)))), default=0)

    # -- files --------------------------------------------------------------------------------------------------------

    def _names(self, name: str) -> list[str]:
        folder = self.folder / name
        if not os.path.lexists(folder):
            return []
        if (name and folder.is_symlink()) or not folder.is_dir():  # the whole journal may be behind a link
            raise JournalError(
                f"{folder} must be a folder of the journal, but is a link or a file. Remove it, or pass another "
                "run_dir."
            )
        with self._reading():
            return sorted(os.listdir(folder))

    def _files(self, name: str, pattern: re.Pattern[str]) -> list[tuple[Path, re.Match[str]]]:
        """What is named like `pattern` in a folder of the journal, by number and then by name."""
        found = [match for entry in self._names(name) if (match := pattern.fullmatch(entry))]
        found.sort(key=lambda match: [int(number) for number in match.groups()[:-1]])
        return [(self.folder / name / match[0], match) for match in found]

    def _make_folders(self) -> None:
        for name in ("chunks", "cuts"):
            self._names(name)  # refuses a link, which would lead the writers elsewhere
            with self._writing():
                self._make_folder(self.folder / name)

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            _sync_folder(folder.parent)

    def _write(self, folder: Path, name: str, data: bytes) -> None:
        """Write whole or not at all, also if the power fails: data, then name, then folder reach the disk."""
        draft = folder / f".draft-{secrets.token_hex(8)}.tmp"
        with self._writing():
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

    def _set_aside(self, path: Path, why: str) -> None:
        """Rename what is damaged, so that it can be looked at and is not read, nor complained about, again."""
        targets = (path.with_name(f"_{path.name}.damaged{f'-{n}' if n else ''}") for n in count())
        with self._writing():
            os.rename(path, next(target for target in targets if not os.path.lexists(target)))
        logger.warning("%s was set aside as damaged: %s.", path, why)

    def _remove(self, *patterns: re.Pattern[str]) -> None:
        """Remove the files of such names, set aside or not; folders, which this class never names so, stay."""
        for name in ("", "chunks", "cuts"):
            for entry in self._names(name):
                path = self.folder / name / entry
                with self._writing():
                    if any(pattern.fullmatch(_plain(entry)) for pattern in patterns) and not _is_folder(path):
                        path.unlink()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            advice = _ADVICE.get(error.errno or 0, f"When that is solved, {_GOES_ON}")
            reason = error.strerror or error
            raise JournalError(f"the journal {self.folder} cannot be written: {reason}. {advice}") from error

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """A disk that does not answer is no damaged file: what is on it may be whole."""
        try:
            yield
        except OSError as error:
            raise JournalError(
                f"the journal {self.folder} cannot be read: {error.strerror or error} ({error.filename}). Make that "
                "file readable, or delete it if it is a chunk: its rows are then computed again."
            ) from error


def _digest(data: bytes) -> str:
    return xxhash.xxh3_64_hexdigest(data)


def _check_digest(data: bytes, digest: str) -> None:
    if _digest(data) != digest:
        raise _DamageError("its bytes are not those that were written")


def _run_digest(manifest: dict[str, Any]) -> str:
    return _digest(_dump([manifest["identity"], manifest["settings"]]))


def _dump(value: Any, indent: int | None = 2) -> bytes:
    return (json.dumps(value, indent=indent, sort_keys=True) + "\n").encode()


def _as_json(value: dict[str, Any]) -> dict[str, Any]:
    """As it will be read back, so that a run and its continuation get the same."""
    if not isinstance(value, dict):
        raise TypeError(f"the journal keeps dicts of JSON values, got {type(value).__name__}.")
    return json.loads(json.dumps(value))


def _plain(name: str) -> str:
    """The name that a file had before it was set aside."""
    match = _ASIDE.fullmatch(name)
    return match[1] if match else name


def _is_folder(path: Path) -> bool:
    """Not by a link."""
    return stat.S_ISDIR(path.lstat().st_mode)


def _read_plain(path: Path, most: int) -> bytes:
    """The bytes of a regular file: a link would lead out of the journal, a pipe would wait for ever."""
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise _DamageError("it is not a regular file")
    if found.st_size > most:
        raise _DamageError(f"it has {found.st_size} bytes, more than it can need")
    return path.read_bytes()


def _parse_json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _DamageError("it is not JSON, or only a part of it") from error


def _load_json(path: Path, most: int) -> Any:
    return _parse_json(_read_plain(path, most))


def _encode_chunk(run: str, level: int, rows: np.ndarray, confidence: np.ndarray, loss: np.ndarray) -> bytes:
    columns = [np.full(len(rows), level), rows, confidence, loss]
    arrays = [np.asarray(column, field.type.to_pandas_dtype()) for column, field in zip(columns, _SCHEMA, strict=True)]
    table = pa.Table.from_arrays(
        [pa.array(array) for array in arrays], schema=_SCHEMA.with_metadata({_RUN_KEY: run.encode()})
    )
    sink = pa.BufferOutputStream()
    # Without compression the size of a file says how much there is to read; scores hardly compress anyway.
    pq.write_table(table, sink, compression="none", use_dictionary=["level"], write_statistics=False)
    return sink.getvalue().to_pybytes()


def _decode_chunk(data: bytes, run: str, level: int, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and, of shape `(2, rows)`, their confidence and loss."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        _check_header(file, run, num_rows)
        table = file.read(use_threads=False)
        table.validate(full=True)
    except _MALFORMED as error:
        raise _DamageError("it is not a Parquet file, or only a part of it") from error
    if len(table) != file.metadata.num_rows:
        raise _DamageError("it has fewer rows than it says")
    levels, rows, confidence, loss = (column.to_numpy() for column in table.columns)
    if (levels != level).any():
        raise _DamageError("its level is not that of its name")
    if rows.min() < 0 or rows.max() >= num_rows:
        raise _DamageError(f"it has rows that are not among the {num_rows} of the run")
    if len(np.unique(rows)) < len(rows):
        raise _DamageError("it has a row twice")
    return rows, np.stack([confidence, loss])


def _check_header(file: pq.ParquetFile, run: str, num_rows: int) -> None:
    """Before the columns are read, for which memory is allocated as the header says."""
    schema, metadata = file.schema_arrow, file.metadata
    if not schema.equals(_SCHEMA):
        raise _DamageError("it has the wrong columns or types")
    if (schema.metadata or {}).get(_RUN_KEY) != run.encode():
        raise _DamageError("it belongs to another run")
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    columns = [(group, group.column(index)) for group in groups for index in range(group.num_columns)]
    # By sizes: asked for a codec that it does not know, pyarrow aborts the whole process.
    if any(column.total_compressed_size != column.total_uncompressed_size for _, column in columns):
        raise _DamageError("it is compressed")
    if any(column.num_values != group.num_rows for group, column in columns):
        raise _DamageError("its columns are of different lengths")
    if not 1 <= metadata.num_rows == sum(group.num_rows for group in groups) <= num_rows:
        raise _DamageError(f"it says that it has {metadata.num_rows} rows, of the {num_rows} of the run")


def _decode_cut(data: bytes, run: str, num_levels: int) -> Cut:
    value = _parse_json(data)
    if not isinstance(value, dict) or value.get("run") != run:
        raise _DamageError("it belongs to another run")
    tokens, batches = value.get("tokens"), value.get("batches")
    if not _is_count(tokens) or tokens < 1 or not isinstance(batches, dict):
        raise _DamageError("it has no budget or no micro-batches")
    levels = {str(level): level for level in range(num_levels)}
    for level, first_rows in batches.items():
        if level not in levels or not isinstance(first_rows, list) or not all(map(_is_count, first_rows)):
            raise _DamageError("its micro-batches are not those of the run")
    return Cut(tokens, {levels[level]: batches[level] for level in sorted(batches, key=levels.__getitem__)})


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_alive(pid: int) -> bool:
    """Whether a process of this host runs; where that cannot be asked, it is taken to."""
    if os.name == "nt":  # there `os.kill` ends the process, whatever the signal
        return True
    if not 0 < pid < 2**31:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # somebody else's
    return True


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


_MISSING = object()


def _differences(there: Any, here: Any, path: str = "") -> list[str]:
    """What differs, by dotted path; values are compared as JSON, where `1`, `1.0` and `true` are not the same."""
    if isinstance(there, dict) and isinstance(here, dict):
        names = [*here, *(name for name in there if name not in here)]
        parts = [(f"{path}.{name}" if path else name, name) for name in names]
        found = [_differences(there.get(name, _MISSING), here.get(name, _MISSING), part) for part, name in parts]
        return [difference for differences in found for difference in differences]
    shown_there, shown_here = _shown(there), _shown(here)
    if there is not _MISSING and here is not _MISSING:
        if json.dumps(there, sort_keys=True) == json.dumps(here, sort_keys=True):
            return []
        if _is_digest(there) or _is_digest(here) or shown_there == shown_here:
            return [f"{path} differ" + ("" if path.endswith("s") else "s")]
    return [f"{path} is {shown_there} there and {shown_here} here"]


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _LONG_HEX.fullmatch(value) is not None


def _shown(value: Any) -> str:
    if value is _MISSING:
        return "missing"
    if _is_digest(value):
        return "set"
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= _SHOWN_WIDTH else f"{text[: _SHOWN_WIDTH - 1]}…"


def _listed(different: list[str]) -> str:
    more = len(different) - _SHOWN_DIFFERENCES
    return "; ".join([*different[:_SHOWN_DIFFERENCES], *([f"and {more} more"] if more > 0 else [])])
