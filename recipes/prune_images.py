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

import signal
from dataclasses import dataclass, field

from hf_dlc import DLCConfig
from hf_dlc.cli.exits import run_program
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.pipeline.options import PruneArguments
from hf_dlc.pipeline.prune import prune


@dataclass
class ImageRecipeArguments(PruneArguments):
    """What to score, with which model, and what to keep of each class."""

    dataset: str = field(default="uoft-cs/cifar10", metadata={"help": "Hub repository or folder of images."})
    model: str = field(default="facebook/dinov2-small", metadata={"help": "Hub repository or folder."})
    group_by: str | None = field(default="label", metadata={"help": "Column within whose groups rows are chosen."})
    min_per_group: int = field(default=1, metadata={"help": "Images kept of every class, however small."})
    output_dir: str = field(default="runs/prune-images", metadata={"help": "Folder for the results."})


def main(args: list[str] | None = None) -> None:
    """Run the recipe."""
    options, config = parse_config_and_args([ImageRecipeArguments, DLCConfig], args, description=__doc__)
    program = ("accelerate", "launch", "recipes/prune_images.py")
    again = "Run the same command again: it goes on after the last chunk that was written."
    if summary := run_program(lambda: prune(options, config, program), again=again):
        print(f"{summary}\nwrote {options.output_dir}")


if __name__ == "__main__":
    try:
        main()
    finally:  # a second Ctrl-C would print a traceback over the message of the first
        signal.signal(signal.SIGINT, signal.SIG_IGN)
