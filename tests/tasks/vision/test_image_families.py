"""Image models of all kinds: which are scored, with what head and features, and which are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Pillow
from transformers import BaseImageProcessor, PreTrainedModel, ViTImageProcessor

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.masking import find_targets


SIZE = 32
NAMES = ["circle", "stripe", "noise"]

_SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_VISION = {**_SMALL, "image_size": SIZE, "patch_size": 8, "initializer_range": 0.2}
_TEXT = {**_SMALL, "vocab_size": 99, "max_position_embeddings": 8}
_STAGES = {"depths": [1, 1], "hidden_sizes": [8, 16]}
_HGNET = {
    "embedding_size": 8,
    "stem_channels": [3, 8, 8],
    "stage_in_channels": [8, 8],
    "stage_mid_channels": [8, 8],
    "stage_out_channels": [8, 16],
    "stage_num_blocks": [1, 1],
    "stage_downsample": [False, True],
    "stage_light_block": [False, True],
    "stage_kernel_size": [3, 3],
    "stage_numb_of_layers": [2, 2],
}

CLASSIFIERS: dict[str, Callable[[], PreTrainedModel]] = {
    "beit": lambda: transformers.BeitForImageClassification(transformers.BeitConfig(**_VISION, **_labels())),
    "data2vec": lambda: transformers.Data2VecVisionForImageClassification(
        transformers.Data2VecVisionConfig(**_VISION, **_labels())
    ),
    "clip": lambda: transformers.CLIPForImageClassification(
        transformers.CLIPConfig(text_config=_TEXT, vision_config=_VISION, **_labels())
    ),
    "siglip": lambda: transformers.SiglipForImageClassification(
        transformers.SiglipConfig(text_config=_TEXT, vision_config=_VISION, **_labels())
    ),
    "metaclip_2": lambda: transformers.MetaClip2ForImageClassification(
        transformers.MetaClip2Config(text_config=_TEXT, vision_config=_VISION, **_labels())
    ),
    "hgnet_v2": lambda: transformers.HGNetV2ForImageClassification(
        transformers.HGNetV2Config(**_STAGES, **_HGNET, **_labels())
    ),
    "pp_lcnet": lambda: transformers.PPLCNetForImageClassification(
        transformers.PPLCNetConfig(scale=0.25, **_labels())
    ),
    "cvt": lambda: transformers.CvtForImageClassification(
        transformers.CvtConfig(embed_dim=[8, 16, 16], num_heads=[1, 1, 1], depth=[1, 2, 3], **_labels())
    ),
}
BODIES: dict[str, Callable[[], PreTrainedModel]] = {
    "dinov3_vit": lambda: transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**_VISION, num_register_tokens=2)),
    "dinov3_convnext": lambda: transformers.DINOv3ConvNextModel(
        transformers.DINOv3ConvNextConfig(hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1])
    ),
    "siglip": lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**_VISION)),
    "clip": lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**_VISION)),
    "metaclip_2": lambda: transformers.MetaClip2VisionModel(transformers.MetaClip2VisionConfig(**_VISION)),
}
# What in these is the head, by the names that transformers gives it.
HEADS = {"hgnet_v2": "fc.", "pp_lcnet": "head."}


def _labels() -> dict[str, Any]:
    return {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}


def build(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    rng, labels = np.random.default_rng(0), [i % 3 for i in range(9)]
    drawn = [Pillow.fromarray(rng.integers(0, 255, (SIZE, SIZE, 3)).astype(np.uint8)) for _ in labels]
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    return Dataset.from_dict({"image": drawn, "label": labels}, features)


@pytest.fixture(scope="module")
def processor() -> BaseImageProcessor:
    return ViTImageProcessor(size={"height": SIZE, "width": SIZE})


@pytest.fixture(scope="module")
def pixels(dataset: Dataset, processor: BaseImageProcessor) -> torch.Tensor:
    return processor(images=list(dataset["image"]), return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(
    processor: BaseImageProcessor, dataset: Dataset, pixels: torch.Tensor, tmp_path: Path, name: str
) -> None:
    model = build(CLASSIFIERS[name])
    with torch.no_grad():
        log_probs = model(pixel_values=pixels)[0].log_softmax(dim=1)
    expected = -log_probs[torch.arange(len(dataset)), torch.tensor(dataset["label"][:])]
    scorer = DLCScorer(model, processor, DLCConfig(schedule="0, 0.1", keep_levels=True))
    found = np.array(scorer.score(dataset)["dlc_level_loss"][:])
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-5)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = DLCScorer.from_pretrained(tmp_path, device="cpu", dtype="float32", config=scorer.config)
    np.testing.assert_allclose(loaded.score(dataset)["dlc_level_loss"][:], found, atol=1e-5)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_no_head_is_masked(name: str) -> None:
    model = build(CLASSIFIERS[name])
    head = [key for key, _ in model.named_parameters() if key.startswith(HEADS.get(name, "classifier"))]
    masked = {target.name for target in find_targets(model)}
    assert head
    assert masked
    assert not masked & set(head)


def test_the_head_of_a_perceiver_is_within_its_body() -> None:
    config = transformers.PerceiverConfig(
        num_latents=4,
        d_latents=16,
        num_blocks=1,
        num_self_attends_per_block=1,
        num_self_attention_heads=1,
        num_cross_attention_heads=1,
        **_labels(),
    )
    model = transformers.PerceiverForImageClassificationLearned(config)
    assert model.perceiver.decoder.decoder.final_layer.out_features == len(NAMES)
    assert not [target.name for target in find_targets(model) if "final_layer" in target.name]


@pytest.mark.parametrize("name", BODIES)
def test_bodies(processor: BaseImageProcessor, dataset: Dataset, tmp_path: Path, name: str) -> None:
    model = build(BODIES[name])
    options = DLCConfig(schedule="0, 0.1", keep_levels=True)
    found = DLCScorer(model, processor, options).fit(dataset).score(dataset)
    assert found["dlc_status"][:] == ["ok"] * len(dataset)
    assert np.std(found["dlc_loss"][:]) > 0
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = DLCScorer.from_pretrained(tmp_path, device="cpu", dtype="float32", config=options).fit(dataset)
    np.testing.assert_allclose(loaded.score(dataset)["dlc_loss"][:], found["dlc_loss"][:], atol=1e-5)


# What the family's own classifier makes of the hidden states, before its last norm.
POOLED: dict[str, Callable[[PreTrainedModel, torch.Tensor], torch.Tensor]] = {
    "beit": lambda model, pixels: model.beit(pixels).last_hidden_state[:, 1:].mean(dim=1),
    "data2vec": lambda model, pixels: model.data2vec_vision(pixels).last_hidden_state[:, 1:].mean(dim=1),
    "clip": lambda model, pixels: model.vision_model(pixels).last_hidden_state[:, 1:].mean(dim=1),
    "siglip": lambda model, pixels: model.vision_model(pixels).last_hidden_state.mean(dim=1),
    "metaclip_2": lambda model, pixels: model.vision_model(pixels).last_hidden_state[:, 1:].mean(dim=1),
    "hgnet_v2": lambda model, pixels: model.encoder(model.embedder(pixels)).last_hidden_state.mean(dim=(2, 3)),
    "pp_lcnet": lambda model, pixels: model.encoder(pixels).last_hidden_state.mean(dim=(2, 3)),
    "cvt": lambda model, pixels: model.cvt(pixels).cls_token_value[:, 0],
}


@pytest.mark.parametrize("name", POOLED)
def test_features_are_pooled_as_the_family_does(
    processor: BaseImageProcessor, dataset: Dataset, pixels: torch.Tensor, name: str
) -> None:
    model = build(CLASSIFIERS[name])
    found = DLCScorer(model, processor, DLCConfig(head="prototype")).features(dataset)
    with torch.no_grad():
        np.testing.assert_allclose(found, POOLED[name](model, pixels), atol=1e-5)


@pytest.mark.parametrize("name", ["dinov3_vit", "dinov3_convnext"])
def test_features_of_bodies_that_pool_by_themselves(
    processor: BaseImageProcessor, dataset: Dataset, pixels: torch.Tensor, name: str
) -> None:
    model = build(BODIES[name])
    found = DLCScorer(model, processor).features(dataset)
    with torch.no_grad():
        np.testing.assert_allclose(found, model(pixels).pooler_output, atol=1e-5)


def test_beit_that_does_not_average(processor: BaseImageProcessor, dataset: Dataset, pixels: torch.Tensor) -> None:
    model = build(lambda: transformers.BeitModel(transformers.BeitConfig(**_VISION, use_mean_pooling=False)))
    found = DLCScorer(model, processor).features(dataset)
    with torch.no_grad():
        np.testing.assert_allclose(found, model(pixels).pooler_output, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "first"),
    [
        (lambda: transformers.ViTModel(transformers.ViTConfig(**{**_VISION, "patch_size": [8, 8]})), 1),
        (
            lambda: transformers.PvtModel(
                transformers.PvtConfig(
                    image_size=SIZE, hidden_sizes=[8] * 4, depths=[1] * 4, num_attention_heads=[1] * 4
                )
            ),
            1,
        ),
        (BODIES["dinov3_vit"], 3),
    ],
    ids=["ViT with two sizes", "PVT", "DINOv3 with registers"],
)
def test_the_mean_is_over_patches_alone(
    processor: BaseImageProcessor,
    dataset: Dataset,
    pixels: torch.Tensor,
    make: Callable[[], PreTrainedModel],
    first: int,
) -> None:
    model = build(make)
    found = DLCScorer(model, processor, DLCConfig(pooling="mean")).features(dataset)
    with torch.no_grad():
        np.testing.assert_allclose(found, model(pixels).last_hidden_state[:, first:].mean(dim=1), atol=1e-5)


def test_a_map_has_no_class_token(processor: BaseImageProcessor, dataset: Dataset) -> None:
    model = build(CLASSIFIERS["cvt"])
    scorer = DLCScorer(model, processor, DLCConfig(head="prototype", pooling="cls@encoder.stages.0.embedding"))
    with pytest.raises(ValueError, match=r"found a map without a class token"):
        scorer.fit(dataset)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"problem_type": "multi_label_classification"}, r"problem_type='multi_label_classification'"),
        ({"problem_type": "regression"}, "problem_type='regression'"),
        ({"id2label": {0: "quality"}, "label2id": {"quality": 0}}, "num_labels=1"),
    ],
    ids=["several labels", "regression", "one output"],
)
@pytest.mark.parametrize("head", ["auto", "classifier", "prototype"])
def test_heads_that_do_not_choose_a_class(
    processor: BaseImageProcessor, dataset: Dataset, head: str, options: dict[str, Any], message: str
) -> None:
    config = transformers.ViTConfig(**{**_VISION, **_labels(), **options})
    model = build(lambda: transformers.ViTForImageClassification(config))
    if head == "prototype":
        scored = DLCScorer(model, processor, DLCConfig(head=head)).fit(dataset).score(dataset)
        assert scored["dlc_status"][:] == ["ok"] * len(dataset)
        return
    with pytest.raises(ValueError, match=rf"must choose one class of several, got {message}.*head='prototype'"):
        DLCScorer(model, processor, DLCConfig(head=head))


def test_a_head_for_one_label_of_several(processor: BaseImageProcessor) -> None:
    config = transformers.ViTConfig(**_VISION, **_labels(), problem_type="single_label_classification")
    assert not DLCScorer(build(lambda: transformers.ViTForImageClassification(config)), processor).needs_fit


_OTHERS: dict[str, tuple[Callable[[], PreTrainedModel], str]] = {
    "masked autoencoder": (
        lambda: transformers.ViTMAEModel(transformers.ViTMAEConfig(**_VISION)),
        "hides random patches of every image. Load its encoder as a ViT",
    ),
    "patches with places": (
        lambda: transformers.Siglip2VisionModel(
            transformers.Siglip2VisionConfig(**_SMALL, patch_size=8, num_patches=16)
        ),
        "must take an image as one array of pixels",
    ),
    "detection": (
        lambda: transformers.YolosModel(transformers.YolosConfig(**{**_VISION, "image_size": [SIZE, SIZE]})),
        "is no image classifier, nor the body of one",
    ),
    "video": (
        lambda: transformers.VideoMAEModel(transformers.VideoMAEConfig(**_VISION)),
        "is no image classifier, nor the body of one",
    ),
    "pixels as words": (
        lambda: transformers.ImageGPTForImageClassification(
            transformers.ImageGPTConfig(n_embd=16, n_layer=1, n_head=2, vocab_size=9, n_positions=9)
        ),
        "must take an image as one array of pixels",
    ),
    "images and text": (
        lambda: transformers.CLIPModel(transformers.CLIPConfig(text_config=_TEXT, vision_config=_VISION)),
        "or by the vision part alone, which has a class of its own, such as CLIPVisionModel",
    ),
}


@pytest.mark.parametrize("name", _OTHERS)
def test_other_models_are_refused_in_words_about_images(
    processor: BaseImageProcessor, tmp_path: Path, name: str
) -> None:
    make, message = _OTHERS[name]
    model = build(make)
    with pytest.raises(ValueError, match=message):
        DLCScorer(model, processor)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        DLCScorer.from_pretrained(tmp_path, device="cpu")


def test_the_encoder_of_a_masked_autoencoder_is_a_vit(
    processor: BaseImageProcessor, dataset: Dataset, pixels: torch.Tensor, tmp_path: Path
) -> None:
    """As the message says."""
    decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    config = transformers.ViTMAEConfig(**_VISION, **decoder, decoder_intermediate_size=16)
    model = build(lambda: transformers.ViTMAEForPreTraining(config))
    model.save_pretrained(tmp_path / "mae")
    transformers.ViTModel.from_pretrained(tmp_path / "mae", add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    processor.save_pretrained(tmp_path / "vit")
    scorer = DLCScorer.from_pretrained(tmp_path / "vit", device="cpu", dtype="float32")
    model.config.mask_ratio = 0.0
    with torch.no_grad():
        expected = model.vit(pixels, noise=torch.arange(16.0).expand(len(pixels), -1)).last_hidden_state[:, 0]
    np.testing.assert_allclose(scorer.features(dataset), expected, atol=1e-5)


def test_without_named_outputs(processor: BaseImageProcessor, dataset: Dataset, tmp_path: Path) -> None:
    model = build(CLASSIFIERS["beit"])
    expected = DLCScorer(model, processor).score(dataset)["dlc_loss"][:]
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "return_dict": False}))
    found = DLCScorer.from_pretrained(tmp_path, device="cpu", dtype="float32").score(dataset)["dlc_loss"][:]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    model.config.return_dict = False
    with pytest.raises(ValueError, match="got return_dict=False"):
        DLCScorer(model, processor)
