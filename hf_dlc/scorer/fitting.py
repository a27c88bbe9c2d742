"""What must be learned of a whole dataset first, such as class prototypes, and the pass that gives features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset

from hf_dlc.execution.loop import in_parts_that_fit
from hf_dlc.execution.peers import watch_peers
from hf_dlc.execution.plan import MicroBatch, deal
from hf_dlc.execution.processes import check_same, process_state
from hf_dlc.execution.progress import progress_bar
from hf_dlc.masking import Masker
from hf_dlc.scores.columns import vector_features, with_columns
from hf_dlc.tasks.base import Embedder, EncodedRow, Fittable, Share, Task
from hf_dlc.tasks.facts import ChosenRows, facts_of, rows_digest
from hf_dlc.tasks.features import finished
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
            raise ValueError("the scorer was fitted with other weights. Call scorer.fit(dataset) again.")
        self._fitted_with = weights, fitted_key  # the same weights, elsewhere

    def features(self, rows: Sequence[EncodedRow]) -> dict[str, torch.Tensor]:
        """What the task makes of rows to learn from it, by name."""
        return self._task.features_to_fit(rows)

    def learn(
        self,
        rows: Sequence[EncodedRow],
        classes: tuple[str | int, ...],
        features: Mapping[str, np.ndarray],
        key: str,
    ) -> list[EncodedRow]:
        """
        Learn from what [`features_pass`] returned.

        Args:
            rows (`Sequence[EncodedRow]`):
                Encoded rows.
            classes (`tuple[str | int, ...]`):
                The classes of these rows.
            features (`Mapping[str, np.ndarray]`):
                By name the features of each row, NaN where there are none.
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

    def restore(self, arrays: Mapping[str, np.ndarray], texts: Mapping[str, str], key: str) -> bool:
        """
        Take what `saved` returned, which was learned with the weights as they are.

        Args:
            arrays (`Mapping[str, np.ndarray]`):
                Arrays by name.
            texts (`Mapping[str, str]`):
                Texts by name.
            key (`str`):
                Digest of all that features depend on.

        Returns:
            `bool`: Whether that is all that the task needs: another scorer may have learned less.

        Raises:
            ValueError: If the arrays do not belong together.
        """
        if not self.is_needed:
            return True
        self._task.restore(arrays, texts)
        if self._task.learned is None:
            return False
        self._fitted_with = self._weights_state(), key
        return True

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
        raise ValueError(
            "only image scorers with head='prototype' or with the score knn_confidence are fitted, and this one needs "
            "nothing of it."
        )
    embedder = _embedder(engine)
    found = features_pass(engine, dataset, state.weights, embedder.encode_to_fit, fit.features)
    source.keep(dataset, fit.learn(*found, fit_key(state)))


def pooled_features(engine: Engine, dataset: Dataset, weights: str) -> np.ndarray:
    """
    The pooled features of all rows, whatever their labels are.

    Args:
        engine ([`Engine`]):
            As for [`features_pass`].
        dataset ([`~datasets.Dataset`]):
            The rows.
        weights (`str`):
            Digest of the weights.

    Returns:
        `np.ndarray` of shape `(rows, features)`: Float32, NaN where there are none.

    Raises:
        TypeError: If `dataset` is no `Dataset`.
        ValueError: If the task makes no features.
    """
    embedder = _embedder(engine)

    def compute(rows: Sequence[EncodedRow]) -> dict[str, torch.Tensor]:
        return {"pooled": embedder.features(rows)}

    rows, _, found = features_pass(engine, dataset, weights, embedder.encode_to_embed, compute)
    return found.get("pooled", np.zeros((len(rows), 0), dtype=np.float32))  # where no row can be read


