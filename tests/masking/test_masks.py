from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.nn.utils import prune

from hf_dlc.masking import hashes as hashes_module
from hf_dlc.masking.hashes import WeightMatrix
from hf_dlc.masking.masks import count_zeros, magnitude_mask_, random_mask_
from hf_dlc.masking.thresholds import Threshold, magnitude_thresholds


NAME = "model.layers.0.mlp.up_proj.weight"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FRACTIONS = (0.0, 0.001, 0.05, 0.3, 0.5, 0.98)


def reference_hashes(seed: int, name: str, index: np.ndarray) -> np.ndarray:
    """The hash of a weight written a second time, in unsigned arithmetic; signed in the end."""

    def finalise(x: np.ndarray) -> np.ndarray:
        x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
        x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
        return x ^ (x >> 16)

    index = index.astype(np.uint64)
    hashes = np.empty_like(index)
    for high in np.unique(index >> np.uint64(32)):
        key = hashlib.blake2b(f"{seed}/{int(high)}/{name}".encode(), digest_size=8).digest()
        first, second = (np.uint64(int.from_bytes(part, "little")) for part in (key[:4], key[4:]))
        chosen = index >> np.uint64(32) == high
        hashes[chosen] = finalise(finalise((index[chosen] + first) % 2**32) ^ second)
    return hashes.astype(np.uint32).view(np.int32)


def hashes_of(seed: int, name: str, count: int, first_index: int = 0) -> np.ndarray:
    matrix = WeightMatrix(torch.zeros(count), name, first_index)
    return hashes_module.hashes_of(matrix, seed, 0, count, torch.arange(count)).numpy()


def reference_masks(
    tensors: Sequence[torch.Tensor], names: Sequence[str], fractions: Sequence[float], seed: int
) -> list[np.ndarray]:
    """What magnitude masking zeroes, by a full sort of (|weight|, hash, place); flat, over all tensors."""
    values = np.concatenate([tensor.double().abs().flatten().numpy() for tensor in tensors])
    values = np.where(np.isnan(values), np.inf, values)
    hashes = np.concatenate(
        [reference_hashes(seed, name, np.arange(tensor.numel())) for tensor, name in zip(tensors, names, strict=True)]
    )
    order = np.lexsort((np.arange(len(values)), hashes, values))
    result = []
    for fraction in fractions:
        masked = np.zeros(len(values), dtype=bool)
        masked[order[: round(fraction * len(values))]] = True
        result.append(masked)
    return result


def matrices_of(tensors: Sequence[torch.Tensor], names: Sequence[str]) -> list[WeightMatrix]:
    starts = np.cumsum([0, *(tensor.numel() for tensor in tensors)])
    return [
        WeightMatrix(tensor, name, position=int(start))
        for tensor, name, start in zip(tensors, names, starts, strict=False)
    ]


def check_magnitude(tensors: Sequence[torch.Tensor], fractions: Sequence[float], seed: int = 3) -> None:
    """Compare the masks under one threshold with those of the full sort, and what is left bit for bit."""
    names = [f"layers.{i}.weight" for i in range(len(tensors))]
    thresholds = magnitude_thresholds(matrices_of(tensors, names), fractions, seed)
    expected = reference_masks(tensors, names, fractions, seed)
    for threshold, masked in zip(thresholds, expected, strict=True):
        copies = [tensor.clone() for tensor in tensors]
        for matrix in matrices_of(copies, names):
            magnitude_mask_(matrix, threshold, seed)
        start = 0
        for tensor, copy in zip(tensors, copies, strict=True):
            part = torch.from_numpy(masked[start : start + tensor.numel()]).view(tensor.shape)
            bits = torch.int16 if tensor.dtype.itemsize == 2 else torch.int32
            assert torch.equal(copy.view(bits), tensor.masked_fill(part, 0.0).view(bits))
            start += tensor.numel()


def normal(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.05).to(dtype)


