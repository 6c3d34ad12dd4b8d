"""How memories are written: cleaned of secrets, with their links, status and first event."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from agentkd.ledger import event
from agentkd.ledger import tables as t
from agentkd.ledger.body import dump
from agentkd.ledger.database import insert_many
from agentkd.ledger.redact import Redact, redact_json
from agentkd.schema import Evidence, Memory, now

if TYPE_CHECKING:
    from agentkd.ledger.admission import Told

__all__ = ["Written", "body_of", "clean", "clean_evidence", "link_evidence", "link_parents", "store"]

Written = Callable[[Memory, str], None]
"""Is told each memory that is written as it was given, and its body."""

_IDS = ("trajectories", "corrections", "steps", "vouched")
_SOURCES = (*((name,) for name in _IDS), ("spans", "trajectory"), ("spans", "principal"))
_KEPT = (("id",), ("parent",), ("scope",), *(("evidence", *path) for path in _SOURCES))


def clean(memory: Memory, redact: Redact) -> Memory:
    """Return a memory without secrets, the quotes that it rests on included."""
    data, has_changed = _redacted(memory, redact)
    return Memory.model_validate(data) if has_changed else memory


def _redacted(memory: Memory, redact: Redact) -> tuple[Any, bool]:
    return redact_json(_beyond_defaults(memory), redact, keep=_KEPT)


def _beyond_defaults(memory: Memory) -> dict[str, Any]:
    """Return what a memory says beyond the defaults of its fields: half of it, and read in half the time.

    So the defaults are a part of what ledgers hold: to change one takes a step of migration. Its time always
    stands there: on a coarse clock it may equal the present, which is its default.
    """
    always = {"schema_version": memory.schema_version, "created_at": memory.created_at.isoformat()}
    return {**always, **memory.model_dump(mode="json", exclude_defaults=True)}


def body_of(memory: Memory) -> str:
    """Return the body of a memory that holds no secrets."""
    return dump(_beyond_defaults(memory))


def clean_evidence(evidence: Evidence, redact: Redact) -> Evidence:
    """Return evidence without secrets: a quote holds the words themselves."""
    data, has_changed = redact_json(evidence.model_dump(mode="json"), redact, keep=_SOURCES)
    return Evidence.model_validate(data) if has_changed else evidence


def store(
    connection: sa.Connection,
    memories: Iterable[Memory],
    redact: Redact,
    lessons: Mapping[str, str],
    details: Mapping[str, Any] | None = None,
    reason: str = "",
    told: Mapping[str, Told] | None = None,
    written: Written | None = None,
) -> None:
    """Insert memories that are not there yet, with links, status and event: one statement per table."""
    batch = list(memories)
    if not batch:
        return
    time, rows = now(), []
    for memory in batch:
        data, has_changed = _redacted(memory, redact)
        rows.append(_columns(memory, dump(data), lessons, time))
        if written is not None and not has_changed:
            written(memory, rows[-1]["body"])
    insert_many(connection, t.memories, rows)
    link_evidence(connection, [(memory.id, memory.evidence) for memory in batch])
    link_parents(connection, [(memory.id, memory.parent) for memory in batch if memory.parent])
    event.append_many(
        connection,
        [
            event.entry(
                memory.id, "admitted", reason or _as_admitted(memory, (told or {}).get(memory.id)),
                status=memory.status, current=True, details=details, at=time,
            )
            for memory in batch
        ],
    )  # fmt: skip


def _as_admitted(memory: Memory, told: Told | None) -> str:
    why = f": {told.reason}" if told is not None and told.reason else ""
    return f"as {memory.status}, by `{memory.origin}`{why}"


def _columns(memory: Memory, body: str, lessons: Mapping[str, str], at: datetime) -> dict[str, Any]:
    return {
        "id": memory.id,
        "kind": memory.kind,
        "origin": memory.origin,
        "privacy": memory.privacy,
        **memory.scope.model_dump(),
        "version": memory.version,
        "parent": memory.parent or None,
        "successor": None,
        "current": True,
        "status": memory.status,
        "status_reason": "admitted",
        "status_at": at,
        "support": memory.support,
        **memory.utility.model_dump(),
        "lesson": lessons.get(memory.id),
        "created_at": memory.created_at,
        "body": body,
    }


def link_parents(connection: sa.Connection, pairs: Iterable[tuple[str, str]]) -> None:
    """Say which memories were made from which: (made, made from) pairs."""
    rows = [{"source": made, "target": source} for made, source in pairs]
    insert_many(connection, t.memory_parents, rows)


def link_evidence(connection: sa.Connection, batch: Sequence[tuple[str, Evidence]]) -> None:
    """Make evidence queryable: a row per memory and trajectory or correction that it rests on."""
    for table, name in ((t.memory_trajectories, "trajectories"), (t.memory_corrections, "corrections")):
        rows = [{"source": id_, "target": target} for id_, e in batch for target in getattr(e, name)]
        insert_many(connection, table, rows)
