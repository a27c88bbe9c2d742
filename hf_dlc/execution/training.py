"""
Cost of one epoch of LoRA training, measured by a few real steps: what the cost of scoring is held against.

The steps are done on a copy of the model that shares nothing with it but the numbers of its weights, which are frozen.
So there is nothing to put back, however a step ends.
"""

from __future__ import annotations

import copy
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from hf_dlc.tasks.base import EncodedRow, Task, Trainable
from hf_dlc.tasks.facts import facts_of
from hf_dlc.utils.memory import free_memory

from .lora import LORA, import_peft


if TYPE_CHECKING:
    from peft import PeftModel


logger = logging.getLogger(__name__)

_MOST_SECONDS = 10.0  # of measuring; one step is done in any case
_SAMPLES = (1 / 2, 1 / 6, 5 / 6)  # places in the work at which a step is measured, the middle first
_ACTIVATIONS = 3  # tensors that a layer keeps for the backward pass, at least


class TrainingCost(NamedTuple):
    """Seconds of an epoch, or the reason why they are not known."""

    seconds: float | None = None
    why_unknown: str | None = None


def measure_training(task: Task, rows: Sequence[EncodedRow], num_processes: int = 1) -> TrainingCost:
    """
    Measure what one epoch of LoRA training on all rows that can be scored costs.

    Rows of similar length go into a step together, as `group_by_length` of `Trainer` has it.

    Args:
        task ([`Task`]):
            Its model is trained, as a copy.
        rows (`Sequence[EncodedRow]`):
            All rows.
        num_processes (`int`, *optional*, defaults to 1):
            Processes that would train together.

    Returns:
        [`TrainingCost`]: Seconds, or why there are none: it never raises for what goes wrong in training.
    """
    trainable = task
    if not isinstance(trainable, Trainable):
        return TrainingCost(why_unknown="the task does not say how its model is trained")
    if trainable.why_untrainable:
        return TrainingCost(why_unknown=trainable.why_untrainable)
    lengths = facts_of(rows).lengths
    order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
    if not len(order):
        return TrainingCost(why_unknown="no row can be trained on")
    try:
        import_peft()
    except ImportError as error:
        return TrainingCost(why_unknown=str(error).rstrip("."))
    try:
        tokens = _padded_tokens(lengths[order])
        seconds = tokens.sum() * _seconds_per_token(trainable, rows, order, tokens)
    except Exception as error:  # whatever it is: the price of something else must not end a run
        return TrainingCost(why_unknown=f"a step of training failed: {type(error).__name__}: {error}")
    return TrainingCost(float(seconds) / num_processes)


def _padded_tokens(lengths: np.ndarray) -> np.ndarray:
    """Tokens of each step, `(steps,)`, of rows of these lengths, the longest first."""
    starts = np.arange(0, len(lengths), LORA.batch_size)
    return lengths[starts] * np.minimum(LORA.batch_size, len(lengths) - starts)


def _seconds_per_token(
    trainable: Trainable, rows: Sequence[EncodedRow], order: np.ndarray, tokens: np.ndarray
) -> float:
    """Mean over some of the steps, as many as there is time for; `order` has the places of the longest rows first."""
    ends, sample = np.cumsum(tokens), []
    for part in _SAMPLES:
        start = LORA.batch_size * int(np.searchsorted(ends, ends[-1] * part))
        sample.append([rows[place] for place in order[start : start + LORA.batch_size].tolist()])
    most_rows = _rows_that_fit(trainable.model, max(row.length for rows in sample for row in rows))
    begun, rates = time.perf_counter(), []
    with _trainer(trainable) as (step, _):
        first = step(sample[0][:1])  # it warms up as well
        most_rows = min(most_rows, max(1, int(_MOST_SECONDS / first)))
        if most_rows < LORA.batch_size:
            logger.info(
                "training is measured by steps of %d row(s), since those of %d take too long or too much memory: "
                "its cost is rather too high",
                most_rows,
                LORA.batch_size,
            )
        for rows in sample:
            part = rows[:most_rows]
            rates.append(step(part) / (len(part) * part[0].length))  # the first is the longest
            if time.perf_counter() - begun > _MOST_SECONDS:
                break
    return float(np.mean(rates))


