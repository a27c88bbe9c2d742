"""Measuring a tiny model: held-out losses, questions, numbers, and rows that measure nothing."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_dlc import DLCScorer
from hf_dlc.study import measuring
from hf_dlc.study.measuring import (
    answered_rightly,
    harness_accuracies,
    held_out_losses,
    make_judge,
    mean_losses,
    responses,
    right_answers,
    right_choices,
    unseen,
)
from hf_dlc.study.questions import read_answer, read_question
from tests.study.conftest import ROWS


def test_held_out_rows_without_a_loss_are_refused(scorer: DLCScorer) -> None:
    judge = make_judge(scorer)
    with pytest.raises(ValueError, match="got none in 2 rows"):
        held_out_losses(judge, Dataset.from_list([{**ROWS[0], "output": ""}] * 2))
    with torch.no_grad():
        judge.model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="3 of 3 held-out rows have no finite loss: lower"):
        held_out_losses(judge, Dataset.from_list(ROWS[:3]))


def test_means_over_rows_and_over_tokens() -> None:
    assert mean_losses(np.array([1.0, 4.0]), np.array([3, 1])) == {"loss per row": 2.5, "loss per token": 1.75}
    for broken in (np.nan, np.inf):
        with pytest.raises(ValueError, match="1 of 2 held-out rows have no finite loss: lower the learning_rate"):
            mean_losses(np.array([1.0, broken]), np.array([3, 1]))


def test_right_answers_have_the_lowest_loss() -> None:
    questions = [("a", ["x", "y"], 0), ("b", ["x", "y", "z"], 2), ("c", ["x", "y"], 1)]
    found = answered_rightly(np.array([1.0, 2.0, 3.0, 2.0, 1.0, 1.0, 2.0]), questions)
    assert found.tolist() == [True, True, False]
    with pytest.raises(ValueError, match="1 of 7 choices have no loss: they are empty or too long"):
        answered_rightly(np.array([1.0, 2.0, np.nan, 2.0, 1.0, 1.0, 2.0]), questions)


def test_choice_of_the_highest_likelihood_a_token(scorer: DLCScorer) -> None:
    """Not of the sum, in which a long answer would never win."""
    choices = ["fox", "Ω" * 6, "the lazy dog"]
    candidates = [{"instruction": "What?", "input": "", "output": text} for text in choices]
    scored = scorer.score(Dataset.from_list(candidates))
    means = np.array(scored["dlc_loss"][:])
    by_mean, by_sum = int(means.argmin()), int((means * scored["dlc_tokens"][:]).argmin())
    assert by_mean != by_sum
    for answer in range(3):
        rows = Dataset.from_list([{"question": "What?", "choices": choices, "answer": answer}])
        assert right_choices(make_judge(scorer), rows).tolist() == [answer == by_mean]


def test_questions_of_llm_adapters() -> None:
    row = {
        "instruction": "Please choose the correct answer to the question: Which is red?\n\nAnswer1: a fox (mostly) "
        "Answer2: the sea Answer3: 3: 4\n\nAnswer format: answer1/answer2/answer3",
        "answer": "answer3",
    }
    assert read_question(row) == ("Which is red?", ["a fox (mostly)", "the sea", "3: 4"], 2)
    with pytest.raises(ValueError, match="right answer among its choices, got 'answer4'"):
        read_question({**row, "answer": "answer4"})


@pytest.mark.parametrize(
    "row",
    [
        {"question": "2 + 2 =", "choices": ["4", "5"], "answer": "four"},
        {"question": "2 + 2 =", "choices": ["4", "5"]},
        {"question": "2 + 2 =", "choices": None, "answer": 0},
        {"instruction": "2 + 2 =", "answer": None},
        {"prompt": "2 + 2 ="},
    ],
)
def test_questions_that_are_none(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must have the columns question, choices and answer .* got \{"):
        read_question(row)


@pytest.mark.parametrize("place", [-1, 2])
def test_right_answer_must_be_a_choice(place: int) -> None:
    with pytest.raises(ValueError, match=f"among its choices, got {place}"):
        read_question({"question": "2 + 2 =", "choices": ["4", "5"], "answer": place})


def test_numbers_of_answers() -> None:
    assert read_answer({"answer": "6 - 2 = 4\n#### -1,234.50 "}) == -1234.5
    for text in (None, "4", "#### four", "#### 4 apples"):
        with pytest.raises(ValueError, match="must end in '####' and a number"):
            read_answer({"answer": text})


@pytest.mark.parametrize(
    ("written", "is_right"),
    [("First 12, then 5.", True), ("First 5, then 12.", False), ("It is 5.00", True), ("None.", False)],
)
def test_the_last_number_that_is_written_is_the_answer(
    scorer: DLCScorer, monkeypatch: pytest.MonkeyPatch, written: str, is_right: bool
) -> None:
    def generate(input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.cat([input_ids, torch.tensor([scorer.processor(written, add_special_tokens=False).input_ids])], 1)

    monkeypatch.setattr(scorer.model, "generate", generate)
    monkeypatch.setattr(scorer.processor, "decode", lambda ids, **_: written if len(ids) else "")  # a tiny vocabulary
    rows = Dataset.from_list([{"question": "2 + 3?", "answer": "2 + 3 = 5\n#### 5"}])
    assert right_answers(scorer, rows).tolist() == [is_right]


def test_padding_changes_no_response(scorer: DLCScorer) -> None:
    """Of prompts of unlike lengths, which are continued together."""
    prompts = [row["input_ids"] for row in scorer.tokenize(Dataset.from_list(ROWS[:5]))]
    assert len({len(prompt) for prompt in prompts}) > 1
    together = responses(scorer, prompts, 6)
    assert len(set(together)) > 1
    assert together == [responses(scorer, [prompt], 6)[0] for prompt in prompts]


def test_answers_keep_the_order_of_the_rows(scorer: DLCScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though they are written to the shortest questions first, sixteen at a time."""
    questions = ["one " * int(count) for count in np.random.default_rng(0).permutation(40)]
    rows = Dataset.from_list([{"question": question, "answer": "#### 1"} for question in questions])
    lengths = [row["labels"].count(-100) for row in scorer.tokenize(rows)]
    assert len(set(lengths)) > 16
    is_right = [number % 3 == 0 for number in range(40)]
    answers = [f"#### {length if right else -1}" for length, right in zip(lengths, is_right, strict=True)]
    asked: list[int] = []

    def write(_: DLCScorer, prompts: list[list[int]], max_tokens: int) -> list[str]:
        asked.append(len(prompts))
        return [str(len(prompt)) for prompt in prompts]

    monkeypatch.setattr(measuring, "responses", write)
    assert right_answers(scorer, rows.remove_columns("answer").add_column("answer", answers)).tolist() == is_right
    assert asked == [16, 16, 8]


