"""
A run from a dataset to a folder with its scores and a subset, in one process or in many.

Every process calls [`prune`] or [`score`]; the main process writes. A run that was stopped, by whatever, goes on where
it stopped when it is called again, also with another number of processes.
"""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from accelerate import PartialState
from datasets import Dataset

from hf_dlc.config import DLCConfig
from hf_dlc.errors import DLCError
from hf_dlc.execution.estimate import RunEstimate
from hf_dlc.execution.journal import Journal
from hf_dlc.execution.peers import Peers, watch_peers
from hf_dlc.execution.processes import cpu_threads, on_main_process, process_state
from hf_dlc.execution.skipped import count_skipped, in_words
from hf_dlc.report.report import check_group_and_flag_columns
from hf_dlc.scorer.scorer import DLCScorer
from hf_dlc.scores.columns import score_features
from hf_dlc.selection.base import read_numbers

from .command_line import command_line
from .folder import MANIFEST_NAME, SCORING_NAME, write_scoring, write_subset
from .options import PruneArguments, ScoreArguments, SelectionArguments, load_scorer, make_selector
from .record import describe_scoring
from .sources import dataset_identity, read_dataset


logger = logging.getLogger(__name__)


def prune(options: PruneArguments, config: DLCConfig, program: Sequence[str]) -> str | None:
    """
    Load, estimate, calibrate, score, select and write.

    Args:
        options (`PruneArguments`):
            What to do.
        config ([`DLCConfig`]):
            How to score.
        program (`Sequence[str]`):
            What the command that does it begins with, for the manifest.

    Returns:
        `str`: The summary, on the main process; `None` on the others.

    Raises:
        OSError, ValueError, MemoryError, JournalError, PeerError: With what is wrong and what to do.
    """
    run = _Run(options, config, program)
    scored, scoring = run.score(lambda dataset, estimate: check_selection(options, config, dataset, estimate))
    if not run.state.is_main_process:
        return None
    with run.writing():
        write_scoring(run.output, scored, scoring)  # first of all: they are what the time went into
        selector = make_selector(options, config.prefix)
        _, summary = write_subset(run.output, scored, selector, scoring, options)
    return summary


def score(options: ScoreArguments, config: DLCConfig, program: Sequence[str]) -> dict[str, Any] | None:
    """
    Load, estimate, calibrate, score and write the scores, from which any number of subsets can be selected.

    Args:
        options (`ScoreArguments`):
            What to do.
        config ([`DLCConfig`]):
            How to score.
        program (`Sequence[str]`):
            What the command that does it begins with, for the manifest.

    Returns:
        `dict`: What [`describe_scoring`] returned, on the main process; `None` on the others.

    Raises:
        OSError, ValueError, MemoryError, JournalError, PeerError: With what is wrong and what to do.
    """
    run = _Run(options, config, program)
    scored, scoring = run.score()
    if not run.state.is_main_process:
        return None
    with run.writing():
        write_scoring(run.output, scored, scoring)
    _require_scores(scored, config)
    return scoring


def _require_scores(scored: Dataset, config: DLCConfig) -> None:
    """Rows that could be read may still all get NaN from the model."""
    counts = count_skipped(scored[f"{config.prefix}_status"][:])
    if sum(counts.values()) == len(scored):
        raise DLCError(f"none of the {len(scored)} rows has a score: {in_words(counts, {})}. Try another model.")


def check_selection(options: SelectionArguments, config: DLCConfig, dataset: Dataset, estimate: RunEstimate) -> None:
    """Refuse now what the selection would refuse after hours of scoring: it is tried on scores that are all alike."""
    known = [*dataset.column_names, *score_features(config.prefix)]
    if options.column is not None and options.column not in known:
        raise ValueError(f"column must be one of {', '.join(known)}, got {options.column!r}.")
    if options.column in dataset.column_names:
        read_numbers(dataset, options.column, "column=")
    check_group_and_flag_columns(dataset, options.group_by, options.flag_column)
    if options.keep_tokens is not None and options.keep_tokens > estimate.target_tokens:
        raise ValueError(
            f"keep_tokens must be at most {estimate.target_tokens}, all there are, got {options.keep_tokens}."
        )
    scores, tokens = np.zeros(len(dataset)), np.full(len(dataset), options.keep_tokens or 1)
    groups = dataset[options.group_by][:] if options.group_by else None
    sizes = Counter(groups)
    largest_first = sorted(range(len(dataset)), key=lambda row: -sizes[groups[row]] if groups else 0)
    scores[largest_first[: sum(estimate.skipped.values())]] = np.nan
    make_selector(options, config.prefix).get_indices(scores, groups, tokens)


