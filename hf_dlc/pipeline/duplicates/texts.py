"""Texts of rows as duplicates are told by: read by their layout, normalised, and cut into words."""

from __future__ import annotations

import itertools
import json
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
import xxhash
from datasets import ClassLabel, Dataset, Value

from hf_dlc.tasks.text.layouts import Reading, read_columns
from hf_dlc.tasks.text.parsing import parse_row
from hf_dlc.tasks.text.plain_rows import plain_batches
from hf_dlc.tasks.text.reading_log import ReadingLog
from hf_dlc.tasks.text.rows import Conversation, Instruction, PlainText, Row, Skipped, TokenRow, Turn
from hf_dlc.utils.content import holds_media, is_media, media_columns, media_digests
from hf_dlc.utils.words import is_nothing, normalised, words_of


By = Literal["both", "prompt", "response"]

# Which of the three parts of a row are compared: what goes before the prompt, the prompt, the response.
PARTS: dict[str, tuple[int, ...]] = {"both": (0, 1, 2), "prompt": (0, 1), "response": (2,)}
_IMAGE_COLUMNS = {"image", "label"}  # what `columns` maps to where a set of images is scored

_ROWS_PER_BATCH = 1000


class Texts:
    """
    Texts of all rows, of which equal ones have one number, and the words of each number.

    A row has a fixed count of parts, which are compared one by one.
    """

    def __init__(self, rows: Iterable[tuple[str, ...] | None], parts: int, with_words: bool) -> None:
        known: dict[bytes, int] = {}
        vocabulary: defaultdict[str, int] = defaultdict(itertools.count().__next__)
        numbers, words, lengths = array("q"), array("i"), array("q")
        for texts in rows:
            if texts is None or all(map(is_nothing, texts)):
                numbers.append(-1)
                continue
            digest = xxhash.xxh3_128_digest("\0".join(texts).encode())
            number = known.setdefault(digest, len(known))
            numbers.append(number)
            if with_words and number == len(lengths) // parts:  # it is the first of its kind
                for text in texts:
                    split = words_of(text)
                    words.extend(map(vocabulary.__getitem__, split))
                    lengths.append(len(split))
        self.parts, self.count, self.vocabulary_size = parts, len(known), len(vocabulary)
        self.numbers = np.array(numbers, dtype=np.int64)  # -1 in rows without any text
        self.words, self.lengths = np.array(words, dtype=np.int32), np.array(lengths, dtype=np.int64)


def read_texts(dataset: Dataset, by: By, layout: str, columns: Mapping[str, str] | None, with_words: bool) -> Texts:
    """The texts of all rows, and digests of their pictures."""
    pictures = picture_columns(dataset, columns)
    if pictures and with_words:
        raise ValueError(
            f"near duplicates are found by words, and the rows have pictures or sound in {pictures}. Pass "
            "kinds=('exact',), or kinds=('exact', 'semantic') for rows with features."
        )
    reading = _reading(dataset, pictures, layout, columns)
    texts = itertools.repeat((), dataset.num_rows) if reading is None else _texts(dataset, reading, by, columns)
    if not pictures:
        return Texts(texts, len(PARTS[by]), with_words)
    digests = media_digests(dataset, pictures)
    rows = (None if own is None else (*own, digest) for own, digest in zip(texts, digests, strict=True))
    return Texts(rows, 1, with_words)


def picture_columns(dataset: Dataset, columns: Mapping[str, str] | None) -> list[str]:
    """Columns of pictures and sound."""
    named = [name for name, kind in (columns or {}).items() if kind == "image" and name in dataset.column_names]
    return named or media_columns(dataset)


def _reading(
    dataset: Dataset, pictures: Sequence[str], layout: str, columns: Mapping[str, str] | None
) -> Reading | None:
    """How the texts are read; `None` where there are pictures alone."""
    if pictures and columns and set(columns.values()) <= _IMAGE_COLUMNS:
        return None
    try:
        reading = read_columns(dataset.column_names, layout, columns)
    except ValueError:
        if pictures and layout == "auto" and not columns:
            return None
        raise
    if media := [name for name in reading.columns.values() if is_media(dataset.features[name])]:
        raise ValueError(f"{media[0]!r} must hold text to be read as {reading.layout}, got pictures or sound.")
    return reading


def _texts(
    dataset: Dataset, reading: Reading, by: By, columns: Mapping[str, str] | None
) -> Iterator[tuple[str, ...] | None]:
    """The texts of each row that are compared, normalised; `None` for a row that cannot be read."""
    read = set(reading.columns.values())
    # Neither pictures nor vectors, which would take long to read.
    names = [name for name, kind in dataset.features.items() if name in read or _may_tell(kind)]
    reading = replace(reading, unread=tuple(name for name in reading.unread if name in names))
    log = ReadingLog("conversations", columns or {})
    for rows in plain_batches(dataset.with_format(None).select_columns(names), (), _ROWS_PER_BATCH):
        parsed = [parse_row(row, reading) for row in rows]
        log.note(reading, rows, parsed)
        for row in parsed:
            parts = _parts_of(row)
            yield None if parts is None else tuple(normalised(parts[part]) for part in PARTS[by])


def _may_tell(feature: object) -> bool:
    """Whether a column of this type may hold text: if it should have been read, that is said."""
    return isinstance(feature, Value | ClassLabel) or (not holds_media(feature) and "string" in str(feature))


def _parts_of(row: Row) -> tuple[str, str, str] | None:
    """What goes before the prompt (system prompt, tools), the prompt and the response; `None` if it cannot be read."""
    if isinstance(row, Skipped):
        return None
    if isinstance(row, PlainText):
        return "", row.prompt, row.completion
    if isinstance(row, TokenRow):
        pairs = list(zip(row.input_ids, row.labels, strict=True))
        prompt = [str(token) for token, label in pairs if label != token]
        response = [str(token) for token, label in pairs if label == token]
        return "", " ".join(prompt), " ".join(response)
    return _parts_of_conversation(row.conversation() if isinstance(row, Instruction) else row)


def _parts_of_conversation(row: Conversation) -> tuple[str, str, str]:
    first = len(row.turns) if row.prompt_turns is None else row.prompt_turns  # from here on, all is the response
    before = [json.dumps(given, sort_keys=True, default=str) for given in (row.tools, row.template_kwargs) if given]
    prompt, response = [], []
    for place, turn in enumerate(row.turns):
        is_response = place >= first or (row.prompt_turns is None and turn.learned)
        part = response if is_response else before if turn.role == "system" else prompt
        part.append(_text_of(turn))
    return "\n".join(before), "\n".join(prompt), "\n".join(response)


def _text_of(turn: Turn) -> str:
    """All that is said in a turn: its reasoning, its content, and its calls as text."""
    message = turn.message(renders_calls=False)
    said = [message.get(key) for key in ("reasoning_content", "thinking", "content")]
    return "\n".join(text for text in said if isinstance(text, str) and text)
