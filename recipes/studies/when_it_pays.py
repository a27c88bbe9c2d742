"""
Show in one table what the studies of this folder have found: where choosing pays, and where it does not.

    python recipes/studies/when_it_pays.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hf_dlc.study import summary
from hf_dlc.study.results import StudyResults


# The studies of each situation, by the names of their folders.
STUDIES = {
    "task": {"gsm8k": "GSM8K", "arc_easy": "ARC-Easy"},
    "wrong": {"revised": "half improved by experts", "wrong_30": "30% swapped", "wrong_10": "10% swapped"},
    "sources": {"sources": "Alpaca, GSM8K, dialogues"},
    "clean": {"clean": "Alpaca"},
}


# Half of its responses are good, and the other half are no more than less good.
TITLES = {"half improved by experts": "the quality of responses varies"}


def pays_table(found: dict[str, dict[str, StudyResults]]) -> str:
    """Write the table of all studies."""
    return summary.pays_table(found, TITLES)


def read(folder: Path) -> dict[str, dict[str, StudyResults]]:
    """Read the records of all studies; those that have not been made are named on the standard error."""
    found: dict[str, dict[str, StudyResults]] = {}
    for situation, studies in STUDIES.items():
        for name, label in studies.items():
            path = folder / name / "study.json"
            if not path.is_file():
                print(f"not measured yet: {name}", file=sys.stderr)
                continue
            record = json.loads(path.read_text(encoding="utf-8"))
            found.setdefault(situation, {})[label] = StudyResults.from_json(record)
    return found


if __name__ == "__main__":
    print(pays_table(read(Path(__file__).parent)))
