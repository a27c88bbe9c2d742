"""Loading of the tokenizer or the image processor that belongs to a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import AutoImageProcessor, AutoTokenizer, BaseImageProcessor, PreTrainedTokenizerBase
from transformers.utils import is_torchvision_available


_SAVE_TOKENIZER = "Save it beside the model: tokenizer.save_pretrained(folder)."


def load_tokenizer(name: str, options: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """
    Load the tokenizer of a language model.

    Args:
        name (`str`):
            Folder or repository.
        options (`Mapping[str, Any]`):
            How its files are fetched, such as `revision`.

    Raises:
        ValueError: If there is none, or none that knows any text.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except (AttributeError, ImportError, LookupError, OSError, TypeError, ValueError) as error:
        # Each family has its own, where there are no files of one or where they hold something else.
        raise ValueError(
            f"no tokenizer can be loaded from {name}. {_SAVE_TOKENIZER} ({type(error).__name__}: {error})"
        ) from error
    # For many models transformers makes one without any text where its files are missing.
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    if not tokenizer.get_vocab().keys() - added - set(tokenizer.all_special_tokens):
        raise ValueError(f"{name} has a tokenizer without any text in its vocabulary. {_SAVE_TOKENIZER}")
    return tokenizer


def load_image_processor(name: str, options: Mapping[str, Any]) -> BaseImageProcessor:
    """Load the image processor of an image model; the arguments are those of [`load_tokenizer`]."""
    # Named, since the processor that is not installed would be warned of.
    backend = "torchvision" if is_torchvision_available() else "pil"
    return AutoImageProcessor.from_pretrained(name, **options, backend=backend)
