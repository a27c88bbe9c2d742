"""
Rows of a dataset, read by their layout: which text there is, and which of it is learned from.

| layout | read as |
|---|---|
| `tokenized` | [`TokenRow`] |
| `prompt_completion` | [`PlainText`], of messages: [`Conversation`] |
| `messages`, `sharegpt` | [`Conversation`] |
| `alpaca`, `question_answer` | [`Instruction`] |
| `text` | [`PlainText`] |

What can be read without guessing is read. Messages may be JSON text or a dict of lists, and a single message may stand
in the place of a list. Numbers and UTF-8 bytes may stand in the place of text. A row that cannot be used becomes a
[`Skipped`], which says why.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from hf_dlc.scores.columns import EMPTY_RESPONSE, INVALID_ROW, NO_TARGET

from .layouts import Reading
from .messages import messages_of, text_or_messages, turns_of
from .rows import Conversation, Instruction, PlainText, Row, Skipped, TokenRow, Turn
from .values import (
    UnusableError,
    history_of,
    integers_of,
    mask_of,
    response_of,
    template_kwargs_of,
    text_of,
    text_or_empty,
    tools_of,
)


T = TypeVar("T")

# Columns in which the answer to messages may stand.
_ANSWERS_ELSEWHERE = frozenset(
    {"chosen", "chosen_response", "completion", "response", "answer", "output", "target", "reply", "ground_truth"}
)
_NO_INPUT = re.compile(r"\W*no[\s_]*input\W*", re.IGNORECASE)


@dataclass(frozen=True)
class _Cells:
    """The values of one row by what they are read as."""

    row: Mapping[str, Any]
    reading: Reading

    def read(self, part: str, reader: Callable[[Any], T]) -> T:
        """The value of a part, read by `reader`, which gets `None` where the part has no column."""
        column = self.reading.columns.get(part)
        try:
            return reader(None if column is None else self.row[column])
        except UnusableError as unusable:
            raise UnusableError(unusable.reason, f"column {column!r}: {unusable.why}") from None


def parse_row(row: Mapping[str, Any], reading: Reading) -> Row:
    """
    Read one row.

    Args:
        row (`Mapping[str, Any]`):
            The row, with all columns of its dataset. Values may be Python objects, NumPy arrays or tensors.
        reading ([`Reading`]):
            What stands in which column.

    Returns:
        [`Conversation`], [`Instruction`], [`PlainText`], [`TokenRow`] or [`Skipped`]: what the row says. Half of a
        surrogate pair, which no tokenizer takes, is read as U+FFFD.

    Example:
    ```python
    >>> from hf_dlc.tasks.text.layouts import read_columns

    >>> reading = read_columns(["prompt", "completion"])
    >>> parse_row({"prompt": "2 + 3 =", "completion": " 5"}, reading)
    PlainText(prompt='2 + 3 =', completion=' 5')
    >>> parse_row({"prompt": "2 + 3 =", "completion": None}, reading).why
    "column 'completion': there is no text"
    ```
    """
    try:
        return _READERS[reading.layout](_Cells(row, reading))
    except UnusableError as unusable:
        return Skipped(unusable.reason, unusable.why)


def _read_tokens(cells: _Cells) -> TokenRow:
    ids = cells.read("input_ids", integers_of)
    masks = {name: cells.read(name, mask_of) for name in ("attention_mask", "completion_mask", "assistant_masks")}
    labels = cells.read("labels", integers_of) if "labels" in cells.reading.columns else _masked(ids, masks)
    keep = [1] * len(ids) if masks["attention_mask"] is None else masks["attention_mask"]
    if len(labels) != len(ids) or len(keep) != len(ids):
        raise UnusableError(INVALID_ROW, f"labels and masks must be as long as the {len(ids)} input_ids")
    if any(label not in (-100, token) for label, token in zip(labels, ids, strict=True)):
        # Learning another token than the one that is there has no probability here.
        raise UnusableError(INVALID_ROW, "each label must be -100 or the token in its place")
    return TokenRow(
        [token for token, kept in zip(ids, keep, strict=True) if kept],
        [label for label, kept in zip(labels, keep, strict=True) if kept],
    )


def _masked(ids: list[int], masks: Mapping[str, list[int] | None]) -> list[int]:
    """Labels of a row that has none: its masks, or every token."""
    chosen = {name: mask for name, mask in masks.items() if name != "attention_mask" and mask is not None}
    for name, mask in chosen.items():
        if len(mask) != len(ids):
            raise UnusableError(INVALID_ROW, f"column {name!r}: must be as long as the {len(ids)} input_ids")
    return [token if all(mask[i] for mask in chosen.values()) else -100 for i, token in enumerate(ids)]


def _read_prompt_completion(cells: _Cells) -> PlainText | Conversation:
    if not any(isinstance(cells.read(part, text_or_messages), list) for part in ("prompt", "completion")):
        completion = cells.read("completion", response_of)
        return PlainText(cells.read("prompt", text_of), completion)
    prompt, completion = cells.read("prompt", _prompt_turns), cells.read("completion", _completion_turns)
    prompt = [*_system_turn(cells, prompt), *prompt]
    return Conversation((*prompt, *completion), len(prompt), *_chat_options(cells))


def _prompt_turns(value: Any) -> list[Turn]:
    turns = turns_of(text_or_messages(value), "user")
    if not turns:
        raise UnusableError(INVALID_ROW, "there is no message")
    return turns


def _completion_turns(value: Any) -> list[Turn]:
    turns = turns_of(text_or_messages(value), "assistant")
    if not any(turn.content.strip() or turn.tool_calls for turn in turns):
        raise UnusableError(EMPTY_RESPONSE, "there is no text")
    learned = {turn.learned for turn in turns if turn.role == "assistant"}
    if True not in learned:
        raise UnusableError(NO_TARGET, f"no turn is learned from; {_roles_of(turns)}")
    if False in learned:  # a completion is learned as a whole; turns are told apart in `messages`
        raise UnusableError(INVALID_ROW, "all turns of a completion are learned from, and some are marked otherwise")
    if turns[0].role in ("system", "user"):  # it would be learned from as well
        raise UnusableError(INVALID_ROW, f"it begins with the {turns[0].role}: map whole conversations to 'messages'")
    return turns


def _read_messages(cells: _Cells) -> Conversation:
    turns = cells.read("messages", lambda value: turns_of(messages_of(value), None))
    answers = _ANSWERS_ELSEWHERE.intersection(cells.reading.unread)
    if answers and turns and turns[-1].role != "assistant":  # earlier turns would be taken for what the row teaches
        raise UnusableError(
            INVALID_ROW,
            f"the last message is not the assistant's, and the answer seems to stand in {sorted(answers)}: map the "
            "messages to 'prompt' and one of these to 'completion' with `columns=`",
        )
    cells.read("messages", lambda _: _check_learned(turns))
    return Conversation((*_system_turn(cells, turns), *turns), None, *_chat_options(cells))


def _check_learned(turns: list[Turn]) -> None:
    learned = [turn for turn in turns if turn.learned]
    if not learned:
        raise UnusableError(NO_TARGET, f"no turn is learned from; {_roles_of(turns)}")
    if not any(turn.content.strip() or turn.tool_calls for turn in learned):
        raise UnusableError(EMPTY_RESPONSE, "no assistant turn has any text")


def _roles_of(turns: list[Turn]) -> str:
    return f"the roles are {sorted({turn.role for turn in turns})}, of which 'assistant' is learned"


def _system_turn(cells: _Cells, turns: list[Turn]) -> list[Turn]:
    """The system prompt of a column of its own, unless the messages bring one."""
    system = cells.read("system", text_or_empty)
    return [Turn("system", system)] if system and turns[0].role != "system" else []


def _read_instruction(cells: _Cells) -> Instruction:
    response = cells.read("response", response_of)
    asked = cells.read("instruction", text_of)
    context = cells.read("input", text_or_empty)
    context = "" if _NO_INPUT.fullmatch(context) else context
    system, history = cells.read("system", text_or_empty), cells.read("history", history_of)
    return Instruction(asked, context, response, system, history, *_chat_options(cells))


def _read_text(cells: _Cells) -> PlainText:
    return PlainText("", cells.read("text", response_of))


def _chat_options(cells: _Cells) -> tuple[list | None, dict[str, Any]]:
    """The `tools` and `chat_template_kwargs` columns."""
    return cells.read("tools", tools_of), cells.read("chat_template_kwargs", template_kwargs_of)


_READERS: dict[str, Callable[[_Cells], Row]] = {
    "tokenized": _read_tokens,
    "prompt_completion": _read_prompt_completion,
    "messages": _read_messages,
    "sharegpt": _read_messages,
    "alpaca": _read_instruction,
    "question_answer": _read_instruction,
    "text": _read_text,
}