class TestHash:
    def test_golden_values(self) -> None:
        """Masks of published scores depend on these numbers: they never change."""
        assert hashes_of(0, NAME, 4).tolist() == [-152828298, 1375506909, -1160637387, -1174058409]
        assert hashes_of(1, NAME, 2).tolist() == [1973586473, -744872598]
        assert hashes_of(0, NAME, 4, first_index=2**32 - 2).tolist() == [
            1454476671,
            1070569544,
            -982164489,
            1354535328,
        ]

    @pytest.mark.parametrize("first_index", [0, 12_345, 2**31 - 500, 2**32 - 500, 5 * 2**32 - 500, 2**40])
    def test_against_unsigned_arithmetic(self, first_index: int) -> None:
        expected = reference_hashes(7, NAME, np.arange(1000) + first_index)
        assert np.array_equal(hashes_of(7, NAME, 1000, first_index), expected)

    def test_no_two_weights_share_a_hash(self) -> None:
        assert len(np.unique(hashes_of(0, NAME, 2**20))) == 2**20

    @pytest.mark.parametrize("shift", [0, 12, 24])
    def test_every_byte_is_uniform(self, shift: int) -> None:
        counts = np.bincount((hashes_of(0, NAME, 2**20).view(np.uint32) >> shift) & 255, minlength=256)
        assert 1e-4 < stats.chisquare(counts).pvalue < 1 - 1e-4

    def test_uniform_over_many_names_and_seeds(self) -> None:
        first = [hashes_of(seed, f"layers.{i}.weight", 1)[0] for i in range(64) for seed in range(64)]
        counts = np.bincount(np.array(first, dtype=np.int32).view(np.uint32) >> 24, minlength=256)
        assert 1e-4 < stats.chisquare(counts).pvalue < 1 - 1e-4

    @pytest.mark.parametrize("lag", [1, 2, 64, 576, 4096])
    def test_neighbours_are_independent(self, lag: int) -> None:
        masked = hashes_of(0, NAME, 2**20) < -(2**31) + 0.1 * 2**32
        assert abs(np.corrcoef(masked[:-lag], masked[lag:])[0, 1]) < 4 / 2**10

    @pytest.mark.parametrize(
        ("seed", "name"), [(1, NAME), (-1, NAME), (0, "model.layers.1.mlp.up_proj.weight"), (0, NAME + "s")]
    )
    def test_names_and_seeds_are_independent(self, seed: int, name: str) -> None:
        one, other = hashes_of(0, NAME, 2**20), hashes_of(seed, name, 2**20)
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / 2**10
        assert abs(np.corrcoef(one[1:], other[:-1])[0, 1]) < 4 / 2**10


class TestRandom:
    @pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
    @pytest.mark.parametrize("fraction", [0.0, 1e-3, 0.1, 0.5, 0.999])
    def test_zeroes_hashes_below_the_fraction(self, dtype: torch.dtype, fraction: float) -> None:
        weights = torch.full((100, 200), -1.5, dtype=dtype)
        random_mask_(WeightMatrix(weights, NAME), fraction, seed=5)
        share = (reference_hashes(5, NAME, np.arange(20_000)).astype(np.float64) + 2**31) / 2**32
        expected = torch.where(torch.from_numpy(share < fraction).view(100, 200), 0.0, -1.5)
        assert torch.equal(weights.double(), expected.double())

    def test_a_fraction_is_an_open_bound(self) -> None:
        share = (int(hashes_of(0, NAME, 1)[0]) + 2**31) / 2**32
        for fraction, masked in ((share, False), (share + 2**-32, True), (share + 2**-34, True)):
            weights = torch.ones(1)
            random_mask_(WeightMatrix(weights, NAME), fraction)
            assert (count_zeros(weights) == 1) is masked

    def test_count_is_as_likely_as_binomial(self) -> None:
        for fraction in (0.01, 0.2, 0.7):
            weights = torch.ones(500, 500)
            random_mask_(WeightMatrix(weights, NAME), fraction)
            sigma = (250_000 * fraction * (1 - fraction)) ** 0.5
            assert abs(count_zeros(weights) - 250_000 * fraction) < 4 * sigma

    def test_split_matrices_are_masked_as_a_whole_one(self) -> None:
        whole = torch.ones(4, 30, 20)
        random_mask_(WeightMatrix(whole, NAME), 0.3)
        for i in range(4):
            part = torch.ones(30, 20)
            random_mask_(WeightMatrix(part, NAME, first_index=600 * i), 0.3)
            assert torch.equal(part, whole[i])

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.floats(0, 0.999), min_size=2, max_size=2), st.integers(0, 2**63))
    def test_nested(self, fractions: list[float], seed: int) -> None:
        smaller, larger = torch.ones(500), torch.ones(500)
        random_mask_(WeightMatrix(smaller, NAME), min(fractions), seed)
        random_mask_(WeightMatrix(larger, NAME), max(fractions), seed)
        assert bool(((smaller != 0) | (larger == 0)).all())


