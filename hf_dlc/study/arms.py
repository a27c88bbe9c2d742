"""Arms: the ways of choosing rows that a study compares, by their names."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

from hf_dlc.scores.table import DEFAULT_SCORES, SCORES
from hf_dlc.selection.base import Selector
from hf_dlc.selection.table import SELECTORS


METRICS = ("loss per row", "loss per token")  # of the test rows; the first ranks the arms
MATCHINGS = ("rows", "tokens", "updates")  # what subsets of an arm and of random rows have equally many of

UNTRAINED, FULL, ORACLE, LONGEST = "zero-shot", "full", "oracle", "longest"
ANY_SCHEDULE = (0.0, 0.1, 0.2, 0.3)  # to tell which passes a score asks for
BASELINES = ("random", FULL, UNTRAINED)  # always there
_UNIQUE, _BALANCED = "unique", "balanced"


class Cell(NamedTuple):
    """A cell of a study: one model that is trained."""

    arm: str
    matching: str  # what subsets have equally many of, or "updates"
    budget: float
    seed: int

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.arm} {self.matching} {self.budget:g} {self.seed}".replace(" ", "_")


@dataclass(frozen=True)
class Arm:
    """
    A way of choosing rows.

    Args:
        name (`str`):
            Its name, of which all else is told.
        selector (`Selector`, *optional*):
            What selects; `None` where all rows are taken or nothing is trained.
        ranked_by (`str`, *optional*, defaults to `""`):
            Name of the score that it goes by.
        unique (`bool`, *optional*, defaults to `False`):
            Whether duplicates are left out.
        balanced (`bool`, *optional*, defaults to `False`):
            Whether all groups get equal parts.
    """

    name: str
    selector: Selector | None
    ranked_by: str = ""
    unique: bool = False
    balanced: bool = False

    @cached_property
    def needs(self) -> frozenset[str]:
        """
        What must be known of the rows: `score NAME`, `features POOLING`, `duplicates`, `groups`, `target`, `flags`.
        """
        selector = self.selector
        if selector is None:
            return frozenset()
        names = {
            f"score {self.ranked_by}": bool(self.ranked_by) and self.ranked_by != "length",
            f"features {selector.pooling}": "features" in selector.needs,
            "duplicates": self.unique,
            "groups": self.balanced,
            "target": hasattr(selector, "target") or self.is_adapted,
            "flags": self.name == ORACLE,
        }
        return frozenset(name for name, is_needed in names.items() if is_needed)

    @property
    def is_adapted(self) -> bool:
        """Whether the score asks for a model that was trained on wanted rows."""
        score = SCORES.get(self.ranked_by)
        return score is not None and any(one.weights != "base" for one in score.passes(ANY_SCHEDULE))


def parse_arm(name: str) -> Arm:
    """
    Take the name of an arm apart.

    Args:
        name (`str`):
            `"full"`, `"zero-shot"`, `"oracle"` or `"longest"`; or the name of a selector, such as `"random"` or
            `"k_center"`, with the name of a score before it where it goes by one, as in `"loss easiest"`. Behind it
            stands the value of the parameter in which the selector is varied: `"loss flexrand 0.25"`, `"ifd cut 0.3"`,
            `"target bm25"`. In front, `"unique"` leaves out duplicates, and `"balanced"` gives all groups equal parts.

    Returns:
        `Arm`

    Raises:
        ValueError: If it is none of these.

    Example:
    ```python
    >>> arm = parse_arm("loss flexrand 0.25")
    >>> arm.ranked_by, arm.selector.split, sorted(arm.needs)
    ('loss', 0.25, ['score loss'])
    >>> sorted(parse_arm("unique balanced random").needs)
    ['duplicates', 'groups']
    ```
    """
    if name in (FULL, UNTRAINED):
        return Arm(name, None)
    if name == ORACLE:
        return Arm(name, SELECTORS["random"])
    if name == LONGEST and name not in SELECTORS:
        return Arm(name, replace(SELECTORS["hardest"], column="dlc_tokens", easy="low"), "length")
    words = name.split(" ")
    unique = words[0] == _UNIQUE and bool(words.pop(0))
    balanced = words[:1] == [_BALANCED] and bool(words.pop(0))
    ranked_by = words.pop(0) if words and words[0] in SCORES else ""
    selector = _selector(words)
    if selector is None or ("scores" in selector.needs) != bool(ranked_by):
        raise ValueError(_unknown(name))
    # Without a score of its own, a selector knows nothing of those that another arm needs.
    selector = replace(selector, column=f"dlc_{ranked_by}" if ranked_by else None)
    return Arm(name, selector, ranked_by, unique, balanced)


def parse_rule(name: str, value: str | None = None) -> tuple[Selector, dict[str, Any]]:
    """
    Find the selector that a rule names.

    Args:
        name (`str`):
            The name of a selector.
        value (`str`, *optional*):
            What the rule gives for the parameter in which the selector is varied.

    Returns:
        `tuple[Selector, dict[str, Any]]`: The selector of the table, and the parameter with its value.

    Raises:
        ValueError: If there is no such selector, or if the value is none that it takes.

    Example:
    ```python
    >>> parse_rule("flexrand", "0.25")[1], parse_rule("target", "bm25")[1], parse_rule("easiest")[1]
    ({'split': 0.25}, {'metric': 'bm25'}, {})
    ```
    """
    if name not in SELECTORS:
        raise ValueError(f"a rule must begin with one of {', '.join(SELECTORS)}, got {name!r}.")
    selector = SELECTORS[name]
    if value is None:
        return selector, {}
    if selector.varied is None:
        raise ValueError(f"{name} takes no value, got {value!r}.")
    as_it_is = isinstance(getattr(selector, selector.varied), str)
    values = {selector.varied: value if as_it_is else float(value)}
    replace(selector, **values).check()
    return selector, values


def _selector(words: list[str]) -> Selector | None:
    """The selector that a rule names, with its value; `None` if there is none."""
    if not words or len(words) > 2:
        return None
    try:
        selector, values = parse_rule(*words)
    except ValueError:
        return None
    is_open = not values and len(selector.variants()) > 1  # which of its variants?
    return None if is_open else replace(selector, **values)


def _unknown(name: str) -> str:
    by_score = ", ".join(rule for rule, selector in SELECTORS.items() if "scores" in selector.needs)
    others = ", ".join(rule for rule, selector in SELECTORS.items() if "scores" not in selector.needs)
    return (
        f"an arm must be '{ORACLE}', '{LONGEST}', one of {others}, or a score ({', '.join(SCORES)}) and one of "
        f"{by_score}; with a value behind it where the selector has one, as in 'loss flexrand 0.25', and 'unique' or "
        f"'balanced' in front; got {name!r}."
    )


def score_arms() -> list[str]:
    """Names of the arms of all selectors that go by scores alone, with the scores of DLC and plain loss."""
    rules = [
        variant
        for selector in SELECTORS.values()
        if set(selector.needs) - {"tokens"} == {"scores"}
        for variant in selector.variants()
    ]
    return [f"{score} {rule}" for score in (*DEFAULT_SCORES, "plain_loss") for rule in rules]


def parameters_of(arm: Arm, known: dict[str, Any]) -> Selector:
    """The selector of an arm with those of the known parameters that it has."""
    names = {option.name for option in fields(arm.selector)}
    return replace(arm.selector, **{name: value for name, value in known.items() if name in names})
