"""A study on a sample of the user's rows that fits into a given time: the command `hf-dlc study`."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset

from hf_dlc.config import DLCConfig
from hf_dlc.execution.processes import cpu_threads
from hf_dlc.pipeline.options import ModelArguments, load_scorer
from hf_dlc.scorer.scorer import DLCScorer
from hf_dlc.scores.table import SCORES
from hf_dlc.utils.durations import duration
from hf_dlc.utils.files import write_json

from .arms import ANY_SCHEDULE, ORACLE, parse_arm
from .options import PilotArguments, StudyArguments, options_of
from .pool import read_rows
from .questions import read_question
from .results import StudyResults
from .states import States
from .study import Study, config_of_study
from .trainee import Trainee


logger = logging.getLogger(__name__)

_POOLS = (4000, 2000, 1000, 500, 250, 120)  # rows to choose from that are tried, the most first
_PROBED = 32  # rows by which speeds are measured
_SHARE = 0.8  # of the time that may be planned: what is foretold is not exact
_LEAST_SEEDS = 3  # that must fit


@dataclass(frozen=True)
class Speeds:
    """
    Seconds that a row takes.

    Args:
        reading (`float`):
            In a pass through the whole model.
        training (`float`):
            In an epoch of training.
        judging (`float`):
            In measuring its loss.
    """

    reading: float
    training: float
    judging: float


def run_pilot(options: PilotArguments, config: DLCConfig) -> StudyResults:
    """
    Study a sample of the rows in the given time.

    Args:
        options ([`PilotArguments`]):
            Rows, model and time. A study of the folder that was stopped, or whose time was up, goes on.
        config ([`~hf_dlc.DLCConfig`]):
            How rows are scored.

    Returns:
        [`StudyResults`]

    Raises:
        ValueError: If the time is too short for the smallest sample, or for the reasons for which [`Study`] raises it.
    """
    deadline = time.monotonic() + 60 * options.minutes
    torch.set_num_threads(cpu_threads(options.num_threads))
    model, facts = options_of(ModelArguments, options), {}
    if options.proxy is not None:
        logger.info("%s is studied as a proxy for %s", options.proxy, options.model)
        model, facts = replace(model, model=options.proxy, model_revision=None), {"proxy_for": options.model}
    scorer = load_scorer(model, config_of_study(config))
    if options.tasks:
        logger.warning("what %s takes for each model is not foretold, and is no part of the time", options.tasks)
    options = replace(options, pool_rows=_planned_rows(options, scorer))
    results = Study(options, config, scorer, deadline).run()
    return replace(results, facts={**results.facts, **facts})


def _planned_rows(options: PilotArguments, scorer: DLCScorer) -> int:
    """Rows of the pool: those that are named, or were planned when the study was begun, or that there is time for."""
    path = Path(options.output_dir) / "plan.json"
    if path.is_file():
        planned = int(json.loads(path.read_text(encoding="utf-8"))["pool_rows"])
        if options.pool_rows in (None, planned):
            return planned
    rows, seconds = _plan(options, scorer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"pool_rows": rows, "foretold_seconds": seconds, "minutes": options.minutes})
    logger.info("a pool of %d rows is studied, which takes about %s", rows, duration(seconds))
    return rows


def _plan(options: PilotArguments, scorer: DLCScorer) -> tuple[int, float]:
    """The largest pool for which there is time, or the one that is named, and the seconds that are foretold."""
    rows = read_rows(options, scorer, most_rows=_POOLS[0])
    speeds = measure_speeds(options, scorer, scorer.tokenize(rows.pool.select(range(min(_PROBED, len(rows.pool))))))
    judged = len(rows.test) + sum(len(read_question(row)[1]) for row in rows.questions or [])
    if options.pool_rows is not None:
        foretold = foretell(options, speeds, len(rows.pool), judged)
        if foretold > 60 * options.minutes:
            logger.warning("a pool of %d rows takes longer than %g minutes", len(rows.pool), options.minutes)
        return options.pool_rows, foretold
    pools = [count for count in _POOLS if count < len(rows.pool)]
    foretold = 0.0
    for count in [*([len(rows.pool)] if len(rows.pool) <= _POOLS[0] else []), *pools]:
        foretold = foretell(options, speeds, count, judged)
        if foretold <= _SHARE * 60 * options.minutes:
            return count, foretold
    raise ValueError(
        f"a study of the smallest sample takes about {duration(foretold / _SHARE)}, got {options.minutes:g} minutes. "
        "Pass more --minutes, fewer --arms, or a smaller model as --proxy."
    )


def measure_speeds(options: StudyArguments, scorer: DLCScorer, rows: Dataset) -> Speeds:
    """
    Measure by a few rows what a row takes.

    Args:
        options ([`StudyArguments`]):
            How models are trained.
        scorer ([`~hf_dlc.DLCScorer`]):
            Holds the model.
        rows ([`~datasets.Dataset`]):
            What `scorer.tokenize` returned.

    Returns:
        [`Speeds`]
    """
    trainee, tokens = Trainee(scorer.model, options, rows), States.of(rows)
    reading, states = _timed(lambda: tokens.below(trainee.upper, trainee.model))
    numbers = range(len(rows))
    trainee.train(states, numbers[: options.batch_size], seed=0).unload()  # it warms up
    training, trained = _timed(lambda: trainee.train(states, numbers, seed=0))
    judging, _ = _timed(lambda: trainee.losses(trained, states))
    trained.unload()
    training /= options.epochs
    # What is read here are the lower layers alone; of the upper ones and the head it is known what judging takes.
    return Speeds(*((seconds / len(rows)) for seconds in (reading + judging, training, judging)))


def _timed(act: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = act()
    return time.perf_counter() - start, found


def foretell(options: StudyArguments, speeds: Speeds, pool_rows: int, judged_rows: int) -> float:
    """
    Foretell the seconds of a study.

    Args:
        options ([`StudyArguments`]):
            Arms, budgets and seeds.
        speeds ([`Speeds`]):
            What a row takes.
        pool_rows (`int`):
            Rows to choose from.
        judged_rows (`int`):
            Rows to measure by, with the choices of questions.

    Returns:
        `float`: Seconds, with the least number of seeds that tells something.
    """
    arms = options.finalists or options.arms or list(options.kind.arms)
    finalists = options.finalists or [*arms[: options.num_finalists], *({ORACLE} & {*arms})]
    screening = [] if options.finalists else options.screening_cells(arms)
    cells = [*screening, *options.confirming_cells(finalists, _LEAST_SEEDS)]
    largest = max(options.budgets)  # which all cells of equal updates take as many steps as
    epochs = options.epochs * sum(largest if cell.matching == "updates" else cell.budget for cell in cells)
    read = pool_rows * (1 + _passes(arms)) + judged_rows
    return read * speeds.reading + pool_rows * epochs * speeds.training + len(cells) * judged_rows * speeds.judging


def _passes(arms: Sequence[str]) -> int:
    """Passes through the model that some arms need, those that they share counted once."""
    needs = set().union(*(parse_arm(arm).needs for arm in arms))
    scores = {need.removeprefix("score ") for need in needs if need.startswith("score ")}
    passes = {SCORES[name].passes(ANY_SCHEDULE) for name in scores}
    return sum(map(len, passes)) + 2 * sum(need.startswith("features") for need in needs)
