"""Parts of a model of transformers that several rooms ask for."""

from __future__ import annotations

from torch import nn


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
