"""
Train an image classifier on subsets of a scored dataset and compare their accuracy on held-out images.

    python recipes/finetune_images.py --run_dir runs/prune-images --eval_dataset path/to/validation
    python recipes/finetune_images.py --run_dir runs/prune-images --eval_dataset path/to/validation --frozen false

`run_dir` is what prune_images.py wrote: its scores and its options say on what the subsets are chosen. Every arm and
keep fraction is trained with several seeds, which also draw the subsets of the arms that draw:

    full         all scored rows
    random       as many rows of each class as the others have
    flexrand     FlexRand within the classes, with the split of the run, or, as in flexrand@0.25, another
    easiest      the highest scores of each class
    hardest      the lowest

With `--frozen` (the default) a linear head is trained on features of the unmasked model, which takes seconds a cell;
without, the whole model is fine-tuned. Both by `Trainer`. Written into `output_dir`:

    results.json     accuracy of every cell; a run that was stopped goes on after the last one
    table.md         means and standard errors over the seeds, also printed
    accuracy.png     the same against the keep fraction
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import ClassLabel, Dataset, Image, concatenate_datasets, disable_progress_bars
from prune_images import ImageRecipeArguments
from torch import nn
from transformers import AutoModelForImageClassification, PrinterCallback, Trainer, TrainingArguments, set_seed

from hf_dlc import DLCScorer, FlexRandSelector, RandomSelector, TopKSelector
from hf_dlc.cli.exits import run_program
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.pipeline.options import Options
from hf_dlc.pipeline.sources import read_dataset, split_of
from hf_dlc.tasks.vision.images import ImageReader
from hf_dlc.utils.files import write_json


logger = logging.getLogger(__name__)

ARMS = ("full", "random", "flexrand", "easiest", "hardest")
_FLEXRAND = re.compile(r"flexrand@(0?\.\d+)")


@dataclass
class FinetuneArguments(Options):
    """What to train, on which subsets, and how."""

    run_dir: str = field(default="runs/prune-images", metadata={"help": "What prune_images.py wrote."})
    eval_dataset: str = field(default="", metadata={"help": "Held-out images: folder or Hub repository."})
    eval_split: str = field(default="test", metadata={"help": "Split of it."})
    label: str | None = field(default=None, metadata={"help": "Label column; default: group_by of the run."})
    keeps: str = field(default="0.1,0.2,0.3,0.5,0.7", metadata={"help": "Keep fractions."})
    arms: str = field(default=",".join(ARMS), metadata={"help": "What is compared."})
    seeds: int = field(default=3, metadata={"help": "Number of seeds."})
    frozen: bool = field(default=True, metadata={"help": "Train a linear head on frozen features."})
    epochs: float = field(default=30.0, metadata={"help": "Passes over each subset."})
    learning_rate: float = field(default=3e-3, metadata={"help": "Of AdamW, with a cosine schedule."})
    batch_size: int = field(default=64, metadata={"help": "Images a step."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code of the model's repository."})
    output_dir: str = field(default="runs/finetune-images", metadata={"help": "Folder for the results."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [arm for arm in self.arms.split(",") if arm not in ARMS and not _FLEXRAND.fullmatch(arm)]:
            raise ValueError(f"arms must be among {', '.join(ARMS)} and flexrand@<split>, got {', '.join(unknown)}.")
        if not self.eval_dataset:
            raise ValueError("eval_dataset must name held-out images, got nothing.")

    @property
    def cells(self) -> list[tuple[str, float, int]]:
        """Arm, keep fraction and seed of everything that is trained."""
        keeps, arms = [float(keep) for keep in self.keeps.split(",")], self.arms.split(",")
        pairs = [(arm, keep) for arm in arms for keep in ([1.0] if arm == "full" else keeps)]
        return [(arm, keep, seed) for seed in range(self.seeds) for arm, keep in pairs]


def main(args: list[str] | None = None) -> None:
    """Run the recipe."""
    [options] = parse_config_and_args([FinetuneArguments], args, description=__doc__)
    print(run_program(lambda: compare(options)))


def compare(options: FinetuneArguments) -> str:
    """Train and measure, write the results, and return them as a table."""
    disable_progress_bars()
    output = Path(options.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    manifest = json.loads(Path(options.run_dir, "manifest.json").read_text(encoding="utf-8"))
    make = frozen_parts if options.frozen else whole_parts
    scored, evaluation = read(options, manifest)
    parts = make(options, manifest, scored, evaluation)
    results = run_cells(options, manifest, scored, parts, output / "results.json")
    table = report(results)
    (output / "table.md").write_text(table, encoding="utf-8")
    if find_spec("matplotlib"):
        draw(results, output / "accuracy.png")
    else:
        logger.warning("no accuracy.png is drawn, since matplotlib is not installed")
    return table


def read(options: FinetuneArguments, manifest: dict[str, Any]) -> tuple[Dataset, Dataset]:
    """The scored images, in the order in which they were scored, and the held-out ones."""
    known = {name: value for name, value in manifest["options"].items() if name not in ("keep", "keep_tokens")}
    known["trust_remote_code"] = options.trust_remote_code
    chosen = ImageRecipeArguments(**known)
    images = read_dataset(chosen)
    scores = Dataset.from_parquet(str(Path(options.run_dir, "scores.parquet")))
    if len(images) != len(scores):
        raise ValueError(f"{chosen.dataset} has {len(images)} rows, but {len(scores)} were scored. Score it anew.")
    scored = concatenate_datasets([images, scores], axis=1)
    split = split_of(options.eval_dataset, options.eval_split)
    held_out = {"dataset": options.eval_dataset, "split": split, "max_rows": None}
    if options.eval_dataset != chosen.dataset:
        held_out |= {"dataset_config": None, "dataset_revision": None}
    evaluation = read_dataset(ImageRecipeArguments(**{**known, **held_out}))
    if images._fingerprint != manifest["dataset"]["fingerprint"]:
        logger.warning("%s may have changed since it was scored: its fingerprint is another one", chosen.dataset)
    label = label_column(options, manifest)
    if scored.features.get(label) is None or scored.features[label] != evaluation.features.get(label):
        raise ValueError(
            f"the held-out images must have the classes of the scored ones, in the same order, in a column {label!r}."
        )
    if not isinstance(scored.features[label], ClassLabel):
        raise ValueError(f"{label} must be a ClassLabel, got {scored.features[label]}. Use class_encode_column.")
    is_scored = ~np.isnan(scored.with_format("numpy")[score_column(manifest)][:])
    return scored.select(np.flatnonzero(is_scored)), evaluation


def label_column(options: FinetuneArguments, manifest: dict[str, Any]) -> str:
    """The column of the labels."""
    if (label := options.label or manifest["options"]["group_by"]) is None:
        raise ValueError("label must name the label column, since the run has no group_by.")
    return label


def score_column(manifest: dict[str, Any]) -> str:
    """The column by which the run selected."""
    return manifest["options"]["column"] or f"{manifest['scorer']['config']['prefix']}_confidence"


def load_scorer(options: FinetuneArguments, manifest: dict[str, Any], **config: Any) -> DLCScorer:
    """The model that the run scored with, in float32."""
    kwargs = {"trust_remote_code": options.trust_remote_code}
    model, revision = manifest["options"]["model"], manifest["options"]["model_revision"]
    return DLCScorer.from_pretrained(model, revision=revision, model_kwargs=kwargs, dtype="float32", **config)


# ---- what is trained ----------------------------------------------------------------------------------------------


@dataclass
class Parts:
    """Everything that a cell needs: examples, and how to make the model that is trained on them."""

    train: Dataset
    evaluation: Dataset
    labels: np.ndarray
    make_model: Callable[[], nn.Module]
    collate: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]


class LinearHead(nn.Module):
    """What is trained on frozen features."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Loss and logits, as `Trainer` expects them."""
        logits = self.linear(features)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def frozen_parts(options: FinetuneArguments, manifest: dict[str, Any], scored: Dataset, evaluation: Dataset) -> Parts:
    """
    Features of the unmasked model, computed once, and a linear head. Mean and deviation of all scored images scale
    the features of all arms.
    """
    config, label = manifest["scorer"]["config"], label_column(options, manifest)
    scorer = load_scorer(options, manifest, head="prototype", pooling=config["pooling"], columns=config["columns"])
    features, held_out = scorer.features(scored), scorer.features(evaluation)
    require_all_read(np.isnan(held_out).any(axis=1))
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-6
    sets = [
        Dataset.from_dict({"features": (values - mean) / deviation, "labels": images[label][:]}).with_format("torch")
        for values, images in ((features, scored), (held_out, evaluation))
    ]
    classes = scored.features[label].num_classes
    labels = np.array(scored[label][:])
    return Parts(*sets, labels, lambda: LinearHead(features.shape[1], classes), torch.utils.data.default_collate)


