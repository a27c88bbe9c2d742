"""Pool, held-out rows and scores of a study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.study.options import StudyArguments
from hf_dlc.study.study import Study, split_rows
from tests.rows import write_rows
from tests.study.conftest import ROWS


def test_pool_and_held_out_rows_have_nothing_in_common(scorer: DLCScorer, rows_file: Path) -> None:
    options = StudyArguments(dataset=str(rows_file), eval_rows=15, pool_rows=20)
    pool, held_out = split_rows(options, scorer)
    assert (len(pool), len(held_out)) == (20, 15)
    texts = [{(row["instruction"], row["output"]) for row in part} for part in (pool, held_out)]
    assert not texts[0] & texts[1]


def test_rows_that_stand_twice_or_are_long_are_left_out(scorer: DLCScorer, tmp_path: Path) -> None:
    rows = [*ROWS[:20], *ROWS[:10], {**ROWS[0], "output": "fox " * 50}]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    options = StudyArguments(dataset=str(path), eval_rows=8, pool_rows=12, longest_row=80)
    texts = [row["instruction"] + row["output"] for part in split_rows(options, scorer) for row in part]
    assert sorted(texts) == sorted(row["instruction"] + row["output"] for row in ROWS[:20])
    with pytest.raises(ValueError, match="21 rows are needed, got 20"):
        split_rows(replace(options, pool_rows=13), scorer)


def test_plain_is_the_loss_of_the_unmasked_model(llama_folder: Path, rows_file: Path, tmp_path: Path) -> None:
    options = StudyArguments(dataset=str(rows_file), model=str(llama_folder), eval_rows=12, output_dir=str(tmp_path))
    study = Study(options, DLCConfig(dtype="float32", schedule="0, 0.5"))
    scored, facts = study.scored
    unmasked = DLCScorer.from_pretrained(llama_folder, device="cpu", dtype="float32", schedule="0").score(study.pool)
    assert scored["plain"][:] == pytest.approx(unmasked["dlc_loss"][:], abs=1e-5)
    assert facts["fractions"] == [0.0, 0.5]
    assert not facts["resumed"]
    (tmp_path / "scored.json").unlink()  # as after a kill: what is in the journal is not computed again
    del study.scored
    assert study.scored[1]["resumed"]
