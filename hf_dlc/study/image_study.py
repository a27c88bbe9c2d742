"""A study on images: classifiers trained on subsets of a scored dataset, and their accuracy on held-out images."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import ClassLabel, Dataset, concatenate_datasets

from hf_dlc.pipeline.folder import read_manifest
from hf_dlc.pipeline.options import DataArguments, SelectionArguments, make_selector
from hf_dlc.pipeline.score_file import SCORES_NAME
from hf_dlc.pipeline.sources import read_dataset, split_of
from hf_dlc.scorer.scorer import DLCScorer
from hf_dlc.selection.base import Selector
from hf_dlc.selection.table import SELECTORS
from hf_dlc.utils.files import write_json

from .arms import parse_rule
from .image_training import ClassifierOptions, TrainingSetup, frozen_setup, train_classifier, whole_setup
from .markdown import table
from .plots import draw_accuracies
from .statistics import mean_and_error


logger = logging.getLogger(__name__)

ARMS = ("full", "random", *(name for name, selector in SELECTORS.items() if selector.needs == ("scores",)))


def _parse_arm(arm: str) -> tuple[Selector, dict[str, float]]:
    """The selector of an arm other than all rows; a value of its own comes after an @, as in flexrand@0.25."""
    return parse_rule(*arm.split("@", 1))


def _is_arm(arm: str) -> bool:
    try:
        return arm == "full" or bool(_parse_arm(arm))
    except ValueError:
        return False


@dataclass
class ImageStudyArguments(ClassifierOptions):
    """Study options: what to train, on which subsets, and how."""

    run_dir: str = field(default="runs/prune-images", metadata={"help": "What prune_images.py wrote."})
    eval_dataset: str = field(default="", metadata={"help": "Held-out images: folder or Hub repository."})
    eval_split: str = field(default="test", metadata={"help": "Split of it."})
    label: str | None = field(default=None, metadata={"help": "Label column; default: group_by of the run."})
    keeps: str = field(default="0.1,0.2,0.3,0.5,0.7", metadata={"help": "Keep fractions."})
    arms: str = field(default=",".join(ARMS), metadata={"help": "What is compared."})
    seeds: int = field(default=3, metadata={"help": "Number of seeds."})
    frozen: bool = field(default=True, metadata={"help": "Train a linear head on frozen features."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code of the model's repository."})
    output_dir: str = field(default="runs/finetune-images", metadata={"help": "Folder for the results."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [arm for arm in self.arms.split(",") if not _is_arm(arm)]:
            raise ValueError(f"arms must be among {', '.join(ARMS)} and flexrand@<split>, got {', '.join(unknown)}.")
        if not self.eval_dataset:
            raise ValueError("eval_dataset must name held-out images, got nothing.")

    @property
    def cells(self) -> list[tuple[str, float, int]]:
        """Arm, keep fraction and seed of everything that is trained."""
        keeps, arms = [float(keep) for keep in self.keeps.split(",")], self.arms.split(",")
        pairs = [(arm, keep) for arm in arms for keep in ([1.0] if arm == "full" else keeps)]
        return [(arm, keep, seed) for seed in range(self.seeds) for arm, keep in pairs]


class ImageStudy:
    """
    The scored images of a run, held-out images, and what is trained on subsets.

    Args:
        options (`ImageStudyArguments`):
            What is compared.

    Raises:
        ValueError: If the images are not those that were scored, or have no labels that can be compared.
    """

    def __init__(self, options: ImageStudyArguments) -> None:
        self.options = options
        self.record = read_manifest(Path(options.run_dir))
        self.label = options.label or self.record.options.get("group_by")
        if self.label is None:
            raise ValueError("label must name the label column, since the run has no group_by.")
        self.scored, self.held_out = self._read_images()

    def train_all(self, path: Path) -> dict[str, float]:
        """
        Train the cells that have not been trained yet; every finished one is written at once.

        Args:
            path (`Path`):
                File of the results, which may be there already.

        Returns:
            `dict[str, float]`: Accuracy by arm, keep fraction and seed.

        Raises:
            ValueError: If the file has results of other settings.
        """
        options, run = self.options, self.record.options
        names = ("eval_dataset", "eval_split", "label", "frozen", "epochs", "learning_rate", "batch_size")
        settings = {name: getattr(options, name) for name in names}
        settings["run"] = {name: value for name, value in run.items() if name != "output_dir"}
        settings["scores"] = hashlib.sha256(Path(options.run_dir, SCORES_NAME).read_bytes()).hexdigest()
        known = {"settings": settings, "accuracy": {}}
        if path.is_file():
            known = json.loads(path.read_text(encoding="utf-8"))
        if known["settings"] != settings:
            raise ValueError(
                f"{path} holds results of other settings: {known['settings']}. Pass another --output-dir."
            )
        setup = self._setup()
        for arm, keep, seed in options.cells:
            name = f"{arm} {keep:g} {seed}"
            if name not in known["accuracy"]:
                rows = self.choose_rows(arm, keep, seed)
                known["accuracy"][name] = train_classifier(setup, rows, options, seed)
                write_json(path, known)
                logger.info("%s: %d rows, accuracy %.4f", name, len(rows), known["accuracy"][name])
        return known["accuracy"]

    def choose_rows(self, arm: str, keep: float, seed: int) -> np.ndarray:
        """Numbers of the rows of an arm among the scored images, equally many of each class for all arms."""
        if arm == "full":
            return np.arange(len(self.scored))
        (named, values), run = _parse_arm(arm), self.record.options
        chosen = {name: run[name] for name in SelectionArguments.__dataclass_fields__ if name in run}
        chosen |= {"selector": named.name, "keep": keep, "keep_tokens": None, "selection_seed": seed}
        selector = make_selector(SelectionArguments(**{**chosen, "column": self.record.selection_column}))
        return replace(selector, **values).read_indices(self.scored)

    def _read_images(self) -> tuple[Dataset, Dataset]:
        """The scored images, in the order in which they were scored, and the held-out ones."""
        options, run = self.options, self.record.options
        chosen = DataArguments(**{name: run[name] for name in DataArguments.__dataclass_fields__})
        images = read_dataset(chosen)
        scores = Dataset.from_parquet(str(Path(options.run_dir, SCORES_NAME)))
        if len(images) != len(scores):
            raise ValueError(f"{chosen.dataset} has {len(images)} rows, but {len(scores)} were scored. Score it anew.")
        if images._fingerprint != self.record.dataset.fingerprint:
            logger.warning("%s may have changed since it was scored: its fingerprint is another one", chosen.dataset)
        scored = concatenate_datasets([images, scores], axis=1)
        beside = {"dataset": options.eval_dataset, "split": split_of(options.eval_dataset, options.eval_split)}
        if options.eval_dataset == chosen.dataset:
            beside |= {"dataset_config": chosen.dataset_config, "dataset_revision": chosen.dataset_revision}
        held_out, label = read_dataset(DataArguments(**beside)), self.label
        if scored.features.get(label) is None or scored.features[label] != held_out.features.get(label):
            raise ValueError(
                "the held-out images must have the classes of the scored ones, in the same order, in a column "
                f"{label!r}."
            )
        if not isinstance(scored.features[label], ClassLabel):
            raise ValueError(f"{label} must be a ClassLabel, got {scored.features[label]}. Use class_encode_column.")
        is_scored = ~np.isnan(scored.with_format("numpy")[self.record.selection_column][:])
        return scored.select(np.flatnonzero(is_scored)), held_out

    def _setup(self) -> TrainingSetup:
        """What is trained, from the model that the run scored with, in float32."""
        run, config = self.record.options, self.record.config
        model, revision = run["model"], run["model_revision"]
        kwargs = {"trust_remote_code": self.options.trust_remote_code}
        head = {"head": config["head"]}
        if self.options.frozen:
            head = {"head": "prototype", "pooling": config["pooling"], "columns": config["columns"]}
        scorer = DLCScorer.from_pretrained(model, revision=revision, model_kwargs=kwargs, dtype="float32", **head)
        images = (scorer, self.scored, self.held_out, self.label)
        if self.options.frozen:
            return frozen_setup(*images)
        return whole_setup(*images, model, revision=revision, **kwargs)


def write_image_report(results: dict[str, float], output: Path) -> str:
    """
    Write table.md and, where matplotlib is installed, accuracy.png.

    Args:
        results (`dict[str, float]`):
            Accuracy by arm, keep fraction and seed.
        output (`Path`):
            Folder for the files.

    Returns:
        `str`: The text of table.md.
    """
    values: dict[tuple[str, float], list[float]] = {}
    for name, accuracy in results.items():
        arm, keep, _ = name.split()
        values.setdefault((arm, float(keep)), []).append(accuracy)
    found = {key: (*mean_and_error(one), len(one)) for key, one in values.items()}
    text = _accuracy_table(found)
    (output / "table.md").write_text(text, encoding="utf-8")
    if find_spec("matplotlib"):
        draw_accuracies(found, output / "accuracy.png")
    else:
        logger.warning("no accuracy.png is drawn, since matplotlib is not installed")
    return text


def _accuracy_table(found: dict[tuple[str, float], tuple[float, float, int]]) -> str:
    """Mean, standard error and number of seeds of each arm and keep fraction; an arm a row."""
    keeps = sorted({keep for _, keep in found})

    def cell(arm: str, keep: float) -> str:
        if (arm, keep) not in found:
            return "-"
        mean, error, _ = found[arm, keep]
        return f"{100 * mean:.2f}" + (f" ± {100 * error:.2f}" if np.isfinite(error) else "")

    arms = list(dict.fromkeys(arm for arm, _ in found))
    header = ["arm", *(f"keep {keep:g}" for keep in keeps)]
    body = table(header, [[arm, *(cell(arm, keep) for keep in keeps)] for arm in arms])
    seeds = max(count for _, _, count in found.values())
    return f"{body}\n\nAccuracy in percent, mean ± standard error over {seeds} seeds.\n"
