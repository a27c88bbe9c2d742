"""
Run the code in README, handbook and docstrings, in a folder and with a Hub that have what it names.

The Hub is a stand-in that has tiny models under the names of real ones. What needs several devices or nodes, or what
cannot be installed for the tests, is parsed, and its options are checked.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import os
import pkgutil
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers
from datasets import load_dataset
from huggingface_hub import HfApi
from PIL import Image

import hf_dlc
from hf_dlc import DLCConfig, DLCScorer, FlexRandSelector
from hf_dlc.cli import commands as cli
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.pipeline import demo
from hf_dlc.pipeline.choosing import choose_selector
from hf_dlc.pipeline.options import PruneArguments, SelectionArguments
from hf_dlc.scores import columns
from hf_dlc.scores.columns import score_features
from hf_dlc.scores.table import DEFAULT_SCORES, SCORES
from hf_dlc.study.arms import METRICS, parse_arm
from hf_dlc.study.benchmark.options import BenchmarkArguments
from hf_dlc.study.image_checks import CheckArguments
from hf_dlc.study.image_study import ImageStudyArguments
from hf_dlc.study.options import FinetuneArguments, StudyArguments
from hf_dlc.study.premise import Foretelling, PremiseArguments, premise_table
from hf_dlc.study.statistics import compare_overall
from hf_dlc.study.tiers import TiersArguments
from hf_dlc.study.verdict import verdict
from hf_dlc.study.wrong_rows import WrongRowsArguments
from recipes import (
    check_image_scores,
    check_premise,
    compare_selectors,
    compare_tiers,
    extrapolation_curve,
    find_wrong_rows,
    finetune_images,
    finetune_lora,
    prune_alpaca,
    prune_images,
)
from recipes.prune_images import ImageRecipeArguments
from tests.conftest import ROOT
from tests.hub.hub_server import HubServer
from tests.rows import ALPACA_ROWS, json_lines
from tests.test_doors import FLOORS


MODULES = sorted(name for _, name, _ in pkgutil.walk_packages(hf_dlc.__path__, "hf_dlc."))
README, HANDBOOK, STUDIES = "README.md", "recipes/README.md", "recipes/studies/README.md"
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in (README, HANDBOOK, STUDIES, "recipes/studies/swapped_responses.md")
}
BLOCKS = [
    (page, language, block)
    for page, text in PAGES.items()
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
]


def blocks(language: str, *pages: str) -> list[str]:
    return [block for page, found, block in BLOCKS if found == language and page in pages]


SMALLER = {"keep=500": "keep=3"}  # as many rows as there are here
ROWS = [{**row, "output": f"{row['output']} {i}", "source": "ab"[i % 2]} for i, row in enumerate(ALPACA_ROWS * 4)]


class World(NamedTuple):
    """What the examples take for granted."""

    folder: Path
    server: HubServer
    names: dict[str, Any]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, taught_folder: Path) -> Iterator[World]:
    """A working directory with the files that the examples name, a Hub with the repositories, and what they call."""
    folder = tmp_path_factory.mktemp("world")
    lines = json_lines(ROWS)
    for name in ("rows.jsonl", "held_out.jsonl", "pool.jsonl"):
        (folder / name).write_text(lines, encoding="utf-8")
    wanted = [{**row, "output": f"{row['output']} again"} for row in ROWS[:4]]  # half of them are measured by
    (folder / "wanted.jsonl").write_text(json_lines(wanted), encoding="utf-8")
    for name in ("recipes", "constraints.txt"):
        (folder / name).symlink_to(ROOT / name)
    write_photos(folder / "photos")
    write_vit(folder / "path" / "to" / "vit")
    (folder / "path" / "to" / "model").symlink_to(taught_folder)
    with HubServer() as server, pytest.MonkeyPatch.context() as patch:
        server.serve_clients(patch, tmp_path_factory.mktemp("home"))
        patch.chdir(folder)
        server.add_repo(f"models/{demo.HUB_ID}", files_in(taught_folder))
        server.add_repo("models/facebook/dinov2-small", files_in(folder / "path" / "to" / "vit"))
        server.add_repo("datasets/yahma/alpaca-cleaned", {"train.jsonl": lines.encode()})
        card = "---\nconfigs:\n- config_name: main\n  data_files: wanted.jsonl\n---\n"
        files = {"README.md": card.encode(), "wanted.jsonl": (folder / "wanted.jsonl").read_bytes()}
        server.add_repo("datasets/openai/gsm8k", files)
        yield World(folder, server, objects())


def write_photos(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for part, kind, number in (
        (part, kind, i) for part in ("train", "validation") for kind in "ab" for i in range(10)
    ):
        path = folder / part / kind / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 100 if kind == "a" else 255, (24, 24, 3)).astype(np.uint8)).save(path)


def write_vit(folder: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 24, "patch_size": 8}
    transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 24, "width": 24}).save_pretrained(folder)


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def objects() -> dict[str, Any]:
    """What an example does not make but take from the text around it."""
    dataset = load_dataset("json", data_files="rows.jsonl", split="train")
    scorer = DLCScorer.from_pretrained("path/to/model", schedule="0, 0.2", keep_levels=True)
    scored, selector = scorer.score(dataset), FlexRandSelector(keep=0.5)
    is_kept = np.isin(np.arange(len(scored)), selector.read_indices(scored))
    names = {name: getattr(hf_dlc, name) for name in hf_dlc.__all__}
    known = {"load_dataset": load_dataset, "model": scorer.model, "tokenizer": scorer.processor, "is_kept": is_kept}
    pruned = selector(scored)
    return {**names, **known, "dataset": dataset, "scorer": scorer, "scored": scored, "pruned": pruned}


# ---- docstrings --------------------------------------------------------------------------------------------------


def documented(module: ModuleType) -> Iterator[tuple[str, str]]:
    """Names and docstrings of what a module defines, methods included."""
    yield module.__name__, inspect.getdoc(module) or ""
    for name, thing in vars(module).items():
        if getattr(thing, "__module__", None) != module.__name__:
            continue
        yield name, inspect.getdoc(thing) or ""
        for method_name, method in vars(thing).items() if inspect.isclass(thing) else ():
            function = method.__func__ if isinstance(method, classmethod | staticmethod) else method
            if inspect.isfunction(function):
                yield f"{name}.{method_name}", inspect.getdoc(function) or ""


EXAMPLES = [
    pytest.param(name, block, id=f"{name}.{owner}")
    for name in MODULES
    for owner, text in documented(importlib.import_module(name))
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
]


def test_no_example_is_skipped() -> None:
    assert len(EXAMPLES) >= 30
    assert not [block for _, block in (example.values for example in EXAMPLES) if "SKIP" in block]


@pytest.mark.parametrize(("name", "block"), EXAMPLES)
def test_example_in_docstring(name: str, block: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    names = {**vars(importlib.import_module(name)), **world.names}
    block = block.replace("https://huggingface.co", world.server.url)
    test = doctest.DocTestParser().get_doctest(block, names, name, None, None)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert runner.run(test).failed == 0, capsys.readouterr().out


# ---- README and the pages of recipes/ -----------------------------------------------------------------------------


RECIPES = {
    "recipes/prune_alpaca.py": prune_alpaca.main,
    "recipes/prune_images.py": prune_images.main,
    "recipes/finetune_lora.py": finetune_lora.main,
    "recipes/finetune_images.py": finetune_images.main,
    "recipes/compare_selectors.py": compare_selectors.main,
    "recipes/check_image_scores.py": check_image_scores.main,
    "recipes/extrapolation_curve.py": extrapolation_curve.main,
    "recipes/find_wrong_rows.py": find_wrong_rows.main,
    "recipes/compare_tiers.py": compare_tiers.main,
    "recipes/check_premise.py": check_premise.main,
}
PROGRAMS = {**RECIPES, "hf-dlc": cli.main}
OPTIONS = {
    "recipes/prune_alpaca.py": [PruneArguments, DLCConfig],
    "recipes/prune_images.py": [ImageRecipeArguments, DLCConfig],
    "recipes/finetune_lora.py": [FinetuneArguments, DLCConfig],
    "recipes/finetune_images.py": [ImageStudyArguments],
    "recipes/compare_selectors.py": [StudyArguments, DLCConfig],
    "recipes/check_image_scores.py": [CheckArguments, DLCConfig],
    "recipes/extrapolation_curve.py": [extrapolation_curve.CurveArguments, DLCConfig],
    "recipes/find_wrong_rows.py": [WrongRowsArguments, DLCConfig],
    "recipes/compare_tiers.py": [TiersArguments, DLCConfig],
    "recipes/check_premise.py": [PremiseArguments, DLCConfig],
    "recipes/benchmark_scoring.py": [BenchmarkArguments],
    **{f"hf-dlc {name}": [*command.arguments, cli.OutputArguments] for name, command in cli.COMMANDS.items()},
}
# What makes the commands fit for tiny models and few rows.
QUICK = {
    "recipes/prune_alpaca.py": "--max_rows 20",
    "recipes/finetune_lora.py": "--num_threads 1",
    "recipes/compare_selectors.py": "--pool_rows 12 --longest_row 500 --seeds 2 --budgets 0.5 --lora_layers 1 "
    "--matchings rows --arms longest --num_finalists 1",
    "study": "--lora_layers 1 --arms longest --num_finalists 1 --seeds 2 --budgets 0.5 --num_threads 1",
    "recipes/finetune_images.py": "--seeds 2",
    "recipes/check_image_scores.py": "--rounds 1",
    "recipes/extrapolation_curve.py": "--shares 0.5 --draws 1",
    "recipes/find_wrong_rows.py": "--rows 20",
    "recipes/compare_tiers.py": "--share 0.5",
    "recipes/check_premise.py": "--rows 12 --epochs 2",
}
# They take what they need from the Hub or from a run.
ASKS_FOR_NOTHING = {"recipes/finetune_images.py", "recipes/benchmark_scoring.py"}
# Scripts that have no options, with the number of the paths that they take.
SCRIPTS = {"recipes/studies/make_pools.py": 2}
# A cluster; lm-evaluation-harness, and its installation; these tests.
NOT_RUN = ("#SBATCH", "recipes/benchmark_scoring.py", "&& pytest")


def test_readme_tells_what_came_out_of_the_studies() -> None:
    """Tables and verdicts stand there word for word, and the README promises no more than they say."""
    studies = [path.read_text(encoding="utf-8") for path in (ROOT / "recipes" / "studies").glob("*/study.md")]
    told = [
        line
        for line in PAGES[STUDIES].splitlines()
        if re.match(r"\| (rows|tokens|updates) \||- .* (than|from) random (over|at) |All rows: .* ± ", line)
    ]
    assert len(told) > 20
    assert [line for line in told if line not in "".join(studies)] == []
    promise = "no choice by it beat equally many random rows in both losses, and some were worse."
    assert promise in " ".join(PAGES[README].split())
    by_dlc = rf"^- ((?:{'|'.join(DEFAULT_SCORES)}) .*?) is %s than random "
    assert any(re.search(by_dlc % "worse", study, re.MULTILINE) for study in studies)
    for study in studies:
        parts = re.split(r"^## (?:Comparisons|Verdicts) by loss per (?:row|token)$", study, flags=re.MULTILINE)[-2:]
        overall = [set(re.findall(by_dlc % "better", part, re.MULTILINE)) for part in parts]
        at_a_budget = [{place for place in _starred(part) if place[1].startswith(DEFAULT_SCORES)} for part in parts]
        assert not overall[0] & overall[1]
        assert not at_a_budget[0] & at_a_budget[1]


def _starred(text: str) -> set[tuple[str, str, int]]:
    """Where a table of comparisons tells a lower loss from chance: what is equal, the arm, and the budget's place."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]
    return {
        (row[0], row[1], place)
        for row in rows
        for place, cell in enumerate(row)
        if cell.startswith("-") and cell.endswith("*")
    }


