"""Comparison of selectors: what each would keep of the same scored rows, before anything is trained on them."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_dlc.scores.columns import present_scores
from hf_dlc.scores.table import SCORES
from hf_dlc.selection.table import SELECTORS

from .choosing import choose_for_scored
from .options import SelectionArguments, make_selector


if TYPE_CHECKING:
    from datasets import Dataset


logger = logging.getLogger(__name__)

_BEFORE_OVERLAP = ("confidence", "loss")  # their columns have always stood there; those of other scores come behind


def compare_selections(
    scored: Dataset, options: SelectionArguments, column_prefix: str = "dlc", target: Any = None
) -> list[dict[str, Any]]:
    """
    Select with every selector of the table, the same budget and the same seed.

    Args:
        scored ([`~datasets.Dataset`]):
            All rows with their scores.
        options (`SelectionArguments`):
            Budget, column, groups and seed; its `selector` and split are what the others are compared with. A selector
            that is left open is the one that [`~choosing.choose_for_scored`] chooses.
        column_prefix (`str`, *optional*, defaults to `"dlc"`):
            What the names of the score columns begin with.
        target (`Any`, *optional*):
            The wanted rows, for selectors that take such. A selector that lacks what it needs is left out, and logged.

    Returns:
        `list[dict]`: For each selector its name, the number of rows and target tokens that it keeps, and the mean of
        each score that there is. `overlap` is the share of these rows that the selector of `options` keeps as well.

    Raises:
        ValueError: For the reasons for which the selector of `options` raises it; another one that does is left out.
    """
    named, _ = choose_for_scored(scored, options, column_prefix)
    scores = present_scores(scored.column_names, column_prefix)
    numbers = scored.with_format("numpy")
    columns = {
        name: np.asarray(numbers[f"{column_prefix}_{name}"][:], dtype=np.float64) for name in ("tokens", *scores)
    }
    make = partial(make_selector, column_prefix=column_prefix, target=target, scores=list(scores))
    chosen = set(make(named).read_indices(scored).tolist())
    # What was chosen with a selector, such as its column, is for this one alone.
    all_options = [named if name == named.selector else replace(options, selector=name) for name in SELECTORS]
    variants = [make(one).variants() for one in all_options]
    rows = []
    for name, selector in (pair for one in variants for pair in one.items()):
        if lacking := selector.lacks(scored.column_names):
            logger.info("%s is not compared: it needs %s.", name, lacking)
            continue
        if selector.most_compared is not None and len(scored) > selector.most_compared:
            logger.info("%s is not compared: it takes long for more than %d rows.", name, selector.most_compared)
            continue
        try:
            kept = selector.read_indices(scored)
        except (ImportError, ValueError) as error:
            logger.info("%s is not compared: %s", name, error)
            continue
        means = {key: _mean(columns[key][kept]) for key in scores}
        overlap = len(chosen.intersection(kept.tolist())) / len(kept)
        counts = {"rows": len(kept), "tokens": int(columns["tokens"][kept].sum())}
        rows.append({"selector": name, **counts, **means, "overlap": overlap})
    return rows


def _mean(values: np.ndarray) -> float | None:
    """Mean over the rows that have the score; `None` if none has it."""
    known = values[np.isfinite(values)]
    return float(known.mean(dtype=np.float64)) if len(known) else None


def _shown(mean: float | None) -> str:
    return "-" if mean is None else f"{mean:.3f}"


def table(rows: list[dict[str, Any]]) -> str:
    """A comparison as Markdown."""
    scores = [name for name in SCORES if name in rows[0]]
    means = [name for name in scores if name in _BEFORE_OVERLAP]
    more = [name for name in scores if name not in _BEFORE_OVERLAP]
    header = ["selector", "rows", "target tokens", *(f"mean {name}" for name in means), "overlap"]
    header += [f"mean {name}" for name in more]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for row in rows:
        cells = [row["selector"], f"{row['rows']:,}", f"{row['tokens']:,}", *(_shown(row[name]) for name in means)]
        cells += [f"{row['overlap']:.0%}", *(_shown(row[name]) for name in more)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
