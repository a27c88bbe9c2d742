"""Finds the masked fractions at which a model's confidence falls to given shares of the unmasked one."""

from __future__ import annotations

import bisect
import itertools
import logging
import math
from collections.abc import Callable, Sequence


logger = logging.getLogger(__name__)

# Where to look first. Random masking takes a model apart at 1 to 20% of the weights, magnitude masking at 10 to 70%.
CALIBRATION_STARTS = {"random": 0.05, "magnitude": 0.3}

_LARGEST = 0.99  # a confidence that has not fallen here does not depend on the weights
_DIGITS = 3
_Point = tuple[float, float]  # masked fraction, share of the unmasked confidence


def calibrate(
    confidence_at: Callable[[float], float],
    shares: Sequence[float] = (1.0, 0.75, 0.5, 0.25),
    start: float = CALIBRATION_STARTS["random"],
    tolerance: float = 0.01,
    max_evaluations: int = 24,
) -> tuple[float, ...]:
    """
    Find masked fractions at which the mean confidence is `shares` of the unmasked one.

    Every evaluation costs a forward pass over the probe, so all shares profit from each: around the first crossing of
    a share the curve is interpolated by a monotone cubic through everything known. Smooth curves take about 9
    evaluations for the default shares. Where noise makes the curve rise again, the first crossing found counts.

    Args:
        confidence_at (`Callable[[float], float]`):
            Mean confidence at a masked fraction in [0, 1). Called with 0.0 first.
        shares (`Sequence[float]`, *optional*, defaults to `(1.0, 0.75, 0.5, 0.25)`):
            Shares of the unmasked confidence, descending from 1, in (0, 1].
        start (`float`, *optional*, defaults to 0.05):
            Masked fraction to try first, in (0, 1). `CALIBRATION_STARTS` has a good one for each masking.
        tolerance (`float`, *optional*, defaults to 0.01):
            Difference between a share and what was measured that is good enough.
        max_evaluations (`int`, *optional*, defaults to 24):
            Number of evaluations after which the nearest fractions so far are taken.

    Returns:
        `tuple[float, ...]`: Masked fractions with 3 significant digits, strictly ascending from 0.0.

    Raises:
        ValueError: If the shares are not as described, if the unmasked confidence is not a positive number, or if the
            confidence does not fall to the last share.

    Example:
    ```python
    >>> import math
    >>> calibrate(lambda fraction: 0.6 * math.exp(-10 * fraction), shares=(1.0, 0.5))
    (0.0, 0.0706)
    ```
    """
    _check_shares(shares)
    if not 0 < start < 1:
        raise ValueError(f"`start` must be in (0, 1), got {start}.")
    unmasked = _unmasked(confidence_at)
    points: list[_Point] = [(0.0, 1.0)]
    if len(shares) > 1:
        _reach(points, confidence_at, unmasked, shares[-1], start)
    while len(points) < max_evaluations:
        fraction = next(filter(None, (_proposal(points, share, tolerance) for share in shares[1:])), None)
        if fraction is None:
            break
        _evaluate(points, confidence_at, unmasked, fraction)
    nearest = [_nearest(points, share) for share in shares[1:]]
    _tell_misses(shares[1:], nearest, tolerance)
    return _strictly_ascending([0.0, *(fraction for fraction, _ in nearest)])


def _check_shares(shares: Sequence[float]) -> None:
    in_order = all(before > after for before, after in itertools.pairwise(shares))
    if len(shares) == 0 or shares[0] != 1 or not in_order or not shares[-1] > 0:
        raise ValueError(f"`shares` must descend from 1 and stay above 0, got {tuple(shares)}.")


def _unmasked(confidence_at: Callable[[float], float]) -> float:
    unmasked = float(confidence_at(0.0))
    if not (math.isfinite(unmasked) and unmasked > 0):
        raise ValueError(
            f"The mean confidence of the unmasked model must be a positive number, got {unmasked}, so there is "
            "nothing to calibrate against. Check the model and its dtype, or pass masked fractions, e.g. "
            '`DLCConfig(schedule="0, 0.05, 0.1")`.'
        )
    return unmasked


def _evaluate(
    points: list[_Point], confidence_at: Callable[[float], float], unmasked: float, fraction: float
) -> float:
    share = float(confidence_at(fraction)) / unmasked
    if not math.isfinite(share):  # activations overflow: the model knows nothing any more
        share = 0.0
    bisect.insort(points, (fraction, share))
    return share


