"""
Which scores find rows that are wrong? Some rows are made wrong on purpose, and nobody tells the scorer.

    python recipes/find_wrong_rows.py --dataset rows.jsonl --scores loss,plain_loss,ifd,prompt_gain
    python recipes/find_wrong_rows.py --dataset gsm8k.jsonl --wrong number --scores plain_loss,ifd
    python recipes/find_wrong_rows.py --dataset path/to/images --model facebook/dinov2-small --wrong label \
        --scores confidence,plain_loss,el2n

A row is made wrong in one of three ways (`--wrong`): `response`, it gets the response of another wrong row; `number`,
the last number of its response is changed; `label`, its class becomes another one.

Writes into `output_dir`:

    wrong_rows.md     for each score its AUROC, how many wrong rows are among as many hardest ones, and its cost
    wrong_rows.json   the same, and the options
    scores.parquet    the rows with all columns and `is_wrong`
    journal/          from which a run that was stopped goes on
"""

from __future__ import annotations

from pathlib import Path

from hf_dlc import DLCConfig
from hf_dlc.cli.exits import run_program
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.pipeline.options import load_scorer
from hf_dlc.pipeline.sources import read_dataset
from hf_dlc.study.detection import costs, detect, detection_table
from hf_dlc.study.wrong_rows import WrongRowsArguments, make_wrong, tokens_of_views
from hf_dlc.utils.files import write_json


def main(args: list[str] | None = None) -> None:
    """Run the recipe."""
    options, config = parse_config_and_args(
        [WrongRowsArguments, DLCConfig], args, description=__doc__, required=["dataset"]
    )
    print(run_program(lambda: find_wrong_rows(options, config)))


def find_wrong_rows(options: WrongRowsArguments, config: DLCConfig) -> str:
    """Make rows wrong, score them, and return which scores find them."""
    rows, is_wrong = make_wrong(read_dataset(options), options, config)
    scorer = load_scorer(options, config)
    if scorer.needs_fit:
        scorer.fit(rows, num_threads=options.num_threads)  # with the wrong labels: nobody knows
    output = Path(options.output_dir)
    scored = scorer.score(rows, run_dir=output / "journal", num_threads=options.num_threads)

    cost_of = costs(tokens_of_views(scorer, rows), config.scores, scorer.schedule_)
    found = detect(scored, is_wrong, config.scores, cost_of, config.prefix)
    write_json(output / "wrong_rows.json", {"options": vars(options), "found": [one.to_json() for one in found]})
    scored.add_column("is_wrong", is_wrong).to_parquet(output / "scores.parquet")
    text = f"{is_wrong.sum()} of {len(rows)} rows are wrong ({options.wrong}).\n\n{detection_table(found)}\n"
    (output / "wrong_rows.md").write_text(text, encoding="utf-8")
    return text


if __name__ == "__main__":
    main()