def require_all_read(is_unread: Sequence[bool]) -> None:
    """An accuracy on a part of the held-out images would not say so."""
    if unread := int(np.sum(is_unread)):
        raise ValueError(f"{unread} of the {len(is_unread)} held-out images cannot be read, or have no label.")


def whole_parts(options: FinetuneArguments, manifest: dict[str, Any], scored: Dataset, evaluation: Dataset) -> Parts:
    """Pixels, and the whole model with a new head."""
    config, label = manifest["scorer"]["config"], label_column(options, manifest)
    scorer = load_scorer(options, manifest, head=config["head"])
    image = next(name for name, feature in scored.features.items() if isinstance(feature, Image))
    read = ImageReader(scorer.processor, torch.float32)

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pixels = torch.stack([read(row[image]) for row in rows])
        return {"pixel_values": pixels, "labels": torch.tensor([row[label] for row in rows])}

    def make_model() -> nn.Module:
        return AutoModelForImageClassification.from_pretrained(
            manifest["options"]["model"],
            revision=manifest["options"]["model_revision"],
            trust_remote_code=options.trust_remote_code,
            num_labels=scored.features[label].num_classes,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
        )

    undecoded = Image(decode=False)  # read as for scoring: upright, and with all bits
    sets = [images.select_columns([image, label]).cast_column(image, undecoded) for images in (scored, evaluation)]
    require_all_read([read(row[image]) is None or row[label] in (None, -1) for row in sets[1]])
    return Parts(*sets, np.array(scored[label][:]), make_model, collate)


