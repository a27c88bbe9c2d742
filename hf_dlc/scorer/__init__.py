"""`DLCScorer`, which scores rows, and the rooms behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .scorer import DLCScorer

__all__ = ["DLCScorer"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .scorer import DLCScorer  # not before it is asked for: it imports torch

    return DLCScorer
