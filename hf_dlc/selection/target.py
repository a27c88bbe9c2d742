"""Rows like the wanted ones: each wanted row takes its nearest rows, in turn."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .base import Selector
from .budget import walk
from .candidates import Candidates, read_texts
from .contamination import equals_wanted
from .nearest import Similarity, VectorSimilarity, take_turns
from .ordering import check_mix, drawn_order, mixed
from .vectors import made_by
from .wanted import Wanted
from .words import WordSimilarity, require_bm25s


if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

EQUALS_WANTED = "equals_wanted"  # why a row is left out

_METRICS = {
    "cosine": "by the cosine of their features",
    "gradient": "by the product of their gradients",
    "bm25": "by their words (BM25)",
}


@dataclass
class TargetSelector(Selector):
    """
    Take the rows that are nearest to a few wanted rows, examples of the task that the model is to learn.

    The wanted rows take turns: each takes its nearest row that no other has taken yet, so that all of them are served
    alike. The search is exact, and looks at some rows of the pool at a time, in memory or in a mapped file. It holds
    about as many similarities as rows are kept, and all of them where nearly all rows are kept.

    The sources are Ivison et al., "Large-Scale Data Selection for Instruction Tuning", 2025 (RDS+: the round robin,
    and features by position); for `"gradient"` For-Value, equation in [`~hf_dlc.tasks`]; for `"bm25"` see
    [`~words.WordSimilarity`].

    Without `group_by`, a larger `keep` contains the smaller one where `mix` is 0.

    Args:
        keep (`float` or `int`, *optional*):
            Budget in rows. A float in (0, 1] is a share of all rows handed in, skipped ones included, rounded half to
            even; an int is a number of rows (`1` is one row, `1.0` all rows). Pass either `keep` or `keep_tokens`.
        keep_tokens (`int`, *optional*):
            Budget in target tokens, never exceeded: the rows are gone through in the order in which they are taken,
            and each that still fits is kept.
        target ([`~datasets.Dataset`], `np.ndarray` or `Sequence[str]`):
            The wanted rows: a dataset that the same scorer has scored with `features=True`; an array of their
            features, `(wanted, size)`; or their texts, for `metric="bm25"`.
        metric (`str`, *optional*, defaults to `"cosine"`):
            What is near: `"cosine"` of the features; `"gradient"`, the inner product of features that were pooled as
            gradients; `"bm25"`, by words, for which no model is needed.
        mix (`float`, *optional*, defaults to 0.0):
            Share of the budget that is drawn at random from the other rows.
        contamination (`"drop"` or `"keep"`, *optional*, defaults to `"drop"`):
            Leave out rows that equal a wanted row, exactly or nearly ([`~contamination.equals_wanted`]), and log their
            number. They are found by their texts, so only where a dataset is given.
        seed (`int`, *optional*, defaults to 0):
            Seed of the random rows.
        column (`str`, *optional*):
            Column in which NaN marks a skipped row. By default `dlc_confidence` if the dataset has it. Rows without
            features are never selected.
        features_column (`str`, *optional*, defaults to `"dlc_features"`):
            Column of the features.
        group_by (`str`, *optional*):
            Column of strings, integers or `None`s. Groups get parts of the budget as in [`FlexRandSelector`], and the
            wanted rows take turns in each.
        group_shares (`str` or `dict`, *optional*, defaults to `"proportional"`):
            As in [`FlexRandSelector`].
        drop_duplicates (`bool`, *optional*, defaults to `False`):
            As in [`FlexRandSelector`].
        tokens_column (`str`, *optional*, defaults to `"dlc_tokens"`):
            Column of the number of target tokens, read for `keep_tokens` only.
        missing (`"drop"` or `"error"`, *optional*, defaults to `"drop"`):
            Leave skipped rows out and log their number, or refuse them.
        min_per_group (`int`, *optional*, defaults to 0):
            Rows that are kept of every group, however small.

    Raises:
        ValueError: If there are no wanted rows, or if their features are of another size or another model.

    Example:
    ```python
    >>> import numpy as np
    >>> from hf_dlc.selection import TargetSelector
    >>> pool = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    >>> TargetSelector(keep=2, target=np.array([[1.0, 0.0], [0.0, 2.0]])).get_indices(features=pool)
    array([0, 2])

    ```
    """

    _: KW_ONLY
    target: Any = field(default=None, repr=False, compare=False)
    metric: Literal["cosine", "gradient", "bm25"] = "cosine"
    mix: float = 0.0
    contamination: Literal["drop", "keep"] = "drop"
    seed: int = 0
    column: str | None = None

    name = "target"

    @property
    def needs(self) -> tuple[str, ...]:
        """Features, or texts."""
        return ("texts",) if self.metric == "bm25" else ("features",)

    def check(self) -> None:
        """Raise a `ValueError` for a parameter out of its range, such as a metric that is none."""
        super().check()
        if self.metric not in _METRICS:
            raise ValueError(f"metric must be one of {', '.join(_METRICS)}, got {self.metric!r}.")
        if self.contamination not in ("drop", "keep"):
            raise ValueError(f"contamination must be 'drop' or 'keep', got {self.contamination!r}.")
        check_mix(self.mix)

    def check_installed(self) -> None:
        """Raise an `ImportError` if the metric needs a package that is not there."""
        if self.metric == "bm25":
            require_bm25s()

    def parameters(self) -> dict[str, Any]:
        """Return the parameters as JSON types, with a description in the place of the wanted rows."""
        return {**super().parameters(), "target": Wanted(self.target, self.features_column).description}

    def _read(self, dataset: Dataset) -> Candidates:
        wanted = Wanted(self.target, self.features_column)
        if self.metric != "bm25":
            wanted.require_made_as(dataset)
        way = made_by(dataset, self.features_column) if self.metric == "gradient" else None
        if way is not None and not way.startswith("gradient"):
            raise ValueError(
                f"metric='gradient' needs features that were pooled as gradients, got {way!r}. Score the pool and the "
                "wanted rows with features='gradient', or pass metric='cosine'."
            )
        candidates = super()._read(dataset)
        if self.contamination == "keep" or candidates.texts is not None or not wanted.has_texts:
            return candidates
        return replace(candidates, texts=read_texts(dataset))

    def _left_out(self, candidates: Candidates) -> Mapping[str, np.ndarray]:
        wanted = Wanted(self.target, self.features_column)
        if self.contamination == "keep":
            return {}
        if candidates.texts is None or not wanted.has_texts:
            logger.info("Rows that equal a wanted row are not looked for, since there are no texts to compare.")
            return {}
        return {EQUALS_WANTED: equals_wanted(candidates.texts, wanted.texts)}

    def _pools(self, candidates: Candidates, group: str | None, quota: int) -> list[np.ndarray]:
        similarity = self._similarity(candidates)
        part = quota - round(quota * float(self.mix))
        first = self._nearest(similarity, candidates, part)
        if not self.mix:
            return [first]
        return [mixed(first, candidates, quota, self.mix, drawn_order(candidates.rows, self.seed, group))]

    def _nearest(self, similarity: Similarity, candidates: Candidates, part: int) -> np.ndarray:
        """Rows in the order in which they are taken, as many as fill a part of the budget."""
        available = candidates.scored
        if candidates.tokens is None or not self.keep_tokens:
            return take_turns(similarity, part, available)
        most = np.count_nonzero(available)
        if not most:
            return np.empty(0, dtype=np.int64)
        count, shortest = min(64, most), int(candidates.tokens[available].min())
        while True:
            order = take_turns(similarity, count, available)
            kept = order[walk(candidates.tokens[order], part)]
            left = part - int(candidates.tokens[kept].sum())
            if count == most or left < shortest:
                return order
            count = min(most, 2 * count)

    def _similarity(self, candidates: Candidates) -> Similarity:
        wanted = Wanted(self.target, self.features_column)
        if self.metric == "bm25":
            return WordSimilarity(candidates.texts, wanted.texts)
        features = wanted.features(candidates.features.shape[1])
        return VectorSimilarity(candidates.features, features, self.metric == "cosine")

    def _notes(self, candidates: Candidates, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        between = self._similarity(candidates).between(indices)
        nearest = between.argmax(axis=0)
        numbers = Wanted(self.target, self.features_column).numbers(self.metric != "bm25")
        return {"wanted": numbers[nearest], "wanted_similarity": np.take_along_axis(between, nearest[None], axis=0)[0]}

    def _rule(self, column: str) -> str:
        which = Wanted(self.target, self.features_column).description or "the wanted rows"
        rest = f"; {self.mix:.0%} of the budget was drawn at random from the others" if self.mix else ""
        return f"The rows nearest to {which} {_METRICS[self.metric]} were taken, each wanted row in turn{rest}"
