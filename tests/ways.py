"""The ways to score the same rows. A law that holds for scores holds for each of them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset

from hf_dlc import DLCScorer
from tests.conftest import free_port


Way = Callable[[DLCScorer, Dataset], Dataset]


def _called(scorer: DLCScorer, dataset: Dataset, rows: Any) -> Dataset:
    """What the scorer returns for rows in memory, beside the columns of the dataset."""
    columns = {name: [np.asarray(value).tolist() for value in values] for name, values in scorer(rows).items()}
    return Dataset.from_dict({**dataset[:], **columns})


def _in_a_folder(scorer: DLCScorer, dataset: Dataset) -> Dataset:
    with tempfile.TemporaryDirectory() as folder:
        return scorer.score(dataset, folder)


def _gone_on_with(scorer: DLCScorer, dataset: Dataset) -> Dataset:
    """A run that has lost a chunk of every level, as if it had been killed before these were written."""
    with tempfile.TemporaryDirectory() as folder:
        scorer.score(dataset, folder, chunk_seconds=0)
        for level in range(len(scorer.schedule_)):
            next(Path(folder, "chunks").glob(f"level-{level:02}-*")).unlink()
        return scorer.score(dataset, folder, chunk_seconds=0)


def score_in_processes(scorer: DLCScorer, dataset: Dataset, number: int = 2) -> list[Dataset]:
    """
    What each of several processes of one job gets, by rank.

    They are forked off this one, so that nothing is imported again: a launcher would take twenty times as long.
    """
    job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": str(number)}
    job |= {"LOCAL_WORLD_SIZE": str(number), "ACCELERATE_USE_CPU": "1"}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"rank{rank}") for rank in range(number)]
        fork = multiprocessing.get_context("fork")
        ranks = [
            fork.Process(target=_score_as, args=(rank, job, scorer, dataset, path)) for rank, path in enumerate(paths)
        ]
        try:
            for process in ranks:
                process.start()
            for process in ranks:
                process.join(timeout=120)
            assert [process.exitcode for process in ranks] == [0] * number
        finally:
            for process in ranks:
                process.kill()
        return [Dataset(pickle.loads(path.read_bytes())) for path in paths]


def _score_as(rank: int, job: dict[str, str], scorer: DLCScorer, dataset: Dataset, path: Path) -> None:
    os.environ.update({**job, "RANK": str(rank), "LOCAL_RANK": str(rank)})
    PartialState._reset_state()  # this process knew that it was alone
    # One thread: those that the parent may have had are not in a process that was forked off it.
    path.write_bytes(pickle.dumps(scorer.score(dataset, num_threads=1).data.table))


# What runs different code.
WAYS: dict[str, Way] = {
    "map row by row": lambda scorer, dataset: dataset.map(scorer),
    "map batched": lambda scorer, dataset: dataset.map(scorer, batched=True),
    "score": lambda scorer, dataset: scorer.score(dataset),
}

# All that a user may do.
ALL_WAYS: dict[str, Way] = {
    **WAYS,
    "map in threes": lambda scorer, dataset: dataset.map(scorer, batched=True, batch_size=3),
    "map one by one": lambda scorer, dataset: dataset.map(scorer, batched=True, batch_size=1),
    "stream": lambda scorer, dataset: Dataset.from_list(list(dataset.to_iterable_dataset().map(scorer))),
    "stream in threes": lambda scorer, dataset: Dataset.from_list(
        list(dataset.to_iterable_dataset().map(scorer, batched=True, batch_size=3))
    ),
    "call with columns": lambda scorer, dataset: _called(scorer, dataset, dataset[:]),
    "call with rows": lambda scorer, dataset: _called(scorer, dataset, list(dataset)),
    "score in a folder": _in_a_folder,
    "score, gone on with": _gone_on_with,
    "score in two processes": lambda scorer, dataset: score_in_processes(scorer, dataset)[0],
}
