"""The screening of a study: which arms go on, and how many seeds its spread asks for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hf_dlc.study.arms import Cell
from hf_dlc.study.screening import best_arms, seeds_needed
from hf_dlc.study.statistics import seeds_for


def screened(outcomes: dict[str, tuple[float, float, float]]) -> dict[Cell, dict[str, Any]]:
    """Of each arm the losses with equal rows and with equal tokens, and what it shares with random rows."""
    return {
        Cell(arm, matching, 0.3, 0): {"loss per row": loss, "shared": shared}
        for arm, (*losses, shared) in outcomes.items()
        for matching, loss in zip(("rows", "tokens"), losses, strict=True)
    }


OUTCOMES = {
    "random": (0.5, 0.5, 1.0),
    "longest": (1.0, 1.4, 0.3),
    "gain easiest": (2.0, 0.9, 0.3),
    "loss easiest": (0.9, 2.1, 0.3),
    "loss flexrand 0.5": (0.4, 0.4, 0.97),
}


def test_the_best_go_on() -> None:
    """By the mean of both matchings; random rows with another name would only be compared with themselves."""
    assert best_arms(screened(OUTCOMES), 2) == ["longest", "gain easiest"]
    assert best_arms(screened(OUTCOMES), 9) == ["longest", "gain easiest", "loss easiest"]
    with pytest.raises(ValueError, match=r"got none that does\. Name --finalists"):
        best_arms(screened({"random": (0.5, 0.5, 1.0), "loss flexrand 0.5": (0.4, 0.4, 0.97)}), 2)


def test_the_oracle_goes_on_beside_them() -> None:
    for oracle in ((0.1, 0.1, 0.6), (9.0, 9.0, 0.99)):
        assert best_arms(screened({**OUTCOMES, "oracle": oracle}), 2) == ["longest", "gain easiest", "oracle"]
    with pytest.raises(ValueError, match="got none that does"):
        best_arms(screened({"random": (0.5, 0.5, 1.0), "oracle": (0.1, 0.1, 0.6)}), 2)


def screening_of(arms: int, seeds: int, spread: float, rng: np.random.Generator) -> dict[Cell, dict[str, Any]]:
    """Arms whose differences from random rows of the same seed have this spread, in percent."""
    found = {}
    for seed in range(seeds):
        random = rng.normal(2.0, 0.3)  # which all arms share
        for number in range(arms):
            loss = random * (1 + (rng.normal(0, spread) + 2 * number) / 100)
            found[Cell(f"arm {number}", "rows", 0.3, seed)] = {"loss per row": loss, "shared": 0.3}
        found[Cell("random", "rows", 0.3, seed)] = {"loss per row": random, "shared": 1.0}
    return found


@pytest.mark.parametrize("spread", [0.3, 0.8, 1.5])
def test_seeds_are_those_for_the_spread(spread: float) -> None:
    """Whatever the means of the arms are, and whatever all arms of a seed share."""
    found = seeds_needed(screening_of(200, 3, spread, np.random.default_rng(0)), 4)
    assert abs(found - seeds_for(spread, 4)) <= 1
    assert seeds_needed(screening_of(200, 3, spread, np.random.default_rng(0)), 1) < found


def test_random_rows_with_another_name_say_nothing_of_the_spread() -> None:
    """They are like random rows of the same seed, so that fewer seeds would seem to do."""
    screening = screening_of(20, 3, 1.0, np.random.default_rng(0))
    twins = {
        cell._replace(arm="loss flexrand 0.5"): found for cell, found in screening.items() if cell.arm == "random"
    }
    assert seeds_needed({**screening, **twins}, 4) == seeds_needed(screening, 4)


def test_one_seed_has_no_spread() -> None:
    assert seeds_needed(screening_of(5, 1, 0.5, np.random.default_rng(0)), 3) == 0
