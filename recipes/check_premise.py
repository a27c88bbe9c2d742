"""
Do the scores foretell how rows are learned? They are held against the losses of a training on all rows.

    python recipes/check_premise.py --dataset rows.jsonl --scores confidence,loss,plain_loss,ifd
    python recipes/check_premise.py --dataset path/to/images --label label --model path/to/vit --rows 600 \
        --scores confidence,loss,plain_loss --learning-rate 3e-3

Random rows are scored, and then trained on for three epochs: texts by LoRA adapters, images by a linear head on frozen
features, or by the whole model (`--frozen false`). The loss of each row is kept after every epoch. The mean of them is
what a score is to foretell, as the paper says of its own score. Images are also compared within their classes.

Writes into `output_dir`:

    premise.md       for each score its Spearman correlation with the mean loss, and how far it is from plain loss
    premise.json     the same as numbers, the mean loss after each epoch, and the options
    scores.parquet   the rows with all columns and `epoch_losses`
    journal/         from which a scoring that was stopped goes on
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
from hf_dlc.study.premise import PremiseArguments, draw_rows, foretell, learning_curves, premise_table
from hf_dlc.utils.files import write_json


def main(args: list[str] | None = None) -> None:
    """Run the recipe."""
    options, config = parse_config_and_args(
        [PremiseArguments, DLCConfig], args, description=__doc__, required=["dataset"]
    )
    print(run_program(lambda: check_premise(options, config)))


def check_premise(options: PremiseArguments, config: DLCConfig) -> str:
    """Score rows, train on them, and return how well each score foretells their losses."""
    disable_progress_bars()
    torch.set_num_threads(cpu_threads(options.num_threads))
    scorer = load_scorer(options, config)
    rows = draw_rows(scorer, read_dataset(options), options)
    if scorer.needs_fit:
        scorer.fit(rows, num_threads=options.num_threads)
    output = Path(options.output_dir)
    scored = scorer.score(rows, run_dir=output / "journal", num_threads=options.num_threads)
    curves = learning_curves(scorer, scored, options)

    classes = options.label and scored[options.label][:]
    found = foretell(scored, curves.mean(axis=1), config.scores, classes, config.prefix)
    after = torch.from_numpy(curves).nanmean(dim=0).tolist()
    facts = {"options": vars(options), "schedule": scorer.schedule_, "dtype": str(scorer.model.dtype)}
    write_json(output / "premise.json", {**facts, "mean_losses": after, "found": [one.to_json() for one in found]})
    scored.add_column("epoch_losses", curves.tolist()).to_parquet(output / "scores.parquet")
    losses = ", ".join(f"{loss:.3f}" for loss in after)
    text = f"{len(rows)} rows, whose mean loss after each epoch is {losses}.\n\n{premise_table(found)}\n"
    (output / "premise.md").write_text(text, encoding="utf-8")
    return text


if __name__ == "__main__":
    main()
