"""The folder of a run: the scores of all rows, the rows that were kept, their records and their reports."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset

from hf_dlc.report.render import Name
from hf_dlc.report.report import PruneReport, with_notes
from hf_dlc.report.tables import flagged_rows
from hf_dlc.scorer.job import FEATURES_NAME
from hf_dlc.scores.columns import score_features
from hf_dlc.scores.table import SCORES
from hf_dlc.selection.base import Selection, Selector
from hf_dlc.selection.columns import read_numbers
from hf_dlc.selection.random import RandomSelector
from hf_dlc.utils.files import read_json, write_json

from .record import FlaggedRecord, RecordError, RunRecord
from .score_file import SCORES_NAME, Scores, ScoresError


logger = logging.getLogger(__name__)

SCORING_NAME = "scoring.json"
MANIFEST_NAME = "manifest.json"
JOURNAL_NAME = "journal"


def write_scores(folder: Path, scored: Dataset, record: RunRecord) -> None:
    """
    Write the scores of all rows and the record of the scoring.

    Args:
        folder (`Path`):
            Output folder of the run.
        scored ([`~datasets.Dataset`]):
            All rows with their scores, of every level.
        record ([`RunRecord`]):
            Record of the scoring.
    """
    folder.mkdir(parents=True, exist_ok=True)
    Scores.of(scored, record.column_prefix, keep_levels=True).write(folder / SCORES_NAME)
    write_scoring(folder, record)  # last: it tells that the scores are there


def write_scoring(folder: Path, record: RunRecord) -> None:
    """Write the record of a scoring whose scores are there, or write it again."""
    write_json(folder / SCORING_NAME, record.to_json())


def read_scores(folder: Path) -> tuple[Scores, RunRecord]:
    """
    Read what [`write_scores`] wrote.

    Raises:
        ScoresError: If the folder is not that of a scoring that has ended.
    """
    record = read_scoring(folder)
    return Scores.read(folder / SCORES_NAME), record


def read_scoring(folder: Path) -> RunRecord:
    """
    Read the record that [`write_scores`] wrote.

    Raises:
        ScoresError: If the folder is not that of a scoring that has ended.
    """
    try:
        return _read_record(folder / SCORING_NAME, ("dataset.name", "scorer.config.prefix"))
    except (OSError, ValueError) as error:
        raise ScoresError(
            f"{folder} holds no finished scoring{_reason(error)}. Pass the output folder of one as --run-dir, or "
            f"score first, with --output-dir {folder}."
        ) from error


def write_subset(folder: Path, pruned: Dataset, report: PruneReport, record: RunRecord, html: bool = True) -> None:
    """
    Write the kept rows, the reports and the record of the selection.

    Args:
        folder (`Path`):
            Output folder.
        pruned ([`~datasets.Dataset`]):
            The kept rows with their scores.
        report ([`PruneReport`]):
            Report on them, as [`make_report`] returns it.
        record ([`RunRecord`]):
            Record of scoring and selection, as [`RunRecord.with_selection`] returns it.
        html (`bool`, *optional*, defaults to `True`):
            Whether report.html is written, where matplotlib is installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST_NAME).unlink(missing_ok=True)  # until all is there again, there is no subset
    if not record.keep_levels:
        always, all_names = (score_features(record.column_prefix, levels, SCORES) for levels in (False, True))
        pruned = pruned.remove_columns([name for name in pruned.column_names if name in all_names.keys() - always])
    pruned.save_to_disk(str(folder / "pruned"))
    pruned.to_parquet(str(folder / "pruned.parquet"))
    (folder / "summary.md").write_text(report.to_markdown(), encoding="utf-8")
    (folder / "report.html").unlink(missing_ok=True)  # that of an earlier selection
    if html and find_spec("matplotlib"):
        page = report.to_html(f"What was kept of {record.dataset.name}")
        (folder / "report.html").write_text(page, encoding="utf-8")
    elif html:
        logger.info("no report.html is written, as there is no matplotlib: pip install 'hf-dlc[report]'")
    write_json(folder / MANIFEST_NAME, record.to_json())  # last: it tells that all is there


def read_manifest(folder: Path) -> RunRecord:
    """
    Read the record that [`write_subset`] wrote.

    Raises:
        ScoresError: If the folder holds no subset.
    """
    try:
        return _read_record(folder / MANIFEST_NAME, ("dataset.name", "selection.selector"))
    except (OSError, ValueError) as error:
        raise ScoresError(
            f"{folder} holds no subset{_reason(error)}. Select one first, with --run-dir {folder}."
        ) from error


