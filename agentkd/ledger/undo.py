"""Take the last edit of a memory back: a merge, a new version or a status. An undo is an event too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from agentkd.errors import DataError
from agentkd.ledger import event
from agentkd.ledger import tables as t
from agentkd.ledger.admission import add_evidence, evidence_details, row_of, rows_of, unknown
from agentkd.ledger.body import load
from agentkd.ledger.database import chunks
from agentkd.ledger.event import MemoryEvent
from agentkd.ledger.status import write_status
from agentkd.ledger.storing import body_of
from agentkd.ledger.trust import SEEN, mark
from agentkd.ledger.version import COUNTERS, united_counters
from agentkd.schema import Evidence, Memory, MemoryKeys

__all__ = ["STATUS_KINDS", "descendants", "overruled", "refuse_without_key", "release_parts", "undo"]

STATUS_KINDS = ("quarantined", "activated", "compiled", "retired", "tombstone", "revoked", "reactivated")


def undo(connection: sa.Connection, memory_id: str, reason: str) -> tuple[str, ...]:
    """Take the last merge, supersession or change of status of a memory back; returns the ids changed.

    Raises DataError where there is nothing to take back, where the memory was revoked, or where a later
    edit stands in the way.
    """
    if row_of(connection, memory_id) is None:
        raise unknown(memory_id)
    last = _last_edit(connection, memory_id)
    if last is None:
        raise DataError(
            f"memory `{memory_id}` has no edit that could be taken back",
            hint=f"`agentkd memory history {memory_id}` shows what happened to it",
        )
    if last.kind == "revoked":
        raise DataError(
            f"memory `{memory_id}` was revoked, which is for good", hint="admit another wording of the lesson"
        )
    if last.kind == "superseded":
        if "with" in last.details:
            return _undo_merge(connection, last.details["by"], reason, last.memory_id)
        return _undo_version(connection, last, reason)
    if last.kind in ("admitted", "united"):
        return _undo_merge(connection, memory_id, reason)
    return _undo_status(connection, last, reason)


def _last_edit(connection: sa.Connection, memory_id: str) -> MemoryEvent | None:
    """Return the newest edit of a memory that has not been taken back."""
    events = event.find(connection, t.memory_events.c.memory_id == memory_id)
    undone = {seq for e in events if e.kind == "undone" for seq in e.details.get("undoes", ())}
    for e in reversed(events):
        is_status = e.kind in STATUS_KINDS and e.status != "" and not e.details.get("inherited")
        is_edit = e.kind in ("superseded", "united") or (e.kind == "admitted" and "parents" in e.details)
        if e.seq not in undone and (is_status or is_edit):
            return e
    made_from = sa.select(t.memory_parents.c.target).where(t.memory_parents.c.source == memory_id)
    for parent in connection.execute(made_from).scalars():
        if (row := row_of(connection, parent)) is not None and row["successor"] == memory_id:
            return _last_edit(connection, parent)  # it is the new version of another one
    return None


def _undo_status(connection: sa.Connection, last: MemoryEvent, reason: str) -> tuple[str, ...]:
    e = t.memory_events.c
    said = e.status != ""
    if last.checkpoint != "base":  # an undo may have said that it has none of its own there
        said |= e.kind == "undone"
    before = connection.execute(
        sa.select(e.status)
        .where(e.memory_id == last.memory_id, e.checkpoint == last.checkpoint, e.seq < last.seq, said)
        .order_by(e.seq.desc())
        .limit(1)
    ).scalar_one_or_none()
    if before in SEEN:
        refuse_without_key(connection, last.memory_id)
    if last.details.get("trust"):  # the gate holds it back again
        mark(connection, last.memory_id, last.details["trust"])
    if not before:  # it had none of its own where this checkpoint serves
        s = t.memory_status
        where = (s.c.memory_id == last.memory_id, s.c.checkpoint == last.checkpoint)
        connection.execute(s.delete().where(*where))
    else:
        write_status(connection, last.memory_id, before, reason, last.checkpoint)
    _note(connection, last, reason, status=before or "")
    return (last.memory_id,)


def refuse_without_key(connection: sa.Connection, memory_id: str, newer: str = "") -> None:
    """Raise DataError for the value of a store that no key holds: recall would know it, the store not.

    The key may hold the `newer` value instead, where that one makes room.
    """
    from agentkd.ledger.item import ITEM_ORIGIN

    where = t.memories.c.id == memory_id, t.memories.c.origin == ITEM_ORIGIN
    is_item = connection.execute(sa.select(sa.func.count()).where(*where)).scalar()
    held = sa.select(sa.func.count()).where(t.store_items.c.memory_id.in_((memory_id, newer)))
    if is_item and not connection.execute(held).scalar():
        raise DataError(
            f"`{memory_id}` is the value of a store's key that was deleted, or holds another one",
            hint="put the value into the store again",
        )


def _undo_version(connection: sa.Connection, last: MemoryEvent, reason: str) -> tuple[str, ...]:
    changed = [last.memory_id]
    refuse_without_key(connection, last.memory_id, last.details.get("by", ""))
    if last.details.get("made") or "before" in last.details:
        newer = _current_row(connection, last.details["by"], f"`{last.memory_id}`")
        _set_current(connection, newer["id"], False, last.details.get("before") or last.memory_id)
        why = f"`{last.memory_id}` is current again: {reason}"
        event.append(connection, newer["id"], "undone", why, current=False)
        changed.append(newer["id"])
        item = t.store_items.c.memory_id == newer["id"]  # a key of a store held the newer one
        connection.execute(t.store_items.update().where(item).values(memory_id=last.memory_id))
    _set_current(connection, last.memory_id, True, None)
    _note(connection, last, reason, current=True)
    return tuple(changed)


def _undo_merge(connection: sa.Connection, union_id: str, reason: str, part: str = "") -> tuple[str, ...]:
    """Make the parts of the newest merge current again with their own counters.

    What the union gained stays with it or them. Raises DataError where it has taken in others since `part`.
    """
    union = _current_row(connection, union_id, "its parts")
    found = event.find(connection, t.memory_events.c.memory_id == union_id)
    undone = {seq for e in found if e.kind == "undone" for seq in e.details.get("undoes", ())}
    last = next(e for e in reversed(found) if "parents" in e.details and e.seq not in undone)
    if part and part not in last.details["parents"]:
        raise DataError(
            f"`{union_id}`, which took `{part}` in, has taken in others since",
            hint=f"take the newer merges back first: `agentkd memory undo {union_id}`",
        )
    parts = rows_of(connection, last.details["parents"])
    for id_ in parts:
        _set_current(connection, id_, True, None)
        closing = event.find(
            connection, t.memory_events.c.memory_id == id_, t.memory_events.c.kind == "superseded"
        )[-1]
        _note(connection, closing, reason, current=True)
    if last.kind == "united":
        _give_back(connection, union, parts, last.details)
        keys = load(Memory, union["body"]).keys.model_dump(mode="json", exclude_defaults=True)
        taken = {"taken": last.details.get("evidence", {}), "support": -last.details["support"], "keys": keys}
        _note(connection, last, reason, details=taken)
    else:
        _pass_on(connection, union, parts)
        _set_current(connection, union_id, False, None)
        _note(connection, last, reason, current=False)
    return (union_id, *parts)


def _own(union: sa.RowMapping, counted: Mapping[str, int]) -> dict[str, int]:
    """Return what a union counted itself: outcomes of its parts that came late count for both."""
    return {name: max(0, union[name] - counted[name]) for name in COUNTERS}


def _give_back(
    connection: sa.Connection,
    union: sa.RowMapping,
    parts: Mapping[str, sa.RowMapping],
    taken: Mapping[str, Any],
) -> None:
    """Take out of a memory what a merge had put in; what it gained since stays."""
    memory = load(Memory, union["body"])
    gone = Evidence.model_validate(taken.get("evidence", {}))
    kept = Evidence(
        **{
            name: tuple(x for x in getattr(memory.evidence, name) if x not in getattr(gone, name))
            for name in Evidence.model_fields
        }
    )
    keys = MemoryKeys.model_validate(taken.get("keys", {}))
    values = {
        "body": body_of(memory.model_copy(update={"evidence": kept, "keys": keys})),
        "support": union["support"] - taken["support"],
        **_own(union, united_counters(connection, {memory.id: union}, parts)),
    }
    connection.execute(t.memories.update().where(t.memories.c.id == memory.id).values(values))
    for table, ids in (
        (t.memory_trajectories, gone.trajectories),
        (t.memory_corrections, gone.corrections),
        (t.memory_parents, tuple(taken["parents"])),
    ):
        connection.execute(table.delete().where(table.c.source == memory.id, table.c.target.in_(ids)))


def _pass_on(connection: sa.Connection, union: sa.RowMapping, parts: Mapping[str, sa.RowMapping]) -> None:
    """Give every part what its union gained: each recall and each run of the union was one of the part."""
    gained = _own(union, united_counters(connection, {}, parts))
    evidence = load(Memory, union["body"]).evidence
    known = [load(Memory, row["body"]).evidence for row in parts.values()]
    fresh = Evidence(
        **{
            name: tuple(x for x in getattr(evidence, name) if not any(x in getattr(e, name) for e in known))
            for name in Evidence.model_fields
        }
    )
    uncounted = _uncounted(connection, union["id"])
    for id_, row in parts.items():
        added = add_evidence(connection, row, fresh, uncounted)
        m = t.memories.c
        values = {name: m[name] + number for name, number in gained.items()}
        connection.execute(t.memories.update().where(m.id == id_).values(values))
        if added != Evidence():
            why = f"what `{union['id']}` gained while it stood for this memory"
            event.append(connection, id_, "corroborated", why, details=evidence_details(added, uncounted))


def _uncounted(connection: sa.Connection, memory_id: str) -> set[str]:
    """Return as many of a memory's runs as raised nothing: their source weighed as much as it may."""
    found = set[str]()
    for told in event.find(connection, t.memory_events.c.memory_id == memory_id):
        runs = told.details.get("evidence", {}).get("trajectories", ())
        if told.kind in ("corroborated", "merged"):
            found.update(runs[told.details.get("support", len(runs)) :])
    return found


