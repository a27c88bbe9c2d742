"""The table of scores: all that is known of a column by its name."""

from __future__ import annotations

from .base import Score
from .dlc import Confidence, Gain, Loss
from .knn import KnnConfidence


# In the order of their columns. A new score is a file of this folder and a line here.
SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        Confidence(),
        Loss(),
        Gain(),
    )
}

# Scores that are computed where they are asked for by name, since they cost more or need more than a model.
ON_REQUEST: dict[str, Score] = {score.name: score for score in (KnnConfidence(),)}


def score_of(column: str) -> Score | None:
    """
    The score that a column holds, told by the end of its name, whatever it begins with; `None` for any other column.

    Example:
    ```python
    >>> score_of("dlc_loss").easy, score_of("quality")
    ('low', None)
    ```
    """
    # A selector knows the name of its column but not the prefix, which users choose. So any prefix is accepted, and
    # `train_loss` is read as a loss too. It stays so because users may rely on it; `easy=` of a selector overrides it.
    known = {**ON_REQUEST, **SCORES}.values()
    fitting = [score for score in known if str(column).endswith(f"_{score.name}")]
    return max(fitting, key=lambda score: len(score.name), default=None)
