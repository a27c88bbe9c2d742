"""Columns of a dataset that selectors read, and arrays in their place: checked, and as NumPy has them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_dlc.errors import UserTypeError


if TYPE_CHECKING:
    from datasets import Dataset


def require_map_style(dataset: Any, who: str, why: str) -> None:
    """
    Refuse what is no dataset, one that is streamed, or several splits, with what to do.

    Args:
        dataset (`Any`):
            What was passed.
        who (`str`):
            What it was passed to, for the message.
        why (`str`):
            Why a stream would not do.

    Raises:
        TypeError: If it is no `Dataset`.
    """
    got = type(dataset).__name__
    if isinstance(dataset, dict):
        first = next(iter(dataset), "train")
        raise UserTypeError(
            f"{who} needs a Dataset, got a {got} with the splits {list(dataset)}. Pass one split: dataset[{first!r}]."
        )
    # Frames of pandas and tables of Arrow have a `select`, too: that of columns.
    if all(hasattr(dataset, name) for name in ("num_rows", "select", "with_format")):
        return
    if got == "IterableDataset":
        raise UserTypeError(
            f"{who} needs a map-style Dataset, got {got}: {why}. Load the data without streaming=True, or store the "
            "stream first: Dataset.from_generator(lambda: iter(stream), features=stream.features)."
        )
    raise UserTypeError(f"{who} needs a Dataset, got {got}. Make one with Dataset.from_pandas or Dataset.from_list.")


def read_column(dataset: Dataset, name: str, advice: str) -> Sequence:
    """
    Return a column of a dataset.

    Args:
        dataset (`Dataset`):
            Dataset in the format in which the column is wanted.
        name (`str`):
            Name of the column.
        advice (`str`):
            What to do if there is no such column, as a sentence that goes behind the names of all columns.

    Returns:
        `Sequence`: The column.

    Raises:
        ValueError: If there is no such column.
    """
    if name not in dataset.column_names:
        raise ValueError(f"Column {name!r} not found; the dataset has {dataset.column_names}. {advice}")
    return dataset[name]


def read_numbers(dataset: Dataset, name: str, parameter: str) -> np.ndarray:
    """
    Return a column of numbers, also one of text that holds numbers.

    Args:
        dataset (`Dataset`):
            Dataset in any format.
        name (`str`):
            Name of the column.
        parameter (`str`):
            Parameter by which the user names another column, with `=` at its end.

    Returns:
        `np.ndarray`: float64, NaN where there is no value.

    Raises:
        ValueError: If there is no such column, or if a text is no number.
    """
    # The dtype is given because the NumPy format alone rounds to float32; nulls become NaN.
    advice = f"Run dataset.map(scorer) first or pass {parameter} one of these."
    values = read_column(dataset.with_format("numpy", dtype=np.float64), name, advice)[:]
    if getattr(dataset.features[name], "dtype", None) == "string":  # as all columns of a CSV file are
        return np.array([_as_number(text, name, row) for row, text in enumerate(values)], dtype=np.float64)
    values = np.asarray(values)
    if values.dtype == object:  # with nulls, as earlier releases of datasets give them
        with suppress(TypeError, ValueError):  # what holds no numbers is refused by who asked for them
            return values.astype(np.float64)
    return values


def _as_number(text: str | None, name: str, row: int) -> float:
    try:
        return math.nan if text is None else float(text)
    except ValueError as error:
        found = f"got {str(text)!r} in row {row} of the column {name!r}"
        raise ValueError(f"scores must be one number for each row, {found}.") from error


def as_scores(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return scores as an array of floats, or say why they cannot be used."""
    scores = np.asarray(scores)
    if scores.ndim != 1 or (scores.size and scores.dtype.kind not in "fiu"):
        raise ValueError(
            f"scores must be one number for each row, got an array of shape {scores.shape} and dtype {scores.dtype}. "
            "Use NaN for a row without a score."
        )
    if scores.size == 0:
        raise ValueError("There are no scores, so there is nothing to select from.")
    return scores if scores.dtype.kind == "f" else scores.astype(np.float64)


