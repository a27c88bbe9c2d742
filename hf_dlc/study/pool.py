"""Rows of a study: the pool, the test rows, the wanted rows and the questions, none of them in two places."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset

from hf_dlc.pipeline.options import DataArguments, SelectionArguments
from hf_dlc.pipeline.selecting import with_text_columns
from hf_dlc.pipeline.sources import read_dataset
from hf_dlc.scorer.scorer import DLCScorer
from hf_dlc.utils.content import content_digests

from .measuring import read_beside, unseen
from .options import StudyArguments, options_of


_READ = 10  # times as many rows are tokenized as are asked for: some are too long, or cannot be scored


@dataclass(frozen=True)
class StudyRows:
    """
    The rows of a study.

    Args:
        pool ([`~datasets.Dataset`]):
            Rows to choose from.
        test ([`~datasets.Dataset`]):
            Rows by whose loss models are compared; no model is trained on them.
        wanted ([`~datasets.Dataset`], *optional*):
            Examples of the task that the test rows are of.
        questions ([`~datasets.Dataset`], *optional*):
            Multiple-choice questions, for accuracy.
    """

    pool: Dataset
    test: Dataset
    wanted: Dataset | None = None
    questions: Dataset | None = None


def read_rows(options: StudyArguments, scorer: DLCScorer) -> StudyRows:
    """
    Read what the options name, and hold out test rows where none are named.

    With wanted rows and no test rows, half of the wanted rows are the test rows: both are of the task. Without wanted
    rows, test rows are drawn from the dataset, where a row that stands twice is in one part only.

    Args:
        options (`StudyArguments`):
            Names the files, the sizes and the seed.
        scorer ([`~hf_dlc.DLCScorer`]):
            Its tokens tell which rows are the same, which are too long, and which cannot be scored.

    Returns:
        [`StudyRows`]

    Raises:
        ValueError: If there are too few rows.
    """
    rows = read_dataset(options_of(DataArguments, options))
    if options.pool_rows:  # of many more rows, a part is enough to draw from
        rows = _drawn(rows, _READ * (options.pool_rows + options.eval_rows), options.study_seed)
    wanted = options.target and read_dataset(DataArguments(dataset=options.target))
    if options.test:
        test = read_beside(options, options.test)
    elif wanted is not None and wanted:
        wanted, test = _halves(wanted, options)
    else:
        pool, test = split_rows(rows, options, scorer)
        return _without_seen(options, StudyRows(pool, test))
    test = _drawn(_scorable(test, scorer, options), options.eval_rows, options.study_seed)
    pool = _drawn(_scorable(rows, scorer, options), options.pool_rows, options.study_seed)
    return _without_seen(options, StudyRows(pool, test, wanted or None))


def _without_seen(options: StudyArguments, rows: StudyRows) -> StudyRows:
    """Rows to measure by without those that may be trained on or that say what is wanted."""
    test, questions = rows.test, options.choices and read_beside(options, options.choices)
    for others in filter(None, (rows.pool, rows.wanted)):
        test = unseen(_like(test, others), others, "test rows")
        questions = questions and unseen(questions, others, "choices")
    return StudyRows(rows.pool, test, rows.wanted, questions or None)


def _like(rows: Dataset, others: Dataset) -> Dataset:
    """Rows without the columns that others lack, such as marks of what is suspect, so that they can be compared."""
    return rows.remove_columns([name for name in rows.column_names if name not in others.column_names])


def _halves(wanted: Dataset, options: StudyArguments) -> tuple[Dataset, Dataset]:
    """Wanted rows and test rows, each wanted row in one of them."""
    first = {digest: row for row, digest in enumerate(content_digests(wanted, wanted.column_names))}
    if len(first) < 2:
        raise ValueError(f"target must have at least 2 different rows, got {len(first)}. Pass more, or --test.")
    order = np.random.default_rng(options.study_seed).permutation(sorted(first.values()))
    middle = len(order) // 2
    return wanted.select(np.sort(order[:middle])), wanted.select(np.sort(order[middle:]))


def _scorable(rows: Dataset, scorer: DLCScorer, options: StudyArguments) -> Dataset:
    """Rows that can be scored and are short enough; a row that stands twice stays."""
    lengths = {
        int(encoded["row"]): len(encoded["input_ids"]) for encoded in scorer.tokenize(rows).with_format("numpy")
    }
    kept = [row for row, length in lengths.items() if length <= (options.longest_row or np.inf)]
    if not kept:
        raise ValueError(f"rows are needed that can be scored and are short enough, got none among {len(rows)}.")
    return rows.select(sorted(kept))


def _drawn(rows: Dataset, count: int | None, seed: int) -> Dataset:
    """At most so many rows, drawn at random, in their order."""
    if count is None or count >= len(rows):
        return rows
    return rows.select(np.sort(np.random.default_rng(seed).permutation(len(rows))[:count]))


def split_rows(rows: Dataset, options: StudyArguments, scorer: DLCScorer) -> tuple[Dataset, Dataset]:
    """
    Draw the pool and the test rows at random among the rows that can be scored.

    A row that stands in the dataset twice is in one of them, once.

    Args:
        rows ([`~datasets.Dataset`]):
            All rows.
        options (`StudyArguments`):
            Names the sizes and the seed.
        scorer ([`~hf_dlc.DLCScorer`]):
            Its tokens tell which rows are the same and which are too long.

    Returns:
        `tuple[Dataset, Dataset]`: Pool and test rows, each in the order of the dataset.

    Raises:
        ValueError: If there are too few rows.
    """
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


def text_columns_of(rows: Dataset, scorer: DLCScorer) -> list[str]:
    """Columns of text that are scored: what rows are compared by."""
    found = with_text_columns(SelectionArguments(), rows, scorer.config).text_columns
    return json.loads(found) if found else []
