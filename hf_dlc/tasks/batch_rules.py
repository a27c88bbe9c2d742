"""Rules of micro-batches: rows that may go through a model together, and how far they may be padded."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np


# Rows are padded to a multiple of this many tokens. Libraries compile kernels for each shape that they meet, which
# takes milliseconds and megabytes: with all lengths there are, a long run would keep gigabytes of them.
LENGTH_STEP = 8


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
    """

    boundaries: tuple[int, ...] = ()
    alone_beyond: int | None = None
    positions: int | None = None

    @classmethod
    def from_json(cls, value: Any) -> BatchRules:
        """
        Rules as `to_json` writes them.

        Raises:
            KeyError, TypeError, ValueError: If that is something else.
        """
        boundaries, beyond, positions = (value[name] for name in cls._fields)
        if not all(type(number) is int and number >= 0 for number in [*boundaries, beyond or 0, positions or 0]):
            raise ValueError("the rules of micro-batches must be whole numbers of tokens")
        return cls(tuple(boundaries), beyond, positions)

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

    def padded(self, lengths: np.ndarray, start: np.ndarray | int = 0) -> np.ndarray:
        """Tokens to compute of rows of `lengths` tokens behind their first `start` ones, padding included."""
        computed = lengths - start
        padded = -(-computed // LENGTH_STEP) * LENGTH_STEP
        limits = np.minimum(self._limits[self._kinds(lengths)], self.most_tokens)
        padded = np.minimum(padded, limits - start).astype(np.int64)
        return np.where(self._are_alone(lengths), computed, np.maximum(padded, computed))

    def groups(self, lengths: np.ndarray) -> np.ndarray:
        """Give each row a number; only rows of the same number may share a micro-batch."""
        return np.where(self._are_alone(lengths), -1 - np.arange(len(lengths)), self._kinds(lengths))

    @property
    def _limits(self) -> np.ndarray:
        beyond = [] if self.alone_beyond is None else [self.alone_beyond]
        return np.array([*sorted({*self.boundaries, *beyond}), math.inf])

    def _kinds(self, lengths: np.ndarray) -> np.ndarray:
        """Between which of the limits each row is."""
        return np.searchsorted(self._limits, lengths)

    def _are_alone(self, lengths: np.ndarray) -> np.ndarray:
        return lengths > (math.inf if self.alone_beyond is None else self.alone_beyond)
