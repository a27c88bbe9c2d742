"""Chat templates: conversations to text, and where in it the assistant's turns are."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from .dropped import Report, clipped
from .rows import Conversation, Turn, name_and_arguments


logger = logging.getLogger(__name__)

TEMPLATES_FOLDER = Path(__file__).resolve().parent / "templates"
FAMILIES = (
    "chatml",
    "gemma",
    "gemma3",
    "llama3",
    "llama3_1",
    "llama3_2",
    "mistral",
    "qwen2_5",
    "qwen3",
    "smollm2",
)

_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")
_REASONING = re.compile(r"<think>.*?</think>\s*", re.DOTALL)

# What a chat template, which is code from elsewhere, raises over a row that it does not accept.
_RENDERING_ERRORS = (TemplateError, TypeError, ValueError, LookupError, AttributeError)

Span = tuple[int, int]


class Draft(NamedTuple):
    """A row as text, before tokenisation. The targets are `spans` of characters, or what follows `prompt`."""

    text: str
    prompt: str = ""
    spans: list[Span] | None = None
    rendered: bool = True  # by a chat template, which writes its special tokens itself


def label_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """How an error message calls a tokenizer."""
    return f"{tokenizer.name_or_path or '(not loaded from a path)'} ({type(tokenizer).__name__})"


@lru_cache(maxsize=256)
def warn_once(message: str) -> None:
    """Log a warning the first time it comes up."""
    logger.warning(message)


class RefusedRowError(Exception):
    """The template does not accept this conversation."""


class ChatTemplate:
    """
    The chat templates of a tokenizer: conversations to text, and where its targets are.

    Some tokenizers have a template of its own for conversations with tools; the tools of a row, if only an empty list,
    pick it as `tokenizer.get_chat_template(None, tools)` does. A text that is given stands for all of them.

    What the template does to rows, such as dropping a system turn, is in `report`, and logged when it is found.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer, for its templates and special tokens.
        text (`str`, *optional*):
            A template to use in the place of the tokenizer's own.

    Raises:
        ValueError: If the tokenizer has no template that rows with or without tools can use.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: str | None = None) -> None:
        self.report = Report()
        self._tokenizer = tokenizer
        named = _named_templates(tokenizer) if text is None else {"default": text}
        self._names = sorted(named)
        plain, with_tools = named.get("default"), named.get("tool_use", named.get("default"))
        if with_tools is None:
            raise ValueError(self._no_default())
        self._with_tools = _Template(tokenizer, with_tools)
        if plain == with_tools:
            self._plain: _Template | None = self._with_tools
        else:
            self._plain = None if plain is None else _Template(tokenizer, plain)
        if "strftime_now" in self.text:
            warn_once(
                "The chat template writes today's date into every row, so that scores depend on the day. Add a "
                "column `chat_template_kwargs` with `date_string`, or pass a template file with a fixed date."
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "report": Report()}  # another process has found out nothing yet

    @property
    def texts(self) -> list[str]:
        """The templates that rows may go through, that of rows without tools first."""
        return [template.text for template in self._templates]

    @property
    def text(self) -> str:
        """All of `texts`, one after the other."""
        return "\n".join(self.texts)

    @property
    def training_texts(self) -> list[str | None]:
        """For each of `texts` the template with markers; `None` where there is none."""
        return [template.training_text for template in self._templates]

    @property
    def dropped(self) -> tuple[str, ...]:
        """What the template dropped of the rows so far, such as `("content of system turns", "tools")`."""
        return self.report.dropped

    @property
    def unknown_roles(self) -> tuple[str, ...]:
        """Roles of the rows so far that the template does not mention."""
        return self.report.unknown_roles

    @property
    def _templates(self) -> list[_Template]:
        return [t for t in dict.fromkeys((self._plain, self._with_tools)) if t is not None]

    def draft(self, conversation: Conversation) -> Draft:
        """
        The text of a conversation with its prompt or its target spans.

        Raises:
            ValueError: If the assistant's turns cannot be found, or if the tokenizer has no template for the row.
            RefusedRowError: If the template does not accept the row.
        """
        options = {"tools": conversation.tools, **conversation.template_kwargs}
        template = self._plain if options["tools"] is None else self._with_tools
        if template is None:
            raise ValueError(self._no_default())
        messages = template.messages(conversation.turns)
        try:
            draft = template.draft(conversation, messages, options)
        except RefusedRowError as refused:
            if any(map(_has_arguments_as_text, conversation.turns)):
                raise RefusedRowError(
                    f"{refused} (arguments of its tool calls are JSON text, not parsed)"
                ) from refused
            raise
        self._look(template, conversation, messages, draft, options["tools"] or ())
        return draft

    def sample(self, conversation: Conversation) -> Draft:
        """As `draft`, for a made-up conversation without tools: what happens to it is no finding."""
        if self._plain is None:
            raise RefusedRowError("there is no template for rows without tools")
        return self._plain.draft(conversation, self._plain.messages(conversation.turns), conversation.template_kwargs)

    def _look(
        self,
        template: _Template,
        conversation: Conversation,
        messages: list[dict[str, Any]],
        draft: Draft,
        tools: Sequence[Any],
    ) -> None:
        report, turns = self.report, conversation.turns
        report.look(draft.text, messages, tools, bool(tools) and template.shows_tools)
        report.look_at_roles(template.text, messages)
        report.look_at_arguments(template.text, conversation.template_kwargs)
        self._look_at_calls(template, [call for turn in turns for call in turn.tool_calls or ()], tools)
        if not report.lacks_content:  # which also makes the prompt and the marks differ
            self._look_at_targets(draft, turns)

    def _look_at_calls(self, template: _Template, calls: Sequence[Any], tools: Sequence[Any]) -> None:
        """Whether calls are text to the template, or bring what no model should write."""
        arguments = [name_and_arguments(call)[1] for call in calls]
        if calls and not template.renders_calls:
            self.report.tell(
                "calls as text",
                "The chat template renders no tool calls: they are put into the content as JSON text. Pass "
                "`template='path/to/template.jinja'` with one that renders them as the model should write them.",
            )
        elif any(isinstance(one, str) for one in arguments) and template.quotes_arguments:
            self.report.tell(
                "arguments as text",
                "The arguments of tool calls are JSON text, which the chat template writes as a quoted string, such "
                'as "{\\"city\\": ...}"; training with it does the same. Parse them (`json.loads`) before scoring.',
            )
        if _holds_null([*tools, *arguments]):
            self.report.tell(
                "nulls",
                "Tools or arguments of tool calls hold null values. Arrow adds them where the rows of a dataset have "
                "different keys. If yours have none, read the rows from a JSON file, or make the dataset with "
                "`Dataset.from_list(rows, on_mixed_types='use_json')`.",
            )

    def _look_at_targets(self, draft: Draft, turns: Sequence[Turn]) -> None:
        """Whether the targets begin where the prompt of generation ends, and all learned turns are among them."""
        if not draft.text.startswith(draft.prompt):
            self.report.tell(
                "prompt",
                "The chat template renders a prompt alone otherwise than with its completion, which is learned from "
                "where the two part: the prompt goes on with %s. The model meets another prompt when it is used.",
                clipped(_behind_common_head(draft.prompt, draft.text)),
            )
        if draft.spans is not None and sum(start < end for start, end in draft.spans) < _learned_turns(turns):
            self.report.tell(
                "marks",
                "The chat template marks fewer turns with {% generation %} than the assistant has in a row: nothing "
                "is learned from the others. Pass `template='path/to/template.jinja'` with one that marks all.",
            )

    def _no_default(self) -> str:
        return (
            f"The tokenizer {label_of(self._tokenizer)} has chat templates under the names {self._names} only, and "
            "none is for this row: `default` is for rows without tools, `tool_use` or else `default` for rows with "
            "tools. Pass `template='path/to/chat_template.jinja'`, or set `tokenizer.chat_template`."
        )


