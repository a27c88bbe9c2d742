"""The training templates of ours, with marks round the assistant's turns, and the one that renders as another does."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from .probes import render_alike


TEMPLATES_FOLDER = Path(__file__).resolve().parent / "templates"
FAMILIES = (
    "chatml",
    "gemma",
    "gemma3",
    "llama3",
    "llama3_1",
    "llama3_2",
    "mistral",
    "qwen2_5",
    "qwen3",
    "smollm2",
)

# The models whose templates drop the reasoning of earlier turns. Training keeps it in all of them, or else those turns
# could not be learned.
_FORGETS_REASONING = frozenset({"qwen3"})


@lru_cache
def training_template(family: str) -> str:
    """Text of the training template of a family of models."""
    return (TEMPLATES_FOLDER / f"{family}.jinja").read_text(encoding="utf-8")


@lru_cache
def family_of(text: str, special_tokens: tuple[tuple[str, str], ...]) -> str | None:
    """
    Family whose training template renders all probes as a chat template does.

    Args:
        text (`str`):
            The chat template.
        special_tokens (`tuple[tuple[str, str], ...]`):
            Names of the tokenizer's special tokens, each with its text.

    Returns:
        `str` or `None`: The family; `None` if there is none.
    """
    for family in FAMILIES:
        if render_alike(text, training_template(family), dict(special_tokens), family in _FORGETS_REASONING):
            return family
    return None
