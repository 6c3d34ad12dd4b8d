"""Items of a LangGraph store: a key in a namespace names the memory that is its present value.

The value lives in the memory alone (`extras`), so that history, revocation and recall see what the
store sees. Namespaces and keys are stored as ASCII JSON and are only ever compared whole or by their
first labels; a space separates stores that must not see each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from agentkd.errors import StoreError
from agentkd.ledger import tables as t
from agentkd.ledger.body import dump, parse
from agentkd.ledger.database import Database, chunks, upsert
from agentkd.ledger.memory import Memories
from agentkd.ledger.redact import Redact, redact_json
from agentkd.schema import Memory, Value

__all__ = ["ITEM_ORIGIN", "Items", "StoredItem"]

ITEM_ORIGIN = "store"
"""Origin of the memories that are items: their key alone decides what supersedes them."""

Namespace = tuple[str, ...]
_GONE = ("revoked", "tombstone")
_SAID = ("value", "index")


class StoredItem(Value):
    """The present value of a key."""

    namespace: Namespace
    """Labels, from the root."""
    key: str
    """Name within the namespace."""
    memory_id: str
    """Memory that holds the value."""
    status: str
    """Status of that memory for the base model."""
    extras: dict[str, Any]
    """What the memory holds: `value`, and how it is searched."""
    created_at: datetime
    """When the key was first put (UTC)."""
    updated_at: datetime
    """When it was last put (UTC)."""
    ttl_minutes: float | None = None
    """Minutes that it lives after its last use; None for ever."""


class Items:
    """Which memory each key of a store holds; a revoked, deleted or expired one is not there."""

    def __init__(self, database: Database, memories: Memories, redact: Redact) -> None:
        self._database = database
        self._memories = memories
        self._redact = redact

    def get(self, space: str, namespace: Namespace, key: str, now: datetime) -> StoredItem | None:
        """Return an item; None where it is absent or has expired."""
        found = self._find(_at(space, namespace, key), now)
        return found[0] if found else None

    def under(
        self,
        space: str,
        prefix: Namespace,
        now: datetime,
        *,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[StoredItem]:
        """Return the items of a namespace and those below it, last put first."""
        return self._find(_below(space, prefix), now, limit=limit, offset=offset)

    def ids_under(self, space: str, prefix: Namespace, now: datetime) -> list[str]:
        """Return the ids of those items' memories, last put first."""
        c = t.store_items.c
        query = sa.select(c.memory_id).select_from(_JOINED).where(_below(space, prefix), _live(now))
        with self._database.read() as connection:
            return list(connection.execute(query.order_by(c.number.desc())).scalars())

    def holding(self, space: str, memory_ids: Iterable[str], now: datetime) -> list[StoredItem]:
        """Return the items whose values these memories are, in the order of the ids."""
        c, order = t.store_items.c, {id_: at for at, id_ in enumerate(memory_ids)}
        found: list[StoredItem] = []
        for batch in chunks(order):
            found += self._find(sa.and_(c.space == space, c.memory_id.in_(batch)), now)
        return sorted(found, key=lambda item: order[item.memory_id])

    def namespaces(self, space: str, now: datetime) -> list[Namespace]:
        """Return the namespaces that hold an item, sorted label by label."""
        c = t.store_items.c
        query = sa.select(c.namespace).distinct().select_from(_JOINED).where(c.space == space, _live(now))
        with self._database.read() as connection:
            return sorted(_labels(text) for text in connection.execute(query).scalars())

    def put(
        self,
        space: str,
        namespace: Namespace,
        key: str,
        memory: Memory,
        now: datetime,
        ttl_minutes: float | None = None,
        expires_at: datetime | None = None,
    ) -> None:
        """Make a memory the value of a key, as the next version of the one that it held.

        A memory that says what the key holds already is not stored again.
        Raises StoreError where the memory is not taken in.
        """
        c = t.store_items.c
        with self._database.write() as connection:
            self.drop_expired(now, space)
            before = self._find(_at(space, namespace, key), now)
            if before and self._says(before[0], memory):
                memory_id = before[0].memory_id
            else:
                memory_id = self._keep(connection, before[0].memory_id if before else "", memory)
            last = connection.execute(sa.select(sa.func.max(c.number)).where(c.space == space)).scalar_one()
            row = {
                "space": space,
                "namespace": _text(namespace),
                "name": json.dumps(key),
                "memory_id": memory_id,
                "number": (last or 0) + 1,
                "ttl_minutes": ttl_minutes,
                "expires_at": expires_at or _expiry(now, ttl_minutes),
                "created_at": before[0].created_at if before else now,
                "updated_at": now,
            }
            upsert(connection, t.store_items, row)

    def drop(
        self, space: str, namespace: Namespace, key: str, reason: str = "deleted from the store"
    ) -> bool:
        """Take a key away and lay its memory to rest; False where there is no such key.

        Its versions stay in the ledger's history.
        """
        return bool(self._drop(_at(space, namespace, key), reason))

    def drop_expired(self, now: datetime, space: str | None = None) -> int:
        """Take away what has expired, in one space or in all, and return the number."""
        c = t.store_items.c
        where = c.expires_at.is_not(None) & (c.expires_at <= now)
        where = where if space is None else where & (c.space == space)
        with self._database.read() as connection:
            if connection.execute(sa.select(c.name).where(where).limit(1)).first() is None:
                return 0
        return self._drop(where, "its time to live is over")

    def lives(self, memory_ids: Iterable[str]) -> dict[str, tuple[float, datetime]]:
        """Return, by memory, the minutes to live after a use and the moment when they are over (UTC).

        What lives for ever, and what is no item's value, is left out.
        """
        c = t.store_items.c
        found: dict[str, tuple[float, datetime]] = {}
        with self._database.read() as connection:
            for batch in chunks(dict.fromkeys(memory_ids)):
                where = c.memory_id.in_(batch) & c.ttl_minutes.is_not(None)
                for id_, ttl, until in connection.execute(
                    sa.select(c.memory_id, c.ttl_minutes, c.expires_at).where(where)
                ):
                    found[id_] = ttl, until
        return found

    def refresh(self, space: str, items: Sequence[StoredItem], now: datetime) -> None:
        """Let the time to live of these items begin anew."""
        lasting = [item for item in items if item.ttl_minutes is not None]
        if not lasting:
            return
        with self._database.write(lasting=False) as connection:
            for item in lasting:
                where = _at(space, item.namespace, item.key)
                values = {"expires_at": _expiry(now, item.ttl_minutes)}
                connection.execute(t.store_items.update().where(where).values(values))

    def _drop(self, where: sa.ColumnElement[bool], reason: str) -> int:
        c = t.store_items.c
        with self._database.write() as connection:
            ids = list(connection.execute(sa.select(c.memory_id).where(where)).scalars())
            connection.execute(t.store_items.delete().where(where))
            for memory_id in ids:
                if self._memories.get(memory_id).status not in _GONE:
                    self._memories.set_status(memory_id, "tombstone", reason)
        return len(ids)

    def _find(
        self, where: sa.ColumnElement[bool], now: datetime, *, limit: int | None = None, offset: int = 0
    ) -> list[StoredItem]:
        c = t.store_items.c
        query = (
            sa.select(c.namespace, c.name, c.memory_id, c.created_at, c.updated_at, c.ttl_minutes)
            .add_columns(t.memories.c.body, t.memories.c.status)
            .select_from(_JOINED)
            .where(where, _live(now))
            .order_by(c.number.desc())
            .limit(limit)
            .offset(offset or None)
        )
        with self._database.read() as connection:
            return [_item(row) for row in connection.execute(query).mappings()]

    def _says(self, item: StoredItem, memory: Memory) -> bool:
        """Whether an item holds what a memory says; where the value came from makes no difference."""
        clean, _ = redact_json(memory.extras, self._redact)
        said, held = ({name: extras.get(name) for name in _SAID} for extras in (clean, item.extras))
        return item.status == "active" and dump(said) == dump(held)

    def _keep(self, connection: sa.Connection, held: str, memory: Memory) -> str:
        """Store a memory in the place of the one that its key held; raises StoreError where it is refused."""
        m = t.memories.c
        is_current = held and connection.execute(sa.select(m.current).where(m.id == held)).scalar_one()
        answer = self._memories.supersede(held, memory) if is_current else self._memories.admit([memory])[0]
        if answer.outcome == "rejected":
            raise StoreError(f"memory `{memory.id}` was not stored: {answer.reason}")
        return memory.id


