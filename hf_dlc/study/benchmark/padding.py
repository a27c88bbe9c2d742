"""Rows end to end, rows side by side with padding, and a bare pass over the same tokens, in turns of a few seconds."""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_dlc.execution.estimate import time_batch
from hf_dlc.scorer.engine import Engine
from hf_dlc.tasks.batch_rules import BatchRules
from hf_dlc.tasks.facts import facts_of
from hf_dlc.tasks.text.encoding import Encoding

from .contenders import Limit, load_contender
from .counting import share_of_bare_pass
from .options import Job


_ROWS = 12  # of a turn


def padding_errand(job: Job) -> dict[str, Any]:
    """
    Time an unmasked pass over small sets of rows of all lengths in each of three ways, turn by turn.

    Short turns make ratios that hold where the speed of the machine changes from minute to minute.
    """
    limit = load_contender("limit", job)
    engine, rows = limit.scorer.parts.engine, [row for row in limit.rows if row.length]
    bound = share_of_bare_pass(limit.scorer, rows)
    end_to_end = engine.task.rules
    rules = {"end to end": end_to_end, "padded": end_to_end._replace(padding_free_up_to=0)}
    heads = engine.shared_heads(facts_of(rows))
    order, count = np.argsort([row.length for row in rows], kind="stable"), max(1, len(rows) // _ROWS)
    sets = [[rows[place] for place in order[first::count]] for first in range(count)]
    turns: list[dict[str, float]] = []
    with engine.masker.unmasked():
        for _ in range(2):  # the first time, kernels are compiled
            _have_turn(limit, engine, rules, heads, sets[0], reverse=False)
        for number in range(job.rounds * count):
            turns.append(_have_turn(limit, engine, rules, heads, sets[number % count], reverse=bool(number % 2)))
        computed = {name: _computed(engine, of_name, heads, rows) for name, of_name in rules.items()}
    return {
        "rows": len(rows),
        "rows_a_turn": len(sets[0]),
        "dtype": job.dtype,
        "goes_end_to_end": end_to_end.padding_free_up_to > 0,
        "bound": bound,
        "computed": computed,
        "seconds": turns,
    }


def _have_turn(
    limit: Limit, engine: Engine, rules: dict[str, BatchRules], heads: list[int], rows: list[Encoding], reverse: bool
) -> dict[str, float]:
    """Seconds of each way; in a machine that gets slower, each is the first and the last as often."""
    seconds = {}
    for name in sorted([*rules, "bare"], reverse=reverse):
        seconds[name] = (
            limit.seconds_a_level(rows) if name == "bare" else _seconds_of_pass(engine, rules[name], heads, rows)
        )
    return seconds


def _seconds_of_pass(engine: Engine, rules: BatchRules, heads: list[int], rows: list[Encoding]) -> float:
    """Time of the micro-batches, without the shared heads, which a run computes once a level."""
    engine.use_rules(rules)
    [measures] = engine.passes((0.0,)).values()
    plan = engine.cut(facts_of(rows), engine.tokens_per_batch, heads)
    return sum(time_batch(engine.task, measures, rows, batch) for batch in plan)


def _computed(engine: Engine, rules: BatchRules, heads: list[int], rows: list[Encoding]) -> int:
    """Tokens that a pass over all rows computes, padding included."""
    engine.use_rules(rules)
    return sum(batch.padded_tokens for batch in engine.cut(facts_of(rows), engine.tokens_per_batch, heads))
