from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers
from torch import nn

from hf_dlc.masking import UnmaskableModelError, check_maskable, find_targets


LLAMA_LAYER = {
    "self_attn.q_proj.weight": (32, 32),
    "self_attn.k_proj.weight": (16, 32),
    "self_attn.v_proj.weight": (16, 32),
    "self_attn.o_proj.weight": (32, 32),
}
DENSE_MLP = {
    "mlp.gate_proj.weight": (64, 32),
    "mlp.up_proj.weight": (64, 32),
    "mlp.down_proj.weight": (32, 64),
}
# Shapes of the masked parameters of a layer, in order, and the number of masked weights of the whole model.
CENSUS = {
    "llama": ("model.layers", {**LLAMA_LAYER, **DENSE_MLP}, 18_432),
    "llama_tied": ("model.layers", {**LLAMA_LAYER, **DENSE_MLP}, 18_432),
    "gpt2": (
        "transformer.h",
        {
            "attn.c_attn.weight": (32, 96),
            "attn.c_proj.weight": (32, 32),
            "mlp.c_fc.weight": (32, 128),
            "mlp.c_proj.weight": (128, 32),
        },
        24_576,
    ),
    "mixtral": (
        "model.layers",
        {**LLAMA_LAYER, "mlp.experts.gate_up_proj": (4, 96, 32), "mlp.experts.down_proj": (4, 32, 48)},
        43_008,
    ),
    "qwen3_moe": (
        "model.layers",
        {**LLAMA_LAYER, "mlp.experts.gate_up_proj": (4, 48, 32), "mlp.experts.down_proj": (4, 32, 24)},
        24_576,
    ),
    "gpt_oss": (
        "model.layers",
        {**LLAMA_LAYER, "mlp.experts.gate_up_proj": (4, 32, 96), "mlp.experts.down_proj": (4, 48, 32)},
        43_008,
    ),
}


@pytest.mark.parametrize("name", CENSUS)
def test_census(make_model: Callable, name: str) -> None:
    prefix, layer, total = CENSUS[name]
    targets = find_targets(make_model(name))
    expected = {f"{prefix}.{i}.{key}": shape for i in range(2) for key, shape in layer.items()}
    assert {target.name: tuple(target.parameter.shape) for target in targets} == expected
    assert sum(target.parameter.numel() for target in targets) == total
    assert [target.matrices for target in targets] == [4 if "experts" in target.name else 1 for target in targets]


def test_census_of_a_vision_transformer() -> None:
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=8,
    )
    targets = find_targets(transformers.ViTForImageClassification(config))
    assert {target.name: tuple(target.parameter.shape) for target in targets} == {
        "vit.layers.0.attention.q_proj.weight": (16, 16),
        "vit.layers.0.attention.k_proj.weight": (16, 16),
        "vit.layers.0.attention.v_proj.weight": (16, 16),
        "vit.layers.0.attention.o_proj.weight": (16, 16),
        "vit.layers.0.mlp.fc1.weight": (32, 16),
        "vit.layers.0.mlp.fc2.weight": (16, 32),
    }


def test_census_of_a_resnet() -> None:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    targets = find_targets(transformers.ResNetForImageClassification(config))
    assert {target.name: tuple(target.parameter.shape) for target in targets} == {
        "resnet.embedder.embedder.convolution.weight": (8, 3, 7, 7),
        "resnet.encoder.stages.0.layers.0.layer.0.convolution.weight": (8, 8, 3, 3),
        "resnet.encoder.stages.0.layers.0.layer.1.convolution.weight": (8, 8, 3, 3),
        "resnet.encoder.stages.1.layers.0.shortcut.convolution.weight": (16, 8, 1, 1),
        "resnet.encoder.stages.1.layers.0.layer.0.convolution.weight": (16, 8, 3, 3),
        "resnet.encoder.stages.1.layers.0.layer.1.convolution.weight": (16, 16, 3, 3),
    }


def test_linear_routers_and_heads_are_passed_over() -> None:
    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(4, 2)
            self.shared_expert_gate = nn.Linear(4, 1)
            self.router = nn.Sequential(nn.Linear(4, 2))
            self.gate_proj = nn.Linear(4, 8)
            self.score = nn.Linear(8, 3)
            self.cls_classifier = nn.Linear(8, 3)

    assert [target.name for target in find_targets(Mixture())] == ["gate_proj.weight"]


_ROUTED = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "head_dim": 8,
}


