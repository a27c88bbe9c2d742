"""Fine-tuning on subsets, and a study that says when it cannot tell them apart, on a tiny model."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from scipy import stats
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.cli.parse import parse_config_and_args
from tests.conftest import ROOT, same_weights, weights


sys.path.insert(0, str(ROOT / "recipes"))  # as for a recipe that is run as a script

import compare_selectors
import finetune_lora
import study_report


WORDS = ["fox", "dog", "red", "Paris", "capital"]
ROWS = [
    {"instruction": f"Say {WORDS[i % 5]} {i}.", "input": "", "output": f"{WORDS[i % 5]} {WORDS[i % 3]} " * (i % 4 + 1)}
    for i in range(60)
]
FAST = ["--dtype", "float32", "--schedule", "0, 0.1", "--num_threads", "1", "--trainer", "transformers"]


@pytest.fixture(scope="module", autouse=True)
def _own_dataset_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.fixture
def scorer(llama_folder: Path) -> DLCScorer:
    return DLCScorer.from_pretrained(llama_folder, device="cpu", dtype="float32", schedule="0")


# ---- fine-tuning ---------------------------------------------------------------------------------------------------


@torch.inference_mode()
def losses_by_hand(model: Any, rows: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the losses of the target tokens of each row, and their number, one row at a time."""
    sums, counts = [], []
    for row in rows:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].double()
        labels = torch.tensor(row["labels"][1:])
        sums.append(cross_entropy(logits, labels, reduction="sum").item())
        counts.append((labels != -100).sum().item())
    return np.array(sums), np.array(counts)


def mean_loss(model: Any, rows: Dataset) -> float:
    sums, counts = losses_by_hand(model, rows)
    return sums.sum() / counts.sum()


def test_held_out_losses_are_those_of_the_model_with_its_adapters(scorer: DLCScorer) -> None:
    rows = Dataset.from_list([*ROWS[:20], {"instruction": "Say nothing.", "input": "", "output": ""}])
    encoded = scorer.tokenize(rows)
    options = finetune_lora.TrainingOptions(epochs=2, learning_rate=0.02, trainer="transformers")
    untrained = finetune_lora.held_out_losses(finetune_lora.judge(scorer), rows)
    model = finetune_lora.train_lora(scorer, encoded, options, 0)
    trained = finetune_lora.held_out_losses(finetune_lora.judge(scorer, model), rows)
    for found, sums, counts in (
        (trained, *losses_by_hand(model, encoded)),
        (untrained, *losses_by_hand(model.unload(), encoded)),
    ):
        assert found["loss per row"] == pytest.approx((sums / counts).mean(), abs=1e-4)
        assert found["loss per token"] == pytest.approx(sums.sum() / counts.sum(), abs=1e-4)


def test_held_out_rows_without_a_loss_are_refused(scorer: DLCScorer) -> None:
    judge = finetune_lora.judge(scorer)
    with pytest.raises(ValueError, match="got none in 2 rows"):
        finetune_lora.held_out_losses(judge, Dataset.from_list([{**ROWS[0], "output": ""}] * 2))
    with torch.no_grad():
        judge.model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="NaN for 3 of 3 held-out rows: lower"):
        finetune_lora.held_out_losses(judge, Dataset.from_list(ROWS[:3]))


def test_only_adapters_are_trained(scorer: DLCScorer) -> None:
    before = weights(scorer.model)
    encoded = scorer.tokenize(Dataset.from_list(ROWS[:16]))
    plain = mean_loss(scorer.model, encoded)
    options = finetune_lora.TrainingOptions(epochs=4, learning_rate=0.02, trainer="transformers")
    found = []
    for seed in (0, 0, 1):
        model = finetune_lora.train_lora(scorer, encoded, options, seed)
        found.append(mean_loss(model, encoded))
        finetune_lora.judge(scorer, model)  # merges a copy
        assert same_weights(model.unload(), before)
    assert found[0] < plain - 0.1  # it has learned
    assert found[0] == found[1] != found[2]  # a seed makes a model


