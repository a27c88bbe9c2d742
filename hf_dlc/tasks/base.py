"""What a row means to a model: how it is encoded, and what a forward pass says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

from .batch_rules import LENGTH_STEP, BatchRules


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset
    from transformers import PreTrainedModel

    from hf_dlc.scores.base import Asked

    from .reading import DatasetReading


__all__ = [
    "FULL_VIEW",
    "LENGTH_STEP",
    "BatchRules",
    "Embedder",
    "EncodedRow",
    "Fittable",
    "Probe",
    "RowMeasures",
    "RowsInView",
    "Share",
    "Storable",
    "Task",
    "Trainable",
]


class EncodedRow(Protocol):
    """A row as a task feeds it to its model."""

    status: str
    why: str  # what is wrong with a skipped row, in words
    shared_head: int  # which of the task's shared heads the row begins with; 0: none
    shared_head_length: int  # its tokens

    @property
    def length(self) -> int:
        """Number of tokens, those of the shared head included; 0 for a skipped row."""

    @property
    def target_tokens(self) -> int:
        """Number of tokens that are scored; 0 for a skipped row."""

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All that the model gets of the row, for digests."""


FULL_VIEW = "full"  # of a row: all of it


class RowsInView(NamedTuple):
    """Rows as the model is shown them in some passes."""

    rows: Sequence[EncodedRow]  # one for each row of the dataset; behind them further parts of rows that have several
    owners: np.ndarray  # (parts,) int64: place in the dataset of each of them


class RowMeasures(NamedTuple):
    """What a forward pass gives of the rows of a micro-batch, on the model's device."""

    values: dict[str, torch.Tensor]  # by the name of the measure (rows,) float32, of features (rows, size) float16
    states: torch.Tensor  # what a masked level must change: hidden states of the scored positions


class Share(NamedTuple):
    """Which process this is of those that encode the same rows, and how they come together."""

    index: int
    count: int
    tokens_per_batch: int  # of the micro-batches that are dealt out to the processes in turn
    add_up: Callable[[np.ndarray], np.ndarray]  # float32 arrays of the same shape, over all processes


class Probe(Protocol):
    """What encodes the built-in instruction rows on which a schedule is calibrated."""

    def encode(self, rows: Sequence[dict[str, Any]]) -> list[EncodedRow]:
        """Encode rows, in order."""

    def describe(self) -> dict[str, Any]:
        """What, besides the tokenizer, changes an encoding, as JSON types."""


class Task(Protocol):
    """All that scoring knows of rows and models; the table of tasks says which one a model is for."""

    kind: str  # its name in the table of tasks
    views: frozenset[str]  # what of a row the model can be shown: FULL_VIEW, the whole row, and others
    measurable: frozenset[str]  # kinds of measures that `forward` knows, of `scores.base.MEASURABLE`
    poolings: tuple[str, ...]  # names of the ways in which features can be pooled, the one that suits first
    default_schedules: Mapping[str, tuple[float, ...]]  # levels by kind of masking; calibrated where there are none
    reading: DatasetReading | None  # what is read of the dataset that was encoded last; None before the first row
    num_shared_heads: int  # that rows may begin with, the empty one included
    learned: Any | None  # what `fit` has learned, to be pickled; None before, and where nothing is learned
    is_dated: bool  # whether a row may be encoded otherwise tomorrow
    rules: BatchRules  # what micro-batches the model may be given, as far as `check` has found out
    probe: Probe | None  # encodes the built-in rows that calibrate a schedule; None where none is calibrated

    def encode_rows(self, rows: Mapping[str, Any]) -> tuple[list[EncodedRow], bool]:
        """
        Encode a row or a batch, as `datasets.map` hands them over; the second value is whether it was a batch.

        A row that cannot be scored comes back with its reason as status.
        """

    def encode_dataset(self, dataset: Dataset, share: Share | None = None) -> Sequence[EncodedRow]:
        """Encode all rows, in order; with `share`, all processes do so at the same time and may help each other."""

    def view(self, rows: Sequence[EncodedRow], view: str) -> RowsInView:
        """
        Encoded rows in one of `views`.

        A row that cannot be shown so has the reason as status, whatever its status in the full view. The measure of a
        row in several parts is the mean over the target tokens of all of them.
        """

    def feed(self, rows: Sequence[EncodedRow]) -> Iterator[EncodedRow]:
        """The same rows in the same order, ready for `forward`: what they need may be loaded ahead of their use."""

    def check(self, longest: int, weights: object) -> None:
        """
        Measure whether the model does what scoring takes for granted, and set `rules` accordingly.

        What is measured does not depend on the rows, but for the tokens of the longest one. It is kept as long as
        `weights`, something that changes when the weights do, stays the same.
        """

    def features_size(self, pooling: str) -> int:
        """Numbers in the pooled features of a row, with one of `poolings`."""

    def samples(self) -> Sequence[EncodedRow]:
        """A few made-up rows, the same in every process, on which two ways of running the model can be compared."""

    def rounded(self) -> AbstractContextManager[float]:
        """Context in which the input of the model is changed by one rounding; yields the size of the rounding."""

    def shares(self, shared_head: int) -> bool:
        """Whether what the model makes of a shared head can be computed once for all rows that begin with it."""

    def run_shared_head(self, shared_head: int, copies: int = 1) -> Any:
        """Run the model on a shared head, with the weights as they are now; the result is for `forward`."""

    def forward(
        self, rows: Sequence[EncodedRow], measures: Sequence[Asked] = (), shared_head: Any = None, parts: int = 1
    ) -> RowMeasures:
        """
        Measure a micro-batch with the weights as they are now.

        Args:
            rows (`Sequence[EncodedRow]`):
                Rows from `feed` that can be scored.
            measures (`Sequence[Asked]`, *optional*, defaults to `()`):
                What is measured, features included; where nothing is, the states are all that is computed.
            shared_head (`Any`, *optional*):
                What `run_shared_head` returned for the shared head of these rows, which then is not read again.
            parts (`int`, *optional*, defaults to 1):
                Number of equal parts of the micro-batch that meet weights of their own.

        Returns:
            [`RowMeasures`]: A number of each row for each measure, and the states.
        """

    def describe(self) -> dict[str, Any]:
        """
        Everything besides weights, processor and options that changes a score, as JSON types.

        Returns:
            `dict[str, Any]`: Entries that stand beside the options, or in the place of the option of the same name.
        """

    def preview(self, dataset: Dataset) -> str:
        """
        The rows as they are scored, for people.

        Raises:
            ValueError: If there is no text in them.
        """

    def tokenize(self, dataset: Dataset) -> tuple[list[EncodedRow], dict[str, list[Any]]]:
        """
        The rows for a trainer.

        Returns:
            `tuple[list[EncodedRow], dict[str, list]]`: All rows, and of those that can be scored `input_ids`, `labels`
            (-100 where nothing is learned) and `row`, the place in the dataset.

        Raises:
            ValueError: If rows have no tokens.
        """


