"""Random rows: what every other selector must be held against."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, fields
from typing import ClassVar

import numpy as np

from .base import Selector
from .candidates import Candidates
from .ordering import drawn_order


@dataclass
class RandomSelector(Selector):
    """
    Draw rows uniformly at random; scores serve only to leave skipped rows out.

    Without `group_by`, a larger `keep` with the same seed contains the smaller one.

    Args:
        keep (`float` or `int`, *optional*):
            Budget in rows. A float in (0, 1] is a share of all rows handed in, skipped ones included, rounded half to
            even; an int is a number of rows (`1` is one row, `1.0` all rows). Pass either `keep` or `keep_tokens`.
        keep_tokens (`int`, *optional*):
            Budget in target tokens, never exceeded: the rows are gone through in their random order, and each that
            still fits is taken, so that in the end no row that was left out would fit.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the draw, at least 0.
        column (`str`, *optional*):
            Column in which NaN marks a skipped row. By default `dlc_confidence` if the dataset has it; if not, all
            rows may be drawn.
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
    >>> from datasets import Dataset
    >>> from hf_dlc.selection import RandomSelector
    >>> dataset = Dataset.from_dict({"text": list("abcdefgh")})
    >>> RandomSelector(keep=3, seed=1)(dataset).num_rows
    3

    ```
    """

    name: ClassVar[str] = "random"
    needs: ClassVar[tuple[str, ...]] = ()

    _: KW_ONLY
    column: str | None = None
    seed: int = 0

    @classmethod
    def like(cls, selector: Selector) -> RandomSelector:
        """
        Random rows with the budget, the groups, the columns and the seed of another selector.

        Example:
        ```python
        >>> from hf_dlc.selection import CutSelector
        >>> RandomSelector.like(CutSelector(keep=0.5, cut=0.3, seed=7)).seed
        7

        ```
        """
        return cls(**{one.name: getattr(selector, one.name) for one in fields(cls) if hasattr(selector, one.name)})

    def _pools(self, candidates: Candidates, group: str | None, quota: int) -> list[np.ndarray]:
        return [drawn_order(candidates.rows, self.seed, group)]

    def _rule(self, column: str) -> str:
        return "Rows were drawn at random"
