"""Every score of the table, in every set-up, is what a slow oracle makes of the model's own logits, row by row."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.masking import Masker
from hf_dlc.scores.table import SCORES
from tests.laws import test_contrast
from tests.set_ups import (
    FIRST_TOKENS,
    MISSING_IN_SET_UPS,
    NEIGHBOURS,
    SCORES_OF_SET_UPS,
    SET_UPS,
    SetUp,
    column,
    encoder,
    set_up,
)


class Predicted(NamedTuple):
    """What a model predicts where the target tokens of a row stand; of an image, the label is the one token."""

    log_p: np.ndarray  # of the whole vocabulary, (tokens, vocabulary)
    tokens: np.ndarray  # those that stand there, (tokens,)

    @property
    def p(self) -> np.ndarray:
        return np.exp(self.log_p)

    @property
    def of_tokens(self) -> np.ndarray:
        """Log p of the tokens that stand there."""
        return self.log_p[np.arange(len(self.tokens)), self.tokens]

    @property
    def loss(self) -> float:
        return -self.of_tokens.mean()


# ---- what the model predicts, row by row ---------------------------------------------------------------------------


def text_logits(it: SetUp, model: nn.Module) -> list[Predicted]:
    """From the logits of a forward pass over each row."""
    found = []
    for row in it.scorer.tokenize(it.rows):
        ids, labels = torch.tensor(row["input_ids"]), np.array(row["labels"])
        places = np.flatnonzero(labels != -100)
        logits = model(input_ids=ids[None]).logits[0, places - 1]
        found.append(Predicted(logits.double().log_softmax(dim=1).numpy(), labels[places]))
    return found


def pixels_of(it: SetUp) -> torch.Tensor:
    """What the processor makes of all images but the last, which is none."""
    return it.scorer.processor(it.rows["picture"][:-1], return_tensors="pt")["pixel_values"]


def head_logits(it: SetUp, model: nn.Module) -> list[Predicted]:
    """From the logits of the trained head."""
    logits = [model(pixel_values=one[None]).logits.double() for one in pixels_of(it)]
    labels = it.rows["label"][:-1]
    return [
        Predicted(one.log_softmax(dim=1).numpy(), np.array([label])) for one, label in zip(logits, labels, strict=True)
    ]


def first_token(it: SetUp, model: nn.Module) -> np.ndarray:
    """The last hidden state of the first token of each image."""
    return np.stack([model(pixel_values=one[None]).last_hidden_state[0, 0].double().numpy() for one in pixels_of(it)])


def prototype_logits(it: SetUp, model: nn.Module) -> list[Predicted]:
    """The logit of a class is 1 / distance to the mean of its other images, as the unmasked model sees these."""
    seen, fitted, labels = first_token(it, model), first_token(it, it.scorer.model), np.array(it.rows["label"][:-1])
    found = []
    for place, label in enumerate(labels):
        others = np.arange(len(labels)) != place
        means = [fitted[others & (labels == one)].mean(axis=0) for one in range(3)]
        logits = 1 / np.linalg.norm(seen[place] - means, axis=1)
        found.append(Predicted((logits - np.log(np.exp(logits).sum()))[None], np.array([label])))
    return found


PREDICTIONS: dict[str, Callable[[SetUp, nn.Module], list[Predicted]]] = {
    "text": text_logits,
    "classifier": head_logits,
    "prototype": prototype_logits,
}


@cache
@torch.inference_mode()
def predictions(name: str) -> list[tuple[Predicted, ...]]:
    """What the model predicts of each row at each level, level 0 first."""
    it, levels = set_up(name), []
    double = copy.deepcopy(it.scorer.model)
    for fraction in it.scorer.schedule_:
        with Masker(double, "random", seed=0).session() as session:
            session.set_fraction(fraction)
            levels.append(PREDICTIONS[name](it, double))
    return list(zip(*levels, strict=True))


# ---- scores of one row, from what is predicted of it ---------------------------------------------------------------


def gain(levels: Sequence[Predicted]) -> float:
    plain, *masked = (level.loss for level in levels)
    return np.mean([(loss - plain) / max(loss, plain, 0.01) for loss in masked])


def margin(row: Predicted) -> float:
    return np.mean([p[token] - max(np.delete(p, token)) for p, token in zip(row.p, row.tokens, strict=True)])


def el2n(row: Predicted) -> float:
    one_hot = np.eye(row.p.shape[1])[row.tokens]
    return np.linalg.norm(row.p - one_hot, axis=1).mean()


# ---- scores that are no matter of the logits of whole rows ---------------------------------------------------------


def similarities(it: SetUp) -> list[float]:
    """The cosine of two texts: all that is said to the assistant, with the name of who says it, and its answers."""
    from sentence_transformers import SentenceTransformer

    model, found = SentenceTransformer(encoder(), device="cpu"), []
    for row in list(it.rows)[:-1]:
        said = [message["content"] for message in row["messages"]]
        asked, answered = "".join(f"user\n{one}\n" for one in said[::2]), "\n".join(said[1::2])
        prompt, response = model.encode([asked.strip(), answered.strip()])
        found.append(prompt @ response / np.linalg.norm(prompt) / np.linalg.norm(response))
    return found


def contrasts(it: SetUp) -> dict[str, list[float]]:
    """By the oracle of the law of contrast, which takes the model's own `labels=` loss of each turn."""
    return test_contrast.expected(it.scorer, list(it.rows)[:-1], FIRST_TOKENS)


