"""
Look at what image scores cost and at what they are worth, on a labelled image set.

    python recipes/check_image_scores.py --dataset path/to/folder --model path/to/vit
    python recipes/check_image_scores.py --dataset path/to/folder --model path/to/vit --parts noise --masking random

The parts, chosen with `--parts`:

    speed     images a second of a whole `score`, reading included, against bare forward passes of the same batches
    levels    how few levels rank the images of a class, against the fifty of the paper, linear and geometric
    noise     how well scores find labels that were flipped on purpose, within classes, beside the loss of level 0

All options of `DLCConfig` are there as well. Tables are printed; `output_dir` gets them as check.md and check.json.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import ClassLabel, Dataset, disable_progress_bars
from prune_images import ImageRecipeArguments

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.cli.exits import run_program
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.execution.processes import cpu_threads
from hf_dlc.pipeline.options import Options
from hf_dlc.pipeline.sources import read_dataset
from hf_dlc.report.statistics import auroc, spearman, within_groups
from hf_dlc.utils.files import write_json


PARTS = ("speed", "levels", "noise")
FIFTY = ("linear(0.02, 50)", "geometric(0.02, 50)")


@dataclass
class CheckArguments(Options):
    """On which images, with which model, and what."""

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


def main(args: list[str] | None = None) -> None:
    """Run the recipe."""
    options, config = parse_config_and_args([CheckArguments, DLCConfig], args, description=__doc__)
    print(run_program(lambda: check(options, config)))


def check(options: CheckArguments, config: DLCConfig) -> str:
    """Look at what the options name, write what was seen, and return it as tables."""
    disable_progress_bars()
    torch.set_num_threads(cpu_threads(options.num_threads))
    images = read_dataset(ImageRecipeArguments(dataset=options.dataset, split=options.split))
    images = images.shuffle(seed=options.selection_seed)
    rows = {name: LOOKING[name](options, config, images) for name in options.parts.split(",")}
    output = Path(options.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    text = "\n".join(table(name, found) for name, found in rows.items())
    (output / "check.md").write_text(text, encoding="utf-8")
    write_json(output / "check.json", rows)
    return text


def load(options: CheckArguments, config: DLCConfig, **changes: Any) -> DLCScorer:
    """The scorer, with the scores of each level."""
    return DLCScorer.from_pretrained(options.model, replace(config, keep_levels=True, **changes))


def fitted(options: CheckArguments, scorer: DLCScorer, images: Dataset) -> DLCScorer:
    """The scorer, with prototypes of the images if it needs them."""
    return scorer.fit(images, num_threads=options.num_threads) if scorer.needs_fit else scorer


def score(options: CheckArguments, scorer: DLCScorer, images: Dataset) -> Dataset:
    """The images with their scores."""
    return scorer.score(images, num_threads=options.num_threads)


def levels(options: CheckArguments, scorer: DLCScorer, images: Dataset) -> np.ndarray:
    """Confidence and loss of each image and level, `(2, images, levels)`."""
    scored, prefix = score(options, fitted(options, scorer, images), images), scorer.config.prefix
    return np.array([scored[f"{prefix}_level_{kind}"][:] for kind in ("confidence", "loss")])


# ---- speed --------------------------------------------------------------------------------------------------------


def look_at_speed(options: CheckArguments, config: DLCConfig, images: Dataset) -> list[dict[str, Any]]:
    """
    Whole runs and as many bare passes, in turns; both in medians. As many, since processors are faster for a few
    seconds than for many.
    """
    images = images.select(range(min(options.speed_images, len(images))))
    scorer = fitted(options, load(options, config), images)
    batches = bare_batches(scorer, images, options.label)
    score(options, scorer, images)  # compiles and allocates, and uses up what `fit` has read
    scoring, bare, passes = [], [], len(scorer.schedule_)
    for _ in range(options.rounds):
        bare.append(seconds_of_passes(scorer, batches * passes))
        scoring.append(seconds_of_score(options, scorer, images))
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
        }
    ]


def bare_batches(scorer: DLCScorer, images: Dataset, label: str) -> list[torch.Tensor]:
    """Pixels of the images in batches of the size that the run has."""
    task = scorer._task
    rows = task.encode_dataset(images)
    batches = [[rows[row] for row in batch.rows] for batch in scorer._parts.engine.plan(rows)]
    return [torch.stack([row.pixels for row in task.feed(batch)]) for batch in batches]


@torch.inference_mode()
def seconds_of_passes(scorer: DLCScorer, batches: Sequence[torch.Tensor]) -> float:
    """Of the model as it is, without reading and scores."""
    model = scorer.model.base_model if scorer.needs_fit else scorer.model
    start = now()
    for batch in batches:
        model(pixel_values=batch.to(model.device))
    return now() - start


def seconds_of_score(options: CheckArguments, scorer: DLCScorer, images: Dataset) -> float:
    """Of a whole run, reading included."""
    start = now()
    score(options, scorer, images)
    return now() - start


def now() -> float:
    """Seconds, when all that was asked of the device is done."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


# ---- levels -------------------------------------------------------------------------------------------------------


def look_at_levels(options: CheckArguments, config: DLCConfig, images: Dataset) -> list[dict[str, Any]]:
    """Rank correlation within classes of few levels with fifty."""
    images = images.select(range(min(options.level_images, len(images))))
    classes = np.array(images[options.label][:])
    few = [part.strip() for part in options.few_levels.split(";")]
    found = {
        name: levels(options, load(options, config, schedule=name), images).mean(axis=2) for name in (*few, *FIFTY)
    }
    plain = levels(options, load(options, config, schedule="0"), images)[1, :, 0]
    rows = [
        {
            "schedule": "0 (plain loss)",
            **{kind: -within_groups(spearman, plain, found[kind][0], classes) for kind in FIFTY},
        }
    ]
    for name in few:
        agreement = {kind: within_groups(spearman, found[name][0], found[kind][0], classes) for kind in FIFTY}
        rows.append({"schedule": name, **agreement})
    return rows


# ---- noise --------------------------------------------------------------------------------------------------------


def look_at_noise(options: CheckArguments, config: DLCConfig, images: Dataset) -> list[dict[str, Any]]:
    """Labels are flipped first, then prototypes are learned and rows are scored, as if nobody knew."""
    images = images.select(range(min(options.noise_images or len(images), len(images))))
    noisy, is_flipped = flip_labels(images, options)
    classes = np.array(noisy[options.label][:])
    scorer = load(options, config)
    confidence, loss = levels(options, scorer, noisy)
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


def flip_labels(images: Dataset, options: CheckArguments) -> tuple[Dataset, np.ndarray]:
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


LOOKING = {"speed": look_at_speed, "levels": look_at_levels, "noise": look_at_noise}


def table(title: str, rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    lines = [f"## {title}", "", f"| {' | '.join(rows[0])} |", "|" + "---|" * len(rows[0])]
    for row in rows:
        cells = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
