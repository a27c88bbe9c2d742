"""Duplicates: what is found, in all layouts, against a slow search of all pairs."""

from __future__ import annotations

import gzip
import itertools
import json
import logging
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Audio, Dataset, DatasetDict, Features, Image, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from hf_dlc.pipeline import duplicates
from hf_dlc.pipeline.duplicates.find import KINDS, find_duplicates
from hf_dlc.selection import RandomSelector
from tests.conftest import SHARED


LONG = "the quick brown fox jumps over the lazy dog near the old river bank on a warm day in may"  # 20 words
EXACT = ("exact",)


def pairs(*rows: tuple[str | None, str | None]) -> Dataset:
    """Rows of a prompt and a completion."""
    return Dataset.from_dict(
        {"prompt": [prompt for prompt, _ in rows], "completion": [response for _, response in rows]},
        features=Features({"prompt": Value("string"), "completion": Value("string")}),
    )


def found(dataset: Dataset, **options: Any) -> tuple[list[int], list[str]]:
    marked = find_duplicates(dataset, **options)
    return marked["dup_of"][:], marked["dup_kind"][:]


def vectors(*rows: Sequence[float] | None, **columns: Any) -> Dataset:
    types = {"dlc_features": List(Value("float32"))}
    return Dataset.from_dict({"dlc_features": list(rows)}, features=Features(types))


# ---- against all pairs -------------------------------------------------------------------------------------------


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)} if len(words) > 2 else {(word,) for word in words}


def jaccard(one: str, other: str) -> float:
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b) if a | b else 1.0


def cosine(one: Sequence[float] | None, other: Sequence[float] | None) -> float:
    if one is None or other is None or not any(one) or not any(other):
        return -1.0
    a, b = np.array(one, dtype=float), np.array(other, dtype=float)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def slow(
    rows: Sequence[tuple[tuple[str, ...], Sequence[float] | None]],
    kinds: Sequence[str],
    near: float,
    semantic: float = 1,
) -> tuple[list[int], list[str]]:
    """Each row is held against all rows that are kept before it."""
    alike = {
        "exact": lambda a, b: a[0] == b[0] and any(a[0]),
        "near": lambda a, b: any(a[0]) and any(b[0]) and min(map(jaccard, a[0], b[0])) >= near,
        "semantic": lambda a, b: cosine(a[1], b[1]) >= semantic - 1e-6,
    }
    kept: list[int] = []
    answers = []
    for place, row in enumerate(rows):
        hits = [(kind, other) for kind in alike if kind in kinds for other in kept if alike[kind](rows[other], row)]
        kind, other = hits[0] if hits else ("", -1)
        answers.append((other, kind))
        kept += [] if hits else [place]
    return [other for other, _ in answers], [kind for _, kind in answers]


texts = st.lists(st.sampled_from("abcd"), max_size=8).map(" ".join)
directions = st.none() | st.tuples(*[st.integers(-2, 2)] * 3)
thresholds = st.sampled_from([1e-9, 0.2, 1 / 3, 0.5, 0.55, 0.6, 2 / 3, 0.75, 0.8, 0.95, 1.0])
some_kinds = st.sets(st.sampled_from(KINDS), min_size=1).map(sorted)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(texts, st.none() | texts, directions), min_size=1, max_size=24),
    by=st.sampled_from(["both", "prompt", "response"]),
    kinds=some_kinds,
    near=thresholds,
    semantic=thresholds,
    size=st.integers(1, 9),
)
def test_finds_what_a_search_of_all_pairs_finds(
    rows: list[tuple[str, str | None, Any]], by: str, kinds: list[str], near: float, semantic: float, size: int
) -> None:
    dataset = pairs(*((prompt, response) for prompt, response, _ in rows))
    compared = [{"both": (a, b), "prompt": (a,), "response": (b,)}[by] if b else () for a, b, _ in rows]
    column = vectors(*(vector for *_, vector in rows))["dlc_features"][:]
    dataset = dataset.add_column("dlc_features", column, feature=List(Value("float32")))
    if all(vector is None for *_, vector in rows):
        kinds = [kind for kind in kinds if kind != "semantic"] or ["exact"]
    expected = slow([(own, vector) for own, (*_, vector) in zip(compared, rows, strict=True)], kinds, near, semantic)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates.near, "_TEXTS_AT_ONCE", size)
        for name in ("_BLOCK", "_KEPT_AT_ONCE"):
            patch.setattr(duplicates.semantic, name, size)
        assert found(dataset, by=by, kinds=kinds, near=near, semantic=semantic) == expected


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.text(max_size=4), min_size=1, max_size=12))
def test_any_text_is_compared(rows: list[str]) -> None:
    dup_of, dup_kind = found(pairs(*(("a", row) for row in rows)), kinds=EXACT)
    for row, (other, kind) in enumerate(zip(dup_of, dup_kind, strict=True)):
        assert (kind == "exact") == (other >= 0)
        assert other < row
        assert other < 0 or dup_of[other] == -1
        same = [earlier for earlier in range(row) if rows[earlier] == rows[row] and rows[row].strip()]
        assert not same or other >= 0


