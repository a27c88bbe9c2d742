"""Predictors of scores against values that one can work out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hf_dlc.scorer.graph import GraphPredictor
from hf_dlc.scorer.predict import (
    PREDICTORS,
    WEIGHTS,
    NeighborPredictor,
    RidgePredictor,
    expand_measures,
    extrapolate,
    held_out,
    standardized,
)


def predict(predictor: object, features: list[float], scores: list[float], wanted: list[float]) -> list[float]:
    """Predict rows of one feature from others."""
    all_rows = np.array([*features, *wanted], dtype=np.float64)[:, None]
    known, others = np.arange(len(features)), np.arange(len(features), len(all_rows))
    return predictor.predict(all_rows, known, np.array(scores, dtype=np.float64), others).values.tolist()


# ---- standardising -----------------------------------------------------------------------------------------------


def test_mean_and_deviation_are_those_of_the_scored_rows() -> None:
    block = np.array([[1.0], [3.0], [100.0]])
    assert standardized([block], np.array([0, 1])).tolist() == [[-1.0], [1.0], [98.0]]


def test_blocks_weigh_the_same() -> None:
    rng = np.random.default_rng(0)
    small, large = rng.normal(3, 5, (50, 2)), rng.normal(-1, 0.01, (50, 30))
    found = standardized([small, large], np.arange(50))
    assert (found[:, :2] ** 2).sum() == pytest.approx((found[:, 2:] ** 2).sum()) == pytest.approx(50)


def test_constant_columns_are_left_out() -> None:
    block = np.array([[0.1, 1.0, np.nan], [0.1, 2.0, np.nan], [0.7, 3.0, 5.0]])
    assert standardized([block], np.array([0, 1])).tolist() == [[-1.0], [1.0], [3.0]]
    assert standardized([block[:, :1]], np.array([0, 1])).shape == (3, 0)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_counts_as_the_mean(broken: float) -> None:
    block = np.array([[1.0], [3.0], [broken], [broken]])
    assert standardized([block], np.array([0, 1, 2])).tolist() == [[-1.0], [1.0], [0.0], [0.0]]


def test_functions_of_measures() -> None:
    found = expand_measures([np.array([-2.0]), np.array([0.0])])
    assert found[0] == pytest.approx([-2, 4, -np.log(3), np.exp(-2), 0, 0, 0, 1])


# ---- ridge -------------------------------------------------------------------------------------------------------


def test_ridge_solves_its_equation() -> None:
    """Centred (1, 1), (3, 5): the weight is sum(x y) / (sum(x²) + rows · penalty) = 4 / (2 + 2) = 1."""
    assert predict(RidgePredictor(penalties=[1.0]), [1, 3], [1, 5], [2, 4]) == pytest.approx([3, 5])


def test_ridge_is_that_of_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    features, known = rng.normal(size=(40, 6)), np.arange(30)
    scores = features[:30] @ rng.normal(size=6) + rng.normal(size=30) + 7
    found = RidgePredictor(penalties=[0.1]).predict(features, known, scores, np.arange(30, 40)).values
    expected = linear_model.Ridge(alpha=3.0).fit(features[:30], scores).predict(features[30:])
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_ridge_chooses_as_leaving_out_one_row_would() -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(25, 10))
    scores = features[:, 0] + rng.normal(size=25)
    penalties = (0.01, 0.1, 1.0, 10.0)
    errors = []
    for penalty in penalties:
        one = RidgePredictor(penalties=[penalty * 25 / 24])  # as strong, with a row less
        out = [one.predict(features, np.delete(np.arange(25), i), np.delete(scores, i), [i]).values for i in range(25)]
        errors.append(((np.concatenate(out) - scores) ** 2).mean())
    found = RidgePredictor(penalties=penalties).predict(features, np.arange(25), scores, np.array([0])).settings
    assert found == {"penalty": penalties[int(np.argmin(errors))]}
    assert 0 < int(np.argmin(errors)) < 3


def test_ridge_without_features_predicts_the_mean() -> None:
    found = RidgePredictor().predict(np.empty((5, 0)), np.arange(4), np.array([1.0, 2, 3, 6]), np.array([4]))
    assert found.values.tolist() == [3.0]


# ---- nearest neighbours ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("uniform", (10 + 20) / 2),
        ("1/d", (10 / 1 + 20 / 2) / (1 / 1 + 1 / 2)),
        ("exp(d_min - d)", (10 + 20 * np.exp(-1)) / (1 + np.exp(-1))),
    ],
)
def test_weights_of_neighbors(weights: str, expected: float) -> None:
    """Rows at the distances 1, 2 and 5; the third is not among the two nearest."""
    found = predict(NeighborPredictor([2], [weights]), [1, -2, 5], [10, 20, 90], [0])
    assert found == pytest.approx([expected])


@pytest.mark.parametrize("weights", WEIGHTS)
def test_more_neighbors_than_rows_are_all_rows(weights: str) -> None:
    many, all_rows = (predict(NeighborPredictor([k], [weights]), [1, 2, 4], [1, 2, 9], [0]) for k in (50, 3))
    assert many == all_rows


@pytest.mark.parametrize("weights", WEIGHTS)
def test_rows_as_near_as_the_last_all_count(weights: str) -> None:
    """Two rows at distance 1 where one is asked for: the order of the rows must not decide."""
    found = [predict(NeighborPredictor([1], [weights]), rows, [0, 10, 50], [0]) for rows in ([1, -1, 9], [-1, 1, 9])]
    assert found == [[5.0], [5.0]]


def test_copies_of_a_row_decide_alone_by_inverse_distance() -> None:
    found = predict(NeighborPredictor([3], ["1/d"]), [7.1, 7.1, 7.2], [1, 3, 100], [7.1])
    assert found == [2.0]


def test_copies_are_found_among_rows_with_many_features() -> None:
    """Their distance is a difference of large numbers, and must be 0 all the same."""
    features = np.random.default_rng(0).normal(1000, 1, (40, 300))
    features[30:] = features[:10]
    found = NeighborPredictor([5], ["1/d"]).predict(features, np.arange(30), np.arange(30.0), np.arange(30, 40))
    assert found.values.tolist() == list(range(10))


def test_far_from_everything_weights_do_not_vanish() -> None:
    found = predict(NeighborPredictor([2], ["exp(d_min - d)"]), [0, -1], [3, 5], [1e4])
    assert found == pytest.approx([(3 + 5 * np.exp(-1)) / (1 + np.exp(-1))])


def test_one_scored_row() -> None:
    assert predict(NeighborPredictor(), [1], [4], [2]) == [4.0]


def test_number_of_neighbors_is_chosen_by_the_scored_rows() -> None:
    """A step: near rows tell it, all rows do not. And noise: the more rows, the better."""
    places, rows = np.arange(300.0)[:, None], np.arange(300)
    step, noise = np.repeat([0.0, 1.0], 150), np.random.default_rng(0).normal(size=300)
    predictor = NeighborPredictor([3, 299], ["uniform"])
    found = [predictor.predict(places, rows, scores, rows[:1]).settings["neighbors"] for scores in (step, noise)]
    assert found == [3, 299]


def test_a_row_does_not_choose_by_itself() -> None:
    """Pairs of copies with opposite scores: each row's nearest is wrong, so one neighbour must not be chosen."""
    places = np.repeat(np.arange(20.0), 2)[:, None]
    scores = np.tile([-1.0, 1.0], 20)
    found = NeighborPredictor([1, 39], ["uniform"]).predict(places, np.arange(40), scores, np.array([0]))
    assert found.settings["neighbors"] == 39


