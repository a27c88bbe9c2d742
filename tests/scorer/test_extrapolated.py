"""A share of the rows is scored at all levels, the others are predicted, and nobody can take one for the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value, concatenate_datasets
from PIL import Image as Pillow
from transformers import ViTImageProcessor

from hf_dlc import DLCConfig, DLCScorer, ExtrapolatedScorer, FlexRandSelector, PruneReport
from hf_dlc.execution.journal import JournalError
from hf_dlc.hub.card import Subset, render_section
from hf_dlc.pipeline.folder import read_scores, select_rows, write_scores
from hf_dlc.pipeline.record import ExtrapolationRecord, RunRecord
from hf_dlc.report.report import status_counts
from hf_dlc.scorer.extrapolated import EXTRAPOLATION_NAME, ExtrapolationError, level_0_scorer
from hf_dlc.scorer.predict import NeighborPredictor
from hf_dlc.scores.columns import score_features, with_columns
from hf_dlc.scores.table import DEFAULT_SCORES, SCORES
from hf_dlc.utils.ranks import spearman
from tests.rows import many_rows


SKIPPED = (3, 40)
ANY = {"least_agreement": -1.0}  # a model of random weights agrees with itself as it likes


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return Dataset.from_list(many_rows(60, SKIPPED))


def statuses(scored: Dataset) -> np.ndarray:
    return np.array(scored["dlc_status"][:])


def test_share_is_scored_and_the_others_are_predicted(make_scorer: Callable, dataset: Dataset) -> None:
    scorer = make_scorer(keep_levels=True)
    exact, scored = scorer.score(dataset), ExtrapolatedScorer(scorer, 0.5, **ANY).score(dataset)
    assert scored.features == exact.features
    assert status_counts(scored) == {"ok": 29, "predicted": 29, "empty_response": 2}
    assert np.flatnonzero(statuses(scored) == "empty_response").tolist() == list(SKIPPED)
    is_predicted, is_skipped = statuses(scored) == "predicted", statuses(scored) == "empty_response"
    for name in DEFAULT_SCORES:
        found, truth = (np.array(one[f"dlc_{name}"][:]) for one in (scored, exact))
        np.testing.assert_allclose(found[~is_predicted], truth[~is_predicted], atol=1e-5)
        assert np.isnan(found[is_skipped]).all()
        assert np.isfinite(found[is_predicted]).all()
        assert not np.allclose(found[is_predicted], truth[is_predicted], atol=1e-5)
    assert scored["dlc_tokens"][:] == exact["dlc_tokens"][:]
    levels, all_levels = (np.array(one["dlc_level_loss"][:]) for one in (scored, exact))
    np.testing.assert_allclose(levels[:, 0], all_levels[:, 0], atol=1e-4)  # unmasked, so known of all rows
    assert np.isnan(levels[is_predicted, 1:]).all()
    assert np.isfinite(levels[~is_predicted & ~is_skipped]).all()


def test_predictions_are_better_than_chance(taught_folder: Path) -> None:
    """Of a model that has learned, the unmasked measures tell much of the score."""
    scorer = DLCScorer.from_pretrained(taught_folder, device="cpu", dtype="float32", schedule="0, 0.02")
    rows = Dataset.from_list(many_rows(150))
    exact, extrapolated = scorer.score(rows), ExtrapolatedScorer(scorer, 0.4, **ANY)
    scored = extrapolated.score(rows)
    is_predicted = statuses(scored) == "predicted"
    for name in ("confidence", "loss"):
        found, truth = (np.array(one[f"dlc_{name}"][:])[is_predicted] for one in (scored, exact))
        agreement = extrapolated.agreement_.scores[name]
        assert spearman(found, truth) > 0.6
        assert agreement.low - 0.1 < spearman(found, truth) < agreement.high + 0.1


def test_agreement_is_kept_and_told(make_scorer: Callable, dataset: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    extrapolated = ExtrapolatedScorer(make_scorer(), 0.5, "knn", **ANY)
    with caplog.at_level("INFO", "hf_dlc"):
        extrapolated.score(dataset)
    agreement = extrapolated.agreement_
    assert (agreement.rows, agreement.scored, agreement.predicted, agreement.method) == (60, 29, 29, "knn")
    assert agreement.passes == pytest.approx(1 + 29 / 60 * 3)
    assert agreement.scores.keys() == set(DEFAULT_SCORES)
    assert agreement.scores["loss"].settings["neighbors"] in (5, 10, 20, 29)
    assert str(agreement) in caplog.text
    assert "29 of 60 rows scored at all levels, 29 predicted by knn at the price of 2.45 passes" in str(agreement)
    assert json.loads(json.dumps(agreement.to_json()))["scores"]["gain"].keys() == {
        "spearman",
        "low",
        "high",
        "settings",
    }


def test_the_seed_decides(make_scorer: Callable, dataset: Dataset) -> None:
    scorer = make_scorer()
    first, again, other = (ExtrapolatedScorer(scorer, 0.5, seed=seed, **ANY).score(dataset) for seed in (0, 0, 1))
    assert first["dlc_loss"][:] == again["dlc_loss"][:] or np.array_equal(
        first["dlc_loss"][:], again["dlc_loss"][:], equal_nan=True
    )
    assert (statuses(first) == statuses(again)).all()
    assert (statuses(first) != statuses(other)).any()


def test_too_little_agreement_is_an_error_with_its_number(make_scorer: Callable, dataset: Dataset) -> None:
    extrapolated = ExtrapolatedScorer(make_scorer(), 0.5, least_agreement=1.0)
    with pytest.raises(ExtrapolationError) as caught:
        extrapolated.score(dataset)
    for name, found in extrapolated.agreement_.scores.items():
        number = f"{found.spearman:.3f} (95% interval {found.low:.3f} to {found.high:.3f})"
        assert f"{number} by {name}" in str(caught.value)
    for advice in ("at least 1 (least_agreement)", "larger share than 0.5", "other features", "lower least_agreement"):
        assert advice in str(caught.value)


@pytest.mark.parametrize("least_agreement", [-1.0, 1.0])
def test_agreement_is_stored_also_where_it_is_too_low(
    make_scorer: Callable, dataset: Dataset, tmp_path: Path, least_agreement: float
) -> None:
    extrapolated = ExtrapolatedScorer(make_scorer(), 0.5, least_agreement=least_agreement)
    with pytest.raises(ExtrapolationError) if least_agreement == 1 else nullcontext():
        extrapolated.score(dataset, run_dir=tmp_path)
    found = json.loads((tmp_path / EXTRAPOLATION_NAME).read_text(encoding="utf-8"))
    assert found == extrapolated.agreement_.to_json()
    assert (found["scored"], found["predicted"], found["share"], found["method"]) == (29, 29, 0.5, "ridge")
    for name, one in extrapolated.agreement_.scores.items():
        numbers = {"spearman": one.spearman, "low": one.low, "high": one.high, "settings": one.settings}
        assert found["scores"][name] == numbers


def test_agreement_is_in_the_record_the_report_and_the_card(
    make_scorer: Callable, dataset: Dataset, tmp_path: Path
) -> None:
    extrapolated = ExtrapolatedScorer(make_scorer(keep_levels=True), 0.5, **ANY)
    scored = extrapolated.score(dataset)
    record = RunRecord.of(extrapolated, "me/rows")
    assert record.to_json()["extrapolation"] == extrapolated.agreement_.to_json()
    assert record.scorer == RunRecord.of(extrapolated.scorer, "me/rows").scorer
    assert RunRecord.of(extrapolated.scorer, "me/rows").extrapolation is None
    write_scores(tmp_path, scored, record)
    assert read_scores(tmp_path)[1] == record
    pruned, report, record = select_rows(scored, FlexRandSelector(keep=0.5), record)
    facts = {"rows": 60, "kept_rows": len(pruned), "base": {}, "files": [], "scores_digest": ""}
    subset = Subset("half", "me/half", columns=scored.column_names, record=record, **facts)
    card, summary = render_section(subset, []), report.to_markdown()
    assert "Only 29 rows were scored at all levels. The scores of 29 others were predicted by `ridge`" in card
    assert "## Predicted scores against true ones, on scored rows that were held out" in summary
    for name, found in extrapolated.agreement_.scores.items():
        assert f"| `{name}` | {found.spearman:.3f} | {found.low:.3f} to {found.high:.3f} |" in summary
        assert f"`{name}` {found.spearman:.3f} (95% interval {found.low:.3f} to {found.high:.3f})" in card
    alone = PruneReport.from_datasets(scored, pruned, predicted=extrapolated.agreement_.scores).to_markdown()
    assert "## Predicted scores against" in alone
    assert "Predicted scores" not in PruneReport.from_datasets(scored, pruned).to_markdown()


def test_scores_that_never_vary_do_not_agree(
    make_scorer: Callable, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        type(SCORES["gain"]), "reduce", lambda self, values: np.zeros(values["loss"].shape[1], dtype=np.float32)
    )
    with pytest.raises(ExtrapolationError, match=r"got nan .* by gain"):
        ExtrapolatedScorer(make_scorer(), 0.5, least_agreement=-1).score(dataset, run_dir=tmp_path)
    found = json.loads((tmp_path / EXTRAPOLATION_NAME).read_text(encoding="utf-8"))
    assert found["scores"]["gain"]["spearman"] is None  # JSON has no NaN
    rows = Dataset.from_dict({"output": ["a", "b"]})
    columns = dict(zip(score_features(), [[0.1, 0.2]] * 3 + [[1, 1], ["ok", "predicted"]], strict=True))
    record = ExtrapolationRecord.from_json(found)
    report = PruneReport.from_datasets(with_columns(rows, columns, score_features()), [0], predicted=record.scores)
    assert "| `gain` | not known | not known |" in report.to_markdown()


@pytest.mark.parametrize(("rows", "share", "count"), [(60, 0.1, 6), (12, 0.75, 8)])
def test_too_few_rows(make_scorer: Callable, dataset: Dataset, rows: int, share: float, count: int) -> None:
    with pytest.raises(ExtrapolationError, match=rf"at least 10 rows .* which is {count}\. Pass a larger share"):
        ExtrapolatedScorer(make_scorer(), share, **ANY).score(dataset.select(range(rows)))


def test_nothing_can_be_scored(make_scorer: Callable, dataset: Dataset) -> None:
    with pytest.raises(ExtrapolationError, match="of 0 rows that can be scored"):
        ExtrapolatedScorer(make_scorer(), 0.5).score(dataset.select(SKIPPED))


def test_no_level_is_masked(make_scorer: Callable, dataset: Dataset) -> None:
    with pytest.raises(ValueError, match=r"must have masked levels to be predicted, got the schedule \(0.0,\)"):
        ExtrapolatedScorer(make_scorer(schedule="0"), 0.5).score(dataset)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"share": 0}, "between 0 and 1"),
        ({"share": 1}, "scorer.score scores all rows"),
        ({"share": True}, "between 0 and 1"),
        ({"method": "tree"}, "'ridge', 'knn', 'gnn', got 'tree'"),
        ({"least_agreement": 1.1}, "from -1 to 1"),
        ({"least_agreement": np.nan}, "from -1 to 1"),
    ],
)
def test_wrong_options(make_scorer: Callable, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ExtrapolatedScorer(make_scorer(), **options)


def test_splits_are_scored_one_by_one(make_scorer: Callable, dataset: Dataset) -> None:
    with pytest.raises(TypeError, match="Take one split"):
        ExtrapolatedScorer(make_scorer()).score(DatasetDict(train=dataset))


def test_truncated_rows_that_are_predicted_say_so(make_scorer: Callable) -> None:
    rows = Dataset.from_list([{**row, "output": row["output"] * 9} for row in many_rows(40)])
    scorer = make_scorer(max_length=60)
    before = statuses(scorer.score(rows))
    after = statuses(ExtrapolatedScorer(scorer, 0.5, **ANY).score(rows))
    assert {"ok", "truncated"} == set(before)
    is_predicted = after == "predicted"
    assert is_predicted.sum() == 20
    assert "truncated" in before[is_predicted]
    assert (after == before)[~is_predicted].all()


def test_rows_of_which_the_masked_model_makes_no_number(
    make_scorer: Callable, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have no score and teach nothing."""
    scorer = make_scorer()
    forward = type(scorer.parts.task).forward

    def broken(self: Any, rows: Any, *rest: Any, **options: Any) -> Any:
        found = forward(self, rows, *rest, **options)
        long = torch.tensor([row.target_tokens > 32 for row in rows])
        if self is scorer.parts.task and rest:  # and not the one of level 0
            for name, values in found.values.items():
                found.values[name] = values.masked_fill(long, torch.nan)
        return found

    monkeypatch.setattr(type(scorer.parts.task), "forward", broken)
    extrapolated = ExtrapolatedScorer(scorer, 0.5, **ANY)
    scored = extrapolated.score(dataset)
    lost = statuses(scored) == "nan_score"
    assert 0 < lost.sum() < 10
    assert np.isnan(np.array(scored["dlc_loss"][:])[lost]).all()
    assert np.isfinite(np.array(scored["dlc_loss"][:])[statuses(scored) == "predicted"]).all()


