"""Report on a scored dataset and on what was kept of it, for people."""

from __future__ import annotations

import html
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
from datasets import ClassLabel, Dataset, Value

from hf_dlc.scores.columns import missing_columns
from hf_dlc.utils.content import content_digests

from .render import Picture, Section, to_html, to_markdown
from .tables import Facts, HeldOutAgreement, Rows, all_sections, read_flags, row_table


if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .plots import Panel


def status_counts(scored: Dataset, prefix: str = "dlc") -> dict[str, int]:
    """Rows by status, most frequent first."""
    return dict(Counter(scored[f"{prefix}_status"]).most_common())


@dataclass(frozen=True, repr=False)
class PruneReport:
    """
    What a scored dataset is like, and what was kept of it.

    Args:
        sections (`tuple[Section, ...]`):
            What it says, in order.
        scored ([`~datasets.Dataset`]):
            The rows with their scores.
        kept (`np.ndarray`):
            Indices of the kept rows.
        column (`str`):
            Column by which rows were selected.
        prefix (`str`):
            What the names of the score columns begin with.
        schedule (`tuple[float, ...]`, *optional*):
            Masked fraction of each level.
        group_by (`str`, *optional*):
            Column within whose groups rows were selected.
        bounds (`Mapping[str, float]`, *optional*):
            Values of the score at which the rule changes, by the parameters that set them.
        rows ([`~report.tables.Rows`], *optional*):
            The rows and their scores, for the table that a page can sort and search.

    Example:
    ```python
    >>> from hf_dlc import PruneReport

    >>> report = PruneReport.from_datasets(scored, pruned, schedule=scorer.schedule_)
    >>> report.save("report.html")
    >>> report.plot().savefig("report.png")
    ```
    """

    sections: tuple[Section, ...]
    scored: Dataset
    kept: np.ndarray
    column: str
    prefix: str
    schedule: tuple[float, ...] | None
    group_by: str | None
    bounds: Mapping[str, float] = field(default_factory=dict)
    rows: Rows | None = None

    @classmethod
    def from_datasets(
        cls,
        scored: Dataset,
        pruned: Dataset | Chosen | Sequence[int],
        column: str = "dlc_confidence",
        prefix: str = "dlc",
        schedule: Sequence[float] | None = None,
        group_by: str | None = None,
        flag_column: str | None = None,
        examples: int = 5,
        price: str | None = None,
        left_out: Mapping[str, int] | None = None,
        price_unknown: str | None = None,
        predicted: Mapping[str, HeldOutAgreement] | None = None,
        run: Mapping[str, str] | None = None,
        rule: Sequence[str] = (),
        bounds: Mapping[str, float] | None = None,
        shared_with_random: int | None = None,
    ) -> PruneReport:
        """
        Look at a scored dataset and at what was kept of it.

        Args:
            scored ([`~datasets.Dataset`]):
                Dataset with score columns. Where it has the per-level columns, plain loss (level 0) is compared too.
            pruned ([`~datasets.Dataset`], [`~selection.base.Selection`] or `Sequence[int]`):
                Some of its rows, in its order, as a selector returns them; what `selector.select(scored)` returns,
                with all that the selector has noted; the indices of the rows, each once; or a boolean for each row.
            column (`str`, *optional*, defaults to `"dlc_confidence"`):
                Column by which rows were selected.
            prefix (`str`, *optional*, defaults to `"dlc"`):
                What the names of the score columns begin with.
            schedule (`Sequence[float]`, *optional*):
                Masked fraction of each level, for the plot.
            group_by (`str`, *optional*):
                Column within whose groups rows were selected: the easiest and hardest are those of their groups.
            flag_column (`str`, *optional*):
                Boolean column, not known to the scorer, whose rows should stand out, such as responses known to be
                wrong.
            examples (`int`, *optional*, defaults to 5):
                Rows that are shown of each kind.
            price (`str`, *optional*):
                What scoring has cost beside training, in words.
            left_out (`Mapping[str, int]`, *optional*):
                Number of the rows that were left out before rows were chosen, by the reason.
            price_unknown (`str`, *optional*):
                Why the price is not known, where it was asked for.
            predicted (`Mapping[str, HeldOutAgreement]`, *optional*):
                By the name of each score that was predicted how well held-out rows agree, as
                `ExtrapolatedScorer.agreement_.scores` has it.
            run (`Mapping[str, str]`, *optional*):
                What was run, by what it is called: model, data, command and the like.
            rule (`Sequence[str]`, *optional*):
                How rows were chosen, in words, in parts of which some may be [`~report.render.Name`]s.
            bounds (`Mapping[str, float]`, *optional*):
                Values of the score at which the rule changes, by the parameters that set them, for the plot.
            shared_with_random (`int`, *optional*):
                Number of the kept rows that as many random rows of the same seed hold as well.

        Returns:
            [`PruneReport`]

        Raises:
            TypeError: If `scored` is not a [`~datasets.Dataset`], such as a dictionary of splits.
            ValueError: If `pruned` has rows that `scored` has not, or has them twice or in another order, or if a
                column is missing or of a type that cannot be used.
        """
        if not isinstance(scored, Dataset):
            way = (
                "Pass one of its splits"
                if isinstance(scored, dict)
                else "Make one with Dataset.from_pandas or from_list"
            )
            raise TypeError(f"scored must be a Dataset, got {type(scored).__name__}. {way}.")
        missing = [name for name in (column,) if name not in scored.column_names]
        if missing := dict.fromkeys([*missing, *missing_columns(scored.column_names, prefix)]):
            got = ", ".join(scored.column_names)
            raise ValueError(f"scored must have the columns {', '.join(missing)}, got {got}.")
        check_group_and_flag_columns(scored, group_by, flag_column)
        notes = _notes(scored, pruned, prefix)
        pruned = pruned.indices if hasattr(pruned, "indices") and hasattr(pruned, "notes") else pruned
        kept = _places(scored, pruned) if isinstance(pruned, Dataset) else _indices(pruned, len(scored))
        scored = with_notes(scored, notes, kept)
        rows = Rows.read(scored, kept, column, prefix, group_by, tuple(notes))
        levels = None if schedule is None else tuple(map(float, schedule))
        facts = Facts(run, rule, shared_with_random, price, price_unknown, left_out, predicted)
        sections = tuple(all_sections(rows, flag_column, examples, facts))
        return cls(sections, scored, kept, column, prefix, levels, group_by, bounds or {}, rows)

    def to_markdown(self) -> str:
        """The report as Markdown. Dataset text stands in code blocks, as JSON, and cannot act as markup."""
        return to_markdown(self.sections)

    def in_short(self) -> str:
        """The first section as Markdown: what was kept, and how, in a few lines."""
        return to_markdown(self.sections[:1]).partition("\n\n")[2]

    def to_html(self, title: str = "What was kept") -> str:
        """
        The report with its plots as one file that loads nothing from elsewhere.

        Dataset text is escaped, and the page forbids all scripts but its own, which sorts and searches rows.

        Raises:
            ModuleNotFoundError: If there is no matplotlib.
        """
        require_matplotlib()
        from .plots import panel_png

        tables = [] if self.rows is None or not len(self.scored) else [row_table(self.rows)]
        return to_html(
            title, [*self.sections, *tables], [Picture(one.caption, panel_png(one)) for one in self._panels()]
        )

    def save(self, path: str | Path) -> None:
        """
        Write the report into a file.

        Args:
            path (`str` or `Path`):
                A file that ends in `.html`, with plots, or in `.md`, without.

        Raises:
            ModuleNotFoundError: If plots are asked for without matplotlib.
            ValueError: If it ends in something else.
        """
        makers = {".html": self.to_html, ".md": self.to_markdown}
        path = Path(path).expanduser()
        if path.suffix not in makers:
            raise ValueError(f"a report is saved as .html or .md, got {str(path)!r}.")
        path.write_text(makers[path.suffix](), encoding="utf-8")

    def __repr__(self) -> str:
        return f"PruneReport({len(self.kept):,} of {len(self.scored):,} rows kept, by {self.column})"

    def _repr_html_(self) -> str | None:
        """The page in a frame of its own, for notebooks; without matplotlib they show the line above."""
        if find_spec("matplotlib") is None:
            return None
        page = html.escape(self.to_html())
        return (
            f'<iframe srcdoc="{page}" sandbox="allow-scripts" style="width: 100%; height: 40em; border: 0"></iframe>'
        )

    def plot(self) -> Figure:
        """
        The report as one figure: the score and the share that was kept of it, loss and confidence along the levels,
        the score against response length and plain loss, and groups.

        Returns:
            `matplotlib.figure.Figure`: Save it with `savefig`; no window is opened.
        """
        from .plots import plot_report

        return plot_report(self._panels())

    def _panels(self) -> list[Panel]:
        from .plots import panels

        where = self.column, self.prefix, self.schedule, self.group_by
        return panels(self.scored, self.kept, *where, self.bounds)


