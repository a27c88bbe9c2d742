"""Layout of `--help`: examples first, options in groups, and of each option one spelling and its default."""

from __future__ import annotations

import re
from argparse import SUPPRESS, Action, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import Any

from hf_dlc.config import DLCConfig
from hf_dlc.pipeline.options import DataArguments, ModelArguments, ScoreArguments
from hf_dlc.scores.base import Pass
from hf_dlc.scores.table import SCORES


# Other classes tell their group in the first words of their docstrings: "Data options: which rows to score."
_GROUPS_OF_CONFIG = {
    "Data options": ("max_length", "template", "layout", "columns"),
    "Model options": ("dtype", "tokens_per_batch"),
    "Score options": (
        *("scores", "levels", "token_mean", "alone", "first_tokens", "encoder"),
        *("features", "features_size", "keep_levels", "prefix"),
    ),
    "Masking options": ("masking", "schedule", "calibration_shares", "scope", "target_modules", "seed"),
    "Image options": ("head", "pooling", "prototype_logits", "knn_neighbours"),
}
_GROUP_OF_CONFIG = {name: title for title, names in _GROUPS_OF_CONFIG.items() for name in names}
_ORDER = [
    *("Run options", "Data options", "Model options", "Score options", "Masking options", "Image options"),
    *("Selection options", "Study options", "Training options", "Report options", "Output options", "Options"),
]
_OF_ALL_PROGRAMS = (DataArguments, ModelArguments, ScoreArguments)  # also where a program declares them anew
_METAVARS = {int: "N", float: "X"}


class HelpFormatter(RawDescriptionHelpFormatter):
    """Shows each option once, with hyphens, and its default if it has one that its help does not tell."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, max_help_position=30, **options)

    def _format_action_invocation(self, action: Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        flags = _spelled(action)
        value = "" if action.nargs in (0, "?") else f" {self._format_args(action, self._metavar(action))}"
        return f"{', '.join(flags)}{value}"

    def _metavar(self, action: Action) -> str:
        return action.metavar or _METAVARS.get(action.type, "VALUE")

    def _get_help_string(self, action: Action) -> str:
        text = (action.help or "").replace("{scores}", _scores_in_words())
        default = _in_words(action.default).replace("%", "%%")  # argparse formats it
        return f"{text} (default: {default})" if default and "default" not in text else text


def arrange(parser: ArgumentParser, types: Sequence[type]) -> None:
    """
    Put the options of a parser into groups, in the order of the groups of the dataclasses.

    Args:
        parser (`ArgumentParser`):
            A parser with the options of the dataclasses.
        types (`Sequence[type]`):
            The dataclasses.
    """
    parser.usage = f"{parser.prog} [OPTION ...]"
    parser.formatter_class = HelpFormatter
    grouped: dict[str, list[Action]] = {}
    for action in parser._actions:
        if not any(flag.startswith("--no_") for flag in action.option_strings):  # shown beside what they turn off
            grouped.setdefault(_group_of(action.dest, types), []).append(action)
    parser._action_groups.clear()
    places = dict.fromkeys(grouped, _ORDER.index("Study options")) | {title: i for i, title in enumerate(_ORDER)}
    for title in sorted(grouped, key=places.__getitem__):
        parser.add_argument_group(title.lower())._group_actions.extend(grouped[title])


def _group_of(name: str, types: Sequence[type]) -> str:
    """Title of the group of an option."""
    if name in _GROUP_OF_CONFIG and DLCConfig in types:
        return _GROUP_OF_CONFIG[name]
    for owner in (*_OF_ALL_PROGRAMS, *(base for kind in types for base in reversed(kind.__mro__))):
        if name in vars(owner).get("__annotations__", ()) and (found := re.match(r"\w+ options(?=:)", owner.__doc__)):
            return found[0]
    return "Options"


def _spelled(action: Action) -> list[str]:
    """The flags of an option without those that differ by an underscore only."""
    flags = [flag for flag in action.option_strings if "_" not in flag]
    is_on = action.nargs == "?" and action.default is True
    return [*flags, *(f"--no-{flag.removeprefix('--')}" for flag in flags if is_on)]


def _scores_in_words() -> str:
    """Names of all scores by what they are made of."""
    groups: dict[str, list[str]] = {}
    for name, score in SCORES.items():
        groups.setdefault(_made_of(score.passes((0.0, 0.5))), []).append(name)
    return " ".join(f"{what}: {', '.join(names)}." for what, names in groups.items())


def _made_of(passes: Sequence[Pass]) -> str:
    """What a score is made of, by its passes."""
    if any(one.masked_fraction for one in passes):
        return "DLC, at all levels"
    if any(one.weights == "adapted" for one in passes):
        return "Python API, model tuned on wanted rows against base"
    if any(one.view == "texts" for one in passes):
        return "Prompt against response, by --encoder"
    return "One unmasked pass" if tuple(passes) == (Pass(),) else "Response with its prompt against without"


def _in_words(default: Any) -> str:
    """A default as a user would write it; that a switch is off by default goes without saying."""
    if default is None or default is False or default == SUPPRESS:
        return ""
    if default is True:
        return "on"
    return " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
