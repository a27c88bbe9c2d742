"""
Writes what this process gets of a function of the main one, and of one that raises there, as `rank<i>.json`, and
whether at its very end it was still in a group of processes.

    torchrun --standalone --nproc_per_node 2 share_result.py OUTPUT
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from pathlib import Path

import torch

from hf_dlc.execution.processes import on_main_process, process_state


def main(output: str) -> None:
    rank, result = int(os.environ["RANK"]), {}
    atexit.register(write, Path(output, f"rank{rank}.json"), result)  # handlers run last in, first out
    state = process_state()
    result["whole"] = on_main_process(lambda: {"from": rank}, state)
    result["part"] = on_main_process(lambda: ["large", rank], state, share=lambda value: value[1:])
    try:
        on_main_process(lambda: {}["no such key"], state)
    except Exception as error:
        result["error"] = f"{type(error).__name__}: {error}"
    result["after"] = on_main_process(lambda: rank, state)  # nobody waits for anything of before


def write(path: Path, result: dict[str, object]) -> None:
    result["in_group"] = torch.distributed.is_initialized()
    path.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
