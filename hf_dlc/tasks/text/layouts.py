"""
Which columns of a dataset are read, and as what.

The layouts, in the order in which they are tried; the first whose columns in bold are all there is taken:

| layout | columns |
|---|---|
| `tokenized` | **`input_ids`**, `labels`, `attention_mask`, `completion_mask`, `assistant_masks` |
| `prompt_completion` | **`prompt`** and **`completion`** or `response`; of messages also `system` |
| `messages` | **`messages`**, `system` |
| `sharegpt` | **`conversations`** or `conversation`, `system` |
| `alpaca` | **`instruction`** and **`output`**, `response` or `answer`; `input` or a synonym, `system`, `history` |
| `question_answer` | **`question`** or `query` and **`answer`**, `response` or `output`; the rest as in `alpaca` |
| `text` | **`text`** |

`context`, `passage` and `document` are synonyms of `input`; `system_prompt` and `system_message` are synonyms of
`system`. All but the first and the last layout take `tools` (a list or JSON text) and `chat_template_kwargs` (a dict),
which go to the chat template.

The columns of the dataset decide, never the values of one row, so that a row of `None` is read like its neighbours. A
column that is not read is left alone, and named where it holds text. In rows of one response, a column that by its
name holds earlier turns, answer options, or reasoning beside the answer is an error: another text would be scored than
the row teaches.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets.formatting.formatting import LazyBatch, LazyRow


IGNORE = "ignore"  # what a column is mapped to that is left out on purpose

_ANSWERS = ("output", "response", "answer")
_CHAT_OPTIONS = {"tools": ("tools",), "chat_template_kwargs": ("chat_template_kwargs",)}
_SYSTEM = {"system": ("system", "system_prompt", "system_message")}
_CONTEXT = {"input": ("input", "context", "passage", "document"), "history": ("history",), **_SYSTEM, **_CHAT_OPTIONS}
_MASKS = ("labels", "attention_mask", "completion_mask", "assistant_masks")

# For each layout, in order of precedence, what it needs of a row and what it may have besides, each with the names of
# columns that it stands in; of several that are there, the first is read.
_NEEDED: dict[str, dict[str, tuple[str, ...]]] = {
    "tokenized": {"input_ids": ("input_ids",)},
    "prompt_completion": {"prompt": ("prompt",), "completion": ("completion", "response")},
    "messages": {"messages": ("messages",)},
    "sharegpt": {"messages": ("conversations", "conversation")},
    "alpaca": {"instruction": ("instruction",), "response": _ANSWERS},
    "question_answer": {"instruction": ("question", "query"), "response": ("answer", "response", "output")},
    "text": {"text": ("text",)},
}
_OPTIONAL: dict[str, dict[str, tuple[str, ...]]] = {
    "tokenized": {name: (name,) for name in _MASKS},
    "prompt_completion": {**_SYSTEM, **_CHAT_OPTIONS},
    "messages": {**_SYSTEM, **_CHAT_OPTIONS},
    "sharegpt": {**_SYSTEM, **_CHAT_OPTIONS},
    "alpaca": _CONTEXT,
    "question_answer": _CONTEXT,
    "text": {},
}
LAYOUTS = tuple(_NEEDED)

# In a row of one response, text in columns of these names says that it is no row of a prompt and its response alone.
_ONE_RESPONSE = ("prompt_completion", "alpaca", "question_answer")
_REFUSED = {
    "earlier turns, which the prompt would not show": re.compile(
        r"((chat|conversation|dialog|dialogue|message|messages|turn)_)?history|dialog(ue)?s?|chat_log"
        r"|(prior|previous|past|earlier)_(turns?|messages?|dialog(ue)?)"
    ),
    "answer options, which the prompt would not show": re.compile(
        r"(.*_)?(choices?|options?|endings|distractors?|alternatives|candidates)(_.*)?"
        r"|(choice|option|ending|distractor|sol|answer|ans|op)_?(\d+|[a-e])|op[a-e]|[a-e]"
        r"|(.*_)?(incorrect|wrong|other)_answers?(_.*)?|(mc\d|multiple_choice)_targets"
    ),
    "reasoning, which would be left out of the response": re.compile(
        r"(.*_)?(reasoning|thinking|thoughts?|think|cot|chain_of_thought|rationales?|scratchpad|solutions?)(_.*)?"
    ),
}
_SETTING = re.compile(r".*_(effort|mode|format|style|budget)")  # of a model, where it has the name of a part of a row

# Names of columns that describe a row and are no part of it.
_DESCRIBES = re.compile(
    r"(.*_)?(ids?|uuid|idx|index|hash|sha\d*|url|source|dataset|subset|split|lang|language|category|categories|topic"
    r"|domain|task|type|kind|tags?|labels?|difficulty|level|license|timestamp|date|time|model|author|version|status"
    r"|template|services|subject|meta(data)?|info)|dlc_.*"
)
_LONGEST_DESCRIPTION = 8  # words; a longer text is a part of a row, whatever its name
_MEDIA = re.compile(r"(.*_)?(images?|videos?|audios?|pixel_values)")

# Besides the columns that a layout needs, those whose value in a row is a list as well.
_LISTS_IN_ROWS = frozenset({"tools", "history", *_MASKS})


@dataclass(frozen=True)
class Reading:
    """
    Which columns of a dataset are read, and as what.

    Args:
        layout (`str`):
            One of `LAYOUTS`.
        columns (`dict[str, str]`):
            From a part of a row (`"instruction"`, `"response"`, ...) to the column that it stands in.
        unread (`tuple[str, ...]`, *optional*, defaults to `()`):
            Columns that are not read.
    """

    layout: str
    columns: dict[str, str] = field(hash=False)
    unread: tuple[str, ...] = ()


def read_columns(names: Iterable[str], layout: str = "auto", columns: Mapping[str, str] | None = None) -> Reading:
    """
    Find out how a dataset is read, from the names of its columns.

    Args:
        names (`Iterable[str]`):
            Column names of the dataset.
        layout (`str`, *optional*, defaults to `"auto"`):
            A layout to use instead of the first that fits.
        columns (`Mapping[str, str]`, *optional*):
            From a column of the dataset to the name that a layout expects, such as `{"src": "instruction"}`, or to
            `"ignore"` where the column is left out on purpose.

    Returns:
        [`Reading`]

    Raises:
        ValueError: If no layout fits; if `layout` is unknown; if a column of `layout` or of `columns` is missing, or
            one of `columns` would not be read.

    Example:
    ```python
    >>> reading = read_columns(["src", "pos", "neg"], columns={"src": "instruction", "pos": "output"})
    >>> reading.layout, reading.columns, reading.unread
    ('alpaca', {'instruction': 'src', 'response': 'pos'}, ('neg',))
    ```
    """
    names = list(names)
    known = _known_as(names, columns)
    layout = _checked_layout(layout, names, known) if layout != "auto" else _first_layout(names, known)
    parts = {**_NEEDED[layout], **_OPTIONAL[layout]}
    found = {part: next((known[name] for name in group if name in known), None) for part, group in parts.items()}
    read = {part: column for part, column in found.items() if column is not None}
    _require_use(layout, read, columns)
    ignored = {column for column, name in (columns or {}).items() if name == IGNORE}
    unread = tuple(name for name in names if name not in read.values() and name not in ignored)
    return Reading(layout, read, unread)


def refuse_other_responses(reading: Reading, texts: Iterable[str]) -> None:
    """
    Refuse rows that are more than a prompt and its response.

    Args:
        reading ([`Reading`]):
            How the rows are read.
        texts (`Iterable[str]`):
            Columns among `reading.unread` that hold text.

    Raises:
        ValueError: If one of them looks like earlier turns, like answer options, or like reasoning beside the
            response.
    """
    if reading.layout not in _ONE_RESPONSE:
        return
    texts = [name for name in texts if not _is_called(name, _SETTING)]
    for what, pattern in _REFUSED.items():
        named = [name for name in texts if _is_called(name, pattern)]
        if len(named) > 1 or any(len(name) > 1 for name in named):  # one letter alone is no list of options
            raise ValueError(
                f"the columns {named} look like {what}, and the layout {reading.layout!r} does not read them. Pass "
                "`template=` as a callable that puts them into the prompt or the response, or leave them out on "
                f"purpose: columns={dict.fromkeys(named, IGNORE)}."
            )


def text_in(name: str, values: Iterable[Any]) -> bool:
    """
    Whether a column that is not read may be a part of the rows: it holds text, at any depth, or pictures or sound, and
    has no name that only describes a row.

    Args:
        name (`str`):
            Name of the column.
        values (`Iterable`):
            Its values in some rows; the first that is not `None` tells.

    Example:
    ```python
    >>> text_in("hint", [None, "Think of Paris."]), text_in("row_id", ["a7"]), text_in("score", [0.5])
    (True, False, False)
    ```
    """
    first = next((value for value in values if not _is_empty(value)), None)
    if first is None or (_is_called(name, _DESCRIBES) and not _is_long(first)):
        return False
    return _is_called(name, _MEDIA) or _holds_text(first)


def _is_called(name: str, pattern: re.Pattern[str]) -> bool:
    """Whether a pattern of small letters and low lines is the name of a column, however its words are set apart."""
    apart = re.sub(r"[\s\-.]+", "_", name.strip())
    split = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", apart)
    return any(pattern.fullmatch(spelling.lower()) for spelling in (apart, split))


def _is_long(value: Any) -> bool:
    return isinstance(value, str) and len(value.split()) > _LONGEST_DESCRIPTION


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value)


def _holds_text(value: Any) -> bool:
    if isinstance(value, str | bytes):
        return bool(value.strip())
    if isinstance(value, Mapping):
        return {"bytes", "path"} <= value.keys() or any(map(_holds_text, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_text, value))
    return hasattr(value, "mode") and hasattr(value, "size")  # a picture, decoded


def _known_as(names: Sequence[str], columns: Mapping[str, str] | None) -> dict[str, str]:
    """From a name that a layout may expect to the column that goes by it; a mapping wins over a column's own name."""
    columns = columns or {}
    if missing := [name for name in columns if name not in names]:
        raise ValueError(f"`columns` names {missing}, but the columns are {sorted(names)}.")
    chosen = [ours for ours in columns.values() if ours != IGNORE]
    if twice := sorted({ours for ours in chosen if chosen.count(ours) > 1}):
        raise ValueError(f"`columns` must name one column for each part of a row, got several for {twice}.")
    own = {name: name for name in names if name not in columns}
    return {**own, **{ours: theirs for theirs, ours in columns.items() if ours != IGNORE}}


