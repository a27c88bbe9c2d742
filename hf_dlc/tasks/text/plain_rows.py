"""Rows of a dataset as plain Python objects: classes by name, pictures and sound not decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import ClassLabel, Dataset
from datasets.formatting.formatting import LazyBatch, LazyDict

from hf_dlc.utils.content import is_media

from .layouts import split_batch


# What stands for a picture or a sound, which is not decoded: no text.
_NOT_DECODED = {"bytes": None, "path": None}


def plain_columns(rows: LazyDict) -> dict[str, Any]:
    """The columns of a row or a batch that `map` hands over."""
    features = rows.formatter.features or {}
    hidden = [_NOT_DECODED] * rows.pa_table.num_rows if isinstance(rows, LazyBatch) else _NOT_DECODED
    return {
        name: hidden if is_media(features.get(name)) else _by_name(rows[name], features.get(name)) for name in rows
    }


def plain_batches(dataset: Dataset, media: Sequence[str], size: int) -> Iterator[list[dict[str, Any]]]:
    """
    The rows of a dataset without a format.

    Args:
        dataset ([`~datasets.Dataset`]):
            The rows.
        media (`Sequence[str]`):
            Columns of pictures or sound, which are not decoded.
        size (`int`):
            Rows at a time.

    Yields:
        `list[dict[str, Any]]`: Up to `size` rows.
    """
    features = dataset.features
    for batch in dataset.remove_columns(media).iter(batch_size=size):
        columns = {name: _by_name(values, features[name]) for name, values in batch.items()}
        yield [{**row, **dict.fromkeys(media, _NOT_DECODED)} for row in split_batch(columns)]


def _by_name(values: Any, feature: Any) -> Any:
    """A class, or a column of classes, by name: its number says nothing."""
    if not isinstance(feature, ClassLabel):
        return values
    if isinstance(values, list):
        return [_by_name(value, feature) for value in values]
    return None if values is None or values < 0 else feature.int2str(values)
