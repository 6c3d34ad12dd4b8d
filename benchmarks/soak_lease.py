"""Two workers fight for one workspace while its leader is killed or stopped: every cycle runs exactly once.

    python benchmarks/soak_lease.py            # 20 times
    python benchmarks/soak_lease.py --small    # 4 times

Both look again and again whether a cycle is due (it is until enough are done) and run it under the lease.
Who holds the lease is, at a random instant, killed with -9, or stopped for longer than the lease lasts and
woken up again when the other one has taken over. At the end cycles, phases, promotions and facts are those of
one undisturbed worker, and no phase was finished twice.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import forked
from measure import Row, at_least, at_most, children_cpu_seconds, publish
from soak_world import FACTS, LIMIT_SECONDS, World

import agentkd
from agentkd import Workspace
from agentkd.errors import LockedError
from agentkd.ledger import Ledger

LEASE_SECONDS = 2.0


class Due:
    """A plugin that wants cycles until enough are done, and writes down each phase that was finished."""

    def __init__(self, folder: Path, n: int) -> None:
        """Take the workspace, and how many cycles there shall be."""
        self.folder, self.n = folder, n

    @agentkd.hookimpl
    def is_compile_due(self) -> bool:
        """Whether cycles are missing; asked within a cycle, too."""
        with Ledger.open(self.folder / "ledger.db") as ledger:
            return len(ledger.cycles.list("done")) < self.n

    @agentkd.hookimpl
    def after_phase(self, report: Any) -> None:
        """Write the phase down."""
        with open(self.folder / "phases.log", "a", encoding="utf-8") as log:
            log.write(f"{report.name} {report.key} {os.getpid()}\n")


def worker(folder: Path, n: int) -> Callable[[], int]:
    """Return the work of one who runs due cycles until `n` are done."""

    def work() -> int:
        while True:
            with Workspace(folder, plugins=[Due(folder, n)]) as workspace:
                if len(workspace.ledger.cycles.list("done")) >= n:
                    return 0
                try:
                    workspace.cycle_if_due()
                except LockedError as error:
                    print(f"not now: {error.message}", flush=True)
            time.sleep(0.05)

    return work


def leader(folder: Path) -> tuple[int, int]:
    """Return process and epoch of who holds the lease; zeros where nobody does."""
    with suppress(Exception), Ledger.open(folder / "ledger.db", read_only=True) as ledger:
        held = ledger.leases.holder("cycle")
        found = re.match(r"process (\d+) ", held.owner) if held else None
        if held and found:
            return int(found[1]), held.epoch
    return 0, 0


class Fight:
    """Two workers on one folder, each started again when it is gone."""

    def __init__(self, world: World, folder: Path, n_cycles: int, seed: int) -> None:
        """Start both."""
        self.world, self.folder, self.n_cycles = world, folder, n_cycles
        self.dice = random.Random(seed)
        self.workers = [self._start(0), self._start(1)]
        self.n_started = 2
        self.stopped: dict[int, tuple[float, int]] = {}
        self.epochs: list[int] = []

    def _start(self, number: int) -> forked.Forked:
        log = self.world.folder / f"{self.folder.name}-{number}.log"
        return forked.start(worker(self.folder, self.n_cycles), log)

    def disturb(self, n: int) -> dict[str, int]:
        """Kill or stop the leader `n` times; return how often each was done."""
        done: Counter[str] = Counter()
        deadline = time.monotonic() + LIMIT_SECONDS * 4
        while sum(done.values()) < n and time.monotonic() < deadline:
            time.sleep(self.dice.uniform(0.05, 0.5) * self.world.seconds)
            self._tend()
            if all(each.code == 0 for each in self.workers):
                break
            process, epoch = leader(self.folder)
            if not process or process in self.stopped or epoch in self.epochs[-1:]:
                continue
            self.epochs.append(epoch)
            how = ("kill", "stop")[sum(done.values()) % 2]
            with suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL if how == "kill" else signal.SIGSTOP)
                done[how] += 1
                if how == "stop":
                    self.stopped[process] = (time.monotonic(), epoch)
        return dict(done)

    def finish(self) -> None:
        """Let both come to their end."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while any(each.poll() is None for each in self.workers) or self.stopped:
            if time.monotonic() > deadline:
                raise SystemExit("the workers do not come to an end")
            self._tend()
            time.sleep(0.05)

    def _tend(self) -> None:
        """Wake up who was stopped, once another has taken over; start again who is gone."""
        for process, (since, epoch) in list(self.stopped.items()):
            took_over = leader(self.folder)[1] > epoch
            if took_over or time.monotonic() - since > 4 * LEASE_SECONDS:
                with suppress(ProcessLookupError):
                    os.killpg(process, signal.SIGCONT)
                del self.stopped[process]
        for number, each in enumerate(self.workers):
            code = each.poll()
            if code == -signal.SIGKILL:
                self.workers[number] = self._start(number)
                self.n_started += 1
            elif code:
                raise SystemExit(f"a worker ended with {code}:\n{each.said()}")


def doubled(folder: Path) -> list[str]:
    """Return the phases that more than one process finished."""
    lines = {tuple(line.split()) for line in (folder / "phases.log").read_text(encoding="utf-8").splitlines()}
    times = Counter((name, key) for name, key, _ in lines)
    return sorted(f"{name} {key}" for (name, key), n in times.items() if n > 1)


def main() -> int:
    """Soak and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="4 times instead of 20")
    parser.add_argument("--seed", type=int, default=0, help="seed of the instants")
    options = parser.parse_args()
    n, n_cycles, name = (4, 2, "lease-small") if options.small else (20, 6, "lease")
    world = World(name, index="exact", lease_seconds=LEASE_SECONDS)
    calm = world.workspace("calm-worker")
    forked.start(worker(calm, n_cycles), world.log(calm)).wait(LIMIT_SECONDS)
    expected = world.facts(calm)
    folder = world.workspace("fought")
    fight = Fight(world, folder, n_cycles, options.seed)
    done = fight.disturb(n)
    fight.finish()
    found = world.facts(folder)
    differs = [key for key in FACTS if found[key] != expected[key]]
    for key in differs:
        print(f"  {key}: {found[key]} instead of {expected[key]}")
    twice = doubled(folder)
    rows = [
        at_least("disturbed leaders", sum(done.values()), n),
        *(Row(f"leaders: {how}", times) for how, times in sorted(done.items())),
        at_least("cycles done", len(found["cycles"]), n_cycles),
        at_most("cycles beyond those that were due", len(found["cycles"]) - n_cycles, 0),
        at_most("phases that were finished twice", len(twice), 0),
        at_most("facts that differ from those of one undisturbed worker", len(differs), 0),
        Row("workers started", fight.n_started),
        Row("CPU seconds of this run", children_cpu_seconds()),
    ]
    facts = {"seeds": {"instants": options.seed}, "model": "tiny", "reference": expected, "doubled": twice}
    return publish(name, rows, {**facts, "epochs": fight.epochs, "differs": differs})


if __name__ == "__main__":
    sys.exit(main())
