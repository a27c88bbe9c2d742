"""The verdict of a study in plain words: what to take, how much better it is, and what that costs or saves."""

from __future__ import annotations

import shlex
from typing import NamedTuple

from hf_dlc.pipeline.options import selection_flags
from hf_dlc.scores.table import DEFAULT_SCORES

from .arms import METRICS, ORACLE, Arm, parameters_of, parse_arm
from .results import StudyResults
from .statistics import (
    DIFFERENCE,
    POWER,
    Comparison,
    as_good_as_full,
    candidates,
    compare_overall,
    from_full,
    in_words,
    opposites,
    overall,
    power,
)


class Verdict(NamedTuple):
    """
    Advice of a study.

    Args:
        arm (`str`):
            The best arm that is better than random rows, or `"random"`.
        best (`Comparison`):
            The loss per row of the best finalist against random rows, whether it is better or not.
        text (`str`):
            The same in a few sentences.
    """

    arm: str
    best: Comparison
    text: str


def verdict(results: StudyResults) -> Verdict:
    """
    Say which arm to take.

    It is the one with the lowest loss a row over all budgets, if a paired t-test tells it from random rows after the
    correction for the number of finalists. No other metric may call it worse. Else it is random rows.

    Args:
        results ([`StudyResults`]):
            What the study has found.

    Returns:
        [`Verdict`]
    """
    found = compare_overall(results, METRICS[0])
    better = [one for one in found if one.is_better]
    winners = [one for one in better if not opposites(results, one.arm)]
    best = min(winners or better or found, key=lambda comparison: comparison.difference)
    if winners:
        told = [_price, _beside_full, _flags]
        aside = [_set_aside(results, one) for one in better if one.difference < best.difference]
        sentences = [_better(best), *aside, *(sentence(results, best.arm) for sentence in told)]
    else:
        why = _disputed(results, best) if better else _random(best, len(found))
        sentences = [why, _saving(results)]
    sentences += [_ceiling(results), _proxy(results)]
    return Verdict(best.arm if winners else "random", best, " ".join(filter(None, sentences)))


def _better(best: Comparison) -> str:
    return (
        f"Take `{best.arm}`: its models have {abs(best.difference):.1f}% less loss a row than those of as many random "
        f"rows, over all budgets ({best.numbers()})."
    )


def _random(best: Comparison, count: int) -> str:
    """Random rows, and how much better the best arm could be without being seen."""
    if best.seeds < 2:
        return "One seed tells nothing of chance. Take random rows until more are trained."
    surely = power(best, count)
    seen = f"A true difference of {DIFFERENCE:g}% would have been seen with a probability of {surely:.2f}"
    return (
        f"Take random rows: save the scoring. The best of the other ways, `{best.arm}`, is not better by more than "
        f"chance ({best.numbers()}). {seen}{'' if surely >= POWER else ', so that a small one may be there'}."
    )


def _disputed(results: StudyResults, best: Comparison) -> str:
    """Random rows, where metrics contradict each other."""
    return (
        f"Take random rows: save the scoring. The models of `{best.arm}` have {abs(best.difference):.1f}% less loss a "
        f"row over all budgets ({best.numbers()}). {_worse(results, best.arm)}"
    )


def _set_aside(results: StudyResults, one: Comparison) -> str:
    """Why an arm is not taken that has less loss a row still."""
    return f"The models of `{one.arm}` have {abs(one.difference):.1f}% less. {_worse(results, one.arm)}"


def _worse(results: StudyResults, arm: str) -> str:
    """Name the metrics by which the models of an arm are worse, in a sentence for each."""
    why = {METRICS[1]: ", in which long responses count for more"}
    return " ".join(
        f"But by the {in_words(one.metric)} they are worse ({one.numbers()}){why.get(one.metric, '')}."
        for one in opposites(results, arm)
    )


