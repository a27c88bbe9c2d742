"""Similarity of prompt and response, as a sentence encoder sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .base import Measure, Pass
from .contrast import Contrast


def _cosine(prompts: Any, responses: Any) -> Any:
    norms = (prompts.square().sum(1) * responses.square().sum(1)).sqrt()
    return (prompts * responses).sum(1) / norms.clip(min=1e-12)


SIMILARITY = Measure("similarity", of_pooled=_cosine)


class Similarity(Contrast):
    """
    Cosine of the embeddings of prompt and response, by the sentence encoder that `DLCConfig.encoder` names.

        similarity = u · v / (‖u‖ ‖v‖)

    Here u is the embedding of the prompt and v that of the response. A response to something else is about something
    else. The encoder is a small model of its own, which cuts texts to its own length. It reads what the scoring model
    is shown, without special tokens and without a long beginning of the template that all rows share. In a
    conversation all learned turns are the response, and all else is the prompt.

    The source is Reimers and Gurevych, "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks", EMNLP 2019,
    where texts are compared in this way. To compare a response with its own prompt is this package's choice.

    Range [-1, 1]; high values are easy rows; costs one pass of the encoder, none of the scoring model.
    """

    name = "similarity"
    easy = "high"
    low, high = -1.0, 1.0
    unit = ""
    text = "cosine of the embeddings of prompt and response, by a sentence encoder"
    measures = (SIMILARITY,)
    found_wrong = 43

    def passes(self, schedule: Sequence[float]) -> tuple[Pass, ...]:
        """One, of the encoder, over texts; the scoring model is not run."""
        return (Pass(view="texts"),)

    def reduce(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """The cosine of the one pass."""
        return values["similarity"][0].astype(np.float32)
