"""Agreement of scores and shift of subsets, against other ways to compute them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import linalg, stats
from scipy.spatial.distance import jensenshannon

from hf_dlc.report.measurements import ScoreAgreement, SubsetShift
from tests.conftest import run_python


RNG = np.random.default_rng(0)


def test_agreement() -> None:
    left = RNG.normal(size=50)
    right = left + RNG.normal(size=50)
    left[3] = right[5] = np.nan
    known = ~np.isnan(left + right)
    found = ScoreAgreement().compute(left=left, right=right, keep=0.3)
    assert found["spearman"] == pytest.approx(stats.spearmanr(left[known], right[known]).statistic)
    assert found["kendall"] == pytest.approx(stats.kendalltau(left[known], right[known]).statistic)
    kept = 15  # of all 50 rows, not of the 48 with both scores
    tops = [set(np.argsort(-values[known])[:kept]) for values in (left, right)]
    assert found["overlap_high"] == len(tops[0] & tops[1]) / kept
    bottoms = [set(np.argsort(values[known])[:kept]) for values in (left, right)]
    assert found["overlap_low"] == len(bottoms[0] & bottoms[1]) / kept


def test_agreement_with_itself_and_its_opposite() -> None:
    scores = [0.1, 0.5, 0.3, 0.9]
    same = ScoreAgreement().compute(left=scores, right=scores, keep=2)
    assert same == {"spearman": 1.0, "kendall": 1.0, "overlap_high": 1.0, "overlap_low": 1.0}
    opposite = ScoreAgreement().compute(left=scores, right=[-score for score in scores], keep=2)
    assert opposite == {"spearman": -1.0, "kendall": -1.0, "overlap_high": 0.0, "overlap_low": 0.0}


def test_nothing_has_shifted_where_all_is_kept() -> None:
    found = SubsetShift().compute(
        kept=[True] * 20,
        lengths=list(range(1, 21)),
        groups=["a", "b"] * 10,
        texts=["one two", "three"] * 10,
        embeddings=RNG.normal(size=(20, 3)),
    )
    assert found.pop("length_ratio") == 1
    assert found == pytest.approx(dict.fromkeys(found, 0.0), abs=1e-9)
    assert found.keys() == {"length_distance", "group_distance", "word_distance", "mmd", "frechet"}


def test_lengths_and_groups() -> None:
    kept, lengths = np.arange(40) % 3 == 0, RNG.integers(1, 30, 40)
    groups = np.where(np.arange(40) < 30, "a", None)
    found = SubsetShift().compute(kept=kept, lengths=lengths, groups=groups.tolist())
    assert found["length_ratio"] == pytest.approx(lengths[kept].mean() / lengths.mean())
    assert found["length_distance"] == pytest.approx(stats.ks_2samp(lengths[kept], lengths).statistic)
    assert found["group_distance"] == pytest.approx(abs(np.mean(groups[kept] == "a") - 0.75))


def test_words() -> None:
    texts = ["red red blue", "blue green", "Red!"]
    found = SubsetShift().compute(kept=[True, False, True], lengths=[1, 1, 1], texts=texts)
    whole, part = np.array([3, 2, 1]) / 6, np.array([3, 1, 0]) / 4  # red, blue, green
    assert found["word_distance"] == pytest.approx(jensenshannon(part, whole, base=2))


def test_embeddings() -> None:
    points = RNG.normal(size=(300, 4))
    points[:60] += 1.5  # the kept ones are elsewhere
    kept = np.arange(300) < 60
    found = SubsetShift().compute(kept=kept, lengths=np.ones(300), embeddings=points)
    means = points[kept].mean(axis=0) - points.mean(axis=0)
    first, second = (np.cov(values, rowvar=False, bias=True) for values in (points[kept], points))
    expected = means @ means + np.trace(first + second - 2 * linalg.sqrtm(first @ second).real)
    assert found["frechet"] == pytest.approx(expected)
    drawn = np.isin(np.arange(300), RNG.permutation(300)[:60])
    random = SubsetShift().compute(kept=drawn, lengths=np.ones(300), embeddings=points)
    assert found["mmd"] > 10 * abs(random["mmd"])
    assert found["frechet"] > 5 * random["frechet"]


def test_mmd_of_random_subsets_is_around_zero() -> None:
    """A row that is in both samples must not pull them together."""
    points = RNG.normal(size=(30, 3))

    def mmd(kept: np.ndarray) -> float:
        return SubsetShift().compute(kept=kept, lengths=np.ones(30), embeddings=points)["mmd"]

    found = [mmd(np.isin(np.arange(30), RNG.permutation(30)[:10])) for _ in range(100)]
    assert abs(np.mean(found)) < 3 * np.std(found) / 10
    assert min(found) < 0 < max(found)
    assert np.isnan(mmd(np.arange(30) == 4))


def test_texts_of_a_filtered_table() -> None:
    """Its index is not the number of the row."""
    texts = ["red red blue", "blue green", "Red!"]
    expected = SubsetShift().compute(kept=[True, False, True], lengths=[1, 1, 1], texts=texts)
    found = SubsetShift().compute(kept=[True, False, True], lengths=[1, 1, 1], texts=pd.Series(texts, index=[2, 0, 1]))
    assert found == expected


def test_overlap_of_more_rows_than_there_are() -> None:
    with pytest.raises(ValueError, match="at most 2 rows, those with both scores, got 3"):
        ScoreAgreement().compute(left=[1.0, 2.0, np.nan], right=[1.0, 2.0, 3.0], keep=3)


def test_nothing_kept() -> None:
    with pytest.raises(ValueError, match="at least one row must be kept"):
        SubsetShift().compute(kept=[False, False], lengths=[1, 2])


@pytest.mark.parametrize("lengths", [[0.0, 0.0], [1.0, float("nan")]])
def test_lengths_that_are_none(lengths: list[float]) -> None:
    with pytest.raises(ValueError, match="lengths must be numbers with a positive sum"):
        SubsetShift().compute(kept=[True, False], lengths=lengths)


@pytest.mark.parametrize("name", ["groups", "texts", "embeddings"])
def test_something_of_other_rows(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must have one entry for each of the 2 rows, got 1"):
        SubsetShift().compute(kept=[True, False], lengths=[1, 2], **{name: [[1.0]]})


@pytest.mark.slow
def test_the_library_itself_does_without_evaluate() -> None:
    """It takes seconds to import."""
    code = "import sys; from hf_dlc import DLCScorer, FlexRandSelector; print('evaluate' in sys.modules)"
    assert run_python(code).stdout.strip() == "False"
