"""Report of the benchmark: tables and a plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hf_dlc.study.markdown import table

from .contenders import LABELS
from .statistics import Spread, agreement, compare, masking_share, memory_ratio, times_faster, tokens_per_second
from .verdicts import Verdict, label, verdicts


_COLOURS = {"float32": "tab:blue", "bfloat16": "tab:orange"}


def write_results(output: Path, results: dict[str, Any]) -> None:
    """Write the samples, the tables and, if it can be drawn, the plot."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "benchmark.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (output / "benchmark.md").write_text(report(results), encoding="utf-8")
    if "contenders" in results and find_spec("matplotlib"):
        _draw(results["contenders"], output / "benchmark.png")


def report(results: dict[str, Any]) -> str:
    """All tables as Markdown; every number in them is computed from the samples."""
    sections = [_heading(results)]
    if "contenders" in results:
        sections.append(_contender_table(results["contenders"]))
    sections += [_other_parts(results), _verdict_table(verdicts(results))]
    return "\n\n".join(sections) + "\n"


def _section(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f"## {title}\n\n{table(header, rows)}"


def _heading(results: dict[str, Any]) -> str:
    """Title, machine, model, versions and rows."""
    options, known = results["options"], results["versions"]
    lines = [
        "# Benchmark",
        "",
        f"- machine: {results['machine']}; {results['num_threads']} thread(s)",
        f"- model {options['model']}, template {options['template']}, masked fractions {options['schedule']}",
        f"- torch {known['torch']}, transformers {known['transformers']}, hf_dlc {known['hf_dlc']}"
        + (f", lm_eval {known['lm_eval']}" if "lm_eval" in known else ""),
    ]
    if part := results.get("contenders"):
        lines.append(
            f"- {part['rows']} rows of {options['dataset']}: {part['tokens']:,} tokens, {part['target_tokens']:,} of "
            f"them targets; {part['shared_head']:.0%} stand in a head that rows share"
        )
    return "\n".join(lines)


def _contender_table(part: dict[str, Any]) -> str:
    """Speed, memory and agreement of each contender."""
    header = ["contender", "dtype", "tokens/s", "against naive", "s a level", "masking", "peak / weights"]
    header += ["while scoring", "Spearman: confidence", "loss", "largest difference: confidence", "loss"]
    rows = [_contender_row(part, key) for key in part["entries"]]
    if not any(entry["contender"] == "harness" for entry in part["entries"].values()):
        rows.append([LABELS["harness"], "-", "not measured: lm_eval is not installed", *["-"] * 9])
    return _section(f"Contenders: {part['rows']} rows, {part['levels']} levels", header, rows) + "\n\n" + _notes(part)


def _notes(part: dict[str, Any]) -> str:
    """How to read the table of the contenders."""
    ties = [
        compare(part["same_masks"][kind], part["entries"]["naive-float32"][kind]).difference
        for kind in ("confidence", "loss")
    ]
    return (
        "Median (smallest–largest) of the rounds. Tokens are those of the rows, without padding, times the levels. "
        "The time of hf_dlc is from text to columns, that of the others begins with token ids. Masking is in the time "
        "of hf_dlc and of the naive code; the harness has no masks, so what they took is left out of its speed, and "
        "given as a share of both together. Memory is the peak of the process, less what its imports take. Spearman "
        "and differences are to the naive code under the same masks, at the level where they are worst. Weights of "
        "the same magnitude are masked in another order by torch than by hf_dlc; in the naive code, that alone "
        f"changes confidence by up to {ties[0]:.1e} and loss by up to {ties[1]:.1e}."
    )


def _contender_row(part: dict[str, Any], key: str) -> list[str]:
    """Cells of a contender: speed, memory and agreement."""
    entry = part["entries"][key]
    name = LABELS[entry["contender"]]
    if "batch_size" in entry:
        name += f" (batch size {entry['batch_size']})"
    level_seconds = Spread.of([sample["seconds"] / part["levels"] for sample in entry["samples"]])
    agreements = [agreement(part, key, kind) for kind in ("confidence", "loss")]
    return [
        name,
        entry["dtype"],
        tokens_per_second(part, key).show("{:,.0f}"),
        times_faster(part, key, "naive-float32").show("{:.2f}", "x"),
        level_seconds.show("{:.2f}"),
        _or_dash(masking_share(entry), "{:.2%}"),
        _or_dash(memory_ratio(entry, "peak_bytes"), "{:.2f}x"),
        _or_dash(memory_ratio(entry, "scoring_peak_bytes"), "{:.2f}x"),
        *(_or_dash(found and found.spearman, "{:.5f}") for found in agreements),
        *(_or_dash(found and found.difference, "{:.1e}") for found in agreements),
    ]


def _or_dash(value: float | None, pattern: str) -> str:
    return "-" if value is None else pattern.format(value)


def _other_parts(results: dict[str, Any]) -> str:
    """What else was measured, in ratios, and what was not."""
    rows = [[part, f"not measured: {why}"] for part, why in results["skipped"].items()]
    if part := results.get("scale"):
        times = f"{part['estimated_seconds']:.0f} s estimated, {part['seconds']:.0f} s measured"
        rows.append(["scale", f"{part['rows']:,} rows, {part['tokens']:,} tokens, {part['levels']} levels: {times}"])
    if part := results.get("many"):
        for one in (part["few"], part["many"]):
            size = f"{one['rows']:,} rows of {one['tokens_a_row']:.0f} tokens"
            rest = f"{1e6 * (one['seconds'] - one['pass_seconds']) / one['rows']:.0f} µs a row beside the passes"
            rows.append(["many", f"{size}: {one['seconds']:.0f} s, {rest}, peak {one['peak_bytes'] / 1e9:.2f} GB"])
    if part := results.get("padding"):
        faster = Spread.quartiles([one["padded"] / one["end to end"] for one in part["seconds"]])
        tokens = part["computed"]["padded"] / part["computed"]["end to end"]
        how = (
            f"{faster.show('{:.2f}', 'x')} as fast end to end as with padding" if part["goes_end_to_end"] else "padded"
        )
        turns = f"{len(part['seconds'])} turns of {part['rows_a_turn']} rows"
        rows.append(["padding", f"{how}; {turns}; of all {part['rows']} rows together, padding is {tokens - 1:.1%}"])
    for name, part in results.get("run", {}).items():
        size = f"{part['rows']:,} rows, {part['tokens']:,} tokens, {part['shared_head']:.1%} in shared beginnings"
        speed = part["tokens"] * part["levels"] / part["seconds"]
        times = Spread.of([seconds * part["levels"] / part["seconds"] for seconds in part["limit_seconds"]])
        rows.append([f"run, {name}", f"{size}, {speed:,.0f} tokens/s, {times.show('{:.2f}', 'x')} of a bare pass"])
        rows.append([f"run, {name}: masks", f"{part['masking_seconds']:.2f} s of {part['seconds']:.1f} s"])
    if part := results.get("processes"):
        both = [Spread.of(part["seconds"][count]).show("{:.1f}", " s") for count in ("1", "2")]
        rows.append(["processes", f"{part['rows']} rows: one {both[0]}, two {both[1]}"])
        bare = Spread.of([2 * a / b for a, b in zip(*(part["limit_seconds"][count] for count in "12"), strict=True)])
        rows.append(["processes: bare forward passes", f"two take {bare.show('{:.2f}', 'x')} the tokens of one"])
    if part := results.get("selection"):
        rows.append(["selection", f"{part['rows']:,} scores in {Spread.of(part['seconds']).show('{:.2f}', ' s')}"])
    if part := results.get("selectors"):
        for name, one in part["selectors"].items():
            size = f"{one['kept']:,} of {one['rows']:,} rows with vectors of {part['size']}"
            rows.append([f"selector {name}", f"{size}: {one['seconds']:.1f} s, peak {one['peak_bytes'] / 1e9:.2f} GB"])
    return _section("Other parts", ["part", "measured"], rows)


def _verdict_table(found: Sequence[Verdict]) -> str:
    """Asked for, measured, holds."""
    words = {True: "yes", False: "no", None: "-"}
    rows = [[what, asked, measured, words[holds]] for what, asked, measured, holds in found]
    return _section("Asked for", ["what", "asked for", "measured", "holds"], rows)


def _draw(part: dict[str, Any], path: Path) -> None:
    """Bars of tokens/s, whiskers from the slowest to the fastest round, and the limits as lines."""
    from matplotlib.figure import Figure  # no window is opened, and no global state is touched

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    bars = [key for key, entry in part["entries"].items() if entry["contender"] != "limit"]
    for place, key in enumerate(bars):
        speed, dtype = tokens_per_second(part, key), part["entries"][key]["dtype"]
        whiskers = [[speed.median - speed.low], [speed.high - speed.median]]
        axes.barh(place, speed.median, xerr=whiskers, color=_COLOURS.get(dtype, "tab:green"), capsize=4)
        beside = {"xytext": (8, 0), "textcoords": "offset points", "va": "center"}
        over_lines = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.annotate(f"{speed.median:,.0f}", (speed.high, place), **beside, bbox=over_lines)
    for key, entry in part["entries"].items():
        if entry["contender"] == "limit":
            colour = _COLOURS.get(entry["dtype"], "tab:green")
            axes.axvline(tokens_per_second(part, key).median, color=colour, linestyle="--", label=label(key))
    axes.set_yticks(range(len(bars)), [label(key) for key in bars])
    axes.set_xlabel("tokens of the rows times levels, a second (more is better)")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=150)
