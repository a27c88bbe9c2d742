"""What a scorer has in common with a Hugging Face model: three methods load, save and publish it."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from transformers import PreTrainedModel

from hf_dlc.config import DLCConfig
from hf_dlc.scores.table import chosen_scores
from hf_dlc.tasks.table import Processor, check_task

from .model import ModelHandle, ModelSource
from .parts import Parts
from .saving import find, push, restore, save


class PretrainedScorer:
    """
    A model with the options of scoring, which can be loaded, saved and published; [`DLCScorer`] scores with it.

    Attributes:
        parts ([`Parts`]):
            The rooms behind the face. They may change from version to version.
    """

    def __init__(self, model: PreTrainedModel, processor: Processor, config: DLCConfig | None = None) -> None:
        model = getattr(model, "_orig_mod", model)  # what torch.compile wraps has its weights
        self.config = config or DLCConfig()
        self.parts = Parts(self.config, ModelHandle(None, (model, processor)))

    @classmethod
    def from_pretrained(
        cls,
        model_id: str | Path,
        config: DLCConfig | None = None,
        task: str | None = None,
        revision: str | None = None,
        device: str | torch.device | None = None,
        model_kwargs: dict[str, Any] | None = None,
        **config_overrides: Any,
    ) -> Self:
        """
        Load a model and make a scorer of it.

        Args:
            model_id (`str` or `Path`):
                Repository on the Hub, local folder, local `.gguf` file, or what `save_pretrained` or `push_to_hub`
                wrote.
            config ([`DLCConfig`], *optional*):
                Options.
            task (`str`, *optional*):
                `"causal-lm"` or `"image-classification"`; by default what the model is for.
            revision (`str`, *optional*):
                Branch, tag or commit of the repository.
            device (`str` or `torch.device`, *optional*):
                By default this process's accelerator, else the CPU.
            model_kwargs (`dict`, *optional*):
                Further arguments of `from_pretrained` of the model's class, such as `attn_implementation`,
                `device_map`, or `trust_remote_code`, which is off unless it is given here.
            config_overrides:
                Single options, such as `schedule="0, 0.05, 0.1"`; they win over `config`.

        Returns:
            [`DLCScorer`]: A scorer, calibrated and fitted as far as a saved one was.

        Raises:
            FileNotFoundError: If a path is given and nothing is there.
            ValueError: If the model cannot be scored, or if `model_kwargs` holds what has an argument of its own.
        """
        check_task(task)
        found = find(model_id, revision, model_kwargs or {})
        config = DLCConfig(**{**vars(config or found.config), **config_overrides})
        chosen_scores(config.scores)  # an unknown one is refused before a model is loaded
        source = ModelSource.resolve(found.model_id, found.revision, config.dtype, device, found.model_kwargs)
        scorer = cls(*source.load(), config)
        check_task(task, scorer.parts.task.kind, found.model_id)
        restore(scorer.parts.state(), source, scorer.parts.schedule, scorer.parts.fit, found.state)
        return scorer

    def with_levels(self, levels: str) -> Self:
        """
        A scorer that runs other levels of the schedule, of the same loaded model and with what was learned by `fit`.

        Args:
            levels (`str`):
                `"exact"`, `"fast"` or `"single"`, as [`DLCConfig`] has it.

        Returns:
            [`DLCScorer`]: The scorer. Nothing is loaded again, and a schedule that is in the cache is read from there.
        """
        other = copy(self)
        other.config = replace(self.config, levels=levels)
        other.parts = self.parts.with_config(other.config)
        return other

    def save_pretrained(self, folder: str | Path) -> None:
        """
        Write options, the name of the base model and, if they are known, the calibrated schedule and what was fitted.

        In class prototypes are the features of every fitted image, in neighbours those at several layers: 4 bytes for
        each feature. Weights are not written.

        Args:
            folder (`str` or `Path`):
                Where to write; it is made if it is not there.

        Raises:
            ValueError: If the model was handed over in memory, if the template is a function, or if the weights have
                changed since they were fitted with.
        """
        save(self.parts.state(), self.parts.schedule, self.parts.fit, Path(folder))

    def push_to_hub(
        self,
        repo_id: str,
        private: bool = True,
        create_pr: bool = False,
        revision: str | None = None,
        token: str | None = None,
    ) -> str:
        """
        Publish what `save_pretrained` writes, for `from_pretrained(repo_id)`.

        Args:
            repo_id (`str`):
                Model repository, such as `"me/alpaca-scorer"`; it is made if it is not there.
            private (`bool`, *optional*, defaults to `True`):
                Whether the repository is private. A public one is written into only with `private=False`.
            create_pr (`bool`, *optional*, defaults to `False`):
                Open a pull request in the place of writing into the branch.
            revision (`str`, *optional*):
                Branch to write into.
            token (`str`, *optional*):
                Token, by default the one that the Hub client knows.

        Returns:
            `str`: Address of the repository, or of the pull request.

        Raises:
            PublishError: If it could not be published.
            ValueError: If the base model is none that others can load, or as for `save_pretrained`.
        """
        return push(self.parts.state(), self.save_pretrained, repo_id, private, create_pr, revision, token)
