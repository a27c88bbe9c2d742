"""Rows of JSON files, read for `read_text_files`: one to a line or all in a list, values as they stand there."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Features, Value
from datasets.table import table_cast

from .json_types import NAMES, Kind, stored_type, stored_value
from .lines import FileError, read_lines


Row = dict[str, Any]

_ROWS_PER_TABLE = 1000
_WRAPPERS = ("data", "rows", "examples", "instances", "records", "items")  # of an object around a list of rows
_TURN_KEYS = {"role", "from", "content", "value"}
_INCOMPLETE = object()


def find_features(paths: Sequence[Path], notes: list[str]) -> tuple[Features, list[set[str]]]:
    """
    The columns of JSON files and their types, for which all rows are looked at.

    A column that holds numbers in one row and text in another is text; what holds objects of several kinds is
    [`~datasets.Json`].
    """
    kinds: dict[str, Kind] = {}
    columns: list[set[str]] = []
    for path in paths:
        names: set[str] = set()
        for place, row in _rows(path, notes):
            names |= row.keys()
            for name, value in row.items():
                if name not in kinds:
                    kinds[name] = Kind()
                if value is not None:
                    kinds[name].see(value, f"{path}, {place}")
        columns.append(names)
    notes += [note for name, kind in kinds.items() if (note := kind.note(name))]
    return Features({name: kind.feature(is_column=True) for name, kind in kinds.items()}), columns


def read_tables(path: Path, features: Features) -> Iterator[pa.Table]:
    """The rows of a JSON file; half of a surrogate pair, which no text of Arrow can hold, is an error."""
    stored = Features({name: stored_type(feature) for name, feature in features.items()})
    schema = stored.arrow_schema
    plain = {name for name, feature in features.items() if feature == stored[name] != Value("string")}
    rows = _rows(path)
    while batch := list(itertools.islice(rows, _ROWS_PER_TABLE)):
        columns = {name: [row.get(name) for _, row in batch] for name in features}
        try:
            for name in features.keys() - plain:
                columns[name] = [stored_value(value, features[name]) for value in columns[name]]
            arrays = [pa.array(columns[field.name], field.type) for field in schema]
        except UnicodeEncodeError:
            _refuse_surrogates(path, batch)
            raise
        yield table_cast(pa.Table.from_arrays(arrays, schema=schema), features.arrow_schema)


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
    """Whether the first of several lines is a row, right or wrong, rather than the start of one long value."""
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
        raise FileError(f"{path}, line {number}: a row must be a JSON object, got {NAMES[type(value)]}.")
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
        raise FileError(f"{path} must hold rows, which are JSON objects, got {NAMES[type(value)]}.")
    if value and all(isinstance(one, str) for one in value):
        value = [{"text": one} for one in value]
    for number, row in enumerate(value):
        if not isinstance(row, dict):
            raise FileError(f"{path}, row {number}: a row must be a JSON object, got {NAMES[type(row)]}.")
        yield f"row {number}", row


def _wrapper(value: Row) -> str | None:
    """The field in which the rows are, if the value is not a row itself."""
    names = [name for name in _WRAPPERS if isinstance(value.get(name), list) and value[name]]
    if len(names) != 1 or not all(isinstance(row, dict) for row in value[names[0]]):
        return None
    return names[0] if not _TURN_KEYS & value[names[0]][0].keys() else None


def _pandas_table(value: Row) -> str | None:
    """The layout of a table that pandas has written; `None` if the value is no such table."""
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
