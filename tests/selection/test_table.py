"""The table of selectors: what is known of each, and that a new one needs nothing but a line in it."""

from __future__ import annotations

import doctest
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from datasets import Dataset

from hf_dlc import (
    ClusterSelector,
    CutSelector,
    FlexRandSelector,
    KCenterSelector,
    RandomSelector,
    TargetSelector,
    TopKSelector,
    TransferSelector,
)
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.pipeline.compare import compare_selections
from hf_dlc.pipeline.options import SelectionArguments, make_selector
from hf_dlc.selection import table
from hf_dlc.selection.base import Selector
from hf_dlc.selection.candidates import Candidates
from hf_dlc.selection.table import SELECTORS, selector_from_record


NAMES = ["flexrand", "random", "easiest", "hardest", "cut", "target", "transfer", "k_center", "cluster"]


@dataclass
class LongestSelector(Selector):
    """Take the rows with the most target tokens."""

    name: ClassVar[str] = "longest"
    needs: ClassVar[tuple[str, ...]] = ("tokens",)

    def _pools(self, candidates: Candidates, group: str | None, quota: int) -> list[np.ndarray]:
        return [np.argsort(-candidates.tokens, kind="stable")]

    def _rule(self, column: str) -> str:
        return "The rows with the longest responses were taken"


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SELECTORS, "longest", LongestSelector())


def scored_rows() -> Dataset:
    columns = {"confidence": [0.1, 0.4, 0.3, float("nan"), 0.2], "loss": [5.0, 2.0, 3.0, float("nan"), 4.0]}
    dataset = Dataset.from_dict({f"dlc_{name}": values for name, values in columns.items()})
    return dataset.add_column("dlc_tokens", [3, 9, 1, 0, 7]).add_column("topic", list("abaab"))


def test_names_are_those_of_the_command_line() -> None:
    assert {name: selector.name for name, selector in SELECTORS.items()} == {name: name for name in SELECTORS}
    assert list(SELECTORS)[: len(NAMES)] == NAMES  # a new selector goes behind them


SENTENCES = [
    (
        FlexRandSelector(keep=0.5, split=0.75, group_by="topic"),
        "Half of the budget was drawn at random from the easiest 75% of the rows by <dlc_confidence>, half from the "
        "others, within the groups of <topic>.",
    ),
    (RandomSelector(keep=3), "Rows were drawn at random."),
    (RandomSelector(keep=3, group_by="topic"), "Rows were drawn at random, within the groups of <topic>."),
    (TopKSelector(keep=3), "The easiest rows by <dlc_confidence> were taken."),
    (TopKSelector(keep=3, which="hardest", column="x_loss"), "The hardest rows by <x_loss> were taken."),
    (
        CutSelector(keep=3, cut=0.25),
        "The hardest 25% of the rows by <dlc_ifd> were left out, and rows were drawn at random from the others.",
    ),
    (
        TransferSelector(keep=3, groups_from="topic", group_by="source", group_shares="equal"),
        "The classes of rows with the most votes of the wanted rows were taken whole, the last one in part, within "
        "the groups of <source> in equal parts.",
    ),
    (
        KCenterSelector(keep=3, group_by="source", group_shares={"a": 0.5, "b": 0.5}),
        "Rows were taken one by one, each the farthest from all rows taken before it by the cosine of features, "
        "within the groups of <source> in the parts that were asked for.",
    ),
    (
        ClusterSelector(keep=3, clusters=5, drop_duplicates=True),
        "Of each of 5 clusters of the features, the easiest rows by <dlc_confidence> were taken, in proportion to its "
        "size; of rows that say the same one was kept at most.",
    ),
]


@pytest.mark.parametrize(("selector", "sentence"), SENTENCES, ids=lambda value: getattr(value, "name", ""))
def test_sentences(selector: Selector, sentence: str) -> None:
    assert selector.sentence("<{}>".format) == sentence
    assert selector.sentence() == sentence.replace("<", "`").replace(">", "`")


@pytest.mark.parametrize("selector", [selector for selector, _ in SENTENCES], ids=lambda selector: selector.name)
def test_a_selector_comes_back_from_its_record(selector: Selector) -> None:
    record = {"selector": type(selector).__name__, **selector.parameters()}
    assert selector_from_record(json.loads(json.dumps(record))) == selector
    assert selector_from_record({**record, "of_a_later_version": 3}) == selector


def test_records_of_other_selectors() -> None:
    assert selector_from_record({"selector": "FlexRandSelector", "keep": 2, "split": None}).split == 0.5
    for parameters in (
        {"selector": "TopKSelector", "which": "<b>"},
        {"selector": "FlexRandSelector", "split": "half"},
    ):
        with pytest.raises(
            ValueError, match=r"must be 'easiest' or 'hardest', got '<b>'|strictly between 0 and 1, got"
        ):
            selector_from_record(parameters)
    for record in ({"selector": "MySelector", "keep": 0.5}, {}):
        with pytest.raises(ValueError, match="selector must be one of FlexRandSelector, RandomSelector, TopKSelector"):
            selector_from_record(record)


