"""Nearest neighbours against a slow reading of their definition."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from datasets.fingerprint import Hasher

from hf_dlc.tasks.vision import neighbours as module
from hf_dlc.tasks.vision.neighbours import Neighbours


RNG = np.random.default_rng(0)
LABELS = np.array([0, 0, 0, 1, 1, 1, 1, 3, 3, 4])  # class 2 is empty, class 4 has a single image
WIDTHS = {"stages.0": 3, "stages.1": 6}
FEATURES = {name: RNG.normal(size=(10, width)).astype(np.float32) for name, width in WIDTHS.items()}
DIGESTS = [bytes([i] * 16) for i in range(10)]
NEW = b"x" * 16


@pytest.fixture
def fitted() -> Neighbours:
    return Neighbours.fit(FEATURES, LABELS, DIGESTS, key="made here")


@pytest.fixture(params=[7, 2**20])
def _parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool in parts of a few images, and as a whole."""
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", request.param)


def naive(
    feature: np.ndarray, label: int, k: int, left_out: Sequence[int], pool: np.ndarray, labels: Sequence
) -> float:
    """The share at one layer, from its formula."""
    others = [place for place in range(len(pool)) if place not in left_out]
    distances = {place: np.linalg.norm(feature.astype(np.float64) - pool[place]) for place in others}
    nearest = sorted(others, key=lambda place: (distances[place], place))[:k]
    weights = {place: 1 / max(distances[place], 1e-3 * np.linalg.norm(feature)) for place in nearest}
    return sum(weight for place, weight in weights.items() if labels[place] == label) / sum(weights.values())


def at(rows: Sequence[int]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values[rows]) for name, values in FEATURES.items()}


@pytest.mark.usefixtures("_parts")
@pytest.mark.parametrize("k", [1, 3, 9, 10, 500])
def test_shares_are_those_of_the_formula(fitted: Neighbours, k: int) -> None:
    """Each image left out of its own neighbours; where there are fewer than k, all others count."""
    found = fitted.shares(at(range(10)), DIGESTS, LABELS, k)
    expected = [[naive(pool[i], LABELS[i], k, [i], pool, LABELS) for pool in FEATURES.values()] for i in range(10)]
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert 0 < found[:9].mean() < 1
    assert found[9].tolist() == [0, 0]  # no other image has its label


@pytest.mark.usefixtures("_parts")
def test_a_new_image_leaves_out_nothing(fitted: Neighbours) -> None:
    rows = {name: torch.from_numpy(values[:2] * 0.9) for name, values in FEATURES.items()}
    found = fitted.shares(rows, [NEW, NEW], [1, 2], 4)
    expected = [naive(rows[name][0].numpy(), 1, 4, [], pool, LABELS) for name, pool in FEATURES.items()]
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)
    assert found[1].tolist() == [0, 0]  # a class without an image


@pytest.mark.usefixtures("_parts")
def test_every_copy_of_an_image_is_left_out() -> None:
    """As with prototypes: the same pixels are the same image, whatever labels it was fitted with."""
    digests = [DIGESTS[i] for i in (0, 0, 2, 3, 4, 5, 0, 7, 8, 9)]
    fitted = Neighbours.fit(FEATURES, LABELS, digests)
    found = fitted.shares(at([0, 2]), [digests[0], digests[2]], [1, 0], 3)
    for row, label, left_out in ((0, 1, [0, 1, 6]), (1, 0, [2])):
        place = (0, 2)[row]
        expected = [naive(pool[place], label, 3, left_out, pool, LABELS) for pool in FEATURES.values()]
        np.testing.assert_allclose(found[row], expected, rtol=1e-5)


def test_nothing_but_the_image_itself() -> None:
    fitted = Neighbours.fit(FEATURES, LABELS, [DIGESTS[0]] * 10)
    assert fitted.shares(at([0]), [DIGESTS[0]], [0], 3).tolist() == [[0, 0]]


