"""Cycles and their phases: what is running, what is done, and what a repeated command may skip."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import sqlalchemy as sa

from agentkd.errors import NotFoundError
from agentkd.ledger import tables as t
from agentkd.ledger.body import dump, load
from agentkd.ledger.database import Database, insert_once, upsert
from agentkd.ledger.redact import Redact
from agentkd.schema import CycleReport, PhaseReport

__all__ = ["Cycles"]

Found = list[CycleReport]  # inside the class, `list` is the method


class Cycles:
    """The journal of cycles. A phase outside a cycle has the empty cycle id."""

    def __init__(self, database: Database, redact: Redact) -> None:
        self._database = database
        self._redact = redact

    def next_number(self) -> int:
        """Return the number that the next cycle gets, from 1."""
        with self._database.read() as connection:
            return (connection.execute(sa.select(sa.func.max(t.cycles.c.number))).scalar_one() or 0) + 1

    def begin_cycle(self, report: CycleReport) -> bool:
        """Open a cycle; False when its id is there, so that a killed cycle goes on under its number."""
        with self._database.write() as connection:
            return insert_once(connection, t.cycles, _row(report, "running"))

    def finish_cycle(self, report: CycleReport, status: Literal["done", "failed"] = "done") -> None:
        """Store the report of a cycle that ended; a failed one is not gone on with."""
        with self._database.write() as connection:
            upsert(connection, t.cycles, _row(report, status))

    def unfinished(self) -> CycleReport | None:
        """Return the newest cycle that was begun and not finished, to be gone on with."""
        found = self._where(t.cycles.c.status == "running")
        return found[-1] if found else None

    def get(self, cycle_id: str) -> CycleReport:
        """Return a cycle's report, a running one as it was begun; raises NotFoundError."""
        found = self._where(t.cycles.c.id == cycle_id)
        if not found:
            raise NotFoundError(f"there is no cycle `{cycle_id}`", hint="`agentkd report` shows the newest")
        return found[0]

    def list(self, status: Literal["running", "done", "failed"] | None = None) -> Found:
        """Return the reports by number."""
        return self._where(*([t.cycles.c.status == status] if status is not None else []))

    def phase_start(self, key: str, name: str, cycle: str = "") -> PhaseReport | None:
        """Note that a phase runs; return its report instead where this cycle has done it already."""
        report = PhaseReport(name=name, key=key)
        with self._database.write() as connection:
            done = _phase(connection, report, cycle)
            if done is not None and done.status == "done":
                return done
            if done is not None:
                earlier = done.earlier_seconds + done.seconds
                report = report.model_copy(update={"earlier_seconds": earlier})
            upsert(connection, t.phases, _phase_row(report, cycle))
        return None

    def phase_done(self, report: PhaseReport, cycle: str = "") -> None:
        """Store how a phase ended; the report of a phase that is done stays as it is."""
        # a failed phase quotes its error, and a provider's error may quote the key
        report = report.model_copy(update={"summary": self._redact(report.summary)})
        with self._database.write() as connection:
            before = _phase(connection, report, cycle)
            if before is not None and before.status == "done":
                return
            if before is not None:
                report = report.model_copy(update={"earlier_seconds": before.earlier_seconds})
            upsert(connection, t.phases, _phase_row(report, cycle))

    def find_phase(self, key: str, name: str | None = None) -> PhaseReport | None:
        """Return the newest report of a phase that is done under this key, in any cycle."""
        c = t.phases.c
        where = [c.key == key, c.status == "done", *([c.name == name] if name is not None else [])]
        query = sa.select(c.body).where(*where).order_by(c.started_at.desc()).limit(1)
        with self._database.read() as connection:
            body = connection.execute(query).scalar_one_or_none()
        return None if body is None else load(PhaseReport, body)

    def newest_phase(self, name: str, suite: str | None = None) -> PhaseReport | None:
        """Return the report of the phase of this name that was done last, in any cycle, or any of a suite."""
        c = t.phases.c
        where = [c.name == name, c.status == "done"]
        if suite is not None:
            where.append(c.cycle_id.in_(sa.select(t.cycles.c.id).where(t.cycles.c.suite == suite)))
        query = sa.select(c.body).where(*where).order_by(c.started_at.desc()).limit(1)
        with self._database.read() as connection:
            body = connection.execute(query).scalar_one_or_none()
        return None if body is None else load(PhaseReport, body)

    def all_done(self, name: str) -> tuple[PhaseReport, ...]:
        """Return the reports of all phases of this name that are done, in any cycle, the newest first."""
        c = t.phases.c
        where = (c.name == name, c.status == "done")
        query = sa.select(c.body).where(*where).order_by(c.started_at.desc(), c.key)
        with self._database.read() as connection:
            return tuple(load(PhaseReport, body) for body in connection.execute(query).scalars())

    def phases_since(self, since: datetime) -> tuple[PhaseReport, ...]:
        """Return the phases of all cycles that began at or after a time, oldest first."""
        c = t.phases.c
        query = sa.select(c.body).where(c.started_at >= since).order_by(c.started_at, c.name, c.key)
        with self._database.read() as connection:
            return tuple(load(PhaseReport, body) for body in connection.execute(query).scalars())

    def phases(self, cycle: str = "") -> tuple[PhaseReport, ...]:
        """Return the phases of a cycle in the order in which they began."""
        c = t.phases.c
        query = sa.select(c.body).where(c.cycle_id == cycle).order_by(c.started_at, c.name, c.key)
        with self._database.read() as connection:
            return tuple(load(PhaseReport, body) for body in connection.execute(query).scalars())

    def _where(self, *conditions: sa.ColumnElement[bool]) -> Found:
        query = sa.select(t.cycles.c.body).where(*conditions).order_by(t.cycles.c.number)
        with self._database.read() as connection:
            return [load(CycleReport, body) for body in connection.execute(query).scalars()]


def _row(report: CycleReport, status: str) -> dict[str, object]:
    return {
        "id": report.id,
        "number": report.number,
        "suite": report.suite,
        "status": status,
        "created_at": report.created_at,
        "body": dump(report),
    }


def _phase_row(report: PhaseReport, cycle: str) -> dict[str, object]:
    return {
        "cycle_id": cycle,
        "name": report.name,
        "key": report.key,
        "status": report.status,
        "started_at": report.started_at,
        "body": dump(report),
    }


def _phase(connection: sa.Connection, report: PhaseReport, cycle: str) -> PhaseReport | None:
    c = t.phases.c
    where = (c.cycle_id == cycle, c.name == report.name, c.key == report.key)
    body = connection.execute(sa.select(c.body).where(*where)).scalar_one_or_none()
    return None if body is None else load(PhaseReport, body)
