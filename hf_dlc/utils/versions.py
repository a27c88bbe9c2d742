"""Versions of what a run computes with."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from hf_dlc import __version__


_VERSIONED = ("torch", "transformers", "datasets", "accelerate", "peft", "evaluate", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of those it computes with, as far as they are installed."""
    found = {"python": platform.python_version(), "hf_dlc": __version__}
    for package in _VERSIONED:
        with suppress(PackageNotFoundError):  # some are extras
            found[package] = version(package)
    return found
