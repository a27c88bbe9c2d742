"""What a user can set: the masked fractions of the levels, and the options of scoring."""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from hf_dlc import __version__


logger = logging.getLogger(__name__)

CONFIG_NAME = "dlc_config.json"

# What stands beside the options in that file; all but the version only where a scorer was saved.
_NOT_OPTIONS = {"hf_dlc_version", "base_model_name_or_path", "model_kwargs", "revision"}

# Poolings of hidden states; which of them there are for a model is known once it is there.
FEATURES = ("position", "mean", "response", "gradient", "pooled")

_NAMED_SCHEDULE = re.compile(r"(linear|geometric)\(([^,]+),([^,]+)\)")


@dataclass(frozen=True)
class MaskSchedule:
    """
    The masked fractions of all levels, ascending from 0.0, the unmasked level, which is always counted.

    Args:
        fractions (`tuple[float, ...]`):
            Share of the maskable weights that is zero at each level, in [0, 1), strictly ascending. 0.0 is prepended
            when absent.

    Raises:
        ValueError: If a fraction is outside [0, 1) or the fractions do not ascend.

    Example:
    ```python
    >>> MaskSchedule((0.05, 0.11)).fractions
    (0.0, 0.05, 0.11)
    >>> MaskSchedule.linear(0.02, 50).fractions[-1]
    0.98
    >>> MaskSchedule.parse("geometric(0.2, 3)").fractions
    (0.0, 0.2, 0.36)
    ```
    """

    fractions: tuple[float, ...]

    def __post_init__(self) -> None:
        fractions = tuple(float(fraction) for fraction in self.fractions)
        if not fractions or fractions[0] != 0.0:
            fractions = (0.0, *fractions)
        ascending = all(low < high for low, high in itertools.pairwise(fractions))
        if not ascending or fractions[-1] >= 1.0:
            raise ValueError(
                f"a schedule must ascend strictly within [0, 1), got {list(fractions)}. "
                "Pass each masked fraction once, smallest first."
            )
        object.__setattr__(self, "fractions", fractions)

    @classmethod
    def linear(cls, interval: float, levels: int) -> MaskSchedule:
        """Level k masks `k * interval` (the paper's figure 2: `linear(0.02, 50)`); `levels` counts level 0."""
        return cls(tuple(round(level * interval, 12) for level in range(_check_levels(levels))))

    @classmethod
    def geometric(cls, interval: float, levels: int) -> MaskSchedule:
        """Level k masks `1 - (1 - interval)**k`: each level a share `interval` of what the one before had left."""
        return cls(tuple(round(1 - (1 - interval) ** level, 12) for level in range(_check_levels(levels))))

    @classmethod
    def parse(cls, text: str) -> MaskSchedule:
        """Read `"0, 0.05, 0.11"`, `"linear(0.02, 50)"` or `"geometric(0.02, 50)"`."""
        try:
            if named := _NAMED_SCHEDULE.fullmatch(text.strip()):
                name, interval, levels = named.groups()
                return getattr(cls, name)(float(interval), int(levels))
            fractions = tuple(float(number) for number in text.strip(" ()[]").split(","))
        except ValueError as error:
            raise ValueError(
                "schedule must be a list of masked fractions such as '0, 0.05, 0.11', 'linear(0.02, 50)', "
                f"'geometric(0.02, 50)' or 'calibrated', got {text!r}."
            ) from error
        return cls(fractions)

    def __str__(self) -> str:
        return ", ".join(format(fraction, "g") if fraction else "0" for fraction in self.fractions)

    def __len__(self) -> int:
        return len(self.fractions)


def _check_levels(levels: int) -> int:
    if levels < 1:
        raise ValueError(f"a schedule needs at least 1 level, the unmasked one, got levels={levels}.")
    return levels


