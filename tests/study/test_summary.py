"""Summary of studies: a line for each, with what to take, and random rows where nothing beat them."""

from __future__ import annotations

from hf_dlc.study.arms import Cell
from hf_dlc.study.results import StudyResults
from hf_dlc.study.summary import pays_table
from hf_dlc.study.verdict import verdict
from tests.study.findings import results_of


def lines_of(**studies: StudyResults) -> list[list[str]]:
    """Cells of the lines below the header, for studies of one situation."""
    _, _, *lines = pays_table({"wrong": studies}).splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_a_winner_is_to_be_taken() -> None:
    results = results_of({"ifd cut 0.3": -2.0, "longest": 0.0})
    [cells] = lines_of(mine=results)
    best = verdict(results).best
    assert cells[:3] == ["some responses are wrong", "mine", "`ifd cut 0.3`"]
    assert cells[3] == f"{best.difference:+.1f}% ({best.low:+.1f} to {best.high:+.1f})"
    assert cells[4].startswith("+0.2 points (")
    assert cells[5] == f"{results.ratio('ifd cut 0.3'):.2f}"
    assert cells[6] == "`longest`"


def test_random_rows_cost_nothing_and_the_best_other_is_named() -> None:
    [cells] = lines_of(mine=results_of({"longest": 0.01, "loss easiest": 3.0}))
    assert cells[2] == "random rows"
    assert cells[3].startswith("best other: `longest` ")
    assert "but" not in cells[3]
    assert cells[5:] == ["0.00", "`loss easiest`"]


def test_a_loss_that_speaks_against_the_best_is_told() -> None:
    results = results_of({"longest": -2.0})
    worse = {
        cell: {**found, "loss per token": found["loss per token"] * (1.05 if cell.arm == "longest" else 1)}
        for cell, found in results.confirming.items()
    }
    [cells] = lines_of(mine=StudyResults(**{**vars(results), "confirming": worse}))
    assert cells[2] == "random rows"
    assert cells[3].startswith("best other: `longest` -2.")
    assert ", but loss per token +2." in cells[3]


def test_what_was_screened_out_comes_worst_first_and_not_all_of_it() -> None:
    losses = {"random": 2.0, "longest": 2.5, "loss easiest": 2.1, "ifd easiest": 2.2, "gain easiest": 2.3}
    losses |= {"loss hardest": 2.4, "ifd cut 0.3": 1.9}
    screening = {
        Cell(arm, "rows", 0.3, seed): {"loss per row": loss, "loss per token": loss}
        for arm, loss in losses.items()
        for seed in (0, 1)
    }
    [cells] = lines_of(mine=results_of({"ifd cut 0.3": -2.0}, screening=screening))
    assert cells[6] == "`longest`, `loss hardest`, `gain easiest`, `ifd easiest` and 1 more"


def test_each_study_has_its_line() -> None:
    found = lines_of(one=results_of({"longest": -2.0}), two=results_of({"longest": 0.0}))
    assert [cells[1:3] for cells in found] == [["one", "`longest`"], ["two", "random rows"]]
