"""
Train an image classifier on subsets of a scored dataset and compare their accuracy on held-out images.

    python recipes/finetune_images.py --run-dir runs/prune-images --eval-dataset path/to/validation
    python recipes/finetune_images.py --run-dir runs/prune-images --eval-dataset path/to/validation --frozen false

`run_dir` is what prune_images.py wrote: its scores and its options say on what the subsets are chosen. Every arm and
keep fraction is trained with several seeds, which also draw the subsets of the arms that draw:

    full         all scored rows
    random       as many rows of each class as the others have
    flexrand     FlexRand within the classes, with the split of the run, or, as in flexrand@0.25, another
    easiest      the highest scores of each class
    hardest      the lowest

With `--frozen` (the default) a linear head is trained on features of the unmasked model, which takes seconds a cell;
without, the whole model is fine-tuned. Both by `Trainer`. Written into `output_dir`:

    results.json     accuracy of every cell; a run that was stopped goes on after the last one
    table.md         means and standard errors over the seeds, also printed
    accuracy.png     the same against the keep fraction
"""

from __future__ import annotations

from pathlib import Path

import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import disable_progress_bars

from hf_dlc.cli.exits import run_program
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.study.image_study import ImageStudy, ImageStudyArguments, write_image_report


def main(args: list[str] | None = None) -> None:
    """Run the recipe."""
    [options] = parse_config_and_args([ImageStudyArguments], args, description=__doc__)
    print(run_program(lambda: compare(options)))


def compare(options: ImageStudyArguments) -> str:
    """Train and measure, write the results, and return them as a table."""
    disable_progress_bars()
    output = Path(options.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    study = ImageStudy(options)  # reads the scored images and those to measure by
    accuracies = study.train_all(output / "results.json")
    return write_image_report(accuracies, output)


if __name__ == "__main__":
    main()
