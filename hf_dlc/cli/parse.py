"""Reading of options from a YAML file and from the command line."""

from __future__ import annotations

import sys
from argparse import Action, ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from hf_dlc.scores.table import SCORES


def parse_config_and_args(
    dataclass_types: Sequence[type],
    args: Sequence[str] | None = None,
    description: str | None = None,
    prog: str | None = None,
    epilog: str | None = None,
    others: Sequence[type] = (),
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
        epilog (`str`, *optional*):
            Last lines of `--help`.
        others (`Sequence[type]`, *optional*):
            Dataclasses of other programs, whose options the YAML file may hold as well.

    Returns:
        `tuple`: One instance of each dataclass.

    Raises:
        SystemExit: With a one-line message, on an unknown or ill-typed option or an unreadable file.
    """
    from transformers import HfArgumentParser

    class Formatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
        """Shows defaults and the names in tables, and leaves the lines of descriptions as they are."""

        def _get_help_string(self, action: Action) -> str | None:
            text = super()._get_help_string(action)
            return text and text.replace("{scores}", ", ".join(SCORES))

    class Parser(HfArgumentParser):
        def error(self, message: str) -> NoReturn:
            self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")  # the usage would push it off the screen

    text = {"description": description and description.strip(), "prog": prog, "epilog": epilog}
    parser = Parser(dataclass_types, **text, formatter_class=Formatter, allow_abbrev=False)
    parser.add_argument("--config", help="YAML file with defaults for all other options.")
    arguments = list(sys.argv[1:] if args is None else args)
    config_parser = HfArgumentParser([], add_help=False, allow_abbrev=False)
    config_parser.add_argument("--config")
    path = config_parser.parse_known_args(arguments)[0].config
    if path is not None:
        try:
            known = {action.dest for action in parser._actions}
            elsewhere = {option.name for other in others for option in fields(other)}
            values = _read_yaml(path, known | elsewhere)
            parser.set_defaults(**{name: value for name, value in values.items() if name in known})
        except (OSError, ValueError) as error:
            parser.error(f"--config {path}: {error}")
    if unknown := parser.parse_known_args(arguments)[1]:
        parser.error(f"unknown options: {' '.join(unknown)}; see --help for the known ones.")
    try:
        return parser.parse_args_into_dataclasses(arguments, look_for_args_file=False)[: len(dataclass_types)]
    except (TypeError, ValueError) as error:  # a YAML file can hold any type
        parser.error(str(error))


def _read_yaml(path: str, known: set[str]) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"must hold 'option: value' lines, got {type(values).__name__}.")
    if unknown := sorted(set(map(str, values)) - known):
        raise ValueError(f"unknown options {unknown}; see --help for the known ones.")
    return values
