"""
The recipe, killed, interrupted, out of room and mistreated: the same command goes on and ends with the same results.

Most runs are forked off a process that has imported everything (`recipe_runs.py`), so that there can be many;
they run the file of the recipe as its command line does. A few are started the way that people start them.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT, build_model, build_tokenizer, free_port
from tests.rows import many_rows, write_rows


pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.name == "nt", reason="there are no such signals"),
    pytest.mark.usefixtures("ctrl_c_raises"),  # a process that ignores it would start others that do
]

RECIPE = ROOT / "recipes" / "prune_alpaca.py"
RUNS = Path(__file__).with_name("recipe_runs.py")
ROWS = many_rows(40, skipped=range(3, 40, 17))
LEVELS = 3
FIXED = ["--schedule", "0, 0.05, 0.2"]
CALIBRATED = ["--calibration_shares", "1.0", "0.8", "0.6"]
GOES_ON = "un the same command again: it goes on after the last chunk that was written."
KILLS = 20
MOST_A_RUN = 2  # micro-batches before a kill, so that there are some left for the last

Batch = tuple[int, tuple[int, ...]]  # a level and the rows of a micro-batch
Fault = tuple[str, dict[str, Any]]


# ---- runs ------------------------------------------------------------------------------------------------------


class Server:
    """Forks a process for each run of the recipe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = [sys.executable, str(RUNS)]
        self._process = subprocess.Popen(
            command, env=environment(folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **request: Any) -> Any:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()


def environment(folder: Path) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("ACCELERATE_")}
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(folder / "datasets")}
    return {**inherited, **own, "CUDA_VISIBLE_DEVICES": ""}


@dataclass
class Run:
    """A run that was started."""

    pid: int
    errors_path: Path
    ask: Callable[[], int | None]
    returncode: int | None = None

    def wait(self, seconds: float = 120) -> Run:
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                pytest.fail(f"still running after {seconds} s: {self.errors}")
            time.sleep(0.003)
        return self

    def poll(self) -> int | None:
        """How it ended, or `None`; the server can be asked only once."""
        if self.returncode is None:
            self.returncode = self.ask()
        return self.returncode

    @property
    def errors(self) -> str:
        return self.errors_path.read_text(encoding="utf-8")

    def end(self, *signals: int, pause: float = 0.0) -> Run:
        for number in signals:
            if self.poll() is None:
                os.kill(self.pid, number)
            time.sleep(pause)
        return self.wait()

    def killed(self) -> Run:
        """By a fault in it."""
        assert self.wait().returncode == -signal.SIGKILL, self.errors
        return self

    def finished(self) -> Run:
        assert self.wait().returncode == 0, self.errors
        return self

    def refused(self) -> str:
        """The one line with which it ends."""
        assert self.wait().returncode == 1, self.errors
        assert "Traceback" not in self.errors
        assert "Exception ignored" not in self.errors
        assert self.errors.endswith("\n")
        return self.errors.splitlines()[-1]