# ---- cells --------------------------------------------------------------------------------------------------------


def run_cells(
    options: FinetuneArguments, manifest: dict[str, Any], scored: Dataset, parts: Parts, path: Path
) -> dict[str, float]:
    """Train what has not been trained yet; every finished cell is written at once."""
    names = ("eval_dataset", "eval_split", "label", "frozen", "epochs", "learning_rate", "batch_size")
    settings = {name: getattr(options, name) for name in names}
    settings["run"] = {name: value for name, value in manifest["options"].items() if name != "output_dir"}
    settings["scores"] = hashlib.sha256(Path(options.run_dir, "scores.parquet").read_bytes()).hexdigest()
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"settings": settings, "accuracy": {}}
    if known["settings"] != settings:
        raise ValueError(f"{path} holds results of other settings: {known['settings']}. Pass another --output_dir.")
    results = known["accuracy"]
    for arm, keep, seed in options.cells:
        name = f"{arm} {keep:g} {seed}"
        if name not in results:
            rows = subset(arm, keep, seed, manifest, scored)
            results[name] = train(parts, rows, options, seed)
            write_json(path, known)
            logger.info("%s: %d rows, accuracy %.4f", name, len(rows), results[name])
    return results


def subset(arm: str, keep: float, seed: int, manifest: dict[str, Any], scored: Dataset) -> np.ndarray:
    """Rows of an arm, the same number of each class for all arms."""
    options = manifest["options"]
    within = {"keep": keep, "column": score_column(manifest)}
    within |= {name: options[name] for name in ("group_by", "min_per_group")}
    if arm == "full":
        return np.arange(len(scored))
    if arm == "random":
        return RandomSelector(**within, seed=seed).read_indices(scored)
    if arm.startswith("flexrand"):
        own = _FLEXRAND.fullmatch(arm)
        split = float(own[1]) if own else options["split_share"]
        return FlexRandSelector(**within, split=split, seed=seed).read_indices(scored)
    return TopKSelector(**within, which=arm).read_indices(scored)


