"""Law 8: the fingerprint of a scorer is the same in every process, and another one as soon as a score may differ."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher

from hf_dlc import DLCConfig, DLCScorer
from hf_dlc.scorer import fingerprint
from hf_dlc.scorer import schedule as probe
from tests.conftest import SCHEDULE, build_model, build_tokenizer, run_python
from tests.insides import task_of
from tests.rows import ALPACA_ROWS
from tests.set_ups import SET_UPS, encoder, set_up


DATASET = Dataset.from_list(ALPACA_ROWS)

_OF_LEVELS = {"confidence", "loss", "gain"}

# A set-up, another value of an option, and the scores that this changes.
OPTIONS_OF_SCORES: list[tuple[str, dict[str, Any], Collection[str]]] = [
    ("text", {"alone": "raw"}, {"ifd", "prompt_gain"}),
    ("text", {"alone": "empty_prompt"}, {"ifd", "prompt_gain"}),
    ("text", {"first_tokens": 3}, {"prompt_gain"}),
    ("text", {"encoder": "another"}, {"similarity"}),
    ("text", {"token_mean": "geometric"}, {"confidence", "plain_confidence"}),
    ("classifier", {"knn_neighbours": 2}, {"knn_confidence"}),
    ("prototype", {"prototype_logits": "temperature"}, {*SET_UPS["prototype"]} - {"knn_confidence"}),
    *(
        (name, options, _OF_LEVELS)
        for name in SET_UPS
        for options in ({"seed": 1}, {"masking": "magnitude"}, {"schedule": "0, 0.15"}, {"target_modules": ".*mlp.*"})
    ),
]


@pytest.fixture
def on_disk(tmp_path: Path) -> Path:
    DATASET.save_to_disk(tmp_path / "rows")
    return tmp_path / "rows"


def load(folder: Path, **options: Any) -> DLCScorer:
    return DLCScorer.from_pretrained(folder, **{"schedule": SCHEDULE, "dtype": "float32", "device": "cpu", **options})


class TestHash:
    def test_the_same_in_every_process(self, llama_folder: Path) -> None:
        code = f"""
