"""Image models through the same scorer, engine, journal and selectors as language models."""

from __future__ import annotations

import dataclasses
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, Image, Value, load_from_disk
from datasets.fingerprint import Hasher
from datasets.utils._dill import dumps
from PIL import Image as Pillow
from transformers import BaseImageProcessor, PreTrainedModel, ViTImageProcessor

from hf_dlc import DLCConfig, DLCScorer, FlexRandSelector
from hf_dlc.masking.targets import find_targets
from hf_dlc.scorer.saving import STATE_NAME
from hf_dlc.tasks.vision import images
from hf_dlc.tasks.vision.prototypes import Prototypes
from hf_dlc.tasks.vision.task import ImageClassificationTask
from tests.conftest import run_python


SIZE = 32
NAMES = ["circle", "stripe", "noise"]
SCHEDULE = "0, 0.2, 0.4"

_VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_IMAGE = {"image_size": SIZE, "patch_size": 8, "initializer_range": 0.2}
_STAGES = {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2}
CONFIGS = {
    "vit": lambda **more: transformers.ViTConfig(**_VIT, **_IMAGE, **more),
    "deit": lambda **more: transformers.DeiTConfig(**_VIT, **_IMAGE, **more),
    "dinov2": lambda **more: transformers.Dinov2Config(**_VIT, **_IMAGE, **more),
    "swin": lambda **more: transformers.SwinConfig(
        image_size=SIZE, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4, **more
    ),
    "convnext": lambda **more: transformers.ConvNextConfig(**_STAGES, **more),
    "resnet": lambda **more: transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", **more
    ),
}


def picture(label: int, rng: np.random.Generator) -> Pillow.Image:
    """A small drawing of its class."""
    canvas = rng.integers(0, 60, size=(40, 40, 3))
    if NAMES[label] == "circle":
        y, x = np.mgrid[:40, :40]
        canvas[(x - rng.integers(10, 30)) ** 2 + (y - rng.integers(10, 30)) ** 2 < 60] = 230
    elif NAMES[label] == "stripe":
        canvas[:, :: int(rng.integers(3, 7))] = 230
    else:
        canvas = rng.integers(0, 255, size=(40, 40, 3))
    return Pillow.fromarray(canvas.astype(np.uint8))


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    rng = np.random.default_rng(0)
    labels = [i % 3 for i in range(24)]
    features = Features({"picture": Image(), "label": ClassLabel(names=NAMES)})
    return Dataset.from_dict({"picture": [picture(label, rng) for label in labels], "label": labels}, features)


@pytest.fixture(scope="module")
def processor() -> BaseImageProcessor:
    return ViTImageProcessor(size={"height": SIZE, "width": SIZE})


@pytest.fixture
def make_scorer(processor: BaseImageProcessor) -> Callable[..., DLCScorer]:
    def make(name: str = "vit", head: str = "prototype", **options: Any) -> DLCScorer:
        model = make_model(name, head == "classifier")
        options = {"schedule": SCHEDULE, "keep_levels": True, **options}
        return DLCScorer(model, processor, DLCConfig(head=head, **options))

    return make


def make_model(name: str, with_head: bool) -> PreTrainedModel:
    torch.manual_seed(0)
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
    config = CONFIGS[name](**labels)
    if with_head and name == "deit":  # the automatic class has two to choose from
        return transformers.DeiTForImageClassification(config).eval()
    auto = transformers.AutoModelForImageClassification if with_head else transformers.AutoModel
    return auto.from_config(config).eval()


@pytest.fixture
def saved(tmp_path: Path, processor: BaseImageProcessor) -> Path:
    """A folder with a ViT without a head, and its image processor."""
    make_model("vit", with_head=False).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def scores(columns: Any) -> np.ndarray:
    return np.array([columns["dlc_level_confidence"][:], columns["dlc_level_loss"][:]])


