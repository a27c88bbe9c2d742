"""Features of text and images: what they are, the same in every way to score, and never those of another model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from datasets.fingerprint import Hasher
from PIL import Image as Pillow
from transformers import ViTImageProcessor

from hf_dlc import DLCConfig, DLCScorer, ExtrapolatedScorer
from hf_dlc.scorer.job import FEATURES_NAME
from hf_dlc.selection.vectors import made_by, read_vectors
from tests.rows import many_rows
from tests.ways import ALL_WAYS, score_in_processes


SKIPPED = (0, 7)
ROWS = Dataset.from_list(many_rows(23, SKIPPED))
# Of a conversation: its view without prompts has more parts than rows.
TALKS = Dataset.from_list(
    [
        {
            "messages": [
                {"role": "user", "content": f"Name {n} colours."},
                {"role": "assistant", "content": "Red, blue."},
                {"role": "user", "content": "And another?"},
                {"role": "assistant", "content": f"Green {n}."},
            ]
        }
        for n in range(5)
    ]
)


def vectors(scored: Dataset) -> np.ndarray:
    return read_vectors(scored, "dlc_features").astype(np.float32)


@torch.inference_mode()
def by_hand(scorer: DLCScorer, row: dict[str, Any], pooling: str) -> np.ndarray:
    """A loop over the tokens behind the head of the template, in double precision."""
    encoding = scorer.parts.task.encode([row])[0]
    states = scorer.model.base_model(torch.from_numpy(encoding.input_ids.astype(np.int64))[None]).last_hidden_state[0]
    total = torch.zeros(states.shape[1], dtype=torch.float64)
    for place in range(encoding.shared_head_length, encoding.length):
        position = place - encoding.shared_head_length + 1
        weight = {"position": position, "mean": 1, "response": int(encoding.targets[place])}[pooling]
        total += weight * states[place].double()
    return (total / total.norm()).numpy()


@pytest.mark.parametrize("pooling", ["position", "mean", "response"])
@pytest.mark.parametrize("template", ["chat", "alpaca"])
def test_text_by_hand(make_scorer: Callable, pooling: str, template: str) -> None:
    scorer = make_scorer(features=pooling, template=template)
    found = vectors(scorer.score(ROWS))
    for place in (1, 5, 22):
        np.testing.assert_allclose(found[place], by_hand(scorer, ROWS[place], pooling), atol=2e-3)
    assert np.isnan(found[list(SKIPPED)]).all()
    assert np.isfinite(np.delete(found, SKIPPED, axis=0)).all()


@pytest.mark.parametrize("way", ALL_WAYS)
def test_every_way_gives_the_same(make_scorer: Callable, way: str) -> None:
    scorer = make_scorer(features=True, tokens_per_batch=300)
    expected, found = scorer.score(ROWS), ALL_WAYS[way](scorer, ROWS)
    np.testing.assert_allclose(vectors_of_any(found), vectors(expected), atol=2e-3)
    assert set(found["dlc_features_by"][:]) == set(expected["dlc_features_by"][:])
    np.testing.assert_allclose(found["dlc_loss"][:], expected["dlc_loss"][:], atol=1e-4)


def vectors_of_any(scored: Dataset) -> np.ndarray:
    return np.array(scored["dlc_features"][:], dtype=np.float32)  # from lists in memory they are float64


def test_processes_and_journals_change_no_bit(make_scorer: Callable, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    scorer = make_scorer(features=True, tokens_per_batch=300)
    expected = vectors(scorer.score(ROWS, num_threads=1))
    for found in score_in_processes(scorer, ROWS, 3):
        np.testing.assert_array_equal(vectors(found), expected)
    scorer.score(ROWS, tmp_path, num_threads=1, chunk_seconds=0)
    next(tmp_path.glob("chunks/level-00-*")).unlink()
    again = scorer.score(ROWS, tmp_path, num_threads=1)
    np.testing.assert_array_equal(vectors(again), expected)


def test_a_run_maps_its_file(make_scorer: Callable, tmp_path: Path) -> None:
    """No copy of the vectors is made: those of the dataset lie in the file."""
    scored = make_scorer(features=True).score(ROWS, tmp_path)
    on_disk = np.load(tmp_path / FEATURES_NAME)
    np.testing.assert_array_equal(read_vectors(scored, "dlc_features"), on_disk)
    column = read_vectors(scored, "dlc_features")
    base = column
    while getattr(base, "base", None) is not None:
        base = base.base
    assert str(tmp_path / FEATURES_NAME) in Path("/proc/self/maps").read_text(encoding="utf-8")
    assert scored.features["dlc_features"] == List(Value("float16"), length=on_disk.shape[1])


def test_a_damaged_chunk_of_vectors_is_computed_again(
    make_scorer: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = make_scorer(features=True, tokens_per_batch=300)
    expected = vectors(scorer.score(ROWS, tmp_path, chunk_seconds=0))
    chunk = next(tmp_path.glob("chunks/level-00-*"))
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 255
    chunk.write_bytes(data)
    found = vectors(scorer.score(ROWS, tmp_path))
    assert "set aside as damaged" in caplog.text
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_journal_without_them_is_of_another_run(make_scorer: Callable, tmp_path: Path) -> None:
    from hf_dlc.execution.journal import JournalError

    make_scorer().score(ROWS, tmp_path)
    with pytest.raises(JournalError, match="features"):
        make_scorer(features=True).score(ROWS, tmp_path)


def test_rows_of_several_parts(make_scorer: Callable) -> None:
    """Beside scores that see a conversation in parts, features are those of its whole."""
    alone = vectors(make_scorer(features=True, scores="plain_loss").score(TALKS))
    beside = vectors(make_scorer(features=True, scores="plain_loss,ifd").score(TALKS))
    np.testing.assert_allclose(beside, alone, atol=2e-3)
    assert len(alone) == len(TALKS)


def test_features_alone_take_one_pass(make_scorer: Callable) -> None:
    scorer = make_scorer(features=True, scores="plain_loss")
    plain = make_scorer(scores="plain_loss")
    assert scorer.estimate(ROWS).forward_passes == plain.estimate(ROWS).forward_passes


def test_projection_keeps_what_is_near(make_scorer: Callable) -> None:
    whole, small = (make_scorer(features="mean", features_size=size).score(ROWS) for size in (None, 512))
    assert vectors(small).shape == (len(ROWS), 512)
    products = [
        np.delete(one, SKIPPED, axis=0) @ np.delete(one, SKIPPED, axis=0).T for one in map(vectors, (whole, small))
    ]
    assert np.abs(products[0] - products[1]).max() < 5 / np.sqrt(512)
    assert np.abs(products[0] - products[1]).max() > 0
    again = make_scorer(features="mean", features_size=512).score(ROWS)
    np.testing.assert_array_equal(vectors(again), vectors(small))


def test_the_projection_is_the_same_everywhere() -> None:
    from hf_dlc.scores.base import Features as Asked
    from hf_dlc.tasks.features import finished

    found = finished(torch.eye(3)[:1], Asked("mean", 2, 3))
    np.testing.assert_allclose(found.float().numpy(), [[0.7407, 0.6719]], atol=1e-3)
    assert finished(torch.zeros(1, 3), Asked("mean", 3, 3)).tolist() == [[0, 0, 0]]


def test_how_they_were_made_is_told(make_scorer: Callable) -> None:
    told = {
        name: made_by(make_scorer(model, **options).score(ROWS.select([1, 2])), "dlc_features")
        for name, (model, options) in {
            "first": ("llama", {"features": True}),
            "again": ("llama", {"features": "position", "prefix": "dlc", "seed": 3}),
            "other pooling": ("llama", {"features": "mean"}),
            "other size": ("llama", {"features": True, "features_size": 4}),
            "other model": ("gpt2", {"features": True}),
            "other template": ("llama", {"features": True, "template": "alpaca"}),
        }.items()
    }
    assert told["first"] == told["again"]
    assert len(set(told.values())) == 5
    assert told["first"].startswith("position ")


def test_options(make_scorer: Callable) -> None:
    for value, canonical in ((True, "auto"), (False, None), (None, None), ("mean", "mean")):
        assert DLCConfig(features=value).features == canonical
    for options, message in (
        ({"features": "best"}, "features must be one of None, 'auto', 'position'"),
        ({"features": True, "features_size": 0}, "features_size must be a number of at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            DLCConfig(**options)
    with pytest.raises(ValueError, match="must be 'auto' or one of position, mean, response, gradient for a model"):
        make_scorer(features="pooled")
    assert "dlc_features" not in make_scorer().score(ROWS).column_names


def test_they_change_the_fingerprint_and_are_replaced(make_scorer: Callable) -> None:
    one, other = make_scorer(features=True), make_scorer(features="mean")
    assert Hasher.hash(one) != Hasher.hash(other)
    scored = other.score(one.score(ROWS))
    np.testing.assert_array_equal(vectors(scored), vectors(other.score(ROWS)))
    assert made_by(scored, "dlc_features").startswith("mean ")


def test_scores_are_predicted_from_them(make_scorer: Callable) -> None:
    rows = Dataset.from_list(many_rows(40))
    scored = ExtrapolatedScorer(make_scorer(features=True), 0.5, least_agreement=-1.0).score(rows)
    np.testing.assert_allclose(vectors(scored), vectors(make_scorer(features=True).score(rows)), atol=2e-3)
    without = ExtrapolatedScorer(make_scorer(), 0.5, least_agreement=-1.0).score(rows)
    assert scored["dlc_confidence"][:] != without["dlc_confidence"][:]
    assert "dlc_features" not in without.column_names


@pytest.fixture
def images() -> Dataset:
    rng = np.random.default_rng(0)
    pixels = [Pillow.fromarray(rng.integers(0, 255, (24, 24, 3)).astype(np.uint8)) for _ in range(12)]
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    return Dataset.from_dict({"image": [*pixels[:11], None], "label": [n % 2 for n in range(12)]}, features=features)


@pytest.mark.parametrize("head", ["prototype", "classifier"])
@pytest.mark.parametrize("pooling", ["auto", "mean", "mean@layers.0"])
def test_images_have_what_the_model_is_asked_for(images: Dataset, head: str, pooling: str) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.ViTConfig(**sizes, image_size=24, patch_size=8, num_labels=2, id2label={0: "a", 1: "b"})
    model = (transformers.ViTModel if head == "prototype" else transformers.ViTForImageClassification)(config).eval()
    processor = ViTImageProcessor(size={"height": 24, "width": 24})
    scorer = DLCScorer(model, processor, DLCConfig(schedule="0, 0.2", features=True, pooling=pooling))
    if scorer.needs_fit:
        scorer.fit(images)
    expected = scorer.features(images)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    for scored in (scorer.score(images), images.map(scorer, batched=True), images.map(scorer)):
        np.testing.assert_allclose(vectors(scored), expected, atol=2e-3)
    assert np.isnan(vectors(scored)[11]).all()


def gradient_by_hand(scorer: DLCScorer, row: dict[str, Any]) -> torch.Tensor:
    """What autograd says of the loss of a row, at the output weights."""
    encoding = scorer.parts.task.encode([row])[0]
    ids = torch.from_numpy(encoding.input_ids.astype(np.int64))
    model = scorer.model
    weight = model.get_output_embeddings().weight
    labels = ids.where(torch.from_numpy(encoding.targets), -100)
    states = model.base_model(ids[None]).last_hidden_state.detach()
    own = weight.detach().clone().requires_grad_()
    torch.nn.functional.cross_entropy((states @ own.T)[0, :-1], labels[1:]).backward()
    return own.grad


def test_products_of_gradients_are_those_of_autograd(make_scorer: Callable) -> None:
    """A random sketch of 1,024 numbers: near the truth on average, not for each pair."""
    scorer = make_scorer(features="gradient")
    scored = scorer.score(ROWS)
    sketched = vectors(scored)[1:7]
    exact = torch.stack([gradient_by_hand(scorer, ROWS[place]).flatten() for place in range(1, 7)])
    truth, found = (exact @ exact.T).numpy(), sketched @ sketched.T
    scale = np.sqrt(np.outer(np.diag(truth), np.diag(truth)))
    assert np.abs(found - truth).mean() < 0.1 * np.abs(scale).mean()
    np.testing.assert_allclose(np.diag(found), np.diag(truth), rtol=0.5)
    assert np.corrcoef(found.ravel(), truth.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("name", ["gpt2", "mixtral"])
def test_gradients_in_every_way(make_scorer: Callable, name: str) -> None:
    """Also of a head that caps its logits."""
    scorer = make_scorer(name, features="gradient", features_size=16, tokens_per_batch=300)
    expected = vectors(scorer.score(ROWS))
    assert np.nanstd(np.linalg.norm(expected, axis=1)) > 0.01  # they keep their lengths
    for found in (ROWS.map(scorer), ROWS.map(scorer, batched=True, batch_size=4)):
        np.testing.assert_allclose(vectors(found), expected, atol=2e-2, rtol=2e-2)
