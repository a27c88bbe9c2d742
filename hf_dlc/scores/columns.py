"""Names and types of the columns that scoring writes, their values, and those of the status column."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import Measure, Pass, Score, measures_by_pass
from .table import DEFAULT_SCORES, SCORES, chosen_scores


if TYPE_CHECKING:
    from datasets import Dataset, Features


# Values of `dlc_status`. A row has a score if, and only if, its status is in SCORED_STATUSES.
OK = "ok"
TRUNCATED = "truncated"  # scored on its first `max_length` tokens
PREDICTED = "predicted"  # some of its scores are predicted, be it truncated or not
EMPTY_RESPONSE = "empty_response"  # None, "" or only white space where the response should be
NO_TARGET = "no_target"  # not empty, but no token of it is learned from (a row that is all prompt, say)
NO_PROMPT = "no_prompt"  # nothing stands before the response, where a score compares it with and without that
TRUNCATED_AWAY = "truncated_away"  # every target token lies beyond `max_length`
INVALID_ROW = "invalid_row"  # a value of the wrong type where text was expected
INVALID_IMAGE = "invalid_image"  # no image, or one that cannot be read to its end
MISSING_LABEL = "missing_label"  # None, or -1 as `datasets` has it
UNKNOWN_LABEL = "unknown_label"  # no class of the head, or one without a fitted image
ONLY_OF_CLASS = "only_of_class"  # a prototype of its class would be the image itself
NAN_SCORE = "nan_score"  # the model gave NaN, or infinity, for this row
UNDEFINED_SCORE = "undefined_score"  # measured, but the score has no value, as a ratio to a loss of next to nothing

# Put before a reason where a row lacks only some of its scores: the others are there.
PARTLY = "partly_"

_REASONS_OF_A_SCORE = (NO_PROMPT, NO_TARGET, NAN_SCORE, UNDEFINED_SCORE)
PARTLY_SCORED = frozenset(PARTLY + reason for reason in _REASONS_OF_A_SCORE)
SCORED_STATUSES = frozenset({OK, TRUNCATED, PREDICTED}) | PARTLY_SCORED


def score_features(
    column_prefix: str = "dlc", keep_levels: bool = False, scores: Collection[str] | None = None
) -> Features:
    """
    Feature types of the score columns, in the order in which they are written.

    Args:
        column_prefix (`str`, *optional*, defaults to `"dlc"`):
            What the column names begin with.
        keep_levels (`bool`, *optional*, defaults to `False`):
            Whether the per-level columns are there as well.
        scores (`Collection[str]`, *optional*):
            Names of the scores that are there; by default those that are scored by default.

    Returns:
        [`~datasets.Features`]: `{column_prefix}_{name}` (`float32`) of each of these scores in the order of the table,
        `{column_prefix}_tokens` (`int32`), `{column_prefix}_status` (`string`) and, with `keep_levels`,
        `{column_prefix}_level_{name}` (lists of `float32`, level 0 first) of each of their measures.

    Example:
    ```python
    >>> list(score_features("easy", scores=["loss"]))
    ['easy_loss', 'easy_tokens', 'easy_status']
    ```
    """
    from datasets import Features, List, Value

    names = [score.name for score in chosen_scores(DEFAULT_SCORES if scores is None else scores)]
    features = {f"{column_prefix}_{name}": Value("float32") for name in names}
    features |= {f"{column_prefix}_tokens": Value("int32"), f"{column_prefix}_status": Value("string")}
    if keep_levels:
        features |= {f"{column_prefix}_level_{name}": List(Value("float32")) for name in _measure_names(names)}
    return Features(features)


def vector_features(column_prefix: str = "dlc", size: int | None = None) -> Features:
    """
    Feature types of the two columns of features.

    Args:
        column_prefix (`str`, *optional*, defaults to `"dlc"`):
            What the column names begin with.
        size (`int`, *optional*):
            Numbers in a vector.

    Returns:
        [`~datasets.Features`]: `{column_prefix}_features`, lists of `float16` of this size, and
        `{column_prefix}_features_by`, a `string` that says how they were made, the same in all rows.
    """
    from datasets import Features, List, Value

    vectors = List(Value("float16"), length=-1 if size is None else size)
    return Features({f"{column_prefix}_features": vectors, f"{column_prefix}_features_by": Value("string")})


def present_scores(names: Collection[str], column_prefix: str = "dlc") -> list[str]:
    """
    Scores whose columns are there. Rows that an earlier version scored lack the scores that came later.

    Args:
        names (`Collection[str]`):
            Names of all columns of a dataset.
        column_prefix (`str`, *optional*, defaults to `"dlc"`):
            What the names of the score columns begin with.

    Returns:
        `list[str]`: Names in the table `SCORES`, in its order.

    Example:
    ```python
    >>> present_scores(["text", "dlc_loss", "dlc_tokens", "dlc_status"])
    ['loss']
    ```
    """
    return [name for name in SCORES if f"{column_prefix}_{name}" in names]


def missing_columns(names: Collection[str], column_prefix: str = "dlc", keep_levels: bool = False) -> list[str]:
    """
    Columns that scored rows must have and these have not: those of tokens and status, and at least one score.

    Args:
        names (`Collection[str]`):
            Names of all columns of a dataset.
        column_prefix (`str`, *optional*, defaults to `"dlc"`):
            What the names of the score columns begin with.
        keep_levels (`bool`, *optional*, defaults to `False`):
            Whether they must have the per-level columns of the scores that are there.

    Returns:
        `list[str]`: Names of columns, in the order of [`score_features`]; all scores where no score is there.

    Example:
    ```python
    >>> missing_columns(["text", "dlc_loss", "dlc_tokens"])
    ['dlc_status']
    ```
    """
    scores = present_scores(names, column_prefix) or None
    return [name for name in score_features(column_prefix, keep_levels, scores) if name not in names]


def _measure_names(scores: Iterable[str]) -> list[str]:
    """Measures of the whole rows: those of other views have no levels."""
    found = [score for score in chosen_scores(scores) if any(one.view == "full" for one in score.passes((0.0, 0.5)))]
    return list(dict.fromkeys(measure.name for score in found for measure in score.measures))


def build_columns(
    statuses: Sequence[str],
    tokens: np.ndarray,
    values: Mapping[str, np.ndarray],
    schedule: Sequence[float],
    column_prefix: str = "dlc",
    keep_levels: bool = False,
    scores: Collection[str] = DEFAULT_SCORES,
    views: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """
    The columns of rows that went through the model in all passes that some scores ask for.

    Args:
        statuses (`Sequence[str]`):
            Status of each row as the encoding left it.
        tokens (`np.ndarray` of shape `(rows,)`):
            Target tokens of each row.
        values (`Mapping[str, np.ndarray]`):
            By the name of the measure float32 of shape `(passes, rows)`, in the order of [`~base.measures_by_pass`].
            What stands there for skipped rows is ignored, and so is a measure in a pass that does not ask for it.
        schedule (`Sequence[float]`):
            Masked fraction of each level.
        column_prefix (`str`, *optional*, defaults to `"dlc"`):
            What the column names begin with.
        keep_levels (`bool`, *optional*, defaults to `False`):
            Whether to add the per-level columns.
        scores (`Collection[str]`, *optional*, defaults to `DEFAULT_SCORES`):
            Names of the scores.
        views (`Mapping[str, Sequence[str]]`, *optional*):
            By the name of the view the status that each row has in it; `statuses` where a view is not named.

    Returns:
        `dict[str, Any]`: Column name to values, in the order and the types of [`score_features`]. Skipped rows have
        NaN, 0 tokens and the reason. A row that lacks a score has NaN there and the reason: as it is if it has no
        score at all, else behind `"partly_"`. NaN stands in a per-level column also where the measure is not asked
        for at a level.
    """
    chosen = chosen_scores(scores)
    passes = _Passes(measures_by_pass(chosen, schedule), values, statuses, views or {})
    columns: dict[str, Any] = {}
    has, reasons = np.zeros((len(chosen), len(statuses)), dtype=bool), np.full(len(statuses), "", dtype=object)
    asked = [score for score in chosen if score.passes(schedule)]  # of one level there is no gain, and no reason
    for number, score in enumerate(chosen):
        column = np.full(len(statuses), np.nan, dtype=np.float32)
        if score in asked:
            column, missing = passes.reduce(score, schedule)
            reasons = np.where(reasons == "", missing, reasons)
        has[number] = ~np.isnan(column)
        columns[f"{column_prefix}_{score.name}"] = column
    partly = has.any(axis=0)
    known = np.asarray(statuses, dtype=object)
    lacks = (reasons != "") & np.isin(statuses, list(SCORED_STATUSES))
    known = np.where(lacks, np.where(partly, PARTLY, "") + reasons, known)
    columns[f"{column_prefix}_tokens"] = np.where(np.isin(known, list(SCORED_STATUSES)), tokens, 0).astype(np.int32)
    columns[f"{column_prefix}_status"] = known.tolist()
    if keep_levels:
        for name in _measure_names(score.name for score in chosen):
            columns[f"{column_prefix}_level_{name}"] = list(passes.levels(name, schedule))
    return columns


class _Passes:
    """What was measured in each pass, NaN where a row has nothing, and why it has nothing."""

    def __init__(
        self,
        wanted: Mapping[Pass, Sequence[Measure]],
        values: Mapping[str, np.ndarray],
        statuses: Sequence[str],
        views: Mapping[str, Sequence[str]],
    ) -> None:
        self._rows = len(statuses)
        self._values: dict[tuple[Pass, str], np.ndarray] = {}
        self._reasons: dict[tuple[Pass, str], np.ndarray] = {}  # "" where there is a number
        for place, (one, measures) in enumerate(wanted.items()):
            in_view = np.asarray(views.get(one.view, statuses), dtype=object)
            is_there = np.isin(in_view, list(SCORED_STATUSES))
            for measure in measures:
                found = np.where(is_there, values[measure.name][place], np.nan).astype(np.float32)
                is_number = np.isfinite(found)
                broken = np.where(is_there & ~is_number, NAN_SCORE, np.where(is_number, "", in_view))
                self._values[one, measure.name] = np.where(is_number, found, np.nan).astype(np.float32)
                self._reasons[one, measure.name] = broken

    def reduce(self, score: Score, schedule: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """A score of each row, and why a row has none."""
        passes = score.passes(schedule)
        measured = {of.name: np.stack([self._values[one, of.name] for one in passes]) for of in score.measures}
        reasons = np.full(self._rows, "", dtype=object)
        for one in passes:
            for of in score.measures:
                reasons = np.where(reasons == "", self._reasons[one, of.name], reasons)
        column = score.reduce({name: np.where(reasons == "", one, np.nan) for name, one in measured.items()})
        return column, np.where((reasons == "") & np.isnan(column), UNDEFINED_SCORE, reasons)

    def levels(self, name: str, schedule: Sequence[float]) -> np.ndarray:
        """A measure of the whole rows at each level, `(rows, levels)`."""
        nothing = np.full(self._rows, np.nan, dtype=np.float32)
        return np.stack([self._values.get((one, name), nothing) for one in map(Pass, schedule)], axis=1)


def with_columns(dataset: Dataset, columns: dict[str, Any], features: Features) -> Dataset:
    """A dataset with columns added, or replaced, that keeps its format and shows what is new, as `map` does."""
    from datasets import Dataset, Features, concatenate_datasets

    dataset = dataset.remove_columns([name for name in columns if name in dataset.column_names])
    if len(dataset) == 0:  # `concatenate_datasets` would leave it, and with it its columns, out
        features = Features({**dataset.features, **features})
        return Dataset.from_dict({name: [] for name in features}, features=features, split=dataset.split)
    vectors = {name: values for name, values in columns.items() if getattr(values, "ndim", 1) > 1}
    scores = Dataset.from_dict(
        {name: values for name, values in columns.items() if name not in vectors},
        features=Features({name: kind for name, kind in features.items() if name not in vectors}),
    )
    for name, values in vectors.items():
        scores = concatenate_datasets([scores, _dataset_of_vectors(name, values, features[name])], axis=1)
    scored = concatenate_datasets([dataset.with_format(None), scores], axis=1)
    shown = dataset.format
    names = None if shown["columns"] == dataset.column_names else [*shown["columns"], *columns]
    return scored.with_format(shown["type"], names, shown["output_all_columns"], **shown["format_kwargs"])


def _dataset_of_vectors(name: str, vectors: np.ndarray, kind: Any) -> Dataset:
    """A column of vectors, `(rows, size)`, that is not copied: where the array is a mapped file, the column is."""
    import pyarrow as pa
    from datasets import Dataset, Features

    features = Features({name: kind})
    vectors = np.ascontiguousarray(vectors, dtype=np.float16)
    numbers = pa.Array.from_buffers(pa.float16(), vectors.size, [None, pa.py_buffer(vectors)])
    lists = pa.FixedSizeListArray.from_arrays(numbers, type=features.arrow_schema.field(name).type)
    # `datasets` would pickle the whole column to make a fingerprint of it.
    digest = hashlib.blake2b(vectors.view(np.uint8).data, digest_size=8, person=b"features").hexdigest()
    return Dataset(pa.table({name: lists}, schema=features.arrow_schema), fingerprint=digest)
