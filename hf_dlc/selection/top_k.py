"""The easiest rows, or the hardest: the rule that a ranking asks for by itself."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

import numpy as np

from .base import Selector
from .candidates import Candidates
from .ordering import check_mix, difficulty, drawn_order, mixed


@dataclass
class TopKSelector(Selector):
    """
    Take the easiest or the hardest rows.

    Rows are ordered easiest first, ties by row number; `"easiest"` takes the head of that order and `"hardest"` its
    tail, so that the two never overlap while their budgets fit side by side.

    In our studies without wanted rows, neither end of a score made a better model than as many random rows by the loss
    per row and per token alike, and most made a worse one. There was one exception: where the quality of responses
    varied, the easiest rows by `dlc_similarity` and by `dlc_plain_loss` did. `hf-dlc study` tells of your rows.

    Args:
        keep (`float` or `int`, *optional*):
            Budget in rows. A float in (0, 1] is a share of all rows handed in, skipped ones included, rounded half to
            even; an int is a number of rows (`1` is one row, `1.0` all rows). Pass either `keep` or `keep_tokens`.
        keep_tokens (`int`, *optional*):
            Budget in target tokens, never exceeded: the rows are gone through from the chosen end, and each that
            still fits is taken, so that in the end no row that was left out would fit.
        which (`"easiest"` or `"hardest"`, *optional*, defaults to `"easiest"`):
            End of the order to take.
        column (`str`, *optional*, defaults to `"dlc_confidence"`):
            Column of the scores. A row whose score is NaN is never selected.
        easy (`"auto"`, `"high"` or `"low"`, *optional*, defaults to `"auto"`):
            Which scores mean easy rows, as in [`FlexRandSelector`].
        mix (`float`, *optional*, defaults to 0.0):
            Share of the budget that is drawn at random from the other rows.
        seed (`int`, *optional*, defaults to 0):
            Seed of the random rows.
        group_by (`str`, *optional*):
            Column of strings, integers or `None`s. Groups get parts of the budget as in [`FlexRandSelector`].
        tokens_column (`str`, *optional*, defaults to `"dlc_tokens"`):
            Column of the number of target tokens, read for `keep_tokens` only.
        missing (`"drop"` or `"error"`, *optional*, defaults to `"drop"`):
            Leave skipped rows (NaN scores) out and log their number, or refuse them.
        min_per_group (`int`, *optional*, defaults to 0):
            Rows that are kept of every group, however small; of a group with fewer scored rows, all of them.
        group_shares (`str` or `dict`, *optional*, defaults to `"proportional"`):
            Parts of the groups, as in [`FlexRandSelector`].
        drop_duplicates (`bool`, *optional*, defaults to `False`):
            Leave out duplicates, as in [`FlexRandSelector`].

    Example:
    ```python
    >>> from hf_dlc.selection import TopKSelector
    >>> TopKSelector(keep=2, which="hardest").get_indices([0.9, 0.1, float("nan"), 0.2])
    array([1, 3])

    ```
    """

    _: KW_ONLY
    which: Literal["easiest", "hardest"] = "easiest"
    easy: Literal["auto", "high", "low"] = "auto"
    mix: float = 0.0
    seed: int = 0

    @property
    def name(self) -> str:
        """The end of the order, which is what the selector is called."""
        return self.which

    def check(self) -> None:
        """Raise a `ValueError` for a parameter out of its range, such as an end that the order does not have."""
        super().check()
        if self.which not in ("easiest", "hardest"):
            raise ValueError(f"which must be 'easiest' or 'hardest', got {self.which!r}.")
        check_mix(self.mix)

    def idle(self) -> list[str]:
        """Return the parameters that change nothing, as in [`Selector`]."""
        return [] if self.mix else ["seed"]

    def _pools(self, candidates: Candidates, group: str | None, quota: int) -> list[np.ndarray]:
        order = np.argsort(difficulty(candidates.scores, self.easy, self.column), kind="stable")
        order = order if self.which == "easiest" else order[::-1]
        if not self.mix:
            return [order]
        others = drawn_order(candidates.rows, self.seed, group)
        return [mixed(order[candidates.scored[order]], candidates, quota, self.mix, others)]

    def _rule(self, column: str) -> str:
        rest = f"; {self.mix:.0%} of the budget was drawn at random from the others" if self.mix else ""
        return f"The {self.which} rows by {column} were taken{rest}"
