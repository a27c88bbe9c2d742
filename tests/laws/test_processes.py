"""
Several processes score as one does: every row once, in its place, bit for bit.

`accelerate launch --cpu --num_processes 2` is not used: it starts one process and says nothing (a test below shows
it). `torchrun`, or `accelerate launch --multi_gpu` with ACCELERATE_USE_CPU=1, starts as many CPU processes as asked.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Pillow
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ViTConfig, ViTImageProcessor, ViTModel

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.execution.processes import process_state
from tests.conftest import ROOT, build_model, build_tokenizer, free_port
from tests.rows import many_rows, write_rows
from tests.set_ups import SET_UPS, set_up
from tests.ways import score_in_processes


SCRIPTS = Path(__file__).with_name("programs")
ROWS = 31  # a multiple of neither 2 nor 3
SKIPPED = range(0, ROWS, 7)

Results = list[dict[str, Any]]
Launch = Callable[..., Results]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scorer's folder: a tiny model, and options with several levels and micro-batches of a few rows."""
    folder = tmp_path_factory.mktemp("model")
    build_model("llama").save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    config = DLCConfig(schedule="0, 0.05, 0.2", dtype="float32", tokens_per_batch=300, keep_levels=True)
    record = {**config.to_dict(), "base_model_name_or_path": str(folder), "revision": None}
    (folder / "dlc_config.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"row": place, **row} for place, row in enumerate(many_rows(ROWS, SKIPPED))]
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows)


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """`launch(["torchrun", "--nproc_per_node", "2"], script)` returns what each process wrote, by rank."""

    def run(launcher: list[str], script: str, *arguments: str | Path, **environment: str) -> Results:
        # Of the launchers' modules, so that it is this interpreter and no script of the same name on the PATH.
        modules = {"torchrun": "torch.distributed.run", "accelerate": "accelerate.commands.accelerate_cli"}
        command = [sys.executable, "-m", modules[launcher[0]], *launcher[1:], SCRIPTS / script]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("ACCELERATE_")}
        done = subprocess.run(
            list(map(str, [*command, *arguments])),
            env={**inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=300,  # a busy machine takes long to import
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(tmp_path.glob("rank*.json"))]

    return run


@pytest.fixture
def score(launch: Launch, model_folder: Path, rows_file: Path, tmp_path: Path) -> Launch:
    """`score(["torchrun", "--nproc_per_node", "2"])` scores the rows in the processes that this starts."""

    def run(launcher: list[str], **environment: str) -> Results:
        return launch(launcher, "score_rows.py", model_folder, rows_file, tmp_path, **environment)

    return run


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("score_rows", SCRIPTS / "score_rows.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def alone(
    script: ModuleType, model_folder: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What one process writes: this one, with one thread."""
    folder = tmp_path_factory.mktemp("alone")
    script.main(str(model_folder), str(rows_file), str(folder), device="cpu")
    return json.loads((folder / "rank0.json").read_text(encoding="utf-8"))


def torchrun(processes: int) -> list[str]:
    return ["torchrun", "--standalone", "--nproc_per_node", str(processes)]  # standalone: on a free port


def check_same(results: Results, alone: dict[str, Any], processes: int) -> None:
    assert [result["processes"] for result in results] == [processes] * processes
    assert sorted(result["rank"] for result in results) == list(range(processes))
    for result in results:
        for split in ("all", "one", "skipped"):
            assert result[split] == alone[split]


def test_one_process(alone: dict[str, Any]) -> None:
    """What the others are compared with is itself as it should be."""
    assert alone["processes"] == 1
    assert alone["all"]["row"] == list(range(ROWS))
    statuses = alone["all"]["dlc_status"]
    assert [i for i, status in enumerate(statuses) if status == "empty_response"] == list(SKIPPED)
    assert set(statuses) == {"ok", "empty_response"}
    scores = alone["all"]["dlc_loss"]
    assert len({scores[i : i + 8] for i in range(0, len(scores), 8)}) == ROWS - len(SKIPPED) + 1  # and NaN
    assert alone["one"]["dlc_status"] == ["ok"]
    assert set(alone["skipped"]["dlc_status"]) == {"empty_response"}


@pytest.mark.parametrize("processes", [2, 3])
def test_any_number_of_processes(make_scorer: Callable[..., DLCScorer], script: ModuleType, processes: int) -> None:
    """Without a launcher."""
    scorer = make_scorer(tokens_per_batch=300, keep_levels=True)
    rows = Dataset.from_list(many_rows(ROWS, SKIPPED))
    alone = script.as_written(scorer.score(rows, num_threads=1))
    for scored in score_in_processes(scorer, rows, processes):
        assert script.as_written(scored) == alone


@pytest.mark.parametrize("name", SET_UPS)
def test_every_score_in_two_processes(script: ModuleType, name: str) -> None:
    """The views of a row, adapters, encoder, prototypes and neighbours among them; without a launcher."""
    it = set_up(name)
    assert it.read(it.scored)
    alone = script.as_written(it.scored.remove_columns(it.rows.column_names))
    for scored in score_in_processes(it.scorer, it.rows):
        assert script.as_written(scored.remove_columns(it.rows.column_names)) == alone


@pytest.mark.distributed
def test_torchrun_three_processes_without_the_switch(score: Launch, alone: dict[str, Any]) -> None:
    """ACCELERATE_USE_CPU is what accelerate needs to be told; where there is no accelerator, we need not be."""
    check_same(score(torchrun(3), CUDA_VISIBLE_DEVICES=""), alone, 3)


@pytest.mark.distributed
def test_accelerate_launch(score: Launch, alone: dict[str, Any]) -> None:
    launcher = ["accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", free_port()]
    check_same(score(launcher, ACCELERATE_USE_CPU="1"), alone, 2)


@pytest.mark.distributed
def test_images_in_two_processes(launch: Launch, tmp_path: Path) -> None:
    """Prototypes and neighbours come from all images, whichever process looked at them; none is read twice."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=16, patch_size=8
    )
    ViTModel(config).save_pretrained(tmp_path / "model")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "model")
    pictures = np.random.default_rng(0).integers(0, 255, (30, 16, 16, 3), dtype=np.uint8)
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b", "c"])})
    stored = [Image().encode_example(Pillow.fromarray(picture)) for picture in pictures]
    stored[29] = {"bytes": b"no image", "path": None}
    rows = {"image": stored, "label": [i % 3 for i in range(30)]}
    Dataset.from_dict(rows, features).save_to_disk(tmp_path / "rows")
    arguments = ("score_images.py", tmp_path / "model", tmp_path / "rows", tmp_path)
    [alone] = launch(torchrun(1), *arguments, ACCELERATE_USE_CPU="1")
    assert alone["dlc_status"] == ["ok"] * 29 + ["invalid_image"]
    found = np.frombuffer(bytes.fromhex(alone["dlc_knn_confidence"]), np.float32)
    assert len(np.unique(found[:29])) > 20
    assert alone.pop("images_read") == 30
    both = launch(torchrun(2), *arguments, ACCELERATE_USE_CPU="1")
    # Eight to a micro-batch, in turns. And each process looks at the first one: how large is it, how many features?
    assert [result.pop("images_read") for result in both] == [16 + 1, 14 + 2]
    assert both == [{**alone, "processes": 2}] * 2


