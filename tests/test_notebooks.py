"""Every notebook runs in a kernel, made smaller, and stands in the repository with its outputs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests.conftest import ROOT


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# What is made smaller, and by what. Calibration of the same model is tested elsewhere.
SMALLER = {
    "range(64)": "range(12)",
    "range(64, 96)": "range(64, 68)",
    "demo_model(), keep_levels=True": 'demo_model(), keep_levels=True, schedule="0, 0.05"',
    "DLCConfig()": 'DLCConfig(schedule="0, 0.05")',
    "seeds=3": "seeds=1",
    " epochs=2,": " epochs=0.1,",
    'row["category"] in OTHERS)': 'row["category"] in OTHERS).select(range(24))',
    'row["instruction"] not in texts)': 'row["instruction"] not in texts).select(range(48))',
}
# What the last lines of each say if all went well.
EXPECTED = {
    "01_prune_instructions": "'without training'",
    "02_prune_images": "Axes",
    "03_does_it_help": "Image object",
    "04_choose_for_a_task": "cut a tenth by ifd, then random",
}
# The demo's model, which is fetched where it is not given: as a notebook calls it, and as it is called here.
DEMO_MODEL = {"demo_model()": "{!r}", "StudyArguments(": "StudyArguments(model={!r}, "}


def outputs(notebook: NotebookNode) -> Iterator[NotebookNode]:
    return (output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)


def test_all_notebooks_are_known() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(EXPECTED)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_committed_with_outputs(path: Path) -> None:
    """Of a run from top to bottom, without errors, noise or the places of a machine."""
    notebook = nbformat.read(path, 4)
    assert any("image/png" in output.get("data", {}) for output in outputs(notebook))
    assert (
        EXPECTED[path.stem]
        in notebook.cells[-1 if path.stem != "03_does_it_help" else -2].outputs[-1].data["text/plain"]
    )
    assert {output.output_type for output in outputs(notebook)} <= {"execute_result", "display_data", "stream"}
    text = "".join(
        str(output.get("data", {}).get("text/plain", "")) + output.get("text", "") for output in outputs(notebook)
    )
    assert not re.search(r"Warning|Traceback|/(home|root|tmp|work)/", text)


def test_the_study_that_is_shown_is_one_of_today() -> None:
    """Its words are those of the code that writes them."""
    notebook = nbformat.read(ROOT / "notebooks" / "03_does_it_help.ipynb", 4)
    shown = "".join(output.get("data", {}).get("text/markdown", "") for output in outputs(notebook))
    headings = re.findall(
        r'["\n](## [A-Z][^{"\\]*)', (ROOT / "hf_dlc" / "study" / "report.py").read_text(encoding="utf-8")
    )
    assert len(headings) == 5
    assert [text for text in headings if text not in shown and "Screening" not in text] == []
    assert "the power to see 1%" in shown
    source = "".join(cell.source for cell in notebook.cells)
    told = {"seeds": "with {} seeds", "epochs": " {} epochs,", "lora_layers": "last {} layers"}
    for option, words in told.items():
        assert words.format(re.search(rf" {option}=(\d+),", source)[1]) in shown


def test_what_is_made_smaller_is_there() -> None:
    sources = "".join(cell.source for path in NOTEBOOKS for cell in nbformat.read(path, 4).cells)
    assert [text for text in SMALLER if text not in sources] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    notebook = nbformat.read(path, 4)
    replaced = {**SMALLER, '"runs/': f'"{tmp_path}/'}
    for text, given in DEMO_MODEL.items():
        if any(text in cell.source for cell in notebook.cells):
            replaced[text] = given.format(
                str(request.getfixturevalue("smollm2_folder"))
            )  # skips where it is not there
    for cell in notebook.cells:
        for text, smaller in replaced.items():
            cell.source = cell.source.replace(text, smaller)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    )
    client.execute()
    found = [output.get("data", {}).get("text/plain", "") for output in outputs(notebook)]
    assert any(EXPECTED[path.stem] in text for text in found)
