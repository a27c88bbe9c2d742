"""Questions to measure a model by: multiple choice, and sums whose answer is a number."""

from __future__ import annotations

import re
import reprlib
from typing import Any


Question = tuple[str, list[str], int]  # with its choices, and the place of the right one

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")

_CHOICE = re.compile(r"Answer\d+: (.*?)(?=\s+Answer\d+:|\n\n|$)", re.DOTALL)
_ANSWER = re.compile(rf"####\s*({NUMBER.pattern})\s*$")


def read_question(row: dict[str, Any]) -> Question:
    """
    Read a multiple-choice question.

    Args:
        row (`dict[str, Any]`):
            With the columns `question`, `choices` and `answer` (the place of the right choice, from 0), or with
            `instruction` and `answer` as LLM-Adapters writes them, all in one text.

    Returns:
        `Question`: Question, choices, and the place of the right one.

    Raises:
        ValueError: If the row is no such question, or has no right answer among its choices.
    """
    try:
        if "choices" in row:
            question, choices, right = row["question"], list(row["choices"]), int(row["answer"])
        else:
            head, _, rest = row["instruction"].partition("\n\n")
            question, choices = head.partition(": ")[2] or head, [text.strip() for text in _CHOICE.findall(rest)]
            right = int(row["answer"].removeprefix("answer")) - 1
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "a question must have the columns question, choices and answer (the place of the right choice, from 0), "
            f"or instruction and answer as LLM-Adapters has them, got {reprlib.repr(row)}."
        ) from error
    if not 0 <= right < len(choices):
        raise ValueError(f"a question needs a right answer among its choices, got {row['answer']!r} for {choices}.")
    return question, choices, right


def read_answer(row: dict[str, Any]) -> float:
    """Read the number after '####' in the column `answer`, as GSM8K writes it."""
    found = _ANSWER.search(str(row.get("answer")))
    if not found:
        raise ValueError(f"the column answer must end in '####' and a number, got {reprlib.repr(row)}.")
    return as_number(found[1])


def as_number(text: str) -> float:
    """Turn '1,234.50' into a number."""
    return float(text.replace(",", ""))
