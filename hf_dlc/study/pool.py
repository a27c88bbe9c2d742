"""Rows of a study: the pool, the test rows, the wanted rows and the questions, none of them in two places."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset

from hf_dlc.pipeline.options import DataArguments, SelectionArguments
from hf_dlc.pipeline.selecting import reading_of, with_text_columns, without_unread_text
from hf_dlc.pipeline.sources import read_dataset
from hf_dlc.report.tables import read_flags
from hf_dlc.scorer.scorer import DLCScorer

from .measuring import read_beside, unseen
from .options import StudyArguments, options_of
from .questions import read_question


logger = logging.getLogger(__name__)

_WRITTEN = re.compile(r"dlc_|dup_(of|kind)$|(auto|gradient)_features")  # columns that the study makes itself
_AT_ONCE = 2  # times as many rows are tokenized as are asked for: some are too long, or cannot be scored


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
    rows, test rows are drawn from the dataset, as [`split_rows`] does.

    Args:
        options (`StudyArguments`):
            Names the files, the sizes and the seed.
        scorer ([`~hf_dlc.DLCScorer`]):
            Its tokens tell which rows are the same, which are too long, and which cannot be scored.
        most_rows (`int`, *optional*):
            Rows of a pool for which there is use at most, where the options name no number.

    Returns:
        [`StudyRows`]

    Raises:
        ValueError: If there are too few rows, or if the dataset has not the columns that are named.
    """
    rows = _read_pool(options)
    count = options.pool_rows or most_rows
    wanted = options.target and _without_written(read_dataset(DataArguments(dataset=options.target)))
    if options.test:
        test = read_beside(options, options.test)
    elif wanted is not None and wanted:
        wanted, test = _halves(wanted, options, scorer)
    else:
        some = _usable(rows, scorer, options, "rows", count and count + options.eval_rows)
        return _apart(options, StudyRows(*split_rows(some, options, scorer)), scorer)
    if wanted:
        wanted = without_unread_text(wanted, SelectionArguments(), scorer.config)
    test = _usable(test, scorer, options, "test rows", options.eval_rows)
    pool = _usable(rows, scorer, options, "rows to choose from", count)
    return _apart(options, StudyRows(pool, test, wanted or None), scorer)


def _read_pool(options: StudyArguments) -> Dataset:
    """Rows of the dataset with flags that are true or false, and without what an earlier scoring has written."""
    rows = read_dataset(options_of(DataArguments, options))
    named = {name: getattr(options, name) for name in ("group_by", "flag_column")}
    for name, column in named.items():
        if column not in (None, *rows.column_names):
            raise ValueError(f"{name} must be one of {', '.join(rows.column_names)}, got {column!r}.")
    rows = _without_written(rows, {*named.values()})
    if (flags := options.flag_column) is None:
        return rows
    return rows.remove_columns(flags).add_column(flags, read_flags(rows, flags))


def _without_written(rows: Dataset, kept: Collection[str | None] = ()) -> Dataset:
    """Rows without what an earlier scoring has written."""
    written = [name for name in rows.column_names if _WRITTEN.match(name) and name not in kept]
    if written:
        logger.info("not used, as the study makes its own: %s", ", ".join(written))
    return rows.remove_columns(written)


def _apart(options: StudyArguments, rows: StudyRows, scorer: DLCScorer) -> StudyRows:
    """Test rows without the wanted ones, and a pool without both: on neither is a model trained."""
    pool, test, wanted = rows.pool, rows.test, rows.wanted
    if wanted is not None:
        test = _unlike(test, wanted, scorer, "test rows", "wanted rows")
        pool = _unlike(pool, wanted, scorer, "rows to choose from", "wanted rows")
    pool = _unlike(pool, test, scorer, "rows to choose from", "test rows")
    questions = options.choices and read_beside(options, options.choices)
    for others in filter(None, (pool, wanted)):
        questions = questions and _unanswered(questions, others, scorer)
    return StudyRows(pool, test, wanted, questions or None)


def _unlike(rows: Dataset, others: Dataset, scorer: DLCScorer, name: str, name_of_others: str) -> Dataset:
    """Rows whose texts are not among those of others, whatever columns these have beside them."""
    return _left(rows, _places_unlike(rows, others, scorer), name, name_of_others)


def _unanswered(questions: Dataset, others: Dataset, scorer: DLCScorer) -> Dataset:
    """Questions that do not stand among other rows, nor with their right answer as response."""
    questions = unseen(questions, others, "choices")
    asked = map(read_question, questions)
    answered = [{"instruction": text, "input": "", "output": choices[right]} for text, choices, right in asked]
    places = _places_unlike(Dataset.from_list(answered), others, scorer)
    return _left(questions, places, "choices", "rows to choose from or wanted rows")


def _left(rows: Dataset, places: list[int], name: str, name_of_others: str) -> Dataset:
    """The rows at the places; it is said how many others there were."""
    if not places:
        raise ValueError(f"the {name} must differ from the {name_of_others}, got {len(rows)} that do not.")
    if len(places) < len(rows):
        logger.info("%d of %d %s are %s, and left out", len(rows) - len(places), len(rows), name, name_of_others)
    return rows.select(places)


def _places_unlike(rows: Dataset, others: Dataset, scorer: DLCScorer) -> list[int]:
    """Numbers of the rows whose tokens are not those of another; a row without any is like none."""
    seen = {ids.tobytes() for ids in _token_ids(others, scorer).values()}
    found = _token_ids(rows, scorer)
    return [row for row in range(len(rows)) if row not in found or found[row].tobytes() not in seen]


