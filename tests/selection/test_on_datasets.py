from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets.fingerprint import Hasher

from hf_dlc.selection import FlexRandSelector, RandomSelector, TopKSelector
from hf_dlc.selection.base import Selector


every_selector = pytest.mark.parametrize("selector_class", [FlexRandSelector, RandomSelector, TopKSelector])


def scored_dataset(n_rows: int = 20) -> Dataset:
    rng = np.random.default_rng(0)
    confidence = rng.random(n_rows).astype(np.float32)
    confidence[3] = np.nan
    tokens = rng.integers(5, 50, n_rows)
    tokens[3] = 0
    columns = {
        "text": [f"row {i}" for i in range(n_rows)],
        "topic": [["law", "code", None][i % 3] for i in range(n_rows)],
        "dlc_confidence": confidence,
        "dlc_loss": -np.log(confidence),
        "dlc_tokens": tokens,
    }
    features = {"text": Value("string"), "topic": Value("string"), "dlc_confidence": Value("float32")}
    features |= {"dlc_loss": Value("float32"), "dlc_tokens": Value("int32")}
    return Dataset.from_dict(columns, features=Features(features))


@every_selector
def test_returns_the_rows_of_get_indices_in_dataset_order(selector_class: Callable[..., Selector]) -> None:
    dataset = scored_dataset()
    subset = selector_class(keep=0.4)(dataset)
    indices = selector_class(keep=0.4).get_indices(dataset["dlc_confidence"][:])
    assert subset["text"][:] == [f"row {i}" for i in indices]
    assert len(subset) == 8
    assert subset.features == dataset.features


@every_selector
def test_reads_groups_and_tokens(selector_class: Callable[..., Selector]) -> None:
    dataset = scored_dataset()
    subset = selector_class(keep_tokens=200, group_by="topic")(dataset)
    indices = selector_class(keep_tokens=200).get_indices(
        dataset["dlc_confidence"][:], dataset["topic"][:], dataset["dlc_tokens"][:]
    )
    assert subset["text"][:] == [f"row {i}" for i in indices]
    assert 0 < sum(subset["dlc_tokens"][:]) <= 200


def test_other_columns_can_be_named() -> None:
    dataset = scored_dataset().rename_columns({"dlc_confidence": "a_confidence", "dlc_tokens": "length"})
    assert len(FlexRandSelector(keep=5, column="a_confidence")(dataset)) == 5
    assert FlexRandSelector(keep_tokens=100, column="dlc_loss", tokens_column="length")(dataset).num_rows > 0
    with pytest.raises(ValueError, match=r"got column='length'. Pass easy='high'"):
        FlexRandSelector(keep=5, column="length")(dataset)


def test_confidence_and_loss_rank_alike() -> None:
    dataset = scored_dataset()
    by_loss = TopKSelector(keep=5, column="dlc_loss")(dataset)
    assert by_loss["text"][:] == TopKSelector(keep=5)(dataset)["text"][:]


def test_class_labels_and_integers_with_none_are_groups() -> None:
    dataset = scored_dataset().remove_columns("topic")
    labels = dataset.add_column("label", [i % 2 for i in range(20)], feature=ClassLabel(names=["no", "yes"]))
    assert sorted(FlexRandSelector(keep=10, group_by="label")(labels)["label"][:]) == [0] * 5 + [1] * 5
    sources = dataset.add_column("source", [[7, None][i % 2] for i in range(20)])
    assert FlexRandSelector(keep=10, group_by="source")(sources)["source"][:].count(None) == 5


def test_double_precision_scores_are_not_rounded() -> None:
    dataset = Dataset.from_dict({"dlc_confidence": [0.5, 0.5 + 1e-12, 0.5 + 2e-12]})
    assert TopKSelector(keep=1)(dataset)["dlc_confidence"][:] == [0.5 + 2e-12]


def test_null_scores_are_skipped_rows() -> None:
    dataset = Dataset.from_dict({"dlc_confidence": [0.5, None, 0.7]})
    assert FlexRandSelector(keep=2)(dataset)["dlc_confidence"][:] == [0.5, 0.7]


@every_selector
def test_formats_and_earlier_selections_do_not_matter(selector_class: Callable[..., Selector]) -> None:
    dataset = scored_dataset(40).select(range(39, -1, -1))
    expected = selector_class(keep=7)(dataset)["text"][:]
    for formatted in (dataset.with_format("numpy"), dataset.with_format("pandas"), dataset.flatten_indices()):
        subset = selector_class(keep=7)(formatted)
        assert subset.format["type"] == formatted.format["type"]
        assert subset.with_format(None)["text"][:] == expected


