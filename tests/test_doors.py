"""The doors between the rooms of the package: which room may import which, and what no file may do."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import hf_dlc


HOME = Path(hf_dlc.__file__).parent

# A room may import what stands on a lower floor: nothing of a floor above, and nothing of its neighbours.
FLOORS = (
    {"config", "errors"},
    {"utils"},
    {"scores"},
    {"selection"},
    {"tasks", "masking"},
    {"execution"},
    {"scorer", "report"},
    {"pipeline"},
    {"hub"},
    {"study"},
    {"cli"},
)
# Rooms that see less than all that is below them.
SEEN = {
    "report": {"errors", "scores", "utils"},
    "execution": {"errors", "scores", "tasks", "utils"},
}
ROOMS_WITH_CONFIG = {"config", "scorer", "pipeline", "hub", "study", "cli"}
KINDS = {"text", "vision"}  # of tasks: each a room within a room
SEEN_OF_TASKS = {f"hf_dlc.tasks.{name}" for name in ("base", "batch_rules", "facts", "reading")}  # by the engine


def name_of(file: Path) -> str:
    """Dotted name of the module in a file."""
    parts = file.relative_to(HOME.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(file): file for file in sorted(HOME.rglob("*.py"))}
TREES = {module: ast.parse(file.read_text(encoding="utf-8")) for module, file in FILES.items()}


def room_of(module: str) -> str:
    """Room that a module is in; empty for the package itself, whose public names are of all rooms."""
    return module.split(".")[1] if "." in module else ""


def kind_of(module: str) -> str | None:
    """Kind of tasks that a module is about, if it is about one."""
    parts = module.split(".")
    return parts[2] if parts[1:2] == ["tasks"] and len(parts) > 2 and parts[2] in KINDS else None


def imports_of(module: str) -> Iterator[tuple[str, str]]:
    """Each module of ours that a module imports from, and the name, also where this is lazy or for types only."""
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            found = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(filter(None, (start, node.module)))
            full = [(f"{base}.{alias.name}", alias.name) for alias in node.names]
            found = [(path, "") if path in FILES else (base, name) for path, name in full]
        else:
            continue
        yield from ((path, name) for path, name in found if path.split(".")[0] == "hf_dlc")


IMPORTS = [(module, *found) for module in FILES for found in imports_of(module)]
# What a file needs of ours. The version stands above all imports of the package, which has no others but for types.
NEEDS = {
    module: {
        path for importer, path, name in IMPORTS if importer == module and (path, name) != ("hf_dlc", "__version__")
    }
    for module in FILES
    if module != "hf_dlc"
}


def outside_imports(module: str) -> Iterator[tuple[str, bool]]:
    """Each package of others that a module imports, and whether it does so on being imported itself."""
    todo: list[tuple[ast.AST, bool]] = [(TREES[module], True)]
    while todo:
        node, at_once = todo.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0], at_once
        is_for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        at_once = at_once and not is_for_types and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        todo += [(child, at_once) for child in ast.iter_child_nodes(node)]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names(module: str) -> set[str]:
    """Names of functions, classes, variables and members that a file defines for itself."""
    found = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return set(filter(is_private, found))


def test_imports_of_the_package_are_found() -> None:
    assert ("hf_dlc.scores.table", "hf_dlc.scores.base", "Score") in IMPORTS
    assert ("hf_dlc.scorer.pretrained", "hf_dlc.config", "DLCConfig") in IMPORTS
    assert ("hf_dlc", "hf_dlc.config", "DLCConfig") in IMPORTS  # for types only
    assert ("hf_dlc.scorer.saving", "hf_dlc.utils.hub_commits", "push_folder") in IMPORTS  # lazy
    assert ("hf_dlc.utils.versions", "hf_dlc", "__version__") in IMPORTS


def test_imports_go_down() -> None:
    floors = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    assert {room_of(module) for module in FILES} - {""} <= floors.keys()
    wrong = []
    for module, path, name in IMPORTS:
        room, other = room_of(module), room_of(path)
        if room in ("", other) or (path, name) == ("hf_dlc", "__version__"):
            continue
        if other == "" or floors[other] >= floors[room] or other not in SEEN.get(room, floors):
            wrong.append(f"{module} imports {path}.{name}")
    assert not wrong


def test_imports_go_in_no_circle() -> None:
    """Of files, also where an import is lazy or for types only: what needs each other belongs together."""
    try:
        TopologicalSorter(NEEDS).prepare()
    except CycleError as error:
        pytest.fail(f"these files import each other: {' <- '.join(error.args[1])}")


def test_kinds_of_tasks_know_neither_each_other_nor_are_known_to_the_engine() -> None:
    assert {kind_of(module) for module in FILES} == {None, *KINDS}
    wrong = []
    for module, path, _ in IMPORTS:
        is_of_other_kind = kind_of(path) and kind_of(module) not in (None, kind_of(path))
        is_unseen = room_of(module) == "execution" and room_of(path) == "tasks" and path not in SEEN_OF_TASKS
        if is_of_other_kind or is_unseen:
            wrong.append(f"{module} imports {path}")
    assert not wrong


def test_only_upper_rooms_see_the_config() -> None:
    """A schedule is a value that scorers hand around; the module holds the options with it."""
    seen_by = {
        room_of(module)
        for module, path, name in IMPORTS
        if name == "DLCConfig" or (path == "hf_dlc.config" and name != "MaskSchedule")
    }
    assert seen_by - {""} <= ROOMS_WITH_CONFIG


def test_scores_and_selectors_need_no_torch() -> None:
    modules = [module for module in FILES if room_of(module) in ("scores", "selection")]
    program = "\n".join([*(f"import {module}" for module in modules), "import sys", "print(*sys.modules)"])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = done.stdout.split()
    assert "hf_dlc.selection.flexrand" in imported
    assert not {"torch", "transformers"}.intersection(imported)


def test_scores_and_selectors_need_numpy_only() -> None:
    """They and what they need of ours; inside of functions they may ask for what columns and clusters are made by."""
    todo = [module for module in FILES if room_of(module) in ("scores", "selection")]
    needed: set[str] = set()
    while todo:
        module = todo.pop()
        todo += NEEDS[module] - needed
        needed.add(module)
    assert {"hf_dlc.scores.columns", "hf_dlc.utils.share"} <= needed
    found = {(module, *found) for module in needed for found in outside_imports(module)}
    assert ("hf_dlc.scores.columns", "datasets", False) in found
    free = {*sys.stdlib_module_names, "hf_dlc", "numpy"}
    lazily = {(name, False) for name in ("datasets", "pyarrow", "sklearn", "threadpoolctl", "bm25s", "xxhash")}
    assert not [one for one in found if one[1] not in free and one[1:] not in lazily]


def test_private_names_stay_in_their_files() -> None:
    """Where several files have a private name, each may take it of its own objects only, by `self` and the like."""
    own = {module: private_names(module) for module in FILES}
    owners = Counter(itertools.chain(*own.values()))
    assert len(owners) > 100
    wrong = [
        f"{module} imports {path}.{name}"
        for module, path, name in IMPORTS
        if any(map(is_private, [*path.split("."), name]))
    ]
    for module, tree in TREES.items():
        own_objects = {"self", "cls", "super()", *made_by_classmethods(tree)}
        for node, value, name in attributes_in(tree):
            is_own = name in own[module] and (owners[name] == 1 or value in own_objects)
            if name in owners and not is_own:
                wrong.append(f"{module}, line {node.lineno}: {ast.unparse(node)}")
    assert not wrong


def made_by_classmethods(tree: ast.AST) -> Iterator[str]:
    """Names of objects that the class methods of a file make of their own class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "cls":
            yield from map(ast.unparse, node.targets)


