"""Whether scores foretell how rows are learned: their rank correlation with the losses after every epoch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import ClassLabel, Dataset
from torch import nn
from transformers import DataCollatorForSeq2Seq, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_dlc.pipeline.options import DataArguments, ModelArguments
from hf_dlc.scores.table import SCORES
from hf_dlc.utils.ranks import bootstrap_interval, spearman_along

from .image_training import ClassifierOptions, classifier_trainer, frozen_setup, whole_setup
from .markdown import table
from .options import TrainerOptions, options_of
from .training import padder, train_lora


if TYPE_CHECKING:
    from hf_dlc.scorer.scorer import DLCScorer


PLAIN = "plain_loss"  # the score that all others are held against


@dataclass
class PremiseArguments(DataArguments, ModelArguments, TrainerOptions):
    """Check options: which rows are scored and trained on, and how."""

    epochs: float = field(default=3.0, metadata={"help": "Passes over the rows, after each of which losses are kept."})
    rows: int = field(default=300, metadata={"help": "Rows that are drawn at random."})
    longest_row: int | None = field(default=None, metadata={"help": "Leave out texts of more tokens than this."})
    label: str | None = field(default=None, metadata={"help": "Images: column of their classes. Left out for text."})
    frozen: bool = field(default=True, metadata={"help": "Images: train a linear head on frozen features."})
    study_seed: int = field(default=0, metadata={"help": "Seed of the rows and of the training."})
    output_dir: str = field(default="runs/premise", metadata={"help": "Folder for the results."})


def draw_rows(scorer: DLCScorer, dataset: Dataset, options: PremiseArguments) -> Dataset:
    """
    Draw the rows that are scored and trained on.

    Args:
        scorer ([`~hf_dlc.DLCScorer`]):
            Reads the texts.
        dataset ([`~datasets.Dataset`]):
            All rows.
        options ([`PremiseArguments`]):
            How many rows, and how long texts may be.

    Returns:
        [`~datasets.Dataset`]: Rows in their order; texts have something to learn from and are short enough.

    Raises:
        ValueError: If fewer than two rows are left, or if `options.label` names no column of classes.
    """
    places, label = np.arange(len(dataset)), options.label
    if label is not None and not isinstance(dataset.features.get(label), ClassLabel):
        raise ValueError(f"label must name a column of classes (ClassLabel), got {label!r}. Leave it out for text.")
    if label is None:
        encoded = scorer.tokenize(dataset)
        lengths = np.array([len(ids) for ids in encoded["input_ids"]])
        places = np.array(encoded["row"][:], dtype=int)[lengths <= (options.longest_row or np.inf)]
    if len(places) < 2:
        raise ValueError(f"2 rows are needed, got {len(places)} that can be trained on.")
    drawn = np.random.default_rng(options.study_seed).permutation(places)[: options.rows]
    return dataset.select(np.sort(drawn).tolist())


# ---- the learning curves ------------------------------------------------------------------------------------------


class EpochLosses(TrainerCallback):
    """
    Keeps the loss of each row at the end of every epoch of a training, as `kept`.

    Args:
        measure (`Callable`):
            Returns the loss of each row by the model, which is in eval mode then.
    """

    def __init__(self, measure: Callable[[nn.Module], np.ndarray]) -> None:
        self.measure = measure
        self.kept: list[np.ndarray] = []

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **_: Any
    ) -> None:
        """Measure all rows by the weights that the model has now."""
        self.kept.append(self.measure(model.eval()))
        model.train()


@torch.no_grad()
def row_losses(
    model: nn.Module, rows: Dataset, collate: Callable[[list[dict[str, Any]]], Any], batch_size: int
) -> np.ndarray:
    """
    Measure the loss of each row: of a text the mean over its target tokens, of an image that of its label.

    Args:
        model (`nn.Module`):
            Returns `logits`.
        rows ([`~datasets.Dataset`]):
            What `collate` takes; texts of similar length should stand together.
        collate (`Callable`):
            From rows to a batch with `labels`.
        batch_size (`int`):
            Rows of a batch.

    Returns:
        `np.ndarray` of shape `(rows,)`: In nats.
    """
    device, losses = next(model.parameters()).device, []
    for start in range(0, len(rows), batch_size):
        batch = collate([rows[place] for place in range(start, min(start + batch_size, len(rows)))])
        batch = {name: values.to(device) for name, values in batch.items()}
        labels = batch["labels"]
        if labels.ndim == 1:
            losses.append(nn.functional.cross_entropy(model(**batch)["logits"].float(), labels, reduction="none"))
            continue
        del batch["labels"]  # of texts: with them the model would compute the losses of all tokens as well
        is_target = labels[:, 1:] != -100
        logits = model(**batch)["logits"][:, :-1][is_target].float()
        of_tokens = torch.zeros(is_target.shape, device=device)
        of_tokens[is_target] = nn.functional.cross_entropy(logits, labels[:, 1:][is_target], reduction="none")
        losses.append(of_tokens.sum(dim=1) / is_target.sum(dim=1))
    return torch.cat(losses).double().cpu().numpy()


def learning_curves(scorer: DLCScorer, scored: Dataset, options: PremiseArguments) -> np.ndarray:
    """
    Train on all rows that have a score, and keep the loss of each of them after every epoch.

    Args:
        scorer ([`~hf_dlc.DLCScorer`]):
            Its model is trained: of text by adapters, which are taken off again. Of images a new head is trained on
            its features, or a new copy of the model.
        scored ([`~datasets.Dataset`]):
            What `scorer.score` returned.
        options ([`PremiseArguments`]):
            How to train.

    Returns:
        `np.ndarray` of shape `(rows, epochs)`: NaN for rows without a score.
    """
    learn = _learn_texts if options.label is None else _learn_images
    places, losses = learn(scorer, scored, options)
    curves = np.full((len(scored), len(losses)), np.nan)
    curves[places] = np.transpose(losses)
    return curves


def _learn_texts(
    scorer: DLCScorer, scored: Dataset, options: PremiseArguments
) -> tuple[Sequence[int], list[np.ndarray]]:
    """Places of the rows, and their losses after each epoch."""
    tokens = scorer.tokenize(scored)
    by_length = tokens.select(np.argsort([len(ids) for ids in tokens["input_ids"]], kind="stable").tolist())
    collate = DataCollatorForSeq2Seq(padder(scorer))
    measure = partial(row_losses, rows=by_length.remove_columns("row"), collate=collate, batch_size=options.batch_size)
    losses = EpochLosses(measure)
    train_lora(scorer, tokens, options, options.study_seed, callbacks=[losses]).unload()
    return by_length["row"][:], losses.kept


def _learn_images(
    scorer: DLCScorer, scored: Dataset, options: PremiseArguments
) -> tuple[Sequence[int], list[np.ndarray]]:
    """Places of the images, and their losses after each epoch."""
    places = np.flatnonzero(scored.with_format("numpy")[f"{scorer.config.prefix}_tokens"][:])
    images = scored.select(places.tolist())
    known = scorer, images, images.select([0]), options.label  # setups want held-out images, which are not used here
    if options.frozen:
        setup = frozen_setup(*known)
    else:
        kwargs = {"revision": options.model_revision, "trust_remote_code": options.trust_remote_code}
        setup = whole_setup(*known, options.model, **kwargs)
    measure = partial(row_losses, rows=setup.train, collate=setup.collate, batch_size=options.batch_size)
    losses = EpochLosses(measure)
    with tempfile.TemporaryDirectory() as folder:
        training = options_of(ClassifierOptions, options)
        trainer = classifier_trainer(setup, setup.train, training, options.study_seed, folder)
        trainer.add_callback(losses)
        trainer.train()
    return places.tolist(), losses.kept


# ---- the comparison -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Foretelling:
    """
    How well a score foretells the mean loss of a row over the epochs of a training.

    Args:
        score (`str`):
            Name of the score.
        compared (`str`):
            `"all rows"`, or `"within classes"`: the mean over classes, weighted by their rows.
        spearman (`float`):
            Spearman correlation of the score with the mean loss; 1 means that rows are the harder to learn the harder
            they are by the score.
        low (`float`):
            Lower end of the 95% interval of bootstrap samples of rows.
        high (`float`):
            Upper end of it.
        rows (`int`):
            Number of rows that have the score.
        gap (`float`, *optional*):
            The correlation less that of plain loss on the same rows, where plain loss is among the scores.
        gap_low (`float`, *optional*):
            Lower end of its interval.
        gap_high (`float`, *optional*):
            Upper end of its interval.
    """

    score: str
    compared: str
    spearman: float
    low: float
    high: float
    rows: int
    gap: float | None = None
    gap_low: float | None = None
    gap_high: float | None = None

    def to_json(self) -> dict[str, Any]:
        """All fields, as JSON types; a number that is not known is null."""
        return {
            name: None if isinstance(value, float) and np.isnan(value) else value
            for name, value in asdict(self).items()
        }


def foretell(
    scored: Dataset,
    mean_loss: np.ndarray,
    scores: Sequence[str],
    classes: Sequence[Any] | None = None,
    column_prefix: str = "dlc",
    samples: int = 2000,
    seed: int = 0,
) -> list[Foretelling]:
    """
    Compare scores by how well they foretell the learning curves; the best come first.

    Args:
        scored ([`~datasets.Dataset`]):
            Rows with the score columns.
        mean_loss (`np.ndarray` of shape `(rows,)`):
            Mean of each row's loss over the epochs; rows with NaN are left out.
        scores (`Sequence[str]`):
            Names of scores.
        classes (`Sequence`, *optional*):
            Class of each row. With them, rows are also compared within classes.
        column_prefix (`str`, *optional*, defaults to `"dlc"`):
            What the names of the score columns begin with.
        samples (`int`, *optional*, defaults to 2000):
            Bootstrap samples; within classes, rows are drawn from each class apart.
        seed (`int`, *optional*, defaults to 0):
            Seed of the samples.

    Returns:
        `list[Foretelling]`: First over all rows, then within classes.
    """
    hardness = {name: _hardness(scored, name, column_prefix) for name in scores}
    ways = {"all rows": np.zeros(len(scored))} | ({} if classes is None else {"within classes": np.array(classes)})
    found = []
    for compared, groups in ways.items():
        of_way = [
            Foretelling(name, compared, **_correlations(hardness, name, mean_loss, groups, samples, seed))
            for name in scores
        ]
        found += sorted(of_way, key=lambda one: -one.spearman)
    return found


def _hardness(scored: Dataset, name: str, column_prefix: str) -> np.ndarray:
    """The score, turned round where easy rows have a high one."""
    values = np.array(scored.with_format(None)[f"{column_prefix}_{name}"][:], dtype=np.float64)
    return values if SCORES[name].easy == "low" else -values


def _correlations(
    hardness: dict[str, np.ndarray], name: str, mean_loss: np.ndarray, groups: np.ndarray, samples: int, seed: int
) -> dict[str, Any]:
    """The fields of a `Foretelling` that are numbers, over rows that have all that is compared."""
    is_held_against_plain = name != PLAIN and PLAIN in hardness
    columns = [hardness[name], *([hardness[PLAIN]] if is_held_against_plain else []), mean_loss]
    known = ~np.isnan(columns).any(axis=0)
    *columns, losses = (column[known] for column in columns)
    members = [np.flatnonzero(groups[known] == group) for group in np.unique(groups[known])]
    members = [rows for rows in members if len(rows) > 1]

    def correlate(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        return mean_spearman(columns[0], losses, drawn, axis)

    def gap(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        return correlate(*drawn, axis=axis) - mean_spearman(columns[1], losses, drawn, axis)

    measures = {("spearman", "low", "high"): correlate}
    if is_held_against_plain:
        measures["gap", "gap_low", "gap_high"] = gap
    found = {"rows": int(known.sum())}
    for names, measure in measures.items():
        interval = bootstrap_interval(measure, *members, paired=False, resamples=samples, seed=seed)
        found |= dict(zip(names, (float(measure(*members)), *interval), strict=True))
    return found


def mean_spearman(left: np.ndarray, right: np.ndarray, groups: Sequence[np.ndarray], axis: int = -1) -> np.ndarray:
    """
    Spearman correlation of two columns within groups, and the mean of it, weighted by the rows of each group.

    Args:
        left (`np.ndarray` of shape `(rows,)`):
            Numbers, without NaN.
        right (`np.ndarray` of shape `(rows,)`):
            Numbers, without NaN.
        groups (`Sequence[np.ndarray]`):
            Numbers of the rows of each group along `axis`, as often as they are drawn; several draws may stand beside
            each other. Groups in which a column never varies count for nothing.
        axis (`int`, *optional*, defaults to -1):
            Axis of the rows.

    Returns:
        `np.ndarray`: A number for each draw; NaN where no group has one.
    """
    values = np.ma.masked_invalid([spearman_along(left[rows], right[rows], axis) for rows in groups])
    return np.ma.filled(np.ma.average(values, axis=0, weights=[rows.shape[axis] for rows in groups]), np.nan)


def premise_table(found: Sequence[Foretelling]) -> str:
    """The comparison as a table in Markdown."""
    header = ["score", "compared", "ρ with the mean loss (95% interval)", f"less that of `{PLAIN}`"]
    rows = [
        [
            f"`{one.score}`",
            one.compared,
            f"{one.spearman:.3f} ({one.low:.3f} to {one.high:.3f})",
            "-" if one.gap is None else f"{one.gap:+.3f} ({one.gap_low:+.3f} to {one.gap_high:+.3f})",
        ]
        for one in found
    ]
    return table(header, rows)
