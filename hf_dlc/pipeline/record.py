"""The record of a run: enough to repeat it, and to say on a card how a subset came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Self, get_args, get_origin, get_type_hints

import numpy as np

from hf_dlc.report.report import status_counts
from hf_dlc.selection.table import SELECTORS, selector_from_record
from hf_dlc.utils.durations import price
from hf_dlc.utils.versions import versions


if TYPE_CHECKING:
    from datasets import Dataset

    from hf_dlc.scorer.extrapolated import ExtrapolatedScorer
    from hf_dlc.scorer.scorer import DLCScorer
    from hf_dlc.selection.base import Selector

SCORED_IN_PARTS = "the run was stopped and went on, so only the time of its last part is known"

_LONGEST_VALUE = 80  # characters of a wrong value that an error shows
_BASES: dict[Any, tuple[str, Any]] = {
    str: ("text", str),
    int: ("a whole number", Integral),
    float: ("a number", Real),
    bool: ("true or false", bool),
    tuple: ("a list", ()),  # one that is has been read before
    Mapping: ("a JSON object", ()),
}


class RecordError(ValueError):
    """A record with a value of the wrong type; the message names the field."""


@dataclass(frozen=True)
class _Part:
    """
    A JSON object with known fields, of which any may be absent.

    Whatever is read can be written again as it was: absent fields stay absent, and unknown ones are kept in `rest`.
    """

    rest: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    absent: frozenset[str] = field(default=frozenset(), kw_only=True, repr=False, compare=False)

    @classmethod
    def from_json(cls, value: Any, name: str = "") -> Self:
        """
        Read a JSON object, whoever wrote it.

        Args:
            value:
                The JSON value.
            name (`str`, *optional*):
                Name of the object in errors.

        Returns:
            The record. Fields that are not known, such as those of newer versions, are kept as they are.

        Raises:
            RecordError: If `value` is no object, or if a known field has a value of the wrong type.
        """
        if not isinstance(value, Mapping):
            raise _wrong(name or "the record of a run", "a JSON object", value)
        kinds = _kinds(cls)
        known = {
            key: _read(value[key], kind, f"{name}.{key}" if name else key)
            for key, kind in kinds.items()
            if key in value and (value[key] is not None or isinstance(kind, UnionType))
        }
        rest = {key: one for key, one in value.items() if key not in known}  # null may stand for an absent field
        return cls(**known, rest=rest, absent=frozenset(kinds.keys() - known.keys()))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object, the inverse of `from_json`."""
        known = {name: _plain(getattr(self, name)) for name in _kinds(type(self)) if name not in self.absent}
        return {**known, **{name: one for name, one in _plain(self.rest).items() if name not in known}}

    def having(self, **changes: Any) -> Self:
        """Return the same record with other values of some fields."""
        return replace(self, **changes, absent=self.absent - changes.keys())


@dataclass(frozen=True)
class DatasetRecord(_Part):
    """Identity of the rows: a repository on the Hub, or a local file or folder."""

    name: str | None = None
    is_local: bool = False
    config: str | None = None
    revision: str | None = None
    split: str | None = None
    sha256: str | None = None  # of a local file
    fingerprint: str | None = None
    rows: int | None = None


@dataclass(frozen=True)
class ScoringConfig(_Part):
    """Options of the scorer that others ask for; all others are in `rest`."""

    prefix: str | None = None
    masking: str | None = None
    seed: int | None = None
    token_mean: str | None = None


@dataclass(frozen=True)
class ScorerRecord(_Part):
    """Identity of the scorer: all that makes a score."""

    kind: str | None = None  # of task
    model: str | None = None
    revision: str | None = None
    gguf_file: str | None = None
    model_digest: str | None = None
    processor_digest: str | None = None
    probe_digest: str | None = None
    dtype: str | None = None
    device: str | None = None
    tokens_per_batch: int | None = None
    score_version: int | None = None
    is_fitted: bool | None = None  # by `DLCScorer.fit`
    adapters: str | None = None  # that were trained for a score, in words
    adapters_digest: str | None = None
    config: ScoringConfig = field(default_factory=ScoringConfig)


@dataclass(frozen=True)
class LevelRecord(_Part):
    """Counts of the weights at a level, as [`LevelReport`] has them."""

    level: int | None = None
    masked_fraction: float | None = None
    maskable: int | None = None
    masked: int | None = None
    zeros_before: int | None = None


