"""The files of a run: the scores of all rows, the rows that were kept, and what is said of them."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset

from hf_dlc.report.report import PruneReport
from hf_dlc.utils.files import read_json, write_json

from .record import build_manifest
from .score_file import SCORES_NAME, Scores, ScoresError


if TYPE_CHECKING:
    from hf_dlc.selection.base import Selector

    from .options import ReportArguments

SCORING_NAME = "scoring.json"
MANIFEST_NAME = "manifest.json"


def write_scoring(folder: Path, scored: Dataset, scoring: dict[str, Any]) -> None:
    """
    Write the scores of all rows and how they came about.

    Args:
        folder (`Path`):
            Output folder of the run.
        scored ([`~datasets.Dataset`]):
            All rows with their scores, of every level.
        scoring (`dict`):
            What [`describe_scoring`] returned.
    """
    Scores.of(scored, scoring["scorer"]["config"]["prefix"], keep_levels=True).write(folder / SCORES_NAME)
    write_json(folder / SCORING_NAME, scoring)  # last: it tells that the scores are there


def read_scoring(folder: Path) -> tuple[Scores, dict[str, Any]]:
    """
    Inverse of `write_scoring`.

    Raises:
        ScoresError: If the folder is not that of a scoring that has ended.
    """
    try:
        scoring = json.loads((folder / SCORING_NAME).read_text(encoding="utf-8"))
        scoring["scorer"]["config"]["prefix"], scoring["dataset"]["name"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ScoresError(
            f"{folder} holds no finished scoring. Pass the output folder of one as --run_dir, or score first, with "
            f"--output_dir {folder}."
        ) from error
    return Scores.read(folder / SCORES_NAME), scoring


def write_subset(
    folder: Path,
    scored: Dataset,
    selector: Selector,
    scoring: dict[str, Any],
    shown: ReportArguments,
    run_dir: Path | None = None,
    **facts: Any,
) -> tuple[dict[str, Any], str]:
    """
    Select, and write the kept rows, the manifest and the reports.

    Args:
        folder (`Path`):
            Where they go.
        scored ([`~datasets.Dataset`]):
            All rows with their scores.
        selector ([`FlexRandSelector`] or another):
            What selects.
        scoring (`dict`):
            What [`describe_scoring`] returned.
        shown (`ReportArguments`):
            What the reports show.
        run_dir (`Path`, *optional*):
            Folder with the scores, if it is another; they are taken along, so that the subset can be published.
        facts:
            More for the manifest, as JSON types.

    Returns:
        `tuple[dict, str]`: The manifest and the summary.
    """
    prefix, keep_levels = scoring["scorer"]["config"]["prefix"], scoring["keep_levels"]
    kept = selector.read_indices(scored).tolist()
    report = PruneReport.from_datasets(
        scored,
        kept,
        selector.column,
        prefix,
        schedule=scoring["schedule"],
        group_by=selector.group_by,
        flag_column=shown.flag_column,
    )
    manifest = build_manifest(scoring, selector, scored, kept, **facts)
    # What cannot be selected or shown has been refused by now, and has left everything as it was.
    (folder / MANIFEST_NAME).unlink(missing_ok=True)  # until all is there again, there is no subset
    if run_dir is not None and run_dir.resolve() != folder.resolve():
        folder.mkdir(parents=True, exist_ok=True)
        for name in (SCORES_NAME, SCORING_NAME):
            shutil.copyfile(run_dir / name, folder / name)
    levels = [] if keep_levels else [f"{prefix}_level_{name}" for name in ("confidence", "loss")]
    pruned = scored.remove_columns(levels).select(kept)
    pruned.save_to_disk(str(folder / "pruned"))
    pruned.to_parquet(str(folder / "pruned.parquet"))
    write_reports(folder, report, f"What was kept of {scoring['dataset']['name']}", shown.html_report)
    write_json(folder / MANIFEST_NAME, manifest)  # last: it tells that all is there
    return manifest, report.to_markdown()


def is_taken(folder: Path, source: Path) -> bool:
    """Whether a folder holds a subset already, or scores of another run than that in `source`."""
    there = read_json(folder / SCORING_NAME)
    return (folder / MANIFEST_NAME).exists() or (there is not None and there != read_json(source / SCORING_NAME))


def write_reports(folder: Path, report: PruneReport, title: str, html: bool = True) -> None:
    """Write summary.md and, where matplotlib is installed, report.html; those of an earlier run are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.md").write_text(report.to_markdown(), encoding="utf-8")
    (folder / "report.html").unlink(missing_ok=True)
    if html and find_spec("matplotlib"):
        (folder / "report.html").write_text(report.to_html(title), encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """
    What `write_subset` wrote of a subset.

    Raises:
        ScoresError: If the folder holds no subset.
    """
    try:
        manifest = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
        manifest["selection"]["column"], manifest["dataset"]["name"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ScoresError(f"{folder} holds no subset. Select one first, with --run_dir {folder}.") from error
    return manifest