@settings(max_examples=60, deadline=None)
@given(text=st.text())
def test_normalisation_is_done_in_one_go(text: str) -> None:
    """A text is the same as its normal form, and as itself in the other Unicode forms and in capitals."""
    once = duplicates.texts.normalised(text)
    assert once == " ".join(once.split())
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert duplicates.texts.normalised(unicodedata.normalize(form, text)) == once


# ---- cases by hand -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Name a colour.", "name  a\n\tCOLOUR"),
        ("“Who’s there?” she asked …", '"who\'s there" she asked'),
        ("Ｆｕｌｌ ｗｉｄｔｈ！", "full width"),
        ("ﬁrst", "FIRST"),
        ("Straße", "STRASSE"),
        ("\u2121", "tel"),
        ("\u0390", "\u0390".upper()),
        ("cafe\u0301", "CAFÉ"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("from 1990–2000", "from 1990-2000"),
        ("¿Qué?", "qué"),
        ("Wait... what?!", "wait what"),
        ("你好，世界。", "你好，世界"),
    ],
)
def test_the_same_text_in_other_signs(one: str, other: str) -> None:
    assert found(pairs((one, "x"), (other, "x")), kinds=EXACT) == ([-1, 0], ["", "exact"])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2 - 3", "2 / 3"),
        ("2-3", "2/3"),
        ("3.5", "35"),
        ("1,000", "1 000"),
        ("x[1]", "x(1)"),
        ("5%", "5"),
        (".5", "5"),
        ("a != b", "a = b"),
        ("C", "C#"),
        ("well-known", "well known"),
        ("👍", "👎"),
        ("?", "!"),
        ("résumé", "resume"),
    ],
)
def test_another_text(one: str, other: str) -> None:
    assert found(pairs((one, "x"), (other, "x")), kinds=EXACT)[0] == [-1, -1]
    assert found(pairs(("x", one), ("x", other)), kinds=EXACT)[0] == [-1, -1]


def test_prompt_response_or_both() -> None:
    dataset = pairs(("a", "1"), ("a", "2"), ("b", "1"), ("A.", "1!"))
    assert found(dataset, kinds=EXACT) == ([-1, -1, -1, 0], ["", "", "", "exact"])
    assert found(dataset, by="prompt", kinds=EXACT)[0] == [-1, 0, -1, 0]
    assert found(dataset, by="response", kinds=EXACT)[0] == [-1, -1, 0, 0]


def test_texts_do_not_run_into_each_other() -> None:
    assert found(pairs(("ab", "c"), ("a", "bc")), kinds=EXACT)[0] == [-1, -1]


def test_near_by_hand() -> None:
    """18 shingles each: a word changed in the middle takes three of them, one at the end takes one."""
    words = LONG.split()
    middle, end = [*words[:9], "by", *words[10:]], [*words[:-1], "june"]
    assert jaccard(LONG, " ".join(middle)) == 15 / 21
    assert jaccard(LONG, " ".join(end)) == 17 / 19
    dataset = pairs(*((" ".join(one), "yes") for one in (words, middle, end)))
    assert found(dataset) == ([-1, -1, 0], ["", "", "near"])
    assert found(dataset, near=15 / 21) == ([-1, 0, 0], ["", "near", "near"])
    assert found(dataset, near=17 / 19) == ([-1, -1, 0], ["", "", "near"])
    assert found(dataset, near=17 / 19 + 1e-9)[0] == [-1, -1, -1]


def test_another_answer_to_a_long_prompt_is_no_near_duplicate() -> None:
    dataset = pairs((LONG, "yes"), (LONG, "no"), (f"{LONG} indeed", "yes"))
    assert found(dataset) == ([-1, -1, 0], ["", "", "near"])
    assert found(dataset, by="prompt") == ([-1, 0, 0], ["", "exact", "near"])


def test_another_question_behind_a_long_system_prompt_is_no_near_duplicate() -> None:
    def row(system: str, asked: str) -> dict[str, Any]:
        return {"system": system, "instruction": asked, "output": "yes"}

    rows = [row(LONG, "is it hot"), row(LONG, "is it cold"), row(f"{LONG} now", "is it hot"), row("hm", "is it hot")]
    assert found(Dataset.from_list(rows), by="prompt") == ([-1, -1, 0, -1], ["", "", "near", ""])


