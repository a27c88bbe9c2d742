"""Images and their labels to rows of pixels, checked once and loaded as often as a level needs them."""

from __future__ import annotations

import io
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import xxhash
from torch.utils.data import DataLoader
from transformers import BaseImageProcessor

from hf_dlc.scores.columns import INVALID_IMAGE, OK
from hf_dlc.tasks.base import Share
from hf_dlc.tasks.batch_rules import in_steps
from hf_dlc.utils.memory import free_memory


if TYPE_CHECKING:
    import PIL.Image


logger = logging.getLogger(__name__)

# Raised when the reading of some image changes, so that scores of different versions are never mixed.
ENCODING_VERSION = 1

_DIGEST_BYTES = 16

# An image counts as one token for each square of so many pixels, as in a ViT/16.
_PIXELS_PER_TOKEN = 16 * 16

# Fewer images are decoded faster here than worker processes are started.
_WORTH_WORKERS = 64
_MOST_WORKERS = 8
_AHEAD = 8  # images that each worker decodes ahead
_CAN_FORK = sys.platform == "linux"

_KINDS = ("image", "label")
IMAGE_NAMES = ("image", "img", "picture", "photo")
_LABEL_NAMES = ("label", "labels", "class", "category", "fine_label", "target")

# What an image may be. Resizing the shorter side to that of a model makes a few megabytes of 1 x 20,000 pixels into
# gigabytes; and of the rarer formats, some are drawn by another program, which a file from somewhere should not start,
# and some hold files of such formats.
_MOST_ELONGATED = 100
_FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")

_TOLD_REASONS = 3  # that images cannot be read, of each process


class ImageRow(NamedTuple):
    """
    One labelled image. A row that cannot be scored keeps its reason as status.

    Args:
        source (`Sequence`):
            Where the image is, as the dataset has it: memory-mapped bytes, a path, or a decoded image.
        index (`int`):
            Which of `source` it is.
        label (`int`):
            Index of its class, or -1.
        status (`str`):
            `"ok"`, or the reason why there is nothing to score.
        digest (`bytes`, *optional*):
            16 bytes of what the model sees of the image.
        size (`int`, *optional*, defaults to 0):
            What the image costs, in tokens.
        pixels (`torch.Tensor`, *optional*):
            What the model sees, of shape `(channels, height, width)`, where there is room to keep it.
        why (`str`, *optional*, defaults to `""`):
            Of a row that cannot be scored, what is wrong with it.
    """

    source: Sequence[Any]
    index: int
    label: int
    status: str
    digest: bytes = b""
    size: int = 0
    pixels: torch.Tensor | None = None
    why: str = ""

    @property
    def shared_head(self) -> int:
        """Images have none."""
        return 0

    @property
    def shared_head_length(self) -> int:
        """Images have none."""
        return 0

    @property
    def length(self) -> int:
        """Cost of the image, in tokens; 0 for a skipped row."""
        return self.size if self.status == OK else 0

    @property
    def target_tokens(self) -> int:
        """The label is the one thing that is predicted."""
        return int(self.status == OK)

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """Digest of the pixels, and the label, for digests of many rows."""
        return np.frombuffer(self.digest, np.uint8), np.array([self.label])


