"""Taint: what was made from a revoked memory or trajectory, down to rows, datasets and checkpoints.

A revocation marks the rows that rest on what it takes back at once, because a merge that it undoes takes
the links along that led there. Rows that are stored later are found by what they rest on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from agentkd.errors import NotFoundError
from agentkd.ledger import standing, undo
from agentkd.ledger import tables as t
from agentkd.ledger.body import load, parse
from agentkd.ledger.database import Database, chunks, insert_many, known
from agentkd.schema import Scope, Trajectory, Value, content_id, now

__all__ = ["Reach", "Revocations", "heard_pairs", "is_tainted", "taint", "tainted_after"]

Row = tuple[str, str]
"""Ids of a dataset and of one of its examples."""


class Reach(Value):
    """What rests on some trajectories."""

    alone: tuple[str, ...] = ()
    """Ids of memories that rest on nothing else."""
    beside: tuple[str, ...] = ()
    """Ids of memories that other trajectories support too."""


class Revocations:
    """What was taken back for good, and what that reaches."""

    def __init__(self, database: Database, redact: Callable[[str], str]) -> None:
        self._database = database
        self._redact = redact

    def revoke_trajectories(self, ids: Iterable[str], reason: str) -> tuple[str, ...]:
        """Take trajectories back for good and taint what was made from them; returns the ids that are new.

        Memories that rest on them keep their status: see `reach`. Raises NotFoundError for an unknown id.
        """
        wanted, reason = tuple(dict.fromkeys(ids)), self._redact(reason)
        with self._database.write() as connection:
            there = known(connection, t.trajectories.c.id, wanted)
            for id_ in wanted:
                if id_ not in there:
                    raise NotFoundError(f"there is no trajectory `{id_}`", hint="see `agentkd runs list`")
            before = known(connection, t.revoked_trajectories.c.trajectory_id, wanted)
            fresh = tuple(id_ for id_ in wanted if id_ not in before)
            rows = [{"trajectory_id": id_, "reason": reason, "happened_at": now()} for id_ in fresh]
            insert_many(connection, t.revoked_trajectories, rows)
            taint(connection, (), fresh, reason)
        return fresh

    def trajectories(self) -> dict[str, str]:
        """Return why each revoked trajectory was revoked, by id."""
        c = t.revoked_trajectories.c
        with self._database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(sa.select(c.trajectory_id, c.reason))}

    def memories(self) -> frozenset[str]:
        """Return the ids of all revoked memories, superseded versions included."""
        with self._database.read() as connection:
            return frozenset(connection.execute(_revoked_memories()).scalars())

    def forbidden(self) -> dict[str, str]:
        """Return why nothing of a trajectory may be compiled, by id: it or a memory on it was revoked."""
        query, gone = _under(_revoked_memories()).distinct(), self.trajectories()
        with self._database.read() as connection:
            found = dict.fromkeys(connection.execute(query).scalars(), "rests on a revoked memory")
            memories = set(connection.execute(_revoked_memories()).scalars())
            written = _written_from(connection, memories, gone)
            heard = _heard_from(connection, gone)
        found |= dict.fromkeys(heard, "its model had heard what was revoked")
        found |= dict.fromkeys(written, "a teacher wrote it from what was revoked")
        return found | dict.fromkeys(gone, "its trajectory was revoked")

    def withdrawn(self, ids: Iterable[str]) -> frozenset[str]:
        """Return those of these memories that a revocation took out of use.

        It, or what took its place, was revoked, waits for a person because of a revocation, or is no longer
        there because a part of it was revoked.
        """
        found: set[str] = set()
        with self._database.read() as connection:
            gone = set(connection.execute(_revoked_memories()).scalars())
            made = undo.descendants(connection, gone)
            for batch in chunks(dict.fromkeys(ids)):
                line = _line(connection, batch)
                known = standing.find(connection, {heir for _, heir, _ in line})
                for id_, heir, is_current in line:
                    is_apart = heir in made and not is_current
                    if heir in gone or is_apart or known[heir].is_doubtful:
                        found.add(id_)
        return frozenset(found)

    def rows(self, dataset_id: str) -> frozenset[str]:
        """Return the ids of a dataset's tainted examples."""
        with self._database.read() as connection:
            return frozenset(id_ for _, id_ in _tainted_rows(connection, dataset_id))

    def datasets(self) -> dict[str, int]:
        """Return the number of tainted rows of every dataset that has any."""
        with self._database.read() as connection:
            return dict(Counter(dataset_id for dataset_id, _ in _tainted_rows(connection)))

    def mark(self) -> str:
        """Return a hash of all that was revoked; empty where nothing was."""
        memories, trajectories = sorted(self.memories()), sorted(self.trajectories())
        return content_id("rvk", memories, trajectories) if memories or trajectories else ""

    def reach(self, trajectories: Iterable[str]) -> Reach:
        """Say which memories rest on these trajectories, and which of them on nothing else.

        One that rests on a run whose model had heard them rests on more than them.
        """
        given, link = set(trajectories), t.memory_trajectories.c
        touched: set[str] = set()
        evidence: dict[str, set[str]] = {}
        with self._database.read() as connection:
            for batch in chunks(given | _heard_from(connection, given)):
                touched |= set(
                    connection.execute(sa.select(link.source).where(link.target.in_(batch))).scalars()
                )
            for batch in chunks(touched):
                for id_, target in connection.execute(
                    sa.select(link.source, link.target).where(link.source.in_(batch))
                ):
                    evidence.setdefault(id_, set()).add(target)
        gone = given | self.trajectories().keys()
        alone = {id_ for id_, rests in evidence.items() if rests <= gone}
        return Reach(alone=tuple(sorted(alone)), beside=tuple(sorted(touched - alone)))

    def memories_of(self, scope: Scope) -> tuple[str, ...]:
        """Return the ids of the memories whose scope has all that `scope` sets, superseded ones included."""
        m = t.memories.c
        where = [m[name] == value for name, value in scope.model_dump().items() if value]
        with self._database.read() as connection:
            return tuple(connection.execute(sa.select(m.id).where(*where).order_by(m.id)).scalars())

    def trajectories_of(self, scope: Scope) -> tuple[str, ...]:
        """Return the ids of the trajectories whose scope has all that `scope` sets."""
        wanted = {name: value for name, value in scope.model_dump().items() if value}
        c = t.trajectories.c
        spelt = [c.body.contains(json.dumps(value), autoescape=True) for value in wanted.values()]
        query = sa.select(c.id, c.body).where(*spelt).order_by(c.id)
        found = []
        with self._database.read() as connection:
            for id_, body in connection.execute(query):
                own = load(Trajectory, body).scope
                if all(getattr(own, name) == value for name, value in wanted.items()):
                    found.append(id_)
        return tuple(found)

    def owners(self, field: str, among: Scope) -> tuple[str, ...]:
        """Return the values of one field in the scopes of all that is not revoked, such as its users.

        `among` names what else a scope has.
        """
        m, c = t.memories.c, t.trajectories.c
        body = sa.type_coerce(c.body, sa.JSON) if self._database.is_sqlite else sa.cast(c.body, sa.JSON)
        gone = sa.select(t.revoked_trajectories.c.trajectory_id)
        wanted = {name: value for name, value in among.model_dump().items() if value and name != field}
        is_there = [m[name] == value for name, value in wanted.items()]
        is_run = [body["scope", name].as_string() == value for name, value in wanted.items()]
        queries = (
            sa.select(m[field]).where(m.status != "revoked", *is_there).distinct(),
            sa.select(body["scope", field].as_string()).where(c.id.not_in(gone), *is_run).distinct(),
        )
        with self._database.read() as connection:
            found = {value for query in queries for value in connection.execute(query).scalars()}
        return tuple(sorted(value for value in found if value))

    def learnt_beside(self, memories: Collection[str]) -> tuple[str, ...]:
        """Return the ids of current memories learnt from runs that were shown one of these."""
        r, link, m = t.recalls.c, t.memory_trajectories.c, t.memories.c
        found: set[str] = set()
        with self._database.read() as connection:
            for batch in chunks(memories):
                shown = sa.select(r.trajectory_id).where(r.memory_id.in_(batch), r.withheld.is_(False))
                query = (
                    sa.select(link.source)
                    .join(t.memories, m.id == link.source)
                    .where(link.target.in_(shown), m.current.is_(True))
                )
                found |= set(connection.execute(query).scalars())
        return tuple(sorted(found - set(memories) - self.memories()))

    def siblings(self, memories: Collection[str]) -> tuple[str, ...]:
        """Return the ids of current memories that rest on nothing but runs that these rest on."""
        link, m = t.memory_trajectories.c, t.memories.c
        runs, near, held = set[str](), set[str](), dict[str, set[str]]()
        current = sa.select(link.source).join(t.memories, m.id == link.source).where(m.current.is_(True))
        with self._database.read() as connection:
            for batch in chunks(memories):
                runs |= set(
                    connection.execute(sa.select(link.target).where(link.source.in_(batch))).scalars()
                )
            for batch in chunks(runs):
                near |= set(connection.execute(current.where(link.target.in_(batch))).scalars())
            for batch in chunks(near - set(memories) - self.memories()):
                for id_, run in connection.execute(
                    sa.select(link.source, link.target).where(link.source.in_(batch))
                ):
                    held.setdefault(id_, set()).add(run)
        return tuple(sorted(id_ for id_, own in held.items() if own <= runs))


