"""A run that was killed goes on where it was, and ends with the same bits, whatever it was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from hf_dlc.execution.loop import LevelLoop
from tests.set_ups import SET_UPS, SetUp, set_up


class KilledError(BaseException):
    """Ends a run as a signal would."""


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here takes the power away."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@contextmanager
def counted_passes(killed_at: int | None = None) -> Iterator[list[int]]:
    """The level of each forward pass from now on; the one of a number is not run, but ends the run."""
    levels, try_forward = [], LevelLoop._try_forward

    def counting(self: LevelLoop, *arguments: Any) -> Any:
        levels.append(self._level)
        if len(levels) == killed_at:
            raise KilledError
        return try_forward(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LevelLoop, "_try_forward", counting)
        yield levels


def score(it: SetUp, folder: Path | None = None, chunk_seconds: float = 60) -> Dataset:
    """By a scorer that knows nothing of earlier runs."""
    return it.make().score(it.rows, folder, num_threads=1, chunk_seconds=chunk_seconds)


def assert_same_bits(found: Dataset, expected: Dataset) -> None:
    for name in expected.column_names:
        if name.startswith("dlc_"):
            np.testing.assert_array_equal(np.array(found[name][:]), np.array(expected[name][:]), err_msg=name)


@pytest.mark.parametrize("done", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("name", SET_UPS)
def test_a_run_that_was_killed_goes_on_to_the_same_bits(name: str, done: float, tmp_path: Path) -> None:
    """At the first pass, at the last one, and between them, where levels, views and weights change."""
    it = set_up(name)
    with counted_passes() as whole:
        expected = score(it)
    assert it.read(expected)
    assert len(whole) > 2 * len(set(whole))  # several micro-batches a pass, so that there is something in its midst
    killed_at = 1 + int(done * (len(whole) - 1))
    with counted_passes(killed_at), pytest.raises(KilledError):
        score(it, tmp_path / "run", chunk_seconds=0)
    with counted_passes() as rest:
        found = score(it, tmp_path / "run")
    assert rest == whole[killed_at - 1 :]  # nothing is computed twice, or left out
    assert_same_bits(found, expected)