class TestMagnitude:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_normal_weights(self, dtype: torch.dtype) -> None:
        check_magnitude([normal((300, 200), dtype)], FRACTIONS)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_many_ties(self, dtype: torch.dtype) -> None:
        weights = torch.randint(-2, 3, (100, 101), generator=torch.Generator().manual_seed(1)).to(dtype)
        check_magnitude([weights], FRACTIONS)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_all_weights_alike(self, dtype: torch.dtype) -> None:
        check_magnitude([torch.full((50, 41), -0.5, dtype=dtype)], FRACTIONS)

    def test_zeros_infinities_and_the_smallest_numbers(self) -> None:
        weights = normal((64, 64))
        weights.view(-1)[::3] = 0.0
        weights.view(-1)[1::6] = -0.0
        weights.view(-1)[2::7] = torch.tensor(1e-44)
        weights.view(-1)[3::11] = float("inf")
        check_magnitude([weights], FRACTIONS)
        check_magnitude([weights.half(), weights.bfloat16()], FRACTIONS)

    def test_nan_is_masked_last(self) -> None:
        weights = torch.tensor([float("nan"), 1.0, -float("inf"), 0.5])
        (threshold,) = magnitude_thresholds([WeightMatrix(weights, NAME)], [0.75])
        magnitude_mask_(WeightMatrix(weights, NAME), threshold)
        assert weights.isnan().tolist() == [True, False, False, False]
        assert count_zeros(weights) == 3

    def test_one_threshold_over_mixed_types(self) -> None:
        tensors = [normal((64, 30), dtype, seed) for seed, dtype in enumerate([*DTYPES, torch.float32])]
        check_magnitude(tensors, FRACTIONS)
        check_magnitude([tensor.bfloat16() for tensor in tensors], FRACTIONS)

    def test_float64_is_counted_exactly(self) -> None:
        weights = normal((100, 100)).double() + 1e-12
        (threshold,) = magnitude_thresholds([WeightMatrix(weights, NAME)], [0.25])
        magnitude_mask_(WeightMatrix(weights, NAME), threshold)
        assert count_zeros(weights) == 2500

    def test_counts_round_half_to_even(self) -> None:
        for size, fraction, count in [(10, 0.25, 2), (10, 0.35, 4), (10, 0.04, 0), (30, 0.05, 2), (50, 0.05, 2)]:
            weights = torch.arange(1.0, size + 1)
            (threshold,) = magnitude_thresholds([WeightMatrix(weights, NAME)], [fraction])
            magnitude_mask_(WeightMatrix(weights, NAME), threshold)
            assert count_zeros(weights) == count

    def test_many_levels_at_once(self) -> None:
        check_magnitude([normal((40, 50), torch.bfloat16)], [1 - 0.98**k for k in range(50)])

    @pytest.mark.parametrize("scope", [1, 3])
    def test_equal_hashes_are_told_apart_by_their_place(self, scope: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hashes_module, "_mix", lambda words, low_word, key: words.bitwise_and_(1))
        tensors = [torch.ones(7, 30) for _ in range(scope)]
        names = [str(i) for i in range(scope)]
        fractions = (0.1, 0.5, 0.6, 0.9)
        for fraction, threshold in zip(
            fractions, magnitude_thresholds(matrices_of(tensors, names), fractions), strict=True
        ):
            copies = [tensor.clone() for tensor in tensors]
            for matrix in matrices_of(copies, names):
                magnitude_mask_(matrix, threshold)
            masked = torch.cat([copy.flatten() for copy in copies]) == 0
            even_first = torch.cat([masked[::2], masked[1::2]])  # by hash, 0 before 1, then by place
            count = round(fraction * len(masked))
            assert even_first.tolist() == [True] * count + [False] * (len(masked) - count)

    def test_expert_in_the_middle_of_a_huge_parameter(self) -> None:
        weights = torch.ones(1000)
        matrix = WeightMatrix(weights, NAME, first_index=2**32 - 400)
        (threshold,) = magnitude_thresholds([matrix], [0.3])
        magnitude_mask_(matrix, threshold)
        hashes = reference_hashes(0, NAME, np.arange(1000) + 2**32 - 400)
        assert np.array_equal((weights == 0).numpy(), np.argsort(np.argsort(hashes)) < 300)

    def test_against_torch_prune(self) -> None:
        linear = torch.nn.Linear(64, 48, bias=False)
        linear.weight.data = normal((48, 64))  # no two alike, so that ties do not matter
        copy = linear.weight.detach().clone()
        (threshold,) = magnitude_thresholds([WeightMatrix(copy, NAME)], [0.4])
        magnitude_mask_(WeightMatrix(copy, NAME), threshold)
        assert torch.equal(prune.l1_unstructured(linear, "weight", amount=0.4).weight, copy)

    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(st.floats(0, 0.999), min_size=1, max_size=4),
        st.integers(1, 300),
        st.integers(1, 6),
        st.sampled_from(DTYPES),
    )
    def test_any_levels_on_any_ties(self, fractions: list[float], size: int, kinds: int, dtype: torch.dtype) -> None:
        values = torch.randint(-kinds, kinds + 1, (size,), generator=torch.Generator().manual_seed(size))
        check_magnitude([(values / 7).to(dtype)], sorted(fractions))

    def test_masks_may_be_put_over_smaller_ones(self) -> None:
        weights = normal((60, 60), torch.bfloat16)
        thresholds = magnitude_thresholds([WeightMatrix(weights, NAME)], FRACTIONS)
        over = weights.clone()
        for threshold in thresholds:
            fresh = weights.clone()
            magnitude_mask_(WeightMatrix(over, NAME), threshold)
            magnitude_mask_(WeightMatrix(fresh, NAME), threshold)
            assert torch.equal(over, fresh)

    def test_nothing_to_mask(self) -> None:
        assert magnitude_thresholds([WeightMatrix(torch.ones(3), NAME)], [0.0, 0.1]) == [Threshold(-1)] * 2
        assert magnitude_thresholds([WeightMatrix(torch.ones(3), NAME)], []) == []


