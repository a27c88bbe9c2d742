"""Publishing over HTTP to a stand-in for the Hub, by the real clients, when all goes well and when it does not."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml
from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset
from matplotlib.figure import Figure
from PIL import Image

from hf_dlc import (
    CutSelector,
    DLCScorer,
    FlexRandSelector,
    KCenterSelector,
    RandomSelector,
    TargetSelector,
    TopKSelector,
    load_scores,
    push_pruned,
)
from hf_dlc.hub.card import Subset, render_section, subset_name
from hf_dlc.hub.publish import public_manifest
from hf_dlc.pipeline.folder import select_rows
from hf_dlc.pipeline.record import RunRecord, SelectionRecord
from hf_dlc.pipeline.score_file import Scores, ScoresError
from hf_dlc.report.render import code
from hf_dlc.scores.columns import EMPTY_RESPONSE, OK, score_features, vector_features, with_columns
from hf_dlc.scores.dlc import LOSS
from hf_dlc.scores.table import SCORES
from hf_dlc.selection.base import Selector
from hf_dlc.selection.table import SELECTORS
from hf_dlc.selection.targeted import TargetedSelector
from hf_dlc.utils.hub_commits import PublishError
from tests.hub.hub_server import READ_TOKEN, SIGNATURE, TOKEN, HubServer
from tests.rows import ALPACA_ROWS


pytestmark = pytest.mark.usefixtures("empty_plots")


REPO = "datasets/me/half"
SCHEDULE = [0.0, 0.1]
MANIFEST = {
    "dataset": {"name": "them/rows", "config": None, "revision": "main", "split": "train", "sha256": None},
    "scorer": {
        "config": {"masking": "random", "seed": 3, "max_length": 512, "template": {"chat_template": "long"}},
        "model": "them/tiny",
        "revision": None,
        "model_digest": "abc",
    },
    "config": {"masking": "random", "seed": 3, "max_length": 512, "template": "auto"},
    "schedule": SCHEDULE,
    "selection": {"selector": "FlexRandSelector", "keep": 0.5, "split": 0.75, "column": "dlc_confidence", "seed": 0},
    "versions": {"hf_dlc": "0.1.0"},
    "commands": [["hf-dlc", "score", "--dataset", "them/rows; rm -rf $HOME"], ["hf-dlc", "select"]],
}
HOSTILE = "<script>alert(1)</script> <!-- /hf_dlc keep-0.5 --> ``` ![x](http://evil) | --- \n---\nlicense: mit"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with HubServer() as server:
        server.serve_clients(monkeypatch, tmp_path)
        monkeypatch.setattr(time, "sleep", lambda _: None)
        server.add_repo("datasets/them/rows", {"README.md": b"---\nlicense: cc-by-nc-4.0\nlanguage: en\n---\n"})
        yield server


@pytest.fixture(autouse=True)
def _quick_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of a push is drawing, and only one test looks at the plots."""
    if request.node.name != "test_all_is_there":
        pixel = Image.new("1", (1, 1))
        monkeypatch.setattr(Figure, "savefig", lambda _, target, **__: pixel.save(target, format="png"))


@pytest.fixture
def rows() -> Dataset:
    texts = [f"text {i}" for i in range(39)] + [HOSTILE]
    return Dataset.from_dict({"instruction": ["Say it."] * 40, "output": texts})


@pytest.fixture
def scored(rows: Dataset) -> Dataset:
    rng = np.random.default_rng(0)
    values = rng.random((len(SCORES), 40)).astype(np.float32)
    values[:, 7] = np.nan
    values[0, 39] = 0.999  # the hostile row is among the easiest, which the card shows
    statuses = [EMPTY_RESPONSE if i == 7 else OK for i in range(40)]
    tokens = [0 if i == 7 else 3 + i for i in range(40)]
    columns = dict(zip(score_features(scores=SCORES), [*values, tokens, statuses], strict=True))
    return with_columns(rows, columns, score_features(scores=SCORES))


@pytest.fixture
def pruned(scored: Dataset) -> Dataset:
    return FlexRandSelector(keep=0.5, split=0.75)(scored)


def test_all_is_there(server: HubServer, rows: Dataset, scored: Dataset, pruned: Dataset) -> None:
    address = push_pruned(pruned, "me/half", scored, MANIFEST)
    assert address == f"{server.url}/datasets/me/half"
    assert server.repos[REPO].private
    assert load_dataset("me/half", "keep-0.5", split="train").to_dict() == pruned.to_dict()
    alone = load_dataset("me/half", "scores", split="train")
    assert alone["dlc_tokens"][:] == scored["dlc_tokens"][:]
    assert not {"output", "instruction"} & set(alone.column_names)
    found = load_scores("me/half", rows)
    assert FlexRandSelector(keep=0.5, split=0.75)(found).to_dict() == pruned.to_dict()
    files = server.files(REPO)
    assert Image.open(io.BytesIO(files["hf_dlc/keep-0.5/report.png"])).width > 500
    assert {name for name in files if name.startswith("hf_dlc/")} == {
        "hf_dlc/scores.parquet",
        *(f"hf_dlc/keep-0.5/{name}" for name in ("manifest.json", "report.html", "report.png", "summary.md")),
    }


def card_of(server: HubServer) -> tuple[dict[str, Any], str]:
    _, metadata, text = server.files(REPO)["README.md"].decode().split("---\n", 2)
    return yaml.safe_load(metadata), text


def test_card_says_where_the_rows_are_from_and_how_they_were_chosen(
    server: HubServer, scored: Dataset, pruned: Dataset
) -> None:
    push_pruned(pruned, "me/half", scored, MANIFEST)
    metadata, text = card_of(server)
    assert metadata["license"] == "cc-by-nc-4.0"
    assert metadata["language"] == "en"
    assert metadata["source_datasets"] == ["them/rows"]
    assert metadata["size_categories"] == ["n<1K"]
    record = metadata["dlc"]["subsets"]["keep-0.5"]
    assert record["base"] == {"name": "them/rows", "split": "train", "revision": "main"}
    assert (record["rows"], record["kept_rows"], record["model"]) == (40, 20, "them/tiny")
    assert record["masked_fractions"] == SCHEDULE
    assert record["selection"]["split"] == 0.75
    assert "drawn at random from the easiest 75% of the rows by `dlc_confidence`" in text
    assert "load_dataset('them/rows', split='train', revision='main')" in text
    assert "from_pretrained('them/tiny', seed=3, max_length=512, schedule='0.0, 0.1')" in text
    # Quoted: it would be run by a shell.
    assert "\nhf-dlc score --dataset 'them/rows; rm -rf $HOME'\nhf-dlc select\n" in text
    assert "![Scores" in text
    assert "(hf_dlc/keep-0.5/report.png)" in text
    assert "skipped: 1 `empty_response`" in text


