"""
A row of a known layout, read into turns: which text there is, and which of it is learned from.

| layout | read as |
|---|---|
| `tokenized` | [`TokenRow`] |
| `prompt_completion` | [`PlainText`], of messages: [`Conversation`] |
| `messages`, `sharegpt` | [`Conversation`] |
| `alpaca`, `question_answer` | [`Instruction`] |
| `text` | [`PlainText`] |

What can be read without guessing is read: messages as JSON text or as a dict of lists, a single message in the place
of a list, numbers and UTF-8 bytes in the place of text. A row that cannot be used becomes a [`Skipped`], which says
why.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hf_dlc.scores.columns import EMPTY_RESPONSE, INVALID_ROW, NO_TARGET

from .layouts import Reading


T = TypeVar("T")

# Roles as other sets write them, in small letters. What stands in neither table is a matter of the chat template.
_ROLES = {
    "system": "system",
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "chatbot", "model", "ai", "bing", "bard"), "assistant"),
    **dict.fromkeys(("tool", "observation", "tool_response", "tool_result", "function_response"), "tool"),
}
_CALL_ROLES = frozenset({"function_call", "function-call", "tool_call", "tool_calls", "tool_caller"})
_MARKS = ("loss_weight", "weight", "train", "training", "loss")
_TURN_KEYS = frozenset({"role", "from", "content", "value", "tool_calls", "function_call", *_MARKS})
_ROLE_KEYS, _TEXT_KEYS = {"role", "from"}, {"content", "value", "tool_calls"}
_NOTHING = ("null", "none", "nan", "")  # as text, in small letters, where a list might stand
# Columns in which the answer to messages may stand.
_ANSWERS_ELSEWHERE = frozenset(
    {"chosen", "chosen_response", "completion", "response", "answer", "output", "target", "reply", "ground_truth"}
)

_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_INPUT = re.compile(r"\W*no[\s_]*input\W*", re.IGNORECASE)
_SHOWN = 80  # characters of a value in a reason

_PREAMBLE = "Below is an instruction that describes a task"
_REQUEST = "Write a response that appropriately completes the request."
ALPACA_PROMPT = f"{_PREAMBLE}. {_REQUEST}\n\n### Instruction:\n{{instruction}}\n\n### Response:\n"
ALPACA_PROMPT_WITH_INPUT = (
    f"{_PREAMBLE}, paired with an input that provides further context. {_REQUEST}\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)


@dataclass(frozen=True)
class Turn:
    """
    One message of a conversation.

    Args:
        role (`str`):
            `"system"`, `"user"`, `"assistant"`, `"tool"`, or a role that only the chat template knows.
        content (`str`):
            What is said; `""` where a message has no content.
        learned (`bool`, *optional*, defaults to `False`):
            Whether training learns from this turn: `True` for assistant turns, unless the message itself says
            otherwise by a `loss_weight`, `weight` or `train` of 0. Such a mark can only take a turn away: other
            weights count as 1, and a user turn is never learned from.
        tool_calls (`list[dict]`, *optional*):
            Calls in the form that chat templates read.
        call_text (`str`, *optional*):
            The same calls as the text they were given in, for chat templates that do not render calls.
        extra (`dict`, *optional*):
            Whatever else the message holds (`name`, `reasoning_content`, ...), handed to the chat template.
    """

    role: str
    content: str
    learned: bool = False
    tool_calls: list[dict] | None = None
    call_text: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def message(self, renders_calls: bool = True) -> dict[str, Any]:
        r"""
        The turn as a message for a chat template.

        Args:
            renders_calls (`bool`, *optional*, defaults to `True`):
                Whether the template renders `tool_calls`; if not, they stand as JSON text in a line of their own
                behind the content: `call_text`, or else an object with `name` and `arguments`, or a list of them.

        Returns:
            `dict`: `role`, `content`, and `tool_calls` where there are any.

        Example:
        ```python
        >>> Turn("user", "Hi").message()
        {'role': 'user', 'content': 'Hi'}
        >>> call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
        >>> Turn("assistant", "So:", tool_calls=[call]).message(renders_calls=False)["content"]
        'So:\n{"name": "add", "arguments": {"a": 2}}'
        ```
        """
        if self.tool_calls and not renders_calls:
            calls = _calls_as_text(self.tool_calls) if self.call_text is None else self.call_text
            content = f"{self.content}\n{calls}" if self.content.strip() else calls
            return {"role": self.role, "content": content, **self.extra}
        calls = {"tool_calls": self.tool_calls} if self.tool_calls else {}
        return {"role": self.role, "content": self.content, **calls, **self.extra}


def _calls_as_text(tool_calls: list[dict]) -> str:
    calls = []
    for call in tool_calls:
        name, arguments = name_and_arguments(call)
        if isinstance(arguments, str):
            arguments = json_or_text(arguments)
        calls.append({"name": name, "arguments": {} if arguments is None else arguments} if name else call)
    return json.dumps(calls if len(calls) > 1 else calls[0], ensure_ascii=False, default=str)


def name_and_arguments(call: Any) -> tuple[str, Any]:
    """
    What a tool call calls, and with what.

    Args:
        call (`Any`):
            A call as it stands in `tool_calls`: its `name` and `arguments` may be under the key `function`.

    Returns:
        `tuple[str, Any]`: The name, `""` where there is none, and the arguments: a dict, or JSON text.

    Example:
    ```python
    >>> name_and_arguments({"type": "function", "function": {"name": "add", "arguments": {"a": 2}}})
    ('add', {'a': 2})
    ```
    """
    called = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(called, Mapping) or not isinstance(called.get("name"), str):
        return "", call
    return called["name"], called.get("arguments")


def json_or_text(text: str) -> Any:
    """
    The value of JSON text, or the text itself if it is none.

    Args:
        text (`str`):
            Any text.

    Returns:
        `Any`: The value.

    Example:
    ```python
    >>> json_or_text('{"a": 2}'), json_or_text("a")
    ({'a': 2}, 'a')
    ```
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # not JSON, or nested a thousand times
        return text


