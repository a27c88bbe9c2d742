"""A study in a given time: the sample that fits, what is said where none does, and going on later."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.study import pilot, study
from hf_dlc.study.options import PilotArguments
from hf_dlc.study.pilot import Speeds, foretell, measure_speeds, run_pilot
from hf_dlc.study.report import write_report
from hf_dlc.study.results import StudyResults
from hf_dlc.study.study import Study
from hf_dlc.utils.durations import duration
from tests.rows import many_rows, write_rows


CONFIG = DLCConfig(dtype="float32", schedule="0", prefix="dlc")
SMALL = {"arms": ["longest"], "screening_seeds": 1, "seeds": 1, "max_seeds": 1, "budgets": [0.5], "eval_rows": 8}
SPEEDS = Speeds(reading=1.0, training=10.0, judging=0.5)


Give = Callable[..., PilotArguments]


@pytest.fixture
def give(llama_folder: Path, tmp_path: Path) -> Give:
    """`give(rows=60, minutes=5)`: options of a study of so many rows."""

    def make(rows: int = 60, **options: Any) -> PilotArguments:
        path = tmp_path / f"rows{rows}.jsonl"
        write_rows(path, many_rows(rows))
        given = {"dataset": str(path), "model": str(llama_folder), "output_dir": str(tmp_path / "study")}
        return PilotArguments(**{**given, "num_threads": 1, "lora_layers": 1, **SMALL, **options})

    return make


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pilot, "measure_speeds", lambda *_: SPEEDS)


@pytest.fixture
def studied(monkeypatch: pytest.MonkeyPatch) -> list[Study]:
    """Studies that were begun; they find nothing."""
    begun: list[Study] = []

    def run(self: Study) -> StudyResults:
        begun.append(self)
        return StudyResults(self.options, {}, {}, [], {}, {})

    monkeypatch.setattr(Study, "run", run)
    return begun


def test_foretold_seconds_are_those_of_all_that_is_done() -> None:
    options = PilotArguments(arms=["longest"], screening_seeds=2, budgets=[0.5], num_finalists=1, matchings="rows")
    # Two arms twice at 0.3 in the screening; all rows and two arms at 0.5 with three seeds; two models a seed.
    epochs = 2 * 2 * 0.3 + 3 * (1.0 + 2 * 0.5)
    expected = (100 + 20) * 1.0 + 100 * epochs * 10.0 + (4 + 9) * 20 * 0.5
    assert foretell(options, SPEEDS, 100, 20) == pytest.approx(expected)
    assert foretell(replace(options, epochs=2.0), SPEEDS, 100, 20) == pytest.approx(expected + 100 * epochs * 10.0)


def test_foretold_seconds_of_a_study_without_screening() -> None:
    options = PilotArguments(finalists=["longest", "loss easiest"], budgets=[0.5], matchings="rows")
    epochs = 3 * (1.0 + 3 * 0.5)
    expected = (100 * (1 + 4) + 20) * 1.0 + 100 * epochs * 10.0 + 12 * 20 * 0.5  # four passes for the score
    assert foretell(options, SPEEDS, 100, 20) == pytest.approx(expected)
    repeated = replace(options, budgets=[0.1, 0.5], matchings="updates")
    assert foretell(repeated, SPEEDS, 100, 20) == pytest.approx(
        (100 * 5 + 20) + 100 * 3 * (1.0 + 6 * 0.5) * 10.0 + 21 * 20 * 0.5
    )


def test_passes_that_are_shared_are_foretold_once() -> None:
    def read(*arms: str) -> float:
        options = PilotArguments(finalists=list(arms), flag_column="suspect", target="wanted.jsonl")
        return foretell(options, Speeds(1.0, 0.0, 0.0), 100, 0) / 100

    assert read("longest", "oracle") == 1
    assert read("plain_loss easiest") == read("plain_loss easiest", "plain_loss hardest") == 2
    assert read("loss easiest") == read("loss easiest", "gain easiest") == 5
    assert read("ifd cut 0.1") == 3
    assert read("k_center") == read("k_center", "cluster random") == 3
    assert read("target gradient", "k_center") == 5


def test_the_oracle_goes_on_beside_the_finalists() -> None:
    options = PilotArguments(arms=["longest", "loss easiest"], num_finalists=1, budgets=[0.5])
    beside = replace(options, arms=[*options.arms, "oracle"], flag_column="suspect")
    judged = [foretell(one, Speeds(0.0, 0.0, 1.0), 1, 1) for one in (options, beside)]
    assert judged[1] - judged[0] == 2 + 3  # in the screening and in the confirming stage


@pytest.mark.parametrize(
    ("rows", "minutes", "expected"), [(60, 1000.0, 52), (160, 1000.0, 152), (160, 180.0, 120), (300, 1000.0, 292)]
)
def test_the_largest_pool_that_fits_is_taken(
    give: Give, speeds: None, studied: list[Study], rows: int, minutes: float, expected: int
) -> None:
    run_pilot(give(rows, minutes=minutes), CONFIG)
    assert len(studied[0].rows.pool) == expected
    plan = json.loads((studied[0].output / "plan.json").read_text(encoding="utf-8"))
    assert plan["pool_rows"] == expected
    options = give(rows, minutes=minutes)
    assert plan["foretold_seconds"] == foretell(options, SPEEDS, expected, 8) <= 0.8 * 60 * minutes
    larger = [count for count in (152, 292) if expected < count <= rows - 8]
    assert all(foretell(options, SPEEDS, count, 8) > 0.8 * 60 * minutes for count in larger)


def test_with_wanted_rows(give: Give, speeds: None, studied: list[Study], tmp_path: Path) -> None:
    wanted = write_rows(tmp_path / "wanted.jsonl", many_rows(90)[70:])
    run_pilot(give(60, minutes=1000, target=str(wanted)), CONFIG)
    assert [len(rows) for rows in (studied[0].rows.pool, studied[0].rows.test, studied[0].rows.wanted)] == [60, 8, 10]


def test_a_time_that_is_too_short(give: Give, speeds: None, tmp_path: Path) -> None:
    """It is said how long it would take, and what would shorten it; no plan is left behind."""
    needed = duration(foretell(give(), SPEEDS, 52, 8) / 0.8)
    with pytest.raises(ValueError, match=rf"takes about {needed}, got 5 minutes\. Pass more --minutes, fewer --arms"):
        run_pilot(give(minutes=5), CONFIG)
    assert not (tmp_path / "study" / "plan.json").exists()


def test_a_second_run_keeps_the_plan(
    give: Give, speeds: None, studied: list[Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    for minutes in (180.0, 10_000.0):  # there would be time for more now
        run_pilot(give(160, minutes=minutes), CONFIG)
        monkeypatch.setattr(pilot, "measure_speeds", None)
    assert [len(one.rows.pool) for one in studied] == [120, 120]


def test_a_number_of_rows_that_is_given_is_taken_and_a_lack_of_time_said(
    give: Give,
    speeds: None,
    studied: list[Study],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_pilot(give(minutes=1000, pool_rows=20), CONFIG)
    assert "takes longer" not in caplog.text
    run_pilot(give(minutes=0.01, pool_rows=30), CONFIG)
    assert "a pool of 30 rows takes longer than 0.01 minutes" in caplog.text
    monkeypatch.setattr(pilot, "measure_speeds", None)  # of what was planned already, nothing is measured again
    run_pilot(give(minutes=0.01, pool_rows=30), CONFIG)
    assert [len(one.rows.pool) for one in studied] == [20, 30, 30]


def test_questions_take_time(give: Give, speeds: None, studied: list[Study], tmp_path: Path) -> None:
    """Every choice is judged for every model; how long tasks take is not known, which is said."""
    asked = [{"question": "Say a.", "choices": ["fox", "dog", "5"], "answer": 1}] * 7
    options = give(60, minutes=1000.0, choices=str(write_rows(tmp_path / "choices.jsonl", asked)))
    run_pilot(options, CONFIG)
    plan = json.loads((studied[0].output / "plan.json").read_text(encoding="utf-8"))
    assert plan["foretold_seconds"] == foretell(options, SPEEDS, 52, 8 + 21)


def test_tasks_are_no_part_of_the_time(
    give: Give, speeds: None, studied: list[Study], caplog: pytest.LogCaptureFixture
) -> None:
    run_pilot(give(60, minutes=1000.0, tasks=["arc_easy"]), CONFIG)
    assert "what ['arc_easy'] takes for each model is not foretold" in caplog.text


def test_speeds_are_those_of_a_row(give: Give, llama_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row is read in the lower layers, trained on, and judged; two epochs take twice as long."""
    now = [0.0]
    monkeypatch.setattr(pilot.time, "perf_counter", lambda: now[0])

    def slow(name: str, seconds: Callable[..., float], owner: type) -> None:
        act = getattr(owner, name)

        def acting(self: Any, *rest: Any, **named: Any) -> Any:
            now[0] += seconds(self, *rest)
            return act(self, *rest, **named)

        monkeypatch.setattr(owner, name, acting)

    slow("below", lambda *_: 16.0, pilot.States)
    slow("train", lambda self, states, rows, *_: 3.0 * self.options.epochs * len(rows), pilot.Trainee)
    slow("losses", lambda *_: 8.0, pilot.Trainee)
    scorer = DLCScorer.from_pretrained(llama_folder, device="cpu", dtype="float32", schedule="0")
    tokens = scorer.tokenize(pilot.Dataset.from_list(many_rows(8)))
    for epochs in (1.0, 2.0):
        assert measure_speeds(give(epochs=epochs), scorer, tokens) == Speeds(reading=3.0, training=3.0, judging=1.0)