import transformers
from datasets.fingerprint import Hasher
from hf_dlc import DLCConfig, DLCScorer
from tests.conftest import build_model, build_tokenizer
config = DLCConfig(schedule="{SCHEDULE}", dtype="float32")
loaded = DLCScorer.from_pretrained({str(llama_folder)!r}, config, device="cpu")
in_memory = DLCScorer(build_model("gpt2"), build_tokenizer(), config)
calibrated = DLCScorer(build_model("gpt2"), build_tokenizer())
print(*map(Hasher.hash, (loaded, in_memory, calibrated)))
"""
        hashes = run_python(code, PYTHONHASHSEED="22").stdout.split()
        config = DLCConfig(schedule=SCHEDULE, dtype="float32")
        here = load(llama_folder), DLCScorer(build_model("gpt2"), build_tokenizer(), config)
        calibrated = DLCScorer(build_model("gpt2"), build_tokenizer())
        assert hashes == [*map(Hasher.hash, (*here, calibrated))]
        assert len(set(hashes)) == 3

    def test_equal_scorers(self, make_scorer: Callable) -> None:
        assert Hasher.hash(make_scorer()) == Hasher.hash(make_scorer())

    @pytest.mark.parametrize(
        "options",
        [
            {"seed": 1},
            {"schedule": "0, 0.1, 0.31"},
            {"schedule": None},
            {"masking": "magnitude"},
            {"scope": "global"},
            {"target_modules": ".*mlp.*"},
            {"token_mean": "geometric"},
            {"max_length": 64},
            {"template": "alpaca"},
            {"template": lambda row: {"text": row["instruction"]}},
            {"layout": "alpaca"},
            {"columns": {"q": "instruction"}},
            {"prefix": "easy"},
            {"keep_levels": True},
            {"tokens_per_batch": 512},
            {"calibration_shares": [1.0, 0.5]},
            {"levels": "fast"},
            {"scores": ("confidence", "loss")},
            {"scores": ("confidence", "loss", "gain", "entropy")},
            {"features": True},
            {"features_size": 8},
        ],
        ids=lambda options: next(iter(options)),  # the same in every worker: a function is shown with its address
    )
    def test_every_option_counts(self, make_scorer: Callable, options: dict[str, Any]) -> None:
        assert Hasher.hash(make_scorer(**options)) != Hasher.hash(make_scorer())

    @pytest.mark.parametrize("name", SET_UPS)
    def test_every_set_of_scores_is_another(self, name: str) -> None:
        """Also with features beside the scores, of each pooling and size."""
        it = set_up(name)
        without = [{"scores": tuple(other for other in it.scores if other != score)} for score in it.scores]
        features = [{"features": pooling} for pooling in task_of(it.scorer).poolings]
        sizes = [{"features": True, "features_size": size} for size in (4, 8)]
        options = [{}, *without, *features, *sizes]
        assert len({Hasher.hash(it.make(**one)) for one in options}) == len(options)
        assert Hasher.hash(it.make()) == Hasher.hash(it.scorer)

    @pytest.mark.parametrize(
        ("name", "options", "changed"), OPTIONS_OF_SCORES, ids=[f"{name}-{one}" for name, one, _ in OPTIONS_OF_SCORES]
    )
    def test_an_option_that_changes_a_score(
        self, name: str, options: dict[str, Any], changed: Collection[str]
    ) -> None:
        """These scores and no other; it also changes what `datasets` hashes and what a journal belongs to."""
        it = set_up(name)
        if "encoder" in options:  # which is not there before tests run
            options = {"encoder": encoder(seed=1)}
        other = it.make(**options)
        found = it.read(other.score(it.rows, num_threads=1))
        assert {score for score in it.scores if np.abs(found[score] - it.values[score]).max() > 1e-3} == set(changed)
        assert Hasher.hash(other) != Hasher.hash(it.scorer)
        assert fingerprint.identity(other.parts.state()) != fingerprint.identity(it.scorer.parts.state())

    def test_templates_by_what_they_do(self, make_scorer: Callable) -> None:
        def take(column: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
            return lambda row: {"text": row[column]}

        one, other, again = (Hasher.hash(make_scorer(template=take(column))) for column in "aba")
        assert one != other
        assert one == again

    def test_the_text_of_a_template_file_counts_and_its_place_does_not(
        self, make_scorer: Callable, tmp_path: Path
    ) -> None:
        text = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<|im_end|>' }}{% endfor %}"
        path = tmp_path / "chat.jinja"
        hashes = []
        for content in (text, text.replace(": ", "> "), text):
            path.write_text(content)
            hashes.append(Hasher.hash(make_scorer(template=str(path))))
        assert hashes[0] == hashes[2] != hashes[1]

    @pytest.mark.parametrize("name", ["llama", "gpt2"])
    def test_one_weight(self, make_scorer: Callable, name: str) -> None:
        scorer = make_scorer(name)
        before = Hasher.hash(scorer)
        with torch.no_grad():
            list(scorer.model.parameters())[-1].view(-1)[-1] += 1e-6
        assert Hasher.hash(scorer) != before

    def test_a_training_step_on_the_same_object(self, make_scorer: Callable) -> None:
        scorer = make_scorer()
        before, loss = Hasher.hash(scorer), scorer(ALPACA_ROWS[0])["dlc_loss"]
        ids = torch.tensor([[1, 2, 3]])
        scorer.model(input_ids=ids, labels=ids).loss.backward()
        torch.optim.SGD(scorer.model.parameters(), lr=0.1).step()
        assert Hasher.hash(scorer) != before
        # The held levels of row-by-row scoring are not those of the old weights.
        fresh = DLCScorer(copy.deepcopy(scorer.model), scorer.processor, scorer.config)
        assert scorer(ALPACA_ROWS[0])["dlc_loss"] == fresh(ALPACA_ROWS[0])["dlc_loss"] != loss

    def test_the_processor(self, make_scorer: Callable) -> None:
        scorer = make_scorer()
        before = Hasher.hash(scorer)
        scorer.processor.add_tokens(["primary"])
        assert Hasher.hash(scorer) != before

    def test_versions(self, make_scorer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
        scorer = make_scorer()
        before = Hasher.hash(scorer)
        monkeypatch.setattr(fingerprint, "SCORE_VERSION", fingerprint.SCORE_VERSION + 1)
        assert Hasher.hash(scorer) != before

    def test_the_probe_counts_where_it_calibrates(
        self, make_scorer: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        calibrated, fixed = make_scorer(schedule=None), make_scorer()
        before = Hasher.hash(calibrated), Hasher.hash(fixed)
        other = tmp_path / "probe.jsonl"
        other.write_text(json.dumps(ALPACA_ROWS[0]))
        monkeypatch.setattr(probe, "_PROBE", other)
        assert Hasher.hash(calibrated) != before[0]
        assert Hasher.hash(fixed) == before[1]

    def test_use_does_not_change_it(self, make_scorer: Callable) -> None:
        scorer = make_scorer()
        before = Hasher.hash(scorer)
        scorer(ALPACA_ROWS[0])
        DATASET.map(scorer, batched=True)
        scorer.score(DATASET)
        scorer.estimate(DATASET)
        scorer.calibrate()
        scorer.masking_report()
        scorer.describe()
        scorer.model.train()
        assert Hasher.hash(scorer) == before

    def test_a_schedule_that_was_found_is_no_part_of_it(
        self, make_scorer: Callable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(probe.Schedule, "find", lambda _: (0.0, 0.1))
        scorer = make_scorer(schedule=None, calibration_shares=[1.0, 0.5])
        before = Hasher.hash(scorer)
        scorer.score(DATASET)
        assert scorer.schedule_ == (0.0, 0.1)
        assert Hasher.hash(scorer) == before

    def test_a_calibrated_schedule_is_no_part_of_it(self, taught_folder: Path) -> None:
        scorer = load(taught_folder, schedule=None, calibration_shares=[1.0, 0.5])
        before = Hasher.hash(scorer)
        assert len(scorer.calibrate()) == 2
        scorer.score(DATASET)
        assert Hasher.hash(scorer) == before


class TestCache:
    def test_a_second_map_runs_no_model(self, llama_folder: Path, on_disk: Path, passes: list[int]) -> None:
        first = Dataset.load_from_disk(on_disk).map(load(llama_folder), batched=True)
        assert sum(passes) == 3 * len(ALPACA_ROWS)
        passes.clear()
        second = Dataset.load_from_disk(on_disk).map(load(llama_folder), batched=True)
        assert passes == []
        assert second["dlc_loss"][:] == first["dlc_loss"][:]

    def test_a_map_by_another_scorer_runs_it(self, make_scorer: Callable, on_disk: Path, passes: list[int]) -> None:
        for seed in (0, 1):
            Dataset.load_from_disk(on_disk).map(make_scorer(seed=seed), batched=True)
        assert sum(passes) == 2 * 3 * len(ALPACA_ROWS)

    def test_a_model_in_memory_is_cached_too(self, make_scorer: Callable, on_disk: Path, passes: list[int]) -> None:
        scorer = make_scorer()
        Dataset.load_from_disk(on_disk).map(scorer)
        passes.clear()
        Dataset.load_from_disk(on_disk).map(scorer)
        assert passes == []


class TestWorkers:
    def test_pickle(self, llama_folder: Path) -> None:
        scorer = load(llama_folder, keep_levels=True)
        data = pickle.dumps(scorer)
        assert len(data) < 30_000  # no weights
        double = pickle.loads(data)
        assert Hasher.hash(double) == Hasher.hash(scorer)
        assert double.model is not scorer.model
        assert double(DATASET[:])["dlc_loss"].tolist() == scorer(DATASET[:])["dlc_loss"].tolist()
        assert double.config == scorer.config

    def test_a_worker_hashes_as_its_scorer_before_the_model_is_there(self, llama_folder: Path) -> None:
        scorer = load(llama_folder)
        once = pickle.loads(pickle.dumps(scorer))
        assert Hasher.hash(once) == Hasher.hash(scorer)
        assert not once.parts.handle.is_loaded

    def test_a_model_in_memory_cannot_go_to_a_worker(self, make_scorer: Callable) -> None:
        double = pickle.loads(pickle.dumps(make_scorer()))
        with pytest.raises(
            RuntimeError, match=r"handed over in memory.*from_pretrained\(id or path\) to use num_proc"
        ):
            double(ALPACA_ROWS[0])

    @pytest.mark.parametrize(
        "change",
        [
            lambda scorer: scorer.model.lm_head.weight.data[0, 0].add_(1),
            lambda scorer: setattr(scorer.model.config, "rms_norm_eps", 0.1),
            lambda scorer: scorer.processor.add_tokens(["primary"]),
        ],
        ids=["weight", "config", "tokenizer"],
    )
    def test_what_was_changed_in_memory_cannot_either(self, llama_folder: Path, change: Callable) -> None:
        scorer = load(llama_folder)
        change(scorer)
        double = pickle.loads(pickle.dumps(scorer))
        for _ in range(2):  # also the second time: nothing half loaded stays
            with pytest.raises(RuntimeError, match="are not those of the scorer that was sent here"):
                double(ALPACA_ROWS[0])

    def test_num_proc(self, llama_folder: Path, tmp_path: Path) -> None:
        # In a Python of its own with a time limit: OpenMP in a forked process is what would hang.
        code = f"""
