"""Arms of a study: what they choose, and which of them go on."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from datasets import Dataset

from hf_dlc.scores.table import DEFAULT_SCORES
from hf_dlc.selection.base import Selector
from hf_dlc.selection.candidates import Candidates
from hf_dlc.selection.table import SELECTORS
from hf_dlc.study.arms import (
    Cell,
    best_arms,
    choose_rows,
    default_arms,
    parse_arm,
    shared_with_random,
)
from hf_dlc.study.options import StudyArguments


def test_what_was_screened_does_not_confirm() -> None:
    options = StudyArguments()
    screening = options.screening_cells
    confirming = options.confirming_cells(["longest"])
    assert not {cell.seed for cell in screening} & {cell.seed for cell in confirming}
    assert len({cell.seed for cell in confirming}) == options.seeds


def screened(outcomes: dict[str, tuple[float, float, float]]) -> dict[Cell, dict[str, float]]:
    """Of each arm the losses with equal rows and with equal tokens, and what it shares with random rows."""
    return {
        Cell(arm, matching, 0.3, 0): {"loss per row": loss, "shared": shared}
        for arm, (*losses, shared) in outcomes.items()
        for matching, loss in zip(("rows", "tokens"), losses, strict=True)
    }


def test_best_arms_of_a_screening() -> None:
    """By the mean of both matchings; random rows with another name would only be compared with themselves."""
    outcomes = {"random": (0.5, 0.5, 1.0), "longest": (1.0, 1.4, 0.3), "gain easiest": (2.0, 0.9, 0.3)}
    outcomes |= {"loss easiest": (0.9, 2.1, 0.3), "loss flexrand 0.5": (0.4, 0.4, 0.97)}
    assert best_arms(screened(outcomes), 2) == ["longest", "gain easiest"]
    with pytest.raises(ValueError, match=r"got none that does\. Name --finalists"):
        best_arms(screened({"random": (0.5, 0.5, 1.0)}), 2)


def test_flexrand_in_halves_is_random_rows_with_another_name() -> None:
    scored = Dataset.from_dict({"dlc_gain": np.random.default_rng(0).permutation(400) / 400, "dlc_tokens": [3] * 400})
    shared = {
        arm: shared_with_random(scored, Cell(arm, "rows", 0.3, 1))
        for arm in ("random", "full", "gain flexrand 0.5", "gain flexrand 0.75", "gain easiest")
    }
    assert shared["random"] == 1.0
    assert shared["gain flexrand 0.5"] > 0.9
    assert shared["gain flexrand 0.75"] < 0.9
    assert 0.1 < shared["gain easiest"] < 0.5


def test_all_selectors_and_scores_are_arms() -> None:
    arms = default_arms()
    assert arms[:4] == ["longest", "plain easiest", "plain hardest", "plain cut"]
    of_score = ["flexrand 0.25", "flexrand 0.5", "flexrand 0.75", "easiest", "hardest", "cut"]
    assert set(arms[4:]) == {f"{score} {rule}" for score in DEFAULT_SCORES for rule in of_score}
    assert arms[4:7] == ["confidence flexrand 0.25", "confidence flexrand 0.5", "confidence flexrand 0.75"]
    assert [" ".join(arm.split()[1:]) for arm in arms[-3:]] == ["easiest", "hardest", "cut"]


@dataclass
class MiddleSelector(Selector):
    """The rows nearest to a value."""

    name: ClassVar[str] = "middle"

    _: KW_ONLY
    value: float = 0.5

    def _pools(self, candidates: Candidates, group: str | None, quota: int) -> list[np.ndarray]:
        return [np.argsort(np.abs(candidates.scores - self.value), kind="stable")]

    def _rule(self, column: str) -> str:
        return f"The rows with {column} nearest to {self.value}"

    def variants(self) -> dict[str, Selector]:
        return {f"{self.name} {value:g}": replace(self, value=value) for value in (0.2, 0.5)}


def test_a_new_selector_is_an_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SELECTORS, "middle", MiddleSelector())
    assert {"loss middle 0.2", "gain middle 0.5"} < set(StudyArguments().arms)
    scored = Dataset.from_dict({"dlc_loss": np.arange(10) / 10, "dlc_tokens": [3] * 10})
    for arm, expected in (("loss middle 0.2", [1, 2, 3]), ("loss middle 0.7", [6, 7, 8])):
        assert choose_rows(scored, Cell(arm, "rows", 0.3, 0)).tolist() == expected
    with pytest.raises(ValueError, match="'flexrand', 'easiest', 'hardest', 'cut' or 'middle', and a value"):
        parse_arm("loss middle")


@pytest.mark.parametrize("arm", ["easiest", "loss random", "loss easiest 0.5", "loss easiest ", "loss flexrand 1.5"])
def test_arms_that_name_no_whole_rule(arm: str) -> None:
    with pytest.raises(ValueError, match="an arm must be"):
        parse_arm(arm)


@pytest.mark.parametrize("matching", ["rows", "tokens"])
def test_cells_choose_what_their_arm_says(matching: str) -> None:
    losses = np.linspace(1, 2, 40, dtype=np.float32)
    scored = Dataset.from_dict(
        {
            "dlc_confidence": np.exp(-losses),
            "dlc_loss": losses,
            "dlc_gain": -losses,
            "plain": losses[::-1].copy(),
            "dlc_tokens": np.arange(40) % 7 + 1,
        }
    )
    tokens = np.array(scored["dlc_tokens"])

    def choose(arm: str, seed: int = 0) -> list[int]:
        return choose_rows(scored, Cell(arm, matching, 0.25, seed)).tolist()

    for arm in ("confidence easiest", "loss easiest", "gain easiest", "plain hardest"):
        assert max(choose(arm)) < 16, arm
        assert min(choose(" ".join([arm.split()[0], "hardest" if "easiest" in arm else "easiest"]))) > 24, arm
    assert np.mean(tokens[choose("longest")]) > 6  # of tokens, a shorter row may fill the budget
    assert choose("random") != choose("random", 1)
    assert np.mean(choose("loss flexrand 0.25")) < np.mean(choose("loss flexrand 0.75")) - 5
    assert choose("full") == list(range(40))
    for arm in ("random", "longest", "loss flexrand 0.5"):
        if matching == "rows":
            assert len(choose(arm)) == 10
        else:
            assert 0 <= round(tokens.sum() * 0.25) - tokens[choose(arm)].sum() < 7  # the tokens of a row
