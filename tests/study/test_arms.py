"""Arms of a study: what their names say, and what they need."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from hf_dlc.scores.table import DEFAULT_SCORES, SCORES
from hf_dlc.selection import CutSelector, FlexRandSelector, KCenterSelector, RandomSelector, TopKSelector
from hf_dlc.selection.base import Selector
from hf_dlc.selection.candidates import Candidates
from hf_dlc.selection.table import SELECTORS
from hf_dlc.study.arms import Cell, parameters_of, parse_arm, parse_rule, score_arms
from hf_dlc.study.options import StudyArguments


def test_names_say_how_rows_are_chosen() -> None:
    expected = {
        "random": RandomSelector(column=None),
        "longest": TopKSelector(which="hardest", column="dlc_tokens", easy="low"),
        "oracle": RandomSelector(),
        "k_center": KCenterSelector(),
        "loss flexrand 0.25": FlexRandSelector(column="dlc_loss", split=0.25),
        "confidence easiest": TopKSelector(column="dlc_confidence"),
        "plain_loss hardest": TopKSelector(column="dlc_plain_loss", which="hardest"),
        "ifd cut 0.3": CutSelector(column="dlc_ifd", cut=0.3),
        "unique balanced random": RandomSelector(column=None),
    }
    assert {name: parse_arm(name).selector for name in expected} == expected
    assert parse_arm("target bm25").selector.metric == "bm25"
    assert parse_arm("cluster nearest").selector.choose == "nearest"
    for name in ("full", "zero-shot"):
        assert parse_arm(name).selector is None


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("full", set()),
        ("zero-shot", set()),
        ("random", set()),
        ("longest", set()),
        ("oracle", {"flags"}),
        ("loss flexrand 0.25", {"score loss"}),
        ("ifd cut 0.3", {"score ifd"}),
        ("target_shift easiest", {"score target_shift", "target"}),
        ("target cosine", {"features auto", "target"}),
        ("target gradient", {"features gradient", "target"}),
        ("target bm25", {"target"}),
        ("transfer features", {"features auto", "target"}),
        ("k_center", {"features auto"}),
        ("cluster random", {"features auto"}),
        ("plain_loss cluster easiest", {"score plain_loss", "features auto"}),
        ("unique random", {"duplicates"}),
        ("balanced random", {"groups"}),
        ("unique balanced loss easiest", {"duplicates", "groups", "score loss"}),
    ],
)
def test_needs(name: str, needs: set[str]) -> None:
    arm = parse_arm(name)
    assert arm.needs == needs
    assert (arm.unique, arm.balanced) == ("unique" in name, "balanced" in name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "best",
        "easiest",  # by which score?
        "loss random",  # which goes by none
        "loss easiest 0.5",  # which has no value
        "loss easiest ",
        "loss flexrand",  # with which value?
        "loss flexrand 1.5",
        "loss flexrand x",
        "loss flexrand 0.5 0.5",
        "speed easiest",
        "target words",
        "unique",
        "unique full",
        "unique longest",
        "unique oracle",
        "balanced unique random",  # the other way round
        "unique unique random",
    ],
)
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match=r"^an arm must be 'oracle', 'longest', one of random.*; got '"):
        parse_arm(name)


def test_the_error_names_what_there_is() -> None:
    with pytest.raises(ValueError, match="an arm must be") as error:
        parse_arm("best")
    for name in (*SCORES, *SELECTORS, "'unique'", "'balanced'", "got 'best'"):
        assert name in str(error.value)


def test_rules_with_values() -> None:
    assert parse_rule("flexrand", "0.25") == (SELECTORS["flexrand"], {"split": 0.25})
    assert parse_rule("target", "bm25")[1] == {"metric": "bm25"}
    assert parse_rule("random") == (SELECTORS["random"], {})
    for rule, error in (
        (("best",), "must begin with one of"),
        (("random", "1"), "random takes no value, got '1'"),
        (("flexrand", "2"), "split"),
        (("target", "x"), "metric must be one of"),
    ):
        with pytest.raises(ValueError, match=error):
            parse_rule(*rule)


def test_all_selectors_that_go_by_scores_are_arms() -> None:
    rules = ["flexrand 0.25", "flexrand 0.5", "flexrand 0.75", "easiest", "hardest", "cut"]
    found = score_arms()
    by_loss = [arm.removeprefix("loss ") for arm in found if arm.startswith("loss ")]
    assert set(rules) <= set(by_loss)
    assert found == [f"{score} {rule}" for score in (*DEFAULT_SCORES, "plain_loss") for rule in by_loss]
    assert not {"random", "k_center"} & {rule.split()[0] for rule in by_loss}
    assert [parse_arm(name).name for name in found] == found


@dataclass
class MiddleSelector(Selector):
    """The rows nearest to a value."""

    name: ClassVar[str] = "middle"
    varied: ClassVar[str | None] = "value"

    _: KW_ONLY
    value: float = 0.5
    easy: str = "auto"

    def _pools(self, candidates: Candidates, group: str | None, quota: int) -> list[np.ndarray]:
        return [np.argsort(np.abs(candidates.scores - self.value), kind="stable")]

    def _rule(self, column: str) -> str:
        return f"The rows with {column} nearest to {self.value}"

    def variants(self) -> dict[str, Selector]:
        return {f"{self.name} {value:g}": replace(self, value=value) for value in (0.2, 0.5)}


def test_a_new_selector_is_an_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SELECTORS, "middle", MiddleSelector())
    assert {"loss middle 0.2", "gain middle 0.5"} < set(score_arms())
    arm = parse_arm("unique loss middle 0.7")
    assert arm.selector == MiddleSelector(value=0.7, column="dlc_loss")
    assert arm.needs == {"duplicates", "score loss"}
    assert StudyArguments(arms=["loss middle 0.2"]).arms == ["loss middle 0.2"]
    with pytest.raises(ValueError, match=r"and one of flexrand, easiest, hardest, cut, .*middle"):
        parse_arm("loss middle")


def test_a_selector_takes_of_what_is_known_what_it_has() -> None:
    known = {"keep": 0.5, "seed": 3, "group_by": "source", "features_column": "x", "nothing": 1}
    assert parameters_of(parse_arm("random"), known) == RandomSelector(
        keep=0.5, seed=3, group_by="source", features_column="x", column=None
    )
    assert parameters_of(parse_arm("ifd cut 0.3"), {"target": "x"}) == parse_arm("ifd cut 0.3").selector


def test_names_of_cells_are_those_of_files() -> None:
    cells = [Cell(arm, matching, 0.3, 2) for arm in ("loss easiest", "unique k_center") for matching in ("rows", "x")]
    assert [cell.name for cell in cells][:2] == ["loss_easiest_rows_0.3_2", "loss_easiest_x_0.3_2"]
    assert len({cell.name for cell in cells}) == 4
