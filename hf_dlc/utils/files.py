"""Small files, written whole or not at all, JSON never trusted when read back, and the user's cache folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
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
    """Write a value as JSON, whole or not at all."""
    with _draft(path) as draft:
        draft.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_array(path: Path, values: np.ndarray) -> None:
    """Write an array in the format of NumPy (`.npy`), whole or not at all."""
    with _draft(path) as draft, draft.open("wb") as file:
        np.save(file, values, allow_pickle=False)


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """A file to write beside another, which it then replaces: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    yield draft
    draft.replace(path)
