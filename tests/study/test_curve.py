"""The curve of cost against fidelity: of which shares it speaks, and which it names as too small."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset

from hf_dlc.scores.columns import score_features, with_columns
from hf_dlc.study.curve import CurveArguments, curve, curve_table


OPTIONS = CurveArguments(dataset="rows.jsonl", methods="ridge", draws=1)


@pytest.fixture
def scored() -> Dataset:
    """A hundred rows with two levels, of which two have no score."""
    rng = np.random.default_rng(0)
    levels = rng.random((100, 2)).astype(np.float32)
    values = {name: levels.mean(axis=1) for name in ("dlc_confidence", "dlc_loss", "dlc_gain")}
    more = {"dlc_tokens": rng.integers(1, 9, 100), "dlc_status": ["empty_response"] * 2 + ["ok"] * 98}
    columns = {**values, **more, "dlc_level_confidence": levels.tolist(), "dlc_level_loss": levels.tolist()}
    return with_columns(Dataset.from_dict({"output": ["a"] * 100}), columns, score_features(keep_levels=True))


def test_a_share_of_too_few_rows_is_named_once(scored: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    lines = curve(scored, None, 2, replace(OPTIONS, shares="0.02,0.05,0.5"), "dlc")
    assert {line.get("share") for line in lines} == {None, 0.5}
    told = [record.message for record in caplog.records if "is left out" in record.message]
    assert told == [
        f"a share of {share} of 98 rows is left out: it has {count} rows, and at least 10 are needed to predict others"
        for share, count in ((0.02, 2), (0.05, 5))
    ]
    assert "| 50% |" in curve_table(lines)


def test_shares_of_enough_rows_are_not_named(scored: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    lines = curve(scored, None, 2, replace(OPTIONS, shares="0.2,0.5"), "dlc")
    assert {line["share"] for line in lines if "share" in line} == {0.2, 0.5}
    assert "left out" not in caplog.text
