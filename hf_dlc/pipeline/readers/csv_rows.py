"""Rows of CSV files, read for `read_text_files`: every field is the text that stands there."""

from __future__ import annotations

import csv
import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from datasets import Features, Value

from .lines import FileError, read_lines


logger = logging.getLogger(__name__)

_ROWS_PER_TABLE = 1000
# Of `csv`, for all of the process: its default refuses texts that are longer than 128 Ki characters.
_LONGEST_FIELD = 2**28

_QUOTING = "A text with a separator, a quote or a line break stands in quotes, and a quote within it is doubled."


def find_features(paths: Sequence[Path], notes: list[str]) -> tuple[Features, list[set[str]]]:
    """The columns of CSV files, all of them text; none if there are no rows."""
    headers = [_header(path) for path in paths]
    with_rows = [next(itertools.islice(_records(path), 1, None), None) is not None for path in paths]
    if not any(with_rows):
        return Features(), [set(header) for header in headers]
    names = dict.fromkeys(itertools.chain.from_iterable(headers))
    return Features(dict.fromkeys(names, Value("string"))), [set(header) for header in headers]


def read_tables(path: Path, features: Features) -> Iterator[pa.Table]:
    """The rows of a CSV file, which must have the fields of its header; an empty field is null."""
    header = _header(path)
    rows = itertools.islice(_records(path), 1, None)
    while batch := list(itertools.islice(rows, _ROWS_PER_TABLE)):
        for line, fields in batch:
            if len(fields) != len(header):
                count = f"{len(fields)} field{'s' if len(fields) > 1 else ''}"
                raise FileError(
                    f"{path}, line {line}: {count}, but the header has {len(header)}: {', '.join(header)}. {_QUOTING}"
                )
        columns = dict(zip(header, zip(*(fields for _, fields in batch), strict=True), strict=True))
        empty = (None,) * len(batch)
        yield pa.table(
            {name: pa.array([text or None for text in columns.get(name, empty)], pa.string()) for name in features},
            schema=features.arrow_schema,
        )


def _header(path: Path) -> list[str]:
    """The names of the columns."""
    line, names = next(_records(path), (0, []))
    if not line:
        return []
    separators = [mark for mark in (";", "\t", "|", ",") if mark in names[0]]
    if len(names) == 1 and separators:
        raise FileError(
            f"{path} has one column, {names[0]!r}: it seems to be separated by {separators[0]!r}. Write it with "
            "commas, or, if by tabs, with a name that ends in .tsv."
        )
    # The name that pandas gives to the index that it writes.
    named = [name or f"Unnamed: {place}" for place, name in enumerate(names)]
    if named != names:
        logger.info("%s: a column without a name is called %s", path, ", ".join(sorted(set(named) - set(names))))
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise FileError(f"{path}, line {line}: each column must have a name of its own, got {', '.join(twice)} twice.")
    return named


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The fields of each row, the header among them, and the line on which it begins; blank lines are left out."""
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(read_lines(path), delimiter="\t" if _is_tsv(path) else ",", strict=True)
    line = 1
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise FileError(f"{path}, in the row that begins on line {line}: {_say(error)}. {_QUOTING}") from error
        if fields:
            yield line, fields
        line = reader.line_num + 1


def _is_tsv(path: Path) -> bool:
    return ".tsv" in [suffix.lower() for suffix in path.suffixes]


def _say(error: csv.Error) -> str:
    """A complaint of Python's, in words for people."""
    if str(error).startswith("new-line character"):
        return "a carriage return stands outside of quotes"
    return str(error).replace("unexpected end of data", "a quote is opened and never closed")
