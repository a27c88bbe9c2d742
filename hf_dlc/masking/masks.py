"""
Which weights are zero at a masked fraction: pure functions on tensors, in place and chunk by chunk.

Every weight has a hash that depends on nothing but the seed, the canonical name of its parameter and its flat index.
Random masking zeroes the weights whose hash, read as a number in [0, 1), lies below the masked fraction. Magnitude
masking zeroes the smallest weights, and the hash decides between weights of the same size. Both are nested: what is
zero at a masked fraction is zero at every larger one.

The masking idea is that of Jiang et al., "Exploring Learning Complexity for Efficient Downstream Dataset Pruning",
ICLR 2025.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch


# Weights handled at a time. On a CPU the few int32 buffers of a chunk stay in the second-level cache; other devices
# need longer pieces to be busy. The result does not depend on it.
_CPU_CHUNK = 2**17  # for each thread
_DEVICE_CHUNK = 2**24

_WORD = 2**32
_INT32_MAX = 2**31 - 1
_INT64_MAX = 2**63 - 1
_DIGIT_BITS = 16
_RADIX = 2**_DIGIT_BITS
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes an element


@dataclass(frozen=True)
class WeightMatrix:
    """
    A weight matrix and where it stands, which is all that its mask depends on.

    Args:
        weights (`torch.Tensor`):
            Weights of any shape and strides, masked in place. float64 weights are compared after rounding to float32.
        name (`str`):
            Canonical name of the parameter that the matrix belongs to.
        first_index (`int`, *optional*, defaults to 0):
            Flat index, within that parameter, of the first weight: not 0 for an expert of a mixture.
        position (`int`, *optional*, defaults to 0):
            Number of weights before the first one within the scope of a threshold. It decides between weights of the
            same size and hash, which exist only in different parameters or 2^32 weights apart.
    """

    weights: torch.Tensor
    name: str
    first_index: int = 0
    position: int = 0


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


def random_mask_(matrix: WeightMatrix, masked_fraction: float, seed: int = 0) -> None:
    """
    Zero, in place, each weight whose hash lies below `masked_fraction`.

    Args:
        matrix (`WeightMatrix`):
            Weights to mask.
        masked_fraction (`float`):
            Share of the weights to set to zero, in [0, 1). The number of zeros is binomial, not exact.
        seed (`int`, *optional*, defaults to 0):
            Seed of the hash.

    Example:
    ```python
    >>> import torch
    >>> weights = torch.ones(4, 1000)
    >>> random_mask_(WeightMatrix(weights, "layer.weight"), 0.25)
    >>> 0.2 < (weights == 0).float().mean() < 0.3
    tensor(True)
    ```
    """
    if masked_fraction == 0:
        return
    # u = (hash + 2^31) / 2^32 is in [0, 1), and u < fraction means hash + 2^31 < ceil(fraction * 2^32).
    last = math.ceil(masked_fraction * _WORD) - 1 - 2**31
    for start, piece in _chunks(matrix.weights):
        keep = _hashes(matrix, seed, start, piece.numel(), _counter(piece))
        _zero_(piece, keep.gt_(last))


def magnitude_mask_(matrix: WeightMatrix, threshold: Threshold, seed: int = 0) -> None:
    """
    Zero, in place, each weight whose sort key is not above `threshold`.

    Weights that are zero already stay so, therefore a mask may be put over the smaller masks of the same weights.

    Args:
        matrix (`WeightMatrix`):
            Weights to mask.
        threshold (`Threshold`):
            Threshold from [`magnitude_thresholds`].
        seed (`int`, *optional*, defaults to 0):
            Seed that the threshold was found with.
    """
    if threshold.magnitude < 0:
        return
    every_tie = threshold.hash == _INT32_MAX and threshold.position == _INT64_MAX
    for start, piece in _chunks(matrix.weights):
        keys = _Keys.of(matrix, seed, start, piece)
        ties = None if every_tie else (keys.magnitude == threshold.magnitude).nonzero().view(-1)
        keep = keys.magnitude > threshold.magnitude
        if ties is not None:
            keep[ties] = keys.at(ties).tie_is_above(threshold)
        _zero_(piece, keep)


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


def count_zeros(weights: torch.Tensor) -> int:
    """
    Number of weights that are zero, of either sign.

    Args:
        weights (`torch.Tensor`):
            Floating-point tensor of any shape.

    Returns:
        `int`: Number of zeros.

    Example:
    ```python
    >>> import torch
    >>> count_zeros(torch.tensor([0.0, -0.0, 1.0, float("nan")]))
    2
    ```
    """
    counts = []
    for _, piece in _chunks(weights):
        bits = _bits(piece)  # integers are counted several times faster than floats
        counts.append(torch.count_nonzero(bits & torch.iinfo(bits.dtype).max))
    return weights.numel() - int(torch.stack(counts).sum()) if counts else 0


def _chunks(weights: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Views that cover `weights` in order of the flat index, each with the flat index of its first weight."""
    size = _CPU_CHUNK * torch.get_num_threads() if weights.device.type == "cpu" else _DEVICE_CHUNK
    if weights.is_contiguous():
        flat = weights.view(-1)
        for start in range(0, len(flat), size):
            yield start, flat[start : start + size]
        return
    row = weights[0].numel()
    if row > size:
        for i, part in enumerate(weights):
            for start, piece in _chunks(part):
                yield i * row + start, piece
        return
    rows = size // row
    for i in range(0, len(weights), rows):
        yield i * row, weights[i : i + rows]


