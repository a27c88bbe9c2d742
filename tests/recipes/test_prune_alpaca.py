"""The recipe from its command line to its files, on a tiny saved model."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import yaml
from datasets import Dataset, DatasetDict, load_from_disk

from hf_dlc import DLCConfig, DLCScorer, FlexRandSelector, RandomSelector, TopKSelector, __version__, load_scores
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.execution.training import TrainingCost
from hf_dlc.pipeline import prune
from hf_dlc.pipeline.choosing import choose_selector
from hf_dlc.pipeline.options import PruneArguments, make_selector
from hf_dlc.pipeline.record import SCORED_IN_PARTS, UsageRecord
from hf_dlc.report.render import code
from hf_dlc.scorer import job
from hf_dlc.scores.columns import score_features
from hf_dlc.scores.table import SCORES
from recipes import prune_alpaca
from tests.conftest import ROOT, SCORING, build_model, build_tokenizer
from tests.rows import SCORED_ROWS, json_lines, write_rows


pytestmark = pytest.mark.usefixtures("empty_plots")


CONFIGS = sorted(path for path in (ROOT / "recipes" / "configs").glob("*.yaml") if not path.stem.startswith("compare"))

ROWS = SCORED_ROWS
SKIPPED = [place for place, row in enumerate(ROWS) if not row["output"]]
FILES = ["manifest.json", "pruned.parquet", "report.html", "scores.parquet", "scoring.json", "summary.md"]

Recipe = Callable[..., Path]


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", ROWS)


def options(model: Path, dataset: Path | str, output: Path, *more: str) -> list[str]:
    return ["--model", str(model), "--dataset", str(dataset), "--output_dir", str(output), *SCORING, *more]


@pytest.fixture
def recipe(llama_folder: Path, rows_file: Path, tmp_path: Path) -> Recipe:
    """`recipe("--keep", "5", dataset=...)` runs it and returns its output folder."""

    def run(*more: str, dataset: Path = rows_file, output: str = "results") -> Path:
        prune_alpaca.main(options(llama_folder, dataset, tmp_path / output, *more))
        return tmp_path / output

    return run


@pytest.fixture
def selection(recipe: Recipe, copy_of_run: Path) -> Recipe:
    """As `recipe`, but it goes on from the scores of a run that is there, and selects."""

    def run(*more: str) -> Path:
        output = recipe(*more, output=copy_of_run.name)
        assert manifest(output)["run"]["resumed"]
        return output

    return run


@pytest.fixture
def refusal(
    llama_folder: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """`refusal("--keep", "0")` returns the message with which it ends, having written nothing."""

    def run(*more: str, dataset: Path | str = rows_file) -> str:
        output = tmp_path / "refused"
        with pytest.raises(SystemExit) as caught:
            prune_alpaca.main(options(llama_folder, dataset, output, *more))
        message = caught.value.code
        if not isinstance(message, str):  # argparse prints its message and exits with 2; a text means 1
            assert message == 2
            message = capsys.readouterr().err.splitlines()[-1]
        assert message.strip()
        assert "Traceback" not in message
        assert not output.exists()
        return message

    return run


@pytest.fixture(scope="module")
def results(llama_folder: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run that several tests look at."""
    output = tmp_path_factory.mktemp("results") / "nested" / "folder"
    prune_alpaca.main(options(llama_folder, rows_file, output, "--flag_column", "wrong"))
    return output


@pytest.fixture(scope="module")
def expected(llama_folder: Path) -> Dataset:
    """What the library gives for the same rows."""
    config = DLCConfig(schedule="0, 0.05, 0.2", dtype="float32", tokens_per_batch=400)
    return DLCScorer.from_pretrained(llama_folder, config).score(Dataset.from_list(ROWS), num_threads=1)


def manifest(output: Path) -> dict[str, Any]:
    return json.loads((output / "manifest.json").read_text(encoding="utf-8"))


def scores(output: Path) -> dict[str, list[Any]]:
    """Without the digests: a CSV file has other values where there is nothing."""
    return datasets.Dataset.from_parquet(str(output / "scores.parquet")).remove_columns("content_digest").to_dict()


