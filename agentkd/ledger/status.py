"""Write a memory's status: that for the base stands in its own row, that for a checkpoint beside it."""

from __future__ import annotations

import sqlalchemy as sa

from agentkd.ledger import tables as t
from agentkd.ledger.database import upsert
from agentkd.schema import MemoryStatus, now

__all__ = ["has_own", "write_status"]


def write_status(
    connection: sa.Connection, memory_id: str, status: MemoryStatus, reason: str, checkpoint: str = "base"
) -> None:
    """Write the status of a memory where a checkpoint serves; the event of it is the caller's."""
    m, at = t.memories, now()
    if checkpoint == "base":
        values = {"status": status, "status_reason": reason, "status_at": at}
        connection.execute(m.update().where(m.c.id == memory_id).values(values))
        return
    row = {"memory_id": memory_id, "checkpoint": checkpoint, "status": status, "reason": reason}
    upsert(connection, t.memory_status, {**row, "changed_at": at})


def has_own(connection: sa.Connection, memory_id: str, checkpoint: str) -> bool:
    """Whether a status was written for this checkpoint: every memory has one for the base."""
    s = t.memory_status.c
    own = sa.select(s.status).where(s.memory_id == memory_id, s.checkpoint == checkpoint)
    return checkpoint == "base" or connection.execute(own).first() is not None
