"""Images of all kinds: what is read, what is skipped, and which columns are meant."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import ExifTags
from PIL import Image as Pillow
from transformers import AutoImageProcessor, BaseImageProcessor, BitImageProcessor, ViTImageProcessor

from hf_dlc.tasks.vision import images
from hf_dlc.tasks.vision.images import ImageEncoder, ImageReader, open_image


SIZE = 32


@pytest.fixture(scope="module")
def processor() -> BaseImageProcessor:
    return ViTImageProcessor(size={"height": SIZE, "width": SIZE})


def gradient(width: int = 48, height: int = 40) -> Pillow.Image:
    """An image that looks different turned or mirrored."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Pillow.fromarray(np.stack([x, y, (x + y) / 2], axis=-1).astype(np.uint8))


def stored(image: Pillow.Image, kind: str = "PNG", **options: Any) -> dict[str, Any]:
    """As `datasets` holds an undecoded image."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def read(processor: BaseImageProcessor, value: Any) -> torch.Tensor | None:
    return ImageReader(processor, torch.float32)(value)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "YCbCr"])
def test_modes_are_read_as_rgb(processor: BaseImageProcessor, mode: str) -> None:
    image = gradient().convert(mode)
    assert torch.equal(read(processor, image), read(processor, image.convert("RGB")))
    assert read(processor, image).shape == (3, SIZE, SIZE)


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "RGBA", {}),
        ("PNG", "LA", {}),
        ("PNG", "P", {"transparency": 3}),
        ("GIF", "P", {"transparency": 3}),
        ("JPEG", "CMYK", {"quality": 95}),
        ("TIFF", "CMYK", {}),
        ("PNG", "1", {}),
        ("WEBP", "RGBA", {"lossless": True}),
    ],
)
def test_files_of_these_modes_look_right(
    processor: BaseImageProcessor, kind: str, mode: str, options: dict[str, Any]
) -> None:
    drawn = gradient().convert(mode)
    expected = np.asarray(drawn.convert("RGB"), dtype=float)
    found = np.asarray(open_image(stored(drawn, kind, **options)), dtype=float)
    assert found.shape == (40, 48, 3)
    assert np.abs(found - expected).mean() < 3  # a JPEG is nearly the same
    assert read(processor, stored(drawn, kind, **options)).shape == (3, SIZE, SIZE)


@pytest.mark.filterwarnings("error")
def test_sixteen_bits_keep_their_greys(processor: BaseImageProcessor) -> None:
    grey = gradient().convert("L")
    deep = Pillow.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    assert torch.equal(read(processor, deep), read(processor, grey))
    assert torch.equal(read(processor, stored(deep)), read(processor, grey))


def test_stored_and_decoded_images_are_the_same(processor: BaseImageProcessor, tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.png")
    expected = read(processor, gradient())
    path = str(tmp_path / "a.png")
    for value in (stored(gradient()), stored(gradient())["bytes"], path, {"bytes": None, "path": path}):
        assert torch.equal(read(processor, value), expected)
    assert torch.equal(read(processor, np.asarray(gradient())), expected)


def test_rotated_by_exif_is_upright(processor: BaseImageProcessor) -> None:
    exif = Pillow.Exif()
    exif[ExifTags.Base.Orientation] = 6  # a quarter turn
    turned = stored(gradient(), exif=exif)
    assert open_image(turned).size == (40, 48)
    decoded = Image().decode_example(turned)  # as `datasets` hands it to `map`
    assert torch.equal(read(processor, turned), read(processor, decoded))


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 3), (3, 3)])
@pytest.mark.parametrize("cropped", [False, True])
def test_smallest_images(processor: BaseImageProcessor, size: tuple[int, int], cropped: bool) -> None:
    """Also where the shorter side is resized and the rest is cut off, as of DINOv2, ConvNeXt and ResNet."""
    if cropped:
        processor = BitImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    pixels = read(processor, Pillow.new("RGB", size, (255, 0, 0)))
    assert pixels.shape == (3, SIZE, SIZE)
    assert (pixels[0] > pixels[1]).all()  # red stayed red: rows were not taken for channels


@pytest.mark.parametrize(
    "value",
    [
        {"bytes": b"", "path": None},
        {"bytes": b"no image at all", "path": None},
        {"bytes": stored(gradient(), "JPEG")["bytes"][:-200], "path": None},
        {"bytes": stored(gradient())["bytes"][:200], "path": None},
        {"bytes": None, "path": None},
        {"bytes": None, "path": "/nothing/here.png"},
        None,
        7,
        stored(Pillow.new("RGB", (1, 101))),
        stored(gradient(), "EPS"),  # which another program would draw
        stored(gradient(), "PCX"),
        stored(Pillow.fromarray(np.full((8, 8), 0.5, np.float32)), "TIFF"),
        stored(Pillow.fromarray(np.full((8, 8), 70_000, np.int32)), "TIFF"),
    ],
)
def test_what_cannot_be_read_to_its_end_is_no_image(processor: BaseImageProcessor, value: Any) -> None:
    assert read(processor, value) is None


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_larger_than_pillow_trusts(processor: BaseImageProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow itself warns, and decodes up to twice as much: half a gigabyte an image, in each worker process."""
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 48 * 40 - 1)
    with pytest.raises(OSError, match=r"48 x 40 pixels is larger than PIL\.Image\.MAX_IMAGE_PIXELS"):
        open_image(gradient())
    assert read(processor, stored(gradient())) is None