def test_adapters_in_the_last_layers_only(scorer: DLCScorer) -> None:
    options = finetune_lora.TrainingOptions(epochs=1, lora_layers=1, trainer="transformers")
    model = finetune_lora.train_lora(scorer, scorer.tokenize(Dataset.from_list(ROWS[:8])), options, 0)
    adapted = {name.split(".layers.")[1].split(".")[0] for name, _ in model.named_parameters() if "lora_" in name}
    model.unload()
    assert scorer.model.config.num_hidden_layers > 1
    assert adapted == {str(scorer.model.config.num_hidden_layers - 1)}


def test_trl_trains_on_the_same_tokens(scorer: DLCScorer) -> None:
    pytest.importorskip("trl", reason="trains with TRL")
    encoded = scorer.tokenize(Dataset.from_list(ROWS[:16]))
    found = []
    for trainer in ("sft", "transformers"):
        options = finetune_lora.TrainingOptions(epochs=2, learning_rate=0.02, lora_dropout=0.0, trainer=trainer)
        model = finetune_lora.train_lora(scorer, encoded, options, 0)
        found.append(mean_loss(model, encoded))
        model.unload()
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    assert not scorer.model.is_activation_checkpointing  # no more than before


def test_what_trl_trained_is_measured(scorer: DLCScorer) -> None:
    """TRL leaves a forward on the model, which a copy with the adapters in its weights must not share."""
    pytest.importorskip("trl", reason="trains with TRL")
    rows, own_forward = Dataset.from_list(ROWS[:16]), vars(scorer.model).get("forward")
    options = finetune_lora.TrainingOptions(epochs=2, learning_rate=0.02, lora_dropout=0.0, trainer="sft")
    model = finetune_lora.train_lora(scorer, scorer.tokenize(rows), options, 0)
    found = finetune_lora.held_out_losses(finetune_lora.judge(scorer, model), rows)
    assert found["loss per token"] == pytest.approx(mean_loss(model, scorer.tokenize(rows)), rel=1e-4)
    assert vars(scorer.model).get("forward") is own_forward


def test_recipe_saves_the_adapter(llama_folder: Path, rows_file: Path, tmp_path: Path, capsys: Any) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text(
        json.dumps({"question": "What barks?", "choices": ["The dog.", "Red."], "answer": 0}) + "\n", encoding="utf-8"
    )
    sums = tmp_path / "sums.jsonl"
    sums.write_text(json.dumps({"question": "2 + 3?", "answer": "2 + 3 = 5\n#### 5"}) + "\n", encoding="utf-8")
    output = tmp_path / "lora"
    options = {"dataset": rows_file, "eval_dataset": rows_file, "choices": questions, "answers": sums}
    options |= {"model": llama_folder, "output_dir": output, "epochs": 1, "max_rows": 16, "eval_rows": 8}
    finetune_lora.main([text for name, value in options.items() for text in (f"--{name}", str(value))] + FAST)
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))
    assert results["rows"] == 16
    assert results["before"].keys() == {"loss per row", "loss per token", "choices", "answers"}
    assert results["after"]["loss per row"] != results["before"]["loss per row"]
    base = AutoModelForCausalLM.from_pretrained(llama_folder, dtype="float32")
    loaded = PeftModel.from_pretrained(base, output).eval()
    scorer = DLCScorer.from_pretrained(llama_folder, device="cpu", dtype="float32", schedule="0")
    again = mean_loss(loaded, scorer.tokenize(Dataset.from_list(ROWS[16:24])))  # the first that were not trained on
    assert again == pytest.approx(results["after"]["loss per token"], abs=1e-4)
    assert "| loss per row |" in capsys.readouterr().out


def test_choice_of_the_highest_likelihood_a_token(scorer: DLCScorer) -> None:
    """Not of the sum, in which a long answer would never win."""
    choices = ["fox", "Ω" * 6, "the lazy dog"]
    candidates = [{"instruction": "What?", "input": "", "output": text} for text in choices]
    scored = scorer.score(Dataset.from_list(candidates))
    means = np.array(scored["dlc_loss"][:])
    by_mean, by_sum = int(means.argmin()), int((means * scored["dlc_tokens"][:]).argmin())
    assert by_mean != by_sum
    for answer in range(3):
        rows = Dataset.from_list([{"question": "What?", "choices": choices, "answer": answer}])
        assert finetune_lora.choose(finetune_lora.judge(scorer), rows).tolist() == [answer == by_mean]


