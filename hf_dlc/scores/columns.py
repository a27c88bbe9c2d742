"""Names and types of the columns that scoring writes, and the values of the status column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .dlc import relative_gain


if TYPE_CHECKING:
    from datasets import Dataset, Features


# Values of `dlc_status`. A row has a score if, and only if, its status is OK or TRUNCATED.
OK = "ok"
TRUNCATED = "truncated"  # scored on its first `max_length` tokens
EMPTY_RESPONSE = "empty_response"  # None, "" or only white space where the response should be
NO_TARGET = "no_target"  # not empty, but no token of it is learned from (a row that is all prompt, say)
TRUNCATED_AWAY = "truncated_away"  # every target token lies beyond `max_length`
INVALID_ROW = "invalid_row"  # a value of the wrong type where text was expected
INVALID_IMAGE = "invalid_image"  # no image, or one that cannot be read to its end
MISSING_LABEL = "missing_label"  # None, or -1 as `datasets` has it
UNKNOWN_LABEL = "unknown_label"  # no class of the head, or one without a fitted image
ONLY_OF_CLASS = "only_of_class"  # a prototype of its class would be the image itself
NAN_SCORE = "nan_score"  # the model gave NaN for this row


SCORED_STATUSES = frozenset({OK, TRUNCATED})


def score_features(prefix: str = "dlc", keep_levels: bool = False) -> Features:
    """
    Feature types of the score columns, in the order in which they are written.

    Args:
        prefix (`str`, *optional*, defaults to `"dlc"`):
            What the column names begin with.
        keep_levels (`bool`, *optional*, defaults to `False`):
            Whether the two per-level columns are there as well.

    Returns:
        [`~datasets.Features`]: `{prefix}_confidence`, `{prefix}_loss` and `{prefix}_gain` (`float32`),
        `{prefix}_tokens` (`int32`), `{prefix}_status` (`string`) and, with `keep_levels`, `{prefix}_level_confidence`
        and `{prefix}_level_loss` (lists of `float32`, level 0 first).

    Example:
    ```python
    >>> list(score_features())
    ['dlc_confidence', 'dlc_loss', 'dlc_gain', 'dlc_tokens', 'dlc_status']
    ```
    """
    from datasets import Features, List, Value

    features = {
        f"{prefix}_confidence": Value("float32"),
        f"{prefix}_loss": Value("float32"),
        f"{prefix}_gain": Value("float32"),
        f"{prefix}_tokens": Value("int32"),
        f"{prefix}_status": Value("string"),
    }
    if keep_levels:
        features[f"{prefix}_level_confidence"] = List(Value("float32"))
        features[f"{prefix}_level_loss"] = List(Value("float32"))
    return Features(features)


def build_columns(
    statuses: Sequence[str],
    tokens: np.ndarray,
    confidence: np.ndarray,
    loss: np.ndarray,
    prefix: str = "dlc",
    keep_levels: bool = False,
) -> dict[str, Any]:
    """
    The columns of rows that were scored at every level.

    Args:
        statuses (`Sequence[str]`):
            Status of each row as the encoding left it.
        tokens (`np.ndarray` of shape `(rows,)`):
            Target tokens of each row.
        confidence (`np.ndarray` of shape `(levels, rows)`):
            Confidence in [0, 1], higher = easier; what stands there for skipped rows is ignored.
        loss (`np.ndarray` of shape `(levels, rows)`):
            Loss in nats, higher = harder.
        prefix (`str`, *optional*, defaults to `"dlc"`):
            What the column names begin with.
        keep_levels (`bool`, *optional*, defaults to `False`):
            Whether to add the two per-level columns.

    Returns:
        `dict[str, Any]`: Column name to values, in the order and the types of [`score_features`]. Skipped rows have
        NaN, 0 tokens and the reason; a row for which the model gave no finite number becomes one of them.
    """
    scored = np.isin(statuses, list(SCORED_STATUSES))
    finite = np.isfinite(confidence).all(axis=0) & np.isfinite(loss).all(axis=0)
    kept = scored & finite
    statuses = np.where(scored & ~finite, NAN_SCORE, np.asarray(statuses, dtype=object))
    confidence, loss = np.where(kept, confidence, np.float32("nan")), np.where(kept, loss, np.float32("nan"))
    columns: dict[str, Any] = {
        f"{prefix}_confidence": confidence.mean(axis=0, dtype=np.float64).astype(np.float32),
        f"{prefix}_loss": loss.mean(axis=0, dtype=np.float64).astype(np.float32),
        f"{prefix}_gain": relative_gain(loss),
        f"{prefix}_tokens": np.where(kept, tokens, 0).astype(np.int32),
        f"{prefix}_status": statuses.tolist(),
    }
    if keep_levels:
        columns[f"{prefix}_level_confidence"] = list(np.ascontiguousarray(confidence.T))
        columns[f"{prefix}_level_loss"] = list(np.ascontiguousarray(loss.T))
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