def _learned_turns(turns: Sequence[Turn]) -> int:
    return sum(turn.learned and bool(turn.content.strip() or turn.tool_calls) for turn in turns)


def _behind_common_head(text: str, other: str) -> str:
    same = (i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b)
    return text[next(same, len(other)) :]


def _named_templates(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    templates = tokenizer.chat_template
    if isinstance(templates, list | tuple):  # as `tokenizer_config.json` has them
        templates = {template["name"]: template["template"] for template in templates}
    return templates if isinstance(templates, dict) else {"default": templates}


class _Template:
    """One chat template with the tokenizer's special tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: str) -> None:
        self._tokenizer = tokenizer
        self._special_tokens = {k: str(v) for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)}
        self.text = text

    def messages(self, turns: Sequence[Turn]) -> list[dict[str, Any]]:
        """The turns as the template takes them."""
        return [turn.message(self.renders_calls) for turn in turns]

    def draft(self, conversation: Conversation, messages: list[dict[str, Any]], options: dict[str, Any]) -> Draft:
        """The text of a conversation with its prompt or its target spans."""
        if not self._tokenizer.is_fast and conversation.prompt_turns is None:
            raise ValueError(
                "Assistant turns are found by character offsets, which the slow tokenizer "
                f"{label_of(self._tokenizer)} does not give. Load a fast one, or use rows with a prompt and "
                "a completion."
            )
        if conversation.prompt_turns is not None:
            text, _ = self._render(messages, options)
            prompt, _ = self._render(messages[: conversation.prompt_turns], options, add_generation_prompt=True)
            return Draft(text, prompt)
        if self.training_text is None:
            text, _ = self._render(messages, options)
            spans = self._spans_by_prefix(text, messages, conversation.turns, options)
            if spans is None or not self._has_plain_turns:
                raise ValueError(_not_findable(self._tokenizer))
            return Draft(text, spans=spans)
        text, spans = self._render(messages, options, self.training_text, return_assistant_tokens_mask=True)
        return Draft(text, spans=_learned_spans(spans, conversation.turns))

    @cached_property
    def training_text(self) -> str | None:
        """The template with markers: itself, or the variant of ours that renders the same; `None` if there is none."""
        if _MARKER.search(self.text):
            return self.text
        name = _family(self.text, tuple(self._special_tokens.items()))
        logger.debug("Assistant turns are found by %s.", f"the training template {name}" if name else "rendering each")
        return _training_template(name) if name else None

    @cached_property
    def renders_calls(self) -> bool:
        """Whether a tool call, made with or without tools at hand, is in the text of its conversation."""
        return any(_CALL_NAME in self._try(probe) for probe in _CALL_PROBES)

    @cached_property
    def quotes_arguments(self) -> bool:
        """Whether arguments that are JSON text come out as a string within JSON."""
        return any(json.dumps(_TEXT_ARGUMENTS)[1:-1] in self._try(_with_text(probe)) for probe in _CALL_PROBES)

    @cached_property
    def shows_tools(self) -> bool:
        """Whether some conversation shows the name of a tool. (A template that accepts no tools drops none.)"""
        texts = [self._try(probe) for probe in _TOOL_PROBES]
        return not any(texts) or any(_TOOL_NAME in text for text in texts)

    def _try(self, probe: _Probe) -> str:
        return _try_render(self.text, probe, self._special_tokens)[0] or ""

    def _render(
        self, messages: list[dict[str, Any]], options: dict[str, Any], template: str | None = None, **switches: bool
    ) -> tuple[str, list[Span]]:
        options = dict(options)
        options.pop("chat_template", None)  # a row may fill in the template, but not bring code of its own
        try:
            arguments = {**self._tokenizer.special_tokens_map, **options}
            [text], spans = render_jinja_template(
                [messages], chat_template=template or self.text, **arguments, **switches
            )
        except _RENDERING_ERRORS as error:
            raise RefusedRowError(f"{type(error).__name__}: {error}") from error
        return text, spans[0] if spans else []

    @cached_property
    def _has_plain_turns(self) -> bool:
        """
        Whether an assistant turn is just a header, the content and an end of turn.

        Where a template writes more (reasoning blocks, channels) or less (no end of turn), what training learns from
        is a decision that only a training template can tell.
        """
        messages = [*_ASKED, *_SAID, *_ASKED, *_SAID]
        turns = [Turn(message["role"], "", learned=message["role"] == "assistant") for message in messages]
        try:
            text, _ = self._render(messages, {})
            spans = self._spans_by_prefix(text, messages, turns, {})
        except RefusedRowError:
            return False
        parts = [text[start:end].partition(_SAID[0]["content"].strip()) for start, end in spans or []]
        return bool(parts) and all(not before.strip() and said and after.strip() for before, said, after in parts)

    def _spans_by_prefix(
        self, text: str, messages: list[dict[str, Any]], turns: Sequence[Turn], options: dict[str, Any]
    ) -> list[Span] | None:
        """
        The learned turns of a template without markers: from after the generation prompt to the end of the turn.

        `None` if a turn is rendered differently when others follow, so that its place cannot be found.
        """
        spans = []
        for i in (i for i, turn in enumerate(turns) if turn.learned):
            upto, _ = self._render(messages[: i + 1], options)
            if not text.startswith(upto):  # some templates end every rendering with EOS
                upto = upto.removesuffix(self._tokenizer.eos_token or "")
            head = self._head(messages[:i], options, upto)
            if not (head and text.startswith(upto) and upto.startswith(head) and len(head) < len(upto)):
                return None
            spans.append((len(head), len(upto)))
        return spans

    def _head(self, messages: list[dict[str, Any]], options: dict[str, Any], upto: str) -> str:
        """What stands before an assistant turn; `""` if that cannot be told."""
        if messages:
            return self._render(messages, options, add_generation_prompt=True)[0]
        asked, _ = self._render(_ASKED, options)  # no template renders nothing, so its header is taken from elsewhere
        cue = self._render(_ASKED, options, add_generation_prompt=True)[0].removeprefix(asked)
        return upto[: upto.find(cue) + len(cue)] if cue in upto else ""


def _learned_spans(spans: list[Span], turns: Sequence[Turn]) -> list[Span]:
    said = [turn for turn in turns if turn.role == "assistant"]
    if all(turn.learned for turn in said):
        return spans
    if len(spans) != len(said):
        raise RefusedRowError(f"{len(said)} assistant turns, some not learned from, are marked as {len(spans)} spans")
    return [span for span, turn in zip(spans, said, strict=True) if turn.learned]


def _has_arguments_as_text(turn: Turn) -> bool:
    """Whether the arguments of a call are JSON text."""
    return any(isinstance(name_and_arguments(call)[1], str) for call in turn.tool_calls or ())


def _holds_null(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(item is None or _holds_null(item) for item in value.values())
    return isinstance(value, list) and any(map(_holds_null, value))


def _not_findable(tokenizer: PreTrainedTokenizerBase) -> str:
    return (
        f"The chat template of the tokenizer {label_of(tokenizer)} has no {{% generation %}} markers, and its "
        "assistant turns cannot be found without them: it renders a turn differently once others follow, or puts "
        "more around the content than a header and an end of turn. Pass `template='path/to/training_template.jinja'` "
        "with markers around what the assistant writes."
    )


# Which training template renders what this template renders

_CALL_NAME = "hf_dlc_probe_call"
_TOOL_NAME = "hf_dlc_probe_tool"
_TEXT_ARGUMENTS = '{"hf_dlc_probe_key": "a"}'
_ASKED = [{"role": "user", "content": " What is it? \n"}]
_SAID = [{"role": "assistant", "content": "\n It is this. "}]
_THOUGHT = [{"role": "assistant", "content": "<think>\nLet me see.\n</think>\n\nThat."}]
_SYSTEM = [{"role": "system", "content": " Be brief. "}]
_CALL = {"type": "function", "id": "abcdefghi", "function": {"name": _CALL_NAME, "arguments": {"a": 1}}}
_CALLED = [{"role": "assistant", "content": "", "tool_calls": [_CALL]}]
_RESULT = [{"role": "tool", "content": '{"b": 2}', "tool_call_id": "abcdefghi"}]
_SCHEMA = {"name": _CALL_NAME, "description": "D.", "parameters": {"type": "object", "properties": {}}}


class _Probe(NamedTuple):
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    add_generation_prompt: bool = False


_CALLING = _Probe([*_ASKED, *_CALLED, *_RESULT, *_SAID], [{"type": "function", "function": _SCHEMA}])
_SHORT_PROBES = (
    _Probe(_ASKED, add_generation_prompt=True),
    _Probe([*_ASKED, *_SAID]),
    _Probe([*_SYSTEM, *_ASKED, *_SAID]),
    _Probe([*_ASKED, *_THOUGHT]),
    _Probe([*_ASKED, {**_SAID[0], "reasoning_content": "Let me see."}]),
)
# With another tool than the one that is called: a template may show tools and no calls.
_OTHER_TOOLS = [{"type": "function", "function": {**_SCHEMA, "name": _TOOL_NAME}}]
_CALL_PROBES = (
    _CALLING._replace(tools=_OTHER_TOOLS),
    _CALLING._replace(tools=None),
    _Probe([*_ASKED, *_CALLED], _OTHER_TOOLS),
    _Probe([*_ASKED, *_CALLED]),
)
_TOOL_PROBES = (
    _Probe([*_ASKED, *_SAID], _OTHER_TOOLS),
    _Probe([*_SYSTEM, *_ASKED, *_SAID], _OTHER_TOOLS),
    _CALLING._replace(tools=_OTHER_TOOLS),
)
_LONG_PROBES = (
    _Probe([*_ASKED, *_SAID, *_ASKED, *_SAID]),
    _Probe([*_SYSTEM, *_ASKED, *_THOUGHT, *_ASKED, *_SAID], add_generation_prompt=True),
    _Probe([*_ASKED, *_SAID, *_SYSTEM, *_ASKED]),
    _Probe([*_SAID, *_ASKED, *_SAID]),
    _Probe([*_ASKED, *_ASKED, *_SAID]),
    _CALLING,
    _CALLING._replace(messages=[*_SYSTEM, *_CALLING.messages]),
    _Probe([*_ASKED, {**_SAID[0], "tool_calls": [_CALL, _CALL]}, *_RESULT, *_RESULT, *_SAID]),
)

# The models whose templates drop the reasoning of earlier turns. Training keeps it in all of them, or else those turns
# could not be learned; so over several turns the two are compared without it.
_FORGETS_REASONING = frozenset({"qwen3"})


@lru_cache
def _training_template(name: str) -> str:
    return (TEMPLATES_FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


@lru_cache
def _family(text: str, special_tokens: tuple[tuple[str, str], ...]) -> str | None:
    """The training template that renders all probes as `text` does."""
    return next((name for name in FAMILIES if _is_family(name, text, dict(special_tokens))), None)


def _with_text(probe: _Probe) -> _Probe:
    """The probe with the arguments of its call as JSON text."""
    call = {**_CALL, "function": {"name": _CALL_NAME, "arguments": _TEXT_ARGUMENTS}}
    return probe._replace(messages=[{**m, "tool_calls": [call]} if "tool_calls" in m else m for m in probe.messages])


def _is_family(name: str, text: str, special_tokens: dict[str, str]) -> bool:
    training = _training_template(name)
    for probe in (*_SHORT_PROBES, *_LONG_PROBES):
        theirs, error = _try_render(text, probe, special_tokens)
        ours, our_error = _try_render(training, probe, special_tokens)
        if name in _FORGETS_REASONING and probe in _LONG_PROBES:
            theirs, ours = _without_reasoning(theirs), _without_reasoning(ours)
        if theirs != ours or (error is None) != (our_error is None):
            return False
    return True


def _without_reasoning(text: str | None) -> str | None:
    return text and " ".join(_REASONING.sub("", text).split())


def _try_render(text: str, probe: _Probe, special_tokens: Mapping[str, str]) -> tuple[str | None, Exception | None]:
    try:
        [rendered], _ = render_jinja_template(
            [probe.messages],
            tools=probe.tools,
            chat_template=text,
            add_generation_prompt=probe.add_generation_prompt,
            **special_tokens,
        )
    except _RENDERING_ERRORS as error:
        return None, error
    return rendered, None
