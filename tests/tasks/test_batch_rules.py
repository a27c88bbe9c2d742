"""Which rows may share a micro-batch, and how far they are padded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hf_dlc.tasks.base import BatchRules


LENGTHS = np.array([0, 3, 8, 9, 46, 47, 48, 60, 61, 70])


def test_without_limits() -> None:
    rules = BatchRules()
    assert rules.padded(LENGTHS).tolist() == [0, 8, 8, 16, 48, 48, 48, 64, 64, 72]
    assert set(rules.groups(LENGTHS)) == {0}
    assert rules.padded(np.array([46]), 5).tolist() == [48]  # 41 tokens behind the first five
    assert rules.plain_up_to == np.inf


def test_padding_stops_at_a_boundary() -> None:
    rules = BatchRules(boundaries=(47,))
    assert rules.padded(LENGTHS).tolist() == [0, 8, 8, 16, 47, 47, 48, 64, 64, 72]
    assert rules.padded(np.array([46]), 5).tolist() == [42]
    groups = rules.groups(LENGTHS)
    assert len(set(groups[LENGTHS <= 47])) == len(set(groups[LENGTHS > 47])) == 1
    assert set(groups[LENGTHS <= 47]).isdisjoint(groups[LENGTHS > 47])


def test_padding_stops_at_the_last_position() -> None:
    rules = BatchRules(positions=62)
    assert rules.padded(LENGTHS).tolist() == [0, 8, 8, 16, 48, 48, 48, 62, 62, 70]
    assert rules.padded(np.array([61]), 5).tolist() == [56]
    assert rules.plain_up_to == np.inf
    assert set(rules.groups(LENGTHS)) == {0}


def test_rows_that_go_alone() -> None:
    rules = BatchRules(boundaries=(47,), alone_beyond=60)
    assert rules.padded(LENGTHS).tolist() == [0, 8, 8, 16, 47, 47, 48, 60, 61, 70]
    groups = rules.groups(LENGTHS).tolist()
    assert groups[6] == groups[7]
    assert groups.count(groups[8]) == groups.count(groups[9]) == 1
    assert rules.plain_up_to == 47


def test_all_rows_alone() -> None:
    rules = BatchRules(alone_beyond=0)
    assert rules.padded(LENGTHS).tolist() == LENGTHS.tolist()
    assert len(set(rules.groups(LENGTHS[1:]))) == len(LENGTHS) - 1


def test_rows_end_to_end() -> None:
    rules = BatchRules(boundaries=(60,), padding_free_up_to=47)
    assert rules.padded(LENGTHS).tolist() == [0, 3, 8, 9, 46, 47, 48, 60, 64, 72]
    assert rules.padded(np.array([46]), 5).tolist() == [41]
    groups = rules.groups(LENGTHS).tolist()
    assert len(set(groups[1:6])) == len(set(groups[6:8])) == len(set(groups[8:])) == 1
    assert len(set(groups)) == 3
    assert rules.are_padding_free(LENGTHS).tolist() == [False] + [True] * 5 + [False] * 4


def test_rules_of_an_earlier_version() -> None:
    kept = {"boundaries": [47], "alone_beyond": None, "positions": 96}
    assert BatchRules.from_json(kept) == BatchRules((47,), positions=96)


@pytest.mark.parametrize("rules", [BatchRules(), BatchRules((47, 60), 70, None, 9), BatchRules((), 0, positions=9)])
def test_as_json(rules: BatchRules) -> None:
    assert BatchRules.from_json(rules.to_json()) == rules


@pytest.mark.parametrize(
    "value",
    [None, {}, {"boundaries": [], "alone_beyond": None}]
    + [{"boundaries": [boundary], "alone_beyond": None, "positions": None} for boundary in (1.5, True)]
    + [{"boundaries": [], "alone_beyond": beyond, "positions": None} for beyond in (-1, "3", 2.5)]
    + [{"boundaries": [], "alone_beyond": None, "positions": positions} for positions in (-1, "3", 2.5)]
    + [{**BatchRules().to_json(), "padding_free_up_to": tokens} for tokens in (-1, "3", 2.5, None, True)],
)
def test_what_is_no_rule(value: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        BatchRules.from_json(value)
