"""Masks of weights: which weights are zero at a level, and how they come back."""

from __future__ import annotations

from .calibration import CALIBRATION_STARTS, calibrate
from .masker import LevelReport, Masker, MaskingSession
from .refusals import UnmaskableModelError
from .targets import Target, check_maskable, find_targets


__all__ = [
    "CALIBRATION_STARTS",
    "LevelReport",
    "Masker",
    "MaskingSession",
    "Target",
    "UnmaskableModelError",
    "calibrate",
    "check_maskable",
    "find_targets",
]
