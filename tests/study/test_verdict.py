"""The verdict of a study: what it says to take, with numbers, and that it never praises what is worse."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from typing import Any

import pytest

from hf_dlc.cli.commands import SelectFromRunArguments
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.pipeline.options import make_selector
from hf_dlc.study.arms import parse_arm
from hf_dlc.study.statistics import as_good_as_full, compare_overall, overall
from hf_dlc.study.verdict import verdict
from tests.study.findings import results_of


def test_the_best_arm_is_named_with_numbers() -> None:
    results = results_of({"loss easiest": 3.0, "ifd cut 0.3": -2.0, "target cosine": -4.0, "longest": 0.0})
    found = verdict(results)
    one = next(one for one in compare_overall(results, "loss per row") if one.arm == "target cosine")
    assert (found.arm, found.best) == ("target cosine", one)
    assert found.text.startswith(
        f"Take `target cosine`: its models have {-one.difference:.1f}% less loss a row than those of as many random "
        f"rows, over all budgets ({one.numbers()})."
    )
    assert f"{-one.difference:.1f}" in ("3.9", "4.0", "4.1")
    assert "Choosing costs 0.06 of an epoch of LoRA at all layers on all rows (STR)." in found.text  # (20 + 2) / 400


def test_a_better_arm_that_is_told_from_chance_is_taken_before_a_luckier_one() -> None:
    """A single seed can make the mean of an arm low, and prove nothing."""
    results = results_of({"ifd cut 0.3": -1.0, "longest": 0.0})
    for cell, found in results.confirming.items():
        if (cell.arm, cell.seed) == ("longest", 2):
            found["loss per row"] /= 2
    means = {one.arm: one.difference for one in compare_overall(results, "loss per row")}
    assert means["longest"] < means["ifd cut 0.3"]
    assert verdict(results).arm == "ifd cut 0.3"


@pytest.mark.parametrize("worse", [0.0, 3.0, 30.0])
@pytest.mark.parametrize("seeds", [1, 2, 6])
def test_what_is_not_better_is_never_taken(worse: float, seeds: int) -> None:
    results = results_of({"loss easiest": worse, "ifd cut 0.3": worse + 1}, seeds=seeds)
    found = verdict(results)
    assert found.arm == "random"
    assert re.findall("Take ([^:.]*)", found.text)[0].startswith("random rows")
    assert "Take `" not in found.text
    assert "less loss" not in found.text


def test_random_rows_where_nothing_is_told_from_chance() -> None:
    results = results_of({"ifd cut 0.3": 0.0, "longest": 0.3})
    found = verdict(results)
    assert found.text.startswith(
        "Take random rows: save the scoring. The best of the other ways, `ifd cut 0.3`, is not"
    )
    assert found.best.numbers() in found.text
    assert re.search(r"A true difference of 1% would have been seen with a probability of 1\.00\.", found.text)
    assert found.text.endswith("That saves 0.03 of an epoch of LoRA training at most.")  # (10 + 2) / 400
    wide = verdict(results_of({"ifd cut 0.3": 0.0, "longest": 0.3}, spread=3.0)).text
    assert re.search(r"with a probability of 0\.[0-6]\d, so that a small one may be there\.", wide)


def test_one_seed() -> None:
    text = verdict(results_of({"loss easiest": -50.0}, seeds=1)).text
    assert text.startswith("One seed tells nothing of chance. Take random rows until more are trained.")


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"seconds": {"score ifd": None}}, "What choosing costs is not known: it was stopped and went on."),
        ({"lora_epoch_seconds": None}, "Choosing takes 12 s."),
        ({"lora_epoch_seconds": 4000.0}, "Choosing costs 0.003 of an epoch"),
    ],
)
def test_price(facts: dict[str, Any], told: str) -> None:
    assert told in verdict(results_of({"ifd cut 0.3": -3.0}, facts=facts)).text


def test_beside_all_rows() -> None:
    """Better than all rows, as good, worse, and not told."""
    as_good = results_of({"ifd cut 0.3": -3.0}, full=-3.0, epochs=3.0)
    assert "At keep 0.2 it is as good as all rows (" in verdict(as_good).text
    assert "), for 0.21 of the cost of training on these." in verdict(as_good).text  # 0.2, and 12 / 400 / 3 epochs
    once = results_of({"ifd cut 0.3": -3.0}, full=-3.0, epochs=1.0)
    assert "), for 0.23 of the cost of training on these." in verdict(once).text
    better = results_of({"ifd cut 0.3": -3.0}, full=0.0)
    assert "At keep 0.2 it is as good as all rows (-" in verdict(better).text
    worse = verdict(results_of({"ifd cut 0.3": -3.0}, full=-20.0)).text
    assert re.search(r"All rows train better still: at keep 0\.4 its loss is 2[01]\.\d% above theirs\.", worse)
    told = results_of({"ifd cut 0.3": -30.0}, full=-30.0, spread=2.0, seeds=3)
    assert as_good_as_full(told, "ifd cut 0.3") is None
    text = verdict(told).text
    assert "Whether it is as good as all rows is not told: at keep 0.4 by " in text
    assert "All rows train better" not in text


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ("loss per token", " But by the loss per token they are worse (Δ = +"),
        ("choices", " But by the accuracy of choices they are worse (Δ = -"),
    ],
)
def test_no_arm_is_taken_that_another_metric_calls_worse(metric: str, told: str) -> None:
    results = results_of({"ifd cut 0.3": -3.0, "loss easiest": -4.0, "longest": 1.0})
    assert verdict(results).arm == "loss easiest"
    turned = {cell: dict(one) for cell, one in results.confirming.items()}
    for cell, one in turned.items():
        if cell.arm == "loss easiest":
            one[metric] += 0.1 if metric.startswith("loss") else -0.1
    found = verdict(replace(results, confirming=turned))
    assert found.arm == "ifd cut 0.3"
    assert f" The models of `loss easiest` have 4.0% less.{told}" in found.text
    alone = replace(results, confirming=turned, finalists=["loss easiest", "longest"])
    found = verdict(alone)
    assert found.text.startswith("Take random rows: save the scoring. The models of `loss easiest` have 4.0% less")
    assert told in found.text
    assert (found.arm, found.best.arm) == ("random", "loss easiest")
    assert found.text.endswith("That saves 0.10 of an epoch of LoRA training at most.")  # (40 + 2) / 400


def test_equal_tokens_say_nothing_of_all_rows() -> None:
    """As many tokens are no share of the rows, so no cost can be told; nor is chance to blame."""
    text = verdict(results_of({"ifd cut 0.3": -3.0}, full=-3.0, matchings="tokens")).text
    assert "all rows" not in text.replace("on all rows (STR)", "")


def test_beside_all_rows_with_equal_updates() -> None:
    """Rows that are repeated cost as much as more rows: nothing is said to be saved."""
    text = verdict(results_of({"ifd cut 0.3": -3.0}, full=-3.0, matchings="updates,tokens")).text
    assert "At keep 0.2 and rows repeated to equal updates it is as good as all rows (" in text
    assert "of the cost of training on these" not in text


@pytest.mark.parametrize("difference", [-5.0, 5.0])
def test_what_rows_without_the_suspect_ones_reach(difference: float) -> None:
    results = results_of({"ifd cut 0.3": -2.0, "oracle": difference}, flag_column="suspect")
    found = verdict(results)
    assert found.arm == "ifd cut 0.3"  # nobody could take the oracle
    reached = overall(results, "oracle", "loss per row").difference
    assert f"{reached:+.0f}" == f"{difference:+.0f}"
    told = f"have {abs(reached):.1f}% {'less' if difference < 0 else 'more'} loss than random rows."
    assert f"Random rows without the suspect ones, which nobody knows beforehand, {told}" in found.text
    assert "suspect" not in verdict(results_of({"ifd cut 0.3": -2.0})).text


def test_rows_without_the_suspect_ones_that_reach_no_more() -> None:
    results = results_of({"ifd cut 0.3": -2.0, "oracle": 0.0}, spread=0.01, flag_column="suspect")
    assert "nobody knows beforehand, have as much loss as random rows." in verdict(results).text


def test_of_a_proxy() -> None:
    text = verdict(results_of({"ifd cut 0.3": -2.0}, facts={"proxy_for": "large"})).text
    assert text.endswith("This is what a proxy for large says, for which another way may be better.")
    assert "proxy" not in verdict(results_of({"ifd cut 0.3": -2.0})).text


@pytest.mark.parametrize(
    ("name", "scored"),
    [
        ("target bm25", ""),
        ("target cosine", "--features auto"),
        ("target gradient", "--features gradient"),
        ("transfer features", "--features auto"),
        ("unique balanced random", ""),
        ("ifd cut 0.3", "--scores ifd"),
        ("plain_loss hardest", "--scores plain_loss"),
        ("loss flexrand 0.75", ""),  # one of the default scores
        ("gain hardest", ""),
        ("longest", ""),
        ("cluster random", "--features auto"),
    ],
)
def test_the_command_chooses_as_the_arm_does(name: str, scored: str) -> None:
    """And says how the run must have been scored, where it is not so by default."""
    options = {"group_by": "source", "target": "my wanted rows.jsonl"}
    text = verdict(results_of({name: -9.0}, **options)).text
    [(command, run)] = re.findall(r"That is `hf-dlc select (.*?)`( in the .*?)?\.(?: |$)", text)
    [parsed] = parse_config_and_args([SelectFromRunArguments], shlex.split(command))
    selector, arm = make_selector(parsed), parse_arm(name)
    assert parsed.keep == 0.4
    assert selector.drop_duplicates == arm.unique
    assert selector.group_shares == ("equal" if arm.balanced else "proportional")
    assert parsed.target == ("my wanted rows.jsonl" if "target" in arm.needs else None)
    assert type(selector) is type(arm.selector)
    assert selector.column in (arm.selector.column, "dlc_confidence")
    assert run == (f" in the `--run-dir` of a run with `{scored}`" if scored else "")
    if arm.selector.varied:
        assert getattr(selector, arm.selector.varied) == getattr(arm.selector, arm.selector.varied)


def test_no_command_trains_adapters() -> None:
    assert "hf-dlc select" not in verdict(results_of({"target_shift easiest": -9.0}, target="wanted.jsonl")).text
