"""One chat template: the text of a conversation, and where in it the assistant's turns are."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from .probes import ASKED, RENDERING_ERRORS, SAID, quotes_arguments, renders_calls, shows_tools
from .rows import Conversation, Turn
from .training_templates import family_of, training_template


logger = logging.getLogger(__name__)

_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")

Span = tuple[int, int]


class Draft(NamedTuple):
    """A row as text, before tokenisation. The targets are `spans` of characters, or what follows `prompt`."""

    text: str
    prompt: str = ""
    spans: list[Span] | None = None
    rendered: bool = True  # by a chat template, which writes its special tokens itself


def label_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """Name of a tokenizer for an error message."""
    return f"{tokenizer.name_or_path or '(not loaded from a path)'} ({type(tokenizer).__name__})"


class RefusedRowError(Exception):
    """The template does not accept this conversation."""


class Template:
    """One chat template with the tokenizer's special tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: str) -> None:
        self._tokenizer = tokenizer
        self._special_tokens = {k: str(v) for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)}
        self.text = text

    def messages(self, turns: Sequence[Turn]) -> list[dict[str, Any]]:
        """The turns as the template takes them."""
        return [turn.message(self.renders_calls) for turn in turns]

    def draft(self, conversation: Conversation, messages: list[dict[str, Any]], options: dict[str, Any]) -> Draft:
        """
        The text of a conversation with its prompt or its target spans.

        Args:
            conversation ([`Conversation`]):
                The row.
            messages (`list[dict[str, Any]]`):
                Its turns as the template takes them.
            options (`dict[str, Any]`):
                Further variables of the template, such as tools.

        Returns:
            [`Draft`]: What is tokenized.

        Raises:
            ValueError: If the tokenizer is slow and the row has no prompt.
        """
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
        name = family_of(self.text, tuple(self._special_tokens.items()))
        logger.debug("Assistant turns are found by %s.", f"the training template {name}" if name else "rendering each")
        return training_template(name) if name else None

    @cached_property
    def renders_calls(self) -> bool:
        """Whether the template writes tool calls itself."""
        return renders_calls(self.text, self._special_tokens)

    @cached_property
    def quotes_arguments(self) -> bool:
        """Whether the template writes arguments of calls that are JSON text as a string within JSON."""
        return quotes_arguments(self.text, self._special_tokens)

    @cached_property
    def shows_tools(self) -> bool:
        """Whether the template writes the tools of a row, or accepts none."""
        return shows_tools(self.text, self._special_tokens)

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
        except RENDERING_ERRORS as error:
            raise RefusedRowError(f"{type(error).__name__}: {error}") from error
        return text, spans[0] if spans else []

    @cached_property
    def _has_plain_turns(self) -> bool:
        """
        Whether an assistant turn is just a header, the content and an end of turn.

        Where a template writes more (reasoning blocks, channels) or less (no end of turn), what training learns from
        is a decision that only a training template can tell.
        """
        messages = [*ASKED, *SAID, *ASKED, *SAID]
        turns = [Turn(message["role"], "", learned=message["role"] == "assistant") for message in messages]
        try:
            text, _ = self._render(messages, {})
            spans = self._spans_by_prefix(text, messages, turns, {})
        except RefusedRowError:
            return False
        parts = [text[start:end].partition(SAID[0]["content"].strip()) for start, end in spans or []]
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

    def cue(self, options: dict[str, Any]) -> str:
        r"""
        The text that tells the model to answer, such as `"<|im_start|>assistant\n"`; `""` if the template has none.

        Raises:
            RefusedRowError: If the template does not accept a single question.
        """
        asked, _ = self._render(ASKED, options)
        return self._render(ASKED, options, add_generation_prompt=True)[0].removeprefix(asked)

    def _head(self, messages: list[dict[str, Any]], options: dict[str, Any], upto: str) -> str:
        """The text before an assistant turn; `""` if that cannot be told."""
        if messages:
            return self._render(messages, options, add_generation_prompt=True)[0]
        cue = self.cue(options)  # no template renders nothing, so its header is taken from elsewhere
        return upto[: upto.find(cue) + len(cue)] if cue in upto else ""


def _learned_spans(spans: list[Span], turns: Sequence[Turn]) -> list[Span]:
    said = [turn for turn in turns if turn.role == "assistant"]
    if all(turn.learned for turn in said):
        return spans
    if len(spans) != len(said):
        raise RefusedRowError(f"{len(said)} assistant turns, some not learned from, are marked as {len(spans)} spans")
    return [span for span, turn in zip(spans, said, strict=True) if turn.learned]


def _not_findable(tokenizer: PreTrainedTokenizerBase) -> str:
    return (
        f"The chat template of the tokenizer {label_of(tokenizer)} has no {{% generation %}} markers, and its "
        "assistant turns cannot be found without them: it renders a turn differently once others follow, or puts "
        "more around the content than a header and an end of turn. Pass `template='path/to/training_template.jinja'` "
        "with markers around what the assistant writes."
    )
