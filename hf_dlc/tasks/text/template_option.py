"""The option `template`: a word, the path of a Jinja file, or a callable that maps rows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from .chat import ChatTemplate
from .template import label_of


TemplateOption = str | os.PathLike[str] | Callable[[dict[str, Any]], dict[str, Any]]


def chat_of(tokenizer: PreTrainedTokenizerBase, template: TemplateOption) -> ChatTemplate | None:
    """The chat template that `template` asks for; `None` is the Alpaca prompt."""
    if isinstance(template, str) and template == "alpaca":
        return None
    if callable(template) or template == "auto":
        return ChatTemplate(tokenizer) if tokenizer.chat_template else None
    if template == "chat":
        if not tokenizer.chat_template:
            raise ValueError(no_template(tokenizer, template))
        return ChatTemplate(tokenizer)
    path = Path(template)
    if not path.is_file():
        raise ValueError(
            "`template` must be 'auto', 'chat', 'alpaca', a callable, or the path of a Jinja file, but there is no "
            f"file {str(template)[:200]!r}."
        )
    return ChatTemplate(tokenizer, path.read_text(encoding="utf-8"))


def no_template(tokenizer: PreTrainedTokenizerBase, template: TemplateOption) -> str:
    """Error message for messages that no chat template is there for."""
    why = "has no chat template" if template != "alpaca" else "is used with template='alpaca', which has no turns"
    return (
        f"Messages need a chat template, but the tokenizer {label_of(tokenizer)} {why}. Pass "
        "`template='path/to/chat_template.jinja'`, or `template=` as a callable that maps a row to a prompt and a "
        "completion."
    )


def name_of(template: TemplateOption) -> str:
    """The option for fingerprints: its word, `"file"` (whose text counts, not its path), or a digest of its code."""
    if callable(template):
        from datasets.fingerprint import Hasher  # heavy, and needed for callables only

        return f"callable {Hasher.hash(template)}"
    return str(template) if template in ("auto", "chat", "alpaca") else "file"


def name_of_chat(template: TemplateOption) -> str:
    """Description of rows that go through the chat template, for people."""
    is_file = not callable(template) and template not in ("auto", "chat")
    return f"turns of the chat template {Path(template).name}" if is_file else "turns of the tokenizer's chat template"