def _first_layout(names: Sequence[str], known: Mapping[str, str]) -> str:
    for layout in LAYOUTS:
        if not _missing(layout, known):
            return layout
    raise ValueError(
        f"No known layout fits the columns {sorted(names)}. Rename them, pass `columns=` (such as "
        "`columns={'src': 'instruction', 'pos': 'output'}`), or pass `template=` as a callable that maps a row to "
        f"one of the layouts: {_layout_list()}.{_preference_hint(names)}"
    )


def _checked_layout(layout: str, names: Sequence[str], known: Mapping[str, str]) -> str:
    if layout not in _NEEDED:
        raise ValueError(f"`layout` must be 'auto' or one of {list(LAYOUTS)}, got {layout!r}.")
    if missing := _missing(layout, known):
        raise ValueError(
            f"The layout {layout!r} needs the column {' or '.join(map(repr, missing))}, but the columns are "
            f"{sorted(names)}. Rename one, pass `columns=`, or pass another `layout=`."
        )
    return layout


def _preference_hint(names: Iterable[str]) -> str:
    if not {"chosen", "rejected"} <= set(names):
        return ""
    return (
        " (To score the preferred answers, map 'chosen' to 'output' where it is text, to 'messages' where it holds "
        "whole conversations, or to 'completion' where it holds the last message alone.)"
    )