@dataclass(frozen=True)
class Conversation:
    """
    A row for the chat template.

    Args:
        turns (`tuple[Turn, ...]`):
            The messages in order.
        prompt_turns (`int`, *optional*):
            How many of the first turns are the prompt; everything after them is learned from, template text included.
            `None` where the learned turns are marked one by one.
        tools (`list`, *optional*):
            Tool schemas for the chat template.
        template_kwargs (`dict`, *optional*):
            Further arguments of the chat template.
    """

    turns: tuple[Turn, ...]
    prompt_turns: int | None = None
    tools: list | None = None
    template_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PlainText:
    """
    A row of raw text: `prompt` is not learned from, `completion` is. A text without a prompt has `prompt=""`.
    """

    prompt: str
    completion: str


@dataclass(frozen=True)
class Instruction:
    """
    A row of an instruction or a question with its response: one exchange for a chat template, or the Alpaca prompt.

    Args:
        instruction (`str`):
            What is asked.
        input (`str`):
            What it is asked about; `""` where there is nothing.
        response (`str`):
            The answer, which is learned from.
        system (`str`, *optional*, defaults to `""`):
            A system prompt.
        history (`tuple[tuple[str, str], ...]`, *optional*, defaults to `()`):
            Earlier questions and answers, which are a part of the prompt.
        tools (`list`, *optional*):
            Tool schemas for the chat template.
        template_kwargs (`dict`, *optional*):
            Further arguments of the chat template.
    """

    instruction: str
    input: str
    response: str
    system: str = ""
    history: tuple[tuple[str, str], ...] = ()
    tools: list | None = None
    template_kwargs: dict[str, Any] = field(default_factory=dict)

    def conversation(self) -> Conversation:
        r"""
        The row as one exchange, behind those of its history; the input follows the instruction after an empty line.

        Returns:
            [`Conversation`]: an optional system turn, earlier turns, a user turn, and the response as the completion.

        Example:
        ```python
        >>> [turn.content for turn in Instruction("Add.", "2 and 3", "5").conversation().turns]
        ['Add.\n\n2 and 3', '5']
        ```
        """
        asked = "\n\n".join(part for part in (self.instruction, self.input) if part)
        prompt = [Turn("system", self.system)] if self.system else []
        for question, answer in self.history:
            prompt += [Turn("user", question), Turn("assistant", answer)]
        prompt.append(Turn("user", asked))
        turns = (*prompt, Turn("assistant", self.response, learned=True))
        return Conversation(turns, len(prompt), self.tools, self.template_kwargs)

    def plain_text(self) -> PlainText:
        r"""
        The row in the Alpaca prompt, of which there is one wording with an input and one without.

        Returns:
            [`PlainText`]: the prompt, after the system prompt and an empty line where there is one, and the response.

        Raises:
            ValueError: If the row has a history, for which this prompt has no place.

        Example:
        ```python
        >>> Instruction("Add.", "2 and 3", "5").plain_text().prompt[-24:]
        '\n2 and 3\n\n### Response:\n'
        ```
        """
        if self.history:
            raise ValueError(
                "a row with a history of earlier turns needs a chat template, and the Alpaca prompt has no place for "
                "it. Use a tokenizer with a chat template, or leave the column out: columns={'history': 'ignore'}."
            )
        wording = ALPACA_PROMPT_WITH_INPUT if self.input else ALPACA_PROMPT
        prompt = wording.format(instruction=self.instruction, input=self.input)
        return PlainText(f"{self.system}\n\n{prompt}" if self.system else prompt, self.response)


