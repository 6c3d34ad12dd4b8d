"""Evaluations: what was measured, by suite, split and candidate."""

from __future__ import annotations

import sqlalchemy as sa

from agentkd.errors import NotFoundError
from agentkd.ledger import tables as t
from agentkd.ledger.body import dump, load
from agentkd.ledger.database import Database, insert_once
from agentkd.schema import Evaluation, now

__all__ = ["Evaluations"]

Found = list[Evaluation]  # inside the class, `list` is the method


class Evaluations:
    """What was measured."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, evaluation: Evaluation) -> bool:
        """Store an evaluation; False when its id is there."""
        row = {
            "id": evaluation.id,
            "suite": evaluation.suite,
            "split": evaluation.split,
            "checkpoint": evaluation.checkpoint,
            "created_at": now(),
            "body": dump(evaluation),
        }
        with self._database.write() as connection:
            return insert_once(connection, t.evaluations, row)

    def get(self, evaluation_id: str) -> Evaluation:
        """Return an evaluation; raises NotFoundError."""
        found = self._where(t.evaluations.c.id == evaluation_id)
        if not found:
            raise NotFoundError(f"there is no evaluation `{evaluation_id}`")
        return found[0]

    def list(
        self, suite: str | None = None, split: str | None = None, checkpoint: str | None = None
    ) -> Found:
        """Return evaluations, oldest first."""
        c = t.evaluations.c
        wanted = ((c.suite, suite), (c.split, split), (c.checkpoint, checkpoint))
        return self._where(*(column == value for column, value in wanted if value is not None))

    def _where(self, *conditions: sa.ColumnElement[bool]) -> Found:
        c = t.evaluations.c
        query = sa.select(c.body).where(*conditions).order_by(c.created_at, c.id)
        with self._database.read() as connection:
            return [load(Evaluation, body) for body in connection.execute(query).scalars()]