def _halves(wanted: Dataset, options: StudyArguments, scorer: DLCScorer) -> tuple[Dataset, Dataset]:
    """Wanted rows and test rows, each text in one of them."""
    first = {ids.tobytes(): row for row, ids in _token_ids(wanted, scorer).items()}
    if len(first) < 2:
        raise ValueError(f"target must have at least 2 different rows, got {len(first)}. Pass more, or --test.")
    order = np.random.default_rng(options.study_seed).permutation(sorted(first.values()))
    middle = len(order) // 2
    return wanted.select(np.sort(order[:middle])), wanted.select(np.sort(order[middle:]))


def _usable(rows: Dataset, scorer: DLCScorer, options: StudyArguments, name: str, count: int | None) -> Dataset:
    """Rows that can be scored and are short enough: all, or so many at most, drawn at random; in their order."""
    longest, order = options.longest_row or np.inf, np.arange(len(rows))
    if count is not None:
        order = np.random.default_rng(options.study_seed).permutation(order)
    kept: list[int] = []
    read, at_once = 0, len(order) if count is None else _AT_ONCE * count
    while read < len(order) and (count is None or len(kept) < count):
        part = order[read : read + at_once]
        lengths = {place: len(ids) for place, ids in _token_ids(rows.select(part), scorer).items()}
        kept += [row for place, row in enumerate(part.tolist()) if lengths.get(place, np.inf) <= longest]
        read += len(part)
    if not kept:
        raise ValueError(f"rows are needed that can be scored and are short enough, got none among {len(rows)}.")
    if len(kept) < read:
        limit = f"have more than {options.longest_row} tokens or " if options.longest_row else ""
        logger.info("%d of %d %s %scannot be scored, and are left out", read - len(kept), read, name, limit)
    return rows.select(sorted(kept[:count]))


def _token_ids(rows: Dataset, scorer: DLCScorer) -> dict[int, np.ndarray]:
    """Token ids of each row that can be scored, by its number."""
    tokens = reader_of(rows, scorer).tokenize(rows).with_format("numpy")
    return {int(one["row"]): one["input_ids"] for one in tokens}


def reader_of(rows: Dataset, scorer: DLCScorer) -> DLCScorer:
    """The scorer, or one that reads rows beside the pool in a layout of their own."""
    reading = reading_of(rows, scorer.config)
    return scorer.with_options(**reading) if reading else scorer


def split_rows(rows: Dataset, options: StudyArguments, scorer: DLCScorer) -> tuple[Dataset, Dataset]:
    """
    Draw the pool and the test rows at random.

    All copies of a row are in one of them: among the test rows once, in the pool as often as in the dataset. No test
    row is suspect, and of each group there are equally many, as long as half of it stays in the pool. A third of the
    rows are test rows at most, or as many as the pool does not need.

    Args:
        rows ([`~datasets.Dataset`]):
            Rows that can be scored.
        options (`StudyArguments`):
            Names the sizes, the columns of flags and groups, and the seed.
        scorer ([`~hf_dlc.DLCScorer`]):
            Its tokens tell which rows are the same.

    Returns:
        `tuple[Dataset, Dataset]`: Pool and test rows, each in the order of the dataset.

    Raises:
        ValueError: If there are too few rows.
    """
    copies: dict[bytes, list[int]] = {}
    for row, ids in _token_ids(rows, scorer).items():
        copies.setdefault(ids.tobytes(), []).append(row)
    of_first = {first: [first, *others] for first, *others in copies.values()}
    order = np.random.default_rng(options.study_seed).permutation(list(of_first))
    spare = max(len(order) // 3, len(order) - (options.pool_rows or len(order)))
    test = _to_measure_by(order, rows, options)[: min(options.eval_rows, spare)]
    pool = [row for first in order[~np.isin(order, test)].tolist() for row in of_first[first]]
    needed = options.pool_rows or 1
    if len(pool) < needed or not len(test):
        raise ValueError(
            f"at least {needed} rows to choose from and 1 to measure by are needed, got {len(pool)} and {len(test)} "
            "that can be scored, are short enough and, to measure by, not suspect. Pass --test, or fewer --pool-rows."
        )
    return rows.select(np.sort(pool[: options.pool_rows])), rows.select(np.sort(test))


def _to_measure_by(order: np.ndarray, rows: Dataset, options: StudyArguments) -> np.ndarray:
    """Rows, the first of which may be test rows: none that is suspect, and the groups by turns, half of each."""
    if options.flag_column is not None:
        order = order[~np.array(rows[options.flag_column][:], dtype=bool)[order]]
    if options.group_by is None:
        return order
    groups = pd.Series(rows[options.group_by][:]).iloc[order]
    by_group = groups.groupby(groups, dropna=False)
    turns, sizes = by_group.cumcount().to_numpy(), by_group.transform("size").to_numpy()
    is_spare = turns < sizes // 2
    return order[is_spare][np.argsort(turns[is_spare], kind="stable")]


def text_columns_of(rows: Dataset, scorer: DLCScorer) -> list[str]:
    """Columns of text that are scored: what rows are compared by."""
    found = with_text_columns(SelectionArguments(), rows, scorer.config).text_columns
    return json.loads(found) if found else []
