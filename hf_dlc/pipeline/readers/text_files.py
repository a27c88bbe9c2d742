"""CSV and JSON files as they stand: text stays text, and what cannot be read is named by its file and its line."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import logging
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import ArrowBasedBuilder, BuilderConfig, Dataset, DatasetInfo, Features, SplitGenerator
from datasets.builder import Key
from datasets.exceptions import DatasetGenerationError


logger = logging.getLogger(__name__)

# Part of the key by which `datasets` caches what was read: to be raised when the same file is read otherwise.
_READER_VERSION = "2"

_UTF_16_OR_32 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


class FileError(ValueError):
    """A file that cannot be read; the message names the file and the place in it."""


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
    """What `datasets` does for its own kinds of files: a cache on disk, filled by one process at a time."""

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
        tables = _reader(self.config.kind)[1]
        for place, path in enumerate(paths):
            for number, table in enumerate(tables(path, self.info.features)):
                yield Key(place, number), table


def _reader(kind: str) -> tuple[Callable[..., Any], Callable[..., Iterator[pa.Table]]]:
    """What finds the columns of files of a kind, and what reads them."""
    from hf_dlc.pipeline.readers import csv_rows, json_rows

    module = json_rows if kind == "json" else csv_rows
    return module.find_features, module.read_tables


def _features(paths: Sequence[Path], kind: str, notes: list[str]) -> Features:
    """The columns of all files. A file may lack some, but no two may each have some that the other lacks."""
    features, columns = _reader(kind)[0](paths, notes)
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


# ---- lines --------------------------------------------------------------------------------------------------------


def _open_zstandard(path: Path) -> BinaryIO:
    return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))


_OPENERS: dict[str, Callable[[Path], BinaryIO]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zstandard,
}


def read_lines(path: Path) -> Iterator[str]:
    """
    The lines of a text file, which may be compressed, with their ends.

    Args:
        path (`Path`):
            Where it is.

    Yields:
        `str`: A line; only a line feed ends one.

    Raises:
        FileError: If a line is no UTF-8, or if the file cannot be decompressed.
    """
    try:
        with _OPENERS.get(path.suffix.lower(), _open)(path) as file:
            for number, line in enumerate(file, 1):
                yield _decode(path, number, line)
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, pa.ArrowException) as error:
        raise FileError(f"{path} cannot be decompressed: {error}.") from error
    except OSError as error:
        if error.errno is None:  # bz2 and Arrow have no class of their own for it
            raise FileError(f"{path} cannot be decompressed: {error}.") from error
        raise


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


def _decode(path: Path, number: int, line: bytes) -> str:
    if number == 1:
        if line.startswith(_UTF_16_OR_32):
            raise FileError(f"{path} is UTF-16, and must be UTF-8. Convert it: {_convert(path, 'UTF-16')}")
        line = line.removeprefix(codecs.BOM_UTF8)
    if b"\0" in line:
        raise FileError(
            f"{path}, line {number}: there is a zero byte, so this is no UTF-8 text. If it is UTF-16, convert it: "
            f"{_convert(path, 'UTF-16LE')}"
        )
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(
            f"{path}, line {number}, byte {error.start + 1}: 0x{line[error.start]:02x} is no UTF-8. If the file is "
            f"Latin-1 or Windows-1252, convert it: {_convert(path, 'WINDOWS-1252')}"
        ) from error


def _convert(path: Path, encoding: str) -> str:
    """The command that does it."""
    return f"iconv -f {encoding} -t UTF-8 {path.name} > utf8_{path.name}"
