"""`DLCScorer`: puts model, encoding, masks and the run together, and is what `dataset.map` calls."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from accelerate import PartialState
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    IterableDatasetDict,
    List,
    Value,
)
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

from hf_dlc.config import CONFIG_NAME, DLCConfig, MaskSchedule
from hf_dlc.errors import DLCError
from hf_dlc.execution.agreement import why_not_side_by_side
from hf_dlc.execution.estimate import RunEstimate, estimate_run
from hf_dlc.execution.journal import Journal, JournalError
from hf_dlc.execution.loop import CHUNK_SECONDS, LevelLoop, Reporter, TokenLimit, in_parts_that_fit, run_row
from hf_dlc.execution.peers import Peers, watch_peers
from hf_dlc.execution.plan import MicroBatch, cost, cut_batches, deal
from hf_dlc.execution.processes import (
    check_same,
    cpu_threads,
    on_main_process,
    process_state,
    sum_over_processes,
    using_threads,
)
from hf_dlc.execution.progress import progress_bar
from hf_dlc.execution.sharded import run_sharded
from hf_dlc.execution.skipped import count_skipped, first_skipped, in_words
from hf_dlc.execution.values import Values, no_values
from hf_dlc.masking import LevelReport, Masker
from hf_dlc.scores.base import Measure, Pass, measures_by_pass, passes_to_json
from hf_dlc.scores.columns import TRUNCATED, build_columns, score_features, with_columns
from hf_dlc.scores.table import SCORES
from hf_dlc.tasks.base import BatchRules, EncodedRow, Share, rows_digest
from hf_dlc.tasks.reading import DatasetReading
from hf_dlc.tasks.text.encoding import RowEncoder
from hf_dlc.tasks.text.task import CausalLMTask, check_architecture
from hf_dlc.tasks.vision.images import ImageEncoder
from hf_dlc.tasks.vision.models import is_image_model
from hf_dlc.tasks.vision.prototypes import Prototypes
from hf_dlc.tasks.vision.task import ImageClassificationTask
from hf_dlc.utils.digests import json_digest, model_digest, processor_digest
from hf_dlc.utils.files import cache_folder, write_json
from hf_dlc.utils.versions import versions

from .model import STATE_NAME, ModelSource, find_saved
from .schedule import cached_schedule, find_schedule, probe_digest, probe_rows


logger = logging.getLogger(__name__)

# Part of every fingerprint. Raise it when the same rows, weights and config would get other scores than before, or
# other columns: `datasets` hashes a class of an installed package by name, so it cannot see a change of the code.
SCORE_VERSION = 4

# Tokens of a micro-batch, padding included, where `tokens_per_batch` is "auto"; in float32, where each takes twice the
# memory, half as many.
_AUTO_TOKENS = {"cpu": 2048, "accelerator": 16384}

# What a micro-batch costs on top of its tokens, as a part of the budget. Measured on a CPU: as much time as about 100
# tokens in bfloat16 and, at half the budget, as about 30 in float32, where a token takes three times as long.
_OVERHEAD_PARTS = {"half": 16, "full": 32}

# Rows repay running their prefix on its own if they are at least as many as this, and if the plan then costs at most
# this share of what it costs otherwise: attention to keys from elsewhere has a cost of its own, and there is more
# padding where rows of different prefixes are kept apart.
_ROWS_PER_PREFIX = 8
_WORTH_A_PREFIX = 0.95

_TASKS = ("causal-lm", "image-classification")

# Options that change which columns are written, or how fast, but no score of a row at a level.
_NOT_OF_SCORES = {"prefix", "keep_levels", "tokens_per_batch"}

# What a saved scorer remembers of how its model was loaded; never a token, never the leave to run code.
_SAVED_KWARGS = ("attn_implementation", "gguf_file", "subfolder")

# Of images, where `schedule` is left open.
_IMAGE_SCHEDULES = {"magnitude": MaskSchedule((0.2, 0.4, 0.6)), "random": MaskSchedule((0.05, 0.1, 0.2))}

_IMPORTED_IN = os.getpid()


class DLCScorer:
    """
    Scores rows by Distorting-based Learning Complexity: how sure a pre-trained model is of a row's response while a
    growing share of its weights is masked (Jiang et al., "Exploring Learning Complexity for Efficient Downstream
    Dataset Pruning", ICLR 2025).

    For level k with its masked weights, the confidence of a row is the mean of p(token) over its target tokens and its
    loss the mean of -log p(token) in nats; of an image, they are p(label) and -log p(label), by the trained head of
    the model or by class prototypes ([`~DLCScorer.fit`]). A row's score is the mean over all levels, the unmasked
    level 0 included:

    - `dlc_confidence` is in [0, 1]; **higher = easier**.
    - `dlc_loss` is at least 0, in nats; **higher = harder**. The auxiliary loss of a mixture's router
      (`output_router_logits`) is left out of it.
    - `dlc_gain` is in [-1, 1], the share of the loss that the masked weights take away when they come back
      ([`~columns.relative_gain`]); **higher = easier**.
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

    def __init__(
        self,
        model: PreTrainedModel,
        processor: PreTrainedTokenizerBase | BaseImageProcessor,
        config: DLCConfig | None = None,
    ) -> None:
        self.config = config or DLCConfig()
        self._lock = threading.RLock()  # weights are masked in place, so one thread at a time reads or scores
        self._source: ModelSource | None = None
        self._expected_digests: tuple[str, str] | None = None
        self._loaded = (getattr(model, "_orig_mod", model), processor)  # what torch.compile wraps has its weights
        self._calibrated: tuple[Any, tuple[float, ...]] | None = None
        self._prototypes: Prototypes | None = None
        self._fitted_with: tuple[Any, str] | None = None  # state of the weights, and all that features depend on
        self._forget()
        _ = self._task, self._masker  # refuse an unsuitable model now, not at the first row

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
                Repository on the Hub, local folder, local `.gguf` file, or a folder that `save_pretrained` or a
                repository that `push_to_hub` wrote.
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
            [`DLCScorer`]

        Raises:
            FileNotFoundError: If a path is given and nothing is there.
            ValueError: If the model is neither a decoder-only language model nor an image classifier, if the
                checkpoint lacks weights of it, if its weights cannot be masked, or if `model_kwargs` holds what has
                an argument or an option of its own.
        """
        if task not in (None, *_TASKS):
            raise ValueError(f"task must be None or one of {', '.join(_TASKS)}, got {task!r}.")
        saved = find_saved(model_id, revision, model_kwargs or {})
        if saved is not None:
            record = json.loads((saved / CONFIG_NAME).read_text(encoding="utf-8"))
            config = config or DLCConfig.from_dict(record)
            if "base_model_name_or_path" in record:  # a saved scorer; else a model with options beside it
                revision = (Path(model_id).exists() and revision) or record["revision"]  # else that of the scorer
                model_id = record["base_model_name_or_path"]
                model_kwargs = {**_only_saved(record.get("model_kwargs", {})), **(model_kwargs or {})}
            else:
                saved = None
        config = DLCConfig(**{**vars(config or DLCConfig()), **config_overrides})
        source = ModelSource.resolve(model_id, revision, config.dtype, device, model_kwargs)
        model, processor = source.load()
        scorer = cls(model, processor, config)
        if task not in (None, scorer._kind):
            raise ValueError(f"{model_id} is a model for {scorer._kind}, got task={task!r}. Leave task out.")
        scorer._source = source
        if saved is not None:
            scorer._read_state(saved / STATE_NAME)
        return scorer

    def save_pretrained(self, folder: str | Path) -> None:
        """
        Write the options, the name of the base model and, if they are known, the calibrated schedule and the class
        prototypes, in which are the features of every fitted image; no weights.

        Raises:
            ValueError: If the model was handed over in memory, if the template is a function, or if the weights have
                changed since they were fitted with.
        """
        if self._source is None:
            raise ValueError(
                "a scorer can be saved only with a base model that can be loaded again, got a model in memory. Save "
                "the model, then make the scorer by DLCScorer.from_pretrained(folder)."
            )
        self._check_fit()
        source = self._source
        kwargs = _only_saved(source.model_kwargs)
        base = {"base_model_name_or_path": source.model_id, "revision": source.revision, "model_kwargs": kwargs}
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG_NAME, {**self.config.to_dict(), **base})
        tensors, metadata = {}, {}
        if self._calibrated is not None:
            tensors["schedule"] = np.array(self._calibrated[1], dtype=np.float64)
            metadata["calibration"] = self._calibration_key()
        if self._prototypes is not None:
            tensors |= self._prototypes.arrays
            metadata |= {"classes": json.dumps(self._prototypes.classes), "key": self._prototypes.key}
            metadata["fit"] = self._fit_key()
        (folder / STATE_NAME).unlink(missing_ok=True)  # of another scorer, perhaps
        if tensors:
            save_file(tensors, folder / STATE_NAME, metadata=metadata)

    def push_to_hub(
        self,
        repo_id: str,
        private: bool = True,
        create_pr: bool = False,
        revision: str | None = None,
        token: str | None = None,
    ) -> str:
        """
        Publish what `save_pretrained` writes, without weights, for `from_pretrained(repo_id)`.

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
        from hf_dlc.utils.hub_commits import push_folder

        if self._source is not None and self.is_local:
            raise ValueError(
                "a scorer can be published only with a base model that is on the Hub, got the folder "
                f"{self._source.model_id}. Push the model first, and load it from there."
            )
        if Path(str(self.config.template)).is_file():
            raise ValueError(
                "a scorer can be published only with a template that comes with the model or with hf_dlc, got the "
                f"file {self.config.template}."
            )
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_folder(Path(folder), repo_id, private, create_pr, revision, token)

    def _read_state(self, path: Path) -> None:
        if not path.is_file():
            return
        tensors = load_file(path)
        with safe_open(path, "np") as state:
            metadata = state.metadata() or {}
        if "schedule" in tensors and self.config.schedule is None:
            if metadata.get("calibration") == self._calibration_key():
                self._calibrated = self._masker.weights_state(), tuple(tensors.pop("schedule").tolist())
            else:
                logger.warning(
                    "the schedule in %s was calibrated for other weights or options; calibrating anew", path
                )
        if "classes" in metadata:
            if metadata.get("fit") == self._fit_key():
                self._set_prototypes(Prototypes.from_arrays(json.loads(metadata["classes"]), tensors, metadata["key"]))
            else:
                logger.warning("%s was fitted with other weights or options: call fit again", path)

    # ---- model and parts ------------------------------------------------------------------------------------------

    @property
    def model(self) -> PreTrainedModel:
        """The model, loaded now if this scorer came into a worker process."""
        return self._load()[0]

    @property
    def processor(self) -> PreTrainedTokenizerBase | BaseImageProcessor:
        """The tokenizer or image processor."""
        return self._load()[1]

    def _load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | BaseImageProcessor]:
        if self._loaded is None:
            if self._source is None:
                raise DLCError(
                    "this scorer holds a model that was handed over in memory, and a worker process cannot load it "
                    "again. Make the scorer by DLCScorer.from_pretrained(id or path) to use num_proc, or leave it out."
                )
            if _is_forked():
                # OpenMP hangs in a forked child whose parent has used it; one thread does without.
                torch.set_num_threads(1)
            self._loaded = self._source.load()
            if self._digests() != self._expected_digests:
                self._loaded = None
                raise DLCError(
                    f"the weights or the processor of {self._source.model_id!r} are not those of the scorer that was "
                    "sent here: they were changed in memory. Save both and make the scorer from that folder to use "
                    "num_proc."
                )
        return self._loaded

    def _digests(self) -> tuple[str, str]:
        """Of the weights and the processor; in a worker that has not loaded them yet, as they were sent."""
        if self._loaded is None:
            return self._expected_digests
        model, processor = self._loaded
        with self._lock:  # never of masked weights
            return model_digest(model), processor_digest(processor)

    @cached_property
    def _task(self) -> CausalLMTask | ImageClassificationTask:
        options = self.config
        if self._is_of_images:
            _require_image_processor(self.processor)
            encoder = ImageEncoder(self.processor, self.model.dtype, options.columns)
            task = ImageClassificationTask(
                self.model, encoder, options.head, options.pooling, options.prototype_logits
            )
            task.prototypes = self._prototypes
            return task
        if not isinstance(self.processor, PreTrainedTokenizerBase):
            if isinstance(self.model, PreTrainedModel):
                check_architecture(self.model.config, type(self.model).__name__)
            raise ValueError(
                f"{type(self.model).__name__} is no image classifier, so it needs a tokenizer, got "
                f"{type(self.processor).__name__}."
            )
        encoder = RowEncoder(
            self.processor,
            template=options.template,
            max_length=options.max_length,
            layout=options.layout,
            columns=options.columns,
        )
        task = CausalLMTask(self.model, encoder, token_mean=options.token_mean)
        if getattr(self.model.config, "output_router_logits", False):
            logger.warning(
                "the config of %s asks for output_router_logits: the auxiliary loss of the router, which the model "
                "adds to its own loss, is no part of dlc_loss",
                type(self.model).__name__,
            )
        return task

    @cached_property
    def _masker(self) -> Masker:
        options = self.config
        return Masker(
            self.model,
            masking=options.masking,
            seed=options.seed,
            scope=options.scope,
            target_modules=options.target_modules,
        )

    # ---- pickling and fingerprints --------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """
        What a worker needs to make this scorer again, and all that `datasets` hashes: never the weights themselves,
        but a digest of them, read anew each time.
        """
        model, processor = self._digests()
        return {
            "score_version": SCORE_VERSION,
            "config": self.config,
            "source": self._source and self._source.without_token(),
            "model": model,
            "processor": processor,
            "task": self._task.describe(),
            "probe": None if self._fixed_schedule else probe_digest(),
            "prototypes": self._prototypes,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.config, self._source = state["config"], state["source"]
        self._expected_digests = state["model"], state["processor"]
        self._prototypes, self._fitted_with = state["prototypes"], None
        self._lock = threading.RLock()
        self._loaded = None
        self._calibrated = None
        self._forget()

    def _forget(self) -> None:
        """What is found out on the way, and changes no score."""
        self._limit = TokenLimit()
        self._warned_of_memory = False
        self._told_reasons: set[str] = set()  # why rows that came through `map` have no score
        self._side_by_side: tuple[Any, bool] = None, False  # whether rows can meet all levels at once, of what weights
        self._row_prefixes: tuple[Any, dict[int, Any]] = None, {}  # for rows that do, and the weights they belong to
        self._checked: tuple[Any, int] = None, 0  # weights that were measured, and tokens of the longest row then
        self._encoded: dict[tuple[str, str], list[EncodedRow]] = {}  # from `fit` and `estimate` to `score`

    @property
    def is_local(self) -> bool:
        """Whether the model is known on this machine only."""
        return self._source is None or Path(self._source.model_id).exists()

    def describe(self) -> dict[str, Any]:
        """Identity of everything that makes a score, as JSON types, for a manifest."""
        source = self._source
        return {
            "score_version": SCORE_VERSION,
            "config": self._options(),
            "model": source.model_id if source else type(self.model).__name__,
            "revision": source.revision if source else None,
            "gguf_file": source.model_kwargs.get("gguf_file") if source else None,
            "model_digest": model_digest(self.model),
            "processor_digest": processor_digest(self.processor),
            "probe_digest": None if self._fixed_schedule else probe_digest(),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.model.device.type,
            "tokens_per_batch": self._tokens_per_batch,
        }

    def _options(self) -> dict[str, Any]:
        """The config and, in the place of the template or of nothing, what becomes of rows."""
        return {**vars(self.config), "images" if self._is_of_images else "template": self._task.describe()}

    @property
    def _fixed_schedule(self) -> MaskSchedule | None:
        """The schedule, unless it is to be calibrated."""
        if self.config.mask_schedule is None and self._is_of_images:
            return _IMAGE_SCHEDULES[self.config.masking]
        return self.config.mask_schedule

    # ---- schedule -------------------------------------------------------------------------------------------------

    @property
    def schedule_(self) -> tuple[float, ...]:
        """
        Masked fraction of each level.

        Raises:
            AttributeError: If the schedule is to be calibrated and has not been.
        """
        if self._fixed_schedule is not None:
            return self._fixed_schedule.fractions
        if self._calibrated is None:
            raise AttributeError("the schedule is not known yet: call scorer.calibrate(), or score a row.")
        return self._calibrated[1]

    def calibrate(self) -> tuple[float, ...]:
        """
        Settle the schedule: the fixed one of the config, or the masked fractions at which the mean confidence on a
        small built-in probe set falls to `config.calibration_shares` of the unmasked one.

        It depends on the model and the config alone, and is kept in the cache folder under a digest of both.

        Returns:
            `tuple[float, ...]`: Masked fraction of each level, also as `schedule_`.

        Raises:
            ValueError: If no masked fraction makes the confidence fall that far, as with random weights.
        """
        if self._fixed_schedule is not None:
            return self._fixed_schedule.fractions
        with self._lock:
            with self._masker.unmasked():  # not what another scorer makes of them
                marker = self._masker.weights_state()
            if self._calibrated is None or self._calibrated[0] != marker:
                self._calibrated = marker, self._read_or_find_schedule()
            return self._calibrated[1]

    def _read_or_find_schedule(self) -> tuple[float, ...]:
        path = cache_folder() / "calibration" / f"{self._calibration_key()}.json"
        return cached_schedule(path, self._levels, self._find_schedule, self.describe)

    def _calibration_key(self) -> str:
        """Digest of all that the calibrated schedule depends on."""
        options = self.config
        masks = [options.masking, options.seed, options.scope, options.target_modules]
        target = [options.calibration_shares, options.token_mean]
        facts = [masks, target, self._probe_encoder.describe(), str(self.model.dtype)]
        weights = [model_digest(self.model), processor_digest(self.processor), probe_digest()]
        return json_digest([SCORE_VERSION, facts, weights])

    @cached_property
    def _probe_encoder(self) -> RowEncoder:
        template = "auto" if callable(self.config.template) else self.config.template
        return RowEncoder(self.processor, template=template, max_length=self.config.max_length, says=False)

    def _find_schedule(self) -> tuple[float, ...]:
        rows = self._probe_encoder.encode(probe_rows())
        self._check_model(rows)
        with _scoring_mode(self.model):
            return find_schedule(
                self._task, self._masker, rows, self.config.calibration_shares, self._tokens_per_batch, self._limit
            )

    def masking_report(self) -> list[LevelReport]:
        """
        Mask every level once and count, in the tensors themselves, what is zero.

        Returns:
            `list[LevelReport]`: For each level `level`, `masked_fraction` (asked for), `maskable` (weights), `masked`
            (weights that masking set to zero) and `zeros_before` (weights that were zero without it).
        """
        schedule = self.calibrate()
        with self._lock, self._masker.session(schedule) as session:
            for level in range(len(schedule)):
                session.set_level(level)
            return session.report

    # ---- prototypes -----------------------------------------------------------------------------------------------

    def fit(self, dataset: Dataset, num_threads: int | None = None) -> DLCScorer:
        """
        Learn what must be known of the whole dataset before its rows can be scored: for images without a trained
        head, the mean features of each class. One unmasked pass, sharded over the processes that `accelerate`
        started.

        Args:
            dataset ([`~datasets.Dataset`]):
                Labelled images, usually those that are to be scored; one split, not a `DatasetDict`.
            num_threads (`int`, *optional*):
                CPU threads of this process, by default the cores divided by the processes of this machine.

        Returns:
            [`DLCScorer`]: This scorer.

        Raises:
            TypeError: If `dataset` is no `Dataset`.
            ValueError: If there is nothing to fit: a language model, a trained head, or fewer than two classes with
                readable images.
        """
        if not self.needs_fit:
            raise ValueError("only image scorers with head='prototype' are fitted, and this one needs nothing of it.")
        rows, classes, features = self._fit_pass(dataset, num_threads)
        kept = np.flatnonzero(np.isfinite(features).all(axis=1) & [row.length > 0 for row in rows])
        if len({rows[place].label for place in kept}) < 2:
            raise ValueError(
                f"prototypes need readable images of at least two classes, got {len(kept)} of {len(rows)} rows with "
                f"image, label and features, of fewer classes: {_count(rows)}. Pass other rows."
            )
        labels, digests = zip(*((rows[place].label, rows[place].digest) for place in kept), strict=True)
        key = json_digest([self._fit_key(), classes, rows_digest(rows)])
        self._set_prototypes(Prototypes.fit(classes, np.array(labels), digests, features[kept], key))
        self._encoded = {self._encoding_key(dataset): self._task.with_reasons(rows)}  # mostly it is scored next
        return self

    def features(self, dataset: Dataset) -> np.ndarray:
        """
        What the unmasked image model makes of each image, pooled as `config.pooling` says.

        Args:
            dataset ([`~datasets.Dataset`]):
                Labelled images.

        Returns:
            `np.ndarray` of shape `(rows, features)`: float32; NaN for rows without a readable image and a label.
        """
        if not self._is_of_images:
            raise ValueError(f"features are those of images, got a model for {self._kind}.")
        return self._fit_pass(dataset)[2]

    def _fit_pass(
        self, dataset: Dataset, num_threads: int | None = None
    ) -> tuple[list[EncodedRow], tuple[str | int, ...], np.ndarray]:
        """Rows, classes and features, the rows dealt out to all processes."""
        if not isinstance(dataset, Dataset):
            raise TypeError(f"a datasets.Dataset is needed, got {type(dataset).__name__}. Pass one split of it.")
        state, threads = process_state(), using_threads(cpu_threads(num_threads))
        with self._lock, threads, watch_peers(state) as peers, _scoring_mode(self.model):
            share = self._share(state, peers)
            rows, classes = self._task.encode_to_fit(dataset, share)
            check_same({"rows": rows_digest(rows), "weights": model_digest(self.model)}, state)
            batches = deal(self._cut(rows, self._tokens_per_batch, []), state.num_processes)[state.process_index]
            features = np.zeros((len(rows), self._num_features(rows)), dtype=np.float32)
            with progress_bar([batches], state.is_main_process, "Features") as advance:
                for batch, found in self._features(rows, batches):
                    features[batch.rows] = found
                    advance(batch)
            features = share.add_up(features)
        features[[row.length == 0 for row in rows]] = np.nan
        return rows, classes, features

    def _features(
        self, rows: Sequence[EncodedRow], batches: Sequence[MicroBatch]
    ) -> Iterator[tuple[MicroBatch, np.ndarray]]:
        """Features of micro-batches, or of parts of them if they do not fit into memory."""
        feed, fed = self._task.feed([rows[row] for batch in batches for row in batch.rows]), []

        def compute(batch: MicroBatch) -> tuple[MicroBatch, np.ndarray]:
            fed.extend(islice(feed, max(0, len(batch.rows) - len(fed))))
            features = self._task.features(fed[: len(batch.rows)]).cpu().numpy()
            del fed[: len(batch.rows)]  # not before: what does not fit comes again, in parts
            return batch, features

        return in_parts_that_fit(batches, self._limit, compute)

    def _num_features(self, rows: Sequence[EncodedRow]) -> int:
        """Of the first row that has any: a process without a micro-batch must know too, to add up."""
        first = next((row for row in rows if row.length), None)
        return self._task.features(list(self._task.feed([first]))).shape[1] if first is not None else 0

    @property
    def needs_fit(self) -> bool:
        """Whether [`DLCScorer.fit`] must be called before rows can be scored."""
        return self._is_of_images and self._task.head == "prototype"

    @property
    def _kind(self) -> str:
        """What the model is for."""
        config = getattr(self.model, "config", None)  # what is no model of transformers is refused with more words
        is_image = config is not None and is_image_model(config, [type(self.model).__name__])
        return "image-classification" if is_image else "causal-lm"

    @property
    def _is_of_images(self) -> bool:
        return self._kind == "image-classification"

    def _check_fit(self) -> None:
        with self._lock:  # never of masked weights
            if self._fitted_with is None or self._fitted_with[0] == self._masker.weights_state():
                return
            if self._fitted_with[1] != self._fit_key():
                raise ValueError(
                    "the class prototypes were fitted with other weights. Call scorer.fit(dataset) again."
                )
            self._fitted_with = self._masker.weights_state(), self._fitted_with[1]  # the same weights, elsewhere

    def _set_prototypes(self, prototypes: Prototypes) -> None:
        with self._lock:
            self._prototypes = self._task.prototypes = prototypes
            self._fitted_with = self._masker.weights_state(), self._fit_key()

    def _fit_key(self) -> str:
        """Digest of all that features depend on."""
        return json_digest(
            [
                SCORE_VERSION,
                self.config.pooling,
                str(self.model.dtype),
                model_digest(self.model),
                processor_digest(self.processor),
            ]
        )

    # ---- scoring --------------------------------------------------------------------------------------------------

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """
        Score a row or a batch as `dataset.map(scorer)`, `dataset.map(scorer, batched=True)` and `IterableDataset.map`
        hand them over. Pure: the same rows get the same scores.

        Row by row, the weights of all levels are kept between calls if they fit into a quarter of the free memory, and
        a row goes through all levels in one forward pass where the model's layers allow it; otherwise every row pays
        for masking the model, and a warning says to pass `batched=True`.

        Args:
            rows (`dict[str, Any]`):
                A row, or a batch as a dict of columns.

        Returns:
            `dict[str, Any]`: The score columns, scalars for a row and lists for a batch.
        """
        self._check_fit()
        self._encoded.clear()  # nobody waits for it any more
        encoded, is_batch = self._task.encode_rows(rows)
        self._tell_reasons(encoded)
        with self._lock:
            self._check_model(encoded)
            if plan := self._plan(encoded):
                self.calibrate()
            work = [plan] * len(self._passes)
            run_one = plan and not is_batch and self._hold_levels()
            values = self._run_row(encoded, work) if run_one else self._run(encoded, work)
        columns = self._columns(encoded, values)
        return columns if is_batch else {name: values[0] for name, values in columns.items()}

    def _tell_reasons(self, encoded: Sequence[EncodedRow]) -> None:
        """Say of the first row of each kind that comes through `map` why it has no score."""
        for row in encoded:
            if row.why and row.status not in self._told_reasons:
                self._told_reasons.add(row.status)
                logger.warning("a row has no score (%s), nor will others like it: %s", row.status, row.why)

    def score(
        self,
        dataset: Dataset | DatasetDict,
        run_dir: str | Path | None = None,
        num_threads: int | None = None,
        chunk_seconds: float = CHUNK_SECONDS,
    ) -> Dataset | DatasetDict:
        """
        Score a whole dataset, level by level, sharded over the processes that `accelerate` started.

        Every process gets all scores. The micro-batches do not depend on the number of processes, so neither do the
        scores. With `run_dir`, finished work is kept there in chunks, and the same call goes on where an earlier one
        stopped, however it was stopped and with however many processes; the scores then are those of a run that was
        never interrupted, bit for bit if each process computes on the same kind of device with as many threads.

        Args:
            dataset ([`~datasets.Dataset`] or [`~datasets.DatasetDict`]):
                Rows of a known layout; a `DatasetDict` is scored split by split.
            run_dir (`str` or `Path`, *optional*):
                Folder of the journal, on a file system that all processes share; of a `DatasetDict`, a folder for
                each split in it.
            num_threads (`int`, *optional*):
                CPU threads of this process, by default the cores divided by the processes of this machine.
            chunk_seconds (`float`, *optional*, defaults to 60):
                Seconds of work between two writes to the journal: what each process repeats, at most, after it was
                killed.

        Returns:
            [`~datasets.Dataset`] or [`~datasets.DatasetDict`]: The dataset with the score columns added (replaced,
            where they were there).

        Raises:
            TypeError: If the dataset is a stream, which can only be mapped.
            ValueError: If the columns follow no known layout.
            JournalError: If `run_dir` holds the journal of another run, is in use, or cannot be written.
        """
        if isinstance(dataset, DatasetDict):
            folders = {split: run_dir and Path(run_dir, split) for split in dataset}
            parts = dataset.items()
            return DatasetDict(
                {split: self.score(part, folders[split], num_threads, chunk_seconds) for split, part in parts}
            )
        _require_dataset(dataset)
        state = process_state()
        with self._lock, using_threads(cpu_threads(num_threads)):
            journal = Journal(run_dir) if run_dir else None
            with ExitStack() as stack:
                peers = stack.enter_context(watch_peers(state))
                encoded = self._encode_dataset(dataset, self._share(state, peers))
                if journal is not None:
                    hold = partial(stack.enter_context, journal.hold())
                    on_main_process(hold, state, peers, share=lambda _: None)
                settings = self._begin(encoded, journal, state, peers)
                values = self._run_settled(encoded, settings, journal, state, peers, chunk_seconds)
        columns = self._columns(encoded, values)
        if state.is_main_process:
            _report_skipped(columns[f"{self.config.prefix}_status"], encoded)
        return with_columns(dataset, columns, score_features(self.config.prefix, self.config.keep_levels))

    def _begin(
        self, encoded: Sequence[EncodedRow], journal: Journal | None, state: PartialState, peers: Peers | None
    ) -> dict[str, Any]:
        """Make sure that all processes are about to do the run that the journal belongs to, and settle the rest."""
        settle = partial(self._settle, encoded)
        if journal is None and state.num_processes == 1:
            return settle()
        identity = self._identity(encoded)
        check_same({name: json_digest(value) for name, value in identity.items()}, state)
        if journal is None:
            return on_main_process(settle, state, peers)
        info = {"versions": versions(), **self.describe()}

        def begin() -> tuple[dict[str, Any], str]:
            return journal.begin(identity, settle, info), journal.run

        settings, run = on_main_process(begin, state, peers)
        journal.join(run)
        self._check_settings(settings)
        return settings

    def _identity(self, encoded: Sequence[EncodedRow]) -> dict[str, Any]:
        """All that makes the scores of these rows at each level, as JSON types."""
        return {
            "rows": {"number": len(encoded), "digest": rows_digest(encoded)},
            "weights": model_digest(self.model),
            "tokenizer": processor_digest(self.processor),
            "config": {name: value for name, value in self._options().items() if name not in _NOT_OF_SCORES},
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "score_version": SCORE_VERSION,
            # Some templates write the day into every row, and a run that is resumed on another is another run.
            "day": date.today().isoformat() if self._task.is_dated else None,
        }

    def _settle(self, encoded: Sequence[EncodedRow]) -> dict[str, Any]:
        """
        What one process finds out for the whole run: another device or number of threads might find otherwise.
        """
        self._check_model(encoded)
        has_work = any(row.length for row in encoded)  # else the model is left alone
        schedule = list(self.calibrate()) if has_work else []
        return {
            "schedule": schedule,
            "passes": passes_to_json(measures_by_pass(SCORES.values(), schedule)),
            "tokens_per_batch": self._tokens_per_batch,
            "shared_prefixes": self._shared_prefixes(encoded),
            "batch_rules": self._task.rules.to_json(),
        }

    def _check_model(self, encoded: Sequence[EncodedRow]) -> None:
        """Measure the model before it scores a row: it may look ahead, or take a row in a batch for another one."""
        longest = max((row.length for row in encoded), default=0)
        if not longest:
            return
        with self._masker.unmasked():
            weights = self._masker.weights_state()
            if self._checked[0] != weights or self._checked[1] < longest:
                with _scoring_mode(self.model):
                    self._task.check(longest, weights)
                self._checked = weights, longest

    def _shared_prefixes(self, encoded: Sequence[EncodedRow]) -> list[int]:
        """The prefixes that are worth to be computed apart from their rows, where the model can do so."""
        numbers, counts = np.unique([row.prefix for row in encoded], return_counts=True)
        frequent = [number for number in numbers[counts >= _ROWS_PER_PREFIX].tolist() if number]
        if not frequent:
            return []
        with self._masker.unmasked(), _scoring_mode(self.model):
            usable = [number for number in frequent if self._task.shares(number)]
        plans = [self._cut(encoded, self._tokens_per_batch, prefixes) for prefixes in ([], usable)]
        whole, apart = (cost(plan, self._overhead(self._tokens_per_batch)) for plan in plans)
        return usable if apart <= _WORTH_A_PREFIX * whole else []

    def _check_settings(self, settings: dict[str, Any]) -> None:
        """What `_settle` found out may come back from a file that somebody has edited."""
        schedule, tokens = settings.get("schedule"), settings.get("tokens_per_batch")
        prefixes, known = settings.get("shared_prefixes"), range(self._task.num_prefixes)
        try:
            is_sound = len(schedule) in (0, self._levels) and schedule == sorted(map(float, schedule))
            is_sound &= schedule[:1] in ([], [0]) and all(fraction < 1 for fraction in schedule)
            is_sound &= type(tokens) is int and tokens > 0
            is_sound &= all(type(index) is int and index in known for index in prefixes)
            is_sound &= settings.get("passes") == passes_to_json(measures_by_pass(SCORES.values(), schedule))
            BatchRules.from_json(settings.get("batch_rules"))
        except (KeyError, TypeError, ValueError):
            is_sound = False
        if not is_sound:
            raise JournalError(
                "the settings in the journal.json must be a schedule of masked fractions, the passes that the scores "
                "ask for, a positive tokens_per_batch, known shared_prefixes and batch_rules, got "
                f"{str(settings)[:400]}. Restore that file, or delete the folder to start anew."
            )

    def _run_settled(
        self,
        encoded: Sequence[EncodedRow],
        settings: dict[str, Any],
        journal: Journal | None,
        state: PartialState,
        peers: Peers | None,
        chunk_seconds: float,
    ) -> Values:
        if self._fixed_schedule is None and settings["schedule"]:
            self._calibrated = self._masker.weights_state(), tuple(settings["schedule"])
        self._task.rules = BatchRules.from_json(settings["batch_rules"])
        self._checked = None, 0  # what this process finds out itself may differ
        batches = self._cut(encoded, settings["tokens_per_batch"], settings["shared_prefixes"])

        def compute(work: Sequence[Sequence[MicroBatch]], reporter: Reporter) -> Values:
            return self._run(encoded, work, reporter, chunk_seconds)

        return run_sharded(compute, batches, list(self._passes.values()), len(encoded), journal, state, peers)

    def estimate(self, dataset: Dataset | DatasetDict, num_threads: int | None = None) -> RunEstimate:
        """
        Foretell what `score(dataset)` will cost. Rows are encoded; of the model only a short probe is run.

        Returns:
            [`RunEstimate`]: Rows, tokens, skipped rows by reason, forward passes, seconds and memory of this process.
        """
        parts = list(dataset.values()) if isinstance(dataset, DatasetDict) else [dataset]
        for part in parts:
            _require_dataset(part)
        state = process_state()
        with self._lock, using_threads(cpu_threads(num_threads)), _scoring_mode(self.model):
            asked = set(map(self._encoding_key, parts))
            self._encoded = {key: rows for key, rows in self._encoded.items() if key in asked}
            alone = Share(0, 1, self._tokens_per_batch, lambda values: values)  # the others may not estimate anything
            encoded = [row for part in parts for row in self._encode_dataset(part, alone, keep=True)]
            self._check_model(encoded)
            plan, measures = self._plan(encoded), list(self._passes.values())
            return estimate_run(self._task, self._masker, encoded, plan, measures, state.num_processes, self._limit)

    @property
    def reading_(self) -> DatasetReading | None:
        """
        What was read of the dataset that was scored, estimated or mapped last: its layout, which columns as what, what
        is learned from, and what was left out. `None` before the first row.
        """
        return self._task.reading

    def preview(self, dataset: Dataset, rows: int = 2) -> str:
        """
        The first rows as they will be scored, to be printed.

        Args:
            dataset ([`~datasets.Dataset`]):
                Rows, as for [`~DLCScorer.score`].
            rows (`int`, *optional*, defaults to 2):
                How many.

        Returns:
            `str`: What is read of the dataset, and the text of each row with its special tokens and with marks around
            what is learned from; of a row that has no score, the reason.

        Raises:
            ValueError: If the model is an image model, or if the columns follow no known layout.

        Example:
        ```python
        >>> print(scorer.preview(dataset, rows=1))
        rows are read as alpaca: 'instruction', 'output' as response, 'input'; ...
        ⟦learned from⟧
        --- row 0: ... tokens, ... of them learned from
        <|im_start|>user
        Name three primary colours.<|im_end|>
        <|im_start|>assistant
        ⟦Red, yellow and blue...<|im_end|>
        ⟧
        ```
        """
        if self._is_of_images:
            raise ValueError("images have no text to show. Look at the images and labels of the dataset.")
        _require_dataset(dataset, "preview", "Dataset")
        return self._task.preview(dataset.select(range(min(rows, len(dataset)))))

    def tokenize(self, dataset: Dataset) -> Dataset:
        """
        The rows as token ids and labels, for a trainer that is to learn from the very tokens that are scored.

        Args:
            dataset ([`~datasets.Dataset`]):
                Rows, as for [`~DLCScorer.score`].

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
        if self._is_of_images:
            raise ValueError("images have no tokens. Train on them with the model's image processor.")
        _require_dataset(dataset, "tokenize", "Dataset")
        encoded = self._task.encode_dataset(dataset)
        _report_skipped([row.status for row in encoded], encoded)
        places = [place for place, row in enumerate(encoded) if row.length]
        ids = [encoded[place].input_ids for place in places]
        labels = [np.where(encoded[place].targets, encoded[place].input_ids, -100) for place in places]
        features = Features({"input_ids": List(Value("int64")), "labels": List(Value("int64")), "row": Value("int64")})
        return Dataset.from_dict({"input_ids": ids, "labels": labels, "row": places}, features=features)

    @property
    def _levels(self) -> int:
        return len(self._fixed_schedule or self.config.calibration_shares)

    @property
    def _fractions(self) -> tuple[float, ...]:
        """
        Masked fraction of each level; while they are not calibrated, any of as many levels, which is all that rows
        without a score and estimates need.
        """
        if self._fixed_schedule is None and self._calibrated is None:
            return tuple(level / self._levels for level in range(self._levels))
        return self.schedule_

    @property
    def _passes(self) -> dict[Pass, tuple[Measure, ...]]:
        """What is measured in each pass of all rows through the model."""
        return measures_by_pass(SCORES.values(), self._fractions)

    @property
    def _masked_fractions(self) -> tuple[float, ...]:
        """Of each pass."""
        return tuple(one.masked_fraction for one in self._passes)

    @property
    def _tokens_per_batch(self) -> int:
        if self.config.tokens_per_batch != "auto":
            return self.config.tokens_per_batch
        tokens = _AUTO_TOKENS["cpu" if self.model.device.type == "cpu" else "accelerator"]
        return tokens if self._is_half else tokens // 2

    @property
    def _is_half(self) -> bool:
        return self.model.dtype.itemsize < 4

    def _share(self, state: PartialState, peers: Peers | None) -> Share:
        """This process's part in what all processes encode."""

        def add_up(values: np.ndarray) -> np.ndarray:
            if peers is not None:
                peers.meet()
            check_same({"number of rows": str(len(values))}, state)
            return sum_over_processes(values, state)

        return Share(state.process_index, state.num_processes, self._tokens_per_batch, add_up)

    def _encode_dataset(self, dataset: Dataset, share: Share, keep: bool = False) -> list[EncodedRow]:
        """The encoded rows; kept until they are asked for again, if they are to be."""
        _require_dataset(dataset)
        self._check_fit()
        key = self._encoding_key(dataset)
        encoded = self._encoded.pop(key, None)
        known = np.array([encoded is not None], dtype=np.float32)
        if share.add_up(known).sum() < share.count:  # all processes read together, or none does
            encoded = self._task.encode_dataset(dataset, share)
        if keep:
            self._encoded[key] = encoded
        return encoded

    def _encoding_key(self, dataset: Dataset) -> tuple[str, str]:
        return dataset._fingerprint, processor_digest(self.processor)

    def _plan(self, encoded: Sequence[EncodedRow]) -> list[MicroBatch]:
        return self._cut(encoded, self._tokens_per_batch, self._shared_prefixes(encoded))

    def _cut(self, encoded: Sequence[EncodedRow], tokens: int, shared_prefixes: Sequence[int]) -> list[MicroBatch]:
        prefixes, heads, lengths = (
            np.array([(row.prefix, row.prefix_length, row.length) for row in encoded], dtype=np.int64).reshape(-1, 3).T
        )
        rules = self._task.rules
        is_shared = np.isin(prefixes, shared_prefixes) & (lengths <= rules.plain_up_to)
        padded = rules.padded(lengths, np.where(is_shared, heads, 0))
        prefixes = np.where(is_shared, prefixes, 0)
        return cut_batches(padded, tokens, prefixes, self._overhead(tokens), rules.groups(lengths))

    def _overhead(self, tokens_per_batch: int) -> int:
        """What a micro-batch costs on top of its tokens, in tokens."""
        return tokens_per_batch // _OVERHEAD_PARTS["half" if self._is_half else "full"]

    def _run(
        self,
        encoded: Sequence[EncodedRow],
        work: Sequence[Sequence[MicroBatch]],
        reporter: Reporter | None = None,
        chunk_seconds: float = CHUNK_SECONDS,
    ) -> Values:
        """
        The one engine: `map` hands over its batch, `score` its share of the dataset.

        Returns:
            `dict[str, np.ndarray]`: By the name of the measure float32 of shape `(passes, rows)`.
        """
        measures = list(self._passes.values())
        if not any(work):  # nothing but skipped rows: leave the model alone
            return no_values(measures, len(encoded))
        with self._masker.session(self._masked_fractions) as session, _scoring_mode(self.model):
            return LevelLoop(self._task, session, encoded, work, measures, self._limit, reporter, chunk_seconds).run()

    def _run_row(self, encoded: Sequence[EncodedRow], work: Sequence[Sequence[MicroBatch]]) -> Values:
        """A row on its own, at all held levels in one pass if that gives what one pass a level gives."""
        with _scoring_mode(self.model):
            [row] = encoded
            if self._task.rules.is_alone(row.length) or not self._agrees_side_by_side():
                return self._run(encoded, work)
            [row] = self._task.feed(encoded)
            with self._masker.unmasked():
                shares = row.length <= self._task.rules.plain_up_to and self._task.shares(row.prefix)
            with self._masker.side_by_side() as levels:
                prefix = self._row_prefix(row.prefix, len(levels)) if shares else None
                return run_row(self._task, levels, list(self._passes.values()), row, prefix)

    def _agrees_side_by_side(self) -> bool:
        """Whether the held levels may stand side by side; found out anew for other weights."""
        weights, agrees = self._side_by_side
        if weights is None or weights is not self._masker.noticed_state:
            reason = "not every masked weight is that of one plain linear layer"
            if self._masker.fits_side_by_side:
                reason = why_not_side_by_side(self._task, self._masker, self._masked_fractions)
            if reason:
                name = type(self.model).__name__
                logger.info("row by row, %s takes a forward pass for each level: %s", name, reason)
            agrees = reason is None
            self._side_by_side = self._masker.noticed_state, agrees
        return agrees

    def _row_prefix(self, prefix: int, levels: int) -> Any:
        """What the model makes of a prefix at all held levels; kept for the rows to come."""
        weights, known = self._row_prefixes
        if weights is not self._masker.noticed_state:
            self._row_prefixes = self._masker.noticed_state, (known := {})
        if prefix not in known:
            known[prefix] = self._task.run_prefix(prefix, levels)
        return known[prefix]

    def _hold_levels(self) -> bool:
        """Keep the weights of all levels for the rows to come, and tell whether there is room."""
        fractions = self._masked_fractions
        fits = self._masker.fits_in_memory(fractions)
        if fits:
            self._masker.hold_levels(fractions)
        elif not self._warned_of_memory:
            self._warned_of_memory = True
            logger.warning(
                "scoring row by row masks the model anew for every row: the masked weights of %d levels do not fit "
                "into a quarter of the free memory. Pass batched=True to dataset.map.",
                len(fractions),
            )
        return fits

    def _columns(self, encoded: Sequence[EncodedRow], values: Values) -> dict[str, Any]:
        return build_columns(
            [row.status for row in encoded],
            np.array([row.target_tokens for row in encoded], dtype=np.int64),
            values,
            self._fractions,
            self.config.prefix,
            self.config.keep_levels,
        )


