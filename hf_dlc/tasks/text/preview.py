"""Rows as they are scored, for people: the text with what is learned from marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from hf_dlc.scores.columns import OK

from .encoding import Encoding


MARKS = ("\u27e6", "\u27e7")  # around what is learned from: brackets that hardly any text has


def preview_text(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Encoding]) -> str:
    """
    Encoded rows as text, special tokens included, with marks around what is learned from.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer that encoded them.
        rows (`Sequence[Encoding]`):
            Rows, in the order of the dataset.

    Returns:
        `str`: For each row a line with its number, status and tokens, then its text. Control characters are escaped:
        the text of a dataset could otherwise move the cursor of a terminal.
    """
    lines = [f"{MARKS[0]}learned from{MARKS[1]}"]
    for place, row in enumerate(rows):
        lines.append(_header(place, row))
        if row.length:
            lines.append("".join(_marked(tokenizer, row)))
    return "\n".join(lines)


def _header(place: int, row: Encoding) -> str:
    if not row.length:
        return f"--- row {place}: {row.status}, {row.why}" if row.why else f"--- row {place}: {row.status}"
    status = "" if row.status == OK else f"{row.status}, "
    return f"--- row {place}: {status}{row.length} tokens, {row.target_tokens} of them learned from"


def _marked(tokenizer: PreTrainedTokenizerBase, row: Encoding) -> Iterator[str]:
    """The text in runs of tokens that are learned from and runs that are not."""
    edges = np.flatnonzero(np.diff(row.targets.astype(np.int8))) + 1
    before = ""
    for start, end in zip([0, *edges], [*edges, row.length], strict=True):
        # The text up to here less the text up to there: a tokenizer may begin what it decodes with a space or without.
        upto = tokenizer.decode(row.input_ids[:end].tolist(), skip_special_tokens=False)
        text = "".join(map(_visible, upto.removeprefix(before) if upto.startswith(before) else upto))
        before = upto
        if text:
            yield f"{MARKS[0]}{text}{MARKS[1]}" if row.targets[start] else text


def _visible(character: str) -> str:
    return character if character.isprintable() or character == "\n" else repr(character)[1:-1]
