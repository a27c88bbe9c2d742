"""
The largest magnitude that is masked: exact quantiles of |weight| for all masked fractions, found by histograms.

Weights are ordered by sort keys: magnitude, hash, and place. They are never sorted, gathered or copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from .hashes import WeightMatrix, chunks, counter, hashes_of


_INT32_MAX = 2**31 - 1
_INT64_MAX = 2**63 - 1
_DIGIT_BITS = 16
_RADIX = 2**_DIGIT_BITS
_LAST_DIGIT = 6  # digits of a key: 0-1 magnitude, 2-3 hash, 4-6 position (48 bits)


@dataclass(frozen=True)
class Threshold:
    """
    The largest sort key that is masked. Keys are (magnitude, hash, position), compared from left to right.

    Args:
        magnitude (`int`):
            Bits of the absolute value as float32, which are in the order of the values; -1 masks nothing.
        hash (`int`, *optional*, defaults to 2^31 - 1):
            Hash as a signed 32-bit integer. The default masks every weight of this magnitude.
        position (`int`, *optional*, defaults to 2^63 - 1):
            Place in the scope. The default masks every weight of this magnitude and hash.
    """

    magnitude: int
    hash: int = _INT32_MAX
    position: int = _INT64_MAX

    @property
    def takes_every_tie(self) -> bool:
        """Whether every weight of this magnitude is masked."""
        return self.hash == _INT32_MAX and self.position == _INT64_MAX


def magnitude_thresholds(
    matrices: Sequence[WeightMatrix], masked_fractions: Sequence[float], seed: int = 0
) -> list[Threshold]:
    """
    Exact thresholds for all masked fractions of one scope.

    At `masked_fractions[i]` exactly round-half-even(`masked_fractions[i]` * number of weights) keys are not above
    `result[i]`. Weights that are zero already count as the smallest ones, NaN as the largest.

    The thresholds are found digit by digit (radix selection). The first pass counts the highest 16-bit digit of every
    key, which tells in which bin each threshold lies and how many keys are below that bin. The next pass counts the
    next digit, of the keys in those few bins only, and so on: magnitude high and low, hash high and low, position.
    Nothing is sorted or gathered, so memory is bounded by the histograms; and a threshold is final as soon as a whole
    bin is masked, so the last digits are seldom looked at.

    Args:
        matrices (`Sequence[WeightMatrix]`):
            Weight matrices under one threshold: one matrix, or all of the model. They may be on several devices.
        masked_fractions (`Sequence[float]`):
            Shares of the weights to mask, each in [0, 1).
        seed (`int`, *optional*, defaults to 0):
            Seed of the hash.

    Returns:
        `list[Threshold]`: Threshold of each masked fraction.

    Example:
    ```python
    >>> import torch

    >>> from hf_dlc.masking.masks import magnitude_mask_

    >>> matrix = WeightMatrix(torch.tensor([[3.0, -1.0], [-2.0, 4.0]]), "layer.weight")
    >>> (threshold,) = magnitude_thresholds([matrix], [0.5])
    >>> magnitude_mask_(matrix, threshold)
    >>> matrix.weights
    tensor([[3., 0.],
            [0., 4.]])
    ```
    """
    total = sum(matrix.weights.numel() for matrix in matrices)
    searches = [_Search(round(fraction * total)) for fraction in masked_fractions]
    digits = list(range(_LAST_DIGIT + 1))
    if all(matrix.weights.dtype == torch.bfloat16 for matrix in matrices):
        digits.remove(1)  # the low half of a bfloat16 as float32 is zero
    for depth in range(len(digits)):
        open_searches = [search for search in searches if not search.found]
        if not open_searches:
            break
        tables, slots = _tables([search.prefix for search in open_searches])
        counts = _count_digit(matrices, seed, digits[: depth + 1], tables, len(slots))
        cumulated = counts.cumsum(1)
        for search in open_searches:
            slot = slots[search.prefix]
            search.narrow(counts[slot], cumulated[slot])
    return [_threshold(search, digits) for search in searches]


@dataclass(frozen=True)
class SortKeys:
    """Sort keys of weights in a chunk: of those at `index`, or of all. Hashes are computed only when asked for."""

    matrix: WeightMatrix
    seed: int
    start: int
    length: int
    magnitude: torch.Tensor
    index: torch.Tensor | None = None

    @classmethod
    def of(cls, matrix: WeightMatrix, seed: int, start: int, piece: torch.Tensor) -> SortKeys:
        return cls(matrix, seed, start, piece.numel(), _magnitude_bits(piece))

    def at(self, chosen: torch.Tensor) -> SortKeys:
        """Keys at the positions `chosen` (int64) among these."""
        index = chosen if self.index is None else self.index[chosen]
        return replace(self, magnitude=self.magnitude[chosen], index=index)

    def hashes(self) -> torch.Tensor:
        index = counter(self.magnitude) if self.index is None else self.index
        return hashes_of(self.matrix, self.seed, self.start, self.length, index)

    def positions(self) -> torch.Tensor:
        index = counter(self.magnitude).long() if self.index is None else self.index
        return index + (self.matrix.position + self.start)

    def digit(self, number: int) -> torch.Tensor:
        if number < 2:
            return _half(self.magnitude, number)
        if number < 4:
            return _half(self.hashes().bitwise_xor_(-(2**31)), number - 2)  # sign bit flipped: in the order of hashes
        return (self.positions() >> (_DIGIT_BITS * (_LAST_DIGIT - number))) & (_RADIX - 1)

    def tie_is_above(self, threshold: Threshold) -> torch.Tensor:
        """Whether these keys, which have the magnitude of the threshold, are above it."""
        hashes = self.hashes()
        above = hashes > threshold.hash
        if threshold.position < _INT64_MAX:
            above |= (hashes == threshold.hash) & (self.positions() > threshold.position)
        return above


def _magnitude_bits(piece: torch.Tensor) -> torch.Tensor:
    """
    Flat, fresh int32 in the order of |weight|.

    Bit patterns of non-negative floats are ordered as the floats are. float32 holds every float16 and bfloat16, so
    that weights of different types compare as their values do.
    """
    return piece.to(torch.float32, copy=True).flatten().view(torch.int32).bitwise_and_(_INT32_MAX)


def _half(words: torch.Tensor, half: int) -> torch.Tensor:
    """High (0) or low (1) half of 32-bit words, as numbers from 0 to 2^16 - 1."""
    return (words >> (_DIGIT_BITS * (1 - half))) & (_RADIX - 1)


@dataclass
class _Search:
    """Search for a threshold: its digits so far, and how many of the keys with them are to be masked."""

    remaining: int
    prefix: tuple[int, ...] = ()
    found: bool = False

    def __post_init__(self) -> None:
        self.found = self.remaining == 0

    def narrow(self, counts: torch.Tensor, cumulated: torch.Tensor) -> None:
        """Add the digit in whose bin the last masked key lies; done if all keys of that bin are masked."""
        digit = int(torch.searchsorted(cumulated, self.remaining))
        in_bin = int(counts[digit])
        self.remaining -= int(cumulated[digit]) - in_bin
        self.prefix += (digit,)
        self.found = self.remaining == in_bin


def _threshold(search: _Search, digits: Sequence[int]) -> Threshold:
    """Threshold made of the digits that were found; a digit that was not needed is as large as it can be."""
    if not search.prefix:
        return Threshold(-1)
    values = dict(zip(digits, search.prefix, strict=False))
    low_half = 0 if 1 not in digits and len(values) > 1 else _RADIX - 1  # digit 1 is left out where it is 0
    magnitude = values[0] * _RADIX + values.get(1, low_half)
    if 2 not in values:
        return Threshold(magnitude)
    hash_ = (values[2] * _RADIX + values.get(3, _RADIX - 1)) - 2**31
    if 4 not in values:
        return Threshold(magnitude, hash_)
    position = 0
    for digit in range(4, _LAST_DIGIT + 1):
        position = position * _RADIX + values.get(digit, _RADIX - 1)
    return Threshold(magnitude, hash_, position)


def _tables(prefixes: Sequence[tuple[int, ...]]) -> tuple[list[torch.Tensor], dict[tuple[int, ...], int]]:
    """
    A trie of prefixes as look-up tables, one a digit, and the slot of each whole prefix.

    Table d maps (slot of the first d digits) * 2^16 + (digit d) to the slot of the first d + 1 digits, or to -1 if no
    prefix begins so.
    """
    tables = []
    parents: dict[tuple[int, ...], int] = {(): 0}
    for length in range(1, len(prefixes[0]) + 1):
        nodes = {prefix: slot for slot, prefix in enumerate(sorted({prefix[:length] for prefix in prefixes}))}
        table = torch.full((len(parents) * _RADIX,), -1, dtype=torch.int16)
        for prefix, slot in nodes.items():
            table[parents[prefix[:-1]] * _RADIX + prefix[-1]] = slot
        tables.append(table)
        parents = nodes
    return tables, parents


def _count_digit(
    matrices: Sequence[WeightMatrix], seed: int, digits: Sequence[int], tables: Sequence[torch.Tensor], slots: int
) -> torch.Tensor:
    """Histogram of the last of `digits`, `(slots, 2^16)`, among the keys whose earlier digits are in `tables`."""
    total = torch.zeros(slots * _RADIX, dtype=torch.int64)
    for matrix in matrices:
        device = matrix.weights.device
        local_tables = [table.to(device) for table in tables]
        counts = torch.zeros(slots * _RADIX, dtype=torch.int64, device=device)
        for start, piece in chunks(matrix.weights):
            _add_counts(counts, SortKeys.of(matrix, seed, start, piece), digits, local_tables)
        total += counts.cpu()
    return total.view(slots, _RADIX)


def _add_counts(counts: torch.Tensor, keys: SortKeys, digits: Sequence[int], tables: Sequence[torch.Tensor]) -> None:
    if not tables:
        counts += torch.bincount(keys.digit(digits[0]), minlength=_RADIX)
        return
    slot = 0
    for digit, table in zip(digits, tables, strict=False):
        slot = table.index_select(0, keys.digit(digit) + slot * _RADIX)
        inside = (slot >= 0).nonzero().view(-1)
        slot, keys = slot[inside].long(), keys.at(inside)
    bins = keys.digit(digits[-1]) + slot * _RADIX
    counts.scatter_add_(0, bins, torch.ones_like(bins))
