"""
The table of facts: everything that a scorer is made of, and what changes when one of them does.

What a journal belongs to, what `datasets` hashes, the keys of calibrated schedules and of class prototypes, and the
description in the record of a run are all read from it. A new option of [`DLCConfig`] is a new line here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import date
from functools import cached_property
from typing import Any

import torch

from hf_dlc.config import DLCConfig
from hf_dlc.tasks.base import EncodedRow, Fittable, Task
from hf_dlc.tasks.facts import rows_digest
from hf_dlc.utils.digests import json_digest, model_digest, processor_digest

from .adapters import Adapters
from .engine import Engine
from .model import ModelHandle
from .schedule import probe_digest


# Raise it when the same rows, weights and options would get other scores than before, or other columns: `datasets`
# hashes a class of an installed package by name, so it cannot see a change of the code.
SCORE_VERSION = 4


class ScorerState:
    """
    A scorer as facts are read from it. Weights are hashed once, so it is of use only as long as they stay the same.

    No state of the weights that is cheaper to read is trusted here: the masker's marker looks at a few weights of each
    parameter, and code that writes through `data` may change others. It would be a fingerprint of other weights.

    Args:
        config ([`DLCConfig`]):
            Options of the user.
        handle ([`ModelHandle`]):
            The model, its processor and where they are from.
        engine ([`Engine`]):
            What scores; it knows task and masks.
        has_fixed_schedule (`bool`):
            Whether nothing is calibrated.
        rows (`Sequence[EncodedRow]`, *optional*, defaults to `()`):
            The rows of a run.
    """

    def __init__(
        self,
        config: DLCConfig,
        handle: ModelHandle,
        engine: Engine,
        has_fixed_schedule: bool,
        rows: Sequence[EncodedRow] = (),
    ) -> None:
        self.config, self.handle, self.engine, self.rows = config, handle, engine, rows
        self.has_fixed_schedule = has_fixed_schedule

    @property
    def task(self) -> Task:
        """Task of the scorer."""
        return self.engine.task

    @cached_property
    def weights(self) -> str:
        """Digest of the weights, never of masked ones."""
        with self.engine.masker.unmasked():
            return model_digest(self.handle.model)

    @cached_property
    def processor(self) -> str:
        """Digest of the tokenizer or image processor."""
        return processor_digest(self.handle.processor)

    @property
    def probe(self) -> str | None:
        """Digest of the probe set, where a schedule is calibrated on it."""
        return None if self.has_fixed_schedule else probe_digest()


@dataclass(frozen=True)
class Fact:
    """
    A line of the table.

    Args:
        name (`str`):
            An option of [`DLCConfig`], or what else there is to know.
        part (`str`):
            What it is a fact about; the key of a calibrated schedule has a list for each part.
        scores (`bool` or `None`):
            Whether it changes a score of a row at a level: then it is in the identity of a journal.
        columns (`bool` or `None`):
            Whether it changes what `map` writes, names and last digits included: then it is in what `datasets` hashes.
        calibration (`bool` or `None`):
            Whether it changes a calibrated schedule: then it is in the key of one.
        fit (`bool` or `None`):
            Whether it changes what is learned by `fit`: then it is in the key of that.
        read (`Callable`, *optional*):
            Returns its value; by default that of the option.
        described (`str`, *optional*, defaults to `""`):
            What it is called in the description of a scorer, where it has a place there; all options have one.

    In place of `True`, `None` (`IMPLIED`) says that another fact holds all that this one changes.
    """

    name: str
    part: str
    scores: bool | None
    columns: bool | None
    calibration: bool | None
    fit: bool | None
    read: Callable[[ScorerState], Any] | None = None
    described: str = ""

    def value(self, state: ScorerState) -> Any:
        """Value of the fact as it is now."""
        return getattr(state.config, self.name) if self.read is None else self.read(state)


YES, NO, IMPLIED = True, False, None

# The order within a part, and that of the parts, is that of the keys: those that were written before are still found.
FACTS: tuple[Fact, ...] = (
    #     what                  about      scores columns calibration fit
    Fact("score_version", "version", YES, YES, YES, YES, lambda state: SCORE_VERSION, "score_version"),
    Fact("masking", "masks", YES, YES, YES, NO),
    Fact("seed", "masks", YES, YES, YES, NO),
    Fact("scope", "masks", YES, YES, YES, NO),
    Fact("target_modules", "masks", YES, YES, YES, NO),
    Fact("schedule", "levels", YES, YES, NO, NO),
    Fact("calibration_shares", "levels", YES, YES, YES, NO),
    # All levels of a schedule are calibrated together, and then some are picked: what is cached serves every choice.
    Fact("levels", "levels", YES, YES, NO, NO),
    Fact("token_mean", "levels", YES, YES, YES, NO),
    Fact("template", "rows", YES, YES, IMPLIED, NO),
    Fact("max_length", "rows", YES, YES, IMPLIED, NO),
    Fact("layout", "rows", YES, YES, NO, NO),
    Fact("columns", "rows", YES, YES, NO, NO),
    Fact("scores", "scores", YES, YES, NO, NO),
    Fact("alone", "scores", YES, YES, NO, NO),
    Fact("encoder", "scores", YES, YES, NO, NO),
    Fact("first_tokens", "scores", YES, YES, NO, NO),
    Fact("features", "scores", YES, YES, NO, NO),
    Fact("features_size", "scores", YES, YES, NO, NO),
    Fact("head", "rows", YES, YES, NO, NO),
    Fact("pooling", "rows", YES, YES, NO, YES),
    Fact("prototype_logits", "rows", YES, YES, NO, NO),
    Fact("knn_neighbours", "rows", YES, YES, NO, NO),  # what is fitted serves any number of them
    Fact("probe_encoding", "rows", NO, NO, YES, NO, lambda state: state.task.probe.describe()),
    Fact("encoding", "rows", YES, YES, NO, NO, lambda state: state.task.describe()),
    Fact("prototypes", "rows", IMPLIED, YES, NO, NO, lambda state: state.task.learned),
    Fact("adapters", "rows", IMPLIED, YES, NO, NO, lambda state: state.engine.adapters),
    Fact("adapters_digest", "rows", YES, IMPLIED, NO, NO, lambda state: _digest_of(state.engine.adapters)),
    Fact("dtype", "rows", YES, YES, IMPLIED, IMPLIED),  # in which weights are loaded
    Fact("model_dtype", "rows", YES, IMPLIED, YES, YES, lambda state: state.handle.model.dtype, "dtype"),
    Fact("weights", "digests", YES, YES, YES, YES, lambda state: state.weights, "model_digest"),
    Fact("tokenizer", "digests", YES, YES, YES, YES, lambda state: state.processor, "processor_digest"),
    Fact("probe", "digests", NO, YES, YES, NO, lambda state: state.probe, "probe_digest"),
    # A batch of another size is another one in the last digits; a run keeps the size that it was begun with.
    Fact("tokens_per_batch", "run", NO, YES, NO, NO),
    Fact("keep_levels", "run", NO, YES, NO, NO),
    Fact("prefix", "run", NO, YES, NO, NO),
    Fact("source", "run", NO, YES, NO, NO, lambda state: state.handle.source and state.handle.source.without_token()),
    # `datasets` knows the rows itself, and takes what was mapped on another day for the same.
    Fact("rows", "run", YES, NO, NO, NO, lambda state: {"number": len(state.rows), "digest": rows_digest(state.rows)}),
    Fact("day", "run", YES, NO, NO, NO, lambda state: date.today().isoformat() if state.task.is_dated else None),
    # What people want to know.
    Fact("kind", "record", NO, NO, NO, NO, lambda state: state.task.kind, "kind"),
    Fact("name", "record", NO, NO, NO, NO, lambda state: state.handle.name, "model"),
    Fact("revision", "record", NO, NO, NO, NO, lambda state: state.handle.revision, "revision"),
    Fact("gguf_file", "record", NO, NO, NO, NO, lambda state: state.handle.gguf_file, "gguf_file"),
    Fact("device", "record", NO, NO, NO, NO, lambda state: state.handle.model.device.type, "device"),
    Fact("is_fitted", "record", NO, NO, NO, NO, lambda state: _is_fitted(state.task), "is_fitted"),
    Fact("batch_tokens", "record", NO, NO, NO, NO, lambda state: state.engine.tokens_per_batch, "tokens_per_batch"),
)


def _digest_of(adapters: Adapters | None) -> str | None:
    return None if adapters is None else adapters.digest


def _is_fitted(learner: Task) -> bool:
    """Whether rows could not be scored before a task had learned of them."""
    return isinstance(learner, Fittable) and learner.needs_fit


_OPTIONS = {option.name for option in fields(DLCConfig)}


def identity(state: ScorerState) -> dict[str, Any]:
    """What a journal belongs to: all that makes the scores of the rows at each level, as JSON types."""
    facts = {fact.name: fact.value(state) for fact in FACTS if fact.scores}
    config = {name: facts.pop(name) for name in vars(state.config) if name in facts}  # in the order of people
    config |= {"scores": list(config["scores"]), **facts.pop("encoding")}  # JSON has no tuples
    return {"config": config, "dtype": _name(facts.pop("model_dtype")), **facts}


# Options that stand in the identity as what a task has made of them.
_REWRITTEN = ("template", "encoder")


def known_identity(config: DLCConfig, rows: int) -> dict[str, Any]:
    """What of [`identity`] is known before a model is loaded: the options and the number of rows."""
    names = {fact.name for fact in FACTS if fact.scores}.difference(_REWRITTEN)
    config = {name: value for name, value in vars(config).items() if name in names}
    return {"config": {**config, "scores": list(config["scores"])}, "rows": {"number": rows}}


def description(state: ScorerState) -> dict[str, Any]:
    """What a scorer is, as JSON types, for the record of a run."""
    facts = {fact.described: fact.value(state) for fact in FACTS if fact.described}
    config = {**vars(state.config), **state.task.describe(), "scores": list(state.config.scores)}
    adapters = state.engine.adapters
    trained = {} if adapters is None else {"adapters": adapters.described, "adapters_digest": adapters.digest}
    return {**facts, **trained, "config": config, "dtype": _name(facts["dtype"])}


def pickled_state(state: ScorerState) -> dict[str, Any]:
    """What is pickled of a scorer, which `datasets` hashes: a digest of the weights, never the weights themselves."""
    facts = {fact.name: fact.value(state) for fact in FACTS if fact.columns and fact.name not in _OPTIONS}
    return {"config": state.config, **facts}


def calibration_key(state: ScorerState) -> str:
    """Digest of all that a calibrated schedule depends on."""
    parts: dict[str, list[Any]] = {}
    for fact in FACTS:
        if fact.calibration:
            parts.setdefault(fact.part, []).append(fact.value(state))
    [version] = parts.pop("version")
    masks, levels, rows, digests = parts.values()
    return json_digest([version, [masks, levels, *rows], digests])


def fit_key(state: ScorerState) -> str:
    """Digest of all that the features of images depend on, of which prototypes are learned."""
    return json_digest([fact.value(state) for fact in FACTS if fact.fit])


def features_key(state: ScorerState) -> str:
    """Digest of what makes the vectors of two scorers comparable: model, template, and how states are pooled."""
    template = state.config.template
    others = [] if template == "auto" else [template if isinstance(template, str) else template.__qualname__]
    return json_digest([state.weights, state.processor, vars(state.engine.features), state.config.pooling, *others])


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
