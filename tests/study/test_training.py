"""Fine-tuning on a tiny model: what is trained, on which tokens, and what is left as it was."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from hf_dlc import DLCScorer
from hf_dlc.study.measuring import held_out_losses, make_judge
from hf_dlc.study.options import TrainerOptions
from hf_dlc.study.training import train_lora
from tests.conftest import same_weights, weights
from tests.study.conftest import ROWS, losses_by_hand, mean_loss


def test_held_out_losses_are_those_of_the_model_with_its_adapters(scorer: DLCScorer) -> None:
    rows = Dataset.from_list([*ROWS[:20], {"instruction": "Say nothing.", "input": "", "output": ""}])
    encoded = scorer.tokenize(rows)
    options = TrainerOptions(epochs=2, learning_rate=0.02, trainer="transformers")
    untrained = held_out_losses(make_judge(scorer), rows)
    model = train_lora(scorer, encoded, options, 0)
    trained = held_out_losses(make_judge(scorer, model), rows)
    for found, sums, counts in (
        (trained, *losses_by_hand(model, encoded)),
        (untrained, *losses_by_hand(model.unload(), encoded)),
    ):
        assert found["loss per row"] == pytest.approx((sums / counts).mean(), abs=1e-4)
        assert found["loss per token"] == pytest.approx(sums.sum() / counts.sum(), abs=1e-4)


def test_only_adapters_are_trained(scorer: DLCScorer) -> None:
    before = weights(scorer.model)
    encoded = scorer.tokenize(Dataset.from_list(ROWS[:16]))
    plain = mean_loss(scorer.model, encoded)
    options = TrainerOptions(epochs=4, learning_rate=0.02, trainer="transformers")
    found = []
    for seed in (0, 0, 1):
        model = train_lora(scorer, encoded, options, seed)
        found.append(mean_loss(model, encoded))
        make_judge(scorer, model)  # merges a copy
        assert same_weights(model.unload(), before)
    assert found[0] < plain - 0.1  # it has learned
    assert found[0] == found[1] != found[2]  # a seed makes a model


def test_adapters_in_the_last_layers_only(scorer: DLCScorer) -> None:
    options = TrainerOptions(epochs=1, lora_layers=1, trainer="transformers")
    model = train_lora(scorer, scorer.tokenize(Dataset.from_list(ROWS[:8])), options, 0)
    adapted = {name.split(".layers.")[1].split(".")[0] for name, _ in model.named_parameters() if "lora_" in name}
    model.unload()
    assert scorer.model.config.num_hidden_layers > 1
    assert adapted == {str(scorer.model.config.num_hidden_layers - 1)}


def test_trl_trains_on_the_same_tokens(scorer: DLCScorer) -> None:
    pytest.importorskip("trl", reason="trains with TRL")
    encoded = scorer.tokenize(Dataset.from_list(ROWS[:16]))
    found = []
    for trainer in ("sft", "transformers"):
        options = TrainerOptions(epochs=2, learning_rate=0.02, lora_dropout=0.0, trainer=trainer)
        model = train_lora(scorer, encoded, options, 0)
        found.append(mean_loss(model, encoded))
        model.unload()
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    assert not scorer.model.is_activation_checkpointing  # no more than before


def test_what_trl_trained_is_measured(scorer: DLCScorer) -> None:
    """TRL leaves a forward on the model, which a copy with the adapters in its weights must not share."""
    pytest.importorskip("trl", reason="trains with TRL")
    rows, own_forward = Dataset.from_list(ROWS[:16]), vars(scorer.model).get("forward")
    options = TrainerOptions(epochs=2, learning_rate=0.02, lora_dropout=0.0, trainer="sft")
    model = train_lora(scorer, scorer.tokenize(rows), options, 0)
    found = held_out_losses(make_judge(scorer, model), rows)
    assert found["loss per token"] == pytest.approx(mean_loss(model, scorer.tokenize(rows)), rel=1e-4)
    assert vars(scorer.model).get("forward") is own_forward


def test_no_row_to_train_on(scorer: DLCScorer) -> None:
    rows = scorer.tokenize(Dataset.from_list([{**ROWS[0], "output": ""}]))
    with pytest.raises(ValueError, match="no row can be trained on"):
        train_lora(scorer, rows, TrainerOptions(), 0)


@pytest.mark.parametrize("trainer", ["sft", "transformers"])
def test_training_is_logged_where_it_is_asked_for(
    scorer: DLCScorer, monkeypatch: pytest.MonkeyPatch, trainer: str
) -> None:
    if trainer == "sft":
        pytest.importorskip("trl", reason="trains with TRL")
    logged: list[dict[str, float]] = []

    class Recorder(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            logged.append(logs)

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "recorder", Recorder)
    encoded = scorer.tokenize(Dataset.from_list(ROWS[:24]))
    for report_to in ("none", "recorder"):
        logged.clear()
        train_lora(
            scorer, encoded, TrainerOptions(epochs=1, batch_size=2, trainer=trainer, report_to=report_to), 0
        ).unload()
        assert bool([logs for logs in logged if "loss" in logs]) == (report_to != "none")