def test_a_real_study_in_a_given_time(give: Give) -> None:
    results = run_pilot(give(minutes=60), CONFIG)
    assert results.facts["pool_rows"] == 52
    assert results.seeds == [1]
    assert results.finalists == ["longest"]
    text = write_report(results, Path(results.options.output_dir))
    assert "proxy" not in text
    again = run_pilot(give(minutes=60), CONFIG)
    assert again == results


def test_a_proxy_is_studied_and_said_to_be_one(give: Give, llama_folder: Path) -> None:
    """The model itself is not even loaded."""
    options = give(model="large", model_revision="v2", proxy=str(llama_folder), finalists=["longest"], minutes=60)
    results = run_pilot(options, CONFIG)
    assert results.facts["scorer"]["model"] == str(llama_folder)
    text = write_report(results, Path(options.output_dir))
    assert f"- model {llama_folder} in float32" in text
    assert "- this model is a proxy for large, for which another way may be better" in text
    record = json.loads((Path(options.output_dir) / "study.json").read_text(encoding="utf-8"))
    assert write_report(StudyResults.from_json(record), Path(options.output_dir)) == text


def test_time_that_is_up_and_a_run_that_goes_on(give: Give, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time begins with each run; a seed that was begun is finished."""
    now = [0.0]
    for module in (pilot, study):
        monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def slow(self: Study, cell: Any) -> dict[str, Any]:
        now[0] += 20.0  # a minute for each seed
        return {"loss per row": 1.0, "seconds": 20.0}

    monkeypatch.setattr(Study, "_train", slow)
    monkeypatch.setattr(Study, "_facts", lambda self: {})
    options = give(minutes=2.5, pool_rows=20, finalists=["longest"], seeds=5, max_seeds=5)
    assert run_pilot(options, CONFIG).seeds == [1, 2]
    assert run_pilot(options, CONFIG).seeds == [1, 2, 3, 4]
    assert run_pilot(options, CONFIG).seeds == [1, 2, 3, 4, 5]
    assert len(list((Path(options.output_dir) / "cells").iterdir())) == 1 + 5 * 3
