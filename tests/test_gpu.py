"""What only an accelerator can show. Everything else about devices is tested with doubles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_dlc import DLCScorer
from tests.rows import ALPACA_ROWS


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

ROWS = Dataset.from_list(
    [{**row, "output": row["output"] + " and so on" * i} for i in range(9) for row in ALPACA_ROWS]
)


def scores(scored: Dataset) -> np.ndarray:
    return np.stack([scored["dlc_confidence"][:], scored["dlc_loss"][:]])


@pytest.fixture
def on_gpu(make_scorer: Callable[..., DLCScorer]) -> DLCScorer:
    scorer = make_scorer(dtype="float32")
    scorer.model.to("cuda")
    return scorer


def test_scores_are_those_of_the_cpu(make_scorer: Callable[..., DLCScorer], on_gpu: DLCScorer) -> None:
    np.testing.assert_allclose(scores(on_gpu.score(ROWS)), scores(make_scorer().score(ROWS)), atol=1e-3)
    assert on_gpu.model.device.type == "cuda"


def test_too_little_memory(make_scorer: Callable[..., DLCScorer], on_gpu: DLCScorer) -> None:
    expected = scores(on_gpu.score(ROWS))
    wide = make_scorer(tokens_per_batch=10**9)
    wide.model.to("cuda")
    held = torch.cuda.memory_reserved()
    torch.cuda.set_per_process_memory_fraction((held + 2**25) / torch.cuda.get_device_properties(0).total_memory)
    try:
        np.testing.assert_allclose(scores(wide.score(ROWS)), expected, atol=1e-3)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert wide.parts.engine.limit.tokens is not None  # else there was memory enough, and this has shown nothing


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_model_over_two_devices(llama_folder: str, on_gpu: DLCScorer) -> None:
    options = {"schedule": "0, 0.1, 0.3", "dtype": "float32"}
    spread = DLCScorer.from_pretrained(
        llama_folder, model_kwargs={"device_map": {"model.embed_tokens": 0, "model.layers.0": 0, "": 1}}, **options
    )
    np.testing.assert_allclose(scores(spread.score(ROWS)), scores(on_gpu.score(ROWS)), atol=1e-3)