@dataclass(frozen=True)
class TokenRow:
    """
    A row that is already tokenised: `labels` equal `input_ids`, or -100 where a token is not learned from. Tokens that
    an `attention_mask` of 0 marks as padding are left out.
    """

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Skipped:
    """
    A row that cannot be used.

    Args:
        reason (`str`):
            One of the statuses of `hf_dlc.scores.columns`.
        why (`str`, *optional*, defaults to `""`):
            The column, what stands in it, and what would be accepted.
    """

    reason: str
    why: str = field(default="", compare=False)


Row = Conversation | Instruction | PlainText | TokenRow | Skipped


class _UnusableError(Exception):
    """Leaves the reading of a row; never leaves this module."""

    def __init__(self, reason: str, why: str) -> None:
        super().__init__(why)
        self.reason, self.why = reason, why


@dataclass(frozen=True)
class _Cells:
    """The values of one row by what they are read as."""

    row: Mapping[str, Any]
    reading: Reading

    def read(self, part: str, reader: Callable[[Any], T]) -> T:
        """What `reader` makes of a value, `None` where the part has no column; its complaint names the column."""
        column = self.reading.columns.get(part)
        try:
            return reader(None if column is None else self.row[column])
        except _UnusableError as unusable:
            raise _UnusableError(unusable.reason, f"column {column!r}: {unusable.why}") from None


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
    except _UnusableError as unusable:
        return Skipped(unusable.reason, unusable.why)


# --------------------------------------------------------------------------------------------------------------------
# Layouts
# --------------------------------------------------------------------------------------------------------------------


def _read_tokens(cells: _Cells) -> TokenRow:
    ids = cells.read("input_ids", _integers)
    masks = {name: cells.read(name, _mask) for name in ("attention_mask", "completion_mask", "assistant_masks")}
    labels = cells.read("labels", _integers) if "labels" in cells.reading.columns else _masked(ids, masks)
    keep = [1] * len(ids) if masks["attention_mask"] is None else masks["attention_mask"]
    if len(labels) != len(ids) or len(keep) != len(ids):
        raise _UnusableError(INVALID_ROW, f"labels and masks must be as long as the {len(ids)} input_ids")
    if any(label not in (-100, token) for label, token in zip(labels, ids, strict=True)):
        # Learning another token than the one that is there has no probability here.
        raise _UnusableError(INVALID_ROW, "each label must be -100 or the token in its place")
    return TokenRow(
        [token for token, kept in zip(ids, keep, strict=True) if kept],
        [label for label, kept in zip(labels, keep, strict=True) if kept],
    )


def _masked(ids: list[int], masks: Mapping[str, list[int] | None]) -> list[int]:
    """Labels of a row that has none: its masks, or every token."""
    chosen = {name: mask for name, mask in masks.items() if name != "attention_mask" and mask is not None}
    for name, mask in chosen.items():
        if len(mask) != len(ids):
            raise _UnusableError(INVALID_ROW, f"column {name!r}: must be as long as the {len(ids)} input_ids")
    return [token if all(mask[i] for mask in chosen.values()) else -100 for i, token in enumerate(ids)]


