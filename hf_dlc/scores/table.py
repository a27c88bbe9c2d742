"""The table of scores: all that is known of a column by its name."""

from __future__ import annotations

from collections.abc import Iterable

from .base import Score
from .dlc import Confidence, Gain, Loss
from .el2n import EL2N
from .entropy import Entropy
from .ifd import IFD
from .knn import KnnConfidence
from .margin import Margin
from .plain import PlainConfidence, PlainLoss
from .prompt_gain import PromptGain
from .similarity import Similarity
from .target_shift import TargetShift


# In the order of their columns. A new score is a file of this folder and a line here.
SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        Confidence(),
        Loss(),
        Gain(),
        PlainConfidence(),
        PlainLoss(),
        Entropy(),
        Margin(),
        EL2N(),
        IFD(),
        PromptGain(),
        Similarity(),
        KnnConfidence(),
        TargetShift(),
    )
}

# Those of Distorting-based Learning Complexity, which are scored where nobody asks for others.
DEFAULT_SCORES = ("confidence", "loss", "gain")


def chosen_scores(names: Iterable[str]) -> tuple[Score, ...]:
    """
    The scores of some names, in the order of the table.

    Raises:
        ValueError: If a name is not in the table.

    Example:
    ```python
    >>> [score.name for score in chosen_scores(["ifd", "loss"])]
    ['loss', 'ifd']
    ```
    """
    names = list(names)
    if unknown := [name for name in names if name not in SCORES]:
        raise ValueError(f"scores must be of {', '.join(SCORES)}, got {', '.join(map(repr, unknown))}.")
    return tuple(score for name, score in SCORES.items() if name in names)


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
    fitting = [score for score in SCORES.values() if str(column).endswith(f"_{score.name}")]
    return max(fitting, key=lambda score: len(score.name), default=None)
