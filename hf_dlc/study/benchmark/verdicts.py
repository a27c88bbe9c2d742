"""Verdicts of the benchmark: what was asked for, what was measured, and whether it holds."""

from __future__ import annotations

from typing import Any, NamedTuple

from .contenders import LABELS
from .statistics import Spread, agreement, growth, memory_ratio, times_faster


# What should hold. Of the bare pass, runs may at most have the share that their heads and shared beginnings leave.
FASTER_THAN_NAIVE, FASTER_THAN_NAIVE_IN_FLOAT32, FASTER_THAN_HARNESS = 3.0, 1.3, 1.5
SHARE_OF_BOUND = 0.85
SAME_RANKS, SAME_SCORES = 0.999, 1e-4
MASKING_SHARE, MEMORY, GROWTH, TWO_PROCESSES = 0.005, 2.3, 1.05, 1.8
ESTIMATE = 0.25
SELECTION_SECONDS, SELECTION_BYTES = 3.0, 1e9
MANY_BYTES, GOES_ON_SECONDS = 2e9, 60.0


class Verdict(NamedTuple):
    """A line of the last table."""

    what: str
    asked: str
    measured: str
    holds: bool | None  # `None`: not measured


def verdicts(results: dict[str, Any]) -> list[Verdict]:
    """What was asked for and what was measured."""
    found = contender_verdicts(results) if "contenders" in results else [_not_measured("contenders")]
    for part, judge in (
        ("padding", judge_padding),
        ("run", judge_run),
        ("scale", judge_scale),
        ("many", judge_many),
        ("processes", judge_processes),
        ("selection", judge_selection),
    ):
        found += judge(results[part]) if part in results else [_not_measured(part)]
    return found


def _not_measured(part: str) -> Verdict:
    return Verdict(part, "-", "not measured", None)


def at_least(what: str, spread: Spread | None, asked: float) -> Verdict:
    """Judge a ratio that should be large, by its median."""
    if spread is None:
        return Verdict(what, f"≥ {asked:g}x", "not measured", None)
    return Verdict(what, f"≥ {asked:g}x", spread.show("{:.2f}", "x"), spread.median >= asked)


def contender_verdicts(results: dict[str, Any]) -> list[Verdict]:
    """Speed against the others, agreement with the naive code, memory."""
    part, default = results["contenders"], results["default_dtype"]
    kinds, naive = ("confidence", "loss"), "naive code in float32"

    def faster(dtype: str, other: str, name: str, asked: float) -> Verdict:
        return at_least(f"hf_dlc in {dtype} against {name}", times_faster(part, f"hf_dlc-{dtype}", other), asked)

    ranks = min(agreement(part, f"hf_dlc-{default}", kind).spearman for kind in kinds)
    off = max(agreement(part, "hf_dlc-float32", kind).difference for kind in kinds)
    memory = memory_ratio(part["entries"]["hf_dlc-float32"], "peak_bytes")
    of_ranks, of_scores = f"hf_dlc in {default}: smallest Spearman with", "hf_dlc in float32: largest difference from"
    of_memory = "peak memory of hf_dlc against the weights, float32"
    harnesses = [f"harness-{dtype}" for dtype in dict.fromkeys(["float32", default])]
    return [
        faster(default, "naive-float32", naive, FASTER_THAN_NAIVE),
        Verdict(f"{of_ranks} {naive}", f"≥ {SAME_RANKS}", f"{ranks:.5f}", ranks >= SAME_RANKS),
        faster("float32", "naive-float32", naive, FASTER_THAN_NAIVE_IN_FLOAT32),
        Verdict(f"{of_scores} {naive}", f"≤ {SAME_SCORES:g}", f"{off:.1e}", off <= SAME_SCORES),
        *(faster(key.split("-")[1], key, label(key), FASTER_THAN_HARNESS) for key in harnesses),
        Verdict(of_memory, f"≤ {MEMORY}x", f"{memory:.2f}x", memory <= MEMORY),
    ]


def label(key: str) -> str:
    """Name of a contender and its dtype, for people."""
    name, dtype = key.split("-")
    return f"{LABELS[name]}, {dtype}"