def test_repeated_shingles_count_once() -> None:
    assert found(pairs(("no no no no no no", "x"), ("no no no", "x"))) == ([-1, 0], ["", "near"])


def test_similarities_at_the_threshold_count() -> None:
    """55 of 100 shingles. In floating point, 0.55 * 100 is more than 55."""
    words = [f"w{i}" for i in range(102)]
    assert 0.55 * 100 > 55
    for length, expected in ((57, [-1, 0]), (56, [-1, -1])):
        dataset = pairs((" ".join(words), "x"), (" ".join(words[:length]), "x"))
        assert found(dataset, by="prompt", near=0.55)[0] == expected


def test_the_first_of_several_similar_rows_is_named() -> None:
    """The last row shares its rarest shingles with the second one."""
    words = [f"w{i}" for i in range(20)]
    first, second = [*words[:17], "a", "b", "c"], ["d", "e", "f", *words[3:]]
    dataset = pairs(*((" ".join(one), "x") for one in (first, second, words[:5], words)))
    assert found(dataset, near=0.6)[0] == [-1, -1, -1, 0]
    assert found(dataset.select([1, 0, 2, 3]), near=0.6)[0] == [-1, -1, -1, 0]


def test_short_texts_are_compared_by_their_words() -> None:
    dataset = pairs(("red blue", "x"), ("blue red", "x"), ("red", "x"), ("red blue green", "x"))
    assert found(dataset) == ([-1, 0, -1, -1], ["", "near", "", ""])
    assert found(dataset, near=0.5) == ([-1, 0, 0, -1], ["", "near", "near", ""])


@pytest.mark.parametrize("text", ["春眠不觉晓处处闻啼鸟夜来风雨声花落知多少", "ฉันรักภาษาไทยมากเพราะสวยงาม"])
def test_scripts_without_spaces_are_compared_by_characters(text: str) -> None:
    dataset = pairs((text, "x"), (text[:-1] + "好", "x"), (text[::-1], "x"))
    assert found(dataset) == ([-1, 0, -1], ["", "near", ""])


def test_a_chain_does_not_swallow_what_no_kept_row_is_like() -> None:
    """B is like A and C like B, but C is not like A; D is like C, which is kept."""
    words = LONG.split()
    chain = [words, [*words[1:], "one"], [*words[2:], "one", "two"], [*words[3:], "one", "two", "three"]]
    dataset = pairs(*((" ".join(one), "x") for one in chain))
    assert jaccard(*(" ".join(one) for one in chain[:2])) == 17 / 19
    assert jaccard(*(" ".join(one) for one in chain[:3:2])) == 16 / 20
    assert found(dataset, near=0.85) == ([-1, 0, -1, 2], ["", "near", "", "near"])


def test_an_exact_copy_of_a_near_duplicate_is_near_to_the_kept_row() -> None:
    dataset = pairs((LONG, "x"), (f"{LONG} then", "x"), (f"{LONG} then", "x"), (LONG, "x"))
    assert found(dataset) == ([-1, 0, 0, 0], ["", "near", "near", "exact"])
    assert found(dataset, kinds=EXACT) == ([-1, -1, 1, 0], ["", "", "exact", "exact"])
    assert found(dataset, kinds=["near"]) == ([-1, 0, 0, 0], ["", "near", "near", "near"])


def test_the_strongest_kind_counts() -> None:
    """Row 3 is like all three before it, each in another way."""
    dataset = pairs((LONG, "semantic"), (f"{LONG} then", "x"), ("three more words", "x"), (LONG, "x"))
    dataset = dataset.add_column("dlc_features", [[0.0, 1], [1.0, 0], [1.0, 1], [0.0, 1]])
    assert found(dataset, kinds=KINDS) == ([-1, -1, -1, 1], ["", "", "", "near"])
    assert found(dataset, kinds=["semantic", "exact"]) == ([-1, -1, -1, 0], ["", "", "", "semantic"])


@pytest.mark.parametrize("kinds", [["exact"], ["near"], ["exact", "near"]])
@pytest.mark.parametrize("by", ["both", "prompt", "response"])
def test_rows_that_cannot_be_read_are_no_duplicates(by: str, kinds: list[str]) -> None:
    nothing = [(None, "x"), (None, "x"), ("x", None), ("x", None), ("x", ""), ("x", " "), (None, None), (None, None)]
    assert found(pairs(*nothing), by=by, kinds=kinds) == ([-1] * 8, [""] * 8)