def _require_use(layout: str, read: Mapping[str, str], columns: Mapping[str, str] | None) -> None:
    """A column that a user has mapped by hand is read, or something is wrong."""
    for column, name in (columns or {}).items():
        if name != IGNORE and column not in read.values():
            parts = {**_NEEDED[layout], **_OPTIONAL[layout]}
            raise ValueError(
                f"`columns` maps {column!r} to {name!r}, which the layout {layout!r} would not read here. It reads "
                f"{', '.join('|'.join(group) for group in parts.values())}, of each group the first that is there. "
                "Map the column to one of them, leave it out of `columns`, or pass another `layout=`."
            )


def _missing(layout: str, names: Iterable[str]) -> tuple[str, ...]:
    return next((group for group in _NEEDED[layout].values() if not set(names).intersection(group)), ())


def _layout_list() -> str:
    return ", ".join(f"{name} ({' + '.join('|'.join(group) for group in _NEEDED[name].values())})" for name in LAYOUTS)


# --------------------------------------------------------------------------------------------------------------------
# Rows and batches
# --------------------------------------------------------------------------------------------------------------------


def is_batch(rows: Mapping[str, Any], reading: Reading | None) -> bool:
    """
    Tell a batch (a dict of columns) from a row, which `datasets.map` may hand over in the same types.

    Args:
        rows (`Mapping[str, Any]`):
            A row or a batch.
        reading ([`Reading`] or `None`):
            How its columns are read; `None` if they follow no layout, when a batch is what has only lists of one
            length.

    Returns:
        `bool`: Whether `rows` is a batch. Where nothing tells (a conversation without messages and without any other
        column), it is a row.

    Example:
    ```python
    >>> reading = read_columns(["text"])
    >>> is_batch({"text": "a"}, reading), is_batch({"text": ["a"]}, reading)
    (False, True)
    ```
    """
    if isinstance(rows, LazyRow | LazyBatch):
        return isinstance(rows, LazyBatch)
    if not rows:
        return False
    values = dict(rows)
    if any(not _is_sequence(value) for value in values.values()):
        return False  # a column of a batch is a sequence, also where all its values are None
    if len({len(value) for value in values.values()}) > 1:
        return False
    if reading is None:
        return True
    needed = [reading.columns[part] for part in _NEEDED[reading.layout]]
    for name in needed:
        if (told := _holds_rows(values[name], reading.layout)) is not None:
            return told
    scalar = [name for name in values if name not in _LISTS_IN_ROWS and name not in needed]
    return any(_holds_rows(values[name], "text") for name in scalar)


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
            As in [`read_columns`]. `None` does not ask that the columns follow a layout.
        columns (`Mapping[str, str]`, *optional*):
            As in [`read_columns`]; used to understand the columns, the rows keep their names.

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
        reading = _reading_or_none(rows) if layout is None else read_columns(rows, layout, columns)
        return (split_batch(rows), True) if is_batch(rows, reading) else ([dict(rows)], False)
    if isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
        return [dict(row) for row in rows], True
    raise TypeError(f"`rows` must be a row, a batch (a dict of columns) or a list of rows, got {type(rows).__name__}.")