import torch, transformers
from datasets import Dataset, disable_caching
from hf_dlc import DLCConfig, DLCScorer
from tests.conftest import build_model, build_tokenizer
from tests.rows import ALPACA_ROWS, SKIPPED_ROWS
disable_caching()
config = DLCConfig(schedule="{SCHEDULE}", dtype="float32")
scorer = DLCScorer.from_pretrained({str(llama_folder)!r}, config, device="cpu")
dataset = Dataset.from_list([*ALPACA_ROWS, *SKIPPED_ROWS.values()])
one = dataset.map(scorer, batched=True)
two = dataset.map(scorer, batched=True, num_proc=2, with_rank=True)
assert one.column_names == two.column_names and one.features == two.features
assert one["dlc_status"][:] == two["dlc_status"][:] == ["ok"] * 7 + ["empty_response"] * 3
for name, bound in (("dlc_confidence", 1e-5), ("dlc_loss", 1e-4)):
    first, second = (torch.tensor(scored[name][:7]) for scored in (one, two))
    assert (first - second).abs().max() < bound, name
try:
    dataset.map(DLCScorer(build_model("llama"), build_tokenizer(), config), batched=True, num_proc=2)
except RuntimeError as error:
    print("refused:", error)
"""
        shown = run_python(code, timeout=180).stdout
        assert "refused: this scorer holds a model that was handed over in memory" in shown
