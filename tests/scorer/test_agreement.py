"""Agreement of two scorers on a sample of rows."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy import stats
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_dlc import Agreement, DLCConfig, DLCScorer
from hf_dlc.scorer.agreement import AgreementOnOneScore, Rater, measure_agreement
from tests.rows import ALPACA_ROWS, many_rows


ROWS = Dataset.from_list(many_rows(24, skipped=(3,)))


def rater(name: str, values: list[float], statuses: list[str] | None = None, **more: Any) -> Rater:
    """A scorer that says what it is told, whichever rows come."""

    def score(rows: Dataset) -> Dataset:
        places, known = rows["place"][:], statuses or ["ok"] * len(values)
        columns = {"dlc_confidence": [values[place] for place in places], **more}
        columns["dlc_status"] = [known[place] for place in places]
        return Dataset.from_dict({**rows.to_dict(), **columns})

    return Rater(name, "causal-lm", score)


def compare(first: Rater, second: Rater, number: int, **options: Any) -> Agreement:
    options = {"rows": 200, "keep": 0.5, "seed": 0, "threshold": 0.9, **options}
    return measure_agreement(first, second, Dataset.from_dict({"place": list(range(number))}), **options)


class TestNumbers:
    def test_against_scipy_and_sets(self) -> None:
        rng = np.random.default_rng(0)
        mine = rng.random(100)
        theirs = mine + 0.2 * rng.random(100)
        [found] = compare(rater("a", mine.tolist()), rater("b", theirs.tolist()), 100, keep=0.3).scores
        assert (found.score, found.rows) == ("confidence", 100)
        assert found.spearman == pytest.approx(stats.spearmanr(mine, theirs).statistic)
        assert found.low < found.spearman < found.high
        easy = [set(np.argsort(-values)[:30]) for values in (mine, theirs)]  # a high confidence is easy
        hard = [set(np.argsort(values)[:30]) for values in (mine, theirs)]
        assert found.easiest == len(easy[0] & easy[1]) / 30
        assert found.hardest == len(hard[0] & hard[1]) / 30
        assert found.easiest != found.hardest

    def test_a_low_loss_is_easy(self) -> None:
        """The easiest agree, the hardest do not; the orientation is that of the table of scores."""
        mine, theirs = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], [1.0, 2.0, 3.0, 4.0, 7.0, 8.0, 5.0, 6.0]
        first, second = (rater(name, [0.5] * 8, dlc_loss=values) for name, values in (("a", mine), ("b", theirs)))
        found = {one.score: one for one in compare(first, second, 8, keep=0.25).scores}
        assert (found["loss"].easiest, found["loss"].hardest) == (1.0, 0.0)
        assert np.isnan(found["confidence"].spearman)  # which never varies

    def test_rows_that_one_has_not_scored(self) -> None:
        values = [0.1, 0.2, 0.3, 0.4, 0.5, np.nan]
        first = rater("a", values, ["ok", "ok", "truncated", "ok", "nan_score", "invalid_row"])
        second = rater("b", values, ["ok", "truncated_away", "ok", "ok", "ok", "empty_response"])
        found = compare(first, second, 6)
        assert (found.sampled, found.rows, found.scores[0].rows) == (6, 3, 3)
        assert found.only_scorer == {"truncated_away": 1}
        assert found.only_other == {"nan_score": 1}
        assert found.neither == {"invalid_row": 1}
        text = str(found)
        assert "3 of 6 rows" in text
        assert "1 row(s) scored by a only: truncated_away 1" in text
        assert "1 row(s) scored by b only: nan_score 1" in text

    def test_a_score_that_one_has_not(self) -> None:
        values = [0.1, 0.2, 0.3]
        found = compare(rater("a", values, dlc_gain=[np.nan] * 3), rater("b", values, dlc_gain=values), 3)
        assert [one.score for one in found.scores] == ["confidence"]
        assert found.missing == {"gain": "no number by a"}
        assert "not compared: gain, no number by a" in str(found)

    def test_columns_of_an_earlier_scoring_are_no_scores(self) -> None:
        rows = Dataset.from_dict({"place": [0, 1, 2], "dlc_loss": [1.0, 2.0, 3.0]})
        one = rater("a", [0.1, 0.2, 0.3])
        found = measure_agreement(one, one, rows, 200, 0.5, 0, 0.9)
        assert [one.score for one in found.scores] == ["confidence"]

    def test_the_sample_is_drawn_with_a_seed(self) -> None:
        given: list[list[int]] = []
        values = np.random.default_rng(0).random(50).tolist()
        one = rater("a", values)
        watched = one._replace(score=lambda rows: given.append(rows["place"][:]) or one.score(rows))
        for seed in (0, 0, 1):
            compare(watched, one, 50, rows=10, seed=seed)
        assert [len(set(places)) for places in given] == [10] * 3
        assert given[0] == given[1] == sorted(given[0])
        assert given[0] != given[2]


class TestText:
    ONE = AgreementOnOneScore("confidence", 200, 0.97, 0.95, 0.98, 0.9, 0.88)
    TWO = AgreementOnOneScore("gain", 200, 0.41, 0.3, 0.5, 0.6, 0.7)

    def agreement(self, *scores: AgreementOnOneScore) -> Agreement:
        return Agreement("small", "large", 200, 200, {}, {}, {}, 0.5, 0.9, scores, {})

    def test_what_is_too_low_stands_first(self) -> None:
        assert str(self.agreement(self.ONE, self.TWO)).splitlines()[0] == "Below 0.9: gain 0.410."
        first = str(self.agreement(self.ONE)).splitlines()[0]
        assert first == "All scores agree with 0.9 or more, the lowest is confidence 0.970."

    def test_the_table(self) -> None:
        lines = str(self.agreement(self.ONE)).splitlines()
        assert lines[1] == "small, compared with large on 200 of 200 rows"
        assert lines[3].split() == ["confidence", "0.970", "0.950", "to", "0.980", "0.90", "0.88", "200"]

    def test_what_is_not_known_is_below_and_null(self) -> None:
        nan = float("nan")
        found = self.agreement(AgreementOnOneScore("loss", 2, nan, nan, nan, 1.0, 1.0))
        assert str(found).startswith("Below 0.9: loss nan.")
        assert json.loads(json.dumps(found.to_json(), allow_nan=False))["scores"][0]["spearman"] is None


class TestScorers:
    def test_with_all_levels_of_the_same_model(self, make_scorer: Callable) -> None:
        fast = make_scorer(schedule="0, 0.1, 0.2, 0.3", levels="fast")
        found = fast.agreement(ROWS)
        assert (found.scorer, found.other) == ("LlamaForCausalLM (2 levels)", "LlamaForCausalLM (4 levels)")
        assert (found.sampled, found.rows, found.neither) == (24, 23, {"empty_response": 1})
        exact = make_scorer(schedule="0, 0.1, 0.2, 0.3").score(ROWS)
        scored = fast.score(ROWS)
        for one in found.scores:
            pair = [np.array(columns[f"dlc_{one.score}"][:]) for columns in (scored, exact)]
            pair = [values[~np.isnan(values)] for values in pair]
            assert one.spearman == pytest.approx(stats.spearmanr(*pair).statistic)
        assert fast.schedule_ == (0.0, 0.2)  # still

    def test_the_model_is_shared(self, make_scorer: Callable) -> None:
        fast = make_scorer(levels="fast")
        exact = fast.with_levels("exact")
        assert exact.model is fast.model
        assert exact.parts.lock is fast.parts.lock
        assert (exact.schedule_, fast.schedule_) == ((0.0, 0.1, 0.3), (0.0, 0.1))

    def test_a_single_level_has_no_gain(self, make_scorer: Callable) -> None:
        found = make_scorer(levels="single").agreement(ROWS)
        assert [one.score for one in found.scores] == ["confidence", "loss"]
        assert found.missing == {"gain": "no number by LlamaForCausalLM (1 level)"}

    def test_of_another_model_with_other_options(self, make_scorer: Callable) -> None:
        one, other = make_scorer(), make_scorer("gpt2", prefix="large", max_length=40)
        found = one.agreement(ROWS, other, rows=20, keep=0.3)
        assert found.other == "GPT2LMHeadModel (3 levels)"
        assert found.sampled == 20
        assert found.rows + sum(found.only_scorer.values()) + sum(found.neither.values()) == 20
        assert found.only_scorer.keys() <= {"truncated_away"}

    def test_the_same_scorer_agrees_with_itself(self, make_scorer: Callable) -> None:
        found = make_scorer().agreement(ROWS, make_scorer())
        assert {(one.spearman, one.easiest, one.hardest) for one in found.scores} == {(1.0, 1.0, 1.0)}
        assert not found.below


SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


class TestImages:
    def scorer(self, **options: Any) -> DLCScorer:
        torch.manual_seed(0)
        config = ViTConfig(**SIZE, image_size=16, patch_size=8, num_labels=3)
        processor = ViTImageProcessor(size={"height": 16, "width": 16})
        return DLCScorer(ViTForImageClassification(config).eval(), processor, DLCConfig(**options))

    def dataset(self) -> Dataset:
        from datasets import ClassLabel, Features, Image

        rng = np.random.default_rng(0)
        images = [rng.integers(0, 255, (16, 16, 3)).astype(np.uint8) for _ in range(18)]
        features = Features({"image": Image(), "label": ClassLabel(names=["LABEL_0", "LABEL_1", "LABEL_2"])})
        return Dataset.from_dict({"image": images, "label": [i % 3 for i in range(18)]}, features)

    def test_prototypes_are_shared(self) -> None:
        """Those of all rows, whichever rows are sampled."""
        fast, dataset = self.scorer(head="prototype", levels="fast").fit(self.dataset()), self.dataset()
        found = fast.agreement(dataset, rows=12)
        assert (found.sampled, found.rows) == (12, 12)
        again = self.scorer(head="prototype").fit(dataset)
        assert fast.agreement(dataset, copy.copy(again), rows=12).scores == found.scores

    def test_with_a_trained_head(self) -> None:
        assert self.scorer(head="classifier", levels="fast").agreement(self.dataset()).rows == 18

    def test_text_and_images_cannot_be_compared(self, make_scorer: Callable) -> None:
        with pytest.raises(
            ValueError, match=r"same kind of rows, got LlamaFor.* for causal-lm and ViTFor.* for image"
        ):
            make_scorer().agreement(ROWS, self.scorer(head="classifier"))


class TestWrong:
    def test_nothing_to_compare_with(self, make_scorer: Callable) -> None:
        with pytest.raises(ValueError, match=r"runs all levels already\. Pass other="):
            make_scorer().agreement(ROWS)

    def test_too_few_rows_that_both_have_scored(self, make_scorer: Callable) -> None:
        rows = Dataset.from_list([*ALPACA_ROWS[:1], *({"instruction": "a", "input": "", "output": ""},) * 3])
        with pytest.raises(
            ValueError, match=r"at least 2 rows must be scored by both, got 1 of 4.*empty_response': 3"
        ):
            make_scorer(levels="fast").agreement(rows)

    def test_no_score_in_common(self) -> None:
        nothing = [np.nan] * 3
        with pytest.raises(ValueError, match=r"must have a score in common, got .*no number by a"):
            compare(rater("a", nothing), rater("b", [1.0, 2.0, 3.0]), 3)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"rows": 1}, "rows must be a whole number of at least 2, got 1"),
            ({"keep": 1.0}, "keep must be a share of the rows between 0 and 1, got 1.0"),
            ({"keep": 5}, "keep must be a share of the rows between 0 and 1, got 5"),
            ({"threshold": 90}, "threshold must be a rank correlation"),
            ({"seed": -1}, "seed must be a non-negative int"),
        ],
    )
    def test_a_wrong_value_is_named(self, make_scorer: Callable, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make_scorer(levels="fast").agreement(ROWS, **options)

    def test_a_stream_is_refused(self, make_scorer: Callable) -> None:
        with pytest.raises(TypeError, match=r"agreement needs a datasets\.Dataset, got IterableDataset"):
            make_scorer(levels="fast").agreement(ROWS.to_iterable_dataset())


def test_scores_that_mask_nothing_have_nothing_to_agree_with(make_scorer: Callable) -> None:
    scorer = make_scorer(scores=("plain_loss", "ifd"), levels="fast")
    with pytest.raises(ValueError, match="nothing to compare with: this scorer runs all levels already"):
        scorer.agreement(Dataset.from_list(ALPACA_ROWS))
