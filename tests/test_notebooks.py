"""The code of every notebook runs, on the demo's own data and model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT, run_python


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code_of(path: Path) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path: Path, smollm2_path: Path) -> None:
    code = code_of(path).replace("demo_model()", repr(str(smollm2_path))).replace("range(64)", "range(12)")
    done = run_python(f"import os; os.chdir({str(path.parent)!r})\n{code}\nprint(len(pruned))", timeout=300)
    assert done.stdout.split()[-1] == "6", done.stderr
