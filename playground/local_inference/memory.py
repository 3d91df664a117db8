"""Bytes: what the device has, what this process holds, and giving memory back to the system. No torch needed on a CPU."""

from __future__ import annotations

import ctypes
import gc
import sys

import psutil


def process_bytes() -> int:
    """Resident memory of this process."""
    return int(psutil.Process().memory_info().rss)


def device_bytes(device: str) -> tuple[int, int]:
    """(total, free) bytes of ``device`` as the system reports them; the machine's own memory for cpu and mps."""
    if device.startswith("cuda"):
        import torch

        free, total = torch.cuda.mem_get_info(device)
        return int(total), int(free)
    machine = psutil.virtual_memory()
    limit = _cgroup_limit()
    if limit is None or limit >= machine.total:
        return int(machine.total), int(machine.available)
    return limit, max(0, min(int(machine.available), limit - process_bytes()))


def give_back(device: str) -> None:
    """Collect garbage and return freed memory to the system: CUDA's cache, and glibc's on Linux."""
    gc.collect()
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()
    if sys.platform.startswith("linux"):
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):
            return  # another C library (musl) has no malloc_trim; the memory stays reusable by this process


def _cgroup_limit() -> int | None:
    """The container's memory limit in bytes, or None where there is none."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path, encoding="ascii") as file:
                text = file.read().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() else None
    return None