def taint(
    connection: sa.Connection, memories: Iterable[str], trajectories: Iterable[str], reason: str
) -> set[Row]:
    """Mark the rows that rest on these, and every checkpoint that was trained on one or went on from such.

    A row of a run that a revoked memory rests on is marked whether or not it names the memory: the run taught
    it. `memories` may hold what was made from a revoked one; runs under that alone are left.
    """
    rows: set[Row] = set()
    origins, runs, m = set(memories), set(trajectories), t.memories.c
    for batch in chunks(origins):
        rows |= _linked(connection, t.row_memories, batch)
    under = {
        id_
        for batch in chunks(origins)
        for id_ in connection.execute(_under(_revoked_memories().where(m.id.in_(batch)))).scalars()
    }
    written, heard = _written_from(connection, origins, runs), _heard_from(connection, runs)
    for batch in chunks(runs | under | written | heard):
        rows |= _linked(connection, t.row_trajectories, batch)
        about = sa.select(t.corrections.c.id).where(t.corrections.c.trajectory_id.in_(batch))
        rows |= _linked(connection, t.row_corrections, about)
    insert_many(
        connection,
        t.tainted_rows,
        [{"dataset_id": d, "example_id": e, "reason": reason, "happened_at": now()} for d, e in sorted(rows)],
    )
    c = t.checkpoints.c
    front: set[str] = set()
    for batch in chunks({dataset_id for dataset_id, _ in rows}):
        front |= set(connection.execute(sa.select(c.name).where(c.dataset_id.in_(batch))).scalars())
    seen: set[str] = set()
    while front:
        seen |= front
        front = set(connection.execute(sa.select(c.name).where(c.parent.in_(front))).scalars()) - seen
    if seen:
        connection.execute(t.checkpoints.update().where(c.name.in_(seen)).values(status="tainted"))
    return rows


