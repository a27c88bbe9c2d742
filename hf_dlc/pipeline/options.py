"""Options of the recipes and of the command line, and the scorers and selectors that are made of them."""

from __future__ import annotations

import json
import logging
import os
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal

from hf_dlc.selection.base import DEFAULT_COLUMN
from hf_dlc.selection.table import SELECTORS


if TYPE_CHECKING:
    from hf_dlc.config import DLCConfig
    from hf_dlc.scorer.scorer import DLCScorer
    from hf_dlc.selection.base import Selector

logger = logging.getLogger(__name__)

AUTO = "auto"  # the selector that is left open, for `choosing.choose_selector`
_SELECTORS = ChainMap(SELECTORS, {AUTO: None})  # a view: what is added to the table is there

# Options of all programs that are paths, or may be: a folder or a repository on the Hub.
_PATHS = {"dataset", "eval_dataset", "scale_dataset", "choices", "answers", "model", "template"}
_PATHS |= {"output_dir", "run_dir", "output", "study", "other", "target"}
_LEAST = {
    **dict.fromkeys(("max_rows", "eval_rows", "num_threads", "keep_tokens", "batch_size", "lora_rank", "seeds"), 1),
    **dict.fromkeys(("show", "min_per_group", "selection_seed", "training_seed", "study_seed", "sample_seed"), 0),
}
# Parameters of selectors that have longer names here: data have a split, scoring has a seed, and groups have shares.
_RENAMED = {"split": "selection_split", "seed": "selection_seed", "shares": "cluster_shares"}


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
        default=None, metadata={"help": "Use only the first rows; for a folder of images, random rows."}
    )


@dataclass
class ModelArguments(Options):
    """Model options: which model scores, and how it is loaded."""

    model: str = field(
        default="demo", metadata={"help": "Hub repository, folder or .gguf file; 'demo' is SmolLM2-135M-Instruct."}
    )
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub model."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the model."})
    attn_implementation: str | None = field(default=None, metadata={"help": "'sdpa', 'eager', 'flash_attention_2'."})
    device_map: str | None = field(default=None, metadata={"help": "'auto' spreads a large model over several GPUs."})
    num_threads: int | None = field(
        default=None,
        metadata={"help": "CPU threads a process; default: its share of the cores, or one where that is faster."},
    )


