"""Measuring a trained model: the loss of held-out rows, and right answers to questions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence

from hf_dlc.pipeline.options import DataArguments
from hf_dlc.pipeline.sources import read_dataset, split_of
from hf_dlc.scorer.scorer import DLCScorer
from hf_dlc.scores.columns import NAN_SCORE
from hf_dlc.utils.content import content_digests

from .arms import METRICS
from .options import FinetuneArguments, StudyArguments, options_of
from .questions import NUMBER, Question, as_number, read_answer, read_question
from .training import padder


if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


logger = logging.getLogger(__name__)

_PROMPTS_AT_ONCE = 16


def read_held_out(options: FinetuneArguments, training: Dataset) -> dict[str, Dataset]:
    """
    Read the rows to measure by, and leave out those that are trained on.

    Args:
        options (`FinetuneArguments`):
            Its `eval_dataset`, `choices` and `answers` are read where they are given.
        training ([`~datasets.Dataset`]):
            The rows that are trained on.

    Returns:
        `dict[str, Dataset]`: Rows by the name of their option.
    """
    found = {}
    for name in ("eval_dataset", "choices", "answers"):
        if file := getattr(options, name):
            rows = unseen(read_beside(options, file), training, name)
            found[name] = rows.select(range(min(options.eval_rows or len(rows), len(rows))))
    return found


def read_beside(options: FinetuneArguments | StudyArguments, dataset: str) -> Dataset:
    """Read rows that stand beside the training rows; a slice of these says nothing of them."""
    split = split_of(dataset, options.split)
    return read_dataset(options_of(DataArguments, options, dataset=dataset, split=split, max_rows=None))


def unseen(rows: Dataset, training: Dataset, name: str) -> Dataset:
    """Leave out the rows that are trained on, as far as their columns are those of the training rows."""
    if not set(rows.column_names) <= set(training.column_names):
        return rows
    trained = set(content_digests(training, rows.column_names))
    places = [place for place, one in enumerate(content_digests(rows, rows.column_names)) if one not in trained]
    if not places:
        raise ValueError(f"{name} must have rows that are not trained on, got {len(rows)} that are.")
    if len(places) < len(rows):
        logger.info("%s: %d of %d rows are trained on and left out", name, len(rows) - len(places), len(rows))
    return rows.select(places)


def make_judge(scorer: DLCScorer, model: PeftModel | None = None) -> DLCScorer:
    """
    Make a scorer without masking: the loss that it writes is the mean over the target tokens of a row.

    Args:
        scorer ([`~hf_dlc.DLCScorer`]):
            Holds the model and the tokenizer.
        model ([`~peft.PeftModel`], *optional*):
            A trained one. It is judged as it is used, and several times as fast: as a copy with the adapters in its
            weights. By default, the scorer's own model.

    Returns:
        [`~hf_dlc.DLCScorer`]
    """
    read = scorer.model if model is None else deepcopy(model).merge_and_unload()
    return DLCScorer(read, scorer.processor, replace(scorer.config, schedule="0", prefix="dlc", scores=("loss",)))


def measure(judge: DLCScorer, held_out: dict[str, Dataset]) -> dict[str, float]:
    """Measure by all that [`read_held_out`] has read."""
    found: dict[str, float] = {}
    if "eval_dataset" in held_out:
        found |= held_out_losses(judge, held_out["eval_dataset"])
    if "choices" in held_out:
        found["choices"] = float(right_choices(judge, held_out["choices"]).mean())
    if "answers" in held_out:
        found["answers"] = float(right_answers(judge, held_out["answers"]).mean())
    return found


def held_out_losses(judge: DLCScorer, rows: Dataset) -> dict[str, float]:
    """Mean loss over rows, of which the score is made, and over tokens, where long responses count for more."""
    scored = judge.score(rows, num_threads=torch.get_num_threads())
    losses, tokens, statuses = (np.array(scored[f"dlc_{name}"][:]) for name in ("loss", "tokens", "status"))
    if broken := int((statuses == NAN_SCORE).sum()):
        raise ValueError(_no_loss(broken, len(rows)))
    is_scored = tokens > 0
    if not is_scored.any():
        raise ValueError(f"a held-out row must have a target token, got none in {len(rows)} rows.")
    return mean_losses(losses[is_scored], tokens[is_scored])


def mean_losses(losses: np.ndarray, tokens: np.ndarray) -> dict[str, float]:
    """Mean over rows of their losses, and mean over tokens, from the loss and the target tokens of each row."""
    if broken := int((~np.isfinite(losses)).sum()):
        raise ValueError(_no_loss(broken, len(losses)))
    return dict(zip(METRICS, (float(losses.mean()), float(np.average(losses, weights=tokens))), strict=True))


def _no_loss(broken: int, count: int) -> str:
    return f"{broken} of {count} held-out rows have no finite loss: lower the learning_rate."


def right_choices(judge: DLCScorer, rows: Dataset) -> np.ndarray:
    """
    Whether the right answer of each multiple-choice question has the highest log-likelihood a token of all.

    Where a template closes the response with an end of turn that is learned, that token counts, too.
    """
    questions = [read_question(row) for row in rows]
    scored = judge.score(as_candidates(questions), num_threads=torch.get_num_threads())
    return answered_rightly(np.array(scored["dlc_loss"][:]), questions)


def as_candidates(questions: Sequence[Question]) -> Dataset:
    """Rows of instructions, one for each choice of each question, in their order."""
    return Dataset.from_list(
        [
            {"instruction": question, "input": "", "output": choice}
            for question, choices, _ in questions
            for choice in choices
        ]
    )


def answered_rightly(losses: np.ndarray, questions: Sequence[Question]) -> np.ndarray:
    """Whether the right choice of each question has the lowest loss of all; `losses` are those of the candidates."""
    count = sum(len(choices) for _, choices, _ in questions)
    if missing := int(np.isnan(losses).sum()) + count - len(losses):
        raise ValueError(f"{missing} of {count} choices have no loss: they are empty or too long.")
    parts = np.split(losses, np.cumsum([len(choices) for _, choices, _ in questions])[:-1])
    return np.array([part.argmin() == right for part, (_, _, right) in zip(parts, questions, strict=True)])


def right_answers(judge: DLCScorer, rows: Dataset, max_tokens: int = 256) -> np.ndarray:
    """Whether the last number that the model writes to each question is the one after '####'."""
    expected = [read_answer(row) for row in rows]
    read = list(judge.tokenize(rows))
    prompts = [row["input_ids"][: next(i for i, label in enumerate(row["labels"]) if label != -100)] for row in read]
    right = np.zeros(len(read), dtype=bool)
    by_length = np.argsort([len(prompt) for prompt in prompts], kind="stable")
    for start in range(0, len(by_length), _PROMPTS_AT_ONCE):
        places = by_length[start : start + _PROMPTS_AT_ONCE]
        texts = responses(judge, [prompts[place] for place in places], max_tokens)
        for place, text in zip(places, texts, strict=True):
            numbers = NUMBER.findall(text)
            right[place] = bool(numbers) and as_number(numbers[-1]) == expected[read[place]["row"]]
    return right


@torch.inference_mode()
def responses(judge: DLCScorer, prompts: Sequence[list[int]], max_tokens: int) -> list[str]:
    """What the model writes to each prompt, without sampling."""
    tokenizer, model = padder(judge), judge.model.eval()
    tensors = [torch.tensor(prompt) for prompt in prompts]
    ids = pad_sequence(tensors, batch_first=True, padding_value=tokenizer.pad_token_id, padding_side="left")
    mask = pad_sequence([torch.ones_like(one) for one in tensors], batch_first=True, padding_side="left")
    written = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=max_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )
    return [tokenizer.decode(row, skip_special_tokens=True) for row in written[:, ids.shape[1] :]]


def harness_accuracies(model: PreTrainedModel, tokenizer: Any, tasks: Sequence[str]) -> dict[str, float]:
    """Accuracy in tasks of lm-evaluation-harness, with their own prompts and numbers of examples."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    results = simple_evaluate(model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size="auto"), tasks=list(tasks))[
        "results"
    ]
    if missing := [task for task in tasks if "acc,none" not in results.get(task, {})]:
        raise ValueError(f"tasks must measure accuracy (acc), got {', '.join(missing)}.")
    return {task: results[task]["acc,none"] for task in tasks}  # without the parts of a group such as mmlu
