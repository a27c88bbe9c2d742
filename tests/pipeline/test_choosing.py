"""Which selector is taken where nobody names one: each rule, what wins over it, and what the record says of it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_from_disk

from hf_dlc import DLCConfig, RandomSelector
from hf_dlc.cli.commands import main
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.pipeline.choosing import choose_for_scored, choose_selector
from hf_dlc.pipeline.compare import compare_selections
from hf_dlc.pipeline.options import PruneArguments, SelectionArguments, make_selector
from hf_dlc.pipeline.selecting import with_features
from hf_dlc.scores.contrast import Contrast
from hf_dlc.scores.table import DEFAULT_SCORES, SCORES
from hf_dlc.selection.table import SELECTORS
from recipes import prune_alpaca
from tests.conftest import ROOT
from tests.rows import many_rows, write_rows


pytestmark = pytest.mark.usefixtures("empty_plots")

ROWS = [{**row, "topic": "ab"[place % 2]} for place, row in enumerate(many_rows(24, ()))]
WANTED = [{"question": f"Name {n} colours?", "answer": "Red and blue."} for n in range(3)]
OPTIONS = ["--schedule", "0, 0.1", "--dtype", "float32", "--num_threads", "1"]
CONTRASTS = ["similarity", "prompt_gain", "ifd"]  # the one that found most wrong responses first
DEMO = ["--config", str(ROOT / "recipes" / "configs" / "demo.yaml")]


def choose(
    scores: list[str] | dict[str, int] = (), has_features: bool = False, prefix: str = "dlc", **options: Any
) -> tuple[SelectionArguments, str | None]:
    counts = scores if isinstance(scores, dict) else dict.fromkeys(scores, 10)
    return choose_selector(SelectionArguments(**options), counts, has_features, prefix)


# ---- the rules -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("has_features", "metric"), [(True, "cosine"), (False, "bm25")])
def test_wanted_rows_decide(has_features: bool, metric: str) -> None:
    """Whatever the scores are; by features if there are any, and else by words."""
    for scores in ([], DEFAULT_SCORES, CONTRASTS):
        chosen, why = choose(list(scores), has_features, target="wanted.jsonl", group_by="topic")
        assert (chosen.selector, chosen.metric, chosen.column) == ("target", metric, None)
        assert "wanted rows are given" in why
        assert ("--features auto scores with them" in why) == (not has_features)


@pytest.mark.parametrize("name", CONTRASTS)
def test_a_score_that_compares_response_and_prompt_cuts(name: str) -> None:
    for prefix in ("dlc", "easy"):
        chosen, why = choose([*DEFAULT_SCORES, name, "plain_loss"], prefix=prefix)
        assert (chosen.selector, chosen.column, chosen.then) == ("cut", f"{prefix}_{name}", "random")
        assert why.startswith(f"{prefix}_{name} compares responses with their prompts")


def test_of_several_the_one_that_found_most() -> None:
    for best in range(3):
        for scores in (CONTRASTS[best:], CONTRASTS[best:][::-1]):
            assert choose(["loss", *scores])[0].column == f"dlc_{CONTRASTS[best]}"


def test_what_they_found_is_what_was_measured() -> None:
    page = (ROOT / "recipes" / "studies" / "README.md").read_text(encoding="utf-8")
    found = dict(re.findall(r"^\| `(\w+)` \| [\d.]+ \([\d.]+–[\d.]+\) \| (\d+) \| [\d.]+ \| .* \| \d+ \|", page, re.M))
    contrasts = {name: score.found_wrong for name, score in SCORES.items() if isinstance(score, Contrast)}
    assert contrasts == {name: int(found[name]) for name in CONTRASTS}
    assert min(contrasts.values()) > max(int(found[name]) for name in found.keys() - contrasts.keys())


@pytest.mark.parametrize("scores", [[], [*DEFAULT_SCORES], ["plain_loss", "entropy", "knn_confidence"]])
def test_otherwise_rows_are_drawn_at_random(scores: list[str]) -> None:
    chosen, why = choose(scores)
    assert (chosen.selector, chosen.column) == ("random", None)
    assert "not by scores. No choice by confidence, loss or gain beat random rows by the loss per row and per" in why
    assert why.endswith("To choose by a score, pass --selector flexrand, easiest, hardest or cut")


def test_at_random_within_groups() -> None:
    chosen, why = choose([*DEFAULT_SCORES], group_by="topic", min_per_group=1, group_shares="equal")
    assert (chosen.selector, chosen.group_by, chosen.min_per_group) == ("random", "topic", 1)
    assert why.startswith("rows are drawn at random within the groups of topic")
    assert "--group-shares equal" not in why
    assert (
        "each topic counts alike to you, pass --group-shares equal" in choose([*DEFAULT_SCORES], group_by="topic")[1]
    )


@pytest.mark.parametrize(("count", "selector"), [(0, "random"), (89, "random"), (90, "cut"), (100, "cut")])
def test_a_score_that_many_rows_lack_does_not_decide(count: int, selector: str) -> None:
    """Rows without it would all be left out. One that fewer rows lack is taken in its place."""
    chosen, why = choose({"loss": 100, "prompt_gain": count})
    assert chosen.selector == selector
    assert ("too many rows lack dlc_prompt_gain" in why) == (selector == "random")
    assert choose({"loss": 100, "ifd": 95, "prompt_gain": count})[0].column == (
        "dlc_ifd" if selector == "random" else "dlc_prompt_gain"
    )
    assert choose({"loss": 100, "prompt_gain": count}, column="dlc_prompt_gain")[0].selector == "cut"  # by wish


# ---- what the user says wins ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SELECTORS)
def test_a_selector_that_is_named_is_taken(name: str) -> None:
    for given in ({}, {"target": "wanted.jsonl"}, {"group_by": "topic"}):
        options = SelectionArguments(selector=name, **given)
        found, why = choose_selector(options, dict.fromkeys(CONTRASTS, 10), True)
        assert found is options
        assert why is None


def test_other_options_win_as_well() -> None:
    for metric in ("cosine", "gradient", "bm25"):
        for has_features in (True, False):
            assert choose([], has_features, target="wanted.jsonl", metric=metric)[0].metric == metric
    asked = {"cut": "0.3", "then": "stratified", "selection_seed": 7, "keep": "5", "column": "dlc_ifd"}
    chosen, _ = choose(CONTRASTS, **asked)
    assert chosen == SelectionArguments(**asked, selector="cut")


def test_a_column_that_does_not_decide_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """It was asked for, but nothing says how to choose by it; rows without it are not drawn."""
    scored = Dataset.from_dict({f"dlc_{name}": [0.1, 0.2, 0.3] for name in ("loss", "ifd")})
    with caplog.at_level("WARNING", "hf_dlc"):
        chosen, _ = choose_for_scored(scored, SelectionArguments(column="dlc_loss"))
    assert (chosen.selector, chosen.column) == ("random", "dlc_loss")
    assert "dlc_loss tells only which rows have a score. " in caplog.text
    assert "To choose by a score, pass --selector flexrand" in caplog.text


def test_a_selector_that_is_left_open_is_not_made() -> None:
    with pytest.raises(ValueError, match=r"selector must be one of flexrand, .* by now, got 'auto'"):
        make_selector(SelectionArguments())


# ---- in programs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_rows(folder / "pool.jsonl", ROWS)
    write_rows(folder / "wanted.jsonl", WANTED)
    return folder


@pytest.fixture(scope="module")
def run_dir(files: Path, llama_folder: Path) -> Path:
    """A run with scores of contrast and without features, of which the tests only read."""
    options = ["--dataset", files / "pool.jsonl", "--model", llama_folder, "--output_dir", files / "run"]
    main(list(map(str, ["score", *options, *OPTIONS, "--scores", "loss,ifd,prompt_gain"])))
    return files / "run"


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def ran_again(words: list[str], output: Path) -> list[int]:
    """The rows that a recorded command keeps when it is run again, into another folder."""
    programs: dict[str, Callable[[list[str]], None]] = {"select": main, "recipes/prune_alpaca.py": prune_alpaca.main}
    [program] = [program for program in programs if program in words]
    rest = words[words.index(program) + 1 :]
    rest = [word for place, word in enumerate(rest) if "--output_dir" not in (word, rest[place - 1])]
    programs[program]([*(["select"] if program == "select" else []), *rest, "--output_dir", str(output)])
    return manifest_of(output)["kept_indices"]


@pytest.mark.parametrize(
    ("more", "selector", "column"),
    [
        ([], "CutSelector", "dlc_prompt_gain"),
        (["--column", "dlc_ifd", "--cut", "0.2", "--group_by", "topic"], "CutSelector", "dlc_ifd"),
        (["--column", "dlc_loss"], "RandomSelector", "dlc_loss"),
        (["--selector", "flexrand", "--column", "dlc_loss"], "FlexRandSelector", "dlc_loss"),
        (["--target", "WANTED"], "TargetSelector", "dlc_loss"),
    ],
)
def test_select_says_and_records_what_it_chose(
    run_dir: Path, files: Path, tmp_path: Path, caplog: Any, capsys: Any, more: list[str], selector: str, column: str
) -> None:
    """Once, and so that the recorded command does the same when another default comes."""
    if selector == "TargetSelector":
        pytest.importorskip("bm25s", reason="an extra")
    more = [str(files / "wanted.jsonl") if word == "WANTED" else word for word in more]
    with caplog.at_level("INFO", "hf_dlc"):
        main(["select", "--run_dir", str(run_dir), "--output_dir", str(tmp_path / "first"), "--keep", "9", *more])
    found = manifest_of(tmp_path / "first")
    name, why = found["options"]["selector"], found["selector_reason"]
    assert (found["selection"]["selector"], found["selection"]["column"]) == (selector, column)
    assert SELECTORS[name].__class__.__name__ == selector
    assert caplog.text.count(f"selector {name}: ") == ("--selector" not in more)
    assert (why is None) == ("--selector" in more)
    assert why is None or f"selector {name}: {why}" in caplog.text
    [*_, again] = found["commands"]
    assert again[again.index("--selector") + 1] == name
    assert ran_again(again, tmp_path / "again") == found["kept_indices"]
    assert manifest_of(tmp_path / "again")["selector_reason"] is None
    capsys.readouterr()


def test_a_later_selection_says_its_own_reason(files: Path, llama_folder: Path, tmp_path: Path, capsys: Any) -> None:
    """The recipe has recorded one; that of a selector that is named is nobody's."""
    options = ["--dataset", files / "pool.jsonl", "--model", llama_folder, "--output_dir", tmp_path / "run", *OPTIONS]
    prune_alpaca.main(list(map(str, options)))
    assert "No choice by confidence, loss or gain" in manifest_of(tmp_path / "run")["selector_reason"]
    main(["select", "--run_dir", str(tmp_path / "run"), "--selector", "easiest", "--overwrite"])
    assert manifest_of(tmp_path / "run")["selector_reason"] is None
    capsys.readouterr()


