"""The model of a study, which is trained again and again from the same start, and judged after each training."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset
from transformers import PrinterCallback, Trainer, TrainingArguments, set_seed

from .options import TrainingOptions
from .states import States
from .training import training_arguments
from .upper_layers import split


if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class Trainee:
    """
    A model of which only adapters in the upper layers are trained.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model; it stays as it is.
        options ([`TrainingOptions`]):
            How it is trained.
        rows ([`~datasets.Dataset`]):
            Some rows as `scorer.tokenize` returns them, by which it is tried whether its upper layers can stand alone.
    """

    def __init__(self, model: PreTrainedModel, options: TrainingOptions, rows: Dataset) -> None:
        self.model, self.options = model, options
        some = States.of(rows.select(range(min(4, len(rows)))))
        batch = some.batch(range(len(some.lengths)), model.device)
        self.upper = split(model, options.lora_layers, {**batch, "input_ids": batch["states"]})

    def read(self, rows: Dataset, path: Path, identity: str) -> States:
        """
        Compute the states of rows, or read them from the file where they have been computed before.

        Args:
            rows ([`~datasets.Dataset`]):
                What `scorer.tokenize` returned.
            path (`Path`):
                File for the states.
            identity (`str`):
                Tells apart rows and models.

        Returns:
            [`States`]
        """
        tokens = States.of(rows)
        if path.is_file() and (found := tokens.load(path, identity)):
            return found
        states = tokens.below(self.upper, self.model)
        states.save(path, identity)
        return states

    def train(self, states: States, rows: Sequence[int], seed: int, steps: int | None = None) -> PeftModel:
        """
        Train new adapters on some rows.

        Args:
            states ([`States`]):
                Of all rows.
            rows (`Sequence[int]`):
                Numbers of those that are trained on.
            seed (`int`):
                Seed of the adapters and of the order of the rows.
            steps (`int`, *optional*):
                Number of steps, for which the rows are repeated; by default as many as the epochs have.

        Returns:
            [`~peft.PeftModel`]: Call `unload()` on it before the next training.

        Raises:
            ValueError: If there is no row.
        """
        if not len(rows):
            raise ValueError("no row can be trained on: none was chosen.")
        set_seed(seed)
        model = self.upper.with_adapters(self.options)
        table = Dataset.from_dict({"row": np.asarray(rows), "length": states.lengths[np.asarray(rows)]})
        with tempfile.TemporaryDirectory() as folder:
            arguments = training_arguments(self.options, seed, self.model) | {
                "output_dir": folder,
                "max_steps": steps or -1,
                "length_column_name": "length",
                "remove_unused_columns": False,
            }
            trainer = Trainer(
                model,
                TrainingArguments(**arguments),
                data_collator=lambda chosen: states.batch([one["row"] for one in chosen], torch.device("cpu")),
                train_dataset=table,
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return model.eval()

    @torch.no_grad()
    def losses(self, model: Any, states: States) -> np.ndarray:
        """
        Measure the loss of each row.

        Args:
            model (`torch.nn.Module`):
                What [`Trainee.train`] returned, or `self.upper`, which is not trained.
            states ([`States`]):
                Of the rows.

        Returns:
            `np.ndarray` of shape `(rows,)`: Mean over the target tokens, in nats.
        """
        model.eval()
        device, found = self.model.device, np.empty(len(states.lengths))
        is_half = self.model.dtype.itemsize < 4
        for rows in states.batches():
            batch = states.batch(rows, device)
            with torch.autocast(device.type, self.model.dtype, enabled=is_half):
                losses = model(**batch)["losses"]
            counts = (batch["labels"][:, 1:] != -100).sum(1).tolist()
            found[rows] = [part.mean().item() for part in losses.cpu().split(counts)]
        return found

    def whole(self) -> PreTrainedModel:
        """The whole model with the upper layers as they are now: with the adapters of the last training."""
        return self.upper.whole(self.model)