@pytest.mark.usefixtures("_parts")
def test_copies_with_other_pixels_weigh_the_same() -> None:
    """At distance 0, and at that of a rounding: no weight is infinite, and none depends on the last digits."""
    features = {"layers.0": np.array([[3, 4], [3, 4], [3.0001, 4], [9, 9]], dtype=np.float32)}
    fitted = Neighbours.fit(features, np.array([0, 0, 1, 1]), DIGESTS[:4])
    row = {"layers.0": torch.tensor([[3.0, 4.0]])}
    assert fitted.shares(row, [NEW], [0], 3).tolist() == [[pytest.approx(2 / 3)]]
    assert fitted.shares(row, [NEW], [1], 3).tolist() == [[pytest.approx(1 / 3)]]
    weights = np.array([200.0, 200.0, 200.0, 1 / np.sqrt(61)])  # 1 / (0.001 * 5)
    assert fitted.shares(row, [NEW], [1], 4).item() == pytest.approx(weights[2:].sum() / weights.sum())
    zeros = Neighbours.fit({"layers.0": np.zeros((4, 2))}, np.array([0, 0, 0, 1]), DIGESTS[:4])
    assert zeros.shares({"layers.0": torch.zeros(1, 2)}, [NEW], [0], 4).tolist() == [[0.75]]


@pytest.mark.usefixtures("_parts")
@pytest.mark.parametrize("k", range(1, 6))
def test_of_equal_distances_the_first_fitted_counts(k: int) -> None:
    features = {"layers.0": np.array([[1, 0], [0, 1], [-1, 0], [0, -1], [0.5, 0]], dtype=np.float32)}
    labels = np.array([0, 1, 0, 1, 1])
    fitted = Neighbours.fit(features, labels, DIGESTS[:5])
    row = torch.zeros(1, 2)
    expected = naive(row[0].numpy() + 1e-12, 0, k, [], features["layers.0"], labels)
    assert fitted.shares({"layers.0": row}, [NEW], [0], k).item() == pytest.approx(expected)


def test_batches_are_rows(fitted: Neighbours) -> None:
    together = fitted.shares(at(range(10)), DIGESTS, LABELS, 4)
    alone = [fitted.shares(at([i]), [DIGESTS[i]], [LABELS[i]], 4) for i in range(10)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_what_has_overflowed_has_no_share(fitted: Neighbours, value: float) -> None:
    rows = at(range(3))
    rows["stages.1"] = rows["stages.1"].clone()
    rows["stages.1"][1, 2] = value
    found = fitted.shares(rows, DIGESTS[:3], LABELS[:3], 4)
    assert found.isnan().tolist() == [[False, False], [False, True], [False, False]]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool of any size is searched in parts."""
    pairs, cdist = [], torch.cdist
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", 100)
    monkeypatch.setattr(torch, "cdist", lambda a, b, **more: pairs.append(len(a) * len(b)) or cdist(a, b, **more))
    pool, labels = RNG.normal(size=(1000, 4)).astype(np.float32), RNG.integers(0, 3, 1000)
    digests = [i.to_bytes(16, "big") for i in range(1000)]
    found = Neighbours.fit({"layers.0": pool}, labels, digests).shares(
        {"layers.0": torch.from_numpy(pool[:8])}, digests[:8], labels[:8], 20
    )
    assert max(pairs) <= 100
    expected = [[naive(pool[i], labels[i], 20, [i], pool, labels)] for i in range(8)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_survives_pickling_and_saving(fitted: Neighbours) -> None:
    before = Hasher.hash(fitted)
    expected = fitted.shares(at(range(10)), DIGESTS, LABELS, 3)
    assert Hasher.hash(fitted) == before  # finds out where each digest is
    copies = pickle.loads(pickle.dumps(fitted)), Neighbours.from_arrays(fitted.layers, fitted.arrays, fitted.key)
    for copy in copies:
        assert (copy.key, copy.layers, Hasher.hash(copy)) == (fitted.key, fitted.layers, before)
        assert torch.equal(copy.shares(at(range(10)), DIGESTS, LABELS, 3), expected)
    size = sum(values.nbytes for values in fitted.arrays.values())
    assert size == 10 * (4 * sum(WIDTHS.values()) + 16 + 8)


@pytest.mark.parametrize("name", ["neighbours.digests", "neighbours.labels", "neighbours.stages.1"])
def test_arrays_of_a_damaged_file(fitted: Neighbours, name: str) -> None:
    rest = {key: values for key, values in fitted.arrays.items() if key != name}
    for arrays in (rest, {**rest, name: fitted.arrays[name].astype(np.complex128)}):
        with pytest.raises(ValueError, match="arrays of neighbours must be of the kinds"):
            Neighbours.from_arrays(fitted.layers, arrays, "")
    with pytest.raises(ValueError, match="arrays of neighbours must be of the same images"):
        Neighbours.from_arrays(fitted.layers, {**rest, name: fitted.arrays[name][:-1]}, "")
