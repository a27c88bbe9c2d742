"""
Score an instruction dataset with a causal language model and keep a part of it.

    accelerate launch recipes/prune_alpaca.py --config recipes/configs/demo.yaml
    accelerate launch recipes/prune_alpaca.py --config recipes/configs/alpaca.yaml --keep 0.3
    python recipes/prune_alpaca.py --dataset rows.jsonl --model path/to/model.gguf --keep 5000 --output_dir runs/mine

Loads, estimates, calibrates, scores, selects, and writes into `output_dir`:

    pruned/          the kept rows with their scores (`Dataset.load_from_disk`)
    pruned.parquet   the same
    scores.parquet   the scores of all rows, in the order of the dataset
    manifest.json    model, data, options, schedule, versions, counts, kept indices
    summary.md       what was scored and kept, for people
    report.html      the same with plots, where matplotlib is installed
    journal/         finished chunks of the scoring

A run that was stopped, by whatever, goes on where it stopped when the same command is run again, also with another
number of processes.

The dataset may be a repository on the Hub, a local .json, .jsonl, .csv or .parquet file (also gzipped), or a folder
that `Dataset.save_to_disk` wrote. Every option may stand in the YAML file; the command line wins.
"""

from __future__ import annotations

import hashlib
import logging
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from accelerate import PartialState
from datasets import Dataset, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError

from hf_dlc import DLCConfig, DLCScorer, FlexRandSelector, RandomSelector, RunEstimate, TopKSelector
from hf_dlc.cache import write_json
from hf_dlc.columns import score_features
from hf_dlc.config import parse_config_and_args
from hf_dlc.demo import demo_model
from hf_dlc.execution.distributed import PeerError, cpu_threads, on_main_process, process_state
from hf_dlc.execution.journal import Journal, JournalError
from hf_dlc.execution.peers import Peers, watch_peers
from hf_dlc.reporting import PruneReport, status_counts, versions


logger = logging.getLogger(__name__)

_FORMATS = {"json": "json", "jsonl": "json", "csv": "csv", "parquet": "parquet"}


