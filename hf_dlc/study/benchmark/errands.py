"""Errands of worker processes: each measures one part of the benchmark, but the contenders."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset, load_from_disk

from hf_dlc.scorer.model import ModelSource
from hf_dlc.scorer.scorer import DLCScorer
from hf_dlc.selection import FlexRandSelector
from hf_dlc.selection.table import SELECTORS
from hf_dlc.selection.targeted import TargetedSelector
from hf_dlc.utils.models import without_quantisation

from .contenders import WARMUP_ROWS, load_contender, load_scorer
from .counting import share_of_bare_pass
from .many import many_again_errand, many_errand
from .meters import Memory, Stopwatch, masking_timed
from .options import SCALE, Job
from .padding import padding_errand
from .rows import encode, one_of_each, shared_head


_PROCESSES_WARMUP_ROWS = 40
WANTED_ROWS = 100
FEW_KEPT = 1000  # by a selector that takes long for many rows


def convert(job: Job) -> dict[str, Any]:
    """Write a GGUF model as plain folders."""
    model, tokenizer = ModelSource.resolve(job.model, dtype="float32", device="cpu").load()
    plain = without_quantisation(model)
    for dtype, folder in job.converted.items():
        plain.to(getattr(torch, dtype)).save_pretrained(folder)  # float32 comes first
        tokenizer.save_pretrained(folder)
    return {}


def scale_errand(job: Job) -> dict[str, Any]:
    """Estimate the many rows, then score few, many, few."""
    scorer, memory = load_scorer(job)
    rows = load_from_disk(job.rows)
    few = rows.select(one_of_each(SCALE, [row.length for row in encode(scorer.processor, rows, job.template)]))
    scorer.score(rows.select(range(WARMUP_ROWS)), num_threads=job.num_threads)
    estimate = scorer.estimate(rows, num_threads=job.num_threads)
    memory.restart()
    before, seconds, after = [_seconds_of_score(scorer, part, job) for part in (few, rows, few)]
    return {
        "rows": len(rows),
        "few_rows": len(few),
        "levels": len(job.fractions),
        "tokens": estimate.tokens,
        "seconds": seconds,
        "few_seconds": [before, after],
        "estimated_seconds": estimate.seconds,
        "estimated_bytes": estimate.memory_bytes,
        "peak_bytes": memory.base + (memory.since_restart or memory.peak),  # the estimate has the libraries in it
    }


def run_errand(job: Job) -> dict[str, Any]:
    """
    Score, time the masks within, and pass the same tokens through the body before and after.

    There are as many bare passes as levels: a machine that is faster for seconds than for minutes would be faster for
    fewer of them.
    """
    limit = load_contender("limit", job)
    limit.get_ready()
    rows, watch = limit.dataset, Stopwatch()
    limit.scorer.score(rows.select(range(min(WARMUP_ROWS, len(rows)))), num_threads=job.num_threads)
    half = len(job.fractions) // 2
    before = [limit.seconds_a_level() for _ in range(half)]
    with masking_timed(watch):
        seconds = _seconds_of_score(limit.scorer, rows, job)
    after = [limit.seconds_a_level() for _ in range(len(job.fractions) - half)]
    return {
        "rows": len(rows),
        "levels": len(job.fractions),
        "dtype": job.dtype,
        "tokens": sum(row.length for row in limit.rows),
        "shared_head": shared_head([row.input_ids.tolist() for row in limit.rows]),
        "seconds": seconds,
        "masking_seconds": watch.seconds,
        "limit_seconds": before + after,
        "bound": share_of_bare_pass(limit.scorer, limit.rows),
    }


def processes_errand(job: Job) -> dict[str, Any]:
    """
    Score with as many processes as were started; the warm-up ends, and the time begins, in all at once.

    Then each takes all tokens through the body, which tells what two processes gain on this machine without us.
    """
    limit = load_contender("limit", job)
    rows = limit.dataset
    # Enough rows for several micro-batches: of a single one, only one of the processes would be warm.
    limit.scorer.score(rows.select(range(min(_PROCESSES_WARMUP_ROWS, len(rows)))), num_threads=job.num_threads)
    return {"seconds": _seconds_of_score(limit.scorer, rows, job), "limit_seconds": limit.seconds_a_level()}


def selection_errand(job: Job) -> dict[str, Any]:
    """Select half of random scores of the type that the score columns have."""
    scores = np.random.default_rng(0).random(job.selection_rows, dtype=np.float32)
    selector = FlexRandSelector(keep=0.5, split=0.75, seed=0)
    selector.get_indices(scores[:1000])
    memory, seconds = Memory(), []
    for _ in range(job.rounds):
        start = time.perf_counter()
        selector.get_indices(scores)
        seconds.append(time.perf_counter() - start)
    return {"rows": job.selection_rows, "seconds": seconds, "peak_bytes": memory.peak}


def selectors_errand(job: Job) -> dict[str, Any]:
    """Select a tenth of rows with random scores and vectors in a mapped file, by one of the selectors."""
    vectors = np.load(job.vectors, mmap_mode="r")
    rng, selector = np.random.default_rng(0), SELECTORS[job.selector]
    scores = rng.random(len(vectors), dtype=np.float32)
    few = selector.most_compared is not None and selector.most_compared < len(vectors)
    options: dict[str, Any] = {"keep": min(FEW_KEPT, len(vectors)) if few else 0.1}
    if isinstance(selector, TargetedSelector):
        options["target"] = rng.standard_normal((WANTED_ROWS, vectors.shape[1]), dtype=np.float32)
    selector, features = replace(selector, **options), vectors if "features" in selector.needs else None
    memory, start = Memory(), time.perf_counter()
    kept = selector.get_indices(scores, features=features)
    seconds = time.perf_counter() - start
    return {"rows": len(vectors), "kept": len(kept), "seconds": seconds, "peak_bytes": memory.peak}


def _seconds_of_score(scorer: DLCScorer, rows: Dataset, job: Job) -> float:
    """Time of one call."""
    start = time.perf_counter()
    scorer.score(rows, num_threads=job.num_threads)
    return time.perf_counter() - start


ERRANDS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "convert": convert,
    "scale": scale_errand,
    "run": run_errand,
    "processes": processes_errand,
    "selection": selection_errand,
    "selectors": selectors_errand,
    "many": many_errand,
    "many-again": many_again_errand,
    "padding": padding_errand,
}
