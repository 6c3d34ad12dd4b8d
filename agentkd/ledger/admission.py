"""How memories come in and change: admit, merge, corroborate, supersede. Each runs in a transaction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import sqlalchemy as sa

from agentkd.errors import DataError, NotFoundError
from agentkd.ledger import event
from agentkd.ledger import tables as t
from agentkd.ledger.database import dump, insert_many, insert_once, known, load
from agentkd.ledger.redact import Redact, redact_json
from agentkd.schema import Evidence, Memory, Value, now

__all__ = ["Admission", "admit", "corroborate", "supersede"]

Outcome = Literal["stored", "merged", "rejected"]

_KEPT = (("id",), ("parent",), ("evidence",))


class Admission(Value):
    """What became of one candidate."""

    memory_id: str
    """The candidate."""
    outcome: Outcome
    """`merged` where an equal memory was there and took over the evidence."""
    reason: str = ""
    """Why it was merged or rejected."""


def admit(connection: sa.Connection, memory: Memory, redact: Redact) -> Admission:
    """Store a candidate, merge it into the equal memory that is there, or say why not."""
    row = _row_of(connection, memory.id)
    if row is not None:
        return _merge(connection, row, memory)
    missing = _missing_evidence(connection, memory.evidence)
    if missing:
        return _answer(memory, "rejected", f"its evidence `{missing[0]}` is not in the ledger")
    if memory.parent and not known(connection, t.memories.c.id, [memory.parent]):
        return _answer(memory, "rejected", f"its parent `{memory.parent}` is not in the ledger")
    _store(connection, memory, redact)
    return _answer(memory, "stored", "")


def _merge(connection: sa.Connection, row: sa.RowMapping, memory: Memory) -> Admission:
    if row["status"] == "revoked":
        return _answer(memory, "rejected", f"it was revoked: {row['reason']}")
    if not row["current"]:
        return _answer(memory, "rejected", f"it was superseded by `{row['successor']}`")
    missing = _missing_evidence(connection, memory.evidence)
    if missing:
        return _answer(memory, "rejected", f"its evidence `{missing[0]}` is not in the ledger")
    n_new = _add_evidence(connection, row, memory.evidence)
    if n_new:
        event.append(connection, memory.id, "merged", f"{n_new} new pieces of evidence")
    return _answer(memory, "merged", f"an equal memory is there; new evidence: {n_new}")


def corroborate(connection: sa.Connection, memory_id: str, evidence: Evidence) -> int:
    """Add evidence that is new, raise the support by its new trajectories, and return their number."""
    row = _row_of(connection, memory_id)
    if row is None:
        raise NotFoundError(f"there is no memory `{memory_id}`", hint="`agentkd memory list` shows them")
    missing = _missing_evidence(connection, evidence)
    if missing:
        raise NotFoundError(f"evidence `{missing[0]}` of memory `{memory_id}` is not in the ledger")
    before = int(row["support"])
    n_new = _add_evidence(connection, row, evidence)
    if n_new:
        event.append(connection, memory_id, "corroborated", f"{n_new} new pieces of evidence")
    after = connection.execute(
        sa.select(t.memories.c.support).where(t.memories.c.id == memory_id)
    ).scalar_one()
    return int(after) - before


def supersede(connection: sa.Connection, old_id: str, new: Memory, redact: Redact) -> Admission:
    """Put a new version in the place of a current memory; the old one stays on record."""
    old = _row_of(connection, old_id)
    if old is None:
        raise NotFoundError(f"there is no memory `{old_id}`", hint="`agentkd memory list` shows them")
    if new.id == old_id:
        return _merge(connection, old, new)
    if old["successor"] == new.id:
        return _answer(new, "merged", f"it had superseded `{old_id}` before")
    if not old["current"]:
        raise DataError(
            f"memory `{old_id}` was superseded by `{old['successor']}` already",
            hint="supersede the current version",
        )
    there = _row_of(connection, new.id)
    if there is not None and there["current"]:
        answer = _merge(connection, there, new)
    elif there is not None and there["status"] != "revoked":
        answer = _bring_back(connection, there, new)
    else:
        version = new.model_copy(update={"version": old["version"] + 1, "parent": old_id})
        answer = admit(connection, version, redact)
    if answer.outcome != "rejected":
        _close(connection, old_id, new.id)
    return answer


def _bring_back(connection: sa.Connection, row: sa.RowMapping, memory: Memory) -> Admission:
    """Make an earlier version the current one again."""
    where = t.memories.c.id == memory.id
    connection.execute(t.memories.update().where(where).values(current=True, successor=None))
    _add_evidence(connection, row, memory.evidence)
    event.append(connection, memory.id, "reactivated", "it is the current version again")
    return _answer(memory, "merged", "an earlier version is current again")


def _close(connection: sa.Connection, old_id: str, new_id: str) -> None:
    where = t.memories.c.id == old_id
    connection.execute(t.memories.update().where(where).values(current=False, successor=new_id))
    event.append(connection, old_id, "superseded", f"by `{new_id}`")


def _store(connection: sa.Connection, memory: Memory, redact: Redact) -> None:
    data, _ = redact_json(memory.model_dump(mode="json"), redact, keep=_KEPT)
    insert_once(
        connection,
        t.memories,
        {
            "id": memory.id,
            "kind": memory.kind,
            "origin": memory.origin,
            "privacy": memory.privacy,
            **memory.scope.model_dump(),
            "version": memory.version,
            "parent": memory.parent or None,
            "successor": None,
            "current": True,
            "support": memory.support,
            **memory.utility.model_dump(),
            "created_at": memory.created_at,
            "body": dump(data),
        },
    )
    _link_evidence(connection, memory.id, memory.evidence)
    status = {
        "memory_id": memory.id,
        "checkpoint": "base",
        "status": memory.status,
        "reason": "admitted",
        "changed_at": now(),
    }
    insert_once(connection, t.memory_status, status)
    event.append(connection, memory.id, "admitted", f"as {memory.status}, by `{memory.origin}`")


def _add_evidence(connection: sa.Connection, row: sa.RowMapping, more: Evidence) -> int:
    """Unite the evidence of a stored memory with `more` and return the number of new pieces."""
    memory = load(Memory, row["body"])
    old = memory.evidence
    united = Evidence(
        trajectories=_united(old.trajectories, more.trajectories),
        corrections=_united(old.corrections, more.corrections),
        steps=_united(old.steps, more.steps),
    )
    if united == old:
        return 0
    _link_evidence(connection, memory.id, united)
    n_new = len(united.trajectories) - len(old.trajectories)
    values = {
        "support": t.memories.c.support + n_new,
        "body": dump(memory.model_copy(update={"evidence": united})),
    }
    connection.execute(t.memories.update().where(t.memories.c.id == memory.id).values(values))
    return n_new + len(united.corrections) - len(old.corrections) + len(united.steps) - len(old.steps)


def _united(old: Iterable[str], new: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*old, *new)))


def _link_evidence(connection: sa.Connection, memory_id: str, evidence: Evidence) -> None:
    for table, ids in (
        (t.memory_trajectories, evidence.trajectories),
        (t.memory_corrections, evidence.corrections),
    ):
        insert_many(connection, table, [{"source": memory_id, "target": id_} for id_ in ids])


def _missing_evidence(connection: sa.Connection, evidence: Evidence) -> list[str]:
    there = known(connection, t.trajectories.c.id, evidence.trajectories)
    there |= known(connection, t.corrections.c.id, evidence.corrections)
    return [id_ for id_ in (*evidence.trajectories, *evidence.corrections) if id_ not in there]


def _row_of(connection: sa.Connection, memory_id: str) -> sa.RowMapping | None:
    """Return a memory's row with its base status and the reason of it."""
    m, s = t.memories, t.memory_status
    query = (
        sa.select(m, s.c.status, s.c.reason)
        .join(s, sa.and_(s.c.memory_id == m.c.id, s.c.checkpoint == "base"))
        .where(m.c.id == memory_id)
    )
    return connection.execute(query).mappings().one_or_none()


def _answer(memory: Memory, outcome: Outcome, reason: str) -> Admission:
    return Admission(memory_id=memory.id, outcome=outcome, reason=reason)