@contextmanager
def _scoring_mode(model: PreTrainedModel) -> Iterator[None]:
    """Eval mode, and afterwards the mode of every module as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _require_image_processor(processor: Any) -> None:
    if not isinstance(processor, BaseImageProcessor):
        raise ValueError(
            f"an image model needs an image processor, got {type(processor).__name__}. Pass "
            "AutoImageProcessor.from_pretrained(...)."
        )


def _only_saved(model_kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in model_kwargs.items() if key in _SAVED_KWARGS}


def _is_forked() -> bool:
    return os.getpid() != _IMPORTED_IN


def _require_dataset(dataset: Any, who: str = "score", wanted: str = "Dataset or DatasetDict") -> None:
    if isinstance(dataset, Dataset):
        return
    advice = (
        "Score a stream with stream.map(scorer, batched=True)."
        if isinstance(dataset, IterableDataset | IterableDatasetDict)
        else "Make one with Dataset.from_list or load_dataset."
    )
    advice = "Take one split of it." if isinstance(dataset, DatasetDict) else advice
    raise TypeError(f"{who} needs a datasets.{wanted}, got {type(dataset).__name__}. {advice}")


def _count(rows: Sequence[EncodedRow]) -> dict[str, int]:
    return dict(Counter(row.status for row in rows))


def _report_skipped(statuses: Sequence[str], encoded: Sequence[EncodedRow]) -> None:
    if skipped := count_skipped(statuses):
        words = in_words(skipped, first_skipped(encoded))
        logger.warning("%d of %d rows have no score: %s", sum(skipped.values()), len(statuses), words)
    if truncated := statuses.count(TRUNCATED):
        logger.warning("%d of %d rows were cut to max_length", truncated, len(statuses))
