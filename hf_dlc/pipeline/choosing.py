"""The choice of a selector where the options leave it open: what has proved itself for rows like these."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from hf_dlc.scores.columns import present_scores
from hf_dlc.scores.contrast import Contrast
from hf_dlc.scores.table import chosen_scores
from hf_dlc.selection.columns import read_numbers

from .options import AUTO, SelectionArguments


if TYPE_CHECKING:
    from datasets import Dataset


logger = logging.getLogger(__name__)

Given = TypeVar("Given", bound=SelectionArguments)

# A row that lacks a score cannot be judged by it, and is left out: a score that more rows lack is no default.
_LEAST_SHARE = 0.9


def choose_selector(
    options: Given, scores: Mapping[str, int], has_features: bool, column_prefix: str = "dlc"
) -> tuple[Given, str | None]:
    """
    Name the selector that the options leave open, with `selector="auto"`.

    With wanted rows it is `target`, by words where there are no features. Else, with a score that compares responses
    with their prompts, it is `cut` by that score. Else it is `random`, within groups where these are asked for.

    Args:
        options (`SelectionArguments`):
            What to select. What they say is never changed.
        scores (`Mapping[str, int]`):
            By the name of each score how many rows have it, or will. One that more than a tenth of the scored rows
            lack counts only if the options name its column.
        has_features (`bool`):
            Whether there are features, or will be if the selector goes by them.
        column_prefix (`str`, *optional*, defaults to `"dlc"`):
            First part of the names of the score columns.

    Returns:
        `tuple[SelectionArguments, str]`: Options that name a selector, and in words why it is this one; the same
        options and `None`, where they name one already.

    Example:
    ```python
    >>> chosen, why = choose_selector(SelectionArguments(), {"loss": 50, "ifd": 49}, has_features=False)
    >>> chosen.selector, chosen.column
    ('cut', 'dlc_ifd')
    ```
    """
    if options.selector != AUTO:
        return options, None
    if options.target is not None:
        metric = options.metric or ("cosine" if has_features else "bm25")
        return replace(options, selector="target", metric=metric), _why_target(options, metric)
    contrasts = {f"{column_prefix}_{one.name}": one for one in chosen_scores(scores) if isinstance(one, Contrast)}
    least = max(1, _LEAST_SHARE * max(scores.values(), default=0))
    rare = [column for column, score in contrasts.items() if scores[score.name] < least]
    usable = contrasts.keys() - set(rare) if options.column is None else contrasts.keys() & {options.column}
    if not usable:
        return replace(options, selector="random"), _why_random(options, rare)
    column = max(usable, key=lambda one: contrasts[one].found_wrong)
    return replace(options, selector="cut", column=column), _why_cut(column, contrasts[column])


def choose_for_scored(scored: Dataset, options: Given, column_prefix: str = "dlc") -> tuple[Given, str | None]:
    """
    Name the selector by what scored rows have, as [`choose_selector`] does, and log it.

    Args:
        scored ([`~datasets.Dataset`]):
            The rows.
        options (`SelectionArguments`):
            What to select.
        column_prefix (`str`, *optional*, defaults to `"dlc"`):
            First part of the names of the score columns.

    Returns:
        `tuple[SelectionArguments, str]`: As [`choose_selector`].
    """
    if options.selector != AUTO:
        return options, None
    columns = {name: f"{column_prefix}_{name}" for name in present_scores(scored.column_names, column_prefix)}
    values = {name: read_numbers(scored, column, "column=") for name, column in columns.items()}
    counts = {name: int(np.isfinite(numbers).sum()) for name, numbers in values.items()}
    has_features = f"{column_prefix}_features" in scored.column_names
    chosen, why = choose_selector(options, counts, has_features, column_prefix)
    log_choice(chosen, why)
    return chosen, why


def log_choice(options: SelectionArguments, why: str | None) -> None:
    """Log which selector was chosen and why; nothing, where the options named it. It warns of a column without use."""
    if why is not None:
        is_idle = options.selector == "random" and options.column is not None
        logger.log(logging.WARNING if is_idle else logging.INFO, "selector %s: %s", options.selector, why)


def _why_target(options: SelectionArguments, metric: str) -> str:
    why = f"wanted rows are given, and the rows nearest to them by {metric} are taken"
    if metric == "bm25" and options.metric is None:
        return f"{why}; the run has no features, by which they could be compared: --features auto scores with them"
    return why


def _why_cut(column: str, score: Contrast) -> str:
    return (
        f"{column} compares responses with their prompts, and found {score.found_wrong} of 45 wrong ones in our "
        "studies; the hardest rows by it are left out, and rows are chosen from the others. In our studies such a cut "
        "had 0.6% less loss than random rows where 30% of the responses were wrong, and no less where 10% were"
    )


def _why_random(options: SelectionArguments, rare: Sequence[str]) -> str:
    groups = f" within the groups of {options.group_by}" if options.group_by else ""
    if options.column is not None:
        but = f"; {options.column} tells only which rows have a score"
    else:
        but = f"; too many rows lack {' and '.join(rare)}" if rare else ""
    return (
        f"rows are drawn at random{groups}, not by scores{but}. No choice by confidence, loss or gain beat random "
        "rows by the loss per row and per token alike in our studies without wanted rows. The easiest rows by "
        "similarity did, and by plain_loss, where the quality of responses varied. So did rows without those that ifd "
        "or prompt_gain suspects, where 30% of the responses were wrong. To choose by a score, pass --selector "
        "flexrand, easiest, hardest or cut"
        f"{_why_equal(options)}"
    )


def _why_equal(options: SelectionArguments) -> str:
    """What equal parts are good for, where groups are given and their parts are left open."""
    if options.group_by is None or options.group_shares != "proportional":
        return ""
    return (
        f". Where each {options.group_by} counts alike to you, pass --group-shares equal: it was better than random "
        "rows in our study of lopsided sources"
    )
