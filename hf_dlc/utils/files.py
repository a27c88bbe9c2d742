"""Small files, written whole or not at all and never trusted when read back, and the folders that they are in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.constants import HF_HOME


def cache_folder() -> Path:
    """`$HF_DLC_CACHE`, by default the folder `hf_dlc` in the Hugging Face cache (`$HF_HOME`)."""
    return Path(os.environ.get("HF_DLC_CACHE") or Path(HF_HOME, "hf_dlc")).expanduser()


def read_json(path: Path) -> Any:
    """The JSON value in `path`, or `None` where there is no readable one: a cache may always be missing."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_json(path: Path, value: Any) -> None:
    """Write beside and rename: a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    draft.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    draft.replace(path)


def write_vectors(path: Path, vectors: np.ndarray) -> None:
    """Write an array as a file of NumPy that can be mapped into memory; whole or not at all."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with draft.open("wb") as file:
        np.save(file, vectors)
    draft.replace(path)


def require_writable(folder: Path) -> None:
    """
    Refuse a folder that could not be made or written, without making it.

    Args:
        folder (`Path`):
            The folder.

    Raises:
        OSError: If it, or the folder in which it would be made, is a file or must not be written.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise NotADirectoryError(f"{folder} must be a folder, but {there} is none. Pass another one.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(
            f"{folder} cannot be written: Permission denied: {there}. Make the folder writable, or use another one."
        )
