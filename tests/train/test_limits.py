"""What this machine gives to a training: how it is found, and what happens where it changes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from agentkd.schema import TrainJob
from agentkd.train.distributed import World
from agentkd.train.plan import keep_plan, lesson_of
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
    assert (shared.processes, shared.pack_tokens) == (2, 256)
    assert (work / "step-000003").is_dir()
