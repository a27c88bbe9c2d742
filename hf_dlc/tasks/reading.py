"""The reading of a dataset: its layout and columns, for people and for the record of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
