"""What a selection needs beside the scores: wanted rows with their features, and duplicates."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset

from hf_dlc.config import DLCConfig
from hf_dlc.scorer.fitting import embedded
from hf_dlc.scorer.scorer import DLCScorer
from hf_dlc.selection.base import Selector
from hf_dlc.selection.columns import text_columns
from hf_dlc.tasks.base import Embedder
from hf_dlc.tasks.text.layouts import read_columns
from hf_dlc.utils.content import media_columns

from .choosing import choose_selector
from .duplicates.find import find_duplicates
from .options import (
    DataArguments,
    ModelArguments,
    SelectionArguments,
    load_scorer,
    make_selector,
    parse_names,
    unused_options,
)
from .record import RunRecord
from .sources import read_dataset


logger = logging.getLogger(__name__)


def with_features(options: SelectionArguments, config: DLCConfig) -> DLCConfig:
    """
    Options of a scorer that gives what the selector of a run will need.

    Args:
        options (`SelectionArguments`):
            What to select. Where they leave the selector open, it will be the one that is chosen.
        config ([`DLCConfig`]):
            Options of the user.

    Returns:
        [`DLCConfig`]: With features, where the selector goes by them and they were not asked for.
    """
    options, _ = choose_selector(options, dict.fromkeys(config.scores, 1), True, config.prefix)
    if config.features is not None or not goes_by_features(options, config):
        return config
    features = make_selector(options, config.prefix).pooling
    logger.info(
        "the selector %s goes by features, which are written as well (features=%r)", options.selector, features
    )
    return replace(config, features=features)


def prepare_selection(
    scored: Dataset, options: SelectionArguments, config: DLCConfig, target: Dataset | None
) -> tuple[Dataset, Selector]:
    """
    Rows and selector, ready for each other.

    Args:
        scored ([`~datasets.Dataset`]):
            The rows with their scores.
        options (`SelectionArguments`):
            What to select.
        config ([`DLCConfig`]):
            Options of the scorer: how rows are read, and how columns are called.
        target ([`~datasets.Dataset`], *optional*):
            The wanted rows, as [`read_target`] returns them.

    Returns:
        `tuple[Dataset, Selector]`: The rows, with columns of duplicates where these are to be left out, and the
        selector.
    """
    if unused := unused_options(options):
        logger.warning("options that the selector %s does not use: %s", options.selector, ", ".join(unused))
    options = with_text_columns(options, scored, config)
    return marked(scored, options, config), make_selector(options, config.prefix, target, config.scores)


def with_text_columns(options: SelectionArguments, scored: Dataset, config: DLCConfig) -> SelectionArguments:
    """
    Options that name the columns of text that scoring reads, so that nothing else of a row is compared.

    Args:
        options (`SelectionArguments`):
            What to select.
        scored ([`~datasets.Dataset`]):
            The rows with their scores.
        config ([`DLCConfig`]):
            Options of the scorer: how rows are read.

    Returns:
        `SelectionArguments`: Unchanged, if columns are named already, if no layout of text fits, or if the rows have
        pictures, by which they are compared.
    """
    if options.text_columns is not None or media_columns(scored):
        return options
    try:
        read = read_columns(scored.column_names, config.layout, config.columns).columns.values()
    except ValueError:  # of features alone, say
        return options
    names = [name for name in read if "string" in str(scored.features[name])]
    return replace(options, text_columns=json.dumps(names)) if names else options


def marked(dataset: Dataset, options: SelectionArguments, config: DLCConfig) -> Dataset:
    """Rows with columns of duplicates, where these are to be left out and are not marked yet."""
    if not options.drop_duplicates or "dup_of" in dataset.column_names:
        return dataset
    return find_duplicates(dataset, layout=config.layout, columns=config.columns)


def goes_by_features(options: SelectionArguments, config: DLCConfig) -> bool:
    """Whether the selector of the options goes by features."""
    return "features" in make_selector(options, config.prefix).needs


def read_target(
    options: SelectionArguments, config: DLCConfig, with_features: bool, load: Callable[[], DLCScorer]
) -> Dataset | None:
    """
    The wanted rows, with features if these are asked for. In several processes, all of them must call it.

    Args:
        options (`SelectionArguments`):
            What to select.
        config ([`DLCConfig`]):
            Options of the scorer, with the prefix of its columns.
        with_features (`bool`):
            Whether a selector will go by their features.
        load (`Callable`):
            Returns the scorer; called only if it is to make features.

    Returns:
        [`~datasets.Dataset`]: `None` if there are none.
    """
    if options.target is None:
        return None
    wanted = without_unread_text(read_dataset(DataArguments(dataset=options.target)), options, config)
    if not with_features or config.features is None:  # the selector says that the pool has no features either
        return wanted
    logger.info("making the features of %d wanted rows", len(wanted))
    scorer = load().with_options(levels="single", scores=("plain_loss",), **reading_of(wanted, config))
    parts = scorer.parts
    if not isinstance(parts.task, Embedder):
        return scorer.score(wanted)
    return embedded(parts.engine, wanted, parts.state().weights, parts.features_by, scorer.config.prefix)


def reading_of(rows: Dataset, config: DLCConfig) -> dict[str, Any]:
    """
    Say how rows beside the pool are read: wanted or test rows may have another layout than it.

    Args:
        rows ([`~datasets.Dataset`]):
            Such rows.
        config ([`DLCConfig`]):
            Options of the scorer, with the layout and the columns that a user has named for the pool.

    Returns:
        `dict[str, Any]`: Options for `scorer.with_options`: none where they are read as the pool is.
    """
    own = {"layout": "auto", "columns": None}
    if not set(config.columns or ()) <= set(rows.column_names):
        return own
    try:
        if config.layout != "auto":
            read_columns(rows.column_names, config.layout, config.columns)
    except ValueError as error:
        logger.info("rows beside the pool are read by a layout of their own: %s", error)
        return own
    return {}


def without_unread_text(wanted: Dataset, options: SelectionArguments, config: DLCConfig) -> Dataset:
    """
    Wanted rows without the text, such as the name of a source, that is not compared with the pool either.

    Args:
        wanted ([`~datasets.Dataset`]):
            The wanted rows.
        options (`SelectionArguments`):
            What to select.
        config ([`DLCConfig`]):
            Options of the scorer: how the rows of the pool are read.

    Returns:
        [`~datasets.Dataset`]
    """
    config = replace(config, **reading_of(wanted, config))
    named = parse_names(options.text_columns or "")
    if not named or not set(named) <= set(wanted.column_names):  # they are those of the pool alone
        named = parse_names(with_text_columns(replace(options, text_columns=None), wanted, config).text_columns or "")
    if not named:
        return wanted
    kept = {*named, options.groups_from}
    return wanted.remove_columns([name for name in text_columns(wanted) if name not in kept])


def scorer_of(record: RunRecord, num_threads: int | None = None) -> DLCScorer:
    """
    Load the scorer of a run again, to give wanted rows features like those of the run.

    Args:
        record ([`RunRecord`]):
            Record of the run.
        num_threads (`int`, *optional*):
            CPU threads.

    Returns:
        [`DLCScorer`]
    """
    return load_scorer(model_options_of(record, num_threads), config_of(record))


def model_options_of(record: RunRecord, num_threads: int | None = None) -> ModelArguments:
    """Options by which the model of a run was loaded."""
    names = ("model", "model_revision", "trust_remote_code", "attn_implementation", "device_map")
    known = {name: record.options[name] for name in names if record.options.get(name) is not None}
    return ModelArguments(**known, num_threads=num_threads)


def config_of(record: RunRecord) -> DLCConfig:
    """Options of the scorer of a run, as far as its record has them; weights are loaded as they were."""
    names = {option.name for option in fields(DLCConfig)}
    known = {name: value for name, value in record.scorer.config.to_json().items() if name in names}
    described = known.pop("template", None)  # with all its texts
    if isinstance(described, dict) and isinstance(described.get("template"), str):
        known["template"] = described["template"]
    if record.scorer.dtype is not None:
        known["dtype"] = record.scorer.dtype
    return DLCConfig.from_dict({name: value for name, value in known.items() if value is not None})
