from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value

from hf_dlc.scores.base import mean_over_levels
from hf_dlc.scores.columns import build_columns, missing_columns, present_scores, score_features
from hf_dlc.scores.dlc import relative_gain
from hf_dlc.scores.table import DEFAULT_SCORES, SCORES
from tests.conftest import ROOT


NAN = float("nan")
STATUSES = ["ok", "truncated", "empty_response", "no_target", "truncated_away", "invalid_row"]
SCHEDULE = (0.0, 0.1)
TOKENS = np.array([3, 4, 0, 0, 0, 0])
CONFIDENCE = np.array([[0.5, 0.25, 0, 0, 0, 0], [0.25, 0.125, 0, 0, 0, 0]], dtype=np.float32)
LOSS = np.array([[1, 2, 0, 0, 0, 0], [3, 6, 0, 0, 0, 0]], dtype=np.float32)


def build(**options: Any) -> dict[str, Any]:
    return build_columns(STATUSES, TOKENS, {"confidence": CONFIDENCE, "loss": LOSS}, SCHEDULE, **options)


def test_features() -> None:
    scores = {f"dlc_{name}": Value("float32") for name in DEFAULT_SCORES}
    assert score_features() == Features({**scores, "dlc_tokens": Value("int32"), "dlc_status": Value("string")})
    assert list(score_features()) == [*scores, "dlc_tokens", "dlc_status"]
    assert list(SCORES)[:3] == list(DEFAULT_SCORES) == ["confidence", "loss", "gain"]  # a new score goes behind


def test_features_of_some_scores() -> None:
    assert list(score_features(scores=["gain", "confidence"])) == [
        "dlc_confidence",
        "dlc_gain",
        "dlc_tokens",
        "dlc_status",
    ]
    assert list(score_features(keep_levels=True, scores=["gain"]))[-1:] == ["dlc_level_loss"]
    assert "dlc_level_confidence" not in score_features(keep_levels=True, scores=["gain"])


def test_features_of_levels() -> None:
    features = score_features("easy", keep_levels=True, scores=SCORES)
    whole = [score for score in SCORES.values() if any(one.view == "full" for one in score.passes((0.0, 0.5)))]
    measures = dict.fromkeys(measure.name for score in whole for measure in score.measures)
    assert {"confidence", "loss", "entropy"} <= measures.keys()
    assert "similarity" not in measures  # of a pair of texts, which are no level
    assert list(features) == [*score_features("easy", scores=SCORES), *(f"easy_level_{name}" for name in measures)]
    assert features["easy_level_loss"] == List(Value("float32"))
    assert "dlc_level_loss" not in score_features(keep_levels=True, scores=["prompt_gain"])


NAMES = ["text", "dlc_gain", "dlc_loss", "dlc_tokens", "dlc_status", "dlc_level_loss", "easy_confidence"]


def test_scores_that_are_there() -> None:
    assert present_scores(NAMES) == ["loss", "gain"]
    assert present_scores(NAMES, "easy") == ["confidence"]
    assert present_scores(NAMES, "my") == []


def test_columns_that_are_missing() -> None:
    assert missing_columns(NAMES) == missing_columns(NAMES, keep_levels=True) == []
    assert missing_columns(NAMES[:-2], keep_levels=True) == ["dlc_level_loss"]
    assert missing_columns(NAMES, "easy") == ["easy_tokens", "easy_status"]
    assert missing_columns(["dlc_status"]) == [name for name in score_features() if name != "dlc_status"]


