"""
Scores rows in whatever processes it was launched in, and writes what this one got as `rank<i>.json`.

    torchrun --standalone --nproc_per_node 2 score_rows.py MODEL ROWS OUTPUT
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
from accelerate import PartialState
from datasets import Dataset, DatasetDict

from hf_dlc import DLCScorer


def main(model: str, rows: str, output: str, device: str | None = None) -> None:
    dataset = Dataset.from_list([json.loads(line) for line in Path(rows).read_text(encoding="utf-8").splitlines()])
    splits = DatasetDict({"all": dataset, "one": dataset.select([3]), "skipped": dataset.select([0, 7])})
    scored = DLCScorer.from_pretrained(model, device=device).score(splits, num_threads=1)
    state = PartialState()
    result = {"processes": state.num_processes, "rank": state.process_index}
    result |= {name: as_written(split) for name, split in scored.items()}
    Path(output, f"rank{os.environ.get('RANK', 0)}.json").write_text(json.dumps(result), encoding="utf-8")


def as_written(scored: Dataset) -> dict[str, object]:
    """All columns, floats as their bytes: a comparison then is one of every bit, NaN included."""
    columns: dict[str, object] = {name: scored[name][:] for name in scored.column_names}
    for name, feature in scored.features.items():
        if "float32" in str(feature):
            columns[name] = np.array(scored[name][:], dtype=np.float32).tobytes().hex()
    return columns


if __name__ == "__main__":
    main(*sys.argv[1:])
