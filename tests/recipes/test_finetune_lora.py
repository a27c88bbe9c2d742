"""The recipe that fine-tunes a language model, from its command line to its files, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM

from hf_dlc import DLCScorer
from recipes import finetune_lora
from tests.recipes.conftest import FAST
from tests.rows import write_rows
from tests.study.conftest import ROWS, mean_loss


def test_recipe_saves_the_adapter(llama_folder: Path, rows_file: Path, tmp_path: Path, capsys: Any) -> None:
    question = {"question": "What barks?", "choices": ["The dog.", "Red."], "answer": 0}
    questions = write_rows(tmp_path / "questions.jsonl", [question])
    sums = write_rows(tmp_path / "sums.jsonl", [{"question": "2 + 3?", "answer": "2 + 3 = 5\n#### 5"}])
    output = tmp_path / "lora"
    options = {"dataset": rows_file, "eval_dataset": rows_file, "choices": questions, "answers": sums}
    options |= {"model": llama_folder, "output_dir": output, "epochs": 1, "max_rows": 16, "eval_rows": 8}
    finetune_lora.main([text for name, value in options.items() for text in (f"--{name}", str(value))] + FAST)
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))
    assert results["rows"] == 16
    assert results["before"].keys() == {"loss per row", "loss per token", "choices", "answers"}
    assert results["after"]["loss per row"] != results["before"]["loss per row"]
    base = AutoModelForCausalLM.from_pretrained(llama_folder, dtype="float32")
    loaded = PeftModel.from_pretrained(base, output).eval()
    scorer = DLCScorer.from_pretrained(llama_folder, device="cpu", dtype="float32", schedule="0")
    again = mean_loss(loaded, scorer.tokenize(Dataset.from_list(ROWS[16:24])))  # the first that were not trained on
    assert again == pytest.approx(results["after"]["loss per token"], abs=1e-4)
    assert "| loss per row |" in capsys.readouterr().out


def test_folder_that_cannot_be_written_is_known_before_training(rows_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(SystemExit, match="file"):
        finetune_lora.main(["--dataset", str(rows_file), "--output_dir", str(tmp_path / "file"), "--model", "none"])
