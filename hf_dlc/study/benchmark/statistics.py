"""Numbers of the benchmark, computed from its samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hf_dlc.utils.ranks import spearman


class Spread(NamedTuple):
    """Median, smallest and largest of some samples, or their quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Sum up samples."""
        return cls(float(np.median(samples)), min(samples), max(samples))

    @classmethod
    def quartiles(cls, samples: Sequence[float]) -> Spread:
        """Sum up many short samples, of which the extremes say little."""
        return cls(*np.percentile(samples, [50, 25, 75]).tolist())

    def show(self, pattern: str, unit: str = "") -> str:
        """As text, `pattern` for each number; the range only where there is one."""
        median, low, high = [pattern.format(value) for value in self]
        return median + unit + ("" if low == high else f" ({low}–{high})")


class Agreement(NamedTuple):
    """How well scores agree with those of the naive code, at the level where they agree least."""

    spearman: float
    difference: float


def tokens_per_second(part: dict[str, Any], key: str) -> Spread:
    """Tokens of the rows, without padding, times levels, a second."""
    work = part["tokens"] * part["levels"]
    return Spread.of([work / sample["seconds"] for sample in part["entries"][key]["samples"]])


def times_faster(part: dict[str, Any], key: str, other: str) -> Spread | None:
    """How many times faster one contender was than the other in the same round."""
    if key not in part["entries"] or other not in part["entries"]:
        return None
    pairs = zip(part["entries"][key]["samples"], part["entries"][other]["samples"], strict=True)
    return Spread.of([theirs["seconds"] / mine["seconds"] for mine, theirs in pairs])


def agreement(part: dict[str, Any], key: str, kind: str) -> Agreement | None:
    """Agreement of confidence or loss with the naive code under the same masks."""
    entry, naive = part["entries"][key], part["entries"]["naive-float32"]
    return compare(entry[kind], part["same_masks"][kind] if entry["contender"] == "hf_dlc" else naive[kind])


def compare(mine: Sequence[Sequence[float]] | None, naive: Sequence[Sequence[float]]) -> Agreement | None:
    """Compare scores level by level."""
    if mine is None:
        return None
    pairs = list(zip(np.array(mine), np.array(naive), strict=True))
    return Agreement(min(spearman(*pair) for pair in pairs), max(float(np.abs(a - b).max()) for a, b in pairs))


def memory_ratio(entry: dict[str, Any], name: str) -> float | None:
    """Largest peak against the weights."""
    peaks = [sample[name] for sample in entry["samples"]]
    return None if None in peaks else max(peaks) / entry["weights_bytes"]


def masking_share(entry: dict[str, Any]) -> float | None:
    """Masking against the whole time, in the median round; `None` where there are no masks."""
    if entry["contender"] == "limit":
        return None
    apart = entry["contender"] == "harness"
    shares = [
        sample["masking_seconds"] / (sample["seconds"] + (sample["masking_seconds"] if apart else 0))
        for sample in entry["samples"]
    ]
    return float(np.median(shares))


def growth(part: dict[str, Any]) -> float:
    """Seconds a row of the many against those of the few."""
    return part["seconds"] / part["rows"] / (float(np.median(part["few_seconds"])) / part["few_rows"])
