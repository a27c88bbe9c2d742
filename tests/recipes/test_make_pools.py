"""The pools of the studies: of each situation what it is to be, no test row among them, and always the same."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from recipes.studies import make_pools


POOLS = ["task/gsm8k", "task/arc_easy", "wrong_10", "wrong_30", "revised", "sources", "clean"]
Rows = list[dict[str, Any]]


def sets() -> dict[str, Rows]:
    """Rows as the public sets have them; some are too long, or have no response."""
    return {
        "gsm8k_train.jsonl": [{"question": f"{n} + 1 =", "answer": f"{n + 1}\n#### {n + 1}"} for n in range(900)],
        "arc_easy_train.jsonl": [
            {
                "instruction": f"Choose: Which is {n}?\n\nAnswer1: no {n} Answer2: {n} Answer3: x\n\nformat",
                "answer": "answer2",
            }
            for n in range(600)
        ],
        "t0_55k.jsonl.gz": [{"prompt": f"Task {n}", "completion": f"done {n}<|endoftext|>"} for n in range(460)],
        "alpaca_2k.jsonl": [
            {"instruction": f"Say {n}", "input": "" if n % 2 else "now", "output": f"I say {n}"} for n in range(820)
        ]
        + [
            {"instruction": "Say much", "input": "", "output": "word " * 90},
            {"instruction": "", "input": "", "output": ""},
        ],
        "sgd_messages.jsonl": [
            {"messages": [{"role": "user", "content": f"Hello {n}"}, {"role": "assistant", "content": f"Hi {n}"}]}
            for n in range(160)
        ],
        "expert_revised_train.jsonl": [
            {"src": f"Instruction: Do {n}", "pos": f"Response: well {n}", "neg": f"Response: badly {n}"}
            for n in range(820)
        ],
    }


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    for name, rows in sets().items():
        with (gzip.open if name.endswith(".gz") else open)(folder / name, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    for number in (1, 2):
        make_pools.make(folder, folder / f"pools{number}")
    return folder


def read(output: Path, name: str) -> Rows:
    return [json.loads(line) for line in (output / "pools1" / f"{name}.jsonl").read_text("utf-8").splitlines()]


def texts(rows: Rows) -> set[str]:
    return {row["instruction"] for row in rows}


def test_they_are_always_the_same(output: Path) -> None:
    files = list((output / "pools1").rglob("*.jsonl"))
    assert len(files) == 2 * 3 + 1 + 5 * 2
    for path in files:
        assert path.read_bytes() == (output / "pools2" / path.relative_to(output / "pools1")).read_bytes()


@pytest.mark.parametrize("name", POOLS)
def test_no_test_row_is_in_the_pool_or_wanted(output: Path, name: str) -> None:
    pool, test = read(output, f"{name}/pool"), read(output, f"{name}/test")
    assert len(test) == (201 if name == "sources" else 200)
    assert not texts(pool) & texts(test)
    assert not any(row.get("suspect") for row in test)
    assert all(len(f"{row['instruction']} {row['output']}".split()) <= 80 for row in [*pool, *test])
    assert all(row["output"].strip() for row in [*pool, *test])
    if name.startswith("task"):
        wanted = read(output, f"{name}/wanted")
        assert len(wanted) == 64
        assert not texts(wanted) & (texts(pool) | texts(test))
        assert {row["source"] for row in [*wanted, *test]} == {name.removeprefix("task/")}


def test_the_mixture_is_that_of_both_tasks(output: Path) -> None:
    gsm8k, arc_easy = (read(output, f"task/{name}/pool") for name in ("gsm8k", "arc_easy"))
    sizes = {"gsm8k": 300, "arc_easy": 300, "t0": 450, "alpaca": 300, "dialogues": 150}
    assert Counter(row["source"] for row in gsm8k) == sizes
    assert [row["instruction"] for row in gsm8k] == [row["instruction"] for row in arc_easy]
    assert all(row["suspect"] == (row["source"] != "gsm8k") for row in gsm8k)
    assert all(row["suspect"] == (row["source"] != "arc_easy") for row in arc_easy)
    choices, test = read(output, "task/arc_easy/choices"), read(output, "task/arc_easy/test")
    for asked, row in zip(choices, test, strict=True):
        assert asked["question"] == row["instruction"]
        assert asked["choices"][asked["answer"]] == row["output"]


@pytest.mark.parametrize(("name", "count"), [("wrong_10", 60), ("wrong_30", 180)])
def test_wrong_responses_are_those_of_other_rows(output: Path, name: str, count: int) -> None:
    pool, clean = read(output, f"{name}/pool"), read(output, "clean/pool")
    wrong = [number for number, row in enumerate(pool) if row["suspect"]]
    assert (len(pool), len(wrong)) == (600, count)
    for number, (row, right) in enumerate(zip(pool, clean, strict=True)):
        assert row["instruction"] == right["instruction"]
        assert (row["output"] == right["output"]) == (number not in wrong)
    assert sorted(pool[number]["output"] for number in wrong) == sorted(clean[number]["output"] for number in wrong)


def test_half_of_the_responses_are_not_revised_and_no_row_stands_in_both_ways(output: Path) -> None:
    pool = read(output, "revised/pool")
    assert (len(pool), len(texts(pool)), sum(row["suspect"] for row in pool)) == (600, 600, 300)
    assert all(row["output"].startswith("badly" if row["suspect"] else "well") for row in pool)
    assert all(row["output"].startswith("well") for row in read(output, "revised/test"))


def test_a_third_of_lopsided_sources_repeats_other_rows(output: Path) -> None:
    pool = read(output, "sources/pool")
    assert Counter(row["source"] for row in pool if not row["suspect"]) == {
        "alpaca": 300,
        "gsm8k": 90,
        "dialogues": 30,
    }
    repeats = [row for row in pool if row["suspect"]]
    assert len(repeats) == len(pool) / 3 == 210
    rows = {(row["instruction"], row["output"]) for row in pool if not row["suspect"]}
    exact = [row for row in repeats if (row["instruction"], row["output"]) in rows]
    assert len(exact) == 105
    assert Counter(row["source"] for row in read(output, "sources/test")) == dict.fromkeys(
        ("alpaca", "gsm8k", "dialogues"), 67
    )
