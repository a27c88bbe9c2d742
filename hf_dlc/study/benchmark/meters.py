"""Meters of a worker process: peak memory, time, and the time that hf_dlc takes to mask."""

from __future__ import annotations

import functools
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from hf_dlc.masking import MaskingSession


class Memory:
    """Peak of the resident memory above what was resident at the start; restarted, the peak since then is known."""

    def __init__(self) -> None:
        self._restarts = self._reset()
        self.base = psutil.Process().memory_info().rss
        self._before = 0

    def restart(self) -> None:
        """Forget the peak so far in `since_restart`, not in `peak`."""
        self._before = self.peak
        self._restarts = self._reset()

    @property
    def peak(self) -> int:
        """Bytes since the start."""
        return max(self._before, _peak_resident() - self.base)

    @property
    def since_restart(self) -> int | None:
        """Bytes since the restart, or `None` where the system cannot tell."""
        return _peak_resident() - self.base if self._restarts else None

    @staticmethod
    def _reset() -> bool:
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            return False
        return True


def _peak_resident() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        [line] = [line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Stopwatch:
    """Adds up the seconds spent inside it, and counts how often it was entered."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.entered = 0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._start
        self.entered += 1


@contextmanager
def masking_timed(watch: Stopwatch) -> Iterator[None]:
    """Time in which `watch` runs while hf_dlc sets and undoes masks."""

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*arguments: Any, **more: Any) -> Any:
            with watch:
                return method(*arguments, **more)

        return call

    before = {name: getattr(MaskingSession, name) for name in ("set_level", "close")}
    for name, method in before.items():
        setattr(MaskingSession, name, timed(method))
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(MaskingSession, name, method)
    if watch.entered == 0:
        raise RuntimeError("no mask was set: hf_dlc has changed, and the time of its masking is not known.")
