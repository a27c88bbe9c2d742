"""
Messages of a conversation, read into turns: as a list, as JSON text, as a dict of lists, or a single one.

Roles, keys and marks of other sets (`from` and `value`, `human` and `gpt`, `loss_weight`) are understood.
"""

from __future__ import annotations

from typing import Any

from hf_dlc.scores.columns import INVALID_ROW

from .rows import Turn, json_or_text
from .values import UnusableError, clean, invalid, is_missing, is_nothing, json_of, plain, text_of, text_or_empty


# Roles as other sets write them, in small letters. What stands in neither table is a matter of the chat template.
_ROLES = {
    "system": "system",
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "chatbot", "model", "ai", "bing", "bard"), "assistant"),
    **dict.fromkeys(("tool", "observation", "tool_response", "tool_result", "function_response"), "tool"),
}
_CALL_ROLES = frozenset({"function_call", "function-call", "tool_call", "tool_calls", "tool_caller"})
_MARKS = ("loss_weight", "weight", "train", "training", "loss")
_TURN_KEYS = frozenset({"role", "from", "content", "value", "tool_calls", "function_call", *_MARKS})
_ROLE_KEYS, _TEXT_KEYS = {"role", "from"}, {"content", "value", "tool_calls"}


def messages_of(value: Any) -> Any:
    """Messages as a list, also from JSON text, from a dict of lists, and from a single message."""
    value = plain(value)
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = json_of(value)
    if not isinstance(value, dict):
        return value
    role = _either(value, "role", "from")
    if not isinstance(role, list):
        return [value]
    columns = {key: values for key, values in value.items() if isinstance(values, list)}
    if len({len(values) for values in columns.values()}) > 1:
        raise invalid(value, "a list of messages, or a dict of lists of one length")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def text_or_messages(value: Any) -> Any:
    """A prompt or a completion: text stays text, also if it is JSON, unless that is messages and nothing else."""
    if not isinstance(value, str):
        return messages_of(value)
    if value.lstrip()[:1] not in ("[", "{"):
        return value
    found = json_or_text(value)
    parts = found if isinstance(found, list) else [found]
    is_messages = all(
        isinstance(part, dict) and part.keys() & _ROLE_KEYS and part.keys() & _TEXT_KEYS for part in parts
    )
    return messages_of(found) if parts and is_messages else value


def turns_of(value: Any, role_of_text: str | None) -> list[Turn]:
    """Turns of a list of messages; where `role_of_text` is given, a text or nothing is one turn of that role."""
    if role_of_text is not None and not isinstance(value, list):
        text = text_or_empty(value)
        return [Turn(role_of_text, text, learned=role_of_text == "assistant")] if text else []
    if not isinstance(value, list):
        raise invalid(value, "a list of messages, each a dict with role and content (or from and value)")
    return [_numbered_turn(number, message) for number, message in enumerate(value)]


def _numbered_turn(number: int, message: Any) -> Turn:
    try:
        return _turn(message)
    except UnusableError as unusable:
        raise UnusableError(unusable.reason, f"message {number}: {unusable.why}") from None


def _turn(message: Any) -> Turn:
    if not isinstance(message, dict):
        raise invalid(message, "a dict with role and content (or from and value)")
    role = _either(message, "role", "from")
    if not isinstance(role, str):
        raise invalid(message, "a dict with the name of a role under 'role' or 'from'")
    learned = _is_learned(message)
    name = role.strip().rstrip(":").lower()
    if name in _CALL_ROLES:
        return _call_turn(_content(_either(message, "content", "value")), learned)
    if message.get("train_detail"):
        raise UnusableError(INVALID_ROW, "'train_detail' marks parts of a text, and only whole turns can be marked")
    role, calls = _ROLES.get(name, role), _calls(message)
    if not calls and not {"content", "value"} & message.keys() and message.keys() - _TURN_KEYS:
        raise invalid(message, "a dict with the text under 'content' or 'value'")
    content = _content(_either(message, "content", "value"))
    extra = {key: clean(item) for key, item in message.items() if key not in _TURN_KEYS and item is not None}
    return Turn(role, content, learned and role == "assistant", calls, extra=extra)


def _either(message: dict[str, Any], name: str, synonym: str) -> Any:
    """The value under one of two names: Arrow gives every message of a column all keys, the missing ones as None."""
    value = message.get(name)
    return message.get(synonym) if value is None else value


def _calls(message: dict[str, Any]) -> list[dict] | None:
    """Tool calls, also as JSON text, and the one call of the older key `function_call`."""
    calls = None if is_nothing(message.get("tool_calls")) else message["tool_calls"]
    if isinstance(calls, str):
        calls = json_of(calls)
    if not calls and isinstance(call := message.get("function_call"), dict) and call.get("name"):
        calls = [{"type": "function", "function": call}]
    if not isinstance(calls, list | None):
        raise invalid(calls, "a list of calls under 'tool_calls'")
    return clean(calls) or None


def _call_turn(text: str, learned: bool) -> Turn:
    """A turn that is nothing but calls written as JSON, as ShareGPT sets have them."""
    calls = json_or_text(text)
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        return Turn("assistant", text, learned)
    tool_calls = [{"type": "function", "function": call} for call in calls]
    return Turn("assistant", "", learned, tool_calls, call_text=text)


def _is_learned(message: dict[str, Any]) -> bool:
    marks = [message[name] for name in _MARKS if message.get(name) is not None]
    if not all(isinstance(mark, bool | int | float) for mark in marks):
        raise invalid(marks, f"numbers or truth values under {', '.join(_MARKS)}")
    return all(marks)


def _content(value: Any) -> str:
    """Text, or the texts of typed parts one after the other. Images, reasoning and other parts cannot be read."""
    if not isinstance(value, list):
        return "" if is_missing(value) else text_of(value)
    return "".join(map(_part, value))


def _part(part: Any) -> str:
    if not isinstance(part, dict):
        return text_of(part)
    kind = part.get("type")
    if kind not in ("text", None):
        raise invalid(part, "a part of the type 'text'")
    return text_of(next((part[key] for key in ("text", "value", "content") if part.get(key) is not None), None))
