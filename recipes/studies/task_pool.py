"""
Make the pool and the wanted rows of "Rows for a task" from four public sets.

    python recipes/studies/task_pool.py path/to/sets path/to/output

The folder holds `gsm8k_train.jsonl`, `alpaca_2k.jsonl`, `t0_55k.jsonl.gz` and `sgd_messages.jsonl`. Writes
`pool.jsonl`, 2,400 rows of which 600 are of GSM8K, and `wanted.jsonl`, 32 others of GSM8K.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from pathlib import Path
from typing import Any


def make(folder: Path, output: Path) -> None:
    """Draw the rows, always the same, and write them as messages with the name of their source."""
    rng = random.Random(0)
    gsm8k = [
        _row("gsm8k", one["question"], one["answer"]) for one in rng.sample(_read(folder / "gsm8k_train.jsonl"), 632)
    ]
    answered = [one for one in _read(folder / "alpaca_2k.jsonl") if one["output"]]
    alpaca = [_row("alpaca", _prompt(one), one["output"]) for one in rng.sample(answered, 600)]
    t0 = rng.sample(_read(folder / "t0_55k.jsonl.gz"), 900)
    others = [_row("t0", one["prompt"], one["completion"].removesuffix("<|endoftext|>")) for one in t0]
    dialogues = [_turn(one["messages"], rng) for one in rng.sample(_read(folder / "sgd_messages.jsonl"), 300)]
    pool = [*gsm8k[32:], *alpaca, *others, *dialogues]
    rng.shuffle(pool)
    output.mkdir(parents=True, exist_ok=True)
    for name, rows in (("pool", pool), ("wanted", gsm8k[:32])):
        lines = [json.dumps(one) + "\n" for one in rows]
        (output / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def _read(path: Path) -> list[dict[str, Any]]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _prompt(one: dict[str, str]) -> str:
    return "\n".join(filter(None, (one["instruction"], one["input"])))


def _turn(messages: list[dict[str, str]], rng: random.Random) -> dict[str, Any]:
    """A turn of the user and the answer to it."""
    place = rng.randrange(0, len(messages) - 1, 2)
    return _row("dialogues", messages[place]["content"], messages[place + 1]["content"])


def _row(source: str, prompt: str, response: str) -> dict[str, Any]:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    return {"messages": turns, "source": source}


if __name__ == "__main__":
    make(*map(Path, sys.argv[1:3]))
