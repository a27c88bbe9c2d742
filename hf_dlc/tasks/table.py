"""The table of tasks: which kind of task a model is for, how it is loaded, and how the task is built."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForCausalLM,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_dlc.scores.base import kinds_of
from hf_dlc.scores.table import chosen_scores

from .base import Task
from .processors import load_image_processor, load_tokenizer
from .text.encoding import RowEncoder
from .text.task import CausalLMTask, check_architecture
from .text.views import Alone
from .vision.images import ImageEncoder
from .vision.models import check_image_model, image_class, is_image_model, timm_message
from .vision.prototypes import Logits
from .vision.task import ImageClassificationTask


logger = logging.getLogger(__name__)

Processor = PreTrainedTokenizerBase | BaseImageProcessor


@dataclass(frozen=True)
class TaskKind:
    """
    A line of the table.

    Args:
        accepts (`Callable`):
            Whether a model is for this kind of task, told by its configuration and by the names of its classes as far
            as they are known.
        check (`Callable`):
            Refuses a configuration that no task of this kind can score, in words about the name that is given too.
        model_class (`Callable`):
            The class whose `from_pretrained` loads the model of a configuration.
        load_processor (`Callable`):
            Loads the processor of a model by its name and by options of `from_pretrained`.
        build (`Callable`):
            Makes the task of a model, its processor and the options that it names.
        options (`tuple[str, ...]`):
            Names of the options that `build` takes as keywords: those of the user, and what the scores ask for.
        uses_all_weights (`bool`):
            Whether it is worth a warning if tensors of a checkpoint have no place in the model.
    """

    accepts: Callable[[PreTrainedConfig, Sequence[str]], bool]
    check: Callable[[PreTrainedConfig, str], None]
    model_class: Callable[[PreTrainedConfig], Any]
    load_processor: Callable[[str, Mapping[str, Any]], Processor]
    build: Callable[..., Task]
    options: tuple[str, ...]
    uses_all_weights: bool


def _image_task(
    model: PreTrainedModel,
    processor: Processor,
    columns: Mapping[str, str] | None,
    head: str,
    pooling: str,
    prototype_logits: Logits,
    knn_neighbours: int,
    scores: Sequence[str],
) -> ImageClassificationTask:
    if not isinstance(processor, BaseImageProcessor):
        raise ValueError(
            f"an image model needs an image processor, got {type(processor).__name__}. Pass "
            "AutoImageProcessor.from_pretrained(...)."
        )
    encoder = ImageEncoder(processor, model.dtype, columns)
    learns_neighbours = "neighbours" in kinds_of(chosen_scores(scores))
    return ImageClassificationTask(model, encoder, head, pooling, prototype_logits, learns_neighbours, knn_neighbours)


def _text_task(
    model: PreTrainedModel,
    processor: Processor,
    token_mean: str,
    alone: Alone,
    first_tokens: int,
    scores: Sequence[str],
    encoder: str,
    **options: Any,
) -> CausalLMTask:
    if not isinstance(processor, PreTrainedTokenizerBase):
        if isinstance(model, PreTrainedModel):
            check_architecture(model.config, type(model).__name__)
        raise ValueError(
            f"{type(model).__name__} is no image classifier, so it needs a tokenizer, got {type(processor).__name__}."
        )
    sentences = encoder if "pooled" in kinds_of(chosen_scores(scores)) else None  # else it is not loaded
    task = CausalLMTask(model, RowEncoder(processor, **options), token_mean, alone, first_tokens, sentences)
    if getattr(model.config, "output_router_logits", False):
        logger.warning(
            "the config of %s asks for output_router_logits: the auxiliary loss of the router, which the model "
            "adds to its own loss, is no part of dlc_loss",
            type(model).__name__,
        )
    return task


# The first kind that accepts a model is its kind. The last one accepts all, and says why it cannot score a model.
TASKS: dict[str, TaskKind] = {
    ImageClassificationTask.kind: TaskKind(
        accepts=is_image_model,
        check=check_image_model,
        model_class=image_class,
        load_processor=load_image_processor,
        build=_image_task,
        options=("columns", "head", "pooling", "prototype_logits", "knn_neighbours", "scores"),
        uses_all_weights=False,  # the head that a body was trained with is left out as a rule
    ),
    CausalLMTask.kind: TaskKind(
        accepts=lambda config, architectures: True,
        check=check_architecture,
        model_class=lambda config: AutoModelForCausalLM,
        load_processor=load_tokenizer,
        build=_text_task,
        options=(
            "template",
            "max_length",
            "layout",
            "columns",
            "token_mean",
            "alone",
            "first_tokens",
            "scores",
            "encoder",
        ),
        uses_all_weights=True,
    ),
}


def kind_for(config: PreTrainedConfig, architectures: Sequence[str]) -> TaskKind:
    """The kind of task that a model is for, by its configuration and the names of its classes."""
    return next(kind for kind in TASKS.values() if kind.accepts(config, architectures))


def check_task(task: str | None, kind: str | None = None, name: str | Path = "") -> None:
    """
    Refuse the name of a task that is none, or that is not the task of a model.

    Args:
        task (`str`, *optional*):
            What the user asks for; `None` is whatever the model is for.
        kind (`str`, *optional*):
            What the model is for, once that is known.
        name (`str` or `Path`, *optional*, defaults to `""`):
            Name of the model, for the message.

    Raises:
        ValueError: If `task` is unknown, or another one than `kind`.
    """
    if task not in (None, *TASKS):
        raise ValueError(f"task must be None or one of {', '.join(sorted(TASKS))}, got {task!r}.")
    if kind is not None and task not in (None, kind):
        raise ValueError(f"{name} is a model for {kind}, got task={task!r}. Leave task out.")


def build_task(model: PreTrainedModel, processor: Processor, options: Mapping[str, Any]) -> Task:
    """
    Make the task that a model is for.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model.
        processor ([`~transformers.PreTrainedTokenizerBase`] or [`~transformers.BaseImageProcessor`]):
            Its tokenizer or image processor.
        options (`Mapping[str, Any]`):
            The options of the user, by name; each kind takes those that it names.

    Returns:
        [`Task`]: A task of the first kind that accepts the model.

    Raises:
        ValueError: If no task can score the model, or if the processor is one of another kind.
    """
    config = getattr(model, "config", None)  # what is no model of transformers is refused with more words
    kind = kind_for(config, [type(model).__name__]) if config is not None else TASKS[CausalLMTask.kind]
    return kind.build(model, processor, **{name: options[name] for name in kind.options})


def why_no_config(error: ImportError, name: str) -> str | None:
    """What to say where a library is missing that not even the configuration can be read without; `None`: nothing."""
    return timm_message(name) if "timm" in str(error) else None
