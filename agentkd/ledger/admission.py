"""How memories come in: stored in few statements, merged with their equals, corroborated."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import sqlalchemy as sa

from agentkd.errors import NotFoundError
from agentkd.ledger import event
from agentkd.ledger import tables as t
from agentkd.ledger.body import load
from agentkd.ledger.database import chunks, known
from agentkd.ledger.redact import Redact
from agentkd.ledger.status import write_status
from agentkd.ledger.storing import Written, body_of, clean, link_evidence, store
from agentkd.schema import Evidence, Memory, Value
from agentkd.schema.memory import EXPIRES
from agentkd.trust import VOUCHING

__all__ = [
    "MOST_SPANS",
    "Admission",
    "Told",
    "add_evidence",
    "admit",
    "answer",
    "bring_back",
    "corroborate",
    "evidence_details",
    "merge_equal",
    "row_of",
    "rows_of",
    "unknown",
]

Outcome = Literal["stored", "merged", "rejected"]
T = TypeVar("T")

_AGED = re.compile(
    r"(?:utility-prune: in quarantine since \S+: )?(?:ttl: |utility-prune: (?:unused|no room): )"
)
"""Begins the reason of what was put away for its age, or for want of room, alone."""
MOST_SPANS = 64
"""Quotes that one memory keeps; the ids of its evidence are all kept."""


class Admission(Value):
    """What became of one candidate."""

    memory_id: str
    """The candidate."""
    outcome: Outcome
    """`merged` where an equal memory was there and took over the evidence."""
    reason: str = ""
    """Why it was merged or rejected."""


class Told(Value):
    """What the provenance gate said of a candidate."""

    reason: str = ""
    """Why it waits, or what let it in."""
    uncounted: frozenset[str] = frozenset()
    """Its trajectories that raise no support: their source weighs as much as it may."""


def admit(
    connection: sa.Connection,
    batch: Sequence[Memory],
    redact: Redact,
    lessons: Mapping[str, str],
    told: Mapping[str, Told] | None = None,
    written: Written | None = None,
) -> list[Admission]:
    """Store each candidate, merge it into the equal memory that is there, or say why not.

    `lessons` maps ids to what near copies are found by; see `Memories.admit`. `written` is told each memory
    that is stored as it was given.
    """
    told = told or {}
    rows = rows_of(connection, [memory.id for memory in batch])
    sources = _sources(connection, [memory.evidence for memory in batch])
    parents = known(connection, t.memories.c.id, [memory.parent for memory in batch if memory.parent])
    fresh: dict[str, Memory] = {}
    answers = []
    for memory in batch:
        if memory.id in fresh:  # the same lesson twice in one batch
            store(connection, fresh.values(), redact, lessons, told=told, written=written)
            rows.update(rows_of(connection, fresh))
            fresh.clear()
        missing = _missing(memory.evidence, sources)
        if memory.id in rows:
            beyond = told[memory.id].uncounted if memory.id in told else frozenset()
            answers.append(merge_equal(connection, rows[memory.id], clean(memory, redact), beyond))
            rows.update(rows_of(connection, [memory.id]))
        elif missing:
            answers.append(answer(memory, "rejected", f"its evidence `{missing[0]}` is not in the ledger"))
        elif memory.parent and memory.parent not in parents and memory.parent not in fresh:
            reason = f"its parent `{memory.parent}` is not in the ledger"
            answers.append(answer(memory, "rejected", reason))
        else:
            fresh[memory.id] = memory
            answers.append(answer(memory, "stored", ""))
    store(connection, fresh.values(), redact, lessons, told=told, written=written)
    return answers


def merge_equal(
    connection: sa.Connection, row: sa.RowMapping, memory: Memory, uncounted: Collection[str] = ()
) -> Admission:
    """Let the equal memory that is there take over the evidence, which holds no secrets any more.

    A revoked or replaced one refuses.
    """
    if row["status"] == "revoked":
        return answer(memory, "rejected", f"it was revoked: {row['status_reason']}")
    missing = _missing(memory.evidence, _sources(connection, [memory.evidence]))
    if missing:
        return answer(memory, "rejected", f"its evidence `{missing[0]}` is not in the ledger")
    if not row["current"]:
        heir = _heir_of(connection, row)
        if heir is not None:
            rise = corroborate(connection, heir, memory.evidence, uncounted, memory.trust)
            reason = f"`{heir}` says it now, whose support rose by {rise}"
            return Admission(memory_id=heir, outcome="merged", reason=reason)
        was = f"superseded by `{row['successor']}`" if row["successor"] else "taken back"
        if not (row["successor"] and _is_said_anew(connection, row, memory)):
            return answer(memory, "rejected", f"it was {was}")
        why = f"it was {was}, and a newer correction says it again"
        return bring_back(connection, row, memory, why, uncounted)
    added = add_evidence(connection, row, memory.evidence, uncounted)
    n_new = _count(added)
    until = _prolonged(connection, row, memory)
    if n_new:
        reason = f"{n_new} new pieces of evidence" + until
        event.append(connection, memory.id, "merged", reason, details=evidence_details(added, uncounted))
    elif until:
        event.append(connection, memory.id, "merged", "said again" + until)
    if _active_again(connection, row, n_new, memory.trust):
        return answer(memory, "merged", "an equal memory is there, and active again")
    return answer(memory, "merged", f"an equal memory is there; new evidence: {n_new}")


def bring_back(
    connection: sa.Connection,
    row: sa.RowMapping,
    memory: Memory,
    reason: str,
    uncounted: Collection[str] = (),
) -> Admission:
    """Make an earlier memory the current one again, with what it rests on now."""
    where = t.memories.c.id == memory.id
    connection.execute(t.memories.update().where(where).values(current=True, successor=None))
    added = add_evidence(connection, row, memory.evidence, uncounted)
    details = evidence_details(added, uncounted) if added != Evidence() else {}
    event.append(connection, memory.id, "reactivated", reason, current=True, details=details)
    return answer(memory, "merged", reason)


def _prolonged(connection: sa.Connection, row: sa.RowMapping, memory: Memory) -> str:
    """Let a memory that is there hold as long as the later of two sources says; returns a clause on it."""
    until, before = memory.holds_until, load(Memory, row["body"]).holds_until
    if until is None or before is None or until <= before:
        return ""
    where = t.memories.c.id == memory.id
    body = connection.execute(sa.select(t.memories.c.body).where(where)).scalar_one()
    now = load(Memory, body)
    longer = now.model_copy(update={"extras": {**now.extras, EXPIRES: memory.extras[EXPIRES]}})
    connection.execute(t.memories.update().where(where).values(body=body_of(longer)))
    return f"; it holds until {until:%Y-%m-%d %H:%M} UTC now, no longer {before:%Y-%m-%d %H:%M}"


def _active_again(connection: sa.Connection, row: sa.RowMapping, n_new: int, trust: str) -> bool:
    """Let a memory be recalled again that was put away for its age, or for want of room, alone."""
    is_aged = row["status"] in ("quarantined", "tombstone") and _AGED.match(row["status_reason"])
    if not is_aged or "untrusted" in (trust, load(Memory, row["body"]).trust):
        return False
    reason = "learnt again"
    if not n_new:
        event.append(connection, row["id"], "merged", reason)
    write_status(connection, row["id"], "active", reason)
    event.append(connection, row["id"], "activated", reason, status="active")
    return True


def _is_said_anew(connection: sa.Connection, row: sa.RowMapping, memory: Memory) -> bool:
    """Whether a candidate brings a correction of a person or a grader that its equal does not rest on."""
    new = _new(load(Memory, row["body"]).evidence.corrections, memory.evidence.corrections)
    c = t.corrections.c
    query = sa.select(sa.func.count()).where(c.id.in_(new), c.source.in_(VOUCHING))
    return bool(new) and bool(connection.execute(query).scalar())


def _heir_of(connection: sa.Connection, row: sa.RowMapping) -> str | None:
    """Return the current memory that says what a memory said, through any number of merges and rewordings."""
    while row["successor"] is not None:
        e = t.memory_events.c
        closed = event.find(connection, e.memory_id == row["id"], e.kind == "superseded")
        after = row_of(connection, row["successor"])
        if not closed or after is None or after["status"] == "revoked":
            return None
        is_merged = event.is_merge(closed[-1], row["successor"])
        if not is_merged and "reworded_by" not in load(Memory, after["body"]).extras:
            return None
        if after["current"]:
            return str(after["id"])
        row = after
    return None


def corroborate(
    connection: sa.Connection, memory_id: str, evidence: Evidence, uncounted: Collection[str], trust: str
) -> int:
    """Add evidence that is new, raise the support by its new trajectories, and return by how much.

    Those in `uncounted` raise nothing. What age alone had put away is active again, but for untrusted words.
    """
    row = row_of(connection, memory_id)
    if row is None:
        raise unknown(memory_id)
    missing = _missing(evidence, _sources(connection, [evidence]))
    if missing:
        raise NotFoundError(f"evidence `{missing[0]}` of memory `{memory_id}` is not in the ledger")
    added = add_evidence(connection, row, evidence, uncounted)
    if _count(added):
        reason = f"{_count(added)} new pieces of evidence"
        event.append(
            connection, memory_id, "corroborated", reason, details=evidence_details(added, uncounted)
        )
    _active_again(connection, row, _count(added), trust)
    return _rise(added, uncounted)


def add_evidence(
    connection: sa.Connection, row: sa.RowMapping, more: Evidence, uncounted: Collection[str] = ()
) -> Evidence:
    """Unite the evidence of a stored memory with `more` and return what was new."""
    memory = load(Memory, row["body"])
    old = memory.evidence
    added = Evidence(
        trajectories=_new(old.trajectories, more.trajectories),
        corrections=_new(old.corrections, more.corrections),
        steps=_new(old.steps, more.steps),
        spans=_new(old.spans, more.spans)[: max(MOST_SPANS - len(old.spans), 0)],
    )
    if added == Evidence():
        return added
    united = Evidence(
        **{name: (*getattr(old, name), *getattr(added, name)) for name in Evidence.model_fields}
    )
    link_evidence(connection, [(memory.id, added)])
    values = {
        "support": t.memories.c.support + _rise(added, uncounted),
        "body": body_of(memory.model_copy(update={"evidence": united})),
    }
    connection.execute(t.memories.update().where(t.memories.c.id == memory.id).values(values))
    return added


def _new(old: Iterable[T], more: Iterable[T]) -> tuple[T, ...]:
    there = set(old)
    return tuple(item for item in dict.fromkeys(more) if item not in there)


def _count(added: Evidence) -> int:
    return len(added.trajectories) + len(added.corrections) + len(added.steps)


def _rise(added: Evidence, uncounted: Collection[str]) -> int:
    return len(set(added.trajectories).difference(uncounted))


def evidence_details(added: Evidence, uncounted: Collection[str]) -> dict[str, Any]:
    """Return what an event tells of new evidence: what it is, and by how much the support rose."""
    evidence = added.model_dump(mode="json", exclude_defaults=True)
    return {"evidence": evidence, "support": _rise(added, uncounted)}


def _sources(connection: sa.Connection, batch: Iterable[Evidence]) -> set[str]:
    """Return those ids of some evidence that the ledger holds."""
    found = list(batch)
    there = known(connection, t.trajectories.c.id, (id_ for e in found for id_ in e.trajectories))
    return there | known(connection, t.corrections.c.id, (id_ for e in found for id_ in e.corrections))


def _missing(evidence: Evidence, there: set[str]) -> list[str]:
    return [id_ for id_ in (*evidence.trajectories, *evidence.corrections) if id_ not in there]


def rows_of(connection: sa.Connection, ids: Iterable[str]) -> dict[str, sa.RowMapping]:
    """Return the rows of memories by id."""
    m, found = t.memories, dict[str, sa.RowMapping]()
    for batch in chunks(dict.fromkeys(ids)):
        query = sa.select(m).where(m.c.id.in_(batch))
        found.update((row["id"], row) for row in connection.execute(query).mappings())
    return found


def row_of(connection: sa.Connection, memory_id: str) -> sa.RowMapping | None:
    """Return a memory's row."""
    return rows_of(connection, [memory_id]).get(memory_id)


def answer(memory: Memory, outcome: Outcome, reason: str) -> Admission:
    """Say what became of a candidate."""
    return Admission(memory_id=memory.id, outcome=outcome, reason=reason)


def unknown(memory_id: str) -> NotFoundError:
    """Return the error for an id that no memory has."""
    return NotFoundError(f"there is no memory `{memory_id}`", hint="`agentkd memory list` shows them")