def release_parts(connection: sa.Connection, memory_id: str, reason: str) -> tuple[str, ...]:
    """Free a memory from the merges that it is a part of, before it is revoked; returns the ids changed.

    What its union took in after it is freed too: a merge can be taken back only in turn.
    """
    row = row_of(connection, memory_id)
    if row is None or row["current"] or row["successor"] is None:
        return ()
    changed = list(release_parts(connection, row["successor"], reason))  # the outermost merge first
    closed = event.find(
        connection, t.memory_events.c.memory_id == memory_id, t.memory_events.c.kind == "superseded"
    )
    if not closed or not event.is_merge(closed[-1], row["successor"]):
        return tuple(changed)
    while not _is_current(connection, memory_id) and _is_current(connection, row["successor"]):
        changed += _undo_merge(connection, row["successor"], reason)
    return tuple(changed)


def descendants(connection: sa.Connection, ids: Iterable[str]) -> set[str]:
    """Return the ids of all memories that were made from these, directly or not."""
    p = t.memory_parents.c
    start = set(ids)
    found, front = set[str](), start
    while front:
        near = (
            connection.execute(sa.select(p.source).where(p.target.in_(b))).scalars() for b in chunks(front)
        )
        front = {id_ for group in near for id_ in group} - found
        found |= front
    return found - start