def test_texts_without_a_word_are_no_duplicates() -> None:
    dataset = pairs(("", "..."), ("", "..."), ("", " ?! "), ("\u200b", "?!"))
    assert found(dataset) == ([-1] * 4, [""] * 4)
    dataset = pairs(("Which sign?", "?"), ("Which sign?", "!"), ("Which sign?", " ?"))
    assert found(dataset, kinds=EXACT)[0] == [-1, -1, 0]  # there is a prompt that has words
    assert found(dataset, by="response") == ([-1] * 3, [""] * 3)


# ---- layouts -----------------------------------------------------------------------------------------------------


def says(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def chat(*said: str) -> list[dict[str, str]]:
    return [says(role, text) for role, text in zip(("user", "assistant") * 2, said, strict=False)]


CALL = [{"type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}]
OTHER_CALL = [{"type": "function", "function": {"name": "add", "arguments": '{"a": 3}'}}]
OPTIONS = {"question": "Which?", "answer": "A"}

# Of each layout: a row, the same in other letters, one with another response, one with another prompt.
LAYOUTS: dict[str, list[dict[str, Any]]] = {
    "alpaca": [
        {"instruction": "Add.", "input": "2 and 3", "output": "5"},
        {"instruction": "ADD", "input": "2 and 3", "output": "5."},
        {"instruction": "Add.", "input": "2 and 3", "output": "6"},
        {"instruction": "Add.", "input": "2 and 4", "output": "5"},
    ],
    "question_answer": [
        {"question": "Who?", "context": "A man.", "answer": "He."},
        {"question": "who", "context": "A man", "answer": "he"},
        {"question": "Who?", "context": "A man.", "answer": "She."},
        {"question": "Who?", "context": "A dog.", "answer": "He."},
    ],
    "prompt_completion": [
        {"prompt": "2 + 3 =", "completion": " 5"},
        {"prompt": "2 +  3 =", "completion": "5"},
        {"prompt": "2 + 3 =", "completion": " 6"},
        {"prompt": "2 - 3 =", "completion": " 5"},
    ],
    "prompt_completion of messages": [
        {"prompt": [says("user", "Hi!")], "completion": [says("assistant", "Hello.")]},
        {"prompt": [says("user", "hi")], "completion": [says("assistant", "hello")]},
        {"prompt": [says("user", "Hi!")], "completion": [says("assistant", "Bye.")]},
        {"prompt": [says("user", "Bye!")], "completion": [says("assistant", "Hello.")]},
    ],
    "messages": [
        {"messages": chat("Hi!", "Hello.", "How are you?", "Fine.")},
        {"messages": chat("hi", "hello", "how are you", "FINE")},
        {"messages": chat("Hi!", "Hello.", "How are you?", "Ill.")},
        {"messages": chat("Hey!", "Hello.", "How are you?", "Fine.")},
    ],
    "messages as JSON": [
        {"messages": json.dumps(chat(asked, said))}
        for asked, said in (("Hi!", "Yes."), ("hi", "yes"), ("Hi!", "No."), ("Ho!", "Yes."))
    ],
    "typed content": [
        {"messages": [says(turn["role"], [{"type": "text", "text": turn["content"]}]) for turn in chat(*said)]}
        for said in (("Hi!", "Yes."), ("hi", "yes"), ("Hi!", "No."), ("Ho!", "Yes."))
    ],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": said}], "system": "Be kind."}
        for asked, said in (("Hi!", "Yes."), ("hi", "yes"), ("Hi!", "No."), ("Ho!", "Yes."))
    ],
    "history": [
        {"instruction": "And 3?", "output": said, "history": [["Is 2 even?", before]]}
        for before, said in (("Yes.", "No."), ("yes", "no"), ("Yes.", "Yes."), ("Sure.", "No."))
    ],
    "tokenized": [
        {"input_ids": ids, "labels": [-100, -100, *ids[2:]]}
        for ids in ([4, 5, 6, 7], [4, 5, 6, 7], [4, 5, 6, 8], [4, 9, 6, 7])
    ],
}  # fmt: skip


@pytest.mark.parametrize("rows", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout(rows: list[dict[str, Any]]) -> None:
    dataset = Dataset.from_list(rows)
    assert found(dataset, kinds=EXACT) == ([-1, 0, -1, -1], ["", "exact", "", ""])
    assert found(dataset, by="prompt", kinds=EXACT) == ([-1, 0, 0, -1], ["", "exact", "exact", ""])
    assert found(dataset, by="response", kinds=EXACT) == ([-1, 0, -1, 0], ["", "exact", "", "exact"])
    assert found(dataset, near=1)[0] == [-1, 0, -1, -1]


def test_raw_text_has_no_prompt() -> None:
    dataset = Dataset.from_dict({"text": ["One two.", "one  two", "Three.", None]})
    assert found(dataset) == ([-1, 0, -1, -1], ["", "exact", "", ""])
    assert found(dataset, by="response") == ([-1, 0, -1, -1], ["", "exact", "", ""])
    assert found(dataset, by="prompt") == ([-1] * 4, [""] * 4)


def test_near_in_tokens() -> None:
    ids = list(range(40))
    dataset = Dataset.from_dict({"input_ids": [ids, [*ids[:-1], 99], ids[::-1]]})
    assert found(dataset) == ([-1, 0, -1], ["", "near", ""])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([says("system", "Be kind."), *chat("Hi", "Yes")], [says("system", "Be rude."), *chat("Hi", "Yes")]),
        ([*chat("Hi"), says("assistant", "") | {"tool_calls": CALL}],
         [*chat("Hi"), says("assistant", "") | {"tool_calls": OTHER_CALL}]),
        ([*chat("Hi"), says("assistant", "Yes") | {"reasoning_content": "Hm."}],
         [*chat("Hi"), says("assistant", "Yes") | {"reasoning_content": "Ha."}]),
        ([*chat("Hi"), says("tool", "3"), says("assistant", "Yes")],
         [*chat("Hi"), says("tool", "4"), says("assistant", "Yes")]),
    ],
    ids=["system", "calls", "reasoning", "result of a tool"],
)  # fmt: skip
def test_all_parts_of_messages_count(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    rows = [{"messages": json.dumps(messages)} for messages in (one, other, one)]
    assert found(Dataset.from_list(rows), kinds=EXACT)[0] == [-1, -1, 0]


def test_tools_count() -> None:
    add, subtract = ([{"type": "function", "function": {"name": name}}] for name in ("add", "subtract"))
    rows = [{"messages": chat("Hi", "Yes"), "tools": json.dumps(tools)} for tools in (add, subtract, add)]
    assert found(Dataset.from_list(rows), kinds=EXACT)[0] == [-1, -1, 0]
    assert found(Dataset.from_list(rows), by="response", kinds=EXACT)[0] == [-1, 0, 0]


def test_turns_that_are_not_learned_are_part_of_the_prompt() -> None:
    def row(first: str, last: str) -> dict[str, Any]:
        turns = [*chat("Hi", first), *chat("Well?", last)]
        return {"messages": json.dumps([turn | {"loss_weight": int(turn["content"] == last)} for turn in turns])}

    dataset = Dataset.from_list([row("A", "Yes"), row("B", "Yes"), row("A", "No")])
    assert found(dataset, by="prompt", kinds=EXACT)[0] == [-1, -1, 0]
    assert found(dataset, by="response", kinds=EXACT)[0] == [-1, 0, -1]


def test_columns_and_layout_are_those_of_scoring() -> None:
    dataset = Dataset.from_dict({"src": ["a", "a", "b"], "pos": ["1", "1", "1"], "neg": ["2", "3", "2"]})
    mapped = {"src": "instruction", "pos": "output"}
    assert found(dataset, columns=mapped, kinds=EXACT)[0] == [-1, 0, -1]
    other = {"src": "instruction", "neg": "output"}
    assert found(dataset, columns=other, kinds=EXACT)[0] == [-1, -1, -1]
    dataset = Dataset.from_dict({"prompt": ["a", "b"], "completion": ["1", "2"], "text": ["x", "x"]})
    assert found(dataset, kinds=EXACT)[0] == [-1, -1]
    assert found(dataset, layout="text", kinds=EXACT)[0] == [-1, 0]


def test_answer_options_that_are_not_read_are_refused() -> None:
    """Two questions of the same words may have other options."""
    rows = [OPTIONS | {"choices": ["red", "blue"]}, OPTIONS | {"choices": ["one", "two"]}]
    with pytest.raises(ValueError, match="look like answer options"):
        find_duplicates(Dataset.from_list(rows))
    ignored = {"choices": "ignore"}
    assert found(Dataset.from_list(rows), columns=ignored)[0] == [-1, 0]


def test_a_column_of_text_that_is_not_compared_is_named(caplog: pytest.LogCaptureFixture) -> None:
    dataset = pairs(("a", "b"), ("a", "b")).add_column("hint", ["Think of red.", "Think of blue."])
    assert found(dataset)[0] == [-1, 0]
    assert "'hint'" in caplog.text


# ---- vectors -----------------------------------------------------------------------------------------------------


def test_semantic_by_hand() -> None:
    """Cosines with the first row: 1, 0.8, -1 and 0.6; of the last with the third: 0.96. Texts are not read."""
    dataset = vectors([2, 0], [3, 0], [4, 3], [-1, 0], [3, 4])
    assert found(dataset, kinds=["semantic"]) == ([-1, 0, -1, -1, 2], ["", "semantic", "", "", "semantic"])
    assert found(dataset, kinds=["semantic"], semantic=0.96)[0] == [-1, 0, -1, -1, 2]
    assert found(dataset, kinds=["semantic"], semantic=0.97)[0] == [-1, 0, -1, -1, -1]
    assert found(dataset, kinds=["semantic"], semantic=0.8)[0] == [-1, 0, 0, -1, -1]
    assert found(dataset, kinds=["semantic"], semantic=0.6)[0] == [-1, 0, 0, -1, 0]


@pytest.mark.parametrize("type_", ["float16", "float32", "float64"])
def test_equal_vectors_are_alike_in_every_type(type_: str) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 7))
    columns = {"v": [*rows, *rows[::-1]]}
    dataset = Dataset.from_dict(columns, features=Features({"v": List(Value(type_), length=7)}))
    dup_of, _ = found(dataset, kinds=["semantic"], features="v", semantic=1)
    assert dup_of == [*[-1] * 40, *range(39, -1, -1)]


