"""`DLCScorer`, the face of scoring: public methods and what they promise. How it is done is in the rooms beside it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset, DatasetDict, IterableDataset
from transformers import PreTrainedModel

from hf_dlc.execution.estimate import RunEstimate
from hf_dlc.execution.journal import Journal
from hf_dlc.execution.loop import CHUNK_SECONDS
from hf_dlc.execution.processes import cpu_threads, using_threads
from hf_dlc.masking import LevelReport
from hf_dlc.tasks.reading import DatasetReading
from hf_dlc.tasks.table import Processor

from . import fingerprint
from .agreement import Agreement, Rater, measure_agreement
from .fitting import fit_dataset, pooled_features
from .job import estimate_datasets, score_dataset, score_rows
from .pretrained import PretrainedScorer
from .rows import columns_of, require_dataset, with_scores
from .streams import dataset_of_stream


class DLCScorer(PretrainedScorer):
    """
    Scores rows by Distorting-based Learning Complexity: how sure a pre-trained model is of a row's response while a
    growing share of its weights is masked.

    The source is Jiang et al., "Exploring Learning Complexity for Efficient Downstream Dataset Pruning", ICLR 2025.
    The scores are those of `config.scores`, each a column `dlc_<name>`; [`scores.table`] has their formulas, ranges
    and orientations. The default ones are means over the target tokens and over all levels of masked weights, the
    unmasked level 0 included. Of an image they are of its label, by the trained head of the model or by class
    prototypes ([`~DLCScorer.fit`]). Beside them stand:

    - `dlc_tokens` counts the target tokens: the tokens that training would learn from; an image's label is one.
    - `dlc_status` is `"ok"`, `"truncated"`, or the reason why the row has no score (NaN in all, 0 tokens). Behind
      `"partly_"` it is why some of its scores are NaN; [`ExtrapolatedScorer`] writes `"predicted"`.

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

    @property
    def model(self) -> PreTrainedModel:
        """The model, loaded now if this scorer came into a worker process."""
        return self.parts.handle.model

    @property
    def processor(self) -> Processor:
        """The tokenizer or image processor."""
        return self.parts.handle.processor

    @property
    def is_local(self) -> bool:
        """Whether the model is known on this machine only."""
        return self.parts.handle.is_local

    @property
    def display_name(self) -> str:
        """The model and the number of levels, for people."""
        levels = self.parts.schedule.levels
        return f"{self.parts.handle.name} ({levels} level{'s' if levels > 1 else ''})"

    def __repr__(self) -> str:
        return f"DLCScorer({self.display_name}: {', '.join(self.config.scores)})"

    @property
    def needs_fit(self) -> bool:
        """Whether [`DLCScorer.fit`] must be called before rows can be scored."""
        return self.parts.fit.is_needed

    @property
    def schedule_(self) -> tuple[float, ...]:
        """
        Masked fraction of each level.

        Raises:
            AttributeError: If the schedule is to be calibrated and has not been.
        """
        schedule = self.parts.schedule.fixed or self.parts.schedule.calibrated
        if schedule is None:
            raise AttributeError("the schedule is not known yet: call scorer.calibrate(), or score a row.")
        return schedule

    @property
    def reading_(self) -> DatasetReading | None:
        """What was read of the latest dataset: its layout, which columns as what, what is learned from."""
        return self.parts.task.reading

    def describe(self) -> dict[str, Any]:
        """Identity of everything that makes a score, as JSON types, for a manifest."""
        return fingerprint.description(self.parts.state())

    def calibrate(self) -> tuple[float, ...]:
        """
        Settle the schedule: the fixed one, or the masked fractions at which the mean confidence on a built-in probe
        set falls to `config.calibration_shares` of the unmasked one. These are kept in the cache folder.

        Returns:
            `tuple[float, ...]`: Masked fraction of each level, also as `schedule_`.

        Raises:
            ValueError: If no masked fraction makes the confidence fall that far, as with random weights.
        """
        return self.parts.settled_schedule()

    def masking_report(self) -> list[LevelReport]:
        """
        Mask every level once and count, in the tensors themselves, what is zero.

        Returns:
            `list[LevelReport]`: For each level how many weights are zero, and how many are without masking.
        """
        schedule = self.calibrate()
        with self.parts.lock, self.parts.masker.session(schedule) as session:
            return [session.set_level(level) for level in range(len(schedule))]

    def fit(self, dataset: Dataset, num_threads: int | None = None) -> DLCScorer:
        """
        Learn what must be known of the whole dataset before its rows can be scored, by one unmasked pass that is
        sharded over the processes that `accelerate` started. For images without a trained head it is the mean features
        of each class. For the score `knn_confidence` it is the features of every image at up to four layers: 6 KB an
        image of a ViT-S, 12 KB of a ViT-B.

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
        parts = self.parts
        with parts.lock, using_threads(cpu_threads(num_threads)):
            fit_dataset(dataset, parts.rows, parts.engine, parts.fit, parts.state())
        return self

    def features(self, dataset: Dataset) -> np.ndarray:
        """
        What the unmasked image model makes of each image, pooled as `config.pooling` says.

        Args:
            dataset ([`~datasets.Dataset`]):
                Images; labels are not read.

        Returns:
            `np.ndarray` of shape `(rows, features)`: float32; NaN for rows without a readable image.

        Raises:
            TypeError: If `dataset` is no `Dataset`.
            ValueError: If the model is not an image model.
        """
        with self.parts.lock, using_threads(cpu_threads()):
            return pooled_features(self.parts.engine, dataset, self.parts.state().weights)

    def __call__(self, rows: dict[str, Any], rank: int | None = None) -> dict[str, Any]:
        """
        Score a row or a batch, for `map` of a `Dataset` or `IterableDataset`. The same rows get the same scores.

        Row by row, the weights of all levels are kept between calls if they fit into a quarter of the free memory.
        Otherwise every row pays for masking the model, and a warning says to pass `batched=True`.

        Args:
            rows (`dict[str, Any]`):
                What `map` hands over: a row, or with `batched=True` a batch as a dict of columns.
            rank (`int`, *optional*):
                With `num_proc=n, with_rank=True`, the worker: it computes on the accelerator of that number.

        Returns:
            `dict[str, Any]`: The score columns, scalars for a row and lists for a batch.

        Raises:
            ValueError: If the columns follow no known layout, or if the scorer must be fitted first.
        """
        parts = self.parts
        parts.handle.place(rank)
        scorer = parts.rows, parts.engine, parts.row_by_row, parts.schedule, parts.settled_schedule
        with parts.lock:
            parts.check_fit()
            measured, is_batch = score_rows(rows, *scorer)
            measured = measured._replace(features_by=parts.features_by)
        columns = columns_of(measured, self.config.scores, self.config.prefix, self.config.keep_levels)
        return columns if is_batch else {name: values[0] for name, values in columns.items()}

    def score(
        self,
        dataset: Dataset | DatasetDict | IterableDataset,
        run_dir: str | Path | None = None,
        num_threads: int | None = None,
        chunk_seconds: float = CHUNK_SECONDS,
    ) -> Dataset | DatasetDict:
        """
        Score a whole dataset, level by level, sharded over the processes that `accelerate` started.

        Every process gets all scores. With `run_dir`, the same call goes on where an earlier one stopped. Scores do
        not depend on stops or on the number of processes, bit for bit on the same kind of device and as many threads.

        Args:
            dataset ([`~datasets.Dataset`], [`~datasets.DatasetDict`] or [`~datasets.IterableDataset`]):
                Rows of a known layout; a `DatasetDict` split by split, a stream as [`dataset_of_stream`] tells.
            run_dir (`str` or `Path`, *optional*):
                Folder of the journal, which all processes can write to; of a `DatasetDict`, with one for each split.
            num_threads (`int`, *optional*):
                CPU threads of this process. By default the cores divided by the processes of this machine, or one
                where a short test at the beginning of a long run finds that to be faster, as on a busy machine.
            chunk_seconds (`float`, *optional*, defaults to 60):
                Seconds of work between two writes to the journal, at most repeated by a process that was killed.

        Returns:
            [`~datasets.Dataset`] or [`~datasets.DatasetDict`]: With the score columns added, or replaced.

        Raises:
            TypeError: If the dataset is a stream and there is no `run_dir`.
            ValueError: If the columns follow no known layout.
            JournalError: If `run_dir` holds the journal of another run, is in use, or cannot be written.
        """
        if isinstance(dataset, DatasetDict):
            of_split = {split: (part, run_dir and Path(run_dir, split)) for split, part in dataset.items()}
            return DatasetDict({split: self.score(*of, num_threads, chunk_seconds) for split, of in of_split.items()})
        if isinstance(dataset, IterableDataset) and run_dir:
            dataset = dataset_of_stream(dataset, run_dir)
        require_dataset(dataset)
        parts = self.parts
        scorer = parts.rows, parts.engine, parts.schedule, parts.state, parts.check_fit
        with parts.lock:
            measured = score_dataset(dataset, *scorer, run_dir, chunk_seconds, num_threads)
            measured = measured._replace(features_by=parts.features_by)
        return with_scores(dataset, measured, self.config.scores, self.config.prefix, self.config.keep_levels)

    def estimate(
        self,
        dataset: Dataset | DatasetDict,
        num_threads: int | None = None,
        training: bool = False,
        run_dir: str | Path | None = None,
    ) -> RunEstimate:
        """
        Foretell what `score(dataset)` will cost. Rows are encoded; of the model only a short probe is run.

        Args:
            dataset ([`~datasets.Dataset`] or [`~datasets.DatasetDict`]):
                Rows of a known layout.
            num_threads (`int`, *optional*):
                As for `score`.
            training (`bool`, *optional*, defaults to `False`):
                Whether to measure also what one epoch of LoRA training on the rows costs, by a few real steps on a
                copy that shares the weights. That needs more memory than scoring.
            run_dir (`str` or `Path`, *optional*):
                As for `score`, of one dataset: what its journal holds is left out, and rows are encoded there once.

        Returns:
            [`RunEstimate`]: Rows, tokens, skipped rows by reason, forward passes, seconds and memory of this process.

        Raises:
            TypeError: If the dataset is a stream, or several with a `run_dir`.
            ValueError: If the columns follow no known layout.
            JournalError: If `run_dir` holds the journal of another run, or is in use.
        """
        journal = Journal(run_dir) if run_dir else None
        if journal is not None:
            require_dataset(dataset, "estimate with run_dir", "Dataset")
        parts = self.parts
        scorer = parts.rows, parts.engine, parts.schedule
        with parts.lock:
            parts.check_fit()
            known = partial(fingerprint.known_identity, self.config)
            return estimate_datasets(dataset, *scorer, training, journal, known, num_threads)

    def agreement(
        self,
        dataset: Dataset,
        other: DLCScorer | None = None,
        rows: int = 200,
        keep: float = 0.5,
        seed: int = 0,
        threshold: float = 0.9,
        num_threads: int | None = None,
    ) -> Agreement:
        """
        Measure on a sample of rows how far these scores agree with those of a scorer that costs more.

        Args:
            dataset ([`~datasets.Dataset`]):
                Rows of a known layout.
            other ([`DLCScorer`], *optional*):
                The scorer to compare with, such as one of a larger model; by default this model at all levels.
            rows (`int`, *optional*, defaults to 200):
                Number of rows that both score, drawn at random; all rows where there are no more.
            keep (`float`, *optional*, defaults to 0.5):
                Share of the rows of which the overlaps are.
            seed (`int`, *optional*, defaults to 0):
                Seed of the sample and of the intervals.
            threshold (`float`, *optional*, defaults to 0.9):
                Rank correlation below which the result begins with a word on it.
            num_threads (`int`, *optional*):
                As for `score`.

        Returns:
            [`Agreement`]: For each score the rank correlation with its interval, and the overlap of what is kept.

        Raises:
            TypeError: If `dataset` is no `Dataset`.
            ValueError: If there is nothing to compare with, if one scorer is for text and the other for images, or if
                fewer than two rows are scored by both.

        Example:
        ```python
        >>> fast = DLCScorer.from_pretrained("path/to/model", levels="fast")
        >>> [one.score for one in fast.agreement(dataset, rows=20).scores]
        ['confidence', 'loss', 'gain']
        ```
        """
        require_dataset(dataset, "agreement", "Dataset")
        if other is None and (self.config.levels == "exact" or not self.parts.engine.masks_weights):
            raise ValueError("nothing to compare with: this scorer runs all levels already. Pass other=.")
        pair = (self, other or self.with_levels("exact"))
        raters = [
            Rater(
                one.display_name, one.parts.task.kind, partial(one.score, num_threads=num_threads), one.config.prefix
            )
            for one in pair
        ]
        return measure_agreement(*raters, dataset, rows, keep, seed, threshold)

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
        return self.parts.task.preview(dataset.select(range(min(rows, len(dataset)))))

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
        return self.parts.rows.tokenize(dataset)
