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

import logging
import signal

from hf_dlc import DLCConfig
from hf_dlc.cli.exits import run_program
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.pipeline.folder import make_report, write_scores, write_subset
from hf_dlc.pipeline.options import PruneArguments, load_scorer, make_selector
from hf_dlc.pipeline.prune import check_selection, open_run
from hf_dlc.pipeline.sources import dataset_identity, read_dataset


logger = logging.getLogger(__name__)

PROGRAM = ("accelerate", "launch", "recipes/prune_alpaca.py")  # what manifest.json tells to run again


def main(args: list[str] | None = None) -> None:
    """Run the recipe."""
    options, config = parse_config_and_args([PruneArguments, DLCConfig], args, description=__doc__)
    again = "Run the same command again: it goes on after the last chunk that was written."
    if summary := run_program(lambda: prune(options, config), again=again):
        print(f"{summary}\nwrote {options.output_dir}")


def prune(options: PruneArguments, config: DLCConfig) -> str | None:
    """Score the dataset and keep a part of it, in every process; return the summary, on the main process."""
    with open_run(options) as run:  # refuses to overwrite; within it, no process waits for one that has failed
        with run.local_main_first():  # one download a machine: the other processes read the cache
            dataset = read_dataset(options)
            scorer = load_scorer(options, config)
        identity = dataset_identity(options, dataset) if run.is_main else {}  # of the file as it is now
        processes = f"{run.state.num_processes} process(es)"
        logger.info("%d rows; %s in %s on %s", len(dataset), options.model, scorer.model.dtype, processes)
        if scorer.needs_fit:  # images, which have a recipe of their own
            scorer.fit(dataset, options.num_threads)
        estimate = scorer.estimate(dataset, num_threads=options.num_threads)
        logger.info("estimate: %s", estimate)
        estimate.require_rows()
        check_selection(options, config, dataset, estimate)  # refuses now what cannot be selected hours later

        run.calibrate(scorer)  # once, unless a journal is there: it has the masked fractions in it
        scored = scorer.score(dataset, run.journal, options.num_threads, options.chunk_seconds)
        if not run.is_main:
            return None
        record = run.record(scorer, identity, estimate, config, PROGRAM)

    with run.writing():  # a full disk loses nothing: the scores are in the journal
        write_scores(run.folder, scored, record)
        selector = make_selector(options, config.prefix)
        kept = selector.read_indices(scored).tolist()
        pruned, record = scored.select(kept), record.with_selection(selector, scored, kept)
        report = make_report(scored, kept, record, options.flag_column)
        write_subset(run.folder, pruned, report, record, options.html_report)
    # To publish it: hf-dlc push, or hf_dlc.push_pruned(pruned, "me/alpaca-half", scored, record.to_json()).
    return report.to_markdown()


if __name__ == "__main__":
    try:
        main()
    finally:  # a second Ctrl-C would print a traceback over the message of the first
        signal.signal(signal.SIGINT, signal.SIG_IGN)
