"""Base of the scores that compare a response with its prompt, and the views of a row that two of them compare."""

from __future__ import annotations

from .base import Pass


# The whole row, and its responses each by itself, behind what `DLCConfig.alone` says: never what they answer.
WITH_PROMPT, ALONE = Pass(), Pass(view="alone")

# Both again, cut behind the first target tokens of each response.
START_WITH_PROMPT, START_ALONE = Pass(view="start"), Pass(view="alone_start")


class Contrast:
    """
    Base of scores that compare a response with its prompt, by which responses to other prompts are found.

    `found_wrong` is how many of 45 such responses were among the 45 hardest of 300 rows of Alpaca
    (`recipes/studies/README.md`, "Wrong responses"). Where several of these scores are there, it tells which to go by.
    """

    found_wrong: int