def test_rows_without_a_direction_are_no_semantic_duplicates() -> None:
    nan = float("nan")
    dataset = vectors(
        [nan, nan],
        [nan, nan],
        None,
        None,
        [0, 0],
        [0, 0],
        [float("inf"), 1],
        [float("inf"), 1],
        [1e38, 1e38],
        [1e-38, 1e-38],
    )
    assert found(dataset, kinds=["semantic"], semantic=0.01)[0] == [-1] * 9 + [8]


def test_vectors_may_be_in_another_column() -> None:
    dataset = vectors([1, 0], [1, 0]).rename_column("dlc_features", "mine")
    assert found(dataset, kinds=["semantic"], features="mine")[0] == [-1, 0]


def test_vectors_that_were_made_in_two_ways_are_refused() -> None:
    dataset = vectors([1, 0], [1, 0]).add_column("dlc_features_by", ["mean", "last"])
    with pytest.raises(ValueError, match="must be made in one way, got last, mean"):
        find_duplicates(dataset, kinds=["semantic"])


def test_blocks_of_vectors_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    dataset = vectors(*(rng.integers(-2, 3, (300, 3)) + 0.1).tolist())
    whole = found(dataset, kinds=["semantic"])
    assert 20 < sum(one >= 0 for one in whole[0]) < 300
    for block, kept in ((1, 1), (7, 2), (64, 5)):
        monkeypatch.setattr(duplicates.semantic, "_BLOCK", block)
        monkeypatch.setattr(duplicates.semantic, "_KEPT_AT_ONCE", kept)
        assert found(dataset, kinds=["semantic"]) == whole


