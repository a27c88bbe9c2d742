from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from hf_dlc import DLCScorer
from hf_dlc.scorer import model as loading
from tests.conftest import SCHEDULE, build_model, build_tokenizer


ROW = {"instruction": "Add.", "input": "2 and 3", "output": "The fox."}
LLAMA = {
    "vocab_size": 384,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "pad_token_id": 0,
}
UP = "model.layers.0.mlp.up_proj"


def load(folder: Path | str, **options: Any) -> DLCScorer:
    return DLCScorer.from_pretrained(folder, **{"schedule": SCHEDULE, "dtype": "float32", **options})


def save(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def with_options(folder: Path, **options: Any) -> Path:
    """Change the config.json of a folder."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **options}))
    return folder


@pytest.fixture
def folder(llama_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama that may be changed."""
    return Path(shutil.copytree(llama_folder, tmp_path / "model"))


def with_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    path = folder / "model.safetensors"
    weights = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(change(weights), path, metadata={"format": "pt"})
    return folder


class TestWeights:
    """What is not in the checkpoint would be random, and every row would still be `ok`."""

    @pytest.mark.parametrize(
        ("kind", "tied", "message"),
        [
            ("LlamaModel", False, r"lacks 1 of the weights of LlamaForCausalLM, such as lm_head.weight.* LlamaModel:"),
            (
                "LlamaForSequenceClassification",
                False,
                r"lacks 1 .*lm_head.weight.*LlamaForSequenceClassification, and it has score.weight.*reward model",
            ),
            (
                "LlamaForSequenceClassification",
                True,
                r"is of another model than LlamaForCausalLM.*score.weight: it looks like a classification or reward",
            ),
        ],
    )
    def test_another_kind_of_model(self, tmp_path: Path, kind: str, tied: bool, message: str) -> None:
        config = transformers.LlamaConfig(**LLAMA, tie_word_embeddings=tied)
        with pytest.raises(ValueError, match=message):
            load(save(getattr(transformers, kind)(config), tmp_path))

    def test_untied_config_with_a_tied_file(self, tmp_path: Path) -> None:
        config = transformers.LlamaConfig(**LLAMA, tie_word_embeddings=True)
        folder = save(transformers.LlamaForCausalLM(config), tmp_path)
        with pytest.raises(ValueError, match=r"such as lm_head.weight.*set tie_word_embeddings to true"):
            load(with_options(folder, tie_word_embeddings=False))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda weights: {key.replace("proj.weight", "proj.q_weight"): x for key, x in weights.items()},
                r"lacks 14 .*up_proj.weight and 11 more: they would be random. It has .*q_weight.* looks quantised",
            ),
            (
                lambda weights: {key.replace("up_proj.w", "up_proj.base_layer.w"): x for key, x in weights.items()},
                r"lacks 2 .*base_layer.*adapters in it. Save it after `model.merge_and_unload\(\)`",
            ),
            (
                lambda weights: {f"_orig_mod.{key}": x for key, x in weights.items()},
                r"lacks 21 .*_orig_mod.*wrapped model",
            ),
            (
                lambda weights: {key: x for key, x in weights.items() if "layers.1." not in key},
                r"lacks 9 of the weights .*layers.1.*Save the whole model",
            ),
            (
                lambda weights: {**weights, f"{UP}.weight": torch.zeros(32, 32)},
                r"has 1 of another shape .*up_proj.weight \(\(32, 32\) in place of \(64, 32\)\)",
            ),
            (
                lambda weights: {
                    **weights,
                    f"{UP}.weight": torch.zeros(64, 4, dtype=torch.int32),
                    f"{UP}.scales": torch.ones(64, 1),
                },
                r"\(\(64, 4\) in place of \(64, 32\)\).*scales: it looks quantised",
            ),
        ],
        ids=["unknown quantisation", "adapters", "wrapped", "layers", "shape", "MLX"],
    )
    def test_parts_of_a_model(self, folder: Path, change: Callable, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            load(with_weights(folder, change))

    def test_what_was_left_out_is_named(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, "hf_dlc"):
            load(with_weights(folder, lambda weights: {**weights, "v_head.summary.weight": torch.zeros(1, 32)}))
        assert "1 tensors of the checkpoint" in caplog.text
        assert "left out, such as v_head.summary.weight" in caplog.text

    def test_layers_that_an_option_cuts_off_are_named(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        load(folder, model_kwargs={"num_hidden_layers": 1})
        assert "9 tensors of the checkpoint" in caplog.text

    @pytest.mark.parametrize("name", ["llama", "llama_tied", "gpt2", "mixtral", "gpt_oss"])
    def test_whole_models_have_the_same_scores(self, tmp_path: Path, name: str) -> None:
        model = build_model(name)
        expected = DLCScorer(model, build_tokenizer(), load(save(model, tmp_path)).config)([ROW])["dlc_loss"]
        for found in (tmp_path, self._sharded(model, tmp_path / "sharded"), self._pickled(tmp_path)):
            assert load(found)([ROW])["dlc_loss"].tolist() == expected.tolist()

    def test_the_body_of_a_tied_model_is_whole(self, tmp_path: Path) -> None:
        model = build_model("llama_tied")
        expected = load(save(model, tmp_path / "whole"))([ROW])["dlc_loss"]
        assert load(save(model.model, tmp_path / "body"))([ROW])["dlc_loss"].tolist() == expected.tolist()

    def test_the_untied_file_of_a_tied_config(self, folder: Path) -> None:
        expected = load(folder)([ROW])["dlc_loss"]
        assert load(with_options(folder, tie_word_embeddings=True))([ROW])["dlc_loss"].tolist() == expected.tolist()

    @staticmethod
    def _sharded(model: PreTrainedModel, folder: Path) -> Path:
        model.save_pretrained(folder, max_shard_size="20KB")
        build_tokenizer().save_pretrained(folder)
        assert len(list(folder.glob("*.safetensors"))) > 1
        return folder

    @staticmethod
    def _pickled(folder: Path) -> Path:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        return folder


class TestQuantisation:
    @pytest.mark.parametrize(
        "options",
        [
            {"quant_method": "gptq", "bits": 4},
            {"quant_method": "awq", "bits": 4},
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            {"quant_method": "torchao"},
            {"quant_method": "hqq"},
            {"quant_method": "compressed-tensors"},
            {"quant_method": "fp8"},
            {"quant_method": "mxfp4"},
            {"quant_method": "some-method-to-come"},
            {"group_size": 64, "bits": 4},
        ],
        ids=str,
    )
    def test_is_refused_from_the_config(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
    ) -> None:
        monkeypatch.setattr(loading, "_load_whole", lambda *_: pytest.fail("nothing should be loaded"))
        method = options.get("quant_method", "an unnamed method")
        with pytest.raises(ValueError, match=rf"is quantised \({method}\).*Load the unquantised model") as caught:
            load(with_options(folder, quantization_config=options))
        dequantises = method in ("compressed-tensors", "fp8", "mxfp4")
        assert ("dequantize=True" in str(caught.value)) == dequantises

    def test_what_is_dequantised_on_loading_is_scored(self, folder: Path) -> None:
        with_options(folder, quantization_config={"quant_method": "gguf", "dequantize": True})
        assert load(folder).model.dtype == torch.float32

    def test_what_is_asked_to_be_dequantised(self, folder: Path) -> None:
        with_options(folder, quantization_config={"quant_method": "fp8"})
        asked = {"quantization_config": transformers.FineGrainedFP8Config(dequantize=True)}
        assert load(folder, model_kwargs=asked)([ROW])["dlc_status"] == ["ok"]

    @pytest.mark.parametrize(
        "options",
        [
            {"load_in_8bit": True},
            {"load_in_4bit": True},
            {"quantization_config": transformers.BitsAndBytesConfig(load_in_8bit=True)},
            {"quantization_config": {"quant_method": "torchao"}},
        ],
        ids=["8bit", "4bit", "bitsandbytes", "dict"],
    )
    def test_asked_for(self, llama_folder: Path, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="model_kwargs must not ask for packed weights"):
            load(llama_folder, model_kwargs=options)


class TestTokenizers:
    @pytest.mark.parametrize("text", ['{"a": 1}', "[]"])
    def test_a_tokenizer_file_of_something_else(self, llama_folder: Path, tmp_path: Path, text: str) -> None:
        folder = shutil.copytree(llama_folder, tmp_path / "model")
        (folder / "tokenizer.json").write_text(text)
        with pytest.raises(ValueError, match="tokenizer"):
            load(folder)

    def test_no_subfolder(self, llama_folder: Path) -> None:
        scorer = DLCScorer.from_pretrained(llama_folder, model_kwargs={"subfolder": None}, schedule="0", device="cpu")
        assert scorer([ROW])["dlc_status"] == ["ok"]

    @pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3_moe", "mixtral"])
    def test_a_folder_without_one(
        self, make_model: Callable[[str], PreTrainedModel], name: str, tmp_path: Path
    ) -> None:
        """For some families transformers fails, for others it makes an empty tokenizer, which drops all text."""
        make_model(name).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"tokenizer.*Save it beside the model: tokenizer.save_pretrained"):
            DLCScorer.from_pretrained(tmp_path)


class TestModelKwargs:
    """Nothing that is passed is dropped."""

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"dtype": torch.float16}, r"hold dtype, got torch.float16.*DLCConfig\(dtype=\.\.\.\)"),
            ({"torch_dtype": "float16"}, r"hold torch_dtype, got 'float16'.*DLCConfig\(dtype=\.\.\.\)"),
            ({"dtype": "auto"}, r"DLCConfig\(dtype=\.\.\.\)"),
            ({"revision": "main"}, r"revision=\.\.\."),
            ({"task": "causal-lm"}, r"task=\.\.\."),
            ({"device": "cpu"}, r"device=\.\.\."),
            ({"config": "other"}, r"options that should differ by their names"),
            ({"output_loading_info": True}, "Leave it out"),
            ({"ignore_mismatched_sizes": True}, "another shape are an error"),
        ],
        ids=str,
    )
    def test_what_has_a_place_of_its_own(self, llama_folder: Path, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=rf"model_kwargs must not .*{message}"):
            load(llama_folder, model_kwargs=options)

    def test_device_and_map(self, llama_folder: Path) -> None:
        with pytest.raises(ValueError, match="pass device or a device_map, not both, got device='cpu'"):
            load(llama_folder, device="cpu", model_kwargs={"device_map": "cpu"})
        assert load(llama_folder, model_kwargs={"device_map": "cpu"}).model.device.type == "cpu"

    def test_unknown(self, llama_folder: Path) -> None:
        with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
            load(llama_folder, model_kwargs={"nonsense": 1})

    def test_no_named_outputs(self, folder: Path) -> None:
        expected = load(folder)([ROW])["dlc_loss"]
        assert load(with_options(folder, return_dict=False))([ROW])["dlc_loss"].tolist() == expected.tolist()


