"""
Score a labelled image dataset with an image classifier, or the body of one, and keep a part of each class.

    accelerate launch recipes/prune_images.py --config recipes/configs/image_folder.yaml --dataset path/to/folder
    accelerate launch recipes/prune_images.py --config recipes/configs/beans.yaml --keep 0.3
    python recipes/prune_images.py --dataset path/to/folder --model path/to/vit --head prototype --keep 0.2

The dataset may be a repository on the Hub, a folder with one folder of images for each class, or a folder that
`Dataset.save_to_disk` wrote. Results are those of prune_alpaca.py, whose options are all there; rows are chosen within
the classes of the column `label`, since scores of different classes do not compare, and no class is lost. For a model
without a trained head, or with `--head prototype`, class prototypes are learned from the dataset first.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_dlc import DLCConfig
from hf_dlc.cli.exits import run_program
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.pipeline.folder import select_rows, write_scores, write_subset
from hf_dlc.pipeline.options import PruneArguments
from hf_dlc.pipeline.outcome import outcome
from hf_dlc.pipeline.prune import open_run


PROGRAM = ("accelerate", "launch", "recipes/prune_images.py")  # what manifest.json tells to run again


@dataclass
class ImageRecipeArguments(PruneArguments):
    """Image options: what to score, with which model, and what to keep of each class."""

    dataset: str = field(default="uoft-cs/cifar10", metadata={"help": "Hub repository or folder of images."})
    model: str = field(default="facebook/dinov2-small", metadata={"help": "Hub repository or folder."})
    group_by: str | None = field(default="label", metadata={"help": "Column within whose groups rows are chosen."})
    min_per_group: int = field(default=1, metadata={"help": "Images kept of every class, however small."})
    output_dir: str = field(default="runs/prune-images", metadata={"help": "Folder for the results."})


def main(args: list[str] | None = None) -> None:
    """Run the recipe."""
    options, config = parse_config_and_args(
        [ImageRecipeArguments, DLCConfig], args, description=__doc__, required=["dataset"]
    )
    again = "Run the same command again: it goes on after the last chunk that was written."
    if summary := run_program(lambda: prune(options, config), again=again):
        print(summary)


def prune(options: ImageRecipeArguments, config: DLCConfig) -> str | None:
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
    # To publish it: hf-dlc push, or hf_dlc.push_pruned(pruned, "me/cifar10-half", scored, record.to_json()).
    return outcome(report, run.folder, record.selection, options.verbose)


if __name__ == "__main__":
    main()
