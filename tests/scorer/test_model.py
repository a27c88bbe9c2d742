from __future__ import annotations

import json
import logging
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from datasets.fingerprint import Hasher
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerBase

from hf_dlc import DLCConfig, DLCScorer, __version__
from hf_dlc.errors import DLCError
from hf_dlc.scorer import model as loading
from hf_dlc.scorer.model import ModelHandle, ModelSource, is_fast_at_bfloat16
from hf_dlc.scorer.saving import STATE_NAME
from hf_dlc.scorer.schedule import Schedule
from tests.conftest import SCHEDULE, build_tokenizer
from tests.rows import ALPACA_ROWS


def load(folder: Path, **options: Any) -> DLCScorer:
    return DLCScorer.from_pretrained(folder, **{"schedule": SCHEDULE, "dtype": "float32", "device": "cpu", **options})


def save_config(folder: Path, config: transformers.PreTrainedConfig) -> Path:
    config.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


class TestSource:
    def test_folder(self, llama_folder: Path) -> None:
        source = ModelSource.resolve(llama_folder, dtype="float16", device="cpu")
        assert source == ModelSource(str(llama_folder), None, "float16", "cpu", {})

    def test_hub_id_is_left_to_the_hub(self) -> None:
        assert ModelSource.resolve("owner/name", "v1", device="cpu", dtype="float32").model_id == "owner/name"
        assert ModelSource.resolve("gpt2", "v1", device="cpu", dtype="float32").revision == "v1"

    def test_gguf_file(self, tmp_path: Path) -> None:
        path = tmp_path / "m.gguf"
        path.touch()
        source = ModelSource.resolve(path, device="cpu", dtype="float32", model_kwargs={"token": "t"})
        assert (source.model_id, source.model_kwargs) == (str(tmp_path), {"token": "t", "gguf_file": "m.gguf"})

    @pytest.mark.parametrize("path", ["./no/model", "/no/model", "~/no/model", "a/b/c", "model.gguf", "../x"])
    def test_a_path_with_nothing_there(self, path: str) -> None:
        with pytest.raises(FileNotFoundError, match=r"there is no model at .*Pass a folder with a config\.json"):
            DLCScorer.from_pretrained(path)

    @pytest.mark.parametrize(("fast", "dtype"), [(True, "bfloat16"), (False, "float32")])
    def test_dtype_by_device(self, monkeypatch: pytest.MonkeyPatch, fast: bool, dtype: str) -> None:
        monkeypatch.setattr(loading, "is_fast_at_bfloat16", lambda _: fast)
        assert ModelSource.resolve("a/b", device="cpu").dtype == dtype
        assert ModelSource.resolve("a/b", device="cpu", dtype="float16").dtype == "float16"

    @pytest.mark.parametrize(
        ("capabilities", "fast"), [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx2": True}, False)]
    )
    def test_cpus(self, monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], fast: bool) -> None:
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
        assert is_fast_at_bfloat16(torch.device("cpu")) == fast

    def test_device_by_default(self) -> None:
        expected = "cuda" if torch.cuda.is_available() else "cpu"
        assert torch.device(ModelSource.resolve("a/b").device).type == expected


