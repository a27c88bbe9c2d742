"""Predictors of scores: from a few rows that have a score, and numbers that all rows have, to the other rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from hf_dlc.utils.ranks import bootstrap_interval, spearman, spearman_along


# Distances of a block of rows to all scored rows are in memory at once: at most this many.
_DISTANCES_IN_MEMORY = 4_000_000
# Rows by which the number of neighbours is chosen. More would cost time and hardly change the choice.
_CHOOSING_ROWS = 2_000


class Prediction(NamedTuple):
    """Predicted scores, and the options that were chosen for them by the scored rows alone."""

    values: np.ndarray
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class HeldOut:
    """
    How well predictions rank rows that they have not seen, against the true scores of these rows.

    Args:
        spearman (`float`):
            Rank correlation in [-1, 1]; NaN where all predictions, or all scores, are the same.
        low (`float`):
            Lower end of its 95% bootstrap interval.
        high (`float`):
            Upper end.
        settings (`Mapping[str, Any]`):
            Options that were chosen for the rows without a score, by all scored rows.
    """

    spearman: float
    low: float
    high: float
    settings: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; a number that is not known is null."""
        numbers = {name: getattr(self, name) for name in ("spearman", "low", "high")}
        known = {name: float(value) if np.isfinite(value) else None for name, value in numbers.items()}
        settings = {
            key: value.item() if isinstance(value, np.generic) else value for key, value in self.settings.items()
        }
        return {**known, "settings": settings}

    def __str__(self) -> str:
        return f"{self.spearman:.3f} (95% interval {self.low:.3f} to {self.high:.3f})"


class Predictor(Protocol):
    """A way to predict. It sees the features of all rows, and the scores of some."""

    name: ClassVar[str]

    def predict(self, features: np.ndarray, known: np.ndarray, scores: np.ndarray, wanted: np.ndarray) -> Prediction:
        """
        Predict the scores of the wanted rows.

        Args:
            features (`np.ndarray` of shape `(rows, size)`):
                What is known of all rows, as [`standardized`] returns it.
            known (`np.ndarray` of shape `(scored,)`):
                Numbers of the rows that have a score.
            scores (`np.ndarray` of shape `(scored,)`):
                Their scores, without NaN.
            wanted (`np.ndarray` of shape `(wanted,)`):
                Numbers of the rows to predict.

        Returns:
            [`Prediction`]: float64 of shape `(wanted,)`.
        """


def standardized(blocks: Sequence[np.ndarray], known: np.ndarray) -> np.ndarray:
    """
    Put blocks of columns side by side, so that no unit and no number of columns decides what counts.

    Each column gets mean 0 and standard deviation 1 over the scored rows. Then it is divided by the root of the number
    of columns of its block: six measures weigh as much as an embedding of 384 numbers.

    Args:
        blocks (`Sequence[np.ndarray]`):
            Arrays of shape `(rows, columns)`.
        known (`np.ndarray` of shape `(scored,)`):
            Numbers of the rows by which means and deviations are taken.

    Returns:
        `np.ndarray` of shape `(rows, size)`: float64. What is not finite in a row counts as the mean. Columns that do
        not vary over the scored rows are left out.

    Example:
    ```python
    >>> standardized([np.array([[1.0, 5.0], [3.0, 5.0], [np.nan, 5.0]])], np.array([0, 1])).tolist()
    [[-1.0], [1.0], [0.0]]
    ```
    """
    parts = [_standardized(np.asarray(block, dtype=np.float64), known) for block in blocks]
    return np.concatenate(parts, axis=1)


def _standardized(block: np.ndarray, known: np.ndarray) -> np.ndarray:
    block = np.where(np.isfinite(block), block, np.nan)
    there = ~np.isnan(block[known])
    counts = there.sum(axis=0)
    total = np.where(there, block[known], 0).sum(axis=0)
    mean = total / np.maximum(counts, 1)
    deviations = np.where(there, block[known] - mean, 0)
    spread = np.sqrt((deviations**2).sum(axis=0) / np.maximum(counts, 1))
    # A sum of equal numbers may be off by rounding, so that a constant seems to vary.
    varies = spread > 1e-9 * np.maximum(np.abs(mean), 1e-300)
    if not varies.any():
        return np.empty((len(block), 0))
    scaled = (block[:, varies] - mean[varies]) / spread[varies] / np.sqrt(varies.sum())
    return np.where(np.isnan(scaled), 0.0, scaled)