def test_constant_features_leave_all_rows_equally_near() -> None:
    features = np.empty((6, 0))
    for weights in WEIGHTS:
        found = NeighborPredictor([2], [weights]).predict(
            features, np.arange(4), np.array([1.0, 2, 3, 6]), np.array([4])
        )
        assert found.values == pytest.approx([3.0])


@pytest.mark.parametrize(("options", "says"), [({"neighbors": [0]}, "at least 1"), ({"weights": ["1/d²"]}, "'1/d'")])
def test_wrong_options(options: dict[str, list], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        NeighborPredictor(**options)


# ---- held-out rows -----------------------------------------------------------------------------------------------


def rows(number: int = 80) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of all rows, the scored half, and all scores."""
    rng = np.random.default_rng(5)
    features = rng.normal(size=(number, 3))
    known = np.sort(rng.choice(number, number // 2, replace=False))
    return features, known, features @ [1.0, -2, 0.5] + 0.1 * rng.normal(size=number)


@pytest.mark.parametrize("method", [*PREDICTORS, GraphPredictor.name])
def test_held_out_rows_are_not_seen(method: str) -> None:
    """A row's own score must not change its prediction."""
    if method == GraphPredictor.name:
        pytest.importorskip("torch_geometric")
    predictor = GraphPredictor(epochs=5) if method == GraphPredictor.name else PREDICTORS[method]()
    features, known, scores = rows()
    before = held_out(predictor, features, known, scores[known])
    changed = scores[known].copy()
    changed[7] += 1000
    after = held_out(predictor, features, known, changed)
    assert before[7] == after[7]
    assert not np.allclose(np.delete(before, 7), np.delete(after, 7))


@pytest.mark.parametrize("method", PREDICTORS)
def test_agreement_tells_that_of_the_other_rows(method: str) -> None:
    features, known, scores = rows(400)
    wanted = np.setdiff1d(np.arange(400), known)
    values, agreement = extrapolate(PREDICTORS[method](), features, known, scores[known], wanted)
    truth = np.corrcoef(np.argsort(np.argsort(values)), np.argsort(np.argsort(scores[wanted])))[0, 1]
    assert agreement.spearman == pytest.approx(truth, abs=0.03)
    assert agreement.low < agreement.spearman < agreement.high
    assert values.dtype == np.float32


@pytest.mark.parametrize("method", PREDICTORS)
def test_agreement_on_noise_is_none(method: str) -> None:
    """It may be below 0: a fold with high scores is predicted by the lower mean of the others."""
    features, known, _ = rows(400)
    noise = np.random.default_rng(9).normal(size=200)
    _, agreement = extrapolate(PREDICTORS[method](), features, known, noise, np.array([0]))
    assert agreement.spearman < 0.1


def test_predictions_stay_in_the_range_of_the_score() -> None:
    features, known, scores = rows()
    values, _ = extrapolate(RidgePredictor(), features, known, scores[known], np.arange(80), (-1.0, 1.0))
    assert values.min() == -1
    assert values.max() == 1


@pytest.mark.parametrize("method", PREDICTORS)
def test_the_seed_decides(method: str) -> None:
    features, known, scores = rows()
    first, again, other = (
        held_out(PREDICTORS[method](), features, known, scores[known], seed=seed) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
