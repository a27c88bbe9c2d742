"""Bench: the rows and the model of a benchmark, in a form that every contender can load, and the machine."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset

from hf_dlc.execution.processes import cpu_threads
from hf_dlc.pipeline.demo import demo_model
from hf_dlc.pipeline.options import DataArguments
from hf_dlc.pipeline.sources import read_dataset
from hf_dlc.scorer.model import ModelSource
from hf_dlc.utils.versions import versions

from .contenders import has_harness
from .options import PARTS, BenchmarkArguments, Job
from .worker import Worker


@dataclass
class Bench:
    """Options, rows and models that all parts share."""

    options: BenchmarkArguments
    folder: Path  # temporary
    models: dict[str, str]  # from a dtype to a folder or a Hub repository; float32 first
    dataset: Dataset
    many_rows: Dataset | None
    num_threads: int

    @property
    def default_dtype(self) -> str:
        """The dtype beside float32, or float32 where there is no other."""
        return list(self.models)[-1]

    def save(self, name: str, dataset: Dataset) -> str:
        """Write rows where the workers find them."""
        dataset.save_to_disk(str(self.folder / name))
        return str(self.folder / name)

    def job(self, rows: str = "", dtype: str | None = None, **more: Any) -> Job:
        """A job with what the options say."""
        dtype, options = dtype or self.default_dtype, self.options
        shared = {"template": options.template, "schedule": options.schedule, "rounds": options.rounds}
        shared["num_threads"] = self.num_threads
        return Job(**{"model": self.models[dtype], "dtype": dtype, "rows": rows, **shared, **more})


def prepare(options: BenchmarkArguments, folder: Path) -> Bench:
    """Read the rows and bring the model into a form that every contender can load."""
    dataset = read_dataset(DataArguments(dataset=options.dataset))
    many_rows = read_dataset(DataArguments(dataset=options.scale_dataset)) if options.scale_dataset else None
    if many_rows is not None and "scale" in options.chosen_parts and len(many_rows) < options.scale_rows:
        raise ValueError(f"--scale-dataset has {len(many_rows)} rows; pass --scale-rows with at most that many.")
    models = {}
    if set(options.chosen_parts) - {"many", "selection", "selectors"}:
        models = _plain_models(demo_model() if options.model == "demo" else options.model, options.dtype, folder)
    return Bench(options, folder, models, dataset, many_rows, cpu_threads(options.num_threads))


def _plain_models(model: str, dtype: str, folder: Path) -> dict[str, str]:
    """
    Where to load the model from, in float32 and in the other dtype.

    Loading a GGUF file takes several times the memory of the weights, which is not what is measured here: it is
    turned into plain folders first, one a dtype.
    """
    source = ModelSource.resolve(model, dtype=dtype, device="cpu")
    dtypes = dict.fromkeys(["float32", source.dtype])
    if "gguf_file" not in source.model_kwargs:
        return dict.fromkeys(dtypes, model)
    converted = {name: str(folder / f"model-{name}") for name in dtypes}
    with Worker("convert", Job(model=model, converted=converted), folder) as worker:
        worker.answer()
    return converted


def describe(bench: Bench) -> dict[str, Any]:
    """What stands above the numbers: rows, model and machine, without names of files or hosts."""
    options = asdict(bench.options)
    del options["output_dir"], options["overwrite"]
    for name in ("dataset", "scale_dataset", "model", "template"):
        if options[name] and Path(options[name]).exists():
            options[name] = Path(options[name]).name
    known = versions()
    if has_harness():
        known["lm_eval"] = version("lm_eval")
    return {
        "options": options,
        "machine": _machine(),
        "num_threads": bench.num_threads,
        "default_dtype": bench.default_dtype if bench.models else None,
        "versions": known,
        "skipped": {part: "not chosen" for part in PARTS if part not in bench.options.chosen_parts},
    }


def _machine() -> str:
    """Cores and processor family."""
    capabilities = torch.cpu.get_capabilities()
    fast = [name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "bf16", "sve") if capabilities.get(name)]
    family = platform.machine().replace("_", "-") + (f" with {', '.join(fast).upper()}" if fast else "")
    return f"{cpu_threads()} cores, {family}"
