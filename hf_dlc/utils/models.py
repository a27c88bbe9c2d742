"""Parts of a model of transformers that several rooms ask for."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel


def classifier_body(model: nn.Module) -> nn.Module | None:
    """
    Body of an image classifier: all of it that is below the head.

    Args:
        model (`torch.nn.Module`):
            Bare classifier of transformers.

    Returns:
        `torch.nn.Module` or `None`: The body; `None` if its layers stand in the classifier itself, beside the head.
    """
    for part in (model.base_model, getattr(model, "vision_model", None)):
        if isinstance(part, nn.Module) and part is not model:
            return part
    return None


def without_quantisation(model: PreTrainedModel) -> PreTrainedModel:
    """
    A model that can be saved, with the weights of one that was dequantised.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model, whose weights are floats. It remembers that it was quantised, and refuses to be saved.

    Returns:
        [`~transformers.PreTrainedModel`]: A new model of the same class.
    """
    config = {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    plain = type(model)(type(model.config).from_dict(config))
    plain.load_state_dict(model.state_dict())
    return plain
