"""Situations: which one follows from what is given, and which arms can be compared there."""

from __future__ import annotations

import itertools

import pytest

from hf_dlc.study.arms import parse_arm
from hf_dlc.study.options import StudyArguments
from hf_dlc.study.situations import SITUATIONS, Situation, possible_arms, situation_of


@pytest.mark.parametrize("given", [*itertools.product([False, True], repeat=3)])
def test_what_is_given_tells_the_situation(given: tuple[bool, bool, bool]) -> None:
    """Wanted rows say most, then marks of what is suspect, then sources."""
    expected = next((name for name, is_given in zip(("task", "wrong", "sources"), given, strict=True) if is_given), "")
    assert situation_of(*given).name == (expected or "unknown")
    options = StudyArguments(
        target="wanted.jsonl" if given[0] else None,
        flag_column="suspect" if given[1] else None,
        group_by="source" if given[2] else None,
    )
    assert options.kind is situation_of(*given)


def test_a_situation_that_is_named() -> None:
    for name in SITUATIONS:
        assert StudyArguments(target="wanted.jsonl", situation=name).kind.name == name
    with pytest.raises(ValueError, match="situation must be 'auto' or one of task, wrong, sources, unknown, clean"):
        StudyArguments(situation="bad")


@pytest.mark.parametrize("situation", [*SITUATIONS.values()], ids=[*SITUATIONS])
def test_all_arms_of_a_situation_are_arms(situation: Situation) -> None:
    arms = situation.arms
    assert [parse_arm(arm).name for arm in arms] == list(arms)
    assert len(set(arms)) == len(arms)
    assert not {"random", "full", "zero-shot"} & set(arms)


def test_in_a_situation_something_goes_by_what_is_given() -> None:
    for name, need in (("task", "target"), ("wrong", "flags"), ("sources", "groups")):
        assert any(need in parse_arm(arm).needs for arm in SITUATIONS[name].arms), name


def test_arms_that_lack_something_are_left_out_by_name() -> None:
    arms = ["longest", "balanced random", "oracle", "target cosine", "target_shift easiest", "similarity cut 0.1"]
    possible, lacking = possible_arms(arms, [])
    assert possible == ["longest"]
    assert lacking == {
        "balanced random": ["groups"],
        "oracle": ["flags"],
        "target cosine": ["target"],
        "target_shift easiest": ["target"],
        "similarity cut 0.1": ["score similarity"],
    }
    assert possible_arms(arms, ["groups", "flags", "target", "score similarity"]) == (arms, {})
    assert possible_arms(["balanced loss easiest"], [])[1] == {"balanced loss easiest": ["groups"]}


def test_what_can_be_made_is_not_lacking() -> None:
    arms = ["loss easiest", "k_center", "unique random"]
    assert possible_arms(arms, []) == (arms, {})


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("needs the package bm25s")

    monkeypatch.setattr("hf_dlc.selection.target.require_bm25s", missing)
    possible, lacking = possible_arms(["target bm25", "target cosine"], ["target"])
    assert (possible, lacking) == (["target cosine"], {"target bm25": ["needs the package bm25s"]})
