"""The table of facts: every option stands in it, and what it says of an option is so."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets.fingerprint import Hasher
from transformers import AutoImageProcessor, ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.scorer import fingerprint
from hf_dlc.scorer.fingerprint import FACTS, Fact, calibration_key, description, fit_key, identity, pickled_state
from tests.conftest import SHARED
from tests.rows import ALPACA_ROWS


OPTIONS = {option.name for option in fields(DLCConfig)}
OF_OPTIONS = {fact.name: fact for fact in FACTS if fact.name in OPTIONS}

# Another value of each option than the default.
OTHER: dict[str, Any] = {
    "masking": "magnitude",
    "schedule": "0, 0.2",
    "calibration_shares": [1.0, 0.5],
    "levels": "fast",
    "scope": "global",
    "target_modules": ".*mlp.*",
    "seed": 1,
    "token_mean": "geometric",
    "max_length": 64,
    "template": "alpaca",
    "layout": "alpaca",
    "columns": {"q": "instruction"},
    "tokens_per_batch": 99,
    "scores": ("confidence", "ifd"),
    "alone": "raw",
    "first_tokens": 8,
    "encoder": "sentence-transformers/all-mpnet-base-v2",
    "features": "mean",
    "features_size": 4,
    "keep_levels": True,
    "prefix": "easy",
    "dtype": "bfloat16",
    "head": "classifier",
    "pooling": "mean",
    "prototype_logits": "temperature",
    "knn_neighbours": 3,
}


@pytest.fixture
def state_of(make_scorer: Callable) -> Callable[..., fingerprint.ScorerState]:
    def make(**options: Any) -> fingerprint.ScorerState:
        return make_scorer(**{"schedule": None, **options}).parts.state()

    return make


def missing(table: tuple[Fact, ...], options: set[str]) -> set[str]:
    """Options without a line, and lines that read an option which is not there."""
    lines = {fact.name for fact in table if fact.read is None}
    return lines ^ options


class TestTable:
    def test_every_option_stands_in_it_and_nothing_else_is_read_as_one(self) -> None:
        assert missing(FACTS, OPTIONS) == set()

    def test_an_option_without_a_line_is_noticed(self) -> None:
        assert missing(FACTS, {*OPTIONS, "warp"}) == {"warp"}
        assert missing(FACTS, OPTIONS - {"seed"}) == {"seed"}

    def test_each_line_is_there_once(self) -> None:
        assert set(Counter(fact.name for fact in FACTS).values()) == {1}

    def test_what_changes_a_score_changes_what_map_writes(self) -> None:
        of_a_run = {"rows", "day"}  # which are no matter of the scorer
        for fact in FACTS:
            assert fact.columns is not False or fact.scores is False or fact.name in of_a_run, fact.name

    def test_each_option_has_another_value_here(self) -> None:
        assert OTHER.keys() == OPTIONS
        assert all(value != getattr(DLCConfig(), name) for name, value in OTHER.items())


class TestOptions:
    @pytest.mark.parametrize("name", sorted(OPTIONS))
    def test_the_identity_of_a_journal(self, state_of: Callable, name: str) -> None:
        changes = identity(state_of(**{name: OTHER[name]})) != identity(state_of())
        assert changes == OF_OPTIONS[name].scores

    @pytest.mark.parametrize("name", sorted(OPTIONS))
    def test_what_datasets_hashes(self, make_scorer: Callable, name: str) -> None:
        changes = Hasher.hash(make_scorer(**{"schedule": None, name: OTHER[name]})) != Hasher.hash(
            make_scorer(schedule=None)
        )
        assert changes == OF_OPTIONS[name].columns

    # Not the type in which weights are loaded, for these are here, nor a fixed schedule, which has no such key.
    @pytest.mark.parametrize("name", sorted(OPTIONS - {"dtype", "schedule"}))
    def test_the_key_of_a_calibrated_schedule(self, state_of: Callable, name: str) -> None:
        changes = calibration_key(state_of(**{name: OTHER[name]})) != calibration_key(state_of())
        assert changes == (OF_OPTIONS[name].calibration is not False)

    @pytest.mark.parametrize("name", sorted(OPTIONS - {"dtype"}))
    def test_the_key_of_a_fit(self, state_of: Callable, name: str) -> None:
        changes = fit_key(state_of(**{name: OTHER[name]})) != fit_key(state_of())
        assert changes == (OF_OPTIONS[name].fit is not False)

    @pytest.mark.parametrize("name", sorted(OPTIONS))
    def test_the_description(self, state_of: Callable, name: str) -> None:
        assert description(state_of(**{name: OTHER[name]})) != description(state_of())


class TestOtherFacts:
    def test_weights_are_in_all_of_them(self, make_scorer: Callable) -> None:
        scorer = make_scorer(schedule=None)
        before = _all_of(scorer)
        with torch.no_grad():
            scorer.model.model.norm.weight[3] += 1
        assert [now == then for now, then in zip(_all_of(scorer), before, strict=True)] == [False] * 5

    @pytest.mark.parametrize("place", [0, 17, 31])
    def test_a_weight_that_is_written_round_autograd_is_seen(self, make_scorer: Callable, place: int) -> None:
        """The cheap marker of the masker, which looks at a few weights, would not see all of these."""
        scorer = make_scorer()
        before = Hasher.hash(scorer), identity(scorer.parts.state())
        scorer.model.lm_head.weight.data[place, place] += 1
        assert Hasher.hash(scorer) != before[0]
        assert identity(scorer.parts.state()) != before[1]

    def test_numbers_of_another_type(self, make_scorer: Callable) -> None:
        scorer = make_scorer(schedule=None)
        before = _all_of(scorer)
        scorer.model.to(torch.bfloat16)
        assert [now == then for now, then in zip(_all_of(scorer), before, strict=True)] == [False] * 5
        assert identity(scorer.parts.state())["dtype"] == "bfloat16"

    def test_a_state_hashes_the_weights_once(self, make_scorer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        digests, digest = [], fingerprint.model_digest
        monkeypatch.setattr(fingerprint, "model_digest", lambda model: digests.append(1) or digest(model))
        state = make_scorer().parts.state()
        identity(state), pickled_state(state), description(state), calibration_key(state), fit_key(state)
        assert len(digests) == 1

    def test_a_run_with_a_journal_hashes_the_weights_once(
        self, make_scorer: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        from datasets import Dataset

        digests, digest = [], fingerprint.model_digest
        monkeypatch.setattr(fingerprint, "model_digest", lambda model: digests.append(1) or digest(model))
        make_scorer().score(Dataset.from_list(ALPACA_ROWS), tmp_path / "run")
        assert len(digests) == 1

    def test_the_identity_is_json(self, state_of: Callable) -> None:
        found = identity(state_of())
        assert json.loads(json.dumps(found)) == found

    def test_an_image_scorer(self) -> None:
        """Its keys have the shape of those of other scorers, and what becomes of images stands beside the options."""
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        model = ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=8)).eval()
        scorer = DLCScorer(model, ViTImageProcessor(size={"height": 16, "width": 16}))
        assert identity(scorer.parts.state())["config"]["images"]["head"] == "classifier"
        assert scorer.describe()["config"]["template"] == "auto"
        assert scorer.describe()["probe_digest"] is None


class TestEarlierVersions:
    """Digests of before there was a table: saved scorers and cached schedules are still known by them."""

    @pytest.mark.skipif(not (SHARED / "models" / "aidreams_260k").is_dir(), reason="the trained model is not here")
    def test_of_a_calibrated_schedule(self) -> None:
        folder = SHARED / "models" / "aidreams_260k"
        options = {"template": "alpaca", "dtype": "float32", "calibration_shares": [1.0, 0.75, 0.5]}
        scorer = DLCScorer.from_pretrained(folder, device="cpu", **options)
        assert calibration_key(scorer.parts.state()) == "84dd34da55c5f68f65495e554c77adce"

    @pytest.mark.skipif(not (SHARED / "models" / "vit_small_14").is_dir(), reason="the trained model is not here")
    def test_of_a_fit(self) -> None:
        folder = SHARED / "models" / "vit_small_14"
        if type(AutoImageProcessor.from_pretrained(folder)).__name__ != "ViTImageProcessorPil":
            pytest.skip("the image processor is that of another backend")
        scorer = DLCScorer.from_pretrained(folder, dtype="float32", device="cpu", head="prototype")
        assert fit_key(scorer.parts.state()) == "e3713303e0f2c0b6fa3ba9ec05dbbaa6"


def _all_of(scorer: DLCScorer) -> list[Any]:
    state = scorer.parts.state()
    found = identity(state), pickled_state(state)["weights"], description(state), calibration_key(state)
    return [*found, fit_key(state)]


def test_what_differs_is_told_in_the_order_of_the_options(state_of: Callable) -> None:
    told = [name for name in identity(state_of())["config"] if name in vars(DLCConfig())]
    assert told == [name for name in vars(DLCConfig()) if name in told]