def _bits(piece: torch.Tensor) -> torch.Tensor:
    return piece.view(_INTEGERS[piece.dtype.itemsize])


def _zero_(piece: torch.Tensor, keep: torch.Tensor) -> None:
    """Zero the weights of `piece` where the flat `keep` is 0 or False; where it is 1 or True they stay as they are."""
    bits = _bits(piece)
    # Minus one is all ones, so AND keeps every bit, NaN payloads included; far faster than `masked_fill_` on a CPU.
    bits.bitwise_and_(keep.to(bits.dtype).neg_().view(bits.shape))


# The hash of a weight


def _key(seed: int, name: str, high_word: int) -> tuple[int, int]:
    digest = hashlib.blake2b(f"{int(seed)}/{high_word}/{name}".encode(), digest_size=8).digest()
    return struct.unpack("<ii", digest)


def _counter(piece: torch.Tensor) -> torch.Tensor:
    return _count_up(piece.numel(), piece.device)


@lru_cache(maxsize=2)  # making it takes as long as three steps of the hash, and nearly all chunks are of one size
def _count_up(length: int, device: torch.device) -> torch.Tensor:
    return torch.arange(length, dtype=torch.int32, device=device)


def _hashes(matrix: WeightMatrix, seed: int, start: int, length: int, index: torch.Tensor) -> torch.Tensor:
    """
    Hashes (int32) of the weights `start + index` of a matrix, `index` (integers in [0, `length`), flat) from a chunk.

    The flat index in the parameter has 64 bits: the low word is hashed, the high word is part of the key. For one key
    the hash is a bijection of the low word, so that within 2^32 weights no two hashes are the same.
    """
    high_word, low_word = divmod(matrix.first_index + start, _WORD)
    hashes = _mix(index.to(torch.int32, copy=True), low_word, _key(seed, matrix.name, high_word))
    if low_word + length > _WORD:  # the chunk lies across a change of the high word
        after = _mix(index.to(torch.int32, copy=True), low_word, _key(seed, matrix.name, high_word + 1))
        hashes = torch.where(index + low_word >= _WORD, after, hashes)
    return hashes


def _mix(words: torch.Tensor, low_word: int, key: tuple[int, int]) -> torch.Tensor:
    """Hash of the counters `low_word + words` under a key, in place."""
    scratch = torch.empty_like(words)
    words.add_(_signed(low_word + key[0]))  # integers wrap around alike on every device
    _finalise_(words, scratch)
    words.bitwise_xor_(key[1])  # a second keyed round: without it, streams of different keys would be shifted copies
    _finalise_(words, scratch)
    return words


def _finalise_(words: torch.Tensor, scratch: torch.Tensor) -> None:
    """Apply "lowbias32" in place: a public-domain bijection of 32-bit words with very little bias."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, None)):
        torch.bitwise_right_shift(words, shift, out=scratch)
        scratch.bitwise_and_(2 ** (32 - shift) - 1)  # torch shifts the sign in; the hash wants zeros
        words.bitwise_xor_(scratch)
        if factor is not None:
            words.mul_(_signed(factor))


def _signed(word: int) -> int:
    """The int32 with the low 32 bits of `word`."""
    return (word + 2**31) % _WORD - 2**31


# Sort keys of magnitude masking

_LAST_DIGIT = 6  # digits of a key: 0-1 magnitude, 2-3 hash, 4-6 position (48 bits)


@dataclass(frozen=True)
class _Keys:
    """Sort keys of weights in a chunk: of those at `index`, or of all. Hashes are computed only when asked for."""

    matrix: WeightMatrix
    seed: int
    start: int
    length: int
    magnitude: torch.Tensor
    index: torch.Tensor | None = None

    @classmethod
    def of(cls, matrix: WeightMatrix, seed: int, start: int, piece: torch.Tensor) -> _Keys:
        return cls(matrix, seed, start, piece.numel(), _magnitude_bits(piece))

    def at(self, chosen: torch.Tensor) -> _Keys:
        """Keys at the positions `chosen` (int64) among these."""
        index = chosen if self.index is None else self.index[chosen]
        return replace(self, magnitude=self.magnitude[chosen], index=index)

    def hashes(self) -> torch.Tensor:
        index = _counter(self.magnitude) if self.index is None else self.index
        return _hashes(self.matrix, self.seed, self.start, self.length, index)

    def positions(self) -> torch.Tensor:
        index = _counter(self.magnitude).long() if self.index is None else self.index
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


# Radix selection


@dataclass
class _Search:
    """How far one threshold is found: its digits so far, and how many of the keys that begin so are masked."""

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
    """Threshold from the digits that were looked at; those that were not are as large as they can be."""
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
        for start, piece in _chunks(matrix.weights):
            _add_counts(counts, _Keys.of(matrix, seed, start, piece), digits, local_tables)
        total += counts.cpu()
    return total.view(slots, _RADIX)


def _add_counts(counts: torch.Tensor, keys: _Keys, digits: Sequence[int], tables: Sequence[torch.Tensor]) -> None:
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
