from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_dlc.execution.journal import Cut, Journal, JournaledWork, JournalError
from hf_dlc.execution.journal_files import JournalFolder
from hf_dlc.scores.dlc import CONFIDENCE, LOSS
from tests.conftest import ROOT, run_python


LEVELS, ROWS = 3, 10
IDENTITY = {"weights": "0123456789abcdef" * 2, "config": {"max_length": 512, "masking": "random"}, "rows": ROWS}
SETTINGS = {"tokens_per_batch": 4096, "schedule": [0.0, 0.1, 0.25]}
MEASURES = [(CONFIDENCE, LOSS)] * LEVELS
CHUNK = {"level": 1, "rows": [4, 2, 7], "confidence": [0.5, 0.25, 0.125], "loss": [1.0, 2.0, 3.0]}

# The head of every piece of code that runs in an interpreter of its own.
PRELUDE = f"""
import os, signal, sys
import numpy as np
from hf_dlc.execution.journal import Cut, Journal, JournalError
from hf_dlc.scores.dlc import CONFIDENCE, LOSS

def chunk(journal, level=0, rows=(0, 1)):
    values = np.arange(len(rows), dtype=np.float32)
    journal.write_chunk(level, np.array(rows), {{"confidence": values, "loss": values + 1}})

def begin(journal):
    return journal.begin({IDENTITY!r}, lambda: {SETTINGS!r})
"""

needs_signals = pytest.mark.skipif(os.name == "nt", reason="kills with POSIX signals")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "x"


@pytest.fixture
def begun(folder: Path) -> Path:
    """A run that has begun and written one chunk."""
    journal = Journal(folder)
    with journal.hold():
        begin(journal)
        write(journal)
    return folder


def never() -> dict[str, Any]:
    raise AssertionError("a run that goes on settles nothing")


def begin(journal: Journal, settle: Callable[[], dict[str, Any]] = lambda: SETTINGS, **changes: Any) -> dict[str, Any]:
    return journal.begin({**IDENTITY, **changes}, settle, info={"versions": {"hf_dlc": "0"}})


def write(journal: Journal, **changes: Any) -> None:
    chunk = {**CHUNK, **changes}
    values = {name: np.array(chunk[name], np.float32) for name in ("confidence", "loss")}
    journal.write_chunk(chunk["level"], np.array(chunk["rows"], np.int64), values)


def reread(folder: Path) -> JournaledWork:
    journal = Journal(folder)
    with journal.hold():
        begin(journal, never)
        return journal.read(MEASURES, ROWS)


def stacked(work: JournaledWork) -> np.ndarray:
    """Confidence and loss, `(2, levels, rows)`."""
    assert list(work.values) == ["confidence", "loss"]
    return np.stack(list(work.values.values()))


def message(folder: Path, **changes: Any) -> str:
    """What a run of another identity is told."""
    journal = Journal(folder)
    with journal.hold(), pytest.raises(JournalError) as raised:
        begin(journal, never, **changes)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def only(folder: Path, pattern: str) -> Path:
    [found] = folder.glob(pattern)
    return found


def chunk_of(folder: Path) -> Path:
    return only(folder, "chunks/*.parquet")


def rename_by_digest(path: Path) -> Path:
    """As somebody would who wants a forged file to be believed."""
    digest = xxhash.xxh3_64_hexdigest(path.read_bytes())
    return path.rename(path.with_name(re.sub("[0-9a-f]{16}(?=[.])", digest, path.name)))


def forge(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return rename_by_digest(path)


def forge_table(path: Path, change: Callable[[pa.Table], pa.Table], **options: Any) -> None:
    """Write a changed chunk with the right digest in its name."""
    table = change(pq.ParquetFile(path).read())
    options = {"compression": "none", "use_dictionary": False, **options}
    pq.write_table(table, path, **options)
    rename_by_digest(path)


def set_column(table: pa.Table, name: str, values: list[int]) -> pa.Table:
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), field, [pa.array(values, field.type)])


def as_types(table: pa.Table, **types: pa.DataType) -> pa.Table:
    fields = [field.with_type(types.get(field.name, field.type)) for field in table.schema]
    return table.cast(pa.schema(fields, metadata=table.schema.metadata))


def bits(values: np.ndarray) -> list[int]:
    return np.ascontiguousarray(values, np.float32).view(np.uint32).ravel().tolist()


def limited(command: list[str]) -> list[str]:
    """Permission bits mean nothing to root with all its capabilities."""
    if os.geteuid() != 0:
        return command
    if shutil.which("setpriv") is None:
        pytest.skip("running as root, and there is no setpriv to give up its rights")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]


def start(code: str, *prefix: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*prefix, sys.executable, "-c", PRELUDE + code], text=True, env=environment, **pipes)


def error_in(code: str, *prefix: str) -> str:
    """The message of the journal error that ends `code` in an interpreter of its own."""
    output, errors = start(code, *prefix).communicate(timeout=60)
    last = errors.strip().splitlines()[-1]
    assert "JournalError: " in last, output + errors
    return last.split("JournalError: ")[1]


# -- what comes back --------------------------------------------------------------------------------------------------


def test_nothing_is_touched_before_hold(folder: Path) -> None:
    Journal(folder)
    assert not folder.parent.exists()


def test_round_trip(begun: Path) -> None:
    work = reread(begun)
    scores, (_, present, cuts) = stacked(work), work
    assert scores.dtype == np.float32
    assert scores.shape == (2, LEVELS, ROWS)
    assert present.dtype == bool
    assert np.argwhere(present).tolist() == [[1, 2], [1, 4], [1, 7]]
    assert scores[:, 1, [4, 2, 7]].tolist() == [CHUNK["confidence"], CHUNK["loss"]]
    assert not scores[:, ~present].any()
    assert cuts == []