class ImageReader:
    """
    Reads images as a model sees them.

    Args:
        processor ([`~transformers.BaseImageProcessor`]):
            Resizes and normalises.
        dtype (`torch.dtype`):
            Dtype of the model, to which pixels are rounded anyway.
    """

    def __init__(self, processor: BaseImageProcessor, dtype: torch.dtype) -> None:
        self.processor = processor
        self.dtype = dtype
        self.unread = 0

    def __call__(self, value: Any) -> torch.Tensor | None:
        """Pixels of shape `(channels, height, width)`, or `None` if there is no image, or only a part of one."""
        try:
            image = open_image(value)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise all kinds of things over files that are broken
            self.unread += 1
            level = logging.WARNING if self.unread <= _TOLD_REASONS else logging.DEBUG
            logger.log(level, "an image cannot be read: %s: %s", type(error).__name__, error)
            return None
        # As an array and not an image, whose channels a processor would have to guess when there is one pixel.
        found = self.processor(images=np.array(image), input_data_format="channels_last", return_tensors="pt")
        pixels = found.get("pixel_values")
        if pixels is None or pixels.dim() != 4 or len(pixels) != 1:
            raise ValueError(
                f"{type(self.processor).__name__} must make one array of pixels of an image, got "
                f"{ {name: tuple(value.shape) for name, value in found.items()} }: such models are not supported."
            )
        return pixels[0].to(self.dtype)


def open_image(value: Any) -> PIL.Image.Image:
    """
    A decoded RGB image, upright, from what a dataset holds.

    Args:
        value (`PIL.Image.Image`, `dict`, `bytes`, `str`, `Path` or `np.ndarray`):
            Image, undecoded image as `datasets` has it (`{"bytes": ..., "path": ...}`), its bytes, or path of a file.

    Raises:
        OSError: If it cannot be read, or only a part of it; if it is too large or too elongated, in a rare format, or
            of numbers without an agreed range (32 bits).
        TypeError: If it is nothing of these.
    """
    from PIL import Image, ImageOps

    image = _opened(value)
    if image.format not in (None, *_FORMATS):
        raise OSError(f"images must be in one of the formats {', '.join(_FORMATS)}, got {image.format}")
    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):  # Pillow itself goes on to twice as many
        raise OSError(f"an image of {image.width} x {image.height} pixels is larger than PIL.Image.MAX_IMAGE_PIXELS")
    if max(image.size) > _MOST_ELONGATED * min(image.size):
        raise OSError(f"an image of {image.width} x {image.height} pixels is too elongated")
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F"):
        raise OSError(f"pixels of mode {image.mode} may be in any range")
    if image.mode.startswith("I;16"):  # a conversion would make everything white but the darkest 256 levels
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def _opened(value: Any) -> PIL.Image.Image:
    """An image of which perhaps nothing but the size has been read yet."""
    from PIL import Image

    if isinstance(value, Mapping):
        value = value["bytes"] if value.get("bytes") is not None else value["path"]
    if value is None:
        raise OSError("there is no image")
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, np.ndarray):
        return Image.fromarray(value)
    return Image.open(io.BytesIO(value) if isinstance(value, bytes) else value, formats=_known_formats())


@cache
def _known_formats() -> list[str]:
    """Those that this build of Pillow can open; it takes a MPO for a JPEG first."""
    from PIL import Image

    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def places_of(digests: np.ndarray) -> dict[bytes, list[int]]:
    """Return by the digest of an image, a row of `digests`, the places at which it stands."""
    places: dict[bytes, list[int]] = {}
    for place, digest in enumerate(digests):
        places.setdefault(digest.tobytes(), []).append(place)
    return places


def _only_one(kind: str, names: Sequence[str], candidates: Sequence[str]) -> str:
    if len(candidates) != 1:
        raise ValueError(
            f"the dataset must have one {kind} column, got {list(candidates) or 'none'} among {list(names)}. Name "
            f"it with columns={{'<name>': '{kind}'}}."
        )
    return candidates[0]


