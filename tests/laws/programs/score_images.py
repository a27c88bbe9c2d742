"""
Fits and scores images in whatever processes it was launched in, and writes what this one got as `rank<i>.json`.

    torchrun --standalone --nproc_per_node 2 score_images.py MODEL DATASET OUTPUT
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from accelerate import PartialState
from datasets import load_from_disk
from score_rows import as_written

from hf_dlc import DLCScorer
from hf_dlc.scores.table import DEFAULT_SCORES
from hf_dlc.tasks.vision.images import ImageReader


def main(model: str, folder: str, output: str) -> None:
    dataset = load_from_disk(folder)
    # Neighbours, too, are learned by all processes together.
    scores = (*DEFAULT_SCORES, "knn_confidence")
    options = {
        "scores": scores,
        "head": "prototype",
        "prototype_logits": "temperature",
        "schedule": "0, 0.2",
        "keep_levels": True,
    }
    read, calls = ImageReader.__call__, []
    ImageReader.__call__ = lambda self, value: calls.append(1) or read(self, value)
    scorer = DLCScorer.from_pretrained(model, device="cpu", dtype="float32", tokens_per_batch=64, **options)
    scored = scorer.fit(dataset, num_threads=1).score(dataset, num_threads=1)
    result = as_written(scored.remove_columns([name for name in dataset.column_names if name != "label"]))
    result |= {"processes": PartialState().num_processes, "images_read": len(calls)}
    Path(output, f"rank{os.environ.get('RANK', 0)}.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
