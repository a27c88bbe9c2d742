from __future__ import annotations

import inspect
import logging
import re
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, IterableDataset, List, Value
from datasets.utils import disable_progress_bars, tqdm
from transformers import PreTrainedTokenizerBase

from hf_dlc import DLCConfig, DLCScorer, FlexRandSelector
from hf_dlc.masking.levels import TargetMasks
from hf_dlc.scores.columns import score_features
from hf_dlc.tasks.text.task import CausalLMTask
from tests.rows import ALPACA_ROWS, SKIPPED_ROWS
from tests.ways import WAYS


ROWS = [*ALPACA_ROWS[:3], SKIPPED_ROWS["nothing"], ALPACA_ROWS[4]]
DATASET = Dataset.from_list(ROWS)
STATUSES = ["ok", "ok", "ok", "empty_response", "ok"]


@pytest.mark.parametrize("way", WAYS)
class TestColumns:
    @pytest.mark.parametrize("keep_levels", [False, True])
    def test_types(self, make_scorer: Callable, way: str, keep_levels: bool) -> None:
        scored = WAYS[way](make_scorer(keep_levels=keep_levels), DATASET)
        levels = {"dlc_level_confidence": List(Value("float32")), "dlc_level_loss": List(Value("float32"))}
        assert scored.features == Features(
            {
                **DATASET.features,
                "dlc_confidence": Value("float32"),
                "dlc_loss": Value("float32"),
                "dlc_gain": Value("float32"),
                "dlc_tokens": Value("int32"),
                "dlc_status": Value("string"),
                **(levels if keep_levels else {}),
            }
        )
        assert list(scored.features) == [*DATASET.features, *score_features(keep_levels=keep_levels)]

    def test_values(self, make_scorer: Callable, way: str) -> None:
        scored = WAYS[way](make_scorer(keep_levels=True), DATASET)
        assert scored.remove_columns(list(score_features(keep_levels=True)))[:] == DATASET[:]
        assert scored["dlc_status"][:] == STATUSES
        numbers = scored.with_format("numpy")
        confidence, loss = numbers["dlc_confidence"][:], numbers["dlc_loss"][:]
        levels = np.stack(list(numbers["dlc_level_confidence"][:])), np.stack(list(numbers["dlc_level_loss"][:]))
        kept = np.array(STATUSES) == "ok"
        assert levels[0].shape == levels[1].shape == (5, 3)
        np.testing.assert_allclose(confidence[kept], levels[0][kept].mean(axis=1), rtol=1e-6)
        np.testing.assert_allclose(loss[kept], levels[1][kept].mean(axis=1), rtol=1e-6)
        assert ((confidence[kept] > 0) & (confidence[kept] < 1) & (loss[kept] > 0)).all()
        assert (numbers["dlc_tokens"][:] > 0).tolist() == kept.tolist()
        assert np.isnan(levels[0][~kept]).all()

    def test_skipped_rows_are_nan_and_never_null(self, make_scorer: Callable, way: str) -> None:
        scored = WAYS[way](make_scorer(keep_levels=True), DATASET)
        table = scored.data.table
        assert all(table.column(name).null_count == 0 for name in score_features(keep_levels=True))
        for name in ("dlc_confidence", "dlc_loss"):
            assert [value != value for value in table.column(name).to_pylist()] == [False, False, False, True, False]
        assert table.column("dlc_tokens").to_pylist()[3] == 0

    def test_types_do_not_depend_on_which_rows_are_skipped(self, make_scorer: Callable, way: str) -> None:
        scorer = make_scorer(keep_levels=True)
        for rows in ([SKIPPED_ROWS["empty"]], [ROWS[0]], [SKIPPED_ROWS["blank"], ROWS[0]]):
            scored = WAYS[way](scorer, Dataset.from_list(rows, features=DATASET.features))
            assert scored.features == {**DATASET.features, **score_features(keep_levels=True)}

    def test_prefix(self, make_scorer: Callable, way: str) -> None:
        scored = WAYS[way](make_scorer(prefix="easy", keep_levels=True), DATASET)
        assert scored.column_names == [*DATASET.column_names, *score_features("easy", keep_levels=True)]

    def test_scoring_again_replaces_the_columns(self, make_scorer: Callable, way: str) -> None:
        once = WAYS[way](make_scorer(seed=0), DATASET)
        again = WAYS[way](make_scorer(seed=1), once)
        assert again.features == once.features
        assert again["dlc_loss"][0] != once["dlc_loss"][0]
        assert again["dlc_loss"][0] == pytest.approx(WAYS[way](make_scorer(seed=1), DATASET)["dlc_loss"][0], abs=1e-5)

    def test_two_prefixes_side_by_side(self, make_scorer: Callable, way: str) -> None:
        both = WAYS[way](make_scorer(prefix="other"), WAYS[way](make_scorer(), DATASET))
        assert set(score_features("dlc")) | set(score_features("other")) < set(both.column_names)

    def test_a_selector_takes_it(self, make_scorer: Callable, way: str) -> None:
        pruned = FlexRandSelector(keep=0.4, seed=0)(WAYS[way](make_scorer(), DATASET))
        assert len(pruned) == 2
        assert set(pruned["dlc_status"]) == {"ok"}


