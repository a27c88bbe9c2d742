"""The plan of a run: which rows go together in a micro-batch, and which process takes which micro-batch."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class MicroBatch(NamedTuple):
    """Rows that go through the model together."""

    rows: np.ndarray  # positions in the dataset, longest row first
    padded_tokens: int  # number of rows times the longest one: what the forward pass costs


def cut_batches(lengths: np.ndarray, tokens_per_batch: int) -> list[MicroBatch]:
    """
    Cut rows into micro-batches under a token budget, padding included.

    The longest come first, so that a lack of memory shows at once. The cut depends on the lengths and the budget
    alone, never on the number of processes, so that any number of them computes the same micro-batches.

    Args:
        lengths (`np.ndarray` of shape `(rows,)`):
            Tokens of each row; rows of length 0 are skipped rows and are left out.
        tokens_per_batch (`int`):
            Budget. A row longer than it gets a micro-batch of its own.

    Returns:
        `list[MicroBatch]`: Every row of a positive length exactly once.

    Example:
    ```python
    >>> [batch.rows.tolist() for batch in cut_batches(np.array([3, 9, 0, 4]), tokens_per_batch=10)]
    [[1], [3, 0]]
    ```
    """
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    batches, start = [], 0
    while start < len(order):
        longest = int(lengths[order[start]])
        rows = order[start : start + max(1, tokens_per_batch // longest)]
        batches.append(MicroBatch(rows, len(rows) * longest))
        start += len(rows)
    return batches


def deal(batches: Sequence[MicroBatch], num_processes: int) -> list[list[int]]:
    """
    Deal micro-batches to processes by cost: each, the dearest first, to the process with the least to do.

    Returns:
        `list[list[int]]`: For each process the indices of its micro-batches, ascending.
    """
    loads = [(0, process) for process in range(num_processes)]
    shares: list[list[int]] = [[] for _ in range(num_processes)]
    for index in sorted(range(len(batches)), key=lambda i: -batches[i].padded_tokens):
        load, process = heapq.heappop(loads)
        shares[process].append(index)
        heapq.heappush(loads, (load + batches[index].padded_tokens, process))
    return [sorted(share) for share in shares]
