"""
Commands of the command line: `hf-dlc COMMAND`, or `hf dlc COMMAND` through the extensions of the Hub client.

A command reads its options from `--config FILE.yaml` and from the command line, which wins, as the recipes do. It does
one thing and prints what it found on the standard output; `--json` prints it for machines. An error is one line on the
standard error. The exit status is then 1, or 2 for an option that does not exist or has a wrong value.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hf_dlc import __version__
from hf_dlc.config import DLCConfig
from hf_dlc.pipeline.command_line import command_line
from hf_dlc.pipeline.options import (
    DataArguments,
    ModelArguments,
    Options,
    PruneArguments,
    ReportArguments,
    ScoreArguments,
    SelectionArguments,
)
from hf_dlc.study.options import PilotArguments
from hf_dlc.utils.durations import duration

from .exits import one_line_for_ctrl_c, run_program
from .parse import parse_config_and_args


if TYPE_CHECKING:
    from datasets import Dataset

    from hf_dlc.pipeline.record import DatasetRecord, RunRecord


Outcome = tuple[Any, str]  # for machines, and for people


@dataclass
class OutputArguments:
    """Output options: how a command prints what it found."""

    json: bool = field(default=False, metadata={"help": "Print the result as JSON."})


@dataclass
class RunArguments(Options):
    """Run options: which run a command goes on with."""

    run_dir: str = field(default="runs/prune", metadata={"help": "Folder of `hf-dlc score`, `select` or a recipe."})


@dataclass
class EstimateArguments(DataArguments, ModelArguments):
    """Estimate options: which rows would be scored, with which model."""

    measure_training: bool = field(
        default=True, metadata={"help": "Measure also what an epoch of LoRA training on the rows costs."}
    )

    show: int = field(default=0, metadata={"help": "Rows to show as they will be scored, target tokens marked."})


@dataclass
class AgreeArguments(DataArguments, ModelArguments):
    """Agreement options: which scorer to compare with, and on how many rows."""

    other: str | None = field(
        default=None, metadata={"help": "Model to compare with, at all levels; default: the same model."}
    )
    other_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of it on the Hub."})
    rows: int = field(default=200, metadata={"help": "Rows that both score, drawn at random."})
    keep: float = field(default=0.5, metadata={"help": "Share of the rows of which the overlaps are."})
    sample_seed: int = field(default=0, metadata={"help": "Seed of the sample and of the intervals."})
    threshold: float = field(default=0.9, metadata={"help": "Rank correlation below which the first line says so."})


@dataclass
class SelectFromRunArguments(RunArguments, SelectionArguments, ReportArguments):
    """Selection options: which rows of a run to keep, and where to write them."""

    dataset: str | None = field(default=None, metadata={"help": "The rows; default: where they were scored from."})
    output_dir: str | None = field(default=None, metadata={"help": "Folder for the subset; default: that of the run."})
    overwrite: bool = field(default=False, metadata={"help": "Replace a subset that is there."})


@dataclass
class CompareArguments(RunArguments, SelectionArguments):
    """Comparison options: which selections of a run to compare."""

    dataset: str | None = field(default=None, metadata={"help": "The rows; default: where they were scored from."})


@dataclass
class ReportAgainArguments(RunArguments):
    """Report options: which subset to report on, and where to write the report."""

    dataset: str | None = field(default=None, metadata={"help": "The rows; default: where they were scored from."})
    flag_column: str | None = field(default=None, metadata={"help": "Column, true where a row is known to be wrong."})
    output: str | None = field(default=None, metadata={"help": "HTML file; default: report.html of the run."})
    verbose: bool = field(default=False, metadata={"help": "Print all tables, which the file holds."})
    open: bool = field(default=False, metadata={"help": "Show the page in a browser."})


@dataclass
class PushArguments(RunArguments):
    """Publishing options: which subset to publish, and where."""

    dataset: str | None = field(default=None, metadata={"help": "The rows; default: where they were scored from."})
    repo_id: str = field(default="", metadata={"help": "Dataset repository, such as me/alpaca-half."})  # required
    public: bool = field(default=False, metadata={"help": "Public repository instead of a private one."})
    create_pr: bool = field(default=False, metadata={"help": "Open a pull request."})
    config_name: str | None = field(default=None, metadata={"help": "Name of the subset, such as random-keep-0.5."})
    revision: str | None = field(default=None, metadata={"help": "Branch or pull request to write into."})
    license: str | None = field(default=None, metadata={"help": "For the card; default: that of the source."})
    language: str | None = field(default=None, metadata={"help": "For the card; default: that of the source."})
    study: str | None = field(default=None, metadata={"help": "study.json of 'hf-dlc study', for the card."})
    features: bool = field(default=False, metadata={"help": "Publish the features of the kept rows with them."})


@dataclass
class DemoArguments(Options):
    """Demo options: how much of it to run, and where to write the results."""

    max_rows: int | None = field(default=None, metadata={"help": "Use only the first rows."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads; default: all cores."})
    output_dir: str = field(default="runs/demo", metadata={"help": "Folder for the results."})
    verbose: bool = field(default=False, metadata={"help": "Print all tables, which summary.md holds."})


# ---- commands ---------------------------------------------------------------------------------------------------


def estimate(options: EstimateArguments, config: DLCConfig) -> Outcome:
    """Say what scoring would cost: rows, tokens, time and memory; only a short probe is run."""
    from hf_dlc.pipeline.options import load_scorer

    dataset = _read_rows(options, config)
    scorer = load_scorer(options, config)
    found = scorer.estimate(dataset, num_threads=options.num_threads, training=options.measure_training)
    found.require_rows()
    facts = {**asdict(found), "scoring_training_ratio": found.scoring_training_ratio}
    if not options.show:
        return facts, f"{found.reading}\n{found}"
    preview = scorer.preview(dataset, options.show)
    return {**facts, "preview": preview}, f"{preview}\n{found}"


def agree(options: AgreeArguments, config: DLCConfig) -> Outcome:
    """Measure on some rows whether fewer passes, or another model, rank them alike."""
    from hf_dlc.pipeline.options import load_scorer

    dataset = _read_rows(options, config)
    scorers = [load_scorer(options, config)]
    if options.other is not None:
        other = replace(options, model=options.other, model_revision=options.other_revision)
        scorers.append(load_scorer(other, replace(config, levels="exact")))
    for scorer in scorers:
        if scorer.needs_fit:
            scorer.fit(dataset, options.num_threads)
    chosen = {name: getattr(options, name) for name in ("rows", "keep", "threshold", "num_threads")}
    found = scorers[0].agreement(dataset, *scorers[1:], **chosen, seed=options.sample_seed)
    return found.to_json(), str(found)


def score(options: ScoreArguments, config: DLCConfig) -> Outcome:
    """Score all rows and write the scores; a run that was stopped goes on."""
    from hf_dlc.pipeline import prune as pipeline

    record = pipeline.score(options, config, ("hf-dlc", "score"))
    if record is None:  # not the main process
        return None, ""
    found = {"output_dir": options.output_dir, "schedule": list(record.schedule), **record.run.to_json()}
    time = duration(record.run.scoring_seconds)
    return found, f"{record.dataset.rows:,} rows, scored in {time}: {options.output_dir}"


def select(options: SelectFromRunArguments) -> Outcome:
    """Keep a part of the rows of a run, without scoring them again, and write them with a manifest and reports."""
    from hf_dlc.pipeline.choosing import choose_for_scored
    from hf_dlc.pipeline.folder import copy_scores, is_taken, select_rows, write_subset
    from hf_dlc.pipeline.outcome import outcome
    from hf_dlc.pipeline.selecting import config_of, goes_by_features, prepare_selection, read_target, scorer_of

    scored, record = _scored(options.run_dir, options.dataset)
    output, run_dir = Path(options.output_dir or options.run_dir), Path(options.run_dir)
    if is_taken(output, run_dir) and not options.overwrite:
        raise FileExistsError(f"{output} holds another subset or run. Pass --overwrite, or another --output-dir.")
    config = config_of(record)
    options, reason = choose_for_scored(scored, options, config.prefix)
    target = read_target(options, config, goes_by_features(options, config), partial(scorer_of, record))
    scored, selector = prepare_selection(scored, options, config, target)
    chosen = {
        option.name: getattr(options, option.name)
        for option in (*fields(SelectionArguments), *fields(ReportArguments))
    }
    commands = (*record.commands, tuple(command_line(["hf-dlc", "select"], options)))
    facts = {"options": {**record.options, **chosen}, "selector_reason": reason, "commands": commands}
    pruned, found_report, record = select_rows(scored, selector, record, options.flag_column, **facts)
    # What cannot be selected or shown has been refused by now, and has left everything as it was.
    copy_scores(run_dir, output)
    write_subset(output, pruned, found_report, record, options.html_report)
    found = {"output_dir": str(output), "kept_rows": len(pruned), "selection": record.selection.to_json()}
    facts = {"selector_reason": reason, "status": record.status, "shared_with_random": record.shared_with_random}
    flagged = {} if record.flagged is None else {"flagged": record.flagged.to_json()}
    return {**found, **facts, **flagged}, outcome(found_report, output, record.selection, options.verbose)


def compare(options: CompareArguments) -> Outcome:
    """Show what each selector would keep, and its overlap with the rows of --selector. Nothing is written."""
    from hf_dlc.pipeline.compare import compare_selections, table
    from hf_dlc.pipeline.selecting import config_of, marked, read_target, scorer_of, with_text_columns

    scored, record = _scored(options.run_dir, options.dataset)
    config = config_of(record)
    with_features = f"{config.prefix}_features" in scored.column_names  # then selectors of all kinds are compared
    target = read_target(options, config, with_features, partial(scorer_of, record))
    scored, options = marked(scored, options, config), with_text_columns(options, scored, config)
    found = compare_selections(scored, options, record.column_prefix, target)
    return found, table(found)


def report(options: ReportAgainArguments) -> Outcome:
    """Write the report of a run again, as HTML with plots, and show it as text."""
    from datasets import load_from_disk

    from hf_dlc.pipeline.folder import make_report, read_manifest
    from hf_dlc.report.report import require_matplotlib

    require_matplotlib()
    record = read_manifest(Path(options.run_dir))
    scored, _ = _scored(options.run_dir, options.dataset, record.dataset)
    pruned = load_from_disk(str(Path(options.run_dir) / "pruned"))
    found = make_report(scored, pruned, record, options.flag_column or record.options.get("flag_column"))
    path = Path(options.output or Path(options.run_dir) / "report.html")
    path.write_text(found.to_html(f"What was kept of {options.dataset or record.dataset.name}"), encoding="utf-8")
    if options.open:
        webbrowser.open(path.resolve().as_uri())
    text = found.to_markdown() if options.verbose else found.in_short()
    return {"report": str(path)}, f"{text}\nWrote {path}"


def push(options: PushArguments) -> Outcome:
    """Publish a subset, the scores of all rows, the manifest, the report and a card on the Hub."""
    from datasets import load_from_disk

    from hf_dlc.hub.publish import push_pruned
    from hf_dlc.pipeline.folder import read_manifest

    folder = Path(options.run_dir)
    record = read_manifest(folder)  # says so if nothing has been selected yet
    scored, _ = _scored(options.run_dir, options.dataset, record.dataset)
    address = push_pruned(
        load_from_disk(str(folder / "pruned")),
        options.repo_id,
        scored,
        record.to_json(),
        private=not options.public,
        **{
            name: getattr(options, name)
            for name in ("create_pr", "config_name", "revision", "license", "language", "study", "features")
        },
    )
    return {"address": address}, address


def demo(options: DemoArguments) -> Outcome:
    """Score 320 hand-written rows with a small model on the CPU, and keep half of them."""
    from hf_dlc.pipeline import prune as pipeline

    kept = {"keep": "0.5", "flag_column": "response_swapped"}
    arguments = PruneArguments(dataset="demo", model="demo", overwrite=_is_demo(options), **kept, **vars(options))
    # Two levels: without fast bfloat16 four would take too long for a demo.
    scores = ("confidence", "loss", "gain", "plain_loss", "ifd", "prompt_gain")
    config = DLCConfig(calibration_shares=(1.0, 0.5), scores=scores)
    summary = pipeline.prune(arguments, config, ("accelerate", "launch", "recipes/prune_alpaca.py"))
    if summary is None:  # not the main process
        return None, ""
    return {"output_dir": options.output_dir}, summary


def study(options: PilotArguments, config: DLCConfig) -> Outcome:
    """Train on samples, in a given time, to find a way of choosing that beats random rows; study.md names it."""
    from hf_dlc.study.pilot import run_pilot
    from hf_dlc.study.report import write_report
    from hf_dlc.study.verdict import verdict

    results = run_pilot(options, config)
    write_report(results, Path(options.output_dir))
    found = verdict(results)
    facts = {"arm": found.arm, "verdict": found.text, "best": found.best.to_json(), "output_dir": options.output_dir}
    return facts, f"{found.text}\nWrote {Path(options.output_dir) / 'study.md'}"


def _read_rows(options: DataArguments, config: DLCConfig) -> Dataset:
    """The rows; those that no model could read are refused before one is loaded."""
    from hf_dlc.pipeline.checks import check_columns
    from hf_dlc.pipeline.sources import read_dataset

    dataset = read_dataset(options)
    check_columns(dataset, config)
    return dataset


def _is_demo(options: DemoArguments) -> bool:
    """Whether the folder holds an earlier demo, which may be replaced."""
    from hf_dlc.pipeline.folder import SCORING_NAME
    from hf_dlc.pipeline.record import RecordError, RunRecord
    from hf_dlc.utils.files import read_json

    try:
        return RunRecord.from_json(read_json(Path(options.output_dir) / SCORING_NAME)).dataset.name == "demo"
    except RecordError:  # no record, or none of ours
        return False


def _scored(run_dir: str, dataset: str | None = None, known: DatasetRecord | None = None) -> tuple[Dataset, RunRecord]:
    """The rows of a run with their scores, and the record of it; `known` says where the rows are, by default."""
    from hf_dlc.pipeline.folder import read_scores
    from hf_dlc.pipeline.sources import dataset_identity, read_dataset, split_of

    scores, record = read_scores(Path(run_dir))
    known = known or record.dataset
    if dataset in (None, known.name):  # the same again: the same revision, and no more rows than there were
        more = {"dataset_config": known.config, "dataset_revision": known.revision, "max_rows": known.rows}
        same = DataArguments(dataset=known.name, split=known.split, **more)
        return scores.join(read_dataset(same), f"the scores in {run_dir}"), record
    source = DataArguments(dataset=dataset, split=split_of(dataset, known.split))
    rows = read_dataset(source)
    return scores.join(rows, f"the scores in {run_dir}"), record.having(dataset=dataset_identity(source, rows))


class Command(NamedTuple):
    """Command of the command line: what runs, its options, and the examples in its help."""

    run: Callable[..., Outcome]
    arguments: Sequence[type]
    examples: Sequence[str]
    again: str = ""  # what an interrupted one says
    required: Sequence[str] = ()  # options that must be given

    @property
    def description(self) -> str:
        """First lines of `--help`."""
        examples = [f"  hf-dlc {self.run.__name__} {example}" for example in self.examples]
        return "\n".join([str(self.run.__doc__), "", "examples:", *examples])


COMMANDS = {
    command.run.__name__: command
    for command in (
        Command(
            estimate,
            (EstimateArguments, DLCConfig),
            (
                "--dataset rows.jsonl --model path/to/model --scores plain_loss --features auto",
                "--dataset yahma/alpaca-cleaned --model demo --json",
            ),
            required=["dataset"],
        ),
        Command(
            agree,
            (AgreeArguments, DLCConfig),
            (
                "--dataset rows.jsonl --model path/to/model --levels fast",
                "--dataset rows.jsonl --model path/to/small --other path/to/large --rows 200 --keep 0.3",
            ),
            required=["dataset"],
        ),
        Command(
            score,
            (ScoreArguments, DLCConfig),
            (
                "--dataset rows.jsonl --model path/to/model --scores plain_loss --features auto "
                "--output-dir runs/mine",
                "--config alpaca.yaml --overwrite  # on several GPUs: accelerate launch -m hf_dlc.cli score ...",
            ),
            "The same command goes on where it stopped.",
            ["dataset"],
        ),
        Command(
            select,
            (SelectFromRunArguments,),
            (
                "--run-dir runs/mine --target wanted.jsonl --keep 0.3",
                "--run-dir runs/mine --keep-tokens 2000000 --output-dir runs/mine-2m",
            ),
        ),
        Command(compare, (CompareArguments,), ("--run-dir runs/mine --keep 0.3",)),
        Command(
            report,
            (ReportAgainArguments,),
            ("--run-dir runs/mine --open", "--run-dir runs/mine --output report.html --verbose"),
        ),
        Command(
            push,
            (PushArguments,),
            ("--run-dir runs/mine --repo-id me/alpaca-third", "--run-dir runs/mine --repo-id me/open --public"),
            required=["repo_id"],
        ),
        Command(
            study,
            (PilotArguments, DLCConfig),
            (
                "--dataset rows.jsonl --target wanted.jsonl --model path/to/model --minutes 60",
                "--dataset rows.jsonl --model path/to/large --proxy path/to/small --group-by source",
            ),
            "The same command goes on where it stopped.",
            ["dataset"],
        ),
        Command(demo, (DemoArguments,), ("", "--max-rows 40")),
    )
}


# ---- the program ------------------------------------------------------------------------------------------------

_JOB = """\
hf-dlc estimate --dataset rows.jsonl --model path/to/model --scores plain_loss --features auto
hf-dlc score --dataset rows.jsonl --model path/to/model --scores plain_loss --features auto --output-dir runs/mine
hf-dlc select --run-dir runs/mine --target wanted.jsonl --keep 0.3
hf-dlc push --run-dir runs/mine --repo-id me/rows-third