def test_the_first_reasons_are_told(processor: BaseImageProcessor, caplog: pytest.LogCaptureFixture) -> None:
    """All paths may be wrong, or files closed to us."""
    reader = ImageReader(processor, torch.float32)
    for i in range(5):
        assert reader({"bytes": None, "path": f"/nothing/{i}.png"}) is None
    assert [record.levelname for record in caplog.records if "cannot be read" in record.message] == ["WARNING"] * 3
    assert "FileNotFoundError" in caplog.text
    assert "/nothing/0.png" in caplog.text


@pytest.mark.slow
def test_processors_of_torchvision(processor: BaseImageProcessor, tmp_path: Path) -> None:
    """Where both are installed: each is read without noise, and they see nearly the same."""
    pytest.importorskip("torchvision", reason="images are resized by torchvision")
    processor.save_pretrained(tmp_path)
    by_backend = {name: AutoImageProcessor.from_pretrained(tmp_path, backend=name) for name in ("pil", "torchvision")}
    assert len({type(found) for found in by_backend.values()}) == 2
    for mode in ("L", "RGBA", "P", "CMYK"):
        slow, fast = (read(found, gradient().convert(mode)) for found in by_backend.values())
        assert slow.shape == fast.shape == (3, SIZE, SIZE)
        assert (slow - fast).abs().mean() < 0.02


