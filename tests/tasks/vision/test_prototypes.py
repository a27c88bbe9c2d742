"""Class prototypes against a slow reading of their definition."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from datasets.fingerprint import Hasher

from hf_dlc.tasks.vision.prototypes import Prototypes


RNG = np.random.default_rng(0)
LABELS = np.array([0, 0, 0, 1, 1, 1, 1, 3, 3, 4])  # class 2 is empty, class 4 has a single image
FEATURES = (RNG.normal(size=(10, 6)) + 2 * np.eye(6)[LABELS]).astype(np.float32)
DIGESTS = [bytes([i] * 16) for i in range(10)]


@pytest.fixture
def fitted() -> Prototypes:
    return Prototypes.fit(tuple("abcde"), LABELS, DIGESTS, FEATURES, key="made here")


def expected(feature: np.ndarray, label: int, own: int | None) -> float:
    """Log-probability with 1 / distance, from the definition."""
    scores = {}
    for other in (0, 1, 3, 4):
        members = [i for i in np.flatnonzero(other == LABELS) if i != own]
        if members:
            mean = FEATURES[members].astype(np.float64).mean(axis=0)
            scores[other] = 1 / np.linalg.norm(feature.astype(np.float64) - mean)
    total = np.log(np.sum(np.exp(list(scores.values()))))
    return scores[label] - total


def log_prob(fitted: Prototypes, feature: np.ndarray, label: int, digest: bytes, logits: str = "inverse") -> float:
    return float(fitted.log_probs(torch.from_numpy(feature)[None], [digest], logits)[0, label])


@pytest.mark.parametrize("row", range(9))
def test_a_fitted_image_is_compared_with_the_others_of_its_class(fitted: Prototypes, row: int) -> None:
    label = int(LABELS[row])
    assert log_prob(fitted, FEATURES[row], label, DIGESTS[row]) == pytest.approx(expected(FEATURES[row], label, row))
    masked = FEATURES[row] * 0.9  # under masked weights its part of the mean is still the unmasked one
    assert log_prob(fitted, masked, label, DIGESTS[row]) == pytest.approx(expected(masked, label, row))


def test_a_new_image_subtracts_nothing(fitted: Prototypes) -> None:
    feature = RNG.normal(size=6).astype(np.float32)
    assert log_prob(fitted, feature, 1, b"x" * 16) == pytest.approx(expected(feature, 1, None))


def test_batches_are_rows(fitted: Prototypes) -> None:
    together = fitted.log_probs(torch.from_numpy(FEATURES[:9]), DIGESTS[:9])[range(9), LABELS[:9]]
    alone = [log_prob(fitted, FEATURES[i], int(LABELS[i]), DIGESTS[i]) for i in range(9)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_alone_in_its_class(fitted: Prototypes) -> None:
    assert fitted.is_alone(DIGESTS[9], 4)
    assert not fitted.is_alone(b"x" * 16, 4)
    assert not fitted.is_alone(DIGESTS[7], 3)
    assert fitted.is_alone(b"x" * 16, 2)


def test_an_image_is_left_out_of_every_class_that_it_was_fitted_in() -> None:
    """As often as it was fitted there: a copy of it would be as near to it as itself."""
    digests = [DIGESTS[i] for i in (0, 0, 2, 3, 4, 5, 0, 7, 8, 9)]  # row 0 twice in class 0 and once in class 1
    features = FEATURES[[0, 0, 2, 3, 4, 5, 0, 7, 8, 9]]
    fitted = Prototypes.fit(tuple("abcde"), LABELS, digests, features)
    means = [features[rows].astype(np.float64).mean(axis=0) for rows in ([2], [3, 4, 5], [7, 8], [9])]
    scores = np.array([1 / np.linalg.norm(features[0] - mean) for mean in means])
    for label, place in ((0, 0), (1, 1), (3, 2), (4, 3)):  # whatever its label is now
        wanted = scores[place] - np.log(np.exp(scores).sum())
        assert log_prob(fitted, features[0], label, DIGESTS[0]) == pytest.approx(wanted)
    assert not fitted.is_alone(DIGESTS[0], 0)
    assert fitted.is_alone(DIGESTS[9], 4)
    copies = Prototypes.fit(("a", "b"), np.array([0, 0, 1]), [DIGESTS[0], DIGESTS[0], DIGESTS[1]], features[[0, 0, 3]])
    assert copies.is_alone(DIGESTS[0], 0)


def test_temperature_is_the_best_for_the_fitted_images(fitted: Prototypes) -> None:
    rows = range(9)

    def loss(temperature: float) -> float:
        other = dataclasses.replace(fitted, temperature=temperature)
        return -np.mean([log_prob(other, FEATURES[i], int(LABELS[i]), DIGESTS[i], "temperature") for i in rows])

    best = loss(fitted.temperature)
    assert best < loss(fitted.temperature * 1.3)
    assert best < loss(fitted.temperature / 1.3)


@pytest.mark.parametrize("logits", ["inverse", "temperature"])
def test_what_has_overflowed_has_no_score(fitted: Prototypes, logits: str) -> None:
    for value in (np.inf, np.nan):
        feature = FEATURES[0].copy()
        feature[2] = value
        assert np.isnan(log_prob(fitted, feature, 0, b"x" * 16, logits))


@pytest.mark.parametrize("name", ["sums", "digests", "temperature"])
def test_arrays_of_a_damaged_file(fitted: Prototypes, name: str) -> None:
    rest = {key: values for key, values in fitted.arrays.items() if key != name}
    for arrays in (rest, {**rest, name: fitted.arrays[name].astype(np.complex128)}):
        with pytest.raises(ValueError, match="arrays of prototypes must be of the kinds"):
            Prototypes.from_arrays(fitted.classes, arrays, "")
    labels = np.where(fitted.labels == 4, 5, fitted.labels)
    with pytest.raises(ValueError, match="labels of prototypes must be below 5"):
        Prototypes.from_arrays(fitted.classes, {**fitted.arrays, "labels": labels}, "")


def test_survives_pickling_and_saving(fitted: Prototypes) -> None:
    before = Hasher.hash(fitted)
    _ = fitted.is_alone(DIGESTS[0], 0)  # finds out where each digest is
    assert Hasher.hash(fitted) == before
    for copy in (
        pickle.loads(pickle.dumps(fitted)),
        Prototypes.from_arrays(fitted.classes, fitted.arrays, fitted.key),
    ):
        assert (copy.key, copy.classes, copy.temperature) == (fitted.key, fitted.classes, fitted.temperature)
        assert log_prob(copy, FEATURES[0], 0, DIGESTS[0]) == log_prob(fitted, FEATURES[0], 0, DIGESTS[0])
