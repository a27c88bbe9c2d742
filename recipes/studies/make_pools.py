"""
Make the pools of the four situations from public sets, always the same.

    python recipes/studies/make_pools.py path/to/sets path/to/output

The folder of the sets holds `gsm8k_train.jsonl`, `arc_easy_train.jsonl`, `t0_55k.jsonl.gz`, `alpaca_2k.jsonl`,
`sgd_messages.jsonl` and `expert_revised_train.jsonl`. For each situation a folder is written:

    task/         a mixture of five sources; wanted, test and choices are of GSM8K or of ARC-Easy
    wrong_10/     Alpaca, where each tenth response answers something else
    wrong_30/     the same with three of ten
    revised/      Alpaca, half of the responses revised by experts; the test rows are all revised
    sources/      three sources, 10 : 3 : 1, where a third of the rows repeat others; as many test rows of each source
    clean/        Alpaca as it is

Each has `pool.jsonl` and `test.jsonl` with the columns `instruction`, `output` and `source`. `suspect` is true of the
rows that one would leave out if one knew: of other tasks, with wrong responses, not revised, or repeated.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hf_dlc.study.questions import read_question


Row = dict[str, Any]

_MOST_WORDS = 80  # of prompt and response: rows of some 140 tokens with the template at most
_SIZES = {"gsm8k": 300, "arc_easy": 300, "t0": 450, "alpaca": 300, "dialogues": 150}
_WANTED, _TEST = 64, 200


def make(folder: Path, output: Path) -> None:
    """Write all pools."""
    sets = {name: read(folder) for name, read in _READERS.items()}
    for name in sets:
        random.Random(name).shuffle(sets[name])
    _write_task(sets, output / "task")
    for share in (0.1, 0.3):
        pool, test = sets["alpaca"][:600], sets["alpaca"][600:800]
        _write(output / f"wrong_{share:.0%}".rstrip("%"), pool=_with_swapped(pool, share), test=test)
    _write_revised(folder, output / "revised")
    _write_sources(sets, output / "sources")
    _write(output / "clean", pool=sets["alpaca"][:600], test=sets["alpaca"][600:800])


# ---- the situations ----------------------------------------------------------------------------------------------


def _write_task(sets: dict[str, list[Row]], output: Path) -> None:
    """A mixture, and wanted and test rows of two tasks that are in it."""
    pool = [row for name, size in _SIZES.items() for row in sets[name][:size]]
    random.Random("task").shuffle(pool)
    for task in ("gsm8k", "arc_easy"):
        others = sets[task][_SIZES[task] :]
        wanted, test = others[:_WANTED], others[_WANTED : _WANTED + _TEST]
        choices = [row["choices"] for row in test if "choices" in row]
        marked = [{**row, "suspect": row["source"] != task} for row in pool]
        more = {"choices": choices} if choices else {}
        _write(output / task, pool=marked, wanted=wanted, test=test, **more)


def _with_swapped(rows: Sequence[Row], share: float) -> list[Row]:
    """A share of the rows get the response of another of them."""
    places = random.Random(str(share)).sample(range(len(rows)), round(share * len(rows)))
    responses = {place: rows[other]["output"] for place, other in zip(places, [*places[1:], places[0]], strict=True)}
    return [
        {**row, "output": responses.get(place, row["output"]), "suspect": place in responses}
        for place, row in enumerate(rows)
    ]


def _write_revised(folder: Path, output: Path) -> None:
    """Each row has the original response or the revised one; the test rows have the revised one."""
    rng = random.Random("revised")
    pairs = [
        (_row("alpaca", prompt, revised), _row("alpaca", prompt, original))
        for one in _lines(folder / "expert_revised_train.jsonl")
        for prompt in [one["src"].removeprefix("Instruction: ").strip()]
        for revised, original in [[one[name].removeprefix("Response: ").strip() for name in ("pos", "neg")]]
        if revised != original
    ]
    pairs = [pair for pair in pairs if all(map(_is_short, pair))]
    rng.shuffle(pairs)
    is_original = [number % 2 == 1 for number in range(600)]
    pool = [{**pair[is_old], "suspect": is_old} for pair, is_old in zip(pairs[:600], is_original, strict=True)]
    _write(output, pool=pool, test=[revised for revised, _ in pairs[600:800]])


def _write_sources(sets: dict[str, list[Row]], output: Path) -> None:
    """Three sources of very different size; half as many rows again repeat others, word for word or nearly."""
    rng, sizes = random.Random("sources"), {"alpaca": 300, "gsm8k": 90, "dialogues": 30}
    rows = [row for name, size in sizes.items() for row in sets[name][:size]]
    repeats = [
        {**(row if number % 2 else _reworded(row, rng)), "suspect": True}
        for number, row in enumerate(rng.choices(rows, k=len(rows) // 2))
    ]
    pool = [*({**row, "suspect": False} for row in rows), *repeats]
    rng.shuffle(pool)
    _write(output, pool=pool, test=[row for name, size in sizes.items() for row in sets[name][size : size + 67]])


def _reworded(row: Row, rng: random.Random) -> Row:
    """The same with another beginning or end of the prompt, and a word of the response written twice or left out."""
    prompt = rng.choice(["Please: {}", "{} Thank you.", "Hello! {}", "{}\n", "{} Answer briefly."])
    words = row["output"].split(" ")
    place = rng.randrange(len(words))
    words[place : place + 1] = [words[place]] * 2 if len(words) < 4 or rng.random() < 0.5 else []
    return {**row, "instruction": prompt.format(row["instruction"]), "output": " ".join(words)}


# ---- the sets ----------------------------------------------------------------------------------------------------


def _gsm8k(folder: Path) -> list[Row]:
    return _short(_row("gsm8k", one["question"], one["answer"]) for one in _lines(folder / "gsm8k_train.jsonl"))


def _arc_easy(folder: Path) -> list[Row]:
    """Questions with the text of the right choice as response, and all choices beside it."""
    rows = []
    for one in _lines(folder / "arc_easy_train.jsonl"):
        question, choices, right = read_question(one)
        if len(set(choices)) == len(choices):
            asked = {"question": question, "choices": choices, "answer": right}
            rows.append({**_row("arc_easy", question, choices[right]), "choices": asked})
    return _short(rows)


def _t0(folder: Path) -> list[Row]:
    rows = _lines(folder / "t0_55k.jsonl.gz")
    return _short(_row("t0", one["prompt"], one["completion"].removesuffix("<|endoftext|>")) for one in rows)


def _alpaca(folder: Path) -> list[Row]:
    rows = _lines(folder / "alpaca_2k.jsonl")
    prompts = ["\n".join(filter(None, (one["instruction"], one["input"]))) for one in rows]
    return _short(_row("alpaca", prompt, one["output"]) for prompt, one in zip(prompts, rows, strict=True))


def _dialogues(folder: Path) -> list[Row]:
    """A turn of the user and the answer to it, of each dialogue."""
    rng, rows = random.Random("dialogues"), []
    for one in _lines(folder / "sgd_messages.jsonl"):
        place = rng.randrange(0, len(one["messages"]) - 1, 2)
        rows.append(_row("dialogues", *(message["content"] for message in one["messages"][place : place + 2])))
    return _short(rows)


_READERS: dict[str, Callable[[Path], list[Row]]] = {
    "gsm8k": _gsm8k,
    "arc_easy": _arc_easy,
    "t0": _t0,
    "alpaca": _alpaca,
    "dialogues": _dialogues,
}


def _lines(path: Path) -> list[Row]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _row(source: str, prompt: str, response: str) -> Row:
    return {"instruction": prompt, "output": response, "source": source}


def _short(rows: Any) -> list[Row]:
    """Rows with a response, that are short enough, each prompt once."""
    return list({row["instruction"]: row for row in rows if row["output"].strip() and _is_short(row)}.values())


def _is_short(row: Row) -> bool:
    return len(f"{row['instruction']} {row['output']}".split()) <= _MOST_WORDS


def _write(output: Path, **files: Sequence[Row]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        shown = rows if name == "choices" else [{key: row[key] for key in row if key != "choices"} for row in rows]
        text = "".join(json.dumps(row) + "\n" for row in shown)
        (output / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    make(*map(Path, sys.argv[1:3]))
