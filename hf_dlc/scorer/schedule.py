"""The built-in probe set, and the schedule that a model's confidence on it calibrates."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from hf_dlc.config import MaskSchedule
from hf_dlc.execution.loop import TokenLimit, in_parts_that_fit
from hf_dlc.execution.plan import MicroBatch, cut_batches
from hf_dlc.masking import CALIBRATION_STARTS, Masker, calibrate
from hf_dlc.scores.dlc import CONFIDENCE
from hf_dlc.tasks.base import EncodedRow, Task
from hf_dlc.utils.files import read_json, write_json


logger = logging.getLogger(__name__)

_PROBE = files("hf_dlc") / "data" / "probe.jsonl"


def probe_rows() -> list[dict[str, str]]:
    """Short, plain instruction rows on which every instruction-tuned model is fairly confident."""
    return [json.loads(line) for line in _PROBE.read_text(encoding="utf-8").splitlines()]


def probe_digest() -> str:
    """Hex digest of the probe set: another set would calibrate other schedules."""
    return hashlib.blake2b(_PROBE.read_bytes(), digest_size=16).hexdigest()


def find_schedule(
    task: Task,
    masker: Masker,
    rows: Sequence[EncodedRow],
    shares: Sequence[float],
    tokens_per_batch: int,
    limit: TokenLimit,
) -> tuple[float, ...]:
    """Masked fractions at which the mean confidence of `rows` falls to `shares` of the unmasked one."""
    lengths = np.array([row.length for row in rows])  # whole, prefixes and all
    batches = cut_batches(lengths, tokens_per_batch, groups=task.rules.groups(lengths))
    logger.info("calibrating the mask schedule on %d probe rows", len(rows))
    with masker.session() as session:

        def confidences(batch: MicroBatch) -> np.ndarray:
            measured = task.forward([rows[index] for index in batch.rows], (CONFIDENCE,))
            return measured.values[CONFIDENCE.name].cpu().numpy()

        def confidence_at(fraction: float) -> float:
            session.set_fraction(fraction)
            return float(np.concatenate(list(in_parts_that_fit(batches, limit, confidences))).mean(dtype=np.float64))

        return calibrate(confidence_at, shares, start=CALIBRATION_STARTS[masker.masking])


def cached_schedule(
    path: Path, levels: int, find: Callable[[], tuple[float, ...]], identity: Callable[[], dict[str, Any]] = dict
) -> tuple[float, ...]:
    """
    The schedule of `levels` levels in the cache file `path`, found and written there if there is none.

    `identity` is written beside it, for people who want to know whose schedule it is.
    """
    known = read_json(path)
    if known is not None:
        try:
            return _checked(known["schedule"], levels)
        except (KeyError, TypeError, ValueError):
            logger.warning("%s does not hold a mask schedule of %d levels; calibrating anew", path, levels)
    schedule = find()
    try:
        write_json(path, {"schedule": list(schedule), **identity()})
    except OSError as error:
        logger.warning("the calibrated schedule cannot be kept for the next run: %s", error)
    return schedule


def _checked(fractions: list[float], levels: int) -> tuple[float, ...]:
    schedule = MaskSchedule(tuple(fractions)).fractions
    if len(schedule) != levels:
        raise ValueError(f"expected {levels} levels, got {len(schedule)}")
    return schedule