def test_card_explains_every_score_that_was_written(server: HubServer, scored: Dataset, pruned: Dataset) -> None:
    push_pruned(pruned, "me/half", scored, MANIFEST)
    lines = [line for line in card_of(server)[1].splitlines() if line.startswith("- `dlc_")]
    told = {line.split("`")[1].removeprefix("dlc_"): line for line in lines}
    assert list(told) == list(SCORES)
    for name, score in SCORES.items():
        assert told[name].startswith(f"- `dlc_{name}`: {score.text} (")
    assert told["confidence"].endswith("(from 0 to 1, higher = easier).")
    assert told["loss"].endswith("(in nats, at least 0, higher = harder).")
    assert told["gain"].endswith("(from -1 to 1, higher = easier).")


@pytest.mark.parametrize(
    ("kind", "sentences"),
    [("causal-lm", ["training would learn from"]), ("image-classification", ["its label"]), ("other", []), (None, [])],
)
def test_card_says_what_the_targets_are(scored: Dataset, kind: str | None, sentences: list[str]) -> None:
    record = RunRecord.from_json({**MANIFEST, "scorer": {**MANIFEST["scorer"], "kind": kind}})
    facts = {"rows": 40, "kept_rows": 20, "base": {}, "files": [], "scores_digest": "", "record": record}
    subset = Subset("half", "me/half", columns=scored.column_names, **facts)
    text = render_section(subset, [])
    assert [known for known in ("training would learn from", "its label") if known in text] == sentences


def test_card_says_what_scoring_has_cost(scored: Dataset) -> None:
    facts = {"rows": 40, "kept_rows": 20, "base": {}, "files": [], "scores_digest": ""}
    for seconds, told in ((55.0, True), (None, False)):
        run = {"scoring_seconds": 77.0, "training_seconds": seconds}
        record = RunRecord.from_json({**MANIFEST, "run": run})
        text = render_section(Subset("half", "me/half", columns=scored.column_names, record=record, **facts), [])
        cost = "Cost: scoring 77 s; one epoch of LoRA training on these rows: 55 s; STR 1.4."
        assert (cost in text) == told


class Surprise:
    """A score that a card has never heard of."""

    name, easy, low, high, unit, text = "surprise", "low", 1.0, 9.0, "bits", "how little the model saw it coming"
    measures = (LOSS,)


def test_card_asks_the_table_about_a_new_score(scored: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"rows": 40, "kept_rows": 20, "base": {}, "files": [], "scores_digest": "", "record": RunRecord()}
    subset = Subset("half", "me/half", columns=[*scored.column_names, "dlc_surprise"], **facts)
    monkeypatch.setitem(SCORES, "surprise", Surprise())
    explained = "- `dlc_surprise`: how little the model saw it coming (in bits, from 1 to 9, higher = harder)."
    assert explained in render_section(subset, []).splitlines()
    assert "surprise" not in render_section(replace(subset, columns=scored.column_names), [])


@dataclass
class Alphabetical(FlexRandSelector):
    """A selector that a card has never heard of."""

    name: ClassVar[str] = "alphabetical"

    def _rule(self, column: str) -> str:
        return f"Rows were taken from A to Z, {column} was not looked at"


