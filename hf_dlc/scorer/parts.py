"""What stands behind the face of a scorer: its model, and the parts that are made once the model is there."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

from hf_dlc.config import DLCConfig
from hf_dlc.scores.table import chosen_scores
from hf_dlc.tasks.base import EncodedRow, Task
from hf_dlc.tasks.table import build_task

from . import fingerprint
from .adapters import Adapters
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
        adapters ([`Adapters`], *optional*):
            Adapters of the model.
    """

    def __init__(self, config: DLCConfig, handle: ModelHandle, adapters: Adapters | None = None) -> None:
        self.config, self.handle, self.adapters = config, handle, adapters
        self.lock = threading.RLock()  # weights are masked in place, so one thread at a time reads or scores
        self._sent: dict[str, Any] = {}  # from another process
        self._features_by: tuple[Any, str] = None, ""  # of what weights, and the word
        _ = self.engine  # refuse an unsuitable model or score now, not at the first row

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
        config = self.config
        return Engine(
            self.task,
            self.masker,
            chosen_scores(config.scores),
            config.tokens_per_batch,
            config.features,
            config.features_size,
            self.adapters,
        )

    @cached_property
    def row_by_row(self) -> RowByRow:
        """Path of rows that come one by one."""
        return RowByRow(self.engine)

    @cached_property
    def schedule(self) -> Schedule:
        """Schedule of the masked fractions."""
        config = self.config
        return Schedule(self.engine, config.mask_schedule, config.calibration_shares, config.levels)

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

    @property
    def features_by(self) -> str:
        """How features are made, in a word: pooling, size, and a digest of what else they depend on."""
        if self.engine.features is None:
            return ""
        with self.masker.unmasked():
            weights = self.masker.weights_state()
        if self._features_by[0] != weights:  # weights are hashed once, not for each row of `map`
            features = self.engine.features
            key = fingerprint.features_key(self.state())[:16]
            self._features_by = weights, f"{features.pooling} {features.size} {key}"
        return self._features_by[1]

    def check_fit(self) -> None:
        """
        Make sure that what was learned was learned with the weights as they are.

        Raises:
            ValueError: If it was not.
        """
        with self.lock:
            self.fit.check(lambda: fingerprint.fit_key(self.state()))

    def with_config(self, config: DLCConfig, adapters: Adapters | None = None) -> Parts:
        """
        Parts with other options, of the same loaded model and with what was learned of a dataset.

        Args:
            config ([`DLCConfig`]):
                The options. What rows are made of must be the same, since what was learned is taken as it is.
            adapters ([`Adapters`], *optional*):
                Adapters of the model, by default those of these parts.

        Returns:
            [`Parts`]: They share model and lock with these.
        """
        self.check_fit()
        other = Parts(config, self.handle, self.adapters if adapters is None else adapters)
        other.lock = self.lock
        arrays, texts = self.fit.saved()
        if texts:
            other.fit.restore(arrays, texts, fingerprint.fit_key(self.state()))
        return other

    def __getstate__(self) -> dict[str, Any]:
        with self.lock:
            return self._sent if self._sent and not self.handle.is_loaded else fingerprint.pickled_state(self.state())

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.config, self._sent, self._features_by = state["config"], state, (None, "")
        self.adapters = state["adapters"]
        self.handle = ModelHandle(state["source"], digests=(state["weights"], state["tokenizer"]))
        self.lock = threading.RLock()
