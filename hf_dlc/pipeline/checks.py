"""Checks at the beginning of a run: what it would refuse in the end is refused before a model is loaded, or scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset, Image

from hf_dlc.config import DLCConfig
from hf_dlc.execution.estimate import RunEstimate
from hf_dlc.report.report import check_group_and_flag_columns
from hf_dlc.scores.columns import score_features
from hf_dlc.selection.base import Selector
from hf_dlc.selection.columns import read_duplicates, read_numbers
from hf_dlc.selection.targeted import TargetedSelector
from hf_dlc.tasks.text.layouts import read_columns, refuse_other_responses, text_in
from hf_dlc.tasks.vision.images import IMAGE_NAMES

from .options import AUTO, PruneArguments, make_selector
from .selecting import marked


_FIRST_ROWS = 100  # in which text is looked for that no layout reads


def check_columns(dataset: Dataset, config: DLCConfig) -> None:
    """
    Refuse rows whose columns no language model could read. Which ones an image model reads depends on its head.

    Args:
        dataset ([`~datasets.Dataset`]):
            The rows.
        config ([`DLCConfig`]):
            Options of the scorer, with layout and columns.

    Raises:
        ValueError: If there are no rows, if no layout fits, or if the text of a column would be left out.
    """
    if not len(dataset):
        raise ValueError("the dataset has no rows. Pass another one.")
    if _has_images(dataset, config.columns or {}) or callable(config.template):
        return
    reading = read_columns(dataset.column_names, config.layout, config.columns)
    first = dataset.with_format("arrow")[:_FIRST_ROWS]  # as they are stored: not all pictures can be decoded
    texts = [name for name in reading.unread if text_in(name, first[name].to_pylist())]
    refuse_other_responses(reading, texts)


def _has_images(dataset: Dataset, columns: Mapping[str, str]) -> bool:
    typed = any(isinstance(feature, Image) for feature in dataset.features.values())
    named = any(columns.get(name, name) in IMAGE_NAMES for name in dataset.column_names)
    return typed or named


def check_options(options: PruneArguments, config: DLCConfig, dataset: Dataset) -> None:
    """
    Refuse a selection that these rows cannot serve, whatever their scores are.

    Args:
        options (`PruneArguments`):
            What to select, and what to report.
        config ([`DLCConfig`]):
            Options of the scorer, with the prefix of its columns.
        dataset ([`~datasets.Dataset`]):
            The rows.

    Raises:
        ValueError: If a column is not there or of the wrong kind, or if an option does not go with another.
        ImportError: If the selector needs a library that is not installed.
    """
    check_group_and_flag_columns(dataset, options.group_by, options.flag_column)
    known = [*dataset.column_names, *score_features(config.prefix, scores=config.scores)]
    if options.column is not None and options.column not in known:
        raise ValueError(f"column must be one of {', '.join(known)}, got {options.column!r}.")
    if options.column in dataset.column_names:
        read_numbers(dataset, options.column, "column=")
    if options.selector == AUTO:  # it is chosen by the scores that rows will have
        return
    selector = make_selector(options, config.prefix, scores=config.scores)
    selector.check()
    _check_needs(selector, options, config, known)
    selector.check_installed()
    for parameter, names in selector.own_columns().items():
        if missing := [name for name in names if name not in dataset.column_names]:
            raise ValueError(f"{parameter} must be of {', '.join(dataset.column_names)}, got {', '.join(missing)}.")


def _check_needs(selector: Selector, options: PruneArguments, config: DLCConfig, known: list[str]) -> None:
    """Features, score and wanted rows that a selector goes by."""
    if config.features not in (None, selector.pooling) and selector.pooling != "auto":
        raise ValueError(
            f"the selector {options.selector} goes by features={selector.pooling!r}, got features={config.features!r}."
        )
    if options.column is None and selector.column not in known:  # random rows, too, are drawn of scored ones
        columns = ", ".join(f"{config.prefix}_{name}" for name in config.scores)
        raise ValueError(
            f"rows are selected by {selector.column}, which is not among the scores that are asked for. Name "
            f"one of them with column: {columns}."
        )
    if options.target is None and isinstance(selector, TargetedSelector):
        raise ValueError(f"the selector {options.selector} needs wanted rows. Pass target, a file of them.")


def check_selection(options: PruneArguments, config: DLCConfig, dataset: Dataset, estimate: RunEstimate) -> None:
    """
    Refuse now what the selection would refuse after hours of scoring: it is tried on scores that are all alike.

    Args:
        options (`PruneArguments`):
            What to select, by a selector that is named.
        config ([`DLCConfig`]):
            Options of the scorer, with the prefix of its columns.
        dataset ([`~datasets.Dataset`]):
            The rows.
        estimate ([`RunEstimate`]):
            Estimate of their scoring, which knows the rows without a score and the target tokens.

    Raises:
        ValueError: As [`check_options`] does, or if there are too few rows or tokens.
    """
    check_options(options, config, dataset)
    if options.keep_tokens is not None and options.keep_tokens > estimate.target_tokens:
        raise ValueError(
            f"keep_tokens must be at most {estimate.target_tokens}, all there are, got {options.keep_tokens}."
        )
    selector = make_selector(options, config.prefix, scores=config.scores)
    scores, groups = _alike(selector, options, config, dataset, estimate)
    if not selector.is_told_by_the_budget:
        # What it goes by is not known yet, so the budget alone can be tried.
        selector = make_selector(replace(options, selector="random"), config.prefix, scores=config.scores)
    tokens = np.full(len(dataset), options.keep_tokens or 1)
    duplicates = read_duplicates(marked(dataset, options, config)) if options.drop_duplicates else None
    selector.get_indices(scores, groups, tokens, duplicates=duplicates)


def _alike(
    selector: Selector, options: PruneArguments, config: DLCConfig, dataset: Dataset, estimate: RunEstimate
) -> tuple[np.ndarray, list[Any] | None]:
    """Scores that are all 0, but NaN where rows will have none: rows of the largest groups; and the groups."""
    scores = np.zeros(len(dataset))
    groups = dataset[options.group_by][:] if options.group_by else None
    sizes = Counter(groups)
    largest_first = sorted(range(len(dataset)), key=lambda row: -sizes[groups[row]] if groups else 0)
    skipped = sum(estimate.skipped.values())
    score = selector.column.removeprefix(f"{config.prefix}_")
    without = len(dataset) - estimate.scored.get(score, len(dataset) - skipped)
    scores[largest_first[:without]] = np.nan
    return scores, groups