def test_the_layout_is_as_documented(begun: Path) -> None:
    Journal(begun).write_cut(Cut(512, {1: [7]}))
    names = sorted(path.relative_to(begun).as_posix() for path in begun.rglob("*") if path.is_file())
    chunk, cut, *others = names
    assert re.fullmatch(r"chunks/level-01-row-00000002-[0-9a-f]{16}\.parquet", chunk)
    assert re.fullmatch(r"cuts/cut-0001-[0-9a-f]{16}\.json", cut)
    assert set(others) <= {"journal.json", "run.lock"}
    manifest = json.loads((begun / "journal.json").read_text(encoding="utf-8"))
    assert manifest == {
        "format": 2,
        "identity": IDENTITY,
        "settings": SETTINGS,
        "info": {"versions": {"hf_dlc": "0"}},
    }
    for name in (chunk, cut):
        assert xxhash.xxh3_64_hexdigest((begun / name).read_bytes()) in name


def test_every_bit_of_a_score_is_kept(begun: Path) -> None:
    special = np.array([0x7FC00000, 0xFFC00001, 0x7FA00002, 0x80000000, 0, 0x7F800000, 1], np.uint32).view(np.float32)
    journal = Journal(begun)
    journal.write_chunk(0, np.arange(7), {"confidence": special, "loss": special[::-1]})
    scores = stacked(reread(begun))
    assert bits(scores[0, 0, :7]) == bits(special)
    assert bits(scores[1, 0, :7]) == bits(special[::-1])


def test_scores_that_are_there_twice_agree_by_their_bits(begun: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(begun)
    nan = float("nan")
    write(journal, level=0, rows=[5, 6], confidence=[nan, -0.0], loss=[nan, 1.0])
    write(journal, level=0, rows=[6, 5, 8], confidence=[-0.0, nan, 1.0], loss=[1.0, nan, 1.0])
    assert reread(begun).present[0].nonzero()[0].tolist() == [5, 6, 8]
    assert caplog.records == []


def test_pandas_reads_the_folder(begun: Path) -> None:
    write(Journal(begun), level=2)
    chunk = chunk_of_level(begun, 2)
    chunk.write_bytes(b"damaged")
    reread(begun)
    (begun / "chunks" / f".draft-{'0' * 16}.tmp").write_bytes(b"half")
    frame = pd.read_parquet(begun / "chunks")
    assert frame.columns.tolist() == ["level", "row", "confidence", "loss"]
    assert frame.to_numpy().tolist() == [[1, 4, 0.5, 1.0], [1, 2, 0.25, 2.0], [1, 7, 0.125, 3.0]]


def chunk_of_level(folder: Path, level: int) -> Path:
    return only(folder, f"chunks/level-{level:02d}-*.parquet")


def test_no_rows_make_no_chunk(begun: Path) -> None:
    write(Journal(begun), level=0, rows=[], confidence=[], loss=[])
    assert chunk_of(begun)


def test_many_rows_in_several_row_groups(folder: Path) -> None:
    journal, count = Journal(folder), 2**20 + 1
    values = np.arange(count, dtype=np.float32)
    with journal.hold():
        begin(journal)
        journal.write_chunk(0, np.arange(count)[::-1], {"confidence": values, "loss": values})
        work = journal.read(MEASURES[:1], count)
    assert work.present.all()
    assert (stacked(work)[:, 0] == values[::-1]).all()


def test_a_run_of_no_rows(folder: Path) -> None:
    journal = Journal(folder)
    with journal.hold():
        begin(journal)
        assert stacked(journal.read(MEASURES, 0)).shape == (2, LEVELS, 0)


@given(
    rows=st.lists(st.integers(0, ROWS - 1), unique=True, min_size=1),
    values=st.lists(st.integers(0, 2**32 - 1), min_size=2 * ROWS, max_size=2 * ROWS),
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_scores_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list[int], values: list[int]) -> None:
    journal = Journal(tmp_path_factory.mktemp("run"))
    confidence, loss = np.array(values, np.uint32).view(np.float32).reshape(2, ROWS)[:, : len(rows)]
    with journal.hold():
        begin(journal)
        journal.write_chunk(2, np.array(rows), {"confidence": confidence, "loss": loss})
        work = journal.read(MEASURES, ROWS)
    assert bits(stacked(work)[:, 2, rows]) == bits(np.stack([confidence, loss]))
    assert sorted(rows) == work.present[2].nonzero()[0].tolist()


# -- beginning and going on -------------------------------------------------------------------------------------------


def test_settling_happens_once(folder: Path) -> None:
    journal = Journal(folder)
    with journal.hold():
        # As JSON gives it back: a run and its continuation must not differ in a tuple.
        assert begin(journal, lambda: {"schedule": (0, 0.5)}) == {"schedule": [0, 0.5]}
        assert begin(journal, never) == {"schedule": [0, 0.5]}
    again = Journal(folder)
    with again.hold():
        assert begin(again, never) == {"schedule": [0, 0.5]}


def test_a_failed_settling_leaves_no_run(folder: Path) -> None:
    journal = Journal(folder)
    with journal.hold():
        with pytest.raises(ZeroDivisionError):
            begin(journal, lambda: 1 / 0)
        assert not (folder / "journal.json").exists()
        assert begin(journal) == SETTINGS


def test_settings_must_be_a_dict(folder: Path) -> None:
    journal = Journal(folder)
    with journal.hold(), pytest.raises(TypeError, match="got list"):
        begin(journal, lambda: [1])
    assert not (folder / "journal.json").exists()


def test_info_is_never_compared(begun: Path) -> None:
    journal = Journal(begun)
    with journal.hold():
        assert journal.begin(IDENTITY, never, info={"versions": "others"}) == SETTINGS


def test_the_identity_is_compared_as_json(folder: Path) -> None:
    journal, identity = Journal(folder), {"seeds": (1, 2), "share": float("nan"), 3: "three"}
    with journal.hold():
        journal.begin(identity, dict)
        assert journal.begin(identity, never) == {}


def test_another_run_is_refused_by_name(begun: Path) -> None:
    config = {"max_length": 1024, "masking": "random"}
    assert message(begun, config=config, weights="f" * 32) == (
        f"{begun} holds the scores of another run: weights differ; config.max_length is 512 there and 1024 here. Use "
        "another folder, or delete that folder to start anew."
    )


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"extra": 1}, "extra is missing there and 1 here"),
        ({"config": {"max_length": 512}}, 'config.masking is "random" there and missing here'),
        ({"config": None}, 'config is {"masking": "random", "max_length": 512} there and null here'),
        ({"weights": None}, "weights differ."),
        ({"digest": "f" * 32}, "digest is missing there and set here"),
        ({"rows": 10.0}, "rows is 10 there and 10.0 here"),
        ({"rows": True}, "rows is 10 there and true here"),
        ({"rows": "é" * 500}, f'rows is 10 there and "{"é" * 58}… here'),
        ({f"key{number}": 1 for number in range(9)}, "key5 is missing there and 1 here; and 3 more."),
    ],
)
def test_what_differs(begun: Path, changes: dict[str, Any], part: str) -> None:
    assert part in message(begun, **changes)


