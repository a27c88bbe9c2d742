"""Options of the study of wrong rows, and the rows that it makes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args, get_type_hints

import numpy as np
from datasets import ClassLabel, Dataset

from hf_dlc.config import DLCConfig
from hf_dlc.pipeline.options import DataArguments, ModelArguments
from hf_dlc.scorer.scorer import DLCScorer
from hf_dlc.tasks.facts import facts_of
from hf_dlc.tasks.text.layouts import read_columns

from .corruption import corrupt, flipped, other_number, swapped


@dataclass
class WrongRowsArguments(DataArguments, ModelArguments):
    """Study options: which rows are made wrong, how many, and how."""

    wrong: Literal["response", "number", "label"] = field(
        default="response", metadata={"help": "What is wrong: swapped responses, a last number, or labels."}
    )
    share: float = field(default=0.15, metadata={"help": "Share of the rows that are made wrong."})
    rows: int = field(default=300, metadata={"help": "Rows that are drawn at random."})
    most_characters: int = field(default=600, metadata={"help": "Rows with longer responses are left out."})
    study_seed: int = field(default=0, metadata={"help": "Seed of the rows, and of which are made wrong."})
    output_dir: str = field(default="runs/wrong-rows", metadata={"help": "Folder for the results."})

    def __post_init__(self) -> None:
        super().__post_init__()
        kinds = get_args(get_type_hints(type(self))["wrong"])
        if self.wrong not in kinds:
            raise ValueError(f"wrong must be one of {', '.join(kinds)}, got {self.wrong!r}.")
        if not 0 < self.share < 1:
            raise ValueError(f"share must be between 0 and 1, got {self.share}.")


def make_wrong(dataset: Dataset, options: WrongRowsArguments, config: DLCConfig) -> tuple[Dataset, np.ndarray]:
    """
    Draw rows and make some of them wrong.

    Args:
        dataset ([`~datasets.Dataset`]):
            All rows.
        options ([`WrongRowsArguments`]):
            What is made wrong.
        config ([`DLCConfig`]):
            How the columns are read.

    Returns:
        `tuple[Dataset, np.ndarray]`: The rows, and which of them are wrong.

    Raises:
        ValueError: If there are too few rows, or none with what is to be made wrong.
    """
    if options.wrong == "label":
        return _with_flipped_labels(dataset, options, config)
    column = read_columns(dataset.column_names, config.layout, config.columns).columns.get("response")
    if column is None:
        raise ValueError(
            f"rows of one prompt and one response are needed, got the columns {', '.join(dataset.column_names)}."
        )
    texts = [str(text or "") for text in dataset.with_format(None)[column][:]]
    fitting = [place for place, text in enumerate(texts) if text.strip() and len(text) <= options.most_characters]
    if options.wrong == "number":
        fitting = [place for place in fitting if any(character.isdigit() for character in texts[place])]
    change = swapped if options.wrong == "response" else other_number
    return corrupt(_drawn(dataset, fitting, options), column, options.share, change, options.study_seed)


def _with_flipped_labels(
    dataset: Dataset, options: WrongRowsArguments, config: DLCConfig
) -> tuple[Dataset, np.ndarray]:
    column = next((theirs for theirs, ours in (config.columns or {}).items() if ours == "label"), "label")
    feature = dataset.features.get(column)
    if not isinstance(feature, ClassLabel):
        raise ValueError(
            f"the labels in {column!r} must be a ClassLabel, got {feature}. Use dataset.class_encode_column, or name "
            "another column with columns."
        )
    drawn = _drawn(dataset, list(range(len(dataset))), options)
    return corrupt(drawn, column, options.share, flipped(feature), options.study_seed)


def _drawn(dataset: Dataset, places: list[int], options: WrongRowsArguments) -> Dataset:
    chosen = np.random.default_rng(options.study_seed).permutation(places)[: options.rows]
    return dataset.select(np.sort(chosen).tolist())


def tokens_of_views(scorer: DLCScorer, dataset: Dataset) -> dict[str, int]:
    """Tokens that one pass computes, for each view that the scores ask for and for the whole rows."""
    task, engine = scorer.parts.task, scorer.parts.engine
    rows = task.encode_dataset(dataset)
    views = {"full": task.view(rows, "full"), **engine.views(rows)}
    return {view: int(facts_of(seen.rows).lengths.sum()) for view, seen in views.items()}