@dataclass
class Recipe:
    """Runs of the same command: one output folder, one cache, one log of the micro-batches that were computed."""

    server: Server
    model: Path
    rows: Path
    folder: Path
    options: list[str] = field(default_factory=lambda: FIXED)
    started: int = 0

    @property
    def output(self) -> Path:
        return self.folder / "results"

    @property
    def log(self) -> Path:
        return self.folder / "batches.log"

    @property
    def chunks(self) -> list[Path]:
        return sorted((self.output / "journal" / "chunks").glob("level-*.parquet"))

    def arguments(self, *more: str) -> list[str]:
        files = ["--model", self.model, "--dataset", self.rows, "--output_dir", self.output]
        fixed = [
            "--dtype",
            "float32",
            "--tokens_per_batch",
            "150",
            "--num_threads",
            "1",
            "--chunk_seconds",
            "0",
            "--html_report",
            "false",
        ]
        return [*map(str, files), *fixed, *self.options, *more]

    def start(self, *more: str, faults: tuple[Fault, ...] = (), seconds: float = 0.0) -> Run:
        errors = self._errors()
        pid = self.server.ask(
            argv=self.arguments(*more),
            faults=[("log_batches", {"path": str(self.log), "seconds": seconds}), *faults],
            output=str(errors.with_suffix(".out")),
            errors=str(errors),
            environment={"HF_DLC_CACHE": str(self.folder / "cache")},
        )
        return Run(pid, errors, lambda: self.server.ask(poll=pid))

    def launch(self, *before: str, program: list[str] | None = None, **variables: str) -> Run:
        """In a process of its own, as people start it; not logged."""
        errors = self._errors()
        command = [*before, *(program or [sys.executable, str(RECIPE), *self.arguments()])]
        variables["HF_DLC_CACHE"] = str(self.folder / "cache")
        with errors.open("wb") as file:
            process = subprocess.Popen(
                command,
                env={**environment(self.server.folder), **variables},
                stdout=subprocess.DEVNULL,
                stderr=file,
            )
        return Run(process.pid, errors, process.poll)

    def _errors(self) -> Path:
        self.started += 1
        return self.folder / f"run-{self.started}.err"

    def computed(self) -> list[Batch]:
        lines = self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
        return [(level, tuple(rows)) for level, rows in map(json.loads, lines)]

    def kept(self) -> set[Batch]:
        """What is in the journal: with a chunk for each micro-batch, its micro-batches."""
        tables = [pq.read_table(path).to_pydict() for path in self.chunks]
        return {(table["level"][0], tuple(table["row"])) for table in tables}

    def stopped_midway(self, chunks: int = 20, **start: Any) -> None:
        """Run until so many chunks are written, and leave nothing in the log."""
        self.start(faults=(after_chunk(chunks),), **start).killed()
        assert len(self.chunks) == chunks
        self.log.unlink()


def kill(target: str, number: int = 1, **options: Any) -> Fault:
    return "kill_at", {"target": target, "number": number, **options}


def name_of(point: Any) -> str | None:
    if not isinstance(point, tuple):
        return None
    target, *options = point[1].values()
    return "-".join([str(target).rpartition(":")[2], *map(str, options)])


def after_chunk(number: int) -> Fault:
    return kill("os:replace", number, path="chunks/level", after=True)


