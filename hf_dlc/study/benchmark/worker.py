"""Worker processes: every contender lives in one of its own, and only one of them computes at a time."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_dlc.errors import DLCError

from .options import Job


logger = logging.getLogger(__name__)

PROGRAM = ("-m", "hf_dlc.study.benchmark")  # what Python runs in a worker
_STDERR_TAIL = 3000


class Worker:
    """
    A process that measures, seen from the parent; it answers in lines of JSON.

    Args:
        name (`str`):
            What it does: a contender and a dtype, as in `"naive-float32"`, or one of `ERRANDS`.
        job (`Job`):
            Orders of the process.
        folder (`Path`):
            Folder for its files.
        processes (`int`, *optional*, defaults to 1):
            More than one are started with `torch.distributed.run`.
    """

    def __init__(self, name: str, job: Job, folder: Path, processes: int = 1) -> None:
        self.name = name
        orders = folder / f"{name}.json"
        orders.write_text(json.dumps(asdict(job)), encoding="utf-8")
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command = [sys.executable, *(launcher if processes > 1 else []), *PROGRAM, name, str(orders)]
        environment = {"ACCELERATE_USE_CPU": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        environment |= {"OMP_NUM_THREADS": str(job.num_threads), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        self._log = (folder / f"{name}.log").open("w+b")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._log}
        self._process = subprocess.Popen(command, text=True, env={**os.environ, **environment}, **pipes)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()  # not killed: the launcher of several processes ends them first
        self._process.communicate()
        self._log.close()

    def ask(self, request: str) -> dict[str, Any]:
        """Send a request and wait for the answer."""
        with suppress(BrokenPipeError):  # it is dead, and `answer` says of what
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Wait for the next answer."""
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            said = self._log.read().decode(errors="replace")[-_STDERR_TAIL:].strip() or "nothing"
            logger.error("the worker %s said: %s", self.name, said)
            reason = said.splitlines()[-1]
            raise DLCError(f"the worker {self.name} ended with {self._process.returncode}: {reason}")
        return json.loads(line)
