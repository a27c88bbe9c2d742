"""
Which rows are worth choosing: is a model that is trained on them better than one trained on as many random rows?

    python recipes/compare_selectors.py --config recipes/configs/compare_2_cores.yaml --dataset rows.jsonl

What is given beside the rows tells the situation, and with it the ways of choosing (arms) that are compared:

    --target wanted.jsonl    a task is wanted: rows like the wanted ones, by features, words or gradients.
    --flag-column suspect    some responses are wrong: rows without those that a score suspects.
    --group-by source        sources are lopsided: equal parts, without repeated rows, rows far from each other.
    nothing of these         nothing is known: some ways of each kind.
    --situation clean        rows are clean and of one kind: each end of each score, FlexRand.

`--test` names rows to measure by. Without it, half of the wanted rows are held out, or rows of the dataset. Each arm
chooses a subset of the pool, adapters in the upper layers of a model are trained on it, and the loss of the test rows
is compared, in two stages:

    screening    every arm at one budget with two seeds; the best go on, but those that choose nearly the rows that
                 random selection does with the same seed.
    confirming   these, random rows and all rows, at every budget with several other seeds, of the subsets, the
                 adapters and the order of the rows: differences are taken seed by seed.

Subsets have equally many rows, equally many target tokens, or (`updates`) equally many rows that are repeated until
every arm has taken as many steps. Arms are named by what they rank by and how they choose: `target cosine`,
`ifd cut 0.3`, `unique balanced random`, `confidence flexrand 0.75`. `random`, `full` (all rows) and `zero-shot` (no
training) are always there, and `oracle`, random rows that are not suspect, where a column says so.

`--finalists` skips the screening: to confirm on another dataset what came out on the first. With `--part 1/8` to
`--part 8/8`, eight processes on one folder, a GPU or a core for each, train an eighth of the models each and wait for
one another; the first scores and reports. `hf-dlc study` is the same in a time that you give.

Written into `output_dir`: prepared/ (scores and features), states/ (of the lower layers), cells/ (a file for each
model), study.json, study.md (also printed) and, where matplotlib is installed, study.png. A study that was stopped
goes on after the last model.
"""

from __future__ import annotations

import torch

from hf_dlc import DLCConfig
from hf_dlc.cli.exits import run_program
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.execution.processes import cpu_threads
from hf_dlc.study.options import StudyArguments
from hf_dlc.study.report import write_report
from hf_dlc.study.study import Study


def main(args: list[str] | None = None) -> None:
    """Run the recipe."""
    options, config = parse_config_and_args(
        [StudyArguments, DLCConfig], args, description=__doc__, required=["dataset"]
    )
    if found := run_program(lambda: compare(options, config)):
        print(found)


def compare(options: StudyArguments, config: DLCConfig) -> str | None:
    """Prepare, train and measure; return the report, in the first of several processes."""
    torch.set_num_threads(cpu_threads(options.num_threads))
    study = Study(options, config)  # reads the rows, and holds some of them out
    results = study.run()
    return write_report(results, study.output) if options.is_first else None


if __name__ == "__main__":
    main()
