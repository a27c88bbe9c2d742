"""Checks of image scores: what they cost, how many levels they need, and whether they find wrong labels."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import ClassLabel, Dataset, Image

from hf_dlc.config import DLCConfig
from hf_dlc.pipeline.options import Options
from hf_dlc.report.statistics import auroc, within_groups
from hf_dlc.scorer.scorer import DLCScorer
from hf_dlc.tasks.vision.images import ImageReader
from hf_dlc.utils.ranks import spearman

from .markdown import table


PARTS = ("speed", "levels", "noise")
FIFTY = ("linear(0.02, 50)", "geometric(0.02, 50)")


@dataclass
class CheckArguments(Options):
    """Check options: which images are looked at, with which model, and in which ways."""

    dataset: str = field(default="uoft-cs/cifar10", metadata={"help": "Hub repository or folder of images."})
    split: str = field(default="train", metadata={"help": "Split of a Hub dataset."})
    model: str = field(default="facebook/dinov2-small", metadata={"help": "Hub repository or folder."})
    parts: str = field(default=",".join(PARTS), metadata={"help": "What is looked at."})
    label: str = field(default="label", metadata={"help": "Label column."})
    speed_images: int = field(default=300, metadata={"help": "Images of 'speed'."})
    level_images: int = field(default=300, metadata={"help": "Images of 'levels'."})
    few_levels: str = field(
        default="0, 0.1, 0.2; 0, 0.2, 0.4; 0, 0.3, 0.6; 0, 0.5; 0, 0.2, 0.4, 0.6; 0, 0.25, 0.5, 0.75",
        metadata={"help": "Schedules of 'levels', with ';' between them."},
    )
    noise_images: int | None = field(default=None, metadata={"help": "Images of 'noise'; default: all."})
    flipped: float = field(default=0.15, metadata={"help": "Share of the labels that 'noise' flips."})
    rounds: int = field(default=3, metadata={"help": "Repetitions of 'speed'."})
    selection_seed: int = field(default=0, metadata={"help": "Seed of images and of flipped labels."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads; default: all cores."})
    output_dir: str = field(default="runs/check-images", metadata={"help": "Folder for the results."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := set(self.parts.split(",")) - set(PARTS):
            raise ValueError(f"parts must be among {', '.join(PARTS)}, got {', '.join(sorted(unknown))}.")
        if not 0 < self.flipped < 1:
            raise ValueError(f"flipped must be a share between 0 and 1, got {self.flipped}.")


# ---- speed --------------------------------------------------------------------------------------------------------


def check_speed(options: CheckArguments, config: DLCConfig, images: Dataset) -> list[dict[str, Any]]:
    """
    Time whole runs and as many bare passes, in turns; both in medians. And the estimate, as a multiple of a run.

    There are as many passes as levels, since processors are faster for a few seconds than for many.

    Args:
        options (`CheckArguments`):
            How many images and rounds.
        config ([`~hf_dlc.DLCConfig`]):
            How to score.
        images ([`~datasets.Dataset`]):
            Labelled images, of which the first are taken.

    Returns:
        `list[dict[str, Any]]`: One row of a table.
    """
    images = images.select(range(min(options.speed_images, len(images))))
    scorer = _load_and_fit(options, config, images)
    estimate = scorer.estimate(images, num_threads=options.num_threads)
    tokens = math.ceil(estimate.tokens / (estimate.rows - sum(estimate.skipped.values())))  # of an image
    batches = _bare_batches(scorer, images, max(1, scorer.describe()["tokens_per_batch"] // tokens))
    scorer.score(images, num_threads=options.num_threads)  # compiles and allocates, and uses up what `fit` has read
    scoring, bare, passes = [], [], len(scorer.schedule_)
    for _ in range(options.rounds):
        bare.append(_seconds_of_passes(scorer, batches * passes))
        start = _now()
        scorer.score(images, num_threads=options.num_threads)  # reading included
        scoring.append(_now() - start)
    ratios = [one / whole for one, whole in zip(bare, scoring, strict=True)]
    return [
        {
            "images": len(images),
            "levels": passes,
            "dtype": str(scorer.model.dtype).removeprefix("torch."),
            "images/s of a level": len(images) * passes / float(np.median(scoring)),
            "bare images/s": len(images) * passes / float(np.median(bare)),
            "of the bare pass": float(np.median(ratios)),
            "from": min(ratios),
            "to": max(ratios),
            "estimate / run": estimate.seconds / float(np.median(scoring)),
        }
    ]


def _bare_batches(scorer: DLCScorer, images: Dataset, size: int) -> list[torch.Tensor]:
    """Pixels of the images in batches of the size that the run has."""
    column = next(name for name, feature in images.features.items() if isinstance(feature, Image))
    read, undecoded = (
        ImageReader(scorer.processor, scorer.model.dtype),
        images.cast_column(column, Image(decode=False)),
    )
    pixels = [found for found in map(read, undecoded[column]) if found is not None]
    return [torch.stack(pixels[start : start + size]) for start in range(0, len(pixels), size)]


@torch.inference_mode()
def _seconds_of_passes(scorer: DLCScorer, batches: Sequence[torch.Tensor]) -> float:
    """Time of the model as it is, without reading and scores."""
    model = scorer.model.base_model if scorer.needs_fit else scorer.model
    start = _now()
    for batch in batches:
        model(pixel_values=batch.to(model.device))
    return _now() - start


def _now() -> float:
    """Seconds, when all that was asked of the device is done."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