def embedded(engine: Engine, dataset: Dataset, weights: str, made_by: str, prefix: str) -> Dataset:
    """
    Images with their features, whatever their labels are: nothing is scored, and nothing must have been fitted.

    Args:
        engine ([`Engine`]):
            Engine of a scorer that writes features.
        dataset ([`~datasets.Dataset`]):
            Images, with or without labels.
        weights (`str`):
            Digest of the weights.
        made_by (`str`):
            How the features are made, in a word.
        prefix (`str`):
            What the names of the columns begin with.

    Returns:
        [`~datasets.Dataset`]: With the columns of features.
    """
    pooled = torch.from_numpy(pooled_features(engine, dataset, weights))
    if not pooled.shape[1]:
        raise ValueError(f"none of the {len(dataset)} images can be read, so that there are no features of them.")
    vectors = finished(pooled, engine.features).numpy()
    columns = dict(zip(vector_features(prefix), (vectors, [made_by] * len(dataset)), strict=True))
    return with_columns(dataset, columns, vector_features(prefix, vectors.shape[1]))


def _embedder(engine: Engine) -> Embedder:
    if not isinstance(engine.task, Embedder):
        raise ValueError(f"features are those of images, got a model for {engine.task.kind}.")
    return engine.task


def features_pass(
    engine: Engine,
    dataset: Dataset,
    weights: str,
    encode: Callable[[Dataset, Share], tuple[list[EncodedRow], tuple[str | int, ...]]],
    compute: Callable[[Sequence[EncodedRow]], Mapping[str, torch.Tensor]],
) -> tuple[list[EncodedRow], tuple[str | int, ...], dict[str, np.ndarray]]:
    """
    Features of all rows, dealt out to all processes.

    Args:
        engine ([`Engine`]):
            What plans micro-batches.
        dataset ([`~datasets.Dataset`]):
            The rows.
        weights (`str`):
            Digest of the weights, which must be the same in all processes.
        encode (`Callable`):
            Returns encoded rows and classes of a dataset, of which this process reads its share.
        compute (`Callable`):
            Returns features of rows with what the model needs of them, by name, each of shape `(rows, size)`.

    Returns:
        `tuple`: Encoded rows, classes, and by name features of shape `(rows, size)`, NaN where there are none.

    Raises:
        TypeError: If `dataset` is no `Dataset`.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"a datasets.Dataset is needed, got {type(dataset).__name__}. Pass one split of it.")
    state = process_state()
    with watch_peers(state) as peers:
        share = share_of(state, peers, engine.tokens_per_batch)
        rows, classes = encode(dataset, share)
        check_same({"rows": rows_digest(rows), "weights": weights}, state)
        batches = engine.cut(facts_of(rows), engine.tokens_per_batch, [])
        batches = deal(batches, state.num_processes)[state.process_index]
        with engine.masker.unmasked(), progress_bar([batches], state.is_main_process, "Features") as advance:
            # The sizes by the first row: a process without a micro-batch must know them too, to add up.
            first = [row for row in rows if row.length][:1]
            known = compute(list(engine.task.feed(first))) if first else {}
            features = {name: np.zeros((len(rows), one.shape[1]), dtype=np.float32) for name, one in known.items()}
            for batch, found in _features(engine, compute, rows, batches):
                for name, values in found.items():
                    features[name][batch.rows] = values
                advance(batch)
        features = {name: share.add_up(values) for name, values in features.items()}
    for values in features.values():
        values[facts_of(rows).lengths == 0] = np.nan
    return rows, classes, features


def _features(
    engine: Engine,
    compute: Callable[[Sequence[EncodedRow]], Mapping[str, torch.Tensor]],
    rows: Sequence[EncodedRow],
    batches: Sequence[MicroBatch],
) -> Iterator[tuple[MicroBatch, dict[str, np.ndarray]]]:
    """Features of micro-batches, or of parts of them if they do not fit into memory."""
    places = np.concatenate([batch.rows for batch in batches]) if batches else np.empty(0, np.int64)
    feed, fed = engine.task.feed(ChosenRows(rows, places)), []

    def compute_batch(batch: MicroBatch) -> tuple[MicroBatch, dict[str, np.ndarray]]:
        fed.extend(islice(feed, max(0, len(batch.rows) - len(fed))))
        found = compute(fed[: len(batch.rows)])
        features = {name: values.cpu().numpy() for name, values in found.items()}
        del fed[: len(batch.rows)]  # not before: what does not fit comes again, in parts
        return batch, features

    return in_parts_that_fit(batches, engine.limit, compute_batch)
