"""Prompts and responses as texts, and the sentence encoder that embeds them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from hf_dlc.scores.columns import NO_PROMPT, NO_TARGET
from hf_dlc.tasks.base import RowMeasures
from hf_dlc.utils.digests import tensors_digest, tokenizer_digest


if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedTokenizerBase

    from hf_dlc.scores.base import Measure

    from .encoding import Encoding

TEXTS_VIEW = "texts"


class TextPair(NamedTuple):
    """A row as two texts; a row that has none of one of them is skipped."""

    prompt: str
    response: str
    tokens: int  # of both, as the scoring model counts them
    status: str
    why: str = ""
    shared_head: int = 0
    shared_head_length: int = 0

    @property
    def length(self) -> int:
        """Number of tokens; 0 for a skipped row."""
        return self.tokens

    @property
    def target_tokens(self) -> int:
        """One, since the pair is measured as a whole; 0 for a skipped row."""
        return int(self.tokens > 0)

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The texts as bytes, for digests."""
        return tuple(np.frombuffer(text.encode(), np.uint8) for text in (self.prompt, self.response))


def text_pair(row: Encoding, asks: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> TextPair:
    """
    What a row asks and what it answers, without special tokens.

    Args:
        row ([`Encoding`]):
            The row.
        asks (`np.ndarray` of shape `(tokens,)`):
            Which of its tokens are the prompt.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            What encoded it.

    Returns:
        [`TextPair`]
    """
    if not row.length:
        return TextPair("", "", 0, row.status, row.why)
    prompt, response = (
        tokenizer.decode(row.input_ids[which], skip_special_tokens=True).strip() for which in (asks, row.targets)
    )
    if not response:
        return TextPair("", "", 0, NO_TARGET, "its response has no text but special tokens")
    if not prompt:
        return without_prompt(row)
    return TextPair(prompt, response, int(asks.sum()) + row.target_tokens, row.status)


def without_prompt(row: Encoding) -> TextPair:
    """A row whose response has nothing to be compared with."""
    return TextPair("", "", 0, NO_PROMPT, "it has no text beside its response that could be compared with it")


class SentenceEncoder:
    """
    A sentence encoder, loaded when it is needed first.

    Args:
        name (`str`):
            Repository on the Hub, or folder.
        device (`torch.device`):
            Where it computes.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self._device = name, device

    def measure(self, rows: Sequence[TextPair], measures: Sequence[Measure]) -> RowMeasures:
        """Measures of pairs, from the embeddings of their texts; these are the states, `(2 * rows, size)`."""
        texts = [row.prompt for row in rows] + [row.response for row in rows]
        embedded = self._model.encode(texts, batch_size=len(texts), convert_to_tensor=True, show_progress_bar=False)
        prompts, responses = embedded.float().unflatten(0, (2, -1))
        values = {measure.name: measure.of_pooled(prompts, responses).float() for measure in measures}
        return RowMeasures(values, embedded)

    @cached_property
    def digest(self) -> str:
        """Digest of its weights and of what it does with text."""
        model = self._model
        texts = [str(model), model.max_seq_length, model.prompts, model.default_prompt_name]
        return tensors_digest(model.state_dict(), [*texts, tokenizer_digest(model.tokenizer)])

    @cached_property
    def _model(self) -> SentenceTransformer:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ImportError(
                "the score 'similarity' needs the package sentence-transformers. Install it with "
                "`pip install 'hf-dlc[similarity]'`, or leave the score out."
            ) from error
        return SentenceTransformer(self.name, device=str(self._device)).eval()
