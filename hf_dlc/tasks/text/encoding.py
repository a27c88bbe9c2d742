"""
Rows to token ids and target marks, as TRL's `SFTTrainer` builds `input_ids` and `labels` from the same rows.

- Raw text (`prompt_completion` of strings, `text`, and the Alpaca prompt): the tokenizer's own special tokens, and EOS
  after the completion unless it ends with it. The targets begin where the tokens of the prompt and of the whole part.
- A prompt and its completion as messages, and an instruction through the chat template: the same, the prompt rendered
  with the generation prompt.
- A conversation: the assistant turns, found by the `{% generation %}` markers of the template. A template without
  markers is replaced by the training variant in `tasks/text/templates` that renders the same; if there is none, each
  turn is found by rendering the conversation up to it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset
from datasets.formatting.formatting import LazyBatch, LazyDict
from transformers import BatchEncoding, PreTrainedTokenizerBase

from hf_dlc.scores.columns import INVALID_ROW, NO_TARGET, OK, TRUNCATED, TRUNCATED_AWAY
from hf_dlc.tasks.reading import DatasetReading
from hf_dlc.utils.content import is_media

from .layouts import Reading, read_columns, rows_of, split_batch
from .parsing import parse_row
from .plain_rows import plain_batches, plain_columns
from .reading_log import ReadingLog
from .rows import ALPACA_CUE, ALPACA_PROMPT, ALPACA_PROMPT_WITH_INPUT, Instruction, PlainText, Row, Skipped, TokenRow
from .shared_heads import head_of, sample_rows, shared_heads
from .template import Draft, RefusedRowError, Span, label_of
from .template_option import TemplateOption, chat_of, name_of, name_of_chat, no_template


logger = logging.getLogger(__name__)

# Raised when the encoding of some row changes, so that scores of different versions are never mixed.
ENCODING_VERSION = 2


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
        shared_head (`int`, *optional*, defaults to 0):
            Index into [`RowEncoder.shared_heads`] of the tokens that this row begins with; 0 is no token.
        shared_head_length (`int`, *optional*, defaults to 0):
            Number of tokens of that head.
        why (`str`, *optional*, defaults to `""`):
            Of a skipped row, what is wrong with it and what would be accepted.
    """

    input_ids: np.ndarray
    targets: np.ndarray
    status: str
    shared_head: int = 0
    shared_head_length: int = 0
    why: str = ""

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.input_ids)

    @property
    def target_tokens(self) -> int:
        """Number of tokens that are learned from."""
        return int(np.count_nonzero(self.targets))

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """Ids and targets, for digests."""
        return self.input_ids, self.targets


