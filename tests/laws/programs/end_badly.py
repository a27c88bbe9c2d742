"""
Scores rows until the process of one rank ends in the midst of it; the others are to end too, and to say why.

    python -m torch.distributed.run --nnodes 2 ... end_badly.py MODEL ROWS OUTPUT RANK raise|kill
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import score_rows

from hf_dlc.execution import peers
from hf_dlc.tasks.text.task import CausalLMTask


def main(model: str, rows: str, output: str, rank: str, end: str) -> None:
    peers._BEAT_SECONDS, peers._DEAD_AFTER_SECONDS = 0.2, 3.0
    forward, passes = CausalLMTask.forward, 0

    def ending(self: CausalLMTask, rows: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal passes
        passes += bool(arguments)  # others look at the model
        if os.environ["RANK"] == rank and passes == 3:
            if end == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("this rank has had enough")
        time.sleep(0.05)
        return forward(self, rows, *arguments, **options)

    CausalLMTask.forward = ending
    score_rows.main(model, rows, output)
    Path(output, "finished").touch()


if __name__ == "__main__":
    main(*sys.argv[1:])