def _price(results: StudyResults, arm: str) -> str:
    """A sentence on what choosing costs."""
    cost, ratio = results.cost(arm), results.ratio(arm)
    if cost is None:
        return "What choosing costs is not known: it was stopped and went on."
    if ratio is None:
        return f"Choosing takes {cost:.0f} s."
    return f"Choosing costs {_few(ratio)} of an epoch of LoRA at all layers on all rows (STR)."


def _beside_full(results: StudyResults, arm: str) -> str:
    """At which budget the arm does as well as all rows, and what it then costs in all."""
    enough, ratio = as_good_as_full(results, arm), results.ratio(arm)
    if enough is None:
        matching = next((name for name in results.matchings if name != "tokens"), None)
        if matching is None:  # as many tokens as a share of all rows has, which says nothing of that share of the rows
            return ""
        budget = max(results.options.budgets)
        found = from_full(results, arm, matching, budget, METRICS[0])
        if found.low <= 0:
            return f"Whether it is as good as all rows is not told: at keep {budget:g} by {found.interval()}."
        return f"All rows train better still: at keep {budget:g} its loss is {found.difference:.1f}% above theirs."
    matching, budget = enough
    found = from_full(results, arm, matching, budget, METRICS[0])
    repeated = " and rows repeated to equal updates" if matching == "updates" else ""
    told = f"At keep {budget:g}{repeated} it is as good as all rows ({found.interval()})"
    if matching == "updates" or ratio is None:
        return f"{told}."
    # The price is a share of one epoch, and the subset is trained on for all of them.
    return f"{told}, for {_few(budget + ratio / results.options.epochs)} of the cost of training on these."


def _flags(results: StudyResults, name: str) -> str:
    """A sentence with the options of `hf-dlc select` that choose as the arm does; none if no command can."""
    enough, arm = as_good_as_full(results, name), parse_arm(name)
    if arm.is_adapted:  # adapters are trained in Python only
        return ""
    known = {"keep": enough[1] if enough else max(results.options.budgets), "drop_duplicates": arm.unique}
    if arm.balanced:
        known |= {"group_by": results.options.group_by, "group_shares": "equal"}
    flags = selection_flags(parameters_of(arm, known))
    if "target" in arm.needs:
        flags["target"] = results.options.target
    words = [str(word) for key, value in flags.items() for word in (f"--{key.replace('_', '-')}", value)]
    return f"That is `hf-dlc select {shlex.join(words)}`{_of_a_run(arm)}."


def _of_a_run(arm: Arm) -> str:
    """With which options the run must have been scored, whose folder `hf-dlc select` is given as `--run-dir`."""
    scores = [arm.ranked_by] if f"score {arm.ranked_by}" in arm.needs and arm.ranked_by not in DEFAULT_SCORES else []
    features = [need.removeprefix("features ") for need in arm.needs if need.startswith("features ")]
    asked = [f"--scores {name}" for name in scores] + [f"--features {name}" for name in features]
    return f" in the `--run-dir` of a run with `{' '.join(asked)}`" if asked else ""


def _saving(results: StudyResults) -> str:
    """What is saved by not choosing."""
    ratios = [ratio for arm in candidates(results) if (ratio := results.ratio(arm))]
    return f"That saves {_few(max(ratios))} of an epoch of LoRA training at most." if ratios else ""


def _ceiling(results: StudyResults) -> str:
    """What somebody would reach who knows which rows are suspect."""
    if ORACLE not in results.finalists:
        return ""
    found = overall(results, ORACLE, METRICS[0]).difference
    shown = f"{abs(found):.1f}"
    told = "as much loss as" if shown == "0.0" else f"{shown}% {'less' if found < 0 else 'more'} loss than"
    return f"Random rows without the suspect ones, which nobody knows beforehand, have {told} random rows."


def _proxy(results: StudyResults) -> str:
    """A sentence that names the model for which a proxy was studied."""
    model = results.facts.get("proxy_for")
    return f"This is what a proxy for {model} says, for which another way may be better." if model else ""


def _few(value: float) -> str:
    return f"{value:.2f}" if value >= 0.01 else f"{value:.3f}"
