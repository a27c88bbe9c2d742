"""The table that compares selectors, of whatever scores there are."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from hf_dlc.pipeline.compare import compare_selections, table
from hf_dlc.pipeline.options import SelectionArguments
from hf_dlc.scores.table import SCORES


def scored_rows() -> Dataset:
    columns = {f"dlc_{name}": np.linspace(0.1, 0.8, 8, dtype=np.float32) for name in SCORES}
    return Dataset.from_dict({**columns, "dlc_tokens": [4] * 8, "dlc_status": ["ok"] * 8})


def lines_of(scored: Dataset) -> list[list[str]]:
    text = table(compare_selections(scored, SelectionArguments(keep="0.25")))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_all_scores_have_a_mean() -> None:
    header, ruler, *rows = lines_of(scored_rows())
    first = ["selector", "rows", "target tokens", "mean confidence", "mean loss", "overlap"]
    assert header == [*first, *(f"mean {name}" for name in SCORES if name not in ("confidence", "loss"))]
    assert ruler == ["---"] * len(header)
    assert {len(row) for row in rows} == {len(header)}
    [easiest] = [row for row in rows if row[0] == "easiest"]
    assert easiest[:5] == ["easiest", "2", "8", "0.750", "0.750"]
    assert easiest[6:] == ["0.750"] * (len(header) - 6)


@pytest.mark.parametrize("name", [name for name in SCORES if name != "confidence"])
def test_scores_that_an_earlier_version_has_not_written(name: str) -> None:
    header, *_ = lines_of(scored_rows().remove_columns(f"dlc_{name}"))
    assert header == [cell for cell in lines_of(scored_rows())[0] if cell != f"mean {name}"]


def test_rows_without_a_score_do_not_take_the_mean() -> None:
    """Some rows lack some of their scores, and a gain needs a masked level."""
    scored = scored_rows().remove_columns(["dlc_ifd", "dlc_gain"])
    scored = scored.add_column("dlc_ifd", [float("nan")] * 7 + [0.5]).add_column("dlc_gain", [float("nan")] * 8)
    header, _, *rows = lines_of(scored)
    [easiest] = [row for row in rows if row[0] == "easiest"]
    assert dict(zip(header, easiest, strict=True))["mean ifd"] == "0.500"
    assert {dict(zip(header, row, strict=True))["mean gain"] for row in rows} == {"-"}
