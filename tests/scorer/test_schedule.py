from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_dlc import DLCScorer
from hf_dlc.masking import Masker
from hf_dlc.scorer.schedule import cached_schedule, probe_digest, probe_rows
from tests.conftest import same_weights, weights
from tests.rows import ALPACA_ROWS


@pytest.fixture
def load(taught_folder: Path) -> Callable[..., DLCScorer]:
    """`load(seed=1)`: a scorer of a trained model."""
    return partial(DLCScorer.from_pretrained, taught_folder, dtype="float32", device="cpu")


class TestProbe:
    def test_rows_are_of_a_known_layout(self, make_scorer: Callable) -> None:
        rows = probe_rows()
        assert 8 <= len(rows) <= 200
        encoded = make_scorer().parts.task.encode(rows)
        assert {row.status for row in encoded} == {"ok"}

    def test_digest(self) -> None:
        assert probe_digest() == probe_digest()
        assert len(probe_digest()) == 32


class TestCachedSchedule:
    def test_is_found_once(self, tmp_path: Path) -> None:
        path = tmp_path / "deep" / "key.json"
        assert cached_schedule(path, 2, lambda: (0.0, 0.1)) == (0.0, 0.1)
        assert cached_schedule(path, 2, lambda: pytest.fail("found again")) == (0.0, 0.1)
        assert json.loads(path.read_text()) == {"schedule": [0.0, 0.1]}
        assert [file.name for file in path.parent.iterdir()] == ["key.json"]  # no draft is left

    @pytest.mark.parametrize(
        "text",
        [
            "",
            '{"schedule": [0.0, 0.',
            "[0.0, 0.1]",
            '{"schedule": "0, 0.1"}',
            '{"schedule": null}',
            '{"schedule": ["a"]}',
            '{"schedule": [null]}',
            '{"schedule": [0.5, 0.2]}',
            '{"schedule": [0.0, 1.5]}',
            '{"schedule": [0.0, 0.1, 0.2]}',
            "\x00\x01",
        ],
    )
    def test_what_cannot_be_read_is_found_anew(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "key.json"
        path.write_text(text)
        assert cached_schedule(path, 2, lambda: (0.0, 0.1)) == (0.0, 0.1)
        assert cached_schedule(path, 2, lambda: pytest.fail("found again")) == (0.0, 0.1)

    def test_a_folder_that_cannot_be_written_loses_nothing(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").touch()
        assert cached_schedule(tmp_path / "file" / "key.json", 2, lambda: (0.0, 0.1)) == (0.0, 0.1)
        assert "cannot be kept for the next run" in caplog.text


class TestUntrainedModels:
    def test_are_refused(self, make_scorer: Callable, cache: Path) -> None:
        scorer = make_scorer(schedule=None)
        before = weights(scorer.model)
        for run in (lambda: scorer(ALPACA_ROWS[0]), lambda: scorer.score(Dataset.from_list(ALPACA_ROWS))):
            with pytest.raises(
                ValueError, match=r"does not fall to 0\.\d+ of the unmasked one.*Pass masked fractions"
            ):
                run()
        assert same_weights(scorer.model, before)
        assert not list(cache.rglob("*"))  # nothing that a later run could take for a schedule

    def test_a_model_of_nan_is_refused(self, make_scorer: Callable) -> None:
        scorer = make_scorer(schedule=None)
        scorer.model.lm_head.weight.data[:] = float("nan")
        with pytest.raises(ValueError, match=r"must be a positive number, got nan.*Check the model"):
            scorer.calibrate()


def test_a_fixed_schedule_is_not_calibrated(make_scorer: Callable, passes: list[int]) -> None:
    scorer = make_scorer()
    assert scorer.schedule_ == scorer.calibrate() == (0.0, 0.1, 0.3)
    assert passes == []


class TestTrainedModel:
    def test_shares_are_reached(self, load: Callable) -> None:
        scorer = load()
        schedule = scorer.calibrate()
        assert schedule == scorer.schedule_
        assert schedule[0] == 0.0
        assert len(schedule) == 4
        assert list(schedule) == sorted(set(schedule))
        confidence = [self._confidence(scorer, fraction) for fraction in schedule]
        np.testing.assert_allclose(np.array(confidence) / confidence[0], [1.0, 0.75, 0.5, 0.25], atol=0.03)

    @torch.no_grad()
    def _confidence(self, scorer: DLCScorer, fraction: float) -> float:
        """Mean confidence of the probe, row by row, with the weights of a copy masked."""
        model = copy.deepcopy(scorer.model)
        means = []
        with Masker(model).session() as session:
            session.set_fraction(fraction)
            for row in scorer.parts.task.encode(probe_rows()):
                ids = torch.tensor(row.input_ids, dtype=torch.int64)
                probabilities = model(input_ids=ids[None]).logits[0].softmax(dim=-1)
                targets = [t for t in range(1, len(ids)) if row.targets[t]]
                means.append(np.mean([probabilities[t - 1, ids[t]].item() for t in targets]))
        return float(np.mean(means))

    def test_is_read_from_the_cache_the_second_time(self, load: Callable, cache: Path, passes: list[int]) -> None:
        options = {"calibration_shares": [1.0, 0.5]}
        found = load(**options).calibrate()
        assert passes
        passes.clear()
        again = load(**options)
        assert again.calibrate() == found
        assert passes == []
        [path] = cache.rglob("*.json")
        record = json.loads(path.read_text())
        assert tuple(record["schedule"]) == found
        assert record["config"]["calibration_shares"] == [1.0, 0.5]  # people may want to know whose it is
        assert again.masking_report()[1].masked > 0

    def test_a_corrupt_cache_file_is_replaced(self, load: Callable, cache: Path, passes: list[int]) -> None:
        options = {"calibration_shares": [1.0, 0.5]}
        found = load(**options).calibrate()
        [path] = cache.rglob("*.json")
        path.write_text(path.read_text()[:20])
        passes.clear()
        assert load(**options).calibrate() == found
        assert passes
        assert json.loads(path.read_text())["schedule"] == list(found)

    def test_other_options_have_another_file(self, load: Callable, cache: Path) -> None:
        for options in ({}, {"seed": 1}, {"masking": "magnitude"}, {"keep_levels": True}):
            load(calibration_shares=[1.0, 0.9], **options).calibrate()
        assert len(list(cache.rglob("*.json"))) == 3  # keeping the levels changes no schedule

    def test_training_calibrates_anew(self, load: Callable, cache: Path) -> None:
        scorer = load(calibration_shares=[1.0, 0.5])
        before = scorer.calibrate()
        with torch.no_grad():
            for layer in scorer.model.model.layers:
                layer.mlp.down_proj.weight.mul_(0.5)
        assert scorer.calibrate() != before
        assert len(list(cache.rglob("*.json"))) == 2

    def test_map_and_score_share_it(self, load: Callable, passes: list[int]) -> None:
        scorer = load(calibration_shares=[1.0, 0.5], tokens_per_batch=10**6)
        dataset = Dataset.from_list(ALPACA_ROWS)
        mapped = dataset.map(scorer, batched=True)
        assert sum(passes) > 2 * len(ALPACA_ROWS)
        passes.clear()
        scored = scorer.score(dataset)
        assert passes == [len(ALPACA_ROWS)] * 2
        np.testing.assert_allclose(mapped["dlc_loss"][:], scored["dlc_loss"][:], atol=1e-4)
