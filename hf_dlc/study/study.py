"""A study: score a pool, train a model on what each arm chooses of it, and measure all by the same held-out rows."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset, load_from_disk

from hf_dlc.config import DLCConfig
from hf_dlc.execution.processes import process_state
from hf_dlc.pipeline.options import DataArguments, ModelArguments, load_scorer
from hf_dlc.pipeline.sources import read_dataset
from hf_dlc.scorer.scorer import DLCScorer
from hf_dlc.utils.digests import json_digest
from hf_dlc.utils.files import write_json

from .arms import METRICS, Cell, best_arms, choose_rows, shared_with_random
from .measuring import harness_accuracies, held_out_losses, make_judge, read_beside, right_choices, unseen
from .options import StudyArguments, TrainingOptions, options_of
from .questions import read_question
from .results import StudyResults
from .training import core_seconds, train_lora


logger = logging.getLogger(__name__)

_WAIT_SECONDS = 10.0


class Study:
    """
    A study in one of its processes: the rows that are compared, and the models that have been trained on them.

    What is done already is read from the folder `options.output_dir`, and what is not yet is written into it.

    Args:
        options (`StudyArguments`):
            What is compared.
        config ([`~hf_dlc.DLCConfig`]):
            How the pool is scored; the prefix of its columns must be `"dlc"`.

    Raises:
        ValueError: If a launcher started several processes as one, or if there are too few rows.
    """

    def __init__(self, options: StudyArguments, config: DLCConfig) -> None:
        if (processes := process_state().num_processes) > 1:
            raise ValueError(f"a study runs in processes of its own, got {processes} of one launch. Pass --part.")
        self.options = options
        self.output = Path(options.output_dir)
        (self.output / "cells").mkdir(parents=True, exist_ok=True)
        self.scorer = load_scorer(options_of(ModelArguments, options), config)
        self.pool, self.held_out = split_rows(options, self.scorer)
        self.choices = options.choices and unseen(read_beside(options, options.choices), self.pool, "choices")
        self.rows = self.scorer.tokenize(self.pool)
        parts = (self.rows, self.scorer.tokenize(self.held_out))
        texts = [[part["input_ids"][:], part["labels"][:]] for part in parts]
        training = vars(options_of(TrainingOptions, options))
        training["trainer"] = options.uses_trl  # "auto" is not the same wherever a study goes on
        scorer = self.scorer.describe()
        questions = self.choices and [read_question(row) for row in self.choices]
        self._identity = json_digest([texts, training, scorer["model_digest"], questions, options.tasks])
        self._scoring_identity = json_digest([texts, scorer])

    def run(self) -> StudyResults:
        """Score the pool, screen the arms where no finalists are named, and confirm the finalists."""
        options = self.options
        scored, scoring = self.scored
        screening = {} if options.finalists else self.train_all(options.screening_cells)
        finalists = options.finalists or best_arms(screening, options.num_finalists)
        confirming = self.train_all(options.confirming_cells(finalists))
        return StudyResults(
            dataset=Path(options.dataset).name,
            options=options,
            scoring=scoring,
            target_tokens=scored["dlc_tokens"][:],
            held_out_rows=len(self.held_out),
            screening=screening,
            finalists=finalists,
            confirming=confirming,
        )

    @cached_property
    def scored(self) -> tuple[Dataset, dict[str, Any]]:
        """
        The pool with its scores, and what scored it at what cost.

        The cost is in seconds, without calibration, which is needed once a model; `resumed` says whether they are
        those of the last run of several.
        """
        path, folder = self.output / "scored.json", self.output / "scored"
        if not self.options.is_first:
            self._wait_for([path])
        if not path.is_file():
            journal = self.output / "journal"
            facts = {"identity": self._scoring_identity, "resumed": journal.exists()}
            if not facts["resumed"]:  # a journal has the schedule in it
                self.scorer.calibrate()
            start = core_seconds()
            scored = self.scorer.score(self.pool, run_dir=journal, num_threads=self.options.num_threads)
            facts["seconds"] = core_seconds() - start
            scored.save_to_disk(folder)
            write_json(path, {**facts, "fractions": self.scorer.schedule_, "scorer": self.scorer.describe()})
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["identity"] != self._scoring_identity:
            raise ValueError(f"{folder} is of other rows, masking or model. Pass another --output_dir.")
        scored = load_from_disk(folder)
        plain = np.array([levels[0] for levels in scored["dlc_level_loss"]], dtype=np.float32)
        return scored.add_column("plain", plain), found

    def train_all(self, cells: Sequence[Cell]) -> dict[Cell, dict[str, Any]]:
        """
        Train the cells of this part that have not been trained, and wait for those of other parts.

        Args:
            cells (`Sequence[Cell]`):
                The cells of all parts.

        Returns:
            `dict[Cell, dict[str, Any]]`: What was measured of each cell: all metrics, `rows`, `tokens`, `seconds`, and
            `shared`, the share of its rows that random rows have as well.

        Raises:
            ValueError: If the folder has a cell of other rows, or of another model, training or questions.
        """
        index, count = self.options.process
        there = {cell: self._read(cell) for cell in cells if self._path(cell).is_file()}  # refuses those of other rows
        todo = [cell for cell in cells[index::count] if cell not in there]
        for number, cell in enumerate(todo, start=1):
            found = self._train(cell)
            write_json(self._path(cell), {**found, "identity": self._identity_of(cell)})
            loss, seconds = found[METRICS[0]], found["seconds"]
            logger.info("%d of %d: %s: loss %.4f, %.0f s", number, len(todo), cell.name, loss, seconds)
        self._wait_for([self._path(cell) for cell in cells])
        scored, _ = self.scored
        return {cell: {**self._read(cell), "shared": shared_with_random(scored, cell)} for cell in cells}

    def _train(self, cell: Cell) -> dict[str, Any]:
        """Fine-tune on the subset of a cell, and measure."""
        scored, _ = self.scored
        chosen = choose_rows(scored, cell)
        start = core_seconds()
        model = train_lora(self.scorer, self.rows.select(chosen), self.options, cell.seed)
        seconds = core_seconds() - start
        trained = make_judge(self.scorer, model)
        found: dict[str, Any] = held_out_losses(trained, self.held_out)
        if self.choices:
            found["choices"] = float(right_choices(trained, self.choices).mean())
        if self.options.tasks:
            found |= harness_accuracies(trained, self.options.tasks)
        model.unload()
        tokens = int(np.sum(scored.select(chosen)["dlc_tokens"]))
        return {**found, "rows": len(chosen), "tokens": tokens, "seconds": seconds}

    def _path(self, cell: Cell) -> Path:
        return self.output / "cells" / f"{cell.name}.json"

    def _read(self, cell: Cell) -> dict[str, Any]:
        found = json.loads(self._path(cell).read_text(encoding="utf-8"))
        if found["identity"] != self._identity_of(cell):
            raise ValueError(
                f"{self._path(cell)} is of other rows, model, training or questions. Pass another --output_dir."
            )
        return found

    def _identity_of(self, cell: Cell) -> str:
        """Digest of all that makes a cell, its rows too: scores of another masking make an arm choose others."""
        return json_digest([self._identity, choose_rows(self.scored[0], cell).tolist()])

    def _wait_for(self, paths: Sequence[Path]) -> None:
        """Wait until other parts have written these files."""
        waiting = 0
        while missing := [path.name for path in paths if not path.is_file()]:
            if len(missing) != waiting:
                logger.info("waiting for %d files of other parts: %s", len(missing), ", ".join(missing[:3]))
            waiting = len(missing)
            time.sleep(_WAIT_SECONDS)


def split_rows(options: StudyArguments, scorer: DLCScorer) -> tuple[Dataset, Dataset]:
    """
    Draw the pool and the held-out rows at random among the rows that can be scored.

    A row that stands in the dataset twice is in one of them, once.

    Args:
        options (`StudyArguments`):
            Names the dataset, the sizes and the seed.
        scorer ([`~hf_dlc.DLCScorer`]):
            Its tokens tell which rows are the same and which are too long.

    Returns:
        `tuple[Dataset, Dataset]`: Pool and held-out rows, each in the order of the dataset.

    Raises:
        ValueError: If there are too few rows.
    """
    rows = read_dataset(options_of(DataArguments, options))
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
