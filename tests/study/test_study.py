"""A study of a tiny model: what is trained and measured, what is read again, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.execution.journal import JournalError
from hf_dlc.pipeline.options import ModelArguments, load_scorer
from hf_dlc.study import study as study_module
from hf_dlc.study.arms import Cell
from hf_dlc.study.measuring import held_out_losses, make_judge, right_choices
from hf_dlc.study.options import StudyArguments, TrainerOptions, options_of
from hf_dlc.study.report import write_report
from hf_dlc.study.results import StudyResults
from hf_dlc.study.study import Study, config_of_study
from hf_dlc.study.trainee import Trainee
from hf_dlc.study.training import train_lora
from tests.conftest import same_weights, weights
from tests.rows import many_rows, write_rows
from tests.study.conftest import losses_by_hand


POOL = [
    {**row, "source": "web" if number < 24 else "book", "suspect": number % 4 == 0}
    for number, row in enumerate([*many_rows(32), *many_rows(4)])
]
TEST = many_rows(60)[48:]
QUESTIONS = [{"question": f"Say {word}.", "choices": ["fox", "the red dog", "5"], "answer": 1} for word in ("a", "b")]
CONFIG = DLCConfig(dtype="float32", schedule="0, 0.3", prefix="dlc")
TRAINING = {"epochs": 1.0, "learning_rate": 0.02, "batch_size": 4, "lora_dropout": 0.0, "lora_layers": 1}
SMALL = {"finalists": ["longest"], "seeds": 1, "budgets": [0.5], "matchings": "rows"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("files")
    rows = {"dataset": POOL, "test": TEST, "target": many_rows(48)[40:], "choices": QUESTIONS}
    return {name: str(write_rows(folder / f"{name}.jsonl", found)) for name, found in rows.items()}


Begin = Callable[..., Study]


@pytest.fixture(scope="module")
def begin_in(llama_folder: Path, files: dict[str, str]) -> Callable[..., Study]:
    def make(folder: Path, config: DLCConfig = CONFIG, deadline: float | None = None, **options: Any) -> Study:
        given = {**TRAINING, "model": str(llama_folder), "num_threads": 1, "eval_rows": 10, "output_dir": str(folder)}
        given |= {name: files[name] for name in ("dataset", "test")}
        return Study(StudyArguments(**{**given, **options}), config, deadline=deadline)

    return make


@pytest.fixture
def begin(begin_in: Begin, tmp_path: Path) -> Begin:
    return lambda **options: begin_in(tmp_path / "study", **options)


@pytest.fixture(scope="module")
def finished(
    begin_in: Begin, files: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Study, StudyResults]:
    """A study of all kinds of arms, which any number of tests look at."""
    study = begin_in(
        tmp_path_factory.mktemp("finished") / "study",
        arms=["longest", "oracle", "loss easiest", "ifd cut 0.3", "unique balanced random", "target cosine"],
        target=files["target"],
        choices=files["choices"],
        group_by="source",
        flag_column="suspect",
        screening_seeds=1,
        screening_budget=0.4,
        num_finalists=2,
        budgets=[0.25, 0.5],
        seeds=2,
        max_seeds=2,
    )
    before = weights(study.scorer.model)
    results = study.run()
    assert same_weights(study.scorer.model, before)
    return study, results


def cells_on_disk(study: Study) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text("utf-8")) for path in (study.output / "cells").iterdir()}


def test_stages(finished: tuple[Study, StudyResults]) -> None:
    study, results = finished
    arms = study.options.arms
    assert {cell.arm for cell in results.screening} == {"random", *arms}
    assert {cell.seed for cell in results.screening} == {0}
    assert {cell.matching for cell in results.screening} == {"rows", "tokens"}
    assert len(results.finalists) == 3
    assert results.finalists[-1] == "oracle"
    means = {
        arm: np.mean([found["loss per row"] for cell, found in results.screening.items() if cell.arm == arm])
        for arm in arms
        if arm != "oracle"
    }
    assert results.finalists[:2] == sorted(means, key=means.get)[:2]
    assert results.seeds == [1, 2]  # not that of the screening
    assert set(results.confirming) == set(study.options.confirming_cells(results.finalists, 2))


def test_cells_tell_what_was_trained(finished: tuple[Study, StudyResults]) -> None:
    study, results = finished
    tokens, count = study.prepared.tokens, len(study.rows.pool)
    assert count == len(POOL)
    assert tokens.tolist() == study.scorer.score(study.rows.pool)["dlc_tokens"][:]
    for cell, found in results.confirming.items():
        chosen = study.prepared.choose(cell)
        assert found["rows"] == len(chosen)
        assert found["tokens"] == tokens[chosen].sum()
        if cell.matching == "tokens":
            assert abs(found["tokens"] - cell.budget * tokens.sum()) < tokens.max()
        else:
            assert found["rows"] == round(cell.budget * count)
        flags = np.array(study.rows.pool["suspect"][:])[chosen]
        assert found["suspect"] == flags.mean()
        assert found["suspect"] == 0 or cell.arm != "oracle"
        assert found["shared"] == (1.0 if cell.arm in ("random", "full") else study.prepared.shared_with_random(cell))
        assert found["seconds"] > 0
        assert found["selecting"] >= 0


def test_the_measured_loss_is_that_of_the_trained_model_as_the_scorer_sees_it(
    finished: tuple[Study, StudyResults], llama_folder: Path
) -> None:
    """By a training of the whole model on the rows themselves, whose adapters are merged into its weights."""
    study, results = finished
    scorer = load_scorer(ModelArguments(model=str(llama_folder)), CONFIG)
    options = options_of(TrainerOptions, study.options, trainer="transformers")
    arm = results.finalists[0]
    for cell in (Cell("full", "rows", 1.0, 1), Cell(arm, "tokens", 0.25, 2), Cell("random", "rows", 0.5, 2)):
        rows = scorer.tokenize(study.rows.pool.select(study.prepared.choose(cell)))
        model = train_lora(scorer, rows, options, cell.seed)
        judge = make_judge(scorer, model)
        found = results.confirming[cell]
        assert {name: found[name] for name in ("loss per row", "loss per token")} == pytest.approx(
            held_out_losses(judge, study.rows.test), abs=1e-4
        )
        plain = judge.with_options(schedule="0", scores=("plain_loss",)).score(study.rows.test)["dlc_plain_loss"][:]
        assert found["loss per row"] == pytest.approx(np.mean(plain), abs=1e-4)
        assert found["choices"] == right_choices(judge, study.rows.questions).mean()
        model.unload()
    assert len({found["loss per row"] for found in results.confirming.values()}) > 10  # models differ


def test_the_model_is_measured_before_any_training(finished: tuple[Study, StudyResults]) -> None:
    study, results = finished
    judge = make_judge(study.scorer)
    expected = held_out_losses(judge, study.rows.test)
    assert {name: results.start[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert results.start["choices"] == right_choices(judge, study.rows.questions).mean()
    assert results.metrics == ["loss per row", "loss per token", "choices"]
    assert results.start["rows"] == 0
    assert results.full("loss per row").mean() < results.start["loss per row"] - 0.1  # all rows teach something


def test_equal_updates(finished: tuple[Study, StudyResults]) -> None:
    """The rows are those of equal rows, repeated; the largest subset takes so many steps by itself."""
    study, results = finished
    files = cells_on_disk(study)
    assert results.facts["steps_of_updates"] == 5  # half of 36 rows, by 4
    for cell in (cell for cell in results.confirming if cell.matching == "updates"):
        rows = results.confirming[cell._replace(matching="rows")]
        if cell.budget == 0.5:
            assert cell.name not in files
            assert results.confirming[cell] == rows
        else:
            assert cell.name in files
            assert (files[cell.name]["rows"], files[cell.name]["tokens"]) == (rows["rows"], rows["tokens"])
            assert files[cell.name]["loss per row"] != rows["loss per row"]


def test_steps_of_equal_updates(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int | None] = []
    train = Trainee.train

    def watched(self: Trainee, states: Any, rows: Any, seed: int, count: int | None = None) -> Any:
        steps.append(count)
        return train(self, states, rows, seed, count)

    monkeypatch.setattr(Trainee, "train", watched)
    study = begin(**{**SMALL, "matchings": "updates", "budgets": [0.25, 0.5]}, epochs=2.0)
    results = study.run()
    assert steps == [None, 10, 10, 10, 10]  # all rows; without equal rows, the largest subset is trained as well
    assert {cell.matching for cell in results.confirming} == {"rows", "updates"}


def test_facts(finished: tuple[Study, StudyResults], llama_folder: Path) -> None:
    study, results = finished
    facts = results.facts
    expected = {"dataset": "dataset.jsonl", "situation": "task", "pool_rows": 36, "test_rows": 10, "wanted_rows": 8}
    assert {name: facts[name] for name in expected} == expected
    assert facts["questions"] == 2
    assert facts["pool_tokens"] == study.prepared.tokens.sum()
    assert facts["scorer"]["model"] == str(llama_folder)
    assert set(facts["seconds"]) == {"score loss", "score ifd", "features auto", "duplicates"}
    assert all(value > 0 for value in facts["seconds"].values())
    assert facts["lora_epoch_seconds"] > 0
    assert facts["lower_layers_seconds"] > 0
    assert results.cost("loss easiest") >= facts["seconds"]["score loss"] if "loss easiest" in results.finalists else 1


def test_the_report_of_it(finished: tuple[Study, StudyResults]) -> None:
    study, results = finished
    text = write_report(results, study.output)
    assert "# Does choosing pay where a task is wanted?" in text
    record = json.loads((study.output / "study.json").read_text(encoding="utf-8"))
    assert write_report(StudyResults.from_json(record), study.output) == text
    assert record["options"]["arms"] == study.options.arms


def test_a_finished_study_is_read_again(
    begin: Begin, passes: list[int], monkeypatch: pytest.MonkeyPatch, cache: Path, taught_folder: Path
) -> None:
    """As on another machine: neither is anything scored or trained, nor is a schedule calibrated."""
    options = {**SMALL, "finalists": ["loss easiest", "unique random"], "model": str(taught_folder)}
    options["config"] = DLCConfig(dtype="float32", prefix="dlc")
    first = begin(**options).run()
    shutil.rmtree(cache)
    passes.clear()
    for name in ("train", "losses"):
        monkeypatch.setattr(Trainee, name, None)
    monkeypatch.setattr(DLCScorer, "calibrate", None)
    assert begin(**options).run() == first
    assert not passes


def test_what_is_missing_is_trained(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    study = begin(**SMALL)
    first = study.run()
    (study.output / "cells" / "longest_rows_0.5_2.json").unlink()
    trained: list[int] = []
    train = Trainee.train
    monkeypatch.setattr(Trainee, "train", lambda self, *rest: trained.append(rest[2]) or train(self, *rest))
    again = begin(**SMALL).run()
    assert trained == [2]
    assert losses_of(again) == losses_of(first)


def losses_of(results: StudyResults) -> dict[Cell, float]:
    return {cell: found["loss per row"] for cell, found in results.confirming.items()}


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 2.0},
        {"learning_rate": 0.01},
        {"lora_rank": 4},
        {"lora_layers": None},
        {"eval_rows": 5},
        {"pool_rows": 20},
        {"choices": True},
        {"budgets": [0.25, 0.75]},  # more updates
    ],
    ids=lambda change: next(iter(change)),
)
def test_cells_of_another_study_are_refused(
    begin_in: Begin, smallest: Study, files: dict[str, str], change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is trained."""
    monkeypatch.setattr(Trainee, "train", None)
    if "choices" in change:
        change = {"choices": files["choices"]}
    with pytest.raises(ValueError, match=r"\.json is of other rows, model, training or questions"):
        begin_in(smallest.output, **{**SMALL, **change}).run()