# ---- levels -------------------------------------------------------------------------------------------------------


def check_levels(options: CheckArguments, config: DLCConfig, images: Dataset) -> list[dict[str, Any]]:
    """
    Compare few levels with fifty, by their rank correlation within classes.

    Args:
        options (`CheckArguments`):
            How many images, and which schedules.
        config ([`~hf_dlc.DLCConfig`]):
            How to score, but for the schedule.
        images ([`~datasets.Dataset`]):
            Labelled images, of which the first are taken.

    Returns:
        `list[dict[str, Any]]`: Rows of a table, one for each schedule.
    """
    images = images.select(range(min(options.level_images, len(images))))
    classes = np.array(images[options.label][:])

    def scored_with(schedule: str) -> np.ndarray:
        scorer = _load_and_fit(options, replace(config, schedule=schedule), images)
        return _levels(scorer, images, options.num_threads)

    few = [part.strip() for part in options.few_levels.split(";")]
    found = {name: scored_with(name).mean(axis=2) for name in (*few, *FIFTY)}
    plain = scored_with("0")[1, :, 0]
    plain_row = {kind: -within_groups(spearman, plain, found[kind][0], classes) for kind in FIFTY}
    rows = [{"schedule": "0 (plain loss)", **plain_row}]
    for name in few:
        agreement = {kind: within_groups(spearman, found[name][0], found[kind][0], classes) for kind in FIFTY}
        rows.append({"schedule": name, **agreement})
    return rows


# ---- noise --------------------------------------------------------------------------------------------------------


def check_noise(options: CheckArguments, config: DLCConfig, images: Dataset) -> list[dict[str, Any]]:
    """
    Flip labels, then learn prototypes and score as if nobody knew, and see which scores find the flipped ones.

    Args:
        options (`CheckArguments`):
            How many images, and how many labels to flip.
        config ([`~hf_dlc.DLCConfig`]):
            How to score.
        images ([`~datasets.Dataset`]):
            Labelled images, of which the first are taken.

    Returns:
        `list[dict[str, Any]]`: Rows of a table, one for each score.

    Raises:
        ValueError: If the labels are no `ClassLabel`.
    """
    images = images.select(range(min(options.noise_images or len(images), len(images))))
    noisy, is_flipped = _flip_labels(images, options)
    classes = np.array(noisy[options.label][:])
    scorer = _load_and_fit(options, config, noisy)
    confidence, loss = _levels(scorer, noisy, options.num_threads)
    scores = {
        "plain loss (level 0)": loss[:, 0],
        "DLC loss": loss.mean(axis=1),
        "1 - DLC confidence": 1 - confidence.mean(axis=1),
    }
    scores |= {f"loss at {fraction:g}": loss[:, place] for place, fraction in enumerate(scorer.schedule_) if place}
    flags = is_flipped.astype(float)
    return [
        {"score": name, "AUROC within classes": within_groups(auroc, values, flags, classes)}
        for name, values in scores.items()
    ]


def _flip_labels(images: Dataset, options: CheckArguments) -> tuple[Dataset, np.ndarray]:
    """The images with a share of the labels turned into others, drawn evenly, and which those are."""
    rng, feature = np.random.default_rng(options.selection_seed), images.features[options.label]
    if not isinstance(feature, ClassLabel):
        raise ValueError(f"labels to flip must be a ClassLabel, got {feature}. Use dataset.class_encode_column.")
    labels = np.array([-1 if label is None else label for label in images[options.label][:]])
    labelled, is_flipped = np.flatnonzero(labels >= 0), np.zeros(len(images), dtype=bool)
    is_flipped[rng.choice(labelled, round(options.flipped * len(labelled)), replace=False)] = True
    moved = labels[is_flipped] + rng.integers(1, feature.num_classes, is_flipped.sum())
    labels[is_flipped] = moved % feature.num_classes
    noisy = images.remove_columns(options.label).add_column(options.label, labels)
    return noisy.cast_column(options.label, feature), is_flipped


# ---- all ----------------------------------------------------------------------------------------------------------


CHECKS = {"speed": check_speed, "levels": check_levels, "noise": check_noise}


def check_table(title: str, rows: Sequence[dict[str, Any]]) -> str:
    """Write the rows of a check as a Markdown table under a title."""
    cells = [[f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows]
    return f"## {title}\n\n{table(list(rows[0]), cells)}\n"


def _load_and_fit(options: CheckArguments, config: DLCConfig, images: Dataset) -> DLCScorer:
    """The scorer, which keeps the scores of each level, with prototypes of the images if it needs them."""
    scorer = DLCScorer.from_pretrained(options.model, replace(config, keep_levels=True))
    return scorer.fit(images, num_threads=options.num_threads) if scorer.needs_fit else scorer


def _levels(scorer: DLCScorer, images: Dataset, num_threads: int | None) -> np.ndarray:
    """Confidence and loss of each image and level, `(2, images, levels)`."""
    scored, column_prefix = scorer.score(images, num_threads=num_threads), scorer.config.prefix
    return np.array([scored[f"{column_prefix}_level_{kind}"][:] for kind in ("confidence", "loss")])
