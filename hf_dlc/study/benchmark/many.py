"""Errands on very many rows: a tiny model with a tokenizer of bytes, so that not only the forward passes count."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset, load_from_disk
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_dlc.config import DLCConfig
from hf_dlc.scorer.scorer import DLCScorer
from hf_dlc.tasks.base import RowMeasures

from .meters import Memory
from .options import Job


_END = "<end>"
_SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def many_rows(count: int) -> Dataset:
    """Rows of some 200 tokens each, all different."""
    rng = np.random.default_rng(0)
    words = np.array(
        ["a", "row", "of", "text", "that", "is", "made", "up", "for", "the", "benchmark", "and", "no", "more"]
    )
    lengths = rng.integers(2, 22, count)
    drawn = np.split(words[rng.integers(0, len(words), lengths.sum())], np.cumsum(lengths)[:-1])
    instructions = [f"Write line {place}." for place in range(count)]
    return Dataset.from_dict({"instruction": instructions, "output": [" ".join(line) for line in drawn]})


def many_errand(job: Job) -> dict[str, Any]:
    """Score rows at one level, with a journal, and tell the forward passes from the rest."""
    scorer, rows = _tiny_scorer(job), load_from_disk(job.rows)
    memory = Memory()
    with _passes_timed(scorer) as passes:
        start = time.perf_counter()
        scorer.score(rows, job.run_dir, num_threads=job.num_threads)
        seconds = time.perf_counter() - start
    tokens = sum(row.length for row in scorer.parts.task.encode(rows.select(range(min(1000, len(rows)))).to_list()))
    return {
        "rows": len(rows),
        "tokens_a_row": tokens / min(1000, len(rows)),
        "seconds": seconds,
        "pass_seconds": passes["seconds"],
        "peak_bytes": memory.peak,
    }


def many_again_errand(job: Job) -> dict[str, Any]:
    """Go on with a run that has lost its latest chunk: time from the call to the first forward pass."""
    scorer, rows = _tiny_scorer(job), load_from_disk(job.rows)
    chunks = list(Path(job.run_dir, "chunks").glob("level-*.parquet"))
    max(chunks, key=lambda path: path.stat().st_mtime_ns).unlink()
    memory = Memory()
    with _passes_timed(scorer) as passes:
        start = time.perf_counter()
        scorer.score(rows, job.run_dir, num_threads=job.num_threads)
    return {"rows": len(rows), "first_pass_seconds": passes["first"] - start, "peak_bytes": memory.peak}


def _tiny_scorer(job: Job) -> DLCScorer:
    alphabet = {char: place for place, char in enumerate([_END, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=_END)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(alphabet), **_SIZES)).eval()
    return DLCScorer(model, tokenizer, DLCConfig(schedule="0", scores=("plain_loss",)))


@contextmanager
def _passes_timed(scorer: DLCScorer) -> Iterator[dict[str, float]]:
    """Seconds of all forward passes, and when the first of them began."""
    task, passes = scorer.parts.task, {"seconds": 0.0}
    forward = task.forward

    def timed(*arguments: Any, **options: Any) -> RowMeasures:
        start = time.perf_counter()
        passes.setdefault("first", start)
        try:
            return forward(*arguments, **options)
        finally:
            passes["seconds"] += time.perf_counter() - start

    task.forward = timed
    try:
        yield passes
    finally:
        del task.forward
