"""The score of nearest neighbours through scorer, `map`, journal and saved files, with both heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, Image
from datasets.fingerprint import Hasher
from transformers import ViTImageProcessor

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.scorer.saving import STATE_NAME
from hf_dlc.scores.table import DEFAULT_SCORES
from hf_dlc.tasks.vision.task import ImageClassificationTask
from tests.scorer.test_image_scoring import CONFIGS, NAMES, SCHEDULE, SIZE, make_model, picture


HEADS = ["prototype", "classifier"]
LABELS = [i % 3 for i in range(24)]
PROCESSOR = ViTImageProcessor(size={"height": SIZE, "width": SIZE})
OPTIONS: dict[str, Any] = {"device": "cpu", "dtype": "float32", "schedule": SCHEDULE, "scores": DEFAULT_SCORES}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    features = Features({"picture": Image(), "label": ClassLabel(names=NAMES)})
    return Dataset.from_dict({"picture": [picture(label, rng) for label in LABELS], "label": LABELS}, features)


ASKED = (*DEFAULT_SCORES, "knn_confidence")


@pytest.fixture
def _asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIONS, "scores", ASKED)


def make(name: str = "vit", head: str = "classifier", **options: Any) -> DLCScorer:
    options = {"schedule": SCHEDULE, "knn_neighbours": 12, "head": head, "scores": OPTIONS["scores"], **options}
    return DLCScorer(make_model(name, head == "classifier"), PROCESSOR, DLCConfig(**options))


def column(scored: Dataset, name: str = "knn_confidence") -> np.ndarray:
    return np.array(scored[f"dlc_{name}"][:], dtype=np.float32)


def naive(scorer: DLCScorer, rows: Dataset, k: int) -> np.ndarray:
    """The score from its formula, by the features that the model gives of one image at a time."""
    task, labels = scorer.parts.task, np.array(rows["label"][:])
    pixels = [task.encoder.read(row["picture"]) for row in rows]
    fed = [type("Row", (), {"pixels": one}) for one in pixels]
    found = []
    for layer in task.layers:
        z = np.concatenate([task.features_at([row], task.layers)[layer] for row in fed]).astype(np.float64)
        distances = np.linalg.norm(z[:, None] - z, axis=2)
        np.fill_diagonal(distances, np.inf)
        nearest = np.argsort(distances, axis=1, kind="stable")[:, :k]
        weights = 1 / np.take_along_axis(distances, nearest, axis=1)
        found.append((weights * (labels[nearest] == labels[:, None])).sum(axis=1) / weights.sum(axis=1))
    return np.mean(found, axis=0)


@pytest.mark.usefixtures("_asked_for")
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", CONFIGS)
def test_map_and_score_agree_with_the_formula(dataset: Dataset, name: str, head: str) -> None:
    scorer = make(name, head, keep_levels=True)
    assert scorer.needs_fit
    scored = scorer.fit(dataset).score(dataset)
    assert scored["dlc_status"][:] == ["ok"] * 24
    found = column(scored)
    np.testing.assert_allclose(found, naive(scorer, dataset, 12), atol=1e-5)
    assert found.std() > 0.05
    levels = column(scored, "level_knn_confidence")
    assert np.array_equal(levels[:, 0], found)
    assert np.isnan(levels[:, 1:]).all()  # one pass, whatever the schedule
    for mapped in (dataset.map(scorer, batched=True, batch_size=7), dataset.map(scorer)):
        np.testing.assert_allclose(column(mapped), found, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_the_other_scores_stay(dataset: Dataset, head: str) -> None:
    before = make(head=head)
    before = (before.fit(dataset) if before.needs_fit else before).score(dataset)
    after = make(head=head, scores=ASKED).fit(dataset).score(dataset)
    for name in ("confidence", "loss", "gain", "tokens"):
        assert np.array_equal(column(after, name), column(before, name)), name


@pytest.mark.usefixtures("_asked_for")
@pytest.mark.parametrize("head", HEADS)
def test_before_fit_everything_says_so(dataset: Dataset, head: str) -> None:
    scorer = make(head=head)
    for use in (scorer.score, scorer.estimate, lambda rows: rows.map(scorer, batched=True)):
        with pytest.raises(ValueError, match=r"must be learned from the labelled images first. Call scorer.fit"):
            use(dataset)


def test_nothing_is_learned_where_it_is_not_asked_for(dataset: Dataset) -> None:
    assert not make().needs_fit
    scorer = make(head="prototype").fit(dataset)
    assert scorer.parts.task.layers == ()
    assert scorer.parts.task.learned.neighbours is None


@pytest.mark.usefixtures("_asked_for")
def test_a_trained_head_fits_its_own_classes(dataset: Dataset) -> None:
    """Labels mean the same in the fit and in the head, so other names or another order are refused there."""
    swapped = dataset.cast_column("label", ClassLabel(names=["stripe", "circle", "noise"]))
    with pytest.raises(ValueError, match="align_labels_with_mapping"):
        make().fit(swapped)
    numbers = [NAMES.index(name) for name in ("noise", "circle")]
    assert make().fit(dataset.filter(lambda row: row["label"] in numbers)).parts.task.neighbours.labels.max() == 2
    with pytest.raises(ValueError, match="fit needs readable images of at least two classes, got 8 of 8 rows"):
        make().fit(dataset.select(range(0, 24, 3)))


@pytest.mark.usefixtures("_asked_for")
def test_an_image_that_is_there_twice_is_no_neighbour_of_itself(dataset: Dataset) -> None:
    again = dataset.select([*range(24), 0, 0])
    found = column(make().fit(again).score(again))
    np.testing.assert_allclose(found[24:], found[0], atol=1e-6)
    once = column(make().fit(dataset).score(dataset))
    assert found[0] == pytest.approx(once[0], abs=1e-5)  # the copies leave its other neighbours as they were
    new = make().fit(dataset.select(range(1, 24))).score(dataset.select([0]))  # not fitted: nothing is left out
    assert column(new)[0] == pytest.approx(once[0], abs=1e-5)


@pytest.mark.usefixtures("_asked_for")
def test_a_class_of_one_image(dataset: Dataset) -> None:
    """Nothing else has its label, so the share is 0. Prototypes have no score of it at all."""
    few = dataset.select([0, 1, 2, 3, 4, 6])  # a single picture of class 2
    by_head = make().fit(few).score(few)
    assert by_head["dlc_status"][:] == ["ok"] * 6
    assert (column(by_head) == 0).tolist()[2]
    assert column(by_head).max() > 0
    by_prototypes = make(head="prototype").fit(few).score(few)
    assert by_prototypes["dlc_status"][:] == ["ok", "ok", "only_of_class", "ok", "ok", "ok"]
    assert np.isnan(column(by_prototypes)).tolist() == [False, False, True, False, False, False]
    unseen = make().fit(dataset.select([0, 1, 3, 4])).score(dataset.select([2]))
    assert (unseen["dlc_status"][0], column(unseen)[0]) == ("ok", 0)


@pytest.mark.usefixtures("_asked_for")
def test_more_neighbours_than_images(dataset: Dataset) -> None:
    few = dataset.select(range(6))
    scorers = [make(knn_neighbours=k).fit(few) for k in (5, 6, 10_000)]
    found = [column(scorer.score(few)) for scorer in scorers]
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)
    np.testing.assert_allclose(found[2], found[0], atol=1e-6)
    np.testing.assert_allclose(found[0], naive(scorers[0], few, 5), atol=1e-5)


@pytest.mark.parametrize("value", [0, -1, 2.0, "4", True])
def test_a_number_of_neighbours_that_is_none(value: Any) -> None:
    with pytest.raises(ValueError, match="knn_neighbours must be"):
        DLCConfig(knn_neighbours=value)


@pytest.mark.usefixtures("_asked_for")
def test_features_that_are_no_numbers_cost_one_image(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = make()
    pixels, last = scorer.parts.task.encoder.read(dataset[3]["picture"]), scorer.parts.task.layers[-1]
    of_layers = ImageClassificationTask._of_layers

    def broken(self: Any, found: Any, layers: Any, given: torch.Tensor) -> dict[str, torch.Tensor]:
        features = of_layers(self, found, layers, given)
        is_broken = torch.tensor([torch.equal(one, pixels) for one in given])
        values = {last: features[last].masked_fill(is_broken[:, None], torch.nan)} if layers else {}
        return {**features, **values}

    monkeypatch.setattr(ImageClassificationTask, "_of_layers", broken)
    scored = scorer.fit(dataset).score(dataset)
    assert scored["dlc_status"][:] == ["partly_nan_score" if row == 3 else "ok" for row in range(24)]
    assert len(scorer.parts.task.neighbours.labels) == 23


# ---- what is kept ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_asked_for")
@pytest.mark.parametrize("head", HEADS)
def test_fit_enters_the_fingerprint(dataset: Dataset, head: str) -> None:
    scorer = make(head=head)
    before = Hasher.hash(scorer)
    first = Hasher.hash(scorer.fit(dataset))
    others = [make(head=head).fit(dataset.select(range(20))), make(head=head, knn_neighbours=5).fit(dataset)]
    assert len({before, first, *map(Hasher.hash, others)}) == 4
    scorer.score(dataset)
    assert Hasher.hash(scorer) == first == Hasher.hash(make(head=head).fit(dataset))


@pytest.fixture(params=HEADS)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    make_model("vit", request.param == "classifier").save_pretrained(tmp_path / "model")
    PROCESSOR.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.usefixtures("_asked_for")
def test_saved_and_loaded(saved: Path, dataset: Dataset, tmp_path: Path) -> None:
    scorer = DLCScorer.from_pretrained(saved, **OPTIONS).fit(dataset)
    scorer.save_pretrained(tmp_path / "scorer")
    again = DLCScorer.from_pretrained(tmp_path / "scorer", device="cpu")
    assert Hasher.hash(again) == Hasher.hash(scorer)
    expected = column(scorer.score(dataset))
    assert np.array_equal(column(again.score(dataset)), expected)
    np.testing.assert_allclose(column(dataset.map(scorer, batched=True, num_proc=2)), expected, atol=1e-5)
    other_k = {"knn_neighbours": 3}  # the same fit serves any number
    fresh = DLCScorer.from_pretrained(saved, **OPTIONS, **other_k).fit(dataset)
    found = column(DLCScorer.from_pretrained(tmp_path / "scorer", device="cpu", **other_k).score(dataset))
    assert np.array_equal(found, column(fresh.score(dataset)))
    assert not np.array_equal(found, expected)


def test_a_fit_that_lacks_neighbours_is_not_used(
    saved: Path, dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = DLCScorer.from_pretrained(saved, **OPTIONS, head="prototype").fit(dataset)
    scorer.save_pretrained(tmp_path / "scorer")
    again = DLCScorer.from_pretrained(tmp_path / "scorer", device="cpu", scores=ASKED)
    assert "fitted with other weights or options: call fit again" in caplog.text
    with pytest.raises(ValueError, match=r"Call scorer.fit\(dataset\)"):
        again.score(dataset)
    again.fit(dataset).save_pretrained(tmp_path / "scorer")
    assert (tmp_path / "scorer" / STATE_NAME).stat().st_size > 24 * 4 * 2 * 32  # two layers of 32 features
    # Who does not ask for neighbours takes the rest.
    less = DLCScorer.from_pretrained(tmp_path / "scorer", device="cpu", scores=DEFAULT_SCORES)
    assert np.array_equal(column(less.score(dataset), "loss"), column(scorer.score(dataset), "loss"))


@pytest.mark.usefixtures("_asked_for")
def test_weights_that_changed_after_fit_are_noticed(dataset: Dataset) -> None:
    scorer = make().fit(dataset)
    with torch.no_grad():
        scorer.model.vit.layers[0].mlp.fc1.weight += 1
    with pytest.raises(ValueError, match="the scorer was fitted with other weights"):
        scorer.score(dataset)


@pytest.mark.usefixtures("_asked_for")
@pytest.mark.parametrize("head", HEADS)
def test_journal_goes_on(dataset: Dataset, tmp_path: Path, head: str) -> None:
    scorer = make(head=head, tokens_per_batch=8).fit(dataset)
    expected = column(scorer.score(dataset))
    scorer.score(dataset, run_dir=tmp_path, chunk_seconds=0)
    for chunk in sorted((tmp_path / "chunks").iterdir())[::2]:
        chunk.unlink()
    assert np.array_equal(column(scorer.score(dataset, run_dir=tmp_path)), expected)
    other_k = make(head=head, tokens_per_batch=8, knn_neighbours=5).fit(dataset)
    for other in (other_k, scorer.fit(dataset.select(range(20)))):
        with pytest.raises(RuntimeError, match="another run"):
            other.score(dataset, run_dir=tmp_path)


@pytest.mark.usefixtures("_asked_for")
def test_a_trained_model_finds_wrong_labels() -> None:
    """A random CNN that was trained for a moment tells drawings apart, and a wrong label among their neighbours."""
    rng, labels = np.random.default_rng(0), [i % 3 for i in range(90)]
    drawn = [picture(label, rng) for label in labels]
    claimed = [(label + 1) % 3 if i % 6 == 0 else label for i, label in enumerate(labels)]
    features = Features({"picture": Image(), "label": ClassLabel(names=NAMES)})
    rows = Dataset.from_dict({"picture": drawn, "label": claimed}, features)
    torch.manual_seed(0)
    config = transformers.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic")
    scorer = DLCScorer(transformers.ResNetModel(config).eval(), PROCESSOR, DLCConfig(schedule="0, 0.1", scores=ASKED))
    found = column(scorer.fit(rows).score(rows))
    wrong = np.arange(90) % 6 == 0
    assert found[wrong].max() < np.median(found[~wrong])