class TestFromPretrained:
    def test_model_and_options(self, llama_folder: Path) -> None:
        scorer = load(llama_folder, config=DLCConfig(seed=3, schedule="0, 0.5"), schedule="0, 0.2", dtype="bfloat16")
        assert (scorer.config.seed, scorer.config.schedule) == (3, "0, 0.2")
        assert scorer.model.dtype == torch.bfloat16
        assert not scorer.model.training
        assert scorer.processor.eos_token == "<|im_end|>"

    def test_same_scores_as_in_memory(self, llama_folder: Path, make_scorer: Callable) -> None:
        expected = make_scorer()(ALPACA_ROWS)
        found = load(llama_folder)(ALPACA_ROWS)
        assert found["dlc_loss"].tolist() == expected["dlc_loss"].tolist()

    def test_model_kwargs(self, llama_folder: Path) -> None:
        scorer = load(llama_folder, model_kwargs={"attn_implementation": "eager"})
        assert scorer.model.config._attn_implementation == "eager"

    def test_usual_arguments_stand_beside_the_options(self, llama_folder: Path, tmp_path: Path) -> None:
        usual = {"attn_implementation": "eager", "device_map": "cpu", "trust_remote_code": False, "token": "hf_secret"}
        scorer = DLCScorer.from_pretrained(llama_folder, dtype=torch.bfloat16, schedule="0", seed=3, **usual)
        assert scorer.parts.handle.source.model_kwargs == usual
        assert (scorer.model.config._attn_implementation, scorer.config.seed) == ("eager", 3)
        assert scorer.model.dtype == torch.bfloat16
        assert scorer.config.dtype == "bfloat16"
        scorer.save_pretrained(tmp_path)
        assert "hf_secret" not in "".join(path.read_text() for path in tmp_path.glob("*.json"))

    def test_an_argument_is_given_once_and_is_a_known_one(self, llama_folder: Path) -> None:
        with pytest.raises(ValueError, match="pass device_map once: by its name, or in model_kwargs"):
            DLCScorer.from_pretrained(llama_folder, device_map="cpu", model_kwargs={"device_map": "cpu"})
        with pytest.raises(TypeError, match=r"argument 'torch_dtype'\. Pass dtype="):
            DLCScorer.from_pretrained(llama_folder, torch_dtype=torch.float32)
        with pytest.raises(TypeError, match=r"argument 'seeds'\. Options are those of DLCConfig"):
            DLCScorer.from_pretrained(llama_folder, seeds=3)

    def test_given_config_stands_in_for_one_that_cannot_be_read(self, llama_folder: Path, tmp_path: Path) -> None:
        shutil.copytree(llama_folder, tmp_path / "model")
        (tmp_path / "model" / "dlc_config.json").write_text('{"masking": "bogus"}', encoding="utf-8")
        assert DLCScorer.from_pretrained(tmp_path / "model", config=DLCConfig(seed=3)).config.seed == 3
        with pytest.raises(ValueError, match="masking must be"):
            DLCScorer.from_pretrained(tmp_path / "model")

    def test_given_config_is_not_changed(self, llama_folder: Path) -> None:
        config = DLCConfig(schedule="0, 0.5")
        load(llama_folder, config=config, schedule="0, 0.2")
        assert config == DLCConfig(schedule="0, 0.5")

    def test_unknown_task(self) -> None:
        with pytest.raises(
            ValueError, match="task must be None or one of causal-lm, image-classification, got 'translation'"
        ):
            DLCScorer.from_pretrained("a/b", task="translation")

    def test_unknown_option(self, llama_folder: Path) -> None:
        with pytest.raises(TypeError, match="unexpected keyword argument 'sed'"):
            DLCScorer.from_pretrained(llama_folder, sed=1)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            (transformers.T5Config(num_layers=1), r"T5Config\) is an encoder-decoder model"),
            (transformers.LlavaConfig(), r"LlavaConfig\) is a vision-language or audio model"),
            (transformers.BertConfig(), r"BertConfig\) sees the very tokens .*is_decoder=False"),
            (transformers.DistilBertConfig(), r"DistilBertConfig\) has no causal language model in transformers"),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, transformers.PreTrainedConfig) else "",
    )
    def test_other_architectures_are_refused_before_the_weights_are_read(
        self, tmp_path: Path, config: transformers.PreTrainedConfig, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            DLCScorer.from_pretrained(save_config(tmp_path / "model", config), device="cpu")


_TINY = {
    "vocab_size": 384,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
_T5 = {"vocab_size": 384, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}


_XLNET = {"vocab_size": 384, "d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 32}


class TestWorkers:
    """Models that worker processes of `map` load, of which each has a number."""

    def handle(self, device: str = "cuda", **model_kwargs: Any) -> ModelHandle:
        return ModelHandle(ModelSource("m", device=device, model_kwargs=model_kwargs), digests=("a", "b"))

    @pytest.mark.parametrize(("rank", "device"), [(0, "cuda:0"), (1, "cuda:1"), (5, "cuda:1"), (None, "cuda")])
    def test_each_has_an_accelerator(self, rank: int | None, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.accelerator.device_count", lambda: 2)
        handle = self.handle()
        handle.place(rank)
        assert handle.source.device == device

    @pytest.mark.parametrize("handle", [{"device": "cpu"}, {"device_map": "auto"}])
    def test_nothing_else_is_moved(self, handle: dict[str, Any]) -> None:
        handle = self.handle(**handle)
        before = handle.source
        handle.place(1)
        assert handle.source == before

    def test_nor_is_a_model_that_is_here(self, llama_folder: Path) -> None:
        scorer = load(llama_folder)
        expected = scorer(ALPACA_ROWS[0])
        assert scorer(ALPACA_ROWS[0], 1) == expected
        assert scorer.parts.handle.source.device == "cpu"

    def test_a_forked_one_is_told_how_to_be_started_on_cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loading, "_IMPORTED_IN", 0)
        with pytest.raises(DLCError, match=r"multiprocess\.set_start_method\('spawn'\)"):
            _ = self.handle().model


class TestInMemory:
    @pytest.mark.parametrize(
        ("build", "message"),
        [
            (lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**_T5)), "is an encoder-decoder"),
            (
                lambda: transformers.BertForMaskedLM(transformers.BertConfig(**_TINY)),
                r"BertForMaskedLM .* sees the very tokens that it should predict",
            ),
            (
                lambda: transformers.DistilBertForMaskedLM(
                    transformers.DistilBertConfig(vocab_size=384, dim=32, n_layers=1, n_heads=2, hidden_dim=32)
                ),
                "has no causal language model in transformers",
            ),
            (
                lambda: transformers.LlamaModel(transformers.LlamaConfig(**_TINY)),
                "LlamaModel has no language modelling head on a body; load it with AutoModelForCausalLM",
            ),
            (
                lambda: transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**_TINY, pad_token_id=0)),
                "LlamaForSequenceClassification has no language modelling head",
            ),
            (lambda: transformers.XLNetLMHeadModel(transformers.XLNetConfig(**_XLNET)), "in permuted order"),
            (
                lambda: torch.nn.DataParallel(transformers.LlamaForCausalLM(transformers.LlamaConfig(**_TINY))),
                r"must be a transformers PreTrainedModel, got DataParallel. Pass what it wraps: `model.module`",
            ),
        ],
        ids=["encoder-decoder", "bidirectional", "no causal head", "no head", "classifier", "permuted", "wrapped"],
    )
    def test_other_models_are_refused(self, tokenizer: PreTrainedTokenizerBase, build: Callable, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            DLCScorer(build(), tokenizer)

    @pytest.mark.parametrize(
        "build",
        [
            lambda: transformers.BertLMHeadModel(transformers.BertConfig(**_TINY, is_decoder=True)),
            lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**_TINY)),
        ],
        ids=["BERT as a decoder", "GPT-NeoX"],
    )
    def test_causal_models_whose_flag_is_read(self, tokenizer: PreTrainedTokenizerBase, build: Callable) -> None:
        scorer = DLCScorer(build().eval(), tokenizer, DLCConfig(schedule="0"))
        rows = [
            {"input_ids": [9, 8, 7], "labels": [-100, 8, -100]},
            {"input_ids": [9, 8, 200], "labels": [-100, 8, -100]},
        ]
        one, other = scorer(rows)["dlc_loss"]
        assert one == pytest.approx(other, abs=1e-6)  # what follows the target is not seen


