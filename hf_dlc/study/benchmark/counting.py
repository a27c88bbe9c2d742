"""Multiplications with weights: those of a bare forward pass, and those that a run does."""

from __future__ import annotations

from collections.abc import Sequence

from hf_dlc.scorer.scorer import DLCScorer
from hf_dlc.tasks.facts import facts_of
from hf_dlc.tasks.text.encoding import Encoding


def share_of_bare_pass(scorer: DLCScorer, rows: Sequence[Encoding]) -> float:
    """
    Speed of a run against that of a bare pass over the same tokens, if multiplications with weights were all.

    Attention, softmax and padding are not counted, and all experts of a mixture are. The bare pass multiplies every
    token with the weights of the layers. A run does so too, but once a level with the beginning that rows share, and
    multiplies the target tokens with the output head.

    Args:
        scorer ([`~hf_dlc.DLCScorer`]):
            Scorer of the rows.
        rows (`Sequence[Encoding]`):
            The rows.

    Returns:
        `float`: Below 1 if the head costs more than the shared beginnings save.
    """
    engine, facts = scorer.parts.engine, facts_of(rows)
    engine.check(facts.longest)
    layers = sum(target.parameter.numel() for target in engine.masker.targets)
    head = engine.masker.model.get_output_embeddings().weight.numel()
    plan = engine.cut(facts, engine.tokens_per_batch, engine.shared_heads(facts))
    behind = {row for batch in plan if batch.shared_head for row in batch.rows.tolist()}
    saved = sum(rows[row].shared_head_length for row in behind)
    again = sum({rows[row].shared_head: rows[row].shared_head_length for row in behind}.values())
    tokens = int(facts.lengths.sum())
    return tokens * layers / ((tokens - saved + again) * layers + int(facts.target_tokens.sum()) * head)