@dataclass(frozen=True)
class DLCConfig:
    """
    Options of a [`DLCScorer`]. Every field can be set in Python, in YAML and on a command line.

    Instances do not change, since a scorer has built its masks and its template from one.

    Args:
        masking (`str`, *optional*, defaults to `"random"`):
            `"random"` zeroes weights by a fixed pseudo-random order, `"magnitude"` the smallest first.
        schedule (`str`, *optional*):
            Masked fractions of the levels: text such as `"0, 0.05, 0.11"`, `"linear(0.02, 50)"` or
            `"geometric(0.02, 50)"`, or in Python a list of floats or a [`MaskSchedule`]. `None` and `"calibrated"`
            let the scorer find the fractions that suit the language model; an image model has fixed ones. Kept as
            text.
        calibration_shares (`list[float]`, *optional*, defaults to `[1.0, 0.75, 0.5, 0.25]`):
            A calibrated schedule masks as much as makes the mean confidence on a built-in probe set fall to these
            shares of the unmasked one. The first is 1.0, the unmasked level.
        levels (`str`, *optional*, defaults to `"exact"`):
            How many levels of the schedule are run, whichever it is. `"exact"` runs all, and `"fast"` the unmasked
            one and the middle one: of four, the first and the third. `"single"` runs the unmasked one alone; nothing
            is calibrated then, and `gain` has no value.
        scope (`str`, *optional*, defaults to `"module"`):
            Magnitude masking compares weights within each matrix (`"module"`) or over the whole model (`"global"`).
        target_modules (`str` or `list[str]`, *optional*, defaults to `"all-linear"`):
            Which weights are maskable: every linear weight except the output head, a regular expression that
            matches whole module names, or a list of name endings.
        seed (`int`, *optional*, defaults to 0):
            Seed of the random order (which also breaks ties of magnitude masking).
        token_mean (`str`, *optional*, defaults to `"arithmetic"`):
            Confidence of a level is the mean of p(token) over the target tokens (`"arithmetic"`), or exp(-loss),
            their geometric mean (`"geometric"`), which is 1 / PPL. The first version of the paper scores text by the
            mean of 1 / PPL over random subnets. There dropout of 10 to 90% draws the subnets; here the masks of the
            levels are nested, and level 0, the unmasked model, is in the mean.
        max_length (`int`, *optional*, defaults to 1024):
            Rows are cut to their first `max_length` tokens, as in training.
        template (`str` or `Callable`, *optional*, defaults to `"auto"`):
            `"auto"` is the chat template if the tokenizer has one, else the Alpaca prompt. Others are `"chat"`,
            `"alpaca"` and the path of a Jinja template file. In Python it may be a function from a row to a row of a
            known layout.
        layout (`str`, *optional*, defaults to `"auto"`):
            Layout of the rows if it should not be told from the column names.
        columns (`dict[str, str]`, *optional*):
            Maps column names of the dataset to those of the layout; on a command line `"src=instruction,pos=output"`,
            or, where a name holds a comma or an equals sign, JSON: `'{"a,b": "instruction"}'`.
        tokens_per_batch (`int` or `str`, *optional*, defaults to `"auto"`):
            Tokens of a micro-batch, padding included.
        scores (`str` or `tuple[str, ...]`, *optional*, defaults to `("confidence", "loss", "gain")`):
            Names of the scores that are written, of the table `hf_dlc.scores.table.SCORES`; on a command line
            `"confidence,ifd,plain_loss"`. The docstring of each score says its formula, source, range, orientation and
            cost in passes. The model is run only as they need it. Kept as a tuple.
        alone (`str`, *optional*, defaults to `"header"`):
            For scores that compare a response with its prompt and without: what it stands behind without.
            `"header"` is the template's header of the assistant's turn, `"empty_prompt"` the template with an empty
            user turn, `"raw"` nothing, as in the paper on instruction-following difficulty.
        first_tokens (`int`, *optional*, defaults to 16):
            Target tokens of each response that `prompt_gain` compares.
        encoder (`str`, *optional*, defaults to `"sentence-transformers/all-MiniLM-L6-v2"`):
            Sentence encoder of the score `similarity`: a repository on the Hub, or a folder. Loaded only for it.
        features (`str` or `bool`, *optional*):
            Also write a vector of each row, pooled from the last hidden states of the unmasked model: `dlc_features`,
            for selectors that go by distances. `True` or `"auto"` is the pooling that suits the model. Of text it is
            `"position"`, the mean over prompt and response weighted by position. `"mean"` is not weighted, and
            `"response"` is the mean over the target tokens. `"gradient"` is a sketch of the gradient at the output
            weights, for which the output head runs once more. Of images it is `"pooled"`, as `pooling` says. `None`
            and `False` write none.
        features_size (`int`, *optional*):
            Numbers in a vector, by a random projection that is always the same; by default as many as there are.
        keep_levels (`bool`, *optional*, defaults to `False`):
            Also write what was measured at each level.
        prefix (`str`, *optional*, defaults to `"dlc"`):
            What the names of the written columns begin with.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Dtype in which `from_pretrained` loads the weights: `"auto"` is bfloat16 where the device is fast at it,
            else float32.
        head (`str`, *optional*, defaults to `"auto"`):
            Of an image model: `"classifier"`, the trained head; `"prototype"`, the mean features of each class, which
            [`DLCScorer.fit`] learns; `"auto"`, the trained head if there is one.
        pooling (`str`, *optional*, defaults to `"auto"`):
            Features that are compared with prototypes: `"cls"`, the first token; `"mean"`, the mean over patches or
            places. `"mean@layers.8"` takes them from the output of a named module. `"auto"` is what the classifiers
            of the family read: the first token where they take it (ViT, DeiT, DINO, CvT, PVT), else the mean. BEiT,
            data2vec and CLIP have a first token and average the patches.
        prototype_logits (`str`, *optional*, defaults to `"inverse"`):
            `"inverse"`, 1 / distance, as in the paper; `"temperature"`, - distance / a temperature learned by `fit`.
        knn_neighbours (`int`, *optional*, defaults to 10):
            Of the score `knn_confidence`: how many of the nearest images count. The paper takes the number that
            classifies a held-out quarter best, and states none.

    Raises:
        ValueError: If an option has a value that is not allowed.

    Example:
    ```python
    >>> config = DLCConfig(schedule=[0.05, 0.11], seed=1)
    >>> config.schedule
    '0, 0.05, 0.11'
    ```
    """

    masking: Literal["random", "magnitude"] = field(
        default="random", metadata={"help": "'random' order or smallest 'magnitude' first."}
    )
    schedule: str | None = field(
        default=None,
        metadata={
            "help": "Masked fractions of the levels: '0, 0.05, 0.11', 'linear(0.02, 50)', 'geometric(0.02, 50)' or "
            "'calibrated'; default: calibrated, or for images one of the paper."
        },
    )
    calibration_shares: list[float] = field(
        default_factory=lambda: [1.0, 0.75, 0.5, 0.25],
        metadata={"help": "Shares of the unmasked confidence that the levels of a calibrated schedule aim at."},
    )
    levels: Literal["exact", "fast", "single"] = field(
        default="exact",
        metadata={
            "help": "Levels of DLC to run: 'exact' all, 'fast' the unmasked and the middle masked one, 'single' the "
            "unmasked model alone."
        },
    )
    scope: Literal["module", "global"] = field(
        default="module", metadata={"help": "Compare magnitudes within a matrix or over the whole model."}
    )
    target_modules: str = field(
        default="all-linear", metadata={"help": "What is masked: 'all-linear' or a regular expression of whole names."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the random order of the weights."})
    token_mean: Literal["arithmetic", "geometric"] = field(
        default="arithmetic", metadata={"help": "For confidence: the mean of p(token), or exp(-loss)."}
    )
    max_length: int = field(default=1024, metadata={"help": "Rows are cut to this many tokens."})
    template: str = field(
        default="auto", metadata={"help": "'auto', 'chat', 'alpaca' or the path of a Jinja chat template."}
    )
    layout: str = field(
        default="auto",
        metadata={
            "help": "Layout of the rows: tokenized, prompt_completion, messages, sharegpt, alpaca, question_answer or "
            "text; default: told from the columns."
        },
    )
    columns: str | None = field(
        default=None,
        metadata={"help": "Columns of the dataset, each with what it is read as: 'src=instruction,...' or JSON."},
    )
    tokens_per_batch: str = field(
        default="auto", metadata={"help": "Tokens of a micro-batch, padding included, or 'auto'."}
    )
    scores: str = field(
        default="confidence,loss,gain",
        metadata={
            "help": "Scores to write, with commas between. {scores} knn_confidence is for images. (default: "
            "confidence,loss,gain, which share four passes)"
        },
    )
    alone: Literal["header", "empty_prompt", "raw"] = field(
        default="header",
        metadata={
            "help": "For ifd and prompt_gain, what stands before a response without its prompt: the header of its "
            "turn, an empty user turn, or nothing ('raw')."
        },
    )
    first_tokens: int = field(
        default=16, metadata={"help": "Target tokens of each response that prompt_gain compares."}
    )
    encoder: str = field(
        default="sentence-transformers/all-MiniLM-L6-v2",
        metadata={"help": "Sentence encoder of the score similarity: Hub repository or folder."},
    )
    features: str | None = field(
        default=None,
        metadata={
            "help": "Also write a vector of each row, for selectors target, transfer, k_center and cluster: 'auto', "
            "'position', 'mean' or 'response' of hidden states, 'gradient', or for images 'pooled'; default: none."
        },
    )
    features_size: int | None = field(
        default=None, metadata={"help": "Numbers in a vector, by random projection; default: all."}
    )
    keep_levels: bool = field(default=False, metadata={"help": "Also write what was measured at each level."})
    prefix: str = field(default="dlc", metadata={"help": "What the names of the written columns begin with."})
    dtype: str = field(default="auto", metadata={"help": "'auto', 'float32', 'bfloat16' or 'float16'."})
    head: Literal["auto", "classifier", "prototype"] = field(
        default="auto", metadata={"help": "Images: the trained 'classifier', or a 'prototype' of each class."}
    )
    pooling: str = field(default="auto", metadata={"help": "Images: 'cls', 'mean', or 'mean@<module>'."})
    prototype_logits: Literal["inverse", "temperature"] = field(
        default="inverse",
        metadata={"help": "Images: logits of prototypes by 1/distance, or a calibrated temperature."},
    )
    knn_neighbours: int = field(
        default=10, metadata={"help": "Images: how many nearest neighbours the score knn_confidence looks at."}
    )

    def __post_init__(self) -> None:
        # A command line hands over text, Python hands over values: both end in one canonical form here.
        canonical = {
            "schedule": _canonical_schedule(self.schedule),
            "calibration_shares": [float(share) for share in self.calibration_shares],
            "columns": _parse_columns(self.columns),
            "tokens_per_batch": _parse_token_budget(self.tokens_per_batch),
            "scores": _parse_scores(self.scores),
            "features": ("auto" if self.features else None) if isinstance(self.features, bool) else self.features,
        }
        if isinstance(self.template, str):
            canonical["template"] = os.path.expanduser(self.template)
        if not isinstance(self.target_modules, str):
            canonical["target_modules"] = list(self.target_modules)
        for name, value in canonical.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        hints = get_type_hints(type(self))
        for name in ("masking", "levels", "scope", "token_mean", "alone", "head", "prototype_logits"):
            _require_choice(name, getattr(self, name), get_args(hints[name]))
        _require_choice("dtype", self.dtype, ("auto", "float32", "bfloat16", "float16"))
        numbers = [(name, int) for name in ("seed", "max_length", "first_tokens", "knn_neighbours")]
        for name, kind in (*numbers, ("keep_levels", bool)):
            if type(getattr(self, name)) is not kind:
                raise ValueError(f"{name} must be of type {kind.__name__}, got {getattr(self, name)!r}.")
        if self.max_length < 2:
            raise ValueError(f"max_length must be at least 2 (a token and the one before it), got {self.max_length}.")
        for name in ("first_tokens", "knn_neighbours"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        _require_choice("features", self.features, (None, "auto", *FEATURES))
        if self.features_size is not None and (type(self.features_size) is not int or self.features_size < 1):
            raise ValueError(f"features_size must be a number of at least 1, got {self.features_size!r}.")
        if not re.fullmatch(r"auto|(cls|mean)(@[\w.]+)?", self.pooling):
            raise ValueError(
                f"pooling must be 'auto', 'cls', 'mean' or one of these with a module, as in 'mean@layers.8', got "
                f"{self.pooling!r}."
            )
        if not re.fullmatch(r"\w+", self.prefix):
            raise ValueError(f"prefix must consist of letters, digits and underscores, got {self.prefix!r}.")

    @property
    def mask_schedule(self) -> MaskSchedule | None:
        """The schedule as a [`MaskSchedule`], or `None` if it is to be calibrated."""
        return None if self.schedule is None else MaskSchedule.parse(self.schedule)

    def to_dict(self) -> dict[str, Any]:
        """All options as JSON types, with the version of this package."""
        if callable(self.template):
            raise ValueError(
                "a template function cannot be written to JSON, got "
                f"{getattr(self.template, '__qualname__', self.template)!r}. Pass the path of a Jinja template file."
            )
        return {"hf_dlc_version": __version__, **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DLCConfig:
        """Inverse of `to_dict`; warns about options that this version does not know and goes on without them."""
        known = {option.name for option in fields(cls)}
        unknown = sorted(set(values) - known - _NOT_OPTIONS)
        if unknown:
            logger.warning(
                "ignoring the options %s, written by hf_dlc %s and unknown to this version, %s; upgrade to use them",
                unknown,
                values.get("hf_dlc_version", "(unknown)"),
                __version__,
            )
        return cls(**{name: value for name, value in values.items() if name in known})

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `dlc_config.json` into `folder`, which is made if it is not there."""
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True)
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, CONFIG_NAME).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> DLCConfig:
        """Read what `save_pretrained` wrote."""
        return cls.from_dict(json.loads(Path(folder, CONFIG_NAME).read_text(encoding="utf-8")))


def _require_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def _canonical_schedule(schedule: str | Sequence[float] | MaskSchedule | None) -> str | None:
    if schedule is None or schedule == "calibrated":
        return None
    if isinstance(schedule, str | float | int):  # a YAML file reads a single fraction as a number
        schedule = MaskSchedule.parse(str(schedule))
    elif not isinstance(schedule, MaskSchedule):
        schedule = MaskSchedule(tuple(schedule))
    # `repr` of a float reads back as the same float: the text loses nothing.
    return ", ".join(repr(fraction) if fraction else "0" for fraction in schedule.fractions)


def _parse_columns(columns: str | dict[str, str] | None) -> dict[str, str] | None:
    """A mapping of names; those of the dataset are kept as they are, white space and all."""
    if columns is None:
        return None
    if isinstance(columns, str):
        columns = _read_columns(columns)
    if not isinstance(columns, dict) or not all(isinstance(name, str) for pair in columns.items() for name in pair):
        raise ValueError(f"columns must map names to names, both text, got {columns!r}.")
    return columns


def _read_columns(text: str) -> dict[str, str]:
    if text.startswith("{"):
        try:
            return json.loads(text, object_pairs_hook=_map_once)
        except json.JSONDecodeError as error:
            raise ValueError(f"columns is no valid JSON ({error}), got {text!r}.") from error
    pairs = [pair.split("=") for pair in text.split(",")]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise ValueError(
            f"columns must look like 'src=instruction,pos=output', got {text!r}. Where a name holds a comma or an "
            'equals sign, pass JSON: \'{"a,b": "instruction"}\'.'
        )
    return _map_once([(theirs, ours.strip()) for theirs, ours in pairs])


def _map_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"columns must map each name once, got {', '.join(map(repr, twice))} twice.")
    return dict(pairs)


def _parse_scores(scores: str | Sequence[str]) -> tuple[str, ...]:
    """Names of scores. A name that is not in the table is refused when a scorer is made."""
    names = tuple(name.strip() for name in scores.split(",")) if isinstance(scores, str) else tuple(scores)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"scores must be names such as 'confidence,ifd', at least one, got {scores!r}.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"scores must name each score once, got {', '.join(map(repr, twice))} twice.")
    return names


def _parse_token_budget(budget: str | int) -> str | int:
    if budget == "auto":
        return budget
    if not str(budget).isdecimal() or int(budget) < 1:
        raise ValueError(f"tokens_per_batch must be 'auto' or a positive number of tokens, got {budget!r}.")
    return int(budget)