class TestFormat:
    def test_score_keeps_the_format(self, make_scorer: Callable) -> None:
        dataset = DATASET.with_format("numpy", columns=["output"], output_all_columns=True)
        scored = make_scorer().score(dataset)
        expected = dataset.map(make_scorer(), batched=True).format
        assert {**scored.format, "columns": sorted(scored.format["columns"])} == expected
        assert scored.format["columns"] == ["output", *score_features()]
        assert scored[0]["dlc_loss"].dtype == np.float32

    def test_columns_that_are_not_shown_are_scored(self, make_scorer: Callable) -> None:
        dataset = DATASET.add_column("id", list(range(5))).with_format("torch", columns=["id"])
        assert make_scorer().score(dataset)["dlc_status"][:] == STATUSES

    def test_a_selection_of_rows(self, make_scorer: Callable) -> None:
        scored = make_scorer().score(DATASET.select([4, 3, 0]))
        assert scored["output"][:] == [ROWS[4]["output"], None, ROWS[0]["output"]]
        assert scored["dlc_status"][:] == ["ok", "empty_response", "ok"]


class TestCall:
    def test_a_row_gives_scalars(self, make_scorer: Callable) -> None:
        columns = make_scorer(keep_levels=True)(ROWS[0])
        assert list(columns) == list(score_features(keep_levels=True))
        assert {type(columns[name]) for name in ("dlc_confidence", "dlc_loss")} == {np.float32}
        assert columns["dlc_tokens"].dtype == np.int32
        assert columns["dlc_status"] == "ok"
        assert columns["dlc_level_loss"].shape == (3,)

    def test_a_batch_gives_lists(self, make_scorer: Callable) -> None:
        columns = make_scorer()(DATASET[:])
        assert {len(values) for values in columns.values()} == {5}

    def test_a_batch_of_one_is_a_batch(self, make_scorer: Callable) -> None:
        assert make_scorer()(DATASET[:1])["dlc_status"] == ["ok"]

    def test_other_columns_do_not_matter(self, make_scorer: Callable) -> None:
        scorer = make_scorer()
        row = {**ROWS[0], "id": 3, "tags": ["a", "b"], "vector": np.zeros(3), "dlc_status": "old"}
        assert scorer(row) == scorer(ROWS[0])

    def test_columns_of_other_names(self, make_scorer: Callable) -> None:
        renamed = {"src": ROWS[0]["instruction"], "pos": ROWS[0]["output"]}
        plain = {"instruction": ROWS[0]["instruction"], "output": ROWS[0]["output"]}
        columns = {"src": "instruction", "pos": "output"}
        assert make_scorer(columns=columns)(renamed) == make_scorer()(plain)
        assert make_scorer(template=lambda row: plain)(renamed) == make_scorer()(plain)

    def test_rows_are_not_changed(self, make_scorer: Callable) -> None:
        rows = [dict(row) for row in ROWS]
        make_scorer()(rows)
        assert rows == ROWS

    def test_skipped_rows_alone_leave_the_model_alone(
        self, make_scorer: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scorer = make_scorer(schedule=None)  # which these weights refuse to calibrate
        monkeypatch.setattr(CausalLMTask, "forward", lambda *_: pytest.fail("the model was run"))
        assert scorer(SKIPPED_ROWS["empty"])["dlc_status"] == "empty_response"
        assert scorer.score(Dataset.from_list([SKIPPED_ROWS["empty"]]))["dlc_tokens"][:] == [0]


class TestRowByRow:
    def test_masks_are_made_once(self, make_scorer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        scorer = make_scorer()
        masked = []
        mask = TargetMasks.mask
        monkeypatch.setattr(TargetMasks, "mask", lambda self, *args: masked.append(args) or mask(self, *args))
        DATASET.map(scorer, load_from_cache_file=False)
        assert len(masked) == 2  # the two masked levels, for all rows

    def test_without_memory_it_warns_once(
        self, make_scorer: Callable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("hf_dlc.masking.masker.free_memory", lambda _: 100)
        expected = [make_scorer()([row])["dlc_loss"][0] for row in ALPACA_ROWS[:3]]
        assert not caplog.records
        scorer = make_scorer()
        assert [scorer(row)["dlc_loss"] for row in ALPACA_ROWS[:3]] == pytest.approx(expected, abs=1e-5)
        [record] = caplog.records
        assert "Pass batched=True to dataset.map." in record.getMessage()


class TestWholeDatasets:
    def test_splits(self, make_scorer: Callable) -> None:
        scorer = make_scorer()
        splits = DatasetDict({"train": DATASET, "test": DATASET.select([0])})
        scored = scorer.score(splits)
        assert type(scored) is DatasetDict
        assert {name: len(split) for name, split in scored.items()} == {"train": 5, "test": 1}
        assert scored["test"]["dlc_loss"][0] == pytest.approx(scored["train"]["dlc_loss"][0], abs=1e-5)
        pruned = FlexRandSelector(keep=1, seed=0)(scored)
        assert {name: len(split) for name, split in pruned.items()} == {"train": 1, "test": 1}

    def test_a_stream_is_mapped(self, make_scorer: Callable) -> None:
        stream = DATASET.to_iterable_dataset().map(make_scorer(), batched=True, batch_size=2)
        assert isinstance(stream, IterableDataset)
        assert [row["dlc_status"] for row in stream] == STATUSES

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (DATASET.to_iterable_dataset(), r"got IterableDataset\. Score a stream with stream\.map\(scorer"),
            (
                DatasetDict({"train": DATASET}).map(dict).with_format(None)["train"][:],
                r"got dict\. Make one with Dataset",
            ),
            (ROWS, r"got list\. Make one with Dataset\.from_list"),
            (None, r"got NoneType\. "),
        ],
        ids=["stream", "dict", "list", "None"],
    )
    def test_anything_else_is_refused(self, make_scorer: Callable, data: Any, message: str) -> None:
        with pytest.raises(TypeError, match=r"score needs a datasets\.Dataset or DatasetDict, " + message):
            make_scorer().score(data)

    def test_skipped_and_truncated_rows_are_told(
        self, make_scorer: Callable, caplog: pytest.LogCaptureFixture
    ) -> None:
        rows = [*ROWS, *SKIPPED_ROWS.values(), ALPACA_ROWS[3]]
        with caplog.at_level(logging.WARNING, "hf_dlc"):
            scored = make_scorer(max_length=40).score(Dataset.from_list(rows))
        messages = [record.getMessage() for record in caplog.records]
        assert messages[0] == (
            "5 of 9 rows have no score: empty_response 4 (row 3: column 'output': there is no text), truncated_away 1 "
            "(row 4: max_length=40 ends before token 120, the first target)"
        )
        assert f"{scored['dlc_status'][:].count('truncated')} of 9 rows were cut to max_length" in messages
        assert scored["dlc_status"][-1] == "truncated"

    def test_a_clean_dataset_is_silent(self, make_scorer: Callable, capfd: pytest.CaptureFixture) -> None:
        make_scorer().score(Dataset.from_list(ALPACA_ROWS))
        assert capfd.readouterr() == ("", "")

    def test_progress_is_shown_on_stderr(
        self, make_scorer: Callable, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
    ) -> None:
        module = sys.modules[tqdm.__module__]
        monkeypatch.setattr(module, "HF_DATASETS_DISABLE_PROGRESS_BARS", None)
        monkeypatch.setattr(module, "_hf_datasets_progress_bars_disabled", False)
        make_scorer().score(DATASET)
        shown = capfd.readouterr()
        assert shown.out == ""
        assert "level 3/3, row 4/4" in shown.err
        disable_progress_bars()
        make_scorer().score(DATASET)
        assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("dtype", "tokens"), [(torch.float32, 1024), (torch.bfloat16, 2048), (torch.float16, 2048)])
