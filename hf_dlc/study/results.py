"""What a study has found: of every cell all that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arms import METRICS, Cell
from .options import StudyArguments


_OF_A_CELL = {"rows", "tokens", "seconds", "shared", "identity"}  # all else is measured


@dataclass(frozen=True)
class StudyResults:
    """
    Results of a study.

    Args:
        dataset (`str`):
            Name of the dataset.
        options (`StudyArguments`):
            What was compared.
        scoring (`dict[str, Any]`):
            What scored the pool (`scorer`, as it describes itself), the masked fraction of each level (`fractions`),
            what that has cost (`seconds`), and whether this is of the last run only (`resumed`).
        target_tokens (`Sequence[int]`):
            Target tokens of each row of the pool.
        held_out_rows (`int`):
            By how many rows the models were measured.
        screening (`dict[Cell, dict[str, Any]]`):
            What came out of the first stage; empty where it was skipped.
        finalists (`Sequence[str]`):
            Arms that went on.
        confirming (`dict[Cell, dict[str, Any]]`):
            What came out of the second stage.
    """

    dataset: str
    options: StudyArguments
    scoring: dict[str, Any]
    target_tokens: Sequence[int]
    held_out_rows: int
    screening: dict[Cell, dict[str, Any]]
    finalists: Sequence[str]
    confirming: dict[Cell, dict[str, Any]]

    @property
    def matchings(self) -> list[str]:
        """What subsets have equally many of."""
        return self.options.matching_names

    @property
    def metrics(self) -> list[str]:
        """Names of what was measured, what decides first."""
        found = next(iter(self.confirming.values()))
        return [*METRICS, *(name for name in found if name not in _OF_A_CELL.union(METRICS))]

    def values(self, arm: str, matching: str, budget: float, name: str) -> np.ndarray:
        """One value of all models of an arm and budget, seed by seed."""
        cells = [Cell(arm, matching, budget, seed) for seed in self.options.confirming_seeds]
        return np.array([self.confirming[cell][name] for cell in cells])
