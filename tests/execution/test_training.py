"""The cost of training: measured by real steps, which leave the model bit for bit what it was."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_dlc import DLCConfig, DLCScorer, RunEstimate
from hf_dlc.execution import training
from hf_dlc.execution.lora import LORA, LoraSettings
from hf_dlc.execution.training import frozen_copy, measure_training
from hf_dlc.study.options import TrainingOptions
from hf_dlc.study.training import lora_config
from tests.conftest import same_weights, weights
from tests.rows import ALPACA_ROWS, SKIPPED_ROWS, many_rows
from tests.scorer import test_agreement


ROWS = [*many_rows(20), *ALPACA_ROWS, *SKIPPED_ROWS.values()]


def everything(model: torch.nn.Module) -> list[Any]:
    """All of a model that a step of training might change, but for the numbers of its weights."""
    modules = [(name, type(module), module.training, sorted(vars(module))) for name, module in model.named_modules()]
    parameters = [
        (name, id(one), one.requires_grad, one.grad is None, one.dtype, one.data_ptr())
        for name, one in model.named_parameters()
    ]
    return [modules, parameters, sorted(vars(model)), vars(model.config).copy()]


@pytest.fixture
def measure(make_scorer: Callable) -> Callable[..., RunEstimate]:
    def run(name: str = "llama", **options: Any) -> RunEstimate:
        return make_scorer(name, **options).estimate(Dataset.from_list(ROWS), training=True)

    return run


class TestCost:
    @pytest.mark.parametrize("name", ["llama", "llama_tied", "gpt2"])
    def test_is_measured(self, measure: Callable, name: str, recwarn: pytest.WarningsRecorder) -> None:
        found = measure(name)
        assert [str(one.message) for one in recwarn if one.category is FutureWarning] == []  # of peft
        assert found.training_unknown is None
        assert 0 < found.training_seconds < 60
        assert found.scoring_training_ratio == found.seconds / found.training_seconds
        assert "; one epoch of LoRA training on these rows: " in str(found)

    def test_is_not_measured_unasked(self, make_scorer: Callable) -> None:
        found = make_scorer().estimate(Dataset.from_list(ROWS))
        assert (found.training_seconds, found.scoring_training_ratio) == (None, None)
        assert "training" not in str(found)

    def test_is_of_the_steps_of_an_epoch(self, make_scorer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        """A step of n tokens takes n ms here: an epoch takes as many as there are padded tokens."""
        task = make_scorer().parts.task
        rows = task.encode(ROWS)
        given: list[int] = []

        class Steps:
            def __enter__(self) -> tuple[Callable, None]:
                return self.step, None

            def step(self, rows: list) -> float:
                given.append(len(rows))
                return 1e-3 * len(rows) * max(row.length for row in rows)

            def __exit__(self, *_: object) -> None:
                pass

        monkeypatch.setattr(training, "_trainer", lambda task: Steps())
        lengths = sorted((row.length for row in rows if row.length), reverse=True)
        parts = [lengths[start : start + 8] for start in range(0, len(lengths), 8)]
        padded = sum(len(part) * part[0] for part in parts)
        assert measure_training(task, rows).seconds == pytest.approx(1e-3 * padded)
        assert measure_training(task, rows, num_processes=2).seconds == pytest.approx(1e-3 * padded / 2)
        assert given[0] == 1
        assert set(given[1:4]) <= {LORA.batch_size, len(parts[-1])}

    def test_slow_steps_are_few_and_small_and_said(
        self, make_scorer: Callable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        monkeypatch.setattr(training, "_MOST_SECONDS", 0.0)
        batches: list[int] = []
        task = make_scorer().parts.task
        batch_of = type(task).training_batch
        monkeypatch.setattr(
            type(task), "training_batch", lambda self, rows: batches.append(len(rows)) or batch_of(self, rows)
        )
        assert measure_training(task, task.encode(ROWS)).seconds > 0
        assert batches == [1, 1]
        assert "measured by steps of 1 row(s)" in caplog.text

    def test_a_step_learns(self, make_scorer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        """Forward, backward and optimizer are those of training: the same step again has a lower loss."""
        task, losses = make_scorer().parts.task, []
        rows = [row for row in task.encode(many_rows(8)) if row.length]
        monkeypatch.setattr(training, "LORA", LoraSettings(learning_rate=0.01, dropout=0.0))
        adapters = training._with_adapters

        def watched(*arguments: Any) -> Any:
            model = adapters(*arguments)
            model.register_forward_hook(lambda _, __, output: losses.append(output.loss.item()))
            return model

        monkeypatch.setattr(training, "_with_adapters", watched)
        with training._trainer(task, seed=0) as (step, _):
            for _ in range(6):
                step(rows)
        assert losses[-1] < losses[0] - 1  # by 2.8 to 3.0 with any of a dozen seeds
        plain = task.forward(rows, make_scorer().parts.engine.passes([0.0]).popitem()[1]).values["loss"].numpy()
        tokens = np.array([row.target_tokens for row in rows])
        assert losses[0] == pytest.approx(np.average(plain, weights=tokens), abs=1e-4)  # on the very target tokens

    def test_settings_are_those_of_the_study(self) -> None:
        options = TrainingOptions()
        config = lora_config(options, 2)
        assert (config.r, config.lora_alpha, config.lora_dropout) == (LORA.rank, LORA.alpha, LORA.dropout)
        assert (options.batch_size, options.learning_rate) == (LORA.batch_size, LORA.learning_rate)
        assert config.target_modules == "all-linear"

    def test_of_images_with_a_trained_head(self) -> None:
        images = test_agreement.TestImages()
        found = images.scorer(head="classifier").estimate(images.dataset(), training=True)
        assert (found.training_unknown, found.training_seconds > 0) == (None, True)

    def test_text(self) -> None:
        found = RunEstimate(1, {}, 0, 1, 1, 1, 4620.0, 1, training_seconds=3300.0)
        assert str(found).endswith("; scoring 1 h 17 min; one epoch of LoRA training on these rows: 55 min; STR 1.4")


class TestModel:
    @pytest.mark.parametrize("is_training", [False, True])
    @pytest.mark.parametrize("name", ["llama_tied", "gpt2"])
    def test_is_what_it_was(self, make_scorer: Callable, name: str, is_training: bool) -> None:
        scorer = make_scorer(name)
        scorer.model.train(is_training)
        next(scorer.model.parameters()).requires_grad = False
        before, state, random = weights(scorer.model), everything(scorer.model), torch.get_rng_state()
        assert scorer.estimate(Dataset.from_list(ROWS), training=True).training_seconds
        assert same_weights(scorer.model, before)
        assert everything(scorer.model) == state
        assert torch.equal(torch.get_rng_state(), random)

    @pytest.mark.parametrize("where", ["forward", "step", "adapters"])
    def test_also_when_a_step_fails(self, make_scorer: Callable, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("out of luck")

        scorer = make_scorer()
        before, state = weights(scorer.model), everything(scorer.model)
        if where == "adapters":
            monkeypatch.setattr(training, "_with_adapters", fail)
        elif where == "step":
            monkeypatch.setattr(torch.optim.AdamW, "step", fail)
        else:
            monkeypatch.setattr(type(scorer.parts.task), "training_batch", fail)
        found = scorer.estimate(Dataset.from_list(ROWS), training=True)
        assert found.training_seconds is None
        assert "a step of training failed: RuntimeError: out of luck" in str(found)
        assert same_weights(scorer.model, before)
        assert everything(scorer.model) == state
        assert scorer.score(Dataset.from_list(ROWS))["dlc_loss"][0] > 0

    def test_also_when_it_is_interrupted(self, make_scorer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        scorer = make_scorer()
        before, state = weights(scorer.model), everything(scorer.model)
        monkeypatch.setattr(torch.optim.AdamW, "step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            scorer.estimate(Dataset.from_list(ROWS), training=True)
        assert same_weights(scorer.model, before)
        assert everything(scorer.model) == state

    def test_a_copy_takes_no_memory_for_weights(self, make_scorer: Callable) -> None:
        model = make_scorer("llama_tied").model
        copied = frozen_copy(model)
        for (name, one), (_, other) in zip(model.named_parameters(), copied.named_parameters(), strict=True):
            assert one.data_ptr() == other.data_ptr(), name
            assert (one is not other, other.requires_grad) == (True, False)
        assert copied.lm_head.weight is copied.model.embed_tokens.weight
        assert not {id(one) for one in model.modules()} & {id(one) for one in copied.modules()}


class TestUnknown:
    def test_experts(self, measure: Callable) -> None:
        """With the dropout of a study, peft has no adapters for them; a study could not train them either."""
        assert "does not work with lora_dropout" in measure("mixtral").training_unknown

    def test_prototypes(self) -> None:
        images = test_agreement.TestImages()
        scorer = images.scorer(head="prototype").fit(images.dataset())
        found = scorer.estimate(images.dataset(), training=True)
        assert (found.training_seconds, found.scoring_training_ratio) == (None, None)
        assert "is not known: images that are scored by prototypes have no head to train" in str(found)

    def test_no_row(self, make_scorer: Callable) -> None:
        found = make_scorer().estimate(Dataset.from_list([SKIPPED_ROWS["empty"]]), training=True)
        assert found.training_unknown == "no row can be trained on"

    def test_too_little_memory(self, make_scorer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(training, "free_memory", lambda device: 1000)
        found = make_scorer().estimate(Dataset.from_list(ROWS), training=True)
        assert "MemoryError: a row of" in found.training_unknown

    def test_a_task_that_does_not_say(self) -> None:
        assert "does not say" in measure_training(object(), []).why_unknown


def test_other_dtypes(make_model: Callable, tokenizer: Any) -> None:
    scorer = DLCScorer(make_model("llama").to(torch.bfloat16), tokenizer, DLCConfig(schedule="0, 0.1"))
    before = weights(scorer.model)
    assert scorer.estimate(Dataset.from_list(ROWS[:9]), training=True).training_seconds > 0
    assert same_weights(scorer.model, before)
