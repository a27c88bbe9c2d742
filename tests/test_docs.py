"""The code in README and docstrings: what needs no Hub, GPU or second node is run, all else is parsed."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

import hf_dlc
from hf_dlc import DLCConfig, DLCScorer, FlexRandSelector, cli
from hf_dlc.arguments import PruneArguments
from hf_dlc.config import parse_config_and_args
from tests.conftest import ALPACA_ROWS, ROOT


sys.path.insert(0, str(ROOT / "recipes"))  # as for a recipe that is run as a script

import benchmark_scoring
import check_image_scores
import compare_selectors
import finetune_images
import finetune_lora
import prune_images


MODULES = sorted(name for _, name, _ in pkgutil.walk_packages(hf_dlc.__path__, "hf_dlc.") if name != "hf_dlc.__main__")


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


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for owner, text in documented(module):
        for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            names: dict[str, Any] = dict(vars(module))
            test = doctest.DocTestParser().get_doctest(block, names, f"{name}.{owner}", None, None)
            ast.parse("".join(example.source for example in test.examples))
            runner.run(test)
    assert runner.failures == 0, capsys.readouterr().out


# ---- README ------------------------------------------------------------------------------------------------------


README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
PYTHON = [text for language, text in BLOCKS if language == "python"]
SHELL = [text for language, text in BLOCKS if language == "bash"]
NEEDS_HUB = ('load_dataset("yahma/', "facebook/dinov2", "push_", "load_scores(")
SMALLER = {"10_000": "3", "2_000_000": "60"}
OPTIONS = {
    "recipes/prune_alpaca.py": [PruneArguments, DLCConfig],
    "recipes/prune_images.py": [prune_images.ImageRecipeArguments, DLCConfig],
    "recipes/finetune_lora.py": [finetune_lora.FinetuneArguments, DLCConfig],
    "recipes/finetune_images.py": [finetune_images.FinetuneArguments],
    "recipes/compare_selectors.py": [compare_selectors.StudyArguments, DLCConfig],
    "recipes/check_image_scores.py": [check_image_scores.CheckArguments, DLCConfig],
    "recipes/benchmark_scoring.py": [benchmark_scoring.BenchmarkArguments],
    **{f"hf-dlc {name}": [*command.arguments, cli.OutputArguments] for name, command in cli.COMMANDS.items()},
}


def test_all_languages_are_known() -> None:
    assert {language for language, _ in BLOCKS} == {"python", "bash"}
    assert all(SMALLER_TEXT in "".join(PYTHON) for SMALLER_TEXT in SMALLER)


@pytest.mark.parametrize("text", PYTHON)
def test_python_of_readme(text: str, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ast.parse(text)
    if any(word in text for word in NEEDS_HUB):
        return
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "model").symlink_to(llama_folder)
    monkeypatch.chdir(tmp_path)
    rows = [{**row, "source": "a" if i % 2 else "b"} for i, row in enumerate(ALPACA_ROWS)]
    scorer = DLCScorer.from_pretrained("path/to/model", schedule="0, 0.2", keep_levels=True)
    scored = scorer.score(Dataset.from_list(rows))
    selector = FlexRandSelector(keep=0.5)
    is_kept = np.isin(np.arange(len(scored)), selector.read_indices(scored))
    names = {name: getattr(hf_dlc, name) for name in hf_dlc.__all__}
    names |= {"scorer": scorer, "scored": scored, "pruned": selector(scored), "is_kept": is_kept}
    for words, fewer in SMALLER.items():
        text = text.replace(words, fewer)
    exec(compile(text, "README.md", "exec"), names)


@pytest.mark.parametrize("text", SHELL)
def test_shell_of_readme(text: str) -> None:
    """Bash understands it, and our programs know the options."""
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    for line in text.replace("\\\n", " ").splitlines():
        check_options(line)


@pytest.mark.parametrize("line", re.findall(r"`((?:accelerate|ACCELERATE|python|torchrun|hf-dlc) [^`]+)`", README))
def test_commands_in_the_text_of_readme(line: str) -> None:
    check_options(line)


def check_options(line: str) -> None:
    words = shlex.split(line, comments=True)
    for program, types in OPTIONS.items():
        first, *rest = program.split()
        if first in words and words[words.index(first) + 1 :][: len(rest)] == rest:
            arguments = words[words.index(first) + 1 + len(rest) :]
            arguments = arguments[: arguments.index("&&")] if "&&" in arguments else arguments
            if not {"...", "--help"} & set(arguments):
                parse_config_and_args(types, arguments)