class TestColumns:
    @staticmethod
    def find(
        names: list[str], pictures: set[str], columns: dict[str, str] | None = None, classes: Sequence[str] = ()
    ) -> tuple[str, str]:
        encoder = ImageEncoder(ViTImageProcessor(), torch.float32, columns)
        return encoder.find_columns(names, [name for name in names if name in pictures], classes)

    def test_by_type_and_name(self) -> None:
        assert self.find(["id", "img", "label"], {"img"}) == ("img", "label")
        assert self.find(["kind", "img", "text"], {"img"}, classes=["kind"]) == ("img", "kind")
        assert self.find(["kind", "img", "label"], {"img"}, classes=["kind", "label"]) == ("img", "label")
        assert self.find(["fine_label", "img", "text"], {"img"}) == ("img", "fine_label")

    def test_a_type_and_a_name_that_disagree(self) -> None:
        with pytest.raises(ValueError, match=r"one label column, got \['kind', 'label'\]"):
            self.find(["kind", "img", "label"], {"img"}, classes=["kind"])

    @pytest.mark.parametrize("columns", [{"lbl": "label"}, {"label": "class"}])
    def test_named_wrongly(self, columns: dict[str, str]) -> None:
        with pytest.raises(ValueError, match=r"must map columns of the dataset to image or label, got \{'l"):
            self.find(["img", "label"], {"img"}, columns)

    def test_without_types(self) -> None:
        assert self.find(["image", "label"], set()) == ("image", "label")  # a batch in which no image is there

    def test_named(self) -> None:
        columns = {"b": "image", "kind": "label"}
        assert self.find(["a", "b", "kind", "label"], {"a", "b"}, columns) == ("b", "kind")

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (["label", "text"], r"one image column, got none among \['label', 'text'\]. Name it with columns="),
            (["a", "b", "label"], r"one image column, got \['a', 'b'\]"),
            (["a", "text"], r"one label column, got none"),
        ],
    )
    def test_not_found(self, names: list[str], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            self.find(names, {"a", "b"})


class TestEncoding:
    @staticmethod
    def source(count: int) -> Any:
        rows = [stored(gradient(20 + i, 60 - i)) for i in range(count)]
        features = Features({"image": Image(decode=False), "label": ClassLabel(names=["a", "b"])})
        dataset = Dataset.from_dict({"image": rows, "label": [0] * count}, features=features)
        return dataset["image"]

    def test_worker_processes_change_nothing(
        self, processor: BaseImageProcessor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source, labels = self.source(20), [i % 2 for i in range(20)]
        here = ImageEncoder(processor, torch.float32).encode(source, labels)
        monkeypatch.setattr(images, "_WORTH_WORKERS", 5)
        there = ImageEncoder(processor, torch.float32).encode(source, labels)
        assert [row.digest for row in here] == [row.digest for row in there]
        assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(here, there, strict=True))

    @pytest.mark.parametrize("worth", [3, 1000])
    def test_without_room_pixels_are_read_again(
        self, processor: BaseImageProcessor, monkeypatch: pytest.MonkeyPatch, worth: int
    ) -> None:
        monkeypatch.setattr(images, "_WORTH_WORKERS", worth)
        source, labels = self.source(8), [0] * 8
        kept = ImageEncoder(processor, torch.float32).encode(source, labels)
        three = 3 * kept[0].pixels.nbytes
        monkeypatch.setattr(images, "_room_for_pixels", lambda: three)
        encoder = ImageEncoder(processor, torch.float32)
        rows = encoder.encode(source, labels)
        assert [row.pixels is not None for row in rows] == [True] * 3 + [False] * 5
        order = [6, 0, 3, 7, 1, 2, 5, 4]
        fed = list(encoder.feed([rows[i] for i in order]))
        assert [row.index for row in fed] == order
        assert all(torch.equal(row.pixels, kept[row.index].pixels) for row in fed)

    def test_reasons(self, processor: BaseImageProcessor) -> None:
        source = [gradient(), gradient(), {"bytes": b"", "path": None}]
        rows = ImageEncoder(processor, torch.float32).encode(source, [1, "missing_label", 0])
        assert [row.status for row in rows] == ["ok", "missing_label", "invalid_image"]
        assert [row.length for row in rows] == [SIZE * SIZE // 256, 0, 0]
        assert [row.target_tokens for row in rows] == [1, 0, 0]

    def test_digests_are_of_pixels_and_arrays_also_of_labels(self, processor: BaseImageProcessor) -> None:
        source = [gradient(), gradient(), gradient(41, 40)]
        rows = ImageEncoder(processor, torch.float32).encode(source, [0, 1, 0])
        assert rows[0].digest == rows[1].digest != rows[2].digest
        assert len({b"".join(array.tobytes() for array in row.arrays) for row in rows}) == 3