def test_questions_of_llm_adapters() -> None:
    row = {
        "instruction": "Please choose the correct answer to the question: Which is red?\n\nAnswer1: a fox (mostly) "
        "Answer2: the sea Answer3: 3: 4\n\nAnswer format: answer1/answer2/answer3",
        "answer": "answer3",
    }
    assert finetune_lora.read_question(row) == ("Which is red?", ["a fox (mostly)", "the sea", "3: 4"], 2)
    with pytest.raises(ValueError, match="right answer among its choices, got 'answer4'"):
        finetune_lora.read_question({**row, "answer": "answer4"})


@pytest.mark.parametrize(
    "row",
    [
        {"question": "2 + 2 =", "choices": ["4", "5"], "answer": "four"},
        {"question": "2 + 2 =", "choices": ["4", "5"]},
        {"question": "2 + 2 =", "choices": None, "answer": 0},
        {"instruction": "2 + 2 =", "answer": None},
        {"prompt": "2 + 2 ="},
    ],
)
def test_questions_that_are_none(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must have the columns question, choices and answer .* got \{"):
        finetune_lora.read_question(row)


@pytest.mark.parametrize("place", [-1, 2])
def test_right_answer_must_be_a_choice(place: int) -> None:
    with pytest.raises(ValueError, match=f"among its choices, got {place}"):
        finetune_lora.read_question({"question": "2 + 2 =", "choices": ["4", "5"], "answer": place})


def test_numbers_of_answers() -> None:
    assert finetune_lora.read_answer({"answer": "6 - 2 = 4\n#### -1,234.50 "}) == -1234.5
    for text in (None, "4", "#### four", "#### 4 apples"):
        with pytest.raises(ValueError, match="must end in '####' and a number"):
            finetune_lora.read_answer({"answer": text})


@pytest.mark.parametrize(
    ("written", "is_right"),
    [("First 12, then 5.", True), ("First 5, then 12.", False), ("It is 5.00", True), ("None.", False)],
)
def test_the_last_number_that_is_written_is_the_answer(
    scorer: DLCScorer, monkeypatch: pytest.MonkeyPatch, written: str, is_right: bool
) -> None:
    def generate(input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.cat([input_ids, torch.tensor([scorer.processor(written, add_special_tokens=False).input_ids])], 1)

    monkeypatch.setattr(scorer.model, "generate", generate)
    monkeypatch.setattr(scorer.processor, "decode", lambda ids, **_: written if len(ids) else "")  # a tiny vocabulary
    rows = Dataset.from_list([{"question": "2 + 3?", "answer": "2 + 3 = 5\n#### 5"}])
    assert finetune_lora.answer(scorer, rows).tolist() == [is_right]


def test_rows_that_are_trained_on_measure_nothing(caplog: pytest.LogCaptureFixture) -> None:
    rows, trained = Dataset.from_list(ROWS[:6]), Dataset.from_list(ROWS[4:8]).add_column("dlc_loss", [1.0] * 4)
    with caplog.at_level("INFO"):
        assert finetune_lora.unseen(rows, trained, "choices")[:] == rows.select(range(4))[:]
    assert "choices: 2 of 6 rows are trained on" in caplog.text
    questions = Dataset.from_list([{"question": "2 + 2 =", "choices": ["4", "5"], "answer": 0}])
    assert finetune_lora.unseen(questions, trained, "choices") is questions  # other columns
    with pytest.raises(ValueError, match="eval_dataset must have rows that are not trained on, got 4"):
        finetune_lora.unseen(trained, trained, "eval_dataset")


def test_folder_that_cannot_be_written_is_known_before_training(rows_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(SystemExit, match="file"):
        finetune_lora.main(["--dataset", str(rows_file), "--output_dir", str(tmp_path / "file"), "--model", "none"])


def test_trl_trains_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    options = [finetune_lora.TrainingOptions(trainer=name) for name in ("auto", "sft", "transformers")]
    for is_installed in (True, False):
        monkeypatch.setattr(finetune_lora, "find_spec", lambda _, found=is_installed: object() if found else None)
        assert [one.uses_trl for one in options] == [is_installed, True, False]


def test_adapters_in_no_layer() -> None:
    with pytest.raises(ValueError, match="lora_layers must be at least 1"):
        finetune_lora.TrainingOptions(lora_layers=0)


def test_no_row_to_train_on(scorer: DLCScorer) -> None:
    rows = scorer.tokenize(Dataset.from_list([{**ROWS[0], "output": ""}]))
    with pytest.raises(ValueError, match="no row can be trained on"):
        finetune_lora.train_lora(scorer, rows, finetune_lora.TrainingOptions(), 0)


# ---- the study -----------------------------------------------------------------------------------------------------


ARMS = ["longest", "plain hardest", "confidence flexrand 0.25", "gain easiest"]


@pytest.fixture
def study(llama_folder: Path, rows_file: Path, tmp_path: Path) -> Callable[..., Path]:
    def run(*more: str) -> Path:
        options = {"dataset": rows_file, "model": llama_folder, "output_dir": tmp_path / "study", "eval_rows": 12}
        options |= {"seeds": 2, "epochs": 1, "num_finalists": 2, "screening_budget": 0.4}
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        compare_selectors.main([*arguments, "--budgets", "0.2", "0.4", "--arms", *ARMS, *FAST, *more])
        return tmp_path / "study"

    return run


def test_a_study_from_screening_to_verdicts(
    study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = study()
    text = (output / "study.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    found = json.loads((output / "study.json").read_text(encoding="utf-8"))
    finalists = {row["arm"] for row in found["comparisons"]}
    assert len(finalists) == 2
    assert finalists < set(ARMS)
    assert len(found["comparisons"]) == 2 * 2 * 2 * 2  # metrics, matchings, budgets, finalists
    assert text.count(" than random ") + text.count(" from random ") == 16 + 2 * 2  # each, and over all budgets
    assert "in float32; LoRA of rank 16 in all layers, 1 epochs" in text
    assert (output / "study.png").is_file()
    cells = sorted((output / "cells").iterdir())
    trained: list[Any] = []
    monkeypatch.setattr(compare_selectors, "train_lora", lambda *arguments: trained.append(arguments))
    study()  # nothing is left to do
    assert not trained
    cells[0].unlink()
    with pytest.raises(AttributeError):  # of None, which our train_lora returned
        study()
    assert len(trained) == 1


SMALL = ["--finalists", "longest", "--seeds", "1", "--budgets", "0.4", "--matchings", "rows"]


def test_a_finished_study_is_reported_again_without_scoring(
    study: Callable[..., Path], taught_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--model", str(taught_folder), "--schedule", "calibrated", "--arms", "longest", "--num_finalists", "1"]
    first = json.loads((study(*options) / "study.json").read_text(encoding="utf-8"))
    shutil.rmtree(cache)  # as on another machine: the schedule is known from the scores alone
    monkeypatch.setattr(DLCScorer, "calibrate", None)
    assert json.loads((study(*options) / "study.json").read_text(encoding="utf-8")) == first


def test_cells_of_another_training_are_refused(study: Callable[..., Path]) -> None:
    output = study(*SMALL)
    (output / "cells" / "longest_rows_0.4_1.json").unlink()
    with pytest.raises(SystemExit, match="is of other rows, model, training"):
        study(*SMALL, "--epochs", "2")
    assert len(list((output / "cells").iterdir())) == 2  # before anything is trained
    with pytest.raises(SystemExit, match="is of other rows, masking or model"):
        study(*SMALL, "--schedule", "0, 0.3")
    (output / "scored.json").unlink()
    with pytest.raises(SystemExit, match="journal"):
        study(*SMALL, "--schedule", "0, 0.3")


def test_cells_of_other_scores_are_refused(study: Callable[..., Path]) -> None:
    """An arm that chooses by scores of another masking has chosen other rows; random rows are the same."""
    by_score = ["--finalists", "gain hardest", *SMALL[2:]]
    output = study(*by_score)
    (output / "scored.json").unlink()
    shutil.rmtree(output / "journal")
    with pytest.raises(SystemExit, match=r"gain_hardest_rows_0\.4_1\.json is of other rows"):
        study(*by_score, "--masking", "random", "--schedule", "0, 0.5, 0.9")


def test_cells_of_other_questions_are_refused(study: Callable[..., Path], tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"question": "2 + 2 =", "choices": ["4", "5"], "answer": 0}), encoding="utf-8")
    study(*SMALL)
    with pytest.raises(SystemExit, match="questions"):
        study(*SMALL, "--choices", str(questions))


def test_parts_make_the_whole(
    study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second part waits for the scores and then for the models of the first; the first reports."""
    output = study(*SMALL)
    expected = {path.name: path.read_bytes() for path in (output / "cells").iterdir()}
    scored = (output / "scored.json").rename(output / "scored.away")
    for path in (output / "cells").iterdir():
        path.unlink()
    waited = []

    def sleep(_: float) -> None:
        waited.append(len(list((output / "cells").iterdir())))
        if scored.is_file():
            scored.rename(output / "scored.json")
        else:
            (output / "study.md").unlink()
            study(*SMALL, "--part", "1/1")  # trains the rest
            capsys.readouterr()

    monkeypatch.setattr(compare_selectors.time, "sleep", sleep)
    study(*SMALL, "--part", "2/2")
    assert waited == [0, 1]
    assert "Verdicts" not in capsys.readouterr().out  # of the first part
    found = {path.name: path.read_bytes() for path in (output / "cells").iterdir()}
    assert found.keys() == expected.keys()
    losses = [{name: json.loads(cell)["loss per row"] for name, cell in cells.items()} for cells in (found, expected)]
    assert losses[0] == losses[1]


def test_what_was_screened_does_not_confirm() -> None:
    options = compare_selectors.StudyArguments()
    screening = compare_selectors.screening_cells(options)
    confirming = compare_selectors.confirming_cells(options, ["longest"])
    assert not {cell.seed for cell in screening} & {cell.seed for cell in confirming}
    assert len({cell.seed for cell in confirming}) == options.seeds


def screened(outcomes: dict[str, tuple[float, float, float]]) -> dict[study_report.Cell, dict[str, float]]:
    """Of each arm the losses with equal rows and with equal tokens, and what it shares with random rows."""
    return {
        study_report.Cell(arm, matching, 0.3, 0): {"loss per row": loss, "shared": shared}
        for arm, (*losses, shared) in outcomes.items()
        for matching, loss in zip(("rows", "tokens"), losses, strict=True)
    }


def test_best_arms_of_a_screening() -> None:
    """By the mean of both matchings; random rows with another name would only be compared with themselves."""
    outcomes = {"random": (0.5, 0.5, 1.0), "longest": (1.0, 1.4, 0.3), "gain easiest": (2.0, 0.9, 0.3)}
    outcomes |= {"loss easiest": (0.9, 2.1, 0.3), "loss flexrand 0.5": (0.4, 0.4, 0.97)}
    assert compare_selectors.best_arms(screened(outcomes), 2) == ["longest", "gain easiest"]
    with pytest.raises(ValueError, match=r"got none that does\. Name --finalists"):
        compare_selectors.best_arms(screened({"random": (0.5, 0.5, 1.0)}), 2)


def test_flexrand_in_halves_is_random_rows_with_another_name() -> None:
    scored = Dataset.from_dict({"dlc_gain": np.random.default_rng(0).permutation(400) / 400, "dlc_tokens": [3] * 400})
    shared = {
        arm: compare_selectors.shared_with_random(scored, study_report.Cell(arm, "rows", 0.3, 1))
        for arm in ("random", "full", "gain flexrand 0.5", "gain flexrand 0.75", "gain easiest")
    }
    assert shared["random"] == 1.0
    assert shared["gain flexrand 0.5"] > 0.9
    assert shared["gain flexrand 0.75"] < 0.9
    assert 0.1 < shared["gain easiest"] < 0.5


@pytest.mark.parametrize("matching", ["rows", "tokens"])
def test_cells_choose_what_their_arm_says(matching: str) -> None:
    losses = np.linspace(1, 2, 40, dtype=np.float32)
    scored = Dataset.from_dict(
        {
            "dlc_confidence": np.exp(-losses),
            "dlc_loss": losses,
            "dlc_gain": -losses,
            "plain": losses[::-1].copy(),
            "dlc_tokens": np.arange(40) % 7 + 1,
        }
    )
    tokens = np.array(scored["dlc_tokens"])

    def choose(arm: str, seed: int = 0) -> list[int]:
        return compare_selectors.choose_rows(scored, study_report.Cell(arm, matching, 0.25, seed)).tolist()

    for arm in ("confidence easiest", "loss easiest", "gain easiest", "plain hardest"):
        assert max(choose(arm)) < 16, arm
        assert min(choose(" ".join([arm.split()[0], "hardest" if "easiest" in arm else "easiest"]))) > 24, arm
    assert np.mean(tokens[choose("longest")]) > 6  # of tokens, a shorter row may fill the budget
    assert choose("random") != choose("random", 1)
    assert np.mean(choose("loss flexrand 0.25")) < np.mean(choose("loss flexrand 0.75")) - 5
    assert choose("full") == list(range(40))
    for arm in ("random", "longest", "loss flexrand 0.5"):
        if matching == "rows":
            assert len(choose(arm)) == 10
        else:
            assert 0 <= round(tokens.sum() * 0.25) - tokens[choose(arm)].sum() < 7  # the tokens of a row


def test_pool_and_held_out_rows_have_nothing_in_common(scorer: DLCScorer, rows_file: Path) -> None:
    options = compare_selectors.StudyArguments(dataset=str(rows_file), eval_rows=15, pool_rows=20)
    pool, held_out = compare_selectors.split_rows(options, scorer)
    assert (len(pool), len(held_out)) == (20, 15)
    texts = [{(row["instruction"], row["output"]) for row in part} for part in (pool, held_out)]
    assert not texts[0] & texts[1]


def test_rows_that_stand_twice_or_are_long_are_left_out(scorer: DLCScorer, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [*ROWS[:20], *ROWS[:10], {**ROWS[0], "output": "fox " * 50}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = compare_selectors.StudyArguments(dataset=str(path), eval_rows=8, pool_rows=12, longest_row=60)
    texts = [
        row["instruction"] + row["output"] for part in compare_selectors.split_rows(options, scorer) for row in part
    ]
    assert sorted(texts) == sorted(row["instruction"] + row["output"] for row in ROWS[:20])
    with pytest.raises(ValueError, match="21 rows are needed, got 20"):
        compare_selectors.split_rows(replace(options, pool_rows=13), scorer)


def test_plain_is_the_loss_of_the_unmasked_model(llama_folder: Path, rows_file: Path, tmp_path: Path) -> None:
    options = compare_selectors.StudyArguments(
        dataset=str(rows_file), model=str(llama_folder), eval_rows=12, output_dir=str(tmp_path)
    )
    study = compare_selectors.Study(options, DLCConfig(dtype="float32", schedule="0, 0.5"))
    scored, facts = study.score()
    unmasked = DLCScorer.from_pretrained(llama_folder, device="cpu", dtype="float32", schedule="0").score(study.pool)
    assert scored["plain"][:] == pytest.approx(unmasked["dlc_loss"][:], abs=1e-5)
    assert facts["fractions"] == [0.0, 0.5]
    assert not facts["resumed"]
    (tmp_path / "scored.json").unlink()  # as after a kill: what is in the journal is not computed again
    assert study.score()[1]["resumed"]


def test_accuracies_are_those_of_the_harness(scorer: DLCScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in: the harness itself is large, and needs the Hub for most tasks."""
    seen: dict[str, Any] = {}
    results = {"mmlu": {"acc,none": 0.25}, "mmlu_law": {"acc,none": 0.5}, "wikitext": {"word_perplexity,none": 9.0}}

    def simple_evaluate(model: Any, tasks: list[str]) -> dict[str, Any]:
        return {"results": {name: value for name, value in results.items() if name.startswith(tuple(tasks))}}

    def language_model(**options: Any) -> dict[str, Any]:
        seen.update(options)
        return options

    package, models = ModuleType("lm_eval"), ModuleType("lm_eval.models.huggingface")
    package.simple_evaluate, models.HFLM = simple_evaluate, language_model
    for name, module in {"lm_eval": package, "lm_eval.models": ModuleType("x"), models.__name__: models}.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert compare_selectors.harness_accuracies(scorer, ["mmlu"]) == {"mmlu": 0.25}
    assert seen["pretrained"] is scorer.model
    with pytest.raises(ValueError, match=r"must measure accuracy \(acc\), got wikitext"):
        compare_selectors.harness_accuracies(scorer, ["mmlu", "wikitext"])


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "configs").glob("compare_*.yaml")), ids=lambda p: p.stem)
def test_configs_parse(path: Path) -> None:
    options, _ = parse_config_and_args([compare_selectors.StudyArguments, DLCConfig], ["--config", str(path)])
    assert options.output_dir.startswith("runs/")
    assert options.seeds >= 5
    assert options.budgets == [0.1, 0.3, 0.5]


# ---- what a study says ---------------------------------------------------------------------------------------------


def results_of(differences: dict[str, float], seeds: int = 6) -> study_report.StudyResults:
    """A study in which the arms are so much better than random rows, with some noise."""
    rng = np.random.default_rng(0)
    options = compare_selectors.StudyArguments(seeds=seeds, budgets=[0.2])
    cells = compare_selectors.confirming_cells(options, list(differences))
    of_seed = rng.normal(0, 1, 1 + seeds)  # alike in all arms, so that only pairs can see the difference

    def outcome(cell: study_report.Cell) -> dict[str, float]:
        loss = of_seed[cell.seed] + differences.get(cell.arm, 0.0) + rng.normal(0, 0.01)
        measured = {"loss per row": loss, "loss per token": 2.0 + loss, "mmlu": 0.5 - loss / 10}
        return {**measured, "rows": 10, "tokens": 100, "seconds": 5.0, "shared": 0.25, "identity": "x"}

    return study_report.StudyResults(
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
    text = study_report.write_report(
        results_of({"loss easiest": 0.3, "gain flexrand 0.5": -0.3, "longest": 0.0}), tmp_path
    )
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
    assert text.count("this study has not the power to see 0.01") == 4
    assert text.count("this study has the power to see 0.01") == 2  # of the accuracy, which is ten times as exact
    assert "| tokens | longest | 25% |" in text
    assert record["finalists"] == ["loss easiest", "gain flexrand 0.5", "longest"]
    assert record["scoring"]["scorer"]["model"] == "tiny"


def test_one_seed_tells_nothing(tmp_path: Path) -> None:
    text = study_report.write_report(results_of({"loss easiest": 5.0}, seeds=1), tmp_path)
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
    one = study_report.Comparison("a", "rows", 0.3, "loss per row", 0.0, -half, half, 1.0, seeds)
    assert study_report.power(one, count) == pytest.approx(np.mean(p < 0.05 / count), abs=0.08)
    assert study_report.power(one._replace(low=-np.inf, high=np.inf), count) == pytest.approx(0.025 / count)


def test_holm() -> None:
    assert study_report.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert study_report.holm([0.6, 0.7]) == [1.0, 1.0]


def test_paired_comparison_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(0, 1, 6), rng.normal(0.2, 1, 6)
    mean, low, high, p = study_report.paired(left - right)
    expected = stats.ttest_rel(left, right)
    assert mean == pytest.approx((left - right).mean())
    assert p == pytest.approx(expected.pvalue)
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval()))
    assert study_report.paired(np.full(4, 0.1))[3] == 1.0


def test_plain_loss_costs_one_level() -> None:
    shares = [
        study_report.scoring_share(arm, 4) for arm in ("random", "longest", "plain easiest", "loss flexrand 0.5")
    ]
    assert shares == [0.0, 0.0, 0.25, 1.0]


@pytest.mark.parametrize(
    ("name", "value"),
    [("budgets", [0.3, 2.0]), ("screening_budget", 0.0), ("seeds", 0), ("eval_rows", 0), ("num_finalists", 0)],
)
def test_options_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"budgets must be|must be at least 1"):
        compare_selectors.StudyArguments(**{name: value})


@pytest.mark.parametrize("arm", ["random", "full"])
def test_what_every_arm_is_compared_with_is_none(arm: str) -> None:
    with pytest.raises(ValueError, match="which are always there"):
        compare_selectors.StudyArguments(finalists=[arm])


@pytest.mark.parametrize("part", ["0/2", "3/2", "2", "x"])
def test_parts_that_are_none(part: str) -> None:
    with pytest.raises(ValueError, match="part must be like '2/8'"):
        compare_selectors.StudyArguments(part=part)


@pytest.mark.parametrize("arm", ["best", "loss flexrand", "speed easiest", "loss flexrand x"])
def test_arms_that_are_none(arm: str) -> None:
    with pytest.raises(ValueError, match="an arm must be"):
        compare_selectors.StudyArguments(arms=[arm])
