"""What a study of compare_selectors.py says: tables, verdicts in plain words, and a plot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import stats

from hf_dlc.utils.files import write_json
from hf_dlc.utils.versions import versions


if TYPE_CHECKING:
    from compare_selectors import StudyArguments

METRICS = ("loss per row", "loss per token")  # the first decides
_OF_A_CELL = {"rows", "tokens", "seconds", "shared", "identity"}  # all else is measured
_ALPHA = 0.05
_DIFFERENCE, _POWER = 0.01, 0.8  # what a study should be able to see, and how surely


class Cell(NamedTuple):
    """One model that is trained."""

    arm: str
    matching: str  # what subsets have equally many of
    budget: float
    seed: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.arm} {self.matching} {self.budget:g} {self.seed}".replace(" ", "_")


@dataclass(frozen=True)
class StudyResults:
    """
    What was found.

    Args:
        dataset (`str`):
            Its name.
        options (`StudyArguments`):
            What was compared.
        scoring (`dict[str, Any]`):
            What scored the pool (`scorer`, as it describes itself), the masked fraction of each level (`fractions`),
            what that has cost (`seconds`), and whether this is of the last run only (`resumed`).
        target_tokens (`Sequence[int]`):
            Of each row of the pool.
        held_out_rows (`int`):
            By how many rows the models were measured.
        screening (`dict[Cell, dict[str, Any]]`):
            What came out of the first stage; empty where it was skipped.
        finalists (`Sequence[str]`):
            Arms that went on.
        confirming (`dict[Cell, dict[str, Any]]`):
            What came out of the second stage.
    """

    dataset: str
    options: StudyArguments
    scoring: dict[str, Any]
    target_tokens: Sequence[int]
    held_out_rows: int
    screening: dict[Cell, dict[str, Any]]
    finalists: Sequence[str]
    confirming: dict[Cell, dict[str, Any]]

    @property
    def matchings(self) -> list[str]:
        """What subsets have equally many of."""
        return self.options.matchings.split(",")

    @property
    def metrics(self) -> list[str]:
        """What was measured, what decides first."""
        found = next(iter(self.confirming.values()))
        return [*METRICS, *(name for name in found if name not in _OF_A_CELL.union(METRICS))]

    def values(self, arm: str, matching: str, budget: float, name: str) -> np.ndarray:
        """A value of all models of an arm and budget, seed by seed."""
        cells = [Cell(arm, matching, budget, seed) for seed in self.options.confirming_seeds]
        return np.array([self.confirming[cell][name] for cell in cells])


def write_report(results: StudyResults, output: Path) -> str:
    """Write study.json, study.md and study.png, and return the text."""
    comparisons = {metric: compare(results, metric) for metric in results.metrics}
    overall = {metric: compare_overall(results, metric) for metric in results.metrics}
    parts = [heading(results)]
    if results.screening:
        parts.append(screening_table(results))
    parts += [confirming_table(results, metric) for metric in results.metrics]
    parts += [verdicts(overall[metric], comparisons[metric]) for metric in results.metrics]
    text = "\n\n".join([*parts, limits(results), shared_rows(results), costs(results)])
    (output / "study.md").write_text(text + "\n", encoding="utf-8")
    record = {
        "options": asdict(results.options),
        "scoring": results.scoring,
        "versions": versions(),
        "finalists": results.finalists,
        "screening": [{**cell._asdict(), **found} for cell, found in results.screening.items()],
        "confirming": [{**cell._asdict(), **found} for cell, found in results.confirming.items()],
        "overall": [as_json(comparison) for found in overall.values() for comparison in found],
        "comparisons": [as_json(comparison) for found in comparisons.values() for comparison in found],
    }
    write_json(output / "study.json", record)
    if find_spec("matplotlib"):
        draw(results, comparisons[METRICS[0]], output / "study.png")
    return text


# ---- statistics ---------------------------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """An arm against random rows, seed by seed."""

    arm: str
    matching: str | None  # None: a mean over all
    budget: float | None  # None: a mean over all
    metric: str
    difference: float  # from random
    low: float  # of the 95% confidence interval
    high: float
    p: float  # of a paired t-test, corrected for the number of comparisons by the same metric
    seeds: int

    def verdict(self) -> str:
        """One sentence in plain words."""
        numbers = f"Δ = {self.difference:+.4f}, 95% CI {self.low:+.4f} to {self.high:+.4f}, n = {self.seeds}"
        word = "not distinguishable from"
        if self.p < _ALPHA:
            word = "better than" if (self.difference < 0) == self.metric.startswith("loss") else "worse than"
        where = "over all budgets" if self.budget is None else f"at keep {self.budget:g} of the {self.matching}"
        return f"{self.arm} is {word} random {where} ({numbers}, p = {self.p:.3f})."


def as_json(comparison: Comparison) -> dict[str, Any]:
    """JSON has no infinity: the bounds of an interval of one seed are null."""
    return {
        name: None if isinstance(value, float) and not np.isfinite(value) else value
        for name, value in comparison._asdict().items()
    }


def compare(results: StudyResults, metric: str) -> list[Comparison]:
    """All finalists against random rows at each budget."""
    return corrected(
        Comparison(
            arm,
            matching,
            budget,
            metric,
            *paired(found := differences(results, arm, matching, budget, metric)),
            len(found),
        )
        for matching in results.matchings
        for budget in results.options.budgets
        for arm in results.finalists
    )


def compare_overall(results: StudyResults, metric: str) -> list[Comparison]:
    """All finalists against random rows, of each seed the mean over budgets and matchings: fewer and surer answers."""
    return corrected(
        Comparison(arm, None, None, metric, *paired(found := overall_differences(results, arm, metric)), len(found))
        for arm in results.finalists
    )


def differences(results: StudyResults, arm: str, matching: str, budget: float, metric: str) -> np.ndarray:
    """An arm less random rows, seed by seed."""
    return results.values(arm, matching, budget, metric) - results.values("random", matching, budget, metric)


def overall_differences(results: StudyResults, arm: str, metric: str) -> np.ndarray:
    """The same, a mean over budgets and matchings."""
    subsets = [(matching, budget) for matching in results.matchings for budget in results.options.budgets]
    return np.mean([differences(results, arm, *subset, metric) for subset in subsets], axis=0)


def corrected(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Comparisons with p-values that are corrected for their number."""
    found = list(comparisons)
    values = holm([comparison.p for comparison in found])
    return [comparison._replace(p=p) for comparison, p in zip(found, values, strict=True)]


