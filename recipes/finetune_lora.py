"""
Fine-tune a causal language model with LoRA on a dataset, pruned or not, and measure it on rows that it has not seen.

    python recipes/finetune_lora.py --dataset runs/prune/pruned --eval_dataset held_out.jsonl
    python recipes/finetune_lora.py --dataset rows.jsonl --model path/to/model --epochs 3 --choices arc.jsonl

The dataset is what prune_alpaca.py reads or writes. Rows are turned into tokens by the scorer, so that training learns
from exactly the tokens that are scored; its options (`--template`, `--max_length`, `--columns`) are there as well, and
hold for the files to measure by, too.
TRL's `SFTTrainer` trains where it is installed, else `Trainer`. Before and after, it measures, by rows that are not
among those that were trained on (others are left out, so that one file may serve for both),

    loss        of the responses of `eval_dataset`, a mean over rows and one over tokens
    choices     share of the multiple-choice questions in `choices` whose right answer has the highest mean
                log-likelihood of all
    answers     share of the questions in `answers` (GSM8K's layout) to which the model writes the right number

Written into `output_dir`: the adapter (`PeftModel.from_pretrained` reads it) and results.json.
"""

from __future__ import annotations

import logging
import re
import reprlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.cli.exits import run_program
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.execution.processes import cpu_threads
from hf_dlc.pipeline.options import Options, PruneArguments, load_scorer
from hf_dlc.pipeline.sources import read_dataset, split_of
from hf_dlc.scores.columns import NAN_SCORE
from hf_dlc.utils.content import content_digests
from hf_dlc.utils.files import write_json


logger = logging.getLogger(__name__)

_CHOICE = re.compile(r"Answer\d+: (.*?)(?=\s+Answer\d+:|\n\n|$)", re.DOTALL)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_ANSWER = re.compile(rf"####\s*({_NUMBER.pattern})\s*$")


