"""Base of the selectors that go by wanted rows, examples of the task that the model is to learn."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .base import Selector
from .candidates import Candidates
from .wanted import Wanted


if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class TargetedSelector(Selector):
    """A selector with the parameter `target`, which its candidates have as `wanted`."""

    _: KW_ONLY
    # Neither compared nor shown: it may be a whole dataset, and arrays have no single answer to `==`.
    target: Any = field(default=None, compare=False, repr=False)
    column: str | None = None  # only to know skipped rows

    def parameters(self) -> dict[str, Any]:
        """Return the parameters as JSON types, with a description in the place of the wanted rows."""
        return {**super().parameters(), "target": Wanted(self.target).description}

    def lacks(self, columns: Collection[str]) -> str | None:
        """Return what the selector cannot do without and has not, or `None`, as in [`Selector`]."""
        return super().lacks(columns) or ("wanted rows (target)" if self.target is None else None)

    def check_wanted(self, dataset: Dataset) -> None:
        """Raise a `ValueError` if the wanted rows are of no use, as far as can be told before `dataset` is scored."""
        wanted = self.wanted_rows()
        wanted.require_rows()
        if "features" in self.needs and wanted.has_vectors:
            wanted.vectors  # noqa: B018  (raises if there are none)

    def wanted_rows(self) -> Wanted:
        """Return what there is to know of `target`."""
        return Wanted(self.target, self.features_column)

    def _prepared(self, candidates: Candidates) -> Candidates:
        """With the wanted rows, unless they were read with the pool already."""
        return candidates if candidates.wanted is not None else replace(candidates, wanted=self.wanted_rows())