def test_values_that_are_cut_alike_differ(folder: Path) -> None:
    journal = Journal(folder)
    with journal.hold():
        begin(journal, template="x" * 500 + "a")
    assert "another run: template differs. Use" in message(folder, template="x" * 500 + "b")


def test_a_foreign_key_cannot_write_lines_or_colours(begun: Path) -> None:
    manifest = json.loads((begun / "journal.json").read_text(encoding="utf-8"))
    manifest["identity"]["a\nb\x1b[31m\ud800"] = 1
    (begun / "journal.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert r"a\nb\x1b[31m\ud800 is 1 there and missing here" in message(begun)


@pytest.mark.parametrize("keep_chunks", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        *("", "{", '{"format": 2, "identity": {', "[1]", "null", "{}", "\xff", "[" * 100_000),
        *('{"format": true, "identity": {}, "settings": {}}', '{"format": 1, "identity": {}, "settings": {}}'),
        *('{"format": 2, "identity": [], "settings": {}}', '{"format": 2, "identity": {}}'),
    ],
)
def test_a_damaged_manifest(begun: Path, text: str, keep_chunks: bool) -> None:
    (begun / "journal.json").write_bytes(text.encode("latin-1"))
    if not keep_chunks:
        shutil.rmtree(begun / "chunks")
    told = message(begun)
    assert f"{begun}/journal.json should be the manifest of a run, but it" in told
    assert f"Restore that file, or delete {begun} to start anew" in told


def test_a_manifest_that_is_a_link_or_huge(begun: Path, tmp_path: Path) -> None:
    manifest = (begun / "journal.json").rename(tmp_path / "elsewhere.json")
    (begun / "journal.json").symlink_to(manifest)
    assert "it is not a regular file" in message(begun)
    (begun / "journal.json").unlink()
    with open(begun / "journal.json", "wb") as file:
        file.truncate(2**40)
    assert "more than it can need" in message(begun)


def test_a_later_format(begun: Path) -> None:
    (begun / "journal.json").write_text('{"format": 3}', encoding="utf-8")
    told = message(begun)
    assert "its format is 3, and this release of hf_dlc reads 2. Update hf_dlc" in told
    journal = Journal(begun)
    with journal.hold(), pytest.raises(JournalError, match="Update hf_dlc"):
        journal.discard()
    assert chunk_of(begun)


def of_an_earlier_release(folder: Path) -> Path:
    """As the format before left a run: its manifest had another name."""
    manifest = json.loads((folder / "journal.json").read_text(encoding="utf-8"))
    (folder / "journal.json").unlink()
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 1}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("keep_chunks", [True, False])
def test_an_earlier_format_is_refused_in_words(begun: Path, keep_chunks: bool) -> None:
    of_an_earlier_release(begun)
    if not keep_chunks:
        shutil.rmtree(begun / "chunks")
    before = sorted(begun.rglob("*"))
    told = message(begun)
    assert told == (
        f"{begun} holds a run that an earlier release of hf_dlc began: its format is 1, and this release goes on with "
        "2 only. Use another folder, or delete that folder to start anew, or finish the run with the release that "
        "began it."
    )
    assert sorted(begun.rglob("*")) == before  # nothing is lost


def test_an_earlier_format_can_be_discarded(begun: Path) -> None:
    journal = Journal(of_an_earlier_release(begun))
    with journal.hold():
        journal.discard()
        assert not list(begun.glob("chunks/*"))
        assert not (begun / "manifest.json").exists()
        assert begin(journal) == SETTINGS


