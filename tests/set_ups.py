"""Scorers that together give every score of the table: what a score needs beside its name is told here alone."""

from __future__ import annotations

import atexit
import importlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedModel

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.scores.table import SCORES
from tests.conftest import SCHEDULE, build_model, build_tokenizer
from tests.laws.recorded import image_rows
from tests.rows import ALPACA_ROWS, SKIPPED_ROWS


# Scores that not all models have. A new score stands in none of these lists, so that every set-up must give it until
# somebody says here that one of them cannot.
OF_TEXT = {"ifd", "prompt_gain", "similarity"}
OF_IMAGES = {"knn_confidence"}
OF_HEADS = {"target_shift"}  # prototypes have no loss that could be trained with

# The scores of each set-up. Image models have their trained head, or class prototypes in its place.
SET_UPS: dict[str, tuple[str, ...]] = {
    "text": tuple(name for name in SCORES if name not in OF_IMAGES),
    "classifier": tuple(name for name in SCORES if name not in OF_TEXT),
    "prototype": tuple(name for name in SCORES if name not in OF_TEXT | OF_HEADS),
}
SCORES_OF_SET_UPS = [(set_up, name) for set_up, names in SET_UPS.items() for name in names]
MISSING_IN_SET_UPS = [(set_up, name) for set_up, names in SET_UPS.items() for name in SCORES if name not in names]

FIRST_TOKENS = 5  # fewer than most responses have, so that their beginnings are not the whole
NEIGHBOURS = 4

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


@dataclass(frozen=True)
class SetUp:
    """Rows, the last of which has no score, and a scorer that gives all the scores that such rows can have."""

    name: str
    rows: Dataset
    scorer: DLCScorer

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of all scores that it gives."""
        return SET_UPS[self.name]

    @cached_property
    def scored(self) -> Dataset:
        """The one scoring that others are compared with."""
        return self.scorer.score(self.rows, num_threads=1)

    @cached_property
    def values(self) -> dict[str, np.ndarray]:
        """What it gives, by the name of the score."""
        return self.read(self.scored)

    def read(self, scored: Dataset) -> dict[str, np.ndarray]:
        """Each score of all rows but the last; those that are no numbers, or all alike, would prove nothing."""
        found = {score: column(scored, score) for score in self.scores}
        for score, values in found.items():
            assert np.isnan(values).tolist() == [False] * (len(values) - 1) + [True], score
            assert np.nanstd(values) > 1e-3, score
        return {score: values[:-1] for score, values in found.items()}

    def make(self, **options: Any) -> DLCScorer:
        """Another scorer of the same model, with the same adapters and prototypes."""
        return self.scorer.with_options(**options)


def column(scored: Dataset, score: str) -> np.ndarray:
    """The numbers of a score in a dataset, with NaN for rows that have none."""
    return np.array(scored.with_format(None)[f"dlc_{score}"][:], dtype=np.float32)


@cache
def set_up(name: str) -> SetUp:
    """A set-up by its name, made once in each process: tests share it, and leave it as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _MAKERS[name]()


def conversation(*texts: str) -> dict[str, Any]:
    """Turns of user and assistant by turns."""
    roles = ["user", "assistant"] * (len(texts) // 2)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]}


# Of several turns, so that views of a row have several parts, and of one.
TALKS = [
    *(
        conversation(
            f"Name colour {number}.",
            "Red and yellow. " * number,
            "And the capital of France, which is a city?",
            "Paris, " * (4 - number) + "I think.",
        )
        for number in (1, 2, 3)
    ),
    *(
        conversation(f"{row['instruction']} {row['input']}".strip(), row["output"])
        for row in (*ALPACA_ROWS, SKIPPED_ROWS["empty"])
    ),
]


def _text() -> SetUp:
    """A tiny language model that knows a little of its rows, with a sentence encoder and with adapters."""
    rows, tokenizer, model = Dataset.from_list(TALKS), build_tokenizer(), build_model("llama")
    learned = DLCScorer(model, tokenizer, DLCConfig(schedule="0")).tokenize(rows)
    _teach(model, transformers.DataCollatorForSeq2Seq(tokenizer)([{**row} for row in learned.remove_columns("row")]))
    options = {"schedule": SCHEDULE, "tokens_per_batch": 150, "first_tokens": FIRST_TOKENS, "encoder": encoder()}
    config = DLCConfig(scores=_untrained("text"), keep_levels=True, **options)
    scorer = DLCScorer(model, tokenizer, config)
    return SetUp("text", rows, scorer.adapt(rows.select([0, 4]), epochs=2, num_threads=1))


def _images(head: str) -> SetUp:
    """A tiny ViT on pictures of three classes, one of which has a wrong label, as its trained head says."""
    rows = image_rows().select(range(12))
    labels = [2 if place == 4 else label for place, label in enumerate(rows["label"][:])]
    rows = rows.remove_columns("label").add_column("label", labels).cast(rows.features)
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    model = _vit(head, rows.features["label"].names)
    if head == "classifier":
        pixels = processor(rows["picture"][:], return_tensors="pt")["pixel_values"]
        _teach(model, {"pixel_values": pixels, "labels": torch.tensor(labels)})
    options = {"schedule": "0, 0.2, 0.4", "tokens_per_batch": 5, "knn_neighbours": NEIGHBOURS, "head": head}
    config = DLCConfig(scores=_untrained(head), keep_levels=True, **options)
    scorer = DLCScorer(model, processor, config).fit(rows, num_threads=1)
    if head == "classifier":
        scorer = scorer.adapt(rows.select([0, 1]), epochs=2, num_threads=1)
    broken = Dataset.from_dict({"picture": [None], "label": [0]}, rows.features)
    return SetUp(head, concatenate_datasets([rows, broken]), scorer)


def _untrained(name: str) -> tuple[str, ...]:
    """The scores that a set-up has before adapters are trained: these bring theirs with them."""
    return tuple(score for score in SET_UPS[name] if score not in OF_HEADS)


def _vit(head: str, names: list[str]) -> PreTrainedModel:
    """A model with a head for classes, or the body alone."""
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: place for place, name in enumerate(names)}}
    config = transformers.ViTConfig(**_SIZES, **labels, image_size=32, patch_size=8, initializer_range=0.2)
    return (transformers.ViTForImageClassification if head == "classifier" else transformers.ViTModel)(config).eval()


def _teach(model: PreTrainedModel, batch: Any) -> None:
    """Of an untrained model, hardly a token is the one that it thinks likeliest: a margin would always be below 0."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(12):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def save_encoder(folder: Path, seed: int = 0) -> Path:
    """Save a tiny sentence encoder of random weights into a folder; returns where it is."""
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="an extra")
    tokenizer = build_tokenizer()
    config = transformers.BertConfig(vocab_size=len(tokenizer), pad_token_id=0, initializer_range=0.5, **_SIZES)
    torch.manual_seed(seed)
    transformers.BertModel(config).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    modules = importlib.import_module("sentence_transformers.sentence_transformer.modules")
    words = modules.Transformer(str(folder / "bert"))
    parts = [words, modules.Pooling(words.get_embedding_dimension())]
    sentence_transformers.SentenceTransformer(modules=parts, device="cpu").save(str(folder / "encoder"))
    return folder / "encoder"


@cache
def encoder(seed: int = 0) -> str:
    """The path of a tiny sentence encoder, which is there as long as this process lives."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return str(save_encoder(Path(folder.name), seed))


_MAKERS: dict[str, Callable[[], SetUp]] = {
    "text": _text,
    "classifier": lambda: _images("classifier"),
    "prototype": lambda: _images("prototype"),
}