@every_selector
def test_dataset_dict_goes_split_by_split(selector_class: Callable[..., Selector]) -> None:
    splits = DatasetDict(train=scored_dataset(40), test=scored_dataset(20))
    subset = selector_class(keep=0.5)(splits)
    assert type(subset) is DatasetDict
    assert {name: len(split) for name, split in subset.items()} == {"train": 20, "test": 10}
    assert subset["test"]["text"][:] == selector_class(keep=0.5)(splits["test"])["text"][:]
    with pytest.raises(ValueError, match="Split 'test': keep=30 asks for 30 rows, but the 19 rows"):
        selector_class(keep=30)(splits)


@every_selector
def test_streams_are_refused_with_a_way_out(selector_class: Callable[..., Selector], tmp_path: Path) -> None:
    stream = scored_dataset().to_iterable_dataset()
    with pytest.raises(TypeError, match="needs a map-style Dataset, got IterableDataset") as caught:
        selector_class(keep=5)(stream)
    assert "Dataset.from_generator(lambda: iter(stream), features=stream.features)" in str(caught.value)
    stored = Dataset.from_generator(lambda: iter(stream), features=stream.features, cache_dir=str(tmp_path))
    assert len(selector_class(keep=5)(stored)) == 5


@every_selector
@pytest.mark.parametrize("kind", ["DataFrame", "Table", "list"])
def test_what_is_no_dataset_is_refused_with_a_way_out(selector_class: Callable[..., Selector], kind: str) -> None:
    dataset = scored_dataset()
    others = {"DataFrame": dataset.to_pandas(), "Table": pa.table(dataset.to_dict()), "list": dataset.to_list()}
    with pytest.raises(TypeError, match=rf"needs a Dataset, got {kind}\. Make one with Dataset"):
        selector_class(keep=5)(others[kind])


@every_selector
def test_row_numbers_are_those_of_one_split(selector_class: Callable[..., Selector]) -> None:
    splits = DatasetDict(test=scored_dataset())
    with pytest.raises(TypeError, match=r"a DatasetDict with the splits \['test'\]\. Pass one split: .*'test'"):
        selector_class(keep=5).select(splits)


def test_missing_columns_are_named() -> None:
    dataset = scored_dataset().remove_columns(["dlc_confidence", "dlc_tokens"])
    have = r"not found; the dataset has \['text', 'topic', 'dlc_loss'\]\. "
    with pytest.raises(
        ValueError, match=f"Column 'dlc_confidence' {have}Run dataset.map.scorer. first or pass column="
    ):
        FlexRandSelector(keep=0.5)(dataset)
    with pytest.raises(ValueError, match=f"Column 'class' {have}Pass group_by="):
        FlexRandSelector(keep=0.5, column="dlc_loss", group_by="class")(dataset)
    with pytest.raises(ValueError, match=f"Column 'dlc_tokens' {have}.* pass tokens_column="):
        FlexRandSelector(keep_tokens=50, column="dlc_loss")(dataset)
    with pytest.raises(ValueError, match=f"Column 'my_confidence' {have}.* pass column="):
        RandomSelector(keep=0.5, column="my_confidence")(dataset)


def test_random_rows_of_a_dataset_without_scores(caplog: pytest.LogCaptureFixture) -> None:
    unscored = Dataset.from_dict({"text": [f"row {i}" for i in range(20)]})
    with caplog.at_level(logging.INFO, logger="hf_dlc.selection"):
        assert len(RandomSelector(keep=20)(unscored)) == 20
    assert "all rows may be drawn" in caplog.text
    # The order is drawn over all rows, so skipped rows only drop out of it.
    scored = scored_dataset()
    taken = set(RandomSelector(keep=10)(unscored)["text"][:])
    assert "row 3" not in RandomSelector(keep=19)(scored)["text"][:]
    assert taken - {"row 3"} <= set(RandomSelector(keep=10)(scored)["text"][:])


@every_selector
def test_a_dataset_without_rows(selector_class: Callable[..., Selector]) -> None:
    # An empty dataset that went through map has no score column, so the rows are looked at first.
    for empty in (Dataset.from_dict({"text": []}), scored_dataset().select([])):
        with pytest.raises(ValueError, match="The dataset has no rows"):
            selector_class(keep=0.5)(empty)


@every_selector
def test_text_is_not_a_score(selector_class: Callable[..., Selector]) -> None:
    with pytest.raises(ValueError, match="scores must be one number for each row"):
        selector_class(keep=5, column="text")(scored_dataset())


@every_selector
def test_fingerprints_are_stable(selector_class: Callable[..., Selector]) -> None:
    dataset = scored_dataset()
    first, second = (selector_class(keep=0.5)(dataset) for _ in range(2))
    assert first._fingerprint == second._fingerprint
    assert Hasher.hash(first) == Hasher.hash(second)
    rows = [int(text.removeprefix("row ")) for text in first["text"]]
    assert first._fingerprint == dataset.select(rows)._fingerprint  # that of a list; an array would have another
    assert selector_class(keep=0.4)(dataset)._fingerprint != first._fingerprint
    assert Hasher.hash(selector_class(keep=0.5)) == Hasher.hash(selector_class(keep=0.5))
