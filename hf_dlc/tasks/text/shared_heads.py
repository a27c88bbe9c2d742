"""The constant heads of a template (preamble, default system prompt), which many rows begin with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from .rows import Instruction


# A shorter head than this is not worth a pass of its own and attention to keys from elsewhere.
_SHORTEST = 8

# What users begin with, in kinds of characters that a tokenizer treats apart.
_OPENINGS = ("Name it.", "7 + 5", "(a)", "«Ça»", "中文")


def sample_rows() -> list[list[Instruction]]:
    """Rows without and with input that differ from the first character on that is the user's."""
    return [
        [Instruction(text, text if has_input else "", "Yes.") for text in _OPENINGS] for has_input in (False, True)
    ]


def shared_heads(samples: Iterable[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """
    The heads that rows may share, behind an empty one, the longest first.

    Args:
        samples (`Iterable[Sequence[np.ndarray]]`):
            For each wording of the template, token ids of made-up rows that have nothing else in common.

    Returns:
        `list[np.ndarray]`: Token ids, int32.
    """
    heads = {head.tobytes(): head for head in map(_common_head, samples) if len(head) >= _SHORTEST}
    return [np.empty(0, np.int32), *sorted(heads.values(), key=len, reverse=True)]


def head_of(ids: np.ndarray, first_target: int, heads: Sequence[np.ndarray]) -> int:
    """
    The head that a row begins with.

    Args:
        ids (`np.ndarray`):
            Token ids of the row.
        first_target (`int`):
            Place of its first target; the token before it must be computed with the row.
        heads (`Sequence[np.ndarray]`):
            From [`shared_heads`].

    Returns:
        `int`: Index into `heads`.
    """
    for index, head in enumerate(heads):
        if index and len(head) < first_target and np.array_equal(ids[: len(head)], head):
            return index
    return 0


def _common_head(rows: Sequence[np.ndarray]) -> np.ndarray:
    """The first tokens that all rows have in common."""
    size = min(map(len, rows))
    same = np.all([row[:size] == rows[0][:size] for row in rows], axis=0)
    return rows[0][: size if same.all() else int(same.argmin())]
