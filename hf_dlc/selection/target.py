"""Rows like the wanted ones: each wanted row takes its nearest rows, in turn."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from .budget import walk
from .candidates import Candidates
from .columns import read_texts, text_columns
from .contamination import equals_wanted
from .nearest import Similarity, VectorSimilarity, take_turns
from .ordering import check_mix, drawn_order, mixed
from .targeted import TargetedSelector
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
class TargetSelector(TargetedSelector):
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
        contamination (`"drop"`, `"exact"` or `"keep"`, *optional*, defaults to `"drop"`):
            Leave out rows that equal a wanted row, exactly or nearly ([`~contamination.equals_wanted`]), or exactly
            only, and log their number. Rows with pictures are compared by these, other rows by their texts, and rows
            of token ids by the ids. So there is nothing to compare where arrays of features are handed over.
        text_columns (`Sequence[str]`, *optional*):
            Columns of text that are compared, for `contamination` and for `metric="bm25"`. By default all columns of
            text, but for those that scoring writes, which is logged.
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

    Beside each kept row, `Selection.notes` has the number of the wanted row that took it (`"wanted"`), and their
    similarity (`"wanted_similarity"`): -1 and NaN for a row that was drawn at random.

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
    metric: Literal["cosine", "gradient", "bm25"] = "cosine"
    mix: float = 0.0
    contamination: Literal["drop", "exact", "keep"] = "drop"
    text_columns: Sequence[str] | None = None
    seed: int = 0

    name: ClassVar[str] = "target"
    varied: ClassVar[str | None] = "metric"

    @property
    def needs(self) -> tuple[str, ...]:
        """Features, or texts."""
        return ("texts",) if self.metric == "bm25" else ("features",)

    @property
    def advice(self) -> Mapping[str, str]:
        """What to do where too many rows equal a wanted one."""
        exact = "'exact' to leave out only those whose words are the same, or " if self.contamination == "drop" else ""
        return {EQUALS_WANTED: f"Pass contamination={exact}'keep'."}

    @property
    def pooling(self) -> str:
        """How the features that it goes by are pooled: as gradients, or as suits the model."""
        return "gradient" if self.metric == "gradient" else "auto"

    def idle(self) -> list[str]:
        """Return the parameters that change nothing, as in [`Selector`]."""
        compares_texts = self.metric == "bm25" or self.contamination != "keep"
        return [*([] if self.mix else ["seed"]), *([] if compares_texts else ["text_columns"])]

    def own_columns(self) -> Mapping[str, Sequence[str]]:
        """Return the columns of text, as in [`Selector`]."""
        return {} if self.text_columns is None else {"text_columns": self.text_columns}

    def parameters(self) -> dict[str, Any]:
        """Return the parameters as JSON types, as in [`TargetedSelector`]."""
        names = None if self.text_columns is None else list(self.text_columns)
        return {**super().parameters(), "text_columns": names}

    def check(self) -> None:
        """Raise a `ValueError` for a parameter out of its range, such as a metric that is none."""
        super().check()
        if self.metric not in _METRICS:
            raise ValueError(f"metric must be one of {', '.join(_METRICS)}, got {self.metric!r}.")
        if self.contamination not in ("drop", "exact", "keep"):
            raise ValueError(f"contamination must be 'drop', 'exact' or 'keep', got {self.contamination!r}.")
        if isinstance(self.text_columns, str):
            raise ValueError(f"text_columns must be a list of columns, got {self.text_columns!r}.")
        check_mix(self.mix)

    def check_installed(self) -> None:
        """Raise an `ImportError` if the metric needs a package that is not there."""
        if self.metric == "bm25":
            require_bm25s()

    def wanted_rows(self) -> Wanted:
        """Return what there is to know of `target`, with its text."""
        return Wanted(self.target, self.features_column, self.text_columns)

    def _read(self, dataset: Dataset) -> Candidates:
        self.check()
        wanted = self.wanted_rows()
        wanted.require_rows()
        if self.metric == "bm25":  # whose texts tell as well which rows equal a wanted one
            self._require_words(dataset)
            wanted.contents = wanted.texts
            return replace(super()._read(dataset), wanted=wanted)
        wanted.require_made_as(dataset)
        if self.metric == "gradient":
            self._require_gradients(dataset)
        candidates = replace(super()._read(dataset), wanted=wanted)
        return candidates if self.contamination == "keep" else replace(candidates, texts=wanted.compare_with(dataset))

    def _read_texts(self, dataset: Dataset) -> list[str]:
        if self.text_columns is None:
            names = ", ".join(text_columns(dataset))
            logger.info("words are those of the columns %s; text_columns= names others", names)
        return read_texts(dataset, self.text_columns)

    def check_wanted(self, dataset: Dataset) -> None:
        """Raise a `ValueError` if the wanted rows or the metric are of no use, as in [`TargetedSelector`]."""
        super().check_wanted(dataset)
        if self.metric == "bm25":
            self._require_words(dataset)

    def _require_words(self, dataset: Dataset) -> None:
        """Refuse to compare pictures by the words that stand beside them, unless these are asked for."""
        from hf_dlc.utils.content import media_columns  # loads libraries that other selectors do without

        if self.text_columns is None and (media := media_columns(dataset)):
            raise ValueError(
                f"metric='bm25' compares words, and the rows have pictures or sound in {', '.join(media)}. Pass "
                "text_columns= to compare what is written beside them, or another metric."
            )

    def _require_gradients(self, dataset: Dataset) -> None:
        way = made_by(dataset, self.features_column)
        if way is not None and not way.startswith("gradient"):
            raise ValueError(
                f"metric='gradient' needs features that were pooled as gradients, got {way!r}. Score the pool and the "
                "wanted rows with features='gradient', or pass metric='cosine'."
            )

    def _left_out(self, candidates: Candidates) -> Mapping[str, np.ndarray]:
        if self.contamination == "keep":
            return {}
        wanted = candidates.wanted.contents
        if candidates.texts is None or wanted is None:
            logger.info("No row is known to equal a wanted row: there are no texts to compare.")
            return {}
        return {EQUALS_WANTED: equals_wanted(candidates.texts, wanted, nearly=self.contamination == "drop")}

    def _pools(self, candidates: Candidates, group: str | None, quota: int) -> list[np.ndarray]:
        similarity, numbers = self._similarity(candidates)
        part = quota - round(quota * float(self.mix))
        order, owners = self._nearest(similarity, candidates, part)
        if self.mix:  # the others are drawn, however near they are
            first = walk(candidates.costs[order], part)
            order, owners = order[first], owners[first]
        candidates.note("wanted", order, numbers[owners])
        candidates.note("wanted_similarity", order, similarity.of_pairs(owners, order))
        if not self.mix:
            return [order]
        return [mixed(order, candidates, quota, self.mix, drawn_order(candidates.rows, self.seed, group))]

    def _nearest(self, similarity: Similarity, candidates: Candidates, part: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows in the order in which they are taken, as many as fill a part of the budget, and what took them."""
        available, costs = candidates.scored, candidates.costs
        if self.keep_tokens is None or not available.any():
            return take_turns(similarity, part, available)
        most = int(np.count_nonzero(available))
        count, shortest = min(64, most), int(costs[available].min())
        while True:
            order, owners = take_turns(similarity, count, available)
            kept = order[walk(costs[order], part)]
            left = part - int(costs[kept].sum())
            # Something is left to take behind those kept: other groups may leave over what pays for it.
            if count == most or (left < shortest and len(kept) < len(order)):
                return order, owners
            count = min(most, 2 * count)

    def _similarity(self, candidates: Candidates) -> tuple[Similarity, np.ndarray]:
        """What compares the rows with the wanted ones, and the numbers of these among all that were handed over."""
        wanted = candidates.wanted
        if self.metric == "bm25":
            return WordSimilarity(candidates.texts, wanted.texts), np.arange(len(wanted.texts))
        features = wanted.features(candidates.features.shape[1])
        return VectorSimilarity(candidates.features, features, self.metric == "cosine"), wanted.numbers

    def _rule(self, column: str) -> str:
        which = self.wanted_rows().description or "the wanted rows"
        rest = f"; {self.mix:.0%} of the budget was drawn at random from the others" if self.mix else ""
        return f"The rows nearest to {which} {_METRICS[self.metric]} were taken, each wanted row in turn{rest}"