@torch.inference_mode()
def target_shifts(it: SetUp) -> list[float]:
    """The loss of the model, less that of a copy into whose weights the adapters are multiplied."""
    double = copy.deepcopy(it.scorer.model)
    for change in it.scorer.parts.adapters.changes:
        double.get_submodule(change.module).weight += torch.from_numpy(change.scale * change.up @ change.down)
    losses = [[row.loss for row in PREDICTIONS[it.name](it, model)] for model in (it.scorer.model, double)]
    return np.subtract(*losses).tolist()


@torch.inference_mode()
def neighbour_shares(it: SetUp) -> np.ndarray:
    """A mean over both layers, the first tokens of which are compared, with each image left out of its own pool."""
    model, labels, found = it.scorer.model, np.array(it.rows["label"][:-1]), []
    states = [model(pixel_values=one[None], output_hidden_states=True).hidden_states for one in pixels_of(it)]
    for layer in (1, 2):
        z = np.stack([row[layer][0, 0].double().numpy() for row in states])
        distances = np.linalg.norm(z[:, None] - z, axis=2)
        np.fill_diagonal(distances, np.inf)
        nearest = np.argsort(distances, axis=1)[:, :NEIGHBOURS]
        lengths = np.linalg.norm(z, axis=1, keepdims=True)
        weights = 1 / np.maximum(np.take_along_axis(distances, nearest, axis=1), lengths / 1000)
        found.append((weights * (labels[nearest] == labels[:, None])).sum(axis=1) / weights.sum(axis=1))
    return np.mean(found, axis=0)


# ---- the table -----------------------------------------------------------------------------------------------------

Oracle = Callable[[SetUp], Sequence[float]]


def by_levels(of_row: Callable[[Sequence[Predicted]], float]) -> Oracle:
    return lambda it: [of_row(levels) for levels in predictions(it.name)]


def unmasked(of_row: Callable[[Predicted], float]) -> Oracle:
    return by_levels(lambda levels: of_row(levels[0]))


# A score of the table without an oracle here fails the tests below.
ORACLES: dict[str, Oracle] = {
    "confidence": by_levels(lambda levels: np.mean([np.exp(level.of_tokens).mean() for level in levels])),
    "loss": by_levels(lambda levels: np.mean([level.loss for level in levels])),
    "gain": by_levels(gain),
    "plain_confidence": unmasked(lambda row: np.exp(row.of_tokens).mean()),
    "plain_loss": unmasked(lambda row: row.loss),
    "entropy": unmasked(lambda row: stats.entropy(row.p, axis=1).mean()),
    "margin": unmasked(margin),
    "el2n": unmasked(el2n),
    "ifd": lambda it: contrasts(it)["ifd"],
    "prompt_gain": lambda it: contrasts(it)["prompt_gain"],
    "similarity": similarities,
    "knn_confidence": neighbour_shares,
    "target_shift": target_shifts,
}


def test_every_score_has_an_oracle_and_a_set_up() -> None:
    assert ORACLES.keys() == SCORES.keys()
    assert {score for _, score in SCORES_OF_SET_UPS} == SCORES.keys()


@pytest.mark.parametrize("name", SET_UPS)
def test_set_ups_give_the_scores_that_they_say(name: str) -> None:
    it = set_up(name)
    assert set(it.scorer.config.scores) == set(it.scores)
    assert it.scored["dlc_status"][-1] in ("empty_response", "invalid_image")


@pytest.mark.parametrize(("name", "score"), SCORES_OF_SET_UPS)
def test_it_is_what_the_models_own_logits_give(name: str, score: str) -> None:
    it = set_up(name)
    expected = np.array(ORACLES[score](it))
    np.testing.assert_allclose(it.values[score], expected, atol=1e-4, rtol=1e-4)
    assert len(expected) == len(it.rows) - 1
    assert np.ptp(expected) > 0.05  # rows that are all alike would prove little
    low, high = SCORES[score].low, SCORES[score].high
    assert ((expected >= low) & (expected <= high)).all()


@pytest.mark.parametrize("score", ["confidence", "plain_confidence"])
def test_a_geometric_mean_is_the_exponential_of_the_loss(score: str) -> None:
    it = set_up("text")
    scored = it.make(token_mean="geometric", scores=(score,)).score(it.rows, num_threads=1)
    levels = [[np.exp(-level.loss) for level in row] for row in predictions("text")]
    expected = np.mean(levels, axis=1) if score == "confidence" else np.array(levels)[:, 0]
    np.testing.assert_allclose(column(scored, score)[:-1], expected, atol=1e-5)
    assert np.abs(expected - it.values[score]).min() > 0.01  # it is not the mean of p(token)


@pytest.mark.parametrize(("name", "score"), MISSING_IN_SET_UPS)
def test_a_score_that_such_rows_cannot_have_is_refused_by_its_name(name: str, score: str) -> None:
    it = set_up(name)
    options: dict[str, Any] = {"scores": ("plain_loss", score), "head": it.scorer.config.head}
    with pytest.raises(ValueError, match=rf"the score '{score}' .*[Ll]eave the score out\.$"):
        DLCScorer(it.scorer.model, it.scorer.processor, DLCConfig(**options))
