"""The path of `dataset.map(scorer)`, row by row: levels are held between calls and computed side by side."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from hf_dlc.execution.agreement import why_not_side_by_side
from hf_dlc.execution.loop import run_row
from hf_dlc.execution.plan import MicroBatch
from hf_dlc.execution.values import Values, joined
from hf_dlc.scores.base import Asked, Pass
from hf_dlc.tasks.base import FULL_VIEW, EncodedRow, RowsInView

from .engine import Engine


logger = logging.getLogger(__name__)


class RowByRow:
    """
    Scores one row at a time, with the weights of all levels in memory where there is room.

    Args:
        engine ([`Engine`]):
            What scores where a row must meet one level after the other.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._warned_of_memory = False
        self._side_by_side: tuple[Any, bool] = None, False  # of what weights, and whether levels can be side by side
        self._shared_heads: tuple[Any, dict[int, Any]] = None, {}  # what the model makes of them, with what weights

    def run(
        self,
        views: Mapping[str, RowsInView],
        work: Sequence[Sequence[MicroBatch]],
        passes: Mapping[Pass, Sequence[Asked]],
    ) -> Values:
        """
        Score a row at all levels, in one forward pass if that gives what one pass a level gives.

        Args:
            views (`Mapping[str, RowsInView]`):
                The row, in all views that are asked for.
            work (`Sequence[Sequence[MicroBatch]]`):
                For each pass its micro-batch.
            passes (`Mapping[Pass, Sequence[Asked]]`):
                What [`Engine.passes`] returns.

        Returns:
            `dict[str, np.ndarray]`: What [`Engine.run`] returns.
        """
        levels = {one: measures for one, measures in passes.items() if (one.view, one.weights) == (FULL_VIEW, "base")}
        if len(levels) < 2 or (found := self._run_levels(views[FULL_VIEW].rows[0], levels)) is None:
            return self._engine.run(views, work, passes)
        others = {one: measures for one, measures in passes.items() if one not in levels}
        if not others:
            return found
        return joined(found, self._engine.run(views, work[len(levels) :], others))  # those come behind the levels

    def _run_levels(self, row: EncodedRow, passes: Mapping[Pass, Sequence[Asked]]) -> Values | None:
        """Measures of the whole row at all levels in one forward pass; `None` if it must meet one after the other."""
        task, masker = self._engine.task, self._engine.masker
        fractions = [one.masked_fraction for one in passes]
        if not row.length or not self._hold_levels(fractions) or task.rules.is_alone(row.length):
            return None
        if not self.can_run_side_by_side(fractions):
            return None
        [row] = task.feed([row])
        with masker.unmasked():
            shares = row.length <= task.rules.plain_up_to and task.shares(row.shared_head)
        with masker.side_by_side() as levels:
            shared_head = self._run_shared_head(row.shared_head, len(levels)) if shares else None
            return run_row(task, levels, list(passes.values()), row, shared_head)

    def _hold_levels(self, fractions: Sequence[float]) -> bool:
        """Keep the weights of all levels for the rows to come, and tell whether there is room."""
        masker = self._engine.masker
        fits = masker.fits_in_memory(fractions)
        if fits:
            masker.hold_levels(fractions)
        elif not self._warned_of_memory:
            self._warned_of_memory = True
            logger.warning(
                "scoring row by row masks the model anew for every row: the masked weights of %d levels do not fit "
                "into a quarter of the free memory. Pass batched=True to dataset.map.",
                len(fractions),
            )
        return fits

    def can_run_side_by_side(self, fractions: Sequence[float]) -> bool:
        """Whether the held levels may stand side by side; found out anew for other weights."""
        masker = self._engine.masker
        weights, agrees = self._side_by_side
        if weights is None or weights is not masker.noticed_state:
            reason = "not every masked weight is that of one plain linear layer"
            if masker.fits_side_by_side:
                reason = why_not_side_by_side(self._engine.task, masker, fractions)
            if reason:
                name = type(masker.model).__name__
                logger.info("row by row, %s takes a forward pass for each level: %s", name, reason)
            agrees = reason is None
            self._side_by_side = masker.noticed_state, agrees
        return agrees

    def _run_shared_head(self, shared_head: int, levels: int) -> Any:
        """What the model makes of a shared head at all held levels; kept for the rows to come."""
        masker = self._engine.masker
        weights, known = self._shared_heads
        if weights is not masker.noticed_state:
            self._shared_heads = masker.noticed_state, (known := {})
        if shared_head not in known:
            known[shared_head] = self._engine.task.run_shared_head(shared_head, levels)
        return known[shared_head]
