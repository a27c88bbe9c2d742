from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.masking import UnmaskableModelError, check_maskable
from tests.conftest import build_model


ROW = {"instruction": "Add.", "input": "2 and 3", "output": "The fox."}


class Twice(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


def _parametrized(layer: nn.Linear) -> None:
    parametrize.register_parametrization(layer, "weight", Twice())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layer: prune.l1_unstructured(layer, "weight", 0.3), r"by pruning. .*prune.remove\(module, 'weight'\)"),
        (_parametrized, r"by a parametrization. .*remove_parametrizations\(module, 'weight'\)"),
        (nn.utils.parametrizations.weight_norm, r"remove_parametrizations\(module, 'weight'\)"),
        (nn.utils.parametrizations.spectral_norm, r"remove_parametrizations\(module, 'weight'\)"),
        (nn.utils.spectral_norm, r"by spectral norm. .*remove_spectral_norm\(module\)"),
    ],
    ids=["pruning", "parametrization", "weight norm", "spectral norm", "old spectral norm"],
)
@pytest.mark.parametrize("name", ["model.layers.0.mlp.up_proj", "lm_head"])
def test_computed_weights(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, change: Callable, message: str, name: str
) -> None:
    change(llama.get_submodule(name))
    with pytest.raises(UnmaskableModelError, match=rf"`{name}.weight` must be a parameter, got .*{message}"):
        DLCScorer(llama, tokenizer)


def test_pruned_for_good(llama: PreTrainedModel) -> None:
    layer = llama.model.layers[0].mlp.up_proj
    prune.l1_unstructured(layer, "weight", 0.3)
    prune.remove(layer, "weight")
    check_maskable(llama)


class _Packed(nn.Module):
    """A layer that hides its weight in some way."""

    def __init__(self, linear: nn.Linear, how: str) -> None:
        super().__init__()
        weight = linear.weight.detach().clone()
        if how == "array":
            self.w = weight.numpy()
        elif how == "tensor":
            self.w = weight
        elif how == "buffer":
            self.register_buffer("w", weight)
        elif how == "int8 buffer":
            self.register_buffer("W_q", (weight * 100).to(torch.int8))


@pytest.mark.parametrize("how", ["array", "tensor", "buffer", "int8 buffer"])
def test_weights_that_are_no_parameters(llama: PreTrainedModel, how: str) -> None:
    for layer in llama.model.layers:
        layer.mlp.up_proj = _Packed(layer.mlp.up_proj, how)
    with pytest.raises(UnmaskableModelError, match=r"`model.layers.0.mlp.up_proj.(w|W_q)` must be a "):
        check_maskable(llama)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("dtype", [torch.qint8, torch.float16], ids=str)
def test_dynamically_quantised_parts(llama: PreTrainedModel, dtype: torch.dtype) -> None:
    names = {name for name, _ in llama.named_modules() if ".mlp." in name}
    quantised = torch.ao.quantization.quantize_dynamic(llama, names, dtype=dtype)
    with pytest.raises(UnmaskableModelError, match=r"`model.layers.0.mlp.\w+` must be .*torch.ao.nn.quantized"):
        check_maskable(quantised)


def test_positions_and_masks_are_no_weights() -> None:
    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.rand(4, 4))

    model = nn.Sequential(nn.Linear(4, 4), Rotary())
    model[0].register_buffer("causal_mask", torch.ones(4, 4, dtype=torch.uint8).tril())
    model[0].register_buffer("relative_position_index", torch.arange(16, dtype=torch.int32).view(4, 4))
    model[0].register_buffer("position_ids", torch.arange(4)[None])
    check_maskable(model)


def test_adapters_of_another_library(llama: PreTrainedModel) -> None:
    class WithAdapter(nn.Module):
        def __init__(self, linear: nn.Linear) -> None:
            super().__init__()
            self.linear, self.lora_A, self.lora_B = linear, nn.Linear(32, 2), nn.Linear(2, 64)

    llama.model.layers[1].mlp.up_proj = WithAdapter(llama.model.layers[1].mlp.up_proj)
    with pytest.raises(UnmaskableModelError, match=r"free of adapters, got `lora_A` in `model.layers.1.mlp.up_proj`"):
        check_maskable(llama)


class TestWrapped:
    def test_compiled(self, llama: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        options = DLCConfig(schedule="0, 0.2")
        expected = DLCScorer(copy.deepcopy(llama), tokenizer, options)([ROW])["dlc_loss"]
        scorer = DLCScorer(torch.compile(llama, backend="eager"), tokenizer, options)
        assert scorer([ROW])["dlc_loss"].tolist() == expected.tolist()
        assert scorer.model is llama

    def test_adapted(self, tokenizer: PreTrainedTokenizerBase) -> None:
        import peft

        model = peft.get_peft_model(build_model("llama"), peft.LoraConfig(r=2, target_modules=["q_proj"]))
        with pytest.raises(ValueError, match=r"got PeftModel.*`model.merge_and_unload\(\)`"):
            DLCScorer(model, tokenizer)

    def test_without_named_outputs(self, llama: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        llama.config.return_dict = False
        with pytest.raises(ValueError, match=r"got return_dict=False. Set model.config.return_dict = True"):
            DLCScorer(llama, tokenizer)