@dataclass
class TrainingOptions(Options):
    """How a model is fine-tuned; the same for whatever is compared."""

    epochs: float = field(default=2.0, metadata={"help": "Passes over the rows."})
    learning_rate: float = field(default=5e-4, metadata={"help": "Of AdamW, with a warm-up and a cosine schedule."})
    batch_size: int = field(default=8, metadata={"help": "Rows a step and process."})
    lora_rank: int = field(default=16, metadata={"help": "Rank of the adapters, of all linear layers."})
    lora_alpha: int = field(default=32, metadata={"help": "Scale of the adapters."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout before the adapters."})
    lora_layers: int | None = field(
        default=None, metadata={"help": "Adapters in the last layers only; the others need no gradients."}
    )
    trainer: str = field(default="auto", metadata={"help": "'sft' (TRL), 'transformers', or 'auto'."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trainer not in ("auto", "sft", "transformers"):
            raise ValueError(f"trainer must be 'auto', 'sft' or 'transformers', got {self.trainer!r}.")
        if self.lora_layers is not None and self.lora_layers < 1:
            raise ValueError(f"lora_layers must be at least 1, or left out for all layers, got {self.lora_layers}.")

    @property
    def uses_trl(self) -> bool:
        """Whether TRL trains."""
        return self.trainer == "sft" or (self.trainer == "auto" and find_spec("trl") is not None)


@dataclass
class FinetuneArguments(TrainingOptions):
    """What is trained, on what, and by what it is measured."""

    dataset: str = field(default="runs/prune/pruned", metadata={"help": "Training rows: file, folder or Hub dataset."})
    split: str = field(default="train", metadata={"help": "Split, or a slice: 'train[:1000]'."})
    max_rows: int | None = field(default=None, metadata={"help": "Train on the first rows only."})
    model: str = field(default="demo", metadata={"help": "Hub repository, folder, .gguf file, or 'demo'."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub model."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the model."})
    eval_dataset: str | None = field(default=None, metadata={"help": "Held-out rows, for their loss."})
    choices: str | None = field(default=None, metadata={"help": "Multiple-choice questions."})
    answers: str | None = field(default=None, metadata={"help": "Questions whose answer ends in '#### number'."})
    eval_rows: int | None = field(default=None, metadata={"help": "Use only the first rows of each of the three."})
    training_seed: int = field(default=0, metadata={"help": "Seed of the adapters and of the order of rows."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads; default: all cores."})
    output_dir: str = field(default="runs/finetune-lora", metadata={"help": "Folder for adapter and results."})


def main(args: list[str] | None = None) -> None:
    """Run the recipe."""
    options, config = parse_config_and_args([FinetuneArguments, DLCConfig], args, description=__doc__)
    print(table(run_program(lambda: finetune(options, config))))


def finetune(options: FinetuneArguments, config: DLCConfig) -> dict[str, Any]:
    """Measure, train, measure again and save; return what was measured."""
    disable_progress_bars()
    torch.set_num_threads(cpu_threads(options.num_threads))
    output = Path(options.output_dir)
    output.mkdir(parents=True, exist_ok=True)  # what cannot be written is better known before hours of training
    training = recipe_arguments(options, options.dataset, options.max_rows)
    scorer = load_scorer(training, config)
    dataset = read_dataset(training)
    rows, parts = scorer.tokenize(dataset), held_out(options, dataset)
    before = measure(judge(scorer), parts)
    start = time.perf_counter()
    model = train_lora(scorer, rows, options, options.training_seed)
    seconds = time.perf_counter() - start
    after = measure(judge(scorer, model), parts)
    model.save_pretrained(output)
    results = {"rows": len(rows), "seconds": seconds, "before": before, "after": after}
    write_json(output / "results.json", {**results, "options": asdict(options)})
    return results


def recipe_arguments(options: FinetuneArguments, dataset: str, max_rows: int | None) -> PruneArguments:
    """The options of prune_alpaca.py that say what is read and loaded."""
    names = ("split", "model", "model_revision", "trust_remote_code")
    return PruneArguments(dataset=dataset, max_rows=max_rows, **{name: getattr(options, name) for name in names})


def held_out_arguments(options: FinetuneArguments, dataset: str) -> PruneArguments:
    """The same for rows to measure by, of which a slice of the training rows says nothing."""
    return replace(recipe_arguments(options, dataset, None), split=split_of(dataset, options.split))


# ---- training -----------------------------------------------------------------------------------------------------


def train_lora(scorer: DLCScorer, rows: Dataset, options: TrainingOptions, seed: int) -> PeftModel:
    """
    Train adapters on tokenised rows.

    The weights of the scorer's model stay as they are. `model.unload()` takes the adapters off again.
    """
    if not len(rows):
        raise ValueError("no row can be trained on: none has a target token.")
    set_seed(seed)
    model = get_peft_model(scorer.model, lora_config(options, scorer.model.config.num_hidden_layers))
    with tempfile.TemporaryDirectory() as folder:
        arguments = {
            "output_dir": folder,
            "num_train_epochs": options.epochs,
            "per_device_train_batch_size": options.batch_size,
            "learning_rate": options.learning_rate,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.05,
            "train_sampling_strategy": "group_by_length",
            "seed": seed,
            "use_cpu": scorer.model.device.type == "cpu",
            "bf16": scorer.model.dtype == torch.bfloat16,  # for products; the adapters stay float32
            "activation_checkpointing": False,  # TRL's default would stay switched on in the scorer's model
            "save_strategy": "no",
            "logging_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "dataloader_pin_memory": torch.accelerator.is_available(),
        }
        with _forward_put_back(scorer.model):
            trainer = (sft_trainer if options.uses_trl else plain_trainer)(model, rows, scorer, arguments)
            trainer.remove_callback(PrinterCallback)
            trainer.train()
    return model.eval()


@contextmanager
def _forward_put_back(model: PreTrainedModel) -> Iterator[None]:
    """TRL leaves a `forward` on the model, bound to it: copies would compute with the weights of the original."""
    before = {name: value for name, value in vars(model).items() if name == "forward"}
    yield
    vars(model).pop("forward", None)
    vars(model).update(before)


def core_seconds() -> float:
    """A clock: of all cores that this process has kept busy, or, with an accelerator, of the time that passes."""
    return time.perf_counter() if torch.accelerator.is_available() else time.process_time()


def lora_config(options: TrainingOptions, num_layers: int) -> LoraConfig:
    """Adapters at the linear modules of all layers, or of the last."""
    left_out = [] if options.lora_layers is None else [str(layer) for layer in range(num_layers - options.lora_layers)]
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=options.lora_rank,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules="all-linear",
        exclude_modules=rf".*\.({'|'.join(left_out)})\..*" if left_out else None,
    )


def plain_trainer(model: PeftModel, rows: Dataset, scorer: DLCScorer, arguments: dict[str, Any]) -> Trainer:
    """Transformers alone."""
    collator = DataCollatorForSeq2Seq(padder(scorer), pad_to_multiple_of=8)
    return Trainer(model, TrainingArguments(**arguments), data_collator=collator, train_dataset=rows)


def sft_trainer(model: PeftModel, rows: Dataset, scorer: DLCScorer, arguments: dict[str, Any]) -> Trainer:
    """TRL, which takes rows that are tokenised already as they are."""
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(**arguments, max_length=None)
    return SFTTrainer(model, config, train_dataset=rows, processing_class=padder(scorer))


def padder(scorer: DLCScorer) -> Any:
    """The tokenizer; without a padding token, its end of text pads, where no label is."""
    tokenizer = scorer.processor
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


# ---- measuring ----------------------------------------------------------------------------------------------------


def judge(scorer: DLCScorer, model: PeftModel | None = None) -> DLCScorer:
    """
    A scorer without masking: the loss that it writes is the mean over the target tokens of a row.

    Of the scorer's own model, or of a copy of a trained one with the adapters in the weights, which is how it is used
    and several times as fast.
    """
    read = scorer.model if model is None else deepcopy(model).merge_and_unload()
    return DLCScorer(read, scorer.processor, replace(scorer.config, schedule="0", prefix="dlc"))


def measure(judge: DLCScorer, parts: dict[str, Dataset]) -> dict[str, float]:
    """By all that there is to measure by."""
    found: dict[str, float] = {}
    if "eval_dataset" in parts:
        found |= held_out_losses(judge, parts["eval_dataset"])
    if "choices" in parts:
        found["choices"] = float(choose(judge, parts["choices"]).mean())
    if "answers" in parts:
        found["answers"] = float(answer(judge, parts["answers"]).mean())
    return found


def held_out(options: FinetuneArguments, training: Dataset) -> dict[str, Dataset]:
    """Rows to measure by, none of which is trained on."""
    files = {name: getattr(options, name) for name in ("eval_dataset", "choices", "answers")}
    parts = {
        name: unseen(read_dataset(held_out_arguments(options, file)), training, name)
        for name, file in files.items()
        if file
    }
    return {name: rows.select(range(min(options.eval_rows or len(rows), len(rows)))) for name, rows in parts.items()}


def unseen(rows: Dataset, training: Dataset, name: str) -> Dataset:
    """The rows that are not trained on, as far as their columns are those of the training rows."""
    if not set(rows.column_names) <= set(training.column_names):
        return rows
    trained = set(content_digests(training, rows.column_names))
    places = [place for place, one in enumerate(content_digests(rows, rows.column_names)) if one not in trained]
    if not places:
        raise ValueError(f"{name} must have rows that are not trained on, got {len(rows)} that are.")
    if len(places) < len(rows):
        logger.info("%s: %d of %d rows are trained on and left out", name, len(rows) - len(places), len(rows))
    return rows.select(places)


def held_out_losses(judge: DLCScorer, rows: Dataset) -> dict[str, float]:
    """Mean over rows, which is what the score is made of, and over tokens, in which long responses count for more."""
    scored = judge.score(rows, num_threads=torch.get_num_threads())
    losses, tokens, statuses = (np.array(scored[f"dlc_{name}"][:]) for name in ("loss", "tokens", "status"))
    if broken := int((statuses == NAN_SCORE).sum()):
        raise ValueError(f"the model gives NaN for {broken} of {len(rows)} held-out rows: lower the learning_rate.")
    is_scored = tokens > 0
    if not is_scored.any():
        raise ValueError(f"a held-out row must have a target token, got none in {len(rows)} rows.")
    per_token = np.average(losses[is_scored], weights=tokens[is_scored])
    return {"loss per row": float(losses[is_scored].mean()), "loss per token": float(per_token)}


def choose(judge: DLCScorer, rows: Dataset) -> np.ndarray:
    """
    Whether the right answer of each question has the highest log-likelihood a token, where a template closes the
    response with an end of turn that is learned, of that token, too.
    """
    questions = [read_question(row) for row in rows]
    candidates = [
        {"instruction": question, "input": "", "output": choice}
        for question, choices, _ in questions
        for choice in choices
    ]
    scored = judge.score(Dataset.from_list(candidates), num_threads=torch.get_num_threads())
    losses = np.array(scored["dlc_loss"][:])
    if missing := int(np.isnan(losses).sum()):
        raise ValueError(f"{missing} of {len(losses)} choices have no loss: they are empty or too long.")
    ends = np.cumsum([len(choices) for _, choices, _ in questions])
    parts = np.split(losses, ends[:-1])
    return np.array([part.argmin() == right for part, (_, _, right) in zip(parts, questions, strict=True)])


def read_question(row: dict[str, Any]) -> tuple[str, list[str], int]:
    """
    Question, choices and the place of the right one, from a row with `question`, `choices` and `answer` (a place), or
    from one of LLM-Adapters, which has all of it in one text.
    """
    try:
        if "choices" in row:
            question, choices, right = row["question"], list(row["choices"]), int(row["answer"])
        else:
            head, _, rest = row["instruction"].partition("\n\n")
            question, choices = head.partition(": ")[2] or head, [text.strip() for text in _CHOICE.findall(rest)]
            right = int(row["answer"].removeprefix("answer")) - 1
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "a question must have the columns question, choices and answer (the place of the right choice, from 0), "
            f"or instruction and answer as LLM-Adapters has them, got {reprlib.repr(row)}."
        ) from error
    if not 0 <= right < len(choices):
        raise ValueError(f"a question needs a right answer among its choices, got {row['answer']!r} for {choices}.")
    return question, choices, right


@torch.inference_mode()
def answer(judge: DLCScorer, rows: Dataset, max_tokens: int = 256) -> np.ndarray:
    """Whether the last number that the model writes is the one after '####'."""
    tokenizer, model, right = padder(judge), judge.model.eval(), []
    expected = [read_answer(row) for row in rows]
    for row in judge.tokenize(rows):
        prompt = row["input_ids"][: next(place for place, label in enumerate(row["labels"]) if label != -100)]
        given = torch.tensor([prompt], device=model.device)
        written = model.generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=max_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
        numbers = _NUMBER.findall(tokenizer.decode(written[0, len(prompt) :], skip_special_tokens=True))
        right.append(bool(numbers) and as_number(numbers[-1]) == expected[row["row"]])
    return np.array(right)


def read_answer(row: dict[str, Any]) -> float:
    """The number after '####'."""
    found = _ANSWER.search(str(row.get("answer")))
    if not found:
        raise ValueError(f"the column answer must end in '####' and a number, got {reprlib.repr(row)}.")
    return as_number(found[1])


def as_number(text: str) -> float:
    """Of '1,234.50'."""
    return float(text.replace(",", ""))


def table(results: dict[str, Any]) -> str:
    """What was measured before and after, as Markdown."""
    lines = ["| | before | after |", "|---|---|---|"]
    lines += [f"| {name} | {value:.4f} | {results['after'][name]:.4f} |" for name, value in results["before"].items()]
    return "\n".join([*lines, "", f"{results['rows']:,} rows, trained in {results['seconds']:.0f} s."])


if __name__ == "__main__":
    main()
