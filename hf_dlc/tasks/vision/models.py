"""Image models: those that can be scored, their body, and how it pools its features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import torch
import transformers
from transformers import AutoModel, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.backbone_utils import BackboneMixin
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, MODEL_MAPPING

from hf_dlc.utils.models import classifier_body


# Families of bodies for which transformers has no classifier.
_BODIES = frozenset(
    {
        "clip_vision_model",
        "dinov3_convnext",
        "dinov3_vit",
        "metaclip_2_vision_model",
        "siglip_vision_model",
    }
)

# Families that take patches in the place of pixels, with their places.
_MORE_THAN_PIXELS = frozenset({"siglip2", "siglip2_vision_model"})

# Last names of parameters that are the token before the patches, and families that compute it from the patches.
_CLASS_TOKENS = {"cls_token", "class_embedding"}
_CLASS_TOKEN_COMPUTED = frozenset({"dinov3_convnext"})


def is_image_classifier(class_name: str) -> bool:
    """
    Whether a class of models has a trained head over classes of images.

    Args:
        class_name (`str`):
            Name of the class. The one of DeiT's distilled classifier goes on behind the usual words.
    """
    return "ForImageClassification" in class_name


def is_image_model(config: PreTrainedConfig, architectures: Sequence[str]) -> bool:
    """
    Whether a model takes images and nothing else.

    Args:
        config ([`~transformers.PreTrainedConfig`]):
            Configuration of the model.
        architectures (`Sequence[str]`):
            Names of its class, as far as they are known: a model of images and text may have a classifier of images.
    """
    if any(getattr(config, f"{kind}_config", None) is not None for kind in ("text", "vision", "audio")):
        return any(map(is_image_classifier, architectures)) and _takes_pixels(config)
    if config.is_encoder_decoder:
        return False
    if type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING or "pixel_values" in (_main_input(config) or ""):
        return True  # those of videos are refused in words about images
    known = (getattr(transformers, name, None) for name in architectures)
    return any(getattr(kind, "main_input_name", None) == "pixel_values" for kind in known)


def _main_input(config: PreTrainedConfig) -> str | None:
    """Name of the input of the class that belongs to a configuration."""
    for mapping in (MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, MODEL_MAPPING):
        if type(config) in mapping:
            found = mapping[type(config)]
            return (found[0] if isinstance(found, tuple) else found).main_input_name
    return None


def _takes_pixels(config: PreTrainedConfig) -> bool:
    return _main_input(config) == "pixel_values"


def check_image_model(config: PreTrainedConfig, name: str) -> None:
    """
    Refuse, by name, what takes images and is neither an image classifier nor the body of one.

    Args:
        config ([`~transformers.PreTrainedConfig`]):
            Configuration of a model that takes images.
        name (`str`):
            Name of the model, for the message.

    Raises:
        ValueError: If its family is none of image classifiers, or takes more than an array of pixels.
    """
    name = f"{name} ({type(config).__name__})"
    if config.model_type == "vit_mae":
        raise ValueError(
            f"{name} hides random patches of every image. Load its encoder as a ViT: "
            "ViTModel.from_pretrained(...).save_pretrained(folder)."
        )
    if config.model_type.startswith("timm_"):
        raise ValueError(timm_message(name))
    if config.model_type in _MORE_THAN_PIXELS or (type(config) in MODEL_MAPPING and not _takes_pixels(config)):
        raise ValueError(f"{name} must take an image as one array of pixels, and takes something else or more.")
    if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING and config.model_type not in _BODIES:
        raise ValueError(f"{name} is no image classifier, nor the body of one.")


def timm_message(name: str) -> str:
    """Error message for an image model of timm, with timm installed or without it."""
    return f"{name} is an image model of timm, in a wrapper. Load one of transformers' own, such as a ViT or a ResNet."


def image_class(config: PreTrainedConfig) -> Any:
    """Class that loads what an image model's configuration describes: the classifier, or the body where no head is."""
    if any(map(is_image_classifier, config.architectures or [])):
        return AutoModelForImageClassification
    # The vision part of some models of images and text has a class, and no place in the automatic one.
    return AutoModel if type(config) in MODEL_MAPPING else getattr(transformers, config.architectures[0])


def body_of(model: PreTrainedModel) -> PreTrainedModel:
    """
    The part that features come from; the classifier itself where its layers stand in it, beside the head.

    Raises:
        ValueError: If it takes no pixels, or is none of transformers' own.
    """
    if isinstance(model, BackboneMixin):
        raise ValueError(
            f"{type(model).__name__} is a backbone, which gives maps for detection and no last hidden state. Load the "
            "classifier that it is a part of."
        )
    is_classifier = is_image_classifier(type(model).__name__)
    part = classifier_body(model) if is_classifier else model.base_model
    body = model if part is None or not (is_classifier or "pixel_values" in _inputs(part)) else part
    if not isinstance(body, PreTrainedModel) or "pixel_values" not in _inputs(body):
        raise ValueError(f"{type(model).__name__} must take pixels and have a body of transformers' own.")
    return body


def _inputs(module: torch.nn.Module) -> Mapping[str, Any]:
    return signature(module.forward).parameters


def check_head(model: PreTrainedModel) -> None:
    """
    Refuse a classifier head whose softmax is not the probability of the one class that a label names.

    Raises:
        ValueError: If the head was trained for several labels an image, for a number, or has one output.
    """
    problem, labels = model.config.problem_type, model.config.num_labels
    if problem in (None, "single_label_classification") and labels > 1:
        return
    what = f"problem_type={problem!r}" if labels > 1 else f"num_labels={labels}"
    raise ValueError(
        f"the head of {type(model).__name__} must choose one class of several, got {what}: its logits are no "
        "probabilities of classes that exclude each other. Pass head='prototype' and call scorer.fit(dataset)."
    )


def full_pooling(body: PreTrainedModel, pooling: str) -> str:
    """
    `pooling` with nothing left open: what the classifiers of the family read, and the module of the features.

    Raises:
        ValueError: If the body has no class token, or no module of that name.
    """
    kind, has_cls = type(body).__name__, has_class_token(body)
    if pooling.startswith("cls") and not has_cls:
        raise ValueError(f"{kind} has no class token, got pooling={pooling!r}. Pass 'mean'.")
    if pooling == "auto":
        # BEiT and its like say so; the families of CLIP, whose token has this name, always do.
        averages = getattr(body.config, "use_mean_pooling", False) or "class_embedding" in _last_names(body)
        pooling = "cls" if has_cls and not averages else "mean"
    modules = dict(body.named_modules())
    if is_image_classifier(kind) and "@" not in pooling and "encoder" in modules:
        pooling += "@encoder"  # the classifier itself puts out logits
    if (module := pooling.partition("@")[2]) not in modules:
        raise ValueError(f"pooling must name a module of {kind}, got {module!r}.")
    return pooling


def has_class_token(body: PreTrainedModel) -> bool:
    """Whether the first token of a body stands for the whole image."""
    return bool(_CLASS_TOKENS & _last_names(body)) or body.config.model_type in _CLASS_TOKEN_COMPUTED


def _last_names(body: PreTrainedModel) -> set[str]:
    return {name.rpartition(".")[2] for name, _ in body.named_parameters()}
