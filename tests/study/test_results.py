"""Findings of a study: what an arm costs, and that they are read as they were written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_dlc.study.arms import Cell
from hf_dlc.study.options import PilotArguments, StudyArguments
from hf_dlc.study.report import write_report
from hf_dlc.study.results import StudyResults
from tests.study.findings import FACTS, results_of


SCREENING = {
    Cell(arm, matching, 0.3, seed): {"loss per row": 2.0 + seed, "loss per token": 1.0, "shared": 0.3}
    for arm in ("random", "longest", "ifd cut 0.3")
    for matching in ("rows", "tokens")
    for seed in (0, 1)
}
ARMS = {"ifd cut 0.3": -2.0, "longest": 0.0, "oracle": -3.0}


def test_values_come_seed_by_seed() -> None:
    results = results_of(ARMS, seeds=3)
    assert results.seeds == [2, 3, 4]
    expected = [results.confirming[Cell("longest", "rows", 0.4, seed)]["choices"] for seed in (2, 3, 4)]
    assert results.values("longest", "rows", 0.4, "choices").tolist() == expected
    full = [results.confirming[Cell("full", "rows", 1.0, seed)]["loss per row"] for seed in (2, 3, 4)]
    assert results.full("loss per row").tolist() == full
    assert results.metrics == ["loss per row", "loss per token", "choices"]


@pytest.mark.parametrize(
    ("arm", "seconds"),
    [
        ("random", 0.0),
        ("longest", 0.0),
        ("ifd cut 0.3", 10.0),
        ("loss easiest", 40.0),
        ("k_center", 20.0),
        ("unique k_center", 21.0),
        ("unique loss easiest", 41.0),
        ("target bm25", 0.0),
    ],
)
def test_an_arm_costs_what_it_needs_and_its_own_choosing(arm: str, seconds: float) -> None:
    results = results_of({arm: 0.0}) if arm != "random" else results_of(ARMS)
    first = min(cell.seed for cell in results.confirming)
    for cell, found in results.confirming.items():
        if cell.arm == arm and cell.seed == first:
            found["selecting"] = 1000.0  # a busy machine: the median counts
    assert results.cost(arm) == seconds + 2.0
    assert results.ratio(arm) == (seconds + 2.0) / 400


def test_costs_that_are_not_known() -> None:
    results = results_of(ARMS, facts={"seconds": {**FACTS["seconds"], "score ifd": None}})
    assert results.cost("ifd cut 0.3") is results.ratio("ifd cut 0.3") is None
    assert results.cost("longest") == 2.0
    results = results_of(ARMS, facts={"lora_epoch_seconds": None})
    assert results.cost("ifd cut 0.3") == 12.0
    assert results.ratio("ifd cut 0.3") is None


def test_an_epoch_as_trained_here() -> None:
    """Two epochs took 100 s, and the layers below 30 s once."""
    assert results_of(ARMS).epoch_seconds == 80.0


@pytest.mark.parametrize("options", [StudyArguments, PilotArguments])
def test_findings_are_read_as_they_were_written(options: type[StudyArguments], tmp_path: Path) -> None:
    facts = {"left_out": {"balanced random": ["groups"]}}
    results = results_of(ARMS, screening=SCREENING, options=options, facts=facts, flag_column="suspect")
    for name in ("first", "again"):
        (tmp_path / name).mkdir()
    text = write_report(results, tmp_path / "first")
    record = json.loads((tmp_path / "first" / "study.json").read_text(encoding="utf-8"))
    again = StudyResults.from_json(record)
    assert again == results
    assert type(again.options) is options
    assert write_report(again, tmp_path / "again") == text
    assert json.loads((tmp_path / "again" / "study.json").read_text(encoding="utf-8")) == record


def test_findings_of_an_older_version_are_read() -> None:
    """Options that there are no longer changed nothing."""
    results = results_of(ARMS)
    record: dict[str, Any] = json.loads(json.dumps(results.to_json()))
    record["options"]["trainer"] = "transformers"
    assert StudyResults.from_json(record) == results


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_record_is_json_that_every_program_reads(seeds: int, tmp_path: Path) -> None:
    """Without NaN and infinity, also of a single seed, which has no interval."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    results = results_of(ARMS, seeds=seeds, screening=SCREENING)
    same = {cell: {**found, "loss per row": 2.0} for cell, found in results.confirming.items()}  # no spread at all
    for number, one in enumerate((results, replace(results, confirming=same))):
        (tmp_path / str(number)).mkdir()
        write_report(one, tmp_path / str(number))
        record = json.loads((tmp_path / str(number) / "study.json").read_text("utf-8"), parse_constant=refuse)
        assert len(record["comparisons"]) == 2 * 2 * 2 * 3  # arms, budgets, matchings, metrics
        assert len(record["overall"]) == 2 * 3
        assert np.isfinite(record["overall"][0]["difference"])