def test_tables_are_read_for_their_stars() -> None:
    text = (ROOT / "recipes" / "studies" / "gsm8k" / "study.md").read_text(encoding="utf-8")
    assert len(_starred(text)) > 10


def test_a_selection_that_was_left_open_tells_no_more_than_the_studies() -> None:
    """What `choose_selector` says of scores and of equal parts is what the records say where no rows are wanted."""
    page = runpy.run_path(str(ROOT / "recipes" / "studies" / "when_it_pays.py"))
    found = page["read"](ROOT / "recipes" / "studies")
    _, why = choose_selector(SelectionArguments(group_by="source"), {"loss": 9}, has_features=False)
    assert "No choice by confidence, loss or gain beat random rows by the loss per row and per token alike" in why
    assert "The easiest rows by similarity did, and by plain_loss, where the quality of responses varied." in why
    assert "pass --group-shares equal: it was better than random rows in our study of lopsided sources" in why
    assert [verdict(results).arm for results in found.pop("sources").values()] == ["balanced random"]
    del found["task"]
    assert len(found) == 2
    assert [label for label, results in found["wrong"].items() if verdict(results).arm == "similarity easiest"] == [
        "half improved by experts"
    ]
    for results in (study for studies in found.values() for study in studies.values()):
        better = [{one.arm for one in compare_overall(results, metric) if one.is_better} for metric in METRICS]
        by_score = {arm for arm in better[0] & better[1] if parse_arm(arm).ranked_by not in ("", "length")}
        assert by_score <= {"similarity easiest", "plain_loss easiest", "ifd cut 0.3", "prompt_gain cut 0.3"}
    _, why = choose_selector(SelectionArguments(), {"ifd": 9}, has_features=False)
    assert "such a cut had 0.6% less loss than random rows where 30% of the responses were wrong, and no less" in why
    thirty, ten = (
        {one.arm: one for one in compare_overall(found["wrong"][f"{share}% swapped"], METRICS[0])}
        for share in (30, 10)
    )
    assert {f"{thirty[f'{score} cut 0.3'].difference:.1f}" for score in ("ifd", "prompt_gain")} == {"-0.6"}
    assert all(thirty[f"{score} cut 0.3"].is_better for score in ("ifd", "prompt_gain"))
    assert not ten["prompt_gain cut 0.3"].is_better


