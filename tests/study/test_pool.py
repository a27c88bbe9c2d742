"""Rows of a study: none of them is in two places, and too few or too long ones are told."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from hf_dlc import DLCScorer
from hf_dlc.study.options import StudyArguments
from hf_dlc.study.pool import StudyRows, read_rows, text_columns_of
from tests.rows import many_rows, write_rows
from tests.study.conftest import ROWS


NOTHING = {"instruction": "Say nothing.", "input": "", "output": ""}
LONG = {**ROWS[0], "output": "fox " * 80}
WANTED = many_rows(80)[60:]  # others than ROWS


@pytest.fixture
def read(scorer: DLCScorer, tmp_path: Path) -> Callable[..., StudyRows]:
    """`read(rows, target=other_rows, eval_rows=3)` writes files and reads what the options name."""
    numbers = itertools.count()

    def make(
        rows: Iterable[dict[str, Any]],
        most_rows: int | None = None,
        reader: DLCScorer = scorer,
        **options: Any,
    ) -> StudyRows:
        files = {"dataset": rows} | {
            name: options.pop(name) for name in ("target", "test", "choices") if name in options
        }
        paths = {name: write_rows(tmp_path / f"{name}{next(numbers)}.jsonl", found) for name, found in files.items()}
        named = {name: str(path) for name, path in paths.items()}
        return read_rows(StudyArguments(**{"eval_rows": 10, **options, **named}), reader, most_rows)

    return make


def texts_of(rows: Iterable[dict[str, Any]]) -> list[str]:
    return [f"{row['instruction']} {row['input']} {row['output']}" for row in rows]


def test_test_rows_are_held_out(read: Callable[..., StudyRows]) -> None:
    found = read(ROWS, eval_rows=15, pool_rows=20)
    assert (len(found.pool), len(found.test), found.wanted, found.questions) == (20, 15, None, None)
    pool, test = set(texts_of(found.pool)), set(texts_of(found.test))
    assert len(pool | test) == 35
    assert pool | test < set(texts_of(ROWS))
    again, other = (read(ROWS, eval_rows=15, pool_rows=20, study_seed=seed) for seed in (0, 1))
    assert texts_of(again.pool) == texts_of(found.pool)
    assert texts_of(other.pool) != texts_of(found.pool)
    assert texts_of(found.pool) == [text for text in texts_of(ROWS) if text in pool]  # in their order
    everything = read(ROWS, eval_rows=15)
    assert len(everything.pool) == len(ROWS) - 15


def test_copies_of_a_row_are_on_one_side(read: Callable[..., StudyRows]) -> None:
    """What is repeated stays in the pool as often: that is what some arms are there for."""
    found = read([*ROWS[:24], *ROWS[:10], *ROWS[:5]], eval_rows=8)
    pool, test = texts_of(found.pool), texts_of(found.test)
    assert not set(pool) & set(test)
    assert len(test) == len(set(test)) == 8
    assert sorted(pool) == sorted(text for text in texts_of([*ROWS[:24], *ROWS[:10], *ROWS[:5]]) if text not in test)
    assert len(pool) > len(set(pool))
    assert len(read([*ROWS[:20], *ROWS[:10]], eval_rows=8, pool_rows=12).pool) == 12


def test_rows_without_text_or_with_much_are_left_out(
    read: Callable[..., StudyRows], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    given = {"longest_row": 100, "eval_rows": 5}
    for options in ({}, {"test": [*WANTED[:5], NOTHING, LONG]}, {"target": [*WANTED[:10], NOTHING]}):
        found = read([NOTHING, *ROWS[:20], LONG], **given, **options)
        texts = texts_of([*found.pool, *found.test])
        assert not {*texts_of([NOTHING]), *texts_of([LONG])} & set(texts)
        assert len(found.test) == 5
        assert len(found.pool) == (15 if not options else 20)
    assert len(read([NOTHING, *ROWS[:20], LONG], eval_rows=5).pool) == 16  # the long one too
    for name, count in (("test rows", 7), ("rows to choose from", 22)):
        assert f"2 of {count} {name} have more than 100 tokens or cannot be scored, and are left out" in caplog.text


def test_too_few_rows_are_told(read: Callable[..., StudyRows]) -> None:
    with pytest.raises(
        ValueError, match="at least 21 rows to choose from and 1 to measure by are needed, got 14 and 6"
    ):
        read([*ROWS[:20], NOTHING], eval_rows=8, pool_rows=21)
    with pytest.raises(ValueError, match=r"got 2 and 0 that .*not suspect\. Pass --test, or fewer --pool-rows"):
        read(ROWS[:2])
    with pytest.raises(ValueError, match=r"needed, got 20 and 0"):
        read([{**row, "bad": True} for row in ROWS[:20]], flag_column="bad")
    with pytest.raises(ValueError, match="got none among 20"):
        read(ROWS, test=WANTED, longest_row=2)
    with pytest.raises(ValueError, match="target must have at least 2 different rows, got 1"):
        read(ROWS, target=[WANTED[0], WANTED[0], NOTHING])


def test_half_of_the_wanted_rows_are_test_rows(read: Callable[..., StudyRows]) -> None:
    """Each text in one half, whatever stands beside it."""
    copies = [{**row, "id": number} for number, row in enumerate([*WANTED, *WANTED[:6]])]
    found = read(ROWS, target=copies, eval_rows=50)
    wanted, test = texts_of(found.wanted), texts_of(found.test)
    assert (len(wanted), len(test), len(found.pool)) == (10, 10, 60)
    assert sorted(wanted + test) == sorted(texts_of(WANTED))
    assert texts_of(read(ROWS, target=copies, study_seed=1).wanted) != wanted
    few = read(ROWS, target=copies, eval_rows=4, pool_rows=7)
    assert (len(few.wanted), len(few.test), len(few.pool)) == (10, 4, 7)


def test_no_test_row_is_trained_on_or_wanted(read: Callable[..., StudyRows], caplog: pytest.LogCaptureFixture) -> None:
    """Also where the pool has a row from another source, or marked, or without a column."""
    pool = [{**row, "source": "web", "suspect": False} for row in ROWS[:20]]
    test = [*({**row, "source": "book"} for row in ROWS[15:23]), *({**row, "source": "book"} for row in WANTED[:6])]
    with caplog.at_level("INFO"):
        found = read(pool, test=test, target=WANTED[4:], eval_rows=50)
    assert texts_of(found.test) == texts_of([*ROWS[15:23], *WANTED[:4]])
    assert "2 of 14 test rows are wanted rows, and left out" in caplog.text
    assert "5 of 20 rows to choose from are test rows, and left out" in caplog.text
    assert texts_of(found.wanted) == texts_of(WANTED[4:])
    assert texts_of(found.pool) == texts_of(ROWS[:15])


def test_wanted_rows_of_the_dataset_itself(read: Callable[..., StudyRows]) -> None:
    """They leave the pool: some arms would take them, and others may not."""
    found = read(ROWS, target=ROWS[:8], eval_rows=50)
    assert sorted(texts_of(found.wanted) + texts_of(found.test)) == sorted(texts_of(ROWS[:8]))
    assert texts_of(found.pool) == texts_of(ROWS[8:])


def test_columns_of_a_test_row_stay(read: Callable[..., StudyRows]) -> None:
    """A pool without inputs takes nothing from what is measured."""
    pool = [{name: row[name] for name in ("instruction", "output")} for row in ROWS[:20]]
    found = read(pool, test=WANTED[:5])
    assert texts_of(found.test) == texts_of(WANTED[:5])
    assert any(row["input"] for row in found.test)


def test_rows_to_measure_by_that_are_all_trained_on(read: Callable[..., StudyRows]) -> None:
    with pytest.raises(ValueError, match="the rows to choose from must differ from the test rows, got 3"):
        read(ROWS[:3], test=ROWS, eval_rows=100)
    with pytest.raises(ValueError, match="the test rows must differ from the wanted rows, got 4"):
        read(ROWS, test=WANTED[:4], target=WANTED)


def test_of_many_rows_a_part_is_read(read: Callable[..., StudyRows], monkeypatch: pytest.MonkeyPatch) -> None:
    read_of: list[int] = []
    tokenize = DLCScorer.tokenize
    monkeypatch.setattr(
        DLCScorer, "tokenize", lambda self, rows, *rest: read_of.append(len(rows)) or tokenize(self, rows, *rest)
    )
    assert len(read(ROWS, eval_rows=5, pool_rows=10).pool) == 10
    assert max(read_of) == 30
    assert len(read(ROWS, eval_rows=5, most_rows=10).pool) == 10
    assert max(read_of) == 30
    assert len(read(ROWS, eval_rows=5).pool) == 55


def test_where_most_rows_are_too_long_more_are_read(
    read: Callable[..., StudyRows], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    long = [{**row, "output": row["output"] + " fox" * 80} for row in many_rows(300)[60:]]
    found = read([*long, *ROWS], eval_rows=5, pool_rows=20, longest_row=100)
    assert (len(found.pool), len(found.test)) == (20, 5)
    [(out, read_rows)] = re.findall(r"(\d+) of (\d+) rows have more than 100 tokens or cannot be scored", caplog.text)
    assert int(out) > 75
    assert int(read_rows) < 300


def test_few_rows_are_shared_between_pool_and_test(read: Callable[..., StudyRows]) -> None:
    """A third of them are measured by at most, or what the pool does not need."""
    assert [len(part) for part in (read(ROWS).pool, read(ROWS).test)] == [50, 10]
    found = read(ROWS[:12], eval_rows=200)
    assert [len(found.pool), len(found.test)] == [8, 4]
    found = read(ROWS[:12], eval_rows=200, pool_rows=5)
    assert [len(found.pool), len(found.test)] == [5, 7]
    planned = read(ROWS[:12], eval_rows=200, pool_rows=8)  # as many as were found before: the same rows
    assert texts_of(planned.test) == texts_of(read(ROWS[:12], eval_rows=200).test)


def test_no_test_row_is_suspect(read: Callable[..., StudyRows]) -> None:
    """What is suspect would speak for models that were trained on the like."""
    marked = [{**row, "bad": number % 2 == 0} for number, row in enumerate(ROWS)]
    found = read(marked, flag_column="bad", eval_rows=15)
    assert not any(found.test["bad"])
    assert sum(found.pool["bad"]) == 30
    assert len(found.pool) == 45


def test_test_rows_are_of_all_groups_alike(read: Callable[..., StudyRows]) -> None:
    """As long as half of a group stays in the pool, whatever is suspect."""
    sources = ["a"] * 40 + ["b"] * 16 + [None] * 4
    marked = [{**row, "source": source} for row, source in zip(ROWS, sources, strict=True)]
    found = read(marked, group_by="source", eval_rows=9)
    assert sorted(map(str, found.test["source"])) == ["None"] * 2 + ["a"] * 4 + ["b"] * 3
    found = read(marked, group_by="source", eval_rows=18)
    assert Counter(found.test["source"]) == {"a": 8, "b": 8, None: 2}
    flagged = [{**row, "bad": row["source"] == "b"} for row in marked]
    found = read(flagged, group_by="source", flag_column="bad", eval_rows=9)
    assert Counter(found.test["source"]) == {"a": 7, None: 2}


@pytest.mark.parametrize(("yes", "no"), [(True, False), (1, 0), ("True", "False")])
def test_flags_are_read_as_they_are_meant(read: Callable[..., StudyRows], yes: Any, no: Any) -> None:
    """A CSV file has text alone."""
    marked = [{**row, "bad": yes if number % 3 == 0 else no} for number, row in enumerate(ROWS)]
    found = read(marked, flag_column="bad", test=WANTED)
    assert found.pool["bad"][:] == [number % 3 == 0 for number in range(60)]
    with pytest.raises(ValueError, match="flag_column must hold true and false"):
        read([{**row, "bad": "perhaps"} for row in ROWS], flag_column="bad")


def test_what_an_earlier_scoring_has_written_is_not_used(
    read: Callable[..., StudyRows], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    written = {"dlc_loss": 1.0, "dlc_tokens": 3, "dup_of": -1, "auto_features": [1.0], "dlc_bad": False}
    found = read(
        [{**row, **written} for row in ROWS], target=[{**row, **written} for row in WANTED], flag_column="dlc_bad"
    )
    assert set(found.pool.column_names) == {*ROWS[0], "dlc_bad"}
    assert set(found.wanted.column_names) == {*ROWS[0]}
    assert "not used, as the study makes its own: dlc_loss, dlc_tokens, dup_of, auto_features" in caplog.text


def test_wanted_and_test_rows_may_have_a_layout_of_their_own(
    read: Callable[..., StudyRows], scorer: DLCScorer
) -> None:
    """Where the user names the columns of the pool; other text of theirs is not compared with it."""
    named = scorer.with_options(columns={"src": "instruction", "tgt": "output"})
    pool = [{"src": row["instruction"], "tgt": row["output"]} for row in ROWS]
    other = [{"question": row["instruction"], "answer": row["output"], "source": "web"} for row in WANTED]
    found = read(
        pool,
        target=[*other, {**other[0], "question": ROWS[0]["instruction"], "answer": ROWS[0]["output"]}],
        eval_rows=50,
        reader=named,
    )
    assert sorted([len(found.wanted), len(found.test)]) == [10, 11]
    assert found.wanted.column_names == ["question", "answer"]
    assert len(found.pool) == 59  # the same text, whatever the columns are called


@pytest.mark.parametrize("name", ["group_by", "flag_column"])
def test_columns_that_are_not_there(read: Callable[..., StudyRows], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be one of instruction, input, output, got 'source'"):
        read(ROWS, **{name: "source"})


def test_questions_come_with_the_rows(read: Callable[..., StudyRows]) -> None:
    questions = [{"question": "2 + 2 =", "choices": ["4", "5"], "answer": 0}]
    assert read(ROWS, choices=questions).questions.to_list() == questions


def test_no_question_is_answered_in_the_pool(read: Callable[..., StudyRows], caplog: pytest.LogCaptureFixture) -> None:
    """Whatever its columns are called; a wrong answer in the pool tells nobody the right one."""
    caplog.set_level("INFO")
    asked = [{"question": f"Is it {word}?", "choices": ["yes", "no"], "answer": 0} for word in ("red", "blue", "big")]
    answers = [
        {"instruction": f"Is it {word}?", "input": "", "output": said}
        for word, said in (("red", "yes"), ("big", "no"))
    ]
    found = read([*ROWS, *answers], choices=asked, eval_rows=1)
    assert found.questions.to_list() == asked[1:]
    assert "1 of 3 choices are rows to choose from or wanted rows, and left out" in caplog.text
    with pytest.raises(ValueError, match="the choices must differ from the rows to choose from or wanted rows, got 1"):
        read([*ROWS, *answers], choices=asked[:1], eval_rows=1)


def test_columns_of_text(read: Callable[..., StudyRows], scorer: DLCScorer) -> None:
    marked = [{**row, "source": "web", "suspect": True} for row in ROWS]
    assert text_columns_of(read(marked).pool, scorer) == ["instruction", "output", "input"]
