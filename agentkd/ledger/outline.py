"""Outlines of memories: what a search index holds of one, read without building the whole value."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

from agentkd.errors import StoreError
from agentkd.ledger.body import parse
from agentkd.ledger.database import Database, chunks
from agentkd.ledger.recent import Parsed
from agentkd.schema import Memory, MemoryKeys, MemoryStatus, Scope

__all__ = ["Outline", "Outlines"]

_FIELDS = tuple(Scope.model_fields)
_SELECT = f"""
SELECT m.id, m.body, m.status, m.current, {", ".join(f'm."{name}"' for name in _FIELDS)}
FROM memories m
WHERE m.id IN """


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
        self._parsed = Parsed[Outline]()  # the index of words reads what that of vectors has read

    def written(self, memory: Memory, body: str) -> None:
        """Say what a body holds that is being written, so that nobody who follows has to parse it."""
        outline = Outline(memory.id, memory.scope, memory.keys, memory.when_to_use, memory.content)
        self._parsed.put(memory.id, body, outline)

    def get_many(self, ids: Iterable[str]) -> list[tuple[Outline, MemoryStatus, bool]]:
        """Return outlines with the status for the base and whether the version is the current one.

        They come in the order of the ids; unknown ids are left out.
        """
        order = {id_: at for at, id_ in enumerate(dict.fromkeys(ids))}
        found: list[tuple[Outline, MemoryStatus, bool]] = []
        scopes: dict[tuple[str, ...], Scope] = {}
        for batch in chunks(order):
            rows = self._database.glance(f"{_SELECT}({', '.join('?' * len(batch))})", *batch)
            for id_, body, status, current, *names in rows:
                place = tuple(names)
                if place not in scopes:
                    scopes[place] = Scope(**dict(zip(_FIELDS, place, strict=True)))
                outline = self._parsed.get(id_, body, partial(_outline, id_, scopes[place]))
                found.append((outline, status, bool(current)))
        return sorted(found, key=lambda item: order[item[0].id])


def _outline(id_: str, scope: Scope, body: str) -> Outline:
    try:
        data = parse(body)
        keys = MemoryKeys.model_validate(data.get("keys", {}))
        return Outline(id_, scope, keys, data["when_to_use"], data["content"])
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(
            f"the stored memory `{id_}` cannot be read: {error!r}",
            hint="the ledger is damaged or was written by a newer agentkd: `agentkd doctor` checks it",
        ) from error
