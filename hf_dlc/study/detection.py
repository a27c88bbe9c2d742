"""Which scores find rows that are wrong: AUROC with intervals, and what each score costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from hf_dlc.report.statistics import auroc, auroc_along
from hf_dlc.scores.base import measures_by_pass
from hf_dlc.scores.table import SCORES, chosen_scores
from hf_dlc.utils.ranks import bootstrap_interval

from .markdown import table


@dataclass(frozen=True)
class Detection:
    """
    How well a score finds the wrong rows.

    Args:
        score (`str`):
            Name of the score.
        auroc (`float`):
            Probability that a wrong row is harder than another one by this score.
        low (`float`):
            Lower end of the 95% interval of bootstrap samples, wrong rows and others drawn apart.
        high (`float`):
            Upper end of it.
        found (`int`):
            Wrong rows among as many hardest rows as there are wrong ones.
        wrong (`int`):
            Number of wrong rows that have the score.
        rows (`int`):
            Number of all rows that have the score.
        cost (`float`):
            Tokens that its passes compute, divided by those of one pass over the whole rows.
    """

    score: str
    auroc: float
    low: float
    high: float
    found: int
    wrong: int
    rows: int
    cost: float

    def to_json(self) -> dict[str, Any]:
        """All fields, as JSON types."""
        return asdict(self)


def detect(
    scored: Dataset,
    is_wrong: np.ndarray,
    scores: Sequence[str],
    cost_of: dict[str, float],
    column_prefix: str = "dlc",
    samples: int = 2000,
    seed: int = 0,
) -> list[Detection]:
    """
    Compare scores by how well they find the wrong rows; the best come first.

    Args:
        scored ([`~datasets.Dataset`]):
            Rows with the score columns.
        is_wrong (`np.ndarray` of shape `(rows,)`):
            Which rows are wrong.
        scores (`Sequence[str]`):
            Names of scores.
        cost_of (`dict[str, float]`):
            By the name of each score what [`costs`] returned.
        column_prefix (`str`, *optional*, defaults to `"dlc"`):
            What the names of the score columns begin with.
        samples (`int`, *optional*, defaults to 2000):
            Bootstrap samples.
        seed (`int`, *optional*, defaults to 0):
            Seed of the samples.

    Returns:
        `list[Detection]`
    """
    found = []
    for name in scores:
        values = np.array(scored.with_format(None)[f"{column_prefix}_{name}"][:], dtype=np.float64)
        known = ~np.isnan(values)
        hardness = (values if SCORES[name].easy == "low" else -values)[known]
        wrong = is_wrong[known]
        kinds = hardness[wrong], hardness[~wrong]
        low, high = bootstrap_interval(auroc_along, *kinds, paired=False, resamples=samples, seed=seed)
        first = np.argsort(-hardness, kind="stable")[: wrong.sum()]
        counts = int(wrong[first].sum()), int(wrong.sum()), len(wrong)
        found.append(Detection(name, auroc(hardness, wrong), low, high, *counts, cost_of[name]))
    return sorted(found, key=lambda one: -one.auroc)


def costs(tokens_of_view: dict[str, int], scores: Sequence[str], schedule: Sequence[float]) -> dict[str, float]:
    """
    Cost of each score if it is the only one: tokens of its passes by those of one pass over the whole rows.

    Args:
        tokens_of_view (`dict[str, int]`):
            By the name of the view the tokens of all rows in it.
        scores (`Sequence[str]`):
            Names of scores.
        schedule (`Sequence[float]`):
            Masked fraction of each level.

    Returns:
        `dict[str, float]`
    """
    whole = tokens_of_view["full"]
    return {
        score.name: sum(tokens_of_view[one.view] for one in measures_by_pass([score], schedule)) / whole
        for score in chosen_scores(scores)
    }


def detection_table(found: Sequence[Detection]) -> str:
    """The comparison as a table in Markdown."""
    header = ["score", "AUROC (95% interval)", "wrong rows among as many hardest", "cost in passes"]
    rows = [
        [
            f"`{one.score}`",
            f"{one.auroc:.3f} ({one.low:.3f}–{one.high:.3f})",
            f"{one.found} of {one.wrong}",
            f"{one.cost:.2f}",
        ]
        for one in found
    ]
    return table(header, rows)