@pytest.mark.parametrize("text", ['{"kept_rows": 3}', "{", "[1]", '{"format": 1}', '{"format": 7, "identity": {}}'])
def test_a_manifest_of_something_else_is_left_alone(folder: Path, text: str) -> None:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    journal = Journal(folder)
    assert not journal.exists()
    with journal.hold():
        assert begin(journal) == SETTINGS
        assert journal.exists()
        journal.discard()
    assert not journal.exists()
    assert (folder / "manifest.json").read_text(encoding="utf-8") == text


def test_a_damaged_manifest_of_an_earlier_format_is_not_mistaken_for_no_run(begun: Path) -> None:
    (of_an_earlier_release(begun) / "manifest.json").write_bytes(b"{")
    assert "should have a journal.json that says whose scores it holds, but has only chunks" in message(begun)


def test_whether_a_run_has_begun(folder: Path) -> None:
    journal = Journal(folder)
    assert not journal.exists()
    with journal.hold():
        assert not journal.exists()
        begin(journal)
        assert journal.exists()
    (folder / "journal.json").write_bytes(b"damaged")
    assert journal.exists()  # it is refused where it is begun, not passed over


def test_a_run_of_an_earlier_release_has_begun(begun: Path) -> None:
    assert Journal(of_an_earlier_release(begun)).exists()