# ---- both heads, all architectures -------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["prototype", "classifier"])
@pytest.mark.parametrize("name", CONFIGS)
def test_map_and_score_agree(make_scorer: Callable, dataset: Dataset, name: str, head: str) -> None:
    scorer = make_scorer(name, head)
    if head == "prototype":
        scorer.fit(dataset)
    scored = scorer.score(dataset)
    assert scored["dlc_status"][:] == ["ok"] * 24
    found = scores(scored)
    assert found.shape == (2, 24, 3)
    assert (np.abs(found[:, :, 1:] - found[:, :, :1]).max(axis=1) > 0).all()  # every level did something
    np.testing.assert_allclose(scores(dataset.map(scorer, batched=True, batch_size=7)), found, atol=1e-5)
    np.testing.assert_allclose(scores(dataset.map(scorer)), found, atol=1e-5)


def test_classifier_gives_the_probability_of_the_label(make_scorer: Callable, dataset: Dataset) -> None:
    scorer = make_scorer(head="classifier")
    scored = scorer.score(dataset)
    pixels = scorer.processor(images=[image.convert("RGB") for image in dataset["picture"]], return_tensors="pt")
    with torch.no_grad():
        expected = scorer.model(**pixels).logits.softmax(dim=1)
    chosen = expected[torch.arange(24), torch.tensor(dataset["label"][:])]
    np.testing.assert_allclose(scores(scored)[0, :, 0], chosen, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "pooling", "expected"),
    [
        ("vit", "auto", lambda hidden: hidden[:, 0]),
        ("vit", "mean", lambda hidden: hidden[:, 1:].mean(dim=1)),
        ("deit", "mean", lambda hidden: hidden[:, 2:].mean(dim=1)),
        ("dinov2", "auto", lambda hidden: hidden[:, 0]),
        ("dinov2", "mean", lambda hidden: hidden[:, 1:].mean(dim=1)),
        ("swin", "auto", lambda hidden: hidden.mean(dim=1)),
        ("convnext", "auto", lambda hidden: hidden.mean(dim=(2, 3))),
        ("resnet", "auto", lambda hidden: hidden.mean(dim=(2, 3))),
    ],
)
def test_pooling(make_scorer: Callable, dataset: Dataset, name: str, pooling: str, expected: Callable) -> None:
    scorer = make_scorer(name, pooling=pooling).fit(dataset)
    pixels = scorer.processor(images=[image.convert("RGB") for image in dataset["picture"]], return_tensors="pt")
    with torch.no_grad():
        hidden = scorer.model(**pixels).last_hidden_state
    np.testing.assert_allclose(scorer.parts.task.prototypes.features, expected(hidden), atol=1e-5)


def test_no_class_token_to_pool(make_scorer: Callable) -> None:
    with pytest.raises(ValueError, match=r"ResNetModel has no class token, got pooling='cls'\. Pass 'mean'"):
        make_scorer("resnet", pooling="cls")


def test_pooling_of_a_named_module(make_scorer: Callable, dataset: Dataset) -> None:
    scorer = make_scorer(pooling="mean@layers.0").fit(dataset)
    pixels = scorer.processor(images=[image.convert("RGB") for image in dataset["picture"]], return_tensors="pt")
    with torch.no_grad():
        hidden = scorer.model(**pixels, output_hidden_states=True).hidden_states[1]
    np.testing.assert_allclose(scorer.parts.task.prototypes.features, hidden[:, 1:].mean(dim=1), atol=1e-5)


@pytest.mark.parametrize("name", ["dinov2", "swin", "convnext", "resnet"])
def test_pooling_of_a_module_that_puts_out_more(make_scorer: Callable, dataset: Dataset, name: str) -> None:
    scorer = make_scorer(name, pooling="mean@encoder").fit(dataset)
    pixels = scorer.processor(images=[image.convert("RGB") for image in dataset["picture"]], return_tensors="pt")
    outputs: list[Any] = []
    hook = scorer.model.encoder.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    with torch.no_grad():
        scorer.model(**pixels)
    hook.remove()
    hidden = outputs[0].last_hidden_state
    expected = hidden.mean(dim=(2, 3)) if hidden.dim() == 4 else hidden[:, 1 if name == "dinov2" else 0 :].mean(dim=1)
    np.testing.assert_allclose(scorer.parts.task.prototypes.features, expected, atol=1e-5)


