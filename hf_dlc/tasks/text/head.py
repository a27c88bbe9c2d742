"""Measures of tokens by a model's own output head, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hf_dlc.scores.base import Measure


# Logits that exist at once: more tokens make the head faster, until their logits fall out of caches, and an allocator
# that keeps pieces of this size for later keeps more memory. Arithmetic in float32 is slow enough with fewer tokens.
_LOGITS_AT_ONCE = {"half": 2**23, "full": 2**21}

# On a CPU, words of the vocabulary at once, and tokens of which there are logits then. The weights of a few words are
# read once for many tokens; those of all words would be read anew for the few tokens whose logits there is room for.
_WORDS_AT_ONCE = 4096
_TOKENS_AT_ONCE = {"half": 1024, "full": 512}

# The last tokens are padded, so that there are about so many sizes: each has kernels of its own, see LENGTH_STEP.
_SIZES = 16

# Logits that are turned into probabilities at once: few enough to stay in a processor's cache.
_LOGITS_IN_CACHE = 2**19


class OutputHead:
    """
    Output head of a model: all that it does after its body.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Model with a language modelling head.
        body ([`~transformers.PreTrainedModel`]):
            What in it computes the hidden states.
    """

    def __init__(self, model: PreTrainedModel, body: PreTrainedModel) -> None:
        self.model = model
        self.body = body
        self._multiplies: bool | None = None  # whether the model does no more than its head; None: not known yet

    def measure(
        self,
        states: torch.Tensor,
        labels: torch.Tensor,
        output_type: type,
        measures: Sequence[Measure],
        parts: int = 1,
    ) -> dict[str, torch.Tensor]:
        """
        Numbers of tokens, from what the model says of them.

        Args:
            states (`torch.Tensor` of shape `(tokens, hidden size)`):
                Last hidden states of the body.
            labels (`torch.Tensor` of shape `(tokens,)`):
                Token id that follows each.
            output_type (`type`):
                What the body returns.
            measures (`Sequence[Measure]`):
                What is measured. One that needs the whole distribution takes more time on a CPU.
            parts (`int`, *optional*, defaults to 1):
                Number of equal parts of the states, in order, that meet weights of their own.

        Returns:
            `dict[str, torch.Tensor]`: By the name of each measure float32 of shape `(tokens,)`, on the labels' device.

        Raises:
            ValueError: If the logits are not computed from the body.
        """
        parts = parts if self._has_layers else 1  # else the weights that differ are all in the body
        by_words = (
            states.device.type == "cpu"
            and len(labels) > 0
            and not any(measure.of_distribution for measure in measures)
            and self._is_a_product(states, output_type, parts)
        )
        if by_words:
            parts, numbers_of = 1, partial(self._numbers_by_words, measures)
        else:
            numbers_of = partial(self._numbers_by_tokens, measures, output_type)
        states, labels = states.unflatten(0, (parts, -1)), labels.unflatten(0, (parts, -1))
        size = max(1, self._tokens_at_once(by_words) // parts)
        step = max(1, size // _SIZES)
        empty = partial(torch.empty, labels.shape, dtype=torch.float32, device=labels.device)
        measured = {measure.name: empty() for measure in measures}
        for start in range(0, labels.shape[1], size):
            chunk = slice(start, start + size)
            targets = labels[:, chunk]
            padded = F.pad(states[:, chunk], (0, 0, 0, -targets.shape[1] % step))
            for name, values in numbers_of(padded, targets).items():
                measured[name][:, chunk] = values.view(targets.shape)
        return {name: values.flatten() for name, values in measured.items()}

    def errors(
        self, states: torch.Tensor, labels: torch.Tensor, output_type: type, parts: int = 1
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """
        What the model predicts wrongly: the probabilities of all words, less 1 for the word that follows.

        Args:
            states (`torch.Tensor` of shape `(tokens, hidden size)`):
                Last hidden states of the body.
            labels (`torch.Tensor` of shape `(tokens,)`):
                Token id that follows each.
            output_type (`type`):
                What the body returns.
            parts (`int`, *optional*, defaults to 1):
                Number of equal parts of the states, in order, that meet weights of their own.

        Yields:
            `tuple[slice, torch.Tensor]`: Some tokens of each part, and float32 of shape `(parts, tokens, vocabulary)`.
        """
        states, labels = states.unflatten(0, (parts, -1)), labels.to(states.device).unflatten(0, (parts, -1))
        size = max(1, self._tokens_at_once(by_words=False) // parts)
        for start in range(0, labels.shape[1], size):
            chunk = slice(start, start + size)
            errors = self.logits(states[:, chunk], output_type).float().softmax(dim=2)
            errors.scatter_add_(
                2,
                labels[:, chunk, None].to(errors.device),
                errors.new_full((1, 1, 1), -1).expand(*labels[:, chunk].shape, 1),
            )
            yield chunk, errors

    def _tokens_at_once(self, by_words: bool) -> int:
        """Tokens whose logits exist at once."""
        weight = self.model.get_output_embeddings().weight
        precision = "half" if weight.element_size() < 4 else "full"
        return _TOKENS_AT_ONCE[precision] if by_words else max(1, _LOGITS_AT_ONCE[precision] // len(weight))

    def _numbers_by_words(
        self, measures: Sequence[Measure], states: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Measures of tokens of a single part, whose states may be padded, some words of the vocabulary at a time."""
        log_probs = self._word_by_word(states[0], labels[0])
        return {measure.name: measure.numbers(log_probs) for measure in measures}

    def _numbers_by_tokens(
        self, measures: Sequence[Measure], output_type: type, states: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Measures of tokens, whose states may be padded, from the model's own logits of all words."""
        logits = self.logits(states, output_type)[:, : labels.shape[1]]
        return _numbers(logits.flatten(0, 1), labels.flatten(), measures)

    @cached_property
    def _has_layers(self) -> bool:
        """Whether there are layers between the body and the output embeddings, as in BERT."""
        others = {id(module) for module in [*self.body.modules(), self.model.get_output_embeddings()]}
        layers = (nn.Linear, Conv1D)
        return any(isinstance(module, layers) and id(module) not in others for module in self.model.modules())

    def _is_a_product(self, states: torch.Tensor, output_type: type, parts: int) -> bool:
        """Whether logits are products with the weights and no more: no scaling, capping, forbidden words or hooks."""
        head = self.model.get_output_embeddings()
        if type(head) is not torch.nn.Linear or "forward" in vars(head):
            return False
        if head._forward_hooks or head._forward_pre_hooks:
            return False
        if states.dtype != head.weight.dtype or states.shape[1] != head.in_features:  # there is more before the head
            return False
        if self._multiplies is None:  # told by a made-up state, the same in a run that goes on at another row
            state = torch.linspace(-1, 1, head.in_features, dtype=states.dtype).expand(parts, 1, -1)
            logits = self.logits(state, output_type)[0]
            self._multiplies = torch.equal(logits, F.linear(state[:1], head.weight, head.bias)[0])
        return self._multiplies

    def _word_by_word(self, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Log-probabilities, some words of the vocabulary after others."""
        head = self.model.get_output_embeddings()
        own = torch.empty(labels.shape, dtype=torch.float32)
        total = torch.full(labels.shape, -torch.inf)
        for first in range(0, len(head.weight), _WORDS_AT_ONCE):
            part = slice(first, first + _WORDS_AT_ONCE)
            bias = None if head.bias is None else head.bias[part]
            logits = F.linear(states, head.weight[part], bias)[: len(labels)].float()
            here = ((labels >= first) & (labels < first + _WORDS_AT_ONCE)).nonzero()[:, 0]
            own[here] = logits[here, labels[here] - first]
            total = torch.logaddexp(total, _log_sum_exp_(logits))
        return own - total

    def logits(self, states: torch.Tensor, output_type: type) -> torch.Tensor:
        """
        The model's own head on `states`, `(rows, tokens, hidden size)` to `(rows, tokens, vocabulary)`.

        The whole model is called with a body that returns `states`: bias, scaling and soft-capping of logits then are
        whatever this model does after its body, and need not be known here.

        Raises:
            ValueError: If the logits are not computed from the body.
        """
        result = output_type(last_hidden_state=states)
        with _forward_replaced(self.body, lambda *_, **__: result):
            one_token = torch.zeros((len(states), 1), dtype=torch.int64, device=states.device)
            logits = self.model(input_ids=one_token, use_cache=False).logits
        if logits.shape[:2] != states.shape[:2]:  # the head went round the body, and these are not its logits
            raise ValueError(f"{type(self.model).__name__} does not compute its logits from its body; DLC needs that.")
        return logits


def _numbers(logits: torch.Tensor, labels: torch.Tensor, measures: Sequence[Measure]) -> dict[str, torch.Tensor]:
    """Measures of tokens, in float32 on the labels' device; `logits` are `(tokens, vocabulary)`."""
    size = max(1, _LOGITS_IN_CACHE // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    parts = []
    for part, targets in zip(logits.split(size), labels.to(logits.device).split(size), strict=True):
        distribution = part.float().log_softmax(dim=1)
        log_probs = distribution.gather(1, targets[:, None])[:, 0]
        parts.append([measure.numbers(log_probs, distribution) for measure in measures])
    together = (torch.cat(values).to(labels.device) for values in zip(*parts, strict=True))
    return dict(zip((measure.name for measure in measures), together, strict=True))


def _log_sum_exp_(logits: torch.Tensor) -> torch.Tensor:
    """`logsumexp` over the words, in place: torch's own makes copies, which takes longer than the arithmetic."""
    largest = logits.amax(dim=1).clamp_(min=torch.finfo(torch.float32).min)  # -inf - -inf would be NaN
    return logits.sub_(largest[:, None]).exp_().sum(dim=1).log_().add_(largest)


@contextmanager
def _forward_replaced(module: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    # accelerate's device_map puts a `forward` of its own on the instance: put back what was there.
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
