"""The curve of cost against fidelity of scores that are predicted from a share of the rows."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset

from hf_dlc.pipeline.options import DataArguments
from hf_dlc.scorer.extrapolated import LEAST_ROWS, make_predictor
from hf_dlc.scorer.predict import expand_measures, extrapolate, standardized
from hf_dlc.scores.base import masks_weights
from hf_dlc.scores.columns import SCORED_STATUSES, present_scores
from hf_dlc.scores.table import SCORES
from hf_dlc.utils.ranks import spearman

from .markdown import table


logger = logging.getLogger(__name__)


@dataclass
class CurveArguments(DataArguments):
    """Curve options: which rows are scored, with which model, and which shares and methods are tried."""

    model: str = field(default="HuggingFaceTB/SmolLM2-135M-Instruct", metadata={"help": "Hub repository or path."})
    shares: str = field(default="0.02,0.05,0.1,0.2", metadata={"help": "Shares that are scored at all levels."})
    methods: str = field(default="ridge,knn", metadata={"help": "Methods: 'ridge', 'knn', 'gnn'."})
    draws: int = field(default=5, metadata={"help": "Random shares of each size."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads; default: all cores."})
    output_dir: str = field(default="runs/extrapolation", metadata={"help": "Folder for the results."})


def curve(
    scored: Dataset, features: np.ndarray | None, levels: int, options: CurveArguments, prefix: str
) -> list[dict[str, Any]]:
    """
    Predict each score in each way from each share, and compare with the truth.

    Args:
        scored ([`~datasets.Dataset`]):
            Rows that were scored at all levels, with `keep_levels=True`.
        features (`np.ndarray` of shape `(rows, size)`, *optional*):
            Features of the rows.
        levels (`int`):
            Number of the levels.
        options ([`CurveArguments`]):
            Shares, methods and number of draws.
        prefix (`str`):
            What the names of the columns begin with.

    Returns:
        `list[dict]`: A line for each score, input, method and share. It has `passes`, `cost` (of all levels) and
        `predicted`, the mean over the draws of Spearman of predicted scores with the true ones.
    """
    is_scored = np.isin(scored[f"{prefix}_status"][:], list(SCORED_STATUSES))
    scored = scored.select(np.flatnonzero(is_scored).tolist())
    names = [name for name in scored.column_names if name.startswith(f"{prefix}_level_")]
    measures = [np.array(scored[name][:], dtype=np.float64)[:, 0] for name in names]
    measures.append(np.array(scored[f"{prefix}_tokens"][:], dtype=np.float64))
    inputs = {"measures": [expand_measures(measures)]}
    if features is not None:
        inputs |= {"features": [features[is_scored]], "both": [*inputs["measures"], features[is_scored]]}
    lines, shares = [], large_enough(map(float, options.shares.split(",")), len(scored))
    masked = [name for name in present_scores(scored.column_names, prefix) if masks_weights([SCORES[name]])]
    for name, score in ((name, SCORES[name]) for name in masked):
        truth = np.array(scored[f"{prefix}_{name}"][:], dtype=np.float64)
        plain = max(np.nan_to_num(abs(spearman(one, truth))) for one in measures)
        lines.append({"score": name, "inputs": "level 0 alone", "method": "-", "passes": 1.0, "predicted": plain})
        ways = [(kind, way) for kind in inputs for way in options.methods.split(",")]
        for kind, way in ways:
            for share in shares:
                found = try_share(truth, inputs[kind], way, share, options.draws, (score.low, score.high))
                passes = 1 + share * levels  # the unmasked pass gives measures and features alike
                way_and_price = {"inputs": kind, "method": way, "share": share, "passes": passes}
                lines.append({"score": name, **way_and_price, **found})
        for line in lines:
            line["cost"] = line["passes"] / levels
        logger.info("predicted %s", name)
    return lines


def large_enough(shares: Iterable[float], rows: int) -> list[float]:
    """The shares that have enough rows to predict from; the others are named once."""
    counts = {share: round(share * rows) for share in shares}
    for share, count in counts.items():
        if count < LEAST_ROWS:
            told = "a share of %g of %d rows is left out: it has %d rows, and at least %d are needed to predict others"
            logger.warning(told, share, rows, count, LEAST_ROWS)
    return [share for share, count in counts.items() if count >= LEAST_ROWS]


def try_share(
    truth: np.ndarray, blocks: list[np.ndarray], way: str, share: float, draws: int, bounds: tuple[float, float]
) -> dict[str, float]:
    """
    Spearman of predicted scores with true ones, and what held-out rows say of it.

    Args:
        truth (`np.ndarray` of shape `(rows,)`):
            True scores.
        blocks (`list[np.ndarray]`):
            What is known of all rows, each of shape `(rows, size)`.
        way (`str`):
            Method of prediction.
        share (`float`):
            Share of the rows whose scores the predictor is told.
        draws (`int`):
            How many random shares are tried.
        bounds (`tuple[float, float]`):
            Range of the score.

    Returns:
        `dict[str, float]`: Means over the draws, and the worst and the best.
    """
    count, found = round(share * len(truth)), []
    for seed in range(draws):
        known = np.sort(np.random.default_rng(seed).choice(len(truth), count, replace=False))
        wanted = np.setdiff1d(np.arange(len(truth)), known)
        matrix = standardized(blocks, known)
        predictor = make_predictor(way, seed)
        values, held_out = extrapolate(predictor, matrix, known, truth[known], wanted, bounds, seed)
        found.append((spearman(values, truth[wanted]), held_out.spearman, held_out.low, held_out.high))
    found = np.nan_to_num(np.array(found))  # a method that predicts one value for all rows ranks nothing
    names = ("held_out", "held_out_low", "held_out_high")
    values = dict(zip(names, found.mean(axis=0)[1:].tolist(), strict=True))
    predicted = found[:, 0]
    return {"predicted": predicted.mean(), "worst": predicted.min(), "best": predicted.max(), **values}


def curve_table(lines: list[dict[str, Any]]) -> str:
    """What [`curve`] returns, as a table in Markdown."""
    header = [
        "score",
        "from",
        "method",
        "share",
        "passes",
        "of all levels",
        "Spearman, predicted rows",
        "held-out rows",
    ]
    rows = []
    for line in lines:
        share = f"{line['share']:.0%}" if "share" in line else "-"
        spread = f" ({line['worst']:.3f}–{line['best']:.3f})" if "worst" in line else ""
        seen = f"{line['held_out']:.3f} ({line['held_out_low']:.3f}–{line['held_out_high']:.3f})" if spread else "-"
        cells = [line["score"], line["inputs"], line["method"], share, f"{line['passes']:.2f}", f"{line['cost']:.0%}"]
        rows.append([*cells, f"{line['predicted']:.3f}{spread}", seen])
    return table(header, rows)


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """
    Draw Spearman against cost, a panel for each score and a line for each way to predict.

    Args:
        lines (`list[dict]`):
            What [`curve`] returns.
        path (`Path`):
            Picture to write.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # no window is opened, and no global state is touched

    names = list(dict.fromkeys(line["score"] for line in lines))
    figure = Figure(figsize=(4.5 * len(names), 4), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        found = [line for line in lines if line["score"] == name]
        axes.axhline(found[0]["predicted"], color="grey", linestyle="--", label="level 0 alone")
        for way in dict.fromkeys((line["inputs"], line["method"]) for line in found[1:]):
            points = [line for line in found if (line["inputs"], line["method"]) == way]
            values = [[line[key] for line in points] for key in ("cost", "predicted", "worst", "best")]
            axes.plot(*values[:2], marker="o", label=" by ".join(way))
            axes.fill_between(values[0], *values[2:], alpha=0.15)
        axes.set_title(name)
        axes.set_xlabel("passes, as a share of all levels")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("Spearman with the true score")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=150)
