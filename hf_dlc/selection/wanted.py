"""The wanted rows, in whichever form the user hands them over: a dataset, their features, their texts or labels."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from .columns import are_numbers, as_features, content_kinds, read_texts, read_token_ids, text_columns
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
        self._target, self._column, self._text_columns = _plain(target), features_column, text_columns
        # What tells whether they equal a row of a pool: texts, or what `compare_with` finds.
        self.contents = self._target if _are_texts(self._target) else None

    @property
    def description(self) -> str | None:
        """How many they are, for people; of a description nothing but this is believed, whoever wrote it."""
        if isinstance(self._target, str):
            return self._target if re.fullmatch(r"\d+ wanted rows?", self._target) else None
        if not hasattr(self._target, "__len__"):
            return None
        return f"{len(self._target)} wanted row{'' if len(self._target) == 1 else 's'}"

    @property
    def column_names(self) -> list[str]:
        """Columns of a dataset; none of another form."""
        return [] if self.dataset is None else self.dataset.column_names

    @property
    def dataset(self) -> Dataset | None:
        """The wanted rows as a dataset, where they are one."""
        is_dataset = hasattr(self._target, "column_names") and hasattr(self._target, "select")
        return self._target if is_dataset else None

    def require_rows(self) -> None:
        """Raise a `ValueError` if there are none."""
        if self._target is None:
            raise ValueError(f"target must be the wanted rows, got none. {_FORMS}")
        if isinstance(self._target, str):
            raise ValueError(f"target must be the wanted rows, got the text {self._target!r} in their place. {_FORMS}")
        if isinstance(self._target, dict):
            raise ValueError(f"target must be one Dataset, got {type(self._target).__name__}. Pass one of its splits.")
        if not hasattr(self._target, "__len__") or hasattr(self._target, "columns"):
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

    def compare_with(self, pool: Dataset) -> list[str] | None:
        """
        Find what tells whether rows of a pool equal a wanted row: pictures, token ids or text, whichever both have.

        Args:
            pool ([`~datasets.Dataset`]):
                The rows of the pool.

        Returns:
            `list[str]`: That of each row of the pool; that of the wanted rows is then in `contents`. `None` if there
            is nothing that both have, which is logged.
        """
        self.require_rows()
        kinds = content_kinds(pool, self._text_columns)
        own = ["text"] if self.contents else [] if self.dataset is None else content_kinds(self.dataset)
        kind = next((kind for kind in kinds if kind in own), None)
        if kind == "pictures":
            return self._compare_pictures(pool)
        if kind is None:
            _say_incomparable(kinds, own)
            return None
        if kind == "token ids":
            self.contents = read_token_ids(self.dataset)
            return read_token_ids(pool)
        if self._text_columns is None:
            names = ", ".join(text_columns(pool))
            logger.info("rows are held against the wanted ones by the text in %s; text_columns= names others", names)
        if self.dataset is not None:
            self.contents = self.texts
        return read_texts(pool, self._text_columns)

    def _compare_pictures(self, pool: Dataset) -> list[str] | None:
        from hf_dlc.utils.content import (
            media_columns,
            media_digests,
        )  # loads libraries that other selectors do without

        names, own = media_columns(pool), media_columns(self.dataset)
        if len(names) > 1 or len(own) > 1:  # of one column each, the names do not matter
            names = own = [name for name in names if name in own]
        if not names:
            _say_incomparable(["pictures in several columns"], ["pictures in others"])
            return None
        self.contents = media_digests(self.dataset, own)
        return media_digests(pool, names)

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
        if not are_numbers(vectors).any():
            raise ValueError(f"none of the {len(vectors)} wanted rows in target has features. Score them anew.")
        return vectors

    @cached_property
    def _is_known(self) -> np.ndarray:
        """Mask of those that have features; that others have none is said once."""
        known = are_numbers(self.vectors)
        if not known.all():
            logger.warning("%d of %d wanted rows have no features and are left out.", (~known).sum(), len(known))
        return known

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
        return np.flatnonzero(self._is_known)

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
        return self.vectors if self._is_known.all() else self.vectors[self._is_known]

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


def _plain(target: Any) -> Any:
    """A list or an array in the place of a column, a series or a tensor; whatever else it is stays."""
    if isinstance(target, np.ndarray):
        return target.tolist() if target.dtype.kind in "UO" else target
    if target is None or isinstance(target, str | dict | list) or hasattr(target, "columns"):
        return target
    if hasattr(target, "column_names"):  # a dataset
        return target
    if hasattr(target, "numpy"):  # a tensor
        return target.numpy()
    return list(target) if hasattr(target, "__len__") else target


def _are_texts(target: Any) -> bool:
    return isinstance(target, list) and bool(target) and all(isinstance(one, str) for one in target)


def _say_incomparable(kinds: Sequence[str], own: Sequence[str]) -> None:
    logger.info(
        "rows that equal a wanted row are not looked for: the rows have %s, the wanted rows have %s to compare",
        " and ".join(kinds) or "nothing",
        " and ".join(own) or "nothing",
    )
