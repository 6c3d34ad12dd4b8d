"""What this machine gives to a training: how it is found, and what happens where it changes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from agentkd.errors import ConfigError
from agentkd.schema import TrainJob
from agentkd.train.distributed import World, open_world
from agentkd.train.memory import available_mib
from agentkd.train.plan import keep_plan, lesson_of, plan
from agentkd.train.reporter import Reporter
from agentkd.train.rows import load_dataset

MakeJob = Callable[..., TrainJob]


def quiet() -> Reporter:
    return Reporter(is_machine=True, out=io.StringIO())


def test_another_number_of_processes_or_threads_makes_a_new_plan_and_keeps_the_saves(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job, work = make_job(tokens_per_step=512), tmp_path / "work"
    lesson = lesson_of(job, load_dataset(job.dataset, job.settings.max_tokens_per_row), quiet())
    monkeypatch.setattr(World, "wait", lambda self: None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    first = keep_plan(job, lesson, work, World())
    (work / "step-000003").mkdir()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert keep_plan(job, lesson, work, World()) == first, "nobody asked for other threads"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert keep_plan(job, lesson, work, World()).threads == 3
    shared = keep_plan(job, lesson, work, World(rank=0, size=2))
    assert (shared.processes, shared.pack_tokens) == (2, first.pack_tokens)
    assert (work / "step-000003").is_dir()


CGROUP_2 = ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
CGROUP_1 = (
    "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file",
)  # fmt: skip
MIB = 2**20


def machine(root: Path, cgroup: tuple[str, str, str, str], limit: str) -> Path:
    """Write what a machine with 8000 MiB free and a container of 700 MiB, 300 of them cache, says."""
    folder, limit_file, used_file, cache = cgroup
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(f"MemTotal: {9000 * 1024} kB\nMemAvailable:   {8000 * 1024} kB\n")
    (root / folder).mkdir(parents=True)
    (root / folder / limit_file).write_text(f"{limit}\n")
    (root / folder / used_file).write_text(f"{700 * MIB}\n")
    (root / folder / "memory.stat").write_text(f"anon {400 * MIB}\n{cache} {300 * MIB}\n")
    return root


@pytest.mark.parametrize("cgroup", [CGROUP_2, CGROUP_1])
def test_the_cache_of_a_container_counts_as_free(tmp_path: Path, cgroup: tuple[str, str, str, str]) -> None:
    root = machine(tmp_path, cgroup, str(1000 * MIB))
    assert available_mib(root) == 1000 - 700 + 300
    (root / cgroup[0] / "memory.stat").unlink()
    assert available_mib(root) == 1000 - 700


@pytest.mark.parametrize(("cgroup", "limit"), [(CGROUP_2, "max"), (CGROUP_1, str(2**63 - 4096))])
def test_a_container_without_a_limit_takes_what_the_machine_has(
    tmp_path: Path, cgroup: tuple[str, str, str, str], limit: str
) -> None:
    assert available_mib(machine(tmp_path, cgroup, limit)) == 8000


def test_a_gpu_with_a_number_is_the_one_that_is_measured(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Free memory, the peak and random numbers are asked of the current GPU."""
    taken: list[str] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for device in ("cuda:1", "cuda", "cpu", "auto"):
        with open_world(device):
            pass
    assert taken == ["cuda:1"]

    def measure(job: TrainJob, device: str, processes: int = 1) -> float:
        assert taken == ["cuda:1", device]
        raise StopIteration

    monkeypatch.setattr("agentkd.train.planner.memory_limit_mib", measure)
    with pytest.raises(StopIteration):
        plan(make_job(device="cuda:1"), quiet())


def test_a_gpu_that_is_not_there_is_named(make_job: MakeJob) -> None:
    with pytest.raises(ConfigError, match=r'`\[train\] device = "cuda:99"` is no GPU of this machine'):
        plan(make_job(device="cuda:99"), quiet())
