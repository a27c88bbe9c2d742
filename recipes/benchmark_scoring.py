"""
Measure what scoring costs, against what people would write themselves, in one run on one machine.

    python recipes/benchmark_scoring.py
    python recipes/benchmark_scoring.py --dataset rows.jsonl --scale-dataset many_rows.jsonl --output-dir runs/mine
    python recipes/benchmark_scoring.py --parts contenders --rows 20 --model path/to/model

Writes into `output_dir`:

    benchmark.md     the tables, also printed: speed, memory and agreement of each contender, asked for and measured
    benchmark.json   all samples that the tables are computed from
    benchmark.png    the speeds at a glance

The parts, chosen with `--parts`:

    contenders   the same rows and masks for everybody: naive code, lm-evaluation-harness, hf_dlc, and a bare forward
                 pass without heads, masks and padding as the limit
    padding      rows end to end, rows side by side with padding, and a bare pass, in turns of a few seconds
    run          runs of four levels: the share of the masks in them, and their time against the bare forward pass;
                 once with the template and once without, where rows share hardly any beginning
    scale        seconds a row of many rows against those of an eighth of them; the estimate against the run
    many         a million rows through a tiny model against a tenth of them: seconds a row beside the forward passes,
                 memory, and how soon a run that was stopped goes on
    processes    two processes of one thread against one
    selection    FlexRand on ten million scores
    selectors    every selector on a million rows with vectors, of which 100 others are wanted

Every contender lives in a process of its own, and only one of them computes at a time. They take turns, round by
round, so that a machine that gets slower or faster does so for all; ratios are taken within a round. Everything runs
on the CPU. `pip install -e ".[bench,demo]"` brings what is needed; without lm-eval that contender is left out.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import disable_progress_bars

from hf_dlc.cli.exits import run_program
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.study.benchmark.bench import describe, prepare
from hf_dlc.study.benchmark.options import BenchmarkArguments
from hf_dlc.study.benchmark.report import report, write_results
from hf_dlc.study.benchmark.trials import MEASURING


logger = logging.getLogger(__name__)


def main(args: list[str] | None = None) -> None:
    """Run the recipe."""
    [options] = parse_config_and_args([BenchmarkArguments], args, description=__doc__)
    print(run_program(lambda: measure(options)))


def measure(options: BenchmarkArguments) -> str:
    """Measure part by part, write what was measured, and return it as tables."""
    disable_progress_bars()
    output = Path(options.output_dir)
    if (output / "benchmark.json").exists() and not options.overwrite:
        raise FileExistsError(f"{output} holds the results of another run. Pass --overwrite, or another --output-dir.")
    with tempfile.TemporaryDirectory(prefix="benchmark_scoring_") as folder:
        bench = prepare(options, Path(folder))
        results = describe(bench)
        for part in options.chosen_parts:
            logger.info("measuring: %s", part)
            measured = MEASURING[part](bench)
            if measured is None:
                results["skipped"][part] = "no --scale-dataset"
            else:
                results[part] = measured
            write_results(output, results)  # after each part: the next may take long
    logger.info("wrote %s", output)
    return report(results)


if __name__ == "__main__":
    main()