def overruled(connection: sa.Connection) -> list[tuple[str, str, frozenset[str]]]:
    """Return what people took back: who had edited (the head of the reason), the kind, and the ids.

    Of a merge the kind is `united`, and the ids are those of all memories that became one.
    """
    e = t.memory_events.c
    undone = event.find(connection, e.kind.in_(("undone", "reactivated")), e.details != "")
    taken_back = {seq for found in undone for seq in found.details.get("undoes", ())}
    seqs = [seq for x in undone if x.seq not in taken_back for seq in x.details.get("undoes", ())]
    if not seqs:
        return []
    edits = [x for x in event.find(connection, e.seq.in_(seqs)) if "parents" not in x.details]
    return [(_editor(x.reason), "united" if "with" in x.details else x.kind, _concerned(x)) for x in edits]


def _concerned(edit: MemoryEvent) -> frozenset[str]:
    """Return the memories that an edit closed, and the one that was there and took their place."""
    if "with" not in edit.details:
        is_by_known = edit.kind == "superseded" and not edit.details.get("made")
        return frozenset({edit.memory_id, *([edit.details["by"]] if is_by_known else [])})
    return frozenset(edit.details["with"]) | (set() if edit.details["made"] else {edit.details["by"]})


def _editor(reason: str) -> str:
    """Return the refiner that a reason names: `by X: merge: ...` and `merge: ...` both name `merge`."""
    words = reason.split(": ")
    return words[1] if len(words) > 2 and words[0].startswith("by `") else words[0]


def _current_row(connection: sa.Connection, memory_id: str, for_: str) -> sa.RowMapping:
    row = row_of(connection, memory_id)
    if row is None:
        raise unknown(memory_id)
    if not row["current"]:
        raise DataError(
            f"`{memory_id}`, which took the place of {for_}, was itself replaced by `{row['successor']}`",
            hint=f"take that back first: `agentkd memory undo {memory_id}`",
        )
    return row


def _is_current(connection: sa.Connection, memory_id: str) -> bool:
    row = row_of(connection, memory_id)
    return row is not None and bool(row["current"])


def _set_current(connection: sa.Connection, memory_id: str, is_current: bool, successor: str | None) -> None:
    where = t.memories.c.id == memory_id
    connection.execute(t.memories.update().where(where).values(current=is_current, successor=successor))


def _note(
    connection: sa.Connection,
    undone: MemoryEvent,
    reason: str,
    *,
    status: str = "",
    current: bool | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    why = f"{undone.kind} taken back: {reason}" if reason else f"{undone.kind} taken back"
    event.append(
        connection, undone.memory_id, "undone", why, undone.checkpoint, status=status, current=current,
        details={"undoes": _seqs([undone]), **(details or {})},
    )  # fmt: skip


def _seqs(events: Iterable[MemoryEvent]) -> list[int]:
    return [e.seq for e in events]
