"""The chat templates of a tokenizer, and what they do to rows that one should know of."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from .dropped import Report, clipped
from .rows import Conversation, Turn, name_and_arguments
from .template import Draft, RefusedRowError, Template, label_of


logger = logging.getLogger(__name__)


@lru_cache(maxsize=256)
def warn_once(message: str) -> None:
    """Log a warning the first time it comes up."""
    logger.warning(message)


class ChatTemplate:
    """
    The chat templates of a tokenizer: conversations to text, and where its targets are.

    Some tokenizers have a template of its own for conversations with tools; the tools of a row, if only an empty list,
    pick it as `tokenizer.get_chat_template(None, tools)` does. A text that is given stands for all of them.

    Findings about rows, such as a system turn that the template drops, are in `report`, and logged when they are made.

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
        self._with_tools = Template(tokenizer, with_tools)
        if plain == with_tools:
            self._plain: Template | None = self._with_tools
        else:
            self._plain = None if plain is None else Template(tokenizer, plain)
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
        """Templates with markers, one for each of `texts`; `None` where there is none."""
        return [template.training_text for template in self._templates]

    @property
    def dropped(self) -> tuple[str, ...]:
        """Parts of the rows so far that the template dropped, such as `("content of system turns", "tools")`."""
        return self.report.dropped

    @property
    def unknown_roles(self) -> tuple[str, ...]:
        """Roles of the rows so far that the template does not mention."""
        return self.report.unknown_roles

    @property
    def _templates(self) -> list[Template]:
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

    @property
    def cue(self) -> str:
        """
        The header of an assistant's turn, which tells the model to answer; `""` where a template has none of its own.

        Raises:
            RefusedRowError: If the template does not accept a single question.
        """
        return (self._plain or self._with_tools).cue({})

    def _look(
        self,
        template: Template,
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

    def _look_at_calls(self, template: Template, calls: Sequence[Any], tools: Sequence[Any]) -> None:
        """Tell of calls that the template renders as text, or that hold null values."""
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
        """Tell of targets that do not begin where the prompt of generation ends, or that miss a learned turn."""
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


def _has_arguments_as_text(turn: Turn) -> bool:
    """Whether the arguments of a call are JSON text."""
    return any(isinstance(name_and_arguments(call)[1], str) for call in turn.tool_calls or ())


def _holds_null(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(item is None or _holds_null(item) for item in value.values())
    return isinstance(value, list) and any(map(_holds_null, value))
