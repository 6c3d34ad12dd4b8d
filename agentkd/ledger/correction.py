"""Corrections: language feedback on trajectories."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from agentkd.errors import NotFoundError
from agentkd.ledger import tables as t
from agentkd.ledger.database import Database, dump, insert_once, known, load
from agentkd.ledger.redact import Redact, redact_json
from agentkd.schema import Correction

__all__ = ["Corrections"]

Found = list[Correction]  # inside the class, `list` is the method


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

    def for_trajectory(self, trajectory_id: str) -> Found:
        """Return the corrections of a trajectory, oldest first."""
        return self._where(t.corrections.c.trajectory_id == trajectory_id)

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

    def _where(self, *conditions: sa.ColumnElement[bool], limit: int | None = None) -> Found:
        c = t.corrections.c
        query = sa.select(c.body).where(*conditions).order_by(c.created_at, c.id).limit(limit)
        with self._database.read() as connection:
            return [load(Correction, body) for body in connection.execute(query).scalars()]