def test_rows_that_are_trained_on_measure_nothing(caplog: pytest.LogCaptureFixture) -> None:
    rows, trained = Dataset.from_list(ROWS[:6]), Dataset.from_list(ROWS[4:8]).add_column("dlc_loss", [1.0] * 4)
    with caplog.at_level("INFO"):
        assert unseen(rows, trained, "choices")[:] == rows.select(range(4))[:]
    assert "choices: 2 of 6 rows are trained on" in caplog.text
    questions = Dataset.from_list([{"question": "2 + 2 =", "choices": ["4", "5"], "answer": 0}])
    assert unseen(questions, trained, "choices") is questions  # other columns
    with pytest.raises(ValueError, match="eval_dataset must have rows that are not trained on, got 4"):
        unseen(trained, trained, "eval_dataset")


def test_accuracies_are_those_of_the_harness(scorer: DLCScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in: the harness itself is large, and needs the Hub for most tasks."""
    seen: dict[str, Any] = {}
    results = {"mmlu": {"acc,none": 0.25}, "mmlu_law": {"acc,none": 0.5}, "wikitext": {"word_perplexity,none": 9.0}}

    def simple_evaluate(model: Any, tasks: list[str]) -> dict[str, Any]:
        return {"results": {name: value for name, value in results.items() if name.startswith(tuple(tasks))}}

    def language_model(**options: Any) -> dict[str, Any]:
        seen.update(options)
        return options

    package, models = ModuleType("lm_eval"), ModuleType("lm_eval.models.huggingface")
    package.simple_evaluate, models.HFLM = simple_evaluate, language_model
    for name, module in {"lm_eval": package, "lm_eval.models": ModuleType("x"), models.__name__: models}.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert harness_accuracies(scorer.model, scorer.processor, ["mmlu"]) == {"mmlu": 0.25}
    assert seen["pretrained"] is scorer.model
    assert seen["tokenizer"] is scorer.processor
    with pytest.raises(ValueError, match=r"must measure accuracy \(acc\), got wikitext"):
        harness_accuracies(scorer.model, scorer.processor, ["mmlu", "wikitext"])