def _write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


class TestFolders:
    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({"adapter_config_DOT_json": '{"base_model_name_or_path": "me/base"}'}, "PEFT adapter for me/base.*Merge"),
            (
                {"adapter_config_DOT_json": "{}", "config_DOT_json": "{}"},
                r"is a PEFT adapter, not a whole model.*merge_and_unload\(\)",
            ),
            ({"adapter_config_DOT_json": "{"}, "is a PEFT adapter, not a whole model"),
            ({"adapter_config_DOT_json": "[]"}, "is a PEFT adapter, not a whole model"),
            ({"tokenizer_config_DOT_json": "{}", "tokenizer_DOT_json": "{}"}, "It is a tokenizer alone"),
            ({"model_index_DOT_json": "{}", "unet__config_DOT_json": "{}"}, "a pipeline of diffusers"),
            ({"checkpoint-5__config_DOT_json": "{}"}, "Pass the path of a model in it: checkpoint-5"),
            ({"a_DOT_gguf": ""}, r"Pass the path of a file in it: a\.gguf"),
            ({"training_args_DOT_bin": ""}, r"It holds training_args\.bin\. Pass a folder that model.save_pretrained"),
            ({"model_DOT_safetensors": ""}, r"It holds model\.safetensors"),
            ({}, "It holds nothing"),
        ],
        ids=[
            "adapter",
            "adapter and config",
            "adapter with half a file",
            "adapter with a list",
            "tokenizer",
            "diffusers",
            "run",
            "gguf",
            "arguments",
            "weights",
            "empty",
        ],
    )
    def test_no_model(self, tmp_path: Path, files: dict[str, str], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            load(_write(tmp_path, **files))

    def test_file(self, llama_folder: Path) -> None:
        with pytest.raises(ValueError, match=r"must be a folder with a config.json or a .gguf file, got the file"):
            load(llama_folder / "model.safetensors")

    def test_a_real_adapter(self, tmp_path: Path) -> None:
        import peft

        peft.get_peft_model(build_model("llama"), peft.LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(
            tmp_path
        )
        with pytest.raises(ValueError, match="is a PEFT adapter"):
            load(tmp_path)

    def test_an_adapter_on_the_hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = (
            _write(tmp_path, adapter_config_DOT_json='{"base_model_name_or_path": "me/base"}') / "adapter_config.json"
        )
        asked: list[dict[str, Any]] = []
        found = "transformers.utils.peft_utils.find_adapter_config_file"
        monkeypatch.setattr(found, lambda name, **options: asked.append({"name": name, **options}) or str(path))
        with pytest.raises(ValueError, match="me/adapter is a PEFT adapter for me/base"):
            load("me/adapter", revision="v1")
        assert asked == [{"name": "me/adapter", "revision": "v1"}]

    def test_a_repository_that_is_not_there(self) -> None:
        with pytest.raises(OSError, match=r"me/nothing|offline|connect"):
            load("me/nothing")

    def test_timm(self, tmp_path: Path) -> None:
        config = {"architecture": "resnet18", "model_type": "timm_wrapper", "num_classes": 3}
        with pytest.raises(ValueError, match="is an image model of timm"):
            load(_write(tmp_path, config_DOT_json=json.dumps(config)))
