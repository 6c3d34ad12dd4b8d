"""Settings of all tests: hypothesis' deadline is wall-clock time, which says nothing on a shared machine."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from agentkd.train import trainer

from .seats import Seats

settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


@pytest.fixture(scope="session")
def built_once(
    tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Callable[[str, Callable[[Path], object]], Path]:
    """Return a function that fills a folder with what many tests read; all workers of a run share it.

    Who opens what is in it copies it before: two workers never work in one workspace.
    """
    root = tmp_path_factory.getbasetemp()
    root = root if worker_id == "master" else root.parent

    def built(name: str, build: Callable[[Path], object]) -> Path:
        folder, done = root / "once" / name, root / "once" / f"{name}.done"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(folder.with_name(f"{name}.lock")):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # what a failed try left
                folder.mkdir()
                build(folder)
                done.touch()
        return folder

    return built


@pytest.fixture(scope="session", autouse=True)
def _seats() -> Iterator[None]:
    """Let trainings be forked from a process that has imported torch, where a process can be forked."""
    if not sys.platform.startswith("linux"):
        yield
        return
    seats = Seats(trainer.LoraTrainer()._environment())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "subprocess", seats)
        yield
    seats.close()


@pytest.fixture
def files_of_at_most() -> Callable[[int], AbstractContextManager[None]]:
    """Return a context in which no file of this process grows beyond so many bytes: its disk refuses."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture
def new_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a training begin in a new Python, as outside the tests."""
    monkeypatch.setattr(trainer, "subprocess", subprocess)
