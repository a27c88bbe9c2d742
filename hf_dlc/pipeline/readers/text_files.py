"""CSV and JSON files as they stand: text stays text, and they are read once into the cache of `datasets`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import ArrowBasedBuilder, BuilderConfig, Dataset, DatasetInfo, Features, SplitGenerator
from datasets.builder import Key
from datasets.exceptions import DatasetGenerationError

from . import csv_rows, json_rows
from .lines import FileError


logger = logging.getLogger(__name__)

# Part of the key by which `datasets` caches what was read: to be raised when the same file is read otherwise.
_READER_VERSION = "2"


class Reader(Protocol):
    """A module that reads files of one kind."""

    def find_features(self, paths: Sequence[Path], notes: list[str]) -> tuple[Features, list[set[str]]]:
        """
        Find the columns of files and their types.

        Args:
            paths (`Sequence[Path]`):
                The files.
            notes (`list[str]`):
                Takes what should be said of them.

        Returns:
            `tuple[Features, list[set[str]]]`: All columns with their types, and the names that each file has.

        Raises:
            FileError: If a file cannot be read.
        """

    def read_tables(self, path: Path, features: Features) -> Iterator[pa.Table]:
        """
        Read the rows of a file, some at a time.

        Args:
            path (`Path`):
                The file.
            features ([`~datasets.Features`]):
                From `find_features`, for this file and others.

        Yields:
            `pa.Table`: Rows of these types, with null where a value is missing or the file lacks the column.

        Raises:
            FileError: If a row cannot be read.
        """


_READERS: dict[str, Reader] = {"csv": csv_rows, "json": json_rows}


def read_text_files(paths: Sequence[Path], kind: str) -> Dataset:
    """
    Read files of one kind into one dataset, in bounded memory; a second reading is that of the cache of `datasets`.

    Args:
        paths (`Sequence[Path]`):
            The files, in the order of their rows.
        kind (`str`):
            `"csv"` or `"json"`.

    Returns:
        [`~datasets.Dataset`]: The rows. Columns of CSV are text.

    Raises:
        FileError: If a file cannot be read, or if the files do not have the same columns.
    """
    # Not as `data_files`, which are patterns: a name may hold a bracket.
    states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    names = [str(path) for path in paths]
    builder = _TextFiles(dataset_name=kind, hash=_READER_VERSION, kind=kind, names=names, states=states)
    try:
        builder.download_and_prepare()
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, FileError):
            raise error.__cause__ from error
        raise
    for note in filter(None, builder.info.description.split("\n")):
        logger.warning("%s", note)
    dataset = builder.as_dataset(split="train")
    dataset.info.description = ""  # what was said of files is nothing to publish
    return dataset


@dataclass
class _Config(BuilderConfig):
    kind: str = "json"
    names: Sequence[str] = ()  # what errors call the files
    states: Sequence[tuple[str, int, int]] = ()  # by which the cache knows whether they have changed


class _TextFiles(ArrowBasedBuilder):
    """Files in the cache of `datasets`, which one process at a time fills. Its name and module are in their info."""

    BUILDER_CONFIG_CLASS = _Config

    def _info(self) -> DatasetInfo:
        return DatasetInfo()

    def _split_generators(self, dl_manager: Any) -> list[SplitGenerator]:
        paths = [Path(name) for name in self.config.names]
        notes: list[str] = []
        self.info.features = _features(paths, self.config.kind, notes)
        self.info.description = "\n".join(notes)  # it is kept in the cache
        return [SplitGenerator(name="train", gen_kwargs={"paths": paths})]

    def _generate_tables(self, paths: Sequence[Path]) -> Iterator[tuple[Key, pa.Table]]:
        reader = _READERS[self.config.kind]
        for place, path in enumerate(paths):
            for number, table in enumerate(reader.read_tables(path, self.info.features)):
                yield Key(place, number), table


def _features(paths: Sequence[Path], kind: str, notes: list[str]) -> Features:
    """The columns of all files. A file may lack some, but no two may each have some that the other lacks."""
    features, columns = _READERS[kind].find_features(paths, notes)
    known = [(path, names) for path, names in zip(paths, columns, strict=True) if names]
    for path, names in known:
        first, others = known[0]
        if not (names <= others or others <= names):
            raise FileError(
                f"files that are read as one must have the same columns, but {first} has "
                f"{', '.join(sorted(others))}, and {path} has {', '.join(sorted(names))}. Name one of them."
            )
    if not features:
        raise FileError(f"{', '.join(map(str, paths[:3]))}: there are no rows.")
    return features
