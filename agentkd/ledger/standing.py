"""Since when memories have their status, and when they were last learnt: what the clocks of refiners read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import sqlalchemy as sa

from agentkd.ledger import event
from agentkd.ledger import tables as t
from agentkd.ledger.database import chunks
from agentkd.ledger.trust import SEEN
from agentkd.ledger.undo import STATUS_KINDS
from agentkd.schema import Standing
from agentkd.trust import VOUCHING

__all__ = ["REVOCATION", "find"]

REVOCATION = "revocation"
"""Key in the details of an event that a revocation caused."""


def find(connection: sa.Connection, ids: Iterable[str]) -> dict[str, Standing]:
    """Return the standing of memories for the base by id; unknown ids are left out."""
    m, e = t.memories.c, t.memory_events.c
    found: dict[str, Standing] = {}
    for batch in chunks(ids):
        newest = (
            sa.select(e.memory_id, sa.func.max(e.happened_at).label("evidence_at"))
            .where(e.memory_id.in_(batch), e.kind.in_(("corroborated", "merged")))
            .group_by(e.memory_id)
            .subquery()
        )
        query = (
            sa.select(
                m.id.label("memory_id"),
                m.status_at.label("changed_at"),
                m.status_reason.label("reason"),
                newest.c.evidence_at,
            )
            .outerjoin_from(t.memories, newest, newest.c.memory_id == m.id)
            .where(m.id.in_(batch))
        )
        doubtful, learnt = _doubtful(connection, batch), _learnt_at(connection, batch)
        corrected = _corrected_at(connection, batch)
        for row in connection.execute(query).mappings():
            id_ = row["memory_id"]
            more = {"learnt_at": learnt.get(id_), "corrected_at": corrected.get(id_)}
            found[id_] = Standing.model_validate({**row, **more, "is_doubtful": id_ in doubtful})
    return found


def _learnt_at(connection: sa.Connection, ids: Sequence[str]) -> dict[str, datetime]:
    """Return when memories, or those that they took the place of, last came in or gained evidence.

    A union alone brings nothing new: it is as old as its parts.
    """
    m, p, e = t.memories.c, t.memory_parents.c, t.memory_events.c
    itself = sa.select(m.id.label("memory_id"), m.id.label("part")).where(m.id.in_(ids))
    line = itself.cte("line", recursive=True)
    further = sa.select(line.c.memory_id, p.target)
    line = line.union(further.join_from(line, t.memory_parents, p.source == line.c.part))
    came_in = (e.kind == "admitted") & ~e.details.contains('"parents"')
    came_back = (e.kind == "reactivated") & e.details.contains('"evidence"')
    is_new = e.kind.in_(("corroborated", "merged")) | came_in | came_back
    query = (
        sa.select(line.c.memory_id, sa.func.max(e.happened_at))
        .join_from(line, t.memory_events, e.memory_id == line.c.part)
        .where(is_new)
        .group_by(line.c.memory_id)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def _corrected_at(connection: sa.Connection, ids: Sequence[str]) -> dict[str, datetime]:
    """Return when a person or a grader last gave a correction that memories rest on."""
    link, c = t.memory_corrections.c, t.corrections.c
    query = (
        sa.select(link.source, sa.func.max(c.created_at))
        .join_from(t.memory_corrections, t.corrections, c.id == link.target)
        .where(link.source.in_(ids), c.source.in_(VOUCHING))
        .group_by(link.source)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def _doubtful(connection: sa.Connection, ids: Iterable[str]) -> set[str]:
    """Return those that a revocation put away, and that nobody has let out since: a tombstone does not."""
    e = t.memory_events.c
    is_status = e.kind.in_((*STATUS_KINDS, "undone")) & (e.checkpoint == "base")
    is_told = e.status.in_(SEEN) | e.details.contains(f'"{REVOCATION}"')
    last = sa.select(sa.func.max(e.seq)).where(e.memory_id.in_(ids), is_status, is_told).group_by(e.memory_id)
    return {each.memory_id for each in event.find(connection, e.seq.in_(last)) if REVOCATION in each.details}
