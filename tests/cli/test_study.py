"""The command `hf-dlc study`: the verdict in words, or as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from hf_dlc.cli.commands import main
from hf_dlc.study import pilot
from hf_dlc.study.results import StudyResults
from hf_dlc.study.statistics import compare_overall
from hf_dlc.study.verdict import verdict
from tests.rows import many_rows, write_rows
from tests.study.findings import results_of


@pytest.fixture
def options(llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = write_rows(tmp_path / "rows.jsonl", many_rows(40))
    given = {
        "dataset": rows,
        "model": llama_folder,
        "output_dir": tmp_path / "study",
        "num_threads": 1,
        "eval_rows": 8,
    }
    given |= {"lora_layers": 1, "dtype": "float32", "schedule": "0", "arms": "longest", "budgets": 0.5, "seeds": 2}
    given |= {"screening_seeds": 1, "max_seeds": 2, "minutes": 60}
    return [text for name, value in given.items() for text in (f"--{name}", str(value))]


def test_verdict_and_place_of_the_report(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["study", *options])
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "study" / "study.json").read_text(encoding="utf-8"))
    assert printed == f"{record['verdict']['text']}\nWrote {tmp_path / 'study' / 'study.md'}\n"
    assert verdict(StudyResults.from_json(record)).text in (tmp_path / "study" / "study.md").read_text("utf-8")
    assert record["facts"]["pool_rows"] == 32
    main(["study", *options])  # again: nothing is left to do
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("better", [True, False])
def test_as_json(
    better: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What to take is one thing, and the numbers of the best finalist are another."""
    results = results_of({"ifd cut 0.3": -3.0 if better else 0.0, "longest": 2.0})
    monkeypatch.setattr(pilot, "run_pilot", lambda *_: results)
    main(["study", "--dataset", "rows.jsonl", "--output_dir", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["arm"] == ("ifd cut 0.3" if better else "random")
    assert found["verdict"] == verdict(results).text
    assert found["output_dir"] == str(tmp_path)
    assert found["best"] == compare_overall(results, "loss per row")[0].to_json()
    assert found["best"]["arm"] == "ifd cut 0.3"
    assert (tmp_path / "study.md").is_file()


def test_what_is_wrong_is_said_in_a_line(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"takes about .*, got 1e-06 minutes\. Pass more --minutes"):
        main(["study", *options, "--minutes", "1e-6"])
    with pytest.raises(SystemExit, match=r"must have what it needs, got target bm25 \(target\)"):
        main(["study", *options, "--arms", "target bm25"])
    with pytest.raises(SystemExit):
        main(["study", *options, "--arms", "best"])
    assert "hf-dlc study: an arm must be 'oracle', 'longest', one of random" in capsys.readouterr().err
