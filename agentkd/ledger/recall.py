"""Recalls and what came of them: the counters behind the lift of a memory and of a scope."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import sqlalchemy as sa

from agentkd.config import MemorySettings
from agentkd.ledger import event
from agentkd.ledger import tables as t
from agentkd.ledger.database import Database, chunks, insert_many, insert_once
from agentkd.schema import Hit, Lift, Scope, Utility, Value, lift_of

__all__ = ["Arm", "Recall", "ScopeCounts", "Trials", "find", "record", "settle", "utilities_before"]

Arm = Literal["shown", "one", "withheld"]
"""What a task saw of what was recalled for it: all, all but one memory, or nothing."""

Counts = tuple[int, int, int, int]  # recalls, wins, held_out, held_out_wins of one trajectory

_SCOPE = tuple(Scope.model_fields)


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
    second call with the same outcome changes nothing. What came to be a part of a merge meanwhile counts
    for the union too, whose counters are the sums of its parts'.

    Lift compares like with like: a memory counts as seen where nothing was withheld, and as withheld where
    it alone was. On trials, the memories beside it do not count, nor does any where all were withheld.
    """
    changes: dict[str, Counts] = {}
    for memory_id, withheld, win in _compared(connection, t.recalls.c.trajectory_id == trajectory_id):
        before, after = _counts(withheld, win), _counts(withheld, success)
        delta = (after[0] - before[0], after[1] - before[1], after[2] - before[2], after[3] - before[3])
        if any(delta):
            changes[memory_id] = delta
    _add(connection, changes)
    for table in (t.recalls, t.trials):
        connection.execute(table.update().where(table.c.trajectory_id == trajectory_id).values(win=success))


def utilities_before(connection: sa.Connection, run_id: str) -> dict[str, Utility]:
    """Return the counters of all memories that were ever withheld, less what tasks of one run added."""
    direct: dict[str, Counts] = {}
    of_run = t.recalls.c.trajectory_id.in_(
        sa.select(t.trajectories.c.id).where(t.trajectories.c.run_id == run_id)
    )
    for memory_id, withheld, win in _compared(connection, of_run):
        direct[memory_id] = _sum(direct.get(memory_id), _counts(withheld, win))
    own = dict(direct)
    for memory_id, union in _unions(connection, direct):  # a part counts once for every union, however deep
        own[union] = _sum(own.get(union), direct[memory_id])
    m, names = t.memories.c, tuple(Utility.model_fields)
    query = sa.select(m.id, *(m[name] for name in names)).where(m.held_out > 0)
    found: dict[str, Utility] = {}
    for id_, *counts in connection.execute(query):
        left = (n - o for n, o in zip(counts, own.get(id_, (0, 0, 0, 0)), strict=True))
        found[id_] = Utility(**dict(zip(names, left, strict=True)))
    return found


def _compared(
    connection: sa.Connection, *where: sa.ColumnElement[bool]
) -> list[tuple[str, bool, bool | None]]:
    """Return (memory, withheld, win) per trajectory and memory that the trial of its task compares."""
    c, arm = t.recalls.c, t.trials.c.arm
    query = (
        sa.select(
            c.memory_id,
            sa.func.min(sa.case((c.withheld, 1), else_=0)),
            sa.func.max(_as_number(c.win)),
            sa.func.max(arm),
        )
        .outerjoin_from(t.recalls, t.trials, t.trials.c.trajectory_id == c.trajectory_id)
        .where(*where)
        .group_by(c.trajectory_id, c.memory_id)
    )
    return [
        (memory_id, bool(withheld), None if win is None else bool(win))
        for memory_id, withheld, win, told in connection.execute(query)
        if told not in ("one", "withheld") or (told == "one" and withheld)
    ]


class ScopeCounts(Value):
    """Tasks of one scope that recalled something; a task on which nothing was found does not count."""

    scope: Scope = Scope()
    """Whose tasks: that of the agent, not of the memories."""
    n_shown: int = 0
    """Graded tasks that saw all that was recalled."""
    shown_wins: int = 0
    """Those of them that were done."""
    n_withheld: int = 0
    """Graded tasks that had all of it withheld."""
    withheld_wins: int = 0
    """Those of them that were done."""
    n_one: int = 0
    """Graded tasks that had one memory withheld."""
    one_wins: int = 0
    """Those of them that were done."""
    n_open: int = 0
    """Tasks that nobody has graded yet."""

    def lift(self, level: float = 0.95) -> Lift:
        """Return what recall is worth: tasks that saw all of it against tasks that saw nothing of it."""
        utility = Utility(
            recalls=self.n_shown,
            wins=self.shown_wins,
            held_out=self.n_withheld,
            held_out_wins=self.withheld_wins,
        )
        return lift_of(utility, level=level)

    def off(self, settings: MemorySettings) -> Lift | None:
        """Return the lift where it is credibly negative, so that recall is to be switched off."""
        if not settings.switch_off or min(self.n_shown, self.n_withheld) < settings.trial_tasks:
            return None
        lift = self.lift(settings.trial_level)
        return lift if lift.p_negative >= settings.trial_level else None


