"""The check of the premise, from its command line to its files, on tiny models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image as Pillow
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from hf_dlc.study.premise import foretell
from hf_dlc.utils.ranks import spearman
from recipes import check_premise
from tests.recipes.conftest import FAST


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[dict[str, Any], Dataset]]:
    """Runs the recipe, and returns what premise.json and scores.parquet hold; the page is what is printed."""

    def run(**options: Any) -> tuple[dict[str, Any], Dataset]:
        output = tmp_path / "out"
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        check_premise.main([*FAST, *arguments, "--output_dir", str(output)])
        assert capsys.readouterr().out.strip() == (output / "premise.md").read_text(encoding="utf-8").strip()
        scored = Dataset.from_parquet(str(output / "scores.parquet"), cache_dir=str(tmp_path))
        return json.loads((output / "premise.json").read_text(encoding="utf-8")), scored

    return run


def test_texts(
    llama_folder: Path, rows_file: Path, check: Callable[..., tuple[dict[str, Any], Dataset]], tmp_path: Path
) -> None:
    options = {"dataset": rows_file, "model": llama_folder, "rows": 20, "epochs": 2, "longest_row": 90}
    found, scored = check(**options, scores="confidence,loss,plain_loss,ifd")
    losses = np.array(scored["epoch_losses"][:])
    assert losses.shape == (20, 2)
    assert found["mean_losses"] == pytest.approx(losses.mean(axis=0))
    by_score = {one["score"]: one for one in found["found"]}
    assert by_score.keys() == {"confidence", "loss", "plain_loss", "ifd"}
    for name, sign in (("confidence", -1), ("loss", 1), ("plain_loss", 1), ("ifd", 1)):
        expected = sign * spearman(np.array(scored[f"dlc_{name}"][:]), losses.mean(axis=1))
        assert by_score[name]["spearman"] == pytest.approx(expected, abs=1e-6), name
        assert by_score[name]["compared"] == "all rows"
    page = (tmp_path / "out" / "premise.md").read_text(encoding="utf-8")
    assert page.startswith("20 rows, whose mean loss after each epoch is ")
    assert f"| `ifd` | all rows | {by_score['ifd']['spearman']:.3f} (" in page


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures in a folder for each of two classes, one of them cut short, and a bare model beside them."""
    rng = np.random.default_rng(0)
    for kind, most in (("dark", 60), ("bright", 250)):
        (tmp_path / "images" / kind).mkdir(parents=True)
        for i in range(9):
            pixels = rng.integers(0, most, (24, 24, 3)).astype(np.uint8)
            Pillow.fromarray(pixels).save(tmp_path / "images" / kind / f"{i}.png")
    broken = tmp_path / "images" / "dark" / "0.png"
    broken.write_bytes(broken.read_bytes()[:100])
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    ViTModel(ViTConfig(**sizes, image_size=24, patch_size=8)).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 24, "width": 24}).save_pretrained(tmp_path / "vit")
    return tmp_path


@pytest.mark.parametrize(("frozen", "learning_rate"), [("true", 0.05), ("false", 1e-3)])
def test_images(
    folder: Path, check: Callable[..., tuple[dict[str, Any], Dataset]], frozen: str, learning_rate: float
) -> None:
    """Over all of them and within classes; a picture that cannot be read is left out."""
    options = {"dataset": folder / "images", "model": folder / "vit", "label": "label", "frozen": frozen}
    scores = ["confidence", "plain_loss"]
    found, scored = check(**options, learning_rate=learning_rate, scores=",".join(scores))
    losses = np.array(scored["epoch_losses"][:], dtype=float)
    assert losses.shape == (18, 3)
    assert np.isnan(losses).any(axis=1).sum() == 1
    assert found["mean_losses"] == pytest.approx(np.nanmean(losses, axis=0))
    expected = [one.to_json() for one in foretell(scored, losses.mean(axis=1), scores, scored["label"][:])]
    assert found["found"] == expected
    assert [one["compared"] for one in expected] == ["all rows"] * 2 + ["within classes"] * 2
    assert {one["rows"] for one in expected} == {17}


def test_rows_that_are_too_long(llama_folder: Path, rows_file: Path) -> None:
    with pytest.raises(SystemExit, match="2 rows are needed, got 0 that can be trained on"):
        check_premise.main([*FAST, "--dataset", str(rows_file), "--model", str(llama_folder), "--longest_row", "2"])
