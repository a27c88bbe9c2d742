"""States of rows: their batches, their file, and what they are computed by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_dlc import DLCScorer
from hf_dlc.study import states as states_module
from hf_dlc.study.states import States
from tests.study.conftest import ROWS


CPU = torch.device("cpu")


@pytest.fixture
def rows(scorer: DLCScorer) -> Dataset:
    return scorer.tokenize(Dataset.from_list(ROWS[:12]))


def test_batches_are_padded_on_the_right(rows: Dataset) -> None:
    states, places = States.of(rows), [5, 2, 9]
    batch = states.batch(places, CPU)
    longest = max(len(rows[place]["input_ids"]) for place in places)
    assert len({len(rows[place]["input_ids"]) for place in places}) > 1
    for number, place in enumerate(places):
        ids, labels = rows[place]["input_ids"], rows[place]["labels"]
        padding = longest - len(ids)
        assert batch["states"][number, : len(ids)].tolist() == ids
        assert batch["labels"][number].tolist() == [*labels, *[-100] * padding]
        assert batch["attention_mask"][number].tolist() == [*[1] * len(ids), *[0] * padding]


def test_states_of_numbers_are_padded_like_ids(rows: Dataset) -> None:
    ids = States.of(rows)
    states = States(torch.randn(len(ids.inputs), 3), ids.labels, ids.lengths)
    batch = states.batch([1, 4], CPU)
    start = int(ids.lengths[:4].sum())
    assert torch.equal(batch["states"][1, : ids.lengths[4]], states.inputs[start : start + ids.lengths[4]])
    assert batch["states"].shape == (2, max(ids.lengths[[1, 4]]), 3)


def test_target_tokens_are_those_of_the_scores(scorer: DLCScorer, rows: Dataset) -> None:
    scored = scorer.score(Dataset.from_list(ROWS[:12]))
    assert States.of(rows).targets.tolist() == scored["dlc_tokens"][:]


def test_batches_hold_each_row_once_and_so_many_tokens(rows: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    states = States.of(rows)
    monkeypatch.setattr(states_module, "_TOKENS_AT_ONCE", 2 * int(states.lengths.max()))
    batches = list(states.batches())
    assert sorted(row for batch in batches for row in batch) == list(range(12))
    assert 1 < len(batches) < 12
    for batch in batches:
        assert len(batch) * states.lengths[batch].max() <= 2 * states.lengths.max()
    monkeypatch.setattr(states_module, "_TOKENS_AT_ONCE", 1)
    assert [len(batch) for batch in states.batches()] == [1] * 12  # however long they are


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_written_and_read(rows: Dataset, tmp_path: Path, dtype: torch.dtype) -> None:
    tokens = States.of(rows)
    states = States(torch.arange(len(tokens.labels)).to(dtype), tokens.labels, tokens.lengths)
    states.save(tmp_path / "states" / "pool.safetensors", "one")
    found = tokens.load(tmp_path / "states" / "pool.safetensors", "one")
    assert found.inputs.dtype == dtype
    assert torch.equal(found.inputs, states.inputs)
    assert torch.equal(found.labels, tokens.labels)
    assert np.array_equal(found.lengths, tokens.lengths)
    assert tokens.load(tmp_path / "states" / "pool.safetensors", "other") is None
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["pool.safetensors"]