def is_tainted(connection: sa.Connection, dataset_id: str, parent: str | None) -> bool:
    """Whether what is trained on a dataset, going on from a checkpoint, is tainted."""
    c = t.checkpoints.c
    if parent and connection.execute(sa.select(c.status).where(c.name == parent)).scalar() == "tainted":
        return True
    return bool(_tainted_rows(connection, dataset_id))


def tainted_after(connection: sa.Connection, at: datetime) -> set[str]:
    """Return the checkpoints whose every mark came after a time: their own rows' and their ancestors'.

    One without a mark came in tainted, or somebody said so: that is taken to have been so always.
    """
    marked, c = t.tainted_rows.c, t.checkpoints.c
    query = sa.select(marked.dataset_id, sa.func.min(marked.happened_at)).group_by(marked.dataset_id)
    first = {row[0]: row[1] for row in connection.execute(query)}
    every = connection.execute(sa.select(c.name, c.dataset_id, c.parent))
    lines = {row.name: (row.dataset_id, row.parent) for row in every}
    found: set[str] = set()
    for name in lines:
        marks, link = [], name
        while link in lines:
            dataset_id, link = lines[link]
            marks += [first[dataset_id]] if dataset_id in first else []
        if marks and min(marks) > at:
            found.add(name)
    return found


