"""The upper layers of a language model, which are trained many times, behind lower layers that are run once."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hf_dlc.execution.lora import import_peft
from hf_dlc.execution.training import frozen_copy


if TYPE_CHECKING:
    from peft import PeftModel

    from .options import TrainingOptions


logger = logging.getLogger(__name__)

# How far the mean loss of a batch may be from that of the whole model: rounding alone moves it less.
_ROUNDING = {torch.float32: 1e-4}
_HALF_ROUNDING = 2e-2


class UpperLayers(nn.Module):
    """
    The last layers of a model with its output head. They read the states that the layers below have computed.

    Of many trainings of adapters in the last layers, the layers below are the same in all, and so are their states.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model. The layers share the memory of its weights, which are frozen.
        count (`int`, *optional*):
            How many layers. By default all of them, and what they read are token ids.
    """

    def __init__(self, model: PreTrainedModel, count: int | None = None) -> None:
        super().__init__()
        self.reads = "input_ids"
        self.model = frozen_copy(model)
        if count is not None:
            self.reads = "inputs_embeds"
            del layers_of(self.model)[:-count]
            config = self.model.config
            config.num_hidden_layers = count
            if getattr(config, "layer_types", None):
                config.layer_types = config.layer_types[-count:]
        self.head = _HeadAtTargets(self.model.get_output_embeddings())
        self.model.set_output_embeddings(self.head)

    def forward(self, states: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
        """
        Compute the loss.

        Args:
            states (`torch.Tensor` of shape `(rows, tokens, hidden size)`):
                States of the layer below, or token ids of shape `(rows, tokens)`.
            attention_mask (`torch.Tensor` of shape `(rows, tokens)`):
                1 at tokens, 0 at padding.
            labels (`torch.Tensor` of shape `(rows, tokens)`):
                Token ids at target tokens, -100 elsewhere.

        Returns:
            `dict`: `loss`, the mean over the target tokens of the batch, and `losses`, of shape `(target tokens,)`.
        """
        follows = labels[:, 1:] != -100
        self.head.places = F.pad(follows, (0, 1))
        outputs = self.model(**{self.reads: states}, attention_mask=attention_mask, use_cache=False)
        losses = F.cross_entropy(outputs.logits[0].float(), labels[:, 1:][follows], reduction="none")
        return {"loss": losses.mean(), "losses": losses}

    def with_adapters(self, options: TrainingOptions) -> PeftModel:
        """Wrap the last layers, or all that there is but the head, in new adapters at all their linear modules."""
        peft = import_peft()
        adapted = self.model if options.lora_layers is None else layers_of(self.model)[-options.lora_layers :]
        inside = {id(module) for module in adapted.modules()} - {id(module) for module in self.head.modules()}
        linear = [
            re.escape(name)
            for name, module in self.named_modules()
            if id(module) in inside and isinstance(module, (nn.Linear, Conv1D))
        ]
        return peft.get_peft_model(
            self,
            peft.LoraConfig(
                r=options.lora_rank,
                lora_alpha=options.lora_alpha,
                lora_dropout=options.lora_dropout,
                target_modules="|".join(linear),
            ),
        )

    def whole(self, model: PreTrainedModel) -> PreTrainedModel:
        """A copy of the whole model, which ends in these layers as they are now."""
        copied = frozen_copy(model)
        layers, upper = layers_of(copied), layers_of(self.model)
        for place, layer in enumerate(upper, start=len(layers) - len(upper)):
            layers[place] = layer
        return copied


class _HeadAtTargets(nn.Module):
    """An output head that is run only where a target token follows: elsewhere nobody asks for its logits."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.places: torch.Tensor | None = None

    @property
    def weight(self) -> torch.Tensor:
        """Weights of the head."""
        return self.head.weight

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.head(states[self.places])[None]


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """
    The list of the layers of a model, as many as its config says.

    Raises:
        ValueError: If there is no such list, or more than one.
    """
    count = model.config.num_hidden_layers
    found = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    if len(found) != 1:
        raise ValueError(
            f"{type(model).__name__} must have one list of {count} layers, got {len(found)}. Pass lora_layers=None."
        )
    return found[0]


def split(model: PreTrainedModel, count: int | None, batch: Mapping[str, torch.Tensor]) -> UpperLayers:
    """
    Take the upper layers of a model, if they can stand alone.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model.
        count (`int`, *optional*):
            How many layers; by default all.
        batch (`Mapping[str, torch.Tensor]`):
            `input_ids`, `attention_mask` and `labels` of some rows, by which the layers are tried.

    Returns:
        [`UpperLayers`]: All layers, if `count` of them alone do not compute what they do in the model.
    """
    if count is None or count >= model.config.num_hidden_layers:
        return UpperLayers(model)
    with torch.no_grad():
        expected = _loss(UpperLayers(model).eval(), batch["input_ids"], batch)
        upper = UpperLayers(model, count).eval()
        found = _loss(upper, states_below(model, count, batch), batch)
    if abs(found - expected) <= _ROUNDING.get(model.dtype, _HALF_ROUNDING):
        return upper
    logger.warning(
        "the last %d layers of %s do not compute alone what they do in the model (loss %.4f in place of %.4f), so all "
        "layers are run for each training: it takes longer",
        count,
        type(model).__name__,
        found,
        expected,
    )
    return UpperLayers(model)


def _loss(upper: UpperLayers, states: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> float:
    return upper(states, batch["attention_mask"], batch["labels"])["loss"].item()


def states_below(model: PreTrainedModel, count: int, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """
    Compute what the last layers of a model read, and run none of these.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model.
        count (`int`):
            How many layers are the last ones.
        batch (`Mapping[str, torch.Tensor]`):
            `input_ids` and `attention_mask`.

    Returns:
        `torch.Tensor` of shape `(rows, tokens, hidden size)`
    """
    with _stopped_at(layers_of(model)[-count]) as reached, torch.no_grad():
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    return reached[0]


class _Reached(Exception):
    """The layer that was waited for is reached."""


@contextmanager
def _stopped_at(layer: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Stop a forward pass before a layer, and keep what it would read."""
    reached: list[torch.Tensor] = []

    def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        reached.append(args[0] if args else kwargs["hidden_states"])
        raise _Reached

    handle = layer.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        yield reached
    except _Reached:
        pass
    finally:
        handle.remove()
