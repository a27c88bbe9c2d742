"""
Is a model that is trained on the chosen rows better than one that is trained on as many random rows?

    python recipes/compare_selectors.py --config recipes/configs/compare_2_cores.yaml --dataset rows.jsonl

Some rows are held out; the others, the pool, are scored once. Then subsets of the pool are chosen by each arm, a model
is fine-tuned with LoRA on each, and the loss on the held-out rows is compared, in two stages:

    screening    every arm at one budget with one seed; the best go on, but those that choose nearly the rows that
                 random selection does with the same seed, as FlexRand with split 0.5
    confirming   these, random rows and all rows, at every budget with several other seeds, of the subsets, the
                 adapters and the order of the rows: differences are taken seed by seed

Arms are named by what they rank by and how they choose: `confidence flexrand 0.75`, `loss easiest`, `gain hardest`,
`plain flexrand 0.25` (plain is the loss of the unmasked model), `longest`, and `random`, which is always there.
Subsets have equally many rows, or equally many target tokens (`--matchings rows,tokens`).

`--finalists` skips the screening: to confirm on another dataset what came out on the first. With `--part 1/8` to
`--part 8/8`, eight processes on one folder, a GPU or a core for each, train an eighth of the models each and wait for
one another; the first scores and reports.

Written into `output_dir`: journal/ and scored/ (the scoring), cells/ (a file for each model; a study that was stopped
goes on after the last), study.json, study.md (also printed) and, where matplotlib is installed, study.png.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import disable_progress_bars

from hf_dlc import DLCConfig
from hf_dlc.cli.exits import run_program
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.execution.processes import cpu_threads
from hf_dlc.study.options import StudyArguments
from hf_dlc.study.report import write_report
from hf_dlc.study.study import Study


def main(args: list[str] | None = None) -> None:
    """Run the recipe."""
    options, config = parse_config_and_args([StudyArguments, DLCConfig], args, description=__doc__)
    if found := run_program(lambda: compare(options, replace(config, prefix="dlc"))):
        print(found)


def compare(options: StudyArguments, config: DLCConfig) -> str | None:
    """Score, train and measure; return the report, in the first of several processes."""
    disable_progress_bars()
    torch.set_num_threads(cpu_threads(options.num_threads))
    study = Study(options, config)  # reads the rows, and holds some of them out
    results = study.run()
    return write_report(results, study.output) if options.is_first else None


if __name__ == "__main__":
    main()
