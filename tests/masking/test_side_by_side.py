from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.masking import Masker
from hf_dlc.tasks.base import RowMeasures
from tests.laws.matrix.families import build_causal
from tests.laws.matrix.measure import measure


FRACTIONS = (0.0, 0.1, 0.3)
IDS = torch.arange(24).reshape(2, 12)


def held(model: torch.nn.Module) -> Masker:
    masker = Masker(model)
    masker.hold_levels(FRACTIONS)
    return masker


@pytest.mark.parametrize("name", ["llama", "llama_tied", "gpt2"])
def test_each_part_of_a_batch_meets_its_level(make_model: Callable, name: str) -> None:
    model = make_model(name)
    masker = held(model)
    with torch.no_grad(), masker.session(FRACTIONS) as session:
        expected = []
        for level in range(3):
            session.set_level(level)
            expected.append(model(IDS).logits)
        reports = session.report
    with torch.no_grad(), masker.side_by_side() as levels:
        logits = model(IDS.repeat(3, 1)).logits
        assert levels == reports
    torch.testing.assert_close(logits, torch.cat(expected), atol=1e-5, rtol=0)
    assert not torch.allclose(expected[0], expected[1], atol=1e-2)  # levels that are alike would prove little


def test_biases_are_added(make_model: Callable) -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(8, 8), Conv1D(4, 8))
    torch.nn.init.normal_(layers[0].bias)
    torch.nn.init.normal_(layers[1].bias)
    inputs = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = layers(inputs)
        with held(layers).side_by_side():
            torch.testing.assert_close(layers(inputs.repeat(3, 1, 1))[:1], expected)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_layers_are_put_back(llama: torch.nn.Module, error: type[BaseException]) -> None:
    expected = llama(IDS).logits
    with pytest.raises(error), held(llama).side_by_side():
        raise error
    assert not any("forward" in module.__dict__ for module in llama.modules())
    assert torch.equal(llama(IDS).logits, expected)


def test_a_change_of_the_weights_is_noticed(llama: torch.nn.Module) -> None:
    masker = held(llama)
    with torch.no_grad():
        llama.model.layers[0].mlp.up_proj.weight.mul_(2)
        expected = llama(IDS).logits
        with masker.side_by_side():
            torch.testing.assert_close(llama(IDS.repeat(3, 1)).logits[:2], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_mixtures_keep_to_one_level_at_a_time(make_model: Callable, name: str) -> None:
    assert not Masker(make_model(name)).fits_side_by_side


def test_layers_that_are_more_than_plain(make_model: Callable) -> None:
    assert Masker(make_model("llama")).fits_side_by_side
    replaced = make_model("llama")
    replaced.model.layers[0].mlp.up_proj.forward = lambda inputs: inputs
    shared = make_model("llama")
    shared.model.layers[0].mlp.up_proj.weight = shared.model.layers[0].mlp.gate_proj.weight
    masker = Masker(replaced)
    assert not masker.fits_side_by_side
    assert not Masker(shared).fits_side_by_side
    masker.hold_levels(FRACTIONS)
    with pytest.raises(RuntimeError, match="only when they are held and all layers are plain"), masker.side_by_side():
        pass


def test_levels_must_be_held(llama: torch.nn.Module) -> None:
    with pytest.raises(RuntimeError, match="only when they are held"), Masker(llama).side_by_side():
        pass


@pytest.mark.parametrize(
    ("name", "read"),
    [("mamba", {"mixer.dt_proj"}), ("falcon_mamba", {"mixer.dt_proj"}), ("llama", set()), ("bart", set())],
)
def test_weights_that_a_model_reads_itself(name: str, read: set[str]) -> None:
    """Asked for its dtype or shape, a weight is not read; nor is that of a layer that is never called, as in BART."""
    model = build_causal(name)
    masker = held(model)
    with torch.no_grad(), masker.side_by_side(), masker.watch_reads() as names:
        model(IDS.repeat(3, 1), use_cache=False)
    assert {".".join(name.split(".")[-3:-1]) for name in names} == read
    with torch.no_grad(), masker.watch_reads() as names:
        model(IDS, use_cache=False)
    assert names  # one level at a time, each layer reads its weight


class TestRows:
    """What the scorer makes of it."""

    ROW = {"instruction": "Name a colour.", "input": "", "output": "Red, yellow and blue."}  # noqa: RUF012

    def test_one_pass_a_row_after_the_first(self, make_scorer: Callable, passes: list[int]) -> None:
        scorer = make_scorer()
        first, second = scorer(self.ROW), scorer(self.ROW)
        assert passes == [3, 3, 3]  # a made-up row at all levels; then the rows
        assert first == second

    def test_a_model_that_mixes_rows_is_found_out(self, make_scorer: Callable) -> None:
        scorer = make_scorer()
        norm = scorer.model.model.norm
        norm.register_forward_hook(lambda _, __, states: states + 5 * states.roll(1, dims=0))
        batched = scorer([self.ROW])
        assert scorer(self.ROW)["dlc_loss"] == pytest.approx(batched["dlc_loss"][0], abs=1e-4)
        assert not scorer.parts.row_by_row.can_run_side_by_side(scorer.calibrate())

    def test_masks_that_do_not_reach_the_arithmetic(
        self, make_scorer: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scorer = make_scorer()
        scorer.parts.engine.check(100)  # looks at the model itself

        def forward(rows: list, measures: Any = (), *_: Any, **__: Any) -> RowMeasures:
            return RowMeasures({measure.name: torch.ones(len(rows)) for measure in measures}, torch.ones(len(rows), 4))

        monkeypatch.setattr(scorer.parts.task, "forward", forward)
        with pytest.raises(RuntimeError, match="hidden states of its first micro-batch are the same"):
            scorer(self.ROW)

    def test_a_layer_that_reads_no_rows(self) -> None:
        """The layers of Swin Transformer V2 that make the bias of positions read a table of them."""
        assert measure("swinv2").faults == []

    @pytest.mark.parametrize(
        ("name", "is_side_by_side"),
        [
            ("mamba", False),  # reads the weights of a layer itself
            ("falcon_mamba", False),
            ("bert", True),  # has a layer between body and output embeddings
            ("roberta", True),
            ("electra", True),
            ("modernbert-decoder", True),
            ("megatron-bert", True),
            ("bart", True),  # has layers that are never called
        ],
    )
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_families(
        self, tokenizer: PreTrainedTokenizerBase, name: str, is_side_by_side: bool, dtype: torch.dtype
    ) -> None:
        model = build_causal(name).to(dtype)
        scorer = DLCScorer(model, tokenizer, DLCConfig(schedule="0, 0.1, 0.3", keep_levels=True, max_length=94))
        rows = [{"instruction": "Say it.", "output": "word " * count} for count in (1, 4, 9)]
        batched = np.array([list(losses) for losses in scorer(rows)["dlc_level_loss"]])
        one_by_one = np.array([scorer(row)["dlc_level_loss"] for row in rows])
        half = dtype == torch.bfloat16
        np.testing.assert_allclose(one_by_one, batched, atol=0.1 if half else 1e-4, rtol=0)
        assert scorer.parts.row_by_row.can_run_side_by_side(scorer.calibrate()) == is_side_by_side
        assert np.abs(batched[:, 2] - batched[:, 0]).max() > 0.1  # levels that are alike would prove little
