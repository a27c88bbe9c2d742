"""Outcome of a selection in a few lines: what was kept, beside random rows, and what comes next."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from hf_dlc import CutSelector, PruneReport, RandomSelector, TopKSelector
from hf_dlc.cli.commands import main
from hf_dlc.pipeline.outcome import outcome
from hf_dlc.pipeline.record import RunRecord, SelectionRecord


pytestmark = pytest.mark.usefixtures("empty_plots")

FLEXRAND = ["--selector", "flexrand", "--selection-split", "0.75", "--keep", "8"]


@pytest.fixture
def select(copy_of_run: Path, tmp_path: Path) -> Callable[..., Path]:
    """`select("--keep", "5")` returns the folder of a subset."""

    def run(*more: str) -> Path:
        main(["select", "--run-dir", str(copy_of_run), "--output-dir", str(tmp_path / "subset"), *more])
        return tmp_path / "subset"

    return run


def random_rows(scored: Dataset, **options: Any) -> set[int]:
    return set(RandomSelector(**options).read_indices(scored).tolist())


def test_a_few_lines_are_printed(
    select: Callable[..., Path], scored: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = select(*FLEXRAND, "--selection-seed", "3", "--flag-column", "wrong")
    record = RunRecord.from_json(json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
    shared = len(random_rows(scored, keep=8, seed=3) & set(record.kept_indices))
    kept = int(np.array(scored["wrong"])[list(record.kept_indices)].sum())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("- kept: 8 of 22 rows (36.4%), ")
    assert lines[1:6] == [
        "- chosen: Half of the budget was drawn at random from the easiest 75% of the rows by `dlc_confidence`, half "
        "from the others.",
        f"- rows with `wrong` kept: {kept} of 4; random rows: 1.6 expected",
        f"- shared with random rows of the same budget: {shared} ({shared / 8:.0%})",
        "- scored: 20 of 22 rows",
        "- skipped: 2 `empty_response`",
    ]
    assert lines[7:] == [
        f"look:    {folder / 'report.html'} (plots, tables, rows)",
        f"train:   {folder / 'pruned.parquet'}",
        f"compare: hf-dlc compare --run-dir {folder} --keep 8",
        f"publish: hf-dlc push --run-dir {folder} --repo-id me/name",
    ]
    assert record.shared_with_random == shared
    assert record.flagged.to_json() == {
        "column": "wrong",
        "rows": 4,
        "kept": kept,
        "expected": pytest.approx(4 * 8 / 20),
    }


def test_random_rows_are_not_held_against_themselves(
    select: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = select("--selector", "random", "--keep", "8")
    assert "shared with" not in capsys.readouterr().out
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest.get("shared_with_random"), manifest.get("flagged")) == (None, None)


def test_all_tables_are_printed_if_asked_for(select: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = select(*FLEXRAND, "--verbose")
    assert (folder / "summary.md").read_text(encoding="utf-8") in capsys.readouterr().out


def test_the_page_is_named_where_there_is_one(scored: Dataset, tmp_path: Path) -> None:
    report = PruneReport.from_datasets(scored, [0, 1])
    found = outcome(report, tmp_path, SelectionRecord(keep_tokens=100))
    assert f"look:    {tmp_path / 'summary.md'} (tables, rows)" in found
    assert "--keep-tokens 100" in found


@pytest.mark.parametrize(
    "selector",
    [CutSelector(keep=0.5, cut=0.3, seed=7, group_by="topic"), TopKSelector(keep_tokens=60, group_by="topic")],
)
def test_random_rows_like_a_selection(selector: CutSelector | TopKSelector) -> None:
    like = RandomSelector.like(selector)
    for name in ("keep", "keep_tokens", "seed", "group_by", "column", "min_per_group", "drop_duplicates"):
        assert getattr(like, name) == getattr(selector, name)