Agents = Callable[..., list[tuple[int, str]]]


@pytest.fixture
def two_agents(model_folder: Path, rows_file: Path, tmp_path: Path) -> Agents:
    """
    `two_agents(script)` plays two machines on this one: a `torchrun` for each, with a process each.

    It returns exit status and output of both, by rank; each has `seconds` to end.
    """

    def run(script: str, *arguments: str, seconds: float = 300) -> list[tuple[int, str]]:
        rendezvous = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"localhost:{free_port()}", "--rdzv_id", "two"]
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
        command += [*rendezvous, "--local_addr", "localhost", "--max_restarts", "0", SCRIPTS / script]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("ACCELERATE_")}
        environment = {**inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
        logs = [tmp_path / f"agent{number}.log" for number in range(2)]
        started: list[subprocess.Popen] = []
        try:
            for log in logs:
                with log.open("wb") as output:
                    started.append(
                        subprocess.Popen(
                            list(map(str, [*command, model_folder, rows_file, tmp_path, *arguments])),
                            env=environment,
                            stdout=output,
                            stderr=subprocess.STDOUT,
                        )
                    )
            end = time.monotonic() + seconds
            statuses = [agent.wait(max(0.1, end - time.monotonic())) for agent in started]
        finally:
            for agent in started:
                agent.kill()
                agent.wait()
        return [(status, log.read_text(encoding="utf-8")) for status, log in zip(statuses, logs, strict=True)]

    return run


@pytest.mark.distributed
def test_two_machines(two_agents: Agents, alone: dict[str, Any], tmp_path: Path) -> None:
    for status, output in two_agents("score_rows.py"):
        assert status == 0, output[-4000:]
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(tmp_path.glob("rank*.json"))]
    check_same(results, alone, 2)