def test_prototypes_in_the_place_of_a_trained_head(processor: BaseImageProcessor, dataset: Dataset) -> None:
    model = make_model("vit", with_head=True)
    options = DLCConfig(schedule=SCHEDULE, masking="magnitude", keep_levels=True, head="prototype")
    found = [scores(DLCScorer(part, processor, options).fit(dataset).score(dataset)) for part in (model, model.vit)]
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    assert not np.allclose(found[0], scores(DLCScorer(model, processor, options_of_head(options)).score(dataset)))


def options_of_head(options: DLCConfig) -> DLCConfig:
    return dataclasses.replace(options, head="classifier")


def test_a_trained_cnn_finds_wrong_labels(processor: BaseImageProcessor) -> None:
    rng, labels = np.random.default_rng(0), [i % 3 for i in range(90)]
    drawn = [picture(label, rng) for label in labels]
    torch.manual_seed(0)
    model = make_model("resnet", with_head=True).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    pixels = processor(images=drawn[:60], return_tensors="pt")["pixel_values"]
    for _ in range(30):
        optimizer.zero_grad()
        model(pixel_values=pixels, labels=torch.tensor(labels[:60])).loss.backward()
        optimizer.step()
    claimed = [(label + 1) % 3 if i % 6 == 0 else label for i, label in enumerate(labels[60:])]
    features = Features({"picture": Image(), "label": ClassLabel(names=NAMES)})
    unseen = Dataset.from_dict({"picture": drawn[60:], "label": claimed}, features)
    scored = DLCScorer(model, processor, DLCConfig(schedule="0, 0.02")).score(unseen)
    hardest = np.argsort(scored["dlc_loss"][:])[-5:]
    assert sorted(hardest.tolist()) == [0, 6, 12, 18, 24]
    assert model.training


def test_levels_of_a_default_schedule(make_scorer: Callable, dataset: Dataset) -> None:
    """The fixed fractions of image models are picked from as any others."""
    options = {"head": "classifier", "schedule": None, "masking": "magnitude"}
    exact, fast, single = (make_scorer(**options, levels=levels) for levels in ("exact", "fast", "single"))
    assert exact.schedule_ == (0.0, 0.2, 0.4, 0.6)
    assert fast.schedule_ == (0.0, 0.4)
    assert single.schedule_ == (0.0,)
    np.testing.assert_array_equal(scores(fast.score(dataset)), scores(exact.score(dataset))[:, :, [0, 2]])


@pytest.mark.parametrize(("masking", "schedule"), [("magnitude", "linear(0.1, 5)"), ("random", "geometric(0.05, 4)")])
def test_schedules_of_the_paper(make_scorer: Callable, dataset: Dataset, masking: str, schedule: str) -> None:
    scorer = make_scorer(schedule=schedule, masking=masking).fit(dataset)
    found = scores(scorer.score(dataset))
    assert found.shape[2] == len(scorer.schedule_)
    assert (np.diff(found[0], axis=1) != 0).any(axis=0).all()  # no level is like the one before
    masked = [level.masked / level.maskable for level in scorer.masking_report()]
    np.testing.assert_allclose(masked, scorer.schedule_, atol=0.002)


@pytest.mark.parametrize("name", ["clip", "imagegpt"])
def test_models_that_are_no_image_classifiers(processor: BaseImageProcessor, name: str) -> None:
    if name == "clip":  # images and text
        small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        vision = {**small, "image_size": SIZE, "patch_size": 8}
        text = {**small, "vocab_size": 99}
        model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision))
    else:  # pixels as words
        sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 9, "n_positions": 9}
        model = transformers.ImageGPTModel(transformers.ImageGPTConfig(**sizes))
    with pytest.raises(ValueError, match=type(model).__name__):
        DLCScorer(model, processor)


@pytest.mark.parametrize("name", ["swiftformer", "textnet"])
def test_no_head_is_masked(name: str) -> None:
    """Whatever it is called: it reads what the masks distort."""
    config = transformers.AutoConfig.for_model(name, num_labels=3)
    model = transformers.AutoModelForImageClassification.from_config(config)
    body = {id(parameter) for parameter in model.base_model.parameters()}
    assert len(body) < len(list(model.parameters()))
    targets = find_targets(model)
    assert len(targets) > 5
    assert {id(target.parameter) for target in targets} <= body


# ---- fitting -----------------------------------------------------------------------------------------------------


