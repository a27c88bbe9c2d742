"""Layers that neighbours are found by: which they are in each family, and what becomes of their outputs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from transformers import PreTrainedModel, ViTImageProcessor

from hf_dlc.tasks.table import build_task
from hf_dlc.tasks.vision.layers import captured, choose_layers
from hf_dlc.tasks.vision.models import is_image_model
from hf_dlc.tasks.vision.task import ImageClassificationTask
from tests.laws.matrix.families import BODIES, IMAGE_SIZE, IMAGES


FAMILIES = {**IMAGES, **BODIES}
OPTIONS = {
    "columns": None,
    "head": "auto",
    "pooling": "auto",
    "prototype_logits": "inverse",
    "knn_neighbours": 3,
    "scores": ("knn_confidence",),
}


def make_task(model: PreTrainedModel, **options: object) -> ImageClassificationTask:
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return build_task(model, ViTImageProcessor(size=size), {**OPTIONS, **options})


def features_of(task: ImageClassificationTask, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    return task.features_at([SimpleNamespace(pixels=one) for one in pixels], task.layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_layers(family: str) -> None:
    """All that can be scored; each layer gives a vector, and another one for another image."""
    model = FAMILIES[family]()
    if not is_image_model(model.config, [type(model).__name__]):
        pytest.skip("no image model")
    try:
        make_task(model, scores=("loss",))
    except ValueError as error:
        pytest.skip(str(error))
    task = make_task(model)
    assert 2 <= len(task.layers) <= 4
    assert len(set(task.layers)) == len(task.layers)
    pixels = torch.rand(3, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    pixels[1] = pixels[1] ** 4
    found = features_of(task, pixels)
    assert list(found) == ["pooled", *task.layers]
    for name in task.layers:
        assert found[name].dtype == torch.float32
        assert found[name].shape[0] == 3
        assert found[name].dim() == 2
        assert found[name].isfinite().all()
        assert (found[name][0] - found[name][1]).abs().max() > 0, name


@pytest.mark.parametrize(
    ("blocks", "places"),
    [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (5, [1, 2, 3, 4]), (12, [2, 5, 8, 11])],
)
def test_at_even_distances_the_last_included(blocks: int, places: list[int]) -> None:
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "image_size": 8, "patch_size": 4}
    body = transformers.ViTModel(transformers.ViTConfig(num_hidden_layers=blocks, **sizes))
    assert choose_layers(body) == tuple(f"layers.{place}" for place in places)


@pytest.mark.parametrize(
    ("pooling", "expected"), [("cls", lambda hidden: hidden[:, 0]), ("mean", lambda hidden: hidden[:, 1:].mean(dim=1))]
)
@pytest.mark.parametrize("module", ["", "@layers.0"])
def test_layers_are_pooled_as_the_user_says(pooling: str, module: str, expected: Callable) -> None:
    """First token or mean; a module that is named with it is that of prototypes alone."""
    task = make_task(FAMILIES["vit (body)"](), pooling=pooling + module)
    pixels = torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    found = features_of(task, pixels)
    with torch.no_grad():
        states = task.body(pixel_values=pixels, output_hidden_states=True).hidden_states[1:]
    assert task.layers == ("layers.0", "layers.1")
    for name, hidden in zip(task.layers, states, strict=True):
        np.testing.assert_allclose(found[name], expected(hidden), atol=1e-5)
    assert torch.equal(found["pooled"], task.features([SimpleNamespace(pixels=one) for one in pixels]))


@pytest.mark.parametrize("family", ["cvt (body)", "pvt (body)", "dinov3_convnext (body)"])
def test_stages_without_a_class_token_are_averaged(family: str) -> None:
    task = make_task(FAMILIES[family](), pooling="cls")
    pixels = torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    with captured(task.body, task.layers) as outputs, torch.no_grad():
        task.body(pixel_values=pixels)
    found = features_of(task, pixels)
    for name, hidden in outputs.items():
        expected = hidden.mean(dim=(2, 3)) if hidden.dim() == 4 else hidden.mean(dim=1)
        np.testing.assert_allclose(found[name], expected, atol=1e-5)


def test_a_model_without_a_list_of_blocks_is_refused_by_name() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.empty = nn.Linear(2, 2), nn.ModuleList()

    with pytest.raises(ValueError, match=r"Flat must have its blocks in a list of modules, .* Leave knn_confidence"):
        choose_layers(Flat())


def test_nothing_stays_hooked_where_the_model_fails() -> None:
    model = nn.Linear(2, 2)
    outer = nn.Sequential(model)
    with pytest.raises(RuntimeError), captured(outer, ["0"]):
        outer(torch.zeros(3))
    assert not model._forward_hooks
