"""Options of fine-tuning and of a study: what is refused, and what is found out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_dlc.study import options as study_options
from hf_dlc.study.arms import Cell
from hf_dlc.study.options import PilotArguments, StudyArguments, TrainerOptions, TrainingOptions, options_of


def test_trl_trains_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    options = [TrainerOptions(trainer=name) for name in ("auto", "sft", "transformers")]
    for is_installed in (True, False):
        monkeypatch.setattr(study_options, "find_spec", lambda _, found=is_installed: object() if found else None)
        assert [one.uses_trl for one in options] == [is_installed, True, False]
    with pytest.raises(ValueError, match="trainer must be 'auto', 'sft' or 'transformers', got 'mine'"):
        TrainerOptions(trainer="mine")


def test_a_study_trains_with_one_trainer() -> None:
    """An option that changed nothing would be a lie."""
    assert not hasattr(StudyArguments(), "trainer")


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [("lora_layers", 0, "lora_layers must be at least 1"), ("epochs", 0.0, "epochs must be more than 0, got 0")],
)
def test_training_that_is_none(name: str, value: float, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        TrainingOptions(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("budgets", [0.3, 2.0]),
        ("budgets", [1.0]),
        ("screening_budget", 0.0),
        ("seeds", 0),
        ("screening_seeds", 0),
        ("eval_rows", 0),
        ("num_finalists", 0),
    ],
)
def test_options_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"({name}|budgets) must be (shares of the pool between 0 and 1|at least 1)"):
        StudyArguments(**{name: value})


@pytest.mark.parametrize("arm", ["random", "full", "zero-shot"])
@pytest.mark.parametrize("name", ["arms", "finalists"])
def test_what_every_arm_is_compared_with_is_none(arm: str, name: str) -> None:
    with pytest.raises(ValueError, match="are always there, and no arms to name, got"):
        StudyArguments(**{name: [arm]})


@pytest.mark.parametrize("name", ["arms", "finalists"])
def test_the_oracle_alone_is_nothing_to_take(name: str) -> None:
    with pytest.raises(ValueError, match="an arm beside 'oracle' is needed"):
        StudyArguments(**{name: ["oracle"]}, flag_column="suspect")
    assert StudyArguments(**{name: ["oracle", "longest"]}, flag_column="suspect")


@pytest.mark.parametrize("part", ["0/2", "3/2", "2", "x"])
def test_parts_that_are_none(part: str) -> None:
    with pytest.raises(ValueError, match="part must be like '2/8'"):
        StudyArguments(part=part)


def test_parts() -> None:
    options = [StudyArguments(part=part) for part in ("1/1", "2/8")]
    assert [one.process for one in options] == [(0, 1), (1, 8)]
    assert [one.is_first for one in options] == [True, False]


@pytest.mark.parametrize("arm", ["best", "loss flexrand", "speed easiest", "loss flexrand x"])
def test_arms_that_are_none(arm: str) -> None:
    with pytest.raises(ValueError, match="an arm must be"):
        StudyArguments(arms=[arm])


@pytest.mark.parametrize("matchings", ["rows,words", "", "rows, tokens"])
def test_matchings_that_are_none(matchings: str) -> None:
    with pytest.raises(ValueError, match="matchings must be of rows, tokens, updates, got"):
        StudyArguments(matchings=matchings)


def test_what_was_screened_does_not_confirm() -> None:
    options = StudyArguments(screening_seeds=3)
    screening = options.screening_cells(["longest"])
    confirming = options.confirming_cells(["longest"], 4)
    assert {cell.seed for cell in screening} == {0, 1, 2}
    assert {cell.seed for cell in confirming} == {3, 4, 5, 6}


def test_cells_of_the_screening() -> None:
    options = StudyArguments(screening_seeds=1, screening_budget=0.2)
    expected = [Cell(arm, matching, 0.2, 0) for arm in ("random", "longest") for matching in ("rows", "tokens")]
    assert options.screening_cells(["longest"]) == expected  # updates are for the confirming stage
    repeated = StudyArguments(screening_seeds=1, matchings="updates").screening_cells(["longest"])
    assert {cell.matching for cell in repeated} == {"updates"}


def test_cells_of_the_confirming_stage() -> None:
    options = StudyArguments(budgets=[0.1, 0.3], matchings="rows,updates")
    cells = options.confirming_cells(["longest"], 2)
    assert len(cells) == len(set(cells)) == 2 * (1 + 2 * 2 * 2)
    assert cells[0] == Cell("full", "rows", 1.0, 2)
    assert {(cell.arm, cell.matching, cell.budget) for cell in cells[1:9]} == {
        (arm, matching, budget)
        for arm in ("random", "longest")
        for matching in ("rows", "updates")
        for budget in (0.1, 0.3)
    }
    assert [cell.seed for cell in cells] == [2] * 9 + [3] * 9  # seed by seed
    assert options.confirming_cells(["longest"], 1) == cells[:9]


def test_options_in_a_given_time() -> None:
    assert PilotArguments(minutes=5).lora_layers == 4
    with pytest.raises(ValueError, match="minutes must be more than 0, got 0"):
        PilotArguments(minutes=0)
    with pytest.raises(ValueError, match="runs in one process, got part '1/2'"):
        PilotArguments(part="1/2")


def test_paths_may_begin_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    options = PilotArguments(test="~/test.jsonl", proxy="~/small", target="~/wanted.jsonl", choices="~/x.jsonl")
    for path in (options.test, options.proxy, options.target, options.choices):
        assert path.startswith(str(tmp_path))
    assert PilotArguments().test is PilotArguments().proxy is None


def test_options_of_another_kind() -> None:
    options = PilotArguments(epochs=3.0, lora_rank=4, minutes=5)
    assert options_of(TrainingOptions, options, lora_rank=8) == TrainingOptions(
        epochs=3.0, lora_rank=8, batch_size=4, learning_rate=2e-3, lora_layers=4
    )
