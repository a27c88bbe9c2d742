"""
A hash of every weight, which depends on nothing but the seed, the canonical name of its parameter and its flat index.

Weights are read in chunks of the flat index, which bounds the memory; hashes do not depend on the chunks.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch


# Weights handled at a time. On a CPU the few int32 buffers of a chunk stay in the second-level cache; other devices
# need longer pieces to be busy. The result does not depend on it.
_CPU_CHUNK = 2**17  # for each thread
_DEVICE_CHUNK = 2**24

WORD = 2**32


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


def chunks(weights: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
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
            for start, piece in chunks(part):
                yield i * row + start, piece
        return
    rows = size // row
    for i in range(0, len(weights), rows):
        yield i * row, weights[i : i + rows]


def counter(piece: torch.Tensor) -> torch.Tensor:
    """Numbers from 0 (int32), one for each weight of a piece, on its device. They are shared: not to be written."""
    return _count_up(piece.numel(), piece.device)


@lru_cache(maxsize=2)  # making it takes as long as three steps of the hash, and nearly all chunks are of one size
def _count_up(length: int, device: torch.device) -> torch.Tensor:
    return torch.arange(length, dtype=torch.int32, device=device)


def hashes_of(matrix: WeightMatrix, seed: int, start: int, length: int, index: torch.Tensor) -> torch.Tensor:
    """
    Hashes of weights of a chunk of a matrix.

    The flat index in the parameter has 64 bits: the low word is hashed, the high word is part of the key. For one key
    the hash is a bijection of the low word, so that within 2^32 weights no two hashes are the same.

    Args:
        matrix (`WeightMatrix`):
            Matrix that the chunk is from.
        seed (`int`):
            Seed of the hash.
        start (`int`):
            Flat index, in the matrix, of the first weight of the chunk.
        length (`int`):
            Number of weights of the chunk.
        index (`torch.Tensor`):
            Flat integers in [0, `length`): which weights of the chunk.

    Returns:
        `torch.Tensor`: int32, of the shape of `index`.
    """
    high_word, low_word = divmod(matrix.first_index + start, WORD)
    hashes = _mix(index.to(torch.int32, copy=True), low_word, _key(seed, matrix.name, high_word))
    if low_word + length > WORD:  # the chunk lies across a change of the high word
        after = _mix(index.to(torch.int32, copy=True), low_word, _key(seed, matrix.name, high_word + 1))
        hashes = torch.where(index + low_word >= WORD, after, hashes)
    return hashes


def _key(seed: int, name: str, high_word: int) -> tuple[int, int]:
    digest = hashlib.blake2b(f"{int(seed)}/{high_word}/{name}".encode(), digest_size=8).digest()
    return struct.unpack("<ii", digest)


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
    return (word + 2**31) % WORD - 2**31