def _read_prompt_completion(cells: _Cells) -> PlainText | Conversation:
    if not any(isinstance(cells.read(part, _text_or_messages), list) for part in ("prompt", "completion")):
        completion = cells.read("completion", _response)
        return PlainText(cells.read("prompt", _required), completion)
    prompt, completion = cells.read("prompt", _prompt_turns), cells.read("completion", _completion_turns)
    prompt = [*_system_turn(cells, prompt), *prompt]
    return Conversation((*prompt, *completion), len(prompt), *_chat_options(cells))


def _prompt_turns(value: Any) -> list[Turn]:
    turns = _turns(_text_or_messages(value), "user")
    if not turns:
        raise _UnusableError(INVALID_ROW, "there is no message")
    return turns


def _completion_turns(value: Any) -> list[Turn]:
    turns = _turns(_text_or_messages(value), "assistant")
    if not any(turn.content.strip() or turn.tool_calls for turn in turns):
        raise _UnusableError(EMPTY_RESPONSE, "there is no text")
    learned = {turn.learned for turn in turns if turn.role == "assistant"}
    if True not in learned:
        raise _UnusableError(NO_TARGET, f"no turn is learned from; {_roles_of(turns)}")
    if False in learned:  # a completion is learned as a whole; turns are told apart in `messages`
        raise _UnusableError(INVALID_ROW, "all turns of a completion are learned from, and some are marked otherwise")
    if turns[0].role in ("system", "user"):  # it would be learned from as well
        raise _UnusableError(INVALID_ROW, f"it begins with the {turns[0].role}: map whole conversations to 'messages'")
    return turns


def _read_messages(cells: _Cells) -> Conversation:
    turns = cells.read("messages", lambda value: _turns(_messages(value), None))
    answers = _ANSWERS_ELSEWHERE.intersection(cells.reading.unread)
    if answers and turns and turns[-1].role != "assistant":  # earlier turns would be taken for what the row teaches
        raise _UnusableError(
            INVALID_ROW,
            f"the last message is not the assistant's, and the answer seems to stand in {sorted(answers)}: map the "
            "messages to 'prompt' and one of these to 'completion' with `columns=`",
        )
    cells.read("messages", lambda _: _check_learned(turns))
    return Conversation((*_system_turn(cells, turns), *turns), None, *_chat_options(cells))


def _check_learned(turns: list[Turn]) -> None:
    learned = [turn for turn in turns if turn.learned]
    if not learned:
        raise _UnusableError(NO_TARGET, f"no turn is learned from; {_roles_of(turns)}")
    if not any(turn.content.strip() or turn.tool_calls for turn in learned):
        raise _UnusableError(EMPTY_RESPONSE, "no assistant turn has any text")


def _roles_of(turns: list[Turn]) -> str:
    return f"the roles are {sorted({turn.role for turn in turns})}, of which 'assistant' is learned"


def _system_turn(cells: _Cells, turns: list[Turn]) -> list[Turn]:
    """The system prompt of a column of its own, unless the messages bring one."""
    system = cells.read("system", _optional)
    return [Turn("system", system)] if system and turns[0].role != "system" else []


def _read_instruction(cells: _Cells) -> Instruction:
    response = cells.read("response", _response)
    asked = cells.read("instruction", _required)
    context = cells.read("input", _optional)
    context = "" if _NO_INPUT.fullmatch(context) else context
    system, history = cells.read("system", _optional), cells.read("history", _history)
    return Instruction(asked, context, response, system, history, *_chat_options(cells))


def _read_text(cells: _Cells) -> PlainText:
    return PlainText("", cells.read("text", _response))


_READERS: dict[str, Callable[[_Cells], Row]] = {
    "tokenized": _read_tokens,
    "prompt_completion": _read_prompt_completion,
    "messages": _read_messages,
    "sharegpt": _read_messages,
    "alpaca": _read_instruction,
    "question_answer": _read_instruction,
    "text": _read_text,
}


