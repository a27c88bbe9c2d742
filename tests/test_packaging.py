"""What an installation gets, and what importing it costs."""

from __future__ import annotations

import ast
import configparser
import fnmatch
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hf_dlc
from tests.conftest import ROOT, SCORING, run_python
from tests.rows import SCORED_ROWS, write_rows


PACKAGE = ROOT / "hf_dlc"
EXTRAS = ("bm25s", "evaluate", "matplotlib", "peft", "sentence_transformers", "shtab", "trl")


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def data_files() -> list[str]:
    """Everything in the package that is not Python, relative to it."""
    found = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*") if path.is_file()]
    return [name for name in found if "__pycache__" not in name and not name.endswith(".py")]


def test_version_is_written_once_in_two_places(pyproject: dict[str, Any]) -> None:
    assert hf_dlc.__version__ == pyproject["project"]["version"]


def test_setup_cfg_has_only_what_cannot_live_in_pyproject() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    assert config.sections()
    movable = re.compile(r"metadata|options(\..*)?|tool:.*|coverage:.*|isort|mypy.*|bdist_wheel|egg_info")
    assert [section for section in config.sections() if movable.fullmatch(section)] == []


def test_data_files_are_listed(pyproject: dict[str, Any], data_files: list[str]) -> None:
    patterns = pyproject["tool"]["setuptools"]["package-data"]["hf_dlc"]
    assert {"py.typed", "data/probe.jsonl", "tasks/text/templates/chatml.jinja"} <= set(data_files)
    forgotten = [name for name in data_files if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    assert forgotten == []


def test_data_files_are_found_as_resources() -> None:
    package = files("hf_dlc")
    assert (package / "py.typed").is_file()
    assert (package / "data" / "probe.jsonl").read_text(encoding="utf-8").startswith("{")
    folder = package / "tasks" / "text" / "templates"
    templates = [entry.name for entry in folder.iterdir()]
    assert sorted(templates) == sorted(
        path.name for path in (PACKAGE / "tasks" / "text" / "templates").glob("*.jinja")
    )
    assert templates


def test_wheel_holds_the_package_and_nothing_else(tmp_path: Path, data_files: list[str]) -> None:
    pytest.importorskip("setuptools", minversion="77", reason="builds a wheel with the installed setuptools")
    source = tmp_path / "source"
    source.mkdir()
    for folder in ("hf_dlc", "recipes"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=source, check=True, capture_output=True, timeout=90
    )
    [wheel] = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = [path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py")]
    assert {f"hf_dlc/{name}" for name in data_files} | set(modules) <= names
    assert {name.split("/")[0] for name in names} == {"hf_dlc", f"hf_dlc-{hf_dlc.__version__}.dist-info"}


def test_import_is_light() -> None:
    code = "import sys, hf_dlc; print(sorted({'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)))"
    assert run_python(code).stdout.strip() == "[]"


def test_public_names_resolve() -> None:
    assert len(hf_dlc.__all__) == len(set(hf_dlc.__all__))
    assert [name for name in hf_dlc.__all__ if not hasattr(hf_dlc, name)] == []
    assert set(hf_dlc.__all__) <= set(dir(hf_dlc))


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = hf_dlc.no_such_name


def test_library_never_prints() -> None:
    printing = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "cli"  # whose output is what it is for
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "pprint")
    ]
    assert printing == []


def test_what_the_package_imports_is_declared(pyproject: dict[str, Any]) -> None:
    project = pyproject["project"]
    extras = [
        line
        for name in set(project["optional-dependencies"]) - {"test"}
        for line in project["optional-dependencies"][name]
    ]
    declared = {canonicalize_name(Requirement(line).name) for line in [*project["dependencies"], *extras]}
    packages = packages_distributions()
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in PACKAGE.rglob("*.py")
        for name in imported_names(path) - sys.stdlib_module_names - {"hf_dlc"}
        if not declared & {canonicalize_name(package) for package in packages.get(name, [name])}  # lm_eval: not here
    }
    assert missing == set()


