"""Recalls and what came of them: the counters behind the lift of a memory and of a scope."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

import sqlalchemy as sa

from agentkd.config import MemorySettings
from agentkd.ledger import tables as t
from agentkd.ledger import utility
from agentkd.ledger.database import Database, insert_many, insert_once
from agentkd.ledger.utility import Counts
from agentkd.schema import Hit, Lift, Scope, Use, Utility, Value, lift_of

__all__ = ["Arm", "Recall", "ScopeCounts", "Trials", "find", "record", "settle", "utilities_before"]

Arm = Literal["shown", "one", "withheld"]
"""What a task saw of what was recalled for it: all, all but one memory, or nothing."""

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
    for the union too, unless the task recalled several of its parts.
    """
    changes: dict[str, Counts] = {}
    told = utility.seen(connection, t.recalls.c.trajectory_id == trajectory_id).get(trajectory_id, {})
    for id_, members in utility.holders(connection, told).items():
        saw = utility.together(told[member] for member in members)
        changes[id_] = utility.difference(saw.counts(success), saw.now)
    utility.add(connection, {id_: delta for id_, delta in changes.items() if any(delta)})
    for table in (t.recalls, t.trials):
        connection.execute(table.update().where(table.c.trajectory_id == trajectory_id).values(win=success))


def utilities_before(connection: sa.Connection, run_id: str) -> dict[str, Utility]:
    """Return the counters of all memories that were ever withheld, less what tasks of one run added."""
    of_run = t.recalls.c.trajectory_id.in_(
        sa.select(t.trajectories.c.id).where(t.trajectories.c.run_id == run_id)
    )
    tasks = utility.seen(connection, of_run)
    above = utility.holders(connection, {id_ for told in tasks.values() for id_ in told})
    held_by: dict[str, list[str]] = {}
    for id_, members in above.items():
        for member in members:
            held_by.setdefault(member, []).append(id_)
    own: dict[str, Counts] = {}
    for told in tasks.values():
        for id_ in {id_ for member in told for id_ in held_by[member]}:
            saw = utility.together(told[member] for member in above[id_] & told.keys())
            own[id_] = utility.total((own.get(id_, utility.NOTHING), saw.now))
    m, names = t.memories.c, tuple(Utility.model_fields)
    query = sa.select(m.id, *(m[name] for name in names)).where(m.held_out > 0)
    found: dict[str, Utility] = {}
    for id_, *counts in connection.execute(query):
        left = (n - o for n, o in zip(counts, own.get(id_, utility.NOTHING), strict=True))
        found[id_] = Utility(**dict(zip(names, left, strict=True)))
    return found


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

    def recalls_per_task(self, scope: Scope, newest: int = 200) -> list[int]:
        """Return how many steps of each of the newest tasks of exactly this scope recalled something."""
        c, r = t.trials.c, t.recalls.c
        where = [c[name] == value for name, value in scope.model_dump().items()]
        tasks = sa.select(c.trajectory_id).where(*where).order_by(c.seq.desc()).limit(newest).subquery()
        query = sa.select(sa.func.count(r.step.distinct())).where(r.trajectory_id.in_(sa.select(tasks)))
        with self._database.read() as connection:
            return list(connection.scalars(query.group_by(r.trajectory_id)))

    def uses(self, ids: Iterable[str]) -> dict[str, list[Use]]:
        """Return the graded tasks that count for the lift of memories, and what these saw beside them.

        What a task recalled of the parts of a merge counts for the union, as in its counters. Counts that
        a memory brought from elsewhere have no tasks here.
        """
        with self._database.read() as connection:
            return utility.uses(connection, ids)

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
