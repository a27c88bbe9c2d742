"""Selections that need more than scores: wanted rows with features of the same model, and duplicates."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Image, load_from_disk

from hf_dlc import DLCConfig, DLCScorer, PruneReport, TargetSelector
from hf_dlc.cli.commands import main
from hf_dlc.pipeline.options import SelectionArguments
from hf_dlc.pipeline.score_file import Scores, ScoresError
from hf_dlc.pipeline.selecting import with_text_columns
from hf_dlc.selection.vectors import made_by, read_vectors
from recipes import prune_alpaca
from tests.rows import many_rows, write_rows


pytestmark = pytest.mark.usefixtures("empty_plots")

ROWS = [{**row, "topic": "ab"[place % 2]} for place, row in enumerate(many_rows(24, (3,)))]
WANTED = [{"question": f"Name {n} colours?", "answer": "Red and blue."} for n in range(3)]  # of another layout
OPTIONS = ["--schedule", "0, 0.1", "--dtype", "float32", "--num_threads", "1"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_rows(folder / "pool.jsonl", ROWS)
    write_rows(folder / "wanted.jsonl", WANTED)
    return folder


@pytest.fixture(scope="module")
def run_dir(files: Path, llama_folder: Path) -> Path:
    """A run with features, of which the tests only read."""
    output = files / "run"
    options = [*OPTIONS, "--features", "auto", "--output_dir", str(output)]
    main(["score", "--dataset", str(files / "pool.jsonl"), "--model", str(llama_folder), *options])
    return output


@pytest.fixture
def select(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Path]:
    def run(*options: Any) -> Path:
        main(["select", "--run_dir", str(run_dir), "--output_dir", str(tmp_path), *map(str, options)])
        capsys.readouterr()
        return tmp_path

    return run


def scored_by_hand(files: Path, llama_folder: Path) -> tuple[Dataset, Dataset]:
    scorer = DLCScorer.from_pretrained(llama_folder, device="cpu", dtype="float32", schedule="0, 0.1", features=True)
    return scorer.score(Dataset.from_list(ROWS)), scorer.score(Dataset.from_list(WANTED))


def test_target_as_the_library_does(select: Callable[..., Path], files: Path, llama_folder: Path) -> None:
    output = select("--selector", "target", "--target", files / "wanted.jsonl", "--keep", "6")
    pool, wanted = scored_by_hand(files, llama_folder)
    expected = TargetSelector(keep=6, target=wanted).select(pool)
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["kept_indices"] == expected.indices.tolist()
    assert manifest["selection"]["target"] == "3 wanted rows"
    pruned = load_from_disk(str(output / "pruned"))
    assert pruned["dlc_wanted"][:] == expected.notes["wanted"].tolist()
    np.testing.assert_allclose(pruned["dlc_wanted_similarity"][:], expected.notes["wanted_similarity"], atol=1e-2)
    summary = (output / "summary.md").read_text(encoding="utf-8")
    assert "Kept rows by the wanted row that took them" in summary
    assert "dlc_features" not in summary  # no vector is shown
    assert "dlc_wanted: " in summary  # but for each kept row that is shown, the wanted one
    counts = Counter(pruned["dlc_wanted"][:])
    assert all(f"| {wanted} | {count} |" in summary for wanted, count in counts.items())
    assert "dlc_wanted: -1" not in summary  # of rows that were not kept there is nothing to say


def test_rows_drawn_at_random_are_told_apart(select: Callable[..., Path], files: Path) -> None:
    output = select("--selector", "target", "--target", files / "wanted.jsonl", "--keep", "8", "--mix", "0.5")
    pruned = load_from_disk(str(output / "pruned"))
    drawn = [place for place, wanted in enumerate(pruned["dlc_wanted"][:]) if wanted == -1]
    assert len(drawn) == 4
    assert np.isnan(np.array(pruned["dlc_wanted_similarity"][:])[drawn]).all()
    assert "| drawn at random | 4 | - | - |" in (output / "summary.md").read_text(encoding="utf-8")


def test_text_that_is_not_scored_is_not_compared(files: Path, llama_folder: Path, tmp_path: Path, capsys: Any) -> None:
    """Neither in the pool nor in the wanted rows, unless its columns are named."""
    pytest.importorskip("bm25s", reason="an extra")
    pool = [{**row, "source": "colours" if place == 3 else "web"} for place, row in enumerate(ROWS)]
    write_rows(tmp_path / "pool.jsonl", pool)
    write_rows(tmp_path / "wanted.jsonl", [{"question": "Zebra?", "answer": "Zebra.", "origin": "colours"}])
    options = [
        "--dataset",
        tmp_path / "pool.jsonl",
        "--model",
        llama_folder,
        *OPTIONS,
        "--output_dir",
        tmp_path / "run",
    ]
    main(list(map(str, ["score", *options])))
    target = ["--selector", "target", "--target", tmp_path / "wanted.jsonl", "--keep", "1", "--metric", "bm25"]
    for named, row in (([], 0), (["--text_columns", "output,source"], 0), (["--text_columns", '["source"]'], 0)):
        run = [
            "select",
            "--run_dir",
            tmp_path / "run",
            "--output_dir",
            tmp_path / "kept",
            "--overwrite",
            *target,
            *named,
        ]
        main(list(map(str, run)))
        manifest = json.loads((tmp_path / "kept" / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["kept_indices"] == [row]
        columns = ["instruction", "output", "input"] if not named else named[1].strip('[]"').split(",")
        assert manifest["selection"]["text_columns"] == columns
    capsys.readouterr()


def test_what_equals_a_wanted_row_may_be_kept(select: Callable[..., Path], tmp_path: Path) -> None:
    write_rows(tmp_path / "wanted.jsonl", [ROWS[5]])
    target = ["--selector", "target", "--target", tmp_path / "wanted.jsonl", "--keep", "4", "--overwrite"]
    for kind, left_out in (("drop", 1), ("exact", 1), ("keep", 0)):
        output = select(*target, "--contamination", kind)
        manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["left_out"].get("equals_wanted", 0) == left_out


def test_rows_are_drawn_whatever_was_scored(files: Path, llama_folder: Path, tmp_path: Path, capsys: Any) -> None:
    """A selector that goes by no score knows skipped rows by the one that there is."""
    options = ["--dataset", files / "pool.jsonl", "--model", llama_folder, "--output_dir", tmp_path, *OPTIONS]
    prune_alpaca.main(list(map(str, [*options, "--scores", "plain_loss", "--selector", "random", "--keep", "5"])))
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert (len(manifest["kept_indices"]), manifest["selection"]["column"]) == (5, "dlc_plain_loss")
    capsys.readouterr()


def test_the_report_can_be_written_again(
    select: Callable[..., Path], files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = select("--selector", "target", "--target", files / "wanted.jsonl", "--keep", "6")
    main(["report", "--run_dir", str(output), "--verbose"])
    assert "Kept rows by the wanted row" in capsys.readouterr().out


def test_words_need_no_features(files: Path, llama_folder: Path, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("bm25s", reason="an extra")
    options = ["--dataset", str(files / "pool.jsonl"), "--model", str(llama_folder), *OPTIONS]
    main(["score", *options, "--output_dir", str(tmp_path)])
    target = ["--selector", "target", "--target", str(files / "wanted.jsonl"), "--keep", "4"]
    main(["select", "--run_dir", str(tmp_path), *target, "--metric", "bm25"])
    assert len(load_from_disk(str(tmp_path / "pruned"))) == 4
    with pytest.raises(SystemExit, match=r"Column 'dlc_features' not found.*features=True"):
        main(["select", "--run_dir", str(tmp_path), *target, "--overwrite"])
    capsys.readouterr()


@pytest.mark.parametrize("selector", ["transfer", "k_center", "cluster"])
def test_other_selectors_by_features(select: Callable[..., Path], files: Path, selector: str) -> None:
    target = ["--target", files / "wanted.jsonl"] if selector == "transfer" else []
    output = select(
        "--selector", selector, *target, "--keep", "7", "--clusters", "3" if selector != "k_center" else "2"
    )
    assert len(load_from_disk(str(output / "pruned"))) == 7
    assert json.loads((output / "manifest.json").read_text(encoding="utf-8"))["kept_rows"] == 7
    told = "Kept rows by the votes of the wanted rows for their group"
    assert (told in (output / "summary.md").read_text(encoding="utf-8")) == (selector == "transfer")
    main(["report", "--run_dir", str(output)])  # again, from the subset
    assert (told in (output / "summary.md").read_text(encoding="utf-8")) == (selector == "transfer")


def test_groups_and_duplicates(select: Callable[..., Path]) -> None:
    output = select("--selector", "random", "--keep", "8", "--group_by", "topic", "--group_shares", "a=0.75,b=0.25")
    assert Counter(load_from_disk(str(output / "pruned"))["topic"]) == {"a": 6, "b": 2}
    output = select("--selector", "random", "--keep", "3", "--drop_duplicates", "--overwrite")
    pruned = load_from_disk(str(output / "pruned"))
    assert (len(pruned), set(pruned["dup_of"][:])) == (3, {-1})


def test_scores_keep_their_vectors(run_dir: Path, files: Path, llama_folder: Path) -> None:
    pool, _ = scored_by_hand(files, llama_folder)
    scores = Scores.read(run_dir / "scores.parquet")
    shuffled = Dataset.from_list(ROWS).shuffle(1)
    joined = scores.join(shuffled)
    order = [ROWS.index({**row}) for row in shuffled]
    np.testing.assert_array_equal(read_vectors(joined, "dlc_features"), read_vectors(pool, "dlc_features")[order])
    assert made_by(joined, "dlc_features") == made_by(pool, "dlc_features")
    assert isinstance(scores.vectors, np.memmap)


def test_files_of_vectors_that_are_gone_or_wrong(run_dir: Path, tmp_path: Path) -> None:
    for name in ("scores.parquet", "features.npy"):
        (tmp_path / name).write_bytes((run_dir / name).read_bytes())
    assert Scores.read(tmp_path / "scores.parquet").vectors is not None
    np.save(tmp_path / "features.npy", np.zeros((3, 2), dtype=np.float16))
    with pytest.raises(ScoresError, match=r"must hold a vector for each of 24 rows, got float16 of \(3, 2\)"):
        Scores.read(tmp_path / "scores.parquet")
    (tmp_path / "features.npy").write_bytes(b"nothing")
    with pytest.raises(ScoresError, match="is no file of features"):
        Scores.read(tmp_path / "scores.parquet")
    np.save(tmp_path / "features.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ScoresError, match="is no file of features"):  # nothing is unpickled
        Scores.read(tmp_path / "scores.parquet")
    (tmp_path / "features.npy").unlink()
    assert Scores.read(tmp_path / "scores.parquet").vectors is None


def test_recipe_asks_for_features_by_itself(
    files: Path, llama_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ["--dataset", files / "pool.jsonl", "--model", llama_folder, "--output_dir", tmp_path, *OPTIONS]
    options += ["--selector", "target", "--target", files / "wanted.jsonl", "--keep", "5", "--mix", "0.4"]
    with caplog.at_level("INFO", "hf_dlc"):
        prune_alpaca.main(list(map(str, options)))
    assert "the selector target goes by features, which are written as well" in caplog.text
    pruned = load_from_disk(str(tmp_path / "pruned"))
    assert len(pruned) == 5
    assert {"dlc_features", "dlc_wanted"} <= set(pruned.column_names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--selector", "target"], "the selector target needs wanted rows. Pass target, a file of them"),
        (["--selector", "target", "--target", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--selector", "cut"], "rows are selected by dlc_ifd, which is not among the scores that are asked for"),
        (["--selector", "k_center", "--keep", "999"], "asks for 999 rows"),
        (["--group_shares", "equal"], "group_shares='equal' needs groups"),
        (["--selector", "cluster", "--clusters", "0"], "clusters must be an int of at least 1, got 0"),
        (["--selector", "target", "--target", "WANTED", "--mix", "1.5"], "mix must be a share of the budget"),
        (
            ["--selector", "target", "--target", "WANTED", "--metric", "gradient", "--features", "mean"],
            "features='mean'",
        ),
    ],
)
def test_what_cannot_be_selected_is_refused_before_scoring(
    files: Path, llama_folder: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    common = ["--dataset", files / "pool.jsonl", "--model", llama_folder, "--output_dir", tmp_path, *OPTIONS]
    options = [files / "wanted.jsonl" if option == "WANTED" else option for option in options]
    with pytest.raises(SystemExit, match=message.replace(".", r"\.")):
        prune_alpaca.main(list(map(str, [*common, *options])))
    assert not (tmp_path / "scores.parquet").exists()


def test_cut_by_ifd(files: Path, llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--dataset", files / "pool.jsonl", "--model", llama_folder, "--output_dir", tmp_path, *OPTIONS]
    options += ["--scores", "confidence,ifd", "--selector", "cut", "--cut", "0.25", "--keep", "12"]
    prune_alpaca.main(list(map(str, options)))
    capsys.readouterr()
    scored = Dataset.from_parquet(str(tmp_path / "scores.parquet"))
    ifd = np.array(scored["dlc_ifd"][:])
    kept = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))["kept_indices"]
    assert not set(kept) & set(np.argsort(-np.nan_to_num(ifd, nan=-1), kind="stable")[:6].tolist())


def test_compare_says_who_is_left_out(
    run_dir: Path, files: Path, capsys: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "hf_dlc"):
        main(["compare", "--run_dir", str(run_dir), "--keep", "6"])
    shown = capsys.readouterr().out
    assert "| k_center |" in shown
    assert "| target |" not in shown
    assert "target is not compared: it needs wanted rows (target)" in caplog.text
    assert "cut is not compared: it needs the column 'dlc_ifd'" in caplog.text
    main(["compare", "--run_dir", str(run_dir), "--keep", "6", "--target", str(files / "wanted.jsonl")])
    shown = capsys.readouterr().out
    assert "| target |" in shown
    assert "| transfer |" in shown
    assert "does not use: target" not in caplog.text


def test_what_was_left_out_is_counted(files: Path, llama_folder: Path, tmp_path: Path, capsys: Any) -> None:
    """Rows that equal a wanted one, and rows that say the same, in the record and in the report."""
    rows = [*ROWS[:10], *ROWS[:2]]
    write_rows(tmp_path / "pool.jsonl", rows)
    write_rows(tmp_path / "wanted.jsonl", [ROWS[5]])
    options = [
        "--dataset",
        tmp_path / "pool.jsonl",
        "--model",
        llama_folder,
        "--output_dir",
        tmp_path / "run",
        *OPTIONS,
    ]
    options += ["--selector", "target", "--target", tmp_path / "wanted.jsonl", "--keep", "4", "--drop_duplicates"]
    prune_alpaca.main(list(map(str, options)))
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["left_out"] == {"no_score": 1, "duplicate": 2, "equals_wanted": 1}
    summary = (tmp_path / "run" / "summary.md").read_text(encoding="utf-8")
    assert "left out before rows were chosen: 2 `duplicate`, 1 `equals_wanted`" in summary
    capsys.readouterr()


def test_gradients_are_asked_for(files: Path, llama_folder: Path, tmp_path: Path, capsys: Any, run_dir: Path) -> None:
    options = ["--dataset", files / "pool.jsonl", "--model", llama_folder, "--output_dir", tmp_path, *OPTIONS]
    target = ["--selector", "target", "--target", files / "wanted.jsonl", "--keep", "4", "--metric", "gradient"]
    prune_alpaca.main(list(map(str, [*options, *target])))
    assert load_from_disk(str(tmp_path / "pruned"))["dlc_features_by"][0].startswith("gradient 1024 ")
    with pytest.raises(
        SystemExit, match="metric='gradient' needs features that were pooled as gradients, got 'position"
    ):
        main(list(map(str, ["select", "--run_dir", run_dir, "--output_dir", tmp_path, "--overwrite", *target])))
    capsys.readouterr()


def test_options_that_are_not_used_are_named(select: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", "hf_dlc"):
        select("--selector", "random", "--keep", "4", "--mix", "0.5", "--cut", "0.2", "--selection_split", "0.3")
    assert "options that the selector random does not use: selection_split, mix, cut" in caplog.text
    caplog.clear()
    with caplog.at_level("WARNING", "hf_dlc"):
        options = ["--keep", "4", "--clusters", "2", "--temperature", "0.1", "--overwrite"]
        select("--selector", "cluster", *options)
        assert "options that the selector cluster does not use: temperature" in caplog.text
        caplog.clear()
        select("--selector", "cluster", *options, "--cluster_shares", "density")
    assert "does not use" not in caplog.text


def test_cut_auto_is_not_refused_before_scoring(files: Path, llama_folder: Path, tmp_path: Path) -> None:
    """What it says of scores that are not there yet is no reason; what it says of the scores is."""
    options = ["--dataset", files / "pool.jsonl", "--model", llama_folder, "--output_dir", tmp_path, *OPTIONS]
    options += ["--scores", "confidence,ifd", "--selector", "cut", "--cut", "auto", "--keep", "8"]
    with pytest.raises(SystemExit, match="cut='auto' needs a score with two clear peaks"):
        prune_alpaca.main(list(map(str, options)))
    assert (tmp_path / "scores.parquet").exists()


def test_shares_of_groups_in_yaml(files: Path, llama_folder: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "options.yaml").write_text("group_by: topic\ngroup_shares: {a: 0.25, b: 0.75}\n", encoding="utf-8")
    options = ["--dataset", files / "pool.jsonl", "--model", llama_folder, "--output_dir", tmp_path / "run", *OPTIONS]
    prune_alpaca.main(list(map(str, ["--config", tmp_path / "options.yaml", *options, "--keep", "8"])))
    assert Counter(load_from_disk(str(tmp_path / "run" / "pruned"))["topic"]) == {"a": 2, "b": 6}
    again = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))["commands"][0]
    assert '{"a": 0.25, "b": 0.75}' in again
    capsys.readouterr()


def test_a_subset_is_selected_from_again(select: Callable[..., Path], files: Path) -> None:
    target = ["--selector", "target", "--target", files / "wanted.jsonl"]
    output = select(*target, "--keep", "9")
    pruned = load_from_disk(str(output / "pruned"))
    from hf_dlc.pipeline.folder import select_rows
    from hf_dlc.pipeline.record import RunRecord

    wanted = pruned.select([0, 1])
    kept, _, _ = select_rows(pruned, TargetSelector(keep=3, target=wanted, contamination="keep"), RunRecord())
    assert len(kept) == 3
    assert set(kept["dlc_wanted"]) <= {0, 1}


def test_wanted_rows_of_another_layout_than_the_one_that_is_asked_for(
    files: Path, llama_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    options = ["--dataset", files / "pool.jsonl", "--model", llama_folder, "--output_dir", tmp_path, *OPTIONS]
    options += ["--layout", "alpaca", "--selector", "target", "--target", files / "wanted.jsonl", "--keep", "5"]
    prune_alpaca.main(list(map(str, options)))
    assert len(load_from_disk(str(tmp_path / "pruned"))) == 5
    capsys.readouterr()


def test_report_on_a_selection_in_python(files: Path, llama_folder: Path) -> None:
    """What `select` returns tells the report which wanted row took a row; the subset alone cannot."""
    pool, wanted = scored_by_hand(files, llama_folder)
    found = TargetSelector(keep=6, target=wanted).select(pool)
    summary = PruneReport.from_datasets(pool, found, schedule=(0, 0.1)).to_markdown()
    assert "Kept rows by the wanted row that took them" in summary
    assert f"dlc_wanted: {found.notes['wanted'][0]}" in summary


def test_captions_do_not_stand_in_for_pictures() -> None:
    """A column that a layout of text would read names no text to compare where there are pictures."""
    text = Dataset.from_dict({"text": ["a red cat"]})
    shown = text.add_column("image", [None], feature=Image())
    options, config = SelectionArguments(selector="target"), DLCConfig()
    assert with_text_columns(options, text, config).text_columns == '["text"]'
    assert with_text_columns(options, shown, config).text_columns is None
