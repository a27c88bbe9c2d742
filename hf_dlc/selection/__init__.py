"""From scores to row numbers: selectors that return a subset of a scored dataset."""

from __future__ import annotations

from .baselines import RandomSelector, TopKSelector
from .flexrand import FlexRandSelector


__all__ = ["FlexRandSelector", "RandomSelector", "TopKSelector"]
