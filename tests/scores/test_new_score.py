"""A new score is a class and a line in the table: model, journal, resumed runs and columns follow by themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from datasets import ClassLabel, Dataset, Features, Image
from datasets.fingerprint import Hasher
from PIL import Image as Pillow

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.execution.journal import JournalError
from hf_dlc.execution.loop import LevelLoop
from hf_dlc.scores.base import Measure, OverLevels, Pass, mean_over_levels, measures_by_pass, passes_to_json
from hf_dlc.scores.columns import score_features
from hf_dlc.scores.dlc import CONFIDENCE, LOSS
from hf_dlc.scores.table import SCORES
from hf_dlc.tasks.text import head as head_module
from hf_dlc.tasks.text.head import OutputHead
from tests.conftest import ALPACA_ROWS, SKIPPED_ROWS


ROWS = Dataset.from_list([*ALPACA_ROWS, *SKIPPED_ROWS.values()])
SCORED = len(ALPACA_ROWS)
# Clipped, since 0 times minus infinity is no number.
ENTROPY = Measure("entropy", of_distribution=lambda log_p: -(log_p.exp() * log_p.clip(min=-1e4)).sum(-1))


class Entropy(OverLevels):
    """Mean over the levels of the mean entropy of what is predicted where the target tokens stand."""

    name = "entropy"
    easy = "low"
    low, high = 0.0, float("inf")
    unit = "nats"
    text = "mean over all levels of masked weights of the mean entropy of what is predicted for the target tokens"
    measures = (ENTROPY,)

    def reduce(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        return mean_over_levels(values["entropy"])


class UnmaskedEntropy(Entropy):
    """The same of the unmasked model alone."""

    def passes(self, schedule: Sequence[float]) -> tuple[Pass, ...]:
        return (Pass(),)


class KilledError(BaseException):
    """Ends a run as a signal would."""


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here takes the power away."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture(params=[Entropy, UnmaskedEntropy])
def score(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Entropy:
    """The new score, in the table; each chunk of logits holds two tokens, so that there are several."""
    monkeypatch.setitem(SCORES, "entropy", request.param())
    monkeypatch.setitem(head_module._LOGITS_AT_ONCE, "full", 800)
    return SCORES["entropy"]


def naive(scorer: DLCScorer) -> np.ndarray:
    """Entropy of each row at each level, `(rows, levels)`, from the model's own logits."""
    entropies = np.zeros((SCORED, len(scorer.schedule_)))
    for row in scorer.tokenize(ROWS):
        ids, wanted = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"][1:]) != -100
        with torch.inference_mode(), scorer.parts.masker.session(scorer.schedule_) as session:
            for level in range(len(scorer.schedule_)):
                session.set_level(level)
                p = scorer.model(input_ids=ids).logits[0, :-1][wanted].double().softmax(dim=1)
                entropies[row["row"], level] = -(p * p.log()).sum(dim=1).mean()
    return entropies


def column(scored: Dataset, name: str) -> np.ndarray:
    return np.array(scored[f"dlc_{name}"][:], dtype=np.float32)


