"""Rows near wanted rows: against a slow oracle, and what is no pool or no target."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict, Features, Image, List, Value, concatenate_datasets
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from hf_dlc.selection import nearest
from hf_dlc.selection.base import Selector
from hf_dlc.selection.candidates import Candidates
from hf_dlc.selection.columns import text_columns
from hf_dlc.selection.contamination import equals_wanted
from hf_dlc.selection.nearest import VectorSimilarity, nearest_rows, take_turns
from hf_dlc.selection.ordering import drawn_order
from hf_dlc.selection.table import selector_from_record
from hf_dlc.selection.target import TargetSelector
from hf_dlc.selection.words import WordSimilarity


a_number = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0])  # few, so that ties are frequent


def vectors(rows: int, size: int = 3) -> st.SearchStrategy[np.ndarray]:
    return st.lists(st.lists(a_number, min_size=size, max_size=size), min_size=rows, max_size=rows).map(np.array)


def cosines_of(pool: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    lengths = np.maximum(np.linalg.norm(pool, axis=1), 1e-30)
    directions = wanted / np.maximum(np.linalg.norm(wanted, axis=1), 1e-30)[:, None]
    return directions @ (pool / lengths[:, None]).T


def turns(pool: np.ndarray, wanted: np.ndarray, usable: np.ndarray, count: int) -> list[int]:
    """Each wanted row in turn takes its nearest row by cosine, ties by row number."""
    cosines = np.round(cosines_of(pool, wanted) * 2**20)
    left, order = [row for row in range(len(pool)) if usable[row]], []
    while left and len(order) < count:
        by = cosines[len(order) % len(wanted)]
        order.append(min(left, key=lambda row: (-by[row], row)))
        left.remove(order[-1])
    return order


@given(data=st.data())
def test_each_takes_its_nearest_row(data: st.DataObject) -> None:
    """As far as float32 tells rows apart; of equal rows the first."""
    rows, wanted = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 5).flatmap(vectors))
    pool = data.draw(vectors(rows))
    usable = np.array(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
    count = data.draw(st.integers(0, int(usable.sum())))
    found = take_turns(VectorSimilarity(pool, wanted), count, usable)[0].tolist()
    assert len(found) == count
    cosines, left = cosines_of(pool, wanted), np.flatnonzero(usable).tolist()
    for turn, row in enumerate(found):
        by = cosines[turn % len(wanted)]
        assert by[row] >= max(by[left]) - 3 / 2**20
        assert not any(other < row and (pool[other] == pool[row]).all() for other in left)
        left.remove(row)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_blocks_and_depth_change_nothing(monkeypatch: pytest.MonkeyPatch, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    pool = rng.standard_normal((700, 5)).astype(dtype)
    pool[::7] = pool[3]  # equal rows in many blocks
    wanted, usable = rng.standard_normal((6, 5)), rng.random(700) < 0.9
    expected = turns(pool.astype(np.float64), wanted, usable, 500)
    for at_once, first in ((1, 1), (2**11, 2), (2**22, 64)):
        monkeypatch.setattr(nearest, "_AT_ONCE", at_once)
        monkeypatch.setattr(nearest, "_FIRST_SEARCH", first)
        assert take_turns(VectorSimilarity(pool, wanted), 500, usable)[0].tolist() == expected
    deep = nearest_rows(VectorSimilarity(pool, wanted), int(usable.sum()), usable)
    assert [sorted(row) for row in deep.tolist()] == [np.flatnonzero(usable).tolist()] * 6


def test_inner_products_know_lengths() -> None:
    pool = np.array([[1.0, 0.0], [5.0, 5.0], [0.0, 9.0]])
    wanted = np.array([[3.0, 0.0]])
    order = [
        take_turns(VectorSimilarity(pool, wanted, is_cosine), 3, np.ones(3, bool))[0].tolist()
        for is_cosine in (True, False)
    ]
    assert order == [[0, 1, 2], [1, 0, 2]]
    gradient = TargetSelector(keep=1, target=wanted, metric="gradient", contamination="keep")
    assert gradient.get_indices(features=pool).tolist() == [1]


@given(data=st.data())
def test_budgets_are_exact(data: st.DataObject) -> None:
    rows = data.draw(st.integers(2, 30))
    pool, wanted = data.draw(vectors(rows)), data.draw(st.integers(1, 4).flatmap(vectors))
    groups = data.draw(st.none() | st.lists(st.sampled_from(["a", "b"]), min_size=rows, max_size=rows))
    mix = data.draw(st.sampled_from([0.0, 0.25, 0.5]))
    keep = data.draw(st.integers(1, rows))
    selector = TargetSelector(keep=keep, target=wanted, mix=mix, group_by=groups and "g")
    found = selector.get_indices(groups=groups, features=pool).tolist()
    assert len(found) == keep
    assert found == sorted(set(found))
    assert found == selector.get_indices(groups=groups, features=pool).tolist()


@given(data=st.data())
def test_tokens_are_not_exceeded_and_nothing_else_fits(data: st.DataObject) -> None:
    rows = data.draw(st.integers(2, 30))
    pool, wanted = data.draw(vectors(rows)), data.draw(st.integers(1, 4).flatmap(vectors))
    tokens = np.array(data.draw(st.lists(st.integers(1, 9), min_size=rows, max_size=rows)))
    budget = data.draw(st.integers(int(tokens.min()), int(tokens.sum())))
    mix = data.draw(st.sampled_from([0.0, 0.5]))
    found = TargetSelector(keep_tokens=budget, target=wanted, mix=mix).get_indices(features=pool, tokens=tokens)
    left = budget - tokens[found].sum()
    assert left >= 0
    assert not (np.delete(tokens, found) <= left).any()


def test_a_larger_budget_contains_the_smaller() -> None:
    rng = np.random.default_rng(1)
    pool, wanted = rng.standard_normal((300, 4)), rng.standard_normal((3, 4))
    kept = [
        set(TargetSelector(keep=keep, target=wanted).get_indices(features=pool).tolist())
        for keep in (10, 50, 299, 300)
    ]
    assert kept[0] < kept[1] < kept[2] < kept[3]


def test_a_part_is_drawn_at_random() -> None:
    rng = np.random.default_rng(2)
    pool, wanted = rng.standard_normal((200, 4)), rng.standard_normal((3, 4))
    near = set(TargetSelector(keep=50, target=wanted).get_indices(features=pool).tolist())
    mixed = [
        set(TargetSelector(keep=100, target=wanted, mix=0.5, seed=seed).get_indices(features=pool).tolist())
        for seed in (0, 1)
    ]
    assert near < mixed[0]
    assert near < mixed[1]
    assert mixed[0] != mixed[1]


def dataset_of(pool: np.ndarray, made_by: str = "position 2 abc", **columns: list) -> Dataset:
    features = Features({"dlc_features": List(Value("float16"), length=pool.shape[1])})
    found = Dataset.from_dict({"dlc_features": pool.tolist()}, features=features)
    for name, values in {**columns, "dlc_features_by": [made_by] * len(pool)}.items():
        found = found.add_column(name, values)
    return found


QUESTIONS = [
    f"How many of the {n} apples that Tom bought are left on the table? None of the {n} are left." for n in range(9)
]


def test_rows_that_equal_a_wanted_one_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(3)
    directions = rng.standard_normal((9, 2))
    texts = [*QUESTIONS[:4], QUESTIONS[5].upper().replace("?", " ?!"), "Name a colour.", "Red.", "Blue.", "Green."]
    pool, wanted = dataset_of(directions, text=texts), dataset_of(directions[:2], text=[QUESTIONS[0], QUESTIONS[5]])
    with caplog.at_level(logging.INFO, "hf_dlc"):
        found = TargetSelector(keep=3, target=wanted).select(pool)
    assert np.flatnonzero(found.reasons == "equals_wanted").tolist() == [0, 4]
    assert "2 of 9 rows are left out: equals_wanted" in caplog.text
    kept = TargetSelector(keep=3, target=wanted, contamination="keep").select(pool)
    assert 0 in kept.indices
    assert found.notes["wanted"].shape == found.notes["wanted_similarity"].shape == (3,)
    with pytest.raises(
        ValueError, match=r"the 7 rows that may be taken \(left out: 2 equals_wanted\) .*Ask for at most 7"
    ):
        TargetSelector(keep=8, target=wanted).select(pool)


LONG = " ".join(f"word{number}" for number in range(120))


@pytest.mark.parametrize(
    ("text", "nearly", "exactly"),
    [
        ("One, two; three four five six seven eight nine TEN!", True, True),
        ("source: web one two three four five six seven eight nine ten", True, False),  # it stands in the other
        ("two three four five six seven eight nine", True, False),
        (LONG.replace("word60 ", "other "), True, False),
        (LONG.replace("word60 ", "other ").replace("word20 ", "other "), False, False),
        ("one two three four five six seven eight nine eleven", False, False),  # as rows of one template do
        ("one two three four five", False, False),
        (" ".join(map(str, range(40))) + " one two three four five six seven eight nine ten", False, False),
        ("yes", True, True),
        ("yes it is", False, False),
        ("", False, False),
    ],
)
def test_what_equals_a_wanted_text(text: str, nearly: bool, exactly: bool) -> None:
    wanted = ["one two three four five six seven eight nine ten", LONG, "Yes.", ""]
    assert [equals_wanted([text], wanted, kind).tolist() for kind in (True, False)] == [[nearly], [exactly]]


some_words = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=14)


@given(texts=st.lists(some_words, max_size=6), wanted=st.lists(some_words, max_size=4))
def test_nearly_equal_by_a_search_of_all_pairs(texts: list[list[str]], wanted: list[list[str]]) -> None:
    def shingles(words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[place : place + 5]) for place in range(max(1, len(words) - 4))} if words else set()

    def alike(one: set, other: set) -> bool:
        common, both = len(one & other), len(one | other)
        is_contained = common and common in (len(one), len(other))
        return bool(common) and common / both >= (0.3 if is_contained else 0.9)

    found = equals_wanted([" ".join(words) for words in texts], [", ".join(words) for words in wanted])
    expected = [any(alike(shingles(one), shingles(other)) for other in wanted) for one in texts]
    assert found.tolist() == expected


def test_rows_of_one_template_are_different_rows() -> None:
    """A small pool in which all rows share most of their words with all wanted rows."""
    reviews = [("I loved this film", "positive"), ("It was dull", "negative"), ("Great movie", "positive")]
    texts = [f"Is the following review positive or negative? Review: {text} Answer: {told}" for text, told in reviews]
    pool, wanted = dataset_of(np.eye(3), text=texts), dataset_of(np.eye(3)[:2], text=[texts[0], "Something else"])
    assert TargetSelector(keep=1, target=wanted).select(pool).reasons.tolist() == [
        "equals_wanted",
        "kept",
        "not_chosen",
    ]


def test_exact_contamination_and_advice() -> None:
    texts = [QUESTIONS[0].upper(), f"web: {QUESTIONS[0]}", "Red."]
    pool, wanted = dataset_of(np.eye(3), text=texts), dataset_of(np.eye(3)[:1], text=QUESTIONS[:1])
    kept = {
        kind: TargetSelector(keep=1, target=wanted, contamination=kind).select(pool).left_out.get("equals_wanted")
        for kind in ("drop", "exact", "keep")
    }
    assert kept["drop"].tolist() == [True, True, False]
    assert kept["exact"].tolist() == [True, False, False]
    assert kept["keep"] is None
    with pytest.raises(
        ValueError, match=r"None of the 3 rows may be taken: 3 equals_wanted\. Pass contamination='exact'"
    ):
        TargetSelector(keep=1, target=pool)(pool)
    assert len(TargetSelector(keep=3, target=pool, contamination="keep")(pool)) == 3


def pictures(*colours: int) -> Dataset:
    images = [Pillow.new("RGB", (8, 8), (colour, 0, 0)) for colour in colours]
    shown = Dataset.from_dict({"image": images}, features=Features({"image": Image()}))
    return concatenate_datasets([dataset_of(np.eye(4)[: len(colours)]), shown], axis=1)


def test_pictures_are_compared_by_what_they_show() -> None:
    """Neither by the words of their labels, nor not at all."""
    pool, wanted = pictures(0, 50, 100, 150), pictures(100)
    for labels in (["cat"] * 4, [0, 0, 1, 1]):
        named = pool.add_column("label", labels)
        found = TargetSelector(keep=1, target=wanted.add_column("label", labels[:1])).select(named)
        assert found.left_out["equals_wanted"].tolist() == [False, False, True, False]
    with pytest.raises(ValueError, match=r"the rows have pictures or sound in image\. Pass text_columns="):
        TargetSelector(keep=1, target=["cat"], metric="bm25")(pool)
    pytest.importorskip("bm25s", reason="an extra")
    written = pool.add_column("caption", ["a dog", "a cat", "a bird", "a cow"])
    selector = TargetSelector(keep=1, target=["my cat"], metric="bm25", text_columns=["caption"])
    assert selector(written)["caption"][:] == ["a cat"]


def test_rows_of_token_ids_are_compared_by_these() -> None:
    pool = dataset_of(np.eye(3), input_ids=[[1, 2, 3, 4, 5, 6], [7, 8], [1, 2]])
    wanted = dataset_of(np.eye(3)[:1], input_ids=[[7, 8]])
    assert TargetSelector(keep=1, target=wanted).select(pool).left_out["equals_wanted"].tolist() == [
        False,
        True,
        False,
    ]


def left_out(pool: Dataset, wanted: Any, **options: Any) -> list[int]:
    """Numbers of the rows that equal a wanted one."""
    found = TargetSelector(keep=1, target=wanted, **options).select(pool).left_out
    return np.flatnonzero(found["equals_wanted"]).tolist() if "equals_wanted" in found else [-1]


def test_like_is_compared_with_like(caplog: pytest.LogCaptureFixture) -> None:
    """Pictures with pictures, ids with ids, text with text; what is not compared is said."""
    ids = dataset_of(np.eye(3), input_ids=[[1, 2], [7, 8], [5, 6]], source=["web", "web", "book"])
    assert left_out(ids, dataset_of(np.eye(3)[:1], input_ids=[[7, 8]], source=["web"])) == [1]
    assert left_out(ids, dataset_of(np.eye(3)[:1], source=["web"])) == [0, 1]  # all there is, and it is logged
    named, shown = pictures(0, 50).add_column("caption", ["A red cat", "A dog"]), pictures(50)
    assert left_out(named, shown) == [1]
    assert left_out(named, dataset_of(np.eye(4)[:1], text=["a red cat"])) == [0]
    assert left_out(named, shown.add_column("caption", ["A red cat"]), text_columns=["caption"]) == [0]
    with caplog.at_level(logging.INFO, "hf_dlc"):
        assert left_out(pictures(0, 50), dataset_of(np.eye(4)[:1], text=["a red cat"])) == [-1]
    assert "not looked for: the rows have pictures, the wanted rows have text to compare" in caplog.text
    two = concatenate_datasets(
        [
            pictures(0, 50),
            pictures(9, 9).rename_columns({"image": "mask"}).remove_columns(["dlc_features", "dlc_features_by"]),
        ],
        axis=1,
    )
    assert left_out(two, pictures(50)) == [1]  # by the column that both have
    pytest.importorskip("bm25s", reason="an extra")
    assert left_out(named, shown.add_column("caption", ["A red cat"]), text_columns=["caption"], metric="bm25") == [0]


def test_rows_without_pictures_equal_none() -> None:
    types = Features({"images": List(Image()), "text": Value("string")})
    red = Pillow.new("RGB", (8, 8), (9, 0, 0))
    rows = Dataset.from_dict({"images": [[], None, [red]], "text": ["a", "b", "c"]}, features=types)
    pool = concatenate_datasets([dataset_of(np.eye(3)), rows], axis=1)
    wanted = concatenate_datasets([dataset_of(np.eye(3)[:2]), rows.select([0, 2])], axis=1)
    assert left_out(pool, wanted) == [2]


def test_another_layout_hides_no_wanted_row() -> None:
    question = "How many of the nine apples that Tom bought are left on the table?"
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": "Nine."}]
    pool = dataset_of(np.eye(2), messages=[turns, [{"role": "user", "content": "Hi"}]])
    assert left_out(pool, dataset_of(np.eye(2)[:1], question=[question], answer=["Nine."])) == [0]


def test_what_scoring_and_the_search_of_duplicates_write_is_no_text() -> None:
    pool = dataset_of(np.eye(2), text=["Red", "Blue"], dup_kind=["exact", ""], ticket_status=["new", "old"])
    pool = pool.add_column("dlc_status", ["ok", "ok"]).add_column("dlc_tokens", [1, 1])
    assert text_columns(pool) == ["text", "ticket_status"]  # that of somebody else is one
    assert left_out(pool.remove_columns("ticket_status"), dataset_of(np.eye(2)[:1], text=["Red"])) == [0]


def test_sums_and_scripts_without_spaces() -> None:
    texts = ["What is 2 - 3?", "What is 2 + 3?", "What is 2-3?"]
    assert equals_wanted(texts, ["what is 2 + 3"]).tolist() == [False, True, False]
    pytest.importorskip("bm25s", reason="an extra")
    chinese = ["\u4eca\u5929\u5929\u6c14\u5f88\u597d", "\u6211\u559c\u6b22\u82f9\u679c\u6d3e"]
    selector = TargetSelector(keep=1, target=["\u82f9\u679c\u6d3e"], metric="bm25")
    assert selector.get_indices(texts=chinese).tolist() == [1]


def test_texts_in_any_shape() -> None:
    """A column of a dataset, an array, a series; a table is refused."""
    pytest.importorskip("bm25s", reason="an extra")
    rows = Dataset.from_dict({"text": ["red apple", "blue car", "green tree"]})
    one = rows.select([0])["text"]
    for target in (one, np.array(["red apple"]), pd.Series(["red apple"]), ("red apple",), ["red apple"]):
        found = TargetSelector(keep=1, target=target, metric="bm25", contamination="exact").select(rows)
        assert found.left_out["equals_wanted"].tolist() == [True, False, False]
    with pytest.raises(ValueError, match="target must be the wanted rows, got DataFrame"):
        TargetSelector(keep=1, target=pd.DataFrame({"text": ["a"]}), metric="bm25").select(rows)
    with pytest.raises(ValueError, match=r"target must be one Dataset, got DatasetDict\. Pass one of its splits"):
        TargetSelector(keep=1, target=DatasetDict(train=rows), metric="bm25").select(rows)
    assert TargetSelector(target=iter([])).parameters()["target"] is None


def test_only_the_named_columns_are_compared(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("bm25s", reason="an extra")
    pool = Dataset.from_dict({"text": ["red apple", "blue car", "green tree"], "source": ["tree", "tree", "web"]})
    wanted = Dataset.from_dict({"text": ["a tree"], "source": ["tree"]})
    with caplog.at_level(logging.INFO, "hf_dlc"):
        assert TargetSelector(keep=2, target=wanted, metric="bm25").read_indices(pool).tolist() == [0, 1]
    assert "words are those of the columns text, source; text_columns= names others" in caplog.text
    caplog.clear()
    selector = TargetSelector(keep=1, target=wanted, metric="bm25", text_columns=["text"])
    with caplog.at_level(logging.INFO, "hf_dlc"):
        assert selector.read_indices(pool).tolist() == [2]
    assert "words are those" not in caplog.text
    other = Dataset.from_dict({"question": ["Where is the tree?"]})
    with caplog.at_level(logging.INFO, "hf_dlc"):
        assert replace(selector, target=other).read_indices(pool).tolist() == [2]
    assert "the wanted rows have not all of the columns ['text']: all of their text is read" in caplog.text
    with pytest.raises(ValueError, match=r"text_columns must be columns of text, got \['words'\]"):
        replace(selector, text_columns=["words"])(pool)
    with pytest.raises(ValueError, match="text_columns must be a list of columns, got 'text'"):
        replace(selector, text_columns="text")(pool)


def test_words_need_no_model() -> None:
    pytest.importorskip("bm25s", reason="an extra")
    texts = ["a red apple pie", "a blue car", "the car is red", "bread"]
    selector = TargetSelector(keep=2, target=["apple pie", "car"], metric="bm25", contamination="keep")
    assert selector.get_indices(texts=texts).tolist() == [0, 1]
    rows, wanted = Dataset.from_dict({"text": texts}), Dataset.from_dict({"text": ["bread", "zebra"]})
    assert TargetSelector(keep=1, target=wanted, metric="bm25", contamination="keep")(rows)["text"][:] == ["bread"]
    assert len(TargetSelector(keep=4, target=["zebra"], metric="bm25").get_indices(texts=texts)) == 4


POOL = np.eye(3)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "target must be the wanted rows, got none"),
        ({"target": np.zeros((0, 3))}, "target must hold at least one wanted row"),
        ({"target": np.eye(2)}, "must be of the size of those of the pool, 3, got 2"),
        ({"target": np.full((2, 3), np.nan)}, "none of the 2 wanted rows in target has features"),
        ({"target": np.eye(3), "metric": "best"}, "metric must be one of cosine, gradient, bm25, got 'best'"),
        ({"target": np.eye(3), "mix": 1.0}, r"mix must be a share of the budget, at least 0 and below 1, got 1\.0"),
        ({"target": np.eye(3), "contamination": "no"}, "contamination must be 'drop', 'exact' or 'keep', got 'no'"),
        ({"target": [3, 4], "metric": "bm25"}, "target must be a Dataset with text, or a list of texts"),
        ({"target": ["", " "], "metric": "bm25"}, "none of the 2 wanted rows in target has a word to compare by"),
        ({"target": "apple pie", "metric": "bm25"}, "got the text 'apple pie' in their place. Pass target="),
        ({"target": 7}, "target must be the wanted rows, got int"),
        ({"target": Dataset.from_dict({"a": [1]})}, "target must have the column 'dlc_features' of features, got"),
    ],
)
def test_no_target(parameters: dict[str, Any], message: str) -> None:
    texts = ["a", "b", "c"] if parameters.get("metric") == "bm25" else None
    with pytest.raises(ValueError, match=message):
        TargetSelector(keep=1, **parameters).get_indices(features=POOL, texts=texts)


def test_features_of_another_model() -> None:
    pool, wanted = dataset_of(np.eye(2)), dataset_of(np.eye(2), "position 2 xyz")
    with pytest.raises(
        ValueError, match=r"of the pool \(position 2 abc\) and of the wanted rows \(position 2 xyz\) do not"
    ):
        TargetSelector(keep=1, target=wanted)(pool)
    mixed = Dataset.from_dict({**pool[:], "dlc_features_by": ["position 2 abc", "mean 2 abc"]})
    with pytest.raises(ValueError, match="must be made in one way, got mean 2 abc, position 2 abc"):
        TargetSelector(keep=1, target=wanted)(mixed)
    with pytest.raises(ValueError, match=r"Column 'dlc_features' not found.*Score the rows with features=True"):
        TargetSelector(keep=1, target=wanted)(Dataset.from_dict({"a": [1]}))


def test_rows_without_features(caplog: pytest.LogCaptureFixture) -> None:
    pool = np.array([[1.0, 0.0], [np.nan, 1.0], [0.0, 1.0]])
    target = np.array([[np.nan, 0.0], [0.0, 1.0]])
    with caplog.at_level(logging.INFO, "hf_dlc"):
        assert TargetSelector(keep=2, target=target).get_indices(features=pool).tolist() == [0, 2]
    assert "1 of 3 rows have no score" in caplog.text
    assert "1 of 2 wanted rows have no features" in caplog.text
    with pytest.raises(ValueError, match="1 of 3 rows have no score"):
        TargetSelector(keep=2, target=target, missing="error").get_indices(features=pool)


def test_more_wanted_rows_than_the_budget_and_the_pool_itself() -> None:
    assert TargetSelector(keep=1, target=np.eye(3)).get_indices(features=POOL).tolist() == [0]
    assert TargetSelector(keep=3, target=POOL).get_indices(features=POOL).tolist() == [0, 1, 2]


def test_record_and_sentence() -> None:
    selector: Selector = TargetSelector(keep=2, target=np.eye(3), mix=0.25)
    assert "eye" not in repr(selector)
    record = {"selector": "TargetSelector", **selector.parameters()}
    assert record["target"] == "3 wanted rows"
    again = selector_from_record(record)
    assert again == selector
    assert again.sentence() == (
        "The rows nearest to 3 wanted rows by the cosine of their features were taken, each wanted row in turn; 25% "
        "of the budget was drawn at random from the others."
    )
    with pytest.raises(ValueError, match=r"got the text '3 wanted rows' in their place\. Pass target="):
        again.get_indices(features=POOL)
    assert "the wanted rows" in TargetSelector().sentence()


def test_a_skipped_row_does_not_disturb_inner_products() -> None:
    rng = np.random.default_rng(5)
    pool, wanted = rng.standard_normal((50, 4)), rng.standard_normal((3, 4))
    selector = TargetSelector(keep=6, target=wanted, metric="gradient")
    expected = selector.get_indices(features=pool)
    with_nan = np.concatenate([np.full((1, 4), np.nan), pool])
    assert (selector.get_indices(features=with_nan) - 1).tolist() == expected.tolist()


def test_wanted_rows_keep_their_numbers() -> None:
    """Also where one of them has no features."""
    wanted = dataset_of(np.array([[np.nan, np.nan], [1.0, 0.0], [0.0, 1.0]]), text=["a", "b", "c"])
    pool = dataset_of(np.array([[0.0, 1.0], [1.0, 0.1]]), text=["d", "e"])
    found = TargetSelector(keep=2, target=wanted).select(pool)
    assert found.notes["wanted"].tolist() == [2, 1]


def test_tokens_are_ordered_no_deeper_than_they_must(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    monkeypatch.setattr(
        "hf_dlc.selection.target.take_turns",
        lambda similarity, count, available: counts.append(count) or take_turns(similarity, count, available),
    )
    rng = np.random.default_rng(6)
    pool, tokens = rng.standard_normal((5000, 3)), np.full(5000, 100)
    found = TargetSelector(keep_tokens=1010, target=pool[:2]).get_indices(features=pool, tokens=tokens)
    assert len(found) == 10
    assert counts == [64]


def test_what_groups_leave_over_pays_for_a_row() -> None:
    """Each of two groups has 5 tokens left for rows of 6; together they pay for one."""
    rng = np.random.default_rng(7)
    pool, tokens, groups = rng.standard_normal((400, 3)), np.full(400, 6), ["a", "b"] * 200
    selector = TargetSelector(keep_tokens=778, target=pool[:2], group_by="g")
    assert len(selector.get_indices(groups=groups, features=pool, tokens=tokens)) == 129


@pytest.mark.parametrize(
    "text", ["**hi** [click](http://x.example)", "3 wanted rows\n# Title", "", "many wanted rows"]
)
def test_no_foreign_text_gets_into_a_sentence(text: str) -> None:
    """A record may have been written by anybody, and the card is made of it."""
    selector = selector_from_record({"selector": "TargetSelector", "keep": 2, "target": text})
    assert "nearest to the wanted rows by" in selector.sentence()
    assert "nearest to 1 wanted row by" in TargetSelector(target=np.eye(3)[:1]).sentence()


def test_large_numbers_have_a_direction_too() -> None:
    pool = np.array([[1e25, 0.0], [0.0, 1.0]], dtype=np.float32)
    assert TargetSelector(keep=1, target=np.array([[1.0, 0.0]])).get_indices(features=pool).tolist() == [0]


def test_other_columns_do_not_hide_a_wanted_row() -> None:
    text = "How many of the nine apples that Tom bought are left on the table?"
    wanted = dataset_of(
        np.eye(2), question=[text, "x"], rationale=["Nine are bought and none is eaten.", "y"], source=["q", "q"]
    )
    pool = dataset_of(np.eye(2), messages=[text, "other words altogether"], source=["q", "p"])
    found = TargetSelector(keep=1, target=wanted, text_columns=["messages"]).select(pool)
    assert found.reasons.tolist() == ["equals_wanted", "kept"]


@given(data=st.data())
def test_notes_tell_which_wanted_row_took_a_row(data: st.DataObject) -> None:
    """By the oracle: turn by turn, with its similarity; nothing of rows that were drawn at random."""
    rows, wanted = data.draw(st.integers(2, 20)), data.draw(st.integers(1, 4).flatmap(vectors))
    pool = data.draw(vectors(rows))
    mix, keep = data.draw(st.sampled_from([0.0, 0.5])), data.draw(st.integers(1, rows))
    found = TargetSelector(keep=keep, target=wanted, mix=mix)._select(Candidates(rows, features=pool))
    part = keep - round(keep * mix)
    order, owners = take_turns(VectorSimilarity(pool, wanted), part, np.ones(rows, dtype=bool))
    assert set(order) <= set(found.indices)
    expected = dict(zip(order.tolist(), owners.tolist(), strict=True))
    assert found.notes["wanted"].tolist() == [expected.get(row, -1) for row in found.indices.tolist()]
    cosines = cosines_of(pool, wanted)
    nearness = [cosines[expected[row], row] if row in expected else np.nan for row in found.indices.tolist()]
    np.testing.assert_allclose(found.notes["wanted_similarity"], nearness, atol=1e-5)


def test_notes_of_groups_are_of_their_rows() -> None:
    pool = np.array([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.1, 0.9]])
    selector = TargetSelector(keep=4, target=np.eye(2), group_by="g")
    found = selector._select(Candidates(4, features=pool, groups=["a", "b", "b", "a"]))
    assert found.notes["wanted"].tolist() == [0, 1, 0, 1]  # in each group, both wanted rows take a row
    np.testing.assert_allclose(found.notes["wanted_similarity"], [1, 1, 0.9939, 0.9939], atol=1e-4)


@given(data=st.data())
def test_the_others_are_drawn_evenly(data: st.DataObject) -> None:
    """With `mix`: the rows of the turns, then the first others of an order that looks at nothing but the seed."""
    rows, wanted = data.draw(st.integers(2, 20)), data.draw(st.integers(1, 3).flatmap(vectors))
    pool, seed = data.draw(vectors(rows)), data.draw(st.integers(0, 3))
    keep = data.draw(st.integers(1, rows))
    found = TargetSelector(keep=keep, target=wanted, mix=0.5, seed=seed).get_indices(features=pool)
    near, _ = take_turns(VectorSimilarity(pool, wanted), keep - round(keep * 0.5), np.ones(rows, dtype=bool))
    others = [row for row in drawn_order(rows, seed, None).tolist() if row not in near]
    assert found.tolist() == sorted([*near.tolist(), *others[: keep - len(near)]])


@given(data=st.data())
def test_inner_products_against_all_pairs(data: st.DataObject) -> None:
    rows, wanted = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 3).flatmap(vectors))
    pool = data.draw(vectors(rows))
    found = TargetSelector(keep=1, target=wanted, metric="gradient")._select(Candidates(rows, features=pool))
    products = pool @ (wanted[0] / max(np.linalg.norm(wanted[0]), 1e-30))
    assert products[found.indices[0]] >= products.max() - 1e-5


@given(data=st.data())
def test_words_against_a_formula(data: st.DataObject) -> None:
    """BM25 as Robertson has it, in the variant of Lucene: k1 = 1.5, b = 0.75."""
    pytest.importorskip("bm25s", reason="an extra")
    words = st.lists(st.sampled_from(["ant", "bee", "cat", "dog", "eel"]), min_size=1, max_size=6)
    texts, query = data.draw(st.lists(words, min_size=1, max_size=8)), data.draw(words)
    mean_length = np.mean([len(text) for text in texts])
    scores = np.zeros(len(texts))
    for word in query:
        having = sum(word in text for text in texts)
        rarity = np.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
        for row, text in enumerate(texts):
            count = text.count(word)
            scores[row] += rarity * count / (count + 1.5 * (0.25 + 0.75 * len(text) / mean_length))
    similarity = WordSimilarity([" ".join(text) for text in texts], [" ".join(query)])
    [block] = similarity.blocks()
    np.testing.assert_allclose(block.similarities[0], scores / max(scores.max(), 1e-30), rtol=1e-4, atol=1e-6)
    every = np.arange(len(texts))
    assert similarity.of_pairs(np.zeros(len(texts), int), every).tolist() == block.similarities[0].tolist()


def test_arrays_of_integers_are_features_too() -> None:
    assert TargetSelector(keep=1, target=np.array([[0, 2, 0]])).get_indices(features=POOL).tolist() == [1]
    assert TargetSelector(keep=1, target=[[0, 2, 0]]).get_indices(features=POOL).tolist() == [1]
