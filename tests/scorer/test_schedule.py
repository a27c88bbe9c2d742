from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_dlc import DLCScorer
from hf_dlc.execution.journal import JournalError
from hf_dlc.masking import Masker
from hf_dlc.pipeline.record import RunRecord
from hf_dlc.scorer.schedule import cached_schedule, pick_levels, probe_digest, probe_rows
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


class TestLevels:
    @pytest.mark.parametrize(
        ("count", "fast"), [(1, (0,)), (2, (0, 1)), (3, (0, 1)), (4, (0, 2)), (5, (0, 2)), (50, (0, 25))]
    )
    def test_places(self, count: int, fast: tuple[int, ...]) -> None:
        assert pick_levels(range(count), "exact") == tuple(range(count))
        assert pick_levels(range(count), "fast") == fast
        assert pick_levels(range(count), "single") == (0,)

    @pytest.mark.parametrize(
        ("levels", "fractions"), [("exact", (0.0, 0.1, 0.2, 0.3)), ("fast", (0.0, 0.2)), ("single", (0.0,))]
    )
    def test_of_a_fixed_schedule(
        self, make_scorer: Callable, tmp_path: Path, levels: str, fractions: tuple[float, ...]
    ) -> None:
        """What is run is what everything shows that shows a schedule."""
        scorer = make_scorer(schedule="0, 0.1, 0.2, 0.3", levels=levels, keep_levels=True)
        scored = scorer.score(Dataset.from_list(ALPACA_ROWS), tmp_path / "journal")
        assert scorer.schedule_ == fractions
        assert [len(values) for values in scored["dlc_level_loss"]] == [len(fractions)] * len(ALPACA_ROWS)
        assert [report.masked_fraction for report in scorer.masking_report()] == list(fractions)
        settings = json.loads((tmp_path / "journal" / "journal.json").read_text())["settings"]
        assert settings["schedule"] == list(fractions)
        assert len(settings["passes"]) == len(fractions)
        record = RunRecord.of(scorer, "me/rows")
        assert record.schedule == fractions
        assert [level.masked_fraction for level in record.masking] == list(fractions)

    def test_each_level_is_that_of_all_levels(self, make_scorer: Callable) -> None:
        rows, schedule = Dataset.from_list(ALPACA_ROWS), "0, 0.1, 0.2, 0.3"
        exact, fast, single = (
            np.array(make_scorer(schedule=schedule, levels=levels, keep_levels=True).score(rows)["dlc_level_loss"][:])
            for levels in ("exact", "fast", "single")
        )
        np.testing.assert_array_equal(fast, exact[:, [0, 2]])
        np.testing.assert_array_equal(single, exact[:, :1])

    def test_map_takes_the_same_levels(self, make_scorer: Callable, passes: list[int]) -> None:
        scorer = make_scorer(levels="fast", tokens_per_batch=10**6)
        rows = Dataset.from_list(ALPACA_ROWS)
        mapped = rows.map(scorer, batched=True)
        assert passes == [len(rows)] * 2
        np.testing.assert_allclose(mapped["dlc_loss"][:], scorer.score(rows)["dlc_loss"][:], atol=1e-4)

    def test_a_calibrated_level_is_that_of_all_levels(self, load: Callable, passes: list[int]) -> None:
        """Also without what the cache holds: a shorter search would end at other digits."""
        exact = load().calibrate()
        passes.clear()
        assert load(levels="fast").calibrate() == (0.0, exact[2])
        assert passes == []  # one calibration serves both
        assert load(levels="fast").parts.schedule.find() == exact
        assert passes

    def test_the_cheap_one_first(self, load: Callable, cache: Path) -> None:
        fast = load(levels="fast").calibrate()
        assert len(fast) == 2
        exact = load().calibrate()
        assert (len(exact), exact[2]) == (4, fast[1])
        [path] = cache.rglob("*.json")
        assert json.loads(path.read_text())["schedule"] == list(exact)

    def test_a_single_one_calibrates_nothing(self, load: Callable, cache: Path, passes: list[int]) -> None:
        scorer = load(levels="single")
        assert scorer.schedule_ == scorer.calibrate() == (0.0,)
        assert passes == []
        assert scorer.describe()["probe_digest"] is None
        assert not cache.exists()

    @pytest.mark.parametrize(("saved", "loaded", "is_kept"), [("exact", "fast", True), ("fast", "exact", False)])
    def test_of_a_saved_scorer(
        self,
        load: Callable,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        saved: str,
        loaded: str,
        is_kept: bool,
    ) -> None:
        """All levels hold those of fewer; where some are missing, they are calibrated."""
        scorer = load(levels=saved)
        exact = load().calibrate()
        scorer.calibrate()
        scorer.save_pretrained(tmp_path / "scorer")
        monkeypatch.setenv("HF_DLC_CACHE", str(tmp_path / "another"))
        again = DLCScorer.from_pretrained(tmp_path / "scorer", device="cpu", levels=loaded)
        assert (again.parts.schedule.calibrated is not None) == is_kept
        assert ("calibrating anew" in caplog.text) != is_kept
        assert again.calibrate() == pick_levels(exact, loaded)

    def test_a_journal_of_other_levels_is_refused(self, make_scorer: Callable, tmp_path: Path) -> None:
        rows = Dataset.from_list(ALPACA_ROWS)
        make_scorer().score(rows, tmp_path / "journal")
        with pytest.raises(JournalError, match="levels"):
            make_scorer(levels="fast").score(rows, tmp_path / "journal")


class TestScoresWithoutValue:
    @pytest.mark.parametrize("options", [{"schedule": "0"}, {"levels": "single"}], ids=str)
    def test_are_told_once_by_name(
        self, make_scorer: Callable, caplog: pytest.LogCaptureFixture, options: dict[str, str]
    ) -> None:
        scorer, rows = make_scorer(**options), Dataset.from_list(ALPACA_ROWS)
        with caplog.at_level(logging.WARNING):
            scored = scorer.score(rows)
            scorer.score(rows)
            scorer(ALPACA_ROWS[0])
        told = [record.getMessage() for record in caplog.records if "NaN in all rows" in record.getMessage()]
        assert len(told) == 1
        assert told[0].startswith("gain will be NaN in all rows")
        assert np.isnan(scored["dlc_gain"][:]).all()
        assert set(scored["dlc_status"]) == {"ok"}

    def test_with_a_masked_level_nothing_is_told(
        self, make_scorer: Callable, caplog: pytest.LogCaptureFixture
    ) -> None:
        make_scorer(levels="fast").score(Dataset.from_list(ALPACA_ROWS))
        assert "NaN" not in caplog.text


def test_a_single_level_that_no_score_can_use(make_scorer: Callable) -> None:
    scorer = make_scorer(scores=("gain",), levels="single")
    with pytest.raises(ValueError, match="scores must have one that a single level gives, got gain"):
        scorer.score(Dataset.from_list(ALPACA_ROWS))
