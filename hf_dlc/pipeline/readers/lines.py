"""Lines of a text file, which may be compressed; what cannot be read is named by its file and its line."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa


_UTF_16_OR_32 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


class FileError(ValueError):
    """A file that cannot be read; the message names the file and the place in it."""


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
    """The command that converts a file to UTF-8."""
    return f"iconv -f {encoding} -t UTF-8 {path.name} > utf8_{path.name}"
