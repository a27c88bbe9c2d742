"""Names and types of the columns that scoring writes, their values, and those of the status column."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import Pass, measures_by_pass
from .table import SCORES


if TYPE_CHECKING:
    from datasets import Dataset, Features


# Values of `dlc_status`. A row has a score if, and only if, its status is OK, TRUNCATED or PREDICTED.
OK = "ok"
TRUNCATED = "truncated"  # scored on its first `max_length` tokens
PREDICTED = "predicted"  # some of its scores are predicted, be it truncated or not
EMPTY_RESPONSE = "empty_response"  # None, "" or only white space where the response should be
NO_TARGET = "no_target"  # not empty, but no token of it is learned from (a row that is all prompt, say)
TRUNCATED_AWAY = "truncated_away"  # every target token lies beyond `max_length`
INVALID_ROW = "invalid_row"  # a value of the wrong type where text was expected
INVALID_IMAGE = "invalid_image"  # no image, or one that cannot be read to its end
MISSING_LABEL = "missing_label"  # None, or -1 as `datasets` has it
UNKNOWN_LABEL = "unknown_label"  # no class of the head, or one without a fitted image
ONLY_OF_CLASS = "only_of_class"  # a prototype of its class would be the image itself
NAN_SCORE = "nan_score"  # the model gave NaN for this row


SCORED_STATUSES = frozenset({OK, TRUNCATED, PREDICTED})


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
            Names of the scores that are there; by default all of the table `SCORES`.

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

    names = [name for name in SCORES if scores is None or name in scores]
    features = {f"{column_prefix}_{name}": Value("float32") for name in names}
    features |= {f"{column_prefix}_tokens": Value("int32"), f"{column_prefix}_status": Value("string")}
    if keep_levels:
        features |= {f"{column_prefix}_level_{name}": List(Value("float32")) for name in _measure_names(names)}
    return Features(features)


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
    return list(dict.fromkeys(measure.name for name in scores for measure in SCORES[name].measures))


def build_columns(
    statuses: Sequence[str],
    tokens: np.ndarray,
    values: Mapping[str, np.ndarray],
    schedule: Sequence[float],
    column_prefix: str = "dlc",
    keep_levels: bool = False,
) -> dict[str, Any]:
    """
    The columns of rows that went through the model in all passes that the scores of the table `SCORES` ask for.

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

    Returns:
        `dict[str, Any]`: Column name to values, in the order and the types of [`score_features`]. Skipped rows have
        NaN, 0 tokens and the reason; a row for which the model gave no finite number becomes one of them. NaN stands
        in a per-level column also where the measure is not asked for at a level.
    """
    wanted = measures_by_pass(SCORES.values(), schedule)
    place = {one: number for number, one in enumerate(wanted)}
    scored = np.isin(statuses, list(SCORED_STATUSES))
    finite = np.ones(len(scored), dtype=bool)
    for one, asked in wanted.items():
        for measure in asked:
            finite &= np.isfinite(values[measure.name][place[one]])
    kept = scored & finite
    statuses = np.where(scored & ~finite, NAN_SCORE, np.asarray(statuses, dtype=object))
    known = {name: np.full((len(wanted), len(scored)), np.nan, dtype=np.float32) for name in _measure_names(SCORES)}
    for one, asked in wanted.items():
        for measure in asked:
            known[measure.name][place[one], kept] = values[measure.name][place[one], kept]
    columns: dict[str, Any] = {}
    for name, score in SCORES.items():
        places = [place[one] for one in score.passes(schedule)]
        columns[f"{column_prefix}_{name}"] = score.reduce({of.name: known[of.name][places] for of in score.measures})
    columns[f"{column_prefix}_tokens"] = np.where(kept, tokens, 0).astype(np.int32)
    columns[f"{column_prefix}_status"] = statuses.tolist()
    if keep_levels:
        nothing = np.full(len(scored), np.nan, dtype=np.float32)
        for name, of_passes in known.items():
            levels = [of_passes[place[one]] if one in place else nothing for one in map(Pass, schedule)]
            columns[f"{column_prefix}_level_{name}"] = list(np.stack(levels, axis=1))
    return columns


def with_columns(dataset: Dataset, columns: dict[str, Any], features: Features) -> Dataset:
    """A dataset with columns added, or replaced, that keeps its format and shows what is new, as `map` does."""
    from datasets import Dataset, Features, concatenate_datasets

    dataset = dataset.remove_columns([name for name in columns if name in dataset.column_names])
    if len(dataset) == 0:  # `concatenate_datasets` would leave it, and with it its columns, out
        features = Features({**dataset.features, **features})
        return Dataset.from_dict({name: [] for name in features}, features=features, split=dataset.split)
    scores = Dataset.from_dict(columns, features=features)
    scored = concatenate_datasets([dataset.with_format(None), scores], axis=1)
    shown = dataset.format
    names = None if shown["columns"] == dataset.column_names else [*shown["columns"], *columns]
    return scored.with_format(shown["type"], names, shown["output_all_columns"], **shown["format_kwargs"])