# ---- what reads scored rows ----------------------------------------------------------------------------------------


def test_predicted_rows_count_as_scored(make_scorer: Callable, dataset: Dataset) -> None:
    scored = ExtrapolatedScorer(make_scorer(), 0.5, **ANY).score(dataset)
    pruned = FlexRandSelector(keep=58)(scored)
    assert len(pruned) == 58  # all that have a score, of whatever kind
    assert len(FlexRandSelector(keep_tokens=100)(scored)) > 0
    report = PruneReport.from_datasets(scored, pruned).to_markdown()
    assert "scored: 58 of 60 rows, 29 predicted" in report
    assert "skipped: 2 `empty_response`" in report


def test_scored_again_replaces_all_columns(make_scorer: Callable, dataset: Dataset) -> None:
    scorer = make_scorer()
    scored = ExtrapolatedScorer(scorer, 0.5, **ANY).score(dataset)
    assert status_counts(scorer.score(scored)) == {"ok": 58, "empty_response": 2}
    again = ExtrapolatedScorer(scorer, 0.5, **ANY).score(scorer.score(dataset))
    assert again.column_names == scored.column_names
    assert (statuses(again) == statuses(scored)).all()


def test_format_of_the_dataset_is_kept(make_scorer: Callable, dataset: Dataset) -> None:
    scored = ExtrapolatedScorer(make_scorer(keep_levels=True), 0.5, **ANY).score(dataset.with_format("numpy"))
    assert scored.format["type"] == "numpy"
    assert status_counts(scored.with_format(None))["predicted"] == 29