@dataclass(frozen=True)
class UsageRecord(_Part):
    """Time, memory and processes of a run; the memory is that of the main process."""

    resumed: bool = False
    calibration_seconds: float | None = None
    scoring_seconds: float | None = None
    tokens_per_second: float | None = None  # unknown for a run that was resumed
    processes: int | None = None
    threads: int | None = None
    tokens: int | None = None
    target_tokens: int | None = None
    peak_memory_bytes: int | None = None
    finished: str | None = None  # when, in UTC
    training_seconds: float | None = None  # of one epoch of LoRA training on all rows that can be scored, as measured
    training_unknown: str | None = None  # why that was not measured, or would be of no use

    @property
    def price(self) -> str | None:
        """What scoring has cost beside an epoch of training; `None` if not known, as where it was done in parts."""
        return None if self.resumed else price(self.scoring_seconds, self.training_seconds)

    @property
    def price_unknown(self) -> str | None:
        """Why the price is not known; `None` if it is, or if nobody has asked for it."""
        if self.resumed and self.training_seconds is not None:  # as earlier versions have recorded it
            return SCORED_IN_PARTS
        return None if self.price else self.training_unknown


@dataclass(frozen=True)
class HeldOutRecord(_Part):
    """How well a score was predicted, as [`HeldOut`] has it; the options of the predictor are in `rest`."""

    spearman: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ExtrapolationRecord(_Part):
    """Prediction of scores from a share of the rows, as [`ExtrapolationAgreement`] has it."""

    scores: Mapping[str, HeldOutRecord] = field(default_factory=dict)
    rows: int | None = None
    scored: int | None = None
    predicted: int | None = None
    share: float | None = None
    method: str | None = None
    passes: float | None = None

    @property
    def agreements(self) -> dict[str, HeldOutRecord]:
        """The agreements by the names of their scores, without those that are null in somebody's file."""
        return {name: found for name, found in self.scores.items() if found is not None}


@dataclass(frozen=True)
class ReadingRecord(_Part):
    """Layout of the rows, and the columns that were read, as [`DatasetReading`] has them."""

    layout: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    template: str | None = None
    learned: str | None = None
    unread: tuple[str, ...] = ()
    unread_text: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    unknown_roles: tuple[str, ...] = ()


@dataclass(frozen=True)
class SelectionRecord(_Part):
    """Class of a selector and the parameters that all selectors have; those of its own are in `rest`."""

    selector: str | None = None
    keep: float | None = None  # an int is a number of rows
    keep_tokens: int | None = None
    column: str | None = None
    group_by: str | None = None

    @classmethod
    def of(cls, selector: Selector) -> SelectionRecord:
        """Describe a selector."""
        return cls.from_json({"selector": type(selector).__name__, **selector.parameters()})

    def known(self) -> Selector | None:
        """The selector; anybody may have written the record, so `None` for an unknown or unsound one."""
        try:
            selector = selector_from_record(self.to_json())
            selector.sentence()
            return selector if selector.name in SELECTORS else None
        except (TypeError, ValueError):
            return None


@dataclass(frozen=True)
class FlaggedRecord(_Part):
    """Rows of which a column of true and false says true, such as those that are known to be wrong."""

    column: str | None = None
    rows: int | None = None
    kept: int | None = None
    expected: float | None = None  # in as many random rows of those that have a score


