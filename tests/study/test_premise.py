"""Losses that are kept while a model learns, and scores that are held against them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Pillow
from torch.nn.functional import cross_entropy
from transformers import DataCollatorForSeq2Seq, TrainerCallback, ViTConfig, ViTImageProcessor, ViTModel

from hf_dlc import DLCScorer
from hf_dlc.report.statistics import within_groups
from hf_dlc.study import premise
from hf_dlc.study.image_training import LinearHead
from hf_dlc.study.premise import (
    EpochLosses,
    PremiseArguments,
    draw_rows,
    foretell,
    learning_curves,
    mean_spearman,
    premise_table,
    row_losses,
)
from hf_dlc.study.training import padder, train_lora
from hf_dlc.utils.ranks import spearman
from tests.conftest import same_weights, weights
from tests.rows import many_rows
from tests.study.conftest import ROWS, losses_by_hand


FAST = {"epochs": 2, "learning_rate": 0.02, "trainer": "transformers"}
NOTHING = {"instruction": "Say nothing.", "input": "", "output": ""}


class LossesByHand(TrainerCallback):
    """The same as `EpochLosses`, but one row at a time."""

    def __init__(self, rows: Dataset) -> None:
        self.rows = rows
        self.kept: list[np.ndarray] = []

    def on_epoch_end(self, *_: Any, model: Any, **__: Any) -> None:
        sums, counts = losses_by_hand(model.eval(), self.rows)
        self.kept.append(sums / counts)


# ---- losses of texts ---------------------------------------------------------------------------------------------


def test_losses_of_each_epoch_are_those_of_the_adapters_of_then(scorer: DLCScorer) -> None:
    """Rows in their places, whatever their lengths; one that has nothing to learn from has no losses."""
    rows = Dataset.from_list([*ROWS[:7], NOTHING, *ROWS[7:14]])
    before = weights(scorer.model)
    curves = learning_curves(scorer, scorer.score(rows), PremiseArguments(**FAST, batch_size=4))
    assert same_weights(scorer.model, before)  # its adapters are gone
    tokens = scorer.tokenize(rows)
    by_hand = LossesByHand(tokens)
    train_lora(scorer, tokens, PremiseArguments(**FAST, batch_size=4), 0, callbacks=[by_hand]).unload()
    assert curves.shape == (15, 2)
    assert np.isnan(curves[7]).all()
    assert curves[tokens["row"][:]] == pytest.approx(np.transpose(by_hand.kept), abs=1e-4)
    assert np.abs(by_hand.kept[0] - by_hand.kept[1]).max() > 0.01  # each epoch has losses of its own


@pytest.mark.parametrize("trainer", ["transformers", "sft"])
def test_looking_on_changes_nothing(scorer: DLCScorer, trainer: str) -> None:
    """With dropout, which is off while the losses are measured and on again afterwards."""
    if trainer == "sft":
        pytest.importorskip("trl", reason="trains with TRL")
    tokens = scorer.tokenize(Dataset.from_list(ROWS[:12]))
    options = PremiseArguments(**{**FAST, "trainer": trainer}, batch_size=4, lora_dropout=0.3)
    collate, inputs = DataCollatorForSeq2Seq(padder(scorer)), tokens.remove_columns("row")
    found = []
    for callbacks in ([], [EpochLosses(partial(row_losses, rows=inputs, collate=collate, batch_size=5))]):
        model = train_lora(scorer, tokens, options, 0, callbacks=callbacks)
        found.append(weights(model))
        if callbacks:
            sums, counts = losses_by_hand(model, tokens)
            assert callbacks[0].kept[-1] == pytest.approx(sums / counts, abs=1e-4)  # of the last epoch
        model.unload()
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_training_goes_on_in_its_mode() -> None:
    model, modes = torch.nn.Dropout(), []
    callback = EpochLosses(lambda one: modes.append(one.training))
    callback.on_epoch_end(None, None, None, model=model)
    assert modes == [False]
    assert model.training


def test_untrained_losses_are_plain_loss(scorer: DLCScorer) -> None:
    rows = Dataset.from_list(ROWS[:10])
    tokens = scorer.tokenize(rows).remove_columns("row")
    losses = row_losses(scorer.model, tokens, DataCollatorForSeq2Seq(padder(scorer)), batch_size=3)
    assert losses == pytest.approx(np.array(scorer.score(rows)["dlc_loss"][:]), abs=1e-4)


def test_rows_that_are_drawn(scorer: DLCScorer) -> None:
    rows = Dataset.from_list([*many_rows(30), NOTHING, {**ROWS[0], "output": "fox " * 50}])
    drawn = draw_rows(scorer, rows, PremiseArguments(rows=1000, longest_row=80))
    assert drawn.to_list() == rows.to_list()[:30]
    lengths = sorted(map(len, scorer.tokenize(drawn)["input_ids"]))
    most = [draw_rows(scorer, rows, PremiseArguments(rows=1000, longest_row=lengths[-1] - less)) for less in (0, 1)]
    assert [len(one) for one in most] == [30, 30 - lengths.count(lengths[-1])]
    few = draw_rows(scorer, rows, PremiseArguments(rows=8, longest_row=80))
    again, other = (draw_rows(scorer, rows, PremiseArguments(rows=8, longest_row=80, study_seed=i)) for i in (0, 1))
    assert len(few) == 8
    assert few.to_list() == again.to_list() != other.to_list()
    with pytest.raises(ValueError, match="2 rows are needed, got 0 that can be trained on"):
        draw_rows(scorer, rows, PremiseArguments(longest_row=3))
    with pytest.raises(ValueError, match=r"label must name a column of classes .* got 'output'"):
        draw_rows(scorer, rows, PremiseArguments(label="output"))


# ---- losses of images --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    ViTModel(ViTConfig(**sizes, image_size=24, patch_size=8)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 24, "width": 24}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def images() -> Dataset:
    """Two classes of pictures that are easy to tell, and one picture without a class."""
    rng = np.random.default_rng(0)
    labels = [0, 1] * 8 + [None]
    pictures = [Pillow.fromarray(rng.integers(0, 60 + 190 * bool(i), (24, 24, 3)).astype(np.uint8)) for i in labels]
    features = Features({"image": Image(), "label": ClassLabel(names=["dark", "bright"])})
    return Dataset.from_dict({"image": pictures, "label": labels}, features)


def image_scorer(folder: Path, images: Dataset) -> DLCScorer:
    return DLCScorer.from_pretrained(folder, dtype="float32", head="prototype", schedule="0, 0.2").fit(images)


def test_losses_of_images_fall_as_they_are_learned(vit_folder: Path, images: Dataset) -> None:
    scorer = image_scorer(vit_folder, images)
    scored = scorer.score(images)
    options = {"label": "label", "model": str(vit_folder), "batch_size": 4, "epochs": 3}
    for more in ({"frozen": True, "learning_rate": 0.05}, {"frozen": False, "learning_rate": 1e-3}):
        curves = learning_curves(scorer, scored, PremiseArguments(**options, **more))
        assert curves.shape == (17, 3)
        assert np.isnan(curves[16]).all()  # it has no class
        assert curves[:16, 2].mean() < curves[:16, 0].mean() < np.log(2) + 0.2


def test_losses_of_images_are_those_of_the_head_of_then(
    vit_folder: Path, images: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By scaled features that are computed here once more, and by the weights that the head has at each epoch."""
    scorer, heads = image_scorer(vit_folder, images), []

    class Watched(EpochLosses):
        def on_epoch_end(self, *arguments: Any, model: Any, **kwargs: Any) -> None:
            super().on_epoch_end(*arguments, model=model, **kwargs)
            heads.append((model.linear.weight.detach().clone(), model.linear.bias.detach().clone()))

    monkeypatch.setattr(premise, "EpochLosses", Watched)
    options = PremiseArguments(label="label", batch_size=4, epochs=2, learning_rate=0.05)
    curves = learning_curves(scorer, scorer.score(images), options)[:16]
    features = scorer.features(images.select(range(16)))
    scaled = torch.from_numpy((features - features.mean(axis=0)) / (features.std(axis=0) + 1e-6))
    labels = torch.tensor(images["label"][:16])
    expected = [cross_entropy(scaled @ weight.T + bias, labels, reduction="none") for weight, bias in heads]
    assert curves == pytest.approx(torch.stack(expected, dim=1).numpy(), abs=1e-4)
    assert len(heads) == 2


