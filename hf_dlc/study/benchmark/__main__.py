"""Worker process of the benchmark: `python -m hf_dlc.study.benchmark NAME ORDERS`, started by [`Worker`]."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from hf_dlc.execution.processes import process_state

from .contenders import load_contender
from .errands import ERRANDS
from .options import Job


def work(name: str, orders: str) -> None:
    """Do what a worker is told, by its name and by the file that holds its orders."""
    # Answers go to the parent; what libraries print joins the errors.
    answers = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    job = Job(**json.loads(Path(orders).read_text(encoding="utf-8")))
    torch.set_num_threads(job.num_threads)
    if name in ERRANDS:
        result = ERRANDS[name](job)
        if process_state().is_main_process:
            answers.write(json.dumps(result) + "\n")
        return
    contender = load_contender(name.partition("-")[0], job)
    requests = {"ready": contender.get_ready, "turn": contender.have_turn, "check": contender.check}
    answers.write("{}\n")  # loaded
    for line in sys.stdin:
        answers.write(json.dumps(requests[json.loads(line)]()) + "\n")


if __name__ == "__main__":
    work(*sys.argv[1:])
