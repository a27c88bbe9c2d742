"""A study: prepare a pool, train a model on what each arm chooses of it, and measure all by the same test rows."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset, disable_progress_bars

from hf_dlc.config import DLCConfig
from hf_dlc.execution.processes import cpu_threads, process_state
from hf_dlc.pipeline.options import ModelArguments, load_scorer
from hf_dlc.scorer.scorer import DLCScorer
from hf_dlc.scores.table import DEFAULT_SCORES
from hf_dlc.utils.digests import json_digest
from hf_dlc.utils.files import write_json

from .arms import ORACLE, UNTRAINED, Cell
from .measuring import answered_rightly, as_candidates, harness_accuracies, mean_losses
from .options import StudyArguments, TrainingOptions, options_of
from .pool import read_rows, reader_of, text_columns_of
from .preparation import Preparation, read_steps, run_step
from .prepared import PreparedPool
from .questions import Question, read_question
from .results import StudyResults
from .screening import best_arms, seeds_needed
from .situations import possible_arms
from .states import States
from .trainee import Trainee
from .training import core_seconds


logger = logging.getLogger(__name__)

_WAIT_SECONDS = 5.0
_START = Cell(UNTRAINED, "rows", 0.0, 0)


class Study:
    """
    A study in one of its processes: the rows that are compared, and the models that have been trained on them.

    What is done already is read from the folder `options.output_dir`, and what is not yet is written into it.

    Args:
        options (`StudyArguments`):
            What is compared.
        config ([`~hf_dlc.DLCConfig`]):
            How the pool is scored, as far as [`config_of_study`] leaves it to the user.
        scorer ([`~hf_dlc.DLCScorer`], *optional*):
            The scorer, where it has been loaded already.
        deadline (`float`, *optional*):
            Time of `time.monotonic` after which no further seed is begun, as far as can be foreseen.

    Raises:
        ValueError: If a launcher started several processes as one, if there are too few rows, or if an arm that is
            named lacks what it needs.
    """

    def __init__(
        self,
        options: StudyArguments,
        config: DLCConfig,
        scorer: DLCScorer | None = None,
        deadline: float | None = None,
    ) -> None:
        if (processes := process_state().num_processes) > 1:
            raise ValueError(f"a study runs in processes of its own, got {processes} of one launch. Pass --part.")
        disable_progress_bars()
        self.options, self.deadline = options, deadline
        self.output = Path(options.output_dir)
        (self.output / "cells").mkdir(parents=True, exist_ok=True)
        self.scorer = scorer or load_scorer(options_of(ModelArguments, options), config_of_study(config))
        self.rows = read_rows(options, self.scorer)
        self.questions = [read_question(row) for row in self.rows.questions or []]
        self.arms, self.left_out = self._arms()
        reads_test = reader_of(self.rows.test, self.scorer)
        self.tokens = {"pool": self.scorer.tokenize(self.rows.pool), "test": reads_test.tokenize(self.rows.test)}
        if self.questions:
            self.tokens["choices"] = _read_choices(self.questions, self.scorer)
        texts = [[part["input_ids"][:], part["labels"][:]] for part in self.tokens.values()]
        scorer = self.scorer.describe()
        # The trainer of transformers trains in any case; digests of cells have always named one.
        training = [{**vars(options_of(TrainingOptions, options)), "trainer": "transformers"}, self._steps_of_updates]
        self._rows_identity = json_digest([texts, scorer["model_digest"], options.lora_layers])
        self._identity = json_digest([self._rows_identity, training, options.tasks])
        wanted = self.rows.wanted and list(self.rows.wanted)
        self._prepared_identity = json_digest([texts[0], scorer, wanted])

    def _arms(self) -> tuple[list[str], dict[str, list[str]]]:
        """Arms that can be compared, and what those of the situation lack that cannot."""
        options = self.options
        given = {
            "target": self.rows.wanted is not None,
            "groups": options.group_by is not None,
            "flags": options.flag_column is not None,
            "score similarity": Path(self.scorer.config.encoder).is_dir(),  # nothing is downloaded unasked
        }
        there = [name for name, is_given in given.items() if is_given]
        named = [*options.arms, *options.finalists]
        _, lacking = possible_arms(named, there)
        if lacking:
            raise ValueError(f"an arm must have what it needs, got {_in_words(lacking)}.")
        if named:
            return options.arms, {}
        arms, lacking = possible_arms(options.kind.arms, there)
        if lacking:
            logger.info("not compared, for want of what stands behind each: %s", _in_words(lacking))
        return arms, lacking

    # ---- the stages ----------------------------------------------------------------------------------------------

    def run(self) -> StudyResults:
        """Prepare the pool, screen the arms where no finalists are named, and confirm the finalists."""
        options = self.options
        start = self.train_all([_START])[_START]
        arms = self._able(options.finalists or self.arms)
        screening = {} if options.finalists else self.train_all(options.screening_cells(arms))
        finalists = options.finalists or best_arms(screening, options.num_finalists)
        subsets = len(options.matching_names) * len(options.budgets)
        needed = seeds_needed(screening, subsets * len([arm for arm in finalists if arm != ORACLE]))
        seeds = min(max(options.seeds, needed), max(options.seeds, options.max_seeds))
        logger.info("confirming %s with %d seeds", ", ".join(finalists), seeds)
        if needed:
            logger.info(
                "the spread of the screening asks for %d seeds to see a difference of 1%% at one budget", needed
            )
        return StudyResults(
            options=options,
            facts=self._facts(),
            screening=screening,
            finalists=list(finalists),
            start=start,
            confirming=self._confirm(finalists, seeds),
        )

    def _able(self, arms: Sequence[str]) -> list[str]:
        """Arms that can choose at every budget; others are refused, or left out where nobody named them."""
        options, able = self.options, []
        matchings = [name for name in options.matching_names if name != "updates"] or ["rows"]
        screened = [] if options.finalists else [options.screening_budget]
        for arm in arms:
            try:
                for budget in dict.fromkeys([*screened, *options.budgets]):
                    for matching in matchings:
                        self.prepared.choose(Cell(arm, matching, budget, 0))
            except ValueError as error:
                if options.arms or options.finalists:
                    raise
                self.left_out[arm] = [str(error).removeprefix(f"{arm} ")]
                logger.info("not compared: %s", error)
            else:
                able.append(arm)
        return able

    def _confirm(self, finalists: Sequence[str], count: int) -> dict[Cell, dict[str, Any]]:
        """Train the confirming cells, all seeds or as many as there is time for; one in any case."""
        found: dict[Cell, dict[str, Any]] = {}
        for number in range(1, count + 1):
            start = time.monotonic()
            # With seeds that are there already: they are read, not trained.
            found |= self.train_all(self.options.confirming_cells(finalists, number))
            end = time.monotonic()
            if self.deadline is not None and number < count and end + (end - start) > self.deadline:
                logger.info("time is up after %d of %d seeds: the same command goes on from here", number, count)
                break
        return found

    def _facts(self) -> dict[str, Any]:
        """What was compared and at what cost, for a report."""
        scorer, pool = self.scorer.describe(), self.prepared
        return {
            "dataset": Path(self.options.dataset).name,
            "situation": self.options.kind.name,
            "pool_rows": len(self.rows.pool),
            "pool_tokens": int(pool.tokens.sum()),
            "test_rows": len(self.rows.test),
            "wanted_rows": len(self.rows.wanted or []),
            "questions": len(self.questions),
            "steps_of_updates": self._steps_of_updates,
            "left_out": self.left_out,
            "scorer": scorer,
            "seconds": {name: None if math.isnan(value) else value for name, value in pool.seconds.items()},
            **json.loads((self.output / "costs.json").read_text(encoding="utf-8")),
        }

    @cached_property
    def prepared(self) -> PreparedPool:
        """The pool with what all arms need; the first process makes it, the others wait."""
        options, folder = self.options, self.output / "prepared"
        rows = self.rows
        preparation = Preparation(self.scorer, rows.pool, rows.wanted, folder, options.num_threads)
        steps = preparation.steps_for(options.finalists or self.arms)
        if options.is_first:
            todo = [step for step in steps if not step.is_made(folder, self._prepared_identity)]
            if any(step.masks_weights for step in todo):
                self.scorer.calibrate()  # once for a model: no part of what scoring costs
            for step in todo:
                run_step(step, folder, self._prepared_identity)
        self._wait_for([folder / step.name / "facts.json" for step in steps])
        # The states say how many target tokens each row has, so that nothing need be scored for random rows alone.
        pool = self.rows.pool.add_column("dlc_tokens", self.states["pool"].targets.astype(np.int32))
        rows, wanted, seconds = read_steps(steps, folder, self._prepared_identity, pool, self.rows.wanted)
        texts = text_columns_of(self.rows.pool, self.scorer)
        return PreparedPool(rows, wanted, seconds, options.group_by, options.flag_column, texts)

    @cached_property
    def trainee(self) -> Trainee:
        """The model that is trained."""
        return Trainee(self.scorer.model, self.options, self.tokens["pool"])

    @cached_property
    def states(self) -> dict[str, States]:
        """What the trained layers read of the pool, the test rows and the choices of questions."""
        paths = {name: self.output / "states" / f"{name}.safetensors" for name in self.tokens}
        if not self.options.is_first:
            self._wait_for([self.output / "costs.json"])
        found, seconds = {}, {}
        for name, tokens in self.tokens.items():
            start = core_seconds()
            found[name] = self.trainee.read(tokens, paths[name], self._rows_identity)
            seconds[name] = core_seconds() - start
        if self.options.is_first and not (self.output / "costs.json").is_file():
            estimate = self.scorer.estimate(self.rows.pool, num_threads=self.options.num_threads, training=True)
            cores = 1 if torch.accelerator.is_available() else cpu_threads(self.options.num_threads)
            # What choosing costs is counted in seconds of a core, and all of them train.
            epoch = estimate.training_seconds and estimate.training_seconds * cores
            costs = {"lower_layers_seconds": seconds["pool"], "lora_epoch_seconds": epoch}
            write_json(self.output / "costs.json", costs)
        return found

    @cached_property
    def _steps_of_updates(self) -> int:
        """Steps of one training on the largest subset, which all arms take with equal updates."""
        rows = round(max(self.options.budgets) * len(self.rows.pool))
        return math.ceil(math.ceil(rows / self.options.batch_size) * self.options.epochs)

    # ---- the cells -----------------------------------------------------------------------------------------------

    def train_all(self, cells: Sequence[Cell]) -> dict[Cell, dict[str, Any]]:
        """
        Train the cells of this part that have not been trained, and wait for those of other parts.

        Args:
            cells (`Sequence[Cell]`):
                The cells of all parts.

        Returns:
            `dict[Cell, dict[str, Any]]`: What was measured of each cell: all metrics, its `rows` and `tokens`, the
            `seconds` of training and of `selecting`. `shared` is the share of its rows that random rows have as well,
            and `suspect` the share that is suspect, where this is known.

        Raises:
            ValueError: If the folder has a cell of other rows, or of another model, training or questions.
        """
        index, count = self.options.process
        trained = list(dict.fromkeys(map(self._same_training, cells)))
        there = {cell: self._read(cell) for cell in trained if self._path(cell).is_file()}  # refuses those of others
        todo = [cell for cell in trained[index::count] if cell not in there]
        for cell in todo:
            if cell != _START:
                self.prepared.choose(cell)  # what cannot be chosen is known before hours of training
        for number, cell in enumerate(todo, start=1):
            found = self._train(cell)
            write_json(self._path(cell), {**found, "identity": self._identity_of(cell)})
            loss, seconds = found["loss per row"], found["seconds"]
            logger.info("%d of %d: %s: loss %.4f, %.0f s", number, len(todo), cell.name, loss, seconds)
        self._wait_for([self._path(cell) for cell in trained])
        return {cell: self._read(self._same_training(cell)) for cell in cells}

    def _same_training(self, cell: Cell) -> Cell:
        """The cell with equal rows that is trained in the same way: the largest subset takes its steps anyway."""
        if cell.matching != "updates" or "rows" not in self.options.matching_names:
            return cell
        batches = math.ceil(len(self.prepared.choose(cell)) / self.options.batch_size)
        is_same = math.ceil(batches * self.options.epochs) >= self._steps_of_updates
        return cell._replace(matching="rows") if is_same else cell

    def _train(self, cell: Cell) -> dict[str, Any]:
        """Fine-tune on the subset of a cell, and measure."""
        if cell == _START:
            return {**self._measure(self.trainee.upper), "rows": 0, "tokens": 0, "seconds": 0.0}
        chosen = self.prepared.choose(cell)
        start = core_seconds()
        steps = self._steps_of_updates if cell.matching == "updates" else None
        model = self.trainee.train(self.states["pool"], chosen, cell.seed, steps)
        seconds = core_seconds() - start
        found = self._measure(model)
        model.unload()
        return {
            **found,
            "rows": len(chosen),
            "tokens": int(self.prepared.tokens[chosen].sum()),
            "seconds": seconds,
            "selecting": self.prepared.selecting_seconds(cell),
        }

    def _measure(self, model: Any) -> dict[str, float]:
        """Losses of the test rows, and accuracies."""
        states = self.states
        found = mean_losses(self.trainee.losses(model, states["test"]), states["test"].targets)
        if self.questions:
            losses = self.trainee.losses(model, states["choices"])
            found["choices"] = float(answered_rightly(losses, self.questions).mean())
        if self.options.tasks:
            found |= harness_accuracies(self.trainee.whole(), self.scorer.processor, self.options.tasks)
        return found

    def _path(self, cell: Cell) -> Path:
        return self.output / "cells" / f"{cell.name}.json"

    def _read(self, cell: Cell) -> dict[str, Any]:
        """What was measured of a cell, and of which kind its rows are."""
        found = json.loads(self._path(cell).read_text(encoding="utf-8"))
        if found["identity"] != self._identity_of(cell):
            raise ValueError(
                f"{self._path(cell)} is of other rows, model, training or questions. Pass another --output-dir."
            )
        if cell == _START:
            return found
        suspect = self.prepared.suspect_share(cell)
        shared = {"shared": self.prepared.shared_with_random(cell)}
        return {**found, **shared, **({} if suspect is None else {"suspect": suspect})}

    def _identity_of(self, cell: Cell) -> str:
        """Digest of all that makes a cell, its rows too: scores of another masking make an arm choose others."""
        return json_digest([self._identity, None if cell == _START else self.prepared.choose(cell).tolist()])

    def _wait_for(self, paths: Sequence[Path]) -> None:
        """Wait until other parts have written these files."""
        waiting = 0
        while missing := [path.name for path in paths if not path.is_file()]:
            if len(missing) != waiting:
                logger.info("waiting for %d files of other parts: %s", len(missing), ", ".join(missing[:3]))
            waiting = len(missing)
            time.sleep(_WAIT_SECONDS)


def config_of_study(config: DLCConfig) -> DLCConfig:
    """
    Options of the scorer of a study: it names its columns itself, and makes the scores and features that arms go by.

    Args:
        config ([`~hf_dlc.DLCConfig`]):
            Options of the user.

    Returns:
        [`~hf_dlc.DLCConfig`]: The same with the prefix, the scores and the features of a study. A warning names those
        of the user's that are not used.
    """
    own = {"prefix": "dlc", "scores": DEFAULT_SCORES, "features": None}
    if unused := [name for name, value in own.items() if getattr(config, name) != getattr(DLCConfig(), name)]:
        logger.warning("not used, as the arms of a study say what is made: %s", ", ".join(unused))
    return replace(config, **own)


def _read_choices(questions: Sequence[Question], scorer: DLCScorer) -> Dataset:
    """Tokens of all choices, which have columns of their own."""
    candidates = as_candidates(questions)
    tokens = scorer.with_options(layout="auto", columns=None).tokenize(candidates)
    if missing := len(candidates) - len(tokens):
        raise ValueError(f"{missing} of {len(candidates)} choices have no loss: they are empty or too long.")
    return tokens


def _in_words(lacking: dict[str, list[str]]) -> str:
    return "; ".join(f"{arm} ({', '.join(needs)})" for arm, needs in lacking.items())
