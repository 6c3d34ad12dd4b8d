"""The ledger: one object that holds the repositories of all facts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa

from agentkd.errors import AgentkdError
from agentkd.ledger import tables as t
from agentkd.ledger.calibration import Calibrations
from agentkd.ledger.call import Calls
from agentkd.ledger.checkpoint import Checkpoints
from agentkd.ledger.copy import copy_database
from agentkd.ledger.correction import Corrections
from agentkd.ledger.cycle import Cycles
from agentkd.ledger.database import Database
from agentkd.ledger.dataset import Datasets
from agentkd.ledger.evaluation import Evaluations
from agentkd.ledger.integrity import check_all, look_at
from agentkd.ledger.item import Items
from agentkd.ledger.lease import Leases
from agentkd.ledger.lineage import Lineage
from agentkd.ledger.memory import Memories
from agentkd.ledger.migration import prepare
from agentkd.ledger.outline import Outlines
from agentkd.ledger.recall import Trials
from agentkd.ledger.redact import Redact, redact_secrets
from agentkd.ledger.seal import Seals
from agentkd.ledger.taint import Revocations
from agentkd.ledger.teaching import Teaching
from agentkd.ledger.trajectory import Trajectories

__all__ = ["Ledger"]

_FACTS = {
    "trajectories": t.trajectories,
    "steps": t.steps,
    "corrections": t.corrections,
    "memories": t.memories,
    "memory_events": t.memory_events,
    "store_items": t.store_items,
    "recalls": t.recalls,
    "datasets": t.datasets,
    "dataset_rows": t.dataset_rows,
    "checkpoints": t.checkpoints,
    "promotions": t.serving,
    "evaluations": t.evaluations,
    "student_reports": t.student_reports,
    "cycles": t.cycles,
    "phases": t.phases,
}


_TIMES: dict[str, tuple[sa.FromClause, sa.Column[datetime]]] = {
    "steps": (t.steps.join(t.trajectories), t.trajectories.c.created_at),
    "recalls": (t.recalls.join(t.trajectories), t.trajectories.c.created_at),
    "dataset_rows": (t.dataset_rows.join(t.datasets), t.datasets.c.created_at),
    "memory_events": (t.memory_events, t.memory_events.c.happened_at),
    "promotions": (t.serving, t.serving.c.happened_at),
    "phases": (t.phases, t.phases.c.started_at),
}
"""Where the time of a fact stands that has none under the name `created_at`."""


def _count(name: str, table: sa.Table, at: datetime | None) -> sa.Select[Any]:
    if at is None:
        return sa.select(sa.func.count()).select_from(table)
    if name == "memories":  # an imported memory is older than its coming
        e = t.memory_events.c
        first = sa.select(e.memory_id).group_by(e.memory_id).having(sa.func.min(e.happened_at) <= at)
        return sa.select(sa.func.count()).select_from(first.subquery())
    joined, time = _TIMES.get(name, (table, None))
    time = table.c.created_at if time is None else time
    return sa.select(sa.func.count()).select_from(joined).where(time <= at)


class Ledger:
    """The system of record: every fact is one transaction and idempotent by its id."""

    def __init__(self, database: Database, redact: Redact = redact_secrets) -> None:
        self._database = database
        self.trajectories = Trajectories(database, redact)
        self.corrections = Corrections(database, redact)
        self.outlines = Outlines(database)
        self.memories = Memories(database, redact, self.outlines.written)
        self.trials = Trials(database)
        self.items = Items(database, self.memories, redact)
        self.calibrations = Calibrations(database)
        self.datasets = Datasets(database)
        self.checkpoints = Checkpoints(database, redact)
        self.evaluations = Evaluations(database)
        self.teaching = Teaching(database, self.trajectories, redact)
        self.cycles = Cycles(database, redact)
        self.calls = Calls(database, redact)
        self.leases = Leases(database)
        self.seals = Seals(database)
        self.lineage = Lineage(database)
        self.revocations = Revocations(database, redact)

    @classmethod
    def open(
        cls, url_or_path: str | Path, *, read_only: bool = False, redact: Redact = redact_secrets
    ) -> Ledger:
        """Open a ledger, created when missing and migrated when older.

        A path is an SQLite file, `sqlite://` one in memory, `postgresql://user@host/database` a server.
        `redact` takes secrets out of text before it is stored. Raises StoreError for a damaged, foreign
        or newer file, NotFoundError for a missing one when `read_only`.
        """
        database = Database.open(url_or_path, read_only=read_only)
        try:
            look_at(database)
            prepare(database)
        except AgentkdError:
            database.close()
            raise
        return cls(database, redact)

    @property
    def where(self) -> str:
        """Path or URL (without its password) of the database."""
        return self._database.where

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Group several facts into one transaction of this thread: all are stored, or none."""
        with self._database.write():
            yield

    def counts(self, at: datetime | None = None) -> dict[str, int]:
        """Return the number of facts by kind, now or at an earlier time.

        Model calls are left out: a call that a killed process repeats costs again and is booked again.
        """
        with self._database.read() as connection:
            return {
                name: connection.execute(_count(name, table, at)).scalar_one()
                for name, table in _FACTS.items()
            }

    def check(self) -> None:
        """Read all of it; raises StoreError where it is damaged or contradicts itself."""
        check_all(self._database)

    def copy_to(self, path: Path) -> datetime:
        """Copy the ledger of one moment into a new SQLite file while others write; returns the moment.

        The copy is one file, on disk. Raises StoreError for a ledger on a server.
        """
        return copy_database(self._database, path)

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
