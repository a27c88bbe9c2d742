"""What each tier of levels costs beside training, foretold and measured, and how well it ranks the rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset

from hf_dlc.pipeline.options import DataArguments, ModelArguments
from hf_dlc.scorer.extrapolated import ExtrapolatedScorer
from hf_dlc.scorer.scorer import DLCScorer
from hf_dlc.utils.ranks import spearman

from .markdown import table


Result = TypeVar("Result")


@dataclass
class TiersArguments(DataArguments, ModelArguments):
    """Comparison options: which rows are scored and trained on, and what beside the three tiers."""

    rows: int = field(default=300, metadata={"help": "Rows that are drawn at random."})
    also: str = field(default="ifd", metadata={"help": "Scores that one level is measured with as well."})
    share: float = field(default=0.1, metadata={"help": "Share that ExtrapolatedScorer scores at all levels."})
    study_seed: int = field(default=0, metadata={"help": "Seed of the rows, of the share and of the training."})
    output_dir: str = field(default="runs/tiers", metadata={"help": "Folder for the results."})


@dataclass(frozen=True)
class Tier:
    """
    What a way to score costs and gives.

    Args:
        name (`str`):
            Name of the way, for people.
        foretold (`float`):
            Seconds by `estimate`.
        measured (`float`):
            Seconds that `score` took.
        spearman (`dict[str, float]`):
            By the name of each score its rank correlation with the one at all levels; NaN where it has no value.
    """

    name: str
    foretold: float
    measured: float
    spearman: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """All fields, as JSON types; a correlation that is not known is null."""
        known = {name: None if np.isnan(value) else value for name, value in self.spearman.items()}
        return {**asdict(self), "spearman": known}


def tiers_of(exact: DLCScorer, also: str, share: float, seed: int) -> dict[str, DLCScorer | ExtrapolatedScorer]:
    """
    The ways to score that are compared, by their names; all have the model of the first.

    Args:
        exact ([`DLCScorer`]):
            Scorer at all levels.
        also (`str`):
            Names of scores, with commas between them, that one level is measured with as well.
        share (`float`):
            Share that [`ExtrapolatedScorer`] scores at all levels.
        seed (`int`):
            Seed of this share.

    Returns:
        `dict[str, DLCScorer | ExtrapolatedScorer]`
    """
    scores = tuple(dict.fromkeys([*exact.config.scores, *also.split(",")]))
    return {
        "exact": exact,
        "fast": exact.with_levels("fast"),
        "single": exact.with_levels("single"),
        f"single, with {also}": exact.with_options(levels="single", scores=scores),
        f"extrapolated from {share:.0%}": ExtrapolatedScorer(exact, share, seed=seed, least_agreement=-1.0),
    }


def measure_tiers(
    tiers: dict[str, DLCScorer | ExtrapolatedScorer], rows: Dataset, scores: Sequence[str], num_threads: int | None
) -> list[Tier]:
    """
    Foretell and measure what each way costs, and compare its scores with those of the first.

    Args:
        tiers (`dict[str, DLCScorer | ExtrapolatedScorer]`):
            The ways by their names; the first is at all levels.
        rows ([`~datasets.Dataset`]):
            Rows that all of them score.
        scores (`Sequence[str]`):
            Columns of the scores that are compared.
        num_threads (`int`, *optional*):
            As for `score`.

    Returns:
        `list[Tier]`
    """
    found: list[Tier] = []
    truth: dict[str, np.ndarray] = {}
    for name, scorer in tiers.items():
        foretold = scorer.estimate(rows, num_threads=num_threads).seconds
        scored, measured = timed(lambda scorer=scorer: scorer.score(rows, num_threads=num_threads))
        values = {score: np.array(scored[score][:]) for score in scores}
        truth = truth or values
        agreement = {score: spearman(values[score], truth[score]) for score in scores}
        found.append(Tier(name, foretold, measured, agreement))
    return found


def timed(act: Callable[[], Result]) -> tuple[Result, float]:
    """What a function returns, and the seconds that it took."""
    start = time.perf_counter()
    return act(), time.perf_counter() - start


def tiers_table(tiers: Sequence[Tier], training_foretold: float, training: float) -> str:
    """
    The comparison as a table in Markdown.

    Args:
        tiers (`Sequence[Tier]`):
            What [`measure_tiers`] returned.
        training_foretold (`float`):
            Seconds of an epoch of training by `estimate`.
        training (`float`):
            Seconds that the epoch took.

    Returns:
        `str`
    """
    scores = list(tiers[0].spearman)
    header = [
        "tier",
        "seconds, foretold",
        "measured",
        "STR, foretold",
        "measured",
        *(f"ρ of `{one}`" for one in scores),
    ]
    lines = [
        [
            tier.name,
            f"{tier.foretold:.0f}",
            f"{tier.measured:.0f}",
            f"{tier.foretold / training_foretold:.2f}",
            f"{tier.measured / training:.2f}",
            *("-" if np.isnan(value) else f"{value:.3f}" for value in tier.spearman.values()),
        ]
        for tier in tiers
    ]
    lines.append(
        ["one epoch of training", f"{training_foretold:.0f}", f"{training:.0f}", "1", "1", *["-"] * len(scores)]
    )
    return table(header, lines)
