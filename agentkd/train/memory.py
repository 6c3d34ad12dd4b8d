"""The memory of this machine: what a training may take, what is free, what this process holds."""

from __future__ import annotations

import os
import resource
import sys

import torch

from agentkd.schema import TrainJob

__all__ = ["memory_limit_mib", "peak_mib", "resident_mib"]

_MIB = 2**20
_SHARE_OF_FREE = 0.8


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


def available_mib() -> float:
    """Return the memory that new work may take, a container's limit considered."""
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _MIB
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            pages = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        pass  # no Linux
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as top:
            limit = int(top.read())
        with open("/sys/fs/cgroup/memory.current", encoding="ascii") as now:
            return min(pages, (limit - int(now.read())) / _MIB)
    except (OSError, ValueError):
        return pages


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
        with open("/proc/self/status", encoding="ascii") as lines:
            return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration, ValueError):  # no Linux
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
