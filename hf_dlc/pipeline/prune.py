"""
A run from a dataset to a folder with its scores and a subset, in one process or in many.

Every process calls [`prune`] or [`score`]; the main process writes. A run that was stopped goes on where it stopped
when it is called again, also with another number of processes.
"""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from accelerate import PartialState
from datasets import Dataset

from hf_dlc.config import DLCConfig
from hf_dlc.errors import DLCError
from hf_dlc.execution.estimate import RunEstimate
from hf_dlc.execution.journal import Journal, JournalError
from hf_dlc.execution.peers import Peers, watch_peers
from hf_dlc.execution.processes import PeerError, cpu_threads, on_main_process, process_state, using_threads
from hf_dlc.execution.skipped import count_skipped, in_words
from hf_dlc.scorer.fingerprint import known_identity
from hf_dlc.scorer.job import FEATURES_NAME, training_cost
from hf_dlc.scorer.scorer import DLCScorer
from hf_dlc.selection.base import Selector
from hf_dlc.selection.ordering import drawn_order
from hf_dlc.selection.targeted import TargetedSelector
from hf_dlc.utils.files import require_writable

from .checks import check_columns, check_options, check_selection
from .choosing import choose_selector, log_choice
from .command_line import command_line
from .finished import files_digest, finished_scoring
from .folder import JOURNAL_NAME, MANIFEST_NAME, SCORING_NAME, select_rows, write_scores, write_scoring, write_subset
from .options import PruneArguments, ScoreArguments, load_scorer, make_selector
from .outcome import outcome
from .record import SCORED_IN_PARTS, DatasetRecord, RunRecord, UsageRecord
from .selecting import goes_by_features, prepare_selection, read_target, with_features
from .sources import dataset_identity, read_dataset


logger = logging.getLogger(__name__)

# Training is measured after runs that took as long as this, on so many rows: it takes some seconds itself.
LEAST_SECONDS = 30.0
_TRAINING_ROWS = 96


def prune(options: PruneArguments, config: DLCConfig, program: Sequence[str]) -> str | None:
    """
    Score a dataset, keep a part of it, and write both.

    Args:
        options (`PruneArguments`):
            Dataset, model, selection and output folder.
        config ([`DLCConfig`]):
            Options of the scorer.
        program (`Sequence[str]`):
            First words of the command that does it again, for the record.

    Returns:
        `str`: What came of it, on the main process; `None` on the others.

    Raises:
        OSError, ValueError, MemoryError, JournalError, PeerError: With what is wrong and what to do.
    """
    run, scored, record = score_in_folder(options, config, program)
    if record is None:  # not the main process
        return None
    with run.writing():
        rows, selector = run.prepare_selection(scored)
        pruned, report, record = select_rows(rows, selector, record, options.flag_column)
        write_subset(run.folder, pruned, report, record, options.html_report)
    return outcome(report, run.folder, record.selection, options.verbose)


def score(options: ScoreArguments, config: DLCConfig, program: Sequence[str]) -> RunRecord | None:
    """
    Score a dataset and write the scores, from which any number of subsets can be selected.

    Args:
        options (`ScoreArguments`):
            Dataset, model and output folder.
        config ([`DLCConfig`]):
            Options of the scorer.
        program (`Sequence[str]`):
            First words of the command that does it again, for the record.

    Returns:
        [`RunRecord`]: The record of the run, on the main process; `None` on the others. Where the folder holds the
        same scores already, nothing is computed.

    Raises:
        OSError, ValueError, MemoryError, JournalError, PeerError: With what is wrong and what to do.
    """
    state = process_state()
    with watch_peers(state) as peers:
        record = on_main_process(partial(finished_scoring, options, config), state, peers)
    if record is not None:
        return record if state.is_main_process else None
    _, scored, record = score_in_folder(options, config, program)
    if record is None:  # not the main process
        return None
    counts = count_skipped(scored[f"{config.prefix}_status"][:])
    if sum(counts.values()) == len(scored):  # rows that could be read may still all get NaN from the model
        raise DLCError(f"none of the {len(scored)} rows has a score: {in_words(counts, {})}. Try another model.")
    return record


