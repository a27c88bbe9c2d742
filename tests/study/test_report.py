"""Report of a study: what it tells of rows, model, arms and costs, and what it leaves open."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from hf_dlc.study.plots import draw_differences, kind_of_arm
from hf_dlc.study.report import write_report
from hf_dlc.study.screening import seeds_needed
from hf_dlc.study.verdict import verdict
from tests.study.findings import results_of
from tests.study.test_results import SCREENING


ARMS = {"loss easiest": 3.0, "ifd cut 0.3": -2.0, "longest": 0.0, "oracle": -4.0}


def section(text: str, title: str) -> str:
    [found] = [part for part in text.split("\n## ") if part.startswith(title)]
    return found


def test_the_report_begins_with_the_verdict(tmp_path: Path) -> None:
    results = results_of(ARMS, flag_column="suspect")
    text = write_report(results, tmp_path)
    assert (tmp_path / "study.md").read_text(encoding="utf-8") == text + "\n"
    assert text.startswith("# Does choosing pay where some responses are wrong?\n")
    assert section(text, "Verdict") == f"Verdict\n\n{verdict(results).text}\n"
    record = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert record["verdict"] == {"arm": "ifd cut 0.3", "text": verdict(results).text}
    assert record["versions"]["torch"]
    assert (tmp_path / "study.png").is_file()


def test_heading(tmp_path: Path) -> None:
    facts = {"left_out": {"balanced random": ["groups"], "target bm25": ["target", "bm25s"]}, "wanted_rows": 64}
    screening = {
        cell: {**found, "loss per row": found["loss per row"] * (1 + number % 5 / 100)}
        for number, (cell, found) in enumerate(SCREENING.items())
    }
    results = results_of(ARMS, facts=facts, screening=screening, lora_layers=4, longest_row=192, epochs=1.0)
    heading = write_report(results, tmp_path).split("## Verdict")[0]
    assert "1,500 rows of rows.jsonl to choose from, 200 to measure by of at most 192 tokens" in heading
    assert "40 target tokens a row; 64 wanted rows" in heading
    assert "model tiny in float32; LoRA of rank 16 in the last 4 layers, 1 epochs, 8 rows a step" in heading
    assert "with equal updates 90 steps" in heading
    assert "confirmed with 6 seeds: loss easiest, ifd cut 0.3, longest, oracle" in heading
    needed = seeds_needed(screening, 3 * 2 * 2)  # arms but the oracle, budgets, matchings
    assert f"the screening asks for {needed} seeds to see a difference of 1% at one budget" in heading
    record = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert record["seeds_needed"] == needed > seeds_needed(screening, 3)
    lacking = "balanced random (groups); target bm25 (target, bm25s)"
    assert f"not compared, for want of what stands behind each: {lacking}" in heading
    assert "proxy" not in heading
    plain = write_report(results_of(ARMS), tmp_path).split("## Verdict")[0]
    assert "in all layers, 2 epochs" in plain
    for word in ("wanted rows", "screening", "not compared", "of at most", "none of them suspect"):
        assert word not in plain
    held_out = results_of(ARMS, flag_column="bad", group_by="source")
    expected = "200 to measure by (none of them suspect; equally many of each source, or half of it); 40 target"
    assert expected in write_report(held_out, tmp_path)
    named = results_of(ARMS, flag_column="bad", group_by="source", test="test.jsonl")
    assert "200 to measure by; 40 target" in write_report(named, tmp_path)


def test_a_proxy_is_said_to_be_one(tmp_path: Path) -> None:
    heading = write_report(results_of(ARMS, facts={"proxy_for": "large"}), tmp_path).split("## Verdict")[0]
    assert "- this model is a proxy for large, for which another way may be better" in heading


def test_every_comparison_is_told(tmp_path: Path) -> None:
    results = results_of(ARMS)
    text = write_report(results, tmp_path)
    for metric in ("loss per row", "loss per token", "choices"):
        found = section(text, f"Comparisons by {metric}\n")
        assert "loss easiest is worse than random over all budgets" in found
        assert "ifd cut 0.3 is better than random over all budgets" in found
        assert "longest is not distinguishable from random over all budgets" in found
        assert "- oracle" not in found
        assert "| oracle" not in found
        assert "were it the clearest of 3, would be seen with a probability of " in found
        assert "were it the clearest of 12, would be seen with a probability of " in found
        lines = [line for line in found.splitlines() if line.startswith("| tokens | ifd cut 0.3 |")]
        assert len(lines) == 1
        assert lines[0].count("*") == 2  # both budgets
    means = section(text, "Test loss per row\n")
    values = results.values("longest", "rows", 0.2, "loss per row")
    shown = f"{values.mean():.4f} ± {np.std(values, ddof=1) / 6**0.5:.4f}"
    assert f"| rows | longest | {shown} |" in means
    assert "Before any training (zero-shot): 3.5000." in means
    assert f"All rows: {results.full('loss per row').mean():.4f} ± " in means
    assert "| rows | oracle |" in means
    assert section(text, "Accuracy: choices")


@pytest.mark.parametrize(("spread", "word"), [(0.1, "has the power"), (5.0, "has not the power")])
def test_what_would_have_been_seen(spread: float, word: str, tmp_path: Path) -> None:
    found = section(write_report(results_of(ARMS, spread=spread), tmp_path), "Comparisons by loss per row")
    assert found.count(f"this study {word} to see 1% here (0.8 is asked for)") == 2


def test_what_one_comparison_would_have_seen_is_one_number(tmp_path: Path) -> None:
    found = section(write_report(results_of({"longest": 0.0}), tmp_path), "Comparisons by loss per row")
    assert found.count("the clearest of") == 1  # of the comparisons at each budget, not of the one over all
    overall = found.split("Each by itself")[0]
    assert re.search(r"a true difference of 1% would be seen with a probability of \d\.\d\d: this study", overall)


def test_one_seed(tmp_path: Path) -> None:
    text = write_report(results_of(ARMS, seeds=1), tmp_path)
    assert "is better" not in text
    assert "is worse" not in text
    assert text.count("is not distinguishable from random") == 9
    assert text.count("One seed tells nothing of chance.") == 1 + 2 * 3
    assert "nan" not in text
    assert (tmp_path / "study.png").is_file()


def test_screening_table(tmp_path: Path) -> None:
    cells = {cell: {**found, "loss per row": 2.0 + len(cell.arm) / 10} for cell, found in SCREENING.items()}
    text = write_report(results_of(ARMS, screening=cells), tmp_path)
    found = section(text, "Screening: keep 0.3, 2 seeds")
    rows = [line.split("|")[1].strip() for line in found.splitlines() if line.startswith("| ")]
    assert rows[1:] == ["random", "longest", "ifd cut 0.3"]  # best first
    assert "| random | 2.6000 | 2.6000 | 1.0000 | 2.6000 | 1.0000 |" in found
    assert "The arms were chosen by their loss on the same test rows." in text
    assert "Screening" not in write_report(results_of(ARMS), tmp_path)


def test_rows_that_are_shared_and_suspect(tmp_path: Path) -> None:
    text = write_report(results_of(ARMS, flag_column="suspect"), tmp_path)
    found = section(text, "Rows that are shared with random rows of the same seed, and suspect")
    assert "| tokens | longest | 25%, 30% | 25%, 30% |" in found
    plain = section(
        write_report(results_of(ARMS), tmp_path), "Rows that are shared with random rows of the same seed\n"
    )
    assert "| rows | longest | 25% | 25% |" in plain


def test_costs(tmp_path: Path) -> None:
    found = section(write_report(results_of(ARMS), tmp_path), "Cost")
    assert "| ifd cut 0.3 | 12.0 s | 0.030 | 0.150 |" in found  # of 400 s, and of 80 s
    assert "| loss easiest | 42.0 s | 0.105 | 0.525 |" in found
    assert "| random | 2.0 s | 0.005 |" in found
    assert "One epoch of LoRA at all layers on all rows takes 400 s, measured by a few steps" in found
    assert "trained here takes 80 s." in found
    unknown = {"seconds": {"score ifd": None}, "lora_epoch_seconds": None}
    found = section(write_report(results_of(ARMS, facts=unknown), tmp_path), "Cost")
    assert "| ifd cut 0.3 | not known | - | - |" in found
    assert "| longest | 2.0 s | - | 0.025 |" in found
    assert "on all rows is not known; STR" in found


def test_kinds_of_arms_have_their_colours() -> None:
    kinds = {
        "target bm25": "wanted rows",
        "target_shift easiest": "wanted rows",
        "ifd cut 0.3": "a score",
        "unique loss easiest": "a score",
        "k_center": "features, groups or duplicates",
        "unique random": "features, groups or duplicates",
        "oracle": "other",
        "longest": "other",
    }
    assert {arm: kind_of_arm(arm) for arm in kinds} == kinds


def test_the_plot_has_a_line_for_each_arm_and_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure  # not at the top, for the processes that need none

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    results = results_of(ARMS, budgets=[0.1, 0.2, 0.4])
    draw_differences(results, tmp_path / "study.png")
    panels = drawn[0].axes
    assert [axes.get_title() for axes in panels] == ["equal rows", "equal tokens"]
    labels = [label.get_text() for label in panels[0].get_yticklabels()]
    assert labels == [f"{arm}, keep {budget:g}" for arm in ARMS for budget in (0.1, 0.2, 0.4)]
    for axes, matching in zip(panels, ("rows", "tokens"), strict=True):
        points = [container.lines[0] for container in axes.containers]
        assert len(points) == 12
        for number, arm in enumerate(ARMS):
            random = results.values("random", matching, 0.1, "loss per row")
            values = results.values(arm, matching, 0.1, "loss per row")
            expected = 100 * (values - random).mean() / random.mean()
            assert points[3 * number].get_xdata()[0] == pytest.approx(expected)
            is_open = points[3 * number].get_markerfacecolor() == "white"
            assert is_open == (arm == "longest")  # its interval holds 0
