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
from typing import Any, Literal, NamedTuple, get_args

import sqlalchemy as sa

from agentkd.errors import NotFoundError
from agentkd.ledger import tables as t
from agentkd.ledger.database import CHUNK, Database, chunks
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


Key = tuple[str, ...]  # what a thing is found by: its id; of a row its dataset's id and its example's
Pair = tuple[Key, Key]  # (made, made from)


class _Edge(NamedTuple):
    """Where the ledger says that one thing was made from another."""

    made: NodeKind
    source: NodeKind
    made_columns: tuple[sa.Column[str], ...]
    source_columns: tuple[sa.Column[str], ...]


def _edge(made: NodeKind, source: NodeKind, made_column: Any, source_column: Any) -> _Edge:
    return _Edge(made, source, (made_column,), (source_column,))


def _row_edge(source: NodeKind, table: sa.Table) -> _Edge:
    """Return what a row was made from: a row that recurs in a later dataset may rest on more there."""
    return _Edge("row", source, (table.c.dataset_id, table.c.source), (table.c.target,))


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

_ROWS = t.dataset_rows.c

_EDGES = (
    _edge("evaluation", "checkpoint", t.evaluations.c.id, t.evaluations.c.checkpoint),
    _edge("checkpoint", "checkpoint", t.checkpoints.c.name, t.checkpoints.c.parent),
    _edge("checkpoint", "dataset", t.checkpoints.c.name, t.checkpoints.c.dataset_id),
    _Edge("dataset", "row", (_ROWS.dataset_id,), (_ROWS.dataset_id, _ROWS.example_id)),
    _row_edge("memory", t.row_memories),
    _row_edge("trajectory", t.row_trajectories),
    _row_edge("correction", t.row_corrections),
    _edge("memory", "memory", t.memory_parents.c.source, t.memory_parents.c.target),
    _edge("memory", "trajectory", t.memory_trajectories.c.source, t.memory_trajectories.c.target),
    _edge("memory", "correction", t.memory_corrections.c.source, t.memory_corrections.c.target),
    _edge("correction", "trajectory", t.corrections.c.id, t.corrections.c.trajectory_id),
    _edge("trajectory", "trajectory", t.synthetic_seeds.c.source, t.synthetic_seeds.c.target),
    _edge("trajectory", "memory", t.synthetic_memories.c.source, t.synthetic_memories.c.target),
    _edge("trajectory", "report", t.synthetic_reports.c.source, t.synthetic_reports.c.target),
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
        edges: set[Pair] = set()
        links, beyond = list(outside), set[LineageNode]()
        for link in links:
            beyond |= {link.made, link.source}
        with self._database.read() as connection:
            heard = heard_pairs(connection)
            links += [Link(*(LineageNode(kind="trajectory", id=one) for one in pair)) for pair in heard]
            kind = _kind_of(connection, id_, beyond)
            later = _later_edges(connection, at) if at is not None else frozenset()
            seen: dict[NodeKind, set[Key]] = {name: set() for name in get_args(NodeKind)}
            root: list[Key] = _copies(connection, [id_])[id_] if kind == "row" else [(id_,)]
            front = {kind: set(root)}
            steps = _linked(connection, links, down=down)
            while front:
                for name, keys in front.items():
                    seen[name] |= keys
                front = _step(connection, front, seen, edges, steps, later, down=down)
        found = {(name, key[-1]) for name, keys in seen.items() for key in keys}
        nodes = sorted((LineageNode(kind=name, id=one) for name, one in found), key=_order)
        printed = {(made[-1], source[-1]) for made, source in edges}
        return LineageGraph(root=id_, kind=kind, nodes=tuple(nodes), edges=tuple(sorted(printed)))


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


def _copies(connection: sa.Connection, examples: Iterable[str]) -> dict[str, list[Key]]:
    """Return the rows of all datasets by example; an example that no dataset holds is a row of none."""
    found: dict[str, list[Key]] = {}
    for batch in chunks(wanted := dict.fromkeys(examples)):
        query = sa.select(_ROWS.dataset_id, _ROWS.example_id).where(_ROWS.example_id.in_(batch))
        for dataset_id, example_id in connection.execute(query):
            found.setdefault(example_id, []).append((dataset_id, example_id))
    return {id_: found.get(id_, [("", id_)]) for id_ in wanted}


def _linked(
    connection: sa.Connection, links: Iterable[Link], *, down: bool
) -> dict[tuple[NodeKind, Key], list[tuple[NodeKind, Key]]]:
    """Return where links lead; one that names an example holds for the row of every dataset."""
    copies = _copies(connection, [node.id for link in links for node in link if node.kind == "row"])

    def keys(node: LineageNode) -> list[Key]:
        return copies[node.id] if node.kind == "row" else [(node.id,)]

    found: dict[tuple[NodeKind, Key], list[tuple[NodeKind, Key]]] = {}
    for made, source in dict.fromkeys(links):
        here, there = (made, source) if down else (source, made)
        for key in keys(here):
            found.setdefault((here.kind, key), []).extend((there.kind, other) for other in keys(there))
    return found


def _step(
    connection: sa.Connection,
    front: Mapping[NodeKind, set[Key]],
    seen: Mapping[NodeKind, set[Key]],
    edges: set[Pair],
    links: Mapping[tuple[NodeKind, Key], Sequence[tuple[NodeKind, Key]]],
    later: AbstractSet[Pair],
    *,
    down: bool,
) -> dict[NodeKind, set[Key]]:
    """Follow every edge that leaves the front; add to `edges` and return what was not seen before."""
    beyond: dict[NodeKind, set[Key]] = {}
    for kind, keys in front.items() if links else ():
        for key in keys:
            for there, other in links.get((kind, key), ()):
                edges.add((key, other) if down else (other, key))
                if other not in seen[there]:
                    beyond.setdefault(there, set()).add(other)
    for edge in _EDGES:
        here, there = (edge.made, edge.source) if down else (edge.source, edge.made)
        pairs = _pairs(connection, edge, front.get(here, ()), down=down) - later
        edges |= pairs
        new = {source if down else made for made, source in pairs} - seen[there]
        if new:
            beyond.setdefault(there, set()).update(new)
    return beyond


def _later_edges(connection: sa.Connection, at: datetime) -> AbstractSet[Pair]:
    """Return the (memory, made from) pairs that came to memories after a time, as their events tell."""
    e = t.memory_events.c
    found: set[Pair] = set()
    query = sa.select(e.memory_id, e.details).where(e.happened_at > at, e.details != "")
    for memory_id, details in connection.execute(query):
        told = json.loads(details)
        evidence = told.get("evidence", {})
        sources = [
            *told.get("parents", ()),
            *evidence.get("trajectories", ()),
            *evidence.get("corrections", ()),
        ]
        found.update(((memory_id,), (source,)) for source in sources)
    return found


def _pairs(connection: sa.Connection, edge: _Edge, keys: Iterable[Key], *, down: bool) -> set[Pair]:
    """Return the (made, made from) pairs of one kind of edge that touch these."""
    columns = (*edge.made_columns, *edge.source_columns)
    near, n = edge.made_columns if down else edge.source_columns, len(edge.made_columns)
    there = [column.is_not(None) for column in columns]
    found: set[Pair] = set()
    for batch in chunks(keys, CHUNK // len(near)):
        touched = sa.tuple_(*near).in_(batch) if len(near) > 1 else near[0].in_([key[0] for key in batch])
        for row in connection.execute(sa.select(*columns).where(touched, *there).distinct()):
            found.add((tuple(row[:n]), tuple(row[n:])))
    return found