def test_as_many_bytes_in_a_micro_batch(make_scorer: Callable, dtype: torch.dtype, tokens: int) -> None:
    scorer = make_scorer()
    scorer.model.to(dtype)
    assert scorer.describe()["tokens_per_batch"] == tokens


@pytest.mark.parametrize("way", ["a dataset", "row by row"])
def test_two_threads_score_with_one_model(make_model: Callable, tokenizer: PreTrainedTokenizerBase, way: str) -> None:
    """Each measures the model anew, while the other one masks it."""
    model, configs = make_model("llama"), [DLCConfig(schedule="0, 0.1, 0.3", seed=seed) for seed in (0, 1)]

    def losses(config: DLCConfig) -> list[float]:
        scorer = DLCScorer(model, tokenizer, config)
        if way == "a dataset":
            return list(scorer.score(Dataset.from_list(ALPACA_ROWS), num_threads=1)["dlc_loss"])
        return [scorer(row)["dlc_loss"] for row in ALPACA_ROWS]

    expected, found = [losses(config) for config in configs], ([], [])

    def run(number: int) -> None:
        for _ in range(8):
            try:
                found[number].append(losses(configs[number]))
            except Exception as error:  # pytest sees none of another thread
                found[number].append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(found) == [[losses] * 8 for losses in expected]


