"""
The values of one row, read without guessing: text, token ids, JSON.

Numbers and UTF-8 bytes are read as text. A value that cannot be read raises [`UnusableError`], which says why.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from hf_dlc.scores.columns import EMPTY_RESPONSE, INVALID_ROW


_NOTHING = ("null", "none", "nan", "")  # as text, in small letters, where a list might stand
_SURROGATE = re.compile("[\ud800-\udfff]")
_SHOWN = 80  # characters of a value in a reason


class UnusableError(Exception):
    """A value that cannot be used; it ends the reading of its row, and `parse_row` turns it into a skipped row."""

    def __init__(self, reason: str, why: str) -> None:
        super().__init__(why)
        self.reason, self.why = reason, why


def invalid(value: Any, wanted: str) -> UnusableError:
    """The error of a value that is not what was wanted."""
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
    return UnusableError(INVALID_ROW, f"must be {wanted}, got {type(value).__name__} {shown}")


def is_missing(value: Any) -> bool:
    """Whether there is no value: pandas writes NaN for no text."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_nothing(value: Any) -> bool:
    """Whether there is nothing where a list might stand."""
    return is_missing(value) or (isinstance(value, str) and value.strip().lower() in _NOTHING)


def text_of(value: Any) -> str:
    """Text; a number is the shortest text that reads back as it, bytes are UTF-8."""
    value = plain(value)
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise invalid(value, "text, or bytes of it in UTF-8") from None
    if isinstance(value, float) and value.is_integer():  # a whole number, in a column where others are none
        value = int(value) if abs(value) < 2**53 else value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        value = repr(value)
    if not isinstance(value, str):  # a truth value might have been written as 'yes', '1' or 'true'
        raise invalid(value, "text or a number")
    return clean(value)


def text_or_empty(value: Any) -> str:
    """Text as `text_of` reads it; `""` where there is none or white space only."""
    text = "" if is_missing(value) else text_of(value)
    return text if text.strip() else ""


def response_of(value: Any) -> str:
    """Text that is learned from, so that there must be some."""
    text = text_or_empty(value)
    if not text:
        raise UnusableError(EMPTY_RESPONSE, "there is no text")
    return text


def integers_of(value: Any) -> list[int]:
    """Whole numbers, such as token ids."""
    value = plain(value)
    if not isinstance(value, list) or not all(isinstance(item, int) for item in value):
        raise invalid(value, "a list of whole numbers")
    return value


def mask_of(value: Any) -> list[int] | None:
    """Marks of tokens; `None` where there are none."""
    return None if value is None else integers_of(value)


def clean(value: Any) -> Any:
    """The value with a sign in the place of what cannot be written as UTF-8, at any depth."""
    if isinstance(value, str):
        return value if value.isascii() else _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    return value


def plain(value: Any) -> Any:
    """Arrays, tensors and NumPy scalars as Python objects, at any depth."""
    if value is None or isinstance(value, str | int):
        return value
    to_list = getattr(value, "tolist", None)
    if to_list is not None:
        value = to_list()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


def tools_of(value: Any) -> list | None:
    """Tools for the chat template, also from JSON text."""
    tools = None if is_nothing(value) else plain(value)
    if isinstance(tools, str):
        tools = json_of(tools)
    if not isinstance(tools, list | None):
        raise invalid(tools, "a list of tools, or JSON text of one")
    return clean(tools)


def template_kwargs_of(value: Any) -> dict[str, Any]:
    """Further arguments of the chat template."""
    options = plain(value)
    if not isinstance(options, dict | None):
        raise invalid(options, "a dict")
    return clean(options or {})


def json_of(text: str) -> Any:
    """The value of JSON text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # not JSON, or nested a thousand times
        raise invalid(text, "valid JSON") from None


def history_of(value: Any) -> tuple[tuple[str, str], ...]:
    """Pairs of a question and its answer."""
    pairs = [] if is_nothing(value) else plain(value)
    pairs = json_of(pairs) if isinstance(pairs, str) else pairs
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise invalid(pairs, "a list of pairs of a question and its answer")
    return tuple((text_or_empty(question), text_or_empty(answer)) for question, answer in pairs)
