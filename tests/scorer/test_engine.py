"""The engine that `map` and `score` share, and its masker, which keeps the model in eval mode."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from transformers import PreTrainedModel

from hf_dlc.scorer.engine import ScoringMasker


WAYS: dict[str, Callable] = {"session": lambda masker: masker.session((0.0, 0.1)), "unmasked": ScoringMasker.unmasked}


@pytest.mark.parametrize("way", WAYS)
def test_the_mode_is_that_of_scoring_and_then_what_it_was(llama: PreTrainedModel, way: str) -> None:
    llama.train()
    llama.model.layers[1].training = False
    before = {name: module.training for name, module in llama.named_modules()}

    def fail() -> None:
        with WAYS[way](ScoringMasker(llama)):
            assert not any(module.training for module in llama.modules())
            raise ValueError("out of luck")

    with pytest.raises(ValueError, match="out of luck"):
        fail()
    assert {name: module.training for name, module in llama.named_modules()} == before


@pytest.mark.parametrize("second", WAYS)
@pytest.mark.parametrize("first", WAYS)
def test_who_waits_for_a_model_in_training_is_not_handed_it_in_that_mode(
    llama: PreTrainedModel, first: str, second: str
) -> None:
    llama.train()
    one, other = ScoringMasker(llama), ScoringMasker(llama)
    modes, begun = [], threading.Event()

    def wait_and_look() -> None:
        begun.set()
        with WAYS[second](other):
            modes.append(llama.training)

    thread = threading.Thread(target=wait_and_look)
    with WAYS[first](one):
        thread.start()
        assert begun.wait(30)
        thread.join(0.2)
        assert thread.is_alive()
    thread.join(30)
    assert modes == [False]
    assert llama.training


def test_without_work_the_model_is_left_alone(make_scorer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_scorer().parts.engine
    monkeypatch.setattr(engine, "masker", None)
    found = engine.run(engine.views([]), [[], [], []], engine.passes((0.0, 0.1, 0.3)))
    assert {name: (values.shape, values.dtype.name) for name, values in found.items()} == {
        "confidence": ((3, 0), "float32"),
        "loss": ((3, 0), "float32"),
    }
