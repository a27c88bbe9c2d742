"""Scores and selections are those that were recorded before the code was taken apart, bit for bit."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.laws.recorded import NUMBERS, RECORDED, WAYS, arithmetic, numbers, selections


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    return json.loads(RECORDED.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def rounds_alike(recorded: dict[str, Any]) -> bool:
    """Whether this machine computes the bare model as the one did that recorded."""
    return arithmetic() == recorded["arithmetic"]


@pytest.mark.parametrize("way", WAYS)
def test_scores_are_those_that_were_recorded(way: str, recorded: dict[str, Any], rounds_alike: bool) -> None:
    found, before = numbers(WAYS[way]()), recorded["scores"][way]
    assert [found["status"], found["tokens"]] == [before["status"], before["tokens"]]
    for name in NUMBERS:
        now, then = (np.array(values[name], dtype=np.float32) for values in (found, before))
        if rounds_alike:
            np.testing.assert_array_equal(now, then, err_msg=name)
        else:
            np.testing.assert_allclose(now, then, rtol=1e-4, atol=1e-5, err_msg=name)


def test_selections_are_those_that_were_recorded(recorded: dict[str, Any]) -> None:
    assert selections() == recorded["selections"]