def test_card_asks_the_table_about_a_new_selector(scored: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    record = RunRecord().with_selection(Alphabetical(keep=0.5, group_by="a|`b"), scored, [0, 1])
    facts = {"rows": 40, "kept_rows": 20, "base": {}, "files": [], "scores_digest": "", "record": record}
    subset = Subset("half", "me/half", columns=scored.column_names, **facts)
    assert "A to Z" not in render_section(subset, [])
    monkeypatch.setitem(SELECTORS, "alphabetical", Alphabetical())
    rule = "Rows were taken from A to Z, `dlc_confidence` was not looked at, within the groups of "
    assert f"{rule}{code('a|`b')}." in render_section(subset, []).splitlines()
    assert subset_name(record.selection, 20, 40) == "alphabetical-keep-0.5"


def test_records_are_not_trusted(server: HubServer, scored: Dataset, pruned: Dataset) -> None:
    selection = {"selector": "TopKSelector", "which": "<b>", "keep": 0.5, "a b\n```\n# x": 1}
    config = {**MANIFEST["config"], "x=1)\n```\n<script>": 1, "layout": "```\n<script>"}
    masking = {**MANIFEST["scorer"], "config": {**MANIFEST["scorer"]["config"], "masking": "<b>\n```"}}
    hostile = {"selection": selection, "config": config, "scorer": masking, "commands": [["x\n```\n<script>"]]}
    push_pruned(pruned, "me/half", scored, {**MANIFEST, **hostile})
    metadata, text = card_of(server)
    assert list(metadata["dlc"]["subsets"]) == ["keep-0.5"]
    lines = text.splitlines()
    assert not [line for line in lines if line.lstrip().startswith(("<b>", "<script>", "# x"))]
    assert text.count("\n```\n") == text.count("\n```python\n") + text.count("\n```bash\n")
    for wrong in ({"schedule": "0, 0.1"}, {"selection": []}, {"commands": "hf-dlc"}):
        server.requests.clear()
        with pytest.raises(ValueError, match=f"^manifest.{next(iter(wrong))} must be a"):
            push_pruned(pruned, "me/half", scored, {**MANIFEST, **wrong})
        assert not server.requests


def test_the_manifest_of_another_subset_is_refused(server: HubServer, scored: Dataset, pruned: Dataset) -> None:
    """Its card would say of these rows how others were chosen."""
    kept = FlexRandSelector(keep=0.5, split=0.75).read_indices(scored).tolist()
    other = min(set(range(40)) - {7} - set(kept))
    for wrong, words in (
        ({"kept_indices": [other, *kept[1:]]}, "20 rows, and pruned has 20 others."),
        ({"kept_indices": [*kept[1:], 10**9]}, "20 rows, and pruned has 20 others."),
        ({"kept_indices": kept[1:]}, "19 rows, and pruned has 20."),
        ({"kept_rows": 3}, "3 rows, and pruned has 20."),
    ):
        with pytest.raises(ValueError, match=f"^manifest must be that of pruned, but tells of {words}"):
            push_pruned(pruned, "me/half", scored, {**MANIFEST, **wrong})
    assert not server.requests


def test_of_equal_rows_either_may_be_in_the_manifest(server: HubServer, scored: Dataset) -> None:
    twice = concatenate_datasets([scored, scored])
    push_pruned(twice.select([0, 1]), "me/half", twice, {**MANIFEST, "kept_indices": [40, 41]})
    assert load_dataset("me/half", "keep-0.5", split="train").num_rows == 2


def test_text_of_the_dataset_is_text_in_the_card(server: HubServer, scored: Dataset, pruned: Dataset) -> None:
    """It is indented, and so code, which nothing in it can end: no marker of ours, no fence, no metadata."""
    for _ in range(2):
        push_pruned(pruned, "me/half", scored, MANIFEST)
    metadata, text = card_of(server)
    assert metadata["license"] == "cc-by-nc-4.0"
    lines = [line for line in text.splitlines() if "<script>" in line]
    assert lines
    assert all(line.startswith("    output: ") for line in lines)
    assert text.count("<!-- hf_dlc keep-0.5 -->") == text.count("<!-- /hf_dlc keep-0.5 -->") == 1


@pytest.mark.parametrize("flag", ["--output_dir", "--output-dir"])
def test_no_folder_of_this_machine_is_published(
    server: HubServer, scored: Dataset, pruned: Dataset, flag: str
) -> None:
    model, rows = "/home/somebody/models/tiny", "somebody/rows.jsonl"
    local = {
        **MANIFEST,
        "dataset": {"name": rows, "is_local": True},
        "scorer": {**MANIFEST["scorer"], "model": model},
        "model_is_local": True,
        "options": {"dataset": rows, "model": model, "output_dir": "somebody/runs"},
        "commands": [["hf-dlc", "score", "--dataset", rows, "--model", model, flag, "somebody/runs"]],
    }
    push_pruned(pruned, "me/half", scored, local)
    assert not [name for name, data in server.files(REPO).items() if b"somebody" in data]
    text = card_of(server)[1]
    assert f"hf-dlc score --dataset rows.jsonl --model tiny {flag} runs" in text
    assert "from_pretrained" not in text  # nobody else has the model
    words = [
        "hf-dlc",
        "select",
        flag.replace("output", "run"),
        "secret/run",
        "--template",
        "secret/t.jinja",
        "--keep",
        "0.5",
    ]
    assert public_manifest({"commands": [words]})["commands"][0] == [word.rpartition("/")[2] for word in words]
    wanted = {"options": {"target": "secret/wanted.jsonl"}, "config": {"encoder": "them/encoder"}}
    found = public_manifest({**wanted, "commands": [["hf-dlc", "--target", "secret/wanted.jsonl", "--keep", "0.5"]]})
    assert found["commands"] == [["hf-dlc", "--target", "wanted.jsonl", "--keep", "0.5"]]
    assert (found["options"], found["config"]) == ({"target": "wanted.jsonl"}, {"encoder": "them/encoder"})
    commands = [["hf-dlc", "--target", "secret/wanted.jsonl"], ["hf-dlc", "--dataset", "other/secret/rows.parquet"]]
    others = {"commands": commands, "config": {"template": "secret/t.jinja", "encoder": "secret/of/mine"}}
    assert "secret" not in json.dumps(public_manifest({**others, "options": {"target": "them/wanted"}}))
    assert public_manifest({"config": {"template": "chat"}}) == {"config": {"template": "chat"}}
    paths = {"a": ["/x/y/rows.jsonl", "~/rows", "C:\\data\\rows", "./rows", "file:///x/rows", "me/rows", "a/b: c"]}
    assert public_manifest(paths) == {"a": ["rows.jsonl", *["rows"] * 4, "me/rows", "a/b: c"]}


def test_second_push_changes_nothing(server: HubServer, scored: Dataset, pruned: Dataset) -> None:
    push_pruned(pruned, "me/half", scored, MANIFEST)
    messages = list(server.repos[REPO].messages)
    assert messages == ["initial commit", "Rows of keep-0.5", "Scores and card of keep-0.5"]
    server.requests.clear()
    push_pruned(pruned, "me/half", scored, MANIFEST)
    assert server.repos[REPO].messages == messages
    assert not [request for request in server.requests if request.startswith("PUT")]


def test_another_budget_stands_beside_the_first(server: HubServer, scored: Dataset, pruned: Dataset) -> None:
    push_pruned(pruned, "me/half", scored, MANIFEST)
    before = server.files(REPO)
    selection = {**MANIFEST["selection"], "keep": 0.1}
    small = FlexRandSelector(keep=0.1, split=0.75)(scored)
    push_pruned(small, "me/half", scored, {**MANIFEST, "selection": selection})
    metadata, text = card_of(server)
    assert set(metadata["dlc"]["subsets"]) == {"keep-0.5", "keep-0.1"}
    assert {one["config_name"] for one in metadata["configs"]} == {"keep-0.5", "keep-0.1", "scores"}
    assert text.count("## Subset") == 2
    after = server.files(REPO)
    assert {name for name in before if before[name] != after[name]} == {"README.md"}
    assert load_dataset("me/half", "keep-0.1", split="train").num_rows == 4
    assert load_dataset("me/half", "keep-0.5", split="train").num_rows == 20


def test_what_somebody_wrote_into_the_card_stays(server: HubServer, scored: Dataset, pruned: Dataset) -> None:
    own = "---\nlicense: mit\npretty_name: Mine\ntags:\n- own\n---\n# My rows\n\nWritten by hand.\n"
    server.add_repo(REPO, {"README.md": own.encode()}, private=True)
    for _ in range(2):
        push_pruned(pruned, "me/half", scored, MANIFEST, language="de")
        metadata, text = card_of(server)
        assert (metadata["license"], metadata["pretty_name"], metadata["language"]) == ("mit", "Mine", "de")
        assert metadata["tags"] == ["own", "data-pruning", "hf_dlc"]
        assert text.startswith("# My rows\n\nWritten by hand.\n\n<!-- hf_dlc keep-0.5 -->\n")
        changed = server.files(REPO)["README.md"].decode().replace("Written by hand.", "Written by hand.")
        server.repos[REPO].commit({**server.files(REPO), "README.md": f"{changed}\nThe end.\n".encode()}, "by hand")
    push_pruned(pruned, "me/half", scored, MANIFEST, license="apache-2.0")
    metadata, text = card_of(server)
    assert metadata["license"] == "apache-2.0"
    assert text.count("The end.") == 2
    assert text.count("## Subset") == 1


def test_a_manifest_is_not_needed(server: HubServer, scored: Dataset, pruned: Dataset) -> None:
    push_pruned(pruned, "me/half", scored)
    metadata, text = card_of(server)
    digest = Scores.of(scored).digest()
    assert metadata["dlc"]["subsets"] == {"keep-0.5": {"rows": 40, "kept_rows": 20, "scores_digest": digest}}
    assert "To do it again" not in text


LLAMA = b"---\nlicense: other\nlicense_name: llama3\nlicense_link: http://x\nlanguage: en\n---\n"


@pytest.mark.parametrize(
    ("card", "options", "expected"),
    [
        (b"", {}, {"license": "other", "license_name": "llama3", "license_link": "http://x"}),
        (b"---\nlicense: mit\n---\n", {}, {"license": "mit"}),
        (b"", {"license": "mit"}, {"license": "mit"}),
    ],
)
def test_a_licence_has_the_name_and_link_that_are_its_own(
    server: HubServer, scored: Dataset, pruned: Dataset, card: bytes, options: dict[str, str], expected: dict[str, str]
) -> None:
    server.add_repo("datasets/them/rows", {"README.md": LLAMA})
    server.add_repo(REPO, {"README.md": card}, private=True)
    push_pruned(pruned, "me/half", scored, MANIFEST, **options)
    metadata = card_of(server)[0]
    assert {name: metadata[name] for name in metadata if name.startswith("license")} == expected
    assert metadata["language"] == "en"


def test_rows_of_a_gated_dataset(
    server: HubServer, scored: Dataset, pruned: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    server.repos["datasets/them/rows"].gated = True
    push_pruned(pruned, "me/half", scored, MANIFEST)
    assert "gated" not in caplog.text
    push_pruned(pruned, "me/open", scored, MANIFEST, private=False)
    assert "them/rows is gated: see whether its licence lets you publish rows of it for everybody" in caplog.text
    server.fail("GET", "/api/datasets/them/rows", 403, headers={"X_Error_Code": "GatedRepo"})
    push_pruned(pruned, "me/third", scored, MANIFEST)
    assert "them/rows is gated, and this token may not read its card" in caplog.text


@pytest.mark.parametrize(("model", "is_local", "name"), [("", True, "a.gguf"), ("me/ggufs", False, "me/ggufs/a.gguf")])
def test_a_gguf_file_is_called_by_its_name(
    server: HubServer, scored: Dataset, pruned: Dataset, model: str, is_local: bool, name: str
) -> None:
    scorer = {**MANIFEST["scorer"], "model": model, "gguf_file": "a.gguf"}
    push_pruned(pruned, "me/half", scored, {**MANIFEST, "scorer": scorer, "model_is_local": is_local})
    metadata, text = card_of(server)
    assert metadata["dlc"]["subsets"]["keep-0.5"]["model"] == name
    assert f'Each row was scored by `"{name}"`' in text
    assert "from_pretrained" not in text


def test_columns_of_another_name(server: HubServer, rows: Dataset, scored: Dataset) -> None:
    names = {name: name.replace("dlc_", "easy_") for name in score_features(scores=SCORES)}
    scored = scored.rename_columns(names)
    pruned = FlexRandSelector(keep=0.5, split=0.75, column="easy_confidence")(scored)
    scorer = {**MANIFEST["scorer"], "config": {**MANIFEST["scorer"]["config"], "prefix": "easy"}}
    selection = {**MANIFEST["selection"], "column": "easy_confidence"}
    push_pruned(pruned, "me/half", scored, {**MANIFEST, "scorer": scorer, "selection": selection})
    assert "FlexRandSelector(keep=10, column='easy_confidence', split=0.75)(scored)" in card_of(server)[1]
    assert load_scores("me/half", rows)["easy_tokens"][:] == scored["easy_tokens"][:]


def test_what_is_not_ours_in_the_metadata_stays(server: HubServer, scored: Dataset, pruned: Dataset) -> None:
    own = "---\nlicense: mit\ndlc:\n  note: mine\n---\n# Mine\n"
    server.add_repo(REPO, {"README.md": own.encode()}, private=True)
    push_pruned(pruned, "me/half", scored, MANIFEST)
    metadata, text = card_of(server)
    assert (metadata["license"], metadata["dlc"]["note"]) == ("mit", "mine")
    assert text.startswith("# Mine\n")


PYTHON = [
    ({}, "dataset = load_dataset('them/rows', split='train', revision='main')"),
    ({"scorer": {**MANIFEST["scorer"], "dtype": "bfloat16"}}, "dtype='bfloat16'"),
    ({"options": {"trust_remote_code": True}}, "model_kwargs={'trust_remote_code': True}"),
    ({"options": {"max_rows": 40}}, "dataset = dataset.select(range(40))"),
    ({"dataset": {"name": "them/rows"}}, None),  # of which split?
    ({"config": {**MANIFEST["config"], "template": "my/t.jinja"}}, None),
    ({"model_is_local": True}, None),
    ({"scorer": {**MANIFEST["scorer"], "adapters": "2 rows"}}, None),  # which are not in the record
    ({"scorer": {**MANIFEST["scorer"], "is_fitted": True}}, "scorer.fit(dataset)\nscored = dataset.map("),
]


@pytest.mark.parametrize(("changes", "line"), PYTHON)
def test_python_that_does_it_again(
    server: HubServer, scored: Dataset, pruned: Dataset, changes: dict[str, Any], line: str | None
) -> None:
    push_pruned(pruned, "me/half", scored, {**MANIFEST, **changes})
    text = card_of(server)[1]
    assert ("DLCScorer.from_pretrained" in text) == (line is not None)
    assert line is None or line in text


@pytest.mark.parametrize("selector", [*SELECTORS.values(), Alphabetical()], ids=lambda selector: selector.name)
def test_python_that_does_it_again_can_be_imported(
    scored: Dataset, monkeypatch: pytest.MonkeyPatch, selector: FlexRandSelector
) -> None:
    monkeypatch.setitem(SELECTORS, selector.name, selector)
    record = RunRecord.from_json(MANIFEST).with_selection(selector, scored, [0, 1])
    base = {"name": "them/rows", "split": "train"}
    facts = {"rows": 40, "kept_rows": 20, "base": base, "files": [], "scores_digest": "", "record": record}
    section = render_section(Subset("half", "me/half", columns=scored.column_names, **facts), [])
    if isinstance(selector, TargetedSelector):  # whose wanted rows nobody else has
        assert "DLCScorer.from_pretrained" not in section
        return
    [block] = re.findall(r"^```python\n(from [^`]*from_pretrained[^`]*)^```", section, re.MULTILINE)
    tree, names = ast.parse(block), {}
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), "card", "exec"), names)
    assert names[type(selector).__name__] is type(selector)
    assert names["DLCScorer"] is DLCScorer


