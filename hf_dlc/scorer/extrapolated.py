"""`ExtrapolatedScorer`: a share of the rows is scored at all levels, and the scores of the others are predicted."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset

from hf_dlc.errors import DLCError
from hf_dlc.execution.estimate import RunEstimate
from hf_dlc.execution.processes import process_state
from hf_dlc.scorer.predict import PREDICTORS, HeldOut, Predictor, expand_measures, extrapolate, standardized
from hf_dlc.scores.columns import SCORED_STATUSES, score_features, vector_features, with_columns
from hf_dlc.scores.table import SCORES
from hf_dlc.utils.files import write_json

from .given_features import read_features, tell_lacking
from .graph import GraphPredictor
from .predicted_columns import PredictedColumns
from .rows import require_dataset
from .scorer import DLCScorer


logger = logging.getLogger(__name__)

EXTRAPOLATION_NAME = "extrapolation.json"

# With fewer rows, neither a rule can be learned nor an agreement be measured.
LEAST_ROWS = 10
_METHODS: dict[str, type[Predictor]] = {**PREDICTORS, GraphPredictor.name: GraphPredictor}


class ExtrapolationError(DLCError):
    """Scores that cannot be predicted, or not well enough; the message says how well and what to do."""


@dataclass(frozen=True)
class ExtrapolationAgreement:
    """
    How well predicted scores agree with those at all levels, measured on scored rows that were held out.

    Args:
        scores (`Mapping[str, HeldOut]`):
            By the name of a predicted score its Spearman correlation, 95% interval and chosen options.
        rows (`int`):
            Rows of the dataset.
        scored (`int`):
            Rows that were scored at all levels.
        predicted (`int`):
            Rows whose scores were predicted.
        share (`float`):
            Share of the rows with a score that was asked for.
        method (`str`):
            Name of the predictor.
        passes (`float`):
            Times that all rows went through the model, in whatever view of them; by `scorer.score` it would have been
            one for each level, and one for each further view that the scores ask for.
    """

    scores: Mapping[str, HeldOut]
    rows: int
    scored: int
    predicted: int
    share: float
    method: str
    passes: float

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; a number that is not known is null."""
        return {**vars(self), "scores": {name: found.to_json() for name, found in self.scores.items()}}

    def __str__(self) -> str:
        found = ", ".join(f"{name} {agreement}" for name, agreement in self.scores.items())
        return (
            f"{self.scored:,} of {self.rows:,} rows scored at all levels, {self.predicted:,} predicted by "
            f"{self.method} at the price of {self.passes:.2f} passes; Spearman on held-out rows: {found}"
        )


