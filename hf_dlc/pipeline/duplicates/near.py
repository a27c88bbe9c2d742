"""Near duplicates: rows of similar sets of shingles, by an exact join with prefix filtering."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from .texts import Texts


_SHINGLE = 3  # words
_TEXTS_AT_ONCE = 4096
_ROUNDING = 1e-6  # of what is held against a whole number


class Near:
    """
    Rows of similar sets of shingles.

    If the sets x and y have a Jaccard similarity of t or more, they share at least t·|x| shingles. So if the shingles
    are put in one order, the same for all sets, the two share one of the first |x| - ⌈t·|x|⌉ + 1 of x, and of as many
    of y: the prefixes. The order is by frequency, rare shingles first, so that few sets share any.

    What x and y share lies in both prefixes, or behind that prefix which ends first. So the number of shingles that
    the prefixes share tells most pairs apart.

    A row's parts are one set here, in which each shingle knows its part. If all parts are similar enough, so is the
    whole set; the parts are counted only of the pairs that are left.
    """

    def __init__(self, texts: Texts, near: float) -> None:
        self.comparable = texts.numbers >= 0
        self._near, self._numbers = near, texts.numbers.tolist()
        self._kept = np.full(texts.count, -1, dtype=np.int64)  # row of a text
        self._kept_with: defaultdict[int, list[int]] = defaultdict(list)  # texts with a shingle in their prefix
        pieces = [_shingles(texts, first) for first in range(0, texts.count, _TEXTS_AT_ONCE)]
        shared, ranks = _in_several([keys for keys, _ in pieces])
        found = [_ranked(keys, sizes, shared, ranks) for keys, sizes in pieces]
        nothing = np.empty(0, dtype=np.int32)
        # Of each text the shingles that others have too: the rest counts in its size alone.
        self._shingles = np.concatenate([nothing, *(one for one, _ in found)])
        self._sizes = np.concatenate([nothing, *(sizes for _, sizes in pieces)]).reshape(-1, texts.parts)
        self._shared = np.concatenate([nothing, *(sizes for _, sizes in found)]).reshape(-1, texts.parts)
        self._starts = _starts(self._shared.sum(axis=1))
        self._is_in_row = np.zeros(len(shared), dtype=bool)
        self._set_prefixes()

    def _set_prefixes(self) -> None:
        """Put the shared shingles of each text in the one order, and find where its prefix ends."""
        self._order = self._shingles.copy()
        for start, end in itertools.pairwise(self._starts.tolist()):
            self._order[start:end].sort()
        self._size, shared = self._sizes.sum(axis=1), self._shared.sum(axis=1)
        least = np.ceil(self._near * self._size - _ROUNDING).astype(np.int64)  # that a similar text shares
        self._behind = np.maximum(least - 1, 0)  # the prefix
        # Shingles that no other text has are the rarest: they stand before all others.
        self._ends = self._starts[1:] - np.minimum(self._behind, shared)

    def find(self, row: int) -> int:
        number = self._numbers[row]
        if number < 0:
            return -1
        if self._kept[number] >= 0:  # the same text; no row before it is like it, or it would not have been kept
            return int(self._kept[number])
        others = self._candidates(number)
        if not len(others):  # as of most rows
            return -1
        alike = others[self._similarities(number, others).min(axis=1) >= self._near]
        return int(self._kept[alike].min()) if len(alike) else -1

    def keep(self, row: int) -> None:
        number = self._numbers[row]
        if number >= 0:
            self._kept[number] = row
            for shingle in self._prefix(number):
                self._kept_with[shingle].append(number)

    def _prefix(self, number: int) -> list[int]:
        return self._order[self._starts[number] : self._ends[number]].tolist()

    def _candidates(self, number: int) -> np.ndarray:
        """The kept texts that may be similar enough by their prefixes and their sizes."""
        runs = [self._kept_with[one] for one in self._prefix(number) if one in self._kept_with]
        if not runs:
            return np.empty(0, dtype=np.int64)
        met = Counter(itertools.chain.from_iterable(runs))
        others, in_prefixes = (np.fromiter(numbers, np.int64, len(met)) for numbers in (met.keys(), met.values()))
        most = in_prefixes + np.maximum(self._behind[others], self._behind[number])
        least = (self._size[others] + self._size[number]) * (self._near / (1 + self._near))
        others = others[most >= least - _ROUNDING]
        sizes, own = self._sizes[others], self._sizes[number]
        return others[(np.minimum(sizes, own) >= self._near * np.maximum(sizes, own) - _ROUNDING).all(axis=1)]

    def _similarities(self, number: int, others: np.ndarray) -> np.ndarray:
        """Jaccard similarity of each part of a text to that of others; two empty parts are the same."""
        own = self._shingles[self._starts[number] : self._starts[number + 1]]
        spans = zip(self._starts[others].tolist(), self._starts[others + 1].tolist(), strict=True)
        self._is_in_row[own] = True
        hits = _starts(self._is_in_row[np.concatenate([self._shingles[start:end] for start, end in spans])])
        self._is_in_row[own] = False
        common = np.diff(hits[_starts(self._shared[others].ravel())]).reshape(len(others), -1)
        either = self._sizes[number] + self._sizes[others] - common
        return np.divide(common, either, out=np.ones(either.shape), where=either > 0)


def _shingles(texts: Texts, first: int) -> tuple[np.ndarray, np.ndarray]:
    """
    The shingles of some texts from the first one on: their keys, each once a part, and how many each part has.

    A key is made of the numbers of the words and of the part. It is the shingle's own up to 1.8 million different
    words; with more, hardly ever two shingles have the same.
    """
    parts = slice(first * texts.parts, (first + _TEXTS_AT_ONCE) * texts.parts)
    start, end = texts.lengths[: parts.start].sum(), texts.lengths[: parts.stop].sum()
    words, lengths = texts.words[start:end], texts.lengths[parts]
    segments = np.repeat(np.arange(len(lengths)), lengths)
    is_short = lengths[segments] < _SHINGLE
    words_left = np.cumsum(lengths)[segments] - np.arange(len(words))
    begins = np.flatnonzero(is_short | (words_left >= _SHINGLE))
    segments, is_short = segments[begins], is_short[begins]
    keys = (segments % texts.parts).astype(np.uint64)
    for place in range(_SHINGLE):
        further = words[np.minimum(begins + place, len(words) - 1)]
        further = np.where(is_short & (place > 0), texts.vocabulary_size, further)
        keys = keys * np.uint64(texts.vocabulary_size + 1) + further.astype(np.uint64)
    order = np.lexsort((keys, segments))
    keys, segments = keys[order], segments[order]
    is_first = np.ones(len(keys), dtype=bool)
    is_first[1:] = (keys[1:] != keys[:-1]) | (segments[1:] != segments[:-1])
    return keys[is_first], np.bincount(segments[is_first], minlength=len(lengths))


def _in_several(pieces: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The shingles that stand in more than one place, in order, and the rank of each by frequency."""
    keys = np.concatenate([np.empty(0, dtype=np.uint64), *pieces])
    keys.sort()
    shared, frequency = np.unique(keys[1:][keys[1:] == keys[:-1]], return_counts=True)
    ranks = np.empty(len(shared), dtype=np.int32)
    ranks[np.argsort(frequency, kind="stable")] = np.arange(len(shared))
    return shared, ranks


def _ranked(
    keys: np.ndarray, sizes: np.ndarray, shared: np.ndarray, ranks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The ranks of the shingles that are shared, part by part, and how many each part has."""
    places = np.searchsorted(shared, keys)
    is_shared = places < len(shared)
    is_shared[is_shared] = shared[places[is_shared]] == keys[is_shared]
    segments = np.repeat(np.arange(len(sizes)), sizes)[is_shared]
    return ranks[places[is_shared]], np.bincount(segments, minlength=len(sizes))


def _starts(lengths: np.ndarray) -> np.ndarray:
    """Where each of several runs begins that stand one behind the other, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
