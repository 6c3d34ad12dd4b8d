"""Memories: versions, status per serving checkpoint, events, recalls and their outcomes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from agentkd.errors import DataError
from agentkd.ledger import admission, event, query, recall, standing, trust, undo, version
from agentkd.ledger import tables as t
from agentkd.ledger.admission import Admission, Told
from agentkd.ledger.database import CHUNK, Database, chunks, upsert
from agentkd.ledger.event import Change, MemoryEvent
from agentkd.ledger.query import Tally
from agentkd.ledger.recall import Recall
from agentkd.ledger.recent import Recent
from agentkd.ledger.redact import Redact
from agentkd.ledger.status import has_own, write_status
from agentkd.ledger.storing import Written, clean_evidence
from agentkd.ledger.taint import taint
from agentkd.schema import Evidence, Hit, Memory, MemoryStatus, Scope, Standing, Utility, now
from agentkd.schema.memory import MemoryTrust

__all__ = ["Memories"]

Found = list[Memory]  # inside the class, `list` is the method


class Memories:
    """What was learnt. Nothing is deleted: versions are superseded, status changes, events tell why."""

    def __init__(self, database: Database, redact: Redact, written: Written) -> None:
        self._database = database
        self._written = written
        self._redact = redact
        self._recent = Recent(database)

    def admit(
        self,
        candidates: Iterable[Memory],
        lessons: Mapping[str, str] | None = None,
        told: Mapping[str, Told] | None = None,
    ) -> tuple[Admission, ...]:
        """Store candidates in one transaction and say what became of each, in their order.

        Evidence must be in the ledger; a memory that was revoked or superseded is rejected. `lessons`
        holds by id what near copies are found by; where it is missing, `set_lessons` fills it in later.
        `told` holds by id what the provenance gate said.
        """
        batch = tuple(candidates)
        with self._database.write() as connection:
            return tuple(admission.admit(connection, batch, self._redact, lessons or {}, told, self._written))

    def corroborate(
        self, memory_id: str, evidence: Evidence, uncounted: Collection[str] = (), trust: str = ""
    ) -> int:
        """Add evidence; return by how many new trajectories, but the `uncounted`, the support rose."""
        clean = clean_evidence(evidence, self._redact)
        with self._database.write() as connection:
            return admission.corroborate(connection, memory_id, clean, uncounted, trust)

    def supersede(self, old_id: str, new_memory: Memory, reason: str = "") -> Admission:
        """Make `new_memory` the current version in the place of `old_id`."""
        with self._database.write() as connection:
            return version.supersede(connection, old_id, new_memory, self._redact, self._redact(reason))

    def replace(self, ids: Sequence[str], memory: Memory, reason: str) -> Admission:
        """Let a memory take the place of others: the new version of one, or the union of several.

        Of a union, evidence is united, support counts distinct trajectories, counters the tasks that recalled
        one part alone. Each memory gets an event, and `undo` takes it back. The union may be one of them.
        """
        if len(set(ids)) == 1:
            return self.supersede(ids[0], memory, reason)
        with self._database.write() as connection:
            return version.merge(connection, ids, memory, self._redact, self._redact(reason))

    def undo(self, memory_id: str, reason: str = "") -> tuple[str, ...]:
        """Take a memory's last merge, supersession or change of status back; returns the ids changed.

        An undo is a new event. Parts of a merge become current again with their own counters, and with
        what their union gained. Raises DataError where nothing can be taken back.
        """
        with self._database.write() as connection:
            return undo.undo(connection, memory_id, self._redact(reason))

    def overruled(self) -> tuple[tuple[str, str, frozenset[str]], ...]:
        """Return what was taken back: who had made the edit, its kind, and the ids; nobody repeats it."""
        with self._database.read() as connection:
            return tuple(undo.overruled(connection))

    def set_status(
        self,
        memory_id: str,
        status: MemoryStatus,
        reason: str,
        checkpoint: str = "base",
        *,
        details: Mapping[str, Any] | None = None,
    ) -> bool:
        """Set the status for a serving checkpoint; False when it is so already.

        A revocation holds for every checkpoint, undoes the merges that the memory is a part of, and
        taints the checkpoints that were trained on it or on what was made from it. It is for good:
        raises DataError for another status of a revoked memory.
        """
        name, reason = "base" if status == "revoked" else checkpoint, self._redact(reason)
        with self._database.write() as connection:
            before = query.statuses(connection, name, t.memories.c.id == memory_id)
            if not before:
                raise admission.unknown(memory_id)
            is_told = standing.REVOCATION not in (details or {})  # a revocation is put on record in any case
            if is_told and status == before[memory_id] and has_own(connection, memory_id, name):
                return False
            if name == "base" and before[memory_id] == "revoked" != status:
                raise _is_revoked(memory_id)
            if status in trust.SEEN:
                trust.refuse_waiting(connection, memory_id)
            write_status(connection, memory_id, status, reason, name)
            kind = event.kind_of_status(status, before[memory_id])
            event.append(connection, memory_id, kind, reason, name, status=status, details=details)
            if status == "revoked":
                self._revoke_from(connection, memory_id)
        return True

    def _revoke_from(self, connection: sa.Connection, memory_id: str) -> None:
        """Follow a revoked memory into what was made from it."""
        reason = f"`{memory_id}`, a part of it, was revoked"
        made = undo.descendants(connection, [memory_id])
        taint(connection, {memory_id, *made}, (), f"`{memory_id}` was revoked")
        undo.release_parts(connection, memory_id, reason)
        left = undo.descendants(connection, [memory_id])  # newer versions, and what cannot be taken apart
        for id_, row in sorted(admission.rows_of(connection, left).items()):
            if row["current"] and row["status"] != "revoked":
                self.set_status(id_, "quarantined", reason, details={standing.REVOCATION: memory_id})

    def let_out(self, memory_id: str, word: MemoryTrust, reason: str) -> bool:
        """Let a memory that the provenance gate holds back be recalled; False where none waits there.

        What a revocation put away only a person lets out.
        """
        with self._database.write() as connection:
            memory = self.get(memory_id)
            if memory.trust != "untrusted" or memory.status == "revoked":
                return False
            if word != "admitted" and standing.find(connection, [memory_id])[memory_id].is_doubtful:
                return False
            trust.mark(connection, memory_id, word)
            return self.set_status(memory_id, "active", reason, details={"trust": "untrusted"})

    def activate(self, memory_id: str, reason: str) -> bool:
        """Bring a quarantined or laid-to-rest memory back by a person's word; False when it is active.

        What had put it away is overruled: no refiner does the same again, and the provenance gate lets it be.
        Raises DataError for a revoked memory.
        """
        with self._database.write() as connection:
            if self.get(memory_id).status == "revoked":
                raise _is_revoked(memory_id)
            undo.refuse_without_key(connection, memory_id)
            c = t.memory_events.c
            put_away = c.status.in_(("quarantined", "tombstone"))
            found = event.find(connection, c.memory_id == memory_id, c.checkpoint == "base", put_away)
            details: dict[str, Any] = {"undoes": [e.seq for e in found]}
            if self.get(memory_id).trust == "untrusted":
                trust.mark(connection, memory_id, "admitted", is_by_person=True)
                details["trust"] = "untrusted"
            return self.set_status(memory_id, "active", reason, details=details)

    def status_for(
        self, checkpoint: str = "base", ids: Iterable[str] | None = None, *, at: datetime | None = None
    ) -> Mapping[str, MemoryStatus]:
        """Return the status of every current memory, or of some, where this checkpoint serves.

        `at` asks for an earlier time: what was current then, and the status of then.
        """
        c, found = t.memories.c, dict[str, MemoryStatus]()
        with self._database.read() as connection:
            if at is not None:
                then, wanted = query.statuses_at(connection, checkpoint, at), set(ids or ())
                return {id_: status for id_, status in then.items() if ids is None or id_ in wanted}
            if ids is None:
                return query.statuses(connection, checkpoint, c.current.is_(True))
            for batch in chunks(dict.fromkeys(ids)):
                found |= query.statuses(connection, checkpoint, c.current.is_(True), c.id.in_(batch))
        return found

    def standings(self, ids: Iterable[str]) -> Mapping[str, Standing]:
        """Return since when memories have their status for the base, by id; unknown ids are left out."""
        with self._database.read() as connection:
            return standing.find(connection, ids)

    def get(self, memory_id: str, checkpoint: str = "base") -> Memory:
        """Return a memory with its status for a serving checkpoint; raises NotFoundError."""
        found = self.get_many([memory_id], checkpoint)
        if not found:
            raise admission.unknown(memory_id)
        return found[0]

    def get_many(self, ids: Iterable[str], checkpoint: str = "base") -> Found:
        """Return memories in the order of the ids; unknown ids are left out."""
        order = {id_: i for i, id_ in enumerate(dict.fromkeys(ids))}
        found: Found = []
        if len(order) <= CHUNK:
            found = self._recent.read(tuple(order), checkpoint)
            return sorted(found, key=lambda memory: order[memory.id])
        with self._database.read() as connection:
            for batch in chunks(order):
                found += query.fetch(connection, checkpoint, t.memories.c.id.in_(batch))
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
        latest: bool = False,
        at: datetime | None = None,
        owner: Mapping[str, str] | None = None,
    ) -> Found:
        """Return memories, oldest first.

        `scope` is the asker's: a memory is seen where every field that it sets equals the asker's; `owner`
        names fields that a memory's own scope has. `limit` takes the oldest ones, with `latest` the newest.
        `current=False` includes superseded versions. `at` returns what was current at that time, with the
        status, evidence and support of then; counters of use are those of now.
        """
        m, wanted = t.memories.c, {status} if isinstance(status, str) else status
        where: list[Any] = [m.kind.in_(sorted(kinds))] if kinds is not None else []
        for field, value in (scope.model_dump() if scope is not None else {}).items():
            where.append(sa.or_(m[field] == "", m[field] == value))
        where += [m[field] == value for field, value in (owner or {}).items()]
        with self._database.read() as connection:
            if at is not None:
                then = query.fetch_at(connection, checkpoint, at, *where)
                then = [memory for memory in then if wanted is None or memory.status in wanted]
                return then[-(limit or 0) :] if latest else then[:limit]
            if current:
                where.append(m.current.is_(True))
            if wanted is not None:
                where.append(query.effective(checkpoint).in_(sorted(wanted)))
            return query.fetch(connection, checkpoint, *where, limit=limit, latest=latest)

    def tally(self, checkpoint: str = "base", *, at: datetime | None = None) -> tuple[Tally, ...]:
        """Count current memories, or those of an earlier time, by kind, status for a checkpoint and scope."""
        with self._database.read() as connection:
            return query.tally(connection, checkpoint, at)

    def history(self, memory_id: str) -> Found:
        """Return all versions of a memory's chain, first version first."""
        with self._database.read() as connection:
            seen, front = set[str](), {memory_id}
            while front:
                seen |= front
                front = query.neighbours(connection, front) - seen
        found = self.get_many(seen)
        if not found:
            raise admission.unknown(memory_id)
        return sorted(found, key=lambda memory: (memory.version, memory.created_at, memory.id))

    def changes(self, after_seq: int) -> Sequence[Change]:
        """Return the events after a sequence number in brief, in order: what an index must still follow."""
        return event.changes(self._database, after_seq)

    def events(self, after_seq: int = 0, *, memory_id: str | None = None) -> tuple[MemoryEvent, ...]:
        """Return the events after a sequence number, in order."""
        c = t.memory_events.c
        where = [c.seq > after_seq, *([c.memory_id == memory_id] if memory_id is not None else [])]
        with self._database.read() as connection:
            return tuple(event.find(connection, *where))

    def new_to(self, checkpoint: str) -> set[str] | None:
        """Return the memories that came in, or came back, since the rows of a checkpoint were compiled.

        Facts, private ones and those of one user are among them, of whatever age: no row teaches them. None
        where neither its rows are known nor anything has happened for its sake.
        """
        with self._database.read() as connection:
            return query.new_to(connection, checkpoint)

    def utilities_before(self, run_id: str) -> dict[str, Utility]:
        """Return the counters of all memories that were ever withheld, as they were before a run's tasks."""
        with self._database.read() as connection:
            return recall.utilities_before(connection, run_id)

    def last_seq(self) -> int:
        """Return the number of the newest event; 0 without any."""
        return self._database.glance("SELECT max(seq) FROM memory_events")[0][0] or 0

    def lessons_alike(self, lessons: Iterable[str]) -> dict[str, Found]:
        """Return the current memories that teach each lesson, in the order of their admission."""
        found, ids = dict[str, Found](), dict[str, str]()
        for batch in chunks(dict.fromkeys(lessons)):
            wanted = f"lesson IN ({', '.join('?' * len(batch))}) AND current ORDER BY created_at, id"
            rows = self._database.glance(f"SELECT id, lesson FROM memories WHERE {wanted}", *batch)
            ids.update((id_, lesson) for id_, lesson in rows)
        for memory in self.get_many(ids):
            found.setdefault(ids[memory.id], []).append(memory)
        return found

    def without_lesson(self, limit: int = 1000) -> Found:
        """Return memories of which nobody has said yet what near copies of them are found by."""
        return query.without_lesson(self._database, limit)

    def set_lessons(self, lessons: Mapping[str, str]) -> None:
        """Say by id what near copies of these memories are found by: a hash that equal lessons share."""
        if not lessons:
            return
        m = t.memories
        update = m.update().where(m.c.id == sa.bindparam("of")).values(lesson=sa.bindparam("as_"))
        with self._database.write() as connection:
            connection.execute(update, [{"of": id_, "as_": lesson} for id_, lesson in lessons.items()])

    def shown_in(self, trajectory_ids: Iterable[str]) -> dict[str, frozenset[str]]:
        """Return the ids of the memories that stood in the prompts of each of these trajectories."""
        c, found = t.recalls.c, dict[str, set[str]]()
        with self._database.read() as connection:
            for batch in chunks(dict.fromkeys(trajectory_ids)):
                shown = sa.select(c.trajectory_id, c.memory_id).where(~c.withheld, c.trajectory_id.in_(batch))
                for id_, memory_id in connection.execute(shown):
                    found.setdefault(id_, set()).add(memory_id)
        return {id_: frozenset(ids) for id_, ids in found.items()}

    def recalled_for(self, ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Return the ids of the trajectories that each of these memories was found for, sorted."""
        c, found = t.recalls.c, dict[str, tuple[str, ...]]()
        with self._database.read() as connection:
            for batch in chunks(dict.fromkeys(ids)):
                query = sa.select(c.memory_id, c.trajectory_id).where(c.memory_id.in_(batch)).distinct()
                for memory_id, trajectory_id in connection.execute(query.order_by(c.trajectory_id)):
                    found[memory_id] = (*found.get(memory_id, ()), trajectory_id)
        return found

    def successors(self, ids: Iterable[str]) -> dict[str, str]:
        """Return by id what took the place of those memories that are not current."""
        m, found = t.memories.c, dict[str, str]()
        with self._database.read() as connection:
            for batch in chunks(dict.fromkeys(ids)):
                query = sa.select(m.id, m.successor).where(m.id.in_(batch), m.current.is_(False))
                found |= {id_: after for id_, after in connection.execute(query) if after is not None}
        return found

    def index_mark(self, index: str) -> int:
        """Return the number of the last event that an index has followed; 0 for a new index."""
        query = sa.select(t.index_marks.c.seq).where(t.index_marks.c.name == index)
        with self._database.read() as connection:
            return connection.execute(query).scalar_one_or_none() or 0

    def set_index_mark(self, index: str, seq: int) -> None:
        """Remember how far an index is; 0 makes its next projection start from the first event."""
        with self._database.write(lasting=False) as connection:  # a lost mark costs a replay
            upsert(connection, t.index_marks, {"name": index, "seq": seq, "moved_at": now()})

    def clear_index_marks(self) -> None:
        """Let every index begin anew: what they followed was another copy of this ledger."""
        with self._database.write() as connection:
            connection.execute(t.index_marks.delete())

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


def _is_revoked(memory_id: str) -> DataError:
    return DataError(
        f"memory `{memory_id}` was revoked, which is for good", hint="admit another wording of the lesson"
    )
