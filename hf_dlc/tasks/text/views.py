"""
The views of a row for scores of contrast: its responses without what they answer, and the beginnings of both.

The first three are cut out of the token ids of the whole row, so that the same tokens are compared.

- `alone`: each run of target tokens, which is a response or a learned turn, by itself behind a constant prefix.
- `start`: the row up to the first target tokens of its last response; these and those of the other responses count.
- `alone_start`: the view `alone`, cut behind the same tokens.
- `texts`: prompt and response as two texts, for a sentence encoder.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Literal

import numpy as np

from hf_dlc.scores.columns import NO_PROMPT, NO_TARGET
from hf_dlc.tasks.base import FULL_VIEW, RowsInView

from .chat import warn_once
from .encoding import Encoding, RowEncoder, skipped
from .packed import packed
from .rows import Instruction
from .sentences import TEXTS_VIEW, TextPair, text_pair, without_prompt
from .shared_heads import sample_rows
from .template import RefusedRowError


logger = logging.getLogger(__name__)

Alone = Literal["header", "empty_prompt", "raw"]

VIEWS = frozenset({FULL_VIEW, "alone", "start", "alone_start", TEXTS_VIEW})


class Views:
    """
    Makes the views of encoded rows.

    Args:
        encoder ([`RowEncoder`]):
            What encoded them.
        alone (`str`, *optional*, defaults to `"header"`):
            What a response alone stands behind: `"header"`, the template's header of the assistant's turn;
            `"empty_prompt"`, the template with an empty user turn; `"raw"`, nothing. The BOS token that a tokenizer
            puts before every text stands in all three. Where the template has no part in a row (raw text, token ids),
            nothing stands before its response.
        first_tokens (`int`, *optional*, defaults to 16):
            Target tokens of each response that count in the views of beginnings.
    """

    def __init__(self, encoder: RowEncoder, alone: Alone = "header", first_tokens: int = 16) -> None:
        self.encoder, self.alone, self.first_tokens = encoder, alone, first_tokens

    def of(self, rows: Sequence[Encoding], view: str) -> RowsInView:
        """
        The rows in a view.

        Args:
            rows (`Sequence[Encoding]`):
                Whole rows.
            view (`str`):
                One of `VIEWS`.

        Returns:
            [`RowsInView`]: One row for each of `rows`, skipped with a reason where there is nothing to compare; behind
            them further rows, for the second and later responses of rows that have several.

        Raises:
            ValueError: If `alone="empty_prompt"` and the template accepts no empty user turn.
        """
        if view == FULL_VIEW:
            return RowsInView(rows, np.arange(len(rows)))
        if view == TEXTS_VIEW:
            return RowsInView([self._texts(row) for row in rows], np.arange(len(rows)))
        further: list[tuple[int, Encoding]] = []

        def first_parts() -> Iterator[Encoding]:
            for place, row in enumerate(rows):
                first, *others = self._parts(row, view)
                further.extend((place, part) for part in others)
                yield first

        parts = packed(first_parts()) + packed(part for _, part in further)
        return RowsInView(parts, np.array([*range(len(rows)), *(place for place, _ in further)], dtype=np.int64))

    def _parts(self, row: Encoding, view: str) -> list[Encoding]:
        """A row in a view that is not the whole: one part, or one for each response."""
        if not row.length:
            return [row]
        runs, head = _runs(row.targets), self._head_of(row)
        if len(runs) == 1 and not self._has_prompt(row.input_ids[: runs[0][0]], head):
            return [skipped(NO_PROMPT, "nothing stands before its response, so there is nothing to compare it with")]
        if self.alone != "raw" and len(self._header) and not _ends_with(row.input_ids[: runs[0][0]], self._header):
            warn_once(
                f"alone={self.alone!r} is not used for rows whose response does not stand behind the header of the "
                "template, such as pairs of texts: alone, their response stands behind nothing"
            )
        parts = [self._alone(row, run, head) for run in runs]
        learned = [part for part in parts if part.targets.any()]
        if not learned:
            return [skipped(NO_TARGET, "its response is a single token, and nothing stands before it to predict it")]
        if view == "alone":
            return learned
        if view == "alone_start":
            return [_first(part, self.first_tokens) for part in learned]
        return [self._start(row, [run for run, part in zip(runs, parts, strict=True) if part.targets.any()], head)]

    def _texts(self, row: Encoding) -> TextPair:
        """A row as two texts; what the template says before each response is part of neither."""
        if not row.length:
            return text_pair(row, row.targets, self.encoder.tokenizer)
        runs, asks = _runs(row.targets), ~row.targets
        if len(runs) == 1 and not self._has_prompt(row.input_ids[: runs[0][0]], self._head_of(row)):
            return without_prompt(row)
        asks[: row.shared_head_length] = False
        for start, _ in runs:
            if _ends_with(row.input_ids[:start], self._header):
                asks[start - len(self._header) : start] = False
        return text_pair(row, asks, self.encoder.tokenizer)

    def _has_prompt(self, before: np.ndarray, head: np.ndarray) -> bool:
        """Whether there is more before the first response than its head; one token cannot be told from its own."""
        if len(before) <= max(1, len(head)):
            return False
        return self._empty_prompt is None or not np.array_equal(before, self._empty_prompt)

    def _start(self, row: Encoding, runs: list[tuple[int, int]], head: np.ndarray) -> Encoding:
        """The row up to the first tokens of its last response; of each response those count that count alone too."""
        targets = np.zeros(row.length, dtype=bool)
        unpredicted = 0 if len(head) else 1  # alone, nothing would predict the first
        for start, end in runs:
            first = start + unpredicted
            last = min(end, first + self.first_tokens)
            targets[first:last] = True
        return row._replace(input_ids=row.input_ids[:last], targets=targets[:last])

    def _alone(self, row: Encoding, run: tuple[int, int], head: np.ndarray) -> Encoding:
        start, end = run
        ids = np.concatenate([head, row.input_ids[start:end]]).astype(np.int32)[: self.encoder.max_length]
        targets = np.arange(len(ids)) >= max(1, len(head))
        return Encoding(ids, targets, row.status)

    def _head_of(self, row: Encoding) -> np.ndarray:
        """What the responses of a row stand behind when they are alone."""
        start = int(row.targets.argmax())
        begins = self._bos if np.array_equal(row.input_ids[:1], self._bos) else self._bos[:0]
        header = self._header
        if self.alone == "raw" or not _ends_with(row.input_ids[:start], header):
            return begins
        if self.alone == "header":
            return np.concatenate([begins, header])
        if self._empty_prompt is None:
            raise ValueError(
                "alone='empty_prompt' needs a template that accepts an empty user turn, and this one does not. Pass "
                "alone='header' or alone='raw'."
            )
        return self._empty_prompt

    @cached_property
    def _bos(self) -> np.ndarray:
        """The token that the tokenizer puts before every text; none if it puts none, or several."""
        ids = self.encoder.tokenizer("")["input_ids"]
        return np.array(ids[:1] if ids[:1] == [self.encoder.tokenizer.bos_token_id] else [], np.int32)

    @cached_property
    def _header(self) -> np.ndarray:
        """Token ids of the header of a response, as they stand in rows; none where the template has none."""
        prompts = self._sample_prompts
        if not prompts:
            return np.empty(0, np.int32)
        cue = self.encoder.tokenizer(self.encoder.cue, add_special_tokens=False)["input_ids"]
        if cue and all(_ends_with(prompt, np.array(cue)) for prompt in prompts):
            return np.array(cue, np.int32)
        return _common_end(prompts)  # the header is part of the user's turn, as in `[INST] ... [/INST]`

    @cached_property
    def _sample_prompts(self) -> list[np.ndarray]:
        if self.encoder.has_no_template:
            return []
        try:
            return [self.encoder.sample_prompt(row) for row in sample_rows()[0]]
        except RefusedRowError as refused:
            logger.warning(
                "the template's header of a response is not known, so that alone a response stands behind nothing: "
                "the template accepts no single question (%s)",
                refused,
            )
            return []

    @cached_property
    def _empty_prompt(self) -> np.ndarray | None:
        """Token ids of the template with an empty user turn, up to the response; `None` if it accepts none."""
        if self.encoder.has_no_template:
            return None
        try:
            return self.encoder.sample_prompt(Instruction("", "", "Yes."))
        except RefusedRowError as refused:
            logger.debug("the template accepts no empty user turn: %s", refused)
            return None


def _first(row: Encoding, tokens: int) -> Encoding:
    """A row that is a single response, cut behind its first target tokens."""
    end = int(row.targets.argmax()) + tokens
    return row._replace(input_ids=row.input_ids[:end], targets=row.targets[:end])


def _runs(targets: np.ndarray) -> list[tuple[int, int]]:
    """Start and end of each run of target tokens."""
    edges = np.flatnonzero(np.diff(targets, prepend=False, append=False))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _ends_with(ids: np.ndarray, end: np.ndarray) -> bool:
    return 0 < len(end) <= len(ids) and np.array_equal(ids[-len(end) :], end)


def _common_end(rows: Sequence[np.ndarray]) -> np.ndarray:
    size = min(map(len, rows))
    same = np.all([row[::-1][:size] == rows[0][::-1][:size] for row in rows], axis=0)
    length = size if same.all() else int(same.argmin())
    return rows[0][len(rows[0]) - length :]
