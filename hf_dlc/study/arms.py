"""Arms: the ways of choosing rows that a study compares, and the cells, one for each model that it trains."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hf_dlc.scores.table import DEFAULT_SCORES, SCORES
from hf_dlc.selection.base import Selector
from hf_dlc.selection.table import SELECTORS


if TYPE_CHECKING:
    from datasets import Dataset

METRICS = ("loss per row", "loss per token")  # of the held-out rows; the first decides

# What an arm may rank by: the column, and which end of it is easy.
COLUMNS = {
    **{name: (f"dlc_{name}", score.easy) for name, score in SCORES.items()},
    "plain": ("plain", "low"),
    "length": ("dlc_tokens", "low"),
}
_LONGEST = "longest"  # rows with the most target tokens, unless a selector is called so
_NEARLY_RANDOM = 0.9  # share of the rows of an arm that random rows of the same seed have, too


class Cell(NamedTuple):
    """A cell of a study: one model that is trained."""

    arm: str
    matching: str  # what subsets have equally many of
    budget: float
    seed: int

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.arm} {self.matching} {self.budget:g} {self.seed}".replace(" ", "_")


class Arm(NamedTuple):
    """What an arm ranks by, a name in `COLUMNS` or `""`, and what selects, `None` where all rows are taken."""

    ranked_by: str
    selector: Selector | None


def parse_rule(name: str, value: str | None = None) -> tuple[Selector, dict[str, float]]:
    """
    Find the selector that a rule names.

    Args:
        name (`str`):
            The name of a selector.
        value (`str`, *optional*):
            What the rule gives for the parameter in which the variants of the selector differ.

    Returns:
        `tuple[Selector, dict[str, float]]`: The selector of the table, and the parameter with its value.

    Raises:
        ValueError: If there is no such selector, or if the value is none that it takes.

    Example:
    ```python
    >>> parse_rule("flexrand", "0.25")[1], parse_rule("easiest")[1]
    ({'split': 0.25}, {})
    ```
    """
    if name not in SELECTORS:
        raise ValueError(f"a rule must begin with one of {', '.join(SELECTORS)}, got {name!r}.")
    selector = SELECTORS[name]
    if value is None:
        return selector, {}
    first, *others = selector.variants().values()
    varied = [
        option.name
        for option in fields(selector)
        if any(getattr(one, option.name) != getattr(first, option.name) for one in others)
    ]
    if not varied:
        raise ValueError(f"{name} takes no value, got {value!r}.")
    values = {varied[0]: float(value)}
    replace(selector, **values).check()
    return selector, values


def parse_arm(arm: str) -> Arm:
    """
    Take the name of an arm apart.

    Args:
        arm (`str`):
            `"full"`, `"longest"`, the rule of a selector that needs no scores, such as `"random"`, or what it ranks by
            and the rule of a selector that does, as in `"loss flexrand 0.25"`.

    Returns:
        `Arm`

    Raises:
        ValueError: If it is none of these.

    Example:
    ```python
    >>> arm = parse_arm("loss flexrand 0.25")
    >>> arm.ranked_by, arm.selector.split
    ('loss', 0.25)
    >>> parse_arm("longest").ranked_by, parse_arm("random").ranked_by
    ('length', '')
    ```
    """
    if arm == "full":
        return Arm("", None)
    if arm == _LONGEST and arm not in SELECTORS:
        return Arm("length", SELECTORS["hardest"])
    ranks = [*SCORES, "plain"]
    first, _, rest = arm.partition(" ")
    ranked_by, rule = (first, rest) if first in ranks else ("", arm)
    *others, last = map(repr, ranks)
    *rules, last_rule = (repr(name) for name, selector in SELECTORS.items() if _goes_by(selector, "scores"))
    error = ValueError(
        f"an arm must be 'longest' or begin with {', '.join(others)} or {last} and go on with {', '.join(rules)} or "
        f"{last_rule}, and a value where the selector has variants, as in 'loss flexrand 0.25', got {arm!r}."
    )
    try:
        selector, values = parse_rule(*rule.split(" ", 1))
    except ValueError:
        raise error from None
    is_open = not values and len(selector.variants()) > 1
    if is_open or not _goes_by(selector, *(["scores"] if ranked_by else [])):
        raise error
    return Arm(ranked_by, replace(selector, **values))


def _goes_by(selector: Selector, *needs: str) -> bool:
    """Whether a selector needs these things, and otherwise no more than the number of tokens."""
    return set(needs) == set(selector.needs) - {"tokens"}


def default_arms() -> list[str]:
    """All arms of all selectors and scores, beside random rows: of selectors with variants, each of these."""
    varied, others, unranked = [], [], []
    for name, selector in SELECTORS.items():
        variants = list(selector.variants())
        if _goes_by(selector, "scores"):
            (varied if len(variants) > 1 else others).extend(variants)
        elif name != "random" and _goes_by(selector):
            unranked.extend(variants)
    return [
        *([] if _LONGEST in SELECTORS else [_LONGEST]),
        *(f"plain {rule}" for rule in others),
        *(f"{name} {rule}" for rules in (varied, others) for name in DEFAULT_SCORES for rule in rules),
        *unranked,
    ]


def choose_rows(scored: Dataset, cell: Cell) -> np.ndarray:
    """Row numbers, in the scored pool, of the rows that a cell trains on."""
    ranked_by, selector = parse_arm(cell.arm)
    if selector is None:
        return np.arange(len(scored))
    options: dict[str, Any] = {"keep": cell.budget, "seed": cell.seed}
    if cell.matching == "tokens":
        options |= {"keep": None, "keep_tokens": round(cell.budget * sum(scored["dlc_tokens"]))}
    if ranked_by:
        options["column"], options["easy"] = COLUMNS[ranked_by]
    known = {option.name for option in fields(selector)}
    return replace(selector, **{name: options[name] for name in options if name in known}).read_indices(scored)


def shared_with_random(scored: Dataset, cell: Cell) -> float:
    """Share of the rows of a cell that random rows of the same seed and budget have, too."""
    random = choose_rows(scored, cell._replace(arm="random"))
    return float(np.isin(choose_rows(scored, cell), random).mean())


def best_arms(screening: dict[Cell, dict[str, Any]], count: int) -> list[str]:
    """
    Name the arms with the lowest held-out loss, a mean over the matchings.

    Random rows are left out, and so is any arm that has chosen nearly the same rows: it is random with another name.

    Args:
        screening (`dict[Cell, dict[str, Any]]`):
            What was measured of each cell, with the share of its rows that random rows have as well (`"shared"`).
        count (`int`):
            How many arms to name.

    Returns:
        `list[str]`: The best first.

    Raises:
        ValueError: If there is no arm that chooses other rows than random.
    """
    outcomes: dict[str, list[dict[str, Any]]] = {}
    for cell, found in screening.items():
        outcomes.setdefault(cell.arm, []).append(found)
    losses = {
        arm: np.mean([one[METRICS[0]] for one in found])
        for arm, found in outcomes.items()
        if np.mean([one["shared"] for one in found]) < _NEARLY_RANDOM
    }
    if not losses:
        raise ValueError("arms must choose others than random rows, got none that does. Name --finalists.")
    return sorted(losses, key=lambda arm: (losses[arm], arm))[:count]
