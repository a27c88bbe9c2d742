"""Similarity of texts by their words, without any model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from hf_dlc.utils.words import spaced

from .nearest import Block


_WORDS = r"(?u)\b\w+\b"  # those of one sign count as well: numbers, and characters of scripts without spaces


def require_bm25s() -> None:
    """Raise an `ImportError` that says what to install where `bm25s` is not."""
    try:
        import bm25s  # noqa: F401
    except ImportError as error:
        raise ImportError("metric='bm25' needs the package bm25s: pip install 'hf-dlc[bm25]'.") from error


class WordSimilarity:
    """
    BM25 of the texts of a pool for the texts of wanted rows, by the library `bm25s`.

    The source is Robertson et al., "Okapi at TREC-3", 1994, in the variant of Lucene; every wanted text is a query.
    The similarities of a wanted row are divided by its greatest.

    Args:
        texts (`Sequence[str]`):
            Texts of the pool.
        wanted (`Sequence[str]`):
            Texts of the wanted rows.

    Raises:
        ImportError: If `bm25s` is not installed.
    """

    def __init__(self, texts: Sequence[str], wanted: Sequence[str]) -> None:
        require_bm25s()
        import bm25s

        self.rows, self.wanted = len(texts), len(wanted)
        options = {"stopwords": None, "token_pattern": _WORDS, "show_progress": False}
        words = bm25s.tokenize(list(map(spaced, texts)), **options)
        if not words.vocab:
            raise ValueError(f"none of the {len(texts)} rows has a word to compare by. Pass another metric.")
        self._index = bm25s.BM25()
        self._index.index(words, show_progress=False)
        self._queries = bm25s.tokenize(list(map(spaced, wanted)), return_ids=False, **options)

    def blocks(self) -> Iterator[Block]:
        """All similarities, those of one wanted row at a time."""
        for number in range(self.wanted):
            yield Block(slice(number, number + 1), slice(0, self.rows), self._scores(number)[None])

    def of_pairs(self, wanted: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Similarity of each of some wanted rows with a row of the pool."""
        found = np.empty(len(rows), dtype=np.float32)
        for number in np.unique(wanted):
            found[wanted == number] = self._scores(number)[rows[wanted == number]]
        return found

    def _scores(self, number: int) -> np.ndarray:
        query = self._queries[number]
        scores = self._index.get_scores(query) if query else np.zeros(self.rows, dtype=np.float32)
        return np.asarray(scores, dtype=np.float32) / max(float(scores.max(initial=0.0)), np.finfo(np.float32).tiny)
