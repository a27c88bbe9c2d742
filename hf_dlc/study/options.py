"""Options of fine-tuning a language model and of a study that compares selectors."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from typing import Any, TypeVar

from hf_dlc.execution.lora import LORA
from hf_dlc.pipeline.options import Options

from .arms import BASELINES, FULL, MATCHINGS, ORACLE, Cell, parse_arm
from .situations import SITUATIONS, Situation, situation_of


AnyOptions = TypeVar("AnyOptions", bound=Options)

_PART = re.compile(r"(\d+)/(\d+)")


def options_of(kind: type[AnyOptions], options: Options, **changes: Any) -> AnyOptions:
    """
    Make the options of another kind from those that both kinds have.

    Args:
        kind (`type`):
            Dataclass of options, such as `DataArguments`.
        options (`Options`):
            Where the values are taken from. What it lacks has the default of `kind`.
        changes:
            Values that are to be others.

    Returns:
        An instance of `kind`.

    Example:
    ```python
    >>> from hf_dlc.pipeline.options import DataArguments
    >>> from hf_dlc.study.options import FinetuneArguments, options_of

    >>> options_of(DataArguments, FinetuneArguments(dataset="rows.jsonl", max_rows=8), max_rows=4)
    DataArguments(dataset='rows.jsonl', dataset_config=None, dataset_revision=None, split='train', max_rows=4)
    ```
    """
    names = {option.name for option in fields(kind)} & {option.name for option in fields(options)}
    return kind(**{**{name: getattr(options, name) for name in names}, **changes})


REPORT_TO = "Where the trainer logs its loss: 'trackio', 'wandb' or another service that transformers knows."


def logging_arguments(report_to: str) -> dict[str, Any]:
    """Keyword arguments of `TrainingArguments` that have a training logged every ten steps, or nowhere (`"none"`)."""
    if report_to == "none":
        return {"report_to": "none", "logging_strategy": "no"}
    return {"report_to": report_to, "logging_strategy": "steps", "logging_steps": 10}


@dataclass
class TrainingOptions(Options):
    """Training options: how a model is fine-tuned; the same for whatever is compared."""

    epochs: float = field(default=2.0, metadata={"help": "Passes over the rows."})
    learning_rate: float = field(
        default=LORA.learning_rate, metadata={"help": "Of AdamW, with a warm-up and a cosine schedule."}
    )
    batch_size: int = field(default=LORA.batch_size, metadata={"help": "Rows a step and process."})
    lora_rank: int = field(default=LORA.rank, metadata={"help": "Rank of the adapters of linear layers."})
    lora_alpha: int = field(default=LORA.alpha, metadata={"help": "Scale of the adapters."})
    lora_dropout: float = field(default=LORA.dropout, metadata={"help": "Dropout before the adapters."})
    lora_layers: int | None = field(
        default=None, metadata={"help": "Adapters in so many of the last layers only; the others need no gradients."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.epochs > 0:
            raise ValueError(f"epochs must be more than 0, got {self.epochs}.")
        if self.lora_layers is not None and self.lora_layers < 1:
            raise ValueError(f"lora_layers must be at least 1, or left out for all layers, got {self.lora_layers}.")


@dataclass
class TrainerOptions(TrainingOptions):
    """Training options: how a model is fine-tuned, and by whose trainer."""

    trainer: str = field(default="auto", metadata={"help": "'sft' (TRL), 'transformers', or 'auto'."})
    report_to: str = field(default="none", metadata={"help": REPORT_TO})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trainer not in ("auto", "sft", "transformers"):
            raise ValueError(f"trainer must be 'auto', 'sft' or 'transformers', got {self.trainer!r}.")

    @property
    def uses_trl(self) -> bool:
        """Whether TRL trains."""
        return self.trainer == "sft" or (self.trainer == "auto" and find_spec("trl") is not None)


@dataclass
class FinetuneArguments(TrainerOptions):
    """Measuring options: which model is trained on which rows, and by what it is measured."""

    dataset: str = field(default="runs/prune/pruned", metadata={"help": "Training rows: file, folder or Hub dataset."})
    split: str = field(default="train", metadata={"help": "Split, or a slice: 'train[:1000]'."})
    max_rows: int | None = field(default=None, metadata={"help": "Train on the first rows only."})
    model: str = field(
        default="demo", metadata={"help": "Hub repository, folder or .gguf file; 'demo' is SmolLM2-135M-Instruct."}
    )
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub model."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the model."})
    eval_dataset: str | None = field(default=None, metadata={"help": "Held-out rows, for their loss."})
    choices: str | None = field(default=None, metadata={"help": "Multiple-choice questions."})
    answers: str | None = field(default=None, metadata={"help": "Questions whose answer ends in '#### number'."})
    eval_rows: int | None = field(default=None, metadata={"help": "Use only the first rows of each of the three."})
    training_seed: int = field(default=0, metadata={"help": "Seed of the adapters and of the order of rows."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads; default: all cores."})
    output_dir: str = field(default="runs/finetune-lora", metadata={"help": "Folder for adapter and results."})


@dataclass
class StudyArguments(TrainingOptions):
    """Study options: what is compared, on which rows, and how often."""

    dataset: str = field(default="yahma/alpaca-cleaned", metadata={"help": "File, folder or Hub dataset."})
    split: str = field(default="train", metadata={"help": "Split, or a slice: 'train[:1000]'."})
    target: str | None = field(default=None, metadata={"help": "Wanted rows: examples of the task."})
    test: str | None = field(
        default=None,
        metadata={"help": "Rows to measure by; default: half of the wanted rows, or rows held out of the dataset."},
    )
    choices: str | None = field(
        default=None,
        metadata={"help": "Multiple-choice questions to measure by as well: question, choices, answer (from 0)."},
    )
    group_by: str | None = field(default=None, metadata={"help": "Column with the source of a row."})
    flag_column: str | None = field(default=None, metadata={"help": "Column, true where a row is known to be wrong."})
    situation: str = field(
        default="auto",
        metadata={
            "help": "What is known of the rows: 'task' (some are wanted), 'wrong' (some are flagged), 'sources', "
            "'unknown' or 'clean'; default: told from --target, --flag-column and --group-by."
        },
    )
    model: str = field(
        default="demo", metadata={"help": "Hub repository, folder or .gguf file; 'demo' is SmolLM2-135M-Instruct."}
    )
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub model."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the model."})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Kernel of the attention: 'sdpa', 'eager', ..."}
    )
    pool_rows: int | None = field(default=None, metadata={"help": "Rows to choose from; default: all others."})
    eval_rows: int = field(default=300, metadata={"help": "Rows to measure by, at most."})
    longest_row: int | None = field(default=None, metadata={"help": "Leave out rows that are longer once cut."})
    tasks: list[str] = field(
        default_factory=list, metadata={"help": "Tasks of lm-evaluation-harness to measure by as well."}
    )
    arms: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Choices to be screened, '[SCORE] SELECTOR [VALUE]': 'ifd cut 0.3', 'target bm25'; default: "
            "by the situation."
        },
    )
    finalists: list[str] = field(
        default_factory=list, metadata={"help": "Choices to confirm at once, without a screening."}
    )
    num_finalists: int = field(default=3, metadata={"help": "Choices that go on from the screening."})
    screening_budget: float = field(default=0.3, metadata={"help": "Share of the pool that is kept in the screening."})
    screening_seeds: int = field(default=2, metadata={"help": "Seeds of each choice in the screening."})
    budgets: list[float] = field(
        default_factory=lambda: [0.1, 0.3, 0.5], metadata={"help": "Shares of the pool to keep."}
    )
    matchings: str = field(
        default="rows,tokens,updates",
        metadata={"help": "What is equal between subsets: 'rows', 'tokens' or 'updates' (training steps)."},
    )
    seeds: int = field(default=5, metadata={"help": "Least number of seeds to confirm each choice."})
    max_seeds: int = field(
        default=10, metadata={"help": "Seeds at most, where the spread in the screening asks for more."}
    )
    study_seed: int = field(default=0, metadata={"help": "Seed of the test rows and of the pool."})
    part: str = field(
        default="1/1", metadata={"help": "'2/8': share 2 of 8 of the trainings, to divide a study among processes."}
    )
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads; default: all cores."})
    output_dir: str = field(default="runs/compare", metadata={"help": "Folder for the results."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.test = self.test and os.path.expanduser(self.test)
        for arm in [*self.arms, *self.finalists]:
            if arm in BASELINES:
                raise ValueError(f"{', '.join(BASELINES)} are always there, and no arms to name, got {arm!r}.")
            parse_arm(arm)
        if {*self.arms, *self.finalists} == {ORACLE}:
            raise ValueError(f"an arm beside {ORACLE!r} is needed, which is no way to choose.")
        for budget in [*self.budgets, self.screening_budget]:
            if not 0 < budget < 1:
                raise ValueError(f"budgets must be shares of the pool between 0 and 1, got {budget}.")
        for name in ("seeds", "eval_rows", "num_finalists", "screening_seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if unknown := set(self.matching_names) - set(MATCHINGS):
            raise ValueError(f"matchings must be of {', '.join(MATCHINGS)}, got {', '.join(sorted(unknown))}.")
        if self.situation not in ("auto", *SITUATIONS):
            raise ValueError(f"situation must be 'auto' or one of {', '.join(SITUATIONS)}, got {self.situation!r}.")
        part = _PART.fullmatch(self.part)
        if not part or not 1 <= int(part[1]) <= int(part[2]):
            raise ValueError(f"part must be like '2/8', got {self.part!r}.")

    @property
    def matching_names(self) -> list[str]:
        """What subsets have equally many of: rows, target tokens or updates, one after the other."""
        return self.matchings.split(",")

    @property
    def kind(self) -> Situation:
        """The situation, as it is named or as it is told by the options."""
        if self.situation != "auto":
            return SITUATIONS[self.situation]
        return situation_of(self.target is not None, self.flag_column is not None, self.group_by is not None)

    def confirming_seeds(self, count: int) -> range:
        """Seeds of the confirming stage: never those of the screening, whose luck must not speak for an arm."""
        return range(self.screening_seeds, self.screening_seeds + count)

    def screening_cells(self, arms: Sequence[str]) -> list[Cell]:
        """Cells of the screening: every arm at one budget, trained for one time of its epochs."""
        matchings = [name for name in self.matching_names if name != "updates"] or self.matching_names
        return [
            Cell(arm, matching, self.screening_budget, seed)
            for seed in range(self.screening_seeds)
            for arm in ("random", *arms)
            for matching in matchings
        ]

    def confirming_cells(self, finalists: Sequence[str], seeds: int) -> list[Cell]:
        """
        Cells of the confirming stage: all rows, and random rows and the finalists at every budget.

        They come seed by seed, so that a study that is stopped has compared something.
        """
        subsets = [(matching, budget) for matching in self.matching_names for budget in self.budgets]
        return [
            cell
            for seed in self.confirming_seeds(seeds)
            for cell in (
                Cell(FULL, "rows", 1.0, seed),
                *(Cell(arm, *subset, seed) for subset in subsets for arm in ("random", *finalists)),
            )
        ]

    @property
    def process(self) -> tuple[int, int]:
        """Number of this process, from 0 on, and how many there are."""
        index, count = map(int, self.part.split("/"))
        return index - 1, count

    @property
    def is_first(self) -> bool:
        """Whether this process scores and reports."""
        return self.process[0] == 0


@dataclass
class PilotArguments(StudyArguments):
    """Study options: which rows, for what, and how much time there is."""

    minutes: float = field(default=60.0, metadata={"help": "Time that the study may take."})
    proxy: str | None = field(
        default=None, metadata={"help": "A smaller model to study with instead; the report says so."}
    )
    eval_rows: int = field(default=200, metadata={"help": "Rows to measure by, at most."})
    longest_row: int | None = field(default=512, metadata={"help": "Leave out rows that are longer once cut."})
    budgets: list[float] = field(default_factory=lambda: [0.1, 0.3], metadata={"help": "Shares of the pool to keep."})
    matchings: str = field(
        default="rows",
        metadata={"help": "What is equal between subsets: 'rows', 'tokens' or 'updates' (training steps)."},
    )
    epochs: float = field(default=1.0, metadata={"help": "Passes over the rows."})
    batch_size: int = field(default=4, metadata={"help": "Rows a step and process."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Of AdamW, with a warm-up and a cosine schedule."})
    lora_layers: int | None = field(
        default=4, metadata={"help": "Adapters in so many of the last layers only; the others need no gradients."}
    )
    output_dir: str = field(default="runs/study", metadata={"help": "Folder for the results."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.proxy = self.proxy and os.path.expanduser(self.proxy)
        if not self.minutes > 0:
            raise ValueError(f"minutes must be more than 0, got {self.minutes}.")
        if self.part != "1/1":
            raise ValueError(f"a study in a given time runs in one process, got part {self.part!r}.")
