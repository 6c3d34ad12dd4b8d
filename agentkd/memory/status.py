"""Which memories may be recalled: the ledger's statuses, kept in step by its events.

All statuses are read once; from then on only those of memories that an event names. At a hundred
thousand memories the one costs 150 milliseconds, the other none.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Literal

from agentkd.errors import ConfigError
from agentkd.schema import MemoryStatus

if TYPE_CHECKING:
    from agentkd.ledger import Ledger

__all__ = ["INDEXED", "RECALLED", "Statuses"]

INDEXED: tuple[MemoryStatus, ...] = ("active", "compiled", "retired")
"""Base statuses whose memories the index holds: those that may be recalled for some checkpoint."""

RECALLED: tuple[MemoryStatus, ...] = ("active", "compiled")
"""Statuses that are recalled unless asked otherwise: a compiled memory stays until it is retired."""

_View = Literal["served", "before", "news"]
_Key = tuple[str, frozenset[str], _View]
"""A checkpoint, the statuses wanted there, and of which memories: those that are recalled, these and what is
retired there, or those of them that are new to its weights, or never go into weights."""
_MOST_CHANGED = 5_000  # memories whose statuses are read one by one


class Statuses:
    """Sets of ids that may be recalled, per serving checkpoint; safe for the threads of one process."""

    def __init__(self, ledger: Ledger) -> None:
        self._memories = ledger.memories
        self._statuses: dict[str, dict[str, MemoryStatus]] = {}
        self._allowed: dict[_Key, set[str]] = {}
        self._news: dict[str, set[str]] = {}
        self._seen = 0
        self._lock = threading.Lock()

    def allowed(self, checkpoint: str, also: Collection[MemoryStatus], seq: int) -> AbstractSet[str]:
        """Return the memories that a recall may return where `checkpoint` serves.

        Args:
            checkpoint: What serves.
            also: Statuses beyond `RECALLED`, out of `INDEXED`; raises ConfigError for others.
            seq: The ledger's newest event, which the answer has followed at the least.
        """
        unknown = set(also) - set(INDEXED)
        if unknown:
            raise ConfigError(
                f"memories of status `{sorted(unknown)[0]}` are never recalled",
                hint=f"`also` takes {', '.join(INDEXED)}",
            )
        return self._cached((checkpoint, frozenset({*RECALLED, *also}), "served"), seq)

    def before(self, checkpoint: str, also: Collection[MemoryStatus], seq: int) -> AbstractSet[str]:
        """Return what would be allowed if no memory that the base recalls were retired for `checkpoint`."""
        return self._cached((checkpoint, frozenset({*RECALLED, *also}), "before"), seq)

    def news(self, checkpoint: str, seq: int) -> AbstractSet[str]:
        """Return what is recalled there and is new to the weights of `checkpoint`, or is never taught."""
        return self._cached((checkpoint, frozenset({"active"}), "news"), seq)

    def _cached(self, key: _Key, seq: int) -> AbstractSet[str]:
        checkpoint = key[0]
        with self._lock:
            if seq > self._seen:
                self._follow()
            self._read("base")
            self._read(checkpoint)
            if key[2] == "news" and checkpoint not in self._news:
                news = self._memories.new_to(checkpoint)
                if news is None:
                    return frozenset()
                self._news[checkpoint] = news
            if key not in self._allowed:
                self._allowed[key] = {id_ for id_ in self._statuses[checkpoint] if self._fits(id_, *key)}
            return self._allowed[key]

    def _read(self, checkpoint: str) -> None:
        if checkpoint not in self._statuses:
            self._statuses[checkpoint] = dict(self._memories.status_for(checkpoint))

    def _follow(self) -> None:
        """Read the statuses of the memories that something happened to; newer ones than `seq` do no harm."""
        if not self._statuses:
            self._seen = self._memories.last_seq()
            return
        events = self._memories.changes(self._seen)
        changed = dict.fromkeys(event.memory_id for event in events)
        if len(changed) > _MOST_CHANGED:  # cheaper to read all of them anew
            self._statuses.clear()
            self._allowed.clear()
            self._news.clear()
        else:
            came = {e.memory_id for e in events if e.checkpoint == "base" and (e.status or e.current)}
            for known in self._news.values():
                known |= came
            self._update(changed)
        self._seen = events[-1].seq if events else self._seen

    def _update(self, ids: Iterable[str]) -> None:
        changed = list(ids)
        for checkpoint, known in self._statuses.items():
            now = self._memories.status_for(checkpoint, changed)
            for id_ in changed:
                if id_ in now:
                    known[id_] = now[id_]
                else:
                    known.pop(id_, None)  # a newer version took its place
        for key, allowed in self._allowed.items():  # in place: searches only ask what is in them
            for id_ in changed:
                (allowed.add if self._fits(id_, *key) else allowed.discard)(id_)

    def _fits(self, id_: str, checkpoint: str, wanted: frozenset[str], view: _View) -> bool:
        own, base = self._statuses[checkpoint].get(id_), self._statuses["base"].get(id_)
        if view == "news" and id_ not in self._news[checkpoint]:
            return False
        was_there = view == "before" and own == "retired" and base in RECALLED
        return base in INDEXED and (own in wanted or was_there)