def test_levels_of_different_measures(begun: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A chunk has a column for each measure of its level, and one with others is not believed."""
    measures = [(LOSS,), (CONFIDENCE, LOSS), (LOSS,)]
    journal = Journal(begun)
    values = np.array([1.5, 2.5], np.float32)
    journal.write_chunk(0, np.array([3, 1]), {"loss": values})
    write(journal, level=2)  # with a confidence that nobody asks for
    with journal.hold():
        begin(journal, never)
        work = journal.read(measures, ROWS)
    assert pq.read_table(chunk_of_level(begun, 0)).column_names == ["level", "row", "loss"]
    assert work.values["loss"][0, [3, 1]].tolist() == [1.5, 2.5]
    assert not work.values["confidence"][[0, 2]].any()
    assert work.present.sum(axis=1).tolist() == [2, 3, 0]
    [record] = caplog.records
    assert "level-02" in record.getMessage()
    assert "wrong columns" in record.getMessage()


def test_chunks_without_a_manifest_belong_to_nobody(begun: Path) -> None:
    (begun / "journal.json").unlink()
    assert f"only chunks, such as {chunk_of(begun).name}. Restore that file, or delete" in message(begun)
    with pytest.raises(JournalError, match=r"has no journal\.json yet"):
        write(Journal(begun))


def test_only_the_holder_may_begin_read_and_discard(begun: Path) -> None:
    journal = Journal(begun)
    for call in (lambda: begin(journal), lambda: journal.read(MEASURES, ROWS), journal.discard):
        with pytest.raises(JournalError, match="only the holder"):
            call()
    with journal.hold():
        pass
    with pytest.raises(JournalError, match="only the holder"):
        journal.read(MEASURES, ROWS)


# -- damage -----------------------------------------------------------------------------------------------------------


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip_a_byte(path: Path) -> None:
    """In the midst of the values, where a reader has no means to see it but the digest."""
    data = bytearray(path.read_bytes())
    values = np.array(CHUNK["loss"], np.float32).tobytes() if path.suffix == ".parquet" else b"512"
    data[data.index(values) + len(values) - 1] ^= 1
    path.write_bytes(data)


def _no_parquet(path: Path) -> None:
    forge(path, b"PAR1 this is none PAR1")


def _truncate_and_rename(path: Path) -> None:
    forge(path, path.read_bytes()[:-7])


def _missing_column(path: Path) -> None:
    forge_table(path, lambda table: table.drop_columns("loss"))


def _more_columns(path: Path) -> None:
    forge_table(path, lambda table: table.append_column("more", [[1, 2, 3]]))


def _wrong_type(path: Path) -> None:
    forge_table(path, lambda table: as_types(table, loss=pa.float64()))


def _nulls(path: Path) -> None:
    forge_table(path, lambda table: table.set_column(3, "loss", pa.array([1.0, None, 2.0], pa.float32())))


def _row_too_large(path: Path) -> None:
    forge_table(path, lambda table: set_column(table, "row", [2, 4, ROWS]))


def _negative_row(path: Path) -> None:
    forge_table(path, lambda table: set_column(table, "row", [2, 4, -1]))


def _row_twice(path: Path) -> None:
    forge_table(path, lambda table: set_column(table, "row", [2, 4, 4]))


def _another_first_row(path: Path) -> None:
    forge_table(path, lambda table: set_column(table, "row", [3, 4, 7]))


def _another_level(path: Path) -> None:
    forge_table(path, lambda table: set_column(table, "level", [1, 1, 2]))


def _another_level_in_the_name(path: Path) -> None:
    path.rename(path.with_name(path.name.replace("level-01", "level-02")))


def _level_too_large(path: Path) -> None:
    path.unlink()
    write(Journal(path.parents[1]), level=LEVELS)


def _no_rows(path: Path) -> None:
    forge_table(path, lambda table: table.slice(0, 0))


def _too_many_rows(path: Path) -> None:
    forge_table(path, lambda table: pa.concat_tables([table] * 4))


def _compressed(path: Path) -> None:
    forge_table(path, lambda table: table, compression="gzip")


def _huge(path: Path) -> None:
    with open(path, "r+b") as file:
        file.truncate(2**40)


def _link(path: Path) -> None:
    path.symlink_to(path.rename(path.parent.parent / "elsewhere.parquet"))


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "file").touch()


def _no_run(path: Path) -> None:
    forge_table(path, lambda table: table.replace_schema_metadata(None))


DAMAGES = [
    *(_truncate, _empty, _flip_a_byte, _no_parquet, _truncate_and_rename, _missing_column, _more_columns, _wrong_type),
    *(_nulls, _row_too_large, _negative_row, _row_twice, _another_first_row, _another_level, _no_rows, _no_run),
    *(_another_level_in_the_name, _level_too_large, _too_many_rows, _compressed, _huge, _link, _pipe, _directory),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_chunk(begun: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]) -> None:
    if damage is _pipe and not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    write(Journal(begun), level=0)
    damage(chunk_of_level(begun, 1))
    damaged = next(path for path in begun.glob("chunks/*") if "level-00" not in path.name)
    present = reread(begun).present
    assert present[0].sum() == 3
    assert present.sum() == 3
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert str(damaged) in record.getMessage()
    assert record.getMessage().endswith("Its rows are computed again.")
    assert not os.path.lexists(damaged)
    assert os.path.lexists(damaged.with_name(f"_{damaged.name}.damaged"))


def test_damage_is_told_once_and_mended(begun: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):  # the same chunk, damaged again, must not hit upon what was set aside
        _flip_a_byte(chunk_of(begun))
        caplog.clear()
        assert not reread(begun).present.any()
        assert len(caplog.records) == 1
        assert not reread(begun).present.any()
        assert len(caplog.records) == 1
        write(Journal(begun))
        assert reread(begun).present.sum() == 3
    assert len(list(begun.glob("chunks/_*.damaged*"))) == 2


@pytest.mark.parametrize("changed", [{"loss": [1.0, 2.5, 3.0]}, {"confidence": [0.5, float("nan"), 0.125]}])
def test_chunks_that_contradict(begun: Path, caplog: pytest.LogCaptureFixture, changed: dict[str, Any]) -> None:
    rows = {"rows": [4, 2, 7, 9]}
    longer = {name: [*changed.get(name, CHUNK[name]), 1.0] for name in ("confidence", "loss")}
    write(Journal(begun), **rows, **longer)
    first, second = sorted(begun.glob("chunks/*.parquet"))
    kept = pq.ParquetFile(first).read().to_pydict()
    work = reread(begun)
    scores, present = stacked(work), work.present
    assert present[1].nonzero()[0].tolist() == sorted(kept["row"])  # the later one is left out whole
    assert bits(scores[0, 1, kept["row"]]) == bits(np.array(kept["confidence"]))
    assert bits(scores[1, 1, kept["row"]]) == bits(np.array(kept["loss"]))
    [record] = caplog.records
    assert str(second) in record.getMessage()
    assert "contradicts" in record.getMessage()


def test_zeros_of_both_signs_contradict(begun: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(Journal(begun), level=0, rows=[5], confidence=[0.0], loss=[0.0])
    write(Journal(begun), level=0, rows=[5], confidence=[-0.0], loss=[0.0])
    reread(begun)
    assert len(caplog.records) == 1


def test_other_names_are_ignored(begun: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chunk = chunk_of(begun)
    names = ["notes.txt", f"x{chunk.name}", f"{chunk.name}.bak", "level-1-row-2.parquet", chunk.name.upper()]
    for name in names:
        (begun / "chunks" / name).write_bytes(b"anything")
    (begun / "chunks" / "link").symlink_to(tmp_path)
    assert reread(begun).present.sum() == 3
    assert caplog.records == []
    assert {*names, "link", chunk.name} == {path.name for path in begun.glob("chunks/*")}


@pytest.mark.parametrize("name", ["chunks", "cuts"])
@pytest.mark.parametrize("kind", ["link", "file"])
def test_folders_that_are_none(begun: Path, tmp_path: Path, name: str, kind: str) -> None:
    moved = (begun / name).rename(tmp_path / "moved")
    (begun / name).symlink_to(moved) if kind == "link" else (begun / name).touch()
    assert f"{begun / name} must be a folder of the journal" in message(begun)


def test_the_whole_journal_may_be_behind_a_link(begun: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(begun)
    assert reread(tmp_path / "link").present.sum() == 3


def test_chunks_of_another_run_do_not_mix_in(begun: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = Journal(tmp_path / "other")
    with other.hold():
        begin(other, lambda: {**SETTINGS, "tokens_per_batch": 2048})
        write(other, level=2)
        other.write_cut(Cut(512, {0: [1]}))
    for name in ("chunks", "cuts"):
        shutil.copytree(tmp_path / "other" / name, begun / name, dirs_exist_ok=True)
    _, present, cuts = reread(begun)
    assert present[2].sum() == 0
    assert present[1].sum() == 3
    assert cuts == []
    assert [("belongs to another run" in record.getMessage()) for record in caplog.records] == [True, True]


def test_a_process_of_a_discarded_run_cannot_mix_in(begun: Path) -> None:
    late = Journal(begun)
    write(late, level=0)
    journal = Journal(begun)
    with journal.hold():
        journal.discard()
        begin(journal, seed=1)
        write(late, level=0)
        assert not journal.read(MEASURES, ROWS).present.any()


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_forged_bytes_never_get_further_than_the_check(begun: Path, data: st.DataObject) -> None:
    for path in begun.glob("chunks/*"):
        path.unlink()
    journal = Journal(begun)
    write(journal)
    path = chunk_of(begun)
    forged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        forged[data.draw(st.integers(0, len(forged) - 1))] = data.draw(st.integers(0, 255))
    forge(path, bytes(forged[: data.draw(st.integers(0, len(forged)) | st.just(len(forged)))]))
    with journal.hold():
        begin(journal, never)
        assert journal.read(MEASURES, ROWS).present.sum() in (0, 3)


def test_forged_headers_do_not_end_the_process(begun: Path) -> None:
    """Each byte in turn: pyarrow aborts, which nothing can catch, over some of the values it finds in a header."""
    chunk = chunk_of(begun)
    whole = chunk.read_bytes()
    for index in range(4, len(whole)):
        data = whole[:index] + b"\x7f" + whole[index + 1 :]
        chunk.with_name(chunk.name.replace(chunk.stem[-16:], xxhash.xxh3_64_hexdigest(data))).write_bytes(data)
    code = f"""
journal = Journal({str(begun)!r})
with journal.hold():
    begin(journal)
    print(journal.read([(CONFIDENCE, LOSS)] * {LEVELS}, {ROWS}).present.any())
"""
    output, errors = start(code).communicate(timeout=60)
    assert output in ("True\n", "False\n"), errors[-2000:]


def test_a_disk_that_does_not_answer_is_no_damage(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunk = chunk_of(begun)

    def read_bytes(path: Path) -> bytes:
        if path == chunk:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return original(path)

    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(JournalError, match="cannot be read: Input/output error") as raised:
        reread(begun)
    assert str(chunk) in str(raised.value)
    assert chunk.exists()


# -- cuts -------------------------------------------------------------------------------------------------------------


def test_cuts_come_back_in_order(begun: Path) -> None:
    cuts = [Cut(2**20 - number, {1: [7, 9], 2: [number]}) for number in range(12)]
    for cut in cuts:  # a journal of its own each, as after a restart
        Journal(begun).write_cut(cut)
    assert reread(begun).cuts == cuts
    assert all(type(level) is int for level in reread(begun).cuts[0].batches)


def test_cuts_are_ordered_by_number_not_by_name(begun: Path) -> None:
    journal = Journal(begun)
    journal.write_cut(Cut(9, {0: [0]}))
    first = only(begun, "cuts/*")
    first.rename(first.with_name(first.name.replace("0001", "9999")))
    journal.write_cut(Cut(8, {0: [0]}))
    assert only(begun, "cuts/cut-10000-*")
    assert [cut.tokens for cut in reread(begun).cuts] == [9, 8]


def test_cuts_of_numpy_numbers(begun: Path) -> None:
    Journal(begun).write_cut(Cut(np.int64(512), {np.int64(1): list(np.array([7, 9]))}))
    assert reread(begun).cuts == [Cut(512, {1: [7, 9]})]


def test_cuts_of_two_processes_at_once(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both see the same number of cuts."""
    monkeypatch.setattr(JournalFolder, "largest_number", lambda self, part, pattern: 0)
    for level in range(2):
        Journal(begun).write_cut(Cut(512, {level: [3]}))
    assert sorted(reread(begun).cuts, key=str) == [Cut(512, {0: [3]}), Cut(512, {1: [3]})]


def _cut_json(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        value = json.loads(path.read_text(encoding="utf-8"))
        forge(path, json.dumps(change(value)).encode())

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        *(_truncate, _empty, _flip_a_byte, _huge, _link, _directory, _truncate_and_rename),
        *(_cut_json(lambda value, tokens=tokens: {**value, "tokens": tokens}) for tokens in (0, -1, "1", True, 1.5)),
        *(
            _cut_json(lambda value, batches=batches: {**value, "batches": batches})
            for batches in ([], {"3": [0]}, {"-1": [0]}, {"1": [-1]}, {"1": [True]}, {"1": 2}, {"01": [1]}, None)
        ),
        _cut_json(lambda value: {**value, "run": "0" * 16}),
        _cut_json(lambda value: [value]),
    ],
)
def test_a_damaged_cut(begun: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]) -> None:
    journal = Journal(begun)
    journal.write_cut(Cut(512, {1: [7, 9]}))
    damage(only(begun, "cuts/*"))
    damaged = only(begun, "cuts/*")
    assert reread(begun).cuts == []
    [record] = caplog.records
    assert str(damaged) in record.getMessage()
    assert "may differ in the last digits" in record.getMessage()
    assert reread(begun).cuts == []
    assert len(caplog.records) == 1
    journal.write_cut(Cut(256, {1: [7]}))
    assert only(begun, "cuts/cut-0002-*")  # the number of a damaged one is not given again