def _revoked_memories() -> sa.Select[Any]:
    m = t.memories.c
    return sa.select(m.id).where(m.status == "revoked")


def _under(memories: sa.Select[Any]) -> sa.Select[Any]:
    """Return the ids of the trajectories that these memories rest on."""
    link = t.memory_trajectories.c
    return sa.select(link.target).where(link.source.in_(memories))


def _line(connection: sa.Connection, ids: Iterable[str]) -> list[tuple[str, str, bool]]:
    """Return every memory with itself and each that took its place, and whether that one is current."""
    m = t.memories.c
    line = (
        sa.select(m.id.label("source"), m.id.label("heir")).where(m.id.in_(ids)).cte("line", recursive=True)
    )
    further = sa.select(line.c.source, m.successor).join_from(line, t.memories, m.id == line.c.heir)
    line = line.union(further.where(m.successor.is_not(None)))
    query = sa.select(line.c.source, m.id, m.current).join_from(line, t.memories, m.id == line.c.heir)
    return [(row[0], row[1], row[2]) for row in connection.execute(query)]


def _written_from(
    connection: sa.Connection, memories: Iterable[str], trajectories: Iterable[str]
) -> set[str]:
    """Return the trajectories that a teacher wrote from these, directly or not."""
    found: set[str] = set()
    for table, front in ((t.synthetic_memories, set(memories)), (t.synthetic_seeds, set(trajectories))):
        while front:
            near: set[str] = set()
            for batch in chunks(front):
                query = sa.select(table.c.source).where(table.c.target.in_(batch))
                near |= set(connection.execute(query).scalars())
            table, front = t.synthetic_seeds, near - found
            found |= near
    return found


def _heard_from(connection: sa.Connection, trajectories: Collection[str]) -> set[str]:
    """Return the trajectories whose model had heard tools of these: a later turn, or a try after them."""
    gone = set(trajectories)
    return {id_ for id_, source in heard_pairs(connection) if source in gone} if gone else set()


def heard_pairs(connection: sa.Connection) -> set[tuple[str, str]]:
    """Return the (trajectory, earlier trajectory) pairs of those whose model had heard tools of another."""
    c = t.trajectories.c
    query = sa.select(c.id, c.body).where(c.body.contains('"heard":[{', autoescape=True))
    pairs = (
        (id_, each.get("trajectory"))
        for id_, body in connection.execute(query)
        for each in parse(body).get("heard", ())
    )
    return {(id_, source) for id_, source in pairs if source and source != id_}


def _linked(connection: sa.Connection, table: sa.Table, targets: list[str] | sa.Select[Any]) -> set[Row]:
    query = sa.select(table.c.dataset_id, table.c.source).where(table.c.target.in_(targets))
    return {(row[0], row[1]) for row in connection.execute(query)}


def _tainted_rows(connection: sa.Connection, dataset_id: str | None = None) -> set[Row]:
    """Return the rows that were marked, and those that rest on what is revoked."""
    gone = sa.select(t.revoked_trajectories.c.trajectory_id)
    about = sa.select(t.corrections.c.id).where(t.corrections.c.trajectory_id.in_(gone))
    queries = [sa.select(t.tainted_rows.c.dataset_id, t.tainted_rows.c.example_id)]
    for table, targets in (
        (t.row_memories, _revoked_memories()),
        (t.row_trajectories, gone),
        (t.row_trajectories, _under(_revoked_memories())),
        (t.row_corrections, about),
    ):
        queries.append(sa.select(table.c.dataset_id, table.c.source).where(table.c.target.in_(targets)))
    found: set[Row] = set()
    for query in queries:
        if dataset_id is not None:
            query = query.where(query.selected_columns[0] == dataset_id)
        found.update((row[0], row[1]) for row in connection.execute(query))
    return found
