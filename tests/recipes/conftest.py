"""Options that make the recipes fast; rows and cache are those of the studies."""

from __future__ import annotations

from tests.study.conftest import own_dataset_cache, rows_file


__all__ = ["FAST", "SCORING_FAST", "own_dataset_cache", "rows_file"]

SCORING_FAST = ["--dtype", "float32", "--schedule", "0, 0.1", "--num_threads", "1"]
FAST = [*SCORING_FAST, "--trainer", "transformers"]
