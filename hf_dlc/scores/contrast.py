"""What the scores of contrast share: the views of a row that they compare, with its prompt and without."""

from __future__ import annotations

from .base import Pass


# The whole row, and its responses each by itself, behind what `DLCConfig.alone` says: never what they answer.
WITH_PROMPT, ALONE = Pass(), Pass(view="alone")

# Both again, cut behind the first target tokens of each response.
START_WITH_PROMPT, START_ALONE = Pass(view="start"), Pass(view="alone_start")