class TestChunks:
    @pytest.mark.parametrize("chunk", [7, 64, 1000])
    @pytest.mark.parametrize("layout", ["plain", "transposed", "channels_last", "strided"])
    def test_results_do_not_depend_on_the_chunk(
        self, chunk: int, layout: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def weights() -> torch.Tensor:
            return {
                "plain": lambda: normal((12, 30)),
                "transposed": lambda: normal((30, 12)).T,
                "channels_last": lambda: normal((4, 5, 3, 3)).to(memory_format=torch.channels_last),
                "strided": lambda: normal((12, 60))[:, ::2],
            }[layout]()

        def results(tensor: torch.Tensor) -> tuple:
            by_random, by_magnitude = tensor.clone(), tensor.clone()
            random_mask_(WeightMatrix(by_random, NAME, first_index=2**32 - 100), 0.4)
            (threshold,) = magnitude_thresholds([WeightMatrix(by_magnitude, NAME)], [0.4])
            magnitude_mask_(WeightMatrix(by_magnitude, NAME), threshold)
            return by_random.tolist(), by_magnitude.tolist(), threshold, count_zeros(by_random)

        whole = results(weights().contiguous())
        monkeypatch.setattr(hashes_module, "_CPU_CHUNK", chunk)
        assert results(weights()) == whole

    def test_strided_views_are_written_through(self) -> None:
        base = torch.ones(10, 20)
        random_mask_(WeightMatrix(base[:, ::2], NAME), 0.5)
        assert count_zeros(base[:, ::2]) == count_zeros(base) > 0


def test_weights_that_stay_keep_every_bit() -> None:
    bits = torch.randint(-(2**15), 2**15, (5000,), generator=torch.Generator().manual_seed(0)).to(torch.int16)
    weights = bits.view(torch.bfloat16).clone()  # any pattern: negative zeros, subnormals, NaN with payloads
    random_mask_(WeightMatrix(weights, NAME), 0.5)
    after = weights.view(torch.int16)
    masked = torch.from_numpy(reference_hashes(0, NAME, np.arange(5000)) < 0)
    assert torch.equal(after, bits.masked_fill(masked, 0))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_count_zeros(dtype: torch.dtype) -> None:
    weights = torch.tensor([[0.0, -0.0, 1.0], [float("nan"), -2.0, 0.0]], dtype=dtype)
    assert count_zeros(weights) == 3
    assert count_zeros(weights.T) == 3
    assert count_zeros(weights[:, :0]) == 0
