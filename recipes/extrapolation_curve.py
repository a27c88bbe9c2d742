"""
Find out how well scores at all levels can be predicted from a part of the rows, and what that saves.

    python recipes/extrapolation_curve.py --dataset rows.jsonl --model path/to/model
    python recipes/extrapolation_curve.py --dataset photos/train --model path/to/vit --schedule "linear(0.02, 50)" \
        --features auto

All rows are scored at all levels once. Then shares of them are drawn, as `ExtrapolatedScorer` does, and the scores of
the other rows are predicted and compared with the true ones. Scores are predicted from the measures of the unmasked
level, with `--features auto` also from its features, and from both. Writes into `output_dir`:

    curve.md     a line for each score, input, method and share: passes, Spearman on predicted and on held-out rows
    curve.json   the same as numbers
    curve.png    Spearman against cost, where matplotlib is installed
    journal/     finished chunks of the scoring, from which the same command goes on

"level 0 alone" is the measure of the unmasked level that ranks the rows most like the score: one pass, no prediction.
All options of `DLCConfig` are there as well; the second command scores at the fifty levels of the paper.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from datasets import disable_progress_bars

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.cli.exits import run_program
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.pipeline.sources import read_dataset
from hf_dlc.selection.vectors import read_vectors
from hf_dlc.study.curve import CurveArguments, curve, curve_table, draw
from hf_dlc.utils.files import write_json


logger = logging.getLogger(__name__)


def main(args: list[str] | None = None) -> None:
    """Run the recipe."""
    options, config = parse_config_and_args(
        [CurveArguments, DLCConfig], args, description=__doc__, required=["dataset"]
    )
    print(run_program(lambda: measure(options, config)))


def measure(options: CurveArguments, config: DLCConfig) -> str:
    """Score all rows, predict from shares of them, write what was measured, and return it as a table."""
    disable_progress_bars()
    output = Path(options.output_dir)
    dataset = read_dataset(options)
    scorer = DLCScorer.from_pretrained(options.model, replace(config, keep_levels=True))
    if scorer.needs_fit:
        scorer.fit(dataset, num_threads=options.num_threads)
    scored = scorer.score(dataset, run_dir=output / "journal", num_threads=options.num_threads)
    name = f"{config.prefix}_features"
    features = read_vectors(scored, name).astype(np.float32) if config.features else None
    lines = curve(scored, features, len(scorer.schedule_), options, config.prefix)
    text = curve_table(lines)
    (output / "curve.md").write_text(text + "\n", encoding="utf-8")
    write_json(output / "curve.json", {"rows": len(scored), "schedule": scorer.schedule_, "curve": lines})
    try:
        draw(lines, output / "curve.png")
    except ImportError:
        logger.warning("there is no plot without matplotlib: pip install matplotlib")
    return text


if __name__ == "__main__":
    main()
