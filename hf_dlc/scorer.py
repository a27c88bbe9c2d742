"""`DLCScorer`: puts model, encoding, masks and the run together, and is what `dataset.map` calls."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from accelerate import PartialState
from datasets import Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, concatenate_datasets
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .cache import cache_folder, write_json
from .columns import SCORED_STATUSES, TRUNCATED, build_columns, score_features
from .config import CONFIG_NAME, DLCConfig
from .digest import json_digest, model_digest, rows_digest, tokenizer_digest
from .execution.distributed import (
    check_same,
    cpu_threads,
    from_main_process,
    process_state,
    sum_over_processes,
    using_threads,
)
from .execution.estimate import RunEstimate, estimate_run
from .execution.loop import run_levels, run_row
from .execution.plan import MicroBatch, cut_batches, deal
from .execution.progress import progress_bar
from .loading import ModelSource
from .masking import LevelReport, Masker
from .probe import cached_schedule, find_schedule, probe_digest, probe_rows
from .tasks import EncodedRow
from .tasks.causal_lm import CausalLMTask
from .tasks.encoding import RowEncoder


logger = logging.getLogger(__name__)

# Part of every fingerprint. Raise it when the same rows, weights and config would get other scores than before:
# `datasets` hashes a class of an installed package by name, so it cannot see a change of the code.
SCORE_VERSION = 1

STATE_NAME = "dlc_state.safetensors"

# Tokens of a micro-batch, padding included, where `tokens_per_batch` is "auto".
_AUTO_TOKENS = {"cpu": 2048, "accelerator": 16384}

_ROWS_PER_ENCODING = 1000

# What a saved scorer remembers of how its model was loaded; never a token, never the leave to run code.
_SAVED_KWARGS = ("attn_implementation", "gguf_file", "subfolder")

_IMPORTED_IN = os.getpid()


class DLCScorer:
    """
    Scores rows by Distorting-based Learning Complexity: how sure a pre-trained model is of a row's response while a
    growing share of its weights is masked (Jiang et al., "Exploring Learning Complexity for Efficient Downstream
    Dataset Pruning", ICLR 2025).

    For level k with its masked weights, the confidence of a row is the mean of p(token) over its target tokens and its
    loss the mean of -log p(token) in nats. A row's score is the mean over all levels, the unmasked level 0 included:

    - `dlc_confidence` is in [0, 1]; **higher = easier**.
    - `dlc_loss` is at least 0, in nats; **higher = harder**.
    - `dlc_tokens` counts the target tokens: the tokens that training would learn from.
    - `dlc_status` is `"ok"`, `"truncated"`, or the reason why the row has no score (NaN in both, 0 tokens).

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Decoder-only language model with its weights as plain floats in memory. It is never cast or moved.
        processor ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of the model.
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
        self, model: PreTrainedModel, processor: PreTrainedTokenizerBase, config: DLCConfig | None = None
    ) -> None:
        self.config = config or DLCConfig()
        self._lock = threading.RLock()  # weights are masked in place, so one thread at a time reads or scores
        self._source: ModelSource | None = None
        self._expected_digests: tuple[str, str] | None = None
        self._loaded = (model, processor)
        self._calibrated: tuple[Any, tuple[float, ...]] | None = None
        self._warned_of_memory = False
        self._side_by_side: bool | None = None  # whether rows can meet all levels at once; None: not known yet
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
                Repository on the Hub, local folder, local `.gguf` file, or a folder that `save_pretrained` wrote.
            config ([`DLCConfig`], *optional*):
                Options.
            task (`str`, *optional*):
                `"causal-lm"`, the only task so far and the one inferred.
            revision (`str`, *optional*):
                Branch, tag or commit of the repository.
            device (`str` or `torch.device`, *optional*):
                By default this process's accelerator, else the CPU.
            model_kwargs (`dict`, *optional*):
                Further arguments of `AutoModelForCausalLM.from_pretrained`, such as `attn_implementation`,
                `device_map`, or `trust_remote_code`, which is off unless it is given here.
            config_overrides:
                Single options, such as `schedule="0, 0.05, 0.1"`; they win over `config`.

        Returns:
            [`DLCScorer`]

        Raises:
            FileNotFoundError: If a path is given and nothing is there.
            ValueError: If the model is not a decoder-only language model whose weights can be masked.
        """
        if task not in (None, "causal-lm"):
            raise ValueError(f"task must be 'causal-lm' or None, got {task!r}.")
        saved = None
        if Path(model_id, CONFIG_NAME).is_file():
            record = json.loads(Path(model_id, CONFIG_NAME).read_text(encoding="utf-8"))
            config = config or DLCConfig.from_dict(record)
            if "base_model_name_or_path" in record:  # a saved scorer; else a model with options beside it
                saved, model_id = Path(model_id), record["base_model_name_or_path"]
                revision = revision or record["revision"]
                model_kwargs = {**_only_saved(record.get("model_kwargs", {})), **(model_kwargs or {})}
        config = DLCConfig(**{**vars(config or DLCConfig()), **config_overrides})
        source = ModelSource.resolve(model_id, revision, config.dtype, device, model_kwargs)
        scorer = cls(*source.load(), config)
        scorer._source = source
        if saved:
            scorer._read_state(saved / STATE_NAME)
        return scorer

    def save_pretrained(self, folder: str | Path) -> None:
        """
        Write the options, the name of the base model and, if it is known, the calibrated schedule; no weights.

        Raises:
            ValueError: If the model was handed over in memory, or the template is a function.
        """
        if self._source is None:
            raise ValueError(
                "a scorer can be saved only with a base model that can be loaded again, got a model in memory. Save "
                "the model, then make the scorer by DLCScorer.from_pretrained(folder)."
            )
        source = self._source
        kwargs = _only_saved(source.model_kwargs)
        base = {"base_model_name_or_path": source.model_id, "revision": source.revision, "model_kwargs": kwargs}
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CONFIG_NAME, {**self.config.to_dict(), **base})
        if self._calibrated is not None:
            schedule = torch.tensor(self._calibrated[1], dtype=torch.float64)
            save_file({"schedule": schedule}, folder / STATE_NAME, metadata={"calibration": self._calibration_key()})

    def _read_state(self, path: Path) -> None:
        if not path.is_file() or self.config.schedule is not None:
            return
        with safe_open(path, "pt") as state:
            key = (state.metadata() or {}).get("calibration")
            schedule = tuple(state.get_tensor("schedule").tolist())
        if key == self._calibration_key():
            self._calibrated = self._masker.weights_state(), schedule
        else:
            logger.warning("the schedule in %s was calibrated for other weights or options; calibrating anew", path)

    # ---- model and parts ------------------------------------------------------------------------------------------

    @property
    def model(self) -> PreTrainedModel:
        """The model, loaded now if this scorer came into a worker process."""
        return self._load()[0]

    @property
    def processor(self) -> PreTrainedTokenizerBase:
        """The tokenizer."""
        return self._load()[1]

    def _load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        if self._loaded is None:
            if self._source is None:
                raise RuntimeError(
                    "this scorer holds a model that was handed over in memory, and a worker process cannot load it "
                    "again. Make the scorer by DLCScorer.from_pretrained(id or path) to use num_proc, or leave it out."
                )
            if _is_forked():
                # OpenMP hangs in a forked child whose parent has used it; one thread does without.
                torch.set_num_threads(1)
            self._loaded = self._source.load()
            if self._digests() != self._expected_digests:
                self._loaded = None
                raise RuntimeError(
                    f"the weights or the tokenizer of {self._source.model_id!r} are not those of the scorer that was "
                    "sent here: they were changed in memory. Save both and make the scorer from that folder to use "
                    "num_proc."
                )
        return self._loaded

    def _digests(self) -> tuple[str, str]:
        """Of the weights and the tokenizer; in a worker that has not loaded them yet, as they were sent."""
        if self._loaded is None:
            return self._expected_digests
        model, processor = self._loaded
        with self._lock:  # never of masked weights
            return model_digest(model), tokenizer_digest(processor)

    @cached_property
    def _task(self) -> CausalLMTask:
        options = self.config
        encoder = RowEncoder(
            self.processor,
            template=options.template,
            max_length=options.max_length,
            layout=options.layout,
            columns=options.columns,
        )
        return CausalLMTask(self.model, encoder, token_mean=options.token_mean)

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
            "probe": None if self.config.schedule else probe_digest(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.config, self._source = state["config"], state["source"]
        self._expected_digests = state["model"], state["processor"]
        self._lock = threading.RLock()
        self._loaded = None
        self._calibrated = None
        self._warned_of_memory = False
        self._side_by_side = None

    def describe(self) -> dict[str, Any]:
        """Identity of everything that makes a score, as JSON types, for a manifest."""
        source = self._source
        return {
            "score_version": SCORE_VERSION,
            "config": {**vars(self.config), "template": self._task.describe()},
            "model": source.model_id if source else type(self.model).__name__,
            "revision": source.revision if source else None,
            "gguf_file": source.model_kwargs.get("gguf_file") if source else None,
            "model_digest": model_digest(self.model),
            "processor_digest": tokenizer_digest(self.processor),
            "probe_digest": None if self.config.schedule else probe_digest(),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.model.device.type,
            "tokens_per_batch": self._tokens_per_batch,
        }

    # ---- schedule -------------------------------------------------------------------------------------------------

    @property
    def schedule_(self) -> tuple[float, ...]:
        """
        Masked fraction of each level.

        Raises:
            AttributeError: If the schedule is to be calibrated and has not been.
        """
        if self.config.mask_schedule is not None:
            return self.config.mask_schedule.fractions
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
        if self.config.mask_schedule is not None:
            return self.config.mask_schedule.fractions
        with self._lock:
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
        weights = [model_digest(self.model), tokenizer_digest(self.processor), probe_digest()]
        return json_digest([SCORE_VERSION, facts, weights])

    @cached_property
    def _probe_encoder(self) -> RowEncoder:
        template = "auto" if callable(self.config.template) else self.config.template
        return RowEncoder(self.processor, template=template, max_length=self.config.max_length)

    def _find_schedule(self) -> tuple[float, ...]:
        rows = self._probe_encoder.encode(probe_rows())
        with _scoring_mode(self.model):
            return find_schedule(
                self._task, self._masker, rows, self.config.calibration_shares, self._tokens_per_batch
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
        examples, is_batch = self._task.encoder.rows_of(rows)
        encoded = self._task.encode(examples)
        batches = self._cut(encoded)
        with self._lock:
            run_one = batches and not is_batch and self._hold_levels()
            confidence, loss = self._run_row(encoded, batches) if run_one else self._run(encoded, batches)
        columns = self._columns(encoded, confidence, loss)
        return columns if is_batch else {name: values[0] for name, values in columns.items()}

    def score(self, dataset: Dataset | DatasetDict, num_threads: int | None = None) -> Dataset | DatasetDict:
        """
        Score a whole dataset, level by level, sharded over the processes that `accelerate` started.

        Every process gets all scores. The micro-batches do not depend on the number of processes, so neither do the
        scores.

        Args:
            dataset ([`~datasets.Dataset`] or [`~datasets.DatasetDict`]):
                Rows of a known layout; a `DatasetDict` is scored split by split.
            num_threads (`int`, *optional*):
                CPU threads of this process, by default the cores divided by the processes of this machine.

        Returns:
            [`~datasets.Dataset`] or [`~datasets.DatasetDict`]: The dataset with the score columns added (replaced,
            where they were there).

        Raises:
            TypeError: If the dataset is a stream, which can only be mapped.
            ValueError: If the columns follow no known layout.
        """
        if isinstance(dataset, DatasetDict):
            return DatasetDict({split: self.score(part, num_threads) for split, part in dataset.items()})
        _require_dataset(dataset)
        state = process_state()
        with self._lock, using_threads(cpu_threads(num_threads)):
            encoded = self._encode_dataset(dataset)
            batches = self._cut(encoded)
            if state.num_processes > 1:
                check_same({"rows": rows_digest(encoded), "weights": model_digest(self.model)}, state)
            if batches:
                self._calibrate_everywhere(state)
            mine = [batches[index] for index in deal(batches, state.num_processes)[state.process_index]]
            with progress_bar(mine, self._levels, show=state.is_main_process) as advance:
                scores = self._run(encoded, mine, advance)
        confidence, loss = sum_over_processes(scores, state)
        columns = self._columns(encoded, confidence, loss)
        if state.is_main_process:
            _report_skipped(columns[f"{self.config.prefix}_status"])
        return _with_columns(dataset, columns, score_features(self.config.prefix, self.config.keep_levels))

    def estimate(self, dataset: Dataset | DatasetDict, num_threads: int | None = None) -> RunEstimate:
        """
        Foretell what `score(dataset)` will cost. Rows are encoded; of the model only a short probe is run.

        Returns:
            [`RunEstimate`]: Rows, tokens, skipped rows by reason, forward passes, seconds and memory of this process.
        """
        parts = dataset.values() if isinstance(dataset, DatasetDict) else [dataset]
        state = process_state()
        with self._lock, using_threads(cpu_threads(num_threads)), _scoring_mode(self.model):
            encoded = [row for part in parts for row in self._encode_dataset(part)]
            return estimate_run(
                self._task, self._masker, encoded, self._cut(encoded), self._levels, state.num_processes
            )

    @property
    def _levels(self) -> int:
        return len(self.config.mask_schedule or self.config.calibration_shares)

    @property
    def _tokens_per_batch(self) -> int:
        if self.config.tokens_per_batch != "auto":
            return self.config.tokens_per_batch
        return _AUTO_TOKENS["cpu" if self.model.device.type == "cpu" else "accelerator"]

    def _calibrate_everywhere(self, state: PartialState) -> None:
        """Calibrate on the main process alone: another device or thread count could round to another schedule."""
        schedule, error = None, None
        try:
            schedule = self.calibrate() if state.is_main_process else None
        except ValueError as problem:  # the others must not wait for a schedule that will never come
            error = str(problem)
        schedule, error = from_main_process((schedule, error), state)
        if error is not None:
            raise ValueError(error)
        if self.config.schedule is None:
            self._calibrated = self._masker.weights_state(), schedule

    def _encode_dataset(self, dataset: Dataset) -> list[EncodedRow]:
        _require_dataset(dataset)
        batches = dataset.with_format(None).iter(batch_size=_ROWS_PER_ENCODING)  # all columns, as plain Python
        return [row for batch in batches for row in self._task.encode(self._task.encoder.rows_of(batch)[0])]

    def _cut(self, encoded: Sequence[EncodedRow]) -> list[MicroBatch]:
        return cut_batches(np.array([row.length for row in encoded], dtype=np.int64), self._tokens_per_batch)

    def _run(
        self,
        encoded: Sequence[EncodedRow],
        batches: Sequence[MicroBatch],
        on_batch: Callable[[MicroBatch], None] = lambda _: None,
    ) -> np.ndarray:
        """
        The one engine: `map` hands over its batch, `score` its share of the dataset.

        Returns:
            `np.ndarray`: Confidence and loss, of shape `(2, levels, rows)`.
        """
        if not batches:  # nothing but skipped rows: leave the model alone
            return np.zeros((2, self._levels, len(encoded)), dtype=np.float32)
        schedule = self.calibrate()
        with self._masker.session(schedule) as session, _scoring_mode(self.model):
            return np.stack(run_levels(self._task, session, schedule, encoded, batches, on_batch))

    def _run_row(self, encoded: Sequence[EncodedRow], batches: Sequence[MicroBatch]) -> np.ndarray:
        """A row on its own, at all held levels in one pass once that has given what one pass a level gives."""
        if self._side_by_side is None and not self._masker.fits_side_by_side:
            self._side_by_side = False
        if self._side_by_side is False:
            return self._run(encoded, batches)
        with self._masker.side_by_side() as levels, _scoring_mode(self.model):
            scores = np.stack(run_row(self._task, levels, encoded[0]))
        if self._side_by_side is None:  # a model may mix the rows of a batch in a way that layers do not show
            expected = self._run(encoded, batches)
            self._side_by_side = np.allclose(scores, expected, rtol=0.05, atol=0.05, equal_nan=True)
            return scores if self._side_by_side else expected
        return scores

    def _hold_levels(self) -> bool:
        """Keep the weights of all levels for the rows to come, and tell whether there is room."""
        schedule = self.calibrate()
        fits = self._masker.fits_in_memory(schedule)
        if fits:
            self._masker.hold_levels(schedule)
        elif not self._warned_of_memory:
            self._warned_of_memory = True
            logger.warning(
                "scoring row by row masks the model anew for every row: the masked weights of %d levels do not fit "
                "into a quarter of the free memory. Pass batched=True to dataset.map.",
                len(schedule),
            )
        return fits

    def _columns(self, encoded: Sequence[EncodedRow], confidence: np.ndarray, loss: np.ndarray) -> dict[str, Any]:
        return build_columns(
            [row.status for row in encoded],
            np.array([row.target_tokens for row in encoded], dtype=np.int64),
            confidence,
            loss,
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


def _only_saved(model_kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in model_kwargs.items() if key in _SAVED_KWARGS}


def _is_forked() -> bool:
    return os.getpid() != _IMPORTED_IN


def _require_dataset(dataset: Any) -> None:
    if isinstance(dataset, Dataset):
        return
    advice = (
        "Score a stream with stream.map(scorer, batched=True)."
        if isinstance(dataset, IterableDataset | IterableDatasetDict)
        else "Make one with Dataset.from_list or load_dataset."
    )
    raise TypeError(f"score needs a datasets.Dataset or DatasetDict, got {type(dataset).__name__}. {advice}")


def _report_skipped(statuses: Sequence[str]) -> None:
    counts = Counter(statuses)
    skipped = {status: count for status, count in sorted(counts.items()) if status not in SCORED_STATUSES}
    if skipped:
        logger.warning("%d of %d rows have no score: %s", sum(skipped.values()), len(statuses), skipped)
    if counts[TRUNCATED]:
        logger.warning("%d of %d rows were cut to max_length", counts[TRUNCATED], len(statuses))


def _with_columns(dataset: Dataset, columns: dict[str, Any], features: Features) -> Dataset:
    dataset = dataset.remove_columns([name for name in columns if name in dataset.column_names])
    if len(dataset) == 0:  # `concatenate_datasets` would leave it, and with it its columns, out
        features = Features({**dataset.features, **features})
        return Dataset.from_dict({name: [] for name in features}, features=features, split=dataset.split)
    scores = Dataset.from_dict(columns, features=features)
    scored = concatenate_datasets([dataset.with_format(None), scores], axis=1)
    shown = dataset.format  # as `map` does, which keeps the format and shows what is new
    names = None if shown["columns"] == dataset.column_names else [*shown["columns"], *columns]
    return scored.with_format(shown["type"], names, shown["output_all_columns"], **shown["format_kwargs"])
