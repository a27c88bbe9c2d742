"""
A dataset row of any known layout, read into turns: which text there is, and which of it is learned from.

The layouts, in the order in which they are tried; the first whose columns are all there is taken:

| layout | columns | read as |
|---|---|---|
| `tokenized` | `input_ids` (+ `labels`, `attention_mask`, `completion_mask`, `assistant_masks`) | [`TokenRow`] |
| `prompt_completion` | `prompt` and `completion` or `response` | [`PlainText`], of messages: [`Conversation`] |
| `messages` | `messages` | [`Conversation`] |
| `sharegpt` | `conversations` | [`Conversation`] |
| `alpaca` | `instruction` and `output`, `response` or `answer` (+ `input` or `context`) | [`Instruction`] |
| `question_answer` | `question` and `answer`, `response` or `output` | [`Instruction`] |
| `text` | `text` | [`PlainText`] |

The columns of the dataset decide, never the values of one row, so that a row of `None` is read like its neighbours.
Other columns are left alone, except `tools` (a list or JSON text) and `chat_template_kwargs` (a dict), which go to the
chat template, and `system`, which becomes the first turn of a `sharegpt`, `alpaca` or `question_answer` row.

A row that cannot be used becomes a [`Skipped`] with one of the statuses of `hf_dlc.columns`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_dlc.columns import EMPTY_RESPONSE, INVALID_ROW, NO_TARGET


_ANSWERS = ("output", "response", "answer")

# For each layout, in order of precedence, the columns it needs; of each group of names the first at hand is used.
_NEEDED: dict[str, tuple[tuple[str, ...], ...]] = {
    "tokenized": (("input_ids",),),
    "prompt_completion": (("prompt",), ("completion", "response")),
    "messages": (("messages",),),
    "sharegpt": (("conversations",),),
    "alpaca": (("instruction",), _ANSWERS),
    "question_answer": (("question",), ("answer", "response", "output")),
    "text": (("text",),),
}
LAYOUTS = tuple(_NEEDED)

_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}
_CALL_ROLES = frozenset({"function_call", "tool_call"})
_MARKS = ("loss_weight", "weight", "train")
# Besides the columns that a layout needs, those whose value in a row is a list as well.
_LISTS_IN_ROWS = frozenset({"tools", "labels", "attention_mask", "completion_mask", "assistant_masks"})
_TURN_KEYS = frozenset({"role", "from", "content", "value", "tool_calls", *_MARKS})

_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_INPUT = re.compile(r"\W*no[\s_]*input\W*", re.IGNORECASE)

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
        tools (`list`, *optional*):
            Tool schemas for the chat template.
        template_kwargs (`dict`, *optional*):
            Further arguments of the chat template.
    """

    instruction: str
    input: str
    response: str
    system: str = ""
    tools: list | None = None
    template_kwargs: dict[str, Any] = field(default_factory=dict)

    def conversation(self) -> Conversation:
        r"""
        The row as one exchange; the input follows the instruction after an empty line.

        Returns:
            [`Conversation`]: an optional system turn, a user turn, and the response as the completion.

        Example:
        ```python
        >>> [turn.content for turn in Instruction("Add.", "2 and 3", "5").conversation().turns]
        ['Add.\n\n2 and 3', '5']
        ```
        """
        asked = "\n\n".join(part for part in (self.instruction, self.input) if part)
        prompt = [Turn("system", self.system)] if self.system else []
        prompt.append(Turn("user", asked))
        turns = (*prompt, Turn("assistant", self.response, learned=True))
        return Conversation(turns, len(prompt), self.tools, self.template_kwargs)

    def plain_text(self) -> PlainText:
        r"""
        The row in the Alpaca prompt, of which there is one wording with an input and one without.

        Returns:
            [`PlainText`]: the prompt, after the system prompt and an empty line where there is one, and the response.

        Example:
        ```python
        >>> Instruction("Add.", "2 and 3", "5").plain_text().prompt[-24:]
        '\n2 and 3\n\n### Response:\n'
        ```
        """
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
    """A row that cannot be used, and why: one of the statuses of `hf_dlc.columns`."""

    reason: str


Row = Conversation | Instruction | PlainText | TokenRow | Skipped


