"""
Score an instruction dataset with a causal language model and keep a part of it.

    accelerate launch recipes/prune_alpaca.py --config recipes/configs/demo.yaml
    accelerate launch recipes/prune_alpaca.py --config recipes/configs/alpaca.yaml --keep 0.3
    python recipes/prune_alpaca.py --dataset rows.jsonl --model path/to/model.gguf --keep 5000 --output_dir runs/mine

Loads, estimates, calibrates, scores, selects, and writes into `output_dir`:

    pruned/          the kept rows with their scores (`Dataset.load_from_disk`)
    pruned.parquet   the same
    scores.parquet   the scores of all rows, in the order of the dataset, with a digest of each row
    scoring.json     how they came about, from which `hf-dlc select` goes on
    manifest.json    model, data, options, schedule, versions, counts, kept indices
    summary.md       what was scored and kept, for people
    report.html      the same with plots, where matplotlib is installed
    journal/         finished chunks of the scoring

A run that was stopped, by whatever, goes on where it stopped when the same command is run again, also with another
number of processes.

The dataset may be a repository on the Hub, a local .json, .jsonl, .csv, .tsv or .parquet file (also compressed), a
pattern of several, a folder of such files, or one that `Dataset.save_to_disk` wrote. Every option may stand in the
YAML file; the command line wins.
"""

from __future__ import annotations

import signal

from hf_dlc import DLCConfig
from hf_dlc.cli.exits import run_program
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.pipeline.options import PruneArguments
from hf_dlc.pipeline.prune import prune


def main(args: list[str] | None = None) -> None:
    """Run the recipe."""
    options, config = parse_config_and_args([PruneArguments, DLCConfig], args, description=__doc__)
    run("prune_alpaca.py", options, config)


def run(recipe: str, options: PruneArguments, config: DLCConfig) -> None:
    """The whole way, from the dataset to the files in the output folder; the main process shows the summary."""
    program = ("accelerate", "launch", f"recipes/{recipe}")
    again = "Run the same command again: it goes on after the last chunk that was written."
    summary = run_program(lambda: prune(options, config, program), again=again)
    if summary:
        print(f"{summary}\nwrote {options.output_dir}")


if __name__ == "__main__":
    try:
        main()
    finally:  # a second Ctrl-C would print a traceback over the message of the first
        signal.signal(signal.SIGINT, signal.SIG_IGN)
