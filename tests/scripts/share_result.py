"""
Writes what this process gets of a function of the main one, and of one that raises there, as `rank<i>.json`.

    torchrun --standalone --nproc_per_node 2 share_result.py OUTPUT
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from hf_dlc.execution.distributed import on_main_process, process_state


def main(output: str) -> None:
    rank, state = int(os.environ["RANK"]), process_state()
    result: dict[str, object] = {"whole": on_main_process(lambda: {"from": rank}, state)}
    result["part"] = on_main_process(lambda: ["large", rank], state, share=lambda value: value[1:])
    try:
        on_main_process(lambda: {}["no such key"], state)
    except Exception as error:
        result["error"] = f"{type(error).__name__}: {error}"
    result["after"] = on_main_process(lambda: rank, state)  # nobody waits for anything of before
    Path(output, f"rank{rank}.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