def test_card_says_which_wanted_row_took_a_row(server: HubServer, scored: Dataset) -> None:
    pytest.importorskip("bm25s", reason="an extra")
    selector = TargetSelector(keep=10, target=["text 3", "text 5"], metric="bm25", mix=0.5, text_columns=["output"])
    pruned, _, record = select_rows(scored, selector, RunRecord.from_json(MANIFEST))
    push_pruned(pruned, "me/half", scored, record.to_json())
    text = card_of(server)[1]
    assert "Kept rows by the wanted row that took them" in text
    for wanted, count in Counter(pruned["dlc_wanted"][:]).items():
        assert f"| {wanted if wanted >= 0 else 'drawn at random'} | {count} |" in text
    taken = {row["output"]: row["dlc_wanted"] for row in pruned}
    shown = re.findall(r"output: \"?(text \d+)\"?\n(?:    .*\n)*?    dlc_wanted: (-?\d+)", text)
    assert shown
    assert all(taken[output] == int(wanted) for output, wanted in shown)


@pytest.mark.parametrize(
    ("selector", "shown"),
    [
        (RandomSelector(keep=10, seed=4), "RandomSelector(keep=5, seed=4)"),
        (RandomSelector(keep=10, column="dlc_loss", min_per_group=1), "RandomSelector(keep=5, column='dlc_loss'"),
        (CutSelector(keep_tokens=50, cut=0.7), "CutSelector(keep=5, cut=0.7)"),
        (
            CutSelector(keep=10, column="dlc_margin", easy="low"),
            "CutSelector(keep=5, column='dlc_margin', easy='low')",
        ),
        (TopKSelector(keep=0.25, which="hardest"), "TopKSelector(keep=5, which='hardest')"),
        (CutSelector(keep=10, column="own", easy="high"), None),
        (RandomSelector(keep=10, column="own"), None),
        (FlexRandSelector(keep=10, drop_duplicates=True), None),
        (TargetSelector(keep=10, target=["text 3"], metric="bm25"), None),
        (KCenterSelector(keep=10), None),
    ],
)
def test_card_selects_another_budget_as_the_first(scored: Dataset, selector: Selector, shown: str | None) -> None:
    text = section_of(SelectionRecord.of(selector), scored)
    block = next(part for part in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "load_scores" in part)
    assert ("Another budget" in text) == (shown is not None)
    assert (f"smaller = {shown}" in block) == (shown is not None)
    names = {"scored": scored}
    exec("\n".join(line for line in block.splitlines() if not line.startswith("scored = ")), names)
    assert "load_scores" in names
    assert shown is None or len(names["smaller"]) == 5