def test_scoring_and_selecting_do_without_extras(tmp_path: Path, llama_folder: Path) -> None:
    """What is imported on the way from rows to a subset is there after `pip install hf-dlc`."""
    rows = write_rows(tmp_path / "rows.jsonl", SCORED_ROWS)
    code = f"""
        import importlib.metadata
        import sys

        def version(name, known=importlib.metadata.version):
            if name in {EXTRAS!r}:
                raise importlib.metadata.PackageNotFoundError(name)
            return known(name)

        importlib.metadata.version = version
        for name in {EXTRAS!r}:
            sys.modules[name] = None  # as if it were not installed
        from hf_dlc.cli.__main__ import main
        sys.argv = ["hf-dlc", "score", "--dataset", {str(rows)!r}, "--model", {str(llama_folder)!r}, "--output-dir",
                    {str(tmp_path / "run")!r}, *{SCORING!r}]
        main()
        sys.argv = ["hf-dlc", "estimate", "--dataset", {str(rows)!r}, "--model", {str(llama_folder)!r}]
        main()
        sys.argv = ["hf-dlc", "select", "--run-dir", {str(tmp_path / "run")!r}, "--output-dir",
                    {str(tmp_path / "kept")!r}, "--selector", "random", "--keep", "0.5"]
        main()
        sys.argv = ["hf-dlc", "--print-completion", "bash"]
        try:
            main()
        except SystemExit as error:
            assert error.code == 2
    """
    ran = run_python(dedent(code))
    assert "is not known: LoRA adapters are trained with PEFT: pip install 'hf-dlc[train]'" in ran.stdout
    assert (tmp_path / "kept" / "manifest.json").is_file()
    assert "completion for bash is made by shtab: pip install 'hf-dlc[completion]'." in ran.stderr


def imported_names(path: Path) -> set[str]:
    """First part of every absolute import, wherever in the file it stands."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    named = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0]
    return {name.partition(".")[0] for name in plain + named}


def test_constraints_pin_every_direct_dependency(pyproject: dict[str, Any]) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]
    versions = {canonicalize_name(pin.name): pin for pin in pins}
    assert len(versions) == len(pins)
    project = pyproject["project"]
    direct = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    for requirement in map(Requirement, direct):
        pin = versions.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement.name} is not pinned"
        [specifier] = pin.specifier
        assert specifier.operator == "=="
        assert requirement.specifier.contains(specifier.version), f"{pin} does not satisfy {requirement}"


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / name for name in ("README.md", "CHANGELOG.md", "recipes/README.md", "recipes/studies/README.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))]
    inner = [(page, *link.partition("#")[::2]) for page, link in links if not link.startswith("https://")]
    assert len(inner) > 20
    assert [link for page, link, _ in inner if not (page.parent / link).exists()] == []
    anchors = [(page.parent / link if link else page, anchor) for page, link, anchor in inner if anchor]
    assert [anchor for page, anchor in anchors if anchor not in headings(page)] == []


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_badges_say_what_pyproject_says(pyproject: dict[str, Any]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    badges = dict(re.findall(r"https://img\.shields\.io/badge/(\w+)-(.+?)-blue\)", readme))
    project = pyproject["project"]
    assert {name: unquote(text).replace("--", "-").replace("≥", ">=") for name, text in badges.items()} == {
        "license": project["license"],
        "python": project["requires-python"],
    }
    assert readme.count("https://img.shields.io") == len(badges)  # none that says something else


def test_modules_that_the_pages_name_are_there() -> None:
    pages = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "recipes/README.md")}
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    pages["CHANGELOG.md"] = "".join(re.findall(r"^\| .* \|( .* )\|$", changelog, re.MULTILINE))  # not the old names
    named = {(page, name) for page, text in pages.items() for name in re.findall(r"\bhf_dlc(?:\.\w+)+", text)}
    assert len(named) > 20
    assert [(page, name) for page, name in sorted(named) if find_spec(name) is None] == []


def test_the_handbook_names_every_folder_and_no_other() -> None:
    readme = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    table = readme.partition("| folder | job |\n|---|---|\n")[2].partition("\n\n")[0]
    named = {name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert named == {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def test_ci_runs_the_gate_and_may_do_nothing_else(pyproject: dict[str, Any]) -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    workflow = yaml.load(text, yaml.BaseLoader)  # in YAML 1.1, the key `on` is a truth value
    assert set(workflow["on"]) == {"push", "pull_request"}
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] == "true"
    [job] = workflow["jobs"].values()
    assert "permissions" not in job
    assert "secrets." not in text
    assert int(job["timeout-minutes"]) <= 45
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    uses = [step["uses"] for step in job["steps"] if "uses" in step]
    assert re.findall(r"uses: (\S+@[0-9a-f]{40}) # v\d+\.\d+\.\d+$", text, re.MULTILINE) == uses != []
    [python] = [step["with"]["python-version"] for step in job["steps"] if "python-version" in step.get("with", {})]
    assert pyproject["project"]["requires-python"] == f">={python}"