def paired(differences: np.ndarray) -> tuple[float, float, float, float]:
    """Mean of paired differences, its 95% confidence interval, and the p-value of a t-test that it is 0."""
    mean = float(differences.mean())
    if np.ptp(differences) == 0:  # a single seed, or subsets that are the same: nothing can be said of the spread
        return mean, -np.inf, np.inf, 1.0
    test = stats.ttest_1samp(differences, 0.0)
    low, high = test.confidence_interval(0.95)
    return mean, float(low), float(high), float(test.pvalue)


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for their number: Holm, "A simple sequentially rejective multiple test procedure", 1979."""
    order, corrected, largest = np.argsort(values), [0.0] * len(values), 0.0
    for rank, place in enumerate(order.tolist()):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = largest
    return corrected


# ---- text ---------------------------------------------------------------------------------------------------------


def heading(results: StudyResults) -> str:
    """What was compared."""
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


def screening_table(results: StudyResults) -> str:
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


def confirming_table(results: StudyResults, metric: str) -> str:
    """Means and standard errors of each arm and budget."""
    budgets = results.options.budgets
    rows = [
        [matching, arm, *(mean_and_error(results.values(arm, matching, budget, metric)) for budget in budgets)]
        for matching in results.matchings
        for arm in ("random", *results.finalists)
    ]
    full = mean_and_error(results.values("full", "rows", 1.0, metric))
    kind = "Held-out" if metric in METRICS else "Accuracy:"
    body = table(["equal", "arm", *(f"keep {budget:g}" for budget in budgets)], rows)
    return f"## {kind} {metric}\n\n{body}\n\nAll rows: {full}. Means over seeds ± their standard errors."


def mean_and_error(values: np.ndarray) -> str:
    """Mean and standard error."""
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return f"{np.mean(values):.4f} ± {error:.4f}"


def verdicts(overall: Sequence[Comparison], comparisons: Sequence[Comparison]) -> str:
    """A sentence for each comparison, and how small a difference could have been seen."""
    return "\n".join(
        [
            f"## Verdicts by {comparisons[0].metric}",
            "",
            "Of each seed the mean over budgets and matchings:",
            "",
            *(f"- {comparison.verdict()}" for comparison in overall),
            "",
            resolution(overall),
            "",
            "Each by itself:",
            "",
            *(f"- {comparison.verdict()}" for comparison in comparisons),
            "",
            resolution(comparisons),
        ]
    )


def resolution(comparisons: Sequence[Comparison]) -> str:
    """How surely a difference that matters would have been told from chance, after the correction."""
    if comparisons[0].seeds < 2:
        return "One seed tells nothing of chance."
    seeds, count = comparisons[0].seeds, len(comparisons)
    powers = [power(comparison, count) for comparison in comparisons]
    return (
        f"With {seeds} seeds a true difference of {_DIFFERENCE:g} would be seen, as the first of {count}, with a "
        f"probability of {min(powers):.2f} to {max(powers):.2f}, by the spread of each: this study has "
        f"{'' if min(powers) >= _POWER else 'not '}the power to see {_DIFFERENCE:g} here ({_POWER:g} is asked for)."
    )


def power(comparison: Comparison, count: int) -> float:
    """Probability that the t-test sees a true difference as it is, as the first of so many in Holm's order."""
    freedom = comparison.seeds - 1
    error = (comparison.high - comparison.low) / 2 / stats.t.ppf(1 - _ALPHA / 2, freedom)
    return float(stats.nct.sf(stats.t.ppf(1 - _ALPHA / 2 / count, freedom), freedom, _DIFFERENCE / error))


