"""Rows of a dataset by its name: of a file, a folder or a repository on the Hub."""

from __future__ import annotations

import glob
import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .options import DataArguments
from .readers.folders import (
    COMPRESSED,
    KINDS,
    SPLIT_WORDS,
    is_image_folder,
    kind_of,
    look_into,
    splits_of,
)
from .record import DatasetRecord


if TYPE_CHECKING:
    from datasets import Dataset


logger = logging.getLogger(__name__)

Splits = dict[str, Callable[[], "Dataset"]]

_DEMO_ROWS = Path(__file__).parents[1] / "data" / "demo_instructions.jsonl"
_PLAIN_SPLIT = re.compile(r"\w+(\.\w+)*")
_SLICE = re.compile(r"\[[^]]*\](\([^)]*\))?")
_HUB_NAME = re.compile(r"(buckets/)?(\w[\w.-]*/)?\w[\w.-]*")
_FILE_SUFFIXES = {*KINDS, *COMPRESSED, ".zip", ".txt", ".xls", ".xlsx", ".yaml", ".yml", ".tar", ".7z"}


class _Source(NamedTuple):
    """A dataset on this machine: a reader of each split, and the files that are not read."""

    splits: Splits
    is_images: bool = False
    unread: Sequence[Path] = ()
    has_configs: bool = False


def read_dataset(options: DataArguments) -> Dataset:
    """
    Read the rows that the options name.

    Args:
        options (`DataArguments`):
            `dataset` is a .json, .jsonl, .csv, .tsv, .parquet or .arrow file, which may be compressed, or a pattern
            of several. It may be a folder of such files, one that `save_to_disk` wrote, or one with a folder of
            images for each class. It may be a repository on the Hub. `split` may be a slice, as in `"train[:50%]"`,
            or a sum of some. What has no splits has one, `"train"`.

    Returns:
        [`~datasets.Dataset`]: The rows, at least one.

    Raises:
        FileNotFoundError: If a file or folder is named that is not there.
        ValueError: If a file is of an unknown kind or cannot be read, if there is no such split, or if there are no
            rows.
    """
    import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)

    with _telling(options.dataset):
        source = _find(options)
        dataset = _from_hub(options) if source is None else _read_local(source, options)
    if not len(dataset):
        raise ValueError(f"there are no rows in the split {options.split!r} of {options.dataset}.")
    if options.max_rows is None or options.max_rows >= len(dataset):
        return dataset
    if source is not None and source.is_images:
        return _some_of_all(dataset, options.max_rows)
    return dataset.select(range(options.max_rows))


def local_path(options: DataArguments) -> Path:
    """Path of the dataset, if it is not on the Hub."""
    return _DEMO_ROWS if options.dataset == "demo" else Path(options.dataset).expanduser()


def dataset_identity(options: DataArguments, dataset: Dataset) -> DatasetRecord:
    """Facts by which the dataset that was scored is known again; a local file is known by its digest."""
    sha256, path, source = None, local_path(options), _find(options)
    if path.is_file():
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return DatasetRecord(
        name=options.dataset,
        is_local=source is not None,
        config=options.dataset_config if source is None or source.has_configs else None,
        revision=_commit(options) if source is None else None,
        split=_own_split(options, dataset) if (path / "state.json").is_file() else options.split,
        sha256=sha256,
        fingerprint=dataset._fingerprint,
        rows=len(dataset),
    )


def _own_split(options: DataArguments, dataset: Dataset) -> str:
    """The split that a dataset was saved as: all of it is read by the name "train", too."""
    own = str(dataset.split or "train")
    return own if options.split == "train" and _PLAIN_SPLIT.fullmatch(own) else options.split


def split_of(dataset: str, split: str) -> str:
    """
    The split of a dataset that is read beside another one: that of the same name, and all of it.

    Args:
        dataset (`str`):
            Name of the dataset.
        split (`str`):
            Split of the other.

    Returns:
        `str`: A split; of a dataset that has but one, that one.
    """
    whole = _SLICE.sub("", split)
    source = _find(DataArguments(dataset=dataset, split=whole))
    if source is None or set(_names(whole)) <= source.splits.keys() or len(source.splits) > 1:
        return whole
    return next(iter(source.splits))


# ---- where it is --------------------------------------------------------------------------------------------------


