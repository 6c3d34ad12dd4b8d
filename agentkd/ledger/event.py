"""The append-only log of what happened to memories, and how far each index has followed it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from pydantic import Field

from agentkd.ledger import tables as t
from agentkd.ledger.database import Database, insert_many
from agentkd.schema import MemoryStatus, Value, now

__all__ = [
    "Change", "EventKind", "MemoryEvent", "append", "append_many", "changes", "entry", "find", "is_merge",
    "kind_of_status",
]  # fmt: skip

EventKind = Literal[
    "admitted", "corroborated", "merged", "united", "superseded", "quarantined", "activated", "compiled",
    "retired", "tombstone", "revoked", "reactivated", "undone",
]  # fmt: skip
"""`merged`: it took over the evidence of an equal candidate; `united`: it took the place of others."""


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
    status: str = ""
    """Status since, where the checkpoint serves; empty where the event does not change it."""
    current: bool | None = None
    """Whether it is the current version since; None where the event does not change that."""
    details: dict[str, Any] = Field(default_factory=dict)
    """What an undo needs: the memories concerned, and what was added."""


class Change(NamedTuple):
    """An event in brief: what those who follow the log ask of it, read in a twentieth of the time."""

    seq: int
    memory_id: str
    kind: EventKind
    checkpoint: str
    status: str
    current: bool | None


_CHANGES = f"SELECT {', '.join(Change._fields)} FROM memory_events WHERE seq > ? ORDER BY seq"


def entry(
    memory_id: str,
    kind: EventKind,
    reason: str,
    checkpoint: str = "base",
    *,
    status: str = "",
    current: bool | None = None,
    details: Mapping[str, Any] | None = None,
    at: datetime | None = None,
) -> dict[str, Any]:
    """Return the row of an event that happens now, or at a moment that several share."""
    return {
        "memory_id": memory_id,
        "kind": kind,
        "checkpoint": checkpoint,
        "reason": reason,
        "happened_at": at or now(),
        "status": status,
        "current": current,
        "details": json.dumps(details, separators=(",", ":")) if details else "",
    }


def append(
    connection: sa.Connection,
    memory_id: str,
    kind: EventKind,
    reason: str,
    checkpoint: str = "base",
    *,
    status: str = "",
    current: bool | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write an event in the transaction of what it tells about."""
    row = entry(memory_id, kind, reason, checkpoint, status=status, current=current, details=details)
    append_many(connection, [row])


def append_many(connection: sa.Connection, rows: Iterable[dict[str, Any]]) -> None:
    """Write the rows of several events."""
    insert_many(connection, t.memory_events, rows)


def changes(database: Database, after_seq: int) -> list[Change]:
    """Return the events after a sequence number, in the order in which they happened."""
    return [Change._make(row) for row in database.glance(_CHANGES, after_seq)]


def find(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[MemoryEvent]:
    """Return events in the order in which they happened."""
    query = sa.select(t.memory_events).where(*conditions).order_by(t.memory_events.c.seq)
    return [
        MemoryEvent.model_validate({**row, "details": json.loads(row["details"] or "{}")})
        for row in connection.execute(query).mappings()
    ]


def is_merge(superseded: MemoryEvent, successor: str) -> bool:
    """Whether it was a merge into `successor`, and none that was taken back since, that closed a memory."""
    return "with" in superseded.details and superseded.details["by"] == successor


def kind_of_status(status: MemoryStatus, before: MemoryStatus) -> EventKind:
    """Name the event of a change of status."""
    if status == "candidate":
        return "admitted"
    if status == "active":
        return "activated" if before == "candidate" else "reactivated"
    return status