@pytest.fixture(scope="module")
def smallest(begin_in: Begin, tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = begin_in(tmp_path_factory.mktemp("smallest") / "study", **SMALL)
    study.run()
    return study


def test_cells_of_other_scores_are_refused(begin: Begin) -> None:
    """An arm that chooses by scores of another masking has chosen other rows; random rows are the same."""
    options = {**SMALL, "finalists": ["gain hardest"]}
    study = begin(**options)
    study.run()
    other = DLCConfig(dtype="float32", masking="random", schedule="0, 0.5, 0.9", prefix="dlc")
    with pytest.raises(JournalError, match="holds the scores of another run"):
        begin(**options, config=other).run()
    shutil.rmtree(study.output / "prepared")
    with pytest.raises(ValueError, match=r"gain_hardest_rows_0\.5_2\.json is of other rows"):
        begin(**options, config=other).run()


def test_a_study_of_parts(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second part waits for what the first has made, and the first for what the second has trained."""
    options = {**SMALL, "finalists": ["loss easiest"], "budgets": [0.25, 0.5]}
    whole = begin(**options)
    expected = losses_of(whole.run())
    for path in (whole.output / "cells").iterdir():
        path.unlink()
    away = whole.output / "prepared" / "loss"
    away.rename(whole.output / "away")
    parts = {part: begin(**options, part=part) for part in ("1/2", "2/2")}
    log: list[str] = []
    train = Trainee.train

    def sleep(_: float) -> None:
        """The first process does its part while the second waits, and the other way round."""
        log.append(f"waiting with {len(list((whole.output / 'cells').iterdir()))} cells")
        if len(log) == 1:
            (whole.output / "away").rename(away)
        elif len(log) == 2:
            parts["1/2"].run()
        else:  # the first waits for the second, which is held up here: a third does its work
            begin(**options).run()

    monkeypatch.setattr(study_module.time, "sleep", sleep)
    monkeypatch.setattr(Trainee, "train", lambda self, *rest: log.append("train") or train(self, *rest))
    results = parts["2/2"].run()
    assert losses_of(results) == expected
    assert log.count("train") == len(expected)
    assert any(line.startswith("waiting") for line in log[1:])


def test_parts_train_each_cell_once(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module.Study, "_wait_for", lambda *_: None)
    monkeypatch.setattr(study_module.Study, "_read", lambda *_: {})
    trained: dict[str, list[str]] = {}
    cells = [Cell("random", "rows", 0.5, seed) for seed in range(7)]
    for part in ("1/3", "2/3", "3/3"):
        study = begin(**SMALL, part=part)
        monkeypatch.setattr(study, "_identity_of", lambda _: "x")
        monkeypatch.setattr(
            study,
            "_train",
            lambda cell, part=part: (
                trained.setdefault(part, []).append(cell.name) or {"loss per row": 0.0, "seconds": 0.0}
            ),
        )
        study.train_all(cells)
        for path in (study.output / "cells").iterdir():
            path.unlink()
    assert [len(found) for found in trained.values()] == [3, 2, 2]
    assert sorted(name for found in trained.values() for name in found) == sorted(cell.name for cell in cells)


def test_arms_of_the_situation(begin: Begin, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        study = begin(group_by="source")
    assert study.options.kind.name == "sources"
    assert "unique balanced random" in study.arms
    assert study.left_out == {"oracle": ["flags"]}
    assert "not compared, for want of what stands behind each: oracle (flags)" in caplog.text
    assert begin(**SMALL).left_out == {}


@pytest.mark.parametrize(
    ("options", "lacking"),
    [
        ({"arms": ["balanced random"]}, r"balanced random \(groups\)"),
        ({"finalists": ["oracle", "longest"]}, r"oracle \(flags\)"),
        ({"arms": ["target bm25", "transfer features"]}, r"target bm25 \(target\); transfer features \(target\)"),
        ({"finalists": ["target_shift easiest"]}, r"target_shift easiest \(target\)"),
        ({"arms": ["similarity easiest"]}, r"similarity easiest \(score similarity\)"),
    ],
)
def test_named_arms_that_lack_something_are_refused(begin: Begin, options: dict[str, Any], lacking: str) -> None:
    with pytest.raises(ValueError, match=f"an arm must have what it needs, got {lacking}"):
        begin(**options)


def test_what_cannot_be_chosen_is_known_before_training(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainee, "train", None)
    with pytest.raises(ValueError, match=r"ifd cut 0\.3 cannot choose at keep 0\.9: "):
        begin(**{**SMALL, "finalists": ["longest", "ifd cut 0.3"], "budgets": [0.2, 0.9]}).run()


def test_digests_name_what_they_always_named(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells of earlier studies stay readable."""
    seen: list[Any] = []
    digest = study_module.json_digest
    monkeypatch.setattr(study_module, "json_digest", lambda value: seen.append(value) or digest(value))
    begin(**SMALL, tasks=["mmlu"])
    (_, _, layers), (rows, (training, steps), tasks), (_, scorer, wanted) = seen
    assert (layers, steps, tasks, wanted) == (1, 5, ["mmlu"], None)
    assert rows == digest(seen[0])
    assert training == {**TRAINING, "lora_rank": 16, "lora_alpha": 32, "trainer": "transformers"}
    assert "model_digest" in scorer


def test_of_named_finalists_alone_is_made_what_they_need(begin: Begin) -> None:
    study = begin(**SMALL, arms=["loss easiest", "ifd easiest"])
    study.run()
    assert not list((study.output / "prepared").glob("*"))


def test_time_that_is_up_ends_a_study_between_seeds(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it goes on where it stopped; one seed is trained in any case."""
    now = [0.0]
    monkeypatch.setattr(study_module.time, "monotonic", lambda: now[0])

    def slow(self: Study, cell: Cell) -> dict[str, Any]:
        now[0] += 10  # there are three models a seed
        return {"loss per row": 1.0, "seconds": 10.0}

    monkeypatch.setattr(Study, "_train", slow)
    monkeypatch.setattr(Study, "_facts", lambda self: {})
    options = {**SMALL, "seeds": 4, "max_seeds": 4}
    assert begin(**options, deadline=1.0).run().seeds == [2]
    now[0] = 0.0
    assert begin(**options, deadline=65.0).run().seeds == [2, 3, 4]  # the first is there
    now[0] = 0.0
    assert begin(**options, deadline=65.0).run().seeds == [2, 3, 4, 5]
    assert now[0] == 30.0


def test_seeds_follow_the_screening_up_to_a_number(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    asked: list[int] = []
    needed = [3]
    monkeypatch.setattr(study_module, "seeds_needed", lambda _, count: asked.append(count) or needed[0])
    monkeypatch.setattr(study_module, "best_arms", lambda _, count: ["longest", "oracle"])
    monkeypatch.setattr(Study, "train_all", lambda self, cells: dict.fromkeys(cells))
    monkeypatch.setattr(Study, "_facts", lambda self: {})
    options = {"arms": ["longest", "oracle"], "flag_column": "suspect", "budgets": [0.3, 0.5], "matchings": "rows"}
    for needed[0], given, expected in ((3, (2, 5), 3), (9, (2, 5), 5), (1, (2, 5), 2), (9, (6, 5), 6)):
        results = begin(**options, seeds=given[0], max_seeds=given[1]).run()
        assert len(results.seeds) == expected
        assert f"the screening asks for {needed[0]} seeds to see a difference of 1% at one budget" in caplog.text
    assert asked == [2] * 4  # differences at two budgets, and nobody is compared with the oracle


def test_a_study_in_processes_of_one_launch(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "process_state", lambda: SimpleNamespace(num_processes=2))
    with pytest.raises(ValueError, match=r"runs in processes of its own, got 2 of one launch\. Pass --part"):
        begin(**SMALL)


def test_tasks_are_measured_of_the_whole_model(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the model with the adapters of this training; with a stand-in for the harness."""
    seen: list[float] = []
    study = begin(**SMALL, tasks=["mmlu"])

    def accuracies(model: Any, tokenizer: Any, tasks: list[str]) -> dict[str, float]:
        sums, counts = losses_by_hand(model, study.tokens["test"])
        seen.append(float((sums / counts).mean()))
        return dict.fromkeys(tasks, 0.5)

    monkeypatch.setattr(study_module, "harness_accuracies", accuracies)
    results = study.run()
    assert results.metrics == ["loss per row", "loss per token", "mmlu"]
    measured = [results.start, *results.confirming.values()]
    assert seen == pytest.approx([found["loss per row"] for found in measured], abs=1e-4)


def test_losses_that_are_no_numbers_end_a_study(begin: Begin) -> None:
    with pytest.raises(ValueError, match="held-out rows have no finite loss: lower the learning_rate"):
        begin(**SMALL, learning_rate=1e30).run()


def test_an_arm_that_cannot_choose_is_left_out_and_said(
    begin_in: Begin, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Before any training of the screening; rows without a prompt have no score that compares with it."""
    caplog.set_level("INFO")
    rows = [{"text": f"{row['instruction']} {row['output']}"} for row in many_rows(40)]
    options = {
        "dataset": str(write_rows(tmp_path / "texts.jsonl", rows)),
        "test": None,
        "screening_seeds": 1,
        "num_finalists": 1,
        **{name: value for name, value in SMALL.items() if name != "finalists"},
    }
    results = begin_in(tmp_path / "study", **options).run()
    for arm in ("ifd cut 0.1", "ifd easiest"):
        assert f"not compared: {arm} cannot choose at keep 0.3: " in caplog.text
        [reason] = results.facts["left_out"][arm]
        assert reason.startswith("cannot choose at keep 0.3: None of the 30 rows has a score")
    assert "ifd easiest" not in {cell.arm for cell in results.screening}
    assert "unique random" in {cell.arm for cell in results.screening}
    assert "ifd cut 0.1 (cannot choose at keep 0.3" in write_report(results, tmp_path)


def test_an_arm_that_is_named_must_be_able_to_choose_at_every_budget(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is known before anything is trained, not behind the screening: here 4 of 36 rows repeat others."""
    monkeypatch.setattr(Trainee, "train", None)
    named = {"arms": ["unique random", "longest"], "screening_budget": 0.3, "budgets": [0.3, 0.95]}
    with pytest.raises(ValueError, match=r"unique random cannot choose at keep 0\.95"):
        begin(**named).run()
    with pytest.raises(ValueError, match=r"unique random cannot choose at keep 0\.95"):
        begin(finalists=["unique random"], budgets=[0.3, 0.95]).run()
    not_screened = begin(finalists=["unique random"], budgets=[0.3], screening_budget=0.95)
    assert not_screened._able(["unique random"]) == ["unique random"]


def test_which_rows_are_suspect_may_be_told_later(begin: Begin) -> None:
    """A column of flags changes no training, but what is said of its rows."""
    first = begin(**SMALL).run()
    again = begin(**SMALL, flag_column="suspect").run()
    assert losses_of(again) == losses_of(first)
    assert all("suspect" not in found for found in first.confirming.values())
    flags = np.array([row["suspect"] for row in POOL])
    assert again.confirming[Cell("full", "rows", 1.0, 2)]["suspect"] == flags.mean()
    assert "and suspect" in write_report(again, Path(again.options.output_dir))


def test_options_that_a_study_does_not_use_are_named(caplog: pytest.LogCaptureFixture) -> None:
    given = DLCConfig(dtype="float32", scores=("ifd",), prefix="mine", features="auto")
    assert config_of_study(given) == DLCConfig(dtype="float32")
    assert "not used, as the arms of a study say what is made: prefix, scores, features" in caplog.text
    caplog.clear()
    assert config_of_study(DLCConfig(dtype="float32")) == DLCConfig(dtype="float32")
    assert not caplog.text


def test_a_choice_without_text_is_refused(begin: Begin, tmp_path: Path) -> None:
    """It would have no loss, and those of others would be taken for it."""
    asked = [*QUESTIONS, {"question": "Say b.", "choices": ["fox", "", "5"], "answer": 2}]
    with pytest.raises(ValueError, match="1 of 9 choices have no loss: they are empty or too long"):
        begin(**SMALL, choices=str(write_rows(tmp_path / "asked.jsonl", asked)))


@pytest.mark.parametrize("threads", [1, 2])
def test_an_epoch_is_counted_in_seconds_of_a_core(begin: Begin, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """As what choosing costs is: with two threads a second of training takes two."""
    monkeypatch.setattr(DLCScorer, "estimate", lambda *_, **__: SimpleNamespace(training_seconds=7.0))
    monkeypatch.setattr(study_module.torch.accelerator, "is_available", lambda: False)
    study = begin(**SMALL, num_threads=threads)
    assert study.states
    costs = json.loads((study.output / "costs.json").read_text(encoding="utf-8"))
    assert costs["lora_epoch_seconds"] == 7.0 * threads
