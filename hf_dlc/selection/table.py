"""The table of selectors: all that the command line, a comparison and a card know of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from .base import Selector
from .cluster import ClusterSelector
from .cut import CutSelector
from .flexrand import FlexRandSelector
from .k_center import KCenterSelector
from .random import RandomSelector
from .target import TargetSelector
from .top_k import TopKSelector
from .transfer import TransferSelector


# By their names on the command line. A new selector is a file of this folder and a line here. They have no budget yet:
# `dataclasses.replace(SELECTORS["random"], keep=0.5)` makes one that selects.
SELECTORS: dict[str, Selector] = {
    selector.name: selector
    for selector in (
        FlexRandSelector(),
        RandomSelector(),
        TopKSelector(which="easiest"),
        TopKSelector(which="hardest"),
        CutSelector(),
        TargetSelector(),
        TransferSelector(),
        KCenterSelector(),
        ClusterSelector(),
    )
}


def selector_from_record(selection: Mapping[str, Any]) -> Selector:
    """
    Make a selector from what a manifest says of it.

    Args:
        selection (`Mapping[str, Any]`):
            `selector`, the name of its class, and its parameters. What is missing or `None` has its default, and what
            this version does not know is left out.

    Returns:
        [`FlexRandSelector`] or another of the table.

    Raises:
        ValueError: If the class is not in the table, or if a parameter is out of its range.

    Example:
    ```python
    >>> selector_from_record({"selector": "TopKSelector", "keep": 0.5, "which": "hardest"}).sentence()
    'The hardest rows by `dlc_confidence` were taken.'

    ```
    """
    classes = {type(selector).__name__: type(selector) for selector in SELECTORS.values()}
    name = selection.get("selector")
    if name not in classes:
        raise ValueError(
            f"selector must be one of {', '.join(classes)}, got {name!r}. Select with one of these, or upgrade hf_dlc "
            "if a later version wrote this."
        )
    known = {option.name for option in fields(classes[name])}
    selector = replace(classes[name](), **{key: selection[key] for key in known if selection.get(key) is not None})
    selector.check()  # anybody may have written the record, and the sentence for the card is made of it
    return selector
