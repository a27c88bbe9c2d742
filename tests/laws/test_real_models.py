"""Scores of pre-trained models on real text. Skipped, with the reason, where the models or the texts are not there."""

from __future__ import annotations

import copy
import gzip
import itertools
import json
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, load_dataset

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.report.statistics import auroc
from hf_dlc.scorer.schedule import Schedule
from hf_dlc.scores import columns
from hf_dlc.scores.columns import SCORED_STATUSES
from hf_dlc.tasks.text.training_templates import TEMPLATES_FOLDER
from hf_dlc.utils.ranks import spearman
from tests.conftest import ROOT, SHARED


pytestmark = pytest.mark.slow

DEMO_ROWS = ROOT / "hf_dlc" / "data" / "demo_instructions.jsonl"
STATUSES = {value for name, value in vars(columns).items() if name.isupper() and isinstance(value, str)}


@pytest.fixture(scope="module", autouse=True)
def _no_cached_schedule(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Schedules are calibrated here and not read from what an earlier version left in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DLC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def smollm2(_no_cached_schedule: None, smollm2_path: Path) -> DLCScorer:
    """The demo's model in float32, calibrated once."""
    # Three levels instead of four, for the time it takes.
    shares = [1.0, 0.6, 0.3]
    scorer = DLCScorer.from_pretrained(smollm2_path, dtype="float32", keep_levels=True, calibration_shares=shares)
    scorer.calibrate()
    return scorer


@pytest.fixture(scope="module")
def demo() -> Dataset:
    """36 rows of the demo, 16 of them with the response of another row."""
    rows = [json.loads(line) for line in DEMO_ROWS.read_text(encoding="utf-8").splitlines()]
    swapped = [row for row in rows if row["response_swapped"]][:16]
    return Dataset.from_list(swapped + [row for row in rows if not row["response_swapped"]][:20])


@pytest.fixture(scope="module")
def scored(smollm2: DLCScorer, demo: Dataset) -> Dataset:
    return smollm2.score(demo)


class TestSmolLM2:
    def test_weights_are_floats_that_can_be_masked(self, smollm2: DLCScorer, smollm2_path: Path) -> None:
        assert {parameter.dtype for parameter in smollm2.model.parameters()} == {torch.float32}
        assert smollm2.describe()["gguf_file"] == smollm2_path.name
        report = smollm2.masking_report()
        assert [level.masked_fraction for level in report] == list(smollm2.schedule_)
        assert report[0].masked == 0
        for level in report[1:]:
            assert level.masked / (level.maskable - level.zeros_before) == pytest.approx(
                level.masked_fraction, rel=0.01
            )

    def test_calibrated_schedule(self, smollm2: DLCScorer) -> None:
        schedule = smollm2.schedule_
        assert len(schedule) == 3
        assert schedule[0] == 0.0
        assert all(low < high for low, high in itertools.pairwise(schedule))
        assert schedule[-1] < 0.5  # random masking takes a model of this size apart long before

    def test_every_row_has_a_plausible_score(self, scored: Dataset) -> None:
        assert set(scored["dlc_status"]) == {"ok"}
        confidence, loss = np.array(scored["dlc_level_confidence"][:]), np.array(scored["dlc_level_loss"][:])
        assert ((confidence > 0) & (confidence < 1)).all()
        # Masking makes the model less sure, on average over rows, at every level.
        assert (np.diff(confidence.mean(axis=0)) < 0).all()
        assert (np.diff(loss.mean(axis=0)) > 0).all()
        assert loss.mean(axis=0)[0] < 5  # nats; knowing nothing is log(49152) = 10.8

    @torch.inference_mode()
    def test_level_0_is_the_training_loss(self, smollm2: DLCScorer, demo: Dataset, scored: Dataset) -> None:
        """As `labels=` gives it, on the text that the model's own chat template makes of the row."""
        tokenizer, model = smollm2.processor, smollm2.model
        for index in (0, 17, 30, 35):
            row = demo[index]
            question = "\n\n".join(filter(None, (row["instruction"], row["input"])))
            prompt = [{"role": "user", "content": question}]
            whole = [*prompt, {"role": "assistant", "content": row["output"]}]
            head = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
            ids = tokenizer.apply_chat_template(whole, return_dict=False)
            assert ids[: len(head)] == head
            labels = [-100] * len(head) + ids[len(head) :]
            loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.item()
            assert scored["dlc_tokens"][index] == len(ids) - len(head)
            assert scored["dlc_level_loss"][index][0] == pytest.approx(loss, abs=1e-4)

    def test_row_by_row_and_batched_agree(self, smollm2: DLCScorer, demo: Dataset, scored: Dataset) -> None:
        few = [0, 20, 35]
        part = demo.select(few)
        for mapped in (part.map(smollm2), part.map(smollm2, batched=True)):
            for name, tolerance in (("dlc_level_confidence", 1e-5), ("dlc_level_loss", 1e-4)):
                expected = np.array(scored.select(few)[name][:])
                np.testing.assert_allclose(np.array(mapped[name][:]), expected, rtol=0, atol=tolerance)

    def test_bfloat16_ranks_as_float32_does(self, smollm2: DLCScorer, demo: Dataset, scored: Dataset) -> None:
        half = copy.deepcopy(smollm2.model).to(torch.bfloat16)
        schedule = smollm2.schedule_[:2]
        scorer = DLCScorer(half, smollm2.processor, DLCConfig(schedule=schedule, keep_levels=True))
        # Short ones, of both kinds: where a device has to emulate bfloat16, each token takes long.
        rows = np.argsort(scored["dlc_tokens"][:], kind="stable")[:16].tolist()
        assert len(set(demo.select(rows)["response_swapped"][:])) == 2
        fast = scorer.score(demo.select(rows))
        for name in ("dlc_level_confidence", "dlc_level_loss"):
            values = np.array(fast[name][:]).mean(axis=1)
            assert spearman(values, np.array(scored.select(rows)[name][:])[:, :2].mean(axis=1)) >= 0.99

    def test_swapped_responses_are_hard(self, scored: Dataset) -> None:
        swapped = np.array(scored["response_swapped"][:])
        assert auroc(-np.array(scored["dlc_confidence"][:]), swapped) > 0.6
        assert auroc(np.array(scored["dlc_loss"][:]), swapped) > 0.6


# ---- a trained model of 231k parameters on the beginnings of real sets ------------------------------------------

TEXTS: dict[str, dict[str, Any]] = {
    "alpaca_2k.jsonl": {},
    "alpaca_gpt4_demo.jsonl": {},
    "arc_easy_train.jsonl": {},
    "expert_revised_train.jsonl": {"columns": {"src": "instruction", "pos": "output"}},
    "glaive_toolcall_sharegpt.jsonl": {"template": "chatml"},
    "gsm8k_train.jsonl": {},
    "mtbench101_messages.jsonl": {"template": "chatml"},
    "sgd_messages.jsonl": {"template": "chatml"},
    "t0_55k.jsonl.gz": {},
    "typed_content_messages.jsonl": {"template": "chatml"},
}


@pytest.fixture(scope="module")
def aidreams() -> Path:
    folder = SHARED / "models" / "aidreams_260k"
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}")
    return folder


