"""From scores to row numbers: selectors that return a subset of a scored dataset."""

from __future__ import annotations

from .flexrand import FlexRandSelector
from .random import RandomSelector
from .top_k import TopKSelector


__all__ = ["FlexRandSelector", "RandomSelector", "TopKSelector"]