_JOINED = t.store_items.join(t.memories, t.memories.c.id == t.store_items.c.memory_id)


def _at(space: str, namespace: Namespace, key: str) -> sa.ColumnElement[bool]:
    c = t.store_items.c
    return sa.and_(c.space == space, c.namespace == _text(namespace), c.name == json.dumps(key))


def _below(space: str, prefix: Namespace) -> sa.ColumnElement[bool]:
    """Match a namespace and everything below it, label by label: no wildcard ever reads a label."""
    c = t.store_items.c
    if not prefix:
        return c.space == space
    head = _text(prefix)[:-1] + ","
    return sa.and_(
        c.space == space,
        sa.or_(c.namespace == _text(prefix), sa.func.substr(c.namespace, 1, len(head)) == head),
    )


def _live(now: datetime) -> sa.ColumnElement[bool]:
    expires_at = t.store_items.c.expires_at
    return sa.and_(t.memories.c.status.not_in(_GONE), sa.or_(expires_at.is_(None), expires_at > now))


def _text(namespace: Namespace) -> str:
    return json.dumps(list(namespace), separators=(",", ":"))


def _labels(text: str) -> Namespace:
    return tuple(json.loads(text))


def _expiry(now: datetime, ttl_minutes: float | None) -> datetime | None:
    return None if ttl_minutes is None else now + timedelta(minutes=ttl_minutes)


def _item(row: sa.RowMapping) -> StoredItem:
    return StoredItem(
        namespace=_labels(row["namespace"]),
        key=json.loads(row["name"]),
        memory_id=row["memory_id"],
        status=row["status"],
        extras=parse(row["body"]).get("extras", {}),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        ttl_minutes=row["ttl_minutes"],
    )
