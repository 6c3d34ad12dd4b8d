"""Memories: versions, status per serving checkpoint, events, recalls and their outcomes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from agentkd.errors import NotFoundError
from agentkd.ledger import admission, event, recall
from agentkd.ledger import tables as t
from agentkd.ledger.admission import Admission
from agentkd.ledger.checkpoint import taint_from_memory
from agentkd.ledger.database import Database, chunks, load, upsert
from agentkd.ledger.event import MemoryEvent
from agentkd.ledger.recall import Recall
from agentkd.ledger.redact import Redact
from agentkd.schema import Evidence, Hit, Memory, MemoryStatus, Scope, Utility, now

__all__ = ["Memories"]

Found = list[Memory]  # inside the class, `list` is the method


class Memories:
    """What was learnt. Nothing is deleted: versions are superseded, status changes, events tell why."""

    def __init__(self, database: Database, redact: Redact) -> None:
        self._database = database
        self._redact = redact

    def admit(self, candidates: Iterable[Memory]) -> tuple[Admission, ...]:
        """Store candidates in one transaction and say what became of each, in their order.

        Evidence must be in the ledger; a memory that was revoked or superseded is rejected.
        """
        batch = tuple(candidates)
        with self._database.write() as connection:
            return tuple(admission.admit(connection, memory, self._redact) for memory in batch)

    def corroborate(self, memory_id: str, evidence: Evidence) -> int:
        """Add evidence and return by how many distinct new trajectories the support rose."""
        with self._database.write() as connection:
            return admission.corroborate(connection, memory_id, evidence)

    def supersede(self, old_id: str, new_memory: Memory) -> Admission:
        """Make `new_memory` the current version in the place of `old_id`."""
        with self._database.write() as connection:
            return admission.supersede(connection, old_id, new_memory, self._redact)

    def set_status(self, memory_id: str, status: MemoryStatus, reason: str, checkpoint: str = "base") -> bool:
        """Set the status for a serving checkpoint; False when it is so already.

        A revocation holds for every checkpoint, and taints those that were trained on the memory.
        """
        name = "base" if status == "revoked" else checkpoint
        with self._database.write() as connection:
            before = _statuses(connection, name, t.memories.c.id == memory_id)
            if not before:
                raise _unknown(memory_id)
            if status == before[memory_id] and _has_row(connection, memory_id, name):
                return False
            upsert(
                connection,
                t.memory_status,
                {
                    "memory_id": memory_id,
                    "checkpoint": name,
                    "status": status,
                    "reason": reason,
                    "changed_at": now(),
                },
            )
            event.append(connection, memory_id, event.kind_of_status(status, before[memory_id]), reason, name)
            if status == "revoked":
                taint_from_memory(connection, memory_id)
        return True

    def status_for(self, checkpoint: str = "base") -> Mapping[str, MemoryStatus]:
        """Return the status of every current memory where this checkpoint serves."""
        with self._database.read() as connection:
            return _statuses(connection, checkpoint, t.memories.c.current.is_(True))

    def get(self, memory_id: str, checkpoint: str = "base") -> Memory:
        """Return a memory with its status for a serving checkpoint; raises NotFoundError."""
        found = self.get_many([memory_id], checkpoint)
        if not found:
            raise _unknown(memory_id)
        return found[0]

    def get_many(self, ids: Iterable[str], checkpoint: str = "base") -> Found:
        """Return memories in the order of the ids; unknown ids are left out."""
        order = {id_: i for i, id_ in enumerate(dict.fromkeys(ids))}
        found: Found = []
        with self._database.read() as connection:
            for batch in chunks(order):
                found += _fetch(connection, checkpoint, t.memories.c.id.in_(batch))
        return sorted(found, key=lambda memory: order[memory.id])

    def list(
        self,
        status: MemoryStatus | Collection[MemoryStatus] | None = None,
        scope: Scope | None = None,
        kinds: Collection[str] | None = None,
        checkpoint: str = "base",
        *,
        current: bool = True,
        limit: int | None = None,
    ) -> Found:
        """Return memories, oldest first.

        `scope` is the asker's: a memory is seen where every field that it sets equals the asker's.
        `current=False` includes superseded versions.
        """
        m = t.memories.c
        where: list[Any] = [m.current.is_(True)] if current else []
        if status is not None:
            where.append(_effective(checkpoint).in_([status] if isinstance(status, str) else sorted(status)))
        if kinds is not None:
            where.append(m.kind.in_(sorted(kinds)))
        for field, value in (scope.model_dump() if scope is not None else {}).items():
            where.append(sa.or_(m[field] == "", m[field] == value))
        with self._database.read() as connection:
            return _fetch(connection, checkpoint, *where, limit=limit)

    def history(self, memory_id: str) -> Found:
        """Return all versions of a memory's chain, first version first."""
        with self._database.read() as connection:
            seen, front = set[str](), {memory_id}
            while front:
                seen |= front
                front = _neighbours(connection, front) - seen
        found = self.get_many(seen)
        if not found:
            raise _unknown(memory_id)
        return sorted(found, key=lambda memory: (memory.version, memory.created_at, memory.id))

    def events(
        self, after_seq: int = 0, limit: int | None = None, *, memory_id: str | None = None
    ) -> tuple[MemoryEvent, ...]:
        """Return the events after a sequence number, in order: what an index must still follow."""
        c = t.memory_events.c
        where = [c.seq > after_seq, *([c.memory_id == memory_id] if memory_id is not None else [])]
        with self._database.read() as connection:
            return tuple(event.find(connection, *where, limit=limit))

    def last_seq(self) -> int:
        """Return the number of the newest event; 0 without any."""
        with self._database.read() as connection:
            return connection.execute(sa.select(sa.func.max(t.memory_events.c.seq))).scalar_one() or 0

    def index_mark(self, index: str) -> int:
        """Return the number of the last event that an index has followed; 0 for a new index."""
        query = sa.select(t.index_marks.c.seq).where(t.index_marks.c.name == index)
        with self._database.read() as connection:
            return connection.execute(query).scalar_one_or_none() or 0

    def set_index_mark(self, index: str, seq: int) -> None:
        """Remember how far an index is; 0 makes its next projection start from the first event."""
        with self._database.write() as connection:
            upsert(connection, t.index_marks, {"name": index, "seq": seq, "moved_at": now()})

    def record_recall(
        self, trajectory_id: str, step: int, hits: Iterable[Hit], withheld: Collection[str] = ()
    ) -> None:
        """Store what was recalled for a step of a running trajectory.

        `withheld` names the memories that a trial kept out of the prompt. Recalls of tasks whose
        outcome must not move a memory's utility (a holdout) are not recorded at all.
        """
        with self._database.write(lasting=False) as connection:
            recall.record(connection, trajectory_id, step, hits, withheld)

    def record_outcome(self, trajectory_id: str, success: bool) -> None:
        """Fill the win flags of a trajectory's recalls and move utility once; `finish` does so itself."""
        with self._database.write() as connection:
            recall.settle(connection, trajectory_id, success)

    def recalls(
        self, *, trajectory_id: str | None = None, memory_id: str | None = None
    ) -> tuple[Recall, ...]:
        """Return the recalls of a trajectory or of a memory, or all."""
        c = t.recalls.c
        where = [c.trajectory_id == trajectory_id] if trajectory_id is not None else []
        where += [c.memory_id == memory_id] if memory_id is not None else []
        with self._database.read() as connection:
            return tuple(recall.find(connection, *where))


