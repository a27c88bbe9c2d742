"""Measures what scoring takes for granted: that a model reads from left to right, and alone as in a batch."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils.memory import should_reduce_batch_size
from transformers import PreTrainedModel

from hf_dlc.tasks.batch_rules import LENGTH_STEP, BatchRules, in_steps
from hf_dlc.utils.rounding import bound_ahead, bound_of, change_of, epsilon_of, relative_change, rounded_input


logger = logging.getLogger(__name__)

# Tokens of the row that is looked at, and of the batch that it is padded to. No step of padding leaves 23 as they are.
_ROW, _BATCH = 23, 40

# Rows of the batch: many for short ones, as some models have room for a number of tokens only; then as many as fit
# into memory.
_MANY, _FEW = (16, 3, 2, 1), (3, 2, 1)

# Later tokens are changed in so many last places, in case the tokens of a block see each other. In a row of 23 tokens
# the change begins each time at the last token of a block of 8 or more tokens, and mostly of 2 and 4.
_CHANGED = (1, 8, 16)

# Options of configs with a number of tokens in them, where a model may begin to compute otherwise. Of keys that are
# chosen among all, each may stand for some tokens: for 4 or 128 in DeepSeek V4.
_TURNS = re.compile("window|chunk|block_size|position|length|seq|context|ctx|distance|local_attention")
_CHOSEN = re.compile("^(?!.*(group|moe|expert)).*(topk|budget)")
_MOST_FOR_ONE = 128

# Roundings that the same states may differ by when they are computed again, and a rounding of float32.
_REPEATED = 4
_EPSILON = torch.finfo(torch.float32).eps

Run = Callable[[torch.Tensor], torch.Tensor]


class Guard:
    """
    Measures whether a language model reads from left to right and takes rows in batches, up to the longest row.

    Args:
        run (`Callable`):
            Last hidden states, `(rows, tokens, hidden size)`, of token ids, `(rows, tokens)`.
        model ([`~transformers.PreTrainedModel`]):
            The model.
        rules ([`BatchRules`]):
            What is known of its micro-batches without measuring.

    Attributes:
        rules ([`BatchRules`]):
            What the model asks of its micro-batches, as far as it has been measured.
        turns (`list[int]`):
            Numbers of tokens, in order, at which its config says that something may change.
    """

    def __init__(self, run: Run, model: PreTrainedModel, rules: BatchRules) -> None:
        self.rules = rules
        self._run, self._model = run, model
        self._epsilon = epsilon_of(model)
        self.turns = turns_of(model.config.to_dict())
        self._special = special_tokens(model.config.to_dict())
        self._measured = -1  # tokens of the longest row for which the model has been measured
        self._ran = 0  # tokens of the longest row that the model is known to take
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
        if longest > self._measured:
            self._measure(longest)
            self._measured = longest
        if longest > self.rules.most_tokens:
            raise ValueError(too_long(longest, self.rules.most_tokens, self._name))
        if longest > self._readable:
            raise ValueError(
                f"{self._name} looks ahead in rows of more than {self._readable} tokens: earlier hidden states change "
                f"with later tokens. DLC needs a left-to-right language model. Pass max_length={self._readable}."
            )

    def _measure(self, longest: int) -> None:
        if self._measured < 0:
            self._find_most_tokens(_BATCH)
            self._check_short()
        self._find_most_tokens(self._padded(longest))
        for turn in self.turns:
            if self._measured + LENGTH_STEP < turn <= longest + LENGTH_STEP:
                self._find_most_tokens(turn + _BATCH)
                if turn < self.rules.most_tokens:
                    self._check_around(turn)

    def _padded(self, tokens: int) -> int:
        """
        Tokens of a row to try before there are rows of that length.

        On a CPU it is the next power of two, so that not every length is tried. Elsewhere it is no more than rows are
        padded to: a GPU that looks up a position beyond a table can compute nothing any more.
        """
        if self._model.device.type == "cpu":
            return 1 << max(0, tokens - 1).bit_length()
        return in_steps(tokens)

    def _find_most_tokens(self, asked: int) -> None:
        """Try a row of so many tokens; if the model does not take it, find and note how many it does take."""
        asked = int(min(asked, self.rules.most_tokens))
        if asked <= self._ran or self._runs(asked):
            self._ran = max(self._ran, asked)
            return
        most, too_many = self._ran, asked
        while too_many - most > 1:
            middle = (most + too_many) // 2
            most, too_many = (middle, too_many) if self._runs(middle) else (most, middle)
        if most == 0 or self._runs(too_many):  # it is not the length that the model fails at: let the error be seen
            self._run(self._made_up(asked)[None])
            return
        self._ran = most
        self.rules = self.rules._replace(positions=most)

    def _runs(self, tokens: int) -> bool:
        """Whether a row of so many tokens goes through the model, if there is memory for it."""
        try:
            self._run(self._made_up(tokens)[None])
        except Exception as error:  # each family has its own for a row that is too long
            if should_reduce_batch_size(error):
                return True  # of its positions we know nothing; a row that does not fit is told of by itself
            logger.debug("no row of %d tokens: %s", tokens, error)
            return False
        return True

    @property
    def _name(self) -> str:
        return type(self._model).__name__

    def _check_short(self) -> None:
        batch = int(min(_BATCH, self.rules.most_tokens))
        row = self._made_up(max(1, batch * _ROW // _BATCH))
        states, bound = self._alone(row)
        if (ahead := self._change_ahead(row, states)) > bound_ahead(bound, self._epsilon):
            raise ValueError(
                f"{self._name} looks ahead: earlier hidden states changed by {ahead:.2g} of their length with later "
                "tokens. DLC needs a left-to-right language model."
            )
        if (change := self._change_in_batch(row, states, batch, _MANY)) > bound:
            longer = self._made_up(batch)
            self._require_repeatable(longer, self._run(longer[None])[0])
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
        try:
            self._look_around(turn)
        except Exception as error:
            if not should_reduce_batch_size(error):
                raise
            logger.info("no memory to measure rows of more than %d tokens: they go alone and without padding", turn)
            self._go_alone_beyond(turn)

    def _look_around(self, turn: int) -> None:
        longer = self._made_up(int(min(turn + _ROW, self.rules.most_tokens)))
        batch = int(min(len(longer) + _BATCH - _ROW, self.rules.most_tokens))
        states, bound = self._alone(longer)
        if self._change_ahead(longer, states) > bound_ahead(bound, self._epsilon):
            self._readable = min(self._readable, turn)
        alone_beyond = self.rules.alone_beyond
        if turn in self.rules.boundaries or (alone_beyond is not None and turn >= alone_beyond):
            return
        if self._change_in_batch(longer, states, batch) > bound:
            logger.info("%s takes rows of more than %d tokens alone and without padding", self._name, turn)
            self._go_alone_beyond(turn)
            return
        below = longer[:turn]
        states, bound = self._alone(below)
        if self._change_in_batch(below, states, batch) > bound:
            logger.info("%s changes at %d tokens: no row is padded beyond them", self._name, turn)
            self.rules = self.rules._replace(boundaries=(*self.rules.boundaries, turn))

    def _go_alone_beyond(self, turn: int) -> None:
        known = self.rules.alone_beyond
        self.rules = self.rules._replace(alone_beyond=turn if known is None else min(turn, known))

    def _alone(self, row: torch.Tensor) -> tuple[torch.Tensor, float]:
        """States of a row, and the largest change that still is rounding."""
        states = self._run(row[None])[0]
        self._require_repeatable(row, states)
        with rounded_input(self._model.get_input_embeddings(), self._epsilon):
            return states, bound_of(self._run(row[None])[0], states, self._epsilon)

    def _require_repeatable(self, row: torch.Tensor, states: torch.Tensor) -> None:
        change = change_of(self._run(row[None])[0], states, self._epsilon)
        # A CPU repeats itself bit for bit in any precision; a GPU may add up in another order.
        if change > _REPEATED * (_EPSILON if states.device.type == "cpu" else self._epsilon):
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

    def _change_in_batch(
        self, row: torch.Tensor, states: torch.Tensor, length: int, numbers: Sequence[int] = _FEW
    ) -> float:
        """The change in the states of a row when it is padded, beside as many others as fit into memory."""
        for rows in numbers:
            try:
                found = self._run(self._batch_with(row, length, rows))[max(0, rows - 2), : len(row)]
                return change_of(found, states, self._epsilon)
            except Exception as error:
                if rows == 1 or not should_reduce_batch_size(error):
                    raise
        raise AssertionError("a batch has at least one row")

    def _batch_with(self, row: torch.Tensor, length: int, rows: int) -> torch.Tensor:
        """The row, padded, as the last but one: behind longer ones, and before a shorter one."""
        batch = torch.zeros((rows, length), dtype=torch.int64)
        for place in range(rows - 2):
            batch[place] = self._made_up(length, seed=7 + place)
        batch[-1, : len(row) // 3] = self._made_up(len(row) // 3, seed=5)
        batch[max(0, rows - 2)] = F.pad(row, (0, length - len(row)))
        return batch

    def _made_up(self, count: int, seed: int = 1) -> torch.Tensor:
        size = self._model.get_input_embeddings().weight.shape[0]
        return torch.from_numpy(made_up(count, size, self._special, seed))


def turns_of(config: dict[str, Any]) -> list[int]:
    """Numbers of tokens at which a model may begin to compute otherwise, by its config."""
    found = set()
    for name, value in _options(config):
        if type(value) is int and value > 0 and _TURNS.search(name) and not name.endswith("layers"):
            found.add(value)
        elif type(value) is int and value > 0 and _CHOSEN.search(name):
            found |= {value * 2**power for power in range(_MOST_FOR_ONE.bit_length())}
    return sorted(turn for turn in found if turn >= _ROW)


def too_long(tokens: int, positions: float, name: str) -> str:
    """
    Error message for a row that a model has no positions for.

    Args:
        tokens (`int`):
            Tokens of the row.
        positions (`float`):
            Positions that the model has learned.
        name (`str`):
            Name of the model.

    Returns:
        `str`: The message.
    """
    return (
        f"a row of {tokens} tokens is longer than the {positions} positions that {name} has learned. Pass "
        f"max_length={positions}."
    )


def made_up(count: int, size: int, special: frozenset[int] = frozenset(), seed: int = 1) -> np.ndarray:
    """
    Made-up token ids, the same in every process, and not those of any row: no score depends on other rows.

    Args:
        count (`int`):
            Number of tokens.
        size (`int`):
            Size of the vocabulary; all ids are below it.
        special (`frozenset[int]`, *optional*):
            Ids that are left out.
        seed (`int`, *optional*, defaults to 1):
            Another number gives other ids.

    Returns:
        `np.ndarray` of shape `(count,)`: int64.
    """
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
