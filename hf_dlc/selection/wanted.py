"""The wanted rows, in whichever form the user hands them over: a dataset, their features, their texts or labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from .columns import are_numbers, as_features, read_contents, read_texts
from .vectors import made_by, read_vectors


if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

_FORMS = "Pass target= a scored Dataset, an array of features, or a list of texts or labels."


class Wanted:
    """
    Examples of the task that the model is to learn, read once.

    Args:
        target ([`~datasets.Dataset`], `np.ndarray` or `Sequence`):
            The rows, their features, their texts or their labels; in a selector that was read from a record, a
            description.
        features_column (`str`, *optional*, defaults to `"dlc_features"`):
            Column of the features in a dataset.
        text_columns (`Sequence[str]`, *optional*):
            Columns of text in the pool. They are read of a dataset of wanted rows that has all of them as well; of
            another all text is read.
    """

    def __init__(
        self, target: Any, features_column: str = "dlc_features", text_columns: Sequence[str] | None = None
    ) -> None:
        self._target, self._column, self._text_columns = target, features_column, text_columns

    @property
    def description(self) -> str | None:
        """How many they are, for people."""
        if self._target is None or isinstance(self._target, str):
            return self._target
        return f"{len(self._target)} wanted rows"

    @property
    def column_names(self) -> list[str]:
        """Columns of a dataset; none of another form."""
        return getattr(self._target, "column_names", [])

    @property
    def dataset(self) -> Dataset | None:
        """The wanted rows as a dataset, where they are one."""
        return self._target if hasattr(self._target, "column_names") else None

    def require_rows(self) -> None:
        """Raise a `ValueError` if there are none."""
        if self._target is None:
            raise ValueError(f"target must be the wanted rows, got none. {_FORMS}")
        if isinstance(self._target, str):
            raise ValueError(f"target must be the wanted rows, got the text {self._target!r} in their place. {_FORMS}")
        if not hasattr(self._target, "__len__") or isinstance(self._target, dict):
            raise ValueError(f"target must be the wanted rows, got {type(self._target).__name__}. {_FORMS}")
        if not len(self._target):
            raise ValueError(f"target must hold at least one wanted row, got none. {_FORMS}")

    @cached_property
    def texts(self) -> list[str]:
        """
        Text of each of them.

        Raises:
            ValueError: If there are none, or if none has a word.
        """
        self.require_rows()
        texts = list(self._target) if self.dataset is None else read_texts(self.dataset, self._own_text_columns)
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("target must be a Dataset with text, or a list of texts, to compare words.")
        if not any(text.strip() for text in texts):
            raise ValueError(f"none of the {len(texts)} wanted rows in target has a word to compare by.")
        return texts

    @cached_property
    def contents(self) -> list[str] | None:
        """What tells whether they equal a row of the pool ([`~candidates.read_contents`]); `None` if nothing does."""
        if self.dataset is not None:
            return read_contents(self.dataset, self._own_text_columns)
        is_texts = isinstance(self._target, list | tuple) and all(isinstance(one, str) for one in self._target)
        return list(self._target) if is_texts else None

    @property
    def _own_text_columns(self) -> Sequence[str] | None:
        if self._text_columns is None or set(self._text_columns) <= set(self.column_names):
            return self._text_columns
        logger.info("the wanted rows have not all of the columns %s: all of their text is read", self._text_columns)
        return None

    @property
    def has_vectors(self) -> bool:
        """Whether features of them were handed over, and not labels or texts alone."""
        if self.dataset is not None:
            return self._column in self.column_names
        return not self._is_flat

    @property
    def _is_flat(self) -> bool:
        return not any(isinstance(one, list | tuple | np.ndarray) for one in self._target)

    @cached_property
    def vectors(self) -> np.ndarray:
        """
        Features of all of them, of shape `(wanted, size)`, NaN where there are none.

        Raises:
            ValueError: If they are no vectors of one length, or if none is there.
        """
        self.require_rows()
        if self.dataset is not None and not self.has_vectors:
            raise ValueError(
                f"target must have the column {self._column!r} of features, got {self.column_names}. Score the wanted "
                "rows with features=True, or pass features_column= one of these."
            )
        vectors = self._given_vectors() if self.dataset is None else read_vectors(self.dataset, self._column)
        known = are_numbers(vectors)
        if not known.any():
            raise ValueError(f"none of the {len(vectors)} wanted rows in target has features. Score them anew.")
        if not known.all():
            logger.warning("%d of %d wanted rows have no features and are left out.", (~known).sum(), len(known))
        return vectors

    def _given_vectors(self) -> np.ndarray:
        try:
            found = np.asarray(self._target)
        except ValueError:  # lists of several lengths
            found = np.empty(0, dtype=object)
        if found.ndim != 2 or found.dtype.kind not in "fiu" or not found.shape[1]:
            raise ValueError(
                "target must be a Dataset or an array of numbers of shape (wanted, size), got "
                f"{type(self._target).__name__} of shape {found.shape} and dtype {found.dtype}."
            )
        return as_features(found if found.dtype.kind == "f" else found.astype(np.float64))

    @property
    def numbers(self) -> np.ndarray:
        """Numbers of those that have features, among all that were handed over."""
        return np.flatnonzero(are_numbers(self.vectors))

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
        if self.vectors.shape[1] != size:
            raise ValueError(
                f"the features of the wanted rows must be of the size of those of the pool, {size}, got "
                f"{self.vectors.shape[1]}. Score both with the same scorer."
            )
        known = are_numbers(self.vectors)
        return self.vectors if known.all() else self.vectors[known]

    def labels(self, column: str) -> Sequence | np.ndarray | None:
        """
        Labels of the wanted rows.

        Args:
            column (`str`):
                Column of a dataset that holds them.

        Returns:
            `Sequence` or `np.ndarray`: `None` where there are features alone.
        """
        self.require_rows()
        if self.dataset is not None:
            return self.dataset.with_format(None)[column][:] if column in self.column_names else None
        # Not through an array where it holds no numbers: that would turn 1 beside "a" into "1".
        is_numbers = isinstance(self._target, np.ndarray) and self._target.dtype.kind in "biu"
        return (self._target if is_numbers else list(self._target)) if self._is_flat else None

    def require_made_as(self, dataset: Dataset) -> None:
        """
        Make sure that the vectors of a pool and of the wanted rows were made in one way, as far as they say.

        Args:
            dataset ([`~datasets.Dataset`]):
                The pool.

        Raises:
            ValueError: If they were not.
        """
        if self.dataset is None or self._column not in self.column_names:
            return
        pool, wanted = made_by(dataset, self._column), made_by(self.dataset, self._column)
        if pool and wanted and pool != wanted:
            raise ValueError(
                f"the features of the pool ({pool}) and of the wanted rows ({wanted}) do not compare. Score both with "
                "the same model and the same options."
            )
        if bool(pool) != bool(wanted):
            logger.warning(
                "Only one dataset says how the features in %r were made: they may not compare.", self._column
            )
