"""Which weights are masked, which of them are zero at a level, and how they come back."""

from __future__ import annotations

from hf_dlc.masking.calibration import CALIBRATION_STARTS, calibrate
from hf_dlc.masking.masker import LevelReport, Masker, MaskingSession
from hf_dlc.masking.targets import Target, UnmaskableModelError, check_maskable, find_targets


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
