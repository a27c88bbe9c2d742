"""Rows of a pool that say the same as a wanted row: they would be trained on, and then measured by."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np


_WORDS = re.compile(r"\w+")
_SHINGLE = 5  # words that stand in a row

# Of the shingles of the shorter row, and of those of both rows together.
_LEAST_CONTAINED = 0.8
_LEAST_JACCARD = 0.3


def equals_wanted(texts: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """
    Find the rows that equal a wanted row, or nearly do.

    Texts are compared by their shingles: runs of 5 words, without case and punctuation; a shorter text is one shingle.
    A row equals a wanted one if they share at least 80% of the shingles of the shorter one, and 30% of those of both.
    So what else there is in one of them, such as the name of its source or a rationale, does not hide it.

    Args:
        texts (`Sequence[str]`):
            Text of each row.
        wanted (`Sequence[str]`):
            Texts of the wanted rows.

    Returns:
        `np.ndarray` of shape `(rows,)`: mask of these rows.

    Example:
    ```python
    >>> equals_wanted(["How many apples are left? Two.", "How many?"], ["how many apples are left? two"])
    array([ True, False])

    ```
    """
    shingles = [_shingles(text) for text in wanted]
    having = defaultdict(list)
    for number, found in enumerate(shingles):
        for shingle in found:
            having[shingle].append(number)
    return np.array([_equals_any(_shingles(text), shingles, having) for text in texts], dtype=bool)


def _shingles(text: str) -> set[str]:
    words = _WORDS.findall(text.casefold())
    if not words:
        return set()
    return {" ".join(words[start : start + _SHINGLE]) for start in range(max(1, len(words) - _SHINGLE + 1))}


def _equals_any(found: set[str], wanted: Sequence[set[str]], having: dict[str, list[int]]) -> bool:
    common = Counter(number for shingle in found if shingle in having for number in having[shingle])
    return any(
        count >= _LEAST_CONTAINED * min(len(found), len(wanted[number]))
        and count >= _LEAST_JACCARD * (len(found) + len(wanted[number]) - count)
        for number, count in common.items()
    )
