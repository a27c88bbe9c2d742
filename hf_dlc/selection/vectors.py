"""Columns of vectors, such as features, as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .candidates import as_features


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

_MADE_BY = "_by"  # behind the name of a column of vectors: how they were made, the same text in every row


def read_vectors(dataset: Dataset, column: str) -> np.ndarray:
    """
    Return a column of lists of one length.

    Args:
        dataset (`Dataset`):
            Dataset in any format.
        column (`str`):
            Name of the column.

    Returns:
        `np.ndarray` of shape `(rows, size)`: in the type of the column; NaN for rows without a vector. It is not
        copied where the rows stand in memory, or in a mapped file, one after the other.

    Raises:
        ValueError: If there is no such column, or if it does not hold lists of numbers of one length.
    """
    if column not in dataset.column_names:
        raise ValueError(
            f"Column {column!r} not found; the dataset has {dataset.column_names}. Score the rows with features=True, "
            "or pass features_column= one of these."
        )
    chunked = dataset.with_format("arrow")[column][:]
    chunks = [_as_array(chunk, column) for chunk in getattr(chunked, "chunks", [chunked]) if len(chunk)]
    sizes = {chunk.shape[1] for chunk in chunks}
    if len(sizes) > 1:
        raise ValueError(f"the vectors in {column!r} must have one length, got the lengths {sorted(sizes)}.")
    return as_features(chunks[0] if len(chunks) == 1 else np.concatenate(chunks))


def made_by(dataset: Dataset, column: str) -> str | None:
    """
    Return how the vectors of a column were made, in the words of the column beside it.

    Args:
        dataset (`Dataset`):
            Dataset in any format.
        column (`str`):
            Name of the column of vectors.

    Returns:
        `str`: the words; `None` where there is no such column beside it.

    Raises:
        ValueError: If the vectors were made in several ways, and so do not compare.
    """
    name = f"{column}{_MADE_BY}"
    if name not in dataset.column_names:
        return None
    ways = sorted(set(filter(None, dataset.with_format(None).unique(name))))
    if len(ways) > 1:
        raise ValueError(
            f"the vectors in {column!r} must be made in one way, got {', '.join(ways)}. Score all rows anew."
        )
    return ways[0] if ways else None


def _as_array(chunk: pa.Array, column: str) -> np.ndarray:
    """Vectors of a piece of a column, `(rows, size)`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_fixed_size_list(chunk.type):
        size = chunk.type.list_size
        values = chunk.values[chunk.offset * size : (chunk.offset + len(chunk)) * size]
    elif pa.types.is_list(chunk.type) or pa.types.is_large_list(chunk.type):
        lengths = set(pc.list_value_length(chunk.drop_null()).to_pylist())
        if len(lengths) > 1:
            raise ValueError(f"the vectors in {column!r} must have one length, got the lengths {sorted(lengths)[:5]}.")
        size, values = lengths.pop() if lengths else 0, chunk.flatten()
    else:
        raise ValueError(f"{column!r} must hold lists of numbers, got {chunk.type}.")
    if not pa.types.is_floating(values.type):
        raise ValueError(f"{column!r} must hold lists of floating-point numbers, got {chunk.type}.")
    vectors = values.to_numpy(zero_copy_only=False).reshape(-1, size)
    if not chunk.null_count:
        return vectors
    is_there = ~chunk.is_null().to_numpy(zero_copy_only=False)
    if len(vectors) == len(chunk):  # of fixed size: a null has its place there
        return np.where(is_there[:, None], vectors, np.nan).astype(vectors.dtype)
    found = np.full((len(chunk), size), np.nan, dtype=vectors.dtype)
    found[is_there] = vectors
    return found
