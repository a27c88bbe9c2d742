"""Options of fine-tuning and of a study: what is refused, and what is found out."""

from __future__ import annotations

from typing import Any

import pytest

from hf_dlc.study import options as study_options
from hf_dlc.study.options import StudyArguments, TrainingOptions


def test_trl_trains_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    options = [TrainingOptions(trainer=name) for name in ("auto", "sft", "transformers")]
    for is_installed in (True, False):
        monkeypatch.setattr(study_options, "find_spec", lambda _, found=is_installed: object() if found else None)
        assert [one.uses_trl for one in options] == [is_installed, True, False]


def test_adapters_in_no_layer() -> None:
    with pytest.raises(ValueError, match="lora_layers must be at least 1"):
        TrainingOptions(lora_layers=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("budgets", [0.3, 2.0]), ("screening_budget", 0.0), ("seeds", 0), ("eval_rows", 0), ("num_finalists", 0)],
)
def test_options_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"budgets must be|must be at least 1"):
        StudyArguments(**{name: value})


@pytest.mark.parametrize("arm", ["random", "full"])
def test_what_every_arm_is_compared_with_is_none(arm: str) -> None:
    with pytest.raises(ValueError, match="which are always there"):
        StudyArguments(finalists=[arm])


@pytest.mark.parametrize("part", ["0/2", "3/2", "2", "x"])
def test_parts_that_are_none(part: str) -> None:
    with pytest.raises(ValueError, match="part must be like '2/8'"):
        StudyArguments(part=part)


@pytest.mark.parametrize("arm", ["best", "loss flexrand", "speed easiest", "loss flexrand x"])
def test_arms_that_are_none(arm: str) -> None:
    with pytest.raises(ValueError, match="an arm must be"):
        StudyArguments(arms=[arm])
