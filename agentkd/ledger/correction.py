"""Corrections: language feedback on trajectories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from agentkd.errors import NotFoundError
from agentkd.ledger import tables as t
from agentkd.ledger.body import dump, load
from agentkd.ledger.database import Database, chunks, insert_once, known
from agentkd.ledger.redact import Redact, redact_json
from agentkd.schema import RETRY_STRIDE, Correction, CorrectionRound, is_held_out

__all__ = ["Corrections"]

Found = list[Correction]  # inside the class, `list` is the method
Rounds = list[CorrectionRound]
Rows = list[Any]  # run_id, suite, split, task_id, attempt, created_at


class Corrections:
    """What people, graders, judges and tools said about trajectories."""

    def __init__(self, database: Database, redact: Redact) -> None:
        self._database = database
        self._redact = redact

    def add(self, correction: Correction) -> bool:
        """Store a correction; False when its id is there. Raises NotFoundError without its trajectory."""
        data, _ = redact_json(
            correction.model_dump(mode="json"), self._redact, keep=(("id",), ("trajectory_id",))
        )
        with self._database.write() as connection:
            if not known(connection, t.trajectories.c.id, [correction.trajectory_id]):
                raise NotFoundError(
                    f"correction `{correction.id}` is about `{correction.trajectory_id}`, which is unknown",
                    hint="`agentkd runs list` shows them",
                )
            row = {
                "id": correction.id,
                "trajectory_id": correction.trajectory_id,
                "source": correction.source,
                "kind": correction.kind,
                "created_at": correction.created_at,
                "body": dump(data),
            }
            return insert_once(connection, t.corrections, row)

    def get(self, correction_id: str) -> Correction:
        """Return a correction; raises NotFoundError."""
        found = self._where(t.corrections.c.id == correction_id)
        if not found:
            raise NotFoundError(f"there is no correction `{correction_id}`")
        return found[0]

    def sources(self, ids: Iterable[str]) -> dict[str, str]:
        """Return who gave corrections, by id; unknown ids are left out."""
        c, found = t.corrections.c, dict[str, str]()
        with self._database.read() as connection:
            for batch in chunks(dict.fromkeys(ids)):
                found |= dict(connection.execute(sa.select(c.id, c.source).where(c.id.in_(batch))).all())
        return found

    def for_trajectory(self, trajectory_id: str) -> Found:
        """Return the corrections of a trajectory, oldest first."""
        return self._where(t.corrections.c.trajectory_id == trajectory_id)

    def for_trajectories(self, trajectory_ids: Iterable[str]) -> Found:
        """Return the corrections of several trajectories, oldest first."""
        column = t.corrections.c.trajectory_id
        found = [c for batch in chunks(trajectory_ids) for c in self._where(column.in_(batch))]
        return sorted(found, key=lambda c: (c.created_at, c.id))

    def list(
        self,
        source: str | None = None,
        kind: str | None = None,
        run_id: str | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> Found:
        """Return corrections, oldest first; `since` is inclusive."""
        c = t.corrections.c
        where = []
        if source is not None:
            where.append(c.source == source)
        if kind is not None:
            where.append(c.kind == kind)
        if run_id is not None:
            of_run = sa.select(t.trajectories.c.id).where(t.trajectories.c.run_id == run_id)
            where.append(c.trajectory_id.in_(of_run))
        if since is not None:
            where.append(c.created_at >= since)
        return self._where(*where, limit=limit)

    def rounds(
        self, suite: str | None = None, limit: int | None = None, at: datetime | None = None
    ) -> Rounds:
        """Return corrections per task, run by run, oldest first; `limit` takes the newest runs.

        `at` counts what had happened by then.

        Held-out runs and unfinished trajectories are left out. A task that was tried again within a run
        counts once, with the corrections of all its tries.
        """
        c, given = t.trajectories.c, t.corrections.c
        where = [c.is_finished.is_(True), *([c.suite == suite] if suite is not None else [])]
        where += [c.created_at <= at] if at is not None else []
        said = [given.created_at <= at] if at is not None else []
        tried = sa.select(c.run_id, c.suite, c.split, c.task_id, c.attempt, c.created_at).where(*where)
        counted = (
            sa.select(c.run_id, c.split, given.source, sa.func.count().label("n"))
            .join(t.corrections, given.trajectory_id == c.id)
            .where(*where, *said)
            .group_by(c.run_id, c.split, given.source)
        )
        with self._database.read() as connection:
            tries = connection.execute(tried.order_by(c.created_at, c.id)).all()
            counts = connection.execute(counted).all()
        runs: dict[str, Rows] = {}
        for row in tries:
            if not is_held_out(row.split):
                runs.setdefault(row.run_id, []).append(row)
        sources: dict[str, Counter[str]] = {run_id: Counter() for run_id in runs}
        for row in counts:
            if not is_held_out(row.split):
                sources[row.run_id][row.source] += row.n
        return [_round(run_id, rows, sources[run_id]) for run_id, rows in runs.items()][-(limit or 0) :]

    def _where(self, *conditions: sa.ColumnElement[bool], limit: int | None = None) -> Found:
        c = t.corrections.c
        query = sa.select(c.body).where(*conditions).order_by(c.created_at, c.id).limit(limit)
        with self._database.read() as connection:
            return [load(Correction, body) for body in connection.execute(query).scalars()]


def _round(run_id: str, rows: Rows, by_source: Mapping[str, int]) -> CorrectionRound:
    n_tasks = len({(row.task_id, row.attempt % RETRY_STRIDE) for row in rows})
    n_corrections = sum(by_source.values())
    return CorrectionRound(
        run_id=run_id,
        suite=min(row.suite for row in rows),
        n_tasks=n_tasks,
        n_corrections=n_corrections,
        per_task=n_corrections / n_tasks,
        by_source=dict(sorted(by_source.items())),
        started_at=rows[0].created_at,
    )
