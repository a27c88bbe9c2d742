"""Rows to train on, and a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy

from hf_dlc import DLCScorer
from tests.rows import many_rows, write_rows


ROWS = many_rows(60)


@pytest.fixture(scope="module", autouse=True)
def own_dataset_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Files that are read are prepared in a cache folder, which should not be the user's; threads are put back."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", ROWS)


@pytest.fixture
def scorer(llama_folder: Path) -> DLCScorer:
    return DLCScorer.from_pretrained(llama_folder, device="cpu", dtype="float32", schedule="0")


@torch.inference_mode()
def losses_by_hand(model: Any, rows: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the losses of the target tokens of each row, and their number, one row at a time."""
    sums, counts = [], []
    for row in rows:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].double()
        labels = torch.tensor(row["labels"][1:])
        sums.append(cross_entropy(logits, labels, reduction="sum").item())
        counts.append((labels != -100).sum().item())
    return np.array(sums), np.array(counts)


def mean_loss(model: Any, rows: Dataset) -> float:
    sums, counts = losses_by_hand(model, rows)
    return sums.sum() / counts.sum()