# -- the lock ---------------------------------------------------------------------------------------------------------


def refusal(folder: Path) -> str:
    with pytest.raises(JournalError) as raised, Journal(folder).hold():
        pass
    return str(raised.value)


def test_one_holder_in_a_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("whoever comes second is told so at once"))
    journal = Journal(folder)
    told: list[str] = []
    with journal.hold():
        told.append(refusal(folder))
        thread = threading.Thread(target=lambda: told.append(refusal(folder)))
        thread.start()
        thread.join()
        with pytest.raises(JournalError, match="is in use"), journal.hold():
            pass
        assert begin(journal) == SETTINGS  # being asked in vain takes nothing from the holder
    assert len(told) == 2
    for text in told:
        assert text.startswith(f"{folder} is in use by another run (process {os.getpid()} on host ")
        assert text.endswith("). Wait for it to end, or use another folder.")
    with Journal(folder).hold():
        pass


def test_the_lock_is_let_go_after_an_error(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), Journal(folder).hold():
        _ = 1 / 0
    with Journal(folder).hold():
        pass


HOLD = """
with Journal(FOLDER).hold():
    print("held", flush=True)
    sys.stdin.read()
"""


@needs_signals
@pytest.mark.parametrize("end", ["killed", "ended"])
def test_a_holder_in_another_process(folder: Path, end: str) -> None:
    process = start(f"FOLDER = {str(folder)!r}\n{HOLD}")
    try:
        assert process.stdout.readline() == "held\n", process.stderr.read()
        assert f"(process {process.pid} on host " in refusal(folder)
        if end == "killed":
            process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert (folder / "run.owner.json").exists() == (end == "killed")
        with Journal(folder).hold():  # nothing has to be cleaned up by hand
            assert f"(process {os.getpid()} on host " in refusal(folder)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"pid": "1", "host": "h"}',
        '{"pid": 1, "host": 2}',
        '{"pid": 1}',
        "[" * 3000,
        "x" * 10_000,
        json.dumps({"pid": 2**40, "host": os.uname().nodename}) if hasattr(os, "uname") else "",
    ],
)
def test_who_holds_it_is_told_only_if_known(folder: Path, text: str) -> None:
    with Journal(folder).hold():
        (folder / "run.owner.json").write_text(text, encoding="utf-8")
        assert refusal(folder) == f"{folder} is in use by another run. Wait for it to end, or use another folder."