def require_matplotlib() -> None:
    """Raise a `ModuleNotFoundError` that says what to install, if a report cannot have plots."""
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError("a report with plots needs matplotlib: pip install 'hf-dlc[report]'.")


def check_group_and_flag_columns(dataset: Dataset, group_by: str | None, flag_column: str | None) -> None:
    """Raise a `ValueError` unless the two name columns of groups and of flags, as far as they are given."""
    for option, name in (("group_by", group_by), ("flag_column", flag_column)):
        if name is not None and name not in dataset.column_names:
            raise ValueError(f"{option} must be a column, got {name!r}; there are {', '.join(dataset.column_names)}.")
    if group_by is not None and not isinstance(dataset.features[group_by], (Value, ClassLabel)):
        raise ValueError(f"group_by must hold single values, but {group_by!r} holds {dataset.features[group_by]}.")
    if flag_column is not None:
        read_flags(dataset, flag_column)


def _indices(kept: Sequence[int], count: int) -> np.ndarray:
    """Row numbers, also where a boolean for each row was given."""
    places = np.asarray(kept) if len(kept) else np.empty(0, dtype=np.int64)
    if places.dtype == bool and places.shape == (count,):
        return np.flatnonzero(places)
    is_valid = np.issubdtype(places.dtype, np.integer) and places.ndim == 1
    if not is_valid or len(np.unique(places)) < len(places) or (places < 0).any() or (places >= count).any():
        raise ValueError(
            f"pruned must be rows of scored, as a Dataset, indices from 0 to {count - 1}, each once, or a boolean for "
            f"each of the {count} rows, got {reprlib.repr(kept)}."
        )
    return places