# ---- pictures ----------------------------------------------------------------------------------------------------


def pictures(*colours: str | None, **columns: list[Any]) -> Dataset:
    drawn = [colour and Pillow.new("RGB", (4, 4), colour) for colour in colours]
    types = {name: Value("string" if isinstance(values[0], str) else "int64") for name, values in columns.items()}
    return Dataset.from_dict({"image": drawn, **columns}, features=Features({"image": Image(), **types}))


def test_pictures_are_compared_by_their_bytes() -> None:
    dataset = pictures("red", "blue", "red", None, None, "blue", label=[0, 1, 1, 0, 0, 1])
    assert found(dataset, kinds=EXACT) == ([-1, -1, 0, -1, -1, 1], ["", "", "exact", "", "", "exact"])
    assert found(dataset, kinds=EXACT, columns={"image": "image", "label": "label"})[0] == [-1, -1, 0, -1, -1, 1]


def test_pictures_with_vectors() -> None:
    dataset = pictures("red", "blue", "red", None).add_column("dlc_features", [[1.0, 0], [0.9, 0.1], [1.0, 0], None])
    assert found(dataset, kinds=["exact", "semantic"]) == ([-1, 0, 0, -1], ["", "semantic", "exact", ""])


def test_pictures_with_texts_are_compared_by_both() -> None:
    asked, said = ["What?", "What?", "what", "Who?"], ["Red.", "Red.", "red", "Red."]
    dataset = pictures("red", "blue", "red", "red", question=asked, answer=said)
    assert found(dataset, kinds=EXACT) == ([-1, -1, 0, -1], ["", "", "exact", ""])


@pytest.mark.parametrize("kinds", [("exact", "near"), ("near",)])
def test_near_is_refused_for_pictures(kinds: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"found by words, and the rows have pictures or sound in \['image'\]"):
        find_duplicates(pictures("red", "red", label=[0, 0]), kinds=kinds)