def train(parts: Parts, rows: np.ndarray, options: FinetuneArguments, seed: int) -> float:
    """Accuracy on the held-out images after training on some rows."""
    set_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            per_device_eval_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            lr_scheduler_type="cosine",
            seed=seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=torch.accelerator.is_available(),
            logging_strategy="no",
            remove_unused_columns=False,
        )
        trainer = Trainer(
            parts.make_model(),
            arguments,
            train_dataset=parts.train.select(rows),
            eval_dataset=parts.evaluation,
            data_collator=parts.collate,
            compute_metrics=lambda output: {"accuracy": (output.predictions.argmax(-1) == output.label_ids).mean()},
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return float(trainer.evaluate()["eval_accuracy"])


# ---- report -------------------------------------------------------------------------------------------------------


def summarize(results: dict[str, float]) -> dict[tuple[str, float], tuple[float, float, int]]:
    """Mean, standard error and number of seeds of each arm and keep fraction."""
    found: dict[tuple[str, float], list[float]] = {}
    for name, accuracy in results.items():
        arm, keep, _ = name.split()
        found.setdefault((arm, float(keep)), []).append(accuracy)
    return {
        key: (
            float(np.mean(values)),
            float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan"),
            len(values),
        )
        for key, values in found.items()
    }


def report(results: dict[str, float]) -> str:
    """Accuracy as a Markdown table, an arm a row."""
    found = summarize(results)
    keeps = sorted({keep for _, keep in found})
    lines = [f"| arm | {' | '.join(f'keep {keep:g}' for keep in keeps)} |", f"|{'---|' * (len(keeps) + 1)}"]
    for arm in dict.fromkeys(arm for arm, _ in found):
        cells = [
            f"{100 * m:.2f}" + (f" ± {100 * e:.2f}" if np.isfinite(e) else "")
            for m, e, _ in (found.get((arm, keep), (float("nan"),) * 3) for keep in keeps)
        ]
        lines.append(f"| {arm} | {' | '.join(cell if 'nan' not in cell[:3] else '-' for cell in cells)} |")
    seeds = max(count for _, _, count in found.values())
    return "\n".join([*lines, "", f"Accuracy in percent, mean ± standard error over {seeds} seeds."]) + "\n"


def draw(results: dict[str, float], path: Path) -> None:
    """Accuracy against the keep fraction, a line for each arm, the full data as a level."""
    from matplotlib.figure import Figure  # no window is opened, and no global state is touched

    found = summarize(results)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for arm in dict.fromkeys(arm for arm, _ in found):
        points = sorted((keep, *found[arm, keep][:2]) for other, keep in found if other == arm)
        keeps, means, errors = zip(*points, strict=True)
        if arm == "full":
            axes.axhline(means[0], color="grey", linestyle="--", label="full data")
        else:
            axes.errorbar(keeps, means, yerr=np.nan_to_num(errors), marker="o", capsize=3, label=arm)
    axes.set_xlabel("keep fraction")
    axes.set_ylabel("accuracy on held-out images")
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