def score_in_folder(
    options: ScoreArguments, config: DLCConfig, program: Sequence[str]
) -> tuple[Run, Dataset, RunRecord | None]:
    """
    Load, estimate, calibrate, score, and write the scores.

    Args:
        options (`ScoreArguments`):
            Dataset, model and output folder. Where they say what to select, that is tried before the hours of scoring.
        config ([`DLCConfig`]):
            Options of the scorer.
        program (`Sequence[str]`):
            First words of the command that does it again, for the record.

    Returns:
        `tuple[Run, Dataset, RunRecord]`: The run, the rows with their scores and, on the main process, the record.
    """
    with open_run(options, config, program) as run:
        dataset, scorer = run.load()
        estimate = scorer.estimate(dataset, num_threads=options.num_threads, run_dir=run.journal)
        run.check(dataset, estimate)
        run.calibrate(scorer)
        scored = scorer.score(dataset, run.journal, options.num_threads, options.chunk_seconds)
        record = run.record(scorer, estimate)
    if record is not None:
        with run.writing():
            write_scores(run.folder, scored, record)  # before rows are selected: the time went into the scores
            record = run.with_training(record, scorer, dataset, estimate)
    return run, scored, record


# ---- the steps ---------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """
    A run in one of its processes, as [`open_run`] yields it.

    Args:
        options (`ScoreArguments`):
            Options of the run.
        config ([`DLCConfig`]):
            Options of the scorer as the user gave them: the scorer itself keeps the levels for the report.
        program (`Sequence[str]`):
            First words of the command that does it again, for the record.
        state ([`~accelerate.PartialState`]):
            State of this process.
        peers ([`Peers`], *optional*):
            The other processes.
    """

    options: ScoreArguments
    config: DLCConfig
    program: Sequence[str]
    state: PartialState
    peers: Peers | None = None
    source: DatasetRecord | None = field(default=None, init=False)  # identity of the rows, on the main process
    files: str | None = field(default=None, init=False)  # digest of the files of a local model
    resumed: bool = field(default=False, init=False)
    calibration_seconds: float = field(default=0.0, init=False)
    calibrated_at: float = field(default=0.0, init=False)
    scorer: DLCScorer | None = field(default=None, init=False)
    target: Dataset | None = field(default=None, init=False)  # the wanted rows
    selector_reason: str | None = field(default=None, init=False)  # why it was chosen, if the options left it open

    @property
    def folder(self) -> Path:
        """Output folder of the run."""
        return Path(self.options.output_dir)

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, the one that writes."""
        return self.state.is_main_process

    @property
    def journal(self) -> Path:
        """Folder of the journal: what `scorer.score` takes as `run_dir`."""
        return self.folder / JOURNAL_NAME

    def load(self) -> tuple[Dataset, DLCScorer]:
        """
        Read the rows and load the model, once all that can be refused without it has been.

        Where images are scored by class prototypes or by neighbours, these are learned from the rows.

        Returns:
            `tuple[Dataset, DLCScorer]`: The rows, and the scorer, ready to score them.
        """
        with self._local_main_first():  # one download a machine: the other processes read the cache
            dataset = read_dataset(self.options)
            self._check_early(dataset)
            self.files = files_digest(self.options, self.config)  # as they are before they are read
            scorer = load_scorer(self.options, self.config)
        if self.is_main:
            self.source = dataset_identity(self.options, dataset)  # of the file as it is now
        processes = f"{self.state.num_processes} process(es)"
        logger.info("%d rows; %s in %s on %s", len(dataset), self.options.model, scorer.model.dtype, processes)
        if scorer.needs_fit:
            logger.info("learning from all rows what the scores need (fit)")
            scorer.fit(dataset, self.options.num_threads)
        self.scorer = scorer
        return dataset, scorer

    @contextmanager
    def _local_main_first(self) -> Iterator[None]:
        """Let one process of each machine download and prepare first; the others then read the cache."""
        wait = self.state.wait_for_everyone if self.peers is None else self.peers.meet  # who waits hears of failures
        if not self.state.is_local_main_process:
            wait()
        yield
        if self.state.is_local_main_process:
            wait()

    def _check_early(self, dataset: Dataset) -> None:
        """Refuse columns, options, a folder and a journal that do not go with each other."""
        check_columns(dataset, self.config)
        if isinstance(self.options, PruneArguments):
            check_options(self.options, self.config, dataset)
        if self.is_main and self.journal.is_dir():
            journal = Journal(self.journal)
            with journal.hold():  # it can be written, and nobody else does
                journal.check(known_identity(self.config, len(dataset)))
        elif self.is_main:
            require_writable(self.folder)  # nothing is made before it can be filled

    def check(self, dataset: Dataset, estimate: RunEstimate) -> None:
        """
        Log the estimate, refuse now what would fail after hours of scoring, and make the features of wanted rows.

        Args:
            dataset ([`~datasets.Dataset`]):
                The rows.
            estimate ([`RunEstimate`]):
                Estimate of their scoring.

        Raises:
            ValueError: If no row can be scored, or if the rows cannot be selected as the options say.
        """
        if self.peers is not None:
            self.peers.meet()  # the main process alone has read the journal, and may have had nothing to time
        logger.info("estimate: %s", estimate)
        estimate.require_rows()
        if isinstance(self.options, PruneArguments):
            self._choose_selector(estimate)
            check_selection(self.options, self.config, dataset, estimate)
            with_features = goes_by_features(self.options, self.config)
            self.target = read_target(self.options, self.config, with_features, lambda: self.scorer)
            selector = make_selector(self.options, self.config.prefix, self.target, self.config.scores)
            if isinstance(selector, TargetedSelector):
                selector.check_wanted(dataset)

    def _choose_selector(self, estimate: RunEstimate) -> None:
        """Name the selector in the options, which may leave it open, and say why it is this one."""
        scores = {name: estimate.scored.get(name, estimate.rows) for name in self.config.scores}
        # There will be features where the selector goes by them: `open_run` has seen to that.
        self.options, self.selector_reason = choose_selector(self.options, scores, True, self.config.prefix)
        log_choice(self.options, self.selector_reason)

    def calibrate(self, scorer: DLCScorer) -> None:
        """Settle the masked fractions on the main process, unless a journal is there that has them."""
        self.resumed = on_main_process(Journal(self.journal).exists, self.state, self.peers)
        start = time.perf_counter()
        if not self.resumed:
            schedule = on_main_process(scorer.calibrate, self.state, self.peers)
            logger.info("masked fractions: %s", ", ".join(f"{fraction:g}" for fraction in schedule))
        self.calibrated_at = time.perf_counter()
        self.calibration_seconds = self.calibrated_at - start

    def prepare_selection(self, scored: Dataset) -> tuple[Dataset, Selector]:
        """
        Make rows and selector ready for each other, by [`~selecting.prepare_selection`].

        Args:
            scored ([`~datasets.Dataset`]):
                The rows with their scores.

        Returns:
            `tuple[Dataset, Selector]`
        """
        return prepare_selection(scored, self.options, self.config, self.target)

    def record(self, scorer: DLCScorer, estimate: RunEstimate) -> RunRecord | None:
        """
        Describe the run, right after the scoring.

        Args:
            scorer ([`DLCScorer`]):
                The scorer.
            estimate ([`RunEstimate`]):
                Estimate of the run.

        Returns:
            [`RunRecord`]: The record, on the main process; `None` on the others.
        """
        if self.source is None:
            return None
        threads = scorer.parts.engine.known_threads(self.options.num_threads)
        usage = self._usage(estimate, len(scorer.schedule_), threads)
        return RunRecord.of(
            scorer,
            self.source,
            options=asdict(self.options),
            selector_reason=self.selector_reason,
            keep_levels=self.config.keep_levels,
            model_files=self.files,
            reading=scorer.reading_ and asdict(scorer.reading_),
            commands=[self._command_again(scorer, self.source)],
        ).having(run=usage)

    def with_training(
        self, record: RunRecord, scorer: DLCScorer, dataset: Dataset, estimate: RunEstimate
    ) -> RunRecord:
        """
        Measure what one epoch of training would have cost, on some of the rows, and write it into the record.

        It comes last, when the scores are safe and the memory of the run is known: training takes more of it.

        Args:
            record ([`RunRecord`]):
                Record of the scoring.
            scorer ([`DLCScorer`]):
                The scorer.
            dataset ([`~datasets.Dataset`]):
                The rows.
            estimate ([`RunEstimate`]):
                Estimate of the run, which knows the tokens of all rows.

        Returns:
            [`RunRecord`]: The record; the same if a run was so short that this would take longer, or unless asked for.
            Of a run that was stopped and went on, it says only why the price is not known.
        """
        is_short = not self.resumed and record.run.scoring_seconds < LEAST_SECONDS
        if not self.options.measure_training or is_short:
            return record
        if self.resumed:
            logger.info("what scoring has cost beside training is not known: %s", SCORED_IN_PARTS)
            run = record.run.having(training_unknown=SCORED_IN_PARTS)
        else:
            run = self._with_epoch(record.run, scorer, dataset, estimate)
        record = record.having(run=run)
        write_scoring(self.folder, record)
        return record

    def _with_epoch(self, run: UsageRecord, scorer: DLCScorer, dataset: Dataset, estimate: RunEstimate) -> UsageRecord:
        """The same with the seconds of an epoch of training, measured on a sample, or with why they are not known."""
        rows = drawn_order(len(dataset), 0, None)[:_TRAINING_ROWS]
        sample, parts = dataset.select(sorted(rows.tolist())), scorer.parts
        with parts.lock, using_threads(parts.engine.known_threads(self.options.num_threads)):
            cost, tokens = training_cost(sample, parts.rows, parts.engine)
        seconds = cost.seconds
        if seconds is None:
            logger.warning("what an epoch of training costs is not known: %s", cost.why_unknown)
        else:
            seconds *= estimate.tokens / tokens
        run = run.having(training_seconds=seconds, training_unknown=cost.why_unknown)
        if run.price:
            logger.info("%s", run.price)
        return run

    def _usage(self, estimate: RunEstimate, levels: int, threads: int) -> UsageRecord:
        """Time, memory and processes of the run until now; the memory is that of the main process."""
        seconds, tokens = time.perf_counter() - self.calibrated_at, estimate.tokens * levels
        unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB elsewhere
        return UsageRecord(
            resumed=self.resumed,
            calibration_seconds=self.calibration_seconds,
            scoring_seconds=seconds,
            tokens_per_second=None if self.resumed else tokens / seconds,  # only a part of them was computed now
            processes=self.state.num_processes,
            threads=threads,
            tokens=estimate.tokens,
            target_tokens=estimate.target_tokens,
            finished=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        )

    def _command_again(self, scorer: DLCScorer, source: DatasetRecord) -> list[str]:
        """The command that does the same again: with the commits and the type of numbers that the run has found."""
        found = {} if source.is_local else {"dataset_revision": source.revision}
        if not scorer.is_local:
            commit = getattr(scorer.model.config, "_commit_hash", None)
            found["model_revision"] = commit or self.options.model_revision
        config = replace(self.config, dtype=str(scorer.model.dtype).removeprefix("torch."))
        return command_line(self.program, replace(self.options, **found), config)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Say what to do when the results cannot be written."""
        try:
            yield
        except OSError as error:
            raise OSError(
                f"the results cannot be written into {self.folder}: {error}. When that is solved, run the same "
                "command again: the scores are in the journal."
            ) from error


@contextmanager
def open_run(options: ScoreArguments, config: DLCConfig, program: Sequence[str]) -> Iterator[Run]:
    """
    Begin a run in its output folder, or go on with one that was stopped there.

    Within it the processes watch each other, so that none waits for one that has failed.

    Args:
        options (`ScoreArguments`):
            Options of the run. With `overwrite`, finished results in the output folder are replaced.
        config ([`DLCConfig`]):
            Options of the scorer.
        program (`Sequence[str]`):
            First words of the command that does it again, for the record.

    Yields:
        [`Run`]

    Raises:
        FileExistsError: If the folder holds a subset and `overwrite` is not set.
        PeerError: If another process has failed or is gone.
    """
    state = process_state()
    torch.set_num_threads(cpu_threads(options.num_threads))
    with watch_peers(state) as peers:
        _make_room(Path(options.output_dir), options.overwrite, state)
        if isinstance(options, PruneArguments):
            config = with_features(options, config)
        folder = Path(options.output_dir)
        is_new = not folder.exists()
        try:
            yield Run(options, config, program, state, peers)
        except (JournalError, PeerError):  # a full disk, or a process that is gone: what is there is of use again
            raise
        except (DLCError, TypeError, ValueError):  # refused, and not killed or interrupted, after which it goes on
            if state.is_main_process:
                Journal(folder / JOURNAL_NAME).leave_nothing()
                with suppress(OSError):  # it holds something, or was never made
                    if is_new:
                        folder.rmdir()
            raise


def _make_room(folder: Path, overwrite: bool, state: PartialState) -> None:
    """Refuse to mix with the results of a finished run, or, with `overwrite`, remove them."""
    results = [folder / name for name in (SCORING_NAME, MANIFEST_NAME) if (folder / name).exists()]
    state.wait_for_everyone()  # all have looked before the main process removes what they look for
    if folder / MANIFEST_NAME in results and not overwrite:
        raise FileExistsError(f"{folder} holds the results of another run. Pass --overwrite, or another --output-dir.")
    if overwrite and results and state.is_main_process:
        journal = Journal(folder / JOURNAL_NAME)
        with journal.hold():
            journal.discard()
            for path in [*results, folder / JOURNAL_NAME / FEATURES_NAME, folder / FEATURES_NAME]:
                path.unlink(missing_ok=True)
