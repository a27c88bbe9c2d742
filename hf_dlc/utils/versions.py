"""Versions of what a run computes with."""

from __future__ import annotations

import platform
from importlib.metadata import version

from hf_dlc import __version__


_VERSIONED = ("torch", "transformers", "datasets", "accelerate", "peft", "evaluate", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of those it computes with."""
    return {
        "python": platform.python_version(),
        "hf_dlc": __version__,
        **{package: version(package) for package in _VERSIONED},
    }
