"""A second set of weights: adapters that are trained on wanted rows, and the score that compares with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher

from hf_dlc import DLCConfig, DLCScorer, TopKSelector
from tests.rows import many_rows
from tests.ways import ALL_WAYS


ROWS = Dataset.from_list(many_rows(20, (0,)))
WANTED = Dataset.from_list([{"instruction": "Name a colour.", "input": "", "output": "Red, green and blue."}] * 4)


@pytest.fixture
def shifted(make_scorer: Callable) -> DLCScorer:
    return make_scorer(scores="plain_loss,confidence", tokens_per_batch=300).adapt(WANTED, epochs=2)


def losses(scorer: DLCScorer, rows: Dataset) -> np.ndarray:
    """The model's own `labels=` loss, a row at a time, with whatever hooks it has."""
    found = []
    for row in scorer.parts.task.encode(list(rows)):
        if not row.length:
            found.append(np.nan)
            continue
        ids = torch.from_numpy(row.input_ids.astype(np.int64))[None]
        with torch.inference_mode():
            found.append(
                scorer.model(input_ids=ids, labels=ids.where(torch.from_numpy(row.targets), -100)).loss.item()
            )
    return np.array(found)


def test_it_is_the_difference_of_two_losses(shifted: DLCScorer) -> None:
    before = losses(shifted, ROWS)
    with shifted.parts.adapters.applied(shifted.model):
        after = losses(shifted, ROWS)
    scored = shifted.score(ROWS)
    np.testing.assert_allclose(scored["dlc_target_shift"][:], before - after, atol=1e-4)
    np.testing.assert_allclose(scored["dlc_plain_loss"][:], before, atol=1e-4)
    assert np.nanmax(np.abs(before - after)) > 0.01


@pytest.mark.parametrize("way", ALL_WAYS)
def test_every_way_gives_the_same(shifted: DLCScorer, way: str) -> None:
    expected, found = shifted.score(ROWS), ALL_WAYS[way](shifted, ROWS)
    for name in ("target_shift", "confidence", "plain_loss"):
        np.testing.assert_allclose(found[f"dlc_{name}"][:], expected[f"dlc_{name}"][:], atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_teaches_the_wanted_rows(make_model: Callable, tokenizer: Any, dtype: torch.dtype) -> None:
    scorer = DLCScorer(make_model("llama").to(dtype), tokenizer, DLCConfig(scores="plain_loss"))
    shifted = scorer.adapt(WANTED, epochs=20)
    scored = shifted.score(Dataset.from_list([*WANTED, *ROWS]))
    shift = np.array(scored["dlc_target_shift"][:])
    # 2.15 in both types; 1.43 where autocast goes on using the casts of the adapters as they were at first.
    assert shift[:4].min() > max(1.9, np.nanmax(shift[4:]))
    assert TopKSelector(keep=4, column="dlc_target_shift").read_indices(scored).tolist() == [0, 1, 2, 3]


def test_the_model_stays_as_it_was(make_scorer: Callable) -> None:
    scorer = make_scorer()
    before = {name: weight.clone() for name, weight in scorer.model.state_dict().items()}
    shifted = scorer.adapt(WANTED, epochs=1)
    shifted.score(ROWS)
    with pytest.raises(RuntimeError, match="on purpose"), shifted.parts.adapters.applied(scorer.model):
        raise RuntimeError("on purpose")
    assert all(torch.equal(weight, before[name]) for name, weight in scorer.model.state_dict().items())
    assert not any(module._forward_hooks for module in scorer.model.modules())
    assert not scorer.model.training
    assert "target_shift" not in scorer.config.scores


def test_the_same_seed_gives_the_same_adapters(make_scorer: Callable) -> None:
    scorer = make_scorer()
    one, again, other = (scorer.adapt(WANTED, epochs=1, seed=seed).parts.adapters.digest for seed in (0, 0, 1))
    assert one == again != other


def test_they_are_part_of_the_fingerprint_and_of_a_journal(make_scorer: Callable, tmp_path: Path) -> None:
    from hf_dlc.execution.journal import JournalError

    scorer = make_scorer(scores="plain_loss")
    one, other = scorer.adapt(WANTED, epochs=1), scorer.adapt(WANTED, epochs=2)
    assert len({Hasher.hash(scorer), Hasher.hash(one), Hasher.hash(other)}) == 3
    assert Hasher.hash(one) == Hasher.hash(scorer.adapt(WANTED, epochs=1))
    one.score(ROWS, tmp_path)
    with pytest.raises(JournalError, match="adapters_digest"):
        other.score(ROWS, tmp_path)


def test_without_adapters_it_is_refused(make_scorer: Callable) -> None:
    with pytest.raises(ValueError, match="'target_shift' needs the weights 'adapted'"):
        make_scorer(scores="target_shift")


def test_bad_input(make_scorer: Callable, shifted: DLCScorer, llama_folder: Path, tmp_path: Path) -> None:
    scorer = make_scorer()
    with pytest.raises(TypeError, match=r"adapt needs a datasets\.Dataset, got list"):
        scorer.adapt(list(WANTED))
    with pytest.raises(ValueError, match="epochs must be a whole number of at least 1, got 0"):
        scorer.adapt(WANTED, epochs=0)
    nothing = Dataset.from_list([{"instruction": "Say.", "input": "", "output": ""}])
    with pytest.raises(ValueError, match="adapters are trained on rows that can be scored, got none"):
        scorer.adapt(nothing)
    loaded = DLCScorer.from_pretrained(llama_folder, dtype="float32", schedule="0").adapt(WANTED, epochs=1)
    with pytest.raises(
        ValueError, match=r"adapters are not saved, and this scorer has some \(trained on 4 wanted rows"
    ):
        loaded.save_pretrained(tmp_path)
