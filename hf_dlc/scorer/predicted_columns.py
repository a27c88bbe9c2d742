"""Score columns of which a part is predicted: put together from two scorings, and filled in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset, Features

from hf_dlc.scores.base import Score
from hf_dlc.scores.columns import OK, PREDICTED, SCORED_STATUSES, TRUNCATED, score_features, vector_features
from hf_dlc.scores.table import SCORES
from hf_dlc.selection.vectors import read_vectors


class PredictedColumns:
    """
    The score columns of all rows: those of a share as they are, those of the others about to be predicted.

    Args:
        plain ([`~datasets.Dataset`]):
            All rows as the unmasked level scores them, with the columns of this level.
        exact ([`~datasets.Dataset`]):
            The share as all levels score it.
        rows (`np.ndarray` of shape `(share,)`):
            Numbers of the rows of the share.
        column_prefix (`str`):
            First part of the names of the columns.

    Attributes:
        values (`dict[str, Any]`):
            By the name of the column a value of each row.
        features ([`~datasets.Features`]):
            Types of these columns.
        scorable (`np.ndarray` of shape `(rows,)`):
            Which rows have a score, computed or about to be predicted.
        wanted (`np.ndarray`):
            Numbers of the rows to predict.
    """

    def __init__(self, plain: Dataset, exact: Dataset, rows: np.ndarray, column_prefix: str) -> None:
        self._plain, self._prefix, self.rows = plain.with_format(None), column_prefix, rows
        exact = exact.with_format(None)
        names = [name for name in score_features(column_prefix, True, SCORES) if name in exact.column_names]
        self.features = Features({name: exact.features[name] for name in names})
        self.values: dict[str, Any] = {name: _merged(self._plain[name][:], exact[name][:], rows) for name in names}
        statuses = np.array(self.values[f"{column_prefix}_status"], dtype=object)
        self.scorable = np.isin(statuses, list(SCORED_STATUSES))
        self.wanted = np.setdiff1d(np.flatnonzero(np.isin(statuses, [OK, TRUNCATED])), rows)
        statuses[self.wanted] = PREDICTED
        # Rows that lack a score are not predicted, and have no scores of masked levels.
        self._unknown = np.setdiff1d(np.flatnonzero(self.scorable), np.union1d(rows, self.wanted))
        self.values[f"{column_prefix}_status"] = statuses.tolist()
        vectors, made = vector_features(column_prefix)
        if vectors in plain.column_names:
            self.features = Features({**self.features, **{name: plain.features[name] for name in (vectors, made)}})
            self.values |= {vectors: read_vectors(plain, vectors), made: self._plain[made][:]}

    @property
    def vectors(self) -> np.ndarray | None:
        """Features of all rows from the unmasked pass, where the scorer writes them."""
        return self.values.get(next(iter(vector_features(self._prefix))))

    def asked(self, schedule: Sequence[float]) -> list[str]:
        """Names of the scores that are there and depend on the masked levels of a schedule."""
        return [name for name in self._scores() if _needs_masks(SCORES[name], schedule)]

    def measures(self) -> list[np.ndarray]:
        """What the unmasked pass says of each row: its measures, scores that need no masks, and the target tokens."""
        levels = [name for name in self._plain.column_names if name.startswith(f"{self._prefix}_level_")]
        found = [np.array([one[0] for one in self._plain[name][:]], dtype=np.float64) for name in levels]
        scores = [name for name in self._scores() if not _needs_masks(SCORES[name], (0.0, 0.5))]
        others = [self._plain[f"{self._prefix}_{name}"][:] for name in (*scores, "tokens")]
        return [*found, *(np.array(values, dtype=np.float64) for values in others)]

    def known(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the rows of the share that have this score, and their scores."""
        scores = np.array(self.values[f"{self._prefix}_{name}"], dtype=np.float64)[self.rows]
        there = np.isfinite(scores)
        return self.rows[there], scores[there]

    def set_predicted(self, name: str, scores: np.ndarray) -> None:
        """Write the scores of the rows that are predicted."""
        column = np.array(self.values[f"{self._prefix}_{name}"], dtype=np.float32)
        column[self.wanted], column[self._unknown] = scores, np.nan
        self.values[f"{self._prefix}_{name}"] = column

    def _scores(self) -> list[str]:
        return [name for name in SCORES if f"{self._prefix}_{name}" in self.values]


def _needs_masks(score: Score, schedule: Sequence[float]) -> bool:
    return any(one.masked_fraction > 0 for one in score.passes(schedule))


def _merged(plain: Sequence[Any], exact: Sequence[Any], rows: np.ndarray) -> list[Any]:
    """Values of all rows, those of the share from `exact`; lists of levels get NaN for levels that were not run."""
    merged = list(plain)
    if isinstance(exact[0], list):
        merged = [one + [float("nan")] * (len(exact[0]) - len(one)) for one in merged]
    for place, value in zip(rows.tolist(), exact, strict=True):
        merged[place] = value
    return merged
