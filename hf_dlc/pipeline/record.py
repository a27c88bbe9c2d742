"""What a run was: enough to repeat it, and to say on a card how a subset came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_dlc.report.report import status_counts
from hf_dlc.utils.versions import versions


if TYPE_CHECKING:
    from datasets import Dataset

    from hf_dlc.scorer.scorer import DLCScorer
    from hf_dlc.selection.base import Selector


def describe_scoring(scorer: DLCScorer, dataset: dict[str, Any] | str, **facts: Any) -> dict[str, Any]:
    """
    What scored which rows.

    Args:
        scorer ([`DLCScorer`]):
            What scored.
        dataset (`dict` or `str`):
            Where the rows are from: a repository on the Hub, or a dictionary with `name` and, where they are known,
            `config`, `revision`, `split` and `sha256` (of a local file).
        facts:
            Anything else, as JSON types.

    Returns:
        `dict`: JSON types, without a row, a weight or a token.
    """
    return {
        **facts,
        "dataset": {"name": dataset, "is_local": Path(dataset).exists()} if isinstance(dataset, str) else dataset,
        "scorer": scorer.describe(),
        "model_is_local": scorer.is_local,
        "config": {name: None if callable(value) else value for name, value in vars(scorer.config).items()},
        "schedule": list(scorer.schedule_),
        "masking": [asdict(level) for level in scorer.masking_report()],
        "versions": versions(),
    }


def build_manifest(
    scoring: dict[str, Any], selector: Selector, scored: Dataset, kept: Sequence[int], **facts: Any
) -> dict[str, Any]:
    """
    Describe a subset: what [`describe_scoring`] returned, and what selected which rows.

    Args:
        scoring (`dict`):
            What scored.
        selector ([`FlexRandSelector`] or another):
            What selected.
        scored ([`~datasets.Dataset`]):
            All rows with their scores.
        kept (`Sequence[int]`):
            Indices of the kept rows, as `selector.read_indices(scored)` returns them.
        facts:
            Anything else, as JSON types.

    Returns:
        `dict`: JSON types.

    Example:
    ```python
    >>> from hf_dlc import FlexRandSelector, push_pruned
    >>> from hf_dlc.pipeline.record import build_manifest, describe_scoring

    >>> selector = FlexRandSelector(keep=0.5)
    >>> kept = selector.read_indices(scored)
    >>> scoring = describe_scoring(scorer, {"name": "yahma/alpaca-cleaned", "split": "train"})
    >>> manifest = build_manifest(scoring, selector, scored, kept)
    >>> push_pruned(scored.select(kept), "me/alpaca", scored, manifest)
    'https://huggingface.co/datasets/me/alpaca'
    ```
    """
    return {
        **scoring,
        **facts,
        "selection": {"selector": type(selector).__name__, **asdict(selector, dict_factory=_json_types)},
        "status": status_counts(scored, scoring["scorer"]["config"]["prefix"]),
        "kept_rows": len(kept),
        "kept_indices": list(map(int, kept)),
    }


def _json_types(options: list[tuple[str, Any]]) -> dict[str, Any]:
    """A budget may have been computed with NumPy."""
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in options}
