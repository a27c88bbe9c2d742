"""`DLCScorer`, the face of scoring: public methods and what they promise. How it is done is in the rooms beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel

from hf_dlc.config import DLCConfig
from hf_dlc.execution.estimate import RunEstimate
from hf_dlc.execution.loop import CHUNK_SECONDS
from hf_dlc.execution.processes import cpu_threads, using_threads
from hf_dlc.masking import LevelReport
from hf_dlc.tasks.reading import DatasetReading
from hf_dlc.tasks.table import Processor, check_task

from . import fingerprint, saving
from .job import estimate_datasets, features_of, fit_dataset, score_dataset, score_rows
from .model import ModelHandle, ModelSource
from .parts import Parts
from .rows import columns_of, require_dataset, with_scores


class DLCScorer:
    """
    Scores rows by Distorting-based Learning Complexity: how sure a pre-trained model is of a row's response while a
    growing share of its weights is masked.

    The source is Jiang et al., "Exploring Learning Complexity for Efficient Downstream Dataset Pruning", ICLR 2025.
    At each level of masked weights, the confidence of a row is the mean of p(token) over its target tokens and its
    loss the mean of -log p(token) in nats. Of an image they are p(label) and -log p(label), by the trained head of
    the model or by class prototypes ([`~DLCScorer.fit`]). A row's scores are means over all levels, the unmasked
    level 0 included:

    - `dlc_confidence` is in [0, 1]; **higher = easier**.
    - `dlc_loss` is at least 0, in nats, without the loss of a mixture's router; **higher = harder**.
    - `dlc_gain` is in [-1, 1], the share of the loss that the masked weights take away when they come back
      ([`~scores.dlc.relative_gain`]); **higher = easier**.
    - `dlc_tokens` counts the target tokens: the tokens that training would learn from; an image's label is one.
    - `dlc_status` is `"ok"`, `"truncated"`, or the reason why the row has no score (NaN in all three, 0 tokens).

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Decoder-only language model, image classifier or body of one, with its weights as plain floats in memory.
            It is never cast or moved.
        processor ([`~transformers.PreTrainedTokenizerBase`] or [`~transformers.BaseImageProcessor`]):
            Tokenizer or image processor of the model.
        config ([`DLCConfig`], *optional*):
            Options; the defaults suit most uses.

    Raises:
        ValueError: If the model is encoder-decoder, vision-language, quantised, offloaded, sharded or wrapped by an
            adapter.

    Example:
    ```python
    >>> from datasets import load_dataset
    >>> from hf_dlc import DLCScorer, FlexRandSelector
    >>> dataset = load_dataset("yahma/alpaca-cleaned", split="train")
    >>> scorer = DLCScorer.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")
    >>> scored = dataset.map(scorer, batched=True)
    >>> pruned = FlexRandSelector(keep=0.5, seed=0)(scored)
    ```
    """

    def __init__(self, model: PreTrainedModel, processor: Processor, config: DLCConfig | None = None) -> None:
        model = getattr(model, "_orig_mod", model)  # what torch.compile wraps has its weights
        self.config = config or DLCConfig()
        self._parts = Parts(self.config, ModelHandle(None, (model, processor)))

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
    ) -> DLCScorer:
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
        found = saving.find(model_id, revision, model_kwargs or {})
        config = DLCConfig(**{**vars(config or found.config), **config_overrides})
        source = ModelSource.resolve(found.model_id, found.revision, config.dtype, device, found.model_kwargs)
        scorer = cls(*source.load(), config)
        check_task(task, scorer._parts.task.kind, found.model_id)
        saving.restore(scorer._parts.state(), source, scorer._parts.schedule, scorer._parts.fit, found.state)
        return scorer

    def save_pretrained(self, folder: str | Path) -> None:
        """
        Write options, the name of the base model and, if they are known, the calibrated schedule and the class
        prototypes. In these are the features of every fitted image; weights are not written.

        Args:
            folder (`str` or `Path`):
                Where to write; it is made if it is not there.

        Raises:
            ValueError: If the model was handed over in memory, if the template is a function, or if the weights have
                changed since they were fitted with.
        """
        saving.save(self._parts.state(), self._parts.schedule, self._parts.fit, Path(folder))

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
        return saving.push(self._parts.state(), self.save_pretrained, repo_id, private, create_pr, revision, token)

    @property
    def model(self) -> PreTrainedModel:
        """The model, loaded now if this scorer came into a worker process."""
        return self._parts.handle.model

    @property
    def processor(self) -> Processor:
        """The tokenizer or image processor."""
        return self._parts.handle.processor

    @property
    def is_local(self) -> bool:
        """Whether the model is known on this machine only."""
        return self._parts.handle.is_local

    @property
    def needs_fit(self) -> bool:
        """Whether [`DLCScorer.fit`] must be called before rows can be scored."""
        return self._parts.fit.is_needed

    @property
    def schedule_(self) -> tuple[float, ...]:
        """
        Masked fraction of each level.

        Raises:
            AttributeError: If the schedule is to be calibrated and has not been.
        """
        schedule = self._parts.schedule.fixed or self._parts.schedule.calibrated
        if schedule is None:
            raise AttributeError("the schedule is not known yet: call scorer.calibrate(), or score a row.")
        return schedule

    @property
    def reading_(self) -> DatasetReading | None:
        """What was read of the latest dataset: its layout, which columns as what, what is learned from."""
        return self._parts.task.reading

    def describe(self) -> dict[str, Any]:
        """Identity of everything that makes a score, as JSON types, for a manifest."""
        return fingerprint.description(self._parts.state())

    def calibrate(self) -> tuple[float, ...]:
        """
        Settle the schedule: the fixed one, or the masked fractions at which the mean confidence on a built-in probe
        set falls to `config.calibration_shares` of the unmasked one. These are kept in the cache folder.

        Returns:
            `tuple[float, ...]`: Masked fraction of each level, also as `schedule_`.

        Raises:
            ValueError: If no masked fraction makes the confidence fall that far, as with random weights.
        """
        return self._parts.settled_schedule()

    def masking_report(self) -> list[LevelReport]:
        """
        Mask every level once and count, in the tensors themselves, what is zero.

        Returns:
            `list[LevelReport]`: For each level how many weights are zero, and how many are without masking.
        """
        schedule = self.calibrate()
        with self._parts.lock, self._parts.masker.session(schedule) as session:
            return [session.set_level(level) for level in range(len(schedule))]

    def fit(self, dataset: Dataset, num_threads: int | None = None) -> DLCScorer:
        """
        Learn what must be known of the whole dataset before its rows can be scored: for images without a trained head,
        the mean features of each class. One unmasked pass, sharded over the processes that `accelerate` started.

        Args:
            dataset ([`~datasets.Dataset`]):
                Labelled images, usually those that are to be scored; one split, not a `DatasetDict`.
            num_threads (`int`, *optional*):
                CPU threads of this process, by default the cores divided by the processes of this machine.

        Returns:
            [`DLCScorer`]: This scorer.

        Raises:
            TypeError: If `dataset` is no `Dataset`.
            ValueError: If the model needs no fit, or if readable images are of fewer than two classes.
        """
        with self._parts.lock, using_threads(cpu_threads(num_threads)):
            fit_dataset(self._parts, dataset)
        return self

    def features(self, dataset: Dataset) -> np.ndarray:
        """
        What the unmasked image model makes of each labelled image, pooled as `config.pooling` says.

        Args:
            dataset ([`~datasets.Dataset`]):
                Labelled images.

        Returns:
            `np.ndarray` of shape `(rows, features)`: float32; NaN for rows without a readable image and a label.

        Raises:
            TypeError: If `dataset` is no `Dataset`.
            ValueError: If the model is not an image model.
        """
        with self._parts.lock, using_threads(cpu_threads()):
            return features_of(self._parts, dataset)

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """
        Score a row or a batch, for `map` of a `Dataset` or `IterableDataset`. The same rows get the same scores.

        Row by row, the weights of all levels are kept between calls if they fit into a quarter of the free memory.
        Otherwise every row pays for masking the model, and a warning says to pass `batched=True`.

        Args:
            rows (`dict[str, Any]`):
                What `map` hands over: a row, or with `batched=True` a batch as a dict of columns.

        Returns:
            `dict[str, Any]`: The score columns, scalars for a row and lists for a batch.

        Raises:
            ValueError: If the columns follow no known layout, or if the scorer must be fitted first.
        """
        measured, is_batch = score_rows(self._parts, rows)
        columns = columns_of(measured, self.config.prefix, self.config.keep_levels)
        return columns if is_batch else {name: values[0] for name, values in columns.items()}

    def score(
        self,
        dataset: Dataset | DatasetDict,
        run_dir: str | Path | None = None,
        num_threads: int | None = None,
        chunk_seconds: float = CHUNK_SECONDS,
    ) -> Dataset | DatasetDict:
        """
        Score a whole dataset, level by level, sharded over the processes that `accelerate` started.

        Every process gets all scores. With `run_dir`, the same call goes on where an earlier one stopped. Scores do
        not depend on stops or on the number of processes, bit for bit on the same kind of device and as many threads.

        Args:
            dataset ([`~datasets.Dataset`] or [`~datasets.DatasetDict`]):
                Rows of a known layout; a `DatasetDict` is scored split by split.
            run_dir (`str` or `Path`, *optional*):
                Folder of the journal, which all processes can write to; of a `DatasetDict`, with one for each split.
            num_threads (`int`, *optional*):
                CPU threads of this process, by default the cores divided by the processes of this machine.
            chunk_seconds (`float`, *optional*, defaults to 60):
                Seconds of work between two writes to the journal, at most repeated by a process that was killed.

        Returns:
            [`~datasets.Dataset`] or [`~datasets.DatasetDict`]: With the score columns added, or replaced.

        Raises:
            TypeError: If the dataset is a stream, which can only be mapped.
            ValueError: If the columns follow no known layout.
            JournalError: If `run_dir` holds the journal of another run, is in use, or cannot be written.
        """
        if isinstance(dataset, DatasetDict):
            of_split = {split: (part, run_dir and Path(run_dir, split)) for split, part in dataset.items()}
            return DatasetDict({split: self.score(*of, num_threads, chunk_seconds) for split, of in of_split.items()})
        require_dataset(dataset)
        with self._parts.lock, using_threads(cpu_threads(num_threads)):
            measured = score_dataset(self._parts, dataset, run_dir, chunk_seconds)
        return with_scores(dataset, measured, self.config.prefix, self.config.keep_levels)

    def estimate(self, dataset: Dataset | DatasetDict, num_threads: int | None = None) -> RunEstimate:
        """
        Foretell what `score(dataset)` will cost. Rows are encoded; of the model only a short probe is run.

        Args:
            dataset ([`~datasets.Dataset`] or [`~datasets.DatasetDict`]):
                Rows of a known layout.
            num_threads (`int`, *optional*):
                As for `score`.

        Returns:
            [`RunEstimate`]: Rows, tokens, skipped rows by reason, forward passes, seconds and memory of this process.

        Raises:
            TypeError: If the dataset is a stream.
            ValueError: If the columns follow no known layout.
        """
        with self._parts.lock, using_threads(cpu_threads(num_threads)):
            return estimate_datasets(self._parts, dataset)

    def preview(self, dataset: Dataset, rows: int = 2) -> str:
        """
        The first rows as they will be scored, to be printed.

        Args:
            dataset ([`~datasets.Dataset`]):
                Rows of a known layout.
            rows (`int`, *optional*, defaults to 2):
                Number of rows that are shown.

        Returns:
            `str`: What is read of the dataset, and the text of each row with its special tokens and with marks around
            what is learned from; of a row that has no score, the reason.

        Raises:
            ValueError: If the model is an image model, or if the columns follow no known layout.
        """
        require_dataset(dataset, "preview", "Dataset")
        return self._parts.task.preview(dataset.select(range(min(rows, len(dataset)))))

    def tokenize(self, dataset: Dataset) -> Dataset:
        """
        The rows as token ids and labels, for a trainer that is to learn from the tokens that are scored.

        Args:
            dataset ([`~datasets.Dataset`]):
                Rows of a known layout.

        Returns:
            [`~datasets.Dataset`]: `input_ids` and `labels` (-100 where nothing is learned) of each row that can be
            scored, in order, and `row`, its place in `dataset`; the others are left out, and their number is logged.

        Raises:
            ValueError: If the model is an image model.

        Example:
        ```python
        >>> from transformers import DataCollatorForSeq2Seq, Trainer
        >>> rows = scorer.tokenize(pruned)
        >>> trainer = Trainer(model, data_collator=DataCollatorForSeq2Seq(tokenizer), train_dataset=rows)
        ```
        """
        require_dataset(dataset, "tokenize", "Dataset")
        return self._parts.rows.tokenize(dataset)
