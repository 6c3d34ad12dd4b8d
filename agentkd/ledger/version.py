"""How memories take each other's place: new versions and merges; the old ones stay on record.

Every step writes what an undo needs into the events, see `undo.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from agentkd.errors import DataError
from agentkd.ledger import event
from agentkd.ledger import tables as t
from agentkd.ledger.admission import (
    MOST_SPANS,
    Admission,
    admit,
    answer,
    bring_back,
    merge_equal,
    row_of,
    rows_of,
    unknown,
)
from agentkd.ledger.body import load
from agentkd.ledger.redact import Redact
from agentkd.ledger.storing import body_of, clean, link_evidence, link_parents, store
from agentkd.ledger.utility import overlap
from agentkd.schema import Evidence, Memory, Utility

__all__ = ["COUNTERS", "merge", "supersede", "united_counters"]

COUNTERS = tuple(Utility.model_fields)
"""Columns that count what a memory did."""

Rows = Mapping[str, sa.RowMapping]


def supersede(
    connection: sa.Connection, old_id: str, new: Memory, redact: Redact, reason: str = ""
) -> Admission:
    """Put a new version in the place of a current memory; the old one stays on record."""
    new = clean(new, redact)
    old = row_of(connection, old_id)
    if old is None:
        raise unknown(old_id)
    if new.id == old_id:
        return merge_equal(connection, old, new)
    if old["successor"] == new.id:
        return answer(new, "merged", f"it had superseded `{old_id}` before")
    if not old["current"]:
        raise DataError(
            f"memory `{old_id}` was superseded by `{old['successor']}` already",
            hint="supersede the current version",
        )
    details: dict[str, Any] = {"by": new.id}
    there = row_of(connection, new.id)
    if there is not None and there["current"]:
        said = merge_equal(connection, there, new)
    elif there is not None and there["status"] != "revoked":
        details["before"] = there["successor"]
        said = bring_back(connection, there, new, "it is the current version again")
    else:
        details["made"] = True
        before = load(Memory, old["body"])
        version = new.model_copy(update={"version": old["version"] + 1, "parent": old_id})
        if _is_reworded(before, new):  # evidence may have come in while the teacher wrote
            evidence, support = _united_evidence([new.evidence, before.evidence], [old])
            version = version.model_copy(update={"evidence": evidence, "support": max(new.support, support)})
        said = admit(connection, [version], redact, {})[0]
        if said.outcome == "stored" and _is_rewording(before, new):
            _inherit_statuses(connection, new.id, [old_id], "as the version before it")
    if said.outcome != "rejected":
        _close(connection, old_id, new.id, reason, details)
    return said


def _is_rewording(old: Memory, new: Memory) -> bool:
    """Whether a new version says the same as the old one: who learnt that one needs neither.

    It does with the same calls in the same situation, or where a teacher reworded it, which keeps every name
    and every `never`. What else changed is another lesson: the weights hold the old one.
    """
    is_same_case = bool(new.calls) and new.when_to_use == old.when_to_use
    return new.kind == old.kind and new.calls == old.calls and (is_same_case or _is_reworded(old, new))


def _is_reworded(old: Memory, new: Memory) -> bool:
    return "reworded_by" in new.extras and "reworded_by" not in old.extras


def _close(
    connection: sa.Connection, old_id: str, new_id: str, reason: str, details: Mapping[str, Any]
) -> None:
    where = t.memories.c.id == old_id
    connection.execute(t.memories.update().where(where).values(current=False, successor=new_id))
    why = f"by `{new_id}`" + (f": {reason}" if reason else "")
    event.append(connection, old_id, "superseded", why, current=False, details=details)


def merge(
    connection: sa.Connection, ids: Sequence[str], union: Memory, redact: Redact, reason: str
) -> Admission:
    """Let one memory take the place of several: evidence and counters united, all versions kept.

    The union may be one of them (or another memory that is current): then it takes the others in.
    Raises DataError for memories that cannot be merged: replaced, revoked, of another scope or privacy.
    """
    wanted, union = dict.fromkeys(ids), clean(union, redact)
    rows = rows_of(connection, [*wanted, union.id])
    for id_ in wanted:
        if id_ not in rows:
            raise unknown(id_)
    there = rows.get(union.id)
    if there is not None and not there["current"]:
        return answer(union, "rejected", f"`{union.id}` was there before and was replaced or taken back")
    _check_parts(rows, union)
    parts = {id_: row for id_, row in rows.items() if id_ != union.id}
    if not parts:
        return answer(union, "rejected", "a merge takes several memories")
    if there is not None:
        said = _take_in(connection, there, parts, union, reason)
    else:
        said = _unite(connection, parts, union, redact, reason)
    link_parents(connection, [(union.id, id_) for id_ in parts])
    for id_ in parts:
        details = {"by": union.id, "with": sorted(parts), "made": there is None}
        _close(connection, id_, union.id, reason, details)
    return said


def _check_parts(rows: Rows, union: Memory) -> None:
    for id_, row in rows.items():
        if not row["current"] or row["status"] == "revoked":
            was = "revoked" if row["status"] == "revoked" else f"replaced by `{row['successor']}`"
            raise DataError(f"memory `{id_}` cannot be merged: it was {was}", hint="merge current memories")
        if any(row[field] != value for field, value in union.scope.model_dump().items()):
            raise DataError(
                f"memory `{id_}` cannot be merged into another scope", hint="a merge stays in one scope"
            )
        if load(Memory, row["body"]).trust == "untrusted" and id_ != union.id:
            raise DataError(
                f"memory `{id_}` waits in quarantine and cannot become a part of another one",
                hint=f"`agentkd memory admit {id_}` lets it in first",
            )
        if row["privacy"] == "private" and union.privacy != "private":
            raise DataError(
                f"memory `{id_}` is private and cannot be merged into a shared one",
                hint="make the union private",
            )


def _unite(connection: sa.Connection, parts: Rows, union: Memory, redact: Redact, reason: str) -> Admission:
    """Store a new memory that holds the evidence and the counters of its parts."""
    evidence, support = _united_evidence([*map(_evidence, parts.values()), union.evidence], parts.values())
    counters = united_counters(connection, {}, parts)
    first = next(iter(parts))
    whole = union.model_copy(
        update={
            "evidence": evidence,
            "support": support,
            "utility": Utility(**counters),
            "version": max(row["version"] for row in parts.values()) + 1,
            "parent": first,
            "status": "active" if union.status == "candidate" else union.status,
        }
    )
    details = {"parents": sorted(parts), "counters": counters}
    store(connection, [whole], redact, {}, details, f"as the union of {len(parts)} memories: {reason}")
    _inherit_statuses(connection, union.id, list(parts), "as all its parts")
    return answer(union, "stored", "")


def united_counters(connection: sa.Connection, holder: Rows, parts: Rows) -> dict[str, int]:
    """Return what parts add to the counters of a union, and of `holder` where it was there before."""
    twice = dict(zip(COUNTERS, overlap(connection, [*holder, *parts]), strict=True))
    return {name: sum(row[name] for row in parts.values()) - twice[name] for name in COUNTERS}


def _take_in(
    connection: sa.Connection, row: sa.RowMapping, parts: Rows, union: Memory, reason: str
) -> Admission:
    """Let a memory that is there take over what its parts hold; its own keys are kept for an undo."""
    memory = load(Memory, row["body"])
    old = memory.evidence
    evidence, support = _united_evidence(
        [old, *map(_evidence, parts.values()), union.evidence], [row, *parts.values()]
    )
    added = united_counters(connection, {union.id: row}, parts)
    more = Evidence(
        **{name: tuple(x for x in getattr(evidence, name) if x not in getattr(old, name)) for name in _KINDS}
    )
    details = {
        "parents": sorted(parts),
        "counters": added,
        "support": support - row["support"],
        "evidence": more.model_dump(mode="json", exclude_defaults=True),
        "keys": memory.keys.model_dump(mode="json", exclude_defaults=True),
    }
    link_evidence(connection, [(memory.id, more)])
    body = body_of(memory.model_copy(update={"keys": union.keys, "evidence": evidence}))
    values = {"body": body, "support": support, **{name: row[name] + added[name] for name in COUNTERS}}
    connection.execute(t.memories.update().where(t.memories.c.id == memory.id).values(values))
    why = f"took the place of {len(parts)} memories: {reason}"
    event.append(connection, memory.id, "united", why, details=details)
    return answer(union, "merged", why)


_KINDS = tuple(Evidence.model_fields)


def _evidence(row: sa.RowMapping) -> Evidence:
    return load(Memory, row["body"]).evidence


def _united_evidence(pieces: Iterable[Evidence], rows: Iterable[sa.RowMapping]) -> tuple[Evidence, int]:
    """Return all evidence once, and the support: distinct trajectories, plus what came without any.

    A union is supported by no more than its parts together: what a cap took from them stays taken.
    """
    found = list(pieces)
    united = Evidence(
        **{name: tuple(dict.fromkeys(x for piece in found for x in getattr(piece, name))) for name in _KINDS}
    )
    united = united.model_copy(update={"spans": united.spans[:MOST_SPANS]})
    parts = list(rows)
    bare = max((row["support"] - len(_evidence(row).trajectories) for row in parts), default=0)
    most = sum(row["support"] for row in parts)  # less than their trajectories where a source was capped
    return united, min(len(united.trajectories) + max(bare, 0), most) if parts else len(united.trajectories)


def _inherit_statuses(connection: sa.Connection, union_id: str, parts: Sequence[str], why: str) -> None:
    """Give a memory the status that all those before it share where a checkpoint serves.

    The events say so: they are a part of the edit that made it, and no edits that an undo takes back.
    """
    s = t.memory_status
    query = sa.select(s).where(s.c.memory_id.in_(parts), s.c.checkpoint != "base")
    shared: dict[str, list[sa.RowMapping]] = {}
    for row in connection.execute(query).mappings():
        shared.setdefault(row["checkpoint"], []).append(row)
    for checkpoint, rows in shared.items():
        status = rows[0]["status"]
        if len(rows) == len(parts) and {row["status"] for row in rows} == {status}:
            connection.execute(s.insert(), [{**rows[0], "memory_id": union_id}])
            kind = event.kind_of_status(status, "active")
            details = {"inherited": True}
            event.append(connection, union_id, kind, why, checkpoint, status=status, details=details)
