"""Columns of vectors, such as features, as arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .columns import as_features


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
    pieces = [chunk for chunk in getattr(chunked, "chunks", [chunked]) if len(chunk)]
    arrays = [_as_array(chunk, column) for chunk in pieces]
    shapes = {(array.shape[1], array.dtype) for array in arrays if array is not None}
    if len(shapes) != 1:
        sizes = sorted({size for size, _ in shapes})
        raise ValueError(f"the vectors in {column!r} must have one length, got the lengths {sizes}.")
    size, dtype = shapes.pop()
    filled = [
        np.full((len(chunk), size), np.nan, dtype) if array is None else array
        for chunk, array in zip(pieces, arrays, strict=True)
    ]
    return as_features(filled[0] if len(filled) == 1 else np.concatenate(filled))


def unit_vectors(features: np.ndarray) -> np.ndarray:
    """
    Return vectors scaled to length 1; zero vectors stay as they are.

    Args:
        features (`np.ndarray` of shape `(rows, size)`):
            Finite vectors of any floating-point type.

    Returns:
        `np.ndarray` of shape `(rows, size)`: a new array in float32.
    """
    wide = features.astype(np.result_type(features, np.float32))
    # By the largest number first, because the square of a large number overflows.
    with np.errstate(invalid="ignore"):  # of rows with infinite numbers, which nobody takes
        wide /= _or_one(np.abs(wide).max(axis=1, keepdims=True))
        vectors = wide.astype(np.float32, copy=False)
        vectors /= _or_one(np.sqrt(np.einsum("ij,ij->i", vectors, vectors)))[:, None]
    return vectors


def _or_one(lengths: np.ndarray) -> np.ndarray:
    return np.where(lengths > 0, lengths, 1)


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


def _as_array(chunk: pa.Array, column: str) -> np.ndarray | None:
    """Vectors of a piece of a column, `(rows, size)`; `None` if it holds nothing but nulls of no known length."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_fixed_size_list(chunk.type):
        size = chunk.type.list_size
        values = chunk.values[chunk.offset * size : (chunk.offset + len(chunk)) * size]
    elif pa.types.is_list(chunk.type) or pa.types.is_large_list(chunk.type):
        lengths = set(pc.list_value_length(chunk.drop_null()).to_pylist())
        if len(lengths) > 1:
            raise ValueError(f"the vectors in {column!r} must have one length, got the lengths {sorted(lengths)[:5]}.")
        if not lengths:  # nulls alone; what else there is says how long vectors are
            return None
        size, values = lengths.pop(), chunk.flatten()
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
