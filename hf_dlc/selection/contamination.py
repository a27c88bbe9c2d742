"""Rows of a pool that say the same as a wanted row: they would be trained on, and then measured by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from hf_dlc.utils.words import is_nothing, normalised, words_of


_SHINGLE = 5  # words that stand in a row

_LEAST_JACCARD = 0.9
_LEAST_OF_CONTAINED = 0.3  # of a text that wholly stands in the other


def equals_wanted(texts: Sequence[str], wanted: Sequence[str], nearly: bool = True) -> np.ndarray:
    """
    Find the rows that equal a wanted row, or nearly do.

    Texts are equal if their words are, normalised as in [`~duplicates.find.find_duplicates`]: case, white space and
    stops do not count, but `2 - 3` is not `2 + 3`. They are nearly equal by the sets of their shingles, which are runs
    of 5 words, or the whole of a shorter text:

    - if the Jaccard similarity of the sets is at least 0.9, or
    - if all shingles of one text are shingles of the other, and at least 0.3 of these.

    So a source or a rationale that stands beside a wanted text does not hide it, unless it is more than twice as long.
    Rows that share a template, and so most of their words, are different rows. So are rows with the same prompt and
    another response; `find_duplicates(dataset, by="prompt")` finds these.

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
    sizes = np.array(list(map(len, sets)))
    known = {shingle: np.array(numbers) for shingle, numbers in having.items()}
    return np.array([_equals_any(_shingles(words), sizes, known) for words in rows], dtype=bool)


def _words(text: str) -> tuple[str, ...]:
    return () if is_nothing(text) else tuple(words_of(normalised(text)))


def _shingles(words: tuple[str, ...]) -> set[tuple[str, ...]]:
    if 0 < len(words) < _SHINGLE:
        return {words}
    return {*zip(*(words[start:] for start in range(_SHINGLE)), strict=False)}


def _equals_any(found: set[tuple[str, ...]], sizes: np.ndarray, having: Mapping[tuple[str, ...], np.ndarray]) -> bool:
    """Whether a row with these shingles is like a wanted text, of which the number of shingles is known."""
    numbers = [having[shingle] for shingle in found if shingle in having]
    if not numbers:
        return False
    common = np.bincount(np.concatenate(numbers), minlength=len(sizes))
    jaccard = common / (len(found) + sizes - common)
    is_contained = common == np.minimum(len(found), sizes)
    return bool((jaccard >= np.where(is_contained, _LEAST_OF_CONTAINED, _LEAST_JACCARD)).any())
