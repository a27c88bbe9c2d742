"""From scores, features and groups to row numbers: selectors that return a subset of a scored dataset."""

from __future__ import annotations

from .cluster import ClusterSelector
from .cut import CutSelector
from .flexrand import FlexRandSelector
from .k_center import KCenterSelector
from .random import RandomSelector
from .target import TargetSelector
from .top_k import TopKSelector
from .transfer import TransferSelector


__all__ = [
    "ClusterSelector",
    "CutSelector",
    "FlexRandSelector",
    "KCenterSelector",
    "RandomSelector",
    "TargetSelector",
    "TopKSelector",
    "TransferSelector",
]
