"""The reading of a dataset: its layout and columns, for people and for the record of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any


_SHOWN = 12  # names of columns in a message


@dataclass(frozen=True)
class DatasetReading:
    """
    Facts about how a dataset was read.

    Args:
        layout (`str`):
            One of `hf_dlc.tasks.text.layouts.LAYOUTS`, or `"images"`.
        columns (`dict[str, str]`):
            From a part of a row to the column that it was read from.
        template (`str`):
            What the rows went through: a chat template, the Alpaca prompt, or nothing.
        learned (`str`):
            What in a row is scored, because training would learn from it.
        unread (`tuple[str, ...]`):
            Columns that were not read.
        unread_text (`tuple[str, ...]`):
            Those among them that hold text, pictures or sound.
        dropped (`tuple[str, ...]`):
            Parts of messages that the chat template does not show.
        unknown_roles (`tuple[str, ...]`):
            Roles of messages that the chat template does not know.
    """

    layout: str
    columns: dict[str, str]
    template: str
    learned: str
    unread: tuple[str, ...] = ()
    unread_text: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    unknown_roles: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; columns are pairs, whose order a file keeps."""
        return {**asdict(self), "columns": [list(pair) for pair in self.columns.items()]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DatasetReading:
        """
        Read what `to_json` made, by way of a file.

        Raises:
            ValueError: If it is of other types.
        """
        texts, names = ("layout", "template", "learned"), ("unread", "unread_text", "dropped", "unknown_roles")
        columns, lists = dict(values["columns"]), {name: tuple(values[name]) for name in names}
        told = {name: values[name] for name in texts}
        every = [*told.values(), *columns, *columns.values(), *(one for found in lists.values() for one in found)]
        if not all(isinstance(text, str) for text in every):
            raise ValueError("a reading is made of texts")
        return cls(columns=columns, **told, **lists)

    def with_others(self, others: Sequence[DatasetReading]) -> DatasetReading:
        """The reading of all rows, of which others were read elsewhere: all that was left out is named."""
        together = (self, *(one for one in others if (one.layout, one.columns) == (self.layout, self.columns)))
        names = ("unread", "unread_text", "dropped", "unknown_roles")
        union = {name: tuple(dict.fromkeys(text for one in together for text in getattr(one, name))) for name in names}
        kinds = dict.fromkeys(kind for one in together for kind in one.template.removeprefix("as ").split(" and "))
        if len(kinds) > 1:  # some blocks may have held nothing but skipped rows
            kinds.pop("nothing that can be scored", None)
        return replace(self, template=f"as {' and '.join(kinds)}", **union)

    def __str__(self) -> str:
        columns = (
            f"{column!r}" if part == column else f"{column!r} as {part}" for part, column in self.columns.items()
        )
        line = f"rows are read as {self.layout}: {', '.join(columns)}; {self.template}; learned: {self.learned}"
        unread = f"; not read: {listed(self.unread)}" if self.unread else ""
        dropped = f"; not shown by the template: {', '.join(self.dropped)}" if self.dropped else ""
        roles = f"; unknown to the template: the roles {listed(self.unknown_roles)}" if self.unknown_roles else ""
        return f"{line}{unread}{dropped}{roles}"


def listed(names: Sequence[str]) -> str:
    """Names in quotes for a message, the first dozen of them."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
