"""Digests of the content of rows, by which they are found again wherever they come from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from datasets import Dataset

_ROWS_PER_BATCH = 1000
_MEDIA_PER_BATCH = 50  # of which each may take megabytes


def is_media(feature: Any) -> bool:
    """Whether a column of this type holds pictures or sound, which would be decoded whenever a row is read."""
    return type(feature).__name__ in ("Image", "Audio", "Video", "Pdf", "Nifti")


def media_columns(dataset: Dataset) -> list[str]:
    """Return the names of the columns that hold pictures or sound, or lists of such."""
    return [name for name, feature in dataset.features.items() if holds_media(feature)]


def holds_media(feature: Any) -> bool:
    """Whether a column of this type holds pictures or sound, or lists of such."""
    return holds_media(feature.feature) if _is_list(feature) else is_media(feature)


def _is_list(feature: Any) -> bool:
    return type(feature).__name__ in ("List", "LargeList")


def media_digests(dataset: Dataset, columns: Sequence[str]) -> list[str]:
    """Return a digest of the pictures and sounds of each row by [`content_digests`], `""` where there are none."""
    found = zip(*(_digests_of(dataset, name) for name in columns), strict=True)
    return [" ".join(one or "-" for one in of_row) if any(of_row) else "" for of_row in found]


def _digests_of(dataset: Dataset, column: str) -> list[str]:
    from datasets import Dataset, Features

    feature = dataset.features[column]
    empty = [None, []] if _is_list(feature) else [None]
    nothing = content_digests(Dataset.from_dict({column: empty}, features=Features({column: feature})), [column])
    return ["" if digest in nothing else digest for digest in content_digests(dataset, [column])]


def content_digests(dataset: Dataset, columns: Sequence[str]) -> list[str]:
    """
    A digest of the content of each row, the same for a local file and for what the Hub returns of it.

    Args:
        dataset ([`~datasets.Dataset`]):
            The rows. Images count by their bytes, not by where they are.
        columns (`Sequence[str]`):
            What is read of them; the order does not matter.

    Returns:
        `list[str]`: 16 hexadecimal digits a row (XXH3, 64 bits), no protection against forgery.
    """
    import xxhash

    names, features = sorted(columns), dataset.features
    digests: list[str] = []
    # As Arrow has them: no image is decoded, and none that cannot be is an error.
    size = _MEDIA_PER_BATCH if any(holds_media(features[name]) for name in names) else _ROWS_PER_BATCH
    for table in dataset.with_format("arrow").select_columns(names).iter(size):
        for row in table.to_pylist():
            content = [_content(row[name], features[name]) for name in names]
            text = json.dumps(content, sort_keys=True, default=_text)  # ASCII, so that any text has bytes
            digests.append(xxhash.xxh3_64_hexdigest(text.encode("ascii")))
    return digests


def _content(value: Any, feature: Any) -> Any:
    """Return a value with the bytes of images in place of them."""
    if value is None:
        return None
    if type(feature).__name__ == "Image":
        return _image_bytes(value)
    if _is_list(feature):
        return [_content(one, feature.feature) for one in value]
    if isinstance(feature, dict):
        return {name: _content(value[name], kind) for name, kind in feature.items()}
    return value


def _image_bytes(value: dict[str, Any]) -> bytes | str | None:
    """Bytes of an image, read from its path where it has none, since the Hub returns it with its bytes."""
    if value["bytes"] is not None or value["path"] is None:
        return value["bytes"]
    with suppress(OSError):
        return Path(value["path"]).read_bytes()
    return value["path"]  # it is gone; the path still tells it from others that are


def _text(value: Any) -> str:
    """Return a text for a value that JSON does not know, such as bytes, a time or a decimal."""
    import xxhash

    return xxhash.xxh3_128_hexdigest(value) if isinstance(value, bytes) else str(value)
