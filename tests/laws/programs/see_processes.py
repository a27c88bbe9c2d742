"""
Writes what this process sees of the others as `rank<i>.json`. Imports no more than that takes.

    torchrun --standalone --nproc_per_node 2 see_processes.py OUTPUT [bare]
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from accelerate import PartialState

from hf_dlc.execution.processes import process_state


def main(output: str, first: str = "") -> None:
    result: dict[str, object] = {}
    if first == "bare":
        PartialState()  # as a user's script may do before it makes a scorer
    try:
        state = process_state()
        result |= {"processes": state.num_processes, "rank": state.process_index}
    except RuntimeError as error:
        result["error"] = str(error)
    Path(output, f"rank{os.environ.get('RANK', 0)}.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
