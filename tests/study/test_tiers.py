"""What each tier of levels costs, and how well it ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from hf_dlc import DLCScorer
from hf_dlc.study.tiers import Tier, measure_tiers, tiers_of, tiers_table
from hf_dlc.utils.ranks import spearman
from recipes import compare_tiers
from tests.rows import many_rows
from tests.study.conftest import ROWS


def test_each_tier_is_timed_and_compared_with_all_levels(llama_folder: Path) -> None:
    exact = DLCScorer.from_pretrained(llama_folder, device="cpu", dtype="float32", schedule="0, 0.05, 0.1, 0.2")
    rows = Dataset.from_list(many_rows(40))
    tiers = tiers_of(exact, "ifd", 0.5, seed=0)
    found = measure_tiers(tiers, rows, ["dlc_confidence", "dlc_gain"], num_threads=1)
    assert [one.name for one in found] == list(tiers)
    assert all(one.foretold > 0 and one.measured > 0 for one in found)
    assert found[0].spearman == {"dlc_confidence": 1.0, "dlc_gain": 1.0}
    single = found[2].spearman
    scored = exact.score(rows), exact.with_levels("single").score(rows)
    assert single["dlc_confidence"] == spearman(*(np.array(one["dlc_confidence"][:]) for one in scored))
    assert single["dlc_confidence"] < 1
    assert np.isnan(single["dlc_gain"])  # one level has none
    assert single == pytest.approx(found[3].spearman, nan_ok=True)  # ifd is beside it


def test_table_divides_by_training() -> None:
    tiers = [Tier("exact", 40.0, 50.0, {"dlc_loss": 1.0}), Tier("single", 10.0, 12.5, {"dlc_loss": float("nan")})]
    text = tiers_table(tiers, training_foretold=20.0, training=25.0)
    assert "| exact | 40 | 50 | 2.00 | 2.00 | 1.000 |" in text
    assert "| single | 10 | 12 | 0.50 | 0.50 | - |" in text
    assert "| one epoch of training | 20 | 25 |" in text
    assert tiers[1].to_json()["spearman"] == {"dlc_loss": None}


def test_recipe(llama_folder: Path, rows_file: Path, tmp_path: Path, capsys: Any) -> None:
    options = {"dataset": rows_file, "model": llama_folder, "rows": len(ROWS) // 2, "output_dir": tmp_path / "tiers"}
    options |= {"schedule": "0, 0.1, 0.2", "dtype": "float32", "num_threads": 1, "also": "ifd", "share": 0.5}
    compare_tiers.main([text for name, value in options.items() for text in (f"--{name}", str(value))])
    found = json.loads((tmp_path / "tiers" / "tiers.json").read_text(encoding="utf-8"))
    assert [tier["name"] for tier in found["tiers"]][:3] == ["exact", "fast", "single"]
    assert found["training"] > 0
    assert capsys.readouterr().out.strip() == (tmp_path / "tiers" / "tiers.md").read_text(encoding="utf-8").strip()
    assert "30 rows" in (tmp_path / "tiers" / "tiers.md").read_text(encoding="utf-8")