def attributes_in(tree: ast.AST) -> Iterator[tuple[ast.expr, str, str]]:
    """Each attribute that is taken of a value, also by `getattr` and its like: the place, the value and the name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node, ast.unparse(node.value), node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr", "delattr"):
            value, name = node.args[:2]
            if isinstance(name, ast.Constant):
                yield node, ast.unparse(value), name.value


def test_nothing_is_imported_by_its_name() -> None:
    """These doors would not see it. The package itself finds its public names in this way."""
    loaders = {"import_module", "__import__", "importlib", "importlib.util"}
    wrong = []
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import | ast.ImportFrom) else set()
            names |= {node.id} if isinstance(node, ast.Name) else set()
            if names & loaders and module != "hf_dlc":
                wrong.append(f"{module}, line {node.lineno}: {ast.unparse(node)}")
    assert not wrong


def test_no_name_of_a_module_decides_behaviour() -> None:
    """Who asks where an error comes from, or imports by name round these doors, has such a name as text."""
    name = re.compile(rf"hf_dlc\.(({'|'.join(set().union(*FLOORS))})\b[\w.]*)?")
    wrong = []
    for module, tree in TREES.items():
        rows = [node.elts for node in ast.walk(tree) if isinstance(node, ast.List | ast.Tuple)]
        started = [two for row in rows for one, two in itertools.pairwise(row) if ast.unparse(one) == "'-m'"]
        wrong += [
            f"{module}, line {node.lineno}: {node.value}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and name.fullmatch(str(node.value)) and node not in started
        ]
    assert not wrong
