"""
Fine-tune a causal language model with LoRA on a dataset, pruned or not, and measure it on rows that it has not seen.

    python recipes/finetune_lora.py --dataset runs/prune/pruned --eval-dataset held_out.jsonl
    python recipes/finetune_lora.py --dataset rows.jsonl --model path/to/model --epochs 3 --choices arc.jsonl

The dataset is what prune_alpaca.py reads or writes. Rows are turned into tokens by the scorer, so that training learns
from exactly the tokens that are scored. The scorer's options (`--template`, `--max-length`, `--columns`) are there as
well, and hold for the files to measure by, too.
TRL's `SFTTrainer` trains where it is installed, else `Trainer`. Before and after, it measures, by rows that are not
among those that were trained on (others are left out, so that one file may serve for both),

    loss        of the responses of `eval_dataset`, a mean over rows and one over tokens
    choices     share of the multiple-choice questions in `choices` whose right answer has the highest mean
                log-likelihood of all
    answers     share of the questions in `answers` (GSM8K's layout) to which the model writes the right number

Written into `output_dir`: the adapter (`PeftModel.from_pretrained` reads it) and results.json.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import disable_progress_bars

from hf_dlc import DLCConfig
from hf_dlc.cli.exits import run_program
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.execution.processes import cpu_threads
from hf_dlc.pipeline.options import DataArguments, ModelArguments, load_scorer
from hf_dlc.pipeline.sources import read_dataset
from hf_dlc.study.markdown import table
from hf_dlc.study.measuring import make_judge, measure, read_held_out
from hf_dlc.study.options import FinetuneArguments, options_of
from hf_dlc.study.training import train_lora
from hf_dlc.utils.files import write_json


def main(args: list[str] | None = None) -> None:
    """Run the recipe."""
    options, config = parse_config_and_args(
        [FinetuneArguments, DLCConfig], args, description=__doc__, required=["dataset"]
    )
    found = run_program(lambda: finetune(options, config))
    rows = [[name, f"{value:.4f}", f"{found['after'][name]:.4f}"] for name, value in found["before"].items()]
    print(f"{table(['', 'before', 'after'], rows)}\n\n{found['rows']:,} rows, trained in {found['seconds']:.0f} s.")


def finetune(options: FinetuneArguments, config: DLCConfig) -> dict[str, Any]:
    """Measure, train, measure again and save; return what was measured."""
    disable_progress_bars()
    torch.set_num_threads(cpu_threads(options.num_threads))
    output = Path(options.output_dir)
    output.mkdir(parents=True, exist_ok=True)  # what cannot be written is better known before hours of training
    scorer = load_scorer(options_of(ModelArguments, options), config)
    dataset = read_dataset(options_of(DataArguments, options))
    rows, held_out = scorer.tokenize(dataset), read_held_out(options, dataset)
    before = measure(make_judge(scorer), held_out)
    start = time.perf_counter()
    model = train_lora(scorer, rows, options, options.training_seed)
    seconds = time.perf_counter() - start
    after = measure(make_judge(scorer, model), held_out)
    model.save_pretrained(output)
    results = {"rows": len(rows), "seconds": seconds, "before": before, "after": after}
    write_json(output / "results.json", {**results, "options": asdict(options)})
    return results


if __name__ == "__main__":
    main()
