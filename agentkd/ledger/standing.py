"""Since when memories have their status, and when evidence last came: what a quarantine's clock reads."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from agentkd.ledger import tables as t
from agentkd.ledger.database import chunks
from agentkd.schema import Standing

__all__ = ["find"]


def find(connection: sa.Connection, ids: Iterable[str]) -> dict[str, Standing]:
    """Return the standing of memories for the base by id; unknown ids are left out."""
    s, e = t.memory_status.c, t.memory_events.c
    found: dict[str, Standing] = {}
    for batch in chunks(ids):
        newest = (
            sa.select(e.memory_id, sa.func.max(e.happened_at).label("evidence_at"))
            .where(e.memory_id.in_(batch), e.kind.in_(("corroborated", "merged")))
            .group_by(e.memory_id)
            .subquery()
        )
        query = (
            sa.select(s.memory_id, s.changed_at, s.reason, newest.c.evidence_at)
            .outerjoin_from(t.memory_status, newest, newest.c.memory_id == s.memory_id)
            .where(s.checkpoint == "base", s.memory_id.in_(batch))
        )
        for row in connection.execute(query).mappings():
            found[row["memory_id"]] = Standing.model_validate(dict(row))
    return found