def test_every_score_is_described() -> None:
    """A score has a line in the handbook, which says what its values mean."""
    entries = re.split(r"^ *[|-] ", (ROOT / "recipes" / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for name, score in SCORES.items():
        found = [entry for entry in entries if entry.startswith(f"`dlc_{name}`")]
        assert len(found) == 1, name
        assert ("**higher = easier**" if score.easy == "high" else "**higher = harder**") in found[0]


def test_the_handbook_names_the_columns_of_levels() -> None:
    columns = re.findall(
        r"^\| `dlc_level_.*", (ROOT / "recipes" / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    named = {name for line in columns for name in re.findall(r"`dlc_level_(\w+)`", line)}
    features = score_features(keep_levels=True, scores=SCORES)
    assert named == {name.removeprefix("dlc_level_") for name in features if name.startswith("dlc_level_")}


def test_a_score_is_the_mean_over_levels() -> None:
    columns = build()
    assert columns["dlc_confidence"].tolist()[:2] == [0.375, 0.1875]
    assert columns["dlc_loss"].tolist()[:2] == [2.0, 4.0]


def test_gain_is_the_share_of_the_loss_that_capacity_removes() -> None:
    loss = np.array([[1.0, 2.0, 0.0, 0.0, 0.004], [4.0, 1.0, 3.0, 0.0, 0.006], [2.0, 4.0, 6.0, 0.0, 0.008]])
    expected = [(3 / 4 + 1 / 2) / 2, (-1 / 2 + 1 / 2) / 2, 1.0, 0.0, (0.2 + 0.4) / 2]
    np.testing.assert_allclose(relative_gain(loss), expected, rtol=1e-6)
    assert relative_gain(loss).dtype == np.float32


def test_gain_turns_its_sign_with_the_levels() -> None:
    """It is bounded, and masking that helps counts as much as masking that harms."""
    rng = np.random.default_rng(0)
    plain, masked = rng.exponential(2, 50) + 0.01, rng.exponential(2, 50) + 0.01
    forth, back = relative_gain(np.array([plain, masked])), relative_gain(np.array([masked, plain]))
    np.testing.assert_allclose(forth, -back)
    assert np.abs(forth).max() < 1
    np.testing.assert_allclose(forth[masked > plain], (1 - plain / masked)[masked > plain], rtol=1e-5)


def test_no_gain_without_a_masked_level() -> None:
    assert np.isnan(relative_gain(np.ones((1, 3)))).all()
    assert np.isnan(build()["dlc_gain"]).tolist() == [False, False, True, True, True, True]


def test_skipped_rows_keep_their_reason() -> None:
    columns = build()
    assert columns["dlc_status"] == STATUSES
    assert columns["dlc_tokens"].tolist() == [3, 4, 0, 0, 0, 0]
    assert np.isnan(columns["dlc_confidence"]).tolist() == [False, False, True, True, True, True]
    assert np.isnan(columns["dlc_loss"]).tolist() == [False, False, True, True, True, True]


@pytest.mark.parametrize("bad", [NAN, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["confidence", "loss"])
@pytest.mark.parametrize("level", [0, 1])
def test_a_number_that_is_not_finite_takes_the_scores_that_need_it(bad: float, which: str, level: int) -> None:
    values = {"confidence": CONFIDENCE.copy(), "loss": LOSS.copy()}
    values[which][level, 1] = bad
    columns = build_columns(STATUSES, TOKENS, values, SCHEDULE, keep_levels=True)
    assert columns["dlc_status"][:3] == ["ok", "partly_nan_score", "empty_response"]
    assert columns["dlc_tokens"].tolist() == [3, 4, 0, 0, 0, 0]
    lost = [np.isnan(columns[f"dlc_{name}"][1]) for name in DEFAULT_SCORES]
    assert lost == ([True, False, False] if which == "confidence" else [False, True, True])
    assert np.isnan(columns[f"dlc_level_{which}"][1]).tolist() == [place == level for place in (0, 1)]
    assert columns["dlc_confidence"][0] == 0.375


@pytest.mark.parametrize("bad", [NAN, np.inf])
def test_a_row_without_any_score_is_skipped(bad: float) -> None:
    values = {"confidence": CONFIDENCE.copy(), "loss": LOSS.copy()}
    values["confidence"][0, 1] = values["loss"][1, 1] = bad
    columns = build_columns(STATUSES, TOKENS, values, SCHEDULE)
    assert columns["dlc_status"][:3] == ["ok", "nan_score", "empty_response"]
    assert columns["dlc_tokens"].tolist() == [3, 0, 0, 0, 0, 0]


def test_a_score_that_lacks_a_view() -> None:
    """A row that has no such view has the reason; the other scores stand."""
    loss = np.array([[1, 2, 0, 0, 0, 0], [4, 0, 0, 0, 0, 0]], dtype=np.float32)
    views = {"alone": ["ok", "no_prompt", *STATUSES[2:]]}
    both = build_columns(STATUSES, TOKENS, {"loss": loss}, (0.0,), scores=["ifd", "plain_loss"], views=views)
    assert both["dlc_status"] == ["ok", "partly_no_prompt", *STATUSES[2:]]
    assert both["dlc_plain_loss"].tolist()[:2] == [1.0, 2.0]
    assert both["dlc_ifd"][0] == 0.25
    assert np.isnan(both["dlc_ifd"][1:]).all()
    alone = build_columns(STATUSES, TOKENS, {"loss": loss}, (0.0,), scores=["ifd"], views=views)
    assert alone["dlc_status"] == ["ok", "no_prompt", *STATUSES[2:]]
    assert alone["dlc_tokens"].tolist() == [3, 0, 0, 0, 0, 0]


def test_a_ratio_to_next_to_nothing_is_no_score() -> None:
    loss = np.array([[1, 2, 0, 0, 0, 0], [4, 0.009, 0, 0, 0, 0]], dtype=np.float32)
    columns = build_columns(STATUSES, TOKENS, {"loss": loss}, (0.0,), scores=["ifd", "plain_loss"])
    assert columns["dlc_status"][:2] == ["ok", "partly_undefined_score"]
    assert np.isnan(columns["dlc_ifd"][1])


def test_no_row_lacks_a_gain_that_there_cannot_be() -> None:
    values = {"confidence": CONFIDENCE[:1], "loss": LOSS[:1]}
    columns = build_columns(STATUSES, TOKENS, values, (0.0,))
    assert columns["dlc_status"] == STATUSES
    assert np.isnan(columns["dlc_gain"]).all()


def test_what_stands_there_for_a_skipped_row_is_ignored() -> None:
    confidence = np.where(TOKENS > 0, CONFIDENCE, np.float32(NAN))
    columns = build_columns(STATUSES, TOKENS, {"confidence": confidence, "loss": LOSS}, SCHEDULE)
    assert columns["dlc_status"] == STATUSES


def test_levels_are_row_by_row() -> None:
    columns = build(keep_levels=True)
    assert [levels.tolist() for levels in columns["dlc_level_confidence"][:2]] == [[0.5, 0.25], [0.25, 0.125]]
    assert [levels.tolist() for levels in columns["dlc_level_loss"][:2]] == [[1.0, 3.0], [2.0, 6.0]]
    assert {levels.dtype for levels in columns["dlc_level_loss"]} == {np.dtype(np.float32)}


@pytest.mark.parametrize("keep_levels", [False, True])
def test_columns_are_in_the_order_and_the_types_of_the_features(keep_levels: bool) -> None:
    columns = build(column_prefix="easy", keep_levels=keep_levels)
    features = score_features("easy", keep_levels)
    assert list(columns) == list(features)
    # Without `features`, as `map` makes a dataset of them.
    assert Dataset.from_dict(columns).features == features


def test_no_rows() -> None:
    empty = dict.fromkeys(["confidence", "loss"], np.zeros((2, 0)))
    columns = build_columns([], np.zeros(0), empty, SCHEDULE, keep_levels=True)
    assert {name: len(values) for name, values in columns.items()} == dict.fromkeys(
        score_features(keep_levels=True), 0
    )


def test_the_mean_of_many_levels_is_taken_in_double_precision() -> None:
    # In float32 a running sum of 0.1 over 2^12 levels is off by 1e-5.
    levels = np.full((2**12, 1), 0.1, dtype=np.float32)
    assert mean_over_levels(levels).tolist() == [np.float32(0.1)]
    columns = build_columns(["ok"], np.array([1]), {"confidence": levels, "loss": levels}, np.arange(2**12) / 2**12)
    assert columns["dlc_confidence"][0] == np.float32(0.1)
