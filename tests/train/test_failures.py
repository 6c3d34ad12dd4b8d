"""What the training process says of the failures that happen most: each names its cause and the next step."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agentkd.schema import TrainJob
from agentkd.train import loop
from agentkd.train.__main__ import main

MakeJob = Callable[..., TrainJob]
Told = Callable[[TrainJob], tuple[int, dict[str, Any]]]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Told:
    """Run a job as the process does; return its exit code and the error that it writes."""
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def run(job: TrainJob) -> tuple[int, dict[str, Any]]:
        spec = tmp_path / "spec.json"
        spec.write_text(job.model_dump_json())
        code = main([str(spec), "--events"])
        events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return code, next(event for event in events if event["event"] == "error")

    return run


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(loop, "train", fail)


@pytest.mark.parametrize("is_there", [False, True])
def test_a_base_that_is_no_model_is_named(
    make_job: MakeJob, tmp_path: Path, told: Told, is_there: bool
) -> None:
    base = tmp_path / "not a base"
    if is_there:
        base.mkdir()
    code, error = told(make_job().model_copy(update={"base": str(base)}))
    assert (code, error["kind"]) == (7, "ModelError")
    assert f"`{base}`" in error["message"]
    assert "could not write" not in error["message"]


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, MemoryError])
def test_memory_that_ran_out_names_the_settings_that_take_less(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, told: Told, kind: type[Exception]
) -> None:
    failing(monkeypatch, kind("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation"))
    code, error = told(make_job())
    assert (code, error["kind"]) == (10, "TrainError")
    assert error["message"].endswith("ran out of memory: CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert all(name in error["hint"] for name in ("`[train] max_memory`", "gradient_checkpointing"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "disk full while writing `/x`"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "[Errno 13] Permission denied: '/x'"),
    ],
)
def test_what_the_system_refuses_is_said_as_it_is(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, told: Told, error: OSError, said: str
) -> None:
    failing(monkeypatch, error)
    code, event = told(make_job())
    assert (code, event["kind"], event["message"]) == (5, "StoreError", said)
