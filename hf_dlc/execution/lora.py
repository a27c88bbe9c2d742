"""Settings of LoRA training, those by which costs are measured and studies train."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LoraSettings:
    """Settings of LoRA training: those that a study trains with unless it is told otherwise."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    learning_rate: float = 5e-4
    batch_size: int = 8


LORA = LoraSettings()