class ExtrapolatedScorer:
    """
    Scores a random share of the rows at all levels, and predicts the scores of the other rows from one unmasked pass.

    All rows pass through the unmasked model. What this measures of a row (loss, confidence, number of target tokens)
    and, where there are any, its features predict the scores that depend on masked levels. Scores that do not depend
    on them are computed, and predicted for no row. The score-extrapolation paper (submitted to ICLR 2026) predicts
    from features alone, without an unmasked pass.

    With L levels it costs 1 + share · L passes in the place of L. Level 0 of the share is among them twice.

    Args:
        scorer ([`DLCScorer`]):
            Scorer with the levels that count, fitted if it needs to be.
        share (`float`, *optional*, defaults to 0.1):
            Share of the rows with a score that is scored at all levels; at least 10 rows.
        method (`str` or [`~predict.Predictor`], *optional*, defaults to `"ridge"`):
            `"ridge"`, linear regression; `"knn"`, the mean of the nearest scored rows; `"gnn"`, the paper's graph
            network without its optional label input, which needs the extra `gnn`. On scored rows `"ridge"` chooses its
            penalty, and `"knn"` how many rows count and with what weights. `"gnn"` chooses its epoch alone: its
            neighbours stay 10.
        seed (`int`, *optional*, defaults to 0):
            Seed of the share, the folds and the predictor.
        least_agreement (`float`, *optional*, defaults to 0.9):
            Spearman correlation on held-out rows below which no score is returned.

    Attributes:
        agreement_ ([`ExtrapolationAgreement`]):
            Agreement of the latest call of `score`, also if it ended with an error for being too low.

    Raises:
        ImportError: If `method="gnn"` and PyTorch Geometric is not installed.
        ValueError: If an option is out of its range.

    Example:
    ```python
    >>> from hf_dlc import ExtrapolatedScorer
    >>> scored = ExtrapolatedScorer(scorer, share=0.5, least_agreement=-1).score(dataset)  # whatever comes of it
    >>> sorted(set(scored["dlc_status"]))
    ['ok', 'predicted']
    ```
    """

    agreement_: ExtrapolationAgreement

    def __init__(
        self,
        scorer: DLCScorer,
        share: float = 0.1,
        method: str | Predictor = "ridge",
        seed: int = 0,
        least_agreement: float = 0.9,
    ) -> None:
        if not isinstance(share, Real) or isinstance(share, bool) or not 0 < share < 1:
            raise ValueError(f"share must be a number between 0 and 1, got {share!r}. scorer.score scores all rows.")
        if not isinstance(least_agreement, Real) or not -1 <= least_agreement <= 1:
            raise ValueError(f"least_agreement must be a correlation from -1 to 1, got {least_agreement!r}.")
        self.scorer, self.share, self.seed, self.least_agreement = scorer, share, seed, least_agreement
        self.predictor = make_predictor(method, seed) if isinstance(method, str) else method

    def score(
        self,
        dataset: Dataset,
        features: str | np.ndarray | None = None,
        run_dir: str | Path | None = None,
        num_threads: int | None = None,
    ) -> Dataset:
        """
        Score a whole dataset, most of it by prediction.

        Args:
            dataset ([`~datasets.Dataset`]):
                Rows of a known layout; one split, not a `DatasetDict`.
            features (`str` or `np.ndarray`, *optional*):
                Column of lists of one length, or an array of shape `(rows, size)`, from which scores are predicted
                besides the unmasked measures. By default they are those that the scorer writes, with `features=True`
                among its options; they come from the same pass. A number that is not finite counts as the mean of the
                scored rows.
            run_dir (`str` or `Path`, *optional*):
                Folder for the journals of both scorings (`level_0` and `share`), from which the same call goes on, and
                for `extrapolation.json`, the agreement. It is written also where the agreement is too low.
            num_threads (`int`, *optional*):
                CPU threads of this process, by default the cores divided by the processes of this machine.

        Returns:
            [`~datasets.Dataset`]: With the score columns of `scorer.score`. Rows with predicted scores say `predicted`
            in the status, also where they were cut to `max_length`. With `keep_levels=True`, their masked levels are
            NaN.

        Raises:
            ExtrapolationError: If there are too few scored rows, or if a predicted score agrees less with the true one
                than `least_agreement` asks for.
            TypeError: If `dataset` is no `Dataset`.
            ValueError: If no level is masked, or if there are no such features for these rows.
            JournalError: If `run_dir` holds the journals of another run.
        """
        require_dataset(dataset, "score", "Dataset")
        prefix = self.scorer.config.prefix
        _require_masked_levels(self.scorer)
        given = None if features is None else read_features(dataset, features)
        columns = [*score_features(prefix, True, SCORES), *vector_features(prefix)]
        written = [name for name in columns if name in dataset.column_names]
        bare = dataset.remove_columns(written)
        folder = partial(Path, run_dir) if run_dir else lambda _: None
        level_0 = level_0_scorer(self.scorer)
        plain = level_0.score(bare, folder("level_0"), num_threads)
        rows = self._choose_rows(np.isin(plain[f"{prefix}_status"][:], list(SCORED_STATUSES)))
        exact = self.scorer.score(bare.select(rows.tolist()), folder("share"), num_threads)
        table = PredictedColumns(plain, exact, rows, prefix)
        blocks = [expand_measures(table.measures())]
        if given is None and table.vectors is not None:
            given = table.vectors.astype(np.float32)
        if given is not None:
            tell_lacking(given, table.scorable)
            blocks.append(given)
        agreements = {name: self._predict(name, blocks, table) for name in table.asked(self.scorer.schedule_)}
        passes = _passes_of(level_0) + len(rows) / len(dataset) * _passes_of(self.scorer)
        counts = len(dataset), len(rows), len(table.wanted)
        self.agreement_ = ExtrapolationAgreement(agreements, *counts, self.share, self.predictor.name, float(passes))
        if process_state().is_main_process:
            logger.info("%s", self.agreement_)
            if run_dir:  # before the check: what was too low is a finding as well
                write_json(Path(run_dir, EXTRAPOLATION_NAME), self.agreement_.to_json())
        self._check_agreement()
        return with_columns(dataset, table.values, table.features)

    def estimate(self, dataset: Dataset, num_threads: int | None = None, training: bool = False) -> RunEstimate:
        """
        Foretell what `score(dataset)` will cost.

        Args:
            dataset ([`~datasets.Dataset`]):
                Rows of a known layout; one split, not a `DatasetDict`.
            num_threads (`int`, *optional*):
                As for `score`.
            training (`bool`, *optional*, defaults to `False`):
                Whether to measure what an epoch of training costs, as [`DLCScorer.estimate`] does.

        Returns:
            [`RunEstimate`]: Forward passes and seconds of both scorings together. The prediction itself is not
            counted, nor are features that are handed over.

        Raises:
            TypeError: If `dataset` is no `Dataset`.
            ValueError: If no level is masked.
        """
        require_dataset(dataset, "estimate", "Dataset")
        _require_masked_levels(self.scorer)
        exact = self.scorer.estimate(dataset, num_threads, training)
        plain = level_0_scorer(self.scorer).estimate(dataset, num_threads)
        passes = plain.forward_passes + round(self.share * exact.forward_passes)
        return replace(exact, forward_passes=passes, seconds=plain.seconds + self.share * exact.seconds)

    def _choose_rows(self, scorable: np.ndarray) -> np.ndarray:
        """Numbers of the rows that are scored at all levels, in ascending order."""
        places = np.flatnonzero(scorable)
        count = round(self.share * len(places))
        if count < LEAST_ROWS:
            raise ExtrapolationError(
                f"a share must have at least {LEAST_ROWS} rows to predict the others, got share={self.share:g} of "
                f"{len(places)} rows that can be scored, which is {count}. Pass a larger share, or score all rows "
                "with scorer.score(dataset)."
            )
        return np.sort(np.random.default_rng(self.seed).choice(places, count, replace=False))

    def _predict(self, name: str, blocks: Sequence[np.ndarray], table: PredictedColumns) -> HeldOut:
        """Write the predicted values of a score, and return how well they agree."""
        known, scores = table.known(name)
        if len(known) < LEAST_ROWS:
            raise ExtrapolationError(
                f"{LEAST_ROWS} rows with a {name} are needed to predict it, got {len(known)} of {len(table.rows)}: "
                "the masked model gave NaN for the others. Pass a larger share, or other masks."
            )
        bounds = SCORES[name].low, SCORES[name].high
        matrix = standardized(blocks, known)
        values, agreement = extrapolate(self.predictor, matrix, known, scores, table.wanted, bounds, self.seed)
        table.set_predicted(name, values)
        return agreement

    def _check_agreement(self) -> None:
        """Refuse what ranks rows too differently; NaN, where nothing varies, is no agreement."""
        scores = self.agreement_.scores
        low = {name: found for name, found in scores.items() if not found.spearman >= self.least_agreement}
        if low:
            told = " and ".join(f"{found} by {name}" for name, found in low.items())
            raise ExtrapolationError(
                "predicted scores must rank held-out rows as the true ones do, with a Spearman correlation of at "
                f"least {self.least_agreement:g} (least_agreement), got {told}. Pass a larger share than "
                f"{self.share:g}, other features or another method, leave the score out, or pass a lower "
                "least_agreement. With the same share, seed and run_dir, no row is scored again."
            )


