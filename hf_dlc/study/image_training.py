"""Training of image classifiers: a linear head on frozen features, or the whole model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset, Image
from torch import nn
from transformers import AutoModelForImageClassification, PrinterCallback, Trainer, TrainingArguments, set_seed

from hf_dlc.pipeline.options import Options
from hf_dlc.tasks.vision.images import ImageReader

from .options import REPORT_TO, logging_arguments


if TYPE_CHECKING:
    from hf_dlc.scorer.scorer import DLCScorer


@dataclass
class ClassifierOptions(Options):
    """Training options: how a classifier is trained; the same for whatever is compared."""

    epochs: float = field(default=30.0, metadata={"help": "Passes over each subset."})
    learning_rate: float = field(default=3e-3, metadata={"help": "Of AdamW, with a cosine schedule."})
    batch_size: int = field(default=64, metadata={"help": "Images a step."})
    report_to: str = field(default="none", metadata={"help": REPORT_TO})


@dataclass
class TrainingSetup:
    """
    Examples, and how to make the model that is trained on them.

    Args:
        train ([`~datasets.Dataset`]):
            All rows that a subset may be of.
        evaluation ([`~datasets.Dataset`]):
            Held-out rows.
        make_model (`Callable`):
            Makes an untrained model.
        collate (`Callable`):
            From rows to a batch.
    """

    train: Dataset
    evaluation: Dataset
    make_model: Callable[[], nn.Module]
    collate: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]


class LinearHead(nn.Module):
    """Linear classifier, which is trained on frozen features."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Loss and logits, as `Trainer` expects them."""
        logits = self.linear(features)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def frozen_setup(scorer: DLCScorer, scored: Dataset, evaluation: Dataset, label: str) -> TrainingSetup:
    """
    Compute the features of the unmasked model once, for a linear head that is trained on them.

    Mean and deviation of all scored images scale the features of all subsets.

    Args:
        scorer ([`~hf_dlc.DLCScorer`]):
            Computes the features; it was loaded with `head="prototype"`.
        scored ([`~datasets.Dataset`]):
            Images to train on.
        evaluation ([`~datasets.Dataset`]):
            Held-out images.
        label (`str`):
            Column of the labels in both.

    Returns:
        `TrainingSetup`

    Raises:
        ValueError: If a held-out image cannot be read or has no label.
    """
    features, held_out = scorer.features(scored), scorer.features(evaluation)
    _require_all_read(np.isnan(held_out).any(axis=1))
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-6
    sets = [
        Dataset.from_dict({"features": (values - mean) / deviation, "labels": images[label][:]}).with_format("torch")
        for values, images in ((features, scored), (held_out, evaluation))
    ]
    classes = scored.features[label].num_classes
    return TrainingSetup(*sets, lambda: LinearHead(features.shape[1], classes), torch.utils.data.default_collate)


def whole_setup(
    scorer: DLCScorer, scored: Dataset, evaluation: Dataset, label: str, model: str, **model_kwargs: Any
) -> TrainingSetup:
    """
    Read pixels, for the whole model with a new head.

    Args:
        scorer ([`~hf_dlc.DLCScorer`]):
            Its processor reads the images.
        scored ([`~datasets.Dataset`]):
            Images to train on.
        evaluation ([`~datasets.Dataset`]):
            Held-out images.
        label (`str`):
            Column of the labels in both.
        model (`str`):
            Repository or folder of the model that is trained.
        model_kwargs:
            More for its `from_pretrained`.

    Returns:
        `TrainingSetup`

    Raises:
        ValueError: If a held-out image cannot be read or has no label.
    """
    image = next(name for name, feature in scored.features.items() if isinstance(feature, Image))
    read = ImageReader(scorer.processor, torch.float32)

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pixels = torch.stack([read(row[image]) for row in rows])
        return {"pixel_values": pixels, "labels": torch.tensor([row[label] for row in rows])}

    def make_model() -> nn.Module:
        return AutoModelForImageClassification.from_pretrained(
            model,
            num_labels=scored.features[label].num_classes,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
            **model_kwargs,
        )

    undecoded = Image(decode=False)  # read as for scoring: upright, and with all bits
    sets = [images.select_columns([image, label]).cast_column(image, undecoded) for images in (scored, evaluation)]
    _require_all_read([read(row[image]) is None or row[label] in (None, -1) for row in sets[1]])
    return TrainingSetup(*sets, make_model, collate)


def _require_all_read(is_unread: Sequence[bool]) -> None:
    """Refuse to measure on a part of the held-out images: the accuracy would not say so."""
    if unread := int(np.sum(is_unread)):
        raise ValueError(f"{unread} of the {len(is_unread)} held-out images cannot be read, or have no label.")


def train_classifier(setup: TrainingSetup, rows: np.ndarray, options: ClassifierOptions, seed: int) -> float:
    """
    Train a new model on some rows.

    Args:
        setup (`TrainingSetup`):
            Examples, and how to make the model.
        rows (`np.ndarray`):
            Numbers of the rows to train on.
        options (`ClassifierOptions`):
            How to train.
        seed (`int`):
            Seed of the model and of the order of the rows.

    Returns:
        `float`: Accuracy on the held-out images.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = classifier_trainer(setup, setup.train.select(rows), options, seed, folder)
        trainer.train()
        return float(trainer.evaluate()["eval_accuracy"])


def classifier_trainer(
    setup: TrainingSetup, train: Dataset, options: ClassifierOptions, seed: int, folder: str
) -> Trainer:
    """
    Make the trainer of a new model, which also measures its accuracy on the held-out images.

    Args:
        setup (`TrainingSetup`):
            Examples, and how to make the model.
        train ([`~datasets.Dataset`]):
            Those to train on.
        options (`ClassifierOptions`):
            How to train.
        seed (`int`):
            Seed of the model and of the order of the rows.
        folder (`str`):
            Nothing is kept there, but a trainer must have one.

    Returns:
        [`~transformers.Trainer`]
    """
    set_seed(seed)
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        seed=seed,
        save_strategy="no",
        **logging_arguments(options.report_to),
        disable_tqdm=True,
        dataloader_pin_memory=torch.accelerator.is_available(),
        remove_unused_columns=False,
    )
    trainer = Trainer(
        setup.make_model(),
        arguments,
        train_dataset=train,
        eval_dataset=setup.evaluation,
        data_collator=setup.collate,
        compute_metrics=lambda output: {"accuracy": (output.predictions.argmax(-1) == output.label_ids).mean()},
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