def test_before_fit_everything_says_so(make_scorer: Callable, dataset: Dataset) -> None:
    scorer = make_scorer()
    for use in (scorer.score, scorer.estimate, lambda rows: rows.map(scorer, batched=True)):
        with pytest.raises(ValueError, match=r"Call scorer.fit\(dataset\)"):
            use(dataset)


def test_a_trained_head_needs_no_fit(make_scorer: Callable, dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="head='prototype'"):
        make_scorer(head="classifier").fit(dataset)


def test_one_class_tells_nothing(make_scorer: Callable, dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="at least two classes, got 8 of 8 rows"):
        make_scorer().fit(dataset.select(range(0, 24, 3)))


def test_an_image_model_needs_an_image_processor(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="needs an image processor, got"):
        DLCScorer(make_model("vit", False), tokenizer)


def test_fit_enters_the_fingerprint(make_scorer: Callable, dataset: Dataset) -> None:
    scorer = make_scorer()
    before = Hasher.hash(scorer)
    first, key = Hasher.hash(scorer.fit(dataset)), scorer.parts.task.prototypes.key
    fewer = scorer.fit(dataset.select(range(20)))
    relabelled = make_scorer().fit(dataset.map(lambda row: {"label": (row["label"] + 1) % 3}))
    other_weights = make_scorer("deit").fit(dataset)
    others = [fewer, relabelled, other_weights]
    assert len({key, *(scorer.parts.task.prototypes.key for scorer in others)}) == 4
    assert len({before, first, *map(Hasher.hash, others)}) == 5
    assert Hasher.hash(scorer.fit(dataset)) == first


def test_saved_and_loaded(saved: Path, dataset: Dataset, tmp_path: Path) -> None:
    options = {"device": "cpu", "dtype": "float32", "schedule": SCHEDULE, "keep_levels": True}
    scorer = DLCScorer.from_pretrained(saved, **options).fit(dataset)
    scorer.save_pretrained(tmp_path / "scorer")
    again = DLCScorer.from_pretrained(tmp_path / "scorer", device="cpu")
    assert Hasher.hash(again) == Hasher.hash(scorer)
    assert np.array_equal(scores(again.score(dataset)), scores(scorer.score(dataset)))
    assert again.score(dataset.select(range(5))).num_rows == 5
    mapped = dataset.map(scorer, batched=True, num_proc=2)
    np.testing.assert_allclose(scores(mapped), scores(scorer.score(dataset)), atol=1e-5)


def test_a_saved_fit_serves_both_kinds_of_logits(saved: Path, dataset: Dataset, tmp_path: Path) -> None:
    options = {"device": "cpu", "dtype": "float32", "schedule": SCHEDULE, "keep_levels": True}
    DLCScorer.from_pretrained(saved, **options).fit(dataset).save_pretrained(tmp_path / "scorer")
    other = {"prototype_logits": "temperature"}
    expected = DLCScorer.from_pretrained(saved, **options, **other).fit(dataset)
    found = DLCScorer.from_pretrained(tmp_path / "scorer", device="cpu", **other)
    assert found.parts.task.prototypes.temperature != 1
    assert np.array_equal(scores(found.score(dataset)), scores(expected.score(dataset)))


