"""A causal language model as a task: forward pass over a micro-batch, confidence and loss of each row's targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from . import BatchScores
from .encoding import Encoding, RowEncoder


# Logits of this many (token, vocabulary) pairs exist at once; in float32 that is 64 MiB.
_LOGITS_AT_ONCE = 2**24

_POSITION_TABLES = {"wpe", "embed_positions", "position_embeddings"}


class CausalLMTask:
    """
    Scores the target tokens of encoded rows with a causal language model.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Model with a language modelling head.
        encoder ([`RowEncoder`]):
            Turns rows into token ids and target marks.
        token_mean (`str`, *optional*, defaults to `"arithmetic"`):
            Confidence is the mean of p(token) over the target tokens (`"arithmetic"`), or exp(-loss) (`"geometric"`).

    Raises:
        ValueError: If the model is not a decoder-only language model.
    """

    def __init__(self, model: PreTrainedModel, encoder: RowEncoder, token_mean: str = "arithmetic") -> None:
        if not isinstance(model, PreTrainedModel):
            raise ValueError(
                f"the model must be a transformers PreTrainedModel, got {type(model).__name__}. Pass what it wraps: "
                "`model.module`, or for adapters `model.merge_and_unload()`."
            )
        check_architecture(model.config, type(model).__name__)
        _check_head(model)
        self.model = model
        self.encoder = encoder
        self.token_mean = token_mean

    @property
    def _body(self) -> PreTrainedModel:
        """What the head calls: the base model, or the decoder in it where that is an encoder-decoder's (OPT, BART)."""
        return getattr(self.model.base_model, "decoder", self.model.base_model)

    def encode(self, rows: Sequence[dict[str, Any]]) -> list[Encoding]:
        """
        Encode rows, in order; a row that cannot be scored comes back with its reason as status.

        Raises:
            ValueError: If the tokenizer writes ids that the model has no embedding for, if a row is longer than the
                positions the model has learned, and what the encoder raises.
        """
        encodings = self.encoder.encode(rows)
        largest = max((int(row.input_ids.max()) for row in encodings if row.length), default=0)
        known = self.model.get_input_embeddings().weight.shape[0]
        if largest >= known:
            raise ValueError(
                f"the tokenizer wrote the token id {largest}, but {type(self.model).__name__} has only {known} "
                "embeddings. Use the model's own tokenizer, or call model.resize_token_embeddings(len(tokenizer))."
            )
        longest = max((row.length for row in encodings), default=0)
        if longest > self._positions:
            raise ValueError(
                f"a row of {longest} tokens is longer than the {self._positions} positions that "
                f"{type(self.model).__name__} has learned. Pass max_length={self._positions}."
            )
        return encodings

    @cached_property
    def _positions(self) -> float:
        """Positions the model has an embedding for; infinite if it computes them (rotary, ALiBi)."""
        tables = [
            module.num_embeddings - getattr(module, "offset", 0)  # OPT and BART keep the first rows for padding
            for name, module in self.model.named_modules()
            if isinstance(module, torch.nn.Embedding) and name.rpartition(".")[2] in _POSITION_TABLES
        ]
        return min(tables, default=math.inf)

    def describe(self) -> dict[str, Any]:
        """What of the template and the layout changes a score."""
        return self.encoder.describe()

    @torch.inference_mode()
    def forward(self, rows: Sequence[Encoding]) -> BatchScores:
        """
        Score a micro-batch with the weights as they are now.

        Args:
            rows (`Sequence[Encoding]`):
                Rows with at least one target token each.

        Returns:
            [`BatchScores`]: Confidence and loss of shape `(len(rows),)`; `states` holds the hidden states that predict
            the target tokens, of shape `(target tokens, hidden size)`.
        """
        device = self.model.get_input_embeddings().weight.device
        input_ids = _pad(rows, "input_ids", torch.int64).to(device)
        targets = _pad(rows, "targets", torch.bool).to(device)
        # Right padding and a causal model: no real token ever sees a padding token, so no attention mask is needed,
        # and the attention keeps its fast causal kernel. (No position ids either: given, they would mean packing.)
        outputs = self._body(input_ids=input_ids, use_cache=False)
        predicting = targets[:, 1:]  # the state at position t predicts the token at t + 1
        states = outputs.last_hidden_state[:, :-1][predicting.to(outputs.last_hidden_state.device)]
        log_probs = self._log_probs(states, input_ids[:, 1:][predicting], type(outputs))
        loss = -_row_means(log_probs, predicting)
        confidence = loss.neg().exp() if self.token_mean == "geometric" else _row_means(log_probs.exp(), predicting)
        return BatchScores(confidence, loss, states)

    def _log_probs(self, states: torch.Tensor, labels: torch.Tensor, output_type: type) -> torch.Tensor:
        """Log-probabilities of the labels, `(tokens,)` float32 on the labels' device, in chunks of bounded memory."""
        size = max(1, _LOGITS_AT_ONCE // self.model.get_output_embeddings().weight.shape[0])
        log_probs = torch.empty(labels.shape, dtype=torch.float32, device=labels.device)
        for start in range(0, len(labels), size):
            chunk = slice(start, start + size)
            logits = self._logits(states[chunk], output_type).float()
            log_probs[chunk] = -F.cross_entropy(logits, labels[chunk].to(logits.device), reduction="none").to(
                labels.device
            )
        return log_probs

    def _logits(self, states: torch.Tensor, output_type: type) -> torch.Tensor:
        """
        The model's own head on `states`, `(tokens, hidden size)` to `(tokens, vocabulary)`.

        The whole model is called with a body that returns `states`: bias, scaling and soft-capping of logits then are
        whatever this model does after its body, and need not be known here.
        """
        result = output_type(last_hidden_state=states[None])
        with _forward_replaced(self._body, lambda *_, **__: result):
            one_token = torch.zeros((1, 1), dtype=torch.int64, device=states.device)
            logits = self.model(input_ids=one_token, use_cache=False).logits
        if logits.shape[:2] != (1, len(states)):  # the head went round the body, and these are not its logits
            raise ValueError(f"{type(self.model).__name__} does not compute its logits from its body; DLC needs that.")
        return logits[0]


def check_architecture(config: PreTrainedConfig, name: str) -> None:
    """
    Refuse, by name, what is not a decoder-only language model.

    Raises:
        ValueError: For an encoder-decoder, vision-language or audio model, and for one without a causal head.
    """
    name = f"{name} ({type(config).__name__})"
    if config.is_encoder_decoder:
        raise ValueError(f"{name} is an encoder-decoder model; DLC needs a decoder-only language model.")
    if any(getattr(config, f"{kind}_config", None) is not None for kind in ("vision", "audio")):
        raise ValueError(f"{name} is a vision-language or audio model; DLC needs a text-only language model.")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and "AutoModelForCausalLM" not in getattr(
        config, "auto_map", {}
    ):
        raise ValueError(f"{name} has no causal language model in transformers; DLC needs one.")
    if config.model_type == "xlnet":
        raise ValueError(f"{name} predicts tokens in permuted order; DLC needs a left-to-right language model.")
    # BERT and its like have a head in the causal mapping too. (GPT-NeoX is causal, whatever its flag says.)
    if getattr(config, "is_decoder", True) is False and not config.model_type.startswith("gpt_neox"):
        raise ValueError(
            f"{name} sees the very tokens that it should predict (is_decoder=False, as in BERT); DLC needs a "
            "decoder-only language model."
        )


def _check_head(model: PreTrainedModel) -> None:
    if model.get_output_embeddings() is None or model.base_model is model:
        raise ValueError(
            f"{type(model).__name__} has no language modelling head on a body; load it with "
            "AutoModelForCausalLM.from_pretrained."
        )


def _pad(rows: Sequence[Encoding], field: str, dtype: torch.dtype) -> torch.Tensor:
    """`(rows, longest row)`, padded with zeros on the right. Which id pads does not matter: nothing sees it."""
    return pad_sequence([torch.from_numpy(getattr(row, field)).to(dtype) for row in rows], batch_first=True)


def _row_means(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Means over each row of `values`, which belong, in order, to the true places of `where` `(rows, length)`."""
    grid = torch.zeros(where.shape, dtype=torch.float32, device=where.device)
    grid[where] = values
    return grid.sum(dim=1) / where.sum(dim=1)


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
