"""Scorings that have ended: the same command has its answer without a model."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)

from hf_dlc.config import DLCConfig
from hf_dlc.execution.journal_files import as_json
from hf_dlc.scorer.fingerprint import SCORE_VERSION
from hf_dlc.scores.columns import SCORED_STATUSES
from hf_dlc.utils.digests import json_digest

from .folder import SCORING_NAME, read_scores
from .options import ScoreArguments
from .record import DatasetRecord, RunRecord
from .score_file import ScoresError
from .sources import dataset_identity, read_dataset


logger = logging.getLogger(__name__)

# Options that change neither the rows nor their scores.
_HOW = {"output_dir", "overwrite", "num_threads", "chunk_seconds", "measure_training"}


def finished_scoring(options: ScoreArguments, config: DLCConfig) -> RunRecord | None:
    """
    Find a scoring that has ended with what these options ask for.

    Args:
        options (`ScoreArguments`):
            Dataset, model and output folder.
        config ([`DLCConfig`]):
            Options of the scorer.

    Returns:
        [`RunRecord`] or `None`: Its record. `None` if there is none, or if anything differs or may: then a run finds
        out. A model of the Hub is the one that the record names, whatever its branch holds by now.
    """
    folder = Path(options.output_dir)
    if options.overwrite or not (folder / SCORING_NAME).is_file():
        return None
    try:
        scores, record = read_scores(folder)
    except (ScoresError, OSError):  # a run says what is wrong, and mends it
        return None
    if not _same_options(record, options, config) or record.model_files != files_digest(options, config):
        return None
    status = np.array(scores.table[f"{config.prefix}_status"][:])
    is_whole = len(status) == record.dataset.rows and np.isin(status, list(SCORED_STATUSES)).any()
    if not is_whole or (config.features is not None and scores.vectors is None):
        return None
    if not _same_rows(record.dataset, dataset_identity(options, read_dataset(options))):
        return None
    revision = f" ({record.scorer.revision})" if record.scorer.revision else ""
    logger.info(
        "%s holds the scores of these rows by %s%s: nothing is computed. Pass --overwrite to score again.",
        folder,
        options.model,
        revision,
    )
    return record


def _same_options(record: RunRecord, options: ScoreArguments, config: DLCConfig) -> bool:
    kept = replace(config, keep_levels=True)  # as runs are scored, for the report
    named = {name: value for name, value in asdict(options).items() if name not in _HOW}
    return (
        record.scorer.score_version == SCORE_VERSION
        and not callable(config.template)
        and record.keep_levels == config.keep_levels
        and as_json(record.config) == as_json(vars(kept))
        and all(name in record.options and record.options[name] == value for name, value in as_json(named).items())
    )


def files_digest(options: ScoreArguments, config: DLCConfig) -> str:
    """
    Digest of the files that a scorer is loaded from: their names, sizes and times, wherever links lead.

    Args:
        options (`ScoreArguments`):
            The model, if it is local.
        config ([`DLCConfig`]):
            Template and sentence encoder, if they are.

    Returns:
        `str`: Of what is on the Hub, nothing is in it.
    """
    names = [options.model, config.encoder, config.template]
    paths = [Path(name).expanduser().resolve() for name in names if isinstance(name, str)]
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return json_digest([[str(file), *_size_and_time(file)] for file in files if file.is_file()])


def _size_and_time(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def _same_rows(there: DatasetRecord, here: DatasetRecord) -> bool:
    known = ("name", "config", "revision", "split", "rows", "sha256")
    same = all(getattr(there, name) == getattr(here, name) for name in known)
    return same and (here.sha256 is not None or there.fingerprint == here.fingerprint)
