"""Law 9: what cannot be scored is an error that names the fix, or a counted row with a reason; nothing is lost."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Value
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_dlc import DLCConfig, DLCScorer, FlexRandSelector, TopKSelector
from hf_dlc.scores.columns import score_features
from tests.conftest import build_tokenizer
from tests.insides import task_of
from tests.rows import ALPACA_ROWS, SKIPPED_ROWS
from tests.ways import WAYS


GOOD = ALPACA_ROWS[0]
ASKED = {"role": "user", "content": "What?"}
SAID = {"role": "assistant", "content": "The fox."}
ALPACA_FEATURES = Features(dict.fromkeys(("instruction", "input", "output"), Value("string")))

ways = pytest.mark.parametrize("way", WAYS)


def reference(scorer: DLCScorer) -> float:
    return float(scorer([GOOD])["dlc_loss"][0])


class TestSizes:
    def test_no_rows(self, make_scorer: Callable) -> None:
        empty = Dataset.from_dict({name: [] for name in ALPACA_FEATURES}, features=ALPACA_FEATURES)
        scored = make_scorer(keep_levels=True).score(empty)
        assert len(scored) == 0
        assert scored.features == {**ALPACA_FEATURES, **score_features(keep_levels=True)}
        for batched in (False, True):  # `datasets` never calls a function on no rows
            assert len(empty.map(make_scorer(), batched=batched)) == 0

    def test_no_rows_in_a_batch(self, make_scorer: Callable) -> None:
        columns = make_scorer()({"instruction": [], "output": []})
        assert {name: len(values) for name, values in columns.items()} == dict.fromkeys(score_features(), 0)

    def test_no_rows_to_select_from(self, make_scorer: Callable) -> None:
        scored = make_scorer().score(
            Dataset.from_dict({name: [] for name in ALPACA_FEATURES}, features=ALPACA_FEATURES)
        )
        with pytest.raises(ValueError, match="has no rows, so there is nothing to select from"):
            FlexRandSelector(keep=0.5)(scored)

    @ways
    def test_one_row(self, make_scorer: Callable, way: str) -> None:
        scored = WAYS[way](make_scorer(), Dataset.from_list([GOOD]))
        assert scored["dlc_status"][:] == ["ok"]

    @ways
    def test_a_row_of_100k_tokens(self, make_scorer: Callable, way: str) -> None:
        endless = "fox ~ " * 25_000
        scorer = make_scorer(max_length=128)
        assert len(scorer.processor(endless)["input_ids"]) > 100_000 / 2
        rows = [{**GOOD, "output": endless}, GOOD, {**GOOD, "input": endless}]
        scored = WAYS[way](scorer, Dataset.from_list(rows))
        assert scored["dlc_status"][:] == ["truncated", "ok", "truncated_away"]
        assert 0 < scored["dlc_tokens"][0] < 128
        assert scored["dlc_loss"][1] == pytest.approx(reference(scorer), abs=1e-4)


class TestRows:
    @ways
    @pytest.mark.parametrize("rows", SKIPPED_ROWS.values(), ids=SKIPPED_ROWS)
    def test_empty_responses(self, make_scorer: Callable, way: str, rows: dict[str, Any]) -> None:
        scorer = make_scorer()
        dataset = Dataset.from_list([rows, GOOD, rows], features=ALPACA_FEATURES)
        scored = WAYS[way](scorer, dataset)
        assert scored["dlc_status"][:] == ["empty_response", "ok", "empty_response"]
        assert scored["dlc_loss"][1] == pytest.approx(reference(scorer), abs=1e-4)
        assert all(map(math.isnan, [scored["dlc_loss"][0], scored["dlc_confidence"][2]]))

    @pytest.mark.parametrize(
        ("row", "status"),
        [
            ({"input_ids": [5, 6, 7], "labels": [-100] * 3}, "no_target"),
            ({"input_ids": [5], "labels": [5]}, "no_target"),  # nothing predicts a first token
            ({"input_ids": [], "labels": []}, "no_target"),
            ({"messages": [ASKED]}, "no_target"),
            ({"messages": []}, "no_target"),
            ({"messages": [ASKED, {"role": "assistant", "content": " "}]}, "empty_response"),
            ({"messages": [ASKED, {"role": "assistant"}]}, "empty_response"),
            ({"prompt": "a", "completion": ""}, "empty_response"),
            ({"text": "\n"}, "empty_response"),
            ({"input_ids": [5, 6], "labels": [5, 7]}, "invalid_row"),
            ({"input_ids": [5, 10**6], "labels": [5, 10**6]}, "invalid_row"),
            ({"input_ids": [5, -1], "labels": [5, -1]}, "invalid_row"),
            ({"messages": [{"content": "no role"}]}, "invalid_row"),
            ({"messages": "no list"}, "invalid_row"),
            ({"instruction": None, "output": "b"}, "invalid_row"),
            ({"instruction": "a", "output": True}, "invalid_row"),
        ],
        ids=str,
    )
    def test_rows_without_targets(self, make_scorer: Callable, row: dict[str, Any], status: str) -> None:
        for columns in (make_scorer()(row), {name: one[0] for name, one in make_scorer()([row]).items()}):
            assert columns["dlc_status"] == status
            assert np.isnan(columns["dlc_confidence"])
            assert np.isnan(columns["dlc_loss"])
            assert columns["dlc_tokens"] == 0

    def test_a_row_that_is_all_prompt(self, make_scorer: Callable) -> None:
        rows = [{"messages": [ASKED, ASKED]}, {"messages": [ASKED, SAID]}, {"messages": [ASKED]}]
        scored = make_scorer().score(Dataset.from_list(rows))
        assert scored["dlc_status"][:] == ["no_target", "ok", "no_target"]

    def test_mixed_types_in_a_column(self, make_scorer: Callable) -> None:
        scorer = make_scorer()
        batch = {
            "instruction": ["a", 3, None, ["x"], GOOD["instruction"]],
            "output": ["b", "b", "b", "b", GOOD["output"]],
        }
        assert scorer(batch)["dlc_status"] == ["ok", "ok", "invalid_row", "invalid_row", "ok"]
        rows = [{"instruction": asked, "output": said} for asked, said in zip(*batch.values(), strict=True)]
        scored = Dataset.from_list(rows, on_mixed_types="use_json").map(scorer, batched=True)
        assert scored["dlc_status"][:] == scorer(batch)["dlc_status"]

    @ways
    def test_odd_characters(self, make_scorer: Callable, way: str) -> None:
        texts = ["a\x00b", "\x00", "\ufeffa", "e\u0301", "\U0010ffff", "\u202eabc", "\r\n\ta"]
        dataset = Dataset.from_list([{**GOOD, "output": text} for text in texts])
        scored = WAYS[way](make_scorer(), dataset)
        assert set(scored["dlc_status"]) == {"ok"}
        assert np.isfinite(scored.with_format("numpy")["dlc_loss"][:]).all()

    def test_half_a_surrogate_pair(self, make_scorer: Callable) -> None:
        # Arrow refuses these; a stream or a call may bring them.
        scorer = make_scorer()
        rows = [{"instruction": "a\ud800", "output": "b\udfff c"}, {"instruction": "a\ufffd", "output": "b\ufffd c"}]
        columns = scorer(rows)
        assert columns["dlc_status"] == ["ok", "ok"]
        assert columns["dlc_loss"][0] == pytest.approx(columns["dlc_loss"][1], abs=1e-5)


class TestLayouts:
    @ways
    def test_unknown_columns(self, make_scorer: Callable, way: str) -> None:
        with pytest.raises(ValueError, match=r"No known layout fits the columns \['cat', 'dog'\].*Rename them, pass"):
            WAYS[way](make_scorer(), Dataset.from_list([{"dog": "a", "cat": "b"}]))

    @ways
    def test_a_missing_column(self, make_scorer: Callable, way: str) -> None:
        with pytest.raises(ValueError, match=r"No known layout fits the columns \['input', 'instruction'\]"):
            WAYS[way](make_scorer(), Dataset.from_list([{"instruction": "a", "input": "b"}]))
        with pytest.raises(ValueError, match=r"layout 'messages' needs the column .*'messages'.*pass `columns=`"):
            WAYS[way](make_scorer(layout="messages"), Dataset.from_list([GOOD]))

    @ways
    def test_a_renamed_column_that_is_not_there(self, make_scorer: Callable, way: str) -> None:
        scorer = make_scorer(columns={"question_text": "instruction"})
        with pytest.raises(ValueError, match=r"`columns` names \['question_text'\], but the columns are"):
            WAYS[way](scorer, Dataset.from_list([GOOD]))

    def test_unknown_layout_name(self, make_scorer: Callable) -> None:
        with pytest.raises(ValueError, match=r"`layout` must be 'auto' or one of \[.*got 'alpacca'"):
            make_scorer(layout="alpacca")(GOOD)


class TestTokenizers:
    def scorer(self, llama: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **options: Any) -> DLCScorer:
        return DLCScorer(llama, tokenizer, DLCConfig(**{"schedule": "0, 0.1", **options}))

    def test_without_a_padding_token(self, llama: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        expected = self.scorer(llama, tokenizer)(ALPACA_ROWS)["dlc_loss"].tolist()
        tokenizer.pad_token = None
        assert self.scorer(llama, tokenizer)(ALPACA_ROWS)["dlc_loss"].tolist() == expected
        assert tokenizer.pad_token is None

    def test_without_a_chat_template(self, llama: PreTrainedModel) -> None:
        plain = build_tokenizer(chat_template=None)
        scorer = self.scorer(llama, plain)
        assert scorer(GOOD) == self.scorer(llama, plain, template="alpaca")(GOOD)
        assert scorer(GOOD)["dlc_status"] == "ok"
        with pytest.raises(
            ValueError, match=r"Messages need a chat template, but the tokenizer .* has no chat template"
        ):
            scorer({"messages": [ASKED, SAID]})
        with pytest.raises(ValueError, match=r"has no chat template\. Pass `template='path/to/chat_template\.jinja'`"):
            self.scorer(llama, plain, template="chat")

    def test_a_template_file_that_is_not_there(self, make_scorer: Callable) -> None:
        with pytest.raises(ValueError, match=r"there is no file 'chat\.jinja'"):
            make_scorer(template="chat.jinja")

    def test_a_callable_that_returns_no_row(self, make_scorer: Callable) -> None:
        with pytest.raises(TypeError, match="callable `template` must return a dict, got str"):
            make_scorer(template=lambda row: row["output"])(GOOD)

    def test_without_an_end_of_sequence_token(
        self, llama: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        tokenizer.eos_token = None
        with pytest.raises(ValueError, match=r"Set `tokenizer\.eos_token`"):
            self.scorer(llama, tokenizer)({"text": "The fox."})

    def test_tokens_that_the_model_has_no_embedding_for(
        self, llama: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        tokenizer.add_tokens([f"<|new{i}|>" for i in range(llama.config.vocab_size)])
        scorer = self.scorer(llama, tokenizer)
        assert scorer(GOOD)["dlc_status"] == "ok"
        with pytest.raises(ValueError, match=r"wrote the token id \d+, but LlamaForCausalLM has only 384 embeddings"):
            scorer({**GOOD, "output": "The <|new300|>"})


class TestNan:
    @ways
    def test_a_model_that_gives_no_number(self, make_scorer: Callable, way: str) -> None:
        scorer = make_scorer(keep_levels=True)
        scorer.model.lm_head.weight.data[:] = float("nan")
        scored = WAYS[way](scorer, Dataset.from_list([*ALPACA_ROWS, SKIPPED_ROWS["blank"]]))
        assert scored["dlc_status"][:] == ["nan_score"] * len(ALPACA_ROWS) + ["empty_response"]
        assert scored["dlc_tokens"][:] == [0] * len(scored)
        assert np.isnan(np.stack(list(scored.with_format("numpy")["dlc_level_loss"][:]))).all()
        with pytest.raises(ValueError, match="None of the 8 rows has a score"):
            FlexRandSelector(keep=1)(scored)

    @ways
    def test_a_model_that_gives_no_number_for_some_rows(self, make_scorer: Callable, way: str) -> None:
        scorer = make_scorer()
        expected = scorer(ALPACA_ROWS)["dlc_loss"]
        unknown = scorer.processor("🙏", add_special_tokens=False)["input_ids"]
        hit = [bool(set(unknown) & set(row.input_ids)) for row in task_of(scorer).encode(ALPACA_ROWS)]
        assert sum(hit) == 1
        scorer.model.get_input_embeddings().weight.data[unknown] = float("nan")
        scored = WAYS[way](scorer, Dataset.from_list(ALPACA_ROWS))
        assert scored["dlc_status"][:] == ["nan_score" if is_hit else "ok" for is_hit in hit]
        kept = ~np.array(hit)
        np.testing.assert_allclose(np.array(scored["dlc_loss"][:])[kept], expected[kept], atol=1e-4)
        assert len(FlexRandSelector(keep=6, seed=0)(scored)) == 6

    def test_a_model_that_fails_at_one_level_only(self, make_scorer: Callable) -> None:
        scorer = make_scorer(keep_levels=True, tokens_per_batch=10**5)  # a pass a level
        forward, level = task_of(scorer).forward, []

        def overflowing(rows: Any, *rest: Any) -> Any:
            found = forward(rows, *rest)
            if rest:  # others look at the model
                level.append(len(level))
            if len(level) == 3:
                found.values["loss"] = found.values["loss"] + math.inf
            return found

        task_of(scorer).forward = overflowing
        columns = scorer(ALPACA_ROWS)
        assert set(columns["dlc_status"]) == {"partly_nan_score"}
        assert np.isfinite(columns["dlc_confidence"]).all()  # the scores that need no loss stand
        assert np.isnan([columns["dlc_loss"], columns["dlc_gain"]]).all()

    def test_scores_of_nan_in_a_selection(self) -> None:
        scored = Dataset.from_dict({"dlc_confidence": [0.5, float("nan"), None, 0.1]})
        assert TopKSelector(keep=2)(scored)["dlc_confidence"][:] == [0.5, 0.1]
        with pytest.raises(ValueError, match="2 of 4 rows have no score"):
            TopKSelector(keep=2, missing="error")(scored)
        with pytest.raises(ValueError, match=r"keep=3 asks for 3 rows, but the 2 rows that have a score"):
            TopKSelector(keep=3)(scored)


class TestPlaces:
    def test_a_missing_model_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"there is no model at .*nowhere"):
            DLCScorer.from_pretrained(tmp_path / "nowhere")

    def test_a_folder_without_a_model(self, tmp_path: Path) -> None:
        with pytest.raises((OSError, ValueError), match=r"config\.json|model_type"):
            DLCScorer.from_pretrained(tmp_path, device="cpu")

    def test_splits_one_of_which_is_bad(self, make_scorer: Callable) -> None:
        splits = DatasetDict({"good": Dataset.from_list([GOOD]), "bad": Dataset.from_list([{"dog": "a"}])})
        with pytest.raises(ValueError, match=r"No known layout fits the columns \['dog'\]"):
            make_scorer().score(splits)

    def test_an_offloaded_model(self, llama: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        llama.model.layers[0].mlp.to("meta")
        with pytest.raises(ValueError, match=r"(?i)meta|offload"):
            DLCScorer(llama, tokenizer)

    def test_rows_that_are_no_rows(self, make_scorer: Callable) -> None:
        for rows in ("text", 3, None, [GOOD, "text"]):
            with pytest.raises(TypeError, match="`rows` must be a row, a batch"):
                make_scorer()(rows)

    def test_an_error_leaves_the_model_usable(self, make_scorer: Callable) -> None:
        scorer = make_scorer()
        expected = reference(scorer)
        with pytest.raises(ValueError, match="No known layout"):
            scorer({"dog": "a"})
        assert reference(scorer) == expected
        assert not any(torch.isnan(parameter).any() for parameter in scorer.model.parameters())
