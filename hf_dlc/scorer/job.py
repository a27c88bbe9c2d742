"""Runs of a scorer: of a batch of `map`, or of a dataset, which is begun or resumed, settled, planned and sharded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from accelerate import PartialState
from datasets import Dataset, DatasetDict

from hf_dlc.execution.encoded_files import EncodedFiles
from hf_dlc.execution.estimate import PlannedPass, RunEstimate, estimate_run
from hf_dlc.execution.journal import Journal, JournalError
from hf_dlc.execution.loop import Reporter
from hf_dlc.execution.peers import Peers, watch_peers
from hf_dlc.execution.plan import MicroBatch
from hf_dlc.execution.processes import check_same, cpu_threads, on_main_process, process_state, using_threads
from hf_dlc.execution.sharded import run_sharded
from hf_dlc.execution.training import TrainingCost, measure_training
from hf_dlc.execution.values import Values
from hf_dlc.scores.base import Asked, Pass, passes_to_json
from hf_dlc.tasks.base import BatchRules, EncodedRow, RowsInView, Share
from hf_dlc.tasks.facts import facts_of
from hf_dlc.utils.digests import json_digest
from hf_dlc.utils.files import write_vectors
from hf_dlc.utils.versions import versions

from .engine import Engine, all_facts, most_parts
from .fingerprint import ScorerState, calibration_key, description, identity
from .rows import FEATURES, MeasuredRows, RowSource, count_scored, require_dataset, share_of
from .rowwise import RowByRow
from .schedule import Schedule


FEATURES_NAME = "features.npy"  # beside the journal, with a vector of each row


def score_rows(
    rows: Mapping[str, Any],
    source: RowSource,
    engine: Engine,
    row_by_row: RowByRow,
    schedule: Schedule,
    settle: Callable[[], Sequence[float]],
) -> tuple[MeasuredRows, bool]:
    """
    Score a row or a batch, as a small run of its own.

    Args:
        rows (`Mapping[str, Any]`):
            What `map` hands over.
        source ([`RowSource`]):
            What encodes them.
        engine ([`Engine`]):
            What scores a batch.
        row_by_row ([`RowByRow`]):
            What scores a row.
        schedule ([`Schedule`]):
            The levels, which need not be known if there is nothing to score.
        settle (`Callable`):
            Returns the masked fraction of each level, calibrated if they have to be.

    Returns:
        `tuple[MeasuredRows, bool]`: The rows and what was measured of them, and whether they were a batch.
    """
    encoded, is_batch = source.from_map(rows)
    views = engine.views(encoded)
    engine.check(all_facts(views).longest)
    plan = engine.plan(views)
    is_empty = not any(plan.values())
    run = engine.run if is_batch or is_empty else row_by_row.run
    fractions = schedule.fractions if is_empty else settle()
    if not is_empty:
        schedule.tell_scores_without_value()
    passes = engine.passes(fractions)
    values = run(views, [plan[one.view] for one in passes], passes)
    _mark_skipped(values, encoded)
    return MeasuredRows(encoded, views, passes, values, fractions), is_batch


def score_dataset(
    dataset: Dataset,
    source: RowSource,
    engine: Engine,
    schedule: Schedule,
    state_of: Callable[[Sequence[EncodedRow]], ScorerState],
    check_fit: Callable[[], None],
    run_dir: str | Path | None,
    chunk_seconds: float,
    num_threads: int | None = None,
) -> MeasuredRows:
    """
    Score a dataset, this process its share of the rows.

    Args:
        dataset ([`~datasets.Dataset`]):
            The rows.
        source ([`RowSource`]):
            What encodes them.
        engine ([`Engine`]):
            What scores them.
        schedule ([`Schedule`]):
            The levels.
        state_of (`Callable`):
            Returns what facts about a run over these rows are read from.
        check_fit (`Callable`):
            Raises `ValueError` if what was learned was learned with other weights.
        run_dir (`str` or `Path`, *optional*):
            Folder of the journal.
        chunk_seconds (`float`):
            Seconds of work between two writes to the journal.
        num_threads (`int`, *optional*):
            CPU threads of this process; by default all of its share, or one where that is found to be faster.

    Returns:
        [`MeasuredRows`]: All rows and what was measured of them.

    Raises:
        JournalError: If the journal is that of another run, is in use, or cannot be read or written.
        PeerError: If another process has failed or is gone.
    """
    state, journal = process_state(), Journal(run_dir) if run_dir else None
    with ExitStack() as stack:
        stack.enter_context(using_threads(cpu_threads(num_threads)))
        peers = stack.enter_context(watch_peers(state))
        check_fit()
        files = journal and source.files(dataset, journal.folder)
        if journal is not None:
            hold = partial(stack.enter_context, journal.hold())
            on_main_process(hold, state, peers, share=lambda _: None)
        share = share_of(state, peers, engine.tokens_per_batch)
        encoded = source.encode(dataset, share, folder=journal and journal.folder)
        if peers is not None:
            peers.meet()  # here an error of another one has its name
        views = engine.views(encoded)
        settle = partial(_settle, engine, schedule, views, choose_threads=num_threads is None)
        settings = _begin(settle, engine, schedule, state_of(encoded), journal, files, state, peers)
        if num_threads is None and settings.get("one_thread"):  # also on a day when more would be faster: same bits
            engine.settle_threads(1)
            stack.enter_context(using_threads(1))
        if state.is_main_process:
            schedule.tell_scores_without_value()
        values = _run(engine, schedule, views, settings, journal, state, peers, chunk_seconds)
        _mark_skipped(values, encoded)
        if journal is not None and FEATURES in values:
            keep = partial(write_vectors, journal.folder / FEATURES_NAME, values.pop(FEATURES)[0])
            on_main_process(keep, state, peers)
            values[FEATURES] = np.load(journal.folder / FEATURES_NAME, mmap_mode="r")[None]
        return MeasuredRows(encoded, views, engine.passes(schedule.fractions), values, schedule.fractions)


def _mark_skipped(values: Values, rows: Sequence[EncodedRow]) -> None:
    """Rows without a score have no features: NaN, not the zeros of what was not measured."""
    if FEATURES in values:
        values[FEATURES][0, np.flatnonzero(facts_of(rows).lengths == 0)] = np.nan


def estimate_datasets(
    dataset: Dataset | DatasetDict,
    source: RowSource,
    engine: Engine,
    schedule: Schedule,
    training: bool = False,
    journal: Journal | None = None,
    known: Callable[[int], Mapping[str, Any]] | None = None,
    num_threads: int | None = None,
) -> RunEstimate:
    """
    What it costs to score a dataset, or all splits of one; the rows are kept until they are scored.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.DatasetDict`]):
            The rows.
        source ([`RowSource`]):
            What encodes them, and keeps them.
        engine ([`Engine`]):
            What would score them.
        schedule ([`Schedule`]):
            The levels, which need not be known.
        training (`bool`, *optional*, defaults to `False`):
            Whether the cost of training on the same rows is measured as well.
        journal ([`Journal`], *optional*):
            Journal of the run, of which the work that it holds is left out.
        known (`Callable`, *optional*):
            With a journal: returns for a number of rows what of the identity of the run is known.
        num_threads (`int`, *optional*):
            As for [`score_dataset`].

    Returns:
        [`RunEstimate`]

    Raises:
        TypeError: If it is no `Dataset` or `DatasetDict`.
        JournalError: If the journal is that of another run, or in use.
    """
    datasets = list(dataset.values()) if isinstance(dataset, DatasetDict) else [dataset]
    for part in datasets:
        require_dataset(part)
    source.keep_only(datasets)
    if journal is not None:  # before rows are written into the folder of another run
        _check(journal, known(sum(map(len, datasets))))
    passes, processes = engine.passes(schedule.fractions), process_state().num_processes
    with using_threads(cpu_threads(num_threads)):
        share, folder = _whole_share(engine), journal and journal.folder
        encoded = reduce(add, [source.encode(part, share, keep=True, folder=folder) for part in datasets])
        views = engine.views(encoded)
        engine.check(all_facts(views).longest)
        left = None if journal is None else _shares_left(journal, views, passes)
        planned = _planned(engine, views, passes, left)
        threads = num_threads or engine.faster_threads(planned)
    with using_threads(threads), engine.masker.unmasked():
        found = estimate_run(engine.task, engine.masker, encoded, planned, processes, engine.limit)
        cost = measure_training(engine.task, encoded, processes) if training else TrainingCost()
    names = [score.name for score in engine.scores]
    partly, scored = count_scored(encoded, views, passes, schedule.fractions, names)
    return replace(
        found, training_seconds=cost.seconds, training_unknown=cost.why_unknown, partly=partly, scored=scored
    )


def _planned(
    engine: Engine,
    views: Mapping[str, RowsInView],
    passes: Mapping[Pass, Sequence[Asked]],
    left: Sequence[float] | None = None,
) -> list[PlannedPass]:
    """The passes of a run with the micro-batches of each, of which these shares are left to do."""
    plan = engine.plan(views)
    return [
        PlannedPass(views[one.view].rows, plan[one.view], passes[one], share)
        for one, share in zip(passes, left or [1.0] * len(passes), strict=True)
    ]


def _check(journal: Journal, known: Mapping[str, Any]) -> None:
    """Refuse the journal of another run, and one in use; one process does so, for the log."""
    if process_state().is_main_process and journal.exists():
        with journal.hold():
            journal.check(known)


def _shares_left(
    journal: Journal,
    views: Mapping[str, RowsInView],
    passes: Mapping[Pass, Sequence[Asked]],
) -> list[float]:
    """Share of the tokens of each pass that a journal does not hold yet; one process reads it, for the log."""
    if not process_state().is_main_process or not journal.exists():
        return [1.0] * len(passes)
    with journal.hold():
        present = journal.present(list(passes.values()), most_parts(views))
    shares = []
    for one, done in zip(passes, present, strict=True):
        lengths = facts_of(views[one.view].rows).lengths
        shares.append(float(lengths[~done[: len(lengths)]].sum() / max(1, lengths.sum())))
    return shares


def training_cost(dataset: Dataset, source: RowSource, engine: Engine) -> tuple[TrainingCost, int]:
    """
    What one epoch of LoRA training on a dataset costs.

    Args:
        dataset ([`~datasets.Dataset`]):
            The rows.
        source ([`RowSource`]):
            What encodes them.
        engine ([`Engine`]):
            What holds the model.

    Returns:
        `tuple[TrainingCost, int]`: The cost, and the tokens of the rows.
    """
    encoded = source.encode(dataset, _whole_share(engine))
    with engine.masker.unmasked():
        cost = measure_training(engine.task, encoded, process_state().num_processes)
    return cost, int(facts_of(encoded).lengths.sum())


def _whole_share(engine: Engine) -> Share:
    """All rows for this process: the others may not measure anything."""
    return Share(0, 1, engine.tokens_per_batch, lambda values: values)


def _run(
    engine: Engine,
    schedule: Schedule,
    views: Mapping[str, RowsInView],
    settings: dict[str, Any],
    journal: Journal | None,
    state: PartialState,
    peers: Peers | None,
    chunk_seconds: float,
) -> Values:
    """Do what was settled, or what is left of it."""
    if schedule.fixed is None and settings["schedule"]:
        schedule.calibrated = settings["schedule"]
    engine.use_rules(BatchRules.from_json(settings["batch_rules"]))
    plan = engine.cut_views(views, settings["tokens_per_batch"], settings["shared_heads"])
    passes = engine.passes(schedule.fractions)
    batches = [plan[one.view] for one in passes]

    def compute(work: Sequence[Sequence[MicroBatch]], reporter: Reporter) -> Values:
        return engine.run(views, work, passes, reporter, chunk_seconds)

    return run_sharded(compute, batches, list(passes.values()), most_parts(views), journal, state, peers)


def _begin(
    settle: Callable[[ScorerState], dict[str, Any]],
    engine: Engine,
    schedule: Schedule,
    scorer_state: ScorerState,
    journal: Journal | None,
    files: EncodedFiles | None,
    state: PartialState,
    peers: Peers | None,
) -> dict[str, Any]:
    """Make sure that all processes are about to do the run that the journal belongs to, and settle the rest."""
    settle = partial(settle, scorer_state)
    if journal is None and state.num_processes == 1:
        return settle()
    run_identity = identity(scorer_state)
    check_same({name: json_digest(value) for name, value in run_identity.items()}, state)
    if journal is None:
        return on_main_process(settle, state, peers)
    info = {"versions": versions(), **description(scorer_state)}

    def begin() -> tuple[dict[str, Any], str]:
        try:
            settings = journal.begin(run_identity, settle, info)
        except JournalError as error:
            known = journal.identity.get("rows")
            if files is None or not (changed := files.changed_rows(engine.task, known, scorer_state.rows)):
                raise
            raise JournalError(f"{error} {changed}") from error
        if files is not None:
            files.remove_others()  # not before: the run may be that of the others
        return settings, journal.run

    settings, run = on_main_process(begin, state, peers)
    journal.join(run)
    _check_settings(settings, engine, schedule.levels)
    return settings


def _settle(
    engine: Engine,
    schedule: Schedule,
    views: Mapping[str, RowsInView],
    scorer_state: ScorerState,
    choose_threads: bool,
) -> dict[str, Any]:
    """Find out what holds for the whole run: another device or number of threads might find otherwise."""
    facts, fractions = all_facts(views), ()
    engine.check(facts.longest)
    if facts.longest:  # else the model is left alone
        fractions = schedule.settle(partial(calibration_key, scorer_state), partial(description, scorer_state))
    passes = engine.passes(fractions)
    all_threads = torch.get_num_threads()
    one_thread = choose_threads and engine.faster_threads(_planned(engine, views, passes)) < all_threads
    return {
        "schedule": list(fractions),
        "passes": passes_to_json(passes),
        "tokens_per_batch": engine.tokens_per_batch,
        "shared_heads": engine.shared_heads(facts),
        "batch_rules": engine.task.rules.to_json(),
        "one_thread": one_thread,
    }


def _check_settings(settings: dict[str, Any], engine: Engine, levels: int) -> None:
    """What was settled may come back from a file that somebody has edited."""
    schedule, tokens, shared_heads = (settings.get(name) for name in ("schedule", "tokens_per_batch", "shared_heads"))
    try:
        is_sound = len(schedule) in (0, levels) and schedule == sorted(map(float, schedule))
        is_sound &= schedule[:1] in ([], [0]) and all(fraction < 1 for fraction in schedule)
        is_sound &= type(tokens) is int and tokens > 0
        is_sound &= all(type(index) is int and index in range(engine.task.num_shared_heads) for index in shared_heads)
        is_sound &= type(settings.get("one_thread", False)) is bool
        is_sound &= settings.get("passes") == passes_to_json(engine.passes(schedule))
        BatchRules.from_json(settings.get("batch_rules"))
    except (KeyError, TypeError, ValueError):
        is_sound = False
    if not is_sound:
        raise JournalError(
            "the settings in the journal.json must be a schedule of masked fractions, the passes that the scores ask "
            f"for, a positive tokens_per_batch, known shared_heads and batch_rules, got {str(settings)[:400]}. "
            "Restore that file, or delete the folder to start anew."
        )