def _places(scored: Dataset, pruned: Dataset) -> np.ndarray:
    """Which rows of `scored` those of `pruned` are; rows that are the same are told by their order."""
    names = [name for name in pruned.column_names if name in scored.column_names]
    wanted, there = (_row_digests(rows, names) for rows in (pruned, scored))
    places, start = np.empty(len(wanted), dtype=np.int64), 0
    for number, digest in enumerate(wanted):
        while start < len(there) and there[start] != digest:
            start += 1
        if start == len(there):
            raise ValueError(
                f"pruned must hold rows of scored, in their order, but its row {number} is not there. Pass the "
                "dataset that the selector was called with, or the indices of the kept rows."
            )
        places[number], start = start, start + 1
    return places


class Chosen(Protocol):
    """What a selector says of the rows that it keeps, as [`~selection.base.Selection`] has it."""

    indices: np.ndarray
    notes: Mapping[str, np.ndarray]


def _notes(scored: Dataset, pruned: Any, prefix: str) -> dict[str, np.ndarray]:
    """Return what a selector has noted of the kept rows, by its columns: numbers that `scored` does not have."""
    if hasattr(pruned, "indices") and hasattr(pruned, "notes"):
        return {f"{prefix}_{name}": values for name, values in pruned.notes.items()}
    if not isinstance(pruned, Dataset):
        return {}
    added = [name for name in pruned.column_names if name.startswith(f"{prefix}_") and name not in scored.column_names]
    numbers = [name for name in added if str(getattr(pruned.features[name], "dtype", "")).startswith(("int", "float"))]
    return {name: np.asarray(pruned.with_format("numpy")[name][:]) for name in numbers}


def with_notes(scored: Dataset, notes: Mapping[str, np.ndarray], kept: np.ndarray) -> Dataset:
    """
    Rows with what a selector has noted of those that it kept.

    Args:
        scored ([`~datasets.Dataset`]):
            All rows.
        notes (`Mapping[str, np.ndarray]`):
            By the name of a column a value of each kept row; of the others it is -1 or NaN.
        kept (`np.ndarray` of shape `(kept,)`):
            Numbers of the kept rows.

    Returns:
        [`~datasets.Dataset`]: With these columns added, or replaced.
    """
    scored = scored.remove_columns([name for name in notes if name in scored.column_names])
    for name, values in notes.items():
        of_all = np.full(len(scored), -1 if values.dtype.kind == "i" else np.nan, dtype=values.dtype)
        of_all[kept] = values
        scored = scored.add_column(name, of_all)
    return scored


def _row_digests(dataset: Dataset, names: list[str]) -> Sequence[Any]:
    """Digests of the columns of single values, which is fast; of all columns where there are none."""
    features = dataset.features
    single = [name for name in names if isinstance(features[name], (Value, ClassLabel))]
    if not single:
        return content_digests(dataset, names)
    table = dataset.with_format(None).select_columns(single).to_pandas()
    return pd.util.hash_pandas_object(table, index=False).to_numpy()