@runtime_checkable
class Storable(Protocol):
    """A task whose encoded rows can be kept in files, for other processes and for a run that goes on."""

    reading: DatasetReading | None

    @property
    def encoded_as(self) -> dict[str, Any] | None:
        """What, besides dataset and processor, the rows follow from, as JSON types; `None` where nobody can tell."""

    def begin_dataset(self) -> None:
        """Forget what was said of the rows so far: the next ones are those of another dataset."""

    def encode_part(self, dataset: Dataset) -> Sequence[EncodedRow]:
        """Encode some rows of the dataset, in order."""

    def take_readings(self, readings: Sequence[DatasetReading]) -> None:
        """Take what other processes, or an earlier run, have read of the dataset."""

    def to_table(self, rows: Sequence[EncodedRow]) -> pa.Table:
        """The rows as a table of Arrow."""

    def from_table(self, table: pa.Table) -> Sequence[EncodedRow]:
        """
        The rows of a table, whose memory they share; two such sequences can be added.

        Raises:
            ValueError: If it cannot be a table of `to_table`.
        """


@runtime_checkable
class Embedder(Protocol):
    """A task that makes a vector of each row, whether it has a label or not."""

    def encode_to_embed(
        self, dataset: Dataset, share: Share | None = None
    ) -> tuple[list[EncodedRow], tuple[str | int, ...]]:
        """Encode rows of which nothing but features will be asked for; there are no classes."""

    def encode_to_fit(
        self, dataset: Dataset, share: Share | None = None
    ) -> tuple[list[EncodedRow], tuple[str | int, ...]]:
        """Encode a dataset whose classes are to be learned from it; the second value is the classes."""

    def features(self, rows: Sequence[EncodedRow]) -> torch.Tensor:
        """Features of rows that come from `feed`, float32 of shape `(rows, size)`, with the weights as they are."""


@runtime_checkable
class Fittable(Embedder, Protocol):
    """A task that may have to see the features of all rows of a dataset before it can score one of them."""

    needs_fit: bool  # whether this one has to

    def features_to_fit(self, rows: Sequence[EncodedRow]) -> dict[str, torch.Tensor]:
        """
        All features that are learned from, of rows that come from `feed`, with the weights as they are.

        Returns:
            `dict[str, torch.Tensor]`: By name float32 of shape `(rows, size)`.
        """

    def fit(
        self,
        rows: Sequence[EncodedRow],
        classes: tuple[str | int, ...],
        features: Mapping[str, np.ndarray],
        key: str,
    ) -> None:
        """
        Learn from the features of encoded rows.

        Args:
            rows (`Sequence[EncodedRow]`):
                What `encode_to_fit` returned.
            classes (`tuple[str | int, ...]`):
                The classes of these rows.
            features (`Mapping[str, np.ndarray]`):
                What `features_to_fit` returned of each row, `(rows, size)`, NaN where there are none.
            key (`str`):
                Digest of all that the rest follows from.

        Raises:
            ValueError: If there is too little to learn from.
        """

    def with_reasons(self, rows: Sequence[EncodedRow]) -> list[EncodedRow]:
        """The rows of `encode_to_fit` as `encode_dataset` would return them now that something is learned."""

    def saved(self) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """What was learned, as arrays and texts for a file."""

    def restore(self, arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> None:
        """
        Take what `saved` returned, perhaps by way of a file; `learned` is `None` if that is not all that is needed.

        Raises:
            ValueError: If the arrays do not belong together.
        """


@runtime_checkable
class Trainable(Protocol):
    """A task whose model can be fine-tuned on the rows, so that this has a cost to compare with."""

    model: PreTrainedModel
    adapter_task: str | None  # what peft calls such a task; None where it has no name for it
    why_untrainable: str | None  # the reason, where this model cannot be

    def feed(self, rows: Sequence[EncodedRow]) -> Iterator[EncodedRow]:
        """As that of [`Task`]."""

    def training_batch(self, rows: Sequence[EncodedRow]) -> dict[str, torch.Tensor]:
        """Arguments of the model's own `forward`, labels included, for rows that come from `feed`."""
