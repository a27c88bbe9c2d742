"""Report of a study: tables, verdicts in plain words, costs, and the files that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from hf_dlc.utils.files import write_json
from hf_dlc.utils.versions import versions

from .arms import METRICS, ORACLE, UNTRAINED
from .markdown import table
from .plots import draw_differences
from .results import StudyResults
from .screening import seeds_needed
from .situations import SITUATIONS
from .statistics import (
    ALPHA,
    DIFFERENCE,
    MOST_SEEDS,
    POWER,
    Comparison,
    candidates,
    compare,
    compare_overall,
    is_loss,
    mean_and_error,
    power,
    subsets,
)
from .verdict import verdict


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
    found = verdict(results)
    parts = [_heading(results), f"## Verdict\n\n{found.text}"]
    if results.screening:
        parts.append(_screening_table(results))
    parts += [_confirming_table(results, metric) for metric in results.metrics]
    parts += [_verdicts(overall[metric], comparisons[metric]) for metric in results.metrics]
    text = "\n\n".join([*parts, _limits(results), _rows(results), _costs(results)])
    (output / "study.md").write_text(text + "\n", encoding="utf-8")
    record = {
        **results.to_json(),
        "seeds_needed": _seeds_needed(results),
        "versions": versions(),
        "verdict": {"arm": found.arm, "text": found.text},
        "overall": [comparison.to_json() for one in overall.values() for comparison in one],
        "comparisons": [comparison.to_json() for one in comparisons.values() for comparison in one],
    }
    write_json(output / "study.json", record)
    if find_spec("matplotlib"):
        draw_differences(results, output / "study.png")
    return text


def _heading(results: StudyResults) -> str:
    """Title, pool, model and finalists."""
    options, facts = results.options, results.facts
    limit = "" if options.longest_row is None else f" of at most {options.longest_row} tokens"
    layers = "all layers" if options.lora_layers is None else f"the last {options.lora_layers} layers"
    wanted = f"; {facts['wanted_rows']:,} wanted rows" if facts["wanted_rows"] else ""
    scorer = facts["scorer"]
    lines = [
        f"# Does choosing pay where {SITUATIONS[facts['situation']].title}?",
        "",
        f"- {facts['pool_rows']:,} rows of {facts['dataset']} to choose from, {facts['test_rows']:,} to measure by"
        f"{limit}{_held_out(results)}; {facts['pool_tokens'] / facts['pool_rows']:.0f} target tokens a row{wanted}",
        f"- model {scorer['gguf_file'] or scorer['model']} in {scorer['dtype']}; LoRA of rank {options.lora_rank} "
        f"in {layers}, {options.epochs:g} epochs, {options.batch_size} rows a step, learning rate "
        f"{options.learning_rate:g}; with equal updates {facts['steps_of_updates']:,} steps",
        f"- confirmed with {len(results.seeds)} seeds: {', '.join(results.finalists)}",
    ]
    if "proxy_for" in facts:
        lines.append(f"- this model is a proxy for {facts['proxy_for']}, for which another way may be better")
    if needed := _seeds_needed(results):
        lines.append(
            f"- the spread of the screening asks for {'at least ' if needed == MOST_SEEDS else ''}{needed} seeds to "
            f"see a difference of {DIFFERENCE:g}% at one budget"
        )
    if facts["left_out"]:
        lacking = "; ".join(f"{arm} ({', '.join(needs)})" for arm, needs in facts["left_out"].items())
        lines.append(f"- not compared, for want of what stands behind each: {lacking}")
    return "\n".join(lines)


def _held_out(results: StudyResults) -> str:
    """Which rows of the dataset itself are measured by, where it was not random ones of all."""
    options = results.options
    if options.test or options.target:
        return ""
    flags = ["none of them suspect"] if options.flag_column else []
    groups = [f"equally many of each {options.group_by}, or half of it"] if options.group_by else []
    return f" ({'; '.join([*flags, *groups])})" if flags or groups else ""


def _seeds_needed(results: StudyResults) -> int:
    """Seeds that the spread of the screening asks for; 0 where nothing is known of it."""
    return seeds_needed(results.screening, len(candidates(results)) * len(subsets(results)))


def _screening_table(results: StudyResults) -> str:
    """Every arm, best first."""
    cells = results.screening
    matchings = list(dict.fromkeys(cell.matching for cell in cells))
    rows = []
    for arm in dict.fromkeys(cell.arm for cell in cells):
        losses = [
            np.mean([found[metric] for cell, found in cells.items() if (cell.arm, cell.matching) == (arm, matching)])
            for matching in matchings
            for metric in METRICS
        ]
        rows.append((np.mean(losses[:: len(METRICS)]), arm, losses))
    header = [f"equal {matching}: {metric}" for matching in matchings for metric in METRICS]
    body = table(
        ["arm", f"mean {METRICS[0]}", *header],
        [[arm, *(f"{loss:.4f}" for loss in (mean, *losses))] for mean, arm, losses in sorted(rows)],
    )
    seeds = len({cell.seed for cell in cells})
    return f"## Screening: keep {results.options.screening_budget:g}, {seeds} seeds\n\n{body}"


def _confirming_table(results: StudyResults, metric: str) -> str:
    """Means and standard errors of each arm and budget."""
    budgets = results.options.budgets
    rows = [
        [matching, arm, *(_with_error(results.values(arm, matching, budget, metric)) for budget in budgets)]
        for matching in results.matchings
        for arm in ("random", *results.finalists)
    ]
    kind = "Test" if is_loss(metric) else "Accuracy:"
    body = table(["equal", "arm", *(f"keep {budget:g}" for budget in budgets)], rows)
    return (
        f"## {kind} {metric}\n\n{body}\n\nAll rows: {_with_error(results.full(metric))}. Before any training "
        f"({UNTRAINED}): {results.start[metric]:.4f}. Means over seeds ± their standard errors."
    )


def _with_error(values: np.ndarray) -> str:
    mean, error = mean_and_error(values)
    return f"{mean:.4f} ± {error:.4f}" if np.isfinite(error) else f"{mean:.4f}"  # one seed has no error


def _verdicts(overall: Sequence[Comparison], comparisons: Sequence[Comparison]) -> str:
    """A sentence for each comparison, and how small a difference could be seen."""
    return "\n".join(
        [
            f"## Comparisons by {comparisons[0].metric}",
            "",
            "Of each seed the mean over budgets and matchings:",
            "",
            *(f"- {comparison.verdict()}" for comparison in overall),
            "",
            _resolution(overall),
            "",
            "Each by itself, where * tells from chance after the correction:",
            "",
            _each(comparisons),
            "",
            _resolution(comparisons),
        ]
    )


def _each(comparisons: Sequence[Comparison]) -> str:
    """A table of the comparisons at each budget."""
    budgets = list(dict.fromkeys(one.budget for one in comparisons))
    rows: dict[tuple[str, str], list[str]] = {}
    for one in comparisons:
        rows.setdefault((one.matching, one.arm), []).append(f"{one.short()}{'*' if one.p < ALPHA else ''}")
    return table(
        ["equal", "arm", *(f"keep {budget:g}" for budget in budgets)], [[*key, *row] for key, row in rows.items()]
    )


def _resolution(comparisons: Sequence[Comparison]) -> str:
    """How surely a difference that matters would have been told from chance, after the correction."""
    if comparisons[0].seeds < 2:
        return "One seed tells nothing of chance."
    seeds, count, unit = comparisons[0].seeds, len(comparisons), comparisons[0].unit
    powers = [power(comparison, count) for comparison in comparisons]
    least, most = f"{min(powers):.2f}", f"{max(powers):.2f}"
    found = least if least == most else f"{least} to {most}, by the spread of each"
    clearest = f", were it the clearest of {count}," if count > 1 else ""
    return (
        f"With {seeds} seeds a true difference of {DIFFERENCE:g}{unit}{clearest} would be seen with a probability of "
        f"{found}: this study has {'' if min(powers) >= POWER else 'not '}the power to see {DIFFERENCE:g}{unit} here "
        f"({POWER:g} is asked for)."
    )


def _limits(results: StudyResults) -> str:
    """What the comparisons do not say."""
    screened = "The arms were chosen by their loss on the same test rows. " if results.screening else ""
    oracle = f"`{ORACLE}` is no way to choose, and is in no comparison. " if ORACLE in results.finalists else ""
    return (
        "p is of paired t-tests, corrected for the number of comparisons in the list (Holm); the intervals, each on "
        f"its own, are not, so that one may leave out 0 where p is above {ALPHA:g}. Differences of a loss are in "
        f"percent of that of random rows, those of an accuracy in points. {METRICS[0].capitalize()} decides, unless "
        "another metric calls an arm worse. "
        f"{screened}{oracle}The spread is that of seeds: another pool or other test rows may give other differences."
    )


def _rows(results: StudyResults) -> str:
    """How much of each arm is nothing but its random rows, and how much of it is suspect."""
    names = ["shared", *(["suspect"] if results.options.flag_column else [])]
    rows = [
        [
            matching,
            arm,
            *(
                ", ".join(f"{results.values(arm, matching, budget, name).mean():.0%}" for name in names)
                for budget in results.options.budgets
            ),
        ]
        for matching in results.matchings[:2]
        for arm in ("random", *results.finalists)
    ]
    body = table(["equal", "arm", *(f"keep {budget:g}" for budget in results.options.budgets)], rows)
    title = "shared with random rows of the same seed" + (", and suspect" if len(names) > 1 else "")
    return (
        f"## Rows that are {title}\n\n{body}\n\nAn arm that shares nearly all is random rows with another name: its "
        "differences are chance."
    )


def _costs(results: StudyResults) -> str:
    """What each arm costs before training, beside one epoch on all rows."""
    rows = []
    for arm in ("random", *results.finalists):
        cost, ratio = results.cost(arm), results.ratio(arm)
        rows.append(
            [
                arm,
                "not known" if cost is None else f"{cost:.1f} s",
                "-" if ratio is None else f"{ratio:.3f}",
                "-" if cost is None else f"{cost / results.epoch_seconds:.3f}",
            ]
        )
    epoch = results.facts["lora_epoch_seconds"]
    header = ["arm", "choosing", "STR", "of an epoch as trained here"]
    body = table(header, rows)
    whole = "is not known" if epoch is None else f"takes {epoch:.0f} s, measured by a few steps"
    return (
        f"## Cost\n\n{body}\n\nChoosing is all that an arm needs before training: scores, features, duplicates, the "
        f"selection itself. One epoch of LoRA at all layers on all rows {whole}; STR is the share of it. One epoch as "
        f"trained here takes {results.epoch_seconds:.0f} s. Seconds of one core or accelerator; medians."
    )
