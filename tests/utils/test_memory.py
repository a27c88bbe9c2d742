"""Memory that is still free, as the system and its containers tell it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hf_dlc.utils import memory


def test_a_container_has_what_its_limit_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, used = tmp_path / "limit", tmp_path / "used"
    used.write_text("1000\n")
    monkeypatch.setattr(memory, "_CGROUP_FILES", ((tmp_path / "absent", used), (limit, used)))
    limit.write_text("5000\n")
    assert memory.free_memory(torch.device("cpu")) == 4000
    limit.write_text("max\n")
    assert memory.free_memory(torch.device("cpu")) > 4000