def test_a_loss_for_each_image() -> None:
    head = LinearHead(2, 3)
    rows = Dataset.from_dict({"features": [[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]], "labels": [2, 0, 1]})
    rows = rows.with_format("torch")
    losses = row_losses(head, rows, torch.utils.data.default_collate, batch_size=2)
    expected = cross_entropy(head.linear(rows["features"][:]), rows["labels"][:], reduction="none")
    assert losses == pytest.approx(expected.detach().numpy(), abs=1e-6)


# ---- the comparison ----------------------------------------------------------------------------------------------


def test_scores_that_foretell_all_and_nothing() -> None:
    """A score that equals the losses, the same turned round, and one whose ranks are reversed."""
    losses = np.arange(40.0)
    scored = Dataset.from_dict({"dlc_loss": losses, "dlc_confidence": 1 - losses / 40, "dlc_plain_loss": -losses})
    found = {one.score: one for one in foretell(scored, losses, ["loss", "confidence", "plain_loss"], samples=50)}
    assert list(found)[-1] == "plain_loss"
    for name in ("loss", "confidence"):  # high confidence is easy, so it goes down as the losses go up
        one = found[name]
        assert (one.spearman, one.low, one.high, one.rows, one.compared) == (1.0, 1.0, 1.0, 40, "all rows")
        assert (one.gap, one.gap_low, one.gap_high) == (2.0, 2.0, 2.0)  # over plain loss
    plain = found["plain_loss"]
    assert (plain.spearman, plain.gap, plain.gap_low, plain.gap_high) == (-1.0, None, None, None)