@dataclass
class RecipeArguments:
    """What to score, with which model, and what to keep."""

    dataset: str = field(
        default="recipes/data/demo_instructions.jsonl",
        metadata={"help": "Hub repository, local file, or saved folder."},
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub dataset."})
    split: str = field(default="train", metadata={"help": "Split of a Hub dataset."})
    max_rows: int | None = field(default=None, metadata={"help": "Use only the first rows."})
    model: str = field(default="demo", metadata={"help": "Hub repository, folder, .gguf file, or 'demo'."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub model."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run code that comes with the model."})
    attn_implementation: str | None = field(default=None, metadata={"help": "'sdpa', 'eager', 'flash_attention_2'."})
    device_map: str | None = field(default=None, metadata={"help": "'auto' spreads a large model over several GPUs."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads a process; default: its share."})
    selector: Literal["flexrand", "random", "easiest", "hardest"] = field(
        default="flexrand", metadata={"help": "How rows are chosen."}
    )
    keep: str | None = field(default=None, metadata={"help": "Share (0.5) or number (5000) of rows to keep."})
    keep_tokens: int | None = field(default=None, metadata={"help": "Number of target tokens to keep."})
    split_share: float = field(default=0.5, metadata={"help": "FlexRand's split: share of the rows called easy."})
    column: str | None = field(default=None, metadata={"help": "Score column to select by; default: confidence."})
    group_by: str | None = field(default=None, metadata={"help": "Column within whose groups rows are chosen."})
    min_per_group: int = field(default=0, metadata={"help": "Rows kept of every group, however small."})
    selection_seed: int = field(default=0, metadata={"help": "Seed of the random choice."})
    flag_column: str | None = field(
        default=None, metadata={"help": "Boolean column whose rows the summary ranks; no scorer reads it."}
    )
    output_dir: str = field(default="runs/prune", metadata={"help": "Folder for the results."})
    html_report: bool = field(default=True, metadata={"help": "Write report.html, where matplotlib is installed."})
    overwrite: bool = field(default=False, metadata={"help": "Replace finished results that are there."})
    chunk_seconds: float = field(
        default=60.0, metadata={"help": "Work between two writes to the journal: what a killed process repeats."}
    )

    def __post_init__(self) -> None:
        if self.keep is not None and self.keep_tokens is None:
            # "1.0" is a share, "1" a number of rows: the text tells what a number in Python would not.
            text = str(self.keep)
            self.keep = int(text) if text.isdecimal() else float(text)
        elif self.keep_tokens is None:
            self.keep = 0.5
        elif self.keep is not None:
            raise ValueError("pass keep or keep_tokens, not both.")


def main(args: list[str] | None = None) -> None:
    """Run the recipe."""
    options, config = parse_config_and_args([RecipeArguments, DLCConfig], args, description=__doc__)
    prune(options, config, read_dataset)


def prune(options: RecipeArguments, config: DLCConfig, read: Callable[[RecipeArguments], Dataset]) -> None:
    """The whole way, from a dataset that `read` reads to the files in the output folder."""
    state = process_state()
    torch.set_num_threads(cpu_threads(options.num_threads))
    logging.basicConfig(level=logging.INFO if state.is_main_process else logging.ERROR, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    output = Path(options.output_dir)
    try:
        with watch_peers(state) as peers:
            make_room(output, options, state)
            dataset, scorer, estimate = prepare(options, config, read, state, peers)
            scored, run = score(dataset, scorer, estimate, options, state, peers)
    except (
        OSError,
        ValueError,
        MemoryError,
        JournalError,
        PeerError,
    ) as error:  # the message says what is wrong and what to do
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted. Run the same command again: it goes on after the last chunk that was written.")
    if not state.is_main_process:
        return
    try:
        write_scores(output, config, scored)  # first of all: they are what the time went into
        kept = make_selector(options, config).read_indices(scored).tolist()
        facts = {"dataset": dataset_identity(options, dataset), "run": run}
        write_results(output, options, config, scorer, scored, kept, facts)
    except OSError as error:
        sys.exit(
            f"the results cannot be written into {output}: {error}. When that is solved, run the same command again: "
            "the scores are in the journal."
        )
    except KeyboardInterrupt:
        sys.exit("interrupted. Run the same command again: the scores are in the journal.")
    logger.info("wrote %s", output)


def score(
    dataset: Dataset,
    scorer: DLCScorer,
    estimate: RunEstimate,
    options: RecipeArguments,
    state: PartialState,
    peers: Peers | None,
) -> tuple[Dataset, dict[str, Any]]:
    """Calibrate and score, with the journal in the output folder; the second value is what the run took."""
    run_dir = Path(options.output_dir, "journal")
    resumed = on_main_process((run_dir / "manifest.json").exists, state, peers)  # then the schedule is in it
    start = time.perf_counter()
    if not resumed:
        schedule = on_main_process(scorer.calibrate, state, peers)
        logger.info("masked fractions: %s", ", ".join(f"{fraction:g}" for fraction in schedule))
    calibrated = time.perf_counter()
    scored = scorer.score(dataset, run_dir, options.num_threads, options.chunk_seconds)
    seconds = time.perf_counter() - calibrated
    times = {"resumed": resumed, "calibration_seconds": calibrated - start, "scoring_seconds": seconds}
    tokens = estimate.tokens * len(scorer.schedule_)
    times["tokens_per_second"] = None if resumed else tokens / seconds  # only a part of them was computed now
    return scored, {**times, **usage(estimate, state)}


def make_room(output: Path, options: RecipeArguments, state: PartialState) -> None:
    """Refuse to mix with the results of a finished run, or, with `overwrite`, begin anew."""
    is_finished = (output / "manifest.json").exists()
    state.wait_for_everyone()  # all have looked before the main process removes what they look for
    if not is_finished:
        return
    if not options.overwrite:
        raise FileExistsError(f"{output} holds the results of another run. Pass --overwrite, or another --output_dir.")
    if state.is_main_process:
        journal = Journal(output / "journal")
        with journal.hold():
            journal.discard()
            (output / "manifest.json").unlink()


def prepare(
    options: RecipeArguments,
    config: DLCConfig,
    read: Callable[[RecipeArguments], Dataset],
    state: PartialState,
    peers: Peers | None,
) -> tuple[Dataset, DLCScorer, RunEstimate]:
    """Load the dataset and the model, and find out what the run will cost and whether it can end well."""
    with local_main_process_first(state, peers):  # one download, one preparation; the others read the cache
        dataset = read(options)
        scorer = load_scorer(options, config)
    logger.info(
        "%d rows; %s in %s on %d process(es)", len(dataset), options.model, scorer.model.dtype, state.num_processes
    )
    if scorer.needs_fit:
        logger.info("fitting class prototypes")
        scorer.fit(dataset, options.num_threads)
    estimate = scorer.estimate(dataset, num_threads=options.num_threads)
    logger.info("estimate: %s", estimate)
    check_selection(options, config, dataset, estimate)
    return dataset, scorer, estimate


@contextmanager
def local_main_process_first(state: PartialState, peers: Peers | None) -> Iterator[None]:
    """As that of [`~accelerate.PartialState`], but who waits for a process that has failed is told so."""
    wait = state.wait_for_everyone if peers is None else peers.meet
    if not state.is_local_main_process:
        wait()
    yield
    if state.is_local_main_process:
        wait()


def check_selection(options: RecipeArguments, config: DLCConfig, dataset: Dataset, estimate: RunEstimate) -> None:
    """Refuse now what the selection would refuse after hours of scoring: it is tried on scores that are all alike."""
    known = [*dataset.column_names, *score_features(config.prefix)]
    for option, names in (
        ("column", known),
        ("group_by", dataset.column_names),
        ("flag_column", dataset.column_names),
    ):
        if (name := getattr(options, option)) is not None and name not in names:
            raise ValueError(f"{option}: there is no column {name!r}; the dataset has {dataset.column_names}.")
    flags = dataset.features[options.flag_column] if options.flag_column else None
    if flags is not None and getattr(flags, "dtype", None) not in ("bool", "int64"):  # a text "False" would be true
        raise ValueError(f"flag_column must hold true and false, but {options.flag_column!r} holds {flags}.")
    if options.keep_tokens is not None and options.keep_tokens > estimate.target_tokens:
        raise ValueError(
            f"keep_tokens must be at most {estimate.target_tokens}, all there are, got {options.keep_tokens}."
        )
    scores, tokens = np.zeros(len(dataset)), np.full(len(dataset), options.keep_tokens or 1)
    groups = dataset[options.group_by][:] if options.group_by else None
    sizes = Counter(groups)
    largest_first = sorted(range(len(dataset)), key=lambda row: -sizes[groups[row]] if groups else 0)
    scores[largest_first[: sum(estimate.skipped.values())]] = np.nan
    make_selector(options, config).get_indices(scores, groups, tokens)


def read_dataset(options: RecipeArguments) -> Dataset:
    """Read the dataset that the options name."""
    path = Path(options.dataset)
    suffixes = [suffix.lstrip(".") for suffix in path.suffixes if suffix != ".gz"]
    if path.is_file():
        if not suffixes or suffixes[-1] not in _FORMATS:
            sys.exit(f"{path}: expected a file that ends in {', '.join('.' + name for name in _FORMATS)} (or .gz).")
        try:
            dataset = load_dataset(_FORMATS[suffixes[-1]], data_files=str(path), split="train")
        except DatasetGenerationError as error:
            raise ValueError(f"{path} cannot be read: {error.__cause__ or error}") from error
    elif path.is_dir() and (path / "state.json").is_file():
        dataset = load_from_disk(str(path))
    elif suffixes and suffixes[-1] in _FORMATS:
        sys.exit(f"there is no file {path}.")
    else:
        dataset = load_dataset(
            options.dataset, options.dataset_config, split=options.split, revision=options.dataset_revision
        )
    return dataset.select(range(min(options.max_rows, len(dataset)))) if options.max_rows is not None else dataset


def load_scorer(options: RecipeArguments, config: DLCConfig) -> DLCScorer:
    """Load the model that the options name."""
    model_kwargs: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
    for name in ("attn_implementation", "device_map"):
        if getattr(options, name):
            model_kwargs[name] = getattr(options, name)
    model = demo_model() if options.model == "demo" else options.model
    # The levels are kept for the summary, which compares the scores with plain loss, the loss of level 0.
    return DLCScorer.from_pretrained(
        model, config, revision=options.model_revision, model_kwargs=model_kwargs, keep_levels=True
    )


def make_selector(options: RecipeArguments, config: DLCConfig) -> FlexRandSelector | RandomSelector | TopKSelector:
    """Make the selector that the options name."""
    budget = {name: getattr(options, name) for name in ("keep", "keep_tokens", "group_by", "min_per_group")}
    columns = {
        "column": options.column or f"{config.prefix}_confidence",
        "tokens_column": f"{config.prefix}_tokens",
    }
    if options.selector == "flexrand":
        return FlexRandSelector(**budget, **columns, split=options.split_share, seed=options.selection_seed)
    if options.selector == "random":
        return RandomSelector(**budget, **columns, seed=options.selection_seed)
    return TopKSelector(**budget, **columns, which=options.selector)


def usage(estimate: RunEstimate, state: PartialState) -> dict[str, Any]:
    """What the run took, memory for the main process alone."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB elsewhere
    return {
        "processes": state.num_processes,
        "threads": torch.get_num_threads(),
        "tokens": estimate.tokens,
        "target_tokens": estimate.target_tokens,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    }


def dataset_identity(options: RecipeArguments, dataset: Dataset) -> dict[str, Any]:
    """What was scored; a local file is known by its digest."""
    sha256 = None
    if Path(options.dataset).is_file():
        with open(options.dataset, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "name": options.dataset,
        "config": options.dataset_config,
        "revision": options.dataset_revision,
        "split": options.split,
        "sha256": sha256,
        "fingerprint": dataset._fingerprint,
        "rows": len(dataset),
    }


def write_scores(output: Path, config: DLCConfig, scored: Dataset) -> None:
    """Write the scores of all rows, in the order of the dataset."""
    columns = list(score_features(config.prefix, config.keep_levels))
    scored.select_columns(columns).to_parquet(str(output / "scores.parquet"))


def write_results(
    output: Path,
    options: RecipeArguments,
    config: DLCConfig,
    scorer: DLCScorer,
    scored: Dataset,
    kept: list[int],
    facts: dict[str, Any],
) -> None:
    """Write the pruned dataset, the manifest and the summary."""
    column = options.column or f"{config.prefix}_confidence"
    shown = {"group_by": options.group_by, "flag_column": options.flag_column, "schedule": scorer.schedule_}
    found = PruneReport.from_datasets(scored, kept, column, config.prefix, **shown)
    summary = found.to_markdown()
    if not config.keep_levels:
        scored = scored.remove_columns([f"{config.prefix}_level_confidence", f"{config.prefix}_level_loss"])
    pruned = scored.select(kept)
    pruned.save_to_disk(str(output / "pruned"))
    pruned.to_parquet(str(output / "pruned.parquet"))
    manifest = {
        **facts,
        "scorer": scorer.describe(),
        "schedule": list(scorer.schedule_),
        "masking": [asdict(level) for level in scorer.masking_report()],
        "options": asdict(options),
        "status": status_counts(scored, config.prefix),
        "versions": versions(),
        "kept_rows": len(kept),
        "kept_indices": kept,
    }
    (output / "summary.md").write_text(summary, encoding="utf-8")
    (output / "report.html").unlink(missing_ok=True)  # of the run that is replaced
    if options.html_report and find_spec("matplotlib"):
        (output / "report.html").write_text(found.to_html(f"What was kept of {options.dataset}"), encoding="utf-8")
    write_json(output / "manifest.json", manifest)  # last: it tells that all is there
    print(summary)


if __name__ == "__main__":
    try:
        main()
    finally:  # a second Ctrl-C would print a traceback over the message of the first
        signal.signal(signal.SIGINT, signal.SIG_IGN)