@dataclass(frozen=True)
class RunRecord(_Part):
    """
    Record of a run: `scoring.json` after scoring, `manifest.json` after a selection.

    Every field may be absent: a record may have been made by hand, or by an older version.

    Args:
        dataset ([`DatasetRecord`], *optional*):
            Identity of the rows.
        scorer ([`ScorerRecord`], *optional*):
            Identity of the scorer.
        model_is_local (`bool`, *optional*, defaults to `False`):
            Whether the model is known on one machine only.
        model_files (`str`, *optional*):
            Digest of the names, sizes and times of the files of a local model, as they were when it was loaded.
        config (`Mapping`, *optional*):
            Options of the scorer, the fields of [`DLCConfig`].
        schedule (`tuple[float, ...]`, *optional*):
            Masked fraction of each level.
        masking (`tuple[LevelRecord, ...]`, *optional*):
            Counts of the weights at each level.
        versions (`Mapping[str, str]`, *optional*):
            Versions of the packages that a score depends on.
        options (`Mapping`, *optional*):
            Options of the program that scored, or selected. They name the selector, also where it was left open.
        selector_reason (`str`, *optional*):
            Why this selector was chosen, where it was left open.
        keep_levels (`bool`, *optional*, defaults to `False`):
            Whether the columns of the levels go into the subset.
        commands (`tuple[tuple[str, ...], ...]`, *optional*):
            Commands that do the same again, each as a list of words.
        run ([`UsageRecord`], *optional*):
            Time, memory and processes.
        reading ([`ReadingRecord`], *optional*):
            Layout and columns of rows of text.
        extrapolation ([`ExtrapolationRecord`], *optional*):
            How well scores were predicted, where [`ExtrapolatedScorer`] predicted some.
        selection ([`SelectionRecord`], *optional*):
            The selector.
        status (`Mapping[str, int]`, *optional*):
            Number of rows of each status.
        left_out (`Mapping[str, int]`, *optional*):
            Number of the rows that were left out before rows were chosen, by the reason.
        kept_rows (`int`, *optional*):
            Number of the kept rows.
        shared_with_random (`int`, *optional*):
            Number of these rows that as many random rows of the same seed hold as well.
        flagged ([`FlaggedRecord`], *optional*):
            Rows with a flag, where a column of flags was named.
        kept_indices (`tuple[int, ...]`, *optional*):
            Indices of the kept rows.

    Example:
    ```python
    >>> record = RunRecord.of(scorer, {"name": "yahma/alpaca-cleaned", "split": "train"})
    >>> RunRecord.from_json(record.to_json()) == record
    True
    ```
    """

    dataset: DatasetRecord = field(default_factory=DatasetRecord)
    scorer: ScorerRecord = field(default_factory=ScorerRecord)
    model_is_local: bool = False
    model_files: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    schedule: tuple[float, ...] = ()
    masking: tuple[LevelRecord, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    selector_reason: str | None = None
    keep_levels: bool = False
    commands: tuple[tuple[str, ...], ...] = ()
    run: UsageRecord = field(default_factory=UsageRecord)
    reading: ReadingRecord | None = None
    extrapolation: ExtrapolationRecord | None = None
    selection: SelectionRecord = field(default_factory=SelectionRecord)
    status: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    kept_rows: int | None = None
    shared_with_random: int | None = None
    flagged: FlaggedRecord | None = None
    kept_indices: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        scorer: DLCScorer | ExtrapolatedScorer,
        dataset: DatasetRecord | Mapping[str, Any] | str,
        **facts: Any,
    ) -> RunRecord:
        """
        Describe a scoring.

        Args:
            scorer ([`DLCScorer`] or [`ExtrapolatedScorer`]):
                The scorer; one that predicts has scored by then, so that its agreement is known.
            dataset ([`DatasetRecord`], `Mapping` or `str`):
                Identity of the rows, as `dataset_identity` returns it; some fields of it; or a repository on the Hub.
            facts:
                More fields, as JSON types.

        Returns:
            [`RunRecord`]: The record, without a row, a weight or a token.
        """
        from hf_dlc.scorer.extrapolated import ExtrapolatedScorer  # brings torch: records are read without it

        if isinstance(scorer, ExtrapolatedScorer):
            facts = {**facts, "extrapolation": scorer.agreement_.to_json()}
            scorer = scorer.scorer
        if isinstance(dataset, str):
            dataset = {"name": dataset, "is_local": Path(dataset).exists()}
        found = {
            "dataset": dataset.to_json() if isinstance(dataset, DatasetRecord) else dataset,
            "scorer": scorer.describe(),
            "model_is_local": scorer.is_local,
            "config": {name: None if callable(value) else value for name, value in vars(scorer.config).items()},
            "schedule": scorer.schedule_,
            "masking": [asdict(level) for level in scorer.masking_report()],
            "versions": versions(),
        }
        return cls.from_json(_plain({**facts, **found}))  # as it is read again: lists, no tuples

    def with_selection(self, selector: Selector, scored: Dataset, kept: Sequence[int], **facts: Any) -> RunRecord:
        """
        Describe a subset as well.

        Args:
            selector ([`FlexRandSelector`] or another):
                The selector.
            scored ([`~datasets.Dataset`]):
                All rows with their scores.
            kept (`Sequence[int]`):
                Indices of the kept rows, as `selector.read_indices(scored)` returns them.
            facts:
                Other values of further fields.

        Returns:
            [`RunRecord`]
        """
        return self.having(
            **facts,
            selection=SelectionRecord.of(selector),
            status=status_counts(scored, self.column_prefix),
            kept_rows=len(kept),
            kept_indices=tuple(map(int, kept)),
        )

    @property
    def column_prefix(self) -> str:
        """Prefix of the names of the score columns."""
        return self.scorer.config.prefix or "dlc"

    @property
    def selection_column(self) -> str:
        """Column by which rows were selected; without a selection, the one by which selectors select."""
        return self.selection.column or f"{self.column_prefix}_confidence"