@pytest.mark.parametrize(
    ("build", "router", "masked"),
    [
        (
            lambda: transformers.DogeForCausalLM(
                transformers.DogeConfig(**_ROUTED, is_moe=True, num_experts=16, num_experts_per_tok=2)
            ),
            "mlp.router_gate.weight",
            "mlp.gate_proj.weight",
        ),
        (
            lambda: transformers.Gemma3nForCausalLM(
                transformers.Gemma3nTextConfig(
                    **{**_ROUTED, "intermediate_size": [48]},
                    hidden_size_per_layer_input=16,
                    vocab_size_per_layer_input=64,
                    laurel_rank=8,
                    num_kv_shared_layers=0,
                    layer_types=["full_attention"],
                    activation_sparsity_pattern=[0.0],
                )
            ),
            "altup.modality_router.weight",
            "per_layer_input_gate.weight",
        ),
    ],
    ids=["Doge", "Gemma 3n"],
)
def test_routers_of_families(build: Callable, router: str, masked: str) -> None:
    names = [name for name, _ in build().named_parameters()]
    targets = {target.name for target in find_targets(build())}
    assert any(name.endswith(router) for name in names)
    assert not any(name.endswith(router) for name in targets)
    assert any(name.endswith(masked) for name in targets)


def test_a_router_of_several_layers_is_known_by_its_class() -> None:
    class TopKRouter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down_proj, self.mlp = nn.Linear(4, 2), nn.Sequential(nn.Linear(2, 2))

    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.output_gate = TopKRouter(), nn.Linear(4, 4)
            self.modality_router, self.router_gate = nn.Linear(4, 2), nn.Linear(4, 2)

    assert [target.name for target in find_targets(Mixture())] == ["output_gate.weight"]


def test_parts_of_norms_are_passed_over() -> None:
    class GatedRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = nn.Linear(4, 4)

    class DbrxNormAttentionNorm(GatedRMSNorm):
        """No norm, but attention between two."""

    layers = nn.Sequential(GatedRMSNorm(), DbrxNormAttentionNorm(), nn.Linear(4, 4))
    assert [target.name for target in find_targets(layers)] == ["1.mlp.weight", "2.weight"]


def test_patch_embeddings_are_passed_over() -> None:
    class Vision(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution_embeddings = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2))  # CvT, in each of its stages
            self.vision_embed_tokens = nn.Linear(48, 8)  # Fuyu
            self.by_what_it_does = nn.Conv2d(3, 8, 4, stride=4)  # DINOv3 ConvNeXt
            self.stem = nn.Conv2d(3, 8, 7, stride=2)  # ResNet: its windows overlap
            self.downsample = nn.Conv2d(8, 8, 2, stride=2)

    assert [target.name for target in find_targets(Vision())] == ["stem.weight", "downsample.weight"]


def test_biases_and_scales_of_experts_are_passed_over() -> None:
    class TinyExperts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Parameter(torch.ones(2, 3, 4))
            self.up_bias = nn.Parameter(torch.ones(2, 1, 4))
            self.scale = nn.Parameter(torch.ones(2, 4))

    assert [target.name for target in find_targets(nn.Sequential(TinyExperts()))] == ["0.up"]


def test_names_are_without_wrappers(make_model: Callable) -> None:
    model = make_model("llama")
    names = [target.name for target in find_targets(model)]
    model.model.layers[1] = torch.compile(model.model.layers[1])
    wrapped = nn.DataParallel(torch.compile(model))
    assert [target.name for target in find_targets(wrapped)] == names
    assert any("_orig_mod" in name and name.startswith("module.") for name, _ in wrapped.named_parameters())


def test_head_of_a_wrapped_model_is_passed_over(make_model: Callable) -> None:
    names = [target.name for target in find_targets(nn.DataParallel(make_model("llama")))]
    assert "lm_head.weight" not in names


def test_shared_weights_are_one_target() -> None:
    first, second, third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    third.weight = nn.Parameter(first.weight.data)  # another `Parameter` over the same memory
    (target,) = find_targets(nn.Sequential(first, second, third, first))
    assert target.name == "0.weight"
    assert target.aliases == (third.weight,)


