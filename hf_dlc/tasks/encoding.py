"""
Rows to token ids and target marks, as TRL's `SFTTrainer` builds `input_ids` and `labels` from the same rows.

- Raw text (`prompt_completion` of strings, `text`, and the Alpaca prompt): the tokenizer's own special tokens, EOS
  after the completion unless it ends with it; the targets begin where the tokens of the prompt and of the whole part.
- A prompt and its completion as messages, and an instruction through the chat template: the same, the prompt rendered
  with the generation prompt.
- A conversation: the assistant turns, found by the `{% generation %}` markers of the template. A template without
  markers is replaced by the training variant in `hf_dlc/templates` that renders the same; if there is none, each turn
  is found by rendering the conversation up to it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import TemplateError
from transformers import BatchEncoding, PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from hf_dlc.columns import INVALID_ROW, NO_TARGET, OK, TRUNCATED, TRUNCATED_AWAY
from hf_dlc.formats import (
    ALPACA_PROMPT,
    ALPACA_PROMPT_WITH_INPUT,
    Conversation,
    Instruction,
    PlainText,
    Row,
    Skipped,
    TokenRow,
    Turn,
    detect_layout,
    parse_row,
    rows_of,
)


logger = logging.getLogger(__name__)

# Raised when the encoding of some row changes, so that scores of different versions are never mixed.
ENCODING_VERSION = 1

TEMPLATES_FOLDER = Path(__file__).resolve().parents[1] / "templates"
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
Template = str | os.PathLike[str] | Callable[[dict[str, Any]], dict[str, Any]]


class Encoding(NamedTuple):
    """
    One encoded row. A row that cannot be scored has empty arrays.

    Args:
        input_ids (`np.ndarray`):
            Token ids of shape `(tokens,)`, int32.
        targets (`np.ndarray`):
            Which tokens are learned from, of shape `(tokens,)`, bool. Never the first: nothing predicts it, and the
            loss of transformers, whose labels are shifted by one, leaves it out as well.
        status (`str`):
            `"ok"`, `"truncated"`, or the reason why there is nothing to score.
    """

    input_ids: np.ndarray
    targets: np.ndarray
    status: str

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.input_ids)

    @property
    def target_tokens(self) -> int:
        """Number of tokens that are learned from."""
        return int(np.count_nonzero(self.targets))


class _Draft(NamedTuple):
    """A row as text, before tokenisation. The targets are `spans` of characters, or what follows `prompt`."""

    text: str
    prompt: str = ""
    spans: list[Span] | None = None
    rendered: bool = True  # by a chat template, which writes its special tokens itself


class RowEncoder:
    r"""
    Encodes rows of one dataset.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer; it needs neither a padding token nor a chat template.
        template (`str`, `os.PathLike` or `Callable`, *optional*, defaults to `"auto"`):
            What is put around instructions and messages. `"auto"` is the chat template of the tokenizer if it has one,
            else the Alpaca prompt; `"chat"` insists on the chat template, `"alpaca"` on the Alpaca prompt; a path of a
            Jinja file is read once and used in place of the tokenizer's chat template. A callable maps a row to a row
            of a known layout, such as `{"prompt": ..., "completion": ...}`, which is then read as with `"auto"`.
            A prompt and a completion that are strings are used raw in any case.
        max_length (`int`, *optional*, defaults to 1024):
            Rows are cut to this many tokens, from the end.
        layout (`str`, *optional*, defaults to `"auto"`):
            One of `hf_dlc.formats.LAYOUTS`; `"auto"` finds it from the column names.
        columns (`Mapping[str, str]`, *optional*):
            From a column of the dataset to the name that a layout expects. A callable template gets the row with the
            names of the dataset, so the two exclude each other.

    Raises:
        ValueError: If `template` is neither a known word nor an existing file, if it is `"chat"` and the tokenizer has
            no chat template, if `max_length` is below 2, or if both a callable and `columns` are given.

    Example:
    ```python
    >>> from transformers import AutoTokenizer

    >>> tokenizer = AutoTokenizer.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")  # doctest: +SKIP
    >>> encoder = RowEncoder(tokenizer, max_length=512)  # doctest: +SKIP
    >>> [row] = encoder.encode([{"question": "2 + 3?", "answer": "5"}])  # doctest: +SKIP
    >>> tokenizer.decode(row.input_ids[row.targets])  # doctest: +SKIP
    '5<|im_end|>\n'
    ```
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: Template = "auto",
        max_length: int = 1024,
        layout: str = "auto",
        columns: Mapping[str, str] | None = None,
    ) -> None:
        if max_length < 2:
            raise ValueError(f"`max_length` must be at least 2, a token and one before it, got {max_length}.")
        if callable(template) and columns:
            raise ValueError("`columns` and a callable `template` exclude each other: name the keys in the callable.")
        self.tokenizer = tokenizer
        self.template = template
        self.max_length = max_length
        self.layout = layout
        self.columns = dict(columns or {})
        self._chat = _chat_of(tokenizer, template)

    @property
    def template_text(self) -> str | None:
        """Text of the chat template in use; `None` if rows go through the Alpaca prompt."""
        return self._chat.text if self._chat else None

    def rows_of(self, rows: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], bool]:
        """
        Take a row, a batch or a list of rows as a list of rows.

        Args:
            rows (`Mapping[str, Any]` or `Sequence[Mapping[str, Any]]`):
                What `datasets.map` hands over, or a list of rows.

        Returns:
            `tuple[list[dict], bool]`: The rows, and whether there was a batch of them.

        Raises:
            ValueError: If the columns follow no known layout.
        """
        return rows_of(rows, None if callable(self.template) else self.layout, self.columns)

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> list[Encoding]:
        """
        Encode rows, in order.

        Args:
            rows (`Sequence[Mapping[str, Any]]`):
                Rows with the same columns.

        Returns:
            `list[Encoding]`: One a row.

        Raises:
            ValueError: If the columns follow no known layout, if messages cannot be rendered (no chat template, or one
                whose assistant turns cannot be found), or if raw text needs an EOS token that the tokenizer lacks.
        """
        drafts = [self._draft(row) for row in self._parse(rows)]
        encodings = [draft if isinstance(draft, Encoding) else None for draft in drafts]
        for rendered in (False, True):
            places = [i for i, draft in enumerate(drafts) if isinstance(draft, _Draft) and draft.rendered == rendered]
            chosen = [drafts[i] for i in places]
            for place, encoding in zip(places, self._tokenize(chosen, not rendered), strict=True):
                encodings[place] = encoding
        return encodings

    def describe(self) -> dict[str, Any]:
        """
        What of the settings changes an encoding, for fingerprints.

        Returns:
            `dict[str, Any]`: JSON types only, the same in every Python process.
        """
        return {
            "version": ENCODING_VERSION,
            "template": _name_of(self.template),
            "chat_template": self.template_text,
            "training_template": self._chat.training_text if self._chat else None,
            "alpaca_prompts": [ALPACA_PROMPT, ALPACA_PROMPT_WITH_INPUT],
            "max_length": self.max_length,
            "layout": self.layout,
            "columns": self.columns,
            "eos_token": self.tokenizer.eos_token,
        }

    def _parse(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
        """The layout is found once from the columns of all rows, or, behind a callable, from the keys it returns."""
        if not callable(self.template):
            names = dict.fromkeys(name for row in rows for name in row)
            layout = detect_layout(names, self.layout, self.columns) if rows else None
            yield from (parse_row(dict.fromkeys(names) | dict(row), layout, self.columns) for row in rows)
            return
        found: dict[tuple[str, ...], str] = {}
        for row in rows:
            mapped = self.template(dict(row))
            if not isinstance(mapped, Mapping):
                raise TypeError(f"The callable `template` must return a dict, got {type(mapped).__name__}.")
            keys = tuple(mapped)
            if keys not in found:
                found[keys] = detect_layout(keys, self.layout)
            yield parse_row(mapped, found[keys])

    def _draft(self, row: Row) -> _Draft | Encoding:
        if isinstance(row, Skipped):
            return _skipped(row.reason)
        if isinstance(row, TokenRow):
            if row.input_ids and not (min(row.input_ids) >= 0 and max(row.input_ids) < self._vocabulary_size):
                return _skipped(INVALID_ROW)  # an id without an embedding would end the whole run
            return self._encoding(row.input_ids, np.asarray(row.labels, dtype=np.int64) != -100)
        if isinstance(row, Instruction):
            row = row.conversation() if self._chat else row.plain_text()
        if isinstance(row, PlainText):
            return _Draft(row.prompt + self._with_eos(row.completion), row.prompt, rendered=False)
        if self._chat is None:
            raise ValueError(_no_template(self.tokenizer, self.template))
        try:
            return self._chat.draft(row)
        except _RefusedError as refused:
            _warn_once(f"The chat template does not accept a row, which is skipped, as are others like it: {refused}")
            return _skipped(INVALID_ROW)

    @cached_property
    def _vocabulary_size(self) -> int:
        return len(self.tokenizer)

    def _with_eos(self, text: str) -> str:
        eos = self.tokenizer.eos_token
        if eos is None:
            raise ValueError(
                "Raw text is scored with the end-of-sequence token after it, but the tokenizer "
                f"{_label(self.tokenizer)} has none. Set `tokenizer.eos_token`, or use rows with token ids and labels."
            )
        return text if text.endswith(eos) else text + eos

    def _tokenize(self, drafts: list[_Draft], add_special_tokens: bool) -> Iterator[Encoding]:
        """One call for all texts and all their prompts: a fast tokenizer spreads it over its threads."""
        if not drafts:
            return
        prompts = [draft.prompt for draft in drafts if draft.prompt]
        batch = self.tokenizer(
            [draft.text for draft in drafts] + prompts,
            add_special_tokens=add_special_tokens,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # rows are cut below, so their length is no news
        )
        ids, prompt_ids = batch["input_ids"], iter(batch["input_ids"][len(drafts) :])
        for i, draft in enumerate(drafts):
            if draft.spans is not None:
                targets = _span_mask(batch, i, draft.spans)
            else:
                targets = np.ones(len(ids[i]), dtype=bool)
                targets[: _common_prefix(next(prompt_ids), ids[i]) if draft.prompt else 0] = False
            yield self._encoding(ids[i], targets)

    def _encoding(self, input_ids: list[int], targets: np.ndarray) -> Encoding:
        targets[:1] = False
        if not targets.any():
            return _skipped(NO_TARGET)
        if not targets[: self.max_length].any():
            return _skipped(TRUNCATED_AWAY)
        status = TRUNCATED if len(input_ids) > self.max_length else OK
        return Encoding(np.asarray(input_ids[: self.max_length], np.int32), targets[: self.max_length].copy(), status)


def _chat_of(tokenizer: PreTrainedTokenizerBase, template: Template) -> _ChatTemplate | None:
    """The chat template that `template` asks for; `None` is the Alpaca prompt."""
    if isinstance(template, str) and template == "alpaca":
        return None
    if callable(template) or template == "auto":
        return _ChatTemplate(tokenizer) if tokenizer.chat_template else None
    if template == "chat":
        if not tokenizer.chat_template:
            raise ValueError(_no_template(tokenizer, template))
        return _ChatTemplate(tokenizer)
    path = Path(template)
    if not path.is_file():
        raise ValueError(
            "`template` must be 'auto', 'chat', 'alpaca', a callable, or the path of a Jinja file, but there is no "
            f"file {str(template)[:200]!r}."
        )
    return _ChatTemplate(tokenizer, path.read_text(encoding="utf-8"))


def _no_template(tokenizer: PreTrainedTokenizerBase, template: Template) -> str:
    why = "has no chat template" if template != "alpaca" else "is used with template='alpaca', which has no turns"
    return (
        f"Messages need a chat template, but the tokenizer {_label(tokenizer)} {why}. Pass "
        "`template='path/to/chat_template.jinja'`, or `template=` as a callable that maps a row to a prompt and a "
        "completion."
    )


def _label(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"{tokenizer.name_or_path or '(not loaded from a path)'} ({type(tokenizer).__name__})"


def _name_of(template: Template) -> str:
    """A word or `"file"` (whose text counts, not its path), and for a callable a digest of its code."""
    if callable(template):
        from datasets.fingerprint import Hasher  # heavy, and needed for callables only

        return f"callable {Hasher.hash(template)}"
    return str(template) if template in ("auto", "chat", "alpaca") else "file"


@lru_cache(maxsize=256)
def _warn_once(message: str) -> None:
    logger.warning(message)


def _skipped(status: str) -> Encoding:
    return Encoding(np.empty(0, np.int32), np.empty(0, bool), status)


def _common_prefix(ids: list[int], others: list[int]) -> int:
    """
    How many first tokens are the same.

    Tokens may merge across the end of the prompt, and a template may end the prompt in a way that the whole row does
    not repeat, so the end of the prompt is where the two part, not `len(ids)`.
    """
    size = min(len(ids), len(others))
    differ = np.asarray(ids[:size]) != np.asarray(others[:size])
    return int(differ.argmax()) if differ.any() else size


def _span_mask(batch: BatchEncoding, i: int, spans: Iterable[Span]) -> np.ndarray:
    """
    The tokens of character spans.

    Where a character belongs to no token, the rules are those of `return_assistant_tokens_mask`, which training uses:
    a span without a first token ends the search, a span without a last token runs to the end.
    """
    mask = np.zeros(len(batch["input_ids"][i]), dtype=bool)
    for start, end in spans:
        first, last = batch.char_to_token(i, start), batch.char_to_token(i, end - 1)
        if first is None:
            break
        mask[first : last + 1 if last else None] = True
    return mask


# --------------------------------------------------------------------------------------------------------------------
# Chat templates
# --------------------------------------------------------------------------------------------------------------------


class _RefusedError(Exception):
    """The template does not accept this conversation."""


class _ChatTemplate:
    """A chat template with the tokenizer's special tokens: conversations to text, and where its targets are."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._given = text
        self._special_tokens = {k: str(v) for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)}
        self.text = tokenizer.get_chat_template() if text is None else text
        if "strftime_now" in self.text:
            _warn_once(
                "The chat template writes today's date into every row, so that scores depend on the day. Add a "
                "column `chat_template_kwargs` with `date_string`, or pass a template file with a fixed date."
            )

    def draft(self, conversation: Conversation) -> _Draft:
        """The text of a conversation with its prompt or its target spans."""
        if not self._tokenizer.is_fast and conversation.prompt_turns is None:
            raise ValueError(
                f"Assistant turns are found by character offsets, which the slow tokenizer {_label(self._tokenizer)} "
                "does not give. Load a fast one, or use rows with a prompt and a completion."
            )
        messages = [turn.message(self._renders_calls) for turn in conversation.turns]
        options = {"tools": conversation.tools, **conversation.template_kwargs}
        if conversation.prompt_turns is not None:
            text, _ = self._render(messages, options)
            prompt, _ = self._render(messages[: conversation.prompt_turns], options, add_generation_prompt=True)
            return _Draft(text, prompt)
        if self.training_text is None:
            text, _ = self._render(messages, options)
            spans = self._spans_by_prefix(text, messages, conversation.turns, options)
            if spans is None or not self._has_plain_turns:
                raise ValueError(_not_findable(self._tokenizer))
            return _Draft(text, spans=spans)
        text, spans = self._render(messages, options, self.training_text, return_assistant_tokens_mask=True)
        return _Draft(text, spans=_learned_spans(spans, conversation.turns))

    @cached_property
    def training_text(self) -> str | None:
        """The template with markers: itself, or the variant of ours that renders the same; `None` if there is none."""
        if _MARKER.search(self.text):
            return self.text
        name = _family(self.text, tuple(self._special_tokens.items()))
        logger.info("Assistant turns are found by %s.", f"the training template {name}" if name else "rendering each")
        return _training_template(name) if name else None

    @cached_property
    def _renders_calls(self) -> bool:
        text, _ = _try_render(self.text, _CALLING, self._special_tokens)
        return text is not None and _CALL_NAME in text

    def _render(
        self, messages: list[dict[str, Any]], options: dict[str, Any], template: str | None = None, **switches: bool
    ) -> tuple[str, list[Span]]:
        options = dict(options)
        template = options.pop("chat_template", None) or template or self._given
        try:
            template = self._tokenizer.get_chat_template(template, options.get("tools"))
            arguments = {**self._tokenizer.special_tokens_map, **options}
            [text], spans = render_jinja_template([messages], chat_template=template, **arguments, **switches)
        except _RENDERING_ERRORS as error:
            raise _RefusedError(f"{type(error).__name__}: {error}") from error
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
        except _RefusedError:
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
        raise _RefusedError(f"{len(said)} assistant turns, some not learned from, are marked as {len(spans)} spans")
    return [span for span, turn in zip(spans, said, strict=True) if turn.learned]


def _not_findable(tokenizer: PreTrainedTokenizerBase) -> str:
    return (
        f"The chat template of the tokenizer {_label(tokenizer)} has no {{% generation %}} markers, and its assistant "
        "turns cannot be found without them: it renders a turn differently once others follow, or puts more around "
        "the content than a header and an end of turn. Pass `template='path/to/training_template.jinja'` with markers "
        "around what the assistant writes."
    )


# --------------------------------------------------------------------------------------------------------------------
# Which training template renders what this template renders
# --------------------------------------------------------------------------------------------------------------------

_CALL_NAME = "hf_dlc_probe_call"
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