def _rows_that_fit(model: nn.Module, length: int) -> int:
    """Rows of a step that leave half of the free memory."""
    parameter = next(model.parameters())
    widths = sum(sum(weight.shape) for weight in model.parameters() if weight.dim() == 2)
    free = free_memory(parameter.device)
    needed = length * widths * _ACTIVATIONS * parameter.element_size()
    if free and needed > free / 2:
        raise MemoryError(f"a row of {length} tokens may need {needed / 2**30:.1f} GiB of {free / 2**30:.1f} free")
    return LORA.batch_size if not free else max(1, int(free / 2 / needed))


def train_adapters(task: Task, rows: Sequence[EncodedRow], epochs: int, seed: int) -> PeftModel:
    """
    Train low-rank adapters on rows, with a copy of the model that shares its weights.

    Args:
        task ([`Task`]):
            Its model is trained, as a copy.
        rows (`Sequence[EncodedRow]`):
            Rows that can be scored.
        epochs (`int`):
            Passes over them.
        seed (`int`):
            Seed of the adapters and of the order of the rows.

    Returns:
        [`~peft.PeftModel`]: The copy with its adapters.

    Raises:
        ValueError: If the model cannot be trained, or if there are no rows.
    """
    trainable = task
    if not isinstance(trainable, Trainable) or trainable.why_untrainable:
        raise ValueError(getattr(trainable, "why_untrainable", None) or "the task does not say how it is trained")
    if not rows:
        raise ValueError("adapters are trained on rows that can be scored, got none.")
    order = np.random.RandomState(seed)
    size = min(LORA.batch_size, _rows_that_fit(trainable.model, max(row.length for row in rows)))
    if size < LORA.batch_size:
        logger.info("adapters are trained by steps of %d row(s), since those of %d may not fit", size, LORA.batch_size)
    with _trainer(trainable, seed) as (step, model):
        for _ in range(epochs):
            places = order.permutation(len(rows))
            for start in range(0, len(places), size):
                step([rows[place] for place in places[start : start + size]])
    return model.eval()


@contextmanager
def _trainer(trainable: Trainable, seed: int | None = None) -> Iterator[tuple[Any, PeftModel]]:
    """Yield a function that does one step of training on some rows and returns its seconds, and what it trains."""
    device = next(trainable.model.parameters()).device
    is_half = trainable.model.dtype.itemsize < 4
    with ExitStack() as stack:
        # Adapters and dropout draw from the random numbers that a user may count on.
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if seed is not None:
            torch.manual_seed(seed)
        model = _with_adapters(frozen_copy(trainable.model), trainable.adapter_task)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=LORA.learning_rate)

        def step(rows: Sequence[EncodedRow]) -> float:
            batch = trainable.training_batch(list(trainable.feed(rows)))
            start = time.perf_counter()
            # Begun anew at each step: autocast keeps its casts of the adapters until it ends, however they change.
            with torch.autocast(device.type, trainable.model.dtype, enabled=is_half):
                loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if device.type != "cpu":
                torch.accelerator.synchronize()
            return time.perf_counter() - start

        yield step, model


def frozen_copy(model: nn.Module) -> nn.Module:
    """
    A copy with parameters of its own, which are frozen and whose numbers are in the same memory as those of the model.

    Args:
        model (`torch.nn.Module`):
            The model; nothing of it is changed, now or by what is done with the copy.

    Returns:
        `torch.nn.Module`: The copy. Its buffers are its own, since some modules write into them as they train.
    """
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False) for parameter in model.parameters()
    }
    return copy.deepcopy(model, memo)


def _with_adapters(model: nn.Module, adapter_task: str | None) -> PeftModel:
    peft = import_peft()
    config = peft.LoraConfig(
        task_type=adapter_task,
        r=LORA.rank,
        lora_alpha=LORA.alpha,
        lora_dropout=LORA.dropout,
        target_modules="all-linear",
    )
    with warnings.catch_warnings():  # of what peft does to transformers, which nobody here can change
        warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing`", FutureWarning)
        return peft.get_peft_model(model, config).train()
