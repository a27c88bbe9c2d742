"""Law 3: a row's score does not depend on the rows around it or on how it was handed over (float32, dense models)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_dlc import DLCScorer
from hf_dlc.scores.table import SCORES
from hf_dlc.tasks.text.task import CausalLMTask
from tests.conftest import DENSE_MODELS
from tests.rows import ALPACA_ROWS, SKIPPED_ROWS
from tests.set_ups import SET_UPS, SetUp, set_up
from tests.ways import ALL_WAYS, WAYS


CONFIDENCE, LOSS = 1e-5, 1e-4
DATASET = Dataset.from_list(ALPACA_ROWS)

TOKENISED = [
    {
        "input_ids": list(range(5, 5 + length)),
        "labels": [-100] * (length // 2) + list(range(5 + length // 2, 5 + length)),
    }
    for length in (2, 3, 30, 7, 120)
]
MESSAGES = [
    {"messages": [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]}
    for row in ALPACA_ROWS
]
LAYOUTS = {"alpaca": ALPACA_ROWS, "messages": MESSAGES, "tokenised": TOKENISED}


def scores(columns: Any) -> np.ndarray:
    """Confidence and loss of each row, `(rows, 2)`; of a dict of columns or a dataset."""
    found = np.stack(
        [np.asarray(columns[name][:], dtype=np.float64) for name in ("dlc_confidence", "dlc_loss")], axis=1
    )
    assert np.isfinite(found).all()
    return found


def alone(scorer: DLCScorer, rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """The reference: each row in a batch of its own, with nothing but its own tokens."""
    return np.concatenate([scores(scorer({name: [value] for name, value in row.items()})) for row in rows])


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found[:, 0], expected[:, 0], atol=CONFIDENCE, rtol=0)
    np.testing.assert_allclose(found[:, 1], expected[:, 1], atol=LOSS, rtol=0)


def assert_all_same(found: dict[str, np.ndarray], it: SetUp, order: Sequence[int] | None = None) -> None:
    """Every score of a set-up is that of its one scoring, whose rows come in another order."""
    for score, values in it.values.items():
        most = CONFIDENCE if SCORES[score].unit == "" else LOSS
        expected = values if order is None else values[list(order)]
        np.testing.assert_allclose(found[score], expected, atol=most, rtol=0, err_msg=score)


# Several processes are in test_processes.py, where every bit is the same.
_ELSEWHERE = {*((name, "score in two processes") for name in SET_UPS)}


@pytest.mark.parametrize(
    ("name", "way"), [pair for pair in itertools.product(SET_UPS, ALL_WAYS) if pair not in _ELSEWHERE]
)
def test_all_ways_give_every_score(name: str, way: str) -> None:
    it = set_up(name)
    scored = ALL_WAYS[way](it.scorer, it.rows)
    assert_all_same(it.read(scored), it)
    for told in ("dlc_status", "dlc_tokens"):
        assert scored[told][:] == it.scored[told][:]


@pytest.mark.parametrize("budget", [1, 40, 10**6])
@pytest.mark.parametrize("name", SET_UPS)
def test_the_company_of_a_row_changes_no_score(name: str, budget: int) -> None:
    """Rows alone, by a few and all together, in another order."""
    it = set_up(name)
    order = random.Random(budget).sample(range(len(it.rows) - 1), len(it.rows) - 1)
    rows = it.rows.select([*order, len(order)])
    assert_all_same(it.read(it.make(tokens_per_batch=budget).score(rows)), it, order)


@pytest.mark.parametrize(
    ("name", "layout"), [*((name, "alpaca") for name in DENSE_MODELS), ("llama", "messages"), ("gpt2", "tokenised")]
)
def test_all_ways_of_handing_over(make_scorer: Callable, name: str, layout: str) -> None:
    scorer, rows = make_scorer(name), LAYOUTS[layout]
    expected = alone(scorer, rows)
    assert np.ptp(expected[:, 1]) > 0.1  # rows that are all alike would prove little
    dataset = Dataset.from_list(rows)
    for way in ALL_WAYS.values():
        assert_same(scores(way(scorer, dataset)), expected)


@pytest.mark.parametrize("format_type", ["numpy", "torch", "pandas", "arrow"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_formats(make_scorer: Callable, layout: str, format_type: str) -> None:
    scorer = make_scorer()
    dataset = Dataset.from_list(LAYOUTS[layout])
    expected = scores(scorer.score(dataset))
    formatted = dataset.with_format(format_type)
    scored = scorer.score(formatted)
    assert scored.format["type"] == format_type
    assert_same(scores(scored.with_format(None)), expected)
    if format_type in ("numpy", "torch"):
        for options in ({}, {"batched": True}, {"batched": True, "batch_size": 3}):
            assert_same(scores(formatted.map(scorer, **options).with_format(None)), expected)


@pytest.mark.parametrize("budget", [1, 50, 100, 150, 400, 10**6])
def test_token_budget(make_scorer: Callable, passes: list[int], budget: int) -> None:
    found = scores(make_scorer(tokens_per_batch=budget, schedule="0, 0.1")(DATASET[:]))
    sizes = list(passes)
    expected = alone(make_scorer(schedule="0, 0.1"), ALPACA_ROWS)
    assert sum(sizes) == 2 * len(ALPACA_ROWS)
    assert {1: max(sizes) == 1, 10**6: sizes == [len(ALPACA_ROWS)] * 2}.get(budget, True)
    assert_same(found, expected)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_order(make_scorer: Callable, seed: int) -> None:
    scorer = make_scorer(tokens_per_batch=200)
    order = random.Random(seed).sample(range(len(ALPACA_ROWS)), len(ALPACA_ROWS))
    expected = scores(scorer.score(DATASET))
    assert_same(scores(scorer.score(DATASET.select(order))), expected[order])
    assert_same(scores(scorer([ALPACA_ROWS[index] for index in order])), expected[order])


@pytest.mark.parametrize("name", DENSE_MODELS)
def test_neighbours_and_padding(make_scorer: Callable, name: str) -> None:
    scorer = make_scorer(name, tokens_per_batch=10**6)
    row = TOKENISED[2]
    expected = alone(scorer, [row])
    for neighbour in ({"input_ids": [9] * 700, "labels": [9] * 700}, {"input_ids": [3, 4], "labels": [-100, 4]}, row):
        for rows in ([row, neighbour], [neighbour, row], [neighbour, row, neighbour]):
            found = scores(scorer(rows))
            assert_same(found[[index for index, other in enumerate(rows) if other is row][:1]], expected)


def test_the_same_row_twice(make_scorer: Callable) -> None:
    found = scores(make_scorer()([ALPACA_ROWS[0]] * 5))
    assert_same(found, np.repeat(found[:1], 5, axis=0))


@pytest.mark.parametrize("batched", [False, True])
def test_rows_between_skipped_ones(make_scorer: Callable, batched: bool) -> None:
    scorer = make_scorer()
    skipped = list(SKIPPED_ROWS.values())
    rows = [skipped[0]]
    for index, row in enumerate(ALPACA_ROWS):
        rows += [row, skipped[index % 3]]
    dataset = Dataset.from_list(rows)
    scored = dataset.map(scorer, batched=True) if batched else scorer.score(dataset)
    assert [status == "ok" for status in scored["dlc_status"]] == [row["output"] in _OUTPUTS for row in rows]
    assert_same(scores(scored.filter(lambda row: row["dlc_status"] == "ok")), alone(scorer, ALPACA_ROWS))


_OUTPUTS = {row["output"] for row in ALPACA_ROWS}


@pytest.mark.parametrize("name", DENSE_MODELS)
def test_all_ways_where_rows_share_a_head(make_scorer: Callable, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Batches of 8 rows and more, and rows on their own, share the head of the Alpaca prompt; small ones do not."""
    rows = [{**row, "output": f"{i}: {row['output']}"} for i in range(3) for row in ALPACA_ROWS]
    dataset = Dataset.from_list(rows)
    scorer = make_scorer(name, template="alpaca", schedule="0, 0.1", tokens_per_batch=500)
    order = random.Random(0).sample(range(len(rows)), len(rows))
    ways = {name: scores(way(scorer, dataset)) for name, way in WAYS.items()}
    ways["map in nines"] = scores(dataset.map(scorer, batched=True, batch_size=9))
    ways["map in threes"] = scores(ALL_WAYS["map in threes"](scorer, dataset))
    ways["score in another order"] = scores(scorer.score(dataset.select(order)))[np.argsort(order)]
    monkeypatch.setattr(CausalLMTask, "shares", lambda self, shared_head: False)
    expected = alone(make_scorer(name, template="alpaca", schedule="0, 0.1"), rows)
    for found in ways.values():
        assert_same(found, expected)


