"""The command line, from the scores to the Hub, and what it says when something is wrong."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from datasets import Dataset, load_from_disk

from hf_dlc import DLCConfig, FlexRandSelector, RandomSelector
from hf_dlc.cli import commands as cli
from hf_dlc.cli import exits
from hf_dlc.cli.__main__ import main as program
from hf_dlc.cli.commands import COMMANDS, main
from hf_dlc.cli.exits import run_program
from hf_dlc.cli.parse import parse_config_and_args
from hf_dlc.pipeline import prune
from hf_dlc.pipeline.options import PruneArguments
from tests.conftest import ROOT, SCORING
from tests.hub.hub_server import TOKEN, HubServer
from tests.rows import SCORED_ROWS, write_rows


pytestmark = pytest.mark.usefixtures("empty_plots")


ROWS = SCORED_ROWS


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command with --json and return what it found."""

    def run_command(*arguments: Any) -> Any:
        capsys.readouterr()
        main([*map(str, arguments), "--json"])
        return json.loads(capsys.readouterr().out)

    return run_command


def fails(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str]:
    """Status and message of a command that goes wrong: one line, no traceback."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([*map(str, arguments)])
    if isinstance(caught.value.code, str):
        return 1, caught.value.code
    return caught.value.code, capsys.readouterr().err.strip()


def test_scores_and_how_they_came_about(scored_run: Path) -> None:
    assert {"scores.parquet", "scoring.json", "journal"} <= {path.name for path in scored_run.iterdir()}
    scoring = json.loads((scored_run / "scoring.json").read_text(encoding="utf-8"))
    assert scoring["schedule"] == [0.0, 0.05, 0.2]
    assert scoring["dataset"]["rows"] == len(ROWS)


def test_select_as_the_library_does(
    run: Callable[..., Any], scored_run: Path, scored: Dataset, tmp_path: Path
) -> None:
    more = ["--selector", "flexrand", "--selection_split", "0.75", "--output_dir", tmp_path / "half"]
    found = run("select", "--run_dir", scored_run, "--keep", "0.5", *more)
    assert found["kept_rows"] == 11
    assert found["status"] == {"ok": 20, "empty_response": 2}
    kept = FlexRandSelector(keep=0.5, split=0.75).read_indices(scored).tolist()
    pruned = load_from_disk(str(tmp_path / "half" / "pruned"))
    assert pruned["output"][:] == [ROWS[i]["output"] for i in kept]
    manifest = json.loads((tmp_path / "half" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["kept_indices"] == kept
    assert manifest["selection"]["selector"] == "FlexRandSelector"


def test_a_subset_is_not_replaced_unasked(
    run: Callable[..., Any], scored_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["select", "--run_dir", scored_run, "--output_dir", tmp_path, "--keep"]
    run(*arguments, "3")
    status, message = fails(capsys, *arguments, "4")
    assert (status, "holds another subset or run. Pass --overwrite" in message) == (1, True)
    assert run(*arguments, "4", "--overwrite")["kept_rows"] == 4


@pytest.mark.parametrize(
    "wrong", [["--keep", "100"], ["--keep", "3", "--group_by", "nope"], ["--keep", "3", "--flag_column", "topic"]]
)
def test_what_cannot_be_selected_leaves_the_subset_that_is_there(
    run: Callable[..., Any], scored_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str]
) -> None:
    arguments = ["select", "--run_dir", scored_run, "--output_dir", tmp_path]
    run(*arguments, "--keep", "3")
    fails(capsys, *arguments, *wrong, "--overwrite")
    assert json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))["kept_rows"] == 3
    assert run("report", "--run-dir", tmp_path)


def test_scores_of_another_run_are_not_replaced_unasked(
    run: Callable[..., Any], scored_run: Path, llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--dataset", scored_run.parent / "rows.jsonl", "--model", llama_folder, "--num_threads", "1"]
    run("score", *options, "--schedule", "0, 0.3", "--output_dir", tmp_path)
    before = (tmp_path / "scores.parquet").read_bytes()
    status, message = fails(capsys, "select", "--run_dir", scored_run, "--output_dir", tmp_path, "--keep", "3")
    assert (status, "holds another subset or run" in message) == (1, True)
    assert (tmp_path / "scores.parquet").read_bytes() == before
    run("score", *options, "--schedule", "0, 0.2", "--output_dir", tmp_path, "--overwrite")  # asked for
    assert json.loads((tmp_path / "scoring.json").read_text(encoding="utf-8"))["schedule"] == [0.0, 0.2]


def test_rows_from_elsewhere(
    run: Callable[..., Any], scored_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some of the rows in a file of their own: the subset says so, and report and push find them again."""
    Dataset.from_list([ROWS[i] for i in (9, 2, 20, 4)]).to_json(str(tmp_path / "some.jsonl"))
    half = ["--run_dir", scored_run, "--output_dir", tmp_path / "half", "--flag_column", "is_odd"]
    flagged = [{**ROWS[i], "is_odd": i % 2 == 1} for i in (9, 2, 20, 4)]
    Dataset.from_list(flagged).to_json(str(tmp_path / "some.jsonl"))
    assert run("select", *half, "--dataset", tmp_path / "some.jsonl", "--keep", "2")["kept_rows"] == 2
    manifest = json.loads((tmp_path / "half" / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["dataset"]["name"], manifest["dataset"]["rows"]) == (str(tmp_path / "some.jsonl"), 4)
    run("report", "--run_dir", tmp_path / "half")
    assert "Rows with <code>is_odd</code>" in (tmp_path / "half" / "report.html").read_text(encoding="utf-8")
    (tmp_path / "some.jsonl").rename(tmp_path / "moved.jsonl")
    run("report", "--run_dir", tmp_path / "half", "--dataset", tmp_path / "moved.jsonl")
    page = (tmp_path / "half" / "report.html").read_text(encoding="utf-8")
    assert f"<title>What was kept of {tmp_path / 'moved.jsonl'}" in page
    twice = Dataset.from_list([*ROWS, *({**row, "output": "other"} for row in ROWS)])
    twice.to_json(str(tmp_path / "twice.jsonl"))
    message = fails(capsys, "select", "--run_dir", scored_run, "--dataset", tmp_path / "twice.jsonl", "--overwrite")[1]
    assert "22 of 44 rows" in message


def test_compare_shows_what_others_would_keep(run: Callable[..., Any], scored_run: Path, scored: Dataset) -> None:
    options = ["--run_dir", scored_run, "--keep", "0.25"]
    found = {row["selector"]: row for row in run("compare", *options, "--selector", "flexrand")}
    assert set(found) == {"flexrand 0.25", "flexrand 0.5", "flexrand 0.75", "random", "easiest", "hardest"}
    assert {row["rows"] for row in found.values()} == {6}
    assert found["flexrand 0.5"]["overlap"] == 1.0
    left_open = {row["selector"]: row["overlap"] for row in run("compare", *options)}
    assert [name for name, overlap in left_open.items() if overlap == 1.0] == ["random"]
    assert found["easiest"]["confidence"] > found["random"]["confidence"] > found["hardest"]["confidence"]
    random = scored.select(RandomSelector(keep=0.25).read_indices(scored).tolist())
    assert found["random"]["tokens"] == sum(random["dlc_tokens"])


def test_report_of_a_subset(run: Callable[..., Any], copy_of_run: Path, tmp_path: Path) -> None:
    run("select", "--run_dir", copy_of_run, "--keep", "5", "--group_by", "topic", "--overwrite")
    assert run("report", "--run-dir", copy_of_run, "--output", tmp_path / "page.html")["report"].endswith("page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Kept and dropped by <code>topic</code>" in page


def test_estimate(run: Callable[..., Any], scored_run: Path, llama_folder: Path) -> None:
    rows = scored_run.parent / "rows.jsonl"
    found = run("estimate", "--dataset", rows, "--model", llama_folder, "--schedule", "0, 0.2", "--num_threads", "1")
    assert (found["rows"], found["skipped"]) == (22, {"empty_response": 2})
    assert found["scoring_training_ratio"] == found["seconds"] / found["training_seconds"]
    arguments = ["estimate", "--dataset", rows, "--model", llama_folder, "--schedule", "0", "--num_threads", "1"]
    assert run(*arguments, "--measure-training", "false")["training_seconds"] is None


def test_agree(
    run: Callable[..., Any], scored_run: Path, llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["--dataset", scored_run.parent / "rows.jsonl", "--num_threads", "1", "--schedule", "0, 0.1, 0.2"]
    found = run("agree", *rows, "--model", llama_folder, "--levels", "fast", "--rows", "20", "--keep", "0.3")
    assert (found["sampled"], found["keep"]) == (20, 0.3)
    assert found["other"].endswith("(3 levels)")
    assert {one["score"] for one in found["scores"]} == {"confidence", "loss", "gain"}
    found = run("agree", *rows, "--model", llama_folder, "--other", llama_folder, "--levels", "single")
    assert (found["scorer"][-9:], found["other"][-10:]) == ("(1 level)", "(3 levels)")
    main(["agree", *map(str, rows), "--model", str(llama_folder), "--levels", "single", "--threshold", "1.0"])
    assert capsys.readouterr().out.startswith("Below 1: ")
    status, message = fails(capsys, "agree", *rows, "--model", llama_folder)
    assert (status, "this scorer runs all levels already" in message) == (1, True)


# ---- what is wrong ------------------------------------------------------------------------------------------------


WRONG = [
    *(([name], 2, "--dataset is required: ") for name in ("estimate", "agree", "score", "study")),
    (["score", "--no_such_option", "3"], 2, "unknown options: --no_such_option 3; see --help"),
    (["score", "--dataset", "demo", "--dtype", "int3"], 2, "dtype"),
    (["score", "--config", "missing.yaml"], 2, "missing.yaml"),
    (["score", "--dataset", "missing.jsonl"], 1, "there is no file missing.jsonl"),
    (["select", "--run_dir", "nowhere"], 1, "nowhere holds no finished scoring"),
    (["compare", "--run_dir", "nowhere"], 1, "nowhere holds no finished scoring"),
    (["report", "--run_dir", "nowhere"], 1, "nowhere holds no subset"),
    (["push", "--run_dir", "nowhere", "--repo_id", "me/x"], 1, "nowhere holds no subset"),
    (["push", "--run_dir", "nowhere"], 2, "--repo-id is required: Dataset repository"),
    (["select", "--keep", "0.5", "--keep_tokens", "10"], 2, "pass keep or keep_tokens, not both"),
    (["select", "--keep", "half"], 2, "keep must be a share such as 0.5 or a number of rows, got 'half'"),
]


@pytest.mark.parametrize(("arguments", "status", "message"), WRONG, ids=lambda value: None)
def test_what_is_wrong_is_one_line(
    arguments: list[str],
    status: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    found = fails(capsys, *arguments)
    assert found[0] == status
    assert message in found[1]
    assert "\n" not in found[1]


def test_groups_of_a_type_that_cannot_be_used(scored_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("select", "compare"):
        more = ["--overwrite"] if command == "select" else []
        status, message = fails(capsys, command, "--run_dir", scored_run, "--group_by", "dlc_confidence", *more)
        assert status == 1
        assert message.startswith(f"hf-dlc {command}: group keys must be strings, integers or None, got 0.")


def test_rows_that_have_changed_are_refused(
    scored_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = [{**row, "output": row["output"] + "!"} for row in ROWS]
    Dataset.from_list(changed).to_json(str(tmp_path / "rows.jsonl"))
    status, message = fails(capsys, "select", "--run_dir", scored_run, "--dataset", tmp_path / "rows.jsonl")
    assert status == 1
    assert "22 of 22 rows" in message
    assert "are not the rows that were scored" in message


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches_by_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: hf-dlc {name}" in text
    assert f"examples:\n  hf-dlc {name}" in text


@pytest.mark.parametrize(
    ("arguments", "expected"), [(["--help"], []), (["--version"], []), (["score", "--help"], ["transformers"])]
)
def test_help_comes_at_once(arguments: list[str], expected: list[str]) -> None:
    """It imports none of the libraries that take seconds, but for the parser of options."""
    program = f"""
        import sys
        from hf_dlc.cli.commands import main

        try:
            main({arguments!r})
        except SystemExit:
            print([name for name in ("torch", "transformers", "datasets", "pandas") if name in sys.modules])
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", dedent(program)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(expected)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--print-completion", shell])
    assert caught.value.code == 0
    script = capsys.readouterr().out
    assert "estimate" in script
    assert "calibration_shares" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_no_command_shows_a_job_in_four_lines(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[:4]] == ["estimate", "score", "select", "push"]
    for line in lines[:4]:
        name, *options = shlex.split(line.partition("#")[0])[1:]
        parse_config_and_args(COMMANDS[name].arguments, options)


def test_what_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    status, message = fails(capsys, "prune")
    assert status == 2
    assert message.splitlines()[0].startswith("usage: hf-dlc")
    assert "COMMAND" in message.splitlines()[-1]


def test_one_file_of_options_is_for_all_commands(run: Callable[..., Any], scored_run: Path, tmp_path: Path) -> None:
    lines = ["keep: 4", "masking: random", "trust_remote_code: false", f"run_dir: {scored_run}", "overwrite: true"]
    (tmp_path / "options.yaml").write_text("\n".join(lines), encoding="utf-8")
    assert run("select", "--config", tmp_path / "options.yaml", "--output-dir", tmp_path / "four")["kept_rows"] == 4


def test_a_subset_in_a_folder_of_its_own_can_be_gone_on_with(
    run: Callable[..., Any], scored_run: Path, tmp_path: Path
) -> None:
    run("select", "--run_dir", scored_run, "--keep", "6", "--output_dir", tmp_path / "six")
    assert run("report", "--run-dir", tmp_path / "six")["report"] == str(tmp_path / "six" / "report.html")
    assert run("select", "--run-dir", tmp_path / "six", "--keep", "2", "--overwrite")["kept_rows"] == 2


def test_the_demo_is_that_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With other words for the same options."""
    ran: list[tuple[PruneArguments, DLCConfig]] = []
    monkeypatch.setattr(prune, "prune", lambda options, config, _: ran.append((options, config)))
    main(["demo", "--output_dir", str(tmp_path)])
    yaml = ["--config", str(ROOT / "recipes" / "configs" / "demo.yaml"), "--output_dir", str(tmp_path)]
    options, config = parse_config_and_args([PruneArguments, DLCConfig], yaml)
    assert [(replace(given, overwrite=True), scoring) for given, scoring in ran] == [(options, config)]


def test_the_demo_replaces_no_run(scored_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._is_demo(cli.DemoArguments(output_dir=str(scored_run))) is False


@pytest.mark.usefixtures("ctrl_c_raises")
def test_a_second_ctrl_c_is_ignored() -> None:
    with pytest.raises(SystemExit, match=r"^hf-dlc score: interrupted\. Go on\.$"):
        run_program(lambda: signal.raise_signal(signal.SIGINT), "hf-dlc score", again="Go on.")
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.usefixtures("ctrl_c_raises")
def test_ctrl_c_while_libraries_are_imported_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "parse_config_and_args", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    with pytest.raises(SystemExit, match=r"^hf-dlc score: interrupted\. The same command goes on where it stopped\.$"):
        main(["score"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(cli, "main", lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(SystemExit, match=r"^hf-dlc: interrupted\.$"):
        program()


# ---- other programs that start it --------------------------------------------------------------------------------


@pytest.mark.distributed
def test_two_processes_score_as_one(scored_run: Path, llama_folder: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = ["--dataset", scored_run.parent / "rows.jsonl", "--model", llama_folder, *SCORING]
    options = ["--output_dir", tmp_path / "run", "--json"]
    done = subprocess.run(
        [*launcher, "-m", "hf_dlc.cli", "score", *map(str, [*arguments, *options])],
        env={**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["processes"] == 2  # said once, by one of them
    assert (tmp_path / "run" / "scores.parquet").read_bytes() == (scored_run / "scores.parquet").read_bytes()


@pytest.mark.slow
def test_who_reads_may_stop_reading(scored_run: Path) -> None:
    """As `head` does: no traceback, no noise."""
    command = [sys.executable, "-m", "hf_dlc.cli", "compare", "--run_dir", str(scored_run)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert b"Error" not in process.stderr.read()
    assert process.returncode == 0


@pytest.mark.slow
def test_the_client_of_the_hub_runs_it_as_an_extension(tmp_path: Path) -> None:
    """`hf dlc` starts the script that `hf extensions install` found in the package: the extension's name is ours."""
    programs = Path(sys.executable).parent
    if not (programs / "hf-dlc").is_file():
        pytest.skip("the package is not installed, so there is no script to start")
    folder = tmp_path / ".local" / "share" / "hf" / "extensions" / "hf-dlc"
    folder.mkdir(parents=True)
    record = {"owner": "me", "repo": "hf-dlc", "repo_id": "me/hf-dlc", "short_name": "dlc", "type": "python"}
    record |= {"executable_path": str(programs / "hf-dlc"), "installed_at": "2026-01-01T00:00:00+00:00"}
    (folder / "manifest.json").write_text(json.dumps(record), encoding="utf-8")
    environment = {**os.environ, "HOME": str(tmp_path), "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    command = [programs / "hf", "dlc", "select", "--run_dir", "nowhere"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "hf-dlc select: nowhere holds no finished scoring" in done.stderr


# ---- all of it ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_from_the_scores_to_another_budget_in_a_fresh_process(llama_folder: Path, tmp_path: Path) -> None:
    """Score, select, push; then load the scores from the Hub in a process that knows nothing else, and reselect."""
    write_rows(tmp_path / "rows.jsonl", ROWS)
    with HubServer() as server:
        environment = {**os.environ, **server.environment(tmp_path / "home"), "PYTHONPATH": str(ROOT)}

        def call(*arguments: Any) -> str:
            done = subprocess.run(
                [sys.executable, *map(str, arguments)], env=environment, cwd=tmp_path, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            assert TOKEN not in done.stdout + done.stderr
            return done.stdout

        command = ["-m", "hf_dlc.cli"]
        call(*command, "score", "--dataset", "rows.jsonl", "--model", llama_folder, *SCORING, "--output_dir", "run")
        split = ["--selector", "flexrand", "--selection-split", "0.75"]
        call(*command, "select", "--run_dir", "run", "--keep", "0.5", *split)
        address = call(*command, "push", "--run_dir", "run", "--repo_id", "me/half", "--license", "mit", "--json")
        assert json.loads(address) == {"address": f"{server.url}/datasets/me/half"}
        reselect = """
            import json
            from datasets import load_dataset
            from hf_dlc import FlexRandSelector, load_scores

            rows = load_dataset("json", data_files="rows.jsonl", split="train")
            pruned = FlexRandSelector(keep=0.25, split=0.75)(load_scores("me/half", rows))
            print(json.dumps(pruned["output"][:]))
        """
        found = json.loads(call("-c", "\n".join(line.strip() for line in reselect.splitlines())))
        call(*command, "select", "--run_dir", "run", "--keep", "0.25", *split, "--overwrite")
        assert found == load_from_disk(str(tmp_path / "run" / "pruned"))["output"][:]
        assert len(found) == 6
        card = server.files("datasets/me/half")["README.md"].decode()
        assert '11 of 22 rows of `"rows.jsonl"`' in card
        scoring, selecting = (set(line.split()) for line in card.splitlines() if line.startswith("hf-dlc "))
        assert {"score", "--dataset", "rows.jsonl", "--schedule", "--dtype", "float32"} <= scoring
        assert {"select", "--run-dir", "run", "--keep", "0.5", *split} <= selecting
        assert "license: mit" in card
        assert str(tmp_path) not in card


def test_a_program_informs_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    logger = logging.getLogger("hf_dlc.somewhere")

    def read_the_rows_again_and_again() -> None:
        for row in range(3):
            logger.info("not read: %r", "source")
            logger.info("reading %d", row)
            logger.warning("no answer; trying again")

    run_program(read_the_rows_again_and_again)
    again = "no answer; trying again"
    said = ["not read: 'source'", "reading 0", again, "reading 1", again, "reading 2", again]
    assert capsys.readouterr().err.splitlines() == said


def test_what_was_said_is_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "_MOST_SAID", 2)
    once = exits._Once()
    record = partial(logging.LogRecord, "hf_dlc", logging.INFO, "", 0, args=(), exc_info=None)
    assert [once.filter(record(msg=letter)) for letter in "abacab"] == [True, True, False, True, True, True]
    assert len(once._said) == 2


def test_a_faulty_line_stops_no_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    assert run_program(lambda: logging.getLogger("hf_dlc.somewhere").info("no place for", 1) or "done") == "done"
    assert "Logging error" in capsys.readouterr().err


def test_a_report_is_shown_in_a_browser_if_asked_for(
    run: Callable[..., Any], copy_of_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr("webbrowser.open", shown.append)
    run("select", "--run-dir", copy_of_run, "--keep", "4")
    run("report", "--run-dir", copy_of_run)
    assert shown == []
    path = run("report", "--run-dir", copy_of_run, "--open")["report"]
    assert shown == [Path(path).resolve().as_uri()]