def _reach(
    points: list[_Point], confidence_at: Callable[[float], float], unmasked: float, share: float, start: float
) -> None:
    """Double the masked fraction until the confidence is down to `share`."""
    fraction = _rounded(min(start, _LARGEST))
    while _evaluate(points, confidence_at, unmasked, fraction) > share:
        if fraction == _LARGEST:
            lowest = min(points, key=lambda point: point[1])
            raise ValueError(
                f"The mean confidence does not fall to {share:g} of the unmasked one ({unmasked:.4g}): the lowest "
                f"measured is {lowest[1]:.4g} of it, at a masked fraction of {lowest[0]:g}. Are the weights trained? "
                'Pass masked fractions instead, e.g. `DLCConfig(schedule="0, 0.05, 0.1")`.'
            )
        fraction = min(_rounded(2 * fraction), _LARGEST)


def _crossing(points: Sequence[_Point], share: float) -> int:
    """Index of the first point that is down to `share`; all points before it are above."""
    return next(i for i, point in enumerate(points) if point[1] <= share)


def _nearest(points: Sequence[_Point], share: float) -> _Point:
    """The nearer of the two points around the first crossing of `share`; never the unmasked one."""
    after = _crossing(points, share)
    candidates = points[max(after - 1, 1) : after + 1]
    return min(candidates, key=lambda point: abs(point[1] - share))


def _proposal(points: Sequence[_Point], share: float, tolerance: float) -> float | None:
    """Masked fraction to evaluate next for `share`, or `None` if it is found as well as 3 digits allow."""
    if abs(_nearest(points, share)[1] - share) <= tolerance:
        return None
    after = _crossing(points, share)
    low, high = points[after - 1][0], points[after][0]
    margin = 0.05 * (high - low)  # always cuts off a piece, so that the bracket closes
    fraction = _rounded(min(max(_interpolate(points, after, share), low + margin), high - margin))
    return fraction if low < fraction < high else None


def _interpolate(points: Sequence[_Point], after: int, share: float) -> float:
    """The masked fraction at which a cubic through the points around the crossing takes the value `share`."""
    (low, at_low), (high, at_high) = points[after - 1], points[after]
    width = high - low
    slope_low, slope_high = (width * _slope(points, i) for i in (after - 1, after))

    def curve(t: float) -> float:
        rest = 1 - t
        from_low = rest * rest * (at_low * (1 + 2 * t) + slope_low * t)
        return from_low + t * t * (at_high * (3 - 2 * t) - slope_high * rest)

    left, right = 0.0, 1.0
    for _ in range(30):  # the curve descends from left to right, so halving finds the place
        middle = (left + right) / 2
        left, right = (middle, right) if curve(middle) > share else (left, middle)
    return low + width * (left + right) / 2


def _slope(points: Sequence[_Point], i: int) -> float:
    """Harmonic mean of the slopes on both sides, which keeps the cubic monotone; 0 at a turning point."""
    sides = [
        (after[1] - before[1]) / (after[0] - before[0])
        for before, after in itertools.pairwise(points[max(i - 1, 0) : i + 2])
    ]
    if len(sides) == 1:
        return sides[0]
    left, right = sides
    return 2 * left * right / (left + right) if left * right > 0 else 0.0


def _tell_misses(shares: Sequence[float], nearest: Sequence[_Point], tolerance: float) -> None:
    for share, (fraction, measured) in zip(shares, nearest, strict=True):
        if abs(measured - share) > tolerance:
            logger.warning(
                "Calibration took a masked fraction of %g for a confidence share of %g, where %.3g was measured: the "
                "confidence falls in a step. Pass a schedule if that is too far off.",
                fraction,
                share,
                measured,
            )


def _strictly_ascending(fractions: Sequence[float]) -> tuple[float, ...]:
    """Move a fraction that is not above the one before it up by one unit of the last digit."""
    result = list(fractions[:1])
    for fraction in fractions[1:]:
        before = result[-1]
        if fraction <= before:
            fraction = _rounded(before + 10.0 ** (math.floor(math.log10(before)) + 1 - _DIGITS))
        result.append(fraction)
    return tuple(result)


def _rounded(fraction: float) -> float:
    return float(f"{fraction:.{_DIGITS}g}")
