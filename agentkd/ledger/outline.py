"""Outlines of memories: what a search index holds of one, read without building the whole value."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

import sqlalchemy as sa

from agentkd.errors import StoreError
from agentkd.ledger import tables as t
from agentkd.ledger.database import Database, chunks
from agentkd.schema import MemoryKeys, Scope

__all__ = ["Outline", "Outlines"]

_FIELDS = tuple(Scope.model_fields)


class Outline(NamedTuple):
    """What a memory is found by. Reading one costs a tenth of reading the memory."""

    id: str
    """Id of the memory."""
    scope: Scope
    """Whose memory it is."""
    keys: MemoryKeys
    """Texts that are embedded."""
    when_to_use: str
    """The situation in which it helps."""
    content: str
    """What to do."""


class Outlines:
    """Reads outlines in bulk; nothing is written here."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get_many(self, ids: Iterable[str]) -> list[Outline]:
        """Return outlines in the order of the ids; unknown ids are left out."""
        c = t.memories.c
        columns = [c.id, c.body, *(c[name] for name in _FIELDS)]
        order = {id_: at for at, id_ in enumerate(dict.fromkeys(ids))}
        found: list[Outline] = []
        scopes: dict[tuple[str, ...], Scope] = {}
        with self._database.read() as connection:
            for batch in chunks(order):
                for id_, body, *names in connection.execute(sa.select(*columns).where(c.id.in_(batch))):
                    place = tuple(names)
                    if place not in scopes:
                        scopes[place] = Scope(**dict(zip(_FIELDS, place, strict=True)))
                    found.append(_outline(id_, scopes[place], body))
        return sorted(found, key=lambda outline: order[outline.id])


def _outline(id_: str, scope: Scope, body: str) -> Outline:
    try:
        data = json.loads(body)
        keys = MemoryKeys.model_construct(**data.get("keys", {}))
        return Outline(id_, scope, keys, data["when_to_use"], data["content"])
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(
            f"the stored memory `{id_}` cannot be read: {error!r}",
            hint="the ledger is damaged or was written by a newer agentkd: `agentkd doctor` checks it",
        ) from error
