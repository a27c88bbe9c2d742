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
from pathlib import Path

import numpy as np
from datasets import Dataset, load_dataset
from prune_alpaca import run

from hf_dlc import DLCConfig
from hf_dlc.arguments import PruneArguments, read_dataset
from hf_dlc.config import parse_config_and_args


@dataclass
class ImageRecipeArguments(PruneArguments):
    """What to score, with which model, and what to keep of each class."""

    dataset: str = field(default="uoft-cs/cifar10", metadata={"help": "Hub repository or folder of images."})
    model: str = field(default="facebook/dinov2-small", metadata={"help": "Hub repository or folder."})
    max_rows: int | None = field(default=None, metadata={"help": "Use only so many rows, drawn at random."})
    group_by: str | None = field(default="label", metadata={"help": "Column within whose groups rows are chosen."})
    min_per_group: int = field(default=1, metadata={"help": "Images kept of every class, however small."})
    output_dir: str = field(default="runs/prune-images", metadata={"help": "Folder for the results."})


def main(args: list[str] | None = None) -> None:
    """Run the recipe."""
    options, config = parse_config_and_args([ImageRecipeArguments, DLCConfig], args, description=__doc__)
    run(options, config, read_images)


def read_images(options: PruneArguments) -> Dataset:
    """
    Read the dataset that the options name: what `prune_alpaca.py` reads, or a folder with a folder for each class, in
    a folder of the name of the split if there is one.
    """
    folder = Path(options.dataset)
    if not folder.is_dir() or (folder / "state.json").is_file():
        return read_dataset(options)
    if is_split(folder / options.split):
        folder = folder / options.split
    # Without `data_files`, a class whose name is that of a split would be taken for one.
    dataset = load_dataset("imagefolder", data_dir=str(folder), data_files={"train": "**"}, split="train")
    if options.max_rows is None or options.max_rows >= len(dataset):
        return dataset
    # Folders come class by class, so that the first rows would be of one class.
    return dataset.select(np.sort(np.random.default_rng(0).permutation(len(dataset))[: options.max_rows]))


def is_split(folder: Path) -> bool:
    """Whether a folder has folders of classes, or a list of its images: a class may have the name of a split."""
    return folder.is_dir() and any(path.is_dir() or path.stem == "metadata" for path in folder.iterdir())


if __name__ == "__main__":
    main()