They tell the cost, score all rows (if that is stopped, the same command goes on), keep the rows that are most like the
wanted ones, and publish these with the scores and a card. hf-dlc study measures which choice pays on your rows.
hf-dlc --help shows all commands, hf-dlc COMMAND --help what each of them takes."""


def main(args: Sequence[str] | None = None) -> None:
    """Run one command."""
    arguments = list(sys.argv[1:] if args is None else args)
    if not arguments:
        _say(_JOB)
        return
    if arguments[0] not in COMMANDS:
        completes = any(word.startswith("--p") for word in arguments)  # --print-completion, or the beginning of it
        build_parser(completes).parse_args(arguments)  # help, version, completion, or an error
        return
    command, prog = COMMANDS[arguments[0]], f"hf-dlc {arguments[0]}"
    with one_line_for_ctrl_c(prog, command.again):  # the parser imports transformers
        _run(command, prog, arguments[1:])


def _run(command: Command, prog: str, arguments: Sequence[str]) -> None:
    types = [*command.arguments, OutputArguments]
    help_texts = {"description": command.description, "prog": prog}
    everything = [PruneArguments, DLCConfig, *(one for other in COMMANDS.values() for one in other.arguments)]
    *options, output = parse_config_and_args(
        types, arguments, **help_texts, others=everything, required=command.required
    )
    level = logging.WARNING if output.json else logging.INFO
    found, text = run_program(lambda: command.run(*options), prog, level, command.again)
    if text:  # empty on all processes but the main one
        _say(json.dumps(found, indent=2, default=str) if output.json else text)


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # who reads has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor is the end of the program an error


def build_parser(with_options: bool = True) -> argparse.ArgumentParser:
    """
    Parser of all commands, for help and for shell completion.

    Args:
        with_options (`bool`, *optional*, defaults to `True`):
            Whether it knows the options of the commands. Completion needs them; help does not show them, and comes at
            once without them, as their parser is a class of transformers.

    Returns:
        `argparse.ArgumentParser`: The parser, which no command is run with.
    """
    parser = argparse.ArgumentParser(
        prog="hf-dlc",
        description="Prune fine-tuning data without training.",
        epilog="hf-dlc COMMAND --help says more. All options can stand in a YAML file: --config FILE.yaml.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    _add_completion(parser)
    if with_options:
        from transformers import HfArgumentParser as CommandParser
    else:
        CommandParser = argparse.ArgumentParser
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser)
    for name, command in COMMANDS.items():
        options = {"dataclass_types": [*command.arguments, OutputArguments]} if with_options else {}
        parser_of_one = commands.add_parser(name, help=command.run.__doc__, **options)
        parser_of_one.add_argument("--config", help="YAML file with options.")
    return parser


def _add_completion(parser: argparse.ArgumentParser) -> None:
    try:
        import shtab
    except ModuleNotFoundError:
        parser.add_argument("--print-completion", metavar="SHELL", type=_no_shtab, help=argparse.SUPPRESS)
    else:
        shtab.add_argument_to(parser)


def _no_shtab(shell: str) -> None:
    raise argparse.ArgumentTypeError(f"completion for {shell} is made by shtab: pip install 'hf-dlc[completion]'.")