@dataclass(frozen=True)
class RidgePredictor:
    """
    Linear regression with a penalty on the squares of its weights, chosen by leaving out one scored row at a time.

    Args:
        penalties (`Sequence[float]`, *optional*):
            Penalties to choose from, for each scored row; one alone is taken as it is.
    """

    penalties: Sequence[float] = tuple(10.0 ** np.arange(-6, 3))
    name: ClassVar[str] = "ridge"

    def predict(self, features: np.ndarray, known: np.ndarray, scores: np.ndarray, wanted: np.ndarray) -> Prediction:
        """Predict as [`Predictor`] has it; of equal errors, the larger penalty is taken."""
        center, mean = features[known].mean(axis=0), scores.mean()
        left, values, right = np.linalg.svd(features[known] - center, full_matrices=False)
        target = left.T @ (scores - mean)
        found = []
        for penalty in sorted(self.penalties, reverse=True):
            shrink = values**2 / (values**2 + penalty * len(known))
            fitted, leverage = left @ (shrink * target), (left**2) @ shrink + 1 / len(known)
            error = ((scores - mean - fitted) / np.maximum(1 - leverage, 1e-12)) ** 2
            found.append((float(error.mean()), penalty))
        best = min(found, key=lambda pair: pair[0])[1]
        weights = right.T @ (values / (values**2 + best * len(known)) * target)
        return Prediction((features[wanted] - center) @ weights + mean, {"penalty": float(best)})


def _uniform(distances: np.ndarray) -> np.ndarray:
    return np.ones_like(distances)


def _inverse(distances: np.ndarray) -> np.ndarray:
    # The limit of 1 / d: rows at distance 0 decide alone where there are any.
    nearest = distances == 0
    with np.errstate(divide="ignore"):
        return np.where(nearest.any(axis=1, keepdims=True), nearest, 1 / distances)


def _exponential(distances: np.ndarray) -> np.ndarray:
    # Less the smallest distance, since exp(-d) is 0 for all neighbours of a row that is far from everything.
    return np.exp(distances.min(axis=1, keepdims=True) - distances)


WEIGHTS = {"uniform": _uniform, "1/d": _inverse, "exp(d_min - d)": _exponential}


@dataclass(frozen=True)
class NeighborPredictor:
    """
    Mean of the scores of the nearest scored rows, weighted by their distances.

    S(x) = sum_j w_j S_j / sum_j w_j over the k nearest scored rows, as in the score-extrapolation paper (submitted to
    ICLR 2026), with Euclidean distances. Rows as near as the k-th all count, so that no order of rows decides.

    Args:
        neighbors (`Sequence[int]`, *optional*, defaults to `(5, 10, 20, 50, 100)`):
            Numbers of neighbours to choose from; one that is larger than the number of scored rows means all of them.
        weights (`Sequence[str]`, *optional*):
            Weights to choose from: `"uniform"`, `"1/d"`, `"exp(d_min - d)"`; by default all.
        seed (`int`, *optional*, defaults to 0):
            Seed of the scored rows by which the choice is made, where there are more than 2,000.

    Raises:
        ValueError: If a number of neighbours is less than 1, or if a kind of weights is unknown.
    """

    neighbors: Sequence[int] = (5, 10, 20, 50, 100)
    weights: Sequence[str] = tuple(WEIGHTS)
    seed: int = 0
    name: ClassVar[str] = "knn"

    def __post_init__(self) -> None:
        if not self.neighbors or min(self.neighbors) < 1:
            raise ValueError(f"neighbors must be numbers of at least 1, got {self.neighbors!r}.")
        if not self.weights or not set(self.weights) <= set(WEIGHTS):
            raise ValueError(f"weights must be among {', '.join(map(repr, WEIGHTS))}, got {self.weights!r}.")

    def predict(self, features: np.ndarray, known: np.ndarray, scores: np.ndarray, wanted: np.ndarray) -> Prediction:
        """Predict as [`Predictor`] has it. Scored rows, each without itself, choose: never a row to be predicted."""
        count, kind = self._choose(features[known], scores)
        parts = [
            _mean_of_nearest(distances, scores, count, kind)
            for _, distances in _blocks_of_distances(features[wanted], features[known])
        ]
        return Prediction(np.concatenate(parts or [np.empty(0)]), {"neighbors": count, "weights": kind})

    def _choose(self, features: np.ndarray, scores: np.ndarray) -> tuple[int, str]:
        """Number of neighbours and weights with the least squared error; of equal ones the first."""
        counts = list(dict.fromkeys(min(count, len(scores)) for count in self.neighbors))
        choices = [(count, kind) for count in counts for kind in self.weights]
        if len(choices) == 1 or len(scores) == 1:
            return choices[0]
        asked = np.arange(len(scores))
        if len(asked) > _CHOOSING_ROWS:
            asked = np.random.default_rng(self.seed).choice(asked, _CHOOSING_ROWS, replace=False)
        errors = np.zeros(len(choices))
        for rows, distances in _blocks_of_distances(features[asked], features):
            distances[np.arange(len(rows)), asked[rows]] = np.inf  # no row helps to predict itself
            for place, (count, kind) in enumerate(choices):
                found = _mean_of_nearest(distances, scores, min(count, len(scores) - 1), kind)
                errors[place] += ((found - scores[asked[rows]]) ** 2).sum()
        return choices[int(np.argmin(errors))]


