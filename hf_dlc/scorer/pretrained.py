"""What a scorer has in common with a Hugging Face model: three methods load, save and publish it."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset
from transformers import PreTrainedModel

from hf_dlc.config import DLCConfig
from hf_dlc.execution.processes import cpu_threads, using_threads
from hf_dlc.execution.training import train_adapters
from hf_dlc.scores.table import chosen_scores
from hf_dlc.tasks.table import Processor, check_task

from .adapters import adapters_of
from .model import ModelHandle, ModelSource, loading_options
from .parts import Parts
from .rows import require_dataset
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
        **options: Any,
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
                Further arguments of `from_pretrained` of the model's class.
            options:
                Single options of [`DLCConfig`], such as `schedule="0, 0.05, 0.1"` or `dtype=torch.bfloat16`, which win
                over `config`. Of the model's arguments these may be passed by their names: `attn_implementation`,
                `cache_dir`, `device_map`, `force_download`, `gguf_file`, `local_files_only`, `max_memory`,
                `subfolder`, `token`, `variant`, and `trust_remote_code`, which is off unless it is given.

        Returns:
            [`DLCScorer`]: A scorer, calibrated and fitted as far as a saved one was.

        Raises:
            FileNotFoundError: If a path is given and nothing is there.
            TypeError: If there is no such option.
            ValueError: If the model cannot be scored, if `model_kwargs` holds what has an argument of its own, or if
                an argument is given twice.
        """
        check_task(task)
        model_kwargs, overrides = loading_options(options, model_kwargs or {})
        found = find(model_id, revision, model_kwargs)
        config = DLCConfig(**{**vars(config or found.config), **overrides})
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
        return self.with_options(levels=levels)

    def with_options(self, **changes: Any) -> Self:
        """
        A scorer with other options, of the same loaded model and with what was learned by `fit`.

        Args:
            changes:
                Options of [`DLCConfig`] by their names.

        Returns:
            [`DLCScorer`]: The scorer.
        """
        other = copy(self)
        other.config = replace(self.config, **changes)
        other.parts = self.parts.with_config(other.config)
        return other

    def adapt(self, wanted: Dataset, epochs: int = 3, seed: int = 0, num_threads: int | None = None) -> Self:
        """
        A scorer that also gives `dlc_target_shift`: by how much a short training on wanted rows lowers a row's loss.

        Low-rank adapters of all linear layers are trained on the wanted rows, by AdamW with batches of 8, rank 16 and
        a learning rate of 5e-4. The weights of the model stay as they are. In several processes each trains the same.

        Args:
            wanted ([`~datasets.Dataset`]):
                Examples of the task that the model is to learn, in any layout that can be scored.
            epochs (`int`, *optional*, defaults to 3):
                Passes over them.
            seed (`int`, *optional*, defaults to 0):
                Seed of the adapters and of the order of the rows.
            num_threads (`int`, *optional*):
                CPU threads, as for `score`.

        Returns:
            [`DLCScorer`]: The scorer. It cannot be saved, since adapters are not written.

        Raises:
            TypeError: If `wanted` is no `Dataset`.
            ValueError: If there is no row to train on, or if the model cannot be trained.

        Example:
        ```python
        >>> shifted = scorer.adapt(dataset.select(range(4)), epochs=1)
        >>> "dlc_target_shift" in shifted.score(dataset).column_names
        True
        ```
        """
        require_dataset(wanted, "adapt", "Dataset")
        if type(epochs) is not int or epochs < 1:
            raise ValueError(f"epochs must be a whole number of at least 1, got {epochs!r}.")
        parts = self.parts
        with parts.lock, using_threads(cpu_threads(num_threads)), parts.masker.unmasked():
            rows = [row for row in parts.task.encode_dataset(wanted) if row.length]  # these are few
            trained = train_adapters(parts.task, rows, epochs, seed)
        adapters = adapters_of(trained, f"trained on {len(rows)} wanted rows for {epochs} epochs")
        scores = tuple(dict.fromkeys([*self.config.scores, "target_shift"]))
        other = copy(self)
        other.config = replace(self.config, scores=scores)
        other.parts = parts.with_config(other.config, adapters)
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
