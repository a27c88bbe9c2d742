"""Memory: how much of it tensors take, and how much is still free."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch


_CGROUP_FILES = (  # memory limit and usage of a container, versions 2 and 1
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)


def bytes_by_device(tensors: Sequence[torch.Tensor]) -> dict[torch.device, int]:
    """Bytes that tensors take on each device where one of them is."""
    sizes: dict[torch.device, int] = {}
    for tensor in tensors:
        sizes[tensor.device] = sizes.get(tensor.device, 0) + tensor.nbytes
    return sizes


def free_memory(device: torch.device) -> int:
    """
    Bytes that can still be allocated on a device, 0 if that is unknown.

    Args:
        device (`torch.device`):
            Device; all but CUDA devices count as the host.

    Returns:
        `int`: Free bytes. On CUDA those that the allocator has cached are included.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return min(_free_in_system(), _free_in_container())


def _free_in_system() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not on this operating system
        return 0


def _free_in_container() -> float:
    """Limit of the control group less what is used of it; infinite without one."""
    for limit_file, used_file in _CGROUP_FILES:
        if limit_file.exists() and used_file.exists():
            limit = limit_file.read_text().strip()
            if limit != "max":
                return max(0, int(limit) - int(used_file.read_text()))
    return math.inf