class ImageEncoder:
    """
    Turns labelled images into rows.

    Args:
        processor ([`~transformers.BaseImageProcessor`]):
            Image processor of the model.
        dtype (`torch.dtype`):
            Dtype of the model.
        columns (`Mapping[str, str]`, *optional*):
            From a column of the dataset to `"image"` or `"label"`, where their types and names do not tell.
    """

    def __init__(
        self, processor: BaseImageProcessor, dtype: torch.dtype, columns: Mapping[str, str] | None = None
    ) -> None:
        self.read = ImageReader(processor, dtype)
        self.columns = dict(columns or {})

    def describe(self) -> dict[str, Any]:
        """Settings that change a row, as JSON types."""
        return {"version": ENCODING_VERSION, "columns": self.columns}

    def find_columns(self, names: Sequence[str], images: Sequence[str], classes: Sequence[str]) -> tuple[str, str]:
        """
        Names of the image and of the label column.

        Args:
            names (`Sequence[str]`):
                All columns.
            images (`Sequence[str]`):
                Those that hold images.
            classes (`Sequence[str]`):
                Those that are known to hold labels by their type.

        Raises:
            ValueError: If there is no such column, or more than one.
        """
        image = self.find_image(names, images)
        named = [name for name in names if self.columns.get(name) == "label"]
        label = [name for name in _LABEL_NAMES if name in names][:1]
        both = sorted({*classes, *label})  # a column of classes by its type, and another by its name: nobody can tell
        return image, _only_one("label", names, named or (label if set(label) & set(classes) else both))

    def find_image(self, names: Sequence[str], images: Sequence[str]) -> str:
        """
        Name of the image column; the arguments are those of [`find_columns`].

        Raises:
            ValueError: If there is no such column, or more than one.
        """
        if unknown := {name: kind for name, kind in self.columns.items() if name not in names or kind not in _KINDS}:
            raise ValueError(f"columns must map columns of the dataset to {' or '.join(_KINDS)}, got {unknown}.")
        named = [name for name in names if self.columns.get(name) == "image"]
        image = [name for name in IMAGE_NAMES if name in names][:1]  # with nothing in it that would tell
        return _only_one("image", names, named or list(images) or image)

    def encode(self, source: Sequence[Any], labels: Sequence[int | str], share: Share | None = None) -> list[ImageRow]:
        """
        Read every image once, to learn which can be scored.

        Args:
            source (`Sequence`):
                Images.
            labels (`Sequence[int or str]`):
                Index of the class of each, or the reason why it has none.
            share ([`Share`], *optional*):
                Where other processes encode the same images: each reads its part and tells the others of it.

        Returns:
            `list[ImageRow]`: One an image, in order.
        """
        rows = [
            ImageRow(source, index, -1, label) if isinstance(label, str) else ImageRow(source, index, label, OK)
            for index, label in enumerate(labels)
        ]
        readable = [row for row in rows if row.status == OK]
        together = share is not None and share.count > 1
        for row in self._examine_together(readable, share) if together else self._examine(readable):
            rows[row.index] = row
        return rows

    def _examine(self, rows: Sequence[ImageRow]) -> Iterator[ImageRow]:
        """The rows with digest and size and, while there is room, their pixels; or with the reason why not."""
        room, shape, is_first = _room_for_pixels(), None, True
        for row, pixels in zip(rows, self._load(rows), strict=True):
            if pixels is None:
                yield row._replace(status=INVALID_IMAGE, why=_why_unreadable(row) if is_first else "")
                is_first = False
                continue
            if pixels.shape != (shape := shape or pixels.shape):
                raise ValueError(
                    f"all images must come out of {type(self.read.processor).__name__} in one size, got "
                    f"{tuple(shape)} and, of image {row.index}, {tuple(pixels.shape)}. Give it a size and do_resize."
                )
            room -= pixels.nbytes
            kept = pixels if room >= 0 else None
            yield row._replace(digest=_digest(pixels), size=_size(pixels), pixels=kept)

    def _examine_together(self, rows: Sequence[ImageRow], share: Share) -> list[ImageRow]:
        """
        Each process reads its part, which is as well as can be foretold the one that it will score; the others learn
        what it found.
        """
        found = (self.read(row.source[row.index]) for row in rows)
        first = next((pixels for pixels in found if pixels is not None), None)
        tokens = in_steps(_size(first)) if first is not None else 1
        blocks = np.arange(len(rows)) // max(1, share.tokens_per_batch // tokens)
        mine = np.flatnonzero(blocks % share.count == share.index).tolist()
        examined = dict(zip(mine, self._examine([rows[place] for place in mine]), strict=True))
        facts = np.zeros((len(rows), _DIGEST_BYTES + 1), dtype=np.float32)
        for place, row in examined.items():
            if row.length:
                facts[place] = [*row.digest, row.size]
        facts = share.add_up(facts)
        return [examined.get(place) or _as_told(row, facts[place]) for place, row in enumerate(rows)]

    def feed(self, rows: Sequence[ImageRow]) -> Iterator[ImageRow]:
        """
        The same rows with their pixels, loaded ahead of their use.

        Raises:
            OSError: If an image that could be read before cannot be read any more.
        """
        loaded = self._load([row for row in rows if row.pixels is None])
        for row in rows:
            pixels = row.pixels if row.pixels is not None else next(loaded)
            if pixels is None:
                raise OSError(f"the image of row {row.index} could be read before, and now it cannot: is it gone?")
            yield row._replace(pixels=pixels)

    def _load(self, rows: Sequence[ImageRow]) -> Iterator[torch.Tensor | None]:
        # A list is what `map` hands over, in a worker process that may have none of its own. Where processes are
        # started afresh, each would run the user's script again, and get its own copy of images in memory.
        if len(rows) < _WORTH_WORKERS or isinstance(rows[0].source, list) or not _CAN_FORK:
            yield from (self.read(row.source[row.index]) for row in rows)
            return
        workers = min(torch.get_num_threads(), _MOST_WORKERS)
        ahead = {"num_workers": workers, "prefetch_factor": _AHEAD, "multiprocessing_context": "fork"}
        ahead["generator"] = torch.Generator()  # not the user's
        for found in DataLoader(_Images(rows, self.read), batch_size=None, collate_fn=_as_it_is, **ahead):
            yield found if found is None else torch.from_numpy(found).view(self.read.dtype)


