"""Training of LoRA adapters on tokenised rows, by TRL or by transformers alone."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainingArguments, set_seed

from hf_dlc.execution.lora import import_peft

from .options import logging_arguments


if TYPE_CHECKING:
    from datasets import Dataset
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel, TrainerCallback

    from hf_dlc.scorer.scorer import DLCScorer

    from .options import TrainerOptions, TrainingOptions


# As earlier releases of transformers call it, and as later ones do.
_CHECKPOINTING = next(
    name for name in ("activation_checkpointing", "gradient_checkpointing") if hasattr(TrainingArguments, name)
)


def train_lora(
    scorer: DLCScorer,
    rows: Dataset,
    options: TrainerOptions,
    seed: int,
    callbacks: Sequence[TrainerCallback] = (),
) -> PeftModel:
    """
    Train adapters for the scorer's model, whose own weights stay as they are.

    Args:
        scorer ([`~hf_dlc.DLCScorer`]):
            Holds the model and the tokenizer.
        rows ([`~datasets.Dataset`]):
            What `scorer.tokenize` returned.
        options (`TrainerOptions`):
            How to train.
        seed (`int`):
            Seed of the adapters and of the order of the rows.
        callbacks (`Sequence[TrainerCallback]`, *optional*):
            What the trainer calls at its events.

    Returns:
        [`~peft.PeftModel`]: The model with its adapters; `model.unload()` takes them off again.

    Raises:
        ValueError: If there is no row.
    """
    peft = import_peft()
    if not len(rows):
        raise ValueError("no row can be trained on: none has a target token.")
    set_seed(seed)
    model = peft.get_peft_model(scorer.model, lora_config(options, scorer.model.config.num_hidden_layers))
    with tempfile.TemporaryDirectory() as folder, _forward_put_back(scorer.model):
        arguments = training_arguments(options, seed, scorer.model) | {"output_dir": folder}
        trainer = _make_trainer(model, rows, padder(scorer), arguments, options.uses_trl)
        trainer.remove_callback(PrinterCallback)
        for callback in callbacks:
            trainer.add_callback(callback)
        trainer.train()
    return model.eval()


def training_arguments(options: TrainingOptions, seed: int, model: PreTrainedModel) -> dict[str, Any]:
    """Keyword arguments of `TrainingArguments` for training adapters of a model, all but the output folder."""
    return {
        "num_train_epochs": options.epochs,
        "per_device_train_batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "train_sampling_strategy": "group_by_length",
        "seed": seed,
        "use_cpu": model.device.type == "cpu",
        "bf16": model.dtype == torch.bfloat16,  # for products; the adapters stay float32
        _CHECKPOINTING: False,  # TRL's default would stay switched on in the scorer's model
        "save_strategy": "no",
        **logging_arguments(getattr(options, "report_to", "none")),
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.accelerator.is_available(),
    }


def lora_config(options: TrainingOptions, num_layers: int) -> LoraConfig:
    """Make a config with adapters at the linear modules of all layers, or of the last."""
    left_out = [] if options.lora_layers is None else [str(layer) for layer in range(num_layers - options.lora_layers)]
    return import_peft().LoraConfig(
        task_type="CAUSAL_LM",
        r=options.lora_rank,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules="all-linear",
        exclude_modules=rf".*\.({'|'.join(left_out)})\..*" if left_out else None,
    )


def padder(scorer: DLCScorer) -> Any:
    """Return the tokenizer; one without a padding token gets its end of text, which pads where no label is."""
    tokenizer = scorer.processor
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def core_seconds() -> float:
    """Read a clock: of all cores that this process has kept busy, or, with an accelerator, of the time that passes."""
    return time.perf_counter() if torch.accelerator.is_available() else time.process_time()


def _make_trainer(
    model: PeftModel, rows: Dataset, tokenizer: Any, arguments: dict[str, Any], uses_trl: bool
) -> Trainer:
    if uses_trl:  # it takes rows that are tokenised already as they are
        from trl import SFTConfig, SFTTrainer

        config = SFTConfig(**arguments, max_length=None)
        return SFTTrainer(model, config, train_dataset=rows, processing_class=tokenizer)
    collator = DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=8)
    return Trainer(model, TrainingArguments(**arguments), data_collator=collator, train_dataset=rows)


@contextmanager
def _forward_put_back(model: PreTrainedModel) -> Iterator[None]:
    """TRL leaves a `forward` on the model, bound to it: copies would compute with the weights of the original."""
    before = {name: value for name, value in vars(model).items() if name == "forward"}
    yield
    vars(model).pop("forward", None)
    vars(model).update(before)
