"""The journal of a cycle: a phase whose key is already done is not done again.

A key hashes the cycle's plan, the phase's inputs and the settings it reads. The plan is frozen when
the cycle begins, so a killed cycle, started again, meets the same keys: what is done is not done again,
and a changed setting costs only the phases that read it and those after them.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from typing import Any

from agentkd import hookspecs
from agentkd.cycle.evaluation import memory_snapshot
from agentkd.cycle.parts import Parts
from agentkd.cycle.stage import StageResult
from agentkd.errors import CeilingError
from agentkd.ledger.call import CYCLE
from agentkd.schema import CycleReport, PhaseReport, Value, content_id, now

__all__ = ["Plan", "journalled", "open_plan", "plan_phase"]


class Plan(Value):
    """What a cycle set out to do: frozen at its beginning."""

    number: int
    """Number of the cycle, from 1."""
    suite: str
    """Suite; empty for a cycle over what is in the ledger."""
    split: str
    """Split to learn from."""
    n: int | None = None
    """Tasks; None takes all."""
    seed: int = 0
    """Seed."""
    serving: str = "base"
    """What served when the cycle began."""
    base_id: str = ""
    """Fingerprint of the student's base model."""
    memories: str = ""
    """Hash of the memories that recall could see."""
    revoked: str = ""
    """Hash of all that was revoked; empty where nothing was."""
    recompile: bool = False
    """Whether it goes straight to `compile`, from what is clean."""
    switches: int = 0
    """Promotions and roll-backs before it began; only the phase `promote` looks at them."""
    day: str = ""
    """Date of its beginning (UTC); only the phase `refine` looks at it, for memories grow old."""

    @property
    def cycle_id(self) -> str:
        """`cycle-N`."""
        return f"{CYCLE}{self.number}"

    @property
    def key(self) -> str:
        """Content hash of what was planned; number, switches and day are left out."""
        return content_id("pln", self.model_dump(exclude={"number", "switches", "day"}))

    def key_of(self, phase: str, inputs: Any) -> str:
        """Return the key of a phase."""
        return content_id("pha", phase, self.key, inputs)

    def is_work_of(self, call: Plan) -> bool:
        """Whether it set out to learn what a call asks for; what happened in between does not count.

        One that recompiles does for a call that does not ask for it too: what a schedule calls never asks.
        """
        mine, asked = self.model_dump(), call.model_dump()
        names = ("suite", "split", "n", "seed", "base_id", "revoked")
        return all(mine[name] == asked[name] for name in names) and self.recompile >= call.recompile


def plan_phase(parts: Parts, cycle_id: str) -> PhaseReport | None:
    """Return the phase in which a cycle froze its plan; None where it came to none."""
    return next((each for each in parts.ledger.cycles.phases(cycle_id) if each.name == "plan"), None)


def open_plan(parts: Parts, *, recompile: bool = False) -> Plan:
    """Return the plan of the cycle that was cut off if it set out for the same, else freeze a new one.

    A cycle that recompiles is gone on with whether or not `recompile` is asked for again.
    """
    cycles = parts.ledger.cycles
    fresh = _make_plan(parts, cycles.next_number(), recompile)
    unfinished = cycles.unfinished()
    if unfinished is not None:
        planned = plan_phase(parts, unfinished.id)
        plan = Plan.model_validate(planned.output) if planned else None
        if plan is not None and plan.is_work_of(fresh):
            parts.progress.say(f"going on with {plan.cycle_id}")
            return plan
        parts.progress.say(f"{unfinished.id} was cut off under other settings: it is not gone on with")
        cycles.finish_cycle(unfinished, "failed")
    plan = fresh
    report = PhaseReport(name="plan", key=plan.key, status="done", output=plan.model_dump(mode="json"))
    with parts.ledger.transaction():
        cycles.begin_cycle(
            CycleReport(id=plan.cycle_id, number=plan.number, suite=plan.suite, seed=plan.seed)
        )
        cycles.phase_done(report, plan.cycle_id)
    return plan


def _make_plan(parts: Parts, number: int, recompile: bool) -> Plan:
    cycle = parts.settings.cycle
    serving = parts.serving()
    return Plan(
        number=number,
        suite=cycle.suite,
        split=cycle.split,
        n=cycle.n,
        seed=cycle.seed,
        serving=serving.name if serving else "base",
        base_id=parts.student_files.base_id,
        memories=memory_snapshot(parts, serving.name if serving else "base"),
        revoked=parts.ledger.revocations.mark(),
        recompile=recompile,
        switches=len(parts.ledger.checkpoints.history()),
        day=f"{now():%Y-%m-%d}",
    )


def journalled(
    parts: Parts, plan: Plan, name: str, inputs: Any, body: Callable[[str], StageResult]
) -> PhaseReport:
    """Do a phase once: `body(key)` runs unless the ledger holds a finished phase with the same key."""
    key = plan.key_of(name, inputs)
    found = parts.ledger.cycles.find_phase(key)
    if found is not None and found.status == "done":
        parts.progress.say(f"{name}: already done ({found.summary})")
        return found
    parts.ceiling.check()
    parts.progress.say(f"{name} ...")
    report = PhaseReport(name=name, key=key)
    parts.ledger.cycles.phase_start(key, name, plan.cycle_id)
    wall, cpu = time.perf_counter(), _cpu_seconds()
    try:
        result = body(key)
    except BaseException as error:
        is_stopped = isinstance(error, CeilingError)
        failed = {
            "status": "stopped" if is_stopped else "failed",
            "summary": str(error) if is_stopped else f"{type(error).__name__}: {error}",
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": _cpu_seconds() - cpu,
        }
        parts.ledger.cycles.phase_done(report.model_copy(update=failed), plan.cycle_id)
        raise
    report = report.model_copy(
        update={
            "status": "done",
            "summary": result.summary,
            "output": result.output,
            "usage": result.usage,
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": _cpu_seconds() - cpu,
        }
    )
    with parts.ledger.transaction():
        if result.settle is not None:
            result.settle()
        parts.ledger.cycles.phase_done(report, plan.cycle_id)
    parts.ceiling.done()
    parts.progress.say(f"{name}: {result.summary} [{report.seconds:.0f} s, {report.cpu_seconds:.0f} CPU-s]")
    parts.hooks.ask(hookspecs.after_phase, report=report)
    return report


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = os.times()
    return own.user + own.system + children.ru_utime + children.ru_stime