def _reading_or_none(names: Iterable[str]) -> Reading | None:
    try:
        return read_columns(names)
    except ValueError:
        return None  # what a callable template makes of the rows is read, not the rows themselves


def _is_sequence(value: Any) -> bool:
    """Lists, tuples, arrays with a dimension, lazy columns; not text, and not a scalar of NumPy or torch."""
    if isinstance(value, str | bytes | Mapping):
        return False
    return getattr(value, "ndim", 1) > 0 and hasattr(value, "__len__") and hasattr(value, "__getitem__")


def _holds_rows(value: Any, layout: str) -> bool | None:
    """Whether a sequence is a column (`True`) or the value of one row (`False`); `None` if it does not tell."""
    first = next((item for item in value if item is not None), None)
    if layout == "tokenized":
        return None if len(value) == 0 else first is None or _is_sequence(first)
    if layout in ("messages", "sharegpt", "prompt_completion"):
        if isinstance(first, Mapping):  # a message of a row, or the messages of a row as a dict of lists
            return _is_columnar(first)
        return None if len(value) == 0 else True
    return not isinstance(first, Mapping)


def _is_columnar(messages: Mapping[str, Any]) -> bool:
    """Whether a dict of lists stands for a list of messages: its roles are a list, as content may be of a message."""
    roles = messages.get("role") if messages.get("role") is not None else messages.get("from")
    return _is_sequence(roles)
