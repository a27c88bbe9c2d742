"""Rows of JSON files, one to a line or all in a list: values are what stands there, whatever rows come later."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Features, Json, List, Value
from datasets.table import table_cast
from datasets.utils.json import ujson_dumps, ujson_loads

from .text_files import FileError, read_lines


Row = dict[str, Any]

_ROWS_PER_TABLE = 1000
_WRAPPERS = ("data", "rows", "examples", "instances", "records", "items")  # of an object around a list of rows
_TURN_KEYS = {"role", "from", "content", "value"}
_NAMES = {
    type(None): "null",
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}
_INCOMPLETE = object()


def find_features(paths: Sequence[Path], notes: list[str]) -> tuple[Features, list[set[str]]]:
    """
    The columns of JSON files and their types, for which all rows are looked at.

    Args:
        paths (`Sequence[Path]`):
            The files.
        notes (`list[str]`):
            Takes what should be said of them.

    Returns:
        `tuple[Features, list[set[str]]]`: The types, and the names that each file has. A column that holds numbers
        in one row and text in another is text; what holds objects of several kinds is [`~datasets.Json`].

    Raises:
        FileError: If a row cannot be read.
    """
    kinds: dict[str, _Kind] = {}
    columns: list[set[str]] = []
    for path in paths:
        names: set[str] = set()
        for place, row in _rows(path, notes):
            names |= row.keys()
            for name, value in row.items():
                if name not in kinds:
                    kinds[name] = _Kind()
                if value is not None:
                    kinds[name].see(value, f"{path}, {place}")
        columns.append(names)
    notes += [note for name, kind in kinds.items() if (note := kind.note(name))]
    return Features({name: kind.feature(is_column=True) for name, kind in kinds.items()}), columns


def read_tables(path: Path, features: Features) -> Iterator[pa.Table]:
    """
    The rows of a JSON file, some at a time.

    Args:
        path (`Path`):
            The file.
        features ([`~datasets.Features`]):
            What [`find_features`] found.

    Yields:
        `pa.Table`: Rows of these types.

    Raises:
        FileError: If a row cannot be read.
    """
    stored = Features({name: _stored(feature) for name, feature in features.items()})
    schema = stored.arrow_schema
    plain = {name for name, feature in features.items() if feature == stored[name] != Value("string")}
    rows = _rows(path)
    while batch := list(itertools.islice(rows, _ROWS_PER_TABLE)):
        columns = {name: [row.get(name) for _, row in batch] for name in features}
        try:
            for name in features.keys() - plain:
                columns[name] = [_encode(value, features[name]) for value in columns[name]]
            arrays = [pa.array(columns[field.name], field.type) for field in schema]
        except UnicodeEncodeError:
            _refuse_surrogates(path, batch)
            raise
        yield table_cast(pa.Table.from_arrays(arrays, schema=schema), features.arrow_schema)


# ---- types --------------------------------------------------------------------------------------------------------


class _Kind:
    """What the values at one place of all rows are."""

    def __init__(self) -> None:
        self.first: dict[type, str] = {}  # where the first value of each type is
        self.fields: dict[str, _Kind] = {}
        self.item: _Kind | None = None
        self.is_varied = False  # objects with other fields than the first: they are kept as JSON
        self.is_large = False  # whole numbers beyond 64 bits

    def see(self, value: Any, place: str) -> None:
        """Take another value, not null, into account."""
        kind = type(value)
        if kind not in self.first:
            self.first[kind] = place
        if kind is list:
            self.item = self.item or _Kind()
            for one in value:
                if one is not None:
                    self.item.see(one, place)
        elif kind is dict and not self.is_varied:
            self._see_fields(value, place)
        elif kind is int and not -(2**63) <= value < 2**63:
            self.is_large = True

    def _see_fields(self, value: Row, place: str) -> None:
        if not self.fields:
            self.fields = {name: _Kind() for name in value}
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
        """What to say of a column that holds values of several types."""
        if len(self.first) <= 1 or frozenset(self.first) in _SCALARS:
            return None
        found = " and ".join(f"{_NAMES[kind]} ({place})" for kind, place in self.first.items())
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


def _stored(feature: Any) -> Any:
    """A type in which what is kept as JSON is the text that it is stored as."""
    if isinstance(feature, Json):
        return Value("string")
    if isinstance(feature, List):
        return List(_stored(feature.feature))
    if isinstance(feature, dict):
        return {name: _stored(one) for name, one in feature.items()}
    return feature


def _encode(value: Any, feature: Any) -> Any:
    """A value as it is stored."""
    if value is None or (type(value) is str and not isinstance(feature, Json)):
        return value
    if isinstance(feature, Json):
        return _json_text(value)
    if feature == Value("string"):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(feature, List):
        return [_encode(one, feature.feature) for one in value]
    if isinstance(feature, dict):
        return {name: _encode(value[name], one) for name, one in feature.items()}
    return value


def _json_text(value: Any) -> str:
    """
    As `datasets` writes it, so that digests of rows stay what they were, but where it would lose something: text that
    looks like a number, and the last digits of one.
    """
    text = ujson_dumps(value)
    return text if ujson_loads(text) == value else json.dumps(value, ensure_ascii=False)


def _refuse_surrogates(path: Path, batch: Sequence[tuple[str, Row]]) -> None:
    for place, row in batch:
        for name, value in row.items():
            try:
                json.dumps(value, ensure_ascii=False).encode("utf-8")
            except UnicodeEncodeError as error:
                raise FileError(
                    f"{path}, {place}: the column {name!r} holds half of a surrogate pair, "
                    f"\\u{ord(error.object[error.start]):x}, which is no character."
                ) from error


# ---- rows ---------------------------------------------------------------------------------------------------------


def _rows(path: Path, notes: list[str] | None = None) -> Iterator[tuple[str, Row]]:
    """Each row, and where it is; `notes` takes what should be said of the file."""
    lines = ((number, line) for number, line in enumerate(read_lines(path), 1) if line.strip(" \t\r\n"))
    number, first = next(lines, (0, ""))
    if not number:
        return
    second = next(lines, None)
    value = _parse(path, first, number) if second is None or _is_row(path, first) else _INCOMPLETE
    notes = [] if notes is None else notes
    if second is None:
        yield from _document_rows(path, value, notes)
        return
    if value is _INCOMPLETE:
        yield from _document_rows(path, _parse(path, "".join(read_lines(path)), 1), notes)
        return
    yield f"line {number}", _object(path, value, number)
    for number, line in itertools.chain([second], lines):
        yield f"line {number}", _object(path, _parse(path, line, number), number)


def _is_row(path: Path, first: str) -> bool:
    """Whether the first of several lines is a row, right or wrong, rather than the begin of one long value."""
    begin = first.strip()
    if begin in ("[", "{"):
        return False
    try:
        json.loads(begin)
    except ValueError:
        # A list may begin with a row on its first line; an object is more likely to be a broken row.
        return not begin.startswith("[") and not _is_document(path)
    return True


def _is_document(path: Path) -> bool:
    """Whether the name promises one value, not one to a line."""
    return ".json" in [suffix.lower() for suffix in path.suffixes]


def _parse(path: Path, text: str, number: int) -> Any:
    try:
        return _DECODER.decode(text.rstrip(" \t\r\n"))
    except json.JSONDecodeError as error:
        line = number + error.lineno - 1
        hint = " JSON lines have no comma between the rows." if error.msg == "Extra data" else ""
        raise FileError(f"{path}, line {line}, column {error.colno}: this is no JSON: {error.msg}.{hint}") from error
    except (RecursionError, ValueError) as error:
        raise FileError(f"{path}, line {number}: this is no row: {error}.") from error


def _unique(pairs: list[tuple[str, Any]]) -> Row:
    """An object, of whose fields no two have the same name."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _constant(name: str) -> float | None:
    """NaN, which is no JSON, is what Python writes where pandas has no value."""
    return None if name == "NaN" else float(name)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant)


