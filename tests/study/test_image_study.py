"""Rows that the arms of a study on images choose, by the options of the run that scored them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from hf_dlc.selection import FlexRandSelector, RandomSelector, TopKSelector
from hf_dlc.selection.table import SELECTORS
from hf_dlc.study.image_study import ImageStudy, ImageStudyArguments


SCORED = Dataset.from_dict({"dlc_confidence": np.random.default_rng(0).random(60), "label": [0, 1, 2] * 20})
RUN = {"selector": "easiest", "keep": 0.5, "selection_split": 0.25, "selection_seed": 7, "min_per_group": 1}


def choose(arm: str) -> list[int]:
    record = SimpleNamespace(options={**RUN, "group_by": "label"}, selection_column="dlc_confidence")
    return ImageStudy.choose_rows(SimpleNamespace(record=record, scored=SCORED), arm, 0.3, 2).tolist()


def test_arms_choose_as_the_run_would() -> None:
    within: dict[str, Any] = {"keep": 0.3, "group_by": "label", "min_per_group": 1}
    expected = {
        "random": RandomSelector(**within, seed=2),
        "flexrand": FlexRandSelector(**within, split=0.25, seed=2),
        "flexrand@0.5": FlexRandSelector(**within, split=0.5, seed=2),
        "easiest": TopKSelector(**within),
        "hardest": TopKSelector(**within, which="hardest"),
    }
    for arm, selector in expected.items():
        assert choose(arm) == selector.read_indices(SCORED).tolist(), arm
    assert choose("full") == list(range(60))
    assert choose("flexrand") != choose("flexrand@0.5")


def test_a_new_selector_is_an_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SELECTORS, "other", SELECTORS["easiest"])
    assert ImageStudyArguments(eval_dataset="x", arms="full,other").arms == "full,other"
    with pytest.raises(ValueError, match=r"got other@0\.5, flexrand 0\.5, flexrand@, unknown\.$"):
        ImageStudyArguments(eval_dataset="x", arms="full,other@0.5,flexrand 0.5,flexrand@,unknown")
