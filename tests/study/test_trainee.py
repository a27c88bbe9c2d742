"""The model of a study: what is trained of it, how it is measured, and what is left as it was."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.study.options import TrainerOptions, TrainingOptions
from hf_dlc.study.states import States
from hf_dlc.study.trainee import Trainee
from hf_dlc.study.training import train_lora
from tests.conftest import same_weights, weights
from tests.study.conftest import ROWS, losses_by_hand


OPTIONS = {"epochs": 2, "learning_rate": 0.02, "batch_size": 4, "lora_dropout": 0.0, "lora_layers": 1}
CHOSEN = np.arange(0, 24, 2)


@pytest.fixture
def tokens(scorer: DLCScorer) -> Dataset:
    return scorer.tokenize(Dataset.from_list(ROWS[:30]))


def make(scorer: DLCScorer, tokens: Dataset, **options: Any) -> tuple[Trainee, States]:
    trainee = Trainee(scorer.model, TrainingOptions(**{**OPTIONS, **options}), tokens)
    return trainee, States.of(tokens).below(trainee.upper, scorer.model)


@pytest.mark.parametrize("layers", [1, None])
def test_training_behind_states_is_training_of_the_model(
    scorer: DLCScorer, tokens: Dataset, layers: int | None
) -> None:
    """The same adapters, order and steps as of the whole model by the trainer that everybody has."""
    trainee, states = make(scorer, tokens, lora_layers=layers)
    model = trainee.train(states, CHOSEN, seed=3)
    found = trainee.losses(model, states)
    model.unload()
    options = TrainerOptions(**{**OPTIONS, "lora_layers": layers}, trainer="transformers")
    whole = train_lora(scorer, tokens.select(CHOSEN), options, 3)
    sums, counts = losses_by_hand(whole, tokens)
    whole.unload()
    assert found == pytest.approx(sums / counts, abs=1e-4)
    assert np.abs(found - trainee.losses(trainee.upper, states)).max() > 0.1  # much was learned


@pytest.mark.parametrize("layers", [1, None])
def test_losses_are_those_of_the_scorer(scorer: DLCScorer, tokens: Dataset, layers: int | None) -> None:
    """Before training and after it, of the model with the adapters in its weights."""
    trainee, states = make(scorer, tokens, lora_layers=layers)
    rows = Dataset.from_list(ROWS[:30])
    config = DLCConfig(levels="single", scores=("plain_loss",))
    plain = DLCScorer(scorer.model, scorer.processor, config).score(rows)["dlc_plain_loss"][:]
    assert trainee.losses(trainee.upper, states) == pytest.approx(plain, abs=1e-5)
    model = trainee.train(states, CHOSEN, seed=0)
    merged = copy.deepcopy(model).merge_and_unload().whole(scorer.model)
    scored = DLCScorer(merged, scorer.processor, config).score(rows)["dlc_plain_loss"][:]
    found = trainee.losses(model, states)
    assert found == pytest.approx(scored, abs=1e-4)
    assert np.abs(found - plain).max() > 0.1
    sums, counts = losses_by_hand(trainee.whole(), tokens)
    assert found == pytest.approx(sums / counts, abs=1e-5)


def test_the_model_stays_as_it_was(scorer: DLCScorer, tokens: Dataset) -> None:
    before, modes = weights(scorer.model), [module.training for module in scorer.model.modules()]
    gradients = [parameter.requires_grad for parameter in scorer.model.parameters()]
    trainee, states = make(scorer, tokens)
    own = weights(trainee.upper)
    model = trainee.train(states, CHOSEN, seed=0)
    trainee.losses(model, states)
    trainee.whole()
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert same_weights(scorer.model, before)
    model.unload()
    assert same_weights(scorer.model, before)
    assert same_weights(trainee.upper, own)
    assert [module.training for module in scorer.model.modules()] == modes
    assert [parameter.requires_grad for parameter in scorer.model.parameters()] == gradients


def test_a_seed_makes_a_model(scorer: DLCScorer, tokens: Dataset) -> None:
    trainee, states = make(scorer, tokens, lora_dropout=0.1)
    found = []
    for seed in (0, 1, 0):
        model = trainee.train(states, CHOSEN, seed)
        found.append(trainee.losses(model, states))
        model.unload()
    assert np.array_equal(found[0], found[2])
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.parametrize(("steps", "expected"), [(None, [2, 2, 1, 2, 2, 1]), (7, [2, 2, 1] * 2 + [2]), (2, [2, 2])])
def test_rows_are_repeated_to_so_many_steps(
    scorer: DLCScorer, tokens: Dataset, steps: int | None, expected: list[int]
) -> None:
    trainee, states = make(scorer, tokens, batch_size=2)
    sizes: list[int] = []
    trainee.upper.register_forward_hook(lambda module, _, __: sizes.append(module.training))
    trainee.upper.head.register_forward_pre_hook(lambda module, _: sizes.append(len(module.places)))
    trainee.train(states, [3, 8, 1, 0, 5], 0, steps).unload()
    assert sizes[::2] == expected
    assert all(sizes[1::2])  # in the mode of training


def test_only_the_rows_that_were_chosen_are_trained_on(scorer: DLCScorer, tokens: Dataset) -> None:
    trainee, states = make(scorer, tokens)
    seen: list[list[int]] = []
    trainee.upper.register_forward_pre_hook(
        lambda _, __, given: seen.extend(row[row != -100].tolist() for row in given["labels"]), with_kwargs=True
    )
    trainee.train(states, [4, 9, 2], 0).unload()
    own = [[token for token in tokens[row]["labels"] if token != -100] for row in (4, 9, 2)]
    assert sorted(seen) == sorted(own * 2)  # epochs
    with pytest.raises(ValueError, match="no row can be trained on"):
        trainee.train(states, [], 0)


def test_states_are_computed_once(
    scorer: DLCScorer, tokens: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainee, states = make(scorer, tokens)
    found = trainee.read(tokens, tmp_path / "pool.safetensors", "one")
    assert torch.equal(found.inputs, states.inputs)
    computed: list[int] = []
    monkeypatch.setattr(States, "below", lambda self, *_: computed.append(1) or states)
    again = trainee.read(tokens, tmp_path / "pool.safetensors", "one")
    assert torch.equal(again.inputs, states.inputs)
    assert not computed
    trainee.read(tokens, tmp_path / "pool.safetensors", "other")  # other rows: the file is written anew
    assert computed
    assert trainee.read(tokens, tmp_path / "pool.safetensors", "other").labels.tolist() == states.labels.tolist()
    assert len(computed) == 1


def test_in_half_precision(llama_folder: Path) -> None:
    scorer = DLCScorer.from_pretrained(llama_folder, device="cpu", dtype="bfloat16", schedule="0")
    tokens = scorer.tokenize(Dataset.from_list(ROWS[:12]))
    trainee, states = make(scorer, tokens, lora_layers=1)
    assert trainee.upper.reads == "inputs_embeds"
    assert states.inputs.dtype == torch.bfloat16
    sums, counts = losses_by_hand(scorer.model, tokens)
    assert trainee.losses(trainee.upper, states) == pytest.approx(sums / counts, abs=0.05)
    model = trainee.train(states, range(12), 0)
    assert {one.dtype for one in model.parameters() if one.requires_grad} == {torch.float32}
    assert trainee.losses(model, states).mean() < (sums / counts).mean() - 0.1