def test_a_fit_with_other_weights_is_not_used(
    saved: Path, dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = DLCScorer.from_pretrained(saved, device="cpu", dtype="float32", schedule=SCHEDULE).fit(dataset)
    scorer.save_pretrained(tmp_path / "scorer")
    with torch.no_grad():
        scorer.model.layers[0].mlp.fc1.weight += 1
    with pytest.raises(ValueError, match="fitted with other weights"):
        scorer.save_pretrained(tmp_path / "again")
    scorer.model.save_pretrained(saved)
    again = DLCScorer.from_pretrained(tmp_path / "scorer", device="cpu")
    assert "fitted with other weights or options: call fit again" in caplog.text
    with pytest.raises(ValueError, match=r"Call scorer.fit\(dataset\)"):
        again.score(dataset)


def test_the_same_weights_elsewhere_are_those_of_the_fit(make_scorer: Callable, dataset: Dataset) -> None:
    scorer = make_scorer().fit(dataset)
    expected = scores(scorer.score(dataset))
    layer = scorer.model.layers[0].mlp.fc1
    layer.weight = torch.nn.Parameter(layer.weight.detach().clone())
    assert np.array_equal(scores(scorer.score(dataset)), expected)


def test_fingerprint_is_the_same_in_another_process(saved: Path, dataset: Dataset, tmp_path: Path) -> None:
    dataset.save_to_disk(str(tmp_path / "images"))
    code = f"""
from datasets import load_from_disk
from datasets.fingerprint import Hasher
from hf_dlc import DLCScorer
scorer = DLCScorer.from_pretrained({str(saved)!r}, device="cpu", dtype="float32")
print(Hasher.hash(scorer.fit(load_from_disk({str(tmp_path / "images")!r}), num_threads=1)))
"""
    here = DLCScorer.from_pretrained(saved, device="cpu", dtype="float32").fit(dataset, num_threads=1)
    assert run_python(code, PYTHONHASHSEED="22").stdout.strip() == Hasher.hash(here)


@pytest.mark.parametrize("scores", ["confidence,loss", "knn_confidence"])
def test_no_code_of_ours_is_hashed(make_scorer: Callable, dataset: Dataset, scores: str) -> None:
    """Or a comment in another place would score all images anew."""
    assert b"_create_code" not in dumps(make_scorer(scores=scores).fit(dataset))


def test_mapped_again_nothing_is_computed(saved: Path, dataset: Dataset, tmp_path: Path) -> None:
    dataset.save_to_disk(str(tmp_path / "images"))
    found = []
    for _ in range(2):
        rows = load_from_disk(str(tmp_path / "images"))
        scorer = DLCScorer.from_pretrained(saved, device="cpu", dtype="float32", schedule=SCHEDULE).fit(rows)
        passes: list[int] = []
        scorer.model.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        found.append((rows.map(scorer, batched=True)["dlc_loss"][:], len(passes) > 0))
    assert found[0][0] == found[1][0]
    assert [computed for _, computed in found] == [True, False]


def test_a_state_that_is_not_there_any_more(saved: Path, dataset: Dataset, tmp_path: Path) -> None:
    scorer = DLCScorer.from_pretrained(saved, device="cpu", dtype="float32", schedule=SCHEDULE)
    scorer.fit(dataset).save_pretrained(tmp_path)
    assert (tmp_path / STATE_NAME).is_file()
    DLCScorer.from_pretrained(saved, device="cpu", dtype="float32").save_pretrained(tmp_path)
    assert not (tmp_path / STATE_NAME).is_file()


@pytest.mark.parametrize("name", ["sums", "counts", "digests", "labels", "features"])
def test_arrays_that_do_not_belong_together(make_scorer: Callable, dataset: Dataset, name: str) -> None:
    fitted = make_scorer().fit(dataset).parts.task.prototypes
    arrays = {**fitted.arrays, name: fitted.arrays[name][:-1]}
    with pytest.raises(ValueError, match="arrays of prototypes must"):
        Prototypes.from_arrays(fitted.classes, arrays, fitted.key)


def test_features_that_are_no_numbers_cost_one_image(
    make_scorer: Callable, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float16 a model may give NaN for one image; its class has others."""
    scorer = make_scorer()
    pixels = scorer.parts.task.encoder.read(dataset[3]["picture"])
    features_at = ImageClassificationTask.features_at

    def broken(self: Any, rows: Any, layers: Any) -> dict[str, torch.Tensor]:
        found = features_at(self, rows, layers)
        is_broken = torch.tensor([torch.equal(row.pixels, pixels) for row in rows])
        return {name: values.masked_fill(is_broken[:, None], torch.nan) for name, values in found.items()}

    monkeypatch.setattr(ImageClassificationTask, "features_at", broken)
    scored = scorer.fit(dataset).score(dataset)
    assert scored["dlc_status"][:] == ["nan_score" if row == 3 else "ok" for row in range(24)]


def test_fit_goes_on_where_memory_is_short(
    make_scorer: Callable, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = make_scorer().fit(dataset).parts.task.prototypes.features
    features_at = ImageClassificationTask.features_at

    def short(self: Any, rows: Any, layers: Any) -> dict[str, torch.Tensor]:
        if len(rows) > 7:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return features_at(self, rows, layers)

    monkeypatch.setattr(ImageClassificationTask, "features_at", short)
    found = make_scorer().fit(dataset).parts.task.prototypes.features
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert "does not fit into memory" in caplog.text


def test_weights_that_changed_after_fit_are_noticed(make_scorer: Callable, dataset: Dataset) -> None:
    scorer = make_scorer().fit(dataset)
    with torch.no_grad():
        scorer.model.layers[0].mlp.fc1.weight += 1
    with pytest.raises(ValueError, match="fitted with other weights"):
        scorer.score(dataset)


# ---- rows that cannot be scored ----------------------------------------------------------------------------------


def test_reasons(make_scorer: Callable, dataset: Dataset) -> None:
    rng = np.random.default_rng(1)
    good, broken = picture(0, rng), {"bytes": b"not an image", "path": None}
    scorer = make_scorer().fit(dataset)
    features = Features({"picture": Image(decode=False), "label": Value("string")})
    as_stored = Image().encode_example(good)
    rows = Dataset.from_dict(
        {
            "picture": [as_stored, broken, as_stored, as_stored, None],
            "label": ["circle", "circle", None, "square", "Stripe"],
        },
        features=features,
    )
    expected = ["ok", "invalid_image", "missing_label", "unknown_label", "invalid_image"]
    scored = scorer.score(rows)
    assert scored["dlc_status"][:] == expected
    assert np.isnan(scored["dlc_confidence"][:]).tolist() == [False, True, True, True, True]
    first = scorer.estimate(rows).first_skipped
    assert first["invalid_image"].startswith("row 1: the image cannot be read: UnidentifiedImageError")
    assert first["missing_label"] == "row 2: there is no label"
    assert first["unknown_label"] == "row 3: the label 'square' is none of ['circle', 'stripe', 'noise']"
    assert str(scorer.reading_).startswith(
        "rows are read as images: 'picture' as image, 'label'; as pixels; learned: the"
    )
    assert rows.map(scorer, batched=True)["dlc_status"][:] == expected


@pytest.mark.parametrize("head", ["prototype", "classifier"])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2], r"labels that are numbers must have names, .*\['circle', 'stripe', 'noise'\].*ClassLabel"),
        (["cat", "dog", None], r"must be those of the head, got \['None', 'cat', 'dog'\] for \['circle'"),
        ([["circle"], ["noise"], []], r"one class a row, got \['circle'\]"),
    ],
)
def test_labels_that_mean_something_else(
    make_scorer: Callable, dataset: Dataset, head: str, labels: list[Any], message: str
) -> None:
    scorer = make_scorer(head=head)
    if head == "prototype":
        scorer.fit(dataset)
    rows = dataset.select(range(3)).remove_columns("label").add_column("label", labels)
    with pytest.raises(ValueError, match=message):
        scorer.score(rows)


def test_numbers_are_classes_of_their_own(make_scorer: Callable, dataset: Dataset) -> None:
    """Also -1, which is no missing label where there are no names."""
    labels = [label - 1 for label in dataset["label"][:]]
    rows = dataset.remove_columns("label").add_column("label", labels)
    scorer = make_scorer().fit(rows)
    assert scorer.parts.task.classes == (-1, 0, 1)
    expected = scores(make_scorer().fit(dataset).score(dataset))
    np.testing.assert_allclose(scores(scorer.score(rows)), expected, atol=1e-6)


def test_only_image_of_its_class(make_scorer: Callable, dataset: Dataset) -> None:
    few = dataset.select([0, 1, 2, 3, 4, 6])  # a single picture of class 2
    scorer = make_scorer().fit(few)
    assert scorer.score(few)["dlc_status"][:] == ["ok", "ok", "only_of_class", "ok", "ok", "ok"]
    assert scorer.score(dataset.select([5]))["dlc_status"][:] == ["ok"]  # another one has it to compare with


def test_labels_in_another_order_are_refused(make_scorer: Callable, dataset: Dataset) -> None:
    swapped = dataset.cast_column("label", ClassLabel(names=["stripe", "circle", "noise"]))
    for scorer in (make_scorer(head="classifier"), make_scorer().fit(dataset)):
        with pytest.raises(ValueError, match="align_labels_with_mapping"):
            scorer.score(swapped)


def test_map_reads_images_as_score_does(make_scorer: Callable, dataset: Dataset, tmp_path: Path) -> None:
    """`datasets` would decode all columns for `map`, and stop at the first image that is cut short."""
    whole = Image().encode_example(picture(0, np.random.default_rng(1)))["bytes"]
    rows = {"picture": [{"bytes": whole, "path": None}, {"bytes": whole[:300], "path": None}], "label": [0, 1]}
    rows = Dataset.from_dict(rows, features=dataset.features)
    scorer = make_scorer().fit(dataset)
    for mapped in (rows.map(scorer, batched=True), rows.map(scorer)):
        assert mapped.with_format("numpy").remove_columns("picture")["dlc_status"][:].tolist() == [
            "ok",
            "invalid_image",
        ]
    swapped = dataset.cast_column("label", ClassLabel(names=["stripe", "circle", "noise"]))
    with pytest.raises(ValueError, match="align_labels_with_mapping"):
        swapped.map(scorer, batched=True)


def test_image_that_is_gone_at_a_later_level(
    make_scorer: Callable, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [str(tmp_path / f"{i}.png") for i in range(24)]
    for path, image in zip(paths, dataset["picture"], strict=True):
        image.save(path)
    rows = Dataset.from_dict({"picture": paths, "label": dataset["label"][:]}, features=dataset.features)
    monkeypatch.setattr(images, "_room_for_pixels", lambda: 0)
    scorer = make_scorer().fit(rows)
    scorer.estimate(rows)
    (tmp_path / "5.png").unlink()
    with pytest.raises(OSError, match="the image of row 5 could be read before"):
        scorer.score(rows)


def test_only_the_stored_form_is_mapped(make_scorer: Callable, dataset: Dataset) -> None:
    scorer = make_scorer().fit(dataset)
    with pytest.raises(ValueError, match=r"got arrays. Call dataset.with_format\(None\) first"):
        dataset.with_format("numpy").map(scorer, batched=True)
    expected = scores(scorer.score(dataset))
    assert np.array_equal(scores(scorer.score(dataset.with_format("numpy")).with_format(None)), expected)


def test_streams(make_scorer: Callable, dataset: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    scorer = make_scorer().fit(dataset)
    expected = scores(scorer.score(dataset))
    stream = list(dataset.to_iterable_dataset().map(scorer, batched=True, batch_size=5))
    found = np.array([[row[f"dlc_level_{kind}"] for row in stream] for kind in ("confidence", "loss")])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    told = [record.message for record in caplog.records if "taken as places in" in record.message]
    assert told == [
        "these rows have numbers as labels and no names of them: they are taken as places in " + str(NAMES)
    ]
    assert scorer({"image": None, "label": 1})["dlc_status"] == "invalid_image"


def test_streams_of_broken_images(make_scorer: Callable, dataset: Dataset) -> None:
    """`datasets` decodes what a stream hands over, unless it is told not to."""
    whole = Image().encode_example(dataset[0]["picture"])["bytes"]
    rows = [{"picture": {"bytes": data, "path": None}, "label": 0} for data in (whole, whole[:200])]
    stream = Dataset.from_list(rows, features=dataset.features).to_iterable_dataset()
    scorer = make_scorer().fit(dataset)
    for options in ({}, {"batched": True}):
        found = [row["dlc_status"] for row in stream.decode(False).map(scorer, **options)]
        assert found == ["ok", "invalid_image"]


def test_images_that_are_plain_bytes(make_scorer: Callable, dataset: Dataset) -> None:
    """A column that no type tells, but a name: `map` and `score` read the same."""
    stored = dataset.cast_column("picture", Image(decode=False))
    rows = Dataset.from_dict({"jpg": [row["picture"]["bytes"] for row in stored], "label": stored["label"][:]})
    assert rows.features["jpg"] == Value("binary")
    scorer = make_scorer(columns={"jpg": "image"}).fit(rows)
    found = scores(scorer.score(rows))
    np.testing.assert_allclose(found, scores(make_scorer().fit(dataset).score(dataset)), atol=1e-5)
    np.testing.assert_allclose(scores(rows.map(scorer, batched=True)), found, atol=1e-5)


def test_sizes_that_do_not_fit_together(make_scorer: Callable, dataset: Dataset) -> None:
    scorer = make_scorer("resnet")
    scorer.processor.do_resize = False
    pictures = [picture(0, np.random.default_rng(0)), picture(1, np.random.default_rng(0)).resize((48, 48))]
    rows = Dataset.from_dict({"picture": pictures, "label": [0, 1]}, features=dataset.features)
    try:
        with pytest.raises(ValueError, match=r"in one size, got \(3, 40, 40\) and, of image 1, \(3, 48, 48\)"):
            scorer.fit(rows)
    finally:
        scorer.processor.do_resize = True


def test_decoded_once_for_fit_estimate_and_score(
    make_scorer: Callable, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, images_read = images.ImageReader.__call__, []
    monkeypatch.setattr(images.ImageReader, "__call__", lambda self, value: images_read.append(1) or read(self, value))
    scorer = make_scorer().fit(dataset)
    scorer.estimate(dataset)
    scorer.score(dataset)
    assert len(images_read) == 24


# ---- the rest of the way -----------------------------------------------------------------------------------------


def test_journal_goes_on(make_scorer: Callable, dataset: Dataset, tmp_path: Path) -> None:
    scorer = make_scorer(tokens_per_batch=8).fit(dataset)
    expected = scores(scorer.score(dataset))
    scorer.score(dataset, run_dir=tmp_path, chunk_seconds=0)
    chunks = sorted((tmp_path / "chunks").iterdir())
    for chunk in chunks[::2]:
        chunk.unlink()
    assert np.array_equal(scores(scorer.score(dataset, run_dir=tmp_path)), expected)
    scorer.fit(dataset.select(range(20)))
    with pytest.raises(RuntimeError, match="another run"):
        scorer.score(dataset, run_dir=tmp_path)


def test_selection_within_classes(make_scorer: Callable, dataset: Dataset) -> None:
    scored = make_scorer().fit(dataset).score(dataset)
    pruned = FlexRandSelector(keep=0.5, group_by="label")(scored)
    assert np.bincount(pruned["label"][:]).tolist() == [4, 4, 4]
    uneven = scored.select([0, 3, 6, 9, 12, 15, 18, 21, 1, 2])  # eight, one and one
    kept = FlexRandSelector(keep=4, group_by="label", min_per_group=1)(uneven)
    assert np.bincount(kept["label"][:]).tolist() == [2, 1, 1]
    with pytest.raises(ValueError, match="keep=2 asks for 2 rows, but 1 of each of 3 groups are 3"):
        FlexRandSelector(keep=2, group_by="label", min_per_group=1)(uneven)


@pytest.mark.parametrize("lost", ["pooler.", "layers.0.layernorm_before."])
def test_checkpoint_without_some_weights(
    processor: BaseImageProcessor, tmp_path: Path, capsys: pytest.CaptureFixture, lost: str
) -> None:
    model = make_model("vit", False)
    weights = model.state_dict()
    kept = {name: values for name, values in weights.items() if not name.startswith(lost)}
    assert len(kept) < len(weights)
    model.save_pretrained(tmp_path, state_dict=kept)
    processor.save_pretrained(tmp_path)
    shown = logging.StreamHandler(sys.stderr)  # transformers holds on to another stderr than that of this test
    logging.getLogger("transformers").addHandler(shown)
    try:
        if lost == "pooler.":  # which nothing here uses
            assert not DLCScorer.from_pretrained(tmp_path, device="cpu").model.pooler
        else:
            with pytest.raises(ValueError, match="lacks 2 of the weights of ViTModel, such as layers"):
                DLCScorer.from_pretrained(tmp_path, device="cpu")
    finally:
        logging.getLogger("transformers").removeHandler(shown)
    assert "MISSING" not in capsys.readouterr().err


@pytest.mark.slow
def test_no_noise_without_torchvision(saved: Path) -> None:
    code = "import sys, hf_dlc; hf_dlc.DLCScorer.from_pretrained(sys.argv[1], device='cpu')"
    command = [sys.executable, "-W", "error", "-c", code, str(saved)]
    environment = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert (run.returncode, run.stdout) == (0, "")
    assert run.stderr == ""
