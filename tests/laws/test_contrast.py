"""Law 2 for scores of contrast: both of their losses are the model's own, in every way to score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher

from hf_dlc import DLCScorer
from hf_dlc.execution.journal import JournalError
from tests.conftest import MODEL_BUILDERS
from tests.rows import ALPACA_ROWS, SKIPPED_ROWS
from tests.ways import WAYS


HEADER = "<|im_start|>assistant\n"
SCORES = ("ifd", "prompt_gain", "plain_loss")
TALKS = [
    {
        "messages": [
            {"role": "user", "content": f"Name colour {number}."},
            {"role": "assistant", "content": "Red and yellow. " * number},
            {"role": "user", "content": "And the capital of France, which is a city?"},
            {"role": "assistant", "content": "Paris, " * (4 - number) + "I think."},
        ]
    }
    for number in (1, 2, 3)
]
KINDS = {"instructions": [*ALPACA_ROWS, SKIPPED_ROWS["empty"]], "talks": TALKS}


@torch.no_grad()
def own_loss(scorer: DLCScorer, ids: list[int], targets: list[bool]) -> float:
    """The sum of the losses of the targets, from the model's own `labels=` loss."""
    labels = torch.where(torch.tensor(targets), torch.tensor(ids), -100)[None]
    return scorer.model(input_ids=torch.tensor(ids)[None], labels=labels).loss.item() * sum(targets)


def expected(scorer: DLCScorer, rows: list[dict[str, Any]], first_tokens: int) -> dict[str, list[float]]:
    """Both scores and the plain loss of each row, one forward pass a turn."""
    header = scorer.processor(HEADER)["input_ids"]
    found: dict[str, list[float]] = {name: [] for name in SCORES}
    for row in scorer.tokenize(Dataset.from_list(rows)):
        ids, targets = row["input_ids"], [label != -100 for label in row["labels"]]
        edges = np.flatnonzero(np.diff([False, *targets, False])).reshape(-1, 2)
        behind, alone, gains, tokens, first = own_loss(scorer, ids, targets), 0.0, 0.0, 0, 0
        for start, end in edges.tolist():
            response, number = ids[start:end], min(end - start, first_tokens)
            is_first = [place in range(start, start + number) for place in range(len(ids))]
            alone += own_loss(scorer, header + response, [False] * len(header) + [True] * len(response))
            cut = header + response[:number]
            gains += own_loss(scorer, cut, [False] * len(header) + [True] * number)
            gains -= own_loss(scorer, ids, is_first)
            tokens, first = tokens + len(response), first + number
        found["plain_loss"].append(behind / tokens)
        found["ifd"].append(behind / alone)
        found["prompt_gain"].append(gains / first)
    return found


def column(scored: Dataset, name: str) -> np.ndarray:
    return np.array(scored.with_format(None)[f"dlc_{name}"][:], dtype=np.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)  # that all ways give the same of every score is in test_invariance.py
def test_in_every_way(make_scorer: Callable, kind: str, way: str) -> None:
    rows = KINDS[kind]
    # With levels beside them, so that views and levels meet; micro-batches that hold several rows and parts of rows.
    scorer = make_scorer(scores=(*SCORES, "confidence"), first_tokens=5, tokens_per_batch=300)
    scored = WAYS[way](scorer, Dataset.from_list(rows))
    for name, values in expected(scorer, rows, 5).items():
        np.testing.assert_allclose(column(scored, name)[: len(values)], values, atol=1e-4, rtol=1e-4, err_msg=name)
        assert np.isnan(column(scored, name)[len(values) :]).all()
        assert np.std(values) > 0.01  # the rows differ, so that it matters which is which


@pytest.mark.parametrize("name", [name for name in MODEL_BUILDERS if name != "llama"])
def test_of_other_families(make_scorer: Callable, name: str) -> None:
    scorer = make_scorer(name, scores=SCORES)
    scored = scorer.score(Dataset.from_list(ALPACA_ROWS))
    for score, values in expected(scorer, ALPACA_ROWS, 16).items():
        np.testing.assert_allclose(column(scored, score), values, atol=1e-4, rtol=1e-4, err_msg=score)


@pytest.mark.parametrize("changed", [{"alone": "raw"}, {"first_tokens": 8}, {"scores": ("ifd",)}], ids=str)
def test_options_of_contrast_are_in_the_fingerprints(
    make_scorer: Callable, tmp_path: Path, changed: dict[str, Any]
) -> None:
    options = {"scores": SCORES}
    assert Hasher.hash(make_scorer(**options)) == Hasher.hash(make_scorer(**options))
    assert Hasher.hash(make_scorer(**options)) != Hasher.hash(make_scorer(**{**options, **changed}))
    make_scorer(**options).score(Dataset.from_list(TALKS), tmp_path / "run")
    with pytest.raises(JournalError, match=f"config.{next(iter(changed))} is"):
        make_scorer(**{**options, **changed}).score(Dataset.from_list(TALKS), tmp_path / "run")


def test_without_masked_levels_nothing_is_masked_or_calibrated(
    make_scorer: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = make_scorer(scores=SCORES, schedule=None)
    monkeypatch.setattr("hf_dlc.scorer.schedule.calibrate", None)
    scored = scorer.score(Dataset.from_list(TALKS))
    assert scored["dlc_status"] == ["ok"] * len(TALKS)
    assert scorer.schedule_ == (0.0,)
    assert scorer.estimate(Dataset.from_list(TALKS)).forward_passes == 4  # whole, alone, and the beginnings of both


def test_a_schedule_that_no_score_uses_is_said(make_scorer: Callable, caplog: pytest.LogCaptureFixture) -> None:
    make_scorer(scores=("ifd",), schedule="0, 0.1").score(Dataset.from_list(TALKS))
    assert "the schedule 0, 0.1 is not used: none of the scores asks for masked weights" in caplog.text


def test_rows_without_a_prompt_keep_their_other_scores(
    make_scorer: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    rows = Dataset.from_list([*ALPACA_ROWS, {"instruction": "", "input": "", "output": "Out of nothing."}])
    scored = make_scorer(scores=("ifd", "plain_loss")).score(rows)
    assert scored["dlc_status"][:] == ["ok"] * len(ALPACA_ROWS) + ["partly_no_prompt"]
    assert np.isnan(column(scored, "ifd")).tolist() == [False] * len(ALPACA_ROWS) + [True]
    assert np.isfinite(column(scored, "plain_loss")).all()
    words = f"1 of 8 rows lack some of their scores: no_prompt 1 (row {len(ALPACA_ROWS)}: nothing stands before"
    assert words in caplog.text
    assert make_scorer(scores=("ifd",)).score(rows)["dlc_status"][-1] == "no_prompt"


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ("loss,loss", "scores must name each score once, got 'loss' twice"),
        ("loss,ifdd", "scores must be of confidence, loss, gain, .*ifd, prompt_gain.*, got 'ifdd'"),
        ("", "scores must be names"),
        ((), "scores must be names"),
    ],
)
def test_scores_that_cannot_be(make_scorer: Callable, scores: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_scorer(scores=scores)


def test_rows_that_were_cut_are_told_whatever_else_they_lack(
    make_scorer: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    rows = Dataset.from_list([{"instruction": "", "input": "", "output": "Out of nothing. " * 30}])
    scored = make_scorer(scores=("ifd", "plain_loss"), max_length=40).score(rows)
    assert scored["dlc_status"][:] == ["partly_no_prompt"]
    assert "1 of 1 rows were cut to max_length" in caplog.text
