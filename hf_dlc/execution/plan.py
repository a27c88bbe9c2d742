"""The plan of a run: which rows go together in a micro-batch, and which process takes which micro-batch."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hf_dlc.tasks.batch_rules import in_steps


# Tokens of rows end to end: more gain nothing on a CPU, and a model may not be the same beyond some number of them.
_MOST_END_TO_END = 2048

# Their states are put side by side to be measured: a rectangle of at most so many times the tokens, padding included.
_MOST_PADDING = 4


class MicroBatch(NamedTuple):
    """Rows that go through the model together."""

    rows: np.ndarray  # positions in the dataset, longest row first
    lengths: np.ndarray  # tokens that the forward pass computes of each of them
    shared_head: int = 0  # what all rows begin with and is computed once a level for all of them; 0: nothing
    is_padding_free: bool = False  # rows end to end, and not side by side

    @property
    def padded_tokens(self) -> int:
        """Tokens that the forward pass computes, padding included: what it costs."""
        if self.is_padding_free:
            return in_steps(int(self.lengths.sum()))
        return len(self.rows) * int(self.lengths[0])


def cut_batches(
    lengths: np.ndarray,
    tokens_per_batch: int,
    shared_heads: np.ndarray | None = None,
    overhead: int | None = None,
    groups: np.ndarray | None = None,
    padding_free: np.ndarray | None = None,
) -> list[MicroBatch]:
    """
    Cut rows into micro-batches under a token budget, padding included.

    The longest come first, so that a lack of memory shows at once. The cut depends on these arguments alone,
    never on the number of processes, so that any number of them computes the same micro-batches.

    Args:
        lengths (`np.ndarray` of shape `(rows,)`):
            Tokens to compute of each row, those of its shared head left out; rows of length 0 are skipped rows, which
            are left out.
        tokens_per_batch (`int`):
            Budget. A row longer than it gets a micro-batch of its own.
        shared_heads (`np.ndarray` of shape `(rows,)`, *optional*):
            Shared head of each row; only rows with the same one go together.
        overhead (`int`, *optional*):
            What a micro-batch costs on top of its tokens, in tokens: once its padding would cost more, another one is
            begun. By default a 16th of the budget.
        groups (`np.ndarray` of shape `(rows,)`, *optional*):
            A number for each row; only rows with the same one go together.
        padding_free (`np.ndarray` of shape `(rows,)`, *optional*):
            Whether each row goes end to end with others; all of a group do, or none.

    Returns:
        `list[MicroBatch]`: Every row of a positive length exactly once.

    Example:
    ```python
    >>> [batch.rows.tolist() for batch in cut_batches(np.array([30, 90, 0, 31]), tokens_per_batch=100)]
    [[1], [3, 0]]
    ```
    """
    shared_heads = np.zeros(len(lengths), dtype=np.int64) if shared_heads is None else shared_heads
    groups = np.zeros(len(lengths), dtype=np.int64) if groups is None else groups
    padding_free = np.zeros(len(lengths), dtype=bool) if padding_free is None else padding_free
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    kinds, kind_of = np.unique(np.stack([shared_heads, groups])[:, order], axis=1, return_inverse=True)
    together = np.split(order[np.argsort(kind_of, kind="stable")], np.cumsum(np.bincount(kind_of))[:-1])
    batches = []
    for shared_head, rows in zip(kinds[0].tolist(), together, strict=bool(len(order))):
        batch = MicroBatch(rows, lengths[rows], shared_head, bool(padding_free[rows[0]]))
        batches += _cut(batch, tokens_per_batch, overhead)
    return sorted(batches, key=lambda batch: -int(batch.lengths[0]))


def cut_again(batch: MicroBatch, tokens_per_batch: int) -> list[MicroBatch]:
    """Cut a micro-batch into parts under a smaller budget; one that is under it already stays whole."""
    return [batch] if batch.padded_tokens <= tokens_per_batch else _cut(batch, tokens_per_batch)


def _cut(batch: MicroBatch, tokens_per_batch: int, overhead: int | None = None) -> list[MicroBatch]:
    overhead = tokens_per_batch // 16 if overhead is None else overhead
    parts, start = [], 0
    while start < len(batch.rows):
        left = batch.lengths[start:]
        longest = int(left[0])
        if batch.is_padding_free:
            budget = min(tokens_per_batch, _MOST_END_TO_END)
            tokens = in_steps(np.cumsum(left[:budget]))
            fitting = (tokens <= budget) & (np.arange(1, len(tokens) + 1) * longest <= _MOST_PADDING * budget)
        else:
            fitting = np.cumsum(longest - left[: tokens_per_batch // longest]) <= overhead
        stop = start + max(1, int(fitting.sum()))
        parts.append(batch._replace(rows=batch.rows[start:stop], lengths=batch.lengths[start:stop]))
        start = stop
    return parts


def cost(batches: Sequence[MicroBatch], overhead: int) -> int:
    """Cost of a plan, in tokens, if each micro-batch costs `overhead` on top of its own."""
    return sum(batch.padded_tokens + overhead for batch in batches)


def deal(batches: Sequence[MicroBatch], num_processes: int) -> list[list[MicroBatch]]:
    """
    Deal micro-batches to processes by cost: each, the dearest first, to the process with the least to do.

    Returns:
        `list[list[MicroBatch]]`: For each process its micro-batches in the order of the plan.
    """
    loads = [(0, process) for process in range(num_processes)]
    shares: list[list[int]] = [[] for _ in range(num_processes)]
    for position in sorted(range(len(batches)), key=lambda i: -batches[i].padded_tokens):
        load, process = heapq.heappop(loads)
        shares[process].append(position)
        heapq.heappush(loads, (load + batches[position].padded_tokens, process))
    return [[batches[position] for position in sorted(share)] for share in shares]
