"""Words that a stranger reads once: no sentence is longer than 35 words, and no docstring begins with a riddle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT


MOST_WORDS = 35
LOOSE_BEGINNINGS = {"By", "For", "In", "Not", "Of", "Only", "Until"}  # a phrase that hangs on nothing
# A study writes its own page; readers compare it with the numbers word for word, so it stays as it was written.
WRITTEN_BY_A_PROGRAM = {"study.md"}

DOCSTRINGS = sorted(path for folder in ("hf_dlc", "recipes") for path in (ROOT / folder).rglob("*.py"))
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md")),
    *sorted(path for path in (ROOT / "recipes").rglob("*.md") if path.name not in WRITTEN_BY_A_PROGRAM),
    *sorted((ROOT / "hf_dlc").rglob("*.md")),
]


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield getattr(node, "lineno", 1), text


def paragraphs(text: str) -> Iterator[str]:
    """
    Prose of a docstring or a page, one paragraph, list item, table cell or described argument at a time.

    Code, doctests and addresses are no prose. A line that is indented otherwise than the one before begins something
    new, unless it goes on with a list item.
    """
    text = re.sub(r"^( *)(```|~~~).*?^\1\2 *$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^ *>>>.*?(\n\s*\n|\Z)", "\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    lines: list[str] = []
    margin = 0
    for line in [*text.splitlines(), ""]:
        indent = len(line) - len(line.lstrip())
        item = re.match(r" *([-*>]|\d+\.) ", line)
        entry = re.match(r" +[`*\w./]+( {2,}| \()", line)  # of a list of files or of arguments
        cells = line.strip().startswith("|")
        if not line.strip() or item or entry or cells or line.startswith("#") or indent != margin:
            yield " ".join(lines)
            lines = []
        margin = len((item or entry).group()) if item or (entry and entry[1].isspace()) else indent
        if cells:
            yield from line.split("|")
        else:
            lines.append(line.strip())
        if line.rstrip().endswith(":") and indent:  # what follows describes it
            yield " ".join(lines)
            lines = []


def sentences(text: str) -> Iterator[str]:
    """Sentences of prose; what stands between backticks is one word, and so is a link's address."""
    for paragraph in paragraphs(text):
        plain = re.sub(r"`+[^`]+`+", "Code", paragraph)
        plain = re.sub(r"\]\([^)]*\)|https?://\S+", "", plain)
        yield from re.split(r"(?<=[.!?])[)\"'”*_]*\s+(?=[^a-z])", plain)


def number_of_words(sentence: str) -> int:
    return len(re.findall(r"[^\s]*\w[^\s]*", sentence))


def long_sentences(text: str) -> list[str]:
    return [sentence for sentence in sentences(text) if number_of_words(sentence) > MOST_WORDS]


def is_riddle(docstring: str) -> bool:
    """Whether the first line names nothing: too short, a short clause with "What", or a phrase without a head."""
    first = re.sub(r"`+[^`]+`+", "code", docstring.strip().splitlines()[0])
    word, count = first.split()[0], number_of_words(first)
    return count < 3 or word in LOOSE_BEGINNINGS or (word == "What" and count <= 5)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_sentence_of_a_page_is_long(path: Path) -> None:
    assert long_sentences(path.read_text(encoding="utf-8")) == []


def test_no_sentence_of_a_docstring_is_long() -> None:
    assert [
        f"{path.relative_to(ROOT)}:{line}: {sentence}"
        for path in DOCSTRINGS
        for line, text in docstrings(path.read_text(encoding="utf-8"))
        for sentence in long_sentences(text)
    ] == []


def test_no_docstring_begins_with_a_riddle() -> None:
    assert [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path in DOCSTRINGS
        for line, text in docstrings(path.read_text(encoding="utf-8"))
        if is_riddle(text)
    ] == []


LONG = " ".join(["word"] * 36) + "."


@pytest.mark.parametrize(
    "text",
    [
        LONG,
        f"A short one. {LONG} Another.",
        f"Args:\n    rows (`int`):\n        {LONG}",
        f"- a list item\n- {LONG}",
        f"- {LONG[:60]}\n  {LONG[60:]}",
        f"| name | {LONG} |",
        f"- {LONG[:-1]} `and code`",
        f"    name    {LONG[:60]}\n            {LONG[60:]}",
    ],
)
def test_long_sentences_are_found(text: str) -> None:
    assert len(long_sentences(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        LONG.replace("word word.", "word."),
        f"```python\n{LONG}\n```",
        f">>> {LONG}\n{LONG}\n",
        f"`{LONG}` is one word.",
        f"Two lists:\n\n- {LONG[:90]}\n- {LONG[:90]}",
        f"Args:\n    rows (`int`):\n        {LONG[:90]}\n    seed (`int`):\n        {LONG[:90]}",
        f"| {LONG[:90]} | {LONG[:90]} |",
        f"    name    {LONG[:90]}\n    other   {LONG[:90]}",
    ],
)
def test_short_sentences_are_left_alone(text: str) -> None:
    assert long_sentences(text) == []


@pytest.mark.parametrize(
    "text", ["What scores.", "What to do.", "What a report shows.", "Scores.", "Loads it.", "Of its file."]
)
def test_riddles_are_found(text: str) -> None:
    assert is_riddle(text)


@pytest.mark.parametrize("text", ["The command line.", "Load the rows.", "What a reader must know of a run's folder."])
def test_first_lines_that_say_something_are_left_alone(text: str) -> None:
    assert not is_riddle(text)