class _Images(torch.utils.data.Dataset):
    """
    Pixels as bytes in arrays of NumPy, which come through a pipe: tensors would come in shared memory, of which a
    container has little, and with a file descriptor each.
    """

    def __init__(self, rows: Sequence[ImageRow], read: ImageReader) -> None:
        self.rows, self.read = rows, read

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> np.ndarray | None:
        row = self.rows[place]
        pixels = self.read(row.source[row.index])
        return None if pixels is None else pixels.contiguous().view(torch.uint8).numpy()


def _why_unreadable(row: ImageRow) -> str:
    """The fault of an image, for which it is opened again: another process may have tried to read it."""
    try:
        open_image(row.source[row.index])
    except MemoryError:
        raise
    except Exception as error:  # decoders raise all kinds of things over files that are broken
        return f"the image cannot be read: {type(error).__name__}: {error}"
    return "the image cannot be read"


def _as_told(row: ImageRow, facts: np.ndarray) -> ImageRow:
    """A row of which another process has read the image."""
    *digest, size = facts.astype(int).tolist()
    return row._replace(digest=bytes(digest), size=size) if size else row._replace(status=INVALID_IMAGE)


def _as_it_is(sample: Any) -> Any:
    return sample


def _size(pixels: torch.Tensor) -> int:
    """Cost of an image, in tokens."""
    return max(1, pixels.shape[-2] * pixels.shape[-1] // _PIXELS_PER_TOKEN)


def _digest(pixels: torch.Tensor) -> bytes:
    hasher = xxhash.xxh3_128(str(tuple(pixels.shape)).encode())
    hasher.update(pixels.contiguous().view(torch.uint8).numpy())
    return hasher.digest()


def _room_for_pixels() -> float:
    """Bytes of pixels that may be kept between levels: a quarter of what is free, shared with other processes."""
    return free_memory(torch.device("cpu")) / 4 / int(os.environ.get("LOCAL_WORLD_SIZE", 1))
