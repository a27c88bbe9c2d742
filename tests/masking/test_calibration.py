from __future__ import annotations

import logging
import math
from collections.abc import Callable

import pytest

from hf_dlc.masking import CALIBRATION_STARTS, calibrate


SHARES = (1.0, 0.75, 0.5, 0.25)


class Curve:
    """A confidence curve that remembers where it was looked at."""

    def __init__(self, curve: Callable[[float], float]) -> None:
        self.curve = curve
        self.fractions: list[float] = []

    def __call__(self, fraction: float) -> float:
        self.fractions.append(fraction)
        return self.curve(fraction)


def _exponential(scale: float) -> Callable[[float], float]:
    return lambda fraction: 0.6 * math.exp(-fraction / scale)


def _hill(half: float, power: float, floor: float = 0.0) -> Callable[[float], float]:
    return lambda fraction: floor + 0.4 / (1 + (fraction / half) ** power)


SMOOTH = [
    *[(_exponential(scale), "random") for scale in (0.01, 0.03, 0.1, 0.2)],
    *[(_hill(half, power), "random") for half in (0.02, 0.05, 0.2) for power in (1.5, 2, 4)],
    (_hill(0.03, 4, 0.08), "random"),
    *[(_hill(half, power), "magnitude") for half in (0.15, 0.3, 0.6) for power in (3, 5, 8)],
    (lambda fraction: 1 / (1 + math.exp((fraction - 0.5) / 0.03)), "magnitude"),
]


@pytest.mark.parametrize("case", range(len(SMOOTH)))
def test_smooth_curves_take_few_evaluations(case: int) -> None:
    curve, masking = SMOOTH[case]
    confidence_at = Curve(curve)
    fractions = calibrate(confidence_at, SHARES, start=CALIBRATION_STARTS[masking])
    assert len(confidence_at.fractions) <= 12
    assert confidence_at.fractions[0] == 0.0
    assert fractions[0] == 0.0
    for fraction, share in zip(fractions, SHARES, strict=True):
        assert curve(fraction) / curve(0.0) == pytest.approx(share, abs=0.01)
        assert fraction == float(f"{fraction:.3g}")
    assert sorted(set(fractions)) == list(fractions)
    assert calibrate(curve, SHARES, start=CALIBRATION_STARTS[masking]) == fractions


def test_a_level_of_its_own_is_not_masked() -> None:
    assert calibrate(_exponential(0.1), shares=(1.0,)) == (0.0,)


def test_first_crossing_of_a_curve_that_rises_again() -> None:
    def curve(fraction: float) -> float:
        return 1.0 - 10 * fraction if fraction < 0.06 else (0.9 if fraction < 0.3 else 0.1)

    fractions = calibrate(curve, shares=(1.0, 0.5), start=0.055)
    assert fractions == (0.0, pytest.approx(0.05, abs=0.001))


def test_noise_ends_within_the_evaluations_allowed(caplog: pytest.LogCaptureFixture) -> None:
    def noisy(fraction: float) -> float:
        return math.exp(-fraction / 0.1) * (1 + 0.2 * math.sin(1e5 * fraction))

    confidence_at = Curve(noisy)
    fractions = calibrate(confidence_at, SHARES, max_evaluations=20)
    assert len(confidence_at.fractions) <= 20
    assert sorted(set(fractions)) == list(fractions)
    assert len(fractions) == 4


def test_a_step_gives_ascending_fractions_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        fractions = calibrate(lambda fraction: 1.0 if fraction < 0.0371 else 0.1, SHARES)
    assert fractions == (0.0, 0.037, 0.0371, 0.0372)
    assert "falls in a step" in caplog.text


def test_overflow_counts_as_no_confidence() -> None:
    fractions = calibrate(lambda fraction: 1 - 5 * fraction if fraction < 0.12 else math.nan, shares=(1.0, 0.5))
    assert fractions == (0.0, pytest.approx(0.1, abs=0.002))


def test_unreachable_share_says_what_was_measured() -> None:
    with pytest.raises(
        ValueError, match=r"does not fall to 0.25 .*\(0.3\).* 0.6667 of it.*0.99.*DLCConfig\(schedule="
    ):
        calibrate(lambda fraction: 0.3 - 0.1 * (fraction > 0.9), SHARES)


@pytest.mark.parametrize("confidence", [0.0, math.nan, math.inf])
def test_unmasked_confidence_must_be_positive(confidence: float) -> None:
    with pytest.raises(ValueError, match=r"unmasked model must be a positive number, got .*schedule="):
        calibrate(lambda fraction: confidence)


@pytest.mark.parametrize(
    "shares", [(), (0.75, 0.5), (1.0, 0.5, 0.5), (1.0, 0.5, 0.6), (1.0, 0.0), (1.0, -0.5), (1.0, math.nan)]
)
def test_shares_must_descend_from_one(shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="`shares` must descend from 1"):
        calibrate(_exponential(0.1), shares)


@pytest.mark.parametrize("start", [0.0, 1.0, -0.1])
def test_start_must_be_a_fraction(start: float) -> None:
    with pytest.raises(ValueError, match="`start` must be in"):
        calibrate(_exponential(0.1), start=start)
