"""The append-only log of what happened to memories, and how far each index has followed it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import sqlalchemy as sa

from agentkd.ledger import tables as t
from agentkd.schema import MemoryStatus, Value, now

__all__ = ["EventKind", "MemoryEvent", "append", "find", "kind_of_status"]

EventKind = Literal[
    "admitted", "corroborated", "merged", "superseded", "quarantined", "activated", "compiled",
    "retired", "tombstone", "revoked", "reactivated",
]  # fmt: skip


class MemoryEvent(Value):
    """One thing that happened to a memory."""

    seq: int
    """Number of the event; counts up over all memories, in the order of the commits."""
    memory_id: str
    """The memory."""
    kind: EventKind
    """What happened."""
    checkpoint: str = "base"
    """Serving checkpoint that it holds for."""
    reason: str = ""
    """Why."""
    happened_at: datetime
    """When (UTC)."""


def append(
    connection: sa.Connection, memory_id: str, kind: EventKind, reason: str, checkpoint: str = "base"
) -> None:
    """Write an event in the transaction of what it tells about."""
    row = {
        "memory_id": memory_id,
        "kind": kind,
        "checkpoint": checkpoint,
        "reason": reason,
        "happened_at": now(),
    }
    connection.execute(t.memory_events.insert(), [row])


def find(
    connection: sa.Connection, *conditions: sa.ColumnElement[bool], limit: int | None = None
) -> list[MemoryEvent]:
    """Return events in the order in which they happened."""
    query = sa.select(t.memory_events).where(*conditions).order_by(t.memory_events.c.seq).limit(limit)
    return [MemoryEvent.model_validate(dict(row)) for row in connection.execute(query).mappings()]


def kind_of_status(status: MemoryStatus, before: MemoryStatus) -> EventKind:
    """Name the event of a change of status."""
    if status == "candidate":
        return "admitted"
    if status == "active":
        return "activated" if before == "candidate" else "reactivated"
    return status
