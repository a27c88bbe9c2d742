"""
Runs the recipe with faults in it.

    python recipe_runs.py                                      a server, which has imported all and forks for each run
    python recipe_runs.py '{"argv": [...], "faults": [...]}'   one run, in this process

The server reads one JSON object a line and answers each by one: a request to start a run by its process id, and
`{"poll": pid}` by how that ended, or null. A fault is a name and its options.
"""

from __future__ import annotations

import datetime
import errno
import functools
import importlib
import itertools
import json
import os
import resource
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets.packaged_modules.json.json
import torch
from transformers.models.llama import modeling_llama

from hf_dlc.execution import encoded_files
from hf_dlc.execution.journal import Journal
from hf_dlc.execution.loop import LevelLoop
from hf_dlc.execution.plan import MicroBatch
from hf_dlc.tasks.text.task import CausalLMTask
from recipes import prune_alpaca


_IMPORTED_ONCE = (datasets, modeling_llama, prune_alpaca)  # what a run will import


RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "prune_alpaca.py"


def wrap(owner: Any, name: str) -> Callable[[Callable[..., Any]], None]:
    """Put a function in the place of another, which it gets as its first argument."""

    def put(function: Callable[..., Any]) -> None:
        original = getattr(owner, name)
        setattr(owner, name, functools.wraps(original)(lambda *args, **kwargs: function(original, *args, **kwargs)))

    return put


def find(target: str) -> tuple[Any, str]:
    """`module:Class.name`, for [`wrap`]."""
    module, _, qualified = target.partition(":")
    *outer, name = qualified.split(".")
    return functools.reduce(getattr, outer, importlib.import_module(module)), name


def log_batches(path: str, seconds: float = 0.0) -> None:
    """Write a line for each micro-batch of the loop that was computed, and take some time for it."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    levels: list[int] = []

    @wrap(LevelLoop, "_run_level")
    def _(original: Callable[..., None], loop: LevelLoop, level: int) -> None:
        levels.append(level)
        original(loop, level)

    @wrap(LevelLoop, "_try_forward")
    def _(original: Callable[..., Any], loop: LevelLoop, batch: MicroBatch, rows: list[Any]) -> Any:
        time.sleep(seconds)
        scores = original(loop, batch, rows)
        os.write(log, (json.dumps([levels[-1], batch.rows.tolist()]) + "\n").encode())
        return scores


def kill_at(
    target: str,
    number: int = 1,
    after: bool = False,
    inside: str | None = None,
    path: str | None = None,
    rank: str | None = None,
) -> None:
    """
    SIGKILL before, or after, call `number` of a function.

    Counted are the calls that `inside` is a caller of, and of whose arguments one has `path` in it.
    """
    if rank is not None and os.environ["RANK"] != rank:
        return
    calls = itertools.count(1)

    @wrap(*find(target))
    def _(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        is_counted = (inside is None or _is_inside(inside)) and (path is None or any(path in str(arg) for arg in args))
        is_now = is_counted and next(calls) == number
        if is_now and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if is_now:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


def _is_inside(name: str) -> bool:
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != name:
        frame = frame.f_back
    return frame is not None


def fail_at(target: str, error: int | None, rank: str | None = None) -> None:
    """A function fails: as the system does, or, without an error, since somebody pressed Ctrl-C."""
    if rank is not None and os.environ["RANK"] != rank:
        return

    @wrap(*find(target))
    def _(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if error is not None:
            raise OSError(error, os.strerror(error))
        os.kill(os.getpid(), signal.SIGINT)
        return original(*args, **kwargs)


def little_memory(tokens: int) -> None:
    """There is memory for micro-batches of so many tokens."""

    @wrap(CausalLMTask, "forward")
    def _(original: Callable[..., Any], task: CausalLMTask, rows: list[Any], *rest: Any) -> Any:
        if sum(row.length for row in rows) > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(task, rows, *rest)


def no_room(number: int, target: str = "hf_dlc.execution.journal:Journal.write_chunk") -> None:
    """The disk is full when chunk `number` is written, or in that call of another function."""
    chunks = itertools.count(1)

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @wrap(*find(target))
    def _(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if next(chunks) == number:
            os.fsync = fail
        return original(*args, **kwargs)


def small_blocks(rows: int) -> None:
    """Encoded rows are written so many at a time."""
    encoded_files._ROWS_PER_BLOCK = rows


def small_files(number: int, size: int) -> None:
    """No file may be larger than `size` while chunk `number` is written: the system writes the part that fits."""
    chunks = itertools.count(1)

    @wrap(Journal, "write_chunk")
    def _(original: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if next(chunks) == number:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            original(*args, **kwargs)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def clock(offset: float) -> None:
    """The clock is off by `offset` seconds, and each time it is asked a second further back."""
    asked = itertools.count()
    now = time.time

    class Datetime(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return cls.fromtimestamp(time.time(), tz)

    time.time = lambda: now() + offset - next(asked)
    time.time_ns = lambda: int(time.time() * 1e9)
    datetime.datetime = Datetime


_FAULTS = (log_batches, kill_at, fail_at, little_memory, no_room, small_blocks, small_files, clock)
FAULTS = {fault.__name__: fault for fault in _FAULTS}


def run(argv: list[str], faults: list[tuple[str, dict[str, Any]]]) -> None:
    for name, options in faults:
        FAULTS[name](**options)
    sys.argv = [str(RECIPE), *argv]
    runpy.run_path(str(RECIPE), run_name="__main__")


def serve() -> dict[str, Any] | None:
    """Returns the request in the process that is to do it, and `None` in the server at its end."""
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif answer := os.fork():
            pass
        else:
            return request
        print(json.dumps(answer), flush=True)
    return None


def become(output: str, errors: str, environment: dict[str, str]) -> None:
    """Of a process that was forked: its own output, environment and handler of Ctrl-C."""
    for path, descriptor in ((os.devnull, 0), (output, 1), (errors, 2)):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(**json.loads(sys.argv[1]))
    elif (request := serve()) is not None:
        become(request.pop("output"), request.pop("errors"), request.pop("environment"))
        run(**request)