def test_another_prefix(make_scorer: Callable, dataset: Dataset) -> None:
    scored = ExtrapolatedScorer(make_scorer(prefix="easy"), 0.5, **ANY).score(dataset)
    assert status_counts(scored, "easy")["predicted"] == 29


# ---- features ------------------------------------------------------------------------------------------------------


def telling_features(scorer: DLCScorer, dataset: Dataset) -> np.ndarray:
    """The true scores, as only a test has them: whoever uses them predicts well."""
    exact = scorer.score(dataset)
    return np.array([exact[f"dlc_{name}"][:] for name in DEFAULT_SCORES], dtype=np.float64).T


def test_features_are_used(make_scorer: Callable, dataset: Dataset) -> None:
    scorer = make_scorer()
    features = telling_features(scorer, dataset)
    typed = Features({**dataset.features, "vector": List(Value("float32"))})
    column = Dataset.from_dict({**dataset[:], "vector": features.tolist()}, features=typed)
    for rows, given in ((dataset, features), (column, "vector")):
        extrapolated = ExtrapolatedScorer(scorer, 0.5)
        scored = extrapolated.score(rows, given)
        assert all(found.spearman > 0.95 for found in extrapolated.agreement_.scores.values())
        is_predicted = statuses(scored) == "predicted"
        for place, name in enumerate(DEFAULT_SCORES):
            found = np.array(scored[f"dlc_{name}"][:])[is_predicted]
            assert spearman(found, features[is_predicted, place]) > 0.95