def _find(options: DataArguments) -> _Source | None:
    """The dataset on this machine; `None` for a repository on the Hub."""
    name, path = options.dataset, local_path(options)
    if not name.strip() or "://" in name.removeprefix("hf://"):
        raise ValueError(f"dataset must be a file, a folder or a repository on the Hub, got {name!r}.")
    if path.is_file():
        return _Source({"train": partial(_read_files, [path])})
    if path.is_dir():
        return _find_in_folder(path, options)
    if name.startswith("hf://"):
        return None
    if glob.has_magic(name):
        files = [found for found in map(Path, sorted(glob.glob(str(path), recursive=True))) if found.is_file()]
        if not files:
            raise FileNotFoundError(f"there is no file {name}.")
        return _Source({"train": partial(_read_files, files)})
    if not _HUB_NAME.fullmatch(name) or path.suffix.lower() in _FILE_SUFFIXES:
        raise FileNotFoundError(f"there is no file {path}, nor a folder.")
    return None


def _find_in_folder(path: Path, options: DataArguments) -> _Source:
    from datasets import DatasetDict, load_from_disk

    if (path / "dataset_dict.json").is_file():
        return _Source({name: partial(_same, one) for name, one in DatasetDict.load_from_disk(str(path)).items()})
    if (path / "state.json").is_file():
        dataset = load_from_disk(str(path))
        names = [name for name in (str(dataset.split or "train"), "train") if _PLAIN_SPLIT.fullmatch(name)]
        return _Source({name: partial(_same, dataset) for name in names})
    if (path / "scoring.json").is_file():
        raise ValueError(f"{path} is the output folder of a run; the rows that were kept are in {path / 'pruned'}.")
    found = look_into(path)
    if is_image_folder(found, path):
        return _Source(_image_splits(path, _names(options.split)), is_images=True, unread=found.rows)
    if not any(path.iterdir()):
        raise ValueError(f"the folder {path} is empty.")
    if found.rows and not _has_configs(path):
        splits = splits_of(found.rows, path)
        unread = {*found.rows, *found.images, *found.lists}.difference(*splits.values())
        return _Source({name: partial(_read_files, files) for name, files in splits.items()}, unread=sorted(unread))
    return _Source(_splits_of_datasets(path, options.dataset_config), has_configs=True)


def _same(dataset: Dataset) -> Dataset:
    return dataset


