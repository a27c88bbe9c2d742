"""
Look at what image scores cost and at what they are worth, on a labelled image set.

    python recipes/check_image_scores.py --dataset path/to/folder --model path/to/vit
    python recipes/check_image_scores.py --dataset path/to/folder --model path/to/vit --parts noise --masking random

The parts, chosen with `--parts`:

    speed     images a second of a whole `score`, reading included, against bare forward passes of the same batches
    levels    how few levels rank the images of a class, against the fifty of the paper, linear and geometric
    noise     how well scores find labels that were flipped on purpose, within classes, beside the loss of level 0

All options of `DLCConfig` are there as well. Tables are printed; `output_dir` gets them as check.md and check.json.
"""

from __future__ import annotations

from pathlib import Path

import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import disable_progress_bars

from hf_dlc import DLCConfig
from hf_dlc.cli.exits import run_program
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.execution.processes import cpu_threads
from hf_dlc.pipeline.options import DataArguments
from hf_dlc.pipeline.sources import read_dataset
from hf_dlc.study.image_checks import CHECKS, CheckArguments, check_table
from hf_dlc.utils.files import write_json


def main(args: list[str] | None = None) -> None:
    """Run the recipe."""
    options, config = parse_config_and_args(
        [CheckArguments, DLCConfig], args, description=__doc__, required=["dataset"]
    )
    print(run_program(lambda: check(options, config)))


def check(options: CheckArguments, config: DLCConfig) -> str:
    """Look at what the options name, write what was seen, and return it as tables."""
    disable_progress_bars()
    torch.set_num_threads(cpu_threads(options.num_threads))
    images = read_dataset(DataArguments(dataset=options.dataset, split=options.split))
    images = images.shuffle(seed=options.selection_seed)
    rows = {name: CHECKS[name](options, config, images) for name in options.parts.split(",")}
    output = Path(options.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    text = "\n".join(check_table(name, found) for name, found in rows.items())
    (output / "check.md").write_text(text, encoding="utf-8")
    write_json(output / "check.json", rows)
    return text


if __name__ == "__main__":
    main()