_base = t.memory_status.alias("base_status")
_own = t.memory_status.alias("own_status")


def _effective(checkpoint: str) -> sa.ColumnElement[str]:
    """Build the status where a checkpoint serves: its own row, else that of the base; revoked wins."""
    own = (
        sa.select(_own.c.status)
        .where(_own.c.memory_id == t.memories.c.id, _own.c.checkpoint == checkpoint)
        .scalar_subquery()
    )
    return sa.case(
        (_base.c.status == "revoked", sa.literal("revoked")), else_=sa.func.coalesce(own, _base.c.status)
    )


_joined = t.memories.join(_base, sa.and_(_base.c.memory_id == t.memories.c.id, _base.c.checkpoint == "base"))


def _statuses(
    connection: sa.Connection, checkpoint: str, *conditions: sa.ColumnElement[bool]
) -> dict[str, MemoryStatus]:
    query = sa.select(t.memories.c.id, _effective(checkpoint)).select_from(_joined).where(*conditions)
    return {row[0]: row[1] for row in connection.execute(query)}


def _has_row(connection: sa.Connection, memory_id: str, checkpoint: str) -> bool:
    c = t.memory_status.c
    query = sa.select(c.status).where(c.memory_id == memory_id, c.checkpoint == checkpoint)
    return connection.execute(query).first() is not None


def _fetch(
    connection: sa.Connection, checkpoint: str, *conditions: sa.ColumnElement[bool], limit: int | None = None
) -> Found:
    m = t.memories.c
    query = (
        sa.select(t.memories, _effective(checkpoint).label("status"))
        .select_from(_joined)
        .where(*conditions)
        .order_by(m.created_at, m.id)
        .limit(limit)
    )
    return [_memory(row) for row in connection.execute(query).mappings()]


def _memory(row: sa.RowMapping) -> Memory:
    utility = Utility(**{name: row[name] for name in Utility.model_fields})
    return load(Memory, row["body"], status=row["status"], support=row["support"], utility=utility)


def _neighbours(connection: sa.Connection, ids: set[str]) -> set[str]:
    """Return the ids one step away in the version chain, in either direction."""
    m = t.memories.c
    near: set[str] = set()
    for batch in chunks(ids):
        query = sa.select(m.id, m.parent, m.successor).where(
            sa.or_(m.id.in_(batch), m.parent.in_(batch), m.successor.in_(batch))
        )
        near.update(id_ for row in connection.execute(query) for id_ in row if id_ is not None)
    return near


def _unknown(memory_id: str) -> NotFoundError:
    return NotFoundError(f"there is no memory `{memory_id}`", hint="`agentkd memory list` shows them")
