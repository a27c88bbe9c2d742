"""
What does each tier of levels cost beside training on your rows, and how well does it rank them?

    python recipes/compare_tiers.py --dataset rows.jsonl --model path/to/model
    python recipes/compare_tiers.py --dataset rows.jsonl --rows 500 --also ifd,prompt_gain

Random rows are scored at all levels, at two (`fast`), at one (`single`), at one with the scores of `also`, and by
`ExtrapolatedScorer`. Each time is foretold first, and then measured. Then LoRA adapters are trained on the same rows
for one epoch, on the same device: STR is the time of the scoring, divided by that of the training.

Writes into `output_dir`:

    tiers.md     for each tier seconds and STR, foretold and measured, and Spearman with the scores at all levels
    tiers.json   the same as numbers, and the options
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
from hf_dlc.pipeline.options import load_scorer
from hf_dlc.pipeline.sources import read_dataset
from hf_dlc.study.options import TrainerOptions
from hf_dlc.study.tiers import TiersArguments, measure_tiers, tiers_of, tiers_table, timed
from hf_dlc.study.training import train_lora
from hf_dlc.utils.files import write_json


def main(args: list[str] | None = None) -> None:
    """Run the recipe."""
    options, config = parse_config_and_args(
        [TiersArguments, DLCConfig], args, description=__doc__, required=["dataset"]
    )
    print(run_program(lambda: compare_tiers(options, config)))


def compare_tiers(options: TiersArguments, config: DLCConfig) -> str:
    """Foretell and measure what each tier and an epoch of training cost, and return it as a table."""
    disable_progress_bars()
    torch.set_num_threads(cpu_threads(options.num_threads))
    rows = read_dataset(options).shuffle(options.study_seed)
    rows = rows.select(range(min(options.rows, len(rows))))
    exact = load_scorer(options, config)
    exact.calibrate()  # once for a model: it is no part of what scoring rows costs
    columns = [f"{config.prefix}_{name}" for name in config.scores]
    found = measure_tiers(
        tiers_of(exact, options.also, options.share, options.study_seed), rows, columns, options.num_threads
    )

    foretold = exact.estimate(rows, options.num_threads, training=True).training_seconds
    tokens = exact.tokenize(rows)
    _, trained = timed(lambda: train_lora(exact, tokens, TrainerOptions(epochs=1), options.study_seed))

    output = Path(options.output_dir)
    facts = {"options": vars(options), "schedule": exact.schedule_, "dtype": str(exact.model.dtype)}
    seconds = {"training_foretold": foretold, "training": trained}
    write_json(output / "tiers.json", {**facts, **seconds, "tiers": [one.to_json() for one in found]})
    text = f"{len(rows)} rows.\n\n{tiers_table(found, foretold, trained)}\n"
    (output / "tiers.md").write_text(text, encoding="utf-8")
    return text


if __name__ == "__main__":
    main()
