"""Parts of a conversation that a chat template drops: they are looked for in the text that it renders."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from .layouts import text_in
from .rows import json_or_text, name_and_arguments


logger = logging.getLogger(__name__)

_USUAL_ROLES = frozenset({"system", "user", "assistant", "tool"})
# The ids tie a result to its call: few templates show them, and a model needs them only where its template does.
_OTHER_CHECKS = frozenset({"role", "content", "tool_calls", "tool_call_id", "id"})

# Reasoning is often marked by tags, which a template may put in other words while it keeps what they enclose.
_TAG = re.compile(r"</?[\w:|-]{1,30}>")

_MOST_KINDS = 50  # keys and roles come from the dataset, so that there may be any number of them
_LONGEST_EXAMPLE = 80


class Report:
    """Findings about the rows that went through a chat template. Each kind of finding is logged once."""

    def __init__(self) -> None:
        self._found: set[str] = set()
        self._dropped: set[str] = set()
        self._unknown_roles: set[str] = set()

    @property
    def dropped(self) -> tuple[str, ...]:
        """The parts of rows that are not in their text, as short phrases in alphabetical order."""
        return tuple(sorted(self._dropped))

    @property
    def unknown_roles(self) -> tuple[str, ...]:
        """Roles of rows that the template does not mention, in alphabetical order."""
        return tuple(sorted(self._unknown_roles))

    def tell(self, kind: str, message: str, *arguments: object) -> None:
        """Log a warning unless this kind was found before."""
        if kind not in self._found:
            self._found.add(kind)
            logger.warning(message, *arguments)

    def look(self, text: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any], shows_tools: bool) -> None:
        """
        Look for each part of a row in its text.

        Args:
            text (`str`):
                What the template made of the row.
            messages (`Sequence[Mapping]`):
                The messages as the template got them.
            tools (`Sequence`):
                The tools as the template got them.
            shows_tools (`bool`):
                Whether the template shows tools at all: their names alone may also be in the calls.
        """
        row = _Text(text)
        for message in messages:
            role = _word(message["role"])
            self._look_for(f"content of {role} turns", row.lacks_of_turn, message)
            for key, value in message.items():
                if key not in _OTHER_CHECKS and text_in(key, [value]):  # what only describes a turn is no loss
                    self._look_for(f"{_word(key)} of {role} turns", row.lacks, _longest_text(value))
            for call in message.get("tool_calls") or ():
                self._look_for("tool calls", row.lacks_of_call, call)
        for tool in tools:
            self._look_for("tools", row.lacks if shows_tools else str, _name_of_tool(tool))

    def _look_for(self, phrase: str, lacks: Callable[[Any], str | None], part: Any) -> None:
        missing = lacks(part) if self._is_new(phrase) else None
        if missing is None:
            return
        self._dropped.add(phrase)
        self.tell(
            phrase,
            "The chat template drops or rewrites %s: %s is not in the text of a row. Training with this template does "
            "not see it either. If it matters, pass `template='path/to/template.jinja'` with one that shows it, or "
            "write it into the content of a turn that is shown.",
            phrase,
            clipped(missing),
        )

    def look_at_arguments(self, source: str, arguments: Mapping[str, Any]) -> None:
        """Name the arguments of rows that the source of the template does not mention, and those never handed on."""
        for name in arguments:
            phrase = f"{_word(name)} of chat_template_kwargs"
            is_used = name != "chat_template" and (name in source or name == "tools" or arguments[name] is None)
            if not is_used and self._is_new(phrase):
                self._dropped.add(phrase)
                self.tell(phrase, "A row has %s, which the chat template in use does not read.", phrase)

    @property
    def lacks_content(self) -> bool:
        """Whether what a turn says was dropped."""
        return any(phrase.startswith("content of") for phrase in self._dropped)

    def _is_new(self, phrase: str) -> bool:
        return phrase not in self._dropped and len(self._dropped) < _MOST_KINDS

    def look_at_roles(self, source: str, messages: Sequence[Mapping[str, Any]]) -> None:
        """Name the roles that are neither usual nor mentioned in the source of the template."""
        for role in {message["role"] for message in messages} - _USUAL_ROLES:
            is_new = len(self._unknown_roles) < _MOST_KINDS and _word(role) not in self._unknown_roles
            if is_new and not any(f"{quote}{role}{quote}" in source for quote in "'\""):
                self._unknown_roles.add(_word(role))
                self.tell(
                    f"role {role}",
                    "The chat template does not mention the role %s, which a row has: the model may never have seen "
                    "such a turn. Rename it if it is one of system, user, assistant and tool, because in messages "
                    "only turns of the assistant are learned from.",
                    clipped(role),
                )


def clipped(text: str) -> str:
    """Text of a dataset for a message: escaped, in quotes, and not long."""
    written = repr(text.strip()[:_LONGEST_EXAMPLE])
    return written if len(written) <= _LONGEST_EXAMPLE else f"{written[: _LONGEST_EXAMPLE - 4]}...{written[0]}"


class _Text:
    """The text of a row, in which parts are looked for: as they are, and if that fails without white space."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._is_squashed = False
        self._end = 0  # of the turn that was found last

    def lacks(self, part: str) -> str | None:
        """The part if it is nowhere in the text."""
        return None if self._find(part, 0) is not None else part

    def lacks_of_turn(self, message: Mapping[str, Any]) -> str | None:
        """
        The part of a content that is missing.

        Turns stand one after the other, so that the answer `yes` is not found in another turn; except for system
        turns, which some templates move.
        """
        content = message["content"]
        if message["role"] == "system":
            return self.lacks(content)
        if self._goes_on_with(content):
            return None
        pieces = [piece for piece in _TAG.split(content) if piece.strip()]
        if len(pieces) < 2:
            return pieces[0] if pieces else content
        return next((piece for piece in pieces if not self._goes_on_with(piece)), None)

    def lacks_of_call(self, call: Any) -> str | None:
        """The first name or value of a call that is nowhere in the text."""
        name, arguments = name_and_arguments(call)
        if isinstance(arguments, str):
            if self.lacks(arguments) is None:
                return self.lacks(name)
            arguments = json_or_text(arguments)
        return next((part for part in (name, *_texts(arguments)) if self.lacks(part)), None)

    def _goes_on_with(self, part: str) -> bool:
        end = self._find(part, self._end)
        if end is not None:
            self._end = end
        return end is not None

    def _find(self, part: str, start: int) -> int | None:
        """The end of the part in the text; `None` if it is not there."""
        part = part.strip()
        if not self._is_squashed:
            place = self._text.find(part, start)
            if place >= 0:
                return place + len(part)
            self._is_squashed = True  # from here on, or else a long conversation would take quadratic time
            start = len(_squashed(self._text[:start])) if start else 0
            self._end = len(_squashed(self._text[: self._end]))
            self._text = _squashed(self._text)
        for form in _forms(part):
            place = self._text.find(form, start)
            if place >= 0:
                return place + len(form)
        return None


def _forms(part: str) -> Iterator[str]:
    """Forms in which a template may write a text: with other white space, or escaped in JSON or a Python literal."""
    yield _squashed(part)
    for written in (json.dumps(part, ensure_ascii=False), json.dumps(part), repr(part)):
        yield _squashed(written[1:-1])


def _squashed(text: str) -> str:
    return "".join(text.split())


def _name_of_tool(tool: Any) -> str:
    return name_and_arguments(tool)[0] or _longest_text(tool)


def _texts(value: Any) -> Iterator[str]:
    """All texts in a nested value, names of keys included."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):  # Arrow gives every dict all keys of its column
            waiting += [part for item in value.items() if item[1] is not None for part in item]
        elif isinstance(value, list | tuple):
            waiting += value


def _longest_text(value: Any) -> str:
    return max(_texts(value), key=len, default="")


def _word(name: Any) -> str:
    """A key or a role of the dataset for a phrase."""
    return name if isinstance(name, str) and name.isidentifier() and len(name) <= 40 else repr(str(name)[:40])
