"""Reports as Markdown and as HTML, in which text from a dataset can be nothing but text."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


_FOLDER = Path(__file__).parent
_TEXT_WIDTH = 160  # characters of a field of a row


class Name(str):
    """A name that comes from a dataset, such as that of a column or of a group; all other texts are our own."""

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


@dataclass(frozen=True)
class Example:
    """
    Row of the dataset.

    Args:
        heading (`Line`):
            Number and scores of the row.
        fields (`Sequence[tuple[str, str]]`):
            Name and value of each column, as [`one_line`] returns them.
    """

    heading: Line
    fields: Sequence[tuple[str, str]]


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


Section = Table | Examples | Lines


def to_markdown(sections: Sequence[Section], heading: str = "##") -> str:
    """Sections one after the other; rows of the dataset stand in code blocks as JSON, which has no line breaks."""
    return "\n\n".join(f"{heading} {_line(section.title)}\n\n{_body(section)}" for section in sections) + "\n"


def to_html(title: str, sections: Sequence[Section], images: Sequence[tuple[str, str]]) -> str:
    """
    One file that needs nothing from elsewhere, and in which no script could run.

    Args:
        title (`str`):
            Title of the page.
        sections (`Sequence[Section]`):
            What it says.
        images (`Sequence[tuple[str, str]]`):
            Descriptions and PNG files (base64) of the plots.

    Returns:
        `str`: HTML; the template escapes all that is put into it.
    """
    kinds = [(type(section).__name__, section) for section in sections]
    return _template().render(title=title, sections=kinds, images=images, is_name=_is_name)


def one_line(value: Any) -> str:
    """
    An untrusted value on one line: JSON has no line breaks that could end a block, and characters that would act on a
    terminal are shown by their code.
    """
    is_plain = isinstance(value, str) and value.isidentifier()
    text = str(value) if is_plain else json.dumps(value, ensure_ascii=False, default=str)
    text = "".join(
        c if unicodedata.category(c)[0] != "C" and c not in "\u2028\u2029" else f"\\u{ord(c):04x}" for c in text
    )
    return text if len(text) <= _TEXT_WIDTH else text[: _TEXT_WIDTH - 1] + "…"


def _body(section: Section) -> str:
    if isinstance(section, Table):
        lines = [f"| {' | '.join(section.header)} |", "|" + "---|" * len(section.header)]
        return "\n".join([*lines, *(f"| {' | '.join(_line([cell]) for cell in row)} |" for row in section.rows)])
    if isinstance(section, Lines):
        return "\n".join(f"- {_line(line)}" for line in section.lines)
    return "\n\n".join(map(_example, section.rows))


def _example(example: Example) -> str:
    return "\n".join([_line(example.heading), "", *(f"    {name}: {value}" for name, value in example.fields)])


def code(name: Any) -> str:
    """Inline code, which no character of the name can end."""
    return "`" + one_line(str(name)).replace("`", "\\u0060").replace("|", "\\u007c") + "`"


def _line(parts: Line) -> str:
    return "".join(code(part) if isinstance(part, Name) else part for part in parts)


def _is_name(part: str) -> bool:
    return isinstance(part, Name)


@cache
def _template() -> Template:
    environment = Environment(loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined)
    environment.filters["one_line"] = lambda value: one_line(str(value))
    return environment.get_template("report.html.jinja")