def level_0_scorer(scorer: DLCScorer) -> DLCScorer:
    """
    A scorer of the unmasked level alone, on the same model, with the same options and the same class prototypes.

    Args:
        scorer ([`DLCScorer`]):
            Scorer of more levels.

    Returns:
        [`DLCScorer`]: It keeps the measures of its level as columns.

    Raises:
        ValueError: If the prototypes were fitted with other weights.
    """
    plain = copy(scorer)
    # Loss and confidence are what scores are predicted from, whether they are asked for or not.
    scores = tuple(dict.fromkeys([*scorer.config.scores, "plain_loss", "plain_confidence"]))
    plain.config = replace(scorer.config, levels="single", keep_levels=True, scores=scores)
    plain.parts = scorer.parts.with_config(plain.config)
    plain.parts.schedule.has_told = True  # of course there is no gain at one level: it is what is predicted
    return plain


def make_predictor(method: str, seed: int = 0) -> Predictor:
    """
    The predictor of a method, which chooses its own options.

    Args:
        method (`str`):
            `"ridge"`, `"knn"` or `"gnn"`.
        seed (`int`, *optional*, defaults to 0):
            Seed of what it draws.

    Returns:
        [`~predict.Predictor`]

    Raises:
        ImportError: If it is `"gnn"` and PyTorch Geometric is not installed.
        ValueError: If there is no such method.
    """
    if method not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, _METHODS))}, got {method!r}.")
    kind = _METHODS[method]
    return kind() if method == "ridge" else kind(seed=seed)


def _passes_of(scorer: DLCScorer) -> int:
    return len(scorer.parts.engine.passes(scorer.parts.schedule.fractions))


def _require_masked_levels(scorer: DLCScorer) -> None:
    fractions = scorer.parts.schedule.fractions
    if len(fractions) < 2:
        raise ValueError(
            f"a score must have masked levels to be predicted, got the schedule {fractions}. scorer.score(dataset) "
            "costs one pass as it is."
        )
