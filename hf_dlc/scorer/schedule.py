"""The masked fractions of the levels: fixed by the user or the task, calibrated on the built-in probe set, cached."""

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
from hf_dlc.execution.loop import in_parts_that_fit
from hf_dlc.execution.plan import MicroBatch
from hf_dlc.masking import CALIBRATION_STARTS, calibrate
from hf_dlc.scores.dlc import CONFIDENCE
from hf_dlc.tasks.base import EncodedRow
from hf_dlc.tasks.facts import facts_of
from hf_dlc.utils.files import cache_folder, read_json, write_json

from .engine import Engine


logger = logging.getLogger(__name__)

_PROBE = files("hf_dlc") / "data" / "probe.jsonl"


def probe_rows() -> list[dict[str, str]]:
    """Short, plain instruction rows on which every instruction-tuned model is fairly confident."""
    return [json.loads(line) for line in _PROBE.read_text(encoding="utf-8").splitlines()]


def probe_digest() -> str:
    """Hex digest of the probe set: another set would calibrate other schedules."""
    return hashlib.blake2b(_PROBE.read_bytes(), digest_size=16).hexdigest()


def pick_levels(every: Sequence[float], levels: str) -> tuple[float, ...]:
    """
    The levels of a schedule that are run.

    Args:
        every (`Sequence[float]`):
            What stands for each level, its masked fraction or its share of the unmasked confidence.
        levels (`str`):
            `"exact"` picks all, `"fast"` the first and the one in the middle, `"single"` the first.

    Returns:
        `tuple[float, ...]`: What stands for the picked ones, level 0 first.

    Example:
    ```python
    >>> pick_levels((0.0, 0.02, 0.05, 0.11), "fast")
    (0.0, 0.05)
    ```
    """
    places = {"exact": range(len(every)), "fast": sorted({0, len(every) // 2}), "single": [0]}
    return tuple(every[place] for place in places[levels])


class Schedule:
    """
    The schedule of a scorer, which may have to be found first.

    Args:
        engine ([`Engine`]):
            What runs the model.
        fixed (`MaskSchedule`, *optional*):
            The schedule that the user asks for; by default that of the task, or none, which is to be calibrated.
        shares (`Sequence[float]`):
            Shares of the unmasked confidence at which a calibrated schedule aims, one for each level.
        levels (`str`, *optional*, defaults to `"exact"`):
            Which of the levels are run, as [`pick_levels`] has it.
    """

    def __init__(
        self, engine: Engine, fixed: MaskSchedule | None, shares: Sequence[float], levels: str = "exact"
    ) -> None:
        every = fixed.fractions if fixed else engine.task.default_schedules.get(engine.masker.masking)
        if levels == "single" or not engine.masks_weights:
            every = (0.0,)  # nothing is masked, so there is nothing to calibrate
        if fixed and len(fixed) > 1 and not engine.masks_weights:
            logger.warning("the schedule %s is not used: none of the scores asks for masked weights", fixed)
        self.fixed: tuple[float, ...] | None = every and pick_levels(every, levels)
        if self.fixed and not engine.passes(self.fixed):
            names = ", ".join(score.name for score in engine.scores)
            raise ValueError(
                f"scores must have one that a single level gives, got {names}. Pass levels='fast' or a schedule with "
                "a masked level, or other scores."
            )
        self._engine, self._shares, self._levels = engine, shares, levels
        self.has_told = False  # that some scores have no value
        self._calibrated: tuple[Any, tuple[float, ...]] | None = None  # and the state of the weights that it is for

    @property
    def levels(self) -> int:
        """Number of levels, also of a schedule that is not known yet."""
        return len(self.fixed or pick_levels(self._shares, self._levels))

    @property
    def fractions(self) -> tuple[float, ...]:
        """
        Masked fraction of each level; while they are not known, any of as many levels, which is all that rows without
        a score and estimates need.
        """
        return self.fixed or self.calibrated or tuple(level / self.levels for level in range(self.levels))

    @property
    def calibrated(self) -> tuple[float, ...] | None:
        """The schedule that was calibrated, restored or settled by another process; `None` before."""
        return self._calibrated and self._calibrated[1]

    @calibrated.setter
    def calibrated(self, fractions: Sequence[float]) -> None:
        self._calibrated = self._weights_state(), tuple(fractions)

    def _weights_state(self) -> object:
        with self._engine.masker.unmasked():  # not what another scorer makes of them
            return self._engine.masker.weights_state()

    def settle(self, key: Callable[[], str], describe: Callable[[], dict[str, Any]]) -> tuple[float, ...]:
        """
        The masked fractions for the weights that the model has now.

        Args:
            key (`Callable`):
                Returns the digest of all that a calibrated schedule depends on; it names the file in the cache.
            describe (`Callable`):
                Returns what stands beside the schedule in that file, for people.

        Raises:
            ValueError: If no masked fraction makes the confidence fall far enough.
        """
        if self.fixed is not None:
            return self.fixed
        if self._calibrated is None or self._calibrated[0] != self._weights_state():
            path = cache_folder() / "calibration" / f"{key()}.json"
            self.calibrated = self.picked(cached_schedule(path, len(self._shares), self.find, describe))
        return self._calibrated[1]

    def picked(self, fractions: Sequence[float]) -> tuple[float, ...]:
        """The levels that are run, of masked fractions for all shares; any others have been picked already."""
        return pick_levels(fractions, self._levels) if len(fractions) == len(self._shares) else tuple(fractions)

    def tell_scores_without_value(self) -> None:
        """Say once which scores will be NaN in every row, since they compare levels and only one is run."""
        names = [score.name for score in self._engine.scores if not score.passes(self.fractions)]
        if names and not self.has_told:
            self.has_told = True
            logger.warning(
                "%s will be NaN in all rows: it compares masked levels with the unmasked one, and no level is "
                "masked. Pass levels='fast' or a schedule with a masked level to have it.",
                " and ".join(names),
            )

    def find(self) -> tuple[float, ...]:
        """
        Masked fractions at which the mean confidence on the probe set falls to the shares of the unmasked one.

        They are those of all shares, also where only some levels are run. With fewer shares the search would go
        another way and end at other last digits, so that a level would not be the same in every choice of levels.
        """
        engine = self._engine
        rows = engine.task.probe.encode(probe_rows())
        facts = facts_of(rows)
        engine.check(facts.longest)
        batches = engine.cut(facts, engine.tokens_per_batch, shared_heads=())  # whole rows, with what they share
        logger.info("calibrating the mask schedule on %d probe rows", len(rows))
        with engine.masker.session() as session:

            def confidence_at(fraction: float) -> float:
                session.set_fraction(fraction)
                return self._mean_confidence(rows, batches)

            return calibrate(confidence_at, self._shares, start=CALIBRATION_STARTS[engine.masker.masking])

    def _mean_confidence(self, rows: Sequence[EncodedRow], batches: Sequence[MicroBatch]) -> float:
        def confidences(batch: MicroBatch) -> np.ndarray:
            measured = self._engine.task.forward([rows[index] for index in batch.rows], (CONFIDENCE,))
            return measured.values[CONFIDENCE.name].cpu().numpy()

        found = in_parts_that_fit(batches, self._engine.limit, confidences)
        return float(np.concatenate(list(found)).mean(dtype=np.float64))


def cached_schedule(
    path: Path, levels: int, find: Callable[[], tuple[float, ...]], describe: Callable[[], dict[str, Any]] = dict
) -> tuple[float, ...]:
    """
    The schedule in a cache file, found and written there if there is none.

    Args:
        path (`Path`):
            The cache file.
        levels (`int`):
            Number of levels; a file with another number is written anew.
        find (`Callable`):
            Finds the masked fractions.
        describe (`Callable`, *optional*, defaults to `dict`):
            Returns what is written beside them, for people who want to know whose schedule it is.

    Returns:
        `tuple[float, ...]`: Masked fraction of each level.
    """
    known = read_json(path)
    if known is not None:
        try:
            return _checked(known["schedule"], levels)
        except (KeyError, TypeError, ValueError):
            logger.warning("%s does not hold a mask schedule of %d levels; calibrating anew", path, levels)
    schedule = find()
    try:
        write_json(path, {"schedule": list(schedule), **describe()})
    except OSError as error:
        logger.warning("the calibrated schedule cannot be kept for the next run: %s", error)
    return schedule


def _checked(fractions: list[float], levels: int) -> tuple[float, ...]:
    schedule = MaskSchedule(tuple(fractions)).fractions
    if len(schedule) != levels:
        raise ValueError(f"expected {levels} levels, got {len(schedule)}")
    return schedule