@pytest.mark.parametrize(
    ("more", "name"),
    [
        (["--group_by", "topic"], "random"),
        (["--scores", "loss,ifd", "--cut", "0.25"], "cut"),
        (["--scores", "loss,ifd", "--target", "WANTED"], "target"),
    ],
)
def test_recipe_says_and_records_what_it_chose(
    files: Path, llama_folder: Path, tmp_path: Path, caplog: Any, capsys: Any, more: list[str], name: str
) -> None:
    """Features are written where they will be gone by."""
    more = [str(files / "wanted.jsonl") if word == "WANTED" else word for word in more]
    options = ["--dataset", files / "pool.jsonl", "--model", llama_folder, "--output_dir", tmp_path / "run", *OPTIONS]
    with caplog.at_level("INFO", "hf_dlc"):
        prune_alpaca.main(list(map(str, [*options, *more, "--keep", "8"])))
    found = manifest_of(tmp_path / "run")
    assert caplog.text.count(f"selector {name}: {found['selector_reason']}") == 1
    scoring = json.loads((tmp_path / "run" / "scoring.json").read_text(encoding="utf-8"))
    assert found["options"]["selector"] == scoring["options"]["selector"] == name
    pruned = load_from_disk(str(tmp_path / "run" / "pruned"))
    assert ("dlc_features" in pruned.column_names) == (name == "target")
    assert ran_again(found["commands"][0], tmp_path / "again") == found["kept_indices"]
    kept, ifd = found["kept_indices"], Dataset.from_parquet(str(tmp_path / "run" / "scores.parquet"))
    if name == "random":
        assert Counter(pruned["topic"]) == {"a": 4, "b": 4}
        drawn = RandomSelector(keep=8, group_by="topic").read_indices(Dataset.from_list(ROWS))
        assert kept == drawn.tolist()
    elif name == "cut":
        hardest = sorted(range(len(ROWS)), key=ifd["dlc_ifd"][:].__getitem__)[-6:]
        assert not set(kept) & set(hardest)
    else:
        assert found["selection"]["metric"] == "cosine"
        assert len(set(pruned["dlc_wanted"])) == len(WANTED)
    capsys.readouterr()


