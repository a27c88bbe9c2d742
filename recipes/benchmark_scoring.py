"""
Measure what scoring costs, against what people would write themselves, in one run on one machine.

    python recipes/benchmark_scoring.py
    python recipes/benchmark_scoring.py --dataset rows.jsonl --scale_dataset many_rows.jsonl --output_dir runs/mine
    python recipes/benchmark_scoring.py --parts contenders --rows 20 --model path/to/model

Writes into `output_dir`:

    benchmark.md     the tables, also printed: speed, memory and agreement of each contender, asked for and measured
    benchmark.json   all samples that the tables are computed from
    benchmark.png    the speeds at a glance

The parts, chosen with `--parts`:

    contenders   the same rows and masks for everybody: naive code, lm-evaluation-harness, hf_dlc, and a bare forward
                 pass without heads, masks and padding as the limit
    run          runs of four levels, of rows with the template and of the same rows without, which share hardly any
                 beginning: the share of the masks in them, and their time against the bare forward pass
    scale        seconds a row of many rows against those of an eighth of them; the estimate against the run
    processes    two processes of one thread against one
    selection    FlexRand on ten million scores

Every contender lives in a process of its own, and only one of them computes at a time. They take turns, round by
round, so that a machine that gets slower or faster does so for all; ratios are taken within a round. Everything runs
on the CPU. `pip install -e ".[bench,demo]"` brings what is needed; without lm-eval that contender is left out.
"""

from __future__ import annotations

import copy
import functools
import json
import logging
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
import transformers
from datasets import Dataset, disable_progress_bars, load_from_disk
from torch.nn.utils import prune
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hf_dlc import DLCScorer, FlexRandSelector
from hf_dlc.cli.exits import run_program
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.config import DLCConfig
from hf_dlc.errors import DLCError
from hf_dlc.execution.processes import cpu_threads, process_state
from hf_dlc.masking import Masker
from hf_dlc.masking.masker import MaskingSession
from hf_dlc.pipeline.demo import demo_model
from hf_dlc.pipeline.options import DataArguments, Options
from hf_dlc.pipeline.sources import read_dataset
from hf_dlc.report.statistics import spearman
from hf_dlc.scorer.model import ModelSource
from hf_dlc.tasks.text.encoding import Encoding, RowEncoder
from hf_dlc.utils.versions import versions


logger = logging.getLogger(__name__)

PARTS = ("contenders", "run", "scale", "processes", "selection")

# What should hold. The limit is to be beaten by not computing twice what rows share, so less is asked without that.
FASTER_THAN_NAIVE, FASTER_THAN_NAIVE_IN_FLOAT32, FASTER_THAN_HARNESS = 3.0, 1.3, 1.5
SHARE_OF_LIMIT, SHARE_OF_LIMIT_ALONE = 1.0, 0.85
SAME_RANKS, SAME_SCORES = 0.999, 1e-4
MASKING_SHARE, MEMORY, GROWTH, TWO_PROCESSES = 0.005, 2.3, 1.05, 1.8
ESTIMATE = 0.25
SELECTION_SECONDS, SELECTION_BYTES = 3.0, 1e9

_SHARED_HEAD = 0.05  # rows share a head if it makes up this share of their tokens
_WARMUP_ROWS, _PROCESSES_WARMUP_ROWS = 4, 40
_HARNESS_BATCH_SIZES, _HARNESS_WARMUP_ROWS = (1, 8, 16), 16
_RUN_SCHEDULE = "0, 0.03, 0.05, 0.08"
_NO_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
_SCALE = 8  # the many rows are this many times the few
_ENCODED_AT_ONCE = 1000
_STDERR_TAIL = 3000
_COLOURS = {"float32": "tab:blue", "bfloat16": "tab:orange"}


