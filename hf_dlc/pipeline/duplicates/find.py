"""Duplicates in a dataset: rows in whose place another row is kept, found by text, by words, by vectors."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Literal, Protocol

import numpy as np
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset, Features, Value

from hf_dlc.scores.columns import with_columns
from hf_dlc.selection.columns import require_map_style
from hf_dlc.selection.vectors import made_by, read_vectors

from .near import Near
from .semantic import Semantic
from .texts import PARTS, By, picture_columns, read_texts


logger = logging.getLogger(__name__)

Kind = Literal["exact", "near", "semantic"]

KINDS: tuple[Kind, ...] = ("exact", "near", "semantic")  # the strongest first
_FEATURES = Features({"dup_of": Value("int64"), "dup_kind": Value("string")})


def find_duplicates(
    dataset: Dataset,
    by: By = "both",
    kinds: Sequence[Kind] | None = None,
    features: str | None = "dlc_features",
    near: float = 0.8,
    semantic: float = 0.95,
    layout: str = "auto",
    columns: Mapping[str, str] | None = None,
) -> Dataset:
    """
    Find the duplicates of a dataset and mark them. No row is removed.

    The rows are gone through in their order. A row is a duplicate if it is like an earlier row that is no duplicate
    itself; that row is the one that is kept in its place. So no two of the rows with `dup_of < 0` are alike, and every
    other row is like one of them. Of rows that are all the same, the first is kept. In a chain where B is like A, and
    C is like B but not like A, C is no duplicate: B, which it is like, is not kept.

    What makes two rows alike:

    - `"exact"`: the texts are the same after normalisation. Characters go through Unicode NFKC and case folding.
      Curly quotes and long dashes count as plain ones, soft hyphens and spaces without width as nothing. Each run of
      white space becomes a single space. The signs `. , ; : ! ? 、 。` and quotes are left out before white space and
      at the end; quotes, `¿` and `¡` are left out behind white space and at the beginning. All other signs stay:
      `2-3` is not `2/3`, and `3.5` is not `35`. In a text of nothing but such signs, they stay too.
    - `"near"`: the Jaccard similarity of the sets of shingles is at least `near`. A shingle is three words in a row;
      of a text with fewer words, each word is one. Words are what stands between spaces after normalisation. In
      scripts without spaces, such as Chinese, Japanese and Thai, every character is a word.
    - `"semantic"`: the cosine of the vectors in the column `features` is at least `semantic`, up to rounding.

    Prompt and response are compared each by itself, and with `by="both"` both must be alike. A long prompt thus does
    not hide that the answers differ. System prompt and tools belong to the prompt, and are a text of their own. Rows
    are read by their layout, as for scoring; of rows of token ids, ids are the words.

    A row that cannot be read, such as one without a response, is a duplicate of no other. Nor is a row whose compared
    texts hold nothing but white space and the signs above.

    Rows with pictures are compared by the bytes of these and, where a layout of text fits the columns, by text too.
    Labels are not compared.

    All three searches are exhaustive, and give the same whenever they are repeated. Near duplicates are found by a
    set similarity join with prefix filtering, which needs about 30 bytes of memory a word. The sources:

    - shingles: Broder, "On the resemblance and containment of documents", 1997
    - prefix filtering: Chaudhuri et al., "A Primitive Operator for Similarity Joins in Data Cleaning", ICDE 2006, and
      Xiao et al., "Efficient Similarity Joins for Near Duplicate Detection", WWW 2008
    - cosine of embeddings: Abbas et al., "SemDeDup: Data-efficient learning at web-scale through semantic
      deduplication", 2023

    Args:
        dataset ([`~datasets.Dataset`]):
            The rows, in any layout that can be scored, or images.
        by (`"both"`, `"prompt"` or `"response"`, *optional*, defaults to `"both"`):
            Which texts are compared. Vectors and pictures are of whole rows.
        kinds (`Sequence[str]`, *optional*):
            Some of `"exact"`, `"near"` and `"semantic"`; by default the first two, of rows with pictures the first.
        features (`str`, *optional*, defaults to `"dlc_features"`):
            Column of the vectors, as scoring with `features=True` writes it. Only read for `"semantic"`. A row without
            a vector is no semantic duplicate.
        near (`float`, *optional*, defaults to `0.8`):
            Least Jaccard similarity of near duplicates, in (0, 1].
        semantic (`float`, *optional*, defaults to `0.95`):
            Least cosine of semantic duplicates, in (0, 1].
        layout (`str`, *optional*, defaults to `"auto"`):
            Layout of the rows instead of the first that fits, as in [`DLCConfig`].
        columns (`Mapping[str, str]`, *optional*):
            From a column of the dataset to the name that a layout expects, or to `"ignore"`, as in [`DLCConfig`].

    Returns:
        [`~datasets.Dataset`]: The rows with two more columns, which replace those of an earlier call. `dup_of` (int64)
        is the number, in this dataset, of the row that is kept in the place of this one, and -1 in a row that is no
        duplicate. `dup_kind` (string) is the strongest kind that holds, exact before near before semantic, or `""`.
        Of several kept rows that are alike in this kind, the first counts. Once rows are moved or removed, the numbers
        are those of another dataset.

    Raises:
        TypeError: If `dataset` is a `DatasetDict` or is streamed.
        ValueError: If a parameter is out of its range, if no layout fits, if the column of features is missing, or if
            near duplicates are asked for among pictures.

    Example:
    ```python
    >>> from datasets import Dataset
    >>> from hf_dlc import find_duplicates

    >>> questions = ["What is 2 + 3?", "Name a colour.", "what is  2 + 3", "What is 2 - 3?"]
    >>> dataset = Dataset.from_dict({"instruction": questions, "output": ["5", "Red.", "5.", "-1"]})
    >>> marked = find_duplicates(dataset)
    >>> marked["dup_of"][:], marked["dup_kind"][:]
    ([-1, -1, 0, -1], ['', '', 'exact', ''])
    >>> marked.filter(lambda row: row["dup_of"] < 0).num_rows
    3

    ```
    """
    require_map_style(dataset, "find_duplicates", "it compares all rows with each other")
    if kinds is None:
        kinds = ("exact",) if picture_columns(dataset, columns) else ("exact", "near")
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    _check_options(by, kinds, near, semantic)
    finders: dict[Kind, _Finder] = {}
    if dataset.num_rows and {"exact", "near"} & set(kinds):
        texts = read_texts(dataset, by, layout, columns, "near" in kinds)
        finders = {"exact": _Exact(texts.numbers)} if "exact" in kinds else {}
        finders |= {"near": Near(texts, near)} if "near" in kinds else {}
    if "semantic" in kinds:
        vectors = _read_features(dataset, features)
        finders |= {"semantic": Semantic(vectors, semantic)} if dataset.num_rows else {}
    dup_of, dup_kind = _mark(dataset.num_rows, finders)
    _say(dup_kind, finders)
    return with_columns(dataset, {"dup_of": dup_of, "dup_kind": dup_kind}, _FEATURES)


def _check_options(by: str, kinds: Sequence[str], near: float, semantic: float) -> None:
    if by not in tuple(PARTS):
        raise ValueError(f"by must be one of {', '.join(map(repr, PARTS))}, got {by!r}.")
    if not kinds or any(kind not in KINDS for kind in kinds):
        raise ValueError(f"kinds must be one or more of {', '.join(map(repr, KINDS))}, got {kinds!r}.")
    for name, value in (("near", near), ("semantic", semantic)):
        if not isinstance(value, Real) or isinstance(value, bool) or not 0 < value <= 1:
            raise ValueError(f"{name} must be a number above 0 and at most 1, got {value!r}.")


def _read_features(dataset: Dataset, column: str | None) -> np.ndarray:
    if column not in dataset.column_names:
        raise ValueError(
            f"semantic duplicates need a column of vectors, and features={column!r} is none of "
            f"{dataset.column_names}. Score the rows with features=True first, or pass features= one of these."
        )
    made_by(dataset, column)  # vectors that were made in several ways do not compare
    return read_vectors(dataset, column) if dataset.num_rows else np.empty((0, 1), dtype=np.float32)


class _Finder(Protocol):
    """Search among the rows that are kept so far, for one kind of likeness. The rows come in ascending order."""

    comparable: np.ndarray  # mask of the rows that can be like another at all

    def find(self, row: int) -> int:
        """Return the first kept row that this one is like, or -1."""

    def keep(self, row: int) -> None:
        """Take in a row that is kept."""


def _mark(rows: int, finders: Mapping[Kind, _Finder]) -> tuple[np.ndarray, list[str]]:
    """Go through the rows, and return for each what `dup_of` and `dup_kind` say of it."""
    dup_of, dup_kind = np.full(rows, -1, dtype=np.int64), [""] * rows
    for row in range(rows):
        for kind, finder in finders.items():
            kept = finder.find(row)
            if kept >= 0:
                dup_of[row], dup_kind[row] = kept, kind
                break
        else:
            for finder in finders.values():
                finder.keep(row)
    return dup_of, dup_kind


def _say(dup_kind: Sequence[str], finders: Mapping[Kind, _Finder]) -> None:
    """Log how many duplicates there are, and how many rows could not be compared."""
    rows, counts = len(dup_kind), Counter(filter(None, dup_kind))
    found = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
    compared = np.any([finder.comparable for finder in finders.values()], axis=0).sum() if finders else rows
    logger.info(
        "%d of %d rows are duplicates%s%s",
        counts.total(),
        rows,
        f": {found}" if found else "",
        f"; rows with nothing to compare: {rows - compared}" if compared < rows else "",
    )


class _Exact:
    """Rows of the same text."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.comparable = numbers >= 0
        self._numbers = numbers.tolist()
        self._kept: dict[int, int] = {}

    def find(self, row: int) -> int:
        return self._kept.get(self._numbers[row], -1)

    def keep(self, row: int) -> None:
        if self._numbers[row] >= 0:
            self._kept[self._numbers[row]] = row
