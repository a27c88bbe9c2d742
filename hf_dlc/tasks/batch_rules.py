"""Rules of micro-batches: rows that may go through a model together, and how far they may be padded."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeVar

import numpy as np


T = TypeVar("T", int, np.ndarray)

# Rows are padded to a multiple of this many tokens. Libraries compile kernels for each shape that they meet, which
# takes milliseconds and megabytes: with all lengths there are, a long run would keep gigabytes of them.
LENGTH_STEP = 8


def in_steps(tokens: T) -> T:
    """The next multiple of `LENGTH_STEP`, also of arrays."""
    return -(-tokens // LENGTH_STEP) * LENGTH_STEP


class BatchRules(NamedTuple):
    """
    Demands of a model on micro-batches, so that a row's score is that of the row on its own.

    Args:
        boundaries (`tuple[int, ...]`, *optional*, defaults to `()`):
            Numbers of tokens. The rows of a micro-batch, their padding included, are all up to such a number, or all
            beyond it: some models change their positions there.
        alone_beyond (`int`, *optional*):
            A row of more tokens goes alone and without padding; `None`: no row does.
        positions (`int`, *optional*):
            Tokens that a row may have at most, its padding included; `None`: any number.
        padding_free_up_to (`int`, *optional*, defaults to 0):
            Rows of at most so many tokens go through the model end to end, in one sequence and without padding.
    """

    boundaries: tuple[int, ...] = ()
    alone_beyond: int | None = None
    positions: int | None = None
    padding_free_up_to: int = 0

    @classmethod
    def from_json(cls, value: Any) -> BatchRules:
        """
        Rules as `to_json` writes them.

        Raises:
            KeyError, TypeError, ValueError: If that is something else.
        """
        boundaries, beyond, positions = (value[name] for name in ("boundaries", "alone_beyond", "positions"))
        free = value.get("padding_free_up_to", 0)  # earlier versions padded all rows
        if not all(type(number) is int and number >= 0 for number in [*boundaries, beyond or 0, positions or 0, free]):
            raise ValueError("the rules of micro-batches must be whole numbers of tokens")
        return cls(tuple(boundaries), beyond, positions, free)

    def to_json(self) -> dict[str, Any]:
        """The rules as JSON types."""
        return {**self._asdict(), "boundaries": list(self.boundaries)}

    @property
    def most_tokens(self) -> float:
        """Tokens that a row may have at most; infinite if it may have any number."""
        return math.inf if self.positions is None else self.positions

    @property
    def plain_up_to(self) -> float:
        """Tokens up to which rows may share a micro-batch and are padded without regard to a boundary."""
        return float(self._limits[0])

    def is_alone(self, length: int) -> bool:
        """Whether a row of `length` tokens must not share a forward pass, not even with itself at other levels."""
        return self.alone_beyond is not None and length > self.alone_beyond

    def are_padding_free(self, lengths: np.ndarray) -> np.ndarray:
        """Which rows of `lengths` tokens go end to end."""
        return (lengths > 0) & (lengths <= self.padding_free_up_to)

    def padded(self, lengths: np.ndarray, start: np.ndarray | int = 0) -> np.ndarray:
        """Tokens to compute of rows of `lengths` tokens behind their first `start` ones, padding included."""
        computed = lengths - start
        padded = in_steps(computed)
        limits = np.minimum(self._limits[self._kinds(lengths)], self.most_tokens)
        padded = np.minimum(padded, limits - start).astype(np.int64)
        has_none = self._are_alone(lengths) | self.are_padding_free(lengths)
        return np.where(has_none, computed, np.maximum(padded, computed))

    def groups(self, lengths: np.ndarray) -> np.ndarray:
        """Numbers of the rows; only rows of the same number may share a micro-batch."""
        kinds = np.where(self.are_padding_free(lengths), len(self._limits), self._kinds(lengths))
        return np.where(self._are_alone(lengths), -1 - np.arange(len(lengths)), kinds)

    @property
    def _limits(self) -> np.ndarray:
        beyond = [] if self.alone_beyond is None else [self.alone_beyond]
        return np.array([*sorted({*self.boundaries, *beyond}), math.inf])

    def _kinds(self, lengths: np.ndarray) -> np.ndarray:
        """Between which of the limits each row is."""
        return np.searchsorted(self._limits, lengths)

    def _are_alone(self, lengths: np.ndarray) -> np.ndarray:
        return lengths > (math.inf if self.alone_beyond is None else self.alone_beyond)
