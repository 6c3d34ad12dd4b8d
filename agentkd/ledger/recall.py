"""Recalls and what came of them: the counters behind a memory's utility."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import sqlalchemy as sa

from agentkd.ledger import tables as t
from agentkd.ledger.database import chunks, insert_many
from agentkd.schema import Hit, Value

__all__ = ["Recall", "find", "record", "settle"]

Counts = tuple[int, int, int, int]  # recalls, wins, held_out, held_out_wins of one trajectory


class Recall(Value):
    """One memory that was found for one step of a trajectory."""

    trajectory_id: str
    """The trajectory."""
    step: int
    """Index of the step."""
    memory_id: str
    """The memory."""
    score: float = 0.0
    """Similarity in [-1, 1]."""
    withheld: bool = False
    """Whether a trial kept it out of the prompt."""
    win: bool | None = None
    """Whether the task was done; None while ungraded."""


def record(
    connection: sa.Connection, trajectory_id: str, step: int, hits: Iterable[Hit], withheld: Collection[str]
) -> None:
    """Store the hits of one step; those already there are kept as they are."""
    insert_many(
        connection,
        t.recalls,
        [
            {
                "trajectory_id": trajectory_id,
                "step": step,
                "memory_id": hit.memory.id,
                "score": hit.score,
                "withheld": hit.memory.id in withheld,
            }
            for hit in hits
        ],
    )


def find(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[Recall]:
    """Return recalls by trajectory and step, best score first."""
    c = t.recalls.c
    query = sa.select(t.recalls).where(*conditions)
    query = query.order_by(c.trajectory_id, c.step, c.score.desc(), c.memory_id)
    return [Recall.model_validate(dict(row)) for row in connection.execute(query).mappings()]


def settle(connection: sa.Connection, trajectory_id: str, success: bool | None) -> None:
    """Set the win flags of a trajectory and add what changed to its memories' counters.

    None takes an outcome back. A task counts once per memory however many steps recalled it, and a
    second call with the same outcome changes nothing.
    """
    c = t.recalls.c
    rows = connection.execute(
        sa.select(c.memory_id, sa.func.min(sa.case((c.withheld, 1), else_=0)), sa.func.max(_as_number(c.win)))
        .where(c.trajectory_id == trajectory_id)
        .group_by(c.memory_id)
    ).all()
    changes: dict[Counts, list[str]] = {}
    for memory_id, withheld, win in rows:
        before = _counts(bool(withheld), None if win is None else bool(win))
        after = _counts(bool(withheld), success)
        delta = (after[0] - before[0], after[1] - before[1], after[2] - before[2], after[3] - before[3])
        if any(delta):
            changes.setdefault(delta, []).append(memory_id)
    for delta, ids in changes.items():
        _add(connection, ids, delta)
    connection.execute(t.recalls.update().where(c.trajectory_id == trajectory_id).values(win=success))


def _as_number(column: sa.Column[bool]) -> sa.ColumnElement[int | None]:
    return sa.case((column.is_(None), sa.null()), (column, 1), else_=0)


def _counts(withheld: bool, win: bool | None) -> Counts:
    if win is None:
        return (0, 0, 0, 0)
    return (0, 0, 1, int(win)) if withheld else (1, int(win), 0, 0)


def _add(connection: sa.Connection, ids: list[str], delta: Counts) -> None:
    m = t.memories.c
    columns = (m.recalls, m.wins, m.held_out, m.held_out_wins)
    values = {column.name: column + number for column, number in zip(columns, delta, strict=True)}
    for batch in chunks(ids):
        connection.execute(t.memories.update().where(m.id.in_(batch)).values(values))
