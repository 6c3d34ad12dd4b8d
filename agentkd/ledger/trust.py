"""What the provenance gate holds back, enforced where statuses are written: no edit lets it out."""

from __future__ import annotations

import sqlalchemy as sa

from agentkd.errors import DataError
from agentkd.ledger import tables as t
from agentkd.ledger.body import dump, parse
from agentkd.schema import MemoryStatus
from agentkd.schema.memory import MemoryTrust

__all__ = ["SEEN", "mark", "refuse_waiting"]

SEEN: tuple[MemoryStatus, ...] = ("active", "compiled", "retired")
"""Statuses in which a memory may be recalled or compiled."""


def mark(
    connection: sa.Connection, memory_id: str, trust: MemoryTrust, *, is_by_person: bool = False
) -> None:
    """Write down what the sources of a memory allow, and what a person saw who admitted it."""
    m = t.memories
    body = connection.execute(sa.select(m.c.body).where(m.c.id == memory_id)).scalar_one()
    data = parse(body)
    evidence = data.get("evidence", {})
    seen = [*evidence.get("trajectories", ()), *evidence.get("steps", ())] if is_by_person else []
    changed = dump({**data, "trust": trust, "evidence": {**evidence, "vouched": seen}})
    connection.execute(m.update().where(m.c.id == memory_id).values(body=changed))


def refuse_waiting(connection: sa.Connection, memory_id: str) -> None:
    """Raise DataError for a memory that waits for independent verified successes or for a person."""
    body = connection.execute(sa.select(t.memories.c.body).where(t.memories.c.id == memory_id)).scalar_one()
    if '"untrusted"' in body and parse(body).get("trust") == "untrusted":
        raise DataError(
            f"memory `{memory_id}` rests on untrusted words and waits in quarantine",
            hint=f"`agentkd memory show {memory_id}` shows its sources, `agentkd memory admit` lets it in",
            memory=memory_id,
        )