def describe_scoring(
    scorer: DLCScorer | ExtrapolatedScorer, dataset: dict[str, Any] | str, **facts: Any
) -> dict[str, Any]:
    """
    Describe a scoring: which model scored which rows, and how.

    Args:
        scorer ([`DLCScorer`] or [`ExtrapolatedScorer`]):
            The scorer; one that predicts has scored by then, so that its agreement is known.
        dataset (`dict` or `str`):
            Where the rows are from: a repository on the Hub, or a dictionary with `name` and, where they are known,
            `config`, `revision`, `split` and `sha256` (of a local file).
        facts:
            Anything else, as JSON types.

    Returns:
        `dict`: JSON types, without a row, a weight or a token.
    """
    return RunRecord.of(scorer, dataset, **facts).to_json()


def build_manifest(
    scoring: dict[str, Any], selector: Selector, scored: Dataset, kept: Sequence[int], **facts: Any
) -> dict[str, Any]:
    """
    Describe a subset: the scoring, the selector, and the rows that it kept.

    Args:
        scoring (`dict`):
            The return value of [`describe_scoring`].
        selector ([`FlexRandSelector`] or another):
            The selector.
        scored ([`~datasets.Dataset`]):
            All rows with their scores.
        kept (`Sequence[int]`):
            Indices of the kept rows, as `selector.read_indices(scored)` returns them.
        facts:
            Anything else, as JSON types.

    Returns:
        `dict`: JSON types.

    Raises:
        RecordError: If a value in `scoring` or `facts` has the wrong type.

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
    record = RunRecord.from_json({**scoring, **facts})
    return record.with_selection(selector, scored, kept).to_json()


# ---- JSON --------------------------------------------------------------------------------------------------------


@cache
def _kinds(part: type[_Part]) -> dict[str, Any]:
    """The types of the fields that are in the JSON object."""
    return {name: kind for name, kind in get_type_hints(part).items() if name not in ("rest", "absent")}


def _is_part(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, _Part)


def _read(value: Any, kind: Any, name: str) -> Any:
    """Check that a JSON value is of a kind, and return it as that; `name` is what an error calls it."""
    if isinstance(kind, UnionType):
        [kind] = set(get_args(kind)) - {NoneType}
        return None if value is None else _read(value, kind, name)
    if _is_part(kind):
        return kind.from_json(value, name)
    inner = get_args(kind)[-1:] if get_origin(kind) is Mapping else get_args(kind)[:1]
    if get_origin(kind) is Mapping and isinstance(value, Mapping):
        return {str(key): None if one is None else _read(one, *inner, f"{name}.{key}") for key, one in value.items()}
    if get_origin(kind) is tuple and isinstance(value, Sequence) and not isinstance(value, str):
        if all(type(one) in inner for one in value):  # fast, for millions of indices
            return tuple(value)
        return tuple(_read(one, *inner, f"{name}[{place}]") for place, one in enumerate(value))
    words, base = _BASES.get(get_origin(kind) or kind, ("", object))
    if base is Integral and isinstance(value, float) and value.is_integer():  # 5.0, as other programs write it
        return int(value)
    if not isinstance(value, base) or (base in (Integral, Real) and isinstance(value, bool)):
        raise _wrong(name, words, value)
    return value.item() if isinstance(value, np.generic) else value


def _wrong(name: str, wanted: str, value: Any) -> RecordError:
    shown = repr(value)[:_LONGEST_VALUE]
    return RecordError(
        f"{name} must be {wanted}, got {shown}. Restore the record as hf_dlc wrote it, or score and select again."
    )


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, _Part):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return list(value) if all(type(one) is int for one in value) else [_plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value
