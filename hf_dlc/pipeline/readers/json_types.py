"""Types of JSON values: found from all rows of a file, and how values of several types are stored."""

from __future__ import annotations

import json
from typing import Any

from datasets import Json, List, Value
from datasets.utils.json import ujson_dumps, ujson_loads


NAMES = {
    type(None): "null",
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


class Kind:
    """Types of the values that all rows have at one place: in a column, a field of an object, or a list."""

    def __init__(self) -> None:
        self.first: dict[type, str] = {}  # where the first value of each type is
        self.fields: dict[str, Kind] = {}
        self.item: Kind | None = None
        self.is_varied = False  # objects with other fields than the first: they are kept as JSON
        self.is_large = False  # whole numbers beyond 64 bits

    def see(self, value: Any, place: str) -> None:
        """Take another value, not null, into account."""
        kind = type(value)
        if kind not in self.first:
            self.first[kind] = place
        if kind is list:
            self.item = self.item or Kind()
            for one in value:
                if one is not None:
                    self.item.see(one, place)
        elif kind is dict and not self.is_varied:
            self._see_fields(value, place)
        elif kind is int and not -(2**63) <= value < 2**63:
            self.is_large = True

    def _see_fields(self, value: dict[str, Any], place: str) -> None:
        if not self.fields:
            self.fields = {name: Kind() for name in value}
        if not value or value.keys() != self.fields.keys():
            self.is_varied = True
            return
        for name, one in value.items():
            if one is not None:
                self.fields[name].see(one, place)

    def feature(self, is_column: bool = False) -> Any:
        """The type that holds all of them, as `datasets` has it where it reads the file at all."""
        kinds = frozenset(self.first)
        if kinds == {list}:
            return List(self.item.feature())
        if kinds == {dict} and not self.is_varied:
            return {name: kind.feature() for name, kind in self.fields.items()}
        if kinds & {list, dict}:
            return Json()
        if self.is_large or kinds not in _SCALARS:
            return Value("string") if is_column else Json()
        return Value(_SCALARS[kinds])

    def note(self, name: str) -> str | None:
        """A sentence on a column that holds values of several types; `None` where there is nothing to say."""
        if len(self.first) <= 1 or frozenset(self.first) in _SCALARS:
            return None
        found = " and ".join(f"{NAMES[kind]} ({place})" for kind, place in self.first.items())
        is_text = self.feature(is_column=True) == Value("string")
        return f"the column {name!r} holds {found}: {'all is read as text' if is_text else 'kept so'}"


_SCALARS: dict[frozenset[type], str] = {
    frozenset(): "null",
    frozenset({str}): "string",
    frozenset({bool}): "bool",
    frozenset({int}): "int64",
    frozenset({float}): "float64",
    frozenset({int, float}): "float64",
}


def stored_type(feature: Any) -> Any:
    """A type in which what is kept as JSON is the text that it is stored as."""
    if isinstance(feature, Json):
        return Value("string")
    if isinstance(feature, List):
        return List(stored_type(feature.feature))
    if isinstance(feature, dict):
        return {name: stored_type(one) for name, one in feature.items()}
    return feature


def stored_value(value: Any, feature: Any) -> Any:
    """A value as it is stored."""
    if value is None or (type(value) is str and not isinstance(feature, Json)):
        return value
    if isinstance(feature, Json):
        return _json_text(value)
    if feature == Value("string"):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(feature, List):
        return [stored_value(one, feature.feature) for one in value]
    if isinstance(feature, dict):
        return {name: stored_value(value[name], one) for name, one in feature.items()}
    return value


def _json_text(value: Any) -> str:
    """
    As `datasets` writes it, so that digests of rows stay what they were, but where it would lose something: text that
    looks like a number, and the last digits of one.
    """
    text = ujson_dumps(value)
    return text if ujson_loads(text) == value else json.dumps(value, ensure_ascii=False)
