"""Every family of transformers that can be built offline: scored as the model itself says, or refused in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
)

from hf_dlc.masking import targets
from hf_dlc.scorer import rowwise
from hf_dlc.tasks.text.head import OutputHead
from tests.laws.matrix.families import BODIES, CAUSAL, IMAGES, MOST_USED, REFUSED, UNBUILDABLE
from tests.laws.matrix.measure import Result, measure, measure_causal


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Plain `pytest` takes the most used families, `pytest -m matrix` all of them."""
    if "family" in metafunc.fixturenames:
        takes_all = "matrix" in metafunc.config.getoption("markexpr")
        metafunc.parametrize("family", [*CAUSAL, *IMAGES, *BODIES] if takes_all else MOST_USED)


@pytest.mark.matrix
def test_family(family: str) -> None:
    result = measure(family)
    assert result.faults == []
    if family in REFUSED:
        assert REFUSED[family] in result.verdict
    else:
        assert result.verdict == "ok"


def test_no_family_is_left_out() -> None:
    known = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES}
    assert known <= CAUSAL.keys() | IMAGES.keys() | UNBUILDABLE.keys()
    assert set(MOST_USED) <= CAUSAL.keys() | IMAGES.keys() | BODIES.keys()
    assert REFUSED.keys() <= CAUSAL.keys() | IMAGES.keys() | BODIES.keys()


class TestFaultsAreSeen:
    """A table of measurements that sees no fault would prove nothing."""

    def faults(self) -> str:
        return "; ".join(measure_causal("llama").faults)

    def test_another_loss(self, monkeypatch: pytest.MonkeyPatch) -> None:
        measure = OutputHead.measure

        def off(*arguments: Any) -> dict[str, torch.Tensor]:
            return {name: values * 1.001 for name, values in measure(*arguments).items()}

        monkeypatch.setattr(OutputHead, "measure", off)
        assert "level_0 off by" in self.faults()

    def test_another_score_row_by_row(self, monkeypatch: pytest.MonkeyPatch) -> None:
        run_row = rowwise.run_row

        def off(*arguments: Any) -> dict[str, np.ndarray]:
            return {name: values * 1.001 for name, values in run_row(*arguments).items()}

        monkeypatch.setattr(rowwise, "run_row", off)
        assert "row_by_row" in self.faults()

    def test_a_masked_head(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(targets, "_head_memory", lambda model: set())
        assert "masked against the rule: lm_head.weight" in self.faults()

    def test_weights_that_stay_masked(self, make_model: Callable[[str], PreTrainedModel]) -> None:
        model = make_model("llama")

        def forget(_module: torch.nn.Module, _inputs: Any, _output: Any) -> None:
            model.model.norm.weight.data.add_(1e-3)

        model.register_forward_hook(forget)
        assert "weights changed: model.norm.weight" in measure_causal("llama", model).faults

    def test_a_difference_that_is_no_number(self) -> None:
        assert Result("any", level_0=float("inf")).faults == ["level_0 off by inf"]
