"""Rows of a study: the pool, the test rows, the wanted rows and the questions, none of them in two places."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

import numpy as np
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset

from hf_dlc.pipeline.options import DataArguments, SelectionArguments
from hf_dlc.pipeline.selecting import with_text_columns
from hf_dlc.pipeline.sources import read_dataset
from hf_dlc.scorer.scorer import DLCScorer

from .measuring import read_beside, unseen
from .options import StudyArguments, options_of


logger = logging.getLogger(__name__)

_OTHERS = {"test rows": "wanted rows", "rows to choose from": "test rows"}  # that must not be among them
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


def read_rows(options: StudyArguments, scorer: DLCScorer, most_rows: int | None = None) -> StudyRows:
    """
    Read what the options name, and hold out test rows where none are named.

    With wanted rows and no test rows, half of the wanted rows are the test rows: both are of the task. Without wanted
    rows, test rows are drawn from the dataset, where a row that stands twice is in one part only.

    Args:
        options (`StudyArguments`):
            Names the files, the sizes and the seed.
        scorer ([`~hf_dlc.DLCScorer`]):
            Its tokens tell which rows are the same, which are too long, and which cannot be scored.
        most_rows (`int`, *optional*):
            Rows of a pool for which there is use at most, where the options name no number: some more are read.

    Returns:
        [`StudyRows`]

    Raises:
        ValueError: If there are too few rows, or if the dataset has not the columns that are named.
    """
    rows = read_dataset(options_of(DataArguments, options))
    for name in ("group_by", "flag_column"):
        if (column := getattr(options, name)) not in (None, *rows.column_names):
            raise ValueError(f"{name} must be one of {', '.join(rows.column_names)}, got {column!r}.")
    if count := options.pool_rows or most_rows:  # of many more rows, a part is enough to draw from
        rows = _drawn(rows, _READ * (count + options.eval_rows), options.study_seed)
    wanted = options.target and read_dataset(DataArguments(dataset=options.target))
    if options.test:
        test = read_beside(options, options.test)
    elif wanted is not None and wanted:
        wanted, test = _halves(wanted, options, scorer)
    else:
        pool, test = split_rows(rows, options, scorer)
        return _without_seen(options, StudyRows(pool, test), scorer)
    test = _drawn(_scorable(test, scorer, options, "test rows"), options.eval_rows, options.study_seed)
    pool = _drawn(_scorable(rows, scorer, options, "rows to choose from"), options.pool_rows, options.study_seed)
    return _without_seen(options, StudyRows(pool, test, wanted or None), scorer)


def _without_seen(options: StudyArguments, rows: StudyRows, scorer: DLCScorer) -> StudyRows:
    """Test rows without those that say what is wanted, and a pool without test rows: no model is trained on these."""
    test = rows.test if rows.wanted is None else _unlike(rows.test, rows.wanted, scorer, "test rows")
    pool = _unlike(rows.pool, test, scorer, "rows to choose from")
    questions = options.choices and read_beside(options, options.choices)
    for others in filter(None, (pool, rows.wanted)):
        questions = questions and unseen(questions, others, "choices")
    return StudyRows(pool, test, rows.wanted, questions or None)


def _unlike(rows: Dataset, others: Dataset, scorer: DLCScorer, name: str) -> Dataset:
    """Rows whose texts are not among those of others, whatever columns these have beside them."""
    seen = {ids.tobytes() for ids in _token_ids(others, scorer).values()}
    places = [row for row, ids in _token_ids(rows, scorer).items() if ids.tobytes() not in seen]
    if not places:
        raise ValueError(f"the {name} must differ from the {_OTHERS[name]}, got {len(rows)} that do not.")
    if len(places) < len(rows):
        logger.info("%d of %d %s are %s, and left out", len(rows) - len(places), len(rows), name, _OTHERS[name])
    return rows.select(places)


def _halves(wanted: Dataset, options: StudyArguments, scorer: DLCScorer) -> tuple[Dataset, Dataset]:
    """Wanted rows and test rows, each text in one of them."""
    first = {ids.tobytes(): row for row, ids in _token_ids(wanted, scorer).items()}
    if len(first) < 2:
        raise ValueError(f"target must have at least 2 different rows, got {len(first)}. Pass more, or --test.")
    order = np.random.default_rng(options.study_seed).permutation(sorted(first.values()))
    middle = len(order) // 2
    return wanted.select(np.sort(order[:middle])), wanted.select(np.sort(order[middle:]))


def _scorable(rows: Dataset, scorer: DLCScorer, options: StudyArguments, name: str) -> Dataset:
    """Rows that can be scored and are short enough; a row that stands twice stays."""
    longest = options.longest_row or np.inf
    kept = [row for row, ids in _token_ids(rows, scorer).items() if len(ids) <= longest]
    if not kept:
        raise ValueError(f"rows are needed that can be scored and are short enough, got none among {len(rows)}.")
    if len(kept) < len(rows):
        limit = f"have more than {options.longest_row} tokens or " if options.longest_row else ""
        logger.info("%d of %d %s %scannot be scored, and are left out", len(rows) - len(kept), len(rows), name, limit)
    return rows.select(sorted(kept))


def _token_ids(rows: Dataset, scorer: DLCScorer) -> dict[int, np.ndarray]:
    """Token ids of each row that can be scored, by its number."""
    return {int(one["row"]): one["input_ids"] for one in scorer.tokenize(rows).with_format("numpy")}


def _drawn(rows: Dataset, count: int | None, seed: int) -> Dataset:
    """At most so many rows, drawn at random, in their order."""
    if count is None or count >= len(rows):
        return rows
    return rows.select(np.sort(np.random.default_rng(seed).permutation(len(rows))[:count]))


def split_rows(rows: Dataset, options: StudyArguments, scorer: DLCScorer) -> tuple[Dataset, Dataset]:
    """
    Draw the pool and the test rows at random among the rows that can be scored.

    All copies of a row are in one of them: among the test rows once, in the pool as often as in the dataset.

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
    copies: dict[bytes, list[int]] = {}
    for row, ids in _token_ids(rows, scorer).items():
        if len(ids) <= (options.longest_row or np.inf):
            copies.setdefault(ids.tobytes(), []).append(row)
    order = np.random.default_rng(options.study_seed).permutation([first for first, *_ in copies.values()])
    of_first = {first: [first, *others] for first, *others in copies.values()}
    pool = [row for first in order[options.eval_rows :].tolist() for row in of_first[first]]
    found, needed = min(len(order), options.eval_rows) + len(pool), options.eval_rows + (options.pool_rows or 1)
    if found < needed:
        raise ValueError(f"{needed} rows are needed, got {found} that can be scored and are short enough.")
    pool = pool[: options.pool_rows]  # by default all
    return rows.select(np.sort(pool)), rows.select(np.sort(order[: options.eval_rows]))


def text_columns_of(rows: Dataset, scorer: DLCScorer) -> list[str]:
    """Columns of text that are scored: what rows are compared by."""
    found = with_text_columns(SelectionArguments(), rows, scorer.config).text_columns
    return json.loads(found) if found else []