def test_card_selects_another_budget_below_the_same_peak(scored: Dataset) -> None:
    text = section_of(SelectionRecord.of(CutSelector(keep=10, cut="auto")), scored)
    assert "smaller = CutSelector(keep=5, cut='auto')(scored)" in text


def test_card_shows_no_selector_of_a_later_version(scored: Dataset) -> None:
    record = SelectionRecord.from_json({"selector": "RandomSelector", "keep": 10, "option_to_come": 5})
    assert "smaller" not in section_of(record, scored)
    assert "smaller" in section_of(replace(record, rest={}), scored)


def section_of(selection: SelectionRecord, scored: Dataset) -> str:
    facts = {"base": {}, "files": [], "scores_digest": "", "columns": scored.column_names}
    return render_section(Subset("x", "me/half", 40, 10, RunRecord(selection=selection), **facts), [])


def test_study_is_in_the_card(server: HubServer, scored: Dataset, pruned: Dataset, tmp_path: Path) -> None:
    one = {"arm": "gain <b>", "matching": "rows", "budget": 0.3, "metric": "loss per row", "seeds": 5}
    found = {**one, "difference": 0.0123, "low": -0.002, "high": 0.02, "p": 0.7}
    overall = {**found, "matching": None, "budget": None, "low": None, "high": None}
    study = {"overall": [overall], "comparisons": [found]}
    (tmp_path / "study.json").write_text(json.dumps(study), encoding="utf-8")
    push_pruned(pruned, "me/half", scored, MANIFEST, study=tmp_path / "study.json")
    row = '| `"gain <b>"` | `rows` | 0.3 | `"loss per row"` | +0.0123 | -0.0020 to +0.0200 | 0.700 | 5 |'
    assert row in card_of(server)[1]
    assert '| `"gain <b>"` | all | all | `"loss per row"` | +0.0123 | - | 0.700 | 5 |' in card_of(server)[1]
    (tmp_path / "study.json").write_text("[]", encoding="utf-8")
    server.requests.clear()
    with pytest.raises(ValueError, match=r"must be a study\.json"):
        push_pruned(pruned, "me/half", scored, MANIFEST, study=tmp_path / "study.json")
    assert not server.requests


# ---- who may, and where ------------------------------------------------------------------------------------------