def judge_padding(part: dict[str, Any]) -> list[Verdict]:
    """Rows end to end against the share of the bare pass that they could reach."""
    reached = [one["bare"] / one["end to end"] / part["bound"] for one in part["seconds"]]
    what = f"{part['rows_a_turn']} rows a turn: against {part['bound']:.2f} of a bare forward pass, {part['dtype']}"
    return [at_least(what, Spread.quartiles(reached), SHARE_OF_BOUND)]


def judge_run(part: dict[str, Any]) -> list[Verdict]:
    """Whole runs against the limit, and the share of masking in them."""
    return [verdict for name, run in part.items() for verdict in judge_one_run(name, run)]


def judge_one_run(name: str, part: dict[str, Any]) -> list[Verdict]:
    """Judge one run: the share of the bare pass that it reaches, of that which it could reach."""
    share = part["masking_seconds"] / part["seconds"]
    run = f"{part['rows']:,} rows at {part['levels']} levels, {name}"
    reached = [seconds * part["levels"] / part["seconds"] / part["bound"] for seconds in part["limit_seconds"]]
    bound = f"against {part['bound']:.2f} of a bare forward pass, which its head and what rows share leave"
    return [
        at_least(f"{run}: {bound}, {part['dtype']}", Spread.of(reached), SHARE_OF_BOUND),
        Verdict(f"{run}: share of masking", f"≤ {MASKING_SHARE:.1%}", f"{share:.2%}", share <= MASKING_SHARE),
    ]


def judge_scale(part: dict[str, Any]) -> list[Verdict]:
    """Growth of the cost, and whether it was foretold."""
    rows = f"{part['rows']:,} rows"
    found = [
        Verdict(
            f"seconds a row at {rows} against {part['few_rows']:,}",
            f"≤ {GROWTH}x",
            f"{growth(part):.3f}x",
            growth(part) <= GROWTH,
        )
    ]
    for what, real, estimated in (
        ("seconds", "seconds", "estimated_seconds"),
        ("memory", "peak_bytes", "estimated_bytes"),
    ):
        ratio = part[estimated] / part[real]
        is_right = abs(ratio - 1) <= ESTIMATE
        found.append(Verdict(f"{rows}: estimated {what} against real", f"1 ± {ESTIMATE}", f"{ratio:.2f}x", is_right))
    return found


def judge_many(part: dict[str, Any]) -> list[Verdict]:
    """Growth of what is not forward passes, memory, and how soon a run goes on."""
    many, few = part["many"], part["few"]
    beside = [(one["seconds"] - one["pass_seconds"]) / one["rows"] for one in (many, few)]
    rows, ratio, used, soon = f"{many['rows']:,} rows", beside[0] / beside[1], many["peak_bytes"], part["again"]
    return [
        Verdict(
            f"seconds a row beside forward passes at {rows} against {few['rows']:,}",
            f"≤ {GROWTH}x",
            f"{ratio:.3f}x",
            ratio <= GROWTH,
        ),
        Verdict(f"{rows}: memory", f"≤ {MANY_BYTES / 1e9:g} GB", f"{used / 1e9:.2f} GB", used <= MANY_BYTES),
        Verdict(
            f"{rows}: from the call to the first forward pass, of a run that goes on",
            f"≤ {GOES_ON_SECONDS:g} s",
            f"{soon['first_pass_seconds']:.0f} s",
            soon["first_pass_seconds"] <= GOES_ON_SECONDS,
        ),
    ]


def judge_processes(part: dict[str, Any]) -> list[Verdict]:
    """Gain of a second process."""
    gain = Spread.of([one / two for one, two in zip(part["seconds"]["1"], part["seconds"]["2"], strict=True)])
    return [at_least("two processes of one thread against one", gain, TWO_PROCESSES)]


def judge_selection(part: dict[str, Any]) -> list[Verdict]:
    """Time and memory of FlexRand."""
    what, seconds = f"FlexRand on {part['rows']:,} scores", Spread.of(part["seconds"])
    used = part["peak_bytes"]
    return [
        Verdict(
            what,
            f"≤ {SELECTION_SECONDS:g} s",
            seconds.show("{:.2f}", " s"),
            seconds.median <= SELECTION_SECONDS,
        ),
        Verdict(f"{what}: memory", f"≤ {SELECTION_BYTES / 1e9:g} GB", f"{used / 1e9:.2f} GB", used <= SELECTION_BYTES),
    ]
