"""
Measurements in the form of 🤗 Evaluate: how far two scores agree, and how far a subset is from its source.

They are used without the Hub: make an instance, then call `compute`. This module is imported on demand only, since
`evaluate` takes seconds to import; `pip install 'hf-dlc[measurements]'` brings it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import evaluate
import numpy as np
import pandas as pd
from datasets import Features, Value
from scipy.stats import kendalltau

from hf_dlc.utils.ranks import spearman
from hf_dlc.utils.share import rows_to_keep


_MMD_ROWS = 2_000  # the kernel is computed for all pairs of at most so many rows
_TINY = 1e-12


class ScoreAgreement(evaluate.Measurement):
    """
    How far two score columns agree on the order of rows.

    `compute(left=..., right=..., keep=0.5)` takes a number a row of both, NaN for a row without a score, and returns

    - `spearman` and `kendall` (tau-b), rank correlations in [-1, 1] over the rows that have both scores;
    - `overlap_high` and `overlap_low`, in [0, 1]: the share of the `keep` highest (lowest) rows by the left score that
      are among the highest (lowest) by the right one. Of unrelated scores, `keep` is expected.

    Example:
    ```python
    >>> found = ScoreAgreement().compute(left=[1.0, 2.0, 3.0, 4.0], right=[1.0, 2.0, 4.0, 3.0])
    >>> round(found["spearman"], 3), round(found["kendall"], 3), found["overlap_high"]
    (0.8, 0.667, 1.0)
    ```
    """

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            description="Agreement of two score columns on the order of rows.",
            citation="",
            inputs_description="left, right: scores of the same rows; keep: share or number of rows of the overlaps.",
            features=Features({"left": Value("float64"), "right": Value("float64")}),
        )

    def _compute(self, left: Sequence[float], right: Sequence[float], keep: float | int = 0.5) -> dict[str, float]:
        left, right = np.asarray(left, dtype=float), np.asarray(right, dtype=float)
        known = ~(np.isnan(left) | np.isnan(right))
        count = rows_to_keep(keep, len(left))  # of all rows, as selectors count
        left, right = left[known], right[known]
        if count > len(left):
            raise ValueError(f"keep must ask for at most {len(left)} rows, those with both scores, got {keep!r}.")
        return {
            "spearman": spearman(left, right),
            "kendall": float(kendalltau(left, right).statistic),
            "overlap_high": _overlap(-left, -right, count),
            "overlap_low": _overlap(left, right, count),
        }


class SubsetShift(evaluate.Measurement):
    """
    How far the rows that were kept are from all rows.

    `compute(kept=..., lengths=..., groups=None, texts=None, embeddings=None)` takes of every row whether it was kept
    and its length (in target tokens, say) and returns

    - `length_ratio`: mean length of the kept rows over that of all rows, above 1 = longer;
    - `length_distance`: largest difference of the two distributions of lengths (Kolmogorov-Smirnov), in [0, 1];
    - with `groups`, `group_distance`: total variation distance of the shares of groups, in [0, 1];
    - with `texts`, `word_distance`: Jensen-Shannon distance of the frequencies of words, in [0, 1];
    - with `embeddings` of shape `(rows, features)`, `mmd`: squared maximum mean discrepancy with a Gaussian kernel of
      the median distance (Gretton et al., "A Kernel Two-Sample Test", 2012, eq. 3, over pairs of different rows:
      around 0 for a random subset, on both sides of it; NaN of a single row), and `frechet`: squared Fréchet distance
      of the Gaussians fitted to both (Heusel et al., 2017, eq. 6).

    0 = no shift in each but the first. All but `mmd` are above 0 for random subsets too, the more the smaller these
    are: compare with a random subset of the same size.

    Example:
    ```python
    >>> SubsetShift().compute(kept=[True, False, True, False], lengths=[4, 2, 4, 2])
    {'length_ratio': 1.3333333333333333, 'length_distance': 0.5}
    ```
    """

    def _info(self) -> evaluate.MeasurementInfo:
        return evaluate.MeasurementInfo(
            description="Shift of a subset from the rows that it was chosen from.",
            citation="",
            inputs_description="kept: whether a row was kept; lengths: its length; groups, texts, embeddings: more.",
            features=Features({"kept": Value("bool"), "lengths": Value("float64")}),
        )

    def _compute(
        self,
        kept: Sequence[bool],
        lengths: Sequence[float],
        groups: Sequence[Any] | None = None,
        texts: Sequence[str] | None = None,
        embeddings: np.ndarray | None = None,
    ) -> dict[str, float]:
        is_kept, lengths = np.asarray(kept, dtype=bool), np.asarray(lengths, dtype=float)
        for name, values in (("groups", groups), ("texts", texts), ("embeddings", embeddings)):
            if values is not None and len(values) != len(is_kept):
                raise ValueError(f"{name} must have one entry for each of the {len(is_kept)} rows, got {len(values)}.")
        if not is_kept.any():
            raise ValueError(f"at least one row must be kept to be compared with all, got none of {len(is_kept)}.")
        if not lengths.sum() > 0:
            raise ValueError(f"lengths must be numbers with a positive sum, got a sum of {lengths.sum()}.")
        found = {
            "length_ratio": float(lengths[is_kept].mean() / lengths.mean()),
            "length_distance": _largest_gap(lengths[is_kept], lengths),
        }
        if groups is not None:
            found["group_distance"] = _group_distance(pd.Series(groups), is_kept)
        if texts is not None:
            found["word_distance"] = _word_distance(texts, is_kept)
        if embeddings is not None:
            embeddings = np.asarray(embeddings, dtype=float)
            found["mmd"] = _mmd(embeddings, is_kept)
            found["frechet"] = _frechet(embeddings[is_kept], embeddings)
        return found


def _overlap(left: np.ndarray, right: np.ndarray, count: int) -> float:
    first = (np.argsort(values, kind="stable")[:count] for values in (left, right))
    return len(np.intersect1d(*first)) / count


def _largest_gap(part: np.ndarray, whole: np.ndarray) -> float:
    places = np.unique(whole)
    shares = (np.searchsorted(np.sort(values), places, side="right") / len(values) for values in (part, whole))
    return float(np.abs(np.subtract(*shares)).max())


def _group_distance(groups: pd.Series, is_kept: np.ndarray) -> float:
    whole = groups.value_counts(normalize=True, dropna=False)
    part = groups[is_kept].value_counts(normalize=True, dropna=False).reindex(whole.index, fill_value=0.0)
    return float((part - whole).abs().sum() / 2)


def _word_distance(texts: Sequence[str], is_kept: np.ndarray) -> float:
    words = pd.Series(list(texts)).str.lower().str.findall(r"\w+").explode().dropna()
    whole = words.value_counts(normalize=True)
    part = words[is_kept[words.index]].value_counts(normalize=True).reindex(whole.index, fill_value=0.0)
    middle = (whole + part) / 2
    return float(np.sqrt(max(0.0, (_relative_entropy(whole, middle) + _relative_entropy(part, middle)) / 2)))


def _relative_entropy(left: pd.Series, right: pd.Series) -> float:
    """Kullback-Leibler divergence in bits."""
    present = left > 0
    return float((left[present] * np.log2(left[present] / right[present])).sum())


def _mmd(embeddings: np.ndarray, is_kept: np.ndarray) -> float:
    """A row is in both samples, so pairs of a row with itself are left out of all three terms."""
    rng = np.random.default_rng(0)
    whole = rng.permutation(len(embeddings))[:_MMD_ROWS]
    part = rng.permutation(np.flatnonzero(is_kept))[:_MMD_ROWS]
    if len(part) < 2:
        return float("nan")
    scale = np.median(_squared_distances(embeddings[whole], embeddings[whole])[np.triu_indices(len(whole), 1)])

    def mean(left: np.ndarray, right: np.ndarray) -> float:
        kernel = np.exp(-_squared_distances(embeddings[left], embeddings[right]) / max(scale, _TINY))
        return float(kernel[left[:, None] != right].mean())

    return mean(part, part) + mean(whole, whole) - 2 * mean(part, whole)


def _squared_distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    squares = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None]
    return np.maximum(0.0, squares - 2 * left @ right.T)


def _frechet(part: np.ndarray, whole: np.ndarray) -> float:
    means = part.mean(axis=0) - whole.mean(axis=0)
    first, second = (np.atleast_2d(np.cov(values, rowvar=False, bias=True)) for values in (part, whole))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(0.0, values))) @ vectors.T
    common = np.sqrt(np.maximum(0.0, np.linalg.eigvalsh(root @ second @ root))).sum()
    return float(means @ means + np.trace(first) + np.trace(second) - 2 * common)