def test_which_id_pads_does_not_matter(make_scorer: Callable) -> None:
    scorer = make_scorer()
    expected = scores(scorer(DATASET[:]))
    scorer.processor.pad_token = None
    assert_same(scores(scorer(DATASET[:])), expected)
    with torch.no_grad():  # what stands for id 0, which fills the short rows, must reach nothing
        scorer.model.get_input_embeddings().weight[0] = 1e6
    assert_same(scores(scorer(DATASET[:])), expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads(make_scorer: Callable, threads: int) -> None:
    scorer = make_scorer()
    assert_same(scores(scorer.score(DATASET, num_threads=threads)), alone(scorer, ALPACA_ROWS))


def test_bitwise_for_one_plan(make_scorer: Callable) -> None:
    scorer = make_scorer(tokens_per_batch=10**6)
    once, again = (scores(scorer.score(DATASET, num_threads=1)) for _ in range(2))
    assert np.array_equal(once, again)
    assert np.array_equal(once, scores(make_scorer(tokens_per_batch=10**6).score(DATASET, num_threads=1)))


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_mixtures_of_experts(make_scorer: Callable, name: str) -> None:
    # Not promised in general, where a near-tie of the router may flip; none of these rows has one.
    scorer = make_scorer(name, schedule="0, 0.1")
    assert_same(scores(scorer.score(DATASET)), alone(scorer, ALPACA_ROWS))
