"""The score `similarity`: texts of a row, and the sentence encoder that embeds them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase

from hf_dlc.tasks.text.encoding import RowEncoder
from hf_dlc.tasks.text.sentences import TextPair
from hf_dlc.tasks.text.views import Views
from tests.rows import ALPACA_ROWS
from tests.set_ups import save_encoder
from tests.ways import WAYS


TALK = {
    "messages": [
        {"role": "system", "content": "You are a painter."},
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Red."},
        {"role": "user", "content": "Another?"},
        {"role": "assistant", "content": "Yellow."},
    ]
}


def texts_of(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], **options: Any) -> TextPair:
    encoder = RowEncoder(tokenizer, **options)
    [pair] = Views(encoder).of(encoder.encode([row]), "texts").rows
    return pair


def test_texts_of_a_row(tokenizer: PreTrainedTokenizerBase) -> None:
    pair = texts_of(tokenizer, ALPACA_ROWS[2])
    assert pair.response == "5"
    assert "Add." in pair.prompt
    assert "2 and 3" in pair.prompt
    assert "<|" not in pair.prompt + pair.response


def test_texts_of_a_conversation(tokenizer: PreTrainedTokenizerBase) -> None:
    pair = texts_of(tokenizer, TALK)
    assert pair.response.split() == ["Red.", "Yellow."]
    assert "Another?" in pair.prompt
    assert "assistant" not in pair.prompt


def test_the_constant_head_is_no_part_of_the_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    pair = texts_of(tokenizer, ALPACA_ROWS[0], template="alpaca")
    assert pair.prompt == ALPACA_ROWS[0]["instruction"]
    assert pair.response == ALPACA_ROWS[0]["output"]


def test_without_a_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [
        {"input_ids": [1, 40, 41], "labels": [-100, 40, 41]},  # a special token
        {"input_ids": [1, 2, 40, 41], "labels": [-100, -100, 40, 41]},
        {"instruction": "", "input": "", "output": "Out of nothing."},
    ]
    for row in rows:
        pair = texts_of(tokenizer, row)
        assert (pair.status, pair.length) == ("no_prompt", 0)


def test_without_a_text_in_the_response(tokenizer: PreTrainedTokenizerBase) -> None:
    pair = texts_of(tokenizer, {"input_ids": [40, 41, 42, 2], "labels": [-100, -100, -100, 2]})
    assert (pair.status, pair.length) == ("no_target", 0)


def test_without_the_package(make_scorer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(
        ImportError, match=r"needs the package sentence-transformers. Install it with .*\[similarity\]"
    ):
        make_scorer(scores="similarity", encoder="anywhere").score(Dataset.from_list(ALPACA_ROWS))


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A tiny sentence encoder of random weights, as a folder of this test alone."""
    return save_encoder(tmp_path)


@pytest.mark.parametrize("way", WAYS)
def test_it_is_the_cosine_of_the_encoder(
    make_scorer: Callable, tokenizer: PreTrainedTokenizerBase, encoder: Path, way: str
) -> None:
    from sentence_transformers import SentenceTransformer

    rows = Dataset.from_list([*ALPACA_ROWS, {"instruction": "Say.", "input": "", "output": ""}])
    scorer = make_scorer(scores="similarity,confidence", encoder=str(encoder))
    scored = WAYS[way](scorer, rows)
    model, pairs = SentenceTransformer(str(encoder), device="cpu"), []
    for row in ALPACA_ROWS:
        pair = texts_of(tokenizer, row)
        pairs.append(model.encode([pair.prompt, pair.response], normalize_embeddings=True))
    expected = [float(prompt @ response) for prompt, response in pairs]
    found = np.array(scored.with_format(None)["dlc_similarity"][:])
    np.testing.assert_allclose(found[:-1], expected, atol=1e-5)
    assert np.isnan(found[-1])
    assert np.std(expected) > 0.01


def test_the_scoring_model_is_not_run_for_it_alone(make_scorer: Callable, encoder: Path) -> None:
    scorer = make_scorer(scores="similarity", encoder=str(encoder), schedule=None)
    body = scorer.model.base_model.layers[0]
    rows = Dataset.from_list(ALPACA_ROWS)
    scorer.score(rows)  # which also measures the model
    calls: list[int] = []
    body.register_forward_hook(lambda *_: calls.append(1))
    scorer.score(rows)
    assert not calls


def test_another_encoder_is_another_score(make_scorer: Callable, encoder: Path) -> None:
    """Its weights count, not only its name."""
    options = {"scores": "similarity", "encoder": str(encoder)}
    before = Hasher.hash(make_scorer(**options))
    assert Hasher.hash(make_scorer(**options)) == before
    model = transformers.BertModel.from_pretrained(encoder)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[5] += 1
    model.save_pretrained(encoder)
    assert Hasher.hash(make_scorer(**options)) != before
    assert Hasher.hash(make_scorer(encoder="one")) != Hasher.hash(make_scorer(encoder="another"))
