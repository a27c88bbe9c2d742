"""Options of the recipes and of the command line, and the scorers and selectors that are made of them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal

from hf_dlc.selection.table import DEFAULT_SELECTOR, SELECTORS


if TYPE_CHECKING:
    from hf_dlc.config import DLCConfig
    from hf_dlc.scorer.scorer import DLCScorer
    from hf_dlc.selection.base import Selector

# Options of all programs that are paths, or may be: a folder or a repository on the Hub.
_PATHS = {"dataset", "eval_dataset", "scale_dataset", "choices", "answers", "model", "template"}
_PATHS |= {"output_dir", "run_dir", "output", "study", "other"}
_LEAST = {
    **dict.fromkeys(("max_rows", "eval_rows", "num_threads", "keep_tokens", "batch_size", "lora_rank", "seeds"), 1),
    **dict.fromkeys(("show", "min_per_group", "selection_seed", "training_seed", "study_seed", "sample_seed"), 0),
}
# Options of selectors that have other names here: data have a split, and scoring has a seed.
_RENAMED = {"split": "split_share", "seed": "selection_seed"}


@dataclass
class Options:
    """Base of the options of all programs: paths may begin at home, and counts have a least value."""

    def __post_init__(self) -> None:
        for name in [option.name for option in fields(self)]:
            value = getattr(self, name)
            if (name in _PATHS or name == "split") and not isinstance(value, str | os.PathLike | None):
                raise ValueError(f"{name} must be text, got {value!r}.")
            if name in _PATHS and value is not None:
                setattr(self, name, os.path.expanduser(value))
            least = _LEAST.get(name)
            is_count = isinstance(value, Integral) and not isinstance(value, bool)
            if least is not None and value is not None and not (is_count and value >= least):
                raise ValueError(f"{name} must be at least {least} (a whole number), got {value!r}.")


@dataclass
class DataArguments(Options):
    """Data options: which rows to score."""

    dataset: str = field(default="demo", metadata={"help": "Hub repository, local file, folder, or 'demo'."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub dataset."})
    split: str = field(default="train", metadata={"help": "Split, or a slice: 'train[:1000]'. A file is 'train'."})
    max_rows: int | None = field(
        default=None, metadata={"help": "Use only the first rows; of a folder of images, rows drawn at random."}
    )


@dataclass
class ModelArguments(Options):
    """Model options: which model scores, and how it is loaded."""

    model: str = field(default="demo", metadata={"help": "Hub repository, folder, .gguf file, or 'demo'."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub model."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the model."})
    attn_implementation: str | None = field(default=None, metadata={"help": "'sdpa', 'eager', 'flash_attention_2'."})
    device_map: str | None = field(default=None, metadata={"help": "'auto' spreads a large model over several GPUs."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads a process; default: its share."})


@dataclass
class SelectionArguments(Options):
    """Selection options: how many rows to keep, and which."""

    selector: str = field(default=DEFAULT_SELECTOR, metadata={"choices": SELECTORS, "help": "How rows are chosen."})
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
        super().__post_init__()
        if self.selector not in SELECTORS:  # in a YAML file, say
            raise ValueError(f"selector must be one of {', '.join(SELECTORS)}, got {self.selector!r}.")
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
class ReportArguments(Options):
    """Report options: what the reports show."""

    flag_column: str | None = field(
        default=None, metadata={"help": "Boolean column whose rows the summary ranks; no scorer reads it."}
    )
    html_report: bool = field(default=True, metadata={"help": "Write report.html, where matplotlib is installed."})


@dataclass
class ScoreArguments(DataArguments, ModelArguments):
    """Scoring options: which rows to score with which model, and where the results go."""

    output_dir: str = field(default="runs/prune", metadata={"help": "Folder for the results."})
    overwrite: bool = field(default=False, metadata={"help": "Replace finished results that are there."})
    chunk_seconds: float = field(
        default=60.0, metadata={"help": "Work between two writes to the journal: what a killed process repeats."}
    )
    measure_training: bool = field(
        default=True, metadata={"help": "Measure what an epoch of training costs, after scorings of half a minute."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.chunk_seconds, Real) or not self.chunk_seconds >= 0:  # 0: after every micro-batch
            raise ValueError(f"chunk_seconds must be a time of 0 or more, got {self.chunk_seconds!r}.")


@dataclass
class PruneArguments(ScoreArguments, SelectionArguments, ReportArguments):
    """Options of a whole run: which rows to score, with which model, and which of them to keep."""


def load_scorer(options: ModelArguments, config: DLCConfig) -> DLCScorer:
    """Load the model that the options name."""
    from hf_dlc.scorer.scorer import DLCScorer

    from .demo import demo_model

    model_kwargs: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
    for name in ("attn_implementation", "device_map"):
        if getattr(options, name):
            model_kwargs[name] = getattr(options, name)
    model = demo_model() if options.model == "demo" else options.model
    # The levels are kept for the report, which compares the scores with plain loss, the loss of level 0.
    return DLCScorer.from_pretrained(
        model, config, revision=options.model_revision, model_kwargs=model_kwargs, keep_levels=True
    )


def make_selector(options: SelectionArguments, column_prefix: str = "dlc") -> Selector:
    """Make the selector that the options name: each of its parameters that is an option has the option's value."""
    selector, known = SELECTORS[options.selector], {option.name for option in fields(SelectionArguments)}
    named = {parameter.name: _RENAMED.get(parameter.name, parameter.name) for parameter in fields(selector)}
    chosen = {parameter: getattr(options, option) for parameter, option in named.items() if option in known}
    columns = {"column": options.column or f"{column_prefix}_confidence", "tokens_column": f"{column_prefix}_tokens"}
    return replace(selector, **{**chosen, **columns})