class TestSave:
    def test_round_trip(self, llama_folder: Path, tmp_path: Path) -> None:
        scorer = load(llama_folder, seed=5, keep_levels=True)
        scorer.save_pretrained(tmp_path / "scorer")
        assert sorted(path.name for path in (tmp_path / "scorer").iterdir()) == ["dlc_config.json"]
        record = json.loads((tmp_path / "scorer" / "dlc_config.json").read_text())
        assert record["base_model_name_or_path"] == str(llama_folder)
        assert (record["revision"], record["hf_dlc_version"], record["seed"]) == (None, __version__, 5)
        again = DLCScorer.from_pretrained(tmp_path / "scorer", device="cpu")
        assert again.config == scorer.config
        assert Hasher.hash(again) == Hasher.hash(scorer)

    def test_no_warning_about_what_it_wrote_itself(
        self, llama_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        load(llama_folder).save_pretrained(tmp_path / "scorer")
        with caplog.at_level(logging.WARNING, "hf_dlc"):
            DLCScorer.from_pretrained(tmp_path / "scorer", device="cpu")
        assert [record.getMessage() for record in caplog.records] == []

    def test_options_win_over_the_folder(self, llama_folder: Path, tmp_path: Path) -> None:
        load(llama_folder, seed=5).save_pretrained(tmp_path / "scorer")
        again = DLCScorer.from_pretrained(tmp_path / "scorer", device="cpu", seed=6)
        assert (again.config.seed, again.config.schedule) == (6, "0, 0.1, 0.3")

    def test_unknown_newer_option(self, llama_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        load(llama_folder).save_pretrained(tmp_path / "scorer")
        path = tmp_path / "scorer" / "dlc_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "warp": 1, "hf_dlc_version": "9.0"}))
        DLCScorer.from_pretrained(tmp_path / "scorer", device="cpu")
        assert any("['warp'], written by hf_dlc 9.0" in record.getMessage() for record in caplog.records)

    def test_how_the_model_was_loaded_is_remembered(self, llama_folder: Path, tmp_path: Path) -> None:
        kwargs = {"attn_implementation": "eager", "token": "secret", "trust_remote_code": False}
        load(llama_folder, model_kwargs=kwargs).save_pretrained(tmp_path)
        record = json.loads((tmp_path / "dlc_config.json").read_text())
        assert record["model_kwargs"] == {"attn_implementation": "eager"}  # no token, no leave to run code
        assert DLCScorer.from_pretrained(tmp_path).model.config._attn_implementation == "eager"

    def test_a_saved_scorer_cannot_ask_for_code_to_be_run(self, llama_folder: Path, tmp_path: Path) -> None:
        load(llama_folder).save_pretrained(tmp_path)
        path = tmp_path / "dlc_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "model_kwargs": {"trust_remote_code": True}}))
        assert DLCScorer.from_pretrained(tmp_path).parts.handle.source.model_kwargs == {}

    def test_options_beside_a_model_are_used(self, llama_folder: Path, tmp_path: Path) -> None:
        shutil.copytree(llama_folder, tmp_path / "model")
        DLCConfig(schedule="0, 0.2").save_pretrained(tmp_path / "model")
        assert DLCScorer.from_pretrained(tmp_path / "model", device="cpu").schedule_ == (0.0, 0.2)

    def test_in_memory_is_refused(self, make_scorer: Callable, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="only with a base model that can be loaded again, got a model in memory"):
            make_scorer().save_pretrained(tmp_path / "scorer")

    def test_callable_template_is_refused(self, llama_folder: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="a template function cannot be written to JSON"):
            load(llama_folder, template=lambda row: row).save_pretrained(tmp_path / "scorer")
        assert not (tmp_path / "scorer" / "dlc_config.json").exists()


class TestCalibratedState:
    """Random weights cannot be calibrated, so the schedule is put there by hand: what counts is who may use it."""

    FOUND = (0.0, 0.01, 0.02, 0.04)

    @pytest.fixture
    def saved(self, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(Schedule, "find", lambda _: self.FOUND)
        scorer = load(llama_folder, schedule=None)
        scorer.calibrate()
        scorer.save_pretrained(tmp_path / "scorer")
        monkeypatch.setattr(Schedule, "find", lambda _: (0.0, 0.5))
        monkeypatch.setenv("HF_DLC_CACHE", str(tmp_path / "another"))
        return tmp_path / "scorer"

    def test_is_reused(self, saved: Path) -> None:
        scorer = DLCScorer.from_pretrained(saved, device="cpu")
        assert scorer.schedule_ == scorer.calibrate() == self.FOUND

    def test_is_a_tensor_file(self, saved: Path) -> None:
        with safe_open(saved / STATE_NAME, "pt") as state:
            assert state.get_tensor("schedule").tolist() == list(self.FOUND)

    @pytest.mark.parametrize(
        "options",
        [
            {"seed": 1},
            {"masking": "magnitude"},
            {"template": "alpaca"},
            {"calibration_shares": [1, 0.5]},
            {"max_length": 9},
        ],
        ids=str,
    )
    def test_other_options_drop_it_with_a_warning(
        self, saved: Path, caplog: pytest.LogCaptureFixture, options: dict[str, Any]
    ) -> None:
        scorer = DLCScorer.from_pretrained(saved, device="cpu", **options)
        [record] = caplog.records
        assert "was calibrated for other weights or options; calibrating anew" in record.getMessage()
        assert scorer.calibrate() == (0.0, 0.5)

    def test_options_that_do_not_matter_keep_it(self, saved: Path, caplog: pytest.LogCaptureFixture) -> None:
        scorer = DLCScorer.from_pretrained(saved, device="cpu", prefix="easy", keep_levels=True, tokens_per_batch=99)
        assert scorer.schedule_ == self.FOUND
        assert not caplog.records

    def test_other_weights_drop_it(self, saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        scorer = DLCScorer.from_pretrained(saved, device="cpu")
        scorer.model.lm_head.weight.data[0, 0] += 1
        scorer.model.save_pretrained(tmp_path / "other")
        scorer.processor.save_pretrained(tmp_path / "other")
        path = saved / "dlc_config.json"
        path.write_text(
            path.read_text().replace(json.loads(path.read_text())["base_model_name_or_path"], str(tmp_path / "other"))
        )
        other = DLCScorer.from_pretrained(saved, device="cpu")
        assert "calibrating anew" in caplog.text
        assert other.calibrate() == (0.0, 0.5)

    def test_a_fixed_schedule_ignores_it(self, saved: Path, caplog: pytest.LogCaptureFixture) -> None:
        assert DLCScorer.from_pretrained(saved, device="cpu", schedule="0, 0.3").schedule_ == (0.0, 0.3)
        assert not caplog.records

    def test_training_drops_it(self, saved: Path) -> None:
        scorer = DLCScorer.from_pretrained(saved, device="cpu")
        with torch.no_grad():
            scorer.model.model.layers[0].mlp.up_proj.weight.mul_(2)
        assert scorer.calibrate() == (0.0, 0.5)

    def test_without_metadata(self, saved: Path, caplog: pytest.LogCaptureFixture) -> None:
        save_file({"schedule": torch.tensor([0.0, 0.9])}, saved / STATE_NAME)
        assert DLCScorer.from_pretrained(saved, device="cpu").calibrate() == (0.0, 0.5)
        assert "calibrating anew" in caplog.text


def test_scores_from_a_saved_scorer(llama_folder: Path, tmp_path: Path) -> None:
    scorer = load(llama_folder)
    scorer.save_pretrained(tmp_path / "scorer")
    dataset = Dataset.from_list(ALPACA_ROWS)
    again = DLCScorer.from_pretrained(str(tmp_path / "scorer"), device="cpu")
    assert again.score(dataset)["dlc_loss"][:] == scorer.score(dataset)["dlc_loss"][:]


def test_a_token_is_neither_shown_nor_pickled(llama_folder: Path) -> None:
    scorer = load(llama_folder, model_kwargs={"token": "hf_secret"})
    assert "hf_secret" not in repr(scorer.parts.handle.source)
    assert "hf_secret" not in json.dumps(scorer.describe())
    assert b"hf_secret" not in pickle.dumps(scorer)