class _UnusableError(Exception):
    """Leaves the reading of a row; never leaves this module."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


# --------------------------------------------------------------------------------------------------------------------
# Layouts and batches
# --------------------------------------------------------------------------------------------------------------------


def detect_layout(names: Iterable[str], layout: str = "auto", columns: Mapping[str, str] | None = None) -> str:
    """
    Find the layout of a dataset from its columns.

    Args:
        names (`Iterable[str]`):
            Column names of the dataset.
        layout (`str`, *optional*, defaults to `"auto"`):
            A layout to use instead of the first that fits.
        columns (`Mapping[str, str]`, *optional*):
            From a column of the dataset to the name that a layout expects, such as `{"src": "instruction"}`.

    Returns:
        `str`: One of `LAYOUTS`.

    Raises:
        ValueError: If no layout fits, if a column of `layout` or of `columns` is missing, or if `layout` is unknown.

    Example:
    ```python
    >>> detect_layout(["src", "pos"], columns={"src": "instruction", "pos": "output"})
    'alpaca'
    ```
    """
    names = list(names)
    known = set(_renamed(dict.fromkeys(names), columns))
    if layout == "auto":
        for candidate in LAYOUTS:
            if not _missing(candidate, known):
                return candidate
        raise ValueError(
            f"No known layout fits the columns {sorted(names)}. Rename them, pass `columns=` (such as "
            "`columns={'src': 'instruction', 'pos': 'output'}`), or pass `template=` as a callable that maps a row to "
            f"one of the layouts: {_layout_list()}."
        )
    if layout not in _NEEDED:
        raise ValueError(f"`layout` must be 'auto' or one of {list(LAYOUTS)}, got {layout!r}.")
    if missing := _missing(layout, known):
        raise ValueError(
            f"The layout {layout!r} needs the column {' or '.join(map(repr, missing))}, but the columns are "
            f"{sorted(names)}. Rename one, pass `columns=`, or pass another `layout=`."
        )
    return layout


def is_batch(rows: Mapping[str, Any], layout: str | None) -> bool:
    """
    Tell a batch (a dict of columns) from a row, which `datasets.map` hands over in the same types.

    Args:
        rows (`Mapping[str, Any]`):
            A row or a batch, with the columns named as in `layout`.
        layout (`str` or `None`):
            One of `LAYOUTS`; `None` if the columns follow none of them, when a batch is what has only lists of one
            length.

    Returns:
        `bool`: Whether `rows` is a batch. Where nothing tells (a conversation without messages and without any other
        column), it is a row.

    Example:
    ```python
    >>> is_batch({"text": "a"}, "text"), is_batch({"text": ["a"]}, "text")
    (False, True)
    ```
    """
    if not rows:
        return False
    values = dict(rows)
    if any(not _is_sequence(value) for value in values.values()):
        return False  # a column of a batch is a sequence, also where all its values are None
    if len({len(value) for value in values.values()}) > 1:
        return False
    if layout is None:
        return True
    for group in _NEEDED[layout]:
        for name in group:
            if name in values and (told := _holds_rows(values[name], layout)) is not None:
                return told
    return any(_holds_rows(value, "text") for name, value in values.items() if _is_scalar_column(name, layout))


def split_batch(batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """
    Turn a batch (a dict of columns) into its rows.

    Args:
        batch (`Mapping[str, Any]`):
            Columns of one length: lists, NumPy arrays or tensors.

    Returns:
        `list[dict]`: One dict a row.

    Raises:
        ValueError: If the columns differ in length.

    Example:
    ```python
    >>> split_batch({"text": ["a", "b"]})
    [{'text': 'a'}, {'text': 'b'}]
    ```
    """
    columns = dict(batch)
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"The columns of a batch must have one length, got {lengths}.")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def rows_of(
    rows: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    layout: str | None = "auto",
    columns: Mapping[str, str] | None = None,
) -> tuple[list[dict[str, Any]], bool]:
    """
    Take what `datasets.map` hands over, a row or a batch, as a list of rows.

    Args:
        rows (`Mapping[str, Any]` or `Sequence[Mapping[str, Any]]`):
            A row, a batch as a dict of columns, or a list of rows.
        layout (`str`, *optional*, defaults to `"auto"`):
            As in [`detect_layout`]. `None` does not ask that the columns follow a layout.
        columns (`Mapping[str, str]`, *optional*):
            As in [`detect_layout`]; used to understand the columns, the rows keep their names.

    Returns:
        `tuple[list[dict], bool]`: The rows, and whether `rows` was a batch.

    Raises:
        ValueError: If the columns follow no known layout.
        TypeError: If `rows` is neither a mapping nor a list of mappings.

    Example:
    ```python
    >>> rows_of({"text": "a"}), rows_of({"text": ["a"]})
    (([{'text': 'a'}], False), ([{'text': 'a'}], True))
    ```
    """
    if isinstance(rows, Mapping):
        found = _layout_or_none(rows) if layout is None else detect_layout(rows, layout, columns)
        if is_batch(_renamed(dict(rows), columns), found):
            return split_batch(rows), True
        return [dict(rows)], False
    if isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
        return [dict(row) for row in rows], True
    raise TypeError(f"`rows` must be a row, a batch (a dict of columns) or a list of rows, got {type(rows).__name__}.")


def _missing(layout: str, names: set[str]) -> tuple[str, ...]:
    return next((group for group in _NEEDED[layout] if not names.intersection(group)), ())


def _layout_list() -> str:
    return ", ".join(f"{name} ({' + '.join('|'.join(group) for group in _NEEDED[name])})" for name in LAYOUTS)


def _layout_or_none(names: Iterable[str]) -> str | None:
    known = set(names)
    return next((layout for layout in LAYOUTS if not _missing(layout, known)), None)


def _renamed(row: dict[str, Any], columns: Mapping[str, str] | None) -> dict[str, Any]:
    if not columns:
        return row
    if missing := [name for name in columns if name not in row]:
        raise ValueError(f"`columns` names {missing}, but the columns are {sorted(row)}.")
    kept = {name: value for name, value in row.items() if name not in columns}
    return {**kept, **{ours: row[theirs] for theirs, ours in columns.items()}}


def _is_sequence(value: Any) -> bool:
    """Lists, tuples, arrays with a dimension, lazy columns; not text, and not a scalar of NumPy or torch."""
    if isinstance(value, str | bytes | Mapping):
        return False
    return getattr(value, "ndim", 1) > 0 and hasattr(value, "__len__") and hasattr(value, "__getitem__")


def _is_scalar_column(name: str, layout: str) -> bool:
    """Whether a row holds one value here as far as is known, so that a list is a column."""
    return name not in _LISTS_IN_ROWS and not any(name in group for group in _NEEDED[layout])


def _holds_rows(value: Any, layout: str) -> bool | None:
    """Whether a sequence is a column (`True`) or the value of one row (`False`); `None` if it does not tell."""
    first = next((item for item in value if item is not None), None)
    if layout == "tokenized":
        return None if len(value) == 0 else first is None or _is_sequence(first)
    if layout in ("messages", "sharegpt", "prompt_completion"):
        return None if len(value) == 0 else not isinstance(first, Mapping)
    return not isinstance(first, Mapping)


# --------------------------------------------------------------------------------------------------------------------
# Rows
# --------------------------------------------------------------------------------------------------------------------


def parse_row(row: Mapping[str, Any], layout: str, columns: Mapping[str, str] | None = None) -> Row:
    """
    Read one row.

    Args:
        row (`Mapping[str, Any]`):
            The row. Values may be Python objects, NumPy arrays or tensors.
        layout (`str`):
            One of `LAYOUTS`, as [`detect_layout`] found it.
        columns (`Mapping[str, str]`, *optional*):
            As in [`detect_layout`].

    Returns:
        [`Conversation`], [`Instruction`], [`PlainText`], [`TokenRow`] or [`Skipped`]: what the row says. Half of a
        surrogate pair, which no tokenizer takes, is read as U+FFFD.

    Example:
    ```python
    >>> parse_row({"prompt": "2 + 3 =", "completion": " 5"}, "prompt_completion")
    PlainText(prompt='2 + 3 =', completion=' 5')
    >>> parse_row({"prompt": "2 + 3 =", "completion": None}, "prompt_completion")
    Skipped(reason='empty_response')
    ```
    """
    try:
        return _READERS[layout](_renamed(dict(row), columns))
    except _UnusableError as unusable:
        return Skipped(unusable.reason)


def _read_tokens(row: dict[str, Any]) -> TokenRow:
    ids = _integers(row["input_ids"])
    keep = _integers(row["attention_mask"]) if row.get("attention_mask") is not None else [1] * len(ids)
    labels = _integers(row["labels"]) if "labels" in row else _masked(ids, row)
    if len(labels) != len(ids) or len(keep) != len(ids):
        raise _UnusableError(INVALID_ROW)
    if any(label not in (-100, token) for label, token in zip(labels, ids, strict=True)):
        raise _UnusableError(INVALID_ROW)  # learning another token than the one that is there has no probability here
    return TokenRow(
        [token for token, kept in zip(ids, keep, strict=True) if kept],
        [label for label, kept in zip(labels, keep, strict=True) if kept],
    )


def _masked(ids: list[int], row: dict[str, Any]) -> list[int]:
    """Labels of a row that has none: its masks, or every token."""
    masks = [_integers(row[name]) for name in ("completion_mask", "assistant_masks") if row.get(name) is not None]
    if any(len(mask) != len(ids) for mask in masks):
        raise _UnusableError(INVALID_ROW)
    return [token if all(mask[i] for mask in masks) else -100 for i, token in enumerate(ids)]


def _integers(value: Any) -> list[int]:
    value = _plain(value)
    if not isinstance(value, list) or not all(isinstance(item, int) for item in value):
        raise _UnusableError(INVALID_ROW)
    return value


def _read_prompt_completion(row: dict[str, Any]) -> PlainText | Conversation:
    prompt, completion = _plain(row.get("prompt")), _plain(_first(row, ("completion", "response")))
    if not isinstance(prompt, list) and not isinstance(completion, list):
        return PlainText(completion=_response(completion), prompt=_required(prompt))
    before = _turns(prompt, "user")
    after = _turns(completion, "assistant")
    if not before:
        raise _UnusableError(INVALID_ROW)
    _check_completion(after)
    tools, template_kwargs = _chat_options(row)
    return Conversation((*before, *after), len(before), tools, template_kwargs)


def _check_completion(turns: list[Turn]) -> None:
    if not any(turn.content.strip() or turn.tool_calls for turn in turns):
        raise _UnusableError(EMPTY_RESPONSE)
    learned = {turn.learned for turn in turns if turn.role == "assistant"}
    if True not in learned:
        raise _UnusableError(NO_TARGET)
    if False in learned:
        raise _UnusableError(INVALID_ROW)  # a completion is learned as a whole; turns are told apart in `messages`


def _read_messages(row: dict[str, Any], name: str = "messages") -> Conversation:
    turns = _turns(_plain(row.get(name)), None)
    learned = [turn for turn in turns if turn.learned]
    if not learned:
        raise _UnusableError(NO_TARGET)
    if not any(turn.content.strip() or turn.tool_calls for turn in learned):
        raise _UnusableError(EMPTY_RESPONSE)
    tools, template_kwargs = _chat_options(row)
    return Conversation(tuple(turns), None, tools, template_kwargs)


def _read_sharegpt(row: dict[str, Any]) -> Conversation:
    conversation = _read_messages(row, "conversations")
    system = _optional(row.get("system"))
    if not system or conversation.turns[0].role == "system":
        return conversation
    turns = (Turn("system", system), *conversation.turns)
    return Conversation(turns, None, conversation.tools, conversation.template_kwargs)


def _read_alpaca(row: dict[str, Any]) -> Instruction:
    response = _response(_first(row, _ANSWERS))
    asked = _required(row.get("instruction"))
    context = _optional(_first(row, ("input", "context")))
    context = "" if _NO_INPUT.fullmatch(context) else context
    return Instruction(asked, context, response, _optional(row.get("system")), *_chat_options(row))


def _read_question(row: dict[str, Any]) -> Instruction:
    response = _response(_first(row, ("answer", "response", "output")))
    asked = _required(row.get("question"))
    return Instruction(asked, "", response, _optional(row.get("system")), *_chat_options(row))


def _read_text(row: dict[str, Any]) -> PlainText:
    return PlainText("", _response(row.get("text")))


_READERS = {
    "tokenized": _read_tokens,
    "prompt_completion": _read_prompt_completion,
    "messages": _read_messages,
    "sharegpt": _read_sharegpt,
    "alpaca": _read_alpaca,
    "question_answer": _read_question,
    "text": _read_text,
}


# --------------------------------------------------------------------------------------------------------------------
# Values
# --------------------------------------------------------------------------------------------------------------------


def _first(row: dict[str, Any], names: tuple[str, ...]) -> Any:
    """The value of the first of the columns that is there, also where it is None: the dataset decides, not the row."""
    return next((row[name] for name in names if name in row), None)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))  # pandas writes NaN for no text


def _required(value: Any) -> str:
    if not isinstance(value, str):
        raise _UnusableError(INVALID_ROW)
    return _clean(value)


def _optional(value: Any) -> str:
    text = "" if _is_missing(value) else _required(value)
    return text if text.strip() else ""


def _response(value: Any) -> str:
    text = _optional(value)
    if not text:
        raise _UnusableError(EMPTY_RESPONSE)
    return text


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


def _chat_options(row: dict[str, Any]) -> tuple[list | None, dict[str, Any]]:
    """The `tools` and `chat_template_kwargs` columns."""
    tools = _plain(row.get("tools"))
    if isinstance(tools, str):
        tools = _parsed(tools) if tools.strip() else None
    template_kwargs = _plain(row.get("chat_template_kwargs"))
    if not isinstance(tools, list | None) or not isinstance(template_kwargs, dict | None):
        raise _UnusableError(INVALID_ROW)
    return _clean(tools), _clean(template_kwargs or {})


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise _UnusableError(INVALID_ROW) from None


def _turns(value: Any, role_of_text: str | None) -> list[Turn]:
    """Turns of a list of messages; where `role_of_text` is given, a text or nothing is one turn of that role."""
    if role_of_text is not None and not isinstance(value, list):
        text = _optional(value)
        return [Turn(role_of_text, text, learned=role_of_text == "assistant")] if text else []
    if not isinstance(value, list):
        raise _UnusableError(INVALID_ROW)
    return [_turn(message) for message in value]


def _turn(message: Any) -> Turn:
    if not isinstance(message, dict):
        raise _UnusableError(INVALID_ROW)
    role = _either(message, "role", "from")
    if not isinstance(role, str):
        raise _UnusableError(INVALID_ROW)
    content = _content(_either(message, "content", "value"))
    learned = _is_learned(message)
    if role in _CALL_ROLES:
        return _call_turn(content, learned)
    role = _ROLES.get(role, role)
    calls = message.get("tool_calls") or None
    if not isinstance(calls, list | None):
        raise _UnusableError(INVALID_ROW)
    extra = {key: _clean(item) for key, item in message.items() if key not in _TURN_KEYS and item is not None}
    return Turn(role, content, learned and role == "assistant", _clean(calls), extra=extra)


def _either(message: dict[str, Any], name: str, synonym: str) -> Any:
    """The value under one of two names: Arrow gives every message of a column all keys, the missing ones as None."""
    value = message.get(name)
    return message.get(synonym) if value is None else value


def _call_turn(text: str, learned: bool) -> Turn:
    """A turn that is nothing but calls written as JSON, as ShareGPT sets have them."""
    try:
        calls = json.loads(text)
    except ValueError:
        return Turn("assistant", text, learned)
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        return Turn("assistant", text, learned)
    tool_calls = [{"type": "function", "function": call} for call in calls]
    return Turn("assistant", "", learned, tool_calls, call_text=text)


def _is_learned(message: dict[str, Any]) -> bool:
    marks = [message[name] for name in _MARKS if message.get(name) is not None]
    if not all(isinstance(mark, bool | int | float) for mark in marks):
        raise _UnusableError(INVALID_ROW)
    return all(marks)


def _content(value: Any) -> str:
    """Text, or the texts of typed parts one after the other. Images and other parts cannot be read."""
    if not isinstance(value, list):
        return "" if _is_missing(value) else _required(value)
    return "".join(_part(part) for part in value)


def _part(part: Any) -> str:
    if isinstance(part, dict) and part.get("type") in ("text", None):
        part = next((part[key] for key in ("text", "value", "content") if part.get(key) is not None), None)
    return _required(part)
