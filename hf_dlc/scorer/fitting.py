"""What must be learned of a whole dataset first, such as class prototypes, and the pass that gives features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset

from hf_dlc.execution.loop import in_parts_that_fit
from hf_dlc.execution.peers import watch_peers
from hf_dlc.execution.plan import MicroBatch, deal
from hf_dlc.execution.processes import check_same, process_state
from hf_dlc.execution.progress import progress_bar
from hf_dlc.masking import Masker
from hf_dlc.tasks.base import Embedder, EncodedRow, Fittable, Task, rows_digest
from hf_dlc.utils.digests import json_digest

from .engine import Engine
from .fingerprint import ScorerState, fit_key
from .rows import RowSource, share_of


class Fit:
    """
    What a task has learned, and the weights that it was learned with.

    Args:
        task ([`Task`]):
            What learns; most tasks need not.
        masker ([`Masker`]):
            What knows when the weights have changed.
    """

    def __init__(self, task: Task, masker: Masker) -> None:
        self._task = task if isinstance(task, Fittable) else None
        self._masker = masker
        self._fitted_with: tuple[Any, str] | None = None  # state of the weights, and the key of the fit

    @property
    def is_needed(self) -> bool:
        """Whether rows cannot be scored before."""
        return self._task is not None and self._task.needs_fit

    def check(self, key: Callable[[], str]) -> None:
        """
        Make sure that the weights are those that were fitted with.

        Args:
            key (`Callable`):
                Returns the digest of all that features depend on, which is not asked for if nothing has changed.

        Raises:
            ValueError: If they are others.
        """
        if self._fitted_with is None:
            return
        known, fitted_key = self._fitted_with
        weights = self._weights_state()
        if known == weights:
            return
        if fitted_key != key():
            raise ValueError("the class prototypes were fitted with other weights. Call scorer.fit(dataset) again.")
        self._fitted_with = weights, fitted_key  # the same weights, elsewhere

    def learn(
        self, rows: Sequence[EncodedRow], classes: tuple[str | int, ...], features: np.ndarray, key: str
    ) -> list[EncodedRow]:
        """
        Learn from what [`features_pass`] returned.

        Args:
            rows (`Sequence[EncodedRow]`):
                Encoded rows.
            classes (`tuple[str | int, ...]`):
                The classes of these rows.
            features (`np.ndarray` of shape `(rows, features)`):
                Features of each row, NaN where there are none.
            key (`str`):
                Digest of all that features depend on.

        Returns:
            `list[EncodedRow]`: The rows as they are to be scored.

        Raises:
            ValueError: If there is too little to learn from.
        """
        self._task.fit(rows, classes, features, json_digest([key, classes, rows_digest(rows)]))
        self._fitted_with = self._weights_state(), key
        return self._task.with_reasons(rows)

    def saved(self) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """What was learned, as arrays and texts for a file; both are empty where there is nothing."""
        arrays, texts = ({}, {}) if self._task is None else self._task.saved()
        return dict(arrays), dict(texts)

    def restore(self, arrays: Mapping[str, np.ndarray], texts: Mapping[str, str], key: str) -> None:
        """
        Take what `saved` returned, which was learned with the weights as they are.

        Args:
            arrays (`Mapping[str, np.ndarray]`):
                Arrays by name.
            texts (`Mapping[str, str]`):
                Texts by name.
            key (`str`):
                Digest of all that features depend on.

        Raises:
            ValueError: If the arrays do not belong together.
        """
        if self._task is not None:
            self._task.restore(arrays, texts)
            self._fitted_with = self._weights_state(), key

    def _weights_state(self) -> object:
        with self._masker.unmasked():  # not what another scorer makes of them
            return self._masker.weights_state()


def fit_dataset(dataset: Dataset, source: RowSource, engine: Engine, fit: Fit, state: ScorerState) -> None:
    """
    Learn from a labelled dataset what its rows need to be scored, and keep its rows until they are.

    Args:
        dataset ([`~datasets.Dataset`]):
            The rows.
        source ([`RowSource`]):
            What keeps the rows.
        engine ([`Engine`]):
            What runs them through the model.
        fit ([`Fit`]):
            What learns.
        state ([`ScorerState`]):
            The scorer as it is now.

    Raises:
        TypeError: If `dataset` is no `Dataset`.
        ValueError: If the task learns nothing, or if there is too little to learn from.
    """
    if not fit.is_needed:
        raise ValueError("only image scorers with head='prototype' are fitted, and this one needs nothing of it.")
    found = features_pass(engine, dataset, state.weights)
    source.keep(dataset, fit.learn(*found, fit_key(state)))


def features_pass(
    engine: Engine, dataset: Dataset, weights: str
) -> tuple[list[EncodedRow], tuple[str | int, ...], np.ndarray]:
    """
    Features of all rows, dealt out to all processes.

    Args:
        engine ([`Engine`]):
            What plans micro-batches, and whose task makes features of rows.
        dataset ([`~datasets.Dataset`]):
            The rows.
        weights (`str`):
            Digest of the weights, which must be the same in all processes.

    Returns:
        `tuple`: Encoded rows, classes, and features of shape `(rows, features)`, NaN where there are none.

    Raises:
        TypeError: If `dataset` is no `Dataset`.
        ValueError: If the task makes no features.
    """
    embedder = engine.task
    if not isinstance(embedder, Embedder):
        raise ValueError(f"features are those of images, got a model for {engine.task.kind}.")
    if not isinstance(dataset, Dataset):
        raise TypeError(f"a datasets.Dataset is needed, got {type(dataset).__name__}. Pass one split of it.")
    state = process_state()
    with watch_peers(state) as peers:
        share = share_of(state, peers, engine.tokens_per_batch)
        rows, classes = embedder.encode_to_fit(dataset, share)
        check_same({"rows": rows_digest(rows), "weights": weights}, state)
        batches = engine.cut(rows, engine.tokens_per_batch, [])
        batches = deal(batches, state.num_processes)[state.process_index]
        with engine.masker.unmasked(), progress_bar([batches], state.is_main_process, "Features") as advance:
            # The size by the first row: a process without a micro-batch must know it too, to add up.
            first = [row for row in rows if row.length][:1]
            size = embedder.features(list(engine.task.feed(first))).shape[1] if first else 0
            features = np.zeros((len(rows), size), dtype=np.float32)
            for batch, found in _features(engine, embedder, rows, batches):
                features[batch.rows] = found
                advance(batch)
        features = share.add_up(features)
    features[[row.length == 0 for row in rows]] = np.nan
    return rows, classes, features


def _features(
    engine: Engine, embedder: Embedder, rows: Sequence[EncodedRow], batches: Sequence[MicroBatch]
) -> Iterator[tuple[MicroBatch, np.ndarray]]:
    """Features of micro-batches, or of parts of them if they do not fit into memory."""
    feed, fed = engine.task.feed([rows[row] for batch in batches for row in batch.rows]), []

    def compute(batch: MicroBatch) -> tuple[MicroBatch, np.ndarray]:
        fed.extend(islice(feed, max(0, len(batch.rows) - len(fed))))
        features = embedder.features(fed[: len(batch.rows)]).cpu().numpy()
        del fed[: len(batch.rows)]  # not before: what does not fit comes again, in parts
        return batch, features

    return in_parts_that_fit(batches, engine.limit, compute)
