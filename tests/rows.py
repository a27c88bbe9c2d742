"""Rows that many tests score."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any


# Lengths of all kinds, so that micro-batches have padding.
ALPACA_ROWS = [
    {"instruction": "Name three primary colours.", "input": "", "output": "Red, yellow and blue."},
    {"instruction": "What is the capital of France?", "input": "", "output": "The capital of France is Paris."},
    {"instruction": "Add.", "input": "2 and 3", "output": "5"},
    {"instruction": "Describe the fox.", "input": "", "output": "The quick brown fox jumps over the lazy dog. " * 6},
    {"instruction": "Say it in Greek and emoji.", "input": "thanks " * 20, "output": "ευχαριστώ 🙏"},
    {"instruction": "Write.", "input": "", "output": "Below is an instruction that describes a task."},
    {"instruction": "Continue: the lazy", "input": "", "output": " dog."},
]

SKIPPED_ROWS = {
    "nothing": {"instruction": "Say nothing.", "input": "", "output": None},
    "empty": {"instruction": "Say nothing.", "input": "", "output": ""},
    "blank": {"instruction": "Say nothing.", "input": "", "output": " \n\t "},
}

_WORDS = ["fox", "dog", "red", "Paris", "capital", "yellow"]


def many_rows(number: int, skipped: Collection[int] = ()) -> list[dict[str, Any]]:
    """Rows that all differ, of many lengths; those whose places are `skipped` have nothing to score."""
    return [
        {
            "instruction": f"Say {_WORDS[i % 6]} {i % 4 + 1} times.",
            "input": "" if i % 3 else f"Number {i}",
            "output": "" if i in skipped else f"{_WORDS[i % 6]} {i} " * (i * 5 % 7 + 1),
        }
        for i in range(number)
    ]


# Those of the run that tests share (`scored_run`), with columns to group by, to flag and to refuse.
SCORED_ROWS = [
    {**row, "topic": ["animal", "colour", "place"][i % 3], "wrong": i % 7 == 0, "tags": ["a", "b"]}
    for i, row in enumerate([*many_rows(15, skipped=[3, 11]), *ALPACA_ROWS])
]


def json_lines(rows: Iterable[dict[str, Any]]) -> str:
    """Rows as JSON, one a line."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Rows as a file of JSON lines; returns its path."""
    path.write_text(json_lines(rows), encoding="utf-8")
    return path