def read_rows(name: str, count: int) -> list[dict[str, Any]]:
    path = SHARED / "data" / "text" / name
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in itertools.islice(lines, count)]


@pytest.mark.parametrize("name", TEXTS)
def test_every_row_of_a_real_set_is_accounted_for(aidreams: Path, name: str) -> None:
    rows = read_rows(name, 60)
    settings = dict(TEXTS[name])
    if settings.get("template") == "chatml":  # the model has no chat template of its own
        settings["template"] = str(TEMPLATES_FOLDER / "chatml.jinja")
    scorer = DLCScorer.from_pretrained(aidreams, schedule="0, 0.05", dtype="float32", max_length=512, **settings)
    dataset = Dataset.from_list(rows)
    scored = scorer.score(dataset)
    assert len(scored) == len(rows)
    assert scored.remove_columns(["dlc_confidence", "dlc_loss", "dlc_gain", "dlc_tokens", "dlc_status"]).to_list() == (
        dataset.to_list()
    )
    counts = Counter(scored["dlc_status"])
    assert set(counts) <= STATUSES
    has_score = np.isin(scored["dlc_status"][:], list(SCORED_STATUSES))
    assert has_score.sum() >= 10  # T0's passages are long in pieces of a vocabulary of 512
    for column in ("dlc_confidence", "dlc_loss"):
        assert (np.isfinite(scored[column][:]) == has_score).all()
    assert ((np.array(scored["dlc_tokens"][:]) > 0) == has_score).all()


def test_a_small_trained_model_is_calibrated_once(
    aidreams: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DLC_CACHE", str(tmp_path))
    schedule = DLCScorer.from_pretrained(aidreams, dtype="float32").calibrate()
    assert len(schedule) == 4
    assert all(low < high for low, high in itertools.pairwise(schedule))
    [path] = tmp_path.rglob("*.json")

    def find(_: Schedule) -> tuple[float, ...]:
        raise AssertionError("calibrated again")

    monkeypatch.setattr(Schedule, "find", find)
    assert DLCScorer.from_pretrained(aidreams, dtype="float32").calibrate() == schedule
    assert json.loads(path.read_text(encoding="utf-8"))["schedule"] == list(schedule)


@pytest.fixture(scope="module")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Twelve photographs of each of ten kinds of clothing, of which the labels of every sixth are wrong."""
    path = SHARED / "data" / "images" / "clothing_224.zip"
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    folder, counts = tmp_path_factory.mktemp("clothes"), Counter()
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            part, kind, file = (*Path(name).parts, "", "")[:3]
            if part == "train" and file and counts[kind] < 12:
                counts[kind] += 1
                (folder / kind).mkdir(exist_ok=True)
                (folder / kind / file).write_bytes(archive.read(name))
    images = load_dataset("imagefolder", data_dir=str(folder), data_files={"train": "**"}, split="train")
    claimed = [(label + 3) % 10 if row % 6 == 0 else label for row, label in enumerate(images["label"][:])]
    return images.remove_columns("label").add_column("label", claimed).cast_column("label", images.features["label"])


def test_a_real_vit_finds_wrong_labels_of_real_photographs(clothes: Dataset) -> None:
    folder = SHARED / "models" / "vit_small_14"
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}")
    options = {"masking": "magnitude", "schedule": "0, 0.3", "keep_levels": True, "pooling": "mean@layers.8"}
    scorer = DLCScorer.from_pretrained(folder, device="cpu", dtype="float32", **options).fit(clothes)
    scored = scorer.score(clothes)
    assert set(scored["dlc_status"]) == {"ok"}
    is_wrong = np.arange(len(clothes)) % 6 == 0
    plain, masked = np.array(scored["dlc_level_loss"][:]).T
    assert auroc(plain, is_wrong) > 0.65
    assert auroc(np.array(scored["dlc_loss"][:]), is_wrong) > 0.65
    assert 0.5 < spearman(plain, masked) < 0.9999  # the mask changes ranks, and does not make noise of them