def test_where_choosing_pays_is_told_as_it_was_measured() -> None:
    """The table is made anew of the records."""
    page = runpy.run_path(str(ROOT / "recipes" / "studies" / "when_it_pays.py"))
    table = page["pays_table"](page["read"](ROOT / "recipes" / "studies"))
    assert table in PAGES[README]
    assert table in PAGES[STUDIES]


def test_readme_tells_what_scoring_cost_and_where() -> None:
    """The ratios are those of the tiers, of the demo and of the earlier studies, each with its kind of training."""
    readme, table = " ".join(PAGES[README].split()), PAGES[STUDIES]
    tiers = ROOT / "recipes" / "studies" / "tiers"
    measured = json.loads((tiers / "tiers.json").read_text(encoding="utf-8"))
    ratios = {tier["name"]: f"{tier['measured'] / measured['training']:.2f}" for tier in measured["tiers"]}
    single, exact = ratios["single"], ratios["exact"]
    assert f"It cost {single} to {exact} of an epoch of LoRA at all layers" in table
    lines = [line for line in (tiers / "tiers.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert "\n".join(lines) in table
    assert f"Scoring cost {single} (one level) to {exact} (four) of an epoch of LoRA at all layers" in readme
    [demo] = re.findall(r"\(an STR of ([\d.]+ to [\d.]+), from run to run\)", PAGES[HANDBOOK])
    assert f", and {demo} in the demo." in readme
    for name in ("alpaca_2k", "gsm8k_train"):
        study = json.loads((ROOT / "recipes" / "studies" / name / "study.json").read_text(encoding="utf-8"))
        epochs = np.median([one["seconds"] for one in study["confirming"] if one["arm"] == "full"])
        ratio = study["scoring"]["seconds"] / (epochs / study["options"]["epochs"])
        assert f"an STR of {ratio:.2f}" in " ".join(table.split())


def test_the_graph_network_stands_beside_the_others_in_the_studies() -> None:
    """Of the same share, each number as it was measured."""
    names = {"measures": "measures of level 0", "gnn": "graph network", "knn": "nearest neighbours"}
    for folder in ("smollm2_gnn", "smollm2_one_share"):
        path = ROOT / "recipes" / "studies" / "extrapolation" / folder / "curve.json"
        lines = json.loads(path.read_text(encoding="utf-8"))["curve"]
        ways = dict.fromkeys((line["inputs"], line["method"]) for line in lines if "share" in line)
        for way in ways:
            numbers = [f"{line['predicted']:.3f}" for line in lines if (line["inputs"], line["method"]) == way]
            assert f"| {' | '.join([*(names.get(one, one) for one in way), *numbers])} |" in PAGES[STUDIES]


@pytest.mark.parametrize("kind", ["text", "images"])
def test_what_scores_foretell_stands_in_the_studies_as_it_was_measured(kind: str) -> None:
    folder = ROOT / "recipes" / "studies" / "premise" / kind
    measured = json.loads((folder / "premise.json").read_text(encoding="utf-8"))
    table = premise_table([Foretelling(**one) for one in measured["found"]])
    assert table in PAGES[STUDIES]
    assert table in (folder / "premise.md").read_text(encoding="utf-8")
    losses = ", ".join(f"{loss:.3f}" for loss in measured["mean_losses"])
    assert f"mean loss after each epoch is {losses}" in " ".join(PAGES[STUDIES].split())


def test_a_training_that_taught_little_is_told_as_well() -> None:
    path = ROOT / "recipes" / "studies" / "premise" / "images_whole" / "premise.json"
    measured = json.loads(path.read_text(encoding="utf-8"))
    loss = next(Foretelling(**one) for one in measured["found"] if one["score"] == "loss")
    page = " ".join(PAGES[STUDIES].split())
    assert loss.compared == "all rows"
    assert f"`loss` foretells that with {loss.spearman:.3f} ({loss.low:.3f} to {loss.high:.3f})" in page
    chance = np.log(10)
    told = f"after three epochs was {measured['mean_losses'][-1]:.3f}, and guessing among ten has {chance:.3f}"
    assert told in page


def test_the_handbook_names_all_columns_and_statuses() -> None:
    rows = [line.split("|") for line in PAGES[HANDBOOK].splitlines() if line[:1] == "|"]
    told = {name for _, first, *_ in rows for name in re.findall(r"`(\w+)`", first)}
    statuses = {value for name, value in vars(columns).items() if name.isupper() and isinstance(value, str)}
    assert statuses > columns.SCORED_STATUSES - columns.PARTLY_SCORED
    reasons = {status.removeprefix(columns.PARTLY) for status in columns.PARTLY_SCORED}
    assert {
        *score_features(keep_levels=True, scores=SCORES),
        *(statuses - columns.SCORED_STATUSES - {columns.PARTLY}),
        *reasons,
    } <= told


def test_the_handbook_lists_the_rooms_in_the_order_of_the_floors() -> None:
    floors = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    _, _, table = PAGES[HANDBOOK].partition("| folder | job |")
    rooms = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert set(rooms) == floors.keys() - {"config", "errors"}  # which are files
    assert [floors[room] for room in rooms] == sorted((floors[room] for room in rooms), reverse=True)


def test_all_languages_are_known() -> None:
    assert {language for _, language, _ in BLOCKS} == {"python", "bash", "bibtex"}
    assert all(text in "".join(blocks("python", README)) for text in SMALLER)
    assert [sum(words in text for text in blocks("bash", *PAGES)) for words in NOT_RUN] == [1, 1, 1]


def test_python_of_readme(world: World) -> None:
    """
    One block after the other, as a reader would type them into a new session; in the handbook, each block by itself.

    All names are those that the page imports or makes, but for a scored dataset in the handbook, which says so.
    """
    scored_by_cli = world.folder / "runs" / "mine"
    cli.main(["score", "--dataset", "rows.jsonl", "--model", "path/to/model", "--output_dir", str(scored_by_cli)])
    cli.main(["select", "--run_dir", str(scored_by_cli)])
    names: dict[str, Any] = {}
    for text in blocks("python", README):
        for words, fewer in SMALLER.items():
            text = text.replace(words, fewer)
        exec(compile(text, f"{README}: {text.splitlines()[0]}", "exec"), names)
    for text in blocks("python", HANDBOOK):
        exec(compile(text, f"{HANDBOOK}: {text.splitlines()[0]}", "exec"), {"scored": world.names["scored"]})
    assert "datasets/me/alpaca-half" in world.server.repos


@pytest.mark.slow
def test_shell_of_readme(world: World, tmp_path: Path) -> None:
    """All commands that can run here, in one folder; those of `hf-dlc` but the first in this process."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **world.server.environment(tmp_path), "PATH": path, "OMP_NUM_THREADS": "1"}
    nothing_has_run(world)
    programs = []
    for words in runnable(README):
        if words[0] == "hf-dlc" in programs:
            cli.main(words[1:])
        else:
            command = shlex.join(words)
            done = subprocess.run(
                ["bash", "-eux"], input=command, env=environment, cwd=world.folder, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr[-3000:]
        programs.append(words[0])
    assert programs == ["accelerate", *["hf-dlc"] * 7, "accelerate", "pdoc"]
    assert "datasets/me/alpaca-third" in world.server.repos
    api = world.folder / "runs" / "api"
    assert "push_pruned" in (api / "hf_dlc.html").read_text(encoding="utf-8")
    assert (api / "hf_dlc" / "report" / "measurements.html").is_file()


@pytest.mark.slow
def test_shell_of_handbook(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """All commands that can run here, in this process, which saves the loading of the libraries."""
    nothing_has_run(world)
    # The client's own function keeps the address of when it was imported: the demo would train a real model.
    monkeypatch.setattr(demo, "file_exists", HfApi(endpoint=world.server.url).file_exists)
    ran = set()
    for words in runnable(HANDBOOK):
        [program] = [program for program in PROGRAMS if program in words]
        PROGRAMS[program](words[words.index(program) + 1 :])
        ran.add(program)
    assert ran == set(PROGRAMS)


def nothing_has_run(world: World) -> None:
    shutil.rmtree(world.folder / "runs", ignore_errors=True)
    world.server.repos = {
        name: repo for name, repo in world.server.repos.items() if not name.startswith("datasets/me/")
    }


def runnable(page: str) -> list[list[str]]:
    """The commands of a page that can run here, without installations, on less."""
    texts = [text for text in blocks("bash", page) if not any(words in text for words in NOT_RUN)]
    commands = [shlex.split(line.rpartition(" && ")[2], comments=True) for text in texts for line in joined(text)]
    return [
        words + [option for program, more in QUICK.items() if program in words for option in more.split()]
        for words in commands
    ]


def joined(text: str) -> list[str]:
    return text.replace("\\\n", " ").splitlines()


@pytest.mark.parametrize("text", blocks("bash", *PAGES))
def test_shell_of_readme_is_understood(text: str) -> None:
    """Bash understands it, and our programs know the options."""
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    for line in joined(text):
        check_options(line)


@pytest.mark.parametrize(
    "line", re.findall(r"`((?:accelerate|ACCELERATE_\w+=\S+|python|torchrun|hf-dlc) [^`]+)`", "".join(PAGES.values()))
)
def test_commands_in_the_text_of_readme(line: str) -> None:
    check_options(line, is_whole=False)


def required_of(program: str) -> list[str]:
    """Options that a program asks for."""
    if program in RECIPES:
        return [] if program in ASKS_FOR_NOTHING else ["dataset"]
    command = cli.COMMANDS.get(program.removeprefix("hf-dlc "))
    return list(command.required) if command else []


@pytest.mark.parametrize("program", [name for name in RECIPES if required_of(name)])
def test_recipes_ask_for_rows(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        RECIPES[program]([])
    assert "--dataset is required: " in capsys.readouterr().err


def check_options(line: str, is_whole: bool = True) -> None:
    words = shlex.split(line, comments=True)
    for program, types in OPTIONS.items():
        first, *rest = program.split()
        if first in words and words[words.index(first) + 1 :][: len(rest)] == rest:
            arguments = words[words.index(first) + 1 + len(rest) :]
            arguments = arguments[: arguments.index("&&")] if "&&" in arguments else arguments
            if not {"...", "--help"} & set(arguments):
                parse_config_and_args(types, arguments, required=required_of(program) if is_whole else ())
            return
    scripts = [name for name in SCRIPTS if name in words]
    assert all(len(words) - words.index(name) - 1 == SCRIPTS[name] for name in scripts)
    ours = [word for word in words if (word.startswith("recipes/") or word == "hf-dlc") and word not in scripts]
    assert not ours or "--print-completion" in words, f"unknown program in {line!r}"
    modules = [name for name in words if name.split(".")[0] == "hf_dlc"]
    assert [name for name in modules if find_spec(name) is None] == []


def test_readme_is_short() -> None:
    assert len(PAGES[README].splitlines()) <= 200
    assert len(PAGES[README].encode()) <= 16_000
