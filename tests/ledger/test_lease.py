"""A lease lets one process at a time do a piece of work; who lost it writes nothing more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentkd.errors import LockedError
from agentkd.ledger import Ledger
from agentkd.schema import CycleReport, PhaseReport

Make = Any


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    """A ledger in a file, which others open too."""
    with Ledger.open(path) as opened:
        yield opened


WORKER = """
import sys
from agentkd.errors import LockedError
from agentkd.ledger import Ledger
from agentkd.schema import PhaseReport

ledger = Ledger.open(sys.argv[1])
try:
    with ledger.leases.held("cycle", float(sys.argv[2])) as hold:
        print("held", hold.lease.epoch, flush=True)
        sys.stdin.readline()
        ledger.cycles.phase_done(PhaseReport(name="run", key="k", status="done"), "cycle-1")
        print("wrote", flush=True)
except LockedError as error:
    print("refused", error.message, flush=True)
"""


def worker(path: Path | str, seconds: float) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(path), str(seconds)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().startswith("held")
    return process


def go_on(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate("go\n", timeout=30)
    return out.strip()


def test_a_second_owner_is_refused_by_name_and_cure(ledger: Ledger, path: Path) -> None:
    with ledger.leases.held("cycle", 60.0) as hold, Ledger.open(path) as other:
        with pytest.raises(LockedError, match=rf"held by process {os.getpid()} on .*epoch 1") as raised:
            other.leases.take("cycle", 60.0)
        assert "end it" in raised.value.hint
        assert other.leases.holder("cycle") == hold.lease
        assert other.leases.take("another", 60.0).epoch == 1
    assert ledger.leases.holder("cycle") is None
    assert ledger.leases.take("cycle", 60.0).epoch == 2


def test_a_lease_is_renewed_while_it_is_held(ledger: Ledger, path: Path) -> None:
    with ledger.leases.held("cycle", 0.4) as hold, Ledger.open(path) as other:
        time.sleep(1.0)
        with pytest.raises(LockedError):
            other.leases.take("cycle", 60.0)
        assert not hold.lost
        renewed = other.leases.get("cycle")
        assert renewed is not None
        assert renewed.expires_at > hold.lease.expires_at


def test_a_dead_process_of_this_machine_is_not_waited_for(path: Path) -> None:
    process = worker(path, 3600.0)
    with Ledger.open(path) as ledger:
        with pytest.raises(LockedError):
            ledger.leases.take("cycle", 60.0)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert ledger.leases.take("cycle", 60.0).epoch == 2


def test_a_process_that_stood_still_wakes_up_to_an_error_and_writes_nothing(path: Path) -> None:
    process = worker(path, 0.5)
    process.send_signal(signal.SIGSTOP)
    with Ledger.open(path) as ledger:
        ledger.cycles.begin_cycle(CycleReport(id="cycle-1", number=1, suite=""))
        time.sleep(0.7)
        assert ledger.leases.take("cycle", 60.0).epoch == 2
        process.send_signal(signal.SIGCONT)
        assert go_on(process).startswith("refused this process lost the lease `cycle` (epoch 1): process")
        assert ledger.cycles.phases("cycle-1") == ()
        held = ledger.leases.holder("cycle")
        assert held is not None, "it gave back nothing that is not its own"
        assert held.epoch == 2


def test_who_lost_the_lease_can_neither_journal_nor_promote_nor_retire(
    ledger: Ledger, path: Path, make: Make
) -> None:
    memory = make.whole_loop(ledger)
    report = PhaseReport(name="run", key="k", status="done")
    acts = (
        lambda: ledger.cycles.phase_start("k", "run", "cycle-1"),
        lambda: ledger.cycles.phase_done(report, "cycle-1"),
        lambda: ledger.cycles.begin_cycle(CycleReport(id="cycle-7", number=7, suite="")),
        lambda: ledger.cycles.finish_cycle(CycleReport(id="cycle-1", number=1, suite="")),
        lambda: ledger.checkpoints.promote("student@1-00000001"),
        lambda: ledger.checkpoints.rollback(),
        lambda: ledger.checkpoints.set_status("student@1-00000001", "rejected"),
        lambda: ledger.memories.set_status(memory.id, "retired", "x", checkpoint="student@1-00000001"),
        lambda: ledger.trajectories.finish(make.trajectory(77)),
    )
    with Ledger.open(path) as other, ledger.leases.held("cycle", 60.0):
        other.leases.take("cycle", 60.0, over=True)
        before, status = other.counts(), other.memories.status_for("student@1-00000001")
        for act in acts:
            with pytest.raises(LockedError, match="took it over"):
                act()
        assert other.counts() == before
        assert other.memories.status_for("student@1-00000001") == status
    assert ledger.trajectories.finish(make.trajectory(77)), "outside the cycle it writes again"


def test_of_eight_threads_one_takes_a_free_lease(path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def take(_number: int) -> int:
        with Ledger.open(path) as ledger:
            try:
                return ledger.leases.take("cycle", 60.0).epoch
            except LockedError:
                return 0

    Ledger.open(path).close()
    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(take, range(8))) == [0] * 7 + [1]
