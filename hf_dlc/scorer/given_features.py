"""Features from which scores are predicted: of a column or of an array."""

from __future__ import annotations

import logging

import numpy as np
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset

from hf_dlc.execution.processes import process_state


logger = logging.getLogger(__name__)

_ROWS_PER_BATCH = 10_000


def read_features(dataset: Dataset, features: str | np.ndarray) -> np.ndarray:
    """
    Features as an array.

    Args:
        dataset ([`~datasets.Dataset`]):
            The rows.
        features (`str` or `np.ndarray`):
            Name of a column of lists of one length, or an array of a row for each row.

    Returns:
        `np.ndarray` of shape `(rows, size)`: of rows without a list, NaN.

    Raises:
        ValueError: If there are no such numbers.
    """
    if isinstance(features, str):
        return _read_column(dataset, features)
    found = np.asarray(features)
    if found.ndim != 2 or len(found) != len(dataset) or found.dtype.kind not in "fiub":
        raise ValueError(
            f"features must be an array of numbers of shape ({len(dataset)}, size), got {found.dtype} of shape "
            f"{found.shape}."
        )
    return found


def _read_column(dataset: Dataset, name: str) -> np.ndarray:
    if name not in dataset.column_names:
        raise ValueError(f"features must name a column of the dataset, got {name!r}. It has {dataset.column_names}.")
    batches = [batch[name] for batch in dataset.with_format(None).select_columns(name).iter(_ROWS_PER_BATCH)]
    sizes = {len(one) if isinstance(one, list) else None for batch in batches for one in batch if one is not None}
    if len(sizes) != 1 or not all(sizes):
        found = "lists of several lengths" if len(sizes) > 1 else str(dataset.features[name])
        raise ValueError(f"the column {name!r} must hold lists of numbers of one length, got {found}.")
    nothing = [np.nan] * sizes.pop()
    try:
        parts = [np.array([nothing if one is None else one for one in batch], dtype=np.float64) for batch in batches]
    except (TypeError, ValueError) as error:
        raise ValueError(f"the column {name!r} must hold lists of numbers, got {dataset.features[name]}.") from error
    return np.concatenate(parts)


def tell_lacking(features: np.ndarray, scorable: np.ndarray) -> None:
    """Say how many rows that can be scored have features that are not finite."""
    lacking = ~np.isfinite(np.asarray(features, dtype=np.float64)).all(axis=1) & scorable
    if lacking.any() and process_state().is_main_process:
        logger.warning(
            "%d of %d rows that can be scored have features that are not finite: these count as the mean of the rows "
            "that were scored",
            lacking.sum(),
            scorable.sum(),
        )