def test_features_are_made_for_wanted_rows_alone() -> None:
    config = DLCConfig(scores=("ifd",))
    assert with_features(SelectionArguments(target="wanted.jsonl"), config).features == "auto"
    assert with_features(SelectionArguments(target="wanted.jsonl", metric="gradient"), config).features == "gradient"
    for options in ({}, {"target": "wanted.jsonl", "metric": "bm25"}, {"target": "x", "selector": "random"}):
        assert with_features(SelectionArguments(**options), config).features is None


def test_rows_with_features_are_compared_by_these(
    files: Path, llama_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    options = ["--dataset", files / "pool.jsonl", "--model", llama_folder, "--output_dir", tmp_path, *OPTIONS]
    main(list(map(str, ["score", *options, "--scores", "loss", "--features", "auto"])))
    main(["select", "--run_dir", str(tmp_path), "--target", str(files / "wanted.jsonl"), "--keep", "4"])
    assert manifest_of(tmp_path)["selection"]["metric"] == "cosine"
    capsys.readouterr()


def test_compare_holds_the_others_against_what_would_be_chosen(run_dir: Path, files: Path, capsys: Any) -> None:
    def overlaps(*more: str) -> dict[str, float]:
        capsys.readouterr()
        main(["compare", "--run_dir", str(run_dir), "--keep", "8", *more, "--json"])
        return {row["selector"]: row["overlap"] for row in json.loads(capsys.readouterr().out)}

    assert {name for name, overlap in overlaps("--cut", "0.3").items() if overlap == 1} == {"cut"}
    by_loss = overlaps("--column", "dlc_loss", "--cut", "0.3")
    assert {name for name, overlap in by_loss.items() if overlap == 1} == {"random"}
    pytest.importorskip("bm25s", reason="an extra")
    wanted = overlaps("--target", str(files / "wanted.jsonl"))
    assert {name for name, overlap in wanted.items() if overlap == 1} == {"target"}


def test_compare_keeps_the_columns_of_the_others() -> None:
    """The column that is chosen is for its selector alone."""
    columns = {"confidence": range(8), "ifd": [3, 1, 7, 5, 0, 2, 6, 4], "prompt_gain": [6, 2, 4, 0, 7, 3, 1, 5]}
    scored = Dataset.from_dict({f"dlc_{name}": [float(one) for one in values] for name, values in columns.items()})
    scored = scored.add_column("dlc_tokens", [4] * 8)
    found = {row["selector"]: row for row in compare_selections(scored, SelectionArguments(keep="2", cut="0.25"))}
    assert found["easiest"]["confidence"] == 6.5
    assert found["cut"]["overlap"] == 1.0
    assert found["cut"]["prompt_gain"] > 1


# ---- the demo ------------------------------------------------------------------------------------------------------


def test_the_demo_leaves_the_selector_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from hf_dlc.pipeline import prune

    ran: list[PruneArguments] = []
    monkeypatch.setattr(prune, "prune", lambda options, config, _: ran.append((options, config)))
    main(["demo", "--output_dir", str(tmp_path)])
    for options, config in [*ran, parse_config_and_args([PruneArguments, DLCConfig], DEMO)]:
        chosen, _ = choose_selector(options, dict.fromkeys(config.scores, 320), True)
        assert (options.selector, chosen.selector, chosen.column) == ("auto", "cut", "dlc_prompt_gain")


@pytest.mark.slow
def test_the_demo_keeps_fewer_wrong_rows_than_random_ones(smollm2_folder: Path, tmp_path: Path, capsys: Any) -> None:
    """With the score alone by which it chooses, since it needs no others for that."""
    options = ["--model", str(smollm2_folder), "--output_dir", str(tmp_path), "--num_threads", "1"]
    prune_alpaca.main([*DEMO, *options, "--scores", "prompt_gain", "--measure_training", "false"])
    flags = load_from_disk(str(tmp_path / "pruned"))["response_swapped"]
    assert len(flags) == 160
    assert sum(flags) < 8  # of 32, of which as many random rows hold 16
    summary = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert f"kept: {sum(flags)} of 32; random rows: 16.0 expected" in summary
    capsys.readouterr()
