"""The memory of this machine: what a training may take, what is free, what this process holds."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

from agentkd.schema import TrainJob

__all__ = ["available_mib", "memory_limit_mib", "peak_mib", "resident_mib"]

_MIB = 2**20
_SHARE_OF_FREE = 0.8
_CGROUPS = (
    ("sys/fs/cgroup/memory.max", "memory.current", "inactive_file"),
    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of version 2 and 1: the limit, beside it what is used, and the name in `memory.stat` of idle file cache."""


def memory_limit_mib(job: TrainJob, device: str, processes: int = 1) -> float:
    """Return what `[train] max_memory` comes to for each of the processes.

    Processes on a CPU share its memory; on CUDA each has a GPU of its own. Those that torchrun has started
    hold their imports already, those that a plan reckons with take them out of what is free.
    """
    wanted, is_cuda = job.settings.max_memory, device.startswith("cuda")
    if wanted != "auto":
        return wanted * 1024 / (1 if is_cuda else processes)
    if is_cuda:
        return torch.cuda.mem_get_info()[0] / _MIB * _SHARE_OF_FREE
    n_started = int(os.environ.get("WORLD_SIZE", "1"))
    return (n_started * resident_mib() + available_mib() * _SHARE_OF_FREE) / processes


def available_mib(root: Path = Path("/")) -> float:
    """Return the memory that new work may take, a container's limit (cgroup 2 or 1) considered.

    The cache of files that a container gives back when it needs to counts as free, as it does outside of one.
    `root` is the folder of the system's `proc` and `sys`.
    """
    try:
        pages = _figure(root / "proc/meminfo", "MemAvailable:") / 1024
    except (OSError, ValueError):  # no Linux
        pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _MIB
    found = [pages]
    for limit, used, cache in _CGROUPS:
        folder = (root / limit).parent
        with suppress(OSError, ValueError):  # another version, or without a limit
            left = int((root / limit).read_text("ascii")) - int((folder / used).read_text("ascii"))
            found.append((left + _cache(folder / "memory.stat", cache)) / _MIB)
    return min(found)


def _cache(file: Path, name: str) -> int:
    try:
        return _figure(file, name)
    except (OSError, ValueError):
        return 0


def _figure(file: Path, name: str) -> int:
    """Return the first number after a name at the begin of a line; raises OSError or ValueError without."""
    for line in file.read_text("ascii").splitlines():
        words = line.split()
        if words and words[0] == name:
            return int(words[1])
    raise ValueError(f"`{file}` has no `{name}`")


def resident_mib() -> float:
    """Return what this process holds now."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / _MIB
    except OSError:  # no Linux
        return peak_mib("cpu")


def peak_mib(device: str) -> float:
    """Return the most memory that this process held: of the GPU where it trains on one, else resident."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / _MIB
    try:
        return _figure(Path("/proc/self/status"), "VmHWM:") / 1024
    except (OSError, ValueError):  # no Linux
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
