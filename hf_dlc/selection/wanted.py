"""The wanted rows, in whichever form the user hands them over: a dataset, their features, or their texts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from .candidates import are_numbers, as_features, read_texts, text_columns
from .vectors import made_by, read_vectors


if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


class Wanted:
    """
    Examples of the task that the model is to learn.

    Args:
        target ([`~datasets.Dataset`], `np.ndarray` or `Sequence[str]`):
            The rows, their features or their texts; in a selector that was read from a record, a description.
        features_column (`str`, *optional*, defaults to `"dlc_features"`):
            Column of the features in a dataset.
    """

    def __init__(self, target: Any, features_column: str = "dlc_features") -> None:
        self._target, self._column = target, features_column

    @property
    def description(self) -> str | None:
        """How many they are, for people."""
        if self._target is None or isinstance(self._target, str):
            return self._target
        return f"{len(self._target)} wanted rows"

    @property
    def has_texts(self) -> bool:
        """Whether they are known by more than their features."""
        return self._is_dataset and bool(text_columns(self._target))

    @property
    def _is_dataset(self) -> bool:
        return hasattr(self._target, "column_names")

    @property
    def texts(self) -> list[str]:
        """
        Text of each of them.

        Raises:
            ValueError: If there are none.
        """
        self._require()
        if self._is_dataset:
            return read_texts(self._target)
        texts = list(self._target)
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("target must be a Dataset with text, or a list of texts, to compare words.")
        return texts

    def numbers(self, with_features: bool) -> np.ndarray:
        """
        Numbers of the wanted rows among all that were handed over.

        Args:
            with_features (`bool`):
                Whether only those with a vector count.

        Returns:
            `np.ndarray`: int64, in ascending order.
        """
        return np.flatnonzero(are_numbers(self._vectors())) if with_features else np.arange(len(self._target))

    def _vectors(self) -> np.ndarray:
        return read_vectors(self._target, self._column) if self._is_dataset else as_features(self._target)

    def features(self, size: int) -> np.ndarray:
        """
        Vectors of those that have one.

        Args:
            size (`int`):
                Numbers in a vector of the pool.

        Returns:
            `np.ndarray` of shape `(wanted, size)`.

        Raises:
            ValueError: If there are none, or if they are of another size.
        """
        self._require()
        vectors = self._vectors()
        if vectors.shape[1] != size:
            raise ValueError(
                f"the features of the wanted rows must be of the size of those of the pool, {size}, got "
                f"{vectors.shape[1]}. Score both with the same scorer."
            )
        known = are_numbers(vectors)
        if not known.any():
            raise ValueError(f"none of the {len(vectors)} wanted rows has features: there is nothing to be near to.")
        if not known.all():
            logger.warning("%d of %d wanted rows have no features and are left out.", (~known).sum(), len(known))
        return vectors[known]

    def require_made_as(self, dataset: Dataset) -> None:
        """
        Make sure that the vectors of a pool and of the wanted rows were made in one way.

        Args:
            dataset ([`~datasets.Dataset`]):
                The pool.

        Raises:
            ValueError: If they were not.
        """
        if not self._is_dataset:
            return
        pool, wanted = made_by(dataset, self._column), made_by(self._target, self._column)
        if pool and wanted and pool != wanted:
            raise ValueError(
                f"the features of the pool ({pool}) and of the wanted rows ({wanted}) do not compare. Score both with "
                "the same model and the same options."
            )

    def _require(self) -> None:
        if self._target is None or isinstance(self._target, str):
            raise ValueError("target must be the wanted rows, got none. Pass target= a scored Dataset, or features.")
        if not len(self._target):
            raise ValueError("target must hold at least one wanted row, got none.")