WAYS: dict[str, Callable[[DLCScorer, Path], Dataset]] = {
    "map": lambda scorer, _: ROWS.map(scorer, batched=True),
    "map row by row": lambda scorer, _: ROWS.map(scorer),
    "score": lambda scorer, _: scorer.score(ROWS),
    "score with a journal": lambda scorer, folder: scorer.score(ROWS, run_dir=folder, chunk_seconds=0),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_what_the_models_own_logits_give(
    make_scorer: Callable, score: Entropy, tmp_path: Path, way: str
) -> None:
    scorer = make_scorer(keep_levels=True)
    scored, expected = WAYS[way](scorer, tmp_path / "run"), naive(scorer)
    assert scored.features == {**ROWS.features, **score_features(keep_levels=True)}
    levels = len(score.passes(scorer.schedule_))
    np.testing.assert_allclose(column(scored, "entropy")[:SCORED], expected[:, :levels].mean(axis=1), rtol=1e-4)
    assert np.isnan(column(scored, "entropy")[SCORED:]).all()
    found = column(scored, "level_entropy")[:SCORED]
    np.testing.assert_allclose(found[:, :levels], expected[:, :levels], rtol=1e-4)
    assert np.isnan(found[:, levels:]).all()  # not measured there
    assert expected.std(axis=0).min() > 1e-3  # the rows differ, so that it matters which is which


@pytest.mark.parametrize("options", [{}, {"token_mean": "geometric"}], ids=str)
def test_the_other_scores_stay(
    make_scorer: Callable, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    before = make_scorer(keep_levels=True, **options).score(ROWS)
    monkeypatch.setitem(SCORES, "entropy", Entropy())
    after = make_scorer(keep_levels=True, **options).score(ROWS)
    for name, most in (("confidence", 1e-5), ("loss", 1e-4), ("gain", 1e-4), ("level_loss", 1e-4)):
        np.testing.assert_allclose(column(after, name), column(before, name), atol=most, rtol=0)


def test_rows_that_were_mapped_before_are_mapped_again(make_scorer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` keeps what it mapped: it must not return columns of the scores that there were."""
    before = Hasher.hash(make_scorer())
    assert Hasher.hash(make_scorer()) == before
    rows = Dataset.from_list(ALPACA_ROWS)
    mapped = rows.map(make_scorer(), batched=True)
    monkeypatch.setitem(SCORES, "entropy", Entropy())
    assert Hasher.hash(make_scorer()) != before
    again = rows.map(make_scorer(), batched=True)
    assert again._fingerprint != mapped._fingerprint
    assert "dlc_entropy" in again.column_names


def test_a_level_costs_the_distribution_only_where_it_is_asked_for(
    make_scorer: Callable, score: Entropy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    measure = OutputHead.measure

    def spy(self: OutputHead, states: Any, labels: Any, kind: type, measures: Sequence[Measure], parts: int) -> Any:
        asked.append(tuple(one.name for one in measures))
        return measure(self, states, labels, kind, measures, parts)

    monkeypatch.setattr(OutputHead, "measure", spy)
    make_scorer(tokens_per_batch=10**5).score(ROWS, run_dir=tmp_path / "run")
    plain, whole = ("confidence", "loss"), ("confidence", "loss", "entropy")
    expected = [whole] * 3 if type(score) is Entropy else [whole, plain, plain]
    assert asked == expected
    chunks = [pq.read_table(path) for path in sorted((tmp_path / "run" / "chunks").glob("*.parquet"))]
    assert [tuple(chunk.column_names) for chunk in chunks] == [("level", "row", *names) for names in expected]
    manifest = json.loads((tmp_path / "run" / "journal.json").read_text(encoding="utf-8"))
    passes = manifest["settings"]["passes"]
    assert [tuple(one["measures"]) for one in passes] == expected
    assert [one["masked_fraction"] for one in passes] == [0.0, 0.1, 0.3]


def test_a_run_that_was_killed_goes_on_to_the_same_bits(
    make_scorer: Callable, score: Entropy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"keep_levels": True, "tokens_per_batch": 200}
    expected = make_scorer(**options).score(ROWS)
    passes, try_forward = [], LevelLoop._try_forward

    def killed(self: LevelLoop, *arguments: Any) -> Any:
        passes.append(self._level)
        if passes.count(1) == 2:  # in the midst of a level that is masked
            raise KilledError
        return try_forward(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(LevelLoop, "_try_forward", killed)
        with pytest.raises(KilledError):
            make_scorer(**options).score(ROWS, run_dir=tmp_path / "run", chunk_seconds=0)
    assert len(list((tmp_path / "run" / "chunks").iterdir())) == len(passes) - 1 > 1
    found = make_scorer(**options).score(ROWS, run_dir=tmp_path / "run")
    for name in score_features(keep_levels=True):
        np.testing.assert_array_equal(np.array(found[name][:]), np.array(expected[name][:]), err_msg=name)


def test_a_journal_of_other_scores_is_refused(make_scorer: Callable, tmp_path: Path, score: Entropy) -> None:
    make_scorer().score(ROWS, run_dir=tmp_path / "run")
    del SCORES["entropy"]
    with pytest.raises(JournalError, match="the passes that the scores ask for"):
        make_scorer().score(ROWS, run_dir=tmp_path / "run")


def test_nothing_but_skipped_rows(make_scorer: Callable, score: Entropy, tmp_path: Path) -> None:
    rows = ROWS.select(range(SCORED, len(ROWS)))
    for options in ({}, {"schedule": None}):  # which is not calibrated for them
        scorer = make_scorer(keep_levels=True, **options)
        levels = 3 if not options else 4
        for scored in (rows.map(scorer, batched=True), rows.map(scorer), scorer.score(rows, tmp_path / str(levels))):
            assert np.isnan(column(scored, "entropy")).all()
            assert column(scored, "level_entropy").shape == (len(rows), levels)
            assert column(scored, "level_loss").shape == (len(rows), levels)


@pytest.mark.parametrize("head", ["classifier", "prototype"])
def test_of_images(score: Entropy, head: str) -> None:
    rng, names = np.random.default_rng(0), ["dark", "grey", "light"]
    pictures = [rng.integers(0, 60 + 90 * (i % 3), size=(32, 32, 3)).astype(np.uint8) for i in range(9)]
    features = Features({"picture": Image(), "label": ClassLabel(names=names)})
    columns = {"picture": list(map(Pillow.fromarray, pictures)), "label": [i % 3 for i in range(9)]}
    rows = Dataset.from_dict(columns, features)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.ViTConfig(
        **sizes, image_size=32, patch_size=8, initializer_range=0.2, id2label=dict(enumerate(names))
    )
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    model = transformers.ViTForImageClassification(config).eval()
    scorer = DLCScorer(model, processor, DLCConfig(schedule="0, 0.2", head=head, keep_levels=True))
    if head == "prototype":
        scorer.fit(rows)
    scored = scorer.score(rows)
    found = column(scored, "level_entropy")
    with torch.inference_mode():
        if head == "classifier":
            pixels = torch.from_numpy(np.stack(processor(rows["picture"][:])["pixel_values"]))
            log_probs = model(pixel_values=pixels).logits.double().log_softmax(dim=1)
        else:
            task = scorer.parts.task
            fed = list(task.feed(task.encode_dataset(rows)))
            log_probs = task.prototypes.log_probs(task.features(fed), [row.digest for row in fed])
    expected = -(log_probs.exp() * log_probs).sum(dim=1)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4)
    assert np.isnan(found[:, 1]).all() == (type(score) is UnmaskedEntropy)
    mapped = rows.map(scorer)
    np.testing.assert_allclose(column(mapped, "entropy"), column(scored, "entropy"), rtol=1e-4)


# -- what a score asks for --------------------------------------------------------------------------------------------


def test_each_pass_is_run_once() -> None:
    wanted = measures_by_pass([*SCORES.values(), UnmaskedEntropy()], (0.0, 0.1, 0.3))
    assert wanted == {
        Pass(0.0): (CONFIDENCE, LOSS, ENTROPY),
        Pass(0.1): (CONFIDENCE, LOSS),
        Pass(0.3): (CONFIDENCE, LOSS),
    }
    assert passes_to_json(wanted)[0] == {
        "masked_fraction": 0.0,
        "view": "full",
        "weights": "base",
        "measures": ["confidence", "loss", "entropy"],
    }


def test_a_fraction_that_is_no_level(make_scorer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A score may ask for a pass of its own; the columns of the levels are of the schedule alone."""

    class Between(Entropy):
        def passes(self, schedule: Sequence[float]) -> tuple[Pass, ...]:
            return (Pass(0.2),)

    monkeypatch.setitem(SCORES, "entropy", Between())
    estimate = make_scorer(tokens_per_batch=10**5).estimate(ROWS)
    assert (estimate.forward_passes, estimate.seconds > 0) == (4, True)
    found = make_scorer(keep_levels=True).score(ROWS)
    monkeypatch.setitem(SCORES, "entropy", Entropy())
    expected = make_scorer(schedule="0, 0.2", keep_levels=True).score(ROWS)
    np.testing.assert_allclose(
        column(found, "entropy")[:SCORED], column(expected, "level_entropy")[:SCORED, 1], rtol=1e-4
    )
    assert column(found, "level_loss").shape == (len(ROWS), 3)
    assert np.isnan(column(found, "level_entropy")).all()


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (Pass(view="response"), "the score 'entropy' needs the view 'response', but the model is run with full only"),
        (Pass(weights="adapted"), "the score 'entropy' needs the weights 'adapted', but the model is run with base"),
    ],
)
def test_what_is_not_there_is_refused_by_the_name_of_the_score(
    make_scorer: Callable, monkeypatch: pytest.MonkeyPatch, one: Pass, words: str
) -> None:
    class Asking(Entropy):
        def passes(self, schedule: Sequence[float]) -> tuple[Pass, ...]:
            return (one,)

    monkeypatch.setitem(SCORES, "entropy", Asking())
    with pytest.raises(ValueError, match=words):
        make_scorer().score(ROWS)
    assert one in measures_by_pass([Asking()], (0.0,), {"full", "response"}, {"base", "adapted"})


def test_two_measures_of_one_name_are_refused() -> None:
    class Other(Entropy):
        measures = (Measure("loss", of_token=lambda log_probs: -2 * log_probs),)

    with pytest.raises(ValueError, match="'entropy' must measure the same under the name 'loss'"):
        measures_by_pass([*SCORES.values(), Other()], (0.0,))


@pytest.mark.parametrize("functions", [{}, {"of_token": abs, "of_distribution": abs}], ids=["none", "both"])
def test_a_measure_has_one_function(functions: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'odd' must have one of of_token, of_distribution and of_neighbours"):
        Measure("odd", **functions)
