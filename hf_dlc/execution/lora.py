"""Settings of LoRA training, those by which costs are measured and studies train."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class LoraSettings:
    """Settings of LoRA training: those that a study trains with unless it is told otherwise."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    learning_rate: float = 5e-4
    batch_size: int = 8


LORA = LoraSettings()


def import_peft() -> ModuleType:
    """
    PEFT, which takes seconds to import and which scoring and selecting do without.

    Returns:
        `ModuleType`: The module `peft`.

    Raises:
        ImportError: If it is not installed, with what to do.
    """
    try:
        import peft
    except ModuleNotFoundError as error:
        raise ImportError("LoRA adapters are trained with PEFT: pip install 'hf-dlc[train]'.") from error
    return peft