def same(left: dict[str, list[Any]], right: dict[str, list[Any]]) -> bool:
    """Equal, with NaN equal to NaN."""
    return json.dumps(left, default=str) == json.dumps(right, default=str)


# ---- results ---------------------------------------------------------------------------------------------------


def test_all_files_are_there(results: Path) -> None:
    assert sorted(path.name for path in results.iterdir()) == sorted([*FILES, "journal", "pruned"])


def test_scores_of_all_rows_in_the_order_of_the_dataset(results: Path, expected: Dataset) -> None:
    columns = list(score_features(keep_levels=True))
    assert list(scores(results)) == columns
    found = {name: values for name, values in scores(results).items() if name in expected.column_names}
    assert same(found, expected.select_columns(list(found)).to_dict())
    assert len(found) == 5
    joined = load_scores(results, Dataset.from_list(ROWS))
    assert same(joined.select_columns(columns).to_dict(), scores(results))


def test_pruned_rows_are_those_of_the_manifest(results: Path, expected: Dataset) -> None:
    kept = manifest(results)["kept_indices"]
    assert kept == RandomSelector(keep=0.5, column="dlc_confidence").read_indices(expected).tolist()
    assert manifest(results)["kept_rows"] == len(kept) == len(ROWS) // 2
    pruned = load_from_disk(str(results / "pruned"))
    assert pruned.to_list() == expected.select(kept).to_list()
    assert pruned.select_columns(list(ROWS[0])).to_list() == [ROWS[i] for i in kept]
    assert pruned.to_list() == datasets.Dataset.from_parquet(str(results / "pruned.parquet")).to_list()
    assert not set(kept) & set(SKIPPED)


def test_manifest_says_what_the_scores_came_from(results: Path, llama_folder: Path, rows_file: Path) -> None:
    found = manifest(results)
    source = {"name": str(rows_file), "config": None, "revision": None, "split": "train", "rows": len(ROWS)}
    assert source.items() <= found["dataset"].items()
    assert found["dataset"]["fingerprint"]
    scorer = found["scorer"]
    assert scorer["model"] == str(llama_folder)
    assert scorer["dtype"] == "float32"
    in_memory = DLCScorer(build_model("llama"), build_tokenizer(), DLCConfig(schedule="0, 0.05, 0.2")).describe()
    assert scorer["processor_digest"] == in_memory["processor_digest"]
    assert len(scorer["model_digest"]) == 32
    assert scorer["config"]["seed"] == 0
    assert scorer["config"]["template"]["template"]
    assert found["schedule"] == [0.0, 0.05, 0.2]
    assert [level["masked_fraction"] for level in found["masking"]] == found["schedule"]
    assert [level["masked"] > 0 for level in found["masking"]] == [False, True, True]
    assert found["options"]["selector"] == "random"  # of scores that compare no response with its prompt
    assert found["options"]["selection_seed"] == 0
    assert found["options"]["keep"] == 0.5
    assert found["status"] == {"ok": len(ROWS) - 2, "empty_response": 2}
    assert found["versions"]["hf_dlc"] == __version__
    assert found["versions"]["transformers"]
    assert found["run"]["processes"] == 1
    assert found["run"]["tokens_per_second"] > 0


def test_summary_ranks_the_flagged_rows(results: Path) -> None:
    summary = (results / "summary.md").read_text(encoding="utf-8")
    assert "- scored: 20 of 22 rows" in summary
    assert "2 `empty_response`" in summary
    assert "- rows with `wrong` kept: 1 of 4; random rows: 2.2 expected" in summary
    assert "AUROC" in summary
    assert "plain_loss" in summary


