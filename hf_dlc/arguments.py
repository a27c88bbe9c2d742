"""What the recipes and the command line take, and the datasets, scorers and selectors that it stands for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal


if TYPE_CHECKING:
    from datasets import Dataset

    from .config import DLCConfig
    from .scorer import DLCScorer
    from .selection.base import Selector

_DEMO_ROWS = Path(__file__).parent / "data" / "demo_instructions.jsonl"
_FORMATS = {"json": "json", "jsonl": "json", "csv": "csv", "parquet": "parquet"}


@dataclass
class DataArguments:
    """What to score."""

    dataset: str = field(default="demo", metadata={"help": "Hub repository, local file, saved folder, or 'demo'."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub dataset."})
    split: str = field(default="train", metadata={"help": "Split of a Hub dataset."})
    max_rows: int | None = field(
        default=None, metadata={"help": "Use only the first rows; of a folder of images, rows drawn at random."}
    )


@dataclass
class ModelArguments:
    """What scores."""

    model: str = field(default="demo", metadata={"help": "Hub repository, folder, .gguf file, or 'demo'."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub model."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the model."})
    attn_implementation: str | None = field(default=None, metadata={"help": "'sdpa', 'eager', 'flash_attention_2'."})
    device_map: str | None = field(default=None, metadata={"help": "'auto' spreads a large model over several GPUs."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads a process; default: its share."})


@dataclass
class SelectionArguments:
    """What to keep."""

    selector: Literal["flexrand", "random", "easiest", "hardest"] = field(
        default="flexrand", metadata={"help": "How rows are chosen."}
    )
    keep: str | None = field(default=None, metadata={"help": "Share (0.5) or number (5000) of rows to keep."})
    keep_tokens: int | None = field(default=None, metadata={"help": "Number of target tokens to keep."})
    split_share: float = field(default=0.5, metadata={"help": "FlexRand's split: share of the rows called easy."})
    column: str | None = field(default=None, metadata={"help": "Score column to select by; default: confidence."})
    easy: Literal["auto", "high", "low"] = field(
        default="auto", metadata={"help": "Which scores of a column of your own mean easy rows."}
    )
    group_by: str | None = field(default=None, metadata={"help": "Column within whose groups rows are chosen."})
    min_per_group: int = field(default=0, metadata={"help": "Rows kept of every group, however small."})
    selection_seed: int = field(default=0, metadata={"help": "Seed of the random choice."})

    def __post_init__(self) -> None:
        if self.keep is not None and self.keep_tokens is None:
            # "1.0" is a share, "1" a number of rows: the text tells what a number in Python would not.
            text = str(self.keep)
            try:
                self.keep = int(text) if text.isdecimal() else float(text)
            except ValueError as error:
                raise ValueError(f"keep must be a share such as 0.5 or a number of rows, got {text!r}.") from error
        elif self.keep_tokens is None:
            self.keep = 0.5
        elif self.keep is not None:
            raise ValueError("pass keep or keep_tokens, not both.")


@dataclass
class ReportArguments:
    """What a report shows."""

    flag_column: str | None = field(
        default=None, metadata={"help": "Boolean column whose rows the summary ranks; no scorer reads it."}
    )
    html_report: bool = field(default=True, metadata={"help": "Write report.html, where matplotlib is installed."})


@dataclass
class ScoreArguments(DataArguments, ModelArguments):
    """What to score with which model, and where the results go."""

    output_dir: str = field(default="runs/prune", metadata={"help": "Folder for the results."})
    overwrite: bool = field(default=False, metadata={"help": "Replace finished results that are there."})
    chunk_seconds: float = field(
        default=60.0, metadata={"help": "Work between two writes to the journal: what a killed process repeats."}
    )


@dataclass
class PruneArguments(ScoreArguments, SelectionArguments, ReportArguments):
    """What to score, with which model, and what to keep."""


def read_dataset(options: DataArguments) -> Dataset:
    """
    Read the dataset that the options name: a file, a folder that `Dataset.save_to_disk` wrote, a folder with a folder
    of images for each class, or a repository on the Hub.

    Raises:
        FileNotFoundError: If a file is named that is not there.
        ValueError: If a file is of an unknown kind, or cannot be read.
    """
    import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
    from datasets import load_dataset, load_from_disk
    from datasets.exceptions import DatasetGenerationError

    path = local_path(options)
    suffixes = [suffix.lstrip(".") for suffix in path.suffixes if suffix != ".gz"]
    if path.is_file():
        if not suffixes or suffixes[-1] not in _FORMATS:
            known = ", ".join("." + name for name in _FORMATS)
            raise ValueError(f"{path}: expected a file that ends in {known} (or .gz).")
        try:
            dataset = load_dataset(_FORMATS[suffixes[-1]], data_files=str(path), split="train")
        except DatasetGenerationError as error:
            raise ValueError(f"{path} cannot be read: {error.__cause__ or error}") from error
    elif path.is_dir() and (path / "state.json").is_file():
        dataset = load_from_disk(str(path))
    elif path.is_dir() and _has_images(path):
        return _read_image_folder(path, options)
    elif suffixes and suffixes[-1] in _FORMATS:
        raise FileNotFoundError(f"there is no file {path}.")
    else:
        dataset = load_dataset(
            options.dataset, options.dataset_config, split=options.split, revision=options.dataset_revision
        )
    return dataset.select(range(min(options.max_rows, len(dataset)))) if options.max_rows is not None else dataset


def local_path(options: DataArguments) -> Path:
    """Where the dataset is, if it is not on the Hub."""
    return _DEMO_ROWS if options.dataset == "demo" else Path(options.dataset)


def dataset_identity(options: DataArguments, dataset: Dataset) -> dict[str, Any]:
    """What was scored; a local file is known by its digest."""
    sha256, path = None, local_path(options)
    if path.is_file():
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "name": options.dataset,
        "is_local": path.exists(),
        "config": options.dataset_config,
        "revision": options.dataset_revision if path.exists() else _commit(options),
        "split": options.split,
        "sha256": sha256,
        "fingerprint": dataset._fingerprint,
        "rows": len(dataset),
    }


def _commit(options: DataArguments) -> str | None:
    """The commit that a branch stands for today: the rows that are scored are those of no other."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    try:
        return HfApi().dataset_info(options.dataset, revision=options.dataset_revision).sha
    except (HTTPError, OSError, ValueError):  # the rows came from the cache
        return options.dataset_revision