def _blocks_of_distances(rows: np.ndarray, others: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places of some rows and their Euclidean distances to all others, block by block."""
    size = max(1, _DISTANCES_IN_MEMORY // max(1, len(others)))
    squares = (others**2).sum(axis=1)
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        own = (block**2).sum(axis=1, keepdims=True)
        found = own + squares - 2 * block @ others.T
        # Rows that are the same come out as a rounding of their squares, not as 0.
        found[found < 1e-13 * (own + squares)] = 0
        yield np.arange(start, start + len(block)), np.sqrt(found)


def _mean_of_nearest(distances: np.ndarray, scores: np.ndarray, count: int, kind: str) -> np.ndarray:
    """Weighted mean of the scores of the nearest rows, of shape `(rows,)`, from distances `(rows, scored)`."""
    farthest = np.partition(distances, count - 1, axis=1)[:, count - 1 : count]
    weights = WEIGHTS[kind](distances) * (distances <= farthest * (1 + 1e-9))
    return weights @ scores / weights.sum(axis=1)


def expand_measures(measures: Sequence[np.ndarray]) -> np.ndarray:
    """
    Measures of the unmasked model with simple functions of them, so that a linear rule can follow a bend.

    Args:
        measures (`Sequence[np.ndarray]`):
            Arrays of shape `(rows,)`: loss, confidence, number of tokens, and what else there is.

    Returns:
        `np.ndarray` of shape `(rows, 4 * measures)`: each measure x, x², sign(x) log(1 + |x|) and exp(-|x|); of a loss
        the last one is the geometric mean of p(token).

    Example:
    ```python
    >>> expand_measures([np.array([0.0, 1.0])]).round(3).tolist()
    [[0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 0.693, 0.368]]
    ```
    """
    columns = []
    for values in measures:
        size = np.abs(values := np.asarray(values, dtype=np.float64))
        columns += [values, values**2, np.sign(values) * np.log1p(size), np.exp(-size)]
    return np.stack(columns, axis=1)


# By the name of the method. The graph network needs torch, and stands with the scorer that uses it.
PREDICTORS: dict[str, type[Predictor]] = {"ridge": RidgePredictor, "knn": NeighborPredictor}


def held_out(
    predictor: Predictor, features: np.ndarray, known: np.ndarray, scores: np.ndarray, folds: int = 5, seed: int = 0
) -> np.ndarray:
    """
    Predictions of the scored rows, each by the rows of the other folds alone, which also choose all options.

    Args:
        predictor ([`Predictor`]):
            What predicts.
        features (`np.ndarray` of shape `(rows, size)`):
            What is known of all rows.
        known (`np.ndarray` of shape `(scored,)`):
            Numbers of the rows that have a score.
        scores (`np.ndarray` of shape `(scored,)`):
            Their scores.
        folds (`int`, *optional*, defaults to 5):
            Number of parts into which the scored rows are dealt.
        seed (`int`, *optional*, defaults to 0):
            Seed of the deal.

    Returns:
        `np.ndarray` of shape `(scored,)`: float64.
    """
    order = np.random.default_rng(seed).permutation(len(known))
    found = np.empty(len(known))
    for fold in range(folds):
        out = order[fold::folds]
        rest = np.setdiff1d(order, out)
        found[out] = predictor.predict(features, known[rest], scores[rest], known[out]).values
    return found


def extrapolate(
    predictor: Predictor,
    features: np.ndarray,
    known: np.ndarray,
    scores: np.ndarray,
    wanted: np.ndarray,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    seed: int = 0,
) -> tuple[np.ndarray, HeldOut]:
    """
    Predict the scores of the other rows, and measure on the scored ones how well that goes.

    Args:
        predictor ([`Predictor`]):
            What predicts.
        features (`np.ndarray` of shape `(rows, size)`):
            What is known of all rows, as [`standardized`] returns it.
        known (`np.ndarray` of shape `(scored,)`):
            Numbers of the rows that have a score.
        scores (`np.ndarray` of shape `(scored,)`):
            Their scores.
        wanted (`np.ndarray` of shape `(wanted,)`):
            Numbers of the rows to predict.
        bounds (`tuple[float, float]`, *optional*):
            Range of the score. A prediction beyond it becomes its end.
        seed (`int`, *optional*, defaults to 0):
            Seed of the folds and of the bootstrap.

    Returns:
        `tuple[np.ndarray, HeldOut]`: Predicted scores, float32 of shape `(wanted,)`, and the held-out agreement.

    Example:
    ```python
    >>> features, known = np.arange(20.0)[:, None], np.arange(0, 20, 2)
    >>> values, agreement = extrapolate(RidgePredictor(), features, known, 3.0 * known, np.array([1, 3]))
    >>> values.round(2).tolist(), round(agreement.spearman, 2)
    ([3.0, 9.0], 1.0)
    ```
    """
    scores = np.asarray(scores, dtype=np.float64)
    values, settings = predictor.predict(features, known, scores, wanted)
    unseen = np.clip(held_out(predictor, features, known, scores, seed=seed), *bounds)
    agreement = HeldOut(
        spearman(unseen, scores), *bootstrap_interval(spearman_along, unseen, scores, seed=seed), settings
    )
    return np.clip(values, *bounds).astype(np.float32), agreement
