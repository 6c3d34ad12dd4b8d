"""Lineage both ways: checkpoint -> dataset -> row -> memory -> trajectory or correction, and back.

A trajectory that a teacher wrote leads on to its seeds, to the memories that were shown and to the student
report that it answers; one whose model had heard tools of another run, to that run. What lies outside of the
ledger (exports, skills, signals) is handed in as links.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Literal, NamedTuple, get_args

import sqlalchemy as sa

from agentkd.errors import NotFoundError
from agentkd.ledger import tables as t
from agentkd.ledger.database import Database, chunks
from agentkd.ledger.taint import heard_pairs
from agentkd.schema import Value

__all__ = ["Lineage", "LineageGraph", "LineageNode", "Link", "NodeKind"]

NodeKind = Literal[
    "cycle", "evaluation", "export", "checkpoint", "signals", "dataset", "row", "skill", "memory",
    "correction", "trajectory", "report",
]  # fmt: skip


class LineageNode(Value):
    """One fact of a lineage."""

    kind: NodeKind
    """What it is."""
    id: str
    """Its id; a row has the id of its example."""


class Link(NamedTuple):
    """One thing that was made from another, as no table of the ledger says it."""

    made: LineageNode
    """What was made."""
    source: LineageNode
    """What it was made from."""


class LineageGraph(Value):
    """What a fact was made from, or what was made from it."""

    root: str
    """Id that was asked about."""
    kind: NodeKind
    """What the root is."""
    nodes: tuple[LineageNode, ...]
    """All nodes by kind and id, the root included."""
    edges: tuple[tuple[str, str], ...]
    """(made, made from) pairs, sorted."""

    def counts(self) -> dict[str, int]:
        """Return the number of nodes by kind."""
        return dict(Counter(node.kind for node in self.nodes))

    def ids(self, kind: NodeKind) -> tuple[str, ...]:
        """Return the ids of one kind, sorted."""
        return tuple(node.id for node in self.nodes if node.kind == kind)


class _Edge(NamedTuple):
    """Where the ledger says that one thing was made from another."""

    made: NodeKind
    source: NodeKind
    made_column: sa.Column[str]
    source_column: sa.Column[str]


_NODES: dict[NodeKind, sa.Column[str]] = {
    "evaluation": t.evaluations.c.id,
    "checkpoint": t.checkpoints.c.name,
    "dataset": t.datasets.c.id,
    "row": t.dataset_rows.c.example_id,
    "memory": t.memories.c.id,
    "correction": t.corrections.c.id,
    "trajectory": t.trajectories.c.id,
    "report": t.student_reports.c.id,
}

_EDGES = (
    _Edge("evaluation", "checkpoint", t.evaluations.c.id, t.evaluations.c.checkpoint),
    _Edge("checkpoint", "checkpoint", t.checkpoints.c.name, t.checkpoints.c.parent),
    _Edge("checkpoint", "dataset", t.checkpoints.c.name, t.checkpoints.c.dataset_id),
    _Edge("dataset", "row", t.dataset_rows.c.dataset_id, t.dataset_rows.c.example_id),
    _Edge("row", "memory", t.row_memories.c.source, t.row_memories.c.target),
    _Edge("row", "trajectory", t.row_trajectories.c.source, t.row_trajectories.c.target),
    _Edge("row", "correction", t.row_corrections.c.source, t.row_corrections.c.target),
    _Edge("memory", "memory", t.memory_parents.c.source, t.memory_parents.c.target),
    _Edge("memory", "trajectory", t.memory_trajectories.c.source, t.memory_trajectories.c.target),
    _Edge("memory", "correction", t.memory_corrections.c.source, t.memory_corrections.c.target),
    _Edge("correction", "trajectory", t.corrections.c.id, t.corrections.c.trajectory_id),
    _Edge("trajectory", "trajectory", t.synthetic_seeds.c.source, t.synthetic_seeds.c.target),
    _Edge("trajectory", "memory", t.synthetic_memories.c.source, t.synthetic_memories.c.target),
    _Edge("trajectory", "report", t.synthetic_reports.c.source, t.synthetic_reports.c.target),
)


class Lineage:
    """Nothing that is learnt is beyond recall: follow any id to its sources or to what came of it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def kind_of(self, id_: str) -> NodeKind:
        """Say what an id names; raises NotFoundError."""
        with self._database.read() as connection:
            return _kind_of(connection, id_)

    def down(self, id_: str, outside: Iterable[Link] = (), at: datetime | None = None) -> LineageGraph:
        """Return all that this was made from: of a checkpoint its rows, memories and trajectories.

        `at` leaves out what memories came to rest on after that time, by merges and new evidence.
        """
        return self._walk(id_, outside, at, down=True)

    def up(self, id_: str, outside: Iterable[Link] = ()) -> LineageGraph:
        """Return all that was made from this: of a trajectory its memories, rows and checkpoints."""
        return self._walk(id_, outside, None, down=False)

    def counts(self, id_: str, at: datetime | None = None) -> dict[str, int]:
        """Return how many facts of each kind this was made from, itself included."""
        return self.down(id_, at=at).counts()

    def _walk(self, id_: str, outside: Iterable[Link], at: datetime | None, *, down: bool) -> LineageGraph:
        edges: set[tuple[str, str]] = set()
        links: dict[LineageNode, list[LineageNode]] = {}
        beyond: set[LineageNode] = set()
        for made, source in outside:
            beyond |= {made, source}
            here, there = (made, source) if down else (source, made)
            links.setdefault(here, []).append(there)
        with self._database.read() as connection:
            for pair in heard_pairs(connection):
                hearer, heard = (LineageNode(kind="trajectory", id=one) for one in pair)
                links.setdefault(hearer if down else heard, []).append(heard if down else hearer)
            kind = _kind_of(connection, id_, beyond)
            later = _later_edges(connection, at) if at is not None else frozenset()
            seen: dict[NodeKind, set[str]] = {name: set() for name in get_args(NodeKind)}
            front: dict[NodeKind, set[str]] = {kind: {id_}}
            while front:
                for name, ids in front.items():
                    seen[name] |= ids
                front = _step(connection, front, seen, edges, links, later, down=down)
        nodes = sorted((LineageNode(kind=k, id=i) for k, ids in seen.items() for i in ids), key=_order)
        return LineageGraph(root=id_, kind=kind, nodes=tuple(nodes), edges=tuple(sorted(edges)))


