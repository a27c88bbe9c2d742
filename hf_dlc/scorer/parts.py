"""What stands behind the face of a scorer: its model, and the parts that are made once the model is there."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

from hf_dlc.config import DLCConfig
from hf_dlc.tasks.base import EncodedRow, Task
from hf_dlc.tasks.table import build_task

from . import fingerprint
from .engine import Engine, ScoringMasker
from .fitting import Fit
from .model import ModelHandle
from .rows import RowSource
from .rowwise import RowByRow
from .schedule import Schedule


class Parts:
    """
    Everything that belongs to one scorer.

    It can be pickled, and is what `datasets` hashes of a scorer. In a worker process it is what it was when it was
    sent, until the model is loaded there.

    Args:
        config ([`DLCConfig`]):
            Options of the user.
        handle ([`ModelHandle`]):
            The model and its processor.
    """

    def __init__(self, config: DLCConfig, handle: ModelHandle) -> None:
        self.config, self.handle = config, handle
        self.lock = threading.RLock()  # weights are masked in place, so one thread at a time reads or scores
        self._sent: dict[str, Any] = {}  # from another process
        _ = self.task, self.masker  # refuse an unsuitable model now, not at the first row

    @cached_property
    def task(self) -> Task:
        """Task that the model is for: it encodes rows and runs the model on them."""
        task = build_task(self.handle.model, self.handle.processor, vars(self.config))
        if self._sent.get("prototypes") is not None:
            task.learned = self._sent["prototypes"]
        return task

    @cached_property
    def masker(self) -> ScoringMasker:
        """Masker of the weights of the model."""
        names = ("masking", "seed", "scope", "target_modules")
        return ScoringMasker(self.handle.model, **{name: getattr(self.config, name) for name in names})

    @cached_property
    def engine(self) -> Engine:
        """Engine that runs rows through the model."""
        return Engine(self.task, self.masker, self.config.tokens_per_batch)

    @cached_property
    def row_by_row(self) -> RowByRow:
        """Path of rows that come one by one."""
        return RowByRow(self.engine)

    @cached_property
    def schedule(self) -> Schedule:
        """Schedule of the masked fractions."""
        return Schedule(self.engine, self.config.mask_schedule, self.config.calibration_shares)

    @cached_property
    def fit(self) -> Fit:
        """What was learned of a whole dataset, such as class prototypes."""
        return Fit(self.task, self.masker)

    @cached_property
    def rows(self) -> RowSource:
        """Source of encoded rows."""
        return RowSource(self.task, self.handle)

    def state(self, rows: Sequence[EncodedRow] = ()) -> fingerprint.ScorerState:
        """What facts about the scorer, as it is now, are read from."""
        return fingerprint.ScorerState(self.config, self.handle, self.engine, self.schedule.fixed is not None, rows)

    def settled_schedule(self) -> tuple[float, ...]:
        """The masked fractions of the levels, calibrated if they have to be."""
        with self.lock:
            state = self.state()
            key, describe = partial(fingerprint.calibration_key, state), partial(fingerprint.description, state)
            return self.schedule.settle(key, describe)

    def check_fit(self) -> None:
        """
        Make sure that what was learned was learned with the weights as they are.

        Raises:
            ValueError: If it was not.
        """
        with self.lock:
            self.fit.check(lambda: fingerprint.fit_key(self.state()))

    def learn_from(self, other: Parts) -> None:
        """
        Take what another scorer of the same model, with the same pooling, has learned of a dataset.

        Raises:
            ValueError: If that was learned with other weights.
        """
        other.check_fit()
        arrays, texts = other.fit.saved()
        if texts:
            self.fit.restore(arrays, texts, fingerprint.fit_key(self.state()))

    def __getstate__(self) -> dict[str, Any]:
        with self.lock:
            return self._sent if self._sent and not self.handle.is_loaded else fingerprint.pickled_state(self.state())

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.config, self._sent = state["config"], state
        self.handle = ModelHandle(state["source"], digests=(state["weights"], state["tokenizer"]))
        self.lock = threading.RLock()
