"""kill -9 during run, train and evaluate: the same command again ends as if nothing had happened."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

import agentkd
from agentkd.ledger import Ledger
from agentkd.train import trainer

N_TRAIN, LIMIT_SECONDS = 28, 120
Moment = Callable[[Path], bool]


def start(folder: Path) -> subprocess.Popen[str]:
    """Start a cycle, in a seat where there is one; its training is a new Python and its child."""
    return trainer.subprocess.Popen(
        [sys.executable, "-m", "agentkd.cli", "-q", "-C", str(folder), "cycle"],
        env={**trainer.LoraTrainer()._environment(), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def wait_until(is_time: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Wait for a state of the files; fails where the process ends first or the state never comes."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not is_time():
        assert time.monotonic() < deadline, "the moment did not come"
        assert process is None or process.poll() is None, "the cycle ended before its moment"
        time.sleep(0.01)


def kill_when(folder: Path, is_time: Moment) -> None:
    """Start a cycle, kill -9 its main process at a moment."""
    process = start(folder)
    try:
        wait_until(lambda: is_time(folder), process)
    finally:
        process.kill()
        process.wait()


def phase_at_work(folder: Path) -> str:
    with Ledger.open(folder / "ledger.db", read_only=True) as ledger:
        cycle = ledger.cycles.unfinished()
        assert cycle is not None
        return next(p.name for p in ledger.cycles.phases(cycle.id) if p.status == "running")


def has_run(n: int) -> Moment:
    """Whether `n` trajectories are in the ledger, asked from outside."""

    def is_time(folder: Path) -> bool:
        with suppress(sqlite3.Error):  # it is not there yet
            with closing(sqlite3.connect(f"file:{folder / 'ledger.db'}?mode=ro", uri=True)) as ledger:
                return bool(ledger.execute("select count(*) from trajectories").fetchone()[0] >= n)
        return False

    return is_time


def is_training(folder: Path) -> bool:
    return any(folder.glob("checkpoints/*.partial/step-??????"))


def facts(folder: Path) -> tuple[str, str, dict[str, int]]:
    with agentkd.Workspace(folder) as workspace:
        return workspace.datasets()[0].id, workspace.report().checkpoint, workspace.ledger.counts()


@pytest.mark.timeout(400)
def test_a_killed_cycle_ends_like_an_undisturbed_one(
    calm: Path, new_workspace: Callable[[str], Path]
) -> None:
    killed = new_workspace("killed")
    kill_when(killed, has_run(5))
    assert phase_at_work(killed) == "run"
    kill_when(killed, is_training)
    assert phase_at_work(killed) == "train"
    # The trainer has outlived its parent; the next command meets it, and waits for its lock.
    kill_when(killed, has_run(N_TRAIN + 6))
    assert phase_at_work(killed) == "evaluate"
    assert not list(killed.glob("checkpoints/*.lock"))
    assert start(killed).wait(timeout=LIMIT_SECONDS) == 0
    assert facts(killed) == facts(calm)
    assert not list(killed.glob("**/*.partial"))