def test_a_public_repository_is_not_written_into_by_accident(
    server: HubServer, scored: Dataset, pruned: Dataset
) -> None:
    server.add_repo(REPO, {"README.md": b""})
    with pytest.raises(ValueError, match=r"me/half is public\. Pass private=False"):
        push_pruned(pruned, "me/half", scored, MANIFEST)
    assert server.repos[REPO].messages == ["initial"]
    push_pruned(pruned, "me/half", scored, MANIFEST, private=False)
    assert server.repos[REPO].messages[-1] == "Scores and card of keep-0.5"


def test_a_public_repository_of_mine_is_found_without_my_name(
    server: HubServer, scored: Dataset, pruned: Dataset
) -> None:
    server.add_repo(REPO, {"README.md": b""})
    with pytest.raises(ValueError, match=r"me/half is public\. Pass private=False"):
        push_pruned(pruned, "half", scored, MANIFEST)
    assert server.repos[REPO].messages == ["initial"]
    push_pruned(pruned, "other", scored, MANIFEST)
    assert 'load_dataset("me/other"' in server.files("datasets/me/other")["README.md"].decode()


@pytest.mark.parametrize("change", ["fewer rows", "other scores", "other rows"])
def test_scores_that_other_subsets_were_chosen_by_are_not_replaced(
    server: HubServer, scored: Dataset, pruned: Dataset, change: str
) -> None:
    push_pruned(pruned, "me/half", scored, MANIFEST)
    before = server.files(REPO)
    others = {
        "fewer rows": scored.select(range(10)),
        "other scores": scored.map(lambda row: {"dlc_loss": row["dlc_loss"] / 2}),
        "other rows": scored.map(lambda row: {"output": f"{row['output']}!"}),
    }
    small = FlexRandSelector(keep=5)(others[change])
    with pytest.raises(ValueError, match=r"me/half holds keep-0\.5, chosen by other scores or from other rows"):
        push_pruned(small, "me/half", others[change], MANIFEST, config_name="keep-again")
    assert server.files(REPO) == before
    push_pruned(small, "me/half", others[change], MANIFEST)  # in the place of the only subset
    assert load_dataset("me/half", "keep-0.5", split="train").num_rows == 5


def test_the_same_scores_in_another_order_are_the_same(server: HubServer, scored: Dataset, pruned: Dataset) -> None:
    push_pruned(pruned, "me/half", scored, MANIFEST)
    shuffled = scored.shuffle(seed=1)
    push_pruned(FlexRandSelector(keep=0.1)(shuffled), "me/half", shuffled, MANIFEST, config_name="small")
    assert set(card_of(server)[0]["dlc"]["subsets"]) == {"keep-0.5", "small"}


def test_a_subset_selected_in_another_way_is_replaced_only_by_name(
    server: HubServer, scored: Dataset, pruned: Dataset
) -> None:
    push_pruned(pruned, "me/half", scored, MANIFEST)
    before = server.files(REPO)
    other = {**MANIFEST, "selection": {**MANIFEST["selection"], "split": 0.25}}
    with pytest.raises(
        ValueError, match=r"holds a subset keep-0\.5 that was selected in another way\. Pass config_name"
    ):
        push_pruned(pruned, "me/half", scored, other)
    assert server.files(REPO) == before
    push_pruned(pruned, "me/half", scored, other, config_name="keep-0.5")
    assert card_of(server)[0]["dlc"]["subsets"]["keep-0.5"]["selection"]["split"] == 0.25


def test_a_branch_is_made(server: HubServer, scored: Dataset, pruned: Dataset) -> None:
    push_pruned(pruned, "me/half", scored, MANIFEST, revision="draft")
    assert "hf_dlc/scores.parquet" in server.files(REPO, "draft")
    assert "hf_dlc/scores.parquet" not in server.files(REPO)


def test_one_pull_request_holds_it_all(server: HubServer, scored: Dataset, pruned: Dataset) -> None:
    server.add_repo(REPO, {"README.md": b"# Theirs\n"}, private=True)
    address = push_pruned(pruned, "me/half", scored, MANIFEST, create_pr=True)
    assert address == f"{server.url}/datasets/me/half/discussions/1"
    assert set(server.repos[REPO].branches) == {"main", "refs/pr/1"}
    assert server.files(REPO) == {"README.md": b"# Theirs\n"}
    assert "hf_dlc/scores.parquet" in server.files(REPO, "refs/pr/1")
    assert load_scores("me/half", revision="refs/pr/1").num_rows == 40


