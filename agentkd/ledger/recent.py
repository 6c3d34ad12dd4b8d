"""Memories read lately: built from their row again only where the row says something else.

Every reading asks the database, so nothing that is returned can be out of date, whoever wrote it; what is
spared is parsing and checking a value that has not changed since.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from agentkd.ledger.body import load
from agentkd.ledger.database import Database
from agentkd.schema import Memory, Utility

__all__ = ["Parsed", "Recent"]

S = TypeVar("S")
V = TypeVar("V")

_MOST = 4096  # values kept; the oldest reading leaves first
_COUNTERS = tuple(Utility.model_fields)
_SELECT = f"""
SELECT m.id, m.status, own.status, m.support, m.version, m.parent,
       {", ".join(f"m.{name}" for name in _COUNTERS)}, m.body
FROM memories m
LEFT JOIN memory_status own ON own.memory_id = m.id AND own.checkpoint = ?
WHERE m.id IN """


class Parsed(Generic[V]):
    """Values by id, built again only where what they are built from says something else; safe for threads."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[object, V]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, id_: str, source: S, build: Callable[[S], V]) -> V:
        """Return what `build` makes of the source, or made of an equal one."""
        known = self._known.get(id_)
        if known is None or known[0] != source:
            known = source, build(source)
            with self._lock:
                self._known[id_] = known
                self._trim()
        return known[1]

    def put(self, id_: str, source: object, value: V) -> None:
        """Say what a source makes that was just written."""
        with self._lock:
            self._known[id_] = source, value
            self._trim()

    def _trim(self) -> None:
        while len(self._known) > _MOST:
            self._known.popitem(last=False)  # a plain dict would search for its first one each time


class Recent:
    """Reads memories by id and keeps the newest ones parsed; safe for threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._parsed = Parsed[Memory]()

    def read(self, ids: Sequence[str], checkpoint: str) -> list[Memory]:
        """Return the memories of a few ids, in any order; unknown ids are left out."""
        if not ids:
            return []
        marks = ", ".join("?" * len(ids))
        rows = self._database.glance(f"{_SELECT}({marks})", checkpoint, *ids)
        return [_apart(self._parsed.get(row[0], row, _built)) for row in rows]


def _built(row: Sequence[Any]) -> Memory:
    _, base, own, support, version, parent, *counters, body = row
    return load(
        Memory,
        body,
        status="revoked" if base == "revoked" else own or base,
        support=support,
        version=version,
        parent=parent or "",
        utility=Utility(**dict(zip(_COUNTERS, counters, strict=True))),
    )


def _apart(memory: Memory) -> Memory:
    """Return a memory whose dictionaries are the caller's own: nothing that is done to them comes back."""
    if not memory.calls and not memory.extras:
        return memory
    calls = tuple(
        call.model_copy(update={"arguments": copy.deepcopy(call.arguments)}) for call in memory.calls
    )
    return memory.model_copy(update={"calls": calls, "extras": copy.deepcopy(memory.extras)})