def test_a_scorer_is_one_line(make_scorer: Callable) -> None:
    shown = repr(make_scorer(schedule="0, 0.1", scores="confidence,plain_loss"))
    assert re.fullmatch(r"DLCScorer\(.+ \(2 levels\): confidence, plain_loss\)", shown)


def test_describe_is_json(make_scorer: Callable) -> None:
    described = make_scorer().describe()
    assert {"config", "model_digest", "processor_digest", "dtype", "device", "score_version"} < set(described)
    assert (described["model"], described["dtype"], described["device"]) == ("LlamaForCausalLM", "float32", "cpu")
    assert described["tokens_per_batch"] == 1024  # in bfloat16, with half the bytes, twice as many
    assert described["probe_digest"] is None
    assert make_scorer(schedule=None).describe()["probe_digest"]


def test_tokenize_gives_the_tokens_that_are_scored(make_scorer: Callable) -> None:
    """In order, without the rows that have none; the model's own loss on them is that of level 0."""
    rows = Dataset.from_list([ALPACA_ROWS[0], SKIPPED_ROWS["empty"], *ALPACA_ROWS[1:4]])
    scorer = make_scorer(schedule="0")
    encoded = scorer.tokenize(rows)
    assert encoded.column_names == ["input_ids", "labels", "row"]
    assert encoded["row"][:] == [0, 2, 3, 4]
    scored = scorer.score(rows).filter(lambda row: row["dlc_status"] == "ok")
    assert len(encoded) == len(scored) == 4
    for row, columns in zip(encoded, scored, strict=True):
        assert sum(label != -100 for label in row["labels"]) == columns["dlc_tokens"]
        batch = {name: torch.tensor([row[name]]) for name in ("input_ids", "labels")}
        with torch.no_grad():
            assert float(scorer.model(**batch).loss) == pytest.approx(columns["dlc_loss"], abs=1e-4)


@pytest.mark.parametrize("asked", [True, False])
def test_the_loss_of_a_router_is_said_to_be_left_out(
    make_model: Callable, tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture, asked: bool
) -> None:
    model = make_model("mixtral")
    expected = DLCScorer(make_model("mixtral"), tokenizer, DLCConfig(schedule="0"))(ALPACA_ROWS)["dlc_loss"]
    model.config.output_router_logits = asked
    caplog.clear()
    found = DLCScorer(model, tokenizer, DLCConfig(schedule="0"))(ALPACA_ROWS)["dlc_loss"]
    assert ("asks for output_router_logits" in caplog.text) == asked
    np.testing.assert_allclose(found, expected, atol=1e-6)


PUBLIC = [name for name, member in vars(DLCScorer).items() if not name.startswith("_") or name == "__call__"]


@pytest.mark.parametrize("name", [name for name in PUBLIC if callable(getattr(DLCScorer, name))])
def test_docstrings_have_their_sections(name: str) -> None:
    method = getattr(DLCScorer, name)
    signature, doc = inspect.signature(method), inspect.getdoc(method) or ""
    asked = [argument for argument in signature.parameters if argument != "self"]
    _, _, args = doc.partition("Args:")
    assert [argument for argument in asked if f"\n    {argument}" not in args.partition("\n\n")[0]] == []
    assert not asked or ("Returns:" in doc) == (signature.return_annotation != "None")
