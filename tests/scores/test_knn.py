"""The confidence of nearest neighbours as a score: one unmasked pass, the mean over layers, for images only."""

from __future__ import annotations

import numpy as np
import pytest

from hf_dlc.scores.base import MEASURABLE, Measure, Pass, kinds_of, measures_by_pass
from hf_dlc.scores.knn import KNN_CONFIDENCE, KnnConfidence
from hf_dlc.scores.table import DEFAULT_SCORES, SCORES, chosen_scores, score_of
from hf_dlc.tasks.text.task import CausalLMTask
from hf_dlc.tasks.vision.task import ImageClassificationTask


def test_it_is_the_mean_over_layers_of_one_unmasked_pass() -> None:
    score, shares = KnnConfidence(), np.array([[0.2, 0.4], [1.0, 0.0]], dtype=np.float32)
    assert score.passes((0.0, 0.2, 0.4)) == (Pass(),)
    measured = KNN_CONFIDENCE.numbers(None, None, shares)
    np.testing.assert_allclose(score.reduce({"knn_confidence": measured[None]}), [0.3, 0.5])
    assert (score.easy, score.low, score.high) == ("high", 0.0, 1.0)


def test_it_is_computed_where_it_is_asked_for_alone() -> None:
    assert "knn_confidence" not in DEFAULT_SCORES
    assert score_of("easy_knn_confidence") is SCORES["knn_confidence"]
    assert score_of("easy_confidence") is SCORES["confidence"]


def test_kinds_of_measures() -> None:
    assert kinds_of(chosen_scores(DEFAULT_SCORES)) == {"token"}
    assert kinds_of(chosen_scores([*DEFAULT_SCORES, "knn_confidence"])) == {"token", "neighbours"}
    assert Measure("whole", of_distribution=abs).kind == "distribution"
    assert kinds_of([]) == frozenset()


@pytest.mark.parametrize("task", [CausalLMTask, ImageClassificationTask])
def test_tasks_say_what_they_measure(task: type) -> None:
    assert task.measurable <= set(MEASURABLE)
    assert ("neighbours" in task.measurable) == (task is ImageClassificationTask)


def test_a_task_without_neighbours_refuses_it_by_name() -> None:
    words = (
        r"the score 'knn_confidence' is a measure of neighbours of images, which this kind of model does not give: it "
        r"gives those of predicted distributions, prompt and response as texts, target tokens\. Leave the score out\."
    )
    with pytest.raises(ValueError, match=words):
        measures_by_pass([KnnConfidence()], (0.0,), measurable=CausalLMTask.measurable)
    assert measures_by_pass([KnnConfidence()], (0.0, 0.1)) == {Pass(): (KNN_CONFIDENCE,)}
