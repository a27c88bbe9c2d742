"""Parts of a score: the measures it needs of the model, the passes it asks for, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np


# What a measure may be a function of; a task says which of them it has.
MEASURABLE = ("token", "distribution", "pooled", "neighbours")
_WORDS = {  # how errors call them
    "token": "target tokens",
    "distribution": "predicted distributions",
    "pooled": "prompt and response as texts",
    "neighbours": "neighbours of images",
}


@dataclass(frozen=True)
class Pass:
    """
    One time of all rows through the model.

    Args:
        masked_fraction (`float`, *optional*, defaults to 0):
            Share of the maskable weights that is zero.
        view (`str`, *optional*, defaults to `"full"`):
            What of a row the model is shown; a task says which views it has.
        weights (`str`, *optional*, defaults to `"base"`):
            Which weights the model computes with.
    """

    masked_fraction: float = 0.0
    view: str = "full"
    weights: str = "base"


@dataclass(frozen=True)
class Measure:
    """
    A number that a pass gives of a row.

    One of the functions is given. They get and return tensors of floats, and use nothing but their methods, so that no
    library of tensors is needed here. Of an image, the label is the one token and the classes are the vocabulary. A
    task says which kinds of measures it has.

    Args:
        name (`str`):
            What it is called; with `keep_levels` there is a column `{column_prefix}_level_{name}`.
        of_token (`Callable`, *optional*):
            From log p(token), of shape `(tokens,)`, to a number of each token. The measure is the mean over the target
            tokens of a row.
        of_distribution (`Callable`, *optional*):
            From log p of the whole vocabulary, of shape `(tokens, vocabulary)`, and log p(token), `(tokens,)`, to a
            number of each token. Where p is 0, log p is minus infinity. It costs memory and time for the whole
            distribution, which `of_token` does without. The measure is the mean over the target tokens.
        of_pooled (`Callable`, *optional*):
            From two vectors of each row, of shape `(rows, size)`, one of its prompt and one of its response, to a
            number of each row.
        of_neighbours (`Callable`, *optional*):
            From the share of each row's nearest neighbours that have its label, weighted, at each of some layers, of
            shape `(rows, layers)`, to a number of each row. What the neighbours are is learned by `fit`.

    Raises:
        ValueError: If none of the functions is given, or several.
    """

    name: str
    of_token: Callable[[Any], Any] | None = None
    of_distribution: Callable[[Any, Any], Any] | None = None
    of_pooled: Callable[[Any, Any], Any] | None = None
    of_neighbours: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        given = [kind for kind in MEASURABLE if getattr(self, f"of_{kind}") is not None]
        if len(given) != 1:
            names = " and ".join(f"of_{kind}" for kind in MEASURABLE)
            raise ValueError(f"the measure {self.name!r} must have one of {names}, got {len(given)} of them.")

    @property
    def kind(self) -> str:
        """What it is a function of: one of `MEASURABLE`."""
        return next(kind for kind in MEASURABLE if getattr(self, f"of_{kind}") is not None)

    def numbers(self, log_probs: Any, distribution: Any = None, neighbours: Any = None) -> Any:
        """
        The number of each token, or of each row.

        Args:
            log_probs (`Any`):
                Log p of the tokens.
            distribution (`Any`, *optional*):
                Log p of the whole vocabulary, where a measure of that kind is asked for.
            neighbours (`Any`, *optional*):
                Shares of neighbours with the label, where a measure of that kind is asked for.

        Returns:
            `Any`: What the one function that is given returns.
        """
        if self.of_token is not None:
            return self.of_token(log_probs)
        if self.of_distribution is not None:
            return self.of_distribution(distribution, log_probs)
        return self.of_neighbours(neighbours)


@dataclass(frozen=True)
class Features:
    """
    What a pass of the unmasked model gives of each row beside its numbers: a vector, pooled from hidden states.

    Args:
        pooling (`str`):
            How states become one vector, of those that the task knows.
        size (`int`):
            Numbers in the vector.
        pooled_size (`int`):
            Numbers in it before the random projection; the same where there is none.
        seed (`int`, *optional*, defaults to 0):
            Seed of the projection.
    """

    pooling: str
    size: int
    pooled_size: int
    seed: int = 0

    @property
    def name(self) -> str:
        """Its name among what is measured."""
        return "features"


Asked = Measure | Features  # of a pass


class Score(Protocol):
    """
    What becomes of a row's measures: a column `{column_prefix}_{name}` of float32, with a range and an orientation.

    A new score is a file that holds a class like this, and a line in the table `SCORES`. [`OverLevels`] and
    [`mean_over_levels`] are for scores that are means over the levels, [`Unmasked`] for those that mask nothing, and
    [`~contrast.Contrast`] for those that compare a response with its prompt. Its docstring says formula, meaning and
    source, and ends with range, orientation and cost in passes. A pass that two scores ask for is run once.
    """

    name: str
    easy: Literal["high", "low"]  # which values mean easy rows
    low: float  # the range, ends included
    high: float
    unit: str  # of the values, "" for a share
    text: str  # a sentence for card, report and docs: what it is, without its orientation
    measures: tuple[Measure, ...]

    def passes(self, schedule: Sequence[float]) -> tuple[Pass, ...]:
        """The passes that it needs, where `schedule` has the masked fraction of each level."""

    def reduce(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """
        The score of each row, as float32 of shape `(rows,)`.

        Args:
            values (`Mapping[str, np.ndarray]`):
                By the name of the measure its values, of shape `(passes, rows)` in the order of `passes`.
        """


class Unmasked:
    """Base of scores that ask for the unmasked model alone: one pass."""

    def passes(self, schedule: Sequence[float]) -> tuple[Pass, ...]:
        """The pass of level 0."""
        return (Pass(),)


class OverLevels:
    """Base of scores that ask for a pass at each level."""

    def passes(self, schedule: Sequence[float]) -> tuple[Pass, ...]:
        """One for each level."""
        return tuple(map(Pass, schedule))


def mean_over_levels(values: np.ndarray) -> np.ndarray:
    """
    Mean of a measure over the levels, taken in double precision.

    Args:
        values (`np.ndarray` of shape `(levels, rows)`):
            The measure of each row at each level.

    Returns:
        `np.ndarray` of shape `(rows,)`: float32, NaN where a level has NaN.
    """
    return values.mean(axis=0, dtype=np.float64).astype(np.float32)


def measures_by_pass(
    scores: Iterable[Score],
    schedule: Sequence[float],
    views: Collection[str] | None = None,
    weights: Collection[str] | None = None,
    measurable: Collection[str] | None = None,
) -> dict[Pass, tuple[Measure, ...]]:
    """
    All passes that some scores ask for, each once, and what is measured in each.

    Args:
        scores (`Iterable[Score]`):
            The scores.
        schedule (`Sequence[float]`):
            Masked fraction of each level.
        views (`Collection[str]`, *optional*):
            The views that the task has of a row; by default any.
        weights (`Collection[str]`, *optional*):
            The weights that there are; by default any.
        measurable (`Collection[str]`, *optional*):
            Kinds of measures that the task has, of `MEASURABLE`; by default any.

    Returns:
        `dict[Pass, tuple[Measure, ...]]`: Passes with the base weights first, of them those with the full view first,
        and of these in ascending order of their masked fractions.

    Raises:
        ValueError: If a score asks for a view or for weights that are not there, measures what the task cannot
            compute, or measures something else under the name of a measure of another score.
    """
    wanted: dict[Pass, dict[str, Measure]] = {}
    known: dict[str, Measure] = {}
    for score in scores:
        for measure in score.measures:
            if measurable is not None and measure.kind not in measurable:
                raise ValueError(
                    f"the score {score.name!r} is a measure of {_WORDS[measure.kind]}, which this kind of model does "
                    f"not give: it gives those of {', '.join(map(_WORDS.get, sorted(measurable)))}. Leave the score "
                    "out."
                )
            if known.setdefault(measure.name, measure) != measure:
                raise ValueError(
                    f"the score {score.name!r} must measure the same under the name {measure.name!r} as other scores "
                    "do. Give its measure a name of its own."
                )
        for one in score.passes(schedule):
            _require(score, "view", one.view, views)
            _require(score, "weights", one.weights, weights)
            wanted.setdefault(one, {}).update({measure.name: measure for measure in score.measures})
    ordered = sorted(wanted, key=lambda one: (one.weights != "base", one.view != "full", one.masked_fraction))
    return {one: tuple(wanted[one].values()) for one in ordered}


_ADVICE = {
    "weights": "Make a scorer with adapters by scorer.adapt(wanted_rows), unless it scores by prototypes, or leave "
    "the score out."
}


def _require(score: Score, kind: str, asked: str, there: Collection[str] | None) -> None:
    if there is not None and asked not in there:
        raise ValueError(
            f"the score {score.name!r} needs the {kind} {asked!r}, but the model is run with "
            f"{', '.join(sorted(there))} only. {_ADVICE.get(kind, 'Leave the score out.')}"
        )


def masks_weights(scores: Iterable[Score]) -> bool:
    """Whether any of the scores asks for a level of masked weights."""
    return any(one.masked_fraction for score in scores for one in score.passes((0.0, 0.5)))


def kinds_of(scores: Iterable[Score]) -> frozenset[str]:
    """The kinds of measures that some scores need; the task must compute, or even learn, what these are of."""
    return frozenset(measure.kind for score in scores for measure in score.measures)


def passes_to_json(wanted: Mapping[Pass, Sequence[Asked]]) -> list[dict[str, Any]]:
    """Passes and the names of their measures as JSON types, from what [`measures_by_pass`] returned."""
    return [{**asdict(one), "measures": [measure.name for measure in wanted[one]]} for one in wanted]
