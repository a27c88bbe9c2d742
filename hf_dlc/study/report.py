"""Report of a study: tables, verdicts in plain words, costs, and the files that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from hf_dlc.scores.base import measures_by_pass
from hf_dlc.scores.table import DEFAULT_SCORES, SCORES, chosen_scores
from hf_dlc.utils.durations import price, scoring_training_ratio
from hf_dlc.utils.files import write_json
from hf_dlc.utils.versions import versions

from .arms import METRICS, Cell, parse_arm
from .markdown import table
from .plots import draw_differences
from .results import StudyResults
from .statistics import ALPHA, DIFFERENCE, POWER, Comparison, compare, compare_overall, mean_and_error, power


def write_report(results: StudyResults, output: Path) -> str:
    """
    Write study.json, study.md and, where matplotlib is installed, study.png.

    Args:
        results (`StudyResults`):
            What the study has found.
        output (`Path`):
            Folder for the files.

    Returns:
        `str`: The text of study.md.
    """
    comparisons = {metric: compare(results, metric) for metric in results.metrics}
    overall = {metric: compare_overall(results, metric) for metric in results.metrics}
    parts = [_heading(results)]
    if results.screening:
        parts.append(_screening_table(results))
    parts += [_confirming_table(results, metric) for metric in results.metrics]
    prices = {arm: _price_of(results, arm) for arm in results.finalists}
    parts += [_verdicts(overall[metric], comparisons[metric], prices) for metric in results.metrics]
    text = "\n\n".join([*parts, _limits(results), _shared_rows(results), _costs(results)])
    (output / "study.md").write_text(text + "\n", encoding="utf-8")
    record = {
        "options": asdict(results.options),
        "scoring": results.scoring,
        "versions": versions(),
        "finalists": results.finalists,
        "screening": [{**cell._asdict(), **found} for cell, found in results.screening.items()],
        "confirming": [{**cell._asdict(), **found} for cell, found in results.confirming.items()],
        "overall": [comparison.to_json() for found in overall.values() for comparison in found],
        "comparisons": [comparison.to_json() for found in comparisons.values() for comparison in found],
    }
    write_json(output / "study.json", record)
    if find_spec("matplotlib"):
        draw_differences(results, comparisons[METRICS[0]], output / "study.png")
    return text


def _heading(results: StudyResults) -> str:
    """Title, pool, model, masking and finalists."""
    options, tokens = results.options, results.target_tokens
    limit = "" if options.longest_row is None else f" of at most {options.longest_row} tokens"
    layers = "all layers" if options.lora_layers is None else f"the last {options.lora_layers} layers"
    scorer, fractions = results.scoring["scorer"], ", ".join(f"{one:.3g}" for one in results.scoring["fractions"])
    return "\n".join(
        [
            "# Which rows are worth training on?",
            "",
            f"- {len(tokens):,} rows of {results.dataset} to choose from, {results.held_out_rows:,} held out{limit}; "
            f"{np.mean(tokens):.0f} target tokens a row",
            f"- model {scorer['gguf_file'] or scorer['model']} in {scorer['dtype']}; LoRA of rank {options.lora_rank} "
            f"in {layers}, {options.epochs:g} epochs, {options.batch_size} rows a step, learning rate "
            f"{options.learning_rate:g}",
            f"- masking {scorer['config']['masking']}, masked fractions {fractions}",
            f"- confirmed with {options.seeds} seeds: {', '.join(results.finalists)}",
        ]
    )


def _screening_table(results: StudyResults) -> str:
    """Every arm, best first."""
    budget, matchings = results.options.screening_budget, results.matchings
    rows = []
    for arm in dict.fromkeys(cell.arm for cell in results.screening):
        found = [results.screening[Cell(arm, matching, budget, 0)] for matching in matchings]
        losses = [cell[metric] for cell in found for metric in METRICS]
        rows.append((np.mean(losses[:: len(METRICS)]), arm, losses))
    header = [f"equal {matching}: {metric}" for matching in matchings for metric in METRICS]
    body = table(
        ["arm", f"mean {METRICS[0]}", *header],
        [[arm, *(f"{loss:.4f}" for loss in (mean, *losses))] for mean, arm, losses in sorted(rows)],
    )
    return f"## Screening: keep {budget:g}, one seed\n\n{body}"


def _confirming_table(results: StudyResults, metric: str) -> str:
    """Means and standard errors of each arm and budget."""
    budgets = results.options.budgets
    rows = [
        [matching, arm, *(_with_error(results.values(arm, matching, budget, metric)) for budget in budgets)]
        for matching in results.matchings
        for arm in ("random", *results.finalists)
    ]
    full = _with_error(results.values("full", "rows", 1.0, metric))
    kind = "Held-out" if metric in METRICS else "Accuracy:"
    body = table(["equal", "arm", *(f"keep {budget:g}" for budget in budgets)], rows)
    return f"## {kind} {metric}\n\n{body}\n\nAll rows: {full}. Means over seeds ± their standard errors."


def _with_error(values: np.ndarray) -> str:
    mean, error = mean_and_error(values)
    return f"{mean:.4f} ± {error:.4f}"


def _verdicts(overall: Sequence[Comparison], comparisons: Sequence[Comparison], prices: Mapping[str, str]) -> str:
    """A sentence for each comparison, what the scores of its arm cost, and how small a difference could be seen."""
    return "\n".join(
        [
            f"## Verdicts by {comparisons[0].metric}",
            "",
            "Of each seed the mean over budgets and matchings:",
            "",
            *(f"- {comparison.verdict()} {prices[comparison.arm]}" for comparison in overall),
            "",
            _resolution(overall),
            "",
            "Each by itself:",
            "",
            *(f"- {comparison.verdict()}" for comparison in comparisons),
            "",
            _resolution(comparisons),
        ]
    )


def _price_of(results: StudyResults, arm: str) -> str:
    """What the scores of an arm cost beside training, in a sentence: whatever it gains must be worth that."""
    share = scoring_share(arm, results.scoring["fractions"])
    if not share:
        return "It needs no scores."
    if results.scoring["resumed"]:
        return "What its scores cost is not known: the scoring was stopped and went on."
    ratio = scoring_training_ratio(share * results.scoring["seconds"], _epoch_seconds(results))
    return "What its scores cost is not known." if ratio is None else f"Its scores cost {ratio:.2f} epochs (STR)."


def _epoch_seconds(results: StudyResults) -> float:
    """Seconds of one epoch of training on all rows; a median, as some models were trained on a busy machine."""
    return float(np.median(results.values("full", "rows", 1.0, "seconds"))) / results.options.epochs


def _resolution(comparisons: Sequence[Comparison]) -> str:
    """How surely a difference that matters would have been told from chance, after the correction."""
    if comparisons[0].seeds < 2:
        return "One seed tells nothing of chance."
    seeds, count = comparisons[0].seeds, len(comparisons)
    powers = [power(comparison, count) for comparison in comparisons]
    return (
        f"With {seeds} seeds a true difference of {DIFFERENCE:g} would be seen, as the first of {count}, with a "
        f"probability of {min(powers):.2f} to {max(powers):.2f}, by the spread of each: this study has "
        f"{'' if min(powers) >= POWER else 'not '}the power to see {DIFFERENCE:g} here ({POWER:g} is asked for)."
    )


def _limits(results: StudyResults) -> str:
    """What the verdicts do not say."""
    screened = "The arms were chosen by their loss on the same held-out rows. " if results.screening else ""
    return (
        "p is of paired t-tests, corrected for the number of comparisons in the list (Holm); the intervals, each on "
        f"its own, are not, so that one may leave out 0 where p is above {ALPHA:g}. {METRICS[0].capitalize()} "
        f"decides. STR is what the scoring cost, divided by what one epoch of training on all rows cost. {screened}"
        "The spread is that of seeds: another pool or other held-out rows may give other differences."
    )


def _shared_rows(results: StudyResults) -> str:
    """How much of each arm is nothing but its random rows."""
    body = table(
        ["equal", "arm", *(f"keep {budget:g}" for budget in results.options.budgets)],
        [
            [
                matching,
                arm,
                *(f"{results.values(arm, matching, one, 'shared').mean():.0%}" for one in results.options.budgets),
            ]
            for matching in results.matchings
            for arm in results.finalists
        ],
    )
    return (
        f"## Rows shared with random rows of the same seed\n\n{body}\n\nAn arm that shares nearly all is random "
        "rows with another name: its differences are chance, and say nothing of the score."
    )


def _costs(results: StudyResults) -> str:
    """Target tokens and seconds of training, and the seconds of the scoring that an arm needs before."""
    budgets, matching, rows = results.options.budgets, results.matchings[0], []
    for arm in ("random", *results.finalists):
        scoring = scoring_share(arm, results.scoring["fractions"]) * results.scoring["seconds"]
        # Medians: a machine that was busy for a while has trained some models more slowly.
        taken = [
            [np.median(results.values(arm, matching, budget, name)) for name in ("tokens", "seconds")]
            for budget in budgets
        ]
        rows.append(
            [arm, f"{scoring:.0f} s", *(f"{tokens:,.0f}, {seconds + scoring:.0f} s" for tokens, seconds in taken)]
        )
    header = ["arm", "scoring", *(f"keep {budget:g}: target tokens, scoring and training" for budget in budgets)]
    of_epoch = _epoch_seconds(results)
    full = of_epoch * results.options.epochs
    # Of a scoring that went on after a stop, the seconds of the last part say nothing.
    found = None if results.scoring["resumed"] else price(results.scoring["seconds"], of_epoch)
    resumed = " The scoring was stopped and went on: its seconds are those of the last run."
    return (
        f"## Cost with equally many {matching}\n\n{table(header, rows)}\n\nTraining on all "
        f"{sum(results.target_tokens):,} target tokens: {full:.0f} s. Medians, in seconds of one core or accelerator."
        f"{resumed if results.scoring['resumed'] else ''}"
        f"{f' With all levels, {found}.' if found else ''}"
    )


def scoring_share(arm: str, schedule: Sequence[float]) -> float:
    """The share of all passes through the model that an arm needs; plain loss is one of them."""
    ranked_by, every = parse_arm(arm).ranked_by, len(measures_by_pass(chosen_scores(DEFAULT_SCORES), schedule))
    if ranked_by in SCORES:
        return len(SCORES[ranked_by].passes(schedule)) / every
    return 1 / every if ranked_by == "plain" else 0.0