class TestTargetModules:
    def test_names(self, make_model: Callable) -> None:
        targets = find_targets(make_model("llama"), ["q_proj", "layers.1.mlp.up_proj"])
        assert [target.name for target in targets] == [
            "model.layers.0.self_attn.q_proj.weight",
            "model.layers.1.self_attn.q_proj.weight",
            "model.layers.1.mlp.up_proj.weight",
        ]

    def test_a_name_is_not_matched_within_a_piece(self, make_model: Callable) -> None:
        with pytest.raises(ValueError, match="matches none"):
            find_targets(make_model("llama"), ["proj"])

    def test_regular_expression_matches_whole_names(self, make_model: Callable) -> None:
        targets = find_targets(make_model("llama"), r".*layers\.0\..*(up|down)_proj")
        assert [target.name for target in targets] == [
            "model.layers.0.mlp.up_proj.weight",
            "model.layers.0.mlp.down_proj.weight",
        ]

    def test_experts_by_module_or_by_parameter(self, make_model: Callable) -> None:
        model = make_model("gpt_oss")
        both = [target.name for target in find_targets(model, ["1.mlp.experts"])]
        assert both == ["model.layers.1.mlp.experts.gate_up_proj", "model.layers.1.mlp.experts.down_proj"]
        assert [target.name for target in find_targets(model, r".*\.1\..*gate_up_proj")] == both[:1]

    def test_experts_whose_rows_are_stacked(self) -> None:
        config = transformers.DbrxConfig(
            d_model=32,
            n_heads=4,
            n_layers=1,
            max_seq_len=64,
            vocab_size=64,
            attn_config={"kv_n_heads": 2, "rope_theta": 10000.0},
            ffn_config={"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2},
        )
        names = {target.name.rpartition(".")[2] for target in find_targets(transformers.DbrxForCausalLM(config))}
        assert {"w1", "v1", "w2"} <= names

    def test_experts_hidden_by_a_kernel_are_refused(self, make_model: Callable) -> None:
        model = make_model("gpt_oss")
        for module in model.modules():
            if type(module).__name__ == "GptOssExperts":
                del module.gate_up_proj, module.down_proj  # as MXFP4 kernels do
        with pytest.raises(UnmaskableModelError, match="experts without weights among their parameters"):
            check_maskable(model)

    @pytest.mark.parametrize("name", ["llama", "llama_tied"])
    def test_the_head_is_refused(self, make_model: Callable, name: str) -> None:
        with pytest.raises(ValueError, match="must not name the output head or an embedding, got `lm_head`"):
            find_targets(make_model(name), ["q_proj", "lm_head"])

    def test_nothing_found_names_what_there_is(self, make_model: Callable) -> None:
        with pytest.raises(ValueError, match=r"got \['query_key_value'\].*`model.layers.0.self_attn.q_proj`.* more"):
            find_targets(make_model("llama"), ["query_key_value"])

    def test_model_without_matrices(self) -> None:
        with pytest.raises(ValueError, match="The model has no linear, convolution or expert weight"):
            find_targets(nn.LayerNorm(4))


def _with_weight(weight: torch.Tensor, kind: type[nn.Linear] = nn.Linear) -> nn.Module:
    linear = kind(8, 4, bias=False)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return nn.Sequential(linear)


class TestCheckMaskable:
    def test_plain_models_pass(self, make_model: Callable) -> None:
        for name in CENSUS:
            check_maskable(make_model(name))

    def test_a_config_entry_does_not_matter(self, make_model: Callable) -> None:
        model = make_model("llama")
        model.config.quantization_config = {"quant_method": "gguf"}
        check_maskable(model)

    def test_packed_four_bit(self) -> None:
        class Linear4bit(nn.Linear):
            pass

        model = _with_weight(torch.zeros(16, 1, dtype=torch.uint8), Linear4bit)
        with pytest.raises(UnmaskableModelError, match=r"`0.weight` .* got torch.uint8: the weights are quantised"):
            check_maskable(model)

    def test_eight_bit(self) -> None:
        with pytest.raises(UnmaskableModelError, match=r"got torch\.int8"):
            check_maskable(_with_weight(torch.zeros(4, 8, dtype=torch.int8)))

    def test_packed_shape(self) -> None:
        with pytest.raises(UnmaskableModelError, match=r"a packed weight of shape \(4, 2\) in place of \(4, 8\)"):
            check_maskable(_with_weight(torch.zeros(4, 2)))

    def test_float8(self) -> None:
        with pytest.raises(UnmaskableModelError, match=r"got torch.float8_e4m3fn: .*bfloat16"):
            check_maskable(_with_weight(torch.zeros(4, 8).to(torch.float8_e4m3fn)))

    def test_packed_buffer(self) -> None:
        model = nn.Sequential(nn.Linear(2, 2), nn.Module())
        model[1].register_buffer("qweight", torch.zeros(4, 4, dtype=torch.int32))
        with pytest.raises(UnmaskableModelError, match=r"`1.qweight` .* got torch.int32"):
            check_maskable(model)

    def test_tensor_subclass(self) -> None:
        class PackedTensor(torch.Tensor):
            pass

        model = _with_weight(torch.zeros(4, 8).as_subclass(PackedTensor))
        with pytest.raises(UnmaskableModelError, match="got a `PackedTensor`: the weights are quantised"):
            check_maskable(model)

    def test_offloaded(self, make_model: Callable) -> None:
        model = make_model("llama")
        model.model.layers[1].to("meta")
        with pytest.raises(
            UnmaskableModelError, match=r"`model.layers.1.\S+` must be in memory, .*without offloading"
        ):
            check_maskable(model)

    def test_sharded(self) -> None:
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
        try:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.tensor import Shard, distribute_tensor

            weight = distribute_tensor(torch.zeros(4, 8), init_device_mesh("cpu", (1,)), [Shard(0)])
            with pytest.raises(UnmaskableModelError, match=r"got a sharded `DTensor`.*data-parallel"):
                check_maskable(_with_weight(weight))
        finally:
            torch.distributed.destroy_process_group()

    def test_adapters(self, make_model: Callable) -> None:
        import peft

        model = peft.get_peft_model(make_model("llama"), peft.LoraConfig(r=2, target_modules=["q_proj"]))
        with pytest.raises(UnmaskableModelError, match=r"got a PEFT `Linear` at `.*q_proj`.*merge_and_unload\(\)"):
            check_maskable(model)
        check_maskable(model.merge_and_unload())
