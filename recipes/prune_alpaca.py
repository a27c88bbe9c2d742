"""
Score an instruction dataset with a causal language model and keep a part of it.

    accelerate launch recipes/prune_alpaca.py --config recipes/configs/demo.yaml
    accelerate launch recipes/prune_alpaca.py --config recipes/configs/alpaca.yaml --keep 0.3
    python recipes/prune_alpaca.py --dataset rows.jsonl --model path/to/model.gguf --keep 5000 --output-dir runs/mine

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

from hf_dlc import DLCConfig
from hf_dlc.cli.exits import run_program
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.pipeline.folder import select_rows, write_scores, write_subset
from hf_dlc.pipeline.options import PruneArguments
from hf_dlc.pipeline.outcome import outcome
from hf_dlc.pipeline.prune import open_run


PROGRAM = ("accelerate", "launch", "recipes/prune_alpaca.py")  # what manifest.json tells to run again


def main(args: list[str] | None = None) -> None:
    """Run the recipe."""
    options, config = parse_config_and_args(
        [PruneArguments, DLCConfig], args, description=__doc__, required=["dataset"]
    )
    again = "Run the same command again: it goes on after the last chunk that was written."
    if summary := run_program(lambda: prune(options, config), again=again):
        print(summary)


def prune(options: PruneArguments, config: DLCConfig) -> str | None:
    """Score the dataset and keep a part of it, in every process; return the summary, on the main process."""
    with open_run(options, config, PROGRAM) as run:  # new, or one that was stopped; it refuses to overwrite
        dataset, scorer = run.load()
        estimate = scorer.estimate(dataset, num_threads=options.num_threads, run_dir=run.journal)
        run.check(dataset, estimate)  # refuses now what cannot be selected hours later
        run.calibrate(scorer)  # settles the masked fractions, unless the journal has them
        scored = scorer.score(
            dataset, run_dir=run.journal, num_threads=options.num_threads, chunk_seconds=options.chunk_seconds
        )
        record = run.record(scorer, estimate)
    if record is None:  # not the main process
        return None

    with run.writing():  # a full disk loses nothing: the scores are in the journal
        write_scores(run.folder, scored, record)
        record = run.with_training(record, scorer, dataset, estimate)  # what an epoch of training would cost
        rows, selector = run.prepare_selection(scored)  # wanted rows get features, duplicates are found
        pruned, report, record = select_rows(rows, selector, record, options.flag_column)
        write_subset(run.folder, pruned, report, record, options.html_report)
    # To publish it: hf-dlc push, or hf_dlc.push_pruned(pruned, "me/alpaca-half", scored, record.to_json()).
    return outcome(report, run.folder, record.selection, options.verbose)


if __name__ == "__main__":
    main()
