"""Blocks of encoded rows as Arrow tables, and back without a copy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from hf_dlc.scores.columns import SCORED_STATUSES
from hf_dlc.tasks.facts import RowFacts

from .packed import Block


_IDS, _MARKS = (pa.large_list(pa.field("item", kind, nullable=False)) for kind in (pa.int32(), pa.uint8()))
_SCHEMA = pa.schema(
    [
        pa.field("input_ids", _IDS, nullable=False),
        pa.field("targets", _MARKS, nullable=False),  # 1 for a token that is learned from
        pa.field("shared_head", pa.int64(), nullable=False),
        pa.field("status", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("why", pa.string(), nullable=False),
    ]
)


def table_of(block: Block) -> pa.Table:
    """The rows of a block, one a row, for [`block_of_table`]."""
    starts = pa.array(np.concatenate([[0], block.ends]), pa.int64())
    tokens = [
        pa.LargeListArray.from_arrays(starts, pa.array(values, kind.value_type), type=kind)
        for values, kind in ((block.input_ids, _IDS), (block.targets.view(np.uint8), _MARKS))
    ]
    heads = pa.array(block.facts.shared_heads, pa.int64())
    status = pa.array(block.facts.statuses, pa.string()).dictionary_encode()
    whys = pa.array([block.whys.get(place, "") for place in range(len(block.ends))], pa.string())
    return pa.Table.from_arrays([*tokens, heads, status, whys], schema=_SCHEMA)


def block_of_table(table: pa.Table, most_ids: int, head_lengths: Sequence[int]) -> Block:
    """
    The rows of a table, whose memory they share.

    Args:
        table (`pyarrow.Table`):
            What [`table_of`] made, or what somebody else wrote into its place.
        most_ids (`int`):
            Token ids must be smaller.
        head_lengths (`Sequence[int]`):
            Tokens of each shared head.

    Returns:
        [`Block`]

    Raises:
        ValueError: If the table cannot be one that [`table_of`] made.
    """
    if not table.schema.equals(_SCHEMA):
        raise ValueError("its columns are not those of encoded rows")
    table.validate(full=True)
    ids, targets, heads, status, whys = map(_one_array, table.columns)
    (ids, ends), (targets, other_ends) = _tokens_of(ids), _tokens_of(targets)
    if not np.array_equal(ends, other_ends):
        raise ValueError("its rows have more tokens than marks, or fewer")
    if ids.min(initial=0) < 0 or ids.max(initial=0) >= most_ids or targets.max(initial=0) > 1:
        raise ValueError("it has tokens that the model does not know, or marks other than 0 and 1")
    lengths, targets = np.diff(ends, prepend=0), targets.view(bool)
    target_tokens = np.diff(np.concatenate([[0], np.cumsum(targets, dtype=np.int64)])[ends], prepend=0)
    heads = heads.to_numpy()
    if heads.min(initial=0) < 0 or heads.max(initial=0) >= len(head_lengths):
        raise ValueError("it has rows that begin with an unknown head")
    found = lengths, target_tokens, heads, np.asarray(head_lengths, np.int64)[heads]
    statuses = np.asarray(status.dictionary.to_pylist(), object)[status.indices.to_numpy()]
    if not np.array_equal(target_tokens > 0, np.isin(statuses, list(SCORED_STATUSES))) or (found[3] > lengths).any():
        raise ValueError("it has rows whose tokens are not those of their status or head")
    reasons = {place: why for place, why in enumerate(whys.to_pylist()) if why}
    return Block(ids, targets, ends, RowFacts(*found, statuses), reasons)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array; `combine_chunks` would copy it in any case."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _tokens_of(column: pa.LargeListArray) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of all rows, and where those of each row end."""
    offsets = column.offsets.to_numpy()
    return column.values.to_numpy()[offsets[0] : offsets[-1]], offsets[1:] - offsets[0]
