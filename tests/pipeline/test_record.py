"""The record of a run: read from whoever wrote it, and written again as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from hf_dlc import DLCScorer, FlexRandSelector, RandomSelector, build_manifest
from hf_dlc.hub.card import Subset, render_section
from hf_dlc.pipeline.folder import make_report, read_manifest, read_scores
from hf_dlc.pipeline.record import SCORED_IN_PARTS, RecordError, RunRecord, UsageRecord, describe_scoring
from hf_dlc.pipeline.score_file import ScoresError
from hf_dlc.scores.columns import OK, score_features, with_columns


# Written by the first release, before there was a class for records: that of `hf-dlc select --selector hardest`.
OLD = Path(__file__).with_name("manifest_0_1_0.json")


@pytest.fixture
def old() -> dict[str, Any]:
    return json.loads(OLD.read_text(encoding="utf-8"))


@pytest.fixture
def scored() -> Dataset:
    rows = Dataset.from_dict({"output": list("abcd")})
    numbers = np.arange(4, dtype=np.float32)
    columns = dict(zip(score_features(), [numbers, numbers, numbers, [1] * 4, [OK] * 4], strict=True))
    return with_columns(rows, columns, score_features())


@pytest.fixture
def scorer(llama_folder: Path) -> DLCScorer:
    return DLCScorer.from_pretrained(llama_folder, schedule="0, 0.2", dtype="float32", device="cpu")


def test_a_file_of_an_earlier_version_comes_out_as_it_was(old: dict[str, Any]) -> None:
    record = RunRecord.from_json(old)
    assert record.to_json() == old
    assert (record.dataset.name, record.dataset.rows) == ("rows.jsonl", 22)
    assert record.schedule == (0.0, 0.05, 0.2)
    assert record.scorer.config.masking == "random"
    assert record.run.processes == 1
    assert record.reading.columns["response"] == "output"
    assert (record.selection.selector, record.selection.keep, record.selection.column) == (
        "TopKSelector",
        5,
        "dlc_loss",
    )
    assert record.kept_rows == len(record.kept_indices) == 5


@pytest.mark.parametrize("field", [*json.loads(OLD.read_text(encoding="utf-8"))])
def test_a_field_that_is_not_there_stays_away(old: dict[str, Any], field: str) -> None:
    del old[field]
    assert RunRecord.from_json(old).to_json() == old
    assert RunRecord.from_json({"reading": None}).to_json() == {"reading": None}  # of images
    assert RunRecord.from_json({"dataset": None}).dataset.name is None


@pytest.mark.parametrize("field", ["schedule", "commands", "config", "versions", "status", "keep_levels"])
def test_null_stands_for_a_field_that_is_not_there(old: dict[str, Any], field: str) -> None:
    old[field] = None
    record = RunRecord.from_json(old)
    assert record.to_json() == old
    assert getattr(record, field) == getattr(RunRecord(), field)
    assert record.having(**{field: getattr(RunRecord.from_json(json.loads(OLD.read_text())), field)}).to_json()[field]


def test_whole_numbers_may_be_written_as_floats(old: dict[str, Any]) -> None:
    assert RunRecord.from_json(old | {"kept_rows": 5.0, "status": {"ok": 22.0}}).to_json() == old | {
        "kept_rows": 5,
        "status": {"ok": 22},
    }


def test_the_price_of_a_scoring(old: dict[str, Any]) -> None:
    assert RunRecord.from_json(old).run.price is None  # of a time when nobody measured it
    run = UsageRecord(scoring_seconds=4620.0, training_seconds=3300.0)
    assert run.price == "scoring 1 h 17 min; one epoch of LoRA training on these rows: 55 min; STR 1.4"
    assert UsageRecord.from_json(run.to_json()) == run
    assert run.price_unknown is None
    in_parts = run.having(resumed=True)
    assert (in_parts.price, in_parts.price_unknown) == (None, SCORED_IN_PARTS)  # the seconds are of the last part
    assert UsageRecord(training_unknown="no luck").price_unknown == "no luck"
    assert UsageRecord(scoring_seconds=1.0).price_unknown is None  # of a run too short to ask


def test_a_hostile_record_of_an_extrapolation(old: dict[str, Any], scored: Dataset) -> None:
    text = "<!-- ` | \n# x"
    scores = {text: {"spearman": 0.5, "high": None}, "gain": None}
    found = {"scored": 1, "predicted": 3, "method": text, "scores": scores}
    record = RunRecord.from_json({**old, "extrapolation": found, "run": {"training_unknown": text}})
    assert record.to_json()["extrapolation"] == found
    facts = {"rows": 4, "kept_rows": 1, "base": {}, "files": [], "scores_digest": "", "columns": scored.column_names}
    card = render_section(Subset("one", "me/rows", record=record, **facts), make_report(scored, [0], record).sections)
    shown = "<\u200b!-- \\u0060 \\u007c \\n# x"
    assert card.count(shown) == card.count("# x") == 5  # method, name and reason; in the report name and reason
    with pytest.raises(RecordError, match=r"extrapolation.scores.gain.spearman must be a number, got 'x'"):
        RunRecord.from_json({"extrapolation": {"scores": {"gain": {"spearman": "x"}}}})


def test_fields_of_a_later_version_are_kept(old: dict[str, Any]) -> None:
    old |= {"new": [1, {"a": None}]}
    old["dataset"]["new"], old["selection"]["new"], old["run"]["new"] = "x", {"y": 1}, None
    record = RunRecord.from_json(old)
    assert record.to_json() == old
    assert record.having(schedule=(0.0,)).to_json() == {**old, "schedule": [0.0]}


WRONG = [
    ([], "the record of a run must be a JSON object, got \\[\\]"),
    ({"schedule": "0, 0.2"}, "schedule must be a list, got '0, 0.2'"),
    ({"schedule": [0.0, True]}, r"schedule\[1\] must be a number, got True"),
    ({"schedule": [0.0, "x"]}, r"schedule\[1\] must be a number, got 'x'"),
    ({"dataset": "rows.jsonl"}, "dataset must be a JSON object, got 'rows.jsonl'"),
    ({"dataset": {"rows": 2.5}}, "dataset.rows must be a whole number, got 2.5"),
    ({"dataset": {"name": 3}}, "dataset.name must be text, got 3"),
    ({"scorer": {"config": {"prefix": ["dlc"]}}}, r"scorer.config.prefix must be text, got \['dlc'\]"),
    ({"model_is_local": "no"}, "model_is_local must be true or false, got 'no'"),
    ({"commands": [["hf-dlc", 3]]}, r"commands\[0\]\[1\] must be text, got 3"),
    ({"kept_indices": [0, 1, None]}, r"kept_indices\[2\] must be a whole number, got None"),
    ({"status": {"ok": "many"}}, "status.ok must be a whole number, got 'many'"),
    ({"masking": [{"masked": "all"}]}, r"masking\[0\].masked must be a whole number, got 'all'"),
    ({"selection": {"keep": {}}}, "selection.keep must be a number, got {}"),
    ({"reading": {"unread": "topic"}}, "reading.unread must be a list, got 'topic'"),
]


@pytest.mark.parametrize(("value", "message"), WRONG)
def test_a_value_of_the_wrong_type_is_named(value: Any, message: str) -> None:
    with pytest.raises(RecordError, match=f"^{message}. Restore the record"):
        RunRecord.from_json(value)


def test_records_of_a_scorer_and_a_selector(scorer: DLCScorer, scored: Dataset) -> None:
    source = {"name": "me/rows", "split": "train"}
    scoring = describe_scoring(scorer, source, note={"by": "me"})
    assert (scoring["dataset"], scoring["note"]) == (source, {"by": "me"})  # no field more than was said
    assert scoring["scorer"]["model_digest"] == scorer.describe()["model_digest"]
    assert scoring["schedule"] == [0.0, 0.2]
    assert not {"selection", "run", "reading", "options"} & set(scoring)
    selector = FlexRandSelector(keep=np.float64(0.5))
    manifest = build_manifest(scoring, selector, scored, selector.read_indices(scored), options={"keep": 0.5})
    assert json.loads(json.dumps(manifest)) == manifest
    assert manifest["selection"] | {"keep": 0.5, "split": 0.5, "selector": "FlexRandSelector"} == manifest["selection"]
    assert (manifest["status"], manifest["kept_rows"], manifest["options"]) == ({"ok": 4}, 2, {"keep": 0.5})
    assert RunRecord.from_json(manifest).to_json() == manifest
    assert build_manifest({}, RandomSelector(keep=1), scored, [])["kept_indices"] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "holds no finished scoring. Pass"),
        ("{", "holds no finished scoring \\(.*\\). Pass"),
        ('{"dataset": {"name": 3}}', "finished scoring \\(dataset.name must be text, got 3"),
        ('{"dataset": {"name": "x"}}', "finished scoring \\(scorer.config.prefix must be there, and is not\\)"),
    ],
)
def test_a_folder_without_a_scoring_says_why(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "scoring.json").write_text(text, encoding="utf-8")
    with pytest.raises(ScoresError, match=message):
        read_scores(tmp_path)


def test_a_subset_of_an_earlier_version_is_read(tmp_path: Path, old: dict[str, Any]) -> None:
    (tmp_path / "manifest.json").write_text(OLD.read_text(encoding="utf-8"), encoding="utf-8")
    assert read_manifest(tmp_path) == RunRecord.from_json(old)
    (tmp_path / "manifest.json").write_text('{"selection": {"column": 3}}', encoding="utf-8")
    with pytest.raises(ScoresError, match=r"holds no subset \(selection.column must be text, got 3"):
        read_manifest(tmp_path)
