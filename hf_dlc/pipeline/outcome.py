"""Outcome of a selection in a few lines, with what to open and to run next."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from hf_dlc.report.report import PruneReport

from .record import SelectionRecord


def outcome(report: PruneReport, folder: Path, selection: SelectionRecord, verbose: bool = False) -> str:
    """
    Say what came of a selection, for a terminal.

    Args:
        report ([`PruneReport`]):
            Report on the kept rows.
        folder (`Path`):
            Folder that they were written into.
        selection ([`SelectionRecord`]):
            How they were selected.
        verbose (`bool`, *optional*, defaults to `False`):
            Whether the whole report is shown, in place of its first lines.

    Returns:
        `str`: The lines.
    """
    page = folder / "report.html"
    tables = folder / "summary.md"
    run_dir = quote(str(folder))
    tokens = selection.keep_tokens
    budget = f"--keep {selection.keep}" if tokens is None else f"--keep-tokens {tokens}"
    steps = [
        f"look:    {page} (plots, tables, rows)" if page.exists() else f"look:    {tables} (tables, rows)",
        f"train:   {folder / 'pruned.parquet'}",
        f"compare: hf-dlc compare --run-dir {run_dir} {budget}",
        f"publish: hf-dlc push --run-dir {run_dir} --repo-id me/name",
    ]
    found = report.to_markdown() if verbose else report.in_short()
    return "\n".join([found, *steps])
