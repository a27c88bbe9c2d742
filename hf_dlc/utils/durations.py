"""Durations in words, and what scoring costs against training."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """
    A time as people say it.

    Example:
    ```python
    >>> duration(7.25), duration(61), duration(260), duration(4620)
    ('7.2 s', '61 s', '4 min', '1 h 17 min')
    ```
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def scoring_training_ratio(scoring_seconds: float | None, training_seconds: float | None) -> float | None:
    """What scoring costs, divided by what one epoch of training on the same rows costs: STR; `None` if not known."""
    return scoring_seconds / training_seconds if scoring_seconds and training_seconds else None


def price(scoring_seconds: float | None, training_seconds: float | None) -> str | None:
    """
    What scoring costs beside one epoch of training, in words.

    Args:
        scoring_seconds (`float`, *optional*):
            Time of the scoring.
        training_seconds (`float`, *optional*):
            Time of one epoch of LoRA training on all rows that can be scored, on the same device.

    Returns:
        `str`: The sentence; `None` where one of the two is not known.

    Example:
    ```python
    >>> price(4620, 3300)
    'scoring 1 h 17 min; one epoch of LoRA training on these rows: 55 min; STR 1.4'
    ```
    """
    ratio = scoring_training_ratio(scoring_seconds, training_seconds)
    if ratio is None:
        return None
    training = f"one epoch of LoRA training on these rows: {duration(training_seconds)}"
    return f"scoring {duration(scoring_seconds)}; {training}; STR {ratio:.2g}"
