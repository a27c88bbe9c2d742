"""The log of what is read of a dataset of text while its rows are encoded."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral
from typing import Any

from hf_dlc.tasks.reading import DatasetReading, listed

from .layouts import Reading, refuse_other_responses, text_in
from .rows import Conversation, Instruction, PlainText, Row, Skipped, TokenRow


logger = logging.getLogger(__name__)

_LEARNED = {
    "tokenized": "the tokens that labels or masks name",
    "prompt_completion": "the completion",
    "messages": "the assistant turns",
    "sharegpt": "the assistant turns",
    "alpaca": "the response",
    "question_answer": "the response",
    "text": "the whole text",
}


class ReadingLog:
    """
    Says once what is read of a dataset, and remembers it.

    Args:
        chat (`str` or `None`):
            What the chat template is called; `None` where there is none.
        mapped (`Collection[str]`, *optional*, defaults to `()`):
            Columns that the user has mapped by hand, which must be read.
    """

    def __init__(self, chat: str | None, mapped: Collection[str] = ()) -> None:
        self._chat = chat
        self._mapped = mapped
        self._kinds: dict[Reading, set[type]] = {}  # what rows turned out to be, for each way to read them
        self._latest: Reading | None = None
        self.knows_types = True  # whether rows come with the types of their columns, so that classes have names
        self._told: set[str] = set()
        self._unread_text: dict[str, None] = {}

    def note(self, reading: Reading, rows: Sequence[Mapping[str, Any]], parsed: Sequence[Row]) -> None:
        """
        Take in rows that were read alike.

        Args:
            reading ([`Reading`]):
                How they were read.
            rows (`Sequence[Mapping[str, Any]]`):
                The rows as they came.
            parsed (`Sequence[Row]`):
                What was read of each.

        Raises:
            ValueError: If a column that is not read says that the response is not all that a row teaches, or if one
                that is mapped by hand has no place in rows of this kind.
        """
        kinds = {type(row) for row in parsed} - {Skipped}
        reading = self._without_idle(reading, kinds)
        texts = [name for name in reading.unread if text_in(name, (row[name] for row in rows))]
        refuse_other_responses(reading, texts)
        self._latest, known = reading, self._kinds.setdefault(reading, set())
        if not kinds <= known:
            known |= kinds
            logger.info("%s", self._describe(reading))
        if new := [name for name in texts if name not in self._unread_text]:
            self._unread_text |= dict.fromkeys(new)
            logger.warning(
                "the layout %r does not read these columns, which hold text, pictures or sound: %s. Map those that "
                "belong to the rows with `columns=`, or leave them out on purpose by mapping them to 'ignore'.",
                reading.layout,
                listed(new),
            )
        self._look_at_systems(reading.columns.get("system"), rows, parsed)
        if not self.knows_types:
            self._look_at_numbers(reading, rows)

    def _look_at_numbers(self, reading: Reading, rows: Sequence[Mapping[str, Any]]) -> None:
        """Name a column of numbers where texts are expected: they may be classes, of which a stream has no names."""
        for part in ("response", "completion", "text"):
            column = reading.columns.get(part)
            values = (
                [row[column] for row in rows if row[column] is not None] if column not in (None, *self._told) else []
            )
            if values and all(isinstance(value, Integral) and not isinstance(value, bool) for value in values):
                self._told.add(column)
                logger.warning(
                    "the column %r holds whole numbers, which are read as text. If they are classes, write their "
                    "names into the rows first: streams and datasets with a format come without types.",
                    column,
                )

    def _look_at_systems(self, column: str | None, rows: Sequence[Mapping[str, Any]], parsed: Sequence[Row]) -> None:
        """Name a column of system prompts that give way to those in the messages themselves."""
        if column is None or column in self._told:
            return
        if any(_has_another_system(found, row[column]) for row, found in zip(rows, parsed, strict=True)):
            self._told.add(column)
            logger.warning(
                "the column %r and the first message of a row hold different system prompts: such messages are scored "
                "as they are, without the column",
                column,
            )

    def _without_idle(self, reading: Reading, kinds: set[type]) -> Reading:
        """The reading less what rows of this kind have no place for: raw text has no system turn, for one."""
        parts: tuple[str, ...] = ()
        if reading.layout == "prompt_completion" and PlainText in kinds:
            parts = ("system", "tools", "chat_template_kwargs")
        elif Instruction in kinds and self._chat is None:
            parts = ("tools", "chat_template_kwargs")
        idle = {part: reading.columns[part] for part in parts if part in reading.columns}
        mapped = sorted(column for column in idle.values() if column in self._mapped)
        if mapped and Conversation not in kinds:
            raise ValueError(
                f"`columns` maps {mapped}, and nothing would read them: rows of raw text have no turns. Pass rows of "
                "messages, a chat template, or `template=` as a callable, or leave them out of `columns`."
            )
        read = {part: column for part, column in reading.columns.items() if part not in idle}
        return Reading(reading.layout, read, (*reading.unread, *idle.values())) if idle else reading

    def result(self) -> DatasetReading | None:
        """The reading of rows with the latest columns; `None` before the first row."""
        return self._describe(self._latest) if self._latest else None

    def _describe(self, reading: Reading) -> DatasetReading:
        ends = "" if reading.layout == "tokenized" else ", end of turn or sequence included"
        return DatasetReading(
            layout=reading.layout,
            columns=reading.columns,
            template=self._template(self._kinds[reading]),
            learned=_LEARNED[reading.layout] + ends,
            unread=reading.unread,
            unread_text=tuple(name for name in self._unread_text if name in reading.unread),
        )

    def _template(self, kinds: set[type]) -> str:
        """The template of rows of these kinds, in words; a dataset may hold several."""
        names = {TokenRow: "token ids", PlainText: "raw text", Conversation: self._chat}
        names[Instruction] = self._chat or "the Alpaca prompt"
        found = [str(name) for kind, name in names.items() if kind in kinds]
        return f"as {' and '.join(dict.fromkeys(found)) or 'nothing that can be scored'}"


def _has_another_system(row: Row, system: Any) -> bool:
    if not isinstance(row, Conversation) or not isinstance(system, str) or not system.strip():
        return False
    return row.turns[0].role == "system" and row.turns[0].content.strip() != system.strip()