def test_features_that_are_not_finite_are_told(
    make_scorer: Callable, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    features = np.random.default_rng(0).normal(size=(60, 4))
    features[[1, 2]] = np.nan
    features[3] = np.inf  # of a row without a score, of which nobody asks
    scored = ExtrapolatedScorer(make_scorer(), 0.5, **ANY).score(dataset, features)
    assert "2 of 58 rows that can be scored have features that are not finite" in caplog.text
    assert np.isfinite(np.array(scored["dlc_loss"][:])[statuses(scored) == "predicted"]).all()


def test_a_column_without_some_lists(
    make_scorer: Callable, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    lists = [None if place == 5 else [float(place), 1.0 / (place + 1)] for place in range(60)]
    rows = Dataset.from_dict({**dataset[:], "vector": lists})
    ExtrapolatedScorer(make_scorer(), 0.5, **ANY).score(rows, "vector")
    assert "1 of 58 rows" in caplog.text


@pytest.mark.parametrize(
    ("features", "says"),
    [
        (np.zeros(60), r"shape \(60, size\), got float64 of shape \(60,\)"),
        (np.zeros((59, 2)), r"got float64 of shape \(59, 2\)"),
        (np.full((60, 2), "a"), "must be an array of numbers"),
        ("nowhere", "must name a column of the dataset, got 'nowhere'"),
        ("output", "must hold lists of numbers of one length, got Value"),
        ("ragged", "got lists of several lengths"),
        ("texts", "must hold lists of numbers, got List"),
    ],
)
def test_what_are_no_features(make_scorer: Callable, dataset: Dataset, features: Any, says: str) -> None:
    more = {"ragged": [[0.0] * (place % 2 + 1) for place in range(60)], "texts": [["a"]] * 60}
    with pytest.raises(ValueError, match=says):
        ExtrapolatedScorer(make_scorer(), 0.5).score(Dataset.from_dict({**dataset[:], **more}), features)


def test_a_predictor_of_your_own(make_scorer: Callable, dataset: Dataset) -> None:
    extrapolated = ExtrapolatedScorer(make_scorer(), 0.5, NeighborPredictor([7], ["1/d"]), **ANY)
    extrapolated.score(dataset)
    assert extrapolated.agreement_.scores["loss"].settings == {"neighbors": 7, "weights": "1/d"}


def test_graph_network(make_scorer: Callable, dataset: Dataset) -> None:
    pytest.importorskip("torch_geometric")
    from hf_dlc.scorer.graph import GraphPredictor

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again = (
        ExtrapolatedScorer(make_scorer(), 0.5, GraphPredictor(epochs=5), **ANY).score(dataset) for _ in range(2)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(first["dlc_loss"][:], again["dlc_loss"][:])
    assert status_counts(first)["predicted"] == 29


def test_graph_network_learns() -> None:
    pytest.importorskip("torch_geometric")
    from hf_dlc.scorer.graph import GraphPredictor

    rng = np.random.default_rng(0)
    features, known = rng.normal(size=(200, 2)), np.arange(100)
    scores = np.sin(features[:, 0]) * 3 + 5
    found = GraphPredictor(epochs=60).predict(features, known, scores[:100], np.arange(100, 200))
    assert spearman(found.values, scores[100:]) > 0.9
    assert abs(found.values.mean() - 5) < 1
    assert found.settings.keys() == {"neighbors", "epoch"}


def test_graph_network_without_its_library(make_scorer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch_geometric", None)
    with pytest.raises(ImportError, match=r"hf-dlc\[gnn\]"):
        ExtrapolatedScorer(make_scorer(), 0.5, "gnn")


# ---- images --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images() -> Dataset:
    rng = np.random.default_rng(0)
    labels = [place % 2 for place in range(40)]
    pixels = [rng.integers(0, 255 if label else 90, (24, 24, 3)).astype(np.uint8) for label in labels]
    features = Features({"picture": Image(), "label": ClassLabel(names=["dark", "bright"])})
    pictures = [None if place == 7 else Pillow.fromarray(one) for place, one in enumerate(pixels)]
    return Dataset.from_dict({"picture": pictures, "label": labels}, features)


@pytest.fixture
def image_scorer(images: Dataset) -> DLCScorer:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    model = transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=24, patch_size=8, initializer_range=0.2))
    processor = ViTImageProcessor(size={"height": 24, "width": 24})
    return DLCScorer(model.eval(), processor, DLCConfig(schedule="0, 0.2, 0.4", keep_levels=True)).fit(images)


def test_images_are_predicted_from_features_where_they_are_given(image_scorer: DLCScorer, images: Dataset) -> None:
    by_default = ExtrapolatedScorer(image_scorer, 0.5, **ANY)
    scored = by_default.score(images)
    assert status_counts(scored) == {"ok": 20, "predicted": 19, "invalid_image": 1}
    assert by_default.agreement_.passes == pytest.approx(1 + 20 / 40 * 3)
    given = ExtrapolatedScorer(image_scorer, 0.5, **ANY).score(images, image_scorer.features(images))
    assert scored["dlc_loss"][:] != given["dlc_loss"][:]


def test_level_0_compares_with_the_same_prototypes(image_scorer: DLCScorer, images: Dataset) -> None:
    plain = level_0_scorer(image_scorer)
    assert plain.parts.task.prototypes.key == image_scorer.parts.task.prototypes.key
    levels, all_levels = (np.array(one.score(images)["dlc_level_loss"][:]) for one in (plain, image_scorer))
    np.testing.assert_allclose(levels[:, 0], all_levels[:, 0], atol=1e-5)


def test_prototypes_of_other_weights_are_refused(image_scorer: DLCScorer, images: Dataset) -> None:
    with torch.no_grad():
        image_scorer.model.layers[0].mlp.fc1.weight += 1
    with pytest.raises(ValueError, match="fitted with other weights"):
        ExtrapolatedScorer(image_scorer, 0.5, **ANY).score(images)


def test_before_fit_it_says_so(image_scorer: DLCScorer, images: Dataset) -> None:
    unfitted = DLCScorer(image_scorer.model, image_scorer.processor, image_scorer.config)
    with pytest.raises(ValueError, match=r"Call scorer.fit\(dataset\)"):
        ExtrapolatedScorer(unfitted, 0.5, **ANY).score(images)


# ---- a run that goes on --------------------------------------------------------------------------------------------


def test_the_second_call_does_not_run_the_model(
    make_scorer: Callable, dataset: Dataset, tmp_path: Path, passes: list[int]
) -> None:
    first = ExtrapolatedScorer(make_scorer(), 0.5, **ANY).score(dataset, run_dir=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["extrapolation.json", "level_0", "share"]
    passes.clear()
    again = ExtrapolatedScorer(make_scorer(), 0.5, **ANY).score(dataset, run_dir=tmp_path)
    assert passes == []
    np.testing.assert_array_equal(first["dlc_loss"][:], again["dlc_loss"][:])


def test_a_journal_of_other_rows_is_refused(make_scorer: Callable, dataset: Dataset, tmp_path: Path) -> None:
    ExtrapolatedScorer(make_scorer(), 0.5, **ANY).score(dataset, run_dir=tmp_path)
    with pytest.raises(JournalError):
        ExtrapolatedScorer(make_scorer(), 0.5, seed=1, **ANY).score(dataset, run_dir=tmp_path)
    with pytest.raises(JournalError):
        ExtrapolatedScorer(make_scorer(seed=1), 0.5, **ANY).score(dataset, run_dir=tmp_path)


def test_a_score_alone_is_predicted_from_the_whole_unmasked_pass(make_scorer: Callable, dataset: Dataset) -> None:
    """Loss and confidence are measured for that, whether they are asked for or not."""
    every, alone = (
        ExtrapolatedScorer(make_scorer(scores=scores), 0.5, **ANY).score(dataset)
        for scores in (DEFAULT_SCORES, ("gain",))
    )
    assert "dlc_plain_loss" not in alone.column_names
    np.testing.assert_allclose(alone["dlc_gain"][:], every["dlc_gain"][:], atol=1e-5)


def test_rows_that_lack_a_score_are_not_predicted(make_scorer: Callable, dataset: Dataset) -> None:
    rows = concatenate_datasets([dataset, Dataset.from_list([{"instruction": "", "input": "", "output": "Nothing."}])])
    scorer = make_scorer(scores=("confidence", "ifd"))
    for seed in range(4):  # in the share or not
        scored = ExtrapolatedScorer(scorer, 0.5, seed=seed, **ANY).score(rows)
        assert scored["dlc_status"][-1] == "partly_no_prompt"
        assert np.isnan(scored["dlc_ifd"][-1])


def test_its_cost_is_foretold(make_scorer: Callable, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = make_scorer(scores="confidence,loss,ifd")
    seconds = {4: 40.0, 2: 10.0}  # of three levels and the responses alone, and of one level and these
    estimate = DLCScorer.estimate

    def timed(self: DLCScorer, *arguments: Any) -> Any:
        found = estimate(self, *arguments)
        return replace(found, seconds=seconds[len(self.parts.engine.passes(self.parts.schedule.fractions))])

    monkeypatch.setattr(DLCScorer, "estimate", timed)
    exact, plain = scorer.estimate(dataset), level_0_scorer(scorer).estimate(dataset)
    found = ExtrapolatedScorer(scorer, 0.5, **ANY).estimate(dataset)
    assert found.seconds == 10 + 0.5 * 40
    assert found.forward_passes == plain.forward_passes + round(0.5 * exact.forward_passes)
    assert (found.tokens, found.skipped, found.scored) == (exact.tokens, exact.skipped, exact.scored)
    with pytest.raises(ValueError, match="must have masked levels to be predicted"):
        ExtrapolatedScorer(make_scorer(levels="single"), 0.5).estimate(dataset)


def test_passes_over_other_views_are_counted(make_scorer: Callable, dataset: Dataset) -> None:
    extrapolated = ExtrapolatedScorer(make_scorer(scores="confidence,ifd"), 0.5, **ANY)
    extrapolated.score(dataset)
    agreement = extrapolated.agreement_
    assert agreement.passes == pytest.approx(2 + agreement.scored / 60 * 4)  # three levels, and the responses alone