def select_rows(
    scored: Dataset, selector: Selector, record: RunRecord, flag_column: str | None = None, **facts: Any
) -> tuple[Dataset, PruneReport, RunRecord]:
    """
    Select rows, report on them, and describe the selection.

    Args:
        scored ([`~datasets.Dataset`]):
            All rows with their scores.
        selector ([`FlexRandSelector`] or another):
            The selector.
        record ([`RunRecord`]):
            Record of the scoring.
        flag_column (`str`, *optional*):
            Boolean column whose rows should stand out in the report.
        facts:
            Other values of further fields of the record.

    Returns:
        `tuple[Dataset, PruneReport, RunRecord]`: The kept rows, the report on them, and the record of scoring and
        selection, for [`write_subset`].
    """
    selection = selector.select(scored)
    kept = selection.indices.tolist()
    counts = {reason: int(rows.sum()) for reason, rows in selection.left_out.items() if rows.any()}
    record = record.with_selection(selector, scored, kept, left_out=counts, **facts)
    if not isinstance(selector, RandomSelector):
        random = RandomSelector.like(selector).read_indices(scored)
        record = record.having(shared_with_random=len(np.intersect1d(random, selection.indices)))
    if flag_column is not None:
        record = record.having(flagged=_flagged(scored, selection.indices, flag_column, record.column_prefix))
    found = make_report(scored, selection, record, flag_column)
    notes = {f"{record.column_prefix}_{name}": values for name, values in selection.notes.items()}
    return with_notes(scored, notes, selection.indices).select(kept), found, record


def make_report(
    scored: Dataset, kept: Dataset | Selection | Sequence[int], record: RunRecord, flag_column: str | None = None
) -> PruneReport:
    """
    Report on a subset.

    Args:
        scored ([`~datasets.Dataset`]):
            All rows with their scores.
        kept ([`~datasets.Dataset`], [`~selection.base.Selection`] or `Sequence[int]`):
            The kept rows, what a selector says of them, or their indices.
        record ([`RunRecord`]):
            Record of scoring and selection.
        flag_column (`str`, *optional*):
            Boolean column whose rows should stand out.

    Returns:
        [`PruneReport`]
    """
    selector = record.selection.known()
    return PruneReport.from_datasets(
        scored,
        kept,
        record.selection_column,
        record.column_prefix,
        schedule=record.schedule or None,
        group_by=record.selection.group_by,
        flag_column=flag_column,
        price=record.run.price,
        price_unknown=record.run.price_unknown,
        predicted=None if record.extrapolation is None else record.extrapolation.agreements,
        left_out=record.left_out,
        run=_facts(record),
        rule=() if selector is None else _in_parts(selector),
        bounds=_bounds(selector, scored),
        shared_with_random=record.shared_with_random,
    )


def _flagged(scored: Dataset, kept: np.ndarray, column: str, prefix: str) -> FlaggedRecord:
    found = flagged_rows(scored, kept, column, prefix)
    return FlaggedRecord(column=column, **found._asdict())


def _facts(record: RunRecord) -> dict[str, str]:
    """What was run, for people: anybody may have written the record, so that each fact may be missing."""
    scorer, dataset = record.scorer, record.dataset
    split = f", split {dataset.split}" if dataset.split else ""
    revision = f" at {scorer.revision}" if scorer.revision else ""
    facts = {
        "model": scorer.model and f"{scorer.gguf_file or scorer.model}{revision}, {scorer.dtype}",
        "data": dataset.name and f"{dataset.name}{split}",
        "selector": record.selection.selector,
        "seed": record.selection.rest.get("seed"),
        "scored": record.run.finished,
        "commands": "; ".join(map(shlex.join, record.commands)) or None,
    }
    return {name: str(value) for name, value in facts.items() if value is not None}


def _bounds(selector: Selector | None, scored: Dataset) -> dict[str, float]:
    """Values of the score at which the rule changes; some selectors go by no score."""
    # Where duplicates are left out first, the values are those of the others.
    if selector is None or selector.column not in scored.column_names or selector.drop_duplicates:
        return {}
    return selector.bounds(read_numbers(scored, selector.column, "column="))


def _in_parts(selector: Selector) -> list[str]:
    """The sentence of a selector, with the names of columns apart: they may hold any text."""
    mark = "\0"
    parts = selector.sentence(lambda name: f"{mark}{name.replace(mark, '')}{mark}").split(mark)
    return [Name(part) if place % 2 else part for place, part in enumerate(parts)]


def copy_scores(run_dir: Path, folder: Path) -> None:
    """Copy the scores of a run into another folder, so that a subset there can be published; a subset there ends."""
    if run_dir.resolve() != folder.resolve():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST_NAME).unlink(missing_ok=True)  # it belongs to the scores that are replaced
        names = [name for name in (SCORES_NAME, FEATURES_NAME, SCORING_NAME) if (run_dir / name).exists()]
        (folder / FEATURES_NAME).unlink(missing_ok=True)  # those of other scores
        for name in names:
            shutil.copyfile(run_dir / name, folder / name)


def is_taken(folder: Path, run_dir: Path) -> bool:
    """Whether a folder holds a subset already, or scores of another run than that in `run_dir`."""
    there = read_json(folder / SCORING_NAME)
    return (folder / MANIFEST_NAME).exists() or (there is not None and there != read_json(run_dir / SCORING_NAME))


def _read_record(path: Path, needed: Sequence[str]) -> RunRecord:
    record = RunRecord.from_json(json.loads(path.read_text(encoding="utf-8")))
    if missing := [name for name in needed if attrgetter(name)(record) is None]:
        raise RecordError(f"{', '.join(missing)} must be there, and is not")
    return record


def _reason(error: Exception) -> str:
    return "" if isinstance(error, FileNotFoundError) else f" ({error})"
