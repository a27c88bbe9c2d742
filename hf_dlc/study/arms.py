"""Arms: the ways of choosing rows that a study compares, and the cells, one for each model that it trains."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hf_dlc.scores.table import SCORES
from hf_dlc.selection import FlexRandSelector, RandomSelector, TopKSelector


if TYPE_CHECKING:
    from datasets import Dataset

    from .options import StudyArguments

METRICS = ("loss per row", "loss per token")  # of the held-out rows; the first decides

# What an arm may rank by: the column, and which end of it is easy.
COLUMNS = {
    **{name: (f"dlc_{name}", score.easy) for name, score in SCORES.items()},
    "plain": ("plain", "low"),
    "length": ("dlc_tokens", "low"),
}
_RANKS = [*SCORES, "plain"]
_ARM = re.compile(rf"({'|'.join(_RANKS)}) (easiest|hardest|flexrand (0?\.\d+))")
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


def parse_arm(arm: str) -> tuple[str, str, float]:
    """
    Take the name of an arm apart.

    Args:
        arm (`str`):
            `"random"`, `"full"`, `"longest"`, or what it ranks by and how it chooses, as in `"loss flexrand 0.25"`.

    Returns:
        `tuple[str, str, float]`: A name in `COLUMNS` or `""`, the rule, and the split of FlexRand or 0.

    Raises:
        ValueError: If it is none of these.

    Example:
    ```python
    >>> parse_arm("loss flexrand 0.25"), parse_arm("longest")
    (('loss', 'flexrand', 0.25), ('length', 'hardest', 0.0))
    ```
    """
    if arm in ("random", "full"):
        return "", arm, 0.0
    if arm == "longest":
        return "length", "hardest", 0.0
    if found := _ARM.fullmatch(arm):
        return found[1], found[2].split()[0], float(found[3] or 0)
    *others, last = map(repr, _RANKS)
    raise ValueError(
        f"an arm must be 'longest' or begin with {', '.join(others)} or {last} and go on with 'easiest', 'hardest' or "
        f"'flexrand' and a split, got {arm!r}."
    )


def choose_rows(scored: Dataset, cell: Cell) -> np.ndarray:
    """Row numbers, in the scored pool, of the rows that a cell trains on."""
    ranked_by, rule, split = parse_arm(cell.arm)
    if rule == "full":
        return np.arange(len(scored))
    budget: dict[str, Any] = {"keep": cell.budget}
    if cell.matching == "tokens":
        budget = {"keep_tokens": round(cell.budget * sum(scored["dlc_tokens"]))}
    if rule == "random":
        return RandomSelector(**budget, seed=cell.seed).read_indices(scored)
    column, easy = COLUMNS[ranked_by]
    if rule == "flexrand":
        return FlexRandSelector(**budget, column=column, easy=easy, split=split, seed=cell.seed).read_indices(scored)
    return TopKSelector(**budget, column=column, easy=easy, which=rule).read_indices(scored)


def shared_with_random(scored: Dataset, cell: Cell) -> float:
    """Share of the rows of a cell that random rows of the same seed and budget have, too."""
    random = choose_rows(scored, cell._replace(arm="random"))
    return float(np.isin(choose_rows(scored, cell), random).mean())


def screening_cells(options: StudyArguments) -> list[Cell]:
    """Cells of the screening: every arm once, at one budget."""
    arms, budget = ["random", *options.arms], options.screening_budget
    return [Cell(arm, matching, budget, 0) for arm in arms for matching in options.matching_names]


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


def confirming_cells(options: StudyArguments, finalists: Sequence[str]) -> list[Cell]:
    """
    Cells of the confirming stage: all rows, and random rows and the finalists at every budget.

    They come seed by seed, so that a study that is stopped has compared something.
    """
    subsets = [(matching, budget) for matching in options.matching_names for budget in options.budgets]
    return [
        cell
        for seed in options.confirming_seeds
        for cell in (
            Cell("full", "rows", 1.0, seed),
            *(Cell(arm, *subset, seed) for subset in subsets for arm in ("random", *finalists)),
        )
    ]
