"""Read memories with their status: where a checkpoint serves, now or at an earlier time.

An earlier state is read back from the events: status, currency, evidence, support and keys are those
of then. Counters of use are those of now: recalls belong to tasks, not to a time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from agentkd.ledger import tables as t
from agentkd.ledger.body import load
from agentkd.ledger.database import Database, chunks
from agentkd.schema import Evidence, Memory, MemoryStatus, Scope, Utility, Value
from agentkd.schema.memory import MemoryKind

__all__ = [
    "Tally",
    "effective",
    "fetch",
    "fetch_at",
    "neighbours",
    "new_to",
    "statuses",
    "statuses_at",
    "tally",
    "without_lesson",
]


class Tally(Value):
    """How many memories have one kind, status and scope."""

    kind: MemoryKind
    """What sort of lesson they hold."""
    status: MemoryStatus
    """Their status where a checkpoint serves."""
    scope: Scope
    """Whose they are."""
    n: int
    """How many."""


def effective(checkpoint: str) -> sa.ColumnElement[str]:
    """Build the status where a checkpoint serves: its own, else that for the base; revoked wins."""
    base, s = t.memories.c.status, t.memory_status.c
    if checkpoint == "base":
        return base
    own = (
        sa.select(s.status)
        .where(s.memory_id == t.memories.c.id, s.checkpoint == checkpoint)
        .correlate(t.memories)
        .scalar_subquery()
    )
    return sa.case((base == "revoked", sa.literal("revoked")), else_=sa.func.coalesce(own, base))


def statuses(
    connection: sa.Connection, checkpoint: str, *conditions: sa.ColumnElement[bool]
) -> dict[str, MemoryStatus]:
    """Return the status of those memories that meet all conditions."""
    query = sa.select(t.memories.c.id, effective(checkpoint)).where(*conditions)
    return {row[0]: row[1] for row in connection.execute(query)}


def tally(connection: sa.Connection, checkpoint: str, at: datetime | None) -> tuple[Tally, ...]:
    """Count the memories that are current, or were at a time, by kind, status and scope; no body is read."""
    m = t.memories.c
    if at is None:
        then = statuses(connection, checkpoint, m.current.is_(True))
    else:
        then = statuses_at(connection, checkpoint, at)
    query = sa.select(m.id, m.kind, *(m[name] for name in Scope.model_fields))
    counts = Counter(
        (kind, then[id_], *scope) for id_, kind, *scope in connection.execute(query) if id_ in then
    )
    return tuple(
        Tally(kind=kind, status=status, scope=Scope(**dict(zip(Scope.model_fields, scope, strict=True))), n=n)
        for (kind, status, *scope), n in sorted(counts.items())
    )


def new_to(connection: sa.Connection, checkpoint: str) -> set[str] | None:
    """Return what is new to the weights of a checkpoint, and what never goes into weights.

    New is what came in, or came back, since its rows were compiled; for a checkpoint that is not here, since
    something first happened to a memory for its sake. None where nothing has. Never taught are facts, what is
    private, and what only one user wants.
    """
    e, c, d = t.memory_events.c, t.checkpoints.c, t.datasets.c
    rows = sa.select(d.created_at).join(t.checkpoints, c.dataset_id == d.id).where(c.name == checkpoint)
    first = sa.select(sa.func.min(e.seq)).where(e.checkpoint == checkpoint)
    compiled_at, first_seq = connection.scalar(rows), connection.scalar(first)
    if compiled_at is None and first_seq is None:
        return None
    since = e.happened_at > compiled_at if compiled_at is not None else e.seq > first_seq
    gives_status = sa.or_(e.status != "", e.current.is_(True))
    wanted = sa.select(e.memory_id).where(since, e.checkpoint == "base", gives_status)
    m = t.memories.c
    personal = sa.and_(m.kind.in_(("parameter", "preference")), m.user != "")
    never = sa.or_(m.kind == "fact", m.privacy == "private", personal)
    untaught = sa.select(m.id).where(m.current.is_(True), never)
    return {*connection.scalars(wanted), *connection.scalars(untaught)}


def fetch(
    connection: sa.Connection,
    checkpoint: str,
    *conditions: sa.ColumnElement[bool],
    limit: int | None = None,
    latest: bool = False,
) -> list[Memory]:
    """Return the memories that meet all conditions, oldest first; `limit` takes the oldest or `latest`."""
    m = t.memories.c
    query = (
        sa.select(t.memories, effective(checkpoint).label("effective"))
        .where(*conditions)
        .order_by(*((m.created_at.desc(), m.id.desc()) if latest else (m.created_at, m.id)))
        .limit(limit)
    )
    found = [_memory(row) for row in connection.execute(query).mappings()]
    return found[::-1] if latest else found


def without_lesson(database: Database, limit: int) -> list[Memory]:
    """Return memories without a hash of their lesson, oldest first; each admission asks, mostly for none."""
    if not database.glance("SELECT 1 FROM memories WHERE lesson IS NULL LIMIT 1"):
        return []
    with database.read() as connection:
        return fetch(connection, "base", t.memories.c.lesson.is_(None), limit=limit)


def _memory(row: sa.RowMapping) -> Memory:
    return load(
        Memory,
        row["body"],
        status=row["effective"],
        support=row["support"],
        version=row["version"],
        parent=row["parent"] or "",
        utility=Utility(**{name: row[name] for name in Utility.model_fields}),
    )


def statuses_at(connection: sa.Connection, checkpoint: str, at: datetime) -> dict[str, MemoryStatus]:
    """Return the status of every memory that was current at a time, where this checkpoint serves."""
    c = t.memory_events.c
    query = (
        sa.select(c.memory_id, c.checkpoint, c.status, c.current)
        .where(c.happened_at <= at, c.checkpoint.in_(("base", checkpoint)))
        .order_by(c.seq)
    )
    base: dict[str, MemoryStatus] = {}
    own: dict[str, MemoryStatus] = {}
    current: dict[str, bool] = {}
    for memory_id, where, status, is_current in connection.execute(query):
        if status:
            (base if where == "base" else own)[memory_id] = status
        elif where == checkpoint != "base":
            own.pop(memory_id, None)  # an undo left it to the base again
        if is_current is not None:
            current[memory_id] = is_current
    return {
        id_: "revoked" if status == "revoked" else own.get(id_, status)
        for id_, status in base.items()
        if current.get(id_)
    }


def fetch_at(
    connection: sa.Connection, checkpoint: str, at: datetime, *conditions: sa.ColumnElement[bool]
) -> list[Memory]:
    """Return the memories that were current at a time as they were then, oldest first."""
    then = statuses_at(connection, checkpoint, at)
    later = _later(connection, at)
    found: list[Memory] = []
    for batch in chunks(then):
        found += fetch(connection, checkpoint, t.memories.c.id.in_(batch), *conditions)
    found.sort(key=lambda memory: (memory.created_at, memory.id))
    return [
        _as_it_was(memory, later.get(memory.id, ())).model_copy(update={"status": then[memory.id]})
        for memory in found
    ]


def _later(connection: sa.Connection, at: datetime) -> dict[str, list[Mapping[str, Any]]]:
    """Return what events after a time changed in each memory, newest first."""
    c = t.memory_events.c
    query = (
        sa.select(c.memory_id, c.details).where(c.happened_at > at, c.details != "").order_by(c.seq.desc())
    )
    found: dict[str, list[Mapping[str, Any]]] = {}
    for memory_id, details in connection.execute(query):
        found.setdefault(memory_id, []).append(json.loads(details))
    return found


def _as_it_was(memory: Memory, changes: Iterable[Mapping[str, Any]]) -> Memory:
    for change in changes:
        added = Evidence.model_validate(change.get("evidence", {}))
        gone = Evidence.model_validate(change.get("taken", {}))
        evidence = Evidence(
            **{
                name: (*(x for x in getattr(memory.evidence, name) if x not in getattr(added, name)),
                       *getattr(gone, name))
                for name in Evidence.model_fields
            }
        )  # fmt: skip
        update: dict[str, Any] = {"evidence": evidence}
        # An event of an older version does not say how much of its evidence counted.
        update["support"] = max(memory.support - change.get("support", len(added.trajectories)), 0)
        if "keys" in change:
            update["keys"] = type(memory.keys).model_validate(change["keys"])
        memory = memory.model_copy(update=update)
    return memory


def neighbours(connection: sa.Connection, ids: Iterable[str]) -> set[str]:
    """Return the ids one step away in the version chain, in either direction."""
    m, p = t.memories.c, t.memory_parents.c
    near: set[str] = set()
    for batch in chunks(ids):
        versions = sa.select(m.id, m.successor).where(sa.or_(m.id.in_(batch), m.successor.in_(batch)))
        parents = sa.select(p.source, p.target).where(sa.or_(p.source.in_(batch), p.target.in_(batch)))
        for query in (versions, parents):
            near.update(id_ for row in connection.execute(query) for id_ in row if id_ is not None)
    return near