@dataclass
class SelectionArguments(Options):
    """Selection options: how many rows to keep, and which."""

    selector: str = field(
        default=AUTO,
        metadata={
            "choices": _SELECTORS,
            "help": "How rows are chosen; 'auto': like the wanted rows (target), or else without those that a score "
            "such as ifd suspects (cut), or else at random. 'k_center': far apart. 'cluster': of each cluster. "
            "'transfer': whole groups that the wanted rows vote for.",
        },
    )
    keep: str | None = field(default=None, metadata={"help": "Share or number (5000) of rows to keep; default: 0.5."})
    keep_tokens: int | None = field(
        default=None, metadata={"help": "Limit of target tokens (those learned from), instead of --keep."}
    )
    selection_split: float = field(
        default=0.5,
        metadata={
            "help": "'flexrand': share of the rows called easy; half of the kept rows are of them. With 0.5 it keeps "
            "nearly random rows."
        },
    )
    column: str | None = field(
        default=None,
        metadata={"help": "Score column to select by, as dlc_ifd; default: one that suits the selector."},
    )
    easy: Literal["auto", "high", "low"] = field(
        default="auto", metadata={"help": "Which scores of a column of your own mean easy rows."}
    )
    group_by: str | None = field(default=None, metadata={"help": "Column within whose groups rows are chosen."})
    min_per_group: int = field(default=0, metadata={"help": "Rows kept of every group, however small."})
    group_shares: str = field(
        default="proportional",
        metadata={"help": "Parts of the groups: 'proportional', 'equal', or shares such as 'a=0.7,b=0.3' or JSON."},
    )
    drop_duplicates: bool = field(
        default=False, metadata={"help": "Keep one row of those that say the same, exactly or nearly."}
    )
    selection_seed: int = field(default=0, metadata={"help": "Seed of the random choice."})
    target: str | None = field(
        default=None, metadata={"help": "Selectors 'target' and 'transfer': file or dataset of wanted rows."}
    )
    metric: Literal["cosine", "gradient", "bm25"] | None = field(
        default=None,
        metadata={
            "help": "'target': what is near, by features or by words ('bm25'); default: cosine, or words where the "
            "selector is 'auto' and there are no features."
        },
    )
    mix: float = field(
        default=0.0, metadata={"help": "'target', 'easiest' and 'hardest': share of the budget drawn at random."}
    )
    contamination: Literal["drop", "exact", "keep"] = field(
        default="drop",
        metadata={"help": "'target': 'drop' near-equals of wanted rows, only 'exact' ones, or 'keep' them."},
    )
    text_columns: str | None = field(
        default=None,
        metadata={"help": "'target': columns of text to compare, as 'a,b' or JSON; default: those that are scored."},
    )
    cut: str = field(
        default="0.1", metadata={"help": "'cut': share of the hardest (most suspicious) rows to leave out, or 'auto'."}
    )
    then: Literal["random", "flexrand", "stratified"] = field(
        default="random", metadata={"help": "'cut': how the others are chosen."}
    )
    strata: int = field(default=10, metadata={"help": "'cut' with then='stratified': bins of the score."})
    mapping: Literal["features", "labels"] = field(
        default="features",
        metadata={"help": "'transfer': whether wanted rows vote by features or by labels."},
    )
    groups_from: str | None = field(
        default=None, metadata={"help": "'transfer': column of its groups; default: clusters of the features."}
    )
    clusters: int | None = field(default=None, metadata={"help": "'cluster' and 'transfer': number of clusters."})
    choose: Literal["easiest", "random", "farthest", "nearest"] = field(
        default="easiest", metadata={"help": "'cluster': which rows of each cluster are taken."}
    )
    cluster_shares: Literal["proportional", "density"] = field(
        default="proportional", metadata={"help": "'cluster': parts of the clusters."}
    )
    temperature: float = field(default=0.5, metadata={"help": "'cluster' by density: the smaller, the more unequal."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.selector not in _SELECTORS:  # in a YAML file, say
            raise ValueError(f"selector must be one of {', '.join(_SELECTORS)}, got {self.selector!r}.")
        self.cut = str(self.cut)
        if self.cut != "auto":
            _parse_number("cut", self.cut)
        if self.text_columns is not None:
            names = parse_names(self.text_columns)
            if not names:
                raise ValueError(f"text_columns must name a column at least, got {self.text_columns!r}.")
            if not isinstance(self.text_columns, str):  # from YAML
                self.text_columns = json.dumps(names)
        shares = parse_group_shares(self.group_shares)
        if not isinstance(self.group_shares, str):  # from YAML: as text it can be told to run again
            self.group_shares = json.dumps(shares)
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
        default=None,
        metadata={"help": "Column, true where a row is known to be wrong; only the reports count it."},
    )
    html_report: bool = field(default=True, metadata={"help": "Write report.html, where matplotlib is installed."})
    verbose: bool = field(default=False, metadata={"help": "Print all tables, which summary.md holds."})


@dataclass
class ScoreArguments(DataArguments, ModelArguments):
    """Output options: where the results go, and how often they are written."""

    output_dir: str = field(default="runs/prune", metadata={"help": "Folder for the results."})
    overwrite: bool = field(default=False, metadata={"help": "Replace finished results that are there."})
    chunk_seconds: float = field(
        default=60.0, metadata={"help": "Seconds of work between two saves, which a killed run repeats at most."}
    )
    measure_training: bool = field(
        default=True, metadata={"help": "Tell by a few steps what an epoch of LoRA costs, if scoring took over 30 s."}
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
    model = options.model
    if model == "demo":
        logger.info("the model is that of the demo, SmolLM2-135M-Instruct; --model names another")
        model = demo_model()
    # The levels are kept for the report, which compares the scores with plain loss, the loss of level 0.
    return DLCScorer.from_pretrained(
        model, config, revision=options.model_revision, model_kwargs=model_kwargs, keep_levels=True
    )


def make_selector(
    options: SelectionArguments, column_prefix: str = "dlc", target: Any = None, scores: Sequence[str] = ()
) -> Selector:
    """
    Make the selector that the options name: each of its parameters that is an option has the option's value.

    Args:
        options ([`SelectionArguments`]):
            What to select, with a selector that is named: see [`~choosing.choose_selector`].
        column_prefix (`str`, *optional*, defaults to `"dlc"`):
            First part of the names of the columns.
        target (`Any`, *optional*):
            The wanted rows, for a selector that takes such.
        scores (`Sequence[str]`, *optional*):
            The scores that there are. A selector that goes by none knows skipped rows by the first of them, where its
            own column is not there.

    Returns:
        [`~selection.base.Selector`]

    Raises:
        ValueError: If the selector is left open, or if an option is out of its range.
    """
    if options.selector == AUTO:
        raise ValueError(
            f"selector must be one of {', '.join(SELECTORS)} by now, got {AUTO!r}. Have it chosen by choose_selector."
        )
    selector, known = SELECTORS[options.selector], {option.name for option in fields(SelectionArguments)}
    named = {parameter.name: _RENAMED.get(parameter.name, parameter.name) for parameter in fields(selector)}
    chosen = {parameter: getattr(options, option) for parameter, option in named.items() if option in known}
    chosen = {parameter: value for parameter, value in chosen.items() if value is not None}
    parsed = {"cut": _parse_cut, "group_shares": parse_group_shares, "text_columns": parse_names}
    chosen |= {parameter: parse(chosen[parameter]) for parameter, parse in parsed.items() if parameter in chosen}
    if "target" in named:
        chosen["target"] = target
    score = (selector.column or DEFAULT_COLUMN).removeprefix("dlc_")  # which all columns begin with by default
    if scores and score not in scores and "scores" not in replace(selector, **chosen).needs:
        score = scores[0]
    columns = {
        "column": options.column or f"{column_prefix}_{score}",
        "tokens_column": f"{column_prefix}_tokens",
        "features_column": f"{column_prefix}_features",
    }
    return replace(selector, **{**chosen, **columns})


def selection_flags(selector: Selector) -> dict[str, Any]:
    """
    Options of the command line that make a selector, all that are not at their defaults.

    Args:
        selector ([`~selection.base.Selector`]):
            The selector; its target is left out, as it may be of no file.

    Returns:
        `dict[str, Any]`: By the name of each option its value.

    Example:
    ```python
    >>> from hf_dlc import CutSelector
    >>> selection_flags(CutSelector(keep=0.5, cut=0.3, column="dlc_loss"))
    {'selector': 'cut', 'keep': 0.5, 'column': 'dlc_loss', 'cut': 0.3}
    ```
    """
    default, known = SELECTORS[selector.name], {option.name for option in fields(SelectionArguments)}
    flags: dict[str, Any] = {"selector": selector.name}
    for parameter in fields(selector):
        name, value = _RENAMED.get(parameter.name, parameter.name), getattr(selector, parameter.name)
        is_default = value is None or value == getattr(default, parameter.name)
        if name in known and name != "target" and not is_default:
            flags[name] = value
    return flags


def unused_options(options: SelectionArguments) -> list[str]:
    """Names of the options that are not at their defaults and that change nothing with the chosen selector."""
    selector = make_selector(options)
    idle = {_RENAMED.get(name, name) for name in selector.idle()}
    known = {_RENAMED.get(parameter.name, parameter.name) for parameter in fields(selector)} - idle
    default = SelectionArguments()
    chosen = [option.name for option in fields(SelectionArguments) if option.name not in ("selector", "keep")]
    return [name for name in chosen if name not in known and getattr(options, name) != getattr(default, name)]


def parse_group_shares(text: str | Mapping[str, float]) -> str | dict[str, float]:
    """
    Shares of groups as a user writes them.

    Args:
        text (`str` or `Mapping`):
            `"proportional"`, `"equal"`, `"a=0.7,b=0.3"`, a JSON object, or what YAML makes of a mapping.

    Returns:
        `str` or `dict[str, float]`

    Raises:
        ValueError: If it is none of these.

    Example:
    ```python
    >>> parse_group_shares("a=0.7, b=0.3")
    {'a': 0.7, 'b': 0.3}

    ```
    """
    if isinstance(text, Mapping):
        return {str(key): _parse_number("group_shares", share) for key, share in text.items()}
    if text in ("proportional", "equal"):
        return text
    if text.startswith("{"):
        try:
            shares = json.loads(text)
        except ValueError as error:
            raise ValueError(f"group_shares is no valid JSON ({error}), got {text!r}.") from error
        return parse_group_shares(shares)
    pairs = [part.rpartition("=") for part in text.split(",")]
    if not all(key.strip() and equals for key, equals, _ in pairs):
        raise ValueError(f"group_shares must be 'proportional', 'equal' or like 'a=0.7,b=0.3', got {text!r}.")
    return {key.strip(): _parse_number("group_shares", share) for key, _, share in pairs}


def parse_names(text: str | Sequence[str]) -> list[str]:
    """
    Names of columns as a user writes them: with commas between, as a JSON list, or what YAML makes of a list.

    Example:
    ```python
    >>> parse_names("question, answer"), parse_names('["one, or two"]')
    (['question', 'answer'], ['one, or two'])

    ```
    """
    if isinstance(text, str) and not text.startswith("["):
        return [name.strip() for name in text.split(",") if name.strip()]
    try:
        names = json.loads(text) if isinstance(text, str) else list(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"text_columns must be names of columns, as 'a,b' or a JSON list, got {text!r}.") from error
    return list(map(str, names))


def _parse_cut(text: str) -> str | float:
    return text if text == "auto" else float(text)


def _parse_number(name: str, text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be made of numbers, got {text!r}.") from error