def test_summary_counts_the_flagged_rows_among_the_hardest(recipe: Recipe) -> None:
    """As the demo does for its swapped responses, by each score that it asks for."""
    demo = yaml.safe_load((ROOT / "recipes" / "configs" / "demo.yaml").read_text(encoding="utf-8"))
    output = recipe("--flag_column", "wrong", "--scores", demo["scores"])
    title = "## Rows with `wrong` (4 of 22)\n\n"
    _, _, section = (output / "summary.md").read_text(encoding="utf-8").partition(title)
    header, _, *lines = section.partition("\n\n")[0].splitlines()
    assert header.endswith("| among the 4 hardest |")
    cells = [re.fullmatch(r"\| (\w+) \| [01]\.\d{3} \| \d+% \| ([0-4]) \|", line).groups() for line in lines]
    counts = {name: int(count) for name, count in cells}
    assert list(counts) == demo["scores"].split(",")
    found, flagged = scores(output), {place for place, row in enumerate(ROWS) if row["wrong"]}
    for name, count in counts.items():
        values = np.array(found[f"dlc_{name}"])
        hardest = np.argsort(-values if SCORES[name].easy == "low" else values, kind="stable")[:4]  # NaN comes last
        assert count == len(flagged & set(hardest.tolist()))


class TestPriceOfTheRun:
    """What an epoch of training costs is in the records and the reports, where a run was long enough to ask."""

    def test_is_told_everywhere(
        self, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(prune, "LEAST_SECONDS", 0.0)
        output = recipe()
        run = manifest(output)["run"]
        assert run["training_seconds"] > 0
        assert run["training_unknown"] is None
        assert json.loads((output / "scoring.json").read_text(encoding="utf-8"))["run"] == run
        told = UsageRecord.from_json(run).price
        assert f"cost: {told}" in (output / "summary.md").read_text(encoding="utf-8").replace("\\", "")
        assert told in (output / "report.html").read_text(encoding="utf-8")

    def test_is_scaled_from_a_sample(self, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
        """An epoch of all rows has as many times the cost as it has the tokens."""
        monkeypatch.setattr(prune, "LEAST_SECONDS", 0.0)
        monkeypatch.setattr(prune, "_TRAINING_ROWS", 8)
        asked: list[int] = []

        def measure(task: Any, rows: list[Any], processes: int) -> TrainingCost:
            asked.append(len(rows))
            return TrainingCost(seconds=1e-3 * sum(row.length for row in rows))

        monkeypatch.setattr(job, "measure_training", measure)
        run = manifest(recipe())["run"]
        assert asked == [8]
        assert run["training_seconds"] == pytest.approx(1e-3 * run["tokens"])

    def test_is_not_asked_after_a_short_run_nor_unasked(
        self, recipe: Recipe, results: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert manifest(results)["run"]["training_seconds"] is None
        assert "cost:" not in (results / "summary.md").read_text(encoding="utf-8")
        monkeypatch.setattr(prune, "LEAST_SECONDS", 0.0)
        assert manifest(recipe("--measure-training", "false"))["run"]["training_seconds"] is None

    def test_of_a_run_in_parts_it_is_said_once_that_it_is_not_known(
        self, selection: Recipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """However short the last part was, and without a training whose cost would be of no use."""
        monkeypatch.setattr(job, "measure_training", lambda *_: pytest.fail("nothing must be trained"))
        with caplog.at_level("INFO", "hf_dlc"):
            output = selection("--overwrite", "false")
        run = UsageRecord.from_json(manifest(output)["run"])
        assert (run.price, run.training_seconds, run.price_unknown) == (None, None, SCORED_IN_PARTS)
        assert caplog.text.count(f"what scoring has cost beside training is not known: {SCORED_IN_PARTS}") == 1
        told = f"- cost beside training: not known, {code(SCORED_IN_PARTS)}"
        assert told in (output / "summary.md").read_text(encoding="utf-8")
        assert SCORED_IN_PARTS in (output / "report.html").read_text(encoding="utf-8")

    def test_what_fails_is_told_and_loses_nothing(
        self, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(prune, "LEAST_SECONDS", 0.0)
        monkeypatch.setattr(job, "measure_training", lambda *_: TrainingCost(why_unknown="no luck"))
        output = recipe()
        run = manifest(output)["run"]
        assert (run["training_seconds"], run["training_unknown"]) == (None, "no luck")
        assert "what an epoch of training costs is not known: no luck" in caplog.text
        assert len(scores(output)["dlc_loss"]) == len(ROWS)
        told = "cost beside training: not known, `" + '"no luck"' + "`"
        assert told in (output / "summary.md").read_text(encoding="utf-8")


def test_levels_are_written_if_asked_for(recipe: Recipe) -> None:
    output = recipe("--keep_levels", "--prefix", "easy")
    assert list(scores(output)) == list(score_features("easy", keep_levels=True))
    pruned = load_from_disk(str(output / "pruned"))
    assert all(len(levels) == 3 for levels in pruned["easy_level_loss"])


# ---- datasets --------------------------------------------------------------------------------------------------


def write_json(path: Path) -> None:
    path.write_text(json.dumps(ROWS), encoding="utf-8")


def write_gzipped(path: Path) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(json_lines(ROWS))


WRITERS: dict[str, Callable[[Path], object]] = {
    "rows.json": write_json,
    "my.rows.jsonl.gz": write_gzipped,
    "rows.csv": lambda path: Dataset.from_list(ROWS).to_csv(path),
    "rows.parquet": lambda path: Dataset.from_list(ROWS).to_parquet(path),
    "folder": lambda path: Dataset.from_list(ROWS).save_to_disk(path),
    "splits": lambda path: DatasetDict(
        {"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:2])}
    ).save_to_disk(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_formats(recipe: Recipe, results: Path, tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    output = recipe(dataset=tmp_path / name)
    assert same(scores(output), scores(results))
    assert manifest(output)["kept_indices"] == manifest(results)["kept_indices"]
    assert manifest(output)["dataset"]["rows"] == len(ROWS)


def test_first_rows(recipe: Recipe, results: Path) -> None:
    output = recipe("--max_rows", "9")
    assert manifest(output)["dataset"]["rows"] == 9
    first = {name: values[:9] for name, values in scores(results).items()}
    assert scores(output)["dlc_tokens"] == first["dlc_tokens"]
    # In other company, a row is in another micro-batch: equal, but not bit for bit.
    np.testing.assert_allclose(scores(output)["dlc_loss"], first["dlc_loss"], atol=1e-4)


def test_mapped_columns(recipe: Recipe, results: Path, tmp_path: Path) -> None:
    names = {"instruction": "src", "output": "pos"}
    rows = [{names.get(key, key): value for key, value in row.items()} for row in ROWS]
    output = recipe("--columns", "src=instruction,pos=output", dataset=write_rows(tmp_path / "rows.jsonl", rows))
    assert same(scores(output), scores(results))
    pruned = load_from_disk(str(output / "pruned"))
    assert {"src", "pos", "input"} <= set(pruned.column_names)
    assert "instruction" not in pruned.column_names


# ---- selection -------------------------------------------------------------------------------------------------


FLEXRAND = ["--selector", "flexrand"]
SELECTIONS: dict[str, tuple[list[str], Any]] = {
    "a number": ([*FLEXRAND, "--keep", "5"], FlexRandSelector(keep=5)),
    "one row": ([*FLEXRAND, "--keep", "1"], FlexRandSelector(keep=1)),
    "a share": ([*FLEXRAND, "--keep", "0.3"], FlexRandSelector(keep=0.3)),
    "tokens": ([*FLEXRAND, "--keep_tokens", "150"], FlexRandSelector(keep_tokens=150)),
    "groups": ([*FLEXRAND, "--keep", "7", "--group_by", "topic"], FlexRandSelector(keep=7, group_by="topic")),
    "a split": (
        [*FLEXRAND, "--selection_split", "0.8", "--selection_seed", "3"],
        FlexRandSelector(keep=0.5, split=0.8, seed=3),
    ),
    "by loss": ([*FLEXRAND, "--column", "dlc_loss", "--keep", "6"], FlexRandSelector(keep=6, column="dlc_loss")),
    "left open": (["--keep", "9"], RandomSelector(keep=9, column="dlc_confidence")),
    "random": (
        ["--selector", "random", "--keep", "6", "--selection_seed", "1"],
        RandomSelector(keep=6, seed=1, column="dlc_confidence"),
    ),
    "easiest": (["--selector", "easiest", "--keep", "6"], TopKSelector(keep=6, which="easiest")),
    "hardest": (["--selector", "hardest", "--keep", "6"], TopKSelector(keep=6, which="hardest")),
}


def test_selections_differ(scored: Dataset) -> None:
    """Otherwise the next test could not tell one from another."""
    kept = [tuple(selector.read_indices(scored).tolist()) for _, selector in SELECTIONS.values()]
    assert len(set(kept)) == len(kept)


@pytest.mark.parametrize("name", SELECTIONS)
def test_selection(selection: Recipe, scored: Dataset, name: str) -> None:
    arguments, selector = SELECTIONS[name]
    found = manifest(selection(*arguments))["kept_indices"]
    assert found == selector.read_indices(scored).tolist()
    assert found


def test_tokens_are_never_exceeded(selection: Recipe) -> None:
    pruned = load_from_disk(str(selection("--keep_tokens", "150") / "pruned"))
    assert 120 < sum(pruned["dlc_tokens"]) <= 150


# ---- options ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_parse(path: Path) -> None:
    arguments, config = parse_config_and_args([PruneArguments, DLCConfig], ["--config", str(path)])
    assert arguments.output_dir.startswith("runs/")
    arguments, why = choose_selector(arguments, dict.fromkeys(config.scores, 10), has_features=True)
    assert why
    selector = make_selector(arguments, config.prefix)
    groups = ["a"] * 10 if arguments.group_by else None
    assert len(selector.get_indices(np.arange(10) / 10, groups)) == 5
    assert arguments.selector == ("random" if arguments.group_by else "cut")
    if arguments.dataset.endswith(".jsonl"):
        assert (ROOT / arguments.dataset).is_file()


def test_there_are_configs() -> None:
    assert {"alpaca", "demo"} <= {path.stem for path in CONFIGS}


def test_command_line_wins_over_yaml(recipe: Recipe, tmp_path: Path) -> None:
    lines = ["selector: hardest", "keep: 4", "schedule: 0, 0.5", "seed: 3", "overwrite: true", "max_rows: 10"]
    (tmp_path / "config.yaml").write_text("\n".join(lines), encoding="utf-8")
    found = manifest(recipe("--config", str(tmp_path / "config.yaml"), "--keep", "0.3"))
    assert found["options"]["keep"] == 0.3
    assert found["options"]["selector"] == "hardest"
    assert found["schedule"] == [0.0, 0.05, 0.2]  # given by both
    assert found["scorer"]["config"]["seed"] == 3
    assert found["kept_rows"] == 3


def test_results_are_not_overwritten_unasked(recipe: Recipe) -> None:
    output = recipe("--keep", "3")
    before = {name: (output / name).read_bytes() for name in FILES}
    with pytest.raises(SystemExit, match="--overwrite"):
        recipe("--keep", "4")
    assert {name: (output / name).read_bytes() for name in FILES} == before
    assert manifest(recipe("--keep", "4", "--overwrite"))["kept_rows"] == 4
    assert len(load_from_disk(str(output / "pruned"))) == 4


# ---- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--keeep", "3"], "--keeep"),
        (["--keep", "half"], "half"),
        (["--keep", "3", "--keep_tokens", "30"], "keep_tokens"),
        (["--selector", "best"], "best"),
        (["--masking", "sparse"], "sparse"),
        (["--config", "no_such.yaml"], "no_such.yaml"),
    ],
)
def test_wrong_options(refusal: Callable[..., str], arguments: list[str], says: str) -> None:
    assert says in refusal(*arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--keep", "21"], "20 rows that have a score"),
        (["--keep", "0"], "at least 1"),
        (["--keep", "1.5"], "(0, 1]"),
        (["--keep_tokens", "0"], "at least 1"),
        (["--keep_tokens", "1000000"], "keep_tokens must be at most"),
        ([*FLEXRAND, "--selection_split", "1.5"], "split"),
        (["--group_by", "subject"], "subject"),
        (["--group_by", "tags"], "single values"),
        (["--flag_column", "bad"], "bad"),
        (["--flag_column", "dlc_tokens"], "dlc_tokens"),
        (["--flag_column", "topic"], "topic"),  # text: "False" would count as true
        (["--column", "quality"], "quality"),
        ([*FLEXRAND, "--column", "wrong"], "easy="),  # which way is easy?
    ],
)
def test_what_cannot_be_selected_is_said_before_the_run(
    refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    def score(*_: Any, **__: Any) -> None:
        raise AssertionError("scoring may take hours")

    monkeypatch.setattr(DLCScorer, "score", score)
    assert says in refusal(*arguments)


def test_more_than_have_the_score_are_refused_ahead(refusal: Callable[..., str], tmp_path: Path) -> None:
    rows = [{"prompt": "Name a colour." if number < 6 else "", "completion": "Red."} for number in range(10)]
    dataset = write_rows(tmp_path / "rows.jsonl", rows)
    options = ["--scores", "confidence,ifd", "--column", "dlc_ifd", "--keep", "7"]
    assert "hold 5. Ask for at most 5. Or pass a smaller cut" in refusal(*options, dataset=dataset)
    assert "hold 6. Ask for at most 6" in refusal(*options, "--cut", "0", dataset=dataset)


def test_unknown_option_in_yaml(refusal: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("keeep: 3\n", encoding="utf-8")
    assert "keeep" in refusal("--config", str(tmp_path / "config.yaml"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("selector: best", "'best'"),
        ("calibration_shares: 0.5", "float"),
        ("keep: [1, 2]", "[1, 2]"),
        ("columns: src", "src=instruction"),
    ],
)
def test_wrong_value_in_yaml(refusal: Callable[..., str], tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "config.yaml").write_text(line, encoding="utf-8")
    assert says in refusal("--config", str(tmp_path / "config.yaml"))


def test_schedule_of_one_number_in_yaml(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("schedule: 0.05", encoding="utf-8")
    [config] = parse_config_and_args([DLCConfig], ["--config", str(tmp_path / "config.yaml")])
    assert config.mask_schedule.fractions == (0.0, 0.05)


@pytest.mark.parametrize("name", ["no_such.jsonl", "no_such.csv.gz", "no_such.txt", "no/such/folder"])
def test_missing_dataset(refusal: Callable[..., str], tmp_path: Path, name: str) -> None:
    assert name in refusal(dataset=tmp_path / name)


def test_wrong_suffix(refusal: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("text", encoding="utf-8")
    message = refusal(dataset=tmp_path / "rows.txt")
    assert "rows.txt" in message
    assert ".jsonl" in message


def test_broken_file(refusal: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a", "output": \n', encoding="utf-8")
    assert "rows.jsonl" in refusal(dataset=tmp_path / "rows.jsonl")


def test_unknown_layout(refusal: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question_de": "a", "antwort": "b"}\n', encoding="utf-8")
    assert "antwort" in refusal(dataset=tmp_path / "rows.jsonl")


def test_missing_split(refusal: Callable[..., str], tmp_path: Path) -> None:
    DatasetDict({"train": Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "splits")
    message = refusal("--split", "validation", dataset=tmp_path / "splits")
    assert "validation" in message
    assert "train" in message


def test_missing_model(refusal: Callable[..., str], tmp_path: Path) -> None:
    assert "no_such_model" in refusal("--model", str(tmp_path / "no_such_model"))


def test_folder_that_is_no_model(refusal: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "empty_model").mkdir()
    assert "empty_model" in refusal("--model", str(tmp_path / "empty_model"))


def test_model_that_cannot_be_calibrated(
    refusal: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DLC_CACHE", str(tmp_path / "cache"))
    assert "schedule" in refusal("--schedule", "calibrated")


# ---- processes -------------------------------------------------------------------------------------------------


@pytest.mark.distributed
def test_two_processes_write_what_one_writes(
    llama_folder: Path, rows_file: Path, results: Path, tmp_path: Path
) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = options(llama_folder, rows_file, tmp_path / "results", "--flag_column", "wrong")
    environment = {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, str(ROOT / "recipes" / "prune_alpaca.py"), *arguments],
        env={**os.environ, **environment, "HF_DATASETS_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=300,  # a busy machine takes long to import
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "results" / "scores.parquet").read_bytes() == (results / "scores.parquet").read_bytes()
    assert manifest(tmp_path / "results")["run"]["processes"] == 2
    assert manifest(tmp_path / "results")["kept_indices"] == manifest(results)["kept_indices"]
    assert done.stdout.count("- kept: ") == 1  # the summary is the main process's