def _order(node: LineageNode) -> tuple[int, str]:
    return get_args(NodeKind).index(node.kind), node.id


def _kind_of(connection: sa.Connection, id_: str, outside: Iterable[LineageNode] = ()) -> NodeKind:
    for node in outside:
        if node.id == id_:
            return node.kind
    for kind, column in _NODES.items():
        if connection.execute(sa.select(column).where(column == id_).limit(1)).first() is not None:
            return kind
    raise NotFoundError(
        f"the ledger knows no `{id_}`", hint="give the id of a checkpoint, dataset, row, memory or trajectory"
    )


def _step(
    connection: sa.Connection,
    front: dict[NodeKind, set[str]],
    seen: dict[NodeKind, set[str]],
    edges: set[tuple[str, str]],
    links: Mapping[LineageNode, Sequence[LineageNode]],
    later: AbstractSet[tuple[str, str]],
    *,
    down: bool,
) -> dict[NodeKind, set[str]]:
    """Follow every edge that leaves the front; add to `edges` and return the nodes not seen before."""
    beyond: dict[NodeKind, set[str]] = {}
    for kind, ids in front.items() if links else ():
        for id_ in ids:
            for node in links.get(LineageNode(kind=kind, id=id_), ()):
                edges.add((id_, node.id) if down else (node.id, id_))
                if node.id not in seen[node.kind]:
                    beyond.setdefault(node.kind, set()).add(node.id)
    for edge in _EDGES:
        here, there = (edge.made, edge.source) if down else (edge.source, edge.made)
        pairs = _pairs(connection, edge, front.get(here, ()), down=down) - later
        edges |= pairs
        new = {source if down else made for made, source in pairs} - seen[there]
        if new:
            beyond.setdefault(there, set()).update(new)
    return beyond


def _later_edges(connection: sa.Connection, at: datetime) -> AbstractSet[tuple[str, str]]:
    """Return the (memory, made from) pairs that came to memories after a time, as their events tell."""
    e = t.memory_events.c
    found: set[tuple[str, str]] = set()
    query = sa.select(e.memory_id, e.details).where(e.happened_at > at, e.details != "")
    for memory_id, details in connection.execute(query):
        told = json.loads(details)
        evidence = told.get("evidence", {})
        sources = [
            *told.get("parents", ()),
            *evidence.get("trajectories", ()),
            *evidence.get("corrections", ()),
        ]
        found.update((memory_id, source) for source in sources)
    return found


def _pairs(connection: sa.Connection, edge: _Edge, ids: Iterable[str], *, down: bool) -> set[tuple[str, str]]:
    """Return the (made, made from) pairs of one kind of edge that touch these ids."""
    key = edge.made_column if down else edge.source_column
    found: set[tuple[str, str]] = set()
    for batch in chunks(ids):
        query = sa.select(edge.made_column, edge.source_column).where(
            key.in_(batch), edge.made_column.is_not(None), edge.source_column.is_not(None)
        )
        found.update((made, source) for made, source in connection.execute(query.distinct()))
    return found
