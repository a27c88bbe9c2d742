"""Situations: what kind of pool a user has, and which ways of choosing rows are worth comparing there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from .arms import LONGEST, ORACLE, Arm, parse_arm, score_arms


@dataclass(frozen=True)
class Situation:
    """
    A kind of pool.

    Args:
        name (`str`):
            Its name on the command line.
        title (`str`):
            What it is, in a few words.
        arms (`tuple[str, ...]`):
            What is compared with random rows.
    """

    name: str
    title: str
    arms: tuple[str, ...]


_CONTROLS = ("balanced random", LONGEST, ORACLE)
_GIVEN = {"target", "groups", "flags", "score similarity"}  # what a user must hand over
_CONTRASTS = ("ifd", "prompt_gain", "similarity", "plain_loss", "gain")

# A new situation is an entry here. A title goes on where a sentence has said "where".
SITUATIONS = {
    situation.name: situation
    for situation in (
        Situation(
            "task",
            "a task is wanted",
            (
                *_CONTROLS,
                "target cosine",
                "target bm25",
                "target gradient",
                "transfer features",
                "target_shift easiest",
                "plain_loss easiest",
                "plain_loss hardest",
                "confidence flexrand 0.5",
                "confidence flexrand 0.75",
            ),
        ),
        Situation(
            "wrong",
            "some responses are wrong",
            (
                *_CONTROLS,
                *(f"{score} cut {share:g}" for score in _CONTRASTS for share in (0.1, 0.3)),
                *(f"{score} easiest" for score in _CONTRASTS),
            ),
        ),
        Situation(
            "sources",
            "sources are lopsided and rows are repeated",
            (
                *_CONTROLS,
                "unique random",
                "unique balanced random",
                "k_center",
                "unique k_center",
                "cluster random",
                "cluster nearest",
                "unique cluster random",
            ),
        ),
        Situation(
            "unknown",
            "nothing is known of the rows",
            (
                LONGEST,
                "unique random",
                "ifd cut 0.1",
                "similarity cut 0.1",
                "ifd easiest",
                "plain_loss easiest",
                "plain_loss hardest",
                "confidence flexrand 0.75",
                "unique k_center",
                "cluster random",
            ),
        ),
        Situation("clean", "rows are clean and of one kind", (*_CONTROLS, *score_arms())),
    )
}


def situation_of(has_target: bool, has_flags: bool, has_groups: bool) -> Situation:
    """
    Tell the situation of a user from what is given beside the rows.

    Args:
        has_target (`bool`):
            Whether there are wanted rows.
        has_flags (`bool`):
            Whether some rows are known to be suspect.
        has_groups (`bool`):
            Whether the rows come from several sources.

    Returns:
        `Situation`
    """
    given = {"task": has_target, "wrong": has_flags, "sources": has_groups}
    return SITUATIONS[next((name for name, is_given in given.items() if is_given), "unknown")]


def possible_arms(arms: Collection[str], there: Collection[str]) -> tuple[list[str], dict[str, list[str]]]:
    """
    Leave out the arms for which something is missing.

    Args:
        arms (`Collection[str]`):
            Names of arms.
        there (`Collection[str]`):
            What there is, of `target`, `groups`, `flags` and `score similarity`; all else can be made.

    Returns:
        `tuple[list[str], dict[str, list[str]]]`: Those that can be compared, and what each of the others lacks.
    """
    lacking = {name: _lacking(parse_arm(name), set(there)) for name in arms}
    possible = [name for name, needs in lacking.items() if not needs]
    return possible, {name: needs for name, needs in lacking.items() if needs}


def _lacking(arm: Arm, there: set[str]) -> list[str]:
    """What an arm needs and has not, packages too."""
    found = sorted((arm.needs & _GIVEN) - there)
    try:
        if arm.selector is not None:
            arm.selector.check_installed()
    except ImportError as error:
        found.append(str(error))
    return found
