"""Rows of a pool that say the same as a wanted row: they would be trained on, and then measured by."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np


_WORDS = re.compile(r"\w+")
_SHINGLE = 5  # words that stand in a row

_LEAST_JACCARD = 0.9
_LEAST_OF_CONTAINED = 0.3  # of a text that wholly stands in the other


def equals_wanted(texts: Sequence[str], wanted: Sequence[str], nearly: bool = True) -> np.ndarray:
    """
    Find the rows that equal a wanted row, or nearly do.

    Texts are equal if their words are, whatever their case and their punctuation. They are nearly equal by the sets of
    their shingles, which are runs of 5 words, or the whole of a shorter text:

    - if the Jaccard similarity of the sets is at least 0.9, or
    - if all shingles of one text are shingles of the other, and at least 0.3 of these.

    So a source or a rationale that stands beside a wanted text does not hide it. Rows that share a template, and so
    most of their words, are different rows.

    Args:
        texts (`Sequence[str]`):
            Text of each row.
        wanted (`Sequence[str]`):
            Texts of the wanted rows.
        nearly (`bool`, *optional*, defaults to `True`):
            Whether rows that are nearly equal count too.

    Returns:
        `np.ndarray` of shape `(rows,)`: mask of these rows.

    Example:
    ```python
    >>> equals_wanted(["How many apples are left? Two.", "How many?"], ["how many apples are left? two"])
    array([ True, False])

    ```
    """
    rows = map(_words, texts)
    wanted_words = {words for words in map(_words, wanted) if words}
    if not nearly:
        return np.array([words in wanted_words for words in rows], dtype=bool)
    sets = [_shingles(words) for words in wanted_words]
    having = defaultdict(list)
    for number, found in enumerate(sets):
        for shingle in found:
            having[shingle].append(number)
    sizes = list(map(len, sets))
    return np.array([_equals_any(_shingles(words), sizes, having) for words in rows], dtype=bool)


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORDS.findall(text.casefold()))


def _shingles(words: tuple[str, ...]) -> set[tuple[str, ...]]:
    if 0 < len(words) < _SHINGLE:
        return {words}
    return {*zip(*(words[start:] for start in range(_SHINGLE)), strict=False)}


def _equals_any(
    found: set[tuple[str, ...]], sizes: Sequence[int], having: Mapping[tuple[str, ...], list[int]]
) -> bool:
    """Whether a row with these shingles is like a wanted text, of which the number of shingles is known."""
    common = Counter(number for shingle in found if shingle in having for number in having[shingle])
    for number, count in common.items():
        jaccard = count / (len(found) + sizes[number] - count)
        is_contained = count == min(len(found), sizes[number])
        if jaccard >= (_LEAST_OF_CONTAINED if is_contained else _LEAST_JACCARD):
            return True
    return False