def limits(results: StudyResults) -> str:
    """What the verdicts do not say."""
    screened = "The arms were chosen by their loss on the same held-out rows. " if results.screening else ""
    return (
        "p is of paired t-tests, corrected for the number of comparisons in the list (Holm); the intervals, each on "
        f"its own, are not, so that one may leave out 0 where p is above {_ALPHA:g}. {METRICS[0].capitalize()} "
        f"decides. {screened}The spread is that of seeds: another pool or other held-out rows may give other "
        "differences."
    )


def shared_rows(results: StudyResults) -> str:
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


def costs(results: StudyResults) -> str:
    """Target tokens and seconds of training, and the seconds of the scoring that an arm needs before."""
    budgets, matching, rows = results.options.budgets, results.matchings[0], []
    for arm in ("random", *results.finalists):
        scoring = scoring_share(arm, len(results.scoring["fractions"])) * results.scoring["seconds"]
        # Medians: a machine that was busy for a while has trained some models more slowly.
        taken = [
            [np.median(results.values(arm, matching, budget, name)) for name in ("tokens", "seconds")]
            for budget in budgets
        ]
        rows.append(
            [arm, f"{scoring:.0f} s", *(f"{tokens:,.0f}, {seconds + scoring:.0f} s" for tokens, seconds in taken)]
        )
    header = ["arm", "scoring", *(f"keep {budget:g}: target tokens, scoring and training" for budget in budgets)]
    full = np.median(results.values("full", "rows", 1.0, "seconds"))
    resumed = " The scoring was stopped and went on: its seconds are those of the last run."
    return (
        f"## Cost with equally many {matching}\n\n{table(header, rows)}\n\nTraining on all "
        f"{sum(results.target_tokens):,} target tokens: {full:.0f} s. Medians, in seconds of one core or accelerator."
        f"{resumed if results.scoring['resumed'] else ''}"
    )


def scoring_share(arm: str, levels: int) -> float:
    """The share of the levels that an arm needs: plain loss is the first of them."""
    statistic = arm.split()[0]
    return {"random": 0.0, "longest": 0.0, "plain": 1 / levels}.get(statistic, 1.0)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


# ---- plot ---------------------------------------------------------------------------------------------------------


def draw(results: StudyResults, comparisons: Sequence[Comparison], path: Path) -> None:
    """Differences from random rows with their confidence intervals, a panel for each matching."""
    from matplotlib.figure import Figure  # no window is opened, and no global state is touched

    figure = Figure(figsize=(5 * len(results.matchings), 4), layout="constrained")
    panels = figure.subplots(1, len(results.matchings), sharey=True, squeeze=False)[0]
    budgets = results.options.budgets
    for axes, matching in zip(panels, results.matchings, strict=True):
        axes.axhline(0, color="grey", linestyle="--")
        for number, arm in enumerate(results.finalists):
            found = [one for one in comparisons if (one.arm, one.matching) == (arm, matching)]
            places = np.arange(len(found)) + 0.15 * (number - (len(results.finalists) - 1) / 2)
            middle = np.array([one.difference for one in found])
            spread = np.array([(one.difference - one.low, one.high - one.difference) for one in found]).T
            spread = np.where(np.isfinite(spread), spread, np.nan)
            axes.errorbar(places, middle, yerr=spread, fmt="o", capsize=3, label=arm)
        axes.set_xticks(range(len(budgets)), [f"keep {budget:g}" for budget in budgets])
        axes.set_title(f"equally many {matching}")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"held-out {METRICS[0]}, less that of random rows")
    names = panels[0].get_legend_handles_labels()
    figure.legend(*names, loc="outside lower center", ncols=len(results.finalists), frameon=False)
    figure.savefig(path, dpi=150)