class RowEncoder:
    r"""
    Encodes rows of one dataset.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The tokenizer; it needs neither a padding token nor a chat template.
        template (`str`, `os.PathLike` or `Callable`, *optional*, defaults to `"auto"`):
            What is put around instructions and messages. `"auto"` is the chat template of the tokenizer if it has one,
            else the Alpaca prompt. `"chat"` insists on the chat template, `"alpaca"` on the Alpaca prompt. A path of a
            Jinja file is read once and used in place of the tokenizer's chat template. A callable maps a row to a row
            of a known layout, such as `{"prompt": ..., "completion": ...}`, which is then read as with `"auto"`.
            A prompt and a completion that are strings are used raw in any case.
        max_length (`int`, *optional*, defaults to 1024):
            Rows are cut to this many tokens, from the end.
        layout (`str`, *optional*, defaults to `"auto"`):
            One of `hf_dlc.tasks.text.layouts.LAYOUTS`; `"auto"` finds it from the column names.
        columns (`Mapping[str, str]`, *optional*):
            From a column of the dataset to the name that a layout expects, or to `"ignore"`. A callable template gets
            the row with the names of the dataset, so the two exclude each other.
        says (`bool`, *optional*, defaults to `True`):
            Whether it logs what it reads of a dataset.

    Raises:
        ValueError: If `template` is neither a known word nor an existing file, or is `"chat"` without a chat template
            of the tokenizer; if `max_length` is below 2; or if both a callable and `columns` are given.

    Example:
    ```python
    >>> from transformers import AutoTokenizer

    >>> tokenizer = AutoTokenizer.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")
    >>> encoder = RowEncoder(tokenizer, max_length=512)
    >>> [row] = encoder.encode([{"question": "2 + 3?", "answer": "5"}])
    >>> tokenizer.decode(row.input_ids[row.targets])
    '5<|im_end|>\n'
    ```
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: TemplateOption = "auto",
        max_length: int = 1024,
        layout: str = "auto",
        columns: Mapping[str, str] | None = None,
        says: bool = True,
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
        self._says = says
        self.begin_dataset()

    def begin_dataset(self) -> None:
        """Forget what was said of the rows so far: the next ones are those of another dataset."""
        self._chat = chat_of(self.tokenizer, self.template)
        self._readings: dict[tuple[str, ...], Reading] = {}  # by the names of columns
        self._log = ReadingLog(name_of_chat(self.template) if self._chat else None, self.columns)

    def for_preview(self) -> RowEncoder:
        """An encoder of the same settings, which has read nothing yet."""
        return RowEncoder(self.tokenizer, self.template, self.max_length, self.layout, self.columns)

    @property
    def reading(self) -> DatasetReading | None:
        """The reading of the rows since the dataset began; `None` before the first one."""
        reading = self._log.result()
        if reading is None or self._chat is None:
            return reading
        return replace(reading, dropped=self._chat.dropped, unknown_roles=self._chat.unknown_roles)

    @property
    def template_text(self) -> str | None:
        """
        Text of the chat template in use; `None` if rows go through the Alpaca prompt. Where rows with tools have a
        template of their own, the texts of both.
        """
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
        self._log.knows_types = isinstance(rows, LazyDict)
        if callable(self.template):
            return rows_of(rows, None)
        if isinstance(rows, LazyDict):
            columns, is_batch = plain_columns(rows), isinstance(rows, LazyBatch)
            return (split_batch(columns) if is_batch else [columns]), is_batch
        return rows_of(rows, self.layout, self.columns)

    def batches_of(self, dataset: Dataset, size: int) -> Iterator[list[dict[str, Any]]]:
        """
        The rows of a dataset, in order, as plain Python objects.

        Args:
            dataset ([`~datasets.Dataset`]):
                Dataset of any format.
            size (`int`):
                Rows at a time.

        Yields:
            `list[dict]`: Rows with all columns. Classes are given by name; pictures and sound are not decoded, unless
            the template is a callable, which gets everything as it is.

        Raises:
            ValueError: If the columns follow no known layout.
        """
        plain = dataset.with_format(None)
        if callable(self.template):
            yield from map(split_batch, plain.iter(batch_size=size))
            return
        media = [name for name, feature in dataset.features.items() if is_media(feature)]
        if len(dataset):  # a fault of the columns shows before any row is read
            self._require_text(self._reading_of(tuple(dataset.column_names)), media)
        yield from plain_batches(plain, media, size)

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
            places = [i for i, draft in enumerate(drafts) if isinstance(draft, Draft) and draft.rendered == rendered]
            chosen = [drafts[i] for i in places]
            for place, encoding in zip(places, self._tokenize(chosen, not rendered), strict=True):
                encodings[place] = encoding
        return encodings

    def describe(self) -> dict[str, Any]:
        """
        Settings that change an encoding, for fingerprints.

        Returns:
            `dict[str, Any]`: JSON types only, the same in every Python process.
        """
        return {
            "version": ENCODING_VERSION,
            "template": name_of(self.template),
            "chat_template": _one_or_all(self._chat.texts) if self._chat else None,
            "training_template": _one_or_all(self._chat.training_texts) if self._chat else None,
            "alpaca_prompts": [ALPACA_PROMPT, ALPACA_PROMPT_WITH_INPUT],
            "max_length": self.max_length,
            "layout": self.layout,
            "columns": self.columns,
            "eos_token": self.tokenizer.eos_token,
            "prefixes": [head.tolist() for head in self.shared_heads],
        }

    def _parse(self, rows: Sequence[Mapping[str, Any]]) -> list[Row]:
        """The layout is found once from the columns of all rows, or, behind a callable, from the keys it returns."""
        if callable(self.template):
            rows = [self._mapped(row) for row in rows]
            names = [tuple(row) for row in rows]
        else:
            every = dict.fromkeys(name for row in rows for name in row)
            rows = [every | row for row in rows]
            names = [tuple(every)] * len(rows)
        parsed: list[Row] = [parse_row(row, self._reading_of(keys)) for row, keys in zip(rows, names, strict=True)]
        for keys in dict.fromkeys(names) if self._says else ():
            places = [place for place, own in enumerate(names) if own == keys]
            self._log.note(self._readings[keys], [rows[i] for i in places], [parsed[i] for i in places])
        return parsed

    def _mapped(self, row: Mapping[str, Any]) -> dict[str, Any]:
        mapped = self.template(dict(row))
        if not isinstance(mapped, Mapping):
            raise TypeError(f"The callable `template` must return a dict, got {type(mapped).__name__}.")
        return dict(mapped)

    def _reading_of(self, names: tuple[str, ...]) -> Reading:
        if names not in self._readings:
            self._readings[names] = read_columns(names, self.layout, self.columns)
        return self._readings[names]

    def _require_text(self, reading: Reading, media: Sequence[str]) -> None:
        if read := [column for column in reading.columns.values() if column in media]:
            raise ValueError(f"{read[0]!r} must hold text to be read as {reading.layout}, got pictures or sound.")

    def _draft(self, row: Row) -> Draft | Encoding:
        if isinstance(row, Skipped):
            return skipped(row.reason, row.why)
        if isinstance(row, TokenRow):
            if row.input_ids and not (min(row.input_ids) >= 0 and max(row.input_ids) < self._vocabulary_size):
                # An id without an embedding would end the whole run.
                why = f"token ids must be in [0, {self._vocabulary_size}), the tokenizer's, got {max(row.input_ids)}"
                return skipped(INVALID_ROW, why)
            return self._encoding(row.input_ids, np.asarray(row.labels, dtype=np.int64) != -100)
        if isinstance(row, Instruction) and row.history and not self._chat:
            why = "earlier turns need a chat template, and the Alpaca prompt has no place for them"
            return skipped(INVALID_ROW, f"{why}: use a tokenizer with one, or columns={{'history': 'ignore'}}")
        if isinstance(row, Instruction):
            row = row.conversation() if self._chat else row.plain_text()
        if isinstance(row, PlainText):
            return self._plain_draft(row)
        if self._chat is None:
            raise ValueError(no_template(self.tokenizer, self.template))
        try:
            return self._chat.draft(row)
        except RefusedRowError as refused:
            return skipped(INVALID_ROW, f"the chat template does not accept it: {refused}")

    def _plain_draft(self, row: PlainText) -> Draft:
        return Draft(row.prompt + self._with_eos(row.completion), row.prompt, rendered=False)

    @cached_property
    def _vocabulary_size(self) -> int:
        return len(self.tokenizer)

    def _with_eos(self, text: str) -> str:
        eos = self.tokenizer.eos_token
        if eos is None:
            raise ValueError(
                "Raw text is scored with the end-of-sequence token after it, but the tokenizer "
                f"{label_of(self.tokenizer)} has none. Set `tokenizer.eos_token`, or use rows with token ids "
                "and labels."
            )
        return text if text.endswith(eos) else text + eos

    def _tokenize(self, drafts: list[Draft], add_special_tokens: bool) -> Iterator[Encoding]:
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
            return skipped(NO_TARGET, "no token of it is learned from")
        if not targets[: self.max_length].any():
            first = int(targets.argmax())
            return skipped(TRUNCATED_AWAY, f"max_length={self.max_length} ends before token {first}, the first target")
        status = TRUNCATED if len(input_ids) > self.max_length else OK
        ids, targets = np.asarray(input_ids[: self.max_length], np.int32), targets[: self.max_length].copy()
        head = head_of(ids, int(targets.argmax()), self.shared_heads)
        return Encoding(ids, targets, status, head, len(self.shared_heads[head]))

    @cached_property
    def shared_heads(self) -> list[np.ndarray]:
        """
        The constant heads of the template (preamble, default system prompt) as token ids, behind an empty one.

        They follow from the template alone, never from other rows, so that a row has the same head in any company.
        """
        return shared_heads(self._samples())

    def _samples(self) -> Iterator[list[np.ndarray]]:
        """Token ids of made-up rows, for each wording of the template."""
        if self.has_no_template:
            return
        for rows in sample_rows():
            try:
                drafts = [self._sample_draft(row) for row in rows]
            except RefusedRowError as refused:  # a template that wants more than one exchange
                logger.debug("no head is shared: %s", refused)
                continue
            batches = (
                self.tokenizer([draft.text], add_special_tokens=not draft.rendered, verbose=False) for draft in drafts
            )
            yield [np.asarray(batch["input_ids"][0], np.int32) for batch in batches]

    @property
    def has_no_template(self) -> bool:
        """Whether only rows with token ids can be scored: there is neither a chat template nor an end of sequence."""
        return self._chat is None and self.tokenizer.eos_token is None

    def sample_prompt(self, row: Instruction) -> np.ndarray:
        """
        Token ids of a made-up instruction, up to the response.

        Raises:
            RefusedRowError: If the template does not accept it.
        """
        draft = self._sample_draft(row)
        [encoding] = self._tokenize([draft], not draft.rendered)
        return encoding.input_ids[: int(encoding.targets.argmax())]

    @property
    def cue(self) -> str:
        """
        What tells the model that a response begins: the header of the assistant's turn, or that of the Alpaca prompt.

        Raises:
            RefusedRowError: If the chat template does not accept a single question.
        """
        return self._chat.cue if self._chat else ALPACA_CUE

    def _sample_draft(self, row: Instruction) -> Draft:
        return self._chat.sample(row.conversation()) if self._chat else self._plain_draft(row.plain_text())


def skipped(status: str, why: str) -> Encoding:
    return Encoding(np.empty(0, np.int32), np.empty(0, bool), status, why=why)


def _one_or_all(texts: list[str | None]) -> str | list[str | None] | None:
    return texts[0] if len(texts) == 1 else texts


def _common_prefix(ids: list[int], others: list[int]) -> int:
    """
    How many first tokens are the same.

    The end of the prompt is where the two part, not `len(ids)`: tokens may merge across it, and a template may end a
    prompt otherwise than in the whole row.
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
