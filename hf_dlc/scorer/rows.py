"""Rows on their way in and out: which are taken, how they are kept once encoded, and the columns they come to."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from accelerate import PartialState
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, List, Value

from hf_dlc.execution.encoded_files import EncodedFiles
from hf_dlc.execution.peers import Peers
from hf_dlc.execution.processes import check_same, process_state, sum_over_processes
from hf_dlc.execution.skipped import count_partly, count_skipped, first_skipped, in_words
from hf_dlc.execution.values import Values, no_values
from hf_dlc.scores.base import Asked, Pass
from hf_dlc.scores.columns import TRUNCATED, build_columns, score_features, vector_features, with_columns
from hf_dlc.tasks.base import EncodedRow, RowsInView, Share, Storable, Task
from hf_dlc.tasks.facts import facts_of
from hf_dlc.utils.digests import json_digest, processor_digest
from hf_dlc.utils.versions import versions

from .engine import most_parts
from .model import ModelHandle


logger = logging.getLogger(__name__)

FEATURES = "features"  # among what is measured


class RowSource:
    """
    Encodes rows, and keeps those of a dataset for the next call: from `fit` and `estimate` to `score`.

    Args:
        task ([`Task`]):
            What encodes.
        handle ([`ModelHandle`]):
            What holds the processor with which rows are encoded.
    """

    def __init__(self, task: Task, handle: ModelHandle) -> None:
        self._task, self._handle = task, handle
        self._kept: dict[tuple[str, str], Sequence[EncodedRow]] = {}
        self._told_reasons: set[str] = set()  # why rows that came through `map` have no score

    def from_map(self, rows: Mapping[str, Any]) -> tuple[list[EncodedRow], bool]:
        """Encode a row or a batch as `map` hands them over; the second value is whether it was a batch."""
        self._kept.clear()  # nobody waits for it any more
        encoded, is_batch = self._task.encode_rows(rows)
        for row in encoded:
            if row.why and row.status not in self._told_reasons:
                self._told_reasons.add(row.status)
                logger.warning("a row has no score (%s), nor will others like it: %s", row.status, row.why)
        return encoded, is_batch

    def encode(
        self, dataset: Dataset, share: Share, keep: bool = False, folder: Path | None = None
    ) -> Sequence[EncodedRow]:
        """
        Encode a dataset, unless that was done for the call before.

        Args:
            dataset ([`~datasets.Dataset`]):
                The rows.
            share ([`Share`]):
                This process's part in the work.
            keep (`bool`, *optional*, defaults to `False`):
                Whether the rows are kept for the next call.
            folder (`Path`, *optional*):
                Folder of the journal, in which rows are written once for all processes and for a run that goes on.

        Returns:
            `Sequence[EncodedRow]`: All rows, in order.
        """
        key = self._key(dataset)
        encoded = self._kept.pop(key, None)
        known = np.array([encoded is not None], dtype=np.float32)
        if share.add_up(known).sum() < share.count:  # all processes read together, or none does
            files = None if folder is None else self.files(dataset, folder)
            if files is None:
                encoded = self._task.encode_dataset(dataset, share)
            else:
                state = process_state()  # not the share: an estimate is made by each process for itself
                encoded = files.encode(self._task, dataset, state.process_index, state.num_processes)
        if keep:
            self._kept[key] = encoded
        return encoded

    def files(self, dataset: Dataset, folder: Path) -> EncodedFiles | None:
        """The files of a dataset in the folder of a journal; `None` where its rows are not kept in files."""
        storable = self._task
        encoded_as = storable.encoded_as if isinstance(storable, Storable) else None
        if encoded_as is None:
            return None
        day = date.today().isoformat() if self._task.is_dated else None
        facts = [*self._key(dataset), len(dataset), encoded_as, day, versions()]
        return EncodedFiles(folder, json_digest(facts))

    def keep(self, dataset: Dataset, encoded: list[EncodedRow]) -> None:
        """Keep these rows, and no others."""
        self._kept = {self._key(dataset): encoded}

    def keep_only(self, datasets: Iterable[Dataset]) -> None:
        """Forget the rows of all other datasets."""
        asked = set(map(self._key, datasets))
        self._kept = {key: rows for key, rows in self._kept.items() if key in asked}

    def tokenize(self, dataset: Dataset) -> Dataset:
        """The rows that can be scored, as a trainer wants them."""
        encoded, columns = self._task.tokenize(dataset)
        report_skipped([row.status for row in encoded], encoded)
        features = Features({"input_ids": List(Value("int64")), "labels": List(Value("int64")), "row": Value("int64")})
        return Dataset.from_dict(columns, features=features)

    def _key(self, dataset: Dataset) -> tuple[str, str]:
        return dataset._fingerprint, processor_digest(self._handle.processor)


def share_of(state: PartialState, peers: Peers | None, tokens_per_batch: int) -> Share:
    """
    This process's part in what all processes encode.

    Args:
        state ([`~accelerate.PartialState`]):
            Which process this is.
        peers ([`Peers`], *optional*):
            What watches the other processes.
        tokens_per_batch (`int`):
            Tokens of the micro-batches that are dealt out to the processes in turn.

    Returns:
        [`Share`]: For `encode_dataset` and `encode_to_fit` of a task.
    """

    def add_up(values: np.ndarray) -> np.ndarray:
        if peers is not None:
            peers.meet()
        check_same({"number of rows": str(len(values))}, state)
        return sum_over_processes(values, state)

    return Share(state.process_index, state.num_processes, tokens_per_batch, add_up)


def require_dataset(dataset: Any, who: str = "score", wanted: str = "Dataset or DatasetDict") -> None:
    """
    Refuse what is no dataset, with what to do.

    Args:
        dataset (`Any`):
            What was passed.
        who (`str`, *optional*, defaults to `"score"`):
            Method that it was passed to, for the message.
        wanted (`str`, *optional*, defaults to `"Dataset or DatasetDict"`):
            Classes of `datasets` that the method takes, for the message.

    Raises:
        TypeError: If `dataset` is no `Dataset`.
    """
    if isinstance(dataset, Dataset):
        return
    advice = "Make one with Dataset.from_list, Dataset.from_pandas or load_dataset."
    if isinstance(dataset, IterableDataset | IterableDatasetDict):
        advice = "Score a stream with stream.map(scorer, batched=True)"
        is_one = who == "score" and isinstance(dataset, IterableDataset)
        advice += ", or pass run_dir, into which its rows are written." if is_one else ", one split at a time."
    advice = "Take one split of it." if isinstance(dataset, DatasetDict) else advice
    raise TypeError(f"{who} needs a datasets.{wanted}, got {type(dataset).__name__}. {advice}")


class MeasuredRows(NamedTuple):
    """Rows, and what the model said of them."""

    rows: Sequence[EncodedRow]
    views: Mapping[str, RowsInView]
    passes: Mapping[Pass, Sequence[Asked]]
    values: Values  # in the order of the passes, of the rows and parts of their views
    fractions: Sequence[float]  # masked fraction of each level
    features_by: str = ""  # how features were made, where there are any


def columns_of(measured: MeasuredRows, scores: Sequence[str], column_prefix: str, keep_levels: bool) -> dict[str, Any]:
    """
    The score columns of rows, and those of features.

    Args:
        measured ([`MeasuredRows`]):
            Rows, and what was measured of them.
        scores (`Sequence[str]`):
            Names of the scores.
        column_prefix (`str`):
            First part of the names of the columns.
        keep_levels (`bool`):
            Whether there are columns of the measures at each level.

    Returns:
        `dict[str, Any]`: By the name of the column a value of each row.
    """
    facts = facts_of(measured.rows)
    statuses, tokens = facts.statuses, facts.target_tokens
    in_views = {view: facts_of(seen.rows).statuses[: len(tokens)] for view, seen in measured.views.items()}
    columns = build_columns(
        statuses, tokens, _of_rows(measured), measured.fractions, column_prefix, keep_levels, scores, in_views
    )
    if FEATURES in measured.values:
        vectors = measured.values[FEATURES][0, : len(tokens)]
        columns |= dict(
            zip(vector_features(column_prefix), (vectors, [measured.features_by] * len(tokens)), strict=True)
        )
    return columns


def count_scored(
    rows: Sequence[EncodedRow],
    views: Mapping[str, RowsInView],
    passes: Mapping[Pass, Sequence[Asked]],
    fractions: Sequence[float],
    scores: Sequence[str],
) -> tuple[dict[str, int], dict[str, int]]:
    """
    Which rows will have which scores, as far as that is known before anything is measured.

    Args:
        rows (`Sequence[EncodedRow]`):
            All rows.
        views (`Mapping[str, RowsInView]`):
            The rows in all views.
        passes (`Mapping[Pass, Sequence[Asked]]`):
            All passes, and what they measure.
        fractions (`Sequence[float]`):
            Masked fraction of each level.
        scores (`Sequence[str]`):
            Names of the scores.

    Returns:
        `tuple[dict[str, int], dict[str, int]]`: By reason the rows that will lack some of the scores; by the name of
        each score the rows that will have it.
    """
    # Numbers that no score is undefined for.
    numbers = {one: [asked for asked in measures if asked.name != FEATURES] for one, measures in passes.items()}
    values = no_values(list(numbers.values()), most_parts(views))
    ones = {name: np.ones_like(zeros) for name, zeros in values.items()}
    columns = columns_of(MeasuredRows(rows, views, numbers, ones, fractions), scores, "dlc", False)
    counts = {name: int(np.isfinite(columns[f"dlc_{name}"]).sum()) for name in scores}
    return count_partly(columns["dlc_status"]), counts


def _of_rows(measured: MeasuredRows) -> Values:
    """A number of each row: of those in several parts, the mean over the target tokens of all parts."""
    rows = len(measured.rows)
    if all(len(seen.rows) == rows for seen in measured.views.values()):
        return measured.values
    found = {name: values[:, :rows].copy() for name, values in measured.values.items() if name != FEATURES}
    for place, (one, asked) in enumerate(measured.passes.items()):
        parts, owners = measured.views[one.view]
        if len(parts) > rows:  # features are of whole rows, which have no parts
            tokens = facts_of(parts).target_tokens.astype(np.float64)
            total = np.maximum(1, np.bincount(owners, tokens, rows))
            for measure in asked:
                weighted = tokens * measured.values[measure.name][place, : len(parts)]
                found[measure.name][place] = np.bincount(owners, weighted, rows) / total
    return found


def with_scores(
    dataset: Dataset, measured: MeasuredRows, scores: Sequence[str], column_prefix: str, keep_levels: bool
) -> Dataset:
    """
    The dataset with its score columns; the main process says how many rows have no score.

    Args:
        dataset ([`~datasets.Dataset`]):
            The rows.
        measured ([`MeasuredRows`]):
            What was measured of them.
        scores (`Sequence[str]`):
            Names of the scores.
        column_prefix (`str`):
            First part of the names of the columns.
        keep_levels (`bool`):
            Whether there are columns of the measures at each level.

    Returns:
        [`~datasets.Dataset`]: With the score columns added, or replaced.
    """
    columns = columns_of(measured, scores, column_prefix, keep_levels)
    if process_state().is_main_process:
        report_skipped(columns[f"{column_prefix}_status"], measured.rows, *(v.rows for v in measured.views.values()))
    features = dict(score_features(column_prefix, keep_levels, scores))
    if FEATURES in measured.values:
        features |= vector_features(column_prefix, measured.values[FEATURES].shape[-1])
    return with_columns(dataset, columns, Features(features))


def report_skipped(statuses: Sequence[str], *rows: Sequence[EncodedRow]) -> None:
    """
    Say how many rows have no score and why, how many lack some of their scores, and how many were cut.

    Args:
        statuses (`Sequence[str]`):
            Status of each row.
        rows (`Sequence[EncodedRow]`):
            The encoded rows, and those of the views, of which the first of each reason is shown.
    """
    first: dict[str, str] = {}
    for encoded in rows:
        first = {**first_skipped(encoded, len(statuses)), **first}
    if skipped := count_skipped(statuses):
        logger.warning(
            "%d of %d rows have no score: %s", sum(skipped.values()), len(statuses), in_words(skipped, first)
        )
    if partly := count_partly(statuses):
        words = in_words(partly, first)
        logger.warning("%d of %d rows lack some of their scores: %s", sum(partly.values()), len(statuses), words)
    if truncated := int((facts_of(rows[0]).statuses == TRUNCATED).sum()):
        logger.warning("%d of %d rows were cut to max_length", truncated, len(statuses))
