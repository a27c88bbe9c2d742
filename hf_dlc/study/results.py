"""Findings of a study: all that was measured of every cell."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from .arms import FULL, METRICS, Cell, parse_arm
from .options import PilotArguments, StudyArguments


_OF_A_CELL = {"rows", "tokens", "seconds", "selecting", "shared", "suspect", "identity"}  # all else is measured


@dataclass(frozen=True)
class StudyResults:
    """
    Findings of a study, from which its report is written.

    Args:
        options (`StudyArguments`):
            What was compared.
        facts (`dict[str, Any]`):
            The rows, the scorer, and what each need of an arm has cost, in seconds of a core or an accelerator.
        screening (`dict[Cell, dict[str, Any]]`):
            What came out of the first stage; empty where it was skipped.
        finalists (`list[str]`):
            Arms that went on.
        start (`dict[str, Any]`):
            What was measured of the model before any training.
        confirming (`dict[Cell, dict[str, Any]]`):
            What came out of the second stage.
    """

    options: StudyArguments
    facts: dict[str, Any]
    screening: dict[Cell, dict[str, Any]]
    finalists: list[str]
    start: dict[str, Any]
    confirming: dict[Cell, dict[str, Any]]

    @property
    def matchings(self) -> list[str]:
        """What subsets have equally many of."""
        return self.options.matching_names

    @property
    def seeds(self) -> list[int]:
        """Seeds of which all cells are there."""
        return sorted({cell.seed for cell in self.confirming})

    @property
    def metrics(self) -> list[str]:
        """Names of what was measured, the one that ranks the arms first."""
        return [*METRICS, *(name for name in self.start if name not in _OF_A_CELL.union(METRICS))]

    def values(self, arm: str, matching: str, budget: float, name: str) -> np.ndarray:
        """One value of all models of an arm and budget, seed by seed."""
        return np.array([self.confirming[Cell(arm, matching, budget, seed)][name] for seed in self.seeds])

    def full(self, name: str) -> np.ndarray:
        """One value of all models that were trained on all rows, seed by seed."""
        return self.values(FULL, "rows", 1.0, name)

    @property
    def epoch_seconds(self) -> float:
        """Seconds of one epoch of this study's training on all rows, with the run of the lower layers."""
        # A median, as some models may have been trained while the machine was busy.
        trained = float(np.median(self.full("seconds"))) / self.options.epochs
        return trained + self.facts["lower_layers_seconds"]

    def cost(self, arm: str) -> float | None:
        """Seconds that an arm has cost before training, for scores, features and selecting; `None` if not known."""
        known = self.facts["seconds"]
        parts = [known.get(need, 0.0) for need in parse_arm(arm).needs]
        if None in parts:
            return None
        found = [cell["selecting"] for one, cell in self.confirming.items() if one.arm == arm]
        return sum(parts) + float(np.median(found))

    def ratio(self, arm: str) -> float | None:
        """What an arm costs, divided by one epoch of LoRA at all layers on all rows (STR); `None` if not known."""
        cost, epoch = self.cost(arm), self.facts["lora_epoch_seconds"]
        return cost / epoch if cost is not None and epoch else None

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON types."""
        return {
            "options": asdict(self.options),
            "facts": self.facts,
            "finalists": self.finalists,
            "start": self.start,
            "screening": [{**cell._asdict(), **found} for cell, found in self.screening.items()],
            "confirming": [{**cell._asdict(), **found} for cell, found in self.confirming.items()],
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> StudyResults:
        """Read what [`StudyResults.to_json`] returned, as study.json holds it."""
        cells = {
            stage: {
                Cell(*(row[name] for name in Cell._fields)): {
                    name: value for name, value in row.items() if name not in Cell._fields
                }
                for row in record[stage]
            }
            for stage in ("screening", "confirming")
        }
        rest = {name: record[name] for name in ("facts", "finalists", "start")}
        return cls(options=_read_options(record["options"]), **rest, **cells)


def _read_options(record: dict[str, Any]) -> StudyArguments:
    """The options of a study, of one in a given time too; those that there are no longer change nothing."""
    kind = PilotArguments if "minutes" in record else StudyArguments
    known = {option.name for option in fields(kind)}
    return kind(**{name: value for name, value in record.items() if name in known})