def test_sound_is_no_text() -> None:
    dataset = Dataset.from_dict({"sound": [None, None]}, features=Features({"sound": Audio(decode=False)}))
    with pytest.raises(ValueError, match=r"pictures or sound in \['sound'\]"):
        find_duplicates(dataset, kinds=["near"])
    assert find_duplicates(dataset)["dup_of"][:] == [-1, -1]  # by their bytes, of which there are none


def test_a_column_of_pictures_cannot_be_read_as_text() -> None:
    with pytest.raises(ValueError, match="'image' must hold text to be read as text, got pictures"):
        find_duplicates(pictures("red", "red"), kinds=EXACT, columns={"image": "text"})


# ---- the dataset, parameters and messages ------------------------------------------------------------------------


@pytest.mark.parametrize("type_", [None, "numpy", "torch", "pandas", "arrow"])
def test_rows_format_and_types_stay(type_: str | None) -> None:
    dataset = pairs(("a", "1"), ("b", "2"), ("a", "1")).with_format(type_)
    marked = find_duplicates(dataset)
    added = {"dup_of": Value("int64"), "dup_kind": Value("string")}
    assert marked.features == Features({**dataset.features, **added})
    assert marked.format["type"] == dataset.format["type"]
    assert marked.with_format(None).remove_columns([*added]).to_list() == dataset.with_format(None).to_list()
    assert marked.with_format(None)["dup_of"][:] == [-1, -1, 0]


def test_columns_of_an_earlier_call_are_replaced() -> None:
    once = find_duplicates(pairs(("a", "1"), ("a", "1")))
    again = find_duplicates(once.select([1, 0]), kinds=["near"])
    assert again.column_names == once.column_names
    assert (again["dup_of"][:], again["dup_kind"][:]) == ([-1, 0], ["", "near"])


@pytest.mark.parametrize("kinds", [["exact"], ["near"], ["semantic"], ["exact", "near", "semantic"]])
def test_a_dataset_without_rows_gets_the_columns(kinds: list[str]) -> None:
    dataset = pairs(("a", "1")).add_column("dlc_features", [[1.0, 2.0]]).select([])
    marked = find_duplicates(dataset, kinds=kinds)
    assert marked.column_names == ["prompt", "completion", "dlc_features", "dup_of", "dup_kind"]
    assert len(marked) == 0
    assert marked.features["dup_of"] == Value("int64")


