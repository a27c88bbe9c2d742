"""Files with rows in a folder: their kinds, and the splits that they belong to, as `datasets` has it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple


# Endings of names, and the kinds of files that they stand for.
KINDS = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")

_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SPLIT_WORDS = frozenset(word for words in _WORDS.values() for word in words)
_SHARD = re.compile(r"data/(\w+(?:\.\w+)*)-\d{5}-of-\d{5}[^/]*")
_NO_ROWS = {"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}


class FolderFiles(NamedTuple):
    """
    Files of a folder and of those within it, in the order of their names; hidden ones are left out.

    Args:
        rows (`list[Path]`):
            Files with rows.
        images (`list[Path]`):
            Images.
        lists (`list[Path]`):
            The files that say more of the images beside them: `metadata.csv`, `.jsonl` or `.parquet`.
    """

    rows: list[Path]
    images: list[Path]
    lists: list[Path]


def kind_of(path: Path) -> str | None:
    """Kind of a file: `"json"`, `"csv"`, `"parquet"` or `"arrow"`; `None` if it is of no kind that is read."""
    name = path.name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return KINDS.get(Path(name).suffix)


def look_into(folder: Path) -> FolderFiles:
    """Look for files with rows and for images."""
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    extensions, found = frozenset(ImageFolder.EXTENSIONS), FolderFiles([], [], [])
    for name, folders, files in os.walk(folder):
        folders[:] = sorted(one for one in folders if not one.startswith((".", "__")))
        here = [Path(name, one) for one in sorted(files) if not one.startswith((".", "__"))]
        images = [path for path in here if path.suffix.lower() in extensions]
        rows = [path for path in here if kind_of(path) and path.name not in _NO_ROWS]
        lists = [path for path in rows if path.name in ImageFolder.METADATA_FILENAMES]
        found.images.extend(images)
        found.lists.extend(lists)
        found.rows.extend(path for path in rows if path not in lists)
    if not found.images:  # no more than a name
        return FolderFiles(sorted(found.rows + found.lists), [], [])
    return found


def is_image_folder(found: FolderFiles, folder: Path) -> bool:
    """
    Whether a folder is one of images rather than one of rows.

    A file with rows makes it a folder of rows. There is one exception, since such a file may list the classes: images
    are in several folders, as those of classes are, and the name of the file is not that of a split.
    """
    classes = {path.parent for path in found.images} - {folder} - {path.parent for path in found.rows}
    is_named = any(_split_of_name(path, folder) for path in found.rows)
    return bool(found.images) and (not found.rows or (len(classes) > 1 and not is_named))


def splits_of(files: Sequence[Path], folder: Path) -> dict[str, list[Path]]:
    """
    The splits of a folder, told from names as `datasets` does: first from shards in `data/`, then from folders, then
    from files. A split that one of these has told takes no files from a later one. Without such names there is one
    split, `"train"`.

    Args:
        files (`Sequence[Path]`):
            Files of the folder.
        folder (`Path`):
            The folder.

    Returns:
        `dict[str, list[Path]]`: Split to files.
    """
    splits: dict[str, list[Path]] = {}
    for split_of in (_split_of_shard, _split_of_folder, _split_of_name):
        for split, paths in _group(files, folder, split_of).items():
            splits.setdefault(split, paths)
    return splits or {"train": list(files)}


def _group(files: Sequence[Path], folder: Path, split_of: Callable[[Path, Path], str | None]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for path in files:
        if split := split_of(path, folder):
            groups.setdefault(split, []).append(path)
    return groups


def _split_of_shard(path: Path, folder: Path) -> str | None:
    found = _SHARD.fullmatch(path.relative_to(folder).as_posix())
    return found[1] if found else None


def _split_of_folder(path: Path, folder: Path) -> str | None:
    splits = map(_split_in, path.relative_to(folder).parts[:-1])
    return next((split for split in splits if split), None)


def _split_of_name(path: Path, folder: Path) -> str | None:
    return _split_in(path.name)


def _split_in(name: str) -> str | None:
    """The split of which there is a word in a name, set off by characters that are no letters."""
    words = re.split(r"[-._ 0-9]+", name.lower())
    return next((split for word in words for split, known in _WORDS.items() if word in known), None)