class Trials:
    """Which tasks recalled something, what they saw of it, and whether they were done."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, trajectory_id: str, arm: Arm, scope: Scope) -> None:
        """Note what a running task sees of its memories; the first answer stands."""
        row = {"trajectory_id": trajectory_id, "arm": arm, **scope.model_dump(), "win": None}
        with self._database.write(lasting=False) as connection:
            insert_once(connection, t.trials, row)

    def of(self, scope: Scope, window: int | None = None) -> ScopeCounts:
        """Count the newest `window` tasks of exactly this scope; None counts all."""
        c = t.trials.c
        where = [c[name] == value for name, value in scope.model_dump().items()]
        newest = sa.select(c.arm, c.win).where(*where).order_by(c.seq.desc()).limit(window).subquery()
        with self._database.read() as connection:
            row = connection.execute(sa.select(*_sums(newest.c.arm, newest.c.win))).mappings().one()
        return ScopeCounts(scope=scope, **{name: number or 0 for name, number in row.items()})

    def by(self, fields: Collection[str] = _SCOPE) -> list[ScopeCounts]:
        """Count all tasks by some fields of their scope; the other fields are empty in the answer."""
        c = t.trials.c
        names = [name for name in _SCOPE if name in fields]
        columns = [c[name] for name in names]
        query = sa.select(*columns, *_sums(c.arm, c.win)).group_by(*columns).order_by(*columns)
        found = []
        with self._database.read() as connection:
            for row in connection.execute(query).mappings():
                scope = Scope(**{name: row[name] for name in names})
                counts = {name: number or 0 for name, number in row.items() if name not in names}
                found.append(ScopeCounts(scope=scope, **counts))
        return [counts for counts in found if counts != ScopeCounts()]


def _sums(arm: sa.ColumnElement[str], win: sa.ColumnElement[bool]) -> list[sa.Label[int]]:
    """Build one sum per counter of `ScopeCounts`."""
    done = {"shown": "shown_wins", "withheld": "withheld_wins", "one": "one_wins"}
    sums = [(f"n_{name}", sa.and_(arm == name, win.is_not(None))) for name in done]
    sums += [(wins, sa.and_(arm == name, win.is_(True))) for name, wins in done.items()]
    sums.append(("n_open", win.is_(None)))
    return [sa.func.sum(sa.case((condition, 1), else_=0)).label(name) for name, condition in sums]


def _as_number(column: sa.Column[bool]) -> sa.ColumnElement[int | None]:
    return sa.case((column.is_(None), sa.null()), (column, 1), else_=0)


def _counts(withheld: bool, win: bool | None) -> Counts:
    if win is None:
        return (0, 0, 0, 0)
    return (0, 0, 1, int(win)) if withheld else (1, int(win), 0, 0)


def _sum(one: Counts | None, other: Counts) -> Counts:
    a, b = one or (0, 0, 0, 0), other
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3])


def _add(connection: sa.Connection, changes: Mapping[str, Counts]) -> None:
    m = t.memories.c
    columns = (m.recalls, m.wins, m.held_out, m.held_out_wins)
    groups: dict[Counts, list[str]] = {}
    for id_, delta in changes.items():
        groups.setdefault(delta, []).append(id_)
    groups_of_unions = [(changes[id_], [union]) for id_, union in _unions(connection, changes)]
    for delta, ids in [*groups.items(), *groups_of_unions]:
        values = {column.name: column + number for column, number in zip(columns, delta, strict=True)}
        for batch in chunks(ids):
            connection.execute(t.memories.update().where(m.id.in_(batch)).values(values))


def _unions(connection: sa.Connection, ids: Iterable[str]) -> list[tuple[str, str]]:
    """Return (memory, union) for every merge that a memory is a part of by now, however deep."""
    m, e = t.memories.c, t.memory_events.c
    found: list[tuple[str, str]] = []
    front = [(id_, id_) for id_ in ids]  # (memory, what stands for it)
    while front:
        after: dict[str, str] = {}
        for batch in chunks({id_ for _, id_ in front}):
            rows = connection.execute(sa.select(m.id, m.current, m.successor).where(m.id.in_(batch)))
            after |= {id_: successor for id_, current, successor in rows if successor and not current}
        closed = {id_: event.find(connection, e.memory_id == id_, e.kind == "superseded") for id_ in after}
        front = [
            (memory, after[id_])
            for memory, id_ in front
            if closed.get(id_) and "with" in closed[id_][-1].details  # a new version counts anew
        ]
        found += front
    return found
