"""
The journal of a run: a folder that holds its finished work, so that a run that was killed goes on where it stopped.

```
run.lock, run.owner.json                                who writes here now
journal.json                                            what the run is, and what it settled on
chunks/level-01-row-00000042-<digest>.parquet           what was measured of some rows at one level
cuts/cut-0001-<digest>.json                             micro-batches that were cut after a lack of memory
rows/                                                   the encoded rows: see `encoded_files`
stream/                                                 the rows of a stream: see `scorer.streams`
```

Every file is written beside, synced and renamed, and checked before it is believed: see `journal_files`.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from hf_dlc.scores.base import Asked, Features

from .encoded_files import BLOCK, ENCODED_FOLDER, READING
from .journal_files import (
    DRAFT,
    DamageError,
    JournalError,
    JournalFolder,
    as_json,
    check_digest,
    chunk_bytes,
    decode_chunk,
    digest_of,
    dump_json,
    encode_chunk,
    parse_json,
)
from .values import Values, no_values


__all__ = ["Cut", "Journal", "JournalError", "JournaledWork"]

_FORMAT = 2
_EARLIER_FORMAT = 1  # whose manifest is called `manifest.json`, and whose chunks have no other columns than two
_MANIFEST_BYTES = 2**26
_OWNER_BYTES = 2**12
_SHOWN_DIFFERENCES = 6
_SHOWN_WIDTH = 60

_CHUNK = re.compile(r"level-([0-9]{2,})-row-([0-9]{8,})-([0-9a-f]{16})\.parquet")
_CUT = re.compile(r"cut-([0-9]{4,})-([0-9a-f]{16})\.json")
_LONG_HEX = re.compile(r"[0-9a-f]{16,}")


class Cut(NamedTuple):
    """Micro-batches that did not fit into memory and are cut to a smaller budget from now on."""

    tokens: int  # the smaller budget, padding included
    batches: dict[int, list[int]]  # for each level the first row of each micro-batch, or part of one, that was left


class JournaledWork(NamedTuple):
    """Finished work of earlier runs of the same command."""

    values: Values  # by the name of the measure float32 of shape (levels, rows), zero where there are none
    present: np.ndarray  # bool of shape (levels, rows)
    cuts: list[Cut]  # in the order in which they were made


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
    >>> from hf_dlc.scores.dlc import LOSS
    >>> folder = TemporaryDirectory()
    >>> journal = Journal(folder.name)
    >>> with journal.hold():
    ...     settings = journal.begin({"weights": "a digest"}, settle=lambda: {"tokens_per_batch": 4096})
    ...     journal.write_chunk(0, np.array([7]), {"loss": np.array([1.0], np.float32)})
    ...     journal.read([(LOSS,), (LOSS,)], num_rows=8).present.sum()
    np.int64(1)
    ```
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._files = JournalFolder(self.folder, ("chunks", "cuts", ENCODED_FOLDER))
        self._held = False
        self._run: str | None = None

    def exists(self) -> bool:
        """Whether a run has begun in the folder; also one of an earlier release, which only `begin` refuses."""
        return os.path.lexists(self._manifest_path) or self._is_earlier()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """
        Keep every other run out of the folder, which is created where it is missing.

        The operating system lets go of the lock when the process ends, however it ends.

        Raises:
            JournalError: If another run, or another journal of this process, holds the folder, or it cannot be
                written.
        """
        self._files.make()
        with self._files.writing():
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
            JournalError: If the folder holds another run, a manifest that cannot be read or was written by an earlier
                or a later release, or chunks without a manifest.
        """
        self._require_hold()
        identity, manifest = as_json(identity), self._manifest()
        if manifest is None:
            self._refuse_earlier()
            self._refuse_orphans()
            self._files.make_parts()  # a folder that cannot be written shows before settling, which may take long
            manifest = {"format": _FORMAT, "identity": identity, "settings": as_json(settle())}
            self._files.write("", self._manifest_path.name, dump_json({**manifest, "info": as_json(info or {})}))
        else:
            self._refuse_others(_differences(manifest["identity"], identity))
        self._files.make_parts()
        self._run = _run_digest(manifest)
        return manifest["settings"]

    def check(self, known: Mapping[str, Any]) -> None:
        """
        Refuse early what [`Journal.begin`] would refuse, as far as a part of the identity tells.

        Args:
            known (`Mapping[str, Any]`):
                JSON values that will be in the identity.

        Raises:
            JournalError: If the folder holds another run, a manifest that cannot be read or was written by an earlier
                or a later release, or chunks without a manifest.
        """
        manifest = self._manifest()
        if manifest is None:
            self._refuse_earlier()
            self._refuse_orphans()
        else:
            known = as_json(known)
            self._refuse_others(_differences(_part_of(manifest["identity"], known), known))

    @property
    def identity(self) -> dict[str, Any]:
        """What the run is that the folder holds; empty where it holds none."""
        manifest = self._manifest()
        return {} if manifest is None else manifest["identity"]

    @property
    def run(self) -> str:
        """
        Digest of the run that was begun, which ties chunks and cuts to it.

        A process of an earlier run may outlive its main process and go on writing after somebody discarded that run.
        """
        if self._run is None:
            if (manifest := self._manifest()) is None:
                raise JournalError(
                    f"{self.folder} has no {self._manifest_path.name} yet, which is written before anything else. Let "
                    "the main process begin the run first; if the folder was moved, put it back."
                )
            self._run = _run_digest(manifest)
        return self._run

    def join(self, run: str) -> None:
        """
        Write to the run that the main process has begun. For the other processes, which may see its manifest late on
        a network file system, or still see an older one.

        Args:
            run (`str`):
                `run` of the main process's journal.
        """
        self._run = run

    def read(self, measures: Sequence[Sequence[Asked]], num_rows: int) -> JournaledWork:
        """
        Read and check all finished work, chunk by chunk.

        What is damaged is logged, moved aside and left out: its rows count as not yet scored. Drafts that a killed
        process left are removed.

        Args:
            measures (`Sequence[Sequence[Asked]]`):
                For each level of the run what is measured.
            num_rows (`int`):
                Rows of the run.

        Returns:
            [`JournaledWork`]: Values, where there are any, and cuts.
        """
        self._require_hold()
        self._files.remove(DRAFT)
        present = np.zeros((len(measures), num_rows), dtype=bool)
        work = JournaledWork(no_values(measures, num_rows), present, self._cuts(len(measures), num_rows))
        for path, match in self._files.find("chunks", _CHUNK):
            try:
                self._take_chunk(path, match, measures, work)
            except DamageError as damage:
                self._files.set_aside(path, f"{damage}. Its rows are computed again")
        return work

    def present(self, measures: Sequence[Sequence[Asked]], num_rows: int) -> np.ndarray:
        """
        Find out which rows are done, for an estimate: nothing is set aside or removed.

        Args:
            measures (`Sequence[Sequence[Asked]]`):
                For each level of the run what is measured.
            num_rows (`int`):
                Rows of the run.

        Returns:
            `np.ndarray` of shape `(levels, rows)`: Booleans; rows of a chunk that is damaged, or that of another run,
            are not done.
        """
        self._require_hold()
        present = np.zeros((len(measures), num_rows), dtype=bool)
        work = JournaledWork(no_values(measures, num_rows), present, [])
        for path, match in self._files.find("chunks", _CHUNK):
            with suppress(DamageError):  # whoever goes on with the run hears of it
                self._take_chunk(path, match, measures, work)
        return present

    def write_chunk(self, level: int, rows: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """
        Write what was measured of some rows at one level; when this returns, it is on disk. For any process.

        Args:
            level (`int`):
                The level.
            rows (`np.ndarray` of shape `(chunk,)`):
                Positions of the rows in the dataset, each once.
            values (`Mapping[str, np.ndarray]`):
                By the name of the measure a number of each row, in the order in which `read` is told the measures; any
                float32 value, NaN included, is kept bit for bit. Features are a vector of float16 of each row.

        Raises:
            JournalError: If it cannot be written; no part of it is left under a name that counts.
        """
        if len(rows) == 0:
            return
        data = encode_chunk(self.run, level, rows, values)
        self._files.write("chunks", f"level-{level:02d}-row-{int(np.min(rows)):08d}-{digest_of(data)}.parquet", data)

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
        data = dump_json({"run": self.run, "tokens": int(cut.tokens), "batches": batches}, indent=None)
        number = 1 + self._files.largest_number("cuts", _CUT)  # damaged cuts keep their numbers
        self._files.write("cuts", f"cut-{number:04d}-{digest_of(data)}.json", data)

    def discard(self) -> None:
        """
        Remove the manifest, chunks, cuts and encoded rows, so that a new run can begin, also those of an earlier
        release; files of other names stay.

        A `journal.json` that is not a journal's is moved aside, not removed: it may belong to something else.

        Raises:
            JournalError: If a later release wrote the journal, whose files this one does not know.
        """
        self._require_hold()
        try:
            there, damage = self._load_manifest() is not None, None
        except DamageError as error:
            there, damage = True, error
        is_earlier = self._is_earlier()
        self._run = None
        # The manifests last: chunks that outlived them would belong to nothing.
        self._files.remove(_CHUNK, _CUT, BLOCK, READING, DRAFT)
        if damage is not None:
            self._files.set_aside(self._manifest_path, str(damage))
        elif there:
            self._files.unlink(self._manifest_path)
        if is_earlier:
            self._files.unlink(self._earlier_path)

    def leave_nothing(self) -> None:
        """Remove the rows that were encoded for a run which was refused before it began, and folders left empty."""
        if self.exists() or (self.folder / "run.lock").exists():
            return
        self._files.remove(BLOCK, READING, DRAFT)
        for folder in (self.folder / ENCODED_FOLDER, self.folder):
            with suppress(OSError):  # something else is in it, or it was never made
                folder.rmdir()

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
        """Name this process to whoever comes second; what a killed run left must not name the wrong one."""
        with suppress(OSError):
            self._owner.unlink()
        with suppress(JournalError):
            self._files.write("", self._owner.name, dump_json({"pid": os.getpid(), "host": socket.gethostname()}))

    def _holder(self) -> str:
        try:
            owner = parse_json(self._files.read(self._owner, _OWNER_BYTES))
            pid, host = owner["pid"], owner["host"]
        except (DamageError, JournalError, TypeError, KeyError):
            return ""
        if type(pid) is not int or type(host) is not str or (host == socket.gethostname() and not _is_alive(pid)):
            return ""
        return f" (process {pid} on host {host[:_SHOWN_WIDTH]})"

    def _require_hold(self) -> None:
        if not self._held:
            raise JournalError(
                f"only the holder of the journal {self.folder} may do this. Do it inside `with journal.hold():`."
            )

    def _refuse_others(self, different: Sequence[str]) -> None:
        if not different:
            return
        more = len(different) - _SHOWN_DIFFERENCES
        listed = "; ".join([*different[:_SHOWN_DIFFERENCES], *([f"and {more} more"] if more > 0 else [])])
        raise JournalError(
            f"{self.folder} holds the scores of another run: {listed}. Use another folder, or delete that folder to "
            "start anew."
        )

    # -- the manifest -------------------------------------------------------------------------------------------------

    @property
    def _manifest_path(self) -> Path:
        return self.folder / "journal.json"

    @property
    def _earlier_path(self) -> Path:
        return self.folder / "manifest.json"

    def _manifest(self) -> dict[str, Any] | None:
        """The manifest, checked, or `None` where there is none."""
        try:
            return self._load_manifest()
        except DamageError as damage:
            raise JournalError(
                f"{self._manifest_path} should be the manifest of a run, but {damage}. Restore that file, or delete "
                f"{self.folder} to start anew, or use another folder."
            ) from damage

    def _load_manifest(self) -> dict[str, Any] | None:
        if not os.path.lexists(self._manifest_path):
            return None
        manifest = parse_json(self._files.read(self._manifest_path, _MANIFEST_BYTES))
        if not isinstance(manifest, dict) or type(manifest.get("format")) is not int or manifest["format"] < _FORMAT:
            raise DamageError(f"it has no format number from {_FORMAT} on")
        if manifest["format"] > _FORMAT:
            raise JournalError(
                f"{self.folder} was written by a later release: its format is {manifest['format']}, and this release "
                f"of hf_dlc reads {_FORMAT}. Update hf_dlc, or use another folder."
            )
        for key in ("identity", "settings"):
            if not isinstance(manifest.get(key), dict):
                raise DamageError(f"its {key!r} are missing or of the wrong type")
        return manifest

    def _is_earlier(self) -> bool:
        """Whether an earlier release began a run here. Other programs, too, call files `manifest.json`."""
        if not os.path.lexists(self._earlier_path):
            return False
        try:
            manifest = parse_json(self._files.read(self._earlier_path, _MANIFEST_BYTES))
        except DamageError:
            return False
        is_journal = isinstance(manifest, dict) and {"identity", "settings"} <= manifest.keys()
        return is_journal and manifest.get("format") == _EARLIER_FORMAT

    def _refuse_earlier(self) -> None:
        if self._is_earlier():
            raise JournalError(
                f"{self.folder} holds a run that an earlier release of hf_dlc began: its format is {_EARLIER_FORMAT}, "
                f"and this release goes on with {_FORMAT} only. Use another folder, or delete that folder to start "
                "anew, or finish the run with the release that began it."
            )

    def _refuse_orphans(self) -> None:
        """Chunks of which nothing says whose they are must not end up in another run's scores."""
        for name, pattern in (("chunks", _CHUNK), ("cuts", _CUT)):
            if files := self._files.find(name, pattern):
                raise JournalError(
                    f"{self.folder} should have a {self._manifest_path.name} that says whose scores it holds, but has "
                    f"only {name}, such as {files[0][0].name}. Restore that file, or delete {self.folder} to start "
                    "anew."
                )

    # -- chunks and cuts ----------------------------------------------------------------------------------------------

    def _take_chunk(
        self, path: Path, match: re.Match[str], measures: Sequence[Sequence[Asked]], work: JournaledWork
    ) -> None:
        """Enter a chunk into `work`, whole or not at all."""
        level, first, digest = int(match[1]), int(match[2]), match[3]
        num_levels, num_rows = work.present.shape
        if level >= num_levels:
            raise DamageError(f"the run has no level {level}")
        sizes = {one.name: one.size if isinstance(one, Features) else 0 for one in measures[level]}
        data = self._files.read(path, chunk_bytes(sizes, num_rows))
        check_digest(data, digest)
        rows, values = decode_chunk(data, self.run, level, sizes, num_rows)
        if rows.min() != first:
            raise DamageError("its rows are not those of its name")
        known = work.present[level, rows]
        for name in sizes:
            if work.values[name][level, rows[known]].tobytes() != values[name][known].tobytes():
                raise DamageError("it contradicts the scores of another chunk")
        for name in sizes:
            work.values[name][level, rows] = values[name]
        work.present[level, rows] = True

    def _cuts(self, num_levels: int, num_rows: int) -> list[Cut]:
        cuts = []
        for path, match in self._files.find("cuts", _CUT):
            try:
                data = self._files.read(path, 2**20 + 32 * num_levels * num_rows)
                check_digest(data, match[2])
                cuts.append(_decode_cut(data, self.run, num_levels))
            except DamageError as damage:
                self._files.set_aside(path, f"{damage}. Scores that are computed again may differ in the last digits")
        return cuts


def _run_digest(manifest: dict[str, Any]) -> str:
    return digest_of(dump_json([manifest["identity"], manifest["settings"]]))


def _decode_cut(data: bytes, run: str, num_levels: int) -> Cut:
    value = parse_json(data)
    if not isinstance(value, dict) or value.get("run") != run:
        raise DamageError("it belongs to another run")
    tokens, batches = value.get("tokens"), value.get("batches")
    if not _is_count(tokens) or tokens < 1 or not isinstance(batches, dict):
        raise DamageError("it has no budget or no micro-batches")
    levels = {str(level): level for level in range(num_levels)}
    for level, first_rows in batches.items():
        if level not in levels or not isinstance(first_rows, list) or not all(map(_is_count, first_rows)):
            raise DamageError("its micro-batches are not those of the run")
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


_MISSING = object()


def _differences(there: Any, here: Any, path: str = "") -> list[str]:
    """List what differs, by dotted path; values are compared as JSON, where `1`, `1.0` and `true` are not the same."""
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


def _part_of(whole: Any, names: Any) -> Any:
    """What of nested dicts stands at the places that other ones name."""
    if not isinstance(whole, dict) or not isinstance(names, dict):
        return whole
    return {name: _part_of(whole[name], names[name]) for name in names if name in whole}


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _LONG_HEX.fullmatch(value) is not None


def _shown(value: Any) -> str:
    if value is _MISSING:
        return "missing"
    if _is_digest(value):
        return "set"
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= _SHOWN_WIDTH else f"{text[: _SHOWN_WIDTH - 1]}…"