@pytest.mark.distributed
@pytest.mark.parametrize(("rank", "end"), [("0", "raise"), ("1", "raise"), ("1", "kill")])
def test_a_process_that_ends_badly_ends_those_of_other_machines(
    two_agents: Agents, tmp_path: Path, rank: str, end: str
) -> None:
    """A launcher ends the processes of its own machine only."""
    agents = two_agents("end_badly.py", rank, end, seconds=60)
    assert not (tmp_path / "finished").exists()
    assert all(status != 0 for status, _ in agents), agents
    # The launcher of a killed one may end before anybody misses it, and take with it the store, where that was its
    # own; then the other launcher may be the first to see that.
    noticed = {
        "raise": rf"PeerError: process {rank} failed: ValueError: this rank has had enough",
        "kill": rf"PeerError: (process {rank} was not heard of for|the connection to the launcher is lost)"
        r"|recv\w+ failed",
    }
    assert any(re.search(noticed[end], output) for _, output in agents), agents


@pytest.mark.distributed
def test_accelerate_launch_cpu_starts_one_process(launch: Launch, tmp_path: Path) -> None:
    """Should this ever start two, the advice in the documentation can become simpler."""
    launcher = ["accelerate", "launch", "--cpu", "--num_processes", "2"]
    assert launch(launcher, "see_processes.py", tmp_path) == [{"processes": 1, "rank": 0}]


@pytest.mark.distributed
def test_a_state_that_sees_one_process_is_refused(launch: Launch, tmp_path: Path) -> None:
    """A bare PartialState() ignores ACCELERATE_USE_CPU; both processes would score all rows as rank 0 of 1."""
    results = launch(torchrun(2), "see_processes.py", tmp_path, "bare", ACCELERATE_USE_CPU="1")
    assert len(results) == 2
    for result in results:
        assert set(result) == {"error"}
        assert "2 processes but this one sees 1" in result["error"]
        assert "PartialState()" in result["error"]
        assert "ACCELERATE_USE_CPU=1" in result["error"]


@pytest.mark.distributed
def test_what_the_main_process_finds_all_get(launch: Launch, tmp_path: Path) -> None:
    main, other = launch(torchrun(2), "share_result.py", tmp_path, ACCELERATE_USE_CPU="1")
    error = "KeyError: 'no such key'"
    everywhere = {"whole": {"from": 0}, "after": 0, "in_group": False}  # one that ends in a group may be aborted
    assert main == {**everywhere, "part": ["large", 0], "error": error}
    assert other == {**everywhere, "part": [0], "error": f"PeerError: process 0 failed: {error}"}


def test_scorer_refuses_too(
    monkeypatch: pytest.MonkeyPatch, llama: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    scorer = DLCScorer(llama, tokenizer, DLCConfig(schedule="0"))
    dataset = Dataset.from_list([{"prompt": "a", "completion": "b"}])
    monkeypatch.setenv("WORLD_SIZE", str(process_state().num_processes + 1))
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(RuntimeError, match="each would score all rows"):
        scorer.score(dataset)
