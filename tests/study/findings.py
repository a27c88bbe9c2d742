"""Findings of studies that nobody has run: arms that are so much better or worse than random rows, with some noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hf_dlc.study.arms import Cell
from hf_dlc.study.options import StudyArguments
from hf_dlc.study.results import StudyResults


LOSS = 2.0  # of random rows
SPREAD = 0.2  # of single seeds, in percent of it
FACTS = {
    "dataset": "rows.jsonl",
    "situation": "wrong",
    "pool_rows": 1500,
    "pool_tokens": 60_000,
    "test_rows": 200,
    "wanted_rows": 0,
    "questions": 0,
    "steps_of_updates": 90,
    "left_out": {},
    "scorer": {"model": "tiny", "gguf_file": None, "dtype": "float32"},
    "seconds": {"score loss": 40.0, "score ifd": 10.0, "features auto": 20.0, "duplicates": 1.0},
    "lower_layers_seconds": 30.0,
    "lora_epoch_seconds": 400.0,
}


def results_of(
    differences: Mapping[str, float],
    seeds: int = 6,
    spread: float = SPREAD,
    full: float = -20.0,
    screening: Mapping[Cell, Mapping[str, Any]] | None = None,
    facts: Mapping[str, Any] | None = None,
    options: type[StudyArguments] = StudyArguments,
    **given: Any,
) -> StudyResults:
    """
    Findings by the difference of each arm from random rows, in percent of their loss; accuracies are a tenth of it.

    A seed has an effect that all arms share, ten times as large as their own: only pairs can see the difference.
    """
    chosen = options(**{"seeds": seeds, "budgets": [0.2, 0.4], "matchings": "rows,tokens", **given})
    rng = np.random.default_rng(0)
    of_seed = rng.normal(0, 10 * spread, 100)

    def outcome(cell: Cell) -> dict[str, Any]:
        percent = of_seed[cell.seed] + {**differences, "full": full}.get(cell.arm, 0.0) + rng.normal(0, spread)
        loss = LOSS * (1 + percent / 100)
        measured = {"loss per row": loss, "loss per token": loss / 2, "choices": 0.5 - percent / 1000}
        beside = {"rows": 10, "tokens": 100, "seconds": 100.0, "selecting": 2.0, "shared": 0.25, "identity": "x"}
        return {**measured, **beside, **({"suspect": 0.3} if chosen.flag_column else {})}

    return StudyResults(
        options=chosen,
        facts={**FACTS, **(facts or {})},
        screening=dict(screening or {}),
        finalists=list(differences),
        start={"loss per row": 3.5, "loss per token": 3.0, "choices": 0.25, "rows": 0, "tokens": 0, "seconds": 0.0},
        confirming={cell: outcome(cell) for cell in chosen.confirming_cells(list(differences), seeds)},
    )
