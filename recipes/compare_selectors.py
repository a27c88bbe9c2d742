"""
Is a model that is trained on the chosen rows better than one that is trained on as many random rows?

    python recipes/compare_selectors.py --config recipes/configs/compare_2_cores.yaml --dataset rows.jsonl

Some rows are held out; the others, the pool, are scored once. Then subsets of the pool are chosen by each arm, a model
is fine-tuned with LoRA on each, and the loss on the held-out rows is compared, in two stages:

    screening    every arm at one budget with one seed; the best go on, but those that choose nearly the rows that
                 random selection does with the same seed, as FlexRand with split 0.5
    confirming   these, random rows and all rows, at every budget with several other seeds, of the subsets, the
                 adapters and the order of the rows: differences are taken seed by seed

Arms are named by what they rank by and how they choose: `confidence flexrand 0.75`, `loss easiest`, `gain hardest`,
`plain flexrand 0.25` (plain is the loss of the unmasked model), `longest`, and `random`, which is always there.
Subsets have equally many rows, or equally many target tokens (`--matchings rows,tokens`).

`--finalists` skips the screening: to confirm on another dataset what came out on the first. With `--part 1/8` to
`--part 8/8`, eight processes on one folder, a GPU or a core for each, train an eighth of the models each and wait for
one another; the first scores and reports.

Written into `output_dir`: journal/ and scored/ (the scoring), cells/ (a file for each model; a study that was stopped
goes on after the last), study.json, study.md (also printed) and, where matplotlib is installed, study.png.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars, load_from_disk
from finetune_lora import (
    TrainingOptions,
    choose,
    core_seconds,
    held_out_losses,
    judge,
    read_question,
    train_lora,
    unseen,
)
from study_report import METRICS, Cell, StudyResults, write_report

from hf_dlc import DLCConfig, DLCScorer, FlexRandSelector, RandomSelector, TopKSelector
from hf_dlc.cli.exits import run_program
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.execution.processes import cpu_threads, process_state
from hf_dlc.pipeline.options import PruneArguments, load_scorer
from hf_dlc.pipeline.sources import read_dataset, split_of
from hf_dlc.utils.digests import json_digest
from hf_dlc.utils.files import write_json


logger = logging.getLogger(__name__)

# What each statistic is called in the dataset, and which end of it is easy.
COLUMNS = {
    "confidence": ("dlc_confidence", "high"),
    "loss": ("dlc_loss", "low"),
    "gain": ("dlc_gain", "high"),
    "plain": ("plain", "low"),
    "length": ("dlc_tokens", "low"),
}
_ARM = re.compile(r"(confidence|loss|gain|plain) (easiest|hardest|flexrand (0?\.\d+))")
_PART = re.compile(r"(\d+)/(\d+)")
_WAIT_SECONDS = 10.0
_NEARLY_RANDOM = 0.9  # share of the rows of an arm that random rows of the same seed have, too


@dataclass
class StudyArguments(TrainingOptions):
    """What is compared, on which rows, and how often."""

    dataset: str = field(default="yahma/alpaca-cleaned", metadata={"help": "File, folder or Hub dataset."})
    split: str = field(default="train", metadata={"help": "Split, or a slice: 'train[:1000]'."})
    model: str = field(default="demo", metadata={"help": "Hub repository, folder, .gguf file, or 'demo'."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub model."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the model."})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Kernel of the attention: 'sdpa', 'eager', ..."}
    )
    pool_rows: int | None = field(default=None, metadata={"help": "Rows to choose from; default: all others."})
    eval_rows: int = field(default=300, metadata={"help": "Rows that are held out."})
    longest_row: int | None = field(default=None, metadata={"help": "Leave out rows of more tokens than this."})
    choices: str | None = field(default=None, metadata={"help": "Multiple-choice questions to measure by as well."})
    tasks: list[str] = field(
        default_factory=list, metadata={"help": "Tasks of lm-evaluation-harness to measure by as well."}
    )
    arms: list[str] = field(
        default_factory=lambda: [
            "longest",
            *(f"plain {rule}" for rule in ("easiest", "hardest")),
            *(f"{name} flexrand {split}" for name in ("confidence", "loss", "gain") for split in (0.25, 0.5, 0.75)),
            *(f"{name} {rule}" for name in ("confidence", "loss", "gain") for rule in ("easiest", "hardest")),
        ],
        metadata={"help": "What is screened, beside random rows."},
    )
    finalists: list[str] = field(default_factory=list, metadata={"help": "Confirm these, without screening."})
    num_finalists: int = field(default=3, metadata={"help": "Arms that go on from the screening."})
    screening_budget: float = field(default=0.3, metadata={"help": "Share of the pool in the screening."})
    budgets: list[float] = field(default_factory=lambda: [0.1, 0.3, 0.5], metadata={"help": "Shares of the pool."})
    matchings: str = field(default="rows,tokens", metadata={"help": "What subsets have equally many of."})
    seeds: int = field(default=5, metadata={"help": "Models an arm and budget in the confirming stage."})
    study_seed: int = field(default=0, metadata={"help": "Seed of the held-out rows and of the pool."})
    part: str = field(default="1/1", metadata={"help": "'2/8': train every eighth model, from the second on."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads; default: all cores."})
    output_dir: str = field(default="runs/compare", metadata={"help": "Folder for the results."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for arm in [*self.arms, *self.finalists]:
            if arm in ("random", "full"):
                raise ValueError(f"arms must be other than random and all rows, which are always there, got {arm!r}.")
            parse_arm(arm)
        for budget in [*self.budgets, self.screening_budget]:
            if not 0 < budget < 1:
                raise ValueError(f"budgets must be shares of the pool between 0 and 1, got {budget}.")
        for name in ("seeds", "eval_rows", "num_finalists"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if unknown := set(self.matchings.split(",")) - {"rows", "tokens"}:
            raise ValueError(f"matchings must be rows, tokens or both, got {', '.join(sorted(unknown))}.")
        part = _PART.fullmatch(self.part)
        if not part or not 1 <= int(part[1]) <= int(part[2]):
            raise ValueError(f"part must be like '2/8', got {self.part!r}.")

    @property
    def confirming_seeds(self) -> range:
        """Others than that of the screening, whose luck must not speak for an arm."""
        return range(1, 1 + self.seeds)

    @property
    def process(self) -> tuple[int, int]:
        """Which process of how many this is, from 0 on."""
        index, count = map(int, self.part.split("/"))
        return index - 1, count

    @property
    def is_first(self) -> bool:
        """Whether this process scores and reports."""
        return self.process[0] == 0


def main(args: list[str] | None = None) -> None:
    """Run the recipe."""
    options, config = parse_config_and_args([StudyArguments, DLCConfig], args, description=__doc__)
    if found := run_program(lambda: compare(options, replace(config, prefix="dlc"))):
        print(found)


def compare(options: StudyArguments, config: DLCConfig) -> str | None:
    """Score, train and measure; return the report, in the first of several processes."""
    disable_progress_bars()
    torch.set_num_threads(cpu_threads(options.num_threads))
    study = Study(options, config)
    results = study.run()
    return write_report(results, study.output) if options.is_first else None


class Study:
    """The rows that are compared, and the models that have been trained on them."""

    def __init__(self, options: StudyArguments, config: DLCConfig) -> None:
        if (processes := process_state().num_processes) > 1:
            raise ValueError(f"a study runs in processes of its own, got {processes} of one launch. Pass --part.")
        self.options = options
        self.output = Path(options.output_dir)
        (self.output / "cells").mkdir(parents=True, exist_ok=True)
        self.scorer = load_scorer(recipe_arguments(options, options.dataset), config)
        self.pool, self.held_out = split_rows(options, self.scorer)
        self.choices = options.choices and unseen(read_choices(options), self.pool, "choices")
        self.rows = self.scorer.tokenize(self.pool)
        parts = (self.rows, self.scorer.tokenize(self.held_out))
        texts = [[part["input_ids"][:], part["labels"][:]] for part in parts]
        training = {name: getattr(options, name) for name in TrainingOptions.__dataclass_fields__}
        training["trainer"] = options.uses_trl  # "auto" is not the same wherever a study goes on
        scorer = self.scorer.describe()
        questions = self.choices and [read_question(row) for row in self.choices]
        self.identity = json_digest([texts, training, scorer["model_digest"], questions, options.tasks])
        self.scoring_identity = json_digest([texts, scorer])

    def run(self) -> StudyResults:
        """Both stages."""
        options = self.options
        self.scored, scoring = self.score()
        screening = {} if options.finalists else self.train_all(screening_cells(options))
        finalists = options.finalists or best_arms(screening, options.num_finalists)
        confirming = self.train_all(confirming_cells(options, finalists))
        return StudyResults(
            dataset=Path(options.dataset).name,
            options=options,
            scoring=scoring,
            target_tokens=self.scored["dlc_tokens"][:],
            held_out_rows=len(self.held_out),
            screening=screening,
            finalists=finalists,
            confirming=confirming,
        )

    # ---- scoring --------------------------------------------------------------------------------------------------

    def score(self) -> tuple[Dataset, dict[str, Any]]:
        """
        The pool with its scores, and what scored it at what cost: the seconds, without calibration, which is needed
        once a model, and whether they are those of the last run of several.
        """
        path, folder = self.output / "scored.json", self.output / "scored"
        if not self.options.is_first:
            self.wait_for([path])
        if not path.is_file():
            journal, threads = self.output / "journal", self.options.num_threads
            facts = {"identity": self.scoring_identity, "resumed": journal.exists()}
            if not facts["resumed"]:  # a journal has the schedule in it
                self.scorer.calibrate()
            start = core_seconds()
            scored = self.scorer.score(self.pool, run_dir=journal, num_threads=threads)
            facts["seconds"] = core_seconds() - start
            scored.save_to_disk(folder)
            write_json(path, {**facts, "fractions": self.scorer.schedule_, "scorer": self.scorer.describe()})
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["identity"] != self.scoring_identity:
            raise ValueError(f"{folder} is of other rows, masking or model. Pass another --output_dir.")
        scored = load_from_disk(folder)
        plain = np.array([levels[0] for levels in scored["dlc_level_loss"]], dtype=np.float32)
        return scored.add_column("plain", plain), found

    # ---- training -------------------------------------------------------------------------------------------------

    def train_all(self, cells: Sequence[Cell]) -> dict[Cell, dict[str, Any]]:
        """What came out of each cell; those of this part are trained if they have not been."""
        index, count = self.options.process
        there = {cell: self.read(cell) for cell in cells if self.path(cell).is_file()}  # refuses those of other rows
        todo = [cell for cell in cells[index::count] if cell not in there]
        for number, cell in enumerate(todo, start=1):
            found = self.train(cell)
            write_json(self.path(cell), {**found, "identity": self.identity_of(cell)})
            loss, seconds = found[METRICS[0]], found["seconds"]
            logger.info("%d of %d: %s: loss %.4f, %.0f s", number, len(todo), cell.name, loss, seconds)
        self.wait_for([self.path(cell) for cell in cells])
        return {cell: {**self.read(cell), "shared": shared_with_random(self.scored, cell)} for cell in cells}

    def path(self, cell: Cell) -> Path:
        """File of a cell."""
        return self.output / "cells" / f"{cell.name}.json"

    def read(self, cell: Cell) -> dict[str, Any]:
        """What came out of a trained cell."""
        found = json.loads(self.path(cell).read_text(encoding="utf-8"))
        if found["identity"] != self.identity_of(cell):
            raise ValueError(
                f"{self.path(cell)} is of other rows, model, training or questions. Pass another --output_dir."
            )
        return found

    def identity_of(self, cell: Cell) -> str:
        """Of the chosen rows, too: the same arm chooses others by the scores of another masking."""
        return json_digest([self.identity, choose_rows(self.scored, cell).tolist()])

    def train(self, cell: Cell) -> dict[str, Any]:
        """Fine-tune on the subset of a cell, and measure."""
        chosen = choose_rows(self.scored, cell)
        start = core_seconds()
        model = train_lora(self.scorer, self.rows.select(chosen), self.options, cell.seed)
        seconds = core_seconds() - start
        found = self.measure(judge(self.scorer, model))
        model.unload()
        tokens = int(np.sum(self.scored.select(chosen)["dlc_tokens"]))
        return {**found, "rows": len(chosen), "tokens": tokens, "seconds": seconds}

    def measure(self, trained: DLCScorer) -> dict[str, float]:
        """Held-out losses, and what else was asked for."""
        found = held_out_losses(trained, self.held_out)
        if self.choices:
            found["choices"] = float(choose(trained, self.choices).mean())
        if self.options.tasks:
            found |= harness_accuracies(trained, self.options.tasks)
        return found

    def wait_for(self, paths: Sequence[Path]) -> None:
        """Until other parts have written these files."""
        waiting = 0
        while missing := [path.name for path in paths if not path.is_file()]:
            if len(missing) != waiting:
                logger.info("waiting for %d files of other parts: %s", len(missing), ", ".join(missing[:3]))
            waiting = len(missing)
            time.sleep(_WAIT_SECONDS)


# ---- arms and cells -----------------------------------------------------------------------------------------------


def parse_arm(arm: str) -> tuple[str, str, float]:
    """Statistic, rule and split of an arm."""
    if arm in ("random", "full"):
        return "", arm, 0.0
    if arm == "longest":
        return "length", "hardest", 0.0
    if found := _ARM.fullmatch(arm):
        return found[1], found[2].split()[0], float(found[3] or 0)
    raise ValueError(
        "an arm must be 'longest' or begin with 'confidence', 'loss', 'gain' or 'plain' and go on with 'easiest', "
        f"'hardest' or 'flexrand' and a split, got {arm!r}."
    )


def choose_rows(scored: Dataset, cell: Cell) -> np.ndarray:
    """Places of the rows of a cell in the pool."""
    statistic, rule, split = parse_arm(cell.arm)
    budget: dict[str, Any] = {"keep": cell.budget}
    if cell.matching == "tokens":
        budget = {"keep_tokens": round(cell.budget * sum(scored["dlc_tokens"]))}
    if rule == "full":
        return np.arange(len(scored))
    if rule == "random":
        return RandomSelector(**budget, seed=cell.seed).read_indices(scored)
    column, easy = COLUMNS[statistic]
    if rule == "flexrand":
        return FlexRandSelector(**budget, column=column, easy=easy, split=split, seed=cell.seed).read_indices(scored)
    return TopKSelector(**budget, column=column, easy=easy, which=rule).read_indices(scored)


def shared_with_random(scored: Dataset, cell: Cell) -> float:
    """The share of the rows of a cell that random rows of the same seed and budget have, too."""
    random = choose_rows(scored, cell._replace(arm="random"))
    return float(np.isin(choose_rows(scored, cell), random).mean())


def screening_cells(options: StudyArguments) -> list[Cell]:
    """Every arm once."""
    matchings = options.matchings.split(",")
    return [
        Cell(arm, matching, options.screening_budget, 0) for arm in ["random", *options.arms] for matching in matchings
    ]


def best_arms(screening: dict[Cell, dict[str, Any]], count: int) -> list[str]:
    """The arms, but random and what is nearly random, with the lowest held-out loss, a mean over the matchings."""
    outcomes: dict[str, list[dict[str, Any]]] = {}
    for cell, found in screening.items():
        outcomes.setdefault(cell.arm, []).append(found)
    losses = {
        arm: np.mean([one[METRICS[0]] for one in found])
        for arm, found in outcomes.items()
        if np.mean([one["shared"] for one in found]) < _NEARLY_RANDOM
    }
    if not losses:
        raise ValueError("arms must choose others than random rows, got none that does. Name --finalists.")
    return sorted(losses, key=lambda arm: (losses[arm], arm))[:count]


def confirming_cells(options: StudyArguments, finalists: Sequence[str]) -> list[Cell]:
    """Seed by seed, so that a study that is stopped has compared something."""
    subsets = [(matching, budget) for matching in options.matchings.split(",") for budget in options.budgets]
    return [
        cell
        for seed in options.confirming_seeds
        for cell in (
            Cell("full", "rows", 1.0, seed),
            *(Cell(arm, *subset, seed) for subset in subsets for arm in ("random", *finalists)),
        )
    ]


# ---- rows and measures --------------------------------------------------------------------------------------------


def recipe_arguments(options: StudyArguments, dataset: str) -> PruneArguments:
    """The options of prune_alpaca.py that say what is read and loaded."""
    names = ("split", "model", "model_revision", "trust_remote_code", "attn_implementation")
    return PruneArguments(dataset=dataset, **{name: getattr(options, name) for name in names})


def read_choices(options: StudyArguments) -> Dataset:
    """The questions to measure by."""
    split = split_of(options.choices, options.split)
    return read_dataset(replace(recipe_arguments(options, options.choices), split=split))


def split_rows(options: StudyArguments, scorer: DLCScorer) -> tuple[Dataset, Dataset]:
    """
    Pool and held-out rows, drawn at random among the rows that can be scored; a row that stands in the dataset twice
    is in one of them, once.
    """
    rows = read_dataset(recipe_arguments(options, options.dataset))
    texts: dict[bytes, int] = {}
    for encoded in scorer.tokenize(rows).with_format("numpy"):
        if len(encoded["input_ids"]) <= (options.longest_row or np.inf):
            texts.setdefault(encoded["input_ids"].tobytes(), int(encoded["row"]))
    order = np.random.default_rng(options.study_seed).permutation(list(texts.values()))
    needed = options.eval_rows + (options.pool_rows or 1)
    if len(order) < needed:
        raise ValueError(f"{needed} rows are needed, got {len(order)} that can be scored and are short enough.")
    end = needed if options.pool_rows else None
    return rows.select(np.sort(order[options.eval_rows : end])), rows.select(np.sort(order[: options.eval_rows]))


def harness_accuracies(trained: DLCScorer, tasks: Sequence[str]) -> dict[str, float]:
    """Accuracy in tasks of lm-evaluation-harness, with their own prompts and numbers of examples."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=trained.model, tokenizer=trained.processor, batch_size="auto")
    results = simple_evaluate(model=model, tasks=list(tasks))["results"]
    if missing := [task for task in tasks if "acc,none" not in results.get(task, {})]:
        raise ValueError(f"tasks must measure accuracy (acc), got {', '.join(missing)}.")
    return {task: results[task]["acc,none"] for task in tasks}  # without the parts of a group such as mmlu


if __name__ == "__main__":
    main()
