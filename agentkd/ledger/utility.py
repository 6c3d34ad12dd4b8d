"""How recalls and outcomes count: once per task for a memory, and once for all that says the same.

The parts of a merge, however deep, count for the union too, where a task recalled one of them alone: what a
union says was never withheld from a task that found two, so that such tasks have nothing to be compared with.
A union that was taken apart counts for its parts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import sqlalchemy as sa

from agentkd.ledger import event, query
from agentkd.ledger import tables as t
from agentkd.ledger.database import chunks
from agentkd.ledger.event import is_merge
from agentkd.ledger.trust import SEEN
from agentkd.schema import Use

__all__ = [
    "NOTHING",
    "Counts",
    "Seen",
    "add",
    "difference",
    "holders",
    "overlap",
    "seen",
    "together",
    "total",
    "uses",
]

Counts = tuple[int, int, int, int]
"""Changes of `recalls`, `wins`, `held_out` and `held_out_wins`."""

NOTHING: Counts = (0, 0, 0, 0)


class Seen(NamedTuple):
    """What a task saw of a memory, or of several that say the same."""

    withheld: bool
    """Whether all of it was kept out of every prompt."""
    win: bool | None
    """Whether the task was done; None while ungraded."""
    arm: str | None
    """What the task saw of all that was recalled; None outside a trial."""
    n: int = 1
    """Memories that say it."""

    @property
    def now(self) -> Counts:
        """What the task adds as it ended."""
        return self.counts(self.win)

    def counts(self, win: bool | None) -> Counts:
        """Return what the task adds where it ends so.

        Like is compared with like: a memory counts as seen where nothing was withheld, and as withheld where
        it alone was. On trials, the memories beside it do not count, nor does any where all were withheld.
        """
        is_compared = self.n == 1 and self.arm != "withheld" and (self.arm != "one" or self.withheld)
        if win is None or not is_compared:
            return NOTHING
        return (0, 0, 1, int(win)) if self.withheld else (1, int(win), 0, 0)


def seen(connection: sa.Connection, *where: sa.ColumnElement[bool]) -> dict[str, dict[str, Seen]]:
    """Return what tasks saw of memories: by trajectory, by memory."""
    c = t.recalls.c
    query = (
        sa.select(
            c.trajectory_id,
            c.memory_id,
            sa.func.min(sa.case((c.withheld, 1), else_=0)),
            sa.func.max(sa.case((c.win.is_(None), sa.null()), (c.win, 1), else_=0)),
            sa.func.max(t.trials.c.arm),
        )
        .outerjoin_from(t.recalls, t.trials, t.trials.c.trajectory_id == c.trajectory_id)
        .where(*where)
        .group_by(c.trajectory_id, c.memory_id)
    )
    found: dict[str, dict[str, Seen]] = {}
    for trajectory_id, memory_id, withheld, win, arm in connection.execute(query):
        of_task = found.setdefault(trajectory_id, {})
        of_task[memory_id] = Seen(bool(withheld), None if win is None else bool(win), arm)
    return found


def together(saw: Iterable[Seen]) -> Seen:
    """Return what a task saw of several memories that say the same: it saw that where it saw one of them."""
    first, *others = saw
    return first._replace(withheld=all(s.withheld for s in (first, *others)), n=1 + len(others))


def holders(connection: sa.Connection, ids: Iterable[str]) -> dict[str, set[str]]:
    """Return the memories that count what some recalled ones did: themselves and every union above them.

    Each comes with those of `ids` that count for it. A new version counts anew.
    """
    found = {id_: {id_} for id_ in ids}
    front = {(id_, id_) for id_ in found}  # (memory, what stands for it)
    for union, parts in _taken_apart(connection, t.memory_parents.c.source, found).items():
        for part in parts:
            found.setdefault(part, set()).add(union)
            front.add((union, part))
    while front:
        above = _unions_of(connection, {id_ for _, id_ in front})
        front = {(memory, above[id_]) for memory, id_ in front if id_ in above}
        for memory, union in front:
            found.setdefault(union, set()).add(memory)
    return found


def overlap(connection: sa.Connection, ids: Collection[str]) -> Counts:
    """Return what memories count that their union does not: tasks that recalled several of them."""
    families = {id_: _family(connection, id_) for id_ in ids}
    members = set[str]().union(*families.values())
    tasks: dict[str, dict[str, Seen]] = {}
    for batch in chunks(members):
        for trajectory_id, saw in seen(connection, t.recalls.c.memory_id.in_(batch)).items():
            tasks.setdefault(trajectory_id, {}).update(saw)
    more = NOTHING
    for saw in tasks.values():
        shares = [[saw[id_] for id_ in family if id_ in saw] for family in families.values()]
        each = total(together(share).now for share in shares if share)
        more = total((more, difference(each, together(saw.values()).now)))
    return more


def uses(connection: sa.Connection, ids: Iterable[str]) -> dict[str, list[Use]]:
    """Return the graded tasks that count for memories, with what else each of them was shown."""
    families = {id_: _family(connection, id_) for id_ in ids}
    recalled: set[str] = set()
    for batch in chunks({member for family in families.values() for member in family}):
        c = t.recalls.c
        recalled |= {*connection.scalars(sa.select(c.trajectory_id).where(c.memory_id.in_(batch)))}
    tasks: dict[str, dict[str, Seen]] = {}
    for batch in chunks(recalled):
        tasks |= seen(connection, t.recalls.c.trajectory_id.in_(batch))
    now = _stands_for(connection, {id_ for told in tasks.values() for id_ in told})
    present = _recallable(connection, {*now.values()})
    counts_for: dict[str, list[str]] = {}
    for id_, family in families.items():
        for member in family:
            counts_for.setdefault(member, []).append(id_)
    found: dict[str, list[Use]] = {id_: [] for id_ in families}
    for told in tasks.values():
        for id_ in {id_ for member in told for id_ in counts_for.get(member, ())}:
            family = families[id_]
            saw = together(told[member] for member in family & told.keys())
            if saw.now != NOTHING:
                others = {now[other] for other in told.keys() - family if not told[other].withheld}
                beside = frozenset(others - {id_})
                is_past = not beside <= present
                use = Use(withheld=saw.withheld, win=bool(saw.win), beside=beside, is_past=is_past)
                found[id_].append(use)
    return found


def _recallable(connection: sa.Connection, ids: Iterable[str]) -> set[str]:
    """Return which memories may still be recalled, values of a store and counter-memories among them."""
    m, found = t.memories.c, set[str]()
    for batch in chunks(ids):
        statuses = query.statuses(connection, "base", m.current.is_(True), m.id.in_(batch))
        found |= {id_ for id_, status in statuses.items() if status in SEEN}
    return found


def _stands_for(connection: sa.Connection, ids: Iterable[str]) -> dict[str, str]:
    """Return what stands for memories by now: the uppermost union over each, or itself."""
    found = {id_: id_ for id_ in ids}
    while above := _unions_of(connection, {*found.values()}):
        found = {id_: above.get(now, now) for id_, now in found.items()}
    return found


def add(connection: sa.Connection, changes: Mapping[str, Counts]) -> None:
    """Move the counters of memories."""
    m = t.memories.c
    groups: dict[Counts, list[str]] = {}
    for id_, delta in changes.items():
        groups.setdefault(delta, []).append(id_)
    for delta, ids in groups.items():
        numbers = zip((m.recalls, m.wins, m.held_out, m.held_out_wins), delta, strict=True)
        values = {column.name: column + number for column, number in numbers}
        for batch in chunks(ids):
            connection.execute(t.memories.update().where(m.id.in_(batch)).values(values))


def total(counts: Iterable[Counts]) -> Counts:
    """Return the sum of some counts."""
    a, b, c, d = (sum(column) for column in zip(NOTHING, *counts, strict=True))
    return a, b, c, d


def difference(after: Counts, before: Counts) -> Counts:
    """Return what has been added."""
    a, b, c, d = (one - other for one, other in zip(after, before, strict=True))
    return a, b, c, d


def _family(connection: sa.Connection, memory_id: str) -> set[str]:
    """Return a memory with all that is a part of it by now, however deep."""
    m, link = t.memories.c, t.memory_parents.c
    found = front = {memory_id}
    while front:
        apart = _taken_apart(connection, t.memory_parents.c.target, front)
        found = found | apart.keys()
        below: set[str] = set()
        for batch in chunks(front):
            query = sa.select(m.id).join(t.memory_parents, link.target == m.id)
            below |= {*connection.scalars(query.where(link.source.in_(batch), m.successor == link.source))}
        front = {*_unions_of(connection, below)} - found
        found = found | front
    return found


def _unions_of(connection: sa.Connection, ids: Iterable[str]) -> dict[str, str]:
    """Return which union took the place of each memory that is a part of one by now."""
    m, e = t.memories.c, t.memory_events.c
    after: dict[str, str] = {}
    for batch in chunks(ids):
        rows = connection.execute(sa.select(m.id, m.current, m.successor).where(m.id.in_(batch)))
        after |= {id_: successor for id_, current, successor in rows if successor and not current}
    closed = {id_: event.find(connection, e.memory_id == id_, e.kind == "superseded") for id_ in after}
    return {id_: union for id_, union in after.items() if closed[id_] and is_merge(closed[id_][-1], union)}


def _taken_apart(connection: sa.Connection, end: sa.Column[str], ids: Iterable[str]) -> dict[str, list[str]]:
    """Return the unions that an undo took apart, with their parts; `ids` are those of one or the other."""
    m, link = t.memories.c, t.memory_parents.c
    found: dict[str, list[str]] = {}
    for batch in chunks(ids):
        query = sa.select(link.source, link.target).join(t.memories, m.id == link.source)
        query = query.where(end.in_(batch), ~m.current, m.successor.is_(None))
        for union, part in connection.execute(query):
            found.setdefault(union, []).append(part)
    return found