def wait_for(condition: Callable[[], bool], run: Run, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert run.poll() is None, run.errors
        assert time.monotonic() < deadline, run.errors
        time.sleep(0.001)


def results(output: Path) -> dict[str, Any]:
    """Bytes, since NaN is not equal to itself."""
    files = {name: (output / name).read_bytes() for name in ("scores.parquet", "pruned.parquet")}
    saved = pq.read_table(output / "pruned.parquet").drop_columns(["dlc_confidence", "dlc_loss", "dlc_gain"])
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    return {**files, "rows": saved.to_pylist(), **{key: manifest[key] for key in ("kept_indices", "schedule")}}


# ---- fixtures --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", ROWS)


@pytest.fixture
def recipe(server: Server, taught_folder: Path, rows_file: Path, tmp_path: Path) -> Recipe:
    return Recipe(server, taught_folder, rows_file, tmp_path)


@pytest.fixture(scope="module")
def whole(server: Server, taught_folder: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A run that nothing happened to."""
    recipe = Recipe(server, taught_folder, rows_file, tmp_path_factory.mktemp("whole"))
    recipe.start().finished()
    return recipe


@pytest.fixture(scope="module")
def whole_calibrated(
    server: Server, taught_folder: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Recipe:
    recipe = Recipe(server, taught_folder, rows_file, tmp_path_factory.mktemp("calibrated"), CALIBRATED)
    recipe.start().finished()
    return recipe


@pytest.fixture
def ends_like(recipe: Recipe) -> Callable[[Recipe], Run]:
    """`ends_like(whole)` runs to the end and compares."""

    def end(other: Recipe) -> Run:
        run = recipe.start().finished()
        assert results(recipe.output) == results(other.output)
        return run

    return end


def test_the_run_that_the_others_are_compared_with(whole: Recipe, whole_calibrated: Recipe) -> None:
    for recipe in (whole, whole_calibrated):
        computed = recipe.computed()
        assert len(computed) == len(set(computed)) == len(recipe.kept())
        assert set(computed) == recipe.kept()
        assert [level for level, _ in computed] == sorted(level for level, _ in computed)
        assert len(computed) >= LEVELS * 12
        scored = sorted(row for level, rows in computed for row in rows if level == 1)
        assert scored == [i for i, row in enumerate(ROWS) if row["output"]]
        scores = pq.read_table(recipe.output / "scores.parquet").to_pydict()
        assert len(set(scores["dlc_loss"])) > 25
    schedules = [results(recipe.output)["schedule"] for recipe in (whole, whole_calibrated)]
    assert schedules[0] == [0, 0.05, 0.2]
    assert 0 < schedules[1][1] < schedules[1][2] < 0.9


# ---- killed ----------------------------------------------------------------------------------------------------


def test_killed_at_random_moments(recipe: Recipe, whole_calibrated: Recipe) -> None:
    recipe.options = CALIBRATED
    seed = random.SystemRandom().randrange(2**32)
    print(f"the moments are those of seed {seed}")
    moments = random.Random(seed)
    for number in range(KILLS):
        there, computed = recipe.kept(), len(recipe.computed())
        run = recipe.start(seconds=0.02)
        if number % 2:  # while it scores, else while it gets ready
            wait_for(lambda before=computed: len(recipe.computed()) > before, run)
        moment = time.monotonic() + moments.uniform(0, 0.1 if number % 2 else 1.0)
        while time.monotonic() < moment and len(recipe.computed()) < computed + MOST_A_RUN:
            time.sleep(0.001)
        assert run.end(signal.SIGKILL).returncode == -signal.SIGKILL, run.errors
        check_work(there, recipe.computed()[computed:], recipe.kept(), lost=1)
    there, computed = recipe.kept(), len(recipe.computed())
    assert 0 < len(there) < len(whole_calibrated.kept())
    assert f"going on after {sum(len(rows) for _, rows in there)} of " in recipe.start().finished().errors
    check_work(there, recipe.computed()[computed:], recipe.kept(), lost=0)
    assert recipe.kept() == whole_calibrated.kept()
    assert results(recipe.output) == results(whole_calibrated.output)


def check_work(there: set[Batch], computed: list[Batch], now: set[Batch], lost: int) -> None:
    """Nothing that was there is computed again, and what is computed is there, but for what a kill took."""
    assert len(computed) == len(set(computed))
    assert not there & set(computed)
    assert there <= now
    assert now - there <= set(computed)
    assert len(set(computed) - now) <= lost


FORWARD = "hf_dlc.tasks.text.task:CausalLMTask.forward"
MASK = "hf_dlc.masking.levels:random_mask_"
LEVEL = 17  # micro-batches of a level, and chunks
LAST = 3 * LEVEL


@pytest.mark.parametrize(
    "point",
    [
        kill(FORWARD, 2, inside="confidence_at"),
        kill(MASK, 40, inside="confidence_at"),
        kill("os:replace", path="calibration"),
    ],
    ids=name_of,
)
def test_killed_while_it_calibrates(recipe: Recipe, whole_calibrated: Recipe, point: Fault) -> None:
    recipe.options = CALIBRATED
    recipe.start(faults=(point,)).killed()
    assert not recipe.computed()
    recipe.start().finished()
    assert results(recipe.output) == results(whole_calibrated.output)


@pytest.mark.parametrize(
    ("point", "chunks"),
    [
        (kill(MASK, 7, inside="set_level"), LEVEL),
        (kill(MASK, 14, inside="set_level", after=True), LEVEL),
        (kill(MASK, 20, inside="set_level"), 2 * LEVEL),
        (kill("hf_dlc.masking.session:MaskingSession.close"), LAST),
    ],
    ids=name_of,
)
def test_killed_while_weights_are_masked(
    recipe: Recipe, whole: Recipe, ends_like: Callable[[Recipe], Run], point: Fault, chunks: int
) -> None:
    recipe.start(faults=(point,)).killed()
    assert len(recipe.chunks) == chunks
    ends_like(whole)
    assert sorted(recipe.computed()) == sorted(whole.computed())  # nothing twice


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("path", "number"),
    [("journal/journal.json", 1), *(("chunks/level", n) for n in (1, LEVEL + 1, LAST))],
)
def test_killed_around_a_rename_of_the_journal(
    recipe: Recipe, whole: Recipe, ends_like: Callable[[Recipe], Run], path: str, number: int, after: bool
) -> None:
    recipe.start(faults=(kill("os:replace", number, path=path, after=after),)).killed()
    chunks = number - 1 + after if path == "chunks/level" else 0
    assert len(recipe.chunks) == chunks
    assert len(list((recipe.output / "journal").rglob(".draft-*"))) == (not after)
    ends_like(whole)
    repeated = path == "chunks/level" and not after
    assert len(recipe.computed()) == len(whole.computed()) + repeated
    assert not list((recipe.output / "journal").glob("*/.draft-*"))


BLOCKS: Fault = ("small_blocks", {"rows": 9})  # five of them
ENCODE = "hf_dlc.tasks.text.task:CausalLMTask.encode_part"


@pytest.mark.parametrize(
    ("point", "blocks"),
    [
        (kill(ENCODE, 3), 2),
        (kill("os:replace", 3, path="rows/rows-"), 2),
        (kill("os:replace", 3, path="rows/rows-", after=True), 3),
        (("no_room", {"number": 4, "target": ENCODE}), 3),
    ],
    ids=name_of,
)
def test_ended_while_rows_are_encoded(recipe: Recipe, whole: Recipe, point: Fault, blocks: int) -> None:
    """The blocks that were written are not encoded again: so many calls as are left do not reach the kill."""
    ended = recipe.start(faults=(BLOCKS, point))
    if point[0] == "no_room":
        assert f"Make room and r{GOES_ON}" in ended.refused()
    else:
        ended.killed()
    folder = recipe.output / "journal" / "rows"
    assert len(list(folder.glob("rows-*.arrow"))) == blocks
    recipe.start(faults=(BLOCKS, kill(ENCODE, 6 - blocks))).finished()
    assert len(list(folder.iterdir())) == 6  # with what was read of them
    assert results(recipe.output) == results(whole.output)


def test_killed_between_two_long_chunks(recipe: Recipe, whole: Recipe, ends_like: Callable[[Recipe], Run]) -> None:
    """A chunk is written at the end of a level too, however long chunks are to be."""
    fault = kill("hf_dlc.execution.loop:LevelLoop._try_forward", 25)
    recipe.start("--chunk_seconds", "1e9", faults=(fault,)).killed()
    [chunk] = recipe.chunks
    assert chunk.name.startswith("level-00-")
    assert len(recipe.computed()) == 24
    ends_like(whole)
    assert recipe.computed()[24:] == [batch for batch in whole.computed() if batch[0] > 0]


@pytest.mark.parametrize(
    "point",
    [
        kill("pyarrow.parquet:ParquetWriter.write_table", inside="write_scores"),
        kill("datasets:Dataset.save_to_disk", after=True),
        kill("pyarrow.parquet:ParquetWriter.write_table", inside="write_subset", after=True),
        kill("os:replace", path="results/manifest.json"),
    ],
    ids=name_of,
)
def test_killed_while_results_are_written(
    recipe: Recipe, whole: Recipe, ends_like: Callable[[Recipe], Run], point: Fault
) -> None:
    recipe.start(faults=(point,)).killed()
    computed = recipe.computed()
    assert len(computed) == len(recipe.chunks) == LAST
    ends_like(whole)
    assert recipe.computed() == computed  # nothing again


@pytest.mark.parametrize("target", ["datasets:Dataset.to_parquet", "pathlib:Path.write_text"])
def test_no_room_for_the_results(
    recipe: Recipe, whole: Recipe, ends_like: Callable[[Recipe], Run], target: str
) -> None:
    message = recipe.start(faults=(("fail_at", {"target": target, "error": errno.ENOSPC}),)).refused()
    assert f"the results cannot be written into {recipe.output}: " in message
    assert os.strerror(errno.ENOSPC) in message
    assert "un the same command again: the scores are in the journal." in message
    computed = recipe.computed()
    ends_like(whole)
    assert recipe.computed() == computed


def test_interrupted_while_results_are_written(
    recipe: Recipe, whole: Recipe, ends_like: Callable[[Recipe], Run]
) -> None:
    fault = ("fail_at", {"target": "datasets:Dataset.save_to_disk", "error": None})
    assert "un the same command again" in recipe.start(faults=(fault,)).refused()
    computed = recipe.computed()
    ends_like(whole)
    assert recipe.computed() == computed


def test_killed_as_people_start_it(recipe: Recipe, whole: Recipe, ends_like: Callable[[Recipe], Run]) -> None:
    run = recipe.launch()
    wait_for(lambda: len(recipe.chunks) >= 3, run)
    assert run.end(signal.SIGKILL).returncode == -signal.SIGKILL
    there = recipe.kept()
    assert len(there) < LAST
    ends_like(whole)
    assert set(recipe.computed()) == whole.kept() - there


# ---- interrupted -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pause", [0.0, 0.01, 0.1])
def test_interrupted_twice(recipe: Recipe, whole: Recipe, ends_like: Callable[[Recipe], Run], pause: float) -> None:
    run = recipe.start(seconds=0.02)
    wait_for(lambda: len(recipe.chunks) >= 5, run)
    interrupted = time.monotonic()
    assert GOES_ON in run.end(signal.SIGINT, signal.SIGINT, pause=pause).refused()
    assert time.monotonic() - interrupted < 10
    there = recipe.kept()
    recipe.log.unlink()
    ends_like(whole)
    assert set(recipe.computed()) == whole.kept() - there


def test_interrupted_as_people_start_it(recipe: Recipe, whole: Recipe, ends_like: Callable[[Recipe], Run]) -> None:
    run = recipe.launch()
    wait_for(lambda: len(recipe.chunks) >= 3, run)
    os.kill(run.pid, signal.SIGINT)
    assert GOES_ON in run.refused()
    there = recipe.kept()
    assert len(there) < LAST
    ends_like(whole)
    assert set(recipe.computed()) == whole.kept() - there


# ---- a disk that takes nothing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [("no_room", {"number": 30}), ("small_files", {"number": 30, "size": 400})], ids=["ENOSPC", "EFBIG"]
)
def test_no_room_for_a_chunk(recipe: Recipe, whole: Recipe, ends_like: Callable[[Recipe], Run], fault: Fault) -> None:
    message = recipe.start(faults=(fault,)).refused()
    assert str(recipe.output / "journal") in message
    assert f"Make room and r{GOES_ON}" in message
    assert len(recipe.chunks) == 29
    assert not list(recipe.output.rglob(".draft-*"))
    ends_like(whole)
    assert len(recipe.computed()) == LAST + 1


@pytest.mark.parametrize("stage", ["new", "begun"])
def test_a_folder_that_is_read_only(
    recipe: Recipe, whole: Recipe, ends_like: Callable[[Recipe], Run], stage: str
) -> None:
    recipe.output.mkdir()
    closed = [recipe.output]
    if stage == "begun":
        recipe.stopped_midway()
        closed = [recipe.output / "journal", recipe.output / "journal" / "chunks"]
    for folder in closed:
        folder.chmod(0o555)
    try:
        message = recipe.launch(*as_anybody(closed[0])).refused()
    finally:
        for folder in closed:
            folder.chmod(0o755)
    assert str(recipe.output) in message
    assert "Permission denied" in message
    assert "Make the folder writable" in message
    assert len(recipe.chunks) == (20 if stage == "begun" else 0)
    ends_like(whole)


def as_anybody(closed: Path) -> list[str]:
    """What goes before a command so that permission bits hold for it too, as they do not for root."""
    command = []
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
        if shutil.which(command[0]) is None:
            pytest.skip("there is no setpriv, and permission bits do not hold for root")
    if subprocess.run([*command, "touch", closed / "file"], capture_output=True, check=False).returncode == 0:
        (closed / "file").unlink()
        pytest.skip("permission bits do not hold for this user")
    return command


# ---- a damaged journal -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["midway", "finished"])
def test_damaged_chunks(recipe: Recipe, whole: Recipe, ends_like: Callable[[Recipe], Run], stage: str) -> None:
    if stage == "midway":
        recipe.stopped_midway()
    else:
        recipe.start().finished()
        (recipe.output / "manifest.json").unlink()
        recipe.log.unlink()
    cut, flipped, deleted = recipe.chunks[::9][:3] if stage == "midway" else recipe.chunks[5::20]
    there = recipe.kept()
    whole_chunks = {path: pq.read_table(path).to_pydict() for path in (cut, flipped, deleted)}
    data = flipped.read_bytes()
    # The last bit of a score, which only the digest can tell.
    place = data.index(np.float32(whole_chunks[flipped]["confidence"][0]).tobytes())
    flipped.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    cut.write_bytes(cut.read_bytes()[:-7])
    deleted.unlink()
    errors = ends_like(whole).errors
    for path in (cut, flipped):
        [line] = [line for line in errors.splitlines() if path.name in line]
        assert line.endswith("Its rows are computed again.")
    lost = {(table["level"][0], tuple(table["row"])) for table in whole_chunks.values()}
    good = there - lost
    assert len(good) == len(there) - 3
    assert f"going on after {sum(len(rows) for _, rows in good)} of {LEVELS * len(ROWS)} row scores" in errors
    assert len(recipe.computed()) == LAST - len(good)
    assert set(recipe.computed()) == whole.kept() - good


# ---- a clock that goes backwards ---------------------------------------------------------------------------------


def test_the_clock_set_back(recipe: Recipe, whole: Recipe) -> None:
    recipe.stopped_midway()  # for the next run an hour from now
    clock = ("clock", {"offset": -3600.0})
    recipe.start(faults=(clock, after_chunk(20))).killed()
    assert len(recipe.chunks) == 40
    recipe.start(faults=(("clock", {"offset": -7200.0}),)).finished()
    assert results(recipe.output) == results(whole.output)
    assert len(recipe.computed()) == LAST - 20


# ---- two runs, and other runs ------------------------------------------------------------------------------------


def test_a_second_run_at_the_same_time(recipe: Recipe, whole: Recipe) -> None:
    first = recipe.start(seconds=0.03)
    wait_for(lambda: len(recipe.chunks) > 0, first)
    message = recipe.start().refused()
    assert first.poll() is None, first.errors  # it did meet a run
    assert str(recipe.output / "journal") in message
    assert f"in use by another run (process {first.pid} on host " in message
    first.finished()
    assert results(recipe.output) == results(whole.output)
    assert len(recipe.computed()) == LAST


def test_another_run_is_refused(
    recipe: Recipe, whole: Recipe, ends_like: Callable[[Recipe], Run], tmp_path: Path
) -> None:
    recipe.stopped_midway()
    there = recipe.kept()
    other_model = tmp_path / "other_model"
    build_model("llama", seed=1).save_pretrained(other_model)
    build_tokenizer().save_pretrained(other_model)
    other_rows = write_rows(tmp_path / "other.jsonl", [*ROWS[:-1], {**ROWS[-1], "output": "another dog"}])
    fewer_rows = write_rows(tmp_path / "fewer.jsonl", ROWS[:-1])
    others = [
        (["--seed", "1"], "config.seed is 0 there and 1 here"),
        (["--dataset", str(other_rows)], "rows.digest differs"),
        (["--dataset", str(fewer_rows)], f"rows.number is {len(ROWS)} there and {len(ROWS) - 1} here"),
        (["--model", str(other_model)], "weights differ"),
    ]
    for more, says in [*others, (["--seed", "2", "--overwrite"], "config.seed is 0 there and 2 here")]:
        message = recipe.start(*more).refused()
        assert f"{recipe.output / 'journal'} holds the scores of another run: " in message
        assert says in message
    assert recipe.kept() == there
    assert not recipe.computed()
    ends_like(whole)


def test_overwrite_scores_anew(recipe: Recipe, whole: Recipe) -> None:
    recipe.start("--seed", "1").finished()
    other = results(recipe.output)
    assert "--overwrite" in recipe.start().refused()
    assert results(recipe.output) == other
    recipe.log.unlink()
    recipe.start("--overwrite", faults=(after_chunk(20),)).killed()
    assert len(recipe.chunks) == 20
    recipe.start("--overwrite").finished()  # the same command again: goes on
    assert recipe.computed() == whole.computed()
    assert results(recipe.output) == results(whole.output) != other


def test_memory_that_is_short_from_the_start(recipe: Recipe, whole_calibrated: Recipe) -> None:
    """For the estimate and for calibration already, which are before the first micro-batch of the run."""
    recipe.options = [*CALIBRATED, "--tokens_per_batch", "600"]
    run = recipe.start(faults=(("little_memory", {"tokens": 300}),)).finished()
    assert run.errors.count("does not fit into memory") == 1
    found, expected = (results(other.output) for other in (recipe, whole_calibrated))
    assert found["schedule"] == pytest.approx(expected["schedule"], rel=1e-2)
    scores = [
        pq.read_table(other.output / "scores.parquet")["dlc_loss"].to_numpy() for other in (recipe, whole_calibrated)
    ]
    np.testing.assert_allclose(*scores, rtol=1e-2)


# ---- several processes -------------------------------------------------------------------------------------------


@pytest.mark.distributed
def test_processes_that_are_killed(recipe: Recipe, whole: Recipe, ends_like: Callable[[Recipe], Run]) -> None:
    """Begun by two, gone on with by one, and the other way round."""
    run = launch_two(recipe, kill("hf_dlc.execution.loop:LevelLoop._try_forward", 20, rank="1"))
    wait_for(lambda: len(recipe.chunks) >= 19, run)
    chunks_seen = time.monotonic()
    run.wait(seconds=100)
    assert time.monotonic() - chunks_seen < 60
    assert run.returncode not in (0, -signal.SIGKILL), run.errors
    there = recipe.kept()
    assert 19 <= len(there) < LAST
    ends_like(whole)
    assert set(recipe.computed()) == whole.kept() - there
    shutil.rmtree(recipe.output)
    recipe.log.unlink()
    recipe.stopped_midway(40)
    launch_two(recipe).finished()
    assert results(recipe.output) == results(whole.output)
    assert len(recipe.computed()) == len(set(recipe.computed())) == LAST - 40


@pytest.mark.distributed
def test_two_machines_one_of_which_loses_its_process(recipe: Recipe, whole: Recipe) -> None:
    """A launcher each, as two nodes have; the same commands go on where they ended."""
    for agent in (agents := launch_on_two(recipe, kill("hf_dlc.execution.loop:LevelLoop._try_forward", 20, rank="1"))):
        agent.wait(seconds=100)
    assert all(agent.returncode not in (0, -signal.SIGKILL) for agent in agents), [agent.errors for agent in agents]
    there = recipe.kept()
    assert 19 <= len(there) < LAST
    for agent in launch_on_two(recipe):
        agent.finished()
    assert results(recipe.output) == results(whole.output)
    assert set(recipe.computed()) == whole.kept() - there
    assert len(recipe.computed()) == LAST - len(there)


@pytest.mark.distributed
def test_two_machines_one_of_which_cannot_load_the_model(recipe: Recipe) -> None:
    """The other one hears of it: what it would wait for has a time limit of half an hour."""
    fault = ("fail_at", {"target": "hf_dlc.scorer.model:ModelSource.load", "error": errno.EACCES, "rank": "1"})
    for agent in (agents := launch_on_two(recipe, fault)):
        agent.wait(seconds=60)
    assert all(agent.returncode not in (0, -signal.SIGKILL) for agent in agents), [agent.errors for agent in agents]
    assert any("Permission denied" in agent.errors for agent in agents), [agent.errors for agent in agents]


def launch_two(recipe: Recipe, *faults: Fault) -> Run:
    return launch_with(recipe, ["--standalone", "--nproc_per_node", "2"], faults)


def launch_on_two(recipe: Recipe, *faults: Fault) -> list[Run]:
    options = ["--nnodes", "2", "--nproc_per_node", "1", "--local_addr", "localhost", "--max_restarts", "0"]
    options += ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"localhost:{free_port()}", "--rdzv_id", "two"]
    return [launch_with(recipe, options, faults) for _ in range(2)]


def launch_with(recipe: Recipe, options: list[str], faults: tuple[Fault, ...]) -> Run:
    """Through torchrun. Runs with faults are not logged."""
    log = ("log_batches", {"path": str(recipe.folder / "batches.log" if not faults else os.devnull)})
    request = json.dumps({"argv": recipe.arguments(), "faults": [log, *faults]})
    launcher = [sys.executable, "-m", "torch.distributed.run", *options]
    return recipe.launch(program=[*launcher, str(RUNS), request], ACCELERATE_USE_CPU="1")