class _Run:
    """One run in one of its processes."""

    def __init__(self, options: ScoreArguments, config: DLCConfig, program: Sequence[str]) -> None:
        self.options, self.config = options, config
        self.program = program
        self.output = Path(options.output_dir)
        self.state = process_state()
        torch.set_num_threads(cpu_threads(options.num_threads))

    def score(self, check: Callable[[Dataset, RunEstimate], None] | None = None) -> tuple[Dataset, dict[str, Any]]:
        """The dataset with its scores, and, for the main process, how they came about."""
        with watch_peers(self.state) as peers:
            self._make_room()
            dataset, scorer, estimate = self._prepare(peers)
            is_main = self.state.is_main_process
            identity = dataset_identity(self.options, dataset) if is_main else {}  # as it is when it is read
            if check is not None:
                check(dataset, estimate)
            scored, taken = self._score(dataset, scorer, estimate, peers)
            # The scorer keeps the levels for the report; whether they go into the subset is the user's choice.
            facts = {"options": asdict(self.options), "keep_levels": self.config.keep_levels, "run": taken}
            facts["reading"] = scorer.reading_ and asdict(scorer.reading_)
            if is_main:
                facts["commands"] = [self._command(scorer, identity)]
            scoring = describe_scoring(scorer, identity, **facts) if is_main else {}
        return scored, scoring

    def _command(self, scorer: DLCScorer, dataset: dict[str, Any]) -> list[str]:
        """The command that does the same again: with the commits and the type of numbers that this run has found."""
        found = {} if dataset["is_local"] else {"dataset_revision": dataset["revision"]}
        if not scorer.is_local:
            found["model_revision"] = getattr(scorer.model.config, "_commit_hash", None) or self.options.model_revision
        config = replace(self.config, dtype=str(scorer.model.dtype).removeprefix("torch."))
        return command_line(self.program, replace(self.options, **found), config)

    def _make_room(self) -> None:
        """Refuse to mix with the results of a finished run, or, with `overwrite`, begin anew."""
        has_scores, has_subset = ((self.output / name).exists() for name in (SCORING_NAME, MANIFEST_NAME))
        self.state.wait_for_everyone()  # all have looked before the main process removes what they look for
        if has_subset and not self.options.overwrite:
            raise FileExistsError(
                f"{self.output} holds the results of another run. Pass --overwrite, or another --output_dir."
            )
        if self.options.overwrite and (has_scores or has_subset) and self.state.is_main_process:
            journal = Journal(self.output / "journal")
            with journal.hold():
                journal.discard()
                for name in (SCORING_NAME, MANIFEST_NAME):
                    (self.output / name).unlink(missing_ok=True)

    def _prepare(self, peers: Peers | None) -> tuple[Dataset, DLCScorer, RunEstimate]:
        """Load the dataset and the model, and find out what the run will cost and whether it can end well."""
        options, state = self.options, self.state
        with local_main_process_first(state, peers):  # one download, one preparation; the others read the cache
            dataset = read_dataset(options)
            scorer = load_scorer(options, self.config)
        logger.info(
            "%d rows; %s in %s on %d process(es)",
            len(dataset),
            options.model,
            scorer.model.dtype,
            state.num_processes,
        )
        if scorer.needs_fit:
            logger.info("fitting class prototypes")
            scorer.fit(dataset, options.num_threads)
        estimate = scorer.estimate(dataset, num_threads=options.num_threads)
        logger.info("estimate: %s", estimate)
        estimate.require_rows()
        return dataset, scorer, estimate

    def _score(
        self, dataset: Dataset, scorer: DLCScorer, estimate: RunEstimate, peers: Peers | None
    ) -> tuple[Dataset, dict[str, Any]]:
        """Calibrate and score, with the journal in the output folder; the second value is what the run took."""
        run_dir, options = self.output / "journal", self.options
        # A journal that is there has the schedule in it.
        resumed = on_main_process(Journal(run_dir).exists, self.state, peers)
        start = time.perf_counter()
        if not resumed:
            schedule = on_main_process(scorer.calibrate, self.state, peers)
            logger.info("masked fractions: %s", ", ".join(f"{fraction:g}" for fraction in schedule))
        calibrated = time.perf_counter()
        scored = scorer.score(dataset, run_dir, options.num_threads, options.chunk_seconds)
        seconds = time.perf_counter() - calibrated
        times = {"resumed": resumed, "calibration_seconds": calibrated - start, "scoring_seconds": seconds}
        tokens = estimate.tokens * len(scorer.schedule_)
        times["tokens_per_second"] = None if resumed else tokens / seconds  # only a part of them was computed now
        return scored, {**times, **usage(estimate, self.state)}

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Say what to do when the results cannot be written."""
        try:
            yield
        except OSError as error:
            raise OSError(
                f"the results cannot be written into {self.output}: {error}. When that is solved, run the same "
                "command again: the scores are in the journal."
            ) from error


@contextmanager
def local_main_process_first(state: PartialState, peers: Peers | None) -> Iterator[None]:
    """As that of [`~accelerate.PartialState`], but who waits for a process that has failed is told so."""
    wait = state.wait_for_everyone if peers is None else peers.meet
    if not state.is_local_main_process:
        wait()
    yield
    if state.is_local_main_process:
        wait()


def usage(estimate: RunEstimate, state: PartialState) -> dict[str, Any]:
    """What the run took, memory for the main process alone."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB elsewhere
    return {
        "processes": state.num_processes,
        "threads": torch.get_num_threads(),
        "tokens": estimate.tokens,
        "target_tokens": estimate.target_tokens,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    }
