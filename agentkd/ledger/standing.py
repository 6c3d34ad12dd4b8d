"""Since when memories have their status, and when evidence last came: what a quarantine's clock reads."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from agentkd.ledger import event
from agentkd.ledger import tables as t
from agentkd.ledger.database import chunks
from agentkd.ledger.undo import STATUS_KINDS
from agentkd.schema import Standing

__all__ = ["REVOCATION", "find"]

REVOCATION = "revocation"
"""Key in the details of an event that a revocation caused."""


def find(connection: sa.Connection, ids: Iterable[str]) -> dict[str, Standing]:
    """Return the standing of memories for the base by id; unknown ids are left out."""
    s, e = t.memory_status.c, t.memory_events.c
    found: dict[str, Standing] = {}
    for batch in chunks(ids):
        newest = (
            sa.select(e.memory_id, sa.func.max(e.happened_at).label("evidence_at"))
            .where(e.memory_id.in_(batch), e.kind.in_(("corroborated", "merged")))
            .group_by(e.memory_id)
            .subquery()
        )
        query = (
            sa.select(s.memory_id, s.changed_at, s.reason, newest.c.evidence_at)
            .outerjoin_from(t.memory_status, newest, newest.c.memory_id == s.memory_id)
            .where(s.checkpoint == "base", s.memory_id.in_(batch))
        )
        doubtful = _doubtful(connection, batch)
        for row in connection.execute(query).mappings():
            is_doubtful = row["memory_id"] in doubtful
            found[row["memory_id"]] = Standing.model_validate({**row, "is_doubtful": is_doubtful})
    return found


def _doubtful(connection: sa.Connection, ids: Iterable[str]) -> set[str]:
    """Return those whose last change of status came of a revocation."""
    e = t.memory_events.c
    last = (
        sa.select(sa.func.max(e.seq))
        .where(e.memory_id.in_(ids), e.checkpoint == "base", e.kind.in_(STATUS_KINDS))
        .group_by(e.memory_id)
    )
    return {each.memory_id for each in event.find(connection, e.seq.in_(last)) if REVOCATION in each.details}
