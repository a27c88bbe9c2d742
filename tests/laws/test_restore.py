"""Law 1: after scoring, however it ends, the model is what it was. Law 4: the masks were real."""

from __future__ import annotations

import functools
import json
import random
import signal
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_dlc import DLCConfig, DLCScorer, LevelReport
from hf_dlc.tasks.text.task import CausalLMTask
from tests.conftest import MODEL_BUILDERS, same_weights, weights
from tests.rows import ALPACA_ROWS
from tests.set_ups import SET_UPS, set_up


DATASET = Dataset.from_list(ALPACA_ROWS)

WAYS: dict[str, Callable[[DLCScorer], Any]] = {
    "row": lambda scorer: scorer(ALPACA_ROWS[0]),
    "rows": lambda scorer: [scorer(row) for row in ALPACA_ROWS[:3]],
    "batch": lambda scorer: scorer(DATASET[:]),
    "map": lambda scorer: DATASET.map(scorer),
    "score": lambda scorer: scorer.score(DATASET),
    "report": lambda scorer: scorer.masking_report(),
}


def facts(model: PreTrainedModel) -> dict[str, Any]:
    """What a user could notice of a model besides its weights."""
    return {
        "training": {name: module.training for name, module in model.named_modules()},
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "config": model.config.to_json_string(),
        "generation": model.generation_config.to_json_string() if model.can_generate() else "",
        "places": {name: parameter.data_ptr() for name, parameter in model.named_parameters()},
        "learnable": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "inference": {name: parameter.is_inference() for name, parameter in model.named_parameters()},
        "device": str(model.device),
        "dtype": str(model.dtype),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "random": (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),  # noqa: NPY002
    }


def upset(model: PreTrainedModel) -> None:
    """Settings that are not the default, so that a default is not mistaken for what was there."""
    model.train()
    for module in list(model.modules())[2::3]:
        module.training = False
    model.config.use_cache = True
    model.get_input_embeddings().weight.requires_grad_(False)
    # Values that copies, sums and thresholds get wrong first.
    bias = next(parameter for name, parameter in model.named_parameters() if "layers.0" in name or "h.0" in name)
    bias.data.view(-1)[:3] = torch.tensor([0.0, -0.0, 1e-40])


