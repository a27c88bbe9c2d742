"""Trials of the benchmark, in the parent process: each sends workers off and gathers their samples."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset
from transformers import AutoTokenizer

from hf_dlc.selection.table import SELECTORS
from hf_dlc.tasks.text.encoding import Encoding

from .bench import Bench
from .contenders import CONTENDERS, has_harness
from .many import many_rows
from .options import MANY, Job
from .rows import encode, repeated, shared_head, span_of
from .worker import Worker


logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 2**16  # of random vectors that are made
_RUN_SCHEDULE = "0, 0.03, 0.05, 0.08"
_NO_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


def _choose_rows(bench: Bench) -> tuple[Dataset, list[Encoding]]:
    """The first rows that everybody can score: a context and one continuation."""
    tokenizer = AutoTokenizer.from_pretrained(bench.models["float32"])
    chosen, encodings = [], []
    for index, row in enumerate(encode(tokenizer, bench.dataset, bench.options.template)):
        if row.length and span_of(row) is not None:
            chosen.append(index)
            encodings.append(row)
        if len(chosen) == bench.options.rows:
            break
    if not chosen:
        raise ValueError("no row of the dataset has one span of target tokens.")
    return bench.dataset.select(chosen), encodings


def _measure_contenders(bench: Bench) -> dict[str, Any]:
    """Load all contenders, and let them take turns."""
    dataset, encodings = _choose_rows(bench)
    rows = bench.save("rows", dataset)
    names = [name for name in CONTENDERS if name != "harness" or has_harness()]
    # The naive code is the yardstick, and float32 is what it computes in.
    entries = [(name, dtype) for name in names for dtype in (["float32"] if name == "naive" else bench.models)]
    workers, found = {}, {}
    with ExitStack() as stack:
        for name, dtype in entries:
            key = f"{name}-{dtype}"
            found[key] = {"contender": name, "dtype": dtype, "samples": []}
            workers[key] = stack.enter_context(Worker(key, bench.job(rows, dtype), bench.folder))
        for worker in workers.values():
            worker.answer()  # all are loaded before the first one computes
        for key, worker in workers.items():
            found[key].update(worker.ask("ready"))
        for turn in range(bench.options.rounds):
            for key, worker in workers.items():
                sample = worker.ask("turn")
                scores = {kind: sample.pop(kind) for kind in ("confidence", "loss")}
                found[key]["samples"].append(sample)
                found[key].update(scores)
                logger.info("round %d, %s: %.2f s", turn + 1, key, sample["seconds"])
        same_masks = workers["naive-float32"].ask("check")
    return {
        "rows": len(encodings),
        "levels": len(bench.job().fractions),
        "tokens": sum(row.length for row in encodings),
        "target_tokens": sum(row.target_tokens for row in encodings),
        "shared_head": shared_head([row.input_ids.tolist() for row in encodings]),
        "entries": found,
        "same_masks": same_masks,
    }


def _measure_padding(bench: Bench) -> dict[str, Any]:
    """Time rows end to end against padded ones."""
    dataset, _ = _choose_rows(bench)
    return _send("padding", bench, bench.job(bench.save("padding", dataset)))


def _measure_scale(bench: Bench) -> dict[str, Any] | None:
    """Time many rows against few."""
    if bench.many_rows is None:
        return None
    rows = bench.many_rows.shuffle(seed=0).select(range(bench.options.scale_rows))
    return _send("scale", bench, bench.job(bench.save("scale", rows)))


def _measure_many(bench: Bench) -> dict[str, Any]:
    """Time very many rows against a tenth of them, with a tiny model; then let the longer run go on."""
    found: dict[str, Any] = {}
    for name, count in (("few", bench.options.many_rows // MANY), ("many", bench.options.many_rows)):
        rows, run_dir = bench.save(name, many_rows(count)), str(bench.folder / f"{name}-journal")
        job = Job(rows=rows, run_dir=run_dir, num_threads=bench.num_threads)
        found[name] = one = _send("many", bench, job)
        logger.info("%d rows: %.0f s, of which passes %.0f s", count, one["seconds"], one["pass_seconds"])
    found["again"] = _send("many-again", bench, job)
    return found


def _measure_run(bench: Bench) -> dict[str, Any]:
    """Time runs of the usual kind: random masks, four levels, and enough rows that hardly any padding is needed."""
    rows, plain = bench.save("run", repeated(bench.dataset, bench.options.run_rows)), bench.folder / "plain.jinja"
    plain.write_text(_NO_TEMPLATE, encoding="utf-8")
    templates = {"template": bench.options.template, "no template": str(plain)}
    jobs = {
        name: bench.job(rows, template=text, schedule=_RUN_SCHEDULE, masking="random")
        for name, text in templates.items()
    }
    return {name: _send("run", bench, job) for name, job in jobs.items()}


def _measure_processes(bench: Bench) -> dict[str, Any]:
    """Time one process and two, in turns, one thread each."""
    folder = bench.save("processes", repeated(bench.dataset, bench.options.process_rows))
    job = bench.job(folder, num_threads=1)
    seconds: dict[str, list[float]] = {"1": [], "2": []}
    limit: dict[str, list[float]] = {"1": [], "2": []}
    for turn in range(bench.options.rounds):
        for processes in (1, 2):
            found = _send("processes", bench, job, processes)
            seconds[str(processes)].append(found["seconds"])
            limit[str(processes)].append(found["limit_seconds"])
            logger.info("round %d, %d process(es): %.2f s", turn + 1, processes, found["seconds"])
    rows, levels = bench.options.process_rows, len(job.fractions)
    return {"rows": rows, "levels": levels, "seconds": seconds, "limit_seconds": limit}


def _measure_selection(bench: Bench) -> dict[str, Any]:
    """Time FlexRand on many scores."""
    options = bench.options
    job = Job(selection_rows=options.selection_rows, rounds=options.rounds, num_threads=bench.num_threads)
    return _send("selection", bench, job)


def _measure_selectors(bench: Bench) -> dict[str, Any]:
    """Time every selector on many rows with vectors, each in a process of its own."""
    options, path = bench.options, bench.folder / "vectors.npy"
    shape = (options.selector_rows, options.vector_size)
    vectors, rng = np.lib.format.open_memmap(path, "w+", np.float16, shape), np.random.default_rng(1)
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        part = vectors[start : start + _ROWS_AT_ONCE]
        part[:] = rng.standard_normal(part.shape, dtype=np.float32)
    del vectors
    jobs = {name: Job(selector=name, vectors=str(path), num_threads=bench.num_threads) for name in SELECTORS}
    found = {}
    for name, job in jobs.items():
        found[name] = _send("selectors", bench, job)
        logger.info("%s: %.1f s", name, found[name]["seconds"])
    return {"rows": options.selector_rows, "size": options.vector_size, "selectors": found}


def _send(name: str, bench: Bench, job: Job, processes: int = 1) -> dict[str, Any]:
    """Send a worker off and wait for what it brings."""
    with Worker(name, job, bench.folder, processes) as worker:
        return worker.answer()


MEASURING: dict[str, Callable[[Bench], dict[str, Any] | None]] = {
    "contenders": _measure_contenders,
    "padding": _measure_padding,
    "scale": _measure_scale,
    "many": _measure_many,
    "run": _measure_run,
    "processes": _measure_processes,
    "selection": _measure_selection,
    "selectors": _measure_selectors,
}
