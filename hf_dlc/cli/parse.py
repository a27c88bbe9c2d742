"""Reading of options from a YAML file and from the command line."""

from __future__ import annotations

import difflib
import logging
import sys
from argparse import ArgumentParser
from collections.abc import Collection, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from .help import arrange


logger = logging.getLogger(__name__)

# Options that had other names, by these.
_EARLIER = {"split_share": "selection_split"}


def parse_config_and_args(
    dataclass_types: Sequence[type],
    args: Sequence[str] | None = None,
    description: str | None = None,
    prog: str | None = None,
    others: Sequence[type] = (),
    required: Sequence[str] = (),
) -> tuple[Any, ...]:
    """
    Fill dataclasses from a YAML file given as `--config` and from the command line, which wins.

    Args:
        dataclass_types (`Sequence[type]`):
            Dataclasses as [`~transformers.HfArgumentParser`] takes them.
        args (`Sequence[str]`, *optional*):
            Arguments, by default those of the running program.
        description (`str`, *optional*):
            First lines of `--help`.
        prog (`str`, *optional*):
            Name of the program in its help.
        others (`Sequence[type]`, *optional*):
            Dataclasses of other programs, whose options the YAML file may hold as well.
        required (`Sequence[str]`, *optional*):
            Options that must be given, whatever their defaults are in Python.

    Returns:
        `tuple`: One instance of each dataclass.

    Raises:
        SystemExit: With a one-line message, on an unknown, missing or ill-typed option or an unreadable file.
    """
    from transformers import HfArgumentParser

    class Parser(HfArgumentParser):
        def error(self, message: str) -> NoReturn:
            self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")  # the usage would push it off the screen

    parser = Parser(dataclass_types, description=description and description.strip(), prog=prog, allow_abbrev=False)
    parser.add_argument("--config", help="YAML file with defaults for all other options.")
    parser.set_defaults(**dict.fromkeys(required))
    needed = {action: action.help for action in parser._actions if action.dest in required}
    for action in needed:
        action.help = f"{action.help} (required)"
    arrange(parser, dataclass_types)
    arguments = [_renamed_flag(word) for word in (sys.argv[1:] if args is None else args)]
    _take_defaults_of_config(parser, arguments, others)
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        flags = {flag for action in parser._actions for flag in action.option_strings if "_" not in flag}
        meant = _meant(unknown[0].partition("=")[0].replace("_", "-"), flags, "--")
        parser.error(f"unknown options: {' '.join(unknown)}{meant}; see --help for the known ones.")
    for action, meaning in needed.items():
        if not getattr(given, action.dest):
            parser.error(f"{action.option_strings[-1]} is required: {meaning}")
    try:
        return parser.parse_args_into_dataclasses(arguments, look_for_args_file=False)[: len(dataclass_types)]
    except (TypeError, ValueError) as error:  # a YAML file can hold any type
        parser.error(str(error))


def _renamed_flag(word: str) -> str:
    """The same word of a command line, with the name that an option has now."""
    flag, equals, value = word.partition("=")
    name = flag.removeprefix("--").replace("-", "_")
    return f"--{_renamed(name)}{equals}{value}" if flag.startswith("--") and name in _EARLIER else word


def _renamed(name: Any) -> Any:
    """The name that an option has now; a warning tells it."""
    if name not in _EARLIER:
        return name
    logger.warning("the option %s is called %s now", name, _EARLIER[name])
    return _EARLIER[name]


def _take_defaults_of_config(parser: ArgumentParser, arguments: Sequence[str], others: Sequence[type]) -> None:
    """Make the values of the YAML file that `--config` names the defaults of a parser, if one is named."""
    config_parser = ArgumentParser(add_help=False, allow_abbrev=False)
    config_parser.add_argument("--config")
    path = config_parser.parse_known_args(arguments)[0].config
    if path is None:
        return
    try:
        known = {action.dest for action in parser._actions}
        elsewhere = {option.name for other in others for option in fields(other)}
        values = _read_yaml(path, known | elsewhere)
        parser.set_defaults(**{name: value for name, value in values.items() if name in known})
    except (OSError, ValueError) as error:
        parser.error(f"--config {path}: {error}")


def _meant(given: str, known: Collection[str], before: str = "") -> str:
    """A question after the known option that is most like an unknown one, if one is like it."""
    if not given.startswith(before):
        return ""
    # What turns something off does not mean what turns it on.
    is_off, names = given.startswith("--no-"), [name for name in known if name.startswith(before)]
    names = [name.removeprefix(before) for name in names if name.startswith("--no-") == is_off]
    like = difflib.get_close_matches(given.removeprefix(before), names, n=1)
    return f" (did you mean {before}{like[0]}?)" if like else ""


def _read_yaml(path: str, known: set[str]) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"must hold 'option: value' lines, got {type(values).__name__}.")
    if both := [name for name, now in _EARLIER.items() if {name, now} <= values.keys()]:
        raise ValueError(f"{both[0]} is called {_EARLIER[both[0]]} now, got both.")
    values = {_renamed(name): value for name, value in values.items()}
    if unknown := sorted(set(map(str, values)) - known):
        raise ValueError(f"unknown options {unknown}{_meant(unknown[0], known)}; see --help for the known ones.")
    return values