# --------------------------------------------------------------------------------------------------------------------
# Values
# --------------------------------------------------------------------------------------------------------------------


def _invalid(value: Any, wanted: str) -> _UnusableError:
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
    return _UnusableError(INVALID_ROW, f"must be {wanted}, got {type(value).__name__} {shown}")


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))  # pandas writes NaN for no text


def _is_nothing(value: Any) -> bool:
    """Whether there is nothing where a list might stand."""
    return _is_missing(value) or (isinstance(value, str) and value.strip().lower() in _NOTHING)


def _required(value: Any) -> str:
    """Text; a number is the shortest text that reads back as it, bytes are UTF-8."""
    value = _plain(value)
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise _invalid(value, "text, or bytes of it in UTF-8") from None
    if isinstance(value, float) and value.is_integer():  # a whole number, in a column where others are none
        value = int(value) if abs(value) < 2**53 else value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        value = repr(value)
    if not isinstance(value, str):  # a truth value might have been written as 'yes', '1' or 'true'
        raise _invalid(value, "text or a number")
    return _clean(value)


def _optional(value: Any) -> str:
    text = "" if _is_missing(value) else _required(value)
    return text if text.strip() else ""


def _response(value: Any) -> str:
    text = _optional(value)
    if not text:
        raise _UnusableError(EMPTY_RESPONSE, "there is no text")
    return text


def _integers(value: Any) -> list[int]:
    value = _plain(value)
    if not isinstance(value, list) or not all(isinstance(item, int) for item in value):
        raise _invalid(value, "a list of whole numbers")
    return value


def _mask(value: Any) -> list[int] | None:
    return None if value is None else _integers(value)


def _clean(value: Any) -> Any:
    """Replaces what cannot be written as UTF-8, at any depth."""
    if isinstance(value, str):
        return value if value.isascii() else _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return value


def _plain(value: Any) -> Any:
    """Arrays, tensors and NumPy scalars as Python objects, at any depth."""
    if value is None or isinstance(value, str | int):
        return value
    to_list = getattr(value, "tolist", None)
    if to_list is not None:
        value = to_list()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _chat_options(cells: _Cells) -> tuple[list | None, dict[str, Any]]:
    """The `tools` and `chat_template_kwargs` columns."""
    return cells.read("tools", _tools), cells.read("chat_template_kwargs", _template_kwargs)


def _tools(value: Any) -> list | None:
    tools = None if _is_nothing(value) else _plain(value)
    if isinstance(tools, str):
        tools = _parsed(tools)
    if not isinstance(tools, list | None):
        raise _invalid(tools, "a list of tools, or JSON text of one")
    return _clean(tools)


def _template_kwargs(value: Any) -> dict[str, Any]:
    options = _plain(value)
    if not isinstance(options, dict | None):
        raise _invalid(options, "a dict")
    return _clean(options or {})


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # not JSON, or nested a thousand times
        raise _invalid(text, "valid JSON") from None


def _history(value: Any) -> tuple[tuple[str, str], ...]:
    """Pairs of a question and its answer."""
    pairs = [] if _is_nothing(value) else _plain(value)
    pairs = _parsed(pairs) if isinstance(pairs, str) else pairs
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise _invalid(pairs, "a list of pairs of a question and its answer")
    return tuple((_optional(question), _optional(answer)) for question, answer in pairs)


# --------------------------------------------------------------------------------------------------------------------
# Messages
# --------------------------------------------------------------------------------------------------------------------


def _messages(value: Any) -> Any:
    """Messages as a list, also from JSON text, from a dict of lists, and from a single message."""
    value = _plain(value)
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = _parsed(value)
    if not isinstance(value, dict):
        return value
    role = _either(value, "role", "from")
    if not isinstance(role, list):
        return [value]
    columns = {key: values for key, values in value.items() if isinstance(values, list)}
    if len({len(values) for values in columns.values()}) > 1:
        raise _invalid(value, "a list of messages, or a dict of lists of one length")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _text_or_messages(value: Any) -> Any:
    """A prompt or a completion: text stays text, also if it is JSON, unless that is messages and nothing else."""
    if not isinstance(value, str):
        return _messages(value)
    if value.lstrip()[:1] not in ("[", "{"):
        return value
    found = json_or_text(value)
    parts = found if isinstance(found, list) else [found]
    is_messages = all(
        isinstance(part, dict) and part.keys() & _ROLE_KEYS and part.keys() & _TEXT_KEYS for part in parts
    )
    return _messages(found) if parts and is_messages else value


