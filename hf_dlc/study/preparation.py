"""What the arms of a study need to know of the pool, each thing made and timed by itself, as for a user of one arm."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import transformers  # noqa: F401  (before datasets: huggingface_hub 2.4 has an import cycle that prints noise)
from datasets import Dataset, concatenate_datasets, load_from_disk

from hf_dlc.pipeline.duplicates.find import find_duplicates
from hf_dlc.scorer.scorer import DLCScorer
from hf_dlc.scores.base import masks_weights
from hf_dlc.scores.table import SCORES
from hf_dlc.utils.files import write_json

from .arms import ANY_SCHEDULE, parse_arm
from .pool import reader_of
from .training import core_seconds


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """
    A thing that is made of the pool.

    Args:
        needs (`tuple[str, ...]`):
            The needs of arms that it serves, such as `"score loss"`.
        make (`Callable`):
            Returns new columns of the pool and, where these must have them too, of the wanted rows.
    """

    needs: tuple[str, ...]
    make: Callable[[], tuple[Dataset, Dataset | None]]

    @property
    def name(self) -> str:
        """Name of its folder."""
        return "-".join(self.needs).replace("score ", "").replace(" ", "_")

    @property
    def masks_weights(self) -> bool:
        """Whether the model is run with masked weights, for which its schedule must be settled."""
        scores = [SCORES[need.removeprefix("score ")] for need in self.needs if need.startswith("score ")]
        return masks_weights(scores)

    def is_made(self, folder: Path, identity: str) -> bool:
        """Whether it has been written into a folder already, of the same rows and by the same model."""
        path = folder / self.name / "facts.json"
        return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["identity"] == identity


@dataclass(frozen=True)
class Preparation:
    """
    All that steps are made of.

    Args:
        scorer ([`~hf_dlc.DLCScorer`]):
            Scorer with the levels of the study.
        pool ([`~datasets.Dataset`]):
            Rows to choose from.
        wanted ([`~datasets.Dataset`], *optional*):
            The wanted rows.
        folder (`Path`):
            For the journals of the scores.
        num_threads (`int`, *optional*):
            As for `score`.
    """

    scorer: DLCScorer
    pool: Dataset
    wanted: Dataset | None
    folder: Path
    num_threads: int | None

    def steps_for(self, arms: Iterable[str]) -> list[Step]:
        """What must be made for some arms: scores that share their passes together, all else by itself."""
        needs = sorted(set().union(*(parse_arm(arm).needs for arm in arms)))
        together: dict[Any, list[str]] = {}
        for name in [need.removeprefix("score ") for need in needs if need.startswith("score ")]:
            together.setdefault((SCORES[name].passes(ANY_SCHEDULE), SCORES[name].measures[0].kind), []).append(name)
        poolings = [need.removeprefix("features ") for need in needs if need.startswith("features ")]
        return [
            *(
                Step(tuple(f"score {name}" for name in names), partial(self._scored, names))
                for names in together.values()
            ),
            *(Step((f"features {pooling}",), partial(self._with_features, pooling)) for pooling in poolings),
            *([Step(("duplicates",), self._marked)] if "duplicates" in needs else []),
        ]

    def _scored(self, names: Sequence[str]) -> tuple[Dataset, None]:
        """Scores that share their passes."""
        passes = SCORES[names[0]].passes(ANY_SCHEDULE)
        levels = self.scorer.config.levels if any(one.masked_fraction for one in passes) else "single"
        if any(one.weights != "base" for one in passes):
            plain = self.scorer.with_options(scores=("plain_loss",), levels=levels)
            adapted = reader_of(self.wanted, plain).adapt(self.wanted, num_threads=self.num_threads)
            scorer = adapted.with_options(layout=plain.config.layout, columns=plain.config.columns)
        else:
            scorer = self.scorer.with_options(scores=tuple(names), levels=levels)
        scored = scorer.score(self.pool, self.folder / f"journal_{names[0]}", self.num_threads)
        return scored.select_columns([f"dlc_{name}" for name in names]), None

    def _with_features(self, pooling: str) -> tuple[Dataset, Dataset | None]:
        """Features of the pool and of the wanted rows, whose columns begin with the name of the pooling."""
        scorer = self.scorer.with_options(levels="single", scores=("plain_loss",), prefix=pooling, features=pooling)
        parts = [
            rows and reader_of(rows, scorer).score(rows, num_threads=self.num_threads)
            for rows in (self.pool, self.wanted)
        ]
        return tuple(part and part.select_columns(_vectors(part, pooling)) for part in parts)

    def _marked(self) -> tuple[Dataset, None]:
        """Which rows repeat others."""
        config = self.scorer.config
        found = find_duplicates(self.pool, features=None, layout=config.layout, columns=config.columns)
        return found.select_columns(["dup_of", "dup_kind"]), None


def _vectors(rows: Dataset, prefix: str) -> list[str]:
    return [name for name in rows.column_names if name.startswith(f"{prefix}_features")]


def run_step(step: Step, folder: Path, identity: str) -> None:
    """Make a thing and write it, unless it is there."""
    if step.is_made(folder, identity):
        return
    begun = any(folder.glob(f"journal_{step.name.split('-')[0]}/*"))
    start = core_seconds()
    pool, wanted = step.make()
    seconds = float("nan") if begun else core_seconds() - start
    pool.save_to_disk(folder / step.name / "pool")
    if wanted is not None:
        wanted.save_to_disk(folder / step.name / "wanted")
    facts = {"identity": identity, "seconds": None if begun else seconds, "needs": list(step.needs)}
    write_json(folder / step.name / "facts.json", facts)
    logger.info("%s: %.0f s", ", ".join(step.needs), seconds)


def read_steps(
    steps: Sequence[Step], folder: Path, identity: str, pool: Dataset, wanted: Dataset | None
) -> tuple[Dataset, Dataset | None, dict[str, float]]:
    """
    Put together what all steps have written.

    Args:
        steps (`Sequence[Step]`):
            The steps.
        folder (`Path`):
            Where they have written it.
        identity (`str`):
            Digest of all that makes their outcome.
        pool ([`~datasets.Dataset`]):
            The rows.
        wanted ([`~datasets.Dataset`], *optional*):
            The wanted rows.

    Returns:
        `tuple[Dataset, Dataset | None, dict[str, float]]`: Both with the new columns, and the seconds of each need.

    Raises:
        ValueError: If the folder is of other rows or of another model.
    """
    parts = {"pool": [pool], "wanted": [wanted] if wanted is not None else []}
    seconds: dict[str, float] = {}
    for step in steps:
        facts = json.loads((folder / step.name / "facts.json").read_text(encoding="utf-8"))
        if facts["identity"] != identity:
            raise ValueError(f"{folder / step.name} is of other rows, masking or model. Pass another --output-dir.")
        for name, found in parts.items():
            if found and (folder / step.name / name).is_dir():
                found.append(load_from_disk(folder / step.name / name))
        taken = float("nan") if facts["seconds"] is None else facts["seconds"]
        seconds |= dict.fromkeys(step.needs, taken)
    joined = {name: concatenate_datasets(found, axis=1) if found else None for name, found in parts.items()}
    return joined["pool"], joined["wanted"], seconds