def _has_configs(path: Path) -> bool:
    """Whether the README.md says which files belong to which split, as on the Hub."""
    readme = path / "README.md"
    if not readme.is_file():
        return False
    head = re.match(r"---\s*\n(.*?)\n---", readme.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    return head is not None and re.search(r"^configs:", head[1], re.MULTILINE) is not None


def _splits_of_datasets(path: Path, config: str | None) -> Splits:
    """Splits that `datasets` finds: by the README.md, or of files that we do not read, such as text and sounds."""
    from datasets import load_dataset, load_dataset_builder

    splits: Splits = {}
    for name, files in load_dataset_builder(str(path), config).config.data_files.items():
        paths = list(map(Path, files))
        is_text = {kind_of(one) for one in paths} <= {"json", "csv"}
        whole = partial(load_dataset, str(path), config, split=str(name))  # with the features that the README.md has
        splits[str(name)] = partial(_read_files, paths) if is_text else whole
    return splits


# ---- splits -------------------------------------------------------------------------------------------------------


def _image_splits(path: Path, asked: Sequence[str]) -> Splits:
    """The splits of a folder of images: folders with folders of classes, of the usual names or as asked for."""
    names = [one.name for one in sorted(path.iterdir()) if one.name in {*SPLIT_WORDS, *asked} and _is_split(one)]
    return {name: partial(_read_images, path / name) for name in names} or {"train": partial(_read_images, path)}


def _is_split(folder: Path) -> bool:
    """Whether a folder has folders of classes, or a list of its images: a class may have the name of a split."""
    return folder.is_dir() and any(path.is_dir() or path.stem == "metadata" for path in folder.iterdir())


def _names(split: str) -> list[str]:
    """The splits of which a sum of slices is made."""
    return [_SLICE.sub("", part).strip() for part in split.split("+")]


def _read_local(source: _Source, options: DataArguments) -> Dataset:
    """The rows of the split, and a word on what of a folder is not read."""
    for name in ("dataset_config", "dataset_revision"):
        if getattr(options, name) is not None and not (name == "dataset_config" and source.has_configs):
            logger.warning("%s is for repositories on the Hub, and is not used for %s", name, options.dataset)
    if source.unread:
        shown = ", ".join(path.name for path in source.unread[:5]) + (", ..." if len(source.unread) > 5 else "")
        what = "a folder of images" if source.is_images else f"rows, in the splits {', '.join(source.splits)}"
        logger.warning("%s is read as %s; %d files are not read: %s", options.dataset, what, len(source.unread), shown)
    return _read_split(source.splits, options)


def _read_split(splits: Splits, options: DataArguments) -> Dataset:
    """One split, a slice of one, or a sum of these; no other split is read."""
    from datasets import ReadInstruction, concatenate_datasets

    asked, names = options.split, list(dict.fromkeys(_names(options.split)))
    if unknown := [name for name in names if name not in splits]:
        raise ValueError(
            f"split must be one of {', '.join(splits)}, which {options.dataset} has, or a slice such as "
            f"'{next(iter(splits))}[:50%]', got {', '.join(map(repr, unknown))}."
        )
    try:
        instruction = ReadInstruction.from_spec(asked)
    except (AssertionError, ValueError) as error:
        raise ValueError(f"split must look like 'train', 'train[:50%]' or 'train+test', got {asked!r}.") from error
    whole = {name: splits[name]() for name in names}
    parts = []
    for part in instruction.to_absolute({name: len(dataset) for name, dataset in whole.items()}):
        dataset = whole[part.splitname]
        is_whole = (part.from_, part.to) == (0, len(dataset))
        parts.append(dataset if is_whole else dataset.select(range(part.from_, max(part.from_, part.to))))
    return parts[0] if len(parts) == 1 else concatenate_datasets(parts)


# ---- rows ---------------------------------------------------------------------------------------------------------


def _read_files(paths: Sequence[Path]) -> Dataset:
    """Files of one kind."""
    from datasets import load_dataset

    from .readers.text_files import read_text_files

    kinds = {kind_of(path): path for path in reversed(paths)}
    if None in kinds:
        known, packed = ", ".join(KINDS), ", ".join(COMPRESSED)
        raise ValueError(f"{kinds[None]}: expected a file that ends in {known}, or in one of these and {packed}.")
    if len(kinds) > 1:
        found = ", ".join(map(str, kinds.values()))
        raise ValueError(
            f"files that are read as one must be of one kind, got {found}. Name one of them, or a pattern."
        )
    [kind] = kinds
    if kind in ("json", "csv"):
        return read_text_files(paths, kind)
    filled = [
        glob.escape(str(path)) for path in paths if kind != "parquet" or _has_rows(path)
    ]  # others are errors to `datasets`
    if not filled:
        raise ValueError(f"{', '.join(map(str, paths[:3]))}: there are no rows.")
    return load_dataset(kind, data_files={"train": filled}, split="train")


def _has_rows(path: Path) -> bool:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return path.suffix.lower() in COMPRESSED or parquet.read_metadata(path).num_rows > 0
    except pa.ArrowException as error:
        raise ValueError(f"{path} is no Parquet file: {error}") from error


def _read_images(folder: Path) -> Dataset:
    """A folder with a folder of images for each class."""
    from datasets import load_dataset

    # Without `data_files`, a class whose name is that of a split would be taken for one.
    return load_dataset("imagefolder", data_dir=str(folder), data_files={"train": "**"}, split="train")


def _some_of_all(dataset: Dataset, count: int) -> Dataset:
    """Rows drawn at random, in their order: folders come class by class, so that the first would be of one class."""
    import numpy as np

    return dataset.select(np.sort(np.random.default_rng(0).permutation(len(dataset))[:count]))


def _from_hub(options: DataArguments) -> Dataset:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    name, more = options.dataset, {"split": options.split, "revision": options.dataset_revision}
    try:
        return load_dataset(name, options.dataset_config, **more)
    except (ConnectionError, DatasetNotFoundError) as error:
        kind = DatasetNotFoundError if isinstance(error, DatasetNotFoundError) else ConnectionError
        raise kind(f"{name} is no file or folder here, and as a repository on the Hub: {error}") from error


def _commit(options: DataArguments) -> str | None:
    """The commit that a branch stands for today: the rows that are scored are those of no other."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    try:
        return HfApi().dataset_info(options.dataset, revision=options.dataset_revision).sha
    except (HTTPError, OSError, ValueError):  # the rows came from the cache
        return options.dataset_revision


@contextmanager
def _telling(name: str) -> Iterator[None]:
    """Turn an error of `datasets` that does not say what is wrong with a file into one that does."""
    import pyarrow as pa
    from datasets.data_files import EmptyDatasetError
    from datasets.exceptions import DataFilesNotFoundError, DatasetGenerationCastError, DatasetGenerationError

    try:
        yield
    except (DataFilesNotFoundError, EmptyDatasetError) as error:
        raise FileNotFoundError(f"{name} holds no files with rows ({', '.join(KINDS)}) and no images.") from error
    except (DatasetGenerationError, pa.ArrowException) as error:
        cause: BaseException = error
        while not isinstance(cause, DatasetGenerationCastError) and cause.__cause__ is not None:
            cause = cause.__cause__
        raise ValueError(f"{name} cannot be read: {cause}") from error
