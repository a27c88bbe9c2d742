"""Reports as Markdown and as HTML, in which text from a dataset can be nothing but text."""

from __future__ import annotations

import base64
import hashlib
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


_FOLDER = Path(__file__).parent
_TEXT_WIDTH = 160  # characters of a field of a row
_MOST_TEXT = 5_000  # characters of one that is unfolded


class Name(str):
    """A name that comes from a dataset, such as that of a column or of a group; all other texts are our own."""

    __slots__ = ()


class Words(Name):
    """The words of a command, which are shown as they are, in full."""

    __slots__ = ()


Line = Sequence[str]  # parts of a line of text, names among them


@dataclass(frozen=True)
class Table:
    """
    Table with a heading.

    Args:
        title (`Line`):
            Heading.
        header (`Sequence[str]`):
            Names of the columns.
        rows (`Sequence[Sequence[str]]`):
            Cells, as many a row as `header` has.
    """

    title: Line
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


class Field(NamedTuple):
    """A value of a row: untrusted text, which [`one_line`] and [`unfolded`] have made harmless."""

    name: str
    short: str
    full: str

    @classmethod
    def of(cls, name: str, value: Any) -> Field:
        """A column and its value as they come."""
        return cls(one_line(name), one_line(value), unfolded(value))


@dataclass(frozen=True)
class Example:
    """
    Row of the dataset.

    Args:
        heading (`Line`):
            Number and scores of the row.
        fields (`Sequence[Field]`):
            Name and value of each column.
    """

    heading: Line
    fields: Sequence[Field]


class RowCells(NamedTuple):
    """A row of the dataset in a table of such."""

    cells: Sequence[str]  # number of the row, whether it was kept, its scores
    fields: Sequence[Field]


@dataclass(frozen=True)
class RowTable:
    """
    Table of rows of the dataset, which a page can sort and search; Markdown leaves it out.

    Args:
        title (`Line`):
            Heading.
        header (`Sequence[str]`):
            Names of the columns, but for the text of the rows, which comes last.
        rows (`Sequence[RowCells]`):
            The rows.
    """

    title: Line
    header: Sequence[str]
    rows: Sequence[RowCells]


class Picture(NamedTuple):
    """A plot: a PNG file, and what it shows in a sentence."""

    caption: str
    png: bytes


@dataclass(frozen=True)
class Examples:
    """
    Rows of the dataset under a heading.

    Args:
        title (`Line`):
            Heading.
        rows (`Sequence[Example]`):
            The rows.
    """

    title: Line
    rows: Sequence[Example]


@dataclass(frozen=True)
class Lines:
    """
    List of lines under a heading.

    Args:
        title (`Line`):
            Heading.
        lines (`Sequence[Line]`):
            Items of a list.
    """

    title: Line
    lines: Sequence[Line]


Section = Table | Examples | Lines | RowTable


def to_markdown(sections: Sequence[Section], heading: str = "##") -> str:
    """Sections one after the other; rows of the dataset stand in code blocks as JSON, which has no line breaks."""
    shown = [section for section in sections if not isinstance(section, RowTable)]
    return "\n\n".join(f"{heading} {_line(section.title)}\n\n{_body(section)}" for section in shown) + "\n"


def to_html(title: str, sections: Sequence[Section], pictures: Sequence[Picture]) -> str:
    """
    One file that needs nothing from elsewhere, and in which no script can run but the one that sorts its rows.

    Args:
        title (`str`):
            Title of the page.
        sections (`Sequence[Section]`):
            What it says.
        pictures (`Sequence[Picture]`):
            The plots.

    Returns:
        `str`: HTML; the template escapes all that is put into it.
    """
    kinds = [(type(section).__name__, section) for section in sections]
    shown = [(picture.caption, base64.b64encode(picture.png).decode("ascii")) for picture in pictures]
    script = (_FOLDER / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return _template().render(
        title=title, sections=kinds, pictures=shown, is_name=_is_name, script=script, script_digest=digest
    )


def one_line(value: Any) -> str:
    """
    An untrusted value on one line: JSON has no line breaks that could end a block, and characters that would act on a
    terminal are shown by their code.
    """
    is_plain = isinstance(value, Words) or (isinstance(value, str) and value.isidentifier())
    most = _MOST_TEXT if isinstance(value, Words) else _TEXT_WIDTH
    text = str(value) if is_plain else _json(value[: most + 1] if isinstance(value, str) else value)
    text = _harmless(text[: most + 1])
    return text if len(text) <= most else text[: most - 1] + "…"


def unfolded(value: Any) -> str:
    """
    An untrusted value in full, with its line breaks, up to 5,000 characters; characters that would act on a reader are
    shown by their code.
    """
    text = value if isinstance(value, str) else _json(value, indent=None if _is_flat(value) else 1)
    text = text.replace("\r\n", "\n")
    shown, more = _harmless(text[:_MOST_TEXT], "\n\t"), len(text) - _MOST_TEXT
    return shown if more <= 0 else f"{shown}… ({more:,} more characters)"


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, default=_of_another_type, indent=indent)


def _of_another_type(value: Any) -> str:
    return f"{len(value):,} bytes" if isinstance(value, bytes) else str(value)


def _is_flat(value: Any) -> bool:
    """Whether a value is a list of numbers, such as token ids, or nothing that has parts."""
    return not isinstance(value, list | dict) or (
        isinstance(value, list) and not isinstance(next(iter(value), None), list | dict | str)
    )


def _harmless(text: str, kept: str = "") -> str:
    """Text in which control and format characters, but for those that are kept, are shown by their code."""
    return "".join(
        c if c in kept or (unicodedata.category(c)[0] != "C" and c not in "\u2028\u2029") else f"\\u{ord(c):04x}"
        for c in text
    )


def _body(section: Section) -> str:
    if isinstance(section, Table):
        lines = [f"| {' | '.join(section.header)} |", "|" + "---|" * len(section.header)]
        return "\n".join([*lines, *(f"| {' | '.join(_line([cell]) for cell in row)} |" for row in section.rows)])
    if isinstance(section, Lines):
        return "\n".join(f"- {_line(line)}" for line in section.lines)
    return "\n\n".join(map(_example, section.rows))


def _example(example: Example) -> str:
    return "\n".join([_line(example.heading), "", *(f"    {one.name}: {one.short}" for one in example.fields)])


def code(name: Any) -> str:
    """Inline code, which no character of the name can end."""
    return (
        "`"
        + one_line(name if isinstance(name, Words) else str(name)).replace("`", "\\u0060").replace("|", "\\u007c")
        + "`"
    )


def _line(parts: Line) -> str:
    return "".join(code(part) if isinstance(part, Name) else part for part in parts)


def _is_name(part: str) -> bool:
    return isinstance(part, Name)


@cache
def _template() -> Template:
    environment = Environment(loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined)
    environment.filters["one_line"] = lambda value: one_line(value if isinstance(value, Words) else str(value))
    return environment.get_template("report.html.jinja")
