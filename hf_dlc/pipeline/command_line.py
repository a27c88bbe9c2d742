"""The command that gives the options of a run again."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any


def command_line(program: Sequence[str], *options: Any) -> list[str]:
    """
    The command that gives these options.

    Args:
        program (`Sequence[str]`):
            What it begins with.
        options:
            Dataclasses as [`parse_config_and_args`] returns them.

    Returns:
        `list[str]`: The command, with the dataset and every option that is not the default.

    Example:
    ```python
    >>> command_line(["hf-dlc", "score"], DLCConfig(seed=3, calibration_shares=(1.0, 0.5)))
    ['hf-dlc', 'score', '--calibration-shares', '1.0', '0.5', '--seed', '3']
    ```
    """
    words = list(program)
    for part in options:
        for option in fields(part):
            value = getattr(part, option.name)
            if option.name == "scores" and not isinstance(value, str):
                value = ",".join(value)  # as the default is written
            default = option.default if option.default_factory is MISSING else option.default_factory()
            is_told = value != default or option.name == "dataset"  # programs ask for it, whatever its default is
            if option.init and value is not None and is_told:
                words += [f"--{option.name.replace('_', '-')}", *_words(option.name, value)]
    return words


def _words(name: str, value: Any) -> list[str]:
    """The value of an option as the command line takes it."""
    if name == "columns":
        is_plain = not any(mark in name for name in value for mark in ",=") and next(iter(value), "{")[:1] not in "{-"
        text = ",".join(f"{column}={key}" for column, key in value.items())
        return [text if is_plain else json.dumps(value, ensure_ascii=False)]
    if name == "target_modules" and not isinstance(value, str):  # the expression for names that end in one of these
        return [rf"(.*\.)?({'|'.join(map(re.escape, value))})"]
    return list(map(str, value if isinstance(value, list | tuple) else [value]))