@pytest.fixture
def failing_forward(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """`failing_forward(3, act)` lets `act` run within the third forward pass."""

    def arrange(count: int, act: Callable[[], None]) -> None:
        forward, calls = CausalLMTask.forward, []

        def patched(self: CausalLMTask, rows: Any, *others: Any) -> Any:
            calls.append(rows)
            if len(calls) == count:
                act()
            return forward(self, rows, *others)

        monkeypatch.setattr(CausalLMTask, "forward", patched)

    return arrange


class TestRestore:
    @pytest.mark.parametrize("masking", ["random", "magnitude"])
    @pytest.mark.parametrize("way", WAYS)
    def test_after_scoring(self, make_scorer: Callable, way: str, masking: str) -> None:
        scorer = make_scorer("gpt2", masking=masking)
        upset(scorer.model)
        before, noticed = weights(scorer.model), facts(scorer.model)
        WAYS[way](scorer)
        assert same_weights(scorer.model, before)
        assert facts(scorer.model) == noticed

    @pytest.mark.parametrize("name", MODEL_BUILDERS)
    def test_every_architecture(self, make_scorer: Callable, name: str) -> None:
        scorer = make_scorer(name)
        upset(scorer.model)
        before, noticed = weights(scorer.model), facts(scorer.model)
        scorer.score(DATASET)
        scorer(ALPACA_ROWS[0])
        assert same_weights(scorer.model, before)
        assert facts(scorer.model) == noticed

    @pytest.mark.parametrize("name", SET_UPS)
    def test_every_score(self, name: str) -> None:
        """Also those for which adapters are put on, layers are watched, or another model is loaded."""
        it = set_up(name)
        model = it.scorer.model
        before, noticed = weights(model), facts(model)
        it.read(it.scorer.score(it.rows))
        it.rows.map(it.scorer)
        assert same_weights(model, before)
        assert facts(model) == noticed

    @pytest.mark.parametrize("way", ["rows", "batch", "score"])
    @pytest.mark.parametrize("passes", [1, 2, 3])
    def test_after_an_error(self, make_scorer: Callable, failing_forward: Callable, way: str, passes: int) -> None:
        scorer = make_scorer(tokens_per_batch=10**5)  # a pass a level
        upset(scorer.model)
        scorer.parts.engine.check(200)  # has passes of its own, of made-up rows
        before, noticed = weights(scorer.model), facts(scorer.model)

        def fail() -> None:
            # The weights are masked right now; a row's first pass is the one with stacked weights beside the model's.
            assert same_weights(scorer.model, before) == (passes < (3 if way == "rows" else 2))
            raise ValueError("out of luck")

        failing_forward(passes, fail)
        with pytest.raises(ValueError, match="out of luck"):
            WAYS[way](scorer)
        assert same_weights(scorer.model, before)
        assert facts(scorer.model) == noticed

    @pytest.mark.parametrize("way", ["rows", "score"])
    def test_after_an_error_within_the_model(self, make_scorer: Callable, way: str) -> None:
        scorer = make_scorer()
        upset(scorer.model)
        head = scorer.model.lm_head
        before, noticed = weights(scorer.model), facts(scorer.model)
        # While the head runs, the body of the model is replaced by one that returns known states.
        head.forward = lambda _: pytest.fail("out of luck")
        with pytest.raises(pytest.fail.Exception, match="out of luck"):
            WAYS[way](scorer)
        del head.forward
        assert same_weights(scorer.model, before)
        assert facts(scorer.model) == noticed

    @pytest.mark.usefixtures("ctrl_c_raises")
    @pytest.mark.parametrize("way", ["rows", "score"])
    def test_after_an_interrupt(self, make_scorer: Callable, failing_forward: Callable, way: str) -> None:
        scorer = make_scorer(tokens_per_batch=10**5)
        upset(scorer.model)
        before, noticed = weights(scorer.model), facts(scorer.model)
        failing_forward(2, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            WAYS[way](scorer)
        assert same_weights(scorer.model, before)
        assert facts(scorer.model) == noticed
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_scores_after_an_error_are_those_of_before(self, make_scorer: Callable, failing_forward: Callable) -> None:
        scorer = make_scorer(tokens_per_batch=10**5)
        expected = scorer(DATASET[:])["dlc_loss"]
        failing_forward(3, lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scorer(DATASET[:])
        assert scorer(DATASET[:])["dlc_loss"].tolist() == expected.tolist()

    def test_scores_are_taken_in_eval_mode(self, make_scorer: Callable) -> None:
        scorer = make_scorer("gpt2")  # with dropout
        expected = scorer(DATASET[:])["dlc_loss"].tolist()
        scorer.model.train()
        assert scorer(DATASET[:])["dlc_loss"].tolist() == expected

    def test_training_goes_on(self, make_scorer: Callable) -> None:
        scorer = make_scorer()
        before = weights(scorer.model)
        scorer.score(DATASET)
        ids = torch.tensor([[1, 2, 3]])
        scorer.model(input_ids=ids, labels=ids).loss.backward()
        torch.optim.SGD(scorer.model.parameters(), lr=0.1).step()
        assert not same_weights(scorer.model, before)

    def test_within_a_user_s_inference_mode(self, make_scorer: Callable) -> None:
        scorer = make_scorer()
        before = weights(scorer.model)
        expected = scorer(DATASET[:])["dlc_loss"].tolist()
        with torch.inference_mode():
            assert scorer(DATASET[:])["dlc_loss"].tolist() == expected
        assert same_weights(scorer.model, before)
        assert not any(parameter.is_inference() for parameter in scorer.model.parameters())


class TestThreads:
    @pytest.mark.parametrize("second", ["same scorer", "same model"])
    def test_a_second_thread_waits(
        self, make_scorer: Callable, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch, second: str
    ) -> None:
        scorer = make_scorer()
        other = scorer if second == "same scorer" else DLCScorer(scorer.model, tokenizer, scorer.config)
        expected = scorer(DATASET[:])["dlc_loss"].tolist()
        before = weights(scorer.model)
        masked, go_on = threading.Event(), threading.Event()
        forward, seen = CausalLMTask.forward, []

        def patched(self: CausalLMTask, rows: Any, *others: Any) -> Any:
            seen.append(threading.current_thread().name)
            if len(seen) == 2:
                masked.set()
                assert go_on.wait(30)
            return forward(self, rows, *others)

        monkeypatch.setattr(CausalLMTask, "forward", patched)
        found: dict[str, list[float]] = {}

        def run(name: str, who: DLCScorer) -> None:
            found[name] = who(DATASET[:])["dlc_loss"].tolist()

        threads = [
            threading.Thread(target=run, args=(name, who), name=name) for name, who in (("1", scorer), ("2", other))
        ]
        threads[0].start()
        assert masked.wait(30)
        threads[1].start()
        threads[1].join(0.3)
        assert threads[1].is_alive()
        assert set(seen) == {"1"}
        go_on.set()
        for thread in threads:
            thread.join(30)
        assert seen == sorted(seen)
        assert found == {"1": expected, "2": expected}
        assert same_weights(scorer.model, before)


class TestMasksAreReal:
    @pytest.mark.parametrize("masking", ["random", "magnitude"])
    def test_report_counts_what_the_model_computes_with(
        self, make_scorer: Callable, monkeypatch: pytest.MonkeyPatch, masking: str
    ) -> None:
        scorer = make_scorer(masking=masking, tokens_per_batch=10**5)
        layers = scorer.model.model.layers
        matrices = [module.weight for module in layers.modules() if isinstance(module, torch.nn.Linear)]
        matrices[0].data[:2] = 0.0
        zeros = []
        forward = CausalLMTask.forward

        def counting(self: CausalLMTask, rows: Any, *others: Any) -> Any:
            zeros.append(sum(int((matrix == 0).sum()) for matrix in matrices))
            return forward(self, rows, *others)

        monkeypatch.setattr(CausalLMTask, "forward", counting)
        scorer.score(DATASET)
        report = scorer.masking_report()
        maskable = sum(matrix.numel() for matrix in matrices)
        zeros = list(dict.fromkeys(zeros))  # there are several micro-batches a level
        assert zeros[0] == 2 * 32
        assert [level.masked for level in report] == [count - zeros[0] for count in zeros]
        assert {(level.maskable, level.zeros_before) for level in report} == {(maskable, 64)}
        assert [(level.level, level.masked_fraction) for level in report] == [(0, 0.0), (1, 0.1), (2, 0.3)]
        assert zeros[2] / maskable == pytest.approx(0.3, abs=0.01)

    def test_report_is_plain_data(self, make_scorer: Callable) -> None:
        report = make_scorer(schedule="0").masking_report()
        assert report == [LevelReport(level=0, masked_fraction=0.0, maskable=18432, masked=0, zeros_before=0)]
        assert json.dumps(vars(report[0]))

    def test_embeddings_and_head_are_not_masked(self, make_scorer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("llama", "llama_tied"):
            scorer = make_scorer(name)
            kept = [scorer.model.get_input_embeddings().weight, scorer.model.get_output_embeddings().weight]
            before = [weight.clone() for weight in kept]
            forward = CausalLMTask.forward

            def checking(
                self: CausalLMTask,
                rows: Any,
                *others: Any,
                kept: Any = kept,
                before: Any = before,
                forward: Any = forward,
            ) -> Any:
                assert all(map(torch.equal, kept, before))
                return forward(self, rows, *others)

            with monkeypatch.context() as patch:
                patch.setattr(CausalLMTask, "forward", checking)
                scorer.score(DATASET)

    @pytest.mark.parametrize("way", ["row", "batch", "score"])
    def test_a_model_with_its_own_copy_of_the_weights_is_found_out(
        self, llama: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, way: str
    ) -> None:
        for module in llama.model.layers.modules():
            if isinstance(module, torch.nn.Linear):
                module.forward = functools.partial(F.linear, weight=module.weight.detach().clone())
        scorer = DLCScorer(llama, tokenizer, DLCConfig(schedule="0, 0.1, 0.3"))
        before = weights(llama)
        with pytest.raises(RuntimeError, match="does not compute with the weights that were masked"):
            WAYS[way](scorer)
        assert same_weights(llama, before)

    def test_at_the_unmasked_level_alone_there_is_nothing_to_find(
        self, llama: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        for module in llama.model.layers.modules():
            if isinstance(module, torch.nn.Linear):
                module.forward = functools.partial(F.linear, weight=module.weight.detach().clone())
        scored = DLCScorer(llama, tokenizer, DLCConfig(schedule="0")).score(DATASET)
        assert set(scored["dlc_status"]) == {"ok"}