def as_tokens(tokens: Sequence[int] | np.ndarray, scored: np.ndarray) -> np.ndarray:
    """Return the target tokens of every row as int64, 0 for skipped rows, or say why they cannot be used."""
    tokens = np.asarray(tokens)
    if tokens.shape != scored.shape or tokens.dtype.kind not in "fiu":
        raise ValueError(
            f"tokens must be one whole number for each of the {len(scored)} scores, got an array of shape "
            f"{tokens.shape} and dtype {tokens.dtype}."
        )
    tokens = np.where(scored, tokens, 0)
    wrong = scored & ~((tokens >= 1) & (tokens == np.floor(tokens)) & np.isfinite(tokens))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"A row with a score must have 1 or more whole tokens, got {tokens[row]} in row {row}.")
    return tokens.astype(np.int64)


_ROWS_AT_ONCE = 2**16  # of vectors that are looked at: no mask of all their numbers is made


def as_features(features: np.ndarray) -> np.ndarray:
    """Return vectors as they are, or say why they cannot be used."""
    features = np.asarray(features)
    if features.ndim != 2 or features.dtype.kind != "f" or not all(features.shape):
        raise ValueError(
            "features must be one vector of floats for each row, got an array of shape "
            f"{features.shape} and dtype {features.dtype}."
        )
    return features


def are_numbers(features: np.ndarray) -> np.ndarray:
    """Mask of the rows whose vectors have finite numbers only."""
    starts = range(0, len(features), _ROWS_AT_ONCE)
    return np.concatenate([np.isfinite(features[start : start + _ROWS_AT_ONCE]).all(axis=1) for start in starts])


def read_duplicates(dataset: Dataset, name: str = "dup_of") -> np.ndarray:
    """Return the mask of the rows of which another row is kept in their place, as `find_duplicates` writes it."""
    if name not in dataset.column_names:
        raise ValueError(
            f"drop_duplicates=True needs the column {name!r}; the dataset has {dataset.column_names}. Run "
            "find_duplicates(dataset) first."
        )
    return np.array([one is not None and one >= 0 for one in dataset.with_format(None)[name][:]], dtype=bool)


def read_texts(dataset: Dataset, columns: Sequence[str] | None = None) -> list[str]:
    """
    Return the text of each row: all strings in it, also those in lists and structs, one behind the other.

    Args:
        dataset (`Dataset`):
            Dataset in any format.
        columns (`Sequence[str]`, *optional*):
            Columns that are read; by default all that hold text, but for those that scoring writes.

    Returns:
        `list[str]`

    Raises:
        ValueError: If no column has text.
    """
    names = text_columns(dataset) if columns is None else columns
    if not names:
        raise ValueError(f"the rows must have text to compare words, got the columns {dataset.column_names}.")
    if strange := [name for name in names if "string" not in str(dataset.features.get(name))]:
        raise ValueError(
            f"text_columns must be columns of text, got {strange}; the dataset has {dataset.column_names}."
        )
    rows = dataset.with_format(None).select_columns(names)
    return [" ".join(part for name in names for part in _strings(row[name])) for row in rows]


def content_kinds(dataset: Dataset, columns: Sequence[str] | None = None) -> list[str]:
    """Return by what rows can be told to say the same, best first: `"pictures"`, `"token ids"`, `"text"`."""
    from hf_dlc.utils.content import media_columns  # loads libraries that other selectors do without

    if columns is not None:
        return ["text"]
    there = {
        "pictures": media_columns(dataset),
        "token ids": "input_ids" in dataset.column_names,
        "text": text_columns(dataset),
    }
    return [kind for kind, found in there.items() if found]


def read_token_ids(dataset: Dataset) -> list[str]:
    """Return the token ids of each row as text, the ids with spaces between them."""
    return [" ".join(map(str, ids or ())) for ids in dataset.with_format(None)["input_ids"][:]]


def text_columns(dataset: Dataset) -> list[str]:
    """Return the names of the columns with text, but for those that scoring and `find_duplicates` write."""
    names = dataset.column_names
    prefixes = [name.removesuffix("_status") for name in names if name.endswith("_status")]
    written = tuple(f"{prefix}_" for prefix in prefixes if f"{prefix}_tokens" in names)
    texts = [name for name in names if "string" in str(dataset.features[name])]
    texts = [name for name in texts if not name.startswith(written) and name != "dup_kind"]
    return [name for name in texts if name.removesuffix("_by") not in {*names} - {name}]  # how vectors were made


_NOT_SAID = ("role", "from", "type")  # of a turn, or of a part of one


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            if key not in _NOT_SAID:
                yield from _strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)
