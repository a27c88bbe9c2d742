"""Prune fine-tuning data without training, by a pre-trained model's confidence under masked weights."""

from __future__ import annotations


__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any


# Imported on first use, so that `import hf_dlc` does not pull in torch.
_HOMES = {
    "Agreement": "scorer.agreement",
    "ClusterSelector": "selection",
    "CutSelector": "selection",
    "DLCConfig": "config",
    "DLCScorer": "scorer.scorer",
    "ExtrapolatedScorer": "scorer.extrapolated",
    "FlexRandSelector": "selection",
    "KCenterSelector": "selection",
    "LevelReport": "masking",
    "MaskSchedule": "config",
    "PruneReport": "report.report",
    "RandomSelector": "selection",
    "RunEstimate": "execution.estimate",
    "TargetSelector": "selection",
    "TopKSelector": "selection",
    "TransferSelector": "selection",
    "build_manifest": "pipeline.record",
    "find_duplicates": "pipeline.duplicates.find",
    "load_scores": "hub.publish",
    "push_pruned": "hub.publish",
}

__all__ = [
    "Agreement",
    "ClusterSelector",
    "CutSelector",
    "DLCConfig",
    "DLCScorer",
    "ExtrapolatedScorer",
    "FlexRandSelector",
    "KCenterSelector",
    "LevelReport",
    "MaskSchedule",
    "PruneReport",
    "RandomSelector",
    "RunEstimate",
    "TargetSelector",
    "TopKSelector",
    "TransferSelector",
    "__version__",
    "build_manifest",
    "find_duplicates",
    "load_scores",
    "push_pruned",
]

if TYPE_CHECKING:
    from hf_dlc.config import DLCConfig, MaskSchedule
    from hf_dlc.execution.estimate import RunEstimate
    from hf_dlc.hub.publish import load_scores, push_pruned
    from hf_dlc.masking import LevelReport
    from hf_dlc.pipeline.duplicates.find import find_duplicates
    from hf_dlc.pipeline.record import build_manifest
    from hf_dlc.report.report import PruneReport
    from hf_dlc.scorer.agreement import Agreement
    from hf_dlc.scorer.extrapolated import ExtrapolatedScorer
    from hf_dlc.scorer.scorer import DLCScorer
    from hf_dlc.selection import (
        ClusterSelector,
        CutSelector,
        FlexRandSelector,
        KCenterSelector,
        RandomSelector,
        TargetSelector,
        TopKSelector,
        TransferSelector,
    )


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
