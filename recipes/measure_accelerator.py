"""
Measure scoring on this device, an accelerator or the CPU, beside a padded loop and a bare forward pass.

    python recipes/measure_accelerator.py --model path/to/model --dataset rows.jsonl
    python recipes/measure_accelerator.py --model path/to/large --dataset rows.jsonl --rows 200 --dtype bfloat16

Three contenders take the same rows in turns, and their medians are told in tokens a second, padding not counted:

    hf_dlc         `scorer.score` at one unmasked level, from text to columns
    padded loop    `model(**batch).loss` over batches of rows of similar length, as most people write it
    bare pass      the body of the model over the same batches, without its output head

Before that, the masks of this device are compared with those of the CPU, bit for bit. Writes `accelerator.md`, which
is printed, and `accelerator.json` into `output_dir`. Not run on an accelerator so far: none was at hand.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset, disable_progress_bars

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.cli.exits import run_program
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.masking import Masker
from hf_dlc.pipeline.options import DataArguments, ModelArguments, load_scorer
from hf_dlc.pipeline.sources import read_dataset
from hf_dlc.study.markdown import table
from hf_dlc.utils.files import write_json


COMPARED = 3  # weight matrices whose masks are compared


@dataclass
class AcceleratorArguments(DataArguments, ModelArguments):
    """Measuring options: how many rows, and how often."""

    rows: int = field(default=500, metadata={"help": "Rows of a round, drawn at random."})
    batch_rows: int = field(default=16, metadata={"help": "Rows of a batch of the padded loop and the bare pass."})
    rounds: int = field(default=3, metadata={"help": "How often each contender has its turn."})
    output_dir: str = field(default="runs/accelerator", metadata={"help": "Folder for the results."})


def main(args: list[str] | None = None) -> None:
    """Run the recipe."""
    options, config = parse_config_and_args(
        [AcceleratorArguments, DLCConfig], args, description=__doc__, required=["dataset"]
    )
    print(run_program(lambda: measure(options, replace(config, schedule="0", scores=("plain_loss",)))))


def measure(options: AcceleratorArguments, config: DLCConfig) -> str:
    """Compare masks, let the contenders take turns, and return what was found as a table."""
    disable_progress_bars()
    rows = read_dataset(options).shuffle(seed=0)
    rows = rows.select(range(min(options.rows, len(rows))))
    scorer = load_scorer(options, config)
    device = scorer.model.device
    found: dict[str, Any] = {"device": device_name(device), "dtype": str(scorer.model.dtype), "rows": len(rows)}
    found["same_masks"] = {masking: same_masks(scorer, masking) for masking in ("random", "magnitude")}

    contenders = contenders_of(scorer, rows, options.batch_rows)
    found["tokens"] = scorer.estimate(rows).tokens
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    memory = dict.fromkeys(contenders, 0)
    for turn in range(1 + options.rounds):
        for name, contender in contenders.items():
            taken, peak = timed(contender, device)
            if turn:  # the first round warms up
                seconds[name].append(taken)
                memory[name] = max(memory[name], peak)
    found |= {"seconds": seconds, "peak_bytes": memory}

    output = Path(options.output_dir)
    write_json(output / "accelerator.json", found)
    (output / "accelerator.md").write_text(text := report(found) + "\n", encoding="utf-8")
    return text


def device_name(device: torch.device) -> str:
    """Name of the device, for people."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def same_masks(scorer: DLCScorer, masking: str) -> bool:
    """Whether the first matrices are masked as on the CPU, at a fraction of 0.1."""

    def masks() -> list[torch.Tensor]:
        masker = Masker(scorer.model, masking=masking)
        with masker.session((0.0, 0.1)) as session:
            session.set_level(1)
            return [(target.parameter == 0).cpu() for target in masker.targets[:COMPARED]]

    device, here = scorer.model.device, masks()
    scorer.model.to("cpu")
    there = masks()
    scorer.model.to(device)
    return all(torch.equal(one, other) for one, other in zip(here, there, strict=True))


def contenders_of(scorer: DLCScorer, rows: Dataset, batch_rows: int) -> dict[str, Callable[[], Any]]:
    """Make a function for each contender that takes all rows through the model once."""
    task, model = scorer.parts.task, scorer.model
    encoded = sorted((row for row in task.encode_dataset(rows) if row.length), key=lambda row: -row.length)
    batches = [task.training_batch(encoded[i : i + batch_rows]) for i in range(0, len(encoded), batch_rows)]

    @torch.inference_mode()
    def padded_loop() -> list[float]:
        return torch.stack([model(**batch).loss for batch in batches]).tolist()  # one wait for all

    @torch.inference_mode()
    def bare_pass() -> None:
        for batch in batches:
            model.base_model(batch["input_ids"], batch["attention_mask"], use_cache=False)

    return {"hf_dlc": lambda: scorer.score(rows), "padded loop": padded_loop, "bare pass": bare_pass}


def timed(contender: Callable[[], Any], device: torch.device) -> tuple[float, int]:
    """Seconds, and on CUDA the peak of the memory in bytes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    contender()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    taken = time.perf_counter() - start
    return taken, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def report(found: dict[str, Any]) -> str:
    """Format what was measured as Markdown."""
    rows = [
        [name, f"{found['tokens'] / median(seconds):,.0f}", f"{found['peak_bytes'][name] / 2**30:.2f} GiB"]
        for name, seconds in found["seconds"].items()
    ]
    masks = ", ".join(f"{masking}: {'yes' if same else 'no'}" for masking, same in found["same_masks"].items())
    head = f"{found['device']}, {found['dtype']}, {found['rows']} rows of {found['tokens']:,} tokens."
    return f"{head} Masks as on the CPU: {masks}.\n\n{table(['contender', 'tokens/s', 'peak memory'], rows)}"


if __name__ == "__main__":
    main()