def test_a_single_kind_may_be_a_word() -> None:
    assert found(pairs(("a", "1"), ("a", "1")), kinds="exact")[1] == ["", "exact"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "answer"}, "by must be one of 'both', 'prompt', 'response', got 'answer'"),
        ({"kinds": ["exact", "fuzzy"]}, r"kinds must be one or more of .*, got \('exact', 'fuzzy'\)"),
        ({"kinds": []}, "kinds must be one or more of 'exact', 'near', 'semantic', got"),
        ({"kinds": "fuzzy"}, "kinds must be one or more of"),
        ({"by": ["prompt"]}, "by must be one of"),
        ({"near": 0}, "near must be a number above 0 and at most 1, got 0"),
        ({"near": 1.01}, "near must be a number above 0 and at most 1, got 1.01"),
        ({"near": float("nan")}, "near must be a number above 0 and at most 1, got nan"),
        ({"near": "0.8"}, "near must be a number above 0 and at most 1, got '0.8'"),
        ({"semantic": -0.5}, "semantic must be a number above 0 and at most 1, got -0.5"),
        ({"semantic": True}, "semantic must be a number above 0 and at most 1, got True"),
        ({"kinds": ["semantic"]}, r"features='dlc_features' is none of \['prompt', 'completion'\]. Score"),
        ({"kinds": ["semantic"], "features": None}, "features=None is none of"),
        ({"kinds": ["semantic"], "features": "prompt"}, "'prompt' must hold lists of numbers"),
        ({"layout": "chatml"}, "`layout` must be 'auto' or one of"),
        ({"layout": "messages"}, "The layout 'messages' needs the column 'messages'"),
        ({"columns": {"question": "instruction"}}, r"`columns` names \['question'\]"),
    ],
)  # fmt: skip
def test_bad_parameters(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_duplicates(pairs(("a", "1"), ("a", "1")), **options)


def test_columns_of_no_layout_are_refused() -> None:
    with pytest.raises(ValueError, match="No known layout fits the columns"):
        find_duplicates(Dataset.from_dict({"a": ["x"], "b": ["y"]}))


def test_other_collections_are_refused() -> None:
    dataset = pairs(("a", "1"))
    with pytest.raises(TypeError, match=r"got a DatasetDict with the splits \['test'\]. Pass one split: .*'test'"):
        find_duplicates(DatasetDict({"test": dataset}))
    with pytest.raises(TypeError, match="find_duplicates needs a Dataset, got DataFrame"):
        find_duplicates(dataset.to_pandas())
    with pytest.raises(TypeError, match="find_duplicates needs a Dataset, got Table"):
        find_duplicates(pa.table(dataset.to_dict()))
    with pytest.raises(TypeError, match="got IterableDataset: it compares all rows"):
        find_duplicates(dataset.to_iterable_dataset())
    with pytest.raises(TypeError, match="got list"):
        find_duplicates(dataset.to_list())


@pytest.mark.parametrize(
    ("dataset", "options", "line"),
    [
        (pairs(("a", "1"), ("a", "1"), ("b", "2")), {}, "1 of 3 rows are duplicates: 1 exact"),
        (pairs(("a", "1"), ("b", "1")), {}, "0 of 2 rows are duplicates"),
        (pairs(("a", "1")).select([]), {}, "0 of 0 rows are duplicates"),
        (pairs((LONG, "1"), (f"{LONG} so", "1"), (LONG, "1")), {}, "2 of 3 rows are duplicates: 1 exact, 1 near"),
        (
            pairs(("a", "1"), ("a", None), ("a", "1")),
            {},
            "1 of 3 rows are duplicates: 1 exact; rows with nothing to compare: 1",
        ),
        (
            vectors([1, 0], None, [1, 0], [0, 0]),
            {"kinds": ["semantic"]},
            "1 of 4 rows are duplicates: 1 semantic; rows with nothing to compare: 2",
        ),
    ],
)
def test_one_line_tells_how_many(
    dataset: Dataset, options: dict[str, Any], line: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "hf_dlc.pipeline.duplicates"):
        find_duplicates(dataset, **options)
    assert [record.getMessage() for record in caplog.records if record.name.endswith("duplicates.find")] == [line]


def test_a_selector_drops_them() -> None:
    rows = [(f"question {i % 6}", "1") for i in range(20)]
    marked = find_duplicates(pairs(*rows), kinds=EXACT)
    for seed in range(3):
        kept = RandomSelector(6, seed=seed, drop_duplicates=True).read_indices(marked)
        assert kept.tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="6"):
        RandomSelector(7, drop_duplicates=True)(marked)
    three = RandomSelector(3, seed=1, drop_duplicates=True)(marked)
    assert len(set(three["prompt"][:])) == 3
    reasons = RandomSelector(6, drop_duplicates=True).select(marked).reasons
    assert Counter(reasons.tolist()) == {"kept": 6, "duplicate": 14}


# ---- real rows ---------------------------------------------------------------------------------------------------


def real(name: str, rows: int | None = None) -> Dataset:
    path = SHARED / "data" / "text" / name
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        return Dataset.from_list([json.loads(line) for line in itertools.islice(lines, rows)])


def test_all_real_duplicates_are_found() -> None:
    dataset = real("alpaca_gpt4_demo.jsonl")
    rows = [json.dumps(row, sort_keys=True) for row in dataset]
    marked = find_duplicates(dataset)
    assert Counter(marked["dup_kind"][:]) == {"": 985, "exact": 14}
    assert marked["dup_of"][:] == [
        rows.index(row) if rows.index(row) < place else -1 for place, row in enumerate(rows)
    ]


def test_real_near_duplicates_are_those_of_a_search_of_all_pairs() -> None:
    dataset = real("t0_55k.jsonl.gz", 400)
    rows = [tuple(map(duplicates.texts.normalised, (row["prompt"], row["completion"]))) for row in dataset]
    expected = slow([(row, None) for row in rows], ("exact", "near"), near=0.6)
    assert expected[1].count("near") > 50
    assert found(dataset, near=0.6) == expected


@pytest.mark.parametrize(
    "name",
    [
        "gsm8k_train.jsonl",
        "mtbench101_messages.jsonl",
        "glaive_toolcall_sharegpt.jsonl",
        "typed_content_messages.jsonl",
        "alpaca_2k.jsonl",
    ],
)
def test_real_rows_give_the_same_again_and_one_of_each_set_is_kept(name: str) -> None:
    dataset = real(name, 1500)
    marked = find_duplicates(dataset)
    assert (marked["dup_of"][:], marked["dup_kind"][:]) == found(dataset)
    kept = marked.filter(lambda row: row["dup_of"] < 0)
    assert found(kept)[0] == [-1] * len(kept)
    twice = marked.select([*range(len(marked))] * 2)
    doubled = find_duplicates(twice)
    assert doubled["dup_of"][: len(marked)] == marked["dup_of"][:]
    readable = [kind for kind in doubled["dup_kind"][len(marked) :] if kind]
    assert len(readable) > 0.9 * len(marked)
