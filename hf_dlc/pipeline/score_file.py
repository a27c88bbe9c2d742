"""
Scores apart from their rows: one Parquet file, in which a digest of each row's content stands beside its scores.
Features, where there are any, stand in a file of NumPy beside it, which is mapped into memory.

With it another budget is a matter of seconds: the scores find their rows again, also when the rows have been shuffled
or filtered since, and are refused to rows that were never scored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
import xxhash
from datasets import Dataset, Features, Value

from hf_dlc.scorer.job import FEATURES_NAME
from hf_dlc.scores.columns import missing_columns, present_scores, score_features, vector_features, with_columns
from hf_dlc.scores.table import SCORES
from hf_dlc.selection.vectors import made_by, read_vectors
from hf_dlc.utils.content import content_digests
from hf_dlc.utils.files import write_vectors


SCORES_NAME = "scores.parquet"
DIGEST = "content_digest"
_DIGEST_FEATURE = Features({DIGEST: Value("string")})
_KEY = b"hf_dlc_scores"
_SHOWN_ROWS = 5


class ScoresError(ValueError):
    """A file without scores, or with scores of other rows."""


@dataclass(frozen=True)
class Scores:
    """
    Scores and the digests of the rows that they belong to.

    Args:
        table ([`~datasets.Dataset`]):
            A row for each scored row: `content_digest` (hex of 64 bits) and the score columns.
        columns (`tuple[str, ...]`):
            Columns of the rows that went into the digests.
        column_prefix (`str`, *optional*, defaults to `"dlc"`):
            Beginning of the names of the score columns.
        vectors (`np.ndarray` of shape `(rows, size)`, *optional*):
            Features of the rows.
        vectors_by (`str`, *optional*, defaults to `""`):
            How these were made.

    Example:
    ```python
    >>> from hf_dlc import FlexRandSelector
    >>> from hf_dlc.pipeline.score_file import Scores

    >>> Scores.of(scored).write("scores.parquet")
    >>> pruned = FlexRandSelector(keep=0.3)(Scores.read("scores.parquet").join(dataset))
    ```
    """

    table: Dataset
    columns: tuple[str, ...]
    column_prefix: str = "dlc"
    vectors: np.ndarray | None = None
    vectors_by: str = ""

    @classmethod
    def of(cls, scored: Dataset, column_prefix: str = "dlc", keep_levels: bool = False) -> Scores:
        """
        The scores of a dataset.

        Args:
            scored ([`~datasets.Dataset`]):
                Dataset with score columns. Those of an earlier version may lack scores that came later.
            column_prefix (`str`, *optional*, defaults to `"dlc"`):
                Beginning of the names of the score columns.
            keep_levels (`bool`, *optional*, defaults to `False`):
                Whether the per-level columns of these scores are taken along.

        Returns:
            [`Scores`]

        Raises:
            ValueError: If there is no score, or if the tokens, the status or a per-level column is missing.
        """
        if missing := missing_columns(scored.column_names, column_prefix, keep_levels):
            got = ", ".join(scored.column_names)
            raise ValueError(f"scored must have the columns {', '.join(missing)}, got {got}.")
        columns = tuple(sorted(set(scored.column_names) - _score_columns(scored.column_names)))
        if not columns:
            raise ValueError(
                "scored must have columns beside the scores, by which its rows can be found again, got none."
            )
        present = present_scores(scored.column_names, column_prefix)
        table = scored.with_format(None).select_columns(list(score_features(column_prefix, keep_levels, present)))
        table = with_columns(table, {DIGEST: content_digests(scored, columns)}, _DIGEST_FEATURE)
        vectors = next(iter(vector_features(column_prefix)))
        if vectors not in scored.column_names:
            return cls(table, columns, column_prefix)
        return cls(table, columns, column_prefix, read_vectors(scored, vectors), made_by(scored, vectors) or "")

    def digest(self) -> str:
        """Hex digest of the scores and of the rows that they belong to, in whatever order these are."""
        found = xxhash.xxh3_128(json.dumps([self.columns, self.column_prefix]).encode("ascii"))
        order = np.argsort(np.array(self.table[DIGEST][:]), kind="stable")
        present = present_scores(self.table.column_names, self.column_prefix)
        for name in (DIGEST, *score_features(self.column_prefix, scores=present)):
            found.update(json.dumps(np.array(self.table[name][:])[order].tolist()).encode("ascii"))
        return found.hexdigest()

    def write(self, path: str | Path) -> None:
        """
        Write one Parquet file, which [`Scores.read`], pandas and the dataset viewer of the Hub read; features are
        written beside it, as `features.npy`.
        """
        table = self.table.data.table
        record = {"columns": self.columns, "prefix": self.column_prefix}
        if self.vectors is not None:
            write_vectors(Path(path).with_name(FEATURES_NAME), self.vectors)
            record["features_by"] = self.vectors_by
        metadata = {**(table.schema.metadata or {}), _KEY: json.dumps(record)}
        pq.write_table(table.replace_schema_metadata(metadata), path)

    @classmethod
    def read(cls, path: str | Path) -> Scores:
        """
        Inverse of `write`, also of an earlier version, which knew fewer scores. Where there is no file of features,
        there are none.

        Raises:
            ScoresError: If the file holds no scores.
        """
        try:
            record = json.loads(pq.read_schema(path).metadata[_KEY])
            columns, column_prefix = tuple(map(str, record["columns"])), str(record["prefix"])
        except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise ScoresError(f"{path} holds no scores that hf_dlc wrote.") from error
        table = Dataset.from_parquet(str(path), keep_in_memory=True)
        missing = [] if DIGEST in table.column_names else [DIGEST]
        if missing := [*missing, *missing_columns(table.column_names, column_prefix)]:
            raise ScoresError(f"{path} must have the columns {', '.join(sorted(missing))}, and has not.")
        return cls(table, columns, column_prefix, *_read_vectors(Path(path), record, len(table)))

    def join(self, dataset: Dataset, source: str = "the scores") -> Dataset:
        """
        Rows with their scores.

        Args:
            dataset ([`~datasets.Dataset`]):
                The rows that were scored, or some of them, in any order.
            source (`str`, *optional*, defaults to `"the scores"`):
                What an error calls the scores.

        Returns:
            [`~datasets.Dataset`]: `dataset` with the score columns, ready for a selector.

        Raises:
            ScoresError: If a row has no scores, because it was not scored or has been changed since.
        """
        if missing := [name for name in self.columns if name not in dataset.column_names]:
            raise ScoresError(
                f"{source} are of rows with the columns {', '.join(self.columns)}, but {', '.join(missing)} are not "
                f"in this dataset, which has {', '.join(dataset.column_names)}."
            )
        places = self._places(np.array(content_digests(dataset, self.columns), dtype=object))
        if unknown := np.flatnonzero(places < 0).tolist():
            shown = ", ".join(map(str, unknown[:_SHOWN_ROWS])) + (", ..." if len(unknown) > _SHOWN_ROWS else "")
            raise ScoresError(
                f"{len(unknown)} of {len(dataset)} rows (row {shown}) have no score in {source}: they are not the "
                "rows that were scored. Load the revision of the dataset that was, or score this one."
            )
        features = {name: kind for name, kind in self.table.features.items() if name != DIGEST}
        found = self.table.select(places.tolist())
        columns: dict[str, Any] = {name: found[name][:] for name in features}
        if self.vectors is not None:
            in_order = np.array_equal(places, np.arange(len(self.vectors)))
            vectors = self.vectors if in_order else self.vectors[places]
            kinds = vector_features(self.column_prefix, self.vectors.shape[1])
            features |= kinds
            columns |= dict(zip(kinds, (vectors, [self.vectors_by] * len(places)), strict=True))
        return with_columns(dataset, columns, Features(features))

    def _places(self, digests: np.ndarray) -> np.ndarray:
        """Find the rows with these digests, -1 for those that are not there; rows that are equal have one score."""
        known = self.table[DIGEST][:]
        if len(known) == len(digests) and known == digests.tolist():
            return np.arange(len(known))
        first = pd.Series(np.arange(len(known)), index=known).groupby(level=0).first()
        return first.reindex(digests, fill_value=-1).to_numpy()


def _score_columns(names: Sequence[str]) -> set[str]:
    """Columns that scorers of any version wrote, with whatever prefix: they are no part of a row's content."""
    found: set[str] = set()
    for prefix in (name.removesuffix("_status") for name in names if name.endswith("_status")):
        if not missing_columns(names, prefix):
            found |= {*score_features(prefix, True, SCORES), *vector_features(prefix)}
    return found


def _read_vectors(path: Path, record: dict[str, Any], rows: int) -> tuple[np.ndarray | None, str]:
    """Features that were written beside a file of scores, mapped into memory, and how they were made."""
    file, by = path.with_name(FEATURES_NAME), record.get("features_by")
    if by is None or not file.exists():
        return None, ""
    try:
        vectors = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ScoresError(f"{file} is no file of features: {error}. Restore it, or remove it.") from error
    if vectors.ndim != 2 or len(vectors) != rows or vectors.dtype != np.float16:
        raise ScoresError(
            f"{file} must hold a vector for each of {rows} rows, got {vectors.dtype} of {vectors.shape}."
        )
    return vectors, str(by)
