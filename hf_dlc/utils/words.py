"""Words of texts as they are compared: whatever the case, the spaces and the signs at the ends of words."""

from __future__ import annotations

import re
import unicodedata


_SAME_SIGNS = (
    (re.compile("[\u2018\u2019\u201a\u201b]"), "'"),
    (re.compile("[\u201c\u201d\u201e\u201f]"), '"'),
    (re.compile("[\u2010-\u2015\u2212]"), "-"),
    (re.compile("[\u00ad\u200b\u2060\ufeff]"), ""),
)
_QUOTES = "\"'`\u00ab\u00bb\u2039\u203a\u300c\u300d\u300e\u300f"
_STOPS = ".,;:!?\u3001\u3002"
_LEFT_OUT = re.compile(rf"(?<!\S)[{_QUOTES}\u00a1\u00bf]+|[{_QUOTES}{_STOPS}]+(?!\S)")
_NOTHING = re.compile(rf"[\s{_QUOTES}{_STOPS}\u00a1\u00bf]*")  # a text in which no word is

# Thai and Lao, Burmese, Khmer, Japanese syllables, Chinese characters: scripts without spaces between words.
_WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def normalised(text: str) -> str:
    """
    The text as it is compared.

    If nothing else would be left of a text, its signs stay: the answer `?` is not the answer `!`.
    """
    if text.isascii():
        text = text.lower()
    else:
        folded = unicodedata.normalize("NFKC", text).casefold()
        text = unicodedata.normalize("NFKC", folded)
        for signs, plain in _SAME_SIGNS:
            text = signs.sub(plain, text)
    return " ".join(_LEFT_OUT.sub(" ", text).split()) or " ".join(text.split())


def words_of(text: str) -> list[str]:
    """
    The words of a normalised text: what stands between spaces.

    In scripts without spaces, such as Chinese, Japanese and Thai, every character is a word.
    """
    return spaced(text).split()


def spaced(text: str) -> str:
    """The text with a space on both sides of each character of a script without spaces."""
    return text if text.isascii() else _WITHOUT_SPACES.sub(r" \g<0> ", text)


def is_nothing(text: str) -> bool:
    """Whether no word is in a text, but white space and signs at most."""
    return _NOTHING.fullmatch(text) is not None