@dataclass
class BenchmarkArguments(Options):
    """What to measure, on which rows and with which model."""

    dataset: str = field(default="demo", metadata={"help": "What prune_alpaca.py reads as --dataset."})
    model: str = field(default="demo", metadata={"help": "Hub repository, folder, .gguf file, or 'demo'."})
    dtype: str = field(default="auto", metadata={"help": "Dtype measured beside float32; 'auto' is hf_dlc's own."})
    template: str = field(default="auto", metadata={"help": "hf_dlc's option: 'auto', 'chat', 'alpaca' or a path."})
    schedule: str = field(default="0, 0.05", metadata={"help": "Masked fractions, smallest magnitudes first."})
    rows: int = field(default=60, metadata={"help": "Rows of the contenders: the first with one target span."})
    rounds: int = field(default=3, metadata={"help": "How often each contender has its turn."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads; default: all cores."})
    parts: str = field(default=",".join(PARTS), metadata={"help": "What is measured."})
    scale_dataset: str | None = field(default=None, metadata={"help": "Many rows, for 'scale'."})
    scale_rows: int = field(default=8000, metadata={"help": "Rows of 'scale'; an eighth of them are the few."})
    run_rows: int = field(default=1000, metadata={"help": "Rows of 'run', repeated if there are fewer."})
    process_rows: int = field(default=200, metadata={"help": "Rows of 'processes', repeated if there are fewer."})
    selection_rows: int = field(default=10_000_000, metadata={"help": "Scores of 'selection'."})
    output_dir: str = field(default="runs/benchmark", metadata={"help": "Folder for the results."})
    overwrite: bool = field(default=False, metadata={"help": "Replace results that are there."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := set(self.chosen_parts) - set(PARTS):
            raise ValueError(f"parts must be among {', '.join(PARTS)}, got {', '.join(sorted(unknown))}.")
        for name in ("rows", "rounds", "run_rows", "process_rows", "selection_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.scale_rows < _SCALE:
            raise ValueError(f"scale_rows must be at least {_SCALE}, got {self.scale_rows}.")
        DLCConfig(schedule=self.schedule, dtype=self.dtype)  # says what is wrong with them

    @property
    def chosen_parts(self) -> list[str]:
        """The parts, in the order in which they are measured."""
        names = {name.strip() for name in self.parts.split(",")}
        return [name for name in PARTS if name in names] + sorted(names - set(PARTS))


@dataclass
class Job:
    """What a worker process needs to know."""

    model: str = ""
    dtype: str = "float32"
    rows: str = ""  # folder of a saved dataset
    template: str = "auto"
    schedule: str = "0, 0.05"
    masking: str = "magnitude"
    num_threads: int = 1
    rounds: int = 1
    selection_rows: int = 0
    converted: dict[str, str] = field(default_factory=dict)  # from a dtype to the folder to write

    @property
    def fractions(self) -> tuple[float, ...]:
        """Masked fraction of each level."""
        return DLCConfig(schedule=self.schedule).mask_schedule.fractions


@dataclass
class Bench:
    """What all parts share."""

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


def main(args: list[str] | None = None) -> None:
    """Run the recipe."""
    [options] = parse_config_and_args([BenchmarkArguments], args, description=__doc__)
    print(run_program(lambda: measure(options)))


def measure(options: BenchmarkArguments) -> str:
    """Measure, write what was measured, and return it as tables."""
    disable_progress_bars()
    output = Path(options.output_dir)
    if (output / "benchmark.json").exists() and not options.overwrite:
        raise FileExistsError(f"{output} holds the results of another run. Pass --overwrite, or another --output_dir.")
    with tempfile.TemporaryDirectory(prefix="benchmark_scoring_") as folder:
        results = run_parts(options, Path(folder), output)
    logger.info("wrote %s", output)
    return report(results)


def run_parts(options: BenchmarkArguments, folder: Path, output: Path) -> dict[str, Any]:
    """Measure part by part; what is measured is written at once."""
    bench = prepare(options, folder)
    results = describe(bench)
    for part in options.chosen_parts:
        logger.info("measuring: %s", part)
        measured = MEASURING[part](bench)
        if measured is None:
            results["skipped"][part] = "no --scale_dataset"
        else:
            results[part] = measured
        write_results(output, results)
    return results


def prepare(options: BenchmarkArguments, folder: Path) -> Bench:
    """Read the rows and bring the model into a form that every contender can load."""
    dataset = read_dataset(DataArguments(dataset=options.dataset))
    many_rows = read_dataset(DataArguments(dataset=options.scale_dataset)) if options.scale_dataset else None
    if many_rows is not None and "scale" in options.chosen_parts and len(many_rows) < options.scale_rows:
        raise ValueError(f"--scale_dataset has {len(many_rows)} rows; pass --scale_rows with at most that many.")
    models = {}
    if set(options.chosen_parts) != {"selection"}:
        models = plain_models(demo_model() if options.model == "demo" else options.model, options.dtype, folder)
    return Bench(options, folder, models, dataset, many_rows, cpu_threads(options.num_threads))


def plain_models(model: str, dtype: str, folder: Path) -> dict[str, str]:
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
        "machine": machine(),
        "num_threads": bench.num_threads,
        "default_dtype": bench.default_dtype if bench.models else None,
        "versions": known,
        "skipped": {part: "not chosen" for part in PARTS if part not in bench.options.chosen_parts},
    }


def machine() -> str:
    """Cores and processor family."""
    capabilities = torch.cpu.get_capabilities()
    fast = [name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "bf16", "sve") if capabilities.get(name)]
    family = platform.machine().replace("_", "-") + (f" with {', '.join(fast).upper()}" if fast else "")
    return f"{cpu_threads()} cores, {family}"


def has_harness() -> bool:
    """Whether lm-evaluation-harness is installed."""
    return find_spec("lm_eval") is not None


# ---- rows ------------------------------------------------------------------------------------------------------


def encode(tokenizer: PreTrainedTokenizerBase, dataset: Dataset, template: str) -> Iterator[Encoding]:
    """Rows as hf_dlc encodes them."""
    encoder = RowEncoder(tokenizer, template=template)
    for start in range(0, len(dataset), _ENCODED_AT_ONCE):
        part = dataset.select(range(start, min(start + _ENCODED_AT_ONCE, len(dataset))))
        yield from encoder.encode(part.to_list())


def choose_rows(bench: Bench) -> tuple[Dataset, list[Encoding]]:
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


def span_of(row: Encoding) -> slice | None:
    """Where the target tokens stand, if they stand together."""
    places = np.flatnonzero(row.targets)
    return slice(int(places[0]), int(places[-1]) + 1) if places[-1] - places[0] + 1 == len(places) else None


def shared_head(rows: Sequence[Sequence[int]]) -> float:
    """Share of the tokens that stand in a beginning which another row has too. Sorted, such rows are neighbours."""
    rows = sorted(map(list, rows))
    heads = [common_head(*pair) for pair in pairwise(rows)]
    shared = [max(neighbours) for neighbours in zip([0, *heads], [*heads, 0], strict=True)]
    return sum(shared) / sum(map(len, rows))


def common_head(left: Sequence[int], right: Sequence[int]) -> int:
    """Number of first tokens that are the same."""
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def repeated(dataset: Dataset, count: int) -> Dataset:
    """The first rows, from the beginning again if there are too few."""
    return dataset.select([i % len(dataset) for i in range(count)])


# ---- workers: a process each, which answers in lines of JSON ------------------------------------------------------


class Worker:
    """
    This script in a process of its own, seen from the parent.

    Args:
        name (`str`):
            What it does: a contender and a dtype, or one of `ERRANDS`.
        job (`Job`):
            Its orders.
        folder (`Path`):
            Where its files go.
        processes (`int`, *optional*, defaults to 1):
            More than one are started with `torch.distributed.run`.
    """

    def __init__(self, name: str, job: Job, folder: Path, processes: int = 1) -> None:
        self.name = name
        orders = folder / f"{name}.json"
        orders.write_text(json.dumps(asdict(job)), encoding="utf-8")
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command = [sys.executable, *(launcher if processes > 1 else []), __file__, "--worker", name, str(orders)]
        environment = {"ACCELERATE_USE_CPU": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        environment |= {"OMP_NUM_THREADS": str(job.num_threads), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        self._log = (folder / f"{name}.log").open("w+b")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._log}
        self._process = subprocess.Popen(command, text=True, env={**os.environ, **environment}, **pipes)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()  # not killed: the launcher of several processes ends them first
        self._process.communicate()
        self._log.close()

    def ask(self, request: str) -> dict[str, Any]:
        """Send a request and wait for the answer."""
        with suppress(BrokenPipeError):  # it is dead, and `answer` says of what
            print(json.dumps(request), file=self._process.stdin, flush=True)
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Wait for the next answer."""
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            said = self._log.read().decode(errors="replace")[-_STDERR_TAIL:].strip() or "nothing"
            logger.error("the worker %s said: %s", self.name, said)
            reason = said.splitlines()[-1]
            raise DLCError(f"the worker {self.name} ended with {self._process.returncode}: {reason}")
        return json.loads(line)


def work(name: str, orders: str) -> None:
    """What a worker does."""
    # Answers go to the parent; what libraries print joins the errors.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = Job(**json.loads(Path(orders).read_text(encoding="utf-8")))
    torch.set_num_threads(job.num_threads)
    if name in ERRANDS:
        result = ERRANDS[name](job)
        if process_state().is_main_process:
            print(json.dumps(result), file=answers, flush=True)
        return
    contender = load_contender(name.partition("-")[0], job)
    requests = {"ready": contender.get_ready, "turn": contender.have_turn, "check": contender.check}
    print("{}", file=answers, flush=True)  # loaded
    for line in sys.stdin:
        print(json.dumps(requests[json.loads(line)]()), file=answers, flush=True)


class Memory:
    """Peak of the resident memory above what was resident at the start; restarted, the peak since then is known."""

    def __init__(self) -> None:
        self._restarts = self._reset()
        self.base = psutil.Process().memory_info().rss
        self._before = 0

    def restart(self) -> None:
        """Forget the peak so far in `since_restart`, not in `peak`."""
        self._before = self.peak
        self._restarts = self._reset()

    @property
    def peak(self) -> int:
        """Bytes since the start."""
        return max(self._before, _peak_resident() - self.base)

    @property
    def since_restart(self) -> int | None:
        """Bytes since the restart, or `None` where the system cannot tell."""
        return _peak_resident() - self.base if self._restarts else None

    @staticmethod
    def _reset() -> bool:
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            return False
        return True


def _peak_resident() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        [line] = [line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Stopwatch:
    """Adds up the seconds spent inside it, and counts how often it was entered."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.entered = 0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._start
        self.entered += 1


def convert(job: Job) -> dict[str, Any]:
    """Write a GGUF model as plain folders."""
    model, tokenizer = ModelSource.resolve(job.model, dtype="float32", device="cpu").load()
    # What was loaded remembers that it was quantised and refuses to be saved; a new model of the same class does not.
    config = {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    plain = type(model)(type(model.config).from_dict(config))
    plain.load_state_dict(model.state_dict())
    for dtype, folder in job.converted.items():
        plain.to(getattr(torch, dtype)).save_pretrained(folder)  # float32 comes first
        tokenizer.save_pretrained(folder)
    return {}


# ---- contenders: the same rows, the same masks --------------------------------------------------------------------


class Contender(ABC):
    """
    Somebody who scores rows level by level.

    Args:
        job (`Job`):
            Rows and schedule.
        scorer ([`~hf_dlc.DLCScorer`]):
            Holds the model, in the dtype of the contender, and the tokenizer; only hf_dlc scores with it.
        memory (`Memory`):
            Started before the model was loaded.
    """

    time_has_masking = True  # or masks are set outside of the measured time

    def __init__(self, job: Job, scorer: DLCScorer, memory: Memory) -> None:
        self.job = job
        self.scorer = scorer
        self.model = scorer.model
        self.memory = memory
        self.masking = Stopwatch()
        self.dataset = load_from_disk(job.rows)
        self.rows = list(encode(scorer.processor, self.dataset, job.template))

    @abstractmethod
    def score(self, count: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Confidence and loss, `(levels, rows)`, of the first `count` rows; `None` where there is none."""

    def get_ready(self) -> dict[str, Any]:
        """Warm up, and say what was loaded."""
        self.score(min(_WARMUP_ROWS, len(self.rows)))
        return {"weights_bytes": sum(parameter.nbytes for parameter in self.model.parameters())}

    def check(self) -> dict[str, Any]:
        """Scores for comparison, of who has any."""
        return {}

    def have_turn(self) -> dict[str, Any]:
        """Score all rows, and say how long it took."""
        self.masking = Stopwatch()
        self.memory.restart()
        start = time.perf_counter()
        confidence, loss = self.score(len(self.rows))
        seconds = time.perf_counter() - start
        return {
            "seconds": seconds if self.time_has_masking else seconds - self.masking.seconds,
            "masking_seconds": self.masking.seconds,
            "peak_bytes": self.memory.peak,
            "scoring_peak_bytes": self.memory.since_restart,
            "confidence": None if confidence is None else confidence.tolist(),
            "loss": None if loss is None else loss.tolist(),
        }


class PlainlyMasked(Contender):
    """Somebody who masks with what torch offers, from a saved copy of the weights."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.saved = copy.deepcopy(self.model.state_dict())

    def masked_levels(self) -> Iterator[float]:
        """The masked fractions in turn, the model masked with each."""
        for fraction in self.job.fractions:
            with self.masking:
                mask_smallest(self.model, fraction)
            yield fraction
            with self.masking:
                if fraction > 0:
                    self.model.load_state_dict(self.saved)


class Naive(PlainlyMasked):
    """What one writes without thinking of speed: a row at a time, all logits, a Python loop over the tokens."""

    @torch.no_grad()
    def score(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        levels = [[self.score_row(row) for row in self.rows[:count]] for _ in self.masked_levels()]
        confidence, loss = np.moveaxis(np.array(levels), -1, 0)
        return confidence, loss

    @torch.no_grad()
    def check(self) -> dict[str, Any]:
        """
        Scores under the masks of hf_dlc.

        Of weights of the same magnitude, torch masks whichever its sort finds first. In a dequantised model many are
        the same, and then the scores differ by more than the arithmetic.
        """
        levels = []
        with Masker(self.model, masking="magnitude").session(self.job.fractions) as session:
            for level in range(len(self.job.fractions)):
                session.set_level(level)
                levels.append([self.score_row(row) for row in self.rows])
        confidence, loss = np.moveaxis(np.array(levels), -1, 0).tolist()
        return {"confidence": confidence, "loss": loss}

    def score_row(self, row: Encoding) -> tuple[float, float]:
        """Mean p(token) and mean -log p(token) of the target tokens."""
        ids = torch.from_numpy(row.input_ids).long()
        log_probs = torch.log_softmax(self.model(input_ids=ids[None]).logits[0].float(), dim=-1)
        confidence = loss = 0.0
        for place in np.flatnonzero(row.targets).tolist():
            log_prob = log_probs[place - 1, ids[place]].item()  # the token before predicts
            confidence += math.exp(log_prob)
            loss -= log_prob
        return confidence / row.target_tokens, loss / row.target_tokens


def mask_smallest(model: PreTrainedModel, fraction: float) -> None:
    """Mask the smallest weights of every linear layer but the head, as the documentation of torch shows it."""
    if fraction == 0:
        return
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings():
            prune.l1_unstructured(module, "weight", amount=fraction)
            prune.remove(module, "weight")


class HfDlc(Contender):
    """hf_dlc from rows of text to columns, so that its time has the encoding in it, which that of the others lacks."""

    def score(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        with masking_timed(self.masking):
            scored = self.scorer.score(self.dataset.select(range(count)), num_threads=self.job.num_threads)
        if scored["dlc_tokens"][:] != [row.target_tokens for row in self.rows[:count]]:
            raise RuntimeError("hf_dlc scored other tokens than the others.")
        return np.array(scored["dlc_level_confidence"][:]).T, np.array(scored["dlc_level_loss"][:]).T


@contextmanager
def masking_timed(watch: Stopwatch) -> Iterator[None]:
    """Time in which `watch` runs while hf_dlc sets and undoes masks."""

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*arguments: Any, **more: Any) -> Any:
            with watch:
                return method(*arguments, **more)

        return call

    before = {name: getattr(MaskingSession, name) for name in ("set_level", "close")}
    for name, method in before.items():
        setattr(MaskingSession, name, timed(method))
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(MaskingSession, name, method)
    if watch.entered == 0:
        raise RuntimeError("no mask was set: hf_dlc has changed, and the time of its masking is not known.")


class Limit(Contender):
    """
    The body alone over the same tokens, once a level: no masks, no head, and no padding, because the rows are cut as
    one stream into rectangles of the mean length.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.budget = self.scorer.describe()["tokens_per_batch"]

    def score(self, count: int) -> tuple[None, None]:
        for _ in self.job.fractions:
            self.pass_through(self.rows[:count])
        return None, None

    def seconds_a_level(self) -> float:
        """Time that all rows take once."""
        start = time.perf_counter()
        self.pass_through(self.rows)
        return time.perf_counter() - start

    @torch.inference_mode()
    def pass_through(self, rows: Sequence[Encoding]) -> None:
        """All tokens through the body, once."""
        rows = [row for row in rows if row.length]
        stream = torch.from_numpy(np.concatenate([row.input_ids for row in rows])).long()
        for batch in rectangles(stream, max(1, round(len(stream) / len(rows))), self.budget):
            self.model.base_model(input_ids=batch, use_cache=False)


def rectangles(stream: torch.Tensor, length: int, budget: int) -> Iterator[torch.Tensor]:
    """Cut tokens into batches of rows of a length, under a budget; every token once, the last row may be short."""
    rows, whole = max(1, budget // length), len(stream) // length * length
    yield from stream[:whole].view(-1, length).split(rows)
    if whole < len(stream):
        yield stream[None, whole:]


class Harness(PlainlyMasked):
    """
    The log-likelihoods of lm-evaluation-harness on the same token ids, with the batch size that suits it best. It
    knows no masks: they are set as in the naive code, and their time is not counted.
    """

    time_has_masking = False

    def __init__(self, *arguments: Any) -> None:
        from lm_eval.models.huggingface import HFLM

        super().__init__(*arguments)
        longest = max(row.length for row in self.rows)
        self.harness = HFLM(self.model, tokenizer=self.scorer.processor, batch_size=1, max_length=longest)

    def get_ready(self) -> dict[str, Any]:
        """Warm up with each batch size and keep the fastest."""
        rows = self.rows[:_HARNESS_WARMUP_ROWS]
        self.log_likelihoods(rows[:_WARMUP_ROWS])
        seconds = {}
        for size in _HARNESS_BATCH_SIZES:
            self.harness.batch_size_per_gpu = size
            start = time.perf_counter()
            self.log_likelihoods(rows)
            seconds[size] = time.perf_counter() - start
        self.harness.batch_size_per_gpu = min(seconds, key=seconds.get)
        return {**super().get_ready(), "batch_size": self.harness.batch_size_per_gpu}

    def score(self, count: int) -> tuple[None, np.ndarray]:
        return None, np.array([-self.log_likelihoods(self.rows[:count]) for _ in self.masked_levels()])

    def log_likelihoods(self, rows: Sequence[Encoding]) -> np.ndarray:
        """Mean log-likelihood a target token of each row; the harness gives the sum."""
        requests = []
        for row in rows:
            ids, span = row.input_ids.tolist(), span_of(row)
            requests.append((None, ids[: span.start], ids[span]))
        sums = [log_likelihood for log_likelihood, _ in self.harness._loglikelihood_tokens(requests, True)]
        return np.array(sums) / [row.target_tokens for row in rows]


CONTENDERS: dict[str, type[Contender]] = {"naive": Naive, "harness": Harness, "hf_dlc": HfDlc, "limit": Limit}
_LABELS = {
    "naive": "naive code",
    "harness": "lm-evaluation-harness",
    "hf_dlc": "hf_dlc",
    "limit": "bare forward pass (the limit)",
}


def load_contender(name: str, job: Job) -> Contender:
    """Load the model for a contender, after everything is imported."""
    if name == "harness":
        import lm_eval.models.huggingface  # noqa: F401
    return CONTENDERS[name](job, *load_scorer(job))


def load_scorer(job: Job) -> tuple[DLCScorer, Memory]:
    """The scorer of a job, and the memory since before its model was loaded."""
    # Import the code of the model ahead: it belongs to the imports, not to what the model takes.
    transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(AutoConfig.from_pretrained(job.model)), None)
    memory = Memory()
    options = {name: getattr(job, name) for name in ("dtype", "schedule", "masking", "template")}
    return DLCScorer.from_pretrained(job.model, device="cpu", keep_levels=True, **options), memory


def measure_contenders(bench: Bench) -> dict[str, Any]:
    """Load all contenders, and let them take turns."""
    dataset, encodings = choose_rows(bench)
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


# ---- the other parts: in the parent, and the errand that a worker runs ---------------------------------------------


def seconds_of_score(scorer: DLCScorer, rows: Dataset, job: Job) -> float:
    """Time of one call."""
    start = time.perf_counter()
    scorer.score(rows, num_threads=job.num_threads)
    return time.perf_counter() - start


def run_errand(name: str, bench: Bench, job: Job, processes: int = 1) -> dict[str, Any]:
    """Send a worker off and wait for what it brings."""
    with Worker(name, job, bench.folder, processes) as worker:
        return worker.answer()


def measure_scale(bench: Bench) -> dict[str, Any] | None:
    """Many rows against few."""
    if bench.many_rows is None:
        return None
    rows = bench.many_rows.shuffle(seed=0).select(range(bench.options.scale_rows))
    return run_errand("scale", bench, bench.job(bench.save("scale", rows)))


def scale_errand(job: Job) -> dict[str, Any]:
    """Estimate the many rows, then score few, many, few."""
    scorer, memory = load_scorer(job)
    rows = load_from_disk(job.rows)
    few = rows.select(one_of_each(_SCALE, [row.length for row in encode(scorer.processor, rows, job.template)]))
    scorer.score(rows.select(range(_WARMUP_ROWS)), num_threads=job.num_threads)
    estimate = scorer.estimate(rows, num_threads=job.num_threads)
    memory.restart()
    before, seconds, after = [seconds_of_score(scorer, part, job) for part in (few, rows, few)]
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


def one_of_each(size: int, lengths: Sequence[int]) -> list[int]:
    """
    One row, at random, of each `size` rows that are next to each other in length.

    A plain random choice would have rows that are longer or shorter by a few percent on average, which is as much as
    the difference that is looked for.
    """
    order = np.argsort(lengths, kind="stable")[: len(lengths) // size * size].reshape(-1, size)
    drawn = np.random.default_rng(0).integers(size, size=len(order))
    return sorted(order[np.arange(len(order)), drawn].tolist())


def measure_run(bench: Bench) -> dict[str, Any]:
    """Runs of the usual kind: random masks, four levels, and enough rows that hardly any padding is needed."""
    rows, plain = bench.save("run", repeated(bench.dataset, bench.options.run_rows)), bench.folder / "plain.jinja"
    plain.write_text(_NO_TEMPLATE, encoding="utf-8")
    templates = {"template": bench.options.template, "no template": str(plain)}
    jobs = {
        name: bench.job(rows, template=text, schedule=_RUN_SCHEDULE, masking="random")
        for name, text in templates.items()
    }
    return {name: run_errand("run", bench, job) for name, job in jobs.items()}


def run_errand_of_four_levels(job: Job) -> dict[str, Any]:
    """
    Score, time the masks within, and pass the same tokens through the body before and after.

    There are as many bare passes as levels: a machine that is faster for seconds than for minutes would be faster for
    fewer of them.
    """
    limit = load_contender("limit", job)
    limit.get_ready()
    rows, watch = limit.dataset, Stopwatch()
    limit.scorer.score(rows.select(range(min(_WARMUP_ROWS, len(rows)))), num_threads=job.num_threads)
    half = len(job.fractions) // 2
    before = [limit.seconds_a_level() for _ in range(half)]
    with masking_timed(watch):
        seconds = seconds_of_score(limit.scorer, rows, job)
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
    }


def measure_processes(bench: Bench) -> dict[str, Any]:
    """One process and two, in turns, one thread each."""
    rows = bench.save("processes", repeated(bench.dataset, bench.options.process_rows))
    job = bench.job(rows, num_threads=1)
    seconds: dict[str, list[float]] = {"1": [], "2": []}
    for turn in range(bench.options.rounds):
        for processes in (1, 2):
            found = run_errand("processes", bench, job, processes)
            seconds[str(processes)].append(found["seconds"])
            logger.info("round %d, %d process(es): %.2f s", turn + 1, processes, found["seconds"])
    return {"rows": bench.options.process_rows, "levels": len(job.fractions), "seconds": seconds}


def processes_errand(job: Job) -> dict[str, Any]:
    """Score with as many processes as were started; the warm-up ends, and the time begins, in all at once."""
    scorer, _ = load_scorer(job)
    rows = load_from_disk(job.rows)
    # Enough rows for several micro-batches: of a single one, only one of the processes would be warm.
    scorer.score(rows.select(range(min(_PROCESSES_WARMUP_ROWS, len(rows)))), num_threads=job.num_threads)
    return {"seconds": seconds_of_score(scorer, rows, job)}


def measure_selection(bench: Bench) -> dict[str, Any]:
    """FlexRand on many scores."""
    options = bench.options
    job = Job(selection_rows=options.selection_rows, rounds=options.rounds, num_threads=bench.num_threads)
    return run_errand("selection", bench, job)


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


MEASURING: dict[str, Callable[[Bench], dict[str, Any] | None]] = {
    "contenders": measure_contenders,
    "scale": measure_scale,
    "run": measure_run,
    "processes": measure_processes,
    "selection": measure_selection,
}
ERRANDS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "convert": convert,
    "scale": scale_errand,
    "run": run_errand_of_four_levels,
    "processes": processes_errand,
    "selection": selection_errand,
}


# ---- numbers -------------------------------------------------------------------------------------------------------


class Spread(NamedTuple):
    """Median, smallest and largest of some samples."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Sum up samples."""
        return cls(float(np.median(samples)), min(samples), max(samples))

    def show(self, pattern: str, unit: str = "") -> str:
        """As text, `pattern` for each number; the range only where there is one."""
        median, low, high = [pattern.format(value) for value in self]
        return median + unit + ("" if low == high else f" ({low}–{high})")


class Agreement(NamedTuple):
    """How well scores agree with those of the naive code, at the level where they agree least."""

    spearman: float
    difference: float


def tokens_per_second(part: dict[str, Any], key: str) -> Spread:
    """Tokens of the rows, without padding, times levels, a second."""
    work = part["tokens"] * part["levels"]
    return Spread.of([work / sample["seconds"] for sample in part["entries"][key]["samples"]])


def times_faster(part: dict[str, Any], key: str, other: str) -> Spread | None:
    """How many times faster one contender was than the other in the same round."""
    if key not in part["entries"] or other not in part["entries"]:
        return None
    pairs = zip(part["entries"][key]["samples"], part["entries"][other]["samples"], strict=True)
    return Spread.of([theirs["seconds"] / mine["seconds"] for mine, theirs in pairs])


def agreement(part: dict[str, Any], key: str, kind: str) -> Agreement | None:
    """Agreement of confidence or loss with the naive code under the same masks."""
    entry, naive = part["entries"][key], part["entries"]["naive-float32"]
    return compare(entry[kind], part["same_masks"][kind] if entry["contender"] == "hf_dlc" else naive[kind])


def compare(mine: Sequence[Sequence[float]] | None, naive: Sequence[Sequence[float]]) -> Agreement | None:
    """Compare scores level by level."""
    if mine is None:
        return None
    pairs = list(zip(np.array(mine), np.array(naive), strict=True))
    return Agreement(min(spearman(*pair) for pair in pairs), max(float(np.abs(a - b).max()) for a, b in pairs))


def memory_ratio(entry: dict[str, Any], name: str) -> float | None:
    """Largest peak against the weights."""
    peaks = [sample[name] for sample in entry["samples"]]
    return None if None in peaks else max(peaks) / entry["weights_bytes"]


def masking_share(entry: dict[str, Any]) -> float | None:
    """Masking against the whole time, in the median round; `None` for who does not mask."""
    if entry["contender"] == "limit":
        return None
    apart = entry["contender"] == "harness"
    shares = [
        sample["masking_seconds"] / (sample["seconds"] + (sample["masking_seconds"] if apart else 0))
        for sample in entry["samples"]
    ]
    return float(np.median(shares))


def growth(part: dict[str, Any]) -> float:
    """Seconds a row of the many against those of the few."""
    return part["seconds"] / part["rows"] / (float(np.median(part["few_seconds"])) / part["few_rows"])


class Verdict(NamedTuple):
    """A line of the last table."""

    what: str
    asked: str
    measured: str
    holds: bool | None  # `None`: not measured


def verdicts(results: dict[str, Any]) -> list[Verdict]:
    """What was asked for and what was measured."""
    found = contender_verdicts(results) if "contenders" in results else [_not_measured("contenders")]
    for part, judge in (
        ("run", judge_run),
        ("scale", judge_scale),
        ("processes", judge_processes),
        ("selection", judge_selection),
    ):
        found += judge(results[part]) if part in results else [_not_measured(part)]
    return found


def _not_measured(part: str) -> Verdict:
    return Verdict(part, "-", "not measured", None)


def at_least(what: str, spread: Spread | None, asked: float) -> Verdict:
    """Judge a ratio that should be large, by its median."""
    if spread is None:
        return Verdict(what, f"≥ {asked:g}x", "not measured", None)
    return Verdict(what, f"≥ {asked:g}x", spread.show("{:.2f}", "x"), spread.median >= asked)


def contender_verdicts(results: dict[str, Any]) -> list[Verdict]:
    """Speed against the others, agreement with the naive code, memory."""
    part, default = results["contenders"], results["default_dtype"]
    kinds, naive = ("confidence", "loss"), "naive code in float32"

    def faster(dtype: str, other: str, name: str, asked: float) -> Verdict:
        return at_least(f"hf_dlc in {dtype} against {name}", times_faster(part, f"hf_dlc-{dtype}", other), asked)

    ranks = min(agreement(part, f"hf_dlc-{default}", kind).spearman for kind in kinds)
    off = max(agreement(part, "hf_dlc-float32", kind).difference for kind in kinds)
    memory = memory_ratio(part["entries"]["hf_dlc-float32"], "peak_bytes")
    of_ranks, of_scores = f"hf_dlc in {default}: smallest Spearman with", "hf_dlc in float32: largest difference from"
    of_memory = "peak memory of hf_dlc against the weights, float32"
    harnesses = [f"harness-{dtype}" for dtype in dict.fromkeys(["float32", default])]
    return [
        faster(default, "naive-float32", naive, FASTER_THAN_NAIVE),
        Verdict(f"{of_ranks} {naive}", f"≥ {SAME_RANKS}", f"{ranks:.5f}", ranks >= SAME_RANKS),
        faster("float32", "naive-float32", naive, FASTER_THAN_NAIVE_IN_FLOAT32),
        Verdict(f"{of_scores} {naive}", f"≤ {SAME_SCORES:g}", f"{off:.1e}", off <= SAME_SCORES),
        *(faster(key.split("-")[1], key, label(key), FASTER_THAN_HARNESS) for key in harnesses),
        Verdict(of_memory, f"≤ {MEMORY}x", f"{memory:.2f}x", memory <= MEMORY),
    ]


def label(key: str) -> str:
    """A contender for people."""
    name, dtype = key.split("-")
    return f"{_LABELS[name]}, {dtype}"


def judge_run(part: dict[str, Any]) -> list[Verdict]:
    """Whole runs against the limit, and the share of masking in them."""
    return [verdict for name, run in part.items() for verdict in judge_one_run(name, run)]


def judge_one_run(name: str, part: dict[str, Any]) -> list[Verdict]:
    """What a run may cost depends on what its rows share."""
    share = part["masking_seconds"] / part["seconds"]
    run = f"{part['rows']:,} rows at {part['levels']} levels, {name}"
    asked = SHARE_OF_LIMIT if part["shared_head"] >= _SHARED_HEAD else SHARE_OF_LIMIT_ALONE
    times = Spread.of([seconds * part["levels"] / part["seconds"] for seconds in part["limit_seconds"]])
    return [
        at_least(f"{run}: against a bare forward pass, {part['dtype']}", times, asked),
        Verdict(f"{run}: share of masking", f"≤ {MASKING_SHARE:.1%}", f"{share:.2%}", share <= MASKING_SHARE),
    ]


def judge_scale(part: dict[str, Any]) -> list[Verdict]:
    """Growth of the cost, and whether it was foretold."""
    rows = f"{part['rows']:,} rows"
    found = [
        Verdict(
            f"seconds a row at {rows} against {part['few_rows']:,}",
            f"≤ {GROWTH}x",
            f"{growth(part):.3f}x",
            growth(part) <= GROWTH,
        )
    ]
    for what, real, estimated in (
        ("seconds", "seconds", "estimated_seconds"),
        ("memory", "peak_bytes", "estimated_bytes"),
    ):
        ratio = part[estimated] / part[real]
        is_right = abs(ratio - 1) <= ESTIMATE
        found.append(Verdict(f"{rows}: estimated {what} against real", f"1 ± {ESTIMATE}", f"{ratio:.2f}x", is_right))
    return found


def judge_processes(part: dict[str, Any]) -> list[Verdict]:
    """Gain of a second process."""
    gain = Spread.of([one / two for one, two in zip(part["seconds"]["1"], part["seconds"]["2"], strict=True)])
    return [at_least("two processes of one thread against one", gain, TWO_PROCESSES)]


def judge_selection(part: dict[str, Any]) -> list[Verdict]:
    """Time and memory of FlexRand."""
    what, seconds = f"FlexRand on {part['rows']:,} scores", Spread.of(part["seconds"])
    used = part["peak_bytes"]
    return [
        Verdict(
            what,
            f"≤ {SELECTION_SECONDS:g} s",
            seconds.show("{:.2f}", " s"),
            seconds.median <= SELECTION_SECONDS,
        ),
        Verdict(f"{what}: memory", f"≤ {SELECTION_BYTES / 1e9:g} GB", f"{used / 1e9:.2f} GB", used <= SELECTION_BYTES),
    ]


# ---- tables and plot ---------------------------------------------------------------------------------------------


def write_results(output: Path, results: dict[str, Any]) -> None:
    """Write the samples, the tables and, if it can be drawn, the plot."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "benchmark.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (output / "benchmark.md").write_text(report(results), encoding="utf-8")
    if "contenders" in results and find_spec("matplotlib"):
        draw(results["contenders"], output / "benchmark.png")


def report(results: dict[str, Any]) -> str:
    """All tables as Markdown; every number in them is computed from the samples."""
    sections = [heading(results)]
    if "contenders" in results:
        sections.append(contender_table(results["contenders"]))
    sections += [other_parts(results), verdict_table(verdicts(results))]
    return "\n\n".join(sections) + "\n"


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table under a title."""
    lines = [f"## {title}", "", f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def heading(results: dict[str, Any]) -> str:
    """What was measured, and where."""
    options, known = results["options"], results["versions"]
    lines = [
        "# Benchmark",
        "",
        f"- machine: {results['machine']}; {results['num_threads']} thread(s)",
        f"- model {options['model']}, template {options['template']}, masked fractions {options['schedule']}",
        f"- torch {known['torch']}, transformers {known['transformers']}, hf_dlc {known['hf_dlc']}"
        + (f", lm_eval {known['lm_eval']}" if "lm_eval" in known else ""),
    ]
    if part := results.get("contenders"):
        lines.append(
            f"- {part['rows']} rows of {options['dataset']}: {part['tokens']:,} tokens, {part['target_tokens']:,} of "
            f"them targets; {part['shared_head']:.0%} stand in a head that rows share"
        )
    return "\n".join(lines)


def contender_table(part: dict[str, Any]) -> str:
    """Speed, memory and agreement of each contender."""
    header = ["contender", "dtype", "tokens/s", "against naive", "s a level", "masking", "peak / weights"]
    header += ["while scoring", "Spearman: confidence", "loss", "largest difference: confidence", "loss"]
    rows = [contender_row(part, key) for key in part["entries"]]
    if not any(entry["contender"] == "harness" for entry in part["entries"].values()):
        rows.append([_LABELS["harness"], "-", "not measured: lm_eval is not installed", *["-"] * 9])
    return table(f"Contenders: {part['rows']} rows, {part['levels']} levels", header, rows) + "\n\n" + notes(part)


def notes(part: dict[str, Any]) -> str:
    """How to read the table of the contenders."""
    ties = [
        compare(part["same_masks"][kind], part["entries"]["naive-float32"][kind]).difference
        for kind in ("confidence", "loss")
    ]
    return (
        "Median (smallest–largest) of the rounds. Tokens are those of the rows, without padding, times the levels. "
        "The time of hf_dlc is from text to columns, that of the others begins with token ids. Masking is in the time "
        "of hf_dlc and of the naive code; the harness has no masks, so what they took is left out of its speed, and "
        "given as a share of both together. Memory is the peak of the process, less what its imports take. Spearman "
        "and differences are to the naive code under the same masks, at the level where they are worst. Weights of "
        "the same magnitude are masked in another order by torch than by hf_dlc; in the naive code, that alone "
        f"changes confidence by up to {ties[0]:.1e} and loss by up to {ties[1]:.1e}."
    )


def contender_row(part: dict[str, Any], key: str) -> list[str]:
    """One contender."""
    entry = part["entries"][key]
    name = _LABELS[entry["contender"]]
    if "batch_size" in entry:
        name += f" (batch size {entry['batch_size']})"
    level_seconds = Spread.of([sample["seconds"] / part["levels"] for sample in entry["samples"]])
    agreements = [agreement(part, key, kind) for kind in ("confidence", "loss")]
    return [
        name,
        entry["dtype"],
        tokens_per_second(part, key).show("{:,.0f}"),
        times_faster(part, key, "naive-float32").show("{:.2f}", "x"),
        level_seconds.show("{:.2f}"),
        _or_dash(masking_share(entry), "{:.2%}"),
        _or_dash(memory_ratio(entry, "peak_bytes"), "{:.2f}x"),
        _or_dash(memory_ratio(entry, "scoring_peak_bytes"), "{:.2f}x"),
        *(_or_dash(found and found.spearman, "{:.5f}") for found in agreements),
        *(_or_dash(found and found.difference, "{:.1e}") for found in agreements),
    ]


def _or_dash(value: float | None, pattern: str) -> str:
    return "-" if value is None else pattern.format(value)


def other_parts(results: dict[str, Any]) -> str:
    """What else was measured, in ratios, and what was not."""
    rows = [[part, f"not measured: {why}"] for part, why in results["skipped"].items()]
    if part := results.get("scale"):
        times = f"{part['estimated_seconds']:.0f} s estimated, {part['seconds']:.0f} s measured"
        rows.append(["scale", f"{part['rows']:,} rows, {part['tokens']:,} tokens, {part['levels']} levels: {times}"])
    for name, part in results.get("run", {}).items():
        size = f"{part['rows']:,} rows, {part['tokens']:,} tokens, {part['shared_head']:.1%} in shared beginnings"
        speed = part["tokens"] * part["levels"] / part["seconds"]
        rows.append([f"run, {name}", f"{size}, {speed:,.0f} tokens/s"])
        rows.append([f"run, {name}: masks", f"{part['masking_seconds']:.2f} s of {part['seconds']:.1f} s"])
    if part := results.get("processes"):
        both = [Spread.of(part["seconds"][count]).show("{:.1f}", " s") for count in ("1", "2")]
        rows.append(["processes", f"{part['rows']} rows: one {both[0]}, two {both[1]}"])
    if part := results.get("selection"):
        rows.append(["selection", f"{part['rows']:,} scores in {Spread.of(part['seconds']).show('{:.2f}', ' s')}"])
    return table("Other parts", ["part", "measured"], rows)


def verdict_table(found: Sequence[Verdict]) -> str:
    """Asked for, measured, holds."""
    words = {True: "yes", False: "no", None: "-"}
    rows = [[what, asked, measured, words[holds]] for what, asked, measured, holds in found]
    return table("Asked for", ["what", "asked for", "measured", "holds"], rows)


def draw(part: dict[str, Any], path: Path) -> None:
    """Bars of tokens/s, whiskers from the slowest to the fastest round, and the limits as lines."""
    from matplotlib.figure import Figure  # no window is opened, and no global state is touched

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    bars = [key for key, entry in part["entries"].items() if entry["contender"] != "limit"]
    for place, key in enumerate(bars):
        speed, dtype = tokens_per_second(part, key), part["entries"][key]["dtype"]
        whiskers = [[speed.median - speed.low], [speed.high - speed.median]]
        axes.barh(place, speed.median, xerr=whiskers, color=_COLOURS.get(dtype, "tab:green"), capsize=4)
        beside = {"xytext": (8, 0), "textcoords": "offset points", "va": "center"}
        over_lines = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.annotate(f"{speed.median:,.0f}", (speed.high, place), **beside, bbox=over_lines)
    for key, entry in part["entries"].items():
        if entry["contender"] == "limit":
            colour = _COLOURS.get(entry["dtype"], "tab:green")
            axes.axvline(tokens_per_second(part, key).median, color=colour, linestyle="--", label=label(key))
    axes.set_yticks(range(len(bars)), [label(key) for key in bars])
    axes.set_xlabel("tokens of the rows times levels, a second (more is better)")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
    else:
        main()