@pytest.mark.parametrize(("token", "status"), [(READ_TOKEN, 403), ("hf_wrong0token", 401)])
def test_token_that_may_not_write(
    server: HubServer, scored: Dataset, pruned: Dataset, token: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(PublishError) as caught:
        push_pruned(pruned, "me/half", scored, MANIFEST, token=token)
    message = str(caught.value)
    assert message.startswith("the repository: not published to me/half.")
    assert str(status) in message
    assert "Log in with `hf auth login`" in message
    assert "nothing was published" in message
    assert token not in message + caplog.text
    assert REPO not in server.repos


# ---- what goes wrong ---------------------------------------------------------------------------------------------


PASSING = [
    pytest.param("POST", "/commit/", 409, id="another commit at the same time"),
    pytest.param("POST", "/commit/", 412, id="another commit before"),
    pytest.param("POST", "/commit/", 429, id="too many requests"),
    pytest.param("POST", "/commit/", 500, id="server error"),
    pytest.param("POST", "/commit/", 0, id="connection cut at the commit"),
    pytest.param("PUT", "/upload/", 500, id="server error in mid-upload"),
    pytest.param("PUT", "/upload/", 0, id="connection cut in mid-upload"),
    pytest.param("GET", "/resolve/", 503, id="busy"),
]


@pytest.mark.parametrize(("method", "path", "status"), PASSING)
def test_what_passes_is_tried_again(
    server: HubServer, scored: Dataset, pruned: Dataset, rows: Dataset, method: str, path: str, status: int
) -> None:
    server.fail(method, path, status)
    push_pruned(pruned, "me/half", scored, MANIFEST)
    assert load_dataset("me/half", "keep-0.5", split="train").to_dict() == pruned.to_dict()
    assert load_scores("me/half", rows)["dlc_tokens"][:] == scored["dlc_tokens"][:]


def test_the_server_says_how_long_to_wait(
    server: HubServer, scored: Dataset, pruned: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    server.fail("POST", "/commit/", 429, headers={"Retry-After": "17"})
    push_pruned(pruned, "me/half", scored, MANIFEST)
    assert 17.0 in waited


@pytest.mark.parametrize("status", [403, 404, 500])
def test_what_is_half_published_says_so_and_can_be_completed(
    server: HubServer, scored: Dataset, pruned: Dataset, rows: Dataset, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    server.add_repo(REPO, {"README.md": b"# Theirs\n"}, private=True)
    push = server.repos[REPO].commit

    def fail_after_the_rows(files: dict[str, bytes], message: str, branch: str = "main") -> str:
        server.fail("POST", "/commit/", status, times=100)
        return push(files, message, branch)

    server.repos[REPO].commit = fail_after_the_rows
    with caplog.at_level(logging.DEBUG), pytest.raises(PublishError) as caught:
        push_pruned(pruned, "me/half", scored, MANIFEST)
    message = str(caught.value)
    assert message.startswith("the scores and the card: not published to me/half.")
    assert "(the repository, the card of the source, the card that is there, the rows: done; the same call" in message
    assert TOKEN not in message + caplog.text
    with pytest.raises(ScoresError, match="neither a file, a folder nor a dataset with scores"):
        load_scores("me/half", rows)
    server.faults.clear()
    server.repos[REPO].commit = push
    push_pruned(pruned, "me/half", scored, MANIFEST)
    assert load_scores("me/half", rows)["dlc_tokens"][:] == scored["dlc_tokens"][:]
    assert server.repos[REPO].messages == ["initial", "Rows of keep-0.5", "Scores and card of keep-0.5"]


def test_a_card_that_the_hub_refuses_is_said(server: HubServer, scored: Dataset, pruned: Dataset) -> None:
    with pytest.raises(PublishError) as caught:
        push_pruned(pruned, "me/half", scored, MANIFEST, license="my-own")
    message = str(caught.value)
    assert "the scores and the card: not published" in message
    assert '"license" must be one of' in message
    assert "the rows: done" in message


def test_a_card_that_cannot_be_read_is_said_before_anything_is_published(
    server: HubServer, scored: Dataset, pruned: Dataset
) -> None:
    server.add_repo(REPO, {"README.md": b"---\n: [broken\n---\n"}, private=True)
    with pytest.raises(PublishError, match="the card that is there: not published"):
        push_pruned(pruned, "me/half", scored, MANIFEST)
    assert server.repos[REPO].messages == ["initial"]


def test_a_mark_that_was_removed_by_hand(server: HubServer, scored: Dataset, pruned: Dataset) -> None:
    """Nothing that somebody wrote is replaced."""
    push_pruned(pruned, "me/half", scored, MANIFEST)
    text = server.files(REPO)["README.md"].decode().replace("<!-- /hf_dlc keep-0.5 -->", "")
    server.repos[REPO].commit({**server.files(REPO), "README.md": f"{text}\nBy hand.\n".encode()}, "by hand")
    for _ in range(2):
        push_pruned(pruned, "me/half", scored, MANIFEST)
        assert "By hand." in card_of(server)[1]


def test_a_pull_request_that_was_cut_short_can_be_completed(
    server: HubServer, scored: Dataset, pruned: Dataset
) -> None:
    server.add_repo(REPO, {"README.md": b""}, private=True)
    server.fail("POST", "/commit/refs", 403, times=100)
    with pytest.raises(PublishError, match="revision='refs/pr/1' completes the pull request"):
        push_pruned(pruned, "me/half", scored, MANIFEST, create_pr=True)
    server.faults.clear()
    push_pruned(pruned, "me/half", scored, MANIFEST, revision="refs/pr/1")
    assert set(server.repos[REPO].branches) == {"main", "refs/pr/1"}
    assert "hf_dlc/scores.parquet" in server.files(REPO, "refs/pr/1")


@pytest.mark.parametrize("status", [403, 500])
def test_signatures_of_uploads_are_hidden(
    server: HubServer, scored: Dataset, pruned: Dataset, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    server.fail("PUT", "/upload/", status, times=100)
    with caplog.at_level(logging.INFO, logger="hf_dlc"), pytest.raises(PublishError) as caught:
        push_pruned(pruned, "me/half", scored, MANIFEST)
    ours = "".join(record.getMessage() for record in caplog.records if record.name.startswith("hf_dlc"))
    assert "/upload/" in str(caught.value)
    assert SIGNATURE not in "".join(traceback.format_exception(caught.value)) + ours


def test_a_busy_server_opens_no_second_pull_request(server: HubServer, scored: Dataset, pruned: Dataset) -> None:
    server.add_repo(REPO, {"README.md": b""}, private=True)
    server.fail("GET", "/api/datasets/me/half", 429)  # only asks: may be asked again
    push_pruned(pruned, "me/half", scored, MANIFEST, create_pr=True)
    server.fail("POST", "/commit/", 500)
    with pytest.raises(PublishError, match="the rows: not published"):
        push_pruned(pruned, "me/half", scored, MANIFEST, create_pr=True)
    assert set(server.repos[REPO].branches) == {"main", "refs/pr/1"}


@pytest.mark.parametrize("token", [TOKEN, f"{TOKEN}\n"], ids=["token", "token and line break"])
@pytest.mark.parametrize(("path", "status"), [("/commit/", 400), ("/commit/", 500), ("/preupload/", 403)])
def test_token_that_the_server_repeats_is_hidden(
    server: HubServer,
    scored: Dataset,
    pruned: Dataset,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    status: int,
    token: str,
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    server.fail("POST", path, status, times=100, message=f"bad token {TOKEN}")
    with caplog.at_level(logging.INFO, logger="hf_dlc"), pytest.raises(PublishError) as caught:
        push_pruned(pruned, "me/half", scored, MANIFEST, token=token)
    shown = "".join(traceback.format_exception(caught.value))
    ours = "".join(record.getMessage() for record in caplog.records if record.name.startswith("hf_dlc"))
    assert "bad token ***" in shown
    assert TOKEN not in shown + ours


def test_token_is_nowhere(
    server: HubServer, scored: Dataset, pruned: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        push_pruned(pruned, "me/half", scored, MANIFEST, token=TOKEN)
    assert TOKEN not in caplog.text
    assert not [name for name, data in server.files(REPO).items() if TOKEN.encode() in data]


# ---- scores and rows ---------------------------------------------------------------------------------------------


def test_scores_find_their_rows_again(server: HubServer, rows: Dataset, scored: Dataset, pruned: Dataset) -> None:
    push_pruned(pruned, "me/half", scored, MANIFEST)
    order = [39, 3, 7, 0]
    found = load_scores("me/half", rows.select(order).add_column("more", [1, 2, 3, 4]))
    assert found["dlc_tokens"][:] == [scored["dlc_tokens"][row] for row in order]
    assert found["more"][:] == [1, 2, 3, 4]


def test_scores_of_another_revision_are_refused(
    server: HubServer, rows: Dataset, scored: Dataset, pruned: Dataset
) -> None:
    push_pruned(pruned, "me/half", scored, MANIFEST)
    changed = rows.map(lambda row, i: {"output": row["output"] + ("!" if i in (4, 9) else "")}, with_indices=True)
    with pytest.raises(ScoresError, match=r"2 of 40 rows \(row 4, 9\) have no score in the scores of me/half"):
        load_scores("me/half", changed)
    with pytest.raises(ScoresError, match="output are not in this dataset, which has instruction, response"):
        load_scores("me/half", rows.rename_column("output", "response"))


@pytest.mark.parametrize("repo_id", ["me/nothing", "them/rows", "a/b/c", "no such folder"])
def test_where_no_scores_are(server: HubServer, repo_id: str) -> None:
    with pytest.raises(ScoresError, match=f"{repo_id} is neither a file, a folder nor a dataset with scores"):
        load_scores(repo_id)


def test_scores_for_each_split(server: HubServer, rows: Dataset, scored: Dataset, pruned: Dataset) -> None:
    push_pruned(pruned, "me/half", scored, MANIFEST)
    parts = {"train": range(30), "test": range(30, 40)}
    found = load_scores("me/half", DatasetDict({name: rows.select(part) for name, part in parts.items()}))
    assert found["test"]["dlc_tokens"][:] == scored["dlc_tokens"][30:]


@pytest.mark.parametrize("status", [0, 403, 500])
def test_scores_that_cannot_be_fetched(server: HubServer, scored: Dataset, pruned: Dataset, status: int) -> None:
    push_pruned(pruned, "me/half", scored, MANIFEST)
    server.fail("HEAD", "/resolve/", status, times=100)
    with pytest.raises(ScoresError, match="the scores of me/half cannot be fetched"):
        load_scores("me/half")


@pytest.mark.parametrize(
    ("selection", "name"),
    [
        ({"selector": "FlexRandSelector", "keep": 0.5}, "keep-0.5"),
        ({"selector": "FlexRandSelector", "keep": 5_000_000}, "keep-5000000"),
        ({"selector": "FlexRandSelector", "keep": 1.0}, "keep-1.0"),
        ({"selector": "RandomSelector", "keep": 0.3}, "random-keep-0.3"),
        ({"selector": "TopKSelector", "which": "hardest", "keep_tokens": 1000}, "hardest-keep-1000-tokens"),
        ({}, "keep-0.25"),
    ],
)
def test_names_of_subsets(selection: dict[str, Any], name: str) -> None:
    assert subset_name(SelectionRecord.from_json(selection), 10, 40) == name


@pytest.mark.parametrize("name", ["data", "scores", "a b", "../x", "..", ""])
def test_names_that_no_subset_can_have(scored: Dataset, pruned: Dataset, name: str) -> None:
    with pytest.raises(ValueError, match="config_name must be"):
        push_pruned(pruned, "me/half", scored, config_name=name or "-" * 99)


# ---- scorers -----------------------------------------------------------------------------------------------------


def test_scorer_is_published_without_weights(server: HubServer, llama_folder: Path) -> None:
    model = {path.name: path.read_bytes() for path in llama_folder.iterdir()}
    sha = server.add_repo("models/them/tiny", model)
    scorer = DLCScorer.from_pretrained("them/tiny", schedule="0, 0.2", dtype="float32", seed=7, revision=sha)
    assert scorer.push_to_hub("me/scorer") == f"{server.url}/me/scorer"
    assert server.repos["models/me/scorer"].private
    assert set(server.files("models/me/scorer")) == {".gitattributes", "dlc_config.json"}
    again = DLCScorer.from_pretrained("me/scorer", device="cpu")
    assert again.config == scorer.config
    assert again.describe() == scorer.describe()
    rows = Dataset.from_list(ALPACA_ROWS)
    assert again.score(rows).to_dict() == scorer.score(rows).to_dict()
    server.repos["models/me/scorer"].private = False
    with pytest.raises(ValueError, match="me/scorer is public"):
        scorer.push_to_hub("me/scorer")


def test_scorer_of_a_folder_is_not_published(server: HubServer, llama_folder: Path) -> None:
    scorer = DLCScorer.from_pretrained(llama_folder, schedule="0, 0.2")
    with pytest.raises(ValueError, match="only with a base model that is on the Hub, got the folder"):
        scorer.push_to_hub("me/scorer")
    assert "models/me/scorer" not in server.repos


def test_features_are_published_only_if_asked(server: HubServer, scored: Dataset, pruned: Dataset) -> None:
    """They are large, and tell much of rows that may not be public."""

    def with_vectors(rows: Dataset) -> Dataset:
        vectors = np.ones((len(rows), 3), dtype=np.float16)
        columns = {"dlc_features": vectors, "dlc_features_by": ["mean 3 abc"] * len(rows)}
        return with_columns(rows, columns, vector_features("dlc", 3))

    for name, features in (("without", False), ("with", True)):
        push_pruned(with_vectors(pruned), f"me/{name}", with_vectors(scored), MANIFEST, features=features)
        found = load_dataset(f"me/{name}", "keep-0.5", split="train")
        assert ("dlc_features" in found.column_names) == ("dlc_features_by" in found.column_names) == features
        assert "features" not in "".join(server.files(f"datasets/me/{name}"))  # in the name of no file
        assert "dlc_features" not in load_scores(f"me/{name}").column_names