def test_options_are_parameters() -> None:
    options = SelectionArguments(
        keep="5", selection_split=0.75, selection_seed=3, easy="low", group_by="topic", min_per_group=1
    )
    shared = {"keep": 5, "column": "x_confidence", "tokens_column": "x_tokens"}
    shared |= {"group_by": "topic", "min_per_group": 1}
    shared |= {"features_column": "x_features"}
    made = [make_selector(replace(options, selector=name), "x") for name in NAMES]
    assert made == [
        FlexRandSelector(**shared, split=0.75, seed=3, easy="low"),
        RandomSelector(**shared, seed=3),
        TopKSelector(**shared, seed=3, easy="low"),
        TopKSelector(**shared, seed=3, easy="low", which="hardest"),
        CutSelector(**{**shared, "column": "x_ifd"}, split=0.75, seed=3, easy="low"),
        TargetSelector(**shared, seed=3),
        TransferSelector(**shared, split=0.75, seed=3, easy="low"),
        KCenterSelector(**shared, seed=3),
        ClusterSelector(**shared, seed=3, easy="low"),
    ]
    others = {"metric": "bm25", "mix": 0.5, "contamination": "keep", "cut": "auto", "then": "stratified", "strata": 3}
    others |= {"clusters": 7, "choose": "random", "cluster_shares": "density", "temperature": 2.0}
    others |= {"mapping": "labels", "groups_from": "topic", "group_shares": "a=0.25,b=0.75", "drop_duplicates": True}
    made = [make_selector(SelectionArguments(selector=name, group_by="topic", **others)) for name in NAMES[4:]]
    assert {selector.drop_duplicates for selector in made} == {True}
    assert made[0].group_shares == {"a": 0.25, "b": 0.75}
    assert (made[0].cut, made[0].then, made[0].strata) == ("auto", "stratified", 3)
    assert (made[1].metric, made[1].mix, made[1].contamination) == ("bm25", 0.5, "keep")
    assert (made[2].mapping, made[2].groups_from, made[2].clusters) == ("labels", "topic", 7)
    assert (made[4].clusters, made[4].choose, made[4].shares, made[4].temperature) == (7, "random", "density", 2.0)
    assert {selector.keep for selector in SELECTORS.values()} == {None}  # those of the table are left alone


def test_a_selector_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text("selector: best\n", encoding="utf-8")
    for arguments in (["--selector", "best"], ["--config", str(tmp_path / "options.yaml")]):
        with pytest.raises(SystemExit) as caught:
            parse_config_and_args([SelectionArguments], arguments)
        assert caught.value.code == 2
        message = capsys.readouterr().err
        assert "best" in message
        assert all(name in message for name in SELECTORS)


# ---- a new selector ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("longest")
def test_a_new_selector_needs_a_line_and_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    [options] = parse_config_and_args([SelectionArguments], ["--selector", "longest", "--keep", "2"])
    selector = make_selector(options)
    assert isinstance(selector, LongestSelector)
    assert selector.read_indices(scored_rows()).tolist() == [1, 4]
    found = {row["selector"]: row for row in compare_selections(scored_rows(), options)}
    assert list(found)[-1] == "longest"
    assert found["longest"]["tokens"] == 16
    record = {"selector": "LongestSelector", **asdict(selector)}
    assert selector_from_record(record).sentence() == "The rows with the longest responses were taken."
    with pytest.raises(SystemExit):
        parse_config_and_args([SelectionArguments], ["--help"])
    assert f"{{auto,{','.join(SELECTORS)}}}" in re.sub(r"\s+", "", capsys.readouterr().out)


def test_a_selector_gets_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [3, 9, 1, 0, 7]
    assert LongestSelector(keep=2).get_indices([0.1, 0.4, 0.3, np.nan, 0.2], tokens=tokens).tolist() == [1, 4]
    unscored = scored_rows().select_columns("dlc_tokens")
    # No column says that the row is skipped.
    with pytest.raises(ValueError, match=r"1 or more whole tokens, got 0\.0 in row 3"):
        LongestSelector(keep=2, column=None).read_indices(unscored)
    assert LongestSelector(keep=2, column=None).read_indices(unscored.select([0, 1, 2])).tolist() == [0, 1]
    with pytest.raises(ValueError, match="LongestSelector needs the tokens of every row: pass tokens="):
        LongestSelector(keep=2).get_indices([0.1, 0.4])
    monkeypatch.setattr(LongestSelector, "needs", ("features",))
    with pytest.raises(ValueError, match="needs the features of every row: pass features="):
        LongestSelector(keep=2).get_indices([0.1, 0.4])
    monkeypatch.undo()
    with pytest.raises(ValueError, match="Column 'length' not found"):
        LongestSelector(keep=2, tokens_column="length").read_indices(scored_rows())


@pytest.mark.parametrize("make", [LongestSelector, *(type(SELECTORS[name]) for name in NAMES[:5])])
def test_what_a_selector_sees_of_a_group(make: Callable[..., Selector], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Candidates] = {}
    pools = make._pools

    def watch(self: Selector, candidates: Candidates, group: str | None, quota: int) -> list[np.ndarray]:
        seen[group] = candidates
        return pools(self, candidates, group, quota)

    monkeypatch.setattr(make, "_pools", watch)
    make(keep=2, column="dlc_confidence", group_by="topic").read_indices(scored_rows())
    assert {group: one.rows for group, one in seen.items()} == {"str:a": 3, "str:b": 2}
    np.testing.assert_array_equal(seen["str:a"].scores, [0.1, 0.3, np.nan])
    assert seen["str:a"].scored.tolist() == [True, True, False]
    assert all(one.groups is None for one in seen.values())
    assert (seen["str:b"].tokens is not None) == (make is LongestSelector)


def test_candidates_of_a_group_have_their_features() -> None:
    every = Candidates(3, features=np.arange(6.0).reshape(3, 2))
    assert every.of_group(np.array([2, 0])).features.tolist() == [[4, 5], [0, 1]]
    assert every.of_group(np.array([2])).scored.tolist() == [True]


def test_examples() -> None:
    result: Any = doctest.testmod(table)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must name a column at least"),
        (5, "must be names of columns, as 'a,b'"),
        ("[a", "must be names of columns, as 'a,b' or a JSON list, got '.a'"),
    ],
)
def test_columns_of_text_that_are_none(text: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"text_columns {message}"):
        SelectionArguments(selector="target", text_columns=text)
