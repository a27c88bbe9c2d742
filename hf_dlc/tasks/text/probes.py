"""Made-up conversations, which show what a chat template does: it is code, and nothing else tells."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template


# What a chat template, which is code from elsewhere, raises over a row that it does not accept.
RENDERING_ERRORS = (TemplateError, TypeError, ValueError, LookupError, AttributeError)

_CALL_NAME = "hf_dlc_probe_call"
_TOOL_NAME = "hf_dlc_probe_tool"
_TEXT_ARGUMENTS = '{"hf_dlc_probe_key": "a"}'
ASKED = [{"role": "user", "content": " What is it? \n"}]
SAID = [{"role": "assistant", "content": "\n It is this. "}]
_THOUGHT = [{"role": "assistant", "content": "<think>\nLet me see.\n</think>\n\nThat."}]
_SYSTEM = [{"role": "system", "content": " Be brief. "}]
_CALL = {"type": "function", "id": "abcdefghi", "function": {"name": _CALL_NAME, "arguments": {"a": 1}}}
_CALLED = [{"role": "assistant", "content": "", "tool_calls": [_CALL]}]
_RESULT = [{"role": "tool", "content": '{"b": 2}', "tool_call_id": "abcdefghi"}]
_SCHEMA = {"name": _CALL_NAME, "description": "D.", "parameters": {"type": "object", "properties": {}}}


class _Probe(NamedTuple):
    """A conversation, and the arguments that a template gets with it."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    add_generation_prompt: bool = False


_CALLING = _Probe([*ASKED, *_CALLED, *_RESULT, *SAID], [{"type": "function", "function": _SCHEMA}])
_SHORT_PROBES = (
    _Probe(ASKED, add_generation_prompt=True),
    _Probe([*ASKED, *SAID]),
    _Probe([*_SYSTEM, *ASKED, *SAID]),
    _Probe([*ASKED, *_THOUGHT]),
    _Probe([*ASKED, {**SAID[0], "reasoning_content": "Let me see."}]),
)
# With another tool than the one that is called: a template may show tools and no calls.
_OTHER_TOOLS = [{"type": "function", "function": {**_SCHEMA, "name": _TOOL_NAME}}]
_CALL_PROBES = (
    _CALLING._replace(tools=_OTHER_TOOLS),
    _CALLING._replace(tools=None),
    _Probe([*ASKED, *_CALLED], _OTHER_TOOLS),
    _Probe([*ASKED, *_CALLED]),
)
_TOOL_PROBES = (
    _Probe([*ASKED, *SAID], _OTHER_TOOLS),
    _Probe([*_SYSTEM, *ASKED, *SAID], _OTHER_TOOLS),
    _CALLING._replace(tools=_OTHER_TOOLS),
)
_LONG_PROBES = (
    _Probe([*ASKED, *SAID, *ASKED, *SAID]),
    _Probe([*_SYSTEM, *ASKED, *_THOUGHT, *ASKED, *SAID], add_generation_prompt=True),
    _Probe([*ASKED, *SAID, *_SYSTEM, *ASKED]),
    _Probe([*SAID, *ASKED, *SAID]),
    _Probe([*ASKED, *ASKED, *SAID]),
    _CALLING,
    _CALLING._replace(messages=[*_SYSTEM, *_CALLING.messages]),
    _Probe([*ASKED, {**SAID[0], "tool_calls": [_CALL, _CALL]}, *_RESULT, *_RESULT, *SAID]),
)


_REASONING = re.compile(r"<think>.*?</think>\s*", re.DOTALL)


def renders_calls(text: str, special_tokens: Mapping[str, str]) -> bool:
    """Whether a tool call, made with or without tools at hand, is in the text of its conversation."""
    return any(_CALL_NAME in (_render(text, probe, special_tokens) or "") for probe in _CALL_PROBES)


def quotes_arguments(text: str, special_tokens: Mapping[str, str]) -> bool:
    """Whether arguments of a call that are JSON text come out as a string within JSON."""
    call = {**_CALL, "function": {"name": _CALL_NAME, "arguments": _TEXT_ARGUMENTS}}
    for probe in _CALL_PROBES:
        messages = [{**one, "tool_calls": [call]} if "tool_calls" in one else one for one in probe.messages]
        rendered = _render(text, probe._replace(messages=messages), special_tokens) or ""
        if json.dumps(_TEXT_ARGUMENTS)[1:-1] in rendered:
            return True
    return False


def shows_tools(text: str, special_tokens: Mapping[str, str]) -> bool:
    """Whether some conversation shows the name of a tool. (A template that accepts no tools drops none.)"""
    rendered = [_render(text, probe, special_tokens) for probe in _TOOL_PROBES]
    return not any(rendered) or any(_TOOL_NAME in one for one in rendered if one)


def render_alike(text: str, other: str, special_tokens: Mapping[str, str], forgets_reasoning: bool) -> bool:
    """
    Whether two chat templates render all probes alike, and refuse the same ones.

    Args:
        text (`str`):
            One chat template.
        other (`str`):
            Another one.
        special_tokens (`Mapping[str, str]`):
            From names of the tokenizer's special tokens to their text.
        forgets_reasoning (`bool`):
            Whether only one of the two keeps the reasoning of earlier turns: over several turns they are compared
            without it.
    """
    for probe in (*_SHORT_PROBES, *_LONG_PROBES):
        one, two = (_render(template, probe, special_tokens) for template in (text, other))
        if forgets_reasoning and probe in _LONG_PROBES:
            one, two = (found and " ".join(_REASONING.sub("", found).split()) for found in (one, two))
        if one != two:
            return False
    return True


def _render(text: str, probe: _Probe, special_tokens: Mapping[str, str]) -> str | None:
    """Text of a probe; `None` if the template does not accept it."""
    try:
        [rendered], _ = render_jinja_template(
            [probe.messages],
            tools=probe.tools,
            chat_template=text,
            add_generation_prompt=probe.add_generation_prompt,
            **special_tokens,
        )
    except RENDERING_ERRORS:
        return None
    return rendered
