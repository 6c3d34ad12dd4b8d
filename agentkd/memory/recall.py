"""Find the memories that help in a state: by several keys, within the asker's scope, or not at all.

The index proposes, the ledger decides: only memories that are current, that the asker's scope sees
and whose status for the serving checkpoint allows it are returned, whatever the index holds.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from agentkd.errors import ConfigError
from agentkd.memory.projection import EMBEDDED, INDEXED
from agentkd.memory.scope import sees, visible_partitions
from agentkd.protocols import Embedder, Index
from agentkd.schema import Hit, MemoryStatus, Scope

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agentkd.ledger import Ledger

__all__ = ["RECALLED", "Search"]

RECALLED: tuple[MemoryStatus, ...] = ("active", "compiled")
"""Statuses that are recalled unless asked otherwise: a compiled memory stays until it is retired."""

_KEYS = len(EMBEDDED)  # a memory is in the index up to this many times
_WIDER = 8  # growth of a search that found too few allowed memories

Best = dict[str, tuple[float, str]]  # memory id -> (score, key) of its best key


class Search:
    """Multi-key search over the partitions that an asker sees."""

    def __init__(self, ledger: Ledger, index: Index, embedder: Embedder) -> None:
        self._memories = ledger.memories
        self._index = index
        self._embedder = embedder
        self._statuses: dict[str, tuple[int, Mapping[str, MemoryStatus]]] = {}
        self._lock = threading.Lock()

    def find(
        self,
        states: Sequence[str],
        k: int,
        *,
        min_score: float,
        scope: Scope,
        checkpoint: str,
        exclude: Sequence[Collection[str]],
        also: Collection[MemoryStatus],
        seq: int,
    ) -> list[list[Hit]]:
        """Return at most `k` hits per state, best first.

        `seq` is the ledger's newest event: statuses read before it are read again.
        """
        allowed = self._allowed(checkpoint, also, seq)
        if not states or k < 1 or not allowed:
            return [[] for _ in states]
        vectors = self._embedder.embed(states)
        best = self._nearest(vectors, k, min_score, visible_partitions(scope), allowed, exclude)
        ids = dict.fromkeys(id_ for found in best for id_ in found)
        memories = {memory.id: memory for memory in self._memories.get_many(ids, checkpoint)}
        return [
            [
                Hit(memory=memories[id_], score=score, key=key)
                for id_, (score, key) in found.items()
                if id_ in memories and sees(scope, memories[id_].scope)
            ]
            for found in best
        ]

    def _allowed(self, checkpoint: str, also: Collection[MemoryStatus], seq: int) -> set[str]:
        unknown = set(also) - set(INDEXED)
        if unknown:
            raise ConfigError(
                f"memories of status `{sorted(unknown)[0]}` are never recalled",
                hint=f"`also` takes {', '.join(INDEXED)}",
            )
        wanted = {*RECALLED, *also}
        base = self._status("base", seq)
        own = base if checkpoint == "base" else self._status(checkpoint, seq)
        return {id_ for id_, status in own.items() if status in wanted and base.get(id_) in INDEXED}

    def _status(self, checkpoint: str, seq: int) -> Mapping[str, MemoryStatus]:
        with self._lock:
            read_at, status = self._statuses.get(checkpoint, (-1, {}))
            if read_at != seq:
                status = self._memories.status_for(checkpoint)
                self._statuses[checkpoint] = (seq, status)
            return status

    def _nearest(
        self,
        vectors: NDArray[np.float32],
        k: int,
        min_score: float,
        partitions: Sequence[str],
        allowed: Collection[str],
        exclude: Sequence[Collection[str]],
    ) -> list[Best]:
        """Search ever wider until the `k` best allowed memories of each state are certain."""
        found: list[Best] = [{} for _ in vectors]
        pending = list(range(len(vectors)))
        size = _KEYS * (k + max((len(ids) for ids in exclude), default=0))
        while pending:
            merged: list[Best] = [{} for _ in pending]
            unseen = [-2.0] * len(pending)  # no vector that was not returned is more similar than this
            for partition in partitions:
                for at, hits in enumerate(self._index.query(vectors[pending], size, partition)):
                    for hit in hits:
                        score = round(hit.score, 6)  # the rest is noise, and would order equals at random
                        if score > merged[at].get(hit.memory_id, (-2.0, ""))[0]:
                            merged[at][hit.memory_id] = (score, hit.key)
                    if len(hits) >= size:
                        unseen[at] = max(unseen[at], round(hits[-1].score, 6))
            wider = []
            for at, state in enumerate(pending):
                found[state] = _top(merged[at], k, min_score, allowed, exclude[state])
                if unseen[at] >= min_score and _is_uncertain(found[state], k, unseen[at]):
                    wider.append(state)
            pending, size = wider, size * _WIDER
        return found


def _top(merged: Best, k: int, min_score: float, allowed: Collection[str], exclude: Collection[str]) -> Best:
    fit = [
        (score, id_, key)
        for id_, (score, key) in merged.items()
        if score >= min_score and id_ in allowed and id_ not in exclude
    ]
    fit.sort(key=lambda hit: (-hit[0], hit[1]))
    return {id_: (score, key) for score, id_, key in fit[:k]}


def _is_uncertain(best: Best, k: int, unseen: float) -> bool:
    return len(best) < k or min(score for score, _ in best.values()) <= unseen


def excluded(states: Sequence[str], exclude: Iterable[Iterable[str]] | None) -> list[frozenset[str]]:
    """Return one set of excluded ids per state; raises ConfigError where the numbers differ."""
    sets = [frozenset(ids) for ids in exclude] if exclude is not None else [frozenset()] * len(states)
    if len(sets) != len(states):
        raise ConfigError(f"{len(sets)} sets of excluded ids for {len(states)} states")
    return sets