def _read_image_folder(folder: Path, options: DataArguments) -> Dataset:
    """A folder with a folder of images for each class, in one of the name of the split if there is one."""
    import numpy as np
    from datasets import load_dataset

    if _is_split(folder / options.split):
        folder = folder / options.split
    # Without `data_files`, a class whose name is that of a split would be taken for one.
    dataset = load_dataset("imagefolder", data_dir=str(folder), data_files={"train": "**"}, split="train")
    if options.max_rows is None or options.max_rows >= len(dataset):
        return dataset
    # Folders come class by class, so that the first rows would be of one class.
    return dataset.select(np.sort(np.random.default_rng(0).permutation(len(dataset))[: options.max_rows]))


def _has_images(folder: Path) -> bool:
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    return any(path.suffix.lower() in ImageFolder.EXTENSIONS for path in folder.rglob("*"))


def _is_split(folder: Path) -> bool:
    """Whether a folder has folders of classes, or a list of its images: a class may have the name of a split."""
    return folder.is_dir() and any(path.is_dir() or path.stem == "metadata" for path in folder.iterdir())


def load_scorer(options: ModelArguments, config: DLCConfig) -> DLCScorer:
    """Load the model that the options name."""
    from .demo import demo_model
    from .scorer import DLCScorer

    model_kwargs: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
    for name in ("attn_implementation", "device_map"):
        if getattr(options, name):
            model_kwargs[name] = getattr(options, name)
    model = demo_model() if options.model == "demo" else options.model
    # The levels are kept for the report, which compares the scores with plain loss, the loss of level 0.
    return DLCScorer.from_pretrained(
        model, config, revision=options.model_revision, model_kwargs=model_kwargs, keep_levels=True
    )


def make_selector(options: SelectionArguments, prefix: str = "dlc") -> Selector:
    """Make the selector that the options name."""
    from .selection import FlexRandSelector, RandomSelector, TopKSelector

    budget = {name: getattr(options, name) for name in ("keep", "keep_tokens", "group_by", "min_per_group")}
    columns = {"column": options.column or f"{prefix}_confidence", "tokens_column": f"{prefix}_tokens"}
    if options.selector == "flexrand":
        chosen = {"split": options.split_share, "easy": options.easy, "seed": options.selection_seed}
        return FlexRandSelector(**budget, **columns, **chosen)
    if options.selector == "random":
        return RandomSelector(**budget, **columns, seed=options.selection_seed)
    return TopKSelector(**budget, **columns, which=options.selector, easy=options.easy)