@needs_signals
def test_a_dead_process_is_not_named(folder: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with Journal(folder).hold():
        owner = json.loads((folder / "run.owner.json").read_text(encoding="utf-8"))
        (folder / "run.owner.json").write_text(json.dumps({**owner, "pid": gone.pid}), encoding="utf-8")
        assert "another run. Wait" in refusal(folder)
        (folder / "run.owner.json").write_text(json.dumps({"pid": gone.pid, "host": "far\naway"}), encoding="utf-8")
        assert rf"(process {gone.pid} on host far\naway)" in refusal(folder)


# -- writing ----------------------------------------------------------------------------------------------------------


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    assert refusal(tmp_path / "x").endswith("Pass a run_dir that is a folder, or a name not yet taken.")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails(begun: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        for attempt in (lambda: write(Journal(begun), level=0), lambda: Journal(begun).write_cut(Cut(1, {0: [1]}))):
            with pytest.raises(JournalError) as raised:
                attempt()
            told = str(raised.value)
            assert told.startswith(f"the journal {begun} cannot be written: {os.strerror(number)}. ")
            assert ("another folder" in told) == (number == errno.EROFS)
            assert ("Make room and run the same command" in told) == (number in (errno.ENOSPC, errno.EDQUOT))
            assert ("goes on after the last chunk" in told) == (number != errno.EROFS)
    assert not list(begun.rglob("*.tmp"))
    assert not list(begun.glob("cuts/*"))
    assert reread(begun).present.sum() == 3


def test_no_room_for_a_manifest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    journal = Journal(folder)
    with journal.hold():
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(JournalError, match=r"No space left on device\. Make room"):
            begin(journal)
        assert [path.name for path in folder.iterdir() if path.name.startswith("journal")] == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_write_leaves_no_draft(
    begun: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def interrupt(*_: Any) -> None:
        raise error

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(error):
        write(Journal(begun), level=0)
    assert not list(begun.rglob("*.tmp"))


@needs_signals
def test_a_full_disk(begun: Path) -> None:
    told = error_in(
        f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
chunk(Journal({str(begun)!r}), rows=range(5000))
"""
    )
    assert told == (
        f"the journal {begun} cannot be written: {os.strerror(errno.EFBIG)}. Make room and run the same command "
        "again: it goes on after the last chunk that was written."
    )
    assert [path.name for path in begun.glob("chunks/*")] == [chunk_of_level(begun, 1).name]


@needs_signals
@pytest.mark.parametrize("stage", ["new", "begun"])
def test_a_folder_that_is_read_only(begun: Path, folder: Path, stage: str) -> None:
    if stage == "new":
        code, closed = f"with Journal({str(folder / 'new')!r}).hold(): pass", folder
    else:
        code, closed = f"chunk(Journal({str(folder)!r}))", folder / "chunks"
    closed.chmod(0o555)
    try:
        told = error_in(code, *limited([]))
    finally:
        closed.chmod(0o755)
    assert "cannot be written: Permission denied. Make the folder writable, or use another folder." in told


def test_a_folder_that_went_away(begun: Path, tmp_path: Path) -> None:
    journal = Journal(begun)
    write(journal, level=0)
    begun.rename(tmp_path / "moved")
    for attempt in (lambda: write(journal, level=2), lambda: journal.write_cut(Cut(1, {0: [1]}))):
        with pytest.raises(JournalError, match=r"cannot be written: No such file or directory\. Put the folder"):
            attempt()
    assert not begun.exists()
    with pytest.raises(JournalError, match=r"has no journal\.json yet"):
        write(Journal(begun))


KILL = """
original = os.replace
def replace(source, target):
    if "{name}" in str(target):
        if {after}: original(source, target)
        os.kill(os.getpid(), signal.SIGKILL)
    original(source, target)
os.replace = replace
journal = Journal({folder!r})
with journal.hold():
    begin(journal)
    chunk(journal, level=2)
    journal.write_cut(Cut(512, {{1: [7]}}))
"""


@needs_signals
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", ["journal.json", "level-02", "cut-"])
def test_killed_around_the_rename(folder: Path, name: str, after: bool) -> None:
    process = start(KILL.format(name=name, after=after, folder=str(folder)))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors
    assert bool(list(folder.rglob(".draft-*.tmp"))) != after
    journal = Journal(folder)
    with journal.hold():
        begin(journal, never if name != "journal.json" or after else lambda: SETTINGS)
        work = journal.read(MEASURES, ROWS)
    scores, (_, present, cuts) = stacked(work), work
    chunk_there = name == "cut-" or (name == "level-02" and after)
    assert present[2, :2].tolist() == [chunk_there] * 2
    assert scores[:, 2, :2].tolist() == ([[0, 1], [1, 2]] if chunk_there else [[0, 0], [0, 0]])
    assert cuts == ([Cut(512, {1: [7]})] if name == "cut-" and after else [])
    assert not list(folder.rglob(".draft-*.tmp"))


def test_a_reader_never_sees_a_part(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever data reaches the disk, it does not yet have its name, and it is whole when it gets it."""
    seen = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(opened: int) -> None:
        seen.append(("sync", len(list(begun.glob("chunks/level-*")))))
        fsync(opened)

    def spy_replace(source: Path, target: Path) -> None:
        digest = xxhash.xxh3_64_hexdigest(source.read_bytes())
        seen.append(("rename", digest in target.name and source.parent == target.parent))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    write(Journal(begun), level=0)
    folder_sync = [] if os.name == "nt" else [("sync", 2)]
    assert seen == [("sync", 1), ("rename", True), *folder_sync]


def test_file_systems_that_cannot_sync_a_folder(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def refuse_folders(opened: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{opened}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(opened)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    write(Journal(begun), level=0)
    assert reread(begun).present.sum() == 6


# -- discarding -------------------------------------------------------------------------------------------------------


def test_discard_removes_its_own_and_nothing_else(begun: Path, tmp_path: Path) -> None:
    journal = Journal(begun)
    write(journal, level=0)
    journal.write_cut(Cut(512, {1: [7]}))
    journal.write_cut(Cut(512, {2: [7]}))
    _flip_a_byte(chunk_of_level(begun, 0))
    _flip_a_byte(only(begun, "cuts/cut-0002-*"))
    reread(begun)
    (begun / "chunks" / f".draft-{'0' * 16}.tmp").touch()
    foreign = ["notes.txt", "chunks/table.parquet", "cuts/cut.json", "model/weights.bin", "chunks/_old.damaged"]
    for name in foreign:
        (begun / name).parent.mkdir(exist_ok=True)
        (begun / name).touch()
    outside = tmp_path / "outside.parquet"
    outside.touch()
    (begun / "chunks" / f"level-00-row-00000000-{'0' * 16}.parquet").symlink_to(outside)
    (begun / "chunks" / f"level-00-row-00000001-{'0' * 16}.parquet").mkdir()
    with journal.hold():
        journal.discard()
    left = {path.relative_to(begun).as_posix() for path in begun.rglob("*") if not path.is_dir()}
    assert left - {"run.lock"} == set(foreign)
    assert outside.exists()
    assert (begun / "chunks" / f"level-00-row-00000001-{'0' * 16}.parquet").is_dir()


def test_a_new_run_after_discard(begun: Path) -> None:
    journal = Journal(begun)
    with journal.hold():
        begin(journal, never)
        journal.discard()
        journal.discard()
        with pytest.raises(JournalError, match=r"has no journal\.json yet"):
            write(journal)
        assert begin(journal, lambda: {"other": 1}, seed=1) == {"other": 1}
        write(journal, level=0)
        assert journal.read(MEASURES, ROWS).present.sum() == 3


@pytest.mark.parametrize("text", ['{"name": "an app"}', "{"])
def test_discard_keeps_a_manifest_that_is_not_its_own(begun: Path, text: str) -> None:
    journal = Journal(begun)
    (begun / "journal.json").write_text(text, encoding="utf-8")
    with journal.hold():
        for _ in range(2):
            journal.discard()
        assert (begun / "_journal.json.damaged").read_text(encoding="utf-8") == text
        assert begin(journal) == SETTINGS


def test_an_interrupted_discard_leaves_a_run_that_goes_on(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(Journal(begun), level=0)
    unlink, removed = Path.unlink, []

    def interrupt(path: Path, missing_ok: bool = False) -> None:
        if path.name.startswith("level") or path.name == "journal.json":
            if removed:
                raise KeyboardInterrupt
            removed.append(path)
        unlink(path, missing_ok)

    journal = Journal(begun)
    with journal.hold(), monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", interrupt)
        with pytest.raises(KeyboardInterrupt):
            journal.discard()
    assert reread(begun).present.sum() == 3


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_the_clock_does_not_matter(begun: Path) -> None:
    journal = Journal(begun)
    for tokens in (9, 8):
        journal.write_cut(Cut(tokens, {0: [0]}))
    for age, path in enumerate(sorted(begun.rglob("*"))):
        os.utime(path, (10 * age, -10 * age))
    assert [cut.tokens for cut in reread(begun).cuts] == [9, 8]


def test_several_processes_write(begun: Path) -> None:
    code = f"""
for level in (0, 2):
    chunk(Journal({str(begun)!r}), level, [int(sys.stdin.readline())])
"""
    processes = [start(code) for _ in range(2)]
    for row, process in enumerate(processes):
        _, errors = process.communicate(f"{row}\n{row + 2}\n", timeout=60)
        assert process.returncode == 0, errors
    assert np.argwhere(reread(begun).present).tolist() == [[0, 0], [0, 1], [1, 2], [1, 4], [1, 7], [2, 2], [2, 3]]


def test_importing_it_is_light() -> None:
    code = (
        "import sys, hf_dlc.execution.journal; print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    assert run_python(code).stdout.strip() == "[]"
