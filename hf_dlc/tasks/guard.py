"""Measures what scoring takes for granted: that a model reads from left to right, and alone as in a batch."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers import PreTrainedModel

from ..rounding import bound_of, change_of, epsilon_of, is_half, relative_change, rounded_input
from .batch_rules import LENGTH_STEP, BatchRules


logger = logging.getLogger(__name__)

# Tokens of the row that is looked at, and of the batch that it is padded to. No step of padding leaves 23 as they are.
_ROW, _BATCH = 23, 40

# Later tokens are changed in so many last places. In a row of 23 tokens the change begins at the last token of a block
# of 8 or more tokens each time, and mostly of 2 and 4, in case the tokens of a block see each other.
_CHANGED = (1, 8, 16)

# Options of configs with a number of tokens in them, where a model may begin to compute otherwise. Of keys that are
# chosen among all, each may stand for some tokens: for 4 or 128 in DeepSeek V4.
_TURNS = re.compile("window|chunk|block_size|position|length|seq|context|ctx|distance|local_attention")
_CHOSEN = re.compile("topk|budget")
_MOST_FOR_ONE = 128

Run = Callable[[torch.Tensor], torch.Tensor]


class Guard:
    """
    Measures a language model, as far as the rows ask for it.

    Args:
        run (`Callable`):
            Last hidden states, `(rows, tokens, hidden size)`, of token ids, `(rows, tokens)`.
        model ([`~transformers.PreTrainedModel`]):
            The model.
        positions (`float`):
            Tokens that a row may have at most.
        rules ([`BatchRules`]):
            What is known of its micro-batches without measuring.

    Attributes:
        rules ([`BatchRules`]):
            What the model asks of its micro-batches, as far as it has been measured.
        positions (`float`):
            Tokens that a row may have at most, as far as it has been measured.
    """

    def __init__(self, run: Run, model: PreTrainedModel, positions: float, rules: BatchRules) -> None:
        self.rules = rules
        self.positions = positions
        self._run, self._model = run, model
        self._epsilon = epsilon_of(model)
        self._checked = 0  # tokens up to which the model has been measured
        self._readable = np.inf  # tokens of a row up to which the model reads from left to right

    def check(self, longest: int) -> None:
        """
        Make sure that rows of up to `longest` tokens can be scored, and find the rules for their micro-batches.

        A model of which nothing can be said without longer rows is measured again at each length where its config
        says that something may change, once there are rows of that length.

        Raises:
            ValueError: If a hidden state depends on later tokens, or on nothing that repeats, or if the model has no
                positions for so many tokens.
        """
        if not self._checked:
            self._check_short()
        for turn in self._turns():
            if self._checked <= turn <= longest + LENGTH_STEP:
                self.positions = self._most_tokens(int(min(turn + _BATCH, self.positions)))
                if turn < self.positions:
                    self._check_around(turn)
        self._checked = max(self._checked, longest + LENGTH_STEP + 1)
        if longest > self.positions:
            raise ValueError(too_long(longest, self.positions, self._name))
        if longest > self._readable:
            raise ValueError(
                f"{self._name} looks ahead in rows of more than {self._readable} tokens: earlier hidden states change "
                f"with later tokens. DLC needs a left-to-right language model. Pass max_length={self._readable}."
            )

    def _most_tokens(self, asked: int) -> float:
        """Tokens that a row may have at most, if it may not have the number that is asked for."""
        if self._runs(asked):
            return self.positions
        most, too_many = _BATCH, asked
        while too_many - most > 1:
            middle = (most + too_many) // 2
            most, too_many = (middle, too_many) if self._runs(middle) else (most, middle)
        return most

    def _runs(self, tokens: int) -> bool:
        try:
            self._run(self._made_up(tokens)[None])
        except Exception as error:  # each family has its own for a row that is too long
            if should_reduce_batch_size(error):
                raise
            logger.debug("no row of %d tokens: %s", tokens, error)
            return False
        return True

    @property
    def _name(self) -> str:
        return type(self._model).__name__

    def _turns(self) -> list[int]:
        """Numbers of tokens at which the model may begin to compute otherwise, by its config."""
        found = set()
        for name, value in _options(self._model.config.to_dict()):
            if type(value) is int and value > 0 and _TURNS.search(name):
                found.add(value)
            elif type(value) is int and value > 0 and _CHOSEN.search(name):
                found |= {value * 2**power for power in range(_MOST_FOR_ONE.bit_length())}
        return sorted(turn for turn in found if turn >= _ROW)

    def _check_short(self) -> None:
        batch = int(min(_BATCH, self.positions))
        row = self._made_up(batch * _ROW // _BATCH)
        states, bound = self._alone(row)
        if (ahead := self._change_ahead(row, states)) > (bound / 8 if is_half(self._epsilon) else bound):
            self._require_repeatable(row, states, bound)
            raise ValueError(
                f"{self._name} looks ahead: earlier hidden states changed by {ahead:.2g} of their length with later "
                "tokens. DLC needs a left-to-right language model."
            )
        if (change := self._change_in_batch(row, states, batch)) > bound:
            self._require_repeatable(row, states, bound)
            self.rules = self.rules._replace(alone_beyond=0)
            logger.warning(
                "%s makes something else of a row in a batch than of the row alone: its hidden states changed by %.2g "
                "of their length. Every row goes through the model alone and without padding, which is slow.",
                self._name,
                change,
            )
        self._check_padding(row, batch)

    def _check_padding(self, row: torch.Tensor, batch: int) -> None:
        """Whether the token of padding is one like others: the end of a turn often is the same."""
        if self.rules.alone_beyond == 0:  # nothing is padded
            return
        padding = getattr(self._model.config.get_text_config(), "pad_token_id", None)
        if not isinstance(padding, int) or not 0 <= padding < self._model.get_input_embeddings().weight.shape[0]:
            return
        row = row.clone()
        row[len(row) // 3] = padding
        states, bound = self._alone(row)
        if (change := self._change_in_batch(row, states, batch)) > bound:
            raise ValueError(
                f"{self._name} takes the token {padding} for padding wherever it stands: the hidden states of a row "
                f"that holds it changed by {change:.2g} of their length in a longer batch. DLC cannot score that."
            )

    def _check_around(self, turn: int) -> None:
        """Whether a row of `turn` tokens can be padded beyond them, and a longer one be padded at all."""
        longer = self._made_up(int(min(turn + _ROW, self.positions)))
        batch = int(min(len(longer) + _BATCH - _ROW, self.positions))
        states, bound = self._alone(longer)
        if self._change_ahead(longer, states) > (bound / 8 if is_half(self._epsilon) else bound):
            self._require_repeatable(longer, states, bound)
            self._readable = min(self._readable, turn)
        alone_beyond = self.rules.alone_beyond
        if turn in self.rules.boundaries or (alone_beyond is not None and turn >= alone_beyond):
            return
        if self._change_in_batch(longer, states, batch) > bound:
            logger.info("%s takes rows of more than %d tokens alone and without padding", self._name, turn)
            self.rules = self.rules._replace(alone_beyond=turn)
            return
        below = longer[:turn]
        states, bound = self._alone(below)
        if self._change_in_batch(below, states, batch) > bound:
            logger.info("%s changes at %d tokens: no row is padded beyond them", self._name, turn)
            self.rules = self.rules._replace(boundaries=(*self.rules.boundaries, turn))

    def _alone(self, row: torch.Tensor) -> tuple[torch.Tensor, float]:
        """States of a row, and the largest change that still is rounding."""
        before = self._random_state()
        states = self._run(row[None])[0]
        if not torch.equal(before, self._random_state()):
            self._require_repeatable(row, states, bound=0)
        with rounded_input(self._model.get_input_embeddings(), self._epsilon):
            return states, bound_of(self._run(row[None])[0], states, self._epsilon)

    def _random_state(self) -> torch.Tensor:
        device = self._model.device
        return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()

    def _require_repeatable(self, row: torch.Tensor, states: torch.Tensor, bound: float) -> None:
        change = change_of(self._run(row[None])[0], states, self._epsilon)
        if change > bound:
            raise ValueError(
                f"{self._name} gives other hidden states when it reads the same tokens again: they changed by "
                f"{change:.2g} of their length. DLC needs a model that repeats itself in eval mode."
            )

    def _change_ahead(self, row: torch.Tensor, states: torch.Tensor) -> float:
        """
        How far the states before a change of the tokens move.

        The typical state counts, and the one just before the change, which is all that some models show. Of several
        changes the median counts: in a mixture, one may move a token to another expert by a rounding.
        """
        changes = []
        for count in _CHANGED:
            place = len(row) - max(1, count * len(row) // _ROW if len(row) < _ROW else count)
            changed = torch.cat([row[:place], self._made_up(len(row), seed=count + 1)[place:]])
            moved = relative_change(self._run(changed[None])[0, :place], states[:place])
            changes.append(max(float(moved.median()), float(moved[-1])))
        return sorted(changes)[1]

    def _change_in_batch(self, row: torch.Tensor, states: torch.Tensor, length: int) -> float:
        """How far the states of a row move when it is padded, beside a longer and a shorter one."""
        batch = torch.zeros((3, length), dtype=torch.int64)
        batch[0] = self._made_up(length, seed=3)
        batch[1, : len(row)] = row
        batch[2, : len(row) // 3] = self._made_up(len(row) // 3, seed=5)
        return change_of(self._run(batch)[1, : len(row)], states, self._epsilon)

    def _made_up(self, count: int, seed: int = 1) -> torch.Tensor:
        size = self._model.get_input_embeddings().weight.shape[0]
        return torch.from_numpy(made_up(count, size, special_tokens(self._model.config.to_dict()), seed))


def too_long(tokens: int, positions: float, name: str) -> str:
    """What to tell of a row that a model has no positions for."""
    return (
        f"a row of {tokens} tokens is longer than the {positions} positions that {name} has learned. Pass "
        f"max_length={positions}."
    )


def made_up(count: int, size: int, special: frozenset[int] = frozenset(), seed: int = 1) -> np.ndarray:
    """Token ids below `size`, the same in every process, and not those of any row: no score depends on other rows."""
    mixed = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed << 32)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    ids = (mixed >> np.uint64(33)).astype(np.int64) % size
    for _ in range(min(len(special), size - 1)):
        ids = np.where(np.isin(ids, list(special)), (ids + 1) % size, ids)
    return ids


def special_tokens(config: dict[str, Any]) -> frozenset[int]:
    """Token ids that a config names: padding, ends, images."""
    named = [value for name, value in _options(config) if re.search("_token_(id|index)s?$", name)]
    flat = [number for value in named for number in (value if isinstance(value, list | tuple) else [value])]
    return frozenset(number for number in flat if type(number) is int)


def _options(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and values of a config and of the dicts in it."""
    for name, value in config.items():
        yield str(name), value
        if isinstance(value, dict):
            yield from _options(value)
