"""
Scores and selections of tiny models, to be compared with those that were recorded in `recorded.json`.

    python -m tests.laws.recorded   # records anew, after a change that is meant to change scores
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Pillow

from hf_dlc import DLCConfig, DLCScorer, FlexRandSelector, RandomSelector, TopKSelector
from tests.conftest import build_model, build_tokenizer
from tests.rows import ALPACA_ROWS, SKIPPED_ROWS


RECORDED = Path(__file__).with_name("recorded.json")
SCHEDULE = "0, 0.1, 0.3"
NUMBERS = ("confidence", "loss", "gain", "level_confidence", "level_loss")


def text_rows() -> Dataset:
    """Forty rows of all lengths, of which three have no score."""
    rng = np.random.default_rng(19)
    words = " ".join(row["output"] for row in ALPACA_ROWS).split()
    made_up = [
        {
            "instruction": " ".join(rng.choice(words, rng.integers(1, 12))),
            "input": "" if place % 3 else " ".join(rng.choice(words, rng.integers(1, 20))),
            "output": " ".join(rng.choice(words, rng.integers(1, 40))),
        }
        for place in range(30)
    ]
    return Dataset.from_list([*ALPACA_ROWS, *made_up, *SKIPPED_ROWS.values()])


def image_rows() -> Dataset:
    """Twenty-four noisy pictures of three classes."""
    rng = np.random.default_rng(7)
    pictures = [rng.integers(0, 60 + 90 * (place % 3), size=(40, 40, 3)).astype(np.uint8) for place in range(24)]
    features = Features({"picture": Image(), "label": ClassLabel(names=["dark", "grey", "light"])})
    columns = {"picture": list(map(Pillow.fromarray, pictures)), "label": [place % 3 for place in range(24)]}
    return Dataset.from_dict(columns, features)


def text_scorer(model: str = "llama", **options: Any) -> DLCScorer:
    """A scorer of a tiny language model."""
    config = DLCConfig(**{"schedule": SCHEDULE, "keep_levels": True, "tokens_per_batch": 512, **options})
    return DLCScorer(build_model(model), build_tokenizer(), config)


def image_scorer(**options: Any) -> DLCScorer:
    """A scorer of a tiny ViT by class prototypes."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8, initializer_range=0.2)
        model = transformers.ViTModel(config, add_pooling_layer=False).eval()
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    config = DLCConfig(schedule=SCHEDULE, keep_levels=True, head="prototype", **options)
    return DLCScorer(model, processor, config)


def of_images() -> Dataset:
    """Prototypes are fitted to the pictures that are then scored."""
    rows = image_rows()
    return image_scorer().fit(rows).score(rows)


def of_a_resumed_run() -> Dataset:
    """A run of which one chunk of each level is lost before it goes on."""
    rows, scorer = text_rows(), text_scorer()
    with tempfile.TemporaryDirectory() as folder:
        scorer.score(rows, folder, chunk_seconds=0)
        for level in range(3):
            sorted(Path(folder, "chunks").glob(f"level-0{level}-*"))[0].unlink()
        return scorer.score(rows, folder, chunk_seconds=0)


WAYS: dict[str, Callable[[], Dataset]] = {
    "random": lambda: text_scorer().score(text_rows()),
    "magnitude": lambda: text_scorer(masking="magnitude").score(text_rows()),
    "magnitude, global": lambda: text_scorer(masking="magnitude", scope="global", seed=3).score(text_rows()),
    "geometric": lambda: text_scorer(token_mean="geometric", seed=5).score(text_rows()),
    "gpt2": lambda: text_scorer("gpt2").score(text_rows()),
    "map in batches": lambda: text_rows().map(text_scorer(), batched=True, batch_size=16),
    "map row by row": lambda: text_rows().select(range(8)).map(text_scorer()),
    "resumed": of_a_resumed_run,
    "images": of_images,
}


def arithmetic() -> list[float]:
    """What the bare model gives, without a line of this package: another kind of processor may round otherwise."""
    model = build_model("llama")
    ids = torch.arange(3, 131)[None]
    with torch.inference_mode():
        return model(input_ids=ids, labels=ids).logits[0, :, :8].double().sum(dim=1).tolist()


def selections() -> dict[str, list[int]]:
    """Row numbers by seed, of made-up scores with ties and gaps."""
    rng = np.random.default_rng(11)
    scores = np.round(rng.random(200), 2)
    scores[rng.integers(0, 200, 9)] = np.nan
    groups, tokens = rng.choice(["a", "b", "c"], 200, p=[0.7, 0.2, 0.1]), rng.integers(1, 90, 200)
    selectors = {
        "flexrand": FlexRandSelector(keep=0.3, split=0.75, seed=1),
        "flexrand in groups": FlexRandSelector(keep=40, seed=2, group_by="source", min_per_group=6),
        "flexrand by tokens": FlexRandSelector(keep_tokens=2000, seed=3, group_by="source"),
        "random": RandomSelector(keep=50, seed=4),
        "easiest": TopKSelector(keep=0.2),
        "hardest": TopKSelector(keep=31, which="hardest", group_by="source"),
    }
    return {name: one.get_indices(scores, groups, tokens).tolist() for name, one in selectors.items()}


def numbers(scored: Dataset) -> dict[str, Any]:
    """The columns that scoring wrote, as JSON types; float32 values come back bit for bit."""
    return {name: scored[f"dlc_{name}"][:] for name in (*NUMBERS, "tokens", "status")}


def record() -> dict[str, Any]:
    """All that `recorded.json` holds."""
    return {
        "arithmetic": arithmetic(),
        "scores": {name: numbers(score()) for name, score in WAYS.items()},
        "selections": selections(),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    RECORDED.write_text(json.dumps(record()) + "\n", encoding="utf-8")
