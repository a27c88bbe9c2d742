"""What tests see of a scorer's insides: one place to change when these do."""

from __future__ import annotations

from typing import Any

from hf_dlc import DLCScorer
from hf_dlc.masking import Masker


def task_of(scorer: DLCScorer) -> Any:
    """What rows mean to the scorer's model."""
    return scorer.parts.task


def masker_of(scorer: DLCScorer) -> Masker:
    """What masks the weights of the scorer's model."""
    return scorer.parts.masker


def computes_side_by_side(scorer: DLCScorer) -> bool:
    """Whether the scorer keeps the masked weights of all levels for rows that come one by one."""
    return scorer.parts.row_by_row._side_by_side[1]