def _object(path: Path, value: Any, number: int) -> Row:
    if type(value) is not dict:
        raise FileError(f"{path}, line {number}: a row must be a JSON object, got {_NAMES[type(value)]}.")
    return value


def _document_rows(path: Path, value: Any, notes: list[str]) -> Iterator[tuple[str, Row]]:
    """The rows of a file that holds a single value: a list, an object around a list, or one row."""
    if isinstance(value, dict):
        if table := _pandas_table(value):
            raise FileError(
                f"{path} holds a table, written by pandas with orient={table!r}. Write its rows: "
                "df.to_json('rows.jsonl', orient='records', lines=True)."
            )
        name = _wrapper(value) if _is_document(path) else None
        if name is None:
            yield "row 0", value
            return
        if others := sorted(value.keys() - {name}):
            notes.append(f"{path}: the rows are the field {name!r}; not read: {', '.join(others)}")
        value = value[name]
    if not isinstance(value, list):
        raise FileError(f"{path} must hold rows, which are JSON objects, got {_NAMES[type(value)]}.")
    if value and all(isinstance(one, str) for one in value):
        value = [{"text": one} for one in value]
    for number, row in enumerate(value):
        if not isinstance(row, dict):
            raise FileError(f"{path}, row {number}: a row must be a JSON object, got {_NAMES[type(row)]}.")
        yield f"row {number}", row


def _wrapper(value: Row) -> str | None:
    """The field in which the rows are, if the value is not a row itself."""
    names = [name for name in _WRAPPERS if isinstance(value.get(name), list) and value[name]]
    if len(names) != 1 or not all(isinstance(row, dict) for row in value[names[0]]):
        return None
    return names[0] if not _TURN_KEYS & value[names[0]][0].keys() else None


def _pandas_table(value: Row) -> str | None:
    """How pandas has laid out a table, if it has written the value."""
    if value.keys() == {"columns", "index", "data"}:
        return "split"
    if value.keys() == {"schema", "data"}:
        return "table"
    parts = list(value.values())
    if not parts or not all(isinstance(part, dict) and part for part in parts):
        return None
    if any(part.keys() != parts[0].keys() for part in parts):
        return None
    if all(name.isdecimal() for name in value):
        return "index"
    return "columns" if all(name.isdecimal() for name in parts[0]) else None
