"""Rows that are made wrong, and which scores find them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_dlc import DLCConfig
from hf_dlc.study.corruption import corrupt, flipped, other_number, swapped
from hf_dlc.study.detection import costs, detect, detection_table
from hf_dlc.study.wrong_rows import WrongRowsArguments, make_wrong
from recipes.find_wrong_rows import main
from tests.rows import many_rows, write_rows


ROWS = Dataset.from_list([{"question": f"{i}?", "answer": f"Step {i}. #### {i}"} for i in range(40)])


@pytest.mark.parametrize("share", [0.1, 0.15, 0.5])
def test_a_share_of_the_rows_is_changed(share: float) -> None:
    changed, is_wrong = corrupt(ROWS, "answer", share, swapped, seed=3)
    differs = [new != old for new, old in zip(changed["answer"], ROWS["answer"], strict=True)]
    assert is_wrong.tolist() == differs
    assert is_wrong.sum() == round(share * 40)
    assert sorted(changed["answer"]) == sorted(ROWS["answer"])  # each response is still there, elsewhere
    assert changed["question"][:] == ROWS["question"][:]
    again = corrupt(ROWS, "answer", share, swapped, seed=3)[1]
    other = corrupt(ROWS, "answer", share, swapped, seed=4)[1]
    assert (again == is_wrong).all()
    assert (other != is_wrong).any()


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("3 + 4 = 7, so #### 7", r"3 \+ 4 = 7, so #### \d+"),
        ("It costs $1,250 in all.", r"It costs \$1,\d\d\d in all\."),
        ("About 2.5 km", r"About \d\.5 km"),
        ("0", r"[1-9]"),
    ],
)
def test_only_the_last_number_changes(text: str, pattern: str) -> None:
    for seed in range(20):
        [changed] = other_number([text], np.random.default_rng(seed))
        assert changed != text
        assert re.fullmatch(pattern, changed), changed


def test_a_text_without_a_number() -> None:
    with pytest.raises(ValueError, match="a number must be changed, but the text has none: 'None here'"):
        other_number(["None here"], np.random.default_rng(0))


def test_labels_become_others() -> None:
    feature = ClassLabel(names=["a", "b", "c"])
    rows = Dataset.from_dict({"label": [0, 1, 2] * 10}, Features({"label": feature}))
    changed, is_wrong = corrupt(rows, "label", 0.5, flipped(feature))
    assert [new != old for new, old in zip(changed["label"], rows["label"], strict=True)] == is_wrong.tolist()
    assert set(changed["label"]) <= {0, 1, 2}
    assert changed.features["label"] == feature


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"wrong": "everything"}, "wrong must be one of response, number, label, got 'everything'"),
        ({"share": 1.0}, "share must be between 0 and 1, got 1.0"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        WrongRowsArguments(**options)


def test_rows_that_cannot_be_made_wrong() -> None:
    messages = Dataset.from_dict({"messages": [[{"role": "user", "content": "Hi."}]] * 5})
    with pytest.raises(ValueError, match="rows of one prompt and one response are needed, got the columns messages"):
        make_wrong(messages, WrongRowsArguments(), DLCConfig())
    texts = Dataset.from_dict({"label": ["a"]}, Features({"label": Value("string")}))
    with pytest.raises(ValueError, match="the labels in 'label' must be a ClassLabel"):
        make_wrong(texts, WrongRowsArguments(wrong="label"), DLCConfig())
    with pytest.raises(ValueError, match="2 of the rows must be changed in the column 'answer', got 1 rows"):
        make_wrong(ROWS.select([0]), WrongRowsArguments(), DLCConfig())


def test_how_well_scores_find_them() -> None:
    """Of a perfect score, of one that is turned round, and of one that lacks a row."""
    is_wrong = np.array([True, True, False, False, False, False])
    scored = Dataset.from_dict(
        {
            "dlc_loss": [9.0, 8.0, 1.0, 2.0, 3.0, 4.0],
            "dlc_confidence": [0.9, 0.8, 0.1, 0.2, 0.3, 0.4],  # high is easy: it takes the right ones for wrong
            "dlc_ifd": [2.0, float("nan"), 1.0, 3.0, 0.5, 0.6],
        }
    )
    cost_of = {"loss": 4.0, "confidence": 4.0, "ifd": 1.5}
    loss, ifd, confidence = detect(scored, is_wrong, ["loss", "confidence", "ifd"], cost_of, samples=200)
    assert (loss.score, loss.auroc, loss.low, loss.high, loss.found, loss.wrong) == ("loss", 1.0, 1.0, 1.0, 2, 2)
    assert (confidence.auroc, confidence.found) == (0.0, 0)
    assert (ifd.auroc, ifd.found, ifd.wrong, ifd.rows) == (0.75, 0, 1, 5)
    assert np.isnan([ifd.low, ifd.high]).all()  # of one wrong row nobody knows how others would do
    table = detection_table([loss, ifd])
    assert "| `loss` | 1.000 (1.000–1.000) | 2 of 2 | 4.00 |" in table


def test_what_scores_cost() -> None:
    tokens = {"full": 100, "alone": 60, "start": 50, "alone_start": 10}
    found = costs(tokens, ["confidence", "plain_loss", "ifd", "prompt_gain"], (0.0, 0.1, 0.2))
    assert found == {"confidence": 3.0, "plain_loss": 1.0, "ifd": 1.6, "prompt_gain": 0.6}


def test_the_recipe(llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", many_rows(30, skipped=[4]))
    arguments = ["--dataset", str(rows), "--model", str(llama_folder), "--rows", "20", "--num_threads", "1"]
    arguments += ["--scores", "loss,plain_loss,ifd,prompt_gain", "--schedule", "0, 0.2", "--share", "0.2"]
    main([*arguments, "--output_dir", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "4 of 20 rows are wrong (response)." in printed
    assert (tmp_path / "out" / "wrong_rows.md").read_text(encoding="utf-8").strip() == printed.strip()
    found = json.loads((tmp_path / "out" / "wrong_rows.json").read_text(encoding="utf-8"))["found"]
    assert {one["score"] for one in found} == {"loss", "plain_loss", "ifd", "prompt_gain"}
    assert {one["wrong"] for one in found} == {4}
    cost = {one["score"]: one["cost"] for one in found}
    assert (cost["loss"], cost["plain_loss"]) == (2.0, 1.0)
    assert 1 < cost["ifd"] < 2
    scored = Dataset.from_parquet(str(tmp_path / "out" / "scores.parquet"), cache_dir=str(tmp_path))
    assert sum(scored["is_wrong"]) == 4
    main([*arguments, "--output_dir", str(tmp_path / "out")])  # a finished run goes on from its journal
    assert capsys.readouterr().out == printed
