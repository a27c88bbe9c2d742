"""A pruned dataset goes straight into the trainers of transformers and TRL, and its scores disturb neither."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_dlc import DLCConfig, DLCScorer, FlexRandSelector
from tests.rows import many_rows


ROWS = many_rows(14, skipped=[2])
ARGUMENTS = {"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "logging_steps": 1}
ARGUMENTS |= {"report_to": "none", "use_cpu": True, "bf16": False, "save_strategy": "no", "seed": 0}
LORA = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")

MakeModel = Callable[[str], PreTrainedModel]


@pytest.fixture
def pruned(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    scorer = DLCScorer(llama, tokenizer, DLCConfig(schedule="0, 0.1", keep_levels=True))
    pruned = FlexRandSelector(keep=8)(scorer.score(Dataset.from_list(ROWS)))
    assert len(pruned) == 8
    assert {"dlc_confidence", "dlc_status", "dlc_level_loss"} <= set(pruned.column_names)
    return pruned


def without_scores(dataset: Dataset) -> Dataset:
    return dataset.select_columns([name for name in dataset.column_names if not name.startswith("dlc_")])


def check_trained(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Two steps with finite losses that changed the LoRA's weights and nothing else; returns those weights."""
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    after = dict(trainer.model.named_parameters())
    changed = {name for name, parameter in after.items() if not torch.equal(parameter, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    # B begins as zeros, so that every adapter's B moves at the first step.
    assert {name for name in after if "lora_B" in name} <= changed
    return {name: parameter.detach().clone() for name, parameter in after.items() if "lora_" in name}


def check_equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_trainer(pruned: Dataset, make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    def tokenise(row: dict[str, Any]) -> dict[str, list[int]]:
        prompt = tokenizer(row["instruction"] + "\n")["input_ids"]
        response = tokenizer(row["output"] + tokenizer.eos_token)["input_ids"]
        return {"input_ids": prompt + response, "labels": [-100] * len(prompt) + response}

    def train(dataset: Dataset) -> dict[str, torch.Tensor]:
        set_seed(0)  # of the adapters' first weights
        trainer = Trainer(
            get_peft_model(make_model("llama"), LORA),
            TrainingArguments(output_dir=str(tmp_path), **ARGUMENTS),
            data_collator=DataCollatorForSeq2Seq(tokenizer),
            train_dataset=dataset.map(tokenise),
            processing_class=tokenizer,
        )
        return check_trained(trainer)

    check_equal(train(pruned), train(without_scores(pruned)))


def to_prompt_and_completion(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": row["instruction"]}],
        "completion": [{"role": "assistant", "content": row["output"]}],
    }


def to_messages(row: dict[str, Any]) -> dict[str, Any]:
    turns = to_prompt_and_completion(row)
    return {"messages": turns["prompt"] + turns["completion"]}


@pytest.mark.parametrize("convert", [to_prompt_and_completion, to_messages])
def test_sft_trainer(
    convert: Callable[[dict[str, Any]], dict[str, Any]],
    pruned: Dataset,
    make_model: MakeModel,
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
) -> None:
    trl = pytest.importorskip("trl", reason="trains with TRL")

    def train(dataset: Dataset) -> dict[str, torch.Tensor]:
        set_seed(0)
        trainer = trl.SFTTrainer(
            make_model("llama"),
            trl.SFTConfig(output_dir=str(tmp_path), **ARGUMENTS),
            train_dataset=dataset.map(convert, remove_columns=list(ROWS[0])),
            processing_class=tokenizer,
            peft_config=LORA,
        )
        return check_trained(trainer)

    check_equal(train(pruned), train(without_scores(pruned)))


def test_rows_scored_as_messages_are_trained_as_they_are(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    """Score, prune and train on the same `messages`, with nothing done to the rows in between."""
    trl = pytest.importorskip("trl", reason="trains with TRL")
    dataset = Dataset.from_list([to_messages(row) for row in ROWS])
    scored = dataset.map(DLCScorer(make_model("llama"), tokenizer, DLCConfig(schedule="0, 0.1")), batched=True)
    assert scored["dlc_status"].count("ok") == len(ROWS) - 1
    trainer = trl.SFTTrainer(
        make_model("llama"),
        trl.SFTConfig(output_dir=str(tmp_path), **ARGUMENTS),
        train_dataset=FlexRandSelector(keep=0.5)(scored),
        processing_class=tokenizer,
        peft_config=LORA,
    )
    assert len(trainer.train_dataset) == len(ROWS) // 2
    check_trained(trainer)