def _turns(value: Any, role_of_text: str | None) -> list[Turn]:
    """Turns of a list of messages; where `role_of_text` is given, a text or nothing is one turn of that role."""
    if role_of_text is not None and not isinstance(value, list):
        text = _optional(value)
        return [Turn(role_of_text, text, learned=role_of_text == "assistant")] if text else []
    if not isinstance(value, list):
        raise _invalid(value, "a list of messages, each a dict with role and content (or from and value)")
    return [_numbered_turn(number, message) for number, message in enumerate(value)]


def _numbered_turn(number: int, message: Any) -> Turn:
    try:
        return _turn(message)
    except _UnusableError as unusable:
        raise _UnusableError(unusable.reason, f"message {number}: {unusable.why}") from None


def _turn(message: Any) -> Turn:
    if not isinstance(message, dict):
        raise _invalid(message, "a dict with role and content (or from and value)")
    role = _either(message, "role", "from")
    if not isinstance(role, str):
        raise _invalid(message, "a dict with the name of a role under 'role' or 'from'")
    learned = _is_learned(message)
    name = role.strip().rstrip(":").lower()
    if name in _CALL_ROLES:
        return _call_turn(_content(_either(message, "content", "value")), learned)
    if message.get("train_detail"):
        raise _UnusableError(INVALID_ROW, "'train_detail' marks parts of a text, and only whole turns can be marked")
    role, calls = _ROLES.get(name, role), _calls(message)
    if not calls and not {"content", "value"} & message.keys() and message.keys() - _TURN_KEYS:
        raise _invalid(message, "a dict with the text under 'content' or 'value'")
    content = _content(_either(message, "content", "value"))
    extra = {key: _clean(item) for key, item in message.items() if key not in _TURN_KEYS and item is not None}
    return Turn(role, content, learned and role == "assistant", calls, extra=extra)


def _either(message: dict[str, Any], name: str, synonym: str) -> Any:
    """The value under one of two names: Arrow gives every message of a column all keys, the missing ones as None."""
    value = message.get(name)
    return message.get(synonym) if value is None else value


def _calls(message: dict[str, Any]) -> list[dict] | None:
    """Tool calls, also as JSON text, and the one call of the older key `function_call`."""
    calls = None if _is_nothing(message.get("tool_calls")) else message["tool_calls"]
    if isinstance(calls, str):
        calls = _parsed(calls)
    if not calls and isinstance(call := message.get("function_call"), dict) and call.get("name"):
        calls = [{"type": "function", "function": call}]
    if not isinstance(calls, list | None):
        raise _invalid(calls, "a list of calls under 'tool_calls'")
    return _clean(calls) or None


def _call_turn(text: str, learned: bool) -> Turn:
    """A turn that is nothing but calls written as JSON, as ShareGPT sets have them."""
    calls = json_or_text(text)
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        return Turn("assistant", text, learned)
    tool_calls = [{"type": "function", "function": call} for call in calls]
    return Turn("assistant", "", learned, tool_calls, call_text=text)


def _is_learned(message: dict[str, Any]) -> bool:
    marks = [message[name] for name in _MARKS if message.get(name) is not None]
    if not all(isinstance(mark, bool | int | float) for mark in marks):
        raise _invalid(marks, f"numbers or truth values under {', '.join(_MARKS)}")
    return all(marks)


def _content(value: Any) -> str:
    """Text, or the texts of typed parts one after the other. Images, reasoning and other parts cannot be read."""
    if not isinstance(value, list):
        return "" if _is_missing(value) else _required(value)
    return "".join(map(_part, value))


def _part(part: Any) -> str:
    if not isinstance(part, dict):
        return _required(part)
    kind = part.get("type")
    if kind not in ("text", None):
        raise _invalid(part, "a part of the type 'text'")
    return _required(next((part[key] for key in ("text", "value", "content") if part.get(key) is not None), None))
