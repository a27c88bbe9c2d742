"""Statistics and report of a study: it sees a difference that is there, and says when it cannot tell."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from hf_dlc.scores.base import Pass
from hf_dlc.scores.dlc import Loss
from hf_dlc.scores.table import SCORES
from hf_dlc.study.arms import Cell
from hf_dlc.study.options import StudyArguments
from hf_dlc.study.report import scoring_share, write_report
from hf_dlc.study.results import StudyResults
from hf_dlc.study.statistics import Comparison, holm, paired, power


def results_of(differences: dict[str, float], seeds: int = 6) -> StudyResults:
    """A study in which the arms are so much better than random rows, with some noise."""
    rng = np.random.default_rng(0)
    options = StudyArguments(seeds=seeds, budgets=[0.2])
    cells = options.confirming_cells(list(differences))
    of_seed = rng.normal(0, 1, 1 + seeds)  # alike in all arms, so that only pairs can see the difference

    def outcome(cell: Cell) -> dict[str, float]:
        loss = of_seed[cell.seed] + differences.get(cell.arm, 0.0) + rng.normal(0, 0.01)
        measured = {"loss per row": loss, "loss per token": 2.0 + loss, "mmlu": 0.5 - loss / 10}
        return {**measured, "rows": 10, "tokens": 100, "seconds": 5.0, "shared": 0.25, "identity": "x"}

    return StudyResults(
        "rows.jsonl",
        options,
        {
            "scorer": {"model": "tiny", "gguf_file": None, "dtype": "float32", "config": {"masking": "random"}},
            "fractions": [0.0, 0.1],
            "seconds": 8.0,
            "resumed": False,
        },
        [3, 5],
        7,
        {},
        [*differences],
        {c: outcome(c) for c in cells},
    )


def test_verdicts_see_a_difference_and_none(tmp_path: Path) -> None:
    text = write_report(results_of({"loss easiest": 0.3, "gain flexrand 0.5": -0.3, "longest": 0.0}), tmp_path)
    for metric in ("loss per row", "loss per token", "mmlu"):
        [section] = [part for part in text.split("\n## ") if part.startswith(f"Verdicts by {metric}\n")]
        assert section.count("loss easiest is worse than random at keep 0.2 of the ") == 2
        assert section.count("gain flexrand 0.5 is better than random at keep 0.2 of the ") == 2
        assert section.count("longest is not distinguishable from random at keep 0.2 of the ") == 2
        assert "loss easiest is worse than random over all budgets" in section
        assert "gain flexrand 0.5 is better than random over all budgets" in section
        assert "longest is not distinguishable from random over all budgets" in section
        assert "as the first of 3, with" in section
        assert "as the first of 6, with" in section
    record = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert [len(record[name]) for name in ("screening", "confirming")] == [0, 6 * (1 + 2 * 4)]
    found = record["comparisons"]
    assert len(found) == 3 * 6
    assert next(one for one in found if one["arm"] == "loss easiest")["difference"] == pytest.approx(0.3, abs=0.03)
    assert "| loss easiest | 8 s | 100, 13 s |" in text
    assert "| longest | 0 s | 100, 5 s |" in text
    # Two epochs took 5 s.
    assert "With all levels, scoring 8.0 s; one epoch of LoRA training on these rows: 2.5 s; STR 3.2." in text
    for arm, told in (
        ("loss easiest", "Its scores cost 3.20 epochs (STR)."),
        ("gain flexrand 0.5", "Its scores cost 3.20 epochs (STR)."),
        ("longest", "It needs no scores."),
    ):
        verdicts = [line for line in text.splitlines() if re.match(f"- {arm} is .* over all budgets", line)]
        assert len(verdicts) == 3
        assert all(line.endswith(f"). {told}") for line in verdicts)
    assert text.count("this study has not the power to see 0.01") == 4
    assert text.count("this study has the power to see 0.01") == 2  # of the accuracy, which is ten times as exact
    assert "| tokens | longest | 25% |" in text
    assert record["finalists"] == ["loss easiest", "gain flexrand 0.5", "longest"]
    assert record["scoring"]["scorer"]["model"] == "tiny"


def test_the_verdict_says_what_the_scores_of_an_arm_cost(tmp_path: Path) -> None:
    """Plain loss is one of the two levels; of a scoring in parts, the seconds say nothing."""
    results = results_of({"plain easiest": 0.0, "loss easiest": 0.0})
    text = write_report(results, tmp_path)
    assert text.count("Its scores cost 1.60 epochs (STR).") == text.count("Its scores cost 3.20 epochs (STR).") == 3
    assert "STR is what the scoring cost, divided by what one epoch of training on all rows cost." in text
    results.scoring["resumed"] = True
    text = write_report(results, tmp_path)
    assert text.count("What its scores cost is not known: the scoring was stopped and went on.") == 2 * 3
    assert "(STR)" not in text


def test_one_seed_tells_nothing(tmp_path: Path) -> None:
    text = write_report(results_of({"loss easiest": 5.0}, seeds=1), tmp_path)
    assert "is better" not in text
    assert "is worse" not in text
    assert text.count("is not distinguishable from random") == 9
    assert "Infinity" not in (tmp_path / "study.json").read_text(encoding="utf-8")
    assert (tmp_path / "study.png").is_file()


def test_power_is_the_share_of_studies_that_see_a_difference() -> None:
    """Of so many studies whose differences have this spread."""
    rng, seeds, count, spread = np.random.default_rng(0), 5, 3, 0.006
    p = stats.ttest_1samp(rng.normal(0.01, spread, (20_000, seeds)), 0.0, axis=1).pvalue
    half = stats.t.ppf(0.975, seeds - 1) * spread / seeds**0.5
    one = Comparison("a", "rows", 0.3, "loss per row", 0.0, -half, half, 1.0, seeds)
    assert power(one, count) == pytest.approx(np.mean(p < 0.05 / count), abs=0.08)
    assert power(one._replace(low=-np.inf, high=np.inf), count) == pytest.approx(0.025 / count)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_paired_comparison_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(0, 1, 6), rng.normal(0.2, 1, 6)
    mean, low, high, p = paired(left - right)
    expected = stats.ttest_rel(left, right)
    assert mean == pytest.approx((left - right).mean())
    assert p == pytest.approx(expected.pvalue)
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval()))
    assert paired(np.full(4, 0.1))[3] == 1.0


def test_plain_loss_costs_one_level() -> None:
    arms = ("random", "longest", "plain easiest", "loss flexrand 0.5")
    assert [scoring_share(arm, [0.0, 0.1, 0.2, 0.3]) for arm in arms] == [0.0, 0.0, 0.25, 1.0]


def test_a_score_costs_the_passes_that_it_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ends(Loss):
        name = "ends"

        def passes(self, schedule: Sequence[float]) -> tuple[Pass, ...]:
            return Pass(schedule[0]), Pass(schedule[-1])

    monkeypatch.setitem(SCORES, "ends", Ends())
    assert scoring_share("ends easiest", [0.0, 0.1, 0.2, 0.3]) == 0.5