def test_numbers_are_those_of_the_rows_that_have_them() -> None:
    rng = np.random.default_rng(0)
    losses = rng.random(60)
    scored = Dataset.from_dict(
        {"dlc_ifd": [*(losses[:-1] + rng.random(59)), np.nan], "dlc_plain_loss": losses + rng.random(60) / 4}
    )
    plain, ifd = foretell(scored, np.append(np.nan, losses[1:]), ["ifd", "plain_loss"], samples=200)
    assert (plain.score, plain.rows, ifd.rows) == ("plain_loss", 59, 58)
    known = slice(1, 59)
    columns = {name: np.array(scored[f"dlc_{name}"][:])[known] for name in ("ifd", "plain_loss")}
    assert ifd.spearman == pytest.approx(spearman(columns["ifd"], losses[known]))
    assert ifd.gap == pytest.approx(ifd.spearman - spearman(columns["plain_loss"], losses[known]))
    assert ifd.low < ifd.spearman < ifd.high
    assert ifd.gap_low < ifd.gap < ifd.gap_high < 0
    alone, again, other = (foretell(scored, losses, ["ifd"], samples=50, seed=seed)[0] for seed in (0, 0, 1))
    assert alone.gap is None
    assert alone == again != other


def test_within_classes_a_difference_between_classes_counts_for_nothing() -> None:
    """In the first class the score says all, in the second the contrary, and in the third something."""
    classes = np.repeat([0, 1, 2], [30, 20, 10])
    losses = np.concatenate([np.arange(30.0), 100 + np.arange(20.0), 200 + np.arange(10.0)])
    rng = np.random.default_rng(0)
    values = np.concatenate([losses[:30], 139.0 - np.arange(20.0), 200.0 + rng.permutation(10)])
    overall, within = foretell(Dataset.from_dict({"dlc_loss": values}), losses, ["loss"], classes, samples=200)
    assert (overall.compared, within.compared) == ("all rows", "within classes")
    assert overall.spearman == pytest.approx(spearman(values, losses))
    assert within.spearman == pytest.approx(within_groups(spearman, values, losses, classes))
    assert overall.spearman > 0.8 > 0.3 > within.spearman
    assert within.low < within.spearman < within.high < overall.low


def test_draws_stand_beside_each_other() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.random(20), rng.random(20)
    groups = [rng.integers(0, 12, (5, 12)), rng.integers(12, 20, (5, 8))]
    found = mean_spearman(left, right, groups)
    for draw in range(5):
        rows = [group[draw] for group in groups]
        apart = [spearman(left[one], right[one]) for one in rows]
        assert found[draw] == pytest.approx(np.average(apart, weights=[12, 8]))
    constant = mean_spearman(left, np.append(np.ones(12), right[12:]), [np.arange(12), np.arange(12, 20)])
    assert constant == pytest.approx(spearman(left[12:], right[12:]))
    assert np.isnan(mean_spearman(left, np.ones(20), [np.arange(20)]))


def test_table() -> None:
    scored = Dataset.from_dict({"dlc_loss": [1.0, 2.0, 3.0, 4.0], "dlc_plain_loss": [4.0, 3.0, 2.0, 1.0]})
    found = foretell(scored, np.arange(4.0), ["loss", "plain_loss"], samples=20)
    text = premise_table(found)
    assert "| `loss` | all rows | 1.000 (1.000 to 1.000) | +2.000 (+2.000 to +2.000) |" in text
    assert "| `plain_loss` | all rows | -1.000 (-1.000 to -1.000) | - |" in text
    assert foretell(scored, np.ones(4), ["loss"], samples=20)[0].to_json()["spearman"] is None
