"""The recipe for accelerators, on the CPU: what it tells is what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_dlc import DLCScorer
from recipes import measure_accelerator
from tests.rows import many_rows, write_rows


@pytest.fixture
def found(llama_folder: Path, tmp_path: Path) -> dict[str, Any]:
    rows = write_rows(tmp_path / "rows.jsonl", many_rows(12, skipped=[2]))
    options = {"dataset": rows, "model": llama_folder, "rows": 9, "rounds": 2, "batch_rows": 4, "output_dir": tmp_path}
    measure_accelerator.main([text for name, value in options.items() for text in (f"--{name}", str(value))])
    return json.loads((tmp_path / "accelerator.json").read_text(encoding="utf-8"))


def test_measures_all_contenders_and_the_masks(found: dict[str, Any], tmp_path: Path) -> None:
    assert found["same_masks"] == {"random": True, "magnitude": True}
    assert {name: len(seconds) for name, seconds in found["seconds"].items()} == {
        "hf_dlc": 2,
        "padded loop": 2,
        "bare pass": 2,
    }
    text = (tmp_path / "accelerator.md").read_text(encoding="utf-8")
    assert text.startswith("cpu, torch.float32, 9 rows of ")
    assert "Masks as on the CPU: random: yes, magnitude: yes." in text


def test_other_masks_are_noticed(llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the device masked other weights: the second time, another seed masks."""
    seeds = iter([0, 1])

    class Other(measure_accelerator.Masker):
        def __init__(self, model: torch.nn.Module, masking: str) -> None:
            super().__init__(model, masking=masking, seed=next(seeds))

    monkeypatch.setattr(measure_accelerator, "Masker", Other)
    scorer = DLCScorer.from_pretrained(llama_folder, schedule="0", dtype="float32", device="cpu")
    assert not measure_accelerator.same_masks(scorer, "random")
