"""kill -9 during run, train and evaluate: the same command again ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import agentkd

COMMAND = [sys.executable, "-m", "agentkd.cli", "-C"]


def start(folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*COMMAND, str(folder), "cycle"], env=environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def kill_when(folder: Path, is_time: Callable[[Path], bool]) -> bool:
    """Start a cycle and kill its whole process group when the moment has come; False if it ended before."""
    process = start(folder)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if is_time(folder):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.02)
    process.kill()
    process.wait()
    return False


def n_runs(folder: Path) -> int:
    """Count finished trajectories from outside, read-only."""
    import sqlite3

    try:
        with sqlite3.connect(f"file:{folder / 'ledger.db'}?mode=ro", uri=True, timeout=1) as db:
            return int(db.execute("select count(*) from trajectories where is_finished").fetchone()[0])
    except sqlite3.Error:
        return 0


def facts(folder: Path) -> tuple[str, str, dict[str, int]]:
    with agentkd.Workspace(folder) as workspace:
        report = workspace.report()
        return workspace.datasets()[0].id, report.checkpoint, workspace.ledger.counts()


@pytest.mark.timeout(280)
def test_a_killed_cycle_ends_like_an_undisturbed_one(new_workspace: Callable[[str], Path]) -> None:
    calm = new_workspace("calm")
    assert start(calm).wait(timeout=150) == 0
    killed = new_workspace("killed")
    moments: dict[str, Callable[[Path], bool]] = {
        "run": lambda f: n_runs(f) >= 5,
        "train": lambda f: bool(list(f.glob("checkpoints/*.partial/step-*"))),
        "evaluate": lambda f: n_runs(f) >= 28 + 6,
    }
    for moment, is_time in moments.items():
        assert kill_when(killed, is_time), f"the cycle ended before it could be killed in {moment}"
    assert start(killed).wait(timeout=150) == 0
    assert facts(killed) == facts(calm)
    assert not list(killed.glob("**/*.partial"))
